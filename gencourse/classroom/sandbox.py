"""A closed room for one student's code: no network, no files but Python and the course's helpers.

bubblewrap builds it where it is installed, Docker or Podman otherwise. What runs inside is
`gencourse.checks.play`; it is asked for values over two pipes, and is never trusted.
"""

import contextlib
import importlib.util
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import psutil

from gencourse.checks import values
from gencourse.classroom import seccomp
from gencourse.runtime import UserError

PACKAGE = Path(__file__).resolve().parents[1]
# What a notebook may import of the course; what holds answers stays outside.
SHIPPED = ("__init__", "runtime", "shapes", "fetch", "archive", "pictures", "data", "plot",
           "widgets")
SHIPPED_CHECKS = ("values", "watch", "inside", "drivers", "play")
NO_CHECK = """# While grading, answers are checked outside.
def check(name, answer):
    pass
"""
NEEDED = ("torch", "numpy", "safetensors", "IPython", "matplotlib", "sklearn", "ipywidgets")
MISSING = (
    "No sandbox was found, so nothing was run. {why} To grade students' notebooks safely, install "
    "bubblewrap 0.7 or newer (on Debian and Ubuntu: sudo apt install bubblewrap), or give --image "
    "with Docker or Podman. --unsafe grades without a sandbox: then every notebook can read, "
    "change and send away what you can."
)
TICK = 0.1  # [s] between two looks at how much a sandbox uses


class Stopped(Exception):
    """Whoever grades has stopped the batch."""


class Ended(Exception):
    """The student's process is gone or was stopped; the message says why, as a clause."""


class Limits(NamedTuple):
    """What one notebook may use."""

    memory: int = 3 << 30  # [bytes] of one process, and of all of them together
    file_size: int = 32 << 20  # [bytes]; all files together twice that
    processes: int = 64
    cell: float = 30.0  # [s] for one cell
    cells: float = 300.0  # [s] for all of a notebook's cells
    call: float = 20.0  # [s] for all inputs of one exercise
    start: float = 180.0  # [s] until Python and torch are there


def tasks(limits):
    """Processes and threads that the kernel lets start: before a look finds them too many."""
    return 16 * limits.processes


def course(folder):
    """Write what notebooks may import of the course into a folder: no reference is among it."""
    inside = Path(folder) / "gencourse" / "checks"
    inside.mkdir(parents=True)
    for name in SHIPPED:
        shutil.copy(PACKAGE / f"{name}.py", inside.parent)
    for name in SHIPPED_CHECKS:
        shutil.copy(PACKAGE / "checks" / f"{name}.py", inside)
    (inside / "__init__.py").write_text(NO_CHECK, encoding="utf-8")


def cgroup(name, most):
    """A new cgroup, in which the kernel lets so many tasks start, or None where it can't be had.

    For root, whom no other limit of tasks binds.
    """
    if os.geteuid():
        return None
    for top in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):  # of version 1 and 2
        group = Path(top, name)
        with contextlib.suppress(OSError):
            group.mkdir()
            with contextlib.suppress(OSError):  # there, and not for us
                if (group / "pids.max").exists():
                    (group / "pids.max").write_text(str(most))
                    return group
            group.rmdir()
    return None


