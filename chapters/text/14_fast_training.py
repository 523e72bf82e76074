# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 14 · Fast training
#
# The loop of chapter 05, made fast one measured change at a time, without changing what it learns.

# %% [markdown]
# **After this chapter you can** time a training step so that you may believe the number · say how
# fast a step could be on a machine, and what keeps it from being so · use low precision, CUDA
# graphs and several processes, and prove that the result stays the same.
#
# **You need** [chapter 05](05_dcgan.ipynb) (the nets and the loop) and
# [chapter 03](03_convolutions.ipynb) (what a convolution computes).
#
# <!-- stamp -->
# *Run time: 3.8 min, peak memory 1.5 GB, `cpu` profile on `digits`, `fashion_mnist`
# (cpu · 2 cores (2 threads) · Linux x86_64 · Python 3.11.7 · torch 2.15.0).*
# <!-- /stamp -->
#
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/chapters/14_fast_training.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import itertools
import time
from statistics import median, quantiles

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

# %%
from gencourse import data, fast, losses, nets, plot, runtime, train, widgets

# %%
plot.style()
runtime.seed_everything(0)
DEVICE = runtime.device()
print(runtime.describe())

# %%
DATA = runtime.budget(smoke="digits", cpu="fashion_mnist", gpu="fashion_mnist")
WIDTH = runtime.budget(smoke=8, cpu=32, gpu=64)  # wider than in 05: enough work to be worth timing
BATCH = runtime.budget(smoke=32, cpu=64, gpu=128)  # pictures per step
ROUNDS = runtime.budget(smoke=3, cpu=9, gpu=11)  # turns per comparison: quartiles need a handful
PER_TURN = runtime.budget(smoke=1, cpu=2, gpu=20)  # steps per turn: longer than the clock's jitter
STEPS = runtime.budget(smoke=8, cpu=120, gpu=500)  # where two trainings are compared
LOW = fast.precision() if DEVICE.type == "cuda" else torch.bfloat16  # 16 bits: a T4 has float16
LOW_NAME = str(LOW).removeprefix("torch.")
Z_DIM, BETAS, SEED = 64, (0.5, 0.999), 0  # chapter 05's
LR = 2e-4  # smaller than there: a pair this wide lurches at 1e-3, and lurching magnifies rounding

# %% [markdown]
# ## The loop we start from
#
# This is the loop as one writes it first. A `DataLoader` opens one picture after the other, turns
# it into a tensor and normalises it.

# %%
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

images = data.load(DATA)
CHANNELS, SIZE, _ = images.shape
PIXELS = images.x.cpu()  # uint8 (N, C, H, W)

# %%
class Pictures(Dataset):
    """One picture at a time: bytes → PIL → floats in [0, 1] → floats in [-1, 1]."""

    prepare = transforms.Compose(
        [transforms.ToPILImage(), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    )

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, i):
        return self.prepare(PIXELS[i])

# %%
def loaded():
    """Endless batches through a DataLoader, in the order of images.batch."""
    rows = (images.indices(step, BATCH).tolist() for step in itertools.count())
    loader = DataLoader(Pictures(), batch_sampler=rows, generator=torch.Generator())
    for x in loader:  # (B, C, H, W)
        yield x.to(DEVICE)

# %% [markdown]
# The step makes the generated pictures twice, once for each player, from the same noise. It lets
# autograd compute whatever it likes, and asks for the two losses as numbers.

# %%
def plain_step(x_real, G, D, g_opt, d_opt):
    z = torch.randn(len(x_real), Z_DIM, device=DEVICE)

    with torch.no_grad():
        x_fake = G(z)
    d_loss = losses.discriminator_loss(D(x_real), D(x_fake))
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()

    g_loss = losses.generator_loss(D(G(z)))
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    return d_loss.item(), g_loss.item()

# %% [markdown]
# `make` puts a loop together from parts that we will exchange one at a time. It returns a function
# without arguments: one call, one step.

# %%
def new_pair(layout=torch.contiguous_format):
    runtime.seed_everything(SEED)
    G = nets.DCGANGenerator(SIZE, CHANNELS, Z_DIM, WIDTH)
    D = nets.DCGANDiscriminator(SIZE, CHANNELS, WIDTH)
    return [net.to(DEVICE, memory_format=layout) for net in (G, D)]

# %%
def make(step=plain_step, batches=loaded, fused=None, layout=torch.contiguous_format, **more):
    G, D = new_pair(layout)
    g_opt, d_opt = (
        torch.optim.Adam(net.parameters(), LR, BETAS, fused=fused) for net in (G, D)
    )
    source = batches()
    runtime.seed_everything(SEED)  # every loop begins with the same noise

    def loop():
        return step(next(source), G, D, g_opt, d_opt, **more)

    loop.nets, loop.optimizers = (G, D), (g_opt, d_opt)  # to look at them later
    return loop

# %% [markdown]
# ## Where this chapter is heading
#
# Above, in grey, the loop we have; below the course's own, `train.train_gan`. They play the same
# game on the same pictures. (Each was run once and short; the first section says why you should not
# trust such a picture.)

# %%
def rough_rate(function, steps):
    began = time.perf_counter()
    function()
    return steps * BATCH / (time.perf_counter() - began)

# %%
few = runtime.budget(smoke=2, cpu=20, gpu=200)
plain = make()
rough = {
    "as first written": rough_rate(lambda: [plain() for _ in range(few)], few),
    "train.train_gan": rough_rate(
        lambda: train.train_gan(images, *new_pair(), steps=few, batch_size=BATCH, progress=False),
        few,
    ),
}

# %%
fig, ax = plt.subplots(figsize=(5.4, 1.5))
ax.barh(list(rough), list(rough.values()), color=["0.7", plot.THIRD])
ax.invert_yaxis()
ax.set_xlabel("pictures per second")
plot.show(fig, alt="Two bars: pictures per second of the loop as first written, and of train_gan.")

# %% [markdown]
# ## 14.1 Measure honestly
#
# **Question.** How long does a step take? Start a clock, do a step, stop the clock.
#
# **Predict:** we do this forty times. Will the forty numbers agree within one percent? Which will
# be the worst?

