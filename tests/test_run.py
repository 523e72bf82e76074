"""Run and its checkpoints: exact resume, honest refusals, nothing lost."""

import csv
import json
import os
import random
import signal

import numpy as np
import pytest
import torch
from torch import nn

from gencourse import checkpoint
from gencourse import run as run_module
from gencourse.run import Run, _random_state
from gencourse.runtime import UserError, seed_everything


def fit(folder, total, *, stop_at=None, lr=0.1, every=2, fresh=False, spoil=None, log=None):
    """A tiny noisy regression inside Run; draws from all three global generators."""
    seed_everything(0)
    net = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    parts = {"net": net, "optimizer": optimizer}
    with Run(
        folder,
        settings={"lr": lr},
        batch_size=4,
        sample=lambda: torch.zeros(4, 1, 8, 8),
        sample_every=every,
        checkpoint_every=every,
        progress=False,
        fresh=fresh,
        **parts,
    ) as run:
        for step in run.steps(total):
            if step == stop_at:
                raise RuntimeError("pulled the plug")
            x = torch.randn(4, 3) * random.random() + np.random.rand()
            loss = net(x).square().mean()
            if step == spoil:
                loss = loss / 0
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    return net, run


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_resume_is_exact(tmp_path):
    whole, run = fit(tmp_path / "whole", 11)
    with pytest.raises(RuntimeError):
        fit(tmp_path / "cut", 11, stop_at=7)
    resumed, run_again = fit(tmp_path / "cut", 11)
    assert equal(whole, resumed)
    assert run.history["loss"] == run_again.history["loss"]
    assert run_again.history["step"] == list(range(1, 12))


@pytest.mark.parametrize("name", ["python", "numpy", "torch"])
def test_resume_needs_every_random_generator(tmp_path, name):
    """With one generator in another state the weights differ: the test above has teeth."""
    with pytest.raises(RuntimeError):
        fit(tmp_path, 11, stop_at=7)
    step, state = checkpoint.load_latest(tmp_path)
    assert step == 6
    seed_everything(123)
    state["random"][name] = _random_state()[name]
    checkpoint.save(tmp_path, step, state)
    assert not equal(fit(None, 11)[0], fit(tmp_path, 11)[0])


def test_a_finished_run_is_found_again(tmp_path):
    whole, _ = fit(tmp_path, 5)
    before = checkpoint.paths(tmp_path)[-1].stat().st_mtime_ns
    again, run = fit(tmp_path, 5, stop_at=0)  # would raise if any step ran
    assert equal(whole, again)
    assert len(run.history["loss"]) == 5
    assert checkpoint.paths(tmp_path)[-1].stat().st_mtime_ns == before


def test_files_of_a_run(tmp_path):
    fit(tmp_path, 5)
    assert [p.name for p in checkpoint.paths(tmp_path)] == [
        "checkpoint-00000004.pt",
        "checkpoint-00000005.pt",
    ]
    names = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert names == ["step-000002.png", "step-000004.png", "step-000005.png"]
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert list(rows[0]) == ["step", "loss", "images_per_second"]
    assert [int(r["step"]) for r in rows] == [1, 2, 3, 4, 5]
    settings = json.loads((tmp_path / "config.json").read_text())["settings"]
    assert settings == {"lr": 0.1, "batch_size": 4, "steps": 5}


def test_history_after_a_torn_line(tmp_path):
    with pytest.raises(RuntimeError):
        fit(tmp_path, 11, stop_at=7)
    with open(tmp_path / "history.csv", "a") as file:
        file.write("7,0.25,10.0\n8,0.")  # steps beyond the checkpoint, the last one torn
    _, run = fit(tmp_path, 11)
    whole, reference = fit(None, 11)
    assert run.history["loss"] == reference.history["loss"]
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [int(r["step"]) for r in rows] == list(range(1, 12))


def test_diversity_is_half_the_mean_squared_distance_of_pairs():
    x = torch.rand(20, 3, 4, 4) * 2 - 1
    pairs = (x[:, None] - x[None]).square().mean((2, 3, 4))  # (20, 20), zeros on the diagonal
    assert run_module.diversity(x) ** 2 == pytest.approx(float(pairs.sum() / (20 * 19) / 2))
    assert run_module.diversity(x[:1].expand(8, 3, 4, 4)) == 0


