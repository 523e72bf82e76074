"""How a learner's answer is called, where a plain call with the inputs would not show enough.

A function here has the name of an exercise, gets the learner's answer and one case's inputs, and
returns what is compared: the losses of some steps, the mean of many draws. What an answer leaves
behind in its arguments needs no care here: `watch` looks at it. These run beside the learner's
code, in the sandbox too, so they hold no answer and import nothing of the course.
"""

import copy
import math
import tracemalloc

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


def plain_call(answer, case):
    """What every exercise without a function of its own uses."""
    return answer(*case.values())


# --- nets -----------------------------------------------------------------------------------------


class _Dropout(torch.nn.Dropout):
    """Drops the same third of the features in every pass.

    So it makes no difference which of two passes comes first, and eval mode still makes one.
    """

    def forward(self, x):
        kept = torch.arange(x.shape[-1]) % 3 > 0
        return torch.where(kept, 1.5 * x, 0) if self.training else x


class _Nudge(torch.nn.Module):
    """Adds one of two learned rows, by the sign of a row's first number."""

    def __init__(self, width):
        super().__init__()
        self.rows = torch.nn.Embedding(2, width)

    def forward(self, x):
        return x + self.rows((x[:, 0] > 0).long())


def make_net(seed, n_in, n_out, *tail, width=5, act=torch.nn.Tanh, batch_norm=False, frozen=False,
             shared=False):
    """A small net (B, n_in) → (B, n_out), then `tail`, with what can go wrong in nets.

    It has a LayerNorm, an embedding and dropout; on demand BatchNorm, a frozen weight, and a layer
    that is used twice. seed: of all its weights and statistics.
    """
    first, again = torch.nn.Linear(n_in, width), torch.nn.Linear(width, width)
    norms = [torch.nn.BatchNorm1d(width)] if batch_norm else []
    twice = [again, act(), again] if shared else []
    net = torch.nn.Sequential(
        first, *norms, act(), *twice, torch.nn.LayerNorm(width), _Nudge(width), _Dropout(1 / 3),
        torch.nn.Linear(width, n_out), *tail,
    )
    rng = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=rng)
            value.copy_(drawn.exp() if "running_var" in name else drawn / value.shape[-1] ** 0.5)
    if frozen:
        net[0].bias.requires_grad_(False)
    return net


# --- chapter 03 -----------------------------------------------------------------------------------


def small_classifier(seed):
    """A net (B, 3) → logits (B, 4)."""
    return make_net(seed, 3, 4, batch_norm=True, frozen=True, shared=True)


def share_right(answer, case):
    """A net with gradients in its weights, as in the middle of a training."""
    net = small_classifier(case["net"]).train(case["training"])
    for weight in net.parameters():
        if weight.requires_grad:
            weight.grad = torch.full_like(weight, 0.5)
    return answer(net, case["x"], case["labels"], case["batch_size"])


# --- chapter 04 -----------------------------------------------------------------------------------


def _small_pair(case):
    """G: (B, 2) → x (B, 3), with BatchNorm if the batch has statistics, and D: x → logits (B,)."""
    G = make_net(case["nets"], 2, 3, batch_norm=case["z"].shape[1] > 1, shared=True)
    return G, make_net(case["nets"] + 1, 3, 1, torch.nn.Flatten(0), shared=True)


def _graphs(found):
    """0, or nan if a tensor in it hangs on its graph: whoever keeps it keeps the graph in memory.

    nan, because whoever has another mistake besides is told of that one.
    """
    return math.nan if _hangs(found) else 0.0


def _hangs(found):
    if isinstance(found, (list, tuple)):
        return any(map(_hangs, found))
    return isinstance(found, torch.Tensor) and found.requires_grad


def gan_step(answer, case):
    """What some steps returned, each on its own batch, or only whether graphs hang on it."""
    G, D = _small_pair(case)
    options = {"lr": case["rate"], "momentum": case["momentum"]}
    g_opt, d_opt = (torch.optim.SGD(net.parameters(), **options) for net in (G, D))
    batches = zip(case["x_real"], case["z"], strict=True)
    found = [answer(G, D, g_opt, d_opt, x_real, z) for x_real, z in batches]
    return _graphs(found) if "graphs" in case else found


def train_pair(answer, case):
    found = answer(*_small_pair(case), case["x_real"], case["z"], case["rate"])
    return _graphs(found) if "graphs" in case else found


