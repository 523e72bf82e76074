"""What every benchmark needs: the machine, runs in turns, medians and spread, a table, a JSON.

A time on one machine says little; a ratio of two that were taken in turns, in one run, says more.
"""

import datetime
import itertools
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from gencourse import fast, runtime

RESULTS = Path(__file__).with_name("results")


def machine():
    """What the numbers were measured on: dict of str, int and float, fit for JSON."""
    found = {
        "machine": runtime.describe(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
    }
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)  # of the last minute: was it quiet?
    if torch.cuda.is_available():
        found["gpu_memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
        found["cuda"], found["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    return found


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


def worthwhile(precision):
    """Whether to measure in a precision, by name; where it is emulated, no: it says so."""
    sentence = fast.slow_here(getattr(torch, precision))
    if sentence:
        print(f"Nothing is measured in {precision}. {sentence}", flush=True)
    return not sentence


def wait():
    """Let the GPU finish what it was given; nothing on a CPU, which already has."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleave(variants, rounds, warm_up=2):
    """Seconds of each function, called in turns A B C, B C A, C A B, …

    variants: dict name → function without arguments. warm_up: rounds that are not counted.
    Returns: dict name → list of `rounds` seconds.
    """
    names, taken = list(variants), {name: [] for name in variants}
    for number in range(warm_up + rounds):
        shift = number % len(names)
        for name in itertools.chain(names[shift:], names[:shift]):
            wait()
            began = time.perf_counter()
            variants[name]()
            wait()
            if number >= warm_up:
                taken[name].append(time.perf_counter() - began)
    return taken


def spread(values):
    """Median, lower and upper quartile, and n of a list of numbers."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else 3 * [values[0]]
    return {"median": middle, "low": low, "high": high, "n": len(values)}


def table(rows):
    """A list of dicts with the same keys as a Markdown table."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in head) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value):
    return f"{value:,.3g}" if isinstance(value, float) else str(value)


def save(name, rows, pretended="pretend_cuda" in sys.modules, **more):
    """Write results/NAME.json: the machine, the rows (a list of dicts) and whatever else was set.

    Rows of a GPU, of a CPU and of a pretended GPU never share a file. Returns: the path.
    """
    RESULTS.mkdir(exist_ok=True)
    kind = "pretended" if pretended else runtime.device().type
    path = RESULTS / f"{name}-{kind}.json"
    content = {"benchmark": name, **machine(), **more, "rows": rows}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
