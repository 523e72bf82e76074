"""Chapter 02: other right answers, and wrong ones that are tried besides those with a name."""

import math

import torch
from torch.nn import functional as F

# --- 2.1 ------------------------------------------------------------------------------------------


def one_by_one(p, q):
    found = torch.zeros(p.shape)
    for i in range(p.numel()):
        a, b = p.view(-1)[i], q.view(-1)[i]
        found.view(-1)[i] = a / (a + b) if a + b > 0 else 0.5
    return found


def from_the_logit(p, q):
    return torch.where((p == 0) & (q == 0), 0.5, (p.log() - q.log()).sigmoid())


def from_the_odds(p, q):
    return torch.where((p == 0) & (q == 0), 0.5, 1 / (1 + q / p))


def masked(p, q):
    found = torch.full_like(p, 0.5)
    some = p + q > 0
    found[some] = p[some] / (p[some] + q[some])
    return found


def both(epsilon):
    return lambda p, q: (p + epsilon) / (p + q + 2 * epsilon)


def below(epsilon):
    return lambda p, q: p / (p + q + epsilon)


def clamped(epsilon):
    return lambda p, q: torch.where(p + q == 0, 0.5, p / (p + q).clamp_min(epsilon))


def limited(epsilon):
    return lambda p, q: torch.where(p + q < epsilon, 0.5, p / (p + q))


D_RIGHT = {
    "the logit": from_the_logit,
    "the odds": from_the_odds,
    "nan_to_num": lambda p, q: (p / (p + q)).nan_to_num(nan=0.5),
    "one by one into zeros": one_by_one,
    "a mask": masked,
    "in float64": lambda p, q: masked(p.double(), q.double()),
    "softmax of the logs": lambda p, q: torch.where(
        p + q > 0, torch.stack([p.log(), q.log()]).softmax(0)[0], 0.5),
    "1 − q/(p + q)": lambda p, q: torch.where(p + q > 0, 1 - q / (p + q), 0.5),
}
D_WRONG = {
    **{f"(p + ε)/(p + q + 2ε), ε = {e:g}": (both(e), "makes D ½ in the tails")
       for e in (1e-8, 1e-10, 1e-20, 1e-30)},
    **{f"(p + ε)/(p + q + 2ε), ε = {e:g}": (both(e), "In float64 densities go down to 1e-308")
       for e in (1e-50, 1e-70, 1e-80, 1e-100, 1e-150, 1e-250, 1e-290)},
    "(p + ε)/(p + q + 2ε), ε = 1e-300": (both(1e-300), ""),
    "(p + ε)/(p + q + 2ε), ε = 5e-324": (both(5e-324), ""),
    **{f"p/(p + q + ε), ε = {e:g}": (below(e), "below the fraction bar")
       for e in (1e-8, 1e-20, 1e-30)},
    **{f"p/(p + q + ε), ε = {e:g}": (below(e), "smaller than your ε, D falls to 0")
       for e in (1e-80, 1e-200)},
    **{f"clamped at {e:g}": (clamped(e), "below your smallest sum") for e in (1e-8, 1e-30)},
    **{f"clamped at {e:g}": (clamped(e), "count as your smallest sum")
       for e in (1e-80, 1e-150, 1e-250)},
    **{f"½ below {e:g}": (limited(e), "D ½ in the tails") for e in (1e-8, 1e-12, 1e-30)},
    **{f"½ below {e:g}": (limited(e), "your ε or limit") for e in (1e-80, 1e-290)},
    "isclose": (lambda p, q: torch.where(torch.isclose(p + q, torch.zeros_like(p)), 0.5,
                                         p / (p + q)), "D ½ in the tails"),
    "rounded to float32": (lambda p, q: masked(p.float(), q.float()), ""),
    "products": (lambda p, q: torch.where(p + q > 0, p * q / (p * q + q * q), 0.5), ""),
    "nan_to_num with 0": (lambda p, q: (p / (p + q)).nan_to_num(), "yours is 0"),
    "½ where one is 0": (lambda p, q: torch.where((p > 0) & (q > 0), p / (p + q), 0.5),
                         "where one of them is, D is sure"),
    "clamped off 0 and 1": (lambda p, q: masked(p, q).clamp(0.01, 0.99), "not"),
    "in place": (lambda p, q: masked(p.add_(1e-3).sub_(1e-3), q), ""),
}


