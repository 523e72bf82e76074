"""The house's rules, asserted for every chapter. That the cells run at all is nbval's part."""

import glossary
import pytest
import rules

STEMS = rules.stems()
CHAPTERS = [
    *("00_start_here", "01_kl_divergence", "02_minimax", "03_convolutions", "04_first_gan"),
    *("05_dcgan", "06_mode_collapse", "07_evaluation", "08_vae", "09_latent_space"),
    "10_gan_vs_vae",
]


def said(sentences):
    """Assert that no rule complains, and show the complaints if one does."""
    assert not sentences, "\n" + "\n".join(sentences)


@pytest.fixture(scope="module", params=sorted({*STEMS, *CHAPTERS}))
def stem(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(stem):
    found = rules.read_notebook(stem)
    assert found is not None, f"chapters/{stem}.ipynb is missing"
    return found


def test_text_and_notebook_agree(stem, notebook):
    said(rules.pairing(stem, rules.read_text(stem), notebook))


def test_outputs_are_those_of_this_code_on_real_data(stem, notebook):
    said(rules.stamp(stem, notebook))


def test_every_cell_was_run(stem, notebook):
    said(rules.executed(stem, notebook))


def test_lengths_sizes_and_alt_text(stem, notebook):
    said(rules.limits(stem, notebook, rules.notebook_path(stem).stat().st_size))


def test_a_chapter_has_its_parts(stem, notebook):
    said(rules.anatomy(stem, notebook))


def test_pictures_that_other_pages_show_are_those_of_the_chapter(stem, notebook):
    said(rules.shown_elsewhere(stem, notebook))


def test_links_resolve(stem, notebook):
    said(rules.notebook_links(stem, notebook))


def test_every_notebook_has_a_text():
    said(rules.orphans())


def test_readme_shows_what_was_measured():
    said(rules.readme())


def test_the_glossary_is_what_the_notation_says():
    said(glossary.problems())


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "GLOSSARY.md", "NOTATION.md", "TEACHING.md",
                                  "exercises/README.md", "exercises/projects/own_pictures.md",
                                  "exercises/projects/cure_a_collapse.md",
                                  "solutions/README.md", "benchmarks/README.md",
                                  "benchmarks/larger_runs.md"])
def test_links_of_pages_resolve(page):
    path = rules.ROOT / page
    said(rules.links(page, path.read_text(encoding="utf-8"), path.parent))


def test_pytest_without_arguments_runs_every_cell_of_every_notebook(pytestconfig):
    assert pytestconfig.getini("testpaths") == ["chapters", "solutions", "tests"]
    addopts = pytestconfig.getini("addopts")
    # loadscope keeps a notebook's cells together, in order, in one process
    assert {"--nbval-lax", "--nbval-current-env", "--dist=loadscope"} <= set(addopts)
    assert not any(option.startswith(("-k", "-m", "--ignore", "--deselect")) for option in addopts)
