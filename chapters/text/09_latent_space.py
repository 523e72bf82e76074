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
# # 9 · Latent space
#
# A trained generator is a map: every latent z is a picture, and moving z changes the picture. This
# chapter learns to move on purpose.

# %% [markdown]
# **After this chapter you can** walk between latents without leaving the region that the generator
# was trained on · find a direction that changes one attribute, edit a real picture with it, and
# count how often it works · measure whether single latents mean single things.
#
# **You need** chapters [05](05_dcgan.ipynb) (the DCGAN), [07](07_evaluation.ipynb) (distances on a
# judge's features) and [08](08_vae.ipynb) (the VAE).
#
# <!-- stamp -->
# *Run time: 4.3 min, peak memory 1.4 GB, `cpu` profile on `digits`, `fashion_mnist`, `shapes`
# (cpu · 2 cores (2 threads) · Linux x86_64 · Python 3.11.7 · torch 2.15.0).*
# <!-- /stamp -->
#
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/chapters/09_latent_space.ipynb)
# <!-- /badge -->

# %% tags=["install"]
import sys

if "google.colab" in sys.modules:  # anywhere else the course is installed already
    print("Installing the course's helpers …")
    # %pip install -q "gencourse @ git+https://github.com/OWNER/gencourse"

# %%
import math

import matplotlib.pyplot as plt
import torch

from gencourse import checkpoint, data, divergences, evaluate, latent, nets, plot, runtime, train
from gencourse.widgets import explore

# %%
plot.style()
runtime.seed_everything(0)
device = runtime.device()
print(runtime.describe())

# %%
name = runtime.budget(smoke="digits", cpu="fashion_mnist", gpu="fashion_mnist")
n = runtime.budget(smoke=400, cpu=5_000, gpu=10_000)  # pictures per distance: above 128
SLEEVES = (0, 2)  # the labels of T-shirt and pullover: short sleeves, long sleeves
SHAFT = (7, 9)  # the labels of sneaker and ankle boot: without a shaft, with one
tries = runtime.budget(smoke=20, cpu=300, gpu=1_000)  # pictures per success rate: ± 3 % at most
BETAS = runtime.budget(smoke=[1, 8], cpu=[1, 4, 16], gpu=[1, 4, 16])  # 1 is the plain VAE
SEEDS = runtime.budget(smoke=1, cpu=3, gpu=5)  # a claim about training needs more than one
beta_steps = runtime.budget(smoke=20, cpu=2_000, gpu=10_000)  # small nets on 16 pixels

# %% [markdown]
# ## Where we are going
#
# No net is trained for the first five sections. The next cell takes the DCGAN and the VAE that
# *you* trained, if it finds them (chapter 07's and 10's trainings, or chapter 08's), and otherwise
# two that come with the course. They are small, and were trained on Fashion-MNIST for some minutes
# on a CPU.

# %%
images = data.load(name, size=28)
held_out = data.load(name, split="test", size=28)
classes = images.classes
print(images)

# %%
def my_own(kind):
    """The net that a run of this profile left here, or None."""
    league, file = {
        "dcgan": ("league/dcgan-0", "generator.safetensors"),
        "vae": ("league/vae-0", "vae.safetensors"),
    }[kind]
    if (path := runtime.run_folder(league) / file).exists():
        return nets.load(path)
    if kind == "vae" and (saved := checkpoint.load_latest(runtime.run_folder("08_vae"))):
        vae = nets.VAE(28, 1)  # chapter 08's sizes are the defaults
        vae.load_state_dict(saved[1]["parts"]["vae"])
        return vae.eval()
    return None

# %%
def trained(kind):
    own = None if name == "digits" else my_own(kind)  # the smoke profile's know only noise
    print(kind, "is the one that comes with the course" if own is None else "is your own")
    net = nets.shipped(f"{kind}_fashion_mnist") if own is None else own
    return net.to(device).requires_grad_(False)

# %%
G, vae = trained("dcgan"), trained("vae")
judge = evaluate.judge("fashion_mnist")  # chapter 03's classifier: it names what it sees

# %%
@torch.no_grad()
def draw(z):
    """Latents (N, Z) → the GAN's pictures (N, C, H, W), on the CPU."""
    return torch.cat([G(part.to(device)).cpu() for part in z.split(500)])

# %%
@torch.no_grad()
def decode(z):
    """Latents (N, Z) → the VAE's mean pictures (N, C, H, W), on the CPU."""
    return torch.cat([vae.sample(part.to(device)).cpu() for part in z.split(500)])

# %%
@torch.no_grad()
def encode(x):
    """Pictures (N, C, H, W) → mean codes μ (N, Z), on the CPU."""
    return torch.cat([vae.encode(part.to(device))[0].cpu() for part in x.split(500)])

# %% [markdown]
# To begin with, one tour: four latents of the GAN and the ways between them.

# %%
torch.manual_seed(4)
stops = torch.randn(4, G.z_dim)
legs = [latent.slerp(stops[i], stops[i + 1], torch.linspace(0, 1, 8)) for i in range(3)]

# %%
ax = plot.grid(draw(torch.cat(legs)), columns=8)
plot.show(
    ax,
    alt="Three rows of generated clothes. In each row the first garment turns into another one in "
    "small steps; the last of a row is the first of the next.",
    jpeg=True,
)

# %% [markdown]
# Every picture on the way was *never drawn at random*: we chose where to look. What lies between
# two clothes? Is there a direction "longer sleeves"? Where in this space is *your* shoe?

# %% [markdown]
# ## 9.1 Where the mass lies
#
# **Question.** Latents are drawn from N(0, I), whose density is highest at z = 0. So are most draws
# near 0?
#
# The length of z is a sum: $\lVert z\rVert^2 = \sum_{j=1}^{Z} z_j^2$. Each $z_j^2$ has mean 1 and
# variance $E[z_j^4] - 1 = 3 - 1 = 2$, and they are independent. So
#
# $$E\lVert z\rVert^2 = Z, \qquad \mathrm{Var}\,\lVert z\rVert^2 = 2Z .$$
#
# Write $\lVert z\rVert^2 = Z + \delta$, where δ has the standard deviation $\sqrt{2Z}$. For large Z
# it is small beside Z, and $\sqrt{Z + \delta} \approx \sqrt Z + \delta/(2\sqrt Z)$:
#
# $$\lVert z\rVert \approx \sqrt Z \pm \tfrac{1}{\sqrt 2} .$$
#
# **Predict:** does the shell get thicker as Z grows?

# %%
fig, ax = plt.subplots(figsize=(6, 2.8))
for Z, colour in [(1, "gray"), (2, plot.FOURTH), (8, plot.THIRD), (64, plot.REAL)]:
    length = torch.randn(50_000, Z).norm(dim=1)
    ax.hist(length, bins=80, density=True, histtype="step", color=colour, label=f"Z = {Z}")
    ax.axvline(math.sqrt(Z), color=colour, linestyle=":", linewidth=1)
    print(f"Z = {Z:2}   √Z = {Z**0.5:.2f}   measured {length.mean():.2f} ± {length.std():.2f}")
