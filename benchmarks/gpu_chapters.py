"""Do chapters run on this GPU, and what do they draw? → results/gpu_chapters-PROFILE-cuda.json

    python benchmarks/gpu_chapters.py --profile smoke --jobs 4           # every chapter
    python benchmarks/gpu_chapters.py --profile gpu 05 08 --pictures     # two of them to the end

Runs the texts' code cells in IPython, with neither Jupyter nor jupytext: a machine that was lent
may have none. Each chapter has a process of its own. After each cell its row is written anew (cells
so far, seconds, what failed), so that an interrupted call keeps what it has; with --pictures every
figure lies in results/pictures besides.

--prefix: words before each process's script, such as "tests/pretend_cuda.py T4" to try all this.
"""

import argparse
import concurrent.futures
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ROOT / "chapters" / "text"
PICTURES = ROOT / "benchmarks" / "results" / "pictures"


def code_cells(text):
    """The code cells of a py:percent text as (code, whether it is meant to fail).

    Without the cell that installs the course.
    """
    cells = [cell.partition("\n") for cell in re.split(r"^# %%", text, flags=re.M)[1:]]
    return [
        (body, "raises-exception" in head)
        for head, _, body in cells
        if "[markdown]" not in head and '"install"' not in head
    ]


def play(path, report_path, pictures):
    """Run one text here; the report is rewritten after each cell."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from gencourse import plot

    show, count = plot.show, 0

    def shown(figure, **options):
        nonlocal count
        count += 1
        saved = getattr(figure, "figure", figure)  # of axes theirs
        saved.savefig(PICTURES / f"{path.stem}-{count:02}.png", dpi=110)
        show(figure, **options)

    if pictures:
        PICTURES.mkdir(parents=True, exist_ok=True)
        plot.show = shown
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    shell = InteractiveShell.instance(config=config)
    cells, began = code_cells(path.read_text(encoding="utf-8")), time.perf_counter()
    row = {"chapter": path.stem, "cells": 0, "of": len(cells), "failed": [], "slowest": []}
    for number, (cell, may_fail) in enumerate(cells):
        start, said = time.perf_counter(), io.StringIO()
        with contextlib.redirect_stdout(said):
            result = shell.run_cell(cell)
        error = result.error_before_exec or result.error_in_exec
        if error and not may_fail:
            lines = [x for x in cell.splitlines() if x.strip()]
            row["failed"].append({"cell": number, "begins": lines[0] if lines else "",
                                  "error": f"{type(error).__name__}: {error}"[:1_000],
                                  "seen": said.getvalue()[-1_500:]})
        row["cells"] = number + 1
        row["slowest"].append([round(time.perf_counter() - start, 2), cell.strip()[:60]])
        row["slowest"] = sorted(row["slowest"], reverse=True)[:5]
        row["seconds"] = round(time.perf_counter() - began, 1)
        row["said"] = (row.get("said", "") + said.getvalue())[-6_000:]
        report_path.write_text(json.dumps(row), encoding="utf-8")


def chapter(stem, folder, arguments):
    """One chapter in a process of its own, for --seconds at most. Returns: its row."""
    report_path = Path(folder) / f"{stem}.json"
    environment = os.environ | {
        "GENCOURSE_PROFILE": arguments.profile, "GENCOURSE_STATIC": "1", "MPLBACKEND": "agg",
        "GENCOURSE_RUNS": os.environ.get("GENCOURSE_RUNS", str(Path(folder) / "runs" / stem)),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, *arguments.prefix.split(), __file__, stem, "--here", report_path]
    command += ["--pictures"] if arguments.pictures else []
    ended = "in time"
    try:
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True,
                              timeout=arguments.seconds)
        if done.returncode:
            ended = f"exit {done.returncode}: {done.stderr[-1_000:]}"
    except subprocess.TimeoutExpired:
        ended = f"stopped after {arguments.seconds:g} s"
    found = {"chapter": stem, "cells": 0, "of": 0, "failed": []}
    if report_path.exists():
        found = json.loads(report_path.read_text(encoding="utf-8"))
    finished = found["cells"] == found["of"] > 0 and ended == "in time"
    return found | {"ended": ended, "ok": finished and not found["failed"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="such as 05; default: all")
    parser.add_argument("--profile", choices=("smoke", "cpu", "gpu"), default="smoke")
    parser.add_argument("--seconds", type=float, default=200.0, help="for each chapter, at most")
    parser.add_argument("--jobs", type=int, default=1, help="side by side")
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--prefix", default="")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    stems = sorted(p.stem for p in TEXTS.glob("[0-9][0-9]_*.py"))
    if arguments.chapters:
        stems = [s for s in stems if s.startswith(tuple(arguments.chapters))]
    if arguments.here:
        return play(TEXTS / f"{stems[0]}.py", arguments.here, arguments.pictures)

    import report

    rows = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            for done in concurrent.futures.as_completed(
                pool.submit(chapter, stem, folder, arguments) for stem in stems
            ):
                rows.append(done.result())
                rows.sort(key=lambda row: row["chapter"])
                report.save(f"gpu_chapters-{arguments.profile}", rows,
                            pretended=bool(arguments.prefix))
                row = done.result()
                print(f"{row['chapter']}: {'right' if row['ok'] else 'WRONG'}, {row['cells']} of "
                      f"{row['of']} cells in {row.get('seconds', 0):.0f} s, ended "
                      f"{row['ended'][-300:]}", flush=True)
                for failed in row["failed"]:
                    print(f"    {failed['begins'][:70]}: {failed['error'][:300]}", flush=True)
    if wrong := [row["chapter"] for row in rows if not row["ok"]]:
        raise SystemExit("Not right: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
