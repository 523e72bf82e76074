"""The command's options, in this process and without training: a table of kinds, help without
torch, and every number and path at its edges ends in one sentence.
"""

import functools
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import typer

from gencourse import checkpoint, fast, runtime
from gencourse import train as loops
from gencourse.__main__ import KINDS, app, main

TINY = ("--data", "digits", "--width", "2", "--steps", "1")


@pytest.fixture
def gencourse(capsys, monkeypatch, tmp_path):
    """gencourse(…) → (exit code, lines on stderr); what is no sentence leaves as an exception."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["gencourse", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        lines = capsys.readouterr().err.splitlines()
        assert not lines or not stop.value.code or lines[-1].endswith("."), lines
        return stop.value.code or 0, lines

    return call


@pytest.fixture
def no_training(monkeypatch):
    """The loops are called and do nothing, or what is put into the list."""
    instead = []
    for kind in KINDS.values():
        loop = getattr(loops, kind.loop)

        @functools.wraps(loop)
        def called(*arguments, **options):
            for do in instead:
                do()

        monkeypatch.setattr(loops, kind.loop, called)
    return instead


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", KINDS)
def test_a_row_is_all_that_a_kind_needs(model, gencourse):
    """It trains, leaves its file, and its defaults are those of its functions."""
    kind = KINDS[model]
    code, lines = gencourse("train", model, *TINY, "--batch-size", 8, "--out", "run")
    assert code == 0 and f"Finished 1 steps: {Path('run') / kind.result}" in lines
    assert (Path("run") / kind.result).stat().st_size > 1000
    known = inspect.signature(getattr(loops, kind.loop)).parameters
    sizes = list(inspect.signature(kind.nets).parameters)[2:]
    for name, usual in kind.options.items():
        assert name in loops.LIMITS, "a number that is looked at"
        if name not in sizes and name != "steps":
            assert known[name].default == usual, name
    assert set(sizes) < set(kind.options) <= {*known, *sizes}
    assert "steps" in kind.options and kind.options.keys() <= {
        p.name for p in typer.main.get_command(app).commands["train"].params
    }


def test_what_all_kinds_share_has_the_same_defaults_here_and_there():
    usual = inspect.signature(loops.Options).parameters
    for parameter in typer.main.get_command(app).commands["train"].params:
        different = any(parameter.name in kind.options for kind in KINDS.values())
        if parameter.name in usual and not different:
            assert parameter.default == usual[parameter.name].default, parameter.name


OTHERS = [
    (model, name)
    for model, kind in KINDS.items()
    for name in sorted({n for other in KINDS.values() for n in other.options} - kind.options.keys())
]


@pytest.mark.parametrize(("model", "name"), OTHERS)
def test_an_option_of_another_kind_is_refused(model, name, gencourse, no_training):
    no_training.append(lambda: pytest.fail("it was taken"))
    flag = f"--{name.replace('_', '-')}"
    code, lines = gencourse("train", model, "--data", "digits", flag, "1")
    having = [m for m, kind in KINDS.items() if name in kind.options]
    assert code == 2 and len(lines) == 1 and flag in lines[0]
    assert f"it is for {', '.join(having)}, not for {model}." in lines[0]


WITHOUT_TORCH = [
    ["--help"], ["train", "--help"], ["doctor", "--help"], ["grade", "--help"],
    [], ["trian"], ["train", "dcgna"], ["train", "dcgan", "--stesp", "3"], ["train"],
    ["train", "dcgan", "--steps", "many"], ["train", "dcgan", "--beta", "1"],
    ["doctor"], ["doctor", ""], ["doctor", "a", "b"], ["grade", "x"],
]


def test_help_and_misspelled_words_need_no_torch():
    program = f"""import sys
