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
# <!-- stamp -->*Run time: not measured yet.*<!-- /stamp -->
#
# <!-- badge --><!-- /badge -->

# %% tags=["install"]
# install

# %%
import itertools
import time
from statistics import median, quantiles

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from gencourse import data, losses, nets, plot, runtime, train, widgets

# %%
plot.style()
runtime.seed_everything(0)
DEVICE = runtime.device()
print(runtime.describe())

# %%
DATA = runtime.budget(smoke="digits", cpu="fashion_mnist", gpu="fashion_mnist")
WIDTH = runtime.budget(smoke=8, cpu=32, gpu=64)  # wider than in 05: enough work to be worth timing
BATCH = runtime.budget(smoke=32, cpu=64, gpu=128)  # pictures per step
ROUNDS = runtime.budget(smoke=3, cpu=9, gpu=25)  # turns per comparison: quartiles need a handful
PER_TURN = runtime.budget(smoke=1, cpu=2, gpu=20)  # steps per turn: longer than the clock's jitter
STEPS = runtime.budget(smoke=8, cpu=120, gpu=1_000)  # where two trainings are compared
Z_DIM, LR, BETAS, SEED = 64, 1e-3, (0.5, 0.999), 0  # chapter 05's

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


def make(step=plain_step, batches=loaded, fused=False, layout=torch.contiguous_format):
    G, D = new_pair(layout)
    g_opt, d_opt = (
        torch.optim.Adam(net.parameters(), LR, BETAS, fused=fused) for net in (G, D)
    )
    source = batches()
    runtime.seed_everything(SEED)  # every loop draws the same noise
    return lambda: step(next(source), G, D, g_opt, d_opt)

# %% [markdown]
# ## Where this chapter is heading
#
# On the left the loop above, on the right the course's own, `train.train_gan`. They play the same
# game on the same pictures. (Each was run once and short; the first section says why you should not
# trust such a picture.)

# %%
def rough_rate(function, steps):
    began = time.perf_counter()
    function()
    return steps * BATCH / (time.perf_counter() - began)


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
# What the dots don't show: *drift*. A machine that warms up, or another program that starts,
# shifts all later dots. Who measures A A A B B B then credits B with the weather.
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


(low, middle, high), _, ratios = compare(make(), make())
print(f"single turns: {min(ratios):.3f} to {max(ratios):.3f} times as fast as itself")
print(f"all turns: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}")

# %% [markdown]
# Whatever the single turns claim is noise. It is the size of effect that we can't see here.
#
# Now the rule, before the results: a change is **kept** if at least three turns in four gained
# from it, that is, if the lower quartile of the ratios is above 1. `trial` measures a change on top
# of everything kept before, and adds a bar to a ladder. A bar's height is the plain loop's rate
# times all gains kept so far, so that drift between sections does not enter.

# %%
kept = {}  # arguments of `make`
seconds = [seconds_of(several(one_step)) / PER_TURN for _ in range(ROUNDS)]
ladder = [{"name": "as first written", "rate": BATCH / median(seconds), "gain": 1.0, "kept": True}]


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
from torch.profiler import ProfilerActivity, profile

activities = [ProfilerActivity.CPU]
if DEVICE.type == "cuda":
    activities.append(ProfilerActivity.CUDA)


def profiled(step, times=3):
    with profile(activities=activities) as found:
        for _ in range(times):
            step()
        wait()
    return found.key_averages(), times

# %%
def self_ms(row, times):
    """Time in the operation itself, without those that it calls [ms per step]."""
    where = "self_device_time_total" if DEVICE.type == "cuda" else "self_cpu_time_total"
    return getattr(row, where) / 1e3 / times


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
# The number above the picture counts PyTorch's calls, also those that only rename a shape. Each
# costs microseconds of Python and C++ even if it computes nothing (14.6).
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
    return {nn.BatchNorm2d: 4, nn.Flatten: 0, nn.Unflatten: 0}.get(type(layer), 1) * y.numel()

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
# In numbers moved; each has 4 bytes in float32.

# %%
def passes(net, first):
    """How often one step needs the forward pass, the input's and the weights' gradient."""
    if net == "G":
        return 1, 0 if first else 1, 1  # z needs no gradient
    return 3, 1 if first else 3, 2  # D: real, fake, and G's turn, where D's weights are frozen


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
# Now the machine. Its two rates we *measure*, since the numbers in a brochure are reached by nobody:
# a product of two large matrices for $\pi$, a copy of a tensor that fits in no cache for $\beta$.
#
# **Predict:** how many FLOPs must be done per byte moved before arithmetic is what takes the time?

