"""Chapter 07: other right answers, and wrong ones that are tried besides those with a name."""

import collections
import math
import operator

import numpy as np
import torch

from gencourse import evaluate

# --- 7.1 ------------------------------------------------------------------------------------------


def estimate(to_training, honest, t):
    ours, theirs = ((d <= t).double().mean() for d in (to_training, honest))
    return ((ours - theirs) / (1 - theirs)).item()


def copied_by_numpy(to_training, honest, level):
    to_training, honest = to_training.numpy(), honest.numpy()
    t = np.quantile(honest, level)
    ours, theirs = np.mean(to_training <= t), np.mean(honest <= t)
    return (ours - theirs) / (1 - theirs)


def copied_by_counting(to_training, honest, level):
    t = honest.quantile(level).item()
    above = [sum(d > t for d in distances.tolist()) / len(distances)
             for distances in (to_training, honest)]
    return 1 - above[0] / above[1]


def clipped(to_training, honest, level):
    return min(1.0, max(0.0, estimate(to_training, honest, honest.quantile(level))))


COPIED_RIGHT = {
    "numpy": copied_by_numpy,
    "those above, counted one by one": copied_by_counting,
    "a tensor of float32": lambda g, h, level: torch.tensor(
        estimate(g, h, h.quantile(level)), dtype=torch.float32),
    "in float64": lambda g, h, level: estimate(g.double(), h.double(), h.double().quantile(level)),
}
COPIED_WRONG = {
    "between 0 and 1": (clipped, "Below 0 you return 0"),
    "the smallest honest distance": (lambda g, h, level: estimate(g, h, h.min()), "not"),
    "the mean honest distance": (lambda g, h, level: estimate(g, h, h.mean()), "not"),
    "half of the level": (lambda g, h, level: estimate(g, h, h.quantile(level / 2)), "not"),
    "the other tail": (lambda g, h, level: estimate(g, h, h.quantile(1 - level)), "not"),
    "rounded": (lambda g, h, level: round(estimate(g, h, h.quantile(level)), 2), "not"),
    "a number of pictures": (
        lambda g, h, level: estimate(g, h, h.quantile(level)) * len(g), "not"),
    "sorted in place": (
        lambda g, h, level: estimate(g, h.copy_(h.sort().values), h.quantile(level)), "in place"),
    "a tensor with a dimension": (
        lambda g, h, level: torch.tensor([estimate(g, h, h.quantile(level))]), "It is a tensor"),
}

# --- 7.2 ------------------------------------------------------------------------------------------


def by_the_package(mu_x, cov_x, mu_y, cov_y):
    pair = [evaluate.Moments(10**9, mu, cov) for mu, cov in ((mu_x, cov_x), (mu_y, cov_y))]
    return float(evaluate.frechet_distance(*pair))


def with_overlap(overlap):
    def answer(mu_x, cov_x, mu_y, cov_y):
        shift = ((mu_x - mu_y) ** 2).sum()
        return (shift + (cov_x + cov_y).trace() - 2 * overlap(cov_x, cov_y)).item()

    return answer


def symmetric_root(cov, least=0.0):
    values, vectors = torch.linalg.eigh(cov)
    return vectors @ values.clamp(min=least).sqrt().diag() @ vectors.T


def by_svd(cov):
    left, values, right = torch.linalg.svd(cov)
    return left @ values.sqrt().diag() @ right


def with_jitter(cov_x, cov_y, epsilon=1e-12):
    tiny = epsilon * torch.eye(len(cov_x), dtype=cov_x.dtype)
    half = torch.linalg.cholesky(cov_x + tiny * (1 + cov_x.trace()))
    return torch.linalg.eigvalsh(half.T @ cov_y @ half).clamp(min=0).sqrt().sum()


