"""Pretend that this machine has an NVIDIA GPU: CUDA's rules, the CPU's arithmetic.

    import pretend_cuda; pretend_cuda.install("T4")   # in a fresh process, or in a child after fork
    python tests/pretend_cuda.py T4 script.py …       # a script, or `-m module …`, that way

Tensors on "cuda" are wrappers around CPU tensors. As on a GPU:
- all tensors of an operation are on one device; only a CPU number may stand beside CUDA tensors,
  and CPU indices in a CUDA tensor; generators are of their tensors' device; `.numpy()` refuses;
- autocast follows CUDA's lists; CUDA has random numbers of its own;
- TF32 and the order of additions: convolutions of float32 lose digits where the card has TF32 and
  the batch is not small, and gradients that are summed in no fixed order differ in their last digit
  (not with `torch.backends.cudnn.deterministic` or `torch.use_deterministic_algorithms`);
- a CUDA graph replays what was recorded, may not be waited for, and is lost when it was;
- an event knows its time only after a wait; a process that was forked must not touch the device.
Not shown: speed, races between streams, kernels that CUDA lacks, more than one device.

`counts` holds the operations on the device ("ops"), the waits for it ("syncs") and graphs' replays;
`where` who waited; `memory` the bytes in use and their peak, without the libraries' own.
"""

import collections
import contextlib
import functools
import os
import runpy
import sys
import time
import traceback
import types
import warnings
import weakref

import torch
import torch._dynamo  # its tables of functions, before some of them are replaced
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
CARDS = {  # name, compute capability, bytes, multiprocessors
    "T4": ("Tesla T4", (7, 5), 15.6e9, 40),
    "A100": ("NVIDIA A100-SXM4-40GB", (8, 0), 42.3e9, 108),
    "H100": ("NVIDIA H100 80GB HBM3", (9, 0), 85.0e9, 132),
}
counts = collections.Counter()
where = collections.Counter()  # (file, line) that waited → times
memory = types.SimpleNamespace(used=0, peak=0)
state = types.SimpleNamespace(card=None, pid=None, random=None, capture=None, noise=None)
on_cuda = set()  # addresses of generators on the device
holders = collections.Counter()  # storage → tensors that hold it

# A number on the CPU may stand beside CUDA tensors, except in these operations.
STRICT = {"cat", "stack", "mm", "bmm", "addmm", "baddbmm", "convolution", "gather", "scatter",
          "index_select", "embedding", "searchsorted", "bucketize", "native_batch_norm", "dot",
          "mv", "nll_loss_forward", "_fused_adam_", "_fused_adamw_"}
CROSS = {"_to_copy", "copy_", "_local_scalar_dense", "set_", "is_same_size"}  # between devices
INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount",
         "equal", "is_nonzero", "unique_consecutive"}
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm"}
CONVOLUTIONS = {"convolution", "convolution_backward"}
UNORDERED = {"convolution_backward", "scatter_add", "scatter_add_", "index_add", "index_add_",
             "embedding_dense_backward"}  # sums of many threads at once
MIXED = "Expected all tensors to be on the same device, but found at least two devices"
CAPTURING = "CUDA error: operation not permitted when stream is capturing"


def mine(device):
    """Whether a device is the pretended one ("meta" is what C++ believes of the wrappers)."""
    named = isinstance(device, str | torch.device | int)
    return named and (isinstance(device, int) or torch.device(device).type in ("cuda", "meta"))


# Tensors and generators ---------------------------------------------------------------------------


