"""Chapter 08: the exercises on the VAE, their references, and the mistakes people make."""

import math

import torch
from torch.nn import functional as F

from gencourse import divergences, losses
from gencourse.checks.core import Exercise, normals

STEM = "08_vae"


def pictures(rng, *shape):
    """Random pictures with values in [-1, 1], some of them black or white."""
    return (3 * normals(rng, *shape)).clamp(-1, 1)


# --- 8.1 ------------------------------------------------------------------------------------------

reparameterise = Exercise(
    "reparameterise",
    level="warm-up",
    minutes=5,
    tests="one and several draws per picture, σ from tiny to large, with gradients in both inputs.",
    hint="Shift by μ, stretch by σ; logvar is log σ².",
    gradient=("mu", "logvar"),
)


@reparameterise.cases
def draws(rng):
    sizes = [(1, 4, 3), (5, 2, 3), (3, 1, 1)]
    drawn = [
        {"mu": normals(rng, b, z), "logvar": normals(rng, b, z), "noise": normals(rng, k, b, z)}
        for k, b, z in sizes
    ]
    wide = torch.tensor([[-60.0, 0.0, 40.0]])
    mu = torch.tensor([[0.0, 1.0, 1.0]])  # beside 0 even a tiny σ shows
    return [*drawn, {"mu": mu, "logvar": wide, "noise": normals(rng, 20, 1, 3)}]


@reparameterise.reference
def shifted_and_stretched(mu, logvar, noise):
    return mu + torch.exp(logvar / 2) * noise


@reparameterise.wrong("exp(logvar) is the variance σ²; the noise is to be multiplied by σ.")
def variance_for_sigma(mu, logvar, noise):
    return mu + logvar.exp() * noise


@reparameterise.wrong("You multiply the noise by logvar itself: it is log σ², often negative.")
def logvar_for_sigma(mu, logvar, noise):
    return mu + logvar * noise


@reparameterise.wrong("σ and the noise are added; σ must *stretch* the noise.")
def noise_added(mu, logvar, noise):
    return mu + torch.exp(logvar / 2) + noise


@reparameterise.wrong("σ stretches μ too: first stretch the noise, then shift it.")
def mean_stretched(mu, logvar, noise):
    return (mu + noise) * torch.exp(logvar / 2)


@reparameterise.wrong("Your σ is 1/σ: check the sign of the exponent.")
def inverse_sigma(mu, logvar, noise):
    return mu + torch.exp(-logvar / 2) * noise


@reparameterise.wrong("σ is e to the power of half of logvar; you take the half without the e.")
def exp_missing(mu, logvar, noise):
    return mu + logvar / 2 * noise


@reparameterise.wrong("Your σ is σ⁴: half of logvar, not twice, is log σ.")
def doubled_for_halved(mu, logvar, noise):
    return mu + torch.exp(2 * logvar) * noise


@reparameterise.wrong("Softplus gives positive numbers, too; but logvar is a logarithm: use exp.")
def softplus_for_sigma(mu, logvar, noise):
    return mu + F.softplus(logvar) * noise


@reparameterise.wrong("The mean is missing: the noise is stretched, and then shifted by μ.")
def not_shifted(mu, logvar, noise):
    return torch.exp(logvar / 2) * noise


@reparameterise.wrong("All draws are μ: the noise, stretched by σ, is to be added.")
def nothing_drawn(mu, logvar, noise):
    return mu + 0 * logvar + torch.zeros_like(noise)


@reparameterise.wrong("σ is missing: all your codes have the same spread around their μ, 1.")
def not_stretched(mu, logvar, noise):
    return mu + noise + 0 * logvar


@reparameterise.wrong("μ and σ are multiplied: stretch the noise by σ, then *add* μ.")
def all_multiplied(mu, logvar, noise):
    return mu * torch.exp(logvar / 2) * noise


@reparameterise.wrong(
    "The noise is taken off. As a distribution that is the same; but here the given noise is to be "
    "added, so that everybody gets the same codes."
)
def noise_subtracted(mu, logvar, noise):
    return mu - torch.exp(logvar / 2) * noise


@reparameterise.wrong("μ and logvar are exchanged.")
def heads_exchanged(mu, logvar, noise):
    return shifted_and_stretched(logvar, mu, noise)


@reparameterise.wrong("You draw noise of your own: use the one that is given.")
def noise_of_its_own(mu, logvar, noise):
    return mu + torch.exp(logvar / 2) * torch.randn_like(noise)


@reparameterise.wrong(
    "The values are right, but σ is cut out of the graph: no gradient reaches logvar, and the "
    "encoder would never learn how exact its codes should be."
)
def sigma_detached(mu, logvar, noise):
    return mu + torch.exp(logvar / 2).detach() * noise


# --- 8.2 ------------------------------------------------------------------------------------------

negative_elbo = Exercise(
    "negative_elbo",
    level="core",
    minutes=20,
    tests="Bernoulli pixels from logits up to ±1000 in both precisions, every β, colours, a batch "
    "of one, gradients.",
    hint="Per picture: sum over pixels, plus β times a sum over latents. Then the batch's mean.",
    gradient=("logits", "mu", "logvar"),
)


@negative_elbo.cases
def codes_and_logits(rng):
    """Where logits are far out, the KL is so large that it does not matter by which ε, or at which
    number, a logarithm is stopped: all of these are recognised as one mistake.
    """
    sizes = [((3, 1, 4, 5), 2, 1.0), ((1, 3, 2, 2), 4, 4.0), ((2, 1, 3, 3), 1, 0.5)]
    drawn = [
        {"logits": 2 * normals(rng, *shape), "x": pictures(rng, *shape),
         "mu": normals(rng, shape[0], z), "logvar": normals(rng, shape[0], z), "beta": beta}
        for shape, z, beta in sizes
    ]
    sure = torch.tensor([1000.0, -1000.0, -1000.0, 1.0]).view(1, 1, 2, 2)
    far = {"logits": sure, "x": torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(1, 1, 2, 2),
           "mu": torch.tensor([[2200.0, 0.0, 1.0]]), "logvar": normals(rng, 1, 3)}
    exact, vague = drawn[0] | {"beta": 10.0}, drawn[2] | {"beta": 0.1}  # as codes, far out
    exact["logvar"] = exact["logvar"] - 25
    vague["logvar"] = vague["logvar"] + 25
    return [*drawn, {**far, "beta": 1.0}, {k: v.double() for k, v in far.items()} | {"beta": 1.0},
            exact, vague, drawn[0] | {"beta": 0.0}]


