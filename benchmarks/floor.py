"""How near the training step is to what the machine allows: its time over its floor.

    python benchmarks/floor.py             # about 1 minute on 2 cores

The floor is the larger of two times: FLOPs / the matmul rate, and bytes / the copy rate, both rates
measured here, in the step's precision. The step is `train_gan`'s own, on a GPU as one CUDA graph,
timed inside the loop with all that `Run` does.

FLOPs     counted by torch over the whole step: two for each multiplication with an addition, in
          convolutions and matrix products.
bytes     two models. "Every operation": each operation of the step reads its inputs once from
          memory and writes its outputs once, with nothing kept in a cache or fused: what a step of
          separate kernels moves. "At least": each tensor that is kept for the backward pass is
          written once and read once; each weight, its gradient and both moments of Adam are read
          and written once, and so is the average of G's weights: what no fusion can avoid, short of
          computing twice. Gradients of activations are not in it, so it is a little too low.
"""

import argparse
import collections
import contextlib
import time

import report
import torch
from loops import Bare, dcgan, noise_pictures, seconds_per_step, standing_in
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gencourse import fast, runtime, train

ON_GPU = runtime.device().type == "cuda"
FREE = ("empty", "new_empty", "empty_like", "empty_strided", "_unsafe_view", "new_empty_strided")
ONLY_WRITTEN = ("zero_", "fill_", "copy_", "normal_")  # the first argument's old value isn't read
CHOSEN = ("index", "index_select", "gather")  # these read what they pick, not the whole


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def size_of(tensor):
    """Bytes in memory: what `expand` repeats is there only once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def sizes(tree):
    return sum(size_of(t) for t in tensors(tree))


def traffic(function, args, kwargs, out):
    """Bytes that one operation reads and writes, if nothing of it is in a cache.

    function: torch's OpOverload, whose schema says what is a view and what is changed in place.
    """
    schema, name = function._schema, function.overloadpacket.__name__
    aliases = [r.alias_info for r in schema.returns]
    if name in FREE or any(a is not None and not a.is_write for a in aliases):
        return 0
    given = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
    changed = [
        given.get(a.name)
        for a in schema.arguments
        # Fused Adam may scale gradients, so they are marked; without a scaler they stay.
        if a.alias_info is not None and a.alias_info.is_write and a.name != "grads"
    ]
    made = [] if any(a is not None for a in aliases) else out
    written = sizes(changed) + sizes(made)
    if name in CHOSEN:
        return 2 * written + sizes(args[1:])
    read = sizes((args[1:] if name in ONLY_WRITTEN else args, kwargs))
    return read + written


class Bytes(TorchDispatchMode):
    """Adds up `traffic` of all operations; `.by_name` says which take most of it."""

    def __init__(self):
        super().__init__()
        self.by_name = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        self.by_name[function.overloadpacket.__name__] += traffic(function, args, kwargs, out)
        return out


class Kept:
    """Adds up what is kept for the backward pass, each piece of memory once, without weights."""

    def __init__(self):
        self.storages = {}  # held until the end: freed memory would be used, and counted, again

    @contextlib.contextmanager
    def __call__(self):
        with torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor):
            yield

    def _note(self, tensor):
        if not (tensor.is_leaf and tensor.requires_grad):
            storage = tensor.untyped_storage()
            self.storages[storage.data_ptr()] = storage
        return tensor

    def total(self):
        return sum(s.nbytes() for s in self.storages.values())


def count(images, model, batch_size, precision):
    """What one step of train_gan computes and moves: dict of flops, bytes, at_least, largest."""
    flops, moved, kept = FlopCounterMode(display=False), Bytes(), Kept()

    class Counting(Bare):
        def steps(self, total):
            yield 0  # sets up Adam's state
            with flops, moved, kept():
                yield 1

    G, D = model
    with standing_in(Counting):
        train.train_gan(images, G, D, steps=4, batch_size=batch_size, precision=precision,
                        graph=False, progress=False)
    weights = [sum(p.numel() for p in net.parameters()) for net in (G, D)]
    # Weight, gradient and two moments, each read and written; G's average besides.
    optimizer = 4 * (8 * sum(weights) + 2 * weights[0])
    return {
        "flops": flops.get_total_flops(),
        "bytes": sum(moved.by_name.values()),
        "at_least": 2 * kept.total() + optimizer,
        "weights_g": weights[0],
        "weights_d": weights[1],
        "largest": {name: amount for name, amount in moved.by_name.most_common(8)},
    }


def best_rate(work, amount, least=0.3):
    """amount per second of a function, at its best of many calls."""
    work()
    best, until = 0.0, time.perf_counter() + least
    while time.perf_counter() < until:
        report.wait()
        began = time.perf_counter()
        for _ in range(3):
            work()
        report.wait()
        best = max(best, 3 * amount / (time.perf_counter() - began))
    return best


def matmul_rate(dtype, tiny=False):
    """FLOP/s of a square matrix product, the best of three sizes."""
    device = runtime.device()
    found, large = [], device.type == "cuda" and not tiny
    for n in (4_096, 8_192, 16_384) if large else (512, 1_024, 2_048):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        found.append(best_rate(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 2 * n**3))
    return max(found)


def copy_rate(tiny=False):
    """Bytes/s, read and written together, of a copy far larger than any cache."""
    device = runtime.device()
    n = 2**24 if tiny else 2**30 if device.type == "cuda" else 2**28
    source = torch.ones(n, dtype=torch.uint8, device=device)
    goal = torch.zeros_like(source)
    return best_rate(lambda: goal.copy_(source), 2 * n)


def floor_row(title, counted, precision, matmul, copy, measured=None):
    """One row: the counts, the floors by both models of bytes, and the step over them."""
    compute = counted["flops"] / matmul
    row = {"step": title, "precision": precision, "GFLOP": counted["flops"] / 1e9}
    row |= {"MB every operation": counted["bytes"] / 1e6, "MB at least": counted["at_least"] / 1e6}
    floors = {key: max(compute, counted[key] / copy) for key in ("bytes", "at_least")}
    row |= {"compute [ms]": 1000 * compute}
    row |= {"floor, every operation [ms]": 1000 * floors["bytes"]}
    row |= {"floor, at least [ms]": 1000 * floors["at_least"]}
    if measured is None:
        nothing = {"× every operation": "", "× at least": "", "n": 0}
        return row | {"step [ms]": "not measured"} | nothing
    times = report.spread(measured)
    row |= {"step [ms]": 1000 * times["median"]}
    row |= {"× every operation": times["median"] / floors["bytes"]}
    row |= {"× at least": times["median"] / floors["at_least"]}
    return row | {"n": times["n"]}


def cases(tiny=False):
    """(size, channels, width, batch size, precision, whether it is timed here)."""
    if runtime.device().type == "cuda":
        best = str(fast.precision()).removeprefix("torch.")
        if tiny:
            return [(28, 1, 4, 16, best, True)]
        return [
            (64, 3, 64, 128, best, True),
            (64, 3, 64, 128, "float32", True),
            (32, 3, 64, 128, best, True),
            (28, 1, 64, 64, best, True),
            (28, 1, 16, 64, best, True),
        ]
    return [
        (28, 1, 16, 64, "float32", True),
        (28, 1, 16, 64, "bfloat16", True),
        (28, 1, 64, 64, "float32", True),
        (28, 1, 64, 64, "bfloat16", True),
        (64, 3, 64, 128, "bfloat16", False),  # counted for a GPU: see larger_runs.py
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=10, help="timed blocks of steps")
    parser.add_argument("--untimed", action="store_true", help="count; time nothing but the rates")
    parser.add_argument("--tiny", action="store_true", help="a narrow net, to try the script")
    arguments = parser.parse_args()
    copy, matmul, rows = copy_rate(arguments.tiny), {}, []
    todo = cases(arguments.tiny)
    worth = {p: report.worthwhile(p) for p in {case[4] for case in todo}}
    for size, channels, width, batch_size, precision, timed in todo:
        if timed and not worth[precision]:
            continue
        if precision not in matmul:
            matmul[precision] = matmul_rate(getattr(torch, precision), arguments.tiny)
        title = f"DCGAN {size}×{size}×{channels} width {width}, batch {batch_size}"
        images = noise_pictures(size, channels, count=1_024)
        counted = count(images, dcgan(size, channels, width), batch_size, precision)
        measured = None
        if timed and not arguments.untimed:
            G, D = dcgan(size, channels, width)

            def loop(steps, images=images, nets=(G, D), more=(batch_size, precision)):
                train.train_gan(images, *nets, steps=steps, batch_size=more[0],
                                precision=more[1], graph=ON_GPU, progress=False)

            slow = runtime.device().type == "cpu" and width == 64
            sizes_of = {"skip": 1, "block": 3} if slow else {"skip": 3}
            measured = seconds_per_step(loop, arguments.blocks, **sizes_of)
        row = floor_row(title, counted, precision, matmul[precision], copy, measured)
        rows.append(row | {"counted": counted})
    rates = {name: f"{rate / 1e12:.3g} TFLOP/s" for name, rate in matmul.items()}
    print(report.table([{k: v for k, v in row.items() if k != "counted"} for row in rows]))
    print(f"matmul {rates}, copy {copy / 1e9:.3g} GB/s")
    print(report.machine())
    report.save("floor", rows, matmul_flops=matmul, copy_bytes=copy)


if __name__ == "__main__":
    main()
