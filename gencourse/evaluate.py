"""How good generated pictures are: distances between sets of features, and counts of what is there.

A judge (a small classifier) or the Inception network turns pictures into features; the measures
compare two sets of features. Each result is a `Score`, which knows the number of samples and the
extractor that it was measured with: numbers from different extractors can't be compared.
"""

import hashlib
import math
import socket
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from gencourse import data, nets, runtime
from gencourse.divergences import unbiased_mmd
from gencourse.runtime import UserError

JUDGES = ("digits", "mnist", "fashion_mnist", "cifar10")
BATCH = 500  # pictures that a judge sees at once
CHUNK_BYTES = 64 * 2**20  # what a chunk of features or distances takes, in float64
INCEPTION = "Inception-v3"  # the extractor whose distances are called FID and KID
STALL_SECONDS = 20  # a server that stays silent for so long is given up


class Features(NamedTuple):
    """What an extractor sees in N pictures.

    values: (N, D) float tensor. extractor: its name; only features of one extractor are compared.
    """

    values: torch.Tensor
    extractor: str | None = None


class Moments(NamedTuple):
    """Count, mean (D,) and unbiased covariance (D, D) of features, float64: all a Fréchet distance
    needs. A reference that many models are compared with is summed up once, by `moments`."""

    n: int
    mean: torch.Tensor
    covariance: torch.Tensor
    extractor: str | None = None


class Score(float):
    """A number that knows how it was measured; it computes and formats as any float does.

    name: of the measure. error: one standard error, or None. n_real, n_fake: samples, or None.
    extractor: what the features come from, or None if that was not said. dimensions: D, or None.
    """

    def __new__(
        cls, value, name="score", *, error=None, n_real=None, n_fake=None, extractor=None,
        dimensions=None,
    ):
        self = super().__new__(cls, value)
        self.name, self.error, self.extractor = name, error, extractor
        self.n_real, self.n_fake, self.dimensions = n_real, n_fake, dimensions
        return self

    def __str__(self):
        if self.error and math.isfinite(self.error):  # as many decimals as two digits of it have
            decimals = max(0, 1 - math.floor(math.log10(self.error)))
            digits = f"{float(self):,.{decimals}f} ± {self.error:,.{decimals}f}"
        else:
            digits = f"{float(self):.3g}" if abs(self) < 100 else f"{float(self):,.0f}"
        about = [self.extractor] if self.extractor else []
        about += [f"{self.dimensions:,} features"] if self.dimensions else []
        counts = [f"{self.n_real:,} real"] if self.n_real is not None else []
        counts += [f"{self.n_fake:,} generated"] if self.n_fake is not None else []
        inside = "; ".join(filter(None, (", ".join(about), ", ".join(counts))))
        return f"{self.name} {digits}" + (f" ({inside})" if inside else "")

    __repr__ = __str__


class Coverage(NamedTuple):
    """How samples spread over modes; see `mode_coverage`."""

    covered: int
    total: int
    on_mode: float
    kl: float
    n: int

    def __str__(self):
        return (
            f"{self.covered} of {self.total} modes covered ({self.on_mode:.1%} of {self.n:,} "
            f"samples on a mode, KL to uniform {self.kl:.3g} nats)"
        )


# From pictures to features ------------------------------------------------------------------------


def judge(name):
    """The shipped classifier for a data set, or one of your own from a file.

    name: "digits", "mnist", "fashion_mnist", "cifar10", or the path of a .safetensors file that
        `gencourse train classifier` wrote.
    Returns: nets.Classifier in evaluation mode on `runtime.device()`, its weights frozen, with
        `.extractor` (str), `.size` [pixels], `.channels` and `.settings` (dict, accuracy included).
    Raises: UserError if there is no such judge, or the file is not a judge's.
    """
    from safetensors import SafetensorError

    path = nets.WEIGHTS / f"judge_{name}.safetensors" if name in JUDGES else Path(name)
    own = name not in JUDGES
    if own and path.suffix != ".safetensors":
        raise UserError(
            f"There is no judge {str(name)!r}, only {', '.join(JUDGES)}: train your own with "
            f"`gencourse train classifier --data {name}` and give judge() the path of its "
            ".safetensors file."
        )
    try:
        network = nets.load(path)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} holds no judge: {_short(error)}") from error
    if not isinstance(network, nets.Classifier):
        raise UserError(f"{path} holds no judge: it is a {type(network).__name__}.")
    network.extractor = f"{network.settings.get('data', path.stem) if own else name} judge"
    if own:
        network.extractor += f" {_fingerprint(network)}"
    return network.to(runtime.device()).eval().requires_grad_(False)


