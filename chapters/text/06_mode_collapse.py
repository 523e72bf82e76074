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
# A generator can fool its judge with a handful of perfect samples and leave out all the rest; we
# provoke it, count what is missing, and try eight cures on equal terms.

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
COUNT = 2_000  # samples per game when modes are counted
LEAST = 10  # so many of them make a mode "covered": strays on the way between modes don't

# %%
# What each cure adds, and why this value
QUICK, SLOW = 1e-3, 2e-4  # two time-scales: the baseline's rates, exchanged
D_STEPS = 5  # D steps per G step where D shall keep up; the papers' usual number
UNROLL, UNROLL_LR = 5, 0.1  # looks ahead 5 plain gradient steps; with 0.3 games fly apart late on
CLIP = 0.1  # the paper's 0.01 is for deep critics; see "Break it" for what smaller does
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

# %%
def grid(side=5):
    line = torch.linspace(-1, 1, side, device=DEVICE)
    return torch.cartesian_prod(line, line)  # (25, 2)

# %%
def draw(centres, *shape):
    """Samples (*shape, 2): a centre at random, and Gaussian noise around it."""
    chosen = centres[torch.randint(len(centres), shape, device=DEVICE)]
    return chosen + SPREAD * torch.randn(*shape, 2, device=DEVICE)

# %%
WORLDS = {"ring": ring(), "grid": grid()}

# %%
def scatter(ax, x_fake, centres, title=""):
    real = draw(centres, 400).cpu()
    ax.scatter(*real.T, s=2, color=plot.REAL, alpha=0.35, linewidths=0)
    if x_fake is not None:
        ax.scatter(*x_fake.cpu().T, s=3, color=plot.FAKE, alpha=0.8, linewidths=0)
    ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
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
# **Question.** How many modes does a generator cover, and how many of its samples are any good?
# These are two numbers, and a model can be good at either one alone.
#
# - A sample is **on** the mode whose centre is nearest, if that centre is within three standard
#   deviations. Otherwise it is on none.
# - A mode is **covered** if enough samples are on it. Real data put thousands / 25 there; we ask
#   for 10 of 2,000.
#
# **Predict:** real data themselves: which share of *them* is on a mode? In the plane, the squared
# distance from the centre over $\sigma^2$ has density $\frac12e^{-t/2}$.

# %%
def count_modes(x, centres):
    """x: (N, 2). Returns how many modes are covered, and the share of samples on a mode."""
    distance, nearest = torch.cdist(x, centres).min(dim=1)  # (N, K) → (N,)
    on = distance <= RADIUS
    hits = torch.bincount(nearest[on], minlength=len(centres))
    return (hits >= LEAST).sum().item(), on.float().mean().item()

# %%
def noise_blob(n):
    return 0.7 * torch.randn(n, 2, device=DEVICE)

# %%
trials = {
    "real data": draw(grid(), COUNT),
    "3 perfect modes": draw(grid()[:3], COUNT),
    "a wide Gaussian": noise_blob(COUNT),
}
for name, x in trials.items():
    covered, on = count_modes(x, grid())
    print(f"{name:16} covers {covered:2d} of 25 modes, {on:6.1%} of its samples are on a mode")

# %% [markdown]
# **What the numbers say.** Real data miss a little: $e^{-9/2}$ of a Gaussian in the plane lies
# beyond $3\sigma$. The three perfect modes score top marks in quality and fail in coverage. The
# wide Gaussian is the opposite fraud: it covers most modes because it covers nearly everything, and
# few of its samples are good. **Always read both columns.**
#
# The package counts the same way, and says it in a sentence. For pictures, the "modes" will be the
# classes that a judge predicts (section 6.8).

# %%
# checkpoint: the closed form; the package's count is ours
for x in trials.values():
    theirs = evaluate.mode_coverage(evaluate.nearest_modes(x, grid(), RADIUS), 25, least=LEAST)
    covered, on = count_modes(x, grid())
    assert theirs.covered == covered and abs(theirs.on_mode - on) < 1e-6
print("3 perfect modes:", evaluate.mode_coverage(
    evaluate.nearest_modes(trials["3 perfect modes"], grid(), RADIUS), 25, least=LEAST))
outside = 1 - count_modes(draw(ring(), 200_000), ring())[1]
assert abs(outside - torch.tensor(-4.5).exp()) < 0.001

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
def make_generator():
    body = [Linear(Z_DIM, WIDTH), nn.ReLU(), Linear(WIDTH, WIDTH), nn.ReLU(), Linear(WIDTH, 2)]
    return nn.Sequential(*body).to(DEVICE)

# %%
def make_discriminator(extra_layer=None, extra=0):
    body = [Linear(2, WIDTH), nn.LeakyReLU(0.2), Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2)]
    body += [extra_layer] if extra_layer else []
    return nn.Sequential(*body, Linear(WIDTH + extra, 1), nn.Flatten(1)).to(DEVICE)  # (SEEDS, B)

# %%
def d_loss_of(D, x_real, x_fake):
    return losses.discriminator_loss(D(x_real), D(x_fake))

# %% [markdown]
# The loop is that of chapter 04. Everything a cure may change is an argument, so that each cure
# below is a few lines, and nothing else differs. Our losses are means over all games; times `SEEDS`
# they are *sums* over the games, and each game gets exactly its own gradient.
#
# "Same seed" means: the same initial weights of G and the same fixed noise in the film.