class CudaTensor(torch.Tensor):
    """A tensor that says it is on CUDA; `.inner` is on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        shell = torch.empty_strided(inner.size(), inner.stride(), dtype=inner.dtype, device="meta")
        shell = torch.Tensor._make_subclass(cls, shell, False, device_for_backend_keys=CUDA)
        shell.inner = inner
        _count_memory(inner)
        return shell

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return operate(func, args, kwargs or {})

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def get_device(self):
        return 0

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def __array__(self, dtype=None, copy=None):
        return self.numpy()

    def __getitem__(self, key):
        return super().__getitem__(_without_lists(key))

    def __setitem__(self, key, value):
        super().__setitem__(_without_lists(key), value)

    def tolist(self):
        return self.cpu().tolist()

    def to(self, *args, **kwargs):
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        return super().to(*map(_meta, args), **{k: _meta(v) for k, v in kwargs.items()})

    def cuda(self, *_, **__):
        return self

    def new_tensor(self, data, *, dtype=None, device=CUDA, requires_grad=False):
        made = torch.tensor(data, dtype=dtype or self.dtype, device=device)
        return made.requires_grad_(requires_grad)

    def type(self, kind=None, **_):
        if kind is None:
            return super().type().replace("torch.", "torch.cuda.").replace("meta.", "")
        return super().to(kind)

    def pin_memory(self, *_):
        raise RuntimeError("only dense CPU tensors can be pinned")

    def __repr__(self, **_):
        return f"{repr(self.inner)[:-1]}, device='cuda:0')"

    __str__ = __repr__

    def __format__(self, spec):
        return self.item().__format__(spec) if self.dim() == 0 else object.__format__(self, spec)

    def __reduce_ex__(self, protocol):
        none = collections.OrderedDict()  # of hooks
        if isinstance(self, torch.nn.Parameter):
            return torch._utils._rebuild_parameter, (self.inner.detach(), self.requires_grad, none)
        storage = self.inner._typed_storage()
        storage._untyped_storage.on_cuda = True
        parts = storage, self.inner.storage_offset(), tuple(self.shape), self.inner.stride()
        return torch._utils._rebuild_tensor_v2, (*parts, self.requires_grad, none)


def _without_lists(key):
    """An index without lists, from which C++ would make a tensor without values."""
    if isinstance(key, tuple):
        return tuple(map(_without_lists, key))
    return torch.tensor(key, device=CUDA) if isinstance(key, list | range) else key


def _meta(value):
    return "meta" if isinstance(value, str | torch.device) and mine(value) else value


def _count_memory(inner):
    storage = inner.untyped_storage()
    key, size = storage._cdata, storage.nbytes()
    if not holders[key]:
        memory.used += size
        memory.peak = max(memory.peak, memory.used)
    holders[key] += 1
    weakref.finalize(inner, _release, key, size).atexit = False


def _release(key, size):
    holders[key] -= 1
    if not holders[key]:
        del holders[key]
        memory.used -= size


class Generator(torch._C.Generator):
    """torch.Generator whose device may be the pretended one."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        (on_cuda.add if mine(device) else on_cuda.discard)(made._cdata)  # addresses are used again
        return made

    def __init__(self, device="cpu"):
        super().__init__()

    device = property(lambda self: CUDA if self._cdata in on_cuda else torch.device("cpu"))


# One operation ------------------------------------------------------------------------------------


