"""Make the notebooks from their texts, run them, and stamp them with what was measured.

    python tools/build.py one 05_dcgan        # text → chapter, run with the cpu profile, stamp
    python tools/build.py changed             # the same for every chapter whose code changed
    python tools/build.py solutions           # every solution: text → notebook, run → exercises
    python tools/build.py solutions 05_dcgan  # the same for one
    python tools/build.py sync                # prose edits: text → notebook, nothing run
    python tools/build.py check               # what is not as it should be, in sentences
    python tools/build.py check 05_dcgan      # the same for one chapter and its solution

The text is the source: nothing ever flows from a notebook back into it, but for the stamp, the
Colab link and the install cell, which this script writes. exercises/ is made from solutions/.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import glossary
import ipykernel.kernelspec
import nbformat
import rules
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupytext.combine import combine_inputs_with_outputs
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

import exercises

CELL_TIMEOUT = 1800  # [s] above any cell of a `cpu` run; a cell that hangs must not hang the build
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}

# Runs in the kernel after the last cell and leaves no trace in the notebook.
MEASURE = """
def _measure():
    import json, sys
    from gencourse import runtime
    try:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_mb = peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kB elsewhere
    except ImportError:  # Windows
        import psutil
        peak_mb = psutil.Process().memory_info().peak_wset / 1e6
    data = sys.modules.get("gencourse.data")
    names = {v.name for v in list(globals().values()) if data and isinstance(v, data.Images)}
    names = {n.split(":")[0] for n in names}  # a folder's place is nobody's business
    machine = runtime.describe().split(" · ", 1)[1]  # the profile is said already
    print("GENCOURSE" + json.dumps([round(peak_mb), sorted(names), machine]))
_measure()
"""


class BuildError(Exception):
    """A notebook that can't be built; the message says why. What was there stays."""


class ThisPython(KernelSpecManager):
    """Kernels of the interpreter that runs the build, whatever `python3` means elsewhere."""

    def get_kernel_spec(self, kernel_name):
        return KernelSpec(resource_dir=ipykernel.kernelspec.RESOURCES, **get_kernel_dict())


