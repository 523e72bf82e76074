"""Chapter 09: the exercises on latent spaces, their references, and the mistakes people make."""

import math

import torch
from torch import nn

from gencourse import divergences, latent
from gencourse.checks.core import Exercise, draw_seed, normals

STEM = "09_latent_space"


# --- 9.1 ------------------------------------------------------------------------------------------

held_out_accuracy = Exercise(
    "held_out_accuracy",
    level="warm-up",
    minutes=15,
    tests="the second half judged by the first, for codes that tell the label and that don't.",
    hint="Nothing that is learned, direction or threshold, may have seen the second half.",
)


@held_out_accuracy.cases
def labelled_codes(rng):
    found = []
    for n, z, strength in [(401, 8, 0.3), (200, 40, 0.5), (301, 3, 0.8), (150, 100, 0.0)]:
        labels = (torch.rand(n, generator=rng) < 0.4).long()
        labels[:2], labels[-2:] = torch.tensor([0, 1]), torch.tensor([0, 1])
        signal = torch.zeros(z)
        signal[0] = 2 * strength
        drift = torch.linspace(-1, 1, n)[:, None] * strength
        codes = 0.5 + normals(rng, n, z) + labels[:, None] * signal + drift
        found.append({"codes": codes, "labels": labels})
    return found


def direction_and_threshold(codes, labels):
    m0, m1 = codes[labels == 0].mean(dim=0), codes[labels == 1].mean(dim=0)
    d = m1 - m0
    return d, d @ (m0 + m1) / 2


def accuracy(codes, labels, d, threshold):
    return ((codes @ d > threshold) == (labels == 1)).double().mean().item()


@held_out_accuracy.reference
def second_half_by_the_first(codes, labels):
    half = len(codes) // 2
    found = direction_and_threshold(codes[:half], labels[:half])
    return accuracy(codes[half:], labels[half:], *found)


@held_out_accuracy.wrong(
    "This is still the broken program: the rows that are tested have helped to make the direction."
)
def broken_program(codes, labels):
    return accuracy(codes, labels, *direction_and_threshold(codes, labels))


@held_out_accuracy.wrong("You test on the rows that made the direction; the other half is idle.")
def tested_on_the_same_half(codes, labels):
    half = len(codes) // 2
    return broken_program(codes[:half], labels[:half])


@held_out_accuracy.wrong(
    "The direction comes from the first half, but all rows are tested, so half of them are known."
)
def all_rows_tested(codes, labels):
    half = len(codes) // 2
    return accuracy(codes, labels, *direction_and_threshold(codes[:half], labels[:half]))


@held_out_accuracy.wrong("The tested half is right, but the direction has seen all rows.")
def direction_from_all(codes, labels):
    half = len(codes) // 2
    return accuracy(codes[half:], labels[half:], *direction_and_threshold(codes, labels))


@held_out_accuracy.wrong(
    "The direction is right, but the threshold has seen all rows: it is learned, too."
)
def threshold_from_all(codes, labels):
    half = len(codes) // 2
    d, _ = direction_and_threshold(codes[:half], labels[:half])
    m0, m1 = codes[labels == 0].mean(dim=0), codes[labels == 1].mean(dim=0)
    return accuracy(codes[half:], labels[half:], d, d @ (m0 + m1) / 2)


@held_out_accuracy.wrong("The halves are exchanged: learn from the first, test on the second.")
def halves_exchanged(codes, labels):
    half = len(codes) // 2
    found = direction_and_threshold(codes[half:], labels[half:])
    return accuracy(codes[:half], labels[:half], *found)


@held_out_accuracy.wrong(
    "Your threshold is 0: the border goes half-way between the two means, wherever they lie."
)
def threshold_at_zero(codes, labels):
    half = len(codes) // 2
    d, _ = direction_and_threshold(codes[:half], labels[:half])
    return accuracy(codes[half:], labels[half:], d, 0.0)