class Everything(TorchDispatchMode):
    """Sees every operation, also those that make a tensor and have none to begin with."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if CudaTensor not in types and not mine(kwargs.get("device")):  # of the CPU alone: most are
            _check_generators(kwargs.values(), "cpu")
            return func(*args, **kwargs)
        return operate(func, args, kwargs)


def operate(func, args, kwargs):
    """Check where everything is, compute on the CPU, wrap."""
    name = func._schema.name.split("::")[1]
    if name == "device":
        return CUDA
    device = kwargs.get("device")
    leaves = tree_leaves((args, {k: v for k, v in kwargs.items() if k != "device"}))
    tensors = [t for t in leaves if isinstance(t, torch.Tensor)]
    cuda = [t for t in tensors if isinstance(t, CudaTensor)]
    if any(t.is_meta for t in tensors):
        raise AssertionError(f"pretend_cuda lost the values of a tensor before {func}")
    target = mine(device) if device is not None else bool(cuda)
    _check_generators(leaves, "cuda" if target else "cpu")
    if not cuda and not target:
        return func(*args, **kwargs)
    if os.getpid() != state.pid:
        raise RuntimeError(
            "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you "
            "must use the 'spawn' start method"
        )
    if device is not None and torch.device(device).index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    _check_devices(func, name, args, kwargs, tensors, cuda)
    if _waits(name, args, tensors, cuda, target, device):
        _wait(func)
    views = not func._schema.is_mutable and any(r.alias_info for r in func._schema.returns)
    counts["ops"] += not views
    plain = tree_map(lambda v: v.inner if isinstance(v, CudaTensor) else v, (args, kwargs))
    inner_args, inner_kwargs = plain
    if device is not None:
        inner_kwargs["device"] = "cpu"
    inner_kwargs.pop("pin_memory", None)
    call = _computation(func, name, inner_args, inner_kwargs, target)
    if state.capture is not None and target:
        state.capture.remember(func, args, kwargs)
    out = call()
    if name in ("_to_copy", "clone") and not target and out is inner_args[0]:
        out = out.clone()
    if state.capture is not None and target and not views:
        state.capture.record(func, call, out, plain)
    if not target:
        return out
    known = {id(t.inner): t for t in cuda}  # what is changed in place comes back as itself

    def wrapped(value):
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else CudaTensor(value)

    return tree_map(wrapped, out)


def _check_devices(func, name, args, kwargs, tensors, cuda):
    if name in CROSS or not cuda:
        return
    if name in INDEX:
        if not isinstance(args[0], CudaTensor) and any(isinstance(i, CudaTensor) for i in args[1]):
            raise RuntimeError("indices should be either on cpu or on the same device as the "
                               "indexed tensor (cpu)")
        tensors = [t for t in (args[0], *args[2:3]) if isinstance(t, torch.Tensor)]
        if len({isinstance(t, CudaTensor) for t in tensors}) > 1 and tensors[-1].dim():
            raise RuntimeError(f"{MIXED}, cuda:0 and cpu!")
        return
    written = set(map(id, _written(func, args, kwargs)))
    for t in tensors:
        number = t.dim() == 0 and name not in STRICT and id(t) not in written
        if not isinstance(t, CudaTensor) and not number and t is not kwargs.get("lr"):
            shapes = [tuple(x.shape) for x in tensors]
            raise RuntimeError(f"{MIXED}, cuda:0 and cpu! (in {func}, shapes {shapes})")


def _written(func, args, kwargs):
    """The tensors that an operation changes in place."""
    found = list(args[3:5]) if func is aten.native_batch_norm.default else []  # no schema says so
    schema = func._schema.arguments
    by_name = {a.name: v for a, v in zip(schema, args, strict=False)} | kwargs
    for argument in schema:
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += tree_leaves(by_name.get(argument.name))
    return [t for t in found if isinstance(t, torch.Tensor)]


def _check_generators(leaves, device):
    for g in leaves:
        if isinstance(g, torch._C.Generator):
            found = "cuda" if g._cdata in on_cuda else "cpu"
            if found != device:
                raise RuntimeError(
                    f"Expected a '{device}' device type for generator but found '{found}'"
                )


def _waits(name, args, tensors, cuda, target, device):
    """Whether the host has to wait for the device in this operation."""
    if name == "copy_":
        return isinstance(args[0], CudaTensor) != isinstance(args[1], CudaTensor)
    if name in INDEX:  # a mask's length decides a shape; indices on the CPU have to come over
        return any(i is not None and (i.dtype in (torch.bool, torch.uint8) or
                   not isinstance(i, CudaTensor)) for i in args[1])
    comes = target and device is not None and tensors and not cuda
    return name in WAITS or comes or (cuda and not target)


def _wait(what):
    if state.capture is not None:
        state.capture.broken = True
        raise RuntimeError(f"{CAPTURING}: {what}")
    counts["syncs"] += 1
    frame = sys._getframe()
    while frame and ("torch" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    if frame:
        where[frame.f_code.co_filename, frame.f_lineno] += 1


def _computation(func, name, args, kwargs, target):
    """The computation as a function: CUDA's random numbers, its rounding, float16 everywhere."""

    def widely(low):
        """Sums of 16-bit products are taken in 32, and rounded once."""
        wide = func(*_cast(args, low, torch.float), **_cast(kwargs, low, torch.float))
        return _shaken(name, _cast(wide, torch.float, low))

    def plain():
        first = next((a.dtype for a in args if isinstance(a, torch.Tensor)), None)
        if name in PRODUCTS | CONVOLUTIONS and first in (torch.half, torch.bfloat16):
            return widely(first)
        try:
            return _shaken(name, func(*_rounded(name, args), **kwargs))
        except RuntimeError as error:  # few kernels of CPUs know float16; CUDA's linalg neither
            if "not implemented for 'Half'" not in str(error) or func._schema.is_mutable or (
                "linalg" in name
            ):
                raise
        return widely(torch.half)

    draws = torch.Tag.nondeterministic_seeded in func.tags
    if not target or not draws or any(isinstance(v, torch._C.Generator)
                                      for v in (*args, *kwargs.values())):
        return plain

    def drawing():
        before = torch.get_rng_state()
        torch.set_rng_state(state.random)
        try:
            return plain()
        finally:
            state.random = torch.get_rng_state()
            torch.set_rng_state(before)

    return drawing