def features(pictures, judge):
    """The judge's features of pictures, in batches and without gradients.

    pictures: (N, C, H, W) floats in [-1, 1], `data.Images`, or an iterable of such batches. Another
        size than the judge's is resized (32 → 28 cuts the frame off that `data.load` puts on,
        28 → 32 puts it on); grey is repeated for a judge of colour.
    judge: from `judge()`, or any classifier with `.features(x)`.
    Returns: Features, values (N, D) float32 on the CPU.
    Raises: UserError if the pictures are not such pictures, or have colour and the judge has not.
    """
    values = _see(pictures, judge, judge.features)
    extractor = getattr(judge, "extractor", None)
    return Features(values, extractor or f"{type(judge).__name__} {_fingerprint(judge)}")


def logits(pictures, judge):
    """The judge's logits (N, K) of pictures; arguments and errors as in `features`."""
    return _see(pictures, judge, judge)


def inception_features(pictures, weights=None):
    """The 2,048 features of the Inception network that the published FIDs are measured with.

    A distance on them is a FID; one on a judge's features is not, and the two can't be compared.

    pictures: as in `features`; they are rounded to 8 bits, and the network resizes them to 299.
    weights: path of the network's weights; None takes them from torch's cache or fetches them once.
    Returns: Features, values (N, 2048) float32 on the CPU.
    Raises: UserError if the packages torchmetrics and torch-fidelity or the weights can't be had.
    Source: Heusel et al. 2017, arXiv:1706.08500; torch-fidelity's port of the original weights.
    """
    network = _inception(weights).to(runtime.device()).eval()

    def see(x):  # (B, C, H, W) in [-1, 1] → (B, 2048)
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        return network(((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))

    return Features(_see(pictures, None, see, batch=50), INCEPTION)


def _see(pictures, judge, see, batch=None):
    """see(x) for the pictures, batch by batch: (N, …) on the CPU."""
    training = judge is not None and judge.training
    found = []
    try:
        if training:
            judge.eval()
        with torch.no_grad():
            for x in _batches(pictures, batch or BATCH):
                found.append(see(_fitted(_checked(x), judge)).float().cpu())
    finally:
        if training:
            judge.train()
    if not found:
        raise UserError("There are no pictures.")
    return torch.cat(found)


def _batches(pictures, batch):
    if isinstance(pictures, data.Images):
        yield from map(pictures.images, torch.arange(len(pictures)).split(batch))
        return
    for part in [pictures] if isinstance(pictures, torch.Tensor | np.ndarray) else pictures:
        yield from torch.as_tensor(part).split(batch)


def _checked(x):
    if x.dim() != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
        raise UserError(
            "Pictures are (N, C, H, W) floats in [-1, 1] with 1 or 3 channels; "
            f"these are {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}."
        )
    if len(x):
        worst = x.abs().max().item()
        if not math.isfinite(worst):
            raise UserError("Some pictures hold values that are not a number, or infinite.")
        if worst > 1.001:
            raise UserError(
                f"Pictures have values in [-1, 1]; these reach {worst:g}: scale or clamp them."
            )
    return x


def _fitted(x, judge):
    """Pictures on the judge's device, in its size and channels."""
    if judge is None:
        return x.to(runtime.device())
    parameter = next(judge.parameters())
    x = x.to(parameter)
    channels = getattr(judge, "channels", x.shape[1])
    if channels != x.shape[1]:
        if channels == 1:
            raise UserError("These pictures have colour and the judge sees grey only.")
        x = x.expand(-1, channels, -1, -1)
    size = getattr(judge, "size", x.shape[-1])
    if tuple(x.shape[2:]) == (size, size):
        return x
    if tuple(x.shape[2:]) == (32, 32) and size == 28:  # takes off what data.load puts on
        return x[:, :, 2:-2, 2:-2]
    if tuple(x.shape[2:]) == (28, 28) and size == 32:
        return F.pad(x, (2, 2, 2, 2), value=-1)
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True)


