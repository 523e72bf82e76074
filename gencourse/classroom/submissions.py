"""What students handed in: notebooks in a folder, in zip files, as Canvas or Moodle name them.

Only names and bytes are read here; nothing of a submission is run, and no file is written.
"""

import io
import json
import math
import re
import zipfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gencourse.runtime import UserError

LARGEST, MOST_FILES = 20 << 20, 2_000  # [bytes] of one notebook; files in a student's zip
MOST = 4 * LARGEST  # [bytes] of all that is unpacked from one student's zip
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may say 1 kB and unpack gigabytes
# name_USER_FILE_….ipynb; the numbers are long, "ann_2026_01_kl_divergence" is not one of Canvas's
CANVAS = re.compile(r"^(?P<name>.+?)(?:_LATE)?_(?P<id>\d{2,})_\d{3,}_.+$")
CANVAS_ANONYMOUS = re.compile(r"^(?P<name>anon)(?:_LATE)?_(?P<id>[^_]+)_\d{3,}_.+$")
MOODLE = re.compile(r"^(?P<name>.+?)_(?P<id>\d+)_assignsubmission_file_?.*$")


class File(NamedTuple):
    """A notebook that may be the one to grade."""

    name: str  # as the student called it
    content: bytes
    problem: str = ""  # why it can't be read, as a sentence


class Submission(NamedTuple):
    """One student's notebooks."""

    id: str  # of Canvas (user) or Moodle (participant), else the name of the file or folder
    name: str
    system: str  # "canvas", "moodle" or ""
    files: list

    def notebook(self, assignment, wanted):
        """The notebook to grade: (code cells, ""), or (None, a sentence that says why not).

        assignment: such as "01_kl_divergence"; wanted: names of its functions. Of several
        notebooks, those count first that define most of them, then those named like the
        assignment, then the newest by Canvas's numbers (-1, -2).
        """
        if not self.files:
            return None, "No notebook (.ipynb) was handed in."

        def rank(file):
            text = file.content.decode("utf-8", errors="replace")
            defined = sum(bool(re.search(rf"\b(?:def|class) {name}\b", text)) for name in wanted)
            newest = re.search(r"-(\d{1,9})\.ipynb$", file.name)
            return defined, assignment in file.name, int(newest.group(1)) if newest else 0

        best = max(self.files, key=rank)
        if best.problem:
            return None, best.problem
        return code_cells(best)


def code_cells(file):
    """(sources of the code cells, "") of a notebook, or (None, a sentence on what is wrong)."""
    try:
        notebook = json.loads(file.content.decode("utf-8-sig"))
        if "worksheets" in notebook:  # the format of before 2015
            notebook = {"cells": [c for w in notebook["worksheets"] for c in w["cells"]]}
        cells = [c for c in notebook["cells"] if c.get("cell_type") == "code"]
        sources = [c.get("source", c.get("input", "")) for c in cells]
        return ["".join(source) for source in sources], ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        size = f"{len(file.content):,} bytes"
        return None, f"{file.name} ({size}) is no notebook: open it in Jupyter and save it again."


def find(path):
    """The submissions in a folder or a zip file, sorted by id.

    path: holds *.ipynb and *.zip, one for each student; or folders, one for each student; or it is
    what Canvas or Moodle gives for download, zipped or not; or one notebook.
    Raises: UserError if there is nothing of the kind, or the zip file can't be unpacked.
    """
    path = Path(path)
    if path.is_dir():
        entries = list(_in_folder(path))
    elif path.suffix == ".zip" and path.is_file():
        entries = list(_in_zip(path.read_bytes(), path.name, of_class=True))
    elif path.suffix == ".ipynb" and path.is_file():
        entries = [(Path(path.name), _file(path.name, path.stat().st_size, path.read_bytes))]
    else:
        raise UserError(f"{path} is no folder, .zip or .ipynb: name what the students handed in.")
    found = {}
    for place, file in entries:
        student = _student(place)
        known = found.setdefault(student, Submission(*student, []))
        if file:
            known.files.append(file)
    if not found:
        raise UserError(f"{path} holds no notebooks (*.ipynb), no .zip and no students' folders.")
    return _unique(sorted(found.values(), key=lambda s: (s.id, s.name)))