@negative_elbo.reference
def both_terms(logits, x, mu, logvar, beta):
    nll = losses.bernoulli_nll(logits, (x + 1) / 2)
    return losses.negative_elbo(nll, mu, logvar, beta)


def reconstruction(logits, x):
    return losses.bernoulli_nll(logits, (x + 1) / 2)


def kl_term(mu, logvar):
    return divergences.kl_to_standard_normal(mu, logvar).mean()


@negative_elbo.wrong("You take the mean over the pixels: that is a hidden β, the number of pixels.")
def mean_over_pixels(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) / x[0].numel() + beta * kl_term(mu, logvar)


@negative_elbo.wrong("The pixels' term is a mean of everything, and divided by the batch again.")
def mean_and_divided(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) / x.numel() + beta * kl_term(mu, logvar)


@negative_elbo.wrong("You take the mean over the latents: KL adds up over independent ones.")
def mean_over_latents(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) + beta * kl_term(mu, logvar) / mu.shape[1]


@negative_elbo.wrong(
    "Both terms are means over all their entries, pixels and latents: that is another β, pixels "
    "over latents times as large. Only the batch is averaged."
)
def means_everywhere(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) / x[0].numel() + beta * kl_term(mu, logvar) / mu.shape[1]


@negative_elbo.wrong(
    "Both terms are divided by the number of pixels. The best nets are the same; but the unit is "
    "nats per picture."
)
def divided_by_pixels(logits, x, mu, logvar, beta):
    return both_terms(logits, x, mu, logvar, beta) / x[0].numel()


@negative_elbo.wrong("You sum over the batch too: losses are a mean over the pictures.")
def summed_over_batch(logits, x, mu, logvar, beta):
    return both_terms(logits, x, mu, logvar, beta) * len(x)


@negative_elbo.wrong("The pixels' term is summed over the batch too; it is a mean over pictures.")
def pixels_summed_over_batch(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) * len(x) + beta * kl_term(mu, logvar)


@negative_elbo.wrong("The KL is summed over the batch too; it is a mean over the pictures.")
def kl_summed_over_batch(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) + beta * kl_term(mu, logvar) * len(x)


@negative_elbo.wrong(
    "Minimising this would *maximise* the reconstruction error: your first term is log p(x|z) and "
    "not its negative."
)
def worse_reconstructions(logits, x, mu, logvar, beta):
    return -reconstruction(logits, x) + beta * kl_term(mu, logvar)


@negative_elbo.wrong("This is the ELBO, which is to be maximised; the loss is its negative.")
def elbo_itself(logits, x, mu, logvar, beta):
    return -both_terms(logits, x, mu, logvar, beta)


@negative_elbo.wrong(
    "The KL has the wrong sign: minimising this pays the encoder for codes far from the prior."
)
def kl_subtracted(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) - beta * kl_term(mu, logvar)


@negative_elbo.wrong("x lies in [−1, 1]; a Bernoulli variable wants it in [0, 1].")
def pictures_not_mapped(logits, x, mu, logvar, beta):
    nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    return nll + beta * kl_term(mu, logvar)


@negative_elbo.wrong("You map x to [0, 2]: halve x + 1.")
def mapped_too_far(logits, x, mu, logvar, beta):
    return reconstruction(logits, 2 * x + 1) + beta * kl_term(mu, logvar)


@negative_elbo.wrong("You map x to [−½, ½]: add 1 before you halve it.")
def halved_alone(logits, x, mu, logvar, beta):
    return reconstruction(logits, x - 1) + beta * kl_term(mu, logvar)


@negative_elbo.wrong("β stands at the wrong term: it is the price of the code, so of the KL.")
def beta_on_reconstruction(logits, x, mu, logvar, beta):
    return beta * reconstruction(logits, x) + kl_term(mu, logvar)


@negative_elbo.wrong("β is not used: it is the price of the KL.")
def beta_ignored(logits, x, mu, logvar, beta):
    return both_terms(logits, x, mu, logvar, 1)


@negative_elbo.wrong("β multiplies both terms; it is the price of the KL alone.")
def beta_on_both(logits, x, mu, logvar, beta):
    return beta * both_terms(logits, x, mu, logvar, 1)


@negative_elbo.wrong("You divide by β: a larger β is to make the KL dearer.")
def divided_by_beta(logits, x, mu, logvar, beta):
    return both_terms(logits, x, mu, logvar, 1 / beta)


@negative_elbo.wrong("The KL is missing.")
def kl_missing(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) + 0 * kl_term(mu, logvar)


@negative_elbo.wrong("The reconstruction term is missing.")
def reconstruction_missing(logits, x, mu, logvar, beta):
    return beta * kl_term(mu, logvar) + 0 * logits.sum()


def with_kl(logits, x, kl, beta):
    """The loss with another KL (B, Z) in each latent, not halved yet."""
    return reconstruction(logits, x) + beta * kl.sum(dim=1).mean() / 2


@negative_elbo.wrong(
    "Your KL is turned round, KL(N(0, I)‖q): it is the *code* whose surprise is measured, so q "
    "comes first."
)
def kl_reversed(logits, x, mu, logvar, beta):
    return with_kl(logits, x, (1 + mu.square()) / logvar.exp() + logvar - 1, beta)


@negative_elbo.wrong(
    "In the KL the −1 of each latent is missing: where q is the prior, it must be exactly 0."
)
def one_missing(logits, x, mu, logvar, beta):
    return with_kl(logits, x, mu.square() + logvar.exp() - logvar, beta)


@negative_elbo.wrong("In the KL 1 is added in each latent; it is to be taken off.")
def one_added(logits, x, mu, logvar, beta):
    return with_kl(logits, x, mu.square() + logvar.exp() - logvar + 1, beta)


@negative_elbo.wrong("In the KL stands log σ² where σ² belongs: e to the power of logvar.")
def logvar_for_variance(logits, x, mu, logvar, beta):
    return with_kl(logits, x, mu.square() - 1 + 0 * logvar, beta)


@negative_elbo.wrong(
    "In the KL σ² has the wrong sign: as it is, a q that is wider costs less and less."
)
def variance_subtracted(logits, x, mu, logvar, beta):
    return with_kl(logits, x, mu.square() - logvar.exp() - logvar - 1, beta)


@negative_elbo.wrong("Your KL sums over the batch and averages over latents: the other way round.")
def kl_over_the_wrong_dimension(logits, x, mu, logvar, beta):
    kl = kl_term(mu, logvar) * len(mu) / mu.shape[1]
    return reconstruction(logits, x) + beta * kl


