"""pretend_cuda itself: that it refuses what a GPU refuses, and computes what the CPU computes."""

import contextlib
import copy
import io
import os
import warnings

import numpy as np
import pretend_cuda
import pytest
import torch
import torch.nn.functional as F
from pretend_cuda import on
from torch import nn

pytestmark = pytest.mark.usefixtures("forks")
SAME_DEVICE = "Expected all tensors to be on the same device"


def refuses(function, text, kind=RuntimeError):
    with pytest.raises(kind) as error:
        function()
    assert text in str(error.value)


@on("T4")
def test_mixed_devices_are_refused_but_for_a_number():
    a, b = torch.randn(3, device="cuda"), torch.randn(3)
    for mixed in (
        lambda: a + b, lambda: b + a, lambda: torch.cat([a, b]), lambda: torch.stack([a, b]),
        lambda: a.add_(b), lambda: b.add_(a), lambda: F.linear(a[None], b[None]),
        lambda: b * a.sum(), lambda: torch.where(a > 0, a, b), lambda: b.sum().add_(a.sum()),
        lambda: torch.stack([a.sum(), b.sum()]), lambda: nn.Linear(3, 1)(a),
    ):
        refuses(mixed, SAME_DEVICE)
    assert (a + b.sum()).is_cuda and (b.sum() + a).is_cuda and (a * 2).is_cuda
    refuses(lambda: torch.zeros(1, device="cuda:1"), "invalid device ordinal")


def test_shapes_without_numbers_whatever_was_asked_before():
    """torch remembers which functions obey `with torch.device`, from the first time it is asked."""
    with torch.device("meta"):
        assert torch.tensor(1.0).is_meta

    @on("T4")
    def afterwards():
        with torch.device("meta"):
            net = nn.BatchNorm2d(3)
        assert net.num_batches_tracked.shape == () and net.weight.shape == (3,)
        with torch.device("cuda"):
            assert torch.tensor([1.0, 2.0]).tolist() == [1, 2] and torch.tensor(1.0).is_cuda
        assert torch.tensor(1.0).is_cpu

    afterwards()


@on("T4")
def test_indices():
    a, i = torch.arange(6, device="cuda").float(), torch.tensor([0, 2])
    assert a[i].tolist() == [0, 2] and a[i].is_cuda and a[i.cuda()].is_cuda and a[[0, 1]].is_cuda
    refuses(lambda: torch.arange(6)[i.cuda()], "indices should be")
    a[i] = torch.tensor(3.0)
    assert a.tolist()[0] == 3
    refuses(lambda: a.__setitem__(i, torch.tensor([1.0, 2.0])), SAME_DEVICE)
    refuses(lambda: a.gather(0, i), SAME_DEVICE)
    refuses(lambda: a.index_select(0, i), SAME_DEVICE)
    a[:2] = torch.tensor([1.0, 2.0])  # a copy
    assert a.tolist()[:2] == [1, 2] and a[a > 2].is_cuda


@on("T4")
def test_numpy_is_refused_and_numbers_come_back():
    a = torch.ones(2, 2, device="cuda")
    import matplotlib.pyplot as plt

    for f in (a.numpy, lambda: np.asarray(a), lambda: np.array(a), lambda: plt.imshow(a),
              lambda: plt.plot(a[0])):
        refuses(f, "can't convert cuda:0 device type tensor to numpy", TypeError)
    assert a.cpu().numpy().sum() == 4 and a.sum().item() == 4 and f"{a.mean():.2f}" == "1.00"
    assert not torch.from_numpy(np.ones(2)).is_cuda and torch.tensor([1.0], device="cuda").is_cuda
    assert torch.as_tensor(np.ones(3), device="cuda").is_cuda and torch.as_tensor(a) is a
    assert int(a.sum()) == 4 and bool((a > 0).all()) and [float(x) for x in a[0]] == [1, 1]
    assert all(row.is_cuda for row in a) and range(3)[torch.tensor(1, device="cuda")] == 1


@on("T4")
def test_modules_move_and_stay_the_same_objects():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                        nn.Dropout(0.5), nn.Linear(4 * 36, 1))
    before = list(net.parameters())
    assert net.to("cuda", memory_format=torch.channels_last) is net
    for old, new in zip(before, net.parameters(), strict=True):
        assert old is new and new.is_cuda and new.requires_grad and isinstance(new, nn.Parameter)
    assert all(b.is_cuda for b in net.buffers())
    refuses(lambda: net(torch.randn(2, 1, 8, 8)), SAME_DEVICE)
    net(torch.randn(2, 1, 8, 8).cuda()).mean().backward()
    assert net[0].weight.grad.is_cuda
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[0].weight.zero_()
    assert isinstance(other[0].weight, nn.Parameter) and float(net[0].weight.abs().sum()) > 0
    assert not next(net.to("cpu").parameters()).is_cuda
    x = torch.randn(3).cuda()
    assert x.to("cuda") is x and x.to(torch.float32) is x and x.to(torch.randn(2).cuda()) is x
    assert torch.zeros_like(x).is_cuda and x.new_zeros(2).is_cuda and torch.randn(2).to(x).is_cuda


