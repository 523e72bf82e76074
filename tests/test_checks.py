"""Exercises: each reference, blank and named mistake; what is said of any other fault; messages.

    pytest tests/test_checks.py -n0 -s -k table     # exercise × wrong answer, with seconds
"""

import contextlib
import functools
import inspect
import json
import linecache
import random
import time

import numpy as np
import pytest
import torch
from torch.nn import Module
from torch.nn import functional as F
from torch.optim import Optimizer

from gencourse.checks import core, drivers, inside, values, watch
from gencourse.checks.core import Exercise, NotYet, check

SEEDS = (0, 1, 20261120)  # 0 is the notebook's; grading draws its own
EXERCISES = [e for several in core.assignments().values() for e in several]


def verdict(exercise, answer, seed=0):
    return exercise.judge(exercise.outcomes(answer, seed), seed)


def blank(*_, **__):
    raise NotImplementedError("write your code here")


# --- every exercise -------------------------------------------------------------------------------


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


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reference_passes(exercise, seed):
    assert verdict(exercise, exercise.right, seed) == (True, "", exercise.tests, "")
    assert not any(o.error for o in known(exercise, seed)[0])


@pytest.mark.filterwarnings("ignore")  # wrong answers warn, and rightly
@pytest.mark.parametrize("seed", SEEDS)
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
                                  "energy_distance", "held_out_accuracy"])  # fmt: skip
def test_a_result_kept_for_the_next_inputs_of_its_shape_is_wrong(name):
    exercise, kept = core.exercises()[name], {}

    def lazy(*given):
        shapes = tuple(getattr(x, "shape", x) for x in given)
        if shapes not in kept:
            kept[shapes] = exercise.right(*given)
        return kept[shapes]

    assert not exercise.judge(exercise.outcomes(lazy, 0), 0).passed


def test_the_inputs_come_from_the_seed_and_travel(exercise):
    first, again, other = (exercise.inputs(seed) for seed in (3, 3, 4))
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
    """Every wrong answer is named by its own sentence and by no other, whatever the seed."""
    confused = []
    print(f"\n{'exercise':28}{'wrong answer':40}{'named by':>10}{'seconds':>9}")
    for e in EXERCISES:
        print(f"{e.name:28}{e.level + f', {e.minutes} min':50}{known(e, 0)[2]:9.2f}")
        for i, wrong in enumerate(e.wrongs):
            told = [verdicts(e, seed)[i].mistake for seed in SEEDS]
            print(f"{'':28}{wrong.name:40}{told.count(wrong.name):>5} of {len(SEEDS)}")
            confused += [(e.name, wrong.name, t) for t in told if t != wrong.name]
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
}  # fmt: skip
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
                     "default device", "no gradients"):  # fmt: skip
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


def test_a_right_answer_may_have_any_precision_that_is_not_asked_for(exercise):
    """Computed in float64 and returned as it is, or rounded to float32."""
    asked_for = exercise.dtype or is_given(exercise, Module)  # a net has one
    seeds = {} if asked_for else {torch.float64: SEEDS}
    if seeds and exercise.atol:  # without it 1e-88 matters, which float32 can't hold
        seeds[torch.float32] = SEEDS[:1]

    def answer(dtype):
        def plain(*given):
            return cast(exercise.right(*cast(given, torch.float64)), dtype)

        def program(*given):
            return cast((yield from exercise.right(*cast(given, torch.float64))), dtype)

        return program if inspect.isgeneratorfunction(exercise.right) else plain

    for dtype, several in seeds.items():
        for seed in several:
            told = verdict(exercise, answer(dtype), seed)
            assert told.passed, told


# --- other right answers, and wrong ones that are right but for a mode ---------------------------


bce = torch.nn.functional.binary_cross_entropy_with_logits


def as_in_pytorchs_tutorial(G, D, g_opt, d_opt, x_real, z):
    D.zero_grad()
    real_loss = bce(D(x_real), torch.ones(len(x_real)))
    real_loss.backward()
    x_fake = G(z)
    fake_loss = bce(D(x_fake.detach()), torch.zeros(len(x_real)))
    fake_loss.backward()
    d_opt.step()
    G.zero_grad()
    g_loss = bce(D(x_fake), torch.ones(len(x_real)))
    g_loss.backward()
    g_opt.step()
    return (real_loss + fake_loss).item(), g_loss.item()


def frozen_for_gs_turn(G, D, g_opt, d_opt, x_real, z, freeze=True, before=None, between=None):
    both = D(torch.cat([x_real, (G(z) if before is None else before(G, z)).detach()]))
    real, fake = both.chunk(2)
    d_loss = F.softplus(-real).mean() + F.softplus(fake).mean()
    d_opt.zero_grad(set_to_none=False)
    d_loss.backward()
    d_opt.step()
    D.requires_grad_(not freeze)
    if between:
        between(D)
    g_loss = -F.logsigmoid(D(G(z))).mean()
    g_opt.zero_grad()
    g_loss.backward(inputs=list(G.parameters()))
    g_opt.step()
    D.requires_grad_(True)
    return d_loss.item(), g_loss.item()