ax.set(xlabel="length ‖z‖", ylabel="density")
ax.legend()
plot.show(
    fig,
    alt="Densities of the length of z. For one dimension it is highest at 0; for 2, 8 and 64 it is "
    "a hump at about the square root of Z, dotted, of the same width for all.",
)

# %% [markdown]
# The shell moves out and its thickness stays the same: relative to its radius it becomes thin. The
# density is highest at the centre, but there is hardly any *room* there: the volume at radius r
# grows like $r^{Z-1}$. A generator has seen only the shell.
#
# A second fact about two draws a and b. Their product $a \cdot b = \sum_j a_j b_j$ has mean 0 and
# variance Z, so the cosine of their angle is $0 \pm 1/\sqrt Z$: **nearly at right angles**. Their
# midpoint is then
#
# $$\left\lVert \tfrac{a+b}{2} \right\rVert^2
# = \tfrac{1}{4}\left(\lVert a\rVert^2 + \lVert b\rVert^2 + 2\,a\cdot b\right)
# \approx \tfrac{Z}{2},$$
#
# shorter by $\sqrt 2$. How unlikely is so short a draw?

# %%
for Z in (2, 8, 24, 64):
    share = torch.special.gammainc(torch.tensor(Z / 2), torch.tensor(Z / 4)).item()
    print(f"Z = {Z:2}: a draw from N(0, I) is shorter than √(Z/2) with probability {share:.1e}")

# %%
# checkpoint: mean length in closed form, √2 Γ((Z+1)/2) / Γ(Z/2), and that probability by counting
for Z in (2, 8, 64):
    lengths = torch.randn(100_000, Z).norm(dim=1)
    exact = math.sqrt(2) * math.exp(math.lgamma((Z + 1) / 2) - math.lgamma(Z / 2))
    assert abs(lengths.mean() - exact) < 5 * lengths.std() / math.sqrt(len(lengths))
    share = torch.special.gammainc(torch.tensor(Z / 2), torch.tensor(Z / 4)).item()
    counted = (lengths < math.sqrt(Z / 2)).float().mean().item()
    assert abs(counted - share) < 5 * math.sqrt(share / len(lengths)) + 1e-5

# %% [markdown]
# ## 9.2 From one latent to another
#
# **Question.** The straight line from a to b, `lerp`, is $(1-t)\,a + t\,b$. Half-way it leaves the
# shell. What path stays on it?
#
# The great circle. Let $\hat a, \hat b$ be the directions and ω the angle between them. In their
# plane, turn $\hat a$ by $t\omega$:
#
# $$\text{slerp}(a, b; t) = r_t\left[\frac{\sin((1-t)\,\omega)}{\sin\omega}\,\hat a +
# \frac{\sin(t\,\omega)}{\sin\omega}\,\hat b\right], \qquad
# r_t = (1-t)\lVert a\rVert + t\lVert b\rVert .$$
#
# (White's formula puts a and b themselves in the brackets; we let direction and length go
# separately, so that the direction turns at constant speed.)
#
# **Predict:** how does the length change along both paths?

# %%
def lerp(a, b, t):
    return (1 - t) * a + t * b

# %%
def slerp(a, b, t):
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = a / length_a, b / length_b
    omega = torch.acos((u * v).sum(dim=-1, keepdim=True))  # angle between them [radians]
    turned = torch.sin((1 - t) * omega) * u + torch.sin(t * omega) * v
    return lerp(length_a, length_b, t) * turned / torch.sin(omega)

# %% [markdown]
# The package's version takes several t at once, and stays exact where the angle is nearly 0. Where
# a and b point in opposite directions every great circle is as good as another, and it says so.

# %%
a, b = torch.randn(2, 1_000, G.z_dim)
t = torch.linspace(0, 1, 21)
torch.testing.assert_close(slerp(a, b, 0.3), latent.slerp(a, b, 0.3), atol=1e-4, rtol=1e-4)
straight = latent.lerp(a, b, t).norm(dim=-1)  # (21, 1000)
round_the_sphere = latent.slerp(a, b, t).norm(dim=-1)

# %%
fig, ax = plt.subplots(figsize=(6, 2.8))
for lengths, colour, label in [
    (straight, plot.FAKE, "lerp"),
    (round_the_sphere, plot.THIRD, "slerp"),
]:
    mean, std = lengths.mean(dim=1), lengths.std(dim=1)
    ax.plot(t, mean, color=colour, label=label)
    ax.fill_between(t, mean - std, mean + std, color=colour, alpha=0.2)
by_hand = (t**2 + (1 - t) ** 2).sqrt() * math.sqrt(G.z_dim)
ax.plot(t, by_hand, "k:", label=r"$\sqrt{Z\,(t^2 + (1-t)^2)}$")
ax.set(xlabel="t", ylabel="length ‖z‖")
ax.legend(loc="lower left")
plot.show(
    fig,
    alt="Length along the path, with bands of one standard deviation. Slerp stays level at about "
    "the square root of Z. Lerp sags in the middle, on the dotted curve, far below slerp's band.",
)

# %% [markdown]
# Now the pictures. Does the generator mind?

# %%
torch.manual_seed(1)
first, last = torch.randn(2, 2, G.z_dim)
steps = torch.linspace(0, 1, 9)

# %%
fig, axes = plt.subplots(4, 1, figsize=(5.4, 2.8))
for k in range(2):
    for row, (walk, label) in enumerate([(latent.lerp, "lerp"), (latent.slerp, "slerp")]):
        ax = axes[2 * k + row]
        plot.grid(draw(walk(first[k], last[k], steps)), columns=9, ax=ax)
        ax.text(-0.02, 0.5, label, transform=ax.transAxes, ha="right", va="center", fontsize=9)
plot.show(
    fig,
    alt="Two pairs of clothes, each joined by a lerp row and a slerp row of nine pictures. The two "
    "rows of a pair are much alike.",
    jpeg=True,
)

# %% [markdown]
# By eye there is little between them. Both cross no-man's-land where the ends differ in kind:
# half-way from trousers to a shoe there is no garment. Now measure, on the judge's features
# (chapter 07): n midpoints of random pairs, against real pictures.

# %% [markdown]
# What *should* happen can be said beforehand. Sums of Gaussians are Gaussian: a lerp midpoint is a
# draw from $\mathcal N(0, \frac{1}{2} I)$. And slerp's is nearly $(a+b)/\sqrt 2$, which is N(0, I):
# a direction like any draw's, and a typical length. Shrinking z has a name of its own in GANs: the
# *truncation trick* (Brock et al. 2019), used to trade variety for quality.
#
# **Predict:** which of precision (are the pictures like real ones?) and recall (are all real ones
# covered?) falls at lerp's midpoints?

# %%
torch.manual_seed(2)
a, b = torch.randn(2, n, G.z_dim)
places = {
    "draws from N(0, I)": torch.randn(n, G.z_dim),
    "other draws": torch.randn(n, G.z_dim),
    "slerp midpoints": latent.slerp(a, b, 0.5),
    "lerp midpoints": latent.lerp(a, b, 0.5),
    "lerp, a quarter": latent.lerp(a, b, 0.25),
}

# %%
real = evaluate.features(images.images(torch.arange(n)), judge)
seen = {label: evaluate.features(draw(z), judge) for label, z in places.items()}

