"""Chapter 05: other right answers, and wrong ones that are tried besides those with a name."""

import contextlib
import copy
import functools

import torch
from torch import nn

# --- 5.1 ------------------------------------------------------------------------------------------


def by_pytorch(n, layers):
    x = torch.zeros(1, 1, n, n, device="meta")
    for k, s, p, o in layers:
        x = torch.nn.functional.conv_transpose2d(
            x, torch.zeros(1, 1, k, k, device="meta"), stride=s, padding=p, output_padding=o)
    return x.shape[-1]


def recursive(n, layers):
    if not layers:
        return n
    (k, s, p, o), *rest = layers
    return recursive(s * (n - 1) + (k - 1) + 1 + o - p - p, rest)


def painting(n, layers):
    for kernel, stride, padding, extra in layers:
        last = 0
        for i in range(n):
            last = max(last, i * stride + kernel)
        n = last - 2 * padding + extra
    return n


def each(one):
    def side(n, layers):
        for layer in layers:
            n = one(n, *layer)
        return n

    return side


SIZE_RIGHT = {
    "by PyTorch": by_pytorch,
    "recursive": recursive,
    "painting": painting,
    "reduce": lambda n, layers: functools.reduce(
        lambda n, x: (n - 1) * x[1] + x[0] - 2 * x[2] + x[3], layers, n),
    "n·s + k − s": each(lambda n, k, s, p, o: n * s + k - s - 2 * p + o),
    "a tensor": lambda n, layers: torch.tensor(recursive(n, layers)),
    "a float": lambda n, layers: float(recursive(n, layers)),
}
SIZE_WRONG = {
    "by convolution": (each(lambda n, k, s, p, o: (n + 2 * p - k) // s + 1 + o), "shrinks"),
    "the padding times the stride": (each(lambda n, k, s, p, o: (n - 1) * s - 2 * p * s + k + o),
                                     ""),
    "output padding by the stride": (each(lambda n, k, s, p, o: (n - 1) * s - 2 * p + k + o * s),
                                     ""),
    "2n": (each(lambda n, k, s, p, o: 2 * n), ""),
    "k·n": (each(lambda n, k, s, p, o: k * n), ""),
    "all but the first": (lambda n, layers: recursive(n, layers[1:]), ""),
    "both sides": (lambda n, layers: (recursive(n, layers),) * 2, "a whole number was expected"),
    "the area": (lambda n, layers: recursive(n, layers) ** 2, ""),
    "(n + 1)·s": (each(lambda n, k, s, p, o: (n + 1) * s - 2 * p + k + o), ""),
    "never below 1": (lambda n, layers: max(1, recursive(n, layers)) + 1, ""),
    "the list used up": (
        lambda n, layers: [n := each(lambda n, k, s, p, o: (n - 1) * s - 2 * p + k + o)(
            n, [layers.pop(0)]) for _ in range(len(layers))][-1] if layers else n, "entries"),
}


# --- 5.2 ------------------------------------------------------------------------------------------

LAYERS, NORMS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear), (nn.BatchNorm1d, nn.BatchNorm2d)


def init(module, layers=LAYERS, norms=NORMS, draw=nn.init.normal_, bias=nn.init.zeros_):
    if isinstance(module, layers):
        draw(module.weight, mean=0.0, std=0.02)
    elif isinstance(module, norms):
        if module.weight is None:
            return
        draw(module.weight, mean=1.0, std=0.02)
    else:
        return
    if module.bias is not None:
        bias(module.bias)


def through_data(module):
    init(module, draw=lambda w, mean, std: w.data.normal_(mean, std), bias=lambda b: b.data.zero_())


def by_randn(module):
    with torch.no_grad():
        init(module, draw=lambda w, mean, std: w.copy_(mean + std * torch.randn(w.shape)),
             bias=lambda b: b.fill_(0))
    return module


def with_a_generator(module):
    rng = torch.Generator().manual_seed(3)
    init(module, draw=lambda w, mean, std: nn.init.normal_(w, mean, std, generator=rng))


def by_exact_type(module):
    names = {"Conv2d", "ConvTranspose2d", "Linear", "BatchNorm1d", "BatchNorm2d"}
    if type(module).__name__ in names:
        init(module)


def drawn(draw):
    return lambda module: init(module, draw=draw)


def new_weights(module):
    init(module)
    if isinstance(module, LAYERS):
        module.weight = nn.Parameter(0.02 * torch.randn_like(module.weight))


def all_there(*kinds):
    """As if layers of these kinds always had a weight and a bias."""
    def answer(module):
        init(module)
        if isinstance(module, kinds):
            module.bias.data.zero_(), module.weight.data

    return answer


def then(meddle):
    def answer(module):
        init(module)
        meddle(module)

    return answer


INIT_RIGHT = {
    "keywords": init,
    "through data": through_data,
    "randn, and it returns the module": by_randn,
    "a generator": with_a_generator,
    "truncated far out": drawn(nn.init.trunc_normal_),
    "by exact type": by_exact_type,
    "all convolutions": lambda module: init(module, (nn.modules.conv._ConvNd, nn.Linear)),
}
INIT_WRONG = {
    "Kaiming": (drawn(lambda w, mean, std: nn.init.kaiming_normal_(w) if w.dim() > 1 else
                      nn.init.normal_(w, mean, std)), ""),
    "cut off at two deviations": (
        drawn(lambda w, mean, std: nn.init.trunc_normal_(w, mean, std, mean - 2 * std,
                                                         mean + 2 * std)), ""),
    "one number": (drawn(lambda w, mean, std: nn.init.constant_(w, mean)), ""),
    "spread 0.01": (drawn(lambda w, mean, std: nn.init.normal_(w, mean, std / 2)), ""),
    "biases drawn": (lambda module: init(module, bias=lambda b: nn.init.normal_(b, 0, 0.02)), ""),
    "all that have statistics": (
        lambda module: init(module, norms=(nn.modules.batchnorm._NormBase,)), ""),
    "all of BatchNorm": (
        lambda module: init(module, norms=(nn.modules.batchnorm._BatchNorm,)), ""),
    "by the name of the class": (
        lambda module: init(module) if "Batch" not in type(module).__name__ else init(
            module, norms=(type(module),)), ""),
    "Embeddings too": (lambda module: init(module) if not isinstance(module, nn.Embedding) else
                       nn.init.normal_(module.weight, 0, 0.02) and None, "two or more dimensions"),
    "biases a little above 0": (lambda module: init(module, bias=lambda b: b.data.fill_(1e-3)), ""),
    "a missing bias, asked for in nn.Conv2d alone": (
        all_there(nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d), "NoneType"),
    "… in all but nn.Linear": (all_there(nn.Linear), "NoneType"),
    "a missing scale, asked for in nn.BatchNorm2d alone": (all_there(nn.BatchNorm1d), "NoneType"),
    "new weights": (new_weights, "an optimizer holds the old ones"),
    "frozen": (then(lambda module: module.requires_grad_(False)), "no longer require"),
    "in eval mode": (then(lambda module: module.eval()), "eval mode"),
    "all biases": (then(lambda module: getattr(module, "bias", None) is not None
                        and nn.init.zeros_(module.bias)), ""),
    "Bilinear, too": (lambda module: init(module, (*LAYERS, nn.Bilinear)), ""),
    "in float64": (then(lambda module: module.double()), ""),
    "convolutions alone": (lambda module: init(module, (nn.Conv2d,), ()), ""),
    "without no_grad": (drawn(lambda w, mean, std: w.normal_(mean, std)), "leaf Variable"),
    "no bias is expected": (lambda module: init(module) if getattr(module, "bias", 0) is not None
                            else None, ""),
}


# --- 5.3 ------------------------------------------------------------------------------------------


@torch.no_grad()
def side_by_side(average, source, decay):
    for part in ("parameters", "buffers"):
        pairs = zip(getattr(average, part)(), getattr(source, part)(), strict=True)
        for a, b in pairs:
            a.copy_(decay * a + (1 - decay) * b)


def multiplied(average, source, decay):
    with torch.no_grad():
        for name, a in average.state_dict().items():
            b = source.state_dict()[name]
            if a.is_floating_point():
                a.mul_(decay).add_(b, alpha=1 - decay)
            else:
                a.copy_(b)


def subtracted(average, source, decay):
    with torch.no_grad():
        a, b = ([v for v in net.state_dict().values() if v.is_floating_point()]
                for net in (average, source))
        torch._foreach_sub_(a, [(1 - decay) * (x - y) for x, y in zip(a, b, strict=True)])


@torch.no_grad()
def moved(average, source, decay, weight=lambda decay, name: decay):
    for name, a in average.state_dict().items():
        if a.is_floating_point():
            a.lerp_(source.state_dict()[name], 1 - weight(decay, name))


def after_moving(meddle):
    def answer(average, source, decay):
        moved(average, source, decay)
        with torch.no_grad():
            meddle(average, source)

    return answer


def in_place_with_autograd(average, source, decay):
    for a, b in zip(average.parameters(), source.parameters(), strict=True):
        a.mul_(decay).add_((1 - decay) * b)


def new_parameters(average, source, decay):
    moved(average, source, decay)
    for module in average.modules():
        for name, value in module._parameters.items():
            if value is not None:
                setattr(module, name, nn.Parameter(value.detach().clone(), value.requires_grad))


def trainable_alone(average, source, decay):
    pairs = zip(average.parameters(), source.parameters(), strict=True)
    with torch.no_grad():
        for a, b in pairs:
            if a.requires_grad:
                a.lerp_(b, 1 - decay)
        for a, b in zip(average.buffers(), source.buffers(), strict=True):
            if a.is_floating_point():
                a.lerp_(b, 1 - decay)


def shared_memory(average, source, decay):
    for a, b in zip(average.parameters(), source.parameters(), strict=True):
        a.data = b.data


EMA_RIGHT = {
    "side by side": side_by_side,
    "multiplied and added": multiplied,
    "subtracted": subtracted,
    "lerp": moved,
}
EMA_WRONG = {
    "the roots of the decay": (
        lambda *given: moved(*given, weight=lambda d, _: d**0.5), ""),
    "weights that train": (trainable_alone, "don't train"),
    "the mean, not the variance": (
        lambda *given: moved(*given, weight=lambda d, n: 1 if "running_var" in n else d), ""),
    "BatchNorm's scale copied": (
        lambda *given: moved(*given, weight=lambda d, n: 0 if n == "1.weight" else d), ""),
    "with autograd": (in_place_with_autograd, "leaf Variable"),
    "new parameters": (new_parameters, "an optimizer holds the old ones"),
    "shared memory": (shared_memory, ""),
    "the average in eval mode": (after_moving(lambda a, b: a.eval()), "eval mode after"),
    "the average frozen": (after_moving(lambda a, b: a.requires_grad_(False)), "no longer"),
    "the source moves, too": (
        after_moving(lambda a, b: [p.mul_(0.5) for p in b.parameters()]), "leave them as they are"),
    "twice": (lambda *given: (moved(*given), moved(*given))[0], ""),
}


# --- 5.4 ------------------------------------------------------------------------------------------


class Switched:
    """A context manager without a generator."""

    def __init__(self, net):
        self.flags = {p: p.requires_grad for p in net.parameters()}

    def __enter__(self):
        for p in self.flags:
            p.requires_grad = False
        return self

    def __exit__(self, kind, error, where):
        for p, flag in self.flags.items():
            p.requires_grad = flag


class Swallowing(Switched):
    def __exit__(self, *error):
        super().__exit__(*error)
        return True


@contextlib.contextmanager
def with_a_stack(net):
    with contextlib.ExitStack() as stack:
        for p in net.parameters():
            stack.callback(p.requires_grad_, p.requires_grad)
            p.requires_grad_(False)
        yield net


@contextlib.contextmanager
def raised_again(net):
    flags = [(p, p.requires_grad) for p in net.parameters()]
    for p, _ in flags:
        p.requires_grad = False
    try:
        yield
    except BaseException:
        for p, flag in flags:
            p.requires_grad = flag
        raise
    for p, flag in flags:
        p.requires_grad = flag


def switching(off, on=lambda net: None):
    @contextlib.contextmanager
    def block(net):
        back = off(net)
        try:
            yield
        finally:
            (back or on)(net)

    return block


def freeze_some(which):
    def off(net):
        some = [p for p in which(net) if p.requires_grad]
        for p in some:
            p.requires_grad_(False)
        return lambda net: [p.requires_grad_(True) for p in some]

    return switching(off)


def by_attribute(net):
    net.requires_grad = False


def by_hooks(net):
    hooks = [p.register_hook(torch.zeros_like) for p in net.parameters() if p.requires_grad]
    return lambda net: [hook.remove() for hook in hooks]


def gradients_thrown_away(net):
    return lambda net: net.zero_grad()


def flags_read_too_late(net):
    net.requires_grad_(False)
    flags = [p.requires_grad for p in net.parameters()]
    return lambda net: [p.requires_grad_(f) for p, f in zip(net.parameters(), flags, strict=True)]


def flags_by_order_of_modules(net):
    flags = [p.requires_grad for m in net.modules() for p in m.parameters(recurse=False)]
    net.requires_grad_(False)
    return lambda net: [p.requires_grad_(f) for p, f in zip(net.parameters(), flags[::-1],
                                                            strict=False)]


def remembered_by_the_net(net):
    net.flags = [p.requires_grad for p in net.parameters()]
    net.requires_grad_(False)
    return lambda net: [p.requires_grad_(f) for p, f in zip(net.parameters(), net.flags,
                                                            strict=True)]


FREEZE_RIGHT = {
    "a class": Switched,
    "a stack of callbacks": with_a_stack,
    "raised again": raised_again,
}
FREEZE_WRONG = {
    "an attribute": (switching(by_attribute), "makes a new attribute"),
    "only what trains": (freeze_some(lambda net: net.parameters()), "thaws inside the block"),
    "module by module": (freeze_some(
        lambda net: [p for m in net.modules() for p in m.parameters()]), "thaws inside the block"),
    "its own weights alone": (
        freeze_some(lambda net: net.parameters(recurse=False)), "still get gradients"),
    "the first layer alone": (freeze_some(lambda net: net[0].parameters()), ""),
    "matrices alone": (freeze_some(lambda net: [p for p in net.parameters() if p.dim() > 1]), ""),
    "all but BatchNorm": (freeze_some(lambda net: [
        p for m in net if not isinstance(m, nn.BatchNorm1d) for p in m.parameters()]), ""),
    "gradients made 0": (switching(by_hooks), ""),
    "gradients thrown away": (switching(gradients_thrown_away), "still get gradients"),
    "flags read too late": (switching(flags_read_too_late), "no longer require a gradient"),
    "flags in another order": (switching(flags_by_order_of_modules), ""),
    "flags kept in the net": (switching(remembered_by_the_net), "a list of its own"),
    "swallowing": (Swallowing, "swallows the error"),
    "no gradients at all": (switching(
        lambda net: torch.set_grad_enabled(False) and None,
        lambda net: torch.set_grad_enabled(True)), "cuts the whole path"),
    "frozen in eval mode": (switching(
        lambda net: net.eval().requires_grad_(False) and None,
        lambda net: net.train().requires_grad_(True)), ""),
    "thawed first": (switching(lambda net: net.requires_grad_(True) and None), ""),
    "a copy": (switching(lambda net: copy.deepcopy(net).requires_grad_(False) and None),
               "still get gradients"),
}


# --- 5.5 ------------------------------------------------------------------------------------------


def look(G, z, sample=lambda G, z: G(z), back=None):
    before = G.training
    G.eval()
    with torch.no_grad():
        x = sample(G, z)
    G.train(before if back is None else back(before))
    return x


def on_a_copy(G, z):
    return copy.deepcopy(G).eval()(z).detach()


@torch.inference_mode()
def in_inference_mode(G, z):
    before = G.training
    try:
        return G.eval()(z)
    finally:
        G.train(before)


def module_by_module(G, z):
    modes = {module: module.training for module in G.modules()}
    x = G.eval()(z).detach()
    for module, mode in modes.items():
        module.training = mode
    return x


def frozen(G, z):
    x = look(G.requires_grad_(False), z)
    G.requires_grad_(True)
    return x


def looked_at(meddle):
    def answer(G, z):
        x = look(G, z)
        meddle(G, z)
        return x

    return answer


def wrong_order(G, z):
    before = G.training
    G.eval()
    G.train(before)
    with torch.no_grad():
        return G(z)


def batch_norm_alone(G, z):
    for module in G.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    with torch.no_grad():
        x = G(z)
    G.train(G.training)
    return x


def seeded(G, z):
    torch.manual_seed(0)
    return look(G, z)


def its_own_noise(G, z):
    return look(G, torch.randn_like(z))


def gradients_off(G, z):
    torch.set_grad_enabled(False)
    return look(G, z)


LOOK_RIGHT = {
    "on a copy": on_a_copy,
    "inference mode": in_inference_mode,
    "module by module, detached": module_by_module,
    "one by one": lambda G, z: look(G, z, lambda G, z: torch.cat([G(row[None]) for row in z])),
    "in two parts": lambda G, z: look(G, z, lambda G, z: torch.cat([G(part) for part in
                                                                    z.split(2)])),
    "in float64 and back": lambda G, z: look(G, z, lambda G, z: G(z).double()),
}
LOOK_WRONG = {
    "the other mode": (
        lambda G, z: look(G, z, back=lambda before: not before), "mode after your function"),
    "always training": (lambda G, z: look(G, z, back=lambda _: True), "always in training mode"),
    "back before the look": (wrong_order, "in the mode in which it happens to be"),
    "BatchNorm alone": (batch_norm_alone, ""),
    "all thawed": (frozen, "now require"),
    "frozen": (looked_at(lambda G, z: G.requires_grad_(False)), "no longer require"),
    "seeded": (seeded, "random numbers"),
    "its own noise": (its_own_noise, ""),
    "gradients off": (gradients_off, "Gradient computation (grad mode) is off"),
    "NumPy": (lambda G, z: look(G, z).numpy(), "NumPy array"),
    "a list": (lambda G, z: [*look(G, z)], "a list"),
    "the first alone": (lambda G, z: look(G, z[:1]).expand(len(z), -1), ""),
    "cut off at [−1, 1]": (lambda G, z: look(G, z).clamp(-0.1, 0.1), ""),
    "statistics forgotten": (looked_at(lambda G, z: G[1].reset_running_stats()), ""),
    "gradients emptied": (looked_at(lambda G, z: setattr(G[0].weight, "grad",
                                                         torch.ones_like(G[0].weight))),
                          "leave every `.grad`"),
    "z changed": (looked_at(lambda G, z: z.zero_()), "changed in place"),
    "still broken, with gradients": (lambda G, z: G.eval()(z), "hang on the graph"),
}

RIGHT = {
    "transposed_size": SIZE_RIGHT, "dcgan_init": INIT_RIGHT, "ema_update": EMA_RIGHT,
    "freeze": FREEZE_RIGHT, "look_at": LOOK_RIGHT,
}
WRONG = {
    "transposed_size": SIZE_WRONG, "dcgan_init": INIT_WRONG, "ema_update": EMA_WRONG,
    "freeze": FREEZE_WRONG, "look_at": LOOK_WRONG,
}
