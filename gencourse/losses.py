"""Every loss of the course as a pure function: sum over dimensions, mean over the batch, in nats.

A discriminator gives logits (B,): D(x) = sigmoid(logit). With softplus(t) = log(1 + eᵗ),
−log D = softplus(−logit) and −log(1 − D) = softplus(logit), exact for logits of any size.
"""

import math

import torch
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


def critic_loss(real, fake):
    """−(E[C(x)] − E[C(G(z))]), what the critic of a Wasserstein GAN minimises.

    real, fake: (B,) critic values, any real numbers; the two batches may differ in size.
    Returns: scalar [units of C]. If C is 1-Lipschitz, its negative is at most W₁(p, q).
    Source: Arjovsky et al. 2017, arXiv:1701.07875, eq. 2.
    """
    return fake.mean() - real.mean()


def critic_generator_loss(fake):
    """−E[C(G(z))], what the generator of a Wasserstein GAN minimises.

    fake: (B,) critic values of generated samples.
    Returns: scalar [units of C]; only its changes mean something.
    Source: Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1.
    """
    return -fake.mean()


def gradient_penalty(critic, x_real, x_fake, generator=None):
    """Mean of (‖∇critic(x̂)‖₂ − 1)² at random points x̂ between real and fake.

    Each x̂ = ε·x_real + (1 − ε)·x_fake with its own ε ~ U(0, 1); the norm runs over all dimensions
    of one sample.

    critic: (B, …) → (B,), each value of its own sample alone (no BatchNorm).
    x_real, x_fake: (B, …) of one shape: pictures (B, C, H, W) in [-1, 1], or points (B, 2).
    generator: torch.Generator of ε on the samples' device, default the global one.
    Returns: scalar ≥ 0, differentiable in the critic's weights, not in the samples; λ not applied.
    Raises: ValueError if shapes differ.
    Source: Gulrajani et al. 2017, arXiv:1704.00028, eq. 3 and algorithm 1.
    """
    _same_shape(x_real, x_fake)
    sides = (len(x_real), *[1] * (x_real.dim() - 1))
    epsilon = torch.rand(sides, generator=generator, device=x_real.device, dtype=x_real.dtype)
    between = (epsilon * x_real + (1 - epsilon) * x_fake).detach().requires_grad_()
    norms = _input_gradient(critic(between), between).norm(dim=1)
    return (norms - 1).square().mean()


def r1_penalty(real_logits, x_real):
    """E[‖∇ₓ D(x)‖₂²] at real samples, D as a logit: how steep the discriminator is on the data.

    real_logits: (B,), computed from x_real, each of its own sample alone (no BatchNorm).
    x_real: (B, …) leaf with requires_grad, so that the gradient can be found.
    Returns: scalar ≥ 0, differentiable in D's weights. The paper adds γ/2 times this to D's loss;
        γ/2 is not applied here.
    Raises: ValueError if x_real does not require a gradient.
    Source: Mescheder et al. 2018, arXiv:1801.04406, eq. 9.
    """
    if not x_real.requires_grad:
        raise ValueError("Call x_real.requires_grad_() before the discriminator sees x_real.")
    return _input_gradient(real_logits, x_real).square().sum(dim=1).mean()


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


def _input_gradient(values, x):
    """∇ₓ of each sample's own value, (B, D) for x (B, …); its own graph is kept."""
    # The sum's gradient holds every sample's own, since no value depends on another sample.
    (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    return gradient.flatten(1)


def _same_shape(a, b):
    if a.shape != b.shape:
        raise ValueError(f"The shapes differ: {tuple(a.shape)} and {tuple(b.shape)}.")
