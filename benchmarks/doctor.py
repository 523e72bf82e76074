"""The doctor on runs of kinds that its thresholds were not set on: said, should have said.

    python benchmarks/doctor.py                # trains those that are not there yet: 15 minutes
    python benchmarks/doctor.py --only "hinge" "ten pictures"

Every run is a short training as a learner would write it, with `Run`, and logs what a learner would
log. What should be said was decided by looking at samples and curves, before the doctor was asked.
(Fashion-)MNIST, X-rays and a folder of colour pictures are looked for in $GENCOURSE_DATA.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import report
import torch
import torch.nn.functional as F
from torch import nn

from gencourse import data, losses, nets, runtime, train
from gencourse.doctor import doctor
from gencourse.run import Run, read_history
from gencourse.runtime import UserError

Z = 32


# --- pictures -------------------------------------------------------------------------------------


def some(images, wanted, name=None):
    """Those of the pictures whose places are wanted, under their old name or a new one."""
    wanted = torch.as_tensor(wanted)
    return data.Images(
        images.x[wanted], images.labels[wanted], images.classes, name or images.name, device="cpu"
    )


def digits():
    return data.load("digits", device="cpu")


def three_classes():
    images = digits()
    return some(images, torch.isin(images.labels, torch.tensor([0, 3, 7])).nonzero()[:, 0])


def fashion(n=6_000):
    return some(data.load("fashion_mnist", device="cpu"), range(n))


class Sorted:
    """Pictures that nobody shuffled: all of a class, then all of the next, drawn in turns."""

    def __init__(self, images):
        self.x, self.name, self.shape = images.x[images.labels.argsort()], images.name, images.shape

    def __len__(self):
        return len(self.x)

    def batch(self, step, n):
        return self.x[torch.arange(step * n, step * n + n) % len(self)] / 127.5 - 1


def mnist(n=5_000):
    return some(data.load("mnist", device="cpu"), range(n))


def shapes(size, count=4_000):
    return data.load("shapes", size=size, count=count, device="cpu")


def xrays():
    file = np.load(Path(os.environ["GENCOURSE_DATA"]) / "PneumoniaMNIST" / "pneumoniamnist.npz")
    x, labels = (torch.from_numpy(file[f"train_{name}"]) for name in ("images", "labels"))
    return data.Images(x[:, None], labels[:, 0].long(), ["normal", "pneumonia"], "X-rays")


def colour():
    folder = Path(os.environ["GENCOURSE_DATA"]) / "cifar10-folder" / "train"
    return data.load(f"folder:{folder}", size=32, device="cpu")


class Ring:
    """Points on eight small clouds in a circle, in place of pictures."""

    shape, name = (2,), "ring"

    def __len__(self):
        return 8_000

    def batch(self, step, n):
        draw = torch.Generator().manual_seed(step)
        angle = torch.randint(8, (n,), generator=draw) * (torch.pi / 4)
        points = torch.stack([angle.cos(), angle.sin()], 1)
        return 0.8 * points + 0.02 * torch.randn(n, 2, generator=draw)


# --- GANs -----------------------------------------------------------------------------------------


def hinge_d(real, fake):
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def squares_d(real, fake):
    return (real - 1).square().mean() + fake.square().mean()


def halved_d(real, fake):
    return losses.discriminator_loss(real, fake) / 2


def smooth_d(real, fake):
    """Real pictures are to be called real by 90 %."""
    real_loss = 0.9 * F.softplus(-real) + 0.1 * F.softplus(real)
    return (real_loss + F.softplus(fake)).mean()


def naive_d(real, fake):
    return -(torch.sigmoid(real).log() + (1 - torch.sigmoid(fake)).log()).mean()


# name → loss of D, loss of G, what D's values are logged as
LOSSES = {
    "logistic": (losses.discriminator_loss, losses.generator_loss, torch.sigmoid),
    "saturating": (losses.discriminator_loss, losses.generator_loss_saturating, torch.sigmoid),
    "critic": (losses.critic_loss, losses.critic_generator_loss, lambda value: value),
    "hinge": (hinge_d, losses.critic_generator_loss, lambda value: value),
    "squares": (squares_d, lambda fake: (fake - 1).square().mean(), lambda value: value),
    "halved": (halved_d, losses.generator_loss, torch.sigmoid),
    "smooth": (smooth_d, losses.generator_loss, torch.sigmoid),
    "naive": (naive_d, lambda fake: -torch.sigmoid(fake).log().mean(), torch.sigmoid),
}


def dcgan(images, width=8):
    channels, size, _ = images.shape
    return (
        nets.DCGANGenerator(size, channels, Z, width),
        nets.DCGANDiscriminator(size, channels, width),
    )


def dense(shape, width=64, norm=True, slope=0.2):
    """G and D of fully connected layers, D without BatchNorm, G with it or without."""
    n = torch.Size(shape).numel()
    layers = [nn.Linear(Z, width), nn.BatchNorm1d(width) if norm else nn.Identity(), nn.ReLU()]
    layers += [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n), nn.Tanh()]
    G = nn.Sequential(*layers, nn.Unflatten(1, shape))
    D = nn.Sequential(
        nn.Flatten(), nn.Linear(n, width), nn.LeakyReLU(slope),
        nn.Linear(width, width), nn.LeakyReLU(slope), nn.Linear(width, 1), nn.Flatten(0),
    )
    return G, D


def convolutional_critic(images, width=8):
    """A DCGAN whose D has no BatchNorm, as a gradient penalty asks for."""
    G, D = dcgan(images, width)
    D.body = nn.Sequential(*(m for m in D.body if not isinstance(m, nn.BatchNorm2d)))
    return G, D


def gan(
    out, images, models, loss="logistic", *, steps=400, batch=32, lr=1e-3, d_lr=None, d_steps=1,
    betas=(0.5, 0.999), clip=None, penalty=0.0, r1=0.0, log_every=1, stop=None, seed=0, own=None,
    log_d=True, samples=True, d_optimizes=None,
):
    """One GAN, in a plain loop. own: says whose weights D's optimizer has, by mistake."""
    G, D = models
    d_loss_of, g_loss_of, shown = LOSSES[loss]
    g_opt = torch.optim.Adam(G.parameters(), lr=lr, betas=betas)
    d_weights = (d_optimizes or D).parameters()
    d_opt = torch.optim.Adam(d_weights, lr=lr if d_lr is None else d_lr, betas=betas)
    noise = train.fixed_noise(64, Z, seed).cpu()
    settings = {"data": images.name, "pictures": len(images), "shape": list(images.shape)}
    with Run(
        out, settings=settings | {"lr": lr, "loss": loss}, batch_size=batch, progress=False,
        sample=(lambda: G(noise)) if samples else None, sample_every=max(1, steps // 8),
        real=images.batch(0, min(256, len(images))) if samples else None, checkpoint_every=50,
        G=G, D=D, g_opt=g_opt, d_opt=d_opt,
    ) as run:
        for step in run.steps(steps):
            if step == stop:
                return run
            for i in range(d_steps):
                x = images.batch(step * d_steps + i, batch)
                fake = G(torch.randn(batch, Z)).detach()
                x = x.requires_grad_(r1 > 0)
                real_values, fake_values = D(x), D(fake)
                d_loss = d_loss_of(real_values, fake_values)
                if penalty:
                    d_loss = d_loss + penalty * losses.gradient_penalty(D, x, fake)
                if r1:
                    d_loss = d_loss + r1 / 2 * losses.r1_penalty(real_values, x)
                d_opt.zero_grad()
                d_loss.backward()
                d_grad = train.gradient_norm(D)
                d_opt.step()
                if clip:
                    with torch.no_grad():
                        for p in D.parameters():
                            p.clamp_(-clip, clip)
            g_loss = g_loss_of(D(G(torch.randn(batch, Z))))
            g_opt.zero_grad()
            g_loss.backward()
            g_grad = train.gradient_norm(G)
            g_opt.step()
            if step % log_every == log_every - 1:
                answers = {"d_real": shown(real_values).mean(), "d_fake": shown(fake_values).mean()}
                row = {"d_loss": d_loss, "g_loss": g_loss} | (answers if log_d else {})
                run.log(**row, **({"d_grad": d_grad, "g_grad": g_grad} if log_d else {}))
    return run


class Ten(nn.Module):
    """G that makes one of ten pictures, whatever z is."""

    def __init__(self, G):
        super().__init__()
        self.G, self.codes = G, nn.Parameter(torch.randn(10, Z))

    def forward(self, z):
        return self.G(self.codes[z[:, :10].argmax(1)])


class Mute(nn.Module):
    """D whose last layer is dead: ReLU of something that is never positive."""

    def __init__(self, D):
        super().__init__()
        self.D = D

    def forward(self, x):
        return F.relu(self.D(x) - 100)


class OfClass(nn.Module):
    """G or D that also sees a class, drawn anew for each sample; D sees which by the last row."""

    def __init__(self, G):
        super().__init__()
        self.G, self.embedding = G, nn.Embedding(10, Z)

    def forward(self, z):
        labels = (z[:, 0] * 1e4).long().abs() % 10  # a part of the noise names the class
        return self.G(z + self.embedding(labels))


# --- VAEs -----------------------------------------------------------------------------------------


class Painter(nn.Module):
    """VAE whose decoder also sees all pixels above and to the left: it needs no z."""

    def __init__(self, vae, width=32):
        super().__init__()
        self.vae, self.z_dim = vae, vae.z_dim
        self.first = nn.Conv2d(1, width, 7, padding=3)
        self.rest = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(),
                                  nn.Conv2d(width, 1, 1))
        mask = torch.ones(7, 7)
        mask[3, 3:], mask[4:] = 0, 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        logits, mu, logvar = self.vae(x)
        seen = F.conv2d(x, self.first.weight * self.mask, self.first.bias, padding=3)
        return logits + self.rest(seen), mu, logvar

    def sample(self, z):
        return self.vae.sample(z)


