"""Chapter 03: the exercises on convolutions, their references, and the mistakes people make."""

import torch
from torch.nn import functional as F

from gencourse.checks import drivers
from gencourse.checks.core import Exercise, draw_seed, normals

STEM = "03_convolutions"


# --- 3.1 ------------------------------------------------------------------------------------------

receptive_field = Exercise(
    "receptive_field",
    level="warm-up",
    minutes=10,
    tests="stacks of up to twelve layers with strides and dilations, and no layer at all.",
    hint="A layer looks at k units that are d·j pixels apart: the field grows by (k − 1)·d·j.",
)


@receptive_field.cases
def stacks(rng):
    def drawn(low, high):
        return int(torch.randint(low, high, (), generator=rng))

    random = [(drawn(2, 5), drawn(1, 3), drawn(1, 4)) for _ in range(drawn(3, 7))]
    fixed = [(3, 2, 1), (3, 2, 2), (3, 1, 2)]
    blocks = [(3, 1, 1), (2, 2, 1)] * 3
    deep = [(drawn(1, 8), drawn(1, 5), drawn(1, 6)) for _ in range(12)]
    single = [(3, 1, 4)], [(1, 2, 3)], [(4, 3, 2)]
    return [{"layers": x} for x in (fixed, random, blocks, deep, *single, [])]


@receptive_field.reference
def field_and_jump(layers):
    field = jump = 1
    for kernel, stride, dilation in layers:
        field, jump = field + (kernel - 1) * dilation * jump, jump * stride
    return field, jump


@receptive_field.wrong("The dilation is left out: k taps that are d apart span (k − 1)·d + 1.")
def dilation_ignored(layers):
    return field_and_jump([(k, s, 1) for k, s, _ in layers])


@receptive_field.wrong(
    "A dilated kernel does not span k·d units but (k − 1)·d + 1: gaps lie only *between* taps."
)
def gap_after_the_last_tap(layers):
    field = jump = 1
    for kernel, stride, dilation in layers:
        field, jump = field + (kernel * dilation - 1) * jump, jump * stride
    return field, jump


@receptive_field.wrong(
    "A layer's own stride must not widen its own field: first the field grows, then the jump."
)
def jump_first(layers):
    field = jump = 1
    for kernel, stride, dilation in layers:
        jump = jump * stride
        field = field + (kernel - 1) * dilation * jump
    return field, jump


@receptive_field.wrong(
    "The field grows by (k − 1)·d *units of that layer's input*; each of them is `jump` wide."
)
def jump_forgotten(layers):
    field, jump = 1, field_and_jump(layers)[1]
    for kernel, _, dilation in layers:
        field = field + (kernel - 1) * dilation
    return field, jump


@receptive_field.wrong(
    "Dilation spreads the taps, not the outputs: the jump is multiplied by the stride alone."
)
def jump_takes_dilation(layers):
    field = jump = 1
    for kernel, stride, dilation in layers:
        field, jump = field + (kernel - 1) * dilation * jump, jump * stride * dilation
    return field, jump


@receptive_field.wrong("You return (jump, field); asked for is (field, jump).")
def other_order(layers):
    return field_and_jump(layers)[::-1]


@receptive_field.wrong(
    "Without any layer a unit is one pixel: the field begins with 1, and it grows from there."
)
def begins_with_0(layers):
    field, jump = field_and_jump(layers)
    return field - 1, jump


@receptive_field.wrong(
    "k taps span (k − 1)·d + 1 units, and the 1 is there already: the field grows by (k − 1)·d·j."
)
def one_more_each(layers):
    field = jump = 1
    for kernel, stride, dilation in layers:
        field, jump = field + kernel * dilation * jump, jump * stride
    return field, jump


@receptive_field.wrong("Strides multiply: after two layers of stride 2 the jump is 4.")
def jumps_added(layers):
    field = jump = 1
    for kernel, stride, dilation in layers:
        field, jump = field + (kernel - 1) * dilation * jump, jump + stride - 1
    return field, jump


@receptive_field.wrong("The jump is the product of *all* strides so far; yours is one layer's.")
def one_stride(layers):
    field = jump = 1
    for kernel, stride, dilation in layers:
        field, jump = field + (kernel - 1) * dilation * jump, stride
    return field, jump