def _inception(weights):
    """The network, through torchmetrics, or a UserError: a silent server is not waited for."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        return NoTrainInceptionV3("inception-v3-compat", ["2048"], weights)
    except ImportError:  # of torchmetrics, or of torch-fidelity, which it needs
        raise UserError(
            "The Inception features need two more packages: run `pip install torchmetrics "
            "torch-fidelity`, or measure with a judge instead."
        ) from None
    except Exception as error:  # no network, a damaged file: the cause is named
        raise UserError(
            f"The Inception network's weights can't be had here ({_short(error)}): measure with a "
            "judge instead, or give inception_features the path of the weights."
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _fingerprint(network):
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def _short(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# Distances between two sets of features -----------------------------------------------------------


def moments(x, name="x"):
    """Count, mean and unbiased covariance of features, in float64, chunk by chunk.

    x: Features, (N, D) array, or an iterable of such chunks, read once: the whole array is never
        copied, and with chunks never held. Moments stay as they are.
    name: what an error calls x.
    Returns: Moments.
    Raises: UserError if there are fewer than 2 samples, or values that are not finite.
    """
    if isinstance(x, Moments):
        return x
    n, mean, scatter, extractor = 0, 0.0, 0.0, None
    for number, (part, source) in enumerate(_chunks(x, name)):
        if number and part.shape[1] != len(mean):
            raise UserError(
                f"{name} has {len(mean)} features in one chunk and {part.shape[1]} in another."
            )
        extractor = _one_extractor(extractor, source) if number else source
        part = part.double()
        middle = part.mean(dim=0)
        if not torch.isfinite(middle).all():
            raise UserError(_not_finite(name))
        part = part - middle
        # Two sets' scatters add up, and the distance of their means (Chan, Golub & LeVeque 1983).
        both, shift = n + len(part), middle - mean
        scatter = scatter + part.T @ part + n * len(part) / both * shift.outer(shift)
        mean, n = mean + shift * (len(part) / both), both
    if n < 2:
        raise UserError(f"A covariance needs 2 samples or more; {name} has {n}.")
    if not torch.isfinite(scatter).all():
        raise UserError(f"{name} holds values so large that their covariance is infinite.")
    return Moments(n, mean, scatter / (n - 1), extractor)


def frechet_distance(x, y):
    """‖μ_x − μ_y‖² + tr(Σ_x + Σ_y − 2 (Σ_x^½ Σ_y Σ_x^½)^½), between Gaussians fitted to features.

    The squared Fréchet (2-Wasserstein) distance. With few samples it is biased upwards, so compare
    only numbers of equal counts. On Inception features it is the FID.

    x: real, y: generated: Features, (N, D) arrays, iterables of chunks, or `Moments`.
    Returns: Score [the features' unit squared], ≥ 0, the same for (y, x) up to rounding.
    Raises: UserError if extractors or D differ, if values are not finite, or if there are not more
        samples than features: the covariance is then singular and the number says little.
    Source: Dowson & Landau 1982, doi:10.1016/0047-259X(82)90077-X; Heusel et al. 2017,
        arXiv:1706.08500.
    """
    x, y = moments(x), moments(y, "y")
    extractor = _one_extractor(x.extractor, y.extractor)
    if len(x.mean) != len(y.mean):
        raise UserError(f"x has {len(x.mean)} features and y has {len(y.mean)}.")
    for name, m in (("x", x), ("y", y)):
        if m.n <= len(m.mean):
            sign = "<" if m.n < len(m.mean) else "="
            raise UserError(
                f"A Fréchet distance needs more samples than features: {m.n:,} {sign} "
                f"{len(m.mean):,} in {name}. Draw at least {len(m.mean) + 1:,}, and better ten "
                "times as many."
            )
    # tr((Σ_x^½ Σ_y Σ_x^½)^½) is the sum of the singular values of Σ_x^½ Σ_y^½. That way the root of
    # a rounding error is never taken, which for singular covariances would be 1e-8, not 1e-16.
    overlap = torch.linalg.svdvals(_root(x.covariance) @ _root(y.covariance).T).sum()
    spread = x.covariance.trace() + y.covariance.trace() - 2 * overlap
    value = (x.mean - y.mean).square().sum() + spread
    name = "FID" if extractor == INCEPTION else "Fréchet distance"
    return Score(
        max(value.item(), 0.0), name, n_real=x.n, n_fake=y.n,
        extractor=extractor, dimensions=len(x.mean),
    )


def _root(covariance):
    """R = Λ^½ Vᵀ with RᵀR = Σ (D, D); eigenvalues that are only rounding count as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    return torch.where(values > noise, values, 0).sqrt()[:, None] * vectors.T


def kid(x, y, subsets=None, seed=0):
    """Kernel distance: unbiased MMD² with the kernel k(a, b) = (aᵀb / D + 1)³.

    On Inception features it is the KID. Unlike a Fréchet distance it is not biased by few samples.

    The samples are dealt into disjoint random subsets; the score is the mean over them. Disjoint
    subsets are independent, so their standard deviation / √subsets is an honest standard error.
    (Usual implementations draw overlapping subsets and print their plain standard deviation.)

    x: real, y: generated: Features or (N, D) arrays.
    subsets: how many; None takes subsets of about 1,000, but 10 at least. 1 gives no error.
    Returns: Score with .error, no unit; 0 in expectation where the distributions agree, so it may
        be negative.
    Raises: UserError if extractors or D differ, values are not finite, or samples are too few.
    Source: Bińkowski et al. 2018, arXiv:1801.01401, section 4.
    """
    x, y, extractor = _pair(x, y)
    fewest = min(len(x), len(y))
    subsets = max(10, fewest // 1_000) if subsets is None else subsets
    if subsets < 1 or fewest < 2 * subsets:
        raise UserError(
            f"{subsets} subsets need 2 samples each of both kinds; there are {fewest:,}."
        )
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randperm(len(values), generator=generator).to(values.device).tensor_split(subsets)
        for values in (x, y)
    ]

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1).pow_(3)

    pairs = [(x[i].double(), y[j].double()) for i, j in zip(*parts, strict=True)]
    values = torch.stack([unbiased_mmd(*pair, kernel) for pair in pairs])
    error = values.std().item() / subsets**0.5 if subsets > 1 else None
    name = "KID" if extractor == INCEPTION else "kernel distance"
    return Score(
        values.mean().item(), name, error=error, n_real=len(x), n_fake=len(y),
        extractor=extractor, dimensions=x.shape[1],
    )


