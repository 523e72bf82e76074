"""The package as a whole: who imports whom, how light it is, and that its pages agree."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import rules
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gencourse"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# A module imports only what stands here; `gencourse` itself imports nothing. "checks" stands for
# all of a subfolder, "checks.chapter" for each chapter's file.
MATHS = {"data", "divergences", "doctor", "evaluate", "latent", "losses", "nets", "runtime",
         "shapes", "train"}
MAY_IMPORT = {
    "__init__": set(),
    "runtime": set(),
    "shapes": set(),
    "fetch": {"runtime"},
    "archive": {"fetch"},
    "pictures": {"archive", "fetch"},
    "data": {"runtime", "shapes", "fetch", "archive", "pictures"},
    "divergences": set(),
    "losses": {"divergences"},
    "nets": set(),
    "checkpoint": set(),
    "fast": {"runtime"},
    "ranks": {"runtime"},
    "tracker": {"runtime"},
    "run": {"checkpoint", "ranks", "runtime", "tracker"},
    "train": {"losses", "run", "data", "runtime", "checkpoint", "fast", "ranks", "tracker"},
    "latent": set(),
    "evaluate": {"nets", "data", "divergences", "runtime"},
    "doctor": {"run", "runtime", "evaluate"},
    "plot": set(),
    "widgets": {"plot", "latent"},
    # What runs beside a student's code (play, inside, drivers, watch, values) imports no answer.
    "checks.__init__": {"checks.core"},
    "checks.core": {"checks.inside", "checks.values", "checks.watch"},
    "checks.chapter": MATHS | {"checks.core", "checks.drivers"},
    "checks.play": {"checks.inside", "checks.values"},
    "checks.inside": {"checks.drivers", "checks.values", "checks.watch"},
    "checks.watch": {"checks.values"},
    "checks.drivers": {"checks.values"},
    "checks.values": set(),
    "classroom.__init__": set(),
    "classroom.seccomp": set(),
    "classroom.submissions": {"runtime"},
    "classroom.sandbox": {"checks", "runtime", "classroom.seccomp"},
    "classroom.grade": {
        "checks", "classroom.sandbox", "classroom.submissions", "plot", "runtime", "checkpoint",
    },
}
MAY_IMPORT["__main__"] = {name.split(".")[0] for name in MAY_IMPORT} - {"__init__"}


def imported(source):
    """The modules of the package that a source imports, at the top or inside a function.

    A module of a subfolder is "checks.core", the package itself "__init__".
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = node.level > 0
            module = ".".join(["gencourse"] * inside + [node.module] * bool(node.module))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "gencourse":
                kept = rest[: 2 if (PACKAGE / rest[0]).is_dir() else 1] if rest else []
                found.add(".".join(kept) or "__init__")
    return found - {"__version__"}


def test_the_import_table_is_kept():
    files = {p.relative_to(PACKAGE).with_suffix("").parts: p for p in PACKAGE.rglob("*.py")}
    paths = {".".join(parts): path for parts, path in files.items()}
    rows = {module: re.sub(r"chapter_\d\d$", "chapter", module) for module in paths}
    assert set(rows.values()) == set(MAY_IMPORT), "every module stands in the table, and no other"
    wrong = {}
    for module, path in paths.items():
        allowed = MAY_IMPORT[rows[module]]
        found = imported(path.read_text(encoding="utf-8"))
        wrong[module] = {f for f in found if f not in allowed and f.split(".")[0] not in allowed}
    assert not {m: w for m, w in wrong.items() if w}, "imports that the table does not allow"


def test_what_is_shipped_into_the_sandbox_imports_only_what_is_shipped():
    from gencourse.classroom import sandbox

    shipped = {m: PACKAGE / f"{m}.py" for m in sandbox.SHIPPED}
    shipped |= {f"checks.{m}": PACKAGE / "checks" / f"{m}.py" for m in sandbox.SHIPPED_CHECKS}
    found = {m: imported(path.read_text(encoding="utf-8")) for m, path in shipped.items()}
    assert not {m: used - set(shipped) for m, used in found.items() if used - set(shipped)}
    assert not {"checks.core", "divergences", "losses", "nets"} & set(shipped), "they hold answers"


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import gencourse.plot", {"plot"}),
        ("from gencourse import run, losses as l", {"run", "losses"}),
        ("from gencourse.data import load", {"data"}),
        ("from . import nets", {"nets"}),
        ("from .nets import VAE", {"nets"}),
        ("def f():\n    from gencourse import plot", {"plot"}),
        ("import gencourse", {"__init__"}),
        ("import torch\nfrom torch import nn", set()),
        ("from gencourse.checks import core, values", {"checks.core", "checks.values"}),
        ("from gencourse.checks.core import Exercise", {"checks.core"}),
        ("import gencourse.checks.core", {"checks.core"}),
        ("from gencourse.data.parts import load", {"data"}),
    ],
)
def test_each_way_to_import_is_seen(source, modules):
    assert imported(source) == modules


