"""Plays a student's notebook inside the sandbox: runs its cells, calls its answers, sends values.

Run as `python -m gencourse.checks.play`. It reads requests on standard input and answers each on
standard output, as messages of `values`. What asks, and what decides, is outside.
"""

import os
import re
import sys

from gencourse.checks import inside, values


class Player:
    """A notebook's namespace, and the answers found in it."""

    def __init__(self, wanted):
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "NoColor"
        self.shell = InteractiveShell.instance(config=config)
        # No network to install from, and no window to draw in: those lines do nothing.
        self.shell.system = self.shell.getoutput = lambda command, *_, **__: None
        for name in ("pip", "conda", "mamba", "uv", "matplotlib"):
            self.shell.register_magic_function(lambda line: None, "line", name)
        self.wanted = wanted
        self.answers = {}

    def cell(self, source):
        """Run a cell and look for answers. Returns: {"kind", "message"} of its error, or None."""
        result = self.shell.run_cell(source, store_history=False)
        for name in self.wanted:
            found = self.shell.user_ns.get(name)
            if name in self.answers and inside.is_blank(found):
                # A copy of the blank cell, as Colab makes them, does not undo an earlier answer.
                self.shell.user_ns[name] = self.answers[name]
            elif callable(found):
                self.answers[name] = found
        error = result.error_before_exec or result.error_in_exec
        return error and {"kind": type(error).__name__, "message": str(error)[:500]}

    def call(self, name, cases, gradient):
        """What the answer `name` does with each case, or None where there is no such answer."""
        if name not in self.answers:
            return None
        answer = self.answers[name]
        return [inside.outcome(name, answer, case, gradient)._asdict() for case in cases]


def limit(memory, file_size, seconds, tasks):
    """Bound this process for good: bytes of memory, bytes of a file, seconds of work.

    tasks: threads of this process and of all that it starts, where the kernel counts them apart
    from the same user's outside.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _counted_apart():
        resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))  # sockets hold memory of the kernel's


def _counted_apart():
    """Whether this is a user namespace of its own, on a Linux (5.14) that counts by those."""
    try:
        with open("/proc/self/uid_map", encoding="utf-8") as file:
            own = file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False
    release = re.findall(r"\d+", os.uname().release)  # "6.1-rc3" as well
    return own and tuple(map(int, release[:2])) >= (5, 14)


def serve(source, sink):
    """Answer requests until there are no more. A forked child of the notebook answers none."""
    process, player = os.getpid(), None
    while len(header := source.read(values.LENGTHS.size)) == values.LENGTHS.size:
        text, body = map(source.read, values.lengths(header))
        request = values.unpack(text, body)
        number, do, given = request["number"], request["do"], request["given"]
        if do == "start":
            limit(*given["limits"])
            player = Player(given["wanted"])
            result = None
        else:
            result = getattr(player, do)(**given)
        if os.getpid() != process:
            os._exit(0)
        sink.write(values.pack({"number": number, "result": values.plain(result)}))
        sink.flush()


def main():
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # what the notebook prints, asks or complains about goes nowhere
        os.dup2(nothing, stream)
    serve(source, sink)
    sys.stdout.flush()
    os._exit(0)  # threads and exit handlers of the notebook have had their time


if __name__ == "__main__":
    main()
