"""The rules every chapter keeps, each a function that returns a list of sentences (empty: kept).

`python tools/build.py check` prints them and tests/test_notebooks.py asserts that there are none.
Functions that take a `home` work on chapters (None) and on the folder solutions/ alike.
"""

import base64
import hashlib
import json
import math
import re
import statistics
import tomllib
from pathlib import Path

import jupytext
import nbformat
from jupytext.compare import NotebookDifference, compare_notebooks

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ROOT / "chapters"
TEXT, PICTURES = CHAPTERS / "text", CHAPTERS / "images"
SOLUTIONS, EXERCISES = ROOT / "solutions", ROOT / "exercises"
README = ROOT / "README.md"
CODE_LINES, MEDIAN_CODE_LINES, PROSE_WORDS, IMPORT_LINES, BYTES = 40, 8, 120, 8, 1_000_000
STAMP_KEYS = {"code_hash", "profile", "data", "seconds", "peak_mb", "machine", "seconds_by_profile"}
PROFILES_TO_COMMIT = ("cpu", "gpu")


# --- where things are -----------------------------------------------------------------------------


def stems(folder=TEXT, suffix=".py"):
    """The chapters' names, in order: ["00_start_here", "01_kl_divergence", …]."""
    return sorted(p.stem for p in Path(folder).glob(f"[0-9][0-9]_*{suffix}"))


def text_path(stem, home=None):
    return (home / "text" if home else TEXT) / f"{stem}.py"


def notebook_path(stem, home=None):
    return (home or CHAPTERS) / f"{stem}.ipynb"


def repository():
    """The course's address, from the one place that records it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def colab_url(stem, home=None):
    """Where Colab opens a chapter, or the exercises of a solution."""
    path = repository().removeprefix("https://github.com/")
    folder = "exercises" if home else "chapters"
    return f"https://colab.research.google.com/github/{path}/blob/main/{folder}/{stem}.ipynb"


# --- reading --------------------------------------------------------------------------------------


def from_text(text):
    """The notebook (without outputs) that a py:percent text describes."""
    return jupytext.reads(text, fmt="py:percent")


def read_text(stem, home=None):
    return text_path(stem, home).read_text(encoding="utf-8")


def read_notebook(stem, home=None):
    """The committed notebook, or None where there is none yet."""
    path = notebook_path(stem, home)
    return nbformat.read(path, as_version=4) if path.exists() else None


def tags(cell):
    return cell.metadata.get("tags", [])


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def prose_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "markdown"]


def code_hash(notebook, profile="cpu"):
    """16 hex digits over the code cells' sources, as the profile ran them.

    The install cell, prose and stamp don't count, nor do the sizes that a `budget(…)` has for other
    profiles: no output can depend on them.
    """
    sources = [c.source.rstrip() for c in code_cells(notebook) if "install" not in tags(c)]
    for other in {"smoke", "cpu", "gpu"} - {profile}:
        sources = [re.sub(rf"(budget\([^()]*?){other}=[^(),]+", r"\1", s) for s in sources]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def pictures(notebook):
    """{file: bytes} of the outputs that other pages show: of cells tagged `picture:NAME.png`.

    Nothing (b"") where such a cell has drawn none.
    """
    found = {}
    for cell in code_cells(notebook):
        drawn = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
        for tag in tags(cell):
            if tag.startswith("picture:"):
                found[tag.removeprefix("picture:")] = base64.b64decode("".join(drawn[:1]))
    return found


# --- what the build fills in ----------------------------------------------------------------------


def minutes(seconds):
    """A run time as the reader sees it: two digits below ten minutes, whole minutes above."""
    value = seconds / 60
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def stamp_lines(stamp):
    """The visible stamp, wrapped so that the text's lines stay under 100 characters."""
    if not stamp or STAMP_KEYS - set(stamp):
        return ["*Run time: not measured yet.*"]
    data = ", ".join(f"`{name}`" for name in stamp["data"])
    measured = (
        f"peak memory {stamp['peak_mb'] / 1000:.1f} GB, `{stamp['profile']}` profile"
        + (f" on {data}" if data else "")
    )
    took = f"*Run time: {minutes(stamp['seconds'])} min,"
    if found := stamp.get("found_runs"):
        took += f" beyond {found} trainings that chapters share and find finished,"
        return [took, measured, f"({stamp['machine']}).*"]
    return [
        f"{took} {measured}",
        f"({stamp['machine']}).*",
    ]


INSTALL = """import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+{repository}\""""


def _block(name, lines):
    """Markers on lines of their own: a line that begins with a comment is not read as Markdown."""
    return "\n".join(["# " + x for x in [f"<!-- {name} -->", *lines, f"<!-- /{name} -->"]])