@negative_elbo.wrong("In the KL you take |μ| where μ² belongs.")
def absolute_mean(logits, x, mu, logvar, beta):
    return with_kl(logits, x, mu.abs() + logvar.exp() - logvar - 1, beta)


@negative_elbo.wrong(
    "In the KL each latent takes off its own 1; you do it once for all of them. Mind the brackets."
)
def one_for_all(logits, x, mu, logvar, beta):
    others = (mu.shape[1] - 1) / 2
    return both_terms(logits, x, mu, logvar, beta) + beta * others


@negative_elbo.wrong(
    "In the KL log σ² has the wrong sign: as it is, a q that is narrower costs less and less."
)
def log_added(logits, x, mu, logvar, beta):
    return with_kl(logits, x, mu.square() + logvar.exp() + logvar - 1, beta)


@negative_elbo.wrong("In the KL − log σ² is missing: without it the best σ would be 0.")
def log_missing(logits, x, mu, logvar, beta):
    return with_kl(logits, x, mu.square() + logvar.exp() - 1, beta)


@negative_elbo.wrong("In the KL σ² is missing: without it the best σ would be infinite.")
def variance_missing(logits, x, mu, logvar, beta):
    return with_kl(logits, x, mu.square() - logvar - 1, beta)


@negative_elbo.wrong("In the KL stands σ where σ² belongs: e to the power of the whole logvar.")
def sigma_for_variance(logits, x, mu, logvar, beta):
    return with_kl(logits, x, mu.square() + torch.exp(logvar / 2) - logvar - 1, beta)


@negative_elbo.wrong("In the KL μ is not squared.")
def mean_not_squared(logits, x, mu, logvar, beta):
    return with_kl(logits, x, mu + logvar.exp() - logvar - 1, beta)


@negative_elbo.wrong("In the KL μ² is missing: codes far from the prior must cost more.")
def mean_missing(logits, x, mu, logvar, beta):
    return with_kl(logits, x, logvar.exp() - logvar - 1, beta) + 0 * mu.sum()


@negative_elbo.wrong("In the KL μ² has the wrong sign: codes far from the prior must cost more.")
def mean_rewarded(logits, x, mu, logvar, beta):
    return with_kl(logits, x, logvar.exp() - logvar - 1 - mu.square(), beta)


@negative_elbo.wrong("μ and logvar are exchanged.")
def mu_and_logvar_exchanged(logits, x, mu, logvar, beta):
    return both_terms(logits, x, logvar, mu, beta)


@negative_elbo.wrong("You read logvar as log σ; it is log σ².")
def logvar_as_log_sigma(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) + beta * kl_term(mu, 2 * logvar)


@negative_elbo.wrong("The ½ in front of the KL's sum is missing.")
def kl_doubled(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) + 2 * beta * kl_term(mu, logvar)


@negative_elbo.wrong("Your first term is the squared error; Bernoulli pixels cost a cross-entropy.")
def squared_error(logits, x, mu, logvar, beta):
    squares = (torch.sigmoid(logits) - (x + 1) / 2).square().sum() / len(x)
    return squares + beta * kl_term(mu, logvar)


def with_nll(nll, mu, logvar, beta):
    """The loss with another cost of each pixel."""
    return nll.sum() / len(nll) + beta * kl_term(mu, logvar)


@negative_elbo.wrong(
    "The sigmoid is taken twice: `binary_cross_entropy_with_logits` takes the logits themselves."
)
def sigmoid_twice(logits, x, mu, logvar, beta):
    return both_terms(torch.sigmoid(logits), x, mu, logvar, beta)


@negative_elbo.wrong("Black and white are exchanged: a large logit says that the pixel is *white*.")
def black_for_white(logits, x, mu, logvar, beta):
    return both_terms(-logits, x, mu, logvar, beta)


@negative_elbo.wrong(
    "Only what is white in x counts: the term (1 − x) log(1 − π) of the black pixels is missing."
)
def white_alone(logits, x, mu, logvar, beta):
    return with_nll((x + 1) / 2 * F.softplus(-logits), mu, logvar, beta)


@negative_elbo.wrong(
    "Only what is black in x counts: the term x log π of the white pixels is missing."
)
def black_alone(logits, x, mu, logvar, beta):
    return with_nll((1 - x) / 2 * F.softplus(logits), mu, logvar, beta)


@negative_elbo.wrong(
    "The arguments of the cross-entropy are exchanged: first the logits, then the pictures."
)
def target_first(logits, x, mu, logvar, beta):
    x01 = (x + 1) / 2
    return with_nll(F.softplus(x01) - x01 * logits, mu, logvar, beta)


@negative_elbo.wrong(
    "Small logits are right, large ones are not: for a logit of ±1000 the sigmoid rounds to 0 or 1 "
    "and its logarithm is infinite. There are functions that take the logits themselves."
)
def log_of_sigmoid(logits, x, mu, logvar, beta):
    p, x01 = torch.sigmoid(logits), (x + 1) / 2
    return with_nll(-(x01 * p.log() + (1 - x01) * (1 - p).log()), mu, logvar, beta)


@negative_elbo.wrong(
    "Small logits are right, large ones are not: e to the power of 1000 is infinite for a "
    "computer. There is a function for log(1 + eᵗ) that avoids it."
)
def log_of_exp(logits, x, mu, logvar, beta):
    return with_nll((1 + logits.exp()).log() - (x + 1) / 2 * logits, mu, logvar, beta)


@negative_elbo.wrong(
    "Small logits are right, large ones cost too little: an ε, a clamp or, at 100 nats per pixel, "
    "`F.binary_cross_entropy` stops the logarithm. There are functions that take the logits "
    "themselves."
)
def stopped_at_100(logits, x, mu, logvar, beta):
    nll = F.binary_cross_entropy(torch.sigmoid(logits), (x + 1) / 2, reduction="none")
    return with_nll(nll, mu, logvar, beta)


# --- 8.3 ------------------------------------------------------------------------------------------

best_sigma = Exercise(
    "best_sigma",
    level="core",
    minutes=20,
    tests="σ and nats per picture, for several sizes, a batch of one, small and large errors, and "
    "the mean's gradient.",
    hint="Set the derivative in σ to zero, for all pixels of all pictures together.",
    gradient=("mean",),
)


@best_sigma.cases
def means_and_pictures(rng):
    """No σ below 1e-3: there `F.gaussian_nll_loss` has a floor."""
    sizes = [((3, 1, 4, 5), 0.3), ((1, 3, 2, 2), 2.0), ((4, 1, 6, 6), 0.05), ((2, 1, 3, 5), 1.1e-3)]
    found = []
    for shape, sigma in sizes:
        x, errors = pictures(rng, *shape), normals(rng, *shape) + 0.5
        found.append({"mean": x + sigma * errors / errors.square().mean().sqrt(), "x": x})
    return found


