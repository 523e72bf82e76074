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
# # 6 · Mode collapse
#
# A generator can fool its judge with a handful of perfect samples and leave out all the rest. We
# provoke it, count what is missing, and try ten cures, each beside a control of its own.

# %% [markdown]
# **After this chapter you can** count the modes that a generator covers · explain why the game
# itself rewards leaving modes out · pick a cure, implement it, and judge from repeated runs whether
# it helped.
#
# **You need** [chapter 02](02_minimax.ipynb) (the game, the quick judge),
# [chapter 01](01_kl_divergence.ipynb) (JS where supports don't touch) and
# [chapter 05](05_dcgan.ipynb) (`train_gan`).
#
# <!-- stamp -->
# *Run time: 13 min, peak memory 1.1 GB, `cpu` profile on `mnist`
# (cpu · 2 cores (1 threads) · Linux x86_64 · Python 3.11.7 · torch 2.15.0).*
# <!-- /stamp -->
#
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/chapters/06_mode_collapse.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import copy
import time

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from gencourse import data, divergences, evaluate, losses, nets, plot, runtime, train, widgets
from gencourse.doctor import doctor

# %%
plot.style()
runtime.seed_everything(0)
DEVICE = runtime.device()
print(runtime.describe())

# %%
STEPS = runtime.budget(smoke=20, cpu=2_500, gpu=5_000)  # G steps, the same for every method
SEEDS = 5  # games per method: one run proves nothing here
BATCH = 64
Z_DIM = 8  # more than the two dimensions of the data, as for pictures
WIDTH = 64  # two hidden layers of it, in G and in D
G_LR, D_LR = 1e-3, 2e-4  # G faster than D, as in the toy code published with Metz et al.
BETAS = (0.5, 0.999)  # Adam's, for both
SPREAD = 0.05  # standard deviation of each mode; the nearest modes are 0.5 apart
RADIUS = 3 * SPREAD  # a sample within it counts as on the mode
SQUARE = 1 + RADIUS  # half the side of the square that just holds all modes
COUNT = 20_000  # samples per game when modes are counted
NOISE_HITS = COUNT * torch.pi * RADIUS**2 / (2 * SQUARE) ** 2  # uniform noise's, on each mode
LEAST = round(1.2 * NOISE_HITS)  # so many samples make a mode "covered": more than noise puts there

# What each cure adds, and why this value
QUICK, SLOW = 1e-3, 2e-4  # two time-scales: the baseline's rates, exchanged
D_STEPS = 5  # D steps per G step where D shall keep up; the papers' usual number
UNROLL, UNROLL_LR = 5, 0.1  # looks ahead 5 plain gradient steps; with 0.3 games fly apart late on
CLIP = 0.1  # the paper's 0.01 is for wide layers; see "Break it" for what smaller does
GP_WEIGHT = 0.1  # the paper's own value for toys in the plane (10 is for pictures)
GAMMA = 1.0  # R1: the paper's 10 is for pictures; the plane has far fewer dimensions
SN_SCALE = 5.0  # spectral norm alone allows slope 1, too flat for modes 0.05 wide

# %% [markdown]
# ## Where this chapter is heading
#
# Blue: real data, eight modes on a ring. Orange: a "generator" made by hand. **Every single orange
# sample is perfect.** A judge that sees one sample at a time finds no fault with any of them. And
# three quarters of the data are missing.
#
# That is *mode collapse*. No loss shows it and no single picture shows it. One has to count.

# %%
def ring(modes=8):
    angle = 2 * torch.pi * torch.arange(modes, device=DEVICE) / modes
    return torch.stack([angle.cos(), angle.sin()], dim=1)  # (8, 2)


def grid(side=5):
    line = torch.linspace(-1, 1, side, device=DEVICE)
    return torch.cartesian_prod(line, line)  # (25, 2)


WORLDS = {"ring": ring(), "grid": grid()}
MODES = {"ring": 8, "grid": 25}


def draw(centres, *shape):
    """Samples (*shape, 2): a centre at random, and Gaussian noise around it."""
    chosen = centres[torch.randint(len(centres), shape, device=DEVICE)]
    return chosen + SPREAD * torch.randn(*shape, 2, device=DEVICE)

# %%
def scatter(ax, x_fake, centres, title="", view=1.5):
    real = draw(centres, 400).cpu()
    ax.scatter(*real.T, s=2, color=plot.REAL, alpha=0.35, linewidths=0)
    if x_fake is not None:
        ax.scatter(*x_fake.cpu().T, s=3, color=plot.FAKE, alpha=0.8, linewidths=0)
    ax.set(xlim=(-view, view), ylim=(-view, view), aspect="equal", xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)

# %%
fig, axes = plt.subplots(1, 3, figsize=(7, 2.5))
scatter(axes[0], None, WORLDS["ring"], "real: ring, 8 modes")
scatter(axes[1], draw(ring()[1:3], 400), ring(), "perfect samples, 2 modes of 8")
scatter(axes[2], None, WORLDS["grid"], "real: grid, 25 modes")
plot.show(fig, alt="A ring of eight blue clusters; the same with two clusters covered in orange; "
                   "a grid of 25 blue clusters.")

# %% [markdown]
# ## 6.1 Two worlds where one can count
#
# **Question.** How many modes does a generator cover, and how many of its samples are good?
#
# - A sample is **on** the mode whose centre is nearest, if that centre is within three standard
#   deviations. Otherwise it is on none.
# - A mode is **covered** if enough samples are on it.
#
# How many are enough? *Uniform noise* also puts samples on each mode: on a square of area $A$, a
# mode gets the share $\pi r^2/A$. We ask for a fifth more than that.
#
# **Predict:** real data themselves: which share of *them* is on a mode? In the plane, the squared
# distance from the centre over $\sigma^2$ has density $\frac12e^{-t/2}$.

# %%
def count_modes(x, centres, least=LEAST):
    """x: (N, 2). Returns how many modes are covered, and the share of samples on a mode."""
    distance, nearest = torch.cdist(x, centres).min(dim=1)  # (N, K) → (N,)
    on = distance <= RADIUS
    hits = torch.bincount(nearest[on], minlength=len(centres))
    return (hits >= least).sum().item(), on.float().mean().item()

# %%
def uniform_noise(*shape):
    return SQUARE * (2 * torch.rand(*shape, 2, device=DEVICE) - 1)


trials = {
    "real data": draw(grid(), COUNT),
    "3 perfect modes": draw(grid()[:3], COUNT),
    "a wide Gaussian": 0.7 * torch.randn(COUNT, 2, device=DEVICE),
    "uniform noise": uniform_noise(COUNT),
}
print(f"of 25 modes, covered by 1 sample · by {LEAST} samples · share of samples on a mode")
for name, x in trials.items():
    covered, on = count_modes(x, grid())
    print(f"{name:16} {count_modes(x, grid(), least=1)[0]:6d} {covered:17d} {on:20.1%}")

# %% [markdown]
# **What the numbers say.** Real data miss a little: $e^{-9/2}$ of a Gaussian in the plane lies
# beyond $3\sigma$. The three perfect modes score top marks in quality and fail in coverage.
#
# With a low bar, noise "covers" every mode, because it covers everything. With our bar it covers
# none. Still a third of its samples are on a mode: **on the grid, a share of a third alone says
# nothing.** Always read both columns, with a row of noise in the table.
#
# **What they don't say:** how samples spread *within* a mode. 25 points get full marks.
#
# For pictures, the "modes" will be the classes that a judge predicts (section 6.9).

# %%
# checkpoint: closed forms of both shares; the package's count is ours
for x in trials.values():
    theirs = evaluate.mode_coverage(evaluate.nearest_modes(x, grid(), RADIUS), 25, least=LEAST)
    covered, on = count_modes(x, grid())
    assert theirs.covered == covered and abs(theirs.on_mode - on) < 1e-6
print("3 perfect modes:", evaluate.mode_coverage(
    evaluate.nearest_modes(trials["3 perfect modes"], grid(), RADIUS), 25, least=LEAST))
outside = 1 - count_modes(draw(ring(), 200_000), ring())[1]
assert abs(outside - torch.tensor(-4.5).exp()) < 0.001
covered, on = count_modes(trials["uniform noise"], grid())
assert covered <= 1 and abs(on - 25 * NOISE_HITS / COUNT) < 0.02

# %% [markdown]
# ## 6.2 Collapse, filmed
#
# **Question.** What does collapse look like while it happens?
#
# One run proves nothing here: we need several seeds for each method. Small nets leave a computer
# idle most of the time, so we train all five games *side by side*. A layer holds five weight
# matrices, the data get a leading dimension: (seeds, batch, 2). Nothing else changes.