# %%
def wait():
    """Until the device has done all it was given. A CPU is always done when it returns."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    elif DEVICE.type == "mps":
        torch.mps.synchronize()

# %%
def seconds_of(function):
    wait()
    began = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - began

# %%
one_step = make()
singles = [seconds_of(one_step) for _ in range(runtime.budget(smoke=8, cpu=40, gpu=40))]

# %%
fig, ax = plt.subplots(figsize=(6, 2.4))
ax.plot(range(1, len(singles) + 1), [1e3 * s for s in singles], "o", color=plot.REAL, ms=4)
ax.plot(1, 1e3 * singles[0], "o", color=plot.FOURTH, ms=7, label="the first step")
ax.axhline(1e3 * median(singles), color="0.6", linewidth=1, label="median")
ax.set(xlabel="step", ylabel="time [ms]", ylim=(0, None))
ax.legend(loc="upper right", ncols=2)
plot.show(fig, alt="Times of single steps in order: they scatter around a median; the first one, "
          "marked, is set apart.")  # fmt: skip
later = singles[1:]
print(f"first {1e3 * singles[0]:.1f} ms, then {1e3 * min(later):.1f} to {1e3 * max(later):.1f} ms")

# %% [markdown]
# The same work, and yet the numbers scatter. The **first** step pays for what happens only once:
# memory is fetched from the system, kernels are chosen or loaded, Adam makes its averages. Later
# ones share the machine with everything else that runs on it.
#
# What so short a series hardly shows: *drift*. A machine that warms up, or another program that
# starts, shifts all later dots. Who measures A A A B B B then credits B with the weather.
#
# So we (1) wait for the device, (2) leave out a warm-up, (3) take turns A B, B A, A B, …, (4)
# report medians and quartiles.

# %%
def stopwatch(rivals, rounds=ROUNDS, warm_up=2):
    """Seconds per call of each function, measured in turns A B, B A, A B, …

    rivals: dict name → function without arguments. Returns: dict name → list of seconds.
    """
    seconds = {name: [] for name in rivals}
    for turn in range(warm_up + rounds):
        order = list(rivals) if turn % 2 else list(reversed(rivals))
        for name in order:
            taken = seconds_of(rivals[name])
            if turn >= warm_up:
                seconds[name].append(taken)
    return seconds

# %%
def several(step):
    return lambda: [step() for _ in range(PER_TURN)]

# %% [markdown]
# A first test of the stopwatch: let a loop race against *itself*. An honest instrument must say
# "the same".
#
# **Predict:** how far from 1 can the ratio of two single timings be? And the median of the turns'
# ratios?

# %%
def compare(before, after):
    """Ratio of times before / after in each turn: quartiles (low, median, high), and seconds."""
    seconds = stopwatch({"before": several(before), "after": several(after)})
    ratios = [b / a for b, a in zip(seconds["before"], seconds["after"], strict=True)]
    return quantiles(ratios, n=4), median(seconds["after"]) / PER_TURN, ratios

# %%
(low, middle, high), _, ratios = compare(make(), make())
print(f"single turns: {min(ratios):.3f} to {max(ratios):.3f} times as fast as itself")
print(f"all turns: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}")

# %% [markdown]
# Whatever the single turns claim is noise. It is the size of effect that we can't see here.
#
# Now the rule, before the results: a change is **kept** if at least three turns in four gained
# from it, that is, if the lower quartile of the ratios is above 1. (A change that does nothing
# passes now and then, by luck; more turns make that rarer.) `trial` measures a change on top
# of everything kept before, and adds a bar to a ladder. A bar's height is the plain loop's rate
# times all gains kept so far, so that drift between sections does not enter.

# %%
kept = {}  # arguments of `make`
seconds = [seconds_of(several(one_step)) / PER_TURN for _ in range(ROUNDS)]
ladder = [{"name": "as first written", "rate": BATCH / median(seconds), "gain": 1.0, "kept": True}]

# %%
def trial(name, **change):
    (low, gain, high), _, _ = compare(make(**kept), make(**{**kept, **change}))
    base = [bar for bar in ladder if bar["kept"]][-1]["rate"]
    keep = low > 1
    ladder.append({"name": name, "rate": base * gain, "gain": gain, "kept": keep})
    if keep:
        kept.update(change)
    print(f"{name}: ×{gain:.3f} (quartiles {low:.3f} to {high:.3f})", "keep" if keep else "drop")

# %%
def show_ladder():
    fig, ax = plt.subplots(figsize=(6.4, 0.5 + 0.28 * len(ladder)))
    names = [bar["name"] for bar in ladder]
    colours = [plot.THIRD if bar["kept"] else "0.8" for bar in ladder]
    ax.barh(names, [bar["rate"] for bar in ladder], color=colours)
    for i, bar in enumerate(ladder):
        ax.text(bar["rate"], i, f" ×{bar['gain']:.2f}", va="center", fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel="pictures per second", xlim=(0, 1.15 * max(bar["rate"] for bar in ladder)))
    rows = ", ".join(f"{b['name']} {'kept' if b['kept'] else 'dropped'}" for b in ladder)
    plot.show(fig, alt=f"Bars of pictures per second, one per change: {rows}.")

# %%
# checkpoint: the stopwatch knows a sleeping function's time, and drift can't fool the turns
naps = stopwatch({"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.006)}, 5)
assert all(s >= 0.002 for s in naps["short"]) and all(s >= 0.006 for s in naps["long"])
assert {len(s) for s in naps.values()} == {5}
order = []  # who went when: each is first in every other turn, so a linear drift cancels
stopwatch({"A": lambda: order.append("A"), "B": lambda: order.append("B")}, 4, warm_up=0)
assert "".join(order) == "BAABBAAB"
assert sum(i for i, who in enumerate(order) if who == "A") == 14 == sum(range(8)) / 2

# %% [markdown]
# ## 14.2 Where the time goes
#
# **Question.** What is a step busy with? Guessing is popular and mostly wrong. `torch.profiler`
# notes every operation that PyTorch starts, forward and backward.
#
# **Predict:** name the three operations with the most time. How many operations does one step
# start: twenty, two hundred, two thousand?

# %%
import os

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler's own library talks in between
activities = [ProfilerActivity.CPU]
if DEVICE.type == "cuda":
    activities.append(ProfilerActivity.CUDA)

# %%
def profiled(step, times=3):
    with profile(activities=activities) as found:
        for _ in range(times):
            step()
        wait()
    # On a GPU each kernel has a row of its own besides; its time is in its operation's row too.
    operations = [row for row in found.key_averages() if row.device_type == DeviceType.CPU]
    return operations, times

# %%
def self_ms(row, times):
    """Time in the operation itself, without those that it calls [ms per step]."""
    where = "self_device_time_total" if DEVICE.type == "cuda" else "self_cpu_time_total"
    return getattr(row, where) / 1e3 / times

# %%
averages, times = profiled(one_step)
rows = sorted(averages, key=lambda row: -self_ms(row, times))
total = sum(self_ms(row, times) for row in rows)
starts = sum(row.count for row in averages if row.key.startswith("aten::")) / times
print(f"{starts:,.0f} operations started per step; {total:.1f} ms in all of them")

# %%
fig, ax = plt.subplots(figsize=(6.2, 2.9))
top = rows[:10]
ax.barh([row.key.removeprefix("aten::")[:38] for row in top], [self_ms(r, times) for r in top],
        color=plot.REAL)  # fmt: skip
ax.invert_yaxis()
ax.set_xlabel("own time per step [ms]")
plot.show(fig, alt="Bars: the ten operations with the most time of their own in one plain step.")

# %% [markdown]
# A few kinds of operation fill the step: convolutions, their backward passes, BatchNorm. They are
# the ones to make cheaper, or to *leave out*. Optimizing the rest can't gain more than the rest.
#
# The number above the picture counts PyTorch's calls: also those that only rename a shape, those
# that one call makes inside another, and the loader's, for each picture anew. Each costs time even
# if it computes nothing (14.6).
#
# What the picture does not show: *which layer* an operation belongs to, whether a convolution is
# slow because it computes or because it waits for memory, and whether it was needed at all. A
# profile says where the time is, not where it is wasted.

# %%
# checkpoint: the profiler counted what we can count by hand
calls = {row.key: row.count / times for row in averages}
convolutions = {"G": 0, "D": 0}
for name, net in zip("GD", new_pair(), strict=True):
    convolutions[name] = sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in net.body)
assert calls["aten::convolution"] == 2 * convolutions["G"] + 3 * convolutions["D"]  # G 2×, D 3×
assert calls["aten::convolution_backward"] == convolutions["G"] + 3 * convolutions["D"]

# %% [markdown]
# ## 14.3 Memory traffic and arithmetic: the roofline
#
# **Question.** How fast *could* a step be? A layer has to do arithmetic, $F$ floating-point
# operations (FLOPs; a multiply-add counts as two), and to move $M$ bytes between memory and
# processor. A machine computes at most $\pi$ FLOP/s and moves at most $\beta$ bytes/s. If both
# overlap perfectly,
#
# $$t \;\ge\; \max\left(\frac{F}{\pi}, \frac{M}{\beta}\right), \qquad
# \text{so}\quad \frac{F}{t} \le \min(\pi, \beta I), \quad I = \frac{F}{M}.$$
#
# $I$ is the **arithmetic intensity** [FLOP/byte]. Plotted against it, the bound is a slanted line
# and a flat one: a *roofline* (Williams et al. 2009). They meet at the **ridge point**
# $I = \pi/\beta$.

# %% [markdown]
# The FLOPs of one forward pass of a layer with input x and output y: a convolution with $k \times
# k$ kernels from $c$ to $c'$ channels does $k^2 c$ multiply-adds per number of y. A transposed one
# paints: $k^2 c'$ per number of *x*. A linear layer does one per input and output unit. For the
# rest we count a few per number.

# %%
def flops(layer, x, y):
    """Of one forward pass; (B, …) → int."""
    if isinstance(layer, nn.Conv2d):
        return 2 * layer.kernel_size[0] ** 2 * layer.in_channels * y.numel()
    if isinstance(layer, nn.ConvTranspose2d):
        return 2 * layer.kernel_size[0] ** 2 * layer.out_channels * x.numel()
    if isinstance(layer, nn.Linear):
        return 2 * layer.in_features * y.numel()
    if isinstance(layer, nn.Flatten | nn.Unflatten):
        return 0
    return (4 if isinstance(layer, nn.BatchNorm2d) else 1) * y.numel()

# %% [markdown]
# In training there are up to three products per layer: the output, the gradient of the input, the
# gradient of the weights. Each has the same FLOPs, and each touches the same three tensors x, w, y
# (two are read, one written), every number at least once:
#
# | | forward | backward |
# |---|---|---|
# | convolution, linear | $n_x + n_w + n_y$ | as much per product |
# | BatchNorm | $3n$ (read twice, write) | $5n$ |
# | activation | $2n$ | $3n$ |
# | Adam | | $7n_w$ (p, m, v read and written, gradient read) |
#
# In numbers moved; each has 4 bytes in float32. We count only passes that are *needed*: G once, and
# no gradient of D's weights in G's turn. The plain step does more.

# %%
def passes(net, first):
    """How often one step needs the forward pass, the input's and the weights' gradient."""
    if net == "G":
        return 1, 0 if first else 1, 1  # z needs no gradient
    return 3, 1 if first else 3, 2  # D: real, fake, and G's turn, where D's weights are frozen

# %%
def moved(layer, x, y, forward, inputs, weights, backward):
    """Numbers that must travel between memory and processor in one step."""
    if isinstance(layer, nn.Flatten | nn.Unflatten):
        return 0  # only the shape is renamed
    if isinstance(layer, nn.BatchNorm2d):
        return (3 * forward + 5 * backward) * y.numel()
    if w := sum(p.numel() for p in layer.parameters()):
        return (forward + inputs + weights) * (x.numel() + w + y.numel())
    return (2 * forward + 3 * backward) * y.numel()

# %%
def account(size, channels, width, batch):
    """One dict per layer: FLOPs and numbers moved in one step. Nothing is computed (meta)."""
    rows = []
    with torch.device("meta"), torch.no_grad():  # tensors with a shape and no content
        G = nets.DCGANGenerator(size, channels, Z_DIM, width)
        D = nets.DCGANDiscriminator(size, channels, width)
        for name, net, x in (
            ("G", G, torch.empty(batch, Z_DIM)),
            ("D", D, torch.empty(batch, channels, size, size)),
        ):
            for i, layer in enumerate(net.body):
                y = layer(x)
                forward, inputs, weights = passes(name, first=i == 0)
                products = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
                backward = {"G": 1, "D": 3}[name]
                times = forward + inputs + weights if products else forward + backward
                rows.append({
                    "net": name, "layer": type(layer).__name__, "products": products,
                    "flops": flops(layer, x, y) * times, "forward": flops(layer, x, y),
                    "moved": moved(layer, x, y, forward, inputs, weights, backward),
                })  # fmt: skip
                x = y
            weights = sum(p.numel() for p in net.parameters())
            rows.append({"net": name, "layer": "Adam", "products": False, "flops": 12 * weights,
                         "forward": 0, "moved": 7 * weights})  # fmt: skip
    return rows

# %%
step_rows = account(SIZE, CHANNELS, WIDTH, BATCH)
F_STEP = sum(row["flops"] for row in step_rows)
M_STEP = 4 * sum(row["moved"] for row in step_rows)
print(f"one step: {F_STEP / 1e9:.2f} GFLOP, {M_STEP / 1e6:.0f} MB, "
      f"intensity {F_STEP / M_STEP:.1f} FLOP/byte")  # fmt: skip

# %% [markdown]
# Now the machine. Its two rates we *measure*, since nobody reaches the numbers in a brochure: a
# product of two large matrices for $\pi$, a copy of a tensor that fits in no cache for $\beta$. A
# roof is what the machine *can* do, so here the fastest turn counts.
#
# **Predict:** how many FLOPs must be done per byte moved before arithmetic is what takes the time?

# %%
SIDE = runtime.budget(smoke=256, cpu=1024, gpu=8192)
LARGE = runtime.budget(smoke=1 << 20, cpu=1 << 25, gpu=1 << 28)  # numbers


def matmul_rate(dtype):
    a, b = (torch.randn(SIDE, SIDE, device=DEVICE).to(dtype) for _ in range(2))
    taken = stopwatch({"product": lambda: a @ b})["product"]
    return 2 * SIDE**3 / min(taken)  # FLOP/s

# %%
def copy_rate():
    a = torch.randn(LARGE, device=DEVICE)
    b = torch.empty_like(a)
    taken = stopwatch({"copy": lambda: b.copy_(a)})["copy"]
    return 2 * 4 * LARGE / min(taken)  # bytes/s: read and written

# %%
PI, BETA = matmul_rate(torch.float32), copy_rate()
print(f"arithmetic {PI / 1e9:,.0f} GFLOP/s (float32), memory {BETA / 1e9:,.1f} GB/s, "
      f"ridge at {PI / BETA:.1f} FLOP/byte")  # fmt: skip

# %% [markdown]
# Each layer becomes a dot: to the right its intensity in a forward pass, up the rate that we
# measure for it alone.

# %%
def layer_dots(net, x):
    """(intensity, measured FLOP/s, has weights) of each layer's forward pass."""
    dots = []
    with torch.no_grad():
        for i, layer in enumerate(net.body):
            y = layer(x)
            work = flops(layer, x, y)
            size = 4 * moved(layer, x, y, 1, 0, 0, 0)
            if work:
                taken = min(stopwatch({i: lambda f=layer, x=x: f(x)}, rounds=5)[i])
                dots.append((work / size, work / taken, isinstance(layer, nn.Conv2d | nn.Linear |
                             nn.ConvTranspose2d)))  # fmt: skip
            x = y
    return dots

