"""The closed room: what can be seen and done in it, what ends it, and when there is none."""

import os
import stat
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import torch
import warm

from gencourse.classroom import sandbox
from gencourse.runtime import UserError

LIMITS = sandbox.Limits(cell=20, call=20)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    sandbox.course(folder)
    return folder


@pytest.fixture(scope="module")
def box(course, bubblewrap):
    with sandbox.Room(course, LIMITS).open(["look"]) as box:
        yield box


def look(box, body):
    """What a function with this body returns inside."""
    source = "def look(*_):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    assert box.ask("cell", {"source": source}, 20) is None
    (outcome,) = box.ask("call", {"name": "look", "cases": [{}], "gradient": []}, 20)
    assert outcome["error"] is None, outcome
    return outcome["value"]


def test_values_go_in_and_come_out(box):
    x = torch.randn(3, 4, dtype=torch.float64)
    box.ask("cell", {"source": "def look(x, n): return {'y': 2 * x, 'n': (n, None, 'é')}"}, 20)
    cases = [{"x": x, "n": 3}]
    (outcome,) = box.ask("call", {"name": "look", "cases": cases, "gradient": ["x"]}, 20)
    assert torch.equal(outcome["value"]["y"], 2 * x) and outcome["value"]["n"] == (3, None, "é")
    weights = torch.arange(1, 13).cos().double().view(3, 4)
    torch.testing.assert_close(outcome["gradients"]["x"], 2 * weights)


def test_nothing_can_be_read_but_python_and_the_helpers(box):
    walk = """
    import os
    found = []
    for top in ("/", "/home", "/root", "/etc", "/tmp", "/var", "/mnt", "/opt", "/srv", "/course"):
        for folder, folders, files in os.walk(top):
            folders[:] = [f for f in folders if f not in
                          ("proc", "sys", "dev", "usr", "lib", "lib64", "site-packages")]
            found += [os.path.join(folder, f) for f in files]
    return found
    """
    files = look(box, walk)
    here = sandbox.PACKAGE
    for path in (here / "divergences.py", here / "checks" / "core.py",
                 here / "checks" / "chapter_01.py", Path(__file__).resolve()):
        assert path.exists() and str(path) not in files, path
    assert not [f for f in files if "chapter_0" in f or "solutions" in f or f.endswith(".csv")]
    shipped = {Path(f).name for f in files if f.startswith("/course/")}
    names = {f"{n}.py" for n in sandbox.SHIPPED + sandbox.SHIPPED_CHECKS}
    assert shipped == names | {"__init__.py"}


def test_the_course_inside_has_no_answers(box):
    tried = """
    import importlib
    found = []
    for name in ("losses", "divergences", "evaluate", "latent", "nets", "train", "grade",
                 "checks.core", "checks.chapter_01"):
        try:
            importlib.import_module("gencourse." + name)
            found.append(name)
        except ImportError:
            pass
    from gencourse.checks import check
    check("kl", None)
    return found
    """
    assert look(box, tried) == []


def test_nothing_can_be_written_but_a_little_in_tmp(box):
    written = """
    import os
    done = []
    for folder in ("/", "/course", "/usr/lib", "/dev", "/dev/shm", "/etc", "/tmp"):
        try:
            open(os.path.join(folder, "x"), "w").write("x")
            done.append(folder)
        except OSError:
            pass
    return done
    """
    assert look(box, written) == ["/tmp"]
    size = "import os\ns = os.statvfs('/tmp')\nreturn s.f_blocks * s.f_frsize"
    assert look(box, size) == 2 * LIMITS.file_size


def test_no_network_no_secrets_no_other_processes(box, monkeypatch):
    reach = """
    import socket
    try:
        socket.create_connection(("127.0.0.1", 22), timeout=3)
        return "connected"
    except OSError as error:
        interfaces = [name for _, name in socket.if_nameindex()]
        return interfaces, type(error).__name__
    """
    assert look(box, reach) == (["lo"], "ConnectionRefusedError")
    assert "GENCOURSE_TEST_FOLDER" in os.environ
    variables = look(box, "import os\nreturn sorted(os.environ)")
    assert "GENCOURSE_TEST_FOLDER" not in variables and "PATH" not in variables
    pids = look(box, "import os\nreturn [p for p in os.listdir('/proc') if p.isdigit()]")
    assert len(pids) <= 2


