"""Every exercise: its reference, blank and named mistakes, and what an answer leaves behind; then
what others would answer: right ones in unusual forms, wrong ones that have no name.

The ordinary suite asks with the notebook's seed, and one answer of others each.

    pytest tests/test_answers.py -m answers          # other seeds, and all answers of others
    pytest tests/test_answers.py -n0 -s -k table     # exercise × wrong answer, with seconds

tests/answers/chapter_NN.py holds, for the exercises of its chapter,
    RIGHT = {exercise: {label: function}}
    WRONG = {exercise: {label: (function, part of the sentence that is said)}}
"""

import contextlib
import functools
import importlib.util
import inspect
import time
from pathlib import Path

import asked
import pytest
import torch
from test_checks import blank, travelled, verdict
from torch.nn import Module
from torch.optim import Optimizer

from gencourse.checks import core, drivers, inside, values, watch

OTHER_SEEDS = (1, 20261120)  # 0 is the notebook's; grading draws its own
EXERCISES = [e for several in core.assignments().values() for e in several]


# --- every exercise -------------------------------------------------------------------------------


def pytest_generate_tests(metafunc):
    """The notebook's seed and a few answers, or with -m answers other seeds and all of them."""
    all_of_them = asked.all_of("answers", metafunc.config)
    if "exercise" in metafunc.fixturenames and "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", OTHER_SEEDS if all_of_them else (0,))
    for kind, table in (("right", RIGHT), ("wrong", WRONG)):
        if kind in metafunc.fixturenames:
            rows = [(name, label) for name, answers in table.items()
                    for label in ([*answers] if all_of_them else [*answers][:1])]
            metafunc.parametrize(kind, rows, ids=": ".join)
            if kind == "right":
                metafunc.parametrize("seed", (0, *OTHER_SEEDS) if all_of_them else (0,))


@pytest.fixture(params=EXERCISES, ids=lambda e: e.name)
def exercise(request):
    return request.param


@functools.cache
def known(exercise, seed):
    """Outcomes of the reference, of the wrong answers, and the seconds that a first check takes."""
    start = time.process_time()
    return *exercise.known(seed), time.process_time() - start


@functools.cache
def verdicts(exercise, seed):
    """What is said of each wrong answer, on the outcomes that are known of it."""
    return [exercise.judge(outcomes, seed) for _, outcomes in known(exercise, seed)[1]]


def in_one_case(exercise, answer, i, seed=0, others=None):
    """The verdict on what an answer does with case i, and `others` (the reference) with the rest.

    Asking for one of many cases is what makes asking for many answers cheap.
    """
    outcomes = [*(others or known(exercise, seed)[0])]
    case = exercise.inputs(seed)[i]
    outcomes[i] = inside.outcome(exercise.name, answer, case, exercise.gradient)
    return exercise.judge(outcomes, seed)


@pytest.mark.answers
def test_the_reference_passes(exercise, seed):
    assert verdict(exercise, exercise.right, seed) == (True, "", exercise.tests, "")
    assert not any(o.error for o in known(exercise, seed)[0])


@pytest.mark.filterwarnings("ignore")  # wrong answers warn, and rightly
@pytest.mark.answers
def test_every_wrong_answer_is_told_its_own_mistake(exercise, seed):
    for wrong, said in zip(exercise.wrongs, verdicts(exercise, seed), strict=True):
        assert said == (False, wrong.name, wrong.sentence, ""), wrong.name


@pytest.mark.filterwarnings("ignore")
def test_a_wrong_answer_that_is_asked_again_does_the_same(exercise):
    for k, (wrong, outcomes) in enumerate(known(exercise, 0)[1]):
        said = in_one_case(exercise, wrong.answer, k % len(outcomes), others=outcomes)
        assert said.mistake == wrong.name


def test_a_blank_answer_is_told_so(exercise):
    said = verdict(exercise, blank)
    assert said == (False, "blank", "This is still blank: write your code here.", "")
    assert inside.is_blank(blank) and not inside.is_blank(exercise.right)


