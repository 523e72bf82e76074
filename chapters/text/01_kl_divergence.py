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
# # 1 · KL divergence
#
# A generator is good when the pictures it makes are spread like the real ones. This chapter builds
# the ruler for "spread like".

# %% [markdown]
# **After this chapter you can** measure surprise, entropy and KL divergence in nats; show that
# maximum likelihood minimises a KL; and say where KL and Jensen–Shannon fail, and what Wasserstein
# does there.
#
# **You need** derivatives, integrals, logarithms, mean and variance, the Gaussian density, a little
# PyTorch, and a machine set up as in [chapter 00](00_start_here.ipynb).
#
# <!-- stamp -->
# *Run time: 0.4 min, peak memory 1.0 GB, `cpu` profile on `digits`
# (cpu · 2 cores (2 threads) · Linux x86_64 · Python 3.11.7 · torch 2.15.0).*
# <!-- /stamp -->
#
# <!-- badge -->
# [Open in Colab](https://colab.research.google.com/github/OWNER/gencourse/blob/main/chapters/01_kl_divergence.ipynb)
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

from gencourse import data, divergences, losses, plot, runtime, widgets

# %%
plot.style()
runtime.seed_everything(0)
torch.set_default_dtype(torch.float64)  # this chapter only: small sums, and many exact digits
print(runtime.describe())

# %%
DX = 0.02  # spacing of the grid: fine enough that a sum stands in for an integral
GRID = torch.arange(-16, 16 + DX, DX)  # wide: a Gaussian with σ = 4 fits in with its tails
WEIGHT, CENTRE, WIDTH = 0.6, 2.0, 0.6  # two bumps of unequal size, nearly nothing between them
REPEATS = runtime.budget(smoke=30, cpu=300, gpu=300)  # Monte Carlo runs: steadier error bars

# %% [markdown]
# ## Where this chapter is heading
#
# The blue curve below is a distribution with two bumps. We may describe it with *one* Gaussian and
# must choose its mean $\mu$ and its width $\sigma$. Two rulers, called A and B for now, try a
# thousand Gaussians each and name their winner.
#
# **Predict:** where would you put the single Gaussian?

# %%
def log_normal(x, mu, sigma):
    """Log density of N(mu, sigma²) at x."""
    sigma = torch.as_tensor(sigma)
    return -(((x - mu) / sigma) ** 2) / 2 - sigma.log() - math.log(2 * math.pi) / 2


left = math.log(WEIGHT) + log_normal(GRID, -CENTRE, WIDTH)
right = math.log(1 - WEIGHT) + log_normal(GRID, CENTRE, WIDTH)
log_p = torch.logaddexp(left, right)  # log of the sum of the two bumps
p = log_p.exp()

# %%
mu, sigma = torch.meshgrid(torch.linspace(-3, 3, 31), torch.linspace(0.4, 4, 37), indexing="ij")
log_q = log_normal(GRID, mu[..., None], sigma[..., None])  # (31, 37, grid)
ruler_a = (p * (log_p - log_q)).sum(-1) * DX
ruler_b = (log_q.exp() * (log_q - log_p)).sum(-1) * DX

fig, ax = plt.subplots()
plot.density(GRID, p, ax=ax, label="the data, p")
for ruler, name, line in ((ruler_a, "A", "-"), (ruler_b, "B", "--")):
    best = log_q.flatten(0, 1)[ruler.argmin()].exp()
    ax.plot(GRID, best, line, color=plot.FAKE, label=f"best by ruler {name}")
ax.set(xlim=(-7, 7), xlabel="x", ylabel="density")
ax.legend(loc="upper right")
plot.show(
    fig,
    alt="A density with a large bump on the left and a smaller one on the right, in blue. The best "
    "Gaussian by ruler A is broad and lies over both; the one by ruler B sits on the left bump.",
)

# %% [markdown]
# Both orange curves are optimal, and they hardly resemble each other. A covers everything, and puts
# its peak where there is hardly any data. B ignores four tenths of the data. On the rest it has the
# right place and width. (It is higher than the blue bump because its area is 1, and the bump's is
# 0.6.)
#
# Both rulers are "the KL divergence". They differ only in the order of two arguments. If our family
# of models contained $p$, both would choose $p$ itself. But one Gaussian can't be two bumps. So
# each ruler has to give something up, and they choose differently. This returns throughout the
# course. Section 1.5 says which ruler is which.

# %% [markdown]
# ## 1.1 Surprise and entropy
#
# **Question.** You roll a die. How surprised should you be at what you see?
#
# Something certain should surprise you by 0. Something rarer should surprise you more. And the
# surprises of two *independent* events should add up, while their probabilities multiply. A
# logarithm turns products into sums, so (up to the unit) only one function will do:
#
# $$\text{surprise}(x) = -\log p(x).$$
#
# With the natural logarithm the unit is the **nat**. The whole course counts in nats. Base 2 would
# give bits: one nat is $1/\log 2 \approx 1.44$ bits.

# %% [markdown]
# The average surprise of a distribution $p$ is its **entropy**:
#
# $$H(p) = \mathbb E_p[-\log p(x)] = -\sum_x p(x)\log p(x).$$
#
# $\mathbb E_p$ is the average over outcomes drawn from $p$. An outcome that never happens adds
# nothing: $t\log t \to 0$ as $t \to 0$, so we count $0 \log 0$ as 0.
#
# **Predict:** a loaded die shows six half of the time. Each other face is then rarer than on a fair
# die, so more surprising. Is the loaded die more surprising *on average*?

# %%
loaded = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1, 0.5])
fair = torch.full((6,), 1 / 6)


def entropy(p):
    return -(p * p.log()).sum()


for name, die in (("loaded", loaded), ("fair", fair)):
    print(f"{name:>6}: faces {[f'{s:.2f}' for s in -die.log()]}, average {entropy(die):.3f} nats")

# %% [markdown]
# Less surprising: a six comes often and surprises little, and this outweighs the rarer faces. The
# fair die is the most surprising of all dice, with $H = \log 6$.
#
# The figure shows both ideas: the surprise of a single outcome, and the entropy of a coin that
# lands on heads with probability $b$.

# %%
b = torch.linspace(0.001, 0.999, 500)
coin = torch.stack([b, 1 - b], dim=-1)  # (500, 2): one coin per row

fig, (ax_one, ax_two) = plt.subplots(1, 2, figsize=(7.5, 2.9))
ax_one.plot(b, -b.log(), color=plot.REAL)
ax_one.set(xlabel="probability of the outcome", ylabel="surprise [nats]", ylim=(0, 6))
ax_two.plot(b, divergences.entropy(coin), color=plot.REAL)
ax_two.axhline(math.log(2), color="0.5", linewidth=1, linestyle=":")
ax_two.text(0.02, math.log(2) + 0.02, "log 2", color="0.4")
ax_two.set(xlabel="probability of heads, b", ylabel="entropy [nats]", ylim=(0, 0.8))
plot.show(
    fig,
    alt="Left: surprise falls from above six nats near probability 0 to 0 at probability 1. Right: "
    "a coin's entropy is an arch, 0 at both ends and log 2 for the fair coin.",
)

# %% [markdown]
# **What it says.** Surprise grows without limit as an outcome becomes rare: near zero, every factor
# of ten costs another $\log 10 \approx 2.3$ nats. Entropy is 0 when you know what comes, and
# largest when all outcomes are equally likely.
#
# **What it does not say.** Entropy does not know *what* the outcomes are, or how close together
# they lie. Swap the faces one and six and it stays the same. Remember this: it is where the trouble
# of section 1.8 comes from.

