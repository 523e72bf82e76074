"""Every assignment's solution, played in the sandbox that grades students."""

import classroom
import pytest

from gencourse import grade, sandbox, submissions
from gencourse.checks import core


@pytest.mark.parametrize("assignment", core.assignments())
def test_every_solution_is_worth_all_points(assignment, tmp_path, bubblewrap):
    """Its notebook needs nothing that isn't there, its drivers are, and no exercise takes long."""
    exercises = core.assignments()[assignment]
    cells, _ = submissions.code_cells(submissions.File("x.ipynb", (
        classroom.ROOT / "solutions" / f"{assignment}.ipynb").read_bytes()))
    sandbox.course(tmp_path)
    room = sandbox.Room(tmp_path, sandbox.Limits(cell=60))
    verdicts, notes = grade.play(cells, exercises, 11, room)
    assert all(v.passed for v in verdicts.values()) and not notes, (verdicts, notes)
