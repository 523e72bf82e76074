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
    wide = torch.tensor([[-60.0, 0.0, 6.0]])
    noise = torch.randn(2, 1, 3, generator=rng)
    return [*drawn, {"mu": torch.ones(1, 3), "logvar": wide, "noise": noise}]


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
    tests="Bernoulli pixels from logits up to ±200, every β, colours, a batch of one, gradients.",
    hint="Per picture: sum over pixels, plus β times a sum over latents. Then the batch's mean.",
    gradient=("logits", "mu", "logvar"),
)


@negative_elbo.cases
def codes_and_logits(rng):
    sizes = [((3, 1, 4, 5), 2, 1.0), ((1, 3, 2, 2), 4, 4.0), ((2, 1, 3, 3), 1, 0.5)]
    drawn = [
        {"logits": 2 * normals(rng, *shape), "x": pictures(rng, *shape),
         "mu": normals(rng, shape[0], z), "logvar": normals(rng, shape[0], z), "beta": beta}
        for shape, z, beta in sizes
    ]  # fmt: skip
    sure = torch.tensor([200.0, -200.0, -200.0, 0.0]).view(1, 1, 2, 2)
    x = torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(1, 1, 2, 2)
    free = {"logits": sure, "x": x, "mu": normals(rng, 1, 3), "logvar": normals(rng, 1, 3)}
    return [*drawn, {**free, "beta": 2.0}]


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


@negative_elbo.wrong("You take the mean over the latents: KL adds up over independent ones.")
def mean_over_latents(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) + beta * kl_term(mu, logvar) / mu.shape[1]


@negative_elbo.wrong(
    "Both terms are means over all their entries, pixels and latents: that is another β, pixels "
    "over latents times as large. Only the batch is averaged."
)
def means_everywhere(logits, x, mu, logvar, beta):
    return reconstruction(logits, x) / x[0].numel() + beta * kl_term(mu, logvar) / mu.shape[1]


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


@negative_elbo.wrong("β stands at the wrong term: it is the price of the code, so of the KL.")
def beta_on_reconstruction(logits, x, mu, logvar, beta):
    return beta * reconstruction(logits, x) + kl_term(mu, logvar)


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


@negative_elbo.wrong(
    "Small logits are right, large ones are not: for a logit of ±200 the sigmoid rounds to 0 or 1 "
    "and its logarithm is infinite. There are functions that take the logits themselves."
)
def log_of_sigmoid(logits, x, mu, logvar, beta):
    p, x01 = torch.sigmoid(logits), (x + 1) / 2
    nll = -(x01 * p.log() + (1 - x01) * (1 - p).log()).sum() / len(x)
    return nll + beta * kl_term(mu, logvar)


@negative_elbo.wrong(
    "Small logits are right, large ones cost too little: `F.binary_cross_entropy` silently stops "
    "at 100 nats per pixel. There is one that takes the logits themselves."
)
def stopped_at_100(logits, x, mu, logvar, beta):
    nll = F.binary_cross_entropy(torch.sigmoid(logits), (x + 1) / 2, reduction="sum") / len(x)
    return nll + beta * kl_term(mu, logvar)


# --- 8.3 ------------------------------------------------------------------------------------------

best_sigma = Exercise(
    "best_sigma",
    level="core",
    minutes=20,
    tests="σ and nats per picture, for several sizes and a batch of one, and the mean's gradient.",
    hint="Set the derivative in σ to zero, for all pixels of all pictures together.",
    gradient=("mean",),
)


@best_sigma.cases
def means_and_pictures(rng):
    sizes = [((3, 1, 4, 5), 0.3), ((1, 3, 2, 2), 2.0), ((4, 1, 6, 6), 0.05)]
    found = []
    for shape, spread in sizes:
        x = pictures(rng, *shape)
        found.append({"mean": x + spread * (normals(rng, *shape) + 0.5), "x": x})
    return found


def gaussian(mean, x, variance):
    """−log N(x; mean, variance·I) [nats per picture]."""
    squares = (x - mean).square() / variance + torch.as_tensor(2 * math.pi * variance).log()
    return squares.sum() / (2 * len(x))


@best_sigma.reference
def at_the_mean_square(mean, x):
    variance = (x - mean).square().mean()
    return variance.sqrt(), losses.gaussian_nll(mean, x, variance.sqrt())


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


@best_sigma.wrong("Each picture has a σ of its own in your answer; one σ is shared by all.")
def one_per_picture(mean, x):
    variance = (x - mean).square().flatten(1).mean(dim=1)
    nll = gaussian(mean, x, variance.view(-1, 1, 1, 1))
    return variance.sqrt(), nll


