"""The chapters' training loops as functions: `train_classifier` (chapter 03), `train_gan` (05) and
`train_vae` (08), made fast as in chapter 14, on one device or on several.

What they share stands here once: `Options` is what every training can be told, `walk` takes the
steps. A further kind of model is its step, its nets and its defaults.
"""

import copy
import difflib
import functools
import inspect
import json
import os
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
import torch.nn.functional as F

from gencourse import fast, losses, ranks, runtime, tracker
from gencourse.checkpoint import write_atomically
from gencourse.run import Run

LIMITS = {  # from where to where a number makes sense; whole ones are whole numbers
    "steps": (1, 10**9),
    "batch_size": (1, 2**16),
    "lr": (1e-12, 1e3),
    "seed": (0, 2**32 - 1),  # what NumPy's generator takes
    "sample_every": (1, 10**9),
    "checkpoint_every": (1, 10**9),
    "z_dim": (1, 2**16),
    "width": (1, 2**12),
    "beta": (0.0, 1e6),
    "shift": (0, 2**10),
}
OF_A_RUN = ("batch_size", "sample_every", "checkpoint_every", "progress", "tracker", "fresh")


def check(**numbers):
    """Raise OptionError for a number outside of LIMITS."""
    for name, value in numbers.items():
        runtime.within(name, value, *LIMITS[name])


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every training can be told: each `train_…` takes all of these as keywords.

    steps: in all. batch_size: pictures per step, of all processes together.
    lr: peak of `learning_rate`.
    seed: of everything random in the loop (the weights were drawn before, by the caller).
    out: folder; the same call continues it, or returns at once when it is finished.
    fresh: start over: delete what an earlier run left there, once the new one is known to start.
    sample_every, checkpoint_every: steps from one to the next.
    tracker: "tensorboard" or "wandb". progress: whether to draw a bar; see `run.Run` for both.

    The switches of speed; none of them shapes the result:

    precision: "float32", "bfloat16" or "float16"; None: what suits the device, see
        `fast.precision`.
    channels_last: memory layout of the nets; faster convolutions, the same function.
    fused: Adam in one kernel. compile: torch.compile of the nets; slow to start.
    graph: one CUDA graph for the whole step, see `fast.Graphed`; with a single process. It has not
        been run on a GPU yet, so it is not the default.
    sync_batch_norm: with several processes, BatchNorm over the global batch instead of each one's
        part; then N processes take the step that one would.

    Raises: runtime.UserError for what can't be: before anything is begun or deleted.
    """

    steps: int
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    out: Path | str | None = None
    fresh: bool = False
    sample_every: int = 500
    checkpoint_every: int = 500
    tracker: str | None = None
    progress: bool = True
    precision: str | None = None
    channels_last: bool = True
    fused: bool = True
    compile: bool = False
    graph: bool = False
    sync_batch_norm: bool = True

    def __post_init__(self):
        check(**{name: value for name, value in vars(self).items() if name in LIMITS})
        if self.out is not None and not str(self.out):
            raise runtime.OptionError("out", "is empty; name a folder.")
        folder = os.path.expanduser(self.out or ".")
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise runtime.OptionError("out", f"{self.out} is a file; name a folder.")
        if self.tracker is not None:
            tracker.check(self.tracker)
        ranks.start()
        if self.batch_size % ranks.world():
            raise runtime.OptionError(
                "batch_size",
                f"is {self.batch_size}, which {ranks.world()} processes can't share evenly; "
                f"choose a multiple of {ranks.world()}.",
            )
        if self.graph and (self.device.type != "cuda" or ranks.world() > 1):
            raise runtime.UserError(
                "A CUDA graph needs a CUDA device and a single process: leave graph (--graph) out."
            )
        if self.compile:
            fast.check_compile()
        self.dtype  # noqa: B018  (or its refusal)

    @cached_property
    def device(self):
        return runtime.device()

    @cached_property
    def dtype(self):
        return fast.precision(self.precision)

    def autocast(self):
        """A context in which a net computes in the precision asked for, see `fast.autocast`."""
        return fast.autocast(self.device, self.dtype)


def takes_options(train, without=()):
    """A `train_…` function whose signature names all of `Options`, but for those `without` names.

    A keyword that it does not have is refused, with the nearest that it has.
    """
    *own, _ = inspect.signature(train).parameters.values()  # the last is **options
    left_out = {*without, *(p.name for p in own)}
    shared = [p for n, p in inspect.signature(Options).parameters.items() if n not in left_out]
    signature = inspect.Signature(own + shared)

    @functools.wraps(train)
    def call(*given, **named):
        for name in named.keys() - signature.parameters.keys():
            near = difflib.get_close_matches(name, signature.parameters, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"See help(train.{train.__name__})."
            raise TypeError(f"{train.__name__} has no option {name!r}. {hint}")
        signature.bind(*given, **named)
        return train(*given, **named)

    call.__signature__ = signature
    return call


def walk(images, draw, step, options, *, nets, parts, settings, sample=None, schedule=None):
    """Take the steps of a training: the one loop that all kinds of model share.

    images: data.Images. draw: function of this process's indices into them, (B,) int64 → tuple of
        tensors. step: function of those → dict of scalar tensors, for the history; it moves the
        weights, and may be captured in a CUDA graph.
    options: Options. settings: dict, what else shapes the result, see `run.Run`.
    nets, parts: dicts name → what is trained, and all else that has a state. Of the parts,
        optimizers get their rate before each step, and each EMA is moved after it.
    sample: as for `run.Run`. schedule: function of (step, total, peak) → rate, default
        `learning_rate`.
    Returns: the Run, finished.
    Raises: runtime.UserError, checkpoint.WriteError as `Run` does.
    """
    optimizers = [p for p in parts.values() if isinstance(p, torch.optim.Optimizer)]
    averages = [p for p in parts.values() if isinstance(p, EMA)]
    schedule = schedule or learning_rate
    runtime.seed_everything(options.seed)
    with Run(
        options.out,
        settings=_describe(images, nets) | {"lr": options.lr} | settings | {"seed": options.seed},
        sample=sample,
        real=None if sample is None else images.batch(0, min(256, len(images))),
        **{name: getattr(options, name) for name in OF_A_RUN},
        **nets,
        **parts,
    ) as run:
        for optimizer in optimizers:  # here: a checkpoint brings settings of its own
            fast.prepare_optimizer(optimizer, options.graph)
        step = fast.Graphed(step) if options.graph else step
        for number in run.steps(options.steps):
            set_learning_rate(schedule(number, options.steps, options.lr), *optimizers)
            row = step(*draw(ranks.part(images.indices(number, options.batch_size))))
            for average in averages:
                average.update()
            run.log(**ranks.mean(row))
    return run


def _describe(images, nets):
    """What decides a result besides the settings: the pictures and the sizes of the nets."""
    sizes = {
        name: f"{type(net).__name__} with {sum(p.numel() for p in net.parameters()):,} weights"
        for name, net in nets.items()
    }
    return {"data": images.name, "pictures": len(images), "shape": list(images.shape), **sizes}


def prepared(models, options):
    """Models on the device, equal in all processes and in training mode, as the switches say."""
    fast.keep_freed_memory()
    layout = torch.channels_last if options.channels_last else torch.preserve_format
    models = [m.to(options.device, memory_format=layout).train() for m in models]
    ranks.copy_from_main(*models)
    if options.sync_batch_norm:
        models = [ranks.synchronised(m) for m in models]
    if options.compile:
        for model in models:
            model.compile()  # in place: the names of the weights stay what they were
    return models


class EMA:
    """An exponential moving average of a model's weights and BatchNorm statistics.

    decay: weight of the past per update, in [0, 1); it averages over about 1 / (1 − decay) steps.
    A young average forgets faster, (1 + n) / (10 + n) after n updates, or short runs would end
    with the initial weights in their samples.
    `.model` is the averaged copy, in eval mode. Source: Yazıcı et al. 2019, arXiv:1806.04498.
    """

    def __init__(self, model, decay=0.995):
        self.source, self.decay, self.updates = model, decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self):
        """Move every average towards the model's present value."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        mine, theirs = self.model.state_dict(), self.source.state_dict()
        floats = [k for k in mine if mine[k].is_floating_point()]
        torch._foreach_lerp_([mine[k] for k in floats], [theirs[k] for k in floats], 1 - decay)

    def state_dict(self):
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state):
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])