@receptive_field.wrong("The jump stays 1: each layer multiplies it by its stride.")
def jump_stays(layers):
    return 1 + sum((k - 1) * d for k, _, d in layers), 1


@receptive_field.wrong("The stride of the last layer counts for the jump, too.")
def last_stride_forgotten(layers):
    return field_and_jump(layers)[0], field_and_jump(layers[:-1])[1]


@receptive_field.wrong("Yours walks from the last layer to the first: the first layer sees pixels.")
def backwards(layers):
    return field_and_jump(layers[::-1])


# --- 3.2 ------------------------------------------------------------------------------------------

conv2d = Exercise(
    "conv2d",
    level="core",
    minutes=25,
    tests="several channels, oblong pictures and kernels, strides larger than the kernel, padding; "
    "gradients in both.",
    hint="All windows by `unfold`, then a sum over channel, row and column of the window.",
    gradient=("x", "w"),
)


@conv2d.cases
def pictures_and_kernels(rng):
    sizes = [
        ((2, 3, 7, 6), (4, 3, 3, 3), 1, 0),
        ((2, 2, 8, 7), (2, 2, 3, 3), 2, 1),
        ((3, 2, 6, 9), (3, 2, 2, 4), 3, 2),
        ((1, 2, 4, 4), (2, 2, 1, 1), 1, 0),
        ((1, 1, 3, 5), (2, 1, 3, 5), 1, 0),
        ((2, 3, 5, 5), (2, 3, 2, 2), 2, 1),
        ((1, 2, 7, 4), (1, 2, 1, 2), 3, 0),
    ]
    return [{"x": normals(rng, *x), "w": normals(rng, *w), "stride": s, "padding": p}
            for x, w, s, p in sizes]


@conv2d.reference
def windows(x, w, stride, padding):
    return F.conv2d(x, w, stride=stride, padding=padding)


@conv2d.wrong("The kernel is turned by 180°: here a convolution lays it on the picture as it is.")
def turned(x, w, stride, padding):
    return windows(x, w.flip(2, 3), stride, padding)


@conv2d.wrong("Rows and columns of the kernel are exchanged; with oblong kernels it fails.")
def kernel_transposed(x, w, stride, padding):
    return windows(x, w.transpose(2, 3), stride, padding)


@conv2d.wrong("You average over the input channels; their maps are added up.")
def mean_over_channels(x, w, stride, padding):
    return windows(x, w, stride, padding) / x.shape[1]


@conv2d.wrong("Each input channel has a kernel of its own, w[o, c]; you use w[o, 0] for all.")
def one_kernel_for_all(x, w, stride, padding):
    return windows(x, w[:, :1].expand_as(w), stride, padding)


@conv2d.wrong("w is (O, C, K, L), output channels first; you read it as (C, O, K, L).")
def channels_exchanged(x, w, stride, padding):
    return windows(x, w.transpose(0, 1), stride, padding)


@conv2d.wrong("The stride does nothing: the window moves by one pixel at a time.")
def stride_ignored(x, w, stride, padding):
    return windows(x, w, 1, padding)


@conv2d.wrong("The padding is missing: p rows and columns of zeros on *each* side.")
def padding_ignored(x, w, stride, padding):
    return windows(x, w, stride, 0)


@conv2d.wrong(
    "The padding lies on one side only: p rows above *and* below, columns left *and* right."
)
def padded_on_one_side(x, w, stride, padding):
    return windows(F.pad(x, (0, padding, 0, padding)), w, stride, 0)


@conv2d.wrong("You average over the window; the products are added up.")
def mean_over_window(x, w, stride, padding):
    return windows(x, w, stride, padding) / w[0, 0].numel()


@conv2d.wrong("You average over the window and the channels; the products are added up.")
def mean_over_all(x, w, stride, padding):
    return windows(x, w, stride, padding) / w[0].numel()


@conv2d.wrong("All pictures of the batch are added up: each has its own maps.")
def batch_added_up(x, w, stride, padding):
    return windows(x, w, stride, padding).sum(0, keepdim=True).expand(len(x), -1, -1, -1)


@conv2d.wrong("The padding repeats the border's pixels; here it is zeros.")
def border_repeated(x, w, stride, padding):
    return windows(F.pad(x, (padding,) * 4, mode="replicate"), w, stride, 0)


