"""Chapter 02: the exercises on the minimax game, their references, and the mistakes people make."""

import math

import torch
from torch.nn import functional as F

from gencourse import losses
from gencourse.checks.core import Exercise, normals

STEM = "02_minimax"


def logit_pairs(rng):
    """Logits of real and generated samples: unequal batches, a batch of one, nearly 0, far out.

    One of many logits is ±1000: enough to see that log D is cut off, and too little to see by which
    ε. So all of these are recognised as one mistake.
    """
    drawn = [{"real_logits": 1.5 * normals(rng, n), "fake_logits": 1.5 * normals(rng, m) - 1}
             for n, m in [(6, 6), (3, 8), (1, 2), (300, 1)]]
    drawn.append({"real_logits": normals(rng, 2) / 100, "fake_logits": normals(rng, 3) / 100})
    sure = torch.tensor([200.0, 4.0]), torch.tensor([-200.0, -5.0, -6.0])
    drawn.append(dict(zip(("real_logits", "fake_logits"), sure, strict=True)))
    fooled = normals(rng, 40_000) / 10 - 5
    fooled[0] = -1000
    certain = torch.tensor([1000.0, 900.0])
    return [*drawn, {"real_logits": fooled, "fake_logits": -certain},
            {"real_logits": certain.double(), "fake_logits": -fooled.double()}]


def with_epsilon(real_logits, fake_logits, epsilon=1e-9):
    """−V with log(D + ε)."""
    real, fake = real_logits.sigmoid(), fake_logits.sigmoid()
    return -(real + epsilon).log().mean() - (1 - fake + epsilon).log().mean()


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
    tests="grids of densities, far tails (1e-40 in float32, 1e-300 in float64), large densities, "
    "and places where p, q or both are 0.",
    hint="p/(p + q), and ½ where p + q is exactly 0.",
)


@optimal_discriminator.cases
def densities(rng):
    """In the tails every ε has the same effect, and is recognised."""
    drawn = [{"p": normals(rng, *s).exp(), "q": normals(rng, *s).exp()} for s in [(5,), (3, 4)]]
    zeros = torch.tensor([0.5, 0.0, 0.0, 0.2]), torch.tensor([0.0, 0.3, 0.0, 0.2])
    drawn.append(dict(zip("pq", zeros, strict=True)))
    for least, most, dtype in [(1e-40, 1e37, torch.float32), (1e-300, 1e307, torch.float64)]:
        tail, peak = ({k: size * (normals(rng, 4, dtype=dtype) / 2).exp() for k in "pq"}
                      for size in (least, most))
        far = [[least, 0.0, 0.0], [0.0, least, 0.0]]
        drawn += [tail, peak, {k: torch.tensor(x, dtype=dtype)
                               for k, x in zip("pq", far, strict=True)}]
    return drawn


@optimal_discriminator.reference
def best_answer(p, q):
    return torch.where(p + q > 0, p / (p + q), 0.5)


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


@optimal_discriminator.wrong("Where p alone is 0, D is 0: x can't be real there. Yours is ½.")
def half_without_p(p, q):
    return torch.where(p > 0, best_answer(p, q), 0.5)


@optimal_discriminator.wrong("Where q alone is 0, D is 1: x must be real there. Yours is ½.")
def half_without_q(p, q):
    return torch.where(q > 0, best_answer(p, q), 0.5)


@optimal_discriminator.wrong("D is ½ only where p *and* q are 0; where one of them is, D is sure.")
def half_without_either(p, q):
    return torch.where((p > 0) & (q > 0), best_answer(p, q), 0.5)


@optimal_discriminator.wrong("Where both densities are 0, D is ½ by convention; yours is 1.")
def one_where_nobody_is(p, q):
    return torch.where(p + q > 0, p / (p + q), 1)


@optimal_discriminator.wrong("Yours is a decision, 0 or 1; D says how sure it is.")
def decision(p, q):
    return torch.where(p == q, 0.5, (p > q).to(p.dtype))


@optimal_discriminator.wrong(
    "Densities are no logits: a sigmoid of p − q is not D (one of log p − log q would be)."
)
def sigmoid_of_the_difference(p, q):
    return torch.where(p + q > 0, (p - q).sigmoid(), 0.5)


@optimal_discriminator.wrong("You divide by a sum over all points: D looks at each by itself.")
def divided_by_the_sum(p, q):
    return p / (p + q).sum()


@optimal_discriminator.wrong(
    "A small number below the fraction bar makes D fall to 0 in the tails, where p and q are "
    "smaller still. Only p + q = 0 needs care."
)
def tails_to_zero(p, q):
    return p / (p + q + 1e-12)


@optimal_discriminator.wrong(
    "Whatever is below your smallest sum counts as that sum, and D falls to 0 in the tails. Only "
    "p + q = 0 needs care."
)
def sum_clamped(p, q):
    return torch.where(p + q > 0, p / (p + q).clamp(min=1e-12), 0.5)


