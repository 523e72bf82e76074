"""`doctor`: reads what a training run recorded, names what went wrong, points to the lesson.

A diagnosis is a rule about a few numbers, and the numbers are shown with it. The thresholds were
set on runs that were made to fail each way and on healthy ones; tests/test_doctor.py trains such
runs again and draws up which was called what. The rules are meant for the losses of the course.
"""

import json
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from gencourse import evaluate, run
from gencourse.runtime import UserError

# Thresholds. "Healthy" are the nine finished runs of chapter 07's league on Fashion-MNIST (DCGAN,
# dense GAN, VAE; three seeds), some of them unfinished, and short ones on digits; "ill" are those
# of the test. There is no held-out set.

# What a run is like at its end is the median over its last fifth: one step says little, and the
# earlier ones belong to other nets.
LATE, FEWEST = 0.2, 5
# In its first steps every D is ahead and every sample alike: a DCGAN on digits has the diversity
# 0.09 of the real after 30 steps, 0.6 after 50 and 0.9 after 100. Below this, only "too short".
SHORT = 150
# A dense GAN at the rate 2e-4 draws blots for a thousand steps (diversity 0.55 after 400): what the
# judge makes of blots, or a low diversity, is then no collapse yet.
YOUNG = 1000
# Mean D(x) − D(G(z)) at the end: healthy 0.1 to 0.4; ill above 0.99.
SATURATED = 0.97
# Diversity of the samples, over that of the real: healthy 0.9 to 1 at the end, a young dense GAN
# 0.55; ill 0.0 to 0.2. And over its own highest: healthy never below 0.9.
COLLAPSED, FALLEN = 0.4, 0.7
# Share of the classes seen: among 64 pictures of ten equally frequent classes one is missing in 1
# of 85 sheets, five never.
CLASSES_SEEN = 0.5
# d_loss [nats] of one step that a healthy D hardly meets (at most 3.3 in 300 to 6,000 steps), and
# how often it must come. COIN is the loss of a D that says ½ to everything.
COIN = 2 * math.log(2)
LEAP, LEAPS = 2.5 * COIN, 0.005
# A loss [nats] that has left the scale: −log D(G(z)) = 50 is a D sure to 22 digits. Healthy ones
# end below 2, saturated ones below 10; a rate of 1 ends at 504.
BLOWN_UP = 50
# Loss of a VAE over its first, which is that of a net that knows nothing (pixels · log 2): healthy
# runs never rise above 1; at rates that are too high it jumps by powers of ten.
JUMP = RISE = 1.5
# KL [nats] bounds what z says about x: at most exp(KL) pictures can be told apart. Below 0.1 z says
# nothing; below log 10 not even which of ten classes. Healthy: 12 to 14 (Fashion-MNIST).
DEAD, SILENT = 0.1, math.log(10)
# A VAE finds its z late: on digits KL goes 0.1 → 0.3 → 0.5 around step 250 of 300. So a KL that
# still grows by a fifth from one fifth of the run to the next is young, not dead.
GROWING, NOTHING = 1.2, 1e-3
# Fall of a VAE's loss from the last but one fifth to the last: 0.9 % in a whole run, 0.9 % when
# stopped at 1,000 steps of 8,000, for the rate falls only in the second half.
STILL_FALLING = 0.04
# Adam's rate in the course is 1e-3; at 1.5e-2 a VAE on digits lost its z for that reason alone.
FAST = 0.01

TOO_HIGH = "learning rate too high"
MORE_STEPS = "more steps, in a new folder (the rate falls to zero at the end of a run)."
LESSONS = {  # the section that explains a finding, in a run of a GAN and in one of a VAE
    "healthy": ("07_evaluation", "08_vae 8.7"),
    "not a number": ("04_first_gan 4.4", "08_vae 8.5"),
    "diverged": ("02_minimax 2.5", "08_vae 8.6"),
    "learning rate too high": ("05_dcgan 5.3", "08_vae 8.6"),
    "discriminator too strong": ("02_minimax 2.7", ""),
    "generator collapsed": ("06_mode_collapse 6.3", ""),
    "posterior collapse": ("", "08_vae 8.11"),
    "KL vanishing": ("", "08_vae 8.11"),
    "not enough training": ("05_dcgan 5.6", "08_vae 8.6"),
}


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
    history: dict
    diversity: dict  # step → diversity of the samples
    real_diversity: float | None
    failure: dict | None
    sheet: torch.Tensor | None  # the last samples (N, C, H, W) in [-1, 1]


