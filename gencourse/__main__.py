"""The `gencourse` command: train without a notebook, ask what went wrong, grade a class.

Nothing here imports torch before there is something to do, so that --help answers at once.
"""

import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Learn image generation: train the course's models, diagnose runs, grade a class.",
)


class Kind(NamedTuple):
    """A kind of model that can be trained; a further one is a further row of KINDS.

    nets: function of the module `nets`, the pictures and the sizes it names → the nets.
    loop: its name in `train`. result: the file that it leaves.
    options: the defaults of those options that not all kinds have alike; a pair is for a CPU and
        for a GPU. An option of another kind is refused.
    """

    nets: Callable
    loop: str
    result: str
    options: dict


def _dcgan(nets, images, z_dim, width):
    channels, size, _ = images.shape
    generator = nets.DCGANGenerator(size, channels, z_dim=z_dim, width=width)
    return generator, nets.DCGANDiscriminator(size, channels, width=width)


def _vae(nets, images, z_dim, width):
    channels, size, _ = images.shape
    return (nets.VAE(size, channels, z_dim=z_dim, width=width),)


def _classifier(nets, images, width):
    channels, size, _ = images.shape
    return (nets.Classifier(size, channels, classes=len(images.classes), width=width),)


KINDS = {
    # In the same minutes on a CPU a narrow GAN learns more: its steps are cheap.
    "dcgan": Kind(_dcgan, "train_gan", "generator.safetensors", dict(
        steps=2_000, batch_size=64, lr=1e-3, z_dim=64, width=(16, 64), sample_every=500)),
    "vae": Kind(_vae, "train_vae", "vae.safetensors", dict(
        steps=2_000, batch_size=64, lr=1e-3, z_dim=24, width=32, beta=1.0, sample_every=500)),
    "classifier": Kind(_classifier, "train_classifier", "classifier.safetensors", dict(
        steps=5_000, batch_size=128, lr=2e-3, width=32, shift=1)),
}
Model = StrEnum("Model", list(KINDS))


def _path(text):
    """A path as people write it: ~ is their home folder."""
    if not str(text):
        raise typer.BadParameter("it is empty.")
    return Path(os.path.expanduser(text))


def _option(kind, text, *flags, **more):
    """The annotation of an option: its type, its help."""
    return Annotated[kind, typer.Option(*flags, help=text, **more)]


_file = partial(_option, Path, parser=_path)
_argument = partial(typer.Argument, parser=_path)


def _usual(kind, name, text):
    """An option of KINDS: its help says which kinds have it, and their defaults."""
    kinds = {}  # default → which have it
    for model, row in KINDS.items():
        if name in row.options:
            value = row.options[name]
            pair = isinstance(value, tuple)
            value = "{} on a CPU, {} on a GPU".format(*value) if pair else value
            kinds.setdefault(value, []).append(model)
    values = ", ".join(f"{value} ({', '.join(which)})" for value, which in kinds.items())
    return _option(kind, f"{text}; default {values}.")


