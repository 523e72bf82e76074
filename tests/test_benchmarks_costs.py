"""The benchmarks' own arithmetic: bytes of operations, communication, turns; nothing is timed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import costs  # noqa: E402  (from benchmarks)
import floor  # noqa: E402
import larger_runs  # noqa: E402
import loops  # noqa: E402
import switches  # noqa: E402

from gencourse import scaling  # noqa: E402


def moved(operation, *arguments):
    """Bytes of one of torch's operations, asked without the mode that sees them all."""
    return floor.traffic(operation, arguments, {}, operation(*arguments))


def test_bytes_of_operations():
    aten = torch.ops.aten
    a, b = torch.zeros(8, 4), torch.zeros(4, 2)
    assert moved(aten.mm.default, a, b) == 4 * (32 + 8 + 16)  # two are read, one is written
    assert moved(aten.view.default, a, [4, 8]) == moved(aten.t.default, a) == 0
    assert moved(aten.add_.Tensor, a, a) == 4 * (32 + 32 + 32)
    assert moved(aten.copy_.default, a, torch.ones(8, 4)) == 4 * (32 + 32)
    assert moved(aten.neg.default, a[0].expand(100, 4)) == 4 * (32 + 400)  # what is in memory
    rows = torch.arange(2)
    assert moved(aten.index.Tensor, a, [rows]) == 2 * 4 * 8 + 8 * 2  # the rows, their numbers


def test_what_backward_keeps_is_counted_once():
    kept, w = floor.Kept(), torch.ones(4, requires_grad=True)
    x = torch.ones(4)
    with kept():
        (x * w + x * w).sum().backward()
    assert kept.total() == 16  # x twice is one piece of memory; w is a weight


def test_the_page_and_chapter_14_have_one_model():
    gpu = larger_runs.one_gpu() | dict(zip(("pi", "beta"), (9e14, 5e12), strict=True))
    rows = scaling.account(64, 3, 64, 128)
    assert larger_runs.compute_seconds(gpu, 64, 128) == scaling.floor(rows, 9e14, 5e12, 2)
    for link in scaling.LINKS.values():
        assert larger_runs.step_seconds(gpu, 64, 128, 1, link) == scaling.floor(rows, 9e14, 5e12, 2)
    slow = list(scaling.LINKS.values())[-1]
    assert larger_runs.pays_up_to(gpu, 64, slow) == 1 < larger_runs.pays_up_to(gpu, 64, FREE)


FREE = {"rate": 1e18, "most": 4, "ring": dict.fromkeys(scaling.PROTOCOLS, -1e-5)}  # no cost at all


def test_the_page_has_a_place_for_every_table():
    text = larger_runs.PAGE.read_text(encoding="utf-8")
    names = ("basis", "links", "steps", "communication", "shared", "each", "processes")
    once = larger_runs.filled(text, {name: f"| {name} |" for name in names})
    assert all(f"<!-- {name} -->\n| {name} |\n<!-- /{name} -->" in once for name in names)
    assert larger_runs.filled(once, {"links": "| links |"}) == once
    with pytest.raises(ValueError, match="0 places"):
        larger_runs.filled(text, {"nowhere": ""})


def test_each_switch_is_added_and_taken_away_once():
    found = switches.variants(["uint8", "fused"], with_compile=False)
    assert found["plain"] == {} and found["plain + fused"] == {"fused": True}
    assert found["fast − fused"] == {"uint8": True, "fused": False}
    assert len(found) == 2 + 2 * 2


def test_the_benchmarks_step_is_the_courses():
    images = loops.noise_pictures(16, 1, count=128)
    on = {name: True for name in switches.SWITCHES if name not in ("graph", "compiled")}
    switches.assert_same_losses(lambda: loops.dcgan(16, 1, 4), images, on)


def test_two_trainings_never_step_at_once():
    turns, order = costs.Turns(block=2), []
    stand_ins = {name: turns.wrapped(loops.Bare, name) for name in "ab"}

    def training(name):
        order.extend(name for _ in stand_ins[name]().steps(7))

    turns.play({name: lambda name=name: training(name) for name in "ab"})
    assert "".join(order) == "aabbaabbaabbab"
    assert [len(seconds) for seconds in turns.seconds.values()] == [3, 3]


def test_a_training_that_fails_does_not_keep_the_other_waiting():
    turns = costs.Turns(block=1)
    stand_in = turns.wrapped(loops.Bare, "good")
    turns.wrapped(loops.Bare, "bad")

    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        turns.play({"good": lambda: list(stand_in().steps(3)), "bad": fails})


def test_the_script_for_a_gpu_is_bash(bash):
    subprocess.run(["bash", "-n", str(BENCHMARKS / "gpu.sh")], check=True)
