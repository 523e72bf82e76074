"""Chapter 07: the exercises on evaluation, their references, and the mistakes people make."""

import torch

from gencourse import evaluate
from gencourse.checks.core import Exercise, normals

STEM = "07_evaluation"


# --- 7.1 ------------------------------------------------------------------------------------------

copied_share = Exercise(
    "copied_share",
    level="warm-up",
    minutes=15,
    tests="many copies, few and none, one generated picture, and an estimate below 0.",
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

    return [case(40, 37, 11, 0.1), case(50, 33, 2, 0.3),
            case(20, 37, 0, 0.2, shift=1), case(1, 15, 1, 0.5, shift=1),
            case(4, 11, 1, 0.5, shift=1)]  # fmt: skip


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


@copied_share.wrong(
    "You take `level` itself for the honest share below t. Count it, as the other one is counted: "
    "of few distances it is not exactly `level`."
)
def level_for_the_share(to_training, honest, level):
    ours, _ = shares(to_training, honest, honest.quantile(level))
    return (ours - level) / (1 - level)


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
    tests="one dimension and many, equal clouds, diagonal and tilted covariances, singular ones.",
    hint="The trace of the root is the sum of the roots of the eigenvalues, rounding clamped.",
    rtol=1e-3,
    atol=5e-3,
)


@frechet.cases
def gaussians(rng):
    def covariance(d, rank=None):
        a = normals(rng, d, rank or d + 2, dtype=torch.float64)
        return a @ a.T / 2

    def case(d, rank=None):
        mu_x, mu_y = 2 * normals(rng, 2, d, dtype=torch.float64)
        return {"mu_x": mu_x, "cov_x": covariance(d, rank), "mu_y": mu_y,
                "cov_y": covariance(d, rank)}  # fmt: skip

    same = case(4)
    same |= {"mu_y": same["mu_x"].clone(), "cov_y": same["cov_x"].clone()}
    diagonal = case(3)
    for name in ("cov_x", "cov_y"):
        diagonal[name] = (0.5 + 2 * torch.rand(3, generator=rng, dtype=torch.float64)).diag()
    return [case(5), case(1), diagonal, same, case(20, rank=3)]


def root(S, clamp=True):
    values, vectors = torch.linalg.eigh(S)
    return (vectors * (values.clamp(min=0) if clamp else values).sqrt()) @ vectors.T


def apart(mu_x, cov_x, mu_y, cov_y):
    return (mu_x - mu_y).square().sum() + cov_x.trace() + cov_y.trace()


@frechet.reference
def by_the_package(mu_x, cov_x, mu_y, cov_y):
    pair = [evaluate.Moments(10**9, mu, cov) for mu, cov in ((mu_x, cov_x), (mu_y, cov_y))]
    return float(evaluate.frechet_distance(*pair))


@frechet.wrong(
    "You multiply the roots of the two covariances. That is right only if both have the same axes: "
    "the root must be taken of Σ_x^½ Σ_y Σ_x^½, after multiplying."
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


@frechet.wrong("The root is missing: you take off the trace of the product itself.")
def no_root(mu_x, cov_x, mu_y, cov_y):
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * (cov_x @ cov_y).trace()).item()


@frechet.wrong("The mixed term counts twice, as in (a − b)²; so equal clouds don't give 0.")
def mixed_term_once(mu_x, cov_x, mu_y, cov_y):
    without = apart(mu_x, cov_x, mu_y, cov_y).item()
    return (without + by_the_package(mu_x, cov_x, mu_y, cov_y)) / 2


@frechet.wrong("The distance of the means enters squared.")
def means_not_squared(mu_x, cov_x, mu_y, cov_y):
    way = (mu_x - mu_y).norm()
    return by_the_package(mu_x, cov_x, mu_y, cov_y) + (way - way**2).item()


@frechet.wrong("This is the root of it; what everybody quotes is the squared distance.")
def not_the_square(mu_x, cov_x, mu_y, cov_y):
    return by_the_package(mu_x, cov_x, mu_y, cov_y) ** 0.5


