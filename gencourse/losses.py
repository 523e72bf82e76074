"""Every loss of the course as a pure function: sum over dimensions, mean over the batch, in nats.

A discriminator gives logits (B,): D(x) = sigmoid(logit). With softplus(t) = log(1 + eᵗ),
−log D = softplus(−logit) and −log(1 − D) = softplus(logit), exact for logits of any size.
"""

import math

import torch.nn.functional as F

from gencourse.divergences import kl_to_standard_normal


def discriminator_loss(real_logits, fake_logits):
    """−E[log D(x)] − E[log(1 − D(G(z)))]: binary cross-entropy, real = 1 and fake = 0.

    real_logits, fake_logits: (B,) discriminator logits.
    Returns: scalar [nats]; 2·log 2 ≈ 1.386 when D says ½ to everything.
    Source: Goodfellow et al. 2014, arXiv:1406.2661, eq. 1 (negated).
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits):
    """−E[log D(G(z))], the non-saturating loss: its gradient is strongest where D is sure.

    fake_logits: (B,) discriminator logits of generated images.
    Returns: scalar [nats]; log 2 ≈ 0.693 when D says ½.
    Source: Goodfellow et al. 2014, arXiv:1406.2661, section 3.
    """
    return F.softplus(-fake_logits).mean()


def generator_loss_saturating(fake_logits):
    """E[log(1 − D(G(z)))], the minimax loss: its gradient vanishes where D is sure.

    fake_logits: (B,) discriminator logits of generated images.
    Returns: scalar ≤ 0 [nats].
    Source: Goodfellow et al. 2014, arXiv:1406.2661, eq. 1.
    """
    return -F.softplus(fake_logits).mean()


def bernoulli_nll(logits, x):
    """−log p(x|z) where each pixel is a Bernoulli variable with the given logits.

    logits: (B, C, H, W); x: the same shape, in [0, 1] (note: not [-1, 1]).
    Returns: scalar [nats per image]. For grey x this is cross-entropy, not a density.
    Raises: ValueError if shapes differ.
    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix C.1.
    """
    _same_shape(logits, x)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


def gaussian_nll(mean, x, sigma=1.0):
    """−log N(x; mean, σ²·I), with its constant.

    mean, x: (B, C, H, W); sigma: positive number or tensor that broadcasts.
    Returns: scalar [nats per image]. σ acts as a hidden β: the squared error is divided by 2σ².
    Raises: ValueError if shapes differ.
    """
    _same_shape(mean, x)
    if not hasattr(sigma, "log"):
        sigma = x.new_tensor(sigma)
    nll = (x - mean).square() / (2 * sigma**2) + sigma.log() + 0.5 * math.log(2 * math.pi)
    return nll.sum() / len(x)


def negative_elbo(nll, mu, logvar, beta=1.0):
    """−ELBO = −E[log p(x|z)] + β·KL(q(z|x) ‖ N(0, I)).

    nll: scalar, reconstruction term [nats per image]; mu, logvar: (B, Z).
    Returns: scalar [nats per image]; a bound on −log p(x) when β = 1.
    Source: Kingma & Welling 2014, arXiv:1312.6114, eq. 10; β from Higgins et al. 2017.
    """
    return nll + beta * kl_to_standard_normal(mu, logvar).mean()


def _same_shape(a, b):
    if a.shape != b.shape:
        raise ValueError(f"The shapes differ: {tuple(a.shape)} and {tuple(b.shape)}.")
