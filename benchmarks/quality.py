"""How good the pictures are after equal wall time: our recipe beside other courses' recipes.

    python benchmarks/quality.py --peer PATH [--peer PATH …] [--seeds 0 1 2] [--marks 20 60 120 300]
        [--out FOLDER]

Everybody trains the same networks, the course's 28² DCGAN at width 16, on Fashion-MNIST. What
differs is the recipe: optimizer, rates, loss, batch size, loop and data loading, each as it ships
(see peers.py). One core and one thread each, data loading workers on the same core, two runs side
by side; with a GPU one run at a time, on all cores. The clock runs from the start of the
training loop, first batch included; imports and the making of the data set are not counted.

Ours, `train_gan` with its defaults (on a GPU with graph=True), knows how long it may train: its
rate falls to zero at the end. So every mark is a run of its own, as long as a speed measured just
before allows; the seconds that it really took are noted. A peer's rate is constant: one run, whose
generator is copied when a mark passes. Measured is the Fréchet distance on the features of the
course's judge, 10,000 pictures against the 10,000 of the test split; of a peer's generator with
BatchNorm in training or in evaluation mode, whichever is better for it (on 2,500 pictures).

A finished run is a line in FOLDER/runs.jsonl and not made again; a sheet of samples lies beside it.
The table is of all that the folder holds.
"""

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import os
import queue
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import peers
import report
import torch

from gencourse import data, evaluate, nets, runtime, train
from gencourse.runtime import UserError

WIDTH, Z_DIM = 16, 64
SAMPLES, FEW = 10_000, 2_500  # for the distance; to see which mode of BatchNorm is better
CALIBRATION = 1_000 if torch.cuda.is_available() else 50  # steps that tell our loop's speed
MARGIN = 0.96  # of the time: the speed varies, and the mark must not be passed
RECIPES = {"pytorch/examples": "examples-dcgan", "PyTorch-GAN": "pytorch-gan", "d2l-en": "d2l"}
OURS = "gencourse"


class Over(BaseException):
    """The last mark has passed: leaves a peer's loop, which nothing else ends."""


class Marks:
    """Copies of a generator's state at marks of a clock that the first data loading starts.

    A forward pass calls `look`: the state then is that of all the steps before it.
    """

    def __init__(self, net, marks):
        self.net, self.marks, self.began, self.taken = net, sorted(marks), None, {}
        self.hook = net.register_forward_pre_hook(self.look)
        usual = torch.utils.data.DataLoader.__iter__

        def iterate(loader):
            self.began = self.began or time.perf_counter()
            return usual(loader)

        torch.utils.data.DataLoader.__iter__ = iterate

    def look(self, *_):
        if self.began is None:
            return
        seconds = time.perf_counter() - self.began
        while len(self.taken) < len(self.marks) and seconds >= self.marks[len(self.taken)]:
            state = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
            self.taken[self.marks[len(self.taken)]] = seconds, state
        if len(self.taken) == len(self.marks):
            self.hook.remove()
            raise Over


def pair():
    """The networks that everybody trains."""
    G = nets.DCGANGenerator(28, 1, z_dim=Z_DIM, width=WIDTH)
    return G, nets.DCGANDiscriminator(28, 1, width=WIDTH)


# One run, in a process of its own -----------------------------------------------------------------