# --- 2.2 and 2.4 ----------------------------------------------------------------------------------


def bce(real_logits, fake_logits):
    loss = F.binary_cross_entropy_with_logits
    real, fake = torch.ones(len(real_logits)), torch.zeros(len(fake_logits))
    return loss(real_logits, real) + loss(fake_logits, fake)


def bce_module(real_logits, fake_logits):
    loss = torch.nn.BCEWithLogitsLoss(reduction="sum")
    real = loss(real_logits, torch.ones_like(real_logits)) / len(real_logits)
    return real + loss(fake_logits, torch.zeros_like(fake_logits)) / len(fake_logits)


def bernoulli(real_logits, fake_logits):
    log_p = torch.distributions.Bernoulli(logits=real_logits).log_prob(torch.ones(()))
    log_q = torch.distributions.Bernoulli(logits=fake_logits).log_prob(torch.zeros(()))
    return -log_p.mean() - log_q.mean()


def two_classes(real_logits, fake_logits):
    def loss(logits, kind):
        pair = torch.stack([torch.zeros_like(logits), logits], 1)
        return F.cross_entropy(pair, torch.full((len(logits),), kind))

    return loss(real_logits, 1) + loss(fake_logits, 0)


def logaddexp(real_logits, fake_logits):
    zero = torch.zeros(())
    return torch.logaddexp(zero, -real_logits).mean() + torch.logaddexp(zero, fake_logits).mean()


def by_hand(real_logits, fake_logits):
    def softplus(t):
        return t.clamp(min=0) + torch.log1p(torch.exp(-t.abs()))

    return (softplus(-real_logits).sum() / real_logits.numel()
            + softplus(fake_logits).sum() / fake_logits.numel())


def with_epsilon(epsilon):
    def loss(real_logits, fake_logits):
        real, fake = real_logits.sigmoid(), fake_logits.sigmoid()
        return -(real + epsilon).log().mean() - (1 - fake + epsilon).log().mean()

    return loss


def with_clamp(epsilon):
    def loss(real_logits, fake_logits):
        real, fake = real_logits.sigmoid(), 1 - fake_logits.sigmoid()
        return -real.clamp(min=epsilon).log().mean() - fake.clamp(min=epsilon).log().mean()

    return loss


def with_bce(real_logits, fake_logits):
    real, fake = real_logits.sigmoid(), fake_logits.sigmoid()
    return (F.binary_cross_entropy(real, torch.ones_like(real))
            + F.binary_cross_entropy(fake, torch.zeros_like(fake)))


def half_stable(real_logits, fake_logits):
    return F.softplus(-real_logits).mean() - (1 - fake_logits.sigmoid()).log().mean()


def clamped_logits(limit):
    return lambda r, f: logaddexp(r.clamp(-limit, limit), f.clamp(-limit, limit))


LOSSES = {
    "BCE with logits": bce,
    "the module, summed": bce_module,
    "Bernoulli": bernoulli,
    "two classes": two_classes,
    "logaddexp": logaddexp,
    "softplus by hand": by_hand,
    "in float64": lambda r, f: bce_module(r.double(), f.double()),
    "in float64 and back": lambda r, f: bce_module(r.double(), f.double()).float(),
}
WRONG_LOSSES = {
    **{f"ε = {e:g}": (with_epsilon(e), "stops it there") for e in (1e-6, 1e-7, 1e-8, 1e-12, 1e-15)},
    **{f"clamp at {e:g}": (with_clamp(e), "stops it there") for e in (1e-6, 1e-8, 1e-12)},
    "ε = 1e-300": (with_epsilon(1e-300), ""),
    "BCE of probabilities": (with_bce, "100 or so"),
    "half of it stable": (half_stable, "nan or inf"),
    "naive": (with_epsilon(0), "infinite"),
    "logits clamped at 20": (clamped_logits(20), "stops it there"),
    "logits clamped at 88": (clamped_logits(88), "100 or so"),
    "both real": (
        lambda r, f: bce(r, f) + f.mean(), ""),
    "detached": (lambda r, f: bce(r, f).detach(), "no gradient"),
    "the fake ones detached": (lambda r, f: bce(r, f.detach()), "no gradient flows"),
    "hinge": (lambda r, f: (1 - r).relu().mean() + (1 + f).relu().mean(), ""),
    "smoothed labels": (lambda r, f: 0.9 * bce(r, f) + 0.1 * bce(-r, f), ""),
    "one mean each, of the larger": (
        lambda r, f: (F.softplus(-r).sum() + F.softplus(f).sum()) / max(len(r), len(f)), ""),
}


