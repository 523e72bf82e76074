"""Chapter 14: other right answers, and wrong ones that are tried besides those with a name."""

import functools
import itertools
import statistics
import time

import numpy as np
import torch
from torch.nn import functional as F

# --- 14.1 -----------------------------------------------------------------------------------------


def timings(work, clock, synchronise, warm_up, repeats):
    for _ in range(warm_up):
        work()
    synchronise()
    found = []
    for _ in range(repeats):
        start = clock()
        work()
        synchronise()
        found.append(clock() - start)
    return found


def of_timings(summary):
    return lambda *given: summary(timings(*given))


def always_waiting(work, clock, synchronise, warm_up, repeats):
    """A wait before and behind each look; warm-up and timings in one loop."""
    found = []
    for i in range(warm_up + repeats):
        synchronise()
        before = clock()
        work()
        synchronise()
        behind = clock()
        if i >= warm_up:
            found.append(behind - before)
    found.sort()
    return found[len(found) // 2]


def all_looks(work, clock, synchronise, warm_up, repeats):
    """The end of one call is the beginning of the next."""
    for _ in range(warm_up):
        work()
        synchronise()
    synchronise()
    looks = [clock()]
    while len(looks) <= repeats:
        work()
        synchronise()
        looks.append(clock())
    return statistics.median(b - a for a, b in itertools.pairwise(looks))


def waits(first=False, between=False, behind=True, inside=False, late=False):
    """A stopwatch that waits at some places, of which some are the wrong ones."""

    def answer(work, clock, synchronise, warm_up, repeats):
        if first:
            synchronise()
        for _ in range(warm_up):
            work()
        if between:
            synchronise()
        found = []
        for _ in range(repeats):
            start = clock()
            if inside:
                synchronise()
            work()
            if behind:
                synchronise()
            found.append(clock() - start)
            if late:
                synchronise()
        return statistics.median(found)

    return answer


def all_in_one(work, clock, synchronise, warm_up, repeats):
    return sum(timings(work, clock, synchronise, warm_up, repeats)) / repeats


def without_the_slowest(work, clock, synchronise, warm_up, repeats):
    found = sorted(timings(work, clock, synchronise, warm_up, repeats))
    return statistics.fmean(found[:-1] or found)


def by_the_wall(work, clock, synchronise, warm_up, repeats):
    return statistics.median(timings(work, time.monotonic, synchronise, warm_up, repeats))


def waits_in_the_warm_up(work, clock, synchronise, warm_up, repeats):
    for _ in range(warm_up):
        work()
        synchronise()
    return waits()(work, clock, synchronise, 0, repeats)


def the_slowest_for_the_warm_up(work, clock, synchronise, warm_up, repeats):
    found = sorted(timings(work, clock, synchronise, 0, warm_up + repeats))
    return found[:repeats][repeats // 2]


STOPWATCH_RIGHT = {
    "the middle of the sorted": of_timings(lambda t: sorted(t)[len(t) // 2]),
    "statistics": of_timings(statistics.median),
    "NumPy": of_timings(np.median),
    "torch": of_timings(lambda t: torch.tensor(t).median()),
    "torch, in float64": of_timings(
        lambda t: torch.tensor(t, dtype=torch.float64).quantile(0.5).item()),
    "always waiting": always_waiting,
    "all looks": all_looks,
    "waits everywhere": waits(first=True, between=True, late=True),
}
STOPWATCH_WRONG = {
    "no wait": (waits(behind=False), "handed over"),
    "waits before all else": (waits(first=True), "*after* the warm-up"),
    "no wait before the first timing": (waits(), "before* the first timing"),
    "waits before the work": (waits(between=True, behind=False, inside=True), "Work first"),
    "waits before the work, never for the warm-up": (
        waits(behind=False, inside=True), "the whole warm-up"),
    "waits after the clock was read": (
        waits(between=True, behind=False, late=True), "handed over"),
    "waits first, and after the clock was read": (
        waits(first=True, behind=False, late=True), "handed over"),
    "the mean": (all_in_one, "This is the mean"),
    "the mean but for the slowest": (without_the_slowest, ""),
    "a clock of one's own": (by_the_wall, "a clock of your own"),
    "the fastest": (of_timings(min), "the fastest call"),
    "all timings": (of_timings(list), "a list"),
    "the lower quarter": (of_timings(lambda t: sorted(t)[len(t) // 4]), ""),
    "the upper middle": (of_timings(lambda t: sorted(t)[min(len(t) - 1, len(t) // 2 + 1)]), ""),
    "waits in the warm-up, where there is one": (waits_in_the_warm_up, ""),
    "the slowest are the warm-up": (the_slowest_for_the_warm_up, ""),
    "a call more, not counted": (
        lambda w, c, s, warm_up, repeats: statistics.median(
            timings(w, c, s, warm_up, repeats + 1)[:-1]), "once more than asked"),
    "microseconds": (of_timings(lambda t: 1e6 * statistics.median(t)), ""),
    "calls per second": (of_timings(lambda t: 1 / statistics.median(t)), ""),
    "one repeat too few": (
        lambda w, c, s, warm_up, repeats: statistics.median(timings(w, c, s, warm_up, repeats)[1:]
                                                            or [0.0]), ""),
}


# --- 14.2 -----------------------------------------------------------------------------------------


def by_shapes(x_shape, w_shape, stride, padding, number_bytes, pi, beta):
    """torch says the result's shape; on the device meta nothing is computed."""
    x, w = torch.empty(x_shape, device="meta"), torch.empty(w_shape, device="meta")
    y = F.conv2d(x, w, stride=stride, padding=padding)
    flops = 2 * y.numel() * w[0].numel()
    moved = number_bytes * (x.numel() + w.numel() + y.numel())
    return flops, moved, max(flops / pi, moved / beta)


def by_positions(x_shape, w_shape, stride, padding, number_bytes, pi, beta):
    (B, C, H, W), (outputs, _, K, L) = x_shape, w_shape
    rows = len(range(0, H + 2 * padding - K + 1, stride))
    columns = len(range(0, W + 2 * padding - L + 1, stride))
    flops = 2.0 * B * outputs * rows * columns * C * K * L
    moved = float(B * C * H * W + outputs * C * K * L + B * outputs * rows * columns)
    moved *= number_bytes
    return [torch.tensor(v) for v in (flops, moved, max(flops / pi, moved / beta))]


def with_gemm(x_shape, w_shape, stride, padding, number_bytes, pi, beta):
    """As a matrix product (B·H′·W′, C·k·k′) × (C·k·k′, C′)."""
    sides = [(n + 2 * padding - k) // stride + 1
             for n, k in zip(x_shape[2:], w_shape[2:], strict=True)]
    m, k, n = x_shape[0] * np.prod(sides), np.prod(w_shape[1:]), w_shape[0]
    moved = (np.prod(x_shape) + np.prod(w_shape) + m * n) * number_bytes
    return 2 * m * k * n, moved, np.maximum(2 * m * k * n / pi, moved / beta)


def changed(**changes):
    """The right answer for other numbers than were given."""

    def answer(*given):
        names = "x_shape", "w_shape", "stride", "padding", "number_bytes", "pi", "beta"
        case = dict(zip(names, given, strict=True))
        return by_shapes(**(case | {k: change(case) for k, change in changes.items()}))

    return answer


def after(change):
    return lambda *given: change(*by_shapes(*given))


FLOOR_RIGHT = {
    "shapes of meta tensors": by_shapes,
    "positions, a list of tensors": by_positions,
    "as a matrix product, NumPy's numbers": with_gemm,
}
FLOOR_WRONG = {
    "padding on all": (changed(padding=lambda c: 2 * c["padding"]), ""),
    "stride of one": (changed(stride=lambda c: 1), "The stride is missing"),
    "no padding": (changed(padding=lambda c: 0), "the padding is missing"),
    "as float32": (changed(number_bytes=lambda c: 4), ""),
    "two values": (after(lambda flops, moved, t: (flops, t)), "3 were expected"),
    "FLOP per byte": (after(lambda flops, moved, t: (flops, moved, flops / moved)), ""),
    "milliseconds": (after(lambda flops, moved, t: (flops, moved, 1e3 * t)), ""),
    "the mean of both": (
        lambda *g: (lambda f, m, t: (f, m, (f / g[5] + m / g[6]) / 2))(*by_shapes(*g)), ""),
    "with a bias": (
        lambda *g: (lambda f, m, t: (f + g[0][0] * g[1][0], m, t))(*by_shapes(*g)), ""),
}


# --- 14.3 -----------------------------------------------------------------------------------------


def by_backward(weights, loss_of, scale, lr):
    low = [w.detach().to(torch.float16).requires_grad_() for w in weights]
    (scale * loss_of(low)).backward()
    slopes = [w.grad.float() / scale for w in low]
    if any(not torch.isfinite(g).all() for g in slopes):
        return [w.clone() for w in weights], scale * 0.5
    return [w - lr * g for w, g in zip(weights, slopes, strict=True)], scale


def through_the_copy(weights, loss_of, scale, lr):
    """float32 leaves: the way back through `half()` gives float32 gradients."""
    leaves = [w.clone().requires_grad_() for w in weights]
    slopes = torch.autograd.grad(loss_of([w.half() for w in leaves]) * scale, leaves)
    new = [w - lr / scale * g for w, g in zip(weights, slopes, strict=True)]
    good = bool(torch.cat(new).isfinite().all())
    return (new if good else weights), (scale if good else scale / 2)


def asked_while_half(weights, loss_of, scale, lr):
    low = [w.half().requires_grad_() for w in weights]
    slopes = torch.autograd.grad(scale * loss_of(low), low)
    for g in slopes:
        if g.isinf().any() or g.isnan().any():
            return tuple(weights), torch.tensor(scale / 2)
    return tuple(w.sub(g.float().div(scale), alpha=lr) for w, g in zip(
        weights, slopes, strict=True)), torch.tensor(scale)


def moved(weights, loss_of, scale, lr, good=None):
    low = [w.half().requires_grad_() for w in weights]
    slopes = torch.autograd.grad(scale * loss_of(low), low)
    if good(low, slopes, scale * loss_of(low)):
        return [w - lr * g.float() / scale for w, g in zip(weights, slopes, strict=True)], scale
    return weights, scale / 2


def where(good):
    return functools.partial(moved, good=good)


def in_place(weights, loss_of, scale, lr):
    found, after = by_backward(weights, loss_of, scale, lr)
    for w, new in zip(weights, found, strict=True):
        w.copy_(new)
    return weights, after


def ask_for_gradients(weights, loss_of, scale, lr):
    found = by_backward(weights, loss_of, scale, lr)
    for w in weights:
        w.requires_grad_()
    return found


HALF_RIGHT = {
    "backward": by_backward,
    "through the copy": through_the_copy,
    "asked while half, tuples and tensors": asked_while_half,
}
HALF_WRONG = {
    "the loss is looked at": (
        where(lambda low, slopes, loss: loss.isfinite()), "Nobody looks at the gradients"),
    "nothing is looked at": (where(lambda *_: True), "Nobody looks at the gradients"),
    "nan alone": (
        where(lambda low, slopes, loss: not any(g.isnan().any() for g in slopes)), "nan only"),
    "the sum in float16": (
        where(lambda low, slopes, loss: all(g.sum().isfinite() for g in slopes)), "sum or norm"),
    "the norm in float16": (
        where(lambda low, slopes, loss: all(g.norm().isfinite() for g in slopes)), "sum or norm"),
    "the first tensor alone": (where(lambda low, slopes, loss: slopes[0].isfinite().all()),
                               "the first tensor alone"),
    "the last tensor alone": (where(lambda low, slopes, loss: slopes[-1].isfinite().all()), ""),
    "the first numbers alone": (
        where(lambda low, slopes, loss: all(g[0].isfinite() for g in slopes)),
        "one number of each tensor"),
    "the last numbers alone": (
        where(lambda low, slopes, loss: all(g[-1].isfinite() for g in slopes)), ""),
    "the largest alone": (
        where(lambda low, slopes, loss: all(g.max().isfinite() for g in slopes)), ""),
    "the smallest alone": (
        where(lambda low, slopes, loss: all(g.min().isfinite() for g in slopes)), ""),
    "half the scale, a whole number": (
        lambda weights, loss_of, scale, lr: (lambda new, after: (
            new, after if after == scale else scale // 2))(
                *by_backward(weights, loss_of, scale, lr)), ""),
    "a scale of 1 at least": (
        lambda *given: (lambda new, after: (new, max(1.0, after)))(*by_backward(*given)), ""),
    "any for all": (
        where(lambda low, slopes, loss: all(g.isfinite().any() for g in slopes)), "`any`"),
    "the largest allowed is 10,000": (
        where(lambda low, slopes, loss: all(g.abs().max() < 1e4 for g in slopes)), ""),
    "float16 weights": (
        lambda *given: ([w.half() for w in by_backward(*given)[0]], by_backward(*given)[1]),
        "dtype"),
    "the weights alone": (lambda *given: by_backward(*given)[0], ""),
    "in place": (in_place, "changed in place"),
    "the weights ask for gradients": (ask_for_gradients, "put `requires_grad` back"),
    "bfloat16": (
        lambda weights, loss_of, scale, lr: by_backward(
            weights, lambda low: loss_of([w.bfloat16() for w in low]), scale, lr), ""),
    "clipped": (
        lambda weights, loss_of, scale, lr: (
            [w + (n - w).nan_to_num().clamp(-1, 1) for w, n in zip(
                weights, by_backward(weights, loss_of, scale, lr)[0], strict=True)],
            by_backward(weights, loss_of, scale, lr)[1]), ""),
}


# --- 14.4 -----------------------------------------------------------------------------------------


def strided(order, step, batch_size, rank, world):
    return order[step * batch_size : step * batch_size + batch_size][rank::world]


def as_a_list(order, step, batch_size, rank, world):
    rows = range(step * batch_size, (step + 1) * batch_size)
    return [order[i].item() for i in rows if i % world == rank]


def by_borders(order, step, batch_size, rank, world):
    start, end = (step * batch_size + batch_size * r // world for r in (rank, rank + 1))
    return order[start:end]


def by_masking(order, step, batch_size, rank, world):
    places = torch.arange(len(order))
    mine = (places // batch_size == step) & (places % batch_size % world == rank)
    return order[mine]


def shuffled(order, step, batch_size, rank, world):
    batch = order[step * batch_size : (step + 1) * batch_size]
    return batch[torch.randperm(len(batch))][rank::world]


ROWS_RIGHT = {
    "strided": strided,
    "a list": as_a_list,
    "by borders": by_borders,
    "by masking": by_masking,
    "split": lambda order, step, B, rank, world: order.split(B)[step].tensor_split(world)[rank],
    "the other way round": lambda order, step, B, rank, world: strided(
        order, step, B, world - 1 - rank, world),
}
ROWS_WRONG = {
    "chunk": (
        lambda order, step, B, rank, world: (*order[step * B : (step + 1) * B].chunk(world),
                                             *[order[:0]] * world)[rank], "rounded up"),
    "shuffled by each rank": (shuffled, ""),
    "the first rank's for all": (
        lambda order, step, B, rank, world: strided(order, step, B, 0, world), ""),
    "sorted": (lambda order, step, B, rank, world: strided(
        order.sort().values, step, B, rank, world), ""),
    "whole numbers of the epoch": (
        lambda order, step, B, rank, world: strided(order, step, B, rank, world) % 7, ""),
    "order in place": (
        lambda order, step, B, rank, world: strided(order.add_(1), step, B, rank, world) - 1,
        "in place"),
    "as float": (
        lambda order, step, B, rank, world: strided(order, step, B, rank, world).float(), "dtype"),
    "a picture too many for each rank": (
        lambda order, step, B, rank, world: torch.cat([strided(order, step, B, rank, world),
                                                       order[:1]]), "shape"),
    "None": (lambda *_: None, ""),
}


# --- 14.5 -----------------------------------------------------------------------------------------


def spread(values):
    return values[:, None, None]


def one_step_at_a_time(x, eps):
    count = yield x.numel() // x.shape[1]
    mean = (yield x.sum((0, 2, 3), keepdim=True)) / count
    squares = yield (x - mean).pow(2).sum((0, 2, 3), keepdim=True)
    return (x - mean) * (squares / count + eps).rsqrt()


def parallel(x, eps):
    """Counts and sums in one exchange; then what lies within the ranks and between them."""
    n = x.numel() / x.shape[1]
    own = x.mean((0, 2, 3))
    heard = yield torch.cat([torch.tensor([float(n)]), n * own])
    mean = heard[1:] / heard[0]
    within = x.var((0, 2, 3), correction=0)
    var = (yield n * (within + (own - mean) ** 2)) / heard[0]
    return (x - spread(mean)) / torch.sqrt(spread(var) + eps)


def squares_in_float64(x, eps):
    y = x.double()
    count = torch.full((y.shape[1],), y.numel() / y.shape[1], dtype=y.dtype)
    heard = yield torch.stack([y.sum((0, 2, 3)), y.square().sum((0, 2, 3)), count])
    mean = heard[0] / heard[2]
    var = heard[1] / heard[2] - mean**2
    return ((y - spread(mean)) / spread(var + eps).sqrt()).float()


def cast_each_time(x, eps):
    """Each cast has a gradient of its own, large and rounded; they cancel."""
    count = yield torch.tensor(x.numel() / x.shape[1]).double()
    mean = (yield x.double().sum((0, 2, 3))) / count
    var = (yield x.double().square().sum((0, 2, 3))) / count - mean**2
    return ((x.double() - spread(mean)) / spread(var.clamp(min=0) + eps).sqrt()).float()


def scaled_and_shifted(x, eps):
    """x·s − μ·s, as fused kernels do: near 4,096 it loses some digits."""
    count = yield x.numel() // x.shape[1]
    mean = (yield x.sum((0, 2, 3))) / count
    scale = ((yield (x - spread(mean)).square().sum((0, 2, 3))) / count + eps).rsqrt()
    return x * spread(scale) - spread(mean * scale)


def by_torch(x, eps):
    count = yield float(x.numel() / x.shape[1])
    mean = (yield x.sum((0, 2, 3))) / count
    var = (yield (x - spread(mean)).square().sum((0, 2, 3))) / count
    return torch.nn.functional.batch_norm(x, mean, var, eps=eps)


def clamped_squares(x, eps):
    heard = yield torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)),
                               torch.full((x.shape[1],), x.numel() / x.shape[1])])
    mean = heard[0] / heard[2]
    var = (heard[1] / heard[2] - mean**2).clamp(min=0)
    return (x - spread(mean)) / spread(var + eps).sqrt()


def one_yields_more(x, eps):
    if len(x) > 1:
        yield 0
    return (yield from one_step_at_a_time(x, eps))


def detached_mean(x, eps):
    count = yield x.numel() // x.shape[1]
    mean = ((yield x.sum((0, 2, 3), keepdim=True)) / count).detach()
    squares = yield (x - mean).pow(2).sum((0, 2, 3), keepdim=True)
    return (x - mean) * (squares / count + eps).rsqrt()


def squares_only(x, eps):
    count = yield x.numel() // x.shape[1]
    squares = yield x.pow(2).sum((0, 2, 3), keepdim=True)
    return x * (squares / count + eps).rsqrt()


def in_place(x, eps):
    y = yield from one_step_at_a_time(x, eps)
    with torch.no_grad():
        x.copy_(y)
    return y


NORM_RIGHT = {
    "kept dimensions": one_step_at_a_time,
    "within and between": parallel,
    "squares in float64": squares_in_float64,
    "a cast for each use": cast_each_time,
    "scaled and shifted": scaled_and_shifted,
}
NORM_WRONG = {
    "an ordinary function": (
        lambda x, eps: F.batch_norm(x, None, None, training=True, eps=eps), ""),
    "with torch's own": (by_torch, "asking for their gradient fails"),
    "squares, clamped": (clamped_squares, ""),
    "one rank yields more": (one_yields_more, ""),
    "a detached mean": (detached_mean, "gradient"),
    "no mean": (squares_only, ""),
    "in place": (in_place, "in place"),
    "a text is handed over": (lambda x, eps: (yield "x"), "number or a tensor"),
    "what was heard is returned": (lambda x, eps: (yield 1), "a tensor was expected"),
}

RIGHT = {
    "mended_stopwatch": STOPWATCH_RIGHT, "conv_floor": FLOOR_RIGHT, "float16_step": HALF_RIGHT,
    "rank_rows": ROWS_RIGHT, "global_batch_norm": NORM_RIGHT,
}
WRONG = {
    "mended_stopwatch": STOPWATCH_WRONG, "conv_floor": FLOOR_WRONG, "float16_step": HALF_WRONG,
    "rank_rows": ROWS_WRONG, "global_batch_norm": NORM_WRONG,
}