def in_numpy(mu_x, cov_x, mu_y, cov_y):
    mu_x, cov_x, mu_y, cov_y = (v.numpy() for v in (mu_x, cov_x, mu_y, cov_y))
    values, vectors = np.linalg.eigh(cov_x)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    middle = np.linalg.eigvalsh(root @ cov_y @ root)
    overlap = np.sqrt(np.maximum(middle, 0)).sum()
    return np.sum((mu_x - mu_y) ** 2) + np.trace(cov_x) + np.trace(cov_y) - 2 * overlap


def plain_cholesky(cov_x, cov_y):
    half = torch.linalg.cholesky(cov_x), torch.linalg.cholesky(cov_y)
    return torch.linalg.svdvals(half[0].T @ half[1]).sum()


def middle_of(root):
    def overlap(cov_x, cov_y):
        half = root(cov_x)
        return root(half @ cov_y @ half).trace()

    return overlap


FRECHET_RIGHT = {
    "the package": by_the_package,
    "two roots": with_overlap(middle_of(symmetric_root)),
    "roots by SVD": with_overlap(middle_of(by_svd)),
    "singular values of the product of roots": with_overlap(
        lambda x, y: torch.linalg.svdvals(symmetric_root(x) @ symmetric_root(y)).sum()),
    "the nuclear norm": with_overlap(
        lambda x, y: torch.linalg.matrix_norm(symmetric_root(x) @ symmetric_root(y), "nuc")),
    "eigenvalues of the product, which is not symmetric": with_overlap(
        lambda x, y: torch.linalg.eigvals(x @ y).real.clamp(min=0).sqrt().sum()),
    "complex roots": with_overlap(lambda x, y: torch.linalg.eigvals(x @ y).sqrt().real.sum()),
    "absolute values": with_overlap(
        lambda x, y: torch.linalg.eigvalsh(symmetric_root(x) @ y @ symmetric_root(x)
                                           ).abs().sqrt().sum()),
    "Cholesky with a jitter": with_overlap(with_jitter),
    "exchanged": lambda mu_x, cov_x, mu_y, cov_y: by_the_package(mu_y, cov_y, mu_x, cov_x),
    "numpy": in_numpy,
    "never below 0": lambda *given: max(0.0, in_numpy(*given)),
}
FRECHET_WRONG = {
    "Cholesky of both": (with_overlap(plain_cholesky), "Cholesky"),
    "no clamp, eigenvalues alone": (with_overlap(
        lambda x, y: torch.linalg.eigvalsh(symmetric_root(x) @ y @ symmetric_root(x)
                                           ).sqrt().sum()), "nan"),
    "no clamp at all": (with_overlap(middle_of(
        lambda s: torch.linalg.eigh(s).eigenvectors @ torch.linalg.eigh(s).eigenvalues.sqrt(
            ).diag() @ torch.linalg.eigh(s).eigenvectors.T)), "there is nan in it"),
    "the roots' difference": (
        lambda m, x, n, y: ((m - n).square().sum() + (symmetric_root(x) - symmetric_root(y)
                                                      ).square().sum()).item(),
        "have the same axes"),
    "Cholesky with a large jitter": (with_overlap(lambda x, y: with_jitter(x, y, 1e-6)), "not"),
    "… of the other one": (with_overlap(lambda x, y: with_jitter(y, x, 1e-6)), "not"),
    "eigenvalues clamped at 1e-6": (
        with_overlap(middle_of(lambda s: symmetric_root(s, 1e-6))), "not"),
    "the product in float32": (
        with_overlap(lambda x, y: torch.linalg.eigvals((x @ y).float()).real.clamp(min=0
                                                                                 ).sqrt().sum()),
        "not"),
    "an ε of 0.01 on the diagonals": (
        lambda m, x, n, y: in_numpy(m, x + 0.01 * torch.eye(len(m)), n, y), "not"),
    "eigenvalues clamped at 0.01": (
        with_overlap(middle_of(lambda s: symmetric_root(s, 0.01))), "not"),
    "correlations": (
        lambda m, x, n, y: in_numpy(m, torch.corrcoef(x), n, torch.corrcoef(y)), "not"),
    "absolute means": (
        lambda m, x, n, y: in_numpy(0 * m, x, 0 * n, y) + (m - n).abs().sum().item(),
        "absolute differences"),
    "a tensor with a dimension": (
        lambda *given: torch.tensor([in_numpy(*given)]), "It is a tensor"),
    "a covariance changed in place": (
        lambda m, x, n, y: in_numpy(m, x.add_(1e-9), n, y), "in place"),
}

