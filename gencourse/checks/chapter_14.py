"""Chapter 14: the exercises on fast training, their references, and the mistakes people make."""

import math
import statistics
import time

import torch

from gencourse.checks.core import Exercise, normals

STEM = "14_fast_training"


# --- 14.1 -----------------------------------------------------------------------------------------

mended_stopwatch = Exercise(
    "mended_stopwatch",
    level="warm-up",
    minutes=15,
    tests="first calls that queue up as well, slow or fast, work that already waits, a hiccup; "
    "short and long calls, and how many of them.",
    hint="Make a table of who does what when: your program, and the device that it only asks.",
    rtol=1e-6,
    atol=1e-9,
)


@mended_stopwatch.cases
def devices(rng):
    """Times of the calls in seconds; the first timed one is the fastest, the second the hiccup.

    The calls of the warm-up are slow, but in the last case: that device gets too hot.
    """
    found = []
    for repeats, warm_up, scale, launch, queued, slow in [
        (5, 2, 1e-3, 1e-5, 3e-3, 1), (3, 1, 2e-5, 5e-5, 0.0, 1), (7, 3, 0.1, 1e-4, 0.3, 1),
        (1, 0, 1e-3, 1e-5, 2e-3, 1), (5, 0, 3e-3, 2e-5, 0.1, 1), (3, 4, 1e-2, 1e-5, 1.0, 1),
        (5, 3, 1e-2, 1e-5, 0.5, 1e-2),
    ]:
        drawn = (torch.rand(repeats, generator=rng, dtype=torch.float64) + 0.1).cumsum(0)
        fastest, *others = (scale * (0.3 + drawn)).tolist()
        order = torch.randperm(len(others), generator=rng).tolist()
        others = [others[i] for i in order]
        if others:
            others[0] = 30 * max(others)
        first = (slow * scale * (9 + 5 * torch.rand(warm_up, generator=rng))).tolist()
        found.append({"seconds": [*first, fastest, *others], "launch": launch, "queued": queued,
                      "warm_up": warm_up, "repeats": repeats})
    return found


def stopwatch(
    work, clock, synchronise, warm_up, repeats, *, counted=False, before=True, after=True,
    first=False, behind=False, summary=statistics.median,
):
    """What the right answer and most wrong ones are variations of."""
    if first:
        synchronise()
    for _ in range(0 if counted else warm_up):
        work()
    if before:
        synchronise()
    times = []
    for _ in range(repeats + (warm_up if counted else 0)):
        start = clock()
        if behind:
            synchronise()
        work()
        if after:
            synchronise()
        times.append(clock() - start)
    return summary(times)


@mended_stopwatch.reference
def waits_and_takes_the_median(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats)


@mended_stopwatch.wrong(
    "This is still the broken stopwatch: it stops when the last call has been *handed over*, not "
    "when the device has done it."
)
def broken(work, clock, synchronise, warm_up, repeats):
    start = clock()
    for _ in range(repeats):
        work()
    return (clock() - start) / repeats


@mended_stopwatch.wrong(
    "You time each call on its own now. But the clock is read when the call has been handed over: "
    "wait for the device before you look."
)
def only_handed_over(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats, after=False)


@mended_stopwatch.wrong(
    "You wait for the device after the work. But what stood in its queue *before* the first timing "
    "is counted too: wait once before the clock starts."
)
def queue_counted(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats, before=False)


@mended_stopwatch.wrong(
    "You wait for the device before the warm-up. But the warm-up's own calls stand in the queue, "
    "too, and run into the first timing: wait *after* the warm-up."
)
def waits_before_the_warm_up(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats, first=True, before=False)


@mended_stopwatch.wrong(
    "Between your two looks at the clock you wait for the call *before*, and then hand over the "
    "next. Work first, then wait."
)
def waits_for_the_one_before(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats, behind=True, after=False)


@mended_stopwatch.wrong(
    "You wait once per call, but before its work: each timing holds the call *before* it, and the "
    "first one the whole warm-up. Work first, then wait."
)
def waits_too_early(work, clock, synchronise, warm_up, repeats):
    options = {"before": False, "behind": True, "after": False}
    return stopwatch(work, clock, synchronise, warm_up, repeats, **options)


@mended_stopwatch.wrong(
    "The warm-up is taken out of the `repeats` calls; it comes before them, and `repeats` calls "
    "are timed."
)
def fewer_timings(work, clock, synchronise, warm_up, repeats):
    times = []
    stopwatch(work, clock, synchronise, 0, repeats, summary=times.extend)
    return statistics.median(times[warm_up:])


@mended_stopwatch.wrong("One warm-up call is missing: the last one is among your timings.")
def one_warm_up_less(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, max(0, warm_up - 1), repeats)


@mended_stopwatch.wrong("You time one call too few: `repeats` of them count.")
def one_timing_less(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats - 1)


@mended_stopwatch.wrong("You time one call too many: `repeats` of them count.")
def one_timing_more(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats + 1)


@mended_stopwatch.wrong(
    "The time is right, but you call `work` once more than asked: `warm_up` times, then `repeats`."
)
def one_call_more(work, clock, synchronise, warm_up, repeats):
    found = stopwatch(work, clock, synchronise, warm_up, repeats)
    work()
    return found


@mended_stopwatch.wrong("No work is handed over between your two looks at the clock.")
def nothing_timed(work, clock, synchronise, warm_up, repeats):
    return stopwatch(lambda: None, clock, synchronise, warm_up, repeats)


@mended_stopwatch.wrong("This is a reading of the clock; the time of a call lies between two.")
def one_look(work, clock, synchronise, warm_up, repeats):
    readings = []

    def reading():
        readings.append(clock())
        return readings[-1]

    stopwatch(work, reading, synchronise, warm_up, repeats)
    return statistics.median(readings[1::2])


