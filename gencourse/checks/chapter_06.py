"""Chapter 06: the exercises on mode collapse, their references, and the mistakes people make."""

import math

import torch
from torch.nn import functional as F

from gencourse import evaluate, losses
from gencourse.checks.core import STATISTICS, Exercise, draw_seed, normals

STEM = "06_mode_collapse"


# --- 6.1 ------------------------------------------------------------------------------------------

count_modes = Exercise(
    "count_modes",
    level="warm-up",
    minutes=15,
    tests="rings, a line of crowded modes, a thousand modes and one, samples just inside and just "
    "outside the radius and exactly at it, missing modes, and no sample on a mode at all.",
    hint="A sample belongs to its nearest centre, and to none if that one is too far away.",
    rtol=1e-4,
    atol=1e-5,
)


@count_modes.cases
def clouds(rng):
    """All off the axes, so that no other distance counts the same samples; but for two: exactly."""
    inside, outside = torch.tensor([0.95, 0.8, 0.55, 0.0]), torch.tensor([1.05, 1.3, 2.5])

    def around(centres, counts, steps, radius, across):
        """So many samples around each centre, at these shares of the radius in turn."""
        at = centres.repeat_interleave(torch.tensor(counts), dim=0)
        step = steps[torch.arange(len(at)) % len(steps)]
        sign = 2 * torch.randint(2, at.shape, generator=rng) - 1
        return at + radius * step[:, None] * sign * across / across.norm()

    def case(centres, hits, strays, radius, least, exact=None):
        across = torch.ones(centres.shape[1])
        if exact is not None:  # the line: only off it, so that the nearest centre stays the nearest
            across[0] = 0
        parts = [around(centres, hits, inside, radius, across),
                 around(centres, strays, outside, radius, across)]
        x = torch.cat(parts if exact is None else [*parts, exact])
        x = x[torch.randperm(len(x), generator=rng)]
        return {"x": x, "centres": centres, "radius": radius, "least": least}

    def circle(k):
        angle = 2 * math.pi * torch.arange(k) / k
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    ends = torch.tensor([[-1.25, 0, 0], [3.25, 0, 0]])
    grid = torch.cartesian_prod(torch.arange(40.0), torch.arange(25.0))
    drawn = torch.rand(len(grid), generator=rng)
    a, b = (int(torch.randint(4, 20, (), generator=rng)) for _ in range(2))
    shares, missed = [40, 3, 0, 25, 1, 9, 0, 12], [2, 6, 3, 0, 5, 4, 0, 3]
    return [
        case(circle(8), shares, missed, 0.15, 5),
        case(line, [a, b + 20, 1], [3, 3, 0], 1.25, 3, exact=ends),
        case(circle(4), [a, a, a, a], [0, 0, 0, 0], 0.2, 1),
        case(circle(3), [1, 0, 0], [0, 0, 0], 0.2, 1),
        case(circle(3), [0, 0, 0], [2, 1, 3], 0.2, 1),
        case(grid, (drawn < 0.3).long().tolist(), (drawn > 0.9).long().tolist(), 0.3, 1),
        case(torch.tensor([[2.0]]), [3], [2], 0.5, 2),
    ]


def kl_to_uniform(hits):
    share = hits.double() / hits.sum()
    return (torch.special.xlogy(share, share).sum() + math.log(len(hits))).item()


def hits_of(x, centres, radius, p=2.0):
    distance, nearest = torch.cdist(x, centres, p=p).min(dim=1)
    return torch.bincount(nearest[distance <= radius], minlength=len(centres))


def scored(hits, x, least):
    return (hits >= least).sum().item(), hits.sum().item() / len(x), kl_to_uniform(hits)


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
    return scored((torch.cdist(x, centres) <= radius).sum(dim=0), x, least)


@count_modes.wrong(
    "A sample near two centres is counted for the first of them in the list; it belongs to the "
    "nearest one."
)
def first_in_reach(x, centres, radius, least):
    near = torch.cdist(x, centres) <= radius
    first = near.long().argmax(dim=1)[near.any(dim=1)]
    return scored(torch.bincount(first, minlength=len(centres)), x, least)


@count_modes.wrong(
    "You compare the *squared* distance with the radius: take its root, or square the radius."
)
def squared_distance(x, centres, radius, least):
    return counted(x, centres, math.sqrt(radius), least)


