"""Chapter 04: the exercises on the first GAN, their references, and the mistakes people make."""

import torch
from torch.nn import functional as F

from gencourse import losses
from gencourse.checks.core import STATISTICS, Exercise, draw_seed, normals

STEM = "04_first_gan"


# --- 4.1 ------------------------------------------------------------------------------------------

gan_losses = Exercise(
    "gan_losses",
    level="warm-up",
    minutes=15,
    tests="both losses, smoothed and not, unequal batches, logits of ±200 in either dtype; "
    "gradients in both.",
    hint="−log D = softplus(−a) and −log(1 − D) = softplus(a); a target t mixes the two.",
    gradient=("real_logits", "fake_logits"),
)


@gan_losses.cases
def judged(rng):
    """One of many logits is ±200: enough to see that log D is cut off, too little to see where.

    So every ε inside a logarithm is recognised as one mistake.
    """
    sizes = [(5, 5, 1.0), (4, 7, 0.9), (1, 1, 0.7)]
    drawn = [{"real_logits": 1.5 * normals(rng, n), "fake_logits": 1.5 * normals(rng, m),
              "target": t} for n, m, t in sizes]
    for dtype, t, fooled in [(torch.float32, 0.9, False), (torch.float32, 1.0, True),
                             (torch.float64, 0.9, True)]:
        real, fake = (5 + normals(rng, 40_000, dtype=dtype) / 10 for _ in range(2))
        real[0] = fake[0] = 200
        sign = -1 if fooled else 1
        drawn.append({"real_logits": sign * real, "fake_logits": -sign * fake, "target": t})
    return drawn


@gan_losses.reference
def from_softplus(real_logits, fake_logits, target):
    real = target * F.softplus(-real_logits) + (1 - target) * F.softplus(real_logits)
    return real.mean() + F.softplus(fake_logits).mean(), losses.generator_loss(fake_logits)


def costs(real_logits, fake_logits):
    """Real pictures taken for real, for generated; generated ones taken for real, for generated."""
    logits = -real_logits, real_logits, -fake_logits, fake_logits
    return [F.softplus(x).mean() for x in logits]


@gan_losses.wrong("The target is left out: L_D is the one without smoothing.")
def target_ignored(real_logits, fake_logits, target):
    return from_softplus(real_logits, fake_logits, 1.0)


@gan_losses.wrong(
    "A target of 0.9 means 90 % of −log D *and* 10 % of −log(1 − D) on real pictures; the second "
    "part is missing, so that D still wants to be certain."
)
def second_part_missing(real_logits, fake_logits, target):
    real, _, g_loss, fake = costs(real_logits, fake_logits)
    return target * real + fake, g_loss