# --- 3.3 ------------------------------------------------------------------------------------------

transposed_conv2d = Exercise(
    "transposed_conv2d",
    level="core",
    minutes=25,
    tests="overlaps, gaps, oblong kernels and maps, several channels, padding, one pixel.",
    hint="Paint: each input pixel adds its kernel, scaled, at s times its place; then crop p.",
    gradient=("y", "w"),
)


@transposed_conv2d.cases
def maps_and_brushes(rng):
    sizes = [
        ((2, 3, 4, 3), (3, 2, 4, 4), 2, 1),
        ((1, 2, 3, 5), (2, 2, 3, 3), 2, 0),
        ((2, 2, 3, 3), (2, 2, 2, 3), 1, 0),
        ((1, 1, 2, 3), (1, 2, 2, 2), 3, 0),
        ((1, 1, 1, 1), (1, 1, 3, 3), 2, 1),
        ((3, 2, 2, 5), (2, 3, 5, 4), 2, 1),
        ((2, 2, 2, 2), (2, 2, 6, 5), 1, 2),
    ]
    return [{"y": normals(rng, *y), "w": normals(rng, *w), "stride": s, "padding": p}
            for y, w, s, p in sizes]


@transposed_conv2d.reference
def painted(y, w, stride, padding):
    return F.conv_transpose2d(y, w, stride=stride, padding=padding)


@transposed_conv2d.wrong(
    "The kernel is turned by 180°. Who puts zeros between the pixels and then convolves must turn "
    "it; who paints must not."
)
def brush_turned(y, w, stride, padding):
    return painted(y, w.flip(2, 3), stride, padding)


@transposed_conv2d.wrong("Where brushes overlap the later one covers the earlier: they add up.")
def covered(y, w, stride, padding):
    (b, _, h, v), (_, o, k, m) = y.shape, w.shape
    x = y.new_zeros(b, o, (h - 1) * stride + k, (v - 1) * stride + m)
    for i in range(h):
        for j in range(v):
            stamp = torch.einsum("bc,cokl->bokl", y[:, :, i, j], w)
            x[:, :, i * stride : i * stride + k, j * stride : j * stride + m] = stamp
    return x[:, :, padding : x.shape[2] - padding, padding : x.shape[3] - padding]


@transposed_conv2d.wrong(
    "Here w is (C, O, K, L), input channels first, the other way round than for a convolution."
)
def weights_exchanged(y, w, stride, padding):
    return painted(y, w.transpose(0, 1), stride, padding)


@transposed_conv2d.wrong(
    "The padding is not applied: on the way back it takes p rows and columns *off* each side."
)
def not_cropped(y, w, stride, padding):
    return painted(y, w, stride, 0)


@transposed_conv2d.wrong("Padding makes the result smaller here; yours grows by it.")
def grown(y, w, stride, padding):
    return F.pad(painted(y, w, stride, 0), (padding,) * 4)


@transposed_conv2d.wrong("The stride does nothing: brushes lie s pixels apart, not one.")
def close_together(y, w, stride, padding):
    return painted(y, w, 1, padding)


@transposed_conv2d.wrong(
    "Rows and columns of the kernel are exchanged; with oblong kernels it fails."
)
def brush_on_its_side(y, w, stride, padding):
    return painted(y, w.transpose(2, 3), stride, padding)


@transposed_conv2d.wrong(
    "The padding is cut off at one end only: p rows above *and* below, columns left *and* right."
)
def cropped_at_one_end(y, w, stride, padding):
    x = painted(y, w, stride, 0)
    return x[:, :, : x.shape[2] - 2 * padding, : x.shape[3] - 2 * padding]


@transposed_conv2d.wrong("The input channels are averaged; what they paint is added up.")
def mean_of_channels(y, w, stride, padding):
    return painted(y, w, stride, padding) / y.shape[1]


# --- 3.4 ------------------------------------------------------------------------------------------

conv_backward = Exercise(
    "conv_backward",
    level="stretch",
    minutes=35,
    tests="several channels and pictures, stride 1 to 4, rows that no window reaches, and gaps "
    "between windows.",
    hint="Write both sums over the places (i, j) of g; the window of (i, j) begins at (s·i, s·j).",
)


