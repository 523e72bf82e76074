"""Chapter 03: other right answers, and wrong ones that are tried besides those with a name."""

import itertools
import math

import torch
from torch.nn import functional as F

# --- 3.1 ------------------------------------------------------------------------------------------


def backwards(layers):
    """The field from the last layer to the first: r ← (r − 1)·s + (k − 1)·d + 1."""
    field = 1
    for kernel, stride, dilation in reversed(layers):
        field = (field - 1) * stride + (kernel - 1) * dilation + 1
    return field, math.prod(stride for _, stride, _ in layers)


def by_sums(layers):
    jumps = [1, *itertools.accumulate((s for _, s, _ in layers), int.__mul__)]
    grown = [(k - 1) * d * j for (k, _, d), j in zip(layers, jumps, strict=False)]
    return [1 + sum(grown), jumps[-1]]


def by_popping(layers):
    field = jump = 1
    while layers:
        kernel, stride, dilation = layers.pop(0)
        field, jump = field + (kernel - 1) * dilation * jump, jump * stride
    return field, jump


FIELD_RIGHT = {
    "from the last layer": backwards,
    "sums, as a list": by_sums,
    "floats": lambda layers: tuple(map(float, backwards(layers))),
    "tensors": lambda layers: tuple(torch.tensor(v) for v in backwards(layers)),
}
FIELD_WRONG = {
    "pops the caller's layers": (by_popping, "leave it as it was"),
    "the field alone": (lambda layers: backwards(layers)[0], "2 values were expected"),
    "one tensor": (lambda layers: torch.tensor(backwards(layers)), "2 values were expected"),
    "area": (lambda layers: (backwards(layers)[0] ** 2, backwards(layers)[1]), ""),
    "only ever odd": (lambda layers: (backwards(layers)[0] // 2 * 2 + 1, backwards(layers)[1]), ""),
    "fails without layers": (lambda layers: (layers[0], backwards(layers))[1], "IndexError"),
    "the smallest stride": (
        lambda layers: (backwards(layers)[0], min([s for _, s, _ in layers], default=1)), ""),
}


# --- 3.2 ------------------------------------------------------------------------------------------


def pixel_by_pixel(x, w, stride, padding):
    (B, C, H, W), (outputs, _, K, L) = x.shape, w.shape
    padded = torch.zeros(B, C, H + 2 * padding, W + 2 * padding)
    padded[:, :, padding : padding + H, padding : padding + W] = x
    rows = (H + 2 * padding - K) // stride + 1
    columns = (W + 2 * padding - L) // stride + 1
    y = torch.zeros(B, outputs, rows, columns)
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            window = padded[:, None, :, top : top + K, left : left + L]  # (B, 1, C, K, L)
            y[:, :, i, j] = (window * w).sum((2, 3, 4))
    return y


def by_columns(x, w, stride, padding):
    columns = F.unfold(x, w.shape[2:], padding=padding, stride=stride)  # (B, C·K·L, places)
    rows = (x.shape[2] + 2 * padding - w.shape[2]) // stride + 1
    return (w.flatten(1) @ columns).unflatten(2, (rows, -1))


def tap_by_tap(x, w, stride, padding):
    x = F.pad(x, (padding,) * 4)
    (H, W), (K, L) = x.shape[2:], w.shape[2:]
    rows, columns = (H - K) // stride + 1, (W - L) // stride + 1
    parts = [torch.einsum("bchv,oc->bohv",
                          x[:, :, u : u + rows * stride : stride, v : v + columns * stride : stride]
                          [:, :, :rows, :columns], w[:, :, u, v])
             for u in range(K) for v in range(L)]
    return torch.stack(parts).sum(0)


def thinned_out(x, w, stride, padding):
    """Every place first, and then only each s-th of them."""
    return tap_by_tap(x, w, 1, padding)[:, :, ::stride, ::stride]


def hanging_over(x, w, stride, padding):
    """A last window for what is left over."""
    right = F.pad(x, (padding, padding + stride - 1, padding, padding + stride - 1))
    return tap_by_tap(right, w, stride, 0)


CONV_RIGHT = {
    "pixel by pixel into zeros": pixel_by_pixel,
    "columns": by_columns,
    "tap by tap": tap_by_tap,
    "thinned out": thinned_out,
    "F.conv2d": lambda x, w, s, p: F.conv2d(x, w, stride=s, padding=p),
    "in float64": lambda x, w, s, p: tap_by_tap(x.double(), w.double(), s, p),
    "three dimensions": lambda x, w, s, p: F.conv3d(
        x[:, None], w[:, None], stride=(1, s, s), padding=(0, p, p))[:, :, 0],
}
CONV_WRONG = {
    "a window too many": (hanging_over, "shape"),
    "the first channel": (lambda x, w, s, p: tap_by_tap(x[:, :1], w[:, :1], s, p), ""),
    "the first kernel": (
        lambda x, w, s, p: tap_by_tap(x, w[:1].expand_as(w), s, p), ""),
    "turned columns": (lambda x, w, s, p: tap_by_tap(x, w.flip(3), s, p), ""),
    "padding of ones": (
        lambda x, w, s, p: tap_by_tap(F.pad(x, (p,) * 4, value=1.0), w, s, 0), ""),
    "padding reflected": (
        lambda x, w, s, p: tap_by_tap(F.pad(x, (p,) * 4, mode="circular"), w, s, 0), ""),
    "padded twice": (lambda x, w, s, p: tap_by_tap(x, w, s, 2 * p), "shape"),
    "the place (1, 1) first": (
        lambda x, w, s, p: tap_by_tap(x, w, 1, p)[:, :, s - 1 :: s, s - 1 :: s], ""),
    "ReLU": (lambda x, w, s, p: tap_by_tap(x, w, s, p).relu(), ""),
    "detached w": (lambda x, w, s, p: tap_by_tap(x, w.detach(), s, p), "no gradient flows"),
    "x padded in place": (lambda x, w, s, p: tap_by_tap(x.mul_(2), w / 2, s, p), "in place"),
    "unfold, and maps of the wrong shape": (
        lambda x, w, s, p: w.flatten(1) @ F.unfold(x, w.shape[2:], padding=p, stride=s), "shape"),
    "channels not added up": (
        lambda x, w, s, p: torch.stack([F.conv2d(x[:, i : i + 1], w[:, i : i + 1], stride=s,
                                                 padding=p) for i in range(x.shape[1])]), "shape"),
}


# --- 3.3 ------------------------------------------------------------------------------------------


def into_zeros(y, w, stride, padding):
    (B, _, H, W), (_, outputs, K, L) = y.shape, w.shape
    x = torch.zeros(B, outputs, (H - 1) * stride + K, (W - 1) * stride + L)
    for u in range(K):
        for v in range(L):
            x[:, :, u : u + (H - 1) * stride + 1 : stride,
              v : v + (W - 1) * stride + 1 : stride] += torch.einsum("bchv,co->bohv", y,
                                                                     w[:, :, u, v])
    return x[:, :, padding : x.shape[2] - padding, padding : x.shape[3] - padding]


def spread_and_slide(y, w, stride, padding):
    (B, C, H, W), (K, L) = y.shape, w.shape[2:]
    spread = torch.zeros(B, C, (H - 1) * stride + 1, (W - 1) * stride + 1)
    spread[:, :, ::stride, ::stride] = y
    kernel = w.flip(2, 3).transpose(0, 1)
    x = F.conv2d(spread, kernel, padding=(K - 1, L - 1))
    return x[:, :, padding : x.shape[2] - padding, padding : x.shape[3] - padding]


def by_fold(y, w, stride, padding):
    columns = torch.einsum("bchv,cokl->boklhv", y, w).flatten(4).flatten(1, 3)
    size = [(n - 1) * stride + k - 2 * padding for n, k in
            zip(y.shape[2:], w.shape[2:], strict=True)]
    return F.fold(columns, size, w.shape[2:], padding=padding, stride=stride)


def cropped_by_minus(y, w, stride, padding):
    return into_zeros(y, w, stride, 0)[:, :, padding:-padding, padding:-padding]


PAINT_RIGHT = {
    "tap by tap into zeros": into_zeros,
    "spread and slide": spread_and_slide,
    "fold": by_fold,
    "F.conv_transpose2d": lambda y, w, s, p: F.conv_transpose2d(y, w, stride=s, padding=p),
    "in float64": lambda y, w, s, p: into_zeros(y.double(), w.double(), s, p).float(),
    "negative padding": lambda y, w, s, p: F.pad(by_fold(y, w, s, 0), (-p,) * 4),
}
PAINT_WRONG = {
    "cropped by minus p": (cropped_by_minus, "shape"),
    "spread, not turned": (lambda y, w, s, p: spread_and_slide(y, w.flip(2, 3), s, p), "180°"),
    "rows turned": (lambda y, w, s, p: into_zeros(y, w.flip(2), s, p), ""),
    "averaged where brushes overlap": (
        lambda y, w, s, p: into_zeros(y, w, s, p) / into_zeros(
            torch.ones_like(y), torch.ones_like(w), s, p).clamp(min=1) * y.shape[1], ""),
    "enlarged, then slid": (
        lambda y, w, s, p: F.conv2d(F.interpolate(y, scale_factor=float(s)), w.transpose(0, 1),
                                    padding=p), ""),
    "detached": (lambda y, w, s, p: into_zeros(y, w.detach(), s, p), "no gradient flows"),
    "one row more": (
        lambda y, w, s, p: F.conv_transpose2d(
            y, w, stride=s, padding=p, output_padding=s - 1), "shape"),
    "the largest brush": (
        lambda y, w, s, p: into_zeros(y.abs(), w.abs(), s, p), ""),
    "p and s exchanged": (lambda y, w, s, p: into_zeros(y, w, max(p, 1), s - 1), ""),
}


# --- 3.4 ------------------------------------------------------------------------------------------


def by_autograd(x, w, g, stride):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    return torch.autograd.grad(F.conv2d(x, w, stride=stride), (x, w), g)


def by_torch(x, w, g, stride):
    from torch.nn import grad

    return [grad.conv2d_input(x.shape, w, g, stride=stride),
            grad.conv2d_weight(x, w.shape, g, stride=stride)]


def taps(x, w, g, stride):
    grad_x, grad_w = torch.zeros(x.shape), torch.zeros(w.shape)
    (h, v), (K, L) = g.shape[2:], w.shape[2:]
    for a in range(K):
        for b in range(L):
            rows = slice(a, a + (h - 1) * stride + 1, stride)
            columns = slice(b, b + (v - 1) * stride + 1, stride)
            grad_x[:, :, rows, columns] += torch.einsum("bohv,oc->bchv", g, w[:, :, a, b])
            grad_w[:, :, a, b] = torch.einsum("bohv,bchv->oc", g, x[:, :, rows, columns])
    return grad_x, grad_w


def by_columns_back(x, w, g, stride):
    columns = F.unfold(x, w.shape[2:], stride=stride)
    above = g.flatten(2)
    grad_w = torch.einsum("bop,bkp->ok", above, columns).view_as(w)
    grad_x = F.fold(w.flatten(1).T @ above, x.shape[2:], w.shape[2:], stride=stride)
    return grad_x, grad_w


def first_of_the_batch(x, w, g, stride):
    return taps(x, w, g, stride)[0], taps(x[:1], w, g[:1], stride)[1]


BACK_RIGHT = {
    "autograd": by_autograd,
    "torch.nn.grad": by_torch,
    "tap by tap into zeros": taps,
    "columns": by_columns_back,
    "in float64": lambda x, w, g, s: taps(x, w, g, s)[0:2],
}
BACK_WRONG = {
    "only the first picture": (first_of_the_batch, ""),
    "mean over both": (
        lambda x, w, g, s: tuple(v / len(x) for v in taps(x, w, g, s)), ""),
    "w without its gradient": (lambda x, w, g, s: (taps(x, w, g, s)[0], w), ""),
    "x alone": (lambda x, w, g, s: taps(x, w, g, s)[0], "2 values were expected"),
    "in place": (lambda x, w, g, s: taps(x, w, g.mul_(1.5), s), "in place"),
    "channels exchanged": (
        lambda x, w, g, s: (taps(x, w, g, s)[0], taps(x, w, g, s)[1].transpose(0, 1)), ""),
    "no sum over output channels": (
        lambda x, w, g, s: (taps(x, w, g, s)[0] / w.shape[0], taps(x, w, g, s)[1]), ""),
    "stride 1 in x": (
        lambda x, w, g, s: (F.pad(F.conv_transpose2d(g, w), (0, x.shape[3] - g.shape[3]
                            - w.shape[3] + 1, 0, x.shape[2] - g.shape[2] - w.shape[2] + 1)),
                            taps(x, w, g, s)[1]), ""),
}


# --- 3.5 ------------------------------------------------------------------------------------------


def measured(net, x, labels, batch_size):
    mode = net.training
    net.eval()
    right = 0.0
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        right += (net(x[part]).argmax(-1) == labels[part]).float().sum()
    net.train(mode)
    return right / len(x)


def without_gradients(net, x, labels, batch_size):
    with torch.no_grad():
        return measured(net, x, labels, batch_size)


@torch.inference_mode()
def in_inference_mode(net, x, labels, batch_size):
    return measured(net, x, labels, batch_size).item()


def module_by_module(net, x, labels, batch_size):
    modes = {part: part.training for part in net.modules()}
    try:
        return float(without_gradients(net.eval(), x, labels, batch_size))
    finally:
        for part, mode in modes.items():
            part.training = mode


def on_a_copy(net, x, labels, batch_size):
    import copy

    return without_gradients(copy.deepcopy(net), x, labels, batch_size)


def all_at_once(net, x, labels, batch_size):
    return without_gradients(net, x, labels, len(x))


def frozen(net, x, labels, batch_size):
    for weight in net.parameters():
        weight.requires_grad_(False)
    return measured(net, x, labels, batch_size)


def thawed(net, x, labels, batch_size):
    net.requires_grad_(False)
    share = measured(net, x, labels, batch_size)
    net.requires_grad_(True)
    return share


def gradients_off(net, x, labels, batch_size):
    torch.set_grad_enabled(False)
    return measured(net, x, labels, batch_size)


def gradients_gone(net, x, labels, batch_size):
    net.zero_grad()
    return measured(net, x, labels, batch_size)


def gradients_added(net, x, labels, batch_size):
    F.cross_entropy(net(x), labels).backward()
    return measured(net, x, labels, batch_size)


def one_part_in_eval(net, x, labels, batch_size):
    share = measured(net, x, labels, batch_size)
    net[1].eval() if net.training else net[1].train()
    return share


def running_averages_learn(net, x, labels, batch_size):
    if net.training:
        net(x)
    return measured(net, x, labels, batch_size)


def statistics_put_back_too_late(net, x, labels, batch_size):
    return measured(net.train(), x, labels, batch_size)


def shuffled(net, x, labels, batch_size):
    order = torch.randperm(len(x))
    return measured(net, x[order], labels[order], batch_size)


def seeded(net, x, labels, batch_size):
    torch.manual_seed(0)
    torch.rand(1)
    return measured(net, x, labels, batch_size)


def in_float64(net, x, labels, batch_size):
    return measured(net.double(), x.double(), labels, batch_size)


def default_in_float64(net, x, labels, batch_size):
    torch.set_default_dtype(torch.float64)
    return measured(net, x, labels, batch_size)


LEFT = "after your function"
SHARE_RIGHT = {
    "a tensor, with gradients": measured,
    "a tensor": without_gradients,
    "inference mode": in_inference_mode,
    "module by module": module_by_module,
    "on a copy": on_a_copy,
    "all at once": all_at_once,
    "one by one": lambda net, x, labels, _: float(without_gradients(net, x, labels, 1)),
}
SHARE_WRONG = {
    "frozen": (frozen, LEFT),
    "everything thawed": (thawed, LEFT),
    "gradients off": (gradients_off, "Gradient computation (grad mode) is off after"),
    "gradients gone": (gradients_gone, "other gradients"),
    "gradients added": (gradients_added, ""),
    "one part in another mode": (one_part_in_eval, LEFT),
    "running averages learn": (running_averages_learn, ""),
    "always back in training": (statistics_put_back_too_late, "always switch to training"),
    "shuffled": (shuffled, "random numbers"),
    "seeded": (seeded, "random numbers"),
    "in float64": (in_float64, "leave them as they are"),
    "the default dtype": (default_in_float64, "default dtype"),
    "largest logit for argmax": (
        lambda net, x, labels, n: measured(net, x, labels + 1, n), ""),
    "rounded": (lambda net, x, labels, n: round(float(measured(net, x, labels, n)), 1), ""),
    "whole division": (lambda net, x, labels, n: measured(net, x, labels, n) // 1, ""),
}

RIGHT = {
    "receptive_field": FIELD_RIGHT, "conv2d": CONV_RIGHT, "transposed_conv2d": PAINT_RIGHT,
    "conv_backward": BACK_RIGHT, "share_right": SHARE_RIGHT,
}
WRONG = {
    "receptive_field": FIELD_WRONG, "conv2d": CONV_WRONG, "transposed_conv2d": PAINT_WRONG,
    "conv_backward": BACK_WRONG, "share_right": SHARE_WRONG,
}