def _replace_block(text, name, lines):
    pattern = re.compile(rf"^# <!-- {name} -->.*?<!-- /{name} -->", re.S | re.M)
    return pattern.sub(lambda _: _block(name, lines), text, count=1)


def filled(text, stem, stamp, home=None):
    """A text with stamp, Colab link and install cell as the build wants them."""
    text = _replace_block(text, "stamp", stamp_lines(stamp))
    text = _replace_block(text, "badge", [f"[Open in Colab]({colab_url(stem, home)})"])
    install = re.compile(r'^(# %% tags=\["install"\]\n).*?(?=\n# %%|\Z)', re.S | re.M)
    body = INSTALL.format(repository=repository()) + "\n"
    return install.sub(lambda m: m.group(1) + body, text, count=1)


def estimates():
    """{stem: minutes on a T4} by benchmarks/t4.py's arithmetic; shown until somebody measures."""
    path = ROOT / "benchmarks" / "results" / "t4-estimate.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {row["chapter"]: row["minutes"] for row in found["chapters"]}


def filled_readme(readme, stamps):
    """The README with links, and the times of the chapters' stamps (stem → stamp or None)."""
    estimated = estimates()
    for stem, stamp in stamps.items():
        measured = (stamp or {}).get("seconds_by_profile", {})
        cells = {"badge": f"[Colab]({colab_url(stem)})"}  # a badge would take a table's width
        for profile in PROFILES_TO_COMMIT:
            known = profile in measured
            cells[profile] = minutes(measured[profile]) if known else "not measured yet"
            if profile == "gpu" and not known and stem in estimated:
                cells[profile] = f"estimated: {math.ceil(estimated[stem])} min on a T4"
            if known and profile == stamp["profile"] and stamp.get("found_runs"):
                cells[profile] += f" + {stamp['found_runs']} runs"
        for name, value in cells.items():
            start, end = f"<!-- {name} {stem} -->", f"<!-- /{name} -->"
            pattern = re.compile(re.escape(start) + ".*?" + re.escape(end))
            readme = pattern.sub(lambda _, s=start, v=value, e=end: s + v + e, readme)
    clone = f"git clone {repository()} && cd {repository().rsplit('/', 1)[1]}"
    return re.sub(r"^git clone \S+ && cd \S+$", lambda _: clone, readme, flags=re.M)


# --- the rules ------------------------------------------------------------------------------------


def pairing(stem, text, notebook, home=None):
    """Text and notebook hold the same cells, and the build has filled what it fills."""
    if notebook is None:
        folder, command = ("solutions", "solutions") if home else ("chapters", "one")
        return [f"{folder}/{stem}.ipynb is missing: run `python tools/build.py {command} {stem}`."]
    found = []
    name = f"solutions/{stem}" if home else stem
    markers = ["<!-- stamp -->", "<!-- badge -->", '# %% tags=["install"]']
    for marker in markers[1:] if home else markers:
        if (count := text.count(marker)) != 1:
            found.append(f"{name}: the text must hold {marker} once, not {count} times.")
    try:
        compare_notebooks(notebook, from_text(text), fmt="py:percent")
    except NotebookDifference as difference:
        found.append(
            f"{name}: text and notebook differ, run `python tools/build.py sync`: {difference}"
        )
    if text != filled(text, stem, notebook.metadata.get("gencourse"), home):
        found.append(
            f"{name}: stamp, Colab link or install cell is not what the build writes: "
            "run `python tools/build.py sync`."
        )
    return found


def stamp(stem, notebook):
    """The outputs are those of this code, from a run on real data."""
    mark = notebook.metadata.get("gencourse")
    if not mark:
        return [f"{stem} has no stamp: run `python tools/build.py one {stem}`."]
    found = []
    if missing := STAMP_KEYS - set(mark):
        found.append(f"{stem}: the stamp lacks {', '.join(sorted(missing))}: build it again.")
    elif mark["code_hash"] != code_hash(notebook, mark["profile"]):
        found.append(
            f"{stem}: the code changed since it was run: run `python tools/build.py one {stem}`."
        )
    elif mark["profile"] not in PROFILES_TO_COMMIT:
        found.append(f"{stem}: outputs are of the `{mark['profile']}` profile: build it with cpu.")
    return found


