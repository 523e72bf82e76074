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
# # 4 · The first GAN
#
# Two small networks and one loop turn noise into handwritten digits, with every line in the open.

# %% [markdown]
# **After this chapter you can** write the whole training loop of a GAN and say what each line is
# for · read its two losses, and name what they can't tell you · recognise by their symptoms four
# mistakes that run without an error message.
#
# **You need** [chapter 02](02_minimax.ipynb): the value function, $D^*$, and why the generator
# minimises $-\log D$.
#
# <!-- stamp -->
# *Run time: 7.8 min, peak memory 1.3 GB, `cpu` profile on `mnist`
# (cpu · 2 cores (2 threads) · Linux x86_64 · Python 3.11.7 · torch 2.15.0).*
# <!-- /stamp -->
#
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/chapters/04_first_gan.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import math
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from gencourse import data, evaluate, losses, nets, plot, runtime, widgets
from gencourse.run import Run

# %%
SEED = 4
plot.style()
runtime.seed_everything(SEED)
device = runtime.device()
print(runtime.describe())

# %%
DATA = runtime.budget(smoke="digits", cpu="mnist", gpu="mnist")  # real handwriting, small and grey
STEPS = runtime.budget(smoke=80, cpu=20_000, gpu=20_000)  # about three minutes on two cores
SHORT_STEPS = runtime.budget(smoke=25, cpu=600, gpu=1_500)  # for the comparisons: the early part
SEEDS = [SEED, SEED + 1, SEED + 2]  # a comparison needs several, to see what luck does
BATCH = 64  # a usual size; small batches give more steps per minute
Z_DIM = 64  # numbers of noise per picture; a usual size, not tuned
WIDTH = runtime.budget(smoke=64, cpu=128, gpu=256)  # units of the smallest layer; wider is slower
DROPOUT = 0.3  # share of D's units that are off in a training step: section 4.3
LR = 1e-3  # the same for both networks: section 4.6
BETAS = (0.5, 0.999)  # Adam's short memory: the opponent moves, so old gradients mislead
SAMPLE_EVERY = STEPS // 80  # eighty looks at the same noise

# %% [markdown]
# ## Where we are going
#
# Chapter 02 played the game on a line, where you could see both densities. A picture of a digit is
# a point with hundreds of coordinates. Nobody can draw that density. The game does not care: it
# needs samples of $p$ and of the generator's density $q$, nothing else.
#
# The figure shows three things: real digits, what an untrained generator makes of noise, and the
# average of all real digits. Training should lead from the middle picture to the left ones. A
# common mistake (section 4.9) leads to the right one instead.

# %%
images, images_test = data.load(DATA), data.load(DATA, split="test")
shape, pixels = images.shape, math.prod(images.shape)
x_real = images.batch(0, BATCH)  # (B, C, H, W) in [-1, 1]
mean_picture = images.x.float().mean(0) / 127.5 - 1  # (C, H, W)
print(images)

# %%
untrained = nets.DenseGenerator(shape, Z_DIM, WIDTH)(torch.randn(16, Z_DIM)).detach()
fig, axes = plt.subplots(1, 3, figsize=(6.6, 2.4))
plot.grid(x_real[:16], columns=4, ax=axes[0], title="real")
plot.grid(untrained[:1], columns=1, ax=axes[1], title="generated, untrained")
plot.grid(mean_picture[None], columns=1, ax=axes[2], title="average real one")
plot.show(fig, alt="Sixteen real digits; a square of grey noise; one blurred blob.")

# %% [markdown]
# ## 4.1 What must come out of the generator?
#
# **Question.** The generator $G$ maps noise $z$ to a picture $\tilde x = G(z)$. In which range
# should its pixels lie?
#
# **Predict** before you run the cell: if you sort all pixels of real digits by brightness, where
# do most of them lie? And where do the pixels of an untrained generator lie?
#
# Our data use $x \in [-1, 1]$: black paper is $-1$, full ink $+1$. The generator ends with
#
# $$\tanh(a) = \frac{e^{a} - e^{-a}}{e^{a} + e^{-a}} \in (-1, 1),$$
#
# so that every output is a legal pixel.

# %%
fig, ax = plt.subplots()
bins = torch.linspace(-1, 1, 31).numpy()
for x, colour, label in ((x_real, plot.REAL, "real"), (untrained, plot.FAKE, "untrained")):
    ax.hist(x.flatten().cpu().numpy(), bins, density=True, color=colour, alpha=0.6, label=label)
ax.set(xlabel="pixel value", ylabel="density (log scale)", yscale="log")
ax.legend()
plot.show(fig, alt="Real pixels pile up at -1, a few at +1; untrained ones form a hill around 0.")

# %% [markdown]
# **What the figure says.** Real pixels pile up at the two ends, most of them on the paper's side.
# Untrained ones form a hill around 0. Tanh suits the real ones. Its ends are flat, so every large
# $|a|$ gives nearly pure black or pure white.
#
# Why not $[0, 1]$ and a sigmoid? It is the same curve, stretched (the checkpoint shows it). What
# counts is that *data and generator use the same range*. Otherwise $D$ wins by looking at
# brightness alone.
#
# **What it does not say:** anything about *where* the ink is. That is the whole problem.

# %%
# checkpoint: tanh is a stretched sigmoid, and a batch is what we think it is
a = torch.linspace(-5, 5, 11)
torch.testing.assert_close(torch.tanh(a), 2 * torch.sigmoid(2 * a) - 1)
assert x_real.shape == (BATCH, *shape) and x_real.min() >= -1 and x_real.max() <= 1
assert torch.equal(images.batch(0, BATCH), x_real), "the same step gives the same batch"

# %% [markdown]
# ## 4.2 The generator, and why it has BatchNorm
#
# Three linear layers, the whole of it:

# %%
def make_generator(image_shape, z_dim, width):
    return nn.Sequential(
        nn.Linear(z_dim, width, bias=False),  # (B, Z) → (B, width); BatchNorm has its own bias
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, 2 * width, bias=False),  # → (B, 2·width)
        nn.BatchNorm1d(2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, math.prod(image_shape)),  # → (B, C·H·W)
        nn.Tanh(),
        nn.Unflatten(1, image_shape),  # → (B, C, H, W)
    )


# %% [markdown]
# **Question.** Do different $z$ give different pictures? They should, from the very first step:
# what does not depend on $z$ can't become variety.
#
# BatchNorm takes each hidden unit $h$ and normalises it over the batch,
#
# $$\hat h_i = \gamma\,\frac{h_i - m}{\sqrt{s^2 + \varepsilon}} + \beta,$$
#
# with $m$ and $s^2$ the mean and variance of $h$ over the batch, $\varepsilon$ a tiny number, and
# $\gamma$, $\beta$ learned (1 and 0 at the start).
#
# **Predict:** take the two BatchNorm layers out. By what factor does the spread of the picture over
# $z$ shrink?

# %% [markdown]
# Why should it shrink at all? [Chapter 03](03_convolutions.ipynb) works with the same rule: a unit
# adds up $n$ inputs $x_i$; $n$ is its **fan-in**. The first weights $w_i$ are drawn independently,
# with mean 0 and variance $v$, so the mixed terms average to zero:
#
# $$\mathbb E\Big[\big(\textstyle\sum_i w_i x_i\big)^2\Big] = n\,v\;\mathbb E[x^2].$$
#
# PyTorch's `nn.Linear` draws evenly from $\pm 1/\sqrt n$. Then $v = 1/(3n)$, and a layer leaves a
# *third* of the mean square. ReLU sets the negative half to zero, so a *sixth* is left. With
# $v = 2/n$ (*Kaiming*, or He, initialisation) the two factors cancel. We draw that as a third line.

# %%
def spread(net):
    """Standard deviation over z, averaged over units, behind each ReLU and behind tanh."""
    h = torch.randn(512, Z_DIM)
    found = []
    for layer in net:
        h = layer(h)
        if isinstance(layer, nn.ReLU | nn.Tanh):
            found.append(h.std(0).mean().item())
    return found


def without_norm():
    parts = make_generator(shape, Z_DIM, WIDTH)
    return nn.Sequential(*[part for part in parts if not isinstance(part, nn.BatchNorm1d)])