@app.command()
def train(
    model: Annotated[Model, typer.Argument(help="What to train.")],
    data: _option(
        str, "digits, shapes, mnist, fashion_mnist, cifar10, or folder:PATH."
    ) = "fashion_mnist",
    steps: _usual(int, "steps", "Training steps in all") = None,
    size: _option(int, "Side of the pictures: 16, 28, 32 or 64; default: as is.") = None,
    batch_size: _usual(int, "batch_size", "Pictures per step") = None,
    lr: _usual(float, "lr", "Peak learning rate") = None,
    z_dim: _usual(int, "z_dim", "Size of the latent") = None,
    width: _usual(int, "width", "Channels of the finest map") = None,
    beta: _usual(float, "beta", "Weight of the KL term") = None,
    shift: _usual(int, "shift", "Pixels that pictures are moved by, at most") = None,
    seed: _option(int, "Of weights, batches and noise.") = 0,
    out: _file("Folder of the run; default runs/MODEL-DATA.", metavar="FOLDER") = None,
    precision: _option(str, "float32, bfloat16 or float16; default: as suits the device.") = None,
    compile: _option(bool, "Compile the nets: slower start, faster on a GPU.", "--compile") = False,
    graph: _option(bool, "One CUDA graph for each step: needs a CUDA device.", "--graph") = False,
    sync_batch_norm: _option(
        bool, "With several processes: BatchNorm over the whole batch, or each over its part.",
        "--sync-batch-norm/--local-batch-norm",
    ) = True,
    tracker: _option(str, "tensorboard or wandb, in the folder of the run.") = None,
    checkpoint_every: _option(int, "Steps between checkpoints.") = 500,
    sample_every: _usual(int, "sample_every", "Steps between sample grids") = None,
    fresh: _option(bool, "Start over; asks first.", "--fresh") = False,
    yes: _option(bool, "Don't ask before starting over.", "--yes") = False,
):
    """Train a model; the same command again continues where it was stopped.

    In the folder of the run: config.json, history.csv, samples/, the last two checkpoints, and at
    the end the trained weights (*.safetensors; of a GAN the generator's, averaged). With the
    defaults, a classifier is the course's judge of its data.

    On several GPUs or machines: accelerate launch -m gencourse train … (--batch-size stays that of
    all together; the run goes on with another number of them).
    """
    given = {name: value for name, value in locals().items() if value is not None}
    model, data, size, yes = (given.pop(k, None) for k in ("model", "data", "size", "yes"))
    kind = KINDS[model]
    for name in given:
        having = [other for other, row in KINDS.items() if name in row.options]
        if having and model not in having:
            only = f"it is for {', '.join(having)}, not for {model}."
            raise typer.BadParameter(only, param_hint=_flag(name))

    from gencourse import nets, ranks, runtime
    from gencourse import train as loops
    from gencourse.data import load

    on_gpu = runtime.device().type != "cpu"
    usual = {k: v[on_gpu] if isinstance(v, tuple) else v for k, v in kind.options.items()}
    options = usual | given
    name = re.sub(r"[^A-Za-z0-9]+", "-", data).strip("-")
    out = options.setdefault("out", Path("runs") / f"{model}-{name}")
    loops.check(**{name: value for name, value in options.items() if name in loops.LIMITS})
    if options["batch_size"] < 2:
        raise runtime.OptionError("batch_size", "is 1; BatchNorm needs at least 2.")
    if size is not None and size not in nets.SIZES:
        known = ", ".join(map(str, nets.SIZES))
        raise runtime.UserError(f"Size {size} is not supported; choose --size from {known}.")
    sizes = {k: options.pop(k) for k in inspect.signature(kind.nets).parameters if k in options}
    loop = getattr(loops, kind.loop)
    own = inspect.signature(loops.Options).parameters
    loops.Options(**{name: value for name, value in options.items() if name in own})  # or refused

    images = load(data, size=size, seed=seed)
    make = partial(kind.nets, nets, images, **sizes)
    _check_memory(make)
    if fresh and not yes and ranks.is_main() and out.is_dir() and any(out.iterdir()):
        if not typer.confirm(f"Delete the run in {out} and start over?", err=True):
            raise runtime.UserError(f"Nothing was deleted; {out} is as it was.")
    test = None
    if "test_images" in inspect.signature(loop).parameters:
        test = options["test_images"] = _test_half(data, images)

    say = partial(typer.echo, err=True) if ranks.is_main() else lambda text: None
    several = f" · {ranks.world()} processes" if ranks.world() > 1 else ""
    say(f"{runtime.describe()}{several}\n{len(images):,} pictures {images.shape} → {out}")
    runtime.seed_everything(seed)
    models = make()
    try:
        loop(images, *models, **options)
    except KeyboardInterrupt as stop:  # typer would end here without a word
        say(str(stop))
        raise typer.Exit(130) from None
    say(f"Finished {options['steps']:,} steps: {out / kind.result}")
    if test is not None:
        say(f"Accuracy on {len(test):,} test pictures: {loops.accuracy(*models, test):.2%}")


@app.command()
def doctor(
    folder: Annotated[Path, _argument(help="A run's folder, as --out named it.", metavar="FOLDER")],
):
    """Say what went wrong in the run of a GAN or a VAE, with numbers, a cure and the lesson.

    Exit code: 0 if the run is healthy, 1 if something was found, 2 if there is no run to look at.
    """
    from gencourse.doctor import doctor as look

    report = look(folder)
    typer.echo(str(report))
    raise typer.Exit(0 if report.healthy else 1)