def doctor(run_or_folder):
    """Look at a run and say what is wrong with it, if anything is.

    run_or_folder: a `run.Run`, the folder of one, or a history as `train_gan` and `train_vae`
        return it (which says less: nothing about the samples). The run may have been stopped, or
        ended by a NaN.
    Returns: Report; its findings are "healthy" alone, or one or more of "not a number",
        "diverged", "learning rate too high", "discriminator too strong", "generator collapsed",
        "posterior collapse", "KL vanishing", "not enough training".
    Raises: UserError if there is no run in the folder, or not one of a GAN or a VAE.
    """
    record = _read(run_or_folder)
    names = set(record.history)
    if {"d_loss", "g_loss"} <= names:
        kind, rules = 0, _gan
    elif {"nll", "kl"} <= names:
        kind, rules = 1, _vae
    elif record.failure is None:
        logged = ", ".join(n for n in record.history if n != "step") or "nothing"
        raise UserError(
            f"{record.name} logged {logged}. The doctor needs the d_loss and g_loss of a GAN, or "
            "the nll and kl of a VAE; beyond them, log what train_gan and train_vae log."
        )
    else:
        kind, rules = 0 if str(record.failure["name"])[1:] == "_loss" else 1, lambda record: []
    found = _not_a_number(record) + rules(record)
    if not found:
        found = [_healthy(record, kind)]
    findings = [Finding(*f, _lesson(f[0], kind)) for f in found]
    return Report(_title(record, kind), findings, _notes(record))


def _lesson(name, kind):
    chapter, _, section = LESSONS[name][kind].partition(" ")
    return f"chapters/{chapter}.ipynb" + (f", section {section}" if section else "")


# Rules: each gives a list of (name, numbers, evidence, advice), empty if all is well


def _gan(record):
    h, n = record.history, len(record.history["step"])
    d, g = _late(h["d_loss"]), _late(h["g_loss"])
    if max(abs(d), abs(g)) > BLOWN_UP:
        return [_diverged({"d_loss": d, "g_loss": g}, record)]
    if n < SHORT:
        return [_too_short(n)] if record.failure is None else []
    critic = min(h["d_loss"]) < 0  # a critic's loss: not a mean of −log, so no number to hold it to
    found = []
    leaps = sum(value > LEAP for value in h["d_loss"])
    if leaps >= max(3, LEAPS * n) and not critic:
        peak = max(h["d_loss"])
        text = (
            f"d_loss leapt above {LEAP:.1f} nats {leaps} times, up to {peak:.1f}. A D that says ½ "
            f"to everything has {COIN:.2f}: the steps take D past its aim."
        )
        found.append((TOO_HIGH, {"leaps": leaps, "d_loss": peak}, text, _lower(record)))
    found += _too_strong(record) + _collapsed(record)
    return found


def _too_strong(record):
    h = record.history
    if not {"d_real", "d_fake"} <= set(h):
        return []
    real, fake, norm = (_late(h.get(k, [math.nan])) for k in ("d_real", "d_fake", "g_grad"))
    if real - fake < SATURATED:
        return []
    text = (
        f"D(x) is {real:.3f} on real and D(G(z)) {fake:.3f} on generated pictures at the end: D "
        "knows each at a glance, and no longer says which change would be an improvement."
    )
    advice = (
        "a smaller learning rate for D than for G (a quarter), or a narrower D, in a new folder; "
        "then noise on D's inputs."
    )
    numbers = {"d_real": real, "d_fake": fake, "g_grad": norm}
    return [("discriminator too strong", numbers, text, advice)]


def _collapsed(record):
    numbers, signs = {}, []
    if record.real_diversity and record.diversity:
        shares = [v / record.real_diversity for v in record.diversity.values()]
        last, most = shares[-1], max(shares)
        numbers = {"diversity": last, "most": most}
        if last < COLLAPSED or last < FALLEN * most:
            fell = f", down from {most:.0%}" if last < FALLEN * most else ""
            signs.append(
                f"the samples differ from each other by {last:.0%} of what real pictures do{fell}"
            )
    if counts := _classes(record):
        (common, most), seen = counts.most_common(1)[0], sum(v > 0 for v in counts.values())
        numbers |= {"classes": seen, "of": len(counts), "largest class": most / counts.total()}
        if seen <= CLASSES_SEEN * len(counts):
            missing = ", ".join(k for k, v in counts.items() if not v)
            signs.append(
                f"the judge sees {seen} of {len(counts)} classes among {counts.total()} samples "
                f"({most} times {common}; never {missing})"
            )
    if not signs:
        return []
    text = " and ".join(signs)
    text = text[0].upper() + text[1:] + "."
    young = len(record.history["step"]) < YOUNG and numbers.get("diversity", 1) > COLLAPSED
    if young and numbers.get("diversity", 1) >= FALLEN * numbers.get("most", 0):
        return [("not enough training", numbers, text, MORE_STEPS)]
    advice = (
        "G's learning rate down to that of D or below, and BatchNorm in G if it has none; then "
        "the cures of chapter 06 one at a time."
    )
    return [("generator collapsed", numbers, text, advice)]


