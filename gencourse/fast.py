"""What makes a step fast and changes nothing else: precision, and one CUDA graph for all of it."""

import contextlib
import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from gencourse import runtime

PRECISIONS = ("float32", "bfloat16", "float16")
# What a processor that computes in few bits calls that: torch's names, and Linux's and Apple's.
FEW_BITS = {
    torch.bfloat16: {"avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16", "FEAT_BF16"},
    torch.float16: {"avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith", "asimdhp", "FEAT_FP16"},
}


def precision(name=None, device=None):
    """The number format of convolutions and matrix products; weights always stay float32.

    name: "float32", "bfloat16", "float16", or None for what suits the device: float32, and on CUDA
        bfloat16 where the hardware has it (compute capability 8 and above), else float16.
        `torch.cuda.is_bf16_supported()` also counts slow emulation, so it is not asked.
    device: torch.device, default `runtime.device()`. Returns: torch.dtype.
    Raises: UserError for another name. Warns where `slow_here` does.
    """
    device = device or runtime.device()
    if name is None:
        if device.type != "cuda":
            return torch.float32
        native = torch.cuda.get_device_capability(device)[0] >= 8
        return torch.bfloat16 if native else torch.float16
    if name not in PRECISIONS:
        raise runtime.UserError(
            f"There is no precision {name!r}; choose one of {', '.join(PRECISIONS)}."
        )
    if sentence := slow_here(getattr(torch, name), device):
        warnings.warn(sentence, stacklevel=2)
    return getattr(torch, name)


def slow_here(dtype, device=None):
    """A sentence if this processor has no arithmetic for `dtype` and emulates it, else "".

    Measured on a processor with AVX2 (DCGAN, VAE and their layers, one thread): 2 to 17 times
    slower in bfloat16 than in float32, large matrix products 70 times.
    """
    there = _instructions() if (device or runtime.device()).type == "cpu" else None
    if there is None or there & FEW_BITS.get(dtype, there):
        return ""
    name = str(dtype).removeprefix("torch.")
    return (
        f"This processor has no {name} arithmetic: it is emulated, right but several times slower "
        "than float32. Leave precision (--precision) out, or set it to float32."
    )


@functools.cache
def _instructions():
    """What this processor can do, names as in FEW_BITS; None if that can't be found out."""
    if hasattr(torch.cpu, "get_capabilities"):  # the later versions
        return {name for name, there in torch.cpu.get_capabilities().items() if there}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return {w for x in lines if x.startswith(("flags", "Features")) for w in x.split()}
    if sys.platform == "darwin":
        with contextlib.suppress(OSError):
            asked = ["sysctl", "hw.optional.arm"]  # lines such as "hw.optional.arm.FEAT_BF16: 1"
            said = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
            return {x.split(":")[0].split(".")[-1] for x in said if x.endswith(" 1")}
    old = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2") and sys.platform == "win32"
    return {"avx2"} if old else None  # "AVX512" is with bfloat16 or without


@functools.cache
def check_compile():
    """Raise UserError where torch.compile can't work; one small function is compiled to see it.

    A compiler is looked for first, by the name that torch calls it: that costs nothing.
    """
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = shlex.split(os.environ.get("CXX", usual))[0]
    if runtime.device().type == "cpu" and not shutil.which(compiler):
        reason = f"there is no C++ compiler {compiler}"
    else:
        try:
            torch.compile(torch.neg)(torch.zeros(2, device=runtime.device()))
            return
        except Exception as error:  # no Triton, no headers of Python, a Python too new for torch …
            reason = _first_line(error) or type(error).__name__
    raise runtime.UserError(
        f"torch.compile does not work here: {reason}. Leave compile (--compile) out, or install a "
        "C++ compiler (Debian, Ubuntu: `apt install g++`, macOS: `xcode-select --install`, Windows "
        "Visual Studio Build Tools)."
    )


