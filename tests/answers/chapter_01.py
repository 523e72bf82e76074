"""Chapter 01: other right answers, and wrong ones that are tried besides those with a name."""

import math

import torch
from torch.distributions import (
    Categorical,
    Independent,
    MultivariateNormal,
    Normal,
    kl_divergence,
)
from torch.nn import functional as F

# --- 1.1 and 1.2 ----------------------------------------------------------------------------------


def safe(p, q):
    return p * (torch.where(p > 0, p, 1).log() - torch.where(p > 0, q, 1).log())


def kl(p, q):
    return safe(p, q).sum(-1)


def into_zeros(p, q):
    found = torch.zeros(p.shape[:-1])
    for k in range(p.shape[-1]):
        found = found + safe(p, q)[..., k] if p.shape[-1] < 9 else safe(p, q).sum(-1)
    return found


def entropies(p, q):
    return (torch.special.entr(p / 2 + q / 2) - (torch.special.entr(p) + torch.special.entr(q)) / 2
            ).sum(-1)


def renormalised(p, q):
    return kl(p, q / q.sum(-1, keepdim=True))


def kl_div_on_safe_logs(p, q):
    log_q = torch.where(p > 0, q, 1).log()
    return F.kl_div(log_q, p, reduction="none").sum(-1)


def hidden(epsilon):
    return lambda p, q: (p * ((p + epsilon).log() - (q + epsilon).log())).sum(-1)


def clamped(epsilon):
    return lambda p, q: kl(p, q.clamp(min=epsilon))


def masked(limit):
    return lambda p, q: torch.where(p > limit, safe(p, q), 0).sum(-1)


def js_of(divergence):
    return lambda p, q: (divergence(p, (p + q) / 2) + divergence(q, (p + q) / 2)) / 2


HIDDEN = "KL is infinite, however small p is"
KL_RIGHT = {
    "torch.distributions": lambda p, q: kl_divergence(Categorical(p), Categorical(q)),
    "a renormalised q": renormalised,
    "F.kl_div": kl_div_on_safe_logs,
    "a loop into zeros": into_zeros,
    "in float64": lambda p, q: kl(p.double(), q.double()),
    "in float64 and back": lambda p, q: kl(p.double(), q.double()).to(p.dtype),
    "einsum": lambda p, q: torch.einsum("...k->...", safe(p, q)),
    "entropy and cross-entropy": lambda p, q: -torch.special.entr(p).sum(-1) - (
        p * torch.where(p > 0, q, 1).log()).sum(-1),
    "q tied to 1 where p is 0": lambda p, q: torch.where(
        p > 0, p * (torch.where(p > 0, p, 1) / torch.where(p > 0, q, 1)).log(), 0).sum(-1),
}
KL_WRONG = {
    **{f"ε = {e:g}": (hidden(e), HIDDEN) for e in (1e-8, 1e-9, 1e-10, 1e-12, 1e-20)},
    **{f"clamp at {e:g}": (clamped(e), HIDDEN) for e in (1e-8, 1e-10, 1e-12, 1e-30)},
    **{f"mask at {e:g}": (masked(e), HIDDEN) for e in (1e-6, 1e-8, 1e-12, 1e-30)},
    "mask at 1e-3": (masked(1e-3), "that may be all"),
    "mask at 1e-2 of an even p": (
        lambda p, q: safe(p, q).sum(-1) * (p.amax(-1) > 1e-2), "Outcomes with a small p"),
    "ε = 1e-7": (hidden(1e-7), "not"),
    "the ε of the dtype": (lambda p, q: kl(p, q + torch.finfo(torch.float32).eps), "not"),
    "a floor under q that is infinite": (
        lambda p, q: torch.where(q > 1e-12, safe(p, q), math.inf * (p > 0)).nan_to_num(
            posinf=math.inf).sum(-1), "not"),
    "nan made 0": (lambda p, q: (p * (p / q).log()).nansum(-1), "the gradient is nan"),
    "where": (lambda p, q: torch.where(p > 0, p * (p / q).log(), 0).sum(-1), "the gradient is nan"),
    "infinities made 0": (
        lambda p, q: safe(p, q).nan_to_num(posinf=0).sum(-1), HIDDEN),
    "never negative": (lambda p, q: safe(p, q).clamp(min=0).sum(-1), "not"),
    "no gradient": (lambda p, q: kl(p, q.detach()), "no gradient flows"),
    "changed in place": (lambda p, q: kl(p, q.mul_(1)) + 0 * q.add_(1e-3).sum(),
                         "changed in place"),
    "bits, and nan at zeros": (lambda p, q: (p * (p / q).log2()).sum(-1), "bits"),
    "swapped F.kl_div": (
        lambda p, q: F.kl_div(p.log(), q, reduction="none").sum(-1), "swapped"),
    "the default of F.kl_div": (
        lambda p, q: F.kl_div(q.log(), p), "one mean over all entries"),
    "the first dimension": (lambda p, q: safe(p, q).sum(0), "first dimension"),
    "the absolute value": (lambda p, q: safe(p, q).abs().sum(-1), "not"),
    "kept dimension": (lambda p, q: safe(p, q).sum(-1, keepdim=True), "shape"),
    "squeezed": (lambda p, q: kl(p, q).squeeze(), "shape"),
}