# %%
print(f"{n:,} generated against {n:,} real pictures, {real.extractor}")
scores = {}
for label, found in seen.items():
    distance = evaluate.frechet_distance(real, found)
    precision, recall = evaluate.precision_recall(real, found)
    scores[label] = float(distance), float(precision), float(recall)
    print(f"{label:20} Fréchet {distance:6.2f}   precision {precision:.3f}   recall {recall:.3f}")

# %% [markdown]
# **What the table says.** The first two lines are the same thing twice: so much is chance. Slerp's
# midpoints stay near them. Lerp's midpoints have a larger Fréchet distance, and the other columns
# say why: precision isn't lower, recall is. They look as real one by one, and cover less.
#
# **What it doesn't say.** That lerp's midpoints look bad: they don't. The shrunk latents are in a
# place that this generator handles well; what suffers is variety. The warning is about
# *statistics*: a path's middle is no typical draw.

# %%
# checkpoint: slerp is a rotation: the matrix exponential of its plane's generator gives the same
a, b = torch.randn(2, G.z_dim, dtype=torch.float64)
u = a / a.norm()
w = b - (b @ u) * u
w = w / w.norm()
omega = torch.atan2(b @ w, b @ u)
spin = torch.outer(w, u) - torch.outer(u, w)  # skew-symmetric: turns u towards w
for t in (0.2, 0.5, 1.0):
    turned = torch.linalg.matrix_exp(t * omega * spin) @ u
    torch.testing.assert_close(latent.slerp(a, b, t), lerp(a.norm(), b.norm(), t) * turned)
if runtime.profile() != "smoke":
    assert scores["lerp midpoints"][0] > scores["slerp midpoints"][0]  # Fréchet
    assert scores["lerp midpoints"][2] < scores["slerp midpoints"][2]  # recall

# %% [markdown]
# ## 9.3 Vector arithmetic, counted
#
# **Question.** "smiling woman − woman + man = smiling man" (Radford et al. 2016) is the best-known
# figure about latent spaces. How often does such arithmetic give what one wants?
#
# Three pictures in a paper can't say. We have a judge, so we can count. Let $M_k$ be the mean
# latent of draws that the judge calls class k. To turn class i into class j:
#
# $$z' = z + (M_j - M_i) .$$
#
# **Predict:** what share of T-shirts becomes a pullover? What share would, with a random vector of
# the same length? And if M is a single example instead of a mean?

# %%
torch.manual_seed(3)
z = torch.randn(2 * n, G.z_dim)
labels = evaluate.logits(draw(z), judge).argmax(dim=1)
for_means, for_tests = torch.arange(2 * n).split(n)  # never test on what the means were made of

# %%
def some(k, count, pool):
    """Up to `count` latents of the pool that the judge calls class k."""
    return z[pool[labels[pool] == k][:count]]

# %%
def mean_latent(k, count=n):
    return some(k, count, for_means).mean(dim=0)

# %%
def share_of(k, latents):
    """The share of these latents' pictures that the judge calls class k."""
    return (evaluate.logits(draw(latents), judge).argmax(dim=1) == k).float().mean().item()

# %%
def with_length(direction, length):
    return direction / direction.norm(dim=-1, keepdim=True) * length

# %%
rates = {}
counts = [1, 3, 10, 30, 100, 300]
for i, j in (SLEEVES, SHAFT):
    starts = some(i, tries, for_tests)
    step = mean_latent(j) - mean_latent(i)
    aimless = [with_length(torch.randn(G.z_dim), step.norm()) for _ in range(5)]
    rates[i, j] = [share_of(j, starts + mean_latent(j, c) - mean_latent(i, c)) for c in counts]
    chance = sum(share_of(j, starts + r) for r in aimless) / 5
    print(
        f"{classes[i]} → {classes[j]}, {len(starts)} tries: {rates[i, j][-1]:.0%} with the means,"
        f" {chance:.0%} with random vectors of that length ({step.norm():.1f}),"
        f" {share_of(j, with_length(starts + step, math.sqrt(G.z_dim))):.0%} put back on the shell"
    )

# %%
fig, ax = plt.subplots(figsize=(6, 2.8))
for ((i, j), values), colour in zip(rates.items(), (plot.FAKE, plot.THIRD), strict=True):
    ax.plot(counts, values, "o-", color=colour, label=f"{classes[i]} → {classes[j]}")
ax.set(xscale="log", ylim=(0, 1), xlabel="examples behind each mean", ylabel="share that arrives")
ax.legend()
plot.show(
    fig,
    alt="The share of latents that arrive in the wanted class, against the number of examples "
    "averaged, from one to all of them: for both pairs it changes with the number.",
)

# %% [markdown]
# A single example carries everything else that it is (its shade, its width, its fold), of length
# √Z like any draw: subtracting and adding those throws z far off the shell. Averaging removes what
# isn't shared. Radford et al. averaged three and say that one was unstable; the curve shows that
# here three are far too few.
#
# And all pairs of classes?

