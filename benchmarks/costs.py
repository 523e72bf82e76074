"""What the course's conveniences cost: imports, the first batch, `Run`, checkpoints, memory, scale.

    python benchmarks/costs.py                             # about 6 minutes on 2 cores
    python benchmarks/costs.py --only run checkpoint       # some of the parts
    python benchmarks/costs.py --only memory --pictures 5000

imports     seconds of `import …` in fresh processes, beside `import torch` alone
first       seconds until the first batch is there: data.load and one batch, in fresh processes
run         `Run` (log, progress, recording for the doctor) per step of train_gan and train_vae:
            the same loop with a stand-in that only counts takes turns with it, block by block;
            and the same cost directly, as microseconds of its parts
checkpoint  seconds (fsync included) and megabytes of a DCGAN's checkpoint
memory      resident memory of data.load for 200,000 colour pictures of 64×64
scale       pictures per second by batch size, and by side of the pictures
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import report
import torch
from loops import Bare, dcgan, noise_pictures, pictures, standing_in
from switches import GAN_ONLY, SWITCHES, block_of, make_step

from gencourse import nets, run, runtime, train

PARTS = ("imports", "first", "run", "checkpoint", "memory", "scale")
BATCH = 64


# Fresh processes ----------------------------------------------------------------------------------

TIMED = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def seconds_in_fresh_process(statement, before=""):
    """What a new Python takes for a statement, after another one that is not counted."""
    program = "\n".join(filter(None, [before, TIMED.format(statement)]))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def fresh(statements, repeats=5):
    """Rows (statement → median seconds); the statements take turns."""
    calls = {k: (lambda v=v: seconds_in_fresh_process(*v)) for k, v in statements.items()}
    taken = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(call())
    return [{"what": name, "unit": "s", **report.spread(s)} for name, s in taken.items()]


def imports(arguments):
    names = ("torch", "gencourse", "gencourse.train")
    seconds_in_fresh_process("import gencourse.train")  # reads the files into the disk's cache
    return fresh({f"import {name}": (f"import {name}",) for name in names})


def first(arguments):
    before = "from gencourse import data"
    names = ("digits", "shapes") + (() if arguments.data == "noise" else (arguments.data,))
    load = "data.load({0!r}).batch(0, 64)"
    return fresh({f"first batch of {n}": (load.format(n), before) for n in names})


# `Run` --------------------------------------------------------------------------------------------


class Turns:
    """Makes stand-ins for `Run` that let one training of several go at a time, in blocks of steps.

    The trainings run in threads of their own, but never two at once.
    """

    def __init__(self, block):
        self.block, self.seconds, self.mine = block, {}, {}
        self.ended, self.failure = set(), None

    def wrapped(self, base, name):
        """A subclass of `base` that waits for its turn and notes the seconds per step."""
        turns = self
        turns.seconds[name] = []
        turns.mine[name] = threading.Semaphore(0)

        class InTurn(base):
            def steps(self, total):
                began = 0.0
                for step in super().steps(total):  # the block's last step is finished in here
                    if step and step % turns.block == 0:
                        report.wait()
                        seconds = (time.perf_counter() - began) / turns.block
                        turns.seconds[name].append(seconds)
                        turns.pass_on(name)
                        turns.mine[name].acquire()
                    if step % turns.block == 0:
                        began = time.perf_counter()
                    yield step

        return InTurn

    def pass_on(self, name):
        """It is the next one's turn: of those that are not at their end, perhaps the same again."""
        names = list(self.mine)
        place = names.index(name) + 1
        following = [n for n in names[place:] + names[:place] if n not in self.ended]
        if following:
            self.mine[following[0]].release()

    def play(self, trainings):
        """Run all trainings (name → function) to their end; the first name goes first."""
        threads = [
            threading.Thread(target=self._guarded, args=(name, training), name=name)
            for name, training in trainings.items()
        ]
        for thread in threads:
            thread.start()
        self.mine[threads[0].name].release()
        for thread in threads:
            thread.join()
        if self.failure:
            raise self.failure

    def _guarded(self, name, training):
        self.mine[name].acquire()  # setting up is part of the first turn
        try:
            training()
        except BaseException as error:
            self.failure = self.failure or error
        finally:  # else the other thread would wait for ever
            self.ended.add(name)
            self.pass_on(name)


@contextlib.contextmanager
def recording_off_in(thread):
    """In the thread of this name nothing is measured for the doctor; the loops log zeros."""
    names = ("gradient_norm", "active_units")
    usual = {name: getattr(train, name) for name in names}
    zero = torch.zeros((), device=runtime.device())

    def instead(function):
        def call(value):
            return zero if threading.current_thread().name == thread else function(value)

        return call

    for name, function in usual.items():
        setattr(train, name, instead(function))
    try:
        yield
    finally:
        for name, function in usual.items():
            setattr(train, name, function)


