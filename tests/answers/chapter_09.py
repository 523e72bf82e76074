"""Chapter 09: other right answers, and wrong ones that are tried besides those with a name."""

import copy
import itertools
import math

import numpy as np
import torch
from sklearn.metrics import mutual_info_score
from torch.nn import functional as F

from gencourse import latent

# --- 9.1 ------------------------------------------------------------------------------------------


def means(codes, labels):
    return codes[labels == 0].mean(0), codes[labels == 1].mean(0)


def halves(codes, labels):
    half = len(codes) // 2
    return codes[:half], labels[:half], codes[half:], labels[half:]


def from_the_middle(codes, labels):
    seen, known, codes, labels = halves(codes, labels)
    m0, m1 = means(seen, known)
    return (((codes - (m0 + m1) / 2) @ (m1 - m0) > 0).long() == labels).float().mean()


def nearest_mean(codes, labels):
    seen, known, codes, labels = halves(codes, labels)
    m0, m1 = means(seen, known)
    nearer = (codes - m1).square().sum(1) < (codes - m0).square().sum(1)
    return (nearer == labels.bool()).double().mean().item()


def row_by_row(codes, labels):
    seen, known, codes, labels = halves(codes, labels)
    m0, m1 = means(seen, known)
    d, c = m1 - m0, (m1 - m0).dot(m0 + m1) / 2
    return sum(int(d.dot(z) > c) == y for z, y in zip(codes, labels.tolist(), strict=True)) / len(
        labels)


def weighted_sums(codes, labels):
    seen, known, codes, labels = halves(codes, labels)
    y = known.to(seen.dtype)
    m0, m1 = (1 - y) @ seen / (1 - y).sum(), y @ seen / y.sum()
    guesses = torch.where(codes @ (m1 - m0) > (m1 - m0) @ (m0 + m1) / 2, 1, 0)
    return np.mean((guesses == labels).numpy())


def both_scaled(codes, labels):
    seen, known, codes, labels = halves(codes, labels)
    m0, m1 = means(seen, known)
    d = F.normalize(m1 - m0, dim=0)
    return (torch.sigmoid(codes @ d - d @ (m0 + m1) / 2) > 0.5).eq(labels).float().mean().item()


def shuffled(codes, labels):
    order = torch.randperm(len(codes))
    return from_the_middle(codes[order], labels[order])