def _in_folder(folder):
    """(place, File or None) of everything below a folder; the place is relative to it."""
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if any(part.startswith((".", "__MACOSX")) for part in place.parts) or path.is_symlink():
            continue
        if path.is_dir():
            if len(place.parts) == 1:
                yield place, None  # a student who handed in nothing readable is still a student
        elif path.suffix == ".ipynb":
            yield place, _file(path.name, path.stat().st_size, path.read_bytes)
        elif path.suffix == ".zip":
            yield from ((place / inner, file) for inner, file in _zip_of(path, place))


def _zip_of(path, place):
    if path.stat().st_size > 10 * LARGEST:
        problem = f"{path.name} is larger than {10 * LARGEST >> 20} MB and was not opened."
        return [(Path(), File(path.name, b"", problem))]
    return _in_zip(path.read_bytes(), path.name)


def _in_zip(content, name, of_class=False, depth=0, left=None):
    """(place, File or None) of the notebooks in a zip file, and in zip files inside it.

    of_class: it holds all students' work, and no limits of its own. left: [bytes] that may still be
    unpacked, one number in a list, shared with the zip files inside.
    """
    left = left or [math.inf if of_class else MOST]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist()[:None if of_class else MOST_FILES]:
                parts = [p for p in Path(member.filename).parts if p.strip("/") and p != ".."]
                place = Path(*parts)
                if any(part.startswith((".", "__MACOSX")) for part in place.parts):
                    continue
                if place.suffix == ".ipynb":
                    yield place, _member(archive, member, place.name, left)
                elif place.suffix == ".zip" and depth == 0:
                    inner = _member(archive, member, place.name, left)
                    if inner.problem:
                        yield place, inner
                        continue
                    rest = None if of_class else left
                    found = _in_zip(inner.content, place.name, depth=depth + 1, left=rest)
                    yield from ((place / inner_place, file) for inner_place, file in found)
                elif len(place.parts) == 1 and member.is_dir():
                    yield place, None
    except Exception as error:  # a broken zip fails in zipfile, zlib, struct, a name's decoding …
        if of_class:
            raise UserError(
                f"{name} is no zip file, or it is damaged ({error}): download it again."
            ) from error
        yield Path(), File(name, b"", f"{name} can't be unpacked ({error}): zip it again.")


def _member(archive, member, name, left):
    """A File from a zip; what can't be read of it, or is too much with the others, is a problem."""
    if member.compress_type not in PACKED:
        return File(name, b"", f"{name} is packed in an unusual way: zip it again.")
    if member.file_size > left[0]:
        problem = f"{name} and what lies in the zip beside it are larger than {MOST >> 20} MB."
        return File(name, b"", problem)
    try:
        file = _file(name, member.file_size, partial(archive.read, member))
    except Exception as error:  # zlib's own among them
        return File(name, b"", f"{name} can't be unpacked ({error}): zip it again.")
    left[0] -= len(file.content)
    return file


def _file(name, size, read):
    if size > LARGEST:
        problem = f"{name} is larger than {LARGEST >> 20} MB: clear its outputs."
        return File(name, b"", problem)
    return File(name, read())


def _student(place):
    """(id, name, system) of whose file this is, from its place."""
    first = place.parts[0] if place.parts else "submission"
    if match := MOODLE.match(first):
        return match["id"], match["name"].strip(), "moodle"
    if match := CANVAS_ANONYMOUS.match(first) or CANVAS.match(first):
        return match["id"], match["name"], "canvas"
    name = first.removesuffix(".ipynb").removesuffix(".zip")
    return name, name, ""


def _unique(submissions):
    """The same, with ids that are all different: the same number may come from two systems."""
    seen, result = set(), []
    for submission in submissions:
        identity, number = submission.id, 2
        while identity.casefold() in seen:
            identity, number = f"{submission.id}-{number}", number + 1
        seen.add(identity.casefold())
        result.append(submission._replace(id=identity))
    return result
