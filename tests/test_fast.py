"""The fast path: precision, switches, the scaler, graphs. Speed itself is shown in benchmarks/."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from gencourse import data, fast, nets, ranks, runtime, train


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def gan(digits, steps=6, **options):
    """History and weights of a short training from fixed weights."""
    runtime.seed_everything(0)
    G = nets.DCGANGenerator(16, 1, z_dim=8, width=8)
    D = nets.DCGANDiscriminator(16, 1, width=8)
    options = dict(batch_size=32, progress=False) | options
    ema, history = train.train_gan(digits, G, D, steps=steps, **options)
    return history, ema.state_dict()


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "capability, expected",
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_precision_suits_the_device(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert fast.precision(None, torch.device("cuda")) is expected  # a T4 (7.5) only emulates bf16
    assert fast.precision(None, torch.device("cpu")) is torch.float32
    assert fast.precision("bfloat16", torch.device("cpu")) is torch.bfloat16


def test_another_precision_is_refused(digits):
    with pytest.raises(runtime.UserError, match="choose one of float32, bfloat16, float16"):
        gan(digits, precision="fp8")


def test_autocast_lowers_products_and_keeps_weights():
    net, x = nn.Linear(4, 4), torch.randn(2, 4)
    with fast.autocast(torch.device("cpu"), torch.bfloat16):
        assert net(x).dtype is torch.bfloat16
    with fast.autocast(torch.device("cpu"), torch.float32):
        assert net(x).dtype is torch.float32
    assert net.weight.dtype is torch.float32
    widened = [fast.widen(torch.ones(1, dtype=d)).dtype for d in (torch.bfloat16, torch.float64)]
    assert widened == [torch.float32, torch.float64]


# --- speed changes nothing that is learnt ---------------------------------------------------------


def test_layout_and_fused_adam_change_nothing_but_rounding(digits):
    fast_one, weights = gan(digits)
    plain_one, plain = gan(digits, channels_last=False, fused=False)
    for name in ("d_loss", "g_loss"):
        torch.testing.assert_close(
            torch.tensor(fast_one[name]), torch.tensor(plain_one[name]), rtol=5e-3, atol=1e-3
        )
    assert fast_one["d_loss"][0] == pytest.approx(plain_one["d_loss"][0], rel=1e-6)


@pytest.mark.parametrize("precision, bits", [("bfloat16", 8), ("float16", 11)])
def test_few_bits_change_the_first_loss_by_their_rounding(digits, precision, bits):
    few, _ = gan(digits, steps=1, precision=precision)
    full, _ = gan(digits, steps=1)
    difference = abs(few["d_loss"][0] - full["d_loss"][0]) / full["d_loss"][0]
    assert 0 < difference < 4 * 2**-bits


def test_bfloat16_learns_what_float32_learns(digits):
    few, _ = gan(digits, precision="bfloat16")
    full, _ = gan(digits)
    for name in ("d_loss", "g_loss"):
        torch.testing.assert_close(
            torch.tensor(few[name]), torch.tensor(full[name]), rtol=0.2, atol=0.05
        )


def test_vae_and_classifier_in_few_bits(digits):
    def run(precision):
        runtime.seed_everything(0)
        vae, judge = nets.VAE(16, 1, z_dim=4, width=8), nets.Classifier(16, 1, width=8)
        options = dict(steps=4, precision=precision, progress=False)
        elbo = train.train_vae(digits, vae, **options)["loss"]
        return elbo + train.train_classifier(digits, judge, **options)["loss"]

    torch.testing.assert_close(
        torch.tensor(run("bfloat16")), torch.tensor(run("float32")), rtol=0.02, atol=0.02
    )


def test_compile_is_asked_of_every_net(digits, monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: asked.append(type(self).__name__))
    monkeypatch.setattr(fast, "check_compile", lambda: None)  # there may be no compiler here
    gan(digits, steps=1, compile=True)
    assert asked == ["DCGANGenerator", "DCGANDiscriminator"]


def test_a_frozen_discriminator_gives_the_generator_the_same_gradient():
    torch.manual_seed(0)
    G, D = nets.DCGANGenerator(16, 1, width=4), nets.DCGANDiscriminator(16, 1, width=4)
    z, gradients = torch.randn(8, 64), []
    for freeze in (False, True):
        D.requires_grad_(not freeze)
        G.zero_grad()
        nn.functional.softplus(-D(G(z))).mean().backward()
        gradients.append([p.grad.clone() for p in G.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


# --- the scaler -----------------------------------------------------------------------------------


def test_float16_resumes_bit_for_bit_with_its_scale(digits, tmp_path):
    straight, weights = gan(digits, steps=8, precision="float16")
    states = []

    class Stop(Exception):
        pass

    def stop(*models):
        states.append(1)
        if len(states) == 10:  # in the fifth step
            raise Stop

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Stop):
        patch.setattr(ranks, "average_gradients", stop)
        gan(digits, steps=8, precision="float16", out=tmp_path, checkpoint_every=4)
    assert torch.load(tmp_path / "checkpoint-00000004.pt")["state"]["parts"]["scaler"]["scale"] > 1
    resumed, again = gan(digits, steps=8, precision="float16", out=tmp_path)
    assert resumed["d_loss"] == straight["d_loss"]
    assert all(torch.equal(weights[k], again[k]) for k in weights)


@pytest.mark.parametrize("first, then", [("float32", "float16"), ("float16", "bfloat16")])
def test_a_run_goes_on_in_another_precision(digits, tmp_path, first, then):
    with contextlib.suppress(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        plain = train.learning_rate

        def rate(step, *rest):
            if step == 2:
                raise KeyboardInterrupt
            return plain(step, *rest)

        patch.setattr(train, "learning_rate", rate)
        gan(digits, steps=4, precision=first, out=tmp_path, checkpoint_every=2)
    history, _ = gan(digits, steps=4, precision=then, out=tmp_path)
    assert history["step"] == [1, 2, 3, 4]


def test_a_gradient_that_overflows_skips_the_step_and_halves_the_scale():
    device = torch.device("cpu")
    scaler, net = fast.Scaler(device, torch.float16), nn.Linear(1, 1)
    optimizer, before = torch.optim.Adam(net.parameters(), fused=True), net.weight.detach().clone()
    length = train.descend(net(torch.tensor([[1e36]])).sum() * 1e3, net, optimizer, scaler)
    scaler.update()
    assert torch.equal(net.weight, before) and scaler.get_scale() == 2.0**7
    assert torch.isfinite(length)  # the history must not end the run: the scaler deals with it
    assert fast.Scaler(device, torch.bfloat16).scale(torch.tensor(3.0)) == 3.0


# --- graphs ---------------------------------------------------------------------------------------


class Toy:
    """A weight that walks by what it is given; the step returns where it was and is."""

    def __init__(self):
        self.weight, self.runs = torch.zeros(()), 0

    def step(self, x):
        self.runs += 1
        before = self.weight.clone()
        self.weight.add_(x.sum())
        return {"before": before, "after": self.weight}


@pytest.fixture
def pretended_cuda(monkeypatch):
    """torch.cuda's graphs on a CPU: a capture leaves no trace, a replay runs the step."""
    toy, graphed = Toy(), []

    class Graph:
        def replay(self):
            row = toy.step(*graphed[0].inputs)
            graphed[0].values.copy_(torch.stack(list(row.values())))

    @contextlib.contextmanager
    def capture(graph):
        weight, runs = copy.deepcopy(toy.weight), toy.runs
        yield
        toy.weight.copy_(weight)
        toy.runs = runs

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    graphed.append(fast.Graphed(toy.step, warm_up=2))
    return toy, graphed[0]


