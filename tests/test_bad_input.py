"""Every bad input is one clear message, an exit status, and no run that looks finished."""

import errno
import json
import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from servers import (
    CONTRACT,
    NANO,
    TINY,
    Answer,
    assert_refused,
    copy_nano,
    files_below,
    run_here,
    serve,
    serve_garbage,
    serve_silence,
    statuses,
)

WEIGHTS = "model.safetensors"
VERSE = NANO.parent / "verse.txt"


def _edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return edit


def _edit_tensors(edit: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        edit(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


def _spoil_value(tensors: dict[str, np.ndarray]) -> None:
    name = next(name for name in tensors if name.endswith("h.2.mlp.c_fc.weight"))
    tensors[name] = tensors[name].copy()
    tensors[name][3, 5] = np.nan


def _three_problems(tensors: dict[str, np.ndarray]) -> None:
    names = {name.removeprefix("transformer."): name for name in tensors}
    del tensors[names["h.0.ln_1.weight"]]
    tensors[names["h.1.mlp.c_fc.bias"]] = np.zeros(7, np.float16)
    tensors["h.9.surplus.weight"] = np.zeros(3, np.float16)


class _Payload:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def _only_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload(folder / "executed")))


def _remote_code(folder: Path) -> None:
    code = f"import os\nos.mkdir({str(folder / 'executed')!r})\nclass Odd:\n    pass\n"
    (folder / "odd.py").write_text(code)
    _edit_config(auto_map={"AutoConfig": "odd.Odd", "AutoModel": "odd.Odd"}, model_type="odd")(folder)


