"""Chapter 08: other right answers, and wrong ones that are tried besides those with a name."""

import math

import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.nn import functional as F

from gencourse import losses

# --- 8.1 ------------------------------------------------------------------------------------------


def draws_into_zeros(mu, logvar, noise):
    z = torch.zeros(noise.shape)
    for k in range(len(noise)):
        z[k] = mu + noise[k] * torch.exp(0.5 * logvar)
    return z


def with_sigma(sigma):
    return lambda mu, logvar, noise: mu + sigma(logvar) * noise


DRAWS_RIGHT = {
    "the root of the variance": with_sigma(lambda v: v.exp().sqrt()),
    "a power": with_sigma(lambda v: math.e ** (v / 2)),
    "exp2": with_sigma(lambda v: torch.exp2(v / (2 * math.log(2)))),
    "into zeros": draws_into_zeros,
    "addcmul": lambda mu, logvar, noise: torch.addcmul(mu, (logvar / 2).exp(), noise),
    "einsum": lambda mu, logvar, noise: torch.einsum("kbz,bz->kbz", noise, (logvar / 2).exp()) + mu,
    "stacked": lambda mu, logvar, noise: torch.stack([mu + (logvar / 2).exp() * e for e in noise]),
    "in float64": lambda mu, logvar, noise: mu.double() + (logvar.double() / 2).exp() * noise,
    "an affine transform": lambda mu, logvar, noise: torch.distributions.AffineTransform(
        mu, (logvar / 2).exp())(noise),
}
DRAWS_WRONG = {
    "a floor under σ": (with_sigma(lambda v: (v / 2).exp().clamp(min=0.5)), "not"),
    "a clamped logvar": (with_sigma(lambda v: (v.clamp(-4, 4) / 2).exp()), "not"),
    **{f"logvar between {a} and {b}": (with_sigma(lambda v, a=a, b=b: (v.clamp(a, b) / 2).exp()),
                                       "not") for a, b in ((-20, 20), (-30, 20), (-20, 99))},
    "a tanh of logvar": (with_sigma(lambda v: (v.tanh() / 2).exp()), "not"),
    "rsample": (lambda mu, logvar, noise: Normal(mu, (logvar / 2).exp()).rsample(noise.shape[:1]),
                "noise of your own"),
    "one draw for all": (lambda mu, logvar, noise: mu + (logvar / 2).exp() * noise[:1], "shape"),
    "the mean of the draws": (
        lambda mu, logvar, noise: (mu + (logvar / 2).exp() * noise).mean(0), "shape"),
    "no gradient in μ": (
        lambda mu, logvar, noise: mu.detach() + (logvar / 2).exp() * noise, "no gradient flows"),
    "no graph": (
        lambda mu, logvar, noise: (mu + (logvar / 2).exp() * noise).detach(), "no gradient flows"),
    "noise changed in place": (
        lambda mu, logvar, noise: noise.mul_((logvar / 2).exp()).add_(mu), "`noise` changed"),
    "the absolute noise": (
        lambda mu, logvar, noise: mu + (logvar / 2).exp() * noise.abs(), "not"),
}

# --- 8.2 ------------------------------------------------------------------------------------------


def kl_of(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1)


def with_pixels(cost, batch=len):
    """The loss with this cost of each pixel, from logits and x in [0, 1]."""
    def answer(logits, x, mu, logvar, beta):
        return cost(logits, (x + 1) / 2).sum() / batch(x) + beta * kl_of(mu, logvar).mean()

    return answer


def softplus_by_hand(t):
    return t.clamp(min=0) + torch.log1p(torch.exp(-t.abs()))


def by_rows(logits, x, mu, logvar, beta):
    found = torch.zeros(len(x))
    for i in range(len(x)):
        q, prior = Normal(mu[i], (logvar[i] / 2).exp()), Normal(0.0, 1.0)
        p = Bernoulli(logits=logits[i], validate_args=False)
        kl = kl_divergence(q, prior).sum()
        found[i] = beta * kl - p.log_prob((x[i] + 1) / 2).sum()
    return found.mean()


def by_distributions(logits, x, mu, logvar, beta):
    p = Independent(Bernoulli(logits=logits, validate_args=False), 3, validate_args=False)
    q = Independent(Normal(mu, torch.exp(0.5 * logvar)), 1)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    return (-p.log_prob(0.5 * x + 0.5) + beta * kl_divergence(q, prior)).mean()


def classic(logits, x, mu, logvar, beta):
    target = (x + 1) / 2
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (bce + beta * kld) / x.shape[0]


