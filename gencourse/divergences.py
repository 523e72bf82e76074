"""How far apart two distributions are: closed forms and Monte Carlo, always in nats."""


def kl_to_standard_normal(mu, logvar):
    """KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − log σ² − 1), summed over the latent dimensions.

    mu, logvar: (B, Z), logvar = log σ².
    Returns: (B,) [nats], ≥ 0.
    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix B.
    """
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1)
