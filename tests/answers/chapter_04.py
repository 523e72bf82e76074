"""Chapter 04: other right answers, and wrong ones that are tried besides those with a name."""

import copy

import torch
from torch.nn import functional as F

bce = F.binary_cross_entropy_with_logits

# --- 4.1 ------------------------------------------------------------------------------------------


def with_targets(r, f, t):
    d_loss = bce(r, torch.full_like(r, t)) + bce(f, torch.zeros_like(f))
    return d_loss, bce(f, torch.ones_like(f))


def mixed_targets(r, f, t):
    ones, zeros = torch.ones(len(r)), torch.zeros(len(r))
    real = t * bce(r, ones.to(r)) + (1 - t) * bce(r, zeros.to(r))
    return [real + bce(f, torch.zeros(len(f)).to(f)), bce(f, torch.ones(len(f)).to(f))]


def one_softplus(r, f, t):
    return (F.softplus(r) - t * r).mean() + F.softplus(f).mean(), (F.softplus(f) - f).mean()


def by_logsigmoid(r, f, t):
    real = t * F.logsigmoid(r) + (1 - t) * F.logsigmoid(-r)
    return -(real.sum() / len(r) + F.logsigmoid(-f).sum() / len(f)), -F.logsigmoid(f).mean()


def bernoulli(r, f, t):
    def log_prob(logits, value):
        kind = torch.distributions.Bernoulli(logits=logits, validate_args=False)
        return kind.log_prob(torch.full_like(logits, value)).mean()

    return -log_prob(r, t) - log_prob(f, 0.0), -log_prob(f, 1.0)


def two_classes(r, f, t):
    def loss(logits, t):
        pair = torch.stack([torch.zeros_like(logits), logits], dim=1)
        return F.cross_entropy(pair, torch.tensor([[1 - t, t]]).to(pair).expand_as(pair))

    return loss(r, t) + loss(f, 0.0), loss(f, 1.0)


def logaddexp(r, f, t):
    def cost(x):
        return torch.logaddexp(torch.zeros_like(x), x).mean()

    return t * cost(-r) + (1 - t) * cost(r) + cost(f), cost(-f)


def in_float64(r, f, t):
    return with_targets(r.double(), f.double(), t)


def with_log(log, squash=torch.sigmoid):
    """The losses by −t·log D − (1 − t)·log(1 − D)."""

    def losses(r, f, t):
        r, f = squash(r), squash(f)
        d_loss = -(t * log(r) + (1 - t) * log(1 - r)).mean() - log(1 - f).mean()
        return d_loss, -log(f).mean()

    return losses


def with_epsilon(epsilon):
    return with_log(lambda d: (d + epsilon).log())


def with_clamp(epsilon):
    return with_log(lambda d: d.clamp(min=epsilon).log())


def clamped_logits(limit):
    return lambda r, f, t: logaddexp(r.clamp(-limit, limit), f.clamp(-limit, limit), t)


def from_probabilities(r, f, t):
    r, f = r.sigmoid(), f.sigmoid()
    d_loss = torch.nn.BCELoss()(r, torch.full_like(r, t))
    d_loss = d_loss + torch.nn.BCELoss()(f, torch.zeros_like(f))
    return d_loss, torch.nn.BCELoss()(f, torch.ones_like(f))


def hinge(r, f, t):
    return (t - r).relu().mean() + (1 + f).relu().mean(), -f.mean()


def least_squares(r, f, t):
    return (r - t).square().mean() + f.square().mean(), (f - 1).square().mean()