def bound_of(loss):
    return lambda real_logits, fake_logits: (math.log(4) - loss(real_logits, fake_logits)) / 2


JS_RIGHT = {
    **{label: bound_of(loss) for label, loss in LOSSES.items()},
    "log 2 + V/2": lambda r, f: math.log(2) + (
        F.logsigmoid(r).mean() + F.logsigmoid(-f).mean()) / 2,
    "a tensor of log 4": lambda r, f: (torch.tensor(4.0).log() - bce(r, f)) / 2,
}
JS_WRONG = {
    **{label: (bound_of(loss), part) for label, (loss, part) in WRONG_LOSSES.items()},
    "never above log 2": (lambda r, f: bound_of(bce)(r, f).clamp(max=0.5), ""),
    "the absolute value": (lambda r, f: bound_of(bce)(r, f).abs(), ""),
    "in bits": (lambda r, f: bound_of(bce)(r, f) / math.log(2), ""),
    "V without logarithms": (
        lambda r, f: (r.sigmoid().mean() - f.sigmoid().mean() + math.log(4)) / 2, ""),
}


# --- 2.3 ------------------------------------------------------------------------------------------


def by_autograd(logits, saturating):
    x = logits.clone().requires_grad_()
    loss = -F.softplus(x).mean() if saturating else F.softplus(-x).mean()
    return torch.autograd.grad(loss, x)[0]


def by_exp(logits, saturating):
    sign = 1 if saturating else -1
    return -1 / (1 + torch.exp(-sign * logits)) / logits.numel()


def by_logsigmoid(logits, saturating):
    return -F.logsigmoid(logits if saturating else -logits).exp() / logits.shape[0]


def each(logits, saturating):
    found = torch.zeros(len(logits), dtype=torch.float64)
    for i, x in enumerate(logits.double()):
        found[i] = -torch.sigmoid(x if saturating else -x) / len(logits)
    return found.to(logits.dtype)


def by_differences(logits, saturating):
    def loss(x):
        return -F.softplus(x) if saturating else F.softplus(-x)

    return (loss(logits + 1e-3) - loss(logits - 1e-3)) / 2e-3 / len(logits)


GENERATOR_RIGHT = {
    "autograd": by_autograd,
    "exp": by_exp,
    "logsigmoid": by_logsigmoid,
    "one by one into zeros": each,
    "tanh of both sides": lambda x, s: -torch.special.expit(x if s else -x) / len(x),
    "1 − D where that is exact": lambda x, s: -(torch.where(x < 0, 1 - x.sigmoid(), (-x).sigmoid())
                                                if not s else x.sigmoid()) / len(x),
}
GENERATOR_WRONG = {
    "1 − D": (lambda x, s: -(x.sigmoid() if s else 1 - x.sigmoid()) / len(x), "lost its digits"),
    "D − 1": (lambda x, s: (-x.sigmoid() if s else x.sigmoid() - 1) / len(x), "lost its digits"),
    "by tanh": (lambda x, s: -(1 + ((x if s else -x) / 2).tanh()) / 2 / len(x), ""),
    "differences": (by_differences, ""),
    "ε under the bar": (
        lambda x, s: -(x.sigmoid() if s else x.sigmoid() * (-x).sigmoid() / (x.sigmoid() + 1e-8))
        / len(x), ""),
    "clamped": (lambda x, s: by_exp(x.clamp(-50, 50), s), ""),
    "exp(l)/(1 + exp(l))": (
        lambda x, s: -(x if s else -x).exp() / (1 + (x if s else -x).exp()) / len(x), "overflows"),
    "always saturating": (lambda x, s: by_exp(x, True), ""),
    "always the other": (lambda x, s: by_exp(x, False), ""),
    "one number": (lambda x, s: by_exp(x, s).sum(), "shape"),
    "in float16": (lambda x, s: by_exp(x, s).half().to(x.dtype), ""),
}