@on("H100")
def test_generators_and_random_numbers_are_the_devices_own():
    g = torch.Generator(device="cuda").manual_seed(1)
    assert torch.randn(3, device="cuda", generator=g).is_cuda
    for f in (
        lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
        lambda: torch.randn(3, generator=g),
        lambda: torch.randperm(3, device="cuda", generator=torch.Generator()),
        lambda: torch.ones(3, device="cuda").multinomial(2, generator=torch.Generator()),
    ):
        refuses(f, "device type for generator")

    def draw():
        torch.manual_seed(0)
        return torch.randn(2), torch.randn(2, device="cuda")

    (a, b), _ = draw(), torch.randn(2, device="cuda")
    torch.manual_seed(0)
    again = torch.randn(2, device="cuda"), torch.randn(2)  # in the other order
    assert torch.equal(b, again[0]) and torch.equal(a, again[1])
    assert not torch.cuda._is_in_bad_fork()  # else no seed would reach CUDA
    kept = torch.cuda.get_rng_state("cuda")
    x = torch.rand(3, device="cuda")
    torch.cuda.set_rng_state(kept, "cuda")
    assert torch.equal(x, torch.rand(3, device="cuda"))


@on("T4")
def test_files_remember_the_device():
    net = nn.Linear(2, 2).cuda()
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    net(torch.ones(1, 2).cuda()).sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)

    def load(**options):
        file.seek(0)
        return torch.load(file, weights_only=True, **options)

    places = [load(map_location=m)["net"]["weight"].is_cuda for m in (None, "cpu", "cuda")]
    assert places == [True, False, True]
    new = nn.Linear(2, 2).cuda()
    new.load_state_dict(load(map_location="cpu")["net"])
    other = torch.optim.Adam(new.parameters(), fused=True)
    other.load_state_dict(load(map_location="cpu")["optimizer"])
    assert all(v.is_cuda for v in other.state[new.weight].values())
    assert torch.equal(new.weight, net.weight)


@on("T4")
@pytest.mark.filterwarnings("ignore")
def test_every_adam_takes_the_cpus_steps():
    for options in ({"fused": True}, {}, {"foreach": False}, {"capturable": True}):
        torch.manual_seed(0)
        one = nn.Linear(3, 1)
        two, x = copy.deepcopy(one).cuda(), torch.randn(4, 3)
        pairs = [(one, torch.optim.Adam(one.parameters(), lr=0.1), x),
                 (two, torch.optim.Adam(two.parameters(), lr=0.1, **options), x.cuda())]
        for _ in range(3):
            for net, optimizer, batch in pairs:
                optimizer.zero_grad()
                net(batch).square().sum().backward()
                optimizer.step()
        torch.testing.assert_close(one.weight, two.weight.cpu(), atol=1e-5, rtol=1e-5)
        count = pairs[1][1].state[two.weight]["step"]
        assert count.is_cuda == bool(options.get("fused") or options.get("capturable"))


@on("T4")
def test_autocast_follows_cudas_lists_and_the_scaler_skips_what_overflowed():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                        nn.ConvTranspose2d(4, 1, 4, 2, 1)).cuda()
    optimizer, scaler = torch.optim.Adam(net.parameters(), fused=True), torch.amp.GradScaler("cuda")
    x, scale = torch.randn(2, 1, 8, 8).cuda(), scaler.get_scale()
    with torch.autocast("cuda", torch.float16):
        y = net(x)
        found = [v.dtype for v in (y, torch.tanh(y), x @ x, F.softplus(y), y.sum(), y.exp())]
        assert found == 3 * [torch.float16] + 3 * [torch.float32]
        refuses(lambda: F.binary_cross_entropy(y.sigmoid(), y.sigmoid()), "unsafe to autocast")
    scaler.scale(y.float().square().mean()).backward()
    assert net[0].weight.grad.dtype == torch.float32
    scaler.step(optimizer)
    scaler.update()
    before = net[0].weight.detach().clone()
    optimizer.zero_grad()
    scaler.scale(net(x).mean() * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(before, net[0].weight) and scaler.get_scale() == scale / 2


@on("T4")
def test_a_graph_replays_what_the_plain_step_does():
    xs = [torch.randn(4, 3).cuda() for _ in range(6)]

    def make():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).cuda()
        rate = torch.tensor(0.01, device="cuda")
        return net, torch.optim.Adam(net.parameters(), lr=rate, fused=True, capturable=True)

    def step(net, optimizer, x):
        optimizer.zero_grad()
        loss = (net(x) + torch.randn(4, 1, device="cuda")).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # capturable, and not captured
        pair = make()
        torch.manual_seed(5)
        plain = [float(step(*pair, x)) for x in xs]
        pair = make()
        torch.manual_seed(5)
        found = [float(step(*pair, x)) for x in xs[:2]]
    given, graph = xs[0].clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(*pair, given)
    assert torch.isnan(loss)  # nothing has been computed yet
    for x in xs[2:]:
        given.copy_(x)
        graph.replay()
        found.append(float(loss))
    assert found == plain and pretend_cuda.counts["replays"] == 4


