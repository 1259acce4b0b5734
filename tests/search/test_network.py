"""A PostgreSQL behind a network that breaks: connections cut, answers lost, silence."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_support import PostgresServer
from search_fakes import Disturbed, check_search, make_plan, reference

from evomerge.study.study import Study

pytestmark = pytest.mark.postgres

PLAN = make_plan(trials=30)


class Network:
    """Forwards connections to a server on this machine, until it does not."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._is_cut = threading.Event()
        self._flows = threading.Event()
        self._flows.set()
        self._messages = itertools.count(1)
        self.lost_answers = 0
        self.lose_every = 0
        """Of so many messages, the last is carried out and its answer lost, with the connection."""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Breaks every connection; new ones are closed at once."""
        self._is_cut.set()
        for pair in list(self._pairs):
            _close(*pair)

    def mend(self) -> None:
        """New connections are served again."""
        self._is_cut.clear()

    def hold(self) -> None:
        """Connections stay, and nothing comes through them: as with a server that hangs."""
        self._flows.clear()

    def let_go(self) -> None:
        """What was held arrives."""
        self._flows.set()

    def close(self) -> None:
        """Ends it for good."""
        self.let_go()
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut.is_set():
                client.close()
                continue
            pair = client, socket.create_connection(("127.0.0.1", self._server))
            self._pairs.append(pair)
            lost = threading.Event()
            for source, target in (pair, pair[::-1]):
                threading.Thread(
                    target=self._pump, args=(source, target, lost, source is client), daemon=True
                ).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, lost: threading.Event, from_client: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flows.wait()
                if from_client and self.lose_every:
                    if next(self._messages) % self.lose_every == 0:
                        lost.set()
                elif not from_client and lost.is_set():
                    self.lost_answers += 1
                    break
                target.sendall(data)
        _close(source, target)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@pytest.fixture
def network(postgres_server: PostgresServer) -> Iterator[Network]:
    made = Network(postgres_server.port)
    yield made
    made.close()


def opened(postgres_server: PostgresServer, network: Network) -> tuple[Study, str]:
    """A new study behind the network, and its URL without it."""
    url = postgres_server.new_database()
    through = url.replace(f":{postgres_server.port}/", f":{network.port}/")
    return Study.open(through, "s", document={}, dimensions=PLAN.space.dimensions), url


def test_a_network_that_is_cut_again_and_again_loses_no_trial_and_repeats_none(
    postgres_server: PostgresServer, network: Network, tmp_path: Path
) -> None:
    study, url = opened(postgres_server, network)
    cuts = Disturbed(network.cut, network.mend, every=0.4, seconds=0.3)
    check_search(PLAN, study, url, reference(PLAN, tmp_path), cuts)
    assert cuts.times >= 2


def test_answers_that_are_lost_after_what_was_asked_is_done_lead_to_no_second_trial(
    postgres_server: PostgresServer, network: Network, tmp_path: Path
) -> None:
    study, url = opened(postgres_server, network)
    network.lose_every = 151  # to connect takes some fifteen, to record a trial some seventy
    check_search(PLAN, study, url, reference(PLAN, tmp_path))
    assert network.lost_answers >= 3


def test_a_server_that_hangs_for_a_while_is_waited_for(
    postgres_server: PostgresServer, network: Network, tmp_path: Path
) -> None:
    study, url = opened(postgres_server, network)
    silences = Disturbed(network.hold, network.let_go, every=0.5, seconds=0.5)
    check_search(PLAN, study, url, reference(PLAN, tmp_path), silences)
    assert silences.times >= 2
