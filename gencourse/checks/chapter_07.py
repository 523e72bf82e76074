"""Chapter 07: the exercises on evaluation, their references, and the mistakes people make."""

import math

import torch

from gencourse.checks.core import Exercise, normals

STEM = "07_evaluation"


# --- 7.1 ------------------------------------------------------------------------------------------

copied_share = Exercise(
    "copied_share",
    level="warm-up",
    minutes=15,
    tests="many copies, few and none, one generated picture, distances that are equal, and an "
    "estimate below 0.",
    hint="Copies are all below t, of the others as many as of honest pictures; solve for ε.",
)


@copied_share.cases
def distances(rng):
    def case(n, m, copies, level, shift=0.0):
        honest = 2 + torch.rand(m, generator=rng)
        copied = 0.1 * torch.rand(copies, generator=rng)
        others = 2 + shift + torch.rand(n - copies, generator=rng)
        both = torch.cat([copied, others])[torch.randperm(n, generator=rng)]
        return {"to_training": both, "honest": honest, "level": level}

    def whole(n):
        """Every third distance is 2, as is the threshold."""
        return (2 + torch.arange(n) % 3)[torch.randperm(n, generator=rng)].float()

    equal = {"to_training": torch.cat([whole(23), torch.zeros(5)]), "honest": whole(20)}
    return [case(40, 37, 11, 0.1), case(50, 33, 2, 0.3),
            case(20, 37, 0, 0.2, shift=1), case(1, 15, 1, 0.5, shift=1),
            case(4, 11, 1, 0.5, shift=1), {**equal, "level": 0.3}]


def shares(to_training, honest, threshold):
    return [(d <= threshold).double().mean().item() for d in (to_training, honest)]


@copied_share.reference
def solved(to_training, honest, level):
    ours, theirs = shares(to_training, honest, honest.quantile(level))
    return (ours - theirs) / (1 - theirs)


@copied_share.wrong(
    "Not every picture that is near the training set was copied: honest ones below t count too."
)
def all_near_ones(to_training, honest, level):
    return shares(to_training, honest, honest.quantile(level))[0]


@copied_share.wrong(
    "You take off the honest share as if *all* pictures were honest. Of a model that copies ε, "
    "only 1 − ε are."
)
def not_divided(to_training, honest, level):
    ours, theirs = shares(to_training, honest, honest.quantile(level))
    return ours - theirs


@copied_share.wrong("The difference is turned round: copies make the *generated* share the larger.")
def turned_round(to_training, honest, level):
    return -solved(to_training, honest, level)


@copied_share.wrong(
    "You divide by the honest share itself. Bring the terms with ε to one side: its factor is one "
    "minus that share."
)
def divided_by_the_share(to_training, honest, level):
    ours, theirs = shares(to_training, honest, honest.quantile(level))
    return (ours - theirs) / theirs


@copied_share.wrong(
    "You divide by one minus the *generated* share. The factor of ε has the share of honest "
    "pictures in it."
)
def divided_by_what_is_left(to_training, honest, level):
    ours, theirs = shares(to_training, honest, honest.quantile(level))
    return (ours - theirs) / (1 - ours)


@copied_share.wrong("The sign in the divisor is wrong: only 1 − ε of the pictures are honest.")
def plus_below(to_training, honest, level):
    ours, theirs = shares(to_training, honest, honest.quantile(level))
    return (ours - theirs) / (1 + theirs)


@copied_share.wrong("You multiply by one minus the honest share: to solve for ε, divide by it.")
def multiplied(to_training, honest, level):
    ours, theirs = shares(to_training, honest, honest.quantile(level))
    return (ours - theirs) * (1 - theirs)


@copied_share.wrong("The honest share is still to be taken off above the line.")
def honest_share_not_taken_off(to_training, honest, level):
    ours, theirs = shares(to_training, honest, honest.quantile(level))
    return ours / (1 - theirs)


@copied_share.wrong("t is right, but the two shares have each other's place.")
def shares_exchanged(to_training, honest, level):
    theirs, ours = shares(to_training, honest, honest.quantile(level))
    return (ours - theirs) / (1 - theirs)


@copied_share.wrong("You count distances; F is a share, so divide by how many there are, N or M.")
def counts_for_shares(to_training, honest, level):
    t = honest.quantile(level)
    ours, theirs = ((d <= t).sum().item() for d in (to_training, honest))
    return (ours - theirs) / (1 - theirs)


@copied_share.wrong("Your estimate is in percent; a share lies between 0 and 1.")
def in_percent(to_training, honest, level):
    return 100 * solved(to_training, honest, level)


@copied_share.wrong(
    "You use `level` as a distance. It is a share: t is the distance below which that share of the "
    "honest distances lies, their quantile."
)
def level_for_the_distance(to_training, honest, level):
    ours, theirs = shares(to_training, honest, level)
    return (ours - theirs) / (1 - theirs)


@copied_share.wrong("Generated and honest pictures are exchanged.")
def sets_exchanged(to_training, honest, level):
    return solved(honest, to_training, level)


@copied_share.wrong(
    "The threshold comes from both sets together: then the copies shift it. It belongs to the "
    "honest distances alone."
)
def pooled_quantile(to_training, honest, level):
    t = torch.cat([to_training, honest]).quantile(level)
    ours, theirs = shares(to_training, honest, t)
    return (ours - theirs) / (1 - theirs)


@copied_share.wrong(
    "You take `level` itself for the honest share below t. Count it, as the other one is counted: "
    "of few distances it is not exactly `level`."
)
def level_for_the_share(to_training, honest, level):
    ours, _ = shares(to_training, honest, honest.quantile(level))
    return (ours - level) / (1 - level)


@copied_share.wrong(
    "Above the line you count the honest share, below it you take `level` for it. Of few distances "
    "it is not exactly `level`: count it for both."
)
def level_below_the_line(to_training, honest, level):
    ours, theirs = shares(to_training, honest, honest.quantile(level))
    return (ours - theirs) / (1 - level)


