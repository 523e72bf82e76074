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
# A generator made of convolutions learns to draw clothes, in minutes and without a GPU.

# %% [markdown]
# **After this chapter you can** build a convolutional generator and discriminator and say what each
# of their parts is for · train them to the end, stop and continue them bit for bit, and average the
# generator · look at the result honestly and name its failures.
#
# **You need** [chapter 04](04_first_gan.ipynb) (the GAN loop, `detach`, the two losses) and
# [chapter 02](02_minimax.ipynb) (the game that circles).
#
# <!-- stamp -->
# *Run time: 9.1 min, peak memory 1.5 GB, `cpu` profile on `fashion_mnist`, `folder`, `shapes`
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

from gencourse import data, divergences, losses, nets, plot, run, runtime, train, widgets

# %%
plot.style()
runtime.seed_everything(0)
DEVICE = runtime.device()
print(runtime.describe())

# %%
DATA = runtime.budget(smoke="digits", cpu="fashion_mnist", gpu="fashion_mnist")
STEPS = runtime.budget(smoke=16, cpu=6_000, gpu=30_000)  # three to five minutes on 2 cores
SHORT = runtime.budget(smoke=6, cpu=60, gpu=60)  # proofs need only as many steps as can differ
TRIAL = runtime.budget(smoke=2, cpu=400, gpu=400)  # per ablation: enough to see who is behind
Z_DIM = 64  # directions G can vary along; the paper has 100
WIDTH = runtime.budget(smoke=8, cpu=16, gpu=64)  # channels of the largest maps. Twice the width
# costs almost three times as much: in five CPU minutes, many cheap steps beat a few wide ones
BATCH = 64  # smaller ones step faster but make BatchNorm noisy
LR = 1e-3  # the paper's 2e-4 is slow when minutes count; ours falls later on
BETAS = (0.5, 0.999)  # Adam's; section 5.4 tries the usual 0.9
EMA_DECAY = 0.995  # averages the generator over about 200 steps
SEED = 0

# %% [markdown]
# ## Where this chapter is heading
#
# Above are real pictures. Below is what our generator draws before it has learned anything: noise
# in, noise out. At the end of the chapter the two rows should look alike.

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
# Exactly half and exactly double, for every even side. That is why $(4, 2, 1)$ is in nearly every
# DCGAN.
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
# One thing to watch: how often is each output pixel painted? We put 1 into every input pixel and
# into every kernel weight, so the output counts. Left $k=4$, right $k=3$.

# %%
ones = torch.ones(1, 1, 5, 5)
count4 = F.conv_transpose2d(ones, torch.ones(1, 1, 4, 4), stride=2, padding=1)[0, 0]
count3 = F.conv_transpose2d(ones, torch.ones(1, 1, 3, 3), stride=2, padding=1, output_padding=1)

# %%
fig, axes = plt.subplots(1, 2, figsize=(5.4, 2.7))
for ax, count, k in zip(axes, (count4, count3[0, 0]), (4, 3), strict=True):
    shown = ax.imshow(count, cmap="viridis", vmin=0, vmax=4)
    ax.set_title(f"kernel {k}, stride 2")
    ax.set_axis_off()
fig.colorbar(shown, ax=axes, label="times painted", ticks=range(5))
plot.show(
    fig,
    alt="Two maps of counts. Kernel 4: the same count everywhere except at the border. Kernel 3: a "
    "chequerboard of high and low counts.",
)

