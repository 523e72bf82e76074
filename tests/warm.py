"""A Python that has imported torch already: each command under test is a fork of it.

Starting Python with torch costs seconds, and the tests do it hundreds of times. A server imports
the packages once, in one thread, and for each request forks a child that becomes the command: its
arguments, environment, folder, streams, seeds and signals are those of a fresh process, and it is
a process like any other: `kill -9` ends it at once. The course's own package comes after the fork.

    done = warm.run("-m", "gencourse", "train", "vae", …)           # like subprocess.run
    process = warm.Process("-m", "gencourse", "train", "vae", …)    # like subprocess.Popen
    [*warm.PYTHON, "-m", "ipykernel_launcher", …]                   # where a command is wanted

What a fork can't show is tested in a fresh process (`fresh=True`): which modules are imported, what
they say meanwhile, and the order of sets, which all forks share. Where there is no server (anything
but Linux), or a variable that Python or torch reads at its start is not the server's, a fresh
process is started instead. Each child has a session of its own and ends when nobody waits for it.
GENCOURSE_TEST_FIRST names a Python file that every Python under test runs before its command.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import random
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

PYTHON = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
IMPORTED = (
    "torch torch._dynamo torchvision accelerate safetensors.torch matplotlib.pyplot IPython typer "
    "ipykernel.kernelapp ipykernel.zmqshell ipywidgets sklearn.datasets scipy.stats pooch psutil "
    "nbformat pydantic.type_adapter PIL.BmpImagePlugin PIL.GifImagePlugin PIL.JpegImagePlugin"
)
AT_START = ("PYTHON", "PYTORCH", "TORCHDYNAMO", "TORCH_LOGS", "CUDA", "OMP_", "MKL_", "MPL", "LD_")
LATER = ("PYTHONPATH", "PYTHON_EXEC")
NUMBER = struct.Struct("<q")


# --- the side that asks ---------------------------------------------------------------------------


class Process:
    """A Python process with these arguments; pid, returncode and signals as subprocess.Popen has.

    streams: file numbers of stdin, stdout and stderr; by default nothing, and files for `said`.
    """

    def __init__(self, *arguments, cwd=None, env=None, streams=None, fresh=False):
        self.arguments, self.returncode, self.pid = [str(a) for a in arguments], None, 0
        env = dict(os.environ if env is None else env)
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open("wb+")) for path in self._files()]
            streams = streams or [file.fileno() for file in files]
            if (address := env.get("GENCOURSE_TEST_SERVER")) and not fresh:
                self.wire = socket.socket(socket.AF_UNIX)
                self.wire.connect(address)
                request = json.dumps([self.arguments, os.path.abspath(cwd or "."), env]).encode()
                socket.send_fds(self.wire, [NUMBER.pack(len(request))], streams)
                self.wire.sendall(request)
                self.pid = receive(self.wire)
            if not self.pid:
                self.wire = None
                self.popen = subprocess.Popen(
                    [sys.executable, *self.arguments], cwd=cwd, env=env, start_new_session=True,
                    **dict(zip(("stdin", "stdout", "stderr"), streams, strict=True)),
                )
                self.pid = self.popen.pid

    def _files(self):
        return [Path(self.folder.name) / name for name in ("in", "out", "err")]

    def wait(self, seconds=None):
        """Its exit code once it has ended: minus the signal, if one has ended it."""
        if self.returncode is None and self.wire:
            if not select.select([self.wire], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired(self.arguments, seconds)
            self.returncode = receive(self.wire)
            self.wire.close()
        elif self.returncode is None:
            self.returncode = self.popen.wait(seconds)
        return self.returncode

    def poll(self):
        """Its exit code, or None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))

    def said(self):
        """What it has written so far: (stdout, stderr)."""
        return tuple(path.read_text() for path in self._files()[1:])


def run(*arguments, seconds=300, **options):
    """Run a Python process to its end. Returns: subprocess.CompletedProcess with text."""
    process = Process(*arguments, **options)
    try:
        process.wait(seconds)
    finally:
        process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, *process.said())