def both_ways(codes, labels):
    turned = torch.cat([codes[len(codes) // 2 :], codes[: len(codes) // 2]])
    known = torch.cat([labels[len(codes) // 2 :], labels[: len(codes) // 2]])
    return (from_the_middle(codes, labels) + from_the_middle(turned, known)) / 2


HELD_OUT_RIGHT = {
    "from the middle, a tensor": from_the_middle,
    "nearest mean": nearest_mean,
    "row by row": row_by_row,
    "weighted sums, NumPy's number": weighted_sums,
    "both scaled": both_scaled,
    "in float64": lambda codes, labels: from_the_middle(codes.double(), labels),
}
HELD_OUT_WRONG = {
    "the better side": (
        lambda codes, labels: max(nearest_mean(codes, labels), 1 - nearest_mean(codes, labels)),
        "1 − accuracy"),
    "standardised with NumPy's spread": (
        lambda codes, labels: nearest_mean(
            (codes - codes.mean(0)) / codes.std(0, correction=0), labels), "standardise"),
    "never below ½": (lambda codes, labels: max(nearest_mean(codes, labels), 0.5), ""),
    "half and its distance": (
        lambda codes, labels: 0.5 + abs(nearest_mean(codes, labels) - 0.5), "1 − accuracy"),
    "shuffled": (shuffled, ""),
    "both ways": (both_ways, ""),
    "percent": (lambda codes, labels: 100 * nearest_mean(codes, labels), ""),
    "each guess": (
        lambda codes, labels: torch.ones(len(codes) - len(codes) // 2), "a number was expected"),
    "the larger class": (
        lambda codes, labels: max((labels[len(labels) // 2 :] == k).double().mean().item()
                                  for k in (0, 1)), ""),
    "codes centred in place": (
        lambda codes, labels: nearest_mean(codes.sub_(codes.mean()), labels), "in place"),
    "rounded": (lambda codes, labels: round(nearest_mean(codes, labels), 1), ""),
}


# --- 9.2 ------------------------------------------------------------------------------------------


def with_a_threshold(a, b, t, limit=1e-6, line=None):
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = a / length_a, b / length_b
    omega = torch.acos((u * v).sum(dim=-1, keepdim=True).clamp(-1, 1))
    parallel = omega < limit
    sine = torch.where(parallel, 1.0, omega.sin())
    from_a = torch.where(parallel, 1 - t, torch.sin((1 - t) * omega) / sine)
    from_b = torch.where(parallel, t, torch.sin(t * omega) / sine)
    turned = torch.lerp(length_a, length_b, t) * (from_a * u + from_b * v)
    return turned if line is None else torch.where(parallel, line(a, b, t), turned)


def along_the_tangent(a, b, t):
    u, v = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    cosine = (u * v).sum(-1, keepdim=True)
    across = v - cosine * u
    omega = torch.atan2(across.norm(dim=-1, keepdim=True), cosine)
    turned = torch.cos(t * omega) * u + torch.sin(t * omega) * F.normalize(across, dim=-1)
    return turned * ((1 - t) * a.norm(dim=-1, keepdim=True) + t * b.norm(dim=-1, keepdim=True))


def pair_by_pair(a, b, t):
    found = torch.zeros(a.shape)
    for i in itertools.product(*map(range, a.shape[:-1])):
        found[i] = with_a_threshold(a[i], b[i], t)
    return found


def by_cosine_similarity(a, b, t):
    omega = torch.arccos(F.cosine_similarity(a, b, dim=-1).clamp(-1, 1))[..., None]
    ratio = [torch.where(omega < 1e-5, torch.full_like(omega, s), torch.sin(s * omega) /
                         torch.sin(omega).clamp(min=1e-12)) for s in (1 - t, t)]
    lengths = [torch.linalg.vector_norm(v, dim=-1, keepdim=True) for v in (a, b)]
    path = ratio[0] * a / lengths[0] + ratio[1] * b / lengths[1]
    return path * ((1 - t) * lengths[0] + t * lengths[1])


def one_decision(a, b, t):
    """As in programs that people copy: one decision for all, by the mean of the cosines."""
    cosines = F.cosine_similarity(a, b, dim=-1)
    return latent.lerp(a, b, t) if cosines.mean() > 0.9995 else with_a_threshold(a, b, t, 0)


def chord(a, b, t):
    line = latent.lerp(F.normalize(a, dim=-1), F.normalize(b, dim=-1), t)
    return line * latent.lerp(a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), t)


SLERP_RIGHT = {
    "the course's own": latent.slerp,
    "with a threshold": with_a_threshold,
    "a larger threshold": lambda a, b, t: with_a_threshold(a, b, t, 1e-3),
    "along the tangent": along_the_tangent,
    "pair by pair into zeros": pair_by_pair,
    "cosine similarity": by_cosine_similarity,
    "in float64": lambda a, b, t: with_a_threshold(a.double(), b.double(), t),
}
SLERP_WRONG = {
    "one decision for all": (one_decision, "nan"),
    "the chord": (chord, ""),
    "a line of a and b up to 2°": (
        lambda a, b, t: with_a_threshold(a, b, t, 0.035, latent.lerp), "*nearly* parallel"),
    "the weights of a line up to 11°": (
        lambda a, b, t: with_a_threshold(a, b, t, 0.2), ""),
    "the weights of a line up to 4°": (
        lambda a, b, t: with_a_threshold(a, b, t, 0.07), ""),
    "a line of a and b up to .01°": (
        lambda a, b, t: with_a_threshold(a, b, t, 2e-4, lambda a, b, t: a), "is a's"),
    "scaled in place": (
        lambda a, b, t: with_a_threshold(a.div_(a.norm(dim=-1, keepdim=True)), b, t), "in place"),
    "NumPy": (lambda a, b, t: with_a_threshold(a, b, t).numpy(), "a NumPy array"),
    "degrees": (lambda a, b, t: with_a_threshold(a, b, math.degrees(t)), ""),
    "ease in and out": (lambda a, b, t: with_a_threshold(a, b, t * t * (3 - 2 * t)), ""),
    "the long way": (lambda a, b, t: with_a_threshold(a, -b, t), ""),
    "squared lengths": (
        lambda a, b, t: with_a_threshold(a, b, t) * latent.lerp(
            a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), t), ""),
}


# --- 9.3 ------------------------------------------------------------------------------------------


def loss_of(generator, z, x, penalty):
    error = F.mse_loss(generator(z), x, reduction="sum")
    return error + penalty * ((torch.linalg.norm(z, dim=1) - z.shape[1] ** 0.5) ** 2).sum()


def frozen_meanwhile(generator, z, x, lr, penalty):
    flags = [p.requires_grad for p in generator.parameters()]
    generator.requires_grad_(False)
    z = z.clone().requires_grad_()
    loss_of(generator, z, x, penalty).backward()
    for p, flag in zip(generator.parameters(), flags, strict=True):
        p.requires_grad_(flag)
    return (z - lr * z.grad).detach()


def on_a_copy(generator, z, x, lr, penalty):
    z = z.clone().requires_grad_()
    loss_of(copy.deepcopy(generator), z, x, penalty).backward()
    with torch.no_grad():
        return z - lr * z.grad


def by_an_optimizer(generator, z, x, lr, penalty):
    z = torch.nn.Parameter(z.clone())
    loss_of(generator, z, x, penalty).backward(inputs=[z])
    torch.optim.SGD([z], lr=lr).step()
    return z


def picture_by_picture(generator, z, x, lr, penalty):
    found = torch.zeros(z.shape)
    for i in range(len(z)):
        one = z[i : i + 1].clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss_of(generator, one, x[i : i + 1], penalty), one)
        found[i] = (one - lr * slope)[0].detach()
    return found


def functional(generator, z, x, lr, penalty):
    slope = torch.func.grad(lambda z: loss_of(generator, z, x, penalty))(z)
    return z - lr * slope.detach()  # it hangs on the weights


def frozen_and_all_thawed(generator, z, x, lr, penalty):
    z = frozen_meanwhile(generator, z, x, lr, penalty)
    generator.requires_grad_(True)
    return z


def in_training_mode_behind(generator, z, x, lr, penalty):
    z = functional(generator, z, x, lr, penalty)
    generator.train()
    return z


def in_eval_mode_behind(generator, z, x, lr, penalty):
    return functional(generator.eval(), z, x, lr, penalty)


def in_eval_mode_meanwhile(generator, z, x, lr, penalty):
    before = generator.training
    z = in_eval_mode_behind(generator, z, x, lr, penalty)
    generator.train(before)
    return z


def z_asks_for_gradients(generator, z, x, lr, penalty):
    z.requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(generator, z, x, penalty), z)
    return (z - lr * slope).detach()


def z_itself_moves(generator, z, x, lr, penalty):
    return z.sub_(z - functional(generator, z, x, lr, penalty))


def with_adam(generator, z, x, lr, penalty):
    z = torch.nn.Parameter(z.clone())
    loss_of(generator, z, x, penalty).backward(inputs=[z])
    torch.optim.Adam([z], lr=lr).step()
    return z.detach()


def on_a_graph(generator, z, x, lr, penalty):
    z = z.clone().requires_grad_()
    return z - lr * torch.autograd.grad(loss_of(generator, z, x, penalty), z)[0]


def on_a_graph_by_the_mean(generator, z, x, lr, penalty):
    z = z.clone().requires_grad_()
    loss = loss_of(generator, z, x, penalty) / len(z)
    return z - lr * torch.autograd.grad(loss, z)[0]


def onto_the_shell(generator, z, x, lr, penalty):
    z = functional(generator, z, x, lr, penalty)
    return F.normalize(z, dim=1) * z.shape[1] ** 0.5


INVERSION_RIGHT = {
    "frozen meanwhile": frozen_meanwhile,
    "on a copy": on_a_copy,
    "by an optimizer, a leaf": by_an_optimizer,
    "picture by picture into zeros": picture_by_picture,
    "torch.func": functional,
    "in eval mode meanwhile": in_eval_mode_meanwhile,
}
INVERSION_WRONG = {
    "everything thawed": (frozen_and_all_thawed, "require a gradient"),
    "in training mode": (in_training_mode_behind, "is in training mode after"),
    "in eval mode": (in_eval_mode_behind, "is in eval mode after"),
    "z asks for gradients": (z_asks_for_gradients, "put `requires_grad` back"),
    "z itself moves": (z_itself_moves, "in place"),
    "on a graph": (on_a_graph, "`.detach()`"),
    "on a graph, and the mean": (on_a_graph_by_the_mean, "the batch's mean"),
    "Adam": (with_adam, ""),
    "onto the shell": (onto_the_shell, ""),
    "two steps": (
        lambda G, z, x, lr, penalty: functional(
            G, functional(G, z, x, lr, penalty), x, lr, penalty), ""),
    "nothing": (lambda G, z, x, lr, penalty: None, "returns nothing"),
    "a step twice as long": (
        lambda G, z, x, lr, penalty: functional(G, z, x, 2 * lr, penalty), ""),
    "no gradient through G": (
        lambda G, z, x, lr, penalty: z - lr * torch.func.grad(
            lambda z: loss_of(lambda z: G(z).detach(), z, x, penalty))(z), ""),
}


# --- 9.4 ------------------------------------------------------------------------------------------


def all_differences(codes, labels):
    return torch.stack([codes[y > 0].mean(0) - codes[y < 1].mean(0) for y in labels.T])


def least_squares(codes, labels):
    d, others = all_differences(codes, labels).split([1, labels.shape[1] - 1])
    if len(others) == 0:
        return d[0]
    weights = torch.linalg.lstsq(others.T, d.T).solution
    return (d.T - others.T @ weights).flatten()


def axes_of_the_span(codes, labels):
    d, *others = all_differences(codes, labels)
    axes = []
    for o in others:
        rest = o - sum((o @ a) * a for a in axes)
        if rest.norm() > 1e-3 * o.norm():
            axes.append(rest / rest.norm())
    return d - sum((d @ a) * a for a in axes)


def singular_vectors(codes, labels):
    d = all_differences(codes, labels)
    if len(d) == 1:
        return d[0]
    _, strengths, axes = torch.linalg.svd(d[1:], full_matrices=False)
    axes = axes[strengths > 1e-4 * strengths[0]]
    return d[0] - axes.T @ axes @ d[0]


def weighted_differences(codes, labels):
    y = labels.to(codes.dtype)
    d = y.T @ codes / y.sum(0)[:, None] - (1 - y).T @ codes / (1 - y).sum(0)[:, None]
    return d[0] - d[0] @ torch.linalg.pinv(d[1:]) @ d[1:]


def normal_equations(codes, labels):
    d, *others = all_differences(codes, labels)
    others = torch.stack(others)
    return d - others.T @ torch.linalg.inv(others @ others.T) @ others @ d


def unit_others_in_turn(codes, labels):
    d, *others = all_differences(codes, labels)
    for o in others:
        d = d - (d @ F.normalize(o, dim=0)) * F.normalize(o, dim=0)
    return d


def with_a_ridge(codes, labels):
    d, *others = all_differences(codes, labels)
    if not others:
        return d
    others = torch.stack(others)
    ridge = 1e-6 * torch.eye(len(others))
    return d - others.T @ torch.linalg.solve(others @ others.T + ridge, others @ d)


def by_pinv(codes, labels, rtol):
    d = all_differences(codes, labels)
    return d[0] - d[0] @ torch.linalg.pinv(d[1:], rtol=rtol) @ d[1:]


PURE_RIGHT = {
    "least squares": least_squares,
    "axes of the span": axes_of_the_span,
    "singular vectors": singular_vectors,
    "weighted sums": weighted_differences,
    "pinv with a tolerance": lambda codes, labels: by_pinv(codes, labels, 1e-4),
    "in float64": lambda codes, labels: singular_vectors(codes.double(), labels),
}
PURE_WRONG = {
    "with a ridge": (with_a_ridge, ""),
    "only what is strong in the span": (lambda codes, labels: by_pinv(codes, labels, 0.2), ""),
    "normal equations": (normal_equations, ""),
    "unit vectors in turn": (unit_others_in_turn, "one after another"),
    "a matrix": (lambda codes, labels: least_squares(codes, labels)[None], "shape"),
    "medians": (
        lambda codes, labels: codes[labels[:, 0] > 0].median(0).values
        - codes[labels[:, 0] < 1].median(0).values, ""),
    "the others alone": (lambda codes, labels: all_differences(codes, labels)[1:].sum(0), ""),
    "codes centred in place": (
        lambda codes, labels: least_squares(codes.sub_(codes.mean(0)), labels), "in place"),
    "labels as weights": (
        lambda codes, labels: torch.linalg.lstsq(
            torch.cat([torch.ones(len(codes), 1), labels], 1), codes).solution[1], ""),
}


# --- 9.5 ------------------------------------------------------------------------------------------


def ranks(codes):
    order = codes.argsort(0)
    found = torch.empty_like(order)
    rows = torch.arange(len(codes))[:, None].expand_as(order)
    return found.scatter_(0, order, rows)


def gaps(codes, factors, information, bins=20):
    found = []
    for v in factors.T:
        if len(v.unique()) > 1:
            known = sorted(information(z, v) for z in (ranks(codes) * bins // len(codes)).T)
            found.append((known[-1] - known[-2]) / information(v, v))
    return found


def mig(information):
    return lambda codes, factors: float(sum(gaps(codes, factors, information)) / len(
        gaps(codes, factors, information)))


def by_sklearn(z, v):
    return mutual_info_score(z.numpy(), v.numpy())


def by_one_hot(z, v):
    joint = torch.einsum("ni,nj->ij", F.one_hot(z).double(), F.one_hot(v).double()) / len(v)
    apart = torch.outer(joint.sum(1), joint.sum(0))
    return (torch.xlogy(joint, joint) - torch.xlogy(joint, apart)).sum().item()


def by_entropies(z, v):
    def entropy(numbers):
        p = torch.unique(numbers, return_counts=True, dim=0)[1] / len(v)
        return -(p * p.log()).sum()

    return entropy(z) + entropy(v) - entropy(torch.stack([z, v], 1))


def by_keys(z, v):
    """One number for each pair, as if no value were above 9."""
    keys = 10 * z + v
    counts = [numbers.unique(return_counts=True)[1] / len(v) for numbers in (z, v, keys)]
    of_z, of_v, of_both = (-(p * p.log()).sum() for p in counts)
    return of_z + of_v - of_both


def bits(z, v):
    return by_one_hot(z, v) / math.log(2)


def with_epsilon(z, v):
    joint = torch.einsum("ni,nj->ij", F.one_hot(z).float(), F.one_hot(v).float()) / len(v)
    apart = joint.sum(1, keepdim=True) * joint.sum(0)
    return (joint * ((joint + 1e-12).log() - (apart + 1e-12).log())).sum()


def nan_at_empty_cells(z, v):
    joint = torch.einsum("ni,nj->ij", F.one_hot(z).float(), F.one_hot(v).float()) / len(v)
    return (joint * (joint / joint.sum(1, keepdim=True) / joint.sum(0)).log()).sum()


def of_each_factor(codes, factors):
    return torch.tensor(gaps(codes, factors, by_one_hot))


MIG_RIGHT = {
    "sklearn": mig(by_sklearn), "one-hot": mig(by_one_hot), "entropies": mig(by_entropies),
    "both in bits": mig(bits), "a tiny ε": mig(with_epsilon),
    "a tensor": lambda codes, factors: of_each_factor(codes, factors).mean(),
}
MIG_WRONG = {
    "values below 10 alone": (mig(by_keys), ""),
    "nan at empty cells": (mig(nan_at_empty_cells), "0·log 0 is nan"),
    "ten bins": (
        lambda codes, factors: float(np.mean(gaps(codes, factors, by_one_hot, 10))), ""),
    "each factor": (of_each_factor, "a number was expected"),
    "one minus": (lambda codes, factors: 1 - mig(by_one_hot)(codes, factors), ""),
    "percent": (lambda codes, factors: 100 * mig(by_one_hot)(codes, factors), ""),
    "codes sorted": (
        lambda codes, factors: mig(by_one_hot)(codes.sort(0).values, factors), ""),
    "in place": (lambda codes, factors: mig(by_one_hot)(codes.neg_(), factors), "in place"),
    "the largest gap": (
        lambda codes, factors: float(max(gaps(codes, factors, by_one_hot))), ""),
}

RIGHT = {
    "held_out_accuracy": HELD_OUT_RIGHT, "slerp": SLERP_RIGHT, "inversion_step": INVERSION_RIGHT,
    "pure_direction": PURE_RIGHT, "mutual_information_gap": MIG_RIGHT,
}
WRONG = {
    "held_out_accuracy": HELD_OUT_WRONG, "slerp": SLERP_WRONG, "inversion_step": INVERSION_WRONG,
    "pure_direction": PURE_WRONG, "mutual_information_gap": MIG_WRONG,
}
