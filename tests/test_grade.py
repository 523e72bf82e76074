"""`gencourse grade`: going on, going wrong, and what notebooks make up."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import struct
import time
import types

import classroom
import pytest
import torch
import warm

from gencourse.checks import core, values
from gencourse.classroom import grade as grading
from gencourse.classroom import sandbox, submissions
from gencourse.runtime import UserError

TESTS = os.path.dirname(__file__)
STUDENTS = {s.id: s for s in classroom.students()}


@pytest.fixture(scope="module", autouse=True)
def _sandbox(bubblewrap):
    pass


def small_class(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / f"{name}.ipynb").write_text(STUDENTS[name].notebook(), encoding="utf-8")


def test_an_interrupted_batch_goes_on(tmp_path):
    small_class(tmp_path / "in", "right", "blank", "half-done")
    out = tmp_path / "out"
    command = ["-m", "gencourse", "grade", tmp_path / "in", "--assignment", classroom.ASSIGNMENT,
               "--out", out, "--workers", 1]
    warm_room = "import classroom\nclassroom.sandbox.Room = classroom.WarmRoom"
    (tmp_path / "first.py").write_text(f"import sys\nsys.path.append({TESTS!r})\n{warm_room}")
    env = os.environ | {"GENCOURSE_TEST_FIRST": str(tmp_path / "first.py")}
    first = warm.Process(*command, env=env)
    until = time.monotonic() + 240
    while not list(out.glob("results/*.json")) and time.monotonic() < until:
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    assert first.wait(120) == 130 and "same command" in first.said()[1], first.said()
    done = {p: p.stat().st_mtime_ns for p in out.glob("results/*.json")}
    assert 1 <= len(done) < 3 and not (out / "grades.csv").exists()
    second = warm.run(*command, env=env)
    assert second.returncode == 0, second.stderr
    assert {p: p.stat().st_mtime_ns for p in done} == done
    points = {name: int(row[classroom.ASSIGNMENT]) for name, row in classroom.rows(out).items()}
    assert points == {"right": 9, "blank": 0, "half-done": 2}

    # a changed submission is graded again, the others are not
    shutil.copy(tmp_path / "in" / "right.ipynb", tmp_path / "in" / "blank.ipynb")
    done = {p: p.stat().st_mtime_ns for p in out.glob("results/*.json")}
    third = warm.run(*command, "--fail-under", 50, env=env)
    assert third.returncode == 1 and "less than 50 %" in third.stderr
    changed = [p.stem for p, at in done.items() if p.stat().st_mtime_ns != at]
    assert changed == ["blank"] and classroom.rows(out)["blank"][classroom.ASSIGNMENT] == "9"


def test_a_bug_that_one_notebook_finds_in_the_grader_costs_nobody_else(tmp_path, monkeypatch):
    def play(cells, exercises, seed, room):
        if any("half" in cell for cell in cells):
            raise ZeroDivisionError("oh")
        return {e.name: core.Verdict(True, "", "Fine.") for e in exercises}, []

    monkeypatch.setattr(grading, "play", play)
    (tmp_path / "in").mkdir()
    for name in ("whole", "half"):
        cells = classroom.Student(name, [name], {}).notebook()
        (tmp_path / "in" / f"{name}.ipynb").write_text(cells, encoding="utf-8")
    grades = classroom.graded(tmp_path / "in", tmp_path / "out")
    assert grades["whole"].score(classroom.EXERCISES[0]) == 1
    assert "ZeroDivisionError" in grades["half"].notes[0]
    assert not (tmp_path / "out" / "results" / "half.json").exists(), "it is tried again"


def test_names_and_messages_cannot_write_into_pages_or_spreadsheets(tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "play", lambda cells, exercises, seed, room: (
        {e.name: core.Verdict(False, "exception", "<script>alert(1)</script>")
         for e in exercises}, ["<b>note"]))
    (tmp_path / "in").mkdir()
    name = '=cmd|" \udce4<i>'
    (tmp_path / "in" / f"{name}.ipynb").write_text(STUDENTS["blank"].notebook(), encoding="utf-8")
    classroom.graded(tmp_path / "in", tmp_path / "out")
    (page,) = (tmp_path / "out" / "pages").iterdir()
    text = page.read_text(encoding="utf-8") + (tmp_path / "out" / "summary.html").read_text()
    assert not re.search("<script|<b>note|<i>", text) and "&lt;script" in text
    (row,) = classroom.rows(tmp_path / "out").values()
    assert row["Student"].startswith("'=")


@pytest.mark.parametrize("made_up", [
    [], [{}] * 6, [{"value": 1}], "yes", 3, {"a": 1}, [None] * 6, [{"passed": True}] * 6,
    [{"error": 5}] * 6, [{"value": None, "error": {}}] * 5, [{"gradients": 7}] * 5,
    [{"devices": 3, "changed": 4, "gradients": {"q": "x"}}] * 5,
])
def test_what_a_sandbox_makes_up_is_never_worth_points(made_up):
    for exercise in classroom.EXERCISES:
        verdict = grading.judge(exercise, made_up, seed=1)
        assert not verdict.passed and verdict.sentence


def test_a_wrong_number_is_not_rounded_to_the_right_one():
    assert core._difference(2.7, torch.tensor(2), 1e-4, 1e-6)
    assert core._difference(2, torch.tensor(2), 1e-4, 1e-6) is None


def tensors_of(**header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def test_a_message_cannot_grow_when_it_is_read():
    """One tensor named a thousand times, or a million tensors, would take minutes and gigabytes."""
    body = values.pack(torch.zeros(3))[values.LENGTHS.size + len('{"tensor": 0}'):]
    assert values.unpack(b'{"tensor": 0}', body).shape == (3,)
    with pytest.raises(values.Unreadable):
        values.unpack(b'[{"tensor": 0}, {"tensor": 0}]', body)
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    assert values.unpack(b"1", tensors_of(**{"0": nothing})) == 1
    with pytest.raises(values.Unreadable, match="Too much is said"):
        values.unpack(b"1", tensors_of(**{str(i): nothing for i in range(20_000)}))


@pytest.mark.parametrize("reply", [
    torch.zeros(2), {"number": torch.zeros(2), "result": None}, None, 5, [], {},
    {"number": True, "result": None}, {"number": 1},
])
def test_a_reply_that_is_none_ends_the_sandbox(reply, monkeypatch):
    box = object.__new__(sandbox.Sandbox)
    box.number = 0
    whole = io.BytesIO(values.pack(reply))
    monkeypatch.setattr(box, "_send", lambda *_: None, raising=False)
    monkeypatch.setattr(box, "_read", lambda count, *_: whole.read(count), raising=False)
    with pytest.raises(sandbox.Ended, match="no answer"):
        box.ask("cell", {}, 1)


@pytest.mark.parametrize("error", [
    "yes", 3, torch.zeros(2), [1], {"kind": torch.zeros(2)}, {"message": ["x" * 10**6] * 3},
])
def test_an_error_that_is_made_up_is_nobodys_trouble(error):
    box = types.SimpleNamespace(ask=lambda do, *_: error if do == "cell" else None)
    limits = classroom.LIMITS
    room = types.SimpleNamespace(limits=limits, open=lambda _: contextlib.nullcontext(box))
    verdicts, notes = grading.play(["1"], classroom.EXERCISES, 7, room)
    assert {v.mistake for v in verdicts.values()} == {"missing"}
    assert sum(map(len, notes)) < 2_000


def test_a_submission_that_breaks_its_own_reading_stops_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "play", lambda cells, exercises, seed, room: (
        {e.name: core.Verdict(True, "", "Fine.") for e in exercises}, []))
    monkeypatch.setattr(submissions, "code_cells", lambda file: 1 / (file.name != "blank.ipynb"))
    small_class(tmp_path / "in", "blank")
    grades = classroom.graded(tmp_path / "in", tmp_path / "out")
    assert "ZeroDivisionError" in grades["blank"].notes[0]


def test_files_have_names_of_their_own_that_are_short_enough():
    other = grading._file_name("x y")
    assert grading._file_name("ann") == "ann"
    assert grading._file_name(other) != other, "a student may be called like another's file"
    assert grading._file_name("a\udce4") != grading._file_name("a\udce5")
    assert len(f".{grading._file_name(chr(0x20000) * 60 + ' ')}.html.tmp".encode()) < 255


def test_settings_are_checked(tmp_path):
    small_class(tmp_path / "in", "blank")
    with pytest.raises(UserError, match="no assignment '01'; there are 01_kl_divergence"):
        grading.grade(tmp_path / "in", "01", tmp_path / "out")
    (tmp_path / "out").mkdir()
    settings = {"assignment": "02_minimax", "seed": 1}
    (tmp_path / "out" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="holds grades of 02_minimax"):
        classroom.graded(tmp_path / "in", tmp_path / "out")


def test_the_seed_is_secret_and_kept(tmp_path):
    seeds = {grading._seed(tmp_path / str(i), "01_kl_divergence", None) for i in range(4)}
    assert len(seeds) == 4
    kept = grading._seed(tmp_path / "0", "01_kl_divergence", None)
    assert kept in seeds


def test_moodles_worksheet_is_filled_in(tmp_path):
    passed = core.Verdict(True, "", "Fine.")
    failed = core.Verdict(False, "value", "No.")
    verdicts = {e.name: failed for e in classroom.EXERCISES} | {"wasserstein1": passed}
    grades = [grading.Grade("1234", "Ann Bo", "moodle", verdicts, [])]
    worksheet = tmp_path / "worksheet.csv"
    worksheet.write_text(
        "\ufeffIdentifier,Full name,Grade,Maximum Grade,Last modified (grade)\n"
        'Participant 1234,"Bo, Ann",,100.00,-\nParticipant 99,Cy Do,,100.00,-\n', encoding="utf-8")
    assert grading.fill_worksheet(worksheet, grades, classroom.EXERCISES, tmp_path) == 1
    filled = list(csv.DictReader(io.StringIO((tmp_path / "moodle.csv").read_text())))
    assert [row["Grade"] for row in filled] == ["33.3333", ""]
    assert filled[0]["Full name"] == "Bo, Ann"
    worksheet.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column Grade"):
        grading.fill_worksheet(worksheet, grades, classroom.EXERCISES, tmp_path)