# %%
def play(world, make_d=make_discriminator, d_objective=d_loss_of, g_objective=None,
         g_lr=G_LR, d_lr=D_LR, d_steps=1, after_d=None, ahead=None, steps=STEPS):
    """Train SEEDS games. Returns G, D and the film {step: (samples, D)}."""
    runtime.seed_everything(0)
    G, D, centres = make_generator(), make_d(), WORLDS[world]
    g_opt = torch.optim.Adam(G.parameters(), lr=g_lr, betas=BETAS, fused=True)
    d_opt = torch.optim.Adam(D.parameters(), lr=d_lr, betas=BETAS, fused=True)
    g_objective = g_objective or losses.generator_loss
    still = torch.randn(SEEDS, 300, Z_DIM, device=DEVICE)  # the film's noise
    frames, film = frame_steps(steps), {}
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
def frame_steps(steps):
    return {max(1, round(steps * part / 12)) for part in range(13)}

# %%
results = {}  # (method, world) → (G, D, film)
recipes = {}  # method → what it changes
MODES = {"ring": 8, "grid": 25}

# %%
def coverage(G, world):
    """Modes covered and share of samples on a mode, of each game: two tensors (SEEDS,)."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(SEEDS, COUNT, Z_DIM, generator=generator).to(DEVICE)
    with torch.no_grad():
        found = [evaluate.nearest_modes(x, WORLDS[world], RADIUS) for x in G(z)]
    scores = [evaluate.mode_coverage(modes, MODES[world], least=LEAST) for modes in found]
    return (torch.tensor([float(s.covered) for s in scores]),
            torch.tensor([s.on_mode for s in scores]))

# %%
def trial(method, **changes):
    """Play both worlds with the same seeds and budget, remember everything, print the score."""
    recipes[method] = changes
    for world in WORLDS:
        results[method, world] = play(world, **changes)
        covered, on = coverage(results[method, world][0], world)
        print(f"{method:18} {world}: {covered.mean():4.1f} ± {covered.std():.1f} of "
              f"{MODES[world]:2d} modes, on a mode {on.mean():4.0%}")

# %% [markdown]
# The **baseline**: the non-saturating loss, Adam, and rates as in the toy code published with Metz
# et al. (2017), where G's is ten times D's; ours is five times. It is a real setting, not a
# scarecrow, and still it is not the best one for a plain GAN; the first cure below changes nothing
# but the rates.
#
# **Predict:** eight modes, five games: how many modes will be covered? Will the samples settle?

# %%
trial("baseline")

# %%
def strip(method, world, seed=0, frames=6):
    film = results[method, world][2]
    steps = sorted(film)[::-2][:frames][::-1]  # every second one, up to the last
    fig, axes = plt.subplots(1, len(steps), figsize=(7.4, 1.5), layout="none")
    fig.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.85, wspace=0.04)
    for ax, step in zip(axes, steps, strict=True):
        scatter(ax, film[step][0][seed], WORLDS[world], f"step {step:,}")
    return fig

# %%
for world in WORLDS:
    plot.show(strip("baseline", world), alt=f"Six moments of the baseline on the {world}: orange "
              "samples beside the blue modes, in few places at once, and in others later.")

# %% [markdown]
# **What the film says.** The samples crowd together. Where they sit changes from frame to frame:
# G runs to a place where D says "real", D learns that this place is now full of fakes, and G runs
# on. It is the circling of chapter 02, with modes as stations. At no moment is the *loss* of either
# player remarkable.
#
# **What it does not say:** that these games would never spread out, given time. The table counts at
# one step, the same for all.
#
# The checkpoint makes sure that five games side by side are five separate games.

# %%
# checkpoint: a game of the five, replayed alone with nn.Linear, has the same gradients and output
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
# from a wide Gaussian, so that it has seen "fake" everywhere between the modes. Then it is frozen,
# and a fresh G is trained against it.
#
# **Predict:** how many of the eight modes will G cover?

# %%
def best_response(D, steps):
    runtime.seed_everything(1)
    G = make_generator()
    optimizer = torch.optim.Adam(G.parameters(), lr=G_LR, betas=BETAS)
    still, film = torch.randn(SEEDS, 300, Z_DIM, device=DEVICE), []
    for step in range(steps + 1):
        if step in (0, steps // 10, steps):
            film.append((step, G(still).detach()))
        loss = SEEDS * losses.generator_loss(D(G(torch.randn(SEEDS, BATCH, Z_DIM, device=DEVICE))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return film

# %%
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
def seen_by_d(ax, D, seed, arrows=13):
    """D(x) as shades of green, and the direction in which each place would push a sample."""
    line = torch.linspace(-1.5, 1.5, 61, device=DEVICE)
    x = torch.cartesian_prod(line, line)
    shade = torch.sigmoid(D(x.expand(SEEDS, -1, -1))[seed]).unflatten(0, (61, 61)).T
    ax.imshow(shade.cpu(), cmap="Greens", vmin=0, vmax=1, origin="lower",
              extent=(-1.525, 1.525, -1.525, 1.525), interpolation="bilinear")

    def push(u, v):  # −∇ of softplus(−logit), its length shown as a root, or most would vanish
        at = torch.stack([torch.from_numpy(c.ravel()) for c in (u, v)], dim=1).float().to(DEVICE)
        slope = slopes(D, at, seed)
        slope = (slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12).sqrt()).cpu().numpy()
        return slope[:, 0].reshape(u.shape), slope[:, 1].reshape(u.shape)

    plot.field(push, limits=(-1.4, 1.4), arrows=arrows, ax=ax, color="0.35")

# %%
def slopes(D, x, seed):
    """The push −∇ₓ(−log D(x)) on each sample: (N, 2)."""
    x = x.expand(SEEDS, -1, -1).clone().requires_grad_()
    loss = nn.functional.softplus(-D(x)).sum()
    return -torch.autograd.grad(loss, x)[0][seed]

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.4, 2.7))
for ax, (step, x) in zip(axes, response, strict=True):
    seen_by_d(ax, frozen, seed=0)
    scatter(ax, x[0], WORLDS["ring"], f"D frozen, G after {step} steps")
plot.show(fig, alt="D's opinion in shades of green with arrows uphill. A fresh generator's samples "
          "move along the arrows and gather at the darkest place.")
for step, x in response:
    covered = [count_modes(part, WORLDS["ring"])[0] for part in x]
    print(f"G step {step:5d}: modes covered in the {SEEDS} games", *covered)

# %% [markdown]
# **What the figure says.** All modes are dark: D likes each of them. Yet the samples ride the
# arrows uphill together, into one of them, and stay, although G had all the time it wanted. Nothing
# in its loss is better elsewhere.
#
# The arrows show a second thing: samples that are close together get *nearly the same* push. Once
# together, nothing in the field pulls them apart. The next cell measures this in the film of the
# real game: the mean cosine between the pushes on two samples, 1 when all are pushed the same way.

# %%
def agreement(D, x, seed):
    unit = nn.functional.normalize(slopes(D, x, seed), dim=1)
    return ((unit.sum(0).square().sum() - len(unit)) / (len(unit) * (len(unit) - 1))).item()

# %%
for step, (x, D) in sorted(results["baseline", "ring"][2].items())[::3]:
    values = [agreement(D, x[s].to(DEVICE), s) for s in range(SEEDS)]
    print(f"step {step:6,}: mean cosine between two pushes", *(f"{v:5.2f}" for v in values))

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
# Data: two narrow bumps $a$ and $b$. The generator has only $a$, and wants to carry *half* of its
# samples over to $b$.
#
# **Predict:** along the way, does JS fall, stay, or rise? And $W_1$, the distance that mass must
# travel?

# %%
line = torch.linspace(-1.5, 4.5, 1_201, dtype=torch.float64)

# %%
def bump(centre):
    p = torch.where((line - centre).abs() < 0.5, torch.cos(torch.pi * (line - centre)) ** 2, 0)
    return p / p.sum()

# %%
data_bumps = (bump(0.0) + bump(3.0)) / 2
way = torch.linspace(0, 3, 61)
moving = [(bump(0.0) + bump(t.item())) / 2 for t in way]
js = torch.stack([divergences.js(data_bumps, q) for q in moving])
step_width = line[1] - line[0]
w1 = torch.stack([((q - data_bumps).cumsum(0)).abs().sum() * step_width for q in moving])

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.7))
plot.density(line, data_bumps / step_width, ax=axes[0], label="data")
plot.density(line, moving[28] / step_width, ax=axes[0], color=plot.FAKE, label="half on its way")
axes[0].set(xlabel="x", ylim=(0, 1.5))
axes[0].legend(loc="upper right", ncols=2)
axes[1].plot(way, js, color=plot.THIRD, label="JS [nats]")
axes[1].plot(way, w1, color="C4", label="W₁ [units of x]")
axes[1].set(xlabel="position of the moving half", ylabel="value", ylim=(0, None))
axes[1].legend()
plot.show(fig, alt="Left: two blue bumps and an orange density with half of its mass between them. "
          "Right: JS first rises to a plateau and falls only at the end; Wasserstein-1 falls along "
          "a straight line.")

# %% [markdown]
# **What the figure says.** Half the mass has to cross a wall: on its way it is neither on $a$ nor
# on $b$, so JS *rises* before it falls. A collapsed generator sits in a valley of JS. $W_1$ goes
# straight down. That is one reason to change the ruler (section 6.6).
#
# **What it does not say:** that a GAN follows JS. D in training is smooth and late, which is why
# any of this ever works.

# %%
# checkpoint: the wall in closed form; an average is never below the least value
assert js[0] < js[30] and js[-1] < 1e-9 and (w1.diff() < 1e-9).all()
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
# - **Other rates** (two time-scales, TTUR, Heusel et al. 2017): a quick D, a slow G. As a control
#   we also run *equal* rates.
# - **More D steps** per G step, the baseline's rates.
# - **Unrolling** (Metz et al. 2017): before G moves, it asks where D *would be* after $K$ steps,
#   $\theta_K$, and minimises its loss against that D.
#
# **Predict** an order. Then read the cell's last column too: what does each cost?

# %%
trial("equal rates", g_lr=QUICK, d_lr=QUICK)
trial("two time-scales", g_lr=SLOW, d_lr=QUICK)
trial(f"{D_STEPS} D steps", d_steps=D_STEPS)

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
def with_weights(D, weights):
    return lambda x: torch.func.functional_call(D, weights, (x,))

# %%
trial("unrolled", ahead=look_ahead)

# %%
plot.show(strip("unrolled", "ring"), alt="Six moments of the unrolled game on the ring.")

# %% [markdown]
# Metz et al. unroll Adam's steps; ours are plain gradient steps with a rate of their own, fewer
# lines and the same idea.
#
# The checkpoint uses the smallest GAN of chapter 02: D's logit is $\psi x$, real data at 0, one
# fake at $\theta$. One inner step gives $\psi'=\psi-\eta\,\sigma(\psi\theta)\,\theta$, and with
# $s=\sigma(\psi\theta)$
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
# ## 6.5 A cure that compares samples
#
# **Question.** Collapse is a fault of the *batch*: each sample is fine, all together are not. Why
# not let D look at the whole batch?
#
# **Minibatch discrimination** (Salimans et al. 2016): project each sample's features to a few
# vectors $M_{ib}$ and append to sample $i$, for each $b$, how close it is to the others,
#
# $$o_{ib}=\frac1{B-1}\sum_{j\ne i}\exp\big(-\lVert M_{ib}-M_{jb}\rVert_1\big)\in(0,1].$$
#
# **Predict:** what is $o$ in a batch of copies?

# %%
def closeness(h, projection):
    """h: (B, F), projection: (F, kernels, dims) → (B, kernels)."""
    m = torch.einsum("bf,fkd->bkd", h, projection)
    distance = (m[:, None] - m[None]).abs().sum(-1)  # (B, B, kernels)
    others = 1 - torch.eye(len(h), device=h.device)[..., None]
    return (torch.exp(-distance) * others).sum(1) / (len(h) - 1)

# %%
layer = nets.MinibatchDiscrimination(features=2, kernels=8, dims=3).to(DEVICE)
projection = layer.project.weight.T.unflatten(1, (8, 3))
for name, x in {"real": draw(ring(), 64), "2 modes": draw(ring()[:2], 64),
                "copies": ring()[:1].expand(64, 2)}.items():
    print(f"{name:8} mean closeness {closeness(4 * x, projection).mean():.2f}")

# %% [markdown]
# A batch of copies is at 1 whatever the projection, and real batches are not: D can learn the
# difference, and then G is punished for being narrow. In five games side by side, each has its own
# such layer:

# %%
class SideBySide(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.layers = nn.ModuleList(make() for _ in range(SEEDS))

    def forward(self, h):  # (SEEDS, B, F)
        return torch.stack([layer(part) for layer, part in zip(self.layers, h, strict=True)])

# %%
def batch_aware():
    extra = SideBySide(lambda: nets.MinibatchDiscrimination(WIDTH, kernels=8, dims=3))
    return make_discriminator(extra, extra=8)

# %%
trial("minibatch", make_d=batch_aware)

# %%
# checkpoint: the package's layer is ours, and copies are as close as can be
h = torch.randn(16, 2, device=DEVICE)
torch.testing.assert_close(layer(h)[:, 2:], closeness(h, projection))
torch.testing.assert_close(layer(h)[:, :2], h)
assert layer(h[:1].expand(16, 2))[:, 2:].min() > 0.9999

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
# - **Gradient penalty** (Gulrajani et al. 2017): ask for slope one where it matters, between real
#   and fake: add $\lambda\,\mathbb E\big[(\lVert\nabla C(\hat x)\rVert-1)^2\big]$ with
#   $\hat x=\varepsilon x+(1-\varepsilon)\tilde x$, $\varepsilon\sim U(0,1)$.
#
# Both let the critic train several steps per step of G. That is allowed now: a better critic gives
# a better slope, not a flatter one.

# %%
def critic_loss_of(C, x_real, x_fake):
    return C(x_fake).mean() - C(x_real).mean()  # the negative score

# %%
def with_penalty(C, x_real, x_fake):
    epsilon = torch.rand(SEEDS, BATCH, 1, device=DEVICE)  # one per sample
    between = (epsilon * x_real + (1 - epsilon) * x_fake).requires_grad_()
    (slope,) = torch.autograd.grad(C(between).sum(), between, create_graph=True)
    penalty = (slope.norm(dim=2) - 1).square().mean()
    return critic_loss_of(C, x_real, x_fake) + GP_WEIGHT * penalty

# %%
@torch.no_grad()
def clip(C):
    for weight in C.parameters():
        weight.clamp_(-CLIP, CLIP)

# %%
wasserstein = dict(g_objective=losses.critic_generator_loss, d_steps=D_STEPS, d_lr=QUICK)
trial("WGAN, clipped", d_objective=critic_loss_of, after_d=clip, **wasserstein)
trial("WGAN-GP", d_objective=with_penalty, **wasserstein)

# %% [markdown]
# **Predict:** how steep are the two critics between real and fake samples? A perfect critic has
# slope exactly 1 along the ways that mass should travel.

# %%
def steepness(method, world="ring"):
    """‖∇C‖ at points between real and generated samples, all games: (SEEDS · 300,)."""
    G, C, film = results[method, world]
    x_fake = film[max(film)][0].to(DEVICE)
    x_real = draw(WORLDS[world], *x_fake.shape[:2])
    between = torch.lerp(x_fake, x_real, torch.rand(SEEDS, 300, 1, device=DEVICE)).requires_grad_()
    return torch.autograd.grad(C(between).sum(), between)[0].norm(dim=2).flatten().cpu()

# %%
fig, ax = plt.subplots(figsize=(5.6, 2.6))
for method, color in (("WGAN, clipped", plot.FOURTH), ("WGAN-GP", plot.THIRD)):
    values = steepness(method).clamp(1e-3, 10).log10()
    ax.hist(values, 60, range=(-3, 1), color=color, alpha=0.6, label=method)
ax.axvline(0, color="0.3", linestyle=":")
ax.set(xlabel="log₁₀ of the critic's slope between real and fake", ylabel="points")
ax.legend()
plot.show(fig, alt="Histograms of the two critics' slopes on a logarithmic axis; slope 1 dotted.")

# %% [markdown]
# **What the figure says.** Compare where each histogram peaks, and how wide it is. The penalty
# pulls the slope towards 1 (it asks, it does not force: a small $\lambda$ lets it overshoot).
# Clipping lets it be whatever the product of the clipped layers happens to be. Scale alone would
# not matter, since Adam rescales gradients; uneven slopes do.
#
# **What it does not say:** that the critic computes $W_1$. It is a net of limited size, trained for
# five steps on small batches.

# %%
# checkpoint: ours and the package's losses; a linear critic's penalty; the score is at most W₁
C, x_real, x_fake = results["WGAN-GP", "ring"][1], *torch.randn(2, SEEDS, BATCH, 2, device=DEVICE)
torch.testing.assert_close(critic_loss_of(C, x_real, x_fake),
                           losses.critic_loss(C(x_real), C(x_fake)))
runtime.seed_everything(2)
mine = with_penalty(C, x_real, x_fake) - critic_loss_of(C, x_real, x_fake)
runtime.seed_everything(2)  # the package takes one batch: lay the five end to end
flat = losses.gradient_penalty(lambda x: C(x.unflatten(0, (SEEDS, BATCH))).flatten(),
                               x_real.flatten(0, 1), x_fake.flatten(0, 1))
torch.testing.assert_close(mine, GP_WEIGHT * flat, rtol=1e-3, atol=1e-5)
w = torch.tensor([3.0, 4.0])  # a linear critic: slope ‖w‖ = 5 everywhere
five = losses.gradient_penalty(lambda x: x @ w, torch.randn(9, 2), torch.randn(9, 2))
assert abs(five - (5 - 1) ** 2) < 1e-3
x = torch.randn(500)  # sin has slope ≤ 1, so its score can't exceed W₁
score = -losses.critic_loss(torch.sin(x + 0.7), torch.sin(x))
assert score <= divergences.wasserstein1(x + 0.7, x) + 1e-6

# %% [markdown]
# ## 6.7 Keeping D's slope down: spectral norm and R1
#
# **Question.** A D that is too steep jumps from "real" to "fake" over a hair's breadth, and G's
# samples are thrown about. Can one limit the slope in an ordinary GAN?
#
# **Spectral normalisation** (Miyato et al. 2018). A linear map $W$ stretches by at most its
# largest singular value $\sigma_1$. Divide by it, and each layer has slope at most 1; LeakyReLU has
# too; so has their composition.
#
# $\sigma_1$ comes by **power iteration**: $v\leftarrow W^\top u/\lVert\cdot\rVert$,
# $u\leftarrow Wv/\lVert\cdot\rVert$, $\sigma_1\approx u^\top Wv$.
#
# **Predict:** how many rounds for three digits?

# %%
def power_iteration(W, u, rounds=1):
    """W: (..., m, n), u: (..., m, 1). Returns the estimate of σ₁ (..., 1, 1) and the next u."""
    for _ in range(rounds):
        v = nn.functional.normalize(W.mT @ u, dim=-2)
        u = nn.functional.normalize(W @ v, dim=-2)
    return u.mT @ W @ v, u

# %%
W = torch.randn(64, 64, dtype=torch.float64)
exact = torch.linalg.svdvals(W)[0]
u, errors = torch.randn(64, 1, dtype=torch.float64), []
for _ in range(200):
    estimate, u = power_iteration(W, u)
    errors.append((1 - estimate / exact).abs().item())

# %%
fig, ax = plt.subplots(figsize=(5, 2.4))
ax.semilogy(range(1, 201), errors, color=plot.THIRD)
ax.set(xlabel="rounds of power iteration", ylabel="relative error of σ₁")
plot.show(fig, alt="The relative error falls steadily, along a line on a logarithmic axis.")

# %% [markdown]
# A random matrix has many singular values close together, so convergence is slow, as the figure
# shows. In training one round per step is enough: the weights move little, and $u$ is kept from
# step to step.
#
# **R1** (Mescheder et al. 2018) adds $\frac\gamma2\,\mathbb E_p\lVert\nabla_xD(x)\rVert^2$ to D's
# loss, D as a logit: a flat D *on real data*. It is the damping of chapter 02, made so that it
# vanishes at the solution, where D is flat anyway. (Chapter 02's damped judge could only pull to
# zero.)

# %%
class OneLipschitz(nn.Module):
    """Divides the weights of all games by their largest singular values, one round per use."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("u", torch.randn(SEEDS, weight.shape[1], 1, device=weight.device))

    def forward(self, weight):
        with torch.no_grad():
            _, u = power_iteration(weight, self.u)
            self.u.copy_(u)
        v = nn.functional.normalize(weight.detach().mT @ u, dim=-2)
        return weight / (u.mT @ weight @ v)

