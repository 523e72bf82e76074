"""Each measure against another route: scipy, torchmetrics, naive loops, cases known by hand."""

import copy
import json
import math
import pickle
import socket
import sys
import types
import urllib.error

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import linalg

from gencourse import data, evaluate, nets
from gencourse.evaluate import Features
from gencourse.runtime import UserError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def two_sets(rng, n=300, m=250, d=12, shift=0.3):
    """Correlated features of unlike spread, float32 like a judge's."""
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    y = rng.normal(size=(m, d)) @ rng.normal(size=(d, d)) + shift
    return x.astype(np.float32), y.astype(np.float32)


def by_sqrtm(x, y):
    """The usual implementation: the square root of the product of the covariances."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    cov_x, cov_y = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (x, y))
    root = linalg.sqrtm(cov_x @ cov_y).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)


# --- Fréchet distance


@pytest.mark.parametrize("d", [1, 2, 12, 64])
def test_frechet_distance_agrees_with_scipys_matrix_root(rng, d):
    x, y = two_sets(rng, d=d)
    assert evaluate.frechet_distance(x, y) == pytest.approx(by_sqrtm(x, y), rel=1e-6)


def test_frechet_distance_of_diagonal_gaussians_has_a_closed_form(rng):
    """With Σ diagonal it is Σ (μ − ν)² + (σ − τ)²; the samples are made to have just these."""
    d, mu, nu = 5, np.arange(5.0), np.arange(5.0)[::-1]
    sigma, tau = np.array([1, 2, 0.5, 3, 1e-4]), np.array([2, 2, 1, 0.1, 1e3])
    white = rng.normal(size=(400, d))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    expected = ((mu - nu) ** 2).sum() + ((sigma - tau) ** 2).sum()
    result = evaluate.frechet_distance(white * sigma + mu, white * tau + nu)
    assert result == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_is_symmetric_and_zero_on_itself(rng):
    x, y = two_sets(rng)
    there, back = evaluate.frechet_distance(x, y), evaluate.frechet_distance(y, x)
    assert there == pytest.approx(back, rel=1e-12)
    assert (there.n_real, there.n_fake) == (back.n_fake, back.n_real) == (300, 250)
    scale = np.trace(np.cov(x, rowvar=False))
    assert 0 <= evaluate.frechet_distance(x, x) < 1e-12 * scale
    moved = evaluate.frechet_distance(x.astype(float), x.astype(float) + 2)
    assert moved == pytest.approx(12 * 4, rel=1e-9)  # μ alone differs


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_frechet_distance_is_stable_for_singular_covariances(rng, rank):
    """Dead features (a ReLU that never fires) and exact copies make Σ singular, as judges do."""
    few = rng.normal(size=(400, rank)) * 10
    x = few @ rng.normal(size=(rank, 40)) + 100
    assert evaluate.frechet_distance(x, x) < 1e-9
    y = x + 0.5
    assert evaluate.frechet_distance(x, y) == pytest.approx(40 * 0.25, rel=1e-7)
    z = x * 2  # W₂² = ‖μ‖² + tr Σ where one is twice the other
    expected = (x.mean(0) ** 2).sum() + np.trace(np.cov(x, rowvar=False))
    assert evaluate.frechet_distance(x, z) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_between_disjoint_subspaces_adds_the_variances(rng):
    x, y = np.zeros((2, 200, 8))
    x[:, :4], y[:, 4:] = rng.normal(size=(2, 200, 4))
    expected = (x.mean(0) ** 2).sum() + (y.mean(0) ** 2).sum() + x.var(0, ddof=1).sum()
    expected += y.var(0, ddof=1).sum()  # nothing in common: the overlap is 0
    assert evaluate.frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_keeps_its_digits_far_from_the_origin(rng):
    x, y = rng.normal(size=(2, 500, 6))
    near = evaluate.frechet_distance(x, y)
    assert evaluate.frechet_distance(x + 1e5, y + 1e5) == pytest.approx(near, rel=1e-6)


@pytest.mark.parametrize("size", [1, 7, 64, 1_000])
def test_moments_do_not_depend_on_the_chunks(rng, size, monkeypatch):
    x, _ = two_sets(rng)
    chunks = (torch.from_numpy(x[i : i + size]) for i in range(0, len(x), size))
    streamed = evaluate.moments(chunks)
    assert streamed.n == 300
    np.testing.assert_allclose(streamed.mean, x.astype(float).mean(0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(streamed.covariance, np.cov(x.astype(float).T), rtol=1e-10)
    monkeypatch.setattr(evaluate, "CHUNK_BYTES", 8 * 12 * size)
    whole = evaluate.moments(x)
    torch.testing.assert_close(whole.covariance, streamed.covariance, rtol=1e-11, atol=1e-12)


def test_moments_stand_in_for_their_features_and_pass_the_extractor_on(rng):
    x, y = two_sets(rng)
    reference = evaluate.moments(Features(x, "one judge"))
    score = evaluate.frechet_distance(reference, [Features(part, "one judge") for part in (y, y)])
    together = evaluate.frechet_distance(x, np.concatenate([y, y]))
    assert score == pytest.approx(together, rel=1e-9)
    assert (score.extractor, score.n_real, score.n_fake) == ("one judge", 300, 500)


def test_frechet_distance_refuses_too_few_samples(rng):
    x, few = rng.normal(size=(300, 128)), rng.normal(size=(100, 128))
    sentence = "needs more samples than features: 100 < 128 in y. Draw at least 129"
    with pytest.raises(UserError, match=sentence):
        evaluate.frechet_distance(x, few)
    with pytest.raises(UserError, match="100 < 128 in x"):
        evaluate.frechet_distance(few, x)
    with pytest.raises(UserError, match="128 = 128 in y"):
        evaluate.frechet_distance(x, x[:128])
    assert evaluate.frechet_distance(x, x[:129]) > 0


# --- what all of them refuse, and what they carry

PAIRED = [
    evaluate.frechet_distance,
    evaluate.kid,
    evaluate.precision_recall,
    evaluate.nearest_neighbours,
]


@pytest.mark.parametrize("measure", PAIRED)
def test_what_can_not_be_compared_is_refused_in_words(rng, measure):
    x, y = two_sets(rng)
    with pytest.raises(UserError, match="some are of the mnist judge, some of the digits judge"):
        measure(Features(x, "mnist judge"), Features(y, "digits judge"))
    with pytest.raises(UserError, match="has 12 features and [a-z]+ has 11"):
        measure(x, y[:, :11])
    for bad in (math.nan, math.inf):
        broken = y.copy()
        broken[3, 4] = bad
        with pytest.raises(UserError, match="holds values that are not a number, or infinite"):
            measure(x, broken)
    with pytest.raises(UserError, match=r"\(N, D\) features; its shape is \(300,\)"):
        measure(x[:, 0], y)


def test_one_unnamed_extractor_makes_the_score_claim_none(rng):
    x, y = two_sets(rng)
    assert evaluate.frechet_distance(Features(x, "a"), Features(y, "a")).extractor == "a"
    assert evaluate.frechet_distance(Features(x, "a"), y).extractor is None
    chunks = [Features(x, "a"), Features(y, "b")]
    with pytest.raises(UserError, match="some are of the a, some of the b"):
        evaluate.moments(chunks)


def test_moments_refuse_what_is_no_sample(rng):
    with pytest.raises(UserError, match="2 samples or more; x has 1"):
        evaluate.moments(rng.normal(size=(1, 3)))
    with pytest.raises(UserError, match="2 samples or more; x has 0"):
        evaluate.moments(iter([]))
    with pytest.raises(UserError, match="3 features in one chunk and 2 in another"):
        evaluate.moments([np.zeros((4, 3)), np.zeros((4, 2))])
    with pytest.raises(UserError, match="so large that their covariance is infinite"):
        evaluate.moments(1e200 * rng.normal(size=(9, 3)))


def test_scores_print_their_counts_and_extractor_and_stay_numbers():
    known = dict(n_real=10_000, n_fake=5_000, extractor="fashion_mnist judge", dimensions=128)
    score = evaluate.Score(9.8712, "Fréchet distance", **known)
    line = "Fréchet distance 9.87 (fashion_mnist judge, 128 features; 10,000 real, 5,000 generated)"
    assert str(score) == repr(score) == f"{score}" == line
    assert f"{score:.1f}" == "9.9" and score + 1 == 9.8712 + 1 and json.dumps(score) == "9.8712"
    again = pickle.loads(pickle.dumps(score))
    assert str(again) == line == str(copy.deepcopy(score))
    assert str(evaluate.Score(0.03287, "kernel distance", error=0.00194)).endswith(
        "0.0329 ± 0.0019"
    )
    assert str(evaluate.Score(2_345.6, "x", n_fake=7)) == "x 2,346 (7 generated)"
    assert str(evaluate.Score(0.0, "x", error=0.0)) == "x 0"


# --- torchmetrics, on the same features


class AsGiven(torch.nn.Module):
    """For torchmetrics, which wants a network: the "pictures" are the features."""

    num_features = 12

    def forward(self, x):
        return x.flatten(1)


def test_frechet_distance_agrees_with_torchmetrics(rng):
    from torchmetrics.image.fid import FrechetInceptionDistance

    x, y = (torch.from_numpy(v) for v in two_sets(rng, 2_000, 1_500))
    theirs = FrechetInceptionDistance(feature=AsGiven(), input_img_size=(12, 1, 1)).double()
    theirs.set_dtype(torch.float64)
    theirs.update(x.double(), real=True)
    theirs.update(y.double(), real=False)
    assert evaluate.frechet_distance(x, y) == pytest.approx(theirs.compute().item(), rel=1e-4)


def test_kid_agrees_with_torchmetrics(rng):
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = (torch.from_numpy(v).double() for v in two_sets(rng, 250, 250))
    theirs = KernelInceptionDistance(feature=AsGiven(), subsets=1, subset_size=250)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    mean, _ = theirs.compute()
    score = evaluate.kid(x, y, subsets=1)
    assert score == pytest.approx(mean.item(), rel=1e-4)
    assert score.error is None


def test_inception_score_agrees_with_torchmetrics():
    from torchmetrics.image.inception import InceptionScore

    logits = torch.randn(400, 12) * 3
    theirs = InceptionScore(feature=AsGiven(), splits=1)
    theirs.update(logits)
    mean, _ = theirs.compute()
    assert evaluate.inception_score(logits, splits=1) == pytest.approx(mean.item(), rel=1e-4)


# --- KID


def test_kid_agrees_with_the_sum_over_pairs(rng):
    x, y = rng.normal(size=(6, 3)), rng.normal(1, 1, size=(5, 3))

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    xx = [k(x[i], x[j]) for i in range(6) for j in range(6) if i != j]
    yy = [k(y[i], y[j]) for i in range(5) for j in range(5) if i != j]
    expected = np.mean(xx) + np.mean(yy) - 2 * np.mean([k(a, b) for a in x for b in y])
    assert evaluate.kid(x, y, subsets=1) == pytest.approx(expected, rel=1e-10)


def test_kid_is_unbiased_and_its_error_is_honest(rng):
    """Right on average, for one distribution and for two; the error is the scores' own spread."""
    for shift in (0.0, 0.5):
        truth, known = 0.0, 0.0
        if shift:  # a big sample stands in for the closed form
            big = evaluate.kid(*(rng.normal(s, 1, size=(40_000, 2)) for s in (0, shift)))
            truth, known = float(big), big.error
        scores = [
            evaluate.kid(rng.normal(size=(400, 2)), rng.normal(shift, 1, size=(400, 2)))
            for _ in range(200)
        ]
        spread = np.std(scores)
        assert abs(np.mean(scores) - truth) < 4 * (spread / 200**0.5 + known), shift
        squares = np.mean([score.error**2 for score in scores])
        assert 0.85 < squares**0.5 / spread < 1.15, shift