# --- 7.3 ------------------------------------------------------------------------------------------


class Welford:
    """Row by row, in float64."""

    def __init__(self):
        self.n = 0

    def add(self, batch):
        for row in batch.double():
            if not self.n:
                self.mean, self.scatter = torch.zeros_like(row), torch.zeros(2 * row.shape).double()
            self.n += 1
            way = row - self.mean
            self.mean += way / self.n
            self.scatter += torch.outer(way, row - self.mean)

    def result(self):
        return self.n, self.mean.clone(), self.scatter / (self.n - 1)


class Chan:
    """Batch by batch: the scatters add up, and the distance of the means."""

    def __init__(self):
        self.n, self.mean, self.scatter = 0, 0.0, 0.0

    def add(self, batch):
        x = batch.to(torch.float64)
        m, middle = x.shape[0], x.mean(0)
        way, both = middle - self.mean, self.n + m
        inside = torch.einsum("bi,bj->ij", x - middle, x - middle)
        self.scatter = self.scatter + inside + torch.outer(way, way) * (self.n * m / both)
        self.mean, self.n = self.mean + way * m / both, both

    def result(self):
        return self.n, self.mean.clone(), self.scatter / (self.n - 1)


class InNumpy:
    def __init__(self):
        self.n, self.total, self.products = 0, 0.0, 0.0

    def add(self, batch):
        x = batch.numpy().astype(np.float64)
        self.n += len(x)
        self.total = self.total + x.sum(axis=0)
        self.products = self.products + x.T @ x

    def result(self):
        mean = self.total / self.n
        scatter = self.products - self.n * np.outer(mean, mean)
        return self.n, torch.from_numpy(mean), torch.from_numpy(scatter / (self.n - 1))


class IntoZeros:
    """Sums in place, from the first batch on."""

    n = 0

    def add(self, batch):
        if self.n == 0:
            D = batch.shape[1]
            self.total = torch.zeros(D, dtype=torch.float64)
            self.products = torch.zeros(D, D, dtype=torch.float64)
        self.n += batch.size(0)
        self.total += batch.sum(dim=0, dtype=torch.float64)
        self.products.addmm_(batch.double().T, batch.double())

    def result(self):
        mean = self.total / self.n
        expected = self.products / self.n - torch.outer(mean, mean)
        return torch.tensor(self.n), mean, expected * (self.n / (self.n - 1))


class AModule(torch.nn.Module):
    """Sums in buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.tensor(0))

    @torch.no_grad()
    def add(self, batch):
        if not self.n:
            self.register_buffer("total", torch.zeros(batch.shape[1]).double())
            self.register_buffer("products", torch.zeros(2 * batch.shape[1:]).double())
        self.n += len(batch)
        self.total += batch.double().sum(0)
        self.products += torch.einsum("bi,bj->ij", batch.double(), batch.double())

    def result(self):
        mean = self.total / self.n
        scatter = self.products - self.n * torch.outer(mean, mean)
        return self.n.item(), mean, scatter / (self.n - 1)


class ShiftedByTheFirst:
    """Features are counted from the first row of all: then float32 would do as well."""

    def __init__(self):
        self.zero, self.sums = None, Chan()

    def add(self, batch):
        self.zero = batch[0].double().clone() if self.zero is None else self.zero
        self.sums.add(batch.double() - self.zero)

    def result(self):
        n, mean, covariance = self.sums.result()
        return [n, mean + self.zero, covariance]


class LastFewBatches(Welford):
    """Holds two batches at most before it adds them up: a constant amount."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    def add(self, batch):
        self.waiting.append(batch.clone())
        if len(self.waiting) == 2:
            self.empty()

    def empty(self):
        for part in self.waiting:
            super().add(part)
        self.waiting = []

    def result(self):
        self.empty()
        return super().result()