# %%
class Linear(nn.Module):
    """One linear layer per game: (SEEDS, B, n_in) → (SEEDS, B, n_out)."""

    def __init__(self, n_in, n_out):
        super().__init__()
        bound = n_in**-0.5  # as in nn.Linear
        self.weight = nn.Parameter(torch.empty(SEEDS, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(SEEDS, 1, n_out).uniform_(-bound, bound))

    def forward(self, h):
        return torch.baddbmm(self.bias, h, self.weight)

# %%
def d_loss_of(D, x_real, x_fake):
    return losses.discriminator_loss(D(x_real), D(x_fake))


def make_generator():
    body = [Linear(Z_DIM, WIDTH), nn.ReLU(), Linear(WIDTH, WIDTH), nn.ReLU(), Linear(WIDTH, 2)]
    return nn.Sequential(*body).to(DEVICE)


def make_discriminator(extra_layer=None, extra=0):
    body = [Linear(2, WIDTH), nn.LeakyReLU(0.2), Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2)]
    body += [extra_layer] if extra_layer else []
    return nn.Sequential(*body, Linear(WIDTH + extra, 1), nn.Flatten(1)).to(DEVICE)  # (SEEDS, B)

# %% [markdown]
# The loop is that of chapter 04. Everything a cure may change is an argument, so that each cure
# below is a few lines. Our losses are means over all games; times `SEEDS` they are *sums* over the
# games, and each game gets exactly its own gradient.
#
# Two methods share the initial weights of G and the film's fixed noise. Their batches differ as
# soon as their nets D do: both come from one stream of random numbers. Each method will be judged
# against a **control** that differs from it in one idea only.

# %%
def play(world, make_d=make_discriminator, d_objective=d_loss_of, g_objective=None,
         g_lr=G_LR, d_lr=D_LR, d_steps=1, after_d=None, ahead=None, steps=STEPS):
    """Train SEEDS games. Returns G, D and the film {step: (samples, D)}."""
    runtime.seed_everything(0)
    G, centres = make_generator(), WORLDS[world]
    still = torch.randn(SEEDS, 300, Z_DIM, device=DEVICE)  # the film's noise
    D = make_d()
    g_opt = torch.optim.Adam(G.parameters(), lr=g_lr, betas=BETAS, fused=True)
    d_opt = torch.optim.Adam(D.parameters(), lr=d_lr, betas=BETAS, fused=True)
    g_objective = g_objective or losses.generator_loss
    frames, film = {max(1, round(steps * part / 12)) for part in range(13)}, {}
    for step in range(steps):
        for _ in range(d_steps):
            x_real = draw(centres, SEEDS, BATCH)  # (S, B, 2)
            x_fake = G(torch.randn(SEEDS, BATCH, Z_DIM, device=DEVICE))
            d_loss = SEEDS * d_objective(D, x_real, x_fake.detach())
            d_opt.zero_grad()
            d_loss.backward()
            d_opt.step()
            if after_d:
                after_d(D)
        judge = ahead(D, x_real, x_fake) if ahead else D
        g_loss = SEEDS * g_objective(judge(x_fake))
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        if step + 1 in frames:
            with torch.no_grad():
                film[step + 1] = G(still).cpu(), copy.deepcopy(D).requires_grad_(False)
    return G, D, film

# %%
def coverage(samples, world):
    """Samples (SEEDS, N, 2) → (2, SEEDS): modes covered and share on a mode, of each game."""
    return torch.tensor([count_modes(x, WORLDS[world]) for x in samples]).T

# %%
@torch.no_grad()
def final_samples(G):
    generator = torch.Generator().manual_seed(1)
    return G(torch.randn(SEEDS, COUNT, Z_DIM, generator=generator).to(DEVICE))


results = {}  # (method, world) → (G, D, film)
scores = {}  # (method, world) → coverage
recipes, controls = {}, {}  # method → what it changes; method → what it is compared with


def trial(method, control=None, **changes):
    """Play both worlds with the same number of G steps, remember everything, print the score."""
    recipes[method], controls[method] = changes, control
    for world in WORLDS:
        results[method, world] = play(world, **changes)
        scores[method, world] = coverage(final_samples(results[method, world][0]), world)
        covered, on = scores[method, world]
        print(f"{method:18} {world}: {covered.mean():4.1f} ± {covered.std():.1f} of "
              f"{MODES[world]:2d} modes, on a mode {on.mean():4.0%}")

# %% [markdown]
# The **baseline**: the non-saturating loss, Adam, and rates as in the toy code published with Metz
# et al. (2017), where G's is ten times D's; ours is five times. It is a real setting, but not the
# best one for a plain GAN. The first cures below change nothing but the rates.
#
# **Predict:** eight modes, five games: how many modes will be covered? Will the samples settle?

# %%
for world in WORLDS:
    scores["noise", world] = coverage(uniform_noise(SEEDS, COUNT), world)  # a row for every table
trial("baseline")

# %%
def strip(method, world, seed=0, frames=6):
    film = results[method, world][2]
    steps = sorted(film)[::-2][:frames][::-1]  # every second one, up to the last
    view = max([1.5] + [1.05 * film[step][0][seed].abs().max().item() for step in steps])
    fig, axes = plt.subplots(1, len(steps), figsize=(7.4, 1.5), layout="none")
    fig.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.85, wspace=0.04)
    for ax, step in zip(axes, steps, strict=True):
        scatter(ax, film[step][0][seed], WORLDS[world], f"step {step:,}", view)
    print(f"{method}, {world}: the view is ± {view:.1f} in both directions")
    return fig

# %%
for world in WORLDS:
    plot.show(strip("baseline", world), alt=f"Six moments of the baseline on the {world}: orange "
              "samples beside the blue modes, in few places at once, and in others later.")

# %% [markdown]
# **What the film says.** The samples crowd together. Where they sit changes from frame to frame:
# G runs to a place where D says "real", D learns that this place is now full of generated samples,
# and G runs on. It is the circling of chapter 02 (mode hopping), with modes as stations. The film
# is one game; the printed rows say of all five how few modes they cover.
#
# This is not yet the collapse of the first figure: many samples are on the road, on no mode. A
# *resting* collapse comes in section 6.3.
#
# **What it does not say:** that these games would never spread out, given time.