@frechet.wrong(
    "Singular covariances give nan or an error (Cholesky's, too): rounding makes some of their "
    "zero eigenvalues slightly negative. Clamp eigenvalues at 0 before the root."
)
def nan_for_singular(mu_x, cov_x, mu_y, cov_y):
    middle = root(root(cov_x, clamp=False) @ cov_y @ root(cov_x, clamp=False), clamp=False)
    return (apart(mu_x, cov_x, mu_y, cov_y) - 2 * middle.trace()).item()


# --- 7.3 ------------------------------------------------------------------------------------------

FeatureStream = Exercise(
    "FeatureStream",
    level="core",
    minutes=25,
    tests="batches of one to many rows, far from 0, in a buffer that is used again, with results "
    "asked for on the way.",
    hint="n, Σx and Σxxᵀ in float64 are enough; everything else is computed from them.",
    dtype=True,
    rtol=1e-4,
    atol=1e-5,
)


@FeatureStream.cases
def streams(rng):
    def case(rows, d, offset, looks, dtype=torch.float32):
        drift = range(len(rows))  # so that the batches' means differ
        batches = [(offset + 2 * i + normals(rng, n, d)).to(dtype)
                   for i, n in zip(drift, rows, strict=True)]  # fmt: skip
        return {"batches": batches, "looks": looks}

    return [case([5, 3, 8], 3, 0, [2]), case([1, 1, 6, 2], 2, 10_000, [1, 3]),
            case([4, 7], 1, -5, [0, 1], torch.float64), case([9], 4, 100, [0])]  # fmt: skip


class Kept:
    """Keeps all that it is given: what the wrong answers are variations of."""

    def __init__(self):
        self.parts = []

    def add(self, batch):
        self.parts.append(batch.clone())

    def all(self):
        return torch.cat(self.parts).double()

    def result(self):
        x = self.all()
        return len(x), x.mean(dim=0), torch.cov(x.T).view(x.shape[1], x.shape[1])


@FeatureStream.reference
class AsThePackage(Kept):
    def result(self):
        found = evaluate.moments(self.parts)
        return found.n, found.mean, found.covariance


@FeatureStream.wrong(
    "The covariance is divided by n. The mean was estimated from the same features, so n − 1 makes "
    "it unbiased."
)
class DividedByN(Kept):
    def result(self):
        n, mean, covariance = super().result()
        return n, mean, covariance * ((n - 1) / n)


@FeatureStream.wrong(
    "You average the batches' results. Batches differ in size, and their means differ from each "
    "other: that belongs to the covariance as well."
)
class AverageOfBatches(Kept):
    def result(self):
        means = torch.stack([p.double().mean(dim=0) for p in self.parts])
        scatters = [(p.double() - m).T @ (p.double() - m) / max(len(p) - 1, 1)
                    for p, m in zip(self.parts, means, strict=True)]  # fmt: skip
        return len(self.all()), means.mean(dim=0), torch.stack(scatters).mean(dim=0)


@FeatureStream.wrong(
    "The mean is right. In the covariance each batch is centred on its *own* mean: how far these "
    "means lie apart is missing."
)
class WithinBatches(Kept):
    def result(self):
        centred = torch.cat([p.double() - p.double().mean(dim=0) for p in self.parts])
        n, mean, _ = super().result()
        return n, mean, centred.T @ centred / (n - 1)


@FeatureStream.wrong("The mean is still in the covariance: E[xxᵀ] − μμᵀ, times n / (n − 1).")
class NotCentred(Kept):
    def result(self):
        n, mean, _ = super().result()
        return n, mean, self.all().T @ self.all() / (n - 1)


@FeatureStream.wrong(
    "Far from 0 your covariance is noise: in float32 two huge sums are subtracted that agree in "
    "all their digits. Sum up in float64."
)
class SinglePrecision(Kept):
    def result(self):
        x = self.all().float()
        n, mean = len(x), x.mean(dim=0)
        covariance = (x.T @ x - n * mean[:, None] * mean) / (n - 1)
        return n, mean.double(), covariance.double()