# %%
# checkpoint: entropy is the average surprise, so many rolls must give it too
rolls = torch.multinomial(loaded, 100_000, replacement=True)
surprise = -loaded.log()[rolls]
standard_error = surprise.std() / len(rolls) ** 0.5
print(f"average over rolls {surprise.mean():.4f} ± {standard_error:.4f}, H {entropy(loaded):.4f}")
assert (surprise.mean() - entropy(loaded)).abs() < 5 * standard_error
torch.testing.assert_close(entropy(loaded), divergences.entropy(loaded))

# %% [markdown]
# ## 1.2 Believing the wrong thing: cross-entropy and KL
#
# **Question.** What does it cost to believe $q$ when the truth is $p$?
#
# Outcomes come from $p$, but *your* surprise at $x$ is $-\log q(x)$. Its average is the
# **cross-entropy**
#
# $$H(p, q) = -\sum_x p(x)\log q(x).$$
#
# Part of this nobody can avoid: even with the right belief you pay $H(p)$. The rest is the price of
# being wrong, the **Kullback–Leibler divergence**:
#
# $$\mathrm{KL}(p\,\|\,q) = H(p, q) - H(p) = \sum_x p(x)\log\frac{p(x)}{q(x)}.$$

# %%
def kl(p, q):
    return (p * (p / q).log()).sum()


# %% [markdown]
# **Predict.** Ann rolls the loaded die and believes it is fair. Bob rolls a fair die and believes
# it is loaded. Who of the two pays more for the error? Or is it the same?

# %%
print(f"Ann: KL(loaded‖fair) = {kl(loaded, fair):.3f} nats per roll")
print(f"Bob: KL(fair‖loaded) = {kl(fair, loaded):.3f} nats per roll")

# %%
faces = torch.arange(1, 7)
fig, (ax_one, ax_two) = plt.subplots(1, 2, figsize=(7.5, 2.9))
ax_one.bar(faces - 0.2, loaded, 0.4, color=plot.REAL, label="truth p: loaded")
ax_one.bar(faces + 0.2, fair, 0.4, color=plot.FAKE, label="belief q: fair")
ax_one.set(xlabel="face", ylabel="probability", ylim=(0, 0.7))
ax_one.legend(loc="upper left")
ax_two.bar(faces, loaded * (loaded / fair).log(), color=plot.THIRD)
ax_two.axhline(0, color="0.3", linewidth=1)
ax_two.set(xlabel="face", ylabel="p log(p/q) [nats]", title=f"sum = {kl(loaded, fair):.3f} nats")
plot.show(
    fig,
    alt="Left: bars of the loaded and the fair die for faces 1 to 6. Right: each face's share of "
    "Ann's KL; faces one to five are slightly negative, face six is large and positive.",
)

# %% [markdown]
# **What it says.** Single terms can be negative: Ann is *less* surprised by a one than she should
# be. The sum never is. To see it, use $\log t \le t - 1$:
#
# $$-\mathrm{KL}(p\,\|\,q) = \sum_x p\log\frac qp \;\le\; \sum_x p\left(\frac qp - 1\right)
# = \sum_x q - \sum_x p \le 0,$$
#
# where the sums run over all $x$ with $p(x) > 0$. Equality needs $q = p$ everywhere.
#
# **What it does not say.** KL is not a distance: Ann pays more than Bob for confusing the same two
# dice. And whoever believes that something is *impossible* ($q = 0$) when it does happen ($p > 0$)
# pays infinitely much.

# %%
# checkpoint: our KL, the package's and torch's agree; impossible events cost infinitely much
torch.testing.assert_close(kl(loaded, fair), divergences.kl(loaded, fair))
categorical = torch.distributions.Categorical
by_torch = torch.distributions.kl_divergence(categorical(fair), categorical(loaded))
torch.testing.assert_close(kl(fair, loaded), by_torch)
assert divergences.kl([0.5, 0.5], [1.0, 0.0]) == math.inf  # happens, believed impossible
assert divergences.kl([1.0, 0.0], [0.5, 0.5]) < math.inf  # the other way round is harmless

# %% [markdown]
# ## 1.3 Maximum likelihood is minimising KL
#
# **Question.** To compute $\mathrm{KL}(p_\text{data}\,\|\,p_\theta)$ we need the probabilities
# $p_\text{data}(x)$. For images nobody has them: we only have *samples*. How can a model be
# trained?
#
# Let us count something on real images. Below are scanned digits of 8×8 pixels, each pixel either
# ink (1) or paper (0). Let $k$ be the number of ink pixels of an image.

# %%
scans = data.load("digits", size=8, device="cpu")
binary = (scans.x > 127).double()  # (1500, 1, 8, 8), 1 is ink
ink = binary.sum(dim=(1, 2, 3)).long()  # (1500,) ink pixels per image

fig, ax = plt.subplots(figsize=(7.5, 0.8))
plot.grid(1 - 2 * binary[:12], columns=12, ax=ax)  # ink dark
plot.show(fig, alt="Twelve scanned digits of 8×8 pixels, black on white, coarse but readable.")
print("ink pixels:", *ink[:12].tolist())

# %% [markdown]
# Our model $p_\theta$ with parameters $\theta = (\mu, \sigma)$ is a Gaussian on the whole numbers
# $k = 0 \dots 64$: $\;p_\theta(k) \propto e^{-(k-\mu)^2/2\sigma^2}$.
#
# *Maximum likelihood* picks the $\theta$ under which the observed samples are most probable: the
# smallest **negative log-likelihood** (NLL) per sample. It needs only samples. KL needs
# $p_\text{data}$; just this once, we can count it. (It is the distribution *of these images*, the
# empirical one.)
#
# **Predict:** we draw both as functions of $\mu$. How will the two curves differ?

# %%
k = torch.arange(65)
p_data = torch.bincount(ink, minlength=65) / len(ink)


def log_model(mu, sigma):
    return torch.log_softmax(-((k - mu) ** 2) / (2 * sigma**2), dim=-1)  # (65,), sums to 1


# %%
def nll(mu, sigma):
    return -log_model(mu, sigma)[ink].mean()  # an average over samples, p_data nowhere


def kl_to_data(mu, sigma):
    return divergences.kl(p_data, log_model(mu, sigma).exp())


# %% [markdown]
# Before we look, the algebra. Averaging over samples *is* averaging over $p_\text{data}$:
#
# $$\underbrace{-\frac1N\sum_{i=1}^N \log p_\theta(k_i)}_{\text{negative log-likelihood}}
# = H(p_\text{data}, p_\theta)
# = \underbrace{H(p_\text{data})}_{\text{without } \theta} +
# \mathrm{KL}(p_\text{data}\,\|\,p_\theta).$$
#
# The entropy of the data is a constant. So the curves should be the same curve, one lifted. Same
# minimiser, same gradient. Let gradient descent check it: one run on each loss.

# %%
def descend(loss, mu, sigma, steps, rate):
    """Gradient descent on loss(mu, sigma). Returns (steps, 3): mu, sigma and loss at each step."""
    theta = torch.tensor([mu, math.log(sigma)], requires_grad=True)  # log σ keeps σ positive
    path = []
    for _ in range(steps):
        value = loss(theta[0], theta[1].exp())
        path.append([theta[0].item(), theta[1].exp().item(), value.item()])
        (gradient,) = torch.autograd.grad(value, theta)
        theta = (theta - rate * gradient).detach().requires_grad_()
    return torch.tensor(path)


