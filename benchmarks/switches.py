"""What each switch of the fast step gives alone: added to a plain step, taken from the fast one.

    python benchmarks/switches.py                       # about 4 minutes on 2 cores
    python benchmarks/switches.py --only "DCGAN 28×28 width 16" --rounds 5
    python benchmarks/switches.py --compile             # adds torch.compile: minutes more on a CPU
    python benchmarks/switches.py --data noise          # where Fashion-MNIST can't be had

The step is written out here, once for each model and with a flag for each switch; before anything
is timed, the script asserts that with the course's flags its losses are those of `train_gan` and
`train_vae`, and that the plain step's are the same (what `Run` records besides is no switch; see
costs.py). All variants take turns in one run; a time is
the median over the rounds. Every variant has nets of its own and the same batches.
"""

import argparse
import functools

import report
import torch
from loops import dcgan, noise_pictures, pictures

from gencourse import data, fast, losses, nets, runtime, train

BATCH, LR, BETAS = 64, 1e-3, (0.5, 0.999)
SWITCHES = {  # what it means to have it, and what a step does without it
    "uint8": "pictures as bytes on the device; without: float32 in memory, collected one by one",
    "no_sync": "losses stay on the device; without: four .item() every step",
    "channels_last": "memory layout; without: torch's usual one",
    "bf16": "autocast to bfloat16; without: float32",
    "fused": "one kernel for all of Adam; without: torch's default",
    "one_pass": "G runs once per step; without: again for its own loss",
    "frozen": "D's weights need no gradient in G's step; without: they get one",
    "graph": "one CUDA graph for the whole step; without: a launch for every operation",
    "compiled": "torch.compile of the nets; without: eager",
}
GAN_ONLY = ("one_pass", "frozen")


def make_step(model, images, batch=BATCH, **switches):
    """A function of the step's number that trains the model and returns its losses.

    model: (G, D) or a VAE, on the CPU. batch: pictures per step. switches: names of SWITCHES that
    are on (True).
    """
    device, on = runtime.device(), dict.fromkeys(SWITCHES, False) | switches
    layout = torch.channels_last if on["channels_last"] else torch.preserve_format
    dtype = torch.bfloat16 if on["bf16"] else torch.float32
    models = model if isinstance(model, tuple) else (model,)
    for net in models:
        net.to(device, memory_format=layout).train()
        if on["compiled"]:
            net.compile()
    betas = BETAS if len(models) == 2 else (0.9, 0.999)
    optimizers = [
        torch.optim.Adam(net.parameters(), lr=LR, betas=betas, fused=on["fused"] or None)
        for net in models
    ]
    for optimizer in optimizers:
        fast.prepare_optimizer(optimizer, on["graph"])
    make = gan_step if len(models) == 2 else vae_step
    ema = train.EMA(models[0]) if len(models) == 2 else None
    work = make(*models, *optimizers, lambda: fast.autocast(device, dtype), on)
    if on["graph"]:
        work = fast.Graphed(work)
    fetch = images.batch if on["uint8"] else one_by_one(images)

    def step(number):
        x, z = fetch(number, batch), torch.randn(batch, models[0].z_dim, device=device)
        row = work(x, z)
        if ema:
            ema.update()
        return row if on["no_sync"] else {name: value.item() for name, value in row.items()}

    return step


@functools.cache  # one copy of the floats for all variants
def one_by_one(images):
    """A stand-in for images.batch that collects float32 pictures as a DataLoader would."""
    # One order for both: the host's copy has the same seed, and its indices need no device.
    host = data.Images(images.x.cpu(), images.labels.cpu(), images.classes, "", device="cpu",
                       seed=images.seed)
    floats = host.images(range(len(host)))

    def fetch(number, size):
        chosen = host.indices(number, size).tolist()
        return torch.stack([floats[i] for i in chosen]).to(images.device)

    return fetch


def gan_step(G, D, g_opt, d_opt, autocast, on):
    """(x_real, z) → losses: the step of train_gan with its switches."""

    def work(x_real, z):
        with autocast():
            x_fake = G(z)
            real_logits, fake_logits = D(x_real), D(x_fake.detach())
        real_logits, fake_logits = real_logits.float(), fake_logits.float()
        d_loss = losses.discriminator_loss(real_logits, fake_logits)
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()

        D.requires_grad_(not on["frozen"])
        with autocast():
            again = D(x_fake if on["one_pass"] else G(z))
        g_loss = losses.generator_loss(again.float())
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()
        D.requires_grad_(True)
        return {
            "d_loss": d_loss.detach(),
            "g_loss": g_loss.detach(),
            "d_real": torch.sigmoid(real_logits.detach()).mean(),
            "d_fake": torch.sigmoid(fake_logits.detach()).mean(),
        }

    return work