# %%
kaiming = without_norm()
for layer in kaiming:
    if isinstance(layer, nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # variance 2 / fan-in
with_norm, without = spread(make_generator(shape, Z_DIM, WIDTH)), spread(without_norm())
spreads = {"with BatchNorm": with_norm, "without": without, "without, Kaiming": spread(kaiming)}

# %%
fig, ax = plt.subplots(figsize=(5.5, 3))
colours = (plot.FAKE, plot.FOURTH, "0.4")
for (label, values), colour in zip(spreads.items(), colours, strict=True):
    ax.plot(["hidden 1", "hidden 2", "picture"], values, "o-", color=colour, label=label)
ax.set(ylabel="spread over z", yscale="log")
ax.legend()
plot.show(fig, alt="With BatchNorm and with Kaiming initialisation the spread stays high; without "
          "either, it falls at every layer.")
end, end_without = spreads["with BatchNorm"][-1], spreads["without"][-1]
print(f"spread of the picture: {end:.3f} with BatchNorm, {end_without:.3f} without,", end=" ")
print(f"{end / end_without:.0f} times less")

# %% [markdown]
# **What the figure says.** With PyTorch's first weights and no BatchNorm, every layer shrinks the
# differences between inputs. All $z$ start close to one and the same grey picture, and each further
# layer would bring them closer. BatchNorm gives each hidden unit spread one before its ReLU.
# Kaiming weights mend the start too. (They keep the mean *square*. A part of it becomes a mean that
# all $z$ share, so their line still falls a little.)

# %% [markdown]
# *During* training there is a difference. With BatchNorm the spread before each ReLU is $|\gamma|$,
# whatever the weights below it do. Kaiming initialisation promises nothing after the first step.
#
# **What it does not say:** which of the two trains better. We train with BatchNorm only.
#
# BatchNorm has a price: in training, a picture depends on the other $z$ of its batch. To *look* at
# pictures, switch to `eval()`. Then $m$ and $s^2$ are fixed running averages.

# %%
@torch.no_grad()
def pictures(G, z):
    """What G makes of z in eval mode: one z, one picture, whatever else is in the batch."""
    G.eval()
    x = G(z)
    G.train()
    return x


# %%
noise = torch.randn(64, Z_DIM, generator=torch.Generator().manual_seed(SEED)).to(device)

# %%
# checkpoint: BatchNorm from its equation; and in eval mode batch-mates don't matter
h = 5 * torch.randn(BATCH, 3) + 2
by_hand = (h - h.mean(0)) / torch.sqrt(h.var(0, unbiased=False) + 1e-5)
torch.testing.assert_close(nn.BatchNorm1d(3)(h), by_hand)
G = make_generator(shape, Z_DIM, WIDTH).to(device)
torch.testing.assert_close(pictures(G, noise)[:8], pictures(G, noise[:8]), rtol=1e-2, atol=1e-3)
x = torch.randn(2_000, 300)
layer = nn.Linear(300, 400, bias=False)
assert abs(layer(x).relu().square().mean() - 1 / 6) < 0.02  # of the mean square, which is 1
nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
assert abs(layer(x).relu().square().mean() - 1) < 0.1

# %% [markdown]
# ## 4.3 The discriminator, and why it has none
#
# The discriminator gets a picture and returns one number, a *logit* $a$. Its verdict is
# $D(x) = \sigma(a) = 1/(1+e^{-a})$, the probability that $x$ is real. Three choices differ from the
# generator.
#
# - **LeakyReLU.** All that $G$ ever learns flows back *through* $D$. A ReLU that is off passes
#   nothing; a leaky one passes a fifth.
# - **Dropout** instead of BatchNorm.
# - **No sigmoid** at the end.

# %%
def make_discriminator(image_shape, width, dropout):
    return nn.Sequential(
        nn.Flatten(),  # (B, C, H, W) → (B, C·H·W)
        nn.Linear(math.prod(image_shape), 2 * width),
        nn.LeakyReLU(0.2),
        nn.Dropout(dropout),
        nn.Linear(2 * width, width),
        nn.LeakyReLU(0.2),
        nn.Dropout(dropout),
        nn.Linear(width, 1),
        nn.Flatten(0),  # (B, 1) → (B,): one logit per picture
    )


# %% [markdown]
# **Question: what would BatchNorm do here?** $D$ sees a batch of real pictures and, separately, a
# batch of generated ones. BatchNorm would subtract each batch's *own* mean and divide by its *own*
# spread.
#
# **Predict.** Suppose the generator's only fault is contrast: its pictures are $0.3\,x$ for real
# $x$. You see the difference at once. Does a first layer with BatchNorm see it?

# %%
pale = 0.3 * x_real
linear, norm = nn.Linear(pixels, WIDTH).to(device), nn.BatchNorm1d(WIDTH).to(device)
first_layers = {"plain first layer": linear, "with BatchNorm": nn.Sequential(linear, norm)}
with torch.no_grad():
    for name, layer in first_layers.items():
        clear_h, pale_h = layer(x_real.flatten(1)), layer(pale.flatten(1))
        gap = (clear_h - pale_h).std() / clear_h.std()
        print(f"{name:18} difference between clear and pale: {gap:.3f} of the signal")

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.5, 1.9))
plot.grid(x_real[:8], columns=4, ax=axes[0], title="clear")
plot.grid(pale[:8], columns=4, ax=axes[1], title="pale: 0.3 · clear")
plot.show(fig, alt="The same eight digits twice: once black and white, once pale on grey.")

# %% [markdown]
# **What the numbers say.** The plain layer sees the difference. BatchNorm removes it: it divides
# out the very scale that was wrong. So a $D$ that starts with BatchNorm is blind to a contrast or a
# brightness that is wrong in the whole batch.
#
# **What they don't say:** that BatchNorm in $D$ is always bad. Deeper down it can help, and
# [chapter 05](05_dcgan.ipynb) uses it there, but never behind the first layer.

# %% [markdown]
# Now dropout. In training, each hidden unit is set to zero with probability $p = 0.3$, drawn anew
# each time. The units that stay on are multiplied by $1/(1-p)$, so that the *mean* of each unit is
# what it would be without dropout. In eval mode all units are on, and nothing is multiplied.
#
# **Predict:** ask $D$ a thousand times about *one* picture. How many answers do you get?

# %%
D = make_discriminator(shape, WIDTH, DROPOUT).to(device)
with torch.no_grad():
    answers = D(x_real[:1].expand(1_000, *shape)).cpu()  # a new mask for each row
    D.eval()
    settled = D(x_real[:1]).item()  # eval: all units on, nothing multiplied
    D.train()

# %%
fig, ax = plt.subplots(figsize=(5.5, 2.6))
ax.hist(answers.numpy(), 40, color=plot.THIRD, alpha=0.6, label="training mode")
ax.axvline(settled, color="black", label="eval mode")
ax.set(xlabel="logit for one and the same picture", ylabel="answers")
ax.legend()
plot.show(fig, alt="A bell of a thousand different logits around the single logit of eval mode.")

# %% [markdown]
# **What the figure says.** One picture, a whole bell of verdicts, centred near the one of eval
# mode. (Near, not equal: LeakyReLU is not a straight line, so means don't pass through it exactly.)
# A $D$ whose answer is blurred like this can hardly become *sure* of single training pictures. The
# hope is that $G$ then always has something to learn from.
#
# **What it does not say:** whether that hope comes true. We don't train without dropout here.
#
# Last, **why logits?** The losses need $\log D$ and $\log(1-D)$. On paper, sigmoid then log. In
# 32-bit numbers that breaks:

# %%
logits = torch.tensor([-200.0, -20.0, 0.0, 20.0])
D_of_x = torch.sigmoid(logits)
print("logit    −log D: sigmoid, log   softplus    −log(1−D): sigmoid, log   softplus")
for i, a in enumerate(logits):
    wrong = 0 - torch.log(D_of_x[i]), 0 - torch.log(1 - D_of_x[i])
    right = F.softplus(-a), F.softplus(a)
    print(f"{a:5.0f} {wrong[0]:22.3g} {right[0]:10.3g} {wrong[1]:25.3g} {right[1]:10.3g}")

# %% [markdown]
# An infinite loss has no usable gradient, and it comes just where $D$ is sure: the place where $G$
# needs help most. With $\operatorname{softplus}(t) = \log(1 + e^{t})$,
#
# $$-\log D = \operatorname{softplus}(-a), \qquad -\log(1 - D) = \operatorname{softplus}(a),$$
#
# exact for every $a$. So the network returns $a$, and the loss does the rest.
#
# You have now built both networks by hand. The package holds the same two; from the next chapter
# on we import such things. The cell proves that nothing is hidden: same seed, same outputs.

# %%
torch.manual_seed(SEED)
mine = make_generator(shape, Z_DIM, WIDTH), make_discriminator(shape, WIDTH, DROPOUT)
torch.manual_seed(SEED)
package = nets.DenseGenerator(shape, Z_DIM, WIDTH), nets.DenseDiscriminator(shape, WIDTH, DROPOUT)
z = torch.randn(BATCH, Z_DIM)
torch.testing.assert_close(mine[0](z), package[0](z))

