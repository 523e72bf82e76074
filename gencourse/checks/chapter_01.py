"""Chapter 01: the exercises on divergences, their references, and the mistakes people make."""

import math

import torch
from torch.nn import functional as F

from gencourse import divergences
from gencourse.checks.core import Exercise, normals

STEM = "01_kl_divergence"
OUTCOMES = 3_000


def probabilities(rng, *shape):
    """Random distributions over the last dimension."""
    return normals(rng, *shape).softmax(-1)


def pairs(rng):
    """p, q for arrays, batches, a batch of one, one outcome, thousands of them, and zeros."""
    sizes = [(5,), (3, 4), (1, 2), (2, 3, 4), (2, 1)]
    drawn = [{"p": probabilities(rng, *s), "q": probabilities(rng, *s)} for s in sizes]
    peaked = normals(rng, OUTCOMES) / 10
    peaked[0] = 8.5  # almost two thirds of the mass, so that KL is about 1
    many = {"p": torch.full((OUTCOMES,), 1 / OUTCOMES), "q": peaked.softmax(-1)}
    zeros = [([0.5, 0.5, 0.0], [0.25, 0.5, 0.25]),
             ([0.5, 0.5, 0.0, 0.0], [0.25, 0.75, 0.0, 0.0])]
    return [*drawn, many, *map(pair, zeros)]


def pair(both, dtype=torch.float32):
    p, q = both
    return {"p": torch.tensor(p, dtype=dtype), "q": torch.tensor(q, dtype=dtype)}


# --- 1.1 ------------------------------------------------------------------------------------------

kl = Exercise(
    "kl",
    level="warm-up",
    minutes=10,
    tests="arrays, batches and 3,000 outcomes, in nats; zeros in p, in q and in both, and numbers "
    "that are nearly zero; the gradient in q.",
    hint="Σ p·log(p/q) over the last dimension; where p = 0 nothing is added, whatever q is.",
    gradient=("q",),
    simplex=("q",),
)


@kl.cases
def pairs_and_infinities(rng):
    """Where q is 0, p is so small that every ε gives the same finite number, and is recognised."""
    near = [(torch.float32, 1e-40, 1e-20, 1e-30), (torch.float64, 1e-300, 1e-100, 1e-200)]
    infinite = [pair(([[0.5, 0.5, least], [0.5, 0.5, little]],
                      [[0.25, 0.75, 0.0], [0.25, 0.75, less]]), dtype)
                for dtype, least, little, less in near]
    return [*pairs(rng), *infinite]


kl.reference(divergences.kl)


@kl.wrong("Your result equals KL(q‖p): the arguments are swapped.")
def swapped(p, q):
    return divergences.kl(q, p)


@kl.wrong("The sign is turned: KL is never negative, and yours is never positive.")
def negative(p, q):
    return -divergences.kl(p, q)


@kl.wrong("Your result is in bits: here everything is in nats, so use `log` and not `log2`.")
def in_bits(p, q):
    return divergences.kl(p, q) / math.log(2)


@kl.wrong("You add up the log-ratios alone: each outcome counts with its probability p.")
def not_weighted(p, q):
    return torch.where(p > 0, p.log() - q.log(), 0).sum(-1)


@kl.wrong("The log-ratios are weighted with q; the expectation is under p.")
def weighted_with_q(p, q):
    return -divergences.kl(q, p)


@kl.wrong("You take the mean over the outcomes: the expectation under p is a sum weighted by p.")
def mean_over_outcomes(p, q):
    return divergences.kl(p, q) / p.shape[-1]


@kl.wrong("You take one mean over all entries, as `F.kl_div` does if nothing else is asked for: "
          "add up over the last dimension, and leave the others alone.")
def mean_over_everything(p, q):
    return divergences.kl(p, q).mean() / p.shape[-1]


@kl.wrong("Your result is the cross-entropy H(p, q): the entropy H(p) is still to be taken off.")
def cross_entropy(p, q):
    return divergences.cross_entropy(p, q)


@kl.wrong("Yours is KL(p‖q) + KL(q‖p), which is symmetric; asked for is the first alone.")
def both_directions(p, q):
    return divergences.kl(p, q) + divergences.kl(q, p)


@kl.wrong("You sum over the batch as well: only the last dimension holds one distribution.")
def summed_over_batch(p, q):
    return divergences.kl(p, q).sum()


