"""Models of a hub (here a server on the loopback): settings come first, weights only where all is well."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import MakeModel

_REVISION = "1" * 40


def _id(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


class _Hub(http.server.BaseHTTPRequestHandler):
    """What huggingface_hub asks for: the list of files of a repository, and the files."""

    root: Path
    fetched: list[str]

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def _answer(self, *, is_head: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) > 3:
            files = sorted(p for p in (self.root / parts[3]).glob("*") if p.is_file())
            answer: Any = {
                "id": f"org/{parts[3]}",
                "sha": _REVISION,
                "siblings": [{"rfilename": p.name} for p in files],
            }
            if "tree" in parts:
                answer = [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _id(p.read_bytes())}
                    for p in files
                ]
            status, body = (200 if files else 404), json.dumps(answer).encode()
        elif parts[0] == "api":
            status, body = 404, b""
        else:
            file = self.root / parts[1] / parts[-1]
            status, body = (200, file.read_bytes()) if file.is_file() else (404, b"")
            if not is_head:
                self.fetched.append(f"{parts[1]}/{parts[-1]}")
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Repo-Commit", _REVISION)
        self.send_header("ETag", f'"{_id(body)}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not is_head:
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    handler = type("Handler", (_Hub,), {"root": tmp_path, "fetched": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def opened(hub: http.server.ThreadingHTTPServer, tmp_path: Path, *references: str) -> str:
    """What opening ``references`` says, in a process of its own: the hub's address is read at import."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    script = (
        "import sys\n"
        "from evomerge.engine.sources import open_sources\n"
        "from evomerge.errors import UserError\n"
        "try:\n    print(sorted(open_sources({r: r for r in sys.argv[1:]})))\n"
        "except UserError as exception:\n    print(exception)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, *references],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_no_weights_are_downloaded_where_a_configuration_is_wrong(
    hub: http.server.ThreadingHTTPServer, make_model: MakeModel, tmp_path: Path
) -> None:
    make_model("good", 1)
    quantized = make_model("quantized", 2) / "config.json"
    marked = json.loads(quantized.read_text()) | {"quantization_config": {"quant_method": "awq"}}
    quantized.write_text(json.dumps(marked))
    (make_model("broken", 3) / "config.json").unlink()
    said = opened(hub, tmp_path, "org/good", "org/quantized", "org/absent", str(tmp_path / "broken"))
    assert said.startswith("3 models cannot be read:")
    assert "org/quantized: is quantized (awq)" in said
    assert "org/absent: there is neither such a folder nor such a model" in said
    assert "broken/config.json" in said
    handler = hub.RequestHandlerClass
    assert issubclass(handler, _Hub)
    assert "good/config.json" in handler.fetched
    assert not [name for name in handler.fetched if "safetensors" in name]


def test_hub_models_are_opened_where_all_is_well(
    hub: http.server.ThreadingHTTPServer, make_model: MakeModel, tmp_path: Path
) -> None:
    make_model("good", 1)
    assert opened(hub, tmp_path, "org/good") == "['org/good']\n"