from gencourse.__main__ import main
for arguments in {WITHOUT_TORCH}:
    sys.argv = ["gencourse", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert bool(stop.code) == ("--help" not in arguments), arguments
    assert "torch" not in sys.modules, arguments
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gencourse train [OPTIONS]" in done.stdout
    assert len(done.stderr.splitlines()) == len(WITHOUT_TORCH) - 4, "one sentence each"


# --- numbers --------------------------------------------------------------------------------------

NO_NUMBERS = ["", "nan", "inf", "-inf", "-1", "many", "99999999999999999999", "1e999", "9" * 5000]
NUMBERS = {(m, n) for m, kind in KINDS.items() for n in kind.options}
NUMBERS |= {("dcgan", n) for n in ("size", "seed", "checkpoint_every")}


@pytest.mark.parametrize(("model", "name"), sorted(NUMBERS))
def test_numbers_of_train_at_their_edges(model, name, gencourse, no_training):
    no_training.append(lambda: pytest.fail("it was taken"))
    flag = f"--{name.replace('_', '-')}"
    least = loops.LIMITS.get(name, (1, None))[0]
    for value in NO_NUMBERS + ["0"] * (least > 0) + ["2.5"] * isinstance(least, int):
        code, lines = gencourse("train", model, "--data", "digits", flag, value)
        assert code == 2 and len(lines) == 1 and flag in lines[0], (value, lines)


def test_numbers_just_within_their_edges_are_taken(gencourse, no_training):
    for model, name in NUMBERS - {("dcgan", "size")}:
        least, most = loops.LIMITS[name]
        if name in ("width", "z_dim", "batch_size"):  # these cost memory
            least, most = max(2, least), 8
        for value in (least, most):
            flag = f"--{name.replace('_', '-')}"
            assert gencourse("train", model, *TINY, flag, value)[0] == 0, (name, value)


@pytest.mark.parametrize("name", ["workers", "seed", "memory", "cell-seconds", "fail-under"])
def test_numbers_of_grade_at_their_edges(name, gencourse):
    for value in NO_NUMBERS:
        options = ("--assignment", "01_kl_divergence", "--out", "grades", f"--{name}", value)
        code, lines = gencourse("grade", "nowhere", *options)
        assert code == 2 and len(lines) == 1 and f"--{name}" in lines[0], (value, lines)
    assert not Path("grades").exists()


# --- words and paths ------------------------------------------------------------------------------

WORDS = {
    "data": (["--data", ""], "There is no data set ''"),
    "precision": (["--precision", ""], "There is no precision ''"),
    "tracker": (["--tracker", ""], "There is no tracker ''"),
    "out empty": (["--out", ""], "it is empty"),
    "out a file": (["--out", "FILE"], "FILE is a file; name a folder"),
    "out a device": (["--out", os.devnull], f"{os.devnull} is a file; name a folder"),
    "config a folder": (["--out", "ODD"], "ODD"),
}


@pytest.mark.parametrize("case", WORDS)
def test_words_and_paths_that_cannot_be(case, gencourse):
    Path("FILE").write_text("mine")
    Path("ODD", "config.json").mkdir(parents=True)
    code, lines = gencourse("train", "dcgan", *TINY, *WORDS[case][0])
    assert code == 2 and WORDS[case][1] in lines[-1], lines
    assert Path("FILE").read_text() == "mine"


@pytest.mark.parametrize("out", ["FILE/run", "x" * 300, "/dev/null/run", "SAMPLES"])
def test_a_folder_that_cannot_be_made(out, gencourse):
    Path("FILE").write_text("mine")
    Path("SAMPLES").mkdir()
    Path("SAMPLES", "samples").write_text("a file for a folder")
    code, lines = gencourse("train", "dcgan", *TINY, "--out", out)
    assert code == (2 if out[0] == "x" else 1) and "Can't" in lines[-1] and out in lines[-1], lines


def denied(*arguments, **options):
    raise PermissionError(13, "Permission denied", "config.json")


def full(*arguments, **options):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "function", "trouble", "code", "said"),
    [
        (Path, "mkdir", denied, 1, "Permission denied"),
        (checkpoint.os, "fsync", full, 1, "No space left on device"),
        (Path, "read_text", denied, 2, "config.json: Permission denied"),
        (Path, "unlink", denied, 1, "Permission denied"),
    ],
)
def test_rights_and_room_that_are_missing(
    owner, function, trouble, code, said, gencourse, monkeypatch
):
    assert gencourse("train", "vae", *TINY, "--out", "run")[0] == 0
    arguments = ["--fresh", "--yes"] if function != "read_text" else []
    monkeypatch.setattr(owner, function, trouble)
    found, lines = gencourse("train", "vae", *TINY, "--out", "run", *arguments)
    assert found == code and said in lines[-1], lines