@copied_share.wrong(
    "You count generated distances *below* t and honest ones *at most* t: count both alike, those "
    "at most t."
)
def counted_in_two_ways(to_training, honest, level):
    t = honest.quantile(level)
    ours, theirs = (to_training < t).double().mean().item(), shares(honest, honest, t)[1]
    return (ours - theirs) / (1 - theirs)


@copied_share.wrong(
    "You count honest distances *below* t and generated ones *at most* t: count both alike, those "
    "at most t."
)
def honest_below(to_training, honest, level):
    t = honest.quantile(level)
    ours, theirs = shares(to_training, honest, t)[0], (honest < t).double().mean().item()
    return (ours - theirs) / (1 - theirs)


@copied_share.wrong("A distance of exactly t counts, too: F(t) is the share of those *at most* t.")
def strictly_below(to_training, honest, level):
    t = honest.quantile(level)
    ours, theirs = ((d < t).double().mean().item() for d in (to_training, honest))
    return (ours - theirs) / (1 - theirs)


@copied_share.wrong(
    "The threshold comes from the generated pictures' own distances: then the share below it is "
    "always the same, whatever the model does."
)
def own_quantile(to_training, honest, level):
    ours, theirs = shares(to_training, honest, to_training.quantile(level))
    return (ours - theirs) / (1 - theirs)


@copied_share.wrong("You count distances *above* the threshold; copies are the near ones.")
def far_ones(to_training, honest, level):
    ours, theirs = (1 - s for s in shares(to_training, honest, honest.quantile(level)))
    return (ours - theirs) / (1 - theirs)


@copied_share.wrong(
    "Below 0 you return 0. By chance an honest model's estimate often lies below; who cuts that "
    "off reports copies where there are none, on average."
)
def cut_at_zero(to_training, honest, level):
    return max(solved(to_training, honest, level), 0.0)


# --- 7.2 ------------------------------------------------------------------------------------------

frechet = Exercise(
    "frechet",
    level="core",
    minutes=25,
    tests="one dimension and many, equal clouds, diagonal and tilted covariances, narrow clouds, "
    "singular covariances, features that never change, and a model with one picture only.",
    hint="The trace of the root is the sum of the roots of the eigenvalues, rounding clamped.",
    rtol=1e-3,
    atol=1e-4,
)


@frechet.cases
def gaussians(rng):
    def covariance(d, rank=None):
        a = normals(rng, d, rank or d + 2, dtype=torch.float64)
        return a @ a.T / 2

    def case(d, rank=None):
        mu_x, mu_y = 2 * normals(rng, 2, d, dtype=torch.float64)
        return {"mu_x": mu_x, "cov_x": covariance(d, rank), "mu_y": mu_y,
                "cov_y": covariance(d, rank)}

    same = case(4)
    same |= {"mu_y": same["mu_x"].clone(), "cov_y": same["cov_x"].clone()}
    diagonal, constant = case(3), case(3)
    for name in ("cov_x", "cov_y"):
        diagonal[name] = (0.5 + 2 * torch.rand(3, generator=rng, dtype=torch.float64)).diag()
        constant[name] = (diagonal[name].diagonal().flip(0) * torch.tensor([0, 1, 1])).diag()
    narrow = {k: v * (0.05 if "mu" in k else 0.05**2) for k, v in case(4).items()}
    one_picture = case(4)
    one_picture["cov_y"] = torch.zeros(4, 4, dtype=torch.float64)
    flat = case(20, rank=3)  # and one near to it: nothing hides what is added to a singular one
    flat |= {"mu_y": flat["mu_x"].clone(), "cov_y": 1.2 * flat["cov_x"] + 0.01 * torch.eye(20)}
    turned = dict(zip(flat, [flat[k] for k in ("mu_y", "cov_y", "mu_x", "cov_x")], strict=True))
    return [case(5), case(1), diagonal, same, case(20, rank=3), constant, narrow, one_picture,
            flat, turned]


def root(S, clamp=True):
    values, vectors = torch.linalg.eigh(S)
    return (vectors * (values.clamp(min=0) if clamp else values).sqrt()) @ vectors.T


def apart(mu_x, cov_x, mu_y, cov_y):
    return (mu_x - mu_y).square().sum() + cov_x.trace() + cov_y.trace()


def overlap(cov_x, cov_y):
    """The trace of (Σ_x^½ Σ_y Σ_x^½)^½."""
    return torch.linalg.eigvalsh(root(cov_x) @ cov_y @ root(cov_x)).clamp(min=0).sqrt().sum()


@frechet.reference
def squared(mu_x, cov_x, mu_y, cov_y):
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * overlap(cov_x, cov_y)).item()


@frechet.wrong(
    "You multiply (or subtract) the roots of the two covariances. That is right only if both have "
    "the same axes: the root must be taken of Σ_x^½ Σ_y Σ_x^½, after multiplying."
)
def product_of_roots(mu_x, cov_x, mu_y, cov_y):
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * (root(cov_x) @ root(cov_y)).trace()).item()


@frechet.wrong("`.sqrt()` takes the root of each *entry*; here it is the root of a matrix.")
def root_of_entries(mu_x, cov_x, mu_y, cov_y):
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * (cov_x @ cov_y).sqrt().trace()).item()


@frechet.wrong("You compare the variances only: two clouds may lean in different directions.")
def variances_only(mu_x, cov_x, mu_y, cov_y):
    spread = (cov_x.diagonal().sqrt() - cov_y.diagonal().sqrt()).square().sum()
    return ((mu_x - mu_y).square().sum() + spread).item()


@frechet.wrong(
    "You compare the sorted eigenvalues of the two covariances: how long their axes are, and not "
    "which way they point."
)
def eigenvalues_only(mu_x, cov_x, mu_y, cov_y):
    x, y = (torch.linalg.eigvalsh(cov).clamp(min=0).sqrt() for cov in (cov_x, cov_y))
    return ((mu_x - mu_y).square().sum() + (x - y).square().sum()).item()


