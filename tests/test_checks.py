"""The checker itself: what is said of any fault, what an outcome holds, how messages travel.

The exercises that it is asked with are in test_answers.py.
"""

import json
import linecache
import random

import numpy as np
import pytest
import torch
from torch.nn import Module

from gencourse.checks import core, inside, values
from gencourse.checks.core import Exercise, NotYet, check


def verdict(exercise, answer, seed=0):
    return exercise.judge(exercise.outcomes(answer, seed), seed)


def blank(*_, **__):
    raise NotImplementedError("write your code here")


# --- what is said of any other fault --------------------------------------------------------------


def thrice(x, name):
    return 3 * x


@pytest.fixture
def toy(monkeypatch):
    """One exercise, `double`, and no other."""
    double = Exercise("double", level="core", minutes=1, tests="Doubles.", hint="Add.",
                      gradient=("x",))
    double.cases(lambda rng: [{"x": torch.randn(shape, generator=rng), "name": "a"}
                              for shape in [(3,), (2, 2)]])
    double.reference(lambda x, name: 2 * x)
    double.wrong("Three times.")(thrice)
    monkeypatch.setattr(core, "exercises", lambda: {"double": double})
    return double


def said(answer, name="double"):
    """What `check` says of an answer, on one line."""
    with pytest.raises(NotYet) as caught:
        check(name, answer)
    shown = caught.value._render_traceback_()
    assert shown == [str(caught.value)], "notebooks show the sentence, and no traceback"
    assert caught.value.__cause__ is None
    return " ".join(shown[0].split())


def raising(x, name):
    y = x.sum()
    return y.no_such_thing


def in_place(x, name):
    return x.mul_(2)


def nan_gradient(x, name):
    return torch.where(x > -9, 2 * x, (x - x).sqrt())


def leaf(x, name):
    x.mul_(1)
    return 2 * x


def through_numpy(x, name):
    return torch.from_numpy(2 * x.detach().numpy())


class Liar:
    """Claims to be equal to everything."""

    def __eq__(self, other):
        return True

    __hash__ = None


class Trap:
    """Fails wherever it is touched."""

    def __getattribute__(self, name):
        raise RuntimeError("go away")


def endless(x, name):
    return endless(x, name)


def leaving(x, name):
    raise SystemExit("good bye")