def precision_recall(real, fake, k=3):
    """Precision: the share of generated samples among the real; recall: of real among generated.

    A sample is among a set if it lies within the radius of one of its members, which reaches to
    that member's k-th nearest neighbour (itself not counted).

    real, fake: Features or (N, D) arrays. k: neighbours, at least 1.
    Returns: (precision, recall), two Scores between 0 and 1.
    Raises: UserError if extractors or D differ, values are not finite, or there are not more than
        k samples of each kind.
    Source: Kynkäänniemi et al. 2019, arXiv:1904.06991, equations 1 and 2.
    """
    real, fake, extractor = _pair(real, fake, "real", "fake")
    if k < 1 or min(len(real), len(fake)) <= k:
        raise UserError(
            f"k = {k} neighbours need k ≥ 1 and more than k samples of each kind; there are "
            f"{len(real):,} and {len(fake):,}."
        )
    radius_real, radius_fake = (_nearest(s, s, k, others=True)[0][:, -1] for s in (real, fake))
    fake_inside = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    real_inside = torch.zeros(len(real), dtype=torch.bool, device=fake.device)
    for rows in _slices(fake):
        for columns in _slices(real):
            distance = _distances(fake[rows], real[columns])
            fake_inside[rows] |= (distance <= radius_real[columns]).any(dim=1)
            real_inside[columns] |= (distance.T <= radius_fake[rows]).any(dim=1)
    known = dict(n_real=len(real), n_fake=len(fake), extractor=extractor, dimensions=real.shape[1])
    return (
        Score(fake_inside.double().mean().item(), "precision", **known),
        Score(real_inside.double().mean().item(), "recall", **known),
    )


