"""Pictures of your own, from a folder or an archive: decoded once, then kept as a memory map.

Subfolders are classes, `train` and `test` are splits, and one folder around everything is looked
through. An archive is read where it lies: nothing is unpacked, so no path in it leads anywhere.
Whatever was left out, chosen or looks doubtful is said in a line of the log.
"""

import contextlib
import hashlib
import io
import json
import logging
import lzma
import math
import os
import shutil
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gencourse.fetch import DataError, cache_folder, workplace

SPLITS = ("train", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
FEW, BATCH = 200, 64  # fewer pictures are learnt by heart; the usual batch
FLAT = 3  # a standard deviation below this, of 255, looks like one colour
# An archive may hold so much more than it is long, as an empty picture does; else it is a bomb.
FREE_BYTES, EXPANSION = 2**28, 100

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
_LINK = "a link, which is not followed in an archive"
_SEVERAL = "several pages or frames, of which the first is taken"
_HOLES = "NaN or infinity in them, taken for the picture's lowest or highest value"
_TWICE = "twice in the archive, of which the later counts"
_FLAT = "almost a single colour as they come out"

log = logging.getLogger(__name__)


def load(path, split, size, channels=3, levels=None):
    """The pictures below a folder or in an archive; see `data.load`.

    Returns: (N, channels, size, size) uint8 in mapped memory, (N,) int64 labels, list of classes.
    Raises: DataError.
    """
    if channels not in (1, 3):
        raise DataError(f"A folder's pictures have 3 channels, or 1 for grey; not {channels!r}.")
    levels = _checked(levels)
    top = Path(path).expanduser().absolute()
    if not path or not (top.is_dir() or top.is_file()):
        raise DataError(
            f"There is no folder {path!r}, and no archive of that name (looked for {top})."
        )
    files = _walk(top) if top.is_dir() else {"": top}
    about = [[name, *_fingerprint(file)] for name, file in files.items()]
    place = hashlib.sha256(f"2 {top} {size} {channels} {levels}".encode()).hexdigest()[:16]
    version = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    cached, each = cache_folder() / "folders" / f"{place}-{version}", channels * size * size
    facts = _kept(cached, each)
    if facts is None:
        try:
            source = _archive(top) if "" in files else contextlib.nullcontext((files, {}))
            with source as (members, notes):
                facts = _decode(members, notes, top, cached, size, channels, levels)
        except OSError as error:
            raise DataError(
                f"The pictures of {top} can't be kept in {cached.parent}: "
                f"{error.strerror or error}. Make room there, or set GENCOURSE_CACHE to another "
                "folder."
            ) from error
    unread = [name for names in facts["unread"].values() for name in names]
    home = _layout([*facts["names"], *unread], top)
    if split == "test" and "test" not in {half for half, _ in home.values()}:
        raise DataError(f"{top} has no test pictures: put them into subfolders train and test.")
    rows = [row for row, name in enumerate(facts["names"]) if home[name][0] == split]
    _say(facts, {name for name, (half, _) in home.items() if half == split}, split, top)
    if not rows:
        raise DataError(f"None of the {split} pictures in {top} could be read.")
    classes = sorted({name for _, name in home.values()})  # the same labels in both splits
    number = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([number[home[facts["names"][row]][1]] for row in rows])
    # Copy on write: torch wants writable memory, the file stays as it is. By name, the pictures of
    # one split follow each other.
    shape = (len(rows), channels, size, size)
    pixels = np.memmap(cached / "pixels", np.uint8, "c", offset=rows[0] * each, shape=shape)
    return torch.from_numpy(pixels), labels, classes


def _checked(levels):
    if levels is None:
        return None
    try:
        low, high = map(float, levels)
        if not -np.inf < low < high < np.inf:
            raise ValueError
    except (TypeError, ValueError):
        raise DataError(
            "levels are two numbers, that of black and a larger one of white, such as (0, 4095); "
            f"not {levels!r}."
        ) from None
    return low, high


# What there is ------------------------------------------------------------------------------------


def _order(name):
    return name.split("/")


def _counts(name):
    """Whether a path belongs to a picture that is not hidden; macOS hides half of each file."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(SUFFIXES)


def _walk(top):
    """Every picture below a folder, {"train/cat/1.png": Path}; "dog/*" if dog can't be opened.

    Links to folders are followed, but not in circles.
    """
    found, seen, closed = [], set(), []
    for folder, folders, files in os.walk(top, followlinks=True, onerror=closed.append):
        seen.add(os.path.realpath(folder))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) not in seen
        ]
        found += [Path(folder, name) for name in files if _counts(name)]
    found += [Path(error.filename, "*") for error in closed]
    return {file.relative_to(top).as_posix(): file for file in sorted(found)}


def _fingerprint(file):
    try:
        status = file.stat()
    except OSError:  # a link to nowhere: it will be counted as unreadable
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _layout(names, top):
    """{name: (split, class)} of the pictures that count: with `train` and `test`, those in them.

    The class is the subfolder; of a loose picture, the name of the folder that holds everything.
    """
    parts = {name: _order(name) for name in names}
    title = top.name
    if not top.is_dir():
        title = next((title[: -len(end)] for end in ARCHIVES if title.lower().endswith(end)), title)
    if len({part[0] for part in parts.values()}) == 1 and min(map(len, parts.values())) > 2:
        title = _order(names[0])[0]  # a folder around everything
        parts = {name: part[1:] for name, part in parts.items()}
    halves = {part[0] for part in parts.values() if len(part) > 1}
    if set(SPLITS) <= halves:
        parts = {name: part for name, part in parts.items() if part[0] in SPLITS and part[1:]}
    else:
        parts = {name: ["train", *part] for name, part in parts.items()}
    return {
        name: (part[0], part[1] if len(part) > 2 else title) for name, part in parts.items()
    }


# Archives -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _archive(path):
    """({name: a function that returns a picture's bytes, or why it can't be read}, notes).

    In the archive's own order, since a compressed tar can only be read from front to back. Of two
    pictures with one name the later counts, as when unpacked.
    """
    limit, total = max(FREE_BYTES, EXPANSION * path.stat().st_size), 0
    members, twice = {}, []
    with contextlib.ExitStack() as stack:
        try:
            with open(path, "rb") as file:
                zipped = file.read(4) in (b"PK\3\4", b"PK\5\6")
            if zipped:
                archive = stack.enter_context(zipfile.ZipFile(path))
            else:
                archive = stack.enter_context(tarfile.open(path, tarinfo=_TarInfo))
            for name, size, member in (_zip_members if zipped else _tar_members)(archive):
                total += size
                if total > limit:
                    raise DataError(
                        f"{path} unpacks to more than {limit:,} bytes, over {EXPANSION} times its "
                        "own length, as archives do that are made to fill a machine. If you trust "
                        "it, unpack it and load the folder."
                    )
                name = "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
                if _counts(name):
                    twice += [name] * bool(members.pop(name, False))
                    members[name] = member
        except PermissionError as error:
            raise DataError(f"{path} can't be read: {error.strerror}.") from error
        except (OSError, EOFError, ValueError, *_DAMAGE) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path} is no zip or tar archive, or it is damaged ({error}): copy it again, or "
                "unpack it and load the folder."
            ) from error
        yield members, {_TWICE: twice}


def _zip_members(archive):
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")  # some programs of Windows
        if not info.flag_bits & 0x800:  # it does not say UTF-8; macOS means it all the same
            with contextlib.suppress(UnicodeError):
                name = name.encode("cp437").decode("utf-8")
        if not info.is_dir() and _counts(name):  # nothing else is ever unpacked
            if info.flag_bits & 1:
                raise DataError(
                    f"{archive.filename} is encrypted: pack the pictures without a password."
                )
            link = stat.S_ISLNK(info.external_attr >> 16)
            yield name, info.file_size, _LINK if link else partial(_from_zip, archive, info)


def _from_zip(archive, info):
    with archive.open(info) as file:
        return file.read(info.file_size)


def _tar_members(archive):
    for member in archive:
        read = partial(_from_tar, archive, member) if member.isreg() else _LINK
        yield member.name, member.size, read
    # tarfile takes a damaged header for the end, which is a block of zeros; gzip's own sum, which
    # stands behind the padding, is checked by reading it.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(2**20)[:512] != bytes(512):
        raise tarfile.ReadError("its end is missing")


def _from_tar(archive, member):
    return archive.extractfile(member).read()


_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
               tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)  # fmt: skip


class _TarInfo(tarfile.TarInfo):
    """A member whose name is no bomb: tarfile takes it into memory, however long it is."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        if member.type in _LONG_NAMES and member.size > 2**20:
            raise tarfile.ReadError("a name in it is too long")
        return member


# Decoding -----------------------------------------------------------------------------------------


class _Picture(NamedTuple):
    """A decoded picture.

    pixels: (bands, size, size), uint8, or float32 in the file's own unit where it has more than 8
    bits; empty once it is written. kind: "8 bits", "more bits" or "floats".
    low, high: the file's smallest and largest value.
    alpha: whether the last band is the opacity, by which the others have been multiplied.
    notes: what should be said of it.
    """

    pixels: np.ndarray
    kind: str = "8 bits"
    low: float = 0
    high: float = 255
    alpha: bool = False
    notes: tuple = ()


def _kept(cached, bytes_each):
    """What the cache says about its pixels, or None if it is not there in full."""
    try:
        facts = json.loads((cached / "facts.json").read_text())
        whole = (cached / "pixels").stat().st_size == len(facts["names"]) * bytes_each
        return facts if whole else None
    except (OSError, ValueError):
        return None


def _decode(members, notes, top, cached, size, channels, levels):
    """Decode the pictures into the folder `cached`, all or nothing; returns the facts kept there.

    Rows are written, not mapped: a full disk then is an error and not a crash. They first go to a
    file of their own, as they come, since the range of their values is known only at the end.
    """
    from tqdm.auto import tqdm

    home = _layout(list(members), top) if members else {}
    if not home:
        endings = " ".join(SUFFIXES)
        raise DataError(f"{top} holds no pictures: files that end in {endings} are looked for.")
    wanted = ((name, member) for name, member in members.items() if name in home)
    found, unread, notes = {}, defaultdict(list), defaultdict(list, notes)
    with (
        workplace(cached.parent) as folder,
        open(folder / "rows", "w+b") as rows,
        tqdm(total=len(home), desc=f"reading {top.name}", unit="picture", delay=1) as bar,
        ThreadPoolExecutor() as pool,
    ):
        for name, picture in _ahead(pool, partial(_read, size=size, channels=channels), wanted):
            if isinstance(picture, str):
                unread[picture].append(name)
            else:
                empty = np.empty_like(picture.pixels, shape=(len(picture.pixels), 0, 0))
                found[name] = rows.tell(), picture._replace(pixels=empty)
                rows.write(picture.pixels)
            bar.update()
        if not found:
            raise DataError(
                f"None of the {len(home):,} pictures in {top} could be read: "
                f"{'; '.join(_groups(unread))}."
            )

        def row(name):
            at, picture = found[name]
            rows.seek(at)
            shape, kind = (len(picture.pixels), size, size), picture.pixels.dtype
            pixels = np.frombuffer(rows.read(math.prod(shape) * kind.itemsize), kind)
            return picture._replace(pixels=pixels.reshape(shape))

        names, new = sorted(found, key=_order), folder / "new"
        ranges, said = _ranges(names, found, row, levels, top)
        if extra := len(members) - len(home):
            said.append(f"{extra:,} pictures in {top.name} are beside train and test: not used.")
        new.mkdir()
        with open(new / "pixels", "wb") as file:
            for name in names:
                picture = row(name)
                pixels = _shown(picture, ranges[picture.kind], channels)
                file.write(pixels)
                flat = pixels.reshape(channels, -1).std(1).max() < FLAT
                for note in picture.notes + (_FLAT,) * bool(flat):
                    notes[note].append(name)
        facts = dict(names=names, unread=unread, notes=notes, said=said)
        (new / "facts.json").write_text(json.dumps(facts))
        each = channels * size * size
        finished = _kept(cached, each) == facts  # by another process that was faster
        for old in cached.parent.glob(cached.name.split("-")[0] + "-*"):  # or of an earlier state
            if old != cached or not finished:
                shutil.rmtree(old, ignore_errors=True)
        try:
            os.replace(new, cached)
        except OSError:
            if _kept(cached, each) != facts:
                raise
    return facts


def _ahead(pool, function, members, most=32):
    """(name, function(source)) in order; at most so many pictures are read ahead.

    Bytes come out of an archive in this thread, one after the other.
    """
    waiting = deque()
    for name, member in members:
        if callable(member):
            try:
                member = io.BytesIO(member())
            except Exception as error:
                member = _reason(error)
        waiting.append((name, pool.submit(function, member)))
        if len(waiting) == most:
            name, picture = waiting.popleft()
            yield name, picture.result()
    for name, picture in waiting:
        yield name, picture.result()


def _read(source, size, channels):
    """The _Picture in a file or in bytes, cut to the square in its middle, or why there is none."""
    from PIL import Image, ImageOps

    if isinstance(source, str):
        return source
    try:
        if isinstance(source, Path) and not source.is_file():
            return "a link to nowhere" if source.is_symlink() else "not a file that can be read"
        if not (source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes):
            return "an empty file"
        with Image.open(source) as picture:
            notes = (_SEVERAL,) * _several(picture)
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


def _several(picture):
    """Whether there is more in the file than one picture; a camera's preview doesn't count."""
    try:
        return picture.format != "MPO" and picture.is_animated
    except Exception:  # most formats don't know the word, and what follows may be damaged
        return False


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

    raw, integer = _raw_mode(picture), picture.mode != "F"
    if _sixteen_bits(picture):
        values = _both_bytes(picture, source, raw)
    else:
        values = np.asarray(ImageOps.exif_transpose(picture))[None]
        if raw.startswith("I;32") and "S" not in raw:
            values = values.view(np.uint32)  # Pillow takes them for signed
    alpha = len(values) in (2, 4)
    colours = values[:-1] if alpha else values
    finite = colours[np.isfinite(colours)]
    if not finite.size:
        return "without a single finite number"
    low, high = float(finite.min()), float(finite.max())
    if finite.size < colours.size:
        notes += (_HOLES,)
        colours = np.nan_to_num(colours, nan=low, posinf=high, neginf=low)
    if len(colours) == 3 and channels == 1:
        colours = np.tensordot([0.299, 0.587, 0.114], colours, 1)[None]  # as Pillow's grey
    bands = colours.astype(np.float32)
    if alpha:
        opacity = values[-1:].astype(np.float32) / 65_535
        bands = np.concatenate([bands * opacity, opacity])
    fit = partial(ImageOps.fit, size=(size, size), method=Image.Resampling.BILINEAR)
    pixels = np.stack([np.asarray(fit(Image.fromarray(band))) for band in bands])
    return _Picture(pixels, "more bits" if integer else "floats", low, high, alpha, notes)


def _both_bytes(picture, source, raw):
    """The 16-bit colours of a picture, (C, H, W): decoded for the high bytes, then for the low."""
    from PIL import Image, ImageOps

    def decoded(mode):
        with Image.open(source) as again:
            again.tile = [
                tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))
                for tile in again.tile
            ]
            return np.asarray(ImageOps.exif_transpose(again)).transpose(2, 0, 1).astype(np.uint16)

    if raw.startswith("LA"):  # two values of two bytes are as long as one pixel of RGBA
        pairs = decoded("RGBA")
        return pairs[::2] << 8 | pairs[1::2]
    kind, order = raw.split(";16")
    little = order == "L" or order == "N" and sys.byteorder == "little"
    return decoded(raw) << 8 | decoded(f"{kind};16{'B' if little else 'L'}")


