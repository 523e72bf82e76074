"""`doctor`: reads what a training run recorded, names what went wrong, points to the lesson.

A diagnosis is a rule about a few numbers, and the numbers are shown with it. Where they don't
decide, it says so, and what to record. benchmarks/doctor.py tries it on runs of kinds that no
threshold was set on.
"""

import contextlib
import csv
import json
import math
import statistics
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gencourse import evaluate, run
from gencourse.runtime import UserError

# Thresholds. Found by trying, where no other reason is given: "healthy" are the nine runs of
# chapter 07's league on Fashion-MNIST (DCGAN, dense GAN, VAE; three seeds), finished and not, and
# short ones on digits; "ill" are those of tests/test_doctor.py.
ROWS = 10  # a curve is read as the medians of its five fifths, of two rows each at least
SHORT = 150  # steps; a DCGAN on digits has 0.09 of the real diversity after 30, 0.9 after 100
YOUNG = 1000  # steps; until then a dense GAN draws blots (0.55 after 400), and has not collapsed
COIN, ANY_COIN = 2 * math.log(2), 2.0  # d_loss [nats] if D is undecided; the most with other losses
SATURATED = 0.97  # mean D(x) − D(G(z)) at the end: healthy 0.1 to 0.4, ill above 0.99
NEVER_WRONG = 0.01  # a d_loss ≥ 0 at the end: a D(x) of 0.995, or 0.93 with least squares
AHEAD = 0.005  # the most of D(x) − D(G(z)) in any fifth that is chance; healthy ones have 0.1
ROUNDING = 1e-7  # what float32 can't tell from 0, beside 1; healthy gradients are longer than 0.01
# d_loss, over an undecided D's, that a healthy D meets in less than this share of its steps (up to
# 3 of 500). Of small batches so many pictures are averaged, since the mean of two leaps by chance.
LEAP, LEAPS, ENOUGH = 2.5, 0.01, 32
BLOWN_UP = 50  # [nats]: −log D(G(z)) of a D that is sure to 22 digits; healthy ones end below 2
UNHELD = 10_000  # a critic of slope 1 scores no two pictures 2·√pixels apart (64² in colour: 222)
# Diversity of the samples, over that of the real: at the end healthy 0.83 to 1.1, a young dense GAN
# 0.55; ill up to 0.59, of which 0.0 to 0.2 is explained by no youth.
THIN, COLLAPSED = 0.6, 0.4
COPY = 0.1  # of the distance of two real pictures: nearer ones are one; of 64 real ones at most 2
LEAST = 0.1  # diversity of real pictures, where none were recorded
# Share of the different pictures, and of the classes, that must be there. 64 pictures lack one of
# ten classes in 1 of 85 sheets, and five never; fewer for each class leave it to chance.
HALF, PER_CLASS = 0.5, 4
JUMP = 0.5  # of a VAE's loss above its first, as a share of it or of its fall; healthy never rise
UNTRAINED, LEARNED = 10, 0.01  # steps; share of its first loss that a VAE must gain, healthy: ½
# KL [nats] bounds what z says about x: at most exp(KL) pictures can be told apart. Below 0.1 none,
# below log 10 not even ten classes; healthy have 12 to 14 (Fashion-MNIST).
DEAD, SILENT = 0.1, math.log(10)
MEAN = 2.0  # an nll that never exceeds this is no sum over pixels but their mean (log 2 at first)
GROWING = 1.2  # from one fifth of a run to the next: z comes late, so such a KL is young, not dead
NOTHING = 1e-3  # a KL that is rounding
STILL_FALLING = 0.04  # of a VAE's loss in the last fifth: 0.9 % in a whole run, or one of 8 stopped

