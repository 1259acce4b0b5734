"""A real PostgreSQL server, where its programs are."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

PASSWORD = "s3cr@t/w:rd%20x"
"""Of the user ann; the user tester needs none."""

_databases = itertools.count()


@dataclass
class PostgresServer:
    """A server of the tests' own; it runs as another user where this one is root."""

    home: Path
    user: str | None
    port: int

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://tester@127.0.0.1:{self.port}/postgres"

    def url_with_password(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://ann:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        settings = f"-p {self.port} -k {self.home} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._control("-o", settings, "-l", self.home / "log", "start")

    def stop(self, mode: str = "fast") -> None:
        """``immediate`` is a crash: transactions in flight are lost, connections break without a word."""
        self._control("-m", mode, "stop")

    def new_database(self) -> str:
        """URL of an empty database."""
        name = f"test{next(_databases)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url.removesuffix("postgres") + name

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def _control(self, *words: object) -> None:
        _run_as(self.user, "pg_ctl", "-D", self.home / "data", "-w", *words)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL server."""
    pytest.importorskip("psycopg")
    with running_server() as server:
        yield server


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server with data of its own, which go with it."""
    for program in ("initdb", "pg_ctl"):
        if shutil.which(program) is None:
            pytest.skip(f"the PostgreSQL program {program} is not installed")
    user = _other_user()
    home = Path(tempfile.mkdtemp(prefix="evomerge-pg-"))
    if user:
        shutil.chown(home, user)
    server = PostgresServer(home, user, _free_port())
    try:
        _run_as(user, "initdb", "-D", home / "data", "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8")
        access = home / "data" / "pg_hba.conf"
        access.write_text(f"host all ann 127.0.0.1/32 scram-sha-256\n{access.read_text()}")
        server.start()
        server.execute(f"CREATE ROLE ann SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
        yield server
        server.stop("immediate")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _other_user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    import pwd

    users = {entry.pw_name for entry in pwd.getpwall()}
    user = next((u for u in ("postgres", "nobody") if u in users), None)
    if user is None or shutil.which("runuser") is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is no other user to run it as")
    return user


def _run_as(user: str | None, *command: object) -> None:
    prefix = ["runuser", "-u", user, "--"] if user else []
    words = [*prefix, *map(str, command)]
    # A server that inherits a pipe would keep it open for as long as it runs.
    subprocess.run(
        words, check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