@conv_backward.cases
def gradients_above(rng):
    sizes = [
        ((2, 3, 6, 5), (4, 3, 3, 3), 1),
        ((2, 2, 5, 5), (2, 2, 3, 3), 1),
        ((3, 2, 7, 6), (2, 2, 3, 3), 2),
        ((1, 1, 4, 8), (2, 1, 2, 3), 3),
        ((2, 3, 3, 3), (1, 3, 1, 1), 1),
        ((1, 2, 8, 7), (3, 2, 2, 1), 4),
    ]
    drawn = []
    for x, w, s in sizes:
        h, v = ((n - k) // s + 1 for n, k in zip(x[2:], w[2:], strict=True))
        g = normals(rng, x[0], w[0], h, v)
        drawn.append({"x": normals(rng, *x), "w": normals(rng, *w), "g": g, "stride": s})
    return drawn


@conv_backward.reference
def both_gradients(x, w, g, stride):
    grad_x = torch.zeros_like(x)
    h, v = ((n - 1) * stride + k for n, k in zip(g.shape[2:], w.shape[2:], strict=True))
    grad_x[:, :, :h, :v] = F.conv_transpose2d(g, w, stride=stride)
    seen = x[:, :, :h, :v].transpose(0, 1)
    return grad_x, F.conv2d(seen, g.transpose(0, 1), dilation=stride).transpose(0, 1)


@conv_backward.wrong("The two gradients are in the wrong order: first x's, then w's.")
def wrong_order(x, w, g, stride):
    return both_gradients(x, w, g, stride)[::-1]


@conv_backward.wrong(
    "x's gradient has the kernel turned by 180°: painted it is laid down as it is; turned it is "
    "only if you slide it over g."
)
def stamp_turned(x, w, g, stride):
    return both_gradients(x, w.flip(2, 3), g, stride)[0], both_gradients(x, w, g, stride)[1]


@conv_backward.wrong(
    "x's gradient lacks the rows or columns that no window reached: there it is 0, and it has x's "
    "shape."
)
def rest_missing(x, w, g, stride):
    return F.conv_transpose2d(g, w, stride=stride), both_gradients(x, w, g, stride)[1]


@conv_backward.wrong("w's gradient is a sum over the pictures of the batch; yours is their mean.")
def mean_over_pictures(x, w, g, stride):
    grad_x, grad_w = both_gradients(x, w, g, stride)
    return grad_x, grad_w / len(x)


@conv_backward.wrong(
    "w's gradient ignores the stride: the window that made y[i, j] begins at x[s·i, s·j]."
)
def stride_left_out(x, w, g, stride):
    k, m = w.shape[2:]
    grad_w = F.conv2d(x.transpose(0, 1), g.transpose(0, 1)).transpose(0, 1)
    return both_gradients(x, w, g, stride)[0], grad_w[:, :, :k, :m]


@conv_backward.wrong("w's gradient is a sum over the places of the window; yours is their mean.")
def mean_over_places(x, w, g, stride):
    grad_x, grad_w = both_gradients(x, w, g, stride)
    return grad_x, grad_w / g[0, 0].numel()


@conv_backward.wrong(
    "Where windows overlap in x, each adds its share; yours keeps the last one's alone."
)
def last_window_alone(x, w, g, stride):
    grad_x, (k, m) = torch.zeros_like(x), w.shape[2:]
    for i in range(g.shape[2]):
        for j in range(g.shape[3]):
            rows, columns = slice(i * stride, i * stride + k), slice(j * stride, j * stride + m)
            grad_x[:, :, rows, columns] = torch.einsum("bo,ockl->bckl", g[:, :, i, j], w)
    return grad_x, both_gradients(x, w, g, stride)[1]


@conv_backward.wrong("Both signs are turned: a gradient is returned, not a step against it.")
def against_it(x, w, g, stride):
    grad_x, grad_w = both_gradients(x, w, g, stride)
    return -grad_x, -grad_w


@conv_backward.wrong("g is left out: these are the gradients of the sum of y.")
def of_the_sum(x, w, g, stride):
    return both_gradients(x, w, torch.ones_like(g), stride)


@conv_backward.wrong("w's gradient is turned by 180°: w[u, v] met the pixel x[s·i + u, s·j + v].")
def kernel_gradient_turned(x, w, g, stride):
    grad_x, grad_w = both_gradients(x, w, g, stride)
    return grad_x, grad_w.flip(2, 3)


# --- 3.5 ------------------------------------------------------------------------------------------

share_right = Exercise(
    "share_right",
    level="core",
    minutes=15,
    tests="a net with BatchNorm, in training and in eval mode, batches that don't come out even: "
    "the share, and that the net is afterwards as it was.",
    hint="Remember `net.training`, switch to eval mode, count over all batches, switch back.",
    random=True,
)


@share_right.cases
def classifiers(rng):
    drawn = []
    sizes = [(11, 4, True), (11, 4, False), (7, 3, True), (6, 20, True), (9, 1, False)]
    for n, batch_size, training in sizes:
        x = 2 * normals(rng, n, 3) + 1
        seed = draw_seed(rng)
        net = drivers.small_classifier(seed).eval()
        labels = net(x).argmax(1)
        wrong = torch.arange(n) % 4 == 0  # three of four right in each full batch of four …
        wrong[-2:] = True  # … and fewer in the last one
        labels = torch.where(wrong, (labels + 1) % 4, labels)
        drawn.append({"net": seed, "training": training, "x": x, "labels": labels,
                      "batch_size": batch_size})
    return drawn


@share_right.reference
def counted(net, x, labels, batch_size):
    before, right = net.training, 0
    net.eval()
    with torch.no_grad():
        for part, truth in zip(x.split(batch_size), labels.split(batch_size), strict=True):
            right += int((net(part).argmax(1) == truth).sum())
    net.train(before)
    return right / len(x)


@share_right.wrong(
    "This is still the broken program: the number is right, but the net comes back in another mode "
    "than it was given."
)
def never_back(net, x, labels, batch_size):
    net.eval()
    return counted(net, x, labels, batch_size)


@share_right.wrong(
    "You leave the net in training mode while you measure: each answer depends on the other "
    "pictures of its batch, and the running averages learn from the test."
)
def measured_in_training(net, x, labels, batch_size):
    right = 0
    with torch.no_grad():
        for part, truth in zip(x.split(batch_size), labels.split(batch_size), strict=True):
            right += int((net(part).argmax(1) == truth).sum())
    return right / len(x)


@share_right.wrong(
    "At the end you always switch to training mode. A net that came in eval mode must leave in it."
)
def always_training(net, x, labels, batch_size):
    share = counted(net, x, labels, batch_size)
    net.train()
    return share


@share_right.wrong(
    "You average the shares of the batches, and the last batch is smaller: its pictures count for "
    "more than others. Count first, divide once."
)
def mean_of_shares(net, x, labels, batch_size):
    parts = zip(x.split(batch_size), labels.split(batch_size), strict=True)
    shares = [counted(net, part, truth, batch_size) for part, truth in parts]
    return sum(shares) / len(shares)


@share_right.wrong("You return how many are right; the share divides by the number of pictures.")
def number_right(net, x, labels, batch_size):
    return counted(net, x, labels, batch_size) * len(x)


@share_right.wrong("You return how many are wrong; asked for is the share that is right.")
def share_wrong(net, x, labels, batch_size):
    return 1 - counted(net, x, labels, batch_size)


@share_right.wrong("You return per cent; a share lies between 0 and 1.")
def in_per_cent(net, x, labels, batch_size):
    return 100 * counted(net, x, labels, batch_size)


@share_right.wrong("Only the last batch counts: add up over all of them.")
def last_batch_alone(net, x, labels, batch_size):
    n = (len(x) - 1) // batch_size * batch_size
    return counted(net, x[n:], labels[n:], batch_size)


@share_right.wrong("The last batch is left out when it is smaller than the others.")
def last_batch_dropped(net, x, labels, batch_size):
    n = max(1, len(x) // batch_size) * batch_size
    return counted(net, x[:n], labels[:n], batch_size)


@share_right.wrong(
    "A last batch that is smaller is left out of the count, and its pictures still stand below the "
    "fraction bar."
)
def last_batch_not_counted(net, x, labels, batch_size):
    n = len(x) // batch_size * batch_size
    return counted(net, x[:n], labels[:n], batch_size) * n / len(x) if n else 0.0