def _cast(tree, old, new):
    """A tree whose tensors of one dtype have become another."""
    return tree_map(
        lambda v: v.to(new) if isinstance(v, torch.Tensor) and v.dtype == old else v, tree
    )


def _rounded(name, args):
    """The arguments as a card with TF32 reads them: ten bits of the mantissa are left.

    Which kernel computes a convolution depends on its shape: here small batches keep all digits.
    """
    convolution = name in CONVOLUTIONS
    allowed = torch.backends.cudnn if convolution else torch.backends.cuda.matmul
    if not (convolution or name in PRODUCTS) or state.card[1] < (8, 0) or not allowed.allow_tf32:
        return args
    if convolution and len(args[0]) < 8:
        return args

    def ten_bits(v):
        if not isinstance(v, torch.Tensor) or v.dtype != torch.float32:
            return v
        return (v.view(torch.int32) + (1 << 12) & ~((1 << 13) - 1)).view(torch.float32)

    return tree_map(ten_bits, args)


def _shaken(name, out):
    """Sums that many threads make in no fixed order: the last digit differs from run to run."""
    fixed = torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic
    if name not in UNORDERED or fixed:
        return out
    for t in [out] if isinstance(out, torch.Tensor) else out[1:]:  # not the inputs' gradient
        if t is not None and t.dtype == torch.float32:
            digits = torch.randint(-1, 2, t.shape, generator=state.noise)
            t.mul_(1 + digits * torch.finfo(torch.float32).eps)
    return out


# CUDA graphs: a capture computes, but its traces are removed; a replay computes again -------------


class Capture:
    """What happens between capture_begin and capture_end."""

    def __init__(self):
        self.tape, self.alive = [], []
        self.made, self.before = set(), {}  # storages: made in the capture; as they were before it
        self.random, self.broken = state.random, False

    def remember(self, func, args, kwargs):
        """Keep what an operation will overwrite."""
        for t in _written(func, args, kwargs):
            storage = t.inner.untyped_storage()
            if storage._cdata not in self.made and storage._cdata not in self.before:
                self.before[storage._cdata] = storage, storage.clone()

    def record(self, func, call, out, arguments):
        results = [o for o in tree_leaves(out) if isinstance(o, torch.Tensor)]
        fresh = [None if func._schema.is_mutable else o for o in results]
        self.made.update(o.untyped_storage()._cdata for o in fresh if o is not None)
        self.tape.append((call, fresh))
        self.alive.append((out, arguments))


class CUDAGraph:
    capture = None

    def __init__(self, keep_graph=False):
        pass

    def capture_begin(self, *_, **__):
        if state.capture is not None:
            raise RuntimeError("CUDA error: a capture is already under way")
        state.capture = Capture()

    def capture_end(self):
        done, state.capture = state.capture, None
        for storage, content in done.before.values():
            storage.copy_(content)
        state.random = done.random
        with torch.no_grad(), _disable_current_modes():
            for _, fresh in done.tape:  # nothing was computed: who reads before a replay sees it
                for o in fresh:
                    if o is not None and o.is_floating_point():
                        o.fill_(float("nan"))
        if done.broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error in a capture")
        self.capture = done

    def replay(self):
        if self.capture is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        counts["replays"] += 1
        with torch.no_grad(), _disable_current_modes():
            for call, fresh in self.capture.tape:
                results = [o for o in tree_leaves(call()) if isinstance(o, torch.Tensor)]
                for old, new in zip(fresh, results, strict=True):
                    if old is not None:
                        old.copy_(new)

    def reset(self):
        self.capture = None

    def pool(self):
        return (0, 1)

    def register_generator_state(self, generator):
        pass