def test_a_tilde_and_spaces_are_what_people_mean(gencourse, tmp_path):
    assert gencourse("train", "vae", *TINY, "--out", "~/my runs/one")[0] == 0
    assert (tmp_path / "home" / "my runs" / "one" / "vae.safetensors").exists()
    assert not Path("~").exists()
    assert gencourse("doctor", "~/my runs/one")[0] == 1  # too short a training
    run = loops.train_vae  # as a function too
    from gencourse import data, nets

    run(data.load("digits"), nets.VAE(16, 1, width=2), steps=1, out="~/two", progress=False)
    assert (tmp_path / "home" / "two" / "vae.safetensors").exists() and not Path("~").exists()


@pytest.mark.parametrize("folder", ["", "nowhere", "FILE", "FILE/x", ".", "ODD", "~/none"])
def test_the_doctor_at_edges(folder, gencourse):
    Path("FILE").write_text("")
    Path("ODD", "history.csv").mkdir(parents=True)
    code, lines = gencourse("doctor", folder)
    assert code == 2 and len(lines) == 1, lines


GRADES = {
    "no submissions": ["nowhere"],
    "empty": [""],
    "a file": ["FILE"],
    "no zip": ["NONE.zip"],
    "out empty": ["CLASS", "--out", ""],
    "out a file": ["CLASS", "--out", "FILE"],
    "assignment": ["CLASS", "--assignment", ""],
    "worksheet": ["CLASS", "--moodle-worksheet", "nowhere"],
    "worksheet a folder": ["CLASS", "--moodle-worksheet", "CLASS"],
    "worksheet empty": ["CLASS", "--moodle-worksheet", ""],
}


@pytest.mark.parametrize("case", GRADES)
def test_grade_at_edges(case, gencourse):
    for name in ("FILE", "NONE.zip"):
        Path(name).write_text("")
    Path("CLASS", "one").mkdir(parents=True)
    usual = ["--assignment", "01_kl_divergence", "--out", "grades"]
    code, lines = gencourse("grade", *usual, *GRADES[case])
    assert code == (1 if case == "out a file" else 2) and len(lines) == 1, lines


# --- memory, bugs ---------------------------------------------------------------------------------


def torch_says():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


