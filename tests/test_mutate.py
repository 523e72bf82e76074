"""The mutation tool: each operator makes its mutants and no others, and survivors are found."""

import ast
import textwrap

import mutate
import mutations
import pytest
import torch

from gencourse.checks import core


def texts(source, *, operator=None, seen=None, own=False, plumbing=()):
    """What a definition's mutants say instead of the statement that they change."""
    (tree,) = mutations.written_out(ast.parse(textwrap.dedent(source)).body)
    found = mutations.mutants(tree, seen, own, plumbing=plumbing)
    return [m.after for m in found if operator in (None, m.operator)]


def of(expression, operator):
    """What one operator makes of an expression."""
    return [
        t.removeprefix("y = ") for t in texts(f"def f(x, n):\n y = {expression}", operator=operator)
    ]


@pytest.mark.parametrize(
    ("operator", "expression", "expected"),
    [
        ("swap_operator", "x + n", ["x - n"]),
        ("swap_operator", "x / n", ["x * n"]),
        ("swap_operator", "x <= n", ["x < n", "x > n"]),
        ("swap_operator", "x and n", ["x or n"]),
        ("swap_sides", "x - n", ["n - x"]),
        ("swap_sides", "x + n", []),
        ("swap_sides", "(x - n).abs()", []),  # the same
        ("swap_sides", "(x - n) ** 2", ["2 ** (x - n)"]),
        ("drop_part", "x - n", ["x", "-n"]),
        ("drop_part", "x * n", ["x", "n"]),
        ("drop_part", "x and n and 3", ["n and 3", "x and 3", "x and n"]),
        ("flip_sign", "-x", ["x"]),
        ("change_constant", "0", ["1"]),
        ("change_constant", "2", ["3", "1"]),
        ("change_constant", "0.5", ["1.0"]),
        ("change_constant", "1e-08", ["1e-07", "0.0"]),
        ("change_constant", "True", ["False"]),
        ("change_constant", "zip(x, n, strict=True)", []),
        ("swap_arguments", "g(x, n, *x)", ["g(n, x, *x)"]),
        ("swap_arguments", "(x, n)", ["(n, x)"]),
        ("change_axis", "x.sum(-1)", ["x.sum()"]),
        ("change_axis", "x.sum(dim=1, keepdim=True)", ["x.sum(keepdim=True)"]),
        ("change_function", "x.mean()", ["x.sum()"]),
        ("change_function", "min(x, n)", ["max(x, n)"]),
        ("change_function", "torch.randn(3)", ["torch.rand(3)"]),
        ("change_function", "x.T", ["x"]),
        ("drop_call", "x.detach()", ["x"]),
        ("drop_call", "copy.deepcopy(x)", ["x"]),
        ("drop_call", "torch.exp(x)", ["x"]),
        ("drop_call", "x.clamp(min=1)", ["x"]),
        ("drop_call", "torch.no_grad()(x)", ["x"]),
        ("change_keyword", "g(x, keepdim=n)", ["g(x)"]),
        ("change_keyword", "g(x, reduction='sum')", ["g(x, reduction='mean')"]),
        ("off_by_one", "x[:n]", ["x[:]", "x[:n + 1]", "x[:n - 1]"]),
        ("off_by_one", "range(n)", ["range(n + 1)", "range(n - 1)", "range(1, n)"]),
        ("change_branch", "x if n else 3", ["x if not n else 3"]),
        ("change_branch", "[v for v in x if v]", ["[v for v in x]"]),
    ],
)
def test_an_operator_makes_exactly_these(operator, expression, expected):
    assert of(expression, operator) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("optimizer.zero_grad()", ["pass"]),
        ("x += 1", ["pass"]),
        ("x = x + 1", ["pass"]),
        ("y = x + 1", []),  # what follows could not run
        ("with torch.no_grad():\n        x.g()", ["if True:", "pass"]),
        ("return x", ["x"]),
    ],
)
def test_statements_that_can_be_missing(body, expected):
    assert texts(f"def f(x):\n    {body}", operator="drop_statement") == expected


