"""How far apart two distributions are: closed forms and Monte Carlo, always in nats.

Every function takes torch tensors, NumPy arrays, lists or numbers and returns a tensor. The result
has the tensors' dtype and device; where no argument is a floating-point tensor, it is float64.
"""

import functools

import torch

TOLERANCE = 1e-4  # probabilities may miss the sum 1 by so much: float32 rounding, many categories


def entropy(p):
    """H(p) = −Σ p log p, the expected surprise of p; 0·log 0 counts as 0.

    p: (..., K) probabilities, summing to 1 over the last dimension.
    Returns: (...) [nats], between 0 and log K.
    Raises: ValueError if p is negative somewhere or does not sum to 1.
    Source: Cover & Thomas 2006, Elements of Information Theory, section 2.1.
    """
    (p,) = _tensors(p)
    _check_probabilities(p=p)
    return -_p_log(p, p).sum(dim=-1)


def cross_entropy(p, q):
    """H(p, q) = −Σ p log q = H(p) + KL(p‖q), the expected surprise of q when p is true.

    p, q: (..., K) probabilities of the same shape, summing to 1 over the last dimension.
    Returns: (...) [nats]; inf where q = 0 < p.
    Raises: ValueError if shapes differ, or p or q is not a distribution.
    """
    p, q = _tensors(p, q)
    _check_probabilities(p=p, q=q)
    return -_p_log(p, q).sum(dim=-1)


def kl(p, q):
    """KL(p‖q) = Σ p log(p / q), the extra surprise of believing q when p is true.

    p, q: (..., K) probabilities of the same shape, summing to 1 over the last dimension.
    Returns: (...) [nats], ≥ 0 up to rounding; inf where q = 0 < p. Not symmetric in p and q.
    Raises: ValueError if shapes differ, or p or q is not a distribution.
    Source: Kullback & Leibler 1951, doi:10.1214/aoms/1177729694.
    """
    p, q = _tensors(p, q)
    _check_probabilities(p=p, q=q)
    return _kl(p, q)


def js(p, q):
    """JS(p, q) = ½ KL(p‖m) + ½ KL(q‖m) with m = (p + q) / 2: symmetric, and never above log 2.

    p, q: (..., K) probabilities of the same shape, summing to 1 over the last dimension.
    Returns: (...) [nats], between 0 (p = q) and log 2 (nothing in common).
    Raises: ValueError if shapes differ, or p or q is not a distribution.
    Source: Lin 1991, doi:10.1109/18.61115.
    """
    p, q = _tensors(p, q)
    _check_probabilities(p=p, q=q)
    m = (p + q) / 2
    return (_kl(p, m) + _kl(q, m)) / 2


def kl_gaussians(mu_p, sigma_p, mu_q, sigma_q):
    """KL(N(μ_p, σ_p²) ‖ N(μ_q, σ_q²)) in one dimension, for each entry by itself.

    log(σ_q / σ_p) + (σ_p² + (μ_p − μ_q)²) / (2 σ_q²) − ½

    mu_p, sigma_p, mu_q, sigma_q: numbers or arrays that broadcast together; σ is the standard
        deviation, not the variance.
    Returns: the broadcast shape [nats], ≥ 0.
    Raises: ValueError if a σ is not positive, or the shapes do not broadcast.
    """
    mu_p, sigma_p, mu_q, sigma_q = _tensors(mu_p, sigma_p, mu_q, sigma_q)
    for name, sigma in (("sigma_p", sigma_p), ("sigma_q", sigma_q)):
        if not (sigma > 0).all():
            raise ValueError(f"{name} must be positive; it is {_worst(sigma):g} somewhere.")
    try:
        mu_p, sigma_p, mu_q, sigma_q = torch.broadcast_tensors(mu_p, sigma_p, mu_q, sigma_q)
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(v.shape)) for v in (mu_p, sigma_p, mu_q, sigma_q))
        raise ValueError(f"These shapes do not broadcast together: {shapes}.") from error
    spread = (sigma_p.square() + (mu_p - mu_q).square()) / (2 * sigma_q.square())
    return sigma_q.log() - sigma_p.log() + spread - 0.5


def kl_to_standard_normal(mu, logvar):
    """KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − log σ² − 1), summed over the latent dimensions.

    mu, logvar: (B, Z), logvar = log σ².
    Returns: (B,) [nats], ≥ 0.
    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix B.
    """
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(dim=1)


