"""How long would each chapter's `gpu` profile take on a free T4? Arithmetic: nothing runs on a GPU.

    python benchmarks/t4.py              # some minutes on a CPU → results/t4-estimate.json
    python benchmarks/t4.py 06 10        # these chapters alone; the others' rows stay

Each kind of training step is taken on a pretended T4 (tests/pretend_cuda.py), with the chapter's
own functions and the sizes of its `gpu` profile. Every operation on the device is taken to last for
the longest of three times, one after the other: its launch, its arithmetic, its way to memory and
back (bytes as in floor.py). The cost of one step is that of three steps less that of two; how
often it is taken stands in the chapter's text. Beyond that there is an allowance for imports,
figures and measurements; where a chapter keeps the CPU busy, it is named.

The build shows the minutes in the README's table until somebody has measured them.
"""

import argparse
import ast
import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tools")]
os.environ |= {"GENCOURSE_PROFILE": "gpu", "GENCOURSE_STATIC": "1", "MPLBACKEND": "agg"}
os.environ.pop("GENCOURSE_DEVICE", None)

import pretend_cuda  # noqa: E402  before anything asks for a device

pretend_cuda.install("T4")

import report  # noqa: E402
import rules  # noqa: E402
import torch  # noqa: E402
from floor import traffic  # noqa: E402
from loops import noise_pictures  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from torch.utils.flop_counter import flop_registry  # noqa: E402

from gencourse import latent, nets, run, runtime, train  # noqa: E402

run.REFRESH = math.inf  # nothing in a step may depend on how slow this machine is

# Of a T4 as Colab lends it: usable, not the data sheet's 8.1 and 65 TFLOP/s and 320 GB/s.
FULL, HALF, MEMORY, LAUNCH = 2.4e12, 25e12, 240e9, 10e-6
TAKEN = {"float32": FULL, "float16": HALF, "bytes/s": MEMORY, "launch [s]": LAUNCH}
CONTEXT = 0.5e9  # bytes that CUDA and its libraries hold
ALLOWANCE = 1.0  # minutes
LIMIT = 15.0  # minutes


class Cost(TorchDispatchMode):
    """Adds up launches, FLOPs, bytes and seconds of the operations on the device."""

    def __init__(self):
        super().__init__()
        self.launches = self.flops = self.bytes = 0
        self.seconds = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, before = kwargs or {}, pretend_cuda.counts["ops"]
        out = func(*args, **kwargs)
        if pretend_cuda.counts["ops"] > before:
            count = flop_registry.get(func._overloadpacket)
            flops = count(*args, **kwargs, out_val=out) if count else 0
            moved = traffic(func, args, kwargs, out)
            half = any(getattr(t, "dtype", None) == torch.half for t in tree_leaves(args))
            self.launches += 1
            self.flops += flops
            self.bytes += moved
            self.seconds += max(LAUNCH, flops / (HALF if half else FULL), moved / MEMORY)
        return out


class Work(NamedTuple):
    """what: in words; loop: function of a number of steps; steps, runs: how often it is taken.

    steps: a number, or the names in the chapter whose values are multiplied.
    """

    what: str
    loop: object
    steps: object
    runs: int = 1


# A chapter's own definitions ----------------------------------------------------------------------


