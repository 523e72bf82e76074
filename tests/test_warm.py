"""A fork of the warm server is to its command what a fresh process is, and ends as one does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import classroom
import psutil
import pytest
import warm

pytestmark = pytest.mark.usefixtures("warm_server")
LOOK = """
import json, os, signal, sys, threading
import torch
seen = {
    "argv": sys.argv, "path": sys.path, "folder": os.getcwd(), "name": __name__,
    "main": sys.modules["__main__"].__dict__ is globals(), "environment": dict(os.environ),
    "executable": sys.executable, "course": "gencourse" in sys.modules,
    "threads": [torch.get_num_threads(), len(os.listdir("/proc/self/task"))],
    "open": sorted(os.listdir("/proc/self/fd")), "leads": os.getsid(0) == os.getpid(),
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "others": [signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGHUP)],
    "streams": [[s.fileno(), s.encoding, s.errors, s.line_buffering] for s in
                (sys.stdin, sys.stdout, sys.stderr)],
    "asked": sys.stdin.read(), "type": str(torch.get_default_dtype()),
}
print(json.dumps(seen))
print("complaint", file=sys.stderr)
"""


def look(tmp_path, kind, fresh):
    """What a process finds in its world, started as `python -c`, as a script or as `python -m`."""
    (tmp_path / "looking.py").write_text(LOOK)
    command = {"-c": ["-c", LOOK], "-m": ["-m", "looking"], "script": ["looking.py"]}[kind]
    env = os.environ | {"PYTHONPATH": os.environ["PYTHONPATH"] + ":/nowhere", "MINE": "é"}
    done = warm.run(*command, "--one", "2", cwd=tmp_path, env=env, fresh=fresh)
    assert (done.returncode, done.stderr) == (0, "complaint\n")
    seen = json.loads(done.stdout)
    for name in [k for k in seen["environment"] if k not in env]:
        del seen["environment"][name]  # what packages set for themselves
    return seen


@pytest.mark.parametrize("kind", ["-c", "-m", "script"])
def test_a_fork_finds_the_world_of_a_fresh_process(tmp_path, kind):
    fresh = look(tmp_path, kind, fresh=True)
    fresh["interrupt"] = True  # a fork hears Ctrl-C even where the tests run in the background
    assert look(tmp_path, kind, fresh=False) == fresh


def test_every_fork_draws_its_own_numbers():
    program = "import random, numpy.random, torch\n"
    program += "print(random.random(), numpy.random.rand(), torch.rand(1))"
    assert len({warm.run("-c", program).stdout for _ in range(3)}) == 3


@pytest.mark.parametrize("program", [
    "pass", "import sys; sys.exit(7)", "import sys; sys.exit('no')", "raise SystemExit", "1 / 0",
    "raise KeyboardInterrupt", "def f(): raise ValueError('é')\nf()", "x = ",
    "import os; os._exit(4)", "import os; os.kill(os.getpid(), 9)", "import os; os.abort()",
    "import sys; print('half', end=''); sys.stdout.close()",
    "import atexit; atexit.register(print)",
    "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.3), print(1))).start()",
], ids=lambda program: program.split("\n")[-1])
def test_a_fork_ends_as_a_fresh_process(program):
    fork, fresh = (warm.run("-c", program, fresh=fresh) for fresh in (False, True))
    assert (fork.returncode, fork.stdout) == (fresh.returncode, fresh.stdout)
    assert fork.stderr == fresh.stderr


SLEEPS = "import time\nwhile True:\n    time.sleep(1)"


def test_a_signal_reaches_it_and_killing_ends_it_at_once():
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = warm.Process("-c", "print('here', flush=True)\n" + SLEEPS)
        while "here" not in process.said()[0]:
            time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == -number and not psutil.pid_exists(process.pid)


def test_it_ends_when_nobody_waits_for_it_and_takes_its_own_with_it():
    program = f"import os, time\nprint(os.fork(), flush=True)\n{SLEEPS}"
    process = warm.Process("-c", program)
    while len(pids := [int(x) for x in process.said()[0].split()]) < 2:
        time.sleep(0.01)
    family = [psutil.Process(pid) for pid in {process.pid, *pids} - {0}]
    process.wire.close()
    assert len(family) == 2 and psutil.wait_procs(family, timeout=60)[1] == []


def test_a_stand_in_speaks_for_it_and_dies_with_it():
    command = [*warm.PYTHON, "-u", "-c", "import sys; print(sys.stdin.read()); sys.exit(5)"]
    done = subprocess.run(command, input="words", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "words\n")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        program = f"import os; print(os.getpid(), flush=True)\n{SLEEPS}"
        stand_in = subprocess.Popen([*warm.PYTHON, "-c", program], stdout=subprocess.PIPE)
        process = psutil.Process(int(stand_in.stdout.readline()))
        stand_in.send_signal(number)
        assert stand_in.wait(60) == -number
        process.wait(60)


def test_who_is_killed_while_asking_leaves_the_server_as_it_was():
    """A test kills its processes at random moments, those too that have not asked whole."""
    request = json.dumps([["-c", ""], "/", dict(os.environ)]).encode()
    whole = warm.NUMBER.pack(len(request)) + request
    for said in (b"", whole[:5], whole[: warm.NUMBER.size], whole[:-9], whole):
        for _ in range(3):
            wire = socket.socket(socket.AF_UNIX)
            wire.connect(os.environ["GENCOURSE_TEST_SERVER"])
            if said:
                socket.send_fds(wire, [said], [0, 1, 2])
            wire.close()
    assert warm.run("-c", "print('here')").stdout == "here\n"


def test_what_is_read_at_the_start_is_not_changed_afterwards():
    program = "import sys; print('torch' in sys.modules, sys.flags.dont_write_bytecode)"
    assert warm.run("-c", program).stdout == "True 0\n"
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    assert warm.run("-c", program, env=env).stdout == "False 1\n"


def test_the_rooms_of_a_class_are_warm(tmp_path):
    """What Python reads when it starts is the server's there: else each student costs seconds."""
    room = classroom.WarmRoom(tmp_path, classroom.LIMITS)
    assert warm.at_start(room.environment()) == warm.at_start(os.environ)


def test_a_file_that_is_to_come_first_comes_first(tmp_path):
    (tmp_path / "first.py").write_text("import sys\nsys.first = True")
    env = os.environ | {"GENCOURSE_TEST_FIRST": str(tmp_path / "first.py")}
    for fresh in (False, True):
        done = warm.run("-c", "import sys; print(sys.first)", env=env, fresh=fresh)
        assert done.stdout == "True\n", done.stderr


def test_a_fork_trains_what_a_fresh_process_trains(tmp_path):
    """Bit for bit, although they order sets differently."""
    command = ["-m", "gencourse", "train", "dcgan", "--data", "digits", "--width", "4"]
    weights = set()
    for fresh in (False, True):
        out = tmp_path / str(fresh)
        done = warm.run(*command, "--steps", "4", "--out", out, fresh=fresh)
        assert done.returncode == 0, done.stderr
        weights.add((out / "generator.safetensors").read_bytes())
    assert len(weights) == 1


def test_the_kernels_of_notebooks_are_forks():
    from ipykernel.kernelspec import get_kernel_dict

    assert get_kernel_dict()["argv"][: len(warm.PYTHON)] == warm.PYTHON
    assert sys.executable == warm.PYTHON[0]
