"""Moving around in a latent space: interpolation, directions, edits, inversion, a fitted density.

Latents are (B, Z), pictures (B, C, H, W) in [-1, 1]. Where a function takes several positions (t,
values, amounts), they become the first dimension of what it returns.
"""

import contextlib
import math
from typing import NamedTuple

import torch

PARALLEL = 1e-3  # closer than this to opposite [radians], no great circle is singled out


def lerp(a, b, t):
    """Straight line from a (t = 0) to b (t = 1).

    a, b: (…, Z) of one shape; t: a number, or a tensor (T,) of them, each used for every pair.
    Returns: (…, Z), or (T, …, Z).
    Raises: ValueError if the shapes differ.
    """
    a, b, t = _ends(a, b, t)
    return (1 - t) * a + t * b


def slerp(a, b, t):
    """Along the great circle from a to b: the direction turns at constant speed.

    a, b, t and the shape of the result: as for `lerp`. The norm goes linearly from ‖a‖ to ‖b‖, so
    two ends of one norm stay on their sphere. As the angle goes to 0 it becomes lerp, smoothly.
    Raises: ValueError if shapes differ, if an end is 0 (no direction), or if two ends point in
        opposite directions (every great circle through one passes through the other).
    Source: Shoemake 1985, doi:10.1145/325334.325242; for latents White 2016, arXiv:1609.04468.
    White weighs a and b themselves, we their directions; for equal norms that is the same.
    """
    a, b, t = _ends(a, b, t)
    norm_a, norm_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    if (norm_a == 0).any() or (norm_b == 0).any():
        raise ValueError("A latent of length 0 has no direction: slerp can't start or end there.")
    u, v = a / norm_a, b / norm_b
    # exact near 0 and near π, where the arc cosine of u·v loses half of its digits
    angle = 2 * torch.atan2((u - v).norm(dim=-1, keepdim=True), (u + v).norm(dim=-1, keepdim=True))
    if (angle > math.pi - PARALLEL).any():
        raise ValueError(
            "The two ends point in opposite directions, so every great circle through them is as "
            "good as another: go by way of a third point."
        )
    whole = torch.sinc(angle / math.pi)  # sin(angle) / angle, and 1 where the angle is 0
    from_a = (1 - t) * torch.sinc((1 - t) * angle / math.pi) / whole  # sin((1 - t)·angle) / sin
    from_b = t * torch.sinc(t * angle / math.pi) / whole
    return ((1 - t) * norm_a + t * norm_b) * (from_a * u + from_b * v)


def traverse(z, unit, values):
    """Copies of z in which one latent unit takes each of the values and the others stay.

    z: (…, Z); unit: which of the Z; values: (T,), in the units of z (standard deviations of the
    prior).
    Returns: (T, …, Z).
    Raises: IndexError if there is no such unit.
    """
    values = torch.as_tensor(values, dtype=z.dtype, device=z.device)
    if not -z.shape[-1] <= unit < z.shape[-1]:
        raise IndexError(f"There is no unit {unit}: these latents have {z.shape[-1]} (from 0).")
    moved = z.expand(*values.shape, *z.shape).clone()
    moved[..., unit] = values.reshape(-1, *[1] * (z.ndim - 1))
    return moved


def direction(codes, labels, method="means"):
    """The direction in which an attribute grows, from codes with and without it.

    codes: (N, Z); labels: (N,) of 0 or 1 (or bool).
    method: "means", from the mean code of class 0 to that of class 1; "logistic", at right angles
        to the border of a logistic regression, which leaves out what merely varies along with it.
    Returns: (Z,), float32. Its unit: one step goes as far along the direction as the two classes'
        mean codes lie apart along it.
    Raises: ValueError for other labels, a missing class, lengths that differ, another method.
    Source: Larsen et al. 2016, arXiv:1512.09300 (means); Shen et al. 2020, arXiv:1907.10786 (a
    linear border, theirs by a support vector machine).
    """
    labels = torch.as_tensor(labels).cpu()
    codes = torch.as_tensor(codes).detach().cpu().double()
    if codes.ndim != 2 or labels.shape != codes.shape[:1]:
        raise ValueError(
            f"One label per code is needed: codes are {tuple(codes.shape)}, labels "
            f"{tuple(labels.shape)}."
        )
    if set(labels.unique().tolist()) != {0, 1}:
        raise ValueError("The labels must be 0 and 1, and both must occur.")
    apart = codes[labels == 1].mean(dim=0) - codes[labels == 0].mean(dim=0)
    if method == "means":
        return apart.float()
    if method != "logistic":
        raise ValueError(f'There is no method {method!r}; choose "means" or "logistic".')
    from sklearn.linear_model import LogisticRegression

    # In the codes' own units: scaled to one size, latents that are hardly used would count most.
    fitted = LogisticRegression(max_iter=1_000).fit(codes.numpy(), labels.long().numpy())
    normal = torch.from_numpy(fitted.coef_[0])
    normal = normal / normal.norm()
    return (normal * (apart @ normal)).float()


def edit(vae, x, direction, amount):
    """Encode pictures, move their mean codes along a direction, decode.

    vae: with encode(x) → mu, logvar and sample(z) → pictures, as nets.VAE; x: (B, C, H, W);
    direction: (Z,); amount: steps along it, a number or a tensor (T,) of them; 0 reconstructs.
    Returns: pictures (B, C, H, W), or (T, B, C, H, W), without gradient. The VAE stays as it was.
    """
    with _frozen(vae), torch.no_grad():
        mu = vae.encode(x.to(next(vae.parameters()).device))[0]
        amount = _positions(amount, mu)
        z = mu + amount * direction.to(mu)  # (…, B, Z)
        pictures = vae.sample(z.reshape(-1, z.shape[-1]))
    return pictures.reshape(*z.shape[:-1], *pictures.shape[1:])


