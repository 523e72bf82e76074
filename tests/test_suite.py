"""The suite itself: what a stranger may lack is asked for, and what people edit by is quick."""

import os
import re
import shutil
import tomllib
from pathlib import Path

import warm
from needs import NEEDS

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
PROGRAMS = ("bwrap", "git", "cc", "gcc", "g++", "clang", "docker", "podman")


def test_a_test_finds_no_program_that_it_did_not_ask_for():
    assert [name for name in PROGRAMS if shutil.which(name)] == []
    assert shutil.which("sh"), "what everybody has stays"


def test_a_test_finds_what_it_asks_for_and_no_more(git):
    assert [name for name in PROGRAMS if shutil.which(name)] == ["git"]


def test_a_higher_fixture_of_an_earlier_test_leaves_nothing():
    assert not shutil.which("git")


def test_tests_are_skipped_by_these_fixtures_only():
    """So each reason says what to install, all are counted in one line, and CI allows none."""
    for path in HERE.glob("test_*.py"):
        found = re.findall(r"\bskip\(|skipif\b|importorskip\b|SkipTest\b", path.read_text("utf-8"))
        assert not found or path.name == "test_suite.py", f"{path.name}: {found}"
    for need in NEEDS.values():
        assert re.fullmatch(r"[^:;]+ \([^()]+\)", need.missing), need.missing


def test_who_asks_is_marked(request, git):
    assert request.node.get_closest_marker("needs")


def test_a_lack_is_counted_in_one_line_and_is_an_error_in_ci():
    """Of a run in which git is nowhere, since this test did not ask for it."""
    ours = ("PYTEST", "GENCOURSE_TEST", "CI")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    command = ["-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", Path(__file__), "-k", "asks"]
    for env, code, expected in [
        ({}, 0, "2 skipped: no checkout with git (git clone)\n"),
        ({"CI": "1"}, 1, "CI must have it: no checkout with git (git clone)"),
    ]:
        done = warm.run(*command, env=inherited | env, cwd=HERE.parent)
        assert done.returncode == code and expected in done.stdout, done.stdout + done.stderr
    assert "skipped" not in done.stdout.splitlines()[-1]
