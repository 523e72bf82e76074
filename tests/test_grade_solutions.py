"""Assignments' solutions, played in the sandbox that grades students; all with `-m answers`."""

import asked
import classroom
import pytest

from gencourse.checks import core
from gencourse.classroom import grade, sandbox, submissions

pytestmark = pytest.mark.answers
FEW = ("01_kl_divergence", "02_minimax", "08_vae")


def test_every_solution_is_worth_all_points(tmp_path, bubblewrap, pytestconfig):
    """Their notebooks need nothing that isn't there, and neither do the drivers.

    One sandbox plays them all, one after the other, since most of its time goes to starting.
    """
    cells, exercises = [], []
    # Backwards, since 01 is the one whose answers use each other, and later ones have a `kl` too.
    played = core.assignments()
    if not asked.all_of("answers", pytestconfig):
        played = {assignment: played[assignment] for assignment in FEW}
    for assignment, several in reversed(played.items()):
        content = (classroom.ROOT / "solutions" / f"{assignment}.ipynb").read_bytes()
        cells += submissions.code_cells(submissions.File("x.ipynb", content))[0]
        exercises += several
    sandbox.course(tmp_path)
    room = sandbox.Room(tmp_path, sandbox.Limits(cell=60))
    verdicts, notes = grade.play(cells, exercises, 11, room)
    assert len(verdicts) == len(exercises) == 5 * len(played)
    assert all(v.passed for v in verdicts.values()) and not notes, (verdicts, notes)