# %%
G, D = new_pair()
dots = {
    "G": layer_dots(G, torch.randn(BATCH, Z_DIM, device=DEVICE)),
    "D": layer_dots(D, images.batch(0, BATCH)),
}

# %%
def roof(ax, pi, beta, colour="0.2", label=None):
    intensity = torch.logspace(-1.5, 3.5, 60)
    ax.loglog(intensity, (beta * intensity).clamp(max=pi) / 1e9, color=colour, label=label)

# %%
fig, ax = plt.subplots(figsize=(6, 3.6))
roof(ax, PI, BETA, label="roof: memory, then arithmetic")
for name, colour in (("G", plot.FAKE), ("D", plot.THIRD)):
    for filled in (True, False):
        xs = [(i, r / 1e9) for i, r, products in dots[name] if products == filled]
        ax.plot(*zip(*xs, strict=True), "o", color=colour, mfc=colour if filled else "white",
                label=f"{name}: {'weights' if filled else 'BatchNorm, activation'}")  # fmt: skip
ax.axvline(PI / BETA, color="0.8", linewidth=1, zorder=0)
ax.set(xlabel="arithmetic intensity [FLOP/byte]", ylabel="rate [GFLOP/s]")
ax.legend(fontsize=8)
plot.show(fig, alt="Roofline: a rising line that turns flat at the ridge. Layers with weights are "
          "dots mostly on the right; BatchNorm and activations hollow dots far left.")  # fmt: skip

# %% [markdown]
# Two worlds. BatchNorm and activations do a few operations per number: they can only be as fast as
# memory. Most layers with weights reuse each number often and could reach the flat roof; those with
# a single input or output channel lie further left. How far below the roof a dot lies is what its
# kernel wastes (or, on a GPU, its launch).

# %% [markdown]
# A dot may lie *above* the roof: a cache may stand in for memory, many GPUs convolve float32 in a
# faster format (TF32), and on a processor convolutions and matrix products may come from two
# libraries. The roof is what *we* saw at best. No dot says what two layers could save together
# (14.6).
#
# The **floor of the step** is the sum over all layers of the larger of their two times.

# %%
def floor(rows, pi, beta, number_bytes=4):
    return sum(max(r["flops"] / pi, number_bytes * r["moved"] / beta) for r in rows)

# %%
FLOOR = floor(step_rows, PI, BETA)
together = max(F_STEP / PI, M_STEP / BETA)  # if one layer's traffic hid behind another's sums
now = BATCH / ladder[0]["rate"]
print(f"floor {1e3 * FLOOR:.1f} ms; the plain step takes {1e3 * now:.1f} ms, "
      f"{now / FLOOR:.1f} times as long")  # fmt: skip
print(f"with all layers overlapped it would be {1e3 * together:.1f} ms")
for net in "GD":
    share = floor([r for r in step_rows if r["net"] == net], PI, BETA) / FLOOR
    print(f"  {net} is {share:.0%} of the floor")

# %% [markdown]
# That ratio is what there is to win, on this machine, in this precision. It mixes two things: work
# that isn't needed, and work done slower than the machine could.
#
# Try it on other machines. The rates named H200 and T4 are the vendor's (NVIDIA's data sheets:
# dense tensor-core rate for 16 bits, ordinary float32 rate, memory bandwidth), never measured by
# us, and never reached in full.

# %%
EMULATED = fast.slow_here(LOW, DEVICE)  # a sentence, if this processor has no such circuits
MACHINES = {  # FLOP/s in float32 and in 16 bits, bytes/s
    "T4": (8.1e12, 65e12, 320e9),
    "H200": (67e12, 989e12, 4.8e12),
    "here": (PI, PI if EMULATED else matmul_rate(LOW), BETA),
}

# %%
def explore_roofline(machine, precision, size, log2_batch, log2_width):
    pi32, pi16, beta = MACHINES[machine]
    pi, number_bytes = (pi32, 4) if precision == "float32" else (pi16, 2)
    rows = account(size, 3, 2**log2_width, 2**log2_batch)
    fig, ax = plt.subplots(figsize=(5.4, 3.0), layout="none")
    fig.subplots_adjust(left=0.13, right=0.97, bottom=0.17, top=0.9)
    right = 0.0
    for r in rows:
        if r["flops"]:
            intensity = r["flops"] / r["moved"] / number_bytes
            colour = plot.FAKE if r["net"] == "G" else plot.THIRD
            height = min(pi, beta * intensity) / 1e9
            ax.plot(intensity, height, "o", color=colour, ms=8 if r["products"] else 4)
            if intensity > pi / beta:
                right += r["flops"] / pi
    roof(ax, pi, beta)
    bound = floor(rows, pi, beta, number_bytes)
    ax.set(xlabel="intensity of a whole step [FLOP/byte]", ylabel="at best [GFLOP/s]")
    ax.set_title(f"{machine}: floor {1e3 * bound:.3g} ms, {right / bound:.0%} of it arithmetic",
                 fontsize=9)  # fmt: skip
    return fig

# %%
widgets.explore(
    explore_roofline,
    "Roofline of a DCGAN step on a machine of your choice, a dot per layer, large ones with "
    "weights; the title says the floor and how much of it is arithmetic.",
    machine=["H200", "T4", "here"], precision=["16 bits", "float32"], size=[64, 32, 28, 16],
    log2_batch=(3, 10, 7), log2_width=(3, 8, 6),
)  # fmt: skip

# %% [markdown]
# Large batches and widths push most big dots to the right, over the ridge. The small dots never
# move: an activation has the same intensity at every size. The faster the arithmetic beside the
# memory, the further right the ridge: go from float32 to 16 bits on a GPU, and see in the title how
# *memory* takes a larger share of the floor.
#
# (With 16 bits we count two bytes for every number, also where mixed precision keeps four: it is
# still a floor.) What it does not show: the time to *start* an operation. At batch 8 the floor of a
# fast GPU is a fraction of a millisecond, and the launches alone take longer (14.6).

# %%
# checkpoint: our formulas and PyTorch's own counter, over one whole step
from torch.utils.flop_counter import FlopCounterMode


def step_for_counting():
    x_fake = G(torch.randn(BATCH, Z_DIM, device=DEVICE))
    losses.discriminator_loss(D(images.batch(0, BATCH)), D(x_fake.detach())).backward()
    D.requires_grad_(False)
    losses.generator_loss(D(x_fake)).backward()
    D.requires_grad_(True)


with FlopCounterMode(display=False) as counter:  # it counts products only
    step_for_counting()
assert counter.get_total_flops() == sum(r["flops"] for r in step_rows if r["products"])
assert 0 < FLOOR < sum(r["flops"] / PI + 4 * r["moved"] / BETA for r in step_rows)
began = time.perf_counter()
plt.close(explore_roofline("H200", "16 bits", 64, 7, 6))
print(f"the explorer draws in {1e3 * (time.perf_counter() - began):.0f} ms")

# %% [markdown]
# ## 14.4 Free lunches
#
# **Question.** What can be left out without changing a single number? Four candidates:
#
# 1. G runs twice on the same noise: once is enough;
# 2. in G's turn autograd computes gradients of D's weights, and `zero_grad` throws them away;
# 3. `.item()` makes the program wait for the device at every step;
# 4. pictures are converted one at a time, every time they are seen.
#
# **Predict:** how much does each give? Sort them before you run the cells.
#
# Here is the step with a switch for each of the first three, and one more for section 14.5.

# %%
def step(x_real, G, D, g_opt, d_opt, once=False, freeze=False, item=True, dtype=torch.float32):
    z = torch.randn(len(x_real), Z_DIM, device=DEVICE)

    with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):  # for section 14.5
        with torch.set_grad_enabled(once):
            x_fake = G(z)
        real, fake = D(x_real).float(), D(x_fake.detach()).float()
    d_loss = losses.discriminator_loss(real, fake)
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()

    D.requires_grad_(not freeze)
    with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
        fooled = D(x_fake if once else G(z)).float()
    g_loss = losses.generator_loss(fooled)
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    D.requires_grad_(True)
    return (d_loss.item(), g_loss.item()) if item else (d_loss.detach(), g_loss.detach())

# %%
kept["step"] = step  # with all switches off it is `plain_step`; the checkpoint proves it

# %%
trial("one G pass", once=True)
trial("D frozen in G's turn", freeze=True)
trial("no .item()", item=False)

# %% [markdown]
# G has not changed between its two passes, so the second only repeated the first. (One thing is
# different: BatchNorm's running averages were updated twice per step. They are used in eval mode
# only.)
#
# On a CPU nothing runs ahead, so leaving out `.item()` can gain nothing. On a GPU each `.item()`
# stops the queue of waiting work: Python can't prepare the next step while this one is computed.
#
# Now the data. `images.batch` keeps all pictures as *bytes* on the device, takes a batch's rows
# with one indexing operation and converts them in one go.

# %%
def on_device():
    return (images.batch(number, BATCH) for number in itertools.count())


from_loader, from_device = loaded(), on_device()
alone = stopwatch({"loader": lambda: next(from_loader), "device": lambda: next(from_device)})
for name, taken in alone.items():
    print(f"a batch from the {name}: {1e3 * median(taken):6.2f} ms")
trial("bytes on the device", batches=on_device)

# %% [markdown]
# The loader's time is the same whatever the nets cost: the smaller the nets, the larger its share.
# On a GPU it is often *the* limit, since a CPU core prepares pictures for a device that is
# much faster; then one takes several `num_workers`, or this.
#
# Two more changes concern only how numbers are grouped. **Fused Adam** updates all weights in one
# operation instead of many. **channels_last** stores the channels of a pixel side by side (B, H, W,
# C in memory; the shape you see stays B, C, H, W), as many convolution kernels like it.

# %%
trial("fused Adam", fused=True)
trial("channels_last", layout=torch.channels_last)
show_ladder()

# %% [markdown]
# Compare with your predictions. Grey bars did not pay here, or not clearly. They may elsewhere: on
# a GPU, or at another width, the same list has another order. The *rule* is yours, the numbers are
# the machine's.
#
# What the ladder does not show is whether anything was broken on the way. "It can't change the
# result" is a sentence to distrust, so the checkpoint compares gradients and weights.