@count_modes.wrong("`radius` is a distance from the centre; you take it for a diameter.")
def half_the_radius(x, centres, radius, least):
    return counted(x, centres, radius / 2, least)


@count_modes.wrong("A sample at exactly `radius` is on the mode as well: `<=`, not `<`.")
def less_than(x, centres, radius, least):
    distance, nearest = torch.cdist(x, centres).min(dim=1)
    return scored(torch.bincount(nearest[distance < radius], minlength=len(centres)), x, least)


@count_modes.wrong("You count the samples *farther* away than `radius`; near ones are on a mode.")
def outside_counted(x, centres, radius, least):
    distance, nearest = torch.cdist(x, centres).min(dim=1)
    return scored(torch.bincount(nearest[distance > radius], minlength=len(centres)), x, least)


@count_modes.wrong(
    "Your distance is the sum of the differences along the axes; take the straight line, the root "
    "of the sum of their squares."
)
def along_the_axes(x, centres, radius, least):
    return scored(hits_of(x, centres, radius, p=1.0), x, least)


@count_modes.wrong(
    "Your distance is the largest difference along an axis, so that modes are squares; take the "
    "straight line, the root of the sum of squares."
)
def in_a_square(x, centres, radius, least):
    return scored(hits_of(x, centres, radius, p=math.inf), x, least)


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


def kl_from(find):
    """A wrong answer whose KL alone is wrong: `find` gets the counts of the modes."""

    def answer(x, centres, radius, least):
        covered, on, _ = counted(x, centres, radius, least)
        return covered, on, find(hits_of(x, centres, radius))

    answer.__name__ = find.__name__
    return answer


def entropy_of(hits):
    return math.log(len(hits)) - kl_to_uniform(hits)


@count_modes.wrong(
    "This is the entropy of the shares: largest where all modes are visited alike. The KL is 0 "
    "there, log K less the entropy."
)
@kl_from
def entropy(hits):
    return entropy_of(hits)


@count_modes.wrong("The sum of s·log s is there. Each s is still to be divided by 1/K.")
@kl_from
def uniform_missing(hits):
    return -entropy_of(hits)


@count_modes.wrong("The KL is of counts: make shares of them first, which sum to 1.")
@kl_from
def counts_for_shares(hits):
    return torch.special.xlogy(hits, hits * len(hits)).sum().item() if hits.any() else math.nan


@count_modes.wrong("The KL is in bits; asked for are nats, with the natural logarithm.")
@kl_from
def in_bits(hits):
    return kl_to_uniform(hits) / math.log(2)


@count_modes.wrong("The KL is a sum over the modes; yours is a mean.")
@kl_from
def mean_over_modes(hits):
    return kl_to_uniform(hits) / len(hits)


@count_modes.wrong(
    "K counts only the modes that have a sample with you. It counts all of them, or a collapse to "
    "two of eight modes would look even."
)
@kl_from
def uniform_over_those_found(hits):
    return (hits > 0).sum().log().item() - entropy_of(hits)


@count_modes.wrong("Where no sample is on any mode there are no shares: the KL is nan, not 0.")
@kl_from
def zero_for_none(hits):
    return kl_to_uniform(hits) if hits.any() else 0.0


@count_modes.wrong("Where no sample is on any mode there are no shares: the KL is nan, not log K.")
@kl_from
def largest_for_none(hits):
    return kl_to_uniform(hits) if hits.any() else math.log(len(hits))


@count_modes.wrong("Strays go into the shares of the KL: only samples that are on a mode do.")
def strays_in_the_kl(x, centres, radius, least):
    covered, on, _ = counted(x, centres, radius, least)
    return covered, on, kl_to_uniform(hits_of(x, centres, math.inf))


@count_modes.wrong(
    "Modes with fewer than `least` samples are left out of the KL: all samples on a mode count."
)
def kl_of_the_covered(x, centres, radius, least):
    covered, on, _ = counted(x, centres, radius, least)
    hits = hits_of(x, centres, radius)
    return covered, on, kl_to_uniform(torch.where(hits >= least, hits, 0))


@count_modes.wrong("The second number is a share: divide by how many samples there are.")
def number_on_a_mode(x, centres, radius, least):
    covered, on, kl = counted(x, centres, radius, least)
    return covered, on * len(x), kl


@count_modes.wrong("The second number is the share *on* a mode; yours is that of the strays.")
def share_of_strays(x, centres, radius, least):
    covered, on, kl = counted(x, centres, radius, least)
    return covered, 1 - on, kl


