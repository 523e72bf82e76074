"""Several processes on one machine (gloo, CPU) against one process with the same global batch."""

import contextlib
import json
import multiprocessing
import os
import shlex
import signal
import socket
import sys
import time

import pytest
import torch
import warm
from torch import nn

from gencourse import checkpoint, data, nets, ranks, runtime, train

pytestmark = pytest.mark.usefixtures("forks")
FORK = multiprocessing.get_context("fork") if sys.platform != "win32" else None


def together(function, n=2):
    """What function() returned or raised in each of n processes that are launched together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, children = [], []
    for rank in range(n):
        here, there = FORK.Pipe()
        environment = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=n)
        environment |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        child = FORK.Process(target=_child, args=(function, environment, there))
        child.start()
        there.close()
        pipes.append(here)
        children.append(child)
    found = []
    for pipe, child in zip(pipes, children, strict=True):
        try:
            found.append(pipe.recv() if pipe.poll(120) else "no answer")
        except EOFError:
            found.append("died")
        child.join(10)
        child.kill()
    return found


def alone(function):
    """What function() returns in this process, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        return function()
    finally:
        torch.set_default_dtype(torch.float32)


def _child(function, environment, pipe):
    os.environ.update({k: str(v) for k, v in environment.items()})
    torch.set_num_threads(1)  # threads don't survive a fork
    torch.set_default_dtype(torch.float64)  # so that what differs is no rounding
    try:
        ranks.start()
        found = function()
    except BaseException as error:
        found = error
    pipe.send(found)
    pipe.close()
    os._exit(0)


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """What a first training imports takes seconds: once here, not in every process."""
    torch.set_num_threads(1)
    alone(lambda: vae(steps=1))


class Doubled(data.Images):
    """Pictures in float64."""

    def images(self, indices):
        return super().images(indices).double()


def digits():
    plain = data.load("digits")
    return Doubled(plain.x, plain.labels, plain.classes, plain.name)


def gan(**options):
    runtime.seed_everything(0)
    G = nets.DCGANGenerator(16, 1, z_dim=8, width=4)
    D = nets.DCGANDiscriminator(16, 1, width=4)
    options = {"steps": 8, "batch_size": 16, "progress": False} | options
    ema, history = train.train_gan(digits(), G, D, **options)
    return _plain(ema), {k: v for k, v in history.items() if not k.endswith("per_second")}


def vae(**options):
    runtime.seed_everything(0)
    net = nets.VAE(16, 1, z_dim=4, width=4)
    options = dict(steps=8, batch_size=16, progress=False) | options
    history = train.train_vae(digits(), net, **options)
    return _plain(net), {k: v for k, v in history.items() if k in ("loss", "grad")}


def classifier(**options):
    runtime.seed_everything(0)
    net = nets.Classifier(16, 1, width=4, dropout=0.0)
    options |= dict(steps=8, batch_size=16, shift=0, progress=False)
    history = train.train_classifier(digits(), net, **options)
    return _plain(net), {"loss": history.get("loss", [])}


def _plain(net):
    return {k: v.tolist() for k, v in net.state_dict().items()}


