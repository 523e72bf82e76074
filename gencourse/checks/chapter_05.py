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
    tests="none to three layers, one pixel, kernels of 2 to 7, strides of 1 to 3, gaps, with "
    "output padding.",
    hint="Each input pixel paints k pixels, s apart; then p are cut off at *both* ends.",
)


@transposed_size.cases
def layers(rng):
    def draw(low, high):
        return int(torch.randint(low, high, (), generator=rng))

    fixed = [[7, [(4, 2, 1, 0), (4, 2, 1, 0)]], [5, [(3, 2, 1, 1)]], [4, [(5, 1, 0, 0)]],
             [1, [(4, 1, 0, 0), (4, 2, 1, 0), (4, 2, 1, 0)]], [3, [(2, 3, 0, 0)]]]
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


@transposed_size.wrong(
    "Each layer begins with the n of the beginning: its input is what the layer before it painted."
)
def n_not_carried_on(n, layers):
    return painted(n, layers[-1:])


@transposed_size.wrong("You return n as it came: what a layer makes of it must become the new n.")
def n_unchanged(n, layers):
    return n


@transposed_size.wrong("Your last layer comes first: the list begins with the first one.")
def backwards(n, layers):
    return painted(n, layers[::-1])


@transposed_size.wrong("The padding is missing: it is cut off, at both ends.")
def no_padding(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: (n - 1) * s + k + o)


@transposed_size.wrong("The output padding makes the side larger; you take it off.")
def output_padding_off(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: (n - 1) * s - 2 * p + k - o)


@transposed_size.wrong("The kernel is missing: the last pixel paints k places, as all others do.")
def no_kernel(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: (n - 1) * s - 2 * p + o)


@transposed_size.wrong("The stride is missing: pixels begin to paint s places apart.")
def no_stride(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: n - 1 - 2 * p + k + o)


@transposed_size.wrong(
    "It is one too few in each layer: the last pixel paints k places, its own among them. "
    "PyTorch's formula has k − 1, and a + 1 at its end."
)
def one_too_few(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: (n - 1) * s - 2 * p + k - 1 + o)


@transposed_size.wrong(
    "n·s is right for k = 4, s = 2, p = 1, and for few others: kernel and padding count as well."
)
def times_the_stride(n, layers):
    return sizes(n, layers, lambda n, k, s, p, o: n * s)


@transposed_size.wrong("Kernel and stride are exchanged: a layer is (k, s, p, o), in this order.")
def kernel_for_stride(n, layers):
    return painted(n, [(s, k, p, o) for k, s, p, o in layers])


@transposed_size.wrong("Stride and padding are exchanged: a layer is (k, s, p, o), in this order.")
def padding_for_stride(n, layers):
    return painted(n, [(k, p, s, o) for k, s, p, o in layers])


@transposed_size.wrong("The two paddings are exchanged: a layer is (k, s, p, o), in this order.")
def paddings_exchanged(n, layers):
    return painted(n, [(k, s, o, p) for k, s, p, o in layers])


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
    kinds += ["BatchNorm3d", "Embedding", "LayerNorm", "GroupNorm", "RMSNorm", "InstanceNorm2d"]
    kinds += ["Bilinear", "ConvTranspose2d without bias", "Linear without bias"]
    kinds += ["BatchNorm1d without scale"]
    return [{"layer": kind, "kept": 0.5 + torch.rand((), generator=rng).item()} for kind in kinds]


dcgan_init.reference(nets.dcgan_init)


LAYERS, NORMS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear), (nn.BatchNorm1d, nn.BatchNorm2d)


def initialised(module, spread=0.02, centre=1.0, kinds=LAYERS, biases=True,
                draw=nn.init.normal_):
    """What all the wrong answers are variations of."""
    if isinstance(module, kinds):
        draw(module.weight, 0.0, spread)
    elif isinstance(module, NORMS) and module.affine:
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
    if isinstance(module, NORMS):
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


