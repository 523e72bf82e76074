"""What the recording for the doctor costs: a training step with it and without, in turns.

    OMP_NUM_THREADS=1 python benchmarks/run_cost.py [--pairs 400]

Both variants train nets of their own from the same weights, on the same batches, one step each in
turn (which goes first alternates), so that a busy machine slows both alike. The steps are those of
`train.train_gan` and `train.train_vae`, line by line; `without` logs the columns that the histories
had before there was a doctor. The diversity of the samples is measured apart: it is taken once per
sample_every steps. Prints the rows of the table in README.md.
"""

import argparse
import statistics
import time

import torch

from gencourse import data, losses, nets, run, runtime, train

BATCH, SAMPLE_EVERY = 64, 500  # the defaults of the loops
WARM_UP = 5  # steps that are not counted


def gan_step(images, record, width=16):
    """A function that does one step of train_gan, and the Run that it logs to."""
    device, layout = runtime.device(), torch.channels_last
    runtime.seed_everything(0)
    size, channels = images.shape[1], images.shape[0]
    G = nets.DCGANGenerator(size, channels, width=width).to(device, memory_format=layout)
    D = nets.DCGANDiscriminator(size, channels, width=width).to(device, memory_format=layout)
    ema = train.EMA(G)
    g_opt = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999), fused=True)
    d_opt = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.999), fused=True)
    logger = run.Run(progress=False)

    def step(number):
        x_real = images.batch(number, BATCH)
        x_fake = G(torch.randn(BATCH, G.z_dim, device=device))
        real_logits, fake_logits = D(x_real), D(x_fake.detach())
        d_loss = losses.discriminator_loss(real_logits, fake_logits)
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()
        D.requires_grad_(False)
        g_loss = losses.generator_loss(D(x_fake))
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        D.requires_grad_(True)
        ema.update()
        more = {}
        if record:
            more = {
                "d_real": torch.sigmoid(real_logits.detach()).mean(),
                "d_fake": torch.sigmoid(fake_logits.detach()).mean(),
                "d_grad": train.gradient_norm(D),
                "g_grad": train.gradient_norm(G),
            }
        logger.log(d_loss=d_loss, g_loss=g_loss, **more)

    return step, logger


def vae_step(images, record, width=32):
    """A function that does one step of train_vae, and the Run that it logs to."""
    device = runtime.device()
    runtime.seed_everything(0)
    vae = nets.VAE(images.shape[1], images.shape[0], width=width)
    vae.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    logger = run.Run(progress=False)

    def step(number):
        x = images.batch(number, BATCH)
        logits, mu, logvar = vae(x)
        nll = losses.bernoulli_nll(logits, (x + 1) / 2)
        loss = losses.negative_elbo(nll, mu, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        more = {}
        if record:
            more = {"active": train.active_units(mu), "grad": train.gradient_norm(vae)}
        kl = losses.kl_to_standard_normal(mu.detach(), logvar.detach()).mean()
        logger.log(loss=loss, nll=nll, kl=kl, **more)

    return step, logger


def seconds(step, number, logger):
    """Seconds of one step; every tenth fetches what was logged, as a run does twice a second.

    On a CPU those that the process computed (of all threads): others may use the machine too.
    """
    clock = time.process_time if runtime.device().type == "cpu" else time.perf_counter
    began = clock()
    step(number)
    if number % 10 == 9:
        pending, logger._pending = logger._pending, []
        list(run._fetch(pending))
    if runtime.device().type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def compare(make, images, pairs):
    """Medians in milliseconds: without, with, and of the differences of the pairs."""
    variants = [make(images, record) for record in (False, True)]
    taken = ([], [])
    for number in range(WARM_UP + pairs):
        for i in (0, 1) if number % 2 else (1, 0):
            step, logger = variants[i]
            taken[i].append(1000 * seconds(step, number, logger))
    without, recorded = (t[WARM_UP:] for t in taken)
    differences = [b - a for a, b in zip(without, recorded, strict=True)]
    return statistics.median(without), statistics.median(recorded), statistics.median(differences)


def diversity_cost(repeats=200):
    """Milliseconds for the diversity of one sheet of 64 pictures."""
    sheet, taken = torch.rand(64, 1, 28, 28), []
    for _ in range(repeats):
        began = time.perf_counter()
        run.diversity(sheet)
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=400, help="steps of each kind")
    parser.add_argument("--data", default="fashion_mnist", help="a data set of 28×28 pictures")
    arguments = parser.parse_args()
    images = data.load(arguments.data, size=28)
    sheet = diversity_cost()
    print(runtime.describe())
    print(f"diversity of one sheet: {sheet:.2f} ms, once in {SAMPLE_EVERY} steps")
    for name, make in (("DCGAN, width 16", gan_step), ("VAE, width 32", vae_step)):
        without, recorded, difference = compare(make, images, arguments.pairs)
        cost = difference + sheet / SAMPLE_EVERY
        print(
            f"| {name} | {without:.2f} | {recorded:.2f} | {cost:+.2f} | "
            f"{cost / without:+.1%} | {arguments.pairs} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