@frechet.wrong(
    "You compare the covariances entry by entry and square the differences; but they have the "
    "unit of a *squared* feature already. The formula has traces and a root."
)
def entry_by_entry(mu_x, cov_x, mu_y, cov_y):
    return ((mu_x - mu_y).square().sum() + (cov_x - cov_y).square().sum()).item()


@frechet.wrong("The root is missing: you take off the trace of the product itself.")
def no_root(mu_x, cov_x, mu_y, cov_y):
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * (cov_x @ cov_y).trace()).item()


@frechet.wrong(
    "`eigvalsh` is for symmetric matrices, and reads one triangle only. Σ_x Σ_y is not symmetric; "
    "with half of Σ_x on each side of Σ_y it is."
)
def one_triangle(mu_x, cov_x, mu_y, cov_y):
    values = torch.linalg.eigvalsh(cov_x @ cov_y).clamp(min=0)
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * values.sqrt().sum()).item()


@frechet.wrong(
    "Σ_y Σ_x is not symmetric, and `eigvalsh` reads one triangle only: what it gives belongs to "
    "another matrix. With half of Σ_x on each side of Σ_y the product is symmetric."
)
def other_triangle(mu_x, cov_x, mu_y, cov_y):
    values = torch.linalg.eigvalsh(cov_y @ cov_x).clamp(min=0)
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * values.sqrt().sum()).item()


@frechet.wrong(
    "`eigh` gives the eigenvectors as *columns*: the root is vectors · roots · vectorsᵀ, and you "
    "have it the other way round."
)
def rows_for_eigenvectors(mu_x, cov_x, mu_y, cov_y):
    values, vectors = torch.linalg.eigh(cov_x)
    half = (vectors.T * values.clamp(min=0).sqrt()) @ vectors
    middle = torch.linalg.eigvalsh(half @ cov_y @ half).clamp(min=0).sqrt().sum()
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * middle).item()


@frechet.wrong("On both sides of Σ_y stands the *root* of Σ_x; you have Σ_x itself there.")
def rootless_sides(mu_x, cov_x, mu_y, cov_y):
    middle = torch.linalg.eigvalsh(cov_x @ cov_y @ cov_x).clamp(min=0).sqrt().sum()
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * middle).item()


@frechet.wrong("The mixed term counts twice, as in (a − b)²; so equal clouds don't give 0.")
def mixed_term_once(mu_x, cov_x, mu_y, cov_y):
    return (apart(mu_x, cov_x, mu_y, cov_y) - overlap(cov_x, cov_y)).item()


@frechet.wrong("The last term is added; it is to be taken off, as in (a − b)².")
def mixed_term_added(mu_x, cov_x, mu_y, cov_y):
    return (apart(mu_x, cov_x, mu_y, cov_y) + 2 * overlap(cov_x, cov_y)).item()


@frechet.wrong("The last term is missing: clouds that are equal must have the distance 0.")
def mixed_term_missing(mu_x, cov_x, mu_y, cov_y):
    return apart(mu_x, cov_x, mu_y, cov_y).item()


@frechet.wrong("Your last term has the *mean* of the eigenvalues' roots; a trace is their sum.")
def mean_for_the_trace(mu_x, cov_x, mu_y, cov_y):
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * overlap(cov_x, cov_y) / len(mu_x)).item()


@frechet.wrong("Where the clouds lie is missing: the squared distance of their means.")
def means_left_out(mu_x, cov_x, mu_y, cov_y):
    return squared(mu_x, cov_x, mu_x, cov_y)


@frechet.wrong("The distance of the means enters squared.")
def means_not_squared(mu_x, cov_x, mu_y, cov_y):
    return means_left_out(mu_x, cov_x, mu_y, cov_y) + (mu_x - mu_y).norm().item()


@frechet.wrong(
    "Of the means you take the mean square over the features, as `F.mse_loss` does: ‖·‖² is a sum."
)
def means_averaged(mu_x, cov_x, mu_y, cov_y):
    way = (mu_x - mu_y).square().mean().item()
    return means_left_out(mu_x, cov_x, mu_y, cov_y) + way


@frechet.wrong("The means are added; their *difference* says how far apart they are.")
def means_added(mu_x, cov_x, mu_y, cov_y):
    return squared(mu_x, cov_x, -mu_y, cov_y)


@frechet.wrong("Of the means you add up absolute differences; ‖·‖² is the sum of their squares.")
def means_absolute(mu_x, cov_x, mu_y, cov_y):
    return means_left_out(mu_x, cov_x, mu_y, cov_y) + (mu_x - mu_y).abs().sum().item()


@frechet.wrong("Of the means you add up plain differences, which can cancel: square them first.")
def means_cancel(mu_x, cov_x, mu_y, cov_y):
    return means_left_out(mu_x, cov_x, mu_y, cov_y) + (mu_x - mu_y).sum().item()


@frechet.wrong("The sign is turned: a distance is never negative, and yours is never positive.")
def negative_distance(mu_x, cov_x, mu_y, cov_y):
    return -squared(mu_x, cov_x, mu_y, cov_y)


@frechet.wrong("Yours is divided by the number of features; no term of the distance is a mean.")
def divided_by_features(mu_x, cov_x, mu_y, cov_y):
    return squared(mu_x, cov_x, mu_y, cov_y) / len(mu_x)


@frechet.wrong("The trace of Σ_x is missing.")
def first_trace_missing(mu_x, cov_x, mu_y, cov_y):
    return squared(mu_x, cov_x, mu_y, cov_y) - cov_x.trace().item()


@frechet.wrong("The trace of Σ_y is missing.")
def second_trace_missing(mu_x, cov_x, mu_y, cov_y):
    return squared(mu_x, cov_x, mu_y, cov_y) - cov_y.trace().item()


@frechet.wrong("This is the root of it; what everybody quotes is the squared distance.")
def not_the_square(mu_x, cov_x, mu_y, cov_y):
    return max(squared(mu_x, cov_x, mu_y, cov_y), 0) ** 0.5