LOSSES_RIGHT = {
    "BCE with logits": with_targets,
    "two targets mixed, a list": mixed_targets,
    "softplus(a) − t·a": one_softplus,
    "logsigmoid": by_logsigmoid,
    "Bernoulli": bernoulli,
    "two classes": two_classes,
    "logaddexp": logaddexp,
    "in float64": in_float64,
    "rounded to float32": lambda r, f, t: tuple(x.float() for x in in_float64(r, f, t)),
}
LOSSES_WRONG = {
    **{f"ε = {e:g}": (with_epsilon(e), "count as 20 or so") for e in (1e-6, 1e-8, 1e-12, 1e-15)},
    **{f"clamp at {e:g}": (with_clamp(e), "count as 20 or so") for e in (1e-7, 1e-10)},
    "logits clamped at 20": (clamped_logits(20), "count as 20 or so"),
    "logits clamped at 88": (clamped_logits(88), "count as 100"),
    "the module of probabilities": (from_probabilities, "count as 100"),
    "naive": (with_epsilon(0), "give inf or nan"),
    "softmax's sigmoid": (with_log(torch.log, lambda a: a.exp() / (1 + a.exp())), ""),
    "hinge": (hinge, ""),
    "least squares": (least_squares, ""),
    "in bits": (lambda r, f, t: tuple(x * 1.4427 for x in with_targets(r, f, t)), ""),
    "detached": (lambda r, f, t: tuple(x.detach() for x in with_targets(r, f, t)), "no gradient"),
    "numbers": (lambda r, f, t: tuple(x.item() for x in with_targets(r, f, t)), "no gradient"),
    "D's fake ones detached": (
        lambda r, f, t: (with_targets(r, f.detach(), t)[0], with_targets(r, f, t)[1]),
        "the gradient in `fake_logits` is not"),
    "one number": (lambda r, f, t: sum(with_targets(r, f, t)), "2 values were expected"),
    "no mean": (lambda r, f, t: (with_targets(r, f, t)[0], F.softplus(-f)), "shape"),
    "target 0.9 always": (lambda r, f, t: with_targets(r, f, 0.9), ""),
    "a target on both sides": (
        lambda r, f, t: (bce(r, torch.full_like(r, t)) + bce(f, torch.full_like(f, 1 - t)),
                         bce(f, torch.ones_like(f))), "generated pictures' target as well"),
    "labels the other way": (
        lambda r, f, t: (bce(r, torch.full_like(r, 1 - t)) + bce(f, torch.ones_like(f)),
                         bce(f, torch.ones_like(f))), "exchanged in L_D"),
    "D's two, swapped": (lambda r, f, t: (with_targets(f, r, t)[0], with_targets(r, f, t)[1]), ""),
    "G says generated": (
        lambda r, f, t: (with_targets(r, f, t)[0], bce(f, torch.zeros_like(f))),
        "easy to catch"),
    "concatenated": (
        lambda r, f, t: (bce(torch.cat([r, f]), torch.cat([torch.full_like(r, t), 0 * f])),
                         bce(f, torch.ones_like(f))), "one mean over both batches"),
}


# --- 4.2 ------------------------------------------------------------------------------------------


def one_by_one(p, q, a, b):
    found = torch.zeros(p.shape)
    for i in range(p.numel()):
        x, y = p.view(-1)[i], q.view(-1)[i]
        found.view(-1)[i] = (a * x + b * y) / (x + y)
    return found


OPTIMUM_RIGHT = {
    "a mixture of targets": lambda p, q, a, b: a * (p / (p + q)) + b * (q / (p + q)),
    "by D*": lambda p, q, a, b: b + (a - b) * p / (p + q),
    "a/(a + b)": lambda p, q, a, b: (a * p + b * q) / (
        (a * p + b * q) + ((1 - a) * p + (1 - b) * q)),
    "the logit's sigmoid": lambda p, q, a, b: (
        (a * p + b * q).log() - ((1 - a) * p + (1 - b) * q).log()).sigmoid(),
    "one by one into zeros": one_by_one,
    "einsum": lambda p, q, a, b: torch.einsum(
        "k...,k->...", torch.stack([p, q]), torch.tensor([a, b])) / torch.stack([p, q]).sum(0),
    "a weighted mean": lambda p, q, a, b: torch.lerp(
        torch.full_like(p, b), torch.full_like(p, a), p / (p + q)),
    "in float64": lambda p, q, a, b: (a * p.double() + b * q.double()) / (p.double() + q.double()),
}
OPTIMUM_WRONG = {
    **{f"ε = {e:g} below": (lambda p, q, a, b, e=e: (a * p + b * q) / (p + q + e), "fall to 0")
       for e in (1e-8, 1e-10, 1e-20)},
    "clamped below": (lambda p, q, a, b: (a * p + b * q) / (p + q).clamp(min=1e-8), "fall to 0"),
    "ε above and below": (
        lambda p, q, a, b: (a * p + b * q + 1e-8) / (p + q + 2e-8), ""),
    "p and q exchanged": (lambda p, q, a, b: (a * q + b * p) / (p + q), "exchanged"),
    "divided by the sum of all": (lambda p, q, a, b: (a * p + b * q) / (p + q).sum(), ""),
    "a decision": (lambda p, q, a, b: (p > q).float(), ""),
    "the mean of the targets": (lambda p, q, a, b: torch.full_like(p, (a + b) / 2), ""),
    "α alone of D*": (lambda p, q, a, b: a * p / (p + q) + b, ""),
    "the log odds": (
        lambda p, q, a, b: (a * p + b * q).log() - ((1 - a) * p + (1 - b) * q).log(), "logit"),
    "geometric": (lambda p, q, a, b: p**a * q**b / (p**a * q**b + p**(1 - a) * q**(1 - b)), ""),
    "NumPy": (lambda p, q, a, b: ((a * p + b * q) / (p + q)).numpy(), "NumPy array"),
    "in place": (lambda p, q, a, b: p.mul_(a).add_(b * q) / (p + q), ""),
}


