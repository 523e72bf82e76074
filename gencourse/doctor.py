"""`doctor`: reads what a training run recorded, names what went wrong, points to the lesson.

A diagnosis is a rule about a few numbers, and the numbers are shown with it. Where they don't
decide, it says so, and what to record. benchmarks/doctor.py tries it on runs of kinds that no
threshold was set on.
"""

import csv
import json
import math
import statistics
from collections import Counter
from itertools import dropwhile, groupby
from pathlib import Path
from typing import NamedTuple

import torch

from gencourse import evaluate, run
from gencourse.runtime import UserError

# Thresholds. Found by trying, where no other reason is given: "healthy" are the nine runs of
# chapter 07's league on Fashion-MNIST (DCGAN, dense GAN, VAE; three seeds), finished and not, and
# short ones on digits; "ill" are those of tests/test_doctor.py.

# A curve is read as the medians of its five fifths: one step says little. Two rows each at least.
ROWS = 10
# In its first steps every D is ahead and every sample alike: a DCGAN on digits has the diversity
# 0.09 of the real after 30 steps, 0.6 after 50 and 0.9 after 100. Below this, only "too short".
SHORT = 150
# A dense GAN at the rate 2e-4 draws blots for a thousand steps (diversity 0.55 after 400): what the
# judge makes of blots, or a low diversity, is then no collapse yet.
YOUNG = 1000
# What a D that is undecided has: −log ½ − log ½ [nats]; 2 with the hinge loss, the most of all.
COIN, ANY_COIN = 2 * math.log(2), 2.0
# Mean D(x) − D(G(z)) at the end: healthy 0.1 to 0.4; ill above 0.99. And the d_loss of a D that is
# never wrong, if it is never negative: 0.01 is a D(x) of 0.995, or 0.93 with least squares.
SATURATED, NEVER_WRONG = 0.97, 0.01
# The most that D(x) − D(G(z)) is in any fifth of the run if D learns nothing: chance; healthy ones
# have 0.1 at least. And a gradient that is rounding; healthy ones are longer than 0.01.
AHEAD, NO_GRADIENT = 0.005, 1e-7
# d_loss, over an undecided D's, that a healthy D hardly meets in a step (at most 2.4 times, in 300
# to 6,000 steps), and how often it must come. Steps of few pictures are averaged to so many, since
# the mean of two leaps by chance.
LEAP, LEAPS, ENOUGH = 2.5, 0.005, 32
# A loss [nats] that has left the scale: −log D(G(z)) = 50 is a D sure to 22 digits. Healthy ones
# end below 2, saturated ones below 10; a rate of 1 ends at 504. A critic whose slope is at most 1
# scores no two pictures further apart than they are, 2·√pixels (222 at 64² in colour), one that is
# held otherwise somewhat more: 10,000 is a critic that nothing holds.
BLOWN_UP, UNHELD = 50, 10_000
# Diversity of the samples, over that of the real: healthy 0.9 to 1 at the end (0.83 to 1.1 in the
# first set of benchmarks/doctor.py, up to 0.59 where something was wrong), a young dense GAN 0.55;
# ill 0.0 to 0.2, which no youth explains. And over its own highest, which counts up to 1: a young
# GAN of 64 pixels may fall to 0.7 of it and rise again.
THIN, COLLAPSED, FALLEN = 0.6, 0.4, 0.7
# Two samples are one picture if they differ by less than this share of what two real ones do. Among
# 64 real ones (digits, MNIST, Fashion-MNIST, CIFAR-10, shapes; 20 sheets each) at most 2 have such
# a double. And how many different ones there must be, of as many as real pictures would be.
COPY, DIFFERENT = 0.1, 0.5
# Share of the classes seen: among 64 pictures of ten equally frequent classes one is missing in 1
# of 85 sheets, five never. With fewer samples for each class than so many, chance decides.
CLASSES_SEEN, PER_CLASS = 0.5, 4
# So many pictures are the whole data set, which has all classes; a part of it may lack some.
WHOLE = {"digits": 1_500, "mnist": 60_000, "fashion_mnist": 60_000}
# How far a VAE's loss may rise above its first, that of a net that knows nothing: by this share of
# it, or of the loss's whole fall, as a density's may begin at 0 or below. Healthy runs never rise;
# at rates that are too high it jumps by powers of ten.
JUMP, JUMP_OF_FALL = 0.5, 0.75
# Until this step a net is as good as untrained; and the share of its loss that one must gain to
# have learned anything: healthy VAEs gain a half.
UNTRAINED, LEARNED = 10, 0.01
# KL [nats] bounds what z says about x: at most exp(KL) pictures can be told apart. Below 0.1 z says
# nothing; below log 10 not even which of ten classes. Healthy: 12 to 14 (Fashion-MNIST).
DEAD, SILENT = 0.1, math.log(10)
# An nll that never exceeds this is no sum over pixels but their mean (at first log 2 each).
MEAN = 2.0
# A VAE finds its z late: on digits KL goes 0.1 → 0.3 → 0.5 around step 250 of 300. So a KL that
# still grows by a fifth from one fifth of the run to the next is young, not dead.
GROWING, NOTHING = 1.2, 1e-3
# Fall of a VAE's loss from the last but one fifth to the last: 0.9 % in a whole run, 0.9 % when
# stopped at 1,000 steps of 8,000, for the rate falls only in the second half.
STILL_FALLING = 0.04
# Adam's rate in the course is 1e-3; at 1.5e-2 a VAE on digits lost its z for that reason alone.
FAST = 0.01