def gaussian(mean, x, variance):
    """−log N(x; mean, variance·I) [nats per picture]."""
    squares = (x - mean).square() / variance + torch.as_tensor(2 * math.pi * variance).log()
    return squares.sum() / (2 * len(x))


def at_variance(variance, x):
    """σ, and the nats where the mean square of the errors is σ²."""
    return variance.sqrt(), x[0].numel() / 2 * (torch.log(2 * math.pi * variance) + 1)


@best_sigma.reference
def at_the_mean_square(mean, x):
    return at_variance((x - mean).square().mean(), x)


@best_sigma.wrong("Your first value is σ², the variance; σ is its square root.")
def variance_returned(mean, x):
    variance = (x - mean).square().mean()
    return variance, gaussian(mean, x, variance)


@best_sigma.wrong(
    "`std` and `var` take off the mean of the residual first; here the decoder's own mean is what "
    "σ is the distance from, even if it is wrong everywhere in the same direction."
)
def residual_centred(mean, x):
    variance = (x - mean).var(correction=0)
    return variance.sqrt(), gaussian(mean, x, variance)


@best_sigma.wrong(
    "`std` and `var` take off the mean of the residual first, and divide by one pixel less; σ is "
    "the root of the plain mean square of x − mean."
)
def residual_centred_unbiased(mean, x):
    variance = (x - mean).var()
    return variance.sqrt(), gaussian(mean, x, variance)


@best_sigma.wrong("Your σ² is the squared error of a whole picture; σ belongs to one pixel.")
def error_of_a_picture(mean, x):
    variance = (x - mean).square().sum() / len(x)
    return variance.sqrt(), gaussian(mean, x, variance)


@best_sigma.wrong("Your σ² is the sum of all squared errors; it is their mean.")
def sum_of_everything(mean, x):
    return at_variance((x - mean).square().sum(), x)


@best_sigma.wrong("Your σ² is the mean square of x; it is that of the *errors*, x − mean.")
def second_moment(mean, x):
    return at_variance(x.square().mean() + 0 * mean.sum(), x)


@best_sigma.wrong("Your σ² is the mean square of the decoder's means; it is that of x − mean.")
def second_moment_of_the_means(mean, x):
    return at_variance(mean.square().mean(), x)


@best_sigma.wrong("You add x and mean; the errors are x − mean.")
def errors_added(mean, x):
    return at_variance((x + mean).square().mean(), x)


@best_sigma.wrong("Your σ² is the mean of the absolute errors, which are not squared.")
def absolute_errors(mean, x):
    return at_variance((x - mean).abs().mean(), x)


@best_sigma.wrong("Each picture has a σ of its own in your answer; one σ is shared by all.")
def one_per_picture(mean, x):
    variance = (x - mean).square().flatten(1).mean(dim=1)
    nll = gaussian(mean, x, variance.view(-1, 1, 1, 1))
    return variance.sqrt(), nll


@best_sigma.wrong("Your σ is the mean of the *absolute* errors: best for another density.")
def mean_absolute_error(mean, x):
    sigma = (x - mean).abs().mean()
    return sigma, gaussian(mean, x, sigma.square())


@best_sigma.wrong("The two values are right, in the wrong order: σ first.")
def nats_first(mean, x):
    return at_the_mean_square(mean, x)[::-1]


@best_sigma.wrong("Your first value is log σ; return σ itself.")
def log_sigma_returned(mean, x):
    sigma, nats = at_the_mean_square(mean, x)
    return sigma.log(), nats


def other_nats(mean, x, difference):
    """σ, and nats that differ by this in each pixel."""
    sigma, nats = at_the_mean_square(mean, x)
    return sigma, nats + x[0].numel() * difference


@best_sigma.wrong("σ is right. In the nats, the squared errors over 2σ² are missing: they are D/2.")
def errors_missing(mean, x):
    return other_nats(mean, x, -0.5)


@best_sigma.wrong("σ is right. In the nats, the squared errors are divided by σ², not by 2σ².")
def errors_not_halved(mean, x):
    return other_nats(mean, x, 0.5)


@best_sigma.wrong("σ is right. In the nats, the squared errors are taken off; they cost.")
def errors_subtracted(mean, x):
    return other_nats(mean, x, -1)


@best_sigma.wrong("σ is right. In the nats, the squared errors are not divided by 2σ².")
def errors_not_divided(mean, x):
    errors = (x - mean).square().mean()
    return other_nats(mean, x, errors - 0.5)


@best_sigma.wrong("σ is right. In the nats, the constant ½ log 2π of every pixel is missing.")
def constant_missing(mean, x):
    return other_nats(mean, x, -math.log(2 * math.pi) / 2)


@best_sigma.wrong("σ is right. In the nats, every pixel has log 2π where it should be half of it.")
def constant_not_halved(mean, x):
    return other_nats(mean, x, math.log(2 * math.pi) / 2)


@best_sigma.wrong("σ is right. In the nats, the 2 of ½ log 2π is missing.")
def two_missing(mean, x):
    return other_nats(mean, x, -math.log(2) / 2)


@best_sigma.wrong("σ is right. In the nats, the π of ½ log 2π is missing.")
def pi_missing(mean, x):
    return other_nats(mean, x, -math.log(math.pi) / 2)


@best_sigma.wrong("σ is right. In the nats, ½ log 2π is there once; every one of D pixels has it.")
def constant_once(mean, x):
    pixels = x[0].numel()
    return other_nats(mean, x, (1 / pixels - 1) * math.log(2 * math.pi) / 2)


@best_sigma.wrong("σ is right. In the nats, D·log σ is missing.")
def log_missing_from_nats(mean, x):
    return other_nats(mean, x, -at_the_mean_square(mean, x)[0].log())


@best_sigma.wrong("σ is right. In the nats, log σ is there once; every one of D pixels has it.")
def log_once(mean, x):
    log_sigma = at_the_mean_square(mean, x)[0].log()
    return other_nats(mean, x, (1 / x[0].numel() - 1) * log_sigma)


@best_sigma.wrong("σ is right. In the nats, log σ² stands where log σ belongs: half of it.")
def log_of_the_variance(mean, x):
    return other_nats(mean, x, at_the_mean_square(mean, x)[0].log())


