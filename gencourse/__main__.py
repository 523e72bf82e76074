"""The `gencourse` command: train without a notebook, ask what went wrong, grade a class."""

import re
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Learn image generation by training it.",
)


class Model(StrEnum):
    dcgan = "dcgan"
    vae = "vae"
    classifier = "classifier"


@app.callback()
def _gencourse():
    """Learn image generation: train the course's models, diagnose runs, grade a class."""


@app.command()
def train(
    model: Annotated[Model, typer.Argument(help="What to train.")],
    data: Annotated[
        str,
        typer.Option(help="digits, shapes, mnist, fashion_mnist, cifar10, or folder:PATH."),
    ] = "fashion_mnist",
    steps: Annotated[
        int | None, typer.Option(help="Training steps in all; default 2000 (classifier 5000).")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the pictures: 16, 28, 32 or 64; default: as is.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures per step; default 64 (classifier 128).")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate; default 0.001 (classifier 0.002).")
    ] = None,
    z_dim: Annotated[
        int | None, typer.Option(help="Size of the latent; default 64 (dcgan), 24 (vae).")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Channels of the finest map; dcgan 16 (GPU 64), others 32.")
    ] = None,
    beta: Annotated[float, typer.Option(help="Weight of the KL term (vae).")] = 1.0,
    shift: Annotated[
        int, typer.Option(help="Pixels that pictures are moved by, at most (classifier).")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of weights, batches and noise.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; default runs/MODEL-DATA.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: as suits the device.")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the nets: slow to start, faster on a GPU.")
    ] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="One CUDA graph for each step: needs a CUDA device.")
    ] = False,
    sync_batch_norm: Annotated[
        bool,
        typer.Option(
            "--sync-batch-norm/--local-batch-norm",
            help="With several processes: BatchNorm over the whole batch, or each over its part.",
        ),
    ] = True,
    tracker: Annotated[
        str | None, typer.Option(help="tensorboard or wandb, in the folder of the run.")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    sample_every: Annotated[int, typer.Option(help="Steps between sample grids.")] = 500,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; asks first.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask before starting over.")] = False,
):
    """Train a model; the same command again continues where it was stopped.

    In the folder of the run: config.json, history.csv, samples/, the last two checkpoints, and at
    the end generator.safetensors (dcgan, averaged weights), vae.safetensors or
    classifier.safetensors. With the defaults, a classifier is the course's judge of its data.

    On several GPUs or machines: accelerate launch -m gencourse train … (--batch-size stays that of
    all together; the run goes on with another number of them).
    """
    from gencourse import fast, nets, ranks, runtime  # here, so that --help answers at once
    from gencourse import train as loops
    from gencourse.data import load
    from gencourse.run import delete
    from gencourse.tracker import check as check_tracker

    if width is None:  # in the same CPU minutes a narrow GAN learns more: its steps are cheap
        narrow = runtime.device().type == "cpu"
        width = 32 if model is not Model.dcgan else 16 if narrow else 64
    if z_dim is None:
        z_dim = 24 if model is Model.vae else 64
    usual = (5_000, 128, 2e-3) if model is Model.classifier else (2_000, 64, 1e-3)
    given = (steps, batch_size, lr)
    steps, batch_size, lr = (u if g is None else g for g, u in zip(given, usual, strict=True))
    least = {"--steps": steps, "--width": width, "--z-dim": z_dim}
    least |= {"--checkpoint-every": checkpoint_every, "--sample-every": sample_every}
    for name, value in least.items():
        if value < 1:
            raise runtime.UserError(f"{name} is {value}; it must be at least 1.")
    if batch_size < 2:
        raise runtime.UserError(f"--batch-size is {batch_size}; BatchNorm needs at least 2.")
    if not lr > 0:
        raise runtime.UserError(f"--lr is {lr}; it must be above 0.")
    if not beta >= 0:
        raise runtime.UserError(f"--beta is {beta}; it must not be negative.")
    if shift < 0:
        raise runtime.UserError(f"--shift is {shift}; it must not be negative.")
    fast.precision(precision)
    if tracker is not None:
        check_tracker(tracker)
    _check_size(size)
    ranks.start()
    if batch_size % ranks.world():
        raise runtime.UserError(
            f"--batch-size is {batch_size}, which {ranks.world()} processes can't share evenly; "
            f"choose a multiple of {ranks.world()}."
        )
    loops.check_graph(graph)
    out = out or Path("runs") / f"{model.value}-{re.sub(r'[^A-Za-z0-9]+', '-', data).strip('-')}"
    if out.exists() and not out.is_dir():
        raise runtime.UserError(f"--out {out} is a file; name a folder.")

    images = load(data, size=size, seed=seed)
    channels, height, _ = images.shape
    _check_size(height)
    # Only now, when the new run is known to be possible, may the old one go.
    if fresh and ranks.is_main() and out.exists() and any(out.iterdir()):
        if not yes and not typer.confirm(f"Delete the run in {out} and start over?", err=True):
            raise runtime.UserError(f"Nothing was deleted; {out} is as it was.")
        delete(out)

    common = dict(steps=steps, batch_size=batch_size, lr=lr, seed=seed, out=out)
    common |= dict(checkpoint_every=checkpoint_every, precision=precision, compile=compile)
    common |= dict(graph=graph, sync_batch_norm=sync_batch_norm, tracker=tracker)
    say = partial(typer.echo, err=True) if ranks.is_main() else lambda text: None
    several = f" · {ranks.world()} processes" if ranks.world() > 1 else ""
    say(f"{runtime.describe()}{several}\n{len(images):,} pictures {images.shape} → {out}")
    runtime.seed_everything(seed)
    if model is Model.dcgan:
        generator = nets.DCGANGenerator(height, channels, z_dim=z_dim, width=width)
        discriminator = nets.DCGANDiscriminator(height, channels, width=width)
        result, parts = "generator.safetensors", (generator, discriminator)
        loop = partial(loops.train_gan, sample_every=sample_every)
    elif model is Model.vae:
        result, parts = "vae.safetensors", (nets.VAE(height, channels, z_dim=z_dim, width=width),)
        loop = partial(loops.train_vae, beta=beta, sample_every=sample_every)
    else:
        classes = len(images.classes)
        parts = (nets.Classifier(height, channels, classes=classes, width=width),)
        result, test = "classifier.safetensors", _test_half(data, height, images)
        loop = partial(loops.train_classifier, shift=shift, test_images=test)
    try:
        loop(images, *parts, **common)
    except KeyboardInterrupt as stop:  # typer would end here without a word
        say(str(stop))
        raise typer.Exit(130) from None
    say(f"Finished {steps:,} steps: {out / result}")
    if model is Model.classifier and test is not None:
        right = loops.accuracy(parts[0], test)
        say(f"Accuracy on {len(test):,} test pictures: {right:.2%}")


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="The folder of a run: what --out named.")],
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
        Path, typer.Argument(help="Folder or .zip of notebooks, as Canvas and Moodle give them.")
    ],
    assignment: Annotated[str, typer.Option(help="Such as 01_kl_divergence.")],
    out: Annotated[Path, typer.Option(help="Folder for grades.csv, pages and the summary.")],
    workers: Annotated[int | None, typer.Option(help="Side by side; default: all cores.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the inputs; default: a secret one, kept in --out.")
    ] = None,
    memory: Annotated[float, typer.Option(help="GB that a notebook may use.")] = 3.0,
    cell_seconds: Annotated[float, typer.Option(help="Time for one cell.")] = 30.0,
    image: Annotated[
        str | None, typer.Option(help="Container image, to use Docker or Podman.")
    ] = None,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="No sandbox: only for notebooks you trust.")
    ] = False,
    moodle_worksheet: Annotated[
        Path | None, typer.Option(help="Moodle's grading worksheet, to be filled in.")
    ] = None,
    fail_under: Annotated[
        float | None, typer.Option(help="Exit with 1 if anybody has less than so many percent.")
    ] = None,
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

    given = {"--workers": workers, "--memory": memory, "--cell-seconds": cell_seconds}
    for name, value in given.items():
        if value is not None and not value > 0:
            raise runtime.UserError(f"{name} is {value:g}; it must be above 0.")
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