def by_the_package(logits, x, mu, logvar, beta):
    return losses.negative_elbo(losses.bernoulli_nll(logits, (x + 1) / 2), mu, logvar, beta)


def with_epsilon(epsilon):
    def cost(logits, x):
        p = torch.sigmoid(logits)
        return -(x * (p + epsilon).log() + (1 - x) * (1 - p + epsilon).log())

    return with_pixels(cost)


def with_clamp(epsilon):
    def cost(logits, x):
        p = torch.sigmoid(logits).clamp(epsilon, 1 - epsilon)
        return -(x * p.log() + (1 - x) * (1 - p).log())

    return with_pixels(cost)


STOPPED = "stops the logarithm"
BOUND_RIGHT = {
    "the package": by_the_package,
    "torch.distributions": by_distributions,
    "row by row, into zeros": by_rows,
    "the classic form": classic,
    "softplus": with_pixels(lambda t, x: F.softplus(t) - x * t),
    "two softpluses": with_pixels(lambda t, x: x * F.softplus(-t) + (1 - x) * F.softplus(t)),
    "two logsigmoids": with_pixels(lambda t, x: -x * F.logsigmoid(t) - (1 - x) * F.logsigmoid(-t)),
    "by hand": with_pixels(lambda t, x: softplus_by_hand(t) - x * t),
    "logaddexp": with_pixels(lambda t, x: torch.logaddexp(t, torch.zeros_like(t)) - x * t),
    "keywords": lambda logits, x, mu, logvar, beta: with_pixels(
        lambda t, y: F.binary_cross_entropy_with_logits(input=t, target=y, reduction="none"))(
            logits, x, mu, logvar, beta),
    "in float64": lambda logits, x, mu, logvar, beta: classic(
        logits.double(), x.double(), mu.double(), logvar.double(), beta),
    "einsum": lambda logits, x, mu, logvar, beta: (
        torch.einsum("bchw->b", softplus_by_hand(logits) - (x + 1) / 2 * logits)
        + beta * kl_of(mu, logvar)).mean(),
}
BOUND_WRONG = {
    **{f"ε = {e:g}": (with_epsilon(e), STOPPED) for e in (1e-6, 1e-7, 1e-8, 1e-10, 1e-20)},
    **{f"clamp at {e:g}": (with_clamp(e), STOPPED) for e in (1e-6, 1e-7)},
    "clamped logits": (with_pixels(lambda t, x: F.softplus(t.clamp(-30, 30))
                                   - x * t.clamp(-30, 30)), STOPPED),
    "a log with a floor": (
        with_pixels(lambda t, x: -x * t.sigmoid().log().clamp(min=-50)
                    - (1 - x) * (1 - t.sigmoid()).log().clamp(min=-50)), STOPPED),
    "nan made 0": (
        with_pixels(lambda t, x: -torch.nan_to_num(x * t.sigmoid().log())
                    - torch.nan_to_num((1 - x) * (1 - t.sigmoid()).log())), "not"),
    "log of exp": (with_pixels(lambda t, x: (1 + t.exp()).log() - x * t), "avoids it"),
    "log1p of exp": (with_pixels(lambda t, x: t.exp().log1p() - x * t), "avoids it"),
    "logarithms of the sigmoid": (
        with_pixels(lambda t, x: -(x * t.sigmoid().log() + (1 - x) * (-t).sigmoid().log())), ""),
    "the odds": (
        with_pixels(lambda t, x: x * (1 + (-t).exp()).log() + (1 - x) * (1 + t.exp()).log()), ""),
    "a mean over everything but the batch": (
        with_pixels(lambda t, x: F.binary_cross_entropy_with_logits(t, x),
                    lambda x: 1), "the mean over the pixels"),
    "one number per picture": (
        lambda logits, x, mu, logvar, beta: F.binary_cross_entropy_with_logits(
            logits, (x + 1) / 2, reduction="none").flatten(1).sum(1) + beta * kl_of(mu, logvar),
        "shape"),
    "no gradient in logvar": (
        lambda logits, x, mu, logvar, beta: classic(logits, x, mu, logvar.detach(), beta),
        "no gradient flows"),
    "no gradient in logits": (
        lambda logits, x, mu, logvar, beta: classic(logits.detach(), x, mu, logvar, beta),
        "no gradient flows"),
    "x changed in place": (
        lambda logits, x, mu, logvar, beta: classic(logits, x.add_(1).div_(2).mul_(2).sub_(1) + 0,
                                                    mu, logvar, beta) + 0 * x.add_(1).sum(),
        "changed in place"),
    "black or white": (
        lambda logits, x, mu, logvar, beta: classic(logits, x.sign(), mu, logvar, beta), "not"),
    "free nats": (
        lambda logits, x, mu, logvar, beta: with_pixels(lambda t, y: softplus_by_hand(t) - y * t)(
            logits, x, mu, logvar, 0) + beta * kl_of(mu, logvar).clamp(min=2.5).mean(), "not"),
    **{f"logvar between {a} and {b}": (
        lambda logits, x, mu, logvar, beta, a=a, b=b: classic(
            logits, x, mu, logvar.clamp(a, b), beta), "not")
        for a, b in ((-3, 3), (-10, 10), (-20, 20), (-20, 99), (-99, 20))},
    "a β of 0 made 1": (
        lambda logits, x, mu, logvar, beta: classic(logits, x, mu, logvar, beta or 1), "not"),
    "a β of 4 at most": (
        lambda logits, x, mu, logvar, beta: classic(logits, x, mu, logvar, min(beta, 4)), "not"),
    "the log of 2π": (
        lambda logits, x, mu, logvar, beta: classic(logits, x, mu, logvar, beta)
        + beta * mu.shape[1] * math.log(2 * math.pi) / 2, "not"),
}