class Inversion(NamedTuple):
    """What `invert` found for B pictures."""

    z: torch.Tensor  # (B, Z)
    pictures: torch.Tensor  # G(z), (B, C, H, W)
    error: torch.Tensor  # (B,) mean over pixels of (G(z) − x)², pixels in [-1, 1]
    errors: torch.Tensor  # (starts, B) the same of every start, to see how much they differ


def invert(generator, x, *, steps=300, lr=0.1, starts=4, penalty=0.1, seed=0):
    """Look for latents that a generator turns into given pictures, by gradient descent on z.

    generator: module with z_dim, (B, Z) → (B, C, H, W); used in eval mode. Weights, gradient flags
        and modes are left as they were, and so is the global random generator.
    x: (B, C, H, W); steps: of Adam; lr: its rate, constant for half of the steps, then to 0.
    starts: draws from N(0, I) to begin from, the same for every picture; the best end is kept.
    penalty: weight of (‖z‖ − √Z)², which holds z near the sphere where the generator was trained.
    Minimised is the *sum* over pixels of (G(z) − x)² plus that penalty.
    Returns: Inversion(z, pictures, error, errors), without gradient.
    Raises: ValueError if x is no batch of what the generator draws, or steps or starts < 1.
    Source: Zhu et al. 2016, arXiv:1609.03552, without their encoder; starts and shell are ours.
    """
    if steps < 1 or starts < 1:
        raise ValueError(f"At least one step and one start are needed, not {steps} and {starts}.")
    weight, random = next(generator.parameters()), _generator(seed)
    x = x.detach().to(weight.device)
    noise = torch.stack([torch.randn(generator.z_dim, generator=random) for _ in range(starts)])
    z = noise.repeat_interleave(len(x), dim=0).to(weight).requires_grad_()  # (starts·B, Z)
    radius, targets = math.sqrt(generator.z_dim), torch.cat([x] * starts)
    optimizer = torch.optim.Adam([z], lr=lr)
    with _frozen(generator), torch.enable_grad():
        for step in range(steps + 1):
            pictures = generator(z)  # (starts·B, C, H, W)
            if pictures.shape != targets.shape:
                raise ValueError(
                    f"The generator draws pictures {tuple(pictures.shape[1:])}, these are "
                    f"{tuple(x.shape[1:])}."
                )
            squares = (pictures - targets).square().flatten(1)
            loss = squares.sum(dim=1) + penalty * (z.norm(dim=1) - radius).square()
            if step == steps:  # the last pass only measures
                break
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, 2 * (1 - step / steps))
            (z.grad,) = torch.autograd.grad(loss.sum(), z)  # each row has its own loss
            optimizer.step()
    best = loss.detach().reshape(starts, len(x)).argmin(dim=0)  # (B,)
    rows = best * len(x) + torch.arange(len(x), device=best.device)
    errors = squares.detach().mean(dim=1)
    found = z.detach()[rows], pictures.detach()[rows], errors[rows]
    return Inversion(*found, errors.reshape(starts, len(x)))


class Mixture:
    """A mixture of Gaussians: weights (K,), means (K, Z), covariances (K, Z, Z), all float64."""

    def __init__(self, weights, means, covariances):
        self.weights, self.means, self.covariances = weights, means, covariances
        self.factors = torch.linalg.cholesky(covariances)

    def sample(self, n, seed=0):
        """n latents (n, Z), float32, in random order; the same n and seed give the same ones."""
        generator = _generator(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return (self.means[k] + (self.factors[k] @ noise[..., None])[..., 0]).float()

    def log_prob(self, z):
        """log density of latents z (B, Z) → (B,) [nats]."""
        normal = torch.distributions.MultivariateNormal(self.means, scale_tril=self.factors)
        parts = torch.distributions.Categorical(self.weights)
        mixture = torch.distributions.MixtureSameFamily(parts, normal)
        return mixture.log_prob(z.detach().cpu().double())


def fit_mixture(codes, components=20, seed=0):
    """Fit a mixture of Gaussians to codes, to draw latents from where the codes are.

    codes: (N, Z), drawn from q(z|x), not its means (they are too narrow); components: Gaussians,
        each with a full covariance.
    Returns: Mixture, with .sample(n, seed) → (n, Z) and .log_prob(z) [nats].
    Raises: ValueError if there are fewer codes than components.
    Source: Ghosh et al. 2020, arXiv:1903.12436 (a density fitted to codes after training).
    """
    codes = torch.as_tensor(codes).detach().cpu().double()
    if codes.ndim != 2 or len(codes) < components:
        raise ValueError(
            f"{components} components need at least as many codes (N, Z), not {tuple(codes.shape)}."
        )
    from sklearn.mixture import GaussianMixture

    fitted = GaussianMixture(components, reg_covar=1e-3, max_iter=300, random_state=seed)
    fitted.fit(codes.numpy())
    parts = (fitted.weights_, fitted.means_, fitted.covariances_)
    return Mixture(*(torch.from_numpy(part) for part in parts))


# --- helpers --------------------------------------------------------------------------------------


def _positions(t, z):
    """t as a tensor () or (T, 1, …, 1), in front of z's dimensions."""
    t = torch.as_tensor(t, dtype=z.dtype, device=z.device)
    return t.reshape(*t.shape, *[1] * z.ndim) if t.ndim else t


def _ends(a, b, t):
    if a.shape != b.shape:
        raise ValueError(f"The ends have different shapes: {tuple(a.shape)} and {tuple(b.shape)}.")
    return a, b, _positions(t, a)


def _generator(seed):
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def _frozen(model):
    """The model in eval mode and without gradients for its weights; afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for p, flag in flags:
            p.requires_grad_(flag)
