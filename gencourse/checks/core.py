"""Exercises, and what is said about an answer: one definition for learners, tests and teachers.

An `Exercise` holds inputs drawn from a seed, a reference, and the wrong answers that people really
give, each with its sentence. `check` asks it in the notebook; the tests and `gencourse grade` ask
the same.
"""

import difflib
import functools
import importlib
import itertools
import math
import re
import textwrap
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from gencourse.checks import inside, values, watch

CHAPTERS = sorted(path.stem for path in Path(__file__).parent.glob("chapter_[0-9][0-9].py"))
INPUTS = ("cpu",)  # the device of all cases
POINTS = {"warm-up": 1, "core": 2, "stretch": 3}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm, for `free`
UNCHANGED = object()  # stands in a trace for what was there before the call
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
    gradient: the inputs through which the result must be differentiable. simplex: those of them
    that are probabilities, so that only the gradient along the simplex counts.
    rtol, atol: how far values may be from the reference's: atol + rtol·|reference|.
    dtype: whether the result must have the reference's floating-point dtype.
    free: what an answer may leave behind as it likes, a kind ("grad", "weights") or the name of a
    buffer; everything else must be as the reference leaves it. random: whether that goes for
    torch's random numbers too.

    Then, as decorators: `@exercise.cases` on a function that draws a list of inputs (each a dict,
    in the order of the arguments) from a torch.Generator; `@exercise.reference` on the right
    answer; `@exercise.wrong(sentence)` on each wrong one.
    """

    def __init__(
        self, name, *, level, minutes, tests, hint, gradient=(), simplex=(), rtol=1e-4, atol=1e-5,
        dtype=False, free=(), random=False,
    ):
        self.name, self.level, self.minutes, self.tests, self.hint = (
            name, level, minutes, tests, hint,
        )
        self.gradient, self.simplex, self.rtol, self.atol = gradient, simplex, rtol, atol
        self.dtype, self.free = dtype, free if random else (*free, "random numbers")
        self.points = POINTS[level]
        self.wrongs = []
        self.inputs = functools.lru_cache(maxsize=4)(self._inputs)
        self.expected = functools.lru_cache(maxsize=4)(self._expected)
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

    def _inputs(self, seed):
        """The cases of a seed, the same for everyone who is asked with it; answers get copies.

        The first one is drawn again at the end: what an answer has kept of it is of no use there.
        """
        with watch.known():
            cases, again = (self.draw(torch.Generator().manual_seed(s)) for s in (seed, ~seed))
            return [*cases, again[0]]

    def outcomes(self, answer, seed):
        """What an answer does with every case of a seed."""
        with torch.random.fork_rng(devices=[]):  # a learner's own random numbers go on as before
            return [inside.outcome(self.name, answer, case, self.gradient)
                    for case in self.inputs(seed)]

    def _expected(self, seed):
        """The outcomes of the reference."""
        return self.outcomes(self.right, seed)

    def _known(self, seed):
        """The outcomes of the reference, and of each wrong answer: whoever is right needs none."""
        with warnings.catch_warnings():  # a wrong answer's warnings are none of the learner's
            warnings.simplefilter("ignore")
            wrongs = [(wrong, self.outcomes(wrong.answer, seed)) for wrong in self.wrongs]
        return self.expected(seed), wrongs

    def judge(self, outcomes, seed):
        """Say what outcomes of some answer, on the cases of a seed, are worth. Returns: Verdict."""
        with watch.known():
            return self._verdict(outcomes, seed)

    def _verdict(self, outcomes, seed):
        right = self.expected(seed)
        differing = [i for i, pair in enumerate(zip(outcomes, right, strict=True))
                     if not self._agree(*pair)]
        if not differing:
            return Verdict(True, "", self.tests)
        error = outcomes[differing[0]].error
        if error and error["message"] == inside.BLANK:
            return Verdict(False, "blank", f"This is still blank: {inside.BLANK}.")
        if wrong := self._recognise(outcomes, *self.known(seed)):
            return Verdict(False, wrong.name, wrong.sentence)
        first = differing[0]
        case = self.inputs(seed)[first]
        mistake, sentence, detail = self._fault(outcomes[first], right[first], case)
        return Verdict(False, mistake, sentence, detail)

    def _agree(self, one, other, traces=True, gradients=True):
        """Whether two outcomes are the same but for rounding, and for what doesn't count of them.

        Traces are what an answer leaves behind.
        """
        if one.error or other.error:
            return bool(one.error and other.error) and one.error["kind"] == other.error["kind"]
        return (
            self._difference(one.value, other.value) is None
            and not _elsewhere(one, other)
            and not (traces and self._trace(one, other))
            and (not gradients or self._gradients_agree(one.gradients, other.gradients))
        )

    def _difference(self, one, good):
        return _difference(one, good, self.rtol, self.atol, self.dtype)

    def _gradients_agree(self, one, good):
        if not isinstance(one, dict) or not isinstance(good, dict):
            return type(one) is type(good) and one == good
        return one.keys() == good.keys() and all(self._slopes_agree(k, one, good) for k in good)

    def _slopes_agree(self, name, one, good):
        one, good = (_along_simplex(g[name]) if name in self.simplex else g[name]
                     for g in (one, good))
        return self._difference(one, good) is None

    def _trace(self, one, good):
        """(key, names of the arguments, what is there, what should be) of the first trace that
        is not the reference's, or None.
        """
        nothing = {"names": (), "changed": {}}
        wanted = good.left[: len(one.left)] if one.error else good.left
        for mine, theirs in itertools.zip_longest(one.left, wanted, fillvalue=nothing):
            now, wanted = mine["changed"], theirs["changed"]
            for key in {**now, **wanted}:
                way, kind = key.rsplit(":", 1)
                if kind in self.free or way.rsplit(".", 1)[-1] in self.free:
                    continue
                pair = now.get(key, UNCHANGED), wanted.get(key, UNCHANGED)
                if any(x is UNCHANGED for x in pair) or self._difference(*pair):
                    return key, mine["names"] or theirs["names"], *pair
        return None

    def _recognise(self, outcomes, right, wrongs):
        """The wrong answer that these outcomes are those of, or None.

        They must agree in a case where it differs from the reference; elsewhere they must agree
        too, unless they fail or are not finite there: who has one mistake often has another. For
        the same reason they may leave something else behind, and then have other gradients.
        """
        for counts in [(True, True), (False, True), (False, False)]:
            best, most = None, 0
            for wrong, its in wrongs:
                shared = 0
                for one, good, bad in zip(outcomes, right, its, strict=True):
                    if self._agree(one, bad, *counts):
                        shared += not self._agree(good, bad, *counts)
                    elif not (one.error or _not_finite(one.value)):
                        break
                else:
                    if shared > most:
                        best, most = wrong, shared
            if best:
                return best
        return None

    def _fault(self, one, good, case):
        """(kind, sentence, detail) of the first way in which an outcome is not the reference's."""
        shown = f"Input: {_show_case(case)}."
        difference = self._difference(one.value, good.value)
        if trace := self._trace(one, good):  # often the cause of the rest
            return *_trace_sentence(*trace, right=difference is None), shown
        if one.error:
            return "exception", _error_sentence(one.error), shown
        if one.value is None and good.value is not None:
            return "nothing", "It returns nothing (None): is a `return` missing?", shown
        if _elsewhere(one, good):
            here, there = " and ".join(one.devices), " and ".join(good.devices or INPUTS)
            sentence = f"The result lies on the device {here}, the inputs on {there}."
            return "device", sentence, shown
        if difference:
            kind, sentence, detail = difference
            return kind, sentence, f"{shown} {detail}"
        return *self._gradient_fault(one.gradients, good.gradients), shown

    def _gradient_fault(self, one, good):
        if isinstance(one, str):
            return "gradient", f"The values are right, but asking for their gradient fails: {one}"
        one = one or dict.fromkeys(good)
        names = [k for k in good if not self._slopes_agree(k, one, good)]
        inputs = " and ".join(f"`{name}`" for name in names)
        if all(one[k] is None for k in names):
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