# %%
def normalised():
    D = make_discriminator()
    for layer in D[:-1:2]:
        parametrize.register_parametrization(layer, "weight", OneLipschitz(layer.weight))
    return nn.Sequential(*D, Times(SN_SCALE))

# %%
class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x

# %%
def with_r1(D, x_real, x_fake):
    x_real = x_real.clone().requires_grad_()
    real_logits = D(x_real)
    (slope,) = torch.autograd.grad(real_logits.sum(), x_real, create_graph=True)
    steep = slope.square().sum(dim=2).mean()
    return losses.discriminator_loss(real_logits, D(x_fake)) + GAMMA / 2 * steep

# %%
trial("spectral norm", make_d=normalised, g_lr=QUICK, d_lr=QUICK)
trial("R1", d_objective=with_r1, g_lr=QUICK, d_lr=QUICK)

# %%
# checkpoint: σ₁ against the SVD and the library; D's slope; R1 against the package
many = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64, bias=False, dtype=torch.float64))
with torch.no_grad():
    many.parametrizations.weight.original.copy_(W)
for _ in range(2_000):
    many(torch.zeros(1, 64, dtype=torch.float64))  # the library does one round per call in training
many.eval()
estimate, _ = power_iteration(W, torch.randn(64, 1, dtype=torch.float64), rounds=2_000)
torch.testing.assert_close(estimate.squeeze(), exact, rtol=1e-6, atol=0)
torch.testing.assert_close(many.weight, W / estimate, rtol=1e-5, atol=1e-8)
D = normalised()
x = torch.randn(SEEDS, 500, 2, device=DEVICE).requires_grad_()
for _ in range(300):
    D(x)