# --- 8.3 ------------------------------------------------------------------------------------------


def nats_at(sigma, mean, x):
    return -Normal(mean, sigma).log_prob(x).flatten(1).sum(1).mean()


def sigma_of(mean, x):
    return (x - mean).pow(2).mean().sqrt()


def held_sigma(mean, x):
    sigma = sigma_of(mean, x).detach()
    return sigma, nats_at(sigma, mean, x)


def by_gaussian_nll_loss(mean, x):
    variance = F.mse_loss(mean, x)
    loss = F.gaussian_nll_loss(mean, x, variance.expand_as(x), full=True, reduction="sum")
    return [variance**0.5, loss / len(x)]


def by_search(mean, x):
    """Newton's method for log σ, from 1 on."""
    errors, log_sigma = (x - mean).detach().square().mean(), torch.zeros(())
    for _ in range(60):
        scaled = errors * torch.exp(-2 * log_sigma)
        log_sigma = log_sigma + ((scaled - 1) / (2 * scaled)).clamp(min=-1, max=1)
    return log_sigma.exp(), nats_at(log_sigma.exp(), mean, x)


def floored(epsilon):
    def answer(mean, x):
        sigma = (F.mse_loss(mean, x) + epsilon).sqrt()
        return sigma, nats_at(sigma, mean, x)

    return answer


SIGMA_RIGHT = {
    "the package": lambda mean, x: (
        sigma_of(mean, x), losses.gaussian_nll(mean, x, sigma_of(mean, x))),
    "torch.distributions": lambda mean, x: (
        sigma_of(mean, x), nats_at(sigma_of(mean, x), mean, x)),
    "σ held fixed": held_sigma,
    "F.gaussian_nll_loss, a list": by_gaussian_nll_loss,
    "the norm": lambda mean, x: (
        (x - mean).norm() / x.numel() ** 0.5, held_sigma(mean, x)[1]),
    "Newton": by_search,
    "an ε that changes nothing here": floored(1e-9),
    "a Python number": lambda mean, x: (sigma_of(mean, x).item(), held_sigma(mean, x)[1]),
    "log σ": lambda mean, x: (sigma_of(mean, x), x[0].numel() * (
        sigma_of(mean, x).log() + 0.5 * (1 + math.log(2 * math.pi)))),
    "in float64": lambda mean, x: by_gaussian_nll_loss(mean.double(), x.double()),
    "σ not below 1e-3": lambda mean, x: clamped_sigma(mean, x, 1e-3),
}


def clamped_sigma(mean, x, least=0.01):
    sigma = sigma_of(mean, x).clamp(min=least)
    return sigma, nats_at(sigma, mean, x)


def per_channel(mean, x):
    sigma = (x - mean).square().mean(dim=(0, 2, 3), keepdim=True).sqrt()
    return sigma.mean(), nats_at(sigma, mean, x)