@kl.wrong("You sum over the first dimension: one distribution lies along the *last* one.")
def summed_over_the_first(p, q):
    return divergences._kl(p.movedim(0, -1), q.movedim(0, -1))


@kl.wrong("An outcome with p = 0 gives nan: 0·log 0 counts as 0.")
def nan_at_zero(p, q):
    return (p * (p / q).log()).sum(-1)


@kl.wrong(
    "The values are right, but at p = 0 the gradient is nan: what `torch.where`, a mask or "
    "`nansum` throws away is computed all the same, and the backward pass meets the log of 0 there."
)
def nan_behind_where(p, q):
    return torch.where(p > 0, p * (p / q).log(), 0).sum(-1)


@kl.wrong(
    "Where q = 0 < p, KL is infinite, however small p is: a small ε, a clamp or a mask hides that."
)
def hidden_infinity(p, q):
    return (p * ((p + 1e-12) / (q + 1e-12)).log()).sum(-1)


@kl.wrong(
    "Where q = 0 < p, KL is infinite; an ε of about 1e-7 hides that, and where there are thousands "
    "of outcomes it is not even small."
)
def hidden_by_a_larger_epsilon(p, q):
    return (p * ((p + 1e-12) / (q + 1e-7)).log()).sum(-1)


@kl.wrong("Outcomes with a small p are left out: where there are thousands, that may be all.")
def small_left_out(p, q):
    return divergences._kl(torch.where(p > 1e-3, p, 0), q)


# --- 1.2 ------------------------------------------------------------------------------------------

js = Exercise(
    "js",
    level="warm-up",
    minutes=10,
    tests="arrays, batches and 3,000 outcomes; zeros, and two distributions with nothing in common "
    "(log 2).",
    hint="First the mixture m = (p + q)/2, then half of each KL *to* m.",
)


@js.cases
def pairs_that_hardly_meet(rng):
    disjoint = [([0.5, 0.5, 0.0], [0.0, 0.5, 0.5]), ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0])]
    far = [[1.0, 1e-40], [0.25, 0.75]], [[1e-40, 1.0], [0.25, 0.75]]
    return [*pairs(rng), *map(pair, disjoint), pair(far)]


js.reference(divergences.js)


@js.wrong("Both KL terms count half: yours is twice the JS divergence (at most 2 log 2).")
def not_halved(p, q):
    return 2 * divergences.js(p, q)


@js.wrong("Only the second KL term is halved: each counts half, so mind the brackets.")
def second_alone_halved(p, q):
    m = (p + q) / 2
    return divergences.kl(p, m) + divergences.kl(q, m) / 2


@js.wrong("Only the first KL term is halved: each counts half, so mind the brackets.")
def first_alone_halved(p, q):
    m = (p + q) / 2
    return divergences.kl(p, m) / 2 + divergences.kl(q, m)


@js.wrong("The sign is turned: JS lies between 0 and log 2.")
def js_negative(p, q):
    return -divergences.js(p, q)


@js.wrong("Your result is in bits: here everything is in nats, so use `log` and not `log2`.")
def js_in_bits(p, q):
    return divergences.js(p, q) / math.log(2)


@js.wrong("The mixture is (p + q)/2; with p + q it does not sum to 1.")
def mixture_not_halved(p, q):
    return divergences.js(p, q) - math.log(2)


@js.wrong("You average KL(p‖q) and KL(q‖p): that is symmetric too, but infinite at zeros.")
def average_of_directions(p, q):
    return (divergences.kl(p, q) + divergences.kl(q, p)) / 2


@js.wrong("The arguments are swapped: KL(p‖m) asks how surprised m is by p, not p by m.")
def from_the_mixture(p, q):
    m = (p + q) / 2
    return (divergences.kl(m, p) + divergences.kl(m, q)) / 2


@js.wrong("Only p is compared with the mixture: q, too, has a KL to m, and each counts half.")
def one_side(p, q):
    return divergences.kl(p, (p + q) / 2)


@js.wrong("Your result is the square root, the JS *distance*; the divergence is its square.")
def distance(p, q):
    return divergences.js(p, q).clamp(min=0).sqrt()


@js.wrong("An outcome with p = 0 or q = 0 gives nan: 0·log 0 counts as 0.")
def js_nan_at_zero(p, q):
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2


@js.wrong("You take the mean over the outcomes: each KL is a *sum* over them.")
def js_mean_over_outcomes(p, q):
    return divergences.js(p, q) / p.shape[-1]