def _test_half(data, size, images):
    """The test pictures that belong to `images`, or None for a folder that has no test half."""
    from gencourse.data import DataError, load

    try:
        test = load(data, split="test", size=size)
    except DataError:
        if data.startswith("folder:"):
            return None
        raise
    return test if test.classes == images.classes else None


def _check_size(size):
    from gencourse import nets, runtime

    if size is not None and size not in nets.SIZES:
        sizes = ", ".join(map(str, nets.SIZES))
        raise runtime.UserError(f"Size {size} is not supported; choose --size from {sizes}.")


def main():
    """Run the command; what its user can mend ends in one sentence on stderr and exit code 2."""
    from gencourse.checkpoint import WriteError
    from gencourse.runtime import UserError

    try:
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        sentence, code = str(error), 2
    except WriteError as error:
        sentence, code = str(error), 1
    except (KeyboardInterrupt, typer.Abort) as stop:
        sentence, code = str(stop) or "Stopped.", 130
    except Exception as error:
        # A wrong option; newer versions of typer no longer raise click's own class.
        if not hasattr(error, "format_message"):
            raise
        name = "".join(f"{a} " for a in sys.argv[1:2] if a in ("train", "doctor", "grade"))
        sentence = f"{error.format_message().rstrip('.')}. See `gencourse {name}--help`."
        code = 2
    print(" ".join(sentence.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