JS_RIGHT = {
    "torch.distributions": js_of(KL_RIGHT["torch.distributions"]),
    "entropies": entropies,
    "in float64": lambda p, q: js_of(kl)(p.double(), q.double()),
    "one sum": lambda p, q: 0.5 * (safe(p, (p + q) / 2) + safe(q, (p + q) / 2)).sum(-1),
    "a tiny ε, which is harmless here": js_of(hidden(1e-12)),
}
JS_WRONG = {
    "mask at 1e-3": (js_of(masked(1e-3)), "that may be all"),
    "nan": (js_of(lambda p, q: (p * (p / q).log()).sum(-1)), "gives nan"),
    "ε = 1e-3": (js_of(hidden(1e-3)), "not"),
    "squeezed": (lambda p, q: js_of(kl)(p, q).squeeze(), "shape"),
    "geometric mixture": (
        lambda p, q: (kl(p, (p * q).sqrt()) + kl(q, (p * q).sqrt())) / 2, ""),
    "arithmetic mean of the logs": (lambda p, q: (kl(p, q) + kl(q, p)) / 4, ""),
    "the larger one": (
        lambda p, q: torch.maximum(kl(p, (p + q) / 2), kl(q, (p + q) / 2)), "not"),
}


# --- 1.3 ------------------------------------------------------------------------------------------


def by_full_covariance(mu_p, logvar_p, mu_q, logvar_q):
    p, q = (MultivariateNormal(m, scale_tril=torch.diag_embed((v / 2).exp()))
            for m, v in ((mu_p, logvar_p), (mu_q, logvar_q)))
    return kl_divergence(p, q)


def by_distributions(mu_p, logvar_p, mu_q, logvar_q):
    p, q = (Independent(Normal(m, (v / 2).exp()), 1)
            for m, v in ((mu_p, logvar_p), (mu_q, logvar_q)))
    return kl_divergence(p, q)


def by_ratio(mu_p, logvar_p, mu_q, logvar_q):
    apart = logvar_p - logvar_q
    return 0.5 * (apart.exp() - apart - 1 + (mu_p - mu_q) ** 2 * (-logvar_q).exp()).sum(-1)


def rows_into_zeros(mu_p, logvar_p, mu_q, logvar_q):
    found = torch.zeros(len(mu_p))
    for i, row in enumerate(zip(mu_p, logvar_p, mu_q, logvar_q, strict=True)):
        found[i] = by_ratio(*row)
    return found


def off(change):
    """The right answer with something added to each dimension's term."""
    def answer(mu_p, logvar_p, mu_q, logvar_q):
        right = by_ratio(mu_p, logvar_p, mu_q, logvar_q)
        return right + change(mu_p, logvar_p, mu_q, logvar_q).sum(-1)

    return answer


