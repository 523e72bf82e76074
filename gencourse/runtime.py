"""Where this runs and how big it may be: profile, device, seeds, and the machine in one line."""

import importlib.metadata
import os
import platform
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

PROFILES = ("smoke", "cpu", "gpu")


class UserError(Exception):
    """Something its reader can mend: the message says what was wrong and what to do."""

    exit_code = 2  # of the command


class OptionError(UserError):
    """An option has a value that it can't have: its `name`, and the `problem` with it."""

    def __init__(self, name, problem):
        super().__init__(name, problem)
        self.name, self.problem = name, problem

    def __str__(self):
        return f"{self.name} {self.problem}"


def within(name, value, least, most):
    """Raise OptionError unless least ≤ value ≤ most, and whole where `least` is an int."""
    whole = isinstance(least, int)
    if whole and value % 1:
        raise OptionError(name, f"is {value}; it must be a whole number.")
    if not least <= value <= most:  # as nan is not
        most = f"{most:,}" if whole else f"{most:g}"
        raise OptionError(name, f"is {value}; it must be at least {least:g} and at most {most}.")


def device():
    """The best device here: CUDA, then Apple's MPS, then the CPU.

    Returns: torch.device. GENCOURSE_DEVICE (such as "cpu") overrides the choice.
    """
    name = os.environ.get("GENCOURSE_DEVICE")
    if not name and not torch.cuda.is_available():
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    found = torch.device(name or "cuda")
    if found == torch.device("cuda") and "LOCAL_RANK" in os.environ:
        # Several processes on one machine, one each: `ranks` refuses more of them than there are.
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return found


def profile():
    """How much work this machine is asked to do: "smoke", "cpu" or "gpu".

    Returns: GENCOURSE_PROFILE if set, else "gpu" where there is CUDA or MPS, else "cpu".
    Raises: UserError if GENCOURSE_PROFILE is another word.
    """
    name = os.environ.get("GENCOURSE_PROFILE") or ("cpu" if device().type == "cpu" else "gpu")
    if name not in PROFILES:
        raise UserError(f"GENCOURSE_PROFILE is {name!r}; set it to one of {', '.join(PROFILES)}.")
    return name


def budget(*, smoke, cpu, gpu):
    """The one of three sizes that fits the profile: `steps = budget(smoke=20, cpu=1_500, …)`."""
    return {"smoke": smoke, "cpu": cpu, "gpu": gpu}[profile()]


def seed_everything(seed):
    """Seed Python, NumPy and torch (every device) with the same number.

    Raises: OptionError outside of what NumPy's generator takes, 0 to 2³² − 1.
    """
    within("seed", seed, 0, 2**32 - 1)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def run_folder(name):
    """The folder where the run `name` of this profile lives (it need not exist yet).

    Returns: Path, $GENCOURSE_RUNS (or ./runs) / profile / name; profiles never share a folder.
    """
    return Path(os.environ.get("GENCOURSE_RUNS", "runs")) / profile() / name


def describe():
    """This machine in one line: profile, device, cores, versions."""
    where = device()
    if where.type == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        hardware = f"{where.type} · {os.cpu_count()} cores ({torch.get_num_threads()} threads)"
    return (
        f"{profile()} profile · {hardware} · {platform.system()} {platform.machine()}"
        f" · Python {platform.python_version()} · torch {torch.__version__.split('+')[0]}"
    )


def check_machine(folder="."):
    """What the course needs and whether this machine has it, in plain words.

    folder: where runs would be written.
    Returns: list of (ok, sentence); a sentence that is not ok says what to do.
    """
    report = []

    def note(ok, good, bad):
        report.append((bool(ok), good if ok else bad))

    version = platform.python_version()
    note(
        sys.version_info >= (3, 11),
        f"Python {version} is new enough.",
        f"Python {version} is too old: install Python 3.11 or newer.",
    )
    for package in (
        *("torch", "torchvision", "numpy", "matplotlib", "ipywidgets", "scikit-learn"),
        *("accelerate", "safetensors", "tqdm", "pooch", "typer"),
    ):
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found = None
        missing = f"{package} is missing: run `pip install -e .` in the course's folder."
        note(found, f"{package} {found} is installed.", missing)
    where = device()
    note(
        where.type != "cpu",
        f"Training will use the device {where}.",
        "No GPU was found: the course then uses its `cpu` sizes, about five minutes per training. "
        "For the full ones open a chapter in Colab and choose Runtime → Change runtime type → GPU.",
    )
    folder = Path(folder).resolve()
    note(
        os.access(folder, os.W_OK),
        f"The folder {folder.name} can be written to.",
        f"The folder {folder} can't be written to: start Jupyter in a folder of your own.",
    )
    given = os.environ.get("GENCOURSE_DATA")
    note(
        not given or Path(given).is_dir(),
        "Data will first be looked for in the folder that GENCOURSE_DATA names."
        if given
        else "Data will be fetched when a chapter first needs it (the first chapters need none).",
        f"GENCOURSE_DATA names {given!r}, which is no folder: correct the name, or unset it.",
    )
    free = shutil.disk_usage(folder).free / 1e9
    note(
        free > 2,
        f"{free:.0f} GB of disk are free.",
        f"Only {free:.1f} GB of disk are free: make room for 2 GB before training.",
    )
    return report
