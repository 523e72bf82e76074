"""Chapter 10: the exercises on comparing models, their references, and the mistakes people make."""

import math

import torch
from torch.nn import functional as F

from gencourse import divergences, losses
from gencourse.checks.core import Exercise, draw_seed, normals

STEM = "10_gan_vs_vae"


# --- 10.1 -----------------------------------------------------------------------------------------

sharpness = Exercise(
    "sharpness",
    level="warm-up",
    minutes=10,
    tests="grey and colour, unequal counts, odd sizes down to 3×3, and a flat picture.",
    hint="A Laplacian per channel, squares, a sum over pixels, a mean over pictures; then divide.",
)


@sharpness.cases
def two_sets(rng):
    sizes = [(3, 5, (1, 6, 7)), (2, 4, (3, 5, 5)), (1, 2, (1, 3, 3))]
    drawn = [{"x": normals(rng, n, *s) / 2, "real": normals(rng, m, *s) / 3} for n, m, s in sizes]
    return [*drawn, {"x": torch.full((2, 1, 4, 4), 0.7), "real": torch.randn(1, 1, 4, 4,
                                                                             generator=rng)}]


def laplacian(x):
    middle = x[..., 1:-1, 1:-1]
    across = x[..., 1:-1, 2:] + x[..., 1:-1, :-2]
    return across + x[..., 2:, 1:-1] + x[..., :-2, 1:-1] - 4 * middle


def energy(x):
    return laplacian(x).square().flatten(1).sum(dim=1).mean().item()


@sharpness.reference
def ratio_of_energies(x, real):
    return energy(x) / energy(real)


@sharpness.wrong("The ratio is upside down: blurred pictures must score below 1.")
def upside_down(x, real):
    return energy(real) / energy(x) if energy(x) else math.inf


@sharpness.wrong("You sum over the pictures: whoever has more of them would be sharper. Mean.")
def pictures_summed(x, real):
    return ratio_of_energies(x, real) * len(x) / len(real)


@sharpness.wrong("You compare the Laplacians' absolute values; energy is their square.")
def absolute_values(x, real):
    one, other = (laplacian(v).abs().flatten(1).sum(dim=1).mean().item() for v in (x, real))
    return one / other


@sharpness.wrong("This is the square root: a ratio of amplitudes; S compares energies.")
def root_of_it(x, real):
    return math.sqrt(ratio_of_energies(x, real))


@sharpness.wrong(
    "You use first differences: a smooth ramp has them too. The Laplacian asks where the slope "
    "*changes*."
)
def slopes(x, real):
    one, other = (
        (v.diff(dim=-1).square().sum() + v.diff(dim=-2).square().sum()).item() / len(v)
        for v in (x, real)
    )
    return one / other


@sharpness.wrong(
    "The border counts: padding surrounds the picture with an edge that isn't there. Inner pixels."
)
def border_counted(x, real):
    return energy(F.pad(x, (1, 1, 1, 1))) / energy(F.pad(real, (1, 1, 1, 1)))


@sharpness.wrong("The channels are added before squaring, so red and blue edges can cancel.")
def channels_mixed(x, real):
    return energy(x.sum(dim=1, keepdim=True)) / energy(real.sum(dim=1, keepdim=True))


@sharpness.wrong(
    "You take the variance of the Laplacian, as OpenCV's recipe for blur does: its mean is taken "
    "off first. Here it is the plain sum of squares."
)
def variance_of_the_laplacian(x, real):
    one, other = (laplacian(v).flatten(1).var(dim=1, correction=0).mean() for v in (x, real))
    return (one / other).item()


@sharpness.wrong("`roll` takes the opposite border for a neighbour: look at inner pixels alone.")
def wrapped_round(x, real):
    return energy(F.pad(x, (1, 1, 1, 1), "circular")) / energy(F.pad(real, (1,) * 4, "circular"))


@sharpness.wrong("The middle pixel counts −4: once for each of its neighbours.")
def middle_counted_once(x, real):
    one, other = (
        (laplacian(v) + 3 * v[..., 1:-1, 1:-1]).square().sum().item() / len(v) for v in (x, real)
    )
    return one / other


@sharpness.wrong("The middle pixel is taken off four times; you add it.")
def middle_added(x, real):
    one, other = (
        (laplacian(v) + 8 * v[..., 1:-1, 1:-1]).square().sum().item() / len(v) for v in (x, real)
    )
    return one / other