# --- chapter 05 -----------------------------------------------------------------------------------


def _layer(kind):
    """A layer of a named kind, large enough for statistics, with biases that are not zero yet."""
    if kind == "ConvBlock":  # someone's own block: its name says Conv, and it has no weight itself
        ConvBlock = type("ConvBlock", (torch.nn.Sequential,), {})
        return ConvBlock(torch.nn.Conv2d(64, 128, 4), torch.nn.LeakyReLU(0.2))
    name, _, without = kind.partition(" without ")
    options = {"bias": {"bias": False}, "scale": {"affine": False}, "": {}}[without]
    sizes = {"Conv2d": (64, 128, 4), "ConvTranspose2d": (128, 64, 4), "Linear": (128, 512),
             "BatchNorm2d": (20_000,), "BatchNorm1d": (20_000,), "BatchNorm3d": (500,), "PReLU": (),
             "Embedding": (500, 20), "LayerNorm": ((50, 20),), "GroupNorm": (2, 500),
             "RMSNorm": (500,), "InstanceNorm2d": (500, 1e-5, 0.1, True),
             "Bilinear": (20, 20, 25)}
    return getattr(torch.nn, name)(*sizes[name], **options)


def dcgan_init(answer, case):
    """Mean and spread [0.02] of every tensor of the layer, and the share beyond two deviations."""
    net = torch.nn.Sequential(_layer(case["layer"]))
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.ones_(parameter)
    kept = [b for b in net.buffers() if b.is_floating_point()]  # BatchNorm's running statistics
    if isinstance(net[0], torch.nn.PReLU):
        kept.append(net[0].weight)
    for value in kept:
        torch.nn.init.constant_(value, case["kept"])
    net.apply(answer)
    shown = {}
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value = value.double()
            mean, spread = value.mean(), value.std(correction=0)
            tail = ((value - mean).abs() > 2 * spread).double().mean()
            numbers = {"mean / 0.02": mean / 0.02, "spread / 0.02": spread / 0.02}
            shown[name] = {k: v.item() for k, v in (numbers | {"tail": 10 * tail}).items()}
            if name.endswith("bias"):
                shown[name]["all 0"] = not value.any().item()
    return shown


def ema_update(answer, case):
    """Some updates, between which the source moves on."""
    average, source = (
        make_net(case["nets"] + i, case["size"], 2, batch_norm=True, frozen=True).to(
            torch.float64 if case["double"] else torch.float32)
        for i in range(2)
    )
    for _ in range(case["updates"]):
        answer(average, source, case["decay"])
        with torch.no_grad():
            for value in source.state_dict().values():
                value.mul_(2) if value.is_floating_point() else value.add_(1)


def _gradients(net, x):
    """Gradients of the input and of each weight, or None where none arrives."""
    net.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    loss = net(x).square().sum()
    if loss.requires_grad:
        loss.backward()
    return [x.grad, *[p.grad for p in net.parameters()]]


def freeze(answer, case):
    """Gradients inside the block, and after it: after an error, a thaw, two nested blocks."""
    x = case["x"]
    net = make_net(case["net"], x.shape[1], 1, batch_norm=True, shared=True)
    for i, parameter in enumerate(net.parameters()):
        parameter.requires_grad_(i % 3 not in case["frozen"])
    shown = {}
    with answer(net):
        shown["inside"] = _gradients(net, x)
    shown["after"] = _gradients(net, x)
    stop = {"ValueError": ValueError, "KeyboardInterrupt": KeyboardInterrupt}[case["stop"]]
    shown["the error comes through"] = False
    try:
        with answer(net):
            raise stop
    except stop:
        shown["the error comes through"] = True
    shown["after an error"] = _gradients(net, x)
    with answer(net):
        net.requires_grad_(True)
    shown["after a thaw inside"] = _gradients(net, x)
    with answer(net):
        with answer(net):
            pass
        shown["between two blocks"] = _gradients(net, x)
    shown["after both"] = _gradients(net, x)
    return shown


