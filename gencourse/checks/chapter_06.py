"""Chapter 06: the exercises on mode collapse, their references, and the mistakes people make."""

import math

import torch
from torch.nn import functional as F

from gencourse import evaluate, losses
from gencourse.checks.core import Exercise, draw_seed, normals

STEM = "06_mode_collapse"


# --- 6.1 ------------------------------------------------------------------------------------------

count_modes = Exercise(
    "count_modes",
    level="warm-up",
    minutes=15,
    tests="rings, a line of crowded modes, strays, missing modes, and no sample on a mode at all.",
    hint="A sample belongs to its nearest centre, and to none if that one is too far away.",
    rtol=1e-4,
    atol=1e-5,
)


@count_modes.cases
def clouds(rng):
    def circle(k, dtype=torch.float32):
        angle = 2 * math.pi * torch.arange(k, dtype=dtype) / k
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def near(centres, shares, radius, strays):
        """So many samples well within each mode, some well outside of all, in random order."""
        x = centres.repeat_interleave(torch.tensor(shares), dim=0)
        x = x + 0.3 * radius * (2 * torch.rand(x.shape, generator=rng) - 1).to(x)
        away = 3 + torch.rand((strays, x.shape[1]), generator=rng).to(x)
        both = torch.cat([x, away])
        return both[torch.randperm(len(both), generator=rng)]

    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], dtype=torch.float64)
    ring = circle(8)
    shares = [40, 3, 0, 25, 1, 9, 0, 12]
    a, b = (int(torch.randint(4, 20, (), generator=rng)) for _ in range(2))
    return [
        {"x": near(ring, shares, 0.15, 10), "centres": ring, "radius": 0.15, "least": 5},
        {"x": near(line, [a, b + 20, 2], 0.5, 4), "centres": line, "radius": 1.2, "least": 3},
        {"x": near(circle(4), [a, a, a, a], 0.2, 0), "centres": circle(4), "radius": 0.2,
         "least": 1},
        {"x": near(circle(3), [1, 0, 0], 0.2, 0), "centres": circle(3), "radius": 0.2, "least": 1},
        {"x": near(circle(3), [0, 0, 0], 0.2, 6), "centres": circle(3), "radius": 0.2, "least": 1},
    ]  # fmt: skip


def kl_to_uniform(hits):
    share = hits.double() / hits.sum()
    return (torch.special.xlogy(share, share).sum() + math.log(len(hits))).item()


def hits_of(x, centres, radius):
    distance, nearest = torch.cdist(x, centres).min(dim=1)
    return torch.bincount(nearest[distance <= radius], minlength=len(centres))


@count_modes.reference
def counted(x, centres, radius, least):
    found = evaluate.nearest_modes(x, centres, radius)
    score = evaluate.mode_coverage(found, len(centres), least=least)
    return score.covered, score.on_mode, score.kl


@count_modes.wrong(
    "Strays are counted for the nearest mode, however far away it is: look at `radius` first."
)
def strays_counted(x, centres, radius, least):
    return counted(x, centres, math.inf, least)


@count_modes.wrong(
    "A sample near two centres is counted for both of them: it belongs to the nearest one only."
)
def counted_twice(x, centres, radius, least):
    hits = (torch.cdist(x, centres) <= radius).sum(dim=0)
    return (hits >= least).sum().item(), hits.sum().item() / len(x), kl_to_uniform(hits)


@count_modes.wrong("One sample is enough for you; a mode is covered by `least` samples or more.")
def least_ignored(x, centres, radius, least):
    return counted(x, centres, radius, 1)


@count_modes.wrong("A mode with exactly `least` samples is covered; you ask for one more.")
def one_more(x, centres, radius, least):
    return counted(x, centres, radius, least + 1)


@count_modes.wrong(
    "The KL is nan where a mode has no sample: 0·log 0 counts as 0. It is nan only where no sample "
    "is on any mode."
)
def nan_at_missing_modes(x, centres, radius, least):
    covered, on, kl = counted(x, centres, radius, least)
    return covered, on, kl if (hits_of(x, centres, radius) > 0).all() else math.nan


