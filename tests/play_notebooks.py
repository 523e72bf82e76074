"""Run notebooks one after another in one process, far faster than with a kernel for each.

    python tests/play_notebooks.py exercises/01_kl_divergence.ipynb …

The last line of output is JSON: for each notebook what each code cell raised (its kind, its message
and what the reader sees; or null), and what the functions it defines are worth on other seeds than
that of `check`.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from gencourse.checks import core

SEEDS = (1, 2, 3)


def played(path):
    """What a notebook's cells raise, all of them run, and verdicts (name → list of sentences)."""
    InteractiveShell.clear_instance()
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    shell = InteractiveShell.instance(config=config)
    raised = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            with contextlib.redirect_stdout(io.StringIO()) as shown:
                result = shell.run_cell(cell.source)
            error = result.error_before_exec or result.error_in_exec
            seen = [type(error).__name__, str(error), shown.getvalue()]
            raised.append(seen if error else None)
    verdicts = {}
    graded = core.assignments()[path.stem] if not any(raised) else []  # not the blank one
    for exercise in graded:
        answer = shell.user_ns[exercise.name]
        verdicts[exercise.name] = [verdict(exercise, answer, seed) for seed in SEEDS]
    return {"raised": raised, "verdicts": verdicts}


def verdict(exercise, answer, seed):
    """"" if an answer is right, else what is said; the wrong answers are asked only then."""
    outcomes = exercise.outcomes(answer, seed)
    if all(map(exercise._agree, outcomes, exercise.outcomes(exercise.right, seed))):
        return ""
    said = exercise.judge(outcomes, seed)
    return f"{said.sentence} {said.detail}"


if __name__ == "__main__":
    print(json.dumps({name: played(Path(name)) for name in sys.argv[1:]}))