@frechet.wrong(
    "Singular covariances give nan: rounding makes some of their zero eigenvalues slightly "
    "negative. Clamp eigenvalues at 0 before the root, both times."
)
def nan_for_singular(mu_x, cov_x, mu_y, cov_y):
    values = torch.linalg.eigvalsh(root(cov_x) @ cov_y @ root(cov_x))
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * values.sqrt().sum()).item()


@frechet.wrong(
    "For singular covariances the eigenvalues of the product can't be found: there is nan in it, "
    "from roots of numbers slightly below 0. Clamp eigenvalues at 0 before the root."
)
def nan_in_the_product(mu_x, cov_x, mu_y, cov_y):
    middle = root(root(cov_x, clamp=False) @ cov_y @ root(cov_x, clamp=False), clamp=False)
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * middle.trace()).item()


@frechet.wrong(
    "Cholesky's decomposition fails where a covariance is singular, and here they may be. Take the "
    "root by eigenvalues and eigenvectors."
)
def no_cholesky_there(mu_x, cov_x, mu_y, cov_y):
    half = torch.linalg.cholesky(cov_x)
    values = torch.linalg.eigvalsh(half.T @ cov_y @ half).clamp(min=0)
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * values.sqrt().sum()).item()


# --- 7.3 ------------------------------------------------------------------------------------------

FeatureStream = Exercise(
    "FeatureStream",
    level="core",
    minutes=25,
    tests="batches of one to many rows, far from 0 and huge, in a buffer that is used again, with "
    "results asked for on the way, two streams at once, and what is held after 30 batches.",
    hint="n, Σx and Σxxᵀ in float64 are enough; everything else is computed from them.",
    dtype=True,
    rtol=1e-4,
    atol=1e-5,
)


@FeatureStream.cases
def streams(rng):
    """Near 0 float32 would do; what it does far off is the same in whatever order one adds."""

    def case(rows, d, offset, looks, dtype=torch.float32, size=1.0, again=0):
        drift = range(len(rows))  # so that the batches' means differ
        batches = [(offset + 2 * i + size * normals(rng, n, d, dtype=dtype))
                   for i, n in zip(drift, rows, strict=True)]
        return {"batches": batches, "looks": looks, "again": again}

    far = {"batches": [torch.full((1, 1), 10_000.0), torch.full((1, 1), 10_001.0)]}
    fine = {"batches": [far["batches"][0].double() + 4e-4, far["batches"][1].double()]}
    return [case([5, 3, 8], 3, 0, [2]), case([1, 1, 6, 2], 2, 3, [1, 3]),
            case([4, 7], 1, -5, [0, 1], torch.float64), case([9], 4, 3, [0]),
            far | {"looks": [1], "again": 0}, case([3, 4], 2, 0, [1], torch.float64, 1e25),
            case([50], 50, 0, [], again=30), fine | {"looks": [1], "again": 0}]


@FeatureStream.reference
class Sums:
    def __init__(self):
        self.n, self.total, self.products = 0, 0, 0

    def add(self, batch):
        batch = batch.double()
        self.n = self.n + len(batch)
        self.total = self.total + batch.sum(dim=0)
        self.products = self.products + batch.T @ batch

    def result(self):
        mean = self.total / self.n
        scatter = self.products - self.n * torch.outer(mean, mean)
        return self.n, mean, scatter / (self.n - 1)


@FeatureStream.wrong(
    "The values are right, but your stream keeps the batches, or something as large for each of "
    "them: a million pictures would fill the memory. Keep only what stays small, however many come."
)
class KeepsEverything:
    def __init__(self):
        self.parts = []

    def add(self, batch):
        self.parts.append(batch.clone())

    def all(self):
        return torch.cat(self.parts).double()

    def result(self):
        x = self.all()
        return len(x), x.mean(dim=0), torch.cov(x.T).view(x.shape[1], x.shape[1])


@FeatureStream.wrong(
    "You keep the batches themselves. The loader uses its memory again, and the old batches are "
    "overwritten; and features that don't fit into memory could not be kept anyway."
)
class KeptByReference(KeepsEverything):
    def add(self, batch):
        self.parts.append(batch)


@FeatureStream.wrong(
    "You keep every batch, and of a float64 one `.double()` makes no copy: the loader overwrites "
    "it. Features that don't fit into memory could not be kept anyway."
)
class KeptAsDouble(KeepsEverything):
    def add(self, batch):
        self.parts.append(batch.double())


@FeatureStream.wrong(
    "Rows and columns are exchanged: the covariance is (D, D), of features, not (N, N), of "
    "pictures. `torch.cov` wants one *row* per variable."
)
class RowsForColumns(KeepsEverything):
    def result(self):
        x = self.all()
        return len(x), x.mean(dim=0), torch.cov(x)


@FeatureStream.wrong(
    "Two streams disturb each other: what one has seen belongs to it alone, so keep it in `self`, "
    "set in `__init__`, and not in the class or outside of it."
)
class OnTheClass:
    def __init__(self):
        type(self).sums = Sums()

    def add(self, batch):
        self.sums.add(batch)

    def result(self):
        return self.sums.result()


@FeatureStream.wrong(
    "The covariance is divided by n. The mean was estimated from the same features, so n − 1 makes "
    "it unbiased."
)
class DividedByN(Sums):
    def result(self):
        n, mean, covariance = super().result()
        return n, mean, covariance * ((n - 1) / n)


@FeatureStream.wrong("Your covariance is still a sum over the features: divide it by n − 1.")
class NotDivided(Sums):
    def result(self):
        n, mean, covariance = super().result()
        return n, mean, covariance * (n - 1)


@FeatureStream.wrong("Your mean is still the sum: divide it by n.")
class SumForMean(Sums):
    def result(self):
        n, mean, covariance = super().result()
        return n, mean * n, covariance


@FeatureStream.wrong("You count the batches; n is the number of rows that they had.")
class CountsBatches(Sums):
    def add(self, batch):
        n = self.n
        super().add(batch)
        self.n = n + 1


@FeatureStream.wrong("Your n is the number of rows of the last batch; count those before it, too.")
class CountsTheLast(Sums):
    def add(self, batch):
        super().add(batch)
        self.n = len(batch)


