"""Chapter 06: other right answers, and wrong ones that are tried besides those with a name."""

import math

import torch
from torch.nn import functional as F

# --- 6.1 ------------------------------------------------------------------------------------------


def distances(x, centres):
    return (x[:, None] - centres[None]).square().sum(dim=2)


def scores(hits, n, least, kl=None):
    share = hits / hits.sum()
    if kl is None:
        kl = torch.special.xlogy(share, share * len(hits)).sum()
    return (hits >= least).sum(), hits.sum() / n, kl


def squares_on_both_sides(x, centres, radius, least):
    distance, nearest = distances(x, centres).min(dim=1)
    hits = torch.bincount(nearest[distance <= radius**2], minlength=len(centres))
    return scores(hits, len(x), least)


def sample_by_sample(x, centres, radius, least):
    hits = torch.zeros(len(centres))
    for point in x:
        distance = (centres - point).norm(dim=1)
        if distance.min() <= radius:
            hits[distance.argmin()] += 1
    kl = 0.0 if hits.any() else math.nan
    for share in (hits / hits.sum()).tolist():
        if share > 0:
            kl += share * math.log(share * len(hits))
    return int((hits >= least).sum()), float(hits.sum()) / len(x), kl


def by_kl_div(x, centres, radius, least):
    distance, nearest = torch.cdist(x, centres).min(dim=1)
    nearest = torch.where(distance <= radius, nearest, len(centres))
    hits = F.one_hot(nearest, len(centres) + 1).sum(dim=0)[:-1]
    uniform = torch.full((len(centres),), 1 / len(centres))
    return scores(hits, len(x), least, F.kl_div(uniform.log(), hits / hits.sum(), reduction="sum"))


def by_distributions(x, centres, radius, least):
    distance, nearest = torch.cdist(x.double(), centres.double()).min(dim=1)
    hits = torch.zeros(len(centres)).index_add_(0, nearest, (distance <= radius).float())
    if not hits.any():
        return 0, 0.0, float("nan")
    kind = torch.distributions.Categorical
    kl = torch.distributions.kl_divergence(kind(probs=hits), kind(probs=torch.ones(len(hits))))
    return scores(hits, len(x), least, kl)


def by_entropy(x, centres, radius, least):
    one = (torch.cdist(x, centres) <= radius) & (
        F.one_hot(torch.cdist(x, centres).argmin(1), len(centres)) == 1)
    hits = one.sum(dim=0)
    share = hits / hits.sum()
    return scores(hits, len(x), least, math.log(len(hits)) - torch.special.entr(share).sum())


def counted(near, tell=lambda *found: found):
    """Scores with another idea of what is near: (x, centres, radius) → distance, nearest, limit."""

    def answer(x, centres, radius, least):
        distance, nearest, limit = near(x, centres, radius)
        hits = torch.bincount(nearest[distance <= limit], minlength=len(centres))
        return tell(*scores(hits, len(x), least))

    return answer


def nearest(x, centres, p=2.0):
    return torch.cdist(x, centres, p=p).min(dim=1)


def every_ball_that_holds_it(x, centres, radius, least):
    """Where balls overlap, a sample counts for several modes."""
    _, on, kl = by_entropy(x, centres, radius, least)
    return ((torch.cdist(x, centres) <= radius).sum(dim=0) >= least).sum().item(), on, kl


