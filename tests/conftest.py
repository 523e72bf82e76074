"""Fixtures for the tests; what kernels and commands inherit is set in the conftest.py above."""

import os
from pathlib import Path

import pytest
from needs import INSTALLED, NEEDS


def fixture_of(name, need):
    @pytest.fixture(scope="session", name=name)
    def needed():
        if not need.here():
            assert not (os.environ.get("CI") and need.in_ci), f"CI must have it: {need.missing}"
            pytest.skip(need.missing)

    return needed


globals().update({f"_{name}": fixture_of(name, need) for name, need in NEEDS.items()})


@pytest.fixture
def real_data(real_data_folder, monkeypatch):
    """The folder that GENCOURSE_DATA named when the tests were started."""
    folder = os.environ["GENCOURSE_TEST_DATA"]
    monkeypatch.setenv("GENCOURSE_DATA", folder)
    return Path(folder)


# What `-m quick` leaves out besides notebooks and all seeds but the first: other processes, many
# trainings, every wrong answer there is. These are files, tests, and a fixture.
SLOW = """
    test_build test_class test_command test_cuda test_grade test_grade_solutions
    test_mutate test_nbgrader test_no_network test_pretend_cuda test_projects test_ranks
    test_sandbox test_suite test_tracker test_warm runs played
    test_an_import_brings_nothing_that_is_not_used_at_once test_importing_it_loads_nothing_else
    test_neighbours_and_precision_do_not_depend_on_the_chunks test_the_module_is_light
    test_numbers_just_within_their_edges_are_taken test_the_classifier_learns_the_digits
    test_the_gan_learns_the_digits test_the_table_of_exercises_and_wrong_answers
    test_a_right_answer_in_another_form_passes test_a_wrong_answer_is_told_what_is_wrong
    test_the_vae_learns_the_digits
""".split()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if not isinstance(item, pytest.Function):  # a notebook's cell
            continue
        if INSTALLED.keys() & set(item.fixturenames):
            item.add_marker("needs")
        seed = getattr(item, "callspec", None) and item.callspec.params.get("seed")
        names = {item.path.stem, item.originalname, *item.fixturenames}
        if not seed and names.isdisjoint(SLOW):
            item.add_marker("quick")