@on("T4")
def test_a_capture_may_not_be_waited_for_and_is_lost_then():
    x, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="previous error in a capture"):
        with torch.cuda.graph(graph):
            x.add_(1)
            refuses(x.sum().item, "not permitted when stream is capturing")
    refuses(graph.replay, "without a preceding successful capture")
    assert x.tolist() == [1, 1, 1]  # and nothing of it has happened
    with torch.cuda.graph(graph), contextlib.suppress(ValueError):
        x.add_(1)
        raise ValueError  # Python's own errors don't spoil it: half a step is captured
    graph.replay()
    assert x.tolist() == [2, 2, 2]


@pytest.mark.parametrize("card", ["T4", "H100"])
def test_tf32_rounds_large_convolutions_where_the_card_has_it(card):
    @on(card)
    def work():
        torch.manual_seed(0)
        x, w = torch.randn(16, 8, 8, 8), torch.randn(8, 8, 3, 3)
        exact = F.conv2d(x, w)

        def off(x):
            return float((F.conv2d(x.cuda(), w.cuda()).cpu() - exact[: len(x)]).abs().max())

        few, many = off(x[:4]), off(x)
        torch.backends.cudnn.allow_tf32 = False
        exact_again = off(x)
        assert few < 1e-5 and exact_again < 1e-5
        assert 1e-4 < many < 1e-1 if card == "H100" else many < 1e-5
        a = torch.randn(64, 64)
        assert torch.equal((a.cuda() @ a.cuda()).cpu(), a @ a)  # only where it was asked for

    work()


@on("H100")
def test_sums_in_no_order_differ_from_time_to_time_unless_asked_not_to():
    x, w = torch.randn(4, 3, 8, 8).cuda(), torch.randn(5, 3, 3, 3).cuda().requires_grad_()

    def gradient():
        return torch.autograd.grad(F.conv2d(x, w).square().sum(), w)[0]

    a, b = gradient(), gradient()
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b)
    torch.backends.cudnn.deterministic = True
    assert torch.equal(gradient(), gradient())


@on("T4")
def test_an_event_knows_its_time_after_a_wait():
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    refuses(lambda: begin.elapsed_time(end), "must be recorded")
    begin.record()
    end.record()
    refuses(lambda: begin.elapsed_time(end), "not ready")
    torch.cuda.synchronize()
    assert begin.elapsed_time(end) >= 0


@on("T4")
def test_a_forked_process_may_not_touch_the_device():
    x = torch.ones(2, device="cuda")
    here, there = os.pipe()
    if not os.fork():
        try:
            x + 1
        except RuntimeError as error:
            os.write(there, str(error).encode())
        os._exit(0)
    assert b"forked subprocess" in os.read(here, 1_000)


@on("T4")
def test_operations_waits_and_memory_are_counted():
    x = torch.zeros(1_000, device="cuda")
    held, before = torch.cuda.memory_allocated(), pretend_cuda.counts.copy()
    y = (x + 1).view(10, 100) * 2
    assert pretend_cuda.counts - before == {"ops": 2}  # a view costs nothing
    assert torch.cuda.memory_allocated() == held + 4_000
    assert torch.cuda.max_memory_allocated() == held + 8_000
    float(y.sum())
    assert (pretend_cuda.counts - before)["syncs"] == 1
    assert any(file.endswith("test_pretend_cuda.py") for file, _ in pretend_cuda.where)


@pytest.mark.parametrize("card, emulated", [("T4", True), ("A100", False), ("H100", False)])
def test_cards(card, emulated):
    @on(card)
    def work():
        from gencourse import fast, runtime

        assert runtime.device() == torch.device("cuda")
        assert fast.precision() is (torch.float16 if emulated else torch.bfloat16)
        assert torch.cuda.is_bf16_supported()  # emulation included, as torch says it
        assert torch.cuda.is_bf16_supported(including_emulation=False) is not emulated
        assert torch.cuda.get_device_name() in runtime.describe()

    work()


@on("H100")
def test_the_profiler_counts_an_operation_once():
    from torch.profiler import ProfilerActivity, profile

    x, w = torch.randn(2, 1, 5, 5).cuda(), torch.randn(1, 1, 3, 3).cuda()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        F.conv2d(x, w)
    assert {r.key: r.count for r in found.key_averages()}["aten::convolution"] == 1