def _vae(record):
    h, n = record.history, len(record.history["step"])
    loss = h.get("loss") or [a + b for a, b in zip(h["nll"], h["kl"], strict=True)]
    first, peak, end, kl = loss[0], max(loss), _late(loss), _late(h["kl"])
    if end > RISE * first:
        return [_diverged({"loss": end, "first loss": first}, record)]
    found = []
    if peak > JUMP * first:
        at = h["step"][loss.index(peak)]
        text = (
            f"The loss jumped to {peak:,.0f} nats at step {at}. It began at {first:,.0f}, which is "
            "what a net has that knows nothing: a step of the right length never leads above that."
        )
        found.append((TOO_HIGH, {"peak loss": peak, "first loss": first}, text, _lower(record)))
    if n < SHORT:
        return found + ([_too_short(n)] if record.failure is None else [])
    beta = record.settings.get("beta", 1)
    lr = record.settings.get("lr", 0)
    advice = (
        _lower(record) if isinstance(lr, int | float) and lr >= FAST else
        f"β = 1 instead of {beta:g}." if isinstance(beta, int | float) and beta > 1 else
        "sums over the pixels, not means, in the reconstruction term; then KL annealing or free "
        "bits."
    )  # fmt: skip
    kl_before = _before(h["kl"])
    if max(GROWING * kl_before, NOTHING) < kl < SILENT and not found:
        text = (
            f"In the last two fifths of {n:,} steps the KL term grew from {kl_before:.2g} to "
            f"{kl:.2g} nats: the decoder is only beginning to use z."
        )
        return [("not enough training", {"kl before": kl_before, "kl": kl}, text, MORE_STEPS)]
    active = _late(h["active"]) if "active" in h else math.nan
    numbers = {"active": active, "kl": kl}
    if active < 1 or kl < DEAD:
        units = "" if math.isnan(active) else f" and {active:.0f} latent units are active"
        text = (
            f"The KL term is {kl:.2g} nats{units}: z says nothing about x, and the decoder draws "
            "the same average picture for every z."
        )
        found.append(("posterior collapse", numbers, text, advice))
    elif kl < SILENT:
        text = (
            f"The KL term is only {kl:.2f} nats: by z at most exp({kl:.2f}) = {math.exp(kl):.0f} "
            "pictures can be told apart, fewer than there are classes."
        )
        found.append(("KL vanishing", numbers, text, advice))
    before = _before(loss)
    if not found and record.failure is None and before - end > STILL_FALLING * abs(end):
        text = (
            f"Between the last two fifths of {n:,} steps the loss still fell from {before:,.1f} "
            f"to {end:,.1f} nats, by {(before - end) / end:.1%}."
        )
        found.append(("not enough training", {"before": before, "loss": end}, text, MORE_STEPS))
    return found


def _not_a_number(record):
    if record.failure is None:
        return []
    f = record.failure
    text = f"{f['name']} became {f['value']} at step {f['step']}, and the run ended there."
    if len(record.history["step"]):
        last = [f"{k} {v[-1]:.4g}" for k, v in record.history.items() if _is_value(k)]
        text += f" In the last row before: {', '.join(last)}."
    advice = (
        f"{_lower(record)} If it comes again at the same step, look for a division by zero or a "
        "log of zero in your own loss."
    )
    return [("not a number", {"step": f["step"]}, text, advice)]


def _diverged(numbers, record):
    shown = ", ".join(f"{k} {v:,.4g}" for k, v in numbers.items())
    text = f"At the end: {shown} nats. A loss of this size is no longer on its way to anywhere."
    return ("diverged", numbers, text, _lower(record))


def _too_short(n):
    text = f"There are {n} steps: too few for curves and samples to say more than that."
    return ("not enough training", {"steps": n}, text, MORE_STEPS)


def _healthy(record, kind):
    h = record.history
    keys = ("d_real", "d_fake") if kind == 0 else ("loss", "kl", "active")
    numbers = {k: _late(h[k]) for k in keys if k in h}
    if record.real_diversity and record.diversity:
        numbers["diversity"] = list(record.diversity.values())[-1] / record.real_diversity
    shown = ", ".join(f"{k} {v:.3g}" for k, v in numbers.items())
    text = f"Nothing that the doctor knows is wrong ({shown}). Good pictures are another question."
    return ("healthy", numbers, text, "")


