"""Chapter 05: the exercises on a DCGAN's parts, their references, and the mistakes people make."""

import contextlib
import copy

import torch
from torch import nn

from gencourse import nets
from gencourse.checks.core import Exercise, draw_seed, normals

STEM = "05_dcgan"


# --- 5.1 ------------------------------------------------------------------------------------------

transposed_size = Exercise(
    "transposed_size",
    level="warm-up",
    minutes=10,
    tests="none to three layers, kernels of 3 to 7, strides of 1 to 3, with output padding.",
    hint="Each input pixel paints k pixels, s apart; then p are cut off at *both* ends.",
)


@transposed_size.cases
def layers(rng):
    def draw(low, high):
        return int(torch.randint(low, high, (), generator=rng))

    fixed = [[7, [(4, 2, 1, 0), (4, 2, 1, 0)]], [5, [(3, 2, 1, 1)]], [4, [(5, 1, 0, 0)]]]
    drawn = [[draw(2, 9), [(draw(4, 8), 3, draw(1, 2), 2), (draw(4, 6), 2, 1, draw(0, 2))]],
             [draw(2, 9), [(4, 2, 1, 1), (6, 2, 2, 0), (5, 3, 1, 2)]]]
    return [{"n": n, "layers": each} for n, each in [*fixed, *drawn, [6, []]]]


def sizes(n, layers, one):
    for k, s, p, o in layers:
        n = one(n, k, s, p, o)
    return n


@transposed_size.reference
def painted(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: (n - 1) * s - 2 * p + k + o)


