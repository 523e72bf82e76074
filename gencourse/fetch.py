"""Files from the network: every mirror tried, nothing unchecked, nothing left half done."""

import contextlib
import os
import queue
import shutil
import tempfile
import threading
import time
from pathlib import Path

from gencourse.runtime import UserError

# A mirror that takes this long to send the next 64 kB is given up: two of them end within a minute.
STALL_SECONDS = 20
STALL_BYTES = 64_000


class DataError(UserError, ValueError):
    """Pictures that can't be had: the message says what was tried and what to do."""


class _MirrorError(Exception):
    """What a mirror did wrong, as the end of a sentence."""


def given_folder():
    """The folder that $GENCOURSE_DATA names, or None; nothing is ever written there."""
    name = os.environ.get("GENCOURSE_DATA")
    return Path(name).expanduser().absolute() if name else None


def cache_folder():
    """Where fetched and decoded pictures are kept: $GENCOURSE_CACHE, or the user's cache."""
    import pooch

    name = os.environ.get("GENCOURSE_CACHE") or pooch.os_cache("gencourse")
    return Path(name).expanduser().absolute()


@contextlib.contextmanager
def workplace(parent):
    """A folder in `parent` for unfinished files, so that finished ones can be moved in one step.

    It vanishes afterwards; one that a killed process left behind vanishes when a day old.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob("unfinished-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 24 * 3600:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=parent, prefix="unfinished-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def fetched(what, file, md5, mirrors):
    """A packed file, checked, in a folder of the cache for unpacking that vanishes afterwards.

    what: the data set, for the message. file: Path relative to `given_folder()` and
    `cache_folder()`: a copy that somebody put there is taken if its MD5 sum is right.
    mirrors: list of addresses that end in "/". One that fails is taken off the list, so that a
    mirror which stalls costs its time only once.
    Yields: Path of the packed file.
    Raises: DataError if it can't be had, or if the cache can't be written.
    """
    import pooch

    root, tried = cache_folder(), []
    try:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        with workplace(root) as new:
            packed = new / file.name
            for own in [folder / file for folder in (given_folder(), root) if folder]:
                if not packed.exists() and own.is_file():
                    if pooch.file_hash(own, "md5") == md5:
                        shutil.copyfile(own, packed)
                    else:
                        tried.append(f"{own} has a wrong MD5 sum")
            pooch.get_logger().setLevel("WARNING")  # the bar says it
            while mirrors and not packed.exists():
                url = mirrors[0] + file.name
                try:
                    pooch.retrieve(url, f"md5:{md5}", file.name, new, downloader=_download)
                except _MirrorError as error:
                    tried.append(f"{mirrors.pop(0)} {error}")
                except ValueError:
                    tried.append(f"{mirrors.pop(0)} sent another file (its MD5 sum is wrong)")
            if packed.exists():
                yield packed
                return
    except OSError as error:
        raise DataError(
            f"{what} can't be kept in {root}: {error.strerror or error}. Make room there, or set "
            "GENCOURSE_CACHE to another folder, or use `digits`, which needs neither."
        ) from error
    raise DataError(
        f"{what} can't be had: {file.name} is not in $GENCOURSE_DATA or the cache, and "
        f"{'; '.join(tried) or 'no mirror is left'}. Try another network, or put the file here: "
        f"{root / file}, or use `digits`, which needs no network."
    )


class _Pipe:
    """Between two threads: what pooch takes for its output file and for its progress bar."""

    def __init__(self):
        self.chunks, self.total, self.given_up = queue.SimpleQueue(), None, False

    def write(self, chunk):
        if self.given_up:
            raise _MirrorError  # ends the thread
        self.chunks.put(chunk)

    def ignore(self, *_):
        pass

    flush = update = reset = close = ignore


def _download(url, path, _):
    """pooch's downloader in a thread of its own: whatever hangs there, this one ends in time.

    A read time-out alone is not enough: a server that sends a byte a second never trips it, and
    looking up a server's name has none.
    """
    import pooch
    from tqdm.auto import tqdm

    pipe = _Pipe()
    download = pooch.HTTPDownloader(progressbar=pipe, chunk_size=2**14, timeout=STALL_SECONDS)

    def work():
        try:
            download(url, pipe, None)
            pipe.chunks.put(b"")
        except Exception as error:
            pipe.chunks.put(error)

    threading.Thread(target=work, daemon=True).start()
    look = {"desc": url.rsplit("/", 1)[-1], "unit": "B", "unit_scale": True, "delay": 1}
    try:
        with open(path, "wb") as file, tqdm(leave=False, **look) as bar:
            received, deadline = 0, time.monotonic() + STALL_SECONDS
            while chunk := pipe.chunks.get(timeout=max(0.01, deadline - time.monotonic())):
                if isinstance(chunk, Exception):
                    raise _MirrorError(_reason(chunk)) from chunk
                file.write(chunk)
                bar.total = pipe.total or None
                bar.update(len(chunk))
                received += len(chunk)
                if received >= STALL_BYTES:
                    received, deadline = 0, time.monotonic() + STALL_SECONDS
    except queue.Empty:
        raise _MirrorError(_reason(TimeoutError())) from None
    finally:
        pipe.given_up = True


def _reason(error):
    import requests

    if isinstance(error, requests.HTTPError):
        return f"answered {error.response.status_code}"
    if isinstance(error, TimeoutError | requests.Timeout):
        return f"sent next to nothing for {STALL_SECONDS} seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broke off in the middle"
    if isinstance(error, requests.ConnectionError):
        return "could not be reached"
    return f"failed ({error})"