@mended_stopwatch.wrong("You warm up with one call, however many `warm_up` asks for.")
def warmed_up_once(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, 1, repeats)


@mended_stopwatch.wrong(
    "You take the timing in the middle of the *list*, in the order of the calls. The median is in "
    "the middle of the sorted one."
)
def middle_of_the_list(work, clock, synchronise, warm_up, repeats):
    middle = repeats // 2
    return stopwatch(work, clock, synchronise, warm_up, repeats, summary=lambda t: t[middle])


@mended_stopwatch.wrong("You return the slowest call, the one with the hiccup: take the median.")
def slowest(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats, summary=max)


@mended_stopwatch.wrong("You return the last call's time alone: the median is over all of them.")
def last_call(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats, summary=lambda t: t[-1])


@mended_stopwatch.wrong("You time with a clock of your own; use the one that you are given.")
def own_clock(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, time.perf_counter, synchronise, warm_up, repeats)


@mended_stopwatch.wrong("The sign is turned: the time *after* the call minus the time before it.")
def negative_time(work, clock, synchronise, warm_up, repeats):
    return -stopwatch(work, clock, synchronise, warm_up, repeats)


@mended_stopwatch.wrong(
    "The first `warm_up` calls are among the timings. They are slow for reasons that a long "
    "training never meets again: call them, and leave them out."
)
def warm_up_counted(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats, counted=True)


@mended_stopwatch.wrong("No call warms the device up: make `warm_up` calls that are not timed.")
def never_warm(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, 0, repeats)


@mended_stopwatch.wrong(
    "This is the mean of the timings. One hiccup of the machine moves it as far as it likes; the "
    "median hardly notices."
)
def mean_of_calls(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats, summary=statistics.fmean)


@mended_stopwatch.wrong(
    "You time all calls together and divide: a mean, which one hiccup moves as far as it likes. "
    "Time each call on its own and take the median."
)
def all_together(work, clock, synchronise, warm_up, repeats):
    for _ in range(warm_up):
        work()
    synchronise()
    start = clock()
    for _ in range(repeats):
        work()
    synchronise()
    return (clock() - start) / repeats


@mended_stopwatch.wrong(
    "You return the fastest call. It is the one with the most luck: asked is the median, with as "
    "many calls above it as below."
)
def fastest(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats, summary=min)


@mended_stopwatch.wrong("You return the time of all calls together; asked is that of one.")
def total(work, clock, synchronise, warm_up, repeats):
    return stopwatch(work, clock, synchronise, warm_up, repeats, summary=sum)


@mended_stopwatch.wrong("Your result is in milliseconds; the clock gives seconds, and so do you.")
def in_milliseconds(work, clock, synchronise, warm_up, repeats):
    return 1000 * stopwatch(work, clock, synchronise, warm_up, repeats)


# --- 14.2 -----------------------------------------------------------------------------------------

conv_floor = Exercise(
    "conv_floor",
    level="core",
    minutes=20,
    tests="strides, padding, kernels that aren't square, one picture and many; both floors.",
    hint="First the output's shape. Each of its numbers is a sum of C·k·k products.",
    rtol=1e-6,
    atol=0.0,
)


@conv_floor.cases
def layers(rng):
    def draw(low, high):
        return int(torch.randint(low, high, (), generator=rng))

    fixed = [
        ((128, 3, 64, 64), (64, 3, 4, 4), 2, 1, 4, 1e13, 1e12),
        ((128, 256, 16, 16), (512, 256, 4, 4), 2, 1, 2, 2e14, 1e12),
        ((1, 1, 5, 7), (1, 1, 5, 7), 1, 0, 4, 1e10, 1e10),
        ((64, 32, 8, 8), (16, 32, 1, 1), 1, 0, 2, 1e14, 2e12),
        ((2, 3, 10, 13), (4, 3, 2, 5), 3, 1, 4, 1e12, 1e12),  # something is left over
    ]
    for _ in range(4):
        b, c, o = draw(2, 99), draw(2, 40), draw(2, 40)
        sides, kernel = (draw(6, 40), draw(6, 40)), (draw(2, 4), draw(4, 6))
        intensity = 10 ** draw(-1, 4)
        fixed.append(((b, c, *sides), (o, c, *kernel), draw(1, 4), draw(1, 3), 2 * draw(1, 3),
                      1e12, 1e12 / intensity))
    names = "x_shape", "w_shape", "stride", "padding", "number_bytes", "pi", "beta"
    return [dict(zip(names, values, strict=True)) for values in fixed]


def output_sides(x_shape, w_shape, stride, padding, *, pads=2, taps=1, edge=1, up=0):
    return [(n + pads * padding - taps * k + up * (stride - 1)) // stride + edge
            for n, k in zip(x_shape[2:], w_shape[2:], strict=True)]


def products(x, w, y):
    return math.prod(y) * math.prod(w[1:])


def numbers(x, w, y):
    return math.prod(x) + math.prod(w) + math.prod(y)


def counts(
    x_shape, w_shape, stride, padding, number_bytes, *, of_one=2, work=products, moved=numbers,
    **options,
):
    """FLOPs and bytes; the options are what can go wrong in them."""
    sides = output_sides(x_shape, w_shape, stride, padding, **options)
    shapes = x_shape, w_shape, (x_shape[0], w_shape[0], *sides)
    return of_one * work(*shapes), number_bytes * moved(*shapes)


@conv_floor.reference
def counted(x_shape, w_shape, stride, padding, number_bytes, pi, beta):
    flops, traffic = counts(x_shape, w_shape, stride, padding, number_bytes)
    return flops, traffic, max(flops / pi, traffic / beta)


