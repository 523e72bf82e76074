"""Nets rebuilt from the files that runs leave, and those that come with the course."""

import json

import pytest
import ship
import torch
from safetensors.torch import save

from gencourse import data, nets, train

SHIPPED = sorted(path.stem for path in nets.WEIGHTS.glob("*.safetensors"))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def trained(kind, digits, folder):
    """A barely trained net of odd sizes, and the file that its run left."""
    shape, run = digits.shape, {"steps": 2, "batch_size": 8, "out": folder, "progress": False}
    if kind == "VAE":
        net = nets.VAE(16, 1, z_dim=7, width=5)
        train.train_vae(digits, net, **run)
        return net, folder / "vae.safetensors", torch.randn(3, 7)
    if kind == "Classifier":
        net = nets.Classifier(16, 1, width=5)
        train.train_classifier(digits, net, **run)
        return net, folder / "classifier.safetensors", digits.batch(0, 3).cpu()
    if kind == "DCGANGenerator":
        pair = nets.DCGANGenerator(16, 1, 9, 6), nets.DCGANDiscriminator(16, 1, 4)
    else:
        pair = nets.DenseGenerator(shape, 9, 6), nets.DenseDiscriminator(shape, 4)
    net, _ = train.train_gan(digits, *pair, **run)
    return net, folder / "generator.safetensors", torch.randn(3, 9)


@pytest.mark.parametrize("kind", ["DCGANGenerator", "DenseGenerator", "VAE", "Classifier"])
def test_a_net_is_rebuilt_with_the_sizes_it_had(kind, digits, tmp_path):
    net, path, given = trained(kind, digits, tmp_path)
    again = nets.load(path)
    assert type(again).__name__ == kind and not again.training
    assert again.settings["data"] == "digits" and again.settings["steps"] == 2
    apply = (lambda n: n.cpu().sample(given)) if kind == "VAE" else (lambda n: n.cpu()(given))
    torch.testing.assert_close(apply(again), apply(net))


def test_fewer_bits_come_back_as_single_and_draw_the_same(tmp_path):
    torch.manual_seed(0)
    net = nets.VAE(28, 1, z_dim=7, width=16)
    tensors, settings = net.state_dict(), {"settings": json.dumps({"shape": [1, 28, 28]})}
    small = ship.shrink(tensors)
    assert {t.dtype for t in small.values()} == {torch.int8, torch.float16}
    path = tmp_path / "vae.safetensors"
    path.write_bytes(save(small, settings))
    assert path.stat().st_size < 0.4 * 4 * sum(t.numel() for t in tensors.values())
    again, z = nets.load(path), torch.randn(20, 7)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    torch.testing.assert_close(again.decode(z), net.decode(z), atol=2e-3, rtol=0.01)
    assert not torch.equal(again.decode(z), net.decode(z))


def test_convolutions_come_back_from_8_bits_too():
    torch.manual_seed(0)
    net = nets.Classifier(16, 3, width=8)
    small = ship.shrink(net.state_dict(), 1_000)
    wide = small["body.4.weight"]
    assert wide.dtype == torch.int8 and small["body.4.weight.scale"].shape == (16, 1, 1, 1)
    back = wide.float() * small["body.4.weight.scale"].float()
    torch.testing.assert_close(back, net.state_dict()["body.4.weight"], atol=1e-3, rtol=0)


def test_a_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"a": torch.zeros(2)}))
    with pytest.raises(ValueError, match="x.safetensors holds none of the course"):
        nets.load(path)
    with pytest.raises(ValueError, match="No net 'nobody' is shipped"):
        nets.shipped("nobody")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_net_loads_and_has_a_card(name):
    net = nets.shipped(name)
    assert all(p.isfinite().all() for p in net.parameters())
    assert name in (nets.WEIGHTS / "README.md").read_text(encoding="utf-8")


def test_what_is_shipped_is_small():
    sizes = {path.name: path.stat().st_size for path in nets.WEIGHTS.glob("*.safetensors")}
    assert sum(sizes.values()) <= 5_000_000, sizes
