"""Chapter 02: the exercises on the minimax game, their references, and the mistakes people make."""

import math

import torch
from torch.nn import functional as F

from gencourse import losses
from gencourse.checks.core import Exercise, normals

STEM = "02_minimax"


def logit_pairs(rng):
    """Logits of real and generated samples: unequal batches, a batch of one, both dtypes, ±200."""
    drawn = []
    for n, m, dtype in [(6, 6, torch.float64), (3, 8, torch.float64), (1, 2, torch.float32)]:
        real, fake = 3 * normals(rng, n, dtype=dtype), 3 * normals(rng, m, dtype=dtype) - 1
        drawn.append({"real_logits": real, "fake_logits": fake})
    for dtype in (torch.float64, torch.float32):
        real, fake = torch.tensor([-200.0, 200.0, 1.0]), torch.tensor([200.0, -200.0])
        drawn.append({"real_logits": real.to(dtype), "fake_logits": fake.to(dtype)})
    return drawn


def from_probabilities(real_logits, fake_logits):
    """−V by `F.binary_cross_entropy`, which cuts logarithms off at −100."""
    real, fake = real_logits.sigmoid(), fake_logits.sigmoid()
    real = F.binary_cross_entropy(real, torch.ones_like(real))
    return real + F.binary_cross_entropy(fake, torch.zeros_like(fake))


# --- 2.1 ------------------------------------------------------------------------------------------

optimal_discriminator = Exercise(
    "optimal_discriminator",
    level="warm-up",
    minutes=10,
    tests="grids of densities, far tails (1e-60 and less), and places where p, q or both are 0.",
    hint="p/(p + q), and ½ where p + q is exactly 0.",
)


@optimal_discriminator.cases
def densities(rng):
    drawn = [{"p": normals(rng, *s).exp(), "q": normals(rng, *s).exp()} for s in [(5,), (3, 4)]]
    tails = {k: (normals(rng, 4, dtype=torch.float64) - 150).exp() for k in ("p", "q")}
    p = torch.tensor([0.5, 0.0, 0.0, 0.2])
    q = torch.tensor([0.0, 0.3, 0.0, 0.2])
    return [*drawn, tails, {"p": p, "q": q}]


@optimal_discriminator.reference
def best_answer(p, q):
    total = p + q
    return torch.where(total > 0, p / torch.where(total > 0, total, 1), 0.5)


@optimal_discriminator.wrong("Yours is q/(p + q): D is the probability that x is *real*.")
def swapped(p, q):
    return best_answer(q, p)


@optimal_discriminator.wrong("Yours are the odds p/q; as a probability they are odds/(1 + odds).")
def odds(p, q):
    return p / q


@optimal_discriminator.wrong("Yours is the logit log(p/q); asked for is D itself, between 0 and 1.")
def logit(p, q):
    return p.log() - q.log()


@optimal_discriminator.wrong(
    "Where both densities are 0 you get nan: 0/0. By convention D is ½ there."
)
def nan_where_nobody_is(p, q):
    return p / (p + q)


@optimal_discriminator.wrong("Where both densities are 0, D is ½ by convention; yours is 0.")
def zero_where_nobody_is(p, q):
    return p / torch.where(p + q > 0, p + q, 1)


@optimal_discriminator.wrong(
    "A small number below the fraction bar makes D fall to 0 in the tails, where p and q are "
    "smaller still. Only p + q = 0 needs care."
)
def tails_to_zero(p, q):
    return p / (p + q + 1e-12)


@optimal_discriminator.wrong(
    "A small number added above and below makes D ½ in the tails, where p and q are smaller still "
    "and D is most sure. Only p + q = 0 needs care."
)
def tails_to_one_half(p, q):
    return (p + 1e-12) / (p + q + 2e-12)


# --- 2.2 ------------------------------------------------------------------------------------------

js_bound = Exercise(
    "js_bound",
    level="core",
    minutes=15,
    tests="batches of different sizes, a batch of one, logits of ±200; gradients in both.",
    hint="½(V + log 4), with V from logits by `F.logsigmoid`; each mean over its own batch.",
    gradient=("real_logits", "fake_logits"),
)
js_bound.cases(logit_pairs)


@js_bound.reference
def from_value(real_logits, fake_logits):
    value = -losses.discriminator_loss(real_logits, fake_logits)
    return (value + math.log(4)) / 2


@js_bound.wrong("Your result is V itself: JS is at least ½(V + log 4).")
def value_only(real_logits, fake_logits):
    return -losses.discriminator_loss(real_logits, fake_logits)


@js_bound.wrong("You return V + log 4, a bound on twice the JS divergence: the ½ is missing.")
def not_halved(real_logits, fake_logits):
    return 2 * from_value(real_logits, fake_logits)


@js_bound.wrong(
    "It starts from the judge's loss instead of V, and the loss is −V: yours gets *larger* for a "
    "worse judge."
)
def from_the_loss(real_logits, fake_logits):
    return (losses.discriminator_loss(real_logits, fake_logits) + math.log(4)) / 2