@count_modes.wrong(
    "The shares that go into the KL don't sum to 1: divide by the samples that are *on* a mode, "
    "not by all."
)
def shares_of_all(x, centres, radius, least):
    covered, on, _ = counted(x, centres, radius, least)
    share = hits_of(x, centres, radius).double() / len(x)
    return covered, on, torch.special.xlogy(share, share * len(centres)).sum().item()


@count_modes.wrong("This is KL(uniform‖shares), infinite as soon as a mode is missing: swap them.")
def from_uniform(x, centres, radius, least):
    covered, on, _ = counted(x, centres, radius, least)
    share = hits_of(x, centres, radius).double()
    share = share / share.sum()
    return covered, on, (-(share * len(centres)).log().mean()).item()


# --- 6.2 ------------------------------------------------------------------------------------------

gradient_penalty = Exercise(
    "gradient_penalty",
    level="core",
    minutes=25,
    tests="the penalty and its gradient in the critic's weights, for points, pictures, a batch of "
    "one, as many samples as pixels, and a flat critic.",
    hint="x̂ per sample, the critic's gradient there *with its graph*, one length per sample.",
    rtol=1e-3,
    atol=1e-5,
)


@gradient_penalty.cases
def critics_and_batches(rng):
    def case(*shape, flat=False):
        return {"net": draw_seed(rng), "flat": flat, "x_real": normals(rng, *shape),
                "x_fake": normals(rng, *shape) - 1,
                "epsilon": torch.rand(shape[0], generator=rng)}  # fmt: skip

    return [case(6, 2), case(4, 2, 3, 4), case(1, 1, 2, 5), case(3, 1, 4, 3),
            case(4, 2, flat=True)]  # fmt: skip


def along(epsilon, x):
    return epsilon.view(-1, *[1] * (x.dim() - 1))


def slopes(critic, x_real, x_fake, epsilon, create_graph=True):
    """∇C(x̂), (B, D)."""
    between = (epsilon * x_real + (1 - epsilon) * x_fake).detach().requires_grad_()
    values = critic(between).sum()
    return torch.autograd.grad(values, between, create_graph=create_graph)[0].flatten(1)