# --- 2.5 ------------------------------------------------------------------------------------------


def step(x, y, A, eta):
    ahead_x, ahead_y = x - eta * A @ y, y + eta * (x @ A)
    return [x - eta * (A @ ahead_y), y + eta * (ahead_x @ A)]


def by_gradients(x, y, A, eta):
    def forces(x, y):
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        return torch.autograd.grad(x @ A @ y, (x, y))

    g, h = forces(x, y)
    g, h = forces(x - eta * g, y + eta * h)
    return x - eta * g, y + eta * h


def by_einsum(x, y, A, eta):
    def forces(x, y):
        return torch.einsum("nm,m->n", A, y), torch.einsum("nm,n->m", A, x)

    g, h = forces(*(v + s * eta * f for v, s, f in zip((x, y), (-1, 1), forces(x, y),
                                                       strict=True)))
    return x - eta * g, y + eta * h


def element_by_element(x, y, A, eta):
    def moved(x, y, at_x, at_y):
        new_x, new_y = torch.zeros(len(x)), torch.zeros(len(y))
        for i in range(len(x)):
            new_x[i] = x[i] - eta * (A[i] * at_y).sum()
        for j in range(len(y)):
            new_y[j] = y[j] + eta * (A[:, j] * at_x).sum()
        return new_x, new_y

    return moved(x, y, *moved(x, y, x, y))


def in_place(x, y, A, eta):
    ahead_x, ahead_y = x - eta * A @ y, y + eta * A.T @ x
    x -= eta * A @ ahead_y
    y += eta * A.T @ ahead_x
    return x, y


def implicit(x, y, A, eta):
    """The step that extragradient approximates."""
    n, m = A.shape
    system = torch.eye(n + m)
    system[:n, n:], system[n:, :n] = eta * A, -eta * A.T
    both = torch.linalg.solve(system, torch.cat([x, y]))
    return both[:n], both[n:]


def averaged(x, y, A, eta):
    new_x, new_y = step(x, y, A, eta)
    return (new_x + x - eta * A @ y) / 2, (new_y + y + eta * A.T @ x) / 2


STEP_RIGHT = {
    "a list": step,
    "autograd": by_gradients,
    "einsum": by_einsum,
    "element by element": element_by_element,
    "in float64": lambda x, y, A, eta: step(*(v.double() for v in (x, y, A)), eta),
    "written out": lambda x, y, A, eta: (
        x - eta * A @ y - eta**2 * A @ (A.T @ x), y + eta * A.T @ x - eta**2 * A.T @ (A @ y)),
}
STEP_WRONG = {
    "in place": (in_place, "changed in place"),
    "the implicit step": (implicit, ""),
    "averaged with the trial": (averaged, ""),
    "the trial alone": (lambda x, y, A, eta: (x - eta * A @ y, y + eta * A.T @ x), "look ahead"),
    "y first": (lambda x, y, A, eta: step(x, y, A, eta)[::-1], ""),
    "x alone": (lambda x, y, A, eta: step(x, y, A, eta)[0], "2 values were expected"),
    "one tensor": (lambda x, y, A, eta: torch.cat(step(x, y, A, eta)), "2 values were expected"),
    "η squared": (lambda x, y, A, eta: step(x, y, A, eta**2), ""),
    "η normalised": (lambda x, y, A, eta: step(x, y, A / A.norm().clamp(min=1), eta), ""),
}

RIGHT = {
    "optimal_discriminator": D_RIGHT, "js_bound": JS_RIGHT, "generator_gradient": GENERATOR_RIGHT,
    "judge_loss": LOSSES, "extragradient_step": STEP_RIGHT,
}
WRONG = {
    "optimal_discriminator": D_WRONG, "js_bound": JS_WRONG, "generator_gradient": GENERATOR_WRONG,
    "judge_loss": WRONG_LOSSES, "extragradient_step": STEP_WRONG,
}
