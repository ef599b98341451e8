"""How processes of a run meet at an address: all at once, too few, two of one index, and visitors of other kinds."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jacspec.errors import JacspecError
from jacspec.runs import rendezvous
from jacspec.runs.rendezvous import meet, part


@pytest.fixture
def address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def visit(address: str, said: bytes) -> bytes:
    """Say something to whoever listens, once somebody does."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                with contextlib.suppress(OSError):  # hung up on before all was said
                    connection.sendall(said)
                    connection.shutdown(socket.SHUT_WR)
                    return connection.recv(100)
                return b""
        except ConnectionRefusedError:
            continue


def test_all_meet_and_part(address: str, start: Callable[..., Any]) -> None:
    met = [start(meet, address, count=3, index=index, patience=20.0) for index in (2, 0, 1)]
    connections = [each.result(20) for each in met]
    assert [sorted(each) for each in connections] == [[0], [1, 2], [0]]
    early = start(part, connections[0], patience=20.0)
    assert not early.done()
    for each in (early, *(start(part, other, patience=20.0) for other in connections[1:])):
        assert each.result(20) is None
    assert all(connection.fileno() == -1 for each in connections for connection in each.values())


def test_those_that_do_not_come_are_named(address: str, start: Callable[..., Any]) -> None:
    first = start(meet, address, count=4, index=0, patience=1.0)
    second = start(meet, address, count=4, index=2, patience=1.0)
    with pytest.raises(JacspecError, match=r"Of the 4 processes 1, 3 did not come to .* in time"):
        first.result(20)
    with pytest.raises(JacspecError, match="Process 0 ended before the work began"):
        part(second.result(20), patience=5.0)


def test_process_0_that_is_not_there_is_said(address: str) -> None:
    with pytest.raises(JacspecError, match=r"Process 0 is not at distributed.coordinator=127"):
        meet(address, count=2, index=1, patience=0.3)


def test_index_of_another_and_other_counts_are_refused(address: str, start: Callable[..., Any]) -> None:
    first = start(meet, address, count=3, index=0, patience=20.0)
    second = start(meet, address, count=3, index=1, patience=20.0)
    assert sorted(second.result(20)) == [0]
    with pytest.raises(JacspecError, match=r"another process has distributed.index=1"):
        meet(address, count=3, index=1, patience=5.0)
    with pytest.raises(JacspecError, match=r"distributed.processes=2 here and 3 there"):
        meet(address, count=2, index=1, patience=5.0)
    third = meet(address, count=3, index=2, patience=5.0)
    found = first.result(20)
    assert sorted(found) == [1, 2]
    for connections in (found, second.result(), third):
        for connection in connections.values():
            connection.close()


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b"jacspec 2 99999999999\n", b"jacspec"]
)
def test_visitors_are_shown_out(said: bytes, address: str, start: Callable[..., Any]) -> None:
    first = start(meet, address, count=2, index=0, patience=20.0)
    assert visit(address, said) == b""
    second = start(meet, address, count=2, index=1, patience=20.0)
    for each in (first, second):
        for connection in each.result(20).values():
            connection.close()


def test_silent_visitor_does_not_keep_the_others(
    address: str, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "GREETING_SECONDS", 0.2)
    first = start(meet, address, count=2, index=0, patience=20.0)
    host, _, port = address.rpartition(":")
    while True:
        try:
            silent = socket.create_connection((host, int(port)))
            break
        except ConnectionError:
            continue
    with silent:
        second = start(meet, address, count=2, index=1, patience=20.0)
        for each in (first, second):
            for connection in each.result(20).values():
                connection.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b"", b"\x1b[2J\n"])
def test_address_of_something_else_is_said(answer: bytes, start: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(JacspecError, match=r"^distributed.coordinator=127[^\x1b]*$"):
            meet(f"127.0.0.1:{server.getsockname()[1]}", count=2, index=1, patience=5.0)
        thread.join()


def test_only_the_address_that_was_given_is_listened_at(start: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    first = start(meet, f"127.0.0.2:{port}", count=2, index=0, patience=20.0)
    second = start(meet, f"127.0.0.2:{port}", count=2, index=1, patience=20.0)
    with socket.socket() as elsewhere:
        assert elsewhere.connect_ex(("127.0.0.1", port))
    for each in (first, second):
        for connection in each.result(20).values():
            connection.close()


def test_port_in_use_and_addresses_elsewhere_are_said(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        used = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(JacspecError, match=f"distributed.coordinator={used} cannot be listened at.*free port"):
            meet(used, count=2, index=0, patience=5.0)
    with pytest.raises(JacspecError, match=r"cannot be listened at.*an address of this machine"):
        meet("192.0.2.1:4000", count=2, index=0, patience=5.0)
    with pytest.raises(JacspecError, match=r"distributed.coordinator=no\.such\.host\.invalid:1 is not an address"):
        meet("no.such.host.invalid:1", count=2, index=0, patience=5.0)
    with pytest.raises(JacspecError, match="is not an address"):
        meet("127.0.0.1:99999999", count=2, index=0, patience=5.0)


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_ipv6_address_is_taken_and_said_as_typed(start: Callable[..., Any]) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
            typed = f"[::1]:{server.getsockname()[1]}"
            with pytest.raises(JacspecError, match="cannot be listened at") as refused:
                meet(typed, count=2, index=0, patience=5.0)
    except OSError:
        pytest.skip("there is no IPv6 here")
    assert f"distributed.coordinator={typed} " in str(refused.value)
    met = [start(meet, typed, count=2, index=index, patience=20.0) for index in (0, 1)]
    for each in met:
        for connection in each.result(20).values():
            connection.close()