@js.wrong("You sum over the batch as well: only the last dimension holds one distribution.")
def js_summed_over_batch(p, q):
    return divergences.js(p, q).sum()


@js.wrong("Outcomes with a small p are left out: where there are thousands, that may be all.")
def js_small_left_out(p, q):
    m = (p + q) / 2
    return sum(divergences._kl(torch.where(x > 1e-3, x, 0), m) for x in (p, q)) / 2


# --- 1.3 ------------------------------------------------------------------------------------------

kl_diagonal_gaussians = Exercise(
    "kl_diagonal_gaussians",
    level="core",
    minutes=20,
    tests="batches in 1 to 300 dimensions, narrow and wide clouds, two that are the same, and "
    "gradients in all four.",
    hint="Independent coordinates: the log-ratio of the densities is a sum, and so is the KL.",
    gradient=("mu_p", "logvar_p", "mu_q", "logvar_q"),
)
GAUSSIANS = ("mu_p", "logvar_p", "mu_q", "logvar_q")


@kl_diagonal_gaussians.cases
def gaussians(rng):
    shapes = [(4, 3, 1), (1, 1, 1), (2, 24, 1), (3, 2, 3), (2, 300, 1)]
    drawn = [{k: (width * normals(rng, n, d)).clamp(-40, 40) for k in GAUSSIANS}
             for n, d, width in shapes]  # e^88 is the last that float32 holds
    mu, logvar = normals(rng, 3, 4), normals(rng, 3, 4)
    same = dict(zip(GAUSSIANS, (mu, logvar, mu.clone(), logvar.clone()), strict=True))
    return [*drawn, same]


@kl_diagonal_gaussians.reference
def closed_form(mu_p, logvar_p, mu_q, logvar_q):
    squares = (logvar_p.exp() + (mu_p - mu_q).square()) / logvar_q.exp()
    return 0.5 * (logvar_q - logvar_p + squares - 1).sum(-1)


@kl_diagonal_gaussians.wrong("Your result equals KL(q‖p): the arguments are swapped.")
def gaussians_swapped(mu_p, logvar_p, mu_q, logvar_q):
    return closed_form(mu_q, logvar_q, mu_p, logvar_p)


@kl_diagonal_gaussians.wrong("You read logvar as log σ; it is log σ², so σ = exp(logvar / 2).")
def logvar_as_log_sigma(mu_p, logvar_p, mu_q, logvar_q):
    return closed_form(mu_p, 2 * logvar_p, mu_q, 2 * logvar_q)


@kl_diagonal_gaussians.wrong("You average over the dimensions: KL *adds up* over independent ones.")
def mean_over_dimensions(mu_p, logvar_p, mu_q, logvar_q):
    return closed_form(mu_p, logvar_p, mu_q, logvar_q) / mu_p.shape[-1]


@kl_diagonal_gaussians.wrong(
    "Each dimension takes off its own ½: you do it once for all of them (or only in one dimension)."
)
def one_half_in_all(mu_p, logvar_p, mu_q, logvar_q):
    return closed_form(mu_p, logvar_p, mu_q, logvar_q) + (mu_p.shape[-1] - 1) / 2


@kl_diagonal_gaussians.wrong(
    "The −½ of each dimension is missing: for p = q the result must be exactly 0."
)
def half_missing(mu_p, logvar_p, mu_q, logvar_q):
    return closed_form(mu_p, logvar_p, mu_q, logvar_q) + mu_p.shape[-1] / 2


@kl_diagonal_gaussians.wrong(
    "Yours is twice too large: each term has a factor ½, as in one dimension."
)
def factor_forgotten(mu_p, logvar_p, mu_q, logvar_q):
    return 2 * closed_form(mu_p, logvar_p, mu_q, logvar_q)


@kl_diagonal_gaussians.wrong(
    "You leave out q: this is the KL to N(0, I), which a VAE uses. Here q has a place and a width."
)
def to_the_standard_normal(mu_p, logvar_p, mu_q, logvar_q):
    return divergences.kl_to_standard_normal(mu_p, logvar_p)


@kl_diagonal_gaussians.wrong("You average over the batch: return one number for each pair.")
def mean_over_batch(mu_p, logvar_p, mu_q, logvar_q):
    return closed_form(mu_p, logvar_p, mu_q, logvar_q).mean()


