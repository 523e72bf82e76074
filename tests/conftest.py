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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if INSTALLED.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker("needs")
