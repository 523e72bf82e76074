"""Schools that run nbgrader: its own commands make our exercises from our solution and grade them.

What is checked: `generate_assignment` releases exactly the cells of exercises/; `autograde` gives
the solution full points and the blank none. And why its grades are advisory: one line forges them.
"""

import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
import rules
import warm
from ipykernel.kernelspec import write_kernel_spec

import exercises

STEM = "01_kl_divergence"
POINTS = [e.points for e in exercises.definitions(STEM)]
CONFIG = f"""
c = get_config()
c.CourseDirectory.course_id = "gencourse"
c.ClearSolutions.code_stub = {{"python": {exercises.core.STUB!r}}}
"""
FORGED = "check = print  # and every function stays blank"


def submission(course, student, notebook):
    folder = course / "submitted" / student / STEM
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / f"{STEM}.ipynb")


@pytest.fixture(scope="module")
def course(tmp_path_factory, nbgrader):
    """A course folder as nbgrader wants it, its assignment released, three submissions graded."""
    course = tmp_path_factory.mktemp("course")
    solution = rules.SOLUTIONS / f"{STEM}.ipynb"
    blank = nbformat.read(rules.EXERCISES / f"{STEM}.ipynb", as_version=4)
    (course / "source" / STEM).mkdir(parents=True)
    shutil.copy(solution, course / "source" / STEM)
    (course / "nbgrader_config.py").write_text(CONFIG)
    write_kernel_spec(course / "jupyter" / "kernels" / "python3")  # this Python, wherever it is
    commands = Path(sys.executable).parent  # nbgrader itself calls `alembic` by its bare name
    env = os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "JUPYTER_PATH": str(course / "jupyter"), "JUPYTER_CONFIG_DIR": str(course / "config"),
    }

    def run(command):
        done = warm.run("-m", "nbgrader", command, STEM, cwd=course, env=env)
        assert done.returncode == 0, done.stderr

    run("generate_assignment")
    submission(course, "solved", nbformat.read(solution, as_version=4))
    submission(course, "blank", blank)
    cells = {c.metadata.get("nbgrader", {}).get("grade_id"): c for c in blank.cells}
    cells["kl"].source += f"\n\n\n{FORGED}"
    submission(course, "forger", blank)
    run("autograde")
    return course


@pytest.fixture(scope="module")
def grades(course):
    """(student, grade_id) → (points, of how many)."""
    from nbgrader.api import Gradebook

    path = os.environ["PATH"]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
    try:
        with Gradebook(f"sqlite:///{course}/gradebook.db", "gencourse") as book:
            return {
                (submitted.student.id, grade.name): (grade.score, grade.max_score)
                for submitted in book.assignment_submissions(STEM)
                for grade in submitted.notebooks[0].grades
            }
    finally:
        os.environ["PATH"] = path


def expected(student, share):
    return {(student, f"check_{e.name}"): (share * e.points, e.points)
            for e in exercises.definitions(STEM)}


def test_nbgrader_releases_the_cells_of_our_exercises(course):
    released = nbformat.read(course / "release" / STEM / f"{STEM}.ipynb", as_version=4)
    ours = nbformat.read(rules.EXERCISES / f"{STEM}.ipynb", as_version=4)
    assert released.cells == ours.cells


def test_the_solution_gets_full_points_and_the_blank_none(grades):
    assert sum(POINTS) == 9
    for student, share in (("solved", 1), ("blank", 0)):
        assert {k: v for k, v in grades.items() if k[0] == student} == expected(student, share)


def test_one_line_forges_a_grade_that_is_given_inside_the_kernel(grades):
    """Not what we want, but what is: the teacher's page says so, and `gencourse grade` exists."""
    assert {k: v for k, v in grades.items() if k[0] == "forger"} == expected("forger", 1)
