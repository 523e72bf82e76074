"""Exercises, and what is said about an answer: one definition for learners, tests and teachers.

An `Exercise` holds inputs drawn from a seed, a reference, and the wrong answers that people really
give, each with its sentence. `check` asks it in the notebook; the tests and `gencourse grade` ask
the same.
"""

import difflib
import functools
import importlib
import textwrap
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from gencourse.checks import inside, values

CHAPTERS = sorted(path.stem for path in Path(__file__).parent.glob("chapter_[0-9][0-9].py"))
INPUTS = ("cpu",)  # the device of all cases
POINTS = {"warm-up": 1, "core": 2, "stretch": 3}
STUB = f'raise NotImplementedError("{inside.BLANK}")'


class Wrong(NamedTuple):
    """A wrong answer that has a name, and what to say to whoever gives it."""

    name: str
    sentence: str
    answer: object


class Verdict(NamedTuple):
    """What an answer is worth."""

    passed: bool
    mistake: str  # "" if passed, the name of a wrong answer, or what kind of fault it is
    sentence: str
    detail: str = ""  # the first input where the values differ, with the expected value


class Exercise:
    """One function (or class) that a learner writes.

    name: what it must be called. level: "warm-up", "core" or "stretch". minutes: it takes.
    tests: what a pass means, one sentence. hint: for whoever fails without a known mistake.
    gradient: the inputs through which the result must be differentiable.
    rtol, atol: how far values may be from the reference's: atol + rtol·|reference|.

    Then, as decorators: `@exercise.cases` on a function that draws a list of inputs (each a dict,
    in the order of the arguments) from a torch.Generator; `@exercise.reference` on the right
    answer; `@exercise.wrong(sentence)` on each wrong one.
    """

    def __init__(self, name, *, level, minutes, tests, hint, gradient=(), rtol=1e-4, atol=1e-6):
        self.name, self.level, self.minutes, self.tests, self.hint = (
            name, level, minutes, tests, hint,
        )
        self.gradient, self.rtol, self.atol = gradient, rtol, atol
        self.points = POINTS[level]
        self.wrongs = []
        self.known = functools.lru_cache(maxsize=4)(self._known)

    def cases(self, draw):
        self.draw = draw
        return draw

    def reference(self, answer):
        self.right = answer
        return answer

    def wrong(self, sentence):
        def add(answer):
            self.wrongs.append(Wrong(answer.__name__, sentence, answer))
            return answer

        return add

    def inputs(self, seed):
        """The cases of a seed, the same for everyone who is asked with it."""
        return self.draw(torch.Generator().manual_seed(seed))

    def outcomes(self, answer, seed):
        """What an answer does with every case of a seed."""
        with torch.random.fork_rng(devices=[]):  # a learner's own random numbers go on as before
            return [inside.outcome(self.name, answer, case, self.gradient)
                    for case in self.inputs(seed)]

    def _known(self, seed):
        """The outcomes of the reference, and of each wrong answer."""
        with warnings.catch_warnings():  # a wrong answer's warnings are none of the learner's
            warnings.simplefilter("ignore")
            wrongs = [(wrong, self.outcomes(wrong.answer, seed)) for wrong in self.wrongs]
            return self.outcomes(self.right, seed), wrongs

    def judge(self, outcomes, seed):
        """Say what outcomes of some answer, on the cases of a seed, are worth. Returns: Verdict."""
        right, wrongs = self.known(seed)
        differing = [i for i, pair in enumerate(zip(outcomes, right, strict=True))
                     if not self._agree(*pair)]
        if not differing:
            return Verdict(True, "", self.tests)
        error = outcomes[differing[0]].error
        if error and error["message"] == inside.BLANK:
            return Verdict(False, "blank", f"This is still blank: {inside.BLANK}.")
        if wrong := self._recognise(outcomes, right, wrongs):
            return Verdict(False, wrong.name, wrong.sentence)
        first = differing[0]
        case = self.inputs(seed)[first]
        mistake, sentence, detail = self._fault(outcomes[first], right[first], case)
        return Verdict(False, mistake, sentence, detail)

    def _agree(self, one, other):
        """Whether two outcomes are the same but for rounding."""
        if one.error or other.error:
            return bool(one.error and other.error) and one.error["kind"] == other.error["kind"]
        return (
            self._close(one.value, other.value)
            and not _elsewhere(one, other)
            and one.changed == other.changed
            and self._close(one.gradients, other.gradients)
        )

    def _close(self, one, other):
        return _difference(one, other, self.rtol, self.atol) is None

    def _recognise(self, outcomes, right, wrongs):
        """The wrong answer that these outcomes are those of, or None.

        They must agree in a case where it differs from the reference; elsewhere they must agree
        too, unless they fail or are not finite there: who has one mistake often has another.
        """
        best, most = None, 0
        for wrong, its in wrongs:
            shared = 0
            for one, good, bad in zip(outcomes, right, its, strict=True):
                if self._agree(one, bad):
                    shared += not self._agree(good, bad)
                elif not (one.error or _not_finite(one.value)):
                    break
            else:
                if shared > most:
                    best, most = wrong, shared
        return best

    def _fault(self, one, good, case):
        """(kind, sentence, detail) of the first way in which an outcome is not the reference's."""
        shown = f"Input: {_show_case(case)}."
        if one.error:
            return "exception", _error_sentence(one.error), shown
        if one.value is None and good.value is not None:
            return "nothing", "It returns nothing (None): is a `return` missing?", shown
        if _elsewhere(one, good):
            here, there = " and ".join(one.devices), " and ".join(good.devices or INPUTS)
            sentence = f"The result lies on the device {here}, the inputs on {there}."
            return "device", sentence, shown
        if difference := _difference(one.value, good.value, self.rtol, self.atol):
            kind, sentence, detail = difference
            return kind, sentence, f"{shown} {detail}"
        if one.changed:
            names = " and ".join(f"`{name}`" for name in one.changed)
            sentence = f"The values are right, but {names} changed in place: work on a copy."
            return "in-place", sentence, shown
        return *self._gradient_fault(one.gradients, good.gradients), shown

    def _gradient_fault(self, one, good):
        if isinstance(one, str):
            return "gradient", f"The values are right, but asking for their gradient fails: {one}"
        names = [k for k in good if not self._close((one or {}).get(k), good[k])]
        inputs = " and ".join(f"`{name}`" for name in names)
        if all((one or {}).get(k) is None for k in names):
            return "gradient", (
                f"The values are right, but no gradient flows from them back to {inputs}: look for "
                "`.item()`, `.detach()`, `.data`, NumPy, `torch.tensor(…)` or `no_grad`."
            )
        if any(_not_finite(one[k]) and not _not_finite(good[k]) for k in names):
            return "gradient", (
                f"The values are right, but the gradient in {inputs} is not finite: somewhere inf "
                "or nan is computed and thrown away, and the backward pass still meets it."
            )
        return "gradient", f"The values are right, but the gradient in {inputs} is not."


