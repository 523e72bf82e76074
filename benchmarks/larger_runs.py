"""The arithmetic of larger runs: what communication costs at 2, 8 and 64 GPUs, and where it pays.

    python benchmarks/larger_runs.py       # seconds; writes the tables of larger_runs.md

The model is `gencourse.scaling`, the one of chapter 14. If a GPU has measured the step
(results/floor-cuda.json, see floor.py), its rates and its distance from the floor are used, else
those of a data sheet. The page's last table is from results/processes-*.json (processes.py).
"""

import functools
import json
import math
import re
from pathlib import Path

import report
from report import RESULTS

from gencourse import nets, scaling
from gencourse.scaling import LINKS

PAGE = Path(__file__).with_suffix(".md")
STEP = "DCGAN 64×64×3 width 64, batch 128"  # of floor.py
SIZE, CHANNELS, BATCH = 64, 3, 128
PRECISION = "bfloat16"
NVIDIA = "[NVIDIA H200](https://www.nvidia.com/en-us/data-center/h200/)"
CONNECTX = "[ConnectX-7](https://docs.nvidia.com/networking/display/ConnectX7VPI/Introduction)"
NCCL = "[NCCL, tuning.cc](https://github.com/NVIDIA/nccl/blob/master/src/graph/tuning.cc)"
SOURCES = dict(zip(LINKS, (NVIDIA, CONNECTX, "its name", "its name"), strict=True))
WIDTHS = {"the course's DCGAN, width 64": 64, "width 288": 288, "width 928": 928}
GPUS = (2, 8, 64)


def results(name):
    """The newest result of a benchmark, of a GPU if there is one: dict, or None."""
    for kind in ("cuda", "cpu"):
        path = RESULTS / f"{name}-{kind}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8")) | {"kind": kind}
    return None


def one_gpu():
    """One GPU: dict of pi and beta, its rates, and over, a step's time over its floor.

    Without a GPU's results: the rates of a data sheet, and a step that is as fast as its floor.
    """
    _, pi, beta = scaling.MACHINES["H200"]
    gpu = {"pi": pi, "beta": beta, "over": 1.0, "measured": None}
    found = results("floor")
    if found is not None and found["kind"] == "cuda":
        row = next(r for r in found["rows"] if r["step"] == STEP and r["precision"] == PRECISION)
        gpu |= {"pi": found["matmul_flops"][PRECISION], "beta": found["copy_bytes"]}
        gpu["measured"] = row["step [ms]"]
        gpu["over"] = row["step [ms]"] / (1000 * compute_seconds(gpu, 64, BATCH))
    return gpu


@functools.cache
def counts(width, batch):
    return scaling.account(SIZE, CHANNELS, width, batch)


def compute_seconds(gpu, width, batch):
    """Seconds of a step without communication, for so many pictures on one GPU."""
    rows = counts(width, batch)
    return gpu["over"] * scaling.floor(rows, gpu["pi"], gpu["beta"], number_bytes=2)