# %% [markdown]
# With a kernel whose side is a multiple of the stride, every pixel away from the border is painted
# equally often. With kernel 3 the counts form a chequerboard, and the net has to learn to undo it.
# When you see a fine grid in generated pictures, look there first.

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
# 2. BatchNorm, except where pictures enter or leave;
# 3. ReLU in G, tanh at its end (pictures are in $[-1, 1]$), LeakyReLU in D;
# 4. small initial weights, $\mathcal N(0, 0.02^2)$;
# 5. Adam with $\beta_1 = 0.5$.

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
    G.zero_grad(), D.zero_grad()
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
#
# **One step** is then as short as this. D sees real and generated pictures in *two* passes, so that
# BatchNorm never normalises the two kinds together (only its running averages, used in eval mode,
# mix them). G's pictures are made once and used twice: detached for D, attached for G.

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
# influences training; it only watches. A young average forgets faster: after $n$ updates
# $\lambda$ is at most $(1+n)/(10+n)$, or it would remember the random start for long. BatchNorm's
# running mean and variance are averaged along with the weights. (What if you forget them? See
# *Break it*.)

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
# `run.Run` takes everything that has a state. It loads the newest checkpoint when it starts, hands
# out the numbers of the steps still to do, and writes a checkpoint at the end or when you interrupt
# it.

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
theirs, _ = train.train_gan(
    *(images, *new_pair()), steps=steps, batch_size=BATCH, lr=LR, betas=BETAS,
    ema_decay=EMA_DECAY, seed=SEED, precision="float32", progress=False,
)  # fmt: skip
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
# An **ablation** removes one part and keeps everything else: same seed, same data, same number of
# steps. We replace layers in finished nets. For BatchNorm we keep its scale and shift and remove
# only the normalising.

# %%
class ScaleAndShift(nn.Module):
    """BatchNorm without the norm."""

    def __init__(self, batchnorm):
        super().__init__()
        self.weight, self.bias = batchnorm.weight, batchnorm.bias

    def forward(self, x):  # (B, C, H, W)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


# %%
def swap(net, kind, make):
    for i, layer in enumerate(net.body):
        if isinstance(layer, kind):
            net.body[i] = make(layer)

# %%
def pooled(conv):  # stride-2 convolution → convolution, then average of 2×2 pixels
    smooth = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1)
    return nn.Sequential(smooth, nn.AvgPool2d(2)) if conv.stride == (2, 2) else conv


def upsampled(conv):  # transposed convolution → repeated pixels, then convolution
    smooth = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1)
    return nn.Sequential(nn.Upsample(scale_factor=2), smooth)


# %%
def default_init(net):  # whatever PyTorch does when nobody asks
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

# %% [markdown]
# Each trial changes `(G, D)` in place. **Predict**, before you run it: which one change hurts most?
# And does any of them *help*?

# %%
def no_norm(net):
    swap(net, nn.BatchNorm2d, ScaleAndShift)


def resample(G, D):
    swap(G, nn.ConvTranspose2d, upsampled), swap(D, nn.Conv2d, pooled)
    G.apply(nets.dcgan_init), D.apply(nets.dcgan_init)


# %%
TRIALS = {
    "all the rules": lambda G, D: None,
    "again, other seed": lambda G, D: None,
    "no BatchNorm in G": lambda G, D: no_norm(G),
    "no BatchNorm in D": lambda G, D: no_norm(D),
    "default init": lambda G, D: (default_init(G), default_init(D)),
    "ReLU in D": lambda G, D: swap(D, nn.LeakyReLU, lambda _: nn.ReLU()),
    "Adam β₁ = 0.9": lambda G, D: None,
    "resize, pool": resample,
}

# %% [markdown]
# Besides looking we want a number. Real pictures vary most along a few directions, their
# **principal components**. We project real and generated pictures onto the first 50, scale each so
# that real pictures have standard deviation 1, and average the 50 one-dimensional Wasserstein
# distances of [chapter 01](01_kl_divergence.ipynb). Zero is perfect; 1 means that values have to
# move by a whole standard deviation on average.
#
# It is a crude ruler: it knows pixels, not clothes. [Chapter 07](07_evaluation.ipynb) builds a
# better one.

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

# %%
noise = torch.randn(COUNT, Z_DIM, generator=torch.Generator().manual_seed(1)).to(DEVICE)
pictures, scores = {}, {}
for name, change in TRIALS.items():
    seed = 1 if "seed" in name else SEED
    G, D = new_pair(seed)
    change(G, D)
    betas = (0.9, 0.999) if "β₁" in name else BETAS
    average, _ = train.train_gan(
        images, G, D, steps=TRIAL, batch_size=BATCH, betas=betas, seed=seed, progress=False
    )
    with torch.no_grad():
        x_fake = average(noise)
    pictures[name], scores[name] = x_fake[:12], distance(x_fake).item()