@transposed_size.wrong("This is the size after a *convolution*, which shrinks; painting enlarges.")
def convolved(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: (n + 2 * p - k) // s + 1 + o)


@transposed_size.wrong(
    "n pixels have only n − 1 steps of s between them: the last one paints no further gap."
)
def n_steps(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: n * s - 2 * p + k + o)


@transposed_size.wrong("The padding is cut off at both ends; you take it off once.")
def cut_once(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: (n - 1) * s - p + k + o)


@transposed_size.wrong("Padding makes a *transposed* convolution's output smaller, not larger.")
def padding_added(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: (n - 1) * s + 2 * p + k + o)


@transposed_size.wrong("The output padding is missing: it adds its rows at one end.")
def no_output_padding(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: (n - 1) * s - 2 * p + k)


@transposed_size.wrong("The output padding comes at one end only; you add it twice.")
def output_padding_twice(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: (n - 1) * s - 2 * p + k + 2 * o)


@transposed_size.wrong(
    "You return after the first layer: each layer's output side is the next one's input."
)
def first_layer_only(n, layers):
    return painted(n, layers[:1])


# --- 5.2 ------------------------------------------------------------------------------------------

dcgan_init = Exercise(
    "dcgan_init",
    level="core",
    minutes=20,
    tests="mean and spread of new weights in every kind of layer, and what must stay as it is.",
    hint="Ask with `isinstance` what the module is; not every layer has a bias, or even a weight.",
    free=("weights",),  # they are random: the driver measures them
    rtol=0.0,
    atol=0.1,
)


@dcgan_init.cases
def kinds_of_layers(rng):
    kinds = ["Conv2d", "ConvTranspose2d", "Linear", "BatchNorm2d", "BatchNorm1d"]
    kinds += ["Conv2d without bias", "BatchNorm2d without scale", "PReLU", "ConvBlock"]
    kinds += ["BatchNorm3d", "Embedding", "LayerNorm", "GroupNorm", "RMSNorm"]
    return [{"layer": kind, "kept": 0.5 + torch.rand((), generator=rng).item()} for kind in kinds]


dcgan_init.reference(nets.dcgan_init)


def initialised(module, spread=0.02, centre=1.0, kinds=(nn.Conv2d, nn.ConvTranspose2d, nn.Linear),
                biases=True, draw=nn.init.normal_):  # fmt: skip
    """What all the wrong answers are variations of."""
    if isinstance(module, kinds):
        draw(module.weight, 0.0, spread)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
        draw(module.weight, centre, spread)
    else:
        return
    if biases and module.bias is not None:
        nn.init.zeros_(module.bias)


@dcgan_init.wrong("0.02 is the standard deviation; you use it as the variance: √0.02 is 0.14.")
def variance_for_deviation(module):
    initialised(module, spread=0.02**0.5)


@dcgan_init.wrong(
    "BatchNorm's scale is drawn around 1. Around 0 it would multiply every feature map by almost "
    "nothing."
)
def scale_around_zero(module):
    initialised(module, centre=0.0)


@dcgan_init.wrong(
    "The transposed convolutions keep their old weights: `nn.ConvTranspose2d` is no kind of "
    "`nn.Conv2d`."
)
def transposed_forgotten(module):
    initialised(module, kinds=(nn.Conv2d, nn.Linear))


@dcgan_init.wrong("The linear layer keeps its old weights: the rule is for all of them.")
def linear_forgotten(module):
    initialised(module, kinds=(nn.Conv2d, nn.ConvTranspose2d))


@dcgan_init.wrong("BatchNorm's running statistics are no weights: leave them as they are.")
def statistics_reset(module):
    initialised(module)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.reset_running_stats()


@dcgan_init.wrong("The biases keep their old values; they start at 0.")
def biases_kept(module):
    initialised(module, biases=False)


@dcgan_init.wrong("The weights are uniform; DCGAN's are normal.")
def uniform(module):
    def draw(weight, centre, spread):
        nn.init.uniform_(weight, centre - spread, centre + spread)

    initialised(module, draw=draw)


@dcgan_init.wrong(
    "You go by the *name* of the class. A block of one's own named ConvBlock, with a convolution "
    "inside and no weight of its own, matches too: ask with `isinstance`."
)
def by_name(module):
    name = type(module).__name__
    if "Conv" in name or "Linear" in name:
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif "BatchNorm" in name and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


@dcgan_init.wrong(
    "You draw every `.weight` there is. The slope of a PReLU is a weight too, and is none of these "
    "layers'."
)
def everything_with_a_weight(module):
    if isinstance(module, nn.PReLU):
        nn.init.normal_(module.weight, 0.0, 0.02)
    initialised(module)


# --- 5.3 ------------------------------------------------------------------------------------------

ema_update = Exercise(
    "ema_update",
    level="core",
    minutes=15,
    tests="weights and BatchNorm's statistics after several updates, float32 and float64.",
    hint="`state_dict()` holds weights *and* statistics, and its tensors are the net's own memory.",
    free=("num_batches_tracked",),
)


@ema_update.cases
def pairs_of_nets(rng):
    options = [(3, False, 0.9, 3), (1, True, 0.5, 1), (2, True, 0.995, 4), (2, False, 0.0, 1)]
    return [{"nets": draw_seed(rng), "size": n, "double": double, "decay": d, "updates": u}
            for n, double, d, u in options]  # fmt: skip


@torch.no_grad()
def averaged(average, source, decay, parameters=True, buffers="averaged"):
    mine, theirs = average.state_dict(), source.state_dict()
    for name, value in mine.items():
        is_buffer = "running" in name
        if not value.is_floating_point() or (is_buffer and buffers == "kept"):
            continue
        if is_buffer and buffers == "copied":
            value.copy_(theirs[name])
        elif is_buffer or parameters:
            value.lerp_(theirs[name], 1 - decay)


@ema_update.reference
def right_average(average, source, decay):
    averaged(average, source, decay)


@ema_update.wrong(
    "The weights are right, BatchNorm's running mean and variance stay as they were: they are "
    "buffers, and `parameters()` doesn't list them."
)
def weights_only(average, source, decay):
    averaged(average, source, decay, buffers="kept")


@ema_update.wrong(
    "The weights are right, but the running mean and variance are copied; here they are averaged "
    "like the weights they belong to."
)
def statistics_copied(average, source, decay):
    averaged(average, source, decay, buffers="copied")


@ema_update.wrong("decay is the weight of the *past*; you give it to the new value.")
def decay_of_the_new(average, source, decay):
    averaged(average, source, 1 - decay)


@ema_update.wrong(
    "The average does not change. `a = decay * a + …` gives a new tensor a name; to write into the "
    "net use an in-place operation such as `a.copy_(…)` or `a.lerp_(…)`."
)
def nothing_written(average, source, decay):
    averaged(copy.deepcopy(average), source, decay)


@ema_update.wrong("You move the source towards the average. The source only trains; leave it.")
def source_moved(average, source, decay):
    averaged(source, average, decay)


@ema_update.wrong("You copy the source: the past is gone, and nothing is averaged.")
def source_copied(average, source, decay):
    averaged(average, source, 0.0)


# --- 5.4 ------------------------------------------------------------------------------------------

freeze = Exercise(
    "freeze",
    level="stretch",
    minutes=25,
    tests="gradients inside the block, after it, after an error or Ctrl-C in it, and nested twice; "
    "with nets of which some weights were frozen before.",
    hint="Remember every weight's own flag before you change it, and restore it in a `finally`.",
)


@freeze.cases
def nets_with_flags(rng):
    frozen = [[], [0, 2], [0, 1, 2]]  # every third weight, from these on
    stops = ["ValueError", "KeyboardInterrupt", "KeyboardInterrupt"]
    return [{"x": normals(rng, 5, 3), "net": draw_seed(rng), "frozen": each, "stop": stop}
            for each, stop in zip(frozen, stops, strict=True)]  # fmt: skip


def flags_of(net):
    return [p.requires_grad for p in net.parameters()]


def set_flags(net, flags):
    for parameter, flag in zip(net.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)


@freeze.reference
@contextlib.contextmanager
def frozen(net):
    flags = flags_of(net)
    net.requires_grad_(False)
    try:
        yield
    finally:
        set_flags(net, flags)


@freeze.wrong(
    "Afterwards every weight trains, also those that were frozen before: each one gets back the "
    "flag that it had."
)
@contextlib.contextmanager
def all_thawed(net):
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)