def test_a_decorator_that_switches_gradients_off_can_be_missing():
    source = "@torch.no_grad()\ndef f(x):\n    pass"
    assert texts(source) == ["def f(x):"]


def test_a_tuple_returned_is_exchanged_and_a_value_negated():
    assert "return (y, x)" in texts("def f(x, y):\n return x, y")
    assert "return -x" in texts("def f(x):\n return x")


def test_what_is_no_mistake_or_nobody_can_see_makes_no_mutant():
    nothing = '''
    def f(x: int, *, left: str = 3) -> tuple[3]:
        """A text of 3 words."""
        for name in x:
            if x.dim() != 2 or len(x) < 3:
                raise ValueError(f"{x + 1} is not 2")
        check(x, 3 - x)
        pass
    '''
    executed = {n.number for n in ast.walk(numbered(nothing)) if not isinstance(n, ast.Raise)}
    assert texts(nothing, seen=executed, plumbing={"check"}) == [
        "check(x, 3 + x)", "check(x, x - 3)", "check(x, 3)", "check(x, -x)",
        "check(x, 4 - x)", "check(x, 2 - x)",
    ]


def numbered(source):
    return mutations.written_out(ast.parse(textwrap.dedent(source)).body)[0]


def test_options_that_nobody_gives_are_written_out():
    source = """
    def f(x, *, read=True, twice=False, factor=1, left=None):
        if twice:
            x = x + x
        y = factor * x + twice * 7
        return y - 2 if read and not twice else left or y
    """
    body = ast.unparse(numbered(source)).splitlines()[1:]
    assert [line.strip() for line in body] == ["pass", "y = x", "return y - 2"]
    given = mutations.written_out(ast.parse(textwrap.dedent(source) + "\ng = f(2, twice=3)").body)[
        0
    ]
    assert "if twice:" in ast.unparse(given)


def exercise(draw, reference):
    made = core.Exercise("toy", level="warm-up", minutes=1, tests="it.", hint="none.")
    made.cases(draw)
    made.reference(reference)

    @made.wrong("You add.")
    def added(x, n):
        return x + n

    return made


def total(x, n):
    """Below: the sum of the first n; what else there is doubles it."""
    if n < 0:
        return x.sum()
    return first(x, n).sum()


def first(x, n, doubled=False):
    return 2 * x[:n] if doubled else x[:n]


def survivors(made):
    return {
        (j.mutant.operator, j.mutant.after) for j in mutate.judged(made) if j.kind == "survived"
    }


def test_weak_cases_let_mutants_live_that_stronger_ones_kill():
    def weak(rng):
        return [{"x": torch.zeros(3), "n": 2}]

    def strong(rng):
        return [{"x": torch.tensor([1.0, 3.0, 7.0]), "n": n} for n in (0, 2, -1)]

    alive = survivors(exercise(weak, total))
    assert ("off_by_one", "return x[:n + 1]") in alive  # of a function that the reference calls
    assert ("never reached", "") in alive
    assert not any("doubled" in after for _, after in alive), "an option for wrong answers"
    assert not survivors(exercise(strong, total))


def difference(x, n):
    return x - n


def test_a_mutant_that_is_a_wrong_answer_is_named_and_others_are_not():
    made = exercise(lambda rng: [{"x": 2.0, "n": 5.0}, {"x": 1.5, "n": 0.5}], difference)
    found = {j.mutant.after: j.kind for j in mutate.judged(made)}
    assert found["return x + n"] == "named"
    assert found["return n - x"] == "general" and found["x - n"] == "fault"