def test_kid_deals_the_samples_out_by_its_seed(rng):
    x, y = two_sets(rng)
    score = evaluate.kid(x, y)
    assert score == evaluate.kid(x, y) != evaluate.kid(x, y, seed=1)
    order = np.argsort(x[:, 0])  # sorted samples, by class say, are dealt out all the same
    assert abs(evaluate.kid(x[order], y) - score) < 4 * score.error
    with pytest.raises(UserError, match="10 subsets need 2 samples each .* there are 9"):
        evaluate.kid(x, y[:9])
    assert evaluate.kid(x, y[:9], subsets=2).error > 0


# --- precision and recall


def naive_precision_recall(real, fake, k):
    def share(points, members):
        radii = []
        for i, a in enumerate(members):
            away = sorted(np.linalg.norm(a - b) for j, b in enumerate(members) if j != i)
            radii.append(away[k - 1])
        inside = [
            any(np.linalg.norm(p - m) <= r for m, r in zip(members, radii, strict=True))
            for p in points
        ]
        return np.mean(inside)

    return share(fake, real), share(real, fake)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_recall_agrees_with_a_naive_loop(rng, k):
    real, fake = rng.normal(size=(40, 3)), rng.normal(0.8, 1.2, size=(30, 3))
    result = evaluate.precision_recall(real, fake, k=k)
    expected = naive_precision_recall(real, fake, k)
    assert result == expected
    assert 0 < result[0] < 1 and 0 < result[1] < 1 and result[0] != result[1]


