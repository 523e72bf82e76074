"""The losses against torch's own, torch.distributions, and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F

from gencourse import divergences, losses


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def logits(*shape):
    return 3 * torch.randn(*shape, dtype=torch.float64)


def test_discriminator_loss_is_binary_cross_entropy_with_real_1_and_fake_0():
    real, fake = logits(7), logits(5)
    expected = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    expected = expected + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    torch.testing.assert_close(losses.discriminator_loss(real, fake), expected)


def test_discriminator_loss_is_the_negated_value_function():
    real, fake = logits(7), logits(5)
    value = real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean()
    torch.testing.assert_close(losses.discriminator_loss(real, fake), -value)


def test_generator_losses_are_log_probabilities():
    fake = logits(9)
    torch.testing.assert_close(losses.generator_loss(fake), -fake.sigmoid().log().mean())
    expected = (1 - fake.sigmoid()).log().mean()
    torch.testing.assert_close(losses.generator_loss_saturating(fake), expected)


def test_values_where_the_discriminator_says_one_half():
    zero = torch.zeros(4)
    assert losses.discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert losses.generator_loss(zero).item() == pytest.approx(math.log(2))
    assert losses.generator_loss_saturating(zero).item() == pytest.approx(-math.log(2))


@pytest.mark.parametrize("size", [50.0, 200.0, 1e4])
def test_extreme_logits_give_exact_values_not_clamped_ones(size):
    big = torch.full((3,), size)
    assert losses.discriminator_loss(big, -big).item() == pytest.approx(0, abs=1e-20)
    assert losses.discriminator_loss(-big, big).item() == pytest.approx(2 * size)
    assert losses.generator_loss(-big).item() == pytest.approx(size)  # BCELoss would stop at 100
    assert losses.generator_loss(big).item() == pytest.approx(0, abs=1e-20)
    assert losses.generator_loss_saturating(big).item() == pytest.approx(-size)


@pytest.mark.parametrize("size", [0.0, 5.0, 100.0, 1e4])
def test_the_saturating_loss_has_no_gradient_where_the_other_has_its_largest(size):
    fake = torch.tensor([-size], dtype=torch.float64, requires_grad=True)  # D is sure: generated
    (strong,) = torch.autograd.grad(losses.generator_loss(fake), fake)
    (weak,) = torch.autograd.grad(losses.generator_loss_saturating(fake), fake)
    d = torch.sigmoid(fake.detach())
    torch.testing.assert_close(strong, d - 1)  # d/dt softplus(−t) = −(1 − D)
    torch.testing.assert_close(weak, -d)
    assert strong.item() < 0 and weak.item() <= 0  # both push the logit up


def test_gradients_agree_with_finite_differences():
    real, fake = logits(4).requires_grad_(), logits(4).requires_grad_()
    torch.autograd.gradcheck(losses.discriminator_loss, (real, fake))
    torch.autograd.gradcheck(losses.generator_loss, (fake,))
    torch.autograd.gradcheck(losses.generator_loss_saturating, (fake,))

    x = torch.rand(2, 1, 2, 2, dtype=torch.float64)
    image = logits(2, 1, 2, 2).requires_grad_()
    torch.autograd.gradcheck(lambda m: losses.bernoulli_nll(m, x), (image,))
    torch.autograd.gradcheck(lambda m: losses.gaussian_nll(m, x, 0.3), (image,))
    sigma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda m, s: losses.gaussian_nll(m, x, s), (image, sigma))

    mu, logvar = logits(2, 3).requires_grad_(), logits(2, 3).requires_grad_()
    nll = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda n, m, v: losses.negative_elbo(n, m, v, 0.5), (nll, mu, logvar))


def test_bernoulli_nll_sums_over_pixels_and_averages_over_images():
    scores, x = logits(6, 1, 4, 4), torch.rand(6, 1, 4, 4, dtype=torch.float64).round()
    bernoulli = torch.distributions.Bernoulli(logits=scores)
    expected = -bernoulli.log_prob(x).flatten(1).sum(dim=1).mean()
    torch.testing.assert_close(losses.bernoulli_nll(scores, x), expected)
    twice = losses.bernoulli_nll(scores.repeat(2, 1, 1, 1), x.repeat(2, 1, 1, 1))
    torch.testing.assert_close(twice, expected)  # the batch size does not change it
    wide = losses.bernoulli_nll(scores.repeat(1, 1, 1, 2), x.repeat(1, 1, 1, 2))
    torch.testing.assert_close(wide, 2 * expected)  # the number of pixels does


def test_bernoulli_nll_of_grey_pixels_is_cross_entropy_lowest_at_the_grey_itself():
    x = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    pair = torch.tensor([0.3, 0.7], dtype=torch.float64)
    at_x = losses.bernoulli_nll(x.logit(), x)
    torch.testing.assert_close(at_x, divergences.entropy(pair))
    assert all(losses.bernoulli_nll(x.logit() + d, x) > at_x for d in (-0.5, -0.01, 0.01, 0.5))


def test_bernoulli_nll_stays_exact_for_extreme_logits():
    x = torch.tensor([[[[0.0, 1.0]]]])
    wrong = torch.tensor([[[[1e4, -1e4]]]])
    assert losses.bernoulli_nll(wrong, x).item() == pytest.approx(2e4)
    assert losses.bernoulli_nll(-wrong, x).item() == 0


@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.5])
def test_gaussian_nll_agrees_with_torch_distributions(sigma):
    mean, x = logits(5, 3, 2, 2), logits(5, 3, 2, 2)
    normal = torch.distributions.Normal(mean, sigma)
    expected = -normal.log_prob(x).flatten(1).sum(dim=1).mean()
    torch.testing.assert_close(losses.gaussian_nll(mean, x, sigma), expected)
    per_pixel = torch.full((3, 1, 1), sigma, dtype=torch.float64)
    torch.testing.assert_close(losses.gaussian_nll(mean, x, per_pixel), expected)


def test_gaussian_nll_with_sigma_one_is_half_the_squared_error_plus_a_constant():
    mean, x = logits(4, 1, 3, 3), logits(4, 1, 3, 3)
    squared = F.mse_loss(mean, x, reduction="sum") / 4
    expected = squared / 2 + 9 * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(losses.gaussian_nll(mean, x), expected)


def test_gaussian_nll_is_lowest_at_the_root_mean_square_error():
    mean, x = logits(8, 1, 3, 3), logits(8, 1, 3, 3)
    best = (mean - x).square().mean().sqrt()
    lowest = losses.gaussian_nll(mean, x, best)
    assert lowest < losses.gaussian_nll(mean, x, best * 1.01)
    assert lowest < losses.gaussian_nll(mean, x, best * 0.99)


def test_image_losses_refuse_shapes_that_would_broadcast():
    for function in (losses.bernoulli_nll, losses.gaussian_nll):
        with pytest.raises(ValueError, match="shapes differ"):
            function(torch.zeros(4, 1, 2, 2), torch.zeros(4, 1, 2, 1))


def test_negative_elbo_is_nll_plus_beta_times_mean_kl():
    mu, logvar = logits(6, 3), logits(6, 3)
    posterior = torch.distributions.Normal(mu, (logvar / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), 1)
    kl = torch.distributions.kl_divergence(posterior, prior).sum(dim=1).mean()
    nll = torch.tensor(80.0, dtype=torch.float64)
    torch.testing.assert_close(losses.negative_elbo(nll, mu, logvar), nll + kl)
    torch.testing.assert_close(losses.negative_elbo(nll, mu, logvar, beta=4.0), nll + 4 * kl)


def test_negative_elbo_bounds_the_evidence_of_a_model_that_can_be_integrated():
    """z ~ N(0,1), x|z ~ N(z, s²): log p(x) is known, and the bound is tight at the posterior."""
    x, s = torch.tensor(1.3, dtype=torch.float64), 0.6
    evidence = torch.distributions.Normal(0.0, math.sqrt(1 + s**2)).log_prob(x)

    def bound(mean, variance):  # E[−log p(x|z)] under N(mean, variance), by hand
        nll = ((x - mean) ** 2 + variance) / (2 * s**2) + math.log(s * math.sqrt(2 * math.pi))
        mu, logvar = mean.reshape(1, 1), variance.log().reshape(1, 1)
        return losses.negative_elbo(nll, mu, logvar)

    mean, variance = x / (1 + s**2), torch.tensor(s**2 / (1 + s**2), dtype=torch.float64)
    torch.testing.assert_close(bound(mean, variance), -evidence)
    assert bound(mean + 0.2, variance) > -evidence
    assert bound(mean, variance * 2) > -evidence


# --- critics and penalties ------------------------------------------------------------------------


class Quadratic(torch.nn.Module):
    """C(x) = ½ xᵀA x + bᵀx on flattened samples: ∇C(x) = A x + b, for a symmetric A."""

    def __init__(self, size):
        super().__init__()
        a = torch.randn(size, size, dtype=torch.float64)
        self.A = torch.nn.Parameter((a + a.T) / 2)
        self.b = torch.nn.Parameter(torch.randn(size, dtype=torch.float64))

    def forward(self, x):
        x = x.flatten(1)
        return 0.5 * ((x @ self.A) * x).sum(dim=1) + x @ self.b


def points(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_critic_losses_of_a_linear_critic_are_differences_of_means():
    """C(x) = x on the line: minus the loss is the difference of the means, W₁ of a pure shift."""
    x, shift = points(50), 1.7
    loss = losses.critic_loss(x + shift, x)
    torch.testing.assert_close(-loss, divergences.wasserstein1(x + shift, x))
    torch.testing.assert_close(losses.critic_loss(x[:20], x), x.mean() - x[:20].mean())
    torch.testing.assert_close(losses.critic_generator_loss(x), -x.mean())


def test_the_generator_climbs_what_its_critic_raises():
    fake = points(6).requires_grad_()
    (for_critic,) = torch.autograd.grad(losses.critic_loss(points(6), fake), fake)
    (for_generator,) = torch.autograd.grad(losses.critic_generator_loss(fake), fake)
    torch.testing.assert_close(for_critic, -for_generator)
    assert (for_generator < 0).all()


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)])
def test_gradient_penalty_of_a_linear_critic_is_the_slope_minus_one_squared(shape):
    w = points(math.prod(shape)).requires_grad_()

    def critic(x):
        return x.flatten(1) @ w + 3

    value = losses.gradient_penalty(critic, points(8, *shape), points(8, *shape))
    torch.testing.assert_close(value, (w.norm() - 1) ** 2)
    (gradient,) = torch.autograd.grad(value, w)  # d/dw (‖w‖ − 1)² = 2 (‖w‖ − 1) w/‖w‖
    torch.testing.assert_close(gradient, 2 * (w.norm() - 1) * w / w.norm())


def test_gradient_penalty_of_a_quadratic_critic_at_the_points_drawn():
    critic, x_real, x_fake = Quadratic(12), points(7, 3, 4), points(7, 3, 4)
    value = losses.gradient_penalty(critic, x_real, x_fake, torch.Generator().manual_seed(5))
    drawn = torch.Generator().manual_seed(5)
    epsilon = torch.rand(7, 1, 1, generator=drawn, dtype=torch.float64)
    between = (epsilon * x_real + (1 - epsilon) * x_fake).flatten(1)
    slopes = between @ critic.A + critic.b
    torch.testing.assert_close(value, ((slopes.norm(dim=1) - 1) ** 2).mean())


def test_gradient_penalty_looks_between_the_samples_all_along_the_way():
    """Real at 1, fake at 0 and C(x) = x²/2 has slope x there: mean (ε − 1)² = ⅓ for uniform ε."""
    ones = torch.ones(200_000, 1, dtype=torch.float64)
    value = losses.gradient_penalty(lambda x: (x**2 / 2).sum(dim=1), ones, 0 * ones)
    assert value.item() == pytest.approx(1 / 3, abs=5e-3)
    seen = []
    x_real = points(9, 2, 3)
    losses.gradient_penalty(lambda x: seen.append(x) or x.sum(dim=(1, 2)), x_real, 0 * x_real)
    ratio = (seen[0] / x_real).flatten(1)  # one ε per sample, the same in all its dimensions
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert ratio.min() >= 0 and ratio.max() <= 1 and ratio[:, 0].unique().numel() == 9


def test_gradient_penalty_reaches_the_weights_as_finite_differences_say_and_not_the_samples():
    x_real, x_fake = points(6, 2), points(6, 2).requires_grad_()

    def penalty(a, b):
        def critic(x):
            return torch.tanh(x @ a) @ b

        return losses.gradient_penalty(critic, x_real, x_fake, torch.Generator().manual_seed(1))

    weights = points(2, 5).requires_grad_(), points(5).requires_grad_()
    torch.autograd.gradcheck(penalty, weights)
    penalty(*weights).backward()
    assert x_fake.grad is None


def test_gradient_penalty_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        losses.gradient_penalty(lambda x: x.sum(dim=1), points(4, 2), points(1, 2))


def test_r1_of_a_quadratic_is_its_mean_squared_slope():
    critic, x = Quadratic(12), points(7, 3, 2, 2).requires_grad_()
    slopes = x.detach().flatten(1) @ critic.A + critic.b
    expected = (slopes**2).sum(dim=1).mean()
    value = losses.r1_penalty(critic(x), x)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, critic.b)  # d/db mean ‖A x + b‖² = 2 mean (A x + b)
    torch.testing.assert_close(gradient, 2 * slopes.mean(dim=0))


def test_r1_agrees_with_finite_differences_in_x_and_in_the_weights():
    x, a, b = points(5, 2), points(2, 4).requires_grad_(), points(4).requires_grad_()

    def value(a, b):
        x_real = x.clone().requires_grad_()
        return losses.r1_penalty(torch.tanh(x_real @ a) @ b, x_real)

    torch.autograd.gradcheck(value, (a, b))
    step, total = 1e-6, 0.0
    for d in torch.eye(2, dtype=torch.float64) * step:
        rise = torch.tanh((x + d) @ a) @ b - torch.tanh((x - d) @ a) @ b
        total = total + (rise / (2 * step)) ** 2
    torch.testing.assert_close(value(a, b), total.mean(), rtol=1e-6, atol=1e-8)


def test_r1_says_what_is_missing():
    x = points(4, 2)
    with pytest.raises(ValueError, match="requires_grad_"):
        losses.r1_penalty(x.sum(dim=1), x)