@sharpness.wrong("The squares are missing: bright and dark edges cancel.")
def squares_missing(x, real):
    one, other = (laplacian(v).sum().item() / len(v) for v in (x, real))
    return one / other


@sharpness.wrong("You look along the rows only (or the columns only): all four neighbours count.")
def rows_only(x, real):
    one, other = (
        v[..., 1:-1, :].diff(n=2, dim=-1).square().sum().item() / len(v) for v in (x, real)
    )
    return one / other


@sharpness.wrong("You square the sum: the squares of the pixels are added up, not the pixels.")
def squared_sum(x, real):
    one, other = (laplacian(v).flatten(1).sum(dim=1).square().mean().item() for v in (x, real))
    return one / other


@sharpness.wrong("This is the energy of the pictures themselves: the Laplacian is missing.")
def no_laplacian(x, real):
    one, other = (v.square().sum().item() / len(v) for v in (x, real))
    return one / other


@sharpness.wrong("You return the energy of x alone: divide by that of the real pictures.")
def not_divided(x, real):
    return energy(x)


@sharpness.wrong("Your Laplacian looks at all eight neighbours; here it is the four next ones.")
def eight_neighbours(x, real):
    kernel = torch.ones(3, 3).to(x).expand(x.shape[1], 1, 3, 3).clone()
    kernel[..., 1, 1] = -8
    one, other = (
        F.conv2d(v, kernel, groups=v.shape[1]).square().sum().item() / len(v) for v in (x, real)
    )
    return one / other


# --- 10.2 -----------------------------------------------------------------------------------------

rate_and_misfit = Exercise(
    "rate_and_misfit",
    level="warm-up",
    minutes=10,
    tests="rates below and above log n, one training picture, a batch that is not all of them, "
    "tiny and huge σ.",
    hint="The rate is a mean over pictures of a sum over latents; what is above log n is misfit.",
)


@rate_and_misfit.cases
def posteriors(rng):
    found = []
    for b, z, scale, n in [(4, 3, 0.3, 60_000), (3, 8, 3.0, 100), (1, 2, 1.0, 1), (5, 4, 4.0, 20)]:
        mu = scale * normals(rng, b, z)
        found.append({"mu": mu, "logvar": normals(rng, b, z) - scale, "n": n})
    far = torch.tensor([[0.0, 0.0], [6.0, 2.0]])  # one picture pays for both
    wide = {"mu": torch.tensor([[0.1, 30.0], [0.0, 1.0]]),  # rows hundreds of nats apart
            "logvar": torch.tensor([[-8.0, 3.0], [0.0, 0.2]]), "n": 10**12}
    narrow = {"mu": normals(rng, 2, 2), "logvar": -12 - 4 * torch.rand(2, 2, generator=rng),
              "n": 60_000}
    blurred = narrow | {"logvar": -narrow["logvar"]}
    return [*found, {"mu": far, "logvar": torch.zeros_like(far), "n": 1_000}, wide, narrow, blurred]


def nats(mu, logvar):
    return divergences.kl_to_standard_normal(mu, logvar).mean().item()


def three_numbers(rate, n):
    return rate, rate / math.log(2), max(0.0, rate - math.log(n))


@rate_and_misfit.reference
def budget(mu, logvar, n):
    return three_numbers(nats(mu, logvar), n)


@rate_and_misfit.wrong("1 nat is 1.44 bits: you go the other way.")
def bits_the_other_way(mu, logvar, n):
    rate, _, misfit = budget(mu, logvar, n)
    return rate, rate * math.log(2), misfit


@rate_and_misfit.wrong("The misfit is a KL and never negative: below log n nothing is known of it.")
def negative_misfit(mu, logvar, n):
    rate, bits, _ = budget(mu, logvar, n)
    return rate, bits, rate - math.log(n)


@rate_and_misfit.wrong("Nats minus bits: the rate in nats goes with log n, not with log₂ n.")
def units_mixed(mu, logvar, n):
    rate, bits, _ = budget(mu, logvar, n)
    return rate, bits, max(0.0, rate - math.log2(n))


@rate_and_misfit.wrong(
    "You take the logarithm of the batch: a code can tell apart the n pictures of the training."
)
def batch_counted(mu, logvar, n):
    return three_numbers(nats(mu, logvar), len(mu))


@rate_and_misfit.wrong("The rate is summed over the pictures; it is their mean.")
def rate_summed(mu, logvar, n):
    return three_numbers(nats(mu, logvar) * len(mu), n)