def test_diversity_is_recorded_and_resumes(tmp_path):
    """Samples that spread with the step, so that each number can be told; torn at step 7."""

    def loop(folder, stop_at=None, total=11):
        now, real = nn.Linear(1, 1), 2 * torch.rand(200, 1, 4, 4) - 1
        now.weight.data.zero_()

        def sample():
            return now.weight.detach() * torch.tensor([-0.05, 0.05]).view(2, 1, 1, 1)

        options = dict(sample=sample, sample_every=3, checkpoint_every=5, progress=False)
        with Run(folder, real=real, now=now, **options) as run:
            for step in run.steps(total):
                if step == stop_at:
                    raise ZeroDivisionError
                now.weight.data += 1
                run.log(loss=1.0)
        return run

    spread = {step: 0.05 * step * 2**0.5 for step in (3, 6, 9, 11)}
    assert loop(None).diversity == pytest.approx(spread), "in memory"
    with pytest.raises(ZeroDivisionError):
        loop(tmp_path, stop_at=8)  # the checkpoint is of step 5: the sample of step 6 comes again
    assert list(run_module.read_diversity(tmp_path)[0]) == [3, 6]
    for _ in range(2):  # resumed, then found again
        run = loop(tmp_path)
        assert run.diversity == pytest.approx(spread)
        diversity, real = run_module.read_diversity(tmp_path)
        assert diversity == pytest.approx(spread)
        assert real == pytest.approx((1 / 3) ** 0.5, rel=0.03)  # uniform on [-1, 1]


def test_the_bar_shows_the_first_values(capsys, monkeypatch):
    monkeypatch.setenv("GENCOURSE_STATIC", "1")
    with Run() as run:
        for _ in run.steps(3):
            run.log(a=1.0, b=2.0, c=3.0, d=4.0, e=5.0)
    assert "· a 1 · b 2 · c 3 · d 4 · " in capsys.readouterr().out


@pytest.mark.parametrize("spoil", [1, 6])
def test_what_led_to_a_nan_stays_on_disk(tmp_path, spoil):
    with pytest.raises(UserError, match=f"inf at step {spoil + 1}"):
        fit(tmp_path, 11, spoil=spoil, every=4)
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert failure == {"step": spoil + 1, "name": "loss", "value": "inf"}
    whole, run = fit(None, 11)
    history = run_module.read_history(tmp_path)
    assert history.get("loss", []) == run.history["loss"][:spoil]
    again, resumed = fit(tmp_path, 11, every=4)  # the mistake was mended
    assert equal(again, whole) and resumed.history["loss"] == run.history["loss"]
    assert not (tmp_path / "failure.json").exists()


def test_other_settings_are_refused_by_name(tmp_path):
    fit(tmp_path, 4)
    with pytest.raises(UserError, match=r"lr was 0\.1 and is now 0\.2") as refused:
        fit(tmp_path, 4, lr=0.2)
    assert "batch_size" not in str(refused.value)
    with pytest.raises(UserError, match="steps was 4 and is now 9"):
        fit(tmp_path, 9)
    fresh, _ = fit(tmp_path, 9, lr=0.2, fresh=True)
    assert equal(fresh, fit(None, 9, lr=0.2)[0])


def test_another_net_is_refused(tmp_path):
    fit(tmp_path, 4)
    with pytest.raises(UserError, match="other networks"):
        with Run(tmp_path, settings={"lr": 0.1}, batch_size=4, net=nn.Linear(5, 1)):
            pass


def test_fresh_deletes_only_what_a_run_writes(tmp_path):
    fit(tmp_path, 4)
    mine = tmp_path / "notes.txt"
    mine.write_text("keep me")
    (tmp_path / "samples" / "holiday.png").write_text("keep me too")
    _, run = fit(tmp_path, 2, fresh=True)
    assert mine.exists() and (tmp_path / "samples" / "holiday.png").exists()
    assert len(run.history["loss"]) == 2
    assert [p.name for p in checkpoint.paths(tmp_path)] == ["checkpoint-00000002.pt"]
    assert list(run.samples()) == [2]


def test_fresh_deletes_when_the_new_run_begins_and_not_a_second_time(tmp_path):
    fit(tmp_path, 4)
    before = sorted(tmp_path.rglob("*"))
    run = Run(tmp_path, settings={"lr": 9}, checkpoint_every=1, progress=False, fresh=True)
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError  # whatever happens before the first step
    assert sorted(tmp_path.rglob("*")) == before
    for stop_at in (2, None):  # stopped, and the same object goes on
        with run:
            for step in run.steps(4):
                if step == stop_at:
                    break
                run.log(loss=float(step))
        assert not (tmp_path / "samples" / "step-000004.png").exists()
    assert run.history["loss"] == [0.0, 1.0, 2.0, 3.0]
    assert run_module.read_history(tmp_path)["loss"] == run.history["loss"]