TOO_HIGH, TOO_STRONG = "learning rate too high", "discriminator too strong"
SHORTAGE, UNSURE = "not enough training", "can't tell"
CODES = "{weigh}sums over pixels, not means, in the nll; KL annealing; free bits; a lower rate."
# name → its section for a GAN and for a VAE, what the numbers mean, what to try first
FINDINGS = {
    "healthy": ("07_evaluation 7.9", "08_vae 8.7",
        "Nothing the doctor knows is wrong ({shown}). Good pictures are another question.", ""),
    "not a number": ("04_first_gan 4.4", "08_vae 8.5",
        "{name} became {value} at {shown}; nothing was learned since. The row before: {before}.",
        "{lower} If it comes again at that step, look for a division by zero or a log of zero."),
    "diverged": ("02_minimax 2.5", "08_vae 8.6",
        "At the end: {shown}. No loss of this size is on its way to anywhere.",
        "{lower} A critic also needs clipping or a gradient penalty."),
    "learns nothing": ("02_minimax 2.8", "08_vae 8.4",
        "At the end: {shown}. Without a gradient, or from a D that tells nothing, no net learns.",
        "look in your step for a detach, a no_grad or a requires_grad_(False) too many, for an "
        "optimizer with other weights, and for units that are 0 whatever comes in."),
    TOO_HIGH: ("05_dcgan 5.3", "08_vae 8.6",
        "{shown}: far above the loss of a net that knows nothing. The steps go past their aim.",
        "{lower}"),
    TOO_STRONG: ("02_minimax 2.7", "",
        "At the end: {shown}. D knows each at a glance, and no longer says what would be better.",
        "for D a quarter of G's learning rate, or fewer channels; then noise on D's inputs."),
    "generator collapsed": ("06_mode_collapse 6.3", "",
        "At the end: {shown}. So the samples are more alike than real pictures are.",
        "G's learning rate down to D's or below, BatchNorm in G; then the cures of chapter 06."),
    "posterior collapse": ("", "08_vae 8.11",
        "At the end: {shown}. The latent z says nothing: each gives the average picture.", CODES),
    "KL vanishing": ("", "08_vae 8.11",
        "At the end: {shown}. z tells exp(kl) pictures apart, and there are more classes.", CODES),
    "codes off the prior": ("", "08_vae 8.1",
        "{shown} nats: the codes cost more than they save, and lie where the prior isn't.", CODES),
    SHORTAGE: ("05_dcgan 5.6", "08_vae 8.6", "{shown}: too early to say more.",
        "more steps; after the end of a run in a new folder. If your rows are epochs, log steps."),
    UNSURE: ("06_mode_collapse 6.10", "08_vae 8.5", "{shown}: that doesn't decide it.", ""),
}
LOSSES = ("d_loss", "g_loss", "d_real", "d_fake", "loss", "nll", "kl")  # what a NaN is sought in


class Finding(NamedTuple):
    """One thing seen in a run: its name, the numbers that show it, a sentence, what to try."""

    name: str
    numbers: dict
    evidence: str
    advice: str
    section: str

    def __str__(self):
        advice = [f"Try first: {self.advice}"] if self.advice else []
        return "\n  ".join([self.name, self.evidence, *advice, f"Read: {self.section}"])


class Report(NamedTuple):
    """What `doctor` says: one line about the run, the findings, the gravest first, and notes."""

    title: str
    findings: list
    notes: list

    @property
    def healthy(self):
        """Whether nothing was found."""
        return self.names == ["healthy"]

    @property
    def names(self):
        """The names of the findings."""
        return [f.name for f in self.findings]

    def __str__(self):
        notes = [f"Note: {note}" for note in self.notes]
        return "\n".join([self.title, "", *map(str, self.findings), *[""][: len(notes)], *notes])


