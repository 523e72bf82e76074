"""Each rule must be able to complain: a chapter that keeps all is broken in one way at a time."""

import copy

import nbformat
import pytest
import rules
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

STEM = "07_tiny"
STAMP = {
    "code_hash": "",
    "profile": "cpu",
    "data": ["digits"],
    "seconds": 90.0,
    "peak_mb": 700,
    "machine": "cpu · 2 cores",
    "seconds_by_profile": {"cpu": 90.0},
}
TEXT = """\
# %% [markdown]
# # 7 · Tiny
#
# One sentence.

# %% [markdown]
# **After this chapter you can** add. · **You need** nothing.
#
# <!-- stamp -->*Run time: not measured yet.*<!-- /stamp -->
#
# <!-- badge --><!-- /badge -->

# %% tags=["install"]
# install

# %%
print(runtime.describe())

# %% [markdown]
# ## 7.1 Sums

# %%
widgets.explore(draw, "A line.", slope=(0, 5, 1))

# %%
# checkpoint: two routes to four
assert 2 + 2 == 2 * 2

# %% [markdown]
# ## Break it

# %% [markdown]
# ## Exercises

# %% [markdown]
# ## Recap
#
# - a
# - b
# - c
# - d
# - e

# %% [markdown]
# ## References
#
# [This chapter](07_tiny.ipynb), [a page](https://example.org), [a part](#recap).
"""
SETUP, EXPLORE, CHECKPOINT = 1, 2, 3  # positions among the code cells


def text():
    stamp = STAMP | {"code_hash": rules.code_hash(rules.from_text(TEXT))}
    return rules.filled(TEXT, STEM, stamp), stamp


@pytest.fixture
def good():
    source, stamp = text()
    notebook = rules.from_text(source)
    notebook.metadata["gencourse"] = stamp
    notebook.nbformat_minor = 5
    for i, cell in enumerate(rules.code_cells(notebook)):
        cell.execution_count = i + 1
    picture = new_output(
        "display_data", {"image/png": "iVBORw0="}, metadata={"image/png": {"alt": "A line."}}
    )
    rules.code_cells(notebook)[EXPLORE].outputs = [picture]
    return nbformat.from_dict(notebook)


def complaints(notebook, source=None, size=1000):
    return [
        *rules.pairing(STEM, source or text()[0], notebook),
        *rules.stamp(STEM, notebook),
        *rules.executed(STEM, notebook),
        *rules.limits(STEM, notebook, size),
        *rules.anatomy(STEM, notebook),
    ]


def test_the_chapter_to_break_keeps_every_rule(good):
    assert complaints(good) == []


def code(notebook, i):
    return rules.code_cells(notebook)[i]


def edit(notebook, old, new):
    """Replace words in the prose cell that holds them."""
    cell = next(c for c in rules.prose_cells(notebook) if old in c.source)
    cell.source = cell.source.replace(old, new)


def output(notebook, i, **fields):
    code(notebook, i).outputs.append(new_output(**fields))