def gradient_norm(model):
    """Length of the gradient that the last `backward` left in a model's weights.

    Returns: scalar tensor, √(Σ g²) over all weights, on their device (nothing waits for it), for
    a loop of your own: `run.log(d_loss=d_loss, …, d_grad=gradient_norm(D))`. Never infinite
    or NaN: it is for the loss, not for a square that overflows, to end a run.
    """
    most = torch.finfo(torch.float32).max
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).clamp(max=most).nan_to_num(nan=most)


def descend(loss, model, optimizer, scaler):
    """One step of an optimizer down the gradient of a loss, which all processes share.

    model: what the optimizer trains. scaler: fast.Scaler; the caller calls its `update`, once a
        step.
    Returns: the gradient's length before the step, see `gradient_norm`.
    """
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    ranks.average_gradients(model)
    scaler.unscale_(optimizer)
    length = gradient_norm(model)
    scaler.step(optimizer)
    return length


def active_units(mu):
    """How many latent units carry something: those whose mean varies, Var_x[μ] > 0.01.

    mu: (B, Z), the means of q(z|x) of a batch. Returns: scalar tensor.
    Source: Burda et al. 2016, arXiv:1509.00519, section 5.2.
    """
    return (mu.detach().var(0) > 0.01).sum()


def learning_rate(step, total, peak):
    """Constant for the first half of the steps, then linearly to zero.

    A pure function of the step, like the batch: there is no scheduler state to save.
    """
    return peak * min(1.0, 2 * (1 - step / total))