def test_a_graphed_step_takes_every_step_once_with_its_own_inputs(pretended_cuda):
    toy, graphed = pretended_cuda
    rows = [graphed(torch.full((3,), float(i))) for i in range(6)]
    assert toy.runs == 6 and float(toy.weight) == 3 * (0 + 1 + 2 + 3 + 4 + 5)
    assert [float(row["before"]) for row in rows[2:]] == [3.0, 9.0, 18.0, 30.0]
    assert float(rows[3]["after"]) == 18.0  # not overwritten by the replays after it


def test_a_graph_is_refused_without_cuda_and_before_anything_is_deleted(digits, tmp_path, no_cuda):
    gan(digits, steps=1, out=tmp_path)
    there = sorted(tmp_path.iterdir())
    with pytest.raises(runtime.UserError, match="needs a CUDA device"):
        gan(digits, graph=True, out=tmp_path, fresh=True)
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize("graph", [True, False])
def test_optimizers_go_into_a_graph_and_out_of_it(graph):
    net = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    fast.prepare_optimizer(optimizer, graph=not graph)
    other = torch.optim.Adam(net.parameters(), lr=0.3)
    other.load_state_dict(optimizer.state_dict())  # a checkpoint brings its own settings
    fast.prepare_optimizer(other, graph)
    train.set_learning_rate(0.2, other)
    (group,) = other.param_groups
    assert group["capturable"] is graph and isinstance(group["lr"], torch.Tensor) is graph
    assert float(group["lr"]) == pytest.approx(0.2)


# --- memory ---------------------------------------------------------------------------------------


def test_a_gradient_keeps_the_layout_of_the_maps_it_goes_back_to():
    """Else activations before the last layer meet two layouts, which is ten times as slow."""
    layout, seen = torch.channels_last, []
    D = nets.DCGANDiscriminator(16, 1, width=4).to(memory_format=layout)
    x = torch.randn(4, 1, 16, 16)
    maps = D.body[:-2](x)
    maps.register_hook(lambda g: seen.append(g.is_contiguous(memory_format=layout)))
    D.body[-2:](maps).sum().backward()
    assert maps.is_contiguous(memory_format=layout) and seen == [True]
    expected = [p.grad.clone() for p in D.parameters()]
    plain = nn.Sequential(*D.body[:-2], nn.Flatten(), D.body[-1])
    plain.zero_grad()
    plain(x).sum().backward()
    for mine, theirs in zip(expected, plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.grad)