# %%
means = [mean_latent(k) for k in range(10)]
table = torch.full((10, 10), math.nan)
for i in range(10):
    starts = some(i, tries // 5, for_tests)
    for j in range(10):
        if i != j and len(starts):
            table[i, j] = share_of(j, starts + means[j] - means[i])

# %%
fig, ax = plt.subplots(figsize=(4.6, 4))
shown = ax.imshow(table, cmap="viridis", vmin=0, vmax=1)
ax.set_xticks(range(10), classes, rotation=60, ha="right", fontsize=8)
ax.set_yticks(range(10), classes, fontsize=8)
ax.set(xlabel="to", ylabel="from", title=f"all pairs: {table.nanmean():.0%} arrive")
fig.colorbar(shown, label="share that arrives")
plot.show(
    fig,
    alt="A ten by ten table of success rates, from one class (rows) to another (columns). Some "
    "columns are bright for nearly every start, others are dark.",
)

# %% [markdown]
# Some targets are reached from nearly everywhere (trousers), others seldom (shirts): look at the
# columns. Probably a class that fills a large, compact part of the latent space is easy to hit with
# one vector; one that lies in several patches, or between others, isn't.
#
# So far the same classes made the vector and received it. An **analogy** takes the vector
# elsewhere: pullover − T-shirt, "longer sleeves", added to what has no sleeves. **Predict** what
# the judge sees.

# %%
def three_best(latents):
    counts = evaluate.logits(draw(latents), judge).argmax(dim=1).bincount(minlength=10)
    top = counts.argsort(descending=True)[:3].tolist()
    return ", ".join(f"{classes[k]} {counts[k] / len(latents):.0%}" for k in top if counts[k])

# %%
sleeves = means[SLEEVES[1]] - means[SLEEVES[0]]
for k in (3, 1, 7, 8):
    starts = some(k, tries, for_tests)
    if len(starts):
        print(f"{classes[k]:11} + longer sleeves → {three_best(starts + sleeves)}")

# %%
fig, axes = plt.subplots(2, 4, figsize=(6.2, 1.7))
for ax, k in zip(axes.T, (3, 1, 7, 8), strict=True):
    starts = some(k, 3, for_tests)
    for a, latents in zip(ax, (starts, starts + sleeves), strict=True):
        if len(starts):
            plot.grid(draw(latents), columns=3, ax=a)
    ax[0].set_title(classes[k], fontsize=9)
plot.show(
    fig,
    alt="Four pairs of rows, three pictures each: dresses, trousers, sneakers and bags above, and "
    "below them the same latents after adding the vector for longer sleeves.",
    jpeg=True,
)

# %% [markdown]
# More than half of the dresses become pullovers or coats, and nearly as many trousers do, though
# trousers have no sleeves to lengthen. A shoe with longer sleeves doesn't exist: about half stay
# sneakers. Many bags stay bags, too. The vector was never "sleeves". It is the difference of two
# class means, with everything else in which pullovers differ from T-shirts. **Arithmetic is a
# first-order approximation**: near the classes it was measured on, and only as far as the map is
# straight.

# %%
# checkpoint: class means carry information: shuffled labels give vectors that are short and useless
pool = for_means
shuffled = labels[pool][torch.randperm(len(pool))]
for k in (*SLEEVES, *SHAFT):
    members = (labels[pool] == k).sum().item()
    by_chance = math.sqrt(G.z_dim / max(members, 1))  # length of a mean of so many free draws
    blind = z[pool[shuffled == k]].mean(dim=0).norm()
    print(f"{classes[k]:12} mean {means[k].norm():.2f}, shuffled {blind:.2f} ~ {by_chance:.2f}")
    if members > 100:
        assert blind < 1.6 * by_chance and means[k].norm() > 2 * by_chance

# %% [markdown]
# ## 9.4 Directions found from labels
#
# **Question.** A VAE has an encoder, so *real* pictures with labels have codes. Which direction
# separates those with an attribute from those without?
#
# Two answers, for codes $\mu$ with labels 0 and 1:
#
# - **difference of means**, $d = M_1 - M_0$: what we did above;
# - **logistic regression**, $P(1|\mu) = \sigma(w\cdot\mu + c)$: its w stands at right angles to the
#   best border. What merely varies along with the attribute, and doesn't help to tell, gets no
#   weight.
#
# `latent.direction` gives both in one unit: amount 1 moves a code as far along d as the two means
# lie apart.
#
# **Predict:** which of them turns more T-shirts into pullovers?

# %%
codes = encode(images.images(torch.arange(2 * n)).cpu())
code_labels = images.labels[: 2 * n].cpu()

# %%
def attribute(pair, method="means"):
    """Direction from class pair[0] to class pair[1]."""
    rows = (code_labels == pair[0]) | (code_labels == pair[1])
    return latent.direction(codes[rows], code_labels[rows] == pair[1], method)

# %%
ways = {"difference of means": {}, "logistic regression": {}}
for pair in (SLEEVES, SHAFT):
    means_d, logistic_d = attribute(pair), attribute(pair, "logistic")
    ways["difference of means"][pair], ways["logistic regression"][pair] = means_d, logistic_d
    cosine = torch.cosine_similarity(means_d, logistic_d, dim=0)
    print(
        f"{classes[pair[0]]} → {classes[pair[1]]}: lengths {means_d.norm():.2f} (means) and "
        f"{logistic_d.norm():.2f} (logistic); cosine between them {cosine:.2f}"
    )

# %% [markdown]
# The two disagree about the way. Let held-out pictures decide: encode those of the first class,
# move, decode, ask the judge. Baseline: random directions, as long as the difference of means.

# %%
def held_out_of(k, count=tries):
    rows = (held_out.labels == k).nonzero().squeeze(1)[:count]
    return held_out.images(rows).cpu()

# %%
amounts = torch.linspace(0, 2.5, 6)


def arrivals(pair, d):
    """The share that the judge calls class pair[1], for each amount."""
    mu = encode(held_out_of(pair[0]))
    moved = mu + amounts[:, None, None] * d  # (amounts, N, Z)
    return [(evaluate.logits(decode(m), judge).argmax(1) == pair[1]).float().mean() for m in moved]

# %%
fig, axes = plt.subplots(1, 2, figsize=(7, 2.9), sharey=True)
arrived = {}
for ax, pair in zip(axes, (SLEEVES, SHAFT), strict=True):
    length = ways["difference of means"][pair].norm()
    tests = {label: [found[pair]] for label, found in ways.items()}
    tests["five random ones"] = [with_length(torch.randn(vae.z_dim), length) for _ in range(5)]
    for (label, ds), colour in zip(tests.items(), (plot.FAKE, plot.THIRD, "gray"), strict=True):
        arrived[pair, label] = torch.tensor([arrivals(pair, d) for d in ds]).mean(dim=0)
        ax.plot(amounts, arrived[pair, label], "o-", color=colour, label=label, markersize=4)
    ax.set(xlabel="amount", title=f"{classes[pair[0]]} → {classes[pair[1]]}", ylim=(0, 1))
axes[0].set_ylabel("share that arrives")
axes[0].legend(fontsize=8, loc="upper right")
plot.show(
    fig,
    alt="Share of held-out pictures that the judge calls the target class, against the amount. "
    "Along the difference of means and the logistic direction it climbs high until about one step; "
    "for sleeves it then falls again. Random directions stay far below.",
)

# %% [markdown]
# **What the curves say.** Around one step most pictures have arrived, by either way; random ones
# change little. (Amount 0 isn't 0: there the judge sees plain reconstructions, and takes a quarter
# of the sneakers for boots.) A step too far can leave the target again, on the other side. The
# logistic direction is the best one to *read* the attribute; to *write* it isn't better than the
# plain difference: the bystanders that it leaves out belong to the picture of a pullover, too.

# %% [markdown]
# A trap: scale the codes to unit variance first, as is usual for regressions, and the latents that
# the VAE hardly uses can get much of the weight. A step along such a direction changes little in
# the picture.
#
# **What they don't say.** That the picture stayed the same garment otherwise. No label tells, so
# 9.5 looks.

# %%
# checkpoint: the direction by a second route, and it separates held-out codes that it never saw
for pair in (SLEEVES, SHAFT):
    d = attribute(pair)
    y = torch.where(code_labels == pair[1], 1.0, torch.where(code_labels == pair[0], 0.0, math.nan))
    rows = ~y.isnan()
    covariance = ((codes[rows] - codes[rows].mean(0)) * (y[rows] - y[rows].mean())[:, None]).mean(0)
    torch.testing.assert_close(d, covariance / y[rows].var(correction=0), atol=1e-4, rtol=1e-3)
    w = attribute(pair, "logistic")
    sides = [encode(held_out_of(k)) @ w for k in pair]
    assert sides[1].mean() > sides[0].mean()

# %% [markdown]
# ## 9.5 Editing a real picture
#
# **Question.** Put together: *encode* a real picture, *move* its code, *decode*. What is left of
# the picture?
#
# $$x' = \text{decode}(\mu(x) + \alpha\, d)$$
#
# At α = 0 this is the reconstruction, which has already lost texture (8.8). A cheap remedy is to
# add back what the reconstruction missed:
#
# $$x'' = x + \left[\text{decode}(\mu(x) + \alpha\, d) - \text{decode}(\mu(x))\right],$$
#
# which at α = 0 is x itself. **Predict:** where will x'' look wrong?

# %%
def edit_rows(pair, title, alphas=(-1.0, 0.0, 0.5, 1.0, 1.5), count=5):
    """Pictures of a class, then one column per amount: plain edits and, below, with residuals."""
    x = held_out_of(pair[0], count)
    edits = latent.edit(vae, x, attribute(pair), torch.tensor(alphas)).cpu()  # (A, N, C, H, W)
    kept = (x + edits - edits[alphas.index(0.0)]).clamp(-1, 1)
    fig, axes = plt.subplots(1, 2, figsize=(6.6, 0.58 * count + 0.4))
    for ax, tiles, label in [(axes[0], edits, "decoded"), (axes[1], kept, "with the residual")]:
        sheet = torch.cat([x[None], tiles]).transpose(0, 1).flatten(0, 1)
        plot.grid(sheet, columns=len(alphas) + 1, ax=ax)
        ax.set_title(f"{title}, {label}\nreal, then α = {', '.join(f'{v:g}' for v in alphas)}",
                     fontsize=8)  # fmt: skip
    return fig

# %%
plot.show(
    edit_rows(SLEEVES, "longer sleeves"),
    alt="Five T-shirts and their edits. Decoded: soft shirts whose sleeves grow with the amount. "
    "With the residual: prints and folds stay, and ghosts of the old outline too.",
    jpeg=True,
)

# %%
plot.show(
    edit_rows(SHAFT, "higher shaft"),
    alt="Five sneakers and their edits: with the amount a shaft grows out of the shoe, until it is "
    "a boot; at minus one the shoe becomes flatter.",
    jpeg=True,
)

# %% [markdown]
# Left of zero the direction works backwards, beyond anything in the data. With the residual, prints
# and stitching survive, but so does whatever the decoder wanted to remove: the residual is glued to
# its pixels and doesn't move with the garment.
#
# Labels needn't come from people. Any number computed from pictures makes an attribute; here
# *brightness*, and *width*, the number of columns with light in them. Move the sliders (in a live
# notebook): each adds its direction to the code of a real picture.

# %%
shown_before = (images.images(torch.arange(2 * n)).cpu() + 1) / 2  # (2n, 1, H, W) in [0, 1]
ink = shown_before.mean(dim=(1, 2, 3))
columns = (shown_before.amax(dim=2) > 0.2).float().mean(dim=(1, 2))

# %%
directions = {
    "sleeves": attribute(SLEEVES),
    "shaft": attribute(SHAFT),
    "brightness": latent.direction(codes, ink > ink.median()),
    "width": latent.direction(codes, columns > columns.median()),
}
shelf = torch.cat([held_out_of(k, 2) for k in (0, 7, 2, 9, 3, 8)])
shelf_codes = encode(shelf)

# %%
def wardrobe(picture, sleeves, shaft, brightness, width):
    moves = zip(directions.values(), (sleeves, shaft, brightness, width), strict=True)
    mu = shelf_codes[picture]
    moved = mu + sum(amount * d for d, amount in moves)
    after = decode(torch.stack([mu, moved]))
    fig, axes = plt.subplots(1, 3, figsize=(4.8, 1.9), layout="none")
    says = classes[evaluate.logits(after[1:], judge).argmax().item()]
    titles = ("real", "reconstruction", f"edited: {says}")
    for ax, x, title in zip(axes, (shelf[picture], *after), titles, strict=True):
        ax.imshow(x[0], vmin=-1, vmax=1)
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    return fig

# %%
explore(
    wardrobe,
    "A real T-shirt, its soft reconstruction, and the edited picture with longer sleeves.",
    picture=(0, len(shelf) - 1, 0),
    sleeves=(-1.5, 2.0, 1.0),
    shaft=(-1.5, 2.0, 0.0),
    brightness=(-1.5, 2.0, 0.0),
    width=(-1.5, 2.0, 0.0),
)

# %% [markdown]
# Try the shaft on a T-shirt, then width, then brightness. Do they leave each other's attribute
# alone? The next cell counts it: one step along each direction, the change of each measured
# attribute, in its own standard deviations.

# %%
def pixels_say(pictures):
    """Brightness and width of pictures (N, 1, H, W)."""
    x01 = (pictures + 1) / 2
    return torch.stack([x01.mean(dim=(1, 2, 3)), (x01.amax(2) > 0.2).float().mean((1, 2))], dim=1)

# %%
mu = encode(held_out.images(torch.arange(min(500, len(held_out)))).cpu())
scale = torch.stack([ink.std(), columns.std()])
before = pixels_say(decode(mu))
for label, d in directions.items():
    change = ((pixels_say(decode(mu + d)) - before) / scale).mean(dim=0)
    print(f"one step of {label:10}: brightness {change[0]:+.2f}, width {change[1]:+.2f}")

# %% [markdown]
# Hardly a direction is pure. A step of "shaft" adds more than a standard deviation of brightness:
# boots fill more of the picture than sneakers do. A direction made from labels inherits every such
# difference. Where the *data* ties two attributes together, only more labels can part them. Is that
# a property of this latent space, or of all?

# %%
# checkpoint: `latent.edit` against its three steps; the residual is exact at α = 0
x = held_out_of(SHAFT[0], 4)
d = attribute(SHAFT)
for amount in (0.0, 1.5):
    by_hand = decode(encode(x) + amount * d)
    # (not closer than 1e-2: some GPUs multiply with ten bits where a batch is large, see TF32)
    torch.testing.assert_close(latent.edit(vae, x, d, amount).cpu(), by_hand, atol=1e-2, rtol=0)
flat = latent.edit(vae, x, d, 0.0).cpu()
torch.testing.assert_close(x + (flat - flat), x)

# %% [markdown]
# ## 9.6 Traversals and disentanglement
#
# **Question.** Could each *single* latent mean one thing, so that no direction has to be searched?
# Such a code is called **disentangled**. β-VAE (Higgins et al. 2017) hopes to get it without any
# label, by making the code expensive:
#
# $$\text{loss} = -E_q[\log p_\theta(x|z)] + \beta\,\mathrm{KL}(q(z|x)\,\|\,p(z)), \qquad
# \beta > 1 .$$
#
# To *measure* it we need pictures whose true factors are known. `shapes` has them: shape, colour,
# size, x and y, drawn independently and uniformly. The nets are small, the pictures 16 pixels wide.
#
# **Predict:** what does a large β cost?

# %%
shapes = data.load("shapes", size=16)
known = data.load("shapes", split="test", size=16, count=runtime.budget(smoke=500, cpu=10_000,
                                                                      gpu=10_000))  # fmt: skip
factors = {key: known.factors[key].cpu() for key in ("shape", "colour", "size", "x", "y")}
print(known, "·", known.captions[0])

# %%
def beta_vae(beta, seed):
    """A small VAE with ten latents, trained with this β on shapes; and its history."""
    runtime.seed_everything(seed)
    net = nets.VAE(16, 3, z_dim=10, width=8)
    out = runtime.run_folder(f"09_beta{beta}-{seed}")
    history = train.train_vae(
        shapes, net, steps=beta_steps, beta=beta, seed=seed, out=out, progress=False
    )
    return net.eval().requires_grad_(False), history

# %%
family = {(beta, seed): beta_vae(beta, seed)[0] for beta in BETAS for seed in range(SEEDS)}

# %% [markdown]
# A **traversal** shows what one latent does: take a picture's code, set one latent to −2 … 2
# standard deviations of the prior, keep the others. Here for the last β, seed 0.

# %%
def statistics(net):
    """μ (N, Z) and KL per latent (Z,) over the held-out shapes."""
    mu, logvar = zip(*(net.encode(known.images(i)) for i in torch.arange(len(known)).split(1_000)),
                     strict=True)  # fmt: skip
    mu, logvar = torch.cat(mu).cpu(), torch.cat(logvar).cpu()
    return mu, 0.5 * (mu.square() + logvar.exp() - logvar - 1).mean(dim=0)


measured = {key: statistics(net) for key, net in family.items()}

# %%
net, (mu, kl) = family[BETAS[-1], 0], measured[BETAS[-1], 0]
units = kl.argsort(descending=True)[:6].tolist()
rows = [latent.traverse(mu[1], unit, torch.linspace(-2, 2, 9)) for unit in units]

# %%
fig, ax = plt.subplots(figsize=(4.6, 3.1))
plot.grid(net.sample(torch.cat(rows).to(device)), columns=9, ax=ax)
for row, unit in enumerate(units):
    ax.text(-2, 17 * row + 8, f"z{unit}, {kl[unit]:.1f} nats", ha="right", va="center", fontsize=8)
ax.set_title(f"β = {BETAS[-1]}: each row moves one latent from −2 to 2", fontsize=9)
plot.show(
    fig,
    alt="Six rows of one blurred shape. In the first rows it moves across, up or down, or changes "
    "its size; in rows with almost no nats nothing changes.",
    jpeg=True,
)

# %% [markdown]
# At this price two latents are left that do anything: they push a grey blob about. Colour, shape
# and size have become too dear. For a smaller β, naming the rows would be tempting.

# %% [markdown]
# A **metric** names them for us. The *mutual information* of latent j and factor v is the KL of
# chapter 01, between their joint distribution and the product of its margins:
#
# $$I(z_j; v) = \mathrm{KL}\left(p(z_j, v)\,\|\,p(z_j)\,p(v)\right) \le H(v) .$$
#
# It is 0 if they are independent, and H(v), the entropy, if $z_j$ determines v. The **mutual
# information gap** (MIG, Chen et al. 2018): for each factor, the difference between the best and
# the second-best latent, divided by H(v); then the mean over factors. 1: each factor has one latent
# of its own. 0: each is shared.
#
# We count in bins: 20 equally filled ones for each μ, 10 for continuous factors.

# %%
def in_bins(values, bins):
    """Each column of (N, K) as numbers of equally filled bins."""
    return values.argsort(dim=0).argsort(dim=0) * bins // len(values)

# %%
def mutual_information(a, b):
    """I(a; b) of two columns of whole numbers [nats]."""
    joint = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    joint.index_put_((a, b), torch.tensor(1 / len(a), dtype=torch.float64), accumulate=True)
    product = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0)
    return divergences.kl(joint.flatten(), product.flatten())