def autocast(device, dtype):
    """A context in which convolutions and matrix products are computed in `dtype`.

    What is fragile in few bits (softplus, sums of a loss) belongs outside it, on `widen`ed values.
    Source: Micikevicius et al. 2018, arXiv:1710.03740.
    """
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def widen(tensor):
    """A tensor in float32, or as it is where it has more digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Scaler(torch.amp.GradScaler):
    """torch's GradScaler for float16, whose small gradients would else become 0; inert otherwise.

    It begins with a scale of 2⁸. From torch's own, 2¹⁶, a VAE's gradients overflow for eight steps
    and a DCGAN's for some: all of those would be skipped. It doubles every 2,000 steps as it is.
    A checkpoint of another precision holds no state for it: then it starts anew.
    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    def __init__(self, device, dtype):
        super().__init__(device.type, init_scale=2.0**8, enabled=dtype == torch.float16)

    def load_state_dict(self, state):
        if state:
            super().load_state_dict(state)


def keep_freed_memory():
    """Let glibc keep what a step frees for the next step, instead of giving it back to Linux.

    Else every large tensor of every step is fetched anew from the system, page by page, and set to
    zero by it: a tenth of a DCGAN's step. For the whole process; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library, such as musl
            libc = ctypes.CDLL(None)
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing is free enough to go back
            libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: only tensors above its most, 32 MiB, do


class Graphed:
    """A training step as one CUDA graph: hundreds of small launches become one.

    step: function of tensors → dict of scalar tensors, whose work may depend on the tensors'
        values but not on Python numbers that change: what is captured once is replayed as it was.
        Shapes must stay the same, nothing in it may wait for the device, and its optimizers need
        `prepare_optimizer(…, graph=True)`.
    warm_up: the first so many calls run it plainly (they are steps like all others), on a stream of
        their own, so that every library has set itself up before the capture.
    """

    def __init__(self, step, warm_up=3):
        self.step, self.warm_up, self.graph = step, warm_up, None

    def __call__(self, *inputs):
        if self.warm_up > 0:
            self.warm_up -= 1
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream), warnings.catch_warnings():
                # Adam is ready to be captured, and says that this step is not.
                warnings.filterwarnings("ignore", message=".*capturable=True")
                row = self.step(*inputs)
            current.wait_stream(stream)
            return row
        if self.graph is None:
            self._capture(inputs)
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        values = self.values.clone()  # the next replay writes into the same memory
        return dict(zip(self.names, values.unbind(), strict=True))

    def _capture(self, inputs):
        """Record the step's kernels; nothing is computed, so no step is taken."""
        self.inputs = [x.clone() for x in inputs]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                row = self.step(*self.inputs)
                self.names, self.values = list(row), torch.stack([v.float() for v in row.values()])
        except RuntimeError as error:
            raise runtime.UserError(
                "This step can't become a CUDA graph: something in it waits for the device, such "
                "as .item(), or float16 without fused Adam. Leave graph (--graph) out, or take "
                f"that out of the step. CUDA said: {_first_line(error)}"
            ) from error
        self.graph = graph  # only now: half a graph must not be replayed


def prepare_optimizer(optimizer, graph):
    """Make an Adam fit for a CUDA graph, or not: its rate then is a tensor, which a graph re-reads.

    To be called after a checkpoint was loaded, which brings the saved settings with it.
    """
    for group in optimizer.param_groups:
        rate, device = float(group["lr"]), group["params"][0].device
        group["lr"] = torch.tensor(rate, device=device) if graph else rate
        group["capturable"] = graph
        # Adam's count of a run with a graph, or without: on the CPU each step would wait for it.
        there = device if graph or group["fused"] else torch.device("cpu")
        for weight in group["params"]:
            state = optimizer.state.get(weight, {})
            if "step" in state:
                state["step"] = state["step"].to(there)


def _first_line(error):
    """What an error and those before it say first: the cause, not what it led to."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]
