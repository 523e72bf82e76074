"""`gencourse grade` on a class of simulated students, some of them hostile.

Twelve show it; `pytest -m answers` grades the whole class.
"""

import os
import re

import asked
import classroom
import pytest
from classroom import ASSIGNMENT

from gencourse.classroom import sandbox

pytestmark = [pytest.mark.answers, pytest.mark.usefixtures("bubblewrap")]
STUDENTS = {s.id: s for s in classroom.students()}
TWELVE = [
    *("right", "right-in-other-ways", "blank", "half-done", "nothing-but-prose"),
    *("mistake-0", "mistake-1", "other-faults", "fails-after-the-answer"),
    *("goes-on", "patches-the-outcome", "ends-python"),
]
WAS_HERE = "/tmp/gencourse-was-here"  # what the student "pickles" tries to leave behind


def present(config):
    return list(STUDENTS) if asked.all_of("answers", config) else TWELVE


def pytest_generate_tests(metafunc):
    if "student" in metafunc.fixturenames:
        metafunc.parametrize("student", present(metafunc.config))


@pytest.fixture(scope="module")
def the_class(tmp_path_factory, request):
    """All who are present, graded once: (folder of submissions, folder of grades, id → Grade)."""
    if os.path.exists(WAS_HERE):
        os.remove(WAS_HERE)
    folder, out = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("grades")
    students = [STUDENTS[name] for name in present(request.config)]
    return folder, out, classroom.class_graded(students, folder, out)


# --- the class ------------------------------------------------------------------------------------


def test_the_class_is_large_and_everybody_has_a_grade(the_class, pytestconfig):
    _, out, grades = the_class
    assert len(STUDENTS) >= 24 and sum(s.closed for s in STUDENTS.values()) >= 10
    assert set(grades) == set(present(pytestconfig)) == set(classroom.rows(out))


def test_everybody_gets_what_they_computed(the_class, student):
    _, out, grades = the_class
    expected, one = STUDENTS[student], grades[student]
    mistakes = {k: v.mistake for k, v in one.verdicts.items() if not v.passed}
    assert mistakes == expected.mistakes, (one.verdicts, one.notes)
    row = classroom.rows(out)[student]
    points = {e.name: 0 if e.name in expected.mistakes else e.points for e in classroom.EXERCISES}
    assert {name: int(row[name]) for name in points} == points
    assert int(row[ASSIGNMENT]) == sum(points.values())
    notes = " ".join(one.notes)
    assert all(part in notes for part in expected.notes), (expected.notes, notes)
    for verdict in one.verdicts.values():
        assert verdict.sentence.strip() and verdict.detail == "", verdict


def test_mistakes_of_every_exercise_are_named(the_class):
    made = {(k, v.mistake) for one in the_class[2].values() for k, v in one.verdicts.items()}
    rounds = sum(name.startswith("mistake-") for name in the_class[2])
    assert rounds > 1
    named = {(e.name, w.name) for e in classroom.EXERCISES for w in e.wrongs[:rounds]}
    assert named <= made


def test_nothing_came_out_of_a_sandbox(the_class):
    assert not os.path.exists(WAS_HERE)


def test_pages_show_verdict_and_hint_and_no_expected_value(the_class):
    _, out, grades = the_class
    page = (out / "pages" / "mistake-0.html").read_text(encoding="utf-8")
    for verdict in grades["mistake-0"].verdicts.values():
        plain = re.sub(r"</?code>", "`", page)
        assert verdict.sentence.replace("'", "&#x27;") in plain.replace("&quot;", '"')
    everything = "".join(p.read_text(encoding="utf-8") for p in (out / "pages").iterdir())
    assert "Hint: " in everything and "Expected" not in everything
    assert "closed_form" not in everything and "log_softmax(-1)" not in everything
    right = (out / "pages" / "right.html").read_text(encoding="utf-8")
    assert "9 of 9 points" in right and "✗" not in right


def test_the_summary_counts_mistakes(the_class):
    _, out, grades = the_class
    summary = (out / "summary.html").read_text(encoding="utf-8")
    blank = sum(g.verdicts["wasserstein1"].mistake == "blank" for g in grades.values())
    assert f"blank ({blank})" in summary
    assert all(f"pages/{name}.html" in summary for name in grades)
    assert (out / "mistakes.png").read_bytes().startswith(b"\x89PNG")


def test_grading_again_runs_nothing_and_changes_nothing(the_class, monkeypatch):
    folder, out, grades = the_class
    before = (out / "grades.csv").read_bytes()
    monkeypatch.setattr(sandbox.Room, "open", lambda *_: pytest.fail("a sandbox was opened"))
    assert classroom.graded(folder, out) == grades
    assert (out / "grades.csv").read_bytes() == before


def test_another_folder_of_grades_gives_the_same_rows(the_class, tmp_path):
    """From nothing, in another order, side by side with other neighbours, with other inputs."""
    some = ["right", "mistake-0", "other-faults", "goes-on", "blank"]
    students = [STUDENTS[name] for name in some]
    classroom.class_graded(students, tmp_path / "in", tmp_path / "out", seed=None, workers=3)
    before = classroom.rows(the_class[1])
    assert classroom.rows(tmp_path / "out") == {name: before[name] for name in some}
