"""The arithmetic of a step on one device and on several; nothing is timed."""

import pytest
import torch

from gencourse import losses, nets, scaling

QUICK = {"LL": 1e-6, "LL128": 1e-6, "Simple": 1e-6}


def counted_by_torch(size, channels, width, batch):
    """FLOPs of the products of one whole step, as torch counts them while it runs."""
    from torch.utils.flop_counter import FlopCounterMode

    G = nets.DCGANGenerator(size, channels, 64, width)
    D = nets.DCGANDiscriminator(size, channels, width)
    x = torch.zeros(batch, channels, size, size)
    with FlopCounterMode(display=False) as counter:
        x_fake = G(torch.randn(batch, 64))
        losses.discriminator_loss(D(x), D(x_fake.detach())).backward()
        D.requires_grad_(False)
        losses.generator_loss(D(x_fake)).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("case", [(16, 1, 4, 8), (28, 1, 8, 4), (64, 3, 4, 2)])
def test_flops_are_those_that_torch_counts(case):
    rows = scaling.account(*case)
    assert sum(r["flops"] for r in rows if r["products"]) == counted_by_torch(*case)


def test_the_floor_lies_between_its_parts():
    rows = scaling.account(28, 1, 8, 16)
    arithmetic = sum(r["flops"] for r in rows) / 1e12
    memory = 4 * sum(r["moved"] for r in rows) / 1e11
    assert max(arithmetic, memory) <= scaling.floor(rows, 1e12, 1e11) <= arithmetic + memory
    adam = [r["moved"] for r in rows if r["layer"] == "Adam"]
    nets_ = nets.DCGANGenerator(28, 1, 64, 8), nets.DCGANDiscriminator(28, 1, 8)
    assert adam == [7 * sum(p.numel() for p in net.parameters()) for net in nets_]


def test_one_message_between_two_devices():
    link = {"rate": 1e9, "most": 64, "ring": QUICK}
    start = min(s for _, s in scaling.PROTOCOLS.values())
    simple = scaling.PROTOCOLS["Simple"][1]
    # 1 MB: the protocol with the full rate; half there, half back
    seconds = scaling.all_reduce_seconds(1e6, 2, link)
    assert seconds == pytest.approx(simple + 2 * (0.5e6 / 1e9 + 1e-6))
    assert scaling.all_reduce_seconds(1e6, 1, link) == 0
    # 4 bytes over 64 devices: the one that starts soonest, and a tree: 12 hops instead of 126
    seconds = scaling.all_reduce_seconds(4, 64, link | {"tree": QUICK})
    assert seconds == pytest.approx(start + 12e-6, rel=0.01)


def test_faster_links_are_faster():
    times = [scaling.all_reduce_seconds(3e7, 8, link) for link in scaling.LINKS.values()]
    assert times == sorted(times)
    times = [scaling.step_seconds(0.001, [3e7, 1e7], 8, k, 26) for k in scaling.LINKS.values()]
    assert times == sorted(times)


def test_synchronised_batch_norm_sends_once_each_way():
    pair = nets.DCGANGenerator(64, 3, width=4), nets.DCGANDiscriminator(64, 3, width=4)
    assert scaling.batch_norm_messages(*pair) == 2 * (4 + 3 * 3)
    link = scaling.LINKS["Ethernet, 10 Gb/s"]
    with_it, without = (scaling.step_seconds(0.0, [], 4, link, n) for n in (26, 0))
    assert with_it == 26 * scaling.all_reduce_seconds(4_096, 4, link) and without == 0
