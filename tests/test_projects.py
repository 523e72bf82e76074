"""The programs in the two projects' pages run as they stand, at sizes for a test."""

import re
from pathlib import Path

import warm

PROJECTS = Path(__file__).resolve().parents[1] / "exercises" / "projects"


def programs(page):
    """The Python programs in a page, in order."""
    text = (PROJECTS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)


def smaller(program, **sizes):
    """The program with other numbers: old text → new text, each there once."""
    for old, new in sizes.values():
        assert program.count(old) == 1, old
        program = program.replace(old, new)
    return program


def run(*command, folder):
    done = warm.run(*command, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_cure_a_collapse(tmp_path):
    control, treatment = programs("cure_a_collapse.md")
    control = smaller(control, steps=("64, 1_000, 2_000", "64, 12, 400"))
    (tmp_path / "collapse.py").write_text(control, encoding="utf-8")
    (tmp_path / "cure.py").write_text(treatment, encoding="utf-8")
    said = run("collapse.py", folder=tmp_path)
    assert len(re.findall(r"^control [012]: +\d+ of 10 classes, KL .* nats", said, re.M)) == 3, said
    assert (tmp_path / "runs" / "collapse" / "control-2" / "history.csv").exists()
    assert len(re.findall(r"^half [012]: ", run("cure.py", folder=tmp_path), re.M)) == 3


def test_own_pictures(tmp_path):
    make, measure = programs("own_pictures.md")
    make = smaller(make, sizes=('("train", 2_000), ("test", 500)', '("train", 90), ("test", 60)'))
    (tmp_path / "make_folder.py").write_text(make, encoding="utf-8")
    (tmp_path / "measure.py").write_text(smaller(measure, size=("32, 1_000", "16, 1_000")))
    run("make_folder.py", folder=tmp_path)
    common = ("--data", "folder:pictures", "--size", "16", "--steps", "6")
    run("-m", "gencourse", "train", "dcgan", *common, "--width", "4", "--out", "runs/mine",
        folder=tmp_path)
    run("-m", "gencourse", "train", "classifier", *common, "--out", "runs/judge", folder=tmp_path)
    said = run("measure.py", folder=tmp_path)
    assert "nearer" in said.lower() or "copied" in said.lower(), said
    for picture in ("sheet.png", "neighbours.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