def largest_difference(a, b):
    """Between two nests of lists and dicts of numbers."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), [b[k] for k in a]
    if isinstance(a, list):
        assert len(a) == len(b)
        return max((largest_difference(*pair) for pair in zip(a, b, strict=True)), default=0.0)
    return abs(a - b)


# --- the same training ----------------------------------------------------------------------------


@pytest.mark.parametrize("work", [gan, vae, classifier])
def test_two_processes_take_the_steps_that_one_takes(work):
    one, (main, other) = alone(work), together(work)
    assert one[0].keys() == main[0].keys()
    assert largest_difference(one[0], main[0]) < 1e-9  # float64: 1e-16, grown over 8 steps
    assert largest_difference(one[1], main[1]) < 1e-5  # the history is kept in float32
    assert main[0] == other[0]  # bit for bit: both took the mean of the same numbers
    assert not any(other[1].values())  # the main process alone keeps the history


def test_batch_norm_of_each_process_alone_is_another_training():
    main, other = together(lambda: gan(sync_batch_norm=False))
    assert largest_difference(alone(gan)[0], main[0]) > 1e-3
    assert main[0]["body.2.running_mean"] != other[0]["body.2.running_mean"]
    assert main[0]["body.0.weight"] == other[0]["body.0.weight"]


def test_models_begin_as_the_main_process_drew_them():
    def draw():
        torch.manual_seed(ranks.rank())
        (net,) = train.prepared([nets.VAE(16, 1, z_dim=2, width=2)], train.Options(steps=1))
        return _plain(net)

    main, other = together(draw)
    assert main == other


def test_nobodys_own_loop_shares_a_batch_unevenly(monkeypatch):
    monkeypatch.setattr(ranks, "world", lambda: 2)
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    assert ranks.part(torch.arange(4)).tolist() == [2, 3]
    with pytest.raises(runtime.UserError, match="3 can't be shared evenly by 2 processes"):
        ranks.part(torch.arange(3))


def test_a_batch_that_cannot_be_shared_is_refused():
    for error in together(lambda: gan(batch_size=15)):
        assert isinstance(error, runtime.UserError) and "multiple of 2" in str(error)


# --- sums -----------------------------------------------------------------------------------------


def normalised(layer, x, target):
    """Output, gradients and running statistics of a BatchNorm layer that is pulled to a target."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * target).sum().backward()
    found = [y.detach(), x.grad, layer.weight.grad, layer.bias.grad]
    return [t.tolist() for t in [*found, layer.running_mean, layer.running_var]]


@pytest.mark.parametrize("shape", [(6, 3, 4, 2), (8, 3)])
def test_global_batch_norm_is_batch_norm_of_the_whole_batch(shape):
    torch.manual_seed(0)
    x, target = torch.randn(shape, dtype=torch.float64) * 3 + 100, torch.randn(shape).double()
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    whole = kind(3).double()
    nn.init.normal_(whole.weight)
    expected = normalised(whole, x, target)

    def share():
        layer = kind(3)
        layer.load_state_dict(whole.state_dict())
        layer.reset_running_stats()
        return normalised(ranks.synchronised(layer), ranks.part(x), ranks.part(target))

    one, two = together(share)
    for i in (0, 1):  # of this process's own pictures
        assert largest_difference(one[i] + two[i], expected[i]) < 1e-9
    for i in (2, 3):  # gradients that `average_gradients` adds up later
        total = [a + b for a, b in zip(one[i], two[i], strict=True)]
        assert largest_difference(total, expected[i]) < 1e-9
    for i in (4, 5):
        assert largest_difference(one[i], expected[i]) < 1e-9 and one[i] == two[i]


def test_gradients_and_numbers_are_averaged():
    def work():
        net = nn.Linear(2, 1)
        net.weight.grad = torch.full((1, 2), float(ranks.rank()))  # and none for the bias
        ranks.average_gradients(net)
        mine = ranks.mean({"a": torch.tensor(4.0 * ranks.rank()), "b": torch.tensor(1.0)})
        asked = [ranks.any_of_us(ranks.rank() == 1), ranks.any_of_us(False)]
        said = ranks.from_main({"x": torch.tensor([ranks.rank() + 5])})
        return net.weight.grad.tolist(), [float(v) for v in mine.values()], asked, int(said["x"])

    assert together(work) == 2 * [([[0.5, 0.5]], [2.0, 1.0], [True, False], 5)]


# --- a run's folder -------------------------------------------------------------------------------