# %%
# checkpoint: five games are separate: one, replayed with nn.Linear, has the same output and slope
G, D, _ = results["baseline", "ring"]
alone = nn.Sequential(nn.Linear(Z_DIM, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
                      nn.Linear(WIDTH, 2)).to(DEVICE)
with torch.no_grad():
    for mine, theirs in zip(alone[::2], G[::2], strict=True):  # game 3; nn.Linear is transposed
        mine.weight.copy_(theirs.weight[3].T)
        mine.bias.copy_(theirs.bias[3, 0])
z = torch.randn(SEEDS, BATCH, Z_DIM, device=DEVICE)
torch.testing.assert_close(alone(z[3]), G(z)[3], rtol=1e-4, atol=1e-5)
G.zero_grad()
(SEEDS * losses.generator_loss(D(G(z)))).backward()
losses.generator_loss(D(alone(z[3]).expand(SEEDS, -1, -1))[3]).backward()
torch.testing.assert_close(alone[0].weight.grad.T, G[0].weight.grad[3], rtol=1e-3, atol=1e-6)

# %% [markdown]
# ## 6.3 Why: G's best answer is a single point
#
# **Question.** Is collapse an accident of training, or does the game ask for it?
#
# Hold D fixed. G minimises $\mathbb E_{\tilde x\sim q}\big[f(\tilde x)\big]$ with
# $f=-\log D$. That is **linear in $q$**, and an average is never below the smallest value:
#
# $$\mathbb E_{q}[f] \;\ge\; \min_x f(x),\qquad
# \text{with equality iff } q \text{ sits where } f \text{ is smallest.}$$
#
# So G's best response to any fixed D is one point, $x^\star=\arg\max_x D(x)$ (unless several tie).
# Nothing in G's loss mentions variety. All pressure to spread must come from D *moving*.

# %% [markdown]
# To see it we give G the best chance: a D that knows *all* eight modes. It learns to tell the data
# from a wide Gaussian, so it has seen generated samples everywhere between the modes. Then it is
# frozen, and a fresh G is trained against it.
#
# **Predict:** how many of the eight modes will G cover? Is it the mode that D likes best?

# %%
def best_response(D, steps):
    runtime.seed_everything(1)
    G = make_generator()
    optimizer = torch.optim.Adam(G.parameters(), lr=G_LR, betas=BETAS)
    still, film = torch.randn(SEEDS, COUNT, Z_DIM, device=DEVICE), []
    for step in range(steps + 1):
        if step in (0, steps // 10, steps):
            film.append((step, G(still).detach()))
        loss = SEEDS * losses.generator_loss(D(G(torch.randn(SEEDS, BATCH, Z_DIM, device=DEVICE))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return film


frozen = make_discriminator()
optimizer = torch.optim.Adam(frozen.parameters(), lr=QUICK, betas=BETAS)
for _ in range(runtime.budget(smoke=20, cpu=1_500, gpu=1_500)):
    x_wide = torch.randn(SEEDS, BATCH, 2, device=DEVICE)
    loss = SEEDS * d_loss_of(frozen, draw(WORLDS["ring"], SEEDS, BATCH), x_wide)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
frozen.requires_grad_(False)
response = best_response(frozen, runtime.budget(smoke=20, cpu=1_000, gpu=1_000))

# %%
def slopes(D, x, seed):
    """The push −∇ₓ(−log D(x)) on each sample: (N, 2)."""
    x = x.expand(SEEDS, -1, -1).clone().requires_grad_()
    loss = nn.functional.softplus(-D(x)).sum()
    return -torch.autograd.grad(loss, x)[0][seed]


def opinion(ax, D, seed, view):
    """D(x) of one game as shades of green."""
    line = torch.linspace(-view, view, 61, device=DEVICE)
    with torch.no_grad():
        at = torch.cartesian_prod(line, line).expand(SEEDS, -1, -1)
        shade = torch.sigmoid(D(at)[seed]).unflatten(0, (61, 61)).T.cpu()
    edge = view * 61 / 60  # the outer pixels' centres are at ± view
    ax.imshow(shade, cmap="Greens", vmin=0, vmax=1, origin="lower",
              extent=(-edge, edge, -edge, edge), interpolation="bilinear")

# %%
def arrows(ax, D, seed, view):
    def push(u, v):  # on a sample at (u, v); shown is the root of its length, or most would vanish
        at = torch.stack([torch.from_numpy(c.ravel()) for c in (u, v)], dim=1).float().to(DEVICE)
        slope = slopes(D, at, seed)
        slope = (slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12).sqrt()).cpu().numpy()
        return slope[:, 0].reshape(u.shape), slope[:, 1].reshape(u.shape)

    plot.field(push, limits=(-0.93 * view, 0.93 * view), arrows=13, ax=ax, color="0.35")

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.4, 2.7))
view = max([1.5] + [1.05 * x[0].abs().max().item() for _, x in response])
for ax, (step, x) in zip(axes, response, strict=True):
    opinion(ax, frozen, seed=0, view=view)
    arrows(ax, frozen, seed=0, view=view)
    scatter(ax, x[0, :300], WORLDS["ring"], f"D frozen, G after {step} steps", view)
plot.show(fig, alt="D's opinion in shades of green with arrows uphill. A fresh generator's samples "
                   "move along the arrows and gather in one place.")

# %%
for step, x in response:
    print(f"G step {step}: modes covered, game by game", *coverage(x, "ring")[0].int().tolist())
with torch.no_grad():
    reached = frozen(response[-1][1]).mean(dim=1)  # mean logit where the samples ended, (SEEDS,)
    at_modes = frozen(WORLDS["ring"].expand(SEEDS, -1, -1))  # logit at each centre, (SEEDS, 8)
for seed in range(SEEDS):
    print(f"game {seed}: D's logit where G ended {reached[seed]:5.2f}; centres with a higher one:",
          (at_modes[seed] > reached[seed]).sum().item(), f"(best {at_modes[seed].max():5.2f})")

# %% [markdown]
# **What the figure says.** All modes are dark: D likes each of them. Yet the samples ride the
# arrows uphill together, into one of them, and stay, although G had all the time it wanted.
#
# **They stop at the nearest peak.** The list counts how many modes D likes even more. Where that
# is not 0, G's loss *is* lower elsewhere, but no arrow leads there. So training adds a second
# reason to the first: the best answer is one point, and gradients find a point near the start.

# %% [markdown]
# **But doesn't a perfect D see the missing modes?** It does: if $q$ covers $k$ of $K$ equal modes
# perfectly, $\mathrm{JS}(p,q)>0$, and the cell below prints it. The trouble is the *slope*. On a
# covered mode $p$ and $q$ have the same shape, so there
#
# $$D^*(x)=\frac{p(x)}{p(x)+q(x)}=\frac{1/K}{1/K+1/k}=\frac{k}{k+K},$$
#
# a constant. D* says "too many here", and says it equally everywhere on the mode: no direction.

# %%
for k in (1, 2, 4, 6, 8):
    p, q = torch.full((8,), 1 / 8), torch.tensor([1 / k] * k + [0.0] * (8 - k))
    print(f"{k} of 8 modes: JS {divergences.js(p, q):.3f} nats, D* on them {k / (k + 8):.2f}")

# %% [markdown]
# In [chapter 01](01_kl_divergence.ipynb) JS was flat where supports don't touch. Here it is worse.
# Data: two narrow bumps $a$ and $b$. The generator has only $a$, and wants to have *half* of its
# samples at $b$. There are two ways to think of that:
#
# - **move**: half of the samples travel from $a$ to $b$;
# - **fade**: samples disappear at $a$ and appear at $b$, a few at a time.
#
# **Predict:** along each way, does JS fall, stay, or rise? And $W_1$, the distance that mass must
# travel?

# %%
line = torch.linspace(-1.5, 4.5, 1_201, dtype=torch.float64)


def bump(centre):
    p = torch.where((line - centre).abs() < 0.5, torch.cos(torch.pi * (line - centre)) ** 2, 0)
    return p / p.sum()


a, b = bump(0.0), bump(3.0)
data_bumps = (a + b) / 2
way = torch.linspace(0, 1, 61)
moving = [(a + bump(3 * t.item())) / 2 for t in way]
fading = [(1 - t / 2) * a + t / 2 * b for t in way]
js = torch.stack([divergences.js(data_bumps, q) for q in moving])
js_fading = torch.stack([divergences.js(data_bumps, q) for q in fading])
step_width = line[1] - line[0]
w1 = torch.stack([(q - data_bumps).cumsum(0).abs().sum() * step_width for q in moving])

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.7))
plot.density(line, data_bumps / step_width, ax=axes[0], label="data")
plot.density(line, moving[28] / step_width, ax=axes[0], color=plot.FAKE, label="half on its way")
axes[0].set(xlabel="x", ylim=(0, 1.5))
axes[0].legend(loc="upper right", ncols=2)
axes[1].plot(way, js, color=plot.THIRD, label="JS, moving [nats]")
axes[1].plot(way, js_fading, color=plot.THIRD, linestyle="--", label="JS, fading [nats]")
axes[1].plot(way, w1, color="C4", label="W₁, moving [units of x]")
axes[1].set(xlabel="share of the way", ylabel="value", ylim=(0, None))
axes[1].legend()
plot.show(fig, alt="Left: two blue bumps and an orange density with half of its mass between them. "
                   "Right: JS of the moving half first rises to a plateau and falls only at the "
                   "end; JS of the fading half and Wasserstein-1 fall all the way.")

# %% [markdown]
# **What the figure says.** JS is *convex* in $q$: if mass could fade, JS would fall all the way.
# But a generator can't let samples appear. It *moves* them, and half the mass must cross a wall: on
# its way it is neither on $a$ nor on $b$, so JS **rises** before it falls. The wall is not in JS
# alone; it is in JS and the way a generator moves. $W_1$ goes straight down. That is one reason to
# change the ruler (section 6.6).
#
# **What it does not say:** that a GAN follows JS. D in training is smooth and late, which is why
# any of this ever works.

# %%
# checkpoint: the wall in closed form; JS is convex in q; an average is never below the least value
assert js[0] < js[30] and js[-1] < 1e-9 and (w1.diff() < 1e-9).all()
assert (js_fading.diff() < 0).all() and (js_fading.diff(n=2) > -1e-9).all()
# on a, on b, in between: p = (½, ½, 0) and q = (½, 0, ½)
closed = divergences.js(torch.tensor([0.5, 0.5, 0]), torch.tensor([0.5, 0, 0.5]))
assert abs(js[30] - closed) < 1e-6
assert abs(w1[0] - 1.5) < 0.01  # half of the mass, three units to go
for _ in range(100):  # q arbitrary: no mixture beats the best point
    f, q = torch.randn(50), torch.rand(50) ** 4
    assert (f * q / q.sum()).sum() >= f.min()

# %% [markdown]
# ## 6.4 Cures that give D time
#
# **Question.** If all variety comes from D moving, D should be quicker. Three ways:
#
# - **Other rates** (two time-scales, TTUR, Heusel et al. 2017): a quick D, a slow G; also *equal*
#   rates.
# - **More D steps** per G step, at the baseline's rates and at equal ones.
# - **Unrolling** (Metz et al. 2017): before G moves, it asks where D *would be* after $K$ steps,
#   $\theta_K$, and minimises its loss against that D.
#
# The first two have no new loss and no new layer. They are controls for what comes later.
#
# **Predict** an order. The answer comes in section 6.8, with prices.

# %%
trial("equal rates", control="baseline", g_lr=QUICK, d_lr=QUICK)
trial("two time-scales", control="baseline", g_lr=SLOW, d_lr=QUICK)
trial("5 D steps", control="baseline", d_steps=D_STEPS)
trial("5 D steps, equal", control="equal rates", d_steps=D_STEPS, g_lr=QUICK, d_lr=QUICK)

# %% [markdown]
# Unrolling needs care. With $\theta_0=\theta$ and
# $\theta_{i+1}=\theta_i-\eta\nabla_\theta L_D(\theta_i,\tilde x)$, G's gradient has two parts:
#
# $$\frac{d}{d\tilde x}L_G(\theta_K,\tilde x)
# =\frac{\partial L_G}{\partial\tilde x}
# +\frac{\partial L_G}{\partial\theta_K}\,\frac{d\theta_K}{d\tilde x}.$$
#
# The second is new: how D would *answer* the move. If all samples go to one place, D would learn
# that place; G feels it now. `create_graph=True` keeps the inner steps differentiable, and
# `functional_call` runs D with weights that are not its own. D itself does not move.