# %%
plot.show(
    plot.rows({f"{name}  {scores[name]:.2f}": x for name, x in pictures.items()}, columns=10),
    alt="Eight rows of generated pictures, one per trial, each with its distance to real pictures.",
)

# %% [markdown]
# Read the two top rows first: they differ in nothing but luck. A gap that is no larger than theirs
# means nothing.
#
# On Fashion-MNIST three changes hurt: without BatchNorm, in either net, and with $\beta_1 = 0.9$ we
# get blurred patches, some with a fine grid. (Even painting, as in 5.1, does not prevent it: the
# places of the kernel have different weights.) By this ruler the other three do *not* hurt: default
# weights, ReLU in D and resizing score about as well as the rules, or better. Look at the rows too:
# the ruler does not see how ragged an edge is.

# %% [markdown]
# So the rules are no laws. Nor are they independent: weights as small as $\mathcal N(0, 0.02^2)$
# let the signal shrink from layer to layer unless BatchNorm restores it. They were found with
# deeper nets and larger pictures. Resizing also pays with slower steps, as its convolutions run on
# the larger maps. And these are short runs: they show who starts well, not who ends well.

# %%
# checkpoint: every trial ran on the same budget, and the ruler knows real from noise
assert len(scores) == len(TRIALS) and all(0 < s < 10 for s in scores.values())
assert floor < distance(x_noise)
if runtime.profile() != "smoke":
    assert floor < min(scores.values()) < 1.0
if runtime.profile() == "cpu":  # what the text above says
    unlucky = max(scores[name] for name in list(TRIALS)[:2])
    for name in ("no BatchNorm in G", "no BatchNorm in D", "Adam β₁ = 0.9"):
        assert scores[name] > unlucky, name

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

# %%
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
# nobody interrupts.) The command `gencourse train` survives a power cut in the same way, because it
# also writes a checkpoint every few hundred steps.

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
out = runtime.run_folder("05_dcgan")
ema_generator, history = train.train_gan(
    *(images, G, D), steps=STEPS, batch_size=BATCH, lr=LR, betas=BETAS, ema_decay=EMA_DECAY,
    seed=SEED, out=out, sample_every=STEPS // 8, checkpoint_every=max(500, STEPS // 20),
)  # fmt: skip

# %%
def read_sheet(path):
    """A saved sheet, 8×8 pictures with two pixels between them → (64, 3, H, W) in [-1, 1]."""
    sheet = torch.tensor(plt.imread(path)).permute(2, 0, 1)[:, 2:, 2:]
    cells = sheet.unfold(1, SIZE, SIZE + 2).unfold(2, SIZE, SIZE + 2)  # (3, 8, 8, H, W)
    return 2 * cells.permute(1, 2, 0, 3, 4).flatten(0, 1) - 1


sheets = {int(p.stem[5:]): read_sheet(p) for p in sorted(out.glob("samples/step-*.png"))}

# %%
moments = [list(sheets)[i] for i in (0, 1, 2, 4, -1)]  # later ones differ little
plot.show(
    plot.rows({f"step {step:,}": sheets[step] for step in moments}),
    alt="Twelve generated pictures in each row, the same noise at five moments of the training, "
    "rough at the top, clearer and more detailed at the bottom.",
)

# %% [markdown]
# After an eighth of the way, the first row, most pictures have an outline already; the briefly
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
# do not arrive. When the rate falls, `d_loss` may even sink again: D gets surer *while the pictures
# get better*.
#
# So a loss does not measure pictures. Each measures one player against *its own* opponent, and a
# weak opponent flatters: don't compare losses between runs. What to watch for is a lost balance: a
# `d_loss` that goes to zero and stays there means that G learns nothing more.

# %% [markdown]
# **What the average is good for.** At the end the rate has fallen to zero, so the generator stands
# still and its average has caught up. To see a difference, look at a generator that is still
# moving. We continue from the trained nets at the *full* rate and draw the same noise at several
# moments, with the last weights and with the average.
#
# **Predict:** which of the two changes more from moment to moment?