# --- 9.2 ------------------------------------------------------------------------------------------

slerp = Exercise(
    "slerp",
    level="core",
    minutes=20,
    tests="single pairs and batches, ends of unequal length, parallel ends and equal ones.",
    hint="Direction and length go separately; what do the weights become as the angle goes to 0?",
    atol=1e-5,
)


@slerp.cases
def ends(rng):
    sizes = [((6,), 0.3), ((4, 5), 0.75), ((2, 3, 8), 0.5), ((1, 3), 0.1)]
    found = [{"a": 2 * normals(rng, *s), "b": normals(rng, *s), "t": t} for s, t in sizes]
    axis = torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    near = torch.tensor([math.cos(1e-5), math.sin(1e-5), 0.0, 0.0], dtype=torch.float64)
    a = torch.stack([normals(rng, 4), axis, axis, axis])
    b = torch.stack([normals(rng, 4), axis, 2 * axis, 3 * near])
    found += [{"a": a, "b": b, "t": 0.25}, {"a": axis.clone(), "b": 2 * axis, "t": 0.6}]
    at_start = {"a": normals(rng, 3, 4).float(), "b": normals(rng, 3, 4).float(), "t": 0.0}
    equal = normals(rng, 60, 5).float()  # some of their cosines are rounded to more than 1
    return [*found, at_start, {**at_start, "t": 1.0}, {"a": equal, "b": equal.clone(), "t": 0.3}]


slerp.reference(latent.slerp)


def parts(a, b):
    """Lengths, directions and the angle between them, each with its last dimension kept."""
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = a / length_a, b / length_b
    return length_a, length_b, u, v, torch.acos((u * v).sum(dim=-1, keepdim=True).clamp(-1, 1))


@slerp.wrong("This is the straight line, lerp: half-way it leaves the shell.")
def straight(a, b, t):
    return latent.lerp(a, b, t)


@slerp.wrong(
    "You put the straight line back on the shell. The path is right, but not the pace: the "
    "direction must turn at constant speed."
)
def line_put_back(a, b, t):
    line = latent.lerp(a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True), t)
    length = latent.lerp(a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), t)
    return length * line / line.norm(dim=-1, keepdim=True)


@slerp.wrong("t is at the wrong end: t = 0 must give a, t = 1 must give b.")
def ends_exchanged(a, b, t):
    return latent.slerp(b, a, t)


@slerp.wrong("The result has length 1: its length must go from ‖a‖ to ‖b‖.")
def unit_length(a, b, t):
    return latent.slerp(a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True), t)


@slerp.wrong(
    "For parallel ends you divide 0 by 0. As the angle goes to 0, the weights go to 1 − t and t."
)
def nan_where_parallel(a, b, t):
    length_a, length_b, u, v, omega = parts(a, b)
    turned = (torch.sin((1 - t) * omega) * u + torch.sin(t * omega) * v) / torch.sin(omega)
    return latent.lerp(length_a, length_b, t) * turned


@slerp.wrong(
    "Of some equal ends the cosine is rounded to 1.0000001, and its `acos` is nan: clamp it first."
)
def nan_where_rounded(a, b, t):
    length_a, length_b, u, v, _ = parts(a, b)
    omega = torch.acos((u * v).sum(dim=-1, keepdim=True))
    from_a = torch.where(omega < 1e-6, 1 - t, torch.sin((1 - t) * omega) / torch.sin(omega))
    from_b = torch.where(omega < 1e-6, t, torch.sin(t * omega) / torch.sin(omega))
    return latent.lerp(length_a, length_b, t) * (from_a * u + from_b * v)


@slerp.wrong(
    "You weigh a and b themselves, as White does. For ends of different length the direction then "
    "doesn't turn at constant speed, nor does the length change evenly: turn the unit vectors."
)
def ends_weighed(a, b, t):
    *_, omega = parts(a, b)
    flat = omega < 1e-7
    sine = torch.where(flat, 1, torch.sin(omega))
    from_a = torch.where(flat, 1 - t, torch.sin((1 - t) * omega) / sine)
    from_b = torch.where(flat, t, torch.sin(t * omega) / sine)
    return from_a * a + from_b * b