def nearest_neighbours(x, reference, k=1):
    """For each x its k nearest in the reference, nearest first: does a model repeat its data?

    x: (N, …), reference: (M, …) with M ≥ k: Features, arrays or pictures; dimensions after the
        first are flattened.
    Returns: distances (N, k) [Euclidean, the unit of x] and indices (N, k) int64. A copy has the
        distance 0, exactly.
    Raises: UserError if shapes or extractors differ, values are not finite, or M < k.
    """
    x, reference, _ = _pair(x, reference, "x", "reference")
    if not 1 <= k <= len(reference):
        raise UserError(f"k is between 1 and the {len(reference):,} of the reference; not {k}.")
    return _nearest(x, reference, k)


def _nearest(x, reference, k, others=False):
    """Distances and indices (N, k) of the nearest.

    others: x is the reference, and nobody is its own neighbour.
    """
    found = []
    for rows in _slices(x):
        near, places = [], []
        for columns in _slices(reference):
            distance = _distances(x[rows], reference[columns])
            if others and rows == columns:
                distance.fill_diagonal_(math.inf)
            nearest, place = distance.topk(min(k, distance.shape[1]), largest=False)
            near.append(nearest)
            places.append(place + columns.start)
        nearest, order = torch.cat(near, 1).topk(k, largest=False)
        found.append((nearest, torch.cat(places, 1).gather(1, order)))
    distances, indices = zip(*found, strict=True)
    return torch.cat(distances), torch.cat(indices)