# %%
live, judge = copy.deepcopy(G), copy.deepcopy(D)
ema = train.EMA(live, EMA_DECAY)
g_opt = torch.optim.Adam(live.parameters(), lr=LR, betas=BETAS)
d_opt = torch.optim.Adam(judge.parameters(), lr=LR, betas=BETAS)

# %%
EVERY = runtime.budget(smoke=1, cpu=40, gpu=40)
views = {"last weights": [], "average": []}
for step in range(5 * EVERY):
    gan_step(images.batch(step, BATCH), live, judge, g_opt, d_opt)
    ema.update()
    if (step + 1) % EVERY == 0:
        with torch.no_grad():
            views["last weights"].append(copy.deepcopy(live).eval()(noise))
            views["average"].append(ema.model(noise))

# %%
fig, axes = plt.subplots(1, 2, figsize=(5.4, 2.5))
change = {}
for ax, (name, snapshots) in zip(axes, views.items(), strict=True):
    plot.grid(torch.cat([x[:6] for x in snapshots]), columns=6, ax=ax, title=name)
    steps = zip(snapshots, snapshots[1:], strict=False)
    change[name] = torch.stack([(a - b).abs().mean() for a, b in steps]).mean().item()
    ruler = ", ".join(f"{distance(x):.3f}" for x in snapshots)
    print(f"{name:12}  mean change of a pixel {change[name]:.3f}   distances {ruler}")
plot.show(
    fig,
    alt="Two blocks of pictures, five rows each: the same noise at five moments at the full "
    "rate. Left the last weights, right the average, which changes less from row to row.",
    jpeg=True,
)

# %% [markdown]
# Both blocks start from the same finished generator. In the last weights details come and go from
# one row to the next, although each row is "as well trained" as the one above. The average moves
# less, as the first number says; to the eye the difference can be small. Whether it is also
# *nearer* to the real pictures, the list of distances says: look before you believe it. A rate that
# falls to zero and an average do similar work. With both, the gain at the end is small; at a
# constant rate, the average is what you want.

# %%
# checkpoint: the average moves less than what it averages; ours and the package's EMA agree
assert change["average"] < change["last weights"]
weight = nn.Linear(1, 1, bias=False)
ours, theirs, by_hand = EMA(weight, 0.5), train.EMA(weight, 0.5), weight.weight.item()
for n, value in enumerate((1.0, 5.0, 2.0, 7.0, 3.0, 3.5, 8.0, 1.0, 4.0, 2.0)):
    nn.init.constant_(weight.weight, value)
    ours.update(), theirs.update()
    past = min(0.5, (1 + n) / (10 + n))
    by_hand = past * by_hand + (1 - past) * value
assert abs(ours.model.weight.item() - by_hand) < 1e-5
assert torch.equal(ours.model.weight, theirs.model.weight)
if runtime.profile() != "smoke":
    assert distance(ema_generator(noise)) < min(scores.values())  # longer and wider did better

# %% [markdown]
# ## 5.7 An honest look at the failures
#
# **Question.** Sheets of 64 look good quickly. What do the *bad* pictures look like, and who finds
# them? The discriminator was trained to. We let it judge thousands of generated pictures and show
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
# and half another. Every row has some; the random row shows how common they are. What D believes
# least is not simply the ugliest, and what it believes most is not the most beautiful: D has
# specialised on the faults of *this* generator. It is no general
# judge of pictures. And the eye tires after a dozen: 64 pictures can't show what is *missing*.

# %% [markdown]
# Some pictures belong to no class: half shirt, half bag. Chance alone can't be blamed. The noise
# $z$ fills a space without gaps, and G is continuous, so on any way from a shoe to a bag the
# pictures change *without a jump*. Where the data has separate islands, some $z$ must land in the
# water between them.
#
# Walk it yourself. Between two noises $a, b \sim \mathcal N(0, I)$ we take
# $z = a\cos\varphi + b\sin\varphi$, which is exactly $\mathcal N(0, I)$ again at every angle, so G
# has seen such $z$ in training.

