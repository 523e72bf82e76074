"""tools/build.py on a tiny chapter: what is kept, what is written, what a failure leaves."""

import json

import build
import nbformat
import pytest
import rules

TEXT = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7 · Tiny
#
# <!-- stamp -->*Run time: not measured yet.*<!-- /stamp -->
#
# <!-- badge --><!-- /badge -->

# %% tags=["install"]
# install

# %%
import os
import sys
import time

print(sys.executable, os.environ["GENCOURSE_PROFILE"], os.environ["GENCOURSE_RUNS"])
time.sleep(0.1)

# %%
from tqdm.auto import tqdm

for _ in tqdm(range(3)):
    pass
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A course with one chapter, 07_tiny, on a machine whose `python3` kernel is another one."""
    (tmp_path / "kernels" / "python3").mkdir(parents=True)
    kernel = {"argv": ["not-this-python"], "display_name": "Python 3", "language": "python"}
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    (tmp_path / "chapters" / "text").mkdir(parents=True)
    monkeypatch.setattr(rules, "CHAPTERS", tmp_path / "chapters")
    monkeypatch.setattr(rules, "TEXT", tmp_path / "chapters" / "text")
    monkeypatch.setattr(rules, "README", tmp_path / "README.md")
    monkeypatch.setattr(rules, "stems", lambda: ["07_tiny"])
    rules.README.write_text("<!-- cpu 07_tiny --><!-- /cpu -->", encoding="utf-8")
    rules.text_path("07_tiny").write_text(TEXT, encoding="utf-8")
    return tmp_path


def change(old, new):
    path = rules.text_path("07_tiny")
    source = path.read_text(encoding="utf-8")
    assert old in source
    path.write_text(source.replace(old, new), encoding="utf-8")


def test_build_then_edit_then_fail(house):
    """One test, because each kernel takes seconds to start."""
    build.build("07_tiny", "cpu")
    first = rules.read_notebook("07_tiny")
    install, where, bar = rules.code_cells(first)
    executable, profile, runs = where.outputs[0].text.split()
    assert executable == build.sys.executable and profile == "cpu"
    assert runs == "runs"  # a fresh folder, whose name does not reach the reader
    assert bar.outputs == [] and bar.execution_count == 3  # no dead progress bar is kept
    assert "%pip install" in install.source and install.outputs == []
    assert all(set(c.metadata) <= {"tags"} for c in first.cells)
    mark = first.metadata["gencourse"]
    assert mark["code_hash"] == rules.code_hash(first)
    assert mark["profile"] == "cpu" and 50 < mark["peak_mb"] < 50_000 and mark["seconds"] > 0
    assert "torch" in mark["machine"]
    source = rules.read_text("07_tiny")
    assert rules.pairing("07_tiny", source, first) == [] == rules.stamp("07_tiny", first)
    assert "not measured yet" not in source
    assert rules.README.read_text(encoding="utf-8") == "<!-- cpu 07_tiny -->{}<!-- /cpu -->".format(
        rules.minutes(mark["seconds"])
    )
    assert build.changed() == []

    # prose edits need no run, and keep outputs, ids and stamp
    change("# # 7 · Tiny", "# # 7 · Small")
    assert build.changed() == []
    build.save("07_tiny", first)
    second = rules.read_notebook("07_tiny")
    assert "Small" in second.cells[0].source
    assert [c.id for c in second.cells] == [c.id for c in first.cells]
    assert rules.code_cells(second) == rules.code_cells(first)
    assert second.metadata == first.metadata

    # code that changed is found; where it fails, the notebook stays and the error is shown
    change("    pass", "    raise RuntimeError('no such luck')")
    assert build.changed() == ["07_tiny"]
    before = rules.notebook_path("07_tiny").read_bytes()
    with pytest.raises(build.BuildError, match="no such luck"):
        build.build("07_tiny", "cpu")
    assert rules.notebook_path("07_tiny").read_bytes() == before
    assert not [p for p in house.rglob(".build-*")]


def test_a_tagged_cell_writes_its_picture_where_other_pages_find_it(house, monkeypatch):
    def pretend(notebook, profile, runs):
        for cell in rules.code_cells(notebook):
            cell.execution_count = 1
        where = rules.code_cells(notebook)[1]
        where.outputs = [nbformat.v4.new_output("display_data", {"image/png": "iVBORw0="})]
        return 60.0, 500, [], "pretended"

    monkeypatch.setattr(build, "execute", pretend)
    monkeypatch.setattr(rules, "PICTURES", house)
    change("# %%\nimport os", '# %% tags=["picture:tiny.png"]\nimport os')
    build.build("07_tiny", "cpu")
    assert (house / "tiny.png").read_bytes() == b"\x89PNG\r"
    assert rules.shown_elsewhere("07_tiny", rules.read_notebook("07_tiny")) == []


def test_a_measured_gpu_time_survives_a_cpu_build(house, monkeypatch):
    def pretend(notebook, profile, runs):
        for cell in rules.code_cells(notebook):
            cell.execution_count = 1
        return (60.0 if profile == "gpu" else 300.0), 500, [], "pretended"

    monkeypatch.setattr(build, "execute", pretend)
    monkeypatch.setattr(build, "_require_gpu", lambda: None)
    build.build("07_tiny", "gpu")
    build.build("07_tiny", "cpu")
    mark = rules.read_notebook("07_tiny").metadata["gencourse"]
    assert mark["seconds_by_profile"] == {"gpu": 60.0, "cpu": 300.0}
    assert mark["profile"] == "cpu" and mark["seconds"] == 300.0


def test_the_stamp_says_which_trainings_were_found_finished(house, monkeypatch):
    folder = house / "found" / "cpu" / "dcgan-0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")

    def pretend(notebook, profile, runs):
        (runs / "cpu" / "dcgan-0" / "config.json").unlink()  # a copy: what was given stays
        (runs / "cpu" / "vae-0").mkdir()
        for cell in rules.code_cells(notebook):
            cell.execution_count = 1
        return 600.0, 500, [], "pretended"

    monkeypatch.setattr(build, "execute", pretend)
    build.build("07_tiny", "cpu", house / "found", house / "kept")
    assert (folder / "config.json").exists() and not (house / "found" / "cpu" / "vae-0").exists()
    assert (house / "kept" / "cpu" / "vae-0").exists(), "the chapter's own runs, for others"
    assert rules.read_notebook("07_tiny").metadata["gencourse"]["found_runs"] == 1
    assert "10 min, beyond 1 trainings that chapters share" in rules.read_text("07_tiny")
    assert ">10 + 1 runs<" in rules.README.read_text(encoding="utf-8")


def test_the_gpu_profile_needs_a_gpu(house):
    with pytest.raises(build.BuildError, match="No GPU"):
        build.build("07_tiny", "gpu")


def test_clean_keeps_pictures_and_drops_bars():
    view = "application/vnd.jupyter.widget-view+json"
    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [
        nbformat.v4.new_output("display_data", {view: {}, "text/plain": "0%"}),
        nbformat.v4.new_output("display_data", {view: {}, "image/png": "A", "text/plain": "a"}),
        nbformat.v4.new_output("stream", name="stderr", text="100%|██| 3/3 [00:01<00:00]\n"),
        nbformat.v4.new_output("stream", name="stdout", text="kept in /tmp/x/runs"),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    build.clean(notebook, {"/tmp/x": "runs"})
    picture, line = cell.outputs
    assert set(picture.data) == {"image/png", "text/plain"}
    assert line.text == "kept in runs/runs"
    assert "widgets" not in notebook.metadata
