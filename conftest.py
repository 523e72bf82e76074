"""What every test and notebook kernel sees: the smoke profile, no network, empty folders."""

import collections
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import ipykernel.kernelspec
import pytest
import warm

ROOT = Path(__file__).parent
NO_NETWORK = ROOT / "tests" / "no_network"
CONTROLLER = "PYTEST_XDIST_WORKER" not in os.environ
# Programs that a stranger may lack, by the name of tests/needs.py that gives them to a test.
ASKED_FOR = {
    "bubblewrap": ["bwrap"],
    "git": ["git"],
    "compiler": ["cc", "gcc", "g++", "c++", "clang", "clang++"],
    "containers": ["docker", "podman"],
}


def hide(programs):
    """Take programs out of PATH: of a folder that has one, links to all the others stay."""
    names, folders = set().union(*programs.values()), []
    for i, folder in enumerate(os.environ["PATH"].split(os.pathsep)):
        here = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if here & names:
            links = Path(os.environ["GENCOURSE_TEST_FOLDER"], "path", str(i))
            links.mkdir(parents=True)
            for name in here - names:
                (links / name).symlink_to(os.path.join(folder, name))
            folders.append(str(links))
        else:
            folders.append(folder)
    for fixture, several in programs.items():
        links = Path(os.environ["GENCOURSE_TEST_FOLDER"], fixture)
        links.mkdir()
        for name in several:
            if found := shutil.which(name):
                (links / name).symlink_to(found)
    os.environ["GENCOURSE_TEST_PATH"] = os.environ["PATH"] = os.pathsep.join(folders)


# Set before anything starts a kernel, a worker or imports torch: all of them inherit it.
os.environ["GENCOURSE_PROFILE"] = "smoke"
os.environ["GENCOURSE_STATIC"] = "1"
os.environ["GENCOURSE_DEVICE"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "agg"  # kernels included: plot.show draws by itself
if CONTROLLER:
    # A Python that may not keep what it compiles spends half of its start on compiling torch anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Real data is for the tests that ask for it by name; everything else must do without.
    os.environ["GENCOURSE_TEST_DATA"] = os.environ.pop("GENCOURSE_DATA", "")
    os.environ["GENCOURSE_TEST_FOLDER"] = tempfile.mkdtemp(prefix="gencourse-tests-")
    os.environ["GENCOURSE_CACHE"] = os.path.join(os.environ["GENCOURSE_TEST_FOLDER"], "cache")
    if os.name == "posix":
        hide(ASKED_FOR)
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(NO_NETWORK), *([path] if path else [])])
    server = warm.start(os.path.join(os.environ["GENCOURSE_TEST_FOLDER"], "warm"))
if "GENCOURSE_TEST_SERVER" in os.environ:  # kernels are forks too
    ipykernel.kernelspec.make_ipkernel_cmd = lambda *_, **__: [
        *warm.PYTHON, "-m", "ipykernel_launcher", "-f", "{connection_file}",
        "--IPKernelApp.parent_handle=1",
    ]

# This process was started before PYTHONPATH was set.
spec = importlib.util.spec_from_file_location("no_network", NO_NETWORK / "sitecustomize.py")
no_network = importlib.util.module_from_spec(spec)
spec.loader.exec_module(no_network)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Each notebook and each test file trains in a folder of its own, empty at first.

    And each test finds those programs that it asks for, even if one before it asked for more.
    """
    folder = Path(os.environ["GENCOURSE_TEST_FOLDER"])
    os.environ["GENCOURSE_RUNS"] = str(folder / item.path.stem)
    if path := os.environ.get("GENCOURSE_TEST_PATH"):
        asked = ASKED_FOR.keys() & set(getattr(item, "fixturenames", ()))
        os.environ["PATH"] = os.pathsep.join([*(str(folder / name) for name in asked), path])


def pytest_terminal_summary(terminalreporter):
    """One line about all that was skipped, with what to install to run it."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = collections.Counter(x.longrepr[2].removeprefix("Skipped: ") for x in skipped)
    if reasons:
        said = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(said.replace(":", " skipped:", 1))


def pytest_unconfigure(config):
    if CONTROLLER:
        warm.stop(server)
        shutil.rmtree(os.environ["GENCOURSE_TEST_FOLDER"], ignore_errors=True)
