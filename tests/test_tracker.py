"""TensorBoard and Weights & Biases get what the history has."""

import importlib.util
import sys

import pytest

from gencourse import data, nets, runtime, train
from gencourse.run import Run


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """train(tracker) trains a tiny VAE for 6 steps in tmp_path and returns the history."""
    monkeypatch.setattr("gencourse.run.REFRESH", 0.0)  # every step is a look at the losses

    def run(tracker, steps=6):
        runtime.seed_everything(0)
        vae = nets.VAE(16, 1, z_dim=2, width=2)
        options = dict(steps=steps, batch_size=8, progress=False, sample_every=3)
        return train.train_vae(
            data.load("digits"), vae, out=tmp_path / "run", tracker=tracker, **options
        )

    return run


def test_tensorboard_has_losses_rates_speed_and_sheets(trained, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = trained("tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss", "nll", "kl", "optimizer_lr", "images_per_second"} <= set(tags["scalars"])
    logged = {e.step: e.value for e in events.Scalars("loss")}
    assert list(logged) == history["step"]
    assert list(logged.values()) == pytest.approx(history["loss"])
    rates = [e.value for e in events.Scalars("optimizer_lr")]
    assert rates == pytest.approx([1e-3 * min(1, 2 * (1 - i / 6)) for i in range(6)])
    (sheet, _) = events.Images("samples")
    assert (sheet.step, sheet.width) == (3, 8 * 18 + 2)  # eight pictures and their borders


def test_wandb_offline(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    history = trained("wandb")
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    found = record.read_bytes()
    assert len(history["step"]) == 6
    for word in (b"loss", b"optimizer_lr", b"images_per_second", b"samples", b"gencourse"):
        assert word in found


def test_what_cannot_track_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    with pytest.raises(runtime.UserError, match="choose tensorboard or wandb"):
        Run(tmp_path, tracker="paper")
    with pytest.raises(runtime.UserError, match="needs a folder"):
        Run(tracker="tensorboard")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(runtime.UserError, match="pip install wandb"):
        Run(tmp_path, tracker="wandb")
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_cannot_start_says_so(tmp_path, monkeypatch):
    class Engine:
        def __init__(self, *arguments, **options):
            pass

        def start(self):
            raise OSError("no API key")

    import accelerate.tracking

    monkeypatch.setattr(accelerate.tracking, "TensorBoardTracker", Engine)
    with Run(tmp_path, tracker="tensorboard") as run:
        with pytest.raises(runtime.UserError, match=r"could not start \(no API key\)"):
            next(run.steps(1))


def test_no_tracker_is_imported_without_being_asked_for():
    code = "import sys, gencourse.train; print([m for m in ('wandb', 'tensorboard', 'accelerate')"
    code += " if m in sys.modules])"
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