# %%
def with_weights(D, weights):
    return lambda x: torch.func.functional_call(D, weights, (x,))


def look_ahead(D, x_real, x_fake):
    """D as it would be after UNROLL plain gradient steps, still a function of x_fake."""
    weights = dict(D.named_parameters())
    for _ in range(UNROLL):
        loss = len(x_real) * d_loss_of(with_weights(D, weights), x_real, x_fake)
        slope = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {name: weight - UNROLL_LR * s
                   for (name, weight), s in zip(weights.items(), slope, strict=True)}
    return with_weights(D, weights)

# %%
trial("unrolled", control="baseline", ahead=look_ahead)
plot.show(strip("unrolled", "ring"), alt="Six moments of the unrolled game on the ring: blue modes "
                                         "and orange samples.")

# %% [markdown]
# The checkpoint uses the smallest GAN of chapter 02: D's logit is $\psi x$, real data at 0, one
# generated sample at $\theta$. One inner step gives $\psi'=\psi-\eta\,\sigma(\psi\theta)\,\theta$,
# and with $s=\sigma(\psi\theta)$
#
# $$\frac{dL_G}{d\theta}=-\big(1-\sigma(\psi'\theta)\big)
# \Big(\psi'-\eta\theta\,\big(s+s(1-s)\psi\theta\big)\Big).$$

# %%
# checkpoint: G's gradient through one unrolled step, by hand and by autograd
psi, theta = 0.8, torch.tensor(1.3, requires_grad=True)
tiny = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Flatten(1))
nn.init.constant_(tiny[0].weight, psi)
keep, UNROLL = UNROLL, 1
x_fake = theta.reshape(1, 1, 1)
loss = losses.generator_loss(look_ahead(tiny, torch.zeros(1, 1, 1), x_fake)(x_fake))
UNROLL = keep
(found,) = torch.autograd.grad(loss, theta)
t, s = theta.detach(), torch.sigmoid(psi * theta.detach())
answer = psi - UNROLL_LR * s * t
by_hand = -(1 - torch.sigmoid(answer * t)) * (
    answer - UNROLL_LR * t * (s + s * (1 - s) * psi * t))
torch.testing.assert_close(found, by_hand)
assert tiny[0].weight.item() == torch.tensor(psi).item()  # D itself has not moved

# %% [markdown]
# ## 6.5 Cures that compare samples
#
# **Question.** Collapse is a fault of the *batch*: each sample is fine, all together are not. Why
# not let D look at the whole batch?
#
# **Minibatch discrimination** (Salimans et al. 2016): project each sample's features to a few
# vectors $M_{ib}$ and append to sample $i$, for each $b$, how close it is to the others,
#
# $$o_{ib}=\frac1{B-1}\sum_{j\ne i}\exp\big(-\lVert M_{ib}-M_{jb}\rVert_1\big)\in(0,1].$$
#
# **Minibatch standard deviation** (Karras et al. 2018) needs no weights: take each feature's
# standard deviation over the batch, and append the mean over all features, one number $s$, to every
# sample.
#
# **Predict:** what are $o$ and $s$ in a batch of copies?

# %%
def closeness(h, projection):
    """h: (…, B, F), projection: (…, F, kernels, dims) → (…, B, kernels)."""
    m = torch.einsum("...bf,...fkd->...kbd", h, projection)
    near = torch.exp(-torch.cdist(m, m, p=1))  # (…, kernels, B, B), 1 for a sample with itself
    return ((near.sum(dim=-1) - 1) / (h.shape[-2] - 1)).mT

# %%
def batch_std(h):
    """h: (…, B, F) → (…, 1, 1), the mean over the features of their deviation in the batch."""
    variance = h.var(dim=-2, unbiased=False)
    return (variance + 1e-8).sqrt().mean(dim=-1)[..., None, None]  # √0 has no gradient: + 1e-8

# %%
projection = torch.randn(2, 8, 3, device=DEVICE)
for name, x in {"real": draw(ring(), 64), "2 modes": draw(ring()[:2], 64),
                "copies": ring()[:1].expand(64, 2)}.items():
    print(f"{name:8} mean closeness {closeness(x, projection).mean():.2f}, "
          f"batch deviation {batch_std(x).item():.2f}")

# %% [markdown]
# A batch of copies has closeness 1 whatever the projection, and deviation 0. Real batches are not
# there: D can learn the difference, and then G is punished for being narrow.

# %%
class MinibatchDiscrimination(nn.Module):
    """Each game's own projections: (SEEDS, B, F) → (SEEDS, B, F + kernels)."""

    def __init__(self, features, kernels=8, dims=3):
        super().__init__()
        start = torch.empty(SEEDS, features, kernels, dims)
        self.projection = nn.Parameter(start.uniform_(-(features**-0.5), features**-0.5))

    def forward(self, h):
        return torch.cat([h, closeness(h, self.projection)], dim=-1)


class MinibatchStd(nn.Module):
    """Appends one feature: (…, B, F) → (…, B, F + 1)."""

    def forward(self, h):
        return torch.cat([h, batch_std(h).expand(*h.shape[:-1], 1)], dim=-1)

# %%
trial("minibatch", control="baseline",
      make_d=lambda: make_discriminator(MinibatchDiscrimination(WIDTH), extra=8))
trial("minibatch std", control="baseline",
      make_d=lambda: make_discriminator(MinibatchStd(), extra=1))

# %%
# checkpoint: the package's layer is ours; copies are as close as can be, and have no deviation
layer = nets.MinibatchDiscrimination(features=2, kernels=8, dims=3).to(DEVICE)
h, projection = torch.randn(16, 2, device=DEVICE), layer.project.weight.T.unflatten(1, (8, 3))
torch.testing.assert_close(layer(h), torch.cat([h, closeness(h, projection)], dim=1))
copies = h[:1].expand(16, 2)
assert closeness(copies, projection).min() > 0.9999 and batch_std(copies) < 1e-3
torch.testing.assert_close(batch_std(torch.tensor([[0.0, 5.0], [2.0, 5.0]])).item(), 0.5,
                           rtol=1e-3, atol=0)  # deviations 1 and 0
five = torch.randn(SEEDS, 16, 2, device=DEVICE)  # games side by side stay apart
torch.testing.assert_close(batch_std(five)[3], batch_std(five[3]))

# %% [markdown]
# ## 6.6 Another ruler: Wasserstein
#
# **Question.** $W_1$ had no wall. How does one compute it from samples, in more than one dimension?
#
# By a theorem (Kantorovich and Rubinstein) it is the best score in another game,
#
# $$W_1(p,q)=\max_{\lVert C\rVert_L\le1}\;\mathbb E_p[C(x)]-\mathbb E_q[C(\tilde x)],$$
#
# where the *critic* $C$ may be any function whose slope is nowhere above 1 (1-Lipschitz). The
# critic has no sigmoid and gives no probability. How does one keep a net's slope down?

# %% [markdown]
# - **Clipping** (Arjovsky et al. 2017): after each step, clip all weights to $[-c,c]$. Crude: the
#   slope is bounded by *some* constant.
# - **Gradient penalty** (Gulrajani et al. 2017): ask for slope one between real and generated
#   samples: add $\lambda\,\mathbb E\big[(\lVert\nabla C(\hat x)\rVert-1)^2\big]$ with
#   $\hat x=\varepsilon x+(1-\varepsilon)\tilde x$, $\varepsilon\sim U(0,1)$.
#
# Both let the critic train several steps per step of G. That is allowed now: a better critic gives
# a better slope, not a flatter one. Their control is *5 D steps, equal*: the same rates, the same
# number of D steps, the old loss.

# %%
def critic_loss_of(C, x_real, x_fake):
    return C(x_fake).mean() - C(x_real).mean()  # the negative score


def with_penalty(C, x_real, x_fake):
    epsilon = torch.rand(SEEDS, BATCH, 1, device=DEVICE)  # one per sample
    between = (epsilon * x_real + (1 - epsilon) * x_fake).requires_grad_()
    (slope,) = torch.autograd.grad(C(between).sum(), between, create_graph=True)
    penalty = (slope.norm(dim=2) - 1).square().mean()
    return critic_loss_of(C, x_real, x_fake) + GP_WEIGHT * penalty


@torch.no_grad()
def clip(C):
    for weight in C.parameters():
        weight.clamp_(-CLIP, CLIP)

# %%
wasserstein = dict(g_objective=losses.critic_generator_loss, d_steps=D_STEPS, g_lr=QUICK,
                   d_lr=QUICK)
trial("WGAN, clipped", control="5 D steps, equal", d_objective=critic_loss_of, after_d=clip,
      **wasserstein)
trial("WGAN-GP", control="5 D steps, equal", d_objective=with_penalty, **wasserstein)

# %% [markdown]
# **Predict:** how steep are the two critics between real and generated samples?
#
# A perfect critic has slope exactly 1 along the ways that mass *should* travel: between a real and
# a generated sample that the cheapest transport pairs up. The penalty, and the next figure, take
# pairs at *random*. Between such a pair even a perfect critic may be flatter than 1 (the checkpoint
# has one). So the penalty asks for more than the theorem gives.

