"""The command, as its user meets it: one sentence for bad input, everything in its folder."""

import csv
import json
import random
import signal
import sys
import time

import pytest
import warm
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from gencourse import checkpoint, data, nets, train
from gencourse.__main__ import main
from gencourse.runtime import device

TINY = ["--data", "digits", "--size", "16", "--batch-size", "16", "--width", "8"]
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows both end a process at once
STEPS = 24  # enough for three kills of a run that keeps a checkpoint of every step
PATIENCE = 300  # seconds for a process that needs ten: machines are busy sometimes


def gencourse(capsys, *arguments):
    """Run the command in this process; returns exit code and what stood on stderr."""
    old, sys.argv = sys.argv, ["gencourse", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stop:
            main()
    finally:
        sys.argv = old
    return stop.value.code or 0, capsys.readouterr().err


def start(*arguments, fresh=False):
    """A process of its own, with one thread: bits agree only for the same number of them."""
    return warm.Process("-m", "gencourse", "train", *arguments, fresh=fresh)


def test_a_whole_run(tmp_path, capsys):
    arguments = ["train", "dcgan", *TINY, "--steps", 6, "--sample-every", 4, "--out", tmp_path]
    code, error = gencourse(capsys, *arguments)
    assert code == 0 and "Finished 6 steps" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-00000006.pt", "config.json", "diversity.csv", "generator.safetensors",
        "history.csv", "samples",
    ]
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert list(rows[0]) == [
        "step", "d_loss", "g_loss", "d_real", "d_fake", "d_grad", "g_grad", "images_per_second",
    ] and len(rows) == 6
    grid = Image.open(tmp_path / "samples" / "step-000004.png")
    assert grid.size == (8 * 18 + 2, 8 * 18 + 2)  # 8 × 8 pictures of 16 pixels, 2 between
    settings = json.loads((tmp_path / "config.json").read_text())["settings"]
    assert settings["data"] == "digits" and settings["steps"] == 6 and settings["seed"] == 0

    code, error = gencourse(capsys, *arguments)  # found again
    assert code == 0 and "Finished 6 steps" in error
    code, error = gencourse(capsys, *arguments, "--lr", "0.1")
    assert code == 2 and "lr was 0.001 and is now 0.1" in error
    code, error = gencourse(capsys, *arguments, "--lr", "0.1", "--fresh", "--yes")
    assert code == 0


def test_fresh_asks_and_keeps_on_no(tmp_path, capsys, monkeypatch):
    arguments = ["train", "vae", *TINY, "--steps", 2, "--out", tmp_path]
    assert gencourse(capsys, *arguments)[0] == 0
    assert (tmp_path / "vae.safetensors").exists()
    monkeypatch.setattr("typer.confirm", lambda *a, **k: False)
    code, error = gencourse(capsys, *arguments, "--fresh")
    assert code == 2 and "Nothing was deleted" in error
    assert (tmp_path / "vae.safetensors").exists()


def test_a_classifier_with_its_card(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "classifier", "--data", "digits", "--width", 4, "--steps", 40]
    code, error = gencourse(capsys, *arguments)
    assert code == 0 and "Accuracy on 297 test pictures:" in error, error
    path = tmp_path / "runs" / "classifier-digits" / "classifier.safetensors"
    with safe_open(path, "pt") as file:
        assert list(file.metadata()) == ["settings"]
        card = json.loads(file.metadata()["settings"])
    expected = {"data": "digits", "size": 16, "channels": 1, "classes": 10, "width": 4, "steps": 40}
    expected |= {"lr": 0.002, "shift": 1, "seed": 0, "batch_size": 128, "n_test": 297}
    assert {k: card[k] for k in expected} == expected
    net = nets.Classifier(16, 1, width=4)
    net.load_state_dict(load_file(path))
    assert train.accuracy(net.to(device()), data.load("digits", "test")) == card["accuracy"] > 0.3
    assert f"{card['accuracy']:.2%}" in error


