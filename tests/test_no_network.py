"""The tests' promise to need no network is kept by refusing it, here and in every process."""

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

OUTSIDE = "192.0.2.1"  # reserved for documentation (RFC 5737): nobody is there
HERE = Path(__file__).parent


def test_names_and_addresses_outside_are_refused_at_once():
    with pytest.raises(socket.gaierror, match="without network"):
        socket.create_connection(("example.org", 80), timeout=5)
    with pytest.raises(urllib.error.URLError, match="without network"):
        urllib.request.urlopen(f"http://{OUTSIDE}/", timeout=5)
    with socket.socket() as outside:
        with pytest.raises(OSError, match="without network"):
            outside.connect((OUTSIDE, 80))
        with pytest.raises(OSError, match="without network"):
            outside.connect_ex((OUTSIDE, 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        with pytest.raises(OSError, match="without network"):
            outside.sendto(b"hello", (OUTSIDE, 53))


def test_this_machine_is_still_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"))
        thread.start()
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client:
            assert client.recv(5) == b"hello"
        thread.join()


def python(program, **env):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | env
    )
    return done.stdout.strip(), done.stderr


def test_commands_and_kernels_inherit_the_refusal():
    program = f"import socket; socket.create_connection(('{OUTSIDE}', 80), timeout=5)"
    assert "without network" in python(program)[1]


def test_the_sitecustomize_behind_ours_still_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.marked = __name__\n")
    path = os.pathsep.join([str(HERE / "no_network"), str(tmp_path)])
    program = "import sys, socket; print(sys.marked, socket.gencourse_refuses)"
    assert python(program, PYTHONPATH=path)[0] == "sitecustomize True"


def test_kernels_see_the_smoke_profile_and_no_real_data():
    assert os.environ["GENCOURSE_PROFILE"] == "smoke" and os.environ["GENCOURSE_STATIC"] == "1"
    assert "GENCOURSE_DATA" not in os.environ
    assert Path(os.environ["GENCOURSE_RUNS"]).name == "test_no_network"
