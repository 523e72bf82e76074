"""Pictures per second of our training loops beside other courses' training programs, in turns.

    python benchmarks/beside_peers.py --peer PATH [--peer PATH …] [--only NAME …] [--threads 1 2]

PATH: a checkout of pytorch/examples, PyTorch-GAN or d2l-en. GENCOURSE_DATA (or the cache) holds
MNIST; the colour pictures are those of --pictures, class subfolders of picture files.

Their program runs as it is in one process (see peers.py), our `train_gan` or `train_vae` in others,
one for each precision. Both sides train the same architecture (their networks in our loop, or ours
in theirs; the number of weights is compared) at the same batch size on the same pictures, each with
its own data loading. Turn by turn all processes but one are stopped (their data loading workers
too), so that A B A B runs on an equally busy machine. An interval between two steps that a stop
falls into is dropped. Each process takes its own times; on a GPU ours are those of EVERY steps with
a synchronisation, theirs wait for the GPU at every step by themselves.

Rates are medians over all intervals, the ratio's spread the quartiles over the rounds. Memory is
the peak of the process plus what only its workers hold; on a GPU that which torch reserved there.
Linux only (/proc, process groups).
"""

import argparse
import contextlib
import functools
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import peers
import psutil
import report
import torch

from gencourse import data, fetch, nets, runtime, train
from gencourse.runtime import UserError

ON_GPU = runtime.device().type == "cuda"
EVERY = 10 if ON_GPU else 1  # of our steps per time taken: a synchronisation costs something
TICKS, SECONDS = 3, 1.0  # a turn lasts for at least so many times taken, and so long
WARM_UP = 5.0 if ON_GPU else 2.0  # [s], not counted; captures, and picks convolution kernels
PATIENCE = 300  # [s] without a step: then something is wrong
PRECISIONS = ("float32", "bfloat16")


class Work(NamedTuple):
    """program: of peers.PROGRAMS; whose: networks, "theirs" or "ours"; data: what data.load gets;
    z_dim, width: the networks'; batch: on a CPU and on a GPU."""

    program: str
    whose: str
    data: str
    size: int
    z_dim: int
    width: int
    batch: tuple

    @property
    def channels(self):
        return 1 if self.data == "mnist" else 3

    @property
    def is_vae(self):
        return self.program == "examples-vae"


WORKS = {
    "dcgan64-colour": Work("examples-dcgan", "theirs", "folder", 64, 100, 64, (64, 128)),
    "dcgan32-colour": Work("examples-dcgan", "ours", "folder", 32, 64, 64, (64, 128)),
    "dcgan28": Work("examples-dcgan", "ours", "mnist", 28, 64, 64, (64, 128)),
    "vae-mlp": Work("examples-vae", "theirs", "mnist", 28, 20, 0, (128, 128)),
    "vae-conv": Work("examples-vae", "ours", "mnist", 28, 20, 32, (128, 128)),
    "pytorch-gan": Work("pytorch-gan", "theirs", "mnist", 32, 100, 0, (64, 64)),
    "d2l": Work("d2l", "theirs", "folder", 64, 100, 64, (64, 256)),
}
USUAL = [name for name in WORKS if ON_GPU or name != "dcgan32-colour"]


# What the processes do ----------------------------------------------------------------------------


class Ticker:
    """Sends (time, steps so far) to the parent; when asked to end, the last words of the process.

    networks: function () → the networks that are trained here. every: steps per time taken.
    """

    def __init__(self, connection, networks, every=1):
        self.connection, self.networks, self.every, self.steps = connection, networks, every, 0
        signal.signal(signal.SIGTERM, self.last_words)

    def step(self):
        self.steps += 1
        if self.steps % self.every == 0:
            if self.every > 1:
                torch.cuda.synchronize()
            self.connection.send((time.perf_counter(), self.steps))

    def last_words(self, *_):
        reserved = torch.cuda.max_memory_reserved() if ON_GPU else 0
        self.connection.send((peers.weights(*self.networks()), reserved))
        os._exit(0)


class Output:
    """Stands for stdout: what a program prints is not shown, but lines with `word` are counted."""

    def __init__(self, word, step):
        self.word, self.step = word, step

    def write(self, text):
        if self.word and self.word in text:
            self.step()
        return len(text)

    def flush(self):
        pass


def started(log):
    """Give this process a group of its own and send its errors to the file `log`."""
    os.setsid()
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)