@js_bound.wrong("The second term of V is log(1 − D) of the generated samples; you take log D.")
def log_d_twice(real_logits, fake_logits):
    return from_value(real_logits, -fake_logits)


@js_bound.wrong(
    "Logits of ±200 give an infinite value: D is rounded to 0 or 1 before the logarithm. Go from "
    "logits to log D in one step."
)
def log_of_sigmoid(real_logits, fake_logits):
    real, fake = real_logits.sigmoid().log(), (1 - fake_logits.sigmoid()).log()
    return (real.mean() + fake.mean() + math.log(4)) / 2


@js_bound.wrong(
    "Logits of ±200 count as 100: `F.binary_cross_entropy` cuts the logarithms of probabilities "
    "off at −100. Use logits all the way."
)
def cut_off(real_logits, fake_logits):
    return (math.log(4) - from_probabilities(real_logits, fake_logits)) / 2


@js_bound.wrong(
    "You take one mean over both batches together: each expectation is a mean over its own batch, "
    "and the two may differ in size."
)
def one_mean(real_logits, fake_logits):
    both = torch.cat([F.logsigmoid(real_logits), F.logsigmoid(-fake_logits)])
    return (2 * both.mean() + math.log(4)) / 2


@js_bound.wrong(
    "You cut negative bounds off at 0. That is still a bound, but here a bad judge's negative "
    "number is wanted: it says that the judge is worse than a coin."
)
def clipped(real_logits, fake_logits):
    return from_value(real_logits, fake_logits).clamp(min=0)


# --- 2.3 ------------------------------------------------------------------------------------------

generator_gradient = Exercise(
    "generator_gradient",
    level="warm-up",
    minutes=10,
    tests="both losses, a batch of one, both dtypes, and logits of ±200 to the last digit.",
    hint="softplus′ = σ; mind the inner derivative, and that the loss is a mean over B samples.",
    atol=0.0,
)


@generator_gradient.cases
def judged(rng):
    extreme = torch.tensor([-200.0, -40.0, 0.0, 40.0, 200.0], dtype=torch.float64)
    single = torch.tensor([-20.0, 20.0, 2.0])  # float32
    drawn = [3 * normals(rng, 5), 3 * normals(rng, 1) + 4, extreme, single]
    return [{"logits": x.clone(), "saturating": s} for x in drawn for s in (True, False)]


@generator_gradient.reference
def by_hand(logits, saturating):
    return -torch.sigmoid(logits if saturating else -logits) / len(logits)


@generator_gradient.wrong("The losses are exchanged: the saturating one pushes with strength D.")
def exchanged(logits, saturating):
    return by_hand(logits, not saturating)


@generator_gradient.wrong(
    "The sign is wrong: both gradients are negative, so that a step against them raises the logit."
)
def ascending(logits, saturating):
    return -by_hand(logits, saturating)


@generator_gradient.wrong("The loss is a mean over the batch, so each gradient has a factor 1/B.")
def not_a_mean(logits, saturating):
    return by_hand(logits, saturating) * len(logits)


@generator_gradient.wrong(
    "Yours is the derivative in D. The logit is one step further: by the chain rule times "
    "dD/dl = D(1 − D)."
)
def in_the_probability(logits, saturating):
    d = torch.sigmoid(logits)
    return (-1 / (1 - d) if saturating else -1 / d) / len(logits)


@generator_gradient.wrong(
    "Nearly: but 1 − σ(l) has lost its digits where σ(l) is rounded to 1. The same number, exact "
    "to the last digit, is σ(−l)."
)
def digits_lost(logits, saturating):
    d = torch.sigmoid(logits)
    return -(d if saturating else 1 - d) / len(logits)


@generator_gradient.wrong("You return the losses of the samples, not their derivatives.")
def the_losses(logits, saturating):
    return (-F.softplus(logits) if saturating else F.softplus(-logits)) / len(logits)


# --- 2.4 ------------------------------------------------------------------------------------------

judge_loss = Exercise(
    "judge_loss",
    level="core",
    minutes=15,
    tests="−V for batches of different sizes, a batch of one, logits of ±200; both gradients.",
    hint="−V = −E[log D(x)] − E[log(1 − D(G(z)))], with 1 − σ(l) = σ(−l).",
    gradient=("real_logits", "fake_logits"),
)
judge_loss.cases(logit_pairs)
judge_loss.reference(losses.discriminator_loss)


@judge_loss.wrong(
    "This is still the broken program. Ask what value of D on *generated* samples it likes best."
)
def broken(real_logits, fake_logits):
    return F.softplus(-real_logits).mean() + F.softplus(-fake_logits).mean()


@judge_loss.wrong(
    "The second term is right now. But an optimizer makes its loss *small*, and the judge wants V "
    "large: the sign of the whole is turned."
)
def sign_turned(real_logits, fake_logits):
    return -losses.discriminator_loss(real_logits, fake_logits)


