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
    tests="the second half judged by the first, for codes that tell the label, that don't, or that "
    "tell the opposite in the second half; codes on the border.",
    hint="Nothing that is learned, direction or threshold, may have seen the second half.",
)


@held_out_accuracy.cases
def labelled_codes(rng):
    """Also codes whose second half says the opposite, for an accuracy far below ½."""
    found = []
    for n, z, strength, turned in [(401, 8, 0.3, False), (200, 40, 0.5, False),
                                   (301, 3, 0.8, False), (150, 100, 0.0, False),
                                   (241, 6, 0.7, True)]:
        labels = (torch.rand(n, generator=rng) < 0.4).long()
        labels[:2], labels[-2:] = torch.tensor([0, 1]), torch.tensor([0, 1])
        signal = torch.zeros(z)
        signal[0] = 2 * strength
        drift = torch.linspace(-1, 1, n)[:, None] * strength
        codes = 0.5 + normals(rng, n, z) + labels[:, None] * signal + drift
        if turned:
            labels[n // 2 :] = 1 - labels[n // 2 :]
        found.append({"codes": codes, "labels": labels})
    along = torch.tensor([0, 0, 4, 4, 2, 2, 2, 3, 1], dtype=torch.float32)  # the border is at 2
    across = torch.tensor([1, -1, 1, -1, 1, -1, 1, -1, 1])
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, 0])
    return [*found, {"codes": torch.stack([along, across], dim=1), "labels": labels}]


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


def learned_and_tested(codes, labels):
    """d and the border from the first half; codes and labels of the second."""
    half = len(codes) // 2
    return *direction_and_threshold(codes[:half], labels[:half]), codes[half:], labels[half:]


@held_out_accuracy.wrong(
    "Below ½ you return 1 − accuracy. Which side is 1 was learned, too: to choose it by the rows "
    "that are tested brings the luck back in."
)
def better_side(codes, labels):
    found = second_half_by_the_first(codes, labels)
    return max(found, 1 - found)


@held_out_accuracy.wrong("d points from class 1 to class 0, so each guess is turned: M₁ − M₀.")
def direction_turned(codes, labels):
    d, c, codes, labels = learned_and_tested(codes, labels)
    return accuracy(codes, labels, -d, -c)


@held_out_accuracy.wrong("This is the share of wrong guesses; accuracy is that of the right ones.")
def share_of_errors(codes, labels):
    return 1 - second_half_by_the_first(codes, labels)


