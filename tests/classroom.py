"""A class of simulated students for chapter 01's assignment, and what each of them deserves."""

import ast
import contextlib
import csv
import inspect
import json
import os
import tempfile
import textwrap
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import warm

from gencourse import divergences
from gencourse.checks import chapter_01, core
from gencourse.classroom import sandbox
from gencourse.classroom.grade import grade

ASSIGNMENT = "01_kl_divergence"
EXERCISES = core.assignments()[ASSIGNMENT]
NAMES = [e.name for e in EXERCISES]
ROOT = Path(__file__).resolve().parents[1]
LIMITS = sandbox.Limits(cell=10, call=10)
JS_WITHOUT_KL = """def js(p, q):
    H = lambda r: torch.special.entr(r).sum(-1)
    return H((p + q) / 2) - H(p) / 2 - H(q) / 2
"""


class Student(NamedTuple):
    """What somebody hands in, and what must come out: the mistake of each exercise, "" if right."""

    id: str
    cells: list  # sources
    mistakes: dict  # exercise → its mistake's name; exercises that are right are left out
    notes: tuple = ()  # parts of what must stand in the notes
    closed: bool = False  # played in bubblewrap; the others' code is ours, and their Python warm

    def notebook(self, ids=True):
        """The .ipynb as text; without ids it is as bare as Colab and editors leave it."""
        cells = [{"cell_type": "markdown", "metadata": {}, "source": "# Mine"}]
        for source in self.cells:
            lines = source.splitlines(keepends=True)
            cells.append({"cell_type": "code", "metadata": {}, "source": lines, "outputs": [],
                          "execution_count": None})
        if ids:
            cells = [cell | {"id": f"cell-{i}"} for i, cell in enumerate(cells)]
        return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def code(stem_folder):
    """The sources of the code cells of an assignment's notebook."""
    text = (ROOT / stem_folder / f"{ASSIGNMENT}.ipynb").read_text(encoding="utf-8")
    return ["".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code"]


def answer(cells, name):
    """Which cell holds an answer."""
    (found,) = [i for i, c in enumerate(cells) if c.startswith(f"def {name}(")]
    return found


def replaced(cells, **answers):
    """The cells with other answers: name → source of a cell."""
    cells = list(cells)
    for name, source in answers.items():
        cells[answer(cells, name)] = source
    return cells


def source_of(function, name):
    """A cell that defines a named wrong answer under an exercise's name."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    while not lines[0].startswith("def "):  # the decorator
        lines.pop(0)
    return "\n".join([*lines, f"{name} = {function.__name__}"])


def toolbox():
    """A cell with what wrong answers call: the divergences, and the functions of their module."""
    cell = "import types\ndivergences = types.ModuleType('divergences')\n"
    source = inspect.getsource(divergences)
    cell += f"exec({source!r}, divergences.__dict__)\n"
    kept = []
    for node in ast.parse(inspect.getsource(chapter_01)).body:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
            kept.append(node)
        elif isinstance(node, ast.Import) or getattr(node, "module", "").startswith("torch"):
            kept.append(node)
    return cell + ast.unparse(ast.Module(kept, []))


def students():
    """The whole class."""
    right, blank = code("solutions"), code("exercises")
    return [*honest(right, blank), *mistaken(right), *mangled(right, blank), *hostile(right)]


def honest(right, blank):
    other = replaced(
        right,
        kl="def kl(p, q):\n    q = torch.where(p > 0, q, 1)\n"
        "    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)",
        js=JS_WITHOUT_KL,
        kl_diagonal_gaussians="from torch import distributions as D\n\n"
        "def kl_diagonal_gaussians(a, b, c, d):\n"
        "    normal = lambda m, v: D.Normal(m, (v / 2).exp())\n"
        "    return D.kl_divergence(normal(a, b), normal(c, d)).sum(1)",
    )
    everything = {name: "blank" for name in NAMES}
    half = {name: "blank" for name in NAMES[2:]}
    begun = list(blank)
    for name in NAMES[:2]:
        begun[answer(begun, name)] = right[answer(right, name)]
    return [
        Student("right", right, {}, closed=True),
        Student("right-in-other-ways", other, {}),
        Student("blank", blank, everything),
        Student("half-done", begun, half),
        Student("nothing-but-prose", [], {name: "missing" for name in NAMES}),
    ]


ROUNDS = 8  # named mistakes of each exercise that a class makes; test_answers.py makes them all


def mistaken(right):
    """Everybody makes one mistake in each exercise."""
    found = []
    for i in range(ROUNDS):
        chosen = {e.name: e.wrongs[i] for e in EXERCISES if i < len(e.wrongs)}
        answers = {n: source_of(w.answer, n) for n, w in chosen.items()}
        cells = replaced(right, **{"js": JS_WITHOUT_KL} | answers)  # the solution's js calls kl
        cells.insert(1, "import torch\nfrom torch.nn import functional as F\n" + toolbox())
        mistakes = {n: w.name for n, w in chosen.items()}
        found.append(Student(f"mistake-{i}", cells, mistakes, closed=i == 0))
    generic = {
        "kl": ("shape", "def kl(p, q):\n    return (p * (p / q).log())[..., :1]"),
        "js": ("in-place", "def js(p, q):\n    H = lambda r: torch.special.entr(r).sum(-1)\n"
               "    result = H((p + q) / 2) - H(p) / 2 - H(q) / 2\n    p.sqrt_()\n"
               "    return result"),
        "kl_diagonal_gaussians": ("gradient", right[answer(right, "kl_diagonal_gaussians")].replace(
            "(dim=1)", "(dim=1).detach()")),
        "kl_from_logits": ("dtype", right[answer(right, "kl_from_logits")].replace(
            "log_target=True)", "log_target=True).long()")),
        "wasserstein1": ("exception", "def wasserstein1(x, y):\n    return (x.mean() - 1)[3]"),
    }
    cells = replaced(right, **{n: source for n, (_, source) in generic.items()})
    return [*found, Student("other-faults", cells, {n: kind for n, (kind, _) in generic.items()})]


def mangled(right, blank):
    """Right answers in notebooks that went through Colab, other hands and other orders."""
    answers = [right[answer(right, name)] for name in NAMES]
    others = [c for c in right if c not in answers]
    copies = [*right, *[blank[answer(blank, name)] for name in NAMES]]
    lines = ["%pip install torch", "!nvidia-smi", "%matplotlib inline", "%%time\n1 + 1",
             "from google.colab import drive\ndrive.mount('/content/drive')", "%cd /content"]
    plots = ["import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()", "torch.rand(3)",
             "display(torch.eye(2))", "import pandas_that_nobody_has"]
    broken = [c + "\n1/0" if c.startswith("def js") else c for c in right]
    needs_names = replaced(right, kl="RIGHT = torch.tensor(1)\n" + right[answer(right, "kl")])
    reordered = [c for c in needs_names if "import" not in c]
    reordered += [c for c in needs_names if "import" in c]
    experiment = "for step in range(3):\n    print(kl(torch.ones(1), torch.ones(1)))"
    everything = [*lines, *plots, *copies, experiment, "def f(:", *answers, *lines]
    return [
        Student("through-all-hands", everything, {}, ["SyntaxError"], closed=True),
        Student("colab-lines", [*lines, *right], {}, ["Cell 5 stopped with ModuleNotFoundError"]),
        Student("copied-blanks", copies, {}),
        Student("answers-last", [*others, *answers], {}),
        Student("cells-reordered", reordered, {}),
        Student("extra-cells", [*plots, experiment, *right, *plots, experiment], {}),
        Student("twice", [*right, *right], {}),
        Student("fails-after-the-answer", broken, {}, ["ZeroDivisionError"]),
        Student("syntax-error", ["def f(:", *right, "if x\n  y"], {}, ["SyntaxError"]),
        Student("first-draft-then-better", [source_of(EXERCISES[0].wrongs[0].answer, "kl"), *right],
                {}),
    ]


def hostile(right):
    """Those who would rather change the grade than write the answers.

    Their kl and js are right, so 2 points are what they computed, whatever else they do. Several
    tricks share a notebook where none of them can hide what another one does: what changes Python
    has a notebook of its own, what ends it is left out of the next attempt and has a note.
    """
    shame = {name: "value" for name in NAMES[2:]}
    honest_part = replaced(right, **{
        "kl_diagonal_gaussians": "def kl_diagonal_gaussians(a, b, c, d):\n    return a.sum(1)",
        "kl_from_logits": "def kl_from_logits(*_):\n    return torch.zeros(()).double()",
        "wasserstein1": "def wasserstein1(x, y):\n    return x.sum() * 0 - 1",
    })
    # In the middle, where it may hide what follows, and at the end, where it has the last word.
    middle = answer(honest_part, "js")

    def student(name, before=(), after=(), notes=(), left_out=(), **mistakes):
        cells = [*honest_part[:middle], *before, *honest_part[middle:], *after]
        notes = [*notes, *(f"Cell {cells.index(trick) + 1} was left out: " for trick in left_out)]
        return Student(name, cells, shame | mistakes, notes, closed=True)

    ending = [EXITS_HARD, KILLS_ITSELF, CRASHES, ANSWERS_THE_GRADER]
    using = [FORK_BOMB, FLOODS_THE_REPLY, ENDLESS]
    return [
        student(
            "goes-on", before=[CALLS_HOME, WRITES_TO_DISK, FLOODS, FORKS, FORKS_AND_GOES_ON],
            after=[LOOKS_AROUND, PATCHES_ALLCLOSE, HOOKS_THE_INPUT],
            notes=["unreachable", "ModuleNotFoundError", "No space left"],
        ),
        student(
            "returns-strange-objects", after=[OVERRIDES_EQ, ALWAYS_EQUAL, PICKLES],
            kl_diagonal_gaussians="type", wasserstein1="type",
        ),
        student("patches-the-player", before=[PATCHES_THE_PLAYER]),
        student("patches-the-outcome", [PATCHES_THE_OUTCOME], **dict.fromkeys(NAMES, "unreadable")),
        student(
            "ends-python", before=[EXITS, *ending], left_out=ending,
            notes=["SystemExit", "it ended Python", "killed", "crashed", "no answer"],
        ),
        student(
            "uses-up", before=[*using, MEMORY_BOMB], left_out=using,
            notes=["more than an answer may hold", "longer than 10 s"],
        ),
        student(
            "uses-up-elsewhere", before=[MEMORY_BOMB_IN_CHILDREN],
            after=[ENDLESS_CALL, HUGE_RESULT], left_out=[MEMORY_BOMB_IN_CHILDREN],
            kl_from_logits="did not return", wasserstein1="did not return",
        ),
    ]


LOOP = """while True:
    try:
        while True:
            {}
    except BaseException:
        pass
"""
PATCHES_ALLCLOSE = """import torch
for m in (torch, torch.Tensor, torch.testing):
    for n in ("allclose", "isclose", "equal", "eq", "assert_close"):
        if hasattr(m, n):
            setattr(m, n, lambda *a, **k: True)
"""
OVERRIDES_EQ = """import torch
class Yes(torch.Tensor):
    __eq__ = __le__ = __lt__ = lambda s, o: True
    def __bool__(s): return True
def kl_from_logits(p, q):
    return torch.zeros(()).double().as_subclass(Yes)
"""
ALWAYS_EQUAL = """class Same:
    def __eq__(s, o): return True
    def __getattr__(s, n): return Same()
    def __bool__(s): return True
def wasserstein1(x, y):
    return Same()
"""
PICKLES = """import os
class Bad:
    def __reduce__(s):
        return os.system, ("touch /tmp/gencourse-was-here",)
def kl_diagonal_gaussians(a, b, c, d):
    return Bad()
"""
HOOKS_THE_INPUT = """ip = get_ipython()
ip.input_transformers_cleanup.append(
    lambda lines: ["passed = True\\n"] if any("def kl_" in x for x in lines) else lines)
ip.events.register("post_run_cell", lambda *a: ip.user_ns.update(score=100))
"""
PATCHES_THE_PLAYER = """import sys
for name, m in list(sys.modules.items()):
    if name.startswith("gencourse.checks"):
        for k in list(vars(m)):
            if k in ("is_blank", "_same", "_codes"):
                setattr(m, k, lambda *a, **k: True)
"""
PATCHES_THE_OUTCOME = """import gencourse.checks.inside as i
i.Outcome.__new__.__defaults__ = (None,) * 5
i.outcome = lambda *a, **k: i.Outcome(value=True, error=None)
"""
ANSWERS_THE_GRADER = """import json, os, struct
text = json.dumps({"dict": [["number", {"int": "9"}], ["result", True]]}).encode()
for f in range(3, 64):
    try:
        os.write(f, struct.pack("<QQ", len(text), 0) + text)
    except OSError:
        pass
"""
EXITS = "import sys\nsys.exit(0)"
EXITS_HARD = "import os\nos._exit(0)"
KILLS_ITSELF = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
CRASHES = "import ctypes\nctypes.string_at(0)"
FORKS = "import os, time\nif os.fork() == 0:\n    time.sleep(600)"
FORKS_AND_GOES_ON = "import os\nos.fork()\nos.fork()"
# Up to 512 processes, eight times what is allowed, and no more: where the kernel doesn't count them
# (root in a container), one without end can outrun the look that is taken every tenth of a second.
FORK_BOMB = "import os, time\nfor _ in range(9):\n    os.fork()\ntime.sleep(600)"
FLOODS = """import os, sys
for i in range(2000):
    print("x" * 10_000)
    os.write(1, b"x" * 10_000)
    os.write(2, b"x" * 10_000)
"""
FLOODS_THE_REPLY = """import os
for f in range(3, 64):
    try:
        while True:
            os.write(f, b"\\xff" * 1_000_000)
    except OSError:
        pass
"""
WRITES_TO_DISK = "for i in range(1_000):\n    open(f'/tmp/{i}', 'wb').write(bytes(10**7))"
ENDLESS = "import time\n" + LOOP.format("time.sleep(600)")
ENDLESS_CALL = "def kl_from_logits(p, q):\n" + textwrap.indent(LOOP.format("pass"), "    ")
MEMORY_BOMB = "x = []\nwhile True:\n    x.append(bytearray(10**8))"
MEMORY_BOMB_IN_CHILDREN = """import os, time
for i in range(20):
    if os.fork() == 0:
        x = bytearray(10**9)
        for j in range(0, 10**9, 4096):
            x[j] = 1
        time.sleep(600)
time.sleep(600)
"""
HUGE_RESULT = "def wasserstein1(x, y):\n    return torch.zeros(10**8)"
LOOKS_AROUND = """import glob, sys
tail = "/gencourse/checks/chapter_01.py"
for p in [*sys.path, "/root/**", "/home/**", "/work/**"]:
    for f in glob.glob(p + tail, recursive=True):
        sys.path.insert(0, f.removesuffix(tail))
import gencourse.checks.chapter_01 as c
def wasserstein1(x, y): return c.wasserstein1.right(x, y)
"""
CALLS_HOME = """import socket, urllib.request
socket.create_connection(("1.1.1.1", 53), timeout=5)
"""


# --- handing in and grading -----------------------------------------------------------------------


def hand_in(folder, students):
    """Write students' work into a folder the ways that they do: notebooks, folders, zip files."""
    folder.mkdir(exist_ok=True)
    for i, student in enumerate(students):
        text = student.notebook(ids=i % 2 == 0)
        if i % 3 == 0:
            (folder / f"{student.id}.ipynb").write_text(text, encoding="utf-8")
        elif i % 3 == 1:
            (folder / student.id / "work").mkdir(parents=True)
            (folder / student.id / "work" / "my copy.ipynb").write_text(text, encoding="utf-8")
        else:
            with zipfile.ZipFile(folder / f"{student.id}.zip", "w") as archive:
                archive.writestr(f"{ASSIGNMENT}.ipynb", text)
                archive.writestr("__MACOSX/._x.ipynb", "junk")


def rows(out):
    """ID → row of a folder's grades.csv."""
    with open(out / "grades.csv", encoding="utf-8", newline="") as file:
        return {row["ID"]: row for row in csv.DictReader(file)}


def graded(folder, out, **options):
    """ID → Grade of everybody in a folder of submissions."""
    options = {"seed": 7, "limits": LIMITS} | options
    return {g.id: g for g in grade(folder, ASSIGNMENT, out, **options)}


class WarmRoom(sandbox.Room):
    """A room without walls in which Python has started already, for notebooks that are ours.

    Its grades are kept as those of bubblewrap are: the same values come out of both.
    """

    def __init__(self, folder, limits, **_):
        super().__init__(folder, limits, unsafe=True)
        self.kind = "bubblewrap"

    @contextlib.contextmanager
    def filter(self):
        yield [], []

    def environment(self):
        """What is read when Python starts is as it is here: with anything else it isn't warm."""
        starting = (*warm.AT_START, "GENCOURSE_TEST_SERVER")
        inside = {k: v for k, v in super().environment().items() if not k.startswith(starting)}
        here = {k: v for k, v in os.environ.items() if k.startswith(starting)}
        return inside | here | {"PYTHONPATH": str(self.folder)}

    def command(self, *_):
        return [*warm.PYTHON, "-m", "gencourse.checks.play"]


def class_graded(students, folder, out, **options):
    """ID → Grade of students: the closed ones are played in bubblewrap, the others need none."""
    hand_in(folder, students)
    with tempfile.TemporaryDirectory() as ours, pytest.MonkeyPatch.context() as patch:
        hand_in(Path(ours), [s for s in students if not s.closed])
        patch.setattr(sandbox, "Room", WarmRoom)
        graded(ours, out, **options)
    known = {p: p.stat().st_mtime_ns for p in out.glob("results/*.json")}
    grades = graded(folder, out, **options)
    assert {p: p.stat().st_mtime_ns for p in known} == known, "these were played twice"
    return grades
