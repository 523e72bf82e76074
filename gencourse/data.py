"""Pictures as one tensor: embedded digits and shapes, MNIST and its kin, or a folder of yours.

`load` returns `Images`. A batch is a pure function of the step, so there is no loader whose state
would have to be saved. Nothing is ever silently replaced: what can't be had raises `DataError`.
"""

import difflib
import gzip
import logging
import math
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from gencourse import archive, pictures, runtime, shapes
from gencourse.fetch import DataError, cache_folder, fetched, given_folder
from gencourse.pictures import SPLITS

NAMES = ("digits", "shapes", "mnist", "fashion_mnist", "cifar10")
# Pictures up to this many bytes move to the device once; more stay in (mapped) memory and each
# batch moves by itself. 2 GiB is thirteen times CIFAR-10, and fits beside a training on any GPU.
ON_DEVICE_BYTES = 2 * 1024**3

log = logging.getLogger(__name__)


class Images:
    """N pictures with labels, and batches of them.

    x: (N, C, H, W) uint8. labels: (N,) int64. classes: list of str, the labels' names.
    name: what was loaded. factors: dict of (N,) tensors, captions: list of N str (shapes only,
    otherwise None). `x`, `labels` and `indices` are on the device, or in memory where x is larger
    than ON_DEVICE_BYTES; batches always are on the device.
    """

    def __init__(
        self, x, labels, classes, name, *, device=None, seed=0, factors=None, captions=None
    ):
        if not len(x) == len(labels) > 0:
            raise DataError(f"{name} has {len(x)} pictures and {len(labels)} labels.")
        self.device = torch.device(device) if device is not None else runtime.device()
        home = self.device if x.numel() <= ON_DEVICE_BYTES else torch.device("cpu")
        self.x, self.labels = x.to(home), labels.to(home)
        self.classes, self.name, self.seed = list(classes), name, seed
        self.factors, self.captions = factors, captions
        self._orders = {}  # epoch -> permutation, the last two epochs

    def __len__(self):
        return len(self.x)

    def __repr__(self):
        size = "×".join(map(str, self.shape))
        return f"{self.name}: {len(self):,} pictures {size}, {len(self.classes)} classes"

    @property
    def shape(self):
        """(C, H, W) of one picture."""
        return tuple(self.x.shape[1:])

    def _order(self, epoch):
        """The permutation of all N pictures in this epoch, from the seed and the epoch alone."""
        if epoch not in self._orders:
            state = np.random.SeedSequence([self.seed % 2**64, epoch]).generate_state(2)
            generator = torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
            order = torch.randperm(len(self), generator=generator).to(self.x.device)
            latest = list(self._orders.items())[-1:]
            self._orders = dict([*latest, (epoch, order)])
        return self._orders[epoch]

    def indices(self, step, batch_size):
        """Which pictures batch number `step` holds: a pure function of the two and the seed.

        The epochs' permutations are laid end to end and cut into batches, so a batch may reach into
        the next epoch: each epoch uses every picture exactly once, whatever the batch size.
        Returns: (batch_size,) int64.
        Raises: ValueError if step < 0 or batch_size < 1.
        """
        if step < 0 or batch_size < 1:
            raise ValueError(
                f"There is no batch {step} of size {batch_size}: steps start at 0, sizes at 1."
            )
        n, parts, at, end = len(self), [], step * batch_size, (step + 1) * batch_size
        while at < end:
            epoch, place = divmod(at, n)
            parts.append(self._order(epoch)[place : place + end - at])
            at += len(parts[-1])
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def images(self, indices):
        """The pictures at these places: (B, C, H, W) float32 in [-1, 1], on the device."""
        indices = torch.as_tensor(indices).to(self.x.device)
        return self.x[indices].to(self.device).float().div_(127.5).sub_(1)

    def batch(self, step, batch_size):
        """Batch number `step`: (B, C, H, W) float32 in [-1, 1], on the device; see `indices`."""
        return self.images(self.indices(step, batch_size))