def set_learning_rate(rate, *optimizers):
    """Set the rate of every parameter group of the optimizers, in place where it is a tensor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


@takes_options
def train_gan(images, generator, discriminator, *, betas=(0.5, 0.999), ema_decay=0.995, **options):
    """Train a GAN with the non-saturating loss; the loop is chapter 05's.

    images: data.Images; generator: module with z_dim, (B, Z) → (B, C, H, W); discriminator:
        (B, C, H, W) → logits (B,). Both are trained in place, on runtime.device().
    betas: Adam's; ema_decay: see EMA. All other keywords: see `Options`.
    Returns: (averaged generator in eval mode, history as a dict of lists: d_loss, g_loss [nats];
        d_real, d_fake, the means of D(x) and D(G(z)); d_grad, g_grad, see `gradient_norm`).
    Raises: runtime.UserError, checkpoint.WriteError as `Options` and `Run` do.
    """
    options = Options(**options)
    G, D = prepared([generator, discriminator], options)
    ema = EMA(G, ema_decay)
    adam = partial(torch.optim.Adam, lr=options.lr, betas=betas, fused=options.fused)
    g_opt, d_opt = adam(G.parameters()), adam(D.parameters())
    scaler = fast.Scaler(options.device, options.dtype)
    noise = fixed_noise(64, G.z_dim, options.seed)

    def draw(indices):
        return images.images(indices), normal(G.z_dim, options)

    def step(x_real, z):
        """One step of both nets, on this process's part of the batch."""
        with options.autocast():
            x_fake = G(z)
            # Two passes of D, so that BatchNorm sees one kind at a time.
            real_logits, fake_logits = fast.widen(D(x_real)), fast.widen(D(x_fake.detach()))

        # D: tell real from generated.
        d_loss = losses.discriminator_loss(real_logits, fake_logits)
        d_grad = descend(d_loss, D, d_opt, scaler)

        # G: be taken for real. D's weights need no gradient here, which saves a third of D.
        D.requires_grad_(False)
        with options.autocast():
            g_logits = fast.widen(D(x_fake))
        g_loss = losses.generator_loss(g_logits)
        g_grad = descend(g_loss, G, g_opt, scaler)
        D.requires_grad_(True)

        scaler.update()
        return {
            "d_loss": d_loss.detach(),
            "g_loss": g_loss.detach(),
            "d_real": torch.sigmoid(real_logits.detach()).mean(),
            "d_fake": torch.sigmoid(fake_logits.detach()).mean(),
            "d_grad": d_grad,
            "g_grad": g_grad,
        }

    run = walk(
        *(images, draw, step, options),
        nets={"generator": G, "discriminator": D},
        parts={"ema": ema, "g_opt": g_opt, "d_opt": d_opt, "scaler": scaler},
        settings={"betas": betas, "ema_decay": ema_decay},
        sample=lambda: ema.model(noise),
    )
    if run.writes():
        save_weights(run.folder / "generator.safetensors", ema.model, run.settings)
    return ema.model, run.history


