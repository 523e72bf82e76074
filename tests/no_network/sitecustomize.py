"""Python reads this at start when its folder is on PYTHONPATH: no connection leaves the machine.

The tests put it there for every kernel and command that they start, so that "no network" is true on
every system and not only where a firewall says so. Loopback stays open: tests run servers there.
"""

import importlib.machinery
import importlib.util
import ipaddress
import os
import runpy
import socket
import sys

REASON = "The tests run without network"


def _is_here(host):
    """Whether a host (str, bytes or None) is this machine."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return host == socket.gethostname()


def _guarded(name):
    original = getattr(socket.socket, name)

    def guarded(self, *args):
        # connect(address), connect_ex(address), sendto(data[, flags], address), sendmsg(…, address)
        address = args[-1] if args else None
        internet = self.family in (socket.AF_INET, socket.AF_INET6)
        if internet and isinstance(address, tuple) and not _is_here(address[0]):
            raise OSError(f"{REASON}: {name} to {address[0]} was refused.")
        return original(self, *args)

    return guarded


def refuse():
    """Let sockets of this process reach this machine only; asking twice changes nothing."""
    if getattr(socket, "gencourse_refuses", False):
        return
    socket.gencourse_refuses = True
    for name in ("connect", "connect_ex", "sendto", "sendmsg"):
        if hasattr(socket.socket, name):  # Windows has no sendmsg
            setattr(socket.socket, name, _guarded(name))
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        if not _is_here(host):
            raise socket.gaierror(socket.EAI_NONAME, f"{REASON}: {host} was not looked up")
        return resolve(host, *args, **kwargs)

    socket.getaddrinfo = getaddrinfo


def _run_the_one_behind():
    """This file hides the system's or the environment's own sitecustomize, so run that too."""
    here = os.path.realpath(os.path.dirname(__file__))
    rest = [p for p in sys.path if os.path.realpath(p) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if spec and spec.loader:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


refuse()
if __name__ == "sitecustomize":
    _run_the_one_behind()
    if first := os.environ.get("GENCOURSE_TEST_FIRST"):  # see tests/warm.py
        runpy.run_path(first)