@kl_diagonal_gaussians.wrong("You add up the batch: return one number for each pair.")
def sum_over_batch(mu_p, logvar_p, mu_q, logvar_q):
    return closed_form(mu_p, logvar_p, mu_q, logvar_q).sum()


@kl_diagonal_gaussians.wrong(
    "The distance of the means is measured in widths of q, and it is squared: divide it by σ_q², "
    "not by σ_q."
)
def distance_over_sigma(mu_p, logvar_p, mu_q, logvar_q):
    right = closed_form(mu_p, logvar_p, mu_q, logvar_q)
    squares, sigma_q = (mu_p - mu_q).square(), (logvar_q / 2).exp()
    return right + 0.5 * (squares / sigma_q - squares / sigma_q.square()).sum(-1)


@kl_diagonal_gaussians.wrong(
    "The squared distance of the means is divided by p's variance; q is the one that is surprised."
)
def distance_in_widths_of_p(mu_p, logvar_p, mu_q, logvar_q):
    right, squares = closed_form(mu_p, logvar_p, mu_q, logvar_q), (mu_p - mu_q).square()
    return right + 0.5 * (squares / logvar_p.exp() - squares / logvar_q.exp()).sum(-1)


@kl_diagonal_gaussians.wrong("The means are left out: two clouds in different places differ, too.")
def means_left_out(mu_p, logvar_p, mu_q, logvar_q):
    return closed_form(mu_p, logvar_p, mu_p, logvar_q)


@kl_diagonal_gaussians.wrong(
    "You divide by log σ_q² itself: the variance is its exponential, `logvar_q.exp()`."
)
def divided_by_the_logarithm(mu_p, logvar_p, mu_q, logvar_q):
    squares = (logvar_p.exp() + (mu_p - mu_q).square()) / logvar_q
    return 0.5 * (logvar_q - logvar_p + squares - 1).sum(-1)


@kl_diagonal_gaussians.wrong("The squares are not divided by q's variance, their unit.")
def not_in_widths(mu_p, logvar_p, mu_q, logvar_q):
    squares = logvar_p.exp() + (mu_p - mu_q).square()
    return 0.5 * (logvar_q - logvar_p + squares - 1).sum(-1)


@kl_diagonal_gaussians.wrong("The sign is turned: KL is never negative.")
def gaussians_negative(mu_p, logvar_p, mu_q, logvar_q):
    return -closed_form(mu_p, logvar_p, mu_q, logvar_q)


@kl_diagonal_gaussians.wrong("The distance of the means is not squared.")
def distance_not_squared(mu_p, logvar_p, mu_q, logvar_q):
    right, apart = closed_form(mu_p, logvar_p, mu_q, logvar_q), mu_p - mu_q
    return right + 0.5 * ((apart - apart.square()) / logvar_q.exp()).sum(-1)


@kl_diagonal_gaussians.wrong("The ratio of the variances is upside down: it is σ_p²/σ_q².")
def ratio_upside_down(mu_p, logvar_p, mu_q, logvar_q):
    right, apart = closed_form(mu_p, logvar_p, mu_q, logvar_q), logvar_p - logvar_q
    return right + 0.5 * ((-apart).exp() - apart.exp()).sum(-1)


@kl_diagonal_gaussians.wrong("The log term has the wrong sign: it is log σ_q − log σ_p.")
def sign_of_the_log(mu_p, logvar_p, mu_q, logvar_q):
    return closed_form(mu_p, logvar_p, mu_q, logvar_q) + (logvar_p - logvar_q).sum(-1)


# --- 1.4 ------------------------------------------------------------------------------------------

kl_from_logits = Exercise(
    "kl_from_logits",
    level="core",
    minutes=15,
    tests="KL(p‖q) as a mean over the batch, for 2 to 3,000 classes, with logits of ±1000.",
    hint="Read what `F.kl_div` says of its first argument, of its order, and of `reduction`.",
    gradient=("q_logits",),
)


@kl_from_logits.cases
def logits(rng):
    sizes = [(4, 3), (1, 2), (8, 50), (2, OUTCOMES)]
    drawn = [{k: normals(rng, *size) for k in ("p_logits", "q_logits")} for size in sizes]
    # The class that q rules out is rare under p: whatever ε cuts log q off, the number is the same.
    for far, dtype in [(200.0, torch.float32), (1000.0, torch.float32), (1000.0, torch.float64)]:
        p, q = [[far, far - 11.5, -far]], [[far - 5, -far, far]]
        drawn.append({"p_logits": torch.tensor(p, dtype=dtype),
                      "q_logits": torch.tensor(q, dtype=dtype)})
    rows = zip(*(d.values() for d in drawn[-3:-1]), strict=True)
    together = [torch.cat([*row, normals(rng, 2, 3)]) for row in rows]
    return [*drawn, dict(zip(("p_logits", "q_logits"), together, strict=True))]