def gradients(width):
    """Bytes of the two messages of a step: the float32 gradients of G and of D."""
    return [4 * row["moved"] // 7 for row in counts(width, BATCH) if row["layer"] == "Adam"]


def gradient_seconds(width, n, link):
    return sum(scaling.all_reduce_seconds(size, n, link) for size in gradients(width))


@functools.cache
def batch_norm_messages():
    pair = nets.DCGANGenerator(SIZE, CHANNELS, width=4), nets.DCGANDiscriminator(SIZE, CHANNELS, 4)
    return scaling.batch_norm_messages(*pair)


def batch_norm_seconds(n, link):
    return scaling.step_seconds(0.0, [], n, link, batch_norm_messages())


def step_seconds(gpu, width, batch, n, link):
    """Seconds of a step in which each of n GPUs has so many pictures, BatchNorm synchronised."""
    compute = compute_seconds(gpu, width, batch)
    return scaling.step_seconds(compute, gradients(width), n, link, batch_norm_messages())


def pays_up_to(gpu, width, link, per_gpu=None):
    """The most GPUs (powers of two) that each still do half of what one does alone; 1: none do.

    per_gpu: pictures for each GPU; None: BATCH pictures shared by all.
    """
    alone, best, n = compute_seconds(gpu, width, per_gpu or BATCH), 1, 2
    while n <= reach(link, per_gpu):
        together = step_seconds(gpu, width, per_gpu or BATCH // n, n, link)
        share = alone / together / (1 if per_gpu else n)
        if share < 0.5:
            break
        best, n = n, 2 * n
    return best


def reach(link, per_gpu=None):
    """How many GPUs we look at: those that a link joins, 1,024, and one picture each."""
    return min(link["most"], 1_024, BATCH if per_gpu is None else math.inf)


# The page's tables --------------------------------------------------------------------------------


def table(rows):
    """report.table with three digits that count and no powers of ten."""
    def short(value):
        return f"{float(f'{value:.3g}'):,g}" if isinstance(value, float) else value

    return report.table([{k: short(v) for k, v in row.items()} for row in rows])


def link_rows():
    def hops(link, way):
        if way not in link:
            return "–"
        return " / ".join(f"{1e6 * seconds:.3g}" for seconds in link[way].values())

    return [
        {
            "link": name,
            "GB/s, one way": link["rate"] / 1e9,
            "a hop in a ring [µs]": hops(link, "ring"),
            "in a tree [µs]": hops(link, "tree"),
            "joins at most": "any number" if link["most"] == math.inf else link["most"],
            "source of the rate": SOURCES[name],
        }
        for name, link in LINKS.items()
    ]


def step_rows(gpu):
    rows = []
    for name, width in WIDTHS.items():
        found = counts(width, BATCH)
        measured = gpu["measured"] if width == 64 else None
        rows.append(
            {
                "nets": name,
                "weights [M]": sum(gradients(width)) / 4e6,
                "TFLOP": sum(r["flops"] for r in found if r["products"]) / 1e12,
                "GB moved": 2 * sum(r["moved"] for r in found) / 1e9,
                "step used below [ms]": 1000 * compute_seconds(gpu, width, BATCH),
                "measured [ms]": measured or "not measured",
            }
        )
    return rows


def cells(link, value):
    """One cell of a table for each number of GPUs: `value(n)`, or a dash out of reach."""
    return {n: value(n) if n <= link["most"] else "–" for n in GPUS}


def communication_rows():
    rows = []
    for name, width in WIDTHS.items():
        for link_name, link in LINKS.items():
            found = cells(link, lambda n, w=width, k=link: 1000 * gradient_seconds(w, n, k))
            row = {"nets": name, "link": link_name}
            rows.append(row | {f"{n} GPUs [ms]": value for n, value in found.items()})
    for link_name, link in LINKS.items():
        found = cells(link, lambda n, k=link: 1000 * batch_norm_seconds(n, k))
        row = {"nets": f"BatchNorm, {batch_norm_messages()} messages", "link": link_name}
        rows.append(row | {f"{n} GPUs [ms]": value for n, value in found.items()})
    return rows


def speed_rows(gpu, per_gpu):
    """Pictures per second over those of one GPU, and up to where each still does half.

    per_gpu: pictures for each GPU; None: BATCH pictures shared by all.
    """
    rows = []
    for name, width in WIDTHS.items():
        alone = compute_seconds(gpu, width, per_gpu or BATCH)
        for link_name, link in LINKS.items():
            row = {"nets": name, "link": link_name}
            for n in GPUS:
                together = step_seconds(gpu, width, per_gpu or BATCH // n, n, link)
                faster = alone / together * (n if per_gpu else 1)
                row[f"{n} GPUs"] = f"{faster:.3g}×" if n <= link["most"] else "–"
            best = pays_up_to(gpu, width, link, per_gpu)
            more = "" if best < reach(link, per_gpu) else " or more"
            more = " (all)" if best == link["most"] else more
            rows.append(row | {"pays up to": f"{best}{more}"})
    return rows


def processes_text():
    found = results("processes")
    if found is None:
        return "Not measured yet: `processes.py`."
    lines = table(
        [
            {
                "here": row["what"],
                "threads each": row["threads each"],
                "images/s": row["images/s"],
                "n": row["n"],
            }
            for row in found["rows"]
        ]
    )
    about = f"{found['machine']}, global batch {found['batch_size']}, width {found['width']}."
    differences = "; ".join(f"{k}: {v:.2g}" for k, v in found["differences"].items())
    return f"{lines}\n\n{about} Largest difference of weights after 20 steps: {differences}."


def parts():
    """Name of the marker → what belongs between it and its end."""
    gpu = one_gpu()
    if gpu["measured"] is None:
        basis = (
            "**On a GPU not measured yet.** Each layer is taken to be as fast as its floor at the "
            f"rates of an H200's data sheet, {gpu['pi'] / 1e12:.0f} TFLOP/s and "
            f"{gpu['beta'] / 1e12:.1f} TB/s ({NVIDIA}), with two bytes for each number: the best "
            "that could be. A slower step makes communication weigh less."
        )
    else:
        basis = (
            f"Measured on a GPU: {gpu['measured']:.3g} ms, {gpu['over']:.3g} times its floor; "
            "the larger nets are taken to be as near to theirs."
        )
    shares = ", ".join(
        f"{name}: {share:g} of the rate, {1e6 * start:.1f} µs"
        for name, (share, start) in scaling.PROTOCOLS.items()
    )
    about = (
        f"Hops for {NCCL}'s three protocols, {' / '.join(scaling.PROTOCOLS)}. They differ in the "
        f"share of the rate and in the time to start, too ({shares})."
    )
    return {
        "basis": basis,
        "links": f"{table(link_rows())}\n\n{about}",
        "steps": table(step_rows(gpu)),
        "communication": table(communication_rows()),
        "shared": table(speed_rows(gpu, None)),
        "each": table(speed_rows(gpu, BATCH)),
        "processes": processes_text(),
    }


def filled(text, contents):
    """The page with new contents between its markers <!-- name --> and <!-- /name -->."""
    for name, content in contents.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, found = pattern.subn(lambda m, c=content: m[1] + c + "\n" + m[2], text)
        if found != 1:
            raise ValueError(f"{PAGE.name} has {found} places for {name!r}.")
    return text


def main():
    contents = parts()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), contents), encoding="utf-8")
    print("\n\n".join(contents.values()))


if __name__ == "__main__":
    main()