TOO_HIGH, TOO_STRONG = "learning rate too high", "discriminator too strong"
SHORTAGE, UNSURE = "not enough training", "can't tell"
LESSONS = {  # the section that explains a finding, in a run of a GAN and in one of a VAE
    "healthy": ("07_evaluation", "08_vae 8.7"),
    "not a number": ("04_first_gan 4.4", "08_vae 8.5"),
    "diverged": ("02_minimax 2.5", "08_vae 8.6"),
    "learns nothing": ("02_minimax 2.8", "08_vae 8.4"),
    TOO_HIGH: ("05_dcgan 5.3", "08_vae 8.6"),
    TOO_STRONG: ("02_minimax 2.7", ""),
    "generator collapsed": ("06_mode_collapse 6.3", ""),
    "posterior collapse": ("", "08_vae 8.11"),
    "KL vanishing": ("", "08_vae 8.11"),
    "codes off the prior": ("", "08_vae 8.1"),
    SHORTAGE: ("05_dcgan 5.6", "08_vae 8.6"),
    UNSURE: ("06_mode_collapse 6.10", "08_vae 8.5"),
}
WORDS = {  # what the numbers mean, and what to try first; in braces, what depends on the run
    "healthy": (
        "Nothing that the doctor knows is wrong ({shown}). Good pictures are another question.",
        "",
    ),
    "not a number": (
        "{shown}",
        "{lower} If it comes again at the same step, look for a division by zero or a log of zero "
        "in your own loss.",
    ),
    "diverged": (
        "At the end: {shown}. No loss of this size is on its way to anywhere.",
        "{lower} A critic also needs clipping or a gradient penalty.",
    ),
    "learns nothing": (
        "At the end: {shown}. Without a gradient no net learns, and a D that never tells anything "
        "apart teaches nothing.",
        "look in your step for a detach, a no_grad or a requires_grad_(False) too many, for an "
        "optimizer with other weights, and for units that are 0 whatever comes in.",
    ),
    TOO_HIGH: (
        "{shown}: far above the loss of a net that knows nothing. The steps go past their aim.",
        "{lower}",
    ),
    TOO_STRONG: (
        "At the end: {shown}. D knows real from generated pictures at a glance, and no longer says "
        "which change would be an improvement.",
        "a smaller learning rate for D than for G (a quarter), or a narrower D, in a new folder; "
        "then noise on D's inputs.",
    ),
    "generator collapsed": (
        "At the end: {shown}. So the samples are more alike than real pictures are.",
        "G's learning rate down to that of D or below, and BatchNorm in G if it has none; then "
        "the cures of chapter 06 one at a time.",
    ),
    "posterior collapse": (
        "At the end: {shown}. The latent z says nothing about x, and the decoder draws the same "
        "average picture for every z.",
        "{weigh}",
    ),
    "KL vanishing": (
        "At the end: {shown}. By z at most exp(kl) pictures can be told apart, fewer than there "
        "are classes.",
        "{weigh}",
    ),
    "codes off the prior": (
        "{shown} nats: the codes cost more than they save, and lie where no z from the prior does.",
        "{weigh}",
    ),
    SHORTAGE: ("{shown}: too early to say more.", "{more}"),
    UNSURE: ("{shown}: too few rows to see a curve.", f"log every step, or at least {ROWS} rows."),
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
        lines = [self.name, self.evidence]
        if self.advice:
            lines.append(f"Try first: {self.advice}")
        return "\n  ".join([*lines, f"Read: {self.section}"])


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
    diversity: dict  # step → diversity of the samples, over that of real pictures
    real_diversity: float | None
    failure: dict | None
    sheet: torch.Tensor | None  # the last samples (N, C, H, W) in [-1, 1]
    notes: list

    @property
    def steps(self):
        """How many were done, however few of them were logged."""
        return int(self.history["step"][-1]) if self.history["step"] else 0

    @property
    def curves(self):
        """Whether there are rows enough to speak of curves."""
        return len(self.history["step"]) >= ROWS

    def setting(self, name):
        """A setting that is a number, or None."""
        value = self.settings.get(name)
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    def fifths(self, name):
        """The medians of the five fifths of a column; nan if it is missing, or too short."""
        if name not in self.history or not self.curves:
            return [math.nan] * 5
        values, n = self.history[name], len(self.history[name])
        return [statistics.median(values[i * n // 5 : (i + 1) * n // 5]) for i in range(5)]

    def ends(self, *names):
        """What those of the columns that there are are like at the end: dict of numbers."""
        return {name: self.fifths(name)[-1] for name in names if name in self.history}


def doctor(run_or_folder):
    """Look at a run and say what is wrong with it, if anything is, or that it can't be told.

    run_or_folder: a `run.Run`, the folder of one, or a history as `train_gan` and `train_vae`
        return it (which says less: nothing about the samples). The run may be going on, may have
        been stopped, or ended by a NaN; D may be a critic, or have another loss.
    Returns: Report; its findings are "healthy" alone, or one or more of the names in LESSONS.
    Raises: UserError if there is no run in the folder, or not one of a GAN or a VAE.
    """
    record = _read(run_or_folder)
    kind = _kind(record)
    found = {"GAN": _gan, "VAE": _vae}[kind](record) if kind != "model" else []
    if record.failure is not None:
        found = [_not_a_number(record), *found]
    # Where something is wrong, more training or more rows are not what is missing.
    found = [f for f in found if f[0] not in (SHORTAGE, UNSURE)] or found or [_healthy(record)]
    findings = [_finding(record, kind, *f) for f in found]
    return Report(_title(record, kind), findings, record.notes + _notes(record))


def _kind(record):
    names = [name for name in record.history if _is_value(name)]
    if {"d_loss", "g_loss"} <= set(names):
        return "GAN"
    if "kl" in names and {"nll", "loss"} & set(names):
        return "VAE"
    if record.failure is not None:  # in the first step, or of a model that the doctor doesn't know
        first = str(record.failure["name"])
        return "GAN" if first[:2] in ("d_", "g_") else "VAE" if first in ("nll", "kl") else "model"
    raise UserError(
        f"{record.name} logged {', '.join(names) or 'nothing'}. The doctor knows no such "
        "model: it needs the d_loss and g_loss of a GAN, or the nll and kl of a VAE. If this is "
        f"one, log them as numbers, by these names. {' '.join(record.notes)}".rstrip()
    )


def _finding(record, kind, name, numbers, meaning=None, advice=None):
    """The Finding of this name; numbers: what shows it, in the order in which they are told."""
    lr, beta = record.setting("lr"), record.setting("beta")
    lower = "a tenth of the learning rate, in a new folder."
    if lr is not None:
        lower = f"a learning rate of {min(lr / 10, 1e-3):.1g} instead of {lr:g}, in a new folder."
    weigh = (
        lower if lr is not None and lr >= FAST else
        f"β = 1 instead of {beta:g}." if beta is not None and beta != 1 else
        "sums over the pixels, not means, in the reconstruction term, and KL with the weight 1; "
        "then KL annealing or free bits."
    )  # fmt: skip
    more = (
        "let it finish." if record.steps < (record.setting("steps") or 0) else
        "more steps, in a new folder (the rate falls to zero at the end of a run). If your rows "
        "are epochs, log steps."
    )  # fmt: skip
    evidence = (meaning or WORDS[name][0]).replace("{shown}", _shown(numbers))
    advice = (advice or WORDS[name][1]).format(lower=lower, weigh=weigh, more=more)
    chapter, _, section = LESSONS[name][kind == "VAE"].partition(" ")
    read = f"chapters/{chapter}.ipynb" + (f", section {section}" if section else "")
    return Finding(name, numbers, evidence, advice, read)


def _shown(numbers):
    return ", ".join(
        f"{key} {value if isinstance(value, str) else format(value, ',.4g')}"
        for key, value in numbers.items()
    )


# Rules: each gives a list of (name, numbers), empty if all is well; in doubt, with words of its own


def _gan(record):
    h = record.history
    ends = record.ends("d_loss", "g_loss")
    scale = BLOWN_UP if record.curves and min(h["d_loss"] + h["g_loss"]) >= 0 else UNHELD
    if max(map(abs, ends.values()), default=0) > scale:  # which nan is not
        return [("diverged", ends)]
    if record.steps < SHORT:
        return _too_little(record)
    found = _collapsed(record)
    if record.curves:
        found = (_learns_nothing(record) or _leaps(record) + _too_strong(record)) + found
    return found or _too_little(record) or _unseen(record)


def _is_chance(h):
    """Whether D(x) is a probability and d_loss = −log D(x) − log(1 − D(G(z))); None if unknown.

    If so, no row's loss is below that of its means, by Jensen's inequality. Those of critics, the
    hinge loss and least squares are, wherever D tells anything apart.
    """
    if min(h["d_loss"]) < 0:
        return False
    if not {"d_real", "d_fake"} <= set(h):
        return None
    if min(h["d_real"] + h["d_fake"]) < 0 or max(h["d_real"] + h["d_fake"]) > 1:
        return False
    least = 1e-7  # what float32 can tell from 0, and from 1
    rows = zip(h["d_loss"], h["d_real"], h["d_fake"], strict=True)
    above = [d + math.log(max(x, least)) + math.log(max(1 - g, least)) for d, x, g in rows]
    return statistics.median(above) > -1e-3


def _never_wrong(record):
    return min(record.history["d_loss"]) >= 0 and record.fifths("d_loss")[-1] < NEVER_WRONG


def _learns_nothing(record):
    chance = _is_chance(record.history)
    names = ("d_loss", "d_real", "d_fake", "d_grad", "g_grad")
    loss, real, fake, d, g = (record.fifths(name) for name in names)
    ahead = [x - y for x, y in zip(real, fake, strict=True)] if chance else [math.nan]
    ahead = [abs(value - COIN) for value in loss] if chance is None else ahead
    vanished = d[-1] < NO_GRADIENT or g[-1] < NO_GRADIENT
    never = max(ahead) < AHEAD or max(g) < NO_GRADIENT
    if never or (vanished and not _never_wrong(record)):
        return [("learns nothing", record.ends(*names))]
    return []


def _leaps(record):
    d, batch = record.history["d_loss"], record.setting("batch_size") or ENOUGH
    if min(d) < 0:  # a critic's: there is no number to hold it to
        return []
    coin = COIN if _is_chance(record.history) else ANY_COIN
    rows = max(1, int(ENOUGH / max(1, batch)))
    d = [statistics.fmean(d[i : i + rows]) for i in range(0, len(d), rows)]
    d = list(dropwhile(lambda value: value > LEAP * coin, d))  # to begin high is no leap
    leaps = sum(value > LEAP * coin for value in d)
    if leaps < max(3, LEAPS * len(d)):
        return []
    return [(TOO_HIGH, {"leaps of d_loss": leaps, "up to": max(d), "an undecided D's": coin})]


def _too_strong(record):
    ends = record.ends("d_loss", "d_real", "d_fake", "g_grad")
    ahead = ends["d_real"] - ends["d_fake"] if _is_chance(record.history) else 0
    return [(TOO_STRONG, ends)] if ahead >= SATURATED or _never_wrong(record) else []


def _collapsed(record):
    numbers, alike, doubt, young = {}, False, "", record.steps < YOUNG
    if record.diversity:
        last, most = list(record.diversity.values())[-1], max(record.diversity.values())
        numbers = {"diversity over the real": last, "its highest": most}
        fallen = last < FALLEN * min(most, 1)
        alike = last < THIN or fallen
        young = young and last > COLLAPSED
    if (different := _different(record)) is not None:
        n, pictures = len(record.sheet), record.setting("pictures") or math.inf
        numbers |= {"samples": n, "different ones": different}
        drawn = n if pictures > n**2 else pictures * (1 - (1 - 1 / pictures) ** n)
        alike = alike or different < DIFFERENT * drawn
    if counts := _classes(record):
        missing = [name for name, count in counts.items() if not count]
        numbers |= {"classes": len(counts) - len(missing), "of": len(counts)}
        if len(missing) >= (1 - CLASSES_SEEN) * len(counts):
            numbers["never"] = ", ".join(missing)
            whole = record.setting("pictures") == WHOLE[record.settings["data"]]
            alike, doubt = alike or whole, not whole
    if alike:
        return [(SHORTAGE if young else "generator collapsed", numbers)]
    if doubt:
        meaning = "At the end: {shown}. Whether your data have these classes is not recorded."
        advice = "count images.labels. If they have, G has lost classes: the cures of chapter 06."
        return [(UNSURE, numbers, meaning, advice)]
    return []


def _unseen(record):
    """Nothing was found; but was anything there that would have shown it?"""
    h = record.history
    if _is_chance(h) or record.diversity:
        return []
    numbers = {"d_loss in the beginning": h["d_loss"][0], "at the end": h["d_loss"][-1]}
    meaning = "{shown}: no scale is known for that, and how alike samples are was not recorded."
    advice = "give Run sample= and real=; log d_real and d_fake if D(x) is a probability."
    return [(UNSURE, numbers, meaning, advice)]


# VAEs


def _vae(record):
    h = record.history
    if not record.curves:
        return _too_little(record)
    if "loss" not in h:
        h["loss"] = [a + b for a, b in zip(h["nll"], h["kl"], strict=True)]
    loss, (*_, before, end) = h["loss"], record.fifths("loss")
    first, peak, fall = loss[0], max(loss), loss[0] - min(loss)
    ceiling = first + max(JUMP * abs(first), JUMP_OF_FALL * fall)
    if end > ceiling:
        return [("diverged", {"loss": end, "first": first})]
    found = []
    if peak > ceiling:
        numbers = {"highest loss": peak, "at step": h["step"][loss.index(peak)], "first": first}
        found = [(TOO_HIGH, numbers)]
    found += _too_little(record) or _silent(record, bool(found)) or _unpaid(record)
    if not found and before - end > STILL_FALLING * max(abs(end), fall):
        found = [(SHORTAGE, {"loss a fifth of the run ago": before, "now": end})]
    return found


def _silent(record, jumped):
    """z says too little, for one reason or another."""
    h, (*_, before, kl), active = record.history, record.fifths("kl"), record.fifths("active")[-1]
    # Three pictures need no more than log 3.
    silent = min(SILENT, math.log(record.setting("pictures") or math.inf) / 2)
    if kl >= silent and not active < 1:
        return []
    numbers = record.ends("kl", "active")
    advice = "log nll and kl as sums [nats per picture], unweighted."
    if kl < -NOTHING:
        return [(UNSURE, numbers, "{shown}; but no KL divergence is below 0.", advice)]
    if not active < 1 and "nll" in h and max(map(abs, h["nll"])) < MEAN:
        meaning = "{shown}: so small an nll is a mean over pixels, and who knows then what kl is."
        return [(UNSURE, {"first nll": h["nll"][0]} | numbers, meaning, advice)]
    first, end = h["loss"][0], record.fifths("loss")[-1]
    if h["step"][0] <= UNTRAINED and first - end < LEARNED * abs(first):
        return [("learns nothing", {"first loss": first, "loss": end} | numbers)]
    if max(GROWING * before, NOTHING) < kl < silent and not jumped:
        return [(SHORTAGE, {"KL a fifth of the run ago": before, "now": kl})]
    if active < 1 or kl < DEAD:
        return [("posterior collapse", numbers)]
    return [("KL vanishing", numbers | {"exp(kl)": math.exp(kl)})]


def _unpaid(record):
    """z says more than it is worth: −ELBO is above that of a net that knows nothing."""
    h, kl = record.history, record.fifths("kl")[-1]
    if "nll" not in h or h["step"][0] > UNTRAINED:
        return []
    first, end = h["nll"][0] + h["kl"][0], record.fifths("nll")[-1] + kl
    if end <= first + LEARNED * abs(first):
        return []
    return [("codes off the prior", {"nll + KL": end, "at first": first, "KL": kl})]


# Any model


def _not_a_number(record):
    name, value, step = (record.failure[key] for key in ("name", "value", "step"))
    meaning = f"{name} became {value} at {{shown}}, and nothing was learned from there on."
    if record.steps:
        before = {k: v[-1] for k, v in record.history.items() if _is_value(k)}
        meaning += f" The row before: {_shown(before)}."
    return ("not a number", {"step": step}, meaning)


def _too_little(record):
    if record.steps < SHORT:
        return [(SHORTAGE, {"steps": record.steps})]
    if record.curves:
        return []
    return [(UNSURE, {"rows": len(record.history["step"]), "steps": record.steps})]


def _healthy(record):
    numbers = record.ends("d_loss", "d_real", "d_fake", "loss", "kl", "active")
    if record.diversity:
        *_, numbers["diversity over the real"] = record.diversity.values()
    return ("healthy", numbers)


# Samples


def _different(record):
    """How many different pictures there are among the last samples, or None."""
    sheet = record.sheet
    if sheet is None or sheet.dim() != 4 or sheet[0].numel() < 64 or len(sheet) < 8:
        return None  # points in a plane are near each other without being copies
    typical = 2**0.5 * (record.real_diversity or run.diversity(sheet))
    x = sheet.flatten(1)
    near = torch.cdist(x, x) / x.shape[1] ** 0.5 < COPY * typical
    different = []
    for i in range(len(x)):
        if not near[i, different].any():
            different.append(i)
    return len(different)


def _classes(record):
    """How often the judge of the run's data sees each class in the last samples, or None."""
    name, sheet = record.settings.get("data"), record.sheet
    if sheet is None or sheet.dim() != 4 or str(name) not in WHOLE:
        return None
    judge = evaluate.judge(name)
    if sheet.shape[1] != judge.channels:
        return None
    logits = evaluate.logits(sheet, judge)  # (N, K)
    if len(sheet) < PER_CLASS * logits.shape[1]:
        return None
    names, seen = judge.settings["classes"], logits.argmax(1).bincount(minlength=logits.shape[1])
    names = range(len(seen)) if isinstance(names, int) else names
    return Counter(dict(zip(map(str, names), seen.tolist(), strict=True)))


# Reading


def _read(source):
    if isinstance(source, dict):
        return _record("This history", {}, source)
    if isinstance(source, run.Run):
        folder, history, failure = source.folder, source.history, source.failure
        if folder is not None and not history["step"] and failure is None:
            return _read_folder(folder)  # not entered yet, but it may be an old friend
        sheet, notes = (None, []) if folder is None else _last_sheet(folder, source.settings)
        if folder is None and source.sample is not None:
            with torch.no_grad(), torch.random.fork_rng():
                sheet = source.sample().float().cpu().clamp(-1, 1)
        diversity = source.diversity, source.real_diversity
        name = str(folder or "This run")
        return _record(name, source.settings, history, diversity, failure, sheet, notes)
    if isinstance(source, str | Path):
        return _read_folder(Path(source))
    raise UserError(
        "The doctor looks at a Run, the folder of one, or its history (a dict of lists), not at a "
        f"{type(source).__name__}."
    )


def _read_folder(folder):
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; name the folder of a run.")
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))["settings"]
        history = {"step": []} | run.read_history(folder)
        diversity, failure = run.read_diversity(folder), None
        if (folder / "failure.json").exists():
            failure = json.loads((folder / "failure.json").read_text(encoding="utf-8"))
            failure = {key: failure[key] for key in ("step", "name", "value")}
        settings = dict(settings)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not the folder of a run: it has no config.json. A run's folder is what "
            "`out=` or --out named."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"The run in {folder} can't be read: {what}.") from error
    if not history["step"] and failure is None:
        raise UserError(f"The run in {folder} has no history yet: it is written with a checkpoint.")
    return _record(
        str(folder), settings, history, diversity, failure, *_last_sheet(folder, settings)
    )


def _record(name, settings, history, diversity=({}, None), failure=None, sheet=None, notes=()):
    """A Record of floats in the order of the steps; what was left out stands in its notes."""
    columns, notes = {str(k): _floats(v) for k, v in history.items()}, list(notes)
    if words := [k for k, v in columns.items() if v is None]:
        notes.append(f"{', '.join(words)} left out: no list of numbers.")
    columns = {k: v for k, v in columns.items() if v is not None}
    lengths = {k: len(v) for k, v in columns.items()}
    if "step" not in columns or len(set(lengths.values())) > 1:
        shown = ", ".join(f"{k} has {n:,}" for k, n in lengths.items()) or "there are none"
        raise UserError(
            f"{name} needs lists of equally many numbers, those of the steps among them, called "
            f"step: {shown}."
        )
    # A history that was continued may hold steps twice: the later row counts.
    places = {step: i for i, step in enumerate(columns["step"]) if math.isfinite(step)}
    places = [places[step] for step in sorted(places)]
    losses = [k for k in columns if k in LOSSES]
    finite = [all(math.isfinite(columns[k][i]) for k in losses) for i in places]
    # A loss that is NaN stays NaN; where there are numbers again, it only was not logged.
    gaps = [len(list(part)) for kind, part in groupby(finite) if not kind]
    if gaps and not finite[-1] and gaps[-1] > max(gaps[:-1], default=0):
        first = places[-gaps[-1]]
        column = next(k for k in losses if not math.isfinite(columns[k][first]))
        step, value = int(columns["step"][first]), str(columns[column][first])
        failure = failure or {"step": step, "name": column, "value": value}
    rows = [i for i, ok in zip(places, finite, strict=True) if ok]
    if len(rows) < lengths["step"]:
        notes.append(f"{lengths['step'] - len(rows):,} rows left out: double, or not numbers.")
    columns = {k: [v[i] for i in rows] for k, v in columns.items()}
    columns = {k: v for k, v in columns.items() if all(map(math.isfinite, v))}
    of_samples, real = diversity
    real = real if real and math.isfinite(real) else None
    for step, value in sorted(of_samples.items()):
        if not math.isfinite(value):
            failure = failure or {"step": step, "name": "a sample", "value": "nan"}
    of_samples = {k: v / real for k, v in sorted(of_samples.items())} if real else {}
    if sheet is not None and not torch.isfinite(sheet).all():
        sheet = None
    return Record(name, settings, columns, of_samples, real, failure, sheet, notes)


def _floats(values):
    """A column as floats, nan where there is nothing; None if it is no list of numbers."""
    try:
        return [math.nan if v is None else float(v) for v in values]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def _is_value(name):
    return name != "step" and not name.endswith("_per_second")


def _last_sheet(folder, settings):
    """The pictures of the last saved sheet, or None, and notes about it."""
    paths = [p for p in (folder / "samples").glob("step-*.png") if p.stem[5:].isdecimal()]
    if not paths:
        return None, []
    path = max(paths, key=lambda p: int(p.stem[5:]))
    try:
        return _sheet(path, settings), []
    except Exception:  # PIL has a dozen ways to fail at a damaged file
        return None, [f"{path} is damaged: delete it, and the one before will be looked at."]


def _sheet(path, settings):
    """The pictures of a sheet (N, C, H, W) in [-1, 1], or None if their size is not known."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as file:
        sheet = torch.from_numpy(np.asarray(file.convert("RGB")).copy()).movedim(-1, 0)  # (3, h, w)
    sheet = sheet[:, 2:, 2:] / 127.5 - 1  # a border of 2 on all sides, 2 between pictures
    side = sheet.shape[2] // 8 - 2
    try:
        channels, height, width = map(int, settings.get("shape", [3, side, side]))
    except (TypeError, ValueError):
        return None
    if min(height, width) < 1 or sheet.shape[1] % (height + 2) or sheet.shape[2] % (width + 2):
        return None
    cells = sheet.unfold(1, height, height + 2).unfold(2, width, width + 2)  # (3, rows, 8, H, W)
    cells = cells.flatten(1, 2).movedim(1, 0)[:, :channels]
    empty = 0  # cells of a last row that is not full are black
    while empty < min(7, len(cells) - 1) and (cells[-1 - empty] == -1).all():
        empty += 1
    return cells[: len(cells) - empty]


# Sentences around the findings


def _title(record, kind):
    total, batch = record.setting("steps"), record.setting("batch_size")
    of = f" of {total:,}" if total else ""
    shown = f", {record.steps * batch:,} pictures seen" if batch else ""
    return f"{record.name}: a {kind}, {record.steps:,}{of} steps{shown}"


def _notes(record):
    notes, h, total = [], record.history, record.setting("steps")
    if record.failure is None and total and record.steps < total:
        done = f"{record.steps:,} of {total:,} steps"
        notes.append(f"not finished: {done}; the same call continues it.")
    if not h.get("d_loss"):
        return notes
    chance = _is_chance(h)
    if chance is None:
        notes.append("d_real and d_fake were not logged: D's strength was judged by d_loss alone.")
    elif not chance:
        notes.append(
            f"d_loss (down to {min(h['d_loss']):,.3g}) is not that of a D(x) between 0 and 1. If D "
            "is a critic, its scores have no scale, see chapter 06, section 6.6."
        )
    if not record.diversity:
        notes.append(
            "the diversity of samples and real pictures was not recorded (Run's sample= and "
            "real=): a collapse would not be seen."
        )
    return notes