def normals(rng, *shape, dtype=torch.float32):
    """Standard normal numbers for cases; the same ones in every dtype."""
    return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)


def draw_seed(rng):
    """A seed for nets that a driver makes, see `drivers.make_net`."""
    return int(torch.randint(1 << 30, (), generator=rng))


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


def _along_simplex(gradient):
    """What of a gradient in probabilities tells them apart: their sum can't move."""
    if not isinstance(gradient, torch.Tensor):
        return gradient
    return gradient - gradient.mean(dim=-1, keepdim=True)


def _difference(one, good, rtol, atol, dtype=True, where=""):
    """(kind, sentence, detail) of the first place where two plain values differ, or None.

    dtype: whether two floating-point dtypes are different; a whole number is never a float.
    """
    its = f"Its part {where}" if where else "It"
    if isinstance(good, torch.Tensor):
        if not isinstance(one, torch.Tensor):
            if not good.dim() and _number(one):
                one = torch.tensor(_float(one), dtype=torch.float64)  # 2.7 is not 2
                good = good.double()
            else:
                return "type", f"{its} is {_kind(one)}; a tensor was expected.", ""
        if one.shape != good.shape:
            shapes = f"{tuple(one.shape)}, expected {tuple(good.shape)}"
            return "shape", f"The shape is not right: {its.lower()} has {shapes}.", ""
        if one.dtype != good.dtype and (dtype or not (one.is_floating_point()
                                                      and good.is_floating_point())):
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
        if found := _difference(a, b, rtol, atol, dtype, f"{where}[{key!r}]"):
            return found
    return None