MODES_RIGHT = {
    "squares on both sides": squares_on_both_sides,
    "sample by sample into zeros": sample_by_sample,
    "F.kl_div": by_kl_div,
    "distributions, in float64": by_distributions,
    "log K less the entropy": by_entropy,
    "a list of numbers": counted(lambda x, c, r: (*nearest(x, c), r),
                                 lambda *found: [v.item() for v in found]),
}
MODES_WRONG = {
    **{f"{share:g} of the radius": (counted(lambda x, c, r, s=share: (*nearest(x, c), s * r)), "")
       for share in (0.6, 0.9, 1.1, 1.5)},
    "a hair less than the radius": (
        counted(lambda x, c, r: (*nearest(x, c), r * (1 - 1e-5))), "at exactly `radius`"),
    "half": (counted(lambda x, c, r: (*nearest(x, c), r / 2)), "diameter"),
    "every ball that holds it": (every_ball_that_holds_it, ""),
    "squares, one side": (counted(lambda x, c, r: (*distances(x, c).min(1), r)), "*squared*"),
    "squared radius": (counted(lambda x, c, r: (*nearest(x, c), r * r)), ""),
    "L1": (counted(lambda x, c, r: (*nearest(x, c, 1.0), r)), "along the axes"),
    "in a square": (counted(lambda x, c, r: (*nearest(x, c, math.inf), r)), "squares"),
    "L3": (counted(lambda x, c, r: (*nearest(x, c, 3.0), r)), ""),
    "mean of squares": (
        counted(lambda x, c, r: (*(distances(x, c) / x.shape[1]).sqrt().min(1), r)), ""),
    "one coordinate": (counted(lambda x, c, r: (*nearest(x[:, :1], c[:, :1]), r)), ""),
    "the farthest": (counted(lambda x, c, r: (*torch.cdist(x, c).max(1), r)), ""),
    "no radius": (counted(lambda x, c, r: (*nearest(x, c), math.inf)), "Strays are counted"),
    "by direction": (counted(lambda x, c, r: (
        nearest(x, c)[0], (F.normalize(x, dim=1) @ F.normalize(c, dim=1).T).argmax(1), r)), ""),
    "KL turned": (counted(lambda x, c, r: (*nearest(x, c), r), lambda a, b, kl: (a, b, -kl)), ""),
    "the root of the KL": (
        counted(lambda x, c, r: (*nearest(x, c), r), lambda a, b, kl: (a, b, kl.sqrt())), ""),
    "two numbers": (
        counted(lambda x, c, r: (*nearest(x, c), r), lambda a, b, kl: (a, b)), "2 values"),
    "per cent": (
        counted(lambda x, c, r: (*nearest(x, c), r), lambda a, b, kl: (a, 100 * b, kl)), ""),
    "nothing where none is on a mode": (counted(
        lambda x, c, r: (*nearest(x, c), r),
        lambda a, b, kl: (a, b, torch.tensor(0.0) if kl.isnan() else kl)), "nan, not 0"),
}


# --- 6.2 ------------------------------------------------------------------------------------------


def mixed(x_real, x_fake, epsilon):
    return torch.stack([torch.lerp(b, a, e) for a, b, e in zip(x_real, x_fake, epsilon,
                                                               strict=True)])


def slope(critic, x, **options):
    values = critic(x)
    options = {"create_graph": True} | options
    return torch.autograd.grad(values, x, torch.ones_like(values), **options)[0]


def sum_of_samples(critic, x_real, x_fake, epsilon):
    x = mixed(x_real, x_fake, epsilon).detach().requires_grad_()
    return sum((s.norm() - 1) ** 2 for s in slope(critic, x)) / len(x)


def by_variable(critic, x_real, x_fake, epsilon):
    e = epsilon.reshape(len(epsilon), *(1,) * (x_real.dim() - 1)).expand_as(x_real)
    x = torch.autograd.Variable((e * x_real + (1 - e) * x_fake).data, requires_grad=True)
    found = slope(critic, x, retain_graph=True).view(len(x), -1)
    return ((found.norm(2, dim=1) - 1) ** 2).mean()


def under_the_root(critic, x_real, x_fake, epsilon):
    x = x_fake.detach() + torch.einsum("b,b...->b...", epsilon, x_real - x_fake.detach())
    found = slope(critic, x.requires_grad_())
    length = (found.square().flatten(1).sum(1) + 1e-12).sqrt()
    return torch.nn.functional.mse_loss(length, torch.ones(len(x)))


def sample_by_sample_slopes(critic, x_real, x_fake, epsilon):
    lengths = []
    for a, b, e in zip(x_real, x_fake.detach(), epsilon, strict=True):
        x = (e * a + (1 - e) * b)[None].requires_grad_()
        lengths.append(slope(critic, x).norm())
    return (torch.stack(lengths) - 1).square().mean()


def with_jacobian(critic, x_real, x_fake, epsilon):
    x = mixed(x_real, x_fake.detach(), epsilon)
    found = torch.autograd.functional.jacobian(lambda x: critic(x).sum(), x, create_graph=True)
    return (torch.linalg.vector_norm(found.flatten(1), dim=1) - 1).pow(2).mean()


def under_no_grad(critic, x_real, x_fake, epsilon):
    with torch.no_grad():
        x = mixed(x_real, x_fake, epsilon)
    return ((slope(critic, x.requires_grad_()).flatten(1).norm(dim=1) - 1) ** 2).mean()


def attached(critic, x_real, x_fake, epsilon, weight=1.0):
    x = mixed(x_real, x_fake, epsilon).requires_grad_()
    return weight * (slope(critic, x).flatten(1).norm(dim=1) - 1).square().mean()


