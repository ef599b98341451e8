"""How the processes of a run meet where no cluster brings them together: process 0 listens, the others come to it.

Process 0 listens at the address that was given and at no other, until all have come. They talk in lines: a process
says `jacspec COUNT INDEX` and hears `welcome`, or why it is not; when it has opened model and text it says `here`, and
hears `go` once all are. There is no password: whoever can reach the address meanwhile can take the place of a process
that has not come yet, and can do nothing else. Other visitors are shown out.
"""

import contextlib
import re
import socket
import time
from collections.abc import Mapping

from jacspec.errors import JacspecError, printable

WELCOME, HERE, GO = "welcome", "here", "go"
LINE_BYTES, GREETING_SECONDS, RETRY_SECONDS = 256, 5.0, 0.2

Connections = Mapping[int, socket.socket]
"""In process 0 those to the others by their index, in another process that to process 0."""


def meet(address: str, *, count: int, index: int, patience: float) -> Connections:
    """Wait until all `count` processes of a run have come together at HOST:PORT.

    **Raises:** `JacspecError` where the address cannot be used, some do not come within `patience` seconds, or process
    0 does not take this one: of another number of processes, or of an index that another one has.
    """
    deadline = time.monotonic() + patience
    return {0: _come(address, count, index, deadline)} if index else _receive(address, count, deadline)


def part(connections: Connections, *, patience: float) -> None:
    """Wait until all processes are here, then hang up: the end of one does not concern the others from now on.

    **Raises:** `JacspecError` where one of those that met ended, or is not here within `patience` seconds.
    """
    try:
        if 0 in connections:
            _say(connections[0], HERE)
        for index, connection in sorted(connections.items()):
            if _hear(connection, patience) != (HERE if index else GO):
                raise JacspecError(f"Process {index} ended before the work began; it says why.")
        for index, connection in connections.items():
            if index:
                _say(connection, GO)
    finally:
        for connection in connections.values():
            connection.close()


def _receive(address: str, count: int, deadline: float) -> Connections:
    """Take in the processes 1 to `count` − 1."""
    found: dict[int, socket.socket] = {}
    family, place = _resolve(address)
    try:
        server = socket.create_server(place, family=family)
    except OSError as error:
        raise JacspecError(
            f"distributed.coordinator={address} cannot be listened at: {error.strerror}. "
            "Type distributed.coordinator=HOST:PORT with an address of this machine, process 0's, and a free port."
        ) from None
    with server:
        while missing := sorted({*range(1, count)} - {*found}):
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                for connection in found.values():
                    connection.close()
                raise JacspecError(
                    f"Of the {count} processes {', '.join(map(str, missing))} did not come to {address} in time. "
                    "Start all of them, each with its own distributed.index."
                ) from None
            said = re.fullmatch(r"jacspec (\d{1,9}) (\d{1,9})", _hear(connection, GREETING_SECONDS))
            if said is None:
                connection.close()
            elif refusal := _refusal(int(said[1]), int(said[2]), count, missing):
                _say(connection, refusal)
                connection.close()
            else:
                found[int(said[2])] = connection
                _say(connection, WELCOME)
    return found


def _refusal(count: int, index: int, wanted: int, missing: list[int]) -> str:
    if count != wanted:
        return f"distributed.processes={count} here and {wanted} there. Type the same number for all."
    return "" if index in missing else f"another process has distributed.index={index}. Give each its own."


def _come(address: str, count: int, index: int, deadline: float) -> socket.socket:
    """Go to process 0, which may not listen yet."""
    _, place = _resolve(address)
    while True:
        try:
            connection = socket.create_connection(place[:2], timeout=max(deadline - time.monotonic(), 0.001))
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise JacspecError(
                    f"Process 0 is not at distributed.coordinator={address}: {error.strerror or error}. "
                    "Start it, with the same address and distributed.index=0."
                ) from None
            time.sleep(RETRY_SECONDS)
    _say(connection, f"jacspec {count} {index}")
    answer = _hear(connection, max(deadline - time.monotonic(), GREETING_SECONDS))
    if answer != WELCOME:
        connection.close()
        why = printable(answer) or "it hung up, so it is not process 0 of a run, or all have come already"
        raise JacspecError(f"distributed.coordinator={address}: {why}")
    return connection


def _resolve(address: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Split HOST:PORT, an IPv6 address in brackets or not, and look the host up."""
    host, _, port = address.rpartition(":")
    try:
        if not 0 < int(port) < 2**16:
            raise ValueError("ports are 1 to 65535")
        family, _, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise JacspecError(f"distributed.coordinator={address} is not an address: {reason}.") from None
    return family, (str(place[0]), int(place[1]))


def _say(connection: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # whoever is gone hears nothing; that shows when it is listened to
        connection.sendall(f"{line}\n".encode())


def _hear(connection: socket.socket, patience: float) -> str:
    """Read a line; empty where the other hung up, says nothing in time, or says more than a line of ours."""
    deadline, heard = time.monotonic() + patience, b""
    try:
        while not heard.endswith(b"\n") and len(heard) < LINE_BYTES:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            if not (more := connection.recv(1)):
                return ""
            heard += more
    except OSError:
        return ""
    return heard.decode("utf-8", "replace").rstrip("\n") if heard.endswith(b"\n") else ""