@best_sigma.wrong("σ is right. In the nats, the squared errors over 2σ² are missing: they are D/2.")
def errors_missing(mean, x):
    variance = (x - mean).square().mean()
    return variance.sqrt(), gaussian(mean, x, variance) - x[0].numel() / 2


@best_sigma.wrong("σ is right. In the nats, the constant ½ log 2π of every pixel is missing.")
def constant_missing(mean, x):
    variance = (x - mean).square().mean()
    constant = x[0].numel() * math.log(2 * math.pi) / 2
    return variance.sqrt(), gaussian(mean, x, variance) - constant


@best_sigma.wrong("σ is right. The nats are per pixel: sum over a picture's pixels.")
def nats_per_pixel(mean, x):
    variance = (x - mean).square().mean()
    return variance.sqrt(), gaussian(mean, x, variance) / x[0].numel()


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
        })  # fmt: skip
    return found


def terms(x, encoder, decoder, bias, noise, heads=(0, 1), reduce=torch.Tensor.sum):
    """Both terms and the codes; heads: which half is the mean, which the log-variance."""
    halves = (x @ encoder.T).chunk(2, dim=1)
    mu, logvar = halves[heads[0]], halves[heads[1]]
    logits = (mu + torch.exp(logvar / 2) * noise) @ decoder.T + bias
    costs = F.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="none")
    return reduce(costs, dim=1).mean(), kl_term(mu, logvar), mu, logvar


vae_terms.reference(terms)


@vae_terms.wrong(
    "This is still the broken program. Its symptoms have two causes: mend what makes all pictures "
    "alike, train again, and look at μ against σ."
)
def broken(x, encoder, decoder, bias, noise):
    return terms(x, encoder, decoder, bias, noise, (0, 0), torch.Tensor.mean)


@vae_terms.wrong(
    "The codes are worth their price now. The second fault was hidden behind the first: plot μ "
    "against σ, as `symptoms` does."
)
def one_tensor_still(x, encoder, decoder, bias, noise):
    return terms(x, encoder, decoder, bias, noise, (0, 0))


@vae_terms.wrong(
    "μ and σ are independent now. But the codes still cost far too much beside the pixels: compare "
    "what each of the two terms is a sum of."
)
def mean_still(x, encoder, decoder, bias, noise):
    return terms(x, encoder, decoder, bias, noise, reduce=torch.Tensor.mean)


@vae_terms.wrong(
    "Both terms are a mean over their dimensions now. That is consistent, and still not the ELBO: "
    "both are sums, and here β = D/Z."
)
def mean_in_both(x, encoder, decoder, bias, noise):
    nll, kl, *codes = terms(x, encoder, decoder, bias, noise, reduce=torch.Tensor.mean)
    return nll, kl / noise.shape[1], *codes


@vae_terms.wrong("The halves are swapped: the *first* Z rows of `encoder` give the mean.")
def halves_swapped(x, encoder, decoder, bias, noise):
    return terms(x, encoder, decoder, bias, noise, (1, 0))


@vae_terms.wrong("The reconstruction term is summed over the batch too.")
def sum_over_everything(x, encoder, decoder, bias, noise):
    nll, *others = terms(x, encoder, decoder, bias, noise)
    return nll * len(x), *others


@vae_terms.wrong("z is not drawn any more: with z = μ this is no expectation over q(z|x).")
def no_draw(x, encoder, decoder, bias, noise):
    return terms(x, encoder, decoder, bias, 0 * noise)


# --- 8.5 ------------------------------------------------------------------------------------------

importance_weighted = Exercise(
    "importance_weighted",
    level="stretch",
    minutes=30,
    tests="one to many draws, one latent or several, and likelihoods too small for a float.",
    hint="A weight is p(x|z)·p(z)/q(z|x). Keep to logarithms until the very end.",
)


@importance_weighted.cases
def weights(rng):
    found = []
    for k, b, z, level in [(1, 3, 2, -5.0), (4, 2, 3, -5.0), (8, 1, 1, -900.0), (3, 2, 2, -900.0)]:
        mu, logvar = normals(rng, b, z), normals(rng, b, z)
        found.append({
            "log_likelihood": level + 2 * normals(rng, k, b),
            "z": mu + torch.exp(logvar / 2) * normals(rng, k, b, z),
            "mu": mu,
            "logvar": logvar,
        })  # fmt: skip
    return found


def log_normal(z, mu, logvar):
    return -0.5 * ((z - mu).square() / logvar.exp() + logvar + math.log(2 * math.pi)).sum(-1)


def log_weights(log_likelihood, z, mu, logvar):
    standard = torch.zeros_like(mu)
    return log_likelihood + log_normal(z, standard, standard) - log_normal(z, mu, logvar)


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