class graph:
    def __init__(self, cuda_graph, pool=None, stream=None, capture_error_mode="global"):
        self.graph = cuda_graph

    def __enter__(self):
        self.graph.capture_begin()

    def __exit__(self, *error):
        self.graph.capture_end()


class Stream:
    cuda_stream, device = 0, CUDA

    def __init__(self, *_, **__):
        pass

    def wait_stream(self, other):
        pass

    def wait_event(self, event):
        pass

    def record_event(self, event=None):
        event = event or Event()
        event.record()
        return event

    def synchronize(self):
        torch.cuda.synchronize()

    def query(self):
        return True


class Event:
    def __init__(self, enable_timing=False, blocking=False, interprocess=False):
        self.timing, self.at, self.waits = enable_timing, None, None

    def record(self, stream=None):
        self.at, self.waits = time.perf_counter(), counts["syncs"]

    def elapsed_time(self, other):
        if not (self.timing and other.timing):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        if self.at is None or other.at is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        if not (self.query() and other.query()):
            raise RuntimeError("CUDA error: device not ready")
        return 1e3 * (other.at - self.at)

    def synchronize(self):
        torch.cuda.synchronize()

    def wait(self, stream=None):
        pass

    def query(self):
        return self.waits is None or counts["syncs"] > self.waits


# Autocast: CUDA's lists (torch's documentation, "Autocast Op Reference") --------------------------

HALF = """conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input conv_transpose3d.input addmm
addmv addr matmul mm mv linear addbmm baddbmm bmm chain_matmul linalg_multi_dot prelu einsum
scaled_dot_product_attention""".split()
FULL = """acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan
pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm group_norm
frobenius_norm.dim nuclear_norm nuclear_norm.dim cosine_similarity poisson_nll_loss
cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss kl_div l1_loss smooth_l1_loss
huber_loss mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss
triplet_margin_loss multi_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm
logsumexp softmax.int log_softmax.int cumprod cumsum prod sum sum.dim_IntList norm.Scalar
norm.ScalarOpt_dim linalg_vector_norm linalg_matrix_norm prod.dim_int rms_norm""".split()
WIDEST = """addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot
scatter_add""".split()


def _autocast():
    """Kernels of the dispatch key AutocastCUDA; alive as long as what is returned."""
    library = torch.library.Library("aten", "IMPL")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

    def register(name, wanted):
        packet, _, overload = name.partition(".")
        packet = getattr(aten, packet, None)
        op = getattr(packet, overload or "default", None)
        if op is None:  # another version of torch has it by another name
            return

        def kernel(*args, **kwargs):
            tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, CudaTensor)]
            dtype = wanted(tensors)

            def cast(v):
                narrow = isinstance(v, CudaTensor) and v.is_floating_point()
                return v.to(dtype) if narrow and v.dtype != torch.double else v

            with torch._C._ExcludeDispatchKeyGuard(keys):
                return op(*tree_map(cast, args), **tree_map(cast, kwargs))

        library.impl(op, kernel, "AutocastCUDA")

    def half(tensors):
        return torch.get_autocast_dtype("cuda")

    def full(tensors):
        return torch.float32

    def widest(tensors):
        return full(tensors) if any(t.dtype == torch.float32 for t in tensors) else half(tensors)

    def refuse(*_, **__):
        raise RuntimeError("torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are "
                           "unsafe to autocast.")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for names, wanted in ((HALF, half), (FULL, full), (WIDEST, widest)):
            for name in names:
                register(name, wanted)
        library.impl(aten.binary_cross_entropy.default, refuse, "AutocastCUDA")
    return library


# torch.cuda and the rest --------------------------------------------------------------------------