def executed(stem, notebook):
    """Every code cell was run, in order, without errors, warnings or this machine's folders."""
    found, order = [], []
    for i, cell in enumerate(code_cells(notebook)):
        where = f"{stem}, code cell {i} ({_first_line(cell)})"
        order.append(cell.execution_count)
        kinds = [o.output_type for o in cell.outputs]
        if cell.execution_count is None:
            found.append(f"{where} was not run.")
        if ("raises-exception" in tags(cell)) != ("error" in kinds):
            found.append(f"{where}: it shows an error if and only if tagged raises-exception.")
        if "NBVAL_" in cell.source or any(t.startswith("nbval-") for t in tags(cell)):
            found.append(f"{where}: nbval markers hide cells from the tests; take them out.")
        for output in cell.outputs:
            shown = output_text(output)
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{where} writes to stderr: {shown.strip()[:80]!r}.")
            if place := re.search(r"(?<![\w/.:])/(?:tmp|home|root|Users|work|content)/\S*", shown):
                found.append(f"{where}: the output names a folder of one machine: {place.group()}.")
    if None not in order and order != sorted(order):
        found.append(f"{stem}: the code cells were run out of order.")
    if "widgets" in notebook.metadata:
        found.append(f"{stem}: widget state is stored in the notebook: build it again.")
    if len({c.id for c in notebook.cells}) < len(notebook.cells):
        found.append(f"{stem}: two cells have the same id.")
        return found
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        found.append(f"{stem} is not a valid notebook: {error.message}.")
    return found


def limits(stem, notebook, size, longest_median=MEDIAN_CODE_LINES):
    """DESIGN's lengths: short code, short prose, small files, pictures that say what they show."""
    found, lengths = [], []
    for i, cell in enumerate(code_cells(notebook)):
        where = f"{stem}, code cell {i} ({_first_line(cell)})"
        lines = cell.source.splitlines()
        lengths.append(len(lines))
        if len(lines) > CODE_LINES:
            found.append(f"{where} has {len(lines)} lines; {CODE_LINES} is the most.")
        imports = sum(x.startswith(("import ", "from ")) for x in lines)
        if imports > IMPORT_LINES:
            found.append(f"{where} has {imports} imports; {IMPORT_LINES} is the most.")
        for output in cell.outputs:
            for mime in output.get("data", {}):
                alt = output.metadata.get(mime, {}).get("alt", "")
                if mime.startswith("image/") and not alt.strip():
                    found.append(f"{where}: a picture has no alt text; use plot.show(fig, alt=…).")
                if "widget-view" in mime:
                    found.append(f"{where}: a live widget is stored; build it again.")
            if "<img" in (html := "".join(output.get("data", {}).get("text/html", ""))):
                found.append(f"{where}: HTML with a picture in it: {html[:40]!r}; use plot.show.")
    if lengths and (median := statistics.median(lengths)) > longest_median:
        found.append(
            f"{stem}: the median code cell has {median:g} lines; {longest_median} is the most."
        )
    for i, cell in enumerate(prose_cells(notebook)):
        where = f"{stem}, prose cell {i} ({_first_line(cell)})"
        if (count := words(cell.source)) >= PROSE_WORDS:
            found.append(f"{where} has {count} words; it must stay under {PROSE_WORDS}.")
        if "base64," in cell.source or cell.get("attachments"):
            found.append(f"{where} carries a picture in base64; compute it in a cell.")
        if re.search(r"!\[[^\]]*\]\(\s*https?:|<img[^>]+https?:", cell.source):
            found.append(f"{where} shows a remote picture; compute it in a cell.")
        for alt in re.findall(r"!\[([^\]]*)\]\(", cell.source):
            if not alt.strip():
                found.append(f"{where}: a picture has no alt text.")
    if size >= BYTES:
        kept = f"it must stay under {BYTES / 1e6:g} MB"
        found.append(f"{stem}.ipynb has {size / 1000:.0f} kB; {kept}.")
    return found


def anatomy(stem, notebook):
    """A chapter's parts: title, what you can do after, checkpoints, Break it, recap, references."""
    found = []
    prose = prose_cells(notebook)
    title = prose[0].source if prose else ""
    number = int(stem[:2])
    if not re.match(rf"# {number} · \S", title):
        found.append(f"{stem}: the first cell must begin with `# {number} · Title`.")
    everything = "\n".join(c.source for c in prose)
    for part in ("**After this chapter you can**", "**You need**"):
        if part not in everything:
            found.append(f"{stem}: {part} is missing.")
    for part in (r"^## .*Break it", r"^## Exercises", r"^## Recap", r"^## References"):
        if not re.search(part, everything, re.M):
            found.append(f"{stem}: a section matching {part!r} is missing.")
    if not any("describe()" in c.source for c in code_cells(notebook)):
        found.append(f"{stem}: no cell prints runtime.describe().")
    if not any(re.search(r"\bexplore\(", c.source) for c in code_cells(notebook)):
        found.append(f"{stem}: no interactive explorer (widgets.explore).")
    parts = sections(notebook)
    if not any(re.match(rf"{number}\.\d", name) for name in parts):
        found.append(f"{stem}: no numbered section `## {number}.1 …`.")
    for name, cells in parts.items():
        if re.match(r"\d+\.\d", name):
            code = [c for c in cells if c.cell_type == "code"]
            last = code[-1].source if code else ""
            if not last.startswith("# checkpoint") or "assert" not in last:
                found.append(
                    f"{stem}: the last code cell of section {name!r} must begin with "
                    "`# checkpoint` and assert something."
                )
        if name.startswith("Recap"):
            text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
            bullets = len(re.findall(r"^(?:[-*]|\d+\.) ", text, re.M))
            if bullets != 5:
                found.append(f"{stem}: the recap has {bullets} bullets, not five.")
    return found