def normals(rng, *shape, dtype=torch.float64):
    """Standard normal numbers for cases; the same ones in every dtype."""
    return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)


class NotYet(AssertionError):
    """An answer does not pass yet; the message says why, and notebooks show nothing else."""

    def _render_traceback_(self):
        return [str(self)]


@functools.cache
def assignments():
    """Assignment ("01_kl_divergence") → its exercises, in the order of the notebook."""
    found = {}
    for chapter in CHAPTERS:
        module = importlib.import_module(f"gencourse.checks.{chapter}")
        found[module.STEM] = [v for v in vars(module).values() if isinstance(v, Exercise)]
    return found


@functools.cache
def exercises():
    """Name → Exercise, of all chapters."""
    return {e.name: e for several in assignments().values() for e in several}


def check(name, answer):
    """Test an answer to an exercise: print what was tested, or raise what is not right yet.

    name: of the exercise, such as "kl"; answer: your function or class, without parentheses.
    Raises: NotYet, with one sentence, for any answer that does not pass.
    """
    if name not in exercises():
        near = difflib.get_close_matches(str(name), exercises(), n=1)
        raise NotYet(f"There is no exercise {name!r}" + (f"; is it {near[0]!r}?" if near else "."))
    if not callable(answer):
        kind = type(answer).__name__
        raise NotYet(
            f"check({name!r}, …) needs your function itself, not its result (a {kind}): write "
            f"check({name!r}, {name}), without parentheses behind the second {name}."
        )
    exercise = exercises()[name]
    try:
        verdict = exercise.judge(exercise.outcomes(answer, seed=0), seed=0)
    except Exception as error:
        raise NotYet(
            f"The checker itself failed on {name!r} ({type(error).__name__}: {error}). That is a "
            "bug of the course, not yours: please report it with this sentence and your code."
        ) from None
    lines = [f"{'✓' if verdict.passed else '✗'} {name}: {verdict.sentence}", verdict.detail]
    message = "\n".join(textwrap.fill(x, 96, subsequent_indent="  ") for x in lines if x)
    if not verdict.passed:
        raise NotYet(message)
    print(message)


# --- comparing ------------------------------------------------------------------------------------