SIGMA_WRONG = {
    "an ε of 1e-6": (floored(1e-6), "not"),
    "a floor": (clamped_sigma, "not"),
    "a σ for each channel": (per_channel, "not"),
    "F.gaussian_nll_loss as it is": (
        lambda mean, x: (sigma_of(mean, x), F.gaussian_nll_loss(
            mean, x, F.mse_loss(mean, x).expand_as(x), reduction="sum") / len(x)),
        "constant ½ log 2π of every pixel is missing"),
    "the median error": (
        lambda mean, x: ((x - mean).abs().median(), nats_at((x - mean).abs().median(), mean, x)),
        "not"),
    "no gradient": (
        lambda mean, x: tuple(v.detach() for v in held_sigma(mean, x)), "no gradient flows"),
    "through σ alone": (
        lambda mean, x: (sigma_of(mean, x), nats_at(sigma_of(mean, x), mean.detach(), x)),
        "the gradient in `mean` is not"),
    "σ alone": (lambda mean, x: sigma_of(mean, x), "2 values"),
    "nats of every picture": (
        lambda mean, x: (sigma_of(mean, x), -Normal(mean, sigma_of(mean, x)).log_prob(x).flatten(
            1).sum(1)), "shape"),
    "pixels counted without colours": (
        lambda mean, x: (sigma_of(mean, x), nats_at(sigma_of(mean, x), mean, x) / x.shape[1]),
        "not"),
}

# --- 8.4 ------------------------------------------------------------------------------------------


def decoded(mu, logvar, decoder, bias, noise):
    return torch.addmm(bias, mu + noise * (logvar / 2).exp(), decoder.T)


def with_linear(x, encoder, decoder, bias, noise, least=-math.inf, most=math.inf):
    Z = noise.shape[1]
    mu, logvar = F.linear(x, encoder[:Z]), F.linear(x, encoder[Z:]).clamp(least, most)
    logits = decoded(mu, logvar, decoder, bias, noise)
    nll = -Bernoulli(logits=logits, validate_args=False).log_prob((x + 1) / 2).sum(1).mean()
    kl = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    return [nll, kl, mu, logvar]


def picture_by_picture(x, encoder, decoder, bias, noise):
    nll, kl, codes = torch.zeros(()), torch.zeros(()), []
    for row, e in zip(x, noise, strict=True):
        mu, logvar = (encoder @ row).split(len(e))
        codes.append((mu, logvar))
        logits = decoder @ (mu + e * (logvar / 2).exp()) + bias
        nll = nll + (F.softplus(logits) - logits * (row + 1) / 2).sum()
        kl = kl - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()
    mus, logvars = (torch.stack(c) for c in zip(*codes, strict=True))
    return nll / len(x), kl / len(x), mus, logvars


def changed(change):
    """What is right, with a change of the four."""
    return lambda *given: change(*with_linear(*given))


def activated(x, encoder, decoder, bias, noise):
    return with_linear(x, encoder, decoder, bias, noise.abs())


def detached_draw(x, encoder, decoder, bias, noise):
    Z = noise.shape[1]
    mu, logvar = (x @ encoder.T).split(Z, 1)
    logits = decoded(mu.detach(), logvar.detach(), decoder, bias, noise)
    _, kl, *codes = with_linear(x, encoder, decoder, bias, noise)
    nll = F.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="sum") / len(x)
    return nll, kl, *codes


TERMS_RIGHT = {
    "linear layers and distributions, a list": with_linear,
    "picture by picture": picture_by_picture,
    "in float64": lambda *given: with_linear(*(v.double() for v in given)),
}
TERMS_WRONG = {
    "the noise made positive": (activated, "not"),
    "a clamped logvar": (changed(lambda nll, kl, mu, v: (nll, kl, mu, v.clamp(-1, 1))), "not"),
    **{f"logvar between {a} and {b}": (
        lambda *given, a=a, b=b: with_linear(*given, a, b), "not")
        for a, b in ((-10, 10), (-20, 99), (-99, 10))},
    "σ without a gradient": (detached_draw, "the gradient in `encoder` is not"),
    "one loss": (changed(lambda nll, kl, *_: nll + kl), "4 values"),
    "two terms": (changed(lambda nll, kl, *_: (nll, kl)), "has 2 values"),
    "codes without a gradient": (
        changed(lambda nll, kl, mu, v: (nll, kl, mu.detach(), v.detach())), "gradient"),
    "the sum for the KL": (changed(lambda nll, kl, *c: (nll, nll + kl, *c)), "not"),
    "a KL of every picture": (
        changed(lambda nll, kl, mu, v: (nll, 0.5 * (mu**2 + v.exp() - v - 1).sum(1), mu, v)),
        "shape"),
}

# --- 8.5 ------------------------------------------------------------------------------------------