def cost_of_run(loop, steps, block, subject=run.Run):
    """Seconds per step (one number a block) with `Run` and with the stand-in that only counts.

    loop: function of the number of steps. subject: Bare measures the noise, one against itself.
    The first two blocks, in which all is set up, don't count.
    """
    turns = Turns(block)
    classes = {"run": turns.wrapped(subject, "run"), "bare": turns.wrapped(Bare, "bare")}

    def choose(*arguments, **options):  # each thread its own
        return classes[threading.current_thread().name](*arguments, **options)

    with standing_in(choose), recording_off_in("bare"):
        turns.play({name: lambda: loop(steps) for name in classes})
    return turns.seconds["run"][2:], turns.seconds["bare"][2:]


def gan_loop(images, width):
    def loop(steps):
        train.train_gan(images, *dcgan(28, 1, width), steps=steps, batch_size=BATCH, progress=True)

    return loop


def vae_loop(images, width):
    def loop(steps):
        vae = nets.VAE(28, 1, width=width)
        train.train_vae(images, vae, steps=steps, batch_size=BATCH, progress=True)

    return loop


def empty_log_seconds(steps=20_000):
    """Seconds per step of run.log of six scalars on the device, with progress and all."""
    value = torch.ones((), device=runtime.device())
    names = ("d_loss", "g_loss", "d_real", "d_fake", "d_grad", "g_grad")
    began = time.perf_counter()
    with run.Run(batch_size=BATCH, checkpoint_every=steps) as logger:
        for _ in logger.steps(steps):
            logger.log(**dict.fromkeys(names, value))
    report.wait()
    return (time.perf_counter() - began) / steps


def recording_seconds(*models, repeats=200):
    """Seconds of what a step measures for the doctor: lengths of gradients, and two means."""
    device = runtime.device()
    for model in models:
        for weight in model.to(device).parameters():
            weight.grad = torch.ones_like(weight)
    logits, mu = torch.randn(BATCH, device=device), torch.randn(BATCH, 24, device=device)
    measured = {
        "lengths": lambda: [train.gradient_norm(model) for model in models],
        "means of D": lambda: [torch.sigmoid(logits.detach()).mean() for _ in range(2)],
        "active units": lambda: train.active_units(mu),
    }
    measured.pop("active units" if len(models) == 2 else "means of D")
    taken = report.interleave(measured, repeats)
    return sum(report.spread(seconds)["median"] for seconds in taken.values())


def cost(arguments):
    """Rows of the part `run`."""
    images = pictures(arguments.data, 28, 1)
    gpu = runtime.device().type == "cuda"
    vae = nets.VAE(28, 1, width=32)
    narrow, wide, coder = gan_loop(images, 16), gan_loop(images, 64), vae_loop(images, 32)
    cases = {  # title → loop, models, blocks, what stands in the place of Run
        "noise: the stand-in against itself": (narrow, (), 22, Bare),
        "Run in train_gan, width 16": (narrow, dcgan(28, 1, 16), 22, run.Run),
        "Run in train_gan, width 64": (wide, dcgan(28, 1, 64), 5, run.Run),
        "Run in train_vae, width 32": (coder, (vae,), 22, run.Run),
    }
    with quiet():
        logged = empty_log_seconds()
    what = "run.log of six scalars and progress, 20,000 empty steps"
    rows = [{"what": what, "unit": "µs", "median": 1e6 * logged}]
    for title, (loop, models, blocks, subject) in cases.items():
        block, blocks = (200, 22) if gpu else (10, blocks)
        blocks = max(4, round(blocks * arguments.effort))
        with quiet():
            with_run, bare = cost_of_run(loop, block * blocks + 1, block, subject)
        shares = [100 * (1 - b / a) for a, b in zip(with_run, bare, strict=True)]
        step = report.spread(bare)["median"]
        what = f"{title}: share of a step, paired blocks of {block}"
        rows.append({"what": what, "unit": "%", **report.spread(shares), "step_ms": 1000 * step})
        if models:
            alone = logged + recording_seconds(*models)
            what = f"{title}: log, progress and recording timed alone"
            rows.append({"what": what, "unit": "%", "median": 100 * alone / step})
            rows[-1]["microseconds"] = 1e6 * alone
    return rows


@contextlib.contextmanager
def quiet():
    """Progress bars are drawn, but nobody sees them."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


# Checkpoints --------------------------------------------------------------------------------------


def checkpoints(arguments, repeats=10):
    """Rows: seconds and megabytes of the checkpoint of a DCGAN as train_gan writes it."""
    rows = []
    for width in (16, 64):
        G, D = (net.to(runtime.device()) for net in dcgan(28, 1, width))
        parts = {"generator": G, "discriminator": D, "ema": train.EMA(G)}
        for name, net in (("g_opt", G), ("d_opt", D)):
            parts[name] = optimizer = torch.optim.Adam(net.parameters())
            for weight in net.parameters():
                weight.grad = torch.zeros_like(weight)
            optimizer.step()  # only then has it a state to save
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            marks = []
            with run.Run(folder, checkpoint_every=1, progress=False, **parts) as saver:
                for _ in saver.steps(repeats + 1):
                    marks.append(time.perf_counter())
                    saver.log(loss=0.0)
            seconds = [b - a for a, b in zip(marks[:-1], marks[1:], strict=True)]
            size = max(p.stat().st_size for p in Path(folder).glob("checkpoint-*.pt"))
        what = f"checkpoint of a 28×28 DCGAN, width {width}"
        rows.append({"what": what, "unit": "s", **report.spread(seconds), "MB": size / 1e6})
    return rows


# Memory -------------------------------------------------------------------------------------------


def memory_now(field):
    """VmRSS, RssAnon or VmHWM of this process [MB]; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {field}.")