@app.command()
def grade(
    submissions: Annotated[
        Path, _argument(help="A folder or .zip, as Canvas or Moodle gives it.", metavar="PATH")
    ],
    assignment: _option(str, "Such as 01_kl_divergence."),
    out: _file("Folder for grades.csv, pages and the summary.", metavar="FOLDER"),
    workers: _option(int, "Side by side; default: all cores.") = None,
    seed: _option(int, "Of the inputs; default: a secret one, kept in --out.") = None,
    memory: _option(float, "GB that a notebook may use.") = 3.0,
    cell_seconds: _option(float, "Time for one cell.") = 30.0,
    image: _option(str, "Container image, to use Docker or Podman.") = None,
    unsafe: _option(bool, "No sandbox: only for notebooks you trust.", "--unsafe") = False,
    moodle_worksheet: _file("Moodle's grading worksheet, to be filled in.", metavar="FILE") = None,
    fail_under: _option(float, "Exit with 1 if anybody has less than so many percent.") = None,
):
    """Grade notebooks in sandboxes: values are compared outside, so a notebook can't change them.

    Writes grades.csv, a page for every student and summary.html. The same command again goes on
    where it was stopped, and runs only what is new or changed.
    """
    from gencourse import runtime
    from gencourse.checks import core
    from gencourse.classroom.grade import fill_worksheet
    from gencourse.classroom.grade import grade as grade_all
    from gencourse.classroom.sandbox import Limits

    for name, value, least, most in (
        ("workers", workers, 1, 1_000),
        ("seed", seed, 0, 2**32 - 1),
        ("memory", memory, 0.1, 10_000),
        ("cell_seconds", cell_seconds, 0.1, 1e6),
        ("fail_under", fail_under, 0.0, 100),
    ):
        if value is not None:
            runtime.within(name, value, least, most)
    if moodle_worksheet and not moodle_worksheet.is_file():  # not only when all is graded
        raise runtime.UserError(f"--moodle-worksheet {moodle_worksheet} is no file.")
    limits = Limits(memory=int(memory * (1 << 30)), cell=cell_seconds)
    try:
        grades = grade_all(
            submissions, assignment, out,
            seed=seed, workers=workers, limits=limits, image=image, unsafe=unsafe,
        )
    except KeyboardInterrupt as stop:  # typer would end here without a word
        typer.echo(str(stop), err=True)
        raise typer.Exit(130) from None
    exercises = core.assignments()[assignment]
    total = sum(e.points for e in exercises)
    scores = [sum(one.score(e) for e in exercises) for one in grades]
    mean = sum(scores) / len(scores)
    typer.echo(f"{len(grades)} graded, mean {mean:.1f} of {total} points: {out / 'grades.csv'}, "
               f"{out / 'summary.html'}")
    if moodle_worksheet:
        filled = fill_worksheet(moodle_worksheet, grades, exercises, out)
        typer.echo(f"{filled} rows filled: {out / 'moodle.csv'}")
    if fail_under is not None and min(scores) < fail_under / 100 * total:
        typer.echo(f"Somebody has less than {fail_under:g} %.", err=True)
        raise typer.Exit(1)


def _flag(name):
    return "--" + name.replace("_", "-")


def _test_half(data, images):
    """The test pictures that belong to `images`, or None for a folder that has no test half."""
    from gencourse.data import DataError, load

    try:
        return load(data, split="test", size=images.shape[1])
    except DataError:
        if not data.startswith("folder:"):
            raise


def _check_memory(make):
    """Refuse nets whose training can't fit into memory: Linux would end the process wordlessly."""
    import psutil
    import torch

    from gencourse import runtime

    with torch.device("meta"):  # shapes without numbers
        weights = sum(p.numel() for net in make() for p in net.parameters())
    on_gpu = runtime.device().type == "cuda"
    free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
    needed = 4 * 4 * weights  # float32: each weight, its gradient and Adam's two averages
    if needed > free:
        raise runtime.UserError(
            f"Nets with {weights:,} weights need {needed / 1e9:,.0f} GB of memory in training, and "
            f"{free / 1e9:,.1f} GB are free: choose a smaller --width."
        )


def _said(error):
    """(sentence, exit code) for what the user of the command can mend; other errors are bugs."""
    if hasattr(error, "problem"):  # runtime.OptionError
        return f"{_flag(error.name)} {error.problem}", error.exit_code
    if hasattr(error, "format_message"):  # click's, which newer versions of typer no longer raise
        name = "".join(f"{a} " for a in sys.argv[1:2] if a in ("train", "doctor", "grade"))
        sentence = re.sub(r"(?<![?.])$", ".", error.format_message().strip())
        return f"{sentence} See `gencourse {name}--help`.", 2
    if hasattr(error, "exit_code"):  # runtime.UserError, checkpoint.WriteError
        return str(error), error.exit_code
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return f"Can't use{where}: {error.strerror or error}.", 2
    # What torch and NumPy say where memory ends; torch says it in a RuntimeError.
    if isinstance(error, MemoryError) or re.search(
        r"allocate|out of memory|calculation overflow|multiplication overflow", str(error)
    ):
        return "There is not enough memory for that: choose smaller sizes, such as --batch-size.", 2
    raise error


def main():
    """Run the command; what its user can mend ends in one sentence on stderr and exit code 2."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(_one_line(message), file=sys.stderr)
        if os.environ.get("RANK", "0") != "0":  # of several processes (`ranks`) the first says it
            warnings.simplefilter("ignore")
        try:
            sys.exit(app(standalone_mode=False))
        except (KeyboardInterrupt, typer.Abort) as stop:
            sentence, code = str(stop) or "Stopped.", 130
        except Exception as error:
            sentence, code = _said(error)
    print(_one_line(sentence), file=sys.stderr)
    sys.exit(code)


def _one_line(text):
    return " ".join(str(text).split())


if __name__ == "__main__":
    main()