def test_mutants_are_copies_and_the_real_functions_stay_what_they_are():
    made = exercise(lambda rng: [{"x": torch.tensor([1.0, 3.0]), "n": 1}], total)
    built = {mutant.after: build() for mutant, build in mutate.mutants_of(made, 0)}
    x = torch.tensor([1.0, 3.0])
    assert built["return x[:n + 1]"](x, 1) == 4, "in a function that it calls"
    assert built["return -first(x, n).sum()"](x, 1) == -1
    assert total(x, 1) == 1 and first(x, 1).tolist() == [1]


def countdown(x, n):
    while n > 0:
        n = n - 1
        x = x + 1
    return x


def test_an_endless_mutant_is_stopped_and_the_others_are_judged():
    made = exercise(lambda rng: [{"x": 2, "n": 3}], countdown)
    found = {j.mutant.after: j.kind for j in mutate.judged(made, seconds=0.5)}
    assert found["n = n + 1"] == "stopped"
    assert found["x = x - 1"] == "general" and found["while n < 0:"] == "general"


def test_a_reference_that_fails_its_own_cases_is_not_taken_for_killed_mutants(capfd):
    made = exercise(lambda rng: [{"x": 2, "n": 3}], countdown)
    made.judge = lambda outcomes, seed: core.Verdict(False, "value", "No.")
    with pytest.raises(RuntimeError, match="toy can't be judged"):
        mutate.judged(made)
    assert "does not pass" in capfd.readouterr().err


def test_every_reference_is_found_with_all_that_it_calls():
    for exercise in core.exercises().values():
        right = exercise.right
        names = mutate.reached(*mutate.home(mutate.sys.modules[right.__module__], right.__name__))
        assert names[-1][1] == right.__name__
        assert all(module.__name__.startswith("gencourse") for module, _ in names)
    (own,) = [e for e in core.exercises().values() if e.name == "negative_elbo"]
    names = mutate.reached(
        *mutate.home(mutate.sys.modules[own.right.__module__], own.right.__name__)
    )
    assert "kl_to_standard_normal" in [name for _, name in names], "three modules away"


# --- the table ------------------------------------------------------------------------------------

TABLE = """
# Mutants
- not an entry
## Equivalent

Only the order of the addends.

- `toy` swap_sides: `return x - n` → `return n - x`
"""
MUTANT = mutations.Mutant("toy.py:3", "swap_sides", "return x - n", "return n - x")


def test_a_survivor_that_the_table_explains_is_no_problem():
    table = mutate.explained(TABLE)
    assert list(table.values()) == ["Only the order of the addends."]
    assert mutate.problems({"toy": [mutate.Judged(MUTANT, "", False)]}, table) == ([], [])
    assert mutate.entry("toy", MUTANT) in TABLE, "what is printed can be put into the table"


def test_one_that_it_does_not_explain_is():
    other = mutate.Judged(MUTANT._replace(after="return x"), "", False)
    survivors, stale = mutate.problems({"toy": [other]}, mutate.explained(""))
    assert survivors == [("toy", other)] and not stale


@pytest.mark.parametrize("found", [[], [mutate.Judged(MUTANT, "value", False)]])
def test_a_line_that_no_survivor_answers_to_is_stale(found):
    table = mutate.explained(TABLE)
    assert mutate.problems({"toy": found}, table) == ([], list(table))
    assert mutate.problems({"another": []}, table) == ([], []), "not asked about"


@pytest.mark.parametrize("line", ["- `toy` swap_sides `a` → `b`", "- `toy`"])
def test_a_line_that_can_not_be_read_is_an_error(line):
    with pytest.raises(ValueError, match="can't be read"):
        mutate.explained(f"{TABLE}{line}\n")


def test_an_entry_has_a_reason():
    with pytest.raises(ValueError, match="reason"):
        mutate.explained(TABLE.replace("Only the order of the addends.", ""))


def test_the_committed_table_speaks_of_exercises_that_there_are():
    table = mutate.explained(mutate.TABLE.read_text(encoding="utf-8"))
    assert {key[0] for key in table} <= set(core.exercises())
    assert {key[1] for key in table} <= {f.__name__ for f in mutations.OPERATORS}
