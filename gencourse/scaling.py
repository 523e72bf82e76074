"""What a training step costs at least, on one device and on several: chapter 14's arithmetic.

Nothing here is measured. On one device: the floating-point operations (FLOPs) and the memory
traffic of a DCGAN's step, layer by layer, and the least time they take. On several: what it takes
to sum the gradients, and BatchNorm's statistics, over all of them.
"""

import math

import torch
from torch import nn

from gencourse import nets

# FLOP/s in float32 and in 16 bits, bytes/s of memory: NVIDIA's data sheets, dense, never reached.
MACHINES = {"T4": (8.1e12, 65e12, 320e9), "H200": (67e12, 989e12, 4.8e12)}

# NCCL's three ways to send a message: about which share of the link's rate, and seconds to start.
# These and the hops below: github.com/NVIDIA/nccl, src/graph/tuning.cc, June 2026.
PROTOCOLS = {"LL": (0.5, 6.6e-6), "LL128": (0.92, 14e-6), "Simple": (1.0, 8.4e-6)}
NETWORK = {
    "ring": {"LL": 2.7e-6, "LL128": 4.0e-6, "Simple": 14e-6},
    "tree": {"LL": 5.0e-6, "LL128": 8.5e-6, "Simple": 14e-6},
}
# rate: bytes/s in one direction for each device; seconds of one hop in a ring and in a tree, by
# protocol; most: how many devices such links can join.
LINKS = {
    "NVLink 4, inside one machine": {
        "rate": 450e9,  # NVIDIA H200: 900 GB/s, both directions together
        "most": 8,
        "ring": {"LL": 0.6e-6, "LL128": 1.9e-6, "Simple": 3.4e-6},  # NCCL's tree is a chain there
    },
    "InfiniBand NDR, 400 Gb/s": {"rate": 50e9, "most": math.inf, **NETWORK},
    "Ethernet, 100 Gb/s": {"rate": 12.5e9, "most": math.inf, **NETWORK},
    "Ethernet, 10 Gb/s": {"rate": 1.25e9, "most": math.inf, **NETWORK},
}


# One device ---------------------------------------------------------------------------------------


def flops(layer, x, y):
    """FLOPs of one forward pass of a layer, x → y, both (B, …): int. A multiply-add counts as two.

    For BatchNorm and activations, a few per number.
    """
    if isinstance(layer, nn.Conv2d):
        return 2 * layer.kernel_size[0] ** 2 * layer.in_channels * y.numel()
    if isinstance(layer, nn.ConvTranspose2d):
        return 2 * layer.kernel_size[0] ** 2 * layer.out_channels * x.numel()
    if isinstance(layer, nn.Linear):
        return 2 * layer.in_features * y.numel()
    if isinstance(layer, nn.Flatten | nn.Unflatten):
        return 0
    return (4 if isinstance(layer, nn.BatchNorm2d) else 1) * y.numel()


def moved(layer, x, y, forward, inputs, weights):
    """Numbers that must travel between memory and processor: int.

    forward, inputs, weights: how often the output, the input's gradient and the weights' gradient
        are computed. Each touches x, w and y once. A layer without products reads and writes y's
        numbers: BatchNorm 3 n forward and 5 n backward, an activation 2 n and 3 n.
    """
    if isinstance(layer, nn.Flatten | nn.Unflatten):
        return 0  # only the shape is renamed
    if isinstance(layer, nn.BatchNorm2d):
        return (3 * forward + 5 * inputs) * y.numel()
    if w := sum(p.numel() for p in layer.parameters()):
        return (forward + inputs + weights) * (x.numel() + w + y.numel())
    return (2 * forward + 3 * inputs) * y.numel()