# %%
def walk(start, end):
    angle = torch.linspace(0, torch.pi / 2, 10, device=DEVICE)[:, None]
    z = noise[start] * angle.cos() + noise[end] * angle.sin()
    fig, ax = plt.subplots(figsize=(6.6, 1.0))
    with torch.no_grad():
        plot.grid(ema_generator(z), columns=10, ax=ax)
    ax.set_title(f"from noise {start} to noise {end}", color=plot.FAKE)
    return fig


alt = "Ten generated pictures on a way between two."
widgets.explore(walk, alt, start=(0, 63, 3), end=(0, 63, 5))

# %% [markdown]
# **Does D still see a difference?** If generated and real pictures had the same density, the best D
# would say ½ to both (chapter 02). And a D that has learned what clothes look like, rather than
# which 60,000 pictures it was shown, should say the same about pictures it has never seen.
#
# **Predict:** where will the three histograms lie: training pictures, test pictures, generated?

# %%
count = min(COUNT, len(test_images))
groups = {
    "real, seen in training": (images.images(range(count)), plot.REAL, "-"),
    "real, never seen": (test_images.images(range(count)), plot.REAL, "--"),
    "generated": (x_fake[:count], plot.FAKE, "-"),
}

# %%
fig, ax = plt.subplots()
verdicts = {}
for name, (x, colour, line) in groups.items():
    verdicts[name] = torch.sigmoid(logits(D, x)).cpu()
    ax.hist(verdicts[name], bins=torch.linspace(0, 1, 26), density=True, histtype="step",
            color=colour, linestyle=line, linewidth=1.8, label=name)  # fmt: skip
    right = ((verdicts[name] > 0.5) == ("real" in name)).float().mean()
    print(f"{name:24} mean D(x) {verdicts[name].mean():.2f}   D is right {right:.0%}")
ax.set(xlabel="D(x)", ylabel="density", ylim=(0, 1.35 * ax.get_ylim()[1]))
ax.legend(loc="upper left", ncols=2)
plot.show(
    fig,
    alt="Histograms of D(x) for real training pictures, real test pictures and generated pictures.",
)

# %% [markdown]
# D is right more often than a coin, about generated pictures too: there are differences that it can
# see and we overlook, and G has not removed them. So $q \ne p$, whatever the sheets look like. One
# caution: in eval mode BatchNorm uses one running average over both kinds, in training each batch
# its own. So this D is not quite the one that played: compare the histograms with each other rather
# than with ½.

# %% [markdown]
# The distance between the solid and the dashed blue line is *overfitting*: a D that knows its
# training pictures by heart gives them a higher value than pictures it has never seen. With 60,000
# pictures and a short training the two blue lines nearly agree. Section 5.9 shows what happens with
# few.

# %%
# checkpoint: D's opinion of a picture does not depend on its neighbours; the walk keeps N(0, I)
# (1e-2, because some GPUs multiply with ten bits where the batch is large: TF32)
torch.testing.assert_close(logits(D, x_fake[:4]), logits(D, x_fake)[:4], rtol=1e-2, atol=1e-2)
a, b = torch.randn(2, 200_000)
for angle in (0.3, 0.8, 1.2):
    z = a * torch.tensor(angle).cos() + b * torch.tensor(angle).sin()
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
if runtime.profile() != "smoke":
    assert verdicts["real, seen in training"].mean() > verdicts["generated"].mean()

# %% [markdown]
# ## 5.8 The same code at 64×64, in colour, on a GPU
#
# **Question.** What has to change for larger pictures in colour? Two numbers: `size` and
# `channels`. The nets get one more doubling.
#
# **Predict:** by what factor does one step get slower, from 28 grey pixels to 64 coloured ones, at
# the same width?

# %%
BIG_STEPS = runtime.budget(smoke=2, cpu=30, gpu=20_000)
BIG_WIDTH = runtime.budget(smoke=4, cpu=16, gpu=64)
big_images = data.load("shapes", size=64, count=runtime.budget(smoke=100, cpu=1_000, gpu=10_000))
big_G = nets.DCGANGenerator(64, 3, Z_DIM, BIG_WIDTH)
big_D = nets.DCGANDiscriminator(64, 3, BIG_WIDTH)