def test_precision_recall_of_hand_made_cases(rng):
    real = rng.normal(size=(200, 4)).astype(np.float32)
    assert evaluate.precision_recall(real, real) == (1, 1)
    assert evaluate.precision_recall(real, real + 100) == (0, 0)
    collapsed = real[:1] + rng.normal(size=(200, 4)) * 1e-3
    precision, recall = evaluate.precision_recall(real, collapsed)
    assert precision == 1 and recall <= 0.01
    wide = rng.normal(size=(2_000, 4)) * 4  # all that is real is there, and much more
    precision, recall = evaluate.precision_recall(real, wide)
    assert precision < 0.3 and recall > 0.9
    assert (precision.name, recall.name) == ("precision", "recall")
    assert str(recall).endswith("(4 features; 200 real, 2,000 generated)")


def test_precision_recall_of_copies_only():
    """Every radius is 0: exactly what is the same is inside, in single precision too."""
    point = torch.randn(1, 64) * 100
    copies, others = point.repeat(20, 1), (point + 1e-2).repeat(20, 1)
    assert evaluate.precision_recall(copies, copies) == (1, 1)
    assert evaluate.precision_recall(copies, others) == (0, 0)


def test_precision_recall_on_a_line_by_hand():
    """Real 0, 1, 3 with k = 1 have radii 1, 1, 2; generated 8.5, 9.5, 4.5 have 1, 1, 4."""
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[8.5], [9.5], [4.5]])
    precision, recall = evaluate.precision_recall(real, fake, k=1)
    assert precision == pytest.approx(1 / 3)  # 4.5 is within 2 of 3
    assert recall == pytest.approx(2 / 3)  # 1 and 3 are within 4 of 4.5


