"""The package, the command and every notebook on a pretended GPU, in the smoke profile.

`precision` is what suits the card: float16 on a T4, bfloat16 on an H100. A few notebooks run in the
ordinary suite; `pytest -m cuda tests/test_cuda.py` runs all of them, on both cards.
"""

import json
import math
import os
import signal
import sys
import warnings
from pathlib import Path

import asked
import nbformat
import pretend_cuda
import pytest
import rules
import torch
import warm
from pretend_cuda import on
from torch import nn

from gencourse import __main__, data, fast, nets, ranks, run, runtime, train

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.usefixtures("forks"),
]
HERE = Path(__file__).parent
CARDS = ("T4", "H100")
CHAPTERS = [(None, stem) for stem in rules.stems()]
SOLUTIONS = [(rules.SOLUTIONS, stem) for stem in rules.stems(rules.SOLUTIONS / "text")]
NOTEBOOKS = [(card, *which) for card in CARDS for which in CHAPTERS + SOLUTIONS]
FEW_NOTEBOOKS = [("T4", None, "04_first_gan"), ("T4", rules.SOLUTIONS, "03_convolutions")]
TRAININGS = [(card, model) for card in CARDS for model in ("dcgan", "vae", "classifier")]
FEW_TRAININGS = [("T4", "dcgan"), ("H100", "vae")]


def pytest_generate_tests(metafunc):
    """A few of the notebooks and trainings, or with -m cuda all of them, on all cards."""
    everything = asked.all_of("cuda", metafunc.config)
    if "notebook" in metafunc.fixturenames:
        cases = NOTEBOOKS if everything else FEW_NOTEBOOKS
        names = [f"{card}-{'solution' if home else 'chapter'}-{stem}" for card, home, stem in cases]
        metafunc.parametrize("card, home, notebook", cases, ids=names)
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("card, model", TRAININGS if everything else FEW_TRAININGS)