@FeatureStream.wrong("Your n is one too many: it starts at 0.")
class StartsAtOne(Sums):
    def __init__(self):
        super().__init__()
        self.n = 1


@FeatureStream.wrong("Your n stays 0: count the rows of each batch.")
class CountsNothing(Sums):
    def add(self, batch):
        super().add(batch)
        self.n = 0


@FeatureStream.wrong("n and Σxxᵀ grow, but Σx is that of the last batch: add to what you have.")
class SumOfTheLast(Sums):
    def add(self, batch):
        self.total = 0
        super().add(batch)


@FeatureStream.wrong("n and Σx grow, but Σxxᵀ is that of the last batch: add to what you have.")
class ProductsOfTheLast(Sums):
    def add(self, batch):
        self.products = 0
        super().add(batch)


@FeatureStream.wrong("You add up the batches' *means* and divide by the rows: add up the rows.")
class MeansForSums(Sums):
    def add(self, batch):
        total = self.total
        super().add(batch)
        self.total = total + batch.double().mean(dim=0)


@FeatureStream.wrong("Your mean is the sum, in the covariance, too: divide it by n.")
class UndividedMean(Sums):
    def result(self):
        scatter = self.products - self.n * torch.outer(self.total, self.total)
        return self.n, self.total, scatter / (self.n - 1)


@FeatureStream.wrong("n μμᵀ is added to Σxxᵀ; it is to be taken off.")
class CentreAdded(Sums):
    def result(self):
        n, mean, _ = super().result()
        return n, mean, (self.products + n * torch.outer(mean, mean)) / (n - 1)


@FeatureStream.wrong("The covariance has the wrong sign: no variance is negative.")
class TurnedCovariance(Sums):
    def result(self):
        n, mean, covariance = super().result()
        return n, mean, -covariance


@FeatureStream.wrong("The covariance is divided by n + 1; it is to be by n − 1.")
class DividedByMore(Sums):
    def result(self):
        n, mean, covariance = super().result()
        return n, mean, covariance * ((n - 1) / (n + 1))


@FeatureStream.wrong(
    "You average the batches' results. Batches differ in size, and their means differ from each "
    "other: that belongs to the covariance as well."
)
class AverageOfBatches:
    def __init__(self):
        self.n, self.batches, self.means, self.covariances = 0, 0, 0, 0

    def add(self, batch):
        centred = batch.double() - batch.double().mean(dim=0)
        self.n, self.batches = self.n + len(batch), self.batches + 1
        self.means = self.means + batch.double().mean(dim=0)
        self.covariances = self.covariances + centred.T @ centred / max(len(batch) - 1, 1)

    def result(self):
        return self.n, self.means / self.batches, self.covariances / self.batches


@FeatureStream.wrong(
    "The mean is right. In the covariance each batch is centred on its *own* mean: how far these "
    "means lie apart is missing."
)
class WithinBatches(Sums):
    def __init__(self):
        super().__init__()
        self.within = 0

    def add(self, batch):
        super().add(batch)
        centred = batch.double() - batch.double().mean(dim=0)
        self.within = self.within + centred.T @ centred

    def result(self):
        n, mean, _ = super().result()
        return n, mean, self.within / (n - 1)


@FeatureStream.wrong(
    "Each batch is centred on the mean *so far*, and that mean moves on: what was added before it "
    "moved belongs to another one. Carry Σxxᵀ along, and take off nμμᵀ at the end."
)
class CentredOnTheWay(WithinBatches):
    def add(self, batch):
        Sums.add(self, batch)
        centred = batch.double() - self.total / self.n
        self.within = self.within + centred.T @ centred


@FeatureStream.wrong("The mean is still in the covariance: E[xxᵀ] − μμᵀ, times n / (n − 1).")
class NotCentred(Sums):
    def result(self):
        n, mean, _ = super().result()
        return n, mean, self.products / (n - 1)


@FeatureStream.wrong("You take μμᵀ off once; each of the n rows has it: n μμᵀ.")
class CentredOnce(Sums):
    def result(self):
        n, mean, _ = super().result()
        return n, mean, (self.products - torch.outer(mean, mean)) / (n - 1)


@FeatureStream.wrong(
    "Yours is the correlation: each feature was divided by its standard deviation. The covariance "
    "keeps the features' unit."
)
class Correlation(Sums):
    def result(self):
        n, mean, covariance = super().result()
        deviations = covariance.diagonal().sqrt()
        return n, mean, covariance / torch.outer(deviations, deviations)


@FeatureStream.wrong(
    "Far from 0 your covariance is noise: these sums are in float32, and of two huge ones only the "
    "difference is left. Make each batch float64 *before* you sum."
)
class SinglePrecision(Sums):
    def add(self, batch):
        self.n = self.n + len(batch)
        self.total = self.total + batch.sum(dim=0)
        self.products = self.products + batch.T @ batch

    def result(self):
        n, mean, covariance = super().result()
        return n, mean.double(), covariance.double()


@FeatureStream.wrong(
    "Far from 0 your covariance is noise: the products are made in float32, and what was rounded "
    "there `.double()` doesn't bring back. Make each batch float64 *before* you multiply."
)
class DoubleTooLate(Sums):
    def add(self, batch):
        self.n = self.n + len(batch)
        self.total = self.total + batch.sum(dim=0).double()
        self.products = self.products + (batch.T @ batch).double()


@FeatureStream.wrong(
    "What `result()` returned before changes when the next batch comes: it is the tensor that you "
    "add to in place. Return a new one, by `.clone()` for instance."
)
class LiveMean:
    def __init__(self):
        self.n = 0

    def add(self, batch):
        batch = batch.double()
        if not self.n:
            self.mean, self.scatter = 0 * batch[0], 0 * torch.outer(batch[0], batch[0])
        self.n += len(batch)
        way = batch - self.mean
        self.mean += way.sum(dim=0) / self.n
        self.scatter += way.T @ (batch - self.mean)

    def result(self):
        return self.n, self.mean, self.scatter / (self.n - 1)


