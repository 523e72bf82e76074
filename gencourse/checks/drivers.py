"""How a learner's answer is called, where a plain call with the inputs would not show enough.

A function here has the name of an exercise, gets the learner's answer and one case's inputs, and
returns what is compared: the weights after a training step, the mean of many draws. These run
beside the learner's code, in the sandbox too, so they hold no answer and import nothing of the
course.
"""

import torch


def plain_call(answer, case):
    """What every exercise without a function of its own uses."""
    return answer(*case.values())


# --- chapter 03 -----------------------------------------------------------------------------------


def small_classifier(weights, mean, var):
    """Linear, BatchNorm with these running averages, ReLU, linear; weights: W, b, W, b."""
    (hidden, inputs), classes = weights[0].shape, len(weights[3])
    layers = torch.nn.Linear(inputs, hidden), torch.nn.BatchNorm1d(hidden)
    net = torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(hidden, classes)).double()
    with torch.no_grad():
        for parameter, value in zip([*net[0].parameters(), *net[3].parameters()], weights,
                                    strict=True):  # fmt: skip
            parameter.copy_(value)
        net[1].running_mean.copy_(mean)
        net[1].running_var.copy_(var)
    return net


def share_right(answer, case):
    """The share, and what the net is afterwards: its running averages, and its next answers."""
    net = small_classifier(case["weights"], case["mean"], case["var"]).train(case["training"])
    share = answer(net, case["x"], case["labels"], case["batch_size"])
    averages = [net[1].running_mean.clone(), net[1].running_var.clone()]
    with torch.no_grad():
        afterwards = net(case["x"][:4])
    return {"share": share, "running averages": averages, "answers afterwards": afterwards}


# --- chapter 04 -----------------------------------------------------------------------------------


def _small_pair(case):
    """G: z → x and D: x → logits (B,), each linear, tanh, linear, with the case's weights."""
    nets = []
    for name, tail in (("G", []), ("D", [torch.nn.Flatten(0)])):
        weights = case[name]
        (hidden, inputs), outputs = weights[0].shape, len(weights[3])
        first, last = torch.nn.Linear(inputs, hidden), torch.nn.Linear(hidden, outputs)
        net = torch.nn.Sequential(first, torch.nn.Tanh(), last, *tail).double()
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), weights, strict=True):
                parameter.copy_(value)
        nets.append(net)
    return nets


def _weights_after(G, D, returned):
    return {
        "G's weights": [p.detach().clone() for p in G.parameters()],
        "D's weights": [p.detach().clone() for p in D.parameters()],
        "losses": returned,
    }


def gan_step(answer, case):
    """Both nets' weights after some steps, each on its own batch, and what each step returned."""
    G, D = _small_pair(case)
    options = {"lr": case["rate"], "momentum": case["momentum"]}
    g_opt, d_opt = (torch.optim.SGD(net.parameters(), **options) for net in (G, D))
    batches = zip(case["x_real"], case["z"], strict=True)
    returned = [answer(G, D, g_opt, d_opt, x_real, z) for x_real, z in batches]
    return _weights_after(G, D, returned)


def train_pair(answer, case):
    """Both nets' weights after a short training, and the losses it returned."""
    G, D = _small_pair(case)
    return _weights_after(G, D, answer(G, D, case["x_real"], case["z"], case["rate"]))


# --- chapter 05 -----------------------------------------------------------------------------------


def _layer(kind):
    """A layer of a named kind, large enough for statistics, with biases that are not zero yet."""
    if kind == "ConvBlock":  # someone's own block: its name says Conv, and it has no weight itself
        ConvBlock = type("ConvBlock", (torch.nn.Sequential,), {})
        return ConvBlock(torch.nn.Conv2d(64, 128, 4), torch.nn.LeakyReLU(0.2))
    name, _, without = kind.partition(" without ")
    options = {"bias": {"bias": False}, "scale": {"affine": False}, "": {}}[without]
    sizes = {"Conv2d": (64, 128, 4), "ConvTranspose2d": (128, 64, 4), "Linear": (128, 512),
             "BatchNorm2d": (20_000,), "BatchNorm1d": (20_000,), "PReLU": ()}  # fmt: skip
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
    return shown


def ema_update(answer, case):
    """Both nets' numbers after some updates, between which the source moves on."""
    n_out, n_in = case["source"]["0.weight"].shape
    nets = []
    for name in ("average", "source"):
        net = torch.nn.Sequential(torch.nn.Linear(n_in, n_out), torch.nn.BatchNorm1d(n_out))
        net.to(case[name]["0.weight"].dtype)
        net.load_state_dict({**case[name], "1.num_batches_tracked": torch.tensor(7)})
        nets.append(net)
    for _ in range(case["updates"]):
        answer(*nets, case["decay"])
        with torch.no_grad():
            for value in nets[1].state_dict().values():
                value.mul_(2) if value.is_floating_point() else value.add_(1)
    states = [{k: v for k, v in net.state_dict().items() if v.is_floating_point()} for net in nets]
    return dict(zip(("average", "source"), states, strict=True))


