"""Finding what students handed in: names of Canvas and Moodle, folders, zip files good and bad."""

import io
import json
import zipfile

import pytest

from gencourse.classroom import submissions
from gencourse.runtime import UserError


def notebook(*cells):
    cells = [{"cell_type": "code", "source": c} for c in cells]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": "x"}, *cells]}).encode()


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def put(folder, files):
    for place, content in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)


def found(folder):
    return {s.id: s for s in submissions.find(folder)}


@pytest.mark.parametrize(("first", "student"), [
    ("doejane_1234_56789_01_kl.ipynb", ("1234", "doejane", "canvas")),
    ("doejane_LATE_1234_56789_01_kl-2.ipynb", ("1234", "doejane", "canvas")),
    ("van_der_berg_1234_56789_my file.ipynb", ("1234", "van_der_berg", "canvas")),
    ("anon_a3f9X_56789_01_kl.ipynb", ("a3f9X", "anon", "canvas")),
    ("Jane Doe_987_assignsubmission_file", ("987", "Jane Doe", "moodle")),
    ("Jane Doe_987_assignsubmission_file_", ("987", "Jane Doe", "moodle")),
    ("Jane Doe_987_assignsubmission_file_01_kl.ipynb", ("987", "Jane Doe", "moodle")),
    ("Participant_987_assignsubmission_file", ("987", "Participant", "moodle")),
    ("ann.ipynb", ("ann", "ann", "")),
    ("ann_2026_01_kl_divergence.ipynb",) + ((("ann_2026_01_kl_divergence",) * 2 + ("",)),),
    ("ann.zip", ("ann", "ann", "")),
    ("王芳", ("王芳", "王芳", "")),
])
def test_whose_it_is(tmp_path, first, student):
    place = first if first.endswith((".ipynb", ".zip")) else f"{first}/x.ipynb"
    content = zipped(**{"x.ipynb": notebook("1")}) if first.endswith("zip") else notebook("1")
    put(tmp_path, {place: content})
    (one,) = submissions.find(tmp_path)
    assert (one.id, one.name, one.system) == student
    assert one.notebook("01_kl", ["kl"]) == (["1"], "")


def test_a_canvas_zip_with_several_files_of_one_student(tmp_path):
    put(tmp_path, {"submissions.zip": zipped(**{
        "bosam_22_300_01_kl.ipynb": notebook("def kl(): old"),
        "bosam_22_301_01_kl-1.ipynb": notebook("def kl(): new"),
        "bosam_22_302_notes.ipynb": notebook("nothing"),
        "doejane_LATE_11_400_kl.zip": zipped(**{"deep/er/kl.ipynb": notebook("def kl(): hers")}),
        "__MACOSX/._bosam_22_300_01_kl.ipynb": b"junk",
    })})
    ids = found(tmp_path / "submissions.zip")
    assert list(ids) == ["11", "22"]
    assert ids["22"].notebook("01_kl", ["kl", "js"]) == (["def kl(): new"], "")
    assert ids["11"].notebook("01_kl", ["kl", "js"]) == (["def kl(): hers"], "")


def test_who_hands_in_nothing_readable_is_still_a_student(tmp_path):
    (tmp_path / "empty").mkdir()
    put(tmp_path, {
        "word/essay.docx": b"PK", "broken.ipynb": b"{", "list.ipynb": b"[1]",
        "cells.ipynb": b'{"cells": [1, {"cell_type": "code", "source": 5}]}',
        "cut.zip": zipped(**{"a.ipynb": notebook("1")})[:-30], "deep.ipynb": b"[" * 100_000,
        "outside.zip": zipped(**{"../../evil.ipynb": notebook("1")}),
    })
    problems = {k: s.notebook("01_kl", ["kl"])[1] for k, s in found(tmp_path).items()}
    assert set(problems) == {"empty", "word", "broken", "list", "cells", "cut", "deep", "outside"}
    assert problems["empty"] == problems["word"] == "No notebook (.ipynb) was handed in."
    for name in ("broken", "list", "cells", "deep"):
        assert "is no notebook: open it in Jupyter" in problems[name], name
    assert "can't be unpacked" in problems["cut"]
    assert problems["outside"] == "" and not (tmp_path.parent / "evil.ipynb").exists()


def test_large_files_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "LARGEST", 1 << 20)
    put(tmp_path, {
        "bomb.zip": zipped(**{"x.ipynb": bytes(50 << 20)}),  # 50 kB of zip
        "inner.zip": zipped(**{"y.zip": zipped(**{"x.ipynb": bytes(50 << 20)})}),
        "big.ipynb": bytes(2 << 20),
        "huge.zip": bytes(11 << 20),
    })
    for student in submissions.find(tmp_path):
        cells, problem = student.notebook("01_kl", ["kl"])
        assert cells is None and "larger than" in problem, student.id