# %%
def as_numbers(v):
    return in_bins(v[:, None], 10)[:, 0] if v.is_floating_point() else v

# %%
def information(codes):
    """I(z_j; v) / H(v) for every factor and latent: (factors, Z)."""
    bins = in_bins(codes, 20)
    rows = []
    for v in map(as_numbers, factors.values()):
        entropy = divergences.entropy(v.bincount().double() / len(v))
        rows.append(torch.stack([mutual_information(b, v) for b in bins.T]) / entropy)
    return torch.stack(rows)

# %%
def mig(shares):
    """Mean gap between the best and the second-best latent: a number in [0, 1]."""
    best = shares.topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]).mean().item()

# %%
shares = {key: information(mu) for key, (mu, _) in measured.items()}
fig, axes = plt.subplots(1, len(BETAS), figsize=(7, 2.4), sharey=True)
for ax, beta in zip(axes, BETAS, strict=True):
    shown = ax.imshow(shares[beta, 0], cmap="viridis", vmin=0, vmax=1, aspect="auto")
    ax.set(title=f"β = {beta}, MIG {mig(shares[beta, 0]):.2f}", xlabel="latent")
axes[0].set_yticks(range(len(factors)), list(factors))
fig.colorbar(shown, ax=axes, label="I(z; v) / H(v)")
plot.show(
    fig,
    alt="One table per β, factors against latents, brightness is the share of a factor's entropy "
    "that a latent knows. For β = 1 x and y are spread over several latents; for a larger β each "
    "is bright in one. Colour is dark nearly everywhere.",
)