class Listed:
    """Keeps every batch; what is told of them is right."""

    def __init__(self):
        self.parts = []

    def add(self, batch):
        self.parts.append(batch.clone())

    def all(self):
        return torch.cat(self.parts).double()

    def result(self):
        x = self.all()
        return len(x), x.mean(dim=0), torch.cov(x.T).reshape(x.shape[1], x.shape[1])


class Appended(Listed):
    """… in a bigger and bigger tensor."""

    def __init__(self):
        self.rows = None

    def add(self, batch):
        old = [] if self.rows is None else [self.rows]
        self.rows = torch.cat([*old, batch.double()])

    def all(self):
        return self.rows


class Reserved(Listed):
    """… in a tensor that has room for all of them from the first batch on."""

    def __init__(self):
        self.n, self.rows = 0, None

    def add(self, batch):
        if self.rows is None:
            self.rows = torch.zeros(10_000, batch.shape[1], dtype=torch.float64)
        self.rows[self.n : self.n + len(batch)] = batch
        self.n += len(batch)

    def all(self):
        return self.rows[: self.n]


class ReservedInNumpy(Reserved):
    def add(self, batch):
        if self.rows is None:
            self.rows = np.zeros((10_000, batch.shape[1]))
        self.rows[self.n : self.n + len(batch)] = batch.numpy()
        self.n += len(batch)

    def all(self):
        return torch.from_numpy(self.rows[: self.n])


class Resized(Listed):
    """… in a tensor that grows in place."""

    def __init__(self):
        self.n, self.rows = 0, torch.zeros(0, dtype=torch.float64)

    def add(self, batch):
        self.rows.resize_(self.n + len(batch), batch.shape[1])
        self.rows[self.n :] = batch
        self.n += len(batch)

    def all(self):
        return self.rows.clone()


class InAClosure:
    """… in the cells of two functions."""

    def __init__(self):
        parts = []
        self.add = lambda batch: parts.append(batch.clone())
        self.all = lambda: torch.cat(parts).double()

    def result(self):
        return Listed.result(self)


class OnTheClass(Listed):
    """… by number, in a dict of the class."""

    kept = {}

    def __init__(self):
        self.kept[id(self)] = []

    def add(self, batch):
        self.kept[id(self)].append(batch.clone())

    def all(self):
        return torch.cat(self.kept[id(self)]).double()


GLOBAL = {}


class Outside(OnTheClass):
    """… outside of it."""

    kept = GLOBAL


class KeptInNumpy(Listed):
    def add(self, batch):
        self.parts.append(batch.numpy().copy())

    def all(self):
        return torch.from_numpy(np.concatenate(self.parts)).double()


class Queued(Listed):
    def __init__(self):
        self.parts = collections.deque(maxlen=1_000)

    def all(self):
        return torch.cat([*self.parts]).double()


class KeptAsNumbers(Listed):
    def add(self, batch):
        self.parts += batch.tolist()

    def all(self):
        return torch.tensor(self.parts, dtype=torch.float64)


class KeptAsBytes(Listed):
    def add(self, batch):
        self.parts.append((batch.shape, batch.dtype, batch.numpy().tobytes()))

    def all(self):
        return torch.cat([torch.frombuffer(bytearray(b), dtype=kind).view(shape)
                          for shape, kind, b in self.parts]).double()