@kl_from_logits.reference
def batchmean(p_logits, q_logits):
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


@kl_from_logits.wrong(
    "This is still the broken program. Its value differs from KL(p‖q) for two reasons: try two "
    "distributions for which you know the answer."
)
def broken(p_logits, q_logits):
    return batchmean(q_logits, p_logits) / p_logits.shape[-1]


@kl_from_logits.wrong(
    "The order is right now. But the result shrinks with the number of classes: `mean` divides by "
    "all B·K entries, and KL is a sum over the K."
)
def mean_of_entries(p_logits, q_logits):
    return batchmean(p_logits, q_logits) / p_logits.shape[-1]


@kl_from_logits.wrong(
    "The reduction is right now. But this is KL(q‖p): `F.kl_div(input, target)` gives KL(target‖"
    "input), the opposite of the order on paper."
)
def still_swapped(p_logits, q_logits):
    return batchmean(q_logits, p_logits)


@kl_from_logits.wrong(
    "Logits far out give nan or inf: `softmax` rounds to 0 before the logarithm. Take "
    "`log_softmax`, in one step."
)
def log_of_softmax(p_logits, q_logits):
    p, q = p_logits.softmax(-1), q_logits.softmax(-1)
    return (p * (p / q).log()).sum(-1).mean()


@kl_from_logits.wrong(
    "The logarithm of a negative number is nan, and log p is negative. `F.kl_div` takes log p as "
    "its target only with `log_target=True`."
)
def log_target_forgotten(p_logits, q_logits):
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return F.kl_div(log_q, log_p, reduction="batchmean")


@kl_from_logits.wrong(
    "A small ε, or a clamp, stops the logarithm long before logits of ±200 do. `log_softmax` needs "
    "none: it is exact."
)
def stopped_by_epsilon(p_logits, q_logits):
    log_p, log_q = ((x.softmax(-1) + 1e-10).log() for x in (p_logits, q_logits))
    return (p_logits.softmax(-1) * (log_p - log_q)).sum(-1).mean()


@kl_from_logits.wrong("The sign is turned: KL is never negative, and yours is never positive.")
def negated(p_logits, q_logits):
    return -batchmean(p_logits, q_logits)


@kl_from_logits.wrong(
    "Your result is the cross-entropy: p's own entropy is still to be taken off. For the same "
    "logits twice the result is 0."
)
def entropy_kept(p_logits, q_logits):
    return F.cross_entropy(q_logits, p_logits.softmax(-1))


@kl_from_logits.wrong("The classes lie along the last dimension; your softmax runs over the batch.")
def softmax_over_the_batch(p_logits, q_logits):
    return batchmean(p_logits.T, q_logits.T) * p_logits.shape[1] / len(p_logits)


@kl_from_logits.wrong("You return one number for each row; the loss is their mean.")
def one_for_each_row(p_logits, q_logits):
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@kl_from_logits.wrong("This is the sum over the batch; losses are a mean over it.")
def summed(p_logits, q_logits):
    return batchmean(p_logits, q_logits) * len(p_logits)


@kl_from_logits.wrong("`F.kl_div` wants the *log* of its first argument; you give probabilities.")
def log_forgotten(p_logits, q_logits):
    return F.kl_div(q_logits.softmax(-1), p_logits.softmax(-1), reduction="batchmean")


# --- 1.5 ------------------------------------------------------------------------------------------

wasserstein1 = Exercise(
    "wasserstein1",
    level="stretch",
    minutes=30,
    tests="unsorted samples, many ties, one point against many, and samples of different sizes, "
    "up to 300 points.",
    hint="W₁ is the area between the two distribution functions, which are flat between samples.",
)


@wasserstein1.cases
def samples(rng):
    sizes = [(6, 6), (5, 8), (1, 4), (7, 2), (1, 1), (300, 200), (4, 8)]
    drawn = [{"x": normals(rng, n), "y": 2 * normals(rng, m) + 1} for n, m in sizes]
    rounded = [{"x": normals(rng, n).round(), "y": normals(rng, m).round()}
               for n, m in [(12, 12), (9, 12)]]
    fixed = [([0.0, 0.0, 1.0], [1.0, 0.0]), ([3.0, 1.0, 2.0], [0.0, -1.0]),
             ([2000.0, 10.0, 500.0], [20.0, 3000.0, 0.0])]
    return [*drawn, *rounded, *({"x": torch.tensor(x), "y": torch.tensor(y)} for x, y in fixed)]