@judge_loss.wrong("The judge is paid for the opposite: it learns to call real samples generated.")
def labels_swapped(real_logits, fake_logits):
    return losses.discriminator_loss(-real_logits, -fake_logits)


@judge_loss.wrong(
    "The terms are right now, but logits of ±200 give an infinite loss: D is rounded to 0 or 1 "
    "before the logarithm."
)
def rounded_before_log(real_logits, fake_logits):
    real, fake = real_logits.sigmoid().log(), (1 - fake_logits.sigmoid()).log()
    return -real.mean() - fake.mean()


@judge_loss.wrong(
    "Logits of ±200 count as 100: `F.binary_cross_entropy` cuts the logarithms of probabilities "
    "off at −100. Use logits all the way."
)
def probabilities_cut_off(real_logits, fake_logits):
    return from_probabilities(real_logits, fake_logits)


@judge_loss.wrong("Yours is half of −V: the two expectations add up, they are not averaged.")
def averaged(real_logits, fake_logits):
    return losses.discriminator_loss(real_logits, fake_logits) / 2


@judge_loss.wrong(
    "You take one mean over both batches together: each expectation is a mean over its own batch, "
    "and the two may differ in size."
)
def mean_of_all(real_logits, fake_logits):
    return 2 * torch.cat([F.softplus(-real_logits), F.softplus(fake_logits)]).mean()


# --- 2.5 ------------------------------------------------------------------------------------------

extragradient_step = Exercise(
    "extragradient_step",
    level="stretch",
    minutes=25,
    tests="the game xy, square and oblong matrices, zeros, small and large rates.",
    hint="Look ahead with both players at once; then move from the *old* point with the forces "
    "found there. The force on x is A·y, on y it is Aᵀ·x.",
)


@extragradient_step.cases
def games(rng):
    drawn = []
    for (n, m), eta in [((3, 2), 0.3), ((2, 2), 0.5), ((1, 4), 0.05), ((1, 1), 0.9)]:
        x, y, a = normals(rng, n), normals(rng, m), normals(rng, n, m)
        drawn.append({"x": x, "y": y, "A": a, "eta": eta})
    one = torch.ones(1)
    return [{"x": one, "y": torch.zeros_like(one), "A": one[:, None].clone(), "eta": 0.3}, *drawn]


@extragradient_step.reference
def looking_ahead(x, y, A, eta):
    ahead_x, ahead_y = x - eta * A @ y, y + eta * A.T @ x
    return x - eta * A @ ahead_y, y + eta * A.T @ ahead_x


@extragradient_step.wrong("This is the simultaneous step, which spirals out: look ahead first.")
def simultaneous(x, y, A, eta):
    return x - eta * A @ y, y + eta * A.T @ x


@extragradient_step.wrong("This is the alternating step, which circles: look ahead first.")
def alternating(x, y, A, eta):
    x = x - eta * A @ y
    return x, y + eta * A.T @ x


@extragradient_step.wrong(
    "You move on from the point you looked at: two simultaneous steps. The trial step only tells "
    "the force; the move starts at the old point."
)
def from_the_point_ahead(x, y, A, eta):
    return simultaneous(*simultaneous(x, y, A, eta), A, eta)


@extragradient_step.wrong(
    "In the second half y already sees the new x. Both forces must be taken at the same point, "
    "the one you looked ahead to."
)
def y_sees_the_new_x(x, y, A, eta):
    x_new = x - eta * A @ (y + eta * A.T @ x)
    return x_new, y + eta * A.T @ x_new


@extragradient_step.wrong(
    "In the trial step y already sees the moved x: look ahead with both players at once."
)
def trial_in_turns(x, y, A, eta):
    ahead_x = x - eta * A @ y
    ahead_y = y + eta * A.T @ ahead_x
    return x - eta * A @ ahead_y, y + eta * A.T @ ahead_x


@extragradient_step.wrong("Both players go down V: y wants it large, so it goes up.")
def both_down(x, y, A, eta):
    ahead_x, ahead_y = x - eta * A @ y, y - eta * A.T @ x
    return x - eta * A @ ahead_y, y - eta * A.T @ ahead_x


@extragradient_step.wrong("The players are exchanged: x makes V small, y makes it large.")
def players_exchanged(x, y, A, eta):
    return looking_ahead(x, y, A, -eta)


@extragradient_step.wrong("You look ahead only half a step: here the trial step has the full η.")
def half_a_step_ahead(x, y, A, eta):
    ahead_x, ahead_y = x - eta / 2 * A @ y, y + eta / 2 * A.T @ x
    return x - eta * A @ ahead_y, y + eta * A.T @ ahead_x


@extragradient_step.wrong(
    "The derivative of xᵀAy in y is Aᵀx, with the transpose: for square matrices nothing complains."
)
def not_transposed(x, y, A, eta):
    ahead_x, ahead_y = x - eta * A @ y, y + eta * A @ x
    return x - eta * A @ ahead_y, y + eta * A @ ahead_x
