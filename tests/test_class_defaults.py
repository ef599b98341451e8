"""What HF's classes make of a config is asked once, and kept for the next time as it was."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from jacspec.errors import JacspecError
from jacspec.files import cache_folder
from jacspec.models import class_defaults
from jacspec.models.architectures import IGNORED_EVERYWHERE
from jacspec.models.class_defaults import complete

FILES = json.loads((Path(__file__).parent / "published_configs.json").read_text(encoding="utf-8"))
GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "id2label": {"0": "no"}}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An empty cache, and the kinds of models that HF's classes are asked about."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kinds: list[str] = []
    ask = class_defaults._ask

    def noting(stated: Any, model_type: str, *rest: Any) -> Any:
        kinds.append(model_type)
        return ask(stated, model_type, *rest)

    monkeypatch.setattr(class_defaults, "_ask", noting)
    return kinds


def _complete(raw: dict[str, Any]) -> Any:
    return complete(raw, raw["model_type"], "", origin="a file")


def test_a_config_is_asked_about_once(asked: list[str]) -> None:
    first, second = _complete(GPT2), _complete(GPT2)
    assert first == second
    assert asked == ["gpt2"]
    assert first.config["n_inner"] is None  # a default of the class
    assert first.config["n_embd"] == 8
    assert first.aliases["hidden_size"] == "n_embd"


def test_what_was_kept_is_what_the_class_says_of_published_files(asked: list[str]) -> None:
    from transformers import CONFIG_MAPPING

    stated = [FILES["shared"].get(shared, {}) | own for shared, own in FILES["models"].values()]
    configs = {raw["model_type"]: raw for raw in stated if "text_config" not in raw}
    for model_type, raw in configs.items():
        _complete(raw)
        kept = _complete(raw)
        made = CONFIG_MAPPING[model_type](**{key: raw[key] for key in raw.keys() - IGNORED_EVERYWHERE.keys()})
        for name in ("hidden_size", "num_attention_heads", "vocab_size", "tie_word_embeddings"):
            assert kept.config[kept.aliases.get(name, name)] == getattr(made, name), (model_type, name)
    assert sorted(asked) == sorted(configs)


@pytest.mark.parametrize(
    "changed", [{"n_embd": 16}, {"a key of next year": 1}, {"n_inner": None}], ids=lambda changed: next(iter(changed))
)
def test_another_config_is_asked_about(changed: dict[str, Any], asked: list[str]) -> None:
    _complete(GPT2)
    _complete(GPT2 | changed)
    assert len(asked) == 2


def test_another_release_is_asked(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _complete(GPT2)
    monkeypatch.setattr(class_defaults.importlib.metadata, "version", lambda name: "6.0")
    _complete(GPT2)
    assert len(asked) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"config": 1, "aliases": {}}', b'{"config": {}}', b"\xff"])
def test_a_damaged_entry_is_asked_about(content: bytes, asked: list[str]) -> None:
    expected = _complete(GPT2)
    (entry,) = (cache_folder() / "configs").iterdir()
    entry.write_bytes(content)
    assert _complete(GPT2) == expected
    assert _complete(GPT2) == expected
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_changes_nothing(asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "jacspec").write_text("not a folder")
    assert _complete(GPT2) == _complete(GPT2)
    assert len(asked) == 2


def test_what_json_does_not_have_is_not_kept(asked: list[str]) -> None:
    found = [_complete(GPT2 | {"layer_norm_epsilon": math.inf}) for _ in range(2)]
    assert [each.config["layer_norm_epsilon"] for each in found] == [math.inf] * 2
    assert len(asked) == 2


def test_a_refusal_is_not_kept(asked: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(JacspecError, match="a file is not a valid gpt2 config"):
            _complete(GPT2 | {"n_layer": "many"})
    assert len(asked) == 2
