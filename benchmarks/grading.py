"""How fast a class is graded, and what a worker takes, beside nbgrader on the same notebooks.

    python benchmarks/grading.py                      # 200 submissions, every tenth hostile
    python benchmarks/grading.py --submissions 12 --peer   # nbgrader too, honest notebooks only

The class is that of the tests (chapter 01): right, wrong in named ways, blank, mangled by Colab,
and hostile ones that fork, flood, loop and crash. Prints submissions per minute, and the peak
memory of one sandbox with everything in it, looked at twice a second.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import classroom  # noqa: E402  (from the tests)

from gencourse import runtime  # noqa: E402
from gencourse.classroom.grade import grade  # noqa: E402


def students(count, hostile_tenth):
    """(id, Student) of a class of this size."""
    right, blank = classroom.code("solutions"), classroom.code("exercises")
    usual = [*classroom.honest(right, blank), *classroom.mistaken(right)]
    usual = itertools.cycle([*usual, *classroom.mangled(right, blank)])
    bad = itertools.cycle(classroom.hostile(right))
    for i in range(count):
        one = next(bad if hostile_tenth and i % 10 == 9 else usual)
        yield one._replace(id=f"{i:03}-{one.id}")


def watch(peaks, done):
    """Note the largest memory [bytes] of every sandbox: of its processes together."""
    while not done.wait(0.5):
        for child in psutil.Process().children():
            try:
                family = [child, *child.children(recursive=True)]
                used = sum(p.memory_info().rss for p in family)
                peaks[child.pid] = max(used, peaks.get(child.pid, 0))
            except psutil.Error:
                pass


def ours(folder, out):
    """(seconds, grades, [peak bytes of each sandbox])."""
    peaks, done = {}, threading.Event()
    watcher = threading.Thread(target=watch, args=(peaks, done))
    watcher.start()
    began = time.monotonic()
    try:
        grades = grade(folder, classroom.ASSIGNMENT, out, seed=7)
    finally:
        done.set()
        watcher.join()
    return time.monotonic() - began, grades, list(peaks.values())


def nbgraders(members, course):
    """(seconds, [score of each]) of nbgrader's autograde, one after the other as it works."""
    import nbformat
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # alembic
    assignment = classroom.ASSIGNMENT
    source = course / "source" / assignment
    source.mkdir(parents=True)
    solution = ROOT / "solutions" / f"{assignment}.ipynb"
    (source / solution.name).write_text(solution.read_text(encoding="utf-8"), encoding="utf-8")
    config = Config()
    config.CourseDirectory.root, config.CourseDirectory.course_id = str(course), "c"
    config.ExecutePreprocessor.timeout = 60
    api = NbGraderAPI(config=config)
    made = api.generate_assignment(assignment, create=True, force=True)
    assert made["success"], made["log"]
    for one in members:
        notebook = nbformat.read(course / "release" / assignment / solution.name, 4)
        cells = [c for c in notebook.cells if c.cell_type == "code"]
        for cell, text in zip(cells, one.cells, strict=True):
            cell.source = text
        place = course / "submitted" / one.id / assignment
        place.mkdir(parents=True)
        nbformat.write(notebook, place / solution.name)
    began = time.monotonic()
    for one in members:
        api.autograde(assignment, one.id, create=True, force=True)
    seconds = time.monotonic() - began
    with api.gradebook as book:
        return seconds, [s.score for s in book.assignment_submissions(assignment)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--submissions", type=int, default=200)
    parser.add_argument("--peer", action="store_true", help="nbgrader on the same notebooks")
    arguments = parser.parse_args()
    print(f"{runtime.describe()} · {psutil.virtual_memory().total >> 30} GB")
    with tempfile.TemporaryDirectory() as folder:
        handed_in = Path(folder) / "in"
        handed_in.mkdir()
        members = list(students(arguments.submissions, not arguments.peer))
        if arguments.peer:  # what nbgrader can grade too: no cells added or moved
            right = classroom.code("solutions")
            members = [one._replace(cells=right) for one in members]
        classroom.hand_in(handed_in, members)
        seconds, grades, peaks = ours(handed_in, Path(folder) / "out")
        print(f"gencourse: {len(grades)} submissions in {seconds:.0f} s, "
              f"{60 * len(grades) / seconds:.1f} a minute")
        peaks = sorted(p / (1 << 20) for p in peaks)
        print(f"memory of a sandbox: median {peaks[len(peaks) // 2]:.0f} MiB, largest "
              f"{peaks[-1]:.0f} MiB, {len(peaks)} sandboxes")
        wrong = [one.id for one, got in zip(sorted(members), grades, strict=True) if one.mistakes
                 != {k: v.mistake for k, v in got.verdicts.items() if not v.passed}]
        print(f"other grades than deserved: {json.dumps(wrong)}")
        if arguments.peer:
            theirs, scores = nbgraders(members, Path(folder) / "course")
            print(f"nbgrader: {len(scores)} in {theirs:.0f} s, {60 * len(scores) / theirs:.1f} a "
                  f"minute, scores {sorted(set(scores))}; ours is {theirs / seconds:.2f}× as fast")


if __name__ == "__main__":
    main()
