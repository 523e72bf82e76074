"""Fixtures for the tests; what kernels and commands inherit is set in the conftest.py above."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def real_data(monkeypatch):
    """The folder that GENCOURSE_DATA named when the tests were started; without one, skip."""
    folder = os.environ.get("GENCOURSE_TEST_DATA")
    if not folder:
        pytest.skip("GENCOURSE_DATA names no folder with real data")
    monkeypatch.setenv("GENCOURSE_DATA", folder)
    return Path(folder)


@pytest.fixture(scope="session")
def bubblewrap():
    """The sandbox of Linux; elsewhere skip, but never in CI, which installs it."""
    if not shutil.which("bwrap"):
        assert not os.environ.get("CI"), "CI must have bubblewrap: see .ci/run"
        pytest.skip("bubblewrap is not installed here")