def _elsewhere(one, good):
    """Whether tensors lie on another device than the reference's; a plain number lies nowhere."""
    return bool(one.devices) and one.devices != (good.devices or INPUTS)


def _difference(one, good, rtol, atol, where=""):
    """(kind, sentence, detail) of the first place where two plain values differ, or None."""
    its = f"Its part {where}" if where else "It"
    if isinstance(good, torch.Tensor):
        if not isinstance(one, torch.Tensor):
            if not good.dim() and _number(one):
                one, good = torch.tensor(one, dtype=torch.float64), good.double()  # 2.7 is not 2
            else:
                return "type", f"{its} is {_kind(one)}; a tensor was expected.", ""
        if one.shape != good.shape:
            shapes = f"{tuple(one.shape)}, expected {tuple(good.shape)}"
            return "shape", f"The shape is not right: {its.lower()} has {shapes}.", ""
        if one.dtype != good.dtype:
            return "dtype", f"The dtype is {one.dtype}; {good.dtype} was expected.", ""
        return _tensor_difference(one, good, rtol, atol, where)
    if isinstance(good, (list, tuple)):
        if not isinstance(one, (list, tuple)):
            return "type", f"{its} is {_kind(one)}; {len(good)} values were expected.", ""
        if len(one) != len(good):
            return "type", f"{its} has {len(one)} values; {len(good)} were expected.", ""
        pairs = enumerate(zip(one, good, strict=True))
    elif isinstance(good, dict):
        if not isinstance(one, dict) or one.keys() != good.keys():
            return "type", f"{its} is {_kind(one)}; the names {', '.join(good)} were expected.", ""
        pairs = ((k, (one[k], good[k])) for k in good)
    else:
        return _plain_difference(one, good, rtol, atol, where, its)
    for key, (a, b) in pairs:
        if found := _difference(a, b, rtol, atol, f"{where}[{key!r}]"):
            return found
    return None


def _tensor_difference(one, good, rtol, atol, where):
    close = torch.isclose(one.double(), good.double(), rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return None
    index = tuple((~close).nonzero()[0].tolist())
    place = f" at {list(index)}" if index else ""
    value, wanted = one[index].item(), good[index].item()
    detail = f"Expected {_show(wanted)}{place}, got {_show(value)}; shape {tuple(good.shape)}"
    detail += f", part {where}." if where else "."
    wrong = int((~close).sum())
    if _not_finite(one) and not _not_finite(good):
        return "not finite", "A value is nan or inf where a finite one was expected.", detail
    share = "" if close.numel() == 1 else f" ({wrong} of {close.numel()} in this case)"
    return "value", f"The shape is right, the values are not{share}.", detail


def _plain_difference(one, good, rtol, atol, where, its):
    if isinstance(one, torch.Tensor) and one.dim() == 0 and _number(good):
        one = one.item()
    if _number(good) and _number(one):
        pair = torch.tensor([one, good], dtype=torch.float64)
        if torch.isclose(*pair, rtol=rtol, atol=atol, equal_nan=True):
            return None
    elif type(one) is type(good) and one == good:
        return None
    if _number(good) != _number(one) and type(one) is not type(good):
        return "type", f"{its} is {_kind(one)}; {_kind(good)} was expected.", ""
    part = f"; part {where}." if where else "."
    return "value", "The value is not right.", f"Expected {_show(good)}, got {_show(one)}{part}"


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(value):
    """A value's kind in words: "a list", "a NumPy array"."""
    if value is None:
        return "None"
    if isinstance(value, values.Other):
        return {"ndarray": "a NumPy array"}.get(value.kind, f"an object of type {value.kind}")
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    names |= {list: "a list", tuple: "a tuple", dict: "a dict"}
    return names.get(type(value), "a tensor")


def _not_finite(value):
    found = values.tensors(value)
    if isinstance(value, float):
        found = [torch.tensor(value)]
    return any(not torch.isfinite(t).all() for t in found)


def _error_sentence(error):
    where = f" in line {error['line']}, `{error['source']}`" if error.get("source") else ""
    return f"It raises {error['kind']}{where}: {error['message'] or 'no message'}"


def _show_case(case):
    return ", ".join(f"{name} = {_show(value)}" for name, value in case.items())


def _show(value):
    if isinstance(value, torch.Tensor):
        if value.numel() > 8:
            return f"a tensor {tuple(value.shape)}"
        return str(_rounded(value.tolist()))
    if isinstance(value, (list, tuple, dict)) and (len(value) > 8 or values.tensors(value)):
        return f"{len(value)} {'tensors' if values.tensors(value) else 'values'}"
    return str(_rounded(value))


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, (list, tuple)):
        return type(value)(_rounded(v) for v in value)
    return value