@rate_and_misfit.wrong("The rate is a mean over the latents; what they carry adds up.")
def rate_per_latent(mu, logvar, n):
    return three_numbers(nats(mu, logvar) / mu.shape[1], n)


@rate_and_misfit.wrong("You read logvar as log σ; it is log σ².")
def logvar_as_log_sigma(mu, logvar, n):
    return three_numbers(nats(mu, 2 * logvar), n)


@rate_and_misfit.wrong(
    "You cut off at 0 picture by picture. The bound is one on the mean over the pictures: average "
    "first, then compare with log n."
)
def picture_by_picture(mu, logvar, n):
    rate, bits, _ = budget(mu, logvar, n)
    each = divergences.kl_to_standard_normal(mu, logvar) - math.log(n)
    return rate, bits, each.clamp(min=0).mean().item()


def summed(each, n):
    """The three numbers of a KL that is the sum of some terms (B, Z)."""
    return three_numbers(each.sum(dim=1).mean().item(), n)


@rate_and_misfit.wrong("The ½ before the sum is missing: the KL is half as large.")
def half_of_kl_missing(mu, logvar, n):
    return three_numbers(2 * nats(mu, logvar), n)


@rate_and_misfit.wrong("The −1 of each latent is missing: a code that is the prior costs nothing.")
def one_missing(mu, logvar, n):
    return summed(0.5 * (mu.square() + logvar.exp() - logvar), n)


@rate_and_misfit.wrong("log σ² is taken *off*: a small σ costs nats.")
def logvar_added(mu, logvar, n):
    return summed(0.5 * (mu.square() + logvar.exp() + logvar - 1), n)


@rate_and_misfit.wrong("σ² is exp(logvar); you use σ itself.")
def sigma_for_variance(mu, logvar, n):
    return summed(0.5 * (mu.square() + (logvar / 2).exp() - logvar - 1), n)


@rate_and_misfit.wrong("The variance is exp(logvar); you use logvar as it is.")
def exp_missing(mu, logvar, n):
    return summed(0.5 * (mu.square() + logvar - logvar - 1), n)


@rate_and_misfit.wrong(
    "Yours is KL(N(0, I)‖N(μ, σ²)), of the prior from the code; the rate is that of the code from "
    "the prior."
)
def reversed_kl(mu, logvar, n):
    return three_numbers(nats(mu * (-logvar / 2).exp(), -logvar), n)


@rate_and_misfit.wrong("μ is squared in the KL.")
def mu_not_squared(mu, logvar, n):
    return summed(0.5 * (mu + logvar.exp() - logvar - 1), n)


@rate_and_misfit.wrong("The means are missing in your KL: codes far from 0 cost nats, too.")
def means_missing(mu, logvar, n):
    return three_numbers(nats(0 * mu, logvar), n)


@rate_and_misfit.wrong("The variances are missing in your KL: narrow codes cost nats, too.")
def variances_missing(mu, logvar, n):
    return three_numbers(nats(mu, 0 * logvar), n)


@rate_and_misfit.wrong("Your sign is turned: a KL is not negative.")
def negative_rate(mu, logvar, n):
    return three_numbers(-nats(mu, logvar), n)


@rate_and_misfit.wrong("The misfit is in bits; asked for is nats, and only the second is in bits.")
def misfit_in_bits(mu, logvar, n):
    rate, bits, misfit = budget(mu, logvar, n)
    return rate, bits, misfit / math.log(2)


@rate_and_misfit.wrong("The rate is in nats twice: a bit is log 2 nats.")
def bits_not_converted(mu, logvar, n):
    rate, _, misfit = budget(mu, logvar, n)
    return rate, rate, misfit


@rate_and_misfit.wrong("You divide the nats by 2 to get bits; a bit is log 2 = 0.69 nats.")
def divided_by_two(mu, logvar, n):
    rate, _, misfit = budget(mu, logvar, n)
    return rate, rate / 2, misfit


@rate_and_misfit.wrong("The bits come second, the misfit last: yours are exchanged.")
def misfit_second(mu, logvar, n):
    rate, bits, misfit = budget(mu, logvar, n)
    return rate, misfit, bits


@rate_and_misfit.wrong("You add up over pictures and average over latents; it is the other way.")
def axes_exchanged(mu, logvar, n):
    return three_numbers(nats(mu, logvar) * len(mu) / mu.shape[1], n)


