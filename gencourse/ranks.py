"""Several processes that train one model: who this one is, its share of a batch, means over all.

Started by `accelerate launch`, `torchrun` or accelerate's `notebook_launcher`; alone, all of this
does nothing. All processes draw the same random numbers and hold the same weights; each takes its
slice of the same global batch, so N of them take the step that one would, up to rounding. (But for
dropout: what a layer draws itself is the same for every slice, N times fewer different masks.)
"""

import atexit
import os

import torch
import torch.distributed as dist
from torch import nn

from gencourse import runtime


class Lost(runtime.UserError):
    """Another process of the run has ended or can't be reached.

    Between CPUs (gloo) it is raised at the next message. Between GPUs mostly not: NCCL works beside
    Python, and when a process is gone, its watchdog ends the others after minutes with a long
    message of its own. What is said here holds then too: the last checkpoint is good.
    """


def start():
    """Join the processes that a launcher started; without one, or a second time, do nothing.

    Raises: UserError if there are more of them than GPUs, and on Apple's MPS, which has no messages
        between processes.
    """
    launched = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1
    if not launched or world() > 1:
        return
    device = runtime.device()
    if device.type == "cuda":
        _check_gpus(device)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise runtime.UserError(
            f"Several processes can't train on the device {device} together. Start a single one, "
            "or set GENCOURSE_DEVICE=cpu."
        )
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(dist.destroy_process_group)


def _check_gpus(device):
    """Refuse two processes on one GPU, which NCCL can't join."""
    there = torch.cuda.device_count()
    number = int(os.environ.get("LOCAL_RANK", 0))
    # Not every launcher says how many it started; then the first one too many finds out.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", number + 1))
    if here > there:
        raise runtime.UserError(
            f"{here} or more processes were started on this machine, which has {there} "
            f"GPU{'s' * (there != 1)}: each needs one of its own. Start {there} (--num_processes), "
            "or set GENCOURSE_DEVICE=cpu to try it without GPUs."
        )


def world():
    """How many processes train together: 1 without a launcher."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """Which of them this is, from 0."""
    return dist.get_rank() if world() > 1 else 0


def is_main():
    """Whether this is the process that writes files and draws the progress bar."""
    return rank() == 0


def part(batch):
    """This process's slice of a global batch (B, …): (B / world, …), in the order of the ranks.

    Raises: UserError if B can't be divided evenly.
    """
    if len(batch) % world():
        raise runtime.UserError(
            f"A batch of {len(batch)} can't be shared evenly by {world()} processes: choose a "
            f"batch size that is a multiple of {world()}."
        )
    return batch.chunk(world())[rank()]


def average_gradients(model):
    """Replace every gradient of a model by its mean over all processes, in one message."""
    if world() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    _all_reduce(flat).div_(world())
    parts = flat.split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [p.view(g.shape) for p, g in zip(parts, gradients)])  # noqa: B905


def mean(row):
    """A dict of scalar tensors as their means over all processes."""
    if world() == 1:
        return row
    values = _all_reduce(torch.stack([v.detach().float() for v in row.values()])) / world()
    return dict(zip(row, values.unbind(), strict=True))


def any_of_us(flag):
    """Whether the flag is set in at least one process; all of them have to ask."""
    if world() == 1:
        return flag
    return bool(_all_reduce(torch.tensor(float(flag), device=runtime.device())) > 0)


def from_main(thing):
    """What the main process calls `thing` (plain data, tensors), in every process."""
    if world() == 1:
        return thing
    box = [thing if is_main() else None]
    _together(dist.broadcast_object_list, box, src=0)
    return box[0]


def copy_from_main(*models):
    """Give every process the main one's weights, in place: they must begin as equals."""
    if world() > 1:
        for model in models:
            for tensor in model.state_dict().values():
                same = tensor.contiguous()  # NCCL wants one block, whatever the memory layout
                _together(dist.broadcast, same, src=0)
                tensor.copy_(same)


def synchronised(model):
    """A model whose BatchNorm layers take their statistics from the batches of all processes.

    On CUDA these are torch's own `SyncBatchNorm`, which lets Python wait for the GPU in every
    forward pass (13 times in a DCGAN's step); it has none for the CPU, so there ours, in place.
    """
    if world() == 1:
        return model
    if next(model.parameters()).device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.__class__ = GlobalBatchNorm  # the same weights and buffers, another forward
    return model


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batches of all processes; each must hold equally many values.

    Mean first, then the mean of squared distances from it: E[x²] − E[x]² would lose digits.
    """

    def forward(self, x):
        """x: (B, C) or (B, C, H, W) → the same shape."""
        if not self.training or world() == 1:
            return super().forward(x)
        others = [0, *range(2, x.dim())]  # every dimension but the channels
        wide = [1, -1, *[1] * (x.dim() - 2)]
        n = x.numel() // x.shape[1] * world()
        given, x = x.dtype, x.to(self.weight.dtype)  # few bits would not do for a mean
        average = _MeanOfAll.apply(x.mean(others))
        centred = x - average.view(wide)
        variance = _MeanOfAll.apply(centred.square().mean(others))
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)  # unbiased, as torch's
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(wide) + self.bias.view(wide)).to(given)

    def _check_input_dim(self, x):
        pass


class _MeanOfAll(torch.autograd.Function):
    """The mean over all processes, and the same of its gradient.

    With L = Σ Lᵣ over the ranks, ∂L/∂xₛ = (1/N) Σᵣ ∂Lᵣ/∂mean: each rank's gradient is averaged too.
    """

    @staticmethod
    def forward(ctx, x):
        return _all_reduce(x.clone()).div_(world())

    @staticmethod
    def backward(ctx, gradient):
        return _all_reduce(gradient.clone(memory_format=torch.contiguous_format)).div_(world())


def _all_reduce(tensor):
    """The sum over all processes, in place."""
    _together(dist.all_reduce, tensor)
    return tensor


def _together(collective, *arguments, **options):
    try:
        collective(*arguments, **options)
    except RuntimeError as error:  # gloo and NCCL report a process that is gone
        raise Lost(_lost()) from error


def told_to_end(number, frame):
    """What a launcher's SIGTERM becomes: it sends one to all when a process has died."""
    raise Lost(_lost())


def _lost():
    return (
        f"Process {rank()} of {world()} lost the others: one of them has ended, or the network "
        "between them has. Start the same command again, with as many processes as there are; it "
        "goes on from the last checkpoint."
    )