@takes_options
def train_vae(images, vae, *, beta=1.0, **options):
    """Train a VAE with its likelihood, Bernoulli or Gaussian; the loop is chapter 08's.

    images: data.Images; vae: as nets.VAE, trained in place on runtime.device() and left in eval
        mode. beta: weight of the KL term, 1 for the ELBO. All other keywords: see `Options`.
    Returns: history, a dict of lists with loss, nll and kl [nats per image]; active, see
        `active_units`; grad, see `gradient_norm`; with a Gaussian likelihood also sigma, of pixels
        in [-1, 1].
    Raises: runtime.UserError, checkpoint.WriteError as `Options` and `Run` do.
    """
    check(beta=beta)
    options = Options(**options)
    (vae,) = prepared([vae], options)
    optimizer = torch.optim.Adam(vae.parameters(), lr=options.lr, fused=options.fused)
    scaler = fast.Scaler(options.device, options.dtype)
    noise = fixed_noise(64, vae.z_dim, options.seed)
    gaussian = hasattr(vae, "log_sigma")

    def draw(indices):
        return images.images(indices), normal(vae.z_dim, options)

    def step(x, noise):
        """One step of the VAE, on this process's part of the batch."""
        with options.autocast():
            logits, mu, logvar = (fast.widen(t) for t in vae(x, noise))
        if gaussian:
            sigma = vae.log_sigma.exp()
            nll = losses.gaussian_nll(2 * torch.sigmoid(logits) - 1, x, sigma)
        else:
            nll = losses.bernoulli_nll(logits, (x + 1) / 2)
        loss = losses.negative_elbo(nll, mu, logvar, beta)
        grad = descend(loss, vae, optimizer, scaler)
        scaler.update()
        row = {
            "loss": loss.detach(),
            "nll": nll.detach(),
            "kl": losses.kl_to_standard_normal(mu.detach(), logvar.detach()).mean(),
            "active": active_units(mu),
            "grad": grad,
        }
        return row | {"sigma": sigma.detach()} if gaussian else row

    run = walk(
        *(images, draw, step, options),
        nets={"vae": vae},
        parts={"optimizer": optimizer, "scaler": scaler},
        settings={"beta": beta},
        sample=lambda: vae.sample(noise),
    )
    vae.eval()
    if run.writes():
        save_weights(run.folder / "vae.safetensors", vae, run.settings)
    return run.history


