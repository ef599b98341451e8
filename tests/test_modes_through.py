"""Writes taken through later blocks: HF's own derivative from there to the logits, by hooks and autograd."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from families import CASES, config_of
from hooked import Hooked
from oracles import float64_throughout, save_random

from jacspec.backend import numerics
from jacspec.models.checkpoint import Checkpoint, open_checkpoint
from jacspec.studies.modes.carried import LEAVE, MIDDLE
from jacspec.studies.modes.through import Way, choose_deep, go_back

FIRST_CASES = {family: name for name, (family, _) in reversed(CASES.items())}
TOKENS = ([3, 4, 5, 6, 7, 8, 9], [12, 13, 14], [5, 9, 2, 2], [8, 1, 1, 4, 6])
LAYERS = 3


class Backward(NamedTuple):
    """HF's model, and what becomes of writes of each block, by component."""

    model: Any
    checkpoint: Checkpoint
    ways: dict[int, dict[str, Way]]
    vectors: np.ndarray


def go(folder: Path, family: str, memory_bytes: float = 2.0**30) -> Backward:
    """Go back through a random model, by three samples of four; `memory_bytes` parts them into batches."""
    kind, name = CASES[FIRST_CASES[family]]
    layers = {"gpt2": ["n_layer"], "t5": ["num_layers", "num_decoder_layers"]}.get(family, ["num_hidden_layers"])
    model = save_random(folder, family, **config_of(kind, name) | dict.fromkeys(layers, LAYERS))
    first = LAYERS * (family == "t5")  # behind its encoder
    with numerics("float64"):
        checkpoint = open_checkpoint(folder, dtype="float64")
        deep = choose_deep(checkpoint, TOKENS, count=3, seed=0, memory_bytes=memory_bytes)
        ways = {number - first: own for number, own in go_back(checkpoint, deep, (first, first + 2), "shifted")}
        for own in ways.values():
            for way in own.values():
                assert len(set(way.samples.tolist())) == 3
    vectors = np.random.default_rng(0).standard_normal((len(TOKENS), checkpoint.spec.d_model))
    return Backward(model, checkpoint, ways, vectors)


def logits_of(found: Backward, way: Way) -> np.ndarray:
    """What each sample's vector does to the logits, less their mean, the samples that were drawn."""
    with numerics("float64"):
        weight = np.asarray(found.checkpoint.head().unembed.weight[...])
        moved = np.asarray(way.push(found.vectors)) @ weight.T
    return moved - moved.mean(axis=1, keepdims=True)


def check(found: Backward, expected: Any) -> None:
    """Compare every component of the first and last block, and the mean map, with `expected(layer, component, i)`."""
    assert sorted(found.ways) == [0, 2]
    for layer, ways in found.ways.items():
        for component, way in ways.items():
            images = np.stack([expected(layer, component, sample) for sample in way.samples])
            np.testing.assert_allclose(logits_of(found, way), images, atol=1e-10 * np.abs(images).max())
            shared = found._replace(vectors=np.tile(found.vectors[:1], (len(TOKENS), 1)))
            by_sample = logits_of(shared, way).mean(axis=0)
            np.testing.assert_allclose(averaged(shared, way), by_sample, atol=1e-10 * np.abs(by_sample).max())


def averaged(found: Backward, way: Way) -> np.ndarray:
    """What the mean map does to the logits along the first vector."""
    with numerics("float64"):
        moved = np.asarray(found.checkpoint.head().unembed.weight[...]) @ np.asarray(way.mean) @ found.vectors[0]
    return moved - moved.mean()


def differences(found: Backward, expected: Any) -> Iterator[float]:
    """How far what was found is from something else, relative to it."""
    for layer, ways in found.ways.items():
        for component, way in ways.items():
            images = np.stack([expected(layer, component, sample) for sample in way.samples])
            yield float(np.abs(logits_of(found, way) - images).max() / np.abs(images).max())