@FeatureStream.wrong(
    "Far from 0 your covariance is noise: these sums are in float32, and of two huge ones only the "
    "difference is left. Make each batch float64 *before* you sum."
)
class SingleSums(Kept):
    def sums(self):
        parts = [p.float() for p in self.parts]
        return sum(p.sum(dim=0) for p in parts), sum(p.T @ p for p in parts)

    def result(self):
        n, (total, products) = len(self.all()), self.sums()
        mean = total / n
        covariance = (products - n * torch.outer(mean, mean)) / (n - 1)
        return n, mean.double(), covariance.double()


@FeatureStream.wrong(
    "Far from 0 your covariance is noise: the products are made in float32, and what was rounded "
    "there `.double()` doesn't bring back. Make each batch float64 *before* you multiply."
)
class DoubleTooLate(SingleSums):
    def sums(self):
        parts = [p.float() for p in self.parts]
        return sum(p.sum(dim=0).double() for p in parts), sum((p.T @ p).double() for p in parts)


@FeatureStream.wrong("Only the last batch is left: add to what you have.")
class LastBatchOnly(Kept):
    def add(self, batch):
        self.parts = [batch.clone()]


@FeatureStream.wrong(
    "You keep the batches themselves. The loader uses its memory again, and the old batches are "
    "overwritten; and features that don't fit into memory could not be kept anyway."
)
class KeptByReference(Kept):
    def add(self, batch):
        self.parts.append(batch)


@FeatureStream.wrong("After `result()` you begin anew; it may be asked for on the way.")
class BeginsAnew(Kept):
    def result(self):
        found = super().result()
        self.parts = [p[:0] for p in self.parts]
        return found


@FeatureStream.wrong(
    "Rows and columns are exchanged: the covariance is (D, D), of features, not (N, N), of "
    "pictures. `torch.cov` wants one *row* per variable."
)
class RowsForColumns(Kept):
    def result(self):
        x = self.all()
        return len(x), x.mean(dim=0), torch.cov(x)


# --- 7.4 ------------------------------------------------------------------------------------------

kernel_distance = Exercise(
    "kernel_distance",
    level="core",
    minutes=20,
    tests="sets of equal and unequal sizes, down to two samples, one feature, and equal sets.",
    hint="Divide by D inside the kernel; average only over pairs of *different* samples.",
    rtol=1e-3,
    atol=1e-4,
)


@kernel_distance.cases
def two_sets(rng):
    def case(n, m, d):
        return {"x": normals(rng, n, d), "y": 0.5 + normals(rng, m, d)}

    x = normals(rng, 4, 2)
    return [case(5, 7, 3), case(2, 2, 4), case(6, 3, 1), case(5, 5, 2),
            {"x": x, "y": x.clone()}]  # fmt: skip


@kernel_distance.reference
def unbiased(x, y):
    return float(evaluate.kid(x, y, subsets=1))


def cubic_mmd(x, y, by_dimension=True, within="different", across="all", factor=2):
    def kernel(a, b):
        return (a @ b.T / (a.shape[1] if by_dimension else 1) + 1) ** 3

    def mean_within(a):
        k, n = kernel(a, a), len(a)
        if within == "all":
            return k.mean()
        return (k.sum() - k.diagonal().sum()) / (n * n if within == "by all" else n * (n - 1))

    k = kernel(x, y)
    if across == "different":
        between = (k.sum() - k.diagonal().sum()) / (k.numel() - min(k.shape))
    else:
        between = k.mean()
    return (mean_within(x) + mean_within(y) - factor * between).item()


@kernel_distance.wrong(
    "This is still the broken program. It has two faults: draw both sets from one source, and give "
    "it every feature twice."
)
def as_found(x, y):
    return cubic_mmd(x, y, by_dimension=False, within="all")


@kernel_distance.wrong(
    "Divided by D, that is right now. But a pair of a sample with itself is still in the averages "
    "within each set: the result is too large, by something like 1/n."
)
def still_with_itself(x, y):
    return cubic_mmd(x, y, within="all")