# %%
# checkpoint: the discriminators agree too, once both draw the same dropout masks
torch.manual_seed(0)
my_logits = mine[1](x_real.cpu())
torch.manual_seed(0)
torch.testing.assert_close(my_logits, package[1](x_real.cpu()))
on = nn.Dropout(DROPOUT)(torch.ones(100_000))  # a new module is in training mode
assert abs(on.mean() - 1) < 0.02 and abs(on.max() - 1 / (1 - DROPOUT)) < 1e-5
assert torch.isfinite(F.softplus(logits)).all() and torch.isinf(-torch.log(D_of_x[0]))

# %% [markdown]
# ## 4.4 Two losses from one logit
#
# **Question.** What number tells $D$ how well it judges, and what number tells $G$ how well it
# fools $D$? Chapter 02 derived both. $D$ maximises the value function, so its loss is the negative:
#
# $$L_D = -\mathbb E_{x \sim p}[\log D(x)] - \mathbb E_{z}[\log(1 - D(G(z)))].$$
#
# That is binary cross-entropy (BCE) with target 1 for real and 0 for generated. The generator's
# non-saturating loss asks $D$ for the opposite answer:
#
# $$L_G = -\mathbb E_{z}[\log D(G(z))].$$
#
# **Predict:** what are both if $D$ answers ½ to everything?

# %%
def d_loss_of(real_logits, fake_logits):  # (B,), (B,) → nats, mean over the batch
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def g_loss_of(fake_logits):
    return F.softplus(-fake_logits).mean()


# %%
undecided = torch.zeros(BATCH)
print(f"D: {d_loss_of(undecided, undecided):.4f} nats, 2·log 2 = {2 * math.log(2):.4f}")
print(f"G: {g_loss_of(undecided):.4f} nats,   log 2 = {math.log(2):.4f}")

# %%
a = torch.linspace(-5, 5, 101)
fig, ax = plt.subplots()
ax.plot(a, F.softplus(-a), color=plot.REAL, label="D on a real picture: −log D")
ax.plot(a, F.softplus(a), color=plot.FAKE, label="D on a generated one: −log(1 − D)")
ax.plot(a, F.softplus(-a), "k:", label="G on its own picture: −log D")
ax.set(xlabel="logit a of the picture", ylabel="loss [nats]")
ax.legend()
plot.show(fig, alt="Two mirrored softplus curves that cross at logit 0 and height log 2.")

# %% [markdown]
# **What the figure says.** The two curves are mirror images and cross at $\log 2$. For its own
# picture $G$ wants exactly what $D$ wants for a real one. Each curve is almost a straight line on
# its wrong side: whoever is badly wrong gets a firm, steady push, never a violent one.
#
# **What it does not say:** that one of the two can win by going down its curve. The other one moves
# the same logits back.

# %%
# checkpoint: the same as PyTorch's BCE with logits, and as the package
a, b, one, zero = torch.randn(9), torch.randn(9), torch.ones(9), torch.zeros(9)
bce = F.binary_cross_entropy_with_logits
torch.testing.assert_close(d_loss_of(a, b), bce(a, one) + bce(b, zero))
torch.testing.assert_close(g_loss_of(b), bce(b, one))
torch.testing.assert_close(losses.discriminator_loss(a, b), d_loss_of(a, b))
torch.testing.assert_close(losses.generator_loss(b), g_loss_of(b))

# %% [markdown]
# ## 4.5 What `detach` does
#
# **Question.** $L_D$ contains $D(G(z))$, and so the weights of *both* networks. `backward()` does
# not know whose turn it is: it *adds* to `.grad` of every weight it can reach. `zero_grad()` clears
# that. `x.detach()` is the same picture, cut off from the computation that made it.
#
# **Predict** for three losses which network's weights receive a gradient: $L_D$ with `detach`,
# $L_D$ without, $L_G$.

# %%
G = make_generator(shape, Z_DIM, WIDTH).to(device)
D = make_discriminator(shape, WIDTH, DROPOUT).to(device)


def landed(loss):
    """Size (norm) of the gradient that this loss leaves in G and in D."""
    G.zero_grad()
    D.zero_grad()
    loss.backward()
    grads = [[p.grad for p in net.parameters() if p.grad is not None] for net in (G, D)]
    return [math.sqrt(sum(g.square().sum().item() for g in found)) for found in grads]


# %%
for name, loss in {
    "L_D, detached": d_loss_of(D(x_real), D(G(noise).detach())),
    "L_D, not detached": d_loss_of(D(x_real), D(G(noise))),
    "L_G": g_loss_of(D(G(noise))),
}.items():
    in_G, in_D = landed(loss)
    print(f"{name:18} gradient in G: {in_G:.4f}   in D: {in_D:.4f}")

# %% [markdown]
# **What the numbers say.** Without `detach`, the discriminator's loss leaves a gradient in $G$. It
# points the wrong way: it makes $G$'s pictures *easier* to catch. And look at the last row: $L_G$
# always leaves a gradient in $D$. That can't be detached, since $G$ learns through $D$. So
# `d_opt.zero_grad()` must come after it and before $D$'s own `backward()`. (The first two values in
# $D$ differ a little, since each call of $D$ draws new dropout masks.)
#
# **What they don't say:** whether harm is done. A gradient acts only when an optimizer
# steps on it.
#
# One way to forget `detach` can't be overlooked. Reuse $\tilde x$ for both steps, and PyTorch
# stops:

# %%
x_fake = G(noise)
d_loss_of(D(x_real), D(x_fake)).backward()  # runs through G, and frees G's graph behind itself
try:
    g_loss_of(D(x_fake)).backward()
except RuntimeError as error:
    print(f"RuntimeError: {str(error).split(' (')[0]}")

# %% [markdown]
# People silence this with `retain_graph=True`, or by running $G$ twice. Then it depends on where
# $G$'s gradients are zeroed:
#
# 1. **Right before $L_G$'s backward:** the leak is wiped out. Same training, wasted time.
# 2. **Only at the top of the step:** $G$ steps on the gradient of $L_D + L_G$.
#
# In the second case (leaving aside $D$'s own small step in between) each generated picture with
# logit $\tilde a$ pushes with
#
# $$\frac{d}{d\tilde a}\big[\operatorname{softplus}(\tilde a) + \operatorname{softplus}(-\tilde
# a)\big] = D - (1 - D) = 2D - 1.$$
#
# **Predict:** at which $D$ does this push vanish?

# %%
p_real = torch.linspace(0, 1, 101)
fig, ax = plt.subplots()
ax.plot(p_real, p_real - 1, color=plot.FAKE, label="L_G alone: D − 1")
ax.plot(p_real, p_real, color=plot.THIRD, label="leak from L_D: D")
ax.plot(p_real, 2 * p_real - 1, "k--", label="sum: 2D − 1")
ax.axhline(0, color="0.7", linewidth=1)
ax.set(xlabel="D(G(z))", ylabel="gradient on the logit [nats]")
ax.legend()
plot.show(fig, alt="L_G alone rises from -1 to 0, the leak from 0 to 1; their sum is 0 at ½.")

# %% [markdown]
# **What the figure says.** $L_G$ alone always pushes the logit up (its gradient is negative). The
# sum stops pushing at ½ and then pushes *back*: a picture that fools $D$ is punished for it. Where
# $D$ is sure ($D \approx 0$) the leak is small, and so the bug hardly shows.
#
# **What it does not say:** how the pictures suffer. Section 4.11 trains with it and looks.
#
# The checkpoint proves case 1: equal weights, more work.

# %%
def few_steps(detach):
    torch.manual_seed(SEED)
    G = make_generator(shape, Z_DIM, WIDTH).to(device)
    D = make_discriminator(shape, WIDTH, DROPOUT).to(device)
    g_opt, d_opt = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (G, D))
    start = time.perf_counter()
    for step in range(20):
        x_fake = G(noise)
        fake_logits = D(x_fake.detach() if detach else x_fake)
        d_opt.zero_grad()
        d_loss_of(D(images.batch(step, 64)), fake_logits).backward(retain_graph=True)
        d_opt.step()
        g_opt.zero_grad()  # right before G's backward: wipes out whatever leaked
        g_loss_of(D(x_fake)).backward()
        g_opt.step()
    weights = nn.utils.parameters_to_vector(G.parameters()).detach().cpu()  # waits for a GPU
    return weights, time.perf_counter() - start