def look_at(answer, case):
    """A short training with a look after each step: the samples, and whether they hang on G."""
    G = make_net(case["net"], case["z"].shape[1], 2, batch_norm=True, frozen=True, shared=True)
    weights = [p for p in G.parameters() if p.requires_grad]
    G.train(case["training"])
    samples = []
    for z in case["noise"]:
        loss = torch.nn.functional.softplus(-G(z)).mean()
        with torch.no_grad():
            for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.sub_(slope, alpha=0.1)
        samples.append(answer(G, case["z"]))
    return {"samples": samples, "attached": _hangs(samples)}


# --- chapter 06 -----------------------------------------------------------------------------------


def _critic(seed, size, **options):
    """A small smooth critic (B, …) → (B,), which treats each sample by itself."""
    options |= {"act": torch.nn.Softplus, "frozen": True}
    net = make_net(seed, size, 1, torch.nn.Flatten(0), **options)
    return net.insert(0, torch.nn.Flatten())


def gradient_penalty(answer, case):
    """The penalty, and what it teaches the critic: the gradient in each of its weights.

    Where x_fake has a history, as if it came from a generator: whether anything reaches that.
    """
    critic = _critic(case["net"], case["x_real"][0].numel(), shared=True)
    if case["flat"]:
        torch.nn.init.zeros_(critic[-2].weight)
    x_fake = case["x_fake"].requires_grad_(case["history"])
    penalty = answer(critic, case["x_real"], x_fake, case["epsilon"])
    if penalty is None:
        return None
    if case["history"]:
        return _reaches(penalty, x_fake)
    for parameter in critic.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if isinstance(penalty, torch.Tensor) and penalty.requires_grad and not penalty.dim():
        penalty.backward()
    gradients = {name: parameter.grad for name, parameter in critic.named_parameters()}
    return {"penalty": penalty, "gradients": gradients}


def _reaches(penalty, x):
    """0, or nan if a gradient of the penalty arrives in x; nan as in `_graphs`."""
    if not isinstance(penalty, torch.Tensor) or not penalty.requires_grad:
        return 0.0
    (found,) = torch.autograd.grad(penalty.sum(), x, allow_unused=True)
    return 0.0 if found is None else math.nan


def wgan_round(answer, case):
    """Some rounds. The penalty is a simple one, for this test alone."""
    batch, z_dim = case["z"].shape[2:]
    G = make_net(case["nets"], z_dim, 2, batch_norm=batch > 1, frozen=True)
    critic = _critic(case["nets"] + 1, 2)
    kind = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}[case["optimizer"]]
    g_opt, c_opt = (kind(net.parameters(), lr=0.05) for net in (G, critic))

    def penalty(critic, x_real, x_fake):
        return 0.1 * (critic(x_real).square() + critic((x_real + x_fake) / 2).square()).mean()

    for x_reals, zs in zip(case["x_real"], case["z"], strict=True):
        answer(G, critic, g_opt, c_opt, list(x_reals), list(zs), penalty)


def clipped_step(answer, case):
    """The scores of three steps, or whether graphs hang on them."""
    critic = _critic(case["net"], 2, shared=True)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.2)
    batches = zip(case["x_real"], case["x_fake"], strict=True)
    found = [answer(critic, optimizer, x, x_fake, case["clip"]) for x, x_fake in batches]
    return _graphs(found) if "graphs" in case else found


# --- chapter 07 -----------------------------------------------------------------------------------


