"""A file server on this machine that fails in a way of one's choice.

The first part of a request's path is the way, the rest names the file: /cut/images.gz breaks off in
the middle of images.gz.
"""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WAYS = ("503", "html", "cut", "wrong", "silent", "trickle", "trickling-head")


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        _, way, name = self.path.split("/", 2)
        self.server.requests.append((way, name))
        with contextlib.suppress(OSError):  # whoever asked has given up
            self.answer(way, self.server.files[name])

    def answer(self, way, body):
        wait = self.server.closing.wait
        if way == "503":
            self.send_error(503)
        elif way == "html":
            self.send(b"<html><body>Please accept our cookies.</body></html>", kind="text/html")
        elif way == "cut":
            self.send(body[: len(body) // 2], length=len(body))
        elif way == "wrong":
            self.send(bytes(255 - byte for byte in body))
        elif way == "silent":
            wait()
        elif way == "trickle":
            self.send(b"", length=len(body))
            for i in range(len(body)):
                self.wfile.write(body[i : i + 1])
                if wait(0.02):
                    return
        elif way == "trickling-head":
            self.send_response(200)
            self.flush_headers()
            while not wait(0.02):
                self.wfile.write(b"x")
        elif way == "slow":  # 16 KiB every tenth of a second: slow, and well
            self.send(b"", length=len(body))
            for i in range(0, len(body), 2**14):
                self.wfile.write(body[i : i + 2**14])
                wait(0.1)
        else:
            assert way == "good", way
            self.send(body)

    def send(self, body, length=None, kind="application/gzip"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class FaultyServer(ThreadingHTTPServer):
    """Serves `files` (name -> bytes); `requests` lists the (way, name) that were asked for."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.requests, self.closing = files, [], threading.Event()

    def mirror(self, way):
        """The address of a mirror that fails in this way, or "good"; "down" is a closed port."""
        if way == "down":
            with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as other:
                return f"http://127.0.0.1:{other.server_port}/"  # closed when the block ends
        return f"http://127.0.0.1:{self.server_port}/{way}/"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.shutdown()
        self.server_close()