def test_precision_recall_refuses_too_few(rng):
    x = rng.normal(size=(5, 2))
    with pytest.raises(UserError, match="more than k samples of each kind; there are 5 and 3"):
        evaluate.precision_recall(x, x[:3])
    with pytest.raises(UserError, match="k = 0"):
        evaluate.precision_recall(x, x, k=0)


# --- neighbours


def test_nearest_neighbours_agree_with_a_sort_of_all_distances(rng):
    x, reference = rng.normal(size=(23, 5)), rng.normal(size=(57, 5))
    distances, indices = evaluate.nearest_neighbours(x, reference, k=4)
    every = np.linalg.norm(x[:, None] - reference, axis=2)
    np.testing.assert_array_equal(indices, every.argsort(axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :4], rtol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_neighbours_and_precision_do_not_depend_on_the_chunks(rng, size, monkeypatch):
    x, y = (v[:60] for v in two_sets(rng))
    whole = evaluate.nearest_neighbours(x, y, k=3), evaluate.precision_recall(x, y)
    monkeypatch.setattr(evaluate, "CHUNK_BYTES", 8 * max(size, 12) * size)
    assert len(evaluate._slices(torch.zeros(60, 1))) > 1
    distances, indices = evaluate.nearest_neighbours(x, y, k=3)
    torch.testing.assert_close(distances, whole[0][0])
    assert (indices == whole[0][1]).all()
    assert evaluate.precision_recall(x, y) == whole[1]


def test_memorised_pictures_are_found_at_distance_zero():
    images = data.load("digits")
    real = images.images(torch.arange(200))
    fake = real[[5, 17, 150]] * 1.0
    distances, indices = evaluate.nearest_neighbours(fake, real, k=2)
    assert indices[:, 0].tolist() == [5, 17, 150] and (distances[:, 0] == 0).all()
    assert (distances[:, 1] > 0).all() and distances.dtype == torch.float32
    own, _ = evaluate.nearest_neighbours(real + 1e4, real + 1e4)  # far from the origin
    assert (own == 0).all()
    with pytest.raises(UserError, match="between 1 and the 3 of the reference; not 4"):
        evaluate.nearest_neighbours(real, fake, k=4)


# --- modes


def test_nearest_modes_and_their_coverage_by_hand():
    centres = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
    x = torch.tensor([[0.1, 0.0], [2.0, 0.3], [0.0, 0.5], [1.0, 1.0], [0.0, 2.6], [0.0, 0.2]])
    modes = evaluate.nearest_modes(x, centres, radius=0.5)
    assert modes.tolist() == [0, 1, 0, -1, -1, 0] and modes.dtype == torch.int64
    coverage = evaluate.mode_coverage(modes, 4)
    assert (coverage.covered, coverage.total, coverage.n) == (2, 4, 6)
    assert coverage.on_mode == pytest.approx(4 / 6)
    kl = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.25)
    assert coverage.kl == pytest.approx(kl)
    assert evaluate.mode_coverage(modes, 4, least=2).covered == 1
    assert str(coverage).startswith("2 of 4 modes covered (66.7% of 6 samples on a mode, KL to uni")