@rate_and_misfit.wrong("mu and logvar have changed places.")
def exchanged(mu, logvar, n):
    return budget(logvar, mu, n)


@rate_and_misfit.wrong("log σ² is missing in your KL.")
def log_missing(mu, logvar, n):
    return summed(0.5 * (mu.square() + logvar.exp() - 1), n)


@rate_and_misfit.wrong("The first is the rate in nats, the second in bits: yours are exchanged.")
def bits_first(mu, logvar, n):
    rate, bits, misfit = budget(mu, logvar, n)
    return bits, rate, misfit


@rate_and_misfit.wrong(
    "Your third number is what *may* be information, at most log n. The misfit is the rest of the "
    "rate."
)
def information_instead(mu, logvar, n):
    rate, bits, misfit = budget(mu, logvar, n)
    return rate, bits, rate - misfit


@rate_and_misfit.wrong("You take off n itself: n pictures are told apart by log n nats.")
def log_forgotten(mu, logvar, n):
    rate, bits, _ = budget(mu, logvar, n)
    return rate, bits, max(0.0, rate - n)


@rate_and_misfit.wrong("Your third number is the rate again: log n is still to be taken off.")
def nothing_taken_off(mu, logvar, n):
    rate, bits, _ = budget(mu, logvar, n)
    return rate, bits, max(0.0, rate)


@rate_and_misfit.wrong("Of 0 and R − log n the misfit is the *larger*; you take the smaller.")
def smaller_of_both(mu, logvar, n):
    rate, bits, _ = budget(mu, logvar, n)
    return rate, bits, min(0.0, rate - math.log(n))


@rate_and_misfit.wrong("What is above log n is misfit; you return what is missing up to it.")
def misfit_turned(mu, logvar, n):
    rate, bits, _ = budget(mu, logvar, n)
    return rate, bits, max(0.0, math.log(n) - rate)


@rate_and_misfit.wrong("log n is not added to the rate: it is what may be information.")
def log_added(mu, logvar, n):
    rate, bits, _ = budget(mu, logvar, n)
    return rate, bits, max(0.0, rate + math.log(n))


# --- 10.3 -----------------------------------------------------------------------------------------

compare_seeds = Exercise(
    "compare_seeds",
    level="core",
    minutes=15,
    tests="two to ten seeds, few and many pictures, a difference that is always the same, and a "
    "large one.",
    hint="What was repeated? Reduce to one number per repetition first.",
)


@compare_seeds.cases
def scores(rng):
    found = []
    for s, n in [(3, 20), (2, 5), (10, 8), (5, 1), (2, 3_000)]:
        luck = 3 * normals(rng, s, 1)  # what both methods owe to the seed
        a = luck + normals(rng, s, 1) + normals(rng, s, n)
        b = luck + normals(rng, s, 1) + 2 * normals(rng, s, n) + 0.5
        found.append({"a": a, "b": b})
    a = normals(rng, 4, 3)
    # Multiples of ⅛ around 4,096: in float32 their sums are exact, those of their squares not.
    far = (24 * normals(rng, 4, 4)).round() / 8
    return [*found, {"a": a, "b": a - 0.75}, {"a": 4096 + far, "b": -far}]


def mean_and_error(d):
    """The mean of numbers (n,), and its standard error."""
    return d.mean().item(), d.std().item() / math.sqrt(len(d))


@compare_seeds.reference
def paired_by_seed(a, b):
    return mean_and_error((a - b).mean(dim=1))


@compare_seeds.wrong("The sign is turned: the difference is a − b.")
def other_way_round(a, b):
    return paired_by_seed(b, a)


@compare_seeds.wrong(
    "You count every picture as an experiment of its own. Pictures of one training share its luck: "
    "what was repeated is the training, S times."
)
def pictures_as_experiments(a, b):
    return mean_and_error((a - b).flatten())


@compare_seeds.wrong(
    "You treat the two groups of seeds as unrelated, and pay for the luck that a and b have in "
    "common: take the differences seed by seed first."
)
def groups_unrelated(a, b):
    means = [v.mean(dim=1) for v in (a, b)]
    error = math.sqrt(sum(v.var().item() for v in means) / len(a))
    return (a - b).mean().item(), error


@compare_seeds.wrong(
    "You divide by S under the root; the mean was taken from the same S values, so it is S − 1. "
    "With two seeds that matters."
)
def biased_spread(a, b):
    d = (a - b).mean(dim=1)
    return d.mean().item(), d.std(correction=0).item() / math.sqrt(len(d))