def at(points, length=lambda s: s.flatten(1).norm(dim=1)):
    """The penalty at other points, or with another length."""
    def answer(critic, x_real, x_fake, epsilon):
        x = points(x_real, x_fake, epsilon).detach().requires_grad_()
        return (length(slope(critic, x)) - 1).square().mean()

    return answer


def in_eval_mode(critic, x_real, x_fake, epsilon):
    critic.eval()
    found = sum_of_samples(critic, x_real, x_fake, epsilon)
    critic.train()
    return found


def through_backward(critic, x_real, x_fake, epsilon):
    x = mixed(x_real, x_fake, epsilon).detach().requires_grad_()
    critic(x).sum().backward(create_graph=True)
    return (x.grad.flatten(1).norm(dim=1) - 1).square().mean()


def at_x_real(critic, x_real, x_fake, epsilon):
    found = slope(critic, x_real.requires_grad_())
    return (found.flatten(1).norm(dim=1) - 1).square().mean()


PENALTY_RIGHT = {
    "a sum over samples": sum_of_samples,
    "a Variable": by_variable,
    "a small number under the root": under_the_root,
    "sample by sample": sample_by_sample_slopes,
    "a Jacobian": with_jacobian,
    "x̂ under no_grad": under_no_grad,
}
PENALTY_WRONG = {
    "attached": (attached, "carries the gradient on into G"),
    "attached, and ten times": (lambda *given: attached(*given, weight=10), "λ = 10"),
    "attached, and three times": (lambda *given: attached(*given, weight=3), "values are not"),
    "half-way": (at(lambda a, b, e: (a + b) / 2), ""),
    "ε squared": (at(lambda a, b, e: mixed(a, b, e**2)), ""),
    "real and generated together": (at(lambda a, b, e: torch.cat([a, b])), ""),
    "another sample's ε": (at(lambda a, b, e: mixed(a, b, e.flip(0))), ""),
    "the largest slope": (
        at(mixed, lambda s: s.flatten(1).abs().amax(dim=1)), ""),
    "each number by itself": (at(mixed, lambda s: s.abs()), ""),
    "the mean of squares": (at(mixed, lambda s: s.flatten(1).square().mean(1).sqrt()), ""),
    "one per sample": (
        lambda critic, a, b, e: (slope(critic, mixed(a, b.detach(), e).requires_grad_())
                                 .flatten(1).norm(dim=1) - 1).square(), ""),
    "a number": (lambda *given: sum_of_samples(*given).item(), "teaches nothing"),
    "detached": (lambda *given: sum_of_samples(*given).detach(), "teaches nothing"),
    "in eval mode": (in_eval_mode, ""),
    "by backward": (through_backward, "other gradients before"),
    "at x_real, which wants a gradient then": (at_x_real, ""),
}


# --- 6.3 ------------------------------------------------------------------------------------------


def iterate(W, u, rounds, normalise=lambda x: F.normalize(x, dim=0)):
    M = W.detach().reshape(len(W), -1)
    for _ in range(rounds):
        v = normalise(u @ M)
        u = normalise(torch.mv(M, v))
    return u, v


def by_einsum(W, u, rounds):
    u, v = iterate(W, u, rounds)
    return torch.einsum("i,ij,j->", u, W.reshape(len(W), -1), v), u


def by_length(W, u, rounds):
    u, v = iterate(W, u, rounds)
    return (W.flatten(1) @ v).norm(), u


def detached_each_time(W, u, rounds):
    M = W.view(W.shape[0], -1)
    for _ in range(rounds):
        v = torch.nn.functional.normalize(M.t().mv(u), dim=0).detach()
        u = torch.nn.functional.normalize(M.mv(v), dim=0).detach()
    return [torch.dot(u, M.mv(v)), u]


def with_epsilon(epsilon):
    def answer(W, u, rounds):
        u, v = iterate(W, u, rounds, lambda x: x / (x.norm() + epsilon))
        return u @ W.flatten(1) @ v, u

    return answer


def in_float64(W, u, rounds):
    return by_einsum(W.double(), u.double(), rounds)


def u_in_place(W, u, rounds):
    sigma, new = by_einsum(W, u, rounds)
    return sigma, u.copy_(new)


def other_sigma(find):
    def answer(W, u, rounds):
        return find(W.flatten(1), *iterate(W, u, rounds)), iterate(W, u, rounds)[0]

    return answer