FAULTS = {
    # what an answer does, and a part of the sentence that is said
    "shape": (lambda x, name: 2 * x[None], "has (1, 3), expected (3,)"),
    "dtype": (lambda x, name: (2 * x).long(), "dtype is torch.int64; torch.float32 was"),
    "device": (lambda x, name: 2 * x.to("meta"), "lies on the device meta, the inputs on cpu."),
    "in place": (in_place, "values are right, but `x` changed in place"),
    "detached": (lambda x, name: 2 * x.detach(), "no gradient flows from them back to `x`"),
    "through NumPy": (through_numpy, "no gradient flows from them back to `x`"),
    "gradient is wrong": (lambda x, name: 3 * x - x.detach(), "but the gradient in `x` is not."),
    "gradient is nan": (nan_gradient, "but the gradient in `x` is not finite"),
    "gradient fails": (leaf, "but asking for their gradient fails: a leaf Variable"),
    "None": (lambda x, name: None, "returns nothing (None): is a `return` missing?"),
    "exception": (raising, "`return y.no_such_thing`: 'Tensor' object has no attribute"),
    "arguments": (lambda x: x, "It raises TypeError: "),
    "recursion": (endless, "`return endless(x, name)`: maximum recursion depth"),
    "exit": (leaving, "`raise SystemExit(\"good bye\")`: good bye"),
    "NumPy": (lambda x, name: 2 * x.numpy(), "It is a NumPy array; a tensor was expected."),
    "a number": (lambda x, name: 2.0, "It is a number; a tensor was expected."),
    "a list": (lambda x, name: (2 * x).tolist(), "It is a list; a tensor was expected."),
    "a text": (lambda x, name: name, "It is a text; a tensor was expected."),
    "a liar": (lambda x, name: Liar(), "It is an object of type Liar; a tensor was expected."),
    "a trap": (lambda x, name: Trap(), "It raises RuntimeError in line "),
    "nan": (lambda x, name: 2 * x / 0, "A value is nan or inf where a finite one was expected."),
    "values": (lambda x, name: 2 * x + 1, "the values are not (3 of 3 in this case)."),
    "one value": (lambda x, name: 2 * x + (torch.arange(len(x)) == 1), "(1 of 3 in this case)."),
    "named": (thrice, "✗ double: Three times."),
    "blank": (blank, "✗ double: This is still blank: write your code here."),
    "not callable": (torch.ones(3), "needs your function itself, not its result (a Tensor)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_its_own_sentence(toy, name):
    answer, sentence = FAULTS[name]
    message = said(answer)
    assert sentence in message, message
    others = {s for _, s in FAULTS.values() if s != sentence and s in message}
    assert not others, others


def test_an_exception_names_the_line_of_the_cell(toy):
    source = "def double(x, name):\n    y = helper(x)\n    return y\n"
    linecache.cache["<cell>"] = (len(source), None, source.splitlines(keepends=True), "<cell>")
    namespace = {"helper": lambda x: x.reshape(7)}
    exec(compile(source, "<cell>", "exec"), namespace)
    assert "It raises RuntimeError in line 2, `y = helper(x)`: " in said(namespace["double"])


def test_what_passes_is_said_and_nothing_else_changes(toy, capsys):
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    assert check("double", lambda x, name: x + x) is None
    assert capsys.readouterr().out == "✓ double: Doubles.\n"
    assert torch.equal(torch.rand(2), wanted), "the learner's random numbers go on as before"


def test_an_input_changed_in_place_is_seen_where_no_gradient_is_asked_for(toy):
    toy.gradient = ()
    assert verdict(toy, lambda x, name: x + x).passed
    assert verdict(toy, in_place).mistake == "in-place"


def test_an_unknown_name_is_suggested(toy):
    assert said(thrice, "dubble") == "There is no exercise 'dubble'; is it 'double'?"
    assert said(thrice, "zzz") == "There is no exercise 'zzz'."
    assert said(thrice, thrice).startswith("There is no exercise <function thrice")


@pytest.mark.parametrize("part", ["draw", "judge"])
def test_a_bug_inside_the_checker_is_not_the_learners(toy, part):
    def broken(*_, **__):
        raise ZeroDivisionError("oh")

    setattr(toy, part, broken)
    message = said(lambda x, name: 2 * x)
    assert "The checker itself failed on 'double' (ZeroDivisionError: oh)" in message
    assert "bug of the course, not yours" in message


def test_numbers_may_be_tensors_and_tensors_numbers():
    for right, good in [(2.0, torch.tensor(2.0)), (torch.tensor(2.0), 2.0), (2.0, np.float64(2.0)),
                        (2, torch.tensor(2)), ((1.0, 2.0), [1.0, torch.tensor(2.0)])]:
        one = Exercise("one", level="core", minutes=1, tests="Is.", hint="Be.")
        one.cases(lambda rng: [{"x": 1.0}])
        one.reference(lambda x, right=right: right)
        assert verdict(one, lambda x, good=good: good).passed, (right, good)
        for bad in (3.0, 10**400, float("inf"), float("nan"), True, "2"):
            assert not verdict(one, lambda x, bad=bad: bad).passed, (right, bad)


PARTS = {
    # what is expected, what is returned, and a part of the sentence
    "a tuple is too short": ((1.0, 2.0), (1.0,), "It has 1 values; 2 were expected."),
    "one part": ((torch.ones(2), 2.0), (torch.ones(3), 2.0), "its part [0] has (3,), expected"),
    "inside": ({"a": [1.0, 2.0]}, {"a": [1.0, 3.0]}, "The value is not right."),
    "names": ({"a": 1.0}, {"b": 1.0}, "It is a dict; the names a were expected."),
    "a flag": (True, 1, "It is a whole number; True or False was expected."),
    "a flag is wrong": (True, False, "The value is not right."),
    "a text": ("a", "b", "The value is not right."),
    "a text for a number": (1.0, "1", "It is a text; a number was expected."),
    "nothing for a part": ((1.0,), (None,), "Its part [0] is None; a number was expected."),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_that_differ_are_named(name):
    right, returned, sentence = PARTS[name]
    one = Exercise("one", level="core", minutes=1, tests="Is.", hint="Be.")
    one.cases(lambda rng: [{"x": 1.0}])
    one.reference(lambda x: right)
    assert verdict(one, lambda x: right).passed
    told = verdict(one, lambda x: returned)
    assert not told.passed and sentence in told.sentence, told


# --- outcomes -------------------------------------------------------------------------------------


def test_an_outcome_says_what_an_answer_did():
    case = {"x": torch.ones(2), "y": [torch.zeros(1)]}

    def answer(x, y):
        y[0] += 1
        return {"both": (x, 3), "text": "a"}

    found = inside.outcome("no driver", answer, case)
    assert found.value["both"][1] == 3 and found.value["text"] == "a"
    assert (found.devices, found.error) == (("cpu",), None)
    (record,) = found.left
    assert record["names"] == ("x", "y")
    assert same(record["changed"], {"1[0]:values": torch.ones(1)})
    assert torch.equal(case["y"][0], torch.zeros(1)), "the case itself stays"


def test_gradients_are_those_of_a_weighted_sum():
    case = {"x": torch.tensor([1.0, 2.0]), "w": torch.tensor(3.0)}
    found = inside.outcome("no driver", lambda x, w: x * w, case, ("x", "w")).gradients
    weights = torch.arange(1, 3).cos()
    torch.testing.assert_close(found["x"], 3 * weights)
    torch.testing.assert_close(found["w"], (case["x"] * weights).sum())
    half = inside.outcome("no driver", lambda x, w: x * w.detach(), case, ("x", "w")).gradients
    torch.testing.assert_close(half["x"], 3 * weights)
    assert half["w"] is None
    assert inside.outcome("no driver", lambda x, w: x / 0, case, ("x",)).gradients is None
    assert inside.outcome("no driver", lambda x, w: 1.0, case, ("x",)).gradients is None


def test_random_numbers_start_alike_for_every_case():
    def answer(x):
        return x + torch.rand(2)

    first, second = (inside.outcome("no driver", answer, {"x": torch.ones(2)}) for _ in range(2))
    assert torch.equal(first.value, second.value)


class BlankNet(Module):
    def forward(self, x):
        raise NotImplementedError("write your code here")


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [(blank, True), (BlankNet, True), (thrice, False), (torch.nn.Linear, False), (len, False)],
)
def test_blank_answers_are_recognised(answer, wanted):
    assert inside.is_blank(answer) == wanted


# --- messages -------------------------------------------------------------------------------------


def travelled(tree):
    """A tree after a journey as bytes."""
    message = values.pack(tree)
    text, body = values.lengths(message[: values.LENGTHS.size])
    rest = message[values.LENGTHS.size :]
    assert len(rest) == text + body
    return values.unpack(rest[:text], rest[text:])


def same(a, b):
    assert type(a) is type(b), (a, b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape
        return torch.allclose(a.double(), b.double(), rtol=0, atol=0, equal_nan=True)
    if isinstance(a, (list, tuple)) and not isinstance(a, values.Other):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return repr(a) == repr(b)


TREES = {
    "nothing": None,
    "flags": [True, False],
    "whole numbers": [0, -1, 1 << 200, -(1 << 200)],
    "numbers": [0.1, -0.0, 1e308, 5e-324],
    "not finite": [float("nan"), float("inf"), -float("inf")],
    "texts": ["", "KL(p‖q) ≥ 0", "\x00\n\u2028", '"}]'],
    "nested": {"a": [(), [], {}, (1, [2.0, {"b": ("c",)}])]},
    "names like ours": [{"tensor": 0}, {"tuple": [1]}, {"float": "inf"}, {"dict": [["a", 1]]}],
    "other": values.Other("ndarray"),
    "no tensors": torch.empty(0, 3),
    "a scalar": torch.tensor(2.5, dtype=torch.float64),
    "nan and inf": torch.tensor([float("nan"), float("inf"), -float("inf")]),
    "views": [torch.arange(6).view(2, 3).t(), torch.ones(1).expand(4), torch.arange(6)[::2]],
    "the same twice": [torch.ones(3)] * 2,
    "eleven": [torch.tensor(i) for i in range(11)],
}
for dtype in values.DTYPES[:-1]:
    TREES[str(dtype)] = torch.tensor([[0, 1, 1]]).to(dtype)


@pytest.mark.parametrize("name", TREES)
def test_a_value_arrives_as_it_left(name):
    assert same(travelled(TREES[name]), TREES[name])
    assert same(travelled(values.plain(TREES[name])), values.plain(TREES[name]))


def test_plain_values_are_copies_that_always_travel():
    class Pair(tuple):
        pass

    class Own(torch.Tensor):
        pass

    x = torch.ones(2, requires_grad=True)
    kept = values.plain(x)
    assert not kept.requires_grad and kept.data_ptr() != x.data_ptr()
    assert values.plain(np.float32(0.5)) == 0.5 and type(values.plain(np.int64(3))) is int
    assert values.plain(Pair((1, 2))) == (1, 2) and values.plain({1: 2}) == {"1": 2}
    assert type(values.plain(x.detach().as_subclass(Own))) is torch.Tensor
    assert values.plain(x.detach().to("meta")).shape == (2,)
    strange = [np.ones(2), object(), len, torch.ones(2).to_sparse(), 1j, b"x", {1, 2}, Liar(),
               torch.ones(1, dtype=torch.complex128), torch.nn.Linear(1, 1)]
    kinds = [values.plain(v).kind for v in strange]
    assert kinds == ["ndarray", "object", "builtin_function_or_method", "Tensor", "complex",
                     "bytes", "set", "Liar", "Tensor", "Linear"]
    deep = []
    for _ in range(100):
        deep = [deep]
    round_trip = [*map(values.plain, strange), values.plain(deep)]
    assert same(travelled(round_trip), round_trip)
    endless = []
    endless.append(endless)
    travelled(values.plain(endless))


def test_what_is_not_plain_is_refused():
    for value in (object(), np.ones(2), 1j):
        with pytest.raises(TypeError, match="does not travel"):
            values.pack(value)


def parts(tree):
    message = values.pack(tree)
    text, _ = values.lengths(message[: values.LENGTHS.size])
    return message[values.LENGTHS.size :][:text], message[values.LENGTHS.size + text :]


TWO = parts([torch.ones(2), torch.zeros(3)])
BAD = {
    "nothing": (b"", b""),
    "truncated text": (TWO[0][:-1], TWO[1]),
    "truncated tensors": (TWO[0], TWO[1][:-1]),
    "no tensors": (TWO[0], b""),
    "no text": (b"\xff\xfe", TWO[1]),
    "deep lists": (b"[" * 100_000 + b"]" * 100_000, b""),
    "deep tuples": (b'{"tuple":[' * 50_000 + b"]}" * 50_000, b""),
    "an index that is not there": (b'{"tensor": 2}', TWO[1]),
    "an index that is a text": (b'{"tensor": "0"}', TWO[1]),
    "an unknown kind": (b'{"pickle": "x"}', b""),
    "two kinds": (b'{"int": "1", "float": "1"}', b""),
    "no kind": (b"{}", b""),
    "a list as a name": (b'{"dict": [[["a"], 1, 2]]}', b""),
    "no list": (b'{"tuple": 5}', b""),
    "no number": (b'{"float": "five"}', b""),
    "endless digits": (b'{"int": "' + b"9" * 100_000 + b'"}', b""),
    "other digits": (b"9" * 100_000, b""),
    "a false length": (TWO[0], b"\xff" * 7 + b"\x7f" + TWO[1][8:]),
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_bytes_are_unreadable(name):
    with pytest.raises(values.Unreadable):
        values.unpack(*BAD[name])


def test_random_bytes_are_unreadable_or_plain():
    rng = random.Random(0)
    text, body = TWO
    for _ in range(500):
        broken = [bytearray(text), bytearray(body)]
        for _ in range(rng.randrange(1, 4)):
            part = rng.choice(broken)
            part[rng.randrange(len(part))] = rng.randrange(256)
        try:
            found = values.unpack(*map(bytes, broken))
        except values.Unreadable:
            continue
        json.dumps(values._to_json(values.plain(found), []))


@pytest.mark.parametrize("sizes", [(1 << 40, 0), (0, 1 << 40), (values.LONGEST_TREE + 1, 0)])
def test_a_message_that_is_too_long_is_refused_before_it_is_read(sizes):
    with pytest.raises(values.Unreadable, match="longer than"):
        values.lengths(values.LENGTHS.pack(*sizes))
