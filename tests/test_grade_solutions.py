"""Every assignment's solution, played in the sandbox that grades students."""

import classroom

from gencourse.checks import core
from gencourse.classroom import grade, sandbox, submissions


def test_every_solution_is_worth_all_points(tmp_path, bubblewrap):
    """Their notebooks need nothing that isn't there, and neither do the drivers.

    One sandbox plays them all, one after the other, since most of its time goes to starting.
    """
    cells, exercises = [], []
    # Backwards, since 01 is the one whose answers use each other, and later ones have a `kl` too.
    for assignment, several in reversed(core.assignments().items()):
        content = (classroom.ROOT / "solutions" / f"{assignment}.ipynb").read_bytes()
        cells += submissions.code_cells(submissions.File("x.ipynb", content))[0]
        exercises += several
    sandbox.course(tmp_path)
    room = sandbox.Room(tmp_path, sandbox.Limits(cell=60))
    verdicts, notes = grade.play(cells, exercises, 11, room)
    assert len(verdicts) == 55
    assert all(v.passed for v in verdicts.values()) and not notes, (verdicts, notes)