@count_modes.wrong(
    "The second number is the share on *any* mode; yours leaves out modes with fewer than `least`."
)
def share_on_the_covered(x, centres, radius, least):
    covered, _, kl = counted(x, centres, radius, least)
    hits = hits_of(x, centres, radius)
    return covered, hits[hits >= least].sum().item() / len(x), kl


@count_modes.wrong("The first number says how *many* modes are covered; yours is their share.")
def share_of_modes(x, centres, radius, least):
    covered, on, kl = counted(x, centres, radius, least)
    return covered / len(centres), on, kl


@count_modes.wrong("The first number counts the modes that are covered; yours, those that are not.")
def modes_missed(x, centres, radius, least):
    covered, on, kl = counted(x, centres, radius, least)
    return len(centres) - covered, on, kl


@count_modes.wrong("The first number counts *covered* modes; yours is how many modes there are.")
def modes_in_all(x, centres, radius, least):
    return len(centres), *counted(x, centres, radius, least)[1:]


@count_modes.wrong("The first two are exchanged: modes covered, then the share of samples.")
def first_two_exchanged(x, centres, radius, least):
    covered, on, kl = counted(x, centres, radius, least)
    return on, covered, kl


@count_modes.wrong("The last two are exchanged: the share of samples, then the KL.")
def last_two_exchanged(x, centres, radius, least):
    covered, on, kl = counted(x, centres, radius, least)
    return covered, kl, on


# --- 6.2 ------------------------------------------------------------------------------------------

gradient_penalty = Exercise(
    "gradient_penalty",
    level="core",
    minutes=25,
    tests="the penalty and its gradient in the critic's weights, for points, pictures, a batch of "
    "one, as many samples as pixels, a flat critic, and x_fake straight from a generator.",
    hint="x̂ per sample, the critic's gradient there *with its graph*, one length per sample.",
    rtol=1e-3,
    atol=1e-5,
)


@gradient_penalty.cases
def critics_and_batches(rng):
    def case(*shape, flat=False, history=False):
        return {"net": draw_seed(rng), "flat": flat, "history": history,
                "x_real": normals(rng, *shape),
                "x_fake": normals(rng, *shape) - 1,
                "epsilon": torch.rand(shape[0], generator=rng)}

    return [case(6, 2), case(4, 2, 3, 4), case(1, 1, 2, 5), case(3, 1, 4, 3),
            case(4, 2, flat=True), case(3, 2, history=True)]


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