def install(card="T4"):
    """From here on this process has a GPU, one of CARDS."""
    if state.card is not None:
        raise RuntimeError("This process pretends already.")
    state.card, state.pid = CARDS[card], os.getpid()
    state.noise = Generator().manual_seed(int.from_bytes(os.urandom(4)))
    state.random = Generator().manual_seed(0).get_state()
    torch.Generator = Generator
    _install_module(*state.card)
    _install_tensors()
    _install_modules_and_optimizers()
    _install_files()
    _install_profiler()
    state.autocast = _autocast()
    Everything().__enter__()


def _install_module(title, capability, total, processors):
    """What torch.cuda says and does."""
    properties = types.SimpleNamespace(
        name=title, major=capability[0], minor=capability[1], total_memory=int(total),
        multi_processor_count=processors, is_integrated=False, L2_cache_size=4 << 20, warp_size=32,
    )

    def nothing(*_, **__):
        pass

    def saying(answer):
        return lambda *_, **__: answer

    def no_context(*_, **__):
        return contextlib.nullcontext()

    def manual_seed(seed):
        state.random = Generator().manual_seed(int(seed)).get_state()

    def set_rng_state(new, device="cuda"):
        if isinstance(new, CudaTensor):
            raise TypeError("RNG state must be a torch.ByteTensor")
        state.random = new.clone()

    def reset_peak(device=None):
        memory.peak = memory.used

    patches = {
        "is_available": saying(True), "is_initialized": saying(True), "_lazy_init": nothing,
        # Where a parent has used autograd it is True, and torch.manual_seed leaves CUDA out.
        "_is_in_bad_fork": lambda: os.getpid() != state.pid,
        "device_count": saying(1), "current_device": saying(0), "set_device": nothing,
        "get_device_name": saying(title), "get_device_capability": saying(capability),
        "get_device_properties": saying(properties), "device": no_context, "stream": no_context,
        "synchronize": lambda device=None: _wait("synchronize"),
        "manual_seed": manual_seed, "manual_seed_all": manual_seed, "initial_seed": saying(0),
        "get_rng_state": lambda device="cuda": state.random.clone(),
        "get_rng_state_all": lambda: [state.random.clone()], "set_rng_state": set_rng_state,
        "set_rng_state_all": lambda states: [set_rng_state(s) for s in states],
        "is_bf16_supported":
            lambda including_emulation=True: including_emulation or capability >= (8, 0),
        "mem_get_info": lambda device=None: (int(0.97 * total) - memory.used, int(total)),
        "memory_allocated": lambda device=None: memory.used,
        "memory_reserved": lambda device=None: memory.used,
        "max_memory_allocated": lambda device=None: memory.peak,
        "max_memory_reserved": lambda device=None: memory.peak,
        "reset_peak_memory_stats": reset_peak, "empty_cache": nothing,
        "Stream": Stream, "Event": Event, "CUDAGraph": CUDAGraph, "graph": graph,
        "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(),
        "is_current_stream_capturing": lambda: state.capture is not None,
    }
    for name, value in patches.items():
        setattr(torch.cuda, name, value)
    torch.cuda.random.manual_seed = torch.cuda.random.manual_seed_all = manual_seed
    for name in ("CUDAGraph", "graph", "is_current_stream_capturing"):
        setattr(torch.cuda.graphs, name, patches[name])
    torch._C._ensureCUDADeviceGuardSet()


def _install_tensors():
    """Functions that fill a tensor before any mode is asked."""

    def placing(make):
        def made(data, *args, device=None, **options):
            if isinstance(data, CudaTensor):
                found = data if make is as_tensor else data.detach().clone()
                return found.to(device or CUDA, options.get("dtype") or data.dtype)
            if isinstance(data, list | tuple) and data and isinstance(data[0], CudaTensor):
                data = [v.item() if isinstance(v, CudaTensor) else v for v in data]
            made_here = make(data, *args, device="cpu", **options)
            return made_here.to(device if device is not None else _default_device())

        return made

    as_tensor = torch.as_tensor
    torch.tensor, torch.as_tensor = placing(torch.tensor), placing(as_tensor)


