"""What the tests of the command line share: ways to run it, and servers on this machine that stand for the network."""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import unquote, urlsplit

from hydra.core.global_hydra import GlobalHydra

from jacspec.cli.command import main
from jacspec.config import ASSETS

NANO = ASSETS / "nano"
NANO_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
TINY = ("data.samples=4", "data.max_tokens=16")
CONTRACT = {
    *("run.json", "metrics.csv", "summary.csv", "samples.csv", "spectra.nc", "report.html"),
    *(f"figures/{name}.png" for name in ("spectral_radius", "decay_ratio", "linearity_radius", "linearity", "spectra")),
}
"""The files of a run with the default metrics."""


class Finished(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def cache_home() -> Path:
    """Return the one cache folder of all tests and their processes: what one compiled, the next one finds."""
    return Path(os.environ["XDG_CACHE_HOME"])


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without what would reach a network or the user's own caches."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "JACSPEC_")) and not key.lower().endswith("_proxy")
    }
    caches = {"XDG_CACHE_HOME": str(cache_home()), "HF_HOME": str(cache_home() / "hf"), "COLUMNS": "200"}
    return kept | caches | {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"} | changes


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "jacspec", *arguments]


def run_command(*arguments: str, cwd: Path, timeout: float = 120, **changes: str) -> Finished:
    """Run the command as a user does, in a process of its own."""
    done = subprocess.run(
        command_line(*arguments),
        cwd=cwd,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def start(*arguments: str, cwd: Path, start_new_session: bool = False, **changes: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own that signals interrupt."""
    # What is ignored here, as in the background of a script, a process of ours would ignore too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command_line(*arguments),
            cwd=cwd,
            env=environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def in_session(session: int) -> list[str]:
    """List the processes of a session, as the kernel has them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            name, _, fields = stat.read_text().rpartition(")")
            if int(fields.split()[3]) == session:
                found.append(name)
    return found


def run_here(*arguments: str, cwd: Path, **changes: str) -> Finished:
    """Run the command in this process, which has its imports behind it. An error that it would show as a traceback
    comes out as itself and fails the test.
    """
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        mock.patch.dict(os.environ, environment(**changes), clear=True),
        # Hydra closes all handlers that it finds here, and absl's would close the stderr that pytest captures.
        mock.patch.object(logging, "_handlerList", []),
        mock.patch.object(sys, "argv", ["jacspec", *arguments]),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code
        finally:
            GlobalHydra.instance().clear()
    if isinstance(code, str):  # the interpreter prints it and exits with 1
        return Finished(1, out.getvalue(), f"{err.getvalue()}{code}\n")
    return Finished(int(str(code or 0)), out.getvalue(), err.getvalue())


def assert_refused(done: Finished, folder: Path, *fragments: str) -> None:
    """Assert that a command ended with one short message holding `fragments`, and left no run that looks finished."""
    assert done.code != 0
    assert done.err.startswith("jacspec: "), done.err
    assert "Traceback" not in done.err
    assert len(done.err) < 1200, done.err
    missing = [fragment for fragment in fragments if fragment not in done.err]
    assert not missing, f"{missing} not in: {done.err}"
    assert "finished" not in statuses(folder)
    assert not list(folder.rglob("report.html"))


def statuses(folder: Path) -> list[str]:
    """Read the status of every run below a folder."""
    return [json.loads(file.read_text())["status"] for file in sorted(folder.rglob("run.json"))]


def files_below(folder: Path) -> set[str]:
    """List all files below a folder, hidden ones too, relative to it."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir()}


def copy_nano(folder: Path) -> Path:
    """Copy the embedded model, without its revisions, into a new folder that a test may spoil."""
    folder.mkdir(parents=True)
    for name in NANO_FILES:
        shutil.copy(NANO / name, folder / name)
    return folder


class Answer(NamedTuple):
    """What a server answers with; `claimed` is a Content-Length that is not the body's."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    claimed: int | None = None


class Server(NamedTuple):
    """A running server: its address, and the (method, path) of every request so far."""

    url: str
    requests: list[tuple[str, str]]


@contextlib.contextmanager
def serve(answer: Callable[[str], Answer]) -> Iterator[Server]:
    """Run an HTTP server on this machine that answers each path with `answer(path)`."""
    requests: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            requests.append((self.command, path))
            status, body, headers, claimed = answer(path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_port}", requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def serve_silence() -> Iterator[str]:
    """Accept connections and never answer; gives the address."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:  # the kernel accepts for us
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def serve_garbage() -> Iterator[str]:
    """Answer each connection with bytes that are no HTTP; gives the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(b"220 this is a mail server\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub(files: Mapping[str, bytes], adapter: Mapping[str, bytes] = {}) -> Callable[[str], Answer]:
    """Imitate the hub's API: `org/nano` at `main` holds `files`, `org/tuned` an adapter's, `org/gated` is gated.

    Nothing else is there.

    Statuses and headers are those that `hf_raise_for_status` of huggingface_hub 2.4 tells errors by.
    """

    def answer(path: str) -> Answer:
        if path == "/":
            return Answer(200)
        api = re.fullmatch(r"/api/models/(\w+/\w+)/(revision|tree)/([^/]+)/?", path)
        resolve = re.fullmatch(r"/(\w+/\w+)/resolve/([^/]+)/(.+)", path)
        repository, revision = (api[1], api[3]) if api else (resolve[1], resolve[2]) if resolve else ("", "")
        held = {"org/nano": files, "org/tuned": adapter, "org/gated": files}.get(repository)
        if held is None:
            # The hub's 401 without this code is known as what it is over https only.
            return Answer(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username."})
        if revision not in ("main", COMMIT):
            return Answer(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        if api and api[2] == "revision":
            names = [{"rfilename": name} for name in held]
            return _json({"id": repository, "sha": COMMIT, "siblings": names, "private": False})
        if api:
            kept = [{"type": "file", "path": name, "size": len(body), "oid": name} for name, body in held.items()]
            return _json(kept)
        if repository == "org/gated":
            return Answer(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        assert resolve is not None
        if resolve[3] not in held:
            return Answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        etag = f'"{blob_name(resolve[3], held)}"'
        return Answer(200, held[resolve[3]], {"ETag": etag, "X-Repo-Commit": COMMIT})

    return answer


def blob_name(name: str, files: Mapping[str, bytes]) -> str:
    """Name a file as the hub does: by git's hash, or, where it lies in Git LFS, by its SHA-256."""
    if name.endswith((".safetensors", ".bin")):
        return hashlib.sha256(files[name]).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(files[name]) + files[name]).hexdigest()


def _json(content: object) -> Answer:
    return Answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