@pytest.mark.parametrize("halves", [False, True])
def test_a_classifier_of_a_folder(halves, tmp_path, capsys, monkeypatch):
    """Class subfolders are enough; a test half, where there is one, is what accuracy is of."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    for half in ("train", "test") if halves else (".",):
        for name, shade in (("dark", 40), ("light", 210)):
            (folder / half / name).mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (20, 20), (shade + i,) * 3).save(folder / half / name / f"{i}.png")
    code, error = gencourse(
        capsys, "train", "classifier", "--data", f"folder:{folder}", "--size", 16, "--steps", 4,
        "--batch-size", 4, "--width", 4, "--out", tmp_path / "run",
    )
    assert code == 0 and "Finished 4 steps" in error, error
    assert ("Accuracy on 12 test pictures" in error) == halves
    with safe_open(tmp_path / "run" / "classifier.safetensors", "pt") as file:
        card = json.loads(file.metadata()["settings"])
    assert card["classes"] == 2 and ("accuracy" in card) == halves


def test_a_classifier_needs_classes(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "pictures" / "one.png")
    code, error = gencourse(
        capsys, "train", "classifier", "--data", f"folder:{tmp_path / 'pictures'}", "--size", 16,
        "--out", tmp_path / "run",
    )
    last = error.strip().splitlines()[-1]
    assert code == 2 and "no classes to tell apart" in last and "subfolder" in last
    assert not (tmp_path / "run").exists()


BAD = {
    "unknown data": (["--data", "fashion_mist"], "fashion_mnist"),
    "no such folder": (["--data", "folder:nowhere"], "nowhere"),
    "folder without pictures": (["--data", "folder:EMPTY"], "no picture"),
    "unreadable picture": (["--data", "folder:BROKEN"], "read"),
    "size": ([*TINY[:2], "--size", "30"], "Size 30 is not supported"),
    "size zero": ([*TINY[:2], "--size", "0"], "Size 0 is not supported"),
    "steps": ([*TINY, "--steps", "0"], "--steps is 0; it must be at least 1"),
    "negative steps": ([*TINY, "--steps", "-5"], "--steps is -5"),
    "steps in words": ([*TINY, "--steps", "many"], "--steps"),
    "batch": ([*TINY, "--batch-size", "1"], "BatchNorm"),
    "rate": ([*TINY, "--lr", "-1"], "--lr"),
    "shift": ([*TINY, "--shift", "1"], "it is for classifier, not for dcgan"),
    "out is a file": ([*TINY, "--out", "FILE"], "is a file"),
    "unknown option": (["--step", "3"], "--step"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_sentence_and_code_2(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / "torn.png").write_bytes(b"not a picture")
    (tmp_path / "FILE").write_text("")
    arguments, expected = BAD[case]
    code, error = gencourse(capsys, "train", "dcgan", *arguments)
    assert code == 2
    last = error.strip().splitlines()[-1]
    assert expected.lower() in last.lower(), error
    assert "Traceback" not in error


def test_unknown_model(capsys):
    code, error = gencourse(capsys, "train", "stylegan")
    assert code == 2 and "dcgan" in error and len(error.strip().splitlines()) == 1


def test_an_unreadable_picture_among_many_is_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(20):
        Image.new("RGB", (40, 30), (i, 10 * i, 255 - i)).save(folder / f"{i}.png")
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff but no more")
    code, error = gencourse(
        capsys, "train", "dcgan", "--data", f"folder:{folder}", "--size", 16, "--steps", 2,
        "--batch-size", 4, "--width", 8, "--out", tmp_path / "run",
    )
    assert code == 0, error
    assert "1 " in error and "20 pictures" in error


def final(folder, model):
    name = "generator.safetensors" if model == "dcgan" else f"{model}.safetensors"
    return (folder / name).read_bytes()


def losses(folder):
    """The rows of history.csv but for the last column, images per second."""
    return [row[:-1] for row in csv.reader((folder / "history.csv").open())]


def uninterrupted(model, folder):
    process = start(model, *TINY, "--steps", STEPS, "--checkpoint-every", 1, "--out", folder)
    assert process.wait(PATIENCE) == 0, process.said()[1]
    return final(folder, model)


def wait_until(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.002)


@pytest.mark.parametrize("model", ["dcgan", "vae", "classifier"])
def test_killed_at_random_moments_the_weights_are_the_same(model, tmp_path):
    """kill -9, again and again; with a checkpoint every step most kills land in its writing."""
    expected = uninterrupted(model, tmp_path / "whole")
    cut, kills = tmp_path / "cut", 0
    arguments = [model, *TINY, "--steps", STEPS, "--checkpoint-every", 1, "--out", cut]
    while True:
        # Forks order sets alike; that another process orders them differently must not matter.
        process, done = start(*arguments, fresh=kills == 0 and model == "dcgan"), newest(cut)
        try:
            wait_until(lambda: process.poll() is not None or newest(cut) > done)  # noqa: B023
            if kills < 3 and process.poll() is None:
                time.sleep(random.random() * 0.1)
                process.send_signal(KILL)
            code = process.wait(PATIENCE)
        finally:
            process.kill()
        if code == 0:
            break
        assert abs(code) == KILL, process.said()[1]
        kills += 1
    assert kills >= 2, "it was never really killed"
    assert final(cut, model) == expected
    assert losses(cut) == losses(tmp_path / "whole")


def newest(folder):
    return max((int(p.stem.split("-")[1]) for p in checkpoint.paths(folder)), default=0)


KILL_INSIDE = """
import os, signal, sys
from gencourse import checkpoint
original, seen = os.{function}, 0
def deadly(*arguments):
    global seen
    seen += 1
    if seen == {count}:
        os.kill(os.getpid(), {kill})
    return original(*arguments)
