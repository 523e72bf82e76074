"""Each divergence against an independent route: scipy, torch.distributions, numerical integrals."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, spatial, special, stats

from gencourse import divergences


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def simplex(rng, *shape):
    """Random probabilities in float64, last dimension summing to 1."""
    return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])


# --- discrete distributions


@pytest.mark.parametrize("shape", [(2,), (7,), (5, 4), (3, 2, 6)])
def test_entropy_agrees_with_scipy_for_every_batch_shape(rng, shape):
    p = simplex(rng, *shape)
    result = divergences.entropy(p)
    assert result.shape == shape[:-1]
    np.testing.assert_allclose(result, stats.entropy(p, axis=-1), rtol=1e-12)


@pytest.mark.parametrize("shape", [(2,), (7,), (5, 4), (3, 2, 6)])
def test_kl_agrees_with_scipy_for_every_batch_shape(rng, shape):
    p, q = simplex(rng, *shape), simplex(rng, *shape)
    result = divergences.kl(p, q)
    assert result.shape == shape[:-1]
    np.testing.assert_allclose(result, special.rel_entr(p, q).sum(-1), rtol=1e-10)
    np.testing.assert_allclose(result, stats.entropy(p, q, axis=-1), rtol=1e-10)


def test_kl_agrees_with_torch_distributions(rng):
    p, q = (torch.tensor(simplex(rng, 6, 5)) for _ in range(2))
    categorical = torch.distributions.Categorical
    expected = torch.distributions.kl_divergence(categorical(probs=p), categorical(probs=q))
    torch.testing.assert_close(divergences.kl(p, q), expected)


def test_cross_entropy_agrees_with_torch_and_splits_into_entropy_and_kl(rng):
    p, q = (torch.tensor(simplex(rng, 6, 5)) for _ in range(2))
    by_torch = torch.nn.functional.cross_entropy(q.log(), p, reduction="none")
    torch.testing.assert_close(divergences.cross_entropy(p, q), by_torch)
    parts = divergences.entropy(p) + divergences.kl(p, q)
    torch.testing.assert_close(divergences.cross_entropy(p, q), parts)


@pytest.mark.parametrize("shape", [(2,), (7,), (5, 4)])
def test_js_agrees_with_scipys_distance_squared(rng, shape):
    p, q = simplex(rng, *shape), simplex(rng, *shape)
    expected = spatial.distance.jensenshannon(p, q, axis=-1) ** 2
    np.testing.assert_allclose(divergences.js(p, q), expected, rtol=1e-9)
    np.testing.assert_allclose(divergences.js(p, q), divergences.js(q, p), rtol=1e-12)


def test_values_known_by_hand():
    assert divergences.entropy([0.5, 0.5]).item() == pytest.approx(math.log(2))  # nats, not 1 bit
    assert divergences.entropy([0.0, 1.0]).item() == 0
    assert divergences.kl([1.0, 0.0], [0.25, 0.75]).item() == pytest.approx(math.log(4))
    uniform = torch.full((10,), 0.1)
    assert divergences.entropy(uniform).item() == pytest.approx(math.log(10))


def test_the_arguments_of_kl_are_not_interchangeable():
    p, q = [0.9, 0.1], [0.5, 0.5]
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert divergences.kl(p, q).item() == pytest.approx(forward)
    assert divergences.kl(q, p).item() != pytest.approx(forward, rel=0.1)


def test_zero_probabilities():
    half, first = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    assert divergences.kl(first, half).item() == pytest.approx(math.log(2))
    assert divergences.kl(half, first).item() == math.inf
    assert divergences.cross_entropy(half, first).item() == math.inf
    assert divergences.kl(half, half).item() == 0
    assert math.isfinite(divergences.js(half, first).item())


def test_disjoint_support():
    p, q = torch.tensor([0.3, 0.7, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.6, 0.4])
    assert divergences.kl(p, q).item() == divergences.kl(q, p).item() == math.inf
    assert divergences.js(p, q).item() == pytest.approx(math.log(2))


def test_only_the_affected_row_of_a_batch_is_infinite():
    p = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    q = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert divergences.kl(p, q).tolist() == [math.inf, 0]


def test_gradients_agree_with_finite_differences():
    logits_p, logits_q = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    for function in (divergences.kl, divergences.js, divergences.cross_entropy):
        torch.autograd.gradcheck(
            lambda a, b, f=function: f(a.softmax(-1), b.softmax(-1)), (logits_p, logits_q)
        )
    torch.autograd.gradcheck(lambda a: divergences.entropy(a.softmax(-1)), (logits_p,))


def test_gradients_stay_finite_where_both_are_zero():
    p = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    q = torch.tensor([0.2, 0.8, 0.0], requires_grad=True)
    for function in (divergences.kl, divergences.js, divergences.cross_entropy):
        for gradient in torch.autograd.grad(function(p, q), (p, q), allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all()


def test_js_has_no_slope_between_disjoint_supports_but_wasserstein_has():
    shift = torch.tensor(3.0, requires_grad=True)
    x = torch.linspace(-0.5, 0.5, 50)
    (slope,) = torch.autograd.grad(divergences.wasserstein1(x, x + shift), shift)
    assert slope.item() == pytest.approx(1)

    grid = torch.linspace(-10, 10, 401)
    shift = torch.tensor(12.0, requires_grad=True)
    p = (-(grid + 6).square() / 0.02).softmax(0)
    q = (-(grid + 6 - shift).square() / 0.02).softmax(0)
    value = divergences.js(p, q)
    (slope,) = torch.autograd.grad(value, shift)
    assert value.item() == pytest.approx(math.log(2))
    assert slope.item() == pytest.approx(0, abs=1e-5)


def test_integers_and_single_precision_are_accepted():
    assert divergences.kl([1, 0], torch.tensor([0.5, 0.5])).dtype == torch.float32
    assert divergences.kl(np.array([1, 0]), [0.5, 0.5]).dtype == torch.float64


@pytest.mark.parametrize("name", ["kl", "js", "cross_entropy"])
def test_bad_distributions_are_refused_in_words(name):
    function = getattr(divergences, name)
    good = [0.5, 0.5]
    with pytest.raises(ValueError, match="q has a negative probability: -0.2"):
        function(good, [1.2, -0.2])
    with pytest.raises(ValueError, match="p must sum to 1"):
        function([0.5, 0.4], good)
    with pytest.raises(ValueError, match="q must sum to 1"):
        function(good, [math.nan, 1.0])
    with pytest.raises(ValueError, match=r"shapes of p and q differ: \(2,\) and \(3,\)"):
        function(good, [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="last dimension"):
        function(1.0, 1.0)


def test_entropy_refuses_what_is_not_a_distribution():
    with pytest.raises(ValueError, match="negative"):
        divergences.entropy([-0.1, 1.1])
    with pytest.raises(ValueError, match="sum to 1"):
        divergences.entropy([0.3, 0.3])


def test_rounding_of_single_precision_is_tolerated():
    p = torch.rand(10_000).softmax(0)
    assert math.isfinite(divergences.entropy(p).item())


# --- Gaussians


def test_kl_gaussians_agrees_with_torch_distributions_and_keeps_the_order(rng):
    mu_p, mu_q = torch.randn(2, 20, dtype=torch.float64)
    sigma_p, sigma_q = torch.rand(2, 20, dtype=torch.float64) * 3 + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mu_p, sigma_p), normal(mu_q, sigma_q))
    torch.testing.assert_close(divergences.kl_gaussians(mu_p, sigma_p, mu_q, sigma_q), expected)


@pytest.mark.parametrize("parameters", [(0, 1, 0, 1), (1, 0.5, -0.5, 2), (-2, 2, 0.3, 0.8)])
def test_kl_gaussians_agrees_with_an_integral(parameters):
    mu_p, sigma_p, mu_q, sigma_q = parameters
    p, q = stats.norm(mu_p, sigma_p), stats.norm(mu_q, sigma_q)
    expected, _ = integrate.quad(
        lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), mu_p - 12 * sigma_p, mu_p + 12 * sigma_p
    )
    result = divergences.kl_gaussians(mu_p, sigma_p, mu_q, sigma_q).item()
    assert result == pytest.approx(expected, abs=1e-8)


def test_kl_gaussians_broadcasts_and_refuses_what_is_not_a_deviation():
    assert divergences.kl_gaussians(torch.zeros(4, 1), 1.0, torch.ones(3), 2).shape == (4, 3)
    with pytest.raises(ValueError, match="sigma_q must be positive; it is 0"):
        divergences.kl_gaussians(0, 1, 0, 0)
    with pytest.raises(ValueError, match="sigma_p must be positive"):
        divergences.kl_gaussians(0, [1, -1], 0, 1)
    with pytest.raises(ValueError, match="broadcast"):
        divergences.kl_gaussians(torch.zeros(3), 1, torch.zeros(2), 1)


def test_kl_to_standard_normal_agrees_with_torch_distributions_and_monte_carlo():
    mu, logvar = torch.randn(2, 5, 3, dtype=torch.float64)
    posterior = torch.distributions.Normal(mu, (logvar / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), 1)
    result = divergences.kl_to_standard_normal(mu, logvar)
    expected = torch.distributions.kl_divergence(posterior, prior).sum(dim=1)
    torch.testing.assert_close(result, expected)
    by_dimension = divergences.kl_gaussians(mu, (logvar / 2).exp(), 0, 1).sum(dim=1)
    torch.testing.assert_close(result, by_dimension)

    z = posterior.sample((20_000,))  # (N, B, Z)
    log_ratio = (posterior.log_prob(z) - prior.log_prob(z)).sum(-1)
    error = log_ratio.std(0) / 20_000**0.5
    assert ((log_ratio.mean(0) - result).abs() < 5 * error).all()
    zero = torch.zeros(2, 3)
    assert divergences.kl_to_standard_normal(zero, zero).tolist() == [0, 0]


# --- Monte Carlo


def test_monte_carlo_kl_covers_the_closed_form_and_its_error_is_honest():
    p, q = torch.distributions.Normal(1.0, 0.7), torch.distributions.Normal(0.0, 1.5)
    truth = divergences.kl_gaussians(1.0, 0.7, 0.0, 1.5).item()
    pulls = []
    for _ in range(300):
        mean, error = divergences.monte_carlo_kl(p.log_prob, q.log_prob, p.sample((400,)))
        pulls.append((mean.item() - truth) / error.item())
    assert abs(np.mean(pulls)) < 0.25  # unbiased; the mean of 300 pulls has deviation 0.06
    assert 0.85 < np.std(pulls) < 1.15  # one standard error is one standard deviation


def test_monte_carlo_kl_takes_numpy_functions_and_many_dimensions(rng):
    p, q = stats.multivariate_normal([0, 1]), stats.multivariate_normal([1, 1])
    mean, error = divergences.monte_carlo_kl(
        p.logpdf, q.logpdf, p.rvs(5_000, random_state=rng)
    )
    assert abs(mean.item() - 0.5) < 5 * error.item()


def test_monte_carlo_kl_says_what_is_wrong_with_its_arguments():
    normal = torch.distributions.Normal(0.0, 1.0)
    uniform = torch.distributions.Uniform(0.0, 1.0, validate_args=False)
    x = torch.tensor([0.5, 1.5, 0.2])
    with pytest.raises(ValueError, match="do not come from p"):
        divergences.monte_carlo_kl(uniform.log_prob, normal.log_prob, x)
    mean, error = divergences.monte_carlo_kl(normal.log_prob, uniform.log_prob, x)
    assert mean.item() == math.inf and math.isnan(error.item())
    with pytest.raises(ValueError, match="2 samples"):
        divergences.monte_carlo_kl(normal.log_prob, normal.log_prob, x[:1])
    with pytest.raises(ValueError, match=r"log_q must give one log density per sample"):
        divergences.monte_carlo_kl(normal.log_prob, lambda s: s.sum(), x)


# --- between samples


@pytest.mark.parametrize("sizes", [(1, 1), (50, 50), (50, 37), (1, 20), (200, 3)])
def test_wasserstein1_agrees_with_scipy(rng, sizes):
    x, y = rng.normal(0, 1, sizes[0]), rng.normal(1, 2, sizes[1])
    expected = stats.wasserstein_distance(x, y)
    np.testing.assert_allclose(divergences.wasserstein1(x, y), expected, rtol=1e-6)


def test_wasserstein1_with_ties_and_its_gradient(rng):
    x, y = rng.integers(0, 4, 30).astype(float), rng.integers(0, 6, 17).astype(float)
    expected = stats.wasserstein_distance(x, y)
    np.testing.assert_allclose(divergences.wasserstein1(x, y), expected, rtol=1e-6)
    a = torch.tensor(rng.normal(size=5), requires_grad=True)
    b = torch.tensor(rng.normal(size=8), requires_grad=True)
    torch.autograd.gradcheck(divergences.wasserstein1, (a, b))


def test_wasserstein1_refuses_other_shapes():
    with pytest.raises(ValueError, match="y must be"):
        divergences.wasserstein1(torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="x must be"):
        divergences.wasserstein1([], [1.0])


def test_mmd_agrees_with_the_sum_over_pairs(rng):
    x, y, bandwidth = rng.normal(size=(6, 3)), rng.normal(1, 1, size=(4, 3)), 0.8

    def k(a, b):
        return math.exp(-((a - b) ** 2).sum() / (2 * bandwidth**2))

    xx = [k(x[i], x[j]) for i in range(6) for j in range(6) if i != j]
    yy = [k(y[i], y[j]) for i in range(4) for j in range(4) if i != j]
    xy = [k(a, b) for a in x for b in y]
    expected = np.mean(xx) + np.mean(yy) - 2 * np.mean(xy)
    assert divergences.mmd(x, y, bandwidth).item() == pytest.approx(expected)
    flattened = divergences.mmd(x.reshape(6, 1, 3, 1), y.reshape(4, 1, 3, 1), bandwidth)
    assert flattened.item() == pytest.approx(expected)


def test_mmd_approaches_its_closed_form_for_gaussians(rng):
    """E k between N(a, 1) and N(b, 1) is √(h²/(h²+2))·exp(−(a−b)²/(2(h²+2))) in one dimension."""
    h, shift = 1.0, 1.5
    factor = math.sqrt(h**2 / (h**2 + 2))
    expected = 2 * factor * (1 - math.exp(-(shift**2) / (2 * (h**2 + 2))))
    x, y = rng.normal(size=2_000), rng.normal(shift, 1, size=1_500)
    assert divergences.mmd(x, y, h).item() == pytest.approx(expected, abs=0.03)


def test_mmd_is_unbiased_around_zero_and_has_gradients(rng):
    pairs = rng.normal(size=(400, 2, 20))
    values = [divergences.mmd(x, y, 1).item() for x, y in pairs]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    assert min(values) < 0 < max(values)
    x = torch.tensor(rng.normal(size=(4, 2)), requires_grad=True)
    y = torch.tensor(rng.normal(size=(3, 2)), requires_grad=True)
    torch.autograd.gradcheck(lambda a, b: divergences.mmd(a, b, 0.7), (x, y))


def test_mmd_refuses_what_it_can_not_use():
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        divergences.mmd(x, x, 0)
    with pytest.raises(ValueError, match="at least 2"):
        divergences.mmd(x[:1], x, 1)
    with pytest.raises(ValueError, match=r"shape \(2,\), one of y \(3,\)"):
        divergences.mmd(x, torch.zeros(4, 3), 1)