# %%
results = {}
for beta in BETAS:
    values = torch.tensor([mig(shares[beta, s]) for s in range(SEEDS)])
    total = torch.stack([measured[beta, s][1] for s in range(SEEDS)])  # (seeds, Z)
    active = (total > 0.1).sum(dim=1).float().mean()
    each = torch.stack([shares[beta, s].max(dim=1).values for s in range(SEEDS)]).mean(dim=0)
    results[beta] = values
    print(
        f"β = {beta:2}: MIG {values.mean():.3f} ({values.min():.3f} to {values.max():.3f},"
        f" {SEEDS} seeds)   KL {total.sum(1).mean():.1f} nats   active {active:.1f}\n"
        "        best latent knows "
        + ", ".join(f"{key} {value:.0%}" for key, value in zip(factors, each, strict=True))
    )

# %% [markdown]
# **What the table says.** Within a line nothing but the seed differs: compare that range with the
# steps from β to β. A larger β saves nats, so fewer latents stay active. At β = 4, seed 0, each
# axis of place has one latent; the other seeds differ, and at β = 16 too little is left. The price
# is in the second lines. A factor of which even the best latent knows next to nothing isn't
# entangled, it's *missing*: look for colour, which these small nets hardly learn in this budget. A
# MIG of 1 needs all five.

# %% [markdown]
# **What it doesn't say.** What z itself carries: we count μ, which has no noise, so a latent with
# 0.0 nats may still "know" something, by the order of its tiny μ. Nor that these latents would be
# found again on other data. Locatello et al. (2019) trained more than 12,000 models: seed and β
# mattered more than the method, and no choice of β could be made *without* labels. They also prove
# why it can't be otherwise. The next cell shows that proof at work.

# %% [markdown]
# **Nothing in the pictures says which axes are right.** Take any rotation R. If z ~ N(0, I), so is
# Rz. The decoder that first undoes the rotation draws *exactly the same distribution of pictures*.
# Yet its latents are mixtures of the old ones.
#
# **Predict:** the MIG after a random rotation.

# %%
best = max(family, key=lambda key: mig(shares[key]))
net, mu = family[best], measured[best][0]
torch.manual_seed(0)
R = torch.linalg.qr(torch.randn(10, 10))[0]
z = torch.randn(2_000, 10)
with torch.no_grad():
    same = net.sample((z @ R.T @ R).to(device)).cpu()  # the turned decoder, on turned latents
    torch.testing.assert_close(same, net.sample(z.to(device)).cpu(), atol=1e-2, rtol=0)
print(f"β = {best[0]}, seed {best[1]}: MIG {mig(shares[best]):.3f}")
print(f"the same model, latents rotated: MIG {mig(information(mu @ R.T)):.3f}, same pictures")