class _Made(TorchDispatchMode):
    """Follows the memory of the tensors that are made while it is on, and keeps none of them."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # to skip it, torch would import all of it first, for seconds

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        returned = function(*args, **(kwargs or {}))
        for made in returned if isinstance(returned, (tuple, list)) else [returned]:
            if isinstance(made, torch.Tensor):
                if made.layout is not torch.strided:
                    sparse = made.layout is torch.sparse_coo
                    made = made._values() if sparse else made.values()
                storage = made.untyped_storage()
                self.sizes[StorageWeakRef(storage)] = storage.nbytes()
        return returned

    def held(self):
        """Bytes of what is still there, wherever it is kept."""
        return sum(size for ref, size in self.sizes.items() if not ref.expired())


def _stream_that_holds_little(answer, batch, times):
    """A new stream that has seen a batch many times.

    Raises: MemoryError if a third of what came in is held: in tensors, by Python, or by NumPy.
    """
    made, was_tracing = _Made(), tracemalloc.is_tracing()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        with made:
            stream = answer()
            for _ in range(times):
                stream.add(batch)
        held = made.held()
        made.sizes.clear()
        held += tracemalloc.get_traced_memory()[0] - before
    finally:
        if not was_tracing:
            tracemalloc.stop()
    if held > batch.nbytes * times / 3:
        raise MemoryError(f"Of {batch.nbytes * times:,} bytes that came in it holds {held:,}.")
    return stream


def FeatureStream(answer, case):
    """What a stream says on the way; all batches come in the same memory, another stream's too.

    Raises: MemoryError if another one keeps what comes while the last batch comes again and again;
    TypeError if n is no whole number.
    """
    stream, other, batches = answer(), answer(), case["batches"]
    buffer = torch.empty(max(map(len, batches)), batches[0].shape[1], dtype=batches[0].dtype)
    shown = []
    for i, batch in enumerate(batches):
        part = buffer[: len(batch)]
        for one, rows in ((other, batch + 1), (stream, batch)):
            part.copy_(rows)
            one.add(part)
        if i in case["looks"]:
            shown.append(stream.result())  # as it is: a later batch must not change it
            n = shown[-1][0] if isinstance(shown[-1], (list, tuple)) and shown[-1] else 0
            if isinstance(n, float) or isinstance(n, torch.Tensor) and n.is_floating_point():
                raise TypeError("n is a float; in float32 it would stop at 16,777,216.")
    if case["again"]:
        unwatched = getattr(answer, "__wrapped__", answer)  # who watches holds something, too
        shown.append(_stream_that_holds_little(unwatched, batches[-1], case["again"]).result())
    return shown


# --- chapter 08 -----------------------------------------------------------------------------------


def best_sigma(answer, case):
    """σ is a measurement: whether a gradient could flow through it doesn't matter."""
    returned = answer(*case.values())
    if isinstance(returned, (tuple, list)) and returned and isinstance(returned[0], torch.Tensor):
        return (returned[0].detach(), *returned[1:])
    return returned


# --- chapter 09 -----------------------------------------------------------------------------------


def inversion_step(answer, case):
    """A small generator with gradients in its weights, as in the middle of a training."""
    pixels = case["x"].shape[1:]
    tail = torch.nn.Tanh(), torch.nn.Unflatten(1, pixels)
    options = {"batch_norm": not case["training"], "frozen": True, "shared": True}
    generator = make_net(case["net"], case["z"].shape[1], pixels.numel(), *tail, **options).eval()
    if case["training"]:  # alike in both modes, whichever an answer chooses
        plain = [m for m in generator if not isinstance(m, _Dropout)]
        generator = torch.nn.Sequential(*plain).train()
    for weight in generator.parameters():
        if weight.requires_grad:
            weight.grad = torch.full_like(weight, 0.5)
    z = answer(generator, case["z"], case["x"], case["lr"], case["penalty"])
    if case["copied"]:  # a leaf can be, whether it requires gradients or not
        z = copy.deepcopy(z)
    return z.detach() if isinstance(z, torch.Tensor) else z


def held_out_accuracy(answer, case):
    return _number(answer(*case.values()))


def mutual_information_gap(answer, case):
    return _number(answer(*case.values()))


def _number(value):
    """A scalar tensor as a number, whatever its precision; anything else as it is."""
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        return value.item()
    return value


# --- chapter 10 -----------------------------------------------------------------------------------


def sharpness(answer, case):
    return _number(answer(*case.values()))


def energy_distance(answer, case):
    return _number(answer(*case.values()))


def rate_and_misfit(answer, case):
    return _numbers(answer(*case.values()))


def compare_seeds(answer, case):
    return _numbers(answer(*case.values()))


def vaegan_gradients(answer, case):
    """Three nets; those of D in two halves, the second one plain: it must feel what G does."""
    pixels, z = case["x"][0].numel(), case["noise"].shape[1]
    sizes = {"E": (pixels, 2 * z), "G": (z, pixels), "D": (pixels, 4)}
    nets = {k: make_net(case["nets"] + i, *size, width=9, shared=True)
            for i, (k, size) in enumerate(sizes.items())}
    E = torch.nn.Sequential(torch.nn.Flatten(), nets["E"], _Halves())
    G = torch.nn.Sequential(nets["G"], torch.nn.Tanh(), torch.nn.Unflatten(1, case["x"].shape[1:]))
    D = _Judge(torch.nn.Sequential(torch.nn.Flatten(), nets["D"]),
               torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Flatten(0)))
    found = answer(case["x"], E, G, D, case["noise"], case["prior"], case["gamma"])
    if isinstance(found, dict):
        return {k: list(v) if isinstance(v, (tuple, list)) else v for k, v in found.items()}
    return found