def vae_step(vae, optimizer, autocast, on):
    """(x, noise) → losses: the step of train_vae with its switches."""

    def work(x, noise):
        with autocast():
            logits, mu, logvar = vae(x, noise)
        mu, logvar = mu.float(), logvar.float()
        nll = losses.bernoulli_nll(logits.float(), (x + 1) / 2)
        loss = losses.negative_elbo(nll, mu, logvar, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kl = losses.kl_to_standard_normal(mu.detach(), logvar.detach()).mean()
        return {"loss": loss.detach(), "nll": nll.detach(), "kl": kl}

    return work


def assert_same_losses(make_model, images, fast_switches, steps=3):
    """The steps here do what the course's loops do, and the plain one learns the same.

    Few steps and 1 %: Adam's first ones are as large for a tiny gradient as for any, so rounding
    grows fast. A run of twice the steps is compared: its rate is constant in the first half.
    """
    usual = {k: v for k, v in fast_switches.items() if k not in ("bf16", "compiled")}
    model = make_model()
    gan = isinstance(model, tuple)
    loop = train.train_gan if gan else train.train_vae
    more = {"precision": "float32", "graph": usual.get("graph", False), "progress": False}
    found = loop(images, *(model if gan else (model,)), steps=2 * steps, batch_size=BATCH,
                 lr=LR, **more)
    history = found[1] if gan else found
    name = "d_loss" if gan else "loss"
    for switches in (usual, {}):
        model = make_model()
        runtime.seed_everything(0)
        step = make_step(model, images, **switches)
        mine = torch.tensor([float(step(number)[name]) for number in range(steps)])
        said = f"{name} of the step with {sorted(switches) or 'no switches'}"
        torch.testing.assert_close(
            mine, torch.tensor(history[name][:steps]), rtol=1e-2, atol=1e-3,
            msg=lambda text, said=said: f"{said} is not the course's: {text}",
        )


def variants(names, with_compile):
    """Name → switches: plain, fast, and each switch added to the one and taken from the other."""
    everything = dict.fromkeys(names, True)
    found = {"plain": {}, "fast": everything}
    for name in names:
        found[f"plain + {name}"] = {name: True}
        found[f"fast − {name}"] = everything | {name: False}
    if with_compile:  # not part of the fast step: it is added to both
        found["plain + compiled"] = {"compiled": True}
        found["fast + compiled"] = everything | {"compiled": True}
    return found


def block_of(step, steps):
    """A function without arguments that does so many further steps."""
    number = 0

    def block():
        nonlocal number
        for _ in range(steps):
            step(number)
            number += 1

    return block


def measure(title, make_model, images, steps, rounds, with_compile):
    """Rows of the table for one model: one for each switch."""
    gan = isinstance(make_model(), tuple)
    names = [n for n in SWITCHES if n != "compiled" and (gan or n not in GAN_ONLY)]
    if runtime.device().type != "cuda":
        names.remove("graph")
    if not report.worthwhile("bfloat16"):
        names.remove("bf16")
    assert_same_losses(make_model, images, dict.fromkeys(names, True))
    blocks = {}
    for name, switches in variants(names, with_compile).items():
        blocks[name] = block_of(make_step(make_model(), images, **switches), steps)
    taken = report.interleave(blocks, rounds)
    times = {k: report.spread([1000 * s / steps for s in v]) for k, v in taken.items()}
    plain, quick = (times[name]["median"] for name in ("plain", "fast"))
    rows = [row(title, "all of these", times["plain"], times["fast"], plain / quick, 1.0)]
    for name in names:
        more, less = times[f"plain + {name}"], times[f"fast − {name}"]
        rows.append(row(title, name, more, less, plain / more["median"], less["median"] / quick))
    if with_compile:
        more, less = times["plain + compiled"], times["fast + compiled"]
        rows.append(row(title, "compiled (added to both)", more, less, plain / more["median"],
                        quick / less["median"]))
    return rows


def row(title, switch, with_it, without, gain, loss):
    """One row; "all of these" has the plain and the fast step themselves in the two columns."""
    return {
        "step": title,
        "switch": switch,
        "plain + it [ms]": with_it["median"],
        "times as fast as plain": gain,
        "fast − it [ms]": without["median"],
        "it speeds fast up by": loss,
        "n": with_it["n"],
        "quartiles": [with_it["low"], with_it["high"], without["low"], without["high"]],
    }


def cases(name):
    """Title → (model maker, images maker, steps in a block)."""
    gpu = runtime.device().type == "cuda"
    grey = pictures(name, 28, 1)
    found = {
        "DCGAN 28×28 width 16": (lambda: dcgan(28, 1, 16), lambda: grey, 50 if gpu else 6),
        "DCGAN 28×28 width 64": (lambda: dcgan(28, 1, 64), lambda: grey, 50 if gpu else 1),
        "VAE 28×28 width 32": (vae, lambda: grey, 50 if gpu else 4),
    }
    if gpu:
        colour = noise_pictures(64, 3)
        found["DCGAN 64×64×3 width 64"] = (lambda: dcgan(64, 3, 64), lambda: colour, 20)
    return found


def vae():
    runtime.seed_everything(0)
    return nets.VAE(28, 1, width=32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="turns of every variant")
    parser.add_argument("--data", default="fashion_mnist", help="28×28 grey, or noise")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: slow to start")
    parser.add_argument("--only", nargs="*", help="titles of the steps to measure")
    arguments = parser.parse_args()
    rows = []
    for title, (make_model, images, steps) in cases(arguments.data).items():
        if not arguments.only or title in arguments.only:
            rows += measure(title, make_model, images(), steps, arguments.rounds,
                            arguments.compile)
            shown = [r for r in rows if r["step"] == title]
            without = [{k: v for k, v in r.items() if k != "quartiles"} for r in shown]
            print(report.table(without), flush=True)
    print(report.machine())
    report.save("switches", rows, batch_size=BATCH, data=arguments.data, switches=SWITCHES)


if __name__ == "__main__":
    main()