class Chapter(dict):
    """The names that a chapter defines, without running it: imports, functions, classes, constants.

    known: names that are given; they are not overwritten. What can't be made is left out.
    """

    def __init__(self, stem, **known):
        super().__init__(known, __name__=stem)
        cells = rules.code_cells(rules.from_text(rules.read_text(stem)))
        for cell in (c for c in cells if "install" not in rules.tags(c)):
            for statement in ast.parse(cell.source).body:
                if self._is_definition(statement, known):
                    code = compile(ast.Module([statement], []), stem, "exec")
                    with contextlib.suppress(Exception):
                        exec(code, self)

    @staticmethod
    def _is_definition(statement, known):
        if isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
            return getattr(statement, "name", None) not in known
        calls = {ast.unparse(n.func) for n in ast.walk(statement) if isinstance(n, ast.Call)}
        if isinstance(statement, ast.Expr):  # such as trial(…), which then only takes notes
            return bool(calls) and ast.unparse(statement.value.func) in known
        if not isinstance(statement, ast.Assign) or calls - {"runtime.budget", "runtime.device",
                                                             "dict", "nn.Linear"}:
            return False
        names = {n.id for t in statement.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        return not names & set(known)

    def __getattr__(self, name):
        return self[name]


# The trainings, chapter by chapter ----------------------------------------------------------------


def grey(size=28, channels=1):
    return noise_pictures(size, channels, count=512)


def gan(images, G, D, **options):
    def loop(steps):
        train.train_gan(images, G, D, steps=steps, progress=False, **options)

    return loop


def vae(images, model, **options):
    def loop(steps):
        train.train_vae(images, model, steps=steps, progress=False, **options)

    return loop


def dcgan(size, channels, width, z_dim=64):
    G = nets.DCGANGenerator(size, channels, z_dim, width)
    return G, nets.DCGANDiscriminator(size, channels, width)


def dense(shape, width):
    return nets.DenseGenerator(shape, 64, width), nets.DenseDiscriminator(shape, width)


def league(c, seeds=3):
    images = grey()
    return [
        Work("DCGAN of the league", gan(images, *dcgan(28, 1, c.WIDTH)), "GAN_STEPS", seeds),
        Work("dense GAN of the league", gan(images, *dense((1, 28, 28), c.DENSE), lr=2e-4),
             "GAN_STEPS", seeds),
        Work("VAE of the league", vae(images, nets.VAE(28, 1, 24, c.VAE_WIDTH)), "VAE_STEPS",
             seeds),
    ]


def chapter_00(c):
    pair = dense((1, 16, 16), 128)
    return [Work("the first GAN", gan(grey(16), *pair, precision="float32"), "STEPS", 1)]


def chapter_03(c):
    images = grey()
    loop = classifier(images, nets.Classifier(28, 1, width=c.WIDTH))
    c["images"], c["CHANNELS"] = images, 1
    deep = classifier(images, c.Deep(residual=True), precision="float32")
    return [
        Work("the classifier", loop, "STEPS"),
        Work("deep stacks", deep, "DEEP", 6),
        Work("nets of Break it", loop, "TRIAL", 12),
    ]


def classifier(images, model, **options):
    images.labels = (torch.arange(len(images)) % 10).to(runtime.device())
    images.classes = list("0123456789")

    def loop(steps):
        train.train_classifier(images, model, steps=steps, progress=False, **options)

    return loop


def chapter_04(c):
    loop = gan(grey(), *dense((1, 28, 28), c.WIDTH), precision="float32", lr=2e-4)
    return [Work("the GAN", loop, "STEPS"), Work("short loops", loop, "SHORT_STEPS", 22)]


def chapter_05(c):
    images, pair = grey(), dcgan(28, 1, c.WIDTH)
    colour = gan(grey(32, 3), *dcgan(32, 3, c.COLOUR_WIDTH))
    return [
        Work("the DCGAN", gan(images, *pair), "STEPS"),
        Work("ablations", gan(images, *pair), "TRIAL", 24),
        Work("photographs in colour", colour, "COLOUR_STEPS"),
        Work("the same, an eighth of the steps", colour, 2_500),
        Work("64×64, colour", gan(grey(64, 3), *dcgan(64, 3, c.WIDTH)), "BIG_STEPS"),
    ]


def chapter_06(c):
    works = [
        Work(f"plane: {method}", lambda steps, more=more: c.play("ring", steps=steps, **more),
             "STEPS", 2)
        for method, more in c.recipes.items()
    ]
    worst = c.recipes["WGAN-GP"]
    works.append(Work("Break it", lambda steps: c.play("ring", steps=steps, **worst),
                      "BREAK_STEPS", 3))
    loop = gan(grey(), *dense((1, 28, 28), c.PICTURE_WIDTH))
    return [*works, Work("pictures", loop, "PICTURE_STEPS", 4 * len(c.PICTURE_SEEDS))]


def chapter_07(c):
    return league(c)


def chapter_08(c):
    images = grey()
    wide = vae(images, nets.VAE(28, 1, 24, 32), precision="float32")
    narrow = vae(images, nets.VAE(28, 1, 24, c.narrow), precision="float32")
    flat = vae(images, nets.VAE(28, 1, 2, c.narrow))
    colour = vae(grey(32, 3), nets.VAE(32, 3, c.photo_z, likelihood="gaussian"))
    return [
        Work("the VAE, float32", wide, "steps"),
        Work("two latent numbers", flat, "map_steps", 2),
        Work("short experiments, float32", narrow, "short", 21),
        Work("the VAE in colour", colour, "photo_steps"),
    ]


def chapter_09(c):
    small = vae(grey(16, 3), nets.VAE(16, 3, 10, 8))
    runs = len(c.BETAS) * c.SEEDS
    G, x = nets.DCGANGenerator(28, 1, 64, 16).cuda(), grey().batch(0, c.count)
    return [
        Work("β-VAEs", small, "beta_steps", runs),
        Work("inversions", lambda steps: latent.invert(G, x, steps=steps, starts=4), 500, 4),
    ]


def chapter_10(c):
    images = grey()
    pair, model = dcgan(28, 1, c.WIDTH), nets.VAE(28, 1, 24, c.VAE_WIDTH)
    small = vae(images, nets.VAE(28, 1, 24, c.NARROW))
    return [
        Work("short DCGANs", gan(images, *pair), "SHORT_GAN", 5),
        Work("short VAEs", vae(images, model), "SHORT_VAE", 5),
        Work("VAE-GAN to the end", lambda steps: c.vaegan(0, steps, None), "BOTH_STEPS", 3),
        Work("short VAE-GANs", lambda steps: c.vaegan(0, steps, None), "SHORT_BOTH", 4),
        Work("VAEs of five β", small, "BETA_STEPS", 5),
        Work("bottlenecks", lambda steps: c.bottleneck(0.1, steps), "VIB_STEPS", 5),
        Work("timings of 10.3, 10.9", gan(images, *pair), 200, 9),
    ]


def chapter_14(c):
    c["kept"], c["images"] = {}, grey()
    c["PIXELS"] = c["images"].x
    loop = c.make(step=c.step, batches=c.on_device, once=True, freeze=True, item=False, fused=True)

    def lean(steps):
        for _ in range(steps):
            loop()

    lean(1)  # Adam makes its averages in the first step, once for all that follow
    turns = (c.ROUNDS + 2) * c.PER_TURN
    return [
        Work("14.1–14.5: trials in turns, float32", lean, turns * 2, 11),
        Work("losses compared", lean, "STEPS", 1),
        Work("the race", lean, "FINAL", 6),
        Work("one pass against two", lean, "BROKEN", 6),
        Work("watched", gan(c["images"], *dcgan(28, 1, c.WIDTH), batch_size=c.BATCH), "WATCHED"),
    ]


class Estimate(NamedTuple):
    stem: str
    works: object = None
    busy: float = 0.0  # further minutes of the two CPU cores
    why: str = ""


ESTIMATES = [
    Estimate("00_start_here", chapter_00),
    Estimate("01_kl_divergence"),
    Estimate("02_minimax", busy=1, why="small games on the CPU"),
    Estimate("03_convolutions", chapter_03),
    Estimate("04_first_gan", chapter_04),
    Estimate("05_dcgan", chapter_05, 1, "distances of its ablations"),
    Estimate("06_mode_collapse", chapter_06, 1, "films of the plane, classes counted"),
    Estimate("07_evaluation", chapter_07, 3, "k-means, bootstrap, mixtures of codes"),
    Estimate("08_vae", chapter_08, 1, "a mixture of codes"),
    Estimate("09_latent_space", chapter_09, 1, "mutual information"),
    Estimate("10_gan_vs_vae", chapter_10, 3, "mixtures, precision and recall for each player"),
    Estimate("14_fast_training", chapter_14, 4, "the DataLoader: 128 pictures a step on two cores"),
]


def cost(loop, steps):
    """Cost of so many steps, and the peak of memory."""
    pretend_cuda.memory.peak = pretend_cuda.memory.used
    with Cost() as found:
        loop(steps)
    return found, pretend_cuda.memory.peak


def estimated(estimate):
    """Rows of one chapter: its works, each with one step's cost and all of its minutes."""
    recorded = {}
    known = {"DEVICE": runtime.device(), "device": runtime.device(), "SIZE": 28, "CHANNELS": 1,
             "size": 28, "channels": 1, "images": grey(), "recipes": recorded,
             "WORLDS": {"ring": torch.randn(8, 2, device="cuda")},
             "trial": lambda method, **changes: recorded.__setitem__(method, changes)}
    chapter = Chapter(estimate.stem, **known)
    rows = []
    for work in estimate.works(chapter) if estimate.works else []:
        (less, _), (more, peak) = cost(work.loop, 2), cost(work.loop, 3)
        steps = chapter[work.steps] if isinstance(work.steps, str) else work.steps
        seconds = more.seconds - less.seconds
        row = {"chapter": estimate.stem, "work": work.what, "budget": str(work.steps)}
        row |= {"steps": steps, "runs": work.runs}
        row |= {"launches a step": more.launches - less.launches}
        row |= {"GFLOP a step": (more.flops - less.flops) / 1e9}
        row |= {"MB a step": (more.bytes - less.bytes) / 1e6}
        row |= {"ms a step": 1e3 * seconds, "minutes": seconds * steps * work.runs / 60}
        rows.append(row | {"GB": (peak + CONTEXT) / 1e9})
        print(report.table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def recounted(rows, chapter):
    """The same rows with the budgets that the chapter has now."""
    for row in rows:
        row["steps"] = chapter.get(row["budget"], row["steps"])
        row["minutes"] = row["ms a step"] * row["steps"] * row["runs"] / 60_000
    return rows


def summary(rows):
    """One row per chapter: {stem: minutes, most launches and ms a step, GB, what else}."""
    found = []
    for e in ESTIMATES:
        mine = [r for r in rows if r["chapter"] == e.stem]
        minutes = sum(r["minutes"] for r in mine) + ALLOWANCE + e.busy
        found.append({
            "chapter": e.stem,
            "steps": sum(r["steps"] * r["runs"] for r in mine),
            "launches a step": max((r["launches a step"] for r in mine), default=0),
            "ms a step, at most": max((r["ms a step"] for r in mine), default=0.0),
            "training [min]": sum(r["minutes"] for r in mine),
            "else [min]": ALLOWANCE + e.busy,
            "minutes": minutes,
            "GB": max((r["GB"] for r in mine), default=CONTEXT / 1e9),
            "beyond the allowance": e.why,
        })
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="such as 06; default: all")
    parser.add_argument("--recount", action="store_true", help="take new budgets, measure nothing")
    arguments = parser.parse_args()
    chosen = arguments.chapters
    path = report.RESULTS / "t4-estimate.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for e in ESTIMATES:
        if not chosen or e.stem[:2] in chosen:
            mine = [r for r in rows if r["chapter"] == e.stem]
            new = recounted(mine, Chapter(e.stem)) if arguments.recount else estimated(e)
            rows = [r for r in rows if r["chapter"] != e.stem] + new
            rows.sort(key=lambda row: row["chapter"])
            chapters = summary(rows)
            content = {"benchmark": "t4", "taken": TAKEN, "chapters": chapters, "rows": rows}
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            path.write_text(text, encoding="utf-8")
    print(report.table(chapters))
    if late := [c["chapter"] for c in chapters if c["minutes"] > LIMIT]:
        raise SystemExit(f"Over {LIMIT:g} minutes: {', '.join(late)}.")


if __name__ == "__main__":
    main()