@compare_seeds.wrong("This is the spread of the differences; the error of their *mean* has a 1/√S.")
def spread_of_the_differences(a, b):
    d = (a - b).mean(dim=1)
    return d.mean().item(), d.std().item()


@compare_seeds.wrong("You divide the spread by S; the error of a mean falls like 1/√S.")
def divided_by_count(a, b):
    d = (a - b).mean(dim=1)
    return d.mean().item(), d.std().item() / len(d)


@compare_seeds.wrong(
    "You average over the seeds, and count pictures: with more of them the error gets as small as "
    "you like, though no training was repeated. One number per *seed* first."
)
def averaged_over_seeds(a, b):
    return mean_and_error((a - b).mean(dim=0))


@compare_seeds.wrong("The mean difference comes first, its error second.")
def error_first(a, b):
    return paired_by_seed(a, b)[::-1]


@compare_seeds.wrong("You add the pictures up; a model's score is their mean.")
def pictures_added_up(a, b):
    return mean_and_error((a - b).sum(dim=1))


@compare_seeds.wrong("The error of a mean gets *smaller* with √S: divide by it.")
def times_root(a, b):
    mean, error = paired_by_seed(a, b)
    return mean, error * len(a)


@compare_seeds.wrong("This is a's own mean and error: take b off first.")
def one_method_alone(a, b):
    return mean_and_error(a.mean(dim=1))


@compare_seeds.wrong("You divide by √(S − 1); the S − 1 is in the spread already, here it is √S.")
def s_minus_one_twice(a, b):
    d = (a - b).mean(dim=1)
    return d.mean().item(), d.std().item() / math.sqrt(len(d) - 1)


@compare_seeds.wrong("This is 1.96 standard errors, half of an interval; asked for is one.")
def half_of_an_interval(a, b):
    mean, error = paired_by_seed(a, b)
    return mean, 1.96 * error


@compare_seeds.wrong("You take sizes of differences; their sign says which method is better.")
def sizes_of_differences(a, b):
    return mean_and_error((a - b).mean(dim=1).abs())


@compare_seeds.wrong("You add the seeds' differences up; asked for is their mean.")
def differences_added_up(a, b):
    mean, error = paired_by_seed(a, b)
    return mean * len(a), error


@compare_seeds.wrong(
    "You add the two spreads as if a and b were unrelated; they share each seed's luck, and in "
    "their difference it cancels."
)
def spreads_added(a, b):
    spread = sum(v.mean(dim=1).std().item() for v in (a, b))
    return (a - b).mean().item(), spread / math.sqrt(len(a))


@compare_seeds.wrong("This is the spread of the pictures; asked for is that of the seeds' means.")
def spread_of_pictures(a, b):
    d = a - b
    return d.mean().item(), d.std(dim=1).mean().item() / math.sqrt(len(d))


@compare_seeds.wrong("Your error is squared: it is the variance of the mean.")
def variance_of_the_mean(a, b):
    mean, error = paired_by_seed(a, b)
    return mean, error**2


# --- 10.4 -----------------------------------------------------------------------------------------

energy_distance = Exercise(
    "energy_distance",
    level="core",
    minutes=25,
    tests="sets of unequal and of equal size, two pictures only, sets that share pictures, and one "
    "that holds a picture twice.",
    hint="Three mean distances: between the sets, within the one, and within the other.",
    atol=1e-5,
)


@energy_distance.cases
def sets(rng):
    sizes = [(6, 9, 4), (2, 5, 3), (8, 4, 2), (3, 2, 10)]
    drawn = [{"x": normals(rng, n, d), "y": 1.5 * normals(rng, m, d) + 0.3} for n, m, d in sizes]
    shared = normals(rng, 5, 3)
    twice = normals(rng, 5, 3)
    twice[3] = twice[1]
    return [*drawn, {"x": shared, "y": shared[1:].clone()},
            {"x": twice, "y": 0.5 + normals(rng, 5, 3)}]


def distances(a, b):
    return (a[:, None] - b[None]).norm(dim=-1)


def between(a, b):
    return distances(a, b).mean().item()


def within(a):
    return distances(a, a).sum().item() / (len(a) * (len(a) - 1))


@energy_distance.reference
def minus_what_is_within(x, y):
    return 2 * between(x, y) - within(x) - within(y)