def drawn_too(module, more):
    """All is right, but the weights of some other layers are drawn as well."""
    initialised(module)
    weight = getattr(module, "weight", None)
    if weight is None or isinstance(module, NORMS) or not more(weight):
        return
    nn.init.normal_(weight, 0.0, 0.02)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)


@dcgan_init.wrong(
    "You draw every `.weight` there is. The slope of a PReLU is a weight too, and so is a "
    "LayerNorm's scale: ask with `isinstance` what the module is."
)
def everything_with_a_weight(module):
    drawn_too(module, lambda weight: True)


@dcgan_init.wrong(
    "You draw every weight with two or more dimensions. An embedding's is one too, and a "
    "LayerNorm's may be: ask with `isinstance` what the module is."
)
def every_matrix(module):
    drawn_too(module, lambda weight: weight.dim() > 1)


@dcgan_init.wrong(
    "You draw the scale of every layer with \"Norm\" in its name. Only BatchNorm's, 1d and 2d, is "
    "drawn: ask with `isinstance`."
)
def every_norm(module):
    initialised(module)
    if "Norm" in type(module).__name__ and module.weight is not None:
        nn.init.normal_(module.weight, 1.0, 0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


@dcgan_init.wrong("BatchNorm stays as it was: its scale is drawn around 1, and its bias is 0.")
def norms_forgotten(module):
    if not isinstance(module, NORMS):
        initialised(module)


def right_but_for(module, kinds, part):
    """All is right, but one part of some kinds of layers stays as it was."""
    part = getattr(module, part) if isinstance(module, kinds) else None
    before = None if part is None else part.detach().clone()
    initialised(module)
    if part is not None:
        with torch.no_grad():
            part.copy_(before)


@dcgan_init.wrong("BatchNorm's scale is not drawn: mean 1, standard deviation 0.02.")
def scale_kept(module):
    right_but_for(module, NORMS, "weight")


@dcgan_init.wrong("BatchNorm's bias keeps its old values; it starts at 0, like all others.")
def bias_of_norms_kept(module):
    right_but_for(module, NORMS, "bias")


@dcgan_init.wrong("Convolutions and linear layers keep their old biases; they start at 0.")
def bias_of_layers_kept(module):
    right_but_for(module, LAYERS, "bias")


@dcgan_init.wrong("No convolution and no linear layer gets a new weight.")
def weights_kept(module):
    right_but_for(module, LAYERS, "weight")


@dcgan_init.wrong(
    "The weights of convolutions and linear layers are all 0.02: `normal_(tensor, mean, std)` "
    "takes the mean first."
)
def all_the_same(module):
    initialised(module)
    if isinstance(module, LAYERS):
        nn.init.constant_(module.weight, 0.02)


@dcgan_init.wrong(
    "BatchNorm's scale is drawn around 0.02, with standard deviation 1: `normal_(tensor, mean, "
    "std)` takes the mean first."
)
def scale_exchanged(module):
    if isinstance(module, NORMS) and module.affine:
        nn.init.normal_(module.weight, 0.02, 1.0)
        nn.init.zeros_(module.bias)
    else:
        initialised(module)


@dcgan_init.wrong(
    "Mean and standard deviation are exchanged everywhere: `normal_(tensor, mean, std)`."
)
def both_exchanged(module):
    scale_exchanged(module)
    if isinstance(module, LAYERS):
        nn.init.constant_(module.weight, 0.02)


@dcgan_init.wrong("You draw all weights around 1. That is for BatchNorm's scale; all others: 0.")
def all_around_one(module):
    initialised(module)
    if isinstance(module, LAYERS):
        nn.init.normal_(module.weight, 1.0, 0.02)


@dcgan_init.wrong(
    "The standard deviation depends on the layer's size, as in Xavier's rule; DCGAN's is 0.02 for "
    "all layers."
)
def by_size(module):
    initialised(module)
    if isinstance(module, LAYERS):
        nn.init.xavier_normal_(module.weight)


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
            for n, double, d, u in options]


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