# %%
by_nll = descend(nll, mu=36.0, sigma=8.0, steps=500, rate=0.5)
by_kl = descend(kl_to_data, mu=36.0, sigma=8.0, steps=500, rate=0.5)
for name, path in (("likelihood", by_nll), ("KL", by_kl)):
    print(f"by {name:>10}: mu {path[-1, 0]:.4f}, sigma {path[-1, 1]:.4f}, loss {path[-1, 2]:.4f}")
print(f"difference of the losses {by_nll[-1, 2] - by_kl[-1, 2]:.4f}")
print(f"entropy of the data      {divergences.entropy(p_data):.4f} nats")

# %%
centres = torch.linspace(14, 28, 100)
best_mu, best_sigma, lowest = by_nll[-1]
gap = divergences.entropy(p_data)
fig, (ax_one, ax_two) = plt.subplots(1, 2, figsize=(8, 3))
ax_one.plot(centres, [nll(m, best_sigma) for m in centres], color="0.4", label="NLL")
ax_one.plot(centres, [kl_to_data(m, best_sigma) for m in centres], color=plot.THIRD, label="KL")
ax_one.annotate("", (best_mu, lowest), (best_mu, lowest - gap), arrowprops={"arrowstyle": "<->"})
ax_one.text(best_mu + 0.2, 1.5, "H(p_data)")
ax_one.set(xlabel="μ [pixels], at the best σ", ylabel="loss [nats]", ylim=(-0.1, 7))
ax_one.legend(loc="upper center")
ax_two.bar(k, p_data, color=plot.REAL, alpha=0.6, label="data")
ax_two.plot(k, log_model(36.0, 8.0).exp(), ":", color=plot.FAKE, label="model, start")
ax_two.plot(k, log_model(best_mu, best_sigma).exp(), color=plot.FAKE, label="model, end")
ax_two.set(xlabel="ink pixels k", ylabel="probability")
ax_two.legend(loc="upper right")
plot.show(
    fig,
    alt="Left: NLL and KL against the mean are one curve at two heights, with the same minimum. "
    "Right: bars of the data, and the model's bell, far right at the start and over the data at "
    "the end.",
)

# %% [markdown]
# **What it says.** One curve, lifted by $H(p_\text{data})$. Whoever maximises likelihood minimises
# $\mathrm{KL}(p_\text{data}\,\|\,p_\theta)$, knowingly or not. Classifiers and language models are
# trained like this and, by a bound, the VAE of [chapter 08](08_vae.ipynb).
#
# **What it does not say.** A minimum is not zero. The KL that remains is what a bell cannot
# describe. And from the likelihood alone you cannot tell how much that is: without the entropy of
# the data, a loss of 3 nats may be excellent or poor. A model's NLL means something only beside
# another model's.

# %%
# checkpoint: equal gradients, constant gap, and the means of data and model agree at the optimum
theta = torch.tensor([30.0, 6.0], requires_grad=True)
(g_nll,) = torch.autograd.grad(nll(*theta), theta)
(g_kl,) = torch.autograd.grad(kl_to_data(*theta), theta)
torch.testing.assert_close(g_nll, g_kl)
torch.testing.assert_close(by_nll[:, 2] - by_kl[:, 2], gap.expand(500))
torch.testing.assert_close(by_nll[-1, :2], by_kl[-1, :2])
model_mean = (k * log_model(best_mu, best_sigma).exp()).sum()  # theory: exponential families
torch.testing.assert_close(model_mean, ink.double().mean(), rtol=1e-3, atol=0)

# %% [markdown]
# ## 1.4 A first model of images, priced in nats
#
# **Question.** Can surprise measure how well a model knows *images*?
#
# The simplest model treats pixels as 64 independent coins. For the class "three", pixel $j$ is ink
# with probability $\theta_j$. Maximum likelihood has a closed form here: $\theta_j$ is the share of
# threes whose pixel $j$ is ink. The surprise at a whole image is the sum over its pixels,
#
# $$-\log p_\theta(x)
# = -\sum_{j=1}^{64} \left[x_j \log\theta_j + (1 - x_j)\log(1-\theta_j)\right].$$
#
# An ideal compressor would spend just that much on the image, so this is also called its *code
# length*. We start both counts at 1 instead of 0, so that nothing is believed impossible. Section
# 1.9 shows what happens otherwise.

# %%
def pixel_model(images):
    """Probability of ink at each pixel, counted with one extra image of each kind."""
    return (images.sum(0) + 1) / (len(images) + 2)


def code_length(images, theta):
    """Surprise at each image (N, 64) under the pixel model theta (64,): (N,) [nats]."""
    return -(images * theta.log() + (1 - images) * (1 - theta).log()).sum(1)


# %%
train = binary.flatten(1)  # (1500, 64)
models = torch.stack([pixel_model(train[scans.labels == c]) for c in range(10)])  # (10, 64)

# %% [markdown]
# Now the test: digits the models have never seen.
#
# **Predict:** for a model that knows nothing, every pixel is a fair coin and an image costs
# $64\log 2$ nats. Guess how much the right class's model saves. And how much does the wrong class's
# model cost: more or less than knowing nothing?

# %%
new = data.load("digits", split="test", size=8, device="cpu")
test = (new.x > 127).double().flatten(1)  # (297, 64)
cost = torch.stack([code_length(test, theta) for theta in models], dim=1)  # (297, 10)

# %%
theta_and_rest = torch.stack([models, 1 - models], dim=-1)  # (10, 64, 2): a coin per pixel
own_entropy = divergences.entropy(theta_and_rest).sum(1)
print("entropy of each model:", *[f"{c}: {h:.0f}" for c, h in enumerate(own_entropy)], "nats")
is_right = torch.nn.functional.one_hot(new.labels, 10).bool()
print(f"fair coins                {64 * math.log(2):5.1f} nats per image")
print(f"one model for all digits  {code_length(test, pixel_model(train)).mean():5.1f}")
print(f"model of the right class  {cost[is_right].mean():5.1f}")
print(f"models of a wrong class   {cost[~is_right].mean():5.1f}")

# %% [markdown]
# The right model saves more than half. It must be told the class first, and that costs at most
# $\log 10 \approx 2.3$ nats more. Together that is still less than one model for all digits costs.
# A wrong model is costly, but on average cheaper than knowing nothing: all digits leave the same
# corners empty, and every model has learned that.
#
# Which class is mistaken for which? The next figure shows, for the images of each class (row), how
# much more they cost under each model (column) than under their own.

# %%
mean_cost = torch.stack([cost[new.labels == c].mean(0) for c in range(10)])  # (10, 10)
extra = mean_cost - mean_cost.diagonal()[:, None]
fig, ax = plt.subplots(figsize=(5.2, 4))
shown = ax.imshow(extra, cmap="viridis")
for i in range(10):
    for j in range(10):
        colour = "white" if extra[i, j] < 0.6 * extra.max() else "black"
        ax.text(j, i, f"{extra[i, j]:.0f}", ha="center", va="center", fontsize=8, color=colour)