def frozen_by_eval(*game):
    return frozen_for_gs_turn(*game, freeze=False, between=lambda D: D.eval())


def frozen_by_eval_and_back(G, D, *game):
    losses = frozen_by_eval(G, D, *game)
    D.train()
    return losses


def pictures_in_eval_mode(*game):
    def before(G, z):
        x = G.eval()(z)
        G.train()
        return x

    return frozen_for_gs_turn(*game, before=before)


def by_hand(G, D, x_real, z, rate):
    def step(net, loss):
        weights = list(net.parameters())
        for p, g in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            p.data -= rate * g
        return loss.item()

    ones, found = torch.ones(x_real.shape[1]), []
    for x, noise in zip(x_real, z, strict=True):
        d_loss = step(D, bce(D(x), ones) + bce(D(G(noise).detach()), 0 * ones))
        found.append((d_loss, step(G, bce(D(G(noise)), ones))))
    return [*zip(*found, strict=True)]


def loops(x, w, stride, padding):
    x = F.pad(x, (padding,) * 4)
    (B, _, H, W), (M, _, K, L) = x.shape, w.shape
    y = torch.zeros(B, M, (H - K) // stride + 1, (W - L) // stride + 1)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            window = x[:, :, i * stride : i * stride + K, j * stride : j * stride + L]
            y[:, :, i, j] = torch.einsum("bckl,ockl->bo", window, w)
    return y


def through_data(average, source, decay):
    pairs = [*zip(average.parameters(), source.parameters(), strict=True),
             *zip(average.buffers(), source.buffers(), strict=True)]  # fmt: skip
    for mine, theirs in pairs:
        mine.data = decay * mine.data + (1 - decay) * theirs.data


def loaded(average, source, decay):
    new = source.state_dict()
    average.load_state_dict({k: decay * v + (1 - decay) * new[k] if v.is_floating_point() else v
                             for k, v in average.state_dict().items()})  # fmt: skip


def divergence_of_categoricals(p, q):
    kind = torch.distributions.Categorical
    return torch.distributions.kl_divergence(kind(probs=p), kind(probs=q))


class Frozen:
    def __init__(self, net):
        self.weights = [p for p in net.parameters() if p.requires_grad]

    def __enter__(self):
        for p in self.weights:
            p.requires_grad_(False)

    def __exit__(self, *_):
        for p in self.weights:
            p.requires_grad_(True)


def all_at_once(net, x, labels, batch_size):
    mode = net.training
    net.eval()
    found = torch.cat([net(part).argmax(1) for part in x.split(batch_size)])
    net.train(mode)
    return (found == labels).float().mean()


def fakes_first(G, C, g_opt, c_opt, x_reals, zs, penalty):
    with torch.no_grad():
        x_fakes = [G(z) for z in zs[:-1]]
    for x, x_fake in zip(x_reals, x_fakes, strict=True):
        c_opt.zero_grad()
        (C(x_fake) - C(x)).mean().add(penalty(C, x, x_fake)).backward()
        c_opt.step()
    g_opt.zero_grad()
    C(G(zs[-1])).mean().neg().backward()
    g_opt.step()


def clamped_data(critic, optimizer, x_real, x_fake, clip):
    score = critic(x_real).mean() - critic(x_fake).mean()
    optimizer.zero_grad()
    score.neg().backward()
    optimizer.step()
    for weight in critic.parameters():
        weight.data = weight.data.clip(-clip, clip)
    return score.detach()


def weighted_along(critic, x_real, x_fake, epsilon):
    x = torch.stack([torch.lerp(b, a, e) for a, b, e in zip(x_real, x_fake, epsilon, strict=True)])
    values = critic(x.detach_().requires_grad_())
    (slope,) = torch.autograd.grad(values, x, torch.ones_like(values), create_graph=True)
    return sum((s.norm() - 1) ** 2 for s in slope) / len(x)


ALSO_RIGHT = {
    "gan_step": [as_in_pytorchs_tutorial, frozen_for_gs_turn], "train_pair": [by_hand],
    "conv2d": [loops], "kl": [divergence_of_categoricals], "freeze": [Frozen],
    "ema_update": [through_data, loaded], "share_right": [all_at_once],
    "wgan_round": [fakes_first], "clipped_step": [clamped_data],
    "gradient_penalty": [weighted_along],
}  # fmt: skip
NOT_RIGHT = {"gan_step": [frozen_by_eval, frozen_by_eval_and_back, pictures_in_eval_mode]}


@pytest.mark.parametrize(("name", "answer"), [(k, a) for k, v in ALSO_RIGHT.items() for a in v])
def test_another_right_answer_passes(name, answer):
    for seed in SEEDS:
        told = verdict(core.exercises()[name], answer, seed)
        assert told.passed, told


@pytest.mark.parametrize(("name", "answer"), [(k, a) for k, v in NOT_RIGHT.items() for a in v])
def test_another_mode_is_another_training(name, answer):
    for seed in SEEDS:
        assert not verdict(core.exercises()[name], answer, seed).passed


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
        assert not verdict(one, lambda x: 3.0).passed


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
                     "bytes", "set", "Liar", "Tensor", "Linear"]  # fmt: skip
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
