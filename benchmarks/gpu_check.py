"""Is a GPU right, does it resume exactly, what memory does it need? → results/gpu_check-*.json

    python benchmarks/gpu_check.py                         # some minutes on a GPU
    GENCOURSE_DEVICE=cpu python benchmarks/gpu_check.py --data digits --tiny    # tries the script

agree    the same seed, float32, TF32 off, on the GPU and on the CPU: the losses of the first steps
         agree to 1e-3; and with each precision how far they are from float32. The learning rate is
         a tenth of the usual one, because Adam's first steps make much of rounding
graph    the plain loop against one CUDA graph for each step, float32, deterministic algorithms: the
         losses of 30 steps agree to 1e-3
resume   40 steps at a stretch against 20 and 20 more from the checkpoint, twice each, with and
         without a CUDA graph, with and without deterministic algorithms: equal bit for bit, or the
         largest difference of a weight
half     float16 with a GradScaler: 200 steps, all losses finite, the first within 1 % of float32's;
         how many steps were skipped, what the scale has become
memory   the most that the chapters' gpu trainings have allocated, against the 15 GB of a T4

The file is written after each part, so that an interrupted call keeps what it has. Rows say "ok"
True or False only where something is promised; resume on a GPU only says what holds.
"""

import argparse
import contextlib
import math
import os
import tempfile

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS can't be deterministic

import report
import torch
from loops import dcgan, standing_in

from gencourse import data, nets, run, runtime, train

PARTS = ("agree", "graph", "resume", "half", "memory")
T4_BYTES = 15e9
BATCH = 64


def on_gpu():
    return runtime.device().type == "cuda"


def models(kind, shape, width, seed=0):
    """The nets of one kind, on the CPU, as a tuple."""
    channels, size, _ = shape
    if kind == "dcgan":
        return dcgan(size, channels, width, seed)
    runtime.seed_everything(seed)
    if kind == "dense":
        return (
            nets.DenseGenerator(shape, z_dim=64, width=width),
            nets.DenseDiscriminator(shape, width=width),
        )
    if kind == "classifier":
        return (nets.Classifier(size, channels, width=width),)
    return (nets.VAE(size, channels, width=width),)


def play(kind, images, parts, **options):
    """Train with the course's loop; returns the history."""
    loops = {"vae": train.train_vae, "classifier": train.train_classifier}
    found = loops.get(kind, train.train_gan)(images, *parts, progress=False, **options)
    return found[1] if isinstance(found, tuple) else found


# CPU against GPU ----------------------------------------------------------------------------------