class Record(NamedTuple):
    """All that is left of a run, whether read from its folder or from the object."""

    name: str
    settings: dict
    history: dict  # lists of floats, in the order of the steps
    left_out: int  # rows of it
    diversity: list  # of the samples, over that of real pictures, in the order of the steps
    real_diversity: float | None
    failure: dict | None
    sheet: torch.Tensor | None  # the last samples (N, C, H, W) in [-1, 1]

    @property
    def steps(self):
        """How many were done, however few of them were logged."""
        return int(self.history["step"][-1]) if self.history["step"] else 0

    def setting(self, name):
        """A setting that is a number, 0 or more, or None."""
        value = self.settings.get(name)
        return value if isinstance(value, int | float) and 0 <= value < math.inf else None

    def fifths(self, name):
        """The medians of the five fifths of a column; nan if it is missing, or too short."""
        values = self.history.get(name, [])
        if (n := len(values)) < ROWS:
            return [math.nan] * 5
        return [statistics.median(values[i * n // 5 : (i + 1) * n // 5]) for i in range(5)]

    def ends(self, *names):
        """What those of the columns that there are are like at the end: dict of numbers."""
        return {name: self.fifths(name)[-1] for name in names if name in self.history}


def doctor(run_or_folder):
    """Look at a run and say what is wrong with it, if anything is, or that it can't be told.

    run_or_folder: a `run.Run`, the folder of one, or a history as `train_gan` and `train_vae`
        return it (which says less: nothing about the samples). The run may be going on, may have
        been stopped, or ended by a NaN; D may be a critic, or have another loss.
    Returns: Report; its findings are "healthy" alone, or one or more of the names in FINDINGS.
    Raises: UserError if there is no run in the folder, or not one of a GAN or a VAE.
    """
    record = _read(run_or_folder)
    names = [name for name in record.history if name != "step"]
    if {"d_loss", "g_loss"} <= set(names):
        kind, found = "GAN", _gan(record)
    elif "kl" in names and {"nll", "loss"} & set(names):
        kind, found = "VAE", _vae(record)
    elif record.failure is not None:  # in the first step, or of another kind of model
        kind, found = "model", []
    else:
        raise UserError(
            f"{record.name} logged {', '.join(names) or 'nothing'}. The doctor needs the d_loss "
            "and g_loss of a GAN, or the nll and kl of a VAE: log them as numbers, by these names."
        )
    if record.failure is not None:
        found = [("not a number", {"step": record.failure["step"]}), *found]
    # Where something is wrong, more training or more rows are not what is missing.
    found = [f for f in found if f[0] not in (SHORTAGE, UNSURE)] or found
    healthy = record.ends("d_loss", "d_real", "d_fake", "loss", "kl", "active")
    if record.diversity:
        healthy["diversity over the real"] = record.diversity[-1]
    found = found or [("healthy", healthy)]
    total, batch = record.setting("steps"), record.setting("batch_size")
    title = f"{record.name}: a {kind}, {record.steps:,}{f' of {total:,}' if total else ''} steps"
    title += f", {record.steps * batch:,} pictures seen" if batch else ""
    return Report(title, [_finding(record, kind, *f) for f in found], list(_notes(record, kind)))


def _finding(record, kind, name, numbers, advice=None):
    """The Finding of this name; numbers: what shows it, in the order in which they are told."""
    gan, vae, meaning, usual_advice = FINDINGS[name]
    lr, beta = record.setting("lr"), record.setting("beta")
    lower = f"{min(lr / 10, 1e-3):.1g} instead of {lr:g}" if lr else "a tenth of yours"
    lower = f"a learning rate of {lower}, in a new folder."
    weigh = "" if beta in (None, 1) else f"β = 1 instead of {beta:g}; "
    before = _shown({k: v[-1] for k, v in record.history.items() if v and k != "step"}) or "none"
    evidence = meaning.format(shown=_shown(numbers), before=before, **(record.failure or {}))
    advice = (advice or usual_advice).format(lower=lower, weigh=weigh)
    chapter, section = (vae if kind == "VAE" else gan).split()
    return Finding(name, numbers, evidence, advice, f"chapters/{chapter}.ipynb, section {section}")


def _shown(numbers):
    forms = {str: "", int: ",", float: ",.4g"}
    return ", ".join(f"{name} {value:{forms[type(value)]}}" for name, value in numbers.items())


def _notes(record, kind):
    total = record.setting("steps")
    if record.left_out:
        yield f"{record.left_out:,} rows left out: double, or not numbers."
    if record.failure is None and total and record.steps < total:
        yield f"not finished: {record.steps:,} of {total:,} steps; the same call continues it."
    if kind == "GAN" and record.steps and not _is_chance(record.history):
        yield "if D is a critic, its scores have no scale, see chapter 06, section 6.6."
    if kind == "GAN" and not record.diversity:
        yield "how alike samples are was not recorded (Run's sample=, real=): no collapse is seen."


# Rules: each gives a list of (name, numbers), empty if all is well; in doubt, with own advice


def _gan(record):
    h, ends = record.history, record.ends("d_loss", "g_loss")
    scale = BLOWN_UP if min(h["d_loss"] + h["g_loss"], default=0) >= 0 else UNHELD
    if max(map(abs, ends.values())) > scale:  # which nan is not
        return [("diverged", ends)]
    if record.steps < SHORT:
        return _too_little(record)
    advice = "give Run sample= and real=; log d_real and d_fake if D(x) is a probability."
    unseen = [] if record.diversity or _is_chance(h) else [(UNSURE, ends, advice)]
    return _balance(record) + _collapsed(record) or _too_little(record) or unseen


def _too_little(record):
    rows = {"rows": len(record.history["step"]), "steps": record.steps}
    if record.steps < SHORT:
        return [(SHORTAGE, {"steps": record.steps})]
    return [(UNSURE, rows, f"log at least {ROWS} rows.")] if rows["rows"] < ROWS else []


def _is_chance(h):
    """Whether D(x) is a probability and d_loss = −log D(x) − log(1 − D(G(z))).

    Then no row's loss is below that of its means (Jensen); other losses are, where D tells apart.
    """
    answers = h.get("d_real", [math.inf]) + h.get("d_fake", [math.inf])
    if min(h["d_loss"] + answers) < 0 or max(answers) > 1:
        return False
    rows = zip(h["d_loss"], h["d_real"], h["d_fake"], strict=True)
    above = [d + math.log(max(x, ROUNDING)) + math.log(max(1 - g, ROUNDING)) for d, x, g in rows]
    return statistics.median(above) > -1e-3


def _balance(record):
    """Whether D and G learn, and neither too fast for the other."""
    d, chance = record.history["d_loss"], _is_chance(record.history)
    names = ("d_loss", "d_real", "d_fake", "d_grad", "g_grad")
    loss, real, fake, d_grad, g_grad = (record.fifths(name) for name in names)
    ahead = [x - y for x, y in zip(real, fake, strict=True)]
    decided = ahead if chance else [abs(x - COIN) for x in loss]
    never_wrong = min(d) >= 0 and loss[-1] < NEVER_WRONG
    vanished = d_grad[-1] < ROUNDING or g_grad[-1] < ROUNDING
    never_learned = max(decided) < AHEAD or max(g_grad) < ROUNDING
    if never_learned or (vanished and not never_wrong):
        return [("learns nothing", record.ends(*names))]
    found, coin = [], COIN if chance else ANY_COIN
    rows = max(1, int(ENOUGH / (record.setting("batch_size") or ENOUGH)))
    means = (statistics.fmean(d[i : i + rows]) for i in range(0, len(d), rows))
    means = list(dropwhile(lambda x: x > LEAP * coin, means))  # to begin high is no leap
    leaps = sum(x > LEAP * coin for x in means)
    if leaps >= max(3, LEAPS * len(means)) and min(d) >= 0:  # a critic's loss has no scale
        numbers = {"leaps of d_loss": leaps, "up to": max(means), "an undecided D's": coin}
        found = [(TOO_HIGH, numbers)]
    if never_wrong or (chance and ahead[-1] >= SATURATED):
        found.append((TOO_STRONG, record.ends(*names)))
    return found


def _collapsed(record):
    """Whether the samples are more alike than real pictures are."""
    sheet, pictures, data = record.sheet, record.setting("pictures"), record.settings.get("data")
    numbers, alike, young = {}, False, record.steps < YOUNG
    if record.diversity:
        numbers["diversity over the real"] = share = record.diversity[-1]
        alike, young = share < THIN, young and share > COLLAPSED
    if sheet is not None:
        numbers |= {"samples": len(sheet), "different ones": _different(record)}
        most = min(len(sheet), pictures or math.inf)  # nobody draws more than there are
        alike |= numbers["different ones"] <= HALF * most
    if sheet is not None and (name := str(data).split(" (")[0]) in evaluate.JUDGES:
        judge = evaluate.judge(name)  # "cifar10 (JPEG copies)" are cifar10's pictures
        numbers |= _classes(sheet, judge)
        alike |= "never" in numbers and pictures == judge.settings["pictures"]
    if alike:
        return [(SHORTAGE if young else "generator collapsed", numbers)]
    advice = "count images.labels. If the data have these classes, see the cures of chapter 06."
    return [(UNSURE, numbers, advice)] if "never" in numbers else []


def _different(record):
    """How many different pictures there are among the last samples."""
    x, different = record.sheet.flatten(1), []
    typical = 2**0.5 * (record.real_diversity or max(run.diversity(record.sheet), LEAST))
    near = torch.cdist(x, x) / x.shape[1] ** 0.5 < COPY * typical
    for i in range(len(x)):
        if not near[i, different].any():
            different.append(i)
    return len(different)


def _classes(sheet, judge):
    """How many classes the judge sees, and which it misses if they are many; {} if it can't."""
    classes = judge.settings["classes"]
    if sheet.shape[1] != judge.channels or len(sheet) < PER_CLASS * classes:
        return {}
    seen = set(evaluate.logits(sheet, judge).argmax(1).tolist())
    missing = [str(i) for i in range(classes) if i not in seen]
    never = {"never": ", ".join(missing)} if len(missing) >= HALF * classes else {}
    return {"classes": len(seen), "of": classes} | never


def _vae(record):
    h = record.history
    if len(h["step"]) < ROWS:
        return _too_little(record)
    if "loss" not in h:
        h["loss"] = [a + b for a, b in zip(h["nll"], h["kl"], strict=True)]
    loss, (*_, before, end) = h["loss"], record.fifths("loss")
    first, peak, fall = loss[0], max(loss), loss[0] - min(loss)
    ceiling, found = first + JUMP * max(abs(first), fall), []
    if end > ceiling:
        return [("diverged", {"loss": end, "first": first})]
    if peak > ceiling:
        step = int(h["step"][loss.index(peak)])
        found = [(TOO_HIGH, {"highest loss": peak, "at step": step, "first": first})]
    found += _too_little(record) or _codes(record)
    if not found and before - end > STILL_FALLING * max(abs(end), fall):
        found = [(SHORTAGE, {"loss a fifth of the run ago": before, "now": end})]
    return found


def _codes(record):
    """z says too little, for one reason or another, or more than it is worth."""
    h, (*_, before, kl), active = record.history, record.fifths("kl"), record.fifths("active")[-1]
    numbers, nll = record.ends("nll", "kl", "active"), h.get("nll", [math.inf])
    pictures, untrained = record.setting("pictures") or math.inf, h["step"][0] <= UNTRAINED
    enough = min(SILENT, math.log(pictures) / 2)  # three pictures need no more than log 3
    if kl >= enough and not active < 1:
        first, end = nll[0] + h["kl"][0], record.fifths("nll")[-1] + kl  # −ELBO
        if untrained and end > first + LEARNED * abs(first):  # which nan is not
            return [("codes off the prior", {"nll + KL": end, "first": first, "KL": kl})]
        return []
    if kl < -NOTHING or (max(map(abs, nll)) < MEAN and not active < 1):
        return [(UNSURE, numbers, "log nll and kl as sums [nats per picture], unweighted.")]
    first, end = h["loss"][0], record.fifths("loss")[-1]
    if untrained and first - end < LEARNED * abs(first):
        return [("learns nothing", {"first loss": first, "loss": end} | numbers)]
    if max(GROWING * before, NOTHING) < kl < enough:
        return [(SHORTAGE, {"KL a fifth of the run ago": before, "now": kl})]
    if active < 1 or kl < DEAD:
        return [("posterior collapse", numbers)]
    return [("KL vanishing", numbers | {"exp(kl)": math.exp(kl)})]


# Reading


def _read(source):
    if isinstance(source, dict):
        return _record("This history", {}, source)
    if isinstance(source, str | Path):
        return _read_folder(Path(source))
    if not isinstance(source, run.Run):
        kind = type(source).__name__
        raise UserError(f"The doctor looks at a Run, its folder or its history, not at a {kind}.")
    folder, sheet = source.folder, None
    if folder is not None and not source.history["step"] and source.failure is None:
        return _read_folder(folder)  # not entered yet, but it may be an old friend
    if folder is not None:
        sheet = _last_sheet(folder, source.settings)
    elif source.sample is not None:
        with torch.no_grad(), torch.random.fork_rng():
            sheet = source.sample().float().cpu().clamp(-1, 1)
    seen = source.history, (source.diversity, source.real_diversity), source.failure, sheet
    return _record(str(folder or "This run"), source.settings, *seen)


def _read_folder(folder):
    try:
        config, failed = folder / "config.json", folder / "failure.json"
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {what}; name the folder of a run.")
        if not config.exists():
            raise UserError(f"{folder} is not the folder of a run: it has no config.json.")
        settings = dict(json.loads(config.read_text(encoding="utf-8"))["settings"])
        history, diversity = run.read_history(folder), run.read_diversity(folder)
        failure = json.loads(failed.read_text(encoding="utf-8")) if failed.exists() else None
        if failed.exists():
            failure = {"step": int(failure["step"])} | {k: failure[k] for k in ("name", "value")}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"The run in {folder} can't be read: {what}.") from error
    if not history and failure is None:
        raise UserError(f"The run in {folder} has no history yet: it is written with a checkpoint.")
    seen = {"step": []} | history, diversity, failure, _last_sheet(folder, settings)
    return _record(str(folder), settings, *seen)


def _record(name, settings, history, diversity=({}, None), failure=None, sheet=None):
    """A Record of floats in the order of the steps."""
    columns = {str(k): _floats(v) for k, v in history.items() if "_per_second" not in str(k)}
    columns = {k: v for k, v in columns.items() if v is not None}
    if "step" not in columns or len({len(v) for v in columns.values()}) > 1:
        shown = ", ".join(f"{k} has {len(v):,}" for k, v in columns.items()) or "there are none"
        raise UserError(f"{name} needs equally long lists of numbers, one called step: {shown}.")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    # A history that was continued may hold steps twice: the later row counts.
    rows = {row["step"]: row for row in rows if math.isfinite(row["step"])}
    rows = [rows[step] for step in sorted(rows)]
    broken = [[k for k in LOSSES if not math.isfinite(row.get(k, 0))] for row in rows]
    # A loss that is NaN stays NaN; where there are numbers again, it only was not logged.
    sound = [-1, *(i for i, names in enumerate(broken) if not names)]
    *gaps, last = (b - a for a, b in pairwise([*sound, len(rows)]))
    if last > max(gaps, default=1) and failure is None:
        row, column = rows[sound[-1] + 1], broken[sound[-1] + 1][0]
        failure = {"step": int(row["step"]), "name": column, "value": str(row[column])}
    left_out = len(columns["step"]) - len(sound[1:])
    columns = {k: [rows[i][k] for i in sound[1:]] for k in columns}
    columns = {k: v for k, v in columns.items() if all(map(math.isfinite, v))}
    of_samples, real = diversity
    bad = [step for step, value in of_samples.items() if not math.isfinite(value)]
    if bad and failure is None:
        failure = {"step": min(bad), "name": "a sample", "value": "nan"}
    shares = [of_samples[step] / real for step in sorted(of_samples)] if real else []
    if sheet is not None and not (sheet.dim() == 4 and sheet.numel() and sheet.isfinite().all()):
        sheet = None  # points in a plane are near each other without being copies
    return Record(name, settings, columns, left_out, shares, real, failure, sheet)


def _floats(values):
    """A column as floats, nan where there is nothing; None if it is no list of numbers."""
    try:
        return [math.nan if v is None else float(v) for v in values]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def _last_sheet(folder, settings):
    """The pictures (N, C, H, W) in [-1, 1] of the last sheet that can be read, or None."""
    from PIL import Image

    paths = [p for p in (folder / "samples").glob("step-*.png") if p.stem[5:].isdecimal()]
    for path in sorted(paths, key=lambda p: int(p.stem[5:]), reverse=True):
        with contextlib.suppress(Exception):  # PIL has a dozen ways to fail at a damaged file
            with Image.open(path) as file:
                sheet = torch.from_numpy(np.array(file.convert("RGB"))).movedim(-1, 0)
            sheet = sheet[:, 2:, 2:] / 127.5 - 1  # a border of 2 on all sides and between pictures
            side = sheet.shape[2] // 8 - 2
            channels, height, width = map(int, settings.get("shape", [3, side, side]))
            rows = sheet.unflatten(1, (-1, height + 2))[:channels, :, :height]  # (C, R, H, w)
            cells = rows.unflatten(3, (-1, width + 2))[..., :width]  # (C, R, H, 8, W)
            cells = cells.permute(1, 3, 0, 2, 4).flatten(0, 1)  # (N, C, H, W)
            drawn = [i for i, x in enumerate(cells) if (x > -1).any()]  # the last row may lack some
            return cells[: max(drawn, default=len(cells)) + 1]
    return None
