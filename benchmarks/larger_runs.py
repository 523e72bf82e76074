"""The arithmetic of larger runs: what communication costs at 2, 8 and 64 GPUs, and where it pays.

    python benchmarks/larger_runs.py       # seconds; writes the tables of larger_runs.md

Reads the counts of a step, and where there are any its measured times, from results/floor-*.json
and results/processes-*.json (see floor.py, processes.py); all other numbers are the published ones
below, with their sources.
"""

import json
import math
import re
from pathlib import Path

import report
from report import RESULTS

PAGE = Path(__file__).with_suffix(".md")
STEP = "DCGAN 64×64×3 width 64, batch 128"  # of floor.py
BATCH = 128
PRECISION = "bfloat16"

# Of an NVIDIA H200 SXM, from its data sheet: bfloat16 without sparsity, memory.
PUBLISHED = {"matmul": 989e12, "copy": 4.8e12}
NVIDIA = "[NVIDIA H200](https://www.nvidia.com/en-us/data-center/h200/)"
CONNECTX = "[ConnectX-7](https://docs.nvidia.com/networking/display/ConnectX7VPI/Introduction)"
NCCL = "[NCCL, tuning.cc](https://github.com/NVIDIA/nccl/blob/master/src/graph/tuning.cc)"
LINKS = {  # bytes/s in one direction for each GPU; seconds of one hop in a ring and in a tree
    "NVLink 4": {"rate": 450e9, "ring": 3.4e-6, "tree": 4.0e-6, "source": NVIDIA},
    "InfiniBand NDR, 400 Gb/s": {"rate": 50e9, "ring": 14e-6, "tree": 14e-6, "source": CONNECTX},
    "Ethernet, 100 Gb/s": {"rate": 12.5e9, "ring": 14e-6, "tree": 14e-6, "source": "its name"},
    "Ethernet, 10 Gb/s": {"rate": 1.25e9, "ring": 14e-6, "tree": 14e-6, "source": "its name"},
}
SIZES = {"the course's DCGAN": None, "100 M weights": 1e8, "1 B weights": 1e9}
GPUS = (2, 8, 64)
IN_ONE_MACHINE = 8  # GPUs that NVLink joins in the usual server


def results(name):
    """The newest result of a benchmark, of a GPU if there is one: dict, or None."""
    for kind in ("cuda", "cpu"):
        path = RESULTS / f"{name}-{kind}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8")) | {"kind": kind}
    return None


def one_gpu():
    """The step of floor.py: dict of its counts, the rates, and the step over its floor.

    Without a GPU's results: published rates, and a step that is as fast as its floor.
    """
    found = results("floor")
    if found is None:
        raise SystemExit("Run floor.py first: nothing is known about the step.")
    # On a GPU several precisions are measured, on a CPU this one is only counted.
    row = next(r for r in found["rows"] if r["step"] == STEP and r["precision"] == PRECISION)
    step = dict(row["counted"]) | {"over": 1.0, "measured": None, "rates": PUBLISHED}
    if found["kind"] == "cuda":
        rates = {"matmul": found["matmul_flops"][PRECISION], "copy": found["copy_bytes"]}
        step |= {"rates": rates, "measured": row["step [ms]"], "over": row["× every operation"]}
    return step


def grown(step, weights):
    """The step of nets so wide that they have so many weights; None leaves them as they are.

    Twice the width means four times the weights and FLOPs, and twice the activations.
    """
    now = step["weights_g"] + step["weights_d"]
    factor = 1.0 if weights is None else weights / now
    optimizer = 4 * (8 * now + 2 * step["weights_g"])  # as in floor.py
    return step | {
        "weights_g": step["weights_g"] * factor,
        "weights_d": step["weights_d"] * factor,
        "flops": step["flops"] * factor,
        "activations": (step["bytes"] - optimizer) * factor**0.5,
        "optimizer": optimizer * factor,
    }


def compute_seconds(step, batch):
    """Seconds of a step without communication for so many pictures on one GPU.

    The floor (FLOPs and activations grow with the batch, the optimizer's bytes don't), times what
    the measured step takes over its floor.
    """
    share, rates = batch / BATCH, step["rates"]
    moved = step["activations"] * share + step["optimizer"]
    return step["over"] * max(step["flops"] * share / rates["matmul"], moved / rates["copy"])


def all_reduce_seconds(size, n, link):
    """Seconds to sum `size` bytes over n GPUs: by a ring or by a tree, whichever is faster.

    Ring: every GPU sends 2(n − 1) pieces of size/n, one after the other. Tree: up and down again,
    log₂ n hops each way, the whole message through every link twice.
    """
    if n == 1:
        return 0.0
    ring = 2 * (n - 1) * (size / n / link["rate"] + link["ring"])
    tree = 2 * (size / link["rate"] + math.ceil(math.log2(n)) * link["tree"])
    return min(ring, tree)


def gradient_seconds(step, n, link):
    """Both nets' float32 gradients, one message each, after the backward pass."""
    return sum(all_reduce_seconds(4 * step[key], n, link) for key in ("weights_g", "weights_d"))