GAUSSIANS_RIGHT = {
    "torch.distributions": by_distributions,
    "full covariances": by_full_covariance,
    "the ratio": by_ratio,
    "rows into zeros": rows_into_zeros,
    "in float64": lambda *given: by_ratio(*(x.double() for x in given)),
}
GAUSSIANS_WRONG = {
    "σ² for logvar": (
        lambda m, v, n, w: by_ratio(m, v.abs().log(), n, w.abs().log()), "not"),
    "means left out": (lambda m, v, n, w: by_ratio(0 * m, v, 0 * n, w), "means are left out"),
    "widths left out": (lambda m, v, n, w: by_ratio(m, 0 * v, n, 0 * w), "not"),
    "ε in the variance": (
        lambda m, v, n, w: by_ratio(m, (v.exp() + 1e-2).log(), n, (w.exp() + 1e-2).log()), "not"),
    "clamped logvar": (lambda m, v, n, w: by_ratio(m, v.clamp(-2, 2), n, w.clamp(-2, 2)), "not"),
    "clamped at 0": (lambda m, v, n, w: by_ratio(m, v.clamp(min=0), n, w), "not"),
    "no gradient in p": (lambda m, v, n, w: by_ratio(m.detach(), v, n, w), "no gradient flows"),
    "one dimension's number": (lambda m, v, n, w: by_ratio(m, v, n, w)[:1], "shape"),
    "a term twice": (off(lambda m, v, n, w: (v - w) / 2), "not"),
}


# --- 1.4 ------------------------------------------------------------------------------------------


def with_epsilon(epsilon):
    def answer(p_logits, q_logits):
        p, q = p_logits.softmax(-1), q_logits.softmax(-1)
        return (p * ((p + epsilon).log() - (q + epsilon).log())).sum(-1).mean()

    return answer


def with_clamp(epsilon):
    def answer(p_logits, q_logits):
        p, q = (x.softmax(-1).clamp(min=epsilon) for x in (p_logits, q_logits))
        return (p * (p / q).log()).sum(-1).mean()

    return answer


def by_rows(p_logits, q_logits):
    rows = zip(p_logits, q_logits, strict=True)
    return sum(F.kl_div(q.log_softmax(0), p.softmax(0), reduction="sum") for p, q in rows) / len(
        p_logits)


def by_logsumexp(p_logits, q_logits):
    log_p = p_logits - p_logits.logsumexp(1, keepdim=True)
    log_q = q_logits - q_logits.logsumexp(1, keepdim=True)
    return torch.einsum("bk,bk->", log_p.exp(), log_p - log_q) / p_logits.shape[0]


STOPPED = "stops the logarithm"
LOGITS_RIGHT = {
    "probabilities as the target": lambda p, q: F.kl_div(
        q.log_softmax(1), p.softmax(1), reduction="batchmean"),
    "torch.nn": lambda p, q: torch.nn.KLDivLoss(reduction="batchmean", log_target=True)(
        q.log_softmax(1), p.log_softmax(1)),
    "cross-entropy minus entropy": lambda p, q: F.cross_entropy(q, p.softmax(1)) - F.cross_entropy(
        p, p.softmax(1)),
    "row by row": by_rows,
    "logsumexp": by_logsumexp,
    "in float64": lambda p, q: by_logsumexp(p.double(), q.double()),
    "into zeros": lambda p, q: torch.zeros(()) + by_logsumexp(p, q),
}
LOGITS_WRONG = {
    **{f"ε = {e:g}": (with_epsilon(e), STOPPED) for e in (1e-8, 1e-9, 1e-12, 1e-20)},
    **{f"clamp at {e:g}": (with_clamp(e), STOPPED) for e in (1e-8, 1e-10, 1e-12)},
    "torch.distributions, which calls what rounds to 0 impossible": (
        lambda p, q: kl_divergence(Categorical(logits=p), Categorical(logits=q)).mean(),
        "A value is nan or inf"),
    "clamped logits": (
        lambda p, q: by_logsumexp(p.clamp(-50, 50), q.clamp(-50, 50)), "not"),
    "log q cut off at −100": (
        lambda p, q: (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1).clamp(min=-100))
                      ).sum(1).mean(), "not"),
    "no gradient in q": (lambda p, q: by_logsumexp(p, q.detach()), "no gradient flows"),
    "mean over everything": (
        lambda p, q: F.kl_div(q.log_softmax(1), p.softmax(1)), "shrinks with the number"),
    "a softmax over everything": (
        lambda p, q: by_logsumexp(p.reshape(1, -1), q.reshape(1, -1)), "not"),
    "clamped at 0 for each class": (
        lambda p, q: (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).clamp(min=0).sum(
            1).mean(), "not"),
    "logits as logs": (lambda p, q: F.kl_div(q, p, reduction="batchmean", log_target=True), "not"),
}