@FeatureStream.wrong("Only the last batch is left: add to what you have.")
class LastBatchOnly(Sums):
    def add(self, batch):
        self.__init__()
        super().add(batch)


@FeatureStream.wrong("After `result()` you begin anew; it may be asked for on the way.")
class BeginsAnew(Sums):
    def result(self):
        found = super().result()
        self.__init__()
        return found


# --- 7.4 ------------------------------------------------------------------------------------------

kernel_distance = Exercise(
    "kernel_distance",
    level="core",
    minutes=20,
    tests="sets of equal and unequal sizes, two samples and 300, one feature and 500, equal sets.",
    hint="Divide by D inside the kernel; average only over pairs of *different* samples.",
    rtol=1e-3,
    atol=1e-4,
)


@kernel_distance.cases
def two_sets(rng):
    def case(n, m, d):
        return {"x": normals(rng, n, d), "y": 0.5 + normals(rng, m, d)}

    x = normals(rng, 4, 2)
    corners = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])  # k = 0, too
    return [case(5, 7, 3), case(2, 2, 4), case(6, 3, 1), case(5, 5, 2),
            {"x": x, "y": x.clone()}, case(300, 4, 5), case(3, 4, 500),
            {"x": corners, "y": x.clone()}, {"x": x.clone(), "y": corners.clone()}]


def cubic(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3


def different(k):
    """The mean over pairs of different samples of one set."""
    return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))


@kernel_distance.reference
def unbiased(x, y, kernel=cubic, within=different, across=torch.mean, factor=2):
    return (within(kernel(x, x)) + within(kernel(y, y)) - factor * across(kernel(x, y))).item()


def by_no_dimension(a, b):
    return (a @ b.T + 1) ** 3


@kernel_distance.wrong(
    "This is still the broken program. It has two faults: draw both sets from one source, and give "
    "it every feature twice."
)
def as_found(x, y):
    return unbiased(x, y, by_no_dimension, torch.mean)


@kernel_distance.wrong(
    "Divided by D, that is right now. But a pair of a sample with itself is still in the averages "
    "within each set: the result is too large, by something like 1/n."
)
def still_with_itself(x, y):
    return unbiased(x, y, within=torch.mean)


@kernel_distance.wrong(
    "The diagonals are gone, that is right now. But the kernel still grows with the number of "
    "features: aᵀb is a sum over D, and is to be divided by D."
)
def still_by_no_dimension(x, y):
    return unbiased(x, y, by_no_dimension)


@kernel_distance.wrong(
    "You divide aᵀb by the number of *samples*; D is the number of features, `a.shape[1]`."
)
def by_samples(x, y):
    return unbiased(x, y, lambda a, b: (a @ b.T / len(a) + 1) ** 3)


@kernel_distance.wrong("You divide aᵀb by the root of D, as attention does; here it is D itself.")
def by_the_root(x, y):
    return unbiased(x, y, lambda a, b: (a @ b.T / a.shape[1] ** 0.5 + 1) ** 3)


@kernel_distance.wrong("You divide the 1 by D, too: only aᵀb is a sum over D; mind the brackets.")
def divided_too_late(x, y):
    return unbiased(x, y, lambda a, b: ((a @ b.T + 1) / a.shape[1]) ** 3)


@kernel_distance.wrong(
    "The + 1 in the kernel is missing: it brings the means and variances into the comparison."
)
def no_one_added(x, y):
    return unbiased(x, y, lambda a, b: (a @ b.T / a.shape[1]) ** 3)


@kernel_distance.wrong("The power is missing: a linear kernel compares the means and nothing else.")
def no_power(x, y):
    return unbiased(x, y, lambda a, b: a @ b.T / a.shape[1] + 1)


@kernel_distance.wrong("You multiply by 3 where the power of 3 belongs: `**`, not `*`.")
def times_three(x, y):
    return unbiased(x, y, lambda a, b: (a @ b.T / a.shape[1] + 1) * 3)


@kernel_distance.wrong("Power and base are exchanged: it is (…) ** 3 and not 3 ** (…).")
def three_to_the_power(x, y):
    return unbiased(x, y, lambda a, b: 3 ** (a @ b.T / a.shape[1] + 1))


@kernel_distance.wrong("In the kernel 1 is taken off; it is to be added.")
def one_taken_off(x, y):
    return unbiased(x, y, lambda a, b: (a @ b.T / a.shape[1] - 1) ** 3)


@kernel_distance.wrong("You multiply aᵀb by D; divide by it.")
def multiplied_by_features(x, y):
    return unbiased(x, y, lambda a, b: (a @ b.T * a.shape[1] + 1) ** 3)


@kernel_distance.wrong("Your kernel is a square; asked for is the third power.")
def power_of_two(x, y):
    return unbiased(x, y, lambda a, b: (a @ b.T / a.shape[1] + 1) ** 2)


@kernel_distance.wrong(
    "You compare directions only: the features were divided by their lengths before the kernel."
)
def normalised(x, y):
    return unbiased(*(a / a.norm(dim=1, keepdim=True) for a in (x, y)))


@kernel_distance.wrong(
    "You leave out the diagonal and still divide by n²: only n (n − 1) pairs are left."
)
def divided_by_all(x, y):
    return unbiased(x, y, within=lambda k: (k.sum() - k.diagonal().sum()) / k.numel())


@kernel_distance.wrong(
    "You divide by n (n − 1), and the n pairs of a sample with itself are still in the sum."
)
def divided_but_not_left_out(x, y):
    return unbiased(x, y, within=lambda k: k.sum() / (len(k) * (len(k) - 1)))


@kernel_distance.wrong("Within the sets you divide by n alone; there are n (n − 1) pairs.")
def divided_by_samples(x, y):
    return unbiased(x, y, within=lambda k: different(k) * (len(k) - 1))


@kernel_distance.wrong("Within the sets you divide by n − 1 alone; there are n (n − 1) pairs.")
def divided_by_others(x, y):
    return unbiased(x, y, within=lambda k: different(k) * len(k))