ax.set(xticks=range(10), yticks=range(10), xlabel="model of class", ylabel="images of class")
fig.colorbar(shown, label="extra cost [nats per image]")
plot.show(
    fig,
    alt="A 10 by 10 table of the extra cost of coding images of one class with the model of "
    "another. The diagonal is zero; all else is positive, mostly some tens of nats.",
)

# %% [markdown]
# **What it says.** Every row is cheapest on the diagonal. The table is not symmetric: each entry is
# a difference of two KLs, from the class's images to the column's model and to their own. Read
# columns, too: the models of zero and six have the lowest entropies in the list above. They are the
# surest and, on average, the costliest when they are wrong. The smallest entries are the easiest
# confusions: a three or a one costs little more as an eight. (Choosing
# the cheapest model *is* a classifier; the next cell prints how often it is right.)
#
# **What it does not say.** That a low cost makes good pictures. Let us look at what these models
# *draw*.

# %%
hits = (cost.argmin(1) == new.labels).double().mean()
print(f"the cheapest model is the right one for {hits:.0%} of the new digits")
real = torch.stack([test[new.labels == c][0] for c in range(10)])
sheet = torch.cat([real, models, torch.bernoulli(models)]).reshape(30, 1, 8, 8)
fig, ax = plt.subplots(figsize=(7.5, 2.1))
plot.grid(1 - 2 * sheet, columns=10, ax=ax)
for row, name in enumerate(("real", "model θ", "sample")):
    ax.text(-2, 4 + 9 * row, name, ha="right", va="center")
plot.show(
    fig,
    alt="Three rows for the digits 0 to 9: a real image; the class's pixel probabilities, soft and "
    "readable; a sample with every pixel drawn by itself, speckled and hardly readable.",
)

# %% [markdown]
# The samples are speckled. Each pixel is drawn by itself, so nothing makes a *stroke* go on: a real
# three is one of several threes, and the sample mixes all of them pixel by pixel. Maximum
# likelihood found the best model of a family that contains no good one.
#
# So the rest of the course needs two things: richer families (networks), and a clear idea of what
# "best" means when even the best is not perfect. The second is the next section.

# %%
# checkpoint: the course's loss agrees, and no θ codes the training images better than their mean
by_package = losses.bernoulli_nll(models[3].logit().expand_as(test), test)
torch.testing.assert_close(by_package, code_length(test, models[3]).mean())
threes = train[scans.labels == 3]
share = threes.mean(0).clamp(1e-12, 1 - 1e-12)  # maximum likelihood, without the extra counts
best = code_length(threes, share).mean()
assert all(best <= code_length(threes, theta).mean() for theta in models)
assert (mean_cost.argmin(1) == torch.arange(10)).all()  # each class is cheapest by its own model

# %% [markdown]
# ## 1.5 The two directions
#
# **Question.** Back to the two bumps: why do the two KLs choose such different Gaussians?
#
# Write both as integrals, for densities:
#
# $$\mathrm{KL}(p\,\|\,q) = \int p(x)\log\frac{p(x)}{q(x)}\,dx, \qquad
# \mathrm{KL}(q\,\|\,p) = \int q(x)\log\frac{q(x)}{p(x)}\,dx.$$
#
# The first weighs by $p$. It is large where there is data and the model has none: *cover all data*
# (question 2 of chapter 00). The second weighs by $q$. It is large where the model puts something
# and there is no data: *never make what is not real* (question 1).
#
# One warning. A density may be above 1. Then $-\log p(x)$ is negative, and so may be the entropy;
# and both change with the *unit* of $x$. A KL does not: in $p/q$ the unit cancels.

# %%
Normal = torch.distributions.Normal
for unit, scale in (("metres", 1.0), ("centimetres", 100.0)):
    narrow, wide = Normal(0.0, 0.1 * scale), Normal(0.0, 0.2 * scale)
    between = torch.distributions.kl_divergence(narrow, wide)
    print(f"in {unit:>11}: H(narrow) = {narrow.entropy():6.3f}, KL(narrow‖wide) = {between:.3f}")

# %%
def forward_kl(mu, sigma):  # KL(p‖q), q = N(mu, sigma²)
    log_q = log_normal(GRID, mu, sigma)
    return (p * (log_p - log_q)).sum() * DX


def reverse_kl(mu, sigma):  # KL(q‖p)
    log_q = log_normal(GRID, mu, sigma)
    return (log_q.exp() * (log_q - log_p)).sum() * DX


# %%
def draw(mu, sigma):
    log_q = log_normal(GRID, mu, sigma)
    q = log_q.exp()
    share_pq, share_qp = p * (log_p - log_q), q * (log_q - log_p)
    fig, (top, bottom) = plt.subplots(2, 1, figsize=(6.5, 4.6), sharex=True, layout="none")
    fig.subplots_adjust(left=0.1, right=0.98, top=0.93, bottom=0.11, hspace=0.25)
    plot.density(GRID, p, ax=top, label="data p")
    plot.density(GRID, q, ax=top, color=plot.FAKE, label="model q")
    kls = f"KL(p‖q) = {forward_kl(mu, sigma):.2f}, KL(q‖p) = {reverse_kl(mu, sigma):.2f} nats"
    top.set(xlim=(-7, 7), ylim=(0, 1.05), title=f"μ = {mu:.2f}, σ = {sigma:.2f}: {kls}")
    top.legend(loc="upper right")
    bottom.plot(GRID, share_pq, color=plot.THIRD, label="p log(p/q), its area is KL(p‖q)")
    bottom.plot(GRID, share_qp, "--", color=plot.FOURTH, label="q log(q/p), its area is KL(q‖p)")
    bottom.axhline(0, color="0.7", linewidth=1)
    bottom.set(xlabel="x", ylabel="share [nats per unit of x]", ylim=(-1, 5))
    bottom.legend(loc="lower center", bbox_to_anchor=(0.5, 0.95), ncols=2, columnspacing=1.5)
    return fig


# %% [markdown]
# **Try it.** The lower picture shows where each KL comes from. Make KL(p‖q) as small as you can,
# note $\mu$ and $\sigma$; then do the same for KL(q‖p). Start from several places: does the answer
# depend on where you started? (Without a live kernel you see one position of the sliders.)

# %%
widgets.explore(
    draw,
    alt="Above: the two-bump density and one Gaussian over the right bump. Below: KL(p‖q) collects "
    "a tall peak over the missed left bump, KL(q‖p) only a small one where the Gaussian is.",
    mu=(-4.0, 4.0, 1.6),
    sigma=(0.4, 3.5, 0.9),
)

# %% [markdown]
# Read the static picture like this. The model sits on the right bump. Over the left bump $p$ is
# large and $q$ is tiny, so $p\log(p/q)$ is very large, and so is KL(p‖q). KL(q‖p) hardly notices
# the left bump, because $q$ is almost never there.
#
# **Predict:** gradient descent on each KL, once from a start at $\mu=-1$, once from $\mu=1$. How
# many different answers will the four runs give?

# %%
fits = {}
for name, loss in (("KL(p‖q)", forward_kl), ("KL(q‖p)", reverse_kl)):
    for start in (-1.0, 1.0):
        fits[name, start] = descend(loss, mu=start, sigma=1.0, steps=400, rate=0.1)
        mu, sigma, value = fits[name, start][-1]
        print(f"{name} from μ = {start:+.0f}: μ {mu:+.3f}, σ {sigma:.3f}, {value:.3f} nats")

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 2.9), sharey=True)
for ax, name in zip(axes, ("KL(p‖q)", "KL(q‖p)"), strict=True):
    plot.density(GRID, p, ax=ax)
    for start, line in ((-1.0, "-"), (1.0, "--")):
        mu, sigma, _ = fits[name, start][-1]
        q = log_normal(GRID, mu, sigma).exp()
        ax.plot(GRID, q, line, color=plot.FAKE, label=f"from μ = {start:+.0f}")
    ax.set(xlim=(-6, 6), ylim=(0, 0.95), xlabel="x", title=f"smallest {name}")
    ax.legend(loc="upper center", ncols=2)