# %%
# checkpoint: G's gradients bitwise the same, whatever is switched on; Adam and layout: rounding
def first_gradients(step, **switches):
    G, D = new_pair()
    idle = [torch.optim.SGD(net.parameters(), lr=0.0) for net in (G, D)]
    runtime.seed_everything(SEED)
    step(images.batch(0, BATCH), G, D, *idle, **switches)
    return torch.cat([p.grad.flatten() for p in G.parameters()])


def weights_after(steps=1, **arguments):
    loop = make(step=step, **arguments)
    for _ in range(steps):
        loop()
    return torch.cat([p.detach().flatten() for p in loop.nets[0].parameters()])


reference = first_gradients(plain_step)
for switches in ({}, {"once": True}, {"freeze": True}, {"once": True, "freeze": True}):
    ours = first_gradients(step, **switches)
    if DEVICE.type == "cpu":  # some GPU kernels add in another order each time
        assert torch.equal(ours, reference)
    torch.testing.assert_close(ours, reference, rtol=1e-2, atol=1e-4)
torch.testing.assert_close(next(loaded()), next(on_device()), rtol=0, atol=1e-6)
moved_by = (weights_after() - weights_after(0)).norm()
most = 0.1 if DEVICE.type == "cpu" else 0.3  # a GPU may multiply float32 in TF32
for change in ({"fused": True}, {"layout": torch.channels_last}, {"batches": on_device}):
    # one step of Adam is nearly ±LR: where a gradient is almost 0, rounding decides the sign
    assert (weights_after(**change) - weights_after()).norm() < most * moved_by, change

# %% [markdown]
# ## 14.5 Precision
#
# **Question.** Numbers of 16 bits are half the traffic, and many machines multiply them much
# faster. What do we lose?
#
# A floating-point number has a sign, an exponent (which power of two) and a fraction (where between
# two powers). float32 spends 8 and 23 bits on them, **float16** 5 and 10, **bfloat16** 8 and 7. So
# bfloat16 reaches as far as float32 with a coarser ruler; float16 has the finer ruler and a short
# reach.
#
# **Predict:** what is $1 + 0.003$ in bfloat16? What is $10^{-8}$ in float16?

# %%
print("            next after 1   smallest > 0   largest      1 + 0.003     1e-8")
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    info = torch.finfo(dtype)
    near, tiny = torch.tensor(1.003, dtype=dtype), torch.tensor(1e-8, dtype=dtype)
    print(f"{str(dtype).removeprefix('torch.'):10}  1 + {info.eps:8.2g}   "
          f"{info.smallest_normal * info.eps:8.2g}   {info.max:12.3g}   {near.item():10.6f}   "
          f"{tiny.item():.2g}")  # fmt: skip

# %% [markdown]
# Two dangers, then: a small number *added* to a large one is lost in bfloat16 (and somewhat less in
# float16); a small number *by itself* becomes zero in float16.
#
# **Mixed precision** (Micikevicius et al. 2018) therefore keeps in float32 what adds up many small
# things: the weights, Adam's averages, sums. Convolutions and matrix products get 16 bits, and what
# follows them (activations, BatchNorm) takes and returns numbers as short as it is given.
# `torch.autocast` does that, operation by operation, with a list. In our step it surrounds the
# forward passes; the losses are computed outside, on `.float()` logits.
#
# **Predict:** is it faster here? Does this processor have multipliers for 16 bits?

# %%
layer = nn.Conv2d(32, 32, 3, padding=1).to(DEVICE)
x = torch.randn(16, 32, 14, 14, device=DEVICE)


def one_layer(dtype):
    with torch.no_grad(), torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
        layer(x)


# One small layer first: where 16 bits are emulated, a whole step would take very long.
taken = stopwatch({d: lambda d=d: one_layer(d) for d in (torch.float32, LOW)}, rounds=5)
ratio = median(taken[LOW]) / median(taken[torch.float32])
print(f"one layer: {LOW_NAME} takes {ratio:.2f} times as long as float32.", EMULATED)

# %%
pi16 = MACHINES["here"][1]
if not EMULATED:
    print(f"products: float32 {PI / 1e9:,.0f} GFLOP/s, {LOW_NAME} {pi16 / 1e9:,.0f} GFLOP/s")
    trial(LOW_NAME, dtype=LOW)
show_ladder()

# %% [markdown]
# If the products got faster by a larger factor than the step, that is the roofline again: what
# waits for memory gains at most a factor two from half the bytes, and Adam and the conversions gain
# nothing. On a processor without such multipliers bfloat16 is *emulated*: correct, several times
# slower, and not even tried here on a whole step. (On a GPU older than 2020, such as a T4, this
# section runs in float16 instead: the 16 bits that it can multiply.)
#
# **Does it learn the same?** Not bitwise: each number is rounded to two or three digits. We train
# twice from the same weights, with the same pictures and noise.

# %%
def loss_curves(steps=STEPS, stop=None, **arguments):
    loop, history = make(**arguments), {"step": [], "d_loss": [], "g_loss": []}
    for number in range(stop or steps):
        rate = train.learning_rate(number, steps, LR)  # chapter 05's: half constant, then falling
        train.set_learning_rate(rate, *loop.optimizers)
        for name, value in zip(history, (number + 1, *loop()), strict=True):
            history[name].append(value)
    return {name: [float(v) for v in values] for name, values in history.items()}, loop.nets

# %%
lean = {"step": step, "batches": on_device, "once": True, "freeze": True, "item": False,
        "fused": True}  # fmt: skip
full, (G, D) = loss_curves(**lean)
half, _ = loss_curves(**lean, dtype=LOW, stop=min(12, STEPS) if EMULATED else None)

# %%
def two_curves(first, second, names, alt):
    fig, axes = plt.subplots(1, 2, figsize=(6.6, 2.5))
    for ax, key, colour in zip(axes, ("d_loss", "g_loss"), (plot.THIRD, plot.FAKE), strict=True):
        ax.plot(first["step"], first[key], color=colour, label=names[0])
        ax.plot(second["step"], second[key], color="0.2", linewidth=1, ls="--", label=names[1])
        ax.set(xlabel="step", ylabel=f"{key} [nats]")
        ax.legend(fontsize=8)
    plot.show(fig, alt=alt)

# %%
two_curves(full, half, ("float32", LOW_NAME),
           "Losses of D and of G against the step. The solid curve is float32's. The dashed one is "
           f"{LOW_NAME}'s, over {len(half['step'])} steps, and begins on it.")  # fmt: skip
print(f"first step: d_loss {full['d_loss'][0]:.4f} and {half['d_loss'][0]:.4f}")

# %% [markdown]
# At first they agree but for rounding. With every step small differences can grow, since the
# game amplifies them: each player answers the other. Two runs that differ in the last bit of
# float32 part in the same way, only later; a large learning rate brings it forward. What must agree
# is the *course*, not every wiggle. (Where 16 bits are emulated, only the first steps are taken:
# the dashed curve ends early.)
#
# What the curves don't show: the pictures. For a verdict one trains several seeds to the end and
# measures, as in [chapter 07](07_evaluation.ipynb).

# %% [markdown]
# **Why GANs are touchy.** When D is sure that a picture is generated, its loss for it is nearly
# zero, and so is the gradient that flows back (chapter 02). The mean over the batch divides it by
# $B$ again. We collect all gradients of one step, of weights and of activations, that are not 0,
# round them to float16, and ask which are *damaged*: changed by more than one percent. We take the
# D and G just trained, and a D that has run ahead: it was trained alone for a while.
#
# **Predict:** which share is damaged? And if we multiply the loss by $S = 2^{12}$ first? By
# $2^{32}$?

# %%
def all_gradients(net, loss):
    """Every gradient that flows through a net: of its activations and of its weights."""
    found = []

    def listen(module, arguments, output):
        if output.requires_grad:
            output.register_hook(lambda g: found.append(g.flatten()))

    handles = [layer.register_forward_hook(listen) for layer in net.body]
    net.zero_grad()
    loss().backward()
    for handle in handles:
        handle.remove()
    found += [p.grad.flatten() for p in net.parameters()]
    everything = torch.cat(found)
    return everything[everything != 0]

# %%
import copy

ahead = copy.deepcopy(D)
optimizer = torch.optim.Adam(ahead.parameters(), 5 * LR, BETAS)
for number in range(runtime.budget(smoke=4, cpu=40, gpu=100)):
    with torch.no_grad():
        x_fake = G(torch.randn(BATCH, Z_DIM, device=DEVICE))
    optimizer.zero_grad()
    losses.discriminator_loss(ahead(images.batch(number, BATCH)), ahead(x_fake)).backward()
    optimizer.step()

# %%
x_real, z = images.batch(STEPS, BATCH), torch.randn(BATCH, Z_DIM, device=DEVICE)
flowing = {
    "D": all_gradients(D, lambda: losses.discriminator_loss(D(x_real), D(G(z).detach()))),
    "G": all_gradients(G, lambda: losses.generator_loss(D(G(z)))),
    "D that is ahead": all_gradients(
        ahead, lambda: losses.discriminator_loss(ahead(x_real), ahead(G(z).detach()))
    ),
}

# %%
def damaged(g, scale):
    """Share of gradients that float16 changes by more than 1 %, or makes infinite."""
    back = (g * scale).half().float() / scale
    return ((back - g).abs() > 0.01 * g.abs()).float().mean().item()


scales = [2.0**k for k in range(0, 33, 2)]
shares = {name: [damaged(g, s) for s in scales] for name, g in flowing.items()}
for name, share in shares.items():
    zero = flowing[name].half().eq(0).float().mean().item()
    print(f"{name:16} unscaled: {share[0]:6.2%} damaged, {zero:.3%} zero; at best {min(share):.1e}")

# %%
fig, ax = plt.subplots(figsize=(5.6, 2.9))
for (name, share), colour in zip(
    shares.items(), (plot.THIRD, plot.FAKE, plot.FOURTH), strict=True
):
    ax.loglog(scales, [max(v, 1e-7) for v in share], "o-", color=colour, ms=4, label=name)
ax.set_xscale("log", base=2)
ax.set(xlabel="loss scale S", ylabel="share damaged", ylim=(5e-8, 2))
ax.legend(fontsize=8)
plot.show(
    fig,
    alt="Share of gradients that float16 damages against the loss scale: falling at first, as "
    "fewer are too small, then rising, as more overflow; the valley of a D that is ahead lies "
    "further right.",
)

# %% [markdown]
# (Shares below $10^{-7}$ are drawn there.) On the left gradients are too small, on the right
# infinite; in the valley between, any scale will do. That is **loss scaling**: multiply the loss by
# $S$, run backward in float16, divide the float32 gradients by $S$ before Adam sees them. If one is
# infinite, skip the step and halve $S$; after many good steps double it. The valley moves as D gets
# ahead, so $S$ must follow.
#
# bfloat16 needs none of this: it has float32's exponents. That is why it is our choice
# where a GPU has it (from compute capability 8.0 on), and float16 with scaling on older ones, such
# as a T4.