@slerp.wrong(
    "One parallel pair turns the whole batch into lerp: decide for each pair, with `torch.where`."
)
def one_for_all(a, b, t):
    *_, omega = parts(a, b)
    return latent.lerp(a, b, t) if (omega < 1e-4).any() else latent.slerp(a, b, t)


@slerp.wrong("For parallel ends the length is a's; it must still go from ‖a‖ to ‖b‖.")
def first_end_where_parallel(a, b, t):
    *_, omega = parts(a, b)
    return torch.where(omega < 1e-4, a, latent.slerp(a, b, t))


# --- 9.3 ------------------------------------------------------------------------------------------

inversion_step = Exercise(
    "inversion_step",
    level="core",
    minutes=20,
    tests="the new z of every picture, and that weights and their gradients stay as they were.",
    hint="Sum the loss over the batch: then each row of the gradient is that of its own picture.",
)


@inversion_step.cases
def generators(rng):
    found = []
    for b, z, shape, lr, penalty in [(3, 4, (1, 3, 2), 0.1, 0.5), (1, 2, (3, 2, 2), 0.02, 2.0),
                                     (4, 3, (1, 2, 2), 0.3, 0.0)]:  # fmt: skip
        found.append({
            "z": 2 * normals(rng, b, z),
            "x": normals(rng, b, *shape).clamp(-1, 1),
            "lr": lr,
            "penalty": penalty,
            "net": draw_seed(rng),
        })  # fmt: skip
    return found


def loss_per_picture(generator, z, x, penalty):
    error = (generator(z) - x).square().flatten(1).sum(dim=1)
    return error + penalty * (z.norm(dim=1) - math.sqrt(z.shape[1])) ** 2


def step_along(z, lr, loss):
    """z after one step down the gradient of loss(z), nothing else touched."""
    z = z.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z), z)
    return (z - lr * gradient).detach()


@inversion_step.reference
def only_z_moves(generator, z, x, lr, penalty):
    return step_along(z, lr, lambda z: loss_per_picture(generator, z, x, penalty).sum())


@inversion_step.wrong("The mean over the pixels makes the error tiny beside the shell's term: sum.")
def mean_of_pixels(generator, z, x, lr, penalty):
    def loss(z):
        whole = loss_per_picture(generator, z, x, penalty)
        error = (generator(z) - x).square().flatten(1)
        return (whole - error.sum(dim=1) + error.mean(dim=1)).sum()

    return step_along(z, lr, loss)


@inversion_step.wrong(
    "You differentiate the batch's mean, so each picture's step shrinks with the number of "
    "pictures. Every z has a search of its own: sum over the batch."
)
def mean_of_batch(generator, z, x, lr, penalty):
    return step_along(z, lr, lambda z: loss_per_picture(generator, z, x, penalty).mean())


@inversion_step.wrong(
    "Both terms are means, the error over pixels and batch, the shell's over the batch: use sums, "
    "so that every picture makes its own step, with λ as it is meant."
)
def means_everywhere(generator, z, x, lr, penalty):
    def loss(z):
        shell = (z.norm(dim=1) - math.sqrt(z.shape[1])).square().mean()
        return (generator(z) - x).square().mean() + penalty * shell

    return step_along(z, lr, loss)


@inversion_step.wrong(
    "After your step the generator's weights no longer ask for gradients, and a training could not "
    "go on. Nothing but z may change: `torch.autograd.grad` takes the gradient in z alone."
)
def frozen_for_good(generator, z, x, lr, penalty):
    generator.requires_grad_(False)
    return only_z_moves(generator, z, x, lr, penalty)