@energy_distance.wrong(
    "This is still the broken program: it asks how far a picture is from *some* real one, and the "
    "average picture is nearest to all."
)
def broken_ruler(x, y):
    n = min(len(x), len(y))
    return (x[:n] - y[:n]).square().mean().item()


@energy_distance.wrong(
    "All pairs now, but still only between the sets: real pictures would not score 0, for they are "
    "far from each other as well."
)
def between_only(x, y):
    return 2 * between(x, y)


@energy_distance.wrong("The distance between the sets counts twice: two others are taken off.")
def between_counted_once(x, y):
    return between(x, y) - within(x) - within(y)


@energy_distance.wrong(
    "What lies within x isn't taken off: two samples of one distribution must score 0 on average."
)
def one_side_only(x, y):
    return 2 * between(x, y) - within(y)


@energy_distance.wrong(
    "What lies within y isn't taken off: two samples of one distribution must score 0 on average."
)
def other_side_only(x, y):
    return 2 * between(x, y) - within(x)


@energy_distance.wrong(
    "The distances are squared. Then everything but the means cancels, and the average picture, "
    "which has the right mean, would score 0."
)
def squared_distances(x, y):
    def mean_square(a, b, pairs):
        return distances(a, b).square().sum().item() / pairs

    n, m = len(x), len(y)
    apart = 2 * mean_square(x, y, n * m)
    return apart - mean_square(x, x, n * (n - 1)) - mean_square(y, y, m * (m - 1))


@energy_distance.wrong(
    "Each picture is compared with itself too. Those zeros make what is within too small, and the "
    "more so the smaller the set: divide by N(N − 1)."
)
def compared_with_itself(x, y):
    return 2 * between(x, y) - between(x, x) - between(y, y)


@energy_distance.wrong(
    "You leave out every distance of 0. Two *different* pictures of a set may be equal, and that "
    "pair counts: leave out the diagonal alone."
)
def zeros_left_out(x, y):
    inside = [distances(v, v) for v in (x, y)]
    return 2 * between(x, y) - sum(d[d > 0].mean().item() for d in inside)


@energy_distance.wrong("Each pair counts once, but you divide by N(N − 1): half of the mean.")
def half_of_the_pairs(x, y):
    return 2 * between(x, y) - within(x) / 2 - within(y) / 2


@energy_distance.wrong(
    "Below 0 you return 0. An unbiased estimate of 0 has to fall below at times; cut off, its mean "
    "is too large."
)
def cut_off(x, y):
    return max(minus_what_is_within(x, y), 0.0)


@energy_distance.wrong("The sign is turned: what lies within is taken off what lies between.")
def sign_turned(x, y):
    return -minus_what_is_within(x, y)


@energy_distance.wrong("You take the root, as some do: here the result stays as it is.")
def root_taken(x, y):
    return torch.tensor(minus_what_is_within(x, y)).sqrt().item()


@energy_distance.wrong("You add up absolute differences; ‖x − y‖ is a root of squares.")
def city_blocks(x, y):
    def mean(a, b, pairs):
        return (a[:, None] - b[None]).abs().sum().item() / pairs

    n, m = len(x), len(y)
    return 2 * mean(x, y, n * m) - mean(x, x, n * (n - 1)) - mean(y, y, m * (m - 1))


@energy_distance.wrong(
    "Between the sets you compare row with row; the rows have nothing to do with each other: take "
    "all pairs."
)
def row_with_row(x, y):
    n = min(len(x), len(y))
    apart = (x[:n] - y[:n]).norm(dim=1).mean().item()
    return 2 * apart - within(x) - within(y)


@energy_distance.wrong("This is the distance of the average pictures; average the distances.")
def distance_of_means(x, y):
    return (x.mean(dim=0) - y.mean(dim=0)).norm().item()


@energy_distance.wrong("You add the distances up; each of the three terms is a mean over pairs.")
def sums_not_means(x, y):
    return 2 * distances(x, y).sum().item() - sum(distances(v, v).sum().item() for v in (x, y))


@energy_distance.wrong(
    "Within a set you divide by N; there are N(N − 1) pairs of two different pictures."
)
def divided_by_the_pictures(x, y):
    within_both = sum(distances(v, v).sum().item() / len(v) for v in (x, y))
    return 2 * between(x, y) - within_both


@energy_distance.wrong("What lies within counts once for each set; you take it off twice.")
def within_twice(x, y):
    return 2 * between(x, y) - 2 * within(x) - 2 * within(y)