axes[1].set_ylabel("")
plot.show(
    fig,
    alt="Left: descent on KL(p‖q) ends in one broad Gaussian over both bumps from either start. "
    "Right: descent on KL(q‖p) ends on the bump nearest to its start.",
)

# %% [markdown]
# **What it says.** A bump of a density is also called a *mode*. $\mathrm{KL}(p\,\|\,q)$ is
# *mode-covering*: one answer, broad, with its peak in the empty middle. $\mathrm{KL}(q\,\|\,p)$ is
# *mode-seeking*: one bump, with nearly its mean and width, and which one depends on the start. So
# ruler A was KL(p‖q) and ruler B was KL(q‖p).

# %% [markdown]
# A model of digits trained by likelihood covers: it would rather draw something between a 3 and an
# 8 than miss one of them. A model that seeks would draw threes, sharply, and forget the eights. But
# blame the family first: both faults are there only because no $q$ of the family is $p$. The blur
# comes from the family; the ruler only chooses the fault.
#
# **What it does not say.** That seeking always succeeds. One more run, from a *broad* start:

# %%
mu, sigma, value = descend(reverse_kl, mu=1.0, sigma=2.0, steps=400, rate=0.1)[-1]
print(f"KL(q‖p) from μ = +1, σ = 2: μ {mu:+.3f}, σ {sigma:.3f}, {value:.3f} nats")

# %% [markdown]
# It stays broad, at a higher KL than both answers before: a *local minimum*. To leave it, the
# Gaussian would have to become worse first. KL(p‖q) had a single minimum to find; KL(q‖p) has at
# least three here. "Mode-seeking" describes the best minimum. Gradient descent finds only a nearby
# one.
#
# There are other rulers than these two. That of a GAN is a third one (section 1.7 and
# [chapter 02](02_minimax.ipynb)).

# %% [markdown]
# Two small pieces of theory predict what descent found.
#
# *Covering.* In KL(p‖q) only $-\int p\log q$ depends on $q$: it is maximum likelihood again. With
# the mean $m$ and the variance $v$ of $p$ it is $\log\sigma+\frac{v+(m-\mu)^2}{2\sigma^2}$ plus a
# constant. The best $\mu$ is $m$. Then the slope in $\sigma$, $\frac1\sigma-\frac v{\sigma^3}$, is
# zero at $\sigma^2=v$. So the best Gaussian has the **mean and variance of** $p$.
#
# *Seeking.* If $q$ is exactly the left bump, with weight $w$ in $p$, then near it $p \approx w\,q$.
# So $\log(q/p) \approx -\log w$ wherever $q$ is, and $\mathrm{KL}(q\,\|\,p) \approx -\log w$.
# Forgetting four tenths of the data costs only about half a nat: so little that the reverse KL
# allows it.

# %%
# checkpoint: theory for both directions, against what gradient descent found
mean = (p * GRID).sum() * DX
deviation = ((p * (GRID - mean) ** 2).sum() * DX).sqrt()
for start in (-1.0, 1.0):
    found = fits["KL(p‖q)", start][-1, :2]
    torch.testing.assert_close(found, torch.stack([mean, deviation]), rtol=0, atol=1e-3)
for start, weight in ((-1.0, WEIGHT), (1.0, 1 - WEIGHT)):
    assert abs(fits["KL(q‖p)", start][-1, 2] + math.log(weight)) < 0.05
formula = math.log(0.1) + math.log(2 * math.pi * math.e) / 2  # H of N(0, 0.1²), below 0
assert abs(Normal(0.0, 0.1).entropy() - formula) < 1e-6 and formula < 0
print(f"-log {WEIGHT} = {-math.log(WEIGHT):.3f}   -log {1 - WEIGHT} = {-math.log(1 - WEIGHT):.3f}")

# %% [markdown]
# ## 1.6 Between Gaussians: closed form and Monte Carlo
#
# **Question.** Sums over a grid work in one dimension. The latent vectors of [chapter
# 08](08_vae.ipynb) have 24, an image has thousands. What then?
#
# For Gaussians there is a formula. Take $p = \mathcal N(\mu_p, \sigma_p^2)$ and
# $q = \mathcal N(\mu_q, \sigma_q^2)$. The factors $\sqrt{2\pi}$ cancel:
#
# $$\log\frac{p(x)}{q(x)} = \log\frac{\sigma_q}{\sigma_p} -
# \frac{(x-\mu_p)^2}{2\sigma_p^2} + \frac{(x-\mu_q)^2}{2\sigma_q^2}.$$
#
# Now average over $x \sim p$, term by term.

# %% [markdown]
# The second term averages to $-\tfrac12$, by the definition of variance. For the third, write
# $x - \mu_q = (x - \mu_p) + (\mu_p - \mu_q)$ and square; the mixed term averages to 0, so
# $\mathbb E_p[(x-\mu_q)^2] = \sigma_p^2 + (\mu_p-\mu_q)^2$. Together:
#
# $$\mathrm{KL}(p\,\|\,q) = \log\frac{\sigma_q}{\sigma_p} +
# \frac{\sigma_p^2 + (\mu_p-\mu_q)^2}{2\sigma_q^2} - \frac12.$$
#
# Check it in your head: equal Gaussians give $0 + \tfrac12 - \tfrac12 = 0$.

# %%
def kl_normals(mu_p, sigma_p, mu_q, sigma_q):
    square = sigma_p**2 + (mu_p - mu_q) ** 2
    return math.log(sigma_q / sigma_p) + square / (2 * sigma_q**2) - 0.5


MU_P, SIGMA_P, MU_Q, SIGMA_Q = 1.0, 0.8, 0.0, 1.5
closed_form = kl_normals(MU_P, SIGMA_P, MU_Q, SIGMA_Q)
print(f"KL(p‖q) = {closed_form:.4f} nats")

# %% [markdown]
# **The one the VAE needs.** There the second argument is the standard normal $\mathcal N(0, 1)$ in
# each of $Z$ dimensions, and the first has its own $\mu_i$ and $\sigma_i$ in dimension $i$, all
# independent. Logs of independent densities add, so their KLs add too. Put $\mu_q = 0$ and
# $\sigma_q = 1$ into the formula:
#
# $$\mathrm{KL}\big(\mathcal N(\mu, \mathrm{diag}\,\sigma^2)\,\|\,\mathcal N(0, I)\big)
# = \frac12\sum_{i=1}^{Z}\left(\mu_i^2 + \sigma_i^2 - \log\sigma_i^2 - 1\right).$$
#
# Networks give $\log\sigma^2$, called `logvar`, because any real number is allowed there. (Beware:
# [chapter 08](08_vae.ipynb) calls the first argument $q(z|x)$ and the second $p(z)$.)