@pytest.mark.parametrize("folder", [None, "run"])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, folder):
    folder = tmp_path / folder if folder else None
    with pytest.raises(UserError, match="step 6: the training diverged.*learning rate"):
        fit(folder, 11, spoil=5)
    if folder:
        step, state = checkpoint.load_latest(folder)
        assert step == 4
        assert all(torch.isfinite(t).all() for t in state["parts"]["net"].values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    net = nn.Linear(1, 1)
    with pytest.raises(UserError, match="a weight became nan at step 4"):
        with Run(tmp_path, checkpoint_every=2, progress=False, net=net) as run:
            for step in run.steps(6):
                if step == 3:
                    net.weight.data.fill_(float("nan"))
                run.log(loss=0.0)
    assert checkpoint.load_latest(tmp_path)[0] == 2


def test_ctrl_c_finishes_the_step_and_saves(tmp_path):
    finished, before = [], signal.getsignal(signal.SIGINT)  # ignored, in a script's background
    seed_everything(0)
    with pytest.raises(KeyboardInterrupt, match="after step 4"):
        with Run(tmp_path, progress=False, net=nn.Linear(1, 1)) as run:
            for step in run.steps(10):
                if step == 3:
                    signal.raise_signal(signal.SIGINT)
                finished.append(step)
                run.log(loss=1.0)
    assert finished == [0, 1, 2, 3]
    assert checkpoint.load_latest(tmp_path)[0] == 4
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("stop", ["interrupt", "error"])
def test_the_same_run_object_goes_on_after_a_stop(tmp_path, stop):
    """As in a notebook, where only the cell with the loop is run again."""
    net, done = nn.Linear(1, 1), []
    run = Run(tmp_path, checkpoint_every=2, progress=False, net=net)

    def loop(stop_at=None):
        with run:
            for step in run.steps(9):
                if step == stop_at and stop == "interrupt":
                    signal.raise_signal(signal.SIGINT)
                run.log(loss=float(step))
                if step == stop_at and stop == "error":
                    raise ZeroDivisionError
                done.append(step)

    with pytest.raises((KeyboardInterrupt, ZeroDivisionError)):
        loop(stop_at=4)
    loop()
    assert done[-1] == 8 and len(done) == 9
    assert run.history["loss"] == [float(step) for step in range(9)]
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [int(r["step"]) for r in rows] == list(range(1, 10))


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with Run(tmp_path, progress=False, net=nn.Linear(1, 1)) as run:
            for _ in run.steps(10):
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
                pytest.fail("the second signal was ignored")


def test_losses_stay_on_the_device_until_the_refresh(monkeypatch):
    """No step may fetch a number: fetches are counted, with the refresh far away."""
    fetched = []
    monkeypatch.setattr("gencourse.run.REFRESH", 1e9)
    monkeypatch.setattr(
        "gencourse.run._fetch", lambda rows: fetched.append(len(rows)) or [{"a": 0.0}] * len(rows)
    )
    with Run(progress=False) as run:
        for _ in run.steps(50):
            run.log(a=torch.tensor(1.0))
    assert fetched == [50]


def test_the_rate_counts_pictures_or_steps(monkeypatch):
    monkeypatch.setattr("gencourse.run.REFRESH", -1)  # look after every step
    for batch_size, name in ((8, "images_per_second"), (None, "steps_per_second")):
        with Run(batch_size=batch_size, checkpoint_every=2, progress=False) as run:
            for _ in run.steps(4):
                run.log(loss=1.0)
        assert list(run.history) == ["step", "loss", name]
        assert len(run.history[name]) == 4 and min(run.history[name]) > 0


def test_changing_names_in_log_is_an_error():
    with Run(progress=False) as run:
        with pytest.raises(ValueError, match="logs a; now it got b"):
            for step in run.steps(2):
                run.log(**{"ab"[step]: 1.0})


def test_a_full_disk_ends_in_a_sentence(tmp_path, full_disk):
    with pytest.raises(RuntimeError):
        fit(tmp_path, 11, stop_at=5)
    before = checkpoint.paths(tmp_path)[-1].read_bytes()
    # Every byte written to /dev/full meets a full disk; the writer's next temporary file is there.
    os.symlink("/dev/full", tmp_path / ".checkpoint-00000006.pt.tmp")
    with pytest.raises(checkpoint.WriteError, match="No space left on device.*intact.*free some"):
        fit(tmp_path, 11)
    assert checkpoint.paths(tmp_path)[-1].read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))
    assert equal(fit(tmp_path, 11)[0], fit(None, 11)[0])




def test_a_drive_that_went_away_ends_in_a_sentence(tmp_path):
    folder = tmp_path / "drive" / "run"
    with pytest.raises(checkpoint.WriteError, match="reconnect the drive"):
        with Run(folder, checkpoint_every=2, progress=False, net=nn.Linear(1, 1)) as run:
            for step in run.steps(6):
                if step == 3:
                    (tmp_path / "drive").rename(tmp_path / "elsewhere")
                run.log(loss=1.0)
    assert not folder.exists(), "the folder came back, on another disk"
    assert checkpoint.load_latest(tmp_path / "elsewhere" / "run")[0] == 2


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(checkpoint.WriteError, match="Can't write"):
        fit(tmp_path / "file" / "run", 2)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    whole, _ = fit(tmp_path, 6)
    newest = checkpoint.paths(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="trying the one before"):
        again, _ = fit(tmp_path, 6)
    assert equal(whole, again)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    torch.save({"step": 1, "state": Trap()}, tmp_path / "checkpoint-00000001.pt")
    with pytest.warns(UserWarning):
        assert checkpoint.load_latest(tmp_path) is None
    assert not (tmp_path / "sprung").exists()


def test_write_atomically_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoint.write_atomically(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    with pytest.raises(checkpoint.WriteError):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