@held_out_accuracy.wrong("You count the right guesses; asked for is their share.")
def guesses_counted(codes, labels):
    return second_half_by_the_first(codes, labels) * (len(codes) - len(codes) // 2)


@held_out_accuracy.wrong("The right guesses are divided by all N; only the others were tested.")
def divided_by_all(codes, labels):
    return guesses_counted(codes, labels) / len(codes)


@held_out_accuracy.wrong("This is how often the guess is 1; compare the guesses with the labels.")
def share_of_ones(codes, labels):
    d, c, codes, labels = learned_and_tested(codes, labels)
    return accuracy(codes, torch.ones_like(labels), d, c)


@held_out_accuracy.wrong("d is the mean code of class 1 alone; take off that of class 0.")
def class_one_alone(codes, labels):
    half = len(codes) // 2
    m0, m1 = (codes[:half][labels[:half] == k].mean(dim=0) for k in (0, 1))
    return accuracy(codes[half:], labels[half:], m1, m1 @ (m0 + m1) / 2)


@held_out_accuracy.wrong("The border is d·(M₀ + M₁), without the ½: twice as far out as half-way.")
def border_not_halved(codes, labels):
    d, c, codes, labels = learned_and_tested(codes, labels)
    return accuracy(codes, labels, d, 2 * c)


@held_out_accuracy.wrong(
    "Your border is the mean of all codes that are learned from, which lies nearer to the larger "
    "class. Half-way is between the two *means*."
)
def border_at_the_common_mean(codes, labels):
    d, _, tested, known = learned_and_tested(codes, labels)
    return accuracy(tested, known, d, d @ codes[: len(codes) // 2].mean(dim=0))


@held_out_accuracy.wrong("On the border itself the guess is 0: d·z > c, not ≥.")
def border_guessed_as_one(codes, labels):
    d, c, codes, labels = learned_and_tested(codes, labels)
    return ((codes @ d >= c) == (labels == 1)).double().mean().item()


@held_out_accuracy.wrong(
    "You scale d to length 1, but c was made with the long one: scale both, or neither."
)
def scaled_on_one_side(codes, labels):
    d, c, codes, labels = learned_and_tested(codes, labels)
    return accuracy(codes, labels, d / d.norm(), c)


@held_out_accuracy.wrong("If N is odd the first part has ⌊N/2⌋ rows, rounded down.")
def half_rounded_up(codes, labels):
    half = (len(codes) + 1) // 2
    found = direction_and_threshold(codes[:half], labels[:half])
    return accuracy(codes[half:], labels[half:], *found)


@held_out_accuracy.wrong("Only rows with label 1 are counted; *every* tested row has a guess.")
def ones_only(codes, labels):
    d, c, codes, labels = learned_and_tested(codes, labels)
    return accuracy(codes[labels == 1], labels[labels == 1], d, c)


@held_out_accuracy.wrong(
    "You average the accuracies of both classes, so rows of the rarer one weigh more. Here every "
    "row weighs the same."
)
def classes_weigh_alike(codes, labels):
    d, c, codes, labels = learned_and_tested(codes, labels)
    return sum(accuracy(codes[labels == k], labels[labels == k], d, c) for k in (0, 1)) / 2


@held_out_accuracy.wrong(
    "You standardise the codes by the mean and spread of *all* rows, so those that are tested have "
    "helped, and d is another one. Take the codes as they come."
)
def standardised(codes, labels):
    return second_half_by_the_first((codes - codes.mean(dim=0)) / codes.std(dim=0), labels)


@held_out_accuracy.wrong("Every second row is tested; learn from the first ⌊N/2⌋, test the others.")
def every_second_row(codes, labels):
    found = direction_and_threshold(codes[::2], labels[::2])
    return accuracy(codes[1::2], labels[1::2], *found)


# --- 9.2 ------------------------------------------------------------------------------------------

slerp = Exercise(
    "slerp",
    level="core",
    minutes=20,
    tests="single pairs and batches, ends of unequal length, parallel ends and equal ones, angles "
    "near 0 and near 180°, in float32 and float64.",
    hint="Direction and length go separately; what do the weights become as the angle goes to 0?",
    atol=1e-5,
)


@slerp.cases
def ends(rng):
    sizes = [((6,), 0.3), ((4, 5), 0.75), ((2, 3, 8), 0.5), ((1, 3), 0.1)]
    found = [{"a": 2 * normals(rng, *s), "b": normals(rng, *s), "t": t} for s, t in sizes]
    for dtype in (torch.float32, torch.float64):
        angles = torch.tensor([0.0, 0.0, 1e-5, 0.02, 0.06, 0.15, 2.8], dtype=dtype)
        b = torch.zeros(8, 4, dtype=dtype)
        b[1:, 0], b[1:, 1] = angles.cos(), angles.sin()
        b = b * torch.tensor([1.0, 2.0, 4.0, 3.0, 6.0, 5.0, 0.5, 1.0])[:, None].to(dtype)
        a = torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=dtype).repeat(8, 1)
        a[0], b[0] = normals(rng, 4, dtype=dtype), normals(rng, 4, dtype=dtype)
        found.append({"a": a, "b": b, "t": 0.25})
    found.append({"a": a[2].clone(), "b": b[2].clone(), "t": 0.6})
    at_start = {"a": normals(rng, 3, 4), "b": normals(rng, 3, 4), "t": 0.0}
    equal = normals(rng, 60, 5)  # some of their cosines are rounded to more than 1
    return [*found, at_start, {**at_start, "t": 1.0}, {"a": equal, "b": equal.clone(), "t": 0.3}]


def parts(a, b):
    """Lengths, directions and the angle between them, each with its last dimension kept."""
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = a / length_a, b / length_b
    return length_a, length_b, u, v, torch.acos((u * v).sum(dim=-1, keepdim=True).clamp(max=1))


def share(s, omega):
    """sin(s·ω) / sin ω, and s where ω is 0."""
    return s * torch.sinc(s * omega / math.pi) / torch.sinc(omega / math.pi)


def turned(u, v, omega, t):
    """The unit vector on the way from u to v."""
    return share(1 - t, omega) * u + share(t, omega) * v


@slerp.reference
def at_constant_speed(a, b, t):
    length_a, length_b, u, v, omega = parts(a, b)
    return ((1 - t) * length_a + t * length_b) * turned(u, v, omega, t)


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


@slerp.wrong(
    "Where the ends are parallel you fall back on a straight line that runs from b to a: it, too, "
    "starts at a."
)
def line_turned_where_parallel(a, b, t):
    *_, omega = parts(a, b)
    return torch.where(omega < 1e-4, latent.lerp(b, a, t), latent.slerp(a, b, t))


@slerp.wrong(
    "Ends that are *nearly* parallel get the straight line between a and b, as many programs do "
    "from a cosine of .9995 on. With lengths that differ its direction turns too fast or too slow."
)
def straight_where_nearly_parallel(a, b, t):
    *_, omega = parts(a, b)
    return torch.where(omega.cos() > 0.9995, latent.lerp(a, b, t), latent.slerp(a, b, t))


@slerp.wrong(
    "Where the angle is over 90° you turn b round, as one does for rotations (quaternions). For "
    "latents b and −b are different pictures."
)
def shorter_way(a, b, t):
    *_, omega = parts(a, b)
    return latent.slerp(a, torch.where(omega > math.pi / 2, -b, b), t)


@slerp.wrong("The length stays ‖a‖ all the way: it must go from ‖a‖ to ‖b‖.")
def length_of_first(a, b, t):
    length, _, u, v, omega = parts(a, b)
    return length * turned(u, v, omega, t)


@slerp.wrong("The length stays ‖b‖ all the way: it must go from ‖a‖ to ‖b‖.")
def length_of_second(a, b, t):
    _, length, u, v, omega = parts(a, b)
    return length * turned(u, v, omega, t)


@slerp.wrong("The direction is right, but the length runs the other way: at t = 0 it is ‖a‖.")
def lengths_exchanged(a, b, t):
    length_a, length_b, u, v, omega = parts(a, b)
    return latent.lerp(length_b, length_a, t) * turned(u, v, omega, t)


@slerp.wrong("The length is right, but the direction runs the other way: at t = 0 it is that of a.")
def directions_exchanged(a, b, t):
    length_a, length_b, u, v, omega = parts(a, b)
    return latent.lerp(length_a, length_b, t) * turned(v, u, omega, t)


@slerp.wrong("The length goes by powers, ‖a‖ to the 1 − t times ‖b‖ to the t: it goes evenly.")
def length_by_powers(a, b, t):
    length_a, length_b, u, v, omega = parts(a, b)
    return length_a ** (1 - t) * length_b**t * turned(u, v, omega, t)


@slerp.wrong("Both weights still have to be divided by sin ω.")
def sine_missing(a, b, t):
    length_a, length_b, u, v, omega = parts(a, b)
    arc = torch.sin((1 - t) * omega) * u + torch.sin(t * omega) * v
    return latent.lerp(length_a, length_b, t) * arc


@slerp.wrong("The weights are divided by ω itself; below stands its sine.")
def divided_by_the_angle(a, b, t):
    *_, omega = parts(a, b)
    return at_constant_speed(a, b, t) * torch.sinc(omega / math.pi)


@slerp.wrong(
    "The cosine of the angle is the product of the *unit* vectors: yours is that of a and b as "
    "they are."
)
def angle_of_long_vectors(a, b, t):
    length_a, length_b, u, v, _ = parts(a, b)
    omega = torch.acos((a * b).sum(dim=-1, keepdim=True).clamp(-1, 1))
    return latent.lerp(length_a, length_b, t) * turned(u, v, omega, t)


@slerp.wrong("The products of u and v are still to be added up: a pair has *one* angle.")
def products_not_added(a, b, t):
    length_a, length_b, u, v, _ = parts(a, b)
    return latent.lerp(length_a, length_b, t) * turned(u, v, torch.acos((u * v).clamp(-1, 1)), t)


@slerp.wrong("The cosine is the *sum* of the products of u and v, not their mean.")
def mean_of_products(a, b, t):
    length_a, length_b, u, v, _ = parts(a, b)
    omega = torch.acos((u * v).mean(dim=-1, keepdim=True).clamp(-1, 1))
    return latent.lerp(length_a, length_b, t) * turned(u, v, omega, t)


@slerp.wrong("Nothing is scaled to length 1: neither for the angle nor for the way.")
def never_scaled(a, b, t):
    omega = torch.acos((a * b).sum(dim=-1, keepdim=True).clamp(-1, 1))
    return turned(a, b, omega, t)


@slerp.wrong("One angle serves the whole batch; each pair has its own: sum over the last axis.")
def angle_of_the_batch(a, b, t):
    length_a, length_b, u, v, _ = parts(a, b)
    omega = torch.acos((u * v).sum().clamp(-1, 1))
    return latent.lerp(length_a, length_b, t) * turned(u, v, omega, t)


@slerp.wrong("Your lengths are those of the whole batch: each latent has its own, `dim=-1`.")
def lengths_of_the_batch(a, b, t):
    length_a, length_b = a.norm(), b.norm()
    u, v = a / length_a, b / length_b
    omega = torch.acos((u * v).sum(dim=-1, keepdim=True).clamp(-1, 1))
    return latent.lerp(length_a, length_b, t) * turned(u, v, omega, t)


# --- 9.3 ------------------------------------------------------------------------------------------

inversion_step = Exercise(
    "inversion_step",
    level="core",
    minutes=20,
    tests="the new z of every picture, on no graph, and that weights, their gradients and the "
    "generator's mode stay as they were.",
    hint="Sum the loss over the batch: then each row of the gradient is that of its own picture.",
)


@inversion_step.cases
def generators(rng):
    """In one case the new z is copied, which fails for what hangs on a graph.

    In the last one the generator is in training mode, and has nothing that minds.
    """
    found = []
    for b, z, shape, lr, penalty in [(3, 4, (1, 3, 2), 0.1, 0.5), (1, 2, (3, 2, 2), 0.02, 2.0),
                                     (4, 3, (1, 2, 2), 0.3, 0.0), (2, 5, (1, 2, 3), 0.05, 1.5),
                                     (4, 3, (1, 2, 2), 0.1, 1.0)]:
        found.append({
            "z": 2 * normals(rng, b, z),
            "x": normals(rng, b, *shape).clamp(-1, 1),
            "lr": lr,
            "penalty": penalty,
            "net": draw_seed(rng),
            "copied": b == 2,
            "training": len(found) == 4,
        })
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


@inversion_step.wrong("You compare ‖z‖² with Z: the term is the square of ‖z‖ − √Z.")
def squares_compared(generator, z, x, lr, penalty):
    def loss(z):
        outside = (z.square().sum(dim=1) - z.shape[1]) ** 2
        return (loss_per_picture(generator, z, x, 0.0) + penalty * outside).sum()

    return step_along(z, lr, loss)


def shell_of(distance):
    """An answer whose second term is λ·distance(‖z‖, Z)."""

    def answer(generator, z, x, lr, penalty):
        def loss(z):
            outside = distance(z.norm(dim=1), z.shape[1])
            return (loss_per_picture(generator, z, x, 0.0) + penalty * outside).sum()

        return step_along(z, lr, loss)

    return answer


@inversion_step.wrong("The shell's radius is √Z, not Z.")
def radius_without_root(generator, z, x, lr, penalty):
    return shell_of(lambda length, Z: (length - Z) ** 2)(generator, z, x, lr, penalty)


@inversion_step.wrong("The distance from the shell is squared; yours is its absolute value.")
def shell_not_squared(generator, z, x, lr, penalty):
    distance = shell_of(lambda length, Z: (length - math.sqrt(Z)).abs())
    return distance(generator, z, x, lr, penalty)


@inversion_step.wrong("Z is how many latents a picture has; yours is the number of pictures.")
def batch_for_latents(generator, z, x, lr, penalty):
    return shell_of(lambda length, _: (length - math.sqrt(len(z))) ** 2)(
        generator, z, x, lr, penalty)


@inversion_step.wrong("λ is missing before the second term.")
def penalty_missing(generator, z, x, lr, penalty):
    return only_z_moves(generator, z, x, lr, 1.0)


@inversion_step.wrong("λ stands at both terms; it weighs the shell's against the picture's.")
def penalty_at_both(generator, z, x, lr, penalty):
    return step_along(z, lr * penalty, lambda z: loss_per_picture(generator, z, x, 1.0).sum())


@inversion_step.wrong("The rate η is missing: the step is η times the gradient.")
def rate_missing(generator, z, x, lr, penalty):
    return only_z_moves(generator, z, x, 1.0, penalty)


@inversion_step.wrong(
    "The error is ‖G(z) − x‖, not its square: then every step is equally long, however near z is."
)
def error_not_squared(generator, z, x, lr, penalty):
    def loss(z):
        error = (generator(z) - x).flatten(1).norm(dim=1)
        shell = loss_per_picture(generator, z, generator(z), penalty)
        return (error + shell).sum()

    return step_along(z, lr, loss)


@inversion_step.wrong("The error's term is missing: nothing pulls G(z) towards the picture.")
def no_error(generator, z, x, lr, penalty):
    return step_along(
        z, lr, lambda z: loss_per_picture(generator, z, generator(z), penalty).sum())


@inversion_step.wrong("The second term is taken off; it is added, so that leaving the shell costs.")
def shell_taken_off(generator, z, x, lr, penalty):
    return only_z_moves(generator, z, x, lr, -penalty)


@inversion_step.wrong("The error is squared; you add up absolute differences.")
def absolute_error(generator, z, x, lr, penalty):
    def loss(z):
        shell = loss_per_picture(generator, z, generator(z), penalty)
        return (generator(z) - x).abs().sum() + shell.sum()

    return step_along(z, lr, loss)


@inversion_step.wrong("The length is that of the whole batch; each picture's z has its own.")
def length_of_batch(generator, z, x, lr, penalty):
    def loss(z):
        outside = (z.norm() - math.sqrt(z.shape[1])) ** 2
        return loss_per_picture(generator, z, x, 0.0).sum() + penalty * outside

    return step_along(z, lr, loss)


@inversion_step.wrong(
    "z is right, but it still hangs on the graph of its step, and whoever keeps it keeps all of "
    "that: `.detach()`."
)
def on_a_graph(generator, z, x, lr, penalty):
    z = z.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_per_picture(generator, z, x, penalty).sum(), z)
    return z - lr * gradient


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
    tests="no, one and several other attributes, also twice the same one or nearly so, unequal "
    "classes, and small codes.",
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
    codes, labels = normals(rng, 100, 6), (torch.rand(100, 3, generator=rng) < 0.5).long()
    labels[:2] = torch.tensor([[0], [1]])
    labels[:, 2] = labels[:, 1]
    labels[2:6, 2] = 1 - labels[2:6, 2]
    codes[:, :3] += labels
    return [*found, {"codes": 0.05 * codes, "labels": labels}]


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


@pure_direction.wrong("d is the mean code of class 1 alone; take off that of class 0.")
def class_one_alone_again(codes, labels):
    d = torch.stack([codes[y == 1].mean(dim=0) for y in labels.T])
    return without(d[0], d[1:])


@pure_direction.wrong("You skip attribute 1: the others are *all* columns from 1 on.")
def first_other_skipped(codes, labels):
    d = differences(codes, labels)
    return without(d[0], d[2:])


@pure_direction.wrong("You take off the first of the others alone.")
def first_other_alone(codes, labels):
    d = differences(codes, labels)
    return without(d[0], d[1:2])


@pure_direction.wrong(
    "You take off the projection on the sum (or the mean) of the others; their span is larger than "
    "that one line."
)
def off_their_sum(codes, labels):
    d = differences(codes, labels)
    return without(d[0], d[1:].sum(dim=0, keepdim=True))


@pure_direction.wrong("Attribute 0 itself is among what you take off, so nothing is left.")
def itself_too(codes, labels):
    return torch.zeros_like(codes[0])


@pure_direction.wrong("Means, not sums: with unequal classes a sum counts how many there are.")
def sums_for_means(codes, labels):
    d = torch.stack([codes[y == 1].sum(dim=0) - codes[y == 0].sum(dim=0) for y in labels.T])
    return without(d[0], d[1:])


@pure_direction.wrong("You take off the others twice: what is left must stand at right angles.")
def taken_off_twice(codes, labels):
    d = others_stay(codes, labels)
    return 2 * off_the_span(codes, labels) - d


@pure_direction.wrong("You *add* what lies in the span of the others; take it off.")
def added_on(codes, labels):
    return 2 * others_stay(codes, labels) - off_the_span(codes, labels)


@pure_direction.wrong("Attribute 0 is the first column, not the last.")
def last_column_first(codes, labels):
    return off_the_span(codes, labels.flip(1))


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
    tests="several sizes, few rows, values of unequal frequency, with gaps or large, and a factor "
    "that never varies.",
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
    gaps = {"codes": found[2]["codes"].clone(), "factors": 100 * found[2]["factors"]}
    few = {"codes": normals(rng, 27, 3), "factors": torch.arange(27)[:, None] // 7}
    return [*found, still, gaps, few]


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


@mutual_information_gap.wrong(
    "Some cells of your table are empty, and 0·log 0 is nan there: nothing is added for them."
)
def nan_where_a_cell_is_empty(codes, factors):
    return math.nan


@mutual_information_gap.wrong("The smallest value has rank 0, not 1: there are 20 bins, not 21.")
def ranks_from_one(codes, factors):
    table, entropies = information(
        codes, factors, lambda v: (v.argsort(dim=0).argsort(dim=0) + 1) * 20 // len(v))
    return varying(gap(table) / entropies, entropies)


@mutual_information_gap.wrong("Every value has a bin of its own: there are 20 bins, ⌊20·r/N⌋.")
def no_bins(codes, factors):
    table, entropies = information(codes, factors, lambda v: v.argsort(dim=0).argsort(dim=0))
    return varying(gap(table) / entropies, entropies)


@mutual_information_gap.wrong(
    "`argsort` goes along the last axis if you don't say `dim=0`: you rank the latents of a row, "
    "not the rows of a latent."
)
def ranked_along_rows(codes, factors):
    table, entropies = information(
        codes, factors, lambda v: v.argsort().argsort() * 20 // len(v))
    return varying(gap(table) / entropies, entropies)


@mutual_information_gap.wrong("You take off the *worst* latent; the gap is to the second best.")
def best_minus_worst(codes, factors):
    table, entropies = information(codes, factors)
    return varying((table.amax(dim=1) - table.amin(dim=1)) / entropies, entropies)


@mutual_information_gap.wrong("You take off the mean of all latents; take off the second best.")
def best_minus_mean(codes, factors):
    table, entropies = information(codes, factors)
    return varying((table.amax(dim=1) - table.mean(dim=1)) / entropies, entropies)


@mutual_information_gap.wrong("The sign is turned: the best minus the second best is not negative.")
def second_minus_best(codes, factors):
    return -mig(codes, factors)


@mutual_information_gap.wrong(
    "You divide the sum of the gaps by the sum of the entropies, so factors with many values weigh "
    "more: divide each gap by its own, then average."
)
def ratio_of_sums(codes, factors):
    table, entropies = information(codes, factors)
    return (gap(table).sum() / entropies.sum()).item()


@mutual_information_gap.wrong(
    "You divide by the entropy of the *latent*, log 20 for each of them; the factor's is below."
)
def by_the_latents_entropy(codes, factors):
    table, entropies = information(codes, factors)
    return varying(gap(table), entropies) / math.log(20)


@mutual_information_gap.wrong(
    "`view` and `reshape` don't turn a table round: they cut its rows anew. `codes.T` has the "
    "latents as rows."
)
def reshaped(codes, factors):
    return mig(codes.reshape(codes.shape[1], -1).T, factors)


@mutual_information_gap.wrong("This is the gap of one factor alone; average over all that vary.")
def first_factor_alone(codes, factors):
    return mig(codes, factors[:, :1])