# --- 1.5 ------------------------------------------------------------------------------------------


def by_quantiles(x, y):
    """Both samples repeated to a common length."""
    n = math.lcm(len(x), len(y))
    x, y = (v.sort().values.repeat_interleave(n // len(v)) for v in (x, y))
    return (x - y).abs().mean()


def by_a_walk(x, y):
    x, y = sorted(x.tolist()), sorted(y.tolist())
    steps, area = sorted(x + y), 0.0
    for a, b in zip(steps, steps[1:], strict=False):
        f, g = (sum(v <= a for v in values) / len(values) for values in (x, y))
        area += abs(f - g) * (b - a)
    return area


def by_comparison(x, y):
    steps = torch.cat([x, y]).sort().values
    f, g = ((v[:, None] <= steps[:-1]).float().mean(0) for v in (x, y))
    return torch.sum((f - g).abs() * (steps[1:] - steps[:-1]))


def on_a_grid(x, y):
    steps = torch.linspace(min(x.min(), y.min()), max(x.max(), y.max()), 1_000)
    f, g = ((v[:, None] <= steps).float().mean(0) for v in (x, y))
    return torch.trapezoid((f - g).abs(), steps)


def at_quantiles(x, y):
    at = torch.linspace(0, 1, 100)
    return (x.quantile(at) - y.quantile(at)).abs().mean()


def cycled(x, y):
    n = max(len(x), len(y))
    x, y = (v.repeat(-(-n // len(v)))[:n].sort().values for v in (x, y))
    return (x - y).abs().mean()


WASSERSTEIN_RIGHT = {
    "a common length": by_quantiles,
    "a walk, as a Python number": by_a_walk,
    "comparisons": by_comparison,
    "in float64": lambda x, y: by_quantiles(x.double(), y.double()),
    "into zeros": lambda x, y: torch.zeros(()) + by_comparison(x, y),
    "exchanged": lambda x, y: by_quantiles(y, x),
}
WASSERSTEIN_WRONG = {
    "on a grid": (on_a_grid, "not"),
    "interpolated quantiles": (at_quantiles, "not"),
    "the shorter one repeated": (cycled, "not"),
    "sorted in place": (lambda x, y: by_quantiles(x.copy_(x.sort().values), y), "in place"),
    "one point less": (lambda x, y: by_quantiles(x, y) * len(x) / max(1, len(x) - 1), "not"),
    "nearest neighbours": (
        lambda x, y: (x[:, None] - y).abs().min(1).values.mean(), "not"),
    "doubles left out": (lambda x, y: by_quantiles(x.unique(), y.unique()), "not"),
    "rounded to the unit": (lambda x, y: by_quantiles(x.round(), y.round()), "not"),
    "divided by the spread": (
        lambda x, y: by_quantiles(x, y) / torch.cat([x, y]).std(), "not"),
}

RIGHT = {
    "kl": KL_RIGHT, "js": JS_RIGHT, "kl_diagonal_gaussians": GAUSSIANS_RIGHT,
    "kl_from_logits": LOGITS_RIGHT, "wasserstein1": WASSERSTEIN_RIGHT,
}
WRONG = {
    "kl": KL_WRONG, "js": JS_WRONG, "kl_diagonal_gaussians": GAUSSIANS_WRONG,
    "kl_from_logits": LOGITS_WRONG, "wasserstein1": WASSERSTEIN_WRONG,
}
