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
# # 5 · DCGAN
#
# A generator made of convolutions learns to draw clothes, and then tries photographs in colour: in
# minutes and without a GPU.

# %% [markdown]
# **After this chapter you can** build a convolutional generator and discriminator and say what each
# of their parts is for · train them to the end, stop and continue them bit for bit, and average the
# generator · look at the result honestly, name its failures, and measure them with a judge.
#
# **You need** [chapter 04](04_first_gan.ipynb) (the GAN loop, `detach`, the two losses),
# [chapter 03](03_convolutions.ipynb) (convolutions) and [chapter 02](02_minimax.ipynb) (the game
# that circles).
#
# <!-- stamp -->
# *Run time: 27 min, peak memory 2.2 GB, `cpu` profile on `cifar10 (JPEG copies)`, `fashion_mnist`
# (cpu · 2 cores (2 threads) · Linux x86_64 · Python 3.11.7 · torch 2.15.0).*
# <!-- /stamp -->
#
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/chapters/05_dcgan.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import copy
import math
import signal

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from gencourse import data, divergences, evaluate, losses, nets, plot, run, runtime, train, widgets

# %%
plot.style()
runtime.seed_everything(0)
DEVICE = runtime.device()
print(runtime.describe())

# %%
DATA = runtime.budget(smoke="digits", cpu="fashion_mnist", gpu="fashion_mnist")
STEPS = runtime.budget(smoke=16, cpu=3_500, gpu=20_000)  # about three minutes on 2 cores
SHORT = runtime.budget(smoke=6, cpu=60, gpu=60)  # proofs need only as many steps as can differ
TRIAL = runtime.budget(smoke=2, cpu=200, gpu=400)  # per ablation: enough to see who starts badly
Z_DIM = 64  # directions G can vary along; the paper has 100
WIDTH = runtime.budget(smoke=8, cpu=16, gpu=64)  # channels of the largest maps; twice the width
# costs two to three times as much per step, and here minutes count
BATCH = 64  # smaller ones step faster but make BatchNorm noisy
LR = 1e-3  # the paper's 2e-4 is slow when minutes count; ours falls later on
BETAS = (0.5, 0.999)  # Adam's; section 5.4 tries the usual 0.9
EMA_DECAY = 0.995  # averages the generator over about 200 steps
SEED = 0

# %% [markdown]
# ## Where this chapter is heading
#
# Above are real pictures. Below is what our generator draws before it has learned anything: noise
# in, noise out. By section 5.6 the lower row should show clothes too, many of them with faults.
# After that come photographs.

# %%
images = data.load(DATA)
test_images = data.load(DATA, split="test")
CHANNELS, SIZE, _ = images.shape
print(images)

# %%
untrained = nets.DCGANGenerator(SIZE, CHANNELS, Z_DIM, WIDTH).to(DEVICE)
with torch.no_grad():
    x_fake = untrained(torch.randn(12, Z_DIM, device=DEVICE))
plot.show(
    plot.rows({"real": images.batch(0, 12), "before training": x_fake}),
    alt="Above twelve real pictures, below twelve generated ones that are nothing but grey noise.",
)

# %% [markdown]
# ## 5.1 Convolutions that shrink and grow
#
# **Question.** The dense nets of chapter 04 treat a picture as a list of numbers. They would learn
# just as well (or badly) if we shuffled all pixels. How do we build in that neighbours belong
# together, and that a sleeve is a sleeve wherever it is?
#
# A **convolution** slides one small kernel over the picture. With *stride* 2 it moves two pixels at
# a time, so the output has half the side. A **transposed convolution** does the reverse: each input
# pixel *paints* a scaled copy of the kernel, two pixels apart, and overlaps add up. The output has
# twice the side. ([Chapter 03](03_convolutions.ipynb) takes its time over both.)

# %% [markdown]
# For a kernel of side $k$, stride $s$ and padding $p$, a side of $n$ pixels becomes
#
# $$n_\text{conv} = \left\lfloor\frac{n + 2p - k}{s}\right\rfloor + 1, \qquad
# n_\text{transposed} = (n - 1)\,s - 2p + k.$$
#
# **Predict:** what do $k=4$, $s=2$, $p=1$ do to 28 pixels? And to 7?

# %%
down = nn.Conv2d(1, 1, kernel_size=4, stride=2, padding=1)
up = nn.ConvTranspose2d(1, 1, kernel_size=4, stride=2, padding=1)
for n in (28, 14, 64, 7):
    x = torch.zeros(1, 1, n, n)
    print(f"{n:2d} pixels   convolution → {down(x).shape[-1]:2d}", end="")
    print(f"   transposed → {up(x).shape[-1]:3d}")

# %% [markdown]
# Exactly half for every even side, and exactly double for every side. That is why $(4, 2, 1)$
# is in nearly every DCGAN.
#
# Why "transposed"? A convolution is linear, so it *is* a matrix $A$: feed in each unit vector and
# write the results side by side as columns. We do that in one dimension, from 8 pixels to 4, with
# the kernel $(1, 2, 3, 4)$.
#
# **Predict:** how will the matrix of the transposed convolution, from 4 pixels to 8, look?

# %%
kernel = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
A = F.conv1d(torch.eye(8)[:, None], kernel, stride=2, padding=1)[:, 0].T
B = F.conv_transpose1d(torch.eye(4)[:, None], kernel, stride=2, padding=1)[:, 0].T

# %%
fig, axes = plt.subplots(1, 2, figsize=(6, 2.9), width_ratios=[2, 1.3])
for ax, matrix, name in zip(axes, (A, B), ("convolution", "transposed"), strict=True):
    ax.imshow(matrix, cmap="Blues", vmin=0, vmax=6)
    for i, row in enumerate(matrix.int().tolist()):
        for j, value in enumerate(row):
            ax.text(j, i, value or "·", ha="center", va="center")
    ax.set(title=f"{name}: {len(matrix)}×{len(matrix[0])}")
    ax.set_axis_off()
plot.show(
    fig,
    alt="Two matrices of small numbers. The 4×8 one of the convolution has the kernel 1 2 3 4 in "
    "each row, moved by two; the 8×4 one of the transposed convolution is its mirror image.",
)

# %% [markdown]
# Rows became columns: the matrix of the transposed convolution is $A^\top$. It does *not* undo the
# convolution ($A^\top A$ is not the identity); it only has the shape of an inverse. What fills in
# the picture is learned.
#
# One thing to remember from chapter 03: with a kernel whose side is a multiple of the stride, every
# pixel away from the border is painted equally often. With kernel 3 and stride 2 the counts form a
# chequerboard, and the net has to learn to undo it. Equal counts are no guarantee: with unequal
# weights kernel 4 can paint a chequerboard too (look for one in 5.4). But kernel 3 paints one even
# with equal weights.

# %%
# checkpoint: ⟨conv(x), y⟩ = ⟨x, transposed(y)⟩, and autograd's gradient is the same map
x = torch.randn(1, 3, 28, 28, dtype=torch.float64, requires_grad=True)
y = torch.randn(1, 8, 14, 14, dtype=torch.float64)
weight = torch.randn(8, 3, 4, 4, dtype=torch.float64)
inner = (F.conv2d(x, weight, stride=2, padding=1) * y).sum()
painted = F.conv_transpose2d(y, weight, stride=2, padding=1)
torch.testing.assert_close(inner, (x * painted).sum())
torch.testing.assert_close(torch.autograd.grad(inner, x)[0], painted)
assert torch.equal(A.T, B)
ones = torch.ones(1, 1, 9, 9)
for k, extra in ((4, 0), (3, 1)):  # how often pixels away from the border are painted
    count = F.conv_transpose2d(ones, torch.ones(1, 1, k, k), None, 2, 1, extra)[..., 2:-2, 2:-2]
    assert count.unique().tolist() == ([4] if k == 4 else [1, 2, 4])