def stand_in(arguments):
    """Be the command's process to whoever started this one: pass signals on, end as it ends."""
    process = Process(*arguments[arguments[0] == "-u" :], streams=[0, 1, 2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, _: process.send_signal(number))
    code = process.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def receive(wire):
    said = wire.recv(NUMBER.size, socket.MSG_WAITALL)
    if len(said) < NUMBER.size:
        raise RuntimeError("The server of warm processes is gone (tests/warm.py).")
    return NUMBER.unpack(said)[0]


# --- the server -----------------------------------------------------------------------------------


def start(address):
    """Start a server for this process and all below it, where there can be one.

    Returns: its process. It ends when its stdin is closed, so at the latest with this process.
    """
    if sys.platform != "linux" or len(address) > 100:  # a socket's name is short
        return None
    command = [sys.executable, os.path.abspath(__file__), "serve", address]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    server = subprocess.Popen(command, start_new_session=True, **pipes)
    server.stdout.readline()  # it listens
    os.environ["GENCOURSE_TEST_SERVER"] = address
    return server


def stop(server):
    if server:
        server.communicate()


def serve(address):
    """Fork for each request. Returns: the arguments, in the child that is to follow them."""
    listener, chooser = socket.socket(socket.AF_UNIX), selectors.DefaultSelector()
    listener.bind(address)
    listener.listen(100)
    print(flush=True)
    born = at_start(os.environ)  # packages add to it
    children = {}  # pid → (its wire, the file that can be read when it has ended)
    for watched in (0, listener):
        chooser.register(watched, selectors.EVENT_READ)
    while True:
        for key, _ in chooser.select():
            if key.fileobj == 0:  # the tests are over
                for pid in children:
                    end(pid)
                os._exit(0)
            elif key.fileobj is listener:
                import_all()  # only now: not every run of the tests asks for something
                wire, _ = listener.accept()
                header, streams, *_ = socket.recv_fds(wire, NUMBER.size, 3)
                try:
                    text = wire.recv(NUMBER.unpack(header)[0], socket.MSG_WAITALL)
                    arguments, folder, env = json.loads(text)
                except (OSError, ValueError, struct.error):  # who asked was killed while asking
                    for stream in streams:
                        os.close(stream)
                    wire.close()
                    continue
                pid = os.fork() if at_start(env) == born else None
                if pid == 0:
                    for opened in (chooser, listener, wire, *sum(children.values(), ())):
                        opened.close()
                    become(folder, env, streams)
                    return arguments
                for stream in streams:
                    os.close(stream)
                with contextlib.suppress(OSError):  # if nobody listens any more, its wire says so
                    wire.sendall(NUMBER.pack(pid or 0))
                if pid:
                    children[pid] = wire, open(os.pidfd_open(pid), "rb", buffering=0)
                    for watched in children[pid]:
                        chooser.register(watched, selectors.EVENT_READ, pid)
            elif (pid := key.data) in children:
                wire, ended = children[pid]
                chooser.unregister(key.fileobj)
                if key.fileobj is wire:  # nobody waits for it any more
                    end(pid)
                    continue
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(OSError):
                    wire.sendall(NUMBER.pack(code))
                with contextlib.suppress(KeyError):
                    chooser.unregister(wire)
                for opened in children.pop(pid):
                    opened.close()


def at_start(env):
    return {k: v for k, v in env.items() if k.startswith(AT_START) and k not in LATER}


def end(pid):
    for kill in (os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


@functools.cache
def import_all():
    for name in IMPORTED.split():
        with contextlib.suppress(ImportError):  # what is missing is missed where it is needed
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a child's collections don't copy what all share


def become(folder, env, streams):
    """Make this child what a fresh Python is before it looks at its arguments."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    os.chdir(folder)
    old, new = ([*filter(None, e.get("PYTHONPATH", "").split(":"))] for e in (os.environ, env))
    sys.path[:] = new + [entry for entry in sys.path[1:] if entry not in old]
    importlib.invalidate_caches()
    os.environ.clear()
    os.environ.update(env)
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) and torch.initial_seed() != 67280421310721:
        torch.seed()  # older versions begin with that number in every process


def follow(arguments):
    """What Python does with its command line: -c PROGRAM, -m MODULE or a script."""
    if first := os.environ.get("GENCOURSE_TEST_FIRST"):
        runpy.run_path(first)
    what, *rest = arguments
    if what == "-c":
        sys.argv, sys.path[:0] = ["-c", *rest[1:]], [""]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif what == "-m":
        sys.argv, sys.path[:0] = ["-m", *rest[1:]], [os.getcwd()]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:0] = arguments, [os.path.dirname(os.path.abspath(what))]
        runpy.run_path(what, run_name="__main__")


def end_as_python_ends(arguments):
    """Follow the arguments to the end, but don't take this Python apart: that costs a second."""
    code = 0
    try:
        follow(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code and stop.code is not code:
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error.with_traceback(theirs(error.__traceback__)), None)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # wait for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 255)


def theirs(traceback):
    """The part of a traceback that is not this file's."""
    while traceback and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        end_as_python_ends(serve(sys.argv[2]))
    else:
        stand_in(sys.argv[1:])
