"""Chapter 10: other right answers, and wrong ones that are tried besides those with a name."""

import itertools
import math
import statistics

import numpy as np
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

# --- 10.1 -----------------------------------------------------------------------------------------

CROSS = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])


def by_convolution(pictures, kernel=CROSS, padding=0):
    rows = pictures.reshape(-1, 1, *pictures.shape[2:])  # every channel a picture
    edges = F.conv2d(rows, kernel[None, None].to(rows), padding=padding)
    return edges.square().sum() / len(pictures)


def by_differences(pictures):
    across = pictures[:, :, 1:-1].diff(n=2, dim=-1)
    return (across + pictures[..., 1:-1].diff(n=2, dim=-2)).pow(2).sum((1, 2, 3)).mean()


def pixel_by_pixel(pictures):
    n, c, h, w = pictures.shape
    found = torch.zeros(n, c, h - 2, w - 2)
    for i, j in itertools.product(range(1, h - 1), range(1, w - 1)):
        near = pictures[:, :, [i - 1, i + 1, i, i], [j, j, j - 1, j + 1]].sum(-1)
        found[:, :, i - 1, j - 1] = near - 4 * pictures[:, :, i, j]
    return (found**2).sum() / n


def ratio(energy):
    return lambda x, real: (energy(x) / energy(real)).item()


def scaled_in_place(x, real):
    return ratio(by_differences)(x.mul_(2), real) / 4


SOBEL = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
SHARPNESS_RIGHT = {
    "a convolution": ratio(by_convolution),
    "second differences": ratio(by_differences),
    "pixel by pixel into zeros": ratio(pixel_by_pixel),
    "the mean over pixels on both sides": ratio(
        lambda v: by_differences(v) / v[0, :, 1:-1, 1:-1].numel()),
    "the other sign": ratio(lambda v: by_convolution(v, -CROSS)),
    "in float64": lambda x, real: by_differences(x.double()) / by_differences(real.double()),
}
SHARPNESS_WRONG = {
    "with padding": (ratio(lambda v: by_convolution(v, padding=1)), "The border counts"),
    "Sobel": (ratio(lambda v: by_convolution(v, SOBEL)), ""),
    "OpenCV's recipe": (
        lambda x, real: (by_variance(x) / by_variance(real)).item(), "the variance"),
    "the border repeated": (
        ratio(lambda v: by_convolution(F.pad(v, (1,) * 4, mode="replicate"))), ""),
    "as a tensor of one": (
        lambda x, real: (by_differences(x) / by_differences(real))[None], ""),
    "each picture": (
        lambda x, real: by_convolution(x) / by_convolution(real) * torch.ones(len(x)), ""),
    "a difference": (lambda x, real: by_differences(x) - by_differences(real), ""),
    "in place": (scaled_in_place, "in place"),
    "the first picture": (lambda x, real: ratio(by_convolution)(x[:1], real[:1]), ""),
    "the first channel": (lambda x, real: ratio(by_convolution)(x[:, :1], real[:, :1]), ""),
    "log": (lambda x, real: torch.log1p(by_convolution(x)) / torch.log1p(by_convolution(real)), ""),
}


def by_variance(pictures):
    edges = F.conv2d(pictures.reshape(-1, 1, *pictures.shape[2:]), CROSS[None, None])
    return edges.reshape(len(pictures), -1).var(dim=1, correction=0).mean()


# --- 10.2 -----------------------------------------------------------------------------------------


def by_distributions(mu, logvar, n):
    code = Normal(mu, (0.5 * logvar).exp())
    rate = kl_divergence(code, Normal(torch.zeros(mu.shape), torch.ones(mu.shape))).sum(1).mean()
    return rate, rate / math.log(2), torch.relu(rate - math.log(n))


def as_a_list(mu, logvar, n):
    rate = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(-1).mean()
    return [rate.item(), (rate * math.log2(math.e)).item(), (rate - math.log(n)).clamp(min=0)]


def picture_by_picture(mu, logvar, n):
    found = torch.zeros(len(mu))
    for i, (m, v) in enumerate(zip(mu, logvar, strict=True)):
        found[i] = sum((a * a + math.exp(b) - b - 1) / 2 for a, b in zip(m, v, strict=True))
    rate = found.mean().item()
    return rate, rate / math.log(2), rate - min(rate, math.log(n))


def in_float64(mu, logvar, n):
    return by_distributions(mu.double(), logvar.double(), n)


