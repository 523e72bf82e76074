"""Pictures of your own, from a folder or an archive: decoded once, then kept as a memory map.

Subfolders are classes, `train` and `test` are splits, one folder around everything is looked
through. Whatever was chosen, left out or looks doubtful is said in a line of the log.
"""

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import shutil
import struct
import sys
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gencourse import archive
from gencourse.fetch import DataError, cache_folder, workplace

SPLITS = ("train", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
FEW, BATCH = 200, 64  # fewer are learnt by heart; the usual batch
FLAT = 3  # a picture with less than this standard deviation, of 255, looks like one colour

log = logging.getLogger(__name__)


def load(path, split, size, channels=3, levels=None):
    """The pictures in a folder or an archive; the arguments are those of `data.load`.

    Returns: (N, channels, size, size) uint8 in mapped memory, (N,) int64 labels, list of classes.
    Raises: DataError.
    """
    if channels not in (1, 3):
        raise DataError(f"A folder's pictures have 3 channels, or 1 for grey; not {channels!r}.")
    levels = _pair(levels)
    top = Path(path).expanduser().absolute()
    if not path or not (top.is_dir() or top.is_file()):
        raise DataError(f"There is no folder {path!r}, nor an archive (looked for {top}).")
    files = _walk(top) if top.is_dir() else {"": top}
    about = [[name, *_fingerprint(file)] for name, file in files.items()]
    place = hashlib.sha256(f"2 {top} {size} {channels} {levels}".encode()).hexdigest()[:16]
    version = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    cached, each = cache_folder() / "folders" / f"{place}-{version}", channels * size * size
    facts = _kept(cached, each)
    if facts is None:
        there = contextlib.nullcontext((files, []))
        try:
            with there if top.is_dir() else archive.opened(top, _counts) as (files, twice):
                facts = _decode(files, twice, top, cached, size, channels, levels)
        except OSError as error:
            raise DataError(
                f"The pictures of {top} can't be kept in {cached.parent}: "
                f"{error.strerror or error}. Make room there, or set GENCOURSE_CACHE to another "
                "folder."
            ) from error
    names = facts["names"]
    places = _places([*names, *(n for unread in facts["unread"].values() for n in unread)], top)
    mine = {name for name, (half, _) in places.items() if half == split}
    if not mine:  # there are always some in train
        raise DataError(f"{top} has no test pictures: put them into subfolders train and test.")
    rows = [row for row, name in enumerate(names) if name in mine]
    _say(facts, mine, len(rows), split, top)
    if not rows:
        raise DataError(f"None of the {len(mine):,} {split} pictures in {top} could be read.")
    classes = sorted({name for _, name in places.values()})  # the same labels in both splits
    number = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([number[places[names[row]][1]] for row in rows])
    # A split's rows follow each other. Copy on write: torch wants writable memory, the file stays.
    shape, start = (len(rows), channels, size, size), rows[0] * each
    pixels = np.memmap(cached / "pixels", np.uint8, "c", offset=start, shape=shape)
    return torch.from_numpy(pixels), labels, classes


def _pair(levels):
    if levels is None:
        return None
    with contextlib.suppress(TypeError, ValueError):
        low, high = map(float, levels)
        if -math.inf < low < high < math.inf:
            return low, high
    raise DataError(
        f"levels are the values of black and of white, such as (0, 4095); not {levels!r}."
    )


# What there is ------------------------------------------------------------------------------------


def _parts(name):
    return name.split("/")


def _counts(name):
    """Whether a path is that of a picture that is not hidden; macOS hides a half of each file."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in _parts(name))
    return name.lower().endswith(SUFFIXES) and not hidden


def _walk(top):
    """Every picture below a folder, {"train/cat/1.png": Path}; "cat/*" if cat can't be opened.

    Links to folders are followed, but not in circles.
    """
    paths, closed, seen = [], [], set()
    for folder, folders, files in os.walk(top, followlinks=True, onerror=closed.append):
        seen.add(os.path.realpath(folder))
        inner = [name for name in folders if not name.startswith(".")]
        folders[:] = [x for x in inner if os.path.realpath(os.path.join(folder, x)) not in seen]
        paths += [Path(folder, name) for name in files if _counts(name)]
    paths += [Path(error.filename, "*") for error in closed]
    found = {path.relative_to(top).as_posix(): path for path in paths}
    return {name: found[name] for name in sorted(found, key=_parts)}


def _fingerprint(file):
    try:
        status = file.stat()
    except OSError:  # a link to nowhere: it will be counted as unreadable
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _places(names, top):
    """{name: (split, class)}; where there are `train` and `test`, only of the pictures in them.

    The class is the subfolder; of a loose picture, the name of the folder that holds everything.
    """
    parts, title = {name: _parts(name) for name in names}, top.name
    if not top.is_dir():
        title = next((title[: -len(end)] for end in archive.SUFFIXES if title.endswith(end)), title)
    if len({part[0] for part in parts.values()}) == 1 and min(map(len, parts.values())) > 2:
        title = _parts(names[0])[0]  # one folder around everything
        parts = {name: part[1:] for name, part in parts.items()}
    if set(SPLITS) <= {part[0] for part in parts.values() if part[1:]}:
        parts = {name: part for name, part in parts.items() if part[0] in SPLITS and part[1:]}
    else:
        parts = {name: ["train", *part] for name, part in parts.items()}
    return {name: (part[0], part[1] if part[2:] else title) for name, part in parts.items()}


def _kept(cached, bytes_each):
    """What the cache says about its pixels, or None if it is not there in full."""
    try:
        facts = json.loads((cached / "facts.json").read_text())
        whole = (cached / "pixels").stat().st_size == len(facts["names"]) * bytes_each
        return facts if whole else None
    except (OSError, ValueError):
        return None


# Decoding -----------------------------------------------------------------------------------------


class _Picture(NamedTuple):
    """A decoded picture.

    pixels: (bands, size, size), uint8, or float32 in the file's own unit where it has more than 8
        bits; empty (0 × 0) once they are written.
    low, high: the file's smallest and largest value.
    alpha: whether the last band is the opacity, by which the others have been multiplied.
    """

    pixels: np.ndarray
    kind: str = "of 8 bits"
    low: float = 0
    high: float = 255
    alpha: bool = False
    notes: tuple = ()


def _decode(files, twice, top, cached, size, channels, levels):
    """Decode the files into the folder `cached`, all or nothing; returns the facts kept there.

    Rows are written, not mapped: a full disk then is an error and not a crash. They first go to a
    file of their own, as they come, since the range of their values is known only at the end.
    """
    from tqdm.auto import tqdm

    places = _places(list(files), top) if files else {}
    if not places:
        endings = " ".join(SUFFIXES)
        raise DataError(f"{top} holds no pictures: files that end in {endings} are looked for.")
    found, unread, notes = {}, defaultdict(list), defaultdict(list)
    notes["twice in the archive, of which the later counts"] = twice
    with (
        workplace(cached.parent) as folder,
        open(folder / "rows", "w+b") as rows,
        tqdm(total=len(places), desc=f"reading {top.name}", unit="picture", delay=1) as bar,
        ThreadPoolExecutor() as pool,
    ):
        sources = ((name, file) for name, file in files.items() if name in places)
        for name, picture in _ahead(pool, partial(_read, size=size, channels=channels), sources):
            if isinstance(picture, str):
                unread[picture].append(name)
            else:
                empty = np.empty_like(picture.pixels, shape=(len(picture.pixels), 0, 0))
                found[name] = rows.tell(), picture._replace(pixels=empty)
                np.save(rows, picture.pixels)
            bar.update()
        if not found:
            why = "; ".join(_groups(unread))
            raise DataError(f"None of the {len(places):,} pictures in {top} could be read: {why}.")

        def row(name):
            at, picture = found[name]
            rows.seek(at)
            return picture._replace(pixels=np.load(rows))

        names, new = sorted(found, key=_parts), folder / "new"
        ranges, said = _ranges({name: found[name][1] for name in names}, row, levels, top)
        if unused := len(files) - len(places):
            said.append(f"Not used, since not in train or test: {unused:,} pictures in {top.name}.")
        new.mkdir()
        with open(new / "pixels", "wb") as file:
            for name in names:
                picture = row(name)
                pixels = _shown(picture, ranges[picture.kind], channels)
                file.write(pixels)
                for note in picture.notes:
                    notes[note].append(name)
                if pixels.reshape(channels, -1).std(1).max() < FLAT:
                    notes["almost a single colour as they come out"].append(name)
        facts = {"names": names, "unread": unread, "notes": notes, "said": said}
        (new / "facts.json").write_text(json.dumps(facts))
        each = channels * size * size
        for old in cached.parent.glob(cached.name.split("-")[0] + "-*"):  # of an earlier state
            if old != cached or not _kept(cached, each):
                shutil.rmtree(old, ignore_errors=True)
        try:
            os.replace(new, cached)
        except OSError:  # another process was faster
            if not _kept(cached, each):
                raise
    return facts


def _ahead(pool, function, sources, most=32):
    """(name, function(source)) in order, with at most so many pictures held.

    What lies in an archive is read here, in this one thread and in the archive's order.
    """
    waiting = deque()
    for name, source in sources:
        if callable(source):
            try:
                source = io.BytesIO(source())
            except Exception as error:
                source = error
        waiting.append((name, pool.submit(function, source)))
        if len(waiting) == most:
            name, picture = waiting.popleft()
            yield name, picture.result()
    for name, picture in waiting:
        yield name, picture.result()


def _read(source, size, channels):
    """One picture, cut to the square in its middle: a _Picture, or the reason why there is none.

    source: the Path of a file, BytesIO, or the exception that came instead.
    """
    from PIL import Image, ImageOps

    try:
        if isinstance(source, Exception):
            raise source
        if isinstance(source, Path) and not source.is_file():
            return "a link to nowhere, or no plain file"
        if not (source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes):
            return "an empty file"
        with Image.open(source) as picture:
            notes = ("several pages or frames, of which the first is taken",) * _several(picture)
            picture.draft("RGB", (2 * size, 2 * size))  # a JPEG is decoded no finer than needed
            if picture.mode.startswith(("I", "F")) or _sixteen_bits(picture):
                return _deep(picture, source, size, channels, notes)
            picture = ImageOps.exif_transpose(picture)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture.convert("RGBA"))
            picture = picture.convert("RGB" if channels == 3 else "L")
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # damaged files raise almost anything
        return _reason(error)
    pixels = np.asarray(picture).reshape(size, size, channels)
    return _Picture(np.ascontiguousarray(pixels.transpose(2, 0, 1)), notes=notes)


def _reason(error):
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no picture of a kind that Pillow knows"
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "too many pixels"
    if isinstance(error, OSError) and error.errno:
        return error.strerror.lower()
    if isinstance(error, (OSError, SyntaxError, struct.error, *archive.DAMAGE)):
        return "damaged or cut off"
    return f"not understood ({error})"


def _several(picture):
    """Whether there is more in the file than one picture; a camera's preview doesn't count."""
    try:
        return picture.format != "MPO" and picture.is_animated
    except Exception:  # most formats don't know the word, and what follows may be damaged
        return False


# More than 8 bits ---------------------------------------------------------------------------------


def _raw_mode(picture):
    """How the file holds its pixels, such as "RGB;16B": the first argument of Pillow's decoder."""
    arguments = picture.tile[0][3] if picture.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _sixteen_bits(picture):
    """Whether these are colours of 16 bits, of which Pillow gives the high byte alone."""
    return _raw_mode(picture).startswith(("RGB;16", "RGBX;16", "RGBA;16", "LA;16"))


def _deep(picture, source, size, channels, notes):
    """A picture of more than 8 bits for each colour, as float32 in its own unit."""
    from PIL import Image, ImageOps

    raw, kind = _raw_mode(picture), "floats" if picture.mode == "F" else "of more than 8 bits"
    if _sixteen_bits(picture):
        values = _both_bytes(picture, source, raw)
    else:
        values = np.asarray(ImageOps.exif_transpose(picture))[None]
        if raw.startswith("I;32") and "S" not in raw:
            values = values.view(np.uint32)  # Pillow takes them for signed
    alpha = len(values) in (2, 4)
    bands = values[:-1] if alpha else values
    finite = bands[np.isfinite(bands)]
    if not finite.size:
        return "without a single finite number"
    low, high = float(finite.min()), float(finite.max())
    if finite.size < bands.size:
        notes += ("NaN or infinity in them, taken for the lowest or highest value",)
        bands = np.nan_to_num(bands, nan=low, posinf=high, neginf=low)
    if len(bands) == 3 and channels == 1:
        bands = np.tensordot([0.299, 0.587, 0.114], bands, 1)[None]  # as Pillow's grey
    bands = bands.astype(np.float32)
    if alpha:
        opacity = values[-1:].astype(np.float32) / 65_535
        bands = np.concatenate([bands * opacity, opacity])
    fit = partial(ImageOps.fit, size=(size, size), method=Image.Resampling.BILINEAR)
    pixels = np.stack([np.asarray(fit(Image.fromarray(band))) for band in bands])
    return _Picture(pixels, kind, low, high, alpha, notes)


def _both_bytes(picture, source, raw):
    """Colours of 16 bits, (C, H, W) uint16: decoded for the high bytes, then for the low ones."""
    from PIL import Image, ImageOps

    def decoded(mode):
        with Image.open(source) as again:
            again.tile = [
                tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))
                for tile in again.tile
            ]
            return np.asarray(ImageOps.exif_transpose(again)).transpose(2, 0, 1).astype(np.uint16)

    kind, order = raw.split(";16")
    if kind == "LA":  # two values of two bytes are as long as one pixel of RGBA
        bytes_ = decoded("RGBA")
        return bytes_[::2] << 8 | bytes_[1::2]
    little = order == "L" or order == "N" and sys.byteorder == "little"
    return decoded(raw) << 8 | decoded(f"{kind};16{'B' if little else 'L'}")