# %%
def scaled_step(loss, net, optimizer, scale):
    """Backward and update with loss scaling. Returns the scale for the next step."""
    optimizer.zero_grad()
    (loss * scale).backward()
    gradients = [p.grad for p in net.parameters()]
    if not all(g.isfinite().all() for g in gradients):
        return scale / 2  # too large: no update this time
    for g in gradients:
        g.div_(scale)
    optimizer.step()
    return scale  # torch's GradScaler doubles it after 2,000 good steps in a row

# %% [markdown]
# **BatchNorm in float32.** It needs a variance. One way is $E[x^2] - E[x]^2$: the difference of two
# numbers that are large and nearly equal if the channel's mean is large. With seven bits nothing is
# left. We give it channels of standard deviation 1 whose mean grows.
#
# **Predict:** at which mean does bfloat16 fail?

# %%
means = torch.logspace(0, 3, 25)
channels = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1)) + means  # (N, C)
rounded = channels.bfloat16()
small_sums = (rounded * rounded).mean(0) - rounded.mean(0) ** 2  # each result is rounded
large_sums = rounded.float().var(0)  # values in bfloat16, statistics in float32

# %%
fig, ax = plt.subplots(figsize=(5.6, 2.8))
ax.semilogx(means, small_sums.float(), "o-", ms=4, color=plot.FOURTH, label="sums in bfloat16")
ax.semilogx(means, large_sums, "s-", ms=4, color=plot.THIRD, label="sums in float32")
ax.axhline(1, color="0.6", linewidth=1)
ax.set(xlabel="mean of the channel", ylabel="variance", ylim=(-4, 6))
ax.legend(fontsize=8, loc="lower left")
plot.show(fig, alt="Variance against the channel's mean; the truth is one. In bfloat16 it jumps "
          "wildly, also below zero; with sums in float32 it stays at one for longer.")  # fmt: skip
upto = means <= 100
for name, v in (("bfloat16", small_sums[upto].float()), ("float32", large_sums[upto])):
    print(f"statistics in {name}, means up to 100: {v.min():.2f} to {v.max():.2f}")

# %% [markdown]
# A negative variance under a square root is *not a number*, and one NaN in a GAN reaches every
# weight of both nets within a step. PyTorch's BatchNorm keeps statistics, scale and shift in
# float32 even when its input has 16 bits. (At very large means the *input's* rounding distorts the
# variance as well, and no float32 sum repairs that.)

# %%
# checkpoint: powers of two are free; ours and torch's GradScaler; float16 gradients; BatchNorm
def d_gradients(net, dtype=torch.float32, scale=1.0):
    net.zero_grad()
    with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
        logits = net(x_real).float()
    (F.softplus(-logits).mean() * scale).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()]) / scale


exact = d_gradients(D)
if DEVICE.type == "cpu":
    assert torch.equal(d_gradients(D, scale=2.0**10), exact)  # only exponents change
for dtype, scale in ((torch.bfloat16, 1.0), (torch.float16, 2.0**14)):
    while not (few := d_gradients(D, dtype, scale)).isfinite().all():
        scale /= 2  # as `scaled_step` does
    alike = F.cosine_similarity(few, exact, dim=0)
    print(f"{dtype}: scale {scale:g}, cosine to float32's gradient {alike:.4f}")
    assert alike > 0.9
torch.testing.assert_close(F.batch_norm(rounded, None, None, training=True).float().var(0)[:9],
                           torch.ones(9), rtol=0.1, atol=0)  # fmt: skip

# %%
# checkpoint: our scaled step and torch's GradScaler, with an infinite gradient in the middle
pair = [new_pair()[1] for _ in range(2)]
opts = [torch.optim.SGD(net.parameters(), lr=0.1) for net in pair]
ours, theirs = 2.0**10, torch.amp.GradScaler(DEVICE.type, init_scale=2.0**10)
for shock in (1.0, float("inf"), 1.0):
    first, second = (F.softplus(-net(x_real)).mean() * shock for net in pair)
    ours = scaled_step(first, pair[0], opts[0], ours)
    opts[1].zero_grad()
    theirs.scale(second).backward()
    theirs.step(opts[1])
    theirs.update()
assert ours == theirs.get_scale() == 2.0**9
for a, b in zip(pair[0].parameters(), pair[1].parameters(), strict=True):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
assert abs(full["d_loss"][0] - half["d_loss"][0]) < 0.05
assert not fast.Scaler(DEVICE, torch.bfloat16).is_enabled()  # the package's: for float16 only

# %% [markdown]
# ## 14.6 Launches, compiling, CUDA graphs
#
# **Question.** What does an operation cost that computes next to nothing? Python has to find the
# right C++ function, check shapes and types, fetch memory, note the operation for the backward
# pass; on a GPU it then puts a *launch* in the device's queue. All that takes the same time for one
# number as for a million.
#
# **Predict:** up to how many numbers does `x + 1` cost the same?

# %%
sizes = [2**k for k in range(0, runtime.budget(smoke=15, cpu=25, gpu=29), 2)]
adding = {}
for n in sizes:
    x = torch.zeros(n, device=DEVICE)
    many = 200 if n < 2**16 else 3  # small ones are too short for the clock
    taken = stopwatch({n: lambda x=x, many=many: [x + 1 for _ in range(many)]}, rounds=5)[n]
    adding[n] = median(taken) / many

# %%
fig, ax = plt.subplots(figsize=(5.6, 2.8))
ax.loglog(sizes, [1e6 * t for t in adding.values()], "o-", color=plot.REAL, label="x + 1")
ax.loglog(sizes, [1e6 * 8 * n / BETA for n in sizes], color="0.6", label="floor by memory")
ax.set(xlabel="numbers in x", ylabel="time [µs]", ylim=(min(adding.values()) * 3e5, None))
ax.legend()
plot.show(fig, alt="Time of adding one against the size of the tensor: flat for small tensors, "
          "then rising along the line that memory allows.")  # fmt: skip
print(f"{1e6 * adding[1]:.1f} µs for a single number; the plain step starts {starts:,.0f} "
      f"operations: about {1e3 * starts * adding[1]:.1f} ms at that price")  # fmt: skip

# %% [markdown]
# The flat part is pure **launch overhead**. Where the line leaves it, the work begins to count.
# (Dots below the grey line: their tensors fit in a cache. The printed product is rough: many of
# these operations are the loader's, one that only renames a shape costs less, a convolution costs
# more to start, and on a GPU the starting of one overlaps with the work of another.)
#
# On a CPU the flat part is a small share of a step with pictures. On a fast GPU the work itself
# takes a few microseconds, *less than its launch*: a small net then runs at the speed of Python.
# Two remedies: fewer operations, or cheaper launches.

# %% [markdown]
# **Fewer operations: `torch.compile`.** It traces a function and writes new kernels in which
# neighbouring pointwise operations are *fused*: one kernel reads each number once, does all of them
# and writes once. The roofline says what that can give. Seven separate operations move the data
# seven times back and forth.
#
# **Predict:** how much faster does this chain become? How long does compiling take?

# %%
def chain(x):
    return ((x * 1.5 + 0.5).clamp(-3, 3).square() * 0.25 - 1).abs()

# %%
import logging
import shutil
import warnings

if DEVICE.type == "cuda":
    can_compile, why = True, ""
else:
    can_compile = shutil.which("g++") is not None and runtime.profile() != "smoke"
    why = "smoke profile" if runtime.profile() == "smoke" else "there is no C++ compiler here"
print("compiling" if can_compile else f"not compiled, nothing measured: {why}")

# %%
long = torch.randn(runtime.budget(smoke=1 << 10, cpu=1 << 22, gpu=1 << 26), device=DEVICE)
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "no CUDA" is no news
if can_compile:
    fused_chain = torch.compile(chain)
    try:
        first = seconds_of(lambda: fused_chain(long))
        taken = stopwatch({"plain": lambda: chain(long), "compiled": lambda: fused_chain(long)})
        gain = median(taken["plain"]) / median(taken["compiled"])
        torch.testing.assert_close(fused_chain(long), chain(long))
        print(f"first call {first:.1f} s, later ×{gain:.2f} as fast; paid back after "
              f"{first / (median(taken['plain']) - median(taken['compiled'])):,.0f} calls")
    except Exception as error:  # compilers fail in many ways, and we can do without
        print(f"not compiled: {type(error).__name__}")

# %% [markdown]
# Most of the first call goes into loading the compiler and running it. Our nets have little to
# fuse: BatchNorm and activation between convolutions which stay as they are. Hence `compile=False`
# is the default of `train_gan`: try it when you train for hours, and let the stopwatch decide.
#
# **Cheaper launches: a CUDA graph.** Record the launches of one whole step once; then replay the
# record with a single call. Nothing is computed anew in Python, so everything in a step must stay
# where it is: the same memory, the same shapes, no `.item()`, no `if` on a value. What changes is
# copied *into* the recorded places.

# %%
def graphed(step, x_example, warm_up=3):
    """step(x) → dict of scalars, as a function that replays one CUDA graph."""
    x_static = x_example.clone()  # the graph will always read from this place
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries set themselves up; optimizers make their averages
        for _ in range(warm_up):
            step(x_static)
    torch.cuda.current_stream().wait_stream(side)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # recorded, not run
        result = step(x_static)

    def replay(x):
        x_static.copy_(x)
        graph.replay()
        return {name: value.clone() for name, value in result.items()}

    return replay

# %%
def graphable_loop():
    """The lean step without data: x → losses. Its Adam keeps step and rate on the device."""
    G, D = new_pair(torch.channels_last)
    adam = {"lr": torch.tensor(LR, device=DEVICE), "betas": BETAS, "fused": True}
    g_opt, d_opt = (
        torch.optim.Adam(net.parameters(), capturable=DEVICE.type == "cuda", **adam)
        for net in (G, D)
    )
    dtype = kept.get("dtype", torch.float32)

    def one(x):
        pair = step(x, G, D, g_opt, d_opt, once=True, freeze=True, item=False, dtype=dtype)
        return dict(zip(("d_loss", "g_loss"), pair, strict=True))

    return one

# %%
if DEVICE.type == "cuda":
    warnings.filterwarnings("ignore", message=".*capturable=True")  # said of steps not recorded
    x = images.batch(0, BATCH)
    eager, recorded = graphable_loop(), graphed(graphable_loop(), x)
    packaged = fast.Graphed(graphable_loop())
    taken = stopwatch({
        "eager": lambda: [eager(x) for _ in range(PER_TURN)],
        "one graph": lambda: [recorded(x) for _ in range(PER_TURN)],
        "fast.Graphed": lambda: [packaged(x) for _ in range(PER_TURN)],
    })  # fmt: skip
    for name, values in taken.items():
        print(f"{name:13}{BATCH * PER_TURN / median(values):10,.0f} pictures per second")