def batch_norm_messages():
    """How many sums over all GPUs synchronised BatchNorm needs in a step.

    One in each forward and one in each backward pass of a layer: G runs once, D three times (real,
    generated, and generated again for G), and each of these passes goes back once.
    """
    from torch import nn

    from gencourse import nets

    layers = [
        sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
        for net in (nets.DCGANGenerator(64, 3, width=4), nets.DCGANDiscriminator(64, 3, width=4))
    ]
    return 2 * (layers[0] + 3 * layers[1])


def batch_norm_seconds(n, link):
    """Their messages are a few kB: it is the hops that take the time."""
    return batch_norm_messages() * all_reduce_seconds(4_096, n, link)


def step_seconds(step, batch, n, link, synchronised=True):
    """Seconds of a step in which each of n GPUs has so many pictures."""
    seconds = compute_seconds(step, batch) + gradient_seconds(step, n, link)
    return seconds + (batch_norm_seconds(n, link) if synchronised else 0.0)


def reaches(name, n):
    return name != "NVLink 4" or n <= IN_ONE_MACHINE


def pays_up_to(step, link, reach=1_024, per_gpu=None):
    """The most GPUs (powers of two) that each still do half of what one does alone; "1": none do.

    per_gpu: pictures for each GPU; None: BATCH pictures shared by all.
    """
    alone, best, n = compute_seconds(step, per_gpu or BATCH), 1, 2
    while n <= min(reach, BATCH if per_gpu is None else reach):
        together = step_seconds(step, per_gpu or BATCH / n, n, link)
        share = alone / together / (1 if per_gpu else n)
        if share < 0.5:
            break
        best, n = n, 2 * n
    return best


# The page's tables --------------------------------------------------------------------------------


def table(rows):
    """report.table with three digits that count and no powers of ten."""
    def short(value):
        return f"{float(f'{value:.3g}'):,g}" if isinstance(value, float) else value

    return report.table([{k: short(v) for k, v in row.items()} for row in rows])


def link_rows():
    return [
        {
            "link": name,
            "GB/s, one way": link["rate"] / 1e9,
            "a hop in a ring [µs]": link["ring"] * 1e6,
            "in a tree [µs]": link["tree"] * 1e6,
            "source of the rate": link["source"],
        }
        for name, link in LINKS.items()
    ]


def step_rows(steps):
    rows = []
    for name, step in steps.items():
        measured = step["measured"] if name == next(iter(steps)) else None
        rows.append(
            {
                "nets": name,
                "weights [M]": (step["weights_g"] + step["weights_d"]) / 1e6,
                "TFLOP": step["flops"] / 1e12,
                "GB moved": (step["activations"] + step["optimizer"]) / 1e9,
                "step used below [ms]": 1000 * compute_seconds(step, BATCH),
                "measured [ms]": measured or "not measured",
            }
        )
    return rows


def communication_rows(steps):
    rows = []
    for name, step in steps.items():
        for link_name, link in LINKS.items():
            row = {"nets": name, "link": link_name}
            for n in GPUS:
                seconds = gradient_seconds(step, n, link)
                row[f"{n} GPUs [ms]"] = 1000 * seconds if reaches(link_name, n) else "–"
            rows.append(row)
    for link_name, link in LINKS.items():
        row = {"nets": f"BatchNorm, {batch_norm_messages()} messages", "link": link_name}
        for n in GPUS:
            seconds = batch_norm_seconds(n, link)
            row[f"{n} GPUs [ms]"] = 1000 * seconds if reaches(link_name, n) else "–"
        rows.append(row)
    return rows


def speed_rows(steps, per_gpu):
    """Pictures per second over those of one GPU, and up to where each still does half.

    per_gpu: pictures for each GPU; None: BATCH pictures shared by all.
    """
    rows = []
    for name, step in steps.items():
        for link_name, link in LINKS.items():
            row = {"nets": name, "link": link_name}
            alone = compute_seconds(step, per_gpu or BATCH)
            for n in GPUS:
                together = step_seconds(step, per_gpu or BATCH / n, n, link)
                faster = alone / together * (n if per_gpu else 1)
                row[f"{n} GPUs"] = f"{faster:.3g}×" if reaches(link_name, n) else "–"
            reach = IN_ONE_MACHINE if link_name == "NVLink 4" else 1_024
            best = pays_up_to(step, link, reach, per_gpu)
            more = "" if best < reach else " or more" if reach > IN_ONE_MACHINE else " (all)"
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
    step = one_gpu()
    steps = {name: grown(step, weights) for name, weights in SIZES.items()}
    if step["measured"] is None:
        basis = (
            "**On a GPU not measured yet.** The step is taken to be as fast as its floor (see "
            f"`floor.py`) at the rates of an H200's data sheet, {PUBLISHED['matmul'] / 1e12:.0f} "
            f"TFLOP/s and {PUBLISHED['copy'] / 1e12:.1f} TB/s ({NVIDIA}): the best that could be. "
            "A slower step makes communication weigh less."
        )
    else:
        basis = (
            f"Measured on a GPU: {step['measured']:.3g} ms, {step['over']:.3g} times its floor; "
            "the larger nets are taken to be as near to theirs."
        )
    return {
        "basis": basis,
        "links": table(link_rows()) + f"\n\nHops: the constants of {NCCL}, protocol Simple.",
        "steps": table(step_rows(steps)),
        "communication": table(communication_rows(steps)),
        "shared": table(speed_rows(steps, None)),
        "each": table(speed_rows(steps, BATCH)),
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