def make_pictures(folder, count, different=2_000, size=64):
    """`count` JPEGs of size×size colour pixels in ten folders, links to `different` files."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    different = min(different, count)
    for i in range(count):
        path = folder / f"class{i % 10}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < different:
            coarse = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((size, size)).save(path, quality=90)
        else:
            os.link(folder / f"class{i % different % 10}" / f"{i % different:06d}.jpg", path)


def watch_load(folder):
    """Run in a fresh process: what data.load of a folder takes; prints one line of numbers."""
    from gencourse import data

    data.load("digits").batch(0, 2)  # what is imported and set up once
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    resident, own = memory_now("VmRSS"), memory_now("RssAnon")
    peak_own, done = [own], threading.Event()

    def watch():
        while not done.wait(0.05):
            peak_own.append(memory_now("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    images = data.load(f"folder:{folder}", size=64, device="cpu")
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    after = [memory_now("VmHWM") - resident, max(peak_own) - own, memory_now("RssAnon") - own]
    for step in range(100):
        images.batch(step, 128)
    print("MEASURED", seconds, *after, memory_now("RssAnon") - own, len(images))


def memory(arguments):
    """Rows: a folder's first load (decoding) and its second (from the cache)."""
    names = ("peak resident", "peak own", "own after loading", "own after 100 batches of 128")
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        place = Path(folder, "pictures")
        make_pictures(place, arguments.pictures)
        program = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import costs; "
            f"costs.watch_load({str(place)!r})"
        )
        for turn in ("decoded for the first time", "found in the cache"):
            env = os.environ | {"GENCOURSE_CACHE": str(Path(folder, "cache"))}
            done = subprocess.run(
                [sys.executable, "-c", program],
                **{"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True},
                **{"check": True, "env": env},
            )
            seconds, *megabytes, count = done.stdout.split("MEASURED")[1].split()
            title = f"data.load of {int(count):,} colour pictures 64×64, {turn}"
            rows.append({"what": title, "unit": "s", "median": float(seconds)})
            for name, value in zip(names, megabytes, strict=True):
                rows.append({"what": f"{title}: {name}", "unit": "MB", "median": float(value)})
    return rows


# Scale --------------------------------------------------------------------------------------------


def course_switches(gan=True):
    """The switches that the course uses on this device."""
    gpu = runtime.device().type == "cuda"
    on = {name: True for name in SWITCHES if name != "compiled" and (gan or name not in GAN_ONLY)}
    return on | {"bf16": gpu, "graph": gpu}


def scale(arguments):
    """Rows: pictures per second of the fast DCGAN step by batch size, and by side."""
    gpu = runtime.device().type == "cuda"
    width = 64 if gpu else 16
    grey = noise_pictures(28, 1)
    steps = {}
    for batch in (8, 16, 32, 64, 128, 256, 512):
        step = make_step(dcgan(28, 1, width), grey, batch=batch, **course_switches())
        steps[f"batch {batch}, 28×28 grey, width {width}"] = batch, step
    for size in (16, 28, 32, 64):
        step = make_step(dcgan(size, 3, width), noise_pictures(size, 3), **course_switches())
        steps[f"batch {BATCH}, {size}×{size} colour, width {width}"] = BATCH, step
    each = 20 if gpu else 1
    rounds = max(3, round((10 if gpu else 12) * arguments.effort))
    taken = report.interleave({k: block_of(s, each) for k, (_, s) in steps.items()}, rounds)
    rows = []
    for name, seconds in taken.items():
        rates = [steps[name][0] * each / s for s in seconds]
        rows.append({"what": name, "unit": "images/s", **report.spread(rates)})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--data", default="fashion_mnist", help="28×28 grey, or noise")
    parser.add_argument("--pictures", type=int, default=200_000, help="for the part memory")
    parser.add_argument("--effort", type=float, default=1.0, help="shorter or longer trials")
    parser.add_argument("--folder", help="where temporary files go; default: the system's place")
    arguments = parser.parse_args()
    functions = dict(zip(PARTS, (imports, first, cost, checkpoints, memory, scale), strict=True))
    rows = []
    for part in arguments.only:
        began = time.perf_counter()
        found = [{"part": part, **row} for row in functions[part](arguments)]
        shown = ("what", "unit", "median", "low", "high", "n")
        print(report.table([{k: row.get(k, "") for k in shown} for row in found]))
        print(f"({time.perf_counter() - began:.0f} s)\n", flush=True)
        rows += found
    print(report.machine())
    report.save("costs", rows, data=arguments.data)


if __name__ == "__main__":
    main()