# %%
big_average, big_history = train.train_gan(
    big_images, big_G, big_D, steps=BIG_STEPS, batch_size=BATCH, seed=SEED,
    out=runtime.run_folder("05_colour_64"),
)  # fmt: skip

# %%
with torch.no_grad():
    x_fake = big_average(noise[:8])
plot.show(
    plot.rows({"real": big_images.batch(0, 8), f"step {BIG_STEPS:,}": x_fake}, columns=8),
    alt="Eight coloured shapes on black above eight pictures of the generator after the number of "
    "steps that this profile allows.",
)

# %% [markdown]
# In the `smoke` and `cpu` profiles this is *not* a result. It only shows that the same code runs at
# 64×64 in colour: these steps are far too few. What does a step cost? Compare the `images/s`
# printed under this cell and under that of 5.6: there are five times as many pixels, and one stage
# more. The `gpu` profile trains it to the end; its results have not been measured yet, so we quote
# none. On a GPU try `"cifar10"` or a folder of your own in place of `"shapes"`, without `count=`,
# which only the shapes have. For grey pictures change the 3 in both nets to 1. Keep `BIG_WIDTH` at
# 64.

# %%
# checkpoint: one doubling more, and the shapes that belong to 64×64 in colour
assert x_fake.shape == (8, 3, 64, 64) and x_fake.abs().max() <= 1
assert sum(isinstance(m, nn.ConvTranspose2d) for m in big_G.body) == DOUBLINGS[64] == 3
assert len(big_history["step"]) == BIG_STEPS

# %% [markdown]
# ## 5.9 A folder of your own pictures
#
# **Question.** What about *your* pictures? Give `data.load` a folder. It looks into subfolders too,
# cuts the square in the middle of each picture, and resizes it. Here we make such a folder from
# coloured shapes, so that this cell runs everywhere. For your own pictures change only the path
# inside `data.load("folder:…")`: the loop above it *writes* into `pictures_folder`.
#
# **Predict:** we use very few pictures. What will D learn that it should not?

# %%
import logging

FEW = runtime.budget(smoke=64, cpu=100, gpu=100)
pictures_folder = runtime.run_folder("05_pictures")
for split in ("train", "test"):  # a folder may have these two halves; only the first is trained on
    (pictures_folder / split).mkdir(parents=True, exist_ok=True)
    for i, x in enumerate(data.load("shapes", split, size=48, count=FEW).x.cpu()):
        if not (path := pictures_folder / split / f"{i:03d}.png").exists():
            plt.imsave(path, x.permute(1, 2, 0).numpy())
logging.basicConfig(stream=sys.stdout, format="%(message)s")  # `load` has something to say
own = data.load(f"folder:{pictures_folder}", size=32)
print(own)

# %%
OWN_STEPS = runtime.budget(smoke=2, cpu=600, gpu=2_000)
own_G = nets.DCGANGenerator(32, 3, Z_DIM, WIDTH)
own_D = nets.DCGANDiscriminator(32, 3, WIDTH)
own_average, _ = train.train_gan(
    own, own_G, own_D, steps=OWN_STEPS, batch_size=BATCH, seed=SEED, progress=False
)
with torch.no_grad():
    x_fake = own_average(noise[:24])

# %%
unseen = data.load(f"folder:{pictures_folder}", split="test", size=32)
for name, x in (("seen", own), ("unseen", unseen)):
    print(f"{name:6} pictures: mean logit {logits(own_D, x.images(range(FEW))).mean():.2f}")

# %%
nearest = torch.cdist(x_fake.flatten(1), own.images(range(FEW)).flatten(1)).argmin(1)
plot.show(
    plot.rows({"generated": x_fake, "nearest in folder": own.images(nearest)}),
    alt="Twelve generated shapes above the pictures of the folder that are nearest to each.",
)