@optimal_discriminator.wrong(
    "A small number, added above and below or taken as a limit, makes D ½ in the tails, where p "
    "and q are smaller still and D is most sure. Only p + q = 0 needs care."
)
def tails_to_one_half(p, q):
    return (p + 1e-12) / (p + q + 2e-12)


@optimal_discriminator.wrong(
    "In float64 densities go down to 1e-308: where they are smaller than your ε, D falls to 0; and "
    "in float32 that ε is 0. Only p + q = 0 needs care, and that without an ε."
)
def far_tails_to_zero(p, q):
    return p / (p + q + 1e-80)


@optimal_discriminator.wrong(
    "In float64 densities go down to 1e-308: they count as your smallest sum, and D falls to 0. "
    "Only p + q = 0 needs care."
)
def far_sum_clamped(p, q):
    return torch.where(p + q > 0, p / (p + q).clamp(min=1e-80), 0.5)


@optimal_discriminator.wrong(
    "In float64 densities go down to 1e-308: where they are smaller than your ε or limit, D is ½; "
    "and in float32 that number is 0. Only p + q = 0 needs care, and that without an ε."
)
def far_tails_to_one_half(p, q):
    return torch.where(p + q > 1e-80, p / (p + q), 0.5)


# --- 2.2 ------------------------------------------------------------------------------------------

js_bound = Exercise(
    "js_bound",
    level="core",
    minutes=15,
    tests="batches of different sizes, a batch of one, logits of ±1000; gradients in both.",
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
    "Far-out logits give an infinite value: D is rounded to 0 or 1 before the logarithm. Go from "
    "logits to log D in one step."
)
def log_of_sigmoid(real_logits, fake_logits):
    real, fake = real_logits.sigmoid().log(), (1 - fake_logits.sigmoid()).log()
    return (real.mean() + fake.mean() + math.log(4)) / 2


@js_bound.wrong(
    "Far-out logits count as 100 or so: `F.binary_cross_entropy` cuts the logarithms of "
    "probabilities off at −100, and a clamp does the like. Use logits all the way."
)
def cut_off(real_logits, fake_logits):
    return (math.log(4) - from_probabilities(real_logits, fake_logits)) / 2


@js_bound.wrong(
    "Far-out logits count as 20 or so: a small ε inside the logarithm, or a clamp, stops it there. "
    "Go from logits to log D in one step, which needs neither."
)
def stopped(real_logits, fake_logits):
    return (math.log(4) - with_epsilon(real_logits, fake_logits)) / 2


@js_bound.wrong(
    "The sigmoid is taken twice: `…_with_logits`, `logsigmoid` and `softplus` have it in them."
)
def sigmoid_twice(real_logits, fake_logits):
    return from_value(real_logits.sigmoid(), fake_logits.sigmoid())


@js_bound.wrong("Only the first term of V is there: the judge is paid for generated samples, too.")
def real_only(real_logits, fake_logits):
    return (F.logsigmoid(real_logits).mean() + math.log(4)) / 2


@js_bound.wrong("You add up the batches; an expectation is a mean over the batch.")
def added_up(real_logits, fake_logits):
    return (F.logsigmoid(real_logits).sum() + F.logsigmoid(-fake_logits).sum() + math.log(4)) / 2


@js_bound.wrong("A judge that says ½ to everything proves nothing, a bound of 0. V is then −log 4, "
                "and yours adds only log 2 to it.")
def log_2_added(real_logits, fake_logits):
    return from_value(real_logits, fake_logits) - math.log(2) / 2


@js_bound.wrong("A judge that says ½ to everything proves nothing, a bound of 0: log 4 is halved, "
                "too.")
def log_4_not_halved(real_logits, fake_logits):
    return from_value(real_logits, fake_logits) + math.log(2)


@js_bound.wrong("The sign is turned: V grows with the judge, and so does the bound.")
def bound_negated(real_logits, fake_logits):
    return -from_value(real_logits, fake_logits)


@js_bound.wrong("½·V is there; ½·log 4 is still to be added.")
def log_4_missing(real_logits, fake_logits):
    return from_value(real_logits, fake_logits) - math.log(2)


@js_bound.wrong("The two batches are exchanged: the first one is the real one.")
def batches_exchanged(real_logits, fake_logits):
    return from_value(fake_logits, real_logits)


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
    tests="both losses, a batch of one, both dtypes, and logits of ±700 to the last digit.",
    hint="softplus′ = σ; mind the inner derivative, and that the loss is a mean over B samples.",
    atol=0.0,
)


@generator_gradient.cases
def judged(rng):
    extreme = torch.tensor([-700.0, -200.0, -40.0, 0.0, 40.0, 200.0, 700.0], dtype=torch.float64)
    single = torch.tensor([-80.0, -20.0, 20.0, 80.0, 2.0])
    beyond = torch.tensor([-1000.0, 1000.0])  # exactly 0 and 1, in either dtype
    drawn = [3 * normals(rng, 5), 3 * normals(rng, 1) + 4, extreme, single, beyond, beyond.double()]
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


