"""A run's numbers and pictures in TensorBoard or Weights & Biases, by Accelerate's trackers."""

import hashlib
import importlib.util

import numpy as np

from gencourse import runtime

TRACKERS = ("tensorboard", "wandb")


class Tracker:
    """Accelerate's tracker of one run, in the run's folder.

    name: "tensorboard" (in FOLDER/tensorboard; look with `tensorboard --logdir runs`), or "wandb"
        (in FOLDER/wandb; the run's name is the folder's). settings: dict, shown beside the run.
    step: where the run goes on from, 0 for a new one; TensorBoard then drops what is beyond.
    Raises: UserError where it can't start; what `check` refuses was refused before.
    """

    def __init__(self, name, folder, settings, step=0):
        from accelerate import tracking

        # An id of the folder's own: a run that goes on is the same run.
        code = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        try:
            if name == "tensorboard":
                self.engine = tracking.TensorBoardTracker(
                    "tensorboard", logging_dir=folder, purge_step=step + 1 if step else None
                )
            else:
                self.engine = tracking.WandBTracker(
                    "gencourse", dir=str(folder), name=folder.name, id=code, resume="allow"
                )
            getattr(self.engine, "start", lambda: None)()  # older versions have started by now
        except Exception as error:  # whatever the packages raise: no key, no network, no disk
            raise runtime.UserError(
                f"The tracker {name} could not start ({error}). For wandb, run `wandb login` once "
                "or set WANDB_MODE=offline; or leave the tracker out."
            ) from error
        self._picture = {"dataformats": "NHWC"} if name == "tensorboard" else {}
        if step == 0:
            plain = {k: v if isinstance(v, int | float) else str(v) for k, v in settings.items()}
            self.engine.store_init_configuration(plain)

    def log(self, values, step):
        """values: dict name → number."""
        self.engine.log(values, step=step)

    def log_sheet(self, sheet, step):
        """sheet: (H, W, 3) uint8, a grid of samples."""
        self.engine.log_images({"samples": np.asarray(sheet)[None]}, step=step, **self._picture)

    def finish(self):
        self.engine.finish()


def check(name):
    """Raise UserError if there is no such tracker, or if its package is missing."""
    if name not in TRACKERS:
        raise runtime.UserError(f"There is no tracker {name!r}; choose {' or '.join(TRACKERS)}.")
    if importlib.util.find_spec(name) is None:
        raise runtime.UserError(
            f"The tracker {name} needs the package {name}: run `pip install {name}` "
            f"(or `uv add {name}`), or leave the tracker out."
        )