@kernel_distance.wrong("Within the sets you divide by n (n + 1); it is n (n − 1).")
def divided_by_more(x, y):
    return unbiased(x, y, within=lambda k: different(k) * (len(k) - 1) / (len(k) + 1))


@kernel_distance.wrong("Each pair counts once, but you divide by n (n − 1): half of the mean.")
def half_of_the_pairs(x, y):
    return unbiased(x, y, within=lambda k: different(k) / 2)


@kernel_distance.wrong("Within the sets you have sums over pairs; divide by how many there are.")
def sums_within(x, y):
    return unbiased(x, y, within=lambda k: k.sum() - k.diagonal().sum())


@kernel_distance.wrong("Of the pairs with oneself you take off the mean; take off their sum.")
def mean_of_the_diagonal(x, y):
    return unbiased(x, y, within=lambda k: (k.sum() - k.diagonal().mean())
                    / (len(k) * (len(k) - 1)))


@kernel_distance.wrong("The pairs with oneself are added once more; take them off.")
def diagonal_added(x, y):
    return unbiased(x, y, within=lambda k: (k.sum() + k.diagonal().sum())
                    / (len(k) * (len(k) - 1)))


@kernel_distance.wrong(
    "The pairs with oneself are taken off a *mean*: take their sum off the sum, then divide."
)
def diagonal_off_the_mean(x, y):
    return unbiased(x, y, within=lambda k: k.mean() - k.diagonal().mean())


@kernel_distance.wrong(
    "Within y you divide by the number of pairs of x: the sets may differ in size."
)
def pairs_of_x_for_both(x, y):
    n, m = len(x), len(y)
    wrong = different(cubic(y, y)).item() * (m * (m - 1) / (n * (n - 1)) - 1)
    return unbiased(x, y) + wrong


@kernel_distance.wrong("Across the sets there are N·M pairs; you divide their sum by N².")
def across_by_n_squared(x, y):
    return unbiased(x, y, across=lambda k: k.sum() / len(k) ** 2)


@kernel_distance.wrong("Across the sets you have the sum over all pairs; divide it by N·M.")
def sum_across(x, y):
    return unbiased(x, y, across=torch.sum)


@kernel_distance.wrong(
    "You leave out the diagonal *across* the sets too. There it has no meaning: x_i and y_i are "
    "two different pictures, like all other pairs."
)
def diagonal_across(x, y):
    return unbiased(x, y, across=lambda k: (k.sum() - k.diagonal().sum())
                    / (k.numel() - min(k.shape)))


@kernel_distance.wrong("The average across the sets counts twice, as in (a − b)² = a² + b² − 2ab.")
def across_once(x, y):
    return unbiased(x, y, factor=1)


@kernel_distance.wrong("The average across the sets is added; it is to be taken off, twice.")
def across_added(x, y):
    return unbiased(x, y, factor=-2)


@kernel_distance.wrong("The average across the sets is missing: nothing compares x with y.")
def across_missing(x, y):
    return unbiased(x, y, factor=0)


@kernel_distance.wrong("The average within x is missing.")
def without_x(x, y):
    return unbiased(x, y) - different(cubic(x, x)).item()


@kernel_distance.wrong("The average within y is missing.")
def without_y(x, y):
    return unbiased(x, y) - different(cubic(y, y)).item()


@kernel_distance.wrong("The sign is turned: sets of different sources must be far apart, above 0.")
def sign_turned(x, y):
    return -unbiased(x, y)


@kernel_distance.wrong(
    "Below 0 you return 0. An unbiased estimate of 0 has to fall below at times; cut off, its mean "
    "is too large again."
)
def cut_off(x, y):
    return max(unbiased(x, y), 0.0)


@kernel_distance.wrong(
    "You return the root. The square is what has no bias; and where it falls below 0 there is no "
    "root."
)
def root_of_it(x, y):
    found = unbiased(x, y)
    return found**0.5 if found > 0 else math.nan


# --- 7.5 ------------------------------------------------------------------------------------------

density_coverage = Exercise(
    "density_coverage",
    level="stretch",
    minutes=25,
    tests="good, collapsed and blurred models, copies of real samples, equal real samples, samples "
    "on the edge of a ball, sets of different sizes, k from 1 to N − 1.",
    hint="One table `inside` (M, N) of generated in real balls holds both numbers.",
)


@density_coverage.cases
def real_and_generated(rng):
    def case(n, m, d, k, spread, part=1.0):
        fake = spread * normals(rng, m, d)
        fake[:, 0] = fake[:, 0] * part + (1 - part)
        return {"real": normals(rng, n, d), "fake": fake, "k": k}

    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(4.0))  # all distances are exact
    order, some = (torch.randperm(20, generator=rng) for _ in range(2))
    copies = {"real": grid[order], "fake": grid[some[:8]], "k": 3}
    doubles = {"real": grid[order].repeat(2, 1), "fake": grid[some], "k": 1}
    near = {"real": grid[order], "fake": grid[some[:9]] + 5e-5, "k": 3}  # to edges, on both sides
    return [case(30, 40, 2, 3, 1.0), case(40, 25, 3, 1, 0.7, 0.3), case(25, 35, 2, 5, 2.0),
            case(12, 1, 2, 3, 0.3), case(4, 6, 1, 3, 1.0), case(60, 15, 8, 2, 0.4),
            copies, doubles, near, case(24, 24, 3, 2, 0.8)]


def reach(x, k, p=2.0):
    """Distance of each of x to its k-th nearest other."""
    return torch.cdist(x, x, p).kthvalue(k + 1, dim=1).values


def of_table(inside, k):
    """Density and coverage, from whether the samples (M) lie in the balls (N)."""
    density = inside.sum().item() / (k * len(inside))
    return density, inside.any(dim=0).double().mean().item()


@density_coverage.reference
def by_balls(real, fake, k):
    return of_table(torch.cdist(fake, real) <= reach(real, k), k)


@density_coverage.wrong(
    "Your balls are one neighbour too small: a point's nearest point in its own set is itself, and "
    "that one doesn't count."
)
def counts_itself(real, fake, k):
    return of_table(torch.cdist(fake, real) <= reach(real, k - 1), k)


