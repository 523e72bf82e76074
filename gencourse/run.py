"""`Run`: progress, history, samples, trackers and exact resume around a plain training loop."""

import contextlib
import csv
import io
import json
import math
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import torch

from gencourse import checkpoint, ranks, runtime
from gencourse.tracker import Tracker, check

REFRESH = 0.5  # seconds between two looks at the losses; only then does the device have to wait
AGREE = 10  # steps between two questions to all processes whether one was asked to stop
SHOWN = 4  # the first so many logged values stand beside the bar; the others only in the history


class Run:
    """A training run in a folder, which continues where it was stopped, bit for bit.

        with Run("runs/dcgan", generator=G, discriminator=D, g_opt=g_opt, d_opt=d_opt) as run:
            for step in run.steps(2_000):
                ...
                run.log(d_loss=d_loss, g_loss=g_loss)

    folder: where config.json, history.csv, diversity.csv, samples/ and the last two checkpoints
        live, and failure.json if it came to that; None keeps everything in memory, saves nothing.
    settings: dict of whatever shapes the result; a folder made with others is refused.
    batch_size: pictures per step; the history then has images_per_second, else steps_per_second.
    sample: function without arguments that returns pictures (N, C, H, W) in [-1, 1] of fixed noise;
        `run.diversity` then holds, at every sample_every-th step, how much they differ.
    real: real pictures (N, C, H, W) whose diversity is `run.real_diversity`, to compare with.
    tracker: "tensorboard" or "wandb", see `tracker.Tracker`: losses, learning rates and speed as
        often as the bar is drawn, and the sheets of samples. Needs a folder.
    fresh: delete what an earlier run left in the folder.
    parts: all that has a state: nets, optimizers, EMA. Loaded from the newest checkpoint on entry,
        together with the random number generators of Python, NumPy and torch.
    Raises: runtime.UserError if settings differ or a loss is NaN or infinite;
        checkpoint.WriteError if the folder can't be written.
    Ctrl-C lets the step finish, writes a checkpoint, and then raises KeyboardInterrupt.

    With several processes (see `ranks`) the main one alone reads and writes the folder, and only
    its history has rows; a run goes on with any number of processes. When one of them dies, the
    others raise ranks.Lost, whose sentence names the last good checkpoint.
    """

    def __init__(
        self, folder=None, *, settings=None, batch_size=None, sample=None, sample_every=500,
        real=None, checkpoint_every=500, progress=True, tracker=None, fresh=False, **parts,
    ):
        ranks.start()
        self.folder = Path(os.path.expanduser(folder)) if folder is not None else None
        if tracker is not None:
            check(tracker)
            if folder is None:
                raise runtime.UserError(f"The tracker {tracker} needs a folder to write into.")
        self.settings = dict(settings or {})
        if batch_size is not None:
            self.settings["batch_size"] = batch_size
        self.batch_size, self.parts = batch_size, parts
        self.sample, self.sample_every = sample, sample_every
        self.checkpoint_every, self.fresh = checkpoint_every, fresh
        self.progress, self.tracker = progress and ranks.is_main(), tracker
        self.step = 0  # steps completed
        self.history = {"step": []}
        self.diversity = {}  # step → diversity of the samples
        self.real_diversity = None if real is None else diversity(real)
        self.failure = None  # or what became NaN or infinite: step, name and value
        self._rate = ("steps" if batch_size is None else "images") + "_per_second"
        self._pending = []  # (step, {name: tensor}) not yet fetched from the device
        self._on_disk = 0  # rows of history.csv
        self._stop = False
        self._in_loop = False
        self._entered = False
        self._old_handlers = {}
        self._tracked = None  # the open Tracker

    def __enter__(self):
        self._entered, self._stop = True, False  # the same object may go on after an interrupt
        if self.folder is not None:
            latest = None
            # When fresh, the files there go when the new run is sure to start: in `steps`.
            if ranks.is_main() and not self.fresh:
                latest = checkpoint.load_latest(self.folder)
                if latest is not None:
                    # Settings first: weights of another net would fail with a harder message.
                    self._refuse_other_settings()
            latest = ranks.from_main(latest)  # the folder may be on the main one's disk only
            if latest is not None:
                self._restore(*latest)
        if threading.current_thread() is threading.main_thread():
            handlers = {signal.SIGINT: self._interrupt}
            if ranks.world() > 1:  # so does a launcher end the others when one process has died
                handlers[signal.SIGTERM] = ranks.told_to_end
            self._old_handlers = {n: signal.signal(n, h) for n, h in handlers.items()}
        return self

    def __exit__(self, kind, error, traceback):
        for number, handler in self._old_handlers.items():
            lost = isinstance(error, ranks.Lost) and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if lost else handler)  # time to say what happened
        self._old_handlers = {}
        if self._tracked is not None:
            self._tracked.finish()
            self._tracked = None
        if isinstance(error, ranks.Lost) and self.writes():
            raise ranks.Lost(f"{error} {self._saved()}") from error

    def steps(self, total):
        """Yield the numbers of the steps still to do, up to total − 1.

        After each one: progress, samples and checkpoints as due. A finished run yields nothing.
        """
        if not self._entered:
            raise RuntimeError("Use the run as `with Run(...) as run:`, so that it can resume.")
        self.settings["steps"] = total
        if self.writes():
            # Once, here: a folder that vanishes later (a drive that went away) must not come back
            # as an empty one on another disk.
            checkpoint.make_folder(self.folder / "samples")
            if not self.fresh:
                self._refuse_other_settings()
            if self.step < total and self.tracker is not None:
                self._tracked = Tracker(self.tracker, self.folder, self.settings, self.step)
            if self.fresh:
                delete(self.folder)
            if self.step == 0:
                config = {"settings": self.settings, "machine": runtime.describe()}
                self._write_json("config.json", config)
            if self.step < total:  # a new attempt
                checkpoint.delete(self.folder / "failure.json")
        self.failure, self.fresh = None, False
        from tqdm.auto import tqdm

        static = os.environ.get("GENCOURSE_STATIC") == "1"  # no bar in a committed notebook
        hidden = static or not self.progress
        bar = tqdm(total=total, initial=self.step, disable=hidden, unit="step", mininterval=0)
        first, began = self.step, time.perf_counter()
        self._flushed_at, self._flushed_step = began, self.step
        self._in_loop = True
        try:
            while self.step < total:
                yield self.step
                self.step += 1
                if time.perf_counter() - self._flushed_at > REFRESH:
                    self._flush(bar)
                if self.step % self.sample_every == 0 or self.step == total:
                    self._take_samples()
                due = self.step % self.checkpoint_every == 0 or self.step == total
                stop = self._all_stop()
                if due or stop:
                    self._flush(bar)
                    self._checkpoint()
                if stop:
                    goes_on = "; run the same again to continue from there" if self.folder else ""
                    raise KeyboardInterrupt(f"Stopped after step {self.step}{goes_on}.")
        finally:
            self._in_loop = False
            bar.close()
        if static and self.progress and self.step > first:
            seconds = time.perf_counter() - began
            rate = (self.step - first) * (self.batch_size or 1) / seconds
            print(f"{self.step - first:,} steps in {seconds:.1f} s · {self._summary(rate)}")

    def log(self, **scalars):
        """Remember scalars of the current step; tensors stay on the device until the next refresh.

        Raises: ValueError if the names change during a run.
        """
        row = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in scalars.items()}
        names = [k for k in self.history if k not in ("step", self._rate)]
        if names and names != list(row):
            raise ValueError(f"This run logs {', '.join(names)}; now it got {', '.join(row)}.")
        for name in row:
            self.history.setdefault(name, [])
        self._pending.append((self.step + 1, row))

    def samples(self):
        """The saved grids: dict from step to the path of its PNG, in order."""
        if self.folder is None:
            return {}
        found = sorted((self.folder / "samples").glob("step-*.png"))
        return {int(path.stem.removeprefix("step-")): path for path in found}

    def writes(self):
        """Whether this process writes files: the main one, where there is a folder."""
        return self.folder is not None and ranks.is_main()

    # What happens between steps

    def _all_stop(self):
        """Whether to stop after this step: every process must come to the same answer."""
        if ranks.world() > 1 and self.step % AGREE:
            return False
        return ranks.any_of_us(self._stop)

    def _flush(self, bar):
        """Fetch pending losses (the one synchronisation), check them, extend history and bar."""
        if not ranks.is_main():  # every process logs the same means over all; one keeps them
            self._pending = []
            return
        if self.step == self._flushed_step:
            return
        now = time.perf_counter()
        rate = (self.step - self._flushed_step) / max(now - self._flushed_at, 1e-9)
        rate = round(rate * (self.batch_size or 1), 1)
        pending, self._pending = self._pending, []
        for step, values in zip([s for s, _ in pending], _fetch(pending), strict=True):
            for name, value in values.items():
                if not math.isfinite(value):
                    self._fail(name, value, step)
            for name, value in values.items():
                self.history[name].append(value)
            self.history["step"].append(step)
            self.history.setdefault(self._rate, []).append(rate)
        self._flushed_at, self._flushed_step = now, self.step
        bar.update(self.step - bar.n)
        if not bar.disable:
            bar.set_postfix_str(self._summary(rate))
        if self._tracked is not None:
            last = {name: values[-1] for name, values in self.history.items() if values}
            step = last.pop("step", self.step)
            for name, part in self.parts.items():
                if hasattr(part, "param_groups"):
                    last[f"{name}_lr"] = float(part.param_groups[0]["lr"])
            self._tracked.log(last, step)

    def _summary(self, rate):
        names = [k for k in self.history if k not in ("step", self._rate) and self.history[k]]
        parts = [f"{name} {self.history[name][-1]:.4g}" for name in names[:SHOWN]]
        return " · ".join([*parts, f"{rate:,.0f} {self._rate.split('_')[0]}/s"])

    def _checkpoint(self):
        if not self.writes():
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        if not _finite(state):
            self._fail("a weight", math.nan, self.step)
        # History first: rows beyond the newest checkpoint are dropped on resume, never missing.
        self._write_history()
        checkpoint.save(self.folder, self.step, {"parts": state, "random": _random_state()})

    def _take_samples(self):
        if self.sample is None or not ranks.is_main():
            return
        with torch.no_grad():
            pictures = self.sample().float().cpu()
        self.diversity[self.step] = diversity(pictures)
        if self.folder is None:
            return
        from PIL import Image
        from torchvision.utils import make_grid

        real = "" if self.real_diversity is None else self.real_diversity
        rows = [f"{step},{value},{real}\n" for step, value in self.diversity.items()]
        text = "".join(["step,diversity,real_diversity\n", *rows])
        checkpoint.write_atomically(self.folder / "diversity.csv", text.encode())
        sheet = make_grid(pictures, nrow=8, normalize=True, value_range=(-1, 1))
        array = (sheet * 255).round().byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, format="PNG")
        path = self.folder / "samples" / f"step-{self.step:06d}.png"
        checkpoint.write_atomically(path, buffer.getvalue())
        if self._tracked is not None:
            self._tracked.log_sheet(array, self.step)

    def _interrupt(self, number, frame):
        # A launcher passes Ctrl-C on, so its processes get it twice: there it is no second wish.
        if (self._stop and ranks.world() == 1) or not self._in_loop:
            raise KeyboardInterrupt
        self._stop = True  # let the step finish: a half-made step could not be resumed exactly

    # Files

    def _write_json(self, name, content):
        text = json.dumps(content, indent=2, default=str) + "\n"
        checkpoint.write_atomically(self.folder / name, text.encode())

    def _refuse_other_settings(self):
        path = self.folder / "config.json"
        try:
            there = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            raise runtime.UserError(
                f"{path} can't be read ({error}), so nobody knows whose run this is. Use another "
                "folder, or start over with --fresh (fresh=True)."
            ) from error
        here = json.loads(json.dumps(self.settings, default=str))
        # On entry the number of steps is not known yet; `steps` asks again.
        names = [k for k in there | here if k != "steps" or "steps" in here]
        differ = [
            f"{k} was {there.get(k)!r} and is now {here.get(k)!r}"
            for k in names
            if there.get(k) != here.get(k)
        ]
        if differ:
            raise runtime.UserError(
                f"{self.folder} holds a run with other settings: {'; '.join(differ)}. Use the old "
                "settings to continue it, another folder, or start over with --fresh (fresh=True)."
            )

    def _write_history(self):
        """Bring history.csv up to date: append new rows, or write it anew after a resume."""
        path = self.folder / "history.csv"
        names = list(self.history)
        rows = list(zip(*self.history.values(), strict=True))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self._on_disk == 0:
            writer.writerow(names)
            writer.writerows(rows)
            checkpoint.write_atomically(path, text.getvalue().encode())
        else:
            writer.writerows(rows[self._on_disk :])
            checkpoint.append(path, text.getvalue())
        self._on_disk = len(rows)

    def _restore(self, step, state):
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"].get(name, {}))
        except (KeyError, ValueError, RuntimeError) as error:
            raise runtime.UserError(
                f"The checkpoint in {self.folder} was made by other networks ({error}). Use "
                "another folder, or start over with --fresh (fresh=True)."
            ) from error
        _set_random_state(state["random"])
        # What this object did after the checkpoint, before it was stopped, will be done again.
        self.step, self.history, self._pending, self._on_disk = step, {"step": []}, [], 0
        if ranks.is_main():
            self.history |= read_history(self.folder, up_to=step)
            self.diversity, _ = read_diversity(self.folder, up_to=step)

    def _fail(self, name, value, step):
        """Stop at a value that is NaN or infinite; what led there stays readable, for the doctor.

        The rows beyond the newest checkpoint are dropped again should the run be resumed.
        """
        self.failure = {"step": step, "name": name, "value": str(value)}
        if self.writes():
            with contextlib.suppress(checkpoint.WriteError):  # the sentence below is worth more
                self._write_history()
                self._write_json("failure.json", self.failure)
        raise runtime.UserError(
            f"{name} became {value} at step {step}: the training diverged. {self._saved()} "
            "Try half the learning rate first, in a new folder or with --fresh (fresh=True); then "
            "look for a division by zero or a log of zero in your own losses."
        )

    def _saved(self):
        if found := checkpoint.paths(self.folder) if self.folder else []:
            return f"The last good checkpoint is {found[-1]}."
        return "No checkpoint had been written yet."


