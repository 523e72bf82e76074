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
    tests="both losses, smoothed and not, unequal batches, logits of ±200; gradients in both.",
    hint="−log D = softplus(−a) and −log(1 − D) = softplus(a); a target t mixes the two.",
    gradient=("real_logits", "fake_logits"),
)


@gan_losses.cases
def judged(rng):
    sizes = [(5, 5, 1.0), (4, 7, 0.9), (1, 1, 0.7)]
    drawn = [{"real_logits": 3 * normals(rng, n), "fake_logits": 3 * normals(rng, m), "target": t}
             for n, m, t in sizes]
    for dtype, t in ((torch.float64, 0.9), (torch.float32, 1.0)):
        real, fake = torch.tensor([-200.0, 200.0, 1.0]), torch.tensor([200.0, -200.0])
        drawn.append({"real_logits": real.to(dtype), "fake_logits": fake.to(dtype), "target": t})
    return drawn


@gan_losses.reference
def from_softplus(real_logits, fake_logits, target):
    real = target * F.softplus(-real_logits) + (1 - target) * F.softplus(real_logits)
    return real.mean() + F.softplus(fake_logits).mean(), losses.generator_loss(fake_logits)


@gan_losses.wrong("The target is left out: L_D is the one without smoothing.")
def target_ignored(real_logits, fake_logits, target):
    return from_softplus(real_logits, fake_logits, 1.0)


@gan_losses.wrong(
    "A target of 0.9 means 90 % of −log D *and* 10 % of −log(1 − D) on real pictures; the second "
    "part is missing, so that D still wants to be certain."
)
def second_part_missing(real_logits, fake_logits, target):
    real = target * F.softplus(-real_logits).mean()
    return real + F.softplus(fake_logits).mean(), losses.generator_loss(fake_logits)


@gan_losses.wrong("You smooth the generated pictures' target as well: here theirs stays 0.")
def both_sides(real_logits, fake_logits, target):
    real = target * F.softplus(-real_logits) + (1 - target) * F.softplus(real_logits)
    fake = target * F.softplus(fake_logits) + (1 - target) * F.softplus(-fake_logits)
    return real.mean() + fake.mean(), losses.generator_loss(fake_logits)


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


# --- 4.2 ------------------------------------------------------------------------------------------

smoothed_optimum = Exercise(
    "smoothed_optimum",
    level="core",
    minutes=20,
    tests="no smoothing, one-sided and two-sided smoothing, places where p or q is 0.",
    hint="Collect, at one x, all that multiplies log D, and all that multiplies log(1 − D).",
)


@smoothed_optimum.cases
def densities(rng):
    targets = [(1.0, 0.0), (0.9, 0.0), (0.9, 0.1), (0.7, 0.2)]
    drawn = [{"p": normals(rng, 6).exp(), "q": normals(rng, 6).exp(), "real_target": a,
              "fake_target": b} for a, b in targets]  # fmt: skip
    p, q = torch.tensor([0.4, 0.0]), torch.tensor([0.0, 0.3])
    return [*drawn, {"p": p, "q": q, "real_target": 0.8, "fake_target": 0.3}]


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
    for shape, dtype in [((5, 1, 3, 2), torch.float64), ((9, 3, 2, 2), torch.float32),
                         ((1, 1, 2, 3), torch.float64)]:  # fmt: skip
        for loss in ("squared", "absolute", "largest"):
            pictures = 2 * (normals(rng, *shape).exp() / 2).clamp(max=1) - 1  # most of them dark
            drawn.append({"pictures": pictures.to(dtype), "loss": loss})
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


@best_constant.wrong("Mean and median are exchanged.")
def mean_and_median_exchanged(pictures, loss):
    other = {"squared": "absolute", "absolute": "squared"}.get(loss, loss)
    return pixel_by_pixel(pictures, other)


@best_constant.wrong(
    "Two of three are right. For the largest difference, look at the two extremes of a pixel: all "
    "other pictures have no say."
)
def largest_as_squared(pictures, loss):
    return pixel_by_pixel(pictures, "squared" if loss == "largest" else loss)


@best_constant.wrong(
    "Two of three are right. The largest difference is smallest half-way between a pixel's "
    "extremes, and yours is one of the extremes."
)
def one_extreme(pictures, loss):
    return pictures.amax(dim=0) if loss == "largest" else pixel_by_pixel(pictures, loss)


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
    tests="the weights of both nets, and both losses, after 2 to 4 steps with momentum.",
    hint="D's turn: zero, backward, step on D(x_real) and D(x_fake.detach()). Then G's turn, "
    "through the new D: zero, backward, step.",
    free=("grad", *STATISTICS),  # G may make its pictures anew for its own turn
)


@gan_step.cases
def short_trainings(rng):
    slow, quick = {"rate": 0.1, "momentum": 0.5}, {"rate": 0.3, "momentum": 0.0}
    return tiny_pairs(rng, [(3, 4, slow), (2, 1, quick), (4, 6, quick)])


@gan_step.reference
def two_turns(G, D, g_opt, d_opt, x_real, z):
    return _step(G, D, g_opt, d_opt, x_real, z)


def _step(G, D, g_opt, d_opt, x_real, z, *, d_loss_of=losses.discriminator_loss,
          g_loss_of=losses.generator_loss, zero=("d", "g")):  # fmt: skip
    """The step, with what wrong answers change: the losses, and who zeroes in which turn."""
    x_fake = G(z)
    d_loss = d_loss_of(D(x_real), D(x_fake.detach()))
    if "d" in zero:
        d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()
    g_loss = g_loss_of(D(x_fake))
    if "g" in zero:
        g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    return d_loss.detach(), g_loss.detach()


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


# --- 4.5 ------------------------------------------------------------------------------------------

train_pair = Exercise(
    "train_pair",
    level="core",
    minutes=20,
    tests="the weights of both nets, and all losses, after trainings of 2 to 5 steps.",
    hint="For each of the two turns: which weights may move, which do, and who zeroes what?",
    free=("grad", *STATISTICS),
)


@train_pair.cases
def longer_trainings(rng):
    return tiny_pairs(rng, [(5, 4, {"rate": 0.1}), (2, 1, {"rate": 0.3}), (4, 6, {"rate": 0.05})])


def _train(G, D, x_real, z, rate, *, g_moves=None, d_moves=None, zero_d=True, detach=True,
           deaf=False, old=False):  # fmt: skip
    """The training, with what wrong answers change."""
    g_opt = torch.optim.SGD(g_moves or list(G.parameters()), lr=rate)
    d_opt = torch.optim.SGD(d_moves or list(D.parameters()), lr=rate)
    d_losses, g_losses = [], []
    for x, noise in zip(x_real, z, strict=True):
        g_opt.zero_grad()
        x_fake = G(noise)
        g_loss = losses.generator_loss(D(x_fake))
        gradients = torch.autograd.grad(g_loss, list(G.parameters()), retain_graph=True)
        d_loss = losses.discriminator_loss(D(x), D(x_fake.detach() if detach else x_fake))
        if zero_d:
            d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        g_opt.zero_grad()
        if not old:
            x_fake = G(noise)
            g_loss = losses.generator_loss(D(x_fake.detach() if deaf else x_fake))
            g_loss.backward()
        else:
            for parameter, gradient in zip(G.parameters(), gradients, strict=True):
                parameter.grad = gradient
        g_opt.step()
        d_losses.append(d_loss.item())
        g_losses.append(g_loss.item())
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