# %%
# checkpoint: autograd agrees with 2D − 1; zeroed in the right place, a leak costs only time
a = torch.randn(7, requires_grad=True)
(F.softplus(a) + F.softplus(-a)).sum().backward()
torch.testing.assert_close(a.grad, 2 * torch.sigmoid(a.detach()) - 1)
few_steps(True)  # warm up, so that the two times compare
(weights, seconds), (leaky_weights, leaky_seconds) = few_steps(True), few_steps(False)
torch.testing.assert_close(weights, leaky_weights)
print(f"20 steps: {1e3 * seconds:.0f} ms with detach, {1e3 * leaky_seconds:.0f} ms without")

# %% [markdown]
# ## 4.6 The whole loop
#
# **Question.** How do two networks that work against each other learn with one loop? They take
# turns on every batch: one step down $L_D$ for $D$'s weights, one step down $L_G$ for $G$'s.
#
# `Run` wraps around the loop and does the bookkeeping: a progress bar, the history of what we log,
# pictures of the fixed noise, checkpoints. It decides nothing about the training. Without it, write
# `for step in range(STEPS):` and leave out `run.log`.

# %% [markdown]
# The rate of both optimizers is constant for the first half, then it falls evenly to zero. Adam
# moves each weight by something like the rate, even when only noise pushes it. The hope is that
# small last steps let the weights settle; we don't compare here. (Chapter 02 gave the judge the
# larger rate. Here both have the same. Section 4.7 shows whether one leaves the other behind.)
#
# **Predict:** what appears first in the pictures: the place of the ink, the strokes, or whole
# digits?

# %%
runtime.seed_everything(SEED)
G = make_generator(shape, Z_DIM, WIDTH).to(device)
D = make_discriminator(shape, WIDTH, DROPOUT).to(device)
g_opt = torch.optim.Adam(G.parameters(), lr=LR, betas=BETAS)
d_opt = torch.optim.Adam(D.parameters(), lr=LR, betas=BETAS)
before = pictures(G, noise)

run = Run(
    runtime.run_folder("04_first_gan"),
    settings={"data": DATA, "steps": STEPS, "z": Z_DIM, "width": WIDTH, "lr": LR, "seed": SEED},
    batch_size=BATCH,
    sample=lambda: pictures(G, noise),
    sample_every=SAMPLE_EVERY,
    generator=G,
    discriminator=D,
    g_opt=g_opt,
    d_opt=d_opt,
)

# %%
with run:
    for step in run.steps(STEPS):
        rate = LR * min(1, 2 * (1 - step / STEPS))  # constant, then down to zero
        g_opt.param_groups[0]["lr"] = d_opt.param_groups[0]["lr"] = rate
        x_real = images.batch(step, BATCH)  # (B, C, H, W), real
        x_fake = G(torch.randn(BATCH, Z_DIM, device=device))  # (B, C, H, W), generated

        # D's turn: tell real from generated. detach: nothing of this is meant for G.
        real_logits, fake_logits = D(x_real), D(x_fake.detach())
        d_loss = d_loss_of(real_logits, fake_logits)
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()

        # G's turn: be taken for real, by the D that has just learned.
        g_loss = g_loss_of(D(x_fake))
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()

        right = (real_logits > 0).float().mean() + (fake_logits < 0).float().mean()
        run.log(d_loss=d_loss, g_loss=g_loss, d_accuracy=right / 2)

# %% [markdown]
# Everything in the loop you have met: a pass through $D$ for each kind of picture; `detach`; each
# `zero_grad` right before its `backward`; each optimizer holding one network's weights only. $G$
# runs once per step: its pictures serve both turns.
#
# Run the cells again and they return at once: `Run` finds the finished training in its folder.
# Stopped half-way, it continues. If you *change* the loop, give `Run` the argument `fresh=True`.
# It compares the settings, and can't read your code.

# %%
saved = run.samples()  # step → file with an 8×8 sheet: what G made of the same 64 noises


def at(step):
    """The 64 saved pictures of this step: (64, 1, H, W) in [-1, 1]."""
    sheet = torch.from_numpy(plt.imread(saved[step])[2:, 2:, 0])  # 2 pixels between pictures
    tiles = sheet.unflatten(1, (8, -1)).unflatten(0, (8, -1)).transpose(1, 2).flatten(0, 1)
    return 2 * tiles[:, None, :-2, :-2] - 1


# %%
wanted = [SAMPLE_EVERY * i for i in (1, 3, 8, 20, 80)]
fig, axes = plt.subplots(len(wanted) + 1, 1, figsize=(3.6, 4.4))
for ax, step in zip(axes, [0, *wanted], strict=True):
    plot.grid(at(step)[:7] if step else before[:7], ax=ax)
    ax.set_title(f"step {step:,}", loc="left", fontsize=9, pad=2)
plot.show(fig, alt="Six rows of the same seven noises: grey at first, then blots, then digits.")

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.6, 2.2))
plot.grid(images_test.batch(0, 32), ax=axes[0], title="real")
plot.grid(pictures(G, noise[:32]), ax=axes[1], title="generated")
plot.show(fig, alt="32 real digits beside 32 generated ones: many of these can be read, some are "
          "broken.")

# %% [markdown]
# **What the figures say.** First the ink gathers in the middle, then strokes appear, then
# digits. The same noise may change its mind on the way, and turn from one digit into another. At
# the end many can be read at once; others are fragments, or two digits in one. And there are loose
# speckles: a *dense* network (linear layers only) has separate weights for every pixel, and nothing
# tells it which pixels are neighbours. [Chapter 05](05_dcgan.ipynb) mends that.
#
# **What they don't say:** whether all ten digits come equally often ([chapter
# 06](06_mode_collapse.ipynb)), or whether these are copies (section 4.8).

# %% [markdown]
# ### How many can be read?
#
# Counting by eye is slow, and one is kind to one's own pictures. The package has a *judge*: a small
# classifier that was trained on real digits. A first try: count a picture as readable if the judge
# is more than 90 % sure of some class.
#
# Never trust such a measure before you have tried it on pictures whose right score you know.
# **Predict:** which share of pure noise will pass? It should be none.

# %%
judge = evaluate.judge(DATA)


def sure(x):
    """For each picture: is the judge more than 90 % sure of one class? (N,) bool."""
    return evaluate.logits(x, judge).softmax(1).max(1).values > 0.9


# %%
x_test = images_test.batch(0, min(2_000, len(images_test)))
pure_noise = 2 * torch.rand_like(x_test) - 1
print(f"the judge is sure of {sure(x_test).float().mean():.1%} of held-out real digits,")
print(f"and of {sure(pure_noise).float().mean():.1%} of pictures of pure noise")

# %% [markdown]
# Look at the second number: on MNIST it can be as high as for real digits. A classifier has to
# answer with one of its classes, and its confidence means something only for pictures *like those
# it was trained on*. So we ask a second thing: does the picture look like a real one to the judge?
#
# Take its **features**, the outputs of its last hidden layer. A picture is *near* if the distance
# from its features to those of the nearest of up to 10,000 training digits is not larger than for
# 95 % of held-out real digits. *Readable* shall mean: sure **and** near.

# %%
known = images.images(torch.arange(min(10_000, len(images))))
known_features = evaluate.features(known, judge).values  # (M, features)


def feature_distance(x):
    """Distance from each picture's features to the nearest features of a training digit: (N,)."""
    return torch.cdist(evaluate.features(x, judge).values, known_features).min(1).values


half = len(x_test) // 2  # the first half sets the limit, the second half tests it
limit = feature_distance(x_test[:half]).quantile(0.95)


def readable(x):
    """Share of pictures of which the judge is sure and which look to it like a real digit."""
    return (sure(x) & (feature_distance(x) <= limit)).float().mean().item()


# %%
x_new = pictures(G, torch.randn(len(x_test), Z_DIM, device=device))
order = torch.randperm(pixels, device=device)
x_held = x_test[half:]
rulers = {
    "real, held-out": x_held,
    "real, its pixels shuffled": x_held.flatten(1)[:, order].view_as(x_held),
    "two real ones on top of each other": torch.maximum(x_held, x_held.roll(1, dims=0)),
    "noise": pure_noise,
    "generated, before training": before,
    "generated, after training": x_new,
}
shares = {name: readable(x) for name, x in rulers.items()}
print("                                       sure   readable")
for name, x in rulers.items():
    print(f"{name:36} {sure(x).float().mean():6.1%} {shares[name]:10.1%}")

# %% [markdown]
# **What the numbers say.** The first four rows test the ruler. Real digits pass, noise does not.
# But two digits on top of each other, which should not count, still pass rather often. So the ruler
# is *generous*: a share at or below that of the third row means little. The last row is the share
# for our generator, in this one training.
#
# None of these rows holds half-made pictures, from *early* in training. There the ruler is not
# tested yet; keep that in mind for section 4.7.
#
# **What they don't say:** how varied the readable ones are. A generator that draws one perfect
# digit again and again would have 100 %. [Chapter 07](07_evaluation.ipynb) builds better measures.