def test_every_cell_runs(card, home, notebook, tmp_path):
    """All but the cells that are meant to fail; errors of all others, with what IPython shows."""
    cells = rules.from_text(rules.read_text(notebook, home))
    path = tmp_path / f"{notebook}.ipynb"
    nbformat.write(cells, path)
    environment = os.environ | {"GENCOURSE_RUNS": str(tmp_path / "runs")}
    del environment["GENCOURSE_DEVICE"]
    done = warm.run(
        *(HERE / "pretend_cuda.py", card, HERE / "play_notebooks.py", path),
        cwd=home or rules.CHAPTERS, env=environment, seconds=1_200,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    found = json.loads(done.stdout.splitlines()[-1])[str(path)]
    wanted = ["raises-exception" in rules.tags(c) for c in rules.code_cells(cells)]
    wrong = [e for e, right in zip(found, wanted, strict=True) if bool(e) != right]
    assert not wrong, "\n\n".join(e[2] if e else "A cell that should have failed." for e in wrong)


# --- the command ----------------------------------------------------------------------------------


def gencourse(*arguments):
    """The command, in this process; returns its exit code."""
    sys.argv = ["gencourse", *map(str, arguments)]
    with pytest.raises(SystemExit) as end:
        __main__.main()
    return end.value.code or 0


def test_the_command_trains_is_killed_and_goes_on_bit_for_bit(card, model, tmp_path):
    options = ["train", model, "--data", "digits", "--steps", 9, "--width", 4]
    options += ["--checkpoint-every", 3, "--batch-size", 16]

    def train_in(folder, killed_at=None):
        torch.backends.cudnn.deterministic = True  # else sums are taken in another order
        rate = train.learning_rate

        def learning_rate(step, *rest):
            if step == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return rate(step, *rest)

        train.learning_rate = learning_rate
        assert gencourse(*options, "--out", tmp_path / folder) == 0
        if model != "classifier":
            assert gencourse("doctor", tmp_path / folder) in (0, 1)

    def results(folder):
        history = run.read_history(tmp_path / folder)
        history.pop("images_per_second")
        (weights,) = (tmp_path / folder).glob("*.safetensors")
        return history, weights.read_bytes()

    assert pretend_cuda.complaint(card, lambda: train_in("once")) == ""
    assert "killed" in pretend_cuda.complaint(card, lambda: train_in("twice", killed_at=5))
    assert pretend_cuda.complaint(card, lambda: train_in("twice")) == ""
    once, twice = results("once"), results("twice")
    assert len(once[0]["step"]) == 9 and all(map(math.isfinite, sum(once[0].values(), [])))
    assert once == twice


# --- the package ----------------------------------------------------------------------------------


def digits_gan(**options):
    """(history, weights) of a short training."""
    runtime.seed_everything(0)
    G, D = nets.DCGANGenerator(16, 1, 8, 4), nets.DCGANDiscriminator(16, 1, 4)
    options = {"steps": 8, "batch_size": 16, "progress": False} | options
    ema, history = train.train_gan(data.load("digits"), G, D, **options)
    return history, ema.state_dict()


@pytest.mark.parametrize("card", CARDS)
def test_no_step_is_skipped_and_the_first_loss_is_the_cpus(card):
    def losses(name):
        runtime.seed_everything(0)
        digits, common = data.load("digits"), {"steps": 6, "batch_size": 64, "progress": False}
        if name == "vae":
            return train.train_vae(digits, nets.VAE(16, 1, 8, 16), **common)
        return train.train_gan(
            digits, nets.DCGANGenerator(16, 1, 64, 16), nets.DCGANDiscriminator(16, 1, 16), **common
        )[1]

    @on(card)
    def work(name, expected):
        history = losses(name)
        # Other noise was drawn there, so the first loss is near and not the same.
        assert history["loss" if name == "vae" else "d_loss"][0] == pytest.approx(expected, rel=0.1)
        for key in ("grad", "d_grad", "g_grad"):
            assert all(0 < length < 1e6 for length in history.get(key, [1.0])), history[key]

    work("vae", losses("vae")["loss"][0])
    work("dcgan", losses("dcgan")["d_loss"][0])


@pytest.mark.parametrize("card", CARDS)
def test_a_graph_takes_the_steps_of_the_plain_loop_and_says_nothing(card):
    @on(card)
    def work():
        warnings.simplefilter("error")
        torch.backends.cudnn.deterministic = True
        plain, graphed = digits_gan(), digits_gan(graph=True)
        assert pretend_cuda.counts["replays"] == 8 - 3  # the first three warm it up
        for key in ("d_loss", "g_loss"):  # few steps: rounding grows, in gradients faster
            assert graphed[0][key][:5] == pytest.approx(plain[0][key][:5], rel=5e-3)

    work()


@on("T4")
def test_a_step_that_waits_cant_become_a_graph_and_that_is_a_sentence():
    step = fast.Graphed(lambda x: {"loss": x.sum() * float(x.sum())}, warm_up=1)
    x = torch.ones(3, device="cuda")
    step(x)
    for _ in range(2):  # the second time it must not replay what was lost
        with pytest.raises(runtime.UserError, match="waits for the device.*not permitted when"):
            step(x)
    with pytest.raises(runtime.UserError, match="float16 without fused Adam"):
        digits_gan(graph=True, fused=False, precision="float16")


@on("T4")
def test_a_run_goes_on_without_the_graph_that_it_began_with():
    net = nn.Linear(2, 1).cuda()

    def adam(**options):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1, **options)
        net(torch.ones(1, 2, device="cuda")).sum().backward()
        return optimizer

    for fused in (False, True):
        first, second = adam(fused=fused), adam(fused=fused)
        fast.prepare_optimizer(first, graph=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first.step()
        second.load_state_dict(first.state_dict())
        fast.prepare_optimizer(second, graph=False)
        assert {s["step"].is_cuda for s in second.state.values()} == {fused}
        before = pretend_cuda.counts["syncs"]
        second.step()
        assert pretend_cuda.counts["syncs"] == before  # nobody waits for Adam's count


@on("T4")
def test_every_process_keeps_the_random_state_of_its_own_device():
    asked = []
    state = torch.cuda.get_rng_state()
    torch.cuda.device_count = lambda: 4
    torch.cuda.get_rng_state = lambda device: asked.append(device) or state
    torch.cuda.set_rng_state = lambda new, device: asked.append(device)
    os.environ["LOCAL_RANK"] = "2"
    run._set_random_state(run._random_state())
    assert asked == 2 * [torch.device("cuda", 2)]
    os.environ["GENCOURSE_DEVICE"] = "cuda"
    assert runtime.device() == torch.device("cuda", 2)
    os.environ["GENCOURSE_DEVICE"] = "cpu"
    assert "cuda" not in run._random_state()


@pytest.mark.parametrize("said", [{"LOCAL_WORLD_SIZE": "2"}, {}])
def test_two_processes_on_one_gpu_are_refused(said):
    @on("H100")
    def work():
        os.environ.update({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"} | said)
        with pytest.raises(runtime.UserError, match="has 1 GPU: each needs one of its own"):
            ranks.start()

    work()