@pytest.mark.parametrize("family", ["gpt2", "llama", pytest.param("gpt_neox", marks=pytest.mark.thorough)])
def test_writes_through_later_blocks_equal_hf(family: str, tmp_path: Path) -> None:
    found = go(tmp_path, family, memory_bytes=2.0**12 if family == "llama" else 2.0**30)
    hooked = Hooked(family, found.model)

    def image(layer: int, component: str, sample: int, *, swapped: bool = False) -> np.ndarray:
        middle = (component == "attn") != swapped and family != "gpt_neox"
        with float64_throughout():
            _, moved = torch.autograd.functional.jvp(
                lambda amount: hooked.logits(
                    TOKENS[sample], layer, MIDDLE if middle else LEAVE, amount * torch.tensor(found.vectors[sample])
                ),
                torch.zeros(1, dtype=torch.float64),
                torch.ones(1, dtype=torch.float64),
            )
        return (moved - moved.mean()).numpy()

    check(found, image)
    if family != "gpt_neox":  # where attention writes is not where the MLP does
        assert min(differences(found, lambda *place: image(*place, swapped=True))) > 1e-3
    assert max(differences(found, lambda layer, *rest: image(2 - layer, *rest))) > 1e-3


def test_in_an_encoder_all_other_tokens_are_held_fixed(tmp_path: Path) -> None:
    """BERT, norms behind the sums: layer after layer at the last token alone, the others' streams as they were."""
    found = go(tmp_path, "bert")
    layers, head = found.model.bert.encoder.layer, found.model.cls

    def image(layer: int, component: str, sample: int, *, fixed: bool = True) -> np.ndarray:
        with float64_throughout():
            streams = found.model.bert(torch.tensor([TOKENS[sample]]), output_hidden_states=True).hidden_states
            streams = [each.detach() for each in streams]

            def ended(amount: torch.Tensor) -> torch.Tensor:
                added = amount * torch.tensor(found.vectors[sample])

                def moved(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
                    return torch.cat([output[:, :-1], output[:, -1:] + added], dim=1)

                parts = {"attn": layers[layer].attention.output.dense, "mlp": layers[layer].output.dense}
                hook = parts.get(component, layers[layer]).register_forward_hook(
                    moved if component in parts else lambda m, a, output: moved(m, a, output)
                )
                h = layers[layer](streams[layer])
                hook.remove()
                for number in range(layer + 1, LAYERS):
                    h = torch.cat([streams[number][:, :-1], h[:, -1:]], dim=1) if fixed else h
                    h = layers[number](h)
                return head(h)[0, -1]

            zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
            _, image = torch.autograd.functional.jvp(ended, zero, one)
        return (image - image.mean()).numpy()

    check(found, image)
    assert max(differences(found, lambda *place: image(*place, fixed=False))) > 1e-3


def test_writes_of_a_decoder_beside_its_encoder_equal_hf(tmp_path: Path) -> None:
    """T5: a write of attention passes cross-attention and the MLP, one of cross-attention the MLP."""
    found = go(tmp_path, "t5")
    blocks, start = found.model.decoder.block, found.checkpoint.spec.decoder_start

    def image(layer: int, component: str, sample: int, *, swapped: bool = False) -> np.ndarray:
        parts = {"attn": 0, "cross": 1, "mlp": 2, "block": 2}
        place = parts[component] if not swapped else 2 - parts[component]
        read = torch.tensor([TOKENS[sample]])

        def logits(amount: torch.Tensor) -> torch.Tensor:
            def moved(module: Any, args: Any, output: Any) -> Any:
                stream = output[0] if isinstance(output, tuple) else output
                added = amount * torch.tensor(found.vectors[sample])
                changed = torch.cat([stream[:, :-1], stream[:, -1:] + added], dim=1)
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            hook = blocks[layer].layer[place].register_forward_hook(moved)
            try:
                fed = torch.tensor([[start, *TOKENS[sample][:-1]]])
                return found.model(read, decoder_input_ids=fed).logits[0, -1]
            finally:
                hook.remove()

        with float64_throughout():
            zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
            _, image = torch.autograd.functional.jvp(logits, zero, one)
        return (image - image.mean()).numpy()

    check(found, image)
    assert max(differences(found, lambda *where: image(*where, swapped=True))) > 1e-3