@pytest.mark.parametrize(
    ("before", "modules"),
    [
        ("sys", "gencourse"),
        ("typer", "gencourse.__main__"),  # so does --help: see test_options.py
        ("torch", "gencourse.runtime, gencourse.data, gencourse.train, gencourse.nets"),
        ("torch, psutil", "gencourse.evaluate"),
    ],
)
def test_an_import_brings_nothing_that_is_not_used_at_once(before, modules):
    """What is imported, and what these modules then add, beyond Python's own: themselves."""
    program = f"""import sys, {before}
before = set(sys.modules)
import {modules}
names = {{m.split(".")[0] for m in set(sys.modules) - before}}
print(sorted(names - sys.stdlib_module_names - {{"gencourse"}}))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_ruff_finds_nothing_to_mend():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."],
        cwd=ROOT, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_codespell_finds_no_word_spelt_wrong():
    """The texts; notebooks are made from them."""
    command = [sys.executable, "-m", "codespell_lib", "."]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


# --- what is installed ----------------------------------------------------------------------------

# What each package is called on conda-forge, where that differs.
CONDA = {"torch": "pytorch"}


def split(requirement):
    """("numpy", ">=2.0") of "numpy>=2.0"."""
    name, bound = re.fullmatch(r"([A-Za-z0-9_.-]+?)\s*([<>=!~].*)?", requirement).groups()
    return name, (bound or "").replace(" ", "")


def test_conda_installs_the_same_packages_with_the_same_bounds():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, last = environment["dependencies"]
    assert last == {"pip": ["-e ."]}
    packages = dict(split(x) for x in conda)
    python = packages.pop("python")
    assert re.fullmatch(r"=3\.\d+", python), "python= is given"
    least = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert tuple(map(int, python[1:].split("."))) >= tuple(map(int, least.split(".")))
    assert "pip" in packages and not packages.pop("pip")
    wanted = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    assert packages == {CONDA.get(n, n): bound for n, bound in map(split, wanted)}
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_what_is_for_teachers_is_in_nobody_elses_jupyterlab():
    """uv installs only `dev` by default, and conda's environment holds what that does."""
    assert [split(x)[0] for x in PROJECT["dependency-groups"]["classroom"]] == ["nbgrader"]
    learners = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    assert "nbgrader" not in {split(x)[0] for x in learners}
    assert "default-groups" not in PROJECT["tool"]["uv"]


def test_the_dev_group_holds_the_test_tools():
    """uv installs only `dev` by default; without pytest in it, `uv run pytest` is another one."""
    dev = {split(x)[0] for x in PROJECT["dependency-groups"]["dev"]}
    assert {"pytest", "pytest-xdist", "nbval", "ruff", "jupytext", "nbclient"} <= dev


def test_lower_bounds_are_not_above_what_colab_has():
    colab = {"torch": (2, 11), "torchvision": (0, 26), "numpy": (2, 1), "matplotlib": (3, 10),
             "ipywidgets": (7, 7)}
    for name, bound in map(split, PROJECT["project"]["dependencies"]):
        assert re.fullmatch(r">=[\d.]+", bound), f"{name}{bound}: a lower bound and nothing else"
        if name in colab:
            assert tuple(map(int, bound[2:].split("."))) <= colab[name], name


# --- pages ----------------------------------------------------------------------------------------

COMMANDS = [
    f"git clone {rules.repository()} && cd {rules.repository().rsplit('/', 1)[1]}",
    "pip install uv",
    "uv run jupyter lab chapters/00_start_here.ipynb",
    "uv run pytest",
]


def commands(page):
    """The command lines in a page's code blocks, without their comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page, re.S | re.M)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_the_readme_gives_the_commands_and_ci_runs_them():
    readme = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert readme == COMMANDS, "in this order, and no others"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lines = [line.strip() for line in script.splitlines()]
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert lines[-1] == COMMANDS[-1], "CI ends in the README's own test command"
    assert any("pip install uv" in line for line in lines)
    assert "../shared/data" in script and "GENCOURSE_DATA" in script
    # before, the same as a stranger has it, and at the end nothing is skipped that can be had
    (stranger,) = (line for line in lines if line.endswith("uv run pytest -m needs -n0"))
    assert "-u CI -u GENCOURSE_DATA" in stranger
    assert lines.index("uv sync") < lines.index(stranger) < lines.index("uv sync --group classroom")
    strict = lines[lines.index("export CI=1") :]
    # the ordinary suite asks less than these
    wide = "python tools/mutate.py", "pytest -m answers tests", "pytest -m cuda tests/test_cuda.py"
    assert {f"uv run {command}" for command in wide} <= set(strict)
    assert strict.count("uv run pytest") == 1 and stranger not in strict
    assert [x for x in lines if x.startswith("uv run pytest")] == [
        x for x in strict if x.startswith("uv run pytest")
    ]


def test_the_readme_is_one_screen():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 60


def test_nothing_is_committed_that_should_not_be(git):
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = [ROOT / line for line in done.stdout.splitlines()]
    unwanted = [".pt", ".pth", ".npz", ".gz", ".zip", ".tar", ".ckpt", ".safetensors", ".pyc"]
    for path in tracked:
        shipped = path.parent == PACKAGE / "weights" and path.suffix == ".safetensors"
        assert path.name != "uv.lock" and (path.suffix not in unwanted or shipped), path
        assert "runs" not in path.relative_to(ROOT).parts[:-1], path
        small = shipped or not path.exists() or path.stat().st_size < rules.BYTES
        assert small, f"{path} is too large"
    weights = [path.stat().st_size for path in (PACKAGE / "weights").glob("*.safetensors")]
    assert sum(weights) <= 5_000_000, "all shipped weights together"
    ignored = subprocess.run(["git", "check-ignore", "-q", "uv.lock"], cwd=ROOT)
    assert ignored.returncode == 0, "uv.lock names hosts and must stay ignored"
