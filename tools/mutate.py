"""Mutants of every exercise's reference, judged as a learner's answer would be.

    python tools/mutate.py [chapter or exercise …] [--seed 0] [--jobs 2] [--all] [--write]

A mutant is the reference with one small mistake in it, or in one of the functions of `gencourse`
that it calls. A mutant that passes is a survivor: the cases can't see the mistake. Either nobody
could (then tools/mutants.md says why), or a case is missing. Exit code 1: a survivor that the
table does not explain, or a line of the table that no survivor answers to.

What is not mutated: texts, annotations, what no case executes in a function that the reference
calls (options that are there for the wrong answers), and guards, `if …: raise`, that no case
trips, for no exercise asks for them. Statements of the reference itself that no case executes
are reported as survivors, "never reached".
"""

import argparse
import ast
import contextlib
import copy
import functools
import inspect
import itertools
import multiprocessing
import os
import re
import resource
import signal
import sys
import types
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import mutations
import torch
from mutations import Mutant

from gencourse.checks import core

TABLE = Path(__file__).with_name("mutants.md")
PACKAGE = "gencourse"
PLUMBING = set(  # not entered: checks of arguments, chunks, other devices, more than is asked for
    "_tensors _check_probabilities _vectors _same_shape _ends _chunks _matrix _one _pair _slices "
    "_nearest _one_extractor UserError Score Moments PARALLEL CHUNK_BYTES".split()
)
GENERAL = {"value", "not finite"}  # what is said where nothing better is known
EQUIVALENT = "\n## Equivalent\n"  # the table's part that people write
SECONDS, MEMORY = 5, 4 << 30  # a mutant's time and space
STOPPED = "stopped"  # endless, or the process died
FORK = multiprocessing.get_context("fork")  # each fork has torch, and dies alone


# --- a copy of the reference, and of all that it calls --------------------------------------------


@functools.cache
def definitions(module):
    """Name → definition (function, class or assignment) of a module's top level."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
    return found


def home(module, name):
    """(module, name) where what a module calls `name` is defined, or None: not in gencourse."""
    value = vars(module).get(name)
    if isinstance(value, (core.Exercise, types.ModuleType)) or name in PLUMBING:
        return None
    if hasattr(value, "__name__") and str(getattr(value, "__module__", "")).startswith(PACKAGE):
        module, name = sys.modules[value.__module__], value.__name__
    return (module, name) if name in definitions(module) else None


def reached(module, name):
    """All (module, name) that a definition uses, itself last; a definition behind what it uses."""
    found = {}

    def visit(module, name):
        found[module, name] = None
        tree = definitions(module)[name]
        own = mutations.set_in(tree) | {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)}
        for node in ast.walk(tree):
            match node:
                case ast.Name(used) if used not in own or used == name:
                    there = home(module, used)
                case ast.Attribute(ast.Name(of), used):
                    other = vars(module).get(of)
                    there = home(other, used) if _is_ours(other) else None
                case _:
                    continue
            if there and there not in found:
                visit(*there)
        found[module, name] = found.pop((module, name))

    visit(module, name)
    return list(found)


def _is_ours(value):
    return isinstance(value, types.ModuleType) and value.__name__.startswith(PACKAGE)


def is_registering(module, decorator):
    """Whether a decorator makes a function part of an exercise."""
    names = [n for n in ast.walk(decorator) if isinstance(n, ast.Name)]
    return any(isinstance(vars(module).get(n.id), core.Exercise) for n in names)


def rebuilt(trees, names, seen=None):
    """The last of `names`, from `trees`, in copies of their modules: the real ones don't change.

    trees: {(module, name): definition}; names: its keys, each behind what it uses.
    """
    copies = {module: types.ModuleType(module.__name__) for module, _ in names}
    for module, new in copies.items():
        vars(new).update(vars(module), __seen__=None if seen is None else seen.add)
        for name, value in vars(module).items():
            if isinstance(value, types.ModuleType) and value in copies:
                setattr(new, name, copies[value])
    for module, name in names:
        tree = copy.copy(trees[module, name])
        if hasattr(tree, "decorator_list"):
            kept = [d for d in tree.decorator_list if not is_registering(module, d)]
            tree.decorator_list = kept
        code = ast.fix_missing_locations(ast.Module([tree], []))
        exec(compile(code, f"<mutant of {name}>", "exec"), vars(copies[module]))
        old, new = vars(module)[name], vars(copies[module])[name]
        for other in copies.values():  # `from … import name`
            for alias in [k for k, v in vars(other).items()
                          if v is old and (callable(v) or k == name)]:
                setattr(other, alias, new)
    return new


# --- judging --------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    mistake: str  # of its verdict ("": it passes), or STOPPED
    named: bool  # whether the mistake is one of the exercise's wrong answers

    @property
    def kind(self):
        known = {"": "survived", STOPPED: "stopped"} | dict.fromkeys(GENERAL, "general")
        return "named" if self.named else known.get(self.mistake, "fault")


def mutants_of(exercise, seed):
    """(mutant, a function that makes its answer) for all that the reference executes.

    Raises: RuntimeError if a copy of the reference that has no mistake does not pass.
    """
    names = reached(*home(sys.modules[exercise.right.__module__], exercise.right.__name__))
    plain = [definitions(module)[name] for module, name in names]
    trees = dict(zip(names, mutations.written_out(plain), strict=True))
    probed = {key: mutations.probed(tree, str(key)) for key, tree in trees.items()}
    seen = set()
    verdict = exercise.judge(exercise.outcomes(rebuilt(probed, names, seen), seed), seed)
    if not verdict.passed:
        raise RuntimeError(f"A copy of {exercise.name}'s reference does not pass: {verdict}")
    for key, tree in trees.items():
        executed = {number for where, number in seen if where == str(key)}
        file, own = Path(key[0].__file__).name, key == names[-1]
        for mutant in mutations.mutants(tree, executed, own, file, PLUMBING):
            yield mutant, functools.partial(rebuilt, trees | {key: mutant.tree or tree}, names)


def work(exercise, seed, seconds, start, sink):
    """In a process of its own: each mutant from the `start`-th on, and what is said of it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    exercise.known(seed)  # on nobody's time
    for mutant, build in itertools.islice(mutants_of(exercise, seed), start, None):
        sink.send(mutant._replace(tree=None))
        signal.setitimer(signal.ITIMER_REAL, seconds)  # nobody catches it: the process dies
        try:
            with torch.enable_grad(), contextlib.redirect_stdout(None):
                mistake = exercise.judge(exercise.outcomes(build(), seed), seed).mistake
        except Exception as error:  # of the definition itself, or of the checker
            mistake = type(error).__name__
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.send(mistake)
    sink.send(None)