@inversion_step.wrong("The step goes uphill: away from the picture. Subtract the gradient.")
def uphill(generator, z, x, lr, penalty):
    return step_along(z, -lr, lambda z: loss_per_picture(generator, z, x, penalty).sum())


@inversion_step.wrong("The term that holds z near the shell is missing.")
def no_shell(generator, z, x, lr, penalty):
    return step_along(z, lr, lambda z: loss_per_picture(generator, z, x, 0.0).sum())


@inversion_step.wrong("Your second term pulls z to 0, where no draw lies, and not to the shell.")
def pulled_to_zero(generator, z, x, lr, penalty):
    def loss(z):
        return (loss_per_picture(generator, z, x, 0.0) + penalty * z.square().sum(dim=1)).sum()

    return step_along(z, lr, loss)


@inversion_step.wrong("The shell's radius is √Z; you compare ‖z‖² with Z, or ‖z‖ with Z.")
def squares_compared(generator, z, x, lr, penalty):
    def loss(z):
        outside = (z.square().sum(dim=1) - z.shape[1]) ** 2
        return (loss_per_picture(generator, z, x, 0.0) + penalty * outside).sum()

    return step_along(z, lr, loss)


@inversion_step.wrong("The length is that of the whole batch; each picture's z has its own.")
def length_of_batch(generator, z, x, lr, penalty):
    def loss(z):
        outside = (z.norm() - math.sqrt(z.shape[1])) ** 2
        return loss_per_picture(generator, z, x, 0.0).sum() + penalty * outside

    return step_along(z, lr, loss)


@inversion_step.wrong(
    "z is right, but `backward()` has left gradients in the generator's weights, where its next "
    "training step would find them: ask for the gradient in z alone."
)
def gradients_left(generator, z, x, lr, penalty):
    z = z.detach().clone().requires_grad_()
    loss_per_picture(generator, z, x, penalty).sum().backward()
    return (z - lr * z.grad).detach()


@inversion_step.wrong(
    "z is right, but you have wiped out the gradients that the generator's weights held."
)
def gradients_wiped(generator, z, x, lr, penalty):
    z = gradients_left(generator, z, x, lr, penalty)
    generator.zero_grad()
    return z


@inversion_step.wrong(
    "z is right, but the generator has moved too. Given enough steps it would learn to draw this "
    "one picture from any z, and then you have asked nothing of it."
)
def generator_trained(generator, z, x, lr, penalty):
    z = nn.Parameter(z.detach().clone())
    weights = list(generator.parameters())
    loss = loss_per_picture(generator, z, x, penalty).sum()
    gradients = torch.autograd.grad(loss, [z, *weights])
    with torch.no_grad():
        for p, gradient in zip([z, *weights], gradients, strict=True):
            p -= lr * gradient
    return z.detach()


# --- 9.4 ------------------------------------------------------------------------------------------

pure_direction = Exercise(
    "pure_direction",
    level="core",
    minutes=25,
    tests="no, one and several other attributes, also twice the same one, and unequal classes.",
    hint="Take off what lies in the *span* of the others: least squares, or a pseudo-inverse.",
)


@pure_direction.cases
def attributes(rng):
    found = []
    for n, z, k in [(60, 6, 1), (80, 5, 2), (90, 7, 3), (100, 8, 4)]:
        codes = normals(rng, n, z)
        mixed = codes[:, :k] @ normals(rng, k, k) + 0.3 * normals(rng, n, k)
        labels = (mixed > 0.3).long()
        labels[0], labels[1] = 0, 1
        if k == 4:
            labels[:, 3] = labels[:, 2]
        found.append({"codes": codes, "labels": labels})
    return found


def differences(codes, labels):
    """M₁ − M₀ of every attribute: (K, Z)."""
    return torch.stack([codes[y == 1].mean(dim=0) - codes[y == 0].mean(dim=0) for y in labels.T])


def without(d, others):
    """d minus its projection on the span of the others (K, Z)."""
    return d - torch.linalg.pinv(others) @ (others @ d)