def theirs(work, batch, root, folder, log, connection):
    """Child: run the peer's program."""
    started(log)
    program, namespace = peers.PROGRAMS[work.program], {}
    ticker = Ticker(connection, lambda: [namespace[name] for name in program.networks])
    sys.stdout = Output(program.word, ticker.step)
    endless, pictures = 10**6, folder / ("data" if work.data == "mnist" else "pictures")
    arguments = {
        "examples-dcgan": [
            *("--dataset", work.data, "--dataroot", pictures, "--imageSize", work.size),
            *("--batchSize", batch, "--ngf", work.width, "--ndf", work.width, "--nz", work.z_dim),
            *("--niter", endless, "--outf", folder / "out", *(["--accel"] if ON_GPU else [])),
        ],
        "examples-vae": ["--batch-size", batch, "--epochs", endless, "--log-interval", 1],
        "pytorch-gan": ["--batch_size", batch, "--n_epochs", endless],
        "d2l": [],
    }[work.program]
    instead = {}
    if work.program == "d2l":
        instead = {"batch_size": batch, "num_epochs": endless}
    elif work.whose == "ours" and work.is_vae:
        vae = peers.TheirVAE(*networks(work, root))
        instead = {"VAE": lambda: vae}
    elif work.whose == "ours":
        instead = peers.our_gan_instead(work.program, *networks(work, root))
    update_g = functools.partial(counted, ticker.step)
    peers.run(work.program, root, folder, arguments, instead, namespace, update_g)


def counted(step, function):
    """A function that does what `function` does, and then counts a step."""

    def call(*arguments):
        result = function(*arguments)
        step()
        return result

    return call


def networks(work, root):
    """The networks of a work for our loop: a VAE, or a generator and a discriminator."""
    sizes = work.size, work.channels
    if work.whose == "theirs" and work.is_vae:
        return [peers.their_vae(root, work.z_dim)]
    if work.whose == "theirs":
        return peers.their_gan(work.program, root, *sizes, work.width, work.z_dim)
    if work.is_vae:
        return [nets.VAE(*sizes, work.z_dim, work.width)]
    G = nets.DCGANGenerator(*sizes, z_dim=work.z_dim, width=work.width)
    return G, nets.DCGANDiscriminator(*sizes, width=work.width)


def ours(work, batch, precision, root, folder, log, connection):
    """Child: train the same networks with our loop."""
    started(log)
    pictures = f"folder:{(folder / 'pictures').resolve()}" if work.data == "folder" else work.data
    images = data.load(pictures, size=work.size)
    models = networks(work, root)
    ticker = Ticker(connection, lambda: models, EVERY)
    images.indices = tick_before(images.indices, ticker.step)
    loop = train.train_vae if work.is_vae else train.train_gan
    loop(images, *models, steps=10**8, batch_size=batch, precision=precision, graph=ON_GPU)


def tick_before(indices, step):
    """`indices` of Images, which our loops ask once a step: counts a step, then answers."""

    def call(*arguments):
        step()
        return indices(*arguments)

    return call


# Taking turns -------------------------------------------------------------------------------------


class Side:
    """A child process that runs only during its turns."""

    def __init__(self, name, target, arguments, threads, log):
        context = multiprocessing.get_context("spawn")
        self.name, self.log, self.peak = name, log, 0
        self.connection, sender = context.Pipe(duplex=False)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # the child reads it when it imports torch
        self.process = context.Process(target=target, args=(*arguments, log, sender))
        self.process.start()
        sender.close()

    def receive(self):
        """The next message; UserError with the child's last lines if there will be none."""
        with contextlib.suppress(EOFError):
            if self.connection.poll(PATIENCE):
                return self.connection.recv()
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        raise UserError(f"{self.name} took no step any more. It last said:\n{said[-2000:]}")

    def turn(self, seconds=SECONDS):
        """Let it run for a turn. Returns: seconds per step, one for each interval in the turn."""
        began, taken = time.perf_counter(), []
        os.killpg(self.process.pid, signal.SIGCONT)
        while len(taken) < TICKS or time.perf_counter() - began < seconds:
            stamp = self.receive()
            if stamp[0] > began:  # an older one still was in the pipe
                taken.append(stamp)
        self.stop()
        pairs = zip(taken, taken[1:], strict=False)
        return [(after - before) / (n - m) for (before, m), (after, n) in pairs]

    def stop(self):
        os.killpg(self.process.pid, signal.SIGSTOP)
        self.peak = max(self.peak, memory(self.process.pid))

    def end(self):
        """Stop it. Returns: (number of weights, peak memory [bytes])."""
        os.kill(self.process.pid, signal.SIGTERM)
        os.killpg(self.process.pid, signal.SIGCONT)
        message = self.receive()
        while isinstance(message[0], float):
            message = self.receive()
        weights, reserved = message
        return weights, reserved or self.peak

    def kill(self):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def memory(pid):
    """Peak memory of a process plus what only its children hold at present [bytes]."""
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(int(s.split()[1]) for s in status.splitlines() if s.startswith("VmHWM")) * 1024
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            peak += child.memory_full_info().uss
    return peak