else:
    print("On this machine there is no GPU: nothing measured.")

# %% [markdown]
# `fast.Graphed` is the same with two differences: its warm-up calls are steps of the training like
# all others, and it copies every input, also the noise. `train_gan(graph=True)` uses it; it is not
# the default, because it has not been run on a GPU yet. Everything random inside a graph has to
# come from the device's own generator, which CUDA graphs know how to advance.

# %%
# checkpoint: an operation has a price even for nothing; the graphable step is the lean step
assert min(adding.values()) > 0
if runtime.profile() != "smoke":  # there even the largest tensor is small
    assert adding[sizes[-1]] > adding[1]
if DEVICE.type == "cpu":
    runtime.seed_everything(SEED)
    one = graphable_loop()
    runtime.seed_everything(SEED)
    mine = one(images.batch(0, BATCH))
    theirs = half if kept.get("dtype") else full
    torch.testing.assert_close(mine["d_loss"].item(), theirs["d_loss"][0], rtol=1e-2, atol=0)

# %% [markdown]
# ## 14.7 Several processes
#
# **Question.** Two devices, half the batch each. When is that the *same* step as one device with
# the whole batch?
#
# Let the loss be a mean over pictures, $L = \frac1B\sum_i \ell(x_i)$. Cut the batch into $N$ equal
# slices; **rank** $r$ (process number $r$) has the mean $L_r$ over its own. Then
#
# $$L = \frac1N \sum_r L_r \quad\Rightarrow\quad \nabla L = \frac1N \sum_r \nabla L_r,$$
#
# if $\ell(x_i)$ depends on picture $i$ alone. So: all ranks have the same weights, each computes
# the gradient of its slice, the gradients are averaged (**all-reduce**), and all take the same
# step.
#
# **Predict:** BatchNorm normalises with the mean over the *slice*. Is $\ell(x_i)$ then a function
# of picture $i$ alone?

# %%
def gradient(net, loss):
    net.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])

# %%
def sliced_gradient(net, x, ranks_):
    """Mean of the slices' gradients, one slice after the other, in one process."""
    parts = [gradient(net, F.softplus(-net(s)).mean()) for s in x.chunk(ranks_)]
    return torch.stack(parts).mean(0)

# %% [markdown]
# If not, there is a way out: the ranks exchange BatchNorm's statistics as well. Each sends its
# slice's mean, all take the average; then the same for the mean squared distance from it. Here it
# is in one process, all slices going through the net side by side.

# %%
def global_norm(layer, slices):
    """BatchNorm of several slices with the statistics of all together."""
    mean = torch.stack([s.mean((0, 2, 3)) for s in slices]).mean(0)[:, None, None]
    variance = torch.stack([(s - mean).square().mean((0, 2, 3)) for s in slices]).mean(0)
    scale = (layer.weight * (variance + layer.eps).rsqrt())[:, None, None]
    return [(s - mean) * scale + layer.bias[:, None, None] for s in slices]

# %%
def synchronised_gradient(net, x, ranks_):
    slices = x.chunk(ranks_)
    for layer in net.body:
        together = isinstance(layer, nn.BatchNorm2d)
        slices = global_norm(layer, slices) if together else [layer(s) for s in slices]
    each = [F.softplus(-logits.squeeze(1)).mean() for logits in slices]
    return gradient(net, torch.stack(each).mean())

# %%
x = images.batch(0, BATCH)
with_norm = new_pair()[1]
without = new_pair()[1]
for i, layer in enumerate(without.body):
    if isinstance(layer, nn.BatchNorm2d):
        without.body[i] = nn.Identity()
errors = {"no BatchNorm": [], "BatchNorm of its slice": [], "BatchNorm synchronised": []}
counts = [2, 4, 8, 16]
for n in counts:
    for name, net, way in zip(errors, (without, with_norm, with_norm),
                              (sliced_gradient, sliced_gradient, synchronised_gradient),
                              strict=True):  # fmt: skip
        whole = gradient(net, F.softplus(-net(x)).mean())
        errors[name].append(((way(net, x, n) - whole).norm() / whole.norm()).item())

# %%
fig, ax = plt.subplots(figsize=(5.6, 2.7))
for (name, values), style in zip(errors.items(), ("o-", "s-", "^--"), strict=True):
    ax.loglog(counts, values, style, label=name)
ax.set(xlabel="slices", ylabel="relative error of the gradient", xticks=counts, xticklabels=counts)
ax.minorticks_off()
ax.legend(fontsize=8, loc="center right")
plot.show(fig, alt="Error of the averaged gradient against the number of slices: at rounding level "
          "without BatchNorm and with synchronised BatchNorm, large with BatchNorm per slice, and "
          "growing.")  # fmt: skip

# %% [markdown]
# Without BatchNorm the two gradients differ by rounding. With BatchNorm per slice they are
# *different gradients*, the more so the smaller the slices. Synchronised, equal again.
#
# Which is right? Neither: per-slice statistics are noisier, and cheaper, since nothing is exchanged
# in the middle of the forward pass. Goyal et al. (2017) keep them. The course synchronises by
# default (`sync_batch_norm=True`), so that a run is the same on one device and on eight.
#
# Now **two real processes**. The gradients' average by hand is one call per tensor:

# %%
SCRIPT = '''
import json, os, sys
import torch
import torch.distributed as dist
from gencourse import data, losses, nets, ranks, runtime, train

rank, world, folder = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), sys.argv[1]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
x, labels = torch.load(f"{folder}/digits.pt", weights_only=True)
images = data.Images(x, labels, list(map(str, range(10))), "digits")

def step_by_hand(G, D, x, z):              # D's half of a step is enough to see it
    losses.discriminator_loss(D(x), D(G(z).detach())).backward()
    for p in D.parameters():
        dist.all_reduce(p.grad)            # the sum over all ranks, in place
        p.grad /= world
    return torch.cat([p.grad.flatten() for p in D.parameters()])

def pair():
    runtime.seed_everything(0)
    return nets.DCGANGenerator(16, 1, 64, 8), nets.DCGANDiscriminator(16, 1, 8)

G, D = (ranks.synchronised(net) for net in pair())
z = torch.randn(32, 64)                    # every rank draws all, and takes its slice
gradient = step_by_hand(G, D, images.batch(0, 32).chunk(world)[rank], z.chunk(world)[rank])
_, history = train.train_gan(              # the package, on the same ranks
    images, *pair(), steps=int(sys.argv[2]), batch_size=32, lr=2e-4, progress=False)
if rank == 0:
    with open(f"{folder}/result.json", "w") as file:
        json.dump({"world": world, "gradient": gradient.tolist(), "history": history}, file)
dist.destroy_process_group()
'''

# %% [markdown]
# Two processes need to know who they are and where to meet. In a terminal a launcher tells them:
#
# ```
# accelerate launch --multi_gpu --num_processes 2 -m gencourse train dcgan --data digits
# ```
#
# (Without `--multi_gpu` accelerate may start a single one and not say so; the first line that the
# command prints says how many there are. To try it without GPUs, set `GENCOURSE_DEVICE=cpu`.)
#
# In a notebook with several GPUs it is `accelerate.notebook_launcher(function, num_processes=2)`,
# before anything has touched the GPUs. That one *forks* this very process, which is fragile once
# threads run in it. A launcher does little more than set two environment variables, so we start
# fresh processes ourselves.

# %%
import json
import subprocess
import sys

TOGETHER = runtime.budget(smoke=4, cpu=40, gpu=40)
digits = data.load("digits")

# %%
def start_together(world, steps=TOGETHER):
    folder = runtime.run_folder("14_ranks").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    torch.save((digits.x.cpu(), digits.labels.cpu()), folder / "digits.pt")
    command = [sys.executable, "script.py", str(folder), str(steps)]
    same = {"OMP_NUM_THREADS": "1", "GENCOURSE_DEVICE": "cpu", "WORLD_SIZE": str(world)}
    processes = [
        subprocess.Popen(command, cwd=folder, env=os.environ | same | {"RANK": str(rank)},
                         stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]  # fmt: skip
    try:
        for process in processes:
            _, complaint = process.communicate(timeout=300)
            assert process.returncode == 0, complaint[-2_000:]
    finally:
        for process in processes:  # where one fails, the other would wait for it
            process.kill()
    return json.loads((folder / "result.json").read_text())

# %%
one, two = start_together(1), start_together(2)  # both on the CPU, also where there is a GPU
histories = [found["history"]["d_loss"] for found in (one, two)]
gaps = [abs(a - b) for a, b in zip(*histories, strict=True)]
print(f"{two['world']} processes and one: d_loss differs by {gaps[0]:.1e} in the first step, "
      f"by at most {max(gaps):.1e} in {TOGETHER}")  # fmt: skip

# %% [markdown]
# The same course, up to sums taken in another order.
#
# **What does it cost?** Each rank must send and receive. In a **ring** every rank talks to its two
# neighbours only; after $N - 1$ rounds of adding and $N - 1$ of passing on, each has the sum. Per
# round $1/N$ of the gradient's $V$ bytes travels, so each rank sends
#
# $$\frac{2(N-1)}{N}\,V \;<\; 2V \text{ bytes},$$
#
# nearly the same for 8 ranks and for 800 (Patarasu and Yuan 2009; they prove that no scheme sends
# less). Divided by the link's bandwidth that is a time.

# %%
def ring_seconds(ranks_, bytes_, bandwidth):
    """At least; the time to start 2(N − 1) messages comes on top."""
    return 2 * (ranks_ - 1) / ranks_ * bytes_ / bandwidth

# %%
LINKS = {  # bytes/s, one way, as the vendors state them
    "NVLink, inside an H100/H200 machine": 450e9,  # 900 GB/s, both ways together
    "InfiniBand NDR, 400 Gb/s": 50e9,
    "Ethernet, 10 Gb/s": 1.25e9,
}
weights = sum(p.numel() for net in new_pair() for p in net.parameters())
print(f"{weights:,} weights, {4 * weights / 1e6:.1f} MB of gradients per step")

# %% [markdown]
# **Predict:** two ways to use more devices. *Weak scaling*: each keeps its batch, so the global
# batch grows. *Strong scaling*: the global batch stays, each gets a smaller slice. Which stops
# paying first?
#
# We draw it for a fast step: the floor of a 64×64 colour DCGAN, batch 128, on an H200 by the
# data sheet (nothing measured; real steps are slower, so their communication weighs less), and for
# our step here.

# %%
big = account(64, 3, 64, 128)
h200 = floor(big, MACHINES["H200"][1], MACHINES["H200"][2], number_bytes=2)
big_bytes = 4 * sum(r["moved"] // 7 for r in big if r["layer"] == "Adam")
here = BATCH / [bar for bar in ladder if bar["kept"]][-1]["rate"]
n = torch.tensor([1, 2, 4, 8, 16, 32, 64])

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.9), sharey=True)
for ax, title, compute, bytes_ in zip(
    axes, ("H200, weak", "H200, strong", "here, strong"),
    (h200 + 0 * n, h200 / n, here / n), (big_bytes, big_bytes, 4 * weights), strict=True,
):  # fmt: skip
    for name, bandwidth in LINKS.items():
        seconds = compute + ring_seconds(n, bytes_, bandwidth)
        alone = compute[0] * (n if "weak" in title else 1)
        ax.loglog(n, alone / seconds, "o-", ms=3, label=name)
    ax.loglog(n, n, color="0.7", linewidth=1, label="perfect")
    ax.set(title=title, xlabel="devices", xticks=[1, 4, 16, 64], xticklabels=[1, 4, 16, 64])
    ax.minorticks_off()