@energy_distance.wrong("What lies within is added; it has to be taken off.")
def within_added(x, y):
    return 2 * between(x, y) + within(x) + within(y)


@energy_distance.wrong("This is half of it: 2·E‖x − y‖ minus both others, not their mean.")
def half_of_it(x, y):
    return minus_what_is_within(x, y) / 2


@energy_distance.wrong(
    "You divide by the pixels under the root: the distance is a sum over them, ‖x − y‖."
)
def mean_over_pixels(x, y):
    return minus_what_is_within(x, y) / math.sqrt(x.shape[1])


# --- 10.5 -----------------------------------------------------------------------------------------

vaegan_gradients = Exercise(
    "vaegan_gradients",
    level="stretch",
    minutes=45,
    tests="the gradients of all three nets, for several sizes, values of γ and a batch of one.",
    hint="Write the three losses first; then, for each net, ask for the gradient of its own alone.",
    free=("grad",),
)


@vaegan_gradients.cases
def three_nets(rng):
    found = []
    for b, z, side, gamma in [(3, 2, 3, 0.1), (1, 3, 2, 2.0)]:
        found.append({
            "x": normals(rng, b, 1, side, side).clamp(-1, 1),
            "noise": normals(rng, b, z),
            "prior": normals(rng, b, z),
            "gamma": gamma,
            "nets": draw_seed(rng),
        })
    return found


def three_losses(
    x, E, G, D, noise, prior, gamma, *, draw=True, judged=(True, True), scale=0.5, total=torch.sum,
    kl=1.0, price=1.0, fools=0.0, leak=0.0, fooling=1.0, saturating=False, twice=False,
    sigma=0.5, pixels=False, turned=1.0, real=1.0, fake=1.0, similar=1.0,
):
    """The losses of E, G and D; the options are what can go wrong in them."""
    mu, logvar = E(x)
    back = G(mu + torch.exp(sigma * logvar) * noise * draw)
    sampled = G(prior)
    seen, seen_back = D.features(x), D.features(back)
    fakes = torch.cat([v for v, used in zip((back, sampled), judged, strict=True) if used])
    fake_logits = D.head(D.features(fakes))
    apart = (x - back if pixels else seen - seen_back).square()
    unlike = scale * total(apart.flatten(1), dim=1).mean()
    rate = divergences.kl_to_standard_normal(mu, logvar).mean()
    fooled = losses.generator_loss(fake_logits) * (2 if twice else 1)
    if saturating:
        fooled = losses.generator_loss_saturating(fake_logits)
    caught = F.softplus(turned * fake_logits).mean() * (2 if twice else 1)
    return {
        "E": price * unlike + kl * rate + fools * fooled,
        "G": similar * gamma * unlike + fooling * fooled,
        "D": real * F.softplus(-(turned * D.head(seen))).mean() + fake * caught + leak * unlike,
    }


def gradients(values, E, G, D):
    """Of each net's own loss, or of `values` if it is one loss for all."""
    found = {}
    for name, net in (("E", E), ("G", G), ("D", D)):
        loss = values[name] if isinstance(values, dict) else values
        found[name] = list(torch.autograd.grad(loss, list(net.parameters()), retain_graph=True))
    return found


def variant(**options):
    def answer(x, E, G, D, noise, prior, gamma):
        return gradients(three_losses(x, E, G, D, noise, prior, gamma, **options), E, G, D)

    return answer