def miscounted(*given, **options):
    """What is returned with a mistake in the counts."""
    *layer, pi, beta = given
    flops, traffic = counts(*layer, **options)
    return flops, traffic, max(flops / pi, traffic / beta)


@conv_floor.wrong("The bytes are right. A multiplication and an addition are *two* operations.")
def multiply_add_once(*given):
    return miscounted(*given, of_one=1)


@conv_floor.wrong("The output is larger than you think: the padding is missing in its sides.")
def padding_forgotten(*given):
    return miscounted(*given, pads=0)


@conv_floor.wrong("The padding stands at *both* ends of a side: it counts twice.")
def padding_at_one_end(*given):
    return miscounted(*given, pads=1)


@conv_floor.wrong("The padding makes the sides larger; you take it off.")
def padding_taken_off(*given):
    return miscounted(*given, pads=-2)


@conv_floor.wrong("The kernel is missing in the result's sides: it has to fit in as a whole.")
def kernel_forgotten(*given):
    return miscounted(*given, taps=0)


@conv_floor.wrong("The result's sides are one too large: + 1 is enough.")
def one_place_too_many(*given):
    return miscounted(*given, edge=2)


@conv_floor.wrong("A side has no fractions: what is left over by the stride is cut off, `//`.")
def fractions(x_shape, w_shape, stride, padding, number_bytes, pi, beta):
    sides = [(n + 2 * padding - k) / stride + 1
             for n, k in zip(x_shape[2:], w_shape[2:], strict=True)]
    shapes = x_shape, w_shape, (x_shape[0], w_shape[0], *sides)
    flops, traffic = 2 * products(*shapes), number_bytes * numbers(*shapes)
    return flops, traffic, max(flops / pi, traffic / beta)


@conv_floor.wrong("Stride and padding have changed places.")
def stride_and_padding_exchanged(*given):
    x_shape, w_shape, stride, padding, *others = given
    return counted(x_shape, w_shape, padding, stride, *others)


@conv_floor.wrong("The bytes are right. Each number of the result needs C·k·k′ products, not one.")
def one_product_each(*given):
    return miscounted(*given, work=lambda x, w, y: math.prod(y))


@conv_floor.wrong("The FLOPs are right. You move the result alone; x and w have to come, too.")
def result_alone(*given):
    return miscounted(*given, moved=lambda x, w, y: math.prod(y))


@conv_floor.wrong("The stride is missing: the kernel is applied at every s-th place only.")
def stride_forgotten(*given):
    x_shape, w_shape, _, *others = given
    return counted(x_shape, w_shape, 1, *others)


@conv_floor.wrong("You take the kernel for a square: its two sides may differ.")
def square_kernel(*given):
    x_shape, (o, c, k, _), *others = given
    return counted(x_shape, (o, c, k, k), *others)


@conv_floor.wrong("The bytes are right. You count the work for one picture; the batch has B.")
def one_picture(*given):
    return miscounted(*given, work=lambda x, w, y: math.prod(y[1:]) * math.prod(w[1:]))


@conv_floor.wrong("The bytes are right. Every number of the result is a sum over all C channels.")
def channels_forgotten(*given):
    return miscounted(*given, work=lambda x, w, y: math.prod(y) * math.prod(w[2:]))