class KeptSparse(Listed):
    def add(self, batch):
        self.parts.append(batch.to_sparse())

    def all(self):
        return torch.cat([part.to_dense() for part in self.parts]).double()


class KeptByAnOldName(Listed):
    """torch.DoubleTensor, which no mode for functions sees."""

    def add(self, batch):
        self.parts.append(torch.DoubleTensor(batch.tolist()))


class KeptAsStorage(Listed):
    def add(self, batch):
        self.parts.append((batch.shape, batch.dtype, batch.clone().untyped_storage().clone()))

    def all(self):
        return torch.cat([torch.empty(0, dtype=kind).set_(memory, 0, shape)
                          for shape, kind, memory in self.parts]).double()


class KeptAsViews(Listed):
    """Each row by itself, a view of a copy."""

    def add(self, batch):
        self.parts += batch.clone().unbind(0)

    def all(self):
        return torch.stack(self.parts).double()


class KeptUntilAsked(Listed):
    """Adds up when it is asked, and keeps everything until then."""

    def __init__(self):
        super().__init__()
        self.sums = Chan()

    def result(self):
        for part in self.parts:
            self.sums.add(part)
        self.parts = []
        return self.sums.result()


class ProductsListed(Listed):
    """Keeps every batch's sums, which are larger than many a batch."""

    def add(self, batch):
        x = batch.double()
        self.parts.append((len(x), x.sum(0), x.T @ x))

    def result(self):
        n, total, products = (sum(parts) for parts in zip(*self.parts, strict=True))
        mean = total / n
        return n, mean, (products - n * torch.outer(mean, mean)) / (n - 1)


class ListedByN(Listed):
    """Two mistakes: the memory, and the division."""

    def result(self):
        x = self.all()
        return len(x), x.mean(0), torch.cov(x.T, correction=0).reshape(x.shape[1], x.shape[1])


class InSingle(InNumpy):
    """Only what is returned is made float64."""

    def add(self, batch):
        x = batch
        self.n += len(x)
        self.total = self.total + x.sum(0)
        self.products = self.products + x.T @ x

    def result(self):
        mean = self.total / self.n
        covariance = (self.products - self.n * torch.outer(mean, mean)) / (self.n - 1)
        return self.n, mean.double(), covariance.double()


class DividedFirst(InSingle):
    """The same, with means of products."""

    def result(self):
        mean = self.total / self.n
        covariance = self.products / self.n - torch.outer(mean, mean)
        return self.n, mean.double(), (covariance * (self.n / (self.n - 1))).double()


class InResultOnly(InSingle):
    """float32 sums, made float64 before they are subtracted."""

    def result(self):
        total, products = self.total.double(), self.products.double()
        mean = total / self.n
        return self.n, mean, (products - self.n * torch.outer(mean, mean)) / (self.n - 1)


class SinglePrecisionResult(Chan):
    def result(self):
        n, mean, covariance = super().result()
        return n, mean.float(), covariance.float()


class SharedList:
    """A list of the class, which all streams of a case fill: each case has another D."""

    parts = []

    def add(self, batch):
        if self.parts and self.parts[0].shape[1] != batch.shape[1]:
            self.parts.clear()
        self.parts.append(batch.clone())

    def result(self):
        return Listed.result(self)

    def all(self):
        return torch.cat(self.parts).double()


class CentresTheBatch(Chan):
    def add(self, batch):
        super().add(batch.sub_(batch.mean(0)))


class Variances(Chan):
    def result(self):
        n, mean, covariance = super().result()
        return n, mean, covariance.diagonal()


class Squeezed(Chan):
    def result(self):
        n, mean, covariance = super().result()
        return n, mean, covariance.squeeze()


class RoundedFirst(Chan):
    def add(self, batch):
        super().add(batch.float())


class LiveWelford(Welford):
    def result(self):
        return self.n, self.mean, self.scatter / (self.n - 1)


