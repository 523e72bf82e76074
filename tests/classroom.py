"""A class of simulated students for chapter 01's assignment, and what each of them deserves."""

import csv
import inspect
import json
import textwrap
import zipfile
from pathlib import Path
from typing import NamedTuple

from gencourse import divergences
from gencourse.checks import core
from gencourse.classroom import sandbox
from gencourse.classroom.grade import grade

ASSIGNMENT = "01_kl_divergence"
EXERCISES = core.assignments()[ASSIGNMENT]
NAMES = [e.name for e in EXERCISES]
ROOT = Path(__file__).resolve().parents[1]
LIMITS = sandbox.Limits(cell=10, call=10)


class Student(NamedTuple):
    """What somebody hands in, and what must come out: the mistake of each exercise, "" if right."""

    id: str
    cells: list  # sources
    mistakes: dict  # exercise → its mistake's name; exercises that are right are left out
    notes: str = ""  # a part of what must stand in the notes

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
    """A cell with what wrong answers call: the divergences, and the references they start from."""
    cell = "import types\ndivergences = types.ModuleType('divergences')\n"
    source = inspect.getsource(divergences)
    cell += f"exec({source!r}, divergences.__dict__)\n"
    module = inspect.getmodule(EXERCISES[2].right)
    return cell + "\n\n".join(
        textwrap.dedent(inspect.getsource(getattr(module, name))).split("\n", 1)[1]
        for name in ("closed_form", "batchmean")
    )


def students():
    """The whole class."""
    right, blank = code("solutions"), code("exercises")
    return [*honest(right, blank), *mistaken(right), *mangled(right, blank), *hostile(right)]


def honest(right, blank):
    other = replaced(
        right,
        kl="def kl(p, q):\n    q = torch.where(p > 0, q, 1)\n"
        "    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)",
        js="def js(p, q):\n    H = lambda r: torch.special.entr(r).sum(-1)\n"
        "    return H((p + q) / 2) - H(p) / 2 - H(q) / 2",
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
        Student("right", right, {}),
        Student("right-in-other-ways", other, {}),
        Student("blank", blank, everything),
        Student("half-done", begun, half),
        Student("nothing-but-prose", [], {name: "missing" for name in NAMES}),
    ]


