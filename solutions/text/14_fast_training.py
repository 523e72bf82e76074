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
# # 14 · Exercises: fast training
#
# Five functions to write, for [chapter 14](../chapters/14_fast_training.ipynb): an honest
# stopwatch, the floor of a layer, a step in 16 bits, and what several processes must share so that
# they are one. Nothing here needs a GPU. How to work, and how to read what the checks say, is in
# the [page for learners](README.md).

# %% [markdown]
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/exercises/14_fast_training.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import time
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from torch.nn import functional as F

from gencourse import data, plot
from gencourse.checks import check

# %%
plot.style()
digits = data.load("digits")
x_train = digits.images(torch.arange(1_024)).cpu()  # (1024, 1, 16, 16) in [-1, 1]

# %% [markdown]
# ## 14.1 · Repair: faster than physics
#
# *warm-up · 15 minutes · repair · `mended_stopwatch`*
#
# A GPU works off a *queue*: a call hands the work over and returns at once. A thread stands for it
# here, so that nobody needs a GPU; `synchronise` waits until it has done everything. Somebody has
# measured matrix products of three sizes on it.

# %%
def broken_stopwatch(work, clock, synchronise, warm_up, repeats):
    """Seconds of one call of work."""
    start = clock()
    for _ in range(repeats):
        work()
    return (clock() - start) / repeats

# %%
queue, waiting = ThreadPoolExecutor(max_workers=1), []
queue.submit(time.sleep, 0).result()  # the thread is there from now on


def synchronise():
    """Wait until the device has done all that it was given."""
    while waiting:
        waiting.pop(0).result()


def product(side):
    """A function that hands the device a product of two matrices (side, side)."""
    a = torch.randn(side, side)
    return lambda: waiting.append(queue.submit(torch.mm, a, a))

# %%
def race(stopwatch):
    for side in (128, 256, 512):
        seconds = stopwatch(product(side), time.perf_counter, synchronise, warm_up=3, repeats=21)
        print(f"{side:4}² × {side:3}²: {1e6 * seconds:9.1f} µs, {2e-9 * side**3 / seconds:10,.1f} "
              "GFLOP/s")
    synchronise()


race(broken_stopwatch)

# %% [markdown]
# Each product has eight times the arithmetic of the one before it, and the table sees nothing of
# that: the larger the matrices, the "faster" the machine. The last line is more than one thread of
# any processor can do. It does *not* say that this is the program's only fault. And had it been
# wrong by a factor of two only, nobody would have noticed.
#
# Write the mended one. `work()` hands over one call, `clock()` returns seconds, `synchronise()`
# waits. Make `warm_up` calls that aren't timed; then time `repeats` calls (an odd number), *each on
# its own*, until the device is done. Return their median [s]. Before you are called, the queue may
# hold work of others.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Draw two lines, program and device, and mark where each call is handed over and where it is done.
# Between which two points should the clock run? What may still be going on at the first of them?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `synchronise()` once after the warm-up; then for each call `start = clock()`, `work()`,
# `synchronise()`, and the difference goes into a list. The middle of the sorted list is the median.
#
# </details>