steep = torch.autograd.grad(D(x).sum(), x)[0].norm(dim=2)
assert steep.max() < 1.01 * SN_SCALE

# %%
# checkpoint: R1 of the package on the same D, the five batches laid end to end
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
# ± is the standard deviation over the games, not an error of the mean. With five games, two rows
# whose ranges overlap are not told apart.

# %%
COST_STEPS = runtime.budget(smoke=2, cpu=60, gpu=60)


def seconds_of(method):
    began = time.perf_counter()
    play("ring", steps=COST_STEPS, **recipes[method])
    return time.perf_counter() - began


rounds = [{method: seconds_of(method) for method in recipes} for _ in range(3)]
cost = {m: sorted(r[m] / r["baseline"] for r in rounds)[1] for m in recipes}

# %%
methods = list(recipes)
print(f"{SEEDS} games, {STEPS:,} G steps      ring of 8             grid of 25")
print(f"{'method':18} {'modes':>11} {'on mode':>9}   {'modes':>11} {'on mode':>9}   time per step")
for method in methods:
    row = f"{method:18}"
    for world in WORLDS:
        covered, on = coverage(results[method, world][0], world)
        row += f" {covered.mean():5.1f} ± {covered.std():3.1f} {on.mean():4.0%} ± {on.std():3.0%}  "
    print(f"{row} × {cost[method]:.1f}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.4), sharey=True)
for ax, world in zip(axes, WORLDS, strict=True):
    for row, method in enumerate(reversed(methods)):
        covered, on = coverage(results[method, world][0], world)
        ax.scatter(covered, row + torch.linspace(-0.25, 0.25, SEEDS), s=12 + 90 * on, alpha=0.8,
                   color=plot.FAKE, edgecolor="0.3", linewidth=0.5)
    ax.axvline(MODES[world], color=plot.REAL, linestyle=":")
    ax.set(xlabel=f"modes covered on the {world}", xlim=(-0.5, MODES[world] * 1.05))
    ax.set(yticks=range(len(methods)), yticklabels=list(reversed(methods)))
plot.show(fig, alt="One dot per game: modes covered by each method on the ring and on the grid; "
          "large dots have more of their samples on a mode.")

# %% [markdown]
# **How to read it.** One dot per game; the larger, the more of its samples are on a mode. Ask of
# each method: does it beat the *equal rates* row? That row costs nothing and contains no idea at
# all. A cure that only beats the baseline may merely have moved the rates. The next cell says which
# methods pass, counting a mode only as far as its samples are good.

# %% [markdown]
# **What it does not say.** That the order is a law. Rates, widths and steps were chosen by a few
# tries per method, on the same seeds; Lucic et al. (2018) found that with a large enough search
# most GANs come out alike.

# %%
def value(method, world):
    covered, on = coverage(results[method, world][0], world)
    return covered / MODES[world] * on  # (SEEDS,), 1 is perfect

# %%
for world in WORLDS:
    control = value("equal rates", world)
    print(f"{world}: equal rates {control.mean():.2f} ± {control.std():.2f}")
    for method in methods:
        gap = value(method, world) - control  # game by game: the same initial generators
        error = gap.std() / SEEDS**0.5
        verdict = "helps" if gap.mean() > 2 * error else "hurts" if gap.mean() < -2 * error else "–"
        if method != "equal rates":
            print(f"   {method:18} {gap.mean():+.2f} ± {error:.2f} (standard error)  {verdict}")

# %% [markdown]
# **Explore.** Choose a method, a world, a moment and a game. Green is what that game's D thinks at
# that moment (for critics, the sigmoid of their value).

# %%
def moment(method, world, frame, game):
    film = results[method, world][2]
    step = sorted(film)[min(frame, len(film) - 1)]
    x, D = film[step]
    fig, ax = plt.subplots(figsize=(3.6, 3.6))
    line = torch.linspace(-1.5, 1.5, 41, device=DEVICE)
    with torch.no_grad():
        at = torch.cartesian_prod(line, line).expand(SEEDS, -1, -1)
        if method == "minibatch":  # D sees batches: no opinion on single points
            shade = torch.full((41, 41), 0.5)
        else:
            shade = torch.sigmoid(D(at)[game]).unflatten(0, (41, 41)).T.cpu()
    ax.imshow(shade, cmap="Greens", vmin=0, vmax=1, origin="lower", extent=(-1.5, 1.5) * 2)
    scatter(ax, x[game], WORLDS[world], f"{method}, {world}, step {step:,}")
    return fig

# %%
widgets.explore(moment, "Blue modes, orange samples and D's opinion in green for one method.",
                method=methods, world=list(WORLDS), frame=(0, 12, 12),
                game=(0, SEEDS - 1, 0))

# %%
# checkpoint: one row counted again by the function of 6.1, on other samples
G = results["baseline", "ring"][0]
with torch.no_grad():
    x = G(torch.randn(SEEDS, COUNT, Z_DIM, device=DEVICE))
again = [count_modes(part, WORLDS["ring"]) for part in x]
covered, on = coverage(G, "ring")
assert max(abs(a - b) for (a, _), b in zip(again, covered.tolist(), strict=True)) <= 2
assert max(abs(a - b) for (_, a), b in zip(again, on.tolist(), strict=True)) < 0.06
assert set(method for method, _ in results) == set(methods) and len(methods) == 10

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
GENTLE = dict(lr=2e-4, betas=BETAS)  # chapter 04's rate
HARSH = dict(lr=2e-3, betas=(0.9, 0.999))  # ten times that, and Adam's default momentum
images = data.load(DATA)
judge = evaluate.judge(DATA)
CLASSES = len(images.classes)
print(images, "·", judge.extractor)

# %%
def bare_generator():
    """The dense generator of chapter 04 without its BatchNorm."""
    G = nets.DenseGenerator(images.shape, Z_DIM_PICTURES, PICTURE_WIDTH)
    G.body = nn.Sequential(*[part for part in G.body if not isinstance(part, nn.BatchNorm1d)])
    return G

# %%
def dense_discriminator():
    return nets.DenseDiscriminator(images.shape, PICTURE_WIDTH, dropout=0.0)

# %%
def spectral_discriminator():
    D = dense_discriminator()
    for layer in D.body:
        if isinstance(layer, nn.Linear):
            parametrizations.spectral_norm(layer)
    return D

# %%
def minibatch_discriminator():
    D = dense_discriminator()
    extra = nets.MinibatchDiscrimination(PICTURE_WIDTH, kernels=16, dims=4)
    D.body = nn.Sequential(*D.body[:-1], extra, nn.Linear(PICTURE_WIDTH + 16, 1))
    return D

# %%
Z_DIM_PICTURES = 64

# %% [markdown]
# Four treatments, the same seeds and budget. The second and the third change D alone; the last
# changes no net, only the rates, for the worse.
#
# **Predict:** which of the plane's two cures helps here? Which classes survive a collapse?

# %%
treatments = {
    "bare": dict(make_d=dense_discriminator, **GENTLE),
    "spectral norm": dict(make_d=spectral_discriminator, **GENTLE),
    "minibatch": dict(make_d=minibatch_discriminator, **GENTLE),
    "bare, harsh rates": dict(make_d=dense_discriminator, **HARSH),
}

# %%
def folder(name, seed):
    return runtime.run_folder(f"06_{name.replace(', ', '_').replace(' ', '_')}-{seed}")

# %%
pictures = {}
for name, setting in treatments.items():
    for seed in PICTURE_SEEDS:
        runtime.seed_everything(seed)
        G, D = bare_generator(), setting["make_d"]()
        pictures[name, seed], _ = train.train_gan(
            images, G, D, steps=PICTURE_STEPS, batch_size=BATCH, lr=setting["lr"],
            betas=setting["betas"], seed=seed, out=folder(name, seed), progress=False,
            sample_every=max(1, PICTURE_STEPS // 10),
        )  # fmt: skip

# %%
def classes_of(x):
    """Coverage of the classes: one counts as covered with a tenth of its fair share."""
    modes = evaluate.logits(x, judge).argmax(1).cpu()
    return evaluate.mode_coverage(modes, CLASSES, least=max(1, len(x) // (10 * CLASSES)))

# %%
def picture_diversity(x):
    return x.var(0).mean().sqrt().item()

# %%
@torch.no_grad()
def samples(G, n=COUNT):
    z = torch.randn(n, Z_DIM_PICTURES, generator=torch.Generator().manual_seed(1))
    return torch.cat([G(part) for part in z.to(DEVICE).split(500)])

# %%
real = images.batch(0, min(COUNT, len(images)))
score = classes_of(real)
print(f"{'real pictures':18}      {score.covered:2d} classes, KL to uniform {score.kl:.2f} nats, "
      f"diversity {picture_diversity(real):.2f}")
for (name, seed), G in pictures.items():
    x = samples(G)
    score = classes_of(x)
    print(f"{name:18} {seed:3d}: {score.covered:2d} classes, KL to uniform {score.kl:.2f} nats, "
          f"diversity {picture_diversity(x):.2f}")

# %%
fig, axes = plt.subplots(len(treatments), 1, figsize=(6.6, 5.4))
for ax, name in zip(axes, treatments, strict=True):
    x = torch.cat([samples(pictures[name, seed], 14) for seed in PICTURE_SEEDS[:2]])
    plot.grid(x, columns=14, ax=ax)
    ax.set_title(f"{name}, seeds {PICTURE_SEEDS[0]} and {PICTURE_SEEDS[1]}", fontsize=9, loc="left")
plot.show(fig, jpeg=True, alt="Rows of generated digits, two seeds for each treatment.")

# %% [markdown]
# **What the figure says.** Compare each row with its line in the list. The judge must answer with
# *some* class, even for a blot, so "classes covered" alone flatters a generator of rubbish; a
# collapsed one shows in the KL and in the diversity. Read all three together, and look at the
# pictures.
#
# **What it does not say:** how *good* the digits are. [Chapter 07](07_evaluation.ipynb) has better
# rulers.

# %%
# checkpoint: the count against a hand-made collapse with a known answer; real data score well
ones = images.images((images.labels == 1).nonzero().flatten()[:200])
assert classes_of(ones).kl > 1.5 and classes_of(real).covered == CLASSES
p = torch.bincount(evaluate.logits(real, judge).argmax(1).cpu(), minlength=CLASSES) / len(real)
uniform = torch.full((CLASSES,), 1 / CLASSES)
assert abs(divergences.kl(p, uniform).item() - classes_of(real).kl) < 1e-4
assert picture_diversity(real[:1].expand(50, -1, -1, -1)) < 1e-6

# %% [markdown]
# ## 6.10 The doctor
#
# **Question.** Who counts classes while a run is still going? `train_gan` writes down, at every
# step, what D says on average about real and generated pictures and how long both gradients are,
# and now and then how different the samples of the fixed noise are. The course's *doctor* reads a
# run's folder and names what it sees, with the numbers that made it say so.
#
# **Predict** its report for a collapsed run, and for a good one.

# %%
for name in ("bare, harsh rates", "spectral norm"):
    print(f"——— {name}, seed 0:", *doctor(folder(name, 0)).findings, sep="\n")

# %% [markdown]
# In a terminal the same report comes from `gencourse doctor runs/…`. The doctor is a list of
# thresholds on a few curves and one sheet of samples: it points, it does not prove. Its judge sees
# 64 pictures where section 6.9 counted two thousand, so a generator that has lost one or two
# classes can pass.

# %%
# checkpoint: the report's findings can be read by a program, and each has its evidence
for name in ("bare, harsh rates", "spectral norm"):
    report = doctor(folder(name, 0))
    assert report.findings and all(f.name and f.evidence for f in report.findings)

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
    results[name, "ring"] = play("ring", d_objective=objective, steps=BREAK_STEPS, **wasserstein)
    values = steepness(name)
    covered, on = coverage(results.pop((name, "ring"))[0], "ring")
    print(f"{name:12} critic's slope {values.median():10.2f} (median), modes {covered.mean():.1f}, "
          f"on a mode {on.mean():.0%}")

# %% [markdown]
# Without the graph nothing holds the critic, and its slope grows as long as one lets it train.
# Check a penalty once by its effect, not by its value.
#
# Second: a clip that is too tight. The critic's slope is a *product* over layers, so with $c$ it
# falls like $c^3$ for our three layers. The cell scales the weights of a random critic, and needs
# no training.

# %%
for c in (0.3, 0.1, 0.03, 0.01):
    C = make_discriminator()
    with torch.no_grad():
        for weight in C.parameters():
            weight.copy_(c * weight.sign())  # as large as the clip allows
    x = torch.randn(SEEDS, 300, 2, device=DEVICE).requires_grad_()
    steep = torch.autograd.grad(C(x).sum(), x)[0].norm(dim=2).mean()
    print(f"clip {c:5.2f}: slope {steep:.1e}")

# %%
# checkpoint: the forgotten penalty has no gradient in the critic's weights; the kept one has
C, (x_real, x_fake) = make_discriminator(), torch.randn(2, SEEDS, BATCH, 2, device=DEVICE)
weight = C[0].weight
for objective, reaches in ((with_penalty, True), (forgotten, False)):
    rest = objective(C, x_real, x_fake) - critic_loss_of(C, x_real, x_fake)
    plain = torch.autograd.grad(critic_loss_of(C, x_real, x_fake), weight)[0]
    found = torch.autograd.grad(rest, weight)[0]
    assert (found.abs().max() > 1e-3 * plain.abs().max()).item() == reaches

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
# To try at once: give the baseline ten times the steps. Does it recover by itself?

# %% [markdown]
# ## Recap
#
# - A collapsed generator makes good samples of a few modes. Count modes *and* the share of good
#   samples; one number alone is easily fooled.
# - G's loss is linear in $q$: against a fixed D its best answer is one point. Variety comes from a
#   D that keeps up.
# - On a covered mode a perfect D is flat, and between modes JS has a wall; $W_1$ has none.
# - Try the rates first: they are free. Compare every cure with that control, at equal steps, over
#   several seeds, with its cost beside it.
# - Check a penalty by its effect. A forgotten graph or a wrong clip fails without an error.

# %% [markdown]
# ## References
#
# - Goodfellow et al. 2014, arXiv:1406.2661: the game, and "the Helvetica scenario" for collapse.
# - Metz et al. 2017, *Unrolled GANs*, arXiv:1611.02163: ring, rates, unrolling. *We differ:* plain
#   gradient steps inside, smaller nets and batches, wider modes, fewer steps.
# - Salimans et al. 2016, *Improved techniques*, arXiv:1606.03498: minibatch discrimination. *We
#   differ:* a mean over the others, not a sum.
# - Arjovsky & Bottou 2017, arXiv:1701.04862: why a perfect D gives no slope.
# - Arjovsky et al. 2017, *WGAN*, arXiv:1701.07875: clipping. *We differ:* Adam, not RMSprop, and a
#   wider clip.

# %% [markdown]
# - Gulrajani et al. 2017, *WGAN-GP*, arXiv:1704.00028. *We differ:* the course's Adam;
#   $\lambda=0.1$ as in their toy code.
# - Miyato et al. 2018, *Spectral normalization*, arXiv:1802.05957. *We differ:* a factor on the
#   logit, since the plane's modes are narrow.
# - Mescheder et al. 2018, arXiv:1801.04406: R1. *We differ:* a smaller γ.
# - Heusel et al. 2017, *TTUR*, arXiv:1706.08500: two time-scales. *We differ:* we count modes;
#   they prove convergence to a local equilibrium and measure FID.
# - Lucic et al. 2018, *Are GANs created equal?*, arXiv:1711.10337: how much a fair search
#   evens out. *We differ:* a handful of tries, no search.