class LearnedWidth(nn.Module):
    """VAE with one σ for all pixels, a weight like the others; it rides on the logits."""

    def __init__(self, vae):
        super().__init__()
        self.vae, self.z_dim, self.log_sigma = vae, vae.z_dim, nn.Parameter(torch.zeros(()))

    def forward(self, x):
        logits, mu, logvar = self.vae(x)
        return (logits, self.log_sigma.exp()), mu, logvar

    def sample(self, z):
        return self.vae.sample(z)


def learned_width(answer, x):
    logits, sigma = answer
    return losses.gaussian_nll(2 * torch.sigmoid(logits) - 1, x, sigma)


def bernoulli(logits, x):
    return losses.bernoulli_nll(logits, (x + 1) / 2)


def laplace(logits, x):
    """−log density, but for a constant, of b = 0.2."""
    return (2 * torch.sigmoid(logits) - 1 - x).abs().flatten(1).sum(1).mean() / 0.2


def mean_of_pixels(logits, x):
    return bernoulli(logits, x) / x[0].numel()


def gaussian(sigma):
    return lambda logits, x: losses.gaussian_nll(2 * torch.sigmoid(logits) - 1, x, sigma)


def vae(
    out, images, model, nll_of=bernoulli, *, steps=600, batch=32, lr=2e-3, beta=1.0, warm=0,
    mean=False, log_every=1, stop=None, seed=0,
):
    """One VAE, in a plain loop. warm: steps in which β grows from 0; mean: means, not sums."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    noise = train.fixed_noise(64, model.z_dim, seed).cpu()
    settings = {"data": images.name, "pictures": len(images), "shape": list(images.shape)}
    pixels = torch.Size(images.shape).numel()
    with Run(
        out, settings=settings | {"lr": lr, "beta": beta}, batch_size=batch, progress=False,
        sample=lambda: model.sample(noise), sample_every=max(1, steps // 4),
        real=images.batch(0, min(256, len(images))), checkpoint_every=50,
        model=model, optimizer=optimizer,
    ) as run:
        for step in run.steps(steps):
            if step == stop:
                return run
            x = images.batch(step, batch)
            logits, mu, logvar = model(x)
            nll, kl = nll_of(logits, x), losses.kl_to_standard_normal(mu, logvar).mean()
            if mean:
                nll, kl = nll / pixels, kl / mu.shape[1]
            loss = nll + beta * (min(1, step / warm) if warm else 1) * kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % log_every == log_every - 1:
                run.log(loss=loss, nll=nll, kl=kl, active=train.active_units(mu))
    return run


# --- the runs -------------------------------------------------------------------------------------


def twice(make, stop):
    """A run that is stopped at a step, and then called again."""

    def both(out):
        make(out, stop)
        return make(out, None)

    return both


def wgan(out, **more):
    x = digits()
    return gan(out, x, convolutional_critic(x), "critic", d_steps=3, lr=5e-4, betas=(0.0, 0.9),
               steps=300, **more)


def points(out, models, **more):
    return gan(None, Ring(), models, batch=64, **more)


def ordinary(out, **more):
    return gan(out, digits(), dcgan(digits()), **more)


def spectral(models):
    G, D = models
    for module in D.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.utils.parametrizations.spectral_norm(module)
    return G, D


def small_vae(size=16, channels=1, width=12, z=16):
    return nets.VAE(size, channels, z, width)


def with_ten(models):
    return Ten(models[0]), models[1]


FIRST = {  # name → how to make it
    "WGAN, clipped": lambda out: wgan(out, clip=0.05),
    "WGAN-GP": lambda out: wgan(out, penalty=10.0),
    "WGAN, critic held by nothing": lambda out: wgan(out),
    "WGAN-GP, losses only, no samples": lambda out: wgan(
        out, penalty=10.0, log_d=False, samples=False
    ),
    "hinge": lambda out: gan(out, digits(), dcgan(digits()), "hinge"),
    "least squares": lambda out: gan(out, digits(), dcgan(digits()), "squares"),
    "spectral norm, Fashion-MNIST": lambda out: gan(
        out, fashion(), spectral(convolutional_critic(fashion())), steps=500
    ),
    "no BatchNorm anywhere": lambda out: gan(
        out, digits(), dense((1, 16, 16), norm=False), steps=1500
    ),
    "conditional": lambda out: gan(
        out, digits(), (OfClass(dcgan(digits())[0]), dcgan(digits())[1])
    ),
    "batches of 4": lambda out: ordinary(out, batch=4, steps=800, lr=5e-4),
    "batches of 256": lambda out: ordinary(out, batch=256, steps=160),
    "64 pixels": lambda out: gan(
        out, data.load("shapes", size=64, count=2000, device="cpu"),
        dcgan(data.load("shapes", size=64, count=8, device="cpu"), 4), batch=16, steps=300,
    ),
    "colour": lambda out: gan(out, colour(), dcgan(colour()), steps=400),
    "three classes": lambda out: gan(out, three_classes(), dcgan(digits()), steps=400),
    "ten pictures": lambda out: gan(
        out, some(digits(), range(10), "ten digits"), dcgan(digits()), steps=400
    ),
    "one picture per class": lambda out: gan(
        out, digits(), with_ten(dcgan(digits())), steps=1000, batch=16
    ),
    "D at ½ for ever": lambda out: gan(
        out, digits(), (dcgan(digits())[0], Mute(dcgan(digits())[1])), steps=200
    ),
    "D's optimizer has G's weights": lambda out: gan(
        out, digits(), (pair := dcgan(digits())), d_optimizes=pair[0], steps=200
    ),
    "one row in 50": lambda out: gan(
        out, digits(), dense((1, 16, 16), 128), steps=2000, log_every=50, lr=5e-4
    ),
    "one row in 500": lambda out: gan(
        out, digits(), dense((1, 16, 16), 128), steps=2000, log_every=500, lr=5e-4
    ),
    "stopped": lambda out: ordinary(out, steps=1000, stop=320),
    "resumed": twice(lambda out, stop: ordinary(out, stop=stop), 230),
    "rate 0.03": lambda out: gan(out, fashion(), dcgan(fashion()), lr=0.03, steps=250),
    "D learns 20 times as fast": lambda out: gan(
        out, digits(), dense((1, 16, 16), 128), lr=1e-4, d_lr=2e-3, steps=1200
    ),
    "points on a ring": lambda out: points(out, dense((2,), 96, norm=False), steps=2500),
    "points, harsh rates": lambda out: points(
        out, dense((2,), 96, norm=False), steps=1200, lr=5e-3, betas=(0.9, 0.999)
    ),
    "VAE, Gaussian, σ = 0.2": lambda out: vae(out, digits(), small_vae(), gaussian(0.2)),
    "VAE, colour, σ = 0.1": lambda out: vae(
        out, colour(), small_vae(32, 3, 8), gaussian(0.1), steps=400
    ),
    "VAE, decoder that sees the pixels": lambda out: vae(
        out, digits(), Painter(small_vae()), steps=400
    ),
    "VAE, β = 10": lambda out: vae(out, fashion(), small_vae(28), beta=10.0, steps=300),
    "VAE, no KL term": lambda out: vae(out, digits(), small_vae(), beta=0.0, steps=400),
    "VAE, means": lambda out: vae(out, digits(), small_vae(), mean=True, steps=400),
    "VAE, rate 0.05": lambda out: vae(out, fashion(), small_vae(28), lr=0.05, steps=200),
    "VAE, β grows": lambda out: vae(out, digits(), small_vae(), warm=300),
}


SECOND = {  # made after the doctor was changed for what the first set showed
    "hinge, no BatchNorm, harsh rates": lambda out: gan(
        out, digits(), dense((1, 16, 16), norm=False), "hinge", lr=3e-3, betas=(0.9, 0.999),
        steps=1200,
    ),
    "R1, Fashion-MNIST": lambda out: gan(
        out, fashion(), convolutional_critic(fashion()), r1=1.0, steps=400
    ),
    "saturating loss": lambda out: gan(
        out, digits(), dense((1, 16, 16), 128), "saturating", steps=1500, lr=5e-4
    ),
    "WGAN-GP, three classes": lambda out: gan(
        out, three_classes(), convolutional_critic(digits()), "critic", penalty=10.0, d_steps=3,
        lr=5e-4, betas=(0.0, 0.9), steps=250, seed=1,
    ),
    "points, gentle rates": lambda out: points(
        out, dense((2,), 128, norm=False), steps=3000, lr=3e-4, d_lr=1e-3
    ),
    "64 pixels of colour": lambda out: gan(
        out, data.load(colour().name, size=64, device="cpu"),
        dcgan(data.load("shapes", size=64, count=8, device="cpu"), 4), batch=16, steps=250,
    ),
    "dense, young, Fashion-MNIST": lambda out: gan(
        out, fashion(), dense((1, 28, 28), 64), lr=2e-4, steps=500
    ),
    "no BatchNorm, harsh rates": lambda out: gan(
        out, fashion(), dense((1, 28, 28), norm=False), lr=2e-3, betas=(0.9, 0.999), steps=1200
    ),
    "VAE, σ is learned": lambda out: vae(out, digits(), LearnedWidth(small_vae()), learned_width),
    "VAE, one row in 40": lambda out: vae(out, digits(), small_vae(), steps=800, log_every=40),
    "VAE, stopped": lambda out: vae(out, fashion(), small_vae(28), steps=2000, stop=320),
    "VAE of ten pictures": lambda out: vae(
        out, some(digits(), range(10), "ten digits"), small_vae(), steps=500
    ),
}

THIRD = {  # and after it was changed for the second, and made smaller
    "64 pixels of colour, longer": lambda out: gan(
        out, data.load(colour().name, size=64, device="cpu"), dcgan(shapes(64, 8), 4), batch=16,
        steps=350, lr=5e-4,
    ),
    "least squares, Fashion-MNIST": lambda out: gan(
        out, fashion(), dcgan(fashion()), "squares", steps=300
    ),
    "G learns 10 times as fast": lambda out: gan(
        out, digits(), dense((1, 16, 16)), lr=1e-2, d_lr=1e-3, steps=1200
    ),
    "WGAN-GP of points": lambda out: points(
        out, dense((2,), 96, norm=False), loss="critic", penalty=1.0, d_steps=3, lr=5e-4,
        betas=(0.0, 0.9), steps=1000,
    ),
    "saturating loss, D too strong": lambda out: gan(
        out, digits(), dense((1, 16, 16), 128), "saturating", lr=2e-4, d_lr=3e-3, steps=600
    ),
    "loss halved": lambda out: gan(out, digits(), dcgan(digits()), "halved", lr=7e-4, steps=500),
    "labels of 0.9, Fashion-MNIST": lambda out: gan(
        out, fashion(2_000), dcgan(fashion(), 6), "smooth", steps=350
    ),
    "MNIST, hinge, spectral norm": lambda out: gan(
        out, mnist(), spectral(dcgan(mnist())), "hinge", lr=5e-4, d_lr=2e-3, steps=400
    ),
    "shapes": lambda out: gan(out, shapes(32), dcgan(shapes(32), 6), steps=350, batch=24),
    "X-rays": lambda out: gan(out, xrays(), dcgan(xrays()), lr=5e-4, steps=400),
    "batches of 2": lambda out: ordinary(out, batch=2, steps=1200, lr=3e-4),
    "D four times as fast": lambda out: ordinary(
        out, lr=3e-4, d_lr=1.2e-3, betas=(0.0, 0.99), steps=500
    ),
    "wide": lambda out: gan(out, digits(), dcgan(digits(), 24), lr=4e-4, steps=250),
    "WGAN-GP, Fashion-MNIST, one row in 20": lambda out: gan(
        out, fashion(), convolutional_critic(fashion(), 6), "critic", penalty=10.0, d_steps=2,
        lr=1e-3, betas=(0.0, 0.9), steps=240, log_every=20,
    ),
    "WGAN, clipped hard, rate 0.01": lambda out: gan(
        out, digits(), dense((1, 16, 16)), "critic", clip=0.01, d_steps=2, lr=1e-2, steps=600
    ),
    "hinge, three classes, stopped": lambda out: gan(
        out, three_classes(), dcgan(digits(), 10), "hinge", steps=900, stop=320
    ),
    "fifty pictures": lambda out: gan(
        out, some(digits(), range(50), "fifty digits"), dcgan(digits()), steps=700
    ),
    "not shuffled": lambda out: gan(
        out, Sorted(digits()), dense((1, 16, 16)), steps=1500, batch=16
    ),
    "G learns nothing": lambda out: gan(
        out, digits(), dcgan(digits()), lr=0.0, d_lr=1e-3, steps=300
    ),
    "own logarithms, D fast": lambda out: gan(
        out, digits(), dense((1, 16, 16), 128, norm=False), "naive", lr=1e-4, d_lr=2e-2, steps=800
    ),
    "conditional, Fashion-MNIST, resumed": twice(
        lambda out, stop: gan(
            out, fashion(), (OfClass(dcgan(fashion())[0]), dcgan(fashion())[1]), lr=7e-4,
            steps=350, stop=stop,
        ),
        180,
    ),
    "VAE, β grows, Fashion-MNIST": lambda out: vae(
        out, fashion(), small_vae(28, 1, 8), warm=200, steps=400
    ),
    "VAE, two latents": lambda out: vae(out, digits(), small_vae(z=2), steps=800),
    "VAE, rate 1e-6": lambda out: vae(out, digits(), small_vae(), lr=1e-6, steps=300),
    "VAE, mean of pixels, sum of KL": lambda out: vae(
        out, digits(), small_vae(), mean_of_pixels, steps=400
    ),
    "VAE of shapes, σ = 0.05": lambda out: vae(
        out, shapes(32), small_vae(32, 3, 8, 32), gaussian(0.05), steps=500
    ),
    "VAE, L1": lambda out: vae(out, mnist(), small_vae(28, 1, 8), laplace, steps=500, lr=3e-3),
    "VAE, one row in 100": lambda out: vae(
        out, digits(), small_vae(), steps=900, log_every=100
    ),
}
FOURTH = {  # and after a healthy one of the third was called sick for leaps in its youth
    "D six times as fast, MNIST": lambda out: gan(
        out, mnist(), dcgan(mnist(), 6), lr=2e-4, d_lr=1.2e-3, steps=350
    ),
    "no BatchNorm in D": lambda out: gan(
        out, digits(), convolutional_critic(digits()), lr=7e-4, steps=500
    ),
    "least squares, D four times as fast": lambda out: gan(
        out, digits(), dcgan(digits()), "squares", lr=3e-4, d_lr=1.2e-3, steps=500
    ),
    "hinge, colour": lambda out: gan(out, colour(), dcgan(colour(), 6), "hinge", steps=300),
    "labels of 0.9, batches of 8": lambda out: gan(
        out, digits(), dcgan(digits(), 12), "smooth", batch=8, lr=5e-4, steps=700
    ),
    "Adam's own betas": lambda out: ordinary(out, betas=(0.9, 0.999), lr=5e-4, steps=500),
    "rate 0.02, dense": lambda out: gan(
        out, digits(), dense((1, 16, 16), 96, norm=False), lr=2e-2, steps=700
    ),
    "three classes of clothes": lambda out: gan(
        out, some(fashion(), (fashion().labels % 4 == 1).nonzero()[:, 0]), dcgan(fashion()),
        lr=7e-4, steps=350,
    ),
}
SETS = {"first": FIRST, "second": SECOND, "third": THIRD, "fourth": FOURTH}

# What should be said: one of these, or several, and nothing else. Decided by looking at the last
# samples and at all curves, before the doctor was asked.
YOUNG = ["healthy", "not enough training"]
COLLAPSE = "generator collapsed"
SHOULD = {
    "WGAN, clipped": YOUNG,  # blots, all different
    "WGAN-GP": ["healthy"],
    "WGAN, critic held by nothing": [*YOUNG, "can't tell"],  # scores to 2,000, then calm; blots
    "WGAN-GP, losses only, no samples": ["can't tell"],
    "hinge": ["healthy"],
    "least squares": ["healthy"],
    "spectral norm, Fashion-MNIST": YOUNG,  # blots with a grid, all different
    "no BatchNorm anywhere": YOUNG,  # digits in noise
    "conditional": ["healthy"],
    "batches of 4": ["healthy"],
    "batches of 256": YOUNG,
    "64 pixels": ["not enough training", "learning rate too high"],  # blobs; d_loss to 6
    "colour": YOUNG,  # textures
    "three classes": ["healthy", "can't tell"],
    "ten pictures": ["healthy"],
    "one picture per class": [COLLAPSE],
    "D at ½ for ever": ["learns nothing", COLLAPSE],
    "D's optimizer has G's weights": ["learns nothing", COLLAPSE],
    "one row in 50": ["healthy"],
    "one row in 500": ["can't tell"],
    "stopped": ["healthy"],
    "resumed": ["healthy"],
    "rate 0.03": ["learning rate too high", "not enough training"],  # d_loss to 20
    "D learns 20 times as fast": [  # nearly the same blur 64 times; d_loss to 37
        "discriminator too strong", "learning rate too high", COLLAPSE,
    ],
    "points on a ring": [COLLAPSE],  # one cloud that circles
    "points, harsh rates": [COLLAPSE, "learning rate too high"],  # one edge
    "VAE, Gaussian, σ = 0.2": ["healthy"],
    "VAE, colour, σ = 0.1": ["not enough training"],
    "VAE, decoder that sees the pixels": ["posterior collapse"],
    "VAE, β = 10": [*YOUNG, "KL vanishing"],  # tops, trousers, shoes, all blurred
    "VAE, no KL term": ["codes off the prior"],  # grey clouds
    "VAE, means": ["posterior collapse"],
    "VAE, rate 0.05": ["not a number", "diverged", "learning rate too high"],
    "VAE, β grows": ["healthy"],
    # the second set
    "hinge, no BatchNorm, harsh rates": [COLLAPSE, "learning rate too high"],  # one blot; d_loss 9
    "R1, Fashion-MNIST": YOUNG,  # blots with a grid, all different
    "saturating loss": YOUNG,  # digits in noise
    "WGAN-GP, three classes": ["healthy", "can't tell"],
    "points, gentle rates": ["healthy", "can't tell"],  # seven of eight clouds, four large
    "64 pixels of colour": YOUNG,  # textures, all different
    "dense, young, Fashion-MNIST": ["not enough training"],  # tops in noise
    "no BatchNorm, harsh rates": [  # speckles of three kinds; d_loss to 6
        "discriminator too strong", "learning rate too high", COLLAPSE,
    ],
    "VAE, σ is learned": YOUNG,  # good digits, and a loss that still falls
    "VAE, one row in 40": ["healthy"],
    "VAE, stopped": YOUNG,  # a loss that still falls, no samples yet
    "VAE of ten pictures": ["healthy"],
    # the third set
    "64 pixels of colour, longer": YOUNG,  # textures with a grid, all different
    "least squares, Fashion-MNIST": YOUNG,  # blotched clothes
    "G learns 10 times as fast": [COLLAPSE, "not enough training"],  # one blot of speckles
    "saturating loss, D too strong": [  # one smear; d_loss of 0.001, then leaps to 6
        "discriminator too strong", "learning rate too high", COLLAPSE,
    ],
    "loss halved": ["healthy"],
    "labels of 0.9, Fashion-MNIST": YOUNG,  # clothes of blocks
    "MNIST, hinge, spectral norm": YOUNG,  # broken digits
    "shapes": YOUNG,  # blobs of two colours
    "X-rays": YOUNG,  # blurred chests
    "batches of 2": ["healthy"],
    "D four times as fast": ["healthy"],
    "wide": ["healthy"],
    "WGAN-GP, Fashion-MNIST, one row in 20": YOUNG,  # blots, all different
    "WGAN, clipped hard, rate 0.01": [  # one smear; scores between 0 and 0.1
        COLLAPSE, "not enough training", "learns nothing",
    ],
    "hinge, three classes, stopped": ["healthy", "can't tell"],
    "fifty pictures": ["healthy"],
    "not shuffled": [COLLAPSE, "learning rate too high"],  # noise of three kinds; d_loss to 6
    "G learns nothing": ["discriminator too strong", "learns nothing", COLLAPSE],  # grey noise
    "own logarithms, D fast": ["not a number", "discriminator too strong"],
    "conditional, Fashion-MNIST, resumed": YOUNG,  # clothes of dots
    "WGAN-GP of points": YOUNG,  # all around, clouds not yet
    "VAE, β grows, Fashion-MNIST": YOUNG,
    "VAE, two latents": ["healthy"],
    "VAE, rate 1e-6": ["learns nothing", "not enough training"],  # grey
    "VAE, mean of pixels, sum of KL": ["posterior collapse"],
    "VAE of shapes, σ = 0.05": YOUNG,  # blobs without colour
    "VAE, L1": YOUNG,  # strokes; its KL grows after 250 steps of nothing
    "VAE, one row in 100": ["can't tell", "healthy"],
    # the fourth set
    "D six times as fast, MNIST": [  # blots in a grid; d_loss of 0.001, then up to 8
        "not enough training", "discriminator too strong", "learning rate too high",
    ],
    "no BatchNorm in D": YOUNG,  # ghosts of digits, though D stays near ½
    "least squares, D four times as fast": ["healthy"],
    "hinge, colour": YOUNG,  # textures
    "labels of 0.9, batches of 8": ["healthy"],
    "Adam's own betas": YOUNG,  # blotched digits
    "rate 0.02, dense": [  # one pattern of white and black; d_loss to 300, then 0
        "learning rate too high", "diverged", "discriminator too strong", "learns nothing",
        COLLAPSE,
    ],
    "three classes of clothes": [*YOUNG, "can't tell"],
}


# What was said when a set was asked for the first time, where that is not what is said now: the
# doctor was changed for those that are wrong. Each set is newer than the changes for the last one.
AT_FIRST = {
    "64 pixels": "healthy",
    "points on a ring": "healthy",
    "points, harsh rates": "learning rate too high + generator collapsed",
    "64 pixels of colour": COLLAPSE,
    "D four times as fast": "learning rate too high",
    "not shuffled": "learning rate too high + generator collapsed",
}


def trained(name, make, folder):
    """The folder of a run, or the Run that has none; trained unless it is there."""
    out = folder / "".join(c if c.isalnum() else "_" for c in name)
    if not (out / "done").exists():
        runtime.seed_everything(3 if name in THIRD | FOURTH else 0)
        try:
            run = make(out)
        except UserError as error:
            print(f"{name}: {error}")
            run = None
        if run is not None and run.folder is None:
            return run
        (out / "done").touch()
    return out


def right(said, kind):
    return set(said.split(" + ")) <= set(SHOULD[kind])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/doctor"), help="folder of the runs")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="some of the kinds")
    options = parser.parse_args()
    rows = []
    for held_out, kinds in SETS.items():
        for kind, make in kinds.items():
            if options.only and kind not in options.only:
                continue
            run = trained(kind, make, options.runs)
            history = run.history if isinstance(run, Run) else read_history(run)
            said = " + ".join(doctor(run).names)
            at_first = AT_FIRST.get(kind, said)
            rows.append({
                "set": held_out, "run": kind, "steps": int(history.get("step", [0])[-1]),
                "said at first": at_first, "says now": said,
                "should say": " or ".join(SHOULD[kind]),
                "right at first": right(at_first, kind), "right now": right(said, kind),
            })
            print(f"{kind}: {said}", flush=True)
    print(report.table(rows))
    for held_out in SETS:
        of_set = [row for row in rows if row["set"] == held_out]
        first, now = (sum(row[f"right {when}"] for row in of_set) for when in ("at first", "now"))
        print(f"{held_out} set: {first} of {len(of_set)} right at first, {now} now")
    if not options.only:
        print(report.save("doctor", rows))


if __name__ == "__main__":
    main()