def _slices(x):
    """Slices of the rows of x, so that neither such rows nor their distances fill a chunk."""
    side = int((CHUNK_BYTES / 8) ** 0.5)
    step = max(1, min(side, CHUNK_BYTES // (8 * x.shape[1])))
    return [slice(start, min(start + step, len(x))) for start in range(0, len(x), step)]


def _distances(a, b):
    """‖a − b‖ (n, m): 0 for a copy, as the faster |a|² + |b|² − 2ab is not."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


# What the samples show ----------------------------------------------------------------------------


def inception_score(logits, splits=10, seed=0, extractor=None):
    """exp(mean KL(p(y|x) ‖ p(y))): high where each picture is clear and all classes appear.

    It never looks at real pictures; one perfect picture per class has the highest score.

    logits: (N, K) of a classifier, or Features that hold them. extractor: its name, to be printed.
    splits: the mean over so many disjoint random parts, whose spread gives the standard error
        (papers print the standard deviation over the parts, √splits times as large).
    Returns: Score with .error, between 1 and K.
    Raises: UserError if there are fewer samples than splits or values are not finite.
    Source: Salimans et al. 2016, arXiv:1606.03498, section 4; there with Inception's 1,000 classes.
    """
    values, known = _one(logits, "logits")
    if not 1 <= splits <= len(values):
        raise UserError(f"{splits} splits need a sample each; there are {len(values):,}.")
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    scores = []
    for part in order.to(values.device).tensor_split(splits):
        log_p = values[part].double().log_softmax(dim=1)  # (n, K)
        log_mean = log_p.logsumexp(dim=0) - math.log(len(part))
        scores.append((log_p.exp() * (log_p - log_mean)).sum(dim=1).mean().exp())
    scores = torch.stack(scores)
    error = scores.std().item() / splits**0.5 if splits > 1 else None
    return Score(
        scores.mean().item(), "Inception score", error=error, n_fake=len(values),
        extractor=extractor or known,
    )


def nearest_modes(x, centres, radius):
    """The mode that each sample lies on: its nearest centre, if that is within the radius.

    x: (N, D) samples. centres: (K, D). radius: largest distance that still counts [unit of x].
    Returns: (N,) int64, 0 … K−1, and −1 for a sample on no mode.
    Raises: UserError if D differs, or values are not finite.
    """
    x, centres, _ = _pair(x, centres, "x", "centres")
    distances, modes = _nearest(x, centres, 1)
    return torch.where(distances[:, 0] <= radius, modes[:, 0], -1)


def mode_coverage(modes, total, least=1):
    """Which modes samples reach, and how evenly: a mode is covered by `least` samples or more.

    modes: (N,) whole numbers, the mode of each sample, −1 for none: from `nearest_modes`, or the
        classes that a judge predicts, `logits(x, judge).argmax(1)`.
    total: number of modes. least: samples that a covered mode has at least.
    Returns: Coverage(covered, total, on_mode, kl, n): on_mode is the share of samples on some mode;
        kl is KL(p ‖ uniform) [nats] of the modes' shares p among those, between 0 (even) and
        log total (a single mode), and nan where no sample is on a mode.
    Raises: UserError if there are no samples, or a mode is not one of −1 … total − 1.
    """
    modes = torch.as_tensor(modes)
    if modes.dim() != 1 or len(modes) == 0 or modes.is_floating_point():
        raise UserError(
            f"modes are (N,) whole numbers; these are {tuple(modes.shape)} "
            f"{str(modes.dtype).removeprefix('torch.')}."
        )
    modes = modes.long()  # a uint8 can't be compared with -1
    if modes.min() < -1 or modes.max() >= total:
        raise UserError(
            f"With {total} modes their numbers are -1 (none) to {total - 1}; these go from "
            f"{modes.min().item()} to {modes.max().item()}."
        )
    counts = torch.bincount(modes[modes >= 0], minlength=total).double()
    share = counts / counts.sum()
    kl = (torch.special.xlogy(share, share).sum() + math.log(total)).item()
    on_mode = (modes >= 0).double().mean().item()
    kl = 0.0 if kl < 0 else kl  # rounding; nan stays
    return Coverage(int((counts >= least).sum()), total, on_mode, kl, len(modes))


# What the arguments are ---------------------------------------------------------------------------


def _chunks(x, name):
    """(part, extractor) of Features, an array, or an iterable of them; parts of bounded size."""
    if not isinstance(x, Features | torch.Tensor | np.ndarray):
        for part in x:
            yield from _chunks(part, name)
        return
    values, extractor = _matrix(x, name)
    for rows in values.split(max(1, CHUNK_BYTES // (8 * values.shape[1]))):
        yield rows, extractor


def _matrix(x, name):
    """(N, D) float tensor, not copied where it is one, and its extractor."""
    values, extractor = x if isinstance(x, Features) else (x, None)
    values = torch.as_tensor(values).detach()
    values = values.cpu() if values.device.type == "mps" else values  # which has no float64
    values = values if values.is_floating_point() else values.double()
    if values.dim() < 2 or values.shape[0] == 0 or values[0].numel() == 0:
        raise UserError(f"{name} must be (N, D) features; its shape is {tuple(values.shape)}.")
    return values.flatten(1), extractor


def _one(x, name):
    values, extractor = _matrix(x, name)
    if not all(torch.isfinite(values[rows]).all() for rows in _slices(values)):
        raise UserError(_not_finite(name))
    return values, extractor


def _not_finite(name):
    return f"{name} holds values that are not a number, or infinite."


def _pair(x, y, name_x="x", name_y="y"):
    """Two (N, D), (M, D) of one dtype and device, checked, and their extractor."""
    x, extractor_x = _one(x, name_x)
    y, extractor_y = _one(y, name_y)
    if x.shape[1] != y.shape[1]:
        raise UserError(f"{name_x} has {x.shape[1]} features and {name_y} has {y.shape[1]}.")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    extractor = _one_extractor(extractor_x, extractor_y)
    return x.to(dtype), y.to(x.device, dtype), extractor


def _one_extractor(first, second):
    """The extractor of both; None if one of them did not say."""
    if first is not None and second is not None and first != second:
        raise UserError(
            f"These features can't be compared: some are of the {first}, some of the {second}."
        )
    return first if first == second else None
