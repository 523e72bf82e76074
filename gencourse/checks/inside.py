"""What calls a learner's answer, in the notebook and in the sandbox, and says what it did.

Everything here may be looked at, changed or broken by the code it runs. So it knows no reference
and decides nothing: it hands out values, which are compared elsewhere.
"""

import linecache
import traceback
from typing import NamedTuple

import torch

from gencourse.checks import drivers, values, watch

BLANK = "write your code here"  # what an answer says before anybody has written it


class Outcome(NamedTuple):
    """What an answer did with one case's inputs."""

    value: object = None  # what it returned, as values.plain leaves it
    devices: tuple = ()  # of the returned tensors
    left: tuple = ()  # what each call left changed, up to an error, as watch.Watched records it
    gradients: object = None  # input → gradient or None; None if there is none, text if it failed
    error: object = None  # {"kind", "message", "line", "source"} of an exception, or None


def outcome(name, answer, case, gradient=()):
    """Call an answer with one case's inputs, and say what it did.

    name: of the exercise, for its driver; case: input → value, left as it is; gradient: the inputs
    whose gradient is asked for where the values are finite, of their sum times fixed weights.
    torch's random numbers start from the same seed for every case.
    """
    driver = getattr(drivers, name, drivers.plain_call)
    with watch.known():
        watched = watch.Watched(answer)
        _start_random_numbers()
        try:
            returned = watch.bare(driver(watched, values.plain(case)))
            shown = values.plain(returned)
            devices = tuple(sorted({t.device.type for t in values.tensors(returned)}))
        except (Exception, SystemExit) as error:
            return Outcome(left=tuple(watched.left), error=_describe(error, answer))
        gradients = None
        if gradient and _finite(shown):
            try:
                gradients = _gradients(driver, answer, case, gradient)
            except (Exception, SystemExit) as error:
                gradients = _describe(error, answer)["message"]
        return Outcome(shown, devices, tuple(watched.left), gradients)


def _start_random_numbers():
    torch.default_generator.manual_seed(0)  # torch.manual_seed takes long to tell all devices


def is_blank(answer):
    """Whether this function or class is the stub that learners find."""
    return any(BLANK in code.co_consts for code in _codes(answer))


def _finite(value):
    return all(torch.isfinite(t).all() for t in values.tensors(value))


def _gradients(driver, answer, case, names):
    _start_random_numbers()
    given = values.plain(case)
    for name in names:
        given[name].requires_grad_()
    found = driver(watch.Watched(answer), given)
    returned = [t for t in values.tensors(found) if t.requires_grad]
    if not returned:
        return None
    total = sum((t * torch.arange(1, t.numel() + 1).cos().to(t).view(t.shape)).sum()
                for t in returned)
    inputs = [given[name] for name in names]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return dict(zip(names, map(values.plain, found), strict=True))


def _describe(error, answer):
    """An exception as plain data, with the last line of the answer's own source that it passed."""
    line = source = None
    own = next((code.co_filename for code in _codes(answer)), None)
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == own:
            line, source = frame.lineno, linecache.getline(own, frame.lineno).strip()
    return {
        "kind": type(error).__name__,
        "message": str(error)[:500],
        "line": line,
        "source": (source or "")[:200],
    }


def _codes(answer):
    """The compiled code of a function, or of each method of a class."""
    functions = vars(answer).values() if isinstance(answer, type) else [answer]
    found = [getattr(getattr(f, "__wrapped__", f), "__code__", None) for f in functions]
    return [code for code in found if code is not None]