checkpoint.os.{function} = deadly
sys.argv = ["gencourse", "train", *{arguments!r}]
from gencourse.__main__ import main
main()
"""


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("count", [5, 8])
def test_killed_inside_the_writing_of_a_file(function, count, tmp_path_factory, tmp_path):
    """The process kills itself between writing, syncing and renaming; the next one goes on."""
    reference = tmp_path_factory.getbasetemp() / "reference"
    if not reference.exists():
        uninterrupted("dcgan", reference)
    arguments = ["dcgan", *TINY, "--steps", str(STEPS), "--checkpoint-every", "1"]
    arguments += ["--out", str(tmp_path)]
    code = KILL_INSIDE.format(function=function, count=count, arguments=arguments, kill=int(KILL))
    killed = warm.run("-c", code, seconds=PATIENCE)
    assert abs(killed.returncode) == KILL, killed.stderr
    process = start(*arguments)
    assert process.wait(PATIENCE) == 0, process.said()[1]
    assert final(tmp_path, "dcgan") == final(reference, "dcgan")
    assert not list(tmp_path.glob("**/.*.tmp")), "a half-written file stayed"


def test_ctrl_c_in_a_terminal(tmp_path, one_sigint):
    process = start("dcgan", *TINY, "--steps", 100_000, "--checkpoint-every", 20, "--out", tmp_path)
    wait_until(lambda: newest(tmp_path) > 0)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    error = process.said()[1]
    assert "run the same again to continue" in error and "Traceback" not in error


def test_the_doctor_on_a_folder(tmp_path, capsys):
    """Exit code 0 for a healthy run, 1 for findings, 2 for a folder that is no run."""
    run = tmp_path / "run"
    assert gencourse(capsys, "train", "vae", *TINY, "--steps", 6, "--out", run)[0] == 0
    old, sys.argv = sys.argv, ["gencourse", "doctor", str(run)]
    try:
        with pytest.raises(SystemExit) as stop:
            main()
    finally:
        sys.argv = old
    printed = capsys.readouterr().out
    assert stop.value.code == 1
    assert "a VAE, 6 of 6 steps" in printed and "not enough training" in printed

    history = (run / "history.csv").read_text().splitlines()
    rows = [f"{i + 1},100.0,90.0,10.0,8.0,1.0,50.0" for i in range(300)]
    (run / "history.csv").write_text("\n".join([history[0], *rows]) + "\n")
    assert gencourse(capsys, "doctor", run)[0] == 0

    code, error = gencourse(capsys, "doctor", tmp_path)
    assert code == 2 and "not the folder of a run" in error and len(error.splitlines()) == 1
    code, error = gencourse(capsys, "doctor")
    assert code == 2 and "gencourse doctor --help" in error