# %%
def steepness(played, world="ring"):
    """‖∇C‖ at points between real and generated samples of what `play` returned: (SEEDS · 300,)."""
    G, C, film = played
    x_fake = film[max(film)][0].to(DEVICE)
    x_real = draw(WORLDS[world], *x_fake.shape[:2])
    between = torch.lerp(x_fake, x_real, torch.rand(SEEDS, 300, 1, device=DEVICE)).requires_grad_()
    return torch.autograd.grad(C(between).sum(), between)[0].norm(dim=2).flatten().cpu()

# %%
fig, ax = plt.subplots(figsize=(5.6, 2.6))
for method, color in (("WGAN, clipped", plot.FOURTH), ("WGAN-GP", plot.THIRD)):
    values = steepness(results[method, "ring"]).clamp(1e-3, 10).log10()
    ax.hist(values, 60, range=(-3, 1), color=color, alpha=0.6, label=method)
ax.axvline(0, color="0.3", linestyle=":")
ax.set(xlabel="log₁₀ of the critic's slope between real and generated", ylabel="points")
ax.legend()
plot.show(fig, alt="Histograms of the two critics' slopes on a logarithmic axis; slope 1 dotted.")

# %% [markdown]
# **What the figure says.** The penalty pulls the slope towards 1. It asks, it does not force: a
# small $\lambda$ lets it overshoot. Clipping lets it be whatever the product of the layers
# happens to be. **What it does not say:** that the critic computes $W_1$. It is a small net,
# trained on small batches.
#
# **A contradiction in the penalty.** At the solution, $q=p$, we have $W_1=0$, and the critic may
# be *flat*. But the penalty of a flat critic is $(0-1)^2=1$: it punishes exactly the critic that
# would let G rest. (Mescheder et al. 2018 show a small game in which WGAN-GP circles for ever.) R1,
# in the next section, asks for slope 0 on the data and has no such quarrel.

# %%
# checkpoint: ours and the package's losses; penalties that are known; scores against W₁
C = results["WGAN-GP", "ring"][1]
x_real, x_fake = torch.randn(2, SEEDS, BATCH, 2, device=DEVICE)
torch.testing.assert_close(critic_loss_of(C, x_real, x_fake),
                           losses.critic_loss(C(x_real), C(x_fake)))
runtime.seed_everything(2)
mine = with_penalty(C, x_real, x_fake) - critic_loss_of(C, x_real, x_fake)
runtime.seed_everything(2)  # the package takes one batch: lay the five end to end
flat = losses.gradient_penalty(lambda x: C(x.unflatten(0, (SEEDS, BATCH))).flatten(),
                               x_real.flatten(0, 1), x_fake.flatten(0, 1))
torch.testing.assert_close(mine, GP_WEIGHT * flat, rtol=1e-3, atol=1e-5)
for w in (torch.tensor([3.0, 4.0]), torch.zeros(2)):  # linear critics: slope ‖w‖ = 5, and flat
    known = losses.gradient_penalty(lambda x, w=w: x @ w, torch.randn(9, 2), torch.randn(9, 2))
    assert abs(known - (w.norm() - 1) ** 2) < 1e-3
# real at 0 and 3, generated at 1 and 4: this critic is flat from 1 to 3, and still reaches W₁ = 1
x, moved = torch.tensor([0.0, 3.0]), torch.tensor([1.0, 4.0])
score = -losses.critic_loss(-x.clamp(0, 1) - x.clamp(3, 4), -moved.clamp(0, 1) - moved.clamp(3, 4))
assert abs(score - divergences.wasserstein1(x, moved)) < 1e-6
x = torch.randn(500)  # sin has slope ≤ 1, so its score can't exceed W₁
score = -losses.critic_loss(torch.sin(x + 0.7), torch.sin(x))
assert score <= divergences.wasserstein1(x + 0.7, x) + 1e-6

# %% [markdown]
# ## 6.7 Keeping D's slope down: spectral norm, R1, and the hinge
#
# **Question.** A D that is too steep jumps from "real" to "generated" over a hair's breadth, and
# G's samples are thrown about. Can one limit the slope in an ordinary GAN?
#
# **Spectral normalisation** (Miyato et al. 2018). A linear map $W$ stretches by at most its
# largest singular value $\sigma_1$. Divide by it, and each layer has slope at most 1; LeakyReLU has
# too; so has their composition.
#
# $\sigma_1$ comes by **power iteration**: $v\leftarrow W^\top u/\lVert\cdot\rVert$,
# $u\leftarrow Wv/\lVert\cdot\rVert$, $\sigma_1\approx u^\top Wv$.
#
# **Predict:** how many rounds for three digits of a random 64 × 64 matrix?

# %%
def power_iteration(W, u, rounds=1):
    """W: (..., m, n), u: (..., m, 1). Returns the estimate of σ₁ (..., 1, 1) and the next u."""
    for _ in range(rounds):
        v = nn.functional.normalize(W.mT @ u, dim=-2)
        u = nn.functional.normalize(W @ v, dim=-2)
    return u.mT @ W @ v, u

# %%
class SpectralNorm(nn.Module):
    """Divides the weights of all games by their largest singular values, one round per use."""

    def __init__(self, weight, scale=1.0):
        super().__init__()
        self.scale = scale
        self.register_buffer("u", torch.randn(SEEDS, weight.shape[1], 1, device=weight.device))

    def forward(self, weight):
        with torch.no_grad():
            _, u = power_iteration(weight, self.u)
            self.u.copy_(u)
        v = nn.functional.normalize(weight.detach().mT @ u, dim=-2)
        return self.scale * weight / (u.mT @ weight @ v)


def normalised():
    D = make_discriminator()
    for layer, scale in zip(D[:-1:2], (1, 1, SN_SCALE), strict=True):  # the last layer's is free
        parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight, scale))
    return D

# %%
fig, ax = plt.subplots(figsize=(5, 2.4))
for trial_number in range(3):
    W, u = torch.randn(64, 64).double(), torch.randn(64, 1).double()
    exact, errors = torch.linalg.svdvals(W), []
    for _ in range(300):
        estimate, u = power_iteration(W, u)
        errors.append((1 - estimate / exact[0]).abs().item())
    rounds = sum(error > 1e-3 for error in errors)
    print(f"matrix {trial_number}: σ₂/σ₁ = {exact[1] / exact[0]:.3f}, three digits after "
          f"{rounds} rounds")
    ax.semilogy(range(1, 301), errors, label=f"matrix {trial_number}")
ax.set(xlabel="rounds of power iteration", ylabel="relative error of σ₁", ylim=(1e-12, 1))
ax.legend()
plot.show(fig, alt="For three random matrices the relative error falls, in the end along straight "
                   "lines of different slope on a logarithmic axis.")

# %% [markdown]
# **What the figure says.** How quick it is depends on $\sigma_2/\sigma_1$. The part of $v$ along
# the second direction shrinks by its square per round, and the error of $\sigma_1$ is quadratic in
# that part: in the end, each round takes the error times $(\sigma_2/\sigma_1)^4$. In training one
# round per step is enough: the weights move little, and $u$ is kept.
#
# **R1** (Mescheder et al. 2018) adds $\frac\gamma2\,\mathbb E_p\lVert\nabla_xD(x)\rVert^2$ to
# D's loss, D as a logit: a flat D *on real data*. It is the damping of chapter 02, made so that it
# vanishes at the solution, where D is flat anyway.

# %%
def with_r1(D, x_real, x_fake):
    x_real = x_real.clone().requires_grad_()
    real_logits = D(x_real)
    (slope,) = torch.autograd.grad(real_logits.sum(), x_real, create_graph=True)
    steep = slope.square().sum(dim=2).mean()
    return losses.discriminator_loss(real_logits, D(x_fake)) + GAMMA / 2 * steep

# %% [markdown]
# **The hinge loss** (Lim & Ye 2017, later SAGAN and BigGAN) limits how *sure* D gets. Once a real
# sample's logit is above 1 and a generated one's below −1, D learns nothing more from them:
#
# $$L_D=\mathbb E_p\big[\max(0,\,1-D(x))\big]+\mathbb E_q\big[\max(0,\,1+D(\tilde x))\big],
# \qquad L_G=-\mathbb E_q[D(\tilde x)].$$
#
# G's loss is that of WGAN: its push does not fade where D is sure.
#
# **Predict:** what is the best D for fixed $p$ and $q$? Does it have a slope on a covered mode?

# %%
def hinge_loss_of(D, x_real, x_fake):
    return torch.relu(1 - D(x_real)).mean() + torch.relu(1 + D(x_fake)).mean()


trial("spectral norm", control="equal rates", make_d=normalised, g_lr=QUICK, d_lr=QUICK)
trial("R1", control="equal rates", d_objective=with_r1, g_lr=QUICK, d_lr=QUICK)
trial("hinge", control="equal rates", d_objective=hinge_loss_of,
      g_objective=losses.critic_generator_loss, g_lr=QUICK, d_lr=QUICK)