# %%
mu, logvar = torch.randn(4, 24), torch.randn(4, 24)  # (B, Z): a batch of four, 24 dimensions
mine = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(dim=1)
torch.testing.assert_close(mine, divergences.kl_to_standard_normal(mu, logvar))
print("nats, one number per row:", [f"{value:.1f}" for value in mine])

# %% [markdown]
# **When there is no formula**, remember that KL is an average over $p$. So draw $x_1 \dots x_n$
# from $p$ and average:
#
# $$\widehat{\mathrm{KL}} = \frac1n\sum_{i=1}^n \left[\log p(x_i) - \log q(x_i)\right],
# \qquad \text{standard error} = \frac{s}{\sqrt n},$$
#
# where $s$ is the standard deviation of the bracket over the samples. This is a *Monte Carlo*
# estimate. It works in any dimension, if you can draw from $p$ and compute both log densities.
#
# **Predict:** you want one more correct digit, an error ten times smaller. How many times more
# samples?

# %%
def log_ratio(n):
    """log p(x) − log q(x) at n samples from p, for REPEATS runs at once: (REPEATS, n)."""
    x = MU_P + SIGMA_P * torch.randn(REPEATS, n)
    return log_normal(x, MU_P, SIGMA_P) - log_normal(x, MU_Q, SIGMA_Q)


# %%
sizes = [4**i for i in range(2, 8)]  # 16 … 16,384 samples
runs = [log_ratio(n) for n in sizes]
estimates = torch.stack([r.mean(1) for r in runs])  # (sizes, REPEATS)
errors = torch.stack([r.std(1) / n**0.5 for r, n in zip(runs, sizes, strict=True)])

# %%
fig, (ax_one, ax_two) = plt.subplots(1, 2, figsize=(8, 3))
ax_one.errorbar(sizes, estimates[:, 0], errors[:, 0], fmt="o", color=plot.THIRD, capsize=3)
ax_one.axhline(closed_form, color="0.4", linewidth=1)
ax_one.set(xscale="log", xlabel="samples n", ylabel="KL(p‖q) [nats]")
ax_one.set_title("one run, ± 1 standard error")
rms = (estimates - closed_form).square().mean(1).sqrt()
true = f"true error of {REPEATS} runs"
ax_two.loglog(sizes, rms, "o", color=plot.THIRD, markersize=10, fillstyle="none", label=true)
ax_two.loglog(sizes, errors.mean(1), "x", color=plot.FOURTH, label="standard error s/√n")
guide = rms[0] * (torch.tensor(sizes) / sizes[0]) ** -0.5
ax_two.loglog(sizes, guide, ":", color="0.5", label="slope −½")
ax_two.set(xlabel="samples n", ylabel="error [nats]")
ax_two.legend(loc="upper right")
plot.show(
    fig,
    alt="Left: Monte Carlo estimates with error bars close in on the closed form as n grows. "
    "Right, on logarithmic axes: true error and standard error agree and fall with slope −½.",
)

# %% [markdown]
# **What it says.** The error bar is honest: a standard error needs only one run, and on average
# (the crosses) it matches the true error over many runs. Both fall like $1/\sqrt n$: one digit more
# takes a hundred times the samples. In the long run about one estimate in three lies further than
# one error bar from the truth. That is no failure, it is what a standard error means. (On the left,
# by luck, none of the six does.)
#
# **What it does not say.** That the error bar guards against mistakes. It measures chance, not
# whether you averaged the right thing. Section 1.9 shows such a mistake.

# %% [markdown]
# The number of dimensions does not enter the formula (only $s$ may grow with it). Here is the first
# row of the batch above, 24 dimensions at once, with the VAE's closed form beside it:

# %%
posterior, prior = Normal(mu[0], (logvar[0] / 2).exp()), Normal(torch.zeros(24), 1)
z = posterior.sample((20_000,))  # (N, 24); log densities of independent dimensions add
estimate, error = divergences.monte_carlo_kl(
    lambda z: posterior.log_prob(z).sum(1), lambda z: prior.log_prob(z).sum(1), z
)
print(f"Monte Carlo {estimate:.3f} ± {error:.3f} nats, closed form {mine[0]:.3f} nats")

# %%
# checkpoint: three routes to one number, and Monte Carlo where no formula exists (the two bumps)
assert (estimate - mine[0]).abs() < 5 * error
torch.testing.assert_close(
    torch.tensor(closed_form), divergences.kl_gaussians(MU_P, SIGMA_P, MU_Q, SIGMA_Q)
)
by_torch = torch.distributions.kl_divergence(Normal(MU_P, SIGMA_P), Normal(MU_Q, SIGMA_Q))
torch.testing.assert_close(torch.tensor(closed_form), by_torch)
centre = torch.where(torch.rand(20_000) < WEIGHT, -CENTRE, CENTRE)  # which bump, then where
samples = centre + WIDTH * torch.randn(20_000)
both = torch.distributions.MixtureSameFamily(
    categorical(torch.tensor([WEIGHT, 1 - WEIGHT])), Normal(torch.tensor([-CENTRE, CENTRE]), WIDTH)
)
estimate, error = divergences.monte_carlo_kl(both.log_prob, Normal(0.0, 2.0).log_prob, samples)
print(f"sum over the grid {forward_kl(0.0, 2.0):.4f}, Monte Carlo {estimate:.4f} ± {error:.4f}")
assert (estimate - forward_kl(0.0, 2.0)).abs() < 5 * error

# %% [markdown]
# ## 1.7 A bounded, symmetric ruler: Jensen–Shannon
#
# **Question.** KL is not symmetric, and it can be infinite. Is there a ruler without these faults?
#
# Let $m = \tfrac12(p + q)$ be the half-and-half mixture, and compare both with *it*:
#
# $$\mathrm{JS}(p, q) = \tfrac12\mathrm{KL}(p\,\|\,m) + \tfrac12\mathrm{KL}(q\,\|\,m).$$
#
# It is symmetric. And it is bounded: $m \ge \tfrac12 p$, so $p/m \le 2$, so
# $\mathrm{KL}(p\,\|\,m) \le \log 2$, and the same for $q$. Hence $0 \le \mathrm{JS} \le \log 2$.
#
# **Predict:** two Gaussians with $\sigma = 1$, a distance $d$ apart. KL is $d^2/2$. What does JS do
# as $d$ grows?

# %%
def js(p, q):
    m = (p + q) / 2
    return (kl(p, m) + kl(q, m)) / 2


# %%
shift = torch.linspace(0, 8, 81)
fixed = log_normal(GRID, 0.0, 1.0).exp() * DX  # probabilities of the grid's cells
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(shift, shift**2 / 2, color=plot.FOURTH, label="KL(p‖q) = KL(q‖p) = d²/2")
values = [js(fixed, log_normal(GRID, d, 1.0).exp() * DX) for d in shift]
ax.plot(shift, values, color=plot.THIRD, label="JS(p, q)")
ax.axhline(math.log(2), color="0.5", linewidth=1, linestyle=":")
ax.text(0.05, math.log(2) + 0.03, "log 2", color="0.4")
ax.set(xlabel="distance d [σ]", ylabel="divergence [nats]", ylim=(0, 1.6))
ax.legend(loc="upper right")
plot.show(
    fig,
    alt="KL between two unit Gaussians grows as a parabola of their distance and leaves the "
    "figure. JS starts the same way, flatter, then levels off at log 2.",
)