def _gradients(net, x):
    """Gradients of the input and of each weight, or None where none arrives."""
    net.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    loss = net(x).square().sum()
    if loss.requires_grad:
        loss.backward()
    return [x.grad, *[p.grad for p in net.parameters()]]


def freeze(answer, case):
    """Gradients inside the block, after it, after an error in it, and after two nested blocks."""
    x, width = case["x"], len(case["weight"])
    parts = [torch.nn.Linear(x.shape[1], width), torch.nn.BatchNorm1d(width), torch.nn.Tanh(),
             torch.nn.Linear(width, 1)]  # fmt: skip
    net = torch.nn.Sequential(*parts).double()
    with torch.no_grad():
        net[0].weight.copy_(case["weight"])
        net[3].weight.copy_(case["head"])
        for bias in (net[0].bias, net[3].bias):
            bias.fill_(0.5)
    for parameter, flag in zip(net.parameters(), case["flags"], strict=True):
        parameter.requires_grad_(flag)
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
        with answer(net):
            pass
        shown["between two blocks"] = _gradients(net, x)
    shown["after both"] = _gradients(net, x)
    shown["flags"] = [p.requires_grad for p in net.parameters()]
    return shown


def look_at(answer, case):
    """A short training with a look after each step: the samples, G's state and its mode."""
    width, z_dim = case["weights"]["first"].shape
    G = torch.nn.Sequential(
        torch.nn.Linear(z_dim, width), torch.nn.BatchNorm1d(width), torch.nn.ReLU(),
        torch.nn.Linear(width, 2),
    ).double()  # fmt: skip
    with torch.no_grad():
        G[0].weight.copy_(case["weights"]["first"])
        G[3].weight.copy_(case["weights"]["last"])
        for layer in (G[0], G[3]):
            layer.bias.fill_(0.1)
    judge, weights = case["weights"]["judge"], list(G.parameters())
    G.train(case["training"])
    samples = []
    for z in case["noise"]:
        loss = torch.nn.functional.softplus(-G(z) @ judge.T).mean()
        with torch.no_grad():
            for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.sub_(slope, alpha=0.1)
        samples.append(answer(G, case["z"]))
    state = {k: v for k, v in G.state_dict().items() if v.is_floating_point()}
    attached = any(isinstance(x, torch.Tensor) and x.requires_grad for x in samples)
    return {"samples": samples, "state": state, "training": G.training, "attached": attached}


# --- chapter 06 -----------------------------------------------------------------------------------


class _Critic(torch.nn.Module):
    """A small smooth critic (B, …) → (B,) with given weights."""

    def __init__(self, weights):
        super().__init__()
        self.first = torch.nn.Parameter(weights["first"].clone())
        self.bias = torch.nn.Parameter(weights["bias"].clone())
        self.last = torch.nn.Parameter(weights["last"][None].clone())

    def forward(self, x):
        h = torch.nn.functional.softplus(x.flatten(1) @ self.first.T + self.bias)
        return (h @ self.last.T).squeeze(1)


def gradient_penalty(answer, case):
    """The penalty, and what it teaches the critic: the gradient in each of its weights."""
    critic = _Critic(case["weights"])
    penalty = answer(critic, case["x_real"], case["x_fake"], case["epsilon"])
    if penalty is None:
        return None
    for parameter in critic.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if isinstance(penalty, torch.Tensor) and penalty.requires_grad and not penalty.dim():
        penalty.backward()
    gradients = {name: parameter.grad for name, parameter in critic.named_parameters()}
    return {"penalty": penalty, "gradients": gradients}


def wgan_round(answer, case):
    """Both nets' weights after two rounds. The penalty is a simple one, for this test alone."""
    weights = case["weights"]
    G = torch.nn.Linear(weights["G"].shape[1], 2).double()
    with torch.no_grad():
        G.weight.copy_(weights["G"])
        G.bias.fill_(0.5)
    critic = _Critic(weights)
    kind = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}[case["optimizer"]]
    g_opt, c_opt = (kind(net.parameters(), lr=0.05) for net in (G, critic))

    def penalty(critic, x_real, x_fake):
        return 0.1 * (critic(x_real).square() + critic((x_real + x_fake) / 2).square()).mean()

    shown = []
    for x_reals, zs in zip(case["x_real"], case["z"], strict=True):
        answer(G, critic, g_opt, c_opt, list(x_reals), list(zs), penalty)
        after = [[p.detach().clone() for p in net.parameters()] for net in (G, critic)]
        shown.append({"G": after[0], "critic": after[1]})
    return shown