def load(name, split="train", size=None, device=None, seed=0, **options):
    """Load pictures by name.

    name: "digits" (1,797 scans inside scikit-learn, the last 297 are the test split; 16 pixels),
        "shapes" (rendered, 10,000 and 2,000; 32 pixels), "mnist", "fashion_mnist" (28), "cifar10"
        (32), or "folder:PATH" (64): your own pictures, in a folder or in an archive (.zip, .tar,
        .tar.gz, …), which is not unpacked. Subfolders are classes. Where there are subfolders train
        and test, they are the splits; else everything is "train".
    size: height and width [pixels], default as above. Shapes are rendered at this size; 28 → 32 is
        padded with black; all else is resized, bilinear with antialiasing. A folder's pictures are
        first cut to the square in their middle. What is transparent in them becomes white.
    device: where batches go, default `runtime.device()`.
    seed: of the batches' order. The pictures themselves don't depend on it.
    options: count=N and rotate=True for shapes; for a folder channels=1 (grey) and
        levels=(low, high): the values that become black and white in pictures of more than 8 bits
        (in all, if none has more). Without it one range is found for the whole folder, both splits
        together, and said: the bits that are used, or [0, 1], [0, 255] or percentiles of floats.
    Returns: Images.
    Raises: DataError (a UserError and a ValueError) if the name is unknown, the pictures can't be
        had, or split, size or an option makes no sense.
    Source: files are looked for in $GENCOURSE_DATA, then `cache_folder()`, then fetched from
        torchvision's mirrors and checked against torchvision's MD5 sums. Without CIFAR-10's files
        there, $GENCOURSE_DATA/cifar10-pictures.zip (train/CLASS/, test/CLASS/) is read instead, and
        the name says so: "cifar10 (JPEG copies)".
    """
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}: choose 'train' or 'test'.")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise DataError(f"The size is a whole number of pixels, at least 1; this is {size!r}.")
    name = os.fspath(name)
    kind = "folder" if name.startswith("folder:") else name
    allowed = {"shapes": {"count", "rotate"}, "folder": {"channels", "levels"}}.get(kind, set())
    if wrong := sorted(set(options) - allowed):
        raise DataError(f"{name} has no option {wrong[0]}.")
    if kind == "digits":
        parts = _digits(split)
    elif kind == "shapes":
        parts = _shapes(split, size or 32, **options)
    elif kind in ("mnist", "fashion_mnist"):
        parts = _mnist("MNIST" if kind == "mnist" else "FashionMNIST", split)
    elif kind == "cifar10" and (copies := _cifar10_copies()):
        parts, name = _copies(copies, split), "cifar10 (JPEG copies)"
    elif kind == "cifar10":
        parts = _cifar10(split)
    elif kind == "folder":
        parts = pictures.load(name.removeprefix("folder:"), split, size or 64, **options)
    else:
        raise DataError(_unknown(name))
    x, labels, classes, *known = parts
    x = _resize(x, size or (16 if kind == "digits" else x.shape[-1]))
    known = dict(zip(("factors", "captions"), known, strict=False))
    return Images(x, labels, classes, name, device=device, seed=seed, **known)


def _unknown(name):
    near = difflib.get_close_matches(name.lower().replace("-", "_"), NAMES, n=1)
    if near:
        hint = f" Did you mean {near[0]!r}?"
    else:
        mine = os.path.isdir(name) or name.lower().endswith(archive.SUFFIXES)
        hint = f" For pictures of your own, write 'folder:{name}'." if mine else ""
    names = ", ".join(NAMES)
    return f"There is no data set {name!r}.{hint} Choose one of {names}, or folder:PATH."


