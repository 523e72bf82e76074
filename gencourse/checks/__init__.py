"""Exercises: `check` tests an answer; `gencourse grade` and the tests use the same definitions."""

from gencourse.checks.core import check

__all__ = ["check"]
