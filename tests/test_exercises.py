"""Solutions keep their rules, exercises are made of them, and exactly their checks fail at first.

That every solution runs without error is nbval's part; pytest collects solutions/ too.
"""

import copy
import json
import os
import sys

import build
import nbformat
import pytest
import rules
import warm

import exercises
from gencourse.checks.core import Exercise

ASSIGNMENTS = [
    *("01_kl_divergence", "02_minimax", "03_convolutions", "04_first_gan", "05_dcgan"),
    *("06_mode_collapse", "07_evaluation", "08_vae", "09_latent_space", "10_gan_vs_vae"),
    "14_fast_training",
]
STEMS = rules.stems(rules.SOLUTIONS / "text")


def said(sentences):
    assert not sentences, "\n" + "\n".join(sentences)


@pytest.fixture(scope="module", params=sorted({*STEMS, *ASSIGNMENTS}))
def stem(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(stem):
    found = rules.read_notebook(stem, rules.SOLUTIONS)
    assert found is not None, f"solutions/{stem}.ipynb is missing"
    return found


def test_text_and_notebook_agree(stem, notebook):
    said(exercises.pairing(stem, rules.read_text(stem, rules.SOLUTIONS), notebook))


def test_every_cell_was_run(stem, notebook):
    said(rules.executed(f"solutions/{stem}", notebook))


def test_every_check_shows_its_tick(stem, notebook):
    said(exercises.passes(stem, notebook))


def test_lengths_and_alt_text(stem, notebook):
    size = rules.notebook_path(stem, rules.SOLUTIONS).stat().st_size
    median = exercises.MEDIAN_CODE_LINES
    said(rules.limits(f"solutions/{stem}", notebook, size, median))


def test_exercises_are_those_of_the_checks_with_all_their_parts(stem, notebook):
    said(exercises.anatomy(stem, notebook))


def test_imports_are_those_that_graded_notebooks_have(stem, notebook):
    said(exercises.imports(stem, notebook))


def test_links_resolve(stem, notebook):
    said(exercises.links(stem, notebook))


def test_the_exercise_is_generated_and_gives_nothing_away(stem, notebook, nbgrader):
    said(exercises.exercise(stem, notebook))


def test_every_notebook_has_a_text_and_a_chapter():
    said(exercises.orphans())


# --- running them ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """What the cells of every exercise raise, in one process; solutions are run by nbval."""
    folder = tmp_path_factory.mktemp("played")
    names = [f"exercises/{path.name}" for path in sorted(rules.EXERCISES.glob("*.ipynb"))]
    done = warm.run(
        rules.ROOT / "tests" / "play_notebooks.py", *names,
        cwd=rules.ROOT, env=os.environ | {"IPYTHONDIR": str(folder)}, seconds=1200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_of_an_exercise_exactly_the_checks_fail_and_say_that_it_is_blank(stem, played):
    path = rules.EXERCISES / f"{stem}.ipynb"
    assert path.exists(), f"exercises/{stem}.ipynb is missing"
    cells = rules.code_cells(nbformat.read(path, as_version=4))
    raised = played[f"exercises/{stem}.ipynb"]
    for cell, found in zip(cells, raised, strict=True):
        if name := exercises.checked(cell):
            message = f"✗ {name}: This is still blank: write your code here."
            assert found and found[0] == "NotYet", (cell.source, found)
            assert " ".join(found[1].split()) == message
            assert found[2].strip() == found[1], "no traceback is shown"
        else:
            assert found is None, (cell.source, found)
    assert sum(map(bool, raised)) == len(exercises.definitions(stem)) > 0


# --- each rule must be able to complain -----------------------------------------------------------

TINY = "07_tiny"
EXERCISE = """\
# %% [markdown]
# ## 7.{k} · Title
#
# *{level} · {minutes} minutes · {repair}`{name}`*
#
# What it is for. See [the chapter](07_tiny.ipynb).

# %%
def broken_{name}(x):
    return x


# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Look.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Look closer.
#
# </details>

# %%
def {name}(x):
    \"\"\"Something.\"\"\"
    # BEGIN SOLUTION
    secret = x + {k} * x
    return secret
    # END SOLUTION


# %%
check("{name}", {name})

"""
HEAD = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7 · Exercises: tiny

# %% [markdown]
# <!-- badge --><!-- /badge -->

# %% tags=["install"]
# install

# %%
import torch

from gencourse import plot
from gencourse.checks import check

"""
THREE = [("one", "warm-up", 5, ""), ("two", "core", 10, "repair · "), ("three", "stretch", 20, "")]
TEXT = HEAD + "".join(
    EXERCISE.format(k=k + 1, name=name, level=level, minutes=minutes, repair=repair)
    for k, (name, level, minutes, repair) in enumerate(THREE)
) + "# %% [markdown]\n# ## What you have now\n"
SETUP, BROKEN_ONE, ONE, CHECK_ONE, BROKEN_TWO = 1, 2, 3, 4, 5  # among the code cells


@pytest.fixture
def house(tmp_path, monkeypatch, nbgrader):
    """A course with one chapter and its solution, three exercises, and nothing built yet."""
    for name in ("chapters", "solutions", "exercises"):
        (tmp_path / name / "text").mkdir(parents=True)
        monkeypatch.setattr(rules, name.upper(), tmp_path / name)
    monkeypatch.setattr(rules, "TEXT", tmp_path / "chapters" / "text")
    (tmp_path / "chapters" / "text" / "07_tiny.py").touch()
    defined = [Exercise(name, level=level, minutes=minutes, tests=f"Tests {name}.", hint="Think.")
               for name, level, minutes, _ in THREE]
    monkeypatch.setattr(exercises, "definitions", lambda stem: defined if stem == TINY else [])
    rules.text_path(TINY, rules.SOLUTIONS).write_text(TEXT, encoding="utf-8")
    return tmp_path


def pretend(notebook, profile, runs):
    """Stands for a kernel: every check passes and says so."""
    for i, cell in enumerate(rules.code_cells(notebook)):
        cell.execution_count = i + 1
        if name := exercises.checked(cell):
            text = f"✓ {name}: Tests {name}.\n"
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    return 1.0, 100, [], "pretended"


@pytest.fixture(scope="module")
def once():
    """What the build makes of the text: path → bytes, filled when it is first asked for."""
    return {}


@pytest.fixture
def built(house, once, monkeypatch):
    monkeypatch.setattr(build, "execute", pretend)
    if not once:
        build.build_solution(TINY)
        assert exercises.solution(TINY) == [] == exercises.orphans()
        made = [rules.text_path(TINY, rules.SOLUTIONS), *house.rglob("*.ipynb")]
        once.update({path.relative_to(house): path.read_bytes() for path in made})
    for path, content in once.items():
        (house / path).write_bytes(content)
    return house


def tiny():
    return rules.read_notebook(TINY, rules.SOLUTIONS)


def blank():
    return nbformat.read(rules.EXERCISES / "07_tiny.ipynb", as_version=4)


def test_a_solution_is_built_and_its_exercise_generated(built):
    learners = rules.code_cells(blank())
    assert learners[ONE].source == (
        'def one(x):\n    """Something."""\n    raise NotImplementedError("write your code here")'
    )
    assert not any(c.outputs or c.execution_count for c in learners)
    assert "gencourse" not in blank().metadata
    assert [c.id for c in blank().cells] == [c.id for c in tiny().cells]
    roles = [c.metadata.get("nbgrader") for c in rules.code_cells(tiny())]
    assert roles[:3] == [None] * 3 and roles[ONE]["grade_id"] == "one"
    assert roles[ONE]["solution"] and not roles[ONE]["grade"] and not roles[ONE]["locked"]
    points = [r["points"] for r in roles if r and r["grade"]]
    assert roles[CHECK_ONE]["grade_id"] == "check_one" and points == [1, 2, 3]
    assert learners[CHECK_ONE].metadata["editable"] is False
    assert "exercises/07_tiny.ipynb" in tiny().cells[1].source, "Colab opens the blank notebook"


def test_prose_edits_reach_both_notebooks_without_a_run(built):
    path = rules.text_path(TINY, rules.SOLUTIONS)
    path.write_text(rules.read_text(TINY, rules.SOLUTIONS).replace("it is for", "it is good for"))
    assert any("differ" in x for x in exercises.solution(TINY))
    before = tiny()
    build.save(TINY, before, rules.SOLUTIONS)
    assert exercises.solution(TINY) == []
    assert "good for" in json.dumps(blank())
    assert rules.code_cells(tiny()) == rules.code_cells(before)


def test_generating_again_gives_the_same_bytes(built):
    first = (rules.EXERCISES / "07_tiny.ipynb").read_bytes()
    assert exercises.generated(tiny()).encode() == first
    (rules.EXERCISES / "07_tiny.ipynb").write_bytes(first + b" ")
    assert "not what its solution generates" in exercises.solution(TINY)[0]
    build.save(TINY, tiny(), rules.SOLUTIONS)
    assert (rules.EXERCISES / "07_tiny.ipynb").read_bytes() == first


def test_without_nbgrader_it_is_said_how_to_install_it(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    sentence = "nbgrader can't make the exercises: it is not installed; run `uv sync --group"
    assert any(sentence in x for x in exercises.solution(TINY))
    with pytest.raises(build.BuildError, match=sentence):
        build.build_solution(TINY)


def test_a_solution_that_fails_leaves_both_notebooks(built, monkeypatch):
    def fail(*_):
        raise build.BuildError("no such luck")

    before = [p.read_bytes() for p in sorted(built.rglob("*.ipynb"))]
    monkeypatch.setattr(build, "execute", fail)
    with pytest.raises(build.BuildError, match="07_tiny was not built.* no such luck"):
        build.build_solution(TINY)
    assert [p.read_bytes() for p in sorted(built.rglob("*.ipynb"))] == before


def code(notebook, i):
    return rules.code_cells(notebook)[i]


def replace(old, new):
    """Edit the first cell that holds these words."""

    def breaks(notebook):
        cell = next(c for c in notebook.cells if old in c.source)
        cell.source = cell.source.replace(old, new, 1)

    return breaks


def swap(i, j):
    def breaks(notebook):
        cells = notebook.cells
        a, b = (cells.index(code(notebook, k)) for k in (i, j))
        cells[a], cells[b] = cells[b], cells[a]

    return breaks


def add_output(i, **fields):
    return lambda n: code(n, i).outputs.append(nbformat.v4.new_output(**fields))


SOLUTION = "def four(x):\n    # BEGIN SOLUTION\n    return 4\n    # END SOLUTION"
BROKEN = {
    # what is done to the solution's notebook, and a part of the sentence that must be said
    "prose": (replace("What it is for", "Why"), "differ"),
    "code": (replace("import torch", "import math"), "differ"),
    "not run again": (replace("import torch", "import math"), "the code changed since"),
    "points": (
        lambda n: code(n, CHECK_ONE).metadata["nbgrader"].update(points=9), "not what the build"
    ),
    "no role": (lambda n: code(n, ONE).metadata.pop("nbgrader"), "nbgrader's metadata"),
    "no region": (
        lambda n: code(n, ONE).metadata.pop("nbgrader"), "nbgrader can't make the exercises"
    ),
    "old tick": (
        lambda n: code(n, CHECK_ONE).outputs[0].update(text="✓ one: Tests more.\n"), "✓ of now"
    ),
    "no tick": (lambda n: code(n, CHECK_ONE).update(outputs=[]), "✓ of now"),
    "points by accident": (
        add_output(CHECK_ONE, output_type="execute_result", data={"text/plain": "0.5"}),
        "reads as points",
    ),
    "error": (
        add_output(ONE, output_type="error", ename="E", evalue="", traceback=[]), "if and only if"
    ),
    "order of runs": (lambda n: code(n, ONE).update(execution_count=99), "out of order"),
    "long prose": (replace("What it is", "word " * 120), "it must stay under 120"),
    "no alt": (
        add_output(SETUP, output_type="display_data", data={"image/png": "iVBORw0="}), "no alt"
    ),
    "title": (replace("# 7 · Exercises: tiny", "# 7 · Tiny"), "must begin with `# 7 · Exercises"),
    "number": (replace("## 7.2 ·", "## 7.4 ·"), "must begin with `7.2 · `"),
    "level": (replace("*warm-up ·", "*core ·"), "one is `warm-up · 5 minutes` in"),
    "minutes": (replace("· 5 minutes", "· 6 minutes"), "one is `warm-up · 5 minutes` in"),
    "no line": (replace("*warm-up · 5 minutes · `one`*", "Easy."), "the line after the heading"),
    "other form": (replace("· 5 minutes", "· 5 min"), "the line after the heading"),
    "no warm-up": (replace("*warm-up ·", "*core ·"), "no exercise is marked warm-up"),
    "no repair": (replace("repair · ", ""), "no exercise is a repair"),
    "no broken program": (replace("def broken_two", "def mine"), "a repair shows its program"),
    "other name": (replace("`one`*", "`uno`*"), "has the exercises ['uno', 'two', 'three']"),
    "one hint": (replace("<summary>Hint 2</summary>", "<summary>More</summary>"), "two hints"),
    "three hints": (
        replace("</details>", "</details>\n\n<details><summary>Hint 1</summary>\n\n</details>"),
        "two hints",
    ),
    "open hint": (replace("\n</details>", ""), "two hints"),
    "hints after": (
        lambda n: n.cells.insert(12, n.cells.pop(next(
            i for i, c in enumerate(n.cells) if "Hint 1" in c.source))), "two hints"
    ),
    "no answer": (replace("# BEGIN SOLUTION", "# begin"), "one cell must define `one`"),
    "two answers": (
        lambda n: code(n, ONE).update(source=code(n, ONE).source + "\n\n\ndef helper():\n    pass"),
        "one cell must define `one`, and nothing else",
    ),
    "check elsewhere": (swap(CHECK_ONE, BROKEN_TWO), 'begins with check("one", one)'),
    "check above": (swap(CHECK_ONE, ONE), "must stand under the answer"),
    "check of another": (replace('check("one"', 'check("two"'), 'begins with check("one", one)'),
    "check after a line": (replace('check("one"', 'x = 1\ncheck("one"'), "there must be one check"),
    "import": (replace("import plot", "import losses"), "imports gencourse.losses"),
    "import of a part": (
        replace("from gencourse import plot", "from gencourse.nets import VAE"), "gencourse.nets"
    ),
    "import inside": (
        replace("secret = x", "from gencourse import divergences\n    secret = x"),
        "imports gencourse.divergences",
    ),
    "import of answers": (
        replace("from gencourse.checks import check", "from gencourse.checks import chapter_01"),
        "imports gencourse.checks.chapter_01",
    ),
    "import of all": (replace("import torch", "import gencourse"), "imports gencourse,"),
    "link": (replace("(07_tiny.ipynb)", "(08_gone.ipynb)"), "leads nowhere"),
    "exercise is old": (replace("What it is for", "Why"), "not what its solution generates"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_named(built, name):
    breaks, sentence = BROKEN[name]
    notebook = tiny()
    breaks(notebook)
    rules.notebook_path(TINY, rules.SOLUTIONS).write_text(nbformat.writes(notebook))
    found = exercises.solution(TINY)
    assert any(sentence in x for x in found), found


def test_too_few_and_too_many_exercises_are_named(built):
    notebook = tiny()
    at = [i for i, c in enumerate(notebook.cells) if "## " in c.source]
    two = copy.deepcopy(notebook)
    del two.cells[at[2] : at[3]]
    assert any("2 exercises; there must be 3 to 5" in x for x in exercises.anatomy(TINY, two))
    more = nbformat.from_dict(notebook.cells[at[0] : at[3]])
    for cell in more:
        cell.source = cell.source.replace("## 7.", "## 7.3")
    notebook.cells[at[3] : at[3]] = more
    assert any("6 exercises; there must" in x for x in exercises.anatomy(TINY, notebook))


@pytest.mark.parametrize("source", [SOLUTION, 'check("four", four)'])
def test_an_answer_or_a_check_outside_of_the_exercises_is_named(built, source):
    notebook = tiny()
    notebook.cells.append(nbformat.v4.new_code_cell(source))
    assert any("stands outside" in x for x in exercises.anatomy(TINY, notebook))


def test_what_gives_a_solution_away_is_named(built):
    learners = blank()
    assert exercises.given_away(TINY, tiny(), learners) == []
    code(learners, BROKEN_ONE).source += "\n\nsecret = x + 2 * x"
    [leak] = exercises.given_away(TINY, tiny(), learners)
    assert leak == "exercises/07_tiny shows a line of a solution: 'secret = x + 2 * x'."
    learners = blank()
    code(learners, ONE).execution_count = 3
    assert exercises.given_away(TINY, tiny(), learners) == ["exercises/07_tiny holds outputs."]


def test_missing_and_orphaned_notebooks_are_named(built):
    (rules.EXERCISES / "07_tiny.ipynb").unlink()
    assert any("exercises/07_tiny.ipynb is missing" in x for x in exercises.solution(TINY))
    rules.notebook_path(TINY, rules.SOLUTIONS).unlink()
    assert exercises.solution(TINY)[0].startswith("solutions/07_tiny.ipynb is missing")
    (rules.EXERCISES / "08_gone.ipynb").touch()
    (rules.SOLUTIONS / "text" / "09_alone.py").touch()
    assert exercises.orphans() == [
        "exercises/08_gone.ipynb has no solutions/text/08_gone.py.",
        "solutions/text/09_alone.py belongs to no chapter.",
    ]


@pytest.mark.parametrize("region", ["# BEGIN SOLUTION\n    # BEGIN SOLUTION", "# END"])
def test_markers_that_do_not_match_stop_the_build(house, monkeypatch, region):
    monkeypatch.setattr(build, "execute", pretend)
    wrong = TEXT.replace("# BEGIN SOLUTION" if "BEGIN" in region else "# END SOLUTION", region, 1)
    rules.text_path(TINY, rules.SOLUTIONS).write_text(wrong, encoding="utf-8")
    with pytest.raises(build.BuildError, match="solution statement"):
        build.build_solution(TINY)
    assert not (rules.EXERCISES / "07_tiny.ipynb").exists()