# %% [markdown]
# **What it says.** Near $d = 0$ both are parabolas. Then KL goes on growing, and JS settles at
# $\log 2$.
#
# There is a game behind JS. I toss a fair coin $c$, draw $x$ from $p$ for heads or from $q$ for
# tails, and show you $x$. How many nats does $x$ tell you about the coin?
#
# Before, you know nothing: $H(c) = \log 2$. Then you see $x$. Now heads has the probability
# $u = p(x)/(p(x)+q(x))$, and the entropy of that coin is all that you still don't know. What $x$
# told you is the difference, averaged over $x\sim m$. It is called the **mutual information** of
# $c$ and $x$:
#
# $$I(c; x) = H(c) - \mathbb E_m\big[H(c\,|\,x)\big]
# = \log 2 + \mathbb E_m\big[u\log u + (1-u)\log(1-u)\big].$$

# %% [markdown]
# Since $u = p/2m$ and $1 - u = q/2m$, we have $m\,u = \tfrac12p$ and $m\,(1-u) = \tfrac12q$, so
#
# $$I(c; x) = \log 2 + \tfrac12\,\mathbb E_p\Big[\log\frac{p}{2m}\Big]
# + \tfrac12\,\mathbb E_q\Big[\log\frac{q}{2m}\Big]
# = \tfrac12\,\mathrm{KL}(p\,\|\,m) + \tfrac12\,\mathrm{KL}(q\,\|\,m) = \mathrm{JS}(p, q):$$
#
# the two halves of $-\log 2$ cancel $\log 2$. **JS is what $x$ tells about the coin.** A coin holds
# only $\log 2$ nats: there is the bound again. The player who believes $u$ is called the best
# *discriminator* in [chapter 02](02_minimax.ipynb).
#
# **What it does not say.** Bounded is not the same as better, as the next section shows.

# %%
# checkpoint: JS is what x tells about the coin, and the package agrees
one, two = fixed, log_normal(GRID, 1.5, 1.0).exp() * DX
says_p = one / (one + two)  # the best player's answer at each x
left_over = ((one + two) / 2 * divergences.entropy(torch.stack([says_p, 1 - says_p], -1))).sum()
torch.testing.assert_close(js(one, two), math.log(2) - left_over)
torch.testing.assert_close(js(one, two), divergences.js(one, two))
torch.testing.assert_close(js(one, two), js(two, one))

# %% [markdown]
# ## 1.8 When supports do not touch
#
# **Question.** A generator makes an image of hundreds of pixels from a few numbers $z$. So all its
# images together fill only a thin sheet in the space of all images, with no more dimensions than
# $z$ has. Real images, too, fill only a small part of it. Two thin sheets hardly ever share more
# than a still thinner part. What do our rulers say then?
#
# The *support* of a density is where it is not 0. Take two narrow bumps, one unit wide and
# **exactly** zero outside, a distance $d$ apart.

# %% [markdown]
# And add a ruler of another kind, the **Wasserstein-1** distance: how far must mass travel, on
# average and *on the best plan*, to turn $q$ into $p$? In one dimension, with the distribution
# functions $F_p(x)$ and $F_q(x)$, the mass left of $x$,
#
# $$W_1(p, q) = \int |F_p(x) - F_q(x)|\,dx.$$

# %%
def bump(centre):
    """Probabilities of the grid's cells for a smooth bump, one unit wide, zero outside."""
    u = GRID - centre
    return torch.where(u.abs() < 0.5, 2 * torch.cos(math.pi * u) ** 2 * DX, 0)


def w1(p, q):
    return (p.cumsum(0) - q.cumsum(0)).abs().sum() * DX


# %%
here = bump(torch.tensor(0.0))
for d in (0.0, 0.5, 1.5, 3.0):
    q = bump(torch.tensor(d))
    three = divergences.kl(here, q), divergences.js(here, q), w1(here, q)
    print(f"d = {d}: KL {three[0]:5.3f} nats, JS {three[1]:.3f} nats, W₁ {three[2]:.3f}")

# %% [markdown]
# **Predict:** a generator with a single parameter, its position $d$, starts at $d = 3$ and should
# move to 0 by gradient descent. Which of the rulers gets it there?

# %%
def slide(ruler, d=3.0, steps=90, rate=0.05):
    path = []
    for _ in range(steps):
        d = torch.tensor(float(d), requires_grad=True)
        (gradient,) = torch.autograd.grad(ruler(here, bump(d)), d)
        path.append(d.item())
        d = d.item() - rate * gradient
    return path


paths = {"JS": slide(divergences.js), "W₁": slide(w1)}

# %%
fig, (ax_one, ax_two) = plt.subplots(1, 2, figsize=(8, 3.1))
d = torch.linspace(0, 3.2, 161)
ax_one.plot(d, [divergences.js(here, bump(s)) for s in d], color=plot.THIRD, label="JS [nats]")
ax_one.plot(d, [w1(here, bump(s)) for s in d], color="C4", label="W₁ [units of x]")
ax_one.axvspan(1, 3.2, color="0.93")
ax_one.text(2.1, 0.12, "nothing in common", ha="center", color="0.35")
ax_one.text(0.15, 3.0, "KL = ∞ for every d > 0", color=plot.FOURTH)
ax_one.set(xlabel="distance d", ylabel="value", ylim=(0, 3.4), xlim=(0, 3.2))
ax_one.legend(loc="upper left", bbox_to_anchor=(0, 0.88))
for (name, path), colour in zip(paths.items(), (plot.THIRD, "C4"), strict=True):
    ax_two.plot(path, color=colour, label=f"descent on {name}")
ax_two.set(xlabel="step", ylabel="distance d", ylim=(-0.2, 3.4))
ax_two.legend(loc="lower left", bbox_to_anchor=(0, 0.12))
plot.show(
    fig,
    alt="Left: JS rises to log 2 at distance 1 and stays flat; Wasserstein-1 is the straight line "
    "d. Right: descent on JS never leaves distance 3; descent on Wasserstein-1 goes straight to 0.",
)

# %% [markdown]
# **What it says.** KL is infinite as soon as the bumps differ. From
# $d=1$ on JS is stuck at $\log 2$: it knows that they differ, not *how far*. So its slope is 0 and
# nothing moves. $W_1$ is the distance itself. Its slope is $+1$ right of 0 and $-1$ left of it,
# never small. That is why the end bounces about 0 instead of coming to rest.
# KL and JS compare probabilities *point by point* and do not know which points are neighbours.
# (Recall entropy and the swapped faces.)
#
# **What it does not say.** That GANs cannot work. A discriminator in training is smooth and not yet
# perfect, and [chapter 02](02_minimax.ipynb) changes the loss. [Chapter 06](06_mode_collapse.ipynb)
# trains with $W_1$.

# %%
# checkpoint: slopes by autograd; W1 from sorted samples agrees with W1 from the grid
d = torch.tensor(2.0, requires_grad=True)
(slope_js,) = torch.autograd.grad(divergences.js(here, bump(d)), d)
(slope_w1,) = torch.autograd.grad(w1(here, bump(d)), d)
assert slope_js.abs() < 1e-9 and (slope_w1 - 1).abs() < 0.01  # the grid is no finer
assert abs(paths["JS"][-1] - 3) < 1e-6 and abs(paths["W₁"][-1]) < 0.1
first, second = (GRID[torch.multinomial(q, 5_000, True)] for q in (here, bump(d.detach())))
assert (divergences.wasserstein1(first, second) - 2).abs() < 0.05