class _Halves(torch.nn.Module):
    def forward(self, x):
        return x.chunk(2, dim=1)


class _Judge(torch.nn.Module):
    """`features`, then `head`."""

    def __init__(self, features, head):
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x):
        return self.head(self.features(x))


def _numbers(values):
    """Each of several numbers as `_number` has it."""
    return tuple(map(_number, values)) if isinstance(values, (tuple, list)) else values


# --- chapter 14 -----------------------------------------------------------------------------------


def mended_stopwatch(answer, case):
    """The seconds a call is said to take on a device that pretends: exact, and alike anywhere.

    And how many calls there were.
    """
    now, busy_until, called, looked = 0.0, case["queued"], 0, False

    def work():
        nonlocal now, busy_until, called
        seconds = case["seconds"][min(called, len(case["seconds"]) - 1)]
        called += 1
        if called <= case["warm_up"]:
            now += seconds  # something is compiled, in the program itself
        now += case["launch"]  # to hand the call over; the device begins when it is free
        busy_until = max(busy_until, now) + seconds

    def clock():
        nonlocal looked
        looked = True
        return now

    def synchronise():
        nonlocal now
        now = max(now, busy_until)

    found = _number(answer(work, clock, synchronise, case["warm_up"], case["repeats"]))
    if not isinstance(found, (int, float)):
        return found
    return {"seconds": found if looked else "nobody has looked at `clock`", "calls": called}


def conv_floor(answer, case):
    return _numbers(answer(*case.values()))


def float16_step(answer, case):
    """What becomes of the weights and the scale, with the loss of a linear model in float16."""

    def loss_of(low):
        products = [(x * w).sum(1) for x, w in zip(case["x"], low, strict=True)]
        errors = products[0].float() + products[1].float() - case["y"]
        return case["size"] * errors.square().mean()

    found = answer(case["weights"], loss_of, case["scale"], case["lr"])
    if isinstance(found, (tuple, list)) and len(found) == 2:
        return {"weights": found[0], "scale": _number(found[1])}
    return found


def rank_rows(answer, case):
    """For each step the rows of all ranks together, in order, and how many each rank has."""
    found, world = [], case["world"]
    for step in case["steps"]:
        rows = [answer(case["order"], step, case["batch_size"], r, world) for r in range(world)]
        if other := [r for r in rows if not isinstance(r, (torch.Tensor, list, range))]:
            return other[0]
        rows = [_row_numbers(r) for r in rows]
        together = torch.cat(rows).sort().values
        found.append({"all ranks": together, "sizes": sorted(map(len, rows))})
    return found


def _row_numbers(rows):
    """A rank's rows as a tensor (n,), from a list or a range too; a list of none has no dtype."""
    if isinstance(rows, torch.Tensor):
        return rows.flatten()
    return torch.tensor(list(rows), dtype=None if rows else torch.int64)


def global_batch_norm(answer, case):
    """What all ranks return; at each `yield` they get the sum of what all of them hand over."""
    programs = [answer(x, case["eps"]) for x in case["x"].split(case["sizes"])]
    if not all(hasattr(p, "send") for p in programs):
        return _joined(programs)  # ordinary functions: nothing was exchanged
    heard, returned = None, [None] * len(programs)
    while True:
        handed, done = [], 0
        for rank, program in enumerate(programs):
            try:
                handed.append(program.send(heard.clone() if torch.is_tensor(heard) else heard))
            except StopIteration as stop:
                returned[rank], done = stop.value, done + 1
        if done == len(programs):
            return _joined(returned)
        if done:
            raise RuntimeError(f"{done} of {len(programs)} ranks return, the others wait for them")
        if not all(isinstance(h, (torch.Tensor, int, float)) for h in handed):
            raise TypeError("what a rank hands over is added up: it must be a number or a tensor")
        heard = sum(handed)


def _joined(parts):
    """The ranks' shares as one batch, or the first of them that can't be a share."""
    if other := [p for p in parts if not torch.is_tensor(p) or p.dim() != 4]:
        return other[0]
    return torch.cat(parts)