@pure_direction.reference
def off_the_span(codes, labels):
    d = differences(codes, labels)
    return without(d[0], d[1:])


@pure_direction.wrong("This is the plain difference of means: the others are still in it.")
def others_stay(codes, labels):
    return differences(codes, labels)[0]


@pure_direction.wrong(
    "Right for one other attribute. For several you take off each one's projection from d, and "
    "what two of them share goes twice: they are not at right angles to each other."
)
def each_by_itself(codes, labels):
    d, *others = differences(codes, labels)
    return d - sum((d @ o) / (o @ o) * o for o in others)


@pure_direction.wrong(
    "Right for one other attribute. For several you take them off one after another, and the "
    "second brings some of the first one back: they are not at right angles to each other."
)
def one_after_another(codes, labels):
    d, *others = differences(codes, labels)
    for o in others:
        d = d - (d @ o) / (o @ o) * o
    return d


@pure_direction.wrong("The others aren't unit vectors: their squared length is missing below.")
def length_forgotten(codes, labels):
    d, *others = differences(codes, labels)
    return d - sum((d @ o) * o for o in others)


@pure_direction.wrong("You divide by the others' length once; the projection needs its square.")
def length_not_squared(codes, labels):
    d, *others = differences(codes, labels)
    return d - sum((d @ o) / o.norm() * o for o in others)


@pure_direction.wrong("This is what lies *in* the span of the others; the rest was asked for.")
def what_is_shared(codes, labels):
    return others_stay(codes, labels) - off_the_span(codes, labels)


@pure_direction.wrong("The sign is turned: the direction goes from 0 to 1, so it is M₁ − M₀.")
def turned_round(codes, labels):
    return -off_the_span(codes, labels)


@pure_direction.wrong("You start from the mean of *all* codes; the difference is between classes.")
def from_the_common_mean(codes, labels):
    return off_the_span(codes, labels) * (labels[:, 0] == 0).double().mean()


@pure_direction.wrong("You scale the result to length 1; its length is what one step means.")
def scaled_to_one(codes, labels):
    d = off_the_span(codes, labels)
    return d / d.norm()


@pure_direction.wrong(
    "Where two of the other directions are the same you take off too much: QR always gives as many "
    "axes as there are vectors, and the last ones are then made of rounding errors."
)
def axis_out_of_nothing(codes, labels):
    d = differences(codes, labels)
    q, _ = torch.linalg.qr(d[1:].T)
    return d[0] - q @ (q.T @ d[0])


# --- 9.5 ------------------------------------------------------------------------------------------

mutual_information_gap = Exercise(
    "mutual_information_gap",
    level="stretch",
    minutes=40,
    tests="several sizes, values of unequal frequency, and a factor that never varies.",
    hint="First I(z_j; v) of one pair, from a table of counts. Then the two largest per factor.",
    atol=1e-5,
)


@mutual_information_gap.cases
def codes_and_factors(rng):
    found = []
    for n, z, values in [(200, 4, (3, 5)), (157, 2, (2, 4, 3)), (300, 5, (6, 2))]:
        shares = torch.rand(n, len(values), generator=rng).double().square()  # small ones abound
        factors = (shares * torch.tensor(values)).long()
        mix = normals(rng, len(values), z)
        codes = factors.float() @ mix + 0.7 * normals(rng, n, z)
        codes[:, 0] = codes[:, 0].exp()  # far from evenly spread
        found.append({"codes": codes, "factors": factors})
    still = {k: v.clone() for k, v in found[0].items()}
    still["factors"][:, 1] = 2
    return [*found, still]


def filled_bins(values):
    return values.argsort(dim=0).argsort(dim=0) * 20 // len(values)


