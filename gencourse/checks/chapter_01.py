"""Chapter 01: the exercises on divergences, their references, and the mistakes people make."""

import torch
from torch.nn import functional as F

from gencourse import divergences
from gencourse.checks.core import Exercise, normals

STEM = "01_kl_divergence"


def probabilities(rng, *shape):
    """Random distributions over the last dimension."""
    return normals(rng, *shape).softmax(-1)


def pairs(rng):
    """p, q for two arrays, for batches, a batch of one, zeros, and with nothing in common."""
    half = torch.tensor([0.5, 0.5, 0.0])
    third = torch.tensor([0.25, 0.5, 0.25])
    sizes = [(5,), (3, 4), (1, 2)]
    drawn = [{"p": probabilities(rng, *s), "q": probabilities(rng, *s)} for s in sizes]
    both = [[0.5, 0.5, 0.0, 0.0], [0.25, 0.75, 0.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    both = [dict(zip("pq", torch.tensor(x), strict=True)) for x in both]
    return [*drawn, {"p": half, "q": third}, {"p": half.clone(), "q": half.flip(-1)}, *both]


# --- 1.1 ------------------------------------------------------------------------------------------

kl = Exercise(
    "kl",
    level="warm-up",
    minutes=10,
    tests="arrays and batches, in nats; zeros in p, in q and in both; the gradient in q.",
    hint="Σ p·log(p/q) over the last dimension; where p = 0 nothing is added, whatever q is.",
    gradient=("q",),
    simplex=("q",),
)
kl.cases(pairs)
kl.reference(divergences.kl)


@kl.wrong("Your result equals KL(q‖p): the arguments are swapped.")
def swapped(p, q):
    return divergences.kl(q, p)


@kl.wrong("Your result is in bits: here everything is in nats, so use `log` and not `log2`.")
def in_bits(p, q):
    return torch.where(p > 0, p * (p.clamp(min=1e-300) / q).log2(), 0).sum(-1)


@kl.wrong("You take the mean over the outcomes: the expectation under p is a sum weighted by p.")
def mean_over_outcomes(p, q):
    return divergences.kl(p, q) / p.shape[-1]


@kl.wrong("Your result is the cross-entropy H(p, q): the entropy H(p) is still to be taken off.")
def cross_entropy(p, q):
    return divergences.cross_entropy(p, q)


@kl.wrong("You sum over the batch as well: only the last dimension holds one distribution.")
def summed_over_batch(p, q):
    return divergences.kl(p, q).sum()


@kl.wrong("An outcome with p = 0 gives nan: 0·log 0 counts as 0.")
def nan_at_zero(p, q):
    return (p * (p / q).log()).sum(-1)


@kl.wrong(
    "The values are right, but at p = 0 the gradient is nan: `torch.where` computes both sides, "
    "and the backward pass meets the log of 0 on the side that is not used."
)
def nan_behind_where(p, q):
    return torch.where(p > 0, p * (p / q).log(), 0).sum(-1)


@kl.wrong("Where q = 0 < p, KL is infinite; a small ε added to the probabilities hides that.")
def hidden_infinity(p, q):
    return (p * ((p + 1e-12) / (q + 1e-12)).log()).sum(-1)


# --- 1.2 ------------------------------------------------------------------------------------------

js = Exercise(
    "js",
    level="warm-up",
    minutes=10,
    tests="arrays and batches, zeros, and two distributions with nothing in common (log 2).",
    hint="First the mixture m = (p + q)/2, then half of each KL *to* m.",
)
js.cases(pairs)
js.reference(divergences.js)


@js.wrong("Both KL terms count half: yours is twice the JS divergence (at most 2 log 2).")
def not_halved(p, q):
    return 2 * divergences.js(p, q)


@js.wrong("Your result is in bits: here everything is in nats, so use `log` and not `log2`.")
def js_in_bits(p, q):
    return divergences.js(p, q) / torch.tensor(2.0).log()


@js.wrong("The mixture is (p + q)/2; with p + q it does not sum to 1.")
def mixture_not_halved(p, q):
    return divergences.js(p, q) - torch.tensor(2.0).log()


@js.wrong("You average KL(p‖q) and KL(q‖p): that is symmetric too, but infinite at zeros.")
def average_of_directions(p, q):
    return (divergences.kl(p, q) + divergences.kl(q, p)) / 2


@js.wrong("The arguments are swapped: KL(p‖m) asks how surprised m is by p, not p by m.")
def from_the_mixture(p, q):
    m = (p + q) / 2
    return (divergences.kl(m, p) + divergences.kl(m, q)) / 2


@js.wrong("Your result is the square root, the JS *distance*; the divergence is its square.")
def distance(p, q):
    return divergences.js(p, q).clamp(min=0).sqrt()


# --- 1.3 ------------------------------------------------------------------------------------------

kl_diagonal_gaussians = Exercise(
    "kl_diagonal_gaussians",
    level="core",
    minutes=20,
    tests="batches in 1, 3 and 24 dimensions, against the closed form, with gradients in all four.",
    hint="Independent coordinates: the log-ratio of the densities is a sum, and so is the KL.",
    gradient=("mu_p", "logvar_p", "mu_q", "logvar_q"),
)
GAUSSIANS = ("mu_p", "logvar_p", "mu_q", "logvar_q")


@kl_diagonal_gaussians.cases
def gaussians(rng):
    return [{k: normals(rng, *shape) for k in GAUSSIANS} for shape in [(4, 3), (1, 1), (2, 24)]]


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


@kl_diagonal_gaussians.wrong("The log term has the wrong sign: it is log σ_q − log σ_p.")
def sign_of_the_log(mu_p, logvar_p, mu_q, logvar_q):
    return closed_form(mu_p, logvar_p, mu_q, logvar_q) + (logvar_p - logvar_q).sum(-1)


# --- 1.4 ------------------------------------------------------------------------------------------

kl_from_logits = Exercise(
    "kl_from_logits",
    level="core",
    minutes=15,
    tests="KL(p‖q) as a mean over the batch, for 2 to 50 classes, with logits of ±200.",
    hint="Read what `F.kl_div` says of its first argument, of its order, and of `reduction`.",
    gradient=("q_logits",),
)


@kl_from_logits.cases
def logits(rng):
    drawn = [{"p_logits": normals(rng, b, k), "q_logits": normals(rng, b, k)}
             for b, k in [(4, 3), (1, 2), (8, 50)]]
    extreme = torch.tensor([[200.0, -200.0, 0.0]], dtype=torch.float64)
    return [*drawn, *({"p_logits": x, "q_logits": x.flip(-1)} for x in (extreme, extreme.float()))]


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
    "Logits of ±200 give nan or inf in 32 bits: `softmax` rounds to 0 before the logarithm. Take "
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
    tests="unsorted samples, ties, one point against many, and samples of different sizes.",
    hint="W₁ is the area between the two distribution functions, which are flat between samples.",
)


@wasserstein1.cases
def samples(rng):
    sizes = [(6, 6), (5, 8), (1, 4), (7, 2)]
    drawn = [{"x": normals(rng, n), "y": 2 * normals(rng, m) + 1} for n, m in sizes]
    ties = torch.tensor([0.0, 0.0, 1.0])
    return [*drawn, {"x": ties, "y": torch.tensor([1.0, 0.0])}]


wasserstein1.reference(divergences.wasserstein1)


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