axes[0].set(ylabel="speed-up", yticks=[1, 4, 16, 64], yticklabels=[1, 4, 16, 64])
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
plot.show(fig, alt="Speed-up against the number of devices for three links. Weak scaling on fast "
          "links stays near the perfect line; strong scaling bends off; on 10 Gb Ethernet two fast "
          "devices are slower than one, and slow devices still gain.")  # fmt: skip
print(f"H200 step at its floor {1e3 * h200:.2f} ms; gradients {big_bytes / 1e6:.1f} MB")

# %% [markdown]
# The faster the device, the sooner the wire is the limit: compare the Ethernet lines. Strong
# scaling bends off first, for $2V$ stays while the arithmetic shrinks; and below some slice the
# launches of 14.6 don't shrink either. Sending while the backward pass still computes (as PyTorch's
# DDP does) hides a part.
#
# What the figure hides is the worst price of weak scaling: a batch 64 times larger is *another
# training*. Goyal et al. (2017) raise the learning rate with the batch and warm it up, and find a
# limit. We know no such rule for GANs: measure quality, not pictures per second.

# %%
# checkpoint: equal where theory says so; two real processes are one; the ring, simulated
# A GPU may multiply float32 in TF32, ten bits, and choose that by the slice's size.
rounding, margin = (1e-3, 10) if DEVICE.type == "cpu" else (2e-2, 3)
assert max(errors["no BatchNorm"] + errors["BatchNorm synchronised"]) < rounding
assert min(errors["BatchNorm of its slice"]) > margin * max(errors["BatchNorm synchronised"])
runtime.seed_everything(0)
small_G, small_D = nets.DCGANGenerator(16, 1, 64, 8), nets.DCGANDiscriminator(16, 1, 8)
z, x = torch.randn(32, 64), digits.batch(0, 32).cpu()
whole = gradient(small_D, losses.discriminator_loss(small_D(x), small_D(small_G(z).detach())))
torch.testing.assert_close(torch.tensor(two["gradient"]), whole, rtol=1e-3, atol=1e-6)
assert gaps[0] < 1e-5 and max(gaps[:4]) < 1e-2  # later the game magnifies rounding
assert (one["world"], two["world"]) == (1, 2)

# %%
# checkpoint: a ring of five, chunk by chunk, counts what is sent
N, V = 5, 20
held = torch.randn(N, N, V // N, dtype=torch.float64)  # rank, chunk, numbers
total, sent = held.sum(0), 0
for lap in range(2 * (N - 1)):
    chunk = [(r - lap) % N for r in range(N)]  # what rank r hands to rank r + 1
    message = [held[r, chunk[r]].clone() for r in range(N)]
    for r in range(N):
        to = (r + 1) % N
        adding_up = lap < N - 1  # first half: add; second half: pass the finished sums on
        held[to, chunk[r]] = message[r] + (held[to, chunk[r]] if adding_up else 0)
    sent += V // N
torch.testing.assert_close(held, total.expand(N, -1, -1))
assert sent == 2 * (N - 1) / N * V == ring_seconds(N, V, 1.0)

# %% [markdown]
# ## 14.8 Checkpoints and trackers
#
# **Question.** What does safety cost? A checkpoint holds both nets, Adam's two averages per weight,
# the averaged generator, the random generators' states.
#
# **Predict:** how many times the size of the weights is that? And if one is written every 500
# steps, which share of the time does it take?

# %%
from gencourse import checkpoint

# %%
pair = [net.to(memory_format=torch.channels_last) for net in new_pair()]
opts = [torch.optim.Adam(net.parameters(), fused=True) for net in pair]
for net, opt in zip(pair, opts, strict=True):
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    opt.step()  # now Adam has its averages
ema = train.EMA(pair[0])
state = {str(i): part.state_dict() for i, part in enumerate([*pair, *opts, ema])}

# %%
folder = runtime.run_folder("14_checkpoint")
folder.mkdir(parents=True, exist_ok=True)
numbers = itertools.count(1)
taken = stopwatch({"save": lambda: checkpoint.save(folder, next(numbers), state)}, rounds=5)["save"]
size = checkpoint.paths(folder)[-1].stat().st_size
print(f"{size / 1e6:.1f} MB, {size / (4 * weights):.1f} times the weights; "
      f"{1e3 * median(taken):.0f} ms to write")  # fmt: skip
share = median(taken) / (500 * here + median(taken))
print(f"every 500 steps: {share:.2%} of the time")

# %% [markdown]
# What does it cost? Little beside 500 slow steps, on a disk of one's own; the faster the step, the
# rarer one should write. What matters more is the moment of a power cut, or of a Colab machine
# taken away. Who overwrites the only checkpoint *in place* has, for that moment, neither the old
# nor the new one. `checkpoint.save` writes a temporary file in the same folder, waits until it is
# on the disk, and then renames it; a rename is all or nothing.
#
# We play a kill in the middle of writing, both ways.

# %%
def write_in_place(path, content, killed_after):
    path.write_bytes(content[:killed_after])


def write_aside(path, content, killed_after):
    aside = path.with_name("." + path.name + ".tmp")
    aside.write_bytes(content[:killed_after])
    if killed_after >= len(content):
        os.replace(aside, path)

# %%
good = checkpoint.paths(folder)[-1].read_bytes()
for write in (write_in_place, write_aside):
    path = folder / "trial.pt"
    path.write_bytes(good)  # the checkpoint of an hour ago
    write(path, good, killed_after=len(good) // 2)
    try:
        torch.load(path, weights_only=True)
        print(f"{write.__name__}: an hour lost at most, the old checkpoint is whole")
    except Exception as error:
        print(f"{write.__name__}: nothing can be read ({type(error).__name__})")

# %% [markdown]
# **Trackers** show a run while it runs, and several runs side by side. It is one more argument; the
# events lie in the run's folder, and `tensorboard --logdir runs` shows them in a browser. Weights &
# Biases works the same way with `tracker="wandb"`.

# %%
import importlib.util

WATCHED = runtime.budget(smoke=4, cpu=80, gpu=1_000)
tracker = "tensorboard" if importlib.util.find_spec("tensorboard") else None
watched = runtime.run_folder("14_watched")
_, history = train.train_gan(images, *new_pair(), steps=WATCHED, batch_size=BATCH, seed=SEED,
                             out=watched, tracker=tracker)  # fmt: skip

# %%
tracked = {}
if tracker:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for path in watched.rglob("events.out.tfevents*"):  # one file per attempt
        events = EventAccumulator(str(path)).Reload()
        for name in events.Tags()["scalars"]:
            tracked.setdefault(name, []).extend((e.step, e.value) for e in events.Scalars(name))
print(", ".join(sorted(tracked)) or "tensorboard is not installed: nothing tracked")

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.6, 2.4))
for ax, names in zip(axes, (("d_loss", "g_loss"), ("images_per_second",)), strict=True):
    for name, colour in zip(names, (plot.THIRD, plot.FAKE), strict=False):
        points = tracked.get(name, list(zip(history["step"], history[name], strict=True)))
        ax.plot(*zip(*points, strict=True), "o-", ms=3, color=colour, label=name)
    ax.set(xlabel="step", ylim=(0, None))
    ax.legend(fontsize=8)
axes[0].set_ylabel("loss [nats]")
axes[1].set_ylabel("pictures per second")
plot.show(fig, alt="Read back from the tracker's file: the two losses, and pictures per second, "
          "against the step.")  # fmt: skip

# %% [markdown]
# The tracker has fewer points than steps: it is fed when `Run` fetches the losses from the device,
# twice a second, not at every step. That is 14.4's third lunch: watching must not make the device
# wait. The whole history is in `history.csv`.

# %%
# checkpoint: what was saved is what comes back; the file tells what the history tells
number, back = checkpoint.load_latest(folder)
for name, tensor in pair[0].state_dict().items():
    assert torch.equal(back["0"][name], tensor.cpu())
assert size > 4 * sum(p.numel() for net in pair for p in net.parameters()) * 3
told = dict(zip(history["step"], history["d_loss"], strict=True))
for at, value in tracked.get("d_loss", []):
    assert abs(told[at] - value) < 1e-3 * max(1, abs(value))

# %% [markdown]
# ## 14.9 All together
#
# **Question.** Do the gains multiply to what the ladder says? And is it still the same training?
#
# The course's loop has all of this built in: 14.4's first four changes always, the others behind
# arguments, which we set as our ladder left them. It gets the same weights, pictures and noise, and
# races against the loop of the beginning. It does a little more: it averages G, notes gradient
# norms, writes a history.
#
# **Predict:** the ladder's last green bar, or less?

# %%
FINAL = runtime.budget(smoke=3, cpu=60, gpu=300)
curves = {"plain": None, "fast": None}


def race_plain():
    curves["plain"], _ = loss_curves(FINAL)

# %%
def race_fast():
    low = LOW_NAME if "dtype" in kept else "float32"
    _, curves["fast"] = train.train_gan(
        images, *new_pair(), steps=FINAL, batch_size=BATCH, lr=LR, betas=BETAS, seed=SEED,
        precision=low, fused=kept.get("fused"), channels_last="layout" in kept, progress=False,
    )  # fmt: skip

# %%
taken = stopwatch({"plain": race_plain, "fast": race_fast}, rounds=3, warm_up=0)
rates = {name: FINAL * BATCH / median(s) for name, s in taken.items()}
print(f"plain {rates['plain']:,.0f}, train_gan {rates['fast']:,.0f} pictures per second: "
      f"×{rates['fast'] / rates['plain']:.2f}")  # fmt: skip
best = [bar for bar in ladder if bar["kept"]][-1]["rate"] / ladder[0]["rate"]
print(f"gains of the ladder, multiplied: ×{best:.2f}")

# %%
ladder.append({"name": "train.train_gan", "rate": ladder[0]["rate"] * rates["fast"] /
               rates["plain"], "gain": rates["fast"] / rates["plain"], "kept": True})  # fmt: skip