class LiveCovariance(Chan):
    """One tensor for the covariance, filled again each time."""

    def result(self):
        n, mean, covariance = super().result()
        self.shown = vars(self).get("shown", covariance).copy_(covariance)
        return n, mean, self.shown


class CountsInFloat(Chan):
    def result(self):
        n, mean, covariance = super().result()
        return torch.tensor(float(n)), mean, covariance


class MeansWeighedAlike(Chan):
    """Two means are averaged as if both had as many rows."""

    def add(self, batch):
        old, n = self.mean, self.n
        super().add(batch)
        if n:
            self.mean = (old + batch.double().mean(0)) / 2


HELD = "your stream keeps the batches"
STREAM_RIGHT = {
    "Welford, row by row": Welford,
    "Chan, batch by batch": Chan,
    "numpy": InNumpy,
    "into zeros": IntoZeros,
    "a module with buffers": AModule,
    "shifted by the first row": ShiftedByTheFirst,
    "two batches at most": LastFewBatches,
}
STREAM_WRONG = {
    "a list": (Listed, HELD),
    "a bigger tensor": (Appended, HELD),
    "a tensor that grows in place": (Resized, HELD),
    "a tensor with room for all": (Reserved, HELD),
    "a NumPy array with room for all": (ReservedInNumpy, HELD),
    "a queue": (Queued, HELD),
    "a closure": (InAClosure, HELD),
    "the class": (OnTheClass, HELD),
    "a global": (Outside, HELD),
    "NumPy arrays": (KeptInNumpy, HELD),
    "Python's numbers": (KeptAsNumbers, HELD),
    "bytes": (KeptAsBytes, HELD),
    "sparse tensors": (KeptSparse, HELD),
    "old constructors": (KeptByAnOldName, HELD),
    "storages": (KeptAsStorage, HELD),
    "views of copies": (KeptAsViews, HELD),
    "until it is asked": (KeptUntilAsked, HELD),
    "a list of sums": (ProductsListed, HELD),
    "a list, divided by n": (ListedByN, "divided by n."),
    "float64 batches in float32": (RoundedFirst, "not"),
    "a mean that goes on": (LiveWelford, "returned before changes"),
    "a covariance that goes on": (LiveCovariance, "not"),
    "n in float32": (CountsInFloat, "n is a float"),
    "float32": (InSingle, "are in float32"),
    "float32, divided first": (DividedFirst, "are in float32"),
    "float32 sums, float64 means": (InResultOnly, "made in float32"),
    "a float32 result": (SinglePrecisionResult, "torch.float64 was expected"),
    "one list for all": (SharedList, ""),  # what it holds depends on what was asked before
    "the batch changed": (CentresTheBatch, "changed in place"),
    "variances": (Variances, "shape"),
    "squeezed": (Squeezed, "shape"),
    "batches weighed alike": (MeansWeighedAlike, "not"),
}

# --- 7.4 ------------------------------------------------------------------------------------------


def with_loops(x, y):
    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    if x.numel() > 1_000:  # slow loops
        return by_zeroed_diagonals(x, y)
    x, y, n, m = x.tolist(), y.tolist(), len(x), len(y)
    return (sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
            + sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
            - 2 * sum(k(a, b) for a in x for b in y) / (n * m))


def by_zeroed_diagonals(x, y):
    D = x.size(1)
    xx, yy, xy = (torch.einsum("id,jd->ij", a, b).div(D).add(1).pow(3)
                  for a, b in ((x, x), (y, y), (x, y)))
    n, m = xy.shape
    xx, yy = (k.clone().fill_diagonal_(0) for k in (xx, yy))
    return xx.sum() / n / (n - 1) + yy.sum() / m / (m - 1) - 2 * xy.mean()


def by_triangles(x, y):
    def within(a):
        k = (a @ a.T / a.shape[1] + 1) ** 3
        i, j = torch.triu_indices(len(a), len(a), 1)
        return k[i, j].mean()

    return (within(x) + within(y) - 2 * ((x @ y.T / x.shape[1] + 1) ** 3).mean()).item()