def child(connection, core, log, function, arguments):
    """A run on one core, data loading workers too (None: on all). It prints to the file `log`."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    sys.stdout = open(os.devnull, "w")  # a line per step
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    connection.send(function(*arguments))


def their_run(peer, root, seed, marks, out):
    """A peer's program until the last mark. Returns: list of results, one for each mark."""
    name = RECIPES[peer]
    runtime.seed_everything(seed)
    G, D = pair()
    clock = Marks(G, marks)
    arguments = {
        "examples-dcgan": [
            *("--dataset", "mnist", "--imageSize", 28, "--nz", Z_DIM, "--manualSeed", seed),
            *("--ngf", WIDTH, "--ndf", WIDTH, "--niter", 10**6),
        ],
        "pytorch-gan": ["--img_size", 28, "--latent_dim", Z_DIM, "--n_epochs", 10**6],
        "d2l": [],
    }[name]
    instead = peers.our_gan_instead(name, G, D)
    with tempfile.TemporaryDirectory() as temporary:
        folder = peers.workplace(Path(temporary), "fashion_mnist")
        if name == "examples-dcgan":
            arguments += ["--dataroot", folder / "data", "--outf", folder / "out"]
            arguments += ["--accel"] if torch.cuda.is_available() else []
        if name == "d2l":
            instead |= d2l_data(folder) | {"latent_dim": Z_DIM, "num_epochs": 10**6}
        try:
            peers.run(name, root, folder, arguments, instead)
        except Over:
            pass
        os.chdir("/")  # the temporary folder goes
    results, score = [], scorer()
    for mark, (seconds, state) in clock.taken.items():
        G.load_state_dict(state)
        training = score(G, True, FEW) < score(G, False, FEW)
        mode = "training" if training else "evaluation"
        results.append(result(mark, seconds, score(G, training), batch_norm=mode))
    sheet(G, training, out / f"{name}-{seed}.png")
    return results