def mistaken(right):
    """Everybody makes one mistake in each exercise, until every named one was made."""
    most = max(len(e.wrongs) for e in EXERCISES)
    found = []
    for i in range(most):
        chosen = {e.name: e.wrongs[i] for e in EXERCISES if i < len(e.wrongs)}
        cells = replaced(right, **{n: source_of(w.answer, n) for n, w in chosen.items()})
        cells.insert(1, "import torch\nfrom torch.nn import functional as F\n" + toolbox())
        mistakes = {n: w.name for n, w in chosen.items()}
        if mistakes["kl"] == "nan_at_zero":
            mistakes.setdefault("js", "not finite")  # the solution's js calls kl
        found.append(Student(f"mistake-{i}", cells, mistakes))
    generic = {
        "kl": ("shape", "def kl(p, q):\n    return (p * (p / q).log())[..., :1]"),
        "js": ("in-place", "def js(p, q):\n    H = lambda r: torch.special.entr(r).sum(-1)\n"
               "    result = H((p + q) / 2) - H(p) / 2 - H(q) / 2\n    p.sqrt_()\n"
               "    return result"),
        "kl_diagonal_gaussians": ("gradient", right[answer(right, "kl_diagonal_gaussians")].replace(
            "(dim=1)", "(dim=1).detach()")),
        "kl_from_logits": ("dtype", right[answer(right, "kl_from_logits")].replace(
            "log_target=True)", "log_target=True).float()")),
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
    return [
        Student("colab-lines", [*lines, *right], {}, "Cell 5 stopped with ModuleNotFoundError"),
        Student("copied-blanks", copies, {}),
        Student("answers-last", [*others, *answers], {}),
        Student("cells-reordered", reordered, {}),
        Student("extra-cells", [*plots, experiment, *right, *plots, experiment], {}),
        Student("twice", [*right, *right], {}),
        Student("fails-after-the-answer", broken, {}, "ZeroDivisionError"),
        Student("syntax-error", ["def f(:", *right, "if x\n  y"], {}, "SyntaxError"),
        Student("first-draft-then-better", [source_of(EXERCISES[0].wrongs[0].answer, "kl"), *right],
                {}),
    ]


LOOP = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n" \
       "        pass"


def hostile(right):
    """Those who would rather change the grade than write the answers.

    Their kl and js are right, so 2 points are what they computed, whatever else they do.
    """
    shame = {name: "value" for name in NAMES[2:]}
    lie = "def {}(*_):\n    return torch.zeros(()).double()"
    honest_part = replaced(right, **{
        "kl_diagonal_gaussians": "def kl_diagonal_gaussians(a, b, c, d):\n    return a.sum(1)",
        "kl_from_logits": lie.format("kl_from_logits"),
        "wasserstein1": "def wasserstein1(x, y):\n    return x.sum() * 0 - 1",
    })
    tricks = {
        "patches-allclose": "import torch\nfor m in (torch, torch.Tensor, torch.testing):\n"
        "    for n in ('allclose', 'isclose', 'equal', 'eq', 'assert_close'):\n"
        "        if hasattr(m, n):\n            setattr(m, n, lambda *a, **k: True)",
        "overrides-eq": "import torch\nclass Yes(torch.Tensor):\n"
        "    __eq__ = __le__ = __lt__ = lambda s, o: True\n    def __bool__(s): return True\n"
        "def kl_from_logits(p, q):\n    return torch.zeros(()).double().as_subclass(Yes)",
        "always-equal-object": "class Same:\n    def __eq__(s, o): return True\n"
        "    def __getattr__(s, n): return Same()\n    def __bool__(s): return True\n"
        "def wasserstein1(x, y):\n    return Same()",
        "hooks-the-input": "ip = get_ipython()\nip.input_transformers_cleanup.append("
        "lambda lines: ['passed = True\\n'] if any('def kl_' in x for x in lines) else lines)\n"
        "ip.events.register('post_run_cell', lambda *a: ip.user_ns.update(score=100))",
        "patches-the-player": "import sys\nfor name, m in list(sys.modules.items()):\n"
        "    if name.startswith('gencourse.checks'):\n"
        "        for k in list(vars(m)):\n"
        "            if k in ('is_blank', '_same', '_codes'):\n"
        "                setattr(m, k, lambda *a, **k: True)",
        "patches-the-outcome": "import gencourse.checks.inside as i\n"
        "i.Outcome.__new__.__defaults__ = (None,) * 5\n"
        "i.outcome = lambda *a, **k: i.Outcome(value=True, error=None)",
        "answers-the-grader-itself": "import json, os, struct\n"
        "text = json.dumps({'dict': [['number', {'int': '9'}], ['result', True]]}).encode()\n"
        "for f in range(3, 64):\n    try:\n"
        "        os.write(f, struct.pack('<QQ', len(text), 0) + text)\n    except OSError:\n"
        "        pass",
        "exits": "import sys\nsys.exit(0)",
        "exits-hard": "import os\nos._exit(0)",
        "kills-itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "crashes": "import ctypes\nctypes.string_at(0)",
        "forks": "import os, time\nif os.fork() == 0:\n    time.sleep(600)",
        "forks-and-goes-on": "import os\nos.fork()\nos.fork()",
        "fork-bomb": "import os\nwhile True:\n    os.fork()",
        "floods": "import os, sys\nfor i in range(2000):\n    print('x' * 10_000)\n"
        "    os.write(1, b'x' * 10_000)\n    os.write(2, b'x' * 10_000)",
        "floods-the-reply": "import os\nfor f in range(3, 64):\n    try:\n"
        "        while True:\n            os.write(f, b'\\xff' * 1_000_000)\n    except OSError:\n"
        "        pass",
        "pickles": "import os\nclass Bad:\n    def __reduce__(s):\n"
        "        return os.system, ('touch /tmp/gencourse-was-here',)\n"
        "def wasserstein1(x, y):\n    return Bad()",
        "writes-to-disk": "for i in range(1_000):\n    open(f'/tmp/{i}', 'wb').write(bytes(10**7))",
        "endless": LOOP,
        "endless-call": "def wasserstein1(x, y):\n" + textwrap.indent(LOOP, "    "),
        "memory-bomb": "x = []\nwhile True:\n    x.append(bytearray(10**8))",
        "memory-bomb-in-children": "import os, time\nfor i in range(20):\n    if os.fork() == 0:\n"
        "        x = bytearray(10**9)\n        for j in range(0, 10**9, 4096):\n"
        "            x[j] = 1\n        time.sleep(600)\ntime.sleep(600)",
        "huge-result": "def wasserstein1(x, y):\n    return torch.zeros(10**8)",
        "looks-around": "import glob, sys\ntail = '/gencourse/checks/chapter_01.py'\n"
        "for p in [*sys.path, '/root/**', '/home/**', '/work/**']:\n"
        "    for f in glob.glob(p + tail, recursive=True):\n"
        "        sys.path.insert(0, f.removesuffix(tail))\n"
        "import gencourse.checks.chapter_01 as c\n"
        "def wasserstein1(x, y): return c.wasserstein1.right(x, y)",
        "calls-home": "import socket, urllib.request\n"
        "socket.create_connection(('1.1.1.1', 53), timeout=5)",
    }
    other = {"always-equal-object": {"wasserstein1": "type"}, "pickles": {"wasserstein1": "type"},
             "endless-call": {"wasserstein1": "did not return"},
             "huge-result": {"wasserstein1": "did not return"},
             "patches-the-outcome": {name: "type" for name in NAMES}}
    notes = {"exits-hard": "it ended Python", "endless": "longer than", "crashes": "crashed",
             "kills-itself": "killed", "answers-the-grader-itself": "no answer",
             "floods-the-reply": "more than an answer may hold", "calls-home": "unreachable",
             "looks-around": "ModuleNotFoundError"}
    found = []
    for name, trick in tricks.items():
        # in the middle, where it may hide what follows; or at the end, where it has the last word
        place = len(honest_part) if "def " in trick else answer(honest_part, "js")
        cells = [*honest_part[:place], trick, *honest_part[place:]]
        found.append(Student(name, cells, shame | other.get(name, {}), notes.get(name, "")))
    return found


def hand_in(folder, students):
    """Write the class into a folder the ways that students do: notebooks, folders, zip files."""
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
