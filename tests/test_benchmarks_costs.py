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


def test_one_message_between_two_gpus():
    link = {"rate": 1e9, "ring": 1e-6, "tree": 1e-6}
    seconds = larger_runs.all_reduce_seconds(1e6, 2, link)
    assert seconds == pytest.approx(2 * (0.5e6 / 1e9 + 1e-6))  # half there, half back
    assert larger_runs.all_reduce_seconds(1e6, 1, link) == 0
    # A tiny message over many GPUs takes the tree: 2 · log₂ 64 hops instead of 126.
    assert larger_runs.all_reduce_seconds(4, 64, link) == pytest.approx(12e-6, rel=0.01)


STEP = {
    **{"weights_g": 5e6, "weights_d": 2e6, "flops": 6e11, "bytes": 4e9},
    **{"over": 1.0, "measured": None, "rates": larger_runs.PUBLISHED},
}


def test_faster_links_help_and_twice_the_width_is_four_times_the_work():
    step = larger_runs.grown(STEP, None)
    links = list(larger_runs.LINKS.values())
    times = [larger_runs.step_seconds(step, 16, 8, link) for link in links]
    assert times == sorted(times)
    wide = larger_runs.grown(STEP, 4 * 7e6)
    assert wide["flops"] == pytest.approx(4 * step["flops"])
    assert wide["activations"] == pytest.approx(2 * step["activations"])
    assert larger_runs.pays_up_to(step, links[-1]) == 1


def test_the_page_has_a_place_for_every_table():
    text = larger_runs.PAGE.read_text(encoding="utf-8")
    names = ("basis", "links", "steps", "communication", "shared", "each", "processes")
    once = larger_runs.filled(text, {name: f"| {name} |" for name in names})
    assert all(f"<!-- {name} -->\n| {name} |\n<!-- /{name} -->" in once for name in names)
    assert larger_runs.filled(once, {"links": "| links |"}) == once
    with pytest.raises(ValueError, match="0 places"):
        larger_runs.filled(text, {"nowhere": ""})


def test_synchronised_batch_norm_sends_once_each_way():
    assert larger_runs.batch_norm_messages() == 2 * (4 + 3 * 3)


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