def d2l_data(folder):
    """`instead` for d2l: Fashion-MNIST in place of their pictures, at 28 pixels and not at 64."""
    from torchvision import datasets, transforms

    steps = [transforms.Resize((28, 28)), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    return {"pokemon": datasets.MNIST(folder / "data"), "transformer": transforms.Compose(steps)}


def our_run(seed, mark, out):
    """Our recipe with `mark` seconds to train. Returns: list with one result."""
    images = data.load("fashion_mnist")
    on_gpu = runtime.device().type == "cuda"
    train.train_gan(images, *pair(), steps=CALIBRATION, graph=on_gpu, progress=False)
    began = time.perf_counter()
    train.train_gan(images, *pair(), steps=CALIBRATION, graph=on_gpu, progress=False)
    steps = max(1, int(MARGIN * mark * CALIBRATION / (time.perf_counter() - began)))
    runtime.seed_everything(seed)
    G, D = pair()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        G, _ = train.train_gan(images, G, D, steps=steps, seed=seed, out=folder, graph=on_gpu)
        seconds = time.perf_counter() - began
    sheet(G, False, out / f"{OURS}-{seed}-{mark:g}.png")
    return [result(mark, seconds, scorer()(G, False), steps=steps)]


def result(mark, seconds, value, **more):
    """A distance that can't be measured (the training diverged) is null in JSON."""
    value = round(value, 2) if math.isfinite(value) else None
    return {"mark": mark, "seconds": round(seconds, 2), "distance": value, **more}


@torch.no_grad()
def pictures(G, training, count):
    """Samples of G in batches of 500, as (500, 1, 28, 28) each; the same noise for everybody."""
    G.train(training)
    noise = train.fixed_noise(count, Z_DIM, seed=0).to(next(G.parameters()).device)
    return (G(z).clamp(-1, 1) for z in noise.split(500))


def scorer():
    """A function (G, training, count) → Fréchet distance to the test pictures, inf if diverged."""
    judge = evaluate.judge("fashion_mnist").to(memory_format=torch.channels_last)
    real = evaluate.moments(evaluate.features(data.load("fashion_mnist", "test"), judge))

    def score(G, training, count=SAMPLES):
        G.to(runtime.device(), memory_format=torch.channels_last)
        try:
            with torch.no_grad():
                fake = evaluate.features(pictures(G, training, count), judge)
            return float(evaluate.frechet_distance(real, fake))
        except UserError:  # values that are not finite
            return math.inf

    return score


def sheet(G, training, path):
    """64 samples as one picture, for the eye."""
    from torchvision.utils import save_image

    with torch.no_grad():
        samples = next(pictures(G, training, 500))[:64]
    save_image(samples, path, nrow=8, normalize=True, value_range=(-1, 1))


# All runs -----------------------------------------------------------------------------------------


def tasks(roots, seeds, marks):
    """(recipe, seed, marks of this run): seed by seed, long runs first."""
    for seed in seeds:
        longest, *others = sorted(marks, reverse=True)
        yield OURS, seed, [longest]
        yield from ((peer, seed, sorted(marks)) for peer in roots)
        yield from ((OURS, seed, [mark]) for mark in others)


def perform(task, roots, cores, out):
    """One run on a free core. Returns: its line for runs.jsonl."""
    recipe, seed, marks = task
    log = out / f"{recipe.replace('/', '-')}-{seed}-{marks[-1]:g}.log"
    job = our_run, (seed, *marks, out)
    if recipe != OURS:
        job = their_run, (recipe, roots[recipe], seed, marks, out)
    context = multiprocessing.get_context("spawn")
    connection, sender = context.Pipe(duplex=False)
    core = cores.get()
    try:
        process = context.Process(target=child, args=(sender, core, log, *job))
        process.start()
        sender.close()
        results = connection.recv()
        process.join()
    except EOFError:
        raise UserError(f"{recipe}, seed {seed}, failed: see {log}.") from None
    finally:
        cores.put(core)
    return {"recipe": recipe, "seed": seed, "marks": marks, "results": results}


def finished(out):
    """The lines of runs.jsonl; one that an interruption has torn is left out."""
    path, found = out / "runs.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def perform_all(todo, roots, out):
    """All runs, as many side by side as there are cores (two at most; one on a GPU)."""
    usable = [None]
    if hasattr(os, "sched_getaffinity") and not torch.cuda.is_available():
        usable = sorted(os.sched_getaffinity(0))
    cores = queue.Queue()
    for core in usable[:2]:
        cores.put(core)
    began, pool = time.perf_counter(), concurrent.futures.ThreadPoolExecutor(cores.qsize())
    try:
        futures = [pool.submit(perform, task, roots, cores, out) for task in todo]
        for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
            try:
                line = future.result()
            except UserError as error:  # the others go on
                print(error, flush=True)
                continue
            with open(out / "runs.jsonl", "a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(line) + "\n")  # ends a line that was torn
            found = ", ".join(f"{r['mark']:g} s: {r['distance']}" for r in line["results"])
            minutes = (time.perf_counter() - began) / 60
            print(f"{number}/{len(todo)} {line['recipe']}, seed {line['seed']}: {found} "
                  f"({minutes:.1f} min)", flush=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()


def rows(lines, marks):
    """The table: one row for each recipe and mark; a run that diverged counts as infinitely far."""
    for recipe in dict.fromkeys(line["recipe"] for line in lines):
        for mark in marks:
            mine = [r for line in lines if line["recipe"] == recipe
                    for r in line["results"] if r["mark"] == mark]
            values = [math.inf if r["distance"] is None else r["distance"] for r in mine]
            if values:
                yield {
                    "recipe": recipe,
                    "mark [s]": f"{mark:g}",
                    "Fréchet distance": statistics.median(values),
                    "lowest": min(values),
                    "highest": max(values),
                    "seeds": len(values),
                    "seconds": statistics.median(r["seconds"] for r in mine),
                }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", action="append", required=True, metavar="PATH")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--marks", nargs="+", type=float, default=[20, 60, 120, 300])
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes that are started read it
    signal.signal(signal.SIGTERM, peers.end)  # and with this process what it started
    try:
        roots = peers.recognise(options.peer)
        data.load("fashion_mnist")  # fetched once, not by everybody
        done = [(line["recipe"], line["seed"], line["marks"]) for line in finished(out)]
        wanted = list(tasks(roots, options.seeds, options.marks))
        perform_all([task for task in wanted if task not in done], roots, out)
    except UserError as error:
        sys.exit(str(error))
    lines = finished(out)  # of earlier calls too: long marks may have fewer seeds
    table = list(rows(lines, options.marks))
    print(report.table(table))
    commits = {peer: peers.commit(root) for peer, root in roots.items()}
    print(report.save("quality", table, commits=commits, samples=SAMPLES, width=WIDTH, runs=lines))


if __name__ == "__main__":
    main()