@best_sigma.wrong("σ is right. In the nats, D·log σ is taken off; it is to be added.")
def log_subtracted(mean, x):
    return other_nats(mean, x, -2 * at_the_mean_square(mean, x)[0].log())


@best_sigma.wrong("σ is right. The nats are per pixel: sum over a picture's pixels.")
def nats_per_pixel(mean, x):
    variance = (x - mean).square().mean()
    return variance.sqrt(), gaussian(mean, x, variance) / x[0].numel()


@best_sigma.wrong("σ is right. The nats are those of the whole batch: take the mean over pictures.")
def nats_of_the_batch(mean, x):
    sigma, nats = at_the_mean_square(mean, x)
    return sigma, nats * len(x)


@best_sigma.wrong("σ is right. Your nats lack the factor D/2 before the brackets.")
def pixels_forgotten(mean, x):
    sigma, nats = at_the_mean_square(mean, x)
    return sigma, nats * 2 / x[0].numel()


@best_sigma.wrong("σ is right. Your second value is D/2, the part of the squared errors alone.")
def errors_alone(mean, x):
    return at_the_mean_square(mean, x)[0], x[0].numel() / 2 + 0 * mean.sum()


@best_sigma.wrong("σ is right. In the nats only the logarithm is in bits: use `log`, not `log2`.")
def logarithm_in_bits(mean, x):
    sigma, nats = at_the_mean_square(mean, x)
    half = x[0].numel() / 2
    return sigma, half + (nats - half) / math.log(2)


@best_sigma.wrong("σ is right. Your nats are twice what they should be: everything is halved once.")
def nats_doubled(mean, x):
    sigma, nats = at_the_mean_square(mean, x)
    return sigma, nats * 2


@best_sigma.wrong("σ is right. The second value is log p; the loss is −log p.")
def log_density(mean, x):
    sigma, nats = at_the_mean_square(mean, x)
    return sigma, -nats


@best_sigma.wrong("σ is right. The second value is in bits: use `log` and not `log2`.")
def in_bits(mean, x):
    sigma, nats = at_the_mean_square(mean, x)
    return sigma, nats / math.log(2)


@best_sigma.wrong("σ is right, but the nats are those of σ = 1.")
def nats_of_sigma_one(mean, x):
    return (x - mean).square().mean().sqrt(), gaussian(mean, x, 1.0)


# --- 8.4 ------------------------------------------------------------------------------------------

vae_terms = Exercise(
    "vae_terms",
    level="core",
    minutes=20,
    tests="both terms [nats per picture], the codes, and the gradients in all the weights.",
    hint="Ask of each line: which half, and a sum or a mean over what?",
    gradient=("encoder", "decoder", "bias"),
)


@vae_terms.cases
def linear_nets(rng):
    found = []
    for b, d, z in [(4, 6, 2), (1, 9, 3), (3, 4, 1)]:
        found.append({
            "x": pictures(rng, b, d),
            "encoder": normals(rng, 2 * z, d) / d**0.5,
            "decoder": normals(rng, d, z),
            "bias": normals(rng, d),
            "noise": normals(rng, b, z),
        })
    wide = {name: value.clone() for name, value in found[1].items()}
    along = wide["x"][0] / wide["x"].square().sum()
    wide["encoder"][3:] = torch.outer(torch.tensor([-25.0, 0.0, 12.0]), along)  # gives these logvar
    wide["noise"][:, 2] /= 100
    return [*found, wide]


def from_codes(mu, logvar, x, decoder, bias, noise):
    """Both terms, and the codes."""
    logits = (mu + torch.exp(logvar / 2) * noise) @ decoder.T + bias
    return reconstruction(logits, x), kl_term(mu, logvar), mu, logvar


@vae_terms.reference
def terms(x, encoder, decoder, bias, noise):
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    return from_codes(mu, logvar, x, decoder, bias, noise)


def one_half_alone(x, encoder, decoder, bias, noise, half=0):
    """Both codes from one half of the encoder's rows."""
    codes = (x @ encoder.T).chunk(2, dim=1)[half]
    return from_codes(codes, codes, x, decoder, bias, noise)


def mean_over_pixels_of(found, x):
    nll, *others = found
    return nll / x.shape[1], *others


@vae_terms.wrong(
    "This is still the broken program. Its symptoms have two causes: mend what makes all pictures "
    "alike, train again, and look at μ against σ."
)
def broken(x, *given):
    return mean_over_pixels_of(one_half_alone(x, *given), x)


@vae_terms.wrong(
    "The codes are worth their price now. The second fault was hidden behind the first: plot μ "
    "against σ, as `symptoms` does."
)
def one_tensor_still(*given):
    return one_half_alone(*given)


@vae_terms.wrong("Now both μ and log σ² come from the *second* Z rows; the first give the means.")
def second_half_for_both(*given):
    return one_half_alone(*given, half=1)


@vae_terms.wrong(
    "μ and σ are independent now. But the codes still cost far too much beside the pixels: compare "
    "what each of the two terms is a sum of."
)
def mean_still(x, *given):
    return mean_over_pixels_of(terms(x, *given), x)


@vae_terms.wrong(
    "Both terms are a mean over their dimensions now. That is consistent, and still not the ELBO: "
    "both are sums, and here β = D/Z."
)
def mean_in_both(x, encoder, decoder, bias, noise):
    nll, kl, *codes = mean_over_pixels_of(terms(x, encoder, decoder, bias, noise), x)
    return nll, kl / noise.shape[1], *codes