def information(codes, factors, bins=filled_bins):
    """I(z_j; v) [nats] (K, Z), and H(v) [nats] (K,)."""
    codes = bins(codes)
    table, entropies = [], []
    for v in factors.T:
        row = []
        for z in codes.T:
            joint = torch.zeros(int(z.max()) + 1, int(v.max()) + 1, dtype=torch.float64)
            joint.index_put_((z, v), torch.tensor(1 / len(v)).double(), accumulate=True)
            apart = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0)
            row.append(divergences.kl(joint.flatten(), apart.flatten()))
        table.append(torch.stack(row))
        entropies.append(divergences.entropy(v.bincount().double() / len(v)))
    return torch.stack(table), torch.stack(entropies)


def gap(table):
    """The largest minus the second largest of every row."""
    two = table.topk(2, dim=1).values
    return two[:, 0] - two[:, 1]


def varying(values, entropies):
    return values[entropies > 1e-9].mean().item()


@mutual_information_gap.reference
def mig(codes, factors):
    table, entropies = information(codes, factors)
    return varying(gap(table) / entropies, entropies)


@mutual_information_gap.wrong("The second-best latent is not taken off: this is no gap yet.")
def best_alone(codes, factors):
    table, entropies = information(codes, factors)
    return varying(table.max(dim=1).values / entropies, entropies)


@mutual_information_gap.wrong("The gaps are in nats; divide each by its factor's entropy.")
def in_nats(codes, factors):
    table, entropies = information(codes, factors)
    return varying(gap(table), entropies)


@mutual_information_gap.wrong(
    "You divide by the logarithm of the number of values: that is the entropy only if all values "
    "are equally frequent."
)
def as_if_all_were_equal(codes, factors):
    table, entropies = information(codes, factors)
    counts = torch.tensor([float(len(v.unique())) for v in factors.T]).double()
    return varying(gap(table) / counts.log(), entropies)


@mutual_information_gap.wrong("One of mutual information and entropy is in bits: take log in both.")
def bits_and_nats(codes, factors):
    return mig(codes, factors) / math.log(2)


@mutual_information_gap.wrong(
    "You take the gap between the two best *factors* of each latent; a latent that knows nothing "
    "would count. It is the gap between the two best latents of each factor."
)
def gap_per_latent(codes, factors):
    table, entropies = information(codes, factors)
    table = (table / entropies[:, None])[entropies > 1e-9]
    if len(table) < 2:
        return table.mean().item()
    return gap(table.T).mean().item()


@mutual_information_gap.wrong(
    "Your bins are equally *wide*; here they are equally *filled*, by the order of the values."
)
def bins_equally_wide(codes, factors):
    def wide(values):
        low, high = values.min(dim=0).values, values.max(dim=0).values
        return ((values - low) / (high - low) * 20).long().clamp(max=19)

    table, entropies = information(codes, factors, wide)
    return varying(gap(table) / entropies, entropies)


@mutual_information_gap.wrong(
    "`argsort` once says *which* row is the smallest; a row's rank is the `argsort` of that."
)
def order_for_rank(codes, factors):
    def by_order(values):
        return values.argsort(dim=0) * 20 // len(values)

    table, entropies = information(codes, factors, by_order)
    return varying(gap(table) / entropies, entropies)


@mutual_information_gap.wrong("You add the gaps up; it is their mean over the factors.")
def added_up(codes, factors):
    table, entropies = information(codes, factors)
    return mig(codes, factors) * (entropies > 1e-9).sum().item()


@mutual_information_gap.wrong(
    "A factor with one value has entropy 0, and 0/0 is nan: there is nothing to know about it, so "
    "leave it out of the mean."
)
def nan_where_nothing_varies(codes, factors):
    table, entropies = information(codes, factors)
    ratio = gap(table).clamp(min=0) / entropies
    return torch.where(entropies > 1e-9, ratio, torch.nan).mean().item()


@mutual_information_gap.wrong(
    "A factor with one value counts as a gap of 0 in your mean: leave it out instead."
)
def nothing_counts_as_zero(codes, factors):
    table, entropies = information(codes, factors)
    return torch.where(entropies > 1e-9, gap(table) / entropies, 0).mean().item()