def test_it_has_no_rights_that_it_could_use(box):
    status = look(box, "return open('/proc/self/status').read()")
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status


def test_the_machine_cannot_be_changed_even_by_root(box):
    tried = """
    import os
    done = []
    for name in ("kernel/core_pattern", "kernel/hostname", "vm/drop_caches"):
        try:
            os.close(os.open("/proc/sys/" + name, os.O_WRONLY))
            done.append(name)
        except OSError:
            pass
    open("/tmp/mine", "w").close()
    os.chmod("/tmp/mine", 0o600)
    return done, os.stat("/tmp/mine").st_mode & 0o777
    """
    done, mode = look(box, tried)
    assert done == [] and mode == 0o644, "device files have the machine's own rights"


def test_no_memory_without_an_owner_and_nothing_stays_behind(box, seccomp):
    tried = """
    import ctypes, os
    libc, done = ctypes.CDLL(None), []
    try:
        os.close(os.memfd_create("x"))
        done.append("memfd")
    except OSError:
        pass
    if libc.shmget(0, ctypes.c_size_t(1 << 20), 0o1600) >= 0:
        done.append("shared memory")
    add_key = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
    if libc.syscall(add_key, b"user", b"x", b"x", ctypes.c_size_t(1), ctypes.c_int(-3)) >= 0:
        done.append("a key in the session of whoever grades")
    if libc.unshare(0x10000000) == 0:
        done.append("a user namespace, in which to mount")
    for process in ("self", "1"):
        if "Seccomp:\\t2" not in open(f"/proc/{process}/status").read():
            done.append(process)
    return done
    """
    assert look(box, tried) == []


def test_limits_hold_for_one_that_answers_byte_by_byte(course, bubblewrap):
    source = """
    import os, struct, time
    pipe = 4  # the player's way to the grader
    for _ in range(20):
        if os.fork() == 0:
            time.sleep(60)
    os.write(pipe, struct.pack("<QQ", 1 << 20, 0))
    while True:
        os.write(pipe, b" ")
    """
    with sandbox.Room(course, LIMITS._replace(processes=8)).open(["look"]) as box:
        with pytest.raises(sandbox.Ended, match="more than 8 processes"):
            box.ask("cell", {"source": textwrap.dedent(source)}, 3)


def test_the_kernel_stops_a_fork_bomb_that_nobody_looks_at(
    course, bubblewrap, counted_tasks, monkeypatch
):
    bomb = """
    import os, time
    for _ in range(9):
        try:
            os.fork()
        except OSError:
            pass
    time.sleep(60)
    """
    room = sandbox.Room(course, LIMITS._replace(processes=4))
    with room.open(["look"]) as box:
        monkeypatch.setattr(box, "_look", lambda: None)
        with pytest.raises(sandbox.Ended, match="longer than 3 s"):
            box.ask("cell", {"source": textwrap.dedent(bomb)}, 3)
        inside = psutil.Process(box.process.pid).children(recursive=True)
        assert 32 < len(inside) <= 64
    assert psutil.wait_procs(inside, timeout=10)[1] == []
    assert not (box.cgroup and box.cgroup.exists())


def test_threads_are_limited(course, bubblewrap):
    source = """
    import threading, time
    threading.stack_size(1 << 16)
    for _ in range(200):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    time.sleep(20)
    """
    with sandbox.Room(course, LIMITS._replace(processes=8)).open(["look"]) as box:
        with pytest.raises(sandbox.Ended, match="more than 64 threads"):
            box.ask("cell", {"source": textwrap.dedent(source)}, 15)