def test_an_exercise_has_its_sentences(exercise):
    assert exercise.level in core.POINTS and exercise.minutes > 0
    assert len(exercise.wrongs) >= 5, "five mistakes that people really make"
    sentences = [w.sentence for w in exercise.wrongs]
    assert len(set(sentences)) == len(sentences)
    assert len({w.name for w in exercise.wrongs} - {"blank"}) == len(sentences)
    for sentence in (*sentences, exercise.tests, exercise.hint):
        assert sentence == " ".join(sentence.split()), sentence
        assert sentence.endswith((".", "?") if sentence == exercise.hint else "."), sentence


@pytest.mark.parametrize("name", ["kl", "kernel_distance", "density_coverage", "sharpness",
                                  "energy_distance", "held_out_accuracy"])
def test_a_result_kept_for_the_next_inputs_of_its_shape_is_wrong(name):
    exercise, kept = core.exercises()[name], {}

    def lazy(*given):
        shapes = tuple(getattr(x, "shape", x) for x in given)
        if shapes not in kept:
            kept[shapes] = exercise.right(*given)
        return kept[shapes]

    assert not exercise.judge(exercise.outcomes(lazy, 0), 0).passed


def test_the_inputs_come_from_the_seed_and_travel(exercise):
    first, other = exercise.inputs(3), exercise.inputs(4)
    again = exercise.inputs.__wrapped__(3)
    assert all(watch.same(a, b) for a, b in zip(first, again, strict=True))
    if values.tensors([*map(values.plain, first)]):
        assert not all(watch.same(a, b) for a, b in zip(first, other, strict=True))
    assert watch.same(travelled(first), first), "only plain data reaches the sandbox"
    assert first and all(set(exercise.gradient) <= set(case) for case in first)


def test_outcomes_travel(exercise):
    """What comes out of a sandbox is worth what it is worth in a notebook."""
    sent = travelled(values.plain([o._asdict() for o in known(exercise, 0)[0]]))
    assert exercise.judge([inside.Outcome(**o) for o in sent], 0).passed


def test_names_are_unique_over_the_course():
    assert len(core.exercises()) == len(EXERCISES)


def test_every_driver_belongs_to_an_exercise():
    found = [n for n, f in vars(drivers).items() if hasattr(f, "__code__") and n[0] != "_"
             and f.__code__.co_varnames[: f.__code__.co_argcount] == ("answer", "case")]
    assert set(found) <= {*core.exercises(), "plain_call"}
    plain = [n for n in core.exercises() if hasattr(drivers, n) and n not in found]
    assert not plain, f"{plain} in drivers.py would be taken for drivers"


def test_the_table_of_exercises_and_wrong_answers():
    """Every wrong answer is named by its own sentence and by no other."""
    confused = []
    print(f"\n{'exercise':28}{'wrong answer':40}{'named':40}{'seconds':>9}")
    for e in EXERCISES:
        print(f"{e.name:28}{e.level + f', {e.minutes} min':80}{known(e, 0)[2]:9.2f}")
        for wrong, told in zip(e.wrongs, verdicts(e, 0), strict=True):
            print(f"{'':28}{wrong.name:40}{told.mistake:40}")
            confused += [(e.name, wrong.name, told)] * (told.mistake != wrong.name)
    assert not confused


# --- what an answer leaves behind -----------------------------------------------------------------


def after(right, meddle):
    """An answer that is right, and at its end does something to what it was given."""
    if isinstance(right, type):
        class Meddling(right):
            def add(self, batch):
                super().add(batch)
                meddle([batch])

        return Meddling
    if inspect.isgeneratorfunction(right):
        @functools.wraps(right)
        def answer(*given):
            found = yield from right(*given)
            meddle(given)
            return found
    elif inspect.isgeneratorfunction(inspect.unwrap(right)):
        @contextlib.contextmanager
        @functools.wraps(inspect.unwrap(right))
        def answer(*given):
            try:
                with right(*given):
                    yield
            finally:
                meddle(given)
    else:
        @functools.wraps(right)
        def answer(*given):
            found = right(*given)
            meddle(given)
            return found
    return answer


def of_kind(kind, given):
    return [x for x in given if isinstance(x, kind)]


def tensors_and_weights(given):
    nets = of_kind(Module, given)
    return [*of_kind(torch.Tensor, given), *(p for net in nets for p in net.parameters())]


def change_mode(given):
    for net in of_kind(Module, given):
        net.train(not net.training)


