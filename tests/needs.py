"""What a stranger may lack: a test that needs it asks for the fixture of its name.

Without it the test is skipped, and the last line of the run says what to install; in CI, which
installs it, the test fails instead. A test that doesn't ask doesn't find it anywhere, not on a
machine that has it either: programs are taken out of PATH (see conftest.py above), and real
data is under another name. So none can be forgotten, and `-m needs` finds all that ask.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from gencourse.classroom import seccomp


class Need(NamedTuple):
    """Something that a test may need and a machine may lack."""

    here: callable  # whether it is here
    missing: str  # the reason for skipping, which says what to do
    in_ci: bool = True  # CI has it: there its lack is an error


def bubblewrap_works():
    """Some systems have it and forbid what it does."""
    nothing = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", sys.executable, "-I", "-c", ""]
    return shutil.which("bwrap") and not subprocess.run(nothing, capture_output=True).returncode


def tasks_are_counted():
    """By the kernel, for a sandbox of this user: see sandbox.cgroup."""
    if os.geteuid():
        return True
    from gencourse.classroom import sandbox  # which needs torch

    group = sandbox.cgroup("gencourse-needs", 64)
    return group and not group.rmdir()


def cuda():
    import torch

    return torch.cuda.is_available()


ROOT = Path(__file__).resolve().parents[1]
INSTALLED = {  # what can be had: `-m needs` finds the tests that ask for it
    "bubblewrap": Need(
        bubblewrap_works, "no bubblewrap that works (sudo apt install bubblewrap, see TEACHING.md)"
    ),
    "git": Need(
        lambda: shutil.which("git") and (ROOT / ".git").exists(), "no checkout with git (git clone)"
    ),
    "nbgrader": Need(
        lambda: importlib.util.find_spec("nbgrader"), "no nbgrader (uv sync --group classroom)"
    ),
    "real_data_folder": Need(
        lambda: os.environ.get("GENCOURSE_TEST_DATA"), "no real data (set GENCOURSE_DATA)", False
    ),
}
SYSTEM = {
    "bash": Need(lambda: shutil.which("bash"), "no bash (use Linux or macOS)"),
    "forks": Need(lambda: hasattr(os, "fork"), "no forks (use Linux or macOS)"),
    "one_sigint": Need(lambda: os.name != "nt", "no SIGINT (use Linux or macOS)"),
    "full_disk": Need(lambda: os.path.exists("/dev/full"), "no /dev/full (use Linux)"),
    "warm_server": Need(lambda: "GENCOURSE_TEST_SERVER" in os.environ, "fresh Python (use Linux)"),
    "seccomp": Need(seccomp.filter, "no filter of system calls (use Linux on x86-64 or ARM)"),
    "counted_tasks": Need(
        tasks_are_counted, "root's processes are not counted (run as an ordinary user)", False
    ),
    "no_cuda": Need(lambda: not cuda(), "a CUDA device (CUDA_VISIBLE_DEVICES= pytest …)"),
}
NEEDS = INSTALLED | SYSTEM
