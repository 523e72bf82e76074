"""Files in a zip or tar archive, read where they lie.

Nothing is unpacked to disk, so no path in an archive leads anywhere, and no link is followed. What
a file declares as its size is counted before it is read, and no more than that is ever read.
"""

import contextlib
import errno
import lzma
import stat
import tarfile
import zipfile
import zlib
from functools import partial

from gencourse.fetch import DataError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# All files may be so much longer than the archive, as blank pictures are; more is a bomb.
FREE_BYTES, EXPANSION = 2**28, 100
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)
LINK = OSError(errno.ELOOP, "a link, which is not followed in an archive")
LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
              tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


@contextlib.contextmanager
def opened(path, wanted):
    """The files in an archive whose name is wanted: {name: function that returns the bytes}.

    wanted: function of a name such as "train/cat/1.png"; ".." and a leading "/" are gone from it.
    Yields: the dict, in the archive's own order (a compressed tar is only read from front to back),
    with an exception in place of what can't be read; and the list of names that stand twice, of
    which the later counts, as when unpacked.
    Raises: DataError if it is no archive, damaged, encrypted or a bomb.
    """
    files, twice, total = {}, [], 0
    limit = max(FREE_BYTES, EXPANSION * path.stat().st_size)
    with contextlib.ExitStack() as stack:
        try:
            with open(path, "rb") as file:
                zipped = file.read(4) in (b"PK\3\4", b"PK\5\6")
            if zipped:
                members = _zip(stack.enter_context(zipfile.ZipFile(path)))
            else:
                members = _tar(stack.enter_context(tarfile.open(path, tarinfo=_Member)))
            for name, size, file in members:
                total += size
                if total > limit:
                    raise DataError(
                        f"{path} declares more than {limit:,} bytes of files, far beyond its own "
                        "length, as archives do that are made to fill a machine. If you trust it, "
                        "unpack it and load the folder."
                    )
                name = "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
                if wanted(name):
                    twice += [name] if files.pop(name, None) else []
                    files[name] = file
        except DataError:
            raise
        except PermissionError as error:
            raise DataError(f"{path} can't be read: {error.strerror}.") from error
        except (OSError, ValueError, *DAMAGE) as error:
            raise DataError(
                f"{path} is no zip or tar archive, or it is damaged ({error}): copy it again, or "
                "unpack it and load the folder."
            ) from error
        yield files, twice


def _zip(archive):
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")  # as some programs of Windows write it
        if not info.flag_bits & 0x800:  # not said to be UTF-8; macOS means it all the same
            with contextlib.suppress(UnicodeError):
                name = name.encode("cp437").decode("utf-8")
        if info.is_dir():
            continue
        if info.flag_bits & 1:
            raise DataError(f"{archive.filename} is encrypted: pack it without a password.")
        link = stat.S_ISLNK(info.external_attr >> 16)
        yield name, info.file_size, LINK if link else partial(archive.read, info)


def _tar(archive):
    for member in archive:
        if not member.isdir():
            read = partial(lambda one: archive.extractfile(one).read(), member)
            yield member.name, member.size, read if member.isreg() else LINK
    # tarfile takes a damaged header for the end, which is a block of zeros. gzip's checksum comes
    # after it and is looked at when it is read.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(2**20)[:512] != bytes(512):
        raise tarfile.ReadError("its end is missing")


class _Member(tarfile.TarInfo):
    """A file whose name is no bomb: tarfile takes it into memory, however long it is."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        if member.type in LONG_NAMES and member.size > 2**20:
            raise tarfile.ReadError("a name in it is too long")
        return member