def account(size, channels, width, batch, z_dim=64):
    """What one step of a DCGAN computes and moves: a list with a dict for each layer.

    Only what is needed: G runs once; D runs three times (real, generated, and again in G's turn),
    and its weights get no gradient in G's turn. Each dict: net ("G" or "D"), layer, products
    (whether it multiplies by weights), flops, moved [numbers]; the last of each net is Adam's.
    """
    rows = []
    with torch.device("meta"), torch.no_grad():  # tensors with a shape and no content
        G = nets.DCGANGenerator(size, channels, z_dim, width)
        D = nets.DCGANDiscriminator(size, channels, width)
        z, x_real = torch.empty(batch, z_dim), torch.empty(batch, channels, size, size)
        # forward, input's gradient, weights' gradient; of the first layer: z needs no gradient,
        # and the picture needs one in G's turn only.
        for name, net, x, passes, first in (
            ("G", G, z, (1, 1, 1), (1, 0, 1)),
            ("D", D, x_real, (3, 3, 2), (3, 1, 2)),
        ):
            for i, layer in enumerate(net.body):
                y = layer(x)
                forward, inputs, weights = first if i == 0 else passes
                products = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
                times = forward + inputs + (weights if products else 0)
                row = {"net": name, "layer": type(layer).__name__, "products": products}
                row["flops"] = flops(layer, x, y) * times
                row["moved"] = moved(layer, x, y, forward, inputs, weights)
                rows.append(row)
                x = y
            n = sum(p.numel() for p in net.parameters())
            # p, m, v read and written, the gradient read
            row = {"net": name, "layer": "Adam", "products": False}
            rows.append(row | {"flops": 12 * n, "moved": 7 * n})
    return rows


def floor(rows, pi, beta, number_bytes=4):
    """Least seconds for rows of `account`: layer after layer the larger of its two times.

    pi: FLOP/s; beta: bytes/s; number_bytes: 4, or 2 where all is counted in 16 bits.
    Source: Williams et al. 2009, doi:10.1145/1498765.1498785, for single layers.
    """
    return sum(max(r["flops"] / pi, number_bytes * r["moved"] / beta) for r in rows)


# Several devices ----------------------------------------------------------------------------------


def ring_seconds(size, n, rate, hop=0.0):
    """Seconds to sum `size` bytes over n devices in a ring: 2 (n − 1) pieces of size / n each.

    rate: bytes/s in one direction. hop: seconds until a piece begins to arrive.
    Source: Patarasu and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002.
    """
    return 2 * (n - 1) * (size / n / rate + hop)


def tree_seconds(size, n, rate, hop):
    """The same up and down a tree: log₂ n hops each way, and the whole message over each link."""
    return 2 * (size / rate + math.ceil(math.log2(n)) * hop)


def all_reduce_seconds(size, n, link):
    """Seconds to sum `size` bytes over n devices: by the fastest of ring, tree and `PROTOCOLS`.

    link: a value of LINKS; all hops are of its kind.
    """
    if n == 1:
        return 0.0
    ways = {"ring": ring_seconds, "tree": tree_seconds}
    return min(
        start + way(size, n, share * link["rate"], link[name][protocol])
        for name, way in ways.items()
        if name in link
        for protocol, (share, start) in PROTOCOLS.items()
    )


def batch_norm_messages(generator, discriminator):
    """How many sums over all devices synchronised BatchNorm needs in a step: int.

    One in each forward and one in each backward pass of a layer: G runs once, D three times (real,
    generated, and generated again for G), and each of these passes goes back once.
    """
    layers = [
        sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
        for net in (generator, discriminator)
    ]
    return 2 * (layers[0] + 3 * layers[1])


def step_seconds(compute, gradients, n, link, batch_norms=0):
    """Seconds of a step on n devices. Nothing overlaps: first compute, then the messages.

    compute: seconds of each device's own work. gradients: bytes of each message of gradients.
    batch_norms: how many of BatchNorm's messages; each has a few kB, and it is the hops that count.
    """
    seconds = compute + sum(all_reduce_seconds(size, n, link) for size in gradients)
    return seconds + batch_norms * all_reduce_seconds(4_096, n, link)