# %%
# checkpoint: G learned something that a second, independent measure sees
def distance_of_means(x):
    """How far the average of these pictures lies from the average real one, per pixel."""
    return (x.mean(0) - mean_picture).square().mean().sqrt().item()


after = distance_of_means(pictures(G, noise))
start = distance_of_means(before)
print(f"average picture to real average: {start:.2f} before, {after:.2f} after training")
assert all(math.isfinite(v) for v in run.history["g_loss"]) and len(run.history["step"]) == STEPS
if runtime.profile() != "smoke":
    assert after < start / 2
    assert shares["noise"] < 0.05 < 0.85 < shares["real, held-out"]
    assert shares["generated, after training"] > 0.3 > 0.1 > shares["generated, before training"]

# %% [markdown]
# ## 4.7 Reading the losses
#
# **Question.** In every other training you have seen, a falling loss means that things go well.
# Here two losses pull on each other. What should they do?
#
# From chapter 02: against the best possible $D$,
#
# $$L_D = 2\log 2 - 2\,\mathrm{JS}(p, q).$$
#
# So $L_D = 0$ needs $\mathrm{JS} = \log 2$: real and generated perfectly told apart, a generator
# with no chance. And $L_D = 2\log 2$ needs $q = p$, or a $D$ that has given up.
#
# **Predict** the picture: does $L_G$ fall during training? Towards which line does $L_D$ go?

# %%
def smooth(values, length):
    """Running mean; entry i is the mean of values i … i + length − 1."""
    return F.avg_pool1d(torch.tensor(values)[None, None], length, stride=1)[0, 0]


def draw_losses(ax, history, window):
    references = {"d_loss": (plot.THIRD, 2 * math.log(2)), "g_loss": (plot.FAKE, math.log(2))}
    for key, (colour, level) in references.items():
        ax.plot(history["step"], history[key], color=colour, alpha=0.15, linewidth=0.6)
        mean = smooth(history[key], window)
        ax.plot(history["step"][window - 1 :], mean, color=colour, label=key)
        ax.axhline(level, color=colour, linestyle=":", linewidth=1.2)
    ax.set(xlabel="step", ylabel="loss [nats]")
    ax.legend()


# %%
history, window = run.history, SAMPLE_EVERY
fig, axes = plt.subplots(1, 2, figsize=(8, 3.2))
draw_losses(axes[0], history, window)
axes[0].set_ylim(0, 3)
axes[1].plot(history["step"][window - 1 :], smooth(history["d_accuracy"], window), color=plot.THIRD)
axes[1].axhline(0.5, color="0.6", linestyle=":")
axes[1].set(xlabel="step", ylabel="share D gets right", ylim=(0, 1))
plot.show(fig, alt="Both losses drift slowly near dotted lines; D's accuracy is above a half.")

# %% [markdown]
# **What the figure says.** After a short struggle both losses change little; they drift slowly.
# (Dotted: $2\log 2$ for $D$, $\log 2$ for $G$, what an undecided $D$ would give.) As long as $L_D$
# is below its line, $D$ is better than a coin. On the right, $D$ stays above a half, far from 1: in
# this one run neither network left the other behind. $L_G$ does not fall to zero, and should not:
# each step that improves one network makes the other's task harder.

# %% [markdown]
# **What it does not say:** that nothing happens on the level stretch. $L_G$ measures $G$ with a
# ruler, $D$, which is itself being trained. Equal numbers at different times are readings of
# different rulers.
#
# The explorer lets you check that. Slide through time: the line marks the moment on the left, and
# the same noise is shown on the right. **Predict** first: at which step do the losses stop moving?
# At which step do the pictures?

# %%
moments = list(saved)
thin = slice(None, None, max(1, STEPS // 300))
curves = {k: smooth(history[k], window)[thin] for k in ("d_loss", "g_loss")}
at_steps = torch.tensor(history["step"][window - 1 :])[thin]


def look(moment):
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.6), width_ratios=[1, 1.3])
    left.plot(at_steps, curves["d_loss"], color=plot.THIRD, label="d_loss")
    left.plot(at_steps, curves["g_loss"], color=plot.FAKE, label="g_loss")
    left.axvline(moments[moment], color="0.3")
    left.set(xlabel="step", ylabel="loss [nats], smoothed", ylim=(0, 2))
    left.legend(loc="lower left")
    plot.grid(at(moments[moment])[:24], columns=6, ax=right, title=f"step {moments[moment]:,}")
    return fig


widgets.explore(look, "Level loss curves, and beside them 24 digits of the marked step.",
                moment=(0, len(moments) - 1, len(moments) - 1))

# %% [markdown]
# Now without eyes. A cell computes the readable share of the 64 saved pictures at each moment. It
# also searches the first twentieth of the training for the moment whose two losses are most like
# those at the end.
#
# **Predict:** will the readable share and your eye agree, at the start too?

# %%
smoothed = {k: smooth(history[k], window) for k in ("d_loss", "g_loss")}
readings = {s: [smoothed[k][s - window].item() for k in smoothed] for s in moments}
last = readings[STEPS]
early = min((s for s in moments if s <= STEPS // 20), key=lambda s: math.dist(readings[s], last))
readable_at = {s: readable(at(s)) for s in moments}

fig, axes = plt.subplots(2, 1, figsize=(5.5, 4.2), sharex=True)
for key, colour in (("d_loss", plot.THIRD), ("g_loss", plot.FAKE)):
    axes[0].plot(history["step"][window - 1 :], smoothed[key], color=colour, label=key)
axes[0].set(ylabel="loss [nats]", ylim=(0, 2))
axes[0].legend()
axes[1].plot(moments, list(readable_at.values()), color="black")
axes[1].axhline(shares["real, held-out"], color=plot.REAL, linestyle=":", label="real")
axes[1].set(xlabel="step", ylabel="readable share", ylim=(0, 1))
axes[1].legend()
plot.show(fig, alt="Above, two nearly level loss curves; below, the readable share of the same "
          "run, which climbs.")

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.2, 1.4))
for ax, s in zip(axes, (early, STEPS), strict=True):
    title = f"step {s:,}: L_D {readings[s][0]:.2f}, L_G {readings[s][1]:.2f}"
    plot.grid(at(s)[:16], ax=ax, title=title)
    print(f"step {s:,}: readable {readable_at[s]:.0%}")
plot.show(fig, alt="Two grids of the same noise with similar losses: rough blots, then digits.")

# %% [markdown]
# **What the figures say.** In this one run, look at the two grids first: blots on the left, mostly
# digits on the right. $L_D$ differs little between them, and $L_G$ by a fraction of a nat. Such
# numbers alone would not tell you what the pictures look like.
#
# Now the printed shares. If the blots score as high as the digits, or higher, *the ruler is wrong
# there*: it was tested on pure noise and on doubled digits, never on blots. Trust the eye, and read
# the lower curve only after its first points.
#
# Two rules: don't call a GAN finished because its loss curves are flat, and don't compare two GANs
# by their losses.

# %% [markdown]
# What losses are good for: they show a *breakdown*. $L_D$ near zero while $L_G$ climbs: $D$ has
# won. Both near zero: a bug. Both exactly on their dotted lines, or a sudden jump that stays: look
# closer. Section 4.11 shows the second and the third.
#
# One more honest use. For **any** $D$, $\ \mathrm{JS}(p, q) \ge \log 2 - L_D/2$. On pictures that
# $D$ was not trained on, this is a lower bound for how far $q$ still is from $p$.

# %%
D.eval()
with torch.no_grad():
    per_real, per_fake = F.softplus(-D(x_test)), F.softplus(D(x_new))  # (N,) and (N,) nats

# %%
D.train()
held_out = (per_real.mean() + per_fake.mean()).item()
error = math.sqrt((per_real.var() + per_fake.var()).item() / len(x_test))  # standard error of L_D
print(f"held-out L_D = {held_out:.3f} ± {error:.3f} nats")
print(f"JS(p, q) ≥ {math.log(2) - held_out / 2:.3f} ± {error / 2:.3f} nats", end=" ")
print(f"(the largest possible JS is log 2 = {math.log(2):.3f})")

# %% [markdown]
# **What the numbers say.** ± is the standard error. If the bound is several times its
# own error, at least so much difference is left: $D$ has found it. If not, this $D$ proves nothing.
#
# **What they don't say:** how much difference there is. A *small* bound can mean a good generator,
# or a weak $D$; and this $D$ is small, was blurred by dropout in training, and had little time. The
# pictures above decide: can your eye still tell them apart?