def _default_device():
    """What `with torch.device(...)` or `torch.set_default_device` asks for."""
    modes = reversed(torch.overrides._get_current_function_mode_stack())
    return next((mode.device for mode in modes if isinstance(mode, DeviceContext)), "cpu")


def _install_modules_and_optimizers():
    grouped = torch._C._group_tensors_by_device_and_dtype

    def by_device(*args, **kwargs):
        found = grouped(*args, **kwargs)
        return {(CUDA if mine(d) else d, dtype): value for (d, dtype), value in found.items()}

    torch._C._group_tensors_by_device_and_dtype = by_device
    from torch.optim import optimizer

    torch.utils._foreach_utils._foreach_supported_types = optimizer._foreach_supported_types
    optimizer._foreach_supported_types.append(CudaTensor)
    apply = torch.nn.Module._apply

    def apply_swapping(self, *args, **kwargs):
        """Parameters stay the same objects when they move, unless a graph of autograd has them."""
        free = all(p._use_count() == 1 for p in self.parameters(recurse=False))
        torch.__future__.set_swap_module_params_on_conversion(free)
        return apply(self, *args, **kwargs)

    torch.nn.Module._apply = apply_swapping
    torch._has_compatible_shallow_copy_type = lambda a, b: (
        isinstance(a, CudaTensor) == isinstance(b, CudaTensor)
    )


def _install_files():
    """torch.save notes the device, and torch.load puts tensors there, or where it is told to."""
    torch.serialization.register_package(
        1, lambda s: "cuda:0" if getattr(s, "on_cuda", False) else None, lambda s, location: None
    )
    load = torch.load

    def loaded(f, map_location=None, **options):
        there = set()  # storages that were saved on the device

        def note(storage, location):
            if location.startswith("cuda"):
                there.add(storage._cdata)
            return storage

        def wrap(v):
            back = map_location is None and v.untyped_storage()._cdata in there
            return CudaTensor(v) if back or mine(map_location) else v

        plain = map_location is None or mine(map_location)
        found = load(f, map_location=note if plain else map_location, **options)
        return tree_map(lambda v: wrap(v) if isinstance(v, torch.Tensor) else v, found)

    torch.load = loaded


def _install_profiler():
    """There is no device to ask for its times; what happens inside the pretence doesn't count."""
    from torch.autograd.profiler_util import EventList
    from torch.profiler import ProfilerActivity, profiler

    averages = EventList.key_averages

    def inside(event):
        while event is not None and not event.name.startswith("PythonDispatchMode"):
            event = event.cpu_parent
        return event is not None

    def key_averages(self, *args, **options):
        self[:] = [event for event in self if not inside(event)]
        return averages(self, *args, **options)

    EventList.key_averages = key_averages

    begin = profiler._KinetoProfile.__init__

    def init(self, *, activities=None, **options):
        kept = {a for a in activities or () if a != ProfilerActivity.CUDA}
        begin(self, activities=kept or None, **options)

    profiler._KinetoProfile.__init__ = init


def on(card):
    """Decorator: a test runs in a child process that pretends to have this card."""

    def decorated(test):
        @functools.wraps(test)
        def run(*arguments, **fixtures):
            said = complaint(card, lambda: test(*arguments, **fixtures))
            assert not said, said

        return run

    return decorated


def complaint(card, function):
    """What goes wrong in function() in a child process that has this card, as text; "" if nothing.

    The course chooses the device itself there. "killed by signal 9" if it was.
    """
    here, there = os.pipe()
    if not (process := os.fork()):
        os.close(here)
        try:
            os.environ.pop("GENCOURSE_DEVICE", None)
            torch.set_num_threads(1)  # threads don't survive a fork
            install(card)
            function()
        except BaseException:
            os.write(there, traceback.format_exc()[-8_000:].encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(process, 0)
    return said or (f"killed by signal {status}" if status else "")


if __name__ == "__main__":
    sys.modules["pretend_cuda"] = sys.modules["__main__"]
    del sys.argv[0]
    install(sys.argv.pop(0))
    if sys.argv[0] == "-m":
        sys.path[0] = os.getcwd()
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
        runpy.run_path(sys.argv[0], run_name="__main__")
