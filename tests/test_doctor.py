"""The doctor, on runs that are made to fail each way and on healthy ones, all trained here.

`pytest -s tests/test_doctor.py -k confusion` prints the table of what each run was called.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from gencourse import data, nets, train
from gencourse.doctor import LESSONS, _sheet, doctor
from gencourse.run import Run
from gencourse.runtime import UserError, seed_everything

CHAPTERS = Path(__file__).resolve().parents[1] / "chapters" / "text"
NAMES = list(LESSONS)
SHORTER = {  # for the head of the table
    "healthy": "healthy", "not a number": "NaN", "diverged": "diverged",
    "learning rate too high": "rate", "discriminator too strong": "D strong",
    "generator collapsed": "G coll.", "posterior collapse": "posterior",
    "KL vanishing": "KL", "not enough training": "short",
}  # fmt: skip


# --- the runs -------------------------------------------------------------------------------------


def gan(
    out, steps=200, *, seed=0, width=8, d_factor=1, g_factor=1, spoil=None, dense=False, **more
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
    options = {"batch_size": 32, "sample_every": max(1, steps // 3), "progress": False, **more}
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


def vae(out, steps=300, *, seed=0, width=8, **more):
    seed_everything(seed)
    net = nets.VAE(16, 1, width=width)
    try:
        options = {"steps": steps, "batch_size": 32, "seed": seed, "progress": False, **more}
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
    "DCGAN, wider": ({"healthy"}, set(), lambda out: gan(out, seed=1, width=12)),
    "dense GAN, young": (
        {"not enough training"}, set(), lambda out: gan(out, 400, dense=True, lr=2e-4)
    ),
    "VAE": ({"healthy"}, set(), lambda out: vae(out, 600, lr=2e-3)),
    "VAE, other seed": ({"healthy"}, set(), lambda out: vae(out, 600, seed=1, width=12, lr=2e-3)),
    "GAN, D learns, G hardly": (
        {"discriminator too strong"}, {"generator collapsed"},  # what it draws is all alike, too
        lambda out: gan(out, d_factor=3, g_factor=1e-3),
    ),
    "GAN, G deaf to z": (
        {"generator collapsed"}, {"discriminator too strong"},
        lambda out: gan(out, spoil=deaf_generator),
    ),
    "GAN, rate 1": (
        {"diverged"}, {"learning rate too high", "generator collapsed"},
        lambda out: gan(out, lr=1.0),
    ),
    "GAN, NaN": ({"not a number"}, set(), lambda out: gan(out, spoil=broken_loss)),
    "GAN, 30 steps": ({"not enough training"}, set(), lambda out: gan(out, 30)),
    "VAE, β = 256": ({"posterior collapse"}, set(), lambda out: vae(out, 200, beta=256.0)),
    "VAE, β = 20": ({"posterior collapse"}, set(), lambda out: vae(out, 200, beta=20.0)),
    "GAN, rate 0.05": (
        {"learning rate too high"}, {"generator collapsed", "discriminator too strong"},
        lambda out: gan(out, lr=0.05),
    ),
    "VAE, rate 0.1": ({"diverged"}, {"not a number"}, lambda out: vae(out, 200, lr=0.1)),
    "VAE, rate 1": ({"not a number"}, set(), lambda out: vae(out, 200, lr=1.0)),
    "VAE, 30 steps": ({"not enough training"}, set(), lambda out: vae(out, 30)),
}  # fmt: skip


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
        "a VAE, 200 of 200 steps, 6,400 pictures seen", "posterior collapse", "latent",
        "Try first: β = 1 instead of 256", "chapters/08_vae.ipynb, section 8.11",
    ):  # fmt: skip
        assert part in text, text
    assert all(len(line) < 250 for line in text.splitlines())


def test_every_finding_shows_its_numbers(runs):
    for kind, folder in runs.items():
        for finding in doctor(folder).findings:
            assert finding.numbers and re.search(r"\d", finding.evidence), f"{kind}: {finding}"
            assert finding.advice or finding.name == "healthy"


@pytest.mark.parametrize("name", NAMES)
def test_the_lesson_is_there(name):
    for lesson in filter(None, LESSONS[name]):
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
    pictures = torch.linspace(-1, 1, 64 * 16 * 16).view(64, 1, 16, 16)
    r = Run(
        folder, settings={"lr": 0.5}, batch_size=64, sample=lambda: pictures, real=pictures,
        sample_every=50, checkpoint_every=50, progress=False, now=now,
    )  # fmt: skip
    with r:
        for step in r.steps(steps):
            if step == stop:
                break
            r.log(**{k: v[step] for k, v in logged.items()})
    return r


FAIR = {
    "d_loss": [1.2] * 200, "g_loss": [0.9] * 200, "d_real": [0.6] * 200, "d_fake": [0.4] * 200,
    "d_grad": [1.0] * 200, "g_grad": [1.0] * 200,
}  # fmt: skip
FAIR_VAE = {"loss": [170.0, *[100.0] * 199], "nll": [90.0] * 200, "kl": [10.0] * 200,
            "active": [8.0] * 200}  # fmt: skip


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
CASES = [
    (FAIR, {"d_real": [0.98] * 200, "d_fake": [0.02] * 200}, "healthy"),
    (FAIR, {"d_real": [0.99] * 200, "d_fake": [0.005] * 200}, "discriminator too strong"),
    (FAIR, {"d_loss": [1.2] * 197 + [4.0] * 2 + [1.2]}, "healthy"),
    (FAIR, {"d_loss": [1.2] * 196 + [4.0] * 3 + [1.2]}, "learning rate too high"),
    (FAIR, {"g_loss": [40.0] * 200}, "healthy"),
    (FAIR, {"g_loss": [60.0] * 200}, "diverged"),
    (FAIR, {"d_loss": [-3.0] * 100 + [9.0] * 100}, "healthy"),  # a critic's
    (FAIR_VAE, {"loss": [170.0] * 50 + [250.0] + [100.0] * 149}, "healthy"),
    (FAIR_VAE, {"loss": [170.0] * 50 + [260.0] + [100.0] * 149}, "learning rate too high"),
    (FAIR_VAE, {"loss": [170.0] + [260.0] * 199}, "diverged"),
    (FAIR_VAE, {"kl": [2.4] * 200}, "healthy"),
    (FAIR_VAE, {"kl": [2.2] * 200}, "KL vanishing"),
    (FAIR_VAE, {"kl": [2.4] * 100 + [2.2] * 100}, "KL vanishing"),
    (FAIR_VAE, {"kl": [1.0] * 160 + [1.3] * 40}, "not enough training"),
    (FAIR_VAE, {"kl": [0.09] * 200}, "posterior collapse"),
    (FAIR_VAE, {"active": [0.0] * 200, "kl": [0.2] * 200}, "posterior collapse"),
    (FAIR_VAE, {"loss": [170.0] * 160 + [165.0] * 40}, "healthy"),
    (FAIR_VAE, {"loss": [170.0] * 160 + [160.0] * 40}, "not enough training"),
]


@pytest.mark.parametrize(("fair", "change", "name"), CASES)
def test_thresholds(fair, change, name):
    assert doctor(fair | change | {"step": list(range(1, 201))}).names == [name]


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
    (tmp_path / "other" / "config.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        doctor(tmp_path / "other")
    with pytest.raises(UserError, match="no history yet"):
        folder = tmp_path / "young"
        little(folder, stop=3, **FAIR)
        doctor(folder)


def test_the_sheet_is_read_as_it_was_drawn(tmp_path):
    for i, shape in enumerate([(64, 1, 16, 16), (64, 3, 28, 28), (16, 1, 32, 32)]):
        pictures = 2 * torch.rand(shape) - 1
        r = Run(tmp_path / str(i), sample=lambda p=pictures: p, checkpoint_every=9, progress=False)
        with r:
            for _ in r.steps(1):
                r.log(loss=1.0)
        for settings in ({"shape": list(shape[1:])}, {}):
            read = _sheet(r.samples(), settings)
            assert read.shape[0] == shape[0] and read.shape[2:] == shape[2:]
            torch.testing.assert_close(read[:, : shape[1]], pictures, atol=1.1 / 255, rtol=0)


def sheet_of(tmp_path, classes, steps=1000):
    """A fair GAN's run on digits whose 64 samples are real digits of these classes."""
    images = data.load("digits")
    wanted = torch.tensor([int(label) in classes for label in images.labels.cpu()])
    pictures = images.images(wanted.nonzero()[:64, 0])
    r = Run(
        tmp_path, settings={"data": "digits", "shape": [1, 16, 16]}, sample=lambda: pictures,
        real=images.batch(0, 256), progress=False,
    )  # fmt: skip
    with r:
        for _ in r.steps(steps):
            r.log(**{k: v[0] for k, v in FAIR.items()})
    return doctor(tmp_path)


def test_missing_classes_are_counted(tmp_path):
    assert sheet_of(tmp_path / "all", range(10)).names == ["healthy"]
    report = sheet_of(tmp_path / "three", {0, 3, 7})
    assert report.names == ["generator collapsed"]
    numbers = report.findings[0].numbers
    assert 3 <= numbers["classes"] <= 4 and numbers["of"] == 10
    assert "never 1, 2" in report.findings[0].evidence
    assert sheet_of(tmp_path / "young", {0, 3, 7}, 300).names == ["not enough training"]