@gan_losses.wrong("You smooth the generated pictures' target as well: here theirs stays 0.")
def both_sides(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    fake = costs(real_logits, fake_logits)[3]
    return d_loss - (1 - target) * (fake - g_loss), g_loss


@gan_losses.wrong("You smooth the generator's loss as well: smoothing is for real pictures only.")
def generator_smoothed(real_logits, fake_logits, target):
    fake = target * F.softplus(-fake_logits) + (1 - target) * F.softplus(fake_logits)
    return from_softplus(real_logits, fake_logits, target)[0], fake.mean()


@gan_losses.wrong("L_G is the saturating loss E[log(1 − D)]; asked for is −E[log D].")
def saturating(real_logits, fake_logits, target):
    d_loss = from_softplus(real_logits, fake_logits, target)[0]
    return d_loss, losses.generator_loss_saturating(fake_logits)


@gan_losses.wrong("The order is exchanged: first the discriminator's loss, then the generator's.")
def exchanged(real_logits, fake_logits, target):
    return from_softplus(real_logits, fake_logits, target)[::-1]


@gan_losses.wrong("L_D is halved: the expectations over real and generated pictures add up.")
def halved(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return d_loss / 2, g_loss


@gan_losses.wrong(
    "Logits of ±200 give inf or nan: D is rounded to 0 or 1 before the logarithm."
)
def log_of_sigmoid(real_logits, fake_logits, target):
    real, fake = real_logits.sigmoid(), fake_logits.sigmoid()
    d_loss = -(target * real.log() + (1 - target) * (1 - real).log()).mean()
    return d_loss - (1 - fake).log().mean(), -fake.log().mean()


@gan_losses.wrong(
    "Logits of ±200 count as 100: `F.binary_cross_entropy` cuts the logarithms of probabilities "
    "off at −100. Use logits all the way."
)
def cut_off(real_logits, fake_logits, target):
    real, fake = real_logits.sigmoid(), fake_logits.sigmoid()
    d_loss = F.binary_cross_entropy(real, torch.full_like(real, target))
    d_loss = d_loss + F.binary_cross_entropy(fake, torch.zeros_like(fake))
    return d_loss, F.binary_cross_entropy(fake, torch.ones_like(fake))


@gan_losses.wrong(
    "Logits of ±200 count as 20 or so: a small ε inside the logarithm, or a clamp, stops it there. "
    "Go from logits to log D in one step, which needs neither."
)
def stopped(real_logits, fake_logits, target):
    def log(t):
        return (t + 1e-9).log()

    real, fake = real_logits.sigmoid(), fake_logits.sigmoid()
    d_loss = -(target * log(real) + (1 - target) * log(1 - real)).mean()
    return d_loss - log(1 - fake).mean(), -log(fake).mean()


@gan_losses.wrong(
    "The sigmoid is taken twice: `…_with_logits`, `logsigmoid` and `softplus` have it in them."
)
def sigmoid_twice(real_logits, fake_logits, target):
    return from_softplus(real_logits.sigmoid(), fake_logits.sigmoid(), target)


@gan_losses.wrong(
    "Real and generated pictures are exchanged in L_D: D is to say *real* of the real ones, and "
    "these cost −log D."
)
def labels_exchanged(real_logits, fake_logits, target):
    real_as_real, real_as_fake, g_loss, _ = costs(real_logits, fake_logits)
    return target * real_as_fake + (1 - target) * real_as_real + g_loss, g_loss


@gan_losses.wrong(
    "D is rewarded for calling generated pictures real: they cost −log(1 − D), not −log D."
)
def all_called_real(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return d_loss - costs(real_logits, fake_logits)[3] + g_loss, g_loss


@gan_losses.wrong(
    "D is rewarded for calling *all* pictures generated: of real ones −log D counts, t times."
)
def all_called_generated(real_logits, fake_logits, target):
    _, real, g_loss, fake = costs(real_logits, fake_logits)
    return real + fake, g_loss


@gan_losses.wrong("t and 1 − t are exchanged: −log D of real pictures counts t times.")
def target_exchanged(real_logits, fake_logits, target):
    return from_softplus(real_logits, fake_logits, 1 - target)


@gan_losses.wrong(
    "Of real pictures only (1 − t)·(−log(1 − D)) is there; the main part, t·(−log D), is missing."
)
def first_part_missing(real_logits, fake_logits, target):
    _, real, g_loss, fake = costs(real_logits, fake_logits)
    return (1 - target) * real + fake, g_loss


@gan_losses.wrong("−log D of real pictures counts in full with you; it counts t times.")
def first_part_in_full(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return d_loss + (1 - target) * costs(real_logits, fake_logits)[0], g_loss


@gan_losses.wrong("−log(1 − D) of real pictures counts in full with you; it counts 1 − t times.")
def second_part_in_full(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return d_loss + target * costs(real_logits, fake_logits)[1], g_loss


@gan_losses.wrong(
    "You subtract (1 − t)·(−log(1 − D)); both parts of the real pictures' cost are added."
)
def second_part_subtracted(real_logits, fake_logits, target):
    real_as_real, real_as_fake, g_loss, fake = costs(real_logits, fake_logits)
    return target * real_as_real - (1 - target) * real_as_fake + fake, g_loss


@gan_losses.wrong("L_D has no part of the real pictures: D would call everything generated.")
def generated_only(real_logits, fake_logits, target):
    _, _, g_loss, fake = costs(real_logits, fake_logits)
    return fake, g_loss


@gan_losses.wrong("L_D has no part of the generated pictures: D would call everything real.")
def real_only(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return d_loss - costs(real_logits, fake_logits)[3], g_loss


@gan_losses.wrong(
    "The generated pictures' part of L_D has the wrong sign: −log(1 − D) is a cost, and positive."
)
def generated_subtracted(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return d_loss - 2 * costs(real_logits, fake_logits)[3], g_loss


@gan_losses.wrong("The sign of L_D is turned: D makes this large, and a loss is made small.")
def d_negated(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return -d_loss, g_loss


@gan_losses.wrong("The sign of L_G is turned: G makes E[log D] large, and a loss is made small.")
def g_negated(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return d_loss, -g_loss


@gan_losses.wrong("Both signs are turned: an optimizer makes a loss small.")
def both_negated(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return -d_loss, -g_loss


@gan_losses.wrong(
    "L_G is −E[log(1 − D)]: whoever makes that small makes pictures that are easy to catch."
)
def g_helps_d(real_logits, fake_logits, target):
    return from_softplus(real_logits, fake_logits, target)[0], costs(real_logits, fake_logits)[3]


@gan_losses.wrong("L_G is the plain mean of the logits, as for a critic; here it is −E[log D].")
def g_of_a_critic(real_logits, fake_logits, target):
    return from_softplus(real_logits, fake_logits, target)[0], -fake_logits.mean()


@gan_losses.wrong("These are a critic's losses: here logits go through logarithms of D first.")
def both_of_a_critic(real_logits, fake_logits, target):
    return losses.critic_loss(real_logits, fake_logits), -fake_logits.mean()


@gan_losses.wrong("Expectations are means over the batch; all of yours are sums.")
def summed(real_logits, fake_logits, target):
    d_loss = real_summed(real_logits, fake_logits, target)[0]
    g_loss = losses.generator_loss(fake_logits) * len(fake_logits)
    return d_loss + (len(fake_logits) - 1) * F.softplus(fake_logits).mean(), g_loss


@gan_losses.wrong("Expectations are means over the batch; that of real pictures is a sum.")
def real_summed(real_logits, fake_logits, target):
    fake = F.softplus(fake_logits).mean()
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return len(real_logits) * (d_loss - fake) + fake, g_loss


@gan_losses.wrong("Expectations are means over the batch; in L_D that of generated ones is a sum.")
def generated_summed(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return d_loss + (len(fake_logits) - 1) * F.softplus(fake_logits).mean(), g_loss


@gan_losses.wrong("L_D is right. L_G is a sum over the batch; an expectation is a mean.")
def g_summed(real_logits, fake_logits, target):
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return d_loss, len(fake_logits) * g_loss


@gan_losses.wrong(
    "L_D is one mean over both batches together: each expectation is a mean over its own batch, "
    "and the two are added."
)
def one_mean(real_logits, fake_logits, target):
    n, m = len(real_logits), len(fake_logits)
    fake = F.softplus(fake_logits).mean()
    d_loss, g_loss = from_softplus(real_logits, fake_logits, target)
    return (n * (d_loss - fake) + m * fake) / (n + m), g_loss


# --- 4.2 ------------------------------------------------------------------------------------------

smoothed_optimum = Exercise(
    "smoothed_optimum",
    level="core",
    minutes=20,
    tests="no smoothing, one-sided and two-sided smoothing, places where p or q is 0, and far "
    "tails.",
    hint="Collect, at one x, all that multiplies log D, and all that multiplies log(1 − D).",
)


@smoothed_optimum.cases
def densities(rng):
    targets = [(1.0, 0.0), (0.9, 0.0), (0.9, 0.1), (0.7, 0.2)]
    drawn = [{"p": normals(rng, 3, 2).exp(), "q": normals(rng, 3, 2).exp(), "real_target": a,
              "fake_target": b} for a, b in targets]
    p, q = torch.tensor([0.4, 0.0]), torch.tensor([0.0, 0.3])
    tail = {k: 1e-30 * normals(rng, 5).exp() for k in "pq"}
    return [*drawn, {"p": p, "q": q, "real_target": 0.8, "fake_target": 0.3},
            {**tail, "real_target": 0.9, "fake_target": 0.2}]


@smoothed_optimum.reference
def point_by_point(p, q, real_target, fake_target):
    return (real_target * p + fake_target * q) / (p + q)


@smoothed_optimum.wrong("This is D* without smoothing: the targets do nothing.")
def unsmoothed(p, q, real_target, fake_target):
    return p / (p + q)


@smoothed_optimum.wrong(
    "Right for one-sided smoothing. With a target β for generated pictures, they too multiply "
    "log D, by βq."
)
def one_sided(p, q, real_target, fake_target):
    return real_target * p / (p + q)


@smoothed_optimum.wrong(
    "You weigh p by α and q by 1 − β, as if the rest were lost. It is not: (1 − α)p multiplies "
    "log(1 − D), and βq multiplies log D."
)
def targets_as_weights(p, q, real_target, fake_target):
    return real_target * p / (real_target * p + (1 - fake_target) * q)


@smoothed_optimum.wrong("You mix D* with α and β, but with the two exchanged.")
def targets_exchanged(p, q, real_target, fake_target):
    return point_by_point(p, q, fake_target, real_target)


@smoothed_optimum.wrong("This is 1 − D*, the probability of *generated*.")
def one_minus(p, q, real_target, fake_target):
    return 1 - point_by_point(p, q, real_target, fake_target)


@smoothed_optimum.wrong("This is D*'s logit; asked for is D* itself, between 0 and 1.")
def its_logit(p, q, real_target, fake_target):
    return point_by_point(p, q, real_target, fake_target).logit()


@smoothed_optimum.wrong("This is a, all that multiplies log D. The best answer is a/(a + b).")
def not_divided(p, q, real_target, fake_target):
    return real_target * p + fake_target * q


@smoothed_optimum.wrong("These are the odds a/b; as a probability they are a/(a + b).")
def odds(p, q, real_target, fake_target):
    a = not_divided(p, q, real_target, fake_target)
    return a / (p + q - a)


@smoothed_optimum.wrong("Real pictures multiply log D by αp; with you they count fully, by p.")
def alpha_left_out(p, q, real_target, fake_target):
    return point_by_point(p, q, 1, fake_target)


@smoothed_optimum.wrong("Generated pictures multiply log D by βq; with you they count fully, by q.")
def beta_left_out(p, q, real_target, fake_target):
    return point_by_point(p, q, real_target, 1)


@smoothed_optimum.wrong("Only βq stands above the bar: real pictures multiply log D too, by αp.")
def real_left_out(p, q, real_target, fake_target):
    return point_by_point(p, q, 0, fake_target)


@smoothed_optimum.wrong("βq is subtracted; what multiplies log D is αp *plus* βq.")
def beta_subtracted(p, q, real_target, fake_target):
    return point_by_point(p, q, real_target, -fake_target)


@smoothed_optimum.wrong(
    "(1 − α)p is lost: it multiplies log(1 − D), and belongs to b. So below the bar stands all of "
    "p, not only αp."
)
def rest_of_alpha_lost(p, q, real_target, fake_target):
    return not_divided(p, q, real_target, fake_target) / (real_target * p + q)


@smoothed_optimum.wrong(
    "βq is counted twice below the bar: only (1 − β)q of the generated pictures is left to "
    "multiply log(1 − D)."
)
def beta_counted_twice(p, q, real_target, fake_target):
    return not_divided(p, q, real_target, fake_target) / (p + q + fake_target * q)


@smoothed_optimum.wrong("Below the bar stands a + b, and both densities are in it; yours is p.")
def divided_by_p(p, q, real_target, fake_target):
    return not_divided(p, q, real_target, fake_target) / p


@smoothed_optimum.wrong("Below the bar stands a + b, and both densities are in it; yours is q.")
def divided_by_q(p, q, real_target, fake_target):
    return not_divided(p, q, real_target, fake_target) / q


@smoothed_optimum.wrong("Your fraction is upside down: D is at most 1.")
def upside_down(p, q, real_target, fake_target):
    return 1 / point_by_point(p, q, real_target, fake_target)


@smoothed_optimum.wrong("D is a probability, and yours is negative: look at the signs of a and b.")
def negative(p, q, real_target, fake_target):
    return -point_by_point(p, q, real_target, fake_target)


@smoothed_optimum.wrong(
    "You cut the old D* off at β and at α. The targets work everywhere: at each x a and b change."
)
def clipped(p, q, real_target, fake_target):
    return unsmoothed(p, q, real_target, fake_target).clamp(fake_target, real_target)


@smoothed_optimum.wrong(
    "A small number below the bar makes D fall to 0 in the tails, where p and q are smaller still. "
    "p + q is never 0 here."
)
def tails_to_zero(p, q, real_target, fake_target):
    return not_divided(p, q, real_target, fake_target) / (p + q + 1e-12)


# --- 4.3 ------------------------------------------------------------------------------------------

best_constant = Exercise(
    "best_constant",
    level="core",
    minutes=15,
    tests="three losses, one and three channels, a single picture, skewed pixel values.",
    hint="Each pixel for itself: which single number is best for N given numbers?",
)


@best_constant.cases
def albums(rng):
    drawn = []
    for shape in [(5, 1, 3, 2), (9, 3, 2, 2), (1, 1, 2, 3)]:
        for loss in ("squared", "absolute", "largest"):
            pictures = 2 * (normals(rng, *shape).exp() / 2).clamp(max=1) - 1  # most of them dark
            drawn.append({"pictures": pictures, "loss": loss})
    return drawn


@best_constant.reference
def pixel_by_pixel(pictures, loss):
    if loss == "squared":
        return pictures.mean(dim=0)
    if loss == "absolute":
        return pictures.median(dim=0).values
    return (pictures.amax(dim=0) + pictures.amin(dim=0)) / 2


@best_constant.wrong("You return the average picture for every loss: it is best by squares only.")
def always_mean(pictures, loss):
    return pictures.mean(dim=0)


@best_constant.wrong("You return the median for every loss: it is best by absolute differences.")
def always_median(pictures, loss):
    return pictures.median(dim=0).values


def instead(pictures, loss, **others):
    """The best for another loss, where one is given."""
    return pixel_by_pixel(pictures, others.get(loss, loss))


@best_constant.wrong("Mean and median are exchanged.")
def mean_and_median_exchanged(pictures, loss):
    return instead(pictures, loss, squared="absolute", absolute="squared")


@best_constant.wrong(
    "The first is right; the other two are exchanged: one number has as many smaller ones as "
    "larger ones, the other lies as far from the smallest as from the largest."
)
def median_and_middle_exchanged(pictures, loss):
    return instead(pictures, loss, absolute="largest", largest="absolute")


@best_constant.wrong(
    "Two of three are right. For absolute differences yours is the mean: move c a little, and "
    "count how many differences grow and how many shrink."
)
def absolute_as_squared(pictures, loss):
    return instead(pictures, loss, absolute="squared")


@best_constant.wrong(
    "Two of three are right. For absolute differences all pictures have a say, not only the two "
    "extremes of a pixel."
)
def absolute_as_largest(pictures, loss):
    return instead(pictures, loss, absolute="largest")


@best_constant.wrong(
    "Two of three are right. For squares all pictures have a say, not only the two extremes of a "
    "pixel."
)
def squared_as_largest(pictures, loss):
    return instead(pictures, loss, squared="largest")


@best_constant.wrong(
    "Two of three are right. For the largest difference yours is the median: one far pixel does "
    "not move it, and it should."
)
def largest_as_absolute(pictures, loss):
    return instead(pictures, loss, largest="absolute")


@best_constant.wrong("For squares you add up all pictures: divide by how many there are.")
def added_up(pictures, loss):
    return pictures.sum(dim=0) if loss == "squared" else pixel_by_pixel(pictures, loss)


@best_constant.wrong(
    "Two of three are right. For the largest difference, look at the two extremes of a pixel: all "
    "other pictures have no say."
)
def largest_as_squared(pictures, loss):
    return instead(pictures, loss, largest="squared")


@best_constant.wrong(
    "Two of three are right. The largest difference is smallest half-way between a pixel's "
    "extremes, and yours is one of the extremes."
)
def one_extreme(pictures, loss):
    return pictures.amax(dim=0) if loss == "largest" else pixel_by_pixel(pictures, loss)


@best_constant.wrong(
    "Two of three are right. For the largest difference yours is a pixel's smallest value: as far "
    "from the largest as can be."
)
def smallest(pictures, loss):
    return pictures.amin(dim=0) if loss == "largest" else pixel_by_pixel(pictures, loss)


@best_constant.wrong(
    "Two of three are right. For the largest difference you add the two extremes; half-way between "
    "them lies half their sum."
)
def extremes_added(pictures, loss):
    best = pixel_by_pixel(pictures, loss)
    return 2 * best if loss == "largest" else best


@best_constant.wrong(
    "Two of three are right. (max − min)/2 is how *far* the extremes lie from the middle; the "
    "middle itself is asked for."
)
def half_the_range(pictures, loss):
    if loss == "largest":
        return (pictures.amax(dim=0) - pictures.amin(dim=0)) / 2
    return pixel_by_pixel(pictures, loss)


@best_constant.wrong(
    "Two of three are right. Half the largest value would be the middle if the smallest were 0."
)
def half_the_largest(pictures, loss):
    return pictures.amax(dim=0) / 2 if loss == "largest" else pixel_by_pixel(pictures, loss)


@best_constant.wrong("The channels of a pixel have one constant with you; each has its own.")
def one_for_all_channels(pictures, loss):
    together = pictures.flatten(0, 1)[:, None]
    return pixel_by_pixel(together, loss).expand(pictures.shape[1:])


@best_constant.wrong(
    "You return one grey for all pixels: the best constant picture is constant over z, not over "
    "the picture."
)
def one_grey(pictures, loss):
    flat = pictures.flatten()[:, None]
    return pixel_by_pixel(flat, loss).expand(pictures.shape[1:])


@best_constant.wrong("You return the best of the given pictures; it need not be one of them.")
def best_of_the_given(pictures, loss):
    off = (pictures[:, None] - pictures[None]).abs()
    if loss == "largest":
        total = off.amax(dim=0).flatten(1).sum(dim=1)
    else:
        total = (off.square() if loss == "squared" else off).sum(dim=0).flatten(1).sum(dim=1)
    return pictures[total.argmin()]


# --- 4.4 ------------------------------------------------------------------------------------------


def tiny_pairs(rng, options):
    """A small G and D, and a few batches of points and noise."""
    drawn = []
    for steps, batch, extra in options:
        x_real, z = normals(rng, steps, batch, 3) + 1, normals(rng, steps, batch, 2)
        drawn.append({"nets": draw_seed(rng), "x_real": x_real, "z": z, **extra})
    return drawn


gan_step = Exercise(
    "gan_step",
    level="stretch",
    minutes=30,
    tests="the weights of both nets, and both losses, after 2 or 3 steps, with momentum and "
    "without; losses without their graphs.",
    hint="D's turn: zero, backward, step on D(x_real) and D(x_fake.detach()). Then G's turn, "
    "through the new D: zero, backward, step.",
    free=("grad", *STATISTICS),  # G may make its pictures anew for its own turn
)


@gan_step.cases
def short_trainings(rng):
    slow, quick = {"rate": 0.1, "momentum": 0.5}, {"rate": 0.3, "momentum": 0.0}
    graphs = {**quick, "graphs": True}
    return tiny_pairs(rng, [(3, 4, slow), (2, 1, quick), (2, 6, quick), (1, 4, graphs)])


@gan_step.reference
def two_turns(G, D, g_opt, d_opt, x_real, z):
    return _step(G, D, g_opt, d_opt, x_real, z)


def _step(*game, **options):
    d_loss, g_loss = _turns(*game, **options)
    return d_loss.detach(), g_loss.detach()


def _turns(G, D, g_opt, d_opt, x_real, z, *, d_loss_of=losses.discriminator_loss,
           g_loss_of=losses.generator_loss, zero=("d", "g"), again=False):
    """The step, with what wrong answers change: the losses, who zeroes in which turn, the noise."""
    x_fake = G(z)
    d_loss = d_loss_of(D(x_real), D(x_fake.detach()))
    if "d" in zero:
        d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()
    if again:
        x_fake = G(torch.randn_like(z))
    g_loss = g_loss_of(D(x_fake))
    if "g" in zero:
        g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    return d_loss, g_loss


@gan_step.wrong(
    "D's loss reaches G: x_fake is not detached in D's turn, and what arrives in G's weights is "
    "still there when G steps."
)
def not_detached(G, D, g_opt, d_opt, x_real, z):
    d_opt.zero_grad()
    g_opt.zero_grad()
    d_loss = losses.discriminator_loss(D(x_real), D(G(z)))
    d_loss.backward()
    d_opt.step()
    g_loss = losses.generator_loss(D(G(z)))
    g_loss.backward()
    g_opt.step()
    return d_loss.detach(), g_loss.detach()


def _generator_first(G, D, g_opt, d_opt, x_real, z, run_again):
    x_fake = G(z)
    g_loss = losses.generator_loss(D(x_fake))
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    x_fake = (G(z) if run_again else x_fake).detach()
    d_loss = losses.discriminator_loss(D(x_real), D(x_fake))
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()
    return d_loss.detach(), g_loss.detach()


@gan_step.wrong(
    "G's loss comes through the D of before its step: first D learns, then ask the new D about "
    "x_fake."
)
def generator_first(G, D, g_opt, d_opt, x_real, z):
    return _generator_first(G, D, g_opt, d_opt, x_real, z, run_again=False)


@gan_step.wrong(
    "G has its turn before D, and runs again for D's: first D learns, then G answers to the new D."
)
def generator_first_and_again(G, D, g_opt, d_opt, x_real, z):
    return _generator_first(G, D, g_opt, d_opt, x_real, z, run_again=True)


@gan_step.wrong("No gradient is ever zeroed: each step adds to those of all steps before.")
def never_zeroed(G, D, g_opt, d_opt, x_real, z):
    return _step(G, D, g_opt, d_opt, x_real, z, zero=())


@gan_step.wrong(
    "D's gradients are not zeroed before its turn: what G's last turn left in D is stepped on too."
)
def d_not_zeroed(G, D, g_opt, d_opt, x_real, z):
    return _step(G, D, g_opt, d_opt, x_real, z, zero=("g",))


@gan_step.wrong(
    "D's gradients are zeroed too early: G's turn fills them again, for D's next one to add to. "
    "Empty them right before D's own `backward()`."
)
def d_zeroed_too_early(G, D, g_opt, d_opt, x_real, z):
    x_fake = G(z)
    d_loss = losses.discriminator_loss(D(x_real), D(x_fake.detach()))
    d_loss.backward()
    d_opt.step()
    d_opt.zero_grad()
    g_loss = losses.generator_loss(D(x_fake))
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    return d_loss.detach(), g_loss.detach()


@gan_step.wrong("G's gradients are not zeroed: each of its turns adds to those before.")
def g_not_zeroed(G, D, g_opt, d_opt, x_real, z):
    return _step(G, D, g_opt, d_opt, x_real, z, zero=("d",))


@gan_step.wrong(
    "Both losses go backward before either optimizer steps: so D steps on G's loss as well, and "
    "works for its opponent."
)
def d_steps_on_both(G, D, g_opt, d_opt, x_real, z):
    x_fake = G(z)
    d_loss = losses.discriminator_loss(D(x_real), D(x_fake.detach()))
    g_loss = losses.generator_loss(D(x_fake))
    d_opt.zero_grad()
    g_opt.zero_grad()
    d_loss.backward()
    g_loss.backward()
    d_opt.step()
    g_opt.step()
    return d_loss.detach(), g_loss.detach()


@gan_step.wrong("G never moves: in its own turn x_fake must not be detached.")
def detached_twice(G, D, g_opt, d_opt, x_real, z):
    x_fake = G(z).detach()
    d_loss = losses.discriminator_loss(D(x_real), D(x_fake))
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()
    return d_loss.detach(), losses.generator_loss(D(x_fake)).detach()


@gan_step.wrong("G descends log(1 − D), the saturating loss; here it is −log D.")
def saturating_step(G, D, g_opt, d_opt, x_real, z):
    return _step(G, D, g_opt, d_opt, x_real, z, g_loss_of=losses.generator_loss_saturating)


@gan_step.wrong("D's loss is halved: the two expectations add up.")
def half_a_step(G, D, g_opt, d_opt, x_real, z):
    def half(real_logits, fake_logits):
        return losses.discriminator_loss(real_logits, fake_logits) / 2

    return _step(G, D, g_opt, d_opt, x_real, z, d_loss_of=half)


@gan_step.wrong(
    "D is rewarded for calling generated pictures real: its second term is −log(1 − D), not −log D."
)
def d_loves_all(G, D, g_opt, d_opt, x_real, z):
    def wild(real_logits, fake_logits):
        return losses.generator_loss(real_logits) + losses.generator_loss(fake_logits)

    return _step(G, D, g_opt, d_opt, x_real, z, d_loss_of=wild)


@gan_step.wrong("Real and generated are exchanged in D's loss: D is to say *real* of x_real.")
def names_exchanged(*game):
    def exchanged(real_logits, fake_logits):
        return losses.discriminator_loss(fake_logits, real_logits)

    return _step(*game, d_loss_of=exchanged)


@gan_step.wrong(
    "G descends −log(1 − D), as D does: it makes pictures that are easy to catch. It wants D to "
    "say *real*."
)
def g_works_for_d(*game):
    return _step(*game, g_loss_of=lambda fake_logits: F.softplus(fake_logits).mean())


@gan_step.wrong("The losses are means over the batch; yours are sums.")
def steps_on_sums(*game):
    return _step(
        *game,
        d_loss_of=lambda real, fake: F.softplus(-real).sum() + F.softplus(fake).sum(),
        g_loss_of=lambda fake: F.softplus(-fake).sum(),
    )


@gan_step.wrong("D returns logits, and the sigmoid is taken twice: your loss has one in it.")
def squashed_twice(*game):
    return _step(
        *game,
        d_loss_of=lambda real, fake: losses.discriminator_loss(real.sigmoid(), fake.sigmoid()),
        g_loss_of=lambda fake: losses.generator_loss(fake.sigmoid()),
    )


@gan_step.wrong("In G's turn you draw a noise of your own: here it is the same z in both turns.")
def fresh_noise(*game):
    return _step(*game, again=True)


@gan_step.wrong("The step is right, and returned are (L_G, L_D): D's loss comes first.")
def losses_exchanged(*game):
    return _step(*game)[::-1]


@gan_step.wrong("The step is right, and nothing is returned: hand back both losses, (L_D, L_G).")
def losses_kept_back(*game):
    _step(*game)


@gan_step.wrong(
    "The step is right. But the losses that you return still hang on their graphs: whoever keeps "
    "those of 10,000 steps keeps 10,000 graphs. Return numbers, or detach them."
)
def losses_with_graphs(*game):
    return _turns(*game)


# --- 4.5 ------------------------------------------------------------------------------------------

train_pair = Exercise(
    "train_pair",
    level="core",
    minutes=20,
    tests="the weights of both nets, and all losses, as numbers, after trainings of 2 to 5 steps.",
    hint="For each of the two turns: which weights may move, which do, and who zeroes what?",
    free=("grad", *STATISTICS),
)


@train_pair.cases
def longer_trainings(rng):
    return tiny_pairs(rng, [(5, 4, {"rate": 0.1}), (2, 1, {"rate": 0.3}), (4, 6, {"rate": 0.05}),
                            (1, 4, {"rate": 0.1, "graphs": True})])


def _train(G, D, x_real, z, rate, *, g_moves=None, d_moves=None, zero_d=True, zero_late=False,
           zero_g=True, detach=True, deaf=False, old=False, told=torch.Tensor.item):
    """The training, with what wrong answers change."""
    g_opt = torch.optim.SGD(g_moves or list(G.parameters()), lr=rate)
    d_opt = torch.optim.SGD(d_moves or list(D.parameters()), lr=rate)
    d_losses, g_losses = [], []
    for x, noise in zip(x_real, z, strict=True):
        if zero_g:
            g_opt.zero_grad()
        x_fake = G(noise)
        g_loss = losses.generator_loss(D(x_fake))
        gradients = torch.autograd.grad(g_loss, list(G.parameters()), retain_graph=True)
        d_loss = losses.discriminator_loss(D(x), D(x_fake.detach() if detach else x_fake))
        if zero_d:
            d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        if zero_late:
            d_opt.zero_grad()
        if zero_g:
            g_opt.zero_grad()
        if not old:
            x_fake = G(noise)
            g_loss = losses.generator_loss(D(x_fake.detach() if deaf else x_fake))
            g_loss.backward()
        else:
            for parameter, gradient in zip(G.parameters(), gradients, strict=True):
                parameter.grad = gradient
        g_opt.step()
        d_losses.append(told(d_loss))
        g_losses.append(told(g_loss))
    return d_losses, g_losses


@train_pair.reference
def own_weights(G, D, x_real, z, rate):
    return _train(G, D, x_real, z, rate)


@train_pair.wrong(
    "This is still the broken program. Print a weight of D before and after G's turn."
)
def broken(G, D, x_real, z, rate):
    everything = [*G.parameters(), *D.parameters()]
    return _train(G, D, x_real, z, rate, g_moves=everything)


@train_pair.wrong(
    "Each optimizer holds its own net's weights now. But one line had done two things: look for "
    "who zeroes D's gradients now."
)
def d_never_zeroed(G, D, x_real, z, rate):
    return _train(G, D, x_real, z, rate, zero_d=False)


@train_pair.wrong(
    "D stands still in G's turn now. But so does G, for good: in its own turn it must hear D."
)
def deaf_generator(G, D, x_real, z, rate):
    return _train(G, D, x_real, z, rate, deaf=True)


@train_pair.wrong("Now D's turn moves G as well, towards points that are easier to catch.")
def helpful_generator(G, D, x_real, z, rate):
    everything = [*G.parameters(), *D.parameters()]
    return _train(G, D, x_real, z, rate, d_moves=everything, detach=False)


@train_pair.wrong(
    "D stands still in G's turn now. But G's loss comes through the D of before its step: ask the "
    "new D."
)
def through_the_old_one(G, D, x_real, z, rate):
    return _train(G, D, x_real, z, rate, old=True)


@train_pair.wrong("D has no turn of its own any more: its weights are still the first ones.")
def d_never_moves(G, D, x_real, z, rate):
    return _train(G, D, x_real, z, rate, d_moves=[torch.zeros(1, requires_grad=True)])


@train_pair.wrong(
    "D's gradients are zeroed right after its step: G's turn fills them again, and D's next turn "
    "adds to that. Zero them right before D's `backward()`."
)
def d_zeroed_after_its_step(G, D, x_real, z, rate):
    return _train(G, D, x_real, z, rate, zero_d=False, zero_late=True)


@train_pair.wrong(
    "D stands still in G's turn now. But G's gradients add up from step to step: zero them too."
)
def g_never_zeroed(G, D, x_real, z, rate):
    return _train(G, D, x_real, z, rate, zero_g=False)


@train_pair.wrong(
    "Each optimizer holds its own net's weights now. But no gradient is ever zeroed, neither D's "
    "nor G's."
)
def nothing_zeroed(G, D, x_real, z, rate):
    return _train(G, D, x_real, z, rate, zero_d=False, zero_g=False)


@train_pair.wrong("G has its turn before D. The order was right: first D learns, then G asks it.")
def g_first(G, D, x_real, z, rate):
    g_opt, d_opt = (torch.optim.SGD(net.parameters(), lr=rate) for net in (G, D))
    found = [_generator_first(G, D, g_opt, d_opt, x, noise, run_again=True)
             for x, noise in zip(x_real, z, strict=True)]
    return tuple([loss.item() for loss in each] for each in zip(*found, strict=True))


@train_pair.wrong("Both nets learn as they should; the two lists are exchanged, L_D comes first.")
def lists_exchanged(G, D, x_real, z, rate):
    return _train(G, D, x_real, z, rate)[::-1]


@train_pair.wrong(
    "Both nets learn as they should. But the lists hold losses with their graphs, so that every "
    "step's graph stays in memory: keep numbers, `loss.item()`."
)
def lists_of_graphs(G, D, x_real, z, rate):
    return _train(G, D, x_real, z, rate, told=lambda loss: loss)