# %% [markdown]
# ## 5.2 Two convolutional nets
#
# **Question.** What does the pair look like?
#
# The **generator** spreads $z$ over many channels of a coarse map, then doubles the side and halves
# the channels until the picture's size is reached. The **discriminator** walks the same way back.
# DCGAN's rules (Radford et al. 2016):
#
# 1. strides, no pooling: the nets learn how to resample;
# 2. no dense (fully connected) hidden layers: only one at G's start and one at D's end;
# 3. BatchNorm, except where pictures enter or leave;
# 4. ReLU in G, tanh at its end (pictures are in $[-1, 1]$), LeakyReLU in D;
# 5. small initial weights, $\mathcal N(0, 0.02^2)$;
# 6. Adam with $\beta_1 = 0.5$.

# %%
DOUBLINGS = {16: 2, 28: 2, 32: 2, 64: 3}  # coarsest maps: 4, 7, 8 and 8 pixels


class Generator(nn.Module):
    def __init__(self, size, channels, z_dim, width):
        super().__init__()
        self.z_dim = z_dim
        side = size // 2 ** DOUBLINGS[size]
        c = width * 2 ** DOUBLINGS[size]
        layers = [nn.Linear(z_dim, c * side * side, bias=False), nn.Unflatten(1, (c, side, side))]
        layers += [nn.BatchNorm2d(c), nn.ReLU()]  # its own shift makes a bias before it useless
        for _ in range(DOUBLINGS[size]):  # (B, c, s, s) → (B, c/2, 2s, 2s)
            layers += [nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(c // 2), nn.ReLU()]
            c //= 2
        layers += [nn.Conv2d(c, channels, 3, padding=1), nn.Tanh()]
        self.body = nn.Sequential(*layers)
        self.apply(small_normal)

    def forward(self, z):  # (B, Z) → (B, C, H, W)
        return self.body(z)


# %%
class Discriminator(nn.Module):
    def __init__(self, size, channels, width):
        super().__init__()
        side = size // 2 ** DOUBLINGS[size]
        c = width
        layers = [nn.Conv2d(channels, c, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(DOUBLINGS[size] - 1):  # (B, c, s, s) → (B, 2c, s/2, s/2)
            layers += [nn.Conv2d(c, 2 * c, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(2 * c), nn.LeakyReLU(0.2)]
            c *= 2
        layers += [nn.Conv2d(c, 2 * c, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(2 * c), nn.LeakyReLU(0.2)]
        layers += [nn.Flatten(), nn.Linear(2 * c * side * side, 1)]
        self.body = nn.Sequential(*layers)
        self.apply(small_normal)

    def forward(self, x):  # (B, C, H, W) → logits (B,)
        return self.body(x).squeeze(1)


# %%
def small_normal(module):
    """Weights from N(0, 0.02²), BatchNorm's scale from N(1, 0.02²), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)


# %% [markdown]
# We print how the shape changes through both nets. **Predict** first: in which layer of the
# generator are most of the weights?

# %%
G = Generator(SIZE, CHANNELS, Z_DIM, WIDTH)
D = Discriminator(SIZE, CHANNELS, WIDTH)
for net, x in ((G, torch.randn(2, Z_DIM)), (D, torch.randn(2, CHANNELS, SIZE, SIZE))):
    print(f"{type(net).__name__}: {sum(p.numel() for p in net.parameters()):,} weights")
    for layer in net.body:
        x = layer(x)
        if weights := sum(p.numel() for p in layer.parameters()):
            print(f"  {type(layer).__name__:16} → {tuple(x.shape[1:])!s:14} {weights:8,} weights")

# %% [markdown]
# Both nets are sandwiches of the same few layers. The convolutions are cheap in weights because
# every place in the picture shares them. The generator's linear layer, which knows about places,
# holds more than half of its weights; the discriminator's has a single output and holds few.
#
# The package has the same two nets. To prove it, we copy our weights into them and compare outputs.

# %%
# checkpoint: our nets and the package's are the same function
for mine, theirs, x in (
    (G, nets.DCGANGenerator(SIZE, CHANNELS, Z_DIM, WIDTH), torch.randn(8, Z_DIM)),
    (D, nets.DCGANDiscriminator(SIZE, CHANNELS, WIDTH), torch.randn(8, CHANNELS, SIZE, SIZE)),
):
    theirs.load_state_dict(mine.state_dict())
    torch.testing.assert_close(mine(x), theirs(x), rtol=0, atol=0)
    assert mine.body[0].weight.std() < 0.03  # the small start is really there

# %% [markdown]
# ## 5.3 The loop, whole
#
# Chapter 04 had the loop. Three things are new: D is frozen in G's step, the learning rate falls,
# and the generator is averaged. `Run` looks after progress and checkpoints, as before. One at a
# time.
#
# **Freezing.** G's step needs the gradient *through* D to the picture. It does not need the
# gradient *of* D's weights, which `d_opt.zero_grad()` would throw away. `D.requires_grad_(False)`
# saves that work.
#
# **Predict:** does it change G's gradient a little, or not at all?


# %%
def gradients(freeze):
    G.zero_grad()
    D.zero_grad()
    x_fake = G(torch.randn(BATCH, Z_DIM, generator=torch.Generator().manual_seed(1)))
    D.requires_grad_(not freeze)
    losses.generator_loss(D(x_fake)).backward()
    D.requires_grad_(True)
    wasted = sum(p.grad is not None for p in D.parameters())
    print(f"freeze={freeze!s:5}: gradients computed for {wasted} tensors of D")
    return [p.grad for p in G.parameters()]


pairs = list(zip(gradients(False), gradients(True), strict=True))
print("G's gradients are bitwise equal:", all(torch.equal(a, b) for a, b in pairs))

# %% [markdown]
# Not at all. The same numbers, for less work. D's pass in G's step has to stay outside
# `torch.no_grad()`, though: that would cut the path to G.

# %% [markdown]
# **One step** is then as short as this. D sees real and generated pictures in *two* passes, each
# normalised by its own mean and variance. That costs D something: chapter 04 showed that BatchNorm
# hides a fault of the whole batch. (One more reason for none right after D's first layer.)
#
# Then why two passes? Because of G's turn. There the batch is *all* generated, and D is asked about
# it in training mode. In a mixed batch mean and variance would be others, and G would be taught by
# a D that was never trained on batches like its own.
#
# G's pictures are made once and used twice: detached for D, attached for G.


# %%
def gan_step(x_real, G, D, g_opt, d_opt):
    x_fake = G(torch.randn(len(x_real), G.z_dim, device=x_real.device))

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
    return {"d_loss": d_loss, "g_loss": g_loss}


# %% [markdown]
# **The average.** Chapter 02 showed that players of this game circle instead of settling. The
# centre of the circle is a better answer than any point on it. So we keep a second generator
# $\bar\theta$ that follows the first slowly:
#
# $$\bar\theta \leftarrow \lambda\,\bar\theta + (1-\lambda)\,\theta, \qquad \lambda = 0.995.$$
#
# This exponential moving average (EMA) reaches back about $1/(1-\lambda)$ steps. It never
# influences training; it only watches. A young average must forget faster, or it would remember the
# random start for long: after $n$ updates $\lambda$ is at most $(1+n)/(10+n)$. This *warm-up* ends
# after 1,790 updates. BatchNorm's running mean and variance are averaged along with the weights.
# (What if you forget them? See *Break it*.)


# %%
class EMA:
    def __init__(self, model, decay):
        self.source, self.decay, self.updates = model, decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self):
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        new = self.source.state_dict()  # weights, and BatchNorm's running statistics
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                average.lerp_(new[name], 1 - decay)

    def state_dict(self):
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state):
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])


# %% [markdown]
# **The rate** stays at its peak for the first half, then falls in a straight line to zero. It is a
# pure function of the step, like the batches: nothing to save.
#
# `run.Run` takes everything that has a state. It loads the newest checkpoint when it starts and
# hands out the numbers of the steps still to do. It writes a checkpoint every 500 steps (you can
# choose), at the end, and when you interrupt it.


# %%
def learn(G, D, images, steps, folder=None):
    ema = EMA(G, EMA_DECAY)
    g_opt = torch.optim.Adam(G.parameters(), lr=LR, betas=BETAS, fused=True)  # fused: one kernel
    d_opt = torch.optim.Adam(D.parameters(), lr=LR, betas=BETAS, fused=True)
    parts = {"generator": G, "discriminator": D, "ema": ema, "g_opt": g_opt, "d_opt": d_opt}
    runtime.seed_everything(SEED)
    with run.Run(folder, batch_size=BATCH, progress=False, **parts) as r:
        for step in r.steps(steps):
            for group in g_opt.param_groups + d_opt.param_groups:
                group["lr"] = LR * min(1.0, 2 * (1 - step / steps))
            r.log(**gan_step(images.batch(step, BATCH), G, D, g_opt, d_opt))
            ema.update()
    return ema.model, r.history


# %%
def new_pair(seed=SEED):
    """A fresh generator and discriminator, the same for the same seed."""
    runtime.seed_everything(seed)
    G = nets.DCGANGenerator(SIZE, CHANNELS, Z_DIM, WIDTH)
    D = nets.DCGANDiscriminator(SIZE, CHANNELS, WIDTH)
    # channels_last keeps the channels of a pixel side by side in memory: faster convolutions
    return [net.to(DEVICE, memory_format=torch.channels_last) for net in (G, D)]


G, D = new_pair()
mine, history = learn(G, D, images, SHORT)
print({name: round(values[-1], 3) for name, values in history.items() if "loss" in name})

# %% [markdown]
# That is the whole of it, and `train.train_gan` is the same loop with the same order of random
# draws. From the same seed it must give the same weights: not similar ones, the same. (A GPU adds
# in a different order each time, and there `train_gan` works in 16 bits unless it is told not to.
# So there we only ask that nearly all agree after one step in float32.)

# %%
# checkpoint: ours and train.train_gan, the same seed, the same weights
exact = DEVICE.type == "cpu"
steps = SHORT if exact else 1
mine, _ = learn(*new_pair(), images, steps)
G, D = new_pair()
theirs, _ = train.train_gan(
    images, G, D, steps=steps, batch_size=BATCH, lr=LR, betas=BETAS, ema_decay=EMA_DECAY,
    seed=SEED, precision="float32", progress=False
)
pairs = zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
close = [torch.isclose(a, b, rtol=0, atol=0 if exact else 1e-4).flatten() for a, b in pairs]
agree = torch.cat(close).float().mean().item()
print(f"{agree:.2%} of the numbers agree")
assert agree == 1 if exact else agree > 0.95
assert not torch.equal(mine.body[0].weight, new_pair()[0].body[0].weight)  # it did move

# %% [markdown]
# ## 5.4 What each rule is for
#
# **Question.** DCGAN's rules came from trying many nets. Which of them matter, here, today?
#
# Start with a rule that we can work out on paper: the small first weights. A layer adds up $n$
# inputs (its **fan-in**), each times an independent weight with mean 0 and standard deviation $s$.
# [Chapter 03](03_convolutions.ipynb), section 3.8, has derived what comes out:
#
# $$\mathbb E\Big[\big(\textstyle\sum_i w_i x_i\big)^2\Big] = n\,s^2\,\mathbb E[x^2].$$
#
# ReLU then halves $\mathbb E[x^2]$. In our transposed convolution $n$ is 4 times the input
# channels: of 16 kernel weights, each output pixel meets 4.
#
# We call $\sqrt{\mathbb E[x^2]}$ the *size* of a signal. **Predict:** with $s = 0.02$ and no
# BatchNorm, what is the size of the pictures that a fresh G draws?


# %%
class ScaleAndShift(nn.Module):
    """BatchNorm without the norm: only its scale and shift."""

    def __init__(self, batchnorm):
        super().__init__()
        self.weight, self.bias = batchnorm.weight, batchnorm.bias

    def forward(self, x):  # (B, C, H, W)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


# %%
def swap(net, kind, make):
    """Replace each layer of one kind by make(layer)."""
    for i, layer in enumerate(net.body):
        if isinstance(layer, kind):
            net.body[i] = make(layer)


# %%
@torch.no_grad()
def sizes(net, x):
    """√E[x²] behind each layer that adds up inputs."""
    found = []
    for layer in net.body:
        x = layer(x)
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d | nn.Conv2d):
            found.append(x.square().mean().sqrt().item())
    return found


# %%
fan_ins = [Z_DIM, 4 * 4 * WIDTH, 4 * 2 * WIDTH, 9 * WIDTH]  # from z to the picture
predicted, square = [], 1.0  # E[x²] of z is 1
for n in fan_ins:
    square = n * 0.02**2 * square
    predicted.append(square**0.5)
    square = square / 2  # ReLU

# %%
normed = nets.DCGANGenerator(SIZE, CHANNELS, Z_DIM, WIDTH)
plain = copy.deepcopy(normed)
swap(plain, nn.BatchNorm2d, ScaleAndShift)
z = torch.randn(500, Z_DIM)
found = {"no norm": sizes(plain, z), "with BatchNorm": sizes(normed, z)}
found["predicted, no norm"] = predicted
for name, values in found.items():
    print(f"{name:18}", *(f"{value:8.5f}" for value in values))

# %% [markdown]
# Without BatchNorm the signal shrinks in every layer, and the picture at the end is flat grey.
# Gradients on the way back meet the same small weights. With BatchNorm each layer starts again from
# inputs that have been brought to size 1, and nothing shrinks.
# (Most convolutions find less than predicted. At the border some inputs are missing; and where a
# layer has few weights, as the last one, chance moves the size by several percent.)
#
# So these two rules belong together. Without BatchNorm one chooses $s = \sqrt{2/n}$, which keeps
# $\mathbb E[x^2]$ the same from layer to layer (He et al. 2015).

# %% [markdown]
# ### An ablation
#
# The other rules we have to try. An **ablation** changes one part and keeps the rest: the same
# data, the same number of steps, and three seeds each.
#
# | trial | what is changed |
# |---|---|
# | all the rules | nothing; seeds 0, 1, 2 |
# | again, other seeds | nothing; seeds 3, 4, 5 |
# | no BatchNorm in G (in D) | no normalising; scale and shift stay |
# | default init | PyTorch's own first weights and biases in all layers of both nets |
# | ReLU in D | slope 0 for negative values, not 0.2 |
# | Adam β₁ = 0.9 | for both nets |
# | resize, pool | repeated pixels and averages instead of strides; *and* kernel 3 instead of 4 |


# %%
def default_init(net):  # whatever PyTorch does when nobody asks
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


# %%
def same_size(conv):  # a 3×3 convolution between the same channels, with a bias only if it had one
    bias = conv.bias is not None
    return nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=bias)


def upsampled(conv):  # transposed convolution → repeated pixels, then convolution
    return nn.Sequential(nn.Upsample(scale_factor=2), same_size(conv))


def pooled(conv):  # stride-2 convolution → convolution, then average of 2×2 pixels
    return nn.Sequential(same_size(conv), nn.AvgPool2d(2)) if conv.stride == (2, 2) else conv


# %%
def change(name, G, D):
    """Change a fresh pair in place, as the trial of this name says."""
    if name == "no BatchNorm in G":
        swap(G, nn.BatchNorm2d, ScaleAndShift)
    elif name == "no BatchNorm in D":
        swap(D, nn.BatchNorm2d, ScaleAndShift)
    elif name == "default init":
        default_init(G)
        default_init(D)
    elif name == "ReLU in D":
        swap(D, nn.LeakyReLU, lambda layer: nn.ReLU())
    elif name == "resize, pool":
        swap(G, nn.ConvTranspose2d, upsampled)
        swap(D, nn.Conv2d, pooled)
        G.apply(nets.dcgan_init)
        D.apply(nets.dcgan_init)


# %% [markdown]
# Besides looking we want a number. Real pictures vary most along a few directions, their
# **principal components**. We project real and generated pictures onto the first 50, scale each so
# that real pictures have standard deviation 1, and average the 50 one-dimensional Wasserstein
# distances of [chapter 01](01_kl_divergence.ipynb). Zero is perfect; 1 means that values have to
# move by a whole standard deviation on average.
#
# It is a crude ruler: it knows pixels, not clothes. Section 5.9 uses a better one.

# %%
COUNT = runtime.budget(smoke=200, cpu=2_000, gpu=5_000)  # pictures per measurement
real = images.images(range(COUNT)).flatten(1).cpu()
_, spread, directions = torch.pca_lowrank(real, q=50)
scale = spread / COUNT**0.5  # standard deviations along the directions


# %%
def components(x):  # (N, C, H, W) → (50, N), real pictures have mean 0 and standard deviation 1
    return ((x.flatten(1).cpu() - real.mean(0)) @ directions / scale).T


def distance(x):
    """Mean W₁ between x and real pictures along 50 principal components [standard deviations]."""
    pairs = zip(components(x), components(real), strict=True)
    return torch.stack([divergences.wasserstein1(a, b) for a, b in pairs]).mean()


# %%
x_noise = 2 * torch.rand(COUNT, CHANNELS, SIZE, SIZE) - 1
floor = distance(test_images.images(range(min(COUNT, len(test_images)))))
print(f"real test pictures: {floor:.3f}   uniform noise: {distance(x_noise):.2f}")

# %% [markdown]
# **Predict**, before you run it: which one change hurts most? Does any of them *help*? And what
# must come out for "again, other seeds"?

# %%
noise = torch.randn(COUNT, Z_DIM, generator=torch.Generator().manual_seed(1)).to(DEVICE)
TRIALS = {"all the rules": (0, 1, 2), "again, other seeds": (3, 4, 5)}  # name → seeds
for name in ("no BatchNorm in G", "no BatchNorm in D", "default init"):
    TRIALS[name] = (0, 1, 2)
for name in ("ReLU in D", "Adam β₁ = 0.9", "resize, pool"):
    TRIALS[name] = (0, 1, 2)


# %%
def trial(name, seed):
    """Train a changed pair for TRIAL steps. Returns COUNT pictures of its averaged generator."""
    G, D = new_pair(seed)
    change(name, G, D)
    betas = (0.9, 0.999) if name == "Adam β₁ = 0.9" else BETAS
    average, _ = train.train_gan(
        images, G, D, steps=TRIAL, batch_size=BATCH, betas=betas, seed=seed, progress=False
    )
    with torch.no_grad():
        return average(noise)


# %%
pictures, scores = {}, {}
for name, seeds in TRIALS.items():
    x_fakes = [trial(name, seed) for seed in seeds]
    pictures[name] = torch.cat([x[:3] for x in x_fakes])  # three pictures of each seed
    scores[name] = torch.stack([distance(x) for x in x_fakes])


# %%
def compare(name):
    """What three seeds against the three of "all the rules" say."""
    mine, base = scores[name], scores["all the rules"]
    if mine.min() > base.max():
        return "worse with every seed"
    return "better with every seed" if mine.max() < base.min() else "no clear difference"


# %%
fig, ax = plt.subplots(figsize=(6.4, 3.0))
base = scores["all the rules"]
ax.axvspan(base.min(), base.max(), color="0.9", label="range of all the rules")
for row, (name, values) in enumerate(scores.items()):
    ax.plot(values, [row] * len(values), "o", color=plot.FAKE)
    print(f"{name:18}", *(f"{value:.3f}" for value in values), "", compare(name))
ax.set(yticks=range(len(scores)), yticklabels=scores, ylim=(len(scores) - 0.5, -0.5))
ax.set(xlabel="distance to real pictures [standard deviations]")
ax.legend()
plot.show(
    fig,
    alt="For each trial three dots, one per seed: its distances to real pictures. A grey band "
    "marks the range of the unchanged nets.",
)

# %%
plot.show(
    plot.rows(pictures, columns=9),
    alt="Eight rows of generated pictures, one per trial: three pictures from each of three seeds.",
)

# %% [markdown]
# The printed words say what these runs decide: a change is called worse only if its best seed is
# behind the worst seed of the unchanged nets.
#
# How often would luck alone do that? Take six runs that differ in luck only. In a random order, the
# three of one kind come first in 1 of 20 orders, and last in 1 of 20. So with three seeds luck says
# "worse" or "better" in one of ten comparisons. With six changes, one such verdict may well be
# luck. Trust wide gaps: in our runs the missing BatchNorm and $\beta_1 = 0.9$ gave the widest. Look
# at the rows too, since the ruler does not see how ragged an edge is.

# %% [markdown]
# Now look at "again, other seeds". Nothing was changed there. In our runs it came out "better with
# every seed" all the same: that is what luck can do. (And seeds 0, 1, 2, with which every change is
# compared, were then a little unlucky.)
#
# The rules are no laws, either. They were found with deeper nets and larger pictures. Nor are they
# independent, as we saw for BatchNorm and small weights. "Resize, pool" also makes steps slower,
# because its convolutions run on the larger maps.
#
# And these runs are very short. They show who *starts* well. Who ends well needs trainings to the
# end, with several seeds again.

# %%
# checkpoint: the fan-in formula; how often luck separates three from three; real beats noise
for guess, value in zip(predicted, found["no norm"], strict=True):
    assert 0.5 < value / guess < 2.0, (guess, value)  # few weights: near the mean, not on it
mine, base = torch.rand(2, 100_000, 3)  # nothing but luck, many times
apart = (mine.amin(1) > base.amax(1)) | (mine.amax(1) < base.amin(1))
assert abs(apart.float().mean() - 2 / math.comb(6, 3)) < 0.01
assert floor < distance(x_noise)
if runtime.profile() != "smoke":
    assert floor < min(values.min() for values in scores.values())
if runtime.profile() == "cpu":  # the wide gaps of the text above
    for name in ("no BatchNorm in G", "no BatchNorm in D", "Adam β₁ = 0.9"):
        assert compare(name) == "worse with every seed", name

# %% [markdown]
# ## 5.5 Stop and continue
#
# **Question.** A long training stops: the battery is empty, Colab disconnects, you press ■. Is the
# work lost? And if we continue, is the result *the same* as if nothing had happened?
#
# For that, everything with a memory must be saved: both nets, the averaged net, both optimizers
# (Adam remembers two numbers per weight) and the random number generator. Batches and rate are
# functions of the step and need no saving.
#
# **Predict:** continue after an interruption. Will the weights agree to 3 digits, to 6, or in every
# bit?

# %%
calm, _ = learn(*new_pair(), images, SHORT)  # never interrupted

# %%
folder = runtime.run_folder("05_resume")
if folder.exists():
    run.delete(folder)  # so that this cell shows the same when it is run again
impatient = copy.copy(images)  # the same pictures, but at one batch somebody presses Ctrl-C


def batch(step, batch_size):
    if step == SHORT // 2:
        signal.raise_signal(signal.SIGINT)
    return images.batch(step, batch_size)


impatient.batch = batch

# %%
try:
    learn(*new_pair(), impatient, SHORT, folder)
except KeyboardInterrupt as stop:
    print("KeyboardInterrupt:", stop)
print(sorted(path.name for path in folder.glob("checkpoint*")))

# %% [markdown]
# A real interrupt signal, as from ■ or Ctrl-C. `Run` let the step finish, because half a step can't
# be continued, wrote a checkpoint, and then stopped. Now the same call again, with *fresh* nets, as
# in a new session tomorrow.

# %%
resumed, history = learn(*new_pair(seed=123), images, SHORT, folder)
print(f"history has {len(history['step'])} steps, the last is {history['step'][-1]}")
differences = [
    (a - b).abs().max().item()
    for a, b in zip(calm.state_dict().values(), resumed.state_dict().values(), strict=True)
]
print(f"largest difference of any weight: {max(differences)}")

# %% [markdown]
# The new nets were even drawn from another seed: the checkpoint replaced them. On a CPU not one bit
# differs. (A GPU may add numbers in another order each time, so there two runs differ even when
# nobody interrupts.) After a power cut nobody has sent a signal. Then `Run` goes on from its last
# regular checkpoint, and the steps since then are done again: with the same result.

# %%
# checkpoint: interrupted and continued = never interrupted
assert history["step"] == list(range(1, SHORT + 1))
if exact:
    assert max(differences) == 0.0

# %% [markdown]
# ## 5.6 Training to the end
#
# Now to the end, with the package's loop. Every eighth of the way it saves a sheet of
# pictures of the *same* noise, drawn by the averaged generator. If this folder holds the finished
# run already, the cell loads it and returns at once. If you stop the cell, run it again to go on.
# If you changed a constant, it refuses to mix two trainings: pass `fresh=True` to start over.
#
# **Predict:** what does the net learn first: outlines, textures, or the number of sleeves? And what
# will the losses do?

# %%
G, D = new_pair()
folder = runtime.run_folder("05_dcgan")
ema_generator, history = train.train_gan(
    images, G, D, steps=STEPS, batch_size=BATCH, lr=LR, betas=BETAS, ema_decay=EMA_DECAY,
    seed=SEED, out=folder, sample_every=STEPS // 8
)


# %%
def read_sheets(folder, size):
    """A run's saved sheets: {step: its 64 pictures (64, 3, size, size) in [-1, 1]}."""
    sheets = {}
    for path in sorted(folder.glob("samples/step-*.png")):
        sheet = torch.tensor(plt.imread(path)).permute(2, 0, 1)[:, 2:, 2:]  # 2 pixels between
        cells = sheet.unfold(1, size, size + 2).unfold(2, size, size + 2)  # (3, 8, 8, H, W)
        step = int(path.stem.removeprefix("step-"))
        sheets[step] = 2 * cells.permute(1, 2, 0, 3, 4).flatten(0, 1) - 1
    return sheets


sheets = read_sheets(folder, SIZE)

# %%
moments = [list(sheets)[i] for i in (0, 1, 2, 4, -1)]  # later ones differ little
plot.show(
    plot.rows({f"step {step:,}": sheets[step] for step in moments}),
    alt="Twelve generated pictures in each row, the same noise at five moments of the training, "
    "rough at the top, clearer and more detailed at the bottom.",
)

# %% [markdown]
# After an eighth of the way, the first row, many pictures have an outline already; the briefly
# trained rows of 5.4 show what comes before it. Then edges, sleeves and soles get clearer, and
# texture comes last. Compare a column from row to row: the changes get smaller, as does the rate.
# Some columns end torn, or between two articles (see 5.7). What the sheet does not show: whether
# *all* kinds of pictures are there ([chapter 06](06_mode_collapse.ipynb)), or only variations of a
# few.
#
# Half of each sheet: move the slider.


# %% tags=["picture:05_clothes.png"]
def sheet(moment):
    step = list(sheets)[moment - 1]
    fig, ax = plt.subplots(figsize=(3.6, 2.1))
    plot.grid(sheets[step][:32], ax=ax)
    ax.set_title(f"step {step:,} of {STEPS:,}", color=plot.FAKE)
    return fig


widgets.explore(
    sheet,
    "32 generated pictures of fixed noise at the end of the training.",
    moment=(1, len(sheets), len(sheets)),
)

# %%
fig, ax = plt.subplots()
plot.curves(history, ["d_loss", "g_loss"], ax=ax, smooth=max(1, STEPS // 40))
ax.axhline(2 * math.log(2), color=plot.THIRD, linestyle=":", label="d_loss at D = ½: 2 log 2")
ax.axhline(math.log(2), color=plot.FAKE, linestyle=":", label="g_loss at D = ½: log 2")
ax.set_ylim(0, 4)  # the first steps shoot above
ax.legend()
plot.show(
    fig,
    alt="Losses of D and G against the step, as running means over the raw values, with dotted "
    "lines at 2 log 2 and log 2, where a discriminator that can't decide would be.",
)

# %% [markdown]
# The curves say less than you would like. G's loss is highest at the start, when D finds everything
# easy. Then both curves move towards the dotted lines, where a D that can only guess would be. They
# do not arrive. When the rate falls, `d_loss` may even sink again: D gets surer *although the
# pictures don't get worse*.
#
# So a loss does not measure pictures. Each measures one player against *its own* opponent, and a
# weak opponent flatters: don't compare losses between runs. What to watch for is a lost balance: a
# `d_loss` that goes to zero and stays there means that G learns nothing more.

# %% [markdown]
# **What the average is good for.** At the end the rate has fallen to zero, so the generator stands
# still and its average has caught up. To see a difference, look at a generator that is still
# moving. We continue from the trained nets at the *full* rate (with fresh optimizers and a fresh
# average) and draw the same noise at several moments, with the last weights and with the average.
#
# **Predict:** which of the two changes more from moment to moment?

# %%
live_G, live_D = copy.deepcopy(G), copy.deepcopy(D)
ema = train.EMA(live_G, EMA_DECAY)
g_opt = torch.optim.Adam(live_G.parameters(), lr=LR, betas=BETAS)
d_opt = torch.optim.Adam(live_D.parameters(), lr=LR, betas=BETAS)

# %%
EVERY = runtime.budget(smoke=1, cpu=40, gpu=40)
views = {"last weights": [], "average": []}
for step in range(5 * EVERY):
    gan_step(images.batch(step, BATCH), live_G, live_D, g_opt, d_opt)
    ema.update()
    if (step + 1) % EVERY == 0:
        with torch.no_grad():
            views["last weights"].append(copy.deepcopy(live_G).eval()(noise))
            views["average"].append(ema.model(noise))

# %%
fig, axes = plt.subplots(1, 2, figsize=(5.4, 2.5))
motion = {}
for ax, (name, snapshots) in zip(axes, views.items(), strict=True):
    plot.grid(torch.cat([x[:6] for x in snapshots]), columns=6, ax=ax, title=name)
    steps = zip(snapshots, snapshots[1:], strict=False)
    motion[name] = torch.stack([(a - b).abs().mean() for a, b in steps]).mean().item()
    ruler = ", ".join(f"{distance(x):.3f}" for x in snapshots)
    print(f"{name:12}  mean change of a pixel {motion[name]:.3f}   distances {ruler}")
plot.show(
    fig,
    alt="Two blocks of pictures, five rows each: the same noise at five moments at the full "
    "rate. Left the last weights, right the average, which changes less from row to row.",
)

# %% [markdown]
# Both blocks start from the same finished generator. In the last weights details come and go from
# one row to the next, although each row is "as well trained" as the one above. The average moves
# less, as the first number says; to the eye the difference can be small. One reason: this average
# is young. After 200 updates it reaches back $(10+200)/9 \approx 23$ steps, not 200. Whether it is
# also *nearer* to the real pictures, the list of distances says, for this one run. A rate that
# falls to zero and an average do similar work: both calm the circling. With both, little is left to
# gain from the average at the end.

# %%
# checkpoint: the average moves less than what it averages; ours and the package's EMA agree
assert motion["average"] < motion["last weights"]
weight = nn.Linear(1, 1, bias=False)
ours, theirs, by_hand = EMA(weight, 0.5), train.EMA(weight, 0.5), weight.weight.item()
for n, value in enumerate((1.0, 5.0, 2.0, 7.0, 3.0, 3.5, 8.0, 1.0, 4.0, 2.0)):
    nn.init.constant_(weight.weight, value)
    ours.update()
    theirs.update()
    past = min(0.5, (1 + n) / (10 + n))
    by_hand = past * by_hand + (1 - past) * value
assert abs(ours.model.weight.item() - by_hand) < 1e-5
assert torch.equal(ours.model.weight, theirs.model.weight)
if runtime.profile() != "smoke":
    assert distance(ema_generator(noise)) < scores["all the rules"].min()  # longer did better

# %% [markdown]
# ## 5.7 An honest look at the failures
#
# **Question.** Sheets of 64 look good quickly. What do the *bad* pictures look like, and who finds
# them? The discriminator was trained to. We let it rate thousands of generated pictures and show
# the ones it believes least, a random dozen, and the ones it believes most.
#
# **Predict:** will the least believed be the ugliest to your eye, too?


# %%
@torch.no_grad()
def logits(D, x):
    """D's opinion of each picture by itself: eval mode, so that no picture sees its batch."""
    D = copy.deepcopy(D).eval()
    return torch.cat([D(part) for part in x.split(500)])


# %%
with torch.no_grad():
    x_fake = ema_generator(noise)
order = logits(D, x_fake).argsort()
rows = {"least believed": x_fake[order], "random": x_fake, "most believed": x_fake[order.flip(0)]}
plot.show(
    plot.rows(rows),
    alt="Three rows of twelve generated pictures: those D believes least, random ones, and those "
    "it believes most.",
)

# %% [markdown]
# Look along the rows for torn outlines, holes, a sleeve too many, articles that are half one thing
# and half another. The random row shows how common they are. In this one run, what D believes least
# is not simply the ugliest, and what it believes most is not the most beautiful. D has learned only
# from the faults of *this* generator: it is no general judge of pictures. And the eye tires after a
# dozen: 64 pictures can't show what is *missing*.

# %% [markdown]
# Some pictures belong to no class: half shirt, half bag. Chance alone can't be blamed. The noise
# $z$ fills a space without gaps, and G is continuous, so on any way from a shoe to a bag the
# pictures change *without a jump*. Where the data has separate islands, some $z$ must land in the
# water between them. ([Chapter 09](09_latent_space.ipynb) walks there.)

# %%
# checkpoint: D's opinion of a picture does not depend on its neighbours, and it is no coin: D still
# tells real test pictures (never seen) from generated ones. (1e-2: some GPUs round to ten bits.)
torch.testing.assert_close(logits(D, x_fake[:4]), logits(D, x_fake)[:4], rtol=1e-2, atol=1e-2)
x_unseen = test_images.images(range(min(COUNT, len(test_images))))
right = torch.cat([logits(D, x_unseen) > 0, logits(D, x_fake) < 0]).float().mean()
print(f"D is right about {right:.0%} of unseen real and generated pictures")
if runtime.profile() != "smoke":
    assert right > 0.55

# %% [markdown]
# ## 5.8 Natural pictures, in colour
#
# **Question.** What has to change for photographs in colour? In the code, hardly more than
# `size` and `channels`. In the task, a lot.
#
# CIFAR-10 (Krizhevsky 2009) has 50,000 photographs for training, of ten classes. They are tiny, 32
# pixels a side. But a dog can be brown or white, near or far, from the front or the side, on grass
# or on a sofa. In Fashion-MNIST nearly all shoes look left, on black.
#
# **Predict:** look at the real pictures first. After about twelve minutes of training on two
# cores, which of the ten classes will you be able to name in G's pictures?

# %%
COLOUR = runtime.budget(smoke="shapes", cpu="cifar10", gpu="cifar10")
COLOUR_WIDTH = runtime.budget(smoke=4, cpu=24, gpu=64)  # more than for clothes: more to know
COLOUR_STEPS = runtime.budget(smoke=8, cpu=4_800, gpu=20_000)  # about eight minutes on 2 cores
colour_images = data.load(COLOUR, size=32)
colour_test = data.load(COLOUR, split="test", size=32)
print(colour_images)

# %%
by_class = {}
for label, name in enumerate(colour_images.classes):
    places = (colour_test.labels == label).nonzero()[:8, 0]
    by_class[name] = colour_test.images(places)
plot.show(
    plot.rows(by_class, columns=8),
    alt="Eight small real colour pictures of each class, one row per class.",
)

# %% [markdown]
# These are the first eight of each class in the test half: not chosen. Some are hard to name even
# for us; a perfect generator would draw such pictures too. (Where the official files are missing,
# the course reads copies that were stored as JPEG, and the name printed above says so.)
#
# Now the training. The loop, the rate and the batch are those of 5.6. On a CPU the nets are one
# and a half times as wide (`COLOUR_WIDTH`) and train for more steps.


# %%
def train_colour(name, steps):
    """Train a DCGAN on the colour pictures, in a run folder of this name. Returns the average."""
    runtime.seed_everything(SEED)
    G = nets.DCGANGenerator(32, 3, Z_DIM, COLOUR_WIDTH)
    D = nets.DCGANDiscriminator(32, 3, COLOUR_WIDTH)
    average, _ = train.train_gan(
        colour_images, G, D, steps=steps, batch_size=BATCH, lr=LR, betas=BETAS, seed=SEED,
        ema_decay=EMA_DECAY, out=runtime.run_folder(name), sample_every=max(1, steps // 8)
    )
    return average


# %%
colour_G = train_colour("05_colour", COLOUR_STEPS)

# %%
colour_sheets = read_sheets(runtime.run_folder("05_colour"), 32)
rows = {"real": colour_images.batch(0, 10)}
for i in (0, 1, 3, -1):
    step = list(colour_sheets)[i]
    rows[f"step {step:,}"] = colour_sheets[step]
plot.show(
    plot.rows(rows, columns=10),
    alt="Above ten real photographs. Below, pictures of the same noise at four moments of the "
    "training: from blurred spots of colour to pictures with more and more detail.",
)

# %% [markdown]
# Now many at once, as they come. Take a pencil. For each picture write down what it is, or "?".
# Then count: which share could you name? Would a friend write the same words?

# %% tags=["picture:05_colour.png"]
colour_noise = torch.randn(60, Z_DIM, generator=torch.Generator().manual_seed(2)).to(DEVICE)
with torch.no_grad():
    x_colour = colour_G(colour_noise)
plot.show(
    plot.grid(x_colour, columns=12),
    alt="Sixty generated colour pictures in a sheet, not chosen: backgrounds and colours look "
    "natural, and many objects can't be named.",
)

# %% [markdown]
# **What the sheet says**, in this one run. Colours and layout come first: light above dark, green
# behind brown, something in the middle. A few things can be guessed: a dark ship or car on
# something pale, an animal on green. We could name hardly any of them without hesitation. What is
# missing is what makes an object: faces, the right number of legs, two wheels of one car.
#
# What it does not say: whether all ten classes are there, and how far it is from real pictures. The
# eye also flatters: told "this is a horse", it sees one. The next section measures.

# %% [markdown]
# **Pictures of your own:** write `data.load("folder:PATH", size=32)` in place of the data set, with
# your folder's path ([a project](../exercises/projects/own_pictures.md) has more). You need
# thousands, all framed alike. With a hundred, D soon knows each by heart. Its signal then says "be
# like these hundred", and the best that G can do is to copy them.
#
# **Larger ones.** At 64×64 there are four times as many pixels in every layer, and both nets have
# one doubling more. That is too slow for two cores. So the next cell trains in the `gpu` profile
# only, on the course's coloured shapes; no result of it is quoted here.

# %%
BIG_STEPS = runtime.budget(smoke=2, cpu=0, gpu=6_000)  # 0: left out
if BIG_STEPS:
    big_images = data.load("shapes", size=64, count=runtime.budget(smoke=100, cpu=0, gpu=10_000))
    big_G = nets.DCGANGenerator(64, 3, Z_DIM, WIDTH)
    big_D = nets.DCGANDiscriminator(64, 3, WIDTH)
    folder = runtime.run_folder("05_colour_64")
    big_average, _ = train.train_gan(
        big_images, big_G, big_D, steps=BIG_STEPS, batch_size=BATCH, seed=SEED, out=folder
    )
    with torch.no_grad():
        rows = {"real": big_images.batch(0, 8), "generated": big_average(noise[:8])}
    plot.show(
        plot.rows(rows, columns=8),
        alt="Eight coloured shapes of 64×64 pixels above eight generated ones.",
    )

# %%
# checkpoint: shapes; the saved run gives the same generator; 64×64 has one doubling more
assert x_colour.shape == (60, 3, 32, 32) and x_colour.abs().max() <= 1
saved = nets.load(runtime.run_folder("05_colour") / "generator.safetensors").to(DEVICE)
with torch.no_grad():
    again = saved(colour_noise)
torch.testing.assert_close(again, x_colour, rtol=1e-2, atol=1e-2)
deep = nets.DCGANGenerator(64, 3, Z_DIM, 4)
assert sum(isinstance(m, nn.ConvTranspose2d) for m in deep.body) == DOUBLINGS[64] == 3

# %% [markdown]
# ## 5.9 How far from real? A judge for photographs
#
# **Question.** Is there a number that knows *things*, not only pixels?
#
# Take a classifier that was trained on CIFAR-10's training half to name the ten classes: our
# **judge**. Its last hidden layer turns a picture into 128 numbers, the picture's **features**.
# They say what it sees. Fit a Gaussian to the features of real pictures (mean $\mu$, covariance
# $\Sigma$), and one to those of generated pictures ($\mu_g$, $\Sigma_g$). The squared **Fréchet
# distance** (FD) between the two is
#
# $$d_F^2 = \lVert\mu-\mu_g\rVert^2
# + \operatorname{tr}\big(\Sigma+\Sigma_g-2\,(\Sigma\Sigma_g)^{1/2}\big).$$
#
# It is 0 if mean and covariance agree. [Chapter 07](07_evaluation.ipynb) takes its time over it.

# %%
colour_judge = evaluate.judge("cifar10")
named = evaluate.logits(colour_test, colour_judge).argmax(1)
right = (named == colour_test.labels.cpu()).float().mean()
print(f"the judge names {right:.1%} of {len(colour_test):,} test pictures rightly")

# %% [markdown]
# A distance alone says nothing: is 50 much? So we measure pictures of which we know how good they
# are. **Predict** their order:
#
# - *training pictures*: real ones, against the test half like all the others;
# - *five classes*: real, but half of the classes are missing;
# - *blurred*: real, shrunk to 8×8 pixels and enlarged again;
# - *pixel Gaussian*: right mean and covariance of all pixels, and nothing else;
# - *noise*: uniform.
#
# And where will G come, after an eighth of the steps and after all of them?


# %%
def shrunk(x):  # 32×32 → 8×8 → 32×32
    small = F.interpolate(x, size=8, mode="area")
    return F.interpolate(small, size=32, mode="bilinear")


# %%
def pixel_gaussian(x, count):
    """Samples of the Gaussian with the mean and covariance of x (N, C, H, W), cut to [-1, 1]."""
    flat = x.flatten(1)
    centred = flat - flat.mean(0)
    # a sum of the centred pictures with independent N(0, 1/N) weights has just their covariance
    weights = torch.randn(count, len(x), device=x.device) / len(x) ** 0.5
    return (flat.mean(0) + weights @ centred).clamp(-1, 1).unflatten(1, x.shape[1:])


# %%
JUDGED = runtime.budget(smoke=200, cpu=5_000, gpu=10_000)  # pictures in each row
early_G = train_colour("05_colour_early", max(1, COLOUR_STEPS // 8))


# %%
@torch.no_grad()
def draw(G):
    """JUDGED pictures, always from the same noise."""
    z = torch.randn(JUDGED, Z_DIM, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    return torch.cat([G(part) for part in z.split(500)])


# %%
x_train = colour_images.images(colour_images.indices(0, JUDGED))
few = (colour_images.labels < 5).nonzero()[:JUDGED, 0]
judged = {
    "training pictures": x_train,
    "five classes": colour_images.images(few),
    "blurred": shrunk(x_train),
    "pixel Gaussian": pixel_gaussian(x_train, JUDGED),
    "noise": 2 * torch.rand(JUDGED, 3, 32, 32) - 1,
    "generated, early": draw(early_G),
    "generated": draw(colour_G),
}

# %%
reference = evaluate.moments(evaluate.features(colour_test, colour_judge))
seen = {name: evaluate.features(x, colour_judge) for name, x in judged.items()}
distances = {name: evaluate.frechet_distance(reference, f) for name, f in seen.items()}

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 5.2), width_ratios=[1, 1.5])
for row, (name, value) in enumerate(distances.items()):
    colour = plot.FAKE if "generated" in name else plot.REAL if row < 2 else "0.6"
    left.plot(value, row, "o", color=colour, markersize=9)
    left.text(value, row, f"   {value:.1f}", va="center")
    print(f"{name:18} FD {value:8.2f}   ({JUDGED:,} pictures, CIFAR-10 judge)")
left.set(xscale="log", xlabel="Fréchet distance to real test pictures", ylim=(6.5, -0.5))
left.set(yticks=range(len(distances)), yticklabels=distances)
left.margins(x=0.25)
plot.rows({name: x for name, x in judged.items()}, columns=6, ax=right)
plot.show(
    fig,
    alt="Left: the Fréchet distances of seven kinds of pictures as dots, smallest for real "
    "ones. Right: six pictures of each kind.",
)

# %% [markdown]
# **First the ruler itself.** The rows come in the order that we know: real pictures lowest, noise
# highest. "Five classes" is above "training pictures" although each of its pictures is real: the
# distance also feels what is *missing*. Blurred pictures and the pixel Gaussian lie in between: the
# right colours, and little that the judge could name.
#
# **Then G**, with one seed each: a small difference would mean nothing. "Early" is no snapshot of
# the long run, but a short training whose rate falls to zero too. The longer training gave a
# smaller distance; both are far above real pictures. And this is *no* FID: that name belongs to the
# features of the Inception network.

# %% [markdown]
# **Which classes are there?** The judge puts each picture into one of its ten classes, even when
# there is nothing to see. So we look at shares, beside what the judge does by itself: with real
# pictures, which should give a tenth each, and with noise.
#
# **Predict:** does G draw all ten classes equally often?

# %%
verdict_of = {}
for name in ("training pictures", "noise", "generated"):
    verdict_of[name] = evaluate.logits(judged[name], colour_judge).softmax(1)
shares = {}
for name, probability in verdict_of.items():
    counts = probability.argmax(1).bincount(minlength=probability.shape[1])
    shares[name] = counts / counts.sum()
    sure = (probability.amax(1) > 0.9).float().mean()
    print(f"{name:18} largest share {shares[name].max():.0%}; the judge is sure of {sure:.0%}")

# %%
classes = colour_images.classes
fig, ax = plt.subplots(figsize=(7, 3.2))
places = torch.arange(10)
ax.bar(places - 0.2, shares["training pictures"], 0.4, color=plot.REAL, label="training pictures")
ax.bar(places + 0.2, shares["generated"], 0.4, color=plot.FAKE, label="generated")
ax.axhline(0.1, color="k", linestyle=":", linewidth=1)
ax.set(ylabel="share, as the judge sees it")
ax.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
ax.legend()
plot.show(
    fig,
    alt="Two bars per class: the shares of training pictures and of generated pictures that the "
    "judge puts there. A dotted line marks one tenth.",
)

# %%
surest = {}
for label, name in enumerate(classes):
    places = verdict_of["generated"][:, label].topk(8).indices
    surest[name] = judged["generated"].cpu()[places]
plot.show(
    plot.rows(surest, columns=8),
    alt="One row per class: the eight generated pictures that the judge most surely puts there.",
)

# %% [markdown]
# These pictures are *chosen*: for each class the eight of which the judge is surest, among
# thousands. They show what G can do at its best, and the sheet in 5.8 what it usually does. Cover
# the names and read the rows again: where do you agree with the judge?
#
# In this one run the orange bars are far from equal: the longest reaches a fifth, others stay below
# one twentieth. Is that G, or the judge? Most noise lands in *one* class, though there is
# nothing to see. (Training pictures are easy for the judge: it learned from them.) And a *sure*
# judge does not make a picture good: it was asked a question with only ten answers.

# %%
# checkpoint: the distance by a second route (eigenvalues); the rows come in the order we know
a = seen["training pictures"].values.double()
b = seen["generated"].values.double()
roots = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).real.clamp(min=0).sqrt().sum()
by_hand = (a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum() - 2 * roots
package = evaluate.frechet_distance(a, b)
assert abs(by_hand - package) < 1e-3 * package + 1e-3
for probability in verdict_of.values():
    assert len(probability) == JUDGED
if runtime.profile() != "smoke":
    assert distances["training pictures"] < distances["five classes"]
    assert distances["generated"] < distances["generated, early"] < distances["noise"]
    assert distances["generated"] > 3 * distances["training pictures"]
    between = [distances["blurred"], distances["pixel Gaussian"]]
    assert distances["five classes"] < min(between) and max(between) < distances["noise"]
    assert (shares["training pictures"] - 0.1).abs().max() < 0.04

# %% [markdown]
# ## Break it: an average that forgets BatchNorm
#
# An easy mistake: an EMA that averages `model.parameters()` only. BatchNorm's running mean and
# variance are *buffers*, not parameters, so in the averaged net they stay what they were before the
# first step: mean 0 and variance 1.
#
# **Predict:** the weights are all right. How bad can it be?

# %%
forgetful = copy.deepcopy(ema_generator)
for module in forgetful.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.reset_running_stats()  # mean 0, variance 1: what a forgetful average would keep

with torch.no_grad():
    rows = {"weights, statistics": ema_generator(noise), "weights only": forgetful(noise)}
for name, x in rows.items():
    print(f"{name:20} distance to real pictures {distance(x):.2f}")
plot.show(
    plot.rows(rows),
    alt="Above, generated pictures of the averaged net. Below, the same weights with the "
    "statistics of the first second: grey and washed out, with silhouettes at best.",
)

# %% [markdown]
# The same weights, and the pictures are spoiled: grey, without contrast, at best a silhouette. Each
# layer was trained on inputs that BatchNorm had brought to mean 0 and variance 1. With the wrong
# statistics every layer hands on the wrong scale, and the error multiplies. The danger is that
# nothing complains: the losses look fine, since the average takes no part in training. Only a look
# at the average's *own* samples shows it.

# %% [markdown]
# ## Exercises
#
# In [the exercises](../exercises/05_dcgan.ipynb) you write:
#
# 1. `transposed_size`: the side after several layers, output padding included;
# 2. `dcgan_init`: the first weights, for anybody's net;
# 3. `ema_update`: the average, with BatchNorm's statistics;
# 4. `freeze`: a context manager that freezes a net and *always* thaws it again;
# 5. `look_at`, a repair: somebody looks at samples, and the training changes.

# %% [markdown]
# To try at once: set `EMA_DECAY = 0.9999` in our `EMA`. It should reach back 10,000 steps. How far
# does it really reach after $n$ updates?
#
# <details><summary>Answer</summary>
#
# The warm-up is stronger: $\lambda_n = (1+n)/(10+n)$ stays below 0.9999 until $n$ is about 90,000.
# Until then the average reaches back $1/(1-\lambda_n) = (10+n)/9$ steps: always about the last
# ninth of the training. So in a training of a few thousand steps 0.9999 and 0.999 are the same
# thing. Take the `min` out, and the random start keeps the weight $0.9999^n$: still half of it
# after 7,000 steps.
#
# </details>

# %% [markdown]
# ## Recap
#
# - A transposed convolution is the transpose of a convolution's matrix: it paints instead of
#   reading. Kernel 4, stride 2, padding 1 double the side.
# - DCGAN's rules are a good start and no laws. An ablation tells which matter for *your* data, with
#   several seeds.
# - Freeze D in G's step: the same gradients for less work. Make the pictures once; keep two passes.
# - An averaged generator stands still where the game circles, if BatchNorm's statistics are
#   averaged too. Save all that has a memory: an interrupted run ends in the same bits.
# - Natural pictures are much harder than clothes. Test a ruler on rows of known order before you
#   read off a result.

# %% [markdown]
# ## References
#
# - Radford et al. 2016, [arXiv:1511.06434](https://arxiv.org/abs/1511.06434): the nets and rules.
#   We differ: kernels of 4 (not 5), normal noise, a 3×3 convolution before tanh and at D's end, a
#   rate that falls, an averaged generator.
# - Dumoulin, Visin 2016, [arXiv:1603.07285](https://arxiv.org/abs/1603.07285): the formulas for
#   shapes.
# - Odena et al. 2016, [Distill](https://distill.pub/2016/deconv-checkerboard/): counting the paint.
#   They resize first; we keep kernel 4.
# - He et al. 2015, [arXiv:1502.01852](https://arxiv.org/abs/1502.01852): the variance behind a
#   layer. We keep DCGAN's fixed 0.02.
# - Yazıcı et al. 2019, [arXiv:1806.04498](https://arxiv.org/abs/1806.04498): the average. Ours
#   forgets faster while it is young.
# - Krizhevsky 2009, *Learning multiple layers of features from tiny images*: CIFAR-10.
# - Heusel et al. 2017, [arXiv:1706.08500](https://arxiv.org/abs/1706.08500): the Fréchet distance,
#   on Inception's features; ours is on those of a small judge.