@freeze.wrong(
    "When something goes wrong inside the block, the net stays frozen: what stands behind the "
    "`yield` is then not reached."
)
@contextlib.contextmanager
def frozen_after_an_error(net):
    flags = flags_of(net)
    net.requires_grad_(False)
    yield
    set_flags(net, flags)


@freeze.wrong(
    "This is chapter 05's pair of lines, and both things can still go wrong: after an error the "
    "net stays frozen, and weights that were frozen on purpose come out thawed."
)
@contextlib.contextmanager
def as_in_the_chapter(net):
    net.requires_grad_(False)
    yield
    net.requires_grad_(True)


@freeze.wrong(
    "After an ordinary error the net is thawed, after Ctrl-C it stays frozen: KeyboardInterrupt is "
    "no `Exception`. Use `finally`."
)
@contextlib.contextmanager
def frozen_after_ctrl_c(net):
    flags = flags_of(net)
    net.requires_grad_(False)
    try:
        yield
    except Exception:
        set_flags(net, flags)
        raise
    set_flags(net, flags)


@freeze.wrong(
    "The block swallows the error, and nobody learns that the training failed: let it through."
)
@contextlib.contextmanager
def error_swallowed(net):
    flags = flags_of(net)
    net.requires_grad_(False)
    with contextlib.suppress(BaseException):
        yield
    set_flags(net, flags)


@freeze.wrong(
    "The block swallows ordinary errors, and nobody learns that the training failed: `finally` "
    "needs no `except` beside it."
)
@contextlib.contextmanager
def ordinary_error_swallowed(net):
    flags = flags_of(net)
    net.requires_grad_(False)
    try:
        with contextlib.suppress(Exception):
            yield
    finally:
        set_flags(net, flags)


@freeze.wrong(
    "`no_grad` cuts the whole path: the gradient must still flow *through* the net to its input."
)
@contextlib.contextmanager
def path_cut(net):
    with torch.no_grad():
        yield


@freeze.wrong(
    "`eval()` freezes no weight: it changes what BatchNorm and Dropout compute, and the gradients "
    "with it."
)
@contextlib.contextmanager
def in_eval_mode(net):
    net.eval()
    try:
        yield
    finally:
        net.train()


@freeze.wrong("The net is never thawed again.")
@contextlib.contextmanager
def for_ever(net):
    net.requires_grad_(False)
    yield


# --- 5.5 ------------------------------------------------------------------------------------------

look_at = Exercise(
    "look_at",
    level="core",
    minutes=15,
    tests="the samples, and that training goes on as if nobody had looked, with any mode before.",
    hint="Look in eval mode, without gradients, and leave the net in the mode you found it in.",
    random=True,
)


@look_at.cases
def trainings(rng):
    return [{"z": normals(rng, still, z_dim), "noise": normals(rng, 3, 6, z_dim),
             "net": draw_seed(rng), "training": training}
            for z_dim, still, training in [(2, 4, True), (3, 1, True), (2, 6, False)]]  # fmt: skip


@look_at.reference
def and_leave(G, z):
    before = G.training
    G.eval()
    with torch.no_grad():
        x = G(z)
    G.train(before)
    return x


@look_at.wrong(
    "This is still the broken program: after the first look G stays in eval mode, and is trained "
    "on with the statistics of that moment."
)
def left_in_eval(G, z):
    G.eval()
    with torch.no_grad():
        return G(z)


@look_at.wrong(
    "You look in training mode. Each sample then depends on the others of its batch, and every "
    "look moves BatchNorm's running statistics."
)
def in_training_mode(G, z):
    before = G.training
    G.train()
    with torch.no_grad():
        x = G(z)
    G.train(before)
    return x


@look_at.wrong(
    "Afterwards G is always in training mode, also where it was in eval mode before: leave it as "
    "you found it."
)
def always_training(G, z):
    x = left_in_eval(G, z)
    G.train()
    return x


@look_at.wrong(
    "The samples still hang on the graph: who keeps the sheets keeps every graph in memory. Look "
    "without gradients."
)
def with_gradients(G, z):
    before = G.training
    G.eval()
    x = G(z)
    G.train(before)
    return x


@look_at.wrong("You look at a net in the mode in which it happens to be; samples need eval mode.")
def as_it_is(G, z):
    with torch.no_grad():
        return G(z)