show_ladder()
two_curves(curves["plain"], curves["fast"], ("as first written", "train_gan"),
           "Losses of D and of G against the step, of the loop as first written and of train_gan: "
           "the same at first, later the same course.")  # fmt: skip

# %%
kept_rows = account(SIZE, CHANNELS, WIDTH, BATCH)
number_bytes, pi = (2, pi16) if "dtype" in kept else (4, PI)
bound = floor(kept_rows, pi, BETA, number_bytes)
reached = BATCH / (ladder[0]["rate"] * rates["fast"] / rates["plain"])
print(f"floor {1e3 * bound:.1f} ms, step {1e3 * reached:.1f} ms: {reached / bound:.1f} times")

# %% [markdown]
# (The last bar's factor is against the plain loop, the others' against the bar before.)
#
# What is left between step and floor? Kernels that don't reach the matrix product's rate, above all
# for narrow layers; conversions between 16 and 32 bits; the operations' own price. More would take
# hand-written kernels, which is not this course's trade. On a GPU the next step is the graph of
# 14.6.
#
# What the curves say: the same training, as far as losses can tell. The proof in exact arithmetic
# is 14.4's; the rest is rounding.

# %%
# checkpoint: the fast loop learns what the plain loop learns, within the precision's noise
plain_first, fast_first = ([c[k][:3] for k in ("d_loss", "g_loss")] for c in curves.values())
tolerance = 0.1 if "dtype" in kept else 0.02
for a, b in zip(sum(plain_first, []), sum(fast_first, []), strict=True):
    assert abs(a - b) < tolerance * max(1, abs(a)), (a, b)
if runtime.profile() != "smoke":
    for key in ("d_loss", "g_loss"):  # the course, once the beginning is over
        a, b = (torch.tensor(c[key][FINAL // 2 :]).mean() for c in curves.values())
        assert abs(a - b) < 0.15 * a, (key, a, b)

# %% [markdown]
# ## Break it
#
# ### A speed-up that changes what is learned
#
# D runs twice: on real pictures, on generated ones. One pass over both together gives the kernels
# larger batches, and the same logits … does it?
#
# **Predict:** D has BatchNorm. What does it now know about a picture that it did not know before?

# %%
def mixed_step(x_real, G, D, g_opt, d_opt):
    x_fake = G(torch.randn(len(x_real), Z_DIM, device=DEVICE))

    real, fake = D(torch.cat([x_real, x_fake.detach()])).chunk(2)  # one pass for both
    d_loss = losses.discriminator_loss(real, fake)
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()

    D.requires_grad_(False)
    g_loss = losses.generator_loss(D(x_fake))
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    D.requires_grad_(True)
    return d_loss.detach(), g_loss.detach()

# %%
broken = {"step": mixed_step, "batches": on_device, "fused": True}
(_, gain, _), _, _ = compare(make(**lean), make(**broken))
mixed, (mixed_G, mixed_D) = loss_curves(**broken)
two_curves(full, mixed, ("two passes", "one pass"),
           "Losses of D and G against the step, for two passes of D and for one: they part from "
           "the first steps on.")  # fmt: skip
print(f"the one pass is ×{gain:.2f} as fast; first d_loss {mixed['d_loss'][0]:.4f} instead of "
      f"{full['d_loss'][0]:.4f}")  # fmt: skip

# %% [markdown]
# Already the first loss is another one, with the same weights and pictures: it is another
# *function*. To see which, we give the trained D of the two-pass loop the same pictures both ways.

# %%
with torch.no_grad():
    x_fake = G(torch.randn(BATCH, Z_DIM, device=DEVICE))
    apart = D(x_real).cpu(), D(x_fake).cpu()
    mixed_logits = [part.cpu() for part in D(torch.cat([x_real, x_fake])).chunk(2)]
fig, axes = plt.subplots(1, 2, figsize=(6.4, 2.4), sharex=True, sharey=True)
for ax, pair, title in zip(axes, (apart, mixed_logits), ("two passes", "one pass"), strict=True):
    for logits, colour, name in zip(pair, (plot.REAL, plot.FAKE), ("real", "generated"),
                                    strict=True):  # fmt: skip
        ax.hist(logits, bins=20, alpha=0.6, color=colour, label=name)
        ax.axvline(logits.mean(), color=colour, linewidth=1)
    ax.set(title=title, xlabel="logit of D")
axes[0].set_ylabel("pictures")
axes[0].legend(fontsize=8)
plot.show(fig, alt="Histograms of D's logits for real and generated pictures, normalised apart and "
          "normalised together: the same net and pictures give other logits.")  # fmt: skip

# %% [markdown]
# Apart, each kind is brought to mean 0 and variance 1 by *itself*: D can hardly use that a feature
# is stronger in one kind on the whole, since BatchNorm removes just that. Together, the difference
# between the kinds stays in the batch. D's task becomes easier, and its logits depend on the
# *company* of a picture. But in G's turn D sees generated pictures only, and normalises them by
# themselves: G learns from a D that is not the one which was trained.

# %% [markdown]
# Look at the curves again: where *both* losses fall to nearly zero, D is sure that the pictures are
# generated when they stand beside real ones, and sure of the opposite when they are alone. With two
# passes no D can have both. G then hears "all is well", and learns nothing.
#
# Such a change may sometimes work. It is not a *speed-up* of this training but another training,
# and quality has to be measured anew.

# %% [markdown]
# ### Two stopwatches that lie
#
# A GPU is a queue: the program puts work in, and goes on at once. So that it runs everywhere, a
# thread plays the device here; its first job takes longer, as on the real one.
#
# **Predict:** by what factor does a stopwatch err that doesn't wait?

# %%
from concurrent.futures import ThreadPoolExecutor

toy_device = ThreadPoolExecutor(max_workers=1)
queued = []
calls = itertools.count()

# %%
def device_step():
    seconds = 0.05 if next(calls) == 0 else 0.005
    queued.append(toy_device.submit(time.sleep, seconds))


def wait_for_device():
    while queued:
        queued.pop().result()

# %%
def claimed(steps, waits):
    """Milliseconds per step that a stopwatch claims."""
    began = time.perf_counter()
    for _ in range(steps):
        device_step()
    if waits:
        wait_for_device()
    claim = 1e3 * (time.perf_counter() - began) / steps
    wait_for_device()
    return claim

# %%
claims = {
    "first step only": claimed(1, waits=True),
    "does not wait": claimed(20, waits=False),
    "warmed up, waits": claimed(20, waits=True),
}

# %%
fig, ax = plt.subplots(figsize=(5.4, 1.7))
ax.barh(list(claims), list(claims.values()), color=[plot.FOURTH, plot.FOURTH, plot.THIRD])
ax.axvline(5, color="0.4", linewidth=1)
ax.set(xscale="log", xlabel="claimed time per step [ms]")
ax.invert_yaxis()
plot.show(
    fig,
    alt="Bars on a logarithmic axis: timing the first step claims far more than the true five "
    "milliseconds, not waiting claims far less, warming up and waiting is right.",
)
print({name: round(value, 3) for name, value in claims.items()})

# %% [markdown]
# The one lies upwards, the other downwards by orders of magnitude: it measured how fast Python can
# *order* work. The line marks the truth. Suspect every "speed-up" that appears when `.item()` is
# removed from a loop whose timer does not wait: perhaps only the waiting has moved out of sight.

# %%
# checkpoint: the honest stopwatch is right, the others are wrong in their own directions
assert claims["does not wait"] < 1 < 5 <= claims["warmed up, waits"]
assert claims["first step only"] >= 50
toy_device.shutdown()
both = torch.cat([x_real, x_fake])
right = gradient(D, losses.discriminator_loss(D(x_real), D(x_fake)))
wrong = gradient(D, losses.discriminator_loss(*D(both).chunk(2)))
assert (right - wrong).norm() > 1e-2 * right.norm()  # another function, not rounding

# %% [markdown]
# ## Exercises
#
# In [the exercises](../exercises/14_fast_training.ipynb) you write:
#
# 1. `mended_stopwatch`, a repair: somebody has measured products faster than physics allows;
# 2. `conv_floor`: a convolution's FLOPs, bytes and least time;
# 3. `float16_step`: one step in 16 bits, with a loss scale and weights in float32;
# 4. `rank_rows`: which pictures each process takes, step after step;
# 5. `global_batch_norm`: BatchNorm over ranks with unequal shares, gradients included.
#
# To try at once: set `WIDTH = 8` and run the chapter again. Which bars grow, which shrink, and why?

# %% [markdown]
# ## Recap
#
# - Wait for the device, leave out the warm-up, take turns, report medians with quartiles; race the
#   loop against itself to know the noise.
# - A layer takes at least the larger of FLOPs / rate and bytes / bandwidth. The sum over layers is
#   the floor: should one look for less work, less traffic or fewer launches?
# - Leave out what nobody uses (a second pass, gradients of frozen weights, waiting), and prove that
#   nothing changed.
# - In 16 bits, keep weights, sums and statistics in float32; float16 needs a loss scale, bfloat16
#   does not.
# - N ranks are one process if the loss is a mean over pictures. BatchNorm must share its statistics
#   for that; the wire decides how far it pays.

# %% [markdown]
# ## References
#
# - Williams, Waterman, Patterson 2009, *Roofline: an insightful visual performance model for
#   multicore architectures* (Communications of the ACM 52): the model. We put single layers into
#   it, count traffic as if nothing stayed in a cache, and add the layers' times.
# - Micikevicius et al. 2018, *Mixed precision training*,
#   [arXiv:1710.03740](https://arxiv.org/abs/1710.03740): float32 weights, loss scaling. We sweep
#   the scale for both players of a GAN; our step halves it and leaves doubling to torch.
# - Goyal et al. 2017, *Accurate, large minibatch SGD*,
#   [arXiv:1706.02677](https://arxiv.org/abs/1706.02677): what a larger batch asks of the learning
#   rate; BatchNorm per worker there. We synchronise, and keep the global batch fixed.

# %% [markdown]
# - Patarasu, Yuan 2009, *Bandwidth optimal all-reduce algorithms for clusters of workstations*
#   (Journal of Parallel and Distributed Computing 69): the ring and its bound. Latency left out.
# - PyTorch's documentation, *CUDA semantics* (asynchronous execution, CUDA graphs), *Automatic
#   mixed precision examples*, *Performance tuning guide*, *Distributed data parallel* (notes): the
#   rules for capture and scaling. We average gradients after the backward pass, DDP during it.
# - NVIDIA's data sheets of T4, H100 and H200: peak rates, memory and NVLink bandwidth. InfiniBand
#   NDR (400 Gb/s) and 10 Gb Ethernet are named by their standards' line rates. Used as upper
#   bounds, never measured by us.