@generator_gradient.wrong("Yours is the saturating loss's gradient in both cases.")
def always_saturating(logits, saturating):
    return by_hand(logits, True)


@generator_gradient.wrong("Yours is the non-saturating loss's gradient in both cases.")
def never_saturating(logits, saturating):
    return by_hand(logits, False)


@generator_gradient.wrong("Yours is D′ = D(1 − D); asked for is the derivative of the loss.")
def of_the_sigmoid(logits, saturating):
    return torch.sigmoid(logits) * torch.sigmoid(-logits) / len(logits)


@generator_gradient.wrong(
    "Nearly: the inner derivative of −l is −1, so that the second loss pushes up as well."
)
def inner_forgotten(logits, saturating):
    return by_hand(logits, saturating) * (1 if saturating else -1)


@generator_gradient.wrong("Far-out logits give nan: `exp` overflows. `torch.sigmoid` does not.")
def overflown(logits, saturating):
    e = (logits if saturating else -logits).exp()
    return -e / (1 + e) / len(logits)


@generator_gradient.wrong("You return the losses of the samples, not their derivatives.")
def the_losses(logits, saturating):
    return (-F.softplus(logits) if saturating else F.softplus(-logits)) / len(logits)


# --- 2.4 ------------------------------------------------------------------------------------------

judge_loss = Exercise(
    "judge_loss",
    level="core",
    minutes=15,
    tests="−V for batches of different sizes, a batch of one, logits of ±1000; both gradients.",
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
    "The terms are right now, but far-out logits give an infinite loss: D is rounded to 0 or 1 "
    "before the logarithm."
)
def rounded_before_log(real_logits, fake_logits):
    real, fake = real_logits.sigmoid().log(), (1 - fake_logits.sigmoid()).log()
    return -real.mean() - fake.mean()


@judge_loss.wrong(
    "Far-out logits count as 100 or so: `F.binary_cross_entropy` cuts the logarithms of "
    "probabilities off at −100, and a clamp does the like. Use logits all the way."
)
def probabilities_cut_off(real_logits, fake_logits):
    return from_probabilities(real_logits, fake_logits)


@judge_loss.wrong(
    "Far-out logits count as 20 or so: a small ε inside the logarithm, or a clamp, stops it there. "
    "Go from logits to log D in one step, which needs neither."
)
def logarithm_stopped(real_logits, fake_logits):
    return with_epsilon(real_logits, fake_logits)


@judge_loss.wrong(
    "The sigmoid is taken twice: `…_with_logits`, `logsigmoid` and `softplus` have it in them."
)
def two_sigmoids(real_logits, fake_logits):
    return losses.discriminator_loss(real_logits.sigmoid(), fake_logits.sigmoid())


@judge_loss.wrong("You add up the batches; an expectation is a mean over the batch.")
def sum_of_batches(real_logits, fake_logits):
    return F.softplus(-real_logits).sum() + F.softplus(fake_logits).sum()


@judge_loss.wrong("Only the real samples are there: the judge is paid for generated ones, too.")
def only_real(real_logits, fake_logits):
    return F.softplus(-real_logits).mean()


@judge_loss.wrong("Only the generated samples are there: the judge is paid for real ones, too.")
def only_generated(real_logits, fake_logits):
    return F.softplus(fake_logits).mean()


@judge_loss.wrong(
    "This is a critic's loss, a difference of means; here log D and log(1 − D) are asked for."
)
def of_a_critic(real_logits, fake_logits):
    return fake_logits.mean() - real_logits.mean()


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
    tests="the game xy, square and oblong matrices up to 40 × 60, zeros, small and large rates.",
    hint="Look ahead with both players at once; then move from the *old* point with the forces "
    "found there. The force on x is A·y, on y it is Aᵀ·x.",
)


@extragradient_step.cases
def games(rng):
    drawn = []
    sizes = [((3, 2), 0.3), ((2, 2), 0.5), ((1, 4), 0.05), ((1, 1), 0.9), ((40, 60), 0.02)]
    for (n, m), eta in [*sizes, ((3, 3), 2.0)]:
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


@extragradient_step.wrong(
    "The real step is only half as long as it should be: it has the full η, too."
)
def real_step_halved(x, y, A, eta):
    new_x, new_y = looking_ahead(x, y, A, eta)
    return (x + new_x) / 2, (y + new_y) / 2


@extragradient_step.wrong("The trial step, too, has the rate η: yours is much longer.")
def trial_without_eta(x, y, A, eta):
    ahead_x, ahead_y = x - A @ y, y + A.T @ x
    return x - eta * A @ ahead_y, y + eta * A.T @ ahead_x


@extragradient_step.wrong("You return the moves; the new point is the old one and the move.")
def moves_alone(x, y, A, eta):
    new_x, new_y = looking_ahead(x, y, A, eta)
    return new_x - x, new_y - y


@extragradient_step.wrong("Only x looks at where y will be: y, too, needs the force at x's trial.")
def only_x_looks_ahead(x, y, A, eta):
    return looking_ahead(x, y, A, eta)[0], y + eta * A.T @ x