@gradient_penalty.wrong(
    "The penalty is right, and it reaches further than the critic: an x_fake that comes straight "
    "from G carries the gradient on into G. x̂ is a place and nothing else: detach it."
)
def reaches_the_generator(critic, x_real, x_fake, epsilon):
    e = along(epsilon, x_real)
    between = (e * x_real + (1 - e) * x_fake).requires_grad_()
    (found,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (found.flatten(1).norm(dim=1) - 1).square().mean()


def penalty_at(critic, x):
    """The penalty at other places than those between."""
    return penalty(critic, x, x, torch.ones(len(x)))


@gradient_penalty.wrong("x̂ lies between real and generated samples; yours are the real ones.")
def at_real_samples(critic, x_real, x_fake, epsilon):
    return penalty_at(critic, x_real)


@gradient_penalty.wrong("x̂ lies between real and generated samples; yours are the generated ones.")
def at_generated_samples(critic, x_real, x_fake, epsilon):
    return penalty_at(critic, x_fake)


@gradient_penalty.wrong("x̂ is ε·x alone: the other part, (1 − ε)·x̃, is missing.")
def generated_missing(critic, x_real, x_fake, epsilon):
    return penalty_at(critic, along(epsilon, x_real) * x_real)


@gradient_penalty.wrong("x̂ is (1 − ε)·x̃ alone: the other part, ε·x, is missing.")
def real_missing(critic, x_real, x_fake, epsilon):
    return penalty_at(critic, (1 - along(epsilon, x_real)) * x_fake)


@gradient_penalty.wrong("x̃ counts in full with you; its weight is 1 − ε, or x̂ lies elsewhere.")
def generated_in_full(critic, x_real, x_fake, epsilon):
    return penalty_at(critic, along(epsilon, x_real) * x_real + x_fake)


@gradient_penalty.wrong("x counts in full with you; its weight is ε, or x̂ lies elsewhere.")
def real_in_full(critic, x_real, x_fake, epsilon):
    return penalty_at(critic, x_real + (1 - along(epsilon, x_real)) * x_fake)


@gradient_penalty.wrong("The two parts of x̂ are added; you subtract the second from the first.")
def parts_subtracted(critic, x_real, x_fake, epsilon):
    e = along(epsilon, x_real)
    return penalty_at(critic, e * x_real - (1 - e) * x_fake)


@gradient_penalty.wrong("ε·(x − x̃) is the way from x̃ to x̂; x̂ itself is x̃ plus that way.")
def the_way_alone(critic, x_real, x_fake, epsilon):
    return penalty_at(critic, along(epsilon, x_real) * (x_real - x_fake))


@gradient_penalty.wrong("All samples have the first one's ε; each has its own.")
def one_epsilon(critic, x_real, x_fake, epsilon):
    return penalty(critic, x_real, x_fake, epsilon[:1].expand(len(epsilon)))


@gradient_penalty.wrong("You draw ε yourself; it is given, or nobody could say what comes out.")
def own_epsilon(critic, x_real, x_fake, epsilon):
    return penalty(critic, x_real, x_fake, torch.rand(len(epsilon)))


@gradient_penalty.wrong("Your length runs over the batch: it runs over all numbers of one sample.")
def norm_over_the_batch(critic, x_real, x_fake, epsilon):
    found = slopes(critic, x_real, x_fake, along(epsilon, x_real))
    return (found.norm(dim=0) - 1).square().mean()


@gradient_penalty.wrong("‖·‖₂ is the root of the sum of squares; you add up absolute values.")
def absolute_values(critic, x_real, x_fake, epsilon):
    found = slopes(critic, x_real, x_fake, along(epsilon, x_real))
    return (found.norm(p=1, dim=1) - 1).square().mean()


@gradient_penalty.wrong("The distance of the slope from 1 is squared; yours is its absolute value.")
def not_squared(critic, x_real, x_fake, epsilon):
    found = slopes(critic, x_real, x_fake, along(epsilon, x_real))
    return (found.norm(dim=1) - 1).abs().mean()


@gradient_penalty.wrong(
    "The square is missing: slopes below 1 get a negative penalty, and pay for those above."
)
def no_square(critic, x_real, x_fake, epsilon):
    return (slopes(critic, x_real, x_fake, along(epsilon, x_real)).norm(dim=1) - 1).mean()


@gradient_penalty.wrong("The square is around the mean; it belongs around each sample's distance.")
def square_of_the_mean(critic, x_real, x_fake, epsilon):
    return no_square(critic, x_real, x_fake, epsilon).square()


@gradient_penalty.wrong("The sign is turned: a penalty is a cost, at least 0.")
def rewarded(critic, x_real, x_fake, epsilon):
    return -penalty(critic, x_real, x_fake, epsilon)


@gradient_penalty.wrong("You multiply by λ = 10: here the penalty is asked for without its weight.")
def weighted(critic, x_real, x_fake, epsilon):
    return 10 * penalty(critic, x_real, x_fake, epsilon)


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
            square, zeros, case(2, 1, 2, 3)]


def iterated(W, u, rounds, of_v=F.normalize, of_u=F.normalize):
    M = W.flatten(1)
    for _ in range(rounds):
        v = of_v(M.T @ u, dim=0)
        u = of_u(M @ v, dim=0)
    return M, u, v


def unchanged(x, dim):
    return x


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
    M, u, v = in_eval(iterated)(W, u, rounds, unchanged, unchanged)
    return u @ W.flatten(1) @ v, u


@spectral_norm_of.wrong("u is normalised, v is not: it is divided by its length, too.")
def v_not_normalised(W, u, rounds):
    M, u, v = in_eval(iterated)(W, u, rounds, of_v=unchanged)
    return u @ W.flatten(1) @ v, u


@spectral_norm_of.wrong("v is normalised, u is not: it is divided by its length, too.")
def u_not_normalised(W, u, rounds):
    M, u, v = in_eval(iterated)(W, u, rounds, of_u=unchanged)
    return u @ W.flatten(1) @ v, u


@spectral_norm_of.wrong("u stays what it was at the start: each round gives a new v *and* a new u.")
def u_stands_still(W, u, rounds):
    _, _, v = in_eval(iterated)(W, u, 1)
    return u @ W.flatten(1) @ v, u


