"""The doctor, on runs that are made to fail each way and on healthy ones, all trained here.

`pytest -s tests/test_doctor.py -k confusion` prints the table of what each run was called.
"""

import copy
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from gencourse import data, nets, train
from gencourse.doctor import FINDINGS, _last_sheet, doctor
from gencourse.run import Run, diversity
from gencourse.runtime import UserError, seed_everything

CHAPTERS = Path(__file__).resolve().parents[1] / "chapters" / "text"
NAMES = list(FINDINGS)
SHORTER = {  # for the head of the table
    "healthy": "healthy", "not a number": "NaN", "diverged": "diverged",
    "learning rate too high": "rate", "discriminator too strong": "D strong",
    "generator collapsed": "G coll.", "posterior collapse": "posterior",
    "KL vanishing": "KL", "not enough training": "short", "learns nothing": "nothing",
    "codes off the prior": "prior", "can't tell": "?",
}


# --- the runs -------------------------------------------------------------------------------------


def gan(
    out, steps=160, *, seed=0, width=8, d_factor=1, g_factor=1, spoil=None, dense=False, **more
):
    """train_gan on digits; d_factor, g_factor: of the rates of D and G; spoil: makes the nets."""
    images = data.load("digits")
    seed_everything(seed)
    if dense:
        G, D = nets.DenseGenerator(images.shape, 64, 64), nets.DenseDiscriminator(images.shape, 64)
    else:
        G, D = nets.DCGANGenerator(16, 1, width=width), nets.DCGANDiscriminator(16, 1, width=width)
    if spoil is not None:
        spoil(G, D)
    scale_gradients = pytest.MonkeyPatch()
    scale_gradients.setattr(train, "set_learning_rate", two_rates(d_factor, g_factor))
    options = {"batch_size": 16, "sample_every": max(1, steps // 3), "progress": False, **more}
    try:
        train.train_gan(images, G, D, steps=steps, seed=seed, out=out, **options)
    except UserError as error:
        assert "diverged" in str(error)
    finally:
        scale_gradients.undo()


def two_rates(d_factor, g_factor):
    def set_rates(rate, g_opt, d_opt):
        for optimizer, factor in ((g_opt, g_factor), (d_opt, d_factor)):
            for group in optimizer.param_groups:
                group["lr"] = factor * rate

    return set_rates


def vae(out, steps=160, *, seed=0, width=8, **more):
    seed_everything(seed)
    net = nets.VAE(16, 1, width=width)
    try:
        options = {"steps": steps, "batch_size": 16, "seed": seed, "progress": False, **more}
        train.train_vae(data.load("digits"), net, out=out, **options)
    except UserError as error:
        assert "diverged" in str(error)


def deaf_generator(G, D):
    """z is multiplied by 0 on its way in: all samples of a batch are the same picture."""
    G.body[0].register_forward_pre_hook(lambda module, inputs: (0 * inputs[0],))


def broken_loss(G, D):
    """log of a negative number from D's 40th picture batch on."""
    forward, calls = D.forward, []

    def spoiled(x):
        calls.append(1)
        return forward(x) * (float("nan") if len(calls) > 3 * 40 else 1.0)

    D.forward = spoiled


# kind → (names it must be called, names it may be called too, how to make it)
KINDS = {
    "DCGAN": ({"healthy"}, set(), lambda out: gan(out)),
    "DCGAN, wider": ({"healthy"}, set(), lambda out: gan(out, seed=1, width=10)),
    "dense GAN, young": (
        {"not enough training"}, set(), lambda out: gan(out, 200, dense=True, lr=2e-4)
    ),
    "VAE": ({"healthy"}, set(), lambda out: vae(out, 500, lr=2e-3, width=12)),
    "VAE, other seed": ({"healthy"}, set(), lambda out: vae(out, 500, seed=1, lr=2e-3, width=12)),
    "GAN, D learns, G hardly": (
        {"discriminator too strong"}, {"generator collapsed"},  # what it draws is all alike, too
        lambda out: gan(out, dense=True, d_factor=3, g_factor=1e-3),
    ),
    "GAN, G deaf to z": (
        {"generator collapsed"}, {"discriminator too strong"},
        lambda out: gan(out, spoil=deaf_generator),
    ),
    "GAN, rate 1": (
        {"diverged"}, {"learning rate too high", "generator collapsed"},
        lambda out: gan(out, lr=1.0),
    ),
    "GAN, NaN": ({"not a number"}, set(), lambda out: gan(out, batch_size=8, spoil=broken_loss)),
    "GAN, 30 steps": ({"not enough training"}, set(), lambda out: gan(out, 30)),
    "GAN, D at the rate 0": (
        {"learns nothing"}, {"generator collapsed"},
        lambda out: gan(out, dense=True, d_factor=0),
    ),
    "VAE, β = 256": ({"posterior collapse"}, set(), lambda out: vae(out, beta=256.0)),
    "VAE, β = 20": ({"posterior collapse"}, set(), lambda out: vae(out, beta=20.0)),
    "GAN, rate 0.05": (
        {"learning rate too high"}, {"generator collapsed", "discriminator too strong"},
        lambda out: gan(out, lr=0.05, batch_size=32),
    ),
    "VAE, rate 0.1": ({"diverged"}, {"not a number"}, lambda out: vae(out, lr=0.1)),
    "VAE, rate 1": ({"not a number"}, set(), lambda out: vae(out, lr=1.0)),
    "VAE, 30 steps": ({"not enough training"}, set(), lambda out: vae(out, 30)),
    "VAE, no regard to the prior": (
        {"codes off the prior"}, set(), lambda out: vae(out, beta=0.0, lr=3e-3)
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every kind of run, trained once: kind → folder."""
    base, folders = tmp_path_factory.mktemp("runs"), {}
    for i, (kind, (_, _, make)) in enumerate(KINDS.items()):
        folders[kind] = base / f"{i:02d}"
        make(folders[kind])
    return folders


def test_confusion_table(runs):
    """Each kind of run is called what it is, and nothing that it is not."""
    reports = {kind: doctor(folder) for kind, folder in runs.items()}
    width = max(map(len, KINDS))
    lines = [" " * width + " | " + " | ".join(SHORTER[name] for name in NAMES)]
    wrong = []
    for kind, (must, may, _) in KINDS.items():
        called = set(reports[kind].names)
        right = must <= called <= must | may
        cells = [("×" if n in called else "·").center(len(SHORTER[n])) for n in NAMES]
        lines.append(f"{kind:{width}} | " + " | ".join(cells) + ("" if right else "  ← wrong"))
        if not right:
            wrong.append(f"\n{kind}:\n{reports[kind]}")
    table = "\n".join(lines)
    print("\n" + table)
    assert not wrong, f"\n{table}\n" + "\n".join(wrong)


def test_a_report_reads_well(runs):
    text = str(doctor(runs["VAE, β = 256"]))
    for part in (
        "a VAE, 160 of 160 steps, 2,560 pictures seen", "posterior collapse", "latent",
        "Try first: β = 1 instead of 256", "chapters/08_vae.ipynb, section 8.11",
    ):
        assert part in text, text
    assert all(len(line) < 250 for line in text.splitlines())


def test_every_finding_shows_its_numbers(runs):
    for kind, folder in runs.items():
        for finding in doctor(folder).findings:
            assert finding.numbers and re.search(r"\d", finding.evidence), f"{kind}: {finding}"
            assert finding.advice or finding.name == "healthy"


@pytest.mark.parametrize("name", NAMES)
def test_the_lesson_is_there(name):
    for lesson in filter(None, FINDINGS[name][:2]):
        stem, _, section = lesson.partition(" ")
        path = CHAPTERS / f"{stem}.py"
        assert path.exists(), path
        text = path.read_text(encoding="utf-8")
        assert not section or f"\n# ## {section} " in text, f"{stem} has no section {section}"


# --- what it reads --------------------------------------------------------------------------------


def little(folder=None, stop=None, **logged):
    """A Run that logs made-up values; `logged`: lists of equal length."""
    steps = len(next(iter(logged.values())))
    now = nn.Linear(1, 1)
    pictures = 2 * torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    r = Run(
        folder, settings={"lr": 0.5}, batch_size=64, sample=lambda: pictures, real=pictures,
        sample_every=50, checkpoint_every=50, progress=False, now=now,
    )
    with r:
        for step in r.steps(steps):
            if step == stop:
                break
            r.log(**{k: v[step] for k, v in logged.items()})
    return r


FAIR = {
    "d_loss": [1.2] * 200, "g_loss": [0.9] * 200, "d_real": [0.6] * 200, "d_fake": [0.4] * 200,
    "d_grad": [1.0] * 200, "g_grad": [1.0] * 200,
}
FAIR_VAE = {"loss": [170.0, *[100.0] * 199], "nll": [90.0] * 200, "kl": [10.0] * 200,
            "active": [8.0] * 200}


def test_a_run_its_folder_and_its_history_are_called_the_same(tmp_path):
    for logged, name in (
        (FAIR, "healthy"),
        (FAIR | {"d_real": [0.999] * 200, "d_fake": [0.001] * 200}, "discriminator too strong"),
        (FAIR_VAE, "healthy"),
        (FAIR_VAE | {"kl": [1.0] * 200}, "KL vanishing"),
    ):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        r = little(folder, **logged)
        assert doctor(r).names == doctor(folder).names == doctor(str(folder)).names == [name]
        assert doctor(little(**logged)).names == doctor(r.history).names == [name]


# what is changed in a fair run, and what it must then be called; both sides of each threshold
SCORES = {"d_real": [8.0] * 200, "d_fake": [-2.0] * 200}
DENSITY = {"loss": [-100.0, *[-500.0] * 199], "nll": [-520.0] * 200}
CASES = [
    (FAIR, {"d_real": [0.98] * 200, "d_fake": [0.02] * 200}, "healthy"),
    (FAIR, {"d_real": [0.99] * 200, "d_fake": [0.005] * 200}, "discriminator too strong"),
    (FAIR, {"d_loss": [1.2] * 197 + [4.0] * 2 + [1.2]}, "healthy"),
    (FAIR, {"d_loss": [1.2] * 196 + [4.0] * 3 + [1.2]}, "learning rate too high"),
    (FAIR, {"d_loss": [6.0] * 20 + [1.2] * 180}, "healthy"),  # with a loss for classes, say
    (FAIR, {"g_loss": [40.0] * 200}, "healthy"),
    (FAIR, {"g_loss": [60.0] * 200}, "diverged"),
    (FAIR, {"g_loss": [-0.5] * 200}, "healthy"),  # the saturating loss
    # D learns nothing, or G
    (FAIR, {"d_loss": [1.386] * 200, "d_real": [0.5] * 200, "d_fake": [0.5] * 200},
     "learns nothing"),
    (FAIR, {"d_loss": [1.4] * 200, "d_real": [0.504] * 200, "d_fake": [0.5] * 200},
     "learns nothing"),
    (FAIR, {"d_loss": [2.0] * 200, "d_real": [0.4] * 200, "d_fake": [0.6] * 200},
     "learns nothing"),
    (FAIR, {"d_loss": [1.4] * 200, "d_real": [0.51] * 200, "d_fake": [0.5] * 200}, "healthy"),
    (FAIR, {"d_real": [0.7] * 100 + [0.5] * 100, "d_fake": [0.3] * 100 + [0.5] * 100,
            "d_loss": [1.0] * 100 + [1.39] * 100}, "healthy"),  # it had been ahead
    (FAIR, {"d_grad": [0.0] * 200}, "learns nothing"),
    (FAIR, {"g_grad": [0.0] * 200}, "learns nothing"),
    (FAIR, {"g_grad": [0.0] * 200, "d_real": [1.0] * 200, "d_fake": [0.0] * 200},
     "learns nothing"),  # the cause, not that D then wins
    (FAIR, {"g_grad": [0.0] * 200, "d_loss": [1e-9] * 200}, "learns nothing"),
    (FAIR, {"g_grad": [1.0] * 100 + [0.0] * 100}, "learns nothing"),
    (FAIR, {"g_grad": [1.0] * 100 + [0.0] * 100, "d_real": [1.0] * 200, "d_fake": [0.0] * 200,
            "d_loss": [1e-9] * 200}, "discriminator too strong"),
    (FAIR, {"d_loss": [1.3863] * 200, "d_real": None, "d_fake": None}, "learns nothing"),
    # critics and other losses: nobody can tell without samples, and nothing is made up
    (FAIR, {"d_loss": [-3.0] * 100 + [9.0] * 100}, "can't tell"),
    (FAIR, {"d_loss": [-3.0] * 200, "g_loss": [-0.36 * i for i in range(200)]} | SCORES,
     "can't tell"),
    (FAIR, {"d_loss": [5.0] * 20 + [-10.0] * 180, "g_loss": [-72.0] * 200} | SCORES, "can't tell"),
    (FAIR, {"d_loss": [0.5] * 200, "g_loss": [-1.0, 1.0] * 100} | SCORES, "can't tell"),  # hinge
    (FAIR, {"d_loss": [0.5] * 196 + [4.9] * 4} | SCORES, "can't tell"),
    (FAIR, {"d_loss": [0.5] * 196 + [5.1] * 4} | SCORES, "learning rate too high"),
    (FAIR, {"d_loss": [0.05] * 200, "g_loss": [0.8] * 200, "d_real": [0.9] * 200,
            "d_fake": [0.1] * 200}, "can't tell"),  # least squares
    (FAIR, {"d_loss": [0.0] * 200, "d_grad": [0.0] * 200} | SCORES, "discriminator too strong"),
    (FAIR, {"d_loss": [-2e5] * 200} | SCORES, "diverged"),
    (FAIR, {"d_loss": [-9e3] * 200} | SCORES, "can't tell"),
    (FAIR, {"d_loss": [-0.1] * 200, "d_grad": [0.0] * 200} | SCORES, "learns nothing"),
    # VAEs
    (FAIR_VAE, {"loss": [170.0] * 50 + [250.0] + [100.0] * 149}, "healthy"),
    (FAIR_VAE, {"loss": [170.0] * 50 + [260.0] + [100.0] * 149}, "learning rate too high"),
    (FAIR_VAE, {"loss": [170.0] + [260.0] * 199}, "diverged"),
    (FAIR_VAE, {"kl": [2.4] * 200}, "healthy"),
    (FAIR_VAE, {"kl": [2.2] * 200}, "KL vanishing"),
    (FAIR_VAE, {"kl": [2.4] * 100 + [2.2] * 100}, "KL vanishing"),
    (FAIR_VAE, {"kl": [1.0] * 160 + [1.3] * 40}, "not enough training"),
    (FAIR_VAE, {"kl": [0.09] * 200}, "posterior collapse"),
    (FAIR_VAE, {"kl": [1e-6] * 160 + [5e-4] * 40}, "posterior collapse"),  # that is no growth
    (FAIR_VAE, {"active": [0.0] * 200, "kl": [0.2] * 200}, "posterior collapse"),
    (FAIR_VAE, {"loss": [170.0] * 160 + [165.0] * 40}, "healthy"),
    (FAIR_VAE, {"loss": [170.0] * 160 + [160.0] * 40}, "not enough training"),
    (FAIR_VAE, {"loss": [170.0] * 200, "kl": [0.01] * 200}, "learns nothing"),
    (FAIR_VAE, {"nll": [90.0] + [60.0] * 199, "kl": [0.0] + [95.0] * 199}, "codes off the prior"),
    (FAIR_VAE, {"kl": [-1.0] * 200}, "can't tell"),
    (FAIR_VAE, {"nll": [0.69] + [0.3] * 199, "kl": [0.02] * 200, "loss": [0.7] + [0.32] * 199},
     "can't tell"),  # means over the pixels
    (FAIR_VAE, {"nll": [0.69] + [0.3] * 199, "kl": [0.0] * 200, "active": [0.0] * 200,
                "loss": [0.7] + [0.32] * 199}, "posterior collapse"),  # whatever they are
    (FAIR_VAE, {"loss": None}, "healthy"),
    (FAIR_VAE, {"nll": None, "active": None}, "healthy"),
    # a density's loss begins anywhere
    (FAIR_VAE, DENSITY, "healthy"),
    (FAIR_VAE, DENSITY | {"loss": [-100.0] * 50 + [90.0] + [-500.0] * 149}, "healthy"),
    (FAIR_VAE, DENSITY | {"loss": [-100.0] * 50 + [110.0] + [-500.0] * 149},
     "learning rate too high"),
    (FAIR_VAE, DENSITY | {"loss": [100.0] + [-4.0] * 159 + [-5.0] * 40}, "healthy"),
    (FAIR_VAE, DENSITY | {"loss": [0.5] + [-500.0] * 199}, "healthy"),
    (FAIR_VAE, DENSITY | {"loss": [-100.0] + [900.0] * 199}, "diverged"),
]


@pytest.mark.parametrize(("fair", "change", "name"), CASES)
def test_thresholds(fair, change, name):
    history = {k: v for k, v in (fair | change).items() if v is not None}
    report = doctor(history | {"step": list(range(1, 201))})
    assert report.names == [name]
    finding = report.findings[0]
    assert finding.numbers and re.search(r"\d", finding.evidence)
    assert finding.advice or name == "healthy"


def test_batches_of_two_leap_by_chance(tmp_path):
    values = [9.0 if i % 16 == 0 else 1.2 for i in range(200)]
    for batch, name in ((2, "healthy"), (64, "learning rate too high")):
        r = Run(settings={"batch_size": batch})
        r.history = FAIR | {"d_loss": values, "step": list(range(1, 201))}
        assert doctor(r).names == [name]


def test_three_pictures_need_little_kl():
    for pictures, name in ((3, "healthy"), (60_000, "KL vanishing")):
        r = Run(settings={"pictures": pictures})
        r.history = FAIR_VAE | {"kl": [0.8] * 200, "step": list(range(1, 201))}
        assert doctor(r).names == [name]


def test_leaps_are_counted_by_the_hundred():
    fair = {k: v * 5 for k, v in FAIR.items()} | {"step": list(range(1, 1001))}
    for leaps, name in ((9, "healthy"), (10, "learning rate too high")):
        values = [1.2] * (1000 - leaps) + [4.0] * leaps
        assert doctor(fair | {"d_loss": values[::-1]}).names == ["healthy"]  # it begins high
        assert doctor(fair | {"d_loss": values}).names == [name]


def test_steps_are_counted_not_rows():
    def every(n, rows, fair=FAIR):
        return {k: v[-rows:] for k, v in fair.items()} | {
            "step": [n * i for i in range(1, rows + 1)]
        }

    assert doctor(every(100, 100)).names == ["healthy"]
    assert "10,000 steps" in doctor(every(100, 100)).title
    assert doctor(every(1, 100)).names == ["not enough training"]
    assert doctor(every(1000, 10)).names == doctor(every(100, 100, FAIR_VAE)).names == ["healthy"]
    # a first row of step 100 is not that of a net that knows nothing
    dear = FAIR_VAE | {"nll": [60.0] * 150 + [90.0] * 50}
    assert doctor(every(100, 100, dear)).names == ["healthy"]
    assert doctor(every(2, 100, dear)).names == ["codes off the prior"]
    few = doctor(every(1000, 9))
    assert few.names == ["can't tell"] and few.findings[0].numbers == {"rows": 9, "steps": 9000}
    assert "steps 123,450:" in str(doctor(every(24_690, 5)))
    assert doctor(every(1000, 1)).names == doctor(every(500, 3, FAIR_VAE)).names == ["can't tell"]
    assert doctor(every(1, 1)).names == doctor(every(1, 1, FAIR_VAE)).names == [
        "not enough training"
    ]


@pytest.mark.parametrize("fair", [FAIR, FAIR_VAE])
def test_a_history_of_any_kind_of_numbers_in_any_order(fair):
    steps = list(range(1, 201))
    plain = doctor(fair | {"step": steps})
    assert plain.names == ["healthy"]
    backwards = {k: v[::-1] for k, v in (fair | {"step": steps}).items()}
    assert doctor(backwards) == plain
    tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in (fair | {"step": steps}).items()}
    strings = {k: [str(x) for x in v] for k, v in (fair | {"step": steps}).items()}
    assert doctor(tensors) == doctor(strings) == plain
    # stopped at 200 and resumed at 101, both kept: the later rows count
    sick = {k: [1e6] * 100 for k in fair}
    twice = {k: fair[k][:100] + sick[k] + fair[k][100:] for k in fair}
    report = doctor(twice | {"step": steps + steps[100:]})
    assert report.findings == plain.findings and "100 rows left out" in str(report)


def test_a_history_that_holds_nan():
    nan, steps = float("nan"), list(range(1, 201))
    for bad in (nan, float("inf"), None):
        ended = doctor(FAIR | {"step": steps, "g_loss": [0.9] * 150 + [bad] * 50})
        assert ended.names == ["not a number"] and ended.findings[0].numbers == {"step": 151}
        assert "g_loss" in ended.findings[0].evidence
    assert doctor(FAIR_VAE | {"step": steps, "kl": [nan] * 200}).names == ["not a number"]
    last = doctor(FAIR | {"step": steps, "d_real": [0.6] * 199 + [nan]})
    assert last.findings[0].numbers == {"step": 200}
    # What heals was no NaN of the training: a column that is logged now and then.
    rarely = {"d_real": [0.6 if i % 4 == 0 else nan for i in range(200)]}
    report = doctor(FAIR | {"step": steps} | rarely)
    assert report.names == ["healthy"] and "150 rows left out" in str(report)
    assert doctor(FAIR | {"step": steps, "d_grad": [nan] * 200}).names == ["healthy"]


def test_histories_that_are_none():
    steps = list(range(1, 201))
    with pytest.raises(UserError, match="step"):
        doctor(FAIR)
    with pytest.raises(UserError, match="step"):
        doctor(FAIR | {"epoch": steps})
    with pytest.raises(UserError, match="d_loss has 3"):
        doctor(FAIR | {"step": steps, "d_loss": [1.0] * 3})
    with pytest.raises(UserError, match="logged lossD, lossG.*d_loss and g_loss of a GAN"):
        doctor({"step": steps, "lossD": FAIR["d_loss"], "lossG": FAIR["g_loss"]})
    with pytest.raises(UserError, match="logged g_loss.*log them as numbers"):
        doctor(FAIR | {"step": steps, "d_loss": ["low"] * 200})
    for thing in ((None, FAIR), None, [1.0]):
        with pytest.raises(UserError, match="not at a"):
            doctor(thing)


def test_huge_numbers_make_no_long_lines():
    for fair, names in ((FAIR, FAIR), (FAIR_VAE, FAIR_VAE)):
        for name in names:
            for values in ([1e300] * 200, [-1e300] * 200, [1.0] * 100 + [1e300] * 100):
                report = doctor(fair | {name: values, "step": list(range(1, 201))})
                assert all(len(line) < 250 for line in str(report).splitlines()), str(report)


def test_an_unfinished_run_is_said_to_be_one(tmp_path):
    little(tmp_path, stop=170, **FAIR)
    report = doctor(tmp_path)
    assert report.names == ["healthy"]
    assert "150 of 200 steps" in report.title and "not finished" in str(report)


def test_a_nan_is_found_in_the_object_and_on_disk(tmp_path):
    bad = FAIR | {"g_loss": [0.9] * 120 + [float("nan")] * 80}
    for folder in (tmp_path, None):
        with pytest.raises(UserError, match="g_loss became nan at step 121"):
            little(folder, **bad)
    found = doctor(tmp_path).findings[0]
    assert found.name == "not a number" and found.numbers == {"step": 121}
    assert "g_loss became nan at step 121" in found.evidence and "g_loss 0.9" in found.evidence
    assert "0.001 instead of 0.5" in found.advice, found.advice


def test_a_nan_in_the_first_step(tmp_path):
    with pytest.raises(UserError):
        little(tmp_path, **{k: [float("inf")] * 3 for k in FAIR})
    assert doctor(tmp_path).names == ["not a number"]


def test_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run: it has no config.json"):
        doctor(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        doctor(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        doctor(tmp_path / "file")
    little(tmp_path / "other", loss=[1.0] * 60, accuracy=[0.5] * 60)
    with pytest.raises(UserError, match="logged loss, accuracy.*d_loss and g_loss of a GAN"):
        doctor(tmp_path / "other")


def test_folders_that_are_damaged(tmp_path):
    """Whatever is broken in a folder: one clear sentence, or a report without it; no traceback."""
    little(tmp_path / "whole", **FAIR)

    def damaged(name, text):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tmp_path / "whole", folder)
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder

    history = (tmp_path / "whole" / "history.csv").read_text()
    png = (tmp_path / "whole" / "samples" / "step-000200.png").read_bytes()
    header, row, *_ = history.splitlines()
    config = '{"settings": {"lr": "fast", "steps": "many", "batch_size": null, "data": [1]}}'
    for name, text in (
        ("samples/step-000200.png", b""), ("samples/step-000200.png", b"\x89PNG\r\n\x1a\nabc"),
        ("samples/step-000200.png", png[:900]),
        ("samples/step-last.png", b"not one of ours"), ("samples/step-000200.png", None),
        ("diversity.csv", None), ("diversity.csv", ""), ("config.json", config),
        ("config.json", '{"settings": {"shape": [0, "x"], "data": "digits", "pictures": 0}}'),
        ("config.json", '{"settings": {"shape": [1, 0, 0], "data": "digits", "pictures": -5}}'),
        ("history.csv", history + "201,1.2,0."), ("history.csv", history + history[60:]),
    ):
        assert doctor(damaged(name, text)).names == ["healthy"], (name, text)
    # the newest sheet is looked at, and where it is damaged the one before
    sheet = _last_sheet(tmp_path / "whole", {})
    assert torch.equal(_last_sheet(damaged("samples/step-000200.png", b""), {}), sheet)
    white = tmp_path / "whole" / "samples" / "step-1000000.png"
    Image.new("RGB", (146, 146), "white").save(white)
    assert _last_sheet(tmp_path / "whole", {}).min() == 1
    white.unlink()
    for name, text in (
        ("config.json", ""), ("config.json", "[]"), ("config.json", '{"settings": 3}'),
        ("config.json", b"\xff\x00"), ("history.csv", b"\xff\xfe\x00"),
        ("history.csv", f"{header}\n{row.replace('1.2', 'low')}\n"),
        ("history.csv", f"{header.replace('step,', 'epoch,')}\n{row}\n"),
        ("diversity.csv", "step,diversity,real_diversity\n50,much,0.5\n"),
        ("failure.json", "{}"), ("failure.json", "null"),
        ("failure.json", '{"step": null, "name": "g_loss", "value": "nan"}'),
    ):
        with pytest.raises(UserError, match="can't be read"):
            doctor(damaged(name, text))
    for text in ("", header + "\n", None):
        with pytest.raises(UserError, match="no history yet"):
            doctor(damaged("history.csv", text))
    nan = "step,diversity,real_diversity\n50,0.4,0.5\n100,nan,0.5\n"
    assert doctor(damaged("diversity.csv", nan)).names == ["not a number"]
    shutil.rmtree(tmp_path / "whole" / "samples")
    assert doctor(tmp_path / "whole").names == ["healthy"]


def test_a_look_changes_nothing(tmp_path):
    """Neither in the folder, which may be read-only, nor in the object that lives on."""
    r = little(tmp_path / "run", **FAIR)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    history = copy.deepcopy(r.history)
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    state = torch.get_rng_state()
    assert doctor(tmp_path / "run") == doctor(r)
    assert torch.equal(state, torch.get_rng_state())
    assert r.history == history
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    for path in before:
        path.chmod(0o755)
    little_vae = little(**{k: v for k, v in FAIR_VAE.items() if k != "loss"})
    doctor(little_vae)
    assert "loss" not in little_vae.history


def test_a_nan_in_a_model_that_the_doctor_does_not_know(tmp_path):
    with pytest.raises(UserError, match="diverged"):
        little(tmp_path, loss=[1.0] * 60 + [float("nan")] * 9, accuracy=[0.5] * 69)
    report = doctor(tmp_path)
    assert report.names == ["not a number"] and "a model, 60 of 69 steps" in report.title


def test_the_sheet_is_read_as_it_was_drawn(tmp_path):
    for i, shape in enumerate(
        [(64, 1, 16, 16), (64, 3, 28, 28), (16, 1, 32, 32), (64, 1, 16, 24), (19, 3, 20, 20)]
    ):
        pictures = 2 * torch.rand(shape) - 1
        r = Run(tmp_path / str(i), sample=lambda p=pictures: p, checkpoint_every=9, progress=False)
        with r:
            for _ in r.steps(1):
                r.log(loss=1.0)
        square = shape[2] == shape[3]
        for settings in ({"shape": list(shape[1:])}, {})[: 1 + square]:
            read = _last_sheet(r.folder, settings)
            assert read.shape[0] == shape[0] and read.shape[2:] == shape[2:]
            torch.testing.assert_close(read[:, : shape[1]], pictures, atol=1.1 / 255, rtol=0)
        for odd in ([], [3], None, "wide", [1, 0, 0], [1, 999, 999]):
            read = _last_sheet(r.folder, {"shape": odd})
            assert read is None or not read.numel()


# --- what it makes of the samples -----------------------------------------------------------------


def fair_gan(folder, drawn, real, steps=1000, diversity=None, **settings):
    """The report about a GAN with fair losses and these samples."""
    r = Run(folder, settings=settings, sample=lambda: drawn, real=real, progress=False)
    with r:
        for step in r.steps(steps):
            if step % 10 == 9:
                r.log(**{k: v[0] for k, v in FAIR.items()})
    if diversity is not None:
        r.diversity = {i: share * r.real_diversity for i, share in enumerate(diversity)}
    return doctor(r)


def digits_of(classes, n=64):
    images = data.load("digits")
    wanted = torch.tensor([int(label) in classes for label in images.labels.cpu()])
    return images.images(wanted.nonzero()[:n, 0])


def test_missing_classes_are_counted(tmp_path):
    whole = {"data": "digits", "shape": [1, 16, 16], "pictures": 1500}
    real, some = digits_of(range(10), 256), digits_of({0, 3, 7})
    assert fair_gan(tmp_path / "all", digits_of(range(10)), real, **whole).names == ["healthy"]
    report = fair_gan(tmp_path / "three", some, real, **whole)
    assert report.names == ["generator collapsed"]
    numbers = report.findings[0].numbers
    assert 3 <= numbers["classes"] <= 4 and numbers["of"] == 10
    assert "never 1, 2" in report.findings[0].evidence
    young = fair_gan(tmp_path / "young", some, real, 300, **whole)
    assert young.names == ["not enough training"]
    # a perfect model of a part of the data: nobody recorded which classes it has
    for pictures in (451, None):
        three = {**whole, "pictures": pictures}
        report = fair_gan(None, some, digits_of({0, 3, 7}, 256), **three)
        assert report.names == ["can't tell"] and "count images.labels" in str(report)
    assert fair_gan(None, some[:20], real, **whole).names == ["healthy"]  # too few to count
    nothing = torch.full_like(some, float("nan"))
    assert fair_gan(None, nothing, real, **whole).names == ["not a number"]
    colour = some.expand(-1, 3, -1, -1)
    assert fair_gan(None, colour, real, **whole).names == ["healthy"]  # the judge sees grey


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32)])
def test_copies_are_counted(tmp_path, shape):
    """Few pictures in many copies are a collapse, however different they are from each other."""
    draw = torch.Generator().manual_seed(0)
    real = 2 * torch.rand(256, *shape, generator=draw) - 1

    def copies(n, jitter=0.0):
        noise = torch.randn(64, *shape, generator=draw)
        return (real[:n].repeat(64 // n + 1, 1, 1, 1)[:64] + jitter * noise).clamp(-1, 1)

    assert fair_gan(tmp_path / "64", copies(64), real).names == ["healthy"]
    assert fair_gan(tmp_path / "40", copies(40), real).names == ["healthy"]
    for n in (1, 2, 10, 25):
        report = fair_gan(tmp_path / f"{n}", copies(n), real)
        assert report.names == ["generator collapsed"] == fair_gan(None, copies(n), real).names
        assert f"different ones {n}" in report.findings[0].evidence
    assert fair_gan(tmp_path / "near", copies(10, 0.01), real).names == ["generator collapsed"]
    assert fair_gan(tmp_path / "young", copies(10), real, 300).names == ["not enough training"]
    # a slow change from one picture to another is not one picture
    change = torch.lerp(real[:1], real[1:2], torch.linspace(0, 1, 64).view(64, 1, 1, 1))
    assert fair_gan(None, change, real).findings[0].numbers["different ones"] > 5
    # without real pictures to compare with, such that are as good as the same are found
    ill = "generator collapsed"
    for samples, name in (
        (real[:64], "healthy"), (copies(1, 1e-3), ill), (copies(10, 0.02), ill)
    ):
        assert fair_gan(None, samples, None).names == [name]
    # of ten pictures a perfect model draws ten
    assert fair_gan(tmp_path / "ten", copies(10), real[:10], pictures=10).names == ["healthy"]
    assert fair_gan(None, copies(4), real[:10], pictures=10).names == ["generator collapsed"]


def test_ten_digits_one_of_each_class(tmp_path):
    """Every class is there, the diversity is that of real ones, and yet they are ten pictures."""
    ten = torch.cat([digits_of({i}, 1) for i in range(10)]).repeat(7, 1, 1, 1)[:64]
    report = fair_gan(
        tmp_path, ten, digits_of(range(10), 256), data="digits", shape=[1, 16, 16], pictures=1500
    )
    assert report.names == ["generator collapsed"]
    assert report.findings[0].numbers["different ones"] == 10


def test_points_are_not_pictures():
    """Eight clouds of points: near each other, and no copies."""
    points = torch.randn(64, 2) * 0.01 + torch.randn(8, 2).repeat(8, 1)
    assert fair_gan(None, points, points).names == ["healthy"]
    assert fair_gan(None, points[:1].repeat(64, 1), points).names == ["generator collapsed"]


@pytest.mark.parametrize(
    ("diversity", "name"),
    [
        ([1.4, 0.95], "healthy"), ([0.1, 1.0, 0.71], "healthy"), ([0.5, 0.61], "healthy"),
        ([1.4, 0.59], "generator collapsed"), ([0.4, 0.59], "generator collapsed"),
        ([0.39, 0.39], "generator collapsed"),
    ],
)
def test_diversity_that_falls(diversity, name):
    pictures = 2 * torch.rand(64, 1, 16, 16) - 1
    assert fair_gan(None, pictures, pictures, diversity=diversity).names == [name]
    young = fair_gan(None, pictures, pictures, 300, diversity=diversity).names
    assert young == ["not enough training" if name != "healthy" and diversity[-1] > 0.4 else name]


def test_a_critic_is_judged_by_its_samples():
    real = 2 * torch.rand(256, 1, 16, 16) - 1
    scores = {"d_loss": [-10.0] * 1000, "g_loss": [-72.0] * 1000, "step": list(range(1, 1001))}
    for pictures, name in ((real[:64], "healthy"), (real[:1].expand(64, -1, -1, -1), "generator")):
        r = Run(sample=lambda p=pictures: p, real=real)
        r.history, r.diversity = scores, {1000: diversity(pictures)}
        report = doctor(r)
        assert report.names[0].startswith(name) and "its scores have no scale" in str(report)