# %%
SIDE = runtime.budget(smoke=256, cpu=1024, gpu=8192)
LARGE = runtime.budget(smoke=1 << 20, cpu=1 << 25, gpu=1 << 28)  # numbers


def matmul_rate(dtype):
    a, b = (torch.randn(SIDE, SIDE, device=DEVICE).to(dtype) for _ in range(2))
    taken = stopwatch({"product": lambda: a @ b})["product"]
    return 2 * SIDE**3 / median(taken)  # FLOP/s


def copy_rate():
    a = torch.randn(LARGE, device=DEVICE)
    b = torch.empty_like(a)
    taken = stopwatch({"copy": lambda: b.copy_(a)})["copy"]
    return 2 * 4 * LARGE / median(taken)  # bytes/s: read and written

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
                taken = median(stopwatch({i: lambda f=layer, x=x: f(x)}, rounds=5)[i])
                dots.append((work / size, work / taken, isinstance(layer, nn.Conv2d | nn.Linear |
                             nn.ConvTranspose2d)))  # fmt: skip
            x = y
    return dots


G, D = new_pair()
dots = {
    "G": layer_dots(G, torch.randn(BATCH, Z_DIM, device=DEVICE)),
    "D": layer_dots(D, images.batch(0, BATCH)),
}

# %%
def roof(ax, pi, beta, colour="0.2", label=None):
    intensity = torch.logspace(-1.5, 3.5, 60)
    ax.loglog(intensity, (beta * intensity).clamp(max=pi) / 1e9, color=colour, label=label)


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
# memory. Layers with weights reuse each number many times and could reach the flat roof. How far
# below a dot lies is what its kernel wastes. Layers with one output channel lie lower: little to
# reuse.
#
# A dot may lie *above* the slanted roof: we measured large copies, and a tensor that still lies in
# the processor's cache need not come from memory. And a layer alone says nothing of what two layers
# could save together by handing numbers on (14.6).
#
# The **floor of the step** is the sum over all layers of the larger of their two times.

# %%
def floor(rows, pi, beta, number_bytes=4):
    return sum(max(r["flops"] / pi, number_bytes * r["moved"] / beta) for r in rows)


FLOOR = floor(step_rows, PI, BETA)
now = BATCH / ladder[0]["rate"]
print(f"floor {1e3 * FLOOR:.1f} ms; the plain step takes {1e3 * now:.1f} ms, "
      f"{now / FLOOR:.1f} times as long")  # fmt: skip
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
MACHINES = {  # FLOP/s in float32 and in 16 bits, bytes/s
    "T4": (8.1e12, 65e12, 320e9),
    "H200": (67e12, 989e12, 4.8e12),
    "here": (PI, matmul_rate(torch.bfloat16), BETA),
}


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
    machine=["H200", "T4", "here"], precision=["bfloat16", "float32"], size=[64, 32, 28, 16],
    log2_batch=(3, 10, 7), log2_width=(3, 8, 6),
)  # fmt: skip

# %% [markdown]
# Large batches and widths push the big dots to the right, over the ridge. The small dots never
# move: an activation has the same intensity at every size. The faster the arithmetic, the further
# right the ridge, and on a fast GPU the *memory* side takes most of the floor.
#
# What it does not show: the time to *start* an operation. At batch 8 the floor of a fast GPU is
# microseconds, and no one gets near it (14.6).

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
plt.close(explore_roofline("H200", "bfloat16", 64, 7, 6))
print(f"the explorer draws in {1e3 * (time.perf_counter() - began):.0f} ms")

# %% [markdown]
# ## 14.4 Free lunches
#
# **Question.** What can be left out without changing a single number? Four candidates in the step:
#
# 1. G runs twice on the same noise: once is enough;
# 2. in G's turn autograd computes gradients of D's weights, and `zero_grad` throws them away;
# 3. `.item()` makes the program wait for the device at every step;
# 4. pictures are converted one at a time, every time they are seen.
#
# **Predict:** how much does each give? Sort them before you run the cells.

# %%
def one_pass_step(x_real, G, D, g_opt, d_opt):
    x_fake = G(torch.randn(len(x_real), Z_DIM, device=DEVICE))  # once, and used twice

    d_loss = losses.discriminator_loss(D(x_real), D(x_fake.detach()))
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()

    g_loss = losses.generator_loss(D(x_fake))
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    return d_loss.item(), g_loss.item()