def test_mode_coverage_takes_every_kind_of_whole_number():
    for dtype in (torch.uint8, torch.int8, torch.int32, torch.int64):
        assert evaluate.mode_coverage(torch.tensor([0, 1, 1], dtype=dtype), 2).covered == 2


def test_mode_coverage_at_its_ends():
    even = evaluate.mode_coverage(torch.arange(10).repeat(7), 10)
    assert even == (10, 10, 1.0, pytest.approx(0, abs=1e-12), 70)
    single = evaluate.mode_coverage(np.zeros(50, dtype=int), 10)
    assert single.covered == 1 and single.kl == pytest.approx(math.log(10))
    nowhere = evaluate.mode_coverage([-1, -1], 8)
    assert (nowhere.covered, nowhere.on_mode) == (0, 0) and math.isnan(nowhere.kl)
    for bad, sentence in (
        ([0, 3], r"numbers are -1 \(none\) to 2; these go from 0 to 3"),
        ([-2, 0], "these go from -2 to 0"),
        ([], "whole numbers"),
        ([0.5], "whole numbers"),
        ([[0]], "whole numbers"),
    ):
        with pytest.raises(UserError, match=sentence):
            evaluate.mode_coverage(bad, 3)


# --- Inception score


def test_inception_score_by_hand_and_at_its_ends():
    sure = torch.eye(10).repeat(30, 1) * 100  # each picture clear, classes even
    assert evaluate.inception_score(sure, splits=1) == pytest.approx(10)
    assert evaluate.inception_score(sure[:1].repeat(50, 1)) == pytest.approx(1)  # one class only
    assert evaluate.inception_score(torch.zeros(50, 10)) == pytest.approx(1)  # no picture clear
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    mean = p.mean(0)
    expected = (p * (p / mean).log()).sum(1).mean().exp().item()
    assert evaluate.inception_score(p.log(), splits=1) == pytest.approx(expected, rel=1e-6)


def test_inception_score_splits_and_error():
    logits = torch.randn(500, 10) * 4
    score = evaluate.inception_score(logits, extractor="digits judge")
    parts = torch.randperm(500, generator=torch.Generator().manual_seed(0)).tensor_split(10)
    values = [float(evaluate.inception_score(logits[i], splits=1)) for i in parts]
    assert score == pytest.approx(np.mean(values))
    assert score.error == pytest.approx(np.std(values, ddof=1) / 10**0.5)
    assert str(score).endswith("(digits judge; 500 generated)")
    with pytest.raises(UserError, match="10 splits need a sample each; there are 4"):
        evaluate.inception_score(logits[:4])