def _tensor_difference(one, good, rtol, atol, where):
    if torch.equal(one, good):
        return None
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
        if _close(one, good, rtol, atol):
            return None
    elif type(one) is type(good) and one == good:
        return None
    if _number(good) != _number(one) and type(one) is not type(good):
        return "type", f"{its} is {_kind(one)}; {_kind(good)} was expected.", ""
    part = f"; part {where}." if where else "."
    return "value", "The value is not right.", f"Expected {_show(good)}, got {_show(one)}{part}"


def _close(one, good, rtol, atol):
    """torch.isclose for two numbers, nan being nan; a tensor for each of them would take long."""
    one, good = _float(one), _float(good)
    if one == good or one != one and good != good:
        return True
    return math.isfinite(good) and abs(one - good) <= atol + rtol * abs(good)


def _float(number):
    try:
        return float(number)
    except OverflowError:  # a whole number that no float holds
        return math.inf if number > 0 else -math.inf


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


def _trace_sentence(key, names, now, wanted, right):
    """(kind, sentence) of a trace that is not the reference's; right: whether the values are."""
    way, kind = key.rsplit(":", 1)
    if way == "world":
        return "left behind", _world_sentence(kind, now)
    number, inner = re.match(r"(\d+)(.*)", way).groups()
    name = names[int(number)] if int(number) < len(names) else "argument"
    kept = now is UNCHANGED  # … though it should have changed
    if kind == "values" and not inner.startswith("."):
        if wanted is UNCHANGED:
            first = "The values are right, but " if right else ""
            return "in-place", f"{first}`{name}` changed in place: work on a copy."
        return "left behind", f"What `{name}{inner}` holds after your function is not right."
    part = inner.lstrip(".")
    if kind == "training":
        whose = f"`{name}`" if not part else f"`{name}`'s part `{part}`"
        mode = "training" if now is True or kept and wanted is False else "eval"
        return "left behind", f"{whose} is in {mode} mode after your function; put it back."
    its = f"`{name}`'s weights" if inner.startswith(".") else f"`{name}{inner}`"
    verb = "" if inner.startswith(".") else "s"
    where = f" (`{part}`)" if inner.startswith(".") else ""
    if inner.startswith(".state["):
        sentence = f"`{name}`'s state is not right after your function: only `step()` changes it."
        return "left behind", sentence
    if kept:
        what = {"weights": "weights", "grad": "gradients"}.get(kind, part or kind)
        return "left behind", f"`{name}`'s {what} should have changed, and did not{where}."
    sentences = {
        "requires_grad": f"{its} {'now' if now is True else 'no longer'} require{verb} a gradient "
        f"after your function{where}; put `requires_grad` back.",
        "grad": f"{its} had other gradients before your function{where}: leave every `.grad` as it "
        "is. `torch.autograd.grad` gives a gradient and stores none.",
        "weights": f"{its} are not right after your function{where}."
        if wanted is not UNCHANGED else
        f"{its} changed{where}; your function must leave them as they are.",
        "values": f"`{name}`'s `{part}` is not right after your function."
        if wanted is not UNCHANGED else
        f"`{name}`'s `{part}` changed; your function must leave it as it is.",
        "object": f"{its} are other tensors after your function{where}, and an optimizer holds "
        "the old ones: write into them.",
        "dtype": f"{its} {'are' if where else 'is'} {now} after your function{where}; put it back.",
        "length": f"`{name}{inner}` has {now} entries after your function; leave it as it was.",
        "hooks": f"There is another number of hooks on `{name}`{where} after your function; remove "
        "yours.",
        "parts": f"`{name}`{where} has other parts after your function: {now}.",
    }
    its = f"`{name}{inner}`"
    if setting := re.search(r"param_groups\[\d+\]\['(\w+)'\]$", inner):
        its = f"`{name}`'s `{setting[1]}`"
    generic = f"{its} is {_show(now)} after your function; leave it as it was."
    return "left behind", sentences.get(kind, generic)


def _world_sentence(name, now):
    if name == "grad mode":
        on = "on" if now is True else "off"
        return f"Gradient computation (grad mode) is {on} after your function; put it back."
    if name == "random numbers":
        return "Your function uses up (or seeds) random numbers: everything after it gets others."
    now = {True: "on", False: "off"}.get(now, now)
    return f"After your function torch's {name} is {now}; put it back."


def _error_sentence(error):
    where = f" in line {error['line']}, `{error['source']}`" if error.get("source") else ""
    return f"It raises {error['kind']}{where}: {error['message'] or 'no message'}"


def _show_case(case):
    """A case in words, without the seed of its nets, which tells nobody anything."""
    shown = {k: v for k, v in case.items() if k not in ("net", "nets")}
    return ", ".join(f"{name} = {_show(value)}" for name, value in shown.items())


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