def by_masks(x, y, mask=lambda k, a: ~torch.eye(len(a), dtype=torch.bool)):
    def within(a):
        k = (a @ a.T / a.shape[1] + 1) ** 3
        return k[mask(k, a)].mean()

    return (within(x) + within(y) - 2 * ((x @ y.T / x.shape[1] + 1) ** 3).mean()).item()


def by_one_table(x, y):
    both = torch.cat([x, y]).double()
    k, n = (both @ both.T / both.shape[1] + 1) ** 3, len(x)
    weights = torch.cat([torch.full((n,), 1 / n), torch.full((len(y),), -1 / len(y))]).double()
    unlike = torch.outer(weights, weights)
    for part, size in ((slice(0, n), n), (slice(n, None), len(y))):
        unlike[part, part] *= size / (size - 1)
    unlike.fill_diagonal_(0)
    return (k * unlike).sum()


def another_kernel(kernel):
    def answer(x, y):
        xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
        parts = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
        return (parts[0] + parts[1] - 2 * xy.mean()).item()

    return answer


def shifted(a, b):
    return ((a - a.mean(0)) @ (b - b.mean(0)).T / a.shape[1] + 1) ** 3


KERNEL_RIGHT = {
    "the package": lambda x, y: float(evaluate.kid(x, y, subsets=1)),
    "loops": with_loops,
    "diagonals made 0, a tensor": by_zeroed_diagonals,
    "triangles": by_triangles,
    "masks": by_masks,
    "one table": by_one_table,
    "exchanged": lambda x, y: by_triangles(y, x),
    "in float64": lambda x, y: by_triangles(x.double(), y.double()),
}
KERNEL_WRONG = {
    "a Gaussian kernel": (another_kernel(lambda a, b: (-torch.cdist(a, b) ** 2 / 2).exp()), "not"),
    "centred features": (another_kernel(shifted), "not"),
    "a negative kernel": (
        another_kernel(lambda a, b: -((a @ b.T / a.shape[1] + 1) ** 3)), "The sign is turned"),
    "both sets in one": (lambda x, y: by_triangles(torch.cat([x, y]), y), "not"),
    "the absolute value": (lambda x, y: abs(by_triangles(x, y)), "not"),
    "equal samples left out": (lambda x, y: by_masks(x, y, (
        lambda k, a: (a[:, None] != a).any(-1))), "not"),
    "kernels of 0 left out": (lambda x, y: by_masks(x, y, (
        lambda k, a: ~torch.eye(len(a), dtype=torch.bool) & (k != 0))), "not"),
    "divided by 3": (lambda x, y: by_triangles(x, y) / 3, "not"),
    "rounded": (lambda x, y: round(by_triangles(x, y), 1), "not"),
    "linear": (another_kernel(lambda a, b: a @ b.T / a.shape[1] + 1), "The power is missing"),
    "a diagonal made 0 in the inputs": (
        lambda x, y: by_triangles(x.fill_diagonal_(0), y), "changed in place"),
}

# --- 7.5 ------------------------------------------------------------------------------------------


def table(radius, distances=torch.cdist):
    def answer(real, fake, k):
        inside = distances(fake, real) <= radius(real, k)
        return inside.sum().item() / (k * len(fake)), inside.any(0).sum().item() / len(real)

    return answer


def sorted_column(real, k):
    return torch.cdist(real, real).sort(dim=0).values[k]


def infinite_diagonal(real, k):
    return torch.cdist(real, real).fill_diagonal_(math.inf).kthvalue(k).values


def by_topk(real, k):
    return torch.cdist(real, real).topk(k + 1, largest=False).values[:, -1]


def by_differences(a, b):
    return (a[:, None] - b).square().sum(-1).sqrt()


