"""A hub on this machine: folders as model repositories, with the endpoints that huggingface_hub asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """What was asked of the server: the bytes of each file that left it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        self.sent: dict[str, int] = {}

    def weights_sent(self) -> int:
        """Bytes of weight files."""
        return sum(n for name, n in self.sent.items() if name.endswith((".safetensors", ".bin")))


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    """Serves ``root/OWNER/NAME`` as the model OWNER/NAME on the loopback."""
    hub = Hub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if is_api else parts
        folder = self.hub.root / owner / name
        commit = hashlib.sha1(f"{owner}/{name}".encode(), usedforsecurity=False).hexdigest()
        if not folder.is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
        elif is_api:
            files = sorted(p for p in folder.iterdir() if p.is_file())
            if rest[:1] == ["tree"]:
                document: Any = [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _etag(p)} for p in files
                ]
            else:
                document = {
                    "id": f"{owner}/{name}",
                    "sha": commit,
                    "siblings": [{"rfilename": p.name} for p in files],
                }
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"}, body=body)
        else:
            self._file(folder / "/".join(rest[2:]), commit, f"{owner}/{name}/{'/'.join(rest[2:])}", body=body)

    def _file(self, file: Path, commit: str, name: str, *, body: bool) -> None:
        headers = {"X-Repo-Commit": commit}
        if not file.is_file():
            self._send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"}, body=body)
            return
        data, status = file.read_bytes(), 200
        headers |= {"ETag": f'"{_etag(file)}"', "Accept-Ranges": "bytes"}
        if (asked := self.headers.get("Range")) is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = min(len(data), int(last) + 1) if last else len(data)
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            data, status = data[int(first) : end], 206
        if body:
            self.hub.sent[name] = self.hub.sent.get(name, 0) + len(data)
        self._send(status, data, headers, body=body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()
