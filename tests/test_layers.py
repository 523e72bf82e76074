"""The layers that are not a whole network: minibatch discrimination."""

import math

import pytest
import torch

from gencourse import nets


def layer(features=5, kernels=3, dims=2):
    torch.manual_seed(0)
    return nets.MinibatchDiscrimination(features, kernels, dims).double()


def test_minibatch_discrimination_is_the_papers_sum_without_itself_over_the_others():
    net, h = layer(), torch.randn(6, 5, dtype=torch.float64)
    out = net(h)
    tensor = net.project.weight.T.reshape(5, 3, 2)  # the paper's T: features × kernels × dims
    m = torch.einsum("if,fkd->ikd", h, tensor)
    assert out.shape == (6, 8)
    torch.testing.assert_close(out[:, :5], h)
    for i in range(6):
        for b in range(3):
            close = [math.exp(-(m[i, b] - m[j, b]).abs().sum().item()) for j in range(6) if j != i]
            assert out[i, 5 + b].item() == pytest.approx(sum(close) / 5)


def test_copies_are_as_close_as_can_be_and_strangers_are_not():
    net, one = layer(), torch.randn(1, 5, dtype=torch.float64)
    torch.testing.assert_close(net(one.repeat(4, 1))[:, 5:], torch.ones(4, 3, dtype=torch.float64))
    far = net(100 * torch.randn(4, 5, dtype=torch.float64))[:, 5:]
    assert far.max() < 1e-3


def test_a_batch_repeated_twice_is_closer_by_the_share_of_copies_alone():
    """With every sample twice, the mean over others has one copy (1) among 2n − 1."""
    net, h = layer(), torch.randn(4, 5, dtype=torch.float64)
    single, double = net(h)[:, 5:], net(h.repeat(2, 1))[:4, 5:]
    torch.testing.assert_close(double, (1 + 2 * 3 * single) / 7)


def test_order_does_not_matter_and_gradients_are_right():
    net, h = layer(), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(h[order]), net(h)[order])
    torch.autograd.gradcheck(net, (h,))


def test_one_sample_has_no_others():
    with pytest.raises(ValueError, match="2 or more"):
        layer()(torch.zeros(1, 5, dtype=torch.float64))
