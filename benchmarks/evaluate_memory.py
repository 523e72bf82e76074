"""Time and memory of the measures in `gencourse.evaluate` on large sets of features.

    python benchmarks/evaluate_memory.py [--n 50000] [--d 2048] [--only frechet_distance …]

Each measure runs in a process of its own (Linux). "Beyond them" is the peak of the resident
memory minus what the process held just before the measure, features included: what the measure
itself takes. A copy of one set in float64 would be N · D · 8 bytes, a matrix of all distances in
float32 N² · 4 bytes.
"""

import argparse
import multiprocessing
import platform
import time
from pathlib import Path

MEASURES = ("frechet_distance", "kid", "nearest_neighbours", "precision_recall")


def memory(field):
    """VmRSS or VmHWM of this process [bytes]."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024


def measure(name, n, d, queue):
    import torch

    from gencourse import evaluate

    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(n, d, generator=generator) for _ in range(2))
    fake += 0.05
    evaluate.kid(real[:100], fake[:100])  # starts what torch starts once
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, cpu, wall = memory("VmRSS"), time.process_time(), time.perf_counter()
    getattr(evaluate, name)(real, fake)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    queue.put((wall, cpu, memory("VmHWM") - before, torch.get_num_threads(), torch.__version__))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--d", type=int, default=2_048)
    parser.add_argument("--only", nargs="*", choices=MEASURES, default=MEASURES)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    size = f"{options.n:,} × {options.d:,}"
    print(f"{size} float32 each: {options.n * options.d * 4 / 2**20:,.0f} MiB", flush=True)
    print("| measure | features | wall [s] | CPU [s] | beyond them [MiB] | threads | torch |")
    print("|---|---|---:|---:|---:|---:|---|", flush=True)
    for name in options.only:
        queue = context.Queue()
        process = context.Process(target=measure, args=(name, options.n, options.d, queue))
        process.start()
        wall, cpu, extra, threads, version = queue.get()
        process.join()
        print(
            f"| `{name}` | {size} | {wall:.1f} | {cpu:.1f} | {extra / 2**20:,.0f} | {threads} | "
            f"{version.split('+')[0]} |",
            flush=True,
        )
    print(platform.platform(), platform.machine())


if __name__ == "__main__":
    main()