def write(path, text):
    """Replace a file in one step, so that a build that is stopped leaves no half of one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".build-")
    with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    os.chmod(name, 0o644)
    os.replace(name, path)


def combined(text, previous):
    """The notebook of a text, with cell ids and outputs of `previous` (None: a new notebook)."""
    notebook = rules.from_text(text)
    mark = previous.metadata.get("gencourse") if previous else None
    if previous is not None:
        previous = nbformat.from_dict(previous)  # a copy: the cells are reused
        notebook = combine_inputs_with_outputs(notebook, previous, fmt="py:percent")
    metadata = NOTEBOOK_METADATA | ({"gencourse": mark} if mark else {})
    notebook.metadata = nbformat.from_dict(metadata)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": rules.tags(cell)} if rules.tags(cell) else {})
    return notebook


def save(stem, previous, home=None):
    """Write text and notebook so that they agree; outputs and stamp are those of `previous`.

    home: None for a chapter; the folder of solutions for one of them, and for its exercises.
    """
    stamp = previous.metadata.get("gencourse") if previous else None
    old = rules.read_text(stem, home)
    text = rules.filled(old, stem, stamp, home)
    if text != old:
        write(rules.text_path(stem, home), text)
    notebook = combined(text, previous)
    if home:
        exercises.mark(notebook, stem)
    nbformat.validate(notebook)
    sources = {rules.notebook_path(stem, home): nbformat.writes(notebook) + "\n"}
    if home:
        try:
            sources[rules.EXERCISES / f"{stem}.ipynb"] = exercises.generated(notebook)
        except exercises.NotMade as error:
            raise BuildError(f"{stem}: nbgrader can't make the exercises: {error}") from None
    for path, source in sources.items():
        if not path.exists() or path.read_text(encoding="utf-8") != source:
            write(path, source)
    for name, content in rules.pictures(notebook).items():
        if content:
            (rules.PICTURES / name).write_bytes(content)


def save_readme():
    notebooks = {stem: rules.read_notebook(stem) for stem in rules.stems()}
    stamps = {s: n.metadata.get("gencourse") if n else None for s, n in notebooks.items()}
    old = rules.README.read_text(encoding="utf-8")
    new = rules.filled_readme(old, stamps)
    if new != old:
        write(rules.README, new)


def save_glossary():
    write(glossary.GLOSSARY, glossary.current())


def execute(notebook, profile, runs):
    """Run every cell in place.

    runs: folder for the trainings; empty but for those whose time is known already.
    Returns: (seconds, peak_mb, data, machine).
    Raises: BuildError, with the cell and its traceback.
    """
    env = os.environ | {
        "GENCOURSE_PROFILE": profile,
        "GENCOURSE_STATIC": "1",
        "GENCOURSE_RUNS": str(runs),
    }
    if profile != "gpu":
        env["GENCOURSE_DEVICE"] = "cpu"
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_spec_manager=ThisPython()),
        timeout=CELL_TIMEOUT,
        startup_timeout=120,
        coalesce_streams=True,
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(rules.CHAPTERS)}},
    )
    return asyncio.run(_execute(client, env))


async def _execute(client, env):
    cells = client.nb.cells
    async with client.async_setup_kernel(cleanup_kc=True, env=env):
        start = time.monotonic()
        for i, cell in enumerate(cells):
            if cell.cell_type == "code":
                begin = time.monotonic()
                await _run_cell(client, cell, i)
                first = cell.source.split("\n", 1)[0][:60]
                print(f"  {time.monotonic() - begin:7.1f} s  {first}", flush=True)
        seconds = time.monotonic() - start
        probe = nbformat.v4.new_code_cell(MEASURE)
        cells.append(probe)
        try:
            await _run_cell(client, probe, len(cells) - 1)
        finally:
            cells.pop()
    said = "".join(o.text for o in probe.outputs if o.output_type == "stream")
    return seconds, *json.loads(said.split("GENCOURSE", 1)[1])


async def _run_cell(client, cell, index):
    cell.outputs, cell.execution_count = [], None
    try:
        await client.async_execute_cell(cell, index)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise BuildError(f"This cell failed:\n\n{cell.source}\n\n{error}") from None


BAR = re.compile(r"^.*\d+%\|.*\|.*$|^\d+it \[.*\]$")  # a tqdm progress bar


def clean(notebook, replacements):
    """Leave out what differs from run to run: widgets, progress bars, this machine's folders."""
    for cell in rules.code_cells(notebook):
        kept = []
        for output in cell.outputs:
            data = output.get("data", {})
            if any("widget-view" in mime for mime in data):
                for mime in [m for m in data if "widget-view" in m]:
                    del data[mime]
                if set(data) <= {"text/plain"}:
                    continue  # a progress bar or a bare widget; a static picture stays
            if output.output_type == "stream":
                lines = output.text.split("\n")
                output.text = "\n".join(x for x in lines if not BAR.match(x))
                for found, shown in replacements.items():
                    output.text = output.text.replace(found, shown)
                if not output.text.strip() and output.name == "stderr":
                    continue
            for mime, value in data.items():
                if mime.startswith("text/"):
                    for found, shown in replacements.items():
                        value = value.replace(found, shown)
                    data[mime] = value
            if "transient" in output:
                del output["transient"]
            kept.append(output)
        cell.outputs = kept
    notebook.metadata.pop("widgets", None)


def build(stem, profile, found=None, keep=None):
    """Text → notebook, run, stamp; on any failure the notebook stays what it was.

    found: folder of finished runs that the chapter starts from, or None for an empty one. The stamp
    says how many they are, because the run time is without them. keep: folder that gets the
    chapter's runs, or None to throw them away.
    """
    if profile == "gpu":
        _require_gpu()
    previous = rules.read_notebook(stem)
    text = rules.filled(rules.read_text(stem), stem, None)
    notebook = combined(text, previous)
    code_hash = rules.code_hash(notebook, profile)
    found_runs = len(list(Path(found).rglob("config.json"))) if found else 0
    seconds, peak_mb, data, machine = _run(stem, notebook, profile, found, keep)
    earlier = (previous.metadata.get("gencourse") or {}) if previous else {}
    measured = {**earlier.get("seconds_by_profile", {}), profile: round(seconds, 1)}
    notebook.metadata["gencourse"] = {
        "code_hash": code_hash,
        "profile": profile,
        "data": data,
        "seconds": round(seconds, 1),
        "found_runs": found_runs,
        "peak_mb": peak_mb,
        "machine": machine,
        "seconds_by_profile": measured,
    }
    save(stem, notebook)  # reads the text again: prose edited meanwhile is kept
    save_readme()
    print(f"{stem}: {rules.minutes(seconds)} min, peak memory {peak_mb} MB, {machine}")


def _run(stem, notebook, profile, found=None, keep=None):
    """Run a notebook in a folder of its own, clean it, and return what `execute` does."""
    print(f"{stem}: running with the {profile} profile", flush=True)
    with tempfile.TemporaryDirectory(prefix="gencourse-", ignore_cleanup_errors=True) as runs:
        if found:
            shutil.copytree(found, runs, dirs_exist_ok=True)
        try:
            measured = execute(notebook, profile, Path(runs))
        except BuildError as error:
            raise BuildError(f"{stem} was not built, its notebook is unchanged. {error}") from None
        if keep:
            shutil.copytree(runs, keep, dirs_exist_ok=True)
        folders = {runs: "runs"}
        if data_folder := os.environ.get("GENCOURSE_DATA"):
            folders[data_folder] = "$GENCOURSE_DATA"
        clean(notebook, folders)
    return measured


