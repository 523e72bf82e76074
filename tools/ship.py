"""Put a trained net among the weights that the course ships, made small.

    python tools/ship.py runs/cpu/league/vae-0/vae.safetensors vae_fashion_mnist
    python tools/ship.py runs/classifier-cifar10/classifier.safetensors judge_cifar10 10_000

Weights of at least 100,000 numbers (or as many as the third argument says) are stored in 8 bits,
row by row with a float16 scale each (`NAME.scale`), everything else in float16; `nets.load` turns
both back into float32. Prints how much the file shrank.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load, save

from gencourse.checkpoint import write_atomically
from gencourse.nets import WEIGHTS

LARGE = 100_000  # numbers from which 8 bits pay


def shrink(tensors, large=LARGE):
    """state_dict → the same with fewer bits: 8 in weights of at least `large` numbers, else 16."""
    small = {}
    for name, tensor in tensors.items():
        if tensor.ndim >= 2 and tensor.numel() >= large:
            rest = tuple(range(1, tensor.ndim))  # a row: all that makes one output
            scale = (tensor.abs().amax(dim=rest, keepdim=True) / 127).clamp(min=1e-7).half()
            small[name] = (tensor / scale.float()).round().clamp(-127, 127).to(torch.int8)
            small[f"{name}.scale"] = scale
        else:
            small[name] = tensor.half() if tensor.is_floating_point() else tensor
    return small


if __name__ == "__main__":
    source, name = Path(sys.argv[1]), sys.argv[2]
    large = int(sys.argv[3]) if len(sys.argv) > 3 else LARGE
    content = source.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    target = WEIGHTS / f"{name}.safetensors"
    write_atomically(target, save(shrink(load(content), large), header["__metadata__"]))
    print(f"{target.name}: {len(content):,} → {target.stat().st_size:,} bytes")
