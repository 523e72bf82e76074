"""Values that travel between a student's process and the teacher's: plain data, never pickles.

A message is a tree of None, bool, numbers, text, lists, tuples, dicts with text keys, and tensors.
On the way it is JSON with the tensors behind it as safetensors; reading it runs no code.
"""

import json
import math
import struct
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load, save

LONGEST_TREE, LONGEST_MESSAGE = 1 << 20, 64 << 20  # [bytes]
LONGEST_HEADER = 1 << 20  # [bytes] of what safetensors says about the tensors
LENGTHS = struct.Struct("<QQ")  # of the JSON and of the tensors
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES = (*INTEGERS, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


class Unreadable(ValueError):
    """Bytes that are no message, or one that is too long."""


class Other(NamedTuple):
    """Stands for a value of a kind that does not travel."""

    kind: str  # the name of its type


def plain(value, depth=0):
    """A copy of a value that can be sent and compared, detached and on the CPU.

    value: anything. NumPy's numbers become Python's; what is neither a number, text, a tensor nor
    a list, tuple or dict of them becomes `Other`, and so does what is nested deeper than 8, or a
    tensor whose dtype is not one of DTYPES.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()
    if isinstance(value, torch.Tensor) and value.layout is torch.strided and value.dtype in DTYPES:
        return torch.zeros(value.shape, dtype=value.dtype) if value.is_meta else _copy(value)
    if type(value) in (list, tuple) and depth < 8:
        return type(value)(plain(v, depth + 1) for v in value)
    if isinstance(value, tuple) and depth < 8:  # a named tuple compares as a tuple
        return tuple(plain(v, depth + 1) for v in value)
    if isinstance(value, dict) and depth < 8:
        return {str(k): plain(v, depth + 1) for k, v in value.items()}
    return Other(type(value).__name__)


def tensors(value):
    """The tensors of a tree, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [t for v in value for t in tensors(v)]


def pack(tree):
    """A message as bytes. Raises: TypeError for what does not travel (`plain` leaves nothing)."""
    found = []
    text = json.dumps(_to_json(tree, found)).encode()
    body = save({str(i): t.clone().contiguous() for i, t in enumerate(found)}) if found else b""
    return LENGTHS.pack(len(text), len(body)) + text + body


def lengths(header):
    """How many bytes of JSON and of tensors follow. Raises: Unreadable if they are too many."""
    text, body = LENGTHS.unpack(header)
    if text > LONGEST_TREE or body > LONGEST_MESSAGE:
        raise Unreadable(f"The message is longer than {LONGEST_MESSAGE >> 20} MB.")
    return text, body


def unpack(text, body):
    """The tree of a message's two parts. Raises: Unreadable, whatever the bytes are."""
    try:
        if int.from_bytes(body[:8], "little") > LONGEST_HEADER:
            raise Unreadable("Too much is said about the tensors.")
        found = load(body) if body else {}
        tensors = [(i, found[str(i)]) for i in range(len(found))]
        return _from_json(json.loads(text), tensors[::-1])
    except Exception as error:  # RecursionError and safetensors' own among them
        raise Unreadable(f"The message can't be read: {error}") from None


def _copy(tensor):
    tensor = tensor.detach().as_subclass(torch.Tensor)
    return tensor.to("cpu", copy=True).contiguous()


def _to_json(value, found):
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return {"int": str(value)} if abs(value) < 1 << 256 else {"float": "inf"}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Other):
        return {"other": value.kind}
    if isinstance(value, torch.Tensor):
        found.append(value)
        return {"tensor": len(found) - 1}
    if isinstance(value, list):
        return [_to_json(v, found) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_to_json(v, found) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[k, _to_json(v, found)] for k, v in value.items()]}
    raise TypeError(f"A {type(value).__name__} does not travel.")


def _from_json(value, found):
    if isinstance(value, list):
        return [_from_json(v, found) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":  # the next one: none is there twice, or one of 64 MB could be a thousand
        index, tensor = found.pop()
        if content != index:
            raise Unreadable("The tensors come in another order.")
        return tensor
    if kind == "tuple":
        return tuple(_from_json(v, found) for v in content)
    if kind == "dict":
        return {str(k): _from_json(v, found) for k, v in content}
    return {"int": int, "float": float, "other": Other}[kind](content)