BROKEN = {
    # what is done to the notebook, and a part of the sentence that must be said
    "prose differs": (lambda n: edit(n, "One sentence", "Two sentences"), "differ"),
    "code differs": (lambda n: code(n, SETUP).update(source="1"), "differ"),
    "cell added": (lambda n: n.cells.append(new_markdown_cell("more")), "differ"),
    "cell lost": (lambda n: n.cells.pop(), "differ"),
    "tag lost": (lambda n: code(n, 0).update(metadata={}), "differ"),
    "hash": (lambda n: code(n, SETUP).update(source="print(1)"), "code changed since"),
    "no stamp": (lambda n: n.metadata.pop("gencourse"), "no stamp"),
    "old stamp": (lambda n: n.metadata["gencourse"].pop("peak_mb"), "lacks peak_mb"),
    "smoke": (lambda n: n.metadata["gencourse"].update(profile="smoke"), "`smoke` profile"),
    "other time": (lambda n: n.metadata["gencourse"].update(seconds=1e4), "not what the build"),
    "not run": (lambda n: code(n, SETUP).update(execution_count=None), "was not run"),
    "order": (lambda n: code(n, SETUP).update(execution_count=99), "out of order"),
    "error": (
        lambda n: output(n, SETUP, output_type="error", ename="E", evalue="", traceback=[]),
        "if and only if",
    ),
    "no error": (
        lambda n: code(n, SETUP).update(metadata={"tags": ["raises-exception"]}),
        "if and only if",
    ),
    "skipped": (
        lambda n: code(n, SETUP).update(metadata={"tags": ["nbval-skip"]}), "nbval markers"
    ),
    "skipped by comment": (
        lambda n: code(n, SETUP).update(source="# NBVAL_SKIP\n1"), "nbval markers"
    ),
    "warning": (
        lambda n: output(n, SETUP, output_type="stream", name="stderr", text="Warning: x"),
        "writes to stderr",
    ),
    "folder": (
        lambda n: output(n, SETUP, output_type="stream", name="stdout", text="in /home/ada/runs"),
        "a folder of one machine",
    ),
    "widget state": (lambda n: n.metadata.update(widgets={}), "widget state"),
    "invalid": (lambda n: n.cells[0].update(cell_type="poem"), "not a valid notebook"),
    "same ids": (lambda n: n.cells[1].update(id=n.cells[0]["id"]), "the same id"),
    "long code": (lambda n: code(n, SETUP).update(source="x = 1\n" * 41), "41 lines; 40"),
    "median": (
        lambda n: [c.update(source=c.source + "\nx = 1" * 9) for c in rules.code_cells(n)],
        "median code cell",
    ),
    "imports": (lambda n: code(n, SETUP).update(source="import a\n" * 9), "9 imports"),
    "no alt": (lambda n: code(n, EXPLORE).outputs[0].update(metadata={}), "no alt text"),
    "live": (
        lambda n: code(n, EXPLORE).outputs[0]["data"].update(
            {"application/vnd.jupyter.widget-view+json": {}}
        ),
        "live widget",
    ),
    "html": (
        lambda n: output(n, SETUP, output_type="display_data", data={"text/html": "<img src=x>"}),
        "HTML with a picture",
    ),
    "long prose": (lambda n: edit(n, "One sentence", "word " * 120), "122 words"),
    "base64": (lambda n: edit(n, "One", "![a](data:image/png;base64,AA)"), "base64"),
    "remote": (lambda n: edit(n, "One", "![a](https://example.org/a.png)"), "remote picture"),
    "remote html": (lambda n: edit(n, "One", '<img src="https://example.org/a">'), "remote"),
    "prose alt": (lambda n: edit(n, "One", "![](a.png)"), "no alt text"),
    "title": (lambda n: edit(n, "# 7 · Tiny", "# Tiny"), "must begin with `# 7"),
    "can": (lambda n: edit(n, "After this chapter", "Later"), "you can** is missing"),
    "need": (lambda n: edit(n, "**You need**", "You need"), "**You need** is missing"),
    "break it": (lambda n: edit(n, "Break it", "Mend it"), "Break it"),
    "exercises": (lambda n: edit(n, "## Exercises", "## Tasks"), "Exercises"),
    "recap": (lambda n: edit(n, "- e", ""), "4 bullets"),
    "references": (lambda n: edit(n, "## References", "## Papers"), "References"),
    "machine": (lambda n: code(n, SETUP).update(source="1"), "describe()"),
    "explorer": (lambda n: code(n, EXPLORE).update(source="1"), "no interactive explorer"),
    "sections": (lambda n: edit(n, "## 7.1 Sums", "## Sums"), "no numbered section"),
    "checkpoint": (lambda n: code(n, CHECKPOINT).update(source="assert True"), "`# checkpoint`"),
    "assert": (lambda n: code(n, CHECKPOINT).update(source="# checkpoint: x"), "assert something"),
    "after checkpoint": (
        lambda n: n.cells.insert(n.cells.index(code(n, CHECKPOINT)) + 1, new_code_cell("1")),
        "`# checkpoint`",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_named(good, name):
    breaks, sentence = BROKEN[name]
    broken = copy.deepcopy(good)
    breaks(broken)
    assert any(sentence in c for c in complaints(broken)), complaints(broken)


def test_a_large_notebook_is_named(good):
    assert any("under 1 MB" in c for c in complaints(good, size=rules.BYTES))


def test_a_missing_notebook_is_named():
    assert "missing" in rules.pairing(STEM, TEXT, None)[0]


def test_a_text_that_the_build_has_not_filled_is_named(good):
    assert any("not what the build" in c for c in rules.pairing(STEM, TEXT, good))


@pytest.mark.parametrize("marker", ["<!-- stamp -->", "<!-- badge -->", '# %% tags=["install"]'])
def test_a_marker_that_was_lost_is_named(good, marker):
    source = text()[0].replace(marker, marker.replace("-- ", "-- my ").replace("install", "other"))
    assert any("must hold" in c for c in rules.pairing(STEM, source, good))


def test_a_picture_that_other_pages_show_is_what_its_cell_drew(good, tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "PICTURES", tmp_path)
    assert rules.shown_elsewhere(STEM, good) == []
    code(good, EXPLORE).metadata["tags"] = ["picture:line.png"]
    assert "images/line.png is not" in rules.shown_elsewhere(STEM, good)[0]
    (tmp_path / "line.png").write_bytes(b"\x89PNG\r")
    assert rules.shown_elsewhere(STEM, good) == []
    (tmp_path / "line.png").write_bytes(b"\x89PNG of yesterday")
    assert "build.py sync" in rules.shown_elsewhere(STEM, good)[0]
    code(good, EXPLORE).outputs = []
    assert "picture:line.png draws no PNG" in rules.shown_elsewhere(STEM, good)[0]


def test_links_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "here.md").touch()
    page = "[a](here.md) [b](here.md#part) [c](https://example.org) `[d](code)` [e](gone.md)"
    assert rules.links("page", page, tmp_path) == ["page: the link to gone.md leads nowhere."]
    assert rules.links("page", '<img src="gone.png">', tmp_path)
    assert rules.links("page", "![alt](gone.png)", tmp_path)


def test_words_are_those_a_reader_reads():
    words = rules.words
    assert words("one **two** [three four](https://example.org/five) — six.") == 5
    assert words("$a + b$ one $$\nx = y\n$$ two `code` <!-- three -->") == 2


def test_prose_and_stamp_do_not_change_the_hash_but_code_does():
    before = rules.code_hash(rules.from_text(TEXT))
    assert rules.code_hash(rules.from_text(text()[0])) == before  # stamp, badge, install cell
    assert rules.code_hash(rules.from_text(TEXT.replace("One", "A"))) == before
    assert rules.code_hash(rules.from_text(TEXT.replace("2 * 2", "2 ** 2"))) != before


def test_only_the_sizes_of_the_profile_that_ran_count():
    def code_hash(smoke, cpu, gpu, profile="cpu"):
        size = f"runtime.budget(smoke={smoke}, cpu={cpu}, gpu={gpu})"
        return rules.code_hash(rules.from_text(TEXT.replace("2 * 2", f"2 * {size}")), profile)

    assert code_hash(1, 2, 3) == code_hash(8, 2, 9) != code_hash(1, 4, 3)
    assert code_hash(1, 2, 3, "gpu") == code_hash(8, 9, 3, "gpu") != code_hash(1, 2, 4, "gpu")
    assert code_hash('"a"', '"b"', '"c"') == code_hash('"x"', '"b"', '"y"')


def test_filling_twice_changes_nothing():
    once, stamp = text()
    assert rules.filled(once, STEM, stamp) == once
    assert "Run time: 1.5 min, peak memory 0.7 GB, `cpu` profile on `digits`" in once
    assert max(len(line) for line in once.splitlines() if "http" not in line) <= 100


def test_readme_shows_each_measured_time_and_says_what_is_not_measured(monkeypatch):
    row = "<!-- badge a --><!-- /badge --><!-- cpu a --><!-- /cpu --><!-- gpu a -->1<!-- /gpu -->"
    filled = rules.filled_readme(row, {"a": STAMP})
    assert "<!-- cpu a -->1.5<!-- /cpu -->" in filled
    assert "<!-- gpu a -->not measured yet<!-- /gpu -->" in filled
    assert rules.colab_url("a") in filled
    assert "not measured yet" in rules.filled_readme(row, {"a": None}).split("cpu a")[1]
    monkeypatch.setattr(rules, "estimates", lambda: {"a": 11.2})
    assert "<!-- gpu a -->estimated: 12 min on a T4<!-- /gpu -->" in rules.filled_readme(
        row, {"a": STAMP}
    )