def delete(folder):
    """Delete the files a run writes, and nothing else, from `folder`. Raises: WriteError."""
    folder = Path(folder)
    ours = ["config.json", "history.csv", "diversity.csv", "failure.json", "samples/step-*.png"]
    ours += ["checkpoint-*.pt", "*.safetensors"]
    for pattern in ours:
        for path in folder.glob(pattern):
            checkpoint.delete(path)


def diversity(pictures):
    """How much pictures differ from each other: 0 when all are the same.

    pictures: (N, C, H, W) in [-1, 1], N ≥ 2.
    Returns: float, the standard deviation of a pixel over the pictures, as root mean square over
        all pixels, in units of the pixels (where black to white is 2). Two of the pictures differ
        by √2 of it per pixel (root mean square).
    """
    return float(pictures.float().var(0).mean().sqrt()) if len(pictures) > 1 else 0.0


def read_history(folder, up_to=math.inf):
    """history.csv of a run's folder up to a step, as `Run.history`; {} if there is none."""
    rows = _read_csv(Path(folder) / "history.csv", up_to)
    found = {name: [float(r[name]) for r in rows] for name in (rows[0] if rows else ())}
    return found | ({"step": [int(r["step"]) for r in rows]} if rows else {})


def read_diversity(folder, up_to=math.inf):
    """diversity.csv of a run's folder: ({step: diversity of the samples}, of the real or None)."""
    rows = _read_csv(Path(folder) / "diversity.csv", up_to)
    real = rows[-1]["real_diversity"] if rows else ""
    return {int(r["step"]): float(r["diversity"]) for r in rows}, float(real) if real else None