RATE_RIGHT = {
    "torch.distributions, tensors": by_distributions,
    "as a list": as_a_list,
    "picture by picture into zeros": picture_by_picture,
    "in float64": in_float64,
}
RATE_WRONG = {
    "one tensor": (
        lambda *given: torch.stack([torch.as_tensor(v) for v in by_distributions(*given)]),
        "3 values were expected"),
    "the rate alone": (lambda *given: by_distributions(*given)[0], "3 values were expected"),
    "of each picture": (
        lambda mu, logvar, n: tuple(v * torch.ones(len(mu)) for v in as_a_list(mu, logvar, n)), ""),
    "of the swapped KL": (
        lambda mu, logvar, n: by_distributions(
            mu * (-logvar / 2).exp(), -logvar, n), "the prior from the code"),
    "logvar and μ exchanged": (lambda mu, logvar, n: as_a_list(logvar, mu, n), ""),
    "never above 1": (
        lambda *given: (*as_a_list(*given)[:2], min(1.0, as_a_list(*given)[2].item())), ""),
    "μ in place": (lambda mu, logvar, n: as_a_list(mu.mul_(-1), logvar, n), "in place"),
    "the wrong order": (lambda *given: as_a_list(*given)[::-1], ""),
    "logvar above −10": (lambda mu, logvar, n: as_a_list(mu, logvar.clamp(min=-10), n), ""),
    "logvar below 10": (lambda mu, logvar, n: as_a_list(mu, logvar.clamp(max=10), n), ""),
    "one picture more": (lambda mu, logvar, n: as_a_list(mu, logvar, n + 1), ""),
}


# --- 10.3 -----------------------------------------------------------------------------------------


def by_statistics(a, b):
    d = [statistics.fmean(row) for row in (a - b).tolist()]
    return statistics.fmean(d), statistics.stdev(d) / len(d) ** 0.5


def by_numpy(a, b):
    d = a.numpy().mean(axis=1) - b.numpy().mean(axis=1)
    return d.mean(), d.std(ddof=1) / np.sqrt(len(d))


def by_formula(a, b):
    d = torch.einsum("sn->s", a - b) / a.shape[1]
    m = len(d)
    return d.mean(), (((d - d.mean()) ** 2).sum() / (m * (m - 1))).sqrt()


def as_one_tensor(a, b):
    return torch.stack(by_formula(a, b))


def square_of_the_mean(a, b):
    d = (a - b).mean(1)
    var = (d.square().mean() - d.mean() ** 2).clamp(min=0) * len(d) / (len(d) - 1)
    return d.mean().item(), (var / len(d)).sqrt().item()


COMPARE_RIGHT = {
    "statistics": by_statistics,
    "NumPy's numbers": by_numpy,
    "the formula, tensors": by_formula,
    "as a list, from the variance": lambda a, b: [
        (a.mean(1) - b.mean(1)).mean().item(),
        math.sqrt((a.mean(1) - b.mean(1)).var().item() / len(a))],
    "in float64": lambda a, b: by_formula(a.double(), b.double()),
}
COMPARE_WRONG = {
    "one tensor": (as_one_tensor, "2 values were expected"),
    "pictures of one seed": (lambda a, b: by_formula(a[:2], b[:2]), ""),
    "the biased one of NumPy": (
        lambda a, b: ((a - b).numpy().mean(), (a - b).numpy().mean(1).std() / np.sqrt(len(a))),
        "S − 1"),
    "medians": (
        lambda a, b: by_formula(a.median(1, keepdim=True).values, b.median(1, keepdim=True).values),
        ""),
    "t": (lambda a, b: (by_formula(a, b)[0], by_formula(a, b)[0] / by_formula(a, b)[1]), ""),
    "error first": (lambda a, b: by_formula(a, b)[::-1], ""),
    "in place": (lambda a, b: by_formula(a.sub_(b), 0 * b), "in place"),
    "the square of the mean is taken off": (square_of_the_mean, ""),
    "two errors": (lambda a, b: (by_formula(a, b)[0], 2 * by_formula(a, b)[1]), ""),
    "errors of all pictures": (
        lambda a, b: ((a - b).mean(), ((a - b).var() / a.numel()).sqrt()), "every picture"),
}


# --- 10.4 -----------------------------------------------------------------------------------------


