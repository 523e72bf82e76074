"""One process against two on the same machine, with the same global batch: equal, and how fast?

    python benchmarks/processes.py            # about 2 minutes on 2 cores

Each row is a training in processes of its own, started as a user would start it. First the largest
difference between the weights after 20 steps of `train_gan` (float32) and those of one process,
beside the largest weight itself and the same difference between one process with one thread and
with two: that is the noise of rounding. Then pictures per second, the launches taking turns.
On a CPU the processes talk through gloo and one thread each stands against two threads; with two
GPUs or more through NCCL. `--batch-size` is the global one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import report
import torch
from loops import dcgan, pictures, seconds_per_step

from gencourse import ranks, runtime, train


def child(arguments):
    """In each process: train, and let the main one write weights or times to a file."""
    ranks.start()
    images = pictures(arguments.data, 28, 1)
    G, D = dcgan(28, 1, arguments.width)

    def loop(steps):
        train.train_gan(images, G, D, steps=steps, batch_size=arguments.batch_size,
                        precision=arguments.precision, progress=False)

    if arguments.child == "weights":
        loop(20)
        content = {f"{n}.{k}": v.cpu() for n, net in (("G", G), ("D", D))
                   for k, v in net.state_dict().items() if v.is_floating_point()}
    else:
        content = seconds_per_step(loop, arguments.blocks, skip=2, block=5)
    if ranks.is_main():
        torch.save(content, arguments.out)


def launch(kind, processes, threads, arguments):
    """What `child` of this kind wrote, from a fresh start with so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        program = [__file__, "--child", kind, "--out", str(out), "--data", arguments.data]
        for name in ("batch_size", "width", "blocks", "precision"):
            program += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
        start = [sys.executable]
        if processes > 1:
            start += ["-m", "torch.distributed.run", "--standalone"]
            start += ["--nproc-per-node", str(processes)]
        env = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run([*start, *program], env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3_000:])
        return torch.load(out, weights_only=True)


def largest_difference(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist", help="28×28 grey, or noise")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=10, help="timed blocks of 5 steps")
    parser.add_argument("--rounds", type=int, default=2, help="launches of each kind")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--child", choices=("weights", "times"), help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments)

    gpus = torch.cuda.device_count() if runtime.device().type == "cuda" else 0
    if gpus == 1:
        sys.exit("This machine has one GPU: two processes need two (or GENCOURSE_DEVICE=cpu).")
    count, cores = max(2, gpus), os.cpu_count()
    single = cores if not gpus else 4  # threads of the one process
    each = max(1, cores // count) if not gpus else 4
    kinds = {"1 process": (1, single), f"{count} processes": (count, each)}
    weights = {name: launch("weights", *kind, arguments) for name, kind in kinds.items()}
    one, several = weights.values()
    other = launch("weights", 1, 1 if single > 1 else 2, arguments)
    differences = {
        f"{count} processes against 1": largest_difference(one, several),
        "1 process, other number of threads": largest_difference(one, other),
        "largest weight": max(float(w.abs().max()) for w in one.values()),
    }
    print(json.dumps(differences, indent=1), flush=True)
    seconds = {name: [] for name in kinds}
    for _ in range(arguments.rounds):
        for name, kind in kinds.items():
            seconds[name] += launch("times", *kind, arguments)
    rows = []
    for name, (processes, threads) in kinds.items():
        rates = report.spread([arguments.batch_size / s for s in seconds[name]])
        rows.append({"what": name, "processes": processes, "threads each": threads,
                     "images/s": rates["median"], **rates})
    print(report.table(rows))
    print(report.machine())
    report.save("processes", rows, differences=differences, batch_size=arguments.batch_size,
                width=arguments.width, precision=arguments.precision)


if __name__ == "__main__":
    main()