def _read_csv(path, up_to):
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        # A kill can tear the last line; it is beyond the checkpoint, so never needed.
        rows = [r for r in csv.DictReader(file) if None not in r.values()]
    return [r for r in rows if int(r["step"]) <= up_to]


def _fetch(pending):
    """Turn logged values into floats with a single transfer from the device."""
    tensors = [v for _, row in pending for v in row.values() if isinstance(v, torch.Tensor)]
    numbers = iter(torch.stack([t.float() for t in tensors]).tolist() if tensors else [])
    for _, row in pending:
        yield {
            k: next(numbers) if isinstance(v, torch.Tensor) else float(v) for k, v in row.items()
        }


def _finite(state):
    """Whether every floating-point tensor in nested dicts and lists is finite."""
    if isinstance(state, torch.Tensor):
        return not state.is_floating_point() or bool(torch.isfinite(state).all())
    if isinstance(state, dict):
        return all(_finite(v) for v in state.values())
    if isinstance(state, list | tuple):
        return all(_finite(v) for v in state)
    return True


def _random_state():
    """The state of every global random number generator, as data that weights_only can load."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if (device := runtime.device()).type == "cuda":  # its own alone: others have not advanced
        state["cuda"] = torch.cuda.get_rng_state(device)
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def _set_random_state(state):
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and (device := runtime.device()).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