@conv_floor.wrong("The bytes are right. You count the work for one output channel; there are C′.")
def one_output_channel(*given):
    return miscounted(*given, work=lambda x, w, y: products(x, w, y) // w[0])


@conv_floor.wrong(
    "The bytes are right. You count products at every place of the *input*; there are as many "
    "sums as the result has places."
)
def places_of_the_input(*given):
    return miscounted(*given, work=lambda x, w, y: x[0] * math.prod(x[2:]) * math.prod(w))


@conv_floor.wrong("The result's sides are one too small: after the division comes + 1.")
def one_place_short(*given):
    return miscounted(*given, edge=0)


@conv_floor.wrong("You round the sides up: a kernel that doesn't fit any more has no place.")
def sides_rounded_up(*given):
    return miscounted(*given, up=1)


@conv_floor.wrong("The FLOPs are right. Padded zeros don't move: nobody reads them from memory.")
def zeros_moved(*given):
    padding = given[3]
    return miscounted(*given, moved=lambda x, w, y: numbers(
        (*x[:2], x[2] + 2 * padding, x[3] + 2 * padding), w, y))


@conv_floor.wrong("Rows and columns are exchanged: x_shape is (B, C, H, W), w_shape (…, k, k′).")
def sides_exchanged(*given):
    (b, c, h, w), *others = given
    return counted((b, c, w, h), *others)


@conv_floor.wrong("The FLOPs are right. The result has to be written to memory, too.")
def output_not_written(*given):
    return miscounted(*given, moved=lambda x, w, y: math.prod(x) + math.prod(w))


@conv_floor.wrong("The FLOPs are right. The weights have to be read from memory, too.")
def weights_not_read(*given):
    return miscounted(*given, moved=lambda x, w, y: math.prod(x) + math.prod(y))


@conv_floor.wrong("The FLOPs are right. The input has to be read from memory, too.")
def input_not_read(*given):
    return miscounted(*given, moved=lambda x, w, y: math.prod(w) + math.prod(y))


@conv_floor.wrong(
    "The FLOPs are right. You read the weights again for every picture; each number moves once, "
    "and that is what makes large batches cheap."
)
def weights_per_picture(*given):
    return miscounted(*given, moved=lambda x, w, y: numbers(x, w, y) + (x[0] - 1) * math.prod(w))


@conv_floor.wrong("The FLOPs are right. You move one picture and its result; a batch has B.")
def traffic_of_one_picture(*given):
    return miscounted(*given, moved=lambda x, w, y: numbers(x[1:], w, y[1:]))


@conv_floor.wrong("The FLOPs are right. You read one picture; a batch has B.")
def one_picture_read(*given):
    return miscounted(*given, moved=lambda x, w, y: numbers(x[1:], w, y))


@conv_floor.wrong("The FLOPs are right. You write one picture's result; a batch has B.")
def one_result_written(*given):
    return miscounted(*given, moved=lambda x, w, y: numbers(x, w, y[1:]))


@conv_floor.wrong("B is missing everywhere: this is all for one picture.")
def all_of_one_picture(*given):
    (_, *picture), *others = given
    return counted((1, *picture), *others)


@conv_floor.wrong("The FLOPs are right. You read the weights of one output channel; there are C′.")
def one_kernel_read(*given):
    return miscounted(*given, moved=lambda x, w, y: numbers(x, w[1:], y))


@conv_floor.wrong("The FLOPs are right. The traffic is in bits: `number_bytes` counts bytes.")
def in_bits(*given):
    return miscounted(*given, moved=lambda x, w, y: 8 * numbers(x, w, y))


@conv_floor.wrong(
    "The FLOPs are right. The traffic is a count of numbers: each has `number_bytes` bytes."
)
def numbers_not_bytes(*given):
    *layer, _, pi, beta = given
    return counted(*layer, 1, pi, beta)


@conv_floor.wrong(
    "Both counts are right. Arithmetic and memory work at the same time: the floor is the larger "
    "of their times, not the sum."
)
def one_after_the_other(*given):
    flops, traffic, _ = counted(*given)
    return flops, traffic, flops / given[-2] + traffic / given[-1]


@conv_floor.wrong(
    "Both counts are right. You take the smaller time: a layer has to wait for the slower of the "
    "two."
)
def smaller_time(*given):
    flops, traffic, _ = counted(*given)
    return flops, traffic, min(flops / given[-2], traffic / given[-1])


@conv_floor.wrong("Both counts are right. `pi` belongs to the FLOPs, `beta` to the bytes.")
def rates_swapped(*given):
    flops, traffic, _ = counted(*given)
    return flops, traffic, max(flops / given[-1], traffic / given[-2])


@conv_floor.wrong("Both counts are right. This is the time of the traffic, whatever is computed.")
def traffic_only(*given):
    flops, traffic, _ = counted(*given)
    return flops, traffic, traffic / given[-1]


@conv_floor.wrong("Both counts are right. A count divided by its rate is a time; you multiply.")
def counts_times_rates(*given):
    flops, traffic, _ = counted(*given)
    return flops, traffic, max(flops * given[-2], traffic * given[-1])


@conv_floor.wrong("Both counts are right. Your time is upside down: the count goes above the rate.")
def rates_above(*given):
    flops, traffic, _ = counted(*given)
    return flops, traffic, max(given[-2] / flops, given[-1] / traffic)


@conv_floor.wrong("FLOPs come first, then bytes: yours are exchanged.")
def bytes_first(*given):
    flops, traffic, seconds = counted(*given)
    return traffic, flops, seconds


@conv_floor.wrong("Both counts are right. This is the time of the arithmetic, whatever is moved.")
def arithmetic_only(*given):
    flops, traffic, _ = counted(*given)
    return flops, traffic, flops / given[-2]


@conv_floor.wrong("The bytes come second, the floor last: yours are exchanged.")
def seconds_second(*given):
    flops, traffic, seconds = counted(*given)
    return flops, seconds, traffic


@conv_floor.wrong("x_shape comes first, w_shape second: you read them the other way round.")
def shapes_exchanged(*given):
    x_shape, w_shape, *others = given
    return counted(w_shape, x_shape, *others)


# --- 14.3 -----------------------------------------------------------------------------------------

float16_step = Exercise(
    "float16_step",
    level="core",
    minutes=30,
    tests="ordinary and tiny gradients, large ones that just fit, some that overflow to inf or "
    "−inf, in one tensor only, and nan; scales from 1 on.",
    hint="Three precisions meet: float16 weights, float32 gradients, and who adds what to whom?",
    dtype=True,
    rtol=2e-5,
)


@float16_step.cases
def losses(rng):
    """Linear models with two inputs; `size` makes gradients small, `reach` the second's large.

    A reach below 0 makes them overflow to −inf, in the first tensor.
    """
    found = []
    for batch, widths, size, reach, scale in [
        (4, (3, 5), 1.0, 1.0, 128.0),  # nothing special
        (3, (6, 4), 1e-6, 1.0, 2.0**18),  # underflows without a scale
        (1, (9, 3), 3e-7, 1.0, 2.0**16),
        (1, (4, 3), 1.0, 2.0**12, 512.0),  # inf in the second tensor
        (2, (3, 4), 1.0, 2.0**12, 512.0),  # inf - inf = nan there
        (1, (4, 3), 1.0, -(2.0**12), 1.0),  # -inf in the first, with a scale that is small already
        (2, (3, 2), 1.0, 1.0, 2.0**20),  # everything overflows
        (1, (8, 7), 1.0, 1.0, None),  # all just below the largest float16, their sum beyond it
    ]:
        x = [normals(rng, batch, n, dtype=torch.float32) for n in widths]
        signs = torch.tensor([1.0, -1.0]).repeat(batch)[:batch, None]
        if abs(reach) > 1:  # rows that are each other's opposite, far from 0 in every place
            x[0] = x[0] / 8
            x[1] = signs * reach * (0.5 + x[1][:1].abs())
            x[1][:, len(found) - 3] = 0.25  # one place stays finite, each time another
        weights = [normals(rng, n, dtype=torch.float32) for n in widths]
        if abs(reach) > 1:
            weights[1] = weights[1] / reach
        y = normals(rng, batch, dtype=torch.float32) - 30  # far below: all errors are positive
        if scale is None:
            x = [1 + v.abs().clamp(max=2) / 20 for v in x]
            error = sum((v * w).sum() for v, w in zip(x, weights, strict=True)) - y
            scale = 2.0 ** math.floor(math.log2(60_000 / (2.2 * error.item())))
        if reach < 0:
            x, weights = x[::-1], weights[::-1]
        found.append({"weights": weights, "x": [v.half() for v in x], "y": y, "size": size,
                      "scale": scale, "lr": 0.05 / size / abs(reach)})
    return found


def scaled(
    weights, loss_of, scale, lr, *, by=None, dtype=torch.float16, unscale=None, start=None,
):
    """New weights, and whether all gradients were finite; the options are what can go wrong."""
    low = [w.detach().to(dtype).requires_grad_() for w in weights]
    found = torch.autograd.grad(loss_of(low) * (scale if by is None else by), low)
    unscale = unscale or (lambda g: g.float() / scale)
    found = [unscale(g) for g in found]
    start = start or (lambda w: w)
    new = [start(w) - lr * g for w, g in zip(weights, found, strict=True)]
    return new, found, all(g.isfinite().all() for g in found)


def kept_or_taken(weights, new, good, scale):
    return (new, scale) if good else ([w.clone() for w in weights], scale / 2)


@float16_step.reference
def with_a_scale(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr)
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong(
    "Nothing is scaled while the gradients are computed: those below 6·10⁻⁸ are 0 by then, and no "
    "factor brings them back. The *loss* is multiplied, before the backward pass."
)
def too_late(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr, by=1, unscale=lambda g: g.float())
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong(
    "The gradients are `scale` times too large: divide by it before the weights move."
)
def not_unscaled(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr, unscale=lambda g: g.float())
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong(
    "You divide by the scale while the gradients are still float16: the small ones become 0 again. "
    "First `float()`, then divide."
)
def unscaled_in_half(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr, unscale=lambda g: (g / scale).float())
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong(
    "A gradient of inf or nan is taken as a step, and the weights are lost for good. Look before "
    "you step."
)
def stepped_anyway(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr)
    return new, scale if good else scale / 2


@float16_step.wrong(
    "Nobody looks at the gradients. The loss may be finite and they not: float16 overflows on the "
    "way back."
)
def gradients_not_looked_at(weights, loss_of, scale, lr):
    return scaled(weights, loss_of, scale, lr)[0], scale


@float16_step.wrong(
    "You ask whether the gradients' sum or norm is finite, and take it in float16: it overflows "
    "where each gradient is in range. Ask for each number."
)
def norm_looked_at(weights, loss_of, scale, lr):
    new, found, _ = scaled(weights, loss_of, scale, lr)
    return kept_or_taken(weights, new, all((scale * g).norm() < 65_504 for g in found), scale)


@float16_step.wrong("You *divide* the loss by the scale: that makes small gradients smaller still.")
def loss_divided(weights, loss_of, scale, lr):
    options = {"by": 1 / scale, "unscale": lambda g: g.float() * scale}
    new, _, good = scaled(weights, loss_of, scale, lr, **options)
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong("The weights are right. After a step that is taken the scale stays as it is.")
def scale_grows(weights, loss_of, scale, lr):
    new, after = with_a_scale(weights, loss_of, scale, lr)
    return new, 2 * scale if after == scale else after


@float16_step.wrong("The weights are right. The scale is halved after a *skipped* step alone.")
def always_halved(weights, loss_of, scale, lr):
    return with_a_scale(weights, loss_of, scale, lr)[0], scale / 2


@float16_step.wrong(
    "The step itself is taken in float16: what is smaller than 2⁻¹¹ of a weight gets lost. The "
    "float32 weights are the ones that move."
)
def step_in_half(weights, loss_of, scale, lr):
    new, after = with_a_scale(weights, loss_of, scale, lr)
    steps = [(b - a).half() for a, b in zip(weights, new, strict=True)]
    return [(a.half() + s).float() for a, s in zip(weights, steps, strict=True)], after


@float16_step.wrong("You divide by the scale, but the loss was never multiplied by it.")
def only_divided(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr, by=1)
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong("You multiply by the scale twice: the gradients have to be *divided* by it.")
def multiplied_again(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr, unscale=lambda g: g.float() * scale)
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong(
    "Scale and rate meet the gradients while they are float16, and the small ones become 0 again. "
    "First `float()`."
)
def all_in_half(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr, unscale=lambda g: g / scale)
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong("Your question is turned round: it skips finite steps and takes the others.")
def question_turned(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr)
    return kept_or_taken(weights, new, not good, scale)


@float16_step.wrong("The gradient is divided by the scale twice: once is enough.")
def unscaled_twice(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr, unscale=lambda g: g.float() / scale**2)
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong("The rate is missing: the step is η times the gradient.")
def rate_missing(weights, loss_of, scale, lr):
    return with_a_scale(weights, loss_of, scale, 1.0)


@float16_step.wrong("You look for nan only: an overflow is inf at first. `isfinite` sees both.")
def only_nan_seen(weights, loss_of, scale, lr):
    new, found, _ = scaled(weights, loss_of, scale, lr)
    return kept_or_taken(weights, new, not any(g.isnan().any() for g in found), scale)


@float16_step.wrong("You look for inf only: inf − inf is nan. `isfinite` sees both.")
def only_inf_seen(weights, loss_of, scale, lr):
    new, found, _ = scaled(weights, loss_of, scale, lr)
    return kept_or_taken(weights, new, not any(g.isinf().any() for g in found), scale)


@float16_step.wrong(
    "You look at the first tensor alone; one number that isn't finite in *any* of them is enough."
)
def first_tensor_alone(weights, loss_of, scale, lr):
    new, found, _ = scaled(weights, loss_of, scale, lr)
    return kept_or_taken(weights, new, found[0].isfinite().all(), scale)


@float16_step.wrong(
    "You look at one number of each tensor, say the first or the smallest; ask for every one: "
    "`.all()`."
)
def first_numbers_alone(weights, loss_of, scale, lr):
    new, found, _ = scaled(weights, loss_of, scale, lr)
    return kept_or_taken(weights, new, all(g[0].isfinite() for g in found), scale)


@float16_step.wrong("`any` is content with one finite number; all of them must be: `.all()`.")
def any_for_all(weights, loss_of, scale, lr):
    new, found, _ = scaled(weights, loss_of, scale, lr)
    return kept_or_taken(weights, new, all(g.isfinite().any() for g in found), scale)


@float16_step.wrong(
    "Gradients that aren't finite become 0, and the rest of the step is taken: a step in a "
    "direction that is not the gradient's. Skip the whole step."
)
def zeroed(weights, loss_of, scale, lr):
    _, found, good = scaled(weights, loss_of, scale, lr)
    new = [w - lr * torch.where(g.isfinite(), g, 0) for w, g in zip(weights, found, strict=True)]
    return new, scale if good else scale / 2


@float16_step.wrong(
    "Only the tensor that overflowed is skipped; the others move. A step is one for all weights: "
    "skip it, or take it."
)
def tensor_by_tensor(weights, loss_of, scale, lr):
    new, found, good = scaled(weights, loss_of, scale, lr)
    pairs = zip(weights, new, found, strict=True)
    return [b if g.isfinite().all() else a for a, b, g in pairs], scale if good else scale / 2


@float16_step.wrong(
    "The weights are right. After a skipped step the scale stays as it was: the next step would "
    "overflow again, and so for ever. Halve it."
)
def scale_kept(weights, loss_of, scale, lr):
    return with_a_scale(weights, loss_of, scale, lr)[0], scale


@float16_step.wrong("The weights are right. After an overflow the scale must become *smaller*.")
def scale_doubled(weights, loss_of, scale, lr):
    new, lower = with_a_scale(weights, loss_of, scale, lr)
    return new, scale if lower == scale else 2 * scale


@float16_step.wrong(
    "The new weights start from the rounded ones. float16 has steps of 2⁻¹¹ of a weight: whatever "
    "is smaller gets lost. The float32 weights are the ones that move."
)
def rounded_weights(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr, start=lambda w: w.half().float())
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong(
    "You give `loss_of` the float32 weights, so nothing is computed in float16, and nothing gets "
    "faster. It wants copies: `w.half()`."
)
def never_in_half(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, lr, dtype=torch.float32)
    return kept_or_taken(weights, new, good, scale)


@float16_step.wrong("The step goes uphill: the rate times the gradient is taken *off* the weights.")
def uphill(weights, loss_of, scale, lr):
    new, _, good = scaled(weights, loss_of, scale, -lr)
    return kept_or_taken(weights, new, good, scale)


# --- 14.4 -----------------------------------------------------------------------------------------

rank_rows = Exercise(
    "rank_rows",
    level="warm-up",
    minutes=10,
    tests="all ranks together, step by step, for 1 to 5 processes, also where N doesn't divide B "
    "or is larger.",
    hint="First the rows of the global batch, as one process would take them; then cut those.",
)


@rank_rows.cases
def orders(rng):
    found = []
    for pictures, epochs, steps, batch_size, world in [
        (24, 2, [0, 1, 5], 8, 2), (10, 3, [0, 3, 4], 6, 1), (31, 2, [0, 2, 3], 12, 4),
        (21, 2, [0, 2, 5], 7, 3), (9, 4, [1, 3], 5, 5), (40, 1, [0, 1], 19, 4),
        (8, 2, [0, 3], 3, 4),
    ]:
        order = torch.cat([torch.randperm(pictures, generator=rng) for _ in range(epochs)])
        found.append({"order": order, "steps": steps, "batch_size": batch_size, "world": world})
    return found


@rank_rows.reference
def cut_the_batch(order, step, batch_size, rank, world):
    return order[step * batch_size : (step + 1) * batch_size].tensor_split(world)[rank]


@rank_rows.wrong(
    "Every rank gets the whole batch: N processes compute the same gradient, and nothing is gained."
)
def whole_batch(order, step, batch_size, rank, world):
    return order[step * batch_size : (step + 1) * batch_size]


@rank_rows.wrong(
    "Each rank takes `batch_size` pictures, so a step uses N times as many: another training, and "
    "one that needs another learning rate. `batch_size` is that of all ranks together."
)
def batch_of_its_own(order, step, batch_size, rank, world):
    at = (step * world + rank) * batch_size
    return order[at : at + batch_size]


@rank_rows.wrong(
    "Each rank goes through its own part of the epoch. Every picture is used once, but no step is "
    "the one that a single process would make: cut the *batch*, not the epoch."
)
def own_part_of_the_epoch(order, step, batch_size, rank, world):
    mine, each = order.tensor_split(world)[rank], batch_size // world
    extra = rank < batch_size % world
    return mine[step * each : step * each + each + extra]


@rank_rows.wrong(
    "Every N-th of the whole order, cut into batches of B // N: right where N divides B; where it "
    "doesn't, the steps fall behind those of one process."
)
def every_wth_of_the_order(order, step, batch_size, rank, world):
    each = batch_size // world
    return order[rank::world][step * each : (step + 1) * each]


@rank_rows.wrong("Ranks count from 0: your first rank takes the second part.")
def counted_from_one(order, step, batch_size, rank, world):
    batch, each = whole_batch(order, step, batch_size, rank, world), -(-batch_size // world)
    return batch[(rank + 1) * each : (rank + 2) * each]


@rank_rows.wrong(
    "Where N doesn't divide B, the last pictures of the batch are used by nobody, so the batch is "
    "not that of one process."
)
def remainder_lost(order, step, batch_size, rank, world):
    batch, each = whole_batch(order, step, batch_size, rank, world), batch_size // world
    return batch[rank * each : (rank + 1) * each]


@rank_rows.wrong(
    "All pictures are used. But one rank takes all that is left over, and the others wait for it: "
    "sizes should differ by one at most."
)
def last_takes_the_rest(order, step, batch_size, rank, world):
    batch, each = whole_batch(order, step, batch_size, rank, world), batch_size // world
    return batch[rank * each : None if rank == world - 1 else (rank + 1) * each]


@rank_rows.wrong(
    "All pictures are used. But sizes are rounded up, so the last rank gets too few of them, or "
    "none: sizes should differ by one at most."
)
def rounded_up(order, step, batch_size, rank, world):
    batch, each = whole_batch(order, step, batch_size, rank, world), -(-batch_size // world)
    return batch[rank * each : (rank + 1) * each]


@rank_rows.wrong("A step moves on by a whole batch: it begins at step · batch_size, not at step.")
def one_picture_further(order, step, batch_size, rank, world):
    return order[step : step + batch_size].tensor_split(world)[rank]


@rank_rows.wrong("These are places in `order`; asked for are the numbers that stand there.")
def places_in_order(order, step, batch_size, rank, world):
    return cut_the_batch(torch.arange(len(order)), step, batch_size, rank, world)


@rank_rows.wrong("Steps count from 0: yours takes the batch of the next step.")
def next_step(order, step, batch_size, rank, world):
    return cut_the_batch(order, step + 1, batch_size, rank, world)


@rank_rows.wrong("The slice ends one row too late: its end isn't taken along.")
def one_row_more(order, step, batch_size, rank, world):
    return order[step * batch_size : (step + 1) * batch_size + 1].tensor_split(world)[rank]


@rank_rows.wrong("The slice ends one row too early: its end isn't taken along anyway.")
def one_row_less(order, step, batch_size, rank, world):
    return order[step * batch_size : (step + 1) * batch_size - 1].tensor_split(world)[rank]


@rank_rows.wrong(
    "`batch_size` rows from the rank on: the ranks' parts overlap, and pictures are used twice."
)
def overlapping(order, step, batch_size, rank, world):
    start = step * batch_size + rank * (batch_size // world)
    return order[start : start + batch_size]


@rank_rows.wrong("The step is ignored: every step trains on the first batch.")
def first_batch_only(order, step, batch_size, rank, world):
    return cut_the_batch(order, 0, batch_size, rank, world)


# --- 14.5 -----------------------------------------------------------------------------------------

global_batch_norm = Exercise(
    "global_batch_norm",
    level="stretch",
    minutes=35,
    tests="1 to 4 ranks with unequal shares, means far from 0, and gradients through all ranks.",
    hint="What does a rank have to hear from the others? Sums, and of how many numbers.",
    gradient=("x",),
    atol=1e-3,  # what float32 keeps of a number near 4,096, a few times over
)


@global_batch_norm.cases
def shares(rng):
    found = []
    for sizes, channels, sides, eps in [
        ([3, 1, 2], 3, (2, 3), 1e-5), ([2, 2], 1, (1, 1), 1e-5), ([4], 2, (3, 1), 0.1),
        ([1, 4], 2, (2, 2), 0.5), ([1, 1, 1, 2], 4, (1, 3), 1e-5),
    ]:
        x = normals(rng, sum(sizes), channels, *sides)
        moved = x * 2 + torch.arange(len(x), dtype=x.dtype)[:, None, None, None]  # ranks differ
        found.append({"x": moved, "sizes": sizes, "eps": eps})
    # Multiples of 1/16 around 4,096: in float32 their sums are exact, those of their squares not.
    far = 4096 + (16 * normals(rng, 4, 2, 2, 2)).round().clamp(-64, 64) / 16
    found.append({"x": far.float(), "sizes": [2, 1, 1], "eps": 1e-3})
    constant = torch.full((3, 2, 1, 2), 0.5)
    return [*found, {"x": constant, "sizes": [1, 2], "eps": 1e-5}]


def per_channel(values):
    return values[:, None, None]


def normalised(
    x, eps, *, weigh=True, together=True, correction=0, squares=False, eps_outside=False,
    detached=False, rooted=True, mean_divided=True, var_divided=True,
):
    """A rank's program; the options are what can go wrong in it."""
    n = x.numel() // x.shape[1] if weigh else 1
    total = yield torch.tensor(float(n), dtype=x.dtype)
    mean = (yield n * x.mean((0, 2, 3))) / (total if mean_divided else 1)
    if squares:
        var = (yield n * x.square().mean((0, 2, 3))) / total - mean.square()
    else:
        centre = mean if together else x.mean((0, 2, 3))
        apart = (x - per_channel(centre)).square().mean((0, 2, 3))
        var = (yield n * apart) / (total - correction if var_divided else 1)
    if detached:
        mean, var = mean.detach(), var.detach()
    root = var.sqrt() + eps if eps_outside else (var + eps).sqrt() if rooted else var + eps
    return (x - per_channel(mean)) / per_channel(root)


@global_batch_norm.reference
def as_one_process(x, eps):
    return (yield from normalised(x, eps))


@global_batch_norm.wrong(
    "Each rank uses the mean and the variance of its own pictures: nothing has been exchanged, and "
    "with few pictures a rank the statistics are noise."
)
def each_rank_alone(x, eps):
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    return (x - per_channel(mean)) / per_channel(var + eps).sqrt()


@global_batch_norm.wrong(
    "The mean is right. The variance is the mean of the ranks' variances, each around the rank's "
    "own mean: how far these means lie *apart* is missing."
)
def mean_of_variances(x, eps):
    return (yield from normalised(x, eps, together=False))


@global_batch_norm.wrong(
    "Every rank counts the same, though their shares differ in size: exchange sums and counts, not "
    "means."
)
def ranks_weigh_alike(x, eps):
    return (yield from normalised(x, eps, weigh=False))


@global_batch_norm.wrong(
    "Every rank counts the same, though their shares differ in size, and the variances are around "
    "the ranks' own means: exchange sums and counts, not averages."
)
def averages_of_averages(x, eps):
    return (yield from normalised(x, eps, weigh=False, together=False))


@global_batch_norm.wrong(
    "You divide the sum of squares by n − 1. That is the variance for the running average; the "
    "batch itself is normalised with the biased one, by n."
)
def unbiased(x, eps):
    return (yield from normalised(x, eps, correction=1))


@global_batch_norm.wrong(
    "Near 0 all is right. Far from it, E[x²] − E[x]² is a small difference of large numbers, and "
    "float32 has lost it: take the mean off first, then square. It costs a second exchange."
)
def squares_minus_square(x, eps):
    return (yield from normalised(x, eps, squares=True))


@global_batch_norm.wrong("ε stands under the root, with the variance: √(σ² + ε), not σ + ε.")
def eps_outside(x, eps):
    return (yield from normalised(x, eps, eps_outside=True))


@global_batch_norm.wrong(
    "The values are right. But the statistics are cut off from the graph, so the gradient doesn't "
    "know that every picture moves them, on every rank."
)
def statistics_detached(x, eps):
    return (yield from normalised(x, eps, detached=True))


@global_batch_norm.wrong(
    "Only the mean is exchanged (or both are, and one of them unused): the variance is each rank's "
    "own, around its own mean."
)
def own_variance(x, eps):
    n = x.numel() / x.shape[1]
    mean = (yield x.sum((0, 2, 3))) / (yield n)
    var = x.var((0, 2, 3), correction=0)
    return (x - per_channel(mean)) / per_channel(var + eps).sqrt()


@global_batch_norm.wrong(
    "Each place of the picture has statistics of its own: a channel's are over *all* its places."
)
def place_by_place(x, eps):
    n = float(len(x))
    total = yield n
    mean = (yield x.sum(0)) / total
    var = (yield (x - mean).square().sum(0)) / total
    return (x - mean) / (var + eps).sqrt()


@global_batch_norm.wrong(
    "The sums are divided by the number of pictures; a channel has H·W numbers in each of them."
)
def pictures_counted(x, eps):
    total = yield float(len(x))
    mean = (yield x.sum((0, 2, 3))) / total
    apart = x - per_channel(mean)
    var = (yield apart.square().sum((0, 2, 3))) / total
    return apart / per_channel(var + eps).sqrt()


@global_batch_norm.wrong("You divide by the variance; it is its root, √(σ² + ε).")
def root_missing(x, eps):
    return (yield from normalised(x, eps, rooted=False))


@global_batch_norm.wrong("ε is missing: where a channel is constant you divide 0 by 0.")
def eps_missing(x, eps):
    return (yield from normalised(x, 0.0))


@global_batch_norm.wrong(
    "The variance is that of all ranks, but each rank takes off its own mean: take off the common "
    "one."
)
def own_mean_taken_off(x, eps):
    y = yield from normalised(x, eps)
    return y - per_channel(y.mean((0, 2, 3)))


@global_batch_norm.wrong("The mean isn't taken off: y = (x − μ) / √(σ² + ε).")
def mean_stays(x, eps):
    n = x.numel() / x.shape[1]
    mean = (yield x.sum((0, 2, 3))) / (yield n)
    var = (yield (x - per_channel(mean)).square().sum((0, 2, 3))) / (yield n)
    return x / per_channel(var + eps).sqrt()


@global_batch_norm.wrong("The channels are mixed: each has a mean and a variance of its own.")
def channels_together(x, eps):
    total = yield x.numel()
    mean = (yield x.sum()) / total
    var = (yield (x - mean).square().sum()) / total
    return (x - mean) / (var + eps).sqrt()


@global_batch_norm.wrong("Each picture is normalised by itself; a channel has the numbers of all.")
def picture_by_picture(x, eps):
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / (x.var((2, 3), correction=0, keepdim=True) + eps).sqrt()


@global_batch_norm.wrong("Only the mean is taken off; then divide by √(σ² + ε).")
def not_divided(x, eps):
    n = x.numel() / x.shape[1]
    mean = (yield x.sum((0, 2, 3))) / (yield n)
    return x - per_channel(mean)


@global_batch_norm.wrong("`yield` gives back a *sum*: your mean is still to be divided.")
def mean_is_a_sum(x, eps):
    return (yield from normalised(x, eps, mean_divided=False))


@global_batch_norm.wrong("`yield` gives back a *sum*: your variance is still to be divided.")
def variance_is_a_sum(x, eps):
    return (yield from normalised(x, eps, var_divided=False))


@global_batch_norm.wrong("The sign is turned: y = (x − μ) / √(σ² + ε), and not (μ − x).")
def sign_turned(x, eps):
    y = yield from normalised(x, eps)
    return -y


@global_batch_norm.wrong("The squares are taken around 0; the variance is around the mean.")
def around_zero(x, eps):
    n = x.numel() / x.shape[1]
    total = yield n
    mean = (yield x.sum((0, 2, 3))) / total
    var = (yield x.square().sum((0, 2, 3))) / total
    return (x - per_channel(mean)) / per_channel(var + eps).sqrt()