def ratio(z, mu, logvar):
    q, prior = Normal(mu, (logvar / 2).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return (prior.log_prob(z) - q.log_prob(z)).sum(-1)


def maximum_taken_out(log_likelihood, z, mu, logvar):
    w = log_likelihood + ratio(z, mu, logvar)
    highest = w.max(dim=0, keepdim=True).values
    return (highest + (w - highest).exp().mean(dim=0, keepdim=True).log()).squeeze(0)


def one_by_one(log_likelihood, z, mu, logvar):
    w = log_likelihood + ratio(z, mu, logvar)
    total = w[0]
    for other in w[1:]:
        total = torch.logaddexp(total, other)
    return total - math.log(len(w))


def picture_by_picture_into_zeros(log_likelihood, z, mu, logvar):
    found = torch.zeros(len(mu))
    for b in range(len(mu)):
        w = log_likelihood[:, b] + ratio(z[:, b], mu[b], logvar[b])
        found[b] = torch.logsumexp(w - math.log(len(w)), 0)
    return found


def by_independent(log_likelihood, z, mu, logvar):
    q = Independent(Normal(mu, logvar.exp().sqrt()), 1)
    prior = Independent(Normal(torch.zeros_like(mu), 1.0), 1)
    w = log_likelihood + prior.log_prob(z) - q.log_prob(z)
    return torch.logsumexp(w, 0) - torch.tensor(float(w.shape[0])).log()


def taken_out(highest):
    def answer(log_likelihood, z, mu, logvar):
        w = log_likelihood + ratio(z, mu, logvar)
        return highest(w) + (w - highest(w)).exp().mean(dim=0).log()

    return answer


def softmax_weighted(log_likelihood, z, mu, logvar):
    w = log_likelihood + ratio(z, mu, logvar)
    return (w.softmax(0) * w).sum(0)


def with_floor(epsilon):
    def answer(log_likelihood, z, mu, logvar):
        return ((log_likelihood + ratio(z, mu, logvar)).exp().mean(0) + epsilon).log()

    return answer


ONE_FOR_ALL = "each picture has a largest weight of its own"
WEIGHTED_RIGHT = {
    "the largest taken out": maximum_taken_out,
    "logaddexp, one by one": one_by_one,
    "picture by picture, into zeros": picture_by_picture_into_zeros,
    "torch.distributions": by_independent,
    "in float64": lambda *given: maximum_taken_out(*(v.double() for v in given)),
}
WEIGHTED_WRONG = {
    "one largest for all": (taken_out(lambda w: w.max()), ONE_FOR_ALL),
    "the largest of each draw": (
        lambda log_likelihood, z, mu, logvar: taken_out(lambda w: w.amax(1, keepdim=True))(
            log_likelihood, z, mu, logvar).mean(0), "not"),
    "the smallest of each picture": (taken_out(lambda w: w.amin(0)), "infinite"),
    "the median of each picture": (taken_out(lambda w: w.median(0).values), ""),
    "the first draw": (taken_out(lambda w: w[0]), ""),
    "a constant": (taken_out(lambda w: torch.tensor(-900.0)), ""),
    "nothing": (taken_out(lambda w: torch.tensor(0.0)), "its logarithm −inf"),
    **{f"ε = {e:g}": (with_floor(e), "not") for e in (1e-8, 1e-12, 1e-30)},
    "weighted by themselves": (softmax_weighted, "not"),
    "one number": (lambda *given: by_independent(*given).mean(), "shape"),
    "over the pictures": (
        lambda log_likelihood, z, mu, logvar: (log_likelihood + ratio(z, mu, logvar)).logsumexp(1)
        - math.log(len(mu)), ""),
    "no logarithm": (lambda *given: by_independent(*given).exp(), "not"),
    "in bits": (lambda *given: by_independent(*given) / math.log(2), "not"),
    **{f"logvar between {a} and {b}": (
        lambda log_likelihood, z, mu, logvar, a=a, b=b: by_independent(
            log_likelihood, z, mu, logvar.clamp(a, b)), "not")
        for a, b in ((-3, 3), (-10, 10), (-20, 20), (-20, 99), (-99, 20))},
    "one latent": (
        lambda log_likelihood, z, mu, logvar: by_independent(
            log_likelihood, z[..., :1], mu[:, :1], logvar[:, :1]), "not"),
}

RIGHT = {
    "reparameterise": DRAWS_RIGHT, "negative_elbo": BOUND_RIGHT, "best_sigma": SIGMA_RIGHT,
    "vae_terms": TERMS_RIGHT, "importance_weighted": WEIGHTED_RIGHT,
}
WRONG = {
    "reparameterise": DRAWS_WRONG, "negative_elbo": BOUND_WRONG, "best_sigma": SIGMA_WRONG,
    "vae_terms": TERMS_WRONG, "importance_weighted": WEIGHTED_WRONG,
}
