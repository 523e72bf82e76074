"""Run notebooks one after another in one process, far faster than with a kernel for each.

    python tests/play_notebooks.py exercises/01_kl_divergence.ipynb …

The last line of output is JSON: for each notebook what each code cell raised: its kind, its message
and what the reader sees; or null.
"""

import contextlib
import io
import json
import sys

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


def raised(path):
    """What a notebook's cells raise, one after the other and all of them."""
    InteractiveShell.clear_instance()
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    shell = InteractiveShell.instance(config=config)
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            with contextlib.redirect_stdout(io.StringIO()) as shown:
                result = shell.run_cell(cell.source)
            error = result.error_before_exec or result.error_in_exec
            seen = [type(error).__name__, str(error), shown.getvalue()]
            found.append(seen if error else None)
    return found


if __name__ == "__main__":
    print(json.dumps({path: raised(path) for path in sys.argv[1:]}))
