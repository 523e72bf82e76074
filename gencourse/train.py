"""The chapters' training loops as functions: `train_classifier` (chapter 03), `train_gan` (05) and
`train_vae` (08), made fast as in chapter 14, on one device or on several.

The switches of speed are the same in all three; none of them is a setting that shapes the result:

precision: "float32", "bfloat16" or "float16"; None: what suits the device, see `fast.precision`.
channels_last: memory layout of the nets; faster convolutions, the same function.
fused: Adam in one kernel. compile: torch.compile of the nets; slow to start.
graph: one CUDA graph for the whole step, see `fast.Graphed`; with a single process. It has not been
    run on a GPU yet, so it is not the default.
sync_batch_norm: with several processes, BatchNorm over the global batch instead of each one's part;
    then N processes take the step that one would. batch_size always is the global one.
tracker: "tensorboard" or "wandb", see `run.Run`.
"""

import copy
import json

import torch
import torch.nn.functional as F

from gencourse import fast, losses, ranks, runtime
from gencourse.checkpoint import write_atomically
from gencourse.run import Run


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


def train_gan(
    images,
    generator,
    discriminator,
    *,
    steps,
    batch_size=64,
    lr=1e-3,
    betas=(0.5, 0.999),
    ema_decay=0.995,
    seed=0,
    out=None,
    sample_every=500,
    checkpoint_every=500,
    precision=None,
    channels_last=True,
    fused=True,
    compile=False,
    graph=False,
    sync_batch_norm=True,
    tracker=None,
    progress=True,
    fresh=False,
):
    """Train a GAN with the non-saturating loss; the loop is chapter 05's.

    images: data.Images; generator: module with z_dim, (B, Z) → (B, C, H, W); discriminator:
        (B, C, H, W) → logits (B,). Both are trained in place, on runtime.device().
    lr: peak of `learning_rate` for both; betas: Adam's; ema_decay: see EMA.
    seed: of everything random in the loop (the weights were drawn before, by the caller).
    out: folder; the same call continues it, or returns at once when it is finished.
    precision … tracker: see the top of this file.
    Returns: (averaged generator in eval mode, history as a dict of lists: d_loss, g_loss [nats];
        d_real, d_fake, the means of D(x) and D(G(z)); d_grad, g_grad, see `gradient_norm`).
    Raises: runtime.UserError, checkpoint.WriteError as `Run` does.
    """
    device, dtype = runtime.device(), fast.precision(precision)
    G, D = prepared([generator, discriminator], channels_last, compile, sync_batch_norm, graph)
    ema = EMA(G, ema_decay)
    g_opt = torch.optim.Adam(G.parameters(), lr=lr, betas=betas, fused=fused)
    d_opt = torch.optim.Adam(D.parameters(), lr=lr, betas=betas, fused=fused)
    scaler = fast.Scaler(device, dtype)
    noise = fixed_noise(64, G.z_dim, seed)
    settings = {
        **_describe(images, generator=G, discriminator=D),
        **{"lr": lr, "betas": betas, "ema_decay": ema_decay, "seed": seed},
    }

    def step(x_real, z):
        """One step of both nets, on this process's part of the batch."""
        with fast.autocast(device, dtype):
            x_fake = G(z)
            # Two passes of D, so that BatchNorm sees one kind at a time.
            real_logits, fake_logits = fast.widen(D(x_real)), fast.widen(D(x_fake.detach()))

        # D: tell real from generated.
        d_loss = losses.discriminator_loss(real_logits, fake_logits)
        d_grad = descend(d_loss, D, d_opt, scaler)

        # G: be taken for real. D's weights need no gradient here, which saves a third of D.
        D.requires_grad_(False)
        with fast.autocast(device, dtype):
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

    runtime.seed_everything(seed)
    with Run(
        out,
        settings=settings,
        batch_size=batch_size,
        sample=lambda: ema.model(noise),
        sample_every=sample_every,
        real=_some(images),
        checkpoint_every=checkpoint_every,
        progress=progress,
        tracker=tracker,
        fresh=fresh,
        **{"generator": G, "discriminator": D, "ema": ema, "g_opt": g_opt, "d_opt": d_opt},
        scaler=scaler,
    ) as run:
        step = maybe_graphed(step, graph, g_opt, d_opt)
        for number in run.steps(steps):
            set_learning_rate(learning_rate(number, steps, lr), g_opt, d_opt)
            x_real = images.images(ranks.part(images.indices(number, batch_size)))
            z = ranks.part(torch.randn(batch_size, G.z_dim, device=device))
            row = step(x_real, z)
            ema.update()
            run.log(**ranks.mean(row))
    if out is not None and ranks.is_main():
        save_weights(run.folder / "generator.safetensors", ema.model, run.settings)
    return ema.model, run.history


