"""`serve` takes its address before it loads the model; one that it cannot have is an error."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from diffedit.cli import main
from diffedit.server import run
from diffedit.server.listen import AddressError, listening
from diffedit.server.settings import Settings

ELSEWHERE = "192.0.2.1"
"""An address of documentation (RFC 5737): no machine has it."""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_a_taken_port(taken: int) -> None:
    with pytest.raises(AddressError, match="another program listens there; stop it, or pass"):
        listening("127.0.0.1", taken).__enter__()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (ELSEWHERE, "not an address of this machine"),
        ("no-such-host.invalid", "cannot listen on no-such-host.invalid"),
        ("a" * 300, "cannot listen on aaa"),
        ("a..b", "cannot listen on a..b"),
        ("999.1.1.1", "cannot listen on 999.1.1.1"),
    ],
)
def test_an_address_of_nobody(host: str, words: str) -> None:
    with pytest.raises(AddressError, match=words):
        listening(host, 0).__enter__()


def test_port_0_is_one_free_port_on_all_addresses() -> None:
    with listening("localhost", 0) as sockets:
        (port,) = {bound.getsockname()[1] for bound in sockets}
        assert port > 0
        with pytest.raises(AddressError, match=f"port {port}: another program"):
            listening("localhost", port).__enter__()
    with listening("localhost", port):
        pass  # it was given back


def test_a_socket_that_cannot_be_kept_is_given_back(taken: int) -> None:
    """The name has two addresses, and the second one is taken; the first must be free again."""
    with pytest.raises(AddressError):
        listening("localhost", taken).__enter__()
    with pytest.raises(AddressError, match="another program"):
        listening("127.0.0.1", taken).__enter__()


@pytest.mark.parametrize("more", [[], ["--json-log"]])
def test_serve_ends_with_5_before_it_loads_the_model(
    taken: int,
    more: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model does not exist: loading it would end with another code."""
    monkeypatch.setattr(run, "log_to_stderr", lambda **_: None)
    with pytest.raises(SystemExit) as end:
        main(["serve", "--model", "no-model", "--port", str(taken), *more])
    assert end.value.code == 5
    assert capsys.readouterr().err.count(f"port {taken}: another program listens there") == 1


def test_the_page_of_port_0_has_its_real_port(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []

    def serve(app: object, settings: Settings, sockets: list[socket.socket]) -> int:
        ports.extend([settings.port, sockets[0].getsockname()[1]])
        return 0

    monkeypatch.setattr(run, "log_to_stderr", lambda **_: None)
    monkeypatch.setattr(run, "run", serve)
    with pytest.raises(SystemExit):
        main(["serve", "--model", "no-model", "--port", "0"])
    assert ports[0] == ports[1] > 0
    assert f"http://127.0.0.1:{ports[0]}/" in capsys.readouterr().err
