"""Make exercises/ out of solutions/, and the rules that solutions keep.

A solution marks what learners write by `# BEGIN SOLUTION` and `# END SOLUTION`, and tests it in the
cell below by `check("name", name)`. From these two the build derives nbgrader's metadata, and
nbgrader's own preprocessors then take the solutions out.
"""

import ast
import re

import rules
from nbconvert.exporters import NotebookExporter
from traitlets.config import Config

from gencourse.checks import core

BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"
LEARNERS_SEE = ("checks", "data", "fetch", "plot", "runtime", "shapes", "widgets")
FEWEST, MOST, HINTS = 3, 5, 2
MEDIAN_CODE_LINES = 12  # answers are whole functions
ROLES = {"schema_version": 3, "task": False}
# Those of `nbgrader generate_assignment`, but for the gradebook and for parts we don't use.
STEPS = ("LockCells", "ClearSolutions", "ClearOutput", "CheckCellMetadata", "ComputeChecksums")


# --- making ---------------------------------------------------------------------------------------


def definitions(stem):
    """The exercises of an assignment as gencourse.checks defines them, in order."""
    return core.assignments().get(stem, [])


def answers(cell):
    """The names of the functions and classes that a cell with a solution defines; else none."""
    if BEGIN not in cell.source:
        return []
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in _statements(cell) if isinstance(node, kinds)]


def checked(cell):
    """The name of the exercise that a cell begins by testing, or None."""
    match _statements(cell)[:1]:
        case [ast.Expr(ast.Call(ast.Name("check"), [ast.Constant(str(name)), *_]))]:
            return name
    return None


def mark(notebook, stem):
    """Write nbgrader's metadata into the cells with answers and those with checks."""
    points = {e.name: e.points for e in definitions(stem)}
    for cell in rules.code_cells(notebook):
        cell.metadata.pop("nbgrader", None)
        if names := answers(cell):
            mine = {"grade": False, "grade_id": names[0], "locked": False, "solution": True}
        elif name := checked(cell):
            mine = {"grade": True, "grade_id": f"check_{name}", "locked": True, "solution": False}
            mine["points"] = points.get(name, 0)
        else:
            continue
        cell.metadata["nbgrader"] = ROLES | mine


class NotMade(Exception):
    """Exercises that can't be made; the message says why."""


def generated(notebook):
    """The source of exercises/NN.ipynb, from the solution's notebook. Raises: NotMade."""
    try:  # teachers and authors have it, learners do without
        from nbgrader import preprocessors
        from nbgrader.nbgraderformat import ValidationError
    except ImportError:
        raise NotMade("it is not installed; run `uv sync --group classroom`.") from None
    steps, config = [getattr(preprocessors, name) for name in STEPS], Config()
    config.ClearSolutions.code_stub = {"python": core.STUB}
    try:
        source, _ = NotebookExporter(config=config, preprocessors=steps).from_notebook_node(
            rules.nbformat.from_dict(
                notebook | {"metadata": _without(notebook.metadata, "gencourse")}
            )
        )
    except (RuntimeError, ValidationError) as error:
        raise NotMade(error) from None
    return source.rstrip("\n") + "\n"


# --- the rules ------------------------------------------------------------------------------------


def pairing(stem, text, notebook):
    """Text and notebook agree, nbgrader's metadata and the outputs are those of now."""
    if notebook is None:
        return rules.pairing(stem, text, None, rules.SOLUTIONS)
    found, plain = [], rules.nbformat.from_dict(notebook)
    for cell in plain.cells:
        cell.metadata.pop("nbgrader", None)
    found += rules.pairing(stem, text, plain, rules.SOLUTIONS)
    mark(plain, stem)
    if [c.metadata for c in plain.cells] != [c.metadata for c in notebook.cells]:
        found.append(
            f"solutions/{stem}: nbgrader's metadata are not what the build derives: "
            "run `python tools/build.py sync`."
        )
    if notebook.metadata.get("gencourse") != {"code_hash": rules.code_hash(notebook)}:
        found.append(
            f"solutions/{stem}: the code changed since it was run: "
            f"run `python tools/build.py solutions {stem}`."
        )
    return found