def _resize(x, size):
    """(N, C, H, H) uint8 at another size: 28 → 32 padded with black, else bilinear, antialiased."""
    if x.shape[-1] == size:
        return x
    if (x.shape[-1], size) == (28, 32):
        return F.pad(x, (2, 2, 2, 2))
    resized = []
    for part in x.split(2_000):  # bounds the memory of the floats
        part = F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
        resized.append(part.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(resized)


# What needs no network ----------------------------------------------------------------------------


def _digits(split):
    from sklearn.datasets import load_digits

    rows = slice(None, 1_500) if split == "train" else slice(1_500, None)
    scans = load_digits()
    x = torch.from_numpy(scans.images[rows] * 255 / 16).round().to(torch.uint8)[:, None]
    return x, torch.from_numpy(scans.target[rows]).long(), [str(digit) for digit in range(10)]


def _shapes(split, size, count=None, rotate=False):
    first, usual = (0, 10_000) if split == "train" else (2**40, 2_000)  # the two never meet
    count = usual if count is None else count
    x, factors, captions = shapes.render(first, first + count, pixels=size, rotate=rotate)
    return x, factors["shape"], shapes.SHAPES, factors, captions


# MNIST, Fashion-MNIST, CIFAR-10: torchvision's classes read, `fetch` fetches ----------------------


def _mnist(dataset, split):
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, dataset)
    raw = Path(dataset.__name__, "raw")
    files = {raw / name: md5 for name, md5 in dataset.resources}  # packed; unpacked without .gz

    def problems(root):
        return filter(None, (_idx_problem(root / file.with_suffix("")) for file in files))

    root, mirrors = _find(dataset.__name__, problems), list(dataset.mirrors)
    for file, md5 in files.items():
        goal = root / file.with_suffix("")
        if _idx_problem(goal):
            with fetched(dataset.__name__, file, md5, mirrors) as packed:
                unpacked = packed.with_suffix("")
                with gzip.open(packed) as source, open(unpacked, "wb") as target:
                    shutil.copyfileobj(source, target)
                os.replace(unpacked, goal)
    read = dataset(root, train=split == "train", download=False)
    return read.data[:, None], read.targets, [name.split(" - ")[0] for name in read.classes]


def _idx_problem(path):
    """What is wrong with an idx file ("… is missing"), or None; torchvision doesn't check."""
    if not path.is_file():
        return f"{path} is missing"
    dimensions = 3 if "idx3" in path.name else 1
    with open(path, "rb") as file:
        head, found = file.read(4 + 4 * dimensions), path.stat().st_size
    if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
        return f"{path} does not begin as an idx file does"
    needed = len(head) + math.prod(np.frombuffer(head, ">u4", offset=4).tolist())
    return None if needed == found else f"{path} has {found:,} bytes instead of {needed:,}"


def _cifar10(split):
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    parts = dict([*CIFAR10.train_list, *CIFAR10.test_list])
    parts[CIFAR10.meta["filename"]] = CIFAR10.meta["md5"]
    folder = CIFAR10.base_folder

    def problems(root):
        for path, md5 in ((root / folder / name, md5) for name, md5 in parts.items()):
            if not check_integrity(path, md5):
                yield f"{path} is {'damaged' if path.exists() else 'missing'}"

    root, mirror = _find("CIFAR10", problems), CIFAR10.url.removesuffix(CIFAR10.filename)
    if any(problems(root)):
        with fetched("CIFAR10", Path(CIFAR10.filename), CIFAR10.tgz_md5, [mirror]) as packed:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            with tarfile.open(packed) as archive:
                archive.extractall(packed.parent, **safe)
            shutil.rmtree(root / folder, ignore_errors=True)
            os.replace(packed.parent / folder, root / folder)
    read = CIFAR10(root, train=split == "train", download=False)
    x = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
    return x, torch.tensor(read.targets), read.classes


def _cifar10_copies():
    """CIFAR-10's pictures in one archive, or None: a school without a network can have that alone.

    It counts only where $GENCOURSE_DATA has it and lacks the official files.
    """
    root = given_folder()
    path = root / "cifar10-pictures.zip" if root else None
    official = root and (root / "cifar-10-batches-py").is_dir()
    return path if path and path.is_file() and not official else None


def _copies(path, split):
    """The archive's pictures, mixed once: the official files are, and an archive is by class."""
    x, labels, classes = pictures.load(str(path), split, 32)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], labels[order], classes


def _find(dataset, problems):
    """$GENCOURSE_DATA if it holds the whole data set, else the cache (whole or not).

    problems: maps a root to its problems, in words. One in $GENCOURSE_DATA is said, and the file
    left as it is; one in the cache is mended by fetching.
    """
    root = given_folder()
    if root is not None:
        found = list(problems(root))
        if not found:
            return root
        damage = [problem for problem in found if not problem.endswith("is missing")]
        if damage or not root.is_dir():
            said = damage[0] if damage else f"there is no folder {root}"
            log.warning("%s is not read from $GENCOURSE_DATA: %s.", dataset, said)
    return cache_folder()