@kernel_distance.wrong(
    "The diagonals are gone, that is right now. But the kernel still grows with the number of "
    "features: aᵀb is a sum over D, and is to be divided by D."
)
def still_by_no_dimension(x, y):
    return cubic_mmd(x, y, by_dimension=False)


@kernel_distance.wrong(
    "You leave out the diagonal and still divide by n²: only n (n − 1) pairs are left."
)
def divided_by_all(x, y):
    return cubic_mmd(x, y, within="by all")


@kernel_distance.wrong("Each pair counts once, but you divide by n (n − 1): half of the mean.")
def half_of_the_pairs(x, y):
    across = cubic_mmd(x, y, factor=0) - unbiased(x, y)
    return cubic_mmd(x, y, factor=0) / 2 - across


@kernel_distance.wrong(
    "You leave out the diagonal *across* the sets too. There it has no meaning: x_i and y_i are "
    "two different pictures, like all other pairs."
)
def diagonal_across(x, y):
    return cubic_mmd(x, y, across="different")


@kernel_distance.wrong("The average across the sets counts twice, as in (a − b)² = a² + b² − 2ab.")
def across_once(x, y):
    return cubic_mmd(x, y, factor=1)


@kernel_distance.wrong(
    "Below 0 you return 0. An unbiased estimate of 0 has to fall below at times; cut off, its mean "
    "is too large again."
)
def cut_off(x, y):
    return max(unbiased(x, y), 0.0)


# --- 7.5 ------------------------------------------------------------------------------------------

density_coverage = Exercise(
    "density_coverage",
    level="stretch",
    minutes=25,
    tests="good, collapsed and blurred models, sets of different sizes, k from 1 to 5.",
    hint="One table `inside` (M, N) of generated in real balls holds both numbers.",
)


@density_coverage.cases
def real_and_generated(rng):
    def case(n, m, d, k, spread, part=1.0):
        fake = spread * normals(rng, m, d)
        fake[:, 0] = fake[:, 0] * part + (1 - part)
        return {"real": normals(rng, n, d), "fake": fake, "k": k}

    return [case(30, 40, 2, 3, 1.0), case(40, 25, 3, 1, 0.7, 0.3), case(25, 35, 2, 5, 2.0),
            case(12, 1, 2, 3, 0.3)]  # fmt: skip


def reach(x, k):
    """Distance of each of x to its k-th nearest other."""
    return torch.cdist(x, x).sort(dim=1).values[:, k]


def density_and_coverage(real, fake, k, own=0):
    inside = torch.cdist(fake, real) <= reach(real, k - own)
    return inside.double().sum().item() / (k * len(fake)), inside.any(dim=0).double().mean().item()


@density_coverage.reference
def by_balls(real, fake, k):
    return density_and_coverage(real, fake, k)


@density_coverage.wrong(
    "Your balls are one neighbour too small: a point's nearest point in its own set is itself, and "
    "that one doesn't count."
)
def counts_itself(real, fake, k):
    return density_and_coverage(real, fake, k, own=1)


@density_coverage.wrong(
    "Coverage is right. Your density is the precision: count in *how many* balls a sample lies, "
    "not whether in any."
)
def precision_for_density(real, fake, k):
    inside = torch.cdist(fake, real) <= reach(real, k)
    return inside.any(dim=1).double().mean().item(), by_balls(real, fake, k)[1]


@density_coverage.wrong("The density is not divided by k, so a larger k makes every model better.")
def not_divided_by_k(real, fake, k):
    density, coverage = by_balls(real, fake, k)
    return density * k, coverage


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


@density_coverage.wrong("Real and generated are exchanged.")
def exchanged(real, fake, k):
    if len(fake) <= k:
        raise RuntimeError("not enough samples")
    return by_balls(fake, real, k)


@density_coverage.wrong("The density is a mean over the M generated samples; you divide by the N.")
def divided_by_n(real, fake, k):
    density, coverage = by_balls(real, fake, k)
    return density * len(fake) / len(real), coverage