def step_functions(x, y, right=True):
    """|F_x − F_y| on each interval between neighbouring samples, and the intervals' lengths."""
    x, y = x.sort().values, y.sort().values
    steps = torch.cat([x, y]).sort().values
    left = steps[:-1].contiguous()
    f, g = (torch.searchsorted(v, left, right=right) / len(v) for v in (x, y))
    return (f - g).abs(), steps.diff()


@wasserstein1.reference
def area(x, y):
    heights, lengths = step_functions(x, y)
    return (heights * lengths).sum()


@wasserstein1.wrong("The samples are paired in the order they came: sort both first.")
def unsorted(x, y):
    n = min(len(x), len(y))
    return (x[:n] - y[:n]).abs().mean()


@wasserstein1.wrong(
    "The samples are paired in the order they came, where they can be paired at all: sort both "
    "first, and let N and M differ."
)
def unsorted_uncut(x, y):
    return (x - y).abs().mean()


@wasserstein1.wrong(
    "For samples of different sizes you leave out those that are left over: each point of x weighs "
    "1/N and each of y 1/M, and all of the weight must move."
)
def cut_to_the_shorter(x, y):
    n = min(len(x), len(y))
    return (x.sort().values[:n] - y.sort().values[:n]).abs().mean()


@wasserstein1.wrong("You square the distances: that is W₂², and W₁ takes their absolute value.")
def squared(x, y):
    n = len(x) * len(y)
    x, y = x.repeat_interleave(n // len(x)), y.repeat_interleave(n // len(y))
    return (x.sort().values - y.sort().values).square().mean()


@wasserstein1.wrong("This is the distance of the means: it is 0 for many pairs that differ.")
def distance_of_means(x, y):
    return (x.mean() - y.mean()).abs()


@wasserstein1.wrong("You square |F_x − F_y|: W₁ is the area between the two, not of the square.")
def squared_heights(x, y):
    heights, lengths = step_functions(x, y)
    return (heights.square() * lengths).sum()


@wasserstein1.wrong("F_x and F_y count points; each of x weighs 1/N, of y 1/M, so they end at 1.")
def counts_for_shares(x, y):
    steps = torch.cat([x, y]).sort().values
    f, g = ((v[:, None] <= steps[:-1]).sum(0) for v in (x, y))
    return ((f - g).abs() * steps.diff()).sum()


@wasserstein1.wrong("The areas cancel where F_x and F_y cross: it is |F_x − F_y| that is added up.")
def signed_area(x, y):
    return y.mean() - x.mean()


@wasserstein1.wrong("This is W₂, the root of the mean *square*; W₁ takes the mean distance itself.")
def root_of_squares(x, y):
    return squared(x, y).sqrt()


@wasserstein1.wrong("You add the distances up: each point weighs 1/N, so it is their mean.")
def summed_distances(x, y):
    return area(x, y) * max(len(x), len(y))


@wasserstein1.wrong("This is the mean over all pairs; each point moves to one place, the nearest "
                    "that all of them together allow.")
def mean_over_pairs(x, y):
    return (x[:, None] - y).abs().mean()


@wasserstein1.wrong("|F_x − F_y| is a height: each counts with its interval's length.")
def lengths_forgotten(x, y):
    return step_functions(x, y)[0].sum()


@wasserstein1.wrong("You take the mean height |F_x − F_y|; the area is height times length.")
def mean_height(x, y):
    return step_functions(x, y)[0].mean()


@wasserstein1.wrong(
    "On the interval right of a sample, F_x has counted that sample already: the points *at or* "
    "left of it (`right=True`)."
)
def counted_too_late(x, y):
    heights, lengths = step_functions(x, y, right=False)
    return (heights * lengths).sum()


@wasserstein1.wrong("This is the largest distance that anything moves; W₁ is the mean.")
def largest_move(x, y):
    n = len(x) * len(y)
    x, y = x.repeat_interleave(n // len(x)), y.repeat_interleave(n // len(y))
    return (x.sort().values - y.sort().values).abs().max()