# %% [markdown]
# So why do single latents mean anything at all here? Because q(z|x) is *diagonal*: the ELBO (not
# the distribution of pictures) prefers axes along which the posterior is uncorrelated (Rolínek et
# al. 2019). That is a taste of the method; whether it agrees with *your* factors is luck, or
# labels.

# %%
# checkpoint: mutual information against scikit-learn's; true factors as codes score 1, rotated not
from sklearn.metrics import mutual_info_score

a, b = in_bins(mu, 20)[:, 0], as_numbers(factors["x"])
torch.testing.assert_close(mutual_information(a, b).item(), mutual_info_score(a, b))
perfect = torch.stack([v.float() for v in factors.values()], dim=1)
noise = torch.randn(len(perfect), 3)  # three latents that know nothing
perfect = (perfect - perfect.mean(0)) / perfect.std(0)
turn = torch.linalg.qr(torch.randn(5, 5))[0]
ideal = mig(information(torch.cat([perfect, noise], 1)))
mixed = mig(information(torch.cat([perfect @ turn, noise], 1)))
print(f"MIG of the factors themselves {ideal:.2f}, of the factors rotated {mixed:.2f}")
assert mixed < ideal - 0.3
assert mig(information(torch.randn(len(perfect), 8))) < 0.1

# %% [markdown]
# ## 9.7 Finding a picture's latent: GAN inversion
#
# **Question.** A GAN has no encoder. Can it draw *this* picture, and from which z?
#
# Search: freeze the generator, and let gradient descent move z (Zhu et al. 2016),
#
# $$z^* = \arg\min_z\ \lVert G(z) - x\rVert^2 + \lambda\left(\lVert z\rVert - \sqrt Z\right)^2 .$$
#
# The second term pulls z towards the shell of 9.1 (λ says how hard). The first has many valleys, so
# we start in several places and keep the best end.
#
# **Predict** the order of the errors: pictures that this GAN drew itself, real clothes from the
# test set, and digits that it never saw?

# %%
count = runtime.budget(smoke=2, cpu=32, gpu=64)
search = {"steps": runtime.budget(smoke=4, cpu=250, gpu=500), "starts": 4}

# %%
torch.manual_seed(5)
digits = data.load("digits", split="test", size=28)
targets = {
    "generated": draw(torch.randn(count, G.z_dim)),
    "real": held_out.images(torch.arange(count)).cpu(),
    "digits": digits.images(torch.arange(count)).cpu(),
}

# %%
found = {label: latent.invert(G, x, **search) for label, x in targets.items()}

# %%
for label, x in targets.items():
    error = found[label].error.cpu()
    variance = (x - x.mean(dim=0)).square().mean()
    alone = found[label].errors[0].mean()
    print(
        f"{label:10} mean squared error {error.mean():.4f} ± {error.std() / math.sqrt(count):.4f}"
        f" per pixel ({count} pictures), with one start {alone:.4f};"
        f"  their variance {variance:.3f};  ‖z‖ {found[label].z.norm(dim=1).mean():.1f}"
    )
again = (decode(encode(targets["real"])) - targets["real"]).square().mean()
print(f"for comparison, the VAE's reconstructions of the real ones: {again:.4f}")

# %%
order = found["real"].error.argsort().cpu()
chosen = torch.cat([order[:6], order[-6:]])
rows = {
    "real": targets["real"][chosen],
    "G(z*)": found["real"].pictures.cpu()[chosen],
    "digits": targets["digits"][:12],
    "its G(z*)": found["digits"].pictures.cpu()[:12],
}

# %%
fig, axes = plt.subplots(4, 1, figsize=(6, 2.4))
for ax, (label, x) in zip(axes, rows.items(), strict=True):
    plot.grid(x, columns=12, ax=ax)
    ax.text(-0.02, 0.5, label, transform=ax.transAxes, ha="right", va="center", fontsize=9)
plot.show(
    fig,
    alt="Real clothes above what the search found: the first six, the best of all, are close; the "
    "last six, the worst, keep the outline and lose the pattern. Digits come out as clothes.",
    jpeg=True,
)

# %% [markdown]
# **What it says.** Real clothes come back with outline and shade; prints, checks and straps don't:
# six best and six worst show what this generator can't draw. A digit comes back as the garment that
# covers the same pixels. And for the GAN's *own* pictures, where a perfect answer exists, the error
# isn't 0 either: that much is the search's fault, and only what real pictures have beyond it is the
# generator's. More starts help, as the column "with one start" shows.

# %% [markdown]
# **What it doesn't say.** That a picture with a small error is *likely* under the generator, or one
# with a large error impossible. It is a second view on recall (chapter 07), picture by picture.
#
# From z* on, everything of 9.2 and 9.3 works on real pictures too.

# %%
start, end = found["real"].z.cpu()[order[:2]]
walk = draw(latent.slerp(start, end, torch.linspace(0, 1, 7)))

# %%
sheet = torch.cat([targets["real"][order[:1]], walk, targets["real"][order[1:2]]])
ax = plot.grid(sheet, columns=9)
ax.set_title("a real picture, the way between two inversions, another real picture", fontsize=9)
plot.show(
    ax,
    alt="Nine pictures in a row: a real garment, seven generated ones that turn from its likeness "
    "into another's, and that other real garment.",
    jpeg=True,
)

# %%
# checkpoint: the gradient that drives the search, by autograd and by finite differences
G64 = nets.shipped("dcgan_fashion_mnist").double()
x = torch.rand(1, 1, 28, 28, dtype=torch.float64)
z = torch.randn(1, G64.z_dim, dtype=torch.float64, requires_grad=True)
(gradient,) = torch.autograd.grad((G64(z) - x).square().sum(), z)
move = 1e-5 * torch.nn.functional.one_hot(torch.tensor([7]), G64.z_dim).double()
with torch.no_grad():
    slope = ((G64(z + move) - x).square().sum() - (G64(z - move) - x).square().sum()) / 2e-5
torch.testing.assert_close(gradient[0, 7], slope, rtol=1e-4, atol=1e-7)
if runtime.profile() != "smoke":
    mean_error = {label: result.error.mean().item() for label, result in found.items()}
    assert max(mean_error["generated"], mean_error["real"]) < mean_error["digits"]

# %% [markdown]
# ## 9.8 Break it: beyond the shell
#
# If one step towards "ankle boot" is good, are ten better? We walk along the GAN's vector of 9.3,
# of unit length: $z_s = z + s\,\hat d$, and ask two instruments: the judge's confidence, and the
# distance to the nearest real picture in feature space.
#
# **Predict:** what does each say at s = 40, five times the shell's radius? And if we put $z_s$ back
# on the shell?

# %%
far = torch.tensor([0.0, 2.0, 4.0, 8.0, 16.0, 40.0])
d_hat = with_length(means[SHAFT[1]] - means[SHAFT[0]], 1.0)
torch.manual_seed(6)
crowd = torch.randn(runtime.budget(smoke=20, cpu=300, gpu=1_000), G.z_dim)
straight_on = crowd + far[:, None, None] * d_hat  # (S, N, Z)
on_shell = straight_on / straight_on.norm(dim=-1, keepdim=True) * math.sqrt(G.z_dim)