# --- judges


@pytest.fixture
def tiny(tmp_path):
    """A classifier with moving statistics of its own, and the file that holds it."""
    classifier = nets.Classifier(16, 1, width=4)
    classifier(torch.randn(32, 1, 16, 16))
    settings = {"data": "digits", "shape": [1, 16, 16]}
    path = tmp_path / "mine.safetensors"
    state = {key: value.half() for key, value in classifier.state_dict().items()}
    save_file(state, path, metadata={"settings": json.dumps(settings)})
    return classifier.eval(), path


@pytest.mark.parametrize("name", evaluate.JUDGES)
def test_shipped_judges_know_their_pictures(name):
    judge = evaluate.judge(name)
    assert judge.extractor == f"{name} judge" and not judge.training
    assert not any(p.requires_grad for p in judge.parameters())
    x = torch.rand(3, judge.channels, judge.size, judge.size) * 2 - 1
    found = evaluate.features(x, judge)
    assert found.values.shape == (3, 128) and found.extractor == f"{name} judge"
    torch.testing.assert_close(found.values, judge.features(x))
    assert judge.settings["accuracy"] > (0.79 if name == "cifar10" else 0.9)


def test_the_digits_judge_recognises_digits():
    images = data.load("digits", split="test")
    seen = evaluate.logits(images, evaluate.judge("digits")).argmax(1)
    assert (seen == images.labels).float().mean() > 0.95
    assert evaluate.mode_coverage(seen, 10).covered == 10


def test_a_judge_of_ones_own_is_told_from_others(tiny):
    classifier, path = tiny
    judge = evaluate.judge(path)
    assert judge.extractor.startswith("digits judge ") and judge.size == 16
    x = torch.rand(9, 1, 16, 16) * 2 - 1
    theirs = evaluate.features(x, judge)
    torch.testing.assert_close(theirs.values, classifier.features(x), rtol=2e-2, atol=2e-2)
    mine = evaluate.features(x, classifier)
    assert mine.extractor.startswith("Classifier ")
    with pytest.raises(UserError, match="can't be compared"):
        evaluate.kid(theirs, mine, subsets=1)
    other = evaluate.features(x, nets.Classifier(16, 1, width=4).eval())
    assert other.extractor != mine.extractor


def test_missing_and_broken_judges_are_explained(tmp_path):
    with pytest.raises(UserError, match="mnist, fashion_mnist, cifar10: train your own with"):
        evaluate.judge("shapes")
    with pytest.raises(UserError, match="There is no file"):
        evaluate.judge(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="broken.safetensors holds no judge"):
        evaluate.judge(broken)
    save_file({"x": torch.zeros(2)}, broken)
    with pytest.raises(UserError, match="holds no judge"):
        evaluate.judge(str(broken))


def test_every_way_to_give_pictures_gives_the_same_features(tiny, monkeypatch):
    classifier, _ = tiny
    images = data.load("digits", split="test")
    monkeypatch.setattr(evaluate, "BATCH", 50)  # 297 pictures: five batches and a rest
    whole = images.images(torch.arange(len(images)))
    expected = classifier.features(whole)
    for given in (images, whole, whole.numpy(), iter(whole.split(64))):
        found = evaluate.features(given, classifier)
        assert found.values.shape == (297, 128) and not found.values.requires_grad
        torch.testing.assert_close(found.values, expected)
    torch.testing.assert_close(evaluate.logits(images, classifier), classifier(whole))


def test_dropout_is_off_while_judging_and_the_mode_comes_back(tiny):
    classifier, _ = tiny
    x = torch.rand(20, 1, 16, 16) * 2 - 1
    quiet = evaluate.logits(x, classifier)
    classifier.train()
    torch.testing.assert_close(evaluate.logits(x, classifier), quiet)
    assert classifier.training