@vaegan_gradients.reference
def each_its_own(x, E, G, D, noise, prior, gamma):
    return variant()(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong(
    "All three nets get the gradient of the *sum* of the losses, so each hears what is meant for "
    "the others. Ask for each net's gradient of its own loss."
)
def one_backward_for_all(x, E, G, D, noise, prior, gamma):
    values = three_losses(x, E, G, D, noise, prior, gamma)
    return gradients(sum(values.values()), E, G, D)


@vaegan_gradients.wrong(
    "E and G are right. D hears the similarity too, and can make it small by making all pictures "
    "look alike: a ruler that measures nothing any more."
)
def ruler_bends_itself(x, E, G, D, noise, prior, gamma):
    return variant(leak=1.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("The encoder hears the GAN's loss: it never tries to fool D.")
def encoder_fools(x, E, G, D, noise, prior, gamma):
    return variant(fools=1.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("E and D are right. γ is missing in the generator's loss.")
def gamma_missing(x, E, G, D, noise, prior, gamma):
    return each_its_own(x, E, G, D, noise, prior, 1.0)


@vaegan_gradients.wrong("E and D are right. γ stands at the generator's other term.")
def gamma_at_the_other_term(x, E, G, D, noise, prior, gamma):
    return variant(fooling=gamma)(x, E, G, D, noise, prior, 1.0)


@vaegan_gradients.wrong("γ is in the encoder's loss too; it weighs the generator's two masters.")
def gamma_in_the_encoder(x, E, G, D, noise, prior, gamma):
    return variant(price=gamma)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("D is right. The ½ of the similarity is missing: −log N(…; …, I) has it.")
def half_missing(x, E, G, D, noise, prior, gamma):
    return variant(scale=1.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("D is right. The similarity is a mean over D's features; it is their sum.")
def mean_over_features(x, E, G, D, noise, prior, gamma):
    return variant(total=torch.mean)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("G and D are right. The KL is missing in the encoder's loss.")
def kl_missing(x, E, G, D, noise, prior, gamma):
    return variant(kl=0.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("You decode μ: the code is to be drawn, with the noise that is given.")
def code_not_drawn(x, E, G, D, noise, prior, gamma):
    return variant(draw=False)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("E is right. D sees samples only; reconstructions are generated, too.")
def samples_only(x, E, G, D, noise, prior, gamma):
    return variant(judged=(False, True))(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong(
    "E is right. D sees reconstructions only: nobody would look at what G makes of N(0, I)."
)
def reconstructions_only(x, E, G, D, noise, prior, gamma):
    return variant(judged=(True, False))(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong(
    "E is right. Reconstructions and samples count as two batches with a loss each; here both are "
    "one batch, so generated pictures weigh as much as real ones."
)
def generated_count_twice(x, E, G, D, noise, prior, gamma):
    return variant(twice=True)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("E and D are right. G's loss is the saturating one, E log(1 − D).")
def saturating_loss(x, E, G, D, noise, prior, gamma):
    return variant(saturating=True)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong(
    "`backward()` on one loss after the other reaches *all* nets: E has heard all three losses, G "
    "also D's, whatever you empty in between."
)
def backward_in_turn(x, E, G, D, noise, prior, gamma):
    values = three_losses(x, E, G, D, noise, prior, gamma)
    heard = {"E": values["E"] + values["G"] + values["D"], "G": values["G"] + values["D"]}
    return gradients(heard | {"D": values["D"]}, E, G, D)


@vaegan_gradients.wrong("E and G draw with σ², exp(logvar); the code is μ + σε.")
def variance_for_sigma(x, E, G, D, noise, prior, gamma):
    return variant(sigma=1.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong(
    "D is right. The similarity is measured in pixels; here it is between what D sees half way."
)
def pixels_compared(x, E, G, D, noise, prior, gamma):
    return variant(pixels=True)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("E and G are right. D's loss is turned: it learns to call real ones fake.")
def judge_turned(x, E, G, D, noise, prior, gamma):
    return variant(turned=-1.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong(
    "D is right. The similarity and the KL are summed over the batch; they are means over it."
)
def batch_summed(x, E, G, D, noise, prior, gamma):
    options = variant(scale=0.5 * len(x), kl=float(len(x)))
    return options(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("G and D are right. The KL is a mean over latents; it is their sum.")
def kl_per_latent(x, E, G, D, noise, prior, gamma):
    return variant(kl=1 / noise.shape[1])(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("E and D are right. G is not asked to fool D: its second term is missing.")
def nobody_fooled(x, E, G, D, noise, prior, gamma):
    return variant(fooling=0.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("E and D are right. L_sim is missing in the generator's loss.")
def generator_hears_the_judge_alone(x, E, G, D, noise, prior, gamma):
    return variant(similar=0.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("E and G are right. D's loss has no term for generated pictures.")
def real_ones_alone(x, E, G, D, noise, prior, gamma):
    return variant(fake=0.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("E and G are right. D's loss has no term for real pictures.")
def generated_ones_alone(x, E, G, D, noise, prior, gamma):
    return variant(real=0.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("σ is missing: the code is μ + σε.")
def noise_not_scaled(x, E, G, D, noise, prior, gamma):
    return variant(sigma=0.0)(x, E, G, D, noise, prior, gamma)


@vaegan_gradients.wrong("G and D are right. The ½ of the KL is missing.")
def half_of_the_kl_missing(x, E, G, D, noise, prior, gamma):
    return variant(kl=2.0)(x, E, G, D, noise, prior, gamma)