@partial(takes_options, without=["sample_every"])
def train_classifier(
    images, classifier, *, batch_size=128, lr=2e-3, shift=1, test_images=None, **options
):
    """Train a classifier with cross-entropy on shifted pictures; the loop is chapter 03's.

    images: data.Images with labels; classifier: (B, C, H, W) → logits (B, K), trained in place on
        runtime.device() and left in eval mode.
    shift: pixels that a picture is moved by, at most, see `shifted`.
    test_images: data.Images whose accuracy is written beside the weights; never trained on.
    All other keywords: see `Options`.
    Returns: history, a dict of lists with loss [nats per image] and accuracy (of the batch).
    Raises: runtime.UserError (also if the pictures have no classes to tell apart),
        checkpoint.WriteError as `Options` and `Run` do.
    """
    if len(images.classes) < 2:
        raise runtime.UserError(
            f"{images.name} has no classes to tell apart: a classifier needs labelled pictures, "
            "in a folder of yours one subfolder for each class."
        )
    check(shift=shift)
    options = Options(batch_size=batch_size, lr=lr, **options)
    (classifier,) = prepared([classifier], options)
    weights = classifier.parameters()
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01, fused=options.fused)
    scaler = fast.Scaler(options.device, options.dtype)
    arguments = getattr(classifier, "arguments", {})  # of nets.Classifier: builds it again

    def draw(indices):
        labels = images.labels[indices].to(options.device)
        return shifted(images.images(indices), shift), labels

    def step(x, labels):
        """One step of the classifier, on this process's part of the batch."""
        with options.autocast():
            logits = fast.widen(classifier(x))
        loss = F.cross_entropy(logits, labels)
        descend(loss, classifier, optimizer, scaler)
        scaler.update()
        return {"loss": loss.detach(), "accuracy": (logits.argmax(1) == labels).float().mean()}

    run = walk(
        *(images, draw, step, options),
        nets={"classifier": classifier},
        parts={"optimizer": optimizer, "scaler": scaler},
        settings={"shift": shift} | ({"arguments": arguments} if arguments else {}),
    )
    classifier.eval()
    if run.writes():
        card = {k: v for k, v in run.settings.items() if k != "arguments"} | arguments
        card["parameters"] = sum(p.numel() for p in classifier.parameters())
        if test_images is not None:
            card |= {"accuracy": accuracy(classifier, test_images), "n_test": len(test_images)}
        save_weights(run.folder / "classifier.safetensors", classifier, card)
    return run.history


@torch.no_grad()
def accuracy(classifier, images, batch_size=500):
    """The share of data.Images whose largest logit is that of their label; uses eval mode."""
    was_training = classifier.training
    classifier.eval()
    right = 0
    for indices in torch.arange(len(images)).split(batch_size):
        predicted = classifier(images.images(indices)).argmax(1)
        right += (predicted.cpu() == images.labels[indices.to(images.labels.device)].cpu()).sum()
    classifier.train(was_training)
    return float(right) / len(images)


def shifted(x, most):
    """Move each picture by its own random whole pixels, up to `most` each way; the border repeats.

    x: (B, C, H, W). Returns the same shape. A shirt two pixels to the left is still a shirt.
    """
    if most == 0:
        return x
    b, _, h, w = x.shape
    rows = torch.randint(-most, most + 1, (b, 1), device=x.device)
    columns = torch.randint(-most, most + 1, (b, 1), device=x.device)
    rows = (torch.arange(h, device=x.device) + rows).clamp(0, h - 1)  # (B, H)
    columns = (torch.arange(w, device=x.device) + columns).clamp(0, w - 1)  # (B, W)
    pictures = torch.arange(b, device=x.device)[:, None, None]
    return x.movedim(1, -1)[pictures, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def fixed_noise(n, z_dim, seed):
    """n latents (n, Z) that depend on the seed alone and leave the global generator untouched."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, z_dim, generator=generator).to(runtime.device())


def normal(z_dim, options):
    """This process's part of the latents of a batch, (B, Z), from the global generator."""
    return ranks.part(torch.randn(options.batch_size, z_dim, device=options.device))


def save_weights(path, model, settings):
    """Write a model's weights and the settings that made it as safetensors.

    Raises: checkpoint.WriteError.
    """
    from safetensors.torch import save

    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    # One entry: safetensors writes several in random order, and equal runs give equal files.
    write_atomically(path, save(tensors, {"settings": json.dumps(settings, default=str)}))