# %% [markdown]
# **The answer for the hinge.** At each $x$ the loss is $p\max(0,1-D)+q\max(0,1+D)$. It is lowest at
# $D=1$ where $p>q$ and at $D=-1$ where $p<q$. So the perfect D is a *step*: flat on every mode, as
# the perfect D of section 6.3. The theory promises no cure of collapse; the least loss is
# $2\int\min(p,q)$, which is flat where supports don't touch. What it changes is the training.

# %%
# checkpoint: σ₁ against the SVD and the library, its rate; D's slope; the hinge's best D; R1
estimate, _ = power_iteration(W, torch.randn(64, 1, dtype=torch.float64), rounds=2_000)
torch.testing.assert_close(estimate.squeeze(), exact[0], rtol=1e-6, atol=0)
gap = torch.diag(torch.tensor([1.0, 0.9, 0.5], dtype=torch.float64))  # σ₂/σ₁ = 0.9
ones = torch.ones(3, 1, dtype=torch.float64)
early, late = (1 - power_iteration(gap, ones, rounds=n)[0].item() for n in (30, 31))
assert abs(late / early - 0.9**4) < 0.01
many = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64, bias=False, dtype=torch.float64))
with torch.no_grad():
    many.parametrizations.weight.original.copy_(W)
for _ in range(2_000):
    many(torch.zeros(1, 64, dtype=torch.float64))  # the library does one round per call in training
many.eval()
torch.testing.assert_close(many.weight, W / estimate, rtol=1e-5, atol=1e-8)
D = normalised()
x = torch.randn(SEEDS, 500, 2, device=DEVICE).requires_grad_()
for _ in range(300):
    D(x)
assert torch.autograd.grad(D(x).sum(), x)[0].norm(dim=2).max() < 1.01 * SN_SCALE
p, q = torch.rand(2, 50, dtype=torch.float64)  # the hinge at 50 places, over D from −3 to 3
tries = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
loss = p * torch.relu(1 - tries) + q * torch.relu(1 + tries)
torch.testing.assert_close(loss.min(dim=0).values, 2 * torch.minimum(p, q))
torch.testing.assert_close(tries[loss.argmin(dim=0), 0], torch.sign(p - q))
# R1 of the package on the same D, the five batches laid end to end
D = results["R1", "ring"][1]
x_real, x_fake = torch.randn(2, SEEDS, BATCH, 2, device=DEVICE)
mine = with_r1(D, x_real, x_fake) - d_loss_of(D, x_real, x_fake)
x_flat = x_real.flatten(0, 1).requires_grad_()
theirs = losses.r1_penalty(D(x_flat.unflatten(0, (SEEDS, BATCH))).flatten(), x_flat)
torch.testing.assert_close(mine, GAMMA / 2 * theirs, rtol=1e-3, atol=1e-4)

# %% [markdown]
# ## 6.8 The table
#
# **Question.** Which cure is worth its price? All methods have had the same worlds, the same
# initial generators, and the same number of G steps; not the same *time*. The next cell measures
# what a step costs, in units of the baseline's: methods in turns, three rounds, the median.
#
# ± is the standard deviation over the games. It says how much games differ, not how well we know
# their mean. The test comes after the table.

# %%
COST_STEPS = runtime.budget(smoke=2, cpu=60, gpu=60)


def seconds_of(method):
    began = time.perf_counter()
    play("ring", steps=COST_STEPS, **recipes[method])
    return time.perf_counter() - began


rounds = [{method: seconds_of(method) for method in recipes} for _ in range(3)]
methods = list(recipes)
cost = {m: sorted(r[m] / r["baseline"] for r in rounds)[1] for m in recipes}

# %%
print(f"{SEEDS} games, {STEPS:,} G steps      ring of 8             grid of 25")
print(f"{'method':18} {'modes':>11} {'on mode':>9}   {'modes':>11} {'on mode':>9}   time per step")
for method in ["noise"] + methods:
    row = f"{method:18}"
    for world in WORLDS:
        covered, on = scores[method, world]
        row += f" {covered.mean():5.1f} ± {covered.std():3.1f} {on.mean():4.0%} ± {on.std():3.0%}  "
    print(row + (f"× {cost[method]:.1f}" if method in cost else "–"))

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 4.0), sharey=True)
rows = ["noise"] + methods
for ax, world in zip(axes, WORLDS, strict=True):
    for row, method in enumerate(reversed(rows)):
        covered, on = scores[method, world]
        ax.scatter(covered, row + torch.linspace(-0.25, 0.25, SEEDS), s=12 + 90 * on, alpha=0.8,
                   color="0.6" if method == "noise" else plot.FAKE, edgecolor="0.3", linewidth=0.5)
    ax.axvline(MODES[world], color=plot.REAL, linestyle=":")
    ax.set(xlabel=f"modes covered on the {world}", xlim=(-0.5, MODES[world] * 1.05))
    ax.set(yticks=range(len(rows)), yticklabels=list(reversed(rows)))
plot.show(fig, alt="One dot per game: modes covered by noise and by each method on the ring and on "
                   "the grid; large dots have more of their samples on a mode.")

# %% [markdown]
# **How to read it.** One dot per game; the larger, the more of its samples are on a mode. Compare
# each row with *its own control*: the same rates, the same number of D steps, without the idea.
#
# To judge, we need one number per game: share of the modes covered, times share of samples on a
# mode. 1 is perfect, noise gets about 0. Take the five *gaps* to the control, game by game, and
# Student's $t=\frac{\text{mean gap}}{\text{sd}/\sqrt5}$. How large must $t$ be? With many games, 2.
# Five have 4 degrees of freedom, and then the 5 % limit is 2.78. For 4 degrees the p-value (how
# often chance alone gives such a $|t|$ or more) is
#
# $$p=1-\tfrac12\,s\,(3-s^2),\qquad s=|t|/\sqrt{4+t^2}.$$

# %%
def t_value(gaps):
    """gaps: (…, 5) → mean over its standard error; 0 where all gaps are 0."""
    return gaps.mean(dim=-1) / (gaps.std(dim=-1) / 5**0.5).clamp_min(1e-9)


def p_value(gaps):
    t = t_value(gaps)
    s = t.abs() / (4 + t**2).sqrt()
    return 1 - s * (3 - s**2) / 2


nothing = torch.randn(100_000, 5)  # games in which no method does anything
print(f"pure noise: |t| > 2 in {(t_value(nothing).abs() > 2).float().mean():.1%}, "
      f"|t| > 2.78 in {(t_value(nothing).abs() > 2.776).float().mean():.1%} of the tables")

# %% [markdown]
# **Many comparisons.** Twelve methods on two worlds are 24 verdicts. If nothing helped at all, each
# would still "help" or "hurt" in 5 % of the tables: 1.2 false verdicts in a table, on average.
# **Bonferroni** asks for $p<0.05/24$: then *any* false verdict has a chance below 5 %. (**Holm**'s
# rule keeps that promise and lets a little more pass: the smallest p against $0.05/24$, the next
# against $0.05/23$, and so on, up to the first that fails.)

# %%
def value(method, world):
    covered, on = scores[method, world]
    return covered / MODES[world] * on  # (SEEDS,), 1 is perfect


compared = [(m, world) for world in WORLDS for m in methods if controls[m]]
gaps = {(m, w): value(m, w) - value(controls[m], w) for m, w in compared}  # game by game
p_values = {name: p_value(gap).item() for name, gap in gaps.items()}

# %%
strict = 0.05 / len(gaps)  # Bonferroni
for method, world in compared:
    gap, p = gaps[method, world], p_values[method, world]
    verdict = "–" if p >= 0.05 else "helps" if gap.mean() > 0 else "hurts"
    verdict += " (Bonferroni: yes)" if p < strict else " (Bonferroni: no)" if p < 0.05 else ""
    print(f"{world}: {method:16} {value(method, world).mean():.2f}, against {controls[method]:16} "
          f"{gap.mean():+.2f} ± {gap.std() / 5**0.5:.2f}  p {p:6.4f}  {verdict}")
loose = sum(t_value(gap).abs().item() > 2 for gap in gaps.values())
sharp, sharpest = (sum(p < level for p in p_values.values()) for level in (0.05, strict))
print(f"{len(gaps)} verdicts: {loose} at two standard errors, {sharp} at p < 0.05 "
      f"(chance alone: {0.05 * len(gaps):.1f}), {sharpest} with Bonferroni")

# %% [markdown]
# **What it says.** ± is the standard error here. Trust what Bonferroni passes; take the rest as a
# hint, to be played again with new seeds. "–" does *not* mean "no effect": where the control's
# games differ much, five of them see only large effects. The test assumes gaps that are about
# normal.
#
# **What it does not say.** That the order is a law. Rates and widths were chosen by a few tries per
# method, on the same seeds; Lucic et al. (2018) found that after a large search most GANs come out
# alike.
#
# **And the price?** A method is worth looking at only if no *cheaper* one has a higher value.

# %%
worth = {m: (value(m, "ring") + value(m, "grid")) / 2 for m in methods}  # (SEEDS,) each
best, front = -1.0, []
for method in sorted(methods, key=cost.get):
    if worth[method].mean() > best:
        best = worth[method].mean()
        front.append(method)