@contextlib.contextmanager
def device(name):
    """Everything on this device for a while."""
    before = os.environ.get("GENCOURSE_DEVICE")
    os.environ["GENCOURSE_DEVICE"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["GENCOURSE_DEVICE"]
        else:
            os.environ["GENCOURSE_DEVICE"] = before


@contextlib.contextmanager
def random_numbers_of_the_cpu():
    """torch.randn draws on the CPU and copies: the same numbers for every device."""
    usual = torch.randn

    def drawn(*shape, device=None, **more):
        return usual(*shape, **more).to(device or "cpu")

    torch.randn = drawn
    try:
        yield
    finally:
        torch.randn = usual


@contextlib.contextmanager
def exact_products():
    """No TF32 in products and convolutions of float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def losses_on(name, kind, arguments, steps, precision):
    """The first loss of each of the first steps, on this device."""
    with device(name), random_numbers_of_the_cpu(), exact_products():
        images = data.load(arguments.data)
        parts = models(kind, images.shape, arguments.width)
        # A graph would replay the copy from the CPU with the same numbers; resume compares graphs.
        history = play(kind, images, parts, steps=2 * steps, batch_size=BATCH, lr=1e-4,
                       graph=False, precision=precision)
    return history["d_loss" if kind == "dcgan" else "loss"][:steps]


def agree(arguments, steps=4):
    rows = []
    here = runtime.device().type
    for kind in ("dcgan", "vae"):
        reference = losses_on("cpu", kind, arguments, steps, "float32")
        for precision in ("float32", "bfloat16", *(["float16"] if on_gpu() else [])):
            found = losses_on(here, kind, arguments, steps, precision)
            worst = max(abs(a - b) / max(1, abs(a)) for a, b in zip(reference, found, strict=True))
            what = f"{kind} on {here} in {precision}: {steps} losses against the CPU's float32"
            ok = worst < 1e-3 if precision == "float32" else ""
            rows.append({"what": what, "largest relative difference": worst, "ok": ok})
    return rows


# One graph against many launches ------------------------------------------------------------------


@contextlib.contextmanager
def deterministic(wanted=True):
    """Sums in a fixed order, as far as there are such kernels."""
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.deterministic = wanted
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def graph(arguments, steps=30):
    if not on_gpu():
        return [{"what": "a graph against the plain loop", "ok": "not measured: no CUDA device"}]
    images, rows = data.load(arguments.data), []
    for kind in ("dcgan", "vae"):
        name, found = "d_loss" if kind == "dcgan" else "loss", {}
        for graphed in (False, True):
            parts = models(kind, images.shape, arguments.width)
            with deterministic():
                found[graphed] = play(kind, images, parts, steps=steps, batch_size=BATCH, lr=1e-4,
                                      precision="float32", graph=graphed)[name]
        worst = max(abs(a - b) / max(1, abs(a)) for a, b in zip(*found.values(), strict=True))
        what = f"{kind}: {steps} losses of one graph a step against the plain loop's"
        rows.append({"what": what, "largest relative difference": worst, "ok": worst < 1e-3})
    return rows


# Exact resume -------------------------------------------------------------------------------------


class Stopped(Exception):
    """Instead of a power cut."""


def stopping_at(step):
    """A Run that raises Stopped when its step with this number would begin."""

    class Stopping(run.Run):
        def steps(self, total):
            for number in super().steps(total):
                if number == step:
                    raise Stopped
                yield number

    return Stopping


def trained(images, arguments, folder, stop, **options):
    """Weights after 40 steps, at a stretch or with a stop in the middle: dict of tensors."""
    half_way = 4 if arguments.tiny else 20
    options |= {"steps": 2 * half_way, "checkpoint_every": half_way}
    options |= {"batch_size": BATCH, "out": folder}
    parts = models("dcgan", images.shape, arguments.width)
    if stop:
        with standing_in(stopping_at(half_way)), contextlib.suppress(Stopped):
            play("dcgan", images, parts, **options)
        parts = models("dcgan", images.shape, arguments.width, seed=1)  # all must come from disk
    play("dcgan", images, parts, **options)
    return {
        f"{number}.{name}": value.detach().cpu().float()
        for number, net in enumerate(parts)
        for name, value in net.state_dict().items()
    }


def difference(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def resume(arguments):
    images = data.load(arguments.data)
    rows = []
    graphs = (False, True) if on_gpu() else (False,)
    precisions = (None, "float16") if on_gpu() else (None,)
    cases = [(p, g, d) for p in precisions for g in graphs for d in (False, True)]
    for precision, graph, ordered in cases:
        with tempfile.TemporaryDirectory() as folder, deterministic(ordered):
            straight, again, stopped, stopped_again = (
                trained(images, arguments, f"{folder}/{number}", stop, precision=precision,
                        graph=graph)
                for number, stop in enumerate((False, False, True, True))
            )
        pairs = {
            "at a stretch, twice": (straight, again),
            "stopped and resumed against at a stretch": (straight, stopped),
            "stopped and resumed, twice": (stopped, stopped_again),
        }
        for name, pair in pairs.items():
            apart = difference(*pair)
            rows.append(
                {
                    "what": f"{name}: precision {precision or 'default'}, graph {graph}, "
                    f"deterministic algorithms {ordered}",
                    "bit for bit": apart == 0,
                    "largest difference of a weight": apart,
                    "ok": apart == 0 if not on_gpu() else "",
                }
            )
    return rows


# float16 ------------------------------------------------------------------------------------------


def half(arguments):
    if not on_gpu():
        return [{"what": "float16 with a GradScaler", "ok": "not measured: no CUDA device"}]
    images, rows = data.load(arguments.data), []
    scales, steps = [], 20 if arguments.tiny else 200

    class Watching(run.Run):
        def __exit__(self, *exception):
            scales.append(float(self.parts["scaler"].get_scale()))
            return super().__exit__(*exception)

    for graph in (False, True):
        for kind in ("dcgan", "vae"):
            parts = models(kind, images.shape, arguments.width)
            with standing_in(Watching):
                history = play(kind, images, parts, steps=steps, batch_size=BATCH, graph=graph,
                               precision="float16")
            name, grad = ("d_loss", "d_grad") if kind == "dcgan" else ("loss", "grad")
            values, full = history[name], play(
                kind, images, models(kind, images.shape, arguments.width), steps=1,
                batch_size=BATCH, precision="float32")[name]
            first = abs(values[0] - full[0]) / max(1, abs(full[0]))
            finite = len(values) == steps and all(map(math.isfinite, values))
            rows.append({
                "what": f"{kind} in float16, graph {graph}, {steps} steps",
                "ok": finite and first < 0.01,
                "first loss off by": first, "last loss": values[-1],
                "steps skipped": sum(length > 1e30 for length in history[grad]),
                "scale": scales[-1],
            })
    return rows


# Memory -------------------------------------------------------------------------------------------

# (chapter, kind of nets, width, pictures (name, size), batch size): the gpu profile's trainings.
TRAININGS = [
    ("03, classifier", "classifier", 32, ("fashion_mnist", 28), 128),
    ("04, dense GAN", "dense", 256, ("mnist", 28), 64),
    ("05, DCGAN 28×28", "dcgan", 64, ("fashion_mnist", 28), 64),
    ("05, DCGAN 64×64 colour", "dcgan", 64, ("shapes", 64), 64),
    ("07, 10, dense GAN", "dense", 256, ("fashion_mnist", 28), 64),
    ("08, 10, VAE", "vae", 64, ("fashion_mnist", 28), 64),
    ("benchmark, DCGAN 64×64 colour", "dcgan", 64, ("shapes", 64), 128),
]


def memory(arguments):
    """Peaks in the default precision, without a graph and with one, and in float32."""
    if not on_gpu():
        return [{"what": "peak memory", "ok": "not measured: no CUDA device"}]
    rows = []
    for chapter, kind, width, (name, size), batch_size in TRAININGS:
        images = data.load(name, size=size)
        for options in ({}, {"graph": True}, {"precision": "float32"}):
            parts = models(kind, images.shape, width)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            play(kind, images, parts, steps=20, batch_size=batch_size, **options)
            used, held = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            what = f"chapter {chapter}, batch {batch_size}, {options or 'defaults'}"
            gigabytes = {"GB allocated": used / 1e9, "GB reserved": held / 1e9}
            rows.append({"what": what, **gigabytes, "ok": held < T4_BYTES})
            del parts
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--tiny", action="store_true", help="narrow nets, to try the script")
    arguments = parser.parse_args()
    arguments.width = 4 if arguments.tiny else 64
    functions = {"agree": agree, "graph": graph, "resume": resume, "half": half, "memory": memory}
    rows = []
    for part in arguments.only:
        found = functions[part](arguments)
        print(report.table(found), flush=True)
        rows += [{"part": part, **row} for row in found]
        report.save("gpu_check", rows, data=arguments.data)
    print(report.machine())
    if wrong := [row["what"] for row in rows if row.get("ok") is False]:
        raise SystemExit("Not as it should be: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