@density_coverage.wrong("All your radii are 0, from a sample to itself: go on to the k-th other.")
def radius_to_itself(real, fake, k):
    return of_table(torch.cdist(fake, real) <= reach(real, 0), k)


@density_coverage.wrong("You count what lies *outside* of the balls.")
def outside(real, fake, k):
    return of_table(torch.cdist(fake, real) > reach(real, k), k)


@density_coverage.wrong(
    "Your balls are one neighbour too large: sorted from 0 on, place 0 is the point itself, and "
    "place k its k-th neighbour."
)
def one_too_far(real, fake, k):
    return of_table(torch.cdist(fake, real) <= reach(real, k + 1), k)


@density_coverage.wrong(
    "A sample on the edge of a ball lies in it: the distance is *at most* the radius. A copy of a "
    "real sample often lies there."
)
def edge_left_out(real, fake, k):
    return of_table(torch.cdist(fake, real) < reach(real, k), k)


@density_coverage.wrong(
    "You leave out all neighbours at distance 0. Only the sample itself doesn't count; another one "
    "that is equal to it does."
)
def equals_left_out(real, fake, k):
    distances = torch.cdist(real, real)
    radius = torch.where(distances > 0, distances, math.inf).kthvalue(k, dim=1).values
    return of_table(torch.cdist(fake, real) <= radius, k)


@density_coverage.wrong("You compare a squared distance with a radius that is not squared.")
def squares_against_radius(real, fake, k):
    return of_table(torch.cdist(fake, real).square() <= reach(real, k), k)


@density_coverage.wrong("‖·‖ is the root of the sum of squares; you add up absolute values.")
def absolute_values(real, fake, k):
    return of_table(torch.cdist(fake, real, p=1.0) <= reach(real, k, p=1.0), k)


@density_coverage.wrong(
    "All your balls are equally large. Each real sample has a radius of its own: small where many "
    "are, large where few are."
)
def one_radius(real, fake, k):
    return of_table(torch.cdist(fake, real) <= reach(real, k).mean(), k)


@density_coverage.wrong(
    "The radius of a ball goes to the k-th nearest *real* sample; yours goes to the k-th nearest "
    "generated one, and so every ball has k of them inside."
)
def radius_to_generated(real, fake, k):
    distances = torch.cdist(fake, real)
    return of_table(distances <= distances.kthvalue(k, dim=0).values, k)


@density_coverage.wrong(
    "Coverage is right. Your density is the precision: count in *how many* balls a sample lies, "
    "not whether in any."
)
def precision_for_density(real, fake, k):
    inside = torch.cdist(fake, real) <= reach(real, k)
    return inside.any(dim=1).double().mean().item(), by_balls(real, fake, k)[1]


@density_coverage.wrong("Your density is still a count: divide it by k and by M.")
def density_counted(real, fake, k):
    density, coverage = by_balls(real, fake, k)
    return density * k * len(fake), coverage


@density_coverage.wrong("The density is not divided by k, so a larger k makes every model better.")
def not_divided_by_k(real, fake, k):
    density, coverage = by_balls(real, fake, k)
    return density * k, coverage


@density_coverage.wrong("The density is not divided by M: more samples make every model better.")
def not_divided_by_m(real, fake, k):
    density, coverage = by_balls(real, fake, k)
    return density * len(fake), coverage


@density_coverage.wrong("The density is a mean over the M generated samples; you divide by the N.")
def divided_by_n(real, fake, k):
    density, coverage = by_balls(real, fake, k)
    return density * len(fake) / len(real), coverage


@density_coverage.wrong(
    "The density is divided by the number of balls as well: it is a *sum* over the N balls, and a "
    "mean over the M samples."
)
def divided_by_both(real, fake, k):
    density, coverage = by_balls(real, fake, k)
    return density / len(real), coverage


@density_coverage.wrong(
    "You cut the density off at 1. It may be more: where many balls overlap, a sample lies in more "
    "than k of them."
)
def cut_off_at_one(real, fake, k):
    density, coverage = by_balls(real, fake, k)
    return min(density, 1.0), coverage


@density_coverage.wrong(
    "Density is right. Your coverage is the recall, with balls around *generated* samples; here "
    "all balls are around real ones."
)
def recall_for_coverage(real, fake, k):
    if len(fake) <= k:
        raise RuntimeError("not enough samples")
    inside = torch.cdist(real, fake) <= reach(fake, k)
    return by_balls(real, fake, k)[0], inside.any(dim=1).double().mean().item()


@density_coverage.wrong(
    "Density is right. Your coverage is the share of *generated* samples in some ball; it asks for "
    "the share of real balls with some sample inside."
)
def share_of_generated(real, fake, k):
    inside = torch.cdist(fake, real) <= reach(real, k)
    return by_balls(real, fake, k)[0], inside.any(dim=1).double().mean().item()


@density_coverage.wrong("The coverage is a number of balls in your answer; divide by N.")
def balls_counted(real, fake, k):
    density, coverage = by_balls(real, fake, k)
    return density, coverage * len(real)


@density_coverage.wrong("Your coverage asks about all balls at once; ask about each one.")
def any_at_all(real, fake, k):
    inside = torch.cdist(fake, real) <= reach(real, k)
    return by_balls(real, fake, k)[0], inside.any().double().item()


@density_coverage.wrong(
    "Coverage asks whether *some* generated sample lies in a ball; yours asks for all of them."
)
def all_for_any(real, fake, k):
    inside = torch.cdist(fake, real) <= reach(real, k)
    return by_balls(real, fake, k)[0], inside.all(dim=0).double().mean().item()


@density_coverage.wrong("Both numbers are right, in the wrong order: density first.")
def order_exchanged(real, fake, k):
    return by_balls(real, fake, k)[::-1]


@density_coverage.wrong("Real and generated are exchanged.")
def exchanged(real, fake, k):
    if len(fake) <= k:
        raise RuntimeError("not enough samples")
    return by_balls(fake, real, k)