# %%
def mended_stopwatch(work, clock, synchronise, warm_up, repeats):
    """Median time of one call of work [s], over `repeats` calls after `warm_up` others."""
    # BEGIN SOLUTION
    for _ in range(warm_up):
        work()
    synchronise()  # nothing of the warm-up, or of anybody before, runs into the first timing
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        synchronise()
        times.append(clock() - start)
    return sorted(times)[repeats // 2]
    # END SOLUTION


# %%
check("mended_stopwatch", mended_stopwatch)
race(mended_stopwatch)

# %% [markdown]
# Now the time grows with the arithmetic, and the rates are ones that a processor may have. Part of
# the smallest product's time is no work at all: to hand it over and to hear of its end. That part
# is real, too. The smaller the work, the larger its share, and that is what CUDA graphs are for
# (14.6 of the chapter).

# %% [markdown]
# ## 14.2 · The floor of a layer
#
# *core · 20 minutes · `conv_floor`*
#
# No kernel, however clever, is faster than this bound (14.3 of the chapter):
#
# $$t \ge \max\left(\frac{F}{\pi}, \frac{M}{\beta}\right)$$
#
# for one forward pass of a convolution without bias. F: its FLOPs, where a multiplication and an
# addition are two, and padded zeros are multiplied like all numbers. M: the bytes of x, w and the
# result; every number moves *once*, and padding doesn't.
#
# `x_shape`: (B, C, H, W); `w_shape`: (C′, C, k, k′), whose sides may differ; `stride` and `padding`
# (at both ends): the same for both sides; `number_bytes`: bytes per number; `pi` [FLOP/s] and
# `beta` [bytes/s]. Return F, M and the floor [s], three numbers.
#
# Predict: for which batch sizes is a layer limited by its *weights*?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Everything follows from the shape of the result, (B, C′, H′, W′). How many products does one of
# its numbers need? (Chapter 03 has H′.)
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# H′ = (H + 2p − k) // s + 1. F is 2·C·k·k′ per number of the result; M is `number_bytes` times the
# three tensors' counts of numbers together.
#
# </details>

# %%
def conv_floor(x_shape, w_shape, stride, padding, number_bytes, pi, beta):
    """FLOPs, bytes moved, and the least seconds of a convolution's forward pass."""
    # BEGIN SOLUTION
    B, C, H, W = x_shape
    C_out, _, k_h, k_w = w_shape
    H_out = (H + 2 * padding - k_h) // stride + 1
    W_out = (W + 2 * padding - k_w) // stride + 1
    n_x, n_w, n_y = B * C * H * W, C_out * C * k_h * k_w, B * C_out * H_out * W_out
    flops = 2 * C * k_h * k_w * n_y
    moved = number_bytes * (n_x + n_w + n_y)
    return flops, moved, max(flops / pi, moved / beta)
    # END SOLUTION

# %% [markdown]
# The discriminator of a DCGAN for 64×64 colour pictures, in 16 bits, on a GPU with the rates of an
# H200's data sheet (the vendor's numbers; nobody reaches them).

# %%
layers = {  # x without its batch, w; kernels 4×4, stride 2, padding 1
    "3 → 64": ((3, 64, 64), (64, 3, 4, 4)),
    "64 → 128": ((64, 32, 32), (128, 64, 4, 4)),
    "256 → 512": ((256, 8, 8), (512, 256, 4, 4)),
}
PI, BETA = 989e12, 4.8e12
batches = [2**k for k in range(13)]

# %%
check("conv_floor", conv_floor)
fig, ax = plt.subplots(figsize=(5.6, 2.9))
for (name, (x_shape, w_shape)), style in zip(layers.items(), ("-", "--", ":"), strict=True):
    per_picture = [1e9 * conv_floor((b, *x_shape), w_shape, 2, 1, 2, PI, BETA)[2] / b
                   for b in batches]
    ax.loglog(batches, per_picture, style, color=plot.THIRD, label=name)
ax.set_xscale("log", base=2)
ax.set(xlabel="batch size", ylabel="floor per picture [ns]")
ax.legend(title="channels", fontsize=8)
plot.show(fig, alt="Floor per picture against batch size: flat for the first layer; for the last "
          "it falls as 1/B down to the middle one's line, then both are flat.")
flops, moved, _ = conv_floor((1, 256, 8, 8), (512, 256, 4, 4), 2, 1, 2, PI, BETA)
print(f"one picture through the last layer: {flops / moved:.0f} FLOP per byte; the ridge is at "
      f"{PI / BETA:.0f}")

# %% [markdown]
# The last layer reads millions of weights whether one picture comes or a hundred: its floor *per
# picture* falls until arithmetic takes over. From there it costs what the middle one costs: a
# quarter of the places, four times the products. The first layer has hardly any weights and large
# pictures, nothing to share: it is limited by memory at every batch size. What the figure leaves
# out is the time to start a kernel: microseconds, however few the pictures.

# %% [markdown]
# ## 14.3 · A step in 16 bits
#
# *core · 30 minutes · `float16_step`*
#
# The chapter leaves the rounding to `autocast`. Here you do it: the weights that are *used* are
# float16 copies, those that are *moved* stay float32. With the loss scale S, the rate η, and L of
# the copies:
#
# $$g = \frac1S\,\nabla(S\cdot L), \qquad w \leftarrow w - \eta\,g .$$
#
# `weights`: list of float32 tensors; `loss_of(low)`: their loss (a float32 scalar) from a list of
# float16 copies; `scale`: S; `lr`: η. Return the list of new weights (float32) and the scale for
# the next step. If any number of any gradient isn't finite, no weight moves and the scale is
# halved; otherwise it stays. `weights` themselves are left as they are.
#
# Predict: what becomes of a gradient of $10^{-8}$ if it is divided by S one line too early?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# `w.half().requires_grad_()` is a new leaf: autograd hands you its gradient, in float16. Write down
# the dtype of every quantity in your function; in which lines could something small disappear?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `torch.autograd.grad(scale * loss_of(low), low)`, then `g.float() / scale` for each. One question
# for all of them: `all(g.isfinite().all() for g in gradients)`.
#
# </details>

# %%
def float16_step(weights, loss_of, scale, lr):
    """One step of gradient descent in float16 with a loss scale: (new weights, next scale)."""
    # BEGIN SOLUTION
    low = [w.half().requires_grad_() for w in weights]
    gradients = torch.autograd.grad(scale * loss_of(low), low)
    gradients = [g.float() / scale for g in gradients]
    if not all(g.isfinite().all() for g in gradients):
        return weights, scale / 2
    return [w - lr * g for w, g in zip(weights, gradients, strict=True)], scale
    # END SOLUTION

# %% [markdown]
# A small linear autoencoder of digits. Its loss is a mean over batch and pixels with the weight
# 0.001, as one term of several might have: small gradients.

# %%
x_flat = x_train[:256].flatten(1)


def autoencoder_loss(low):
    """0.001 times the mean squared error; low: two matrices, of float16 or float32."""
    back = x_flat.to(low[0].dtype) @ low[0] @ low[1]  # (256, 256) → (256, 24) → (256, 256)
    return 1e-3 * (back.float() - x_flat).square().mean()


def first_weights():
    torch.manual_seed(0)
    return [torch.randn(256, 24) / 16, torch.randn(24, 256) / 24]


def unscaled_step(weights, dtype, lr):
    low = [w.to(dtype).requires_grad_() for w in weights]
    gradients = torch.autograd.grad(autoencoder_loss(low), low)
    return [w - lr * g for w, g in zip(weights, gradients, strict=True)]

# %%
STEPS, RATE = 100, 1_000.0  # the rate is the inverse of the loss's small weight
errors = {}
for name, dtype in (("float32", torch.float32), ("float16, no scale", torch.float16)):
    weights, errors[name] = first_weights(), []
    for _ in range(STEPS):
        errors[name].append(1e3 * autoencoder_loss(weights).item())
        weights = unscaled_step(weights, dtype, RATE)
print("after training: " + ", ".join(f"{k} {v[-1]:.3f}" for k, v in errors.items()))

# %%
check("float16_step", float16_step)
weights, scale, mine, scales = first_weights(), 2.0**40, [], []
for _ in range(STEPS):
    mine.append(1e3 * autoencoder_loss(weights).item())
    weights, scale = float16_step(weights, autoencoder_loss, scale, RATE)
    scales.append(scale)
fig, ax = plt.subplots(figsize=(5.6, 2.9))
for (name, values), colour in zip(errors.items(), ("0.6", plot.FOURTH), strict=True):
    ax.plot(values, color=colour, label=name)
ax.plot(mine, "--", color=plot.THIRD, label="float16 with your step")
ax.set(xlabel="step", ylabel="mean squared error", ylim=(0, None))
ax.legend(fontsize=8)
plot.show(fig, alt="Error against the step. float32 falls; float16 without a scale gets stuck; "
          "with the scale it falls as float32 does, some skipped steps later.")
skipped = sum(b < a for a, b in zip([2.0**40, *scales], scales, strict=False))
print(f"{skipped} steps skipped; then the scale stays at 2^{torch.tensor(scale).log2():.0f}")

# %% [markdown]
# The scale began far too high, and that was harmless: each overflow costs one step and a factor of
# 2. Too low would cost far more and say nothing: the stuck curve looks like a net that can't do
# better. The figure doesn't say that float16 is faster; on this CPU it need not be.

# %% [markdown]
# ## 14.4 · Who takes which pictures
#
# *warm-up · 10 minutes · `rank_rows`*
#
# N processes are to take *the same step* as one (14.8 of the chapter): together they use exactly
# the pictures of the global batch, each picture once. `order`: (L,) int64, the epochs' permutations
# laid end to end, as `images.indices` has them: one process uses B numbers of it per step, one
# batch after the other.
#
# `step`: from 0; `batch_size`: B, that of the *global* batch; `rank`: from 0 to N − 1; `world`: N.
# Return the numbers of this rank's pictures, (B / N,) int64. Where N doesn't divide B, the ranks'
# sizes differ by one at most. Which rank takes which part is up to you.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The first half of the answer doesn't know that there are ranks.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The batch is `order[step * batch_size : (step + 1) * batch_size]`. A slice can have a step of its
# own: `[start::stride]`. Or look at `torch.tensor_split`.
#
# </details>

# %%
def rank_rows(order, step, batch_size, rank, world):
    """The numbers of the pictures that a rank uses in a step: (B / N,) int64."""
    # BEGIN SOLUTION
    batch = order[step * batch_size : (step + 1) * batch_size]
    return batch[rank::world]
    # END SOLUTION


# %%
check("rank_rows", rank_rows)
order = torch.cat([torch.randperm(24), torch.randperm(24)])
owner = torch.zeros(6, 24)
for step in range(6):
    for rank in range(4):
        owner[step, rank_rows(order, step, 8, rank, 4)] = rank + 1
fig, ax = plt.subplots(figsize=(5.6, 1.9))
colours = ["white", plot.REAL, plot.FAKE, plot.THIRD, plot.FOURTH]
ax.imshow(owner, cmap=ListedColormap(colours), vmin=0, vmax=4, aspect="auto")
ax.axhline(2.5, color="0.3", linewidth=1)
ax.set(xlabel="picture", ylabel="step", yticks=range(6))
plot.show(fig, alt="Six steps by 24 pictures, coloured by rank: eight pictures a step, two per "
          "rank; within three steps, an epoch, each picture is used once.")

# %% [markdown]
# Above the line is one epoch, below it the next: in each, every column has one colour. Is the mean
# of the ranks' gradients that of one process? A mean of means is one only for equal sizes.

# %%
def gradient(rows):
    """Gradient of a mean loss over these digits: (10, 256)."""
    w = torch.zeros(10, 256, requires_grad=True)
    loss = F.cross_entropy(x_train[rows].flatten(1) @ w.T, digits.labels[rows.cpu()].cpu())
    return torch.autograd.grad(loss, w)[0]


def farthest(batch, parts):
    """How far the mean over parts is from the gradient of all, relative to it; then weighted."""
    whole, found = gradient(batch), [gradient(p) for p in parts]
    means = sum(found) / len(found)
    weighted = sum(len(p) * g for p, g in zip(parts, found, strict=True)) / len(batch)
    return [((g - whole).norm() / whole.norm()).item() for g in (means, weighted)]


for B in (8, 9):
    means, weighted = farthest(torch.arange(B), torch.arange(B).tensor_split(4))
    print(f"B = {B}, N = 4: mean of the ranks' gradients off by {means:.0e}, weighted "
          f"{weighted:.0e}")

# %% [markdown]
# With nine pictures the plain mean is another gradient. One can weigh; simpler is to refuse, and
# that is what the course's `train` does: B must be a multiple of N.

# %% [markdown]
# ## 14.5 · BatchNorm over all ranks
#
# *stretch · 35 minutes · `global_batch_norm`*
#
# The chapter's `global_norm` sees all slices at once, and all are equally large. Write the program
# that *each rank* runs, so that N ranks normalise as one process would. Ranks talk by
# `total = yield mine`: it hands over a number or a tensor of any shape, and gives back the sum over
# all ranks (an all-reduce). All must yield equally often. An example:

# %%
def largest_share(x):
    """A rank's program: the share of all pictures that are here."""
    everywhere = yield len(x)
    return len(x) / everywhere


def on_ranks(program, parts, *arguments):
    """Run a program on each part, side by side. Returns: what each of them returns."""
    running = [program(x, *arguments) for x in parts]
    handed = [next(p) for p in running]
    while True:
        total, handed, returned = sum(handed), [], []
        for p in running:
            try:
                handed.append(p.send(total))
            except StopIteration as stop:
                returned.append(stop.value)
        if returned:
            return returned


print(on_ranks(largest_share, [torch.zeros(6), torch.zeros(2)]))

# %% [markdown]
# With the mean $\mu_c$ and the *biased* variance $\sigma^2_c$ of channel c over all pictures of all
# ranks and all their places,
#
# $$y = \frac{x - \mu_c}{\sqrt{\sigma^2_c + \varepsilon}}.$$
#
# `x`: this rank's (B, C, H, W), where B may differ from rank to rank; `eps`: ε. Return y of the
# same shape. Two conditions: means may be as far from 0 as 4,000 with a spread of 1 (float32); and
# gradients flow through the sums to *all* ranks, as `yield` lets them.
#
# Predict: why is the mean of the ranks' variances too small?

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Hand over sums and counts, never means: a rank with two pictures counts less than one with five.
# And 4,000² has eight digits, of which float32 keeps seven; so what should be squared?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Three exchanges: how many numbers a channel has here; `x.sum(dim=(0, 2, 3))`, after which μ is
# known; then the sums of `(x - mean)²` with that *global* μ. `[:, None, None]` brings (C,) into the
# form of a picture.
#
# </details>

# %%
def global_batch_norm(x, eps):
    """One rank's program: x (B, C, H, W) normalised with the statistics of all ranks."""
    # BEGIN SOLUTION
    count = yield x.numel() / x.shape[1]
    total = yield x.sum(dim=(0, 2, 3))
    apart = x - (total / count)[:, None, None]
    squares = yield apart.square().sum(dim=(0, 2, 3))
    return apart / (squares / count + eps).sqrt()[:, None, None]
    # END SOLUTION

# %% [markdown]
# 64 digits behind a random convolution, cut into shares; compared with BatchNorm in one process.

# %%
torch.manual_seed(0)
activations = F.conv2d(x_train[:64], torch.randn(8, 1, 5, 5), stride=4)  # (64, 8, 3, 3)
alone = F.batch_norm(activations, None, None, training=True)
per_rank = [1, 2, 4, 8, 16, 32]
own = [torch.cat([F.batch_norm(x, None, None, training=True) for x in activations.split(n)])
       for n in per_rank]

# %%
check("global_batch_norm", global_batch_norm)
shared = [torch.cat(on_ranks(global_batch_norm, activations.split(n), 1e-5)) for n in per_rank]
fig, ax = plt.subplots(figsize=(5.6, 2.7))
lines = ("each rank alone", own, "0.6"), ("over all ranks", shared, plot.THIRD)
for name, values, colour in lines:
    off = [(y - alone).square().mean().sqrt().item() for y in values]
    ax.loglog(per_rank, off, "o-", color=colour, label=name)
ax.set_xscale("log", base=2)
ax.set(xlabel="pictures per rank", ylabel="off by (root mean square)")
ax.legend(fontsize=8)
plot.show(fig, alt="Difference from BatchNorm in one process: with each rank alone some "
          "tenths, slowly falling as shares grow; over all ranks only rounding noise.")
print(f"with {per_rank[0]} and {per_rank[-1]} pictures per rank, over all ranks: off by "
      f"{(shared[0] - alone).abs().max():.1e} and {(shared[-1] - alone).abs().max():.1e}")

# %% [markdown]
# The grey line falls slowly, as the noise of a mean does. It doesn't say that training with it is
# worse: at 32 pictures a rank many people never notice. But it is *another* training with every
# number of ranks, and nothing can be compared any more. The price of the green line is an exchange
# in every layer, forward and backward: on a slow network that can cost more than the step.

# %% [markdown]
# ## What you have now
#
# A clock that waits, a bound that tells you when to stop trying, float16 that doesn't lose what is
# small, and N processes that are one. Back to [chapter 14](../chapters/14_fast_training.ipynb):
# which of its numbers would your stopwatch confirm on *your* machine?