def test_pictures_are_fitted_to_the_judge(tiny):
    classifier, _ = tiny
    classifier.size, classifier.channels = 16, 1
    big = torch.rand(4, 1, 32, 32) * 2 - 1
    small = torch.nn.functional.interpolate(big, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(
        evaluate.features(big, classifier).values, classifier.features(small)
    )
    with pytest.raises(UserError, match="colour"):
        evaluate.features(torch.zeros(2, 3, 16, 16), classifier)
    colour = nets.Classifier(16, 3, width=4).eval()
    colour.size, colour.channels = 16, 3
    grey = small[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(evaluate.features(small, colour).values, colour.features(grey))


def test_28_and_32_pixels_differ_by_the_frame_alone():
    x = torch.rand(4, 1, 28, 28) * 2 - 1
    framed = torch.nn.functional.pad(x, (2, 2, 2, 2), value=-1)
    at_28, at_32 = types.SimpleNamespace(), types.SimpleNamespace()
    for judge, size in ((at_28, 28), (at_32, 32)):
        judge.size, judge.channels, judge.parameters = size, 1, lambda: iter([torch.zeros(1)])
    assert torch.equal(evaluate._fitted(framed, at_28), x)
    assert torch.equal(evaluate._fitted(x, at_32), framed)


def test_what_is_no_picture_is_refused(tiny):
    classifier, _ = tiny
    for bad, sentence in (
        (torch.zeros(2, 16, 16), r"these are \(2, 16, 16\) float32"),
        (torch.zeros(2, 2, 16, 16), "1 or 3 channels"),
        (torch.zeros(2, 1, 16, 16, dtype=torch.uint8), "uint8"),
        (torch.full((2, 1, 16, 16), 255.0), "these reach 255"),
        (torch.full((2, 1, 16, 16), math.nan), "not a number"),
        ([], "There are no pictures"),
    ):
        with pytest.raises(UserError, match=sentence):
            evaluate.features(bad, classifier)


# --- the real Inception network


class FakeInception(torch.nn.Module):
    """Stands in for the network that needs weights: keeps what it is shown."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        self.seen = []
        assert (name, features_list) == ("inception-v3-compat", ["2048"])
        assert socket.getdefaulttimeout() == evaluate.STALL_SECONDS
        FakeInception.last = self

    def forward(self, x):
        self.seen.append(x)
        return torch.zeros(len(x), 2048)


@pytest.fixture
def fid_module(monkeypatch):
    import torchmetrics.image.fid as module

    monkeypatch.setattr(module, "NoTrainInceptionV3", FakeInception)
    return module


def test_inception_sees_8_bit_pictures_in_three_channels(fid_module):
    images = data.load("digits", split="test")
    found = evaluate.inception_features(images)
    assert found.values.shape == (297, 2048) and found.extractor == "Inception-v3"
    seen = torch.cat(FakeInception.last.seen)
    assert seen.dtype == torch.uint8 and torch.equal(seen, images.x.expand(-1, 3, -1, -1))
    assert socket.getdefaulttimeout() is None


def test_distances_are_called_fid_and_kid_on_inception_features_only(rng):
    x, y = two_sets(rng)
    for extractor, names in (
        ("Inception-v3", ["FID", "KID"]),
        ("digits judge", ["Fréchet distance", "kernel distance"]),
        (None, ["Fréchet distance", "kernel distance"]),
    ):
        pair = Features(x, extractor), Features(y, extractor)
        scores = [evaluate.frechet_distance(*pair), evaluate.kid(*pair)]
        assert [score.name for score in scores] == names


def test_missing_inception_weights_are_said_in_one_sentence(fid_module, monkeypatch):
    x = torch.zeros(2, 1, 28, 28)

    def offline(*arguments):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(fid_module, "NoTrainInceptionV3", offline)
    with pytest.raises(UserError) as caught:
        evaluate.inception_features(x)
    text = str(caught.value)
    assert "weights can't be had here (<urlopen error no route to host>)" in text
    assert "\n" not in text and text.count(". ") == 0
    assert socket.getdefaulttimeout() is None

    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)  # not installed
    with pytest.raises(UserError, match="pip install torchmetrics torch-fidelity"):
        evaluate.inception_features(x)