def test_a_zip_is_not_unpacked_into_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "LARGEST", 1 << 20)
    monkeypatch.setattr(submissions, "MOST", 4 << 20)
    million = bytes(1_000_000)
    liar = io.BytesIO()
    with zipfile.ZipFile(liar, "w", zipfile.ZIP_BZIP2) as archive:  # 900 bytes for a gigabyte
        archive.writestr("a.ipynb", million)
    put(tmp_path, {
        "many.zip": zipped(**{f"{i}.ipynb": million for i in range(9)}),
        "in zips.zip": zipped(**{f"{i}.zip": zipped(**{"a.ipynb": million}) for i in range(9)}),
        "liar.zip": liar.getvalue(),
    })
    kept = {k: sum(len(f.content) for f in s.files) for k, s in found(tmp_path).items()}
    assert kept["many"] <= 4 << 20 and kept["in zips"] <= 4 << 20 and kept["liar"] == 0
    handed_in = {f"{i}_22_300_{i}.zip": zipped(**{"a.ipynb": million}) for i in range(9)}
    put(tmp_path, {"class.zip": zipped(**handed_in | {"last_99_300_x.ipynb": million})})
    everybody = submissions.find(tmp_path / "class.zip")
    assert len(everybody) == 10, "together a class may hand in more than one student"
    assert not any(f.problem for s in everybody for f in s.files)


def test_a_broken_zip_is_nobody_elses_trouble(tmp_path):
    packed = zipped(**{"a.ipynb": notebook("1") * 50})
    at = packed.find(b"a.ipynb") + len("a.ipynb")
    name = zipped(**{"é.ipynb": notebook("1")}).replace("é".encode(), b"\xff\xfe")
    put(tmp_path, {
        "cut.zip": packed[:at] + b"\xff" * 5 + packed[at + 5:],  # zlib.error
        "name.zip": name,  # UnicodeDecodeError
        "digits.zip": zipped(**{f"kl-{'1' * 5_000}.ipynb": notebook("1")}),  # int() refuses those
        "slashes.zip": zipped(**{"//bosam_22_300_kl.ipynb": notebook("1")}),
    })
    problems = {k: s.notebook("01_kl", ["kl"])[1] for k, s in found(tmp_path).items()}
    assert set(problems) == {"cut", "name", "digits", "slashes"}
    assert "can't be unpacked" in problems["cut"] and "can't be unpacked" in problems["name"]
    assert problems["digits"] == problems["slashes"] == ""


def test_a_class_may_have_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "MOST_FILES", 3)
    names = [f"a_{10 + i}_300_x.ipynb" for i in range(9)]
    put(tmp_path, {"class.zip": zipped(**{n: notebook("1") for n in names})})
    assert len(submissions.find(tmp_path / "class.zip")) == 9


def test_two_students_never_share_an_id(tmp_path):
    put(tmp_path, {"ann.ipynb": notebook("1"), "ann.zip": zipped(**{"x.ipynb": notebook("2")}),
                   "Ann/x.ipynb": notebook("3"), "x_77_88888_a.ipynb": notebook("4"),
                   "X Y_77_assignsubmission_file/a.ipynb": notebook("5")})
    ids = [s.id.casefold() for s in submissions.find(tmp_path)]
    assert len(ids) == len(set(ids)) == 4  # ann.ipynb and ann.zip are of one student


def test_old_formats_and_lists_of_lines():
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["a\n", "b"]}]}]}
    file = submissions.File("x.ipynb", b"\xef\xbb\xbf" + json.dumps(old).encode())
    assert submissions.code_cells(file) == (["a\nb"], "")


def test_one_notebook_is_a_class_of_one(tmp_path):
    put(tmp_path, {"ann.ipynb": notebook("1")})
    assert list(found(tmp_path / "ann.ipynb")) == ["ann"]


@pytest.mark.parametrize("harm", ["text", "cut", "empty"])
def test_a_classs_zip_that_is_none_is_no_student(tmp_path, harm):
    whole = zipped(**{"ann_22_300_kl.ipynb": notebook("1")})
    content = {"text": b"<html>Please log in.</html>", "cut": whole[:-30], "empty": b""}[harm]
    put(tmp_path, {"class.zip": content})
    with pytest.raises(UserError, match=r"class\.zip is no zip file, or it is damaged .* again\.$"):
        submissions.find(tmp_path / "class.zip")


@pytest.mark.parametrize("place", ["missing", "x.txt", "empty"])
def test_a_place_without_submissions(tmp_path, place):
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="name what the students handed in|holds no notebooks"):
        submissions.find(tmp_path / place)