# %% [markdown]
# After real training D's mean logit is higher for pictures it has seen than for pictures of the
# very same kind, from the folder's `test` half, that it has not (only the difference counts). It
# has begun to learn its hundred by heart. Its signal to G then says "be like these hundred", and
# the best G can do is to copy. After this short training G draws blobs with a colour and a place,
# no copies yet.
#
# What to expect of your own: thousands of pictures, all framed alike, can work. Hundreds give
# little variety, tens give copies or noise. Mirrored copies help, if you would accept a mirrored
# picture.

# %%
# checkpoint: a folder gives the pictures that were put in
assert len(own) == FEW and own.shape == (3, 32, 32)
again = data.load("shapes", size=48, count=FEW)
small = F.interpolate(again.images(range(FEW)), 32, mode="bilinear", antialias=True)
assert (small - own.images(range(FEW))).abs().max() < 0.1  # sorted by name, so in the same order
if runtime.profile() == "cpu":
    seen, new = (logits(own_D, x.images(range(FEW))).mean() for x in (own, unseen))
    assert seen > new

# %% [markdown]
# ## Break it: an average that forgets BatchNorm
#
# An easy mistake: an EMA that averages `model.parameters()`. BatchNorm's
# running mean and variance are *buffers*, not parameters, so in the averaged net they stay what
# they were in the first second: mean 0 and variance 1.
#
# **Predict:** the weights are all right. How bad can it be?

# %%
forgetful = copy.deepcopy(ema_generator)
for module in forgetful.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.reset_running_stats()  # mean 0, variance 1: what a forgetful average would keep

# %%
with torch.no_grad():
    rows = {"weights, statistics": ema_generator(noise), "weights only": forgetful(noise)}
for name, x in rows.items():
    print(f"{name:20} distance to real pictures {distance(x):.2f}")
plot.show(
    plot.rows(rows),
    alt="Above, generated pictures of the averaged net. Below, the same weights with the "
    "statistics of the first second: dark and empty.",
)

# %% [markdown]
# The same weights, and the pictures are destroyed. Each layer was trained on inputs that BatchNorm
# had brought to mean 0 and variance 1. With the wrong statistics every layer hands on the wrong
# scale, and the error multiplies. The danger is that nothing complains: the losses look fine, since
# the average takes no part in training. Only a look at the average's *own* samples shows it.

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
#
# To try at once: `EMA_DECAY = 0.9999`. How many steps does the average need to look like the net?

# %% [markdown]
# ## Recap
#
# - A transposed convolution is the transpose of a convolution's matrix: it paints instead of
#   reading, and kernel 4 with stride 2 doubles the side evenly.
# - DCGAN's rules are a good start and no laws. An ablation tells which matter for *your* data and
#   budget; compare with a second seed before you believe a difference.
# - Freeze D in G's step: the same gradients for less work. Make the pictures once; keep two passes.
# - An averaged generator stands still where the game circles. It needs BatchNorm's statistics too.
# - Save everything that has a memory, and an interrupted run ends in the same bits.

# %% [markdown]
# ## References
#
# - Radford, Metz, Chintala 2016, *Unsupervised representation learning with deep convolutional
#   GANs*, [arXiv:1511.06434](https://arxiv.org/abs/1511.06434): the nets and rules. We differ:
#   kernels of 4 instead of 5, normal instead of uniform noise, a 3×3 convolution before tanh and at
#   D's end, a rate that starts higher and falls, an averaged generator.
# - Dumoulin, Visin 2016, *A guide to convolution arithmetic*,
#   [arXiv:1603.07285](https://arxiv.org/abs/1603.07285): the formulas for shapes.
# - Odena, Dumoulin, Olah 2016, *Deconvolution and checkerboard artifacts*,
#   [Distill](https://distill.pub/2016/deconv-checkerboard/): counting the paint. They resize
#   first; we keep kernel 4.
# - Yazıcı et al. 2019, *The unusual effectiveness of averaging in GAN training*,
#   [arXiv:1806.04498](https://arxiv.org/abs/1806.04498): the average. Ours forgets faster while it
#   is young.