# %%
# checkpoint: the bound on a case with a known answer, two overlapping boxes
p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.5, 0.5])  # three outcomes
m = (p + q) / 2
js = 0.5 * (torch.xlogy(p, p / m) + torch.xlogy(q, q / m)).sum()
for a in torch.randn(200, 3) * 3:  # 200 arbitrary discriminators: one logit for each outcome
    l_d = (p * F.softplus(-a) + q * F.softplus(a)).sum()
    assert js >= math.log(2) - l_d / 2 - 1e-6
best = torch.tensor([50.0, 0.0, -50.0])  # the logit of p/(p + q): +∞, 0, −∞
l_best = (p * F.softplus(-best) + q * F.softplus(best)).sum()
torch.testing.assert_close(l_best, 2 * math.log(2) - 2 * js)

# %% [markdown]
# ## 4.8 Is it copying?
#
# **Question.** $G$ never sees a real picture, only gradients through $D$. Could it still have
# stored the training set? A first look: for each generated picture, find the nearest training
# picture. Distance here is the root mean square (RMS) difference of pixels,
#
# $$d(x, y) = \sqrt{\tfrac{1}{N}\textstyle\sum_i (x_i - y_i)^2},\qquad N \text{ pixels}.$$
#
# A distance alone means nothing, so we need a yardstick: *held-out real* pictures, which nobody can
# have copied.
#
# **Predict:** will generated pictures lie nearer to the training set than held-out ones, or
# farther?

# %%
def nearest(x):
    """RMS distance from each picture to its nearest training picture, and which one that is."""
    distance = torch.full((len(x),), math.inf, device=device)
    index = torch.zeros(len(x), dtype=torch.long, device=device)
    for start in range(0, len(images), 10_000):  # in parts, to spare memory
        part = images.images(torch.arange(start, min(start + 10_000, len(images))))
        d, i = torch.cdist(x.flatten(1), part.flatten(1)).min(1)  # fast, and slightly rounded
        index = torch.where(d < distance, i + start, index)
        distance = torch.minimum(d, distance)
    return (x - images.images(index)).square().flatten(1).mean(1).sqrt(), index  # not rounded


how_many = min(250, len(images_test))
from_new, index_new = nearest(x_new[:how_many])
from_test, _ = nearest(x_test[:how_many])

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.8, 2.6), width_ratios=[1.5, 1])
pairs = torch.cat([x_new[:8], images.images(index_new[:8])])
plot.grid(pairs, ax=axes[0], title="generated; below each, its nearest real one")
bins = torch.linspace(0, max(from_new.max(), from_test.max()).item(), 31).numpy()
axes[1].hist(from_test.cpu().numpy(), bins, color=plot.REAL, alpha=0.6, label="held-out real")
axes[1].hist(from_new.cpu().numpy(), bins, color=plot.FAKE, alpha=0.6, label="generated")
axes[1].set(xlabel="RMS distance to nearest training picture", ylabel="pictures")
axes[1].legend()
plot.show(fig, alt="Eight generated digits above their nearest real ones, similar but not equal; "
          "histograms of the distances, both well away from zero.")

# %%
# Two generators that do copy: one exactly but for a little noise, one with a shift of one pixel.
training = images.batch(0, how_many)
noisy_copies = training + 0.05 * torch.randn_like(training)
shifted_copies = torch.roll(training, 1, dims=3)
medians = {
    "held-out real": from_test.median().item(),
    "generated": from_new.median().item(),
    "copies with a little noise": nearest(noisy_copies)[0].median().item(),
    "copies, one pixel to the right": nearest(shifted_copies)[0].median().item(),
}
print("median distance to the nearest training picture")
for name, value in medians.items():
    print(f"{name:32} {value:.3f}")

# %% [markdown]
# **What the figure says.** The nearest real digits look related, and are not the same pictures. In
# the table, our generated pictures are about as far from the training set as held-out real ones, or
# farther. The third row shows that the test works: a generator that copies is caught.
#
# **What it does not say:** that there is *no* copying. See the last row: a copier that shifts every
# picture by one pixel is not caught like that. Compare its number with the first row's. Pixel
# distance does not recognise a shifted picture, and it favours blur. [Chapter
# 07](07_evaluation.ipynb) looks with better distances.

# %%
# checkpoint: the search agrees with the package's slower, exact one; the copier is caught
distances, indices = evaluate.nearest_neighbours(x_new[:8], known)
mine = (x_new[:8] - known[indices[:, 0]]).square().flatten(1).mean(1).sqrt()
torch.testing.assert_close(mine.cpu(), distances[:, 0].float().cpu() / math.sqrt(pixels))
assert (from_new[:8] <= mine + 1e-3).all()  # the nearest of all is never farther
d, i = nearest(images.images([3, len(images) - 1]))
assert d.max() == 0 and torch.equal(images.images(i), images.images([3, len(images) - 1]))
if runtime.profile() != "smoke":
    assert medians["copies with a little noise"] < 0.5 * medians["held-out real"]
    assert medians["generated"] > 0.8 * medians["held-out real"]
    assert medians["copies, one pixel to the right"] > medians["copies with a little noise"] * 3

# %% [markdown]
# ## 4.9 Why not simply compare with real pictures?
#
# **Question.** A whole second network, only to get a loss? A tempting short cut needs no $D$: draw
# noise $z$, draw a random real picture $x$, and minimise the squared error (the mean squared error,
# MSE, times the number of pixels)
#
# $$L_\text{MSE} = \mathbb E_{z, x}\,\lVert G(z) - x \rVert^2 .$$
#
# It runs, and the loss falls. **Predict** the pictures. A hint: $z$ and $x$ are drawn
# *independently*. Fix one $z$, write $g = G(z)$, and split $x = \mathbb E[x] + (x - \mathbb E[x])$.
# The cross term averages to zero, and
#
# $$\mathbb E_x\lVert g - x\rVert^2
# = \lVert g - \mathbb E[x]\rVert^2 + \mathbb E_x\lVert x - \mathbb E[x]\rVert^2 .$$

# %% [markdown]
# The second term has no $g$ in it: a floor that nothing can get below. The first is zero at $g =
# \mathbb E[x]$, the average picture, **for every $z$**. The best generator by this loss ignores its
# input.

# %%
runtime.seed_everything(SEED)
G_mse = make_generator(shape, Z_DIM, WIDTH).to(device)
optimizer = torch.optim.Adam(G_mse.parameters(), lr=LR, betas=BETAS)
mse_history = {"step": [], "mse": []}
for step in range(SHORT_STEPS):
    x_fake = G_mse(torch.randn(BATCH, Z_DIM, device=device))
    mse = (x_fake - images.batch(step, BATCH)).square().sum(dim=(1, 2, 3)).mean()
    optimizer.zero_grad()
    mse.backward()
    optimizer.step()
    mse_history["step"].append(step + 1)
    mse_history["mse"].append(mse.item())

everything = images.images(torch.arange(min(10_000, len(images))))
floor = (everything - mean_picture).square().sum(dim=(1, 2, 3)).mean().item()

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3), width_ratios=[1, 1.2])
axes[0].plot(mse_history["step"], mse_history["mse"], color=plot.FAKE, label="training loss")
axes[0].axhline(floor, color="black", linestyle=":", label="the floor")
axes[0].set(xlabel="step", ylabel="squared error per picture", ylim=(0, None))
axes[0].legend()
rows = torch.cat([mean_picture[None].expand(6, *shape), pictures(G_mse, noise[:6])])
rows = torch.cat([rows, pictures(G, noise[:6])])
plot.grid(rows, columns=6, ax=axes[1], title="top: average · middle: MSE · bottom: GAN")
plot.show(fig, alt="The squared error falls to its floor. Six pictures of the MSE generator look "
          "like the blurred average above them; the GAN's six below are different digits.")

# %%
def report(name, x):
    to_mean = (x.mean(0) - mean_picture).square().mean().sqrt()
    error = (x - images.batch(10**6, len(x))).square().sum(dim=(1, 2, 3)).mean() / floor
    print(f"{name:18} {to_mean:21.3f} {x.std(0).mean():16.3f} {error:24.2f}")
    return error.item()


# %%
z = torch.randn(1_000, Z_DIM, device=device)
made_by_mse, made_by_gan = pictures(G_mse, z), pictures(G, z)
print("                   average to real average   spread over z   squared error / floor")
error_mse = report("MSE generator", made_by_mse)
error_gan = report("GAN generator", made_by_gan)
error_real = report("real pictures", images.batch(0, 1_000))
print(f"readable: MSE generator {readable(made_by_mse):.0%}, GAN {readable(made_by_gan):.0%}")