def passes(stem, notebook):
    """Every check cell shows the ✓ and the sentence that its exercise has now."""
    found, tests = [], {e.name: e.tests for e in definitions(stem)}
    for cell in rules.code_cells(notebook):
        if (name := checked(cell)) in tests:
            said = " ".join("".join(map(rules.output_text, cell.outputs)).split())
            if not said.startswith(" ".join(f"✓ {name}: {tests[name]}".split())):
                found.append(
                    f"solutions/{stem}: the output of check({name!r}, …) is not its ✓ of now: "
                    f"run `python tools/build.py solutions {stem}`."
                )
            if any(o.output_type == "execute_result" for o in cell.outputs):
                found.append(
                    f"solutions/{stem}: the check of {name} ends in a bare expression, which "
                    "nbgrader reads as points: print it."
                )
    return found


def anatomy(stem, notebook):
    """The exercises of the notebook are those of the checks, each with all of its parts."""
    found, where, number = [], f"solutions/{stem}", int(stem[:2])
    title = notebook.cells[0].source if notebook.cells else ""
    if not re.match(rf"# {number} · Exercises: \S", title):
        found.append(f"{where}: the first cell must begin with `# {number} · Exercises: …`.")
    mine = {e.name: e for e in definitions(stem)}
    sections = {k: v for k, v in rules.sections(notebook).items() if re.match(r"\d+\.\d", k)}
    if not FEWEST <= len(sections) <= MOST:
        found.append(f"{where}: {len(sections)} exercises; there must be {FEWEST} to {MOST}.")
    names, levels, repairs = [], set(), 0
    for i, (heading, cells) in enumerate(sections.items()):
        if not re.match(rf"{number}\.{i + 1} · \S", heading):
            found.append(f"{where}: {heading!r} must begin with `{number}.{i + 1} · `.")
        line = _described(cells[0])
        if not line:
            found.append(
                f"{where}, {heading!r}: the line after the heading must be "
                "*level · MM minutes · `name`* or *level · MM minutes · repair · `name`*."
            )
            continue
        level, minutes, repair, name = line.groups()
        names.append(name)
        levels.add(level)
        repairs += bool(repair)
        if name in mine and (level, int(minutes)) != (mine[name].level, mine[name].minutes):
            wanted = f"{mine[name].level} · {mine[name].minutes} minutes"
            found.append(f"{where}: {name} is `{wanted}` in gencourse/checks.")
        found += [f"{where}, {heading!r}: {x}" for x in _parts(name, cells, repair)]
    if names != list(mine):
        found.append(f"{where} has the exercises {names}, gencourse/checks has {list(mine)}.")
    if missing := {"warm-up", "core"} - levels:
        found.append(f"{where}: no exercise is marked {' or '.join(sorted(missing))}.")
    if not repairs:
        found.append(f"{where}: no exercise is a repair.")
    cells = [c for cells in sections.values() for c in cells]
    if any((BEGIN in c.source or checked(c)) and c not in cells for c in notebook.cells):
        found.append(f"{where}: an answer or a check stands outside of the numbered exercises.")
    return found


def _described(cell):
    """The match of *level · MM minutes · [repair · ]`name`*, the first line after a heading."""
    lines = [x for x in cell.source.split("\n## ", 1)[-1].split("\n")[1:] if x.strip()]
    form = r"\*(warm-up|core|stretch) · (\d+) minutes · (repair · )?`(\w+)`\*"
    return re.fullmatch(form, lines[0]) if lines else None


def _parts(name, cells, repair):
    """What one exercise's cells lack: two hints, the answer, the check under it."""
    found = []
    folded = [c for c in cells if c.cell_type == "markdown" and "<details>" in c.source]
    hints = [c.source.count(f"<details><summary>Hint {k + 1}</summary>\n\n")
             for c in folded for k in range(HINTS)]
    if hints != [1] * HINTS or folded[0].source.count("\n</details>") != HINTS:
        found.append("one cell must fold exactly two hints, as <details><summary>Hint 1</summary>.")
    code = [c for c in cells if c.cell_type == "code"]
    at = [i for i, c in enumerate(cells) if c.cell_type == "code" and BEGIN in c.source]
    if len(at) != 1 or answers(cells[at[0]]) != [name]:
        return [*found, f"one cell must define `{name}`, and nothing else, around {BEGIN}."]
    if folded and cells.index(folded[-1]) > at[0]:
        found.append("the hints must stand above the answer.")
    if [checked(c) for c in code if checked(c)] != [name]:
        found.append(f'there must be one check, a cell that begins with check("{name}", {name}).')
    if any(checked(c) for c in cells[: at[0]]):
        found.append("the check must stand under the answer.")
    if repair and not any("broken_" in c.source.lower() for c in cells[: at[0]]
                          if c.cell_type == "code"):
        found.append("a repair shows its program `broken_…`, run, above the answer.")
    return found