def by_cdist(x, y, p=2.0):
    def within(v):
        return torch.cdist(v, v, p).sum() / (len(v) * (len(v) - 1))

    return (2 * torch.cdist(x, y, p).mean() - within(x) - within(y)).item()


def by_pdist(x, y):
    between = (x[:, None] - y).square().sum(-1).sqrt().mean()
    return 2 * between - F.pdist(x).mean() - F.pdist(y).mean()


def pair_by_pair(x, y):
    def mean(pairs):
        return statistics.fmean(math.dist(a, b) for a, b in pairs)

    x, y = x.tolist(), y.tolist()
    return 2 * mean(itertools.product(x, y)) - mean(itertools.permutations(x, 2)) - mean(
        itertools.combinations(y, 2))


def off_the_diagonal(x, y):
    def within(v):
        table = torch.linalg.vector_norm(v[:, None] - v, dim=-1)
        return table[~torch.eye(len(v), dtype=torch.bool)].mean()

    return 2 * torch.linalg.vector_norm(x[:, None] - y, dim=-1).mean() - within(x) - within(y)


def upper_triangle(x, y):
    def within(v):
        return torch.cdist(v, v).triu().mean()

    return 2 * torch.cdist(x, y).mean() - within(x) - within(y)


def no_diagonal_between(x, y):
    table = torch.cdist(x, y)
    apart = table[~torch.eye(*table.shape, dtype=torch.bool)].mean() if len(x) == len(y) else (
        table.mean())
    return by_cdist(x, y) + 2 * (apart - table.mean()).item()


ENERGY_RIGHT = {
    "cdist": by_cdist,
    "pdist, a tensor": by_pdist,
    "pair by pair": pair_by_pair,
    "off the diagonal": off_the_diagonal,
    "in float64": lambda x, y: by_cdist(x.double(), y.double()),
}
ENERGY_WRONG = {
    "cdist with p = 1": (lambda x, y: by_cdist(x, y, 1.0), "absolute differences"),
    "the largest difference": (lambda x, y: by_cdist(x, y, math.inf), ""),
    "the mean of the upper triangle": (upper_triangle, ""),
    "never below 0": (lambda x, y: max(0.0, by_cdist(x, y)), "Below 0"),
    "its size": (lambda x, y: abs(by_cdist(x, y)), ""),
    "means of rows": (lambda x, y: torch.cdist(x, y).mean(1), ""),
    "in place": (lambda x, y: by_cdist(x.sub_(y.mean(0)), y.sub(y.mean(0))), "in place"),
    "the nearest": (lambda x, y: torch.cdist(x, y).amin(1).mean(), ""),
    "no diagonal between the sets either": (no_diagonal_between, ""),
}


# --- 10.5 -----------------------------------------------------------------------------------------


def three(x, E, G, D, noise, prior, gamma):
    mu, logvar = E(x)
    back, sampled = G(mu + noise * (logvar / 2).exp()), G(prior)
    similar = 0.5 * ((D.features(x) - D.features(back)) ** 2).sum() / len(x)
    code = Normal(mu, (logvar / 2).exp())
    rate = kl_divergence(code, Normal(torch.zeros(mu.shape), torch.ones(mu.shape))).sum(1).mean()
    logits = D(torch.cat([sampled, back]))
    ones = torch.ones(len(logits))
    return {
        "E": similar + rate,
        "G": gamma * similar + F.binary_cross_entropy_with_logits(logits, ones),
        "D": F.binary_cross_entropy_with_logits(D(x), ones[: len(x)])
        + F.binary_cross_entropy_with_logits(logits, 0 * ones),
    }


def own_gradients(losses, nets):
    return {k: torch.autograd.grad(losses[k], [*net.parameters()], retain_graph=True)
            for k, net in nets.items()}


def with_pytorchs_losses(x, E, G, D, noise, prior, gamma):
    losses = three(x, E, G, D, noise, prior, gamma)
    return own_gradients(losses, {"E": E, "G": G, "D": D})


def backward_into_one(x, E, G, D, noise, prior, gamma):
    losses = three(x, E, G, D, noise, prior, gamma)
    found = {}
    for name, net in {"D": D, "G": G, "E": E}.items():
        net.zero_grad()
        losses[name].backward(retain_graph=True, inputs=list(net.parameters()))
        found[name] = [p.grad.clone() for p in net.parameters()]
    return found


