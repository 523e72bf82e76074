"""Files that are either whole or not there: atomic writes, and a run's last two checkpoints."""

import contextlib
import io
import os
import warnings
from pathlib import Path

import torch


class WriteError(OSError):
    """A file could not be written; the message says why, and that older files are intact."""

    exit_code = 1  # of the command


def write_atomically(path, content):
    """Replace the file `path` by `content` in one indivisible step.

    path: file to write, in a folder that exists. content: bytes.
    Raises: WriteError if the disk is full, read-only or gone; the old file is then untouched.
    Whoever kills the process at any moment leaves the old file or the new one, never a part: the
    temporary file lies in the same folder (a rename across disks is a copy) and reaches the disk
    before it takes the name.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder itself is gone or read-only
            temporary.unlink(missing_ok=True)
        raise WriteError(_sentence(path, error)) from error


def append(path, text):
    """Add text to the end of a file. Raises: WriteError."""
    try:
        with open(path, "a", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise WriteError(_sentence(path, error)) from error


def make_folder(path):
    """Make a folder and its parents where they are missing. Raises: WriteError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(_sentence(path, error)) from error


def delete(path):
    """Delete a file, if it is there. Raises: WriteError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"Can't delete {path}: {error.strerror or error}.") from error


def _sentence(path, error):
    return (
        f"Can't write {path}: {error.strerror or error}. Everything saved before is intact; free "
        "some disk space or reconnect the drive, then start the same run again."
    )


def _sync_folder(folder):
    """Make the rename itself survive a power cut, where the system lets a folder be synced."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some network drives refuse; the rename is still atomic
        os.fsync(descriptor)
    os.close(descriptor)


def save(folder, step, state, keep=2):
    """Write the checkpoint of `step` into `folder`, then delete all but the newest `keep`.

    state: nested dicts and lists of tensors, numbers and strings.
    Raises: WriteError; the checkpoints before are then untouched.
    """
    buffer = io.BytesIO()  # in memory first: torch.save reports a full disk as a RuntimeError
    torch.save({"step": step, "state": state}, buffer)
    write_atomically(Path(folder) / f"checkpoint-{step:08d}.pt", buffer.getbuffer())
    for old in paths(folder)[:-keep]:
        old.unlink(missing_ok=True)


def paths(folder):
    """The checkpoint files of a folder, oldest step first."""
    return sorted(Path(folder).glob("checkpoint-[0-9]*.pt"))


def load_latest(folder):
    """The newest readable checkpoint of a folder.

    Returns: (step, state) with tensors on the CPU, or None if there is no checkpoint.
    A file damaged from outside is passed over with a warning. Only plain data is loaded
    (weights_only=True): a checkpoint can't run code.
    """
    for path in reversed(paths(folder)):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            return content["step"], content["state"]
        except Exception as error:  # whatever a damaged zip or pickle raises
            warnings.warn(f"{path} can't be read ({error}); trying the one before.", stacklevel=2)
    return None