def train_vae(
    images,
    vae,
    *,
    steps,
    batch_size=64,
    lr=1e-3,
    beta=1.0,
    seed=0,
    out=None,
    sample_every=500,
    checkpoint_every=500,
    precision=None,
    channels_last=True,
    fused=True,
    compile=False,
    graph=False,
    sync_batch_norm=True,
    tracker=None,
    progress=True,
    fresh=False,
):
    """Train a VAE with the Bernoulli likelihood; the loop is chapter 08's.

    images: data.Images; vae: as nets.VAE, trained in place on runtime.device().
    lr: peak of `learning_rate`; beta: weight of the KL term, 1 for the ELBO.
    seed, out, precision … tracker: as for `train_gan`.
    Returns: history, a dict of lists with loss, nll and kl [nats per image]; active, see
        `active_units`; grad, see `gradient_norm`.
    Raises: runtime.UserError, checkpoint.WriteError as `Run` does.
    """
    device, dtype = runtime.device(), fast.precision(precision)
    (vae,) = prepared([vae], channels_last, compile, sync_batch_norm, graph)
    optimizer = torch.optim.Adam(vae.parameters(), lr=lr, fused=fused)
    scaler = fast.Scaler(device, dtype)
    noise = fixed_noise(64, vae.z_dim, seed)
    settings = {**_describe(images, vae=vae), "lr": lr, "beta": beta, "seed": seed}

    def step(x, noise):
        """One step of the VAE, on this process's part of the batch."""
        with fast.autocast(device, dtype):
            logits, mu, logvar = (fast.widen(t) for t in vae(x, noise))
        nll = losses.bernoulli_nll(logits, (x + 1) / 2)
        loss = losses.negative_elbo(nll, mu, logvar, beta)
        grad = descend(loss, vae, optimizer, scaler)
        scaler.update()
        return {
            "loss": loss.detach(),
            "nll": nll.detach(),
            "kl": losses.kl_to_standard_normal(mu.detach(), logvar.detach()).mean(),
            "active": active_units(mu),
            "grad": grad,
        }

    runtime.seed_everything(seed)
    with Run(
        out,
        settings=settings,
        batch_size=batch_size,
        sample=lambda: vae.sample(noise),
        sample_every=sample_every,
        real=_some(images),
        checkpoint_every=checkpoint_every,
        progress=progress,
        tracker=tracker,
        fresh=fresh,
        **{"vae": vae, "optimizer": optimizer, "scaler": scaler},
    ) as run:
        step = maybe_graphed(step, graph, optimizer)
        for number in run.steps(steps):
            set_learning_rate(learning_rate(number, steps, lr), optimizer)
            x = images.images(ranks.part(images.indices(number, batch_size)))
            drawn = ranks.part(torch.randn(batch_size, vae.z_dim, device=device))
            run.log(**ranks.mean(step(x, drawn)))
    vae.eval()
    if out is not None and ranks.is_main():
        save_weights(run.folder / "vae.safetensors", vae, run.settings)
    return run.history