def _ranges(names, found, row, levels, top):
    """For each kind of picture the values that become black and white, and what to say of it."""
    kinds = defaultdict(list)
    for name in names:
        kinds[found[name][1].kind].append(name)
    plain, ranges, said = kinds.pop("8 bits", []), {"8 bits": (0, 255)}, []
    if not kinds and levels:  # of pictures with 8 bits alone they can be meant too
        ranges["8 bits"] = levels
        said.append("In {}, {} becomes black and {} white.".format(top.name, *map(_number, levels)))
    for kind, members in kinds.items():
        low = min(found[name][1].low for name in members)
        high = max(found[name][1].high for name in members)
        if levels:
            ranges[kind], why = levels, "as given"
        else:
            sample = [row(name) for name in members[:: -(-len(members) // 1_000)]]
            values = np.concatenate([x.pixels[: len(x.pixels) - x.alpha].ravel() for x in sample])
            ranges[kind], why = _range(low, high, values, kind == "floats")
        black, white = ranges[kind]
        what = "floats" if kind == "floats" else "whole numbers of more than 8 bits"
        rest = f"; {len(plain):,} pictures of 8 bits stay as they are" if plain else ""
        said.append(
            f"{len(members):,} pictures in {top.name} are {what}, from {_number(low)} to "
            f"{_number(high)}: {_number(black)} becomes black and {_number(white)} white ({why}; "
            f"levels=(low, high) sets it){rest}."
        )
    return ranges, said


def _range(low, high, values, floats):
    """The range that a camera or a program meant which wrote values from low to high, and why.

    Whole numbers: the least usual number of bits that holds them. Floats: [0, 1] or [0, 255] if
    they fill a quarter of it. All else: percentiles of `values`, which a few outliers don't move.
    """
    if low >= 0 and not floats:
        for bits in (1, 8, 10, 12, 14, 16):
            if high < 2**bits:
                return (0, 2**bits - 1), f"{bits} bits"
    for white in (1, 255):
        if floats and low >= 0 and white / 4 <= high <= white:
            return (0, white), "the usual range"
    black, white = map(float, np.percentile(values, [0.5, 99.5]))
    if black < white:
        return (black, white), "the middle 99 % of the values"
    return (low, max(high, np.nextafter(low, np.inf))), "all values"


def _shown(picture, levels, channels):
    """The pixels as (channels, size, size) uint8: scaled, laid on white, grey in each channel."""
    pixels, (low, high) = picture.pixels, levels
    if picture.kind != "8 bits" or levels != (0, 255):
        bands = pixels.astype(np.float64)
        opacity = bands[-1] if picture.alpha else 1
        bands = bands[:-1] if picture.alpha else bands
        bands = ((bands - low * opacity) / (high - low)).clip(0, opacity) + 1 - opacity
        pixels = (255 * bands).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (channels, *pixels.shape[1:])))


# What is said -------------------------------------------------------------------------------------


def _reason(error):
    from PIL import Image, UnidentifiedImageError

    for kinds, reason in (
        (PermissionError, "no permission to read it"),
        (UnidentifiedImageError, "not recognised as a picture"),
        ((Image.DecompressionBombError, MemoryError), "too many pixels"),
        (NotImplementedError, "packed in a way that Python can't read"),
    ):
        if isinstance(error, kinds):
            return reason
    if isinstance(error, OSError) and error.errno:
        return error.strerror.lower()
    if isinstance(error, (OSError, SyntaxError, EOFError, struct.error, *_DAMAGE)):
        return "damaged or cut off"
    return f"not understood ({error})"


def _groups(reasons):
    """{reason: names} as at most four parts of a sentence, the most frequent first."""
    ranked = sorted(reasons.items(), key=lambda item: -len(item[1]))
    if len(ranked) > 4:
        others = [name for _, names in ranked[3:] for name in names]
        ranked = [*ranked[:3], ("for other reasons", others)]
    return [f"{len(names):,} {why}, such as {min(names, key=_order)}" for why, names in ranked]


def _say(facts, names, split, top):
    """What was left out, chosen or looks doubtful among these names, in lines of the log."""

    def among(reasons):
        found = {why: [n for n in those if n in names] for why, those in reasons.items()}
        return {why: those for why, those in found.items() if those}

    unread, of = among(facts["unread"]), f"of {len(names):,} pictures in {top.name}"
    left_out = sum(map(len, unread.values()))
    if unread:
        lines = "\n  ".join(_groups(unread))
        log.warning("%s %s could not be read and are left out:\n  %s", f"{left_out:,}", of, lines)
    for line in facts["said"]:
        log.warning("%s", line)
    for note, those in among(facts["notes"]).items():
        log.warning("%s %s: %s, such as %s.", f"{len(those):,}", of, note, those[0])
    count = len(names) - left_out
    if split == "train" and 0 < count < FEW:
        batch = f", less than one batch of {BATCH}" if count < BATCH else ""
        log.warning(
            "Only %s in %s to learn from%s: a model soon knows so few by heart, and what it draws "
            "then are copies (chapter 05 shows it, chapter 07 measures it). Take %s or more.",
            f"{count} picture" + "s" * (count > 1), top.name, batch, FEW,
        )  # fmt: skip


def _number(value):
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