@gradient_penalty.reference
def penalty(critic, x_real, x_fake, epsilon):
    found = slopes(critic, x_real, x_fake, along(epsilon, x_real))
    return (found.norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "The value is right, but no gradient reaches the critic's weights: the penalty is a plain "
    "number and teaches nothing. `torch.autograd.grad` must keep the graph of the gradient."
)
def graph_forgotten(critic, x_real, x_fake, epsilon):
    found = slopes(critic, x_real, x_fake, along(epsilon, x_real), create_graph=False)
    return (found.norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "Each sample has its own length, over *all* its dimensions: you take it over one of them, and "
    "a picture then has one length per pixel."
)
def norm_over_one_dimension(critic, x_real, x_fake, epsilon):
    found = slopes(critic, x_real, x_fake, along(epsilon, x_real)).view_as(x_real)
    return (found.norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong("You take one length over the whole batch; each sample has its own.")
def norm_of_the_batch(critic, x_real, x_fake, epsilon):
    return (slopes(critic, x_real, x_fake, along(epsilon, x_real)).norm() - 1).square()


@gradient_penalty.wrong(
    "ε is lined up with the last dimension instead of the batch: where both happen to have one "
    "size, nothing complains. Give ε a shape of (B, 1, …)."
)
def epsilon_along_the_width(critic, x_real, x_fake, epsilon):
    found = slopes(critic, x_real, x_fake, epsilon)
    return (found.norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong("ε weighs the real sample and 1 − ε the generated one; yours is exchanged.")
def epsilon_swapped(critic, x_real, x_fake, epsilon):
    return penalty(critic, x_fake, x_real, epsilon)


@gradient_penalty.wrong("The slope is pulled towards 1, not towards 0: (‖∇C‖ − 1)², not ‖∇C‖².")
def towards_zero(critic, x_real, x_fake, epsilon):
    return slopes(critic, x_real, x_fake, along(epsilon, x_real)).square().sum(dim=1).mean()


@gradient_penalty.wrong(
    "You compare the *squared* length with 1: that has its minimum at the same place and other "
    "values everywhere else."
)
def squared_length(critic, x_real, x_fake, epsilon):
    found = slopes(critic, x_real, x_fake, along(epsilon, x_real))
    return (found.square().sum(dim=1) - 1).square().mean()


@gradient_penalty.wrong("Slopes below 1 cost nothing with you; here the penalty has two sides.")
def one_sided(critic, x_real, x_fake, epsilon):
    found = slopes(critic, x_real, x_fake, along(epsilon, x_real))
    return (found.norm(dim=1) - 1).clamp(min=0).square().mean()


@gradient_penalty.wrong(
    "The slopes come out B times too small: take the gradient of the *sum* of the critic's values, "
    "not of their mean."
)
def gradient_of_the_mean(critic, x_real, x_fake, epsilon):
    return penalty(lambda x: critic(x) / len(x), x_real, x_fake, epsilon)


@gradient_penalty.wrong("Losses are a mean over the batch; yours is a sum.")
def summed_penalty(critic, x_real, x_fake, epsilon):
    return len(x_real) * penalty(critic, x_real, x_fake, epsilon)


@gradient_penalty.wrong(
    "The value is right, but where the critic is flat the gradient is nan: √ is infinitely steep "
    "at 0. Use `.norm()`, which knows about it, or a small number under the root."
)
def nan_where_flat(critic, x_real, x_fake, epsilon):
    found = slopes(critic, x_real, x_fake, along(epsilon, x_real))
    return (found.square().sum(dim=1).sqrt() - 1).square().mean()


# --- 6.3 ------------------------------------------------------------------------------------------

spectral_norm_of = Exercise(
    "spectral_norm_of",
    level="core",
    minutes=20,
    tests="matrices and convolutions' weights, one round and many, zeros, and the gradient in W.",
    hint="Two products and two normalisations a round; u and v are constants for the gradient.",
    gradient=("W",),
    rtol=1e-3,
    atol=1e-5,
)


@spectral_norm_of.cases
def weights_and_rounds(rng):
    def case(rounds, *shape):
        return {"W": normals(rng, *shape), "u": normals(rng, shape[0]), "rounds": rounds}

    zeros = {"W": torch.zeros(3, 2), "u": torch.ones(3), "rounds": 2}
    square = case(1, 5, 5)
    return [case(1, 4, 6), case(2, 6, 3, 3, 3), case(3, 5, 1), case(30, 3, 2),
            square, zeros]  # fmt: skip


def iterated(W, u, rounds, normalise=F.normalize):
    M = W.flatten(1)
    for _ in range(rounds):
        v = normalise(M.T @ u, dim=0)
        u = normalise(M @ v, dim=0)
    return M, u, v


def in_eval(function):
    """No gradient through what is computed inside."""
    return torch.no_grad()(function)


@spectral_norm_of.reference
def power_iteration(W, u, rounds):
    M, u, v = in_eval(iterated)(W, u, rounds)
    return u @ W.flatten(1) @ v, u


@spectral_norm_of.wrong(
    "The value is right. But the gradient also flows through the iteration: u and v are constants "
    "there, so that ∂σ/∂W = u vᵀ. Iterate under `no_grad`, or detach."
)
def through_the_iteration(W, u, rounds):
    M, u, v = iterated(W, u, rounds)
    return u @ M @ v, u


@spectral_norm_of.wrong(
    "σ and its gradient are right. But the u that you return still hangs on W: the next training "
    "step goes on from it as from a constant. Iterate under `no_grad`, or detach it."
)
def u_with_its_graph(W, u, rounds):
    return power_iteration(W, u, rounds)[0], iterated(W, u, rounds)[1]


@spectral_norm_of.wrong(
    "Without normalising, u and v grow with every round, and uᵀWv is no singular value any more."
)
def not_normalised(W, u, rounds):
    M, u, v = in_eval(iterated)(W, u, rounds, normalise=lambda x, dim: x)
    return u @ W.flatten(1) @ v, u


@spectral_norm_of.wrong("This is the Frobenius norm: the root of the sum of *all* σ², not one.")
def frobenius(W, u, rounds):
    return W.norm(), power_iteration(W, u, rounds)[1]


@spectral_norm_of.wrong("Your result is σ², the eigenvalue of W Wᵀ; take its root.")
def not_rooted(W, u, rounds):
    sigma, u = power_iteration(W, u, rounds)
    return sigma**2, u


@spectral_norm_of.wrong("You do one round, however many are asked for.")
def one_round(W, u, rounds):
    return power_iteration(W, u, 1)


@spectral_norm_of.wrong(
    "You return v, or the u that came in: the next step of the training goes on from the *new* u, "
    "so that one round a step is enough."
)
def old_u(W, u, rounds):
    return power_iteration(W, u, rounds)[0], u


@spectral_norm_of.wrong(
    "A weight of zeros gives nan: dividing by a length of 0. `F.normalize` has a guard against it."
)
def nan_for_zeros(W, u, rounds):
    def normalise(x, dim):
        return x / x.norm()

    M, u, v = in_eval(iterated)(W, u, rounds, normalise)
    return u @ W.flatten(1) @ v, u


# --- 6.4 ------------------------------------------------------------------------------------------

wgan_round = Exercise(
    "wgan_round",
    level="stretch",
    minutes=35,
    tests="both nets' weights after two rounds, with plain and with Adam's steps, one critic step "
    "a round and three.",
    hint="Per critic step a batch and a noise of its own; G moves once, at the end, with the last.",
    free=("grad",),
    rtol=1e-3,
    atol=1e-5,
)


@wgan_round.cases
def games(rng):
    def case(steps, optimizer, batch=5, z_dim=2):
        return {"nets": draw_seed(rng), "x_real": 2 + normals(rng, 2, steps, batch, 2),
                "z": normals(rng, 2, steps + 1, batch, z_dim), "optimizer": optimizer}  # fmt: skip

    return [case(1, "SGD"), case(3, "SGD"), case(2, "Adam"), case(3, "SGD", batch=1)]


def play(G, C, g_opt, c_opt, x_reals, zs, penalty, *, sign=1, g_sign=1, logistic=False, zero=True,
         same_noise=False, g_each=False, penalised=True, g_zero=True, g_noise=-1,
         total=False):  # fmt: skip
    """What the right answer and all the wrong ones are variations of."""

    def move_g(z):
        if g_zero:
            g_opt.zero_grad()
        if logistic:
            losses.generator_loss(C(G(z))).backward()
        else:
            (-g_sign * C(G(z)).mean() * (len(z) if total else 1)).backward()
        g_opt.step()

    for i, x_real in enumerate(x_reals):
        x_fake = G(zs[0 if same_noise else i]).detach()
        if logistic:
            loss = losses.discriminator_loss(C(x_real), C(x_fake))
        else:
            loss = sign * losses.critic_loss(C(x_real), C(x_fake))
            loss = loss * (len(x_real) if total else 1)
        if penalised:
            loss = loss + penalty(C, x_real, x_fake)
        if zero:
            c_opt.zero_grad()
        loss.backward()
        c_opt.step()
        if g_each:
            move_g(zs[g_noise])
    if not g_each:
        move_g(zs[g_noise])


@wgan_round.reference
def one_round_of_the_game(*game):
    play(*game)


@wgan_round.wrong(
    "The critic learns the opposite: it should make C(x) − C(G(z)) large, and an optimizer makes "
    "its loss *small*."
)
def critic_sign(*game):
    play(*game, sign=-1)


@wgan_round.wrong("G's sign is wrong: it wants the critic to value its samples *highly*.")
def generator_sign(*game):
    play(*game, g_sign=-1)


@wgan_round.wrong(
    "These are the losses of a discriminator, with a sigmoid inside. A critic's values are used as "
    "they are: their plain means."
)
def with_a_sigmoid(*game):
    play(*game, logistic=True)


@wgan_round.wrong(
    "The critic's gradients add up from step to step (and G's step leaves some there as well): "
    "zero them before each `backward`."
)
def gradients_add_up(*game):
    play(*game, zero=False)


@wgan_round.wrong("G's gradients add up from round to round: zero them before its `backward`.")
def gradients_of_g_add_up(*game):
    play(*game, g_zero=False)


@wgan_round.wrong("The critic sees generated samples of the same noise in all its steps.")
def same_noise(*game):
    play(*game, same_noise=True)


@wgan_round.wrong(
    "G moves with a noise that the critic has already seen; the last one, `zs[-1]`, is G's own."
)
def noise_of_the_critic(*game):
    play(*game, g_noise=-2)


@wgan_round.wrong("The expectations are means over the batch; yours are sums.")
def summed_values(*game):
    play(*game, total=True)


@wgan_round.wrong("G moves after each critic step; it moves once a round, at the end.")
def g_moves_each_time(*game):
    play(*game, g_each=True)


@wgan_round.wrong("The penalty is missing in the critic's loss: nothing holds its slope.")
def not_penalised(*game):
    play(*game, penalised=False)


# --- 6.5 ------------------------------------------------------------------------------------------

clipped_step = Exercise(
    "clipped_step",
    level="core",
    minutes=15,
    tests="the critic's weights and biases after three steps, with a tight and with a wide clip.",
    hint="A critic has no sigmoid; and the weights themselves must be inside after the step.",
    free=("grad",),
    rtol=1e-3,
    atol=1e-5,
)


@clipped_step.cases
def critics_to_clip(rng):
    def case(clip, batch, shift):
        return {"net": draw_seed(rng), "x_real": normals(rng, 3, batch, 2),
                "x_fake": normals(rng, 3, batch, 2) + shift, "clip": clip}  # fmt: skip

    return [case(0.1, 6, 3), case(1.5, 4, 2), case(0.3, 1, 1)]


def clipping_step(critic, optimizer, x_real, x_fake, clip, *, squash=lambda c: c, weights=True,
                  gradients=False, before=False, low=True, biases=True, sign=1, zero=True,
                  after=False):  # fmt: skip
    def clip_weights():
        with torch.no_grad():
            for weight in critic.parameters():
                if biases or weight.dim() > 1:
                    weight.clamp_(-clip if low else None, clip)

    if before:
        clip_weights()
    score = squash(critic(x_real)).mean() - squash(critic(x_fake)).mean()
    if zero:
        optimizer.zero_grad()
    (-sign * score).backward()
    if gradients:
        torch.nn.utils.clip_grad_value_(critic.parameters(), clip)
    optimizer.step()
    if weights and not before:
        clip_weights()
    if after:
        score = critic(x_real).mean() - critic(x_fake).mean()
    return score.item()


@clipped_step.reference
def right_clip(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip)


@clipped_step.wrong(
    "This is still the broken program. It has two faults: compare the score with what it should be "
    "for far samples, and look at the weights themselves."
)
def still_broken(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, squash=torch.sigmoid,
                         weights=False)  # fmt: skip


@clipped_step.wrong(
    "The weights are clipped now. But the score can't leave [−1, 1]: a critic gives plain values, "
    "without a sigmoid."
)
def still_squashed(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, squash=torch.sigmoid)


@clipped_step.wrong(
    "The sigmoid is gone. But the weights are not clipped: `w.clamp(…)` makes a new tensor, and "
    "nobody keeps it."
)
def still_not_clipped(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, weights=False)


@clipped_step.wrong("You clip the *gradients*. The weights may still grow, in many small steps.")
def gradients_clipped(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, weights=False, gradients=True)


@clipped_step.wrong("You clip before the step, and the step carries the weights out again.")
def clipped_before(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, before=True)


@clipped_step.wrong("You clip at the top only: weights below −c are too large as well.")
def clipped_above(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, low=False)


@clipped_step.wrong("The biases are not clipped; here *all* parameters are, as in the paper.")
def biases_not_clipped(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, biases=False)


@clipped_step.wrong("The critic learns the opposite: its score is to grow, so −score is the loss.")
def score_made_small(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, sign=-1)


@clipped_step.wrong("The critic's gradients add up from step to step: zero them first.")
def old_gradients(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, zero=False)


@clipped_step.wrong("The weights are right; the score was to be the one from *before* the step.")
def score_afterwards(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, after=True)