SIGMA_RIGHT = {
    "einsum": by_einsum,
    "the length of Wv": by_length,
    "detached each time": detached_each_time,
    "ε below": with_epsilon(1e-12),
    "in float64": in_float64,
}
SIGMA_WRONG = {
    "a large ε": (with_epsilon(0.1), ""),
    "lengths by absolute values": (
        lambda W, u, n: (lambda u, v: (u @ W.flatten(1) @ v, u))(
            *iterate(W, u, n, lambda x: F.normalize(x, p=1, dim=0))), ""),
    "u in place": (u_in_place, "changed in place"),
    "no gradient": (lambda *given: torch.no_grad()(by_einsum)(*given), "no gradient flows"),
    "σ detached": (
        lambda *given: tuple(x.detach() for x in by_einsum(*given)), "no gradient flows"),
    "σ alone": (lambda *given: by_einsum(*given)[0], "2 values were expected"),
    "W divided": (lambda W, u, n: (W / by_einsum(W, u, n)[0], by_einsum(W, u, n)[1]), ""),
    "v for u": (lambda W, u, n: (by_einsum(W, u, n)[0], iterate(W, u, n)[1]), ""),
    "the largest number": (other_sigma(lambda M, u, v: M.abs().max()), ""),
    "the longest row": (other_sigma(lambda M, u, v: M.norm(dim=1).max()), ""),
    "the trace norm": (other_sigma(lambda M, u, v: torch.linalg.matrix_norm(M, "nuc")), ""),
    "the last axis for rows": (
        lambda W, u, n: by_einsum(W.transpose(0, -1), u, n), ""),
    "one round": (lambda W, u, n: by_einsum(W, u, 1), "one round"),
    "always ten rounds": (lambda W, u, n: by_einsum(W, u, 10), ""),
}


# --- 6.4 ------------------------------------------------------------------------------------------


def game(G, C, g_opt, c_opt, x_reals, zs, penalty, *, weight=1.0, mode=None, zero="before",
         detach=True, cut=None, apart=False, g_steps=1):
    for x_real, z in zip(x_reals, zs, strict=False):
        if mode:
            G.eval()
        x_fake = G(z)
        G.train()
        x_fake = x_fake.detach() if detach else x_fake
        c_loss = (C(x_fake) - C(x_real)).mean()
        if zero == "before":
            C.zero_grad()
        if apart:
            c_loss.backward(retain_graph=True)
            (weight * penalty(C, x_real, x_fake)).backward()
        else:
            (c_loss + weight * penalty(C, x_real, x_fake)).backward()
        c_opt.step()
        if zero == "after":
            c_opt.zero_grad()
        for value in C.parameters() if cut else ():
            value.data.clamp_(-cut, cut)
    for _ in range(g_steps):
        g_opt.zero_grad()
        torch.neg(C(G(zs[-1])).sum() / len(zs[-1])).backward()
        g_opt.step()


def played(**options):
    return lambda *given: game(*given, **options)


def no_grad_for_the_critic(G, C, g_opt, c_opt, x_reals, zs, penalty):
    with torch.no_grad():
        x_fakes = [G(z) for z in zs[:-1]]
    for i in range(len(x_reals)):
        c_opt.zero_grad(set_to_none=False)
        (-(C(x_reals[i]).mean() - C(x_fakes[i]).mean()) + penalty(C, x_reals[i],
                                                                  x_fakes[i])).backward()
        c_opt.step()
    C.requires_grad_(False)
    g_opt.zero_grad()
    (-C(G(zs[-1])).mean()).backward()
    g_opt.step()
    C.requires_grad_(True)
    C[1].bias.requires_grad_(False)  # it was frozen before


def pictures_anew(G, C, g_opt, c_opt, x_reals, zs, penalty):
    for x, z in zip(x_reals, zs[:-1], strict=True):
        loss = C(G(z).detach()).mean() - C(x).mean() + penalty(C, x, G(z).detach())
        c_opt.zero_grad()
        loss.backward()
        c_opt.step()
    g_opt.zero_grad()
    (-C(G(zs[-1])).mean()).backward()
    g_opt.step()


def emptied(G, C, g_opt, c_opt, x_reals, zs, penalty):
    last = zs.pop()
    game(G, C, g_opt, c_opt, x_reals, [*zs, last], penalty)