def computed_three_times(x, E, G, D, noise, prior, gamma):
    found = {}
    for name, net in {"E": E, "G": G, "D": D}.items():
        for other in (E, G, D):
            other.zero_grad()
        three(x, E, G, D, noise, prior, gamma)[name].backward()
        found[name] = [p.grad.clone() for p in net.parameters()]
    return found


def fakes_detached_for_d(x, E, G, D, noise, prior, gamma):
    found = with_pytorchs_losses(x, E, G, D, noise, prior, gamma)
    with torch.no_grad():
        mu, logvar = E(x)
        fakes = [G(mu + noise * (logvar / 2).exp()), G(prior)]
    loss = F.softplus(-D(x)).mean() + sum(F.softplus(D(v)).mean() for v in fakes) / 2
    return found | {"D": list(torch.autograd.grad(loss, list(D.parameters())))}


def piled_up(x, E, G, D, noise, prior, gamma):
    losses = three(x, E, G, D, noise, prior, gamma)
    nets = {"E": E, "G": G, "D": D}
    for loss in losses.values():
        loss.backward(retain_graph=True)
    return {k: [p.grad for p in net.parameters()] for k, net in nets.items()}


def emptied_in_between(x, E, G, D, noise, prior, gamma):
    losses = three(x, E, G, D, noise, prior, gamma)
    losses["E"].backward(retain_graph=True)
    G.zero_grad()
    D.zero_grad()
    losses["G"].backward(retain_graph=True)
    D.zero_grad()
    losses["D"].backward()
    return {k: [p.grad for p in net.parameters()] for k, net in {"E": E, "G": G, "D": D}.items()}


def weights_move(x, E, G, D, noise, prior, gamma):
    found = with_pytorchs_losses(x, E, G, D, noise, prior, gamma)
    with torch.no_grad():
        for p, g in zip(E.parameters(), found["E"], strict=True):
            p -= 0.1 * g
    return found


def judge_frozen(x, E, G, D, noise, prior, gamma):
    found = with_pytorchs_losses(x, E, G, D, noise, prior, gamma)
    D.requires_grad_(False)
    return found


def of_other(**changes):
    def answer(x, E, G, D, noise, prior, gamma):
        given = {"x": x, "noise": noise, "prior": prior, "gamma": gamma}
        given |= {k: change(given) for k, change in changes.items()}
        return with_pytorchs_losses(given["x"], E, G, D, given["noise"], given["prior"],
                                    given["gamma"])

    return answer


VAEGAN_RIGHT = {
    "PyTorch's losses": with_pytorchs_losses,
    "backward with inputs": backward_into_one,
    "computed three times": computed_three_times,
    "fakes detached for D": fakes_detached_for_d,
}
VAEGAN_WRONG = {
    "piled up": (piled_up, "*sum* of the losses"),
    "emptied in between": (emptied_in_between, "one loss after the other"),
    "weights move": (weights_move, "leave them as they are"),
    "D frozen": (judge_frozen, "no longer require a gradient"),
    "γ squared": (of_other(gamma=lambda given: given["gamma"] ** 2), ""),
    "noise and prior exchanged": (
        of_other(noise=lambda g: g["prior"], prior=lambda g: g["noise"]), ""),
    "the prior for both": (of_other(noise=lambda g: g["prior"]), ""),
    "x in place": (of_other(x=lambda g: g["x"].clamp_(-0.5, 0.5)), "in place"),
    "one list": (
        lambda *given: sum(map(list, with_pytorchs_losses(*given).values()), []), "E, G, D"),
    "without D": (
        lambda *given: {k: v for k, v in with_pytorchs_losses(*given).items() if k != "D"},
        "E, G, D"),
    "E and G exchanged": (
        lambda x, E, G, D, *rest: (lambda f: {"E": f["G"], "G": f["E"], "D": f["D"]})(
            with_pytorchs_losses(x, E, G, D, *rest)), ""),
}

RIGHT = {
    "sharpness": SHARPNESS_RIGHT, "rate_and_misfit": RATE_RIGHT, "compare_seeds": COMPARE_RIGHT,
    "energy_distance": ENERGY_RIGHT, "vaegan_gradients": VAEGAN_RIGHT,
}
WRONG = {
    "sharpness": SHARPNESS_WRONG, "rate_and_misfit": RATE_WRONG, "compare_seeds": COMPARE_WRONG,
    "energy_distance": ENERGY_WRONG, "vaegan_gradients": VAEGAN_WRONG,
}