print("no cheaper method beats:", " · ".join(f"{m} (× {cost[m]:.1f})" for m in front))
print("beaten by something cheaper:", " · ".join(m for m in methods if m not in front))

# %%
for limit in (1.6, 4.0, float("inf")):
    rivals = sorted((m for m in methods if cost[m] <= limit), key=lambda m: -worth[m].mean())
    first, second = rivals[0], rivals[min(1, len(rivals) - 1)]
    p = p_value(worth[first] - worth[second]).item()
    print(f"up to × {limit:3.1f}: {first} (value {worth[first].mean():.2f}, × {cost[first]:.1f}), "
          f"then {second} ({worth[second].mean():.2f}, × {cost[second]:.1f}); p of the gap {p:.2f}")

# %% [markdown]
# **The answer in words.** Take the lines as advice for *these* worlds: what to buy if a step may
# cost little, a few times the baseline, or anything. Where the p of the gap is not small, the two
# are not told apart: buy the cheaper. A cure in the list of the beaten may still help against its
# control; the same time is only better spent otherwise here.
#
# **Explore.** Choose a method, a world, a moment and a game. Green is what that game's D thinks
# (for critics, the sigmoid of their value).

# %%
def moment(method, world, frame, game):
    film = results[method, world][2]
    step = sorted(film)[min(frame, len(film) - 1)]
    x, D = film[step]
    view = max(1.5, 1.05 * x[game].abs().max().item())
    fig, ax = plt.subplots(figsize=(3.6, 3.6))
    if not method.startswith("minibatch"):  # that D sees batches: no opinion on single points
        opinion(ax, D, game, view)
    scatter(ax, x[game], WORLDS[world], f"{method}, {world}, step {step:,}", view)
    return fig


widgets.explore(moment, "Blue modes, orange samples and D's opinion in green for one method.",
                method=methods, world=list(WORLDS), frame=(0, 12, 12),
                game=(0, SEEDS - 1, 0))

# %%
# checkpoint: one row counted again on other samples; the test is tested on tables of pure noise
with torch.no_grad():
    x = results["baseline", "ring"][0](torch.randn(SEEDS, COUNT, Z_DIM, device=DEVICE))
covered, on = coverage(x, "ring")
assert (covered - scores["baseline", "ring"][0]).abs().max() <= 2
assert (on - scores["baseline", "ring"][1]).abs().max() < 0.03
assert abs(p_value(nothing).lt(0.05).float().mean() - 0.05) < 0.004
assert abs(t_value(nothing).abs().gt(2).float().mean() - 0.116) < 0.006
least_p = p_value(torch.randn(10_000, 24, 5)).min(dim=1).values  # tables in which nothing helps
one_false, strictly = [(least_p < level).float().mean().item() for level in (0.05, 0.05 / 24)]
print(f"tables of noise with a false verdict: {one_false:.0%}, with Bonferroni {strictly:.0%}")
assert abs(one_false - (1 - 0.95**24)) < 0.03 and strictly < 0.06
for world in WORLDS:  # noise must fail
    assert value("noise", world).max() < 0.05
assert len(methods) == 13

# %% [markdown]
# ## 6.9 The same on pictures
#
# **Question.** Nobody can draw the modes of handwriting. Can one still count them?
#
# With classes as modes: the judge, a small classifier ([chapter 03](03_convolutions.ipynb)), says
# which digit a picture shows. That finds missing *classes*. It does not see whether all sevens are
# the same seven; for that we add the *diversity*: the standard deviation of a pixel over the
# samples.
#
# To provoke it we take chapter 04's dense nets and leave out what held them up: BatchNorm in G and
# dropout in D.

# %%
DATA = runtime.budget(smoke="digits", cpu="mnist", gpu="mnist")
PICTURE_STEPS = runtime.budget(smoke=10, cpu=1_500, gpu=6_000)
PICTURE_SEEDS = (0, 1, 2)
PICTURE_WIDTH = runtime.budget(smoke=32, cpu=128, gpu=256)
PICTURE_Z = 64
GENTLE, HARSH = 2e-4, 2e-3  # chapter 04's rate, and ten times that
images = data.load(DATA)
judge = evaluate.judge(DATA)
CLASSES, PICTURES = len(images.classes), min(2_000, len(images))
print(images, "·", judge.extractor)

# %%
def bare_generator():
    G = nets.DenseGenerator(images.shape, PICTURE_Z, PICTURE_WIDTH)
    G.body = nn.Sequential(*[part for part in G.body if not isinstance(part, nn.BatchNorm1d)])
    return G


def bare_discriminator():
    return nets.DenseDiscriminator(images.shape, PICTURE_WIDTH, dropout=0.0)

# %%
def spectral_discriminator():
    D = bare_discriminator()
    for layer in D.body:
        if isinstance(layer, nn.Linear):
            parametrizations.spectral_norm(layer)
    return D


def deviation_discriminator():
    D = bare_discriminator()
    D.body = nn.Sequential(*D.body[:-1], MinibatchStd(), nn.Linear(PICTURE_WIDTH + 1, 1))
    return D

# %% [markdown]
# Four treatments, the same seeds and number of steps. The control is the first one. Two change D
# alone; the last changes no net, only the learning rate.
#
# **Predict:** which of the plane's cures helps here? Which classes survive a collapse?
#
# We judge as in section 6.8. With three seeds there are 2 degrees of freedom: the 5 % limit of $t$
# is 4.30, and for three comparisons at once (Bonferroni) it is 7.65.

# %%
treatments = {
    "bare": (bare_discriminator, GENTLE),
    "spectral norm": (spectral_discriminator, GENTLE),
    "minibatch std": (deviation_discriminator, GENTLE),
    "harsh rate": (bare_discriminator, HARSH),
}


def folder(name, seed):
    return runtime.run_folder(f"06_{name.replace(' ', '_')}-{seed}")