ROUND_RIGHT = {
    "one mean of both": game,
    "two backward passes": played(apart=True),
    "without a history, the critic frozen": no_grad_for_the_critic,
    "not detached, and emptied": played(detach=False),
    "pictures made anew for the penalty": pictures_anew,
}
ROUND_WRONG = {
    "zeroed after its step": (played(zero="after"), ""),
    "twice the penalty": (played(weight=2.0), ""),
    "no penalty": (played(weight=0.0), "penalty is missing"),
    "minus the penalty": (played(weight=-1.0), "penalty is subtracted"),
    "G in eval mode for the critic": (played(mode="eval"), ""),
    "weights cut": (played(cut=0.3), ""),
    "G steps twice": (played(g_steps=2), ""),
    "a list used up": (emptied, "entries after your function"),
    "G left in eval mode": (lambda G, *given: (game(G, *given), G.eval())[0] and None, "eval mode"),
    "the critic left frozen": (
        lambda G, C, *given: (game(G, C, *given), C.requires_grad_(False))[0], "no longer require"),
    "all thawed": (
        lambda G, C, *given: (game(G, C, *given), C.requires_grad_(True))[0], "now require"),
}


# --- 6.5 ------------------------------------------------------------------------------------------


def clip_data(weights, clip):
    for weight in weights:
        weight.data.clamp_(-clip, clip)


@torch.no_grad()
def clip_by_copy(weights, clip):
    for weight in weights:
        weight.copy_(weight.minimum(torch.tensor(clip)).maximum(torch.tensor(-clip)))


@torch.no_grad()
def clip_together(weights, clip):
    torch._foreach_clamp_max_([*weights], clip)
    torch._foreach_clamp_min_([*weights], -clip)


def clipped(cut=clip_data, told=float, of=lambda critic: critic.parameters(), squash=lambda c: c,
            target=1.0):
    def step(critic, optimizer, x_real, x_fake, clip):
        score = squash(critic(x_real)).mean() - squash(critic(x_fake)).mean()
        optimizer.zero_grad()
        (target * -score).backward()
        optimizer.step()
        cut(list(of(critic)), clip)
        return told(score)

    return step


def of_the_optimizer(critic, optimizer, x_real, x_fake, clip):
    score = critic(torch.cat([x_real, x_fake]))
    score = score[: len(x_real)].mean() - score[len(x_real) :].mean()
    critic.zero_grad()
    torch.neg(score).backward()
    optimizer.step()
    clip_by_copy([p for group in optimizer.param_groups for p in group["params"]], clip)
    return score.detach()


def scaled(weights, clip):
    for weight in weights:
        weight.data *= min(1, clip / weight.data.abs().max())


def by_length(weights, clip):
    for weight in weights:
        weight.data *= min(1, clip / weight.data.norm())


def in_a_new_tensor(weights, clip):
    for weight in weights:
        weight = weight.clamp(-clip, clip)


CLIP_RIGHT = {
    "data": clipped(),
    "a copy": clipped(clip_by_copy),
    "all together": clipped(clip_together),
    "what the optimizer holds, a tensor": of_the_optimizer,
    "detached": clipped(told=torch.Tensor.detach),
    "the state dict": clipped(of=lambda critic: critic.state_dict().values()),
}
CLIP_WRONG = {
    "with its graph": (clipped(told=lambda score: score), "hangs on its graph"),
    "with its graph, squashed": (
        clipped(told=lambda score: score, squash=torch.sigmoid), "without a sigmoid"),
    "tanh": (clipped(squash=torch.tanh), ""),
    "scaled down": (clipped(scaled), ""),
    "by length": (clipped(by_length), ""),
    "new tensors": (clipped(in_a_new_tensor), "nobody keeps it"),
    "what trains": (clipped(of=lambda critic: [p for p in critic.parameters() if p.requires_grad]),
                    ""),
    "the first layer": (clipped(of=lambda critic: critic[1].parameters()), ""),
    "twice the loss": (clipped(target=2.0), ""),
    "half the clip": (clipped(lambda weights, clip: clip_data(weights, clip / 2)), ""),
    "one side": (clipped(lambda weights, clip: [w.data.clamp_(max=clip) for w in weights]),
                 "at the top only"),
    "the loss": (clipped(told=lambda score: -score.item()), "wrong sign"),
    "per cent": (clipped(told=lambda score: 100 * score.item()), ""),
    "rounded": (clipped(told=lambda score: round(score.item(), 1)), ""),
}

RIGHT = {
    "count_modes": MODES_RIGHT, "gradient_penalty": PENALTY_RIGHT, "spectral_norm_of": SIGMA_RIGHT,
    "wgan_round": ROUND_RIGHT, "clipped_step": CLIP_RIGHT,
}
WRONG = {
    "count_modes": MODES_WRONG, "gradient_penalty": PENALTY_WRONG, "spectral_norm_of": SIGMA_WRONG,
    "wgan_round": ROUND_WRONG, "clipped_step": CLIP_WRONG,
}
