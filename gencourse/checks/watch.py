"""What a call leaves behind: all that it was given and can reach, and the world, before and after.

A fact has a key such as "0.1.weight:requires_grad", an argument's number, the way from there, and
what is said of it, and a plain value. This runs beside the code it watches: it says what changed
and decides nothing.
"""

import contextlib
import inspect
import zlib

import numpy as np
import torch

from gencourse.checks import values

DEEPEST, MOST = 8, 1_000  # how far, and how many items of a list, a walk goes
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
         "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
PLAIN = (bool, int, float, str, type(None))


# --- the world ------------------------------------------------------------------------------------


def _set_device(device):
    torch.set_default_device(None if device == "cpu" else device)  # None: no mode is in the way


def _set_autocast(enabled):
    torch.set_autocast_enabled("cpu", enabled)


def _autocast_depth():
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _set_autocast_depth(depth):
    while _autocast_depth() > depth:  # one that was never left
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()  # of weights as they once were


def _set_cudnn(flags):
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags


# name → how it is read, how it is set, and how it is for every answer and every reference (None:
# as it was)
WORLD = {
    "inference mode": (torch.is_inference_mode_enabled, None, False),  # `known` sees to it
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled, True),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    "default device": (lambda: str(torch.get_default_device()), _set_device, "cpu"),
    "deterministic algorithms": (
        torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0,
    ),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), _set_autocast, False),
    "autocast depth": (_autocast_depth, _set_autocast_depth, None),
    "anomaly detection": (torch.is_anomaly_enabled, torch.set_anomaly_enabled, False),
    "matmul precision": (
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest",
    ),
    "cuDNN's flags": (
        lambda: (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark), _set_cudnn,
        (False, False),
    ),
    "number of threads": (torch.get_num_threads, torch.set_num_threads, None),
}


def _world():
    return {name: read() for name, (read, _, _) in WORLD.items()}


def _put_back(world):
    for name, (read, change, _) in WORLD.items():
        if change and world[name] is not None and read() != world[name]:
            change(world[name])


@contextlib.contextmanager
def known():
    """A world in which all is as Python starts with it, whatever a cell has left on; then as was.

    A function called in a world of its own: with gradients, float32, on the CPU, no autocast.
    """
    before = _world()
    with torch.inference_mode(False):  # whoever leaves inference mode on can't be undone otherwise
        _put_back({name: standard for name, (_, _, standard) in WORLD.items()})
        try:
            yield
        finally:
            _put_back(before)


# --- what can be reached --------------------------------------------------------------------------


def facts(arguments):
    """Key → plain value, of all that these arguments are and hold."""
    found, seen = {}, {}
    for i, argument in enumerate(arguments):
        _walk(argument, str(i), found, seen)
    return found


def changes(before, after):
    """What is no longer as it was: key → plain value, None for what is gone."""
    pairs = ((k, before.get(k), after.get(k)) for k in {**after, **before})
    other = [(k, a, b) for k, a, b in pairs if a is not b]
    return {k: _plain(b) for k, a, b in other if k.endswith(":object")
            or not same(a, b) and not (k.endswith(":weights") and _but_for_rounding(a, b))}


def _but_for_rounding(a, b):
    """Whether two weights are the same: where a gradient is 0, one sum gives 0 and another 1e-9."""
    if a is None or b is None or (a.shape, a.dtype) != (b.shape, b.dtype) or not a.numel():
        return False
    if not a.is_floating_point():
        return False
    return bool((a - b).abs().max() <= 128 * torch.finfo(a.dtype).eps * a.abs().max())


def _walk(value, where, found, seen, depth=0):
    if isinstance(value, PLAIN):
        found[f"{where}:value"] = value
    elif id(value) in seen:
        found[f"{where}:same as"] = seen[id(value)]
    elif depth < DEEPEST and not isinstance(value, type) and not inspect.ismodule(value):
        seen[id(value)] = where
        for name, part in _look(value, where, found):
            if isinstance(part, PLAIN):  # as in _walk, and most parts are
                found[f"{where}{name}:value"] = part
            else:
                _walk(part, where + name, found, seen, depth + 1)


def _look(value, where, found):
    """Add what is to be said of a value itself. Returns: [(the way to a part, the part)]."""
    if isinstance(value, torch.Tensor):
        _look_at_tensor(value, where, found)
        return []
    if isinstance(value, torch.nn.Module):
        return _look_at_module(value, where, found)
    if isinstance(value, torch.optim.Optimizer):
        weights = [p for group in value.param_groups for p in group["params"]]
        found[f"{where}:hooks"] = _hooks(value)
        held = [(f".state[{i}]", value.state[p]) for i, p in enumerate(weights) if p in value.state]
        return [(".param_groups", value.param_groups), *held]
    if isinstance(value, torch.Generator):
        found[f"{where}:state"] = _hash(value.get_state().numpy())
        return []
    if isinstance(value, np.ndarray):
        found[f"{where}:state"] = _hash(value)
        return []
    if isinstance(value, dict):
        found[f"{where}:length"] = len(value)
        return [(f"[{k!r}]" if isinstance(k, PLAIN) else f"[{i}]", v)
                for i, (k, v) in enumerate([*value.items()][:MOST])]
    if isinstance(value, (list, tuple, set, frozenset)):
        found[f"{where}:length"] = len(value)
        return [(f"[{i}]", v) for i, v in enumerate([*value][:MOST])]
    if inspect.ismethod(value):
        return [("", value.__self__)]
    return [(f".{k}", v) for k, v in getattr(value, "__dict__", {}).items()]


