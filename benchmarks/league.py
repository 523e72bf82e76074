"""Trains what chapters 07, 09 and 10 share, so that their builds find it: `tools/build.py --runs`.

    GENCOURSE_RUNS=FOLDER python benchmarks/league.py [--seeds 0 1 2]

The calls are the chapters' own, with the sizes of the present profile: on a GPU some minutes, in
the `cpu` profile more than half an hour. What is finished already is not trained again.
"""

import argparse
import time

from gencourse import data, nets, runtime, train

WIDTH = runtime.budget(smoke=8, cpu=16, gpu=64)
DENSE = runtime.budget(smoke=64, cpu=128, gpu=256)
VAE_WIDTH = runtime.budget(smoke=8, cpu=32, gpu=64)
GAN_STEPS = runtime.budget(smoke=16, cpu=6_000, gpu=18_000)
VAE_STEPS = runtime.budget(smoke=16, cpu=8_000, gpu=18_000)
DATA = runtime.budget(smoke="digits", cpu="fashion_mnist", gpu="fashion_mnist")


def play(images, name, seed):
    """Train one entry of the league in its folder."""
    channels, size, _ = images.shape
    common = {"seed": seed, "out": runtime.run_folder(f"league/{name}-{seed}"), "progress": False}
    runtime.seed_everything(seed)
    if name == "vae":
        vae = nets.VAE(size, channels, z_dim=24, width=VAE_WIDTH)
        return train.train_vae(images, vae, steps=VAE_STEPS, batch_size=64, **common)
    if name == "dcgan":
        G = nets.DCGANGenerator(size, channels, z_dim=64, width=WIDTH)
        D, more = nets.DCGANDiscriminator(size, channels, width=WIDTH), {}
    else:
        G = nets.DenseGenerator(images.shape, z_dim=64, width=DENSE)
        D, more = nets.DenseDiscriminator(images.shape, width=DENSE), {"lr": 2e-4}
    return train.train_gan(images, G, D, steps=GAN_STEPS, batch_size=64, **common, **more)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    images = data.load(DATA)
    for seed in arguments.seeds:
        for name in ("dcgan", "dense", "vae"):
            began = time.perf_counter()
            play(images, name, seed)
            print(f"{name}-{seed}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
