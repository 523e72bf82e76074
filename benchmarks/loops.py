"""Ways to look into the course's own loops: pictures and nets of any size, stand-ins for `Run`.

`train_gan` and `train_vae` are timed as they are: `gencourse.train.Run` is replaced, for a while,
by one that also reads the clock, or by one that does nothing but count.
"""

import contextlib
import time

import torch
from report import wait

from gencourse import data, nets, run, runtime, train


def noise_pictures(size, channels, count=4_096):
    """data.Images of random bytes, for where speed is asked and not what can be learnt."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    return data.Images(x, torch.zeros(count, dtype=torch.int64), ["noise"], "noise")


def pictures(name, size, channels):
    """data.load(name, size=size), or noise of that shape for the name "noise"."""
    return noise_pictures(size, channels) if name == "noise" else data.load(name, size=size)


def dcgan(size, channels, width, seed=0):
    """The course's (generator, discriminator), on the CPU, weights drawn from the seed."""
    runtime.seed_everything(seed)
    generator = nets.DCGANGenerator(size, channels, width=width)
    return generator, nets.DCGANDiscriminator(size, channels, width=width)


class Bare:
    """Yields the steps' numbers like `run.Run`, and does nothing else."""

    def __init__(self, folder=None, **ignored):
        self.history = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def steps(self, total):
        yield from range(total)

    def log(self, **scalars):
        pass

    def writes(self):
        return False


class Clocked(run.Run):
    """A Run that notes the seconds of every `block` steps, all that it does itself included."""

    block = 10
    latest = None  # the one made last

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seconds = []  # per step, one number for each block
        Clocked.latest = self

    def steps(self, total):
        began = 0.0
        for step in super().steps(total):
            if step % self.block == 0:
                wait()
                if step:
                    self.seconds.append((time.perf_counter() - began) / self.block)
                began = time.perf_counter()
            yield step


@contextlib.contextmanager
def standing_in(stand_in):
    """Let the training loops use another class in the place of `Run`."""
    usual, train.Run = train.Run, stand_in
    try:
        yield
    finally:
        train.Run = usual


def seconds_per_step(loop, blocks=10, skip=2, block=10):
    """Seconds per step of a training loop, one number for each block of steps.

    loop: function of the number of steps that calls train_gan or train_vae.
    skip: blocks at the beginning that don't count: libraries set up, a CUDA graph is captured.
    """
    with standing_in(type("Clocked", (Clocked,), {"block": block})):
        loop((skip + blocks) * block + 1)
    return Clocked.latest.seconds[skip:]