def _look_at_tensor(tensor, where, found):
    if isinstance(tensor, torch.nn.Parameter):
        found[f"{where}:object"] = tensor  # an optimizer holds it, not its name
        found[f"{where}:weights"] = _copy(tensor)
    else:
        found[f"{where}:values"] = _copy(tensor)
    found[f"{where}:dtype"] = tensor.dtype
    found[f"{where}:hooks"] = len(tensor._backward_hooks or ())
    if tensor.is_leaf:
        found[f"{where}:requires_grad"] = tensor.requires_grad
        found[f"{where}:grad"] = _copy(tensor.grad)


def _copy(tensor):
    """A tensor's values now: fast where it is as most are."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and (
        tensor.is_cpu
    ):
        return tensor.detach().clone()
    return values.plain(tensor)


def _look_at_module(module, where, found):
    found[f"{where}:training"] = module.training
    found[f"{where}:hooks"] = _hooks(module)
    parts = {**module._parameters, **module._buffers, **module._modules}
    found[f"{where}:parts"] = ", ".join(parts)
    for name, value in vars(module).items():
        if name[0] != "_" and name != "training":
            parts[name] = value
    return [(f".{k}", v) for k, v in parts.items() if v is not None]


def _hooks(thing):
    return sum(len(getattr(thing, name, None) or ()) for name in HOOKS)


# --- calls ----------------------------------------------------------------------------------------


class Watched:
    """An answer to be called as it is; `left` grows by a record of each call that is over.

    A record has the names of the arguments and, by key, what is no longer as it was before. A
    context manager's call is over when its block is, a generator's when it returns. One that fails
    has no record.
    """

    def __init__(self, answer, left=None):
        self.__wrapped__, self.left = answer, [] if left is None else left

    def __call__(self, *given):
        answer, world = self.__wrapped__, _world()
        before = facts(given) | _said(world)

        def over():
            changed = changes(before, facts(given) | _said(_world()))
            names = _names(answer, len(given)) if changed else ()
            self.left.append({"names": names, "changed": changed})
            _put_back(world)

        with torch.inference_mode(False):  # as in `known`
            torch.set_grad_enabled(world["grad mode"])  # the line above turns it on
            found = answer(*given)
            if any(hasattr(type(found), name) for name in ("__enter__", "send")):
                return _Open(found, over)
            over()
        return _Object(found, self.left) if isinstance(answer, type) else found


class _Open:
    """A context manager or a generator, whose call is over when it is."""

    def __init__(self, found, over):
        self.__wrapped__, self._over = found, over

    def __enter__(self):
        return self.__wrapped__.__enter__()

    def __exit__(self, *error):
        try:
            return self.__wrapped__.__exit__(*error)
        finally:
            self._over()

    def send(self, value):
        try:
            return self.__wrapped__.send(value)
        except StopIteration:  # with what it returns
            self._over()
            raise


class _Object:
    """What a class has made: its methods are watched like functions."""

    def __init__(self, made, left):
        self.__wrapped__, self._left = made, left

    def __getattr__(self, name):
        found = getattr(self.__wrapped__, name)
        return Watched(found, self._left) if callable(found) else found


def bare(value):
    """A value without what watches it."""
    return value.__wrapped__ if isinstance(value, (_Open, _Object)) else value


def _names(answer, count):
    """What an answer calls its arguments."""
    try:
        parameters = [*inspect.signature(answer).parameters.values()]
    except (TypeError, ValueError):
        parameters = []
    names = []
    for i in range(count):
        last = parameters[min(i, len(parameters) - 1)] if parameters else None
        starred = last is not None and last.kind is last.VAR_POSITIONAL
        names.append(f"argument {i + 1}" if last is None or starred else last.name[:50])
    return tuple(names)


def _said(world):
    """The world as facts, with the state of torch's random numbers, which nobody puts back."""
    found = {f"world:{name}": value for name, value in world.items()}
    return found | {"world:random numbers": _hash(torch.get_rng_state().numpy())}


def _hash(array):
    return f"{zlib.crc32(array.tobytes()):08x}"  # as text: two of them are never nearly the same


def _plain(value):
    if isinstance(value, torch.nn.Parameter):
        return "another"  # of an object nothing travels but that
    if isinstance(value, torch.Tensor):
        return values.plain(value)
    return value if isinstance(value, (*PLAIN, values.Other)) else str(value)


def same(a, b):
    """Whether two plain values are the same to the last bit; nan is nan."""
    if a is b:
        return True
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or (a.shape, a.dtype) != (b.shape, b.dtype):
            return False
        return torch.equal(a, b) or bool(a.isnan().any()) and torch.allclose(
            a, b, rtol=0, atol=0, equal_nan=True)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and (a == b or a != a and b != b)