def change_a_layers_mode(given):
    for net in of_kind(Module, given):
        for layer in [*net.modules()][-1:]:
            layer.train(not layer.training)


def freeze_a_weight(given):
    for net in of_kind(Module, given):
        for weight in [p for p in net.parameters() if p.requires_grad][:1]:
            weight.requires_grad_(False)


def ask_for_a_gradient(given):
    for x in [x for x in of_kind(torch.Tensor, given) if x.is_floating_point() and x.is_leaf]:
        x.requires_grad_(not x.requires_grad)


def leave_a_gradient(given):
    for x in [x for x in tensors_and_weights(given) if x.is_floating_point() and x.is_leaf]:
        x.grad = torch.full_like(x, 7)


def replace_a_weight(given):
    for net in of_kind(Module, given):
        layer = next(m for m in net.modules() if m._parameters)
        name, weight = next(iter(layer._parameters.items()))
        setattr(layer, name, torch.nn.Parameter(weight.detach(), weight.requires_grad))


def change_statistics(given):
    for net in of_kind(Module, given):
        for value in net.buffers():
            value += 1


def leave_a_hook(given):
    for net in of_kind(Module, given):
        net.register_forward_hook(lambda *_: None)


def leave_an_attribute(given):
    for net in of_kind(Module, given):
        net.was_here = True


def lengthen(given):
    for x in of_kind(list, given):
        x.append(x[0] if x else 0)


def change_in_place(given):
    with torch.no_grad():
        for x in of_kind(torch.Tensor, given):
            x.copy_(~x if x.dtype is torch.bool else x + 1)


def change_rate(given):
    for optimizer in of_kind(Optimizer, given):
        optimizer.param_groups[0]["lr"] *= 2


def forget_momentum(given):
    for optimizer in of_kind(Optimizer, given):
        optimizer.state.clear()


OPEN = []  # what is left open, so that Python doesn't close it
LEFT = {
    # what an answer does, to which of its arguments, and a part of the sentence that is said
    "another mode": (change_mode, Module, "mode after your function; put it back."),
    "a layer's mode": (change_a_layers_mode, Module, "mode after your function; put it back."),
    "a frozen weight": (freeze_a_weight, Module, "weights no longer require a gradient"),
    "a gradient wanted": (ask_for_a_gradient, torch.Tensor, "` now requires a gradient after"),
    "a gradient": (leave_a_gradient, (torch.Tensor, Module), "leave every `.grad` as it"),
    "a new weight": (replace_a_weight, Module, "and an optimizer holds the old ones"),
    "statistics": (change_statistics, Module, "running_mean` "),
    "a hook": (leave_a_hook, Module, "remove yours."),
    "an attribute": (leave_an_attribute, Module, ".was_here` is True after your function; leave"),
    "a longer list": (lengthen, list, "entries after your function; leave it as it was."),
    "values": (change_in_place, torch.Tensor, "` changed in place: work on a copy."),
    "a learning rate": (change_rate, Optimizer, "'s `lr` is "),
    "no momentum": (forget_momentum, Optimizer, "'s state is not right after your function"),
    # and what it leaves on in the world
    "no gradients": (lambda _: torch.set_grad_enabled(False), object,
                     "Gradient computation (grad mode) is off after your function; put it back."),
    "inference mode": (lambda _: OPEN.append(torch.inference_mode()) or OPEN[-1].__enter__(),
                       object, "torch's inference mode is on; put it back."),
    "default dtype": (lambda _: torch.set_default_dtype(torch.float64), object,
                      "torch's default dtype is torch.float64; put it back."),
    "default device": (lambda _: torch.set_default_device("meta"), object,
                       "torch's default device is meta; put it back."),
    "autocast": (lambda _: torch.autocast("cpu", torch.bfloat16).__enter__(), object,
                 "torch's autocast is on; put it back."),
    "deterministic": (lambda _: torch.use_deterministic_algorithms(True), object,
                      "torch's deterministic algorithms is 2; put it back."),
    "anomaly detection": (lambda _: torch.autograd.set_detect_anomaly(True), object,
                          "torch's anomaly detection is on; put it back."),
}
MAY_BE_FREE = {"a gradient": "grad", "statistics": "running_mean", "values": "weights"}