def _ranges(found, row, levels, top):
    """For each kind of picture the values that become black and white, and what to say of it.

    found: {name: _Picture} without pixels. row: function that reads one with them.
    """
    kinds = defaultdict(list)
    for name, picture in found.items():
        kinds[picture.kind].append(name)
    plain = kinds.pop("of 8 bits", [])
    ranges, said = {"of 8 bits": (0, 255)}, []
    if levels and not kinds:  # then these are meant
        ranges["of 8 bits"] = levels
        said.append("In {}, {} becomes black and {} white.".format(top.name, *map(_number, levels)))
    for kind, names in kinds.items():
        low, high = min(found[n].low for n in names), max(found[n].high for n in names)
        ranges[kind], why = levels, "as given"
        if not levels:
            sample = [row(name) for name in names[:: -(-len(names) // 1_000)]]
            values = np.concatenate([x.pixels[: len(x.pixels) - x.alpha].ravel() for x in sample])
            ranges[kind], why = _range(low, high, values, kind == "floats")
        numbers = map(_number, (low, high, *ranges[kind]))
        said.append(
            f"{len(names):,} of {len(found):,} pictures in {top.name} are {kind}, with values from "
            "{} to {}: {} becomes black and {} white".format(*numbers)
            + f" ({why}; levels=(low, high) sets it)."
            + f" Those of 8 bits stay as they are ({len(plain):,})." * bool(plain)
        )
    return ranges, said


def _range(low, high, values, floats):
    """The range that a camera or program meant that wrote values from low to high; and its name.

    Whole numbers: the least usual number of bits that holds them. Floats: [0, 1] or [0, 255] where
    they reach the upper three quarters of it. Else percentiles of `values`, not to mind outliers.
    """
    if low >= 0 and not floats:
        for bits in (1, 8, 10, 12, 14, 16):
            if high < 2**bits:
                return (0, 2**bits - 1), f"{bits} bits"
    for white in (1, 255):
        if low >= 0 and floats and white / 4 <= high <= white:
            return (0, white), "the usual range"
    black, white = map(float, np.percentile(values, [0.5, 99.5]))
    if black < white:
        return (black, white), "the middle 99 % of the values"
    return (low, max(high, math.nextafter(low, math.inf))), "all values"


def _shown(picture, levels, channels):
    """The pixels as (channels, size, size) uint8: scaled, laid on white, grey in each channel."""
    pixels, (low, high) = picture.pixels, levels
    if pixels.dtype != np.uint8 or levels != (0, 255):
        bands, opacity = pixels.astype(np.float64), 1
        if picture.alpha:
            bands, opacity = bands[:-1], bands[-1]
        bands = ((bands - low * opacity) / (high - low)).clip(0, opacity) + 1 - opacity
        pixels = (255 * bands).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (channels, *pixels.shape[1:])))


# What is said -------------------------------------------------------------------------------------


def _number(value):
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def _groups(reasons):
    """{reason: names} as at most four parts of a sentence, the most frequent first."""
    ranked = sorted(reasons.items(), key=lambda item: -len(item[1]))
    if len(ranked) > 4:
        others = [name for _, names in ranked[3:] for name in names]
        ranked = [*ranked[:3], ("for other reasons", others)]
    return [f"{len(names):,} {why}, such as {min(names, key=_parts)}" for why, names in ranked]


def _say(facts, mine, count, split, top):
    """What was chosen, left out or looks doubtful, about the pictures of one split (mine)."""

    def among(reasons):
        found = {why: [name for name in names if name in mine] for why, names in reasons.items()}
        return {why: names for why, names in found.items() if names}

    if unread := among(facts["unread"]):
        lines = [
            f"{len(mine) - count:,} of {len(mine):,} pictures in {top.name} could not be read and "
            "are left out:",
            *_groups(unread),
        ]
        log.warning("%s", "\n  ".join(lines))
    for line in facts["said"]:
        log.warning("%s", line)
    for note, names in among(facts["notes"]).items():
        what = f"{len(names):,} of {count:,} pictures in {top.name}"
        log.warning("%s: %s, such as %s.", what, note, names[0])
    if split == "train" and 0 < count < FEW:
        log.warning(
            "Only %s in %s to learn from%s: a model soon knows so few by heart and draws copies of "
            "them (chapters 05 and 07). Take %s or more.",
            f"{count} pictures" if count > 1 else "1 picture",
            top.name,
            f", less than one batch of {BATCH}" if count < BATCH else "",
            FEW,
        )