# %% [markdown]
# ## 1.9 Break it
#
# **First break: samples from the wrong side.** Monte Carlo for KL(p‖q) needs samples from $p$. It
# is easy to take those of the model, $q$, instead: they are at hand. Nothing crashes.
#
# **Predict:** the sign of the result, and whether the error bar gives the mistake away.

# %%
def log_p1(x):
    return log_normal(x, MU_P, SIGMA_P)


def log_q1(x):
    return log_normal(x, MU_Q, SIGMA_Q)


# %%
from_p, from_q = MU_P + SIGMA_P * torch.randn(50_000), MU_Q + SIGMA_Q * torch.randn(50_000)
good, wrong = (divergences.monte_carlo_kl(log_p1, log_q1, x) for x in (from_p, from_q))
print(f"samples from p: {good[0]:+.3f} ± {good[1]:.3f} nats   closed form {closed_form:+.3f}")
print(f"samples from q: {wrong[0]:+.3f} ± {wrong[1]:.3f} nats")

# %%
fig, ax = plt.subplots(figsize=(6, 2.9))
bins = torch.linspace(-6, 1.2, 73).numpy()
for x, colour, name in ((from_p, plot.REAL, "p (right)"), (from_q, plot.FAKE, "q (wrong)")):
    ratio = (log_p1(x) - log_q1(x)).clamp(-6, 1.2)
    ax.hist(ratio.numpy(), bins, density=True, color=colour, alpha=0.5, label=f"from {name}")
    ax.axvline((log_p1(x) - log_q1(x)).mean(), color=colour, linewidth=2)
ax.set(xlabel="log p(x) − log q(x) [nats]; values below −6 are put at −6", ylabel="density")
ax.set_title("lines: the means")
ax.legend(loc="upper left")
plot.show(
    fig,
    alt="Histograms of the log ratio. With samples from p most values are positive and so is the "
    "mean. With samples from q a long tail on the left pulls the mean below zero.",
)

# %% [markdown]
# The result is *negative*, and the error bar is tiny. A KL is never negative, so **a negative KL
# well outside its error bar is a bug**, always. What did we compute?
# $\mathbb E_q[\log p - \log q] = -\mathrm{KL}(q\,\|\,p)$: the other KL, with a minus. Not every
# such mistake is so easy to see. With the two log densities swapped as well, we would have found
# KL(q‖p): positive, correct, and not what we wanted. Then only a second route helps, such as a
# closed form on an easy case.
#
# (Single values may be negative, as the blue histogram shows. Only the mean may not.)

# %%
# checkpoint: the wrong number is minus the other KL
other = kl_normals(MU_Q, SIGMA_Q, MU_P, SIGMA_P)
print(f"minus KL(q‖p) in closed form: {-other:+.3f} nats")
assert wrong[0] < 0 and (wrong[0] + other).abs() < 5 * wrong[1]
assert (good[0] - closed_form).abs() < 5 * good[1]

# %% [markdown]
# **Second break: believing "never".** In section 1.4 we began counting at 1. Without it, a pixel
# that was paper in *all* training images of a class gets $\theta_j = 0$.
#
# **Predict:** of the new digits, priced by the model of their own class, how many cost infinitely
# much?

# %%
never = torch.stack([train[scans.labels == c].mean(0) for c in range(10)])  # plain shares
theta = never[new.labels]  # (297, 64), the model of the right class for each new digit
impossible = ((test == 1) & (theta == 0)) | ((test == 0) & (theta == 1))  # (297, 64)
hit = impossible.any(dim=1)
print(f"infinitely surprising: {hit.double().mean():.0%} of the new digits")
print(f"because of how many pixels, on average: {impossible[hit].sum(1).double().mean():.1f} of 64")

# %% [markdown]
# They are few, but one is enough to make the average infinite. And it takes only a pixel or two to
# make a perfectly ordinary digit "impossible". All this although the *training* images were priced
# better than with the extra counts.
#
# KL compares point by point: that pixel was never ink, so its price is infinite, even if both its
# neighbours were. But "never seen" does not mean "can't be". So every likelihood in this course is
# built so that it can't say never: logits instead of probabilities, a $\sigma$ that stays positive.

# %%
# checkpoint: without the extra counts training images look cheaper, new ones cost infinitely much
own = never[scans.labels]
assert not ((train == 1) & (own == 0)).any()  # on its own training images it is never caught
fitted = torch.xlogy(train, own) + torch.xlogy(1 - train, 1 - own)  # 0·log 0 = 0
smooth = torch.stack([code_length(train, m) for m in models], 1)
smooth = smooth.gather(1, scans.labels[:, None]).mean()
print(f"training images: {-fitted.sum(1).mean():.2f} nats without, {smooth:.2f} with extra counts")
assert -fitted.sum(1).mean() < smooth and hit.any()

# %% [markdown]
# ## Exercises
#
# [Five functions to write](../exercises/01_kl_divergence.ipynb), each with a check that says what
# is not right yet:
#
# 1. `kl`: for batches, with $0\log 0 = 0$, infinity where it belongs, and no `nan` in the gradient.
# 2. `js`: the mixture, and the ceiling at $\log 2$.
# 3. `kl_diagonal_gaussians`: the closed form in many dimensions, which every VAE needs.
# 4. `kl_from_logits`: a repair. A loss that shrinks with the number of classes.
# 5. `wasserstein1`: samples of different sizes, by the area between two staircases.
#
# To try at once: fit a Gaussian to the two bumps by JS. Is it covering or seeking? How does the
# answer change as the bumps move apart?

# %% [markdown]
# ## Recap
#
# - Surprise is $-\log p$; its average is the entropy; with a wrong belief $q$ you pay
#   $\mathrm{KL}(p\,\|\,q)$ on top. We count in nats.
# - The negative log-likelihood per sample and $\mathrm{KL}(p_\text{data}\,\|\,p_\theta)$ differ by
#   a constant: maximum likelihood minimises that KL.
# - $\mathrm{KL}(p\,\|\,q)$ covers all modes, $\mathrm{KL}(q\,\|\,p)$ seeks one. Order matters.
# - Between Gaussians KL has a closed form (the VAE's term is one line). Elsewhere Monte Carlo gives
#   it with an honest $1/\sqrt n$ error, if the samples come from the first argument.
# - JS is symmetric and at most $\log 2$. Where supports do not touch, KL is infinite, JS is flat,
#   and $W_1$ still says how far.

# %% [markdown]
# ## References
#
# - Shannon 1948, *A Mathematical Theory of Communication*: entropy, and why a logarithm. We use
#   nats, not bits.
# - Kullback & Leibler 1951, *On Information and Sufficiency*. They call the *sum* of both
#   directions "divergence"; we mean one direction.
# - Lin 1991, *Divergence Measures Based on the Shannon Entropy*: JS. Its bound is 1 bit there,
#   $\log 2$ nats here.
# - Minka 2005, *Divergence Measures and Message Passing*: the two directions, for inference. We fit
#   by gradient descent.
# - Kingma & Welling 2014, [arXiv:1312.6114](https://arxiv.org/abs/1312.6114), appendix B states
#   $-\mathrm{KL}$; we give the KL.
# - Arjovsky, Chintala & Bottou 2017, [arXiv:1701.07875](https://arxiv.org/abs/1701.07875): parallel
#   lines. Our bumps have a width, so JS goes flat before your eyes.
#
# Next: [chapter 02](02_minimax.ipynb), where a network learns to measure JS.