def test_leaving_ends_everything_that_was_started(course, box):
    before = set(psutil.Process().children(recursive=True))
    with sandbox.Room(course, LIMITS).open(["look"]) as other:
        source = """
        import os, time
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                time.sleep(1000)
        """
        assert other.ask("cell", {"source": textwrap.dedent(source)}, 20) is None
        inside = set(psutil.Process().children(recursive=True)) - before
        assert len(inside) >= 4
    assert psutil.wait_procs(inside, timeout=10)[1] == []


def test_a_batch_that_is_stopped_while_a_sandbox_starts_leaves_nothing(course, bubblewrap):
    room, before = sandbox.Room(course, LIMITS), set(psutil.Process().children(recursive=True))
    room.stopped = True
    with pytest.raises(sandbox.Stopped):
        room.open(["look"])
    left = set(psutil.Process().children(recursive=True)) - before
    assert psutil.wait_procs(left, timeout=5)[1] == []


# --- rooms ----------------------------------------------------------------------------------------


def test_without_a_sandbox_it_says_what_to_do(course, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="bwrap.*is not installed.*apt install.*--unsafe"):
        sandbox.Room(course, LIMITS)
    with pytest.raises(UserError, match="needs Docker or Podman; neither is here"):
        sandbox.Room(course, LIMITS, image="gencourse")


def program(path, text):
    path.write_text(f"#!{sys.executable}\nimport sys, os, json\n{textwrap.dedent(text)}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_bubblewrap_that_may_not_work_says_why(course, monkeypatch, tmp_path):
    program(tmp_path / "bwrap", """
        print("bwrap: setting up uid map: Permission denied", file=sys.stderr); sys.exit(1)""")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="uid map: Permission denied.*AppArmor"):
        sandbox.Room(course, LIMITS)


def test_a_container_is_run_without_network_and_with_limits(course, monkeypatch, tmp_path):
    """Against a stand-in that notes how it is called and then plays without a container."""
    program(tmp_path / "podman", f"""
        with open({str(tmp_path / "calls")!r}, "a") as file:
            file.write(json.dumps(sys.argv[1:]) + "\\n")
        if sys.argv[1] == "run":
            os.environ["PYTHONPATH"] = {str(course)!r}
            os.environ["MPLBACKEND"] = "agg"
            i = sys.argv.index("some-image")
            os.execv(sys.executable, [*{warm.PYTHON!r}, *sys.argv[i + 2:]])""")
    monkeypatch.setenv("PATH", str(tmp_path))
    room = sandbox.Room(course, LIMITS, image="some-image")
    with room.open(["look"]) as box:
        assert look(box, "return 1 + 1") == 2
    inspect, run, kill = (tmp_path / "calls").read_text().splitlines()
    assert '"image", "inspect", "some-image"' in inspect
    for option in ("--network=none", "--read-only", "--cap-drop=ALL", "--pids-limit=64",
                   f"--memory={LIMITS.memory}", f"--volume={course}:/course:ro", "--rm",
                   "--env=PYTHONPATH=/course", "--security-opt=no-new-privileges"):
        assert f'"{option}"' in run, option
    assert f'"kill", "{box.name}"' in kill


def test_unsafe_runs_without_a_sandbox_but_in_another_process(course):
    with sandbox.Room(course, LIMITS, unsafe=True).open(["look"]) as box:
        assert look(box, "import os\nreturn os.getpid()") != os.getpid()
        assert look(box, "import gencourse\nreturn gencourse.__file__").startswith(str(course))
        with pytest.raises(sandbox.Ended, match="longer than 1 s"):
            box.ask("cell", {"source": "while True: pass"}, 1)


def test_a_python_that_does_not_start_is_the_teachers_trouble(course, monkeypatch, tmp_path):
    program(tmp_path / "broken", 'print("no torch here", file=sys.stderr); sys.exit(3)')
    room = sandbox.Room(course, LIMITS, unsafe=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "broken"))
    with pytest.raises(UserError, match="does not start: it ended Python .* no torch here"):
        room.open(["look"])