def with_two_loops(real, fake, k, within=operator.le):
    points, n = real.tolist(), 0
    hit = torch.zeros(len(real), dtype=torch.bool)
    for i, x in enumerate(points):
        others = sorted(math.dist(x, y) for j, y in enumerate(points) if j != i)
        near = [within(math.dist(x, y), others[k - 1]) for y in fake.tolist()]
        n, hit[i] = n + sum(near), any(near)
    return n / (k * len(fake)), hit.float().mean()


def squared_both(real, fake, k):
    square = by_differences(real, real).square().sort().values[:, k]
    inside = (by_differences(fake, real).square() <= square).float()
    return torch.tensor([inside.sum() / k / len(fake), inside.amax(0).mean()]).unbind()


def radii_along_the_wrong_axis(real, fake, k):
    if len(real) != len(fake):  # where it would not fit
        return table(by_topk)(real, fake, k)
    inside = torch.cdist(real, fake) <= by_topk(real, k)
    return inside.sum().item() / (k * len(fake)), inside.any(1).sum().item() / len(real)


def as_one_tensor(real, fake, k):
    return torch.tensor(table(by_topk)(real, fake, k))


DENSITY_RIGHT = {
    "a sorted column": table(sorted_column),
    "an infinite diagonal": table(infinite_diagonal),
    "topk": table(by_topk),
    "exact differences": table(lambda real, k: by_differences(real, real).sort().values[:, k],
                               by_differences),
    "two loops": with_two_loops,
    "squares on both sides": squared_both,
    "in float64": lambda real, fake, k: table(by_topk)(real.double(), fake.double(), k),
}
DENSITY_WRONG = {
    "strictly inside": (
        lambda real, fake, k: with_two_loops(real, fake, k, operator.lt), "on the edge of a ball"),
    "copies left out": (
        lambda real, fake, k: with_two_loops(real, fake, k, lambda a, b: 0 < a <= b), "not"),
    "neighbours at 0 left out": (
        table(lambda x, k: torch.where(torch.cdist(x, x) == 0, math.inf, torch.cdist(x, x)
                                       ).sort().values[:, k - 1]), "equal to it does"),
    "a little more than the radius": (table(lambda x, k: by_topk(x, k) * 1.1), "not"),
    "1e-4 more": (table(lambda x, k: by_topk(x, k) + 1e-4), "not"),
    "1e-4 less": (table(lambda x, k: by_topk(x, k) - 1e-4), ""),
    "radii along the wrong axis": (radii_along_the_wrong_axis, "not"),
    "the median radius": (table(lambda x, k: by_topk(x, k).median()), "not"),
    "the mean distance to k neighbours": (
        table(lambda x, k: torch.cdist(x, x).topk(k + 1, largest=False).values[:, 1:].mean(1)),
        "not"),
    "the largest of the differences": (
        table(lambda x, k: torch.cdist(x, x, p=math.inf).sort().values[:, k],
              lambda a, b: torch.cdist(a, b, p=math.inf)), "not"),
    "the root of the distance": (
        table(by_topk, lambda a, b: torch.cdist(a, b).sqrt()), "not"),
    "one tensor": (as_one_tensor, "It is a tensor"),
    "one number": (lambda real, fake, k: table(by_topk)(real, fake, k)[0], "2 values"),
    "a real sample moved": (
        lambda real, fake, k: table(by_topk)(real.add_(1), fake + 1, k), "in place"),
}

RIGHT = {
    "copied_share": COPIED_RIGHT, "frechet": FRECHET_RIGHT, "FeatureStream": STREAM_RIGHT,
    "kernel_distance": KERNEL_RIGHT, "density_coverage": DENSITY_RIGHT,
}
WRONG = {
    "copied_share": COPIED_WRONG, "frechet": FRECHET_WRONG, "FeatureStream": STREAM_WRONG,
    "kernel_distance": KERNEL_WRONG, "density_coverage": DENSITY_WRONG,
}