# --- 4.3 ------------------------------------------------------------------------------------------


def by_sorting(pictures, loss):
    ordered = pictures.sort(dim=0).values
    if loss == "squared":
        return torch.einsum("nchw->chw", pictures) / len(pictures)
    return ordered[len(ordered) // 2] if loss == "absolute" else ordered[[0, -1]].mean(dim=0)


def pixel_for_pixel(pictures, loss):
    best = torch.zeros(pictures.shape[1:])
    for k in range(best.numel()):
        x = pictures.flatten(1)[:, k]
        best.view(-1)[k] = {"squared": x.mean(), "absolute": x.median(),
                            "largest": (x.max() + x.min()) / 2}[loss]
    return best


def by_quantiles(pictures, loss):
    if loss == "squared":
        return pictures.double().mean(0)
    if loss == "absolute":
        return pictures.quantile(0.5, dim=0)
    low, high = pictures.aminmax(dim=0)
    return low + (high - low) / 2


def other(**answers):
    """Right, but for the losses that are given."""
    return lambda pictures, loss: answers.get(loss, by_sorting)(pictures, loss)


CONSTANT_RIGHT = {
    "by sorting": by_sorting,
    "pixel for pixel into zeros": pixel_for_pixel,
    "quantiles, one of them in float64": by_quantiles,
    "kthvalue": other(absolute=lambda x, _: x.kthvalue((len(x) + 1) // 2, dim=0).values),
    "max and min": other(largest=lambda x, _: (x.max(0).values + x.min(0)[0]) * 0.5),
}
CONSTANT_WRONG = {
    "a pair": (other(absolute=lambda x, _: x.median(dim=0)), "a tensor was expected"),
    "NumPy": (other(squared=lambda x, _: x.numpy().mean(0)), "NumPy array"),
    "with the batch": (lambda x, loss: by_sorting(x, loss)[None], "shape"),
    "the lower quartile": (other(absolute=lambda x, _: x.quantile(0.25, dim=0)), ""),
    "the root of the mean square": (other(squared=lambda x, _: x.square().mean(0).sqrt()), ""),
    "the mean of squares": (other(squared=lambda x, _: x.square().mean(0)), ""),
    "n − 1": (other(squared=lambda x, _: x.sum(0) / max(1, len(x) - 1)), ""),
    "largest in size": (other(largest=lambda x, _: x.abs().amax(0)), ""),
    "the extremes of all pixels": (
        other(largest=lambda x, _: ((x.amax() + x.amin()) / 2).expand(x.shape[1:])), ""),
    "the first picture": (lambda x, _: x[0], ""),
    "a row of them": (lambda x, loss: by_sorting(x, loss).mean(-1, keepdim=True).expand(
        x.shape[1:]), ""),
    "the middle of the list": (other(absolute=lambda x, _: x[len(x) // 2]), ""),
    "in place": (lambda x, loss: by_sorting(x.mul_(1).add_(1), loss) - 1, "changed in place"),
    "all the median": (lambda x, _: x.median(dim=0).values, "You return the median"),
}


# --- 4.4 ------------------------------------------------------------------------------------------


def step(G, D, g_opt, d_opt, x_real, z, *, d_target=1.0, saturating=False, told=torch.Tensor.item,
         between=lambda: None, again=False, turns=1):
    """A step as in PyTorch's tutorials, with what others might do else."""
    x_fake = G(z)
    for _ in range(turns):
        D.zero_grad()
        real_loss = bce(D(x_real), torch.full((len(x_real),), d_target))
        fake_loss = bce(D(x_fake.detach()), torch.zeros(len(x_real)))
        real_loss.backward()
        fake_loss.backward()
        d_opt.step()
    between()
    G.zero_grad()
    x_fake = G(z) if again else x_fake
    logits = D(x_fake)
    g_loss = -F.softplus(logits).mean() if saturating else bce(logits, torch.ones(len(logits)))
    g_loss.backward()
    g_opt.step()
    return told(real_loss + fake_loss), told(g_loss)


def with_frozen_judge(G, D, g_opt, d_opt, x_real, z):
    def frozen():
        D.requires_grad_(False)

    found = step(G, D, g_opt, d_opt, x_real, z, between=frozen)
    D.requires_grad_(True)
    return found


def all_zeroed_first(G, D, g_opt, d_opt, x_real, z):
    for optimizer in (g_opt, d_opt):
        optimizer.zero_grad(set_to_none=False)
    x_fake = G(z)
    logits = D(torch.cat([x_real, x_fake.detach()]))
    d_loss = F.softplus(-logits[: len(z)]).mean() + F.softplus(logits[len(z) :]).mean()
    d_loss.backward()
    d_opt.step()
    g_loss = F.softplus(-D(x_fake)).mean()
    g_loss.backward()
    g_opt.step()
    return d_loss.detach().clone(), g_loss.detach().clone()


def by_autograd(G, D, g_opt, d_opt, x_real, z):
    """Nothing to detach and nothing to zero: each gradient is asked for."""
    def take(net, optimizer, loss):
        weights = list(net.parameters())
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        for weight, gradient in zip(weights, found, strict=True):
            weight.grad = gradient
        optimizer.step()
        return float(loss)

    d_loss = take(D, d_opt, F.softplus(-D(x_real)).mean() + F.softplus(D(G(z))).mean())
    return d_loss, take(G, g_opt, F.softplus(-D(G(z))).mean())


def emptied_before_gs_turn(G, D, g_opt, d_opt, x_real, z):
    """Not detached: what D's loss leaves in G is emptied before G's own turn."""
    x_fake = G(z)
    d_loss = bce(D(x_real), torch.ones(len(z))) + bce(D(x_fake), torch.zeros(len(z)))
    d_opt.zero_grad()
    d_loss.backward(retain_graph=True)
    d_opt.step()
    g_opt.zero_grad()
    g_loss = bce(D(x_fake), torch.ones(len(z)))
    g_loss.backward()
    g_opt.step()
    return d_loss.item(), g_loss.item()


def optioned(**options):
    return lambda *game: step(*game, **options)


def then(meddle):
    """Right, but for what is done to the nets and optimizers at the end."""
    def answer(*game):
        found = step(*game)
        meddle(*game)
        return found

    return answer


def a_third_turn(G, D, g_opt, d_opt, x_real, z):
    found = step(G, D, g_opt, d_opt, x_real, z)
    g_opt.step()
    return found


def with_graph(loss):
    return loss


def one_with_its_graph(*game):
    d_loss, g_loss = step(*game, told=with_graph)
    return d_loss.item(), g_loss


STEP_RIGHT = {
    "PyTorch's tutorial, numbers": step,
    "detached": optioned(told=torch.Tensor.detach),
    "data": optioned(told=lambda loss: loss.data),
    "pictures made anew": optioned(again=True),
    "D frozen in G's turn": with_frozen_judge,
    "all zeroed first, one batch for D": all_zeroed_first,
    "autograd": by_autograd,
    "emptied before G's turn": emptied_before_gs_turn,
}
STEP_WRONG = {
    "with graphs": (optioned(told=with_graph), "hang on their graphs"),
    "with graphs, saturating": (optioned(told=with_graph, saturating=True), "saturating loss"),
    "with graphs, smoothed": (optioned(told=with_graph, d_target=0.9), "not right"),
    "one with its graph": (one_with_its_graph, "hang on their graphs"),
    "smoothed": (optioned(d_target=0.9), ""),
    "two turns of D": (optioned(turns=2), ""),
    "G steps twice": (a_third_turn, ""),
    "one number": (lambda *game: sum(step(*game)), "2 values were expected"),
    "D left frozen": (then(lambda G, D, *_: D.requires_grad_(False)), "no longer require"),
    "G left in eval mode": (then(lambda G, *_: G.eval()), "eval mode after"),
    "D left in eval mode": (then(lambda G, D, *_: D.eval()), "eval mode after"),
    "another rate": (
        then(lambda G, D, g, d, *_: d.param_groups[0].update(lr=0.01)), ""),
    "momentum lost": (then(lambda G, D, g, d, *_: d.state.clear()), ""),
    "D in eval mode for G": (
        lambda G, D, *game: (step(G, D, *game, between=D.eval), D.train())[0], ""),
    "D's weights cut": (
        then(lambda G, D, *_: [p.data.clamp_(-0.1, 0.1) for p in D.parameters()]), ""),
    "gradients off": (then(lambda *_: torch.set_grad_enabled(False)), "grad mode"),
    "x_real changed": (then(lambda G, D, g, d, x, z: x.zero_()), "changed in place"),
    "nets in float64": (then(lambda G, *_: G.double()), ""),
}


# --- 4.5 ------------------------------------------------------------------------------------------


def train(G, D, x_real, z, rate, *, kind=torch.optim.SGD, told=torch.Tensor.item, fresh=False,
          late=False, judge="own", g_rate=1.0, **options):
    g_opt, d_opt = kind(G.parameters(), g_rate * rate, **options), kind(D.parameters(), rate,
                                                                        **options)
    everything = torch.optim.SGD([*G.parameters(), *D.parameters()], lr=rate)
    d_losses, g_losses = [], []
    for x, noise in zip(x_real, z, strict=True):
        if fresh:
            g_opt, d_opt = (kind(net.parameters(), lr=rate) for net in (G, D))
        if not late:
            d_opt.zero_grad()
        d_loss = F.softplus(-D(x)).mean() + F.softplus(D(G(noise).detach())).mean()
        d_loss.backward()
        d_opt.step()
        before = copy.deepcopy(D.state_dict())
        if judge == "frozen":
            D.requires_grad_(False)
        G.zero_grad()
        D.zero_grad()
        g_loss = F.softplus(-D(G(noise))).mean()
        g_loss.backward()
        (g_opt if judge == "own" else everything).step()
        D.requires_grad_(True)
        if judge == "put back":
            D.load_state_dict(before)
        if late:
            D.zero_grad()
        d_losses.append(told(d_loss))
        g_losses.append(told(g_loss))
    return d_losses, g_losses


def trained(**options):
    return lambda *given: train(*given, **options)


def in_eval(G, D, x_real, z, rate):
    G.eval()
    found = train(G, D, x_real, z, rate)
    G.train()
    return found


PAIR_RIGHT = {
    "two optimizers": train,
    "detached tensors": trained(told=torch.Tensor.detach),
    "new optimizers in each step": trained(fresh=True),
    "zeroed at the end of a step": trained(late=True),
    "D frozen in G's turn, one optimizer for all": trained(judge="frozen"),
    "D put back after G's turn": trained(judge="put back"),
    "one tensor for each list": lambda *given: tuple(v.tolist() for v in torch.tensor(
        train(*given))),
}
PAIR_WRONG = {
    "with graphs": (trained(told=with_graph), "losses with their graphs"),
    "with graphs, still broken": (trained(told=with_graph, judge="all"), "still the broken"),
    "still broken": (trained(judge="all"), "still the broken"),
    "Adam": (trained(kind=torch.optim.Adam), ""),
    "momentum": (trained(momentum=0.9), ""),
    "G at half the rate": (trained(g_rate=0.5), ""),
    "G in eval mode": (in_eval, ""),
    "pairs": (lambda *given: [*zip(*train(*given), strict=True)], ""),
    "tensors of losses": (lambda *given: tuple(map(torch.tensor, train(*given))), ""),
    "D's list alone": (lambda *given: train(*given)[0], ""),
    "G left in eval mode": (
        lambda G, *given: (train(G, *given), G.eval())[0], "eval mode after"),
    "one step fewer": (lambda G, D, x, z, rate: train(G, D, x[:-1], z[:-1], rate), ""),
}

RIGHT = {
    "gan_losses": LOSSES_RIGHT, "smoothed_optimum": OPTIMUM_RIGHT, "best_constant": CONSTANT_RIGHT,
    "gan_step": STEP_RIGHT, "train_pair": PAIR_RIGHT,
}
WRONG = {
    "gan_losses": LOSSES_WRONG, "smoothed_optimum": OPTIMUM_WRONG, "best_constant": CONSTANT_WRONG,
    "gan_step": STEP_WRONG, "train_pair": PAIR_WRONG,
}