def clipped_step(answer, case):
    """The critic's weights after each of three steps, and the scores."""
    critic = _Critic(case["weights"])
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.2)
    shown = []
    for x_real, x_fake in zip(case["x_real"], case["x_fake"], strict=True):
        score = answer(critic, optimizer, x_real, x_fake, case["clip"])
        weights = {k: p.detach().clone() for k, p in critic.named_parameters()}
        shown.append({"weights": weights, "score": score})
    return shown


# --- chapter 07 -----------------------------------------------------------------------------------


def FeatureStream(answer, case):
    """What a stream says on the way and at the end; all batches come in the same memory."""
    stream, batches = answer(), case["batches"]
    buffer = torch.empty(max(map(len, batches)), batches[0].shape[1], dtype=batches[0].dtype)
    shown, left = [], []
    for i, batch in enumerate(batches):
        part = buffer[: len(batch)]
        part.copy_(batch)
        stream.add(part)
        left.append(part.clone())
        if i in case["looks"]:
            found = stream.result()
            shown.append(found)
            if isinstance(found, (list, tuple)):  # a later batch must not change an earlier result
                shown[-1] = tuple(f.clone() if isinstance(f, torch.Tensor) else f for f in found)
    return {"results": shown, "batches afterwards": left}


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
    weights = [case["first"].clone(), case["second"].clone()]
    pixels = case["x"].shape[1:]
    first = torch.nn.Linear(*weights[0].T.shape, bias=False, dtype=torch.float64)
    second = torch.nn.Linear(*weights[1].T.shape, bias=False, dtype=torch.float64)
    last = [torch.nn.Unflatten(1, pixels), torch.nn.Tanh()]
    generator = torch.nn.Sequential(first, torch.nn.Tanh(), second, *last)
    for layer, weight in zip((first, second), weights, strict=True):
        layer.weight = torch.nn.Parameter(weight)
        layer.weight.grad = torch.full_like(weight, 0.5)
    z = answer(generator, case["z"], case["x"], case["lr"], case["penalty"])
    if not isinstance(z, torch.Tensor):
        return z
    weights = [first.weight, second.weight]
    left = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    trained = [w.requires_grad for w in weights]
    return {"z": z.detach(), "weights": weights, "gradients": left, "trained": trained}


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
    """Three nets of two layers each, without biases."""
    weights = {k: [torch.nn.Parameter(w.clone()) for w in v] for k, v in case["weights"].items()}
    E = _TwoLayers(*weights["E"], lambda h: h.chunk(2, dim=1))
    G = _TwoLayers(*weights["G"], lambda h: torch.tanh(h).view(-1, *case["x"].shape[1:]))
    D = _TwoLayers(*weights["D"], lambda h: h.squeeze(1))
    found = answer(case["x"], E, G, D, case["noise"], case["prior"], case["gamma"])
    if isinstance(found, dict):
        return {k: list(v) if isinstance(v, (tuple, list)) else v for k, v in found.items()}
    return found


class _TwoLayers(torch.nn.Module):
    """`features`, then `head`; `last` brings the result into its form."""

    def __init__(self, first, second, last):
        super().__init__()
        self.first, self.second, self.last = first, second, last

    def features(self, x):
        return torch.nn.functional.leaky_relu(x.flatten(1) @ self.first.T, 0.2)

    def head(self, features):
        return self.last(features @ self.second.T)

    def forward(self, x):
        return self.head(self.features(x))


def _numbers(values):
    """Each of several numbers as `_number` has it."""
    return tuple(map(_number, values)) if isinstance(values, (tuple, list)) else values


# --- chapter 14 -----------------------------------------------------------------------------------


def mended_stopwatch(answer, case):
    """The seconds a call is said to take on a device that pretends: exact, and alike anywhere."""
    now, busy_until, called = 0.0, case["queued"], 0

    def work():
        nonlocal now, busy_until, called
        seconds = case["seconds"][min(called, len(case["seconds"]) - 1)]
        called += 1
        if called <= case["warm_up"]:
            now += seconds  # something is compiled, in the program itself
        else:
            now += case["launch"]  # to hand the call over; the device begins when it is free
            busy_until = max(busy_until, now) + seconds

    def synchronise():
        nonlocal now
        now = max(now, busy_until)

    return _number(answer(work, lambda: now, synchronise, case["warm_up"], case["repeats"]))


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
        rows = [r.flatten() if isinstance(r, torch.Tensor) else torch.tensor(list(r)) for r in rows]
        together = torch.cat(rows).sort().values
        found.append({"all ranks": together, "sizes": sorted(map(len, rows))})
    return found


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