# %% [markdown]
# **What the numbers say.** The MSE generator's pictures are nearly the average picture, with only a
# small rest of spread over $z$: the derivation, measured. (The GAN had more steps and a falling
# rate. Neither could help the MSE loss much: it is close to its floor.)
#
# Now the last column. By squared error against random partners, the blur scores best and the GAN is
# worse. *Real pictures* score twice the floor: the floor is one variance, and two independent
# pictures bring one variance each. By this loss, real pictures are worse than a blur. It can't
# teach anybody to make real ones.

# %% [markdown]
# **What they don't say:** that squared error is always wrong. The mistake is the random partner.
# When each $z$ *belongs* to one $x$, squared error makes sense: [chapter 08](08_vae.ipynb) gets $z$
# from $x$. And $D$ needs no partner: it judges one picture by itself.

# %%
# checkpoint: the split into distance and floor holds for any fixed picture g
part = everything[:1_000].cpu().double()
centre, g = part.mean(0), pictures(G, noise[:1])[0].cpu().double()
total = (part - g).square().sum(dim=(1, 2, 3)).mean()
split = (g - centre).square().sum() + (part - centre).square().sum(dim=(1, 2, 3)).mean()
torch.testing.assert_close(total, split)
if runtime.profile() != "smoke":
    assert made_by_mse.std(0).mean() < 0.3 * made_by_gan.std(0).mean()
    assert error_mse < 1.1 < error_gan and 1.8 < error_real < 2.2
    assert readable(made_by_mse) < 0.1

# %% [markdown]
# ## 4.10 Three losses for the generator
#
# **Question.** Chapter 02 found two losses for $G$: $\log(1-D)$, which is the minimax game itself,
# and $-\log D$. A third one is *least squares* (LSGAN). It takes the logit $a$ as a plain number,
# and asks for 1 on real and 0 on generated pictures:
#
# $$L_D = \tfrac12\mathbb E_p\big[(a - 1)^2\big] + \tfrac12\mathbb E_q\big[a^2\big],
# \qquad L_G = \tfrac12\mathbb E_q\big[(a - 1)^2\big].$$
#
# This is a squared error again, but of $D$'s *answer*, not of pixels. It needs no random partner.
#
# Does the choice matter on digits? **Predict:** a generated picture has the logit $-4$. Which of
# the three losses pushes it hardest, and which hardly at all?

# %%
saturating_loss = losses.generator_loss_saturating  # log(1 − D), from chapter 02


def least_squares_d(real_logits, fake_logits):
    return 0.5 * (real_logits - 1).square().mean() + 0.5 * fake_logits.square().mean()


def least_squares_g(fake_logits):
    return 0.5 * (fake_logits - 1).square().mean()


# %% [markdown]
# The next function is the loop of 4.6 with switches: for the losses, and for the mistakes of the
# next section. (To compare like with like, all variants set both gradients to zero at the top, and
# run $G$ twice. The rate stays constant.)

# %%
def short_run(seed, d_objective=d_loss_of, g_objective=g_loss_of, detach=True, one_optimizer=False):
    runtime.seed_everything(seed)
    G = make_generator(shape, Z_DIM, WIDTH).to(device)
    D = make_discriminator(shape, WIDTH, DROPOUT).to(device)
    g_opt = torch.optim.Adam(G.parameters(), lr=LR, betas=BETAS)
    d_opt = torch.optim.Adam(D.parameters(), lr=LR, betas=BETAS)
    if one_optimizer:  # one Adam that holds both networks' weights
        g_opt = d_opt = torch.optim.Adam([*G.parameters(), *D.parameters()], lr=LR, betas=BETAS)
    history = {"step": [], "d_loss": [], "g_loss": []}
    for step in range(SHORT_STEPS):
        x_real, z = images.batch(step, BATCH), torch.randn(BATCH, Z_DIM, device=device)
        g_opt.zero_grad()
        d_opt.zero_grad()
        x_fake = G(z)
        d_loss = d_objective(D(x_real), D(x_fake.detach() if detach else x_fake))
        d_loss.backward()
        d_opt.step()
        if one_optimizer:
            g_opt.zero_grad()
        g_loss = g_objective(D(G(z)))
        g_loss.backward()
        g_opt.step()
        history["step"].append(step + 1)
        history["d_loss"].append(d_loss.item())
        history["g_loss"].append(g_loss.item())
    share = readable(pictures(G, torch.randn(500, Z_DIM, device=device)))
    return {"history": history, "readable": share, "pictures": pictures(G, noise[:4])}


# %%
by_loss = {
    "−log D": [short_run(seed) for seed in SEEDS],
    "log(1−D)": [short_run(seed, g_objective=saturating_loss) for seed in SEEDS],
    "least squares": [short_run(seed, least_squares_d, least_squares_g) for seed in SEEDS],
}
for name, runs in by_loss.items():
    parts = sorted(run_of_seed["readable"] for run_of_seed in runs)
    print(f"{name:14} readable, three seeds: {', '.join(f'{part:.1%}' for part in parts)}")

# %%
a = torch.linspace(-6, 3, 91)
D_of_a = torch.sigmoid(a)
pushes = {"−log D": D_of_a - 1, "log(1−D)": -D_of_a, "least squares": a - 1}
looks = {
    "−log D": (plot.FAKE, "-"),
    "log(1−D)": ("black", "--"),
    "least squares": (plot.FOURTH, ":"),
}
fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3), width_ratios=[1.3, 1])
for name, (colour, line) in looks.items():
    left.plot(a, pushes[name], line, color=colour, label=name)
    for run_of_seed in by_loss[name]:
        right.plot(name, run_of_seed["readable"], "o", color=colour)
left.axhline(0, color="0.7", linewidth=1)
left.set(xlabel="logit a of a generated picture", ylabel="d loss / da", ylim=(-4, 2.2))
left.legend()
right.set(ylabel=f"readable after {SHORT_STEPS:,} steps", ylim=(0, None))
plot.show(fig, alt="Left, three gradients against the logit: on the far left least squares is "
          "strong, -log D near -1, log(1-D) near 0. Right, three dots for each loss.")

# %% [markdown]
# **What the figure says.** On the left: where $D$ is sure ($a$ far below 0), $\log(1-D)$ hardly
# pushes, $-\log D$ pushes with strength near 1, and least squares harder the farther. Above $a = 1$
# least squares pushes *back*. On the right each dot is one seed. A gap between two losses counts
# only if it is clearly larger than the distances between dots of *one* loss. If the dots overlap,
# these runs can't tell the losses apart.
#
# A weak push does not have to mean bad pictures: Adam divides every gradient by its own running
# size (chapter 02).

# %% [markdown]
# **What it does not say:** which loss is best after a long training. These runs are short, and all
# have the rate that we chose for $-\log D$. Least squares differs in *two* things, since $D$'s loss
# changes too. Three seeds show large effects only. And compare the shares with the row "two real
# ones on top of each other" in section 4.6: a share below that row means little.

# %%
# checkpoint: the three gradients by autograd; the two of chapter 02 differ by the factor e^a
a = torch.tensor([-4.0, 0.0, 2.0], requires_grad=True)
slopes = {}
for name, loss in (("−log D", g_loss_of), ("log(1−D)", saturating_loss), ("LS", least_squares_g)):
    (slopes[name],) = torch.autograd.grad(len(a) * loss(a), a)  # times 3: each picture's own
D_of_a = torch.sigmoid(a.detach())
torch.testing.assert_close(slopes["−log D"], D_of_a - 1)
torch.testing.assert_close(slopes["log(1−D)"], slopes["−log D"] * a.detach().exp())
torch.testing.assert_close(slopes["LS"], a.detach() - 1)

# %% [markdown]
# ## 4.11 Break it
#
# Four mistakes that raise no error, each run with three seeds beside the correct loop: same nets,
# same steps.
#
# 1. **No `detach`, zeroed at the top.** $G$ steps on $L_D + L_G$ (section 4.5).
# 2. **No `detach`, one optimizer for all weights.** Each turn moves both networks: $G$ helps $D$,
#    then $D$ helps $G$.
# 3. **The wrong loss for $D$,** $-\log D(x) - \log D(G(z))$. It looks symmetric and rewards $D$ for
#    calling *everything* real.
# 4. **Sigmoid twice.** $D$'s probability goes into a loss that expects a logit.
#
# **Predict** for each: where do the losses settle, and what do the pictures show? With one of the
# four mistakes the pictures still become digits. Which?