def build_solution(stem):
    """Text → solution, run → exercises; on any failure both notebooks stay what they were."""
    home = rules.SOLUTIONS
    text = rules.filled(rules.read_text(stem, home), stem, None, home)
    notebook = combined(text, rules.read_notebook(stem, home))
    code_hash = rules.code_hash(notebook)
    seconds, *_ = _run(stem, notebook, "cpu")
    notebook.metadata["gencourse"] = {"code_hash": code_hash}
    save(stem, notebook, home)
    print(f"solutions/{stem} and exercises/{stem}: {seconds:.0f} s")


def _require_gpu():
    program = "from gencourse import runtime; print(runtime.device().type)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if found.stdout.strip() in ("", "cpu"):
        raise BuildError("No GPU was found here: the gpu profile is measured on one.")


def changed():
    """The chapters that are not built yet, or whose code differs from what was run."""
    found = []
    for stem in rules.stems():
        notebook = rules.read_notebook(stem)
        mark = notebook.metadata.get("gencourse") if notebook else None
        now = rules.from_text(rules.read_text(stem))
        if not mark or mark["code_hash"] != rules.code_hash(now, mark["profile"]):
            found.append(stem)
    return found


def problems(stems=()):
    """Sentences about these chapters and their solutions, or about everything and the README."""
    solved = rules.stems(rules.SOLUTIONS / "text")
    found = [sentence for stem in stems or rules.stems() for sentence in rules.chapter(stem)]
    found += [x for s in solved if s in stems or not stems for x in exercises.solution(s)]
    if stems:
        return found
    return found + rules.orphans() + exercises.orphans() + rules.readme() + glossary.problems()


def _stem(name, stems):
    """05, 05_dcgan, chapters/text/05_dcgan.py: all name the same one of these."""
    wanted = Path(name).stem
    found = [s for s in stems if s == wanted or s.startswith(wanted + "_")]
    if len(found) != 1:
        raise BuildError(f"There is no {name!r}; there are {', '.join(stems) or 'none'}.")
    return found[0]


def main():
    parser = argparse.ArgumentParser(description="Build the notebooks from their texts.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("one", help="build the chapters named, such as 05_dcgan")
    one.add_argument("chapter", nargs="+")
    more = commands.add_parser("changed", help="build every chapter whose code changed")
    for command in (one, more):
        command.add_argument("--profile", choices=("cpu", "gpu", "smoke"), default="cpu")
    one.add_argument("--runs", type=Path, help="finished runs that the chapters may find")
    one.add_argument("--keep", type=Path, help="where the chapters' runs are left, for others")
    solutions = commands.add_parser("solutions", help="run solutions and make their exercises")
    solutions.add_argument("solution", nargs="*", help="such as 05_dcgan; none: all of them")
    commands.add_parser("sync", help="take over prose edits; nothing is run")
    check = commands.add_parser("check", help="say what is not as it should be")
    check.add_argument("chapter", nargs="*")
    arguments = parser.parse_args()
    try:
        if arguments.command in ("one", "changed"):
            named = arguments.command == "one"
            if named and arguments.runs and not arguments.runs.is_dir():
                raise BuildError(f"--runs {arguments.runs} is no folder.")
            stems = rules.stems()
            for stem in [_stem(c, stems) for c in arguments.chapter] if named else changed():
                runs = (arguments.runs, arguments.keep) if named else (None, None)
                build(stem, arguments.profile, *runs)
                print("\n".join(rules.chapter(stem)))
        if arguments.command == "solutions":
            stems = rules.stems(rules.SOLUTIONS / "text")
            for stem in [_stem(s, stems) for s in arguments.solution] or stems:
                build_solution(stem)
                print("\n".join(exercises.solution(stem)))
        if arguments.command in ("sync", "changed"):
            for home in (None, rules.SOLUTIONS):
                for stem in rules.stems(home / "text" if home else rules.TEXT):
                    if notebook := rules.read_notebook(stem, home):
                        save(stem, notebook, home)
            save_readme()
            save_glossary()
        if arguments.command == "check":
            if found := problems([_stem(c, rules.stems()) for c in arguments.chapter]):
                raise BuildError("\n".join(found))
            print("Texts, notebooks, stamps and the README agree, and every rule is kept.")
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