@pytest.mark.parametrize("first, then", [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, first, then):
    def half():
        plain = torch.optim.Adam.step

        def step(self, *arguments, **options):
            if self.param_groups[0]["lr"] < 1e-3:  # the fifth of eight steps is the first with less
                raise KeyboardInterrupt
            return plain(self, *arguments, **options)

        torch.optim.Adam.step = step
        try:
            gan(out=tmp_path, checkpoint_every=4)
        finally:
            torch.optim.Adam.step = plain

    def launch(function, n):
        return together(function, n)[0] if n > 1 else alone(function)

    with contextlib.suppress(KeyboardInterrupt):
        launch(half, first)
    assert [p.name for p in checkpoint.paths(tmp_path)] == ["checkpoint-00000004.pt"]
    weights, history = launch(lambda: gan(out=tmp_path, checkpoint_every=4), then)
    straight = alone(gan)
    assert largest_difference(straight[0], weights) < 1e-9
    assert history["step"] == list(range(1, 9))
    assert largest_difference(straight[1], history) < 1e-5


def test_a_process_that_dies_stops_the_others_with_a_sentence_and_a_checkpoint(tmp_path):
    def work():
        plain = ranks.mean

        def mean(row):
            mean.calls += 1
            if mean.calls == 7 and ranks.rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(row)

        mean.calls, ranks.mean = 0, mean
        return gan(out=tmp_path, checkpoint_every=5)

    main, other = together(work)
    assert other == "died"
    assert isinstance(main, ranks.Lost)
    assert "lost the others" in str(main) and "checkpoint-00000005.pt" in str(main)
    assert checkpoint.load_latest(tmp_path)[0] == 5


def test_a_launcher_that_ends_the_others_leaves_them_time_for_the_sentence(tmp_path):
    def work():
        if ranks.rank() == 1:
            plain, calls = ranks.mean, []

            def mean(row):
                calls.append(1)
                if len(calls) == 7:
                    os.kill(os.getpid(), signal.SIGTERM)
                return plain(row)

            ranks.mean = mean
        return gan(out=tmp_path, checkpoint_every=5)

    for error in together(work):
        assert isinstance(error, ranks.Lost) and "Start the same command again" in str(error)


def test_ctrl_c_stops_all_at_the_same_step(tmp_path):
    def work():
        plain = ranks.mean

        def mean(row):
            mean.calls += 1
            if mean.calls == 13 + ranks.rank():  # one hears of it a step later
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)  # launchers pass it on once more
                time.sleep(0.05)
            return plain(row)

        mean.calls, ranks.mean = 0, mean
        return gan(out=tmp_path, steps=40)

    stops = together(work)
    assert all(isinstance(stop, KeyboardInterrupt) for stop in stops)
    assert [str(stop) for stop in stops] == 2 * [
        "Stopped after step 20; run the same again to continue from there."
    ]
    assert checkpoint.load_latest(tmp_path)[0] == 20


def test_notebook_launcher(tmp_path):
    from accelerate import notebook_launcher

    def work():
        weights, history = alone(lambda: gan(steps=2))  # in float64, each of the two
        found = {"world": ranks.world(), "weights": weights, "rows": len(history.get("d_loss", []))}
        (tmp_path / f"{ranks.rank()}.json").write_text(json.dumps(found))

    notebook_launcher(work, num_processes=2)
    main, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert main["world"] == other["world"] == 2 and main["weights"] == other["weights"]
    assert (main["rows"], other["rows"]) == (2, 0)


def test_the_command_under_accelerate_launch(tmp_path):
    """`accelerate launch` is what the README names; --multi_gpu is how it counts processes."""
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["-m", "gencourse", "train", "vae", "--data", "digits", "--steps", "12"]
    python = tmp_path / "python"  # the launcher starts this one
    python.write_text(f'#!/bin/sh\nexec {shlex.join(warm.PYTHON)} "$@"\n')
    python.chmod(0o755)
    done = warm.run(*command, "--width", "4", "--out", tmp_path / "run",
                    env=os.environ | {"PYTHON_EXEC": str(python)})
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr and done.stderr.count("Finished 12 steps") == 1
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 13
    assert (tmp_path / "run" / "vae.safetensors").exists()