def _remote_tokenizer(folder: Path) -> None:
    _remote_code(folder)
    _edit_config(auto_map=None, model_type="gpt2")(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["odd.Odd", None]}, "tokenizer_class": "Odd"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _truncate(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("spoil", "fragments"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), ["No weights", WEIGHTS]),
        (_truncate, [WEIGHTS, "damaged"]),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), [WEIGHTS, "damaged"]),
        (_edit_tensors(_spoil_value), ["h.2.mlp.c_fc.weight", "not finite"]),
        (
            _edit_tensors(_three_problems),
            ["missing: h.0.ln_1.weight [96]", "misshaped: h.1.mlp.c_fc.bias is [7], expected [384]", "h.9.surplus"],
        ),
        (_edit_config(model_type="mamba"), ["'mamba'", "not support", "Nearest supported: llama"]),
        (_edit_config(n_head=7), ["96", "7 heads"]),
        (_edit_config(n_layer="six"), ["config.json"]),
        (_edit_config(n_layer=7), ["missing: h.6.attn.c_attn.weight"]),
        (_edit_config(activation_function="gleu"), ["gleu", "gelu"]),
        (_edit_config(add_cross_attention=True), ["add_cross_attention=True"]),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2",'), ["config.json", "JSON"]),
        (lambda folder: (folder / "config.json").write_text("[]"), ["config.json", "JSON object"]),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\0"), ["config.json", "JSON"]),
        (lambda folder: (folder / "config.json").unlink(), ["config.json", "Hugging Face layout"]),
        (_no_tokenizer, ["no tokenizer", "tokenizer.json"]),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), ["tokenizer.json", "JSON"]),
        (_only_pickle, ["pytorch_model.bin", "damaged or holds more than tensors"]),
        (_remote_code, ["auto_map"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_spoilt_model_folder_is_refused(spoil: Callable[[Path], None], fragments: list[str], tmp_path: Path) -> None:
    folder = copy_nano(tmp_path / "own")
    spoil(folder)
    done = run_here(*TINY, "model=path", "model.path=own", "hydra.run.dir=out", cwd=tmp_path)
    assert_refused(done, tmp_path, *fragments)
    assert not (folder / "executed").exists()


def test_folder_that_the_table_above_spoils_is_good(tmp_path: Path) -> None:
    copy_nano(tmp_path / "own")
    done = run_here(*TINY, "model=path", "model.path=own", "hydra.run.dir=out", "components=[mlp]", cwd=tmp_path)
    assert done.code == 0, done.err
    assert files_below(tmp_path / "out") == CONTRACT


def test_pickle_of_the_table_above_is_armed(tmp_path: Path) -> None:
    copy_nano(tmp_path / "own")
    _only_pickle(tmp_path / "own")
    pickle.loads((tmp_path / "own" / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "own" / "executed").exists()


def test_code_beside_a_tokenizer_is_never_run(tmp_path: Path) -> None:
    """Whether such a folder works depends on the tokenizer's files; its code does not run either way."""
    _remote_tokenizer(copy_nano(tmp_path / "own"))
    run_here(*TINY, "model=path", "model.path=own", "hydra.run.dir=out", "components=[mlp]", cwd=tmp_path)
    assert not (tmp_path / "own" / "executed").exists()


LONG_LINE = b"word " * 400


@pytest.mark.parametrize(
    ("content", "arguments", "fragments"),
    [
        (b"", [], ["own.txt is empty"]),
        (b" \n\t\n", [], ["own.txt is empty"]),
        (bytes(range(256)), [], ["own.txt", "not UTF-8"]),
        ("Müßiggang ist aller Laster Anfang.".encode("latin-1"), [], ["own.txt", "not UTF-8", "iconv"]),
        (b"some\0thing that was a program", [], ["own.txt", "binary"]),
        (b"No. Yes. No.\n", [], ["None of the", "5 tokens or more", "data.min_tokens"]),
        (
            LONG_LINE,
            ["data.split=lines", "data.samples=1", "data.max_tokens=500"],
            ["A sample has", "128 positions", "data.max_tokens=128"],
        ),
    ],
    ids=["empty", "blank", "binary", "latin-1", "null", "short", "positions"],
)
def test_unfit_text_is_refused(content: bytes, arguments: list[str], fragments: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_bytes(content)
    done = run_here(*TINY, "data=text", "data.path=own.txt", "hydra.run.dir=out", *arguments, cwd=tmp_path)
    assert_refused(done, tmp_path, *fragments)
    assert files_below(tmp_path) == {"own.txt"}


def test_text_of_another_checksum_is_refused(tmp_path: Path) -> None:
    done = run_here(*TINY, "data=shakespeare", f"data.path={VERSE}", cwd=tmp_path)
    assert_refused(done, tmp_path, "verse.txt", "sha256", "86c4e6aa", "data=text")
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"status": "finished"}'])
def test_folder_with_another_run_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text(content)
    for arguments in (["task=report", "run=old"], ["resume=old"]):
        done = run_here(*TINY, *arguments, cwd=tmp_path)
        assert done.code == 1
        assert done.err.startswith("jacspec: ")
        assert "old" in done.err
        assert files_below(tmp_path) == {"old/run.json"}


@pytest.mark.parametrize("target", ["file/x", "/proc/jacspec", "/dev/null/x"])
def test_folder_that_cannot_be_written_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run_here(*TINY, f"hydra.run.dir={target}", cwd=tmp_path)
    assert_refused(done, tmp_path, target.split("/")[-1] if target.startswith("/proc") else target[:4])
    assert files_below(tmp_path) == {"file"}


@pytest.mark.parametrize("task", ["jacobian", "train"])
def test_folder_that_holds_a_run_is_refused(task: str, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text('{"status": "unfinished"}')
    done = run_here(f"task={task}", *TINY, "hydra.run.dir=old", cwd=tmp_path)
    assert_refused(done, tmp_path, "old already holds a run", "resume=")


TEXT = b"This is the first sentence of it. And this is the second one here. The third one ends it all now.\n"
SHA = "data.sha256=" + "0" * 64


def _serve_text(path: str) -> Answer:
    texts = {"/a.txt": TEXT, "/b.txt": TEXT.replace(b"one", b"phrase")}
    if path == "/cut.txt":
        return Answer(200, TEXT, claimed=10 * len(TEXT))
    return Answer(200, texts[path]) if path in texts else Answer(404)


@pytest.mark.parametrize(
    ("file", "arguments", "fragments"),
    [
        ("a.txt", [SHA], ["/a.txt", "sha256", "0000", "nothing was kept"]),
        ("none.txt", [], ["/none.txt", "404", "data.path=FILE", "data=verse"]),
        ("cut.txt", [], ["/cut.txt", "data.path=FILE"]),
    ],
)
def test_failed_download_of_a_text_keeps_nothing(
    file: str, arguments: list[str], fragments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "cwd").mkdir()
    with serve(_serve_text) as server:
        url = f"data.url={server.url}/{file}"
        cache = str(tmp_path / "cache")
        done = run_here(*TINY, "data=text", url, *arguments, cwd=tmp_path / "cwd", XDG_CACHE_HOME=cache)
    assert_refused(done, tmp_path / "cwd", *fragments)
    assert not [name for name in files_below(tmp_path) if "texts" in name]


def test_text_is_downloaded_once_and_each_address_has_its_own(tmp_path: Path) -> None:
    def run(file: str, out: str) -> None:
        arguments = ["data=text", "data.samples=3", "components=[mlp]", f"hydra.run.dir={out}"]
        url = f"data.url={server.url}/{file}"
        done = run_here(*arguments, url, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert done.code == 0, done.err

    with serve(_serve_text) as server, mock.patch("jacspec.studies.run.write_report"):
        run("a.txt", "first")
        run("a.txt", "second")
        run("b.txt", "third")
    assert [path for _, path in server.requests] == ["/a.txt", "/b.txt"]
    first, second, third = ((tmp_path / out / "samples.csv").read_text() for out in ("first", "second", "third"))
    assert first == second != third


@pytest.mark.parametrize("server", [serve_silence, serve_garbage])
def test_text_server_that_does_not_answer_is_said(server: Callable[[], Iterator[str]], tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    with mock.patch("jacspec.text.corpus.TIMEOUT_SECONDS", 0.5), server() as url:  # type: ignore[attr-defined]
        cache = str(tmp_path / "cache")
        done = run_here(*TINY, "data=text", f"data.url={url}/a.txt", cwd=tmp_path / "cwd", XDG_CACHE_HOME=cache)
    assert_refused(done, tmp_path, "/a.txt", "data.path=FILE", "data=verse")


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1:9/a.txt", "http://127.0.0.1:9/a.txt", "http://[::1/a"])
def test_address_that_leads_nowhere_is_said(url: str, tmp_path: Path) -> None:
    done = run_here(*TINY, "data=text", f'data.url="{url}"', cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert_refused(done, tmp_path, url, "data.path=FILE")


@pytest.mark.parametrize("writes", [0, 4, 14])
def test_full_disk_is_said_and_can_be_gone_on_from(writes: int, tmp_path: Path) -> None:
    """The disk fills at the given durable write: before the run, in a layer, after them."""
    real, left = os.fsync, [writes]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    arguments = [*TINY, "components=[mlp]", "hydra.run.dir=out"]
    with mock.patch("os.fsync", fsync):
        done = run_here(*arguments, cwd=tmp_path)
    assert_refused(done, tmp_path, "No space left on device")
    assert {name for name in files_below(tmp_path) if "/." in name} <= {"out/layers/.lock"}
    if (tmp_path / "out" / "run.json").exists():
        arguments.append("resume=out")
    done = run_here(*arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    assert statuses(tmp_path) == ["finished"]
    assert files_below(tmp_path / "out") == CONTRACT


def test_full_disk_for_real(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "none", str(small)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    try:
        done = run_here(*TINY, "components=[mlp]", f"hydra.run.dir={small}/out", cwd=tmp_path)
        assert_refused(done, small, "No space left on device")
    finally:
        subprocess.run(["umount", str(small)], check=True)