def train_classifier(
    images,
    classifier,
    *,
    steps,
    batch_size=128,
    lr=2e-3,
    shift=1,
    seed=0,
    out=None,
    test_images=None,
    checkpoint_every=500,
    precision=None,
    channels_last=True,
    fused=True,
    compile=False,
    graph=False,
    sync_batch_norm=True,
    tracker=None,
    progress=True,
    fresh=False,
):
    """Train a classifier with cross-entropy on shifted pictures; the loop is chapter 03's.

    images: data.Images with labels; classifier: (B, C, H, W) → logits (B, K), trained in place on
        runtime.device() and left in eval mode.
    lr: peak of `learning_rate`; shift: pixels that a picture is moved by, at most, see `shifted`.
    test_images: data.Images whose accuracy is written beside the weights; never trained on.
    seed, out, precision … tracker: as for `train_gan`.
    Returns: history, a dict of lists with loss [nats per image] and accuracy (of the batch).
    Raises: runtime.UserError (also if the pictures have no classes to tell apart),
        checkpoint.WriteError as `Run` does.
    """
    if len(images.classes) < 2:
        raise runtime.UserError(
            f"{images.name} has no classes to tell apart: a classifier needs labelled pictures, "
            "in a folder of yours one subfolder for each class."
        )
    device, dtype = runtime.device(), fast.precision(precision)
    (classifier,) = prepared([classifier], channels_last, compile, sync_batch_norm, graph)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=lr, weight_decay=0.01, fused=fused)
    scaler = fast.Scaler(device, dtype)
    settings = {**_describe(images, classifier=classifier), "lr": lr, "shift": shift, "seed": seed}
    if hasattr(classifier, "arguments"):
        settings["arguments"] = classifier.arguments

    def step(x, labels):
        """One step of the classifier, on this process's part of the batch."""
        with fast.autocast(device, dtype):
            logits = fast.widen(classifier(x))
        loss = F.cross_entropy(logits, labels)
        descend(loss, classifier, optimizer, scaler)
        scaler.update()
        return {"loss": loss.detach(), "accuracy": (logits.argmax(1) == labels).float().mean()}

    runtime.seed_everything(seed)
    with Run(
        out,
        settings=settings,
        batch_size=batch_size,
        checkpoint_every=checkpoint_every,
        progress=progress,
        tracker=tracker,
        fresh=fresh,
        **{"classifier": classifier, "optimizer": optimizer, "scaler": scaler},
    ) as run:
        step = maybe_graphed(step, graph, optimizer)
        for number in run.steps(steps):
            set_learning_rate(learning_rate(number, steps, lr), optimizer)
            indices = ranks.part(images.indices(number, batch_size))
            x = shifted(images.images(indices), shift)
            row = step(x, images.labels[indices].to(device))
            run.log(**ranks.mean(row))
    classifier.eval()
    if out is not None and ranks.is_main():
        save_classifier(run.folder / "classifier.safetensors", classifier, run, test_images)
    return run.history


def save_classifier(path, classifier, run, test_images=None):
    """Write a classifier with all that is needed to build it again and to know its worth.

    The settings in the file: those of the run, the arguments of `nets.Classifier`, parameters
    (their number), and with test_images accuracy and n_test.
    """
    card = {k: v for k, v in run.settings.items() if k != "arguments"}
    card |= getattr(classifier, "arguments", {})
    card["parameters"] = sum(p.numel() for p in classifier.parameters())
    if test_images is not None:
        card["accuracy"] = accuracy(classifier, test_images)
        card["n_test"] = len(test_images)
    save_weights(path, classifier, card)


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


def check_graph(graph):
    """Raise UserError if a CUDA graph is asked for where there can be none."""
    if graph and (runtime.device().type != "cuda" or ranks.world() > 1):
        raise runtime.UserError(
            "A CUDA graph needs a CUDA device and a single process: leave graph (--graph) out."
        )


def prepared(models, channels_last=True, compile=False, sync_batch_norm=True, graph=False):
    """Models on `runtime.device()`, equal in all processes and in training mode; see the top.

    Raises: UserError as `check_graph`: here, before `Run` deletes anything for fresh=True.
    """
    ranks.start()
    check_graph(graph)
    fast.keep_freed_memory()
    layout = torch.channels_last if channels_last else torch.preserve_format
    models = [m.to(runtime.device(), memory_format=layout).train() for m in models]
    ranks.copy_from_main(*models)
    if sync_batch_norm:
        models = [ranks.synchronised(m) for m in models]
    if compile:
        for model in models:
            model.compile()  # in place: the names of the weights stay what they were
    return models


def maybe_graphed(step, graph, *optimizers):
    """The step itself, or as a CUDA graph; to be called when a run's checkpoint has been loaded."""
    for optimizer in optimizers:
        fast.prepare_optimizer(optimizer, graph)
    return fast.Graphed(step) if graph else step


def _some(images):
    """A few hundred of the pictures: enough to say how much real ones differ."""
    return images.batch(0, min(256, len(images)))


def fixed_noise(n, z_dim, seed):
    """n latents (n, Z) that depend on the seed alone and leave the global generator untouched."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, z_dim, generator=generator).to(runtime.device())


def save_weights(path, model, settings):
    """Write a model's weights and the settings that made it as safetensors.

    Raises: checkpoint.WriteError.
    """
    from safetensors.torch import save

    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    # One entry: safetensors writes several in random order, and equal runs give equal files.
    write_atomically(path, save(tensors, {"settings": json.dumps(settings, default=str)}))


def _describe(images, **models):
    """What decides a result besides the arguments: the pictures and the sizes of the nets."""
    nets = {
        name: f"{type(net).__name__} with {sum(p.numel() for p in net.parameters()):,} weights"
        for name, net in models.items()
    }
    return {"data": images.name, "pictures": len(images), "shape": list(images.shape), **nets}
