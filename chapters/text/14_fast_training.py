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
# graphs and several processes, and check what stays the same and what does not.
#
# **You need** [chapter 05](05_dcgan.ipynb) (the nets and the loop) and
# [chapter 03](03_convolutions.ipynb) (what a convolution computes).
#
# <!-- stamp -->
# *Run time: 4.9 min, peak memory 1.9 GB, `cpu` profile on `digits`, `fashion_mnist`
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
from gencourse import data, fast, losses, nets, plot, runtime, scaling, train, widgets

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
STEPS = runtime.budget(smoke=4, cpu=60, gpu=500)  # where two trainings are compared
LOW = fast.precision() if DEVICE.type == "cuda" else torch.bfloat16  # 16 bits: a T4 has float16
LOW_NAME = str(LOW).removeprefix("torch.")
Z_DIM, BETAS, SEED = 64, (0.5, 0.999), 0  # chapter 05's
LR = 2e-4  # smaller than in 05: at 1e-3 a pair this wide jumps, and jumps magnify rounding

# %% [markdown]
# ## The loop we start from
#
# This is the loop as one writes it first. One picture after the other is opened, turned into a
# tensor and normalised, as torchvision's data sets and a `DataLoader` do it.

# %%
from torchvision import transforms

images = data.load(DATA)
CHANNELS, SIZE, _ = images.shape
PIXELS = images.x.cpu()  # uint8 (N, C, H, W)
PREPARE = transforms.Compose(  # bytes → PIL → floats in [0, 1] → floats in [-1, 1]
    [transforms.ToPILImage(), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
)

# %%
def loaded():
    """Endless batches (B, C, H, W), one picture at a time, in the order of images.batch."""
    for step in itertools.count():
        rows = images.indices(step, BATCH).tolist()
        yield torch.stack([PREPARE(PIXELS[i]) for i in rows]).to(DEVICE)

# %% [markdown]
# The step makes the generated pictures twice, once for each player, from the same noise. Autograd
# computes whatever it likes. At the end the step asks for the two losses as numbers.

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


def new_pair(layout=torch.contiguous_format, seed=SEED):
    runtime.seed_everything(seed)
    G = nets.DCGANGenerator(SIZE, CHANNELS, Z_DIM, WIDTH)
    D = nets.DCGANDiscriminator(SIZE, CHANNELS, WIDTH)
    return [net.to(DEVICE, memory_format=layout) for net in (G, D)]


def make(step=plain_step, batches=loaded, fused=None, layout=torch.contiguous_format, seed=SEED,
         **switches):
    """A loop of parts that we will exchange one at a time: a function, one call is one step."""
    G, D = new_pair(layout, seed)
    g_opt = torch.optim.Adam(G.parameters(), LR, BETAS, fused=fused)
    d_opt = torch.optim.Adam(D.parameters(), LR, BETAS, fused=fused)
    source = batches()
    runtime.seed_everything(seed)  # every loop begins with the same noise

    def loop():
        return step(next(source), G, D, g_opt, d_opt, **switches)

    loop.nets, loop.optimizers = (G, D), (g_opt, d_opt)  # to look at them later
    return loop

# %% [markdown]
# ## Where this chapter is heading
#
# In grey the loop above; below it the course's own, `train.train_gan`. They play the same game on
# the same pictures. This is one short run of each: 14.1 says why you should not trust such a
# picture, and 14.10 measures again. (On Linux `train_gan` also tells the system to keep freed
# memory, for the whole process. So from here on the loop above has that gain, too.)

# %%
few = runtime.budget(smoke=2, cpu=16, gpu=200)
plain = make()
times = [time.perf_counter()]
for _ in range(few):
    plain()
times.append(time.perf_counter())
train.train_gan(images, *new_pair(), steps=few, batch_size=BATCH, progress=False)
times.append(time.perf_counter())

rates = [few * BATCH / (times[1] - times[0]), few * BATCH / (times[2] - times[1])]
fig, ax = plt.subplots(figsize=(5.4, 1.5))
ax.barh(["as first written", "train.train_gan"], rates, color=["0.7", plot.THIRD])
ax.invert_yaxis()
ax.set_xlabel("pictures per second")
plot.show(fig, alt="Two bars: pictures per second of the loop as first written, and of train_gan.")

# %% [markdown]
# ## 14.1 Measure honestly
#
# **Question.** How long does a step take? Start a clock, do a step, stop the clock.
#
# On a GPU the program hands work to a queue and goes on at once. So the clock must also *wait*
# until the queue is empty.
#
# **Predict:** we do this many times. Will the numbers agree within one percent? Which will be the
# worst?

# %%
def wait():
    """Until the device has done all it was given. A CPU is always done when it returns."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    elif DEVICE.type == "mps":
        torch.mps.synchronize()


def seconds_of(function):
    wait()
    began = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - began


one_step = make()
singles = [seconds_of(one_step) for _ in range(runtime.budget(smoke=8, cpu=30, gpu=40))]
fig, ax = plt.subplots(figsize=(6, 2.4))
ax.plot(range(1, len(singles) + 1), [1e3 * s for s in singles], "o", color=plot.REAL, ms=4)
ax.plot(1, 1e3 * singles[0], "o", color=plot.FOURTH, ms=7, label="the first step")
ax.axhline(1e3 * median(singles), color="0.6", linewidth=1, label="median")
ax.set(xlabel="step", ylabel="time [ms]", ylim=(0, 1.3e3 * max(singles)))
ax.legend(loc="upper right", ncols=2)
plot.show(fig, alt="Times of single steps in order, scattered around their median; the first is "
                   "marked.")
later = singles[1:]
print(f"first {1e3 * singles[0]:.1f} ms, then {1e3 * min(later):.1f} to {1e3 * max(later):.1f} ms")

# %% [markdown]
# The same work, and yet the numbers scatter. The **first** step also pays for what happens only
# once: memory is fetched, kernels (here: the device's programs, one per operation, not chapter
# 03's weights) are chosen or loaded, Adam makes its averages. On a GPU that can be seconds; on a
# CPU the scatter may hide it.
#
# All steps share the machine. Do your dots keep one level? A program that starts or ends changes
# all later steps: *drift*. If you measure A A A and then B B B, drift counts for or against B.
#
# So we (1) wait for the device, (2) leave out a warm-up, (3) take turns A B, B A, …, (4) report
# medians and quartiles.

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


def compare(before, after):
    """Ratios of times before / after, one of each turn."""
    seconds = stopwatch({"before": several(before), "after": several(after)})
    return [b / a for b, a in zip(seconds["before"], seconds["after"], strict=True)]

# %% [markdown]
# A first test of the stopwatch: a loop races against *itself*. An honest instrument must say "the
# same".
#
# **Predict:** how far from 1 can the ratio of a single turn be? And the median of all turns?

# %%
ratios = compare(make(), make())
low, middle, high = quantiles(ratios, n=4)
print(f"single turns: {min(ratios):.3f} to {max(ratios):.3f} times as fast as itself")
print(f"all turns: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}")

# %% [markdown]
# What the single turns claim is noise: an effect of this size we can't see here.
#
# Now the rule, before the results: a change is **kept** if at least three turns in four gained
# from it, that is, if the lower quartile of the ratios is above 1. (By luck, a change that does
# nothing passes now and then; more turns make that rarer.) `trial` measures a change on top of
# everything kept before, and adds a bar to a ladder. The length of a bar is the plain loop's rate
# times all gains kept so far. So drift between sections does not enter.

# %%
kept = {}  # arguments of `make`
seconds = [seconds_of(several(one_step)) / PER_TURN for _ in range(ROUNDS)]
ladder = [{"name": "as first written", "rate": BATCH / median(seconds), "gain": 1.0, "kept": True}]


def last_kept():
    return [bar for bar in ladder if bar["kept"]][-1]

# %%
def trial(name, **change):
    low, gain, high = quantiles(compare(make(**kept), make(**(kept | change))), n=4)
    keep = low > 1
    ladder.append({"name": name, "rate": last_kept()["rate"] * gain, "gain": gain, "kept": keep})
    if keep:
        kept.update(change)
    print(f"{name}: ×{gain:.3f} (quartiles {low:.3f} to {high:.3f})", "keep" if keep else "drop")

# %%
def show_ladder():
    fig, ax = plt.subplots(figsize=(6.4, 0.5 + 0.28 * len(ladder)))
    colours = [plot.THIRD if bar["kept"] else "0.8" for bar in ladder]
    ax.barh([bar["name"] for bar in ladder], [bar["rate"] for bar in ladder], color=colours)
    for i, bar in enumerate(ladder):
        ax.text(bar["rate"], i, f" ×{bar['gain']:.2f}", va="center", fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel="pictures per second", xlim=(0, 1.15 * max(bar["rate"] for bar in ladder)))
    rows = ", ".join(f"{b['name']} {'kept' if b['kept'] else 'dropped'}" for b in ladder)
    plot.show(fig, alt=f"Bars of pictures per second, one per change: {rows}.")

# %%
# checkpoint: the stopwatch knows a sleeping function's time, and linear drift cancels in the turns
naps = stopwatch({"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.006)}, 5)
assert all(s >= 0.002 for s in naps["short"]) and all(s >= 0.006 for s in naps["long"])
order = []  # who went when
stopwatch({"A": lambda: order.append("A"), "B": lambda: order.append("B")}, 4, warm_up=0)
assert "".join(order) == "BAABBAAB"
assert sum(i for i, who in enumerate(order) if who == "A") == sum(range(8)) / 2
assert sum(i for i, who in enumerate("AAAABBBB") if who == "B") > sum(range(8)) / 2  # B is late

# %% [markdown]
# ## 14.2 Where the time goes
#
# **Question.** What is a step busy with? Guess first, then look: `torch.profiler`
# notes every operation that PyTorch starts, forward and backward.
#
# **Predict:** name the three operations with the most time. How many operations does one step
# start: twenty, two hundred, two thousand?

# %%
import os

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler's own library talks in between
PROFILED = 3  # steps
activities = [ProfilerActivity.CPU]
if DEVICE.type == "cuda":
    activities.append(ProfilerActivity.CUDA)
with profile(activities=activities) as found:
    for _ in range(PROFILED):
        one_step()
    wait()
# A GPU's kernel has a row of its own besides, but its time is in its operation's row already.
averages = [row for row in found.key_averages() if row.device_type == DeviceType.CPU]

# %%
def self_ms(row):
    """Time in the operation itself, without those that it calls [ms per step]."""
    where = "self_device_time_total" if DEVICE.type == "cuda" else "self_cpu_time_total"
    return getattr(row, where) / 1e3 / PROFILED

# %%
top = sorted(averages, key=lambda row: -self_ms(row))[:10]
starts = sum(row.count for row in averages if row.key.startswith("aten::")) / PROFILED
fig, ax = plt.subplots(figsize=(6.2, 2.9))
ax.barh([row.key.removeprefix("aten::")[:38] for row in top], [self_ms(row) for row in top])
ax.invert_yaxis()
ax.set_xlabel("own time per step [ms]")
plot.show(fig, alt="Bars: the ten operations with the most time of their own in one plain step.")
print(f"{starts:,.0f} operations started per step")

# %% [markdown]
# A few kinds of operation fill most of the step. Make those cheaper, or *leave them out*: working
# on the rest can't gain more than the rest.
#
# The number of operations counts all of PyTorch's calls: also those that only rename a shape,
# those that another call makes, and the loader's, for each picture anew. Each costs time even if
# it computes nothing (14.6).
#
# What the picture does not show: *which layer* an operation belongs to, whether a convolution is
# slow because it computes or because it waits for memory, and whether it was needed at all.

# %%
# checkpoint: the profiler counted what we can count by hand
calls = {row.key: row.count / PROFILED for row in averages}
layers = {}
for name, net in zip("GD", new_pair(), strict=True):
    layers[name] = sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in net.body)
assert calls["aten::convolution"] == 2 * layers["G"] + 3 * layers["D"]  # G runs 2×, D 3×
assert calls["aten::convolution_backward"] == layers["G"] + 3 * layers["D"]

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
# gradient of the weights. Each has the same FLOPs. Each touches the same three tensors x, w, y
# (two are read, one is written), every number at least once:
#
# | numbers moved | forward | backward |
# |---|---|---|
# | convolution, linear | $n_x + n_w + n_y$ | as much per product |
# | BatchNorm | $3n$ (read twice, write) | $5n$ |
# | activation | $2n$ | $3n$ |
# | Adam | | $7n_w$ (p, m, v read and written, gradient read) |
#
# A number has 4 bytes in float32. We count only passes that are *needed*: G once, and no gradient
# of D's weights in G's turn. The plain step does more.

# %%
# These rules for all layers of both nets, a row each. Nothing is computed: only shapes count.
step_rows = scaling.account(SIZE, CHANNELS, WIDTH, BATCH)
F_STEP = sum(row["flops"] for row in step_rows)
M_STEP = 4 * sum(row["moved"] for row in step_rows)
print(f"one step: {F_STEP / 1e9:.2f} GFLOP, {M_STEP / 1e6:.0f} MB, ", end="")
print(f"intensity {F_STEP / M_STEP:.1f} FLOP/byte")

# %% [markdown]
# Now the machine. Its two rates we *measure*, since nobody reaches the numbers in a brochure: a
# product of two matrices for $\pi$, a copy of a tensor that fits in no cache for $\beta$. A roof
# is what the machine *can* do. So the fastest turn counts, and the best of several sizes: large
# matrices do not always win.
#
# **Predict:** how many FLOPs must be done per byte moved before arithmetic is what takes the time?

# %%
SIDES = runtime.budget(smoke=(128, 256), cpu=(512, 1024, 2048), gpu=(2048, 4096, 8192))
LARGE = runtime.budget(smoke=1 << 20, cpu=1 << 25, gpu=1 << 28)  # numbers


def matmul_rate(dtype):
    """FLOP/s of a square product, the best of several sizes and turns."""
    best = 0.0
    for side in SIDES:
        a, b = (torch.randn(side, side, device=DEVICE).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        taken = stopwatch({"product": lambda a=a, b=b, out=out: torch.mm(a, b, out=out)})["product"]
        best = max(best, 2 * side**3 / min(taken))
    return best


def copy_rate():
    """Bytes/s of a copy, read and written together."""
    a = torch.randn(LARGE, device=DEVICE)
    b = torch.empty_like(a)
    taken = stopwatch({"copy": lambda: b.copy_(a)})["copy"]
    return 2 * 4 * LARGE / min(taken)


PI, BETA = matmul_rate(torch.float32), copy_rate()
print(f"arithmetic {PI / 1e9:,.0f} GFLOP/s (float32), memory {BETA / 1e9:,.1f} GB/s, ", end="")
print(f"ridge at {PI / BETA:.1f} FLOP/byte")

# %%
# Each layer becomes a dot: its intensity, and the rate that we measure for it alone.
def layer_dots(net, x):
    """(intensity, measured FLOP/s, has weights) of each layer's forward pass."""
    dots = []
    with torch.no_grad():
        for layer in net.body:
            y = layer(x)
            work, size = flops(layer, x, y), 4 * scaling.moved(layer, x, y, 1, 0, 0)
            if work:
                taken = stopwatch({"layer": lambda f=layer, x=x: f(x)}, rounds=5)["layer"]
                products = isinstance(layer, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)
                dots.append((work / size, work / min(taken), products))
            x = y
    return dots


G, D = new_pair()
dots = {"G": layer_dots(G, torch.randn(BATCH, Z_DIM, device=DEVICE))}
dots["D"] = layer_dots(D, images.batch(0, BATCH))


def roof(ax, pi, beta, label=None):
    intensity = torch.logspace(-1.5, 3.5, 60)
    ax.loglog(intensity, (beta * intensity).clamp(max=pi) / 1e9, color="0.2", label=label)


fig, ax = plt.subplots(figsize=(6, 3.6))
roof(ax, PI, BETA, label="roof: memory, then arithmetic")
for name, colour in (("G", plot.FAKE), ("D", plot.THIRD)):
    for kind, products in (("weights", True), ("BatchNorm, activation", False)):
        chosen = [(i, rate / 1e9) for i, rate, has_weights in dots[name] if has_weights == products]
        fill = colour if products else "white"
        xs, ys = zip(*chosen, strict=True)
        ax.plot(xs, ys, "o", color=colour, mfc=fill, label=f"{name}: {kind}")
ax.axvline(PI / BETA, color="0.8", linewidth=1, zorder=0)
ax.set(xlabel="arithmetic intensity [FLOP/byte]", ylabel="rate [GFLOP/s]")
ax.legend(fontsize=8)
plot.show(fig, alt="Roofline: a rising line that turns flat at the ridge. Layers with weights are "
                   "filled dots, mostly on the right; BatchNorm and activations hollow dots far "
                   "left.")

# %% [markdown]
# BatchNorm and activations do a few operations per number: they can only be as fast as memory.
# Most layers with weights use each number often, and could reach the flat roof. Those with a
# single input or output (a channel, a logit) lie further left. How far below the roof a dot lies is
# what its kernel wastes (or, on a GPU, its start).
#
# A dot may lie *above* the roof: a cache may help, many GPUs convolve float32 in a faster format
# (TF32), some convolutions save multiplications. So the roof is an estimate: what *we* saw at best.
#
# The **floor of the step** is the sum over all layers of the larger of their two times.

# %%
def floor(rows, pi, beta, number_bytes=4):
    return sum(max(r["flops"] / pi, number_bytes * r["moved"] / beta) for r in rows)


FLOOR = floor(step_rows, PI, BETA)
now = BATCH / ladder[0]["rate"]
print(f"floor {1e3 * FLOOR:.1f} ms; the plain step takes {1e3 * now:.1f} ms, ", end="")
print(f"{now / FLOOR:.1f} times as long")

# %% [markdown]
# That ratio is about what there is to win, on this machine, in this precision. It mixes two
# things: work that isn't needed, and work done slower than the machine could.
#
# Try other machines. The rates named H200 and T4 are the vendor's (NVIDIA's data sheets: for 16
# bits the rate of the tensor cores, circuits for matrix products; the ordinary float32 rate; memory
# bandwidth). We never measured them, and nobody reaches them in full.

# %%
EMULATED = fast.slow_here(LOW, DEVICE)  # a sentence, if this processor has no such circuits
PI_LOW = PI if EMULATED else matmul_rate(LOW)
MACHINES = scaling.MACHINES | {"here": (PI, PI_LOW, BETA)}  # FLOP/s in 32 and 16 bits, bytes/s


def explore_roofline(machine, precision, size, log2_batch, log2_width):
    pi32, pi16, beta = MACHINES[machine]
    pi, number_bytes = (pi32, 4) if precision == "float32" else (pi16, 2)
    rows = scaling.account(size, 3, 2**log2_width, 2**log2_batch)
    fig, ax = plt.subplots(figsize=(5.4, 3.0), layout="none")
    fig.subplots_adjust(left=0.13, right=0.97, bottom=0.17, top=0.9)
    arithmetic = 0.0
    for r in rows:
        if r["moved"]:
            intensity = r["flops"] / r["moved"] / number_bytes
            colour = plot.FAKE if r["net"] == "G" else plot.THIRD
            height = min(pi, beta * intensity) / 1e9
            ax.plot(intensity, height, "o", color=colour, ms=8 if r["products"] else 4)
            if intensity > pi / beta:
                arithmetic += r["flops"] / pi
    roof(ax, pi, beta)
    bound = floor(rows, pi, beta, number_bytes)
    ax.set(xlabel="intensity of a whole step [FLOP/byte]", ylabel="at best [GFLOP/s]")
    title = f"{machine}: floor {1e3 * bound:.3g} ms, {arithmetic / bound:.0%} of it arithmetic"
    ax.set_title(title, fontsize=9)
    return fig


widgets.explore(
    explore_roofline,
    "Roofline of a DCGAN step on a machine of your choice, a dot per layer, large ones with "
    "weights; the title says the floor and how much of it is arithmetic.",
    machine=["H200", "T4", "here"],
    precision=["16 bits", "float32"],
    size=[64, 32, 28, 16],
    log2_batch=(3, 10, 7),
    log2_width=(3, 8, 6),
)

# %% [markdown]
# Large batches and widths move most large dots to the right. The small dots stay: an
# activation has the same intensity at every size. The faster the arithmetic beside the memory, the
# further right the ridge. Go from float32 to 16 bits on a GPU, and see in the title how *memory*
# takes a larger share of the floor. (With 16 bits we count two bytes for every number, also where
# mixed precision keeps four: it is still a floor.)
#
# What it does not show: the time to *start* an operation. At batch 8 the floor of a fast GPU is a
# fraction of a millisecond, and the starts alone may take longer (14.6).

# %%
# checkpoint: our formulas, the package's, and PyTorch's own counter, over one whole step
from torch.utils.flop_counter import FlopCounterMode

with FlopCounterMode(display=False) as counter:  # it counts products only
    x_fake = G(torch.randn(BATCH, Z_DIM, device=DEVICE))
    losses.discriminator_loss(D(images.batch(0, BATCH)), D(x_fake.detach())).backward()
    D.requires_grad_(False)
    losses.generator_loss(D(x_fake)).backward()
    D.requires_grad_(True)
assert counter.get_total_flops() == sum(r["flops"] for r in step_rows if r["products"])
assert FLOOR == scaling.floor(step_rows, PI, BETA)
assert max(F_STEP / PI, M_STEP / BETA) <= FLOOR <= F_STEP / PI + M_STEP / BETA
x = torch.randn(2, Z_DIM, device=DEVICE)
for layer in G.body:
    y = layer(x)
    assert flops(layer, x, y) == scaling.flops(layer, x, y)
    x = y

# %% [markdown]
# ## 14.4 Free lunches
#
# **Question.** What can be left out without changing a number by more than rounding? Four
# candidates:
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

    with fast.autocast(DEVICE, dtype):  # does nothing for float32; for section 14.5
        with torch.set_grad_enabled(once):
            x_fake = G(z)
        real, fake = D(x_real).float(), D(x_fake.detach()).float()
    d_loss = losses.discriminator_loss(real, fake)
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()

    D.requires_grad_(not freeze)
    with fast.autocast(DEVICE, dtype):
        fooled = D(x_fake if once else G(z)).float()
    g_loss = losses.generator_loss(fooled)
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    D.requires_grad_(True)
    return (d_loss.item(), g_loss.item()) if item else (d_loss.detach(), g_loss.detach())

# %%
kept["step"] = step  # with all switches off it is `plain_step`; the checkpoint proves it
trial("one G pass", once=True)
trial("D frozen in G's turn", freeze=True)
trial("no .item()", item=False)

# %% [markdown]
# G has not changed between its two passes, so the second only repeated the first. (One thing is
# different: BatchNorm's running averages were updated twice per step. They are used in eval mode
# only.)
#
# A CPU never runs ahead of the program, so without `.item()` it can gain nothing: what the bar
# says there is noise. On a GPU each `.item()` stops the queue of waiting work: Python can't prepare
# the next step while this one is computed.
#
# Now the data. `images.batch` keeps all pictures as *bytes* on the device, takes a batch's rows
# with one indexing operation and converts them in one go.

# %%
def on_device():
    return (images.batch(number, BATCH) for number in itertools.count())


from_loader, from_device = loaded(), on_device()
alone = stopwatch({"loader": lambda: next(from_loader), "device": lambda: next(from_device)})
print("a batch [ms]:", {name: round(1e3 * median(taken), 2) for name, taken in alone.items()})
trial("bytes on the device", batches=on_device)

# %% [markdown]
# Check the last line with the one above it: the milliseconds saved, over a step's, are the possible
# gain. More is noise.
#
# The loader's time is the same whatever the nets cost: the smaller the nets, the larger its share.
# On a GPU it is often *the* limit, since a CPU core prepares pictures for a device that is much
# faster. Then one takes several `num_workers`, or this.
#
# Two more changes concern only how numbers are grouped. **Fused Adam** updates all weights in one
# operation instead of many. **channels_last** stores the channels of a pixel side by side (B, H,
# W, C in memory; the shape you see stays B, C, H, W), as many convolution kernels like it.

# %%
trial("fused Adam", fused=True)
trial("channels_last", layout=torch.channels_last)
show_ladder()

# %% [markdown]
# Compare with your predictions. Grey bars did not pay here, or not clearly. On another machine, or
# at another width, the same list has another order. The *rule* is yours, the numbers are the
# machine's.
#
# What the ladder does not show is whether anything was broken on the way. "It can't change the
# result" is a sentence to distrust, so the checkpoint compares gradients and weights.

# %%
# checkpoint: G's gradients bitwise the same, whatever is switched on; Adam and layout: rounding
def first_gradients(step, **switches):
    """G's gradients in the first step; rate 0, so that the weights stay."""
    G, D = new_pair()
    idle = [torch.optim.SGD(net.parameters(), lr=0.0) for net in (G, D)]
    runtime.seed_everything(SEED)
    step(images.batch(0, BATCH), G, D, *idle, **switches)
    return torch.cat([p.grad.flatten() for p in G.parameters()])


def weights_after(steps, **arguments):
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
stepped = weights_after(1)
most = 0.1 if DEVICE.type == "cpu" else 0.3  # a GPU may multiply float32 in TF32
most = most * (stepped - weights_after(0)).norm()
for change in ({"fused": True}, {"layout": torch.channels_last}, {"batches": on_device}):
    # one step of Adam is nearly ±LR: where a gradient is almost 0, rounding decides the sign
    assert (weights_after(1, **change) - stepped).norm() < most, change
assert (weights_after(1, seed=SEED + 1) - stepped).norm() > most  # this one must fail

# %% [markdown]
# ## 14.5 Precision
#
# **Question.** Numbers of 16 bits are half the traffic, and many machines multiply them much
# faster. What do we lose?
#
# A floating-point number has a sign, an exponent (which power of two) and a fraction (where
# between two powers). float32 spends 8 and 23 bits on them, **float16** 5 and 10, **bfloat16** 8
# and 7. So bfloat16 reaches as far as float32, with a coarser ruler. float16 has the finer ruler
# and a short reach.
#
# **Predict:** what is $1 + 0.003$ in bfloat16? What is $10^{-8}$ in float16?

# %%
print("            next after 1   smallest > 0   largest      1 + 0.003     1e-8")
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    info = torch.finfo(dtype)
    near, tiny = torch.tensor(1.003, dtype=dtype), torch.tensor(1e-8, dtype=dtype)
    print(f"{str(dtype).removeprefix('torch.'):10}  1 + {info.eps:8.2g}   ", end="")
    print(f"{info.smallest_normal * info.eps:8.2g}   {info.max:12.3g}   ", end="")
    print(f"{near.item():10.6f}   {tiny.item():.2g}")

# %% [markdown]
# Two dangers, then: a small number *added* to a large one is lost in bfloat16 (and somewhat less
# in float16); a small number *by itself* becomes zero in float16.
#
# **Mixed precision** (Micikevicius et al. 2018) therefore keeps in float32 what adds up many small
# things: the weights, Adam's averages, sums. Convolutions and matrix products get 16 bits.
# `torch.autocast` decides that for each operation, with a list. In our step it surrounds the
# forward passes; the losses are computed outside, on `.float()` logits.
#
# **Predict:** is it faster here? Does this processor have multipliers for 16 bits?

# %%
print(EMULATED or f"{LOW_NAME} products have circuits of their own here, or we can't tell.")
if not EMULATED:
    print(f"products: float32 {PI / 1e9:,.0f} GFLOP/s, {LOW_NAME} {PI_LOW / 1e9:,.0f} GFLOP/s")
    trial(LOW_NAME, dtype=LOW)
    show_ladder()

# %% [markdown]
# If the products got faster by a larger factor than the step, that is the roofline again: what
# waits for memory gains at most a factor two from half the bytes, and Adam gains nothing. A
# processor without such multipliers *emulates* 16 bits: correct and slow. Then no whole step is
# timed. (On a GPU older than 2020, such as a T4, this section runs in float16.)
#
# **Does it learn the same?** Not bitwise: each number is rounded to two or three digits. We train
# from the same weights, with the same pictures and noise, for a few steps.

# %%
def loss_curves(steps=STEPS, stop=None, **arguments):
    loop, history = make(**arguments), {"step": [], "d_loss": [], "g_loss": []}
    for number in range(stop or steps):
        rate = train.learning_rate(number, steps, LR)  # chapter 05's: half constant, then falling
        train.set_learning_rate(rate, *loop.optimizers)
        for name, value in zip(history, (number + 1, *loop()), strict=True):
            history[name].append(float(value))
    return history, loop.nets

# %%
lean = {"step": step, "batches": on_device, "once": True, "freeze": True, "item": False,
        "fused": True}
full, (G, D) = loss_curves(**lean)
half, _ = loss_curves(**lean, dtype=LOW, stop=4)
for at in (0, 1, 3):
    print(f"step {at + 1}: d_loss float32 {full['d_loss'][at]:.4f}, ", end="")
    print(f"{LOW_NAME} {half['d_loss'][at]:.4f}")

# %% [markdown]
# In this one pair of runs the losses begin together, but for rounding. With every step small
# differences can grow: each player answers the other. For a verdict one trains several seeds to
# the end and measures the pictures, as in [chapter 07](07_evaluation.ipynb).
#
# **Small gradients.** When D is sure that a picture is generated, its loss for it is nearly zero,
# and so is the gradient that flows back (chapter 02). The mean over the batch divides it by $B$
# again. We round all gradients of one step, of weights and of activations, to float16. Which share
# is *damaged*: changed by more than one percent?
#
# **Predict:** which share? And if we multiply the loss by $S = 2^{12}$ first? By $2^{32}$?

# %%
def flat_gradient(net, loss):
    """Gradient of a loss in a net's weights, as one long vector."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def all_gradients(net, loss):
    """Every gradient of a loss that flows through a net: of its activations and of its weights."""
    found = []

    def listen(module, arguments, output):
        if output.requires_grad:
            output.register_hook(lambda g: found.append(g.flatten()))

    handles = [layer.register_forward_hook(listen) for layer in net.body]
    found.append(flat_gradient(net, loss()))
    for handle in handles:
        handle.remove()
    return torch.cat(found)


x_real, z = images.batch(STEPS, BATCH), torch.randn(BATCH, Z_DIM, device=DEVICE)
x_fake = G(z).detach()
d_flow = all_gradients(D, lambda: losses.discriminator_loss(D(x_real), D(x_fake)))
g_flow = all_gradients(G, lambda: losses.generator_loss(D(G(z))))


def damaged(g, scale):
    """Share of the gradients (not 0) that float16 changes by more than 1 %, or makes infinite."""
    g = g[g != 0]
    back = (g * scale).half().float() / scale
    return ((back - g).abs() > 0.01 * g.abs()).float().mean().item()

# %%
scales = [2.0**k for k in range(0, 33, 2)]
fig, ax = plt.subplots(figsize=(5.6, 2.9))
for name, found, colour in (("D", d_flow, plot.THIRD), ("G", g_flow, plot.FAKE)):
    shares = [damaged(found, s) for s in scales]
    ax.loglog(scales, [max(v, 1e-7) for v in shares], "o-", color=colour, ms=3, label=name)
    print(f"{name}: {shares[0]:.1%} damaged without a scale, {min(shares):.0e} at best")
ax.set_xscale("log", base=2)
ax.set(xlabel="loss scale S", ylabel="share damaged", ylim=(5e-8, 2))
ax.legend(fontsize=8)
plot.show(fig, alt="Share of gradients that float16 damages against the loss scale: falling at "
                   "first, as fewer are too small, then rising, as more overflow.")

# %% [markdown]
# (Shares below $10^{-7}$ are drawn there.) On the left gradients are too small, on the right
# infinite. One too small is one number lost; one infinite spoils the whole step. So take a scale at
# the bottom, or left of it. That is **loss scaling**: multiply the loss by $S$, run backward in
# float16, divide the float32 gradients by $S$ before Adam sees them. If one is infinite, skip the
# step and halve $S$; after many good steps double it. So $S$ follows. (The figure is one step.)
#
# bfloat16 needs none of this: it has float32's exponents. So it is our choice where a GPU has it
# (from compute capability 8.0 on), and float16 with scaling on older ones, such as a T4.

# %%
def scaled_step(loss, net, optimizer, scale):
    """Backward and update with loss scaling. Returns the scale for the next step."""
    optimizer.zero_grad()
    (loss * scale).backward()
    if not all(p.grad.isfinite().all() for p in net.parameters()):
        return scale / 2  # too large: no update this time
    for p in net.parameters():
        p.grad.div_(scale)
    optimizer.step()
    return scale  # torch's GradScaler doubles it after 2,000 good steps in a row

# %% [markdown]
# **BatchNorm in float32.** It needs a variance. One way is $E[x^2] - E[x]^2$: the difference of
# two numbers that are large and nearly equal if the channel's mean is large. With seven bits
# nothing is left. We give it channels of standard deviation 1 whose mean grows.
#
# **Predict:** at which mean does bfloat16 fail?

# %%
means = torch.logspace(0, 2, 17)[1::2]
channels = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1)) + means  # (N, C)
rounded = channels.bfloat16()
small_sums = (rounded * rounded).mean(0) - rounded.mean(0) ** 2  # each result is rounded
large_sums = rounded.float().var(0)  # values in bfloat16, statistics in float32
for mean, small, large in zip(means, small_sums, large_sums, strict=True):
    print(f"mean {mean:4.1f}: variance in bfloat16 {small:7.3f}, sums in float32 {large:.3f}")

# %% [markdown]
# The truth is 1. Where the mean is large, the formula with every result rounded to bfloat16 says 0,
# or too much, or something negative. The root of a negative number is *not a number*, and one NaN
# in a GAN soon reaches every weight of both nets. PyTorch's BatchNorm keeps statistics, scale and
# shift in float32 even when its input has 16 bits. (The right column grows a little: there the
# *values* are rounded, and that adds variance.)

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
assert (small_sums - 1).abs().max() > 0.5 and (large_sums - 1).abs().max() < 0.1
assert min(damaged(d_flow, s) for s in scales) <= damaged(d_flow, 1.0) < damaged(d_flow, 2.0**40)
assert abs(full["d_loss"][0] - half["d_loss"][0]) < 0.05
assert not fast.Scaler(DEVICE, torch.bfloat16).is_enabled()  # the package's: for float16 only

# %% [markdown]
# ## 14.6 Launches, compiling, CUDA graphs
#
# **Question.** What does an operation cost that computes next to nothing? Python has to find the
# right C++ function, check shapes and types, fetch memory, note the operation for the backward
# pass; on a GPU it then puts a *launch* in the device's queue. All that takes the same time for
# one number as for a million.
#
# **Predict:** up to how many numbers does `x + 1` cost the same?

# %%
sizes = [2**k for k in range(0, runtime.budget(smoke=15, cpu=25, gpu=29), 2)]
adding = []
for n in sizes:
    x = torch.zeros(n, device=DEVICE)
    many = 200 if n < 2**16 else 3  # small ones are too short for the clock
    taken = stopwatch({"add": lambda x=x, many=many: [x + 1 for _ in range(many)]}, rounds=5)["add"]
    adding.append(median(taken) / many)

# %%
fig, ax = plt.subplots(figsize=(5.6, 2.8))
ax.loglog(sizes, [1e6 * t for t in adding], "o-", color=plot.REAL, label="x + 1")
ax.loglog(sizes, [1e6 * 8 * n / BETA for n in sizes], color="0.6", label="floor by memory")
ax.set(xlabel="numbers in x", ylabel="time [µs]", ylim=(min(adding) * 3e5, None))
ax.legend()
plot.show(fig, alt="Time of adding one against the size of the tensor: flat for small tensors, "
                   "then rising along the line that memory allows.")
print(f"{1e6 * adding[0]:.1f} µs for one number; a plain step starts {starts:,.0f} operations")

# %% [markdown]
# The flat part is pure **launch overhead**. (Dots below the grey line: their tensors fit in a
# cache. Far above it, on a CPU: probably memory for the result, which the system hands out anew,
# page by page.) On a fast GPU the work itself may take *less than its launch*: a small net then
# runs at the speed of Python. Two remedies: fewer operations, or cheaper launches.
#
# **Fewer operations: `torch.compile`.** It traces a function and writes new kernels in which
# neighbouring pointwise operations are *fused*: one kernel reads each number once, does all of
# them and writes once. Seven separate operations move the data seven times.
#
# **Predict:** how much faster does this chain become? How long does compiling take?

# %%
import logging

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "no CUDA" is no news


def chain(x):
    return ((x * 1.5 + 0.5).clamp(-3, 3).square() * 0.25 - 1).abs()


fused_chain = torch.compile(chain)


def race_compiled():
    fast.check_compile()  # UserError where there is no compiler
    first = seconds_of(lambda: fused_chain(long))
    taken = stopwatch({"plain": lambda: chain(long), "compiled": lambda: fused_chain(long)})
    gain = median(taken["plain"]) - median(taken["compiled"])  # seconds per call
    print(f"first call {first:.1f} s; each later one wins {1e3 * gain:.2f} ms ", end="")
    print(f"of {1e3 * median(taken['plain']):.2f} ms; paid back after {first / gain:,.0f} calls")
    torch.testing.assert_close(fused_chain(long), chain(long))

# %%
long = torch.randn(runtime.budget(smoke=1 << 10, cpu=1 << 22, gpu=1 << 26), device=DEVICE)
if runtime.profile() == "smoke" and DEVICE.type == "cpu":
    print("The smoke profile does not wait for a compiler: nothing measured.")
else:
    try:
        race_compiled()
    except runtime.UserError as reason:
        print(reason)

# %% [markdown]
# Most of the first call is the compiler's work (it was loaded just before, in `check_compile`). Our
# nets have little to fuse: BatchNorm and activation between convolutions which stay as they are.
# Hence `compile=False` is the default of `train_gan`: try it when you train for hours, and let the
# stopwatch decide.
#
# **Cheaper launches: a CUDA graph.** Record the launches of one whole step once; then replay the
# record with a single call. (Without a graph, a step is called *eager*.) Python decides nothing
# anew, so everything in a step must stay where it is: the same memory, the same shapes, no
# `.item()`, no `if` on a value. What changes is copied *into* the recorded places. The package has
# it as `fast.Graphed`: `train_gan(graph=True)`.

# %%
import warnings

warnings.filterwarnings("ignore", message=".*capturable=True")  # said of steps not recorded


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


def graphable_loop():
    """The lean step without data: x → losses. Its Adam keeps count and rate on the device."""
    G, D = new_pair(torch.channels_last)
    optimizers = [torch.optim.Adam(net.parameters(), LR, BETAS, fused=True) for net in (G, D)]
    for optimizer in optimizers:
        fast.prepare_optimizer(optimizer, graph=True)

    def one(x):
        d_loss, g_loss = step(x, G, D, *optimizers, once=True, freeze=True, item=False)
        return {"d_loss": d_loss, "g_loss": g_loss}

    return one

# %%
print("graph against eager:", "measured" if DEVICE.type == "cuda" else "there is no GPU here")
if DEVICE.type == "cuda":
    x = images.batch(0, BATCH)
    eager, replay = graphable_loop(), graphed(graphable_loop(), x)
    ratios = compare(lambda: eager(x), lambda: replay(x))
    print("the graph is ×{:.2f} (×{:.2f}, ×{:.2f}) as fast".format(*quantiles(ratios, n=4)))

# %%
# checkpoint: an operation has a price even for nothing
assert min(adding) > 0
if runtime.profile() != "smoke":  # there even the largest tensor is small
    assert adding[-1] > 4 * adding[0]
torch.testing.assert_close(chain(torch.tensor([0.0, 9.0])), torch.tensor([0.9375, 1.25]))

# %% [markdown]
# ## 14.7 Gradient accumulation: a large batch in small pieces
#
# **Question.** A large batch doesn't fit into the memory. Can several small ones take the same
# step?
#
# Let the loss be a mean over pictures, $L = \frac1B\sum_i \ell(x_i)$. Cut the batch into $k$ equal
# pieces; $L_j$ is the mean over piece $j$. Then
#
# $$L = \frac1k \sum_j L_j \quad\Rightarrow\quad \nabla L = \frac1k \sum_j \nabla L_j,$$
#
# if $\ell(x_i)$ depends on picture $i$ alone. `backward` *adds* to `.grad`. So: `zero_grad` once,
# then for each piece `backward` of its loss **divided by k**, then one step of the optimizer.
#
# **Predict:** BatchNorm normalises with the mean over the *piece*. Is $\ell(x_i)$ then a function
# of picture $i$ alone?

# %%
def accumulated(net, x, pieces):
    """The gradient of the whole batch, from small batches one after the other."""
    net.zero_grad()
    for part in x.chunk(pieces):
        loss = F.softplus(-net(part)).mean() / pieces
        loss.backward()  # adds to what is there, and frees the piece's activations
    return torch.cat([p.grad.flatten() for p in net.parameters()])

# %%
def relative_error(found, whole):
    return ((found - whole).norm() / whole.norm()).item()


x = images.batch(0, BATCH)
with_norm, without = new_pair()[1], new_pair()[1]
for i, layer in enumerate(without.body):
    if isinstance(layer, nn.BatchNorm2d):
        without.body[i] = nn.Identity()
counts, errors = [2, 4, 8, 16], {}
for name, net in (("no BatchNorm", without), ("BatchNorm of each piece", with_norm)):
    whole = accumulated(net, x, 1)
    errors[name] = [relative_error(accumulated(net, x, k), whole) for k in counts]

fig, ax = plt.subplots(figsize=(5.6, 2.7))
for (name, values), style in zip(errors.items(), ("o-", "s-"), strict=True):
    ax.loglog(counts, values, style, label=name)
ax.set(xlabel="pieces k", ylabel="relative error of the gradient")
ax.set_xticks(counts, counts)
ax.minorticks_off()
ax.legend(fontsize=8, loc="center right")
plot.show(fig, alt="Error of the accumulated gradient against the number of pieces: at rounding "
                   "level without BatchNorm, many powers of ten larger with BatchNorm.")

# %% [markdown]
# Without BatchNorm the two gradients differ by rounding. With BatchNorm they are *different
# gradients*: each piece is normalised by its own mean and variance. No division repairs that. One
# can use a norm that looks at one picture alone (GroupNorm, LayerNorm), or accept that $k$ small
# batches are another training.
#
# One step then takes $k$ forward and backward passes. What the figure does not say is whether the
# other training is worse.

# %%
# checkpoint: equal without BatchNorm; the two usual slips are seen: no division, no zero_grad
rounding, margin = (1e-3, 10) if DEVICE.type == "cpu" else (2e-2, 3)  # TF32 has ten bits
assert max(errors["no BatchNorm"]) < rounding
assert min(errors["BatchNorm of each piece"]) > margin * max(errors["no BatchNorm"])
whole = accumulated(without, x, 1)
assert relative_error(4 * accumulated(without, x, 4), whole) > 1  # as without the division
F.softplus(-without(x)).mean().backward()  # without zero_grad: a second gradient on top
assert relative_error(torch.cat([p.grad.flatten() for p in without.parameters()]), whole) > 0.5

# %% [markdown]
# ## 14.8 Several processes
#
# **Question.** Two devices, half the batch each. When is that the *same* step as one device with
# the whole batch?
#
# It is the formula of 14.7 with slices instead of pieces. Each process, called **rank** $r$ of
# $N$, has the same weights and computes the gradient of its slice; the gradients are averaged
# (**all-reduce**); all take the same step. Again the loss must be a mean over pictures.
#
# BatchNorm has a way out now, since the slices are there *at the same time*: the ranks exchange
# its statistics. Each sends its slice's mean, all take the average; then the same for the mean
# squared distance from it. Here in one process, all slices side by side:

# %%
def global_norm(layer, slices):
    """BatchNorm of several slices with the statistics of all together."""
    mean = torch.stack([s.mean((0, 2, 3)) for s in slices]).mean(0)[:, None, None]
    variance = torch.stack([(s - mean).square().mean((0, 2, 3)) for s in slices]).mean(0)
    scale = (layer.weight * (variance + layer.eps).rsqrt())[:, None, None]
    return [(s - mean) * scale + layer.bias[:, None, None] for s in slices]


def synchronised_gradient(net, x, world):
    slices = x.chunk(world)
    for layer in net.body:
        together = isinstance(layer, nn.BatchNorm2d)
        slices = global_norm(layer, slices) if together else [layer(s) for s in slices]
    each = [F.softplus(-logits.squeeze(1)).mean() for logits in slices]
    return flat_gradient(net, torch.stack(each).mean())

# %%
whole = accumulated(with_norm, x, 1)
synchronised = [relative_error(synchronised_gradient(with_norm, x, n), whole) for n in counts]
for n, own, shared in zip(counts, errors["BatchNorm of each piece"], synchronised, strict=True):
    print(f"{n:2} slices: error {own:.1e} with BatchNorm of each slice, {shared:.1e} synchronised")

# %% [markdown]
# Synchronised, the gradients are equal again, up to rounding. Which is right? Neither is wrong:
# statistics per slice are noisier, and cheaper, since nothing is exchanged in the middle of the
# forward pass. Goyal et al. (2017) keep them. The course synchronises by default
# (`sync_batch_norm=True`), so that a run is the same, but for rounding, on one device and on eight.
#
# Now **two real processes**. The average of the gradients by hand is one call per tensor:

# %%
SCRIPT = '''
import json, sys
import torch
import torch.distributed as dist
from gencourse import data, losses, nets, ranks, runtime, train

dist.init_process_group("gloo")            # the launcher has said who this is and where to meet
rank, world, folder = dist.get_rank(), dist.get_world_size(), sys.argv[1]
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
# A **launcher** starts the processes and tells each who it is and where to meet the others.
# PyTorch brings one: `python -m torch.distributed.run --nproc_per_node=2 …`, for short `torchrun`.
#
# Accelerate has one, too, and the course's command works with both:
#
# ```
# accelerate launch --multi_gpu --num_processes 2 -m gencourse train dcgan --data digits
# ```
#
# Say `--multi_gpu` on GPUs. Without it, `accelerate launch` may start a *single* process and not
# say so. Always check how many there are: the first line that our command prints says it. In a
# notebook with several GPUs there is `accelerate.notebook_launcher(function, num_processes=2)`.

# %%
import json
import shutil
import subprocess

TOGETHER = runtime.budget(smoke=4, cpu=40, gpu=40)
digits = data.load("digits")


def start_together(world, steps=TOGETHER):
    """Run SCRIPT in so many processes, all on the CPU, also where there is a GPU."""
    folder = runtime.run_folder("14_ranks").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    torch.save((digits.x.cpu(), digits.labels.cpu()), folder / "digits.pt")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, f"--nproc_per_node={world}", "script.py", str(folder), str(steps)]
    setting = os.environ | {"OMP_NUM_THREADS": "1", "GENCOURSE_DEVICE": "cpu"}
    ended = subprocess.run(command, cwd=folder, env=setting, capture_output=True, text=True,
                           timeout=300)
    assert (folder / "result.json").exists(), ended.stderr[-2_000:]
    return json.loads((folder / "result.json").read_text())


one, two = start_together(1), start_together(2)
print(f"started: {one['world']} process, then {two['world']} processes")
histories = [found["history"]["d_loss"] for found in (one, two)]
gaps = [abs(a - b) for a, b in zip(*histories, strict=True)]
print(f"d_loss differs by {gaps[0]:.1e} in the first step, by {max(gaps):.1e} at most")

# %% [markdown]
# The first steps agree up to sums taken in another order. (Later the game magnifies that.)
#
# **What does it cost?** Each rank must send and receive. In a **ring** every rank talks to its two
# neighbours only; after $N - 1$ rounds of adding and $N - 1$ of passing on, each has the sum. In
# each round every rank sends $1/N$ of the gradient's $V$ bytes. With a link of $\rho$ bytes/s, and
# a time $h$ for each *hop*, until the first byte arrives, that takes
#
# $$2(N-1)\left(\frac{V}{N\rho} + h\right) \;\approx\; \frac{2V}{\rho} + 2Nh .$$
#
# The first part is nearly the same for 8 ranks and for 800, and no scheme in which the ranks do the
# adding sends less (Patarasu and Yuan 2009). The second grows.

# %%
def ring_seconds(size, n, rate, hop=0.0):
    return 2 * (n - 1) * (size / n / rate + hop)


# A ring of five, chunk by chunk: count what is sent.
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
assert sent == 2 * (N - 1) / N * V == ring_seconds(V, N, 1.0) == scaling.ring_seconds(V, N, 1.0)

# %% [markdown]
# `scaling.step_seconds` has the whole step: the work of one device, then an all-reduce for each
# net's gradients, then the small messages of synchronised BatchNorm. For those it is the hops that
# take the time, so a *tree* with $2\log_2 N$ hops may win; the package takes the faster of both,
# as the library NCCL does. `benchmarks/larger_runs.md` prints the tables of the same model.
#
# Links differ. **NVLink** joins the 8 GPUs *inside* one machine (here that of an H200 machine: 450
# GB/s each way). *Between* machines there is a network.
#
# **Predict:** two ways to use more devices. *Weak scaling*: each keeps its batch, so the global
# batch grows. *Strong scaling*: the global batch stays, each gets a smaller slice. Which stops
# paying first?

# %%
def speed_ups(link, weak, counts=(1, 2, 4, 8, 16, 32, 64)):
    """(devices, pictures per second over those of one): DCGAN 64×64×3, width 64, batch 128."""
    _, pi, beta = MACHINES["H200"]
    rows = scaling.account(64, 3, 64, 128)
    gradients = [4 * r["moved"] // 7 for r in rows if r["layer"] == "Adam"]  # G's and D's bytes
    messages = 26  # synchronised BatchNorm's, see the checkpoint
    points = []
    for n in counts:
        if n <= link["most"]:
            each = scaling.account(64, 3, 64, 128 if weak else 128 // n)
            compute = floor(each, pi, beta, number_bytes=2)
            seconds = scaling.step_seconds(compute, gradients, n, link, messages)
            pictures = 128 * n if weak else 128
            points.append((n, pictures / seconds))
    alone = 128 / floor(rows, pi, beta, number_bytes=2)
    return [(n, rate / alone) for n, rate in points]


fig, axes = plt.subplots(1, 2, figsize=(7.0, 3.4), sharey=True)
for ax, weak in zip(axes, (True, False), strict=True):
    for name in ("NVLink 4, inside one machine", "InfiniBand NDR, 400 Gb/s", "Ethernet, 10 Gb/s"):
        n, speed = zip(*speed_ups(scaling.LINKS[name], weak), strict=True)
        ax.loglog(n, speed, "o-", ms=3, label=name)
    ax.loglog([1, 64], [1, 64], color="0.7", linewidth=1, label="perfect")
    ax.set(title="weak scaling" if weak else "strong scaling", xlabel="H200 devices")
    ax.set_xticks([1, 4, 16, 64], [1, 4, 16, 64])
    ax.set_yticks([1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64], ["1/64", "1/16", "1/4", 1, 4, 16, 64])
    ax.minorticks_off()
axes[0].set_ylabel("speed-up")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
plot.show(fig, alt="Computed speed-up against the number of devices. Weak scaling: NVLink, up to "
                   "its 8 devices, nearest to the perfect line, InfiniBand below it, 10 Gb "
                   "Ethernet far below. Strong scaling: NVLink gains little, the networks lose.")

# %% [markdown]
# All of it is computed from data sheets, each step as fast as its floor; nothing overlaps. A real
# step is slower, so its messages weigh less. Sending during the backward pass (as PyTorch's
# `DistributedDataParallel` does) hides a part.
#
# Strong scaling stops first: the slices shrink, while the gradients keep their $V$ bytes and
# BatchNorm's messages their hops. On a slow network several fast devices are slower than one.
#
# What the figure hides is the worst price of weak scaling: a batch 64 times larger is *another
# training*. Goyal et al. (2017) raise the learning rate with the batch and warm it up, and find a
# limit. We know no such rule for GANs: measure quality, not pictures per second.

# %%
# checkpoint: equal where theory says so; two real processes are one; the figure's messages
assert max(synchronised) < rounding
assert min(errors["BatchNorm of each piece"]) > margin * max(synchronised)
runtime.seed_everything(0)
small_G, small_D = nets.DCGANGenerator(16, 1, 64, 8), nets.DCGANDiscriminator(16, 1, 8)
z, x = torch.randn(32, 64), digits.batch(0, 32).cpu()
loss = losses.discriminator_loss(small_D(x), small_D(small_G(z).detach()))
whole = flat_gradient(small_D, loss)
torch.testing.assert_close(torch.tensor(two["gradient"]), whole, rtol=1e-3, atol=1e-6)
assert gaps[0] < 1e-5 and max(gaps[:4]) < 1e-2  # later the game magnifies rounding
assert (one["world"], two["world"]) == (1, 2)
big = nets.DCGANGenerator(64, 3, 64, 8), nets.DCGANDiscriminator(64, 3, 8)
assert scaling.batch_norm_messages(*big) == 26
speeds = [dict(speed_ups(link, weak=False)) for link in scaling.LINKS.values()]
assert speeds[0][8] > 1 > speeds[-1][8] and max(speeds[0]) == 8  # NVLink ends at 8

# %% [markdown]
# ## 14.9 Checkpoints and trackers
#
# **Question.** What does safety cost? A checkpoint holds both nets, Adam's two averages per
# weight, the averaged generator, the random generators' states.
#
# **Predict:** how many times the size of the weights is that? And if one is written every 500
# steps, which share of the time does it take?
#
# We let `train_gan` write one. It also feeds a **tracker**, which shows a run while it runs, and
# several runs side by side: one more argument, and `tensorboard --logdir runs` shows them in a
# browser. Weights & Biases works the same way with `tracker="wandb"`.

# %%
import importlib.util

from gencourse import checkpoint

WATCHED = runtime.budget(smoke=4, cpu=60, gpu=1_000)
tracker = "tensorboard" if importlib.util.find_spec("tensorboard") else None
watched = runtime.run_folder("14_watched")
_, history = train.train_gan(
    images, *new_pair(), steps=WATCHED, batch_size=BATCH, seed=SEED, out=watched, tracker=tracker
)

written = checkpoint.paths(watched)[-1]
_, state = checkpoint.load_latest(watched)
folder = runtime.run_folder("14_checkpoint")
folder.mkdir(parents=True, exist_ok=True)
numbers = itertools.count(1)
taken = stopwatch({"save": lambda: checkpoint.save(folder, next(numbers), state)}, rounds=5)["save"]
size = written.stat().st_size
weights = sum(p.numel() for net in new_pair() for p in net.parameters())
print(f"{size / 1e6:.1f} MB, {size / (4 * weights):.1f} times the weights; ", end="")
print(f"{1e3 * median(taken):.0f} ms to write")
share = median(taken) / (500 * BATCH / last_kept()["rate"] + median(taken))
print(f"every 500 steps: {share:.2%} of the time")

# %% [markdown]
# The faster the step, the larger that share, and the rarer one should write. A program that writes
# *over* its only checkpoint has, for a moment, neither the old nor the new one. `checkpoint.save`
# writes a temporary file in the same folder, waits until it is on the disk, and then renames it; a
# rename is all or nothing.
#
# Now we read back what the tracker has. It has fewer points than steps: the loop fetches the losses
# twice a second only, since watching must not make the device wait (14.4, `.item()`). The rate in
# the line above is not the ladder's: another time, and `train_gan`'s own switches.

# %%
tracked = {}
if tracker:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for path in watched.rglob("events.out.tfevents*"):  # one file per attempt
        events = EventAccumulator(str(path)).Reload()
        for name in events.Tags()["scalars"]:
            tracked.setdefault(name, []).extend((e.step, e.value) for e in events.Scalars(name))
print(", ".join(sorted(tracked)) or "tensorboard is not installed: nothing tracked")

fig, ax = plt.subplots(figsize=(5.4, 2.4))
for name, colour in (("d_loss", plot.THIRD), ("g_loss", plot.FAKE)):
    points = tracked.get(name, list(zip(history["step"], history[name], strict=True)))
    ax.plot(*zip(*points, strict=True), "o-", ms=3, color=colour, label=name)
ax.set(xlabel="step", ylabel="loss [nats]", ylim=(0, None))
ax.legend(fontsize=8)
plot.show(fig, alt="Read back from the tracker's file: the two losses against the step.")

# %%
# checkpoint: what was saved is what comes back; the file tells what the history tells
_, back = checkpoint.load_latest(folder)
for name, tensor in state["parts"]["generator"].items():
    assert torch.equal(back["parts"]["generator"][name], tensor)
assert size > 3 * 4 * weights
told = dict(zip(history["step"], history["d_loss"], strict=True))
for at, value in tracked.get("d_loss", []):
    assert abs(told[at] - value) < 1e-3 * max(1, abs(value))

# %% [markdown]
# ## 14.10 All together
#
# **Question.** Do the gains multiply to what the ladder says? And is it still the same training?
#
# The course's loop has 14.4's first four changes always, the others behind arguments, which we set
# as our ladder left them. It gets the same weights, pictures and noise, and races against the loop
# of the beginning, three times each. It does a little more: it averages G, notes gradient norms,
# writes a history.
#
# **Predict:** the ladder's last green bar, or less?

# %%
FINAL = runtime.budget(smoke=2, cpu=40, gpu=300)
curves = {"plain": [], "fast": []}
seeds = {"plain": itertools.count(), "fast": itertools.count()}  # each turn has its own


def race_plain():
    curves["plain"].append(loss_curves(FINAL, seed=next(seeds["plain"]))[0])


def race_fast():
    seed = next(seeds["fast"])
    _, history = train.train_gan(
        images, *new_pair(seed=seed), steps=FINAL, batch_size=BATCH, lr=LR, betas=BETAS, seed=seed,
        precision=LOW_NAME if "dtype" in kept else "float32", fused=kept.get("fused", False),
        channels_last="layout" in kept, progress=False,
    )
    curves["fast"].append(history)

# %%
taken = stopwatch({"plain": race_plain, "fast": race_fast}, rounds=3, warm_up=0)
gains = sorted(p / f for p, f in zip(taken["plain"], taken["fast"], strict=True))
gain = median(gains)
print("train_gan against the plain loop, three turns:", ", ".join(f"×{g:.2f}" for g in gains))
print(f"gains of the ladder, multiplied: ×{last_kept()['rate'] / ladder[0]['rate']:.2f}")
final_rate = ladder[0]["rate"] * gain
ladder.append({"name": "train.train_gan", "rate": final_rate, "gain": gain, "kept": True})
show_ladder()

# %%
fig, ax = plt.subplots(figsize=(5.6, 2.6))
for plain_run, fast_run in zip(curves["plain"], curves["fast"], strict=True):
    ax.plot(plain_run["step"], plain_run["d_loss"], color=plot.THIRD, linewidth=1)
    ax.plot(fast_run["step"], fast_run["d_loss"], color="0.2", linewidth=1, ls="--")
ax.set(xlabel="step", ylabel="d_loss [nats]")
ax.legend(ax.lines[:2], ["as first written", "train_gan"], fontsize=8)
plot.show(fig, alt="D's loss against the step for three seeds, of the loop as first written and of "
                   "train_gan: each pair begins on the same point and takes much the same course.")
number_bytes, pi = (2, PI_LOW) if "dtype" in kept else (4, PI)
bound, reached = floor(step_rows, pi, BETA, number_bytes), BATCH / final_rate
print(f"floor {1e3 * bound:.1f} ms, step {1e3 * reached:.1f} ms: {reached / bound:.1f} times")

# %% [markdown]
# (The last bar's factor is against the plain loop, the others' against the bar before.) Do the
# gains multiply? The three turns differ, so they can say it only roughly. And the product tends to
# be too high: luck helps a change to be *kept*.
#
# What is left between step and floor? Kernels slower than the matrix product, above all for narrow
# layers; the averages and norms of `train_gan`; conversions to 16 bits, if any; the operations'
# own price. More would take hand-written kernels. On a GPU the next step is 14.6's graph.
#
# The curves of three seeds say: the same training, as far as losses can tell. 14.4 checks bit by
# bit (on a CPU), but one step only.

# %%
# checkpoint: the fast loop learns what the plain loop learns, within the precision's noise
tolerance = 0.1 if "dtype" in kept else 0.02
for plain_run, fast_run in zip(curves["plain"], curves["fast"], strict=True):
    for key in ("d_loss", "g_loss"):
        for a, b in zip(plain_run[key][:3], fast_run[key][:3], strict=True):
            assert abs(a - b) < tolerance * max(1, abs(a)), (key, a, b)
        a, b = (torch.tensor(run[key][FINAL // 2 :]).mean() for run in (plain_run, fast_run))
        if runtime.profile() != "smoke":  # the course, once the beginning is over
            assert abs(a - b) < (0.5 if "dtype" in kept else 0.2) * a, (key, a, b)
other_seed = abs(curves["plain"][0]["d_loss"][0] - curves["plain"][1]["d_loss"][0])
same_seed = abs(curves["plain"][0]["d_loss"][0] - curves["fast"][0]["d_loss"][0])
assert same_seed < other_seed  # another seed must be told from rounding

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

# %% [markdown]
# There is a number that tells the two apart. Let $a$ be D's logit for a generated picture. D's
# loss contains the mean of $\log(1+e^{a})$, G's loss is the mean of $\log(1+e^{-a})$. For every
# $a$
#
# $$\log(1+e^{a}) + \log(1+e^{-a}) \;\ge\; 2\log 2 .$$
#
# So the two losses *together* can't fall below $2\log 2\approx1.39$, as long as D gives a
# generated picture the same logit in both turns. (D's step lies between the turns. It is meant to
# lower these logits, and that only raises the sum.) We train both ways with three seeds and plot
# that sum.

# %%
BROKEN = runtime.budget(smoke=2, cpu=40, gpu=300)
broken = {"step": mixed_step, "batches": on_device, "fused": True}
sums = {"two passes": [], "one pass": []}
for seed in (0, 1, 2):
    for name, arguments in (("two passes", lean), ("one pass", broken)):
        curve, pair = loss_curves(BROKEN, seed=seed, **arguments)
        sums[name].append([d + g for d, g in zip(curve["d_loss"], curve["g_loss"], strict=True)])
mixed_G, mixed_D = pair  # of the last run: one pass

# %%
fig, ax = plt.subplots(figsize=(5.6, 2.8))
for (name, found), colour in zip(sums.items(), (plot.THIRD, plot.FOURTH), strict=True):
    lines = ax.plot(range(1, BROKEN + 1), torch.tensor(found).T, color=colour, linewidth=1)
    lines[0].set_label(f"{name}, three seeds")
ax.axhline(2 * torch.tensor(2.0).log(), color="0.4", ls=":", label="2 log 2")
ax.set(xlabel="step", ylabel="d_loss + g_loss [nats]", ylim=(0, None))
ax.legend(fontsize=8)
plot.show(fig, alt="Sum of both losses against the step, three seeds each: with two passes it "
                   "stays above the line 2 log 2; with one pass it falls below the line.")
gains = quantiles(compare(make(**lean), make(**broken)), n=4)
print("one pass, times as fast (quartiles): " + ", ".join(f"×{g:.2f}" for g in gains))
for name, found in sums.items():
    print(f"{name}: first {found[0][0]:.3f}, lowest {', '.join(f'{min(s):.3f}' for s in found)}")

x_real = images.batch(BROKEN, BATCH)
with torch.no_grad():
    x_fake = mixed_G(torch.randn(BATCH, Z_DIM, device=DEVICE))
    beside = mixed_D(torch.cat([x_real, x_fake])).chunk(2)[1].mean().item()
    alone = mixed_D(x_fake).mean().item()
print(f"mean logit of generated pictures: beside real ones {beside:.2f}, alone {alone:.2f}")

# %% [markdown]
# Already the first sum is another one: D is another *function*. With one pass the sum falls below
# the line. So D gives the same pictures *two* logits: one beside real ones, in its own turn, and
# one alone, in G's turn (last line).
#
# With two passes, each kind is brought to mean 0 and variance 1 by *itself*. With one pass the
# difference between the kinds stays in the batch, and D uses it. In G's turn it is not there: G
# learns from a D that is not the one which was trained.
#
# Such a change may work, and may be faster (see the quartiles). But it is *another training*:
# quality has to be measured anew.

# %%
# checkpoint: another function, not rounding; the bound on the sum holds for two passes only
right = flat_gradient(D, losses.discriminator_loss(D(x_real), D(x_fake)))
wrong = flat_gradient(D, losses.discriminator_loss(*D(torch.cat([x_real, x_fake])).chunk(2)))
assert relative_error(wrong, right) > 1e-2
if runtime.profile() != "smoke":
    assert all(min(s) > 1.38 for s in sums["two passes"])
    assert all(min(s) < 1.3 for s in sums["one pass"])
    assert beside < alone

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
# To try at once: set `WIDTH = 8` and run the chapter again. Which bars grow, which shrink, and
# why?

# %% [markdown]
# ## Recap
#
# - Wait for the device, leave out the warm-up, take turns, report medians with quartiles; race the
#   loop against itself to know the noise.
# - A layer takes at least the larger of FLOPs / rate and bytes / bandwidth. The sum over layers is
#   the floor. Far above it, look for needless work, slow kernels, too many launches.
# - Leave out what nobody uses (a second pass, gradients of frozen weights, waiting), and check that
#   nothing changed.
# - In 16 bits, keep weights, sums and statistics in float32; float16 needs a loss scale, bfloat16
#   does not.
# - $k$ small batches, or $N$ ranks, take the step of one large batch if the loss is a mean over
#   pictures. BatchNorm breaks that; ranks can share its statistics.

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
#   (Journal of Parallel and Distributed Computing 69): the ring and its bound. We add a time per
#   hop, with the constants of NCCL's source (`src/graph/tuning.cc`).
# - PyTorch's documentation, *CUDA semantics* (asynchronous execution, CUDA graphs), *Automatic
#   mixed precision examples*, *Performance tuning guide*, *Distributed data parallel* (notes): the
#   rules for capture and scaling. We average gradients after the backward pass, DDP during it.
# - NVIDIA's data sheets of T4, H100 and H200: peak rates, memory and NVLink bandwidth. InfiniBand
#   NDR (400 Gb/s) and 10 Gb Ethernet are named by their standards' line rates. Used as upper
#   bounds, never measured by us.
