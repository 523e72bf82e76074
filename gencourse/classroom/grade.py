"""Grades students' notebooks: they run in sandboxes, and what they compute is compared out here.

A sandbox never holds a reference, an expected value or a score, so there is nothing in it to
change: whatever a notebook does to itself, it is worth what its functions return.
"""

import collections
import csv
import hashlib
import html
import io
import json
import os
import re
import secrets
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import psutil
from tqdm.auto import tqdm

from gencourse.checkpoint import make_folder, write_atomically
from gencourse.checks import core, inside
from gencourse.classroom import sandbox, submissions
from gencourse.runtime import UserError

ATTEMPTS = 5  # sandboxes for one notebook: each after the first leaves out the cell that broke it
CLASS = ("Student", "ID", "SIS Login ID", "Section")  # the columns Canvas wants first


class Grade(NamedTuple):
    """What one student gets."""

    id: str
    name: str
    system: str  # "canvas", "moodle" or ""
    verdicts: dict  # exercise → core.Verdict, without detail: that names expected values
    notes: list  # sentences about the notebook as a whole

    def score(self, exercise):
        return exercise.points * self.verdicts[exercise.name].passed


def grade(path, assignment, out, *, seed=None, workers=None, limits=None, image=None, unsafe=False):
    """Grade every submission in `path` and write grades.csv, pages and a summary into `out`.

    path: folder, .zip or notebook, see `submissions.find`. assignment: such as "01_kl_divergence".
    seed: of the inputs; by default a secret one is drawn for the folder `out` and kept there, so
    that grading again gives the same. workers: sandboxes side by side; default one per core, fewer
    where memory is short. limits: sandbox.Limits. image, unsafe: see `sandbox.Room`.
    Submissions that were graded already and did not change are not run again.
    Returns: list of Grade, sorted by id.
    Raises: UserError for an unknown assignment, a path without submissions, no sandbox.
    """
    if assignment not in core.assignments():
        known = ", ".join(core.assignments())
        raise UserError(f"There is no assignment {assignment!r}; there are {known}.")
    exercises, limits = core.assignments()[assignment], limits or sandbox.Limits()
    found = submissions.find(path)
    out = Path(out)
    seed = _seed(out, assignment, seed)
    for exercise in exercises:  # once, before the threads ask
        exercise.known(seed)
    with tempfile.TemporaryDirectory(prefix="gencourse-grade-") as course:
        sandbox.course(course)
        room = sandbox.Room(course, limits, image=image, unsafe=unsafe)
        free = psutil.virtual_memory().available
        workers = workers or max(1, min(os.cpu_count(), free // limits.memory))
        with ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(_one, s, assignment, seed, room, out) for s in found]
            try:
                for job in tqdm(as_completed(jobs), total=len(jobs), unit="notebook"):
                    job.result()
            except BaseException as stop:  # Ctrl-C, or no sandbox starts: what is graded is kept
                room.stopped = True
                pool.shutdown(cancel_futures=True)
                if isinstance(stop, KeyboardInterrupt):
                    done = "Stopped. What was graded is kept: the same command again goes on."
                    raise KeyboardInterrupt(done) from None
                raise
        grades = [job.result() for job in jobs]
    write(grades, exercises, assignment, out)
    return grades


def _seed(out, assignment, seed):
    """The seed of this folder of grades; a folder belongs to one assignment."""
    path = out / "settings.json"
    if path.exists():
        settings = json.loads(path.read_text(encoding="utf-8"))
        if settings["assignment"] != assignment:
            raise UserError(f"{out} holds grades of {settings['assignment']}: name another folder.")
        seed = settings["seed"] if seed is None else seed
    seed = secrets.randbelow(2**31) if seed is None else seed
    make_folder(out / "results")
    make_folder(out / "pages")
    _write(path, json.dumps({"assignment": assignment, "seed": seed}))
    return seed


def _one(submission, assignment, seed, room, out):
    """Grade one submission, or take its grade from an earlier run; its trouble ends here."""
    exercises = core.assignments()[assignment]
    known = Grade(submission.id, submission.name, submission.system, {}, [])
    try:
        return _graded(submission, known, exercises, assignment, seed, room, out)
    except (UserError, OSError, sandbox.Stopped):  # trouble of the teacher's machine, or Ctrl-C
        raise
    except Exception as error:  # nobody else's grade may wait for a bug that one notebook finds
        sentence = f"The grader itself failed here ({type(error).__name__}: {error}): report it."
        failed = core.Verdict(False, "grader failed", sentence)
        return known._replace(verdicts={e.name: failed for e in exercises}, notes=[sentence])


def _graded(submission, known, exercises, assignment, seed, room, out):
    """`known` with the verdicts on a submission, which are kept for the next time."""
    cells, problem = submission.notebook(assignment, [e.name for e in exercises])
    if cells is None:
        nothing = core.Verdict(False, "no notebook", problem)
        return known._replace(verdicts={e.name: nothing for e in exercises}, notes=[problem])
    path = out / "results" / f"{_file_name(submission.id)}.json"
    asked = [cells, submission.id, assignment, seed, room.kind, list(room.limits), _version()]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier["key"] == key:
            verdicts = {k: core.Verdict(*v) for k, v in earlier["verdicts"].items()}
            return known._replace(verdicts=verdicts, notes=earlier["notes"])
    verdicts, notes = play(cells, exercises, seed, room)
    _write(path, json.dumps({"key": key, "verdicts": verdicts, "notes": notes}))
    return known._replace(verdicts=verdicts, notes=notes)


def play(cells, exercises, seed, room):
    """Run a notebook's cells, ask its functions for values, and judge them.

    cells: sources. A cell that ends the process, or takes too long, is left out the next time, so
    that it doesn't hide the others. Returns: ({exercise: Verdict}, notes).
    """
    verdicts, notes, left_out, spent = {}, [], set(), 0.0

    def run(box, i):
        """Run cell i. Returns: its error, or None."""
        nonlocal spent
        if spent >= room.limits.cells:
            all_of_it = f"the cells together took longer than {room.limits.cells:g} s"
            return {"kind": "a time-out", "message": f"it was not run, {all_of_it}."}
        began = time.monotonic()
        try:
            seconds = min(room.limits.cell, room.limits.cells - spent)
            error = box.ask("cell", {"source": cells[i]}, seconds)
            # It may be made up: anything that is no text is shown as such.
            return {k: str(error.get(k))[:500] for k in ("kind", "message")} if (
                isinstance(error, dict)) else None
        finally:
            spent += time.monotonic() - began

    for _ in range(ATTEMPTS):
        todo = [e for e in exercises if e.name not in verdicts]
        if not todo:
            break
        errors = {}
        try:
            with room.open([e.name for e in exercises]) as box:
                for doing in sorted(set(range(len(cells))) - left_out):
                    errors[doing] = run(box, doing)
                # The cells may be in another order: now there is what later ones have defined.
                for doing in [i for i, e in errors.items() if e and e["kind"] == "NameError"]:
                    errors[doing] = run(box, doing)
                for doing in todo:
                    given = {"name": doing.name, "gradient": list(doing.gradient)}
                    given["cases"] = doing.inputs(seed)
                    outcomes = box.ask("call", given, room.limits.call)
                    verdicts[doing.name] = judge(doing, outcomes, seed)
        except sandbox.Ended as end:
            if isinstance(doing, core.Exercise):
                sentence = f"Calling it did not end well: {end}."
                verdicts[doing.name] = core.Verdict(False, "did not return", sentence)
            else:
                left_out.add(doing)
                notes.append(f"Cell {doing + 1} was left out: {end}.")
    notes += [f"Cell {i + 1} stopped with {_said(e)}" for i, e in errors.items() if e][:5]
    for exercise in exercises:
        sentence = f"It was not reached: after {ATTEMPTS} attempts the notebook still broke off."
        verdicts.setdefault(exercise.name, core.Verdict(False, "not reached", sentence))
    return {e.name: verdicts[e.name] for e in exercises}, notes


def judge(exercise, outcomes, seed):
    """The verdict on what came out of a sandbox, whatever that is; without its detail."""
    if outcomes is None:
        sentence = f"The notebook defines no `{exercise.name}`."
        return core.Verdict(False, "missing", sentence)
    try:
        outcomes = [inside.Outcome(**outcome) for outcome in outcomes]
        return exercise.judge(outcomes, seed)._replace(detail="")
    except Exception:  # made up by the notebook: nothing that the course's own code sends
        return core.Verdict(False, "unreadable", "What it returned can't be compared.")


def _said(error):
    kind, message = error["kind"], error["message"]
    return f"{kind}: {message.splitlines()[0][:200]}" if message.strip() else f"{kind}."


# --- what is written ------------------------------------------------------------------------------


def write(grades, exercises, assignment, out):
    """grades.csv, pages/ID.html for every student, summary.html with mistakes.png."""
    out, total = Path(out), sum(e.points for e in exercises)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow([*CLASS, assignment, *(e.name for e in exercises)])
    for one in grades:
        scores = [one.score(e) for e in exercises]
        rows.writerow([_cell(one.name), _cell(one.id), "", "", sum(scores), *scores])
        page = out / "pages" / f"{_file_name(one.id)}.html"
        _write(page, _page(one, exercises, assignment, total))
    _write(out / "grades.csv", table.getvalue())
    mistakes = collections.Counter(
        (e.name, one.verdicts[e.name].mistake)
        for one in grades for e in exercises if not one.verdicts[e.name].passed
    )
    write_atomically(out / "mistakes.png", _plot(mistakes))
    _write(out / "summary.html", _summary(grades, exercises, assignment, total, mistakes))


def fill_worksheet(worksheet, grades, exercises, out):
    """Copy the grading worksheet that Moodle gives out, with the grades filled in.

    worksheet: Moodle's CSV, with a first column of participants ("Participant 123") and a column
    "Grade" (scaled to "Maximum Grade" where that column is given).
    Returns: how many rows were filled. Raises: UserError if it is no such file.
    """
    text = Path(worksheet).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or "Grade" not in rows[0]:
        raise UserError(
            f"{worksheet} has no column Grade: download the grading worksheet from Moodle with its "
            "language set to English."
        )
    total, filled = sum(e.points for e in exercises), 0
    scores = {one.id: sum(one.score(e) for e in exercises) for one in grades}
    for row in rows:
        number = re.search(r"\d+$", next(iter(row.values())) or "")
        if number and number.group() in scores:
            most = float(row.get("Maximum Grade") or total)
            row["Grade"] = f"{scores[number.group()] / total * most:g}"
            filled += 1
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(Path(out) / "moodle.csv", table.getvalue())
    return filled


def _cell(text):
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{padding:.4rem .6rem;text-align:left;
vertical-align:top;border-bottom:1px solid #ccc}.yes{color:#0072B2}.no{color:#B34700}
img{max-width:100%}code{background:#f2f2f2;padding:0 .2em}"""


def _document(title, body):
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )


def _text(sentence):
    """A sentence as HTML, with `code` set as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(sentence))


def _page(one, exercises, assignment, total):
    lines = []
    for exercise in exercises:
        verdict = one.verdicts[exercise.name]
        mark = '<td class="yes">✓' if verdict.passed else '<td class="no">✗'
        said = _text(verdict.sentence[:1_000])
        if verdict.passed:
            said = f"Right: {said}"
        elif verdict.mistake not in ("blank", "missing", "no notebook"):
            said += f"<br>Hint: {_text(exercise.hint)}"
        score = f"{one.score(exercise)} of {exercise.points}"
        lines.append(f"<tr>{mark}<td><code>{exercise.name}</code><td>{score}<td>{said}")
    notes = "".join(f"<li>{_text(note[:1_000])}" for note in one.notes)
    points = sum(one.score(e) for e in exercises)
    return _document(
        f"{assignment} · {one.name}",
        f"<p><b>{points} of {total} points</b></p>\n<table>\n" + "\n".join(lines) + "\n</table>"
        + (f"\n<h2>What happened while the notebook ran</h2>\n<ul>{notes}</ul>" if notes else ""),
    )


def _summary(grades, exercises, assignment, total, mistakes):
    rows = []
    for exercise in exercises:
        right = sum(one.verdicts[exercise.name].passed for one in grades)
        common = [f"{_text(kind)} ({n})" for (name, kind), n in mistakes.most_common()
                  if name == exercise.name][:4]
        rows.append(
            f"<tr><td><code>{exercise.name}</code><td>{exercise.level}"
            f"<td>{right} of {len(grades)}<td>{', '.join(common)}"
        )
    points = [sum(one.score(e) for e in exercises) for one in grades]
    students = "\n".join(
        f'<tr><td><a href="pages/{_file_name(one.id)}.html">{html.escape(one.name)}</a>'
        f"<td>{html.escape(one.id)}<td>{score}"
        for one, score in zip(grades, points, strict=True)
    )
    mean = sum(points) / len(points)
    return _document(
        f"{assignment} · {len(grades)} submissions",
        f"<p>Mean {mean:.1f} of {total} points.</p>\n"
        "<table>\n<tr><th>exercise<th>level<th>right<th>most common mistakes\n"
        + "\n".join(rows)
        + '\n</table>\n<p><img src="mistakes.png" alt="Bars: how often each mistake was made, by '
        f'exercise; the table above has the most common ones."></p>\n<table>\n{students}\n</table>',
    )


def _plot(mistakes):
    """The most common mistakes as bars. Returns: PNG bytes."""
    from matplotlib.figure import Figure

    from gencourse import plot

    most = mistakes.most_common(15)[::-1]
    figure = Figure(figsize=(7, 1 + 0.3 * max(len(most), 1)), layout="constrained")
    ax = figure.subplots()
    ax.barh([f"{name}: {kind.replace('_', ' ')}" for (name, kind), _ in most],
            [count for _, count in most], color=plot.REAL)
    ax.set(xlabel="students", title="Most common mistakes")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.spines[["top", "right"]].set_visible(False)
    return plot.png(figure)


def _write(path, text):
    write_atomically(path, text.encode(errors="replace"))  # names may hold anything


def _file_name(identity):
    """A name for files, different for different ids, whatever they contain."""
    name = re.sub(r"[^\w-]+", "-", identity)[:40].strip("-")  # a letter may take 4 of 255 bytes
    if name == identity and not re.search("-[0-9a-f]{16}$", name):  # nobody else's name and hash
        return name
    whole = identity.encode(errors="surrogatepass")
    return f"{name}-{hashlib.sha256(whole).hexdigest()[:16]}"


def _version():
    """A hash of everything that decides about a grade."""
    digest = hashlib.sha256()
    for path in sorted(sandbox.PACKAGE.rglob("*.py")):  # references are all over the package
        digest.update(path.read_bytes())
    return digest.hexdigest()