def monte_carlo_kl(log_p, log_q, samples):
    """Estimate KL(p‖q) = E_p[log p(x) − log q(x)] by a mean over samples **from p**.

    log_p, log_q: functions that map samples to their log densities (N,) [nats].
    samples: (N, ...) with N ≥ 2, independent draws from p. Draws from anything else give the
        expectation of something that is not a KL, and can be negative.
    Returns: (mean, standard_error), two scalars [nats]. The error shrinks as 1/√N. A sample where
        q has density 0 makes the mean inf and the standard error nan.
    Raises: ValueError if there are fewer than 2 samples, if log_p or log_q does not give one value
        per sample, or if p has density 0 at a sample (then it can't have come from p).
    """
    count = len(samples)
    if count < 2:
        raise ValueError(f"A standard error needs 2 samples or more; this is {count}.")
    values_p, values_q = _tensors(log_p(samples), log_q(samples))
    for name, values in (("log_p", values_p), ("log_q", values_q)):
        if values.shape != (count,):
            raise ValueError(
                f"{name} must give one log density per sample, shape ({count},); "
                f"it gave {tuple(values.shape)}."
            )
    if (values_p == -torch.inf).any():
        raise ValueError("p has density 0 at a sample: these samples do not come from p.")
    log_ratio = values_p - values_q
    return log_ratio.mean(), log_ratio.std() / count**0.5


def wasserstein1(x, y):
    """W₁ = ∫ |F(t) − G(t)| dt between two one-dimensional samples: the mean distance to move.

    x: (N,), y: (M,) samples; N and M may differ.
    Returns: scalar [the unit of x], ≥ 0, differentiable in x and y.
    Raises: ValueError if x or y is empty or not one-dimensional.
    Source: Peyré & Cuturi 2019, arXiv:1803.00567, section 2.6.
    """
    x, y = _tensors(x, y)
    for name, values in (("x", x), ("y", y)):
        if values.dim() != 1 or len(values) == 0:
            raise ValueError(f"{name} must be (N,) samples; its shape is {tuple(values.shape)}.")
    x, y = x.sort().values, y.sort().values
    if len(x) == len(y):  # the i-th smallest moves to the i-th smallest
        return (x - y).abs().mean()
    steps = torch.cat([x, y]).sort().values  # F and G are flat between neighbours of this list
    left = steps[:-1].contiguous()
    f = torch.searchsorted(x, left, right=True) / len(x)
    g = torch.searchsorted(y, left, right=True) / len(y)
    return ((f - g).abs() * steps.diff()).sum()


def mmd(x, y, bandwidth):
    """Unbiased estimate of MMD² with the kernel k(a, b) = exp(−‖a − b‖² / (2·bandwidth²)).

    MMD² = E[k(x, x′)] + E[k(y, y′)] − 2 E[k(x, y)], over pairs of *different* samples.

    x: (N, ...), y: (M, ...) with N, M ≥ 2; dimensions after the first are flattened.
    bandwidth: positive number [the unit of x].
    Returns: scalar, no unit; 0 in expectation where the distributions agree, so it may be negative.
    Raises: ValueError if there are too few samples, sizes differ, or bandwidth is not positive.
    Source: Gretton et al. 2012, JMLR 13:723–773, eq. 3.
    """
    x, y = _tensors(x, y)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive; it is {bandwidth:g}.")
    if min(x.dim(), y.dim()) == 0 or min(len(x), len(y)) < 2:
        raise ValueError("mmd needs at least 2 samples of each kind.")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"A sample of x has shape {tuple(x.shape[1:])}, one of y {tuple(y.shape[1:])}."
        )
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)

    def kernel(a, b):  # exact distances, not the fast matmul form
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return (-distance.square() / (2 * bandwidth**2)).exp()

    return unbiased_mmd(x, y, kernel)


def unbiased_mmd(x, y, kernel):
    """MMD² as in `mmd`, of x (N, D) and y (M, D) with any kernel k.

    kernel: function of two such tensors → k of every pair, (N, M). Returns: scalar, no unit.
    """

    def mean_of_pairs(a):  # the diagonal is k(a, a) = 1: leaving it in would bias the estimate
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel(x, y).mean()


def _tensors(*values):
    """The values as tensors of one floating dtype on one device: the tensors' among them."""
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    device = tensors[0].device if tensors else None
    floating = [v.dtype for v in tensors if v.is_floating_point()] or [torch.float64]
    dtype = functools.reduce(torch.promote_types, floating)
    return [torch.as_tensor(v, dtype=dtype, device=device) for v in values]


def _check_probabilities(**named):
    for name, p in named.items():
        if p.dim() == 0:
            raise ValueError(f"{name} must have a last dimension of probabilities; it is a number.")
        if (p < 0).any():
            raise ValueError(f"{name} has a negative probability: {_worst(p):g}.")
        miss = (p.sum(dim=-1) - 1).abs()
        if not (miss <= TOLERANCE).all():  # also true for nan
            raise ValueError(
                f"{name} must sum to 1 over its last dimension; a sum is off by {miss.max():g}. "
                f"Dividing by {name}.sum() over that dimension mends it."
            )
    shapes = [tuple(p.shape) for p in named.values()]
    if len(set(shapes)) > 1:
        names = " and ".join(named)
        raise ValueError(f"The shapes of {names} differ: {shapes[0]} and {shapes[1]}.")


def _p_log(p, q):
    """p·log q, with 0·log 0 = 0 (and no nan in its gradient there)."""
    return p * torch.where((p == 0) & (q == 0), 1, q).log()


def _kl(p, q):
    return (_p_log(p, p) - _p_log(p, q)).sum(dim=-1)


def _worst(values):
    return values.min().item()