class Room:
    """How sandboxes are built on this machine.

    folder: what `course` wrote. image: of a container with Python, torch and IPython, to use Docker
    or Podman; None to use bubblewrap. unsafe: no sandbox at all.
    Raises: UserError if there is neither, with what to do.
    """

    def __init__(self, folder, limits, *, image=None, unsafe=False):
        self.folder, self.limits, self.image = Path(folder), limits, image
        self.engine, self.stopped = None, False
        if sys.platform == "win32":
            raise UserError("Grading needs Linux or macOS; on Windows, run it inside WSL.")
        if unsafe:
            self.kind = "none"
        elif image:
            self.kind = "container"
            self.engine = shutil.which("podman") or shutil.which("docker")
            if not self.engine:
                why = "--image needs Docker or Podman; neither is here."
                raise UserError(MISSING.format(why=why))
            self._try(subprocess.run([self.engine, "image", "inspect", image], **QUIET))
        else:
            self.kind = "bubblewrap"
            if not shutil.which("bwrap"):
                why = "bubblewrap (bwrap) is not installed here."
                raise UserError(MISSING.format(why=why))
            for name in NEEDED:  # here Python can keep what it compiles; a sandbox writes nothing
                importlib.import_module(name)
            with self.filter() as (options, files):
                nothing = [*self._bubblewrap(), *options, sys.executable, "-c", ""]
                self._try(subprocess.run(nothing, pass_fds=files, **QUIET))

    def _try(self, done):
        if done.returncode:
            said = " ".join(done.stderr.split()) or f"it ended with {done.returncode}"
            why = f"{self.kind.capitalize()} is here and does not work: {said}."
            if "uid map" in said or "RTM_NEWADDR" in said:
                why += (
                    " Ubuntu 24.04 forbids it to ordinary users unless an AppArmor profile allows "
                    "bwrap `userns`."
                )
            raise UserError(MISSING.format(why=why))

    def environment(self):
        """The variables that Python sees inside."""
        folders = ["/course" if self.kind != "none" else str(self.folder)]
        if self.kind != "container":  # an image has its own
            folders += map(str, _site_folders())
        return {
            "PYTHONPATH": os.pathsep.join(folders),
            "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1", "PYTHONUTF8": "1",
            "HOME": "/tmp", "TMPDIR": "/tmp", "IPYTHONDIR": "/tmp/ipython",
            "MPLCONFIGDIR": "/tmp/matplotlib", "MPLBACKEND": "agg",
            "GENCOURSE_PROFILE": "smoke", "GENCOURSE_STATIC": "1", "GENCOURSE_DEVICE": "cpu",
            "GENCOURSE_RUNS": "/tmp/runs", "GENCOURSE_CACHE": "/tmp/cache",
            "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        }

    @contextlib.contextmanager
    def filter(self):
        """Options for bubblewrap, and the open files they name, that refuse some system calls."""
        if self.kind != "bubblewrap" or not seccomp.filter():
            yield [], []
            return
        reader, writer = os.pipe()
        try:
            with open(writer, "wb") as file:
                file.write(seccomp.filter())
            yield ["--seccomp", str(reader)], [reader]
        finally:
            os.close(reader)

    def command(self, name, options=()):
        """The command that plays one notebook in a sandbox called `name`."""
        play = ["-m", "gencourse.checks.play"]
        if self.kind == "bubblewrap":
            return [*self._bubblewrap(), *options, sys.executable, *play]
        if self.kind == "container":
            variables = [f"--env={k}={v}" for k, v in self.environment().items()]
            return [
                *(self.engine, "run", "--rm", "--interactive", "--name", name, "--network=none"),
                *("--read-only", "--workdir=/tmp"),
                f"--tmpfs=/tmp:size={2 * self.limits.file_size}",
                *(f"--memory={self.limits.memory}", f"--memory-swap={self.limits.memory}"),
                *(f"--pids-limit={self.limits.processes}", "--cap-drop=ALL", "--user=65534:65534"),
                *("--security-opt=no-new-privileges", f"--volume={self.folder}:/course:ro"),
                *variables, self.image, "python", *play,
            ]
        return [sys.executable, *play]

    def _bubblewrap(self):
        command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
        command += ["--cap-drop", "ALL", "--hostname", "sandbox"]
        # What root may write in /proc/sys belongs to the whole machine.
        command += ["--proc", "/proc", "--remount-ro", "/proc"]
        command += ["--dev", "/dev", "--remount-ro", "/dev"]
        command += ["--size", str(2 * self.limits.file_size), "--tmpfs", "/tmp"]
        for folder in _python_folders():
            command += ["--ro-bind-try", folder, folder]
            for secret in _secrets(folder):
                command += ["--tmpfs", secret, "--remount-ro", secret]
        command += ["--ro-bind", str(self.folder), "/course", "--chdir", "/tmp"]
        command += ["--remount-ro", "/"]
        for name, value in self.environment().items():
            command += ["--setenv", name, value]
        return command

    def open(self, wanted):
        """Start a sandbox for one notebook, whose answers have the names `wanted`."""
        return Sandbox(self, wanted)


class Sandbox:
    """One student's process. `ask` is the only way to it; leaving the `with` ends all of it."""

    def __init__(self, room, wanted):
        self.room, self.limits = room, room.limits
        self.name, self.number, self.looked = f"gencourse-{uuid4().hex}", 0, 0.0
        self.errors = tempfile.TemporaryFile()
        environment = room.environment() | {"PATH": os.environ.get("PATH", "")}
        if room.kind == "none":
            for key in ("HOME", "TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR", "GENCOURSE_RUNS"):
                environment[key] = tempfile.gettempdir()
        command, self.cgroup = [], None
        if room.kind == "bubblewrap":
            self.cgroup = cgroup(self.name, tasks(self.limits))
        if self.cgroup:  # whatever is started from there is counted
            procs = str(self.cgroup / "cgroup.procs")
            command = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', procs]
        with room.filter() as (options, files):
            self.process = subprocess.Popen(
                [*command, *room.command(self.name, options)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0,
                start_new_session=True, cwd=tempfile.gettempdir(),
                env=environment if room.kind != "container" else None, pass_fds=files,
            )
        for pipe in (self.process.stdin, self.process.stdout):
            os.set_blocking(pipe.fileno(), False)
        seconds = self.limits.start + self.limits.cells + len(wanted) * self.limits.call
        limits = [self.limits.memory, self.limits.file_size, int(seconds), tasks(self.limits)]
        try:
            self.ask("start", {"wanted": list(wanted), "limits": limits}, self.limits.start)
        except Ended as end:
            self.close()
            raise UserError(f"The sandbox does not start: {end} {self._complaint()}") from None
        except Stopped:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ask(self, do, given, seconds):
        """Have the player do something and return its result.

        Raises: Ended if the process ends, takes longer than `seconds`, uses more than its limits,
        or answers what can't be read.
        """
        self.number += 1
        deadline = time.monotonic() + seconds
        request = values.pack({"number": self.number, "do": do, "given": given})
        self._send(request, deadline, seconds)
        try:
            text, body = values.lengths(self._read(values.LENGTHS.size, deadline, seconds))
            reply = values.unpack(self._read(text, deadline, seconds),
                                  self._read(body, deadline, seconds))
            if not isinstance(reply, dict) or type(reply["number"]) is not int:
                raise values.Unreadable("That is no reply.")
            if reply["number"] != self.number:
                raise values.Unreadable("The reply is to another request.")
            return reply["result"]
        except (values.Unreadable, KeyError, TypeError) as error:
            long = "longer" in str(error)
            what = "more than an answer may hold" if long else "something that is no answer"
            raise Ended(f"it sent {what}") from None

    def close(self):
        """End the process and everything it has started."""
        family = []
        if self.room.kind != "bubblewrap" or self.number < 2:  # once it stands, all go with it
            with contextlib.suppress(psutil.Error):
                family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()
        if self.room.kind == "container":
            subprocess.run([self.room.engine, "kill", self.name], **QUIET)
        for file in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                file.close()
        for _ in range(500 if self.cgroup else 0):  # until the last one is gone
            with contextlib.suppress(OSError):
                self.cgroup.rmdir()
                break
            time.sleep(0.02)

    def _send(self, message, deadline, seconds):
        rest = memoryview(message)
        while rest:
            self._wait([], [self.process.stdin], deadline, seconds)
            try:
                rest = rest[os.write(self.process.stdin.fileno(), rest[:1 << 16]):]
            except BlockingIOError:
                pass
            except OSError:
                raise Ended(self._end()) from None

    def _read(self, count, deadline, seconds):
        found = bytearray()
        while len(found) < count:
            self._wait([self.process.stdout], [], deadline, seconds)
            try:
                part = os.read(self.process.stdout.fileno(), min(count - len(found), 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                raise Ended(self._end())
            found += part
        return bytes(found)

    def _wait(self, readers, writers, deadline, seconds):
        """Wait until a pipe is ready, and look at what the sandbox uses meanwhile."""
        while True:
            if self.room.stopped:
                raise Stopped
            left = deadline - time.monotonic()
            if left <= 0:
                raise Ended(f"it took longer than {seconds:.3g} s")
            ready = any(select.select(readers, writers, [], min(left, TICK))[:2])
            if time.monotonic() - self.looked > TICK:  # also at one that answers byte by byte
                self._look()
                self.looked = time.monotonic()
            if ready:
                return

    def _look(self):
        if self.room.kind == "container":  # the engine itself enforces the limits
            return
        try:
            first = psutil.Process(self.process.pid)
            family = [first, *first.children(recursive=True)]
        except psutil.Error:
            return
        if len(family) > self.limits.processes:
            raise Ended(f"it started more than {self.limits.processes} processes")
        used = threads = 0
        for process in family:
            with contextlib.suppress(psutil.Error):
                used += process.memory_info().rss
                threads += process.num_threads()
        if threads > 8 * self.limits.processes:
            raise Ended(f"it started more than {8 * self.limits.processes} threads")
        if used > self.limits.memory:
            raise Ended(f"it used more than {self.limits.memory / (1 << 30):g} GB of memory")

    def _end(self):
        """Why the process is gone, as a clause."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed the way to the grader"
        if code in (0, 1) or 0 < code < 126:
            return f"it ended Python (exit code {code})"
        number = code - 128 if code > 128 else -code
        return {
            9: "it was killed (memory or time)", 11: "Python crashed (segmentation fault)",
            24: "its computing time was used up", 6: "Python crashed (abort)",
        }.get(number, f"it ended Python (signal {number})")

    def _complaint(self):
        self.errors.seek(0)
        lines = self.errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


QUIET = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _site_folders():
    """The folders from which this Python takes torch and the other packages notebooks use."""
    found = []
    for name in NEEDED:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:
            folder = Path(spec.origin).parents[1]
            if folder not in found:
                found.append(folder)
    return found


def _python_folders():
    """What Python needs to start and to import: its own folders and the system's libraries."""
    own = [sys.prefix, sys.base_prefix, *map(str, _site_folders())]
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]
    if any(folder in ("/usr", "/usr/local") for folder in own):
        system = ["/usr", *system]
    found = []
    for folder in [*system, *own]:
        if not any(Path(folder).is_relative_to(known) for known in found):
            found.append(folder)
    return found


def _secrets(folder):
    """Places inside a mounted folder that hold references: this package, and its checkout."""
    place = PACKAGE.parent if (PACKAGE.parent / "solutions").is_dir() else PACKAGE
    return [str(place)] if place.is_relative_to(folder) else []