@spectral_norm_of.wrong("You do one round more than are asked for.")
def one_round_more(W, u, rounds):
    return power_iteration(W, u, rounds + 1)


@spectral_norm_of.wrong(
    "Your σ is the length of Wᵀu with the new u, half a round further; asked for is uᵀWv."
)
def half_a_round_more(W, u, rounds):
    _, u, _ = in_eval(iterated)(W, u, rounds)
    return (u @ W.flatten(1)).norm(), u


@spectral_norm_of.wrong(
    "This is σ itself, from an SVD; asked for is what so many rounds of power iteration find."
)
def exact(W, u, rounds):
    return torch.linalg.matrix_norm(W.flatten(1), ord=2), power_iteration(W, u, rounds)[1]


@spectral_norm_of.wrong(
    "You begin with a u of your own: begin with the one that is given, where the last step stopped."
)
def own_start(W, u, rounds):
    return power_iteration(W, torch.randn(len(u)), rounds)


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

    M, u, v = in_eval(iterated)(W, u, rounds, normalise, normalise)
    return u @ W.flatten(1) @ v, u


# --- 6.4 ------------------------------------------------------------------------------------------

wgan_round = Exercise(
    "wgan_round",
    level="stretch",
    minutes=35,
    tests="both nets' weights after one round and two, with plain and with Adam's steps, one "
    "critic step a round and three.",
    hint="Per critic step a batch and a noise of its own; G moves once, at the end, with the last.",
    free=("grad", *STATISTICS),  # G may make its pictures anew
    rtol=1e-3,
    atol=1e-5,
)


@wgan_round.cases
def games(rng):
    def case(rounds, steps, optimizer, batch=5):
        return {"nets": draw_seed(rng), "x_real": 2 + normals(rng, rounds, steps, batch, 2),
                "z": normals(rng, rounds, steps + 1, batch, 2), "optimizer": optimizer}

    return [case(1, 1, "SGD"), case(2, 3, "SGD"), case(2, 2, "Adam"), case(1, 3, "SGD", batch=1)]


def play(G, C, g_opt, c_opt, x_reals, zs, penalty, *, sign=1, g_sign=1, logistic=False, zero=True,
         same_noise=False, g_first=False, g_each=False, penalised=True, g_zero=True, g_noise=-1,
         total=False):
    """What the right answer and all the wrong ones are variations of."""

    def move_g(z):
        if g_zero:
            g_opt.zero_grad()
        if logistic:
            losses.generator_loss(C(G(z))).backward()
        else:
            (-g_sign * C(G(z)).mean() * (len(z) if total else 1)).backward()
        g_opt.step()

    if g_first:
        move_g(zs[g_noise])
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
    if not g_each and not g_first:
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


@wgan_round.wrong("The penalty is subtracted: a critic that makes its loss small then grows steep.")
def penalty_subtracted(G, C, g_opt, c_opt, x_reals, zs, penalty):
    play(G, C, g_opt, c_opt, x_reals, zs, lambda *given: -penalty(*given))


@wgan_round.wrong("`penalty` gets the critic, then x_real, then x_fake; you exchange the last two.")
def penalty_exchanged(G, C, g_opt, c_opt, x_reals, zs, penalty):
    play(G, C, g_opt, c_opt, x_reals, zs, lambda C, x_real, x_fake: penalty(C, x_fake, x_real))


@wgan_round.wrong("The critic sees the first real batch in all its steps: each step has its own.")
def first_batch_again(G, C, g_opt, c_opt, x_reals, zs, penalty):
    play(G, C, g_opt, c_opt, [x_reals[0]] * len(x_reals), zs, penalty)


@wgan_round.wrong("The critic takes one step only: one for each batch of `x_reals`.")
def one_critic_step(G, C, g_opt, c_opt, x_reals, zs, penalty):
    play(G, C, g_opt, c_opt, x_reals[:1], zs, penalty)


@wgan_round.wrong(
    "The critic takes one step on all batches together: a step after each batch, and the next one "
    "sees the new critic."
)
def one_large_step(G, C, g_opt, c_opt, x_reals, zs, penalty):
    c_opt.zero_grad()
    for x_real, z in zip(x_reals, zs[:-1], strict=True):
        x_fake = G(z).detach()
        (losses.critic_loss(C(x_real), C(x_fake)) + penalty(C, x_real, x_fake)).backward()
    c_opt.step()
    play(G, C, g_opt, c_opt, [], zs, penalty)