# %%
pictures = {}
for name, (make_d, rate) in treatments.items():
    for seed in PICTURE_SEEDS:
        runtime.seed_everything(seed)
        G, D = bare_generator(), make_d()
        pictures[name, seed], _ = train.train_gan(
            images, G, D, steps=PICTURE_STEPS, batch_size=BATCH, lr=rate, betas=BETAS, seed=seed,
            out=folder(name, seed), progress=False, sample_every=max(1, PICTURE_STEPS // 10))

# %%
def classes_of(x):
    """Coverage of the classes: one counts as covered with a tenth of its fair share."""
    modes = evaluate.logits(x, judge).argmax(1).cpu()
    return evaluate.mode_coverage(modes, CLASSES, least=max(1, len(x) // (10 * CLASSES)))


def most_common(x, most=3):
    """The classes that the judge sees most often, with their shares."""
    hits = torch.bincount(evaluate.logits(x, judge).argmax(1).cpu(), minlength=CLASSES)
    order = hits.argsort(descending=True)[:most].tolist()
    return ", ".join(f"{images.classes[c]} {hits[c] / len(x):.0%}" for c in order if hits[c])

# %%
def picture_diversity(x):
    return x.var(0).mean().sqrt().item()


@torch.no_grad()
def samples(G, n=PICTURES):
    z = torch.randn(n, PICTURE_Z, generator=torch.Generator().manual_seed(1))
    return torch.cat([G(part) for part in z.to(DEVICE).split(500)])

# %%
sheets = {"real": images.batch(0, PICTURES)}
sheets["noise"] = 2 * torch.rand(sheets["real"].shape) - 1
for (name, seed), G in pictures.items():
    sheets[f"{name}, {seed}"] = samples(G)
seen = {name: classes_of(x) for name, x in sheets.items()}
for name, x in sheets.items():
    print(f"{name:18} {seen[name].covered:2d} classes, KL to uniform {seen[name].kl:.2f} nats, "
          f"diversity {picture_diversity(x):.2f}, mostly {most_common(x)}")

# %%
kl = {n: torch.tensor([seen[f"{n}, {s}"].kl for s in PICTURE_SEEDS]) for n in treatments}
for name in list(treatments)[1:]:
    gap = kl[name] - kl["bare"]  # seed by seed
    t = gap.mean() / (gap.std() / 3**0.5).clamp_min(1e-9)
    verdict = "–" if t.abs() < 4.30 else "helps" if t < 0 else "hurts"
    verdict += ", after Bonferroni too" if t.abs() > 7.65 else ""
    print(f"{name:16} KL {kl[name].mean():.2f}, against bare {gap.mean():+.2f} nats, "
          f"t = {t:+.1f}: {verdict}")

# %%
shown = {"real": sheets["real"]}
for name in treatments:
    for seed in PICTURE_SEEDS[:2]:
        shown[f"{name}, {seed}"] = sheets[f"{name}, {seed}"]
ax = plot.rows(shown, columns=10)
plot.show(ax, alt="A row of real digits; below it rows of generated ones, two seeds for each "
                  "treatment.")

# %% [markdown]
# **What the figure says.** Compare each row with its line in the list. The judge must answer with
# *some* class, even for a blot, so "classes covered" alone flatters a generator of rubbish. A
# collapse shows in the **KL**. The diversity shows it badly: noise has *more* of it than real data.
#
# Which classes survive? The last column says it. Don't expect the same in each run: it depends on
# the seed, and on what the judge calls a blot.
#
# **What it does not say:** how *good* the digits are. [Chapter 07](07_evaluation.ipynb) has better
# rulers.

# %%
# checkpoint: the count against a hand-made collapse with a known answer; limits of t by chance
ones = images.images((images.labels == 1).nonzero().flatten()[:200])
assert classes_of(ones).kl > 1.5 and seen["real"].covered == CLASSES
p = torch.bincount(evaluate.logits(sheets["real"], judge).argmax(1).cpu(), minlength=CLASSES)
uniform = torch.full((CLASSES,), 1 / CLASSES)
assert abs(divergences.kl(p / p.sum(), uniform).item() - seen["real"].kl) < 1e-4
assert picture_diversity(sheets["real"][:1].expand(50, -1, -1, -1)) < 1e-6
assert abs(picture_diversity(sheets["noise"]) - 3**-0.5) < 0.01  # uniform on [−1, 1]
nothing = torch.randn(200_000, 3)
t = nothing.mean(1) / (nothing.std(1) / 3**0.5)
for limit, share in ((4.303, 0.05), (7.65, 0.05 / 3)):
    assert abs(t.abs().gt(limit).float().mean() - share) < 0.003

# %% [markdown]
# ## 6.10 The doctor
#
# **Question.** Who counts classes while a run is still going? `train_gan` writes down, at every
# step, what D says on average about real and generated pictures and how long both gradients are,
# and now and then how different the samples of the fixed noise are. The course's *doctor* reads a
# run's folder and names what it sees, with the numbers that made it say so.
#
# **Predict** its report for a collapsed run, for a rate that is too high, and for a good run.

# %%
for name in ("bare", "harsh rate", "spectral norm"):
    print(f"——— {name}, seed 0:", *doctor(folder(name, 0)).findings, sep="\n")

# %% [markdown]
# In a terminal the same report comes from `gencourse doctor runs/…`. The doctor is a list of
# thresholds on a few curves and one sheet of samples: it points, it does not prove. Its judge sees
# 64 pictures where section 6.9 counted two thousand, so a generator that has lost one or two
# classes can pass.

# %%
# checkpoint: the report's findings can be read by a program, and each has its evidence
for name in ("bare", "harsh rate", "spectral norm"):
    findings = doctor(folder(name, 0)).findings
    assert findings and all(f.name and f.evidence for f in findings)

# %% [markdown]
# ## Break it: a penalty that does nothing
#
# Two silent ways to lose a cure. First: forget `create_graph=True` in the gradient penalty. No
# error: the penalty is computed, printed, added to the loss. But it is a plain number without a
# graph, and teaches nothing.
#
# **Predict:** what happens to the critic's slope, when only the linear score is left?

# %%
def forgotten(C, x_real, x_fake):
    between = torch.lerp(x_fake, x_real, torch.rand(SEEDS, BATCH, 1, device=DEVICE))
    between.requires_grad_()
    (slope,) = torch.autograd.grad(C(between).sum(), between)  # no create_graph
    return critic_loss_of(C, x_real, x_fake) + GP_WEIGHT * (slope.norm(dim=2) - 1).square().mean()

# %%
BREAK_STEPS = runtime.budget(smoke=10, cpu=600, gpu=600)
for name, objective in {"with graph": with_penalty, "without": forgotten}.items():
    played = play("ring", d_objective=objective, steps=BREAK_STEPS, **wasserstein)
    values = steepness(played).reshape(SEEDS, -1).median(dim=1).values  # one per game
    covered, on = coverage(final_samples(played[0]), "ring")
    print(f"{name:12} critic's slope, median of each game", *(f"{v:6.1f}" for v in values),
          f"  modes {covered.mean():.1f}, on a mode {on.mean():.0%}")

# %% [markdown]
# Without the graph nothing holds the critic, and its slope grows as long as one lets it train.
# Check a penalty once by its effect, not by its value.
#
# Second: a clip that is too tight. The critic's slope is a *product* over layers. A layer with
# weights $\pm c$ and $n$ inputs stretches by about $c\sqrt n$. So with $c$ the slope falls like
# $c^3$ for our three layers. The paper's 0.01 is for *wide* layers: a convolution over 4 × 4 places
# and 512 channels has 8,192 inputs, and $0.01\sqrt{8192}\approx0.9$. For our 64 it is 0.08. The
# cell scales the weights of a random critic, without training.

# %%
def clipped_slope(c, width):
    C = nn.Sequential(nn.Linear(2, width), nn.LeakyReLU(0.2), nn.Linear(width, width),
                      nn.LeakyReLU(0.2), nn.Linear(width, 1))
    with torch.no_grad():
        for weight in C.parameters():
            weight.copy_(c * weight.sign())  # as large as the clip allows
    x = torch.randn(300, 2).requires_grad_()
    return torch.autograd.grad(C(x).sum(), x)[0].norm(dim=1).mean().item()


for width in (64, 512, 2_048):
    found = [sum(clipped_slope(c, width) for _ in range(5)) / 5 for c in (0.1, 0.03, 0.01)]
    print(f"width {width:5d}: slope {found[0]:.1e} at clip 0.1, {found[1]:.1e} at 0.03, "
          f"{found[2]:.1e} at 0.01")

# %%
# checkpoint: the forgotten penalty has no gradient in the critic's weights; the kept one has
C = make_discriminator()
x_real, x_fake = torch.randn(2, SEEDS, BATCH, 2, device=DEVICE)
for objective, reaches in ((with_penalty, True), (forgotten, False)):
    whole = torch.autograd.grad(objective(C, x_real, x_fake), C[0].weight)[0]
    linear = torch.autograd.grad(critic_loss_of(C, x_real, x_fake), C[0].weight)[0]
    assert ((whole - linear).abs().max() > 1e-3 * linear.abs().max()).item() == reaches
assert clipped_slope(0.01, 64) < clipped_slope(0.1, 64) / 100

# %% [markdown]
# ## Exercises
#
# In [the exercises](../exercises/06_mode_collapse.ipynb) you write:
#
# 1. `count_modes`: the count, where strays count for no mode, and the KL to uniform;
# 2. `gradient_penalty`, for batches of any shape, judged by what it teaches the critic;
# 3. `spectral_norm_of`: power iteration, against the SVD;
# 4. `wgan_round`: several steps of the critic and one of the generator;
# 5. `clipped_step`, a repair: a clip that clips nothing, and a score that stops at 1.
#
# To try at once: give the baseline ten times the steps, `play("ring", steps=10 * STEPS)`, and count
# with `coverage`. Does it recover by itself, in all five games?

# %% [markdown]
# ## Recap
#
# - A collapsed generator makes good samples of a few modes. Count modes *and* good samples, with a
#   row of noise in the table.
# - G's loss is linear in $q$: against a fixed D its best answer is one point. Variety comes from a
#   D that keeps up.
# - On a covered mode a perfect D is flat. Moving mass must cross a wall of JS, though JS is convex
#   in $q$; $W_1$ has no wall.
# - Compare each cure with its own control, over several seeds, with the right limit of $t$ and its
#   price beside it. Many verdicts need a stricter limit. The rates are free.
# - Check a penalty by its effect. A forgotten graph or a wrong clip fails without an error.

# %% [markdown]
# ## References
#
# - Goodfellow et al. 2014, arXiv:1406.2661: the game, and "the Helvetica scenario" for collapse.
# - Metz et al. 2017, *Unrolled GANs*, arXiv:1611.02163: ring, rates, unrolling. *We differ:* plain
#   gradient steps inside (not Adam's), smaller nets and batches, wider modes, fewer steps.
# - Salimans et al. 2016, arXiv:1606.03498: minibatch discrimination. *We differ:* a mean over the
#   others, not a sum.
# - Karras et al. 2018, *Progressive growing*, arXiv:1710.10196: minibatch standard deviation. *We
#   differ:* the whole batch, not groups.
# - Arjovsky & Bottou 2017, arXiv:1701.04862: why a perfect D gives no slope.
# - Arjovsky et al. 2017, *WGAN*, arXiv:1701.07875: clipping. *We differ:* Adam, a wider clip.
# - Gulrajani et al. 2017, *WGAN-GP*, arXiv:1704.00028. *We differ:* the course's Adam.

# %% [markdown]
# - Miyato et al. 2018, *Spectral normalization*, arXiv:1802.05957. *We differ:* a factor on the
#   last layer, since the plane's modes are narrow.
# - Mescheder et al. 2018, arXiv:1801.04406: R1. *We differ:* a smaller γ.
# - Lim & Ye 2017, *Geometric GAN*, arXiv:1705.02894: the hinge loss, here without their other
#   parts.
# - Heusel et al. 2017, *TTUR*, arXiv:1706.08500: two time-scales. *We differ:* we count modes;
#   they prove convergence to a local equilibrium and measure FID.
# - Lucic et al. 2018, *Are GANs created equal?*, arXiv:1711.10337: how much a fair search
#   evens out. *We differ:* a handful of tries, no search.
# - Holm 1979, Scandinavian Journal of Statistics 6: many verdicts at once.
