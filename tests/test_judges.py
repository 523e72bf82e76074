"""The shipped classifiers: as good as their cards say, small, described, and part of the wheel."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from safetensors import safe_open

from gencourse import data, evaluate, nets, train

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "gencourse" / "weights"
# accuracy on the test half
LEAST = {"digits": 0.97, "mnist": 0.993, "fashion_mnist": 0.925, "cifar10": 0.79}


def card(name):
    with safe_open(WEIGHTS / f"judge_{name}.safetensors", "pt") as file:
        assert list(file.metadata()) == ["settings"]
        return json.loads(file.metadata()["settings"])


@pytest.mark.parametrize("name", LEAST)
def test_a_judge_says_what_it_is(name):
    settings = card(name)
    assert settings["data"].split(" (")[0] == name and settings["classes"] == 10
    assert settings["channels"] == (3 if name == "cifar10" else 1)
    assert settings["accuracy"] >= LEAST[name]
    arguments = {k: settings[k] for k in ("size", "channels", "classes", "width", "dropout")}
    net = nets.Classifier(**arguments)
    assert settings["parameters"] == sum(p.numel() for p in net.parameters())
    assert {"steps", "batch_size", "lr", "shift", "seed", "n_test"} <= set(settings)
    assert (WEIGHTS / f"judge_{name}.safetensors").stat().st_size <= 1_000_000


@pytest.mark.parametrize("name", LEAST)
def test_the_cards_say_what_the_files_say(name):
    text = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    section = text.split(f"\n## judge_{name}.safetensors\n")[1].split("\n## ")[0]
    settings = card(name)
    assert f"{settings['accuracy']:.2%} of {settings['n_test']:,} test pictures" in section
    assert f"gencourse train classifier --data {name}" in section
    assert f"{settings['parameters']:,} weights" in section


def measured(name):
    test_images = data.load(name, split="test")
    assert len(test_images) == card(name)["n_test"]
    return train.accuracy(evaluate.judge(name), test_images)


def test_the_digits_judge_is_as_good_as_its_card_says():
    assert measured("digits") == pytest.approx(card("digits")["accuracy"], abs=1e-3)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_a_judge_of_real_data_is_as_good_as_its_card_says(name, real_data):
    assert measured(name) == pytest.approx(card(name)["accuracy"], abs=1e-3)


def test_the_command_with_its_defaults_trains_these_judges():
    """The card's command names no other setting than the shift of CIFAR-10's."""
    import inspect

    loop = inspect.signature(train.train_classifier).parameters
    for name in LEAST:
        settings = card(name)
        assert settings["steps"] == 5_000 and settings["width"] == 32  # those of __main__
        usual = {key: loop[key].default for key in ("batch_size", "lr", "shift", "seed")}
        usual |= {"shift": 4} if name == "cifar10" else {}
        assert {key: settings[key] for key in usual} == usual, name
        net = inspect.signature(nets.Classifier).parameters
        assert settings["dropout"] == net["dropout"].default


def test_the_weights_are_part_of_the_wheel(git):
    """The wheel takes the whole folder of the package, but for what git ignores."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["gencourse"]}, "nothing is left out"
    for path in WEIGHTS.iterdir():
        ignored = subprocess.run(["git", "check-ignore", "-q", str(path)], cwd=ROOT)
        assert ignored.returncode != 0, f"git, and so the wheel, ignores {path.name}"
    builder = WheelBuilder(str(ROOT))
    files = {file.distribution_path for file in builder.recurse_included_files()}
    assert {f"gencourse/weights/{path.name}" for path in WEIGHTS.iterdir()} <= files