# %%
def wrong_d_loss(real_logits, fake_logits):
    return F.softplus(-real_logits).mean() + F.softplus(-fake_logits).mean()


def sigmoid_twice_d(real_logits, fake_logits):
    return d_loss_of(torch.sigmoid(real_logits), torch.sigmoid(fake_logits))


def sigmoid_twice_g(fake_logits):
    return g_loss_of(torch.sigmoid(fake_logits))


trials = {
    "correct": by_loss["−log D"],
    "1 no detach": [short_run(seed, detach=False) for seed in SEEDS],
    "2 one optimizer": [short_run(seed, detach=False, one_optimizer=True) for seed in SEEDS],
    "3 wrong loss for D": [short_run(seed, wrong_d_loss) for seed in SEEDS],
    "4 sigmoid twice": [short_run(seed, sigmoid_twice_d, sigmoid_twice_g) for seed in SEEDS],
}

# %%
fig, axes = plt.subplots(len(trials), 2, figsize=(6.8, 6), width_ratios=[1.4, 1], sharex="col")
for row, (name, runs) in enumerate(trials.items()):
    left, right = axes[row]
    draw_losses(left, runs[0]["history"], max(1, SHORT_STEPS // 20))
    left.set(ylim=(-0.1, 3), xlabel="", ylabel="")
    left.set_title(name, loc="left", fontsize=10)
    left.get_legend().remove()
    plot.grid(runs[0]["pictures"], columns=4, ax=right)
axes[0, 0].legend(ncols=2, fontsize=8)
axes[-1, 0].set(xlabel="step", ylabel="loss [nats]")
plot.show(fig, alt="Five rows of losses and samples of the first seed. Correct and no detach: "
          "rough digits. One optimizer: noise under calm losses. Wrong D loss: both at zero, "
          "noise. Sigmoid twice: losses on the dotted lines, no digits.")

# %%
tail = max(1, SHORT_STEPS // 10)
ends = {}  # name → means over the last steps of L_D, L_G, and the readable share: (3, seeds)
print(f"lowest to highest of three seeds; losses [nats] are means of the last {tail} steps")
print("                         L_D             L_G         readable")
for name, runs in trials.items():
    l_d = [sum(found["history"]["d_loss"][-tail:]) / tail for found in runs]
    l_g = [sum(found["history"]["g_loss"][-tail:]) / tail for found in runs]
    ends[name] = torch.tensor([l_d, l_g, [found["readable"] for found in runs]])
    low, high = ends[name].amin(1).tolist(), ends[name].amax(1).tolist()
    print(f"{name:19} {low[0]:6.3f} – {high[0]:.3f}  {low[1]:6.3f} – {high[1]:.3f}", end="  ")
    print(f"{low[2]:6.1%} – {high[2]:.1%}")
print(f"{'an undecided D':19} {2 * math.log(2):6.3f}          {math.log(2):6.3f}")

# %% [markdown]
# **What the table says.**
#
# - *No detach* makes digits too. That is how such code survives. But its losses differ: $L_D$ is
#   lower and $L_G$ higher than in the correct loop. $G$ no longer wants to fool $D$; it stops at
#   $D = ½$. So $D$ stays ahead. Compare the readable shares, and mind the spread.
# - *One optimizer*: calm losses, and noise. On generated pictures each turn undoes the other:
#   $D(G(z))$ is held at ½, where $2D - 1 = 0$. Real pictures cost $D$ almost nothing. Both losses
#   rest near $\log 2$, and nobody improves the pictures.
# - *Wrong loss*: **both losses go to zero**, which looks like success, and the pictures are noise.
#   $D$ says "real" to all, so $G$ has nothing left to learn.

# %% [markdown]
# - *Sigmoid twice*: the "logit" is now between 0 and 1, so $L_D$ can't fall below the number that
#   the next cell prints, however good $D$ is. Worse, each gradient is multiplied by $D(1-D)$: a
#   $D$ that is sure learns almost nothing any more. It can get stuck at either end. A $D$ that says
#   0 to everything has exactly the losses of "an undecided D" in the table. A $D$ that says 1 to
#   everything has $L_D = \log(1 + e^{-1}) + \log(1 + e) \approx 1.63$ and
#   $L_G = \log(1 + e^{-1}) \approx 0.31$. So losses on the dotted lines can mean a perfect game, or
#   a dead one.
#
# **What it does not say:** that these runs would end the same way with other nets, rates or more
# steps. Three seeds share all of those.

# %%
# checkpoint: three gradients by hand show why 3 and 4 fail; and the symptoms, with every seed
a = torch.tensor([-2.0, 0.0, 2.0], requires_grad=True)  # logits of generated pictures
D_a = torch.sigmoid(a.detach())
gradient = torch.autograd.grad
(correct,) = gradient(F.softplus(a).sum(), a)
torch.testing.assert_close(correct, D_a)  # > 0: D's step lowers them
(wrong,) = gradient(F.softplus(-a).sum(), a)
torch.testing.assert_close(wrong, D_a - 1)  # < 0: D's step raises them, the same way as G's
(twice,) = gradient(F.softplus(torch.sigmoid(a)).sum(), a)
torch.testing.assert_close(twice, torch.sigmoid(D_a) * D_a * (1 - D_a))
lowest = F.softplus(torch.tensor(-1.0)) + F.softplus(torch.tensor(0.0))
print(f"sigmoid twice: L_D ≥ {lowest:.3f} nats, for the best D there is")
for found in trials["4 sigmoid twice"]:
    assert min(found["history"]["d_loss"]) >= lowest - 1e-4
if runtime.profile() != "smoke":
    d_correct, d_leak = ends["correct"][0], ends["1 no detach"][0]
    assert d_leak.max() < d_correct.min() and ends["3 wrong loss for D"][:2].max() < 0.05
    assert (ends["2 one optimizer"][:2] - math.log(2)).abs().max() < 0.1

# %% [markdown]
# ## Exercises
#
# Five in [the exercises](../exercises/04_first_gan.ipynb), each with a check:
#
# 1. `gan_losses`: both losses from one softplus, with label smoothing, exact for logits of ±200.
# 2. `smoothed_optimum`: $D^*$ when the targets are not 1 and 0.
# 3. `best_constant`: the picture that a generator without a discriminator learns, for three losses.
# 4. `gan_step`: one step of the loop, right to the last weight of both nets.
# 5. `train_pair`, a repair: a loop whose discriminator is worse than a coin.
#
# To try at once: run section 4.6 with real pictures' target 0.9 instead of 1 (and `fresh=True`).
# Where do the losses settle now?

# %% [markdown]
# ## Recap
#
# - A GAN is two networks and a loop of two turns: $D$ down $L_D$ on `x_fake.detach()`, then $G$
#   down $L_G$ through the new $D$, each with its own optimizer.
# - Tanh and data in $[-1, 1]$ share a range; BatchNorm keeps $G$ sensitive to $z$, and would blind
#   $D$; dropout blurs $D$; logits keep every loss finite.
# - Losses don't go to zero, and flat losses say nothing about pictures. Look at fixed noise through
#   time, and at held-out data.
# - Squared error against random real pictures has one optimum, the average picture, whatever $z$.
#   Measure pictures with a ruler that you have tried on noise first.
# - The worst mistakes run silently: losses at zero, or exactly at $2\log 2$ and $\log 2$, are
#   symptoms to look into.

# %% [markdown]
# ## References
#
# - Goodfellow et al. 2014, *Generative Adversarial Nets*, arXiv:1406.2661: the game and the
#   non-saturating loss. *We differ:* on MNIST their networks were dense too, with maxout units in
#   $D$ and momentum; we use LeakyReLU, BatchNorm and Adam.
# - Ioffe & Szegedy 2015, *Batch Normalization*, arXiv:1502.03167: the formula of 4.2. *We differ:*
#   we use it in $G$ alone.
# - Srivastava et al. 2014, *Dropout*, JMLR 15: random masks. *We differ:* a smaller rate, only in
#   $D$.

# %% [markdown]
# - Radford et al. 2016, *DCGAN*, arXiv:1511.06434: tanh, LeakyReLU 0.2, Adam with $\beta_1 = 0.5$.
#   *We differ:* no convolutions yet, and a larger learning rate.
# - Kingma & Ba 2015, *Adam*, arXiv:1412.6980. *We differ:* $\beta_1 = 0.5$, and the rate falls to
#   zero in the second half.
# - He et al. 2015, arXiv:1502.01852: first weights of variance $2/n$. *We differ:* used once, to
#   compare.
# - Mao et al. 2017, *Least Squares GANs*, arXiv:1611.04076: the loss of 4.10. *We differ:* dense
#   nets, and short runs only.