def imports(stem, notebook):
    """Of gencourse, a solution imports only what there is where notebooks are graded."""
    used = set()
    for cell in rules.code_cells(notebook):
        for node in ast.walk(ast.Module(_statements(cell), [])):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                used |= {f"{node.module}.{alias.name}" for alias in node.names}
    allowed = {f"gencourse.{m}" for m in LEARNERS_SEE} - {"gencourse.checks"}
    found = []
    for name in sorted(used):
        module = ".".join(name.split(".")[:2])
        if name.startswith("gencourse") and module not in allowed:
            if name != "gencourse.checks.check":
                found.append(f"solutions/{stem} imports {name}, which is not there when graded.")
    return found


def links(stem, notebook):
    """The links resolve in solutions/ and, for learners, in exercises/."""
    text = "\n".join(c.source for c in rules.prose_cells(notebook))
    return [sentence for folder in (rules.SOLUTIONS, rules.EXERCISES)
            for sentence in rules.links(f"{folder.name}/{stem}", text, folder)]


def exercise(stem, notebook):
    """exercises/ holds what the solution generates, byte for byte, and nothing of a solution."""
    path = rules.EXERCISES / f"{stem}.ipynb"
    if not path.exists():
        return [f"exercises/{stem}.ipynb is missing: run `python tools/build.py sync`."]
    source = path.read_text(encoding="utf-8")
    found = []
    try:
        if source != generated(notebook):
            found.append(
                f"exercises/{stem}.ipynb is not what its solution generates: "
                "run `python tools/build.py sync`."
            )
    except NotMade as error:
        found.append(f"solutions/{stem}: nbgrader can't make the exercises: {error}")
    return found + given_away(stem, notebook, rules.nbformat.reads(source, as_version=4))


def given_away(stem, solution, exercise):
    """Lines of solutions, and outputs, that learners can see in their notebook."""
    hidden, seen = set(), set()
    for cell in rules.code_cells(solution):
        inside = False
        for line in map(str.strip, cell.source.split("\n")):
            inside = (inside or BEGIN in line) and END not in line
            (hidden if inside else seen).add(line)
    shown = {line.strip() for c in rules.code_cells(exercise) for line in c.source.split("\n")}
    leaked = sorted(x for x in (hidden - seen) & shown if len(x) >= 12)
    found = [f"exercises/{stem} shows a line of a solution: {line!r}." for line in leaked]
    if any(c.outputs or c.execution_count for c in rules.code_cells(exercise)):
        found.append(f"exercises/{stem} holds outputs.")
    return found


def solution(stem):
    """Every rule for one solution and its exercises; of one that is not built, what can be said."""
    home, name = rules.SOLUTIONS, f"solutions/{stem}"
    text, notebook = rules.read_text(stem, home), rules.read_notebook(stem, home)
    found, size = pairing(stem, text, notebook), 0
    if notebook is None:
        notebook = rules.from_text(text)
    else:
        found += rules.executed(name, notebook) + passes(stem, notebook) + exercise(stem, notebook)
        size = rules.notebook_path(stem, home).stat().st_size
    found += rules.limits(name, notebook, size, MEDIAN_CODE_LINES) + anatomy(stem, notebook)
    return found + imports(stem, notebook) + links(stem, notebook)


def orphans():
    """Every notebook of solutions/ and exercises/ has a text, and every text a chapter."""
    texts = set(rules.stems(rules.SOLUTIONS / "text"))
    paths = [p for home in (rules.SOLUTIONS, rules.EXERCISES) for p in sorted(home.glob("*.ipynb"))]
    found = [f"{p.parent.name}/{p.name} has no solutions/text/{p.stem}.py."
             for p in paths if p.stem not in texts]
    alone = sorted(texts - set(rules.stems(rules.TEXT)))
    return found + [f"solutions/text/{name}.py belongs to no chapter." for name in alone]


# --- helpers --------------------------------------------------------------------------------------


def _statements(cell):
    """A code cell's statements; none for prose and for what is not plain Python."""
    try:
        return ast.parse(cell.source).body if cell.cell_type == "code" else []
    except SyntaxError:
        return []


def _without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}
