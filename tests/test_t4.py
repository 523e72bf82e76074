"""The minutes on a T4 that the README shows, and the runner of chapters for a lent GPU."""

import json
import re
import sys

import pytest
import rules

sys.path.insert(0, str(rules.ROOT / "benchmarks"))

import gpu_chapters  # noqa: E402  (from benchmarks/)

FOUND = json.loads((rules.ROOT / "benchmarks" / "results" / "t4-estimate.json").read_text("utf-8"))


def test_every_chapter_fits_a_free_t4():
    assert [row["chapter"] for row in FOUND["chapters"]] == rules.stems()
    for row in FOUND["chapters"]:
        assert row["minutes"] <= 15 and row["GB"] < 14, row


@pytest.mark.parametrize("row", FOUND["rows"], ids=lambda r: f"{r['chapter'][:2]} {r['work']}")
def test_the_estimate_is_of_the_budgets_that_the_chapters_have(row):
    """Else: python benchmarks/t4.py, and tools/build.py sync."""
    text, name = rules.read_text(row["chapter"]), row["budget"]
    found = re.search(rf"^{name} = runtime.budget\(.*gpu=([\d_]+)\)", text, re.M)
    assert name.isdigit() or int(found[1]) == row["steps"]


@pytest.mark.parametrize("stem", rules.stems())
def test_the_runner_sees_the_cells_that_jupytext_sees(stem):
    text = rules.read_text(stem)
    cells = rules.code_cells(rules.from_text(text))
    cells = [c for c in cells if "install" not in rules.tags(c)]
    found = gpu_chapters.code_cells(text)
    assert [code.strip() for code, _ in found] == [c.source.strip() for c in cells]
    assert [may for _, may in found] == ["raises-exception" in rules.tags(c) for c in cells]