@vae_terms.wrong("The halves are swapped: the *first* Z rows of `encoder` give the mean.")
def halves_swapped(x, encoder, *given):
    return terms(x, encoder.roll(len(encoder) // 2, 0), *given)


@vae_terms.wrong(
    "You take every other row for the means: the first Z rows give them, the last Z the "
    "log-variances."
)
def every_other_row(x, encoder, *given):
    return terms(x, torch.cat([encoder[::2], encoder[1::2]]), *given)


@vae_terms.wrong("The reconstruction term is summed over the batch too.")
def sum_over_everything(x, *given):
    nll, *others = terms(x, *given)
    return nll * len(x), *others


@vae_terms.wrong("The KL is summed over the batch too; it is a mean over the pictures.")
def kl_of_the_batch(x, *given):
    nll, kl, *codes = terms(x, *given)
    return nll, kl * len(x), *codes


@vae_terms.wrong("Both terms are summed over the batch; each is a mean over the pictures.")
def both_of_the_batch(x, *given):
    nll, kl, *codes = terms(x, *given)
    return nll * len(x), kl * len(x), *codes


@vae_terms.wrong("The KL is a mean over the latents now; it is a sum, as the program has it.")
def kl_over_latents(*given):
    nll, kl, *codes = terms(*given)
    return nll, kl / codes[0].shape[1], *codes


def with_another_kl(given, of_latents):
    """The right values, but for the KL: a function of μ and log σ², (B, Z), not halved yet."""
    nll, _, mu, logvar = terms(*given)
    return nll, of_latents(mu, logvar).sum(dim=1).mean() / 2, mu, logvar


@vae_terms.wrong("In the KL the −1 is gone: where q is the prior, it must be 0.")
def kl_without_its_one(*given):
    return with_another_kl(given, lambda mu, v: mu.square() + v.exp() - v)


@vae_terms.wrong("In the KL log σ² has the wrong sign now.")
def kl_with_log_added(*given):
    return with_another_kl(given, lambda mu, v: mu.square() + v.exp() + v - 1)


@vae_terms.wrong("In the KL − log σ² is gone.")
def kl_without_log(*given):
    return with_another_kl(given, lambda mu, v: mu.square() + v.exp() - 1)


@vae_terms.wrong("In the KL σ² is gone.")
def kl_without_variance(*given):
    return with_another_kl(given, lambda mu, v: mu.square() - v - 1)


@vae_terms.wrong("In the KL μ² is gone.")
def kl_without_mean(*given):
    return with_another_kl(given, lambda mu, v: v.exp() - v - 1)


@vae_terms.wrong("In the KL μ is not squared now.")
def kl_with_plain_mean(*given):
    return with_another_kl(given, lambda mu, v: mu + v.exp() - v - 1)


@vae_terms.wrong("The KL gets μ and log σ² in the wrong order.")
def kl_exchanged(*given):
    return with_another_kl(given, lambda mu, v: v.square() + mu.exp() - mu - 1)


@vae_terms.wrong("Your KL sums over the batch and averages over latents: the other way round.")
def kl_the_other_way(*given):
    nll, kl, mu, logvar = terms(*given)
    return nll, kl * len(mu) / mu.shape[1], mu, logvar


@vae_terms.wrong("The ½ in front of the KL is gone.")
def kl_not_halved(*given):
    nll, kl, *codes = terms(*given)
    return nll, 2 * kl, *codes


@vae_terms.wrong("The KL has the wrong sign: it is what the code costs.")
def kl_turned(*given):
    nll, kl, *codes = terms(*given)
    return nll, -kl, *codes


@vae_terms.wrong("The reconstruction term has the wrong sign: the loss is −log p.")
def likelihood_itself(*given):
    nll, *others = terms(*given)
    return -nll, *others


@vae_terms.wrong("The noise is multiplied by σ², and should be by σ: half of log σ².")
def stretched_by_the_variance(x, encoder, decoder, bias, noise):
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    return from_codes(mu, logvar, x, decoder, bias, noise * torch.exp(logvar / 2))


@vae_terms.wrong("The noise is not multiplied by σ.")
def not_stretched_at_all(x, encoder, decoder, bias, noise):
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    return from_codes(mu, logvar, x, decoder, bias, noise * torch.exp(-logvar / 2))


@vae_terms.wrong("σ is e to the power of half of log σ²; the e is gone.")
def sigma_without_exp(x, encoder, decoder, bias, noise):
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    return from_codes(mu, logvar, x, decoder, bias, noise * logvar / 2 * torch.exp(-logvar / 2))


@vae_terms.wrong("σ and the noise are added; σ must *stretch* the noise.")
def sigma_and_noise_added(x, encoder, decoder, bias, noise):
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    return from_codes(mu, logvar, x, decoder, bias, 1 + noise * torch.exp(-logvar / 2))


@vae_terms.wrong("z has σ in it, and no noise: with it every draw is the same.")
def sigma_without_noise(x, encoder, decoder, bias, noise):
    return terms(x, encoder, decoder, bias, torch.ones_like(noise))


@vae_terms.wrong("The noise is taken off, and is to be added: everybody gets the same codes then.")
def noise_taken_off(x, encoder, decoder, bias, noise):
    return terms(x, encoder, decoder, bias, -noise)


@vae_terms.wrong("z lacks its μ: it is μ + σ·noise.")
def mean_left_out(x, encoder, decoder, bias, noise):
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    return from_codes(mu, logvar, x, decoder, bias - mu @ decoder.T, noise)


@vae_terms.wrong("You read the second half as log σ; it is log σ².")
def log_sigma_read(x, encoder, decoder, bias, noise):
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    return *from_codes(mu, 2 * logvar, x, decoder, bias, noise)[:3], logvar


@vae_terms.wrong("x lies in [−1, 1]; the cross-entropy wants it in [0, 1].")
def x_not_mapped(x, encoder, decoder, bias, noise):
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    return from_codes(mu, logvar, 2 * x - 1, decoder, bias, noise)


@vae_terms.wrong("x is mapped to [0, 2] now: halve x + 1.")
def x_mapped_too_far(x, encoder, decoder, bias, noise):
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    return from_codes(mu, logvar, 2 * x + 1, decoder, bias, noise)


@vae_terms.wrong("x is mapped to [−½, ½] now: add 1 before you halve it.")
def x_halved_alone(x, encoder, decoder, bias, noise):
    mu, logvar = (x @ encoder.T).chunk(2, dim=1)
    return from_codes(mu, logvar, x - 1, decoder, bias, noise)


@vae_terms.wrong("The first term is a mean over everything, and divided by the batch again.")
def mean_divided_again(x, *given):
    nll, *others = mean_over_pixels_of(terms(x, *given), x)
    return nll / len(x), *others


@vae_terms.wrong("The bias is taken off; it is to be added.")
def bias_taken_off(x, encoder, decoder, bias, noise):
    return terms(x, encoder, decoder, -bias, noise)


@vae_terms.wrong("The decoder's bias is missing.")
def no_bias(x, encoder, decoder, bias, noise):
    return terms(x, encoder, decoder, 0 * bias, noise)


@vae_terms.wrong("The two codes are returned in the wrong order: μ, then log σ².")
def codes_exchanged(*given):
    nll, kl, mu, logvar = terms(*given)
    return nll, kl, logvar, mu


@vae_terms.wrong("The two terms are returned in the wrong order: first the reconstruction.")
def terms_exchanged(*given):
    nll, kl, *codes = terms(*given)
    return kl, nll, *codes


@vae_terms.wrong("Your third value is z, a draw; return μ.")
def draw_returned(x, encoder, decoder, bias, noise):
    nll, kl, mu, logvar = terms(x, encoder, decoder, bias, noise)
    return nll, kl, mu + torch.exp(logvar / 2) * noise, logvar


@vae_terms.wrong("Your last value is σ; return log σ².")
def sigma_returned(*given):
    *others, logvar = terms(*given)
    return *others, torch.exp(logvar / 2)


@vae_terms.wrong("Your last value is σ²; return its logarithm.")
def variance_is_returned(*given):
    *others, logvar = terms(*given)
    return *others, logvar.exp()


@vae_terms.wrong("z is not drawn any more: with z = μ this is no expectation over q(z|x).")
def no_draw(x, encoder, decoder, bias, noise):
    return terms(x, encoder, decoder, bias, 0 * noise)


# --- 8.5 ------------------------------------------------------------------------------------------

importance_weighted = Exercise(
    "importance_weighted",
    level="stretch",
    minutes=30,
    tests="one draw to 3,000, one latent or several, likelihoods too small for a float, and "
    "pictures and draws that differ by hundreds of nats.",
    hint="A weight is p(x|z)·p(z)/q(z|x). Keep to logarithms until the very end.",
)


@importance_weighted.cases
def weights(rng):
    """Rows and columns far apart: no single number can be taken out of all of them."""
    levels = [(1, 3, 2, -5.0), (4, 2, 3, -5.0), (8, 1, 1, -900.0), (3, 2, 2, -900.0),
              (4, 3, 2, [-100.0, -2000.0, -900.0]), (3, 2, 1, [[-5000.0], [-900.0], [-2000.0]]),
              (3_000, 2, 1, -5.0)]
    found = []
    for k, b, z, level in levels:
        mu, logvar = normals(rng, b, z), normals(rng, b, z)
        found.append({
            "log_likelihood": torch.tensor(level) + 2 * normals(rng, k, b),
            "z": mu + torch.exp(logvar / 2) * normals(rng, k, b, z),
            "mu": mu,
            "logvar": logvar,
        })
    in_double = [{name: value.double() for name, value in found[i].items()} for i in (4, 5)]
    mu, wide = normals(rng, 2, 2), torch.tensor([[-24.0, 0.0], [0.0, 22.0]])
    far = {"log_likelihood": normals(rng, 3, 2) - 5,
           "z": mu + torch.exp(wide / 2).clamp(max=3) * normals(rng, 3, 2, 2),  # so p(z) is no 0
           "mu": mu, "logvar": wide}
    return [*found, *in_double, far]


def log_ratio(z, mu, logvar):
    """log p(z) − log q(z|x)."""
    return 0.5 * ((z - mu).square() / logvar.exp() + logvar - z.square()).sum(-1)


def log_weights(log_likelihood, z, mu, logvar):
    return log_likelihood + log_ratio(z, mu, logvar)


def log_normal(z, mu, logvar):
    return -0.5 * ((z - mu).square() / logvar.exp() + logvar + math.log(2 * math.pi)).sum(-1)


@importance_weighted.reference
def log_mean_weight(log_likelihood, z, mu, logvar):
    w = log_weights(log_likelihood, z, mu, logvar)
    return w.logsumexp(dim=0) - math.log(len(w))


@importance_weighted.wrong(
    "This is the mean of the logarithms, so an estimate of the ELBO, however many draws you take. "
    "The bound is tighter when the mean is taken *inside* the logarithm."
)
def mean_of_logs(log_likelihood, z, mu, logvar):
    return log_weights(log_likelihood, z, mu, logvar).mean(dim=0)


@importance_weighted.wrong("The 1/K is missing: your estimate grows by log K with every draw.")
def draws_not_averaged(log_likelihood, z, mu, logvar):
    return log_weights(log_likelihood, z, mu, logvar).logsumexp(dim=0)


@importance_weighted.wrong(
    "The formula is right, but e to the −900 is 0 for a computer, and its logarithm −inf: stay "
    "with logarithms; `logsumexp` takes the largest weight out first."
)
def underflow(log_likelihood, z, mu, logvar):
    return log_weights(log_likelihood, z, mu, logvar).exp().mean(dim=0).log()


@importance_weighted.wrong(
    "You take the largest weight of the whole batch out, and all pictures that are less likely by "
    "hundreds of nats become −inf: each picture has a largest weight of its own."
)
def one_maximum_for_all(log_likelihood, z, mu, logvar):
    w = log_weights(log_likelihood, z, mu, logvar)
    return (w - w.max()).exp().mean(dim=0).log() + w.max()


@importance_weighted.wrong(
    "You take the *mean* out of the logarithms: where one draw lies hundreds of nats above it, its "
    "exponential is infinite. Take the largest out."
)
def mean_taken_out(log_likelihood, z, mu, logvar):
    w = log_weights(log_likelihood, z, mu, logvar)
    return (w - w.mean(dim=0)).exp().mean(dim=0).log() + w.mean(dim=0)


@importance_weighted.wrong(
    "You average 1/w, since the sign inside the exponential is turned: the smallest weight then "
    "decides alone."
)
def harmonic_mean(log_likelihood, z, mu, logvar):
    w = log_weights(log_likelihood, z, mu, logvar)
    return math.log(len(w)) - (-w).logsumexp(dim=0)


@importance_weighted.wrong("Only the largest weight is left: take the mean of all K of them.")
def largest_alone(log_likelihood, z, mu, logvar):
    return log_weights(log_likelihood, z, mu, logvar).amax(dim=0)


@importance_weighted.wrong("log K is added: a mean over K draws takes it off.")
def log_k_added(log_likelihood, z, mu, logvar):
    return draws_not_averaged(log_likelihood, z, mu, logvar) + math.log(len(z))


@importance_weighted.wrong("You divide by the number of pictures; the mean is over the K draws.")
def divided_by_pictures(log_likelihood, z, mu, logvar):
    return draws_not_averaged(log_likelihood, z, mu, logvar) - math.log(len(mu))


@importance_weighted.wrong("K itself is taken off; dividing by K takes off its logarithm.")
def draws_subtracted(log_likelihood, z, mu, logvar):
    return draws_not_averaged(log_likelihood, z, mu, logvar) - len(z)


@importance_weighted.wrong("This is −log p(x); asked for is log p(x).")
def negated(log_likelihood, z, mu, logvar):
    return -log_mean_weight(log_likelihood, z, mu, logvar)


@importance_weighted.wrong("The log densities of z are sums over the latents; yours are means.")
def latents_averaged(log_likelihood, z, mu, logvar):
    ratio = log_ratio(z, mu, logvar)
    return log_mean_weight(log_likelihood - ratio + ratio / z.shape[2], z, mu, logvar)


@importance_weighted.wrong(
    "You average p(x|z) over the draws, and the ratio p(z)/q(z|x) separately: every draw has its "
    "own ratio, *inside* the mean."
)
def averaged_apart(log_likelihood, z, mu, logvar):
    ratio = log_ratio(z, mu, logvar)
    return no_correction(log_likelihood, z, mu, logvar) + ratio.mean(dim=0)


@importance_weighted.wrong(
    "You multiply by the prior p(z) and don't divide by q(z|x), where the draws are from."
)
def q_forgotten(log_likelihood, z, mu, logvar):
    w = log_likelihood + log_normal(z, torch.zeros_like(mu), torch.zeros_like(mu))
    return w.logsumexp(dim=0) - math.log(len(w))


@importance_weighted.wrong("You multiply by q(z|x), too: the draws are from q, so divide by it.")
def q_multiplied(log_likelihood, z, mu, logvar):
    w = log_weights(log_likelihood, z, mu, logvar) + 2 * log_normal(z, mu, logvar)
    return w.logsumexp(dim=0) - math.log(len(w))


@importance_weighted.wrong("In log q(z|x) the squares are divided by σ; they are to be by σ².")
def squares_over_sigma(log_likelihood, z, mu, logvar):
    w = log_weights(log_likelihood, z, mu, logvar)
    squares = (z - mu).square() * (torch.exp(-logvar / 2) - torch.exp(-logvar)) / 2
    return (w + squares.sum(dim=-1)).logsumexp(dim=0) - math.log(len(w))


@importance_weighted.wrong("In log q(z|x) the squares are not divided by σ².")
def squares_not_divided(log_likelihood, z, mu, logvar):
    w = log_weights(log_likelihood, z, mu, logvar)
    squares = (z - mu).square() * (1 - torch.exp(-logvar)) / 2
    return (w + squares.sum(dim=-1)).logsumexp(dim=0) - math.log(len(w))


@importance_weighted.wrong("The ½ of both log densities is missing.")
def halves_missing(log_likelihood, z, mu, logvar):
    return log_mean_weight(log_likelihood + log_ratio(z, mu, logvar), z, mu, logvar)


def with_ratio(log_likelihood, log_ratio):
    return (log_likelihood + log_ratio.sum(-1) / 2).logsumexp(dim=0) - math.log(len(log_ratio))


@importance_weighted.wrong("The prior's −½ z² is missing.")
def prior_square_missing(log_likelihood, z, mu, logvar):
    return with_ratio(log_likelihood, (z - mu).square() / logvar.exp() + logvar)


@importance_weighted.wrong("The prior has the wrong sign: far from 0 a code is *less* likely.")
def prior_turned(log_likelihood, z, mu, logvar):
    return with_ratio(log_likelihood, (z - mu).square() / logvar.exp() + logvar + z.square())


@importance_weighted.wrong("q is missing: nothing but the prior's −½ z² is added to log p(x|z).")
def prior_square_alone(log_likelihood, z, mu, logvar):
    return with_ratio(log_likelihood, -z.square())


@importance_weighted.wrong("log q(z|x) has +½ log σ² where −½ log σ² belongs.")
def height_turned(log_likelihood, z, mu, logvar):
    return with_ratio(log_likelihood, (z - mu).square() / logvar.exp() - logvar - z.square())


@importance_weighted.wrong("log q(z|x) lacks its squares, −½ (z − μ)²/σ².")
def squares_missing(log_likelihood, z, mu, logvar):
    return with_ratio(log_likelihood, logvar - z.square())


@importance_weighted.wrong("In log q(z|x) the squares are *multiplied* by σ²; divide by it.")
def squares_multiplied(log_likelihood, z, mu, logvar):
    return with_ratio(log_likelihood, (z - mu).square() * logvar.exp() + logvar - z.square())


@importance_weighted.wrong("In log q(z|x) you divide by log σ²; it is e to the power of that.")
def squares_over_logvar(log_likelihood, z, mu, logvar):
    return with_ratio(log_likelihood, (z - mu).square() / logvar + logvar - z.square())


@importance_weighted.wrong("In log q(z|x) stands z² where (z − μ)² belongs.")
def not_centred(log_likelihood, z, mu, logvar):
    return with_ratio(log_likelihood, z.square() / logvar.exp() + logvar - z.square())


@importance_weighted.wrong("log p(x|z) is missing: a weight is p(x|z)·p(z)/q(z|x).")
def likelihood_missing(log_likelihood, z, mu, logvar):
    return log_mean_weight(0 * log_likelihood, z, mu, logvar)


@importance_weighted.wrong("You sum over draws and pictures as well: only the latents add up.")
def ratio_summed_over_all(log_likelihood, z, mu, logvar):
    return log_mean_weight(log_likelihood - log_ratio(z, mu, logvar)
                           + log_ratio(z, mu, logvar).sum(), z, mu, logvar)


@importance_weighted.wrong("μ and logvar are exchanged.")
def q_exchanged(log_likelihood, z, mu, logvar):
    return log_mean_weight(log_likelihood, z, logvar, mu)


@importance_weighted.wrong("You divide by q(z|x) but forget the prior p(z).")
def prior_missing(log_likelihood, z, mu, logvar):
    w = log_likelihood - log_normal(z, mu, logvar)
    return w.logsumexp(dim=0) - math.log(len(w))


@importance_weighted.wrong(
    "You average p(x|z) itself: that would be right for draws from the prior; these are from q."
)
def no_correction(log_likelihood, z, mu, logvar):
    return log_likelihood.logsumexp(dim=0) - math.log(len(z))


@importance_weighted.wrong("The ratio is upside down: it is p(z)/q(z|x).")
def ratio_inverted(log_likelihood, z, mu, logvar):
    w = 2 * log_likelihood - log_weights(log_likelihood, z, mu, logvar)
    return w.logsumexp(dim=0) - math.log(len(w))


@importance_weighted.wrong(
    "log q(z|x) lacks its −½ log σ² (of every latent): a narrow Gaussian is a *high* one."
)
def height_missing(log_likelihood, z, mu, logvar):
    w = log_weights(log_likelihood, z, mu, logvar) - 0.5 * logvar.sum(dim=-1)
    return w.logsumexp(dim=0) - math.log(len(w))


@importance_weighted.wrong("You read logvar as log σ; it is log σ².")
def logvar_taken_as_log_sigma(log_likelihood, z, mu, logvar):
    return log_mean_weight(log_likelihood, z, mu, 2 * logvar)