@wgan_round.wrong("G moves first; it moves at the end, when the critic has learned.")
def g_moves_first(*game):
    play(*game, g_first=True)


@wgan_round.wrong("G moves with the first noise, `zs[0]`; the last one, `zs[-1]`, is G's own.")
def first_noise(*game):
    play(*game, g_noise=0)


# --- 6.5 ------------------------------------------------------------------------------------------

clipped_step = Exercise(
    "clipped_step",
    level="core",
    minutes=15,
    tests="the critic's weights and biases after three steps, with a tight and with a wide clip, "
    "and the scores, as numbers.",
    hint="A critic has no sigmoid; and the weights themselves must be inside after the step.",
    free=("grad",),
    rtol=1e-3,
    atol=1e-5,
)


@clipped_step.cases
def critics_to_clip(rng):
    def case(clip, batch, shift):
        return {"net": draw_seed(rng), "x_real": normals(rng, 3, batch, 2),
                "x_fake": normals(rng, 3, batch, 2) + shift, "clip": clip}

    return [case(0.1, 6, 3), case(1.5, 4, 2), case(0.3, 1, 1),
            {**case(0.3, 2, 1), "graphs": True}]


def clipping_step(critic, optimizer, x_real, x_fake, clip, *, squash=lambda c: c, weights=True,
                  gradients=False, lengths=False, before=False, least=-1, most=1, biases=True,
                  sign=1, zero=True, after=False, told=torch.Tensor.item):
    def clip_weights():
        with torch.no_grad():
            for weight in critic.parameters():
                if biases or weight.dim() > 1:
                    weight.clamp_(least * clip, most * clip)

    if before:
        clip_weights()
    score = squash(critic(x_real)).mean() - squash(critic(x_fake)).mean()
    if zero:
        optimizer.zero_grad()
    (-sign * score).backward()
    if gradients:
        torch.nn.utils.clip_grad_value_(critic.parameters(), clip)
    if lengths:
        torch.nn.utils.clip_grad_norm_(critic.parameters(), clip)
    optimizer.step()
    if weights and not before:
        clip_weights()
    if after:
        score = critic(x_real).mean() - critic(x_fake).mean()
    return told(score)


@clipped_step.reference
def right_clip(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip)


@clipped_step.wrong(
    "This is still the broken program. It has two faults: compare the score with what it should be "
    "for far samples, and look at the weights themselves."
)
def still_broken(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, squash=torch.sigmoid,
                         weights=False)


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


@clipped_step.wrong(
    "You clip the *length of the gradient*, which bounds one step. The weights may still grow, in "
    "many of them."
)
def gradient_length_clipped(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, weights=False, lengths=True)


@clipped_step.wrong("You clip before the step, and the step carries the weights out again.")
def clipped_before(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, before=True)


@clipped_step.wrong("You clip at the top only: weights below −c are too large as well.")
def clipped_above(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, least=-math.inf)


@clipped_step.wrong(
    "You clip at the bottom only, and there at +c: `clamp_(clip)` takes its number for the least."
)
def clipped_below(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, least=1, most=math.inf)


@clipped_step.wrong("You clip to [0, c]: negative weights are wanted as well, down to −c.")
def clipped_at_0(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, least=0)


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


@clipped_step.wrong("The weights are right. Your score has the wrong sign: real less generated.")
def score_negated(critic, optimizer, x_real, x_fake, clip):
    return -clipping_step(critic, optimizer, x_real, x_fake, clip)


@clipped_step.wrong(
    "Real and generated samples are exchanged, in the score and so in what the critic learns."
)
def samples_exchanged(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_fake, x_real, clip)


@clipped_step.wrong("The weights are right, and nothing is returned: the score, as a number.")
def score_kept_back(critic, optimizer, x_real, x_fake, clip):
    clipping_step(critic, optimizer, x_real, x_fake, clip)


@clipped_step.wrong(
    "All is right, but the score still hangs on its graph: whoever keeps the scores of a training "
    "keeps all graphs in memory. Return a number, `score.item()`."
)
def score_with_its_graph(critic, optimizer, x_real, x_fake, clip):
    return clipping_step(critic, optimizer, x_real, x_fake, clip, told=lambda score: score)