@ema_update.wrong("The running mean and variance are right, and the weights stand still.")
def statistics_only(average, source, decay):
    averaged(average, source, decay, parameters=False)


@ema_update.wrong(
    "Weights that don't train (`requires_grad` is False) are left out: all floating-point numbers "
    "of the net are averaged."
)
def frozen_left_out(average, source, decay):
    frozen = [p for p in average.parameters() if not p.requires_grad]
    before = [p.clone() for p in frozen]
    averaged(average, source, decay)
    for parameter, value in zip(frozen, before, strict=True):
        parameter.copy_(value)


@torch.no_grad()
def added(average, source, past, new):
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.mul_(past).add_(new * source.state_dict()[name])


@ema_update.wrong("The new value is added in full: it counts 1 − decay times.")
def new_in_full(average, source, decay):
    added(average, source, decay, 1)


@ema_update.wrong("The past stays in full, so that the average grows: it counts decay times.")
def past_in_full(average, source, decay):
    added(average, source, 1, 1 - decay)


# --- 5.4 ------------------------------------------------------------------------------------------

freeze = Exercise(
    "freeze",
    level="stretch",
    minutes=25,
    tests="gradients inside the block, after it, after an error or Ctrl-C in it, after a thaw in "
    "it, and nested twice; with nets of which some weights were frozen before.",
    hint="Remember every weight's own flag before you change it, and restore it in a `finally`.",
)


@freeze.cases
def nets_with_flags(rng):
    frozen = [[], [0, 2], [0, 1, 2]]  # every third weight, from these on
    stops = ["ValueError", "KeyboardInterrupt", "KeyboardInterrupt"]
    return [{"x": normals(rng, 5, 3), "net": draw_seed(rng), "frozen": each, "stop": stop}
            for each, stop in zip(frozen, stops, strict=True)]


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
    "A weight that was frozen before, and that somebody thaws inside the block, stays thawed: each "
    "one gets back its own flag, whatever happened inside."
)
@contextlib.contextmanager
def only_what_trained(net):
    trained = [p for p in net.parameters() if p.requires_grad]
    net.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


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


@freeze.wrong(
    "The weights are frozen. But inside the block the net is in eval mode as well, and BatchNorm "
    "and Dropout compute something else: leave the mode alone."
)
@contextlib.contextmanager
def frozen_in_eval_mode(net):
    net.eval()
    try:
        with frozen(net):
            yield
    finally:
        net.train()


@freeze.wrong(
    "Inside the block the weights still get gradients. `net.requires_grad = False`, for one, makes "
    "a new attribute that nobody reads; each weight has its own flag."
)
@contextlib.contextmanager
def nothing_frozen(net):
    yield


@freeze.wrong(
    "After two nested blocks the net stays frozen: the inner one overwrites what the outer one "
    "remembers. Each block needs a list of its own."
)
@contextlib.contextmanager
def one_memory_for_all(net):
    one_memory_for_all.flags = flags_of(net)
    net.requires_grad_(False)
    try:
        yield
    finally:
        set_flags(net, one_memory_for_all.flags)


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
            for z_dim, still, training in [(2, 4, True), (3, 1, True), (2, 6, False)]]


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


@look_at.wrong(
    "G stays in eval mode, as in the broken program, and now the samples hang on the graph, too."
)
def left_in_eval_with_gradients(G, z):
    G.eval()
    return G(z)


@look_at.wrong("The samples are moved from [−1, 1] to [0, 1]: return them as G makes them.")
def made_for_showing(G, z):
    return (and_leave(G, z) + 1) / 2


@look_at.wrong(
    "All is as it was. But nothing comes back: return the samples, and do so after the mode is set "
    "back."
)
def nothing_returned(G, z):
    and_leave(G, z)