trial("one G pass", step=one_pass_step)

# %% [markdown]
# G has not changed between its two passes, so the second only repeated the first. (One thing did
# change: BatchNorm's running averages were updated twice per step. They are used in eval mode
# only.) Next: D's weights frozen in G's turn.

# %%
def frozen_step(x_real, G, D, g_opt, d_opt):
    x_fake = G(torch.randn(len(x_real), Z_DIM, device=DEVICE))

    d_loss = losses.discriminator_loss(D(x_real), D(x_fake.detach()))
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()

    D.requires_grad_(False)  # new
    g_loss = losses.generator_loss(D(x_fake))
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    D.requires_grad_(True)  # new
    return d_loss.item(), g_loss.item()


trial("D frozen in G's turn", step=frozen_step)

# %% [markdown]
# Then `.item()`. We return the tensors and look at them later, all at once. On a CPU nothing runs
# ahead, so nothing can be gained. On a GPU each `.item()` stops the queue of waiting work: Python
# can't prepare the next step while this one is computed.

# %%
def lean_step(x_real, G, D, g_opt, d_opt):
    x_fake = G(torch.randn(len(x_real), Z_DIM, device=DEVICE))

    d_loss = losses.discriminator_loss(D(x_real), D(x_fake.detach()))
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()

    D.requires_grad_(False)
    g_loss = losses.generator_loss(D(x_fake))
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    D.requires_grad_(True)
    return d_loss.detach(), g_loss.detach()  # new: they stay on the device


trial("no .item()", step=lean_step)

# %% [markdown]
# The data. `images.batch` keeps all pictures as *bytes* on the device, takes a batch's rows with
# one indexing operation and converts 64 pictures in one go. Bytes are a quarter of the floats'
# traffic. How much of a step the loader takes depends on the net: the smaller the net, the larger
# its share. On a GPU it is often *the* limit, since one CPU core prepares pictures for a device
# that is a hundred times faster.

# %%
def on_device():
    return (images.batch(step, BATCH) for step in itertools.count())


alone = stopwatch({"loader": lambda it=loaded(): next(it), "device": lambda it=on_device():
                   next(it)})  # fmt: skip
for name, taken in alone.items():
    print(f"a batch from the {name:7}{1e3 * median(taken):7.2f} ms")
trial("bytes on the device", batches=on_device)

# %% [markdown]
# Two more change only *how* numbers are laid out or grouped. **Fused Adam** updates all weights in
# one operation instead of a dozen per tensor. **channels_last** stores the channels of a pixel side
# by side (B, H, W, C in memory; the shape you see stays B, C, H, W), as convolution kernels like
# them.

# %%
trial("fused Adam", fused=True)
trial("channels_last", layout=torch.channels_last)

# %%
show_ladder()

# %% [markdown]
# Compare with your predictions. Grey bars did not pay here. They may elsewhere: the same list on a
# GPU, or with another width, has another order. That is why the *rule* belongs to you and the
# numbers to the machine.
#
# A change that is dropped for its speed can still be kept for other reasons, and the other way
# round. But none of these may change what is learned, and that we don't believe: we prove it.

# %%
# checkpoint: the same gradients of G, bitwise; the same pictures; the same Adam within rounding
def gradients(step):
    G, D = new_pair()
    idle = torch.optim.SGD(G.parameters(), 0.0), torch.optim.SGD(D.parameters(), 0.0)
    runtime.seed_everything(SEED)
    step(images.batch(0, BATCH), G, D, *idle)
    return [p.grad for p in G.parameters()]


reference = gradients(plain_step)
for step in (one_pass_step, frozen_step, lean_step):
    for a, b in zip(reference, gradients(step), strict=True):
        if DEVICE.type == "cpu":
            assert torch.equal(a, b)
        else:  # some GPU kernels add in another order each time
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
torch.testing.assert_close(next(loaded()), next(on_device()), rtol=0, atol=1e-6)

# %%
def weights_after(steps=3, **arguments):
    """All weights of G after a few steps of a loop, in one row."""
    loop = make(step=lean_step, batches=on_device, **arguments)
    for _ in range(steps):
        loop()
    G = next(c.cell_contents for c in loop.__closure__ if isinstance(c.cell_contents, nn.Module)
             and hasattr(c.cell_contents, "z_dim"))  # fmt: skip
    return torch.cat([p.detach().flatten() for p in G.parameters()])