# %%
def instruments(latents):
    """Mean confidence in the target, distance to the nearest real features, variety."""
    pictures = draw(latents)
    confidence = evaluate.logits(pictures, judge).softmax(dim=1)[:, SHAFT[1]].mean().item()
    seen = evaluate.features(pictures, judge)
    nearest = evaluate.nearest_neighbours(seen, real)[0].mean().item()
    return confidence, nearest, pictures.std(dim=0).mean().item()  # variety: spread per pixel

# %%
readings = torch.tensor([[instruments(z) for z in walk] for walk in (straight_on, on_shell)])

# %%
fig, axes = plt.subplots(1, 3, figsize=(7.4, 2.6))
names = ("judge's confidence", "distance to nearest real", "variety [grey values]")
for k, (ax, label) in enumerate(zip(axes, names, strict=True)):
    ax.plot(far, readings[0, :, k], "o-", color=plot.FAKE, label="straight on", markersize=4)
    ax.plot(far, readings[1, :, k], "s--", color=plot.THIRD, label="on the shell", markersize=4)
    ax.set(xlabel="steps s", title=label)
    ax.set_ylim(bottom=0)
axes[0].legend(fontsize=8)
plot.show(
    fig,
    alt="Three curves against the distance walked, straight on and put back on the shell: the "
    "judge's confidence rises, so does the distance to the nearest real features, variety falls.",
)

# %%
fig, axes = plt.subplots(2, 1, figsize=(4.4, 3.2))
for ax, walk, label in [(axes[0], straight_on, "straight on"), (axes[1], on_shell, "on the shell")]:
    plot.grid(draw(walk[:, :2].transpose(0, 1).flatten(0, 1)), columns=len(far), ax=ax)
    ax.set_title(f"{label}: s = {', '.join(f'{s:g}' for s in far.tolist())}", fontsize=9)
plot.show(
    fig,
    alt="Two generated things walking towards ankle boot, straight on and on the shell. On the way "
    "grey turns to white; at the right end only ragged white silhouettes are left.",
    jpeg=True,
)

# %% [markdown]
# **What broke.** Far out the generator multiplies: its first layer is linear, so every feature
# grows with s, until tanh saturates and only a silhouette is left. Starts that were different
# become alike, since each is soon small beside $s\,\hat d$. Straight on the judge doesn't mind: its
# confidence *rises*. It knows ten answers and must give one, even for a ragged silhouette.
# **Confidence is not quality**; the distance to real pictures notices.

# %% [markdown]
# **The cure that isn't.** We put z back on the shell, $z_s\sqrt Z/\lVert z_s\rVert$, and the
# silhouettes, their distance from real pictures and their lack of variety stay. Only the judge's
# confidence now falls in the end. A typical draw has a part along $\hat d$ of about ±1; far along
# the walk it has nearly $\sqrt Z$. The right length isn't enough: *all of it in one direction* is
# as untypical. Walk as far as the attribute needs, and no further.

# %%
# checkpoint: on the shell the walk converges to one point, and its length never changes
goal = math.sqrt(G.z_dim) * d_hat
gap = (on_shell - goal).norm(dim=-1).mean(dim=1)  # (S,)
assert (gap.diff() < 0).all()
torch.testing.assert_close(on_shell.norm(dim=-1), goal.norm().expand(on_shell.shape[:2]))
sine = crowd - (crowd @ d_hat)[:, None] * d_hat  # what stands at right angles to the way
angle = torch.atan2(sine.norm(dim=1), crowd @ d_hat + far[-1])
chord = 2 * goal.norm() * torch.sin(angle / 2)
torch.testing.assert_close(chord, (on_shell[-1] - goal).norm(dim=1), atol=1e-4, rtol=1e-3)
if runtime.profile() != "smoke":
    assert (readings[:, -1, 1] > readings[:, 0, 1]).all()  # further from anything real
    assert readings[:, -1, 2].max() < readings[:, 0, 2].min()  # less variety

# %% [markdown]
# ## Exercises
#
# [The exercises](../exercises/09_latent_space.ipynb), with checks that name the mistake:
#
# - `held_out_accuracy`, a repair: a program that finds directions in pure noise.
# - `slerp`: also where two ends are parallel or the same.
# - `inversion_step`: one step of the search of 9.7, in which nothing moves but z.
# - `pure_direction`: an attribute's direction without its bystanders.
# - `mutual_information_gap`: MIG, and codes that know everything and score 0.
#
# To try at once: choose something that can be computed from pixels, find its direction with
# `latent.direction`, and report how much every other attribute of 9.5 moves with it.

# %% [markdown]
# ## Recap
#
# - Draws from N(0, I) lie on a shell of radius √Z whose thickness doesn't grow. A lerp midpoint is
#   a draw from N(0, I/2), a slerp midpoint is nearly a plain draw.
# - Count what arithmetic does: it works for means of many, near where they were measured.
# - A direction from labels inherits every correlation of the data. The best one to read an
#   attribute isn't the best one to write it.
# - Disentanglement can be measured where the factors are known; without labels it can't be chosen,
#   for a rotation changes the latents and not the pictures.
# - Inversion asks a GAN for one given picture; what it can't draw shows in what comes back.

# %% [markdown]
# Next: [chapter 10](10_gan_vs_vae.ipynb) puts both families to the test.

# %% [markdown]
# ## References
#
# - White 2016, [arXiv:1609.04468](https://arxiv.org/abs/1609.04468): slerp for latents. He weighs a
#   and b themselves; we let direction and length go separately, and measure what lerp costs.
# - Radford et al. 2016, [arXiv:1511.06434](https://arxiv.org/abs/1511.06434): arithmetic with means
#   of three. We count successes, against random vectors.
# - Brock et al. 2019, [arXiv:1809.11096](https://arxiv.org/abs/1809.11096): the truncation trick.
#   Theirs redraws large values; a lerp midpoint shrinks all of them.
# - Larsen et al. 2016, [arXiv:1512.09300](https://arxiv.org/abs/1512.09300): attribute vectors as
#   differences of means, on faces.
# - Shen et al. 2020, [arXiv:1907.10786](https://arxiv.org/abs/1907.10786): directions from a linear
#   border. Theirs is a support vector machine on a GAN's draws, ours logistic on a VAE's codes.

# %% [markdown]
# - Higgins et al. 2017, *β-VAE* (ICLR): β as a pressure towards single meanings. Their nets and
#   data are larger; their metric is another one.
# - Chen et al. 2018, [arXiv:1802.04942](https://arxiv.org/abs/1802.04942): the MIG. They integrate
#   over q(z|x); we count μ in bins, as Locatello et al. do (their bins are equally wide).
# - Locatello et al. 2019, [arXiv:1811.12359](https://arxiv.org/abs/1811.12359): no disentanglement
#   without labels or assumptions. Our rotation is the simplest case of their proof.
# - Rolínek et al. 2019, [arXiv:1812.06775](https://arxiv.org/abs/1812.06775): why a diagonal q
#   picks axes.
# - Zhu et al. 2016, [arXiv:1609.03552](https://arxiv.org/abs/1609.03552): inversion by
#   optimisation. They start from an encoder's guess; we start from several draws and hold z on the
#   shell.