def measure(name, root, pictures, precisions, threads, rounds):
    """One work: the peer and ours in turns. Returns: rows for the table."""
    work = WORKS[name]
    batch = work.batch[ON_GPU]
    sides = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = peers.workplace(Path(temporary), pictures=pictures)
        plan = {"peer": (theirs, (work, batch, root, folder))}
        for precision in precisions:
            plan[precision] = (ours, (work, batch, precision, root, folder))
        try:
            for side, (target, arguments) in plan.items():
                log = folder / f"{side}.log"
                sides.append(Side(f"{name}, {side}", target, arguments, threads, log))
            for side in sides:
                side.receive()  # its first step
                side.stop()
            for side in sides:
                side.turn(WARM_UP)
            turns = [{side: sides[i].turn() for i, side in enumerate(plan)} for _ in range(rounds)]
            ends = dict(zip(plan, [side.end() for side in sides], strict=True))
        finally:
            for side in sides:
                side.kill()
    counts = {weights for weights, _ in ends.values()}
    assert len(counts) == 1, f"{name}: not the same networks, {counts} weights"
    return [row(name, threads, batch, p, turns, ends) for p in precisions]


def row(name, threads, batch, precision, turns, ends):
    """One line of the table: the peer beside ours in one precision."""
    work = WORKS[name]
    seconds = {s: [t for turn in turns for t in turn[s]] for s in ("peer", precision)}
    middle = {side: statistics.median(values) for side, values in seconds.items()}
    ratios = [statistics.median(t["peer"]) / statistics.median(t[precision]) for t in turns]
    spread = report.spread(ratios)
    return {
        "peer": peers.PROGRAMS[work.program].peer,
        "work": name,
        "networks": work.whose,
        "precision": precision,
        "threads": threads,
        "batch": batch,
        "weights": ends["peer"][0],
        "theirs [pictures/s]": batch / middle["peer"],
        "ours [pictures/s]": batch / middle[precision],
        "ratio": middle["peer"] / middle[precision],
        "low": spread["low"],
        "high": spread["high"],
        "theirs [MB]": round(ends["peer"][1] / 1e6),
        "ours [MB]": round(ends[precision][1] / 1e6),
        "rounds": len(turns),
        "n theirs": len(seconds["peer"]),
        "n ours": len(seconds[precision]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", action="append", required=True, metavar="PATH")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=USUAL, metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", help="folder; default $GENCOURSE_DATA/cifar10-folder/train")
    options = parser.parse_args()
    # The processes are ended without a farewell; the one that counts semaphores would complain.
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    signal.signal(signal.SIGTERM, peers.end)  # and with this process what it started
    try:
        roots = peers.recognise(options.peer)
        home = fetch.given_folder() or Path("data")
        pictures = Path(options.pictures or home / "cifar10-folder" / "train")
        if not pictures.is_dir():
            raise UserError(f"There is no folder {pictures}: name one of pictures by --pictures.")
        precisions = [p for p in PRECISIONS if report.worthwhile(p)]
        rows, commits = [], {peer: peers.commit(root) for peer, root in roots.items()}
        for threads in options.threads:
            for name in options.only:
                root = roots.get(peers.PROGRAMS[WORKS[name].program].peer)
                if root is None:
                    continue
                began = time.perf_counter()
                found = measure(name, root, pictures, precisions, threads, options.rounds)
                rows += found
                path = report.save("beside_peers", rows, commits=commits)  # so far
                ratios = " ".join(f"{r['ratio']:.2f}× {r['precision']}" for r in found)
                seconds = time.perf_counter() - began
                print(f"{name}, threads {threads}: {ratios} ({seconds:.0f} s)", flush=True)
        if not rows:
            raise UserError("None of the works asked for belongs to a checkout that was given.")
    except UserError as error:
        sys.exit(str(error))
    print(report.table(rows), path, sep="\n")


if __name__ == "__main__":
    main()