@functools.cache
def is_given(exercise, kind):
    """Whether an answer gets arguments of a kind."""
    seen = set()
    exercise.outcomes(after(exercise.right, lambda given: seen.update(map(type, given))), 0)
    return any(issubclass(t, kind) for t in seen)


def test_what_is_left_behind_is_named_and_put_back(exercise):
    world = watch._world()
    for name, (meddle, kind, sentence) in LEFT.items():
        if not is_given(exercise, kind):
            continue
        for i in range(len(exercise.inputs(0))):
            touched = []

            def meddles(given, meddle=meddle, touched=touched):
                before, world = watch.facts(given), watch._world()
                meddle(given)
                touched.append(watch.changes(before, watch.facts(given)))
                touched.append(watch._world() != world)

            told = in_one_case(exercise, after(exercise.right, meddles), i)
            assert watch.same(watch._world(), world), name
            if any(touched):
                break
        else:
            assert told.passed, name  # no case has such an argument
            continue
        if MAY_BE_FREE.get(name) in exercise.free:
            assert told.passed, (name, told)
        else:
            assert told.mistake in ("left behind", "in-place"), (name, told)
            assert sentence in told.sentence, (name, told)
    assert verdict(exercise, exercise.right).passed


def test_what_a_cell_left_on_changes_no_verdict(exercise):
    """Whatever is on when `check` is called: inputs, reference and answers are as ever."""
    wanted = known(exercise, 0)[0]
    with watch.known():
        for name in ("default dtype", "autocast", "deterministic", "anomaly detection",
                     "default device", "no gradients"):
            LEFT[name][0](None)
        left = watch._world()
        found = exercise.outcomes(exercise.right, 0)
        assert exercise.judge(found, 0).passed
        assert watch.same([o.value for o in found], [o.value for o in wanted])
        assert watch.same(watch._world(), left), "what the cell left on is still on"


def test_a_weight_that_moved_by_rounding_has_not_changed():
    """A bias before BatchNorm has the gradient 0, or 1e-9, depending on the order of a sum."""
    for moved, seen in [(1e-7, False), (1e-3, True), (float("nan"), True)]:
        weight = torch.nn.Parameter(torch.tensor([0.3, -2.0]))
        before = watch.facts([weight])
        weight.data[0] += moved
        assert not watch.same(weight.detach(), before["0:weights"])
        assert bool(watch.changes(before, watch.facts([weight]))) is seen


def cast(value, dtype):
    """A value with its floating-point tensors in another precision."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(cast(v, dtype) for v in value)
    return value


@pytest.mark.answers
def test_a_right_answer_may_have_any_precision_that_is_not_asked_for(exercise, seed):
    """Computed in float64 and returned as it is, or rounded to float32."""
    asked_for = exercise.dtype or is_given(exercise, Module)  # a net has one
    dtypes = [] if asked_for else [torch.float64]
    if dtypes and exercise.atol and not seed:  # without it 1e-88 matters, too small for float32
        dtypes.append(torch.float32)

    def answer(dtype):
        def plain(*given):
            return cast(exercise.right(*cast(given, torch.float64)), dtype)

        def program(*given):
            return cast((yield from exercise.right(*cast(given, torch.float64))), dtype)

        return program if inspect.isgeneratorfunction(exercise.right) else plain

    for dtype in dtypes:
        told = verdict(exercise, answer(dtype), seed)
        assert told.passed, told


# --- what others would answer ---------------------------------------------------------------------


def tables():
    """RIGHT and WRONG of all chapters."""
    right, wrong = {}, {}
    for path in sorted((Path(__file__).parent / "answers").glob("chapter_*.py")):
        spec = importlib.util.spec_from_file_location(f"answers_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        right |= module.RIGHT
        wrong |= module.WRONG
    return right, wrong


RIGHT, WRONG = tables()


@pytest.mark.answers
def test_a_right_answer_in_another_form_passes(right, seed):
    name, label = right
    told = verdict(core.exercises()[name], RIGHT[name][label], seed)
    assert told.passed, f"{told.sentence} {told.detail}"


@pytest.mark.answers
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_answer_is_told_what_is_wrong(wrong):
    name, label = wrong
    function, part = WRONG[name][label]
    told = verdict(core.exercises()[name], function)
    assert not told.passed
    assert part in told.sentence, f"{told.sentence} {told.detail}"