def judged(exercise, seed=0, seconds=SECONDS):
    """All mutants of an exercise's reference, each with what became of it: a list of Judged.

    seconds: a mutant may take. Raises: RuntimeError if the reference itself can't be judged.
    """
    found, names, mutant = [], {wrong.name for wrong in exercise.wrongs}, True
    while mutant is not None:
        before = len(found)
        source, sink = FORK.Pipe(duplex=False)
        worker = FORK.Process(target=work, args=(exercise, seed, seconds, before, sink))
        worker.start()
        sink.close()
        with contextlib.suppress(EOFError):  # it died: the next process goes on behind it
            while mutant := source.recv():
                found.append(Judged(mutant, STOPPED, False))
                mistake = source.recv()
                found[-1] = Judged(mutant, mistake, mistake in names)
        worker.join()
        if mutant and len(found) == before:
            raise RuntimeError(f"The mutants of {exercise.name} can't be judged: see above.")
    return found


# --- the table, and the command -------------------------------------------------------------------

KINDS = ("named", "fault", "general", "stopped", "survived")
ENTRY = re.compile(r"- `(\w+)` (\w+): `(.*)` → `(.*)`")


def explained(text):
    """{(exercise, operator, before, after): why} of a table. Raises: ValueError for a bad line."""
    found, why = {}, ""
    for line in text.partition(EQUIVALENT)[2].splitlines():
        if match := ENTRY.fullmatch(line):
            if not why:
                raise ValueError(f"This line of the table has no reason above it: {line}")
            found[match.groups()] = why
        elif line.startswith("- "):
            raise ValueError(f"This line of the table can't be read: {line}")
        elif line.startswith("#"):
            why = ""
        elif line.strip():
            why = line.strip()
    return found


def entry(name, mutant):
    """A survivor as a line of the table."""
    return f"- `{name}` {mutant.operator}: `{mutant.before}` → `{mutant.after}`"


def counts(results):
    """The table's numbers: a row for each exercise, and their sum."""
    lines = [f"| exercise | mutants | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 2) + "|"]
    rows = {name: Counter(j.kind for j in found) for name, found in results.items()}
    rows["**all**"] = sum(rows.values(), Counter())
    for name, row in rows.items():
        lines.append(f"| {name} | {row.total()} | {' | '.join(str(row[k]) for k in KINDS)} |")
    return "\n".join(lines)


def problems(results, table):
    """(unexplained survivors as (exercise, Judged), stale keys) of results against a table."""
    keys, survivors = set(), []
    for name, found in results.items():
        for one in found:
            key = (name, one.mutant.operator, one.mutant.before, one.mutant.after)
            if one.kind == "survived":
                keys.add(key)
                if key not in table:
                    survivors.append((name, one))
    return survivors, [key for key in table if key[0] in results and key not in keys]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", help="chapters or exercises, such as 05_dcgan or kl")
    parser.add_argument("--seed", type=int, default=0, help="of the cases; 0 is that of `check`")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--all", action="store_true", help="print the killed ones too")
    parser.add_argument("--write", action="store_true", help="the numbers, into the table")
    given = parser.parse_args(arguments)
    chosen = [e for stem, several in core.assignments().items() for e in several
              if not given.which or {stem, stem[:2], e.name} & set(given.which)]
    torch.optim.SGD([torch.zeros(1)])  # imports what takes seconds, once for all forks
    text = TABLE.read_text(encoding="utf-8")
    results = {}
    with ProcessPoolExecutor(given.jobs, mp_context=FORK) as pool:
        judging = pool.map(functools.partial(by_name, seed=given.seed), [e.name for e in chosen])
        for exercise, found in zip(chosen, judging, strict=True):
            results[exercise.name] = found
            for one in found if given.all else ():
                shown = f"{one.kind} ({one.mistake})" if one.mistake else one.kind
                print(f"{one.mutant.place} {shown}\n{entry(exercise.name, one.mutant)}")
    print(counts(results))
    if given.write and not given.which and not given.seed:
        old = re.search(r"\| exercise .*?\n\n", text, re.S)[0]
        TABLE.write_text(text.replace(old, f"{counts(results)}\n\n"), encoding="utf-8")
    survivors, stale = problems(results, explained(text))
    for name, one in survivors:
        print(f"{one.mutant.place} survives: a case is missing, or the table's reason\n"
              f"{entry(name, one.mutant)}")
    for name, operator, before, after in stale:
        print(f"No such survivor any more, take it off the table:\n"
              f"{entry(name, Mutant('', operator, before, after))}")
    return bool(survivors or stale)


def by_name(name, seed):
    return judged(core.exercises()[name], seed)


if __name__ == "__main__":
    sys.exit(main())