def links(name, markdown, folder):
    """Relative links point at files that exist."""
    found = []
    markdown = re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.S)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", markdown)
    targets += re.findall(r"(?:src|href)=[\"']([^\"']+)", markdown)
    for target in targets:
        if re.match(r"[a-z][a-z0-9+.-]*:|#", target):
            continue
        if not (Path(folder) / target.split("#")[0]).exists():
            found.append(f"{name}: the link to {target} leads nowhere.")
    return found


def shown_elsewhere(stem, notebook):
    """The files in chapters/images are what the tagged cells drew last."""
    found = []
    for name, content in pictures(notebook).items():
        if not content:
            found.append(f"{stem}: the cell tagged picture:{name} draws no PNG.")
        elif not (PICTURES / name).exists() or (PICTURES / name).read_bytes() != content:
            found.append(f"{stem}: images/{name} is not what the cell drew: run "
                         "`python tools/build.py sync`.")
    return found


def notebook_links(stem, notebook):
    text = "\n".join(c.source for c in prose_cells(notebook))
    return links(stem, text, CHAPTERS)


def readme():
    """The README names every chapter and shows what the stamps say."""
    text = README.read_text(encoding="utf-8")
    stamps = {}
    found = []
    for stem in stems():
        notebook = read_notebook(stem)
        stamps[stem] = notebook.metadata.get("gencourse") if notebook else None
        for name in ("badge", *PROFILES_TO_COMMIT):
            if not re.search(f"<!-- {name} {stem} -->.*<!-- /{name} -->", text):
                part = f"<!-- {name} {stem} --><!-- /{name} -->"
                found.append(f"README.md: the chapter table lacks {part}.")
    if text != filled_readme(text, stamps):
        found.append("README.md: the chapter table is stale: run `python tools/build.py sync`.")
    return found + links("README.md", text, ROOT)


def orphans():
    """Every notebook has a text, so that nobody edits one that no build makes."""
    extra = {p.stem for p in CHAPTERS.glob("*.ipynb")} - set(stems())
    return [f"chapters/{name}.ipynb has no chapters/text/{name}.py." for name in sorted(extra)]


def chapter(stem):
    """Every rule for one chapter; of a text that is not built yet, those that need no outputs."""
    text, notebook = read_text(stem), read_notebook(stem)
    found, size = pairing(stem, text, notebook), 0
    if notebook is None:
        notebook = from_text(text)
    else:
        found += stamp(stem, notebook) + executed(stem, notebook)
        found += shown_elsewhere(stem, notebook)
        size = notebook_path(stem).stat().st_size
    found += limits(stem, notebook, size)
    return found + anatomy(stem, notebook) + notebook_links(stem, notebook)


# --- helpers --------------------------------------------------------------------------------------


def words(markdown):
    """How many words a reader reads: formulas, code, comments and addresses don't count."""
    for pattern, replacement in (
        (r"<!--.*?-->", " "),
        (r"```.*?```", " "),
        (r"\$\$.*?\$\$", " "),
        (r"\$[^$\n]+(?:\n[^$\n]+)*\$", " "),
        (r"!?\[([^\]]*)\]\([^)]*\)", r"\1"),
        (r"https?://\S+", " "),
        (r"`[^`]*`", " "),
    ):
        markdown = re.sub(pattern, replacement, markdown, flags=re.S)
    return sum(bool(re.search(r"\w", word)) for word in markdown.split())


def sections(notebook):
    """The cells under each `## ` heading, by the heading's words."""
    found, current = {}, []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (m := re.search(r"^## (.+)$", cell.source, re.M)):
            current = found.setdefault(m.group(1).strip(), [])
        current.append(cell)
    return found


def _first_line(cell):
    return cell.source.split("\n", 1)[0][:50]


def output_text(output):
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return "\n".join(output.traceback)
    return "\n".join(v for k, v in output.get("data", {}).items() if k.startswith("text/"))