def _lower(record):
    lr = record.settings.get("lr")
    if not isinstance(lr, int | float):
        return "a tenth of the learning rate, in a new folder."
    return f"a learning rate of {min(lr / 10, 1e-3):.1g} instead of {lr:g}, in a new folder."


# Numbers of a record


def _late(values):
    return statistics.median(values[-max(FEWEST, int(LATE * len(values))) :])


def _before(values):
    """As `_late`, over the fifth before the last."""
    n = len(values)
    return statistics.median(values[int((1 - 2 * LATE) * n) : int((1 - LATE) * n)])


def _is_value(name):
    return name != "step" and not name.endswith("_per_second")


def _classes(record):
    """How often the judge of the run's data sees each class in the last samples, or None."""
    if record.sheet is None or record.settings.get("data") not in evaluate.JUDGES:
        return None
    judge = evaluate.judge(record.settings["data"])
    found = Counter(evaluate.logits(record.sheet, judge).argmax(1).tolist())
    names = judge.settings["classes"]
    names = range(names) if isinstance(names, int) else names
    return Counter({str(name): found[i] for i, name in enumerate(names)})


# Reading


def _read(source):
    if isinstance(source, dict):
        if "step" not in source:
            raise UserError("This dict is no history: it has no `step`.")
        return Record("This history", {}, source, {}, None, None, None)
    if isinstance(source, run.Run):
        if source.folder is not None and not source.history["step"] and source.failure is None:
            return _read_folder(source.folder)  # not entered yet, but it may be an old friend
        sheet = _sheet(source.samples(), source.settings)
        if source.folder is None and source.sample is not None:
            with torch.no_grad(), torch.random.fork_rng():
                sheet = source.sample().float().cpu()
        return Record(
            str(source.folder or "This run"),
            source.settings,
            source.history,
            source.diversity,
            source.real_diversity,
            source.failure,
            sheet,
        )
    return _read_folder(Path(source))


def _read_folder(folder):
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; name the folder of a run.")
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))["settings"]
        history = {"step": []} | run.read_history(folder)
        diversity, real = run.read_diversity(folder)
        failure = None
        if (folder / "failure.json").exists():
            failure = json.loads((folder / "failure.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not the folder of a run: it has no config.json. A run's folder is what "
            "`out=` or --out named."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"The run in {folder} can't be read: {error}.") from error
    if not history["step"] and failure is None:
        raise UserError(f"The run in {folder} has no history yet: it is written with a checkpoint.")
    samples = {
        int(p.stem.removeprefix("step-")): p for p in sorted(folder.glob("samples/step-*.png"))
    }
    return Record(
        str(folder), settings, history, diversity, real, failure, _sheet(samples, settings)
    )


def _sheet(samples, settings):
    """The last saved sheet as pictures (N, C, H, W) in [-1, 1], or None; samples: step → path."""
    if not samples:
        return None
    import numpy as np
    from PIL import Image

    with Image.open(samples[max(samples)]) as file:
        sheet = torch.from_numpy(np.asarray(file.convert("RGB")).copy()).movedim(-1, 0)  # (3, h, w)
    sheet = sheet[:, 2:, 2:] / 127.5 - 1  # a border of 2 on all sides, 2 between pictures
    channels, side, _ = settings.get("shape", [3, sheet.shape[2] // 8 - 2, 0])
    if sheet.shape[1] % (side + 2) or sheet.shape[2] % (side + 2):
        return None
    cells = sheet.unfold(1, side, side + 2).unfold(2, side, side + 2)  # (3, rows, 8, H, W)
    return cells.flatten(1, 2).movedim(1, 0)[:, :channels]


# Sentences around the findings


def _title(record, kind):
    done = record.history["step"][-1] if record.history["step"] else 0
    total, batch = record.settings.get("steps"), record.settings.get("batch_size")
    of = f" of {total:,}" if total else ""
    shown = f", {done * batch:,} pictures seen" if batch else ""
    return f"{record.name}: a {('GAN', 'VAE')[kind]}, {done:,}{of} steps{shown}"


def _notes(record):
    notes, h = [], record.history
    done, total = h["step"][-1] if h["step"] else 0, record.settings.get("steps")
    if record.failure is None and total and done < total:
        notes.append(f"not finished: {done:,} of {total:,} steps; the same call continues it.")
    if "d_loss" in h and "d_real" not in h:
        notes.append("d_real and d_fake were not logged: whether D is too strong was not judged.")
    if "d_loss" in h and not (record.diversity and record.real_diversity):
        notes.append(
            "the diversity of samples and real pictures was not recorded (Run's sample= and real=)."
        )
    return notes
