"""A camera that speaks HTTP, for tests: MJPEG as it is pushed by IP cameras, files as live streams, HLS playlists."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

Answer = tuple[str, list[bytes], float]


class WebCamera:
    """Used as a context manager by the test's thread; answers in threads of its own, and ends what it serves.

    `paths` are what it serves: content type, pieces, and seconds between one piece and the next.
    """

    def __init__(self) -> None:
        self.paths: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.login: str | None = None
        self.ended = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="web-camera")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def url(self, path: str) -> str:
        """Where `path` is served."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def mjpeg(self, path: str, jpegs: list[bytes], interval_s: float = 0.02) -> str:
        """Serve pictures as `multipart/x-mixed-replace`; the URL comes back."""
        pieces = [
            b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
            for jpeg in jpegs
        ]
        self.paths[path] = ("multipart/x-mixed-replace; boundary=frame", pieces, interval_s)
        return self.url(path)

    def file(self, path: str, file: Path, kind: str = "video/mp2t") -> str:
        """Serve a file at once; the URL comes back."""
        self.paths[path] = (kind, [file.read_bytes()], 0.0)
        return self.url(path)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request; called by the server's thread for it."""
        self.requests.append(request.path)
        if self.login is not None and request.headers.get("Authorization") != self.login:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="camera"')
            request.end_headers()
            return
        if request.path not in self.paths:
            request.send_error(404)
            return
        kind, pieces, interval_s = self.paths[request.path]
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.end_headers()
        for piece in pieces:
            try:
                request.wfile.write(piece)
            except OSError:
                return
            if interval_s and self.ended.wait(interval_s):
                return