TOO_MUCH = {
    "torch": lambda: torch.empty(2**50),
    "torch, sizes": lambda: torch.empty(2**40, 2**40),
    "cuda": torch_says,
    "numpy": lambda: np.empty(2**50),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_memory_that_is_not_there_ends_in_a_sentence(case, gencourse, no_training):
    no_training.append(TOO_MUCH[case])
    code, lines = gencourse("train", "dcgan", *TINY)
    assert code == 2 and "not enough memory" in lines[-1] and "--batch-size" in lines[-1]


def test_nets_that_do_not_fit_are_refused_before_they_are_made(gencourse, monkeypatch):
    assert gencourse("train", "vae", *TINY, "--out", "run")[0] == 0
    free = psutil.virtual_memory()._replace(available=1_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cpu"))
    wide = (*TINY, "--width", "64", "--fresh", "--yes", "--out", "run")
    code, lines = gencourse("train", "vae", *wide)
    assert code == 2 and "weights need" in lines[0] and "smaller --width" in lines[0]
    assert Path("run", "vae.safetensors").exists()


def test_a_bug_keeps_its_traceback(gencourse, no_training):
    no_training.append(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main.__globals__["sys"].argv[:] = ["gencourse", "train", "dcgan", *TINY]
        main()


# --- compile --------------------------------------------------------------------------------------


@pytest.fixture
def compile_anew(monkeypatch):
    monkeypatch.setenv("GENCOURSE_DEVICE", "cpu")
    fast.check_compile.cache_clear()
    yield
    fast.check_compile.cache_clear()


def test_without_a_compiler_nothing_begins(gencourse, monkeypatch, compile_anew, no_training):
    no_training.append(lambda: pytest.fail("it began"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(torch, "compile", lambda *_: pytest.fail("looked for first"))
    code, lines = gencourse("train", "dcgan", *TINY, "--compile", "--out", "run")
    assert code == 2 and len(lines) == 1
    assert "no C++ compiler" in lines[0] and "leave compile (--compile) out" in lines[0].lower()
    assert not Path("run").exists()


def test_whatever_compiling_meets_is_a_sentence(monkeypatch, compile_anew):
    """No headers of Python, no Triton, a Python too new: tried on one small function."""
    monkeypatch.setenv("CXX", f'"{sys.executable}" -x')  # there is a compiler, with an argument
    trouble = []

    def compiled(function):
        if trouble:
            raise RuntimeError(f"{trouble.pop()}\nand a long story")
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    trouble.append("Python.h: No such file")
    with pytest.raises(runtime.UserError, match=r"Python\.h: No such file\. Leave compile"):
        fast.check_compile()
    fast.check_compile()  # mended: an error is not remembered


# --- few bits on a processor ----------------------------------------------------------------------

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("there", "slow"),
    [
        ({"avx2", "f16c"}, {"bfloat16", "float16"}),
        ({"avx512_f", "avx512_vnni"}, {"bfloat16", "float16"}),  # has AVX512 and emulates
        ({"avx512_f", "avx512_bf16"}, {"float16"}),
        ({"amx_bf16", "avx512_fp16"}, set()),
        ({"neon", "asimdhp"}, {"bfloat16"}),
        ({"neon", "bf16", "fp16_arith"}, set()),
        (None, set()),  # nobody knows: nothing is claimed
    ],
)
def test_few_bits_are_slow_where_the_processor_lacks_them(there, slow, monkeypatch):
    monkeypatch.setattr(fast, "_instructions", lambda: there)
    for name in fast.PRECISIONS:
        sentence = fast.slow_here(getattr(torch, name), CPU)
        assert bool(sentence) == (name in slow)
        assert not sentence or (name in sentence and "several times slower" in sentence)
    assert fast.slow_here(torch.bfloat16, torch.device("cuda")) == ""


def test_precision_says_it_and_goes_on(monkeypatch, recwarn):
    monkeypatch.setattr(fast, "_instructions", lambda: {"avx2"})
    for name in (None, "float32"):
        fast.precision(name, CPU)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="no bfloat16 arithmetic"):
        assert fast.precision("bfloat16", CPU) is torch.bfloat16


@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_the_command_passes_it_on_once(rank, gencourse, monkeypatch):
    if rank:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("GENCOURSE_DEVICE", "cpu")
    monkeypatch.setattr(fast, "_instructions", lambda: {"avx2"})
    code, lines = gencourse("train", "vae", *TINY, "--precision", "bfloat16", "--out", "run")
    assert code == 0
    assert sum("no bfloat16 arithmetic" in line for line in lines) == (rank != "1")
    assert not any("Warning" in line for line in lines)


def test_what_a_processor_can_do_is_found_without_torchs_help(monkeypatch):
    """As with torch 2.6: Linux's file, Apple's sysctl, and on Windows torch's own choice."""
    asked = fast._instructions.__wrapped__
    if hasattr(torch.cpu, "get_capabilities"):
        new = asked()
        monkeypatch.delattr(torch.cpu, "get_capabilities")
        if (found := asked()) is not None and not found.isdisjoint(("avx2", "asimd")):
            for names in fast.FEW_BITS.values():
                assert bool(names & new) == bool(names & found), "both say the same"
    cpuinfo = "processor\t: 0\nFeatures\t: fp asimd asimdhp bf16\nmodel\t: x avx512_bf16\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
    assert {"asimdhp", "bf16"} <= asked() and "avx512_bf16" not in asked()

    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    said = "hw.optional.arm.FEAT_BF16: 0\nhw.optional.arm.FEAT_FP16: 1\n"
    monkeypatch.setattr(fast.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess(
        [], 0, stdout=said))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert asked() == {"FEAT_FP16"}
    monkeypatch.setattr(sys, "platform", "win32")
    for capability, found in (("AVX2", {"avx2"}), ("AVX512", None), ("SVE256", None)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        assert asked() == found
