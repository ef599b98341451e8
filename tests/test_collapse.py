"""Ranks of tokens and of attention beside NumPy on the hidden states and attentions of HF's PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from oracles import float64_throughout, save_random, watch

from jacspec.backend import numerics
from jacspec.jacobians.collapse import COLLAPSE, NO_ATTENTION
from jacspec.jacobians.engine import Plan, prepare_batches, stream_layers
from jacspec.models.checkpoint import open_checkpoint

RNG = np.random.default_rng(0)
LENGTHS = (1, 3, 9, 17)
KNOWN = {"llama": ("attn", "mlp", "block"), "bert": ("attn", "mlp"), "t5": ("attn", "cross", "mlp")}


def stable_rank(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(matrix) ** 2 / np.linalg.norm(matrix, 2) ** 2)


def expected_of(rows: np.ndarray) -> list[float]:
    """Compute the columns of tokens, with the best rank-one matrix by least squares and norms as NumPy has them."""
    away = rows - np.linalg.lstsq(np.ones((len(rows), 1)), rows, rcond=None)[0]
    distance, *norms = (
        float(np.linalg.norm(away, kind) / np.linalg.norm(rows, kind)) for kind in ("fro", 1, float("inf"))
    )
    return [stable_rank(rows), distance, float(np.prod(norms)) ** 0.5]


def attentions_of(model: Any, ids: np.ndarray, start: int | None) -> dict[str, Any]:
    """Return HF's attention matrices by stack, a layer each (head, token, token)."""
    given = {"input_ids": torch.tensor(ids)[None]}
    if start is not None:
        given["decoder_input_ids"] = torch.tensor([[start, *ids[:-1]]])
    with float64_throughout(), torch.no_grad():
        out = model(**given, output_attentions=True)
    return (
        {"": out.attentions}
        if start is None
        else {"encoder": out.encoder_attentions, "decoder": out.decoder_attentions}
    )


@pytest.mark.few(2)
@pytest.mark.parametrize("family", KNOWN)
def test_ranks_are_those_of_hf(family: str, tmp_path: Path) -> None:
    layout, base, _ = FAMILIES[family]
    model = save_random(tmp_path, family, **base)
    start = base.get("decoder_start_token_id")
    tokens = [RNG.integers(3, base["vocab_size"], size=length) for length in LENGTHS]
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        batches = prepare_batches(checkpoint, [ids.tolist() for ids in tokens], memory_gib=1.0, largest=3)
        stacks = [f"{stack}." if stack else "" for stack in layout.stacks]
        names = [f"{stack}{name}" for stack in stacks for name in KNOWN[family] if f"{stack}{name}" != "encoder.cross"]
        results = list(stream_layers(checkpoint, batches, Plan(names, ("spectral_radius",), collapse=True)))
    seen = [watch(model, layout, ids, start) for ids in tokens]
    maps = [attentions_of(model, ids, start) for ids in tokens]
    compared = 0
    for result in results:
        for full, metrics in result.metrics.items():
            stack, _, component = full.rpartition(".")
            own = "attn" if component == "block" else component
            for sample, (watched, attended) in enumerate(zip(seen, maps, strict=True)):
                (key,) = [each for each in watched.calls if each[1:] == (own, result.layer) and each[0] in stack + "."]
                rows = watched.calls[key][0].x.detach().numpy()
                found = [metrics[name][sample] for name in COLLAPSE]
                np.testing.assert_allclose(
                    found[:3], expected_of(rows.reshape(-1, rows.shape[-1])), rtol=1e-9, atol=1e-12
                )
                # A twin that sees one token fewer is told apart.
                if len(rows.reshape(-1, rows.shape[-1])) > 2:
                    fewer = expected_of(rows.reshape(-1, rows.shape[-1])[:-1])
                    assert np.abs(np.subtract(found[:3], fewer)).min() > 1e-6
                if component == "attn":
                    heads = attended[stack][result.layer][0].numpy()
                    ranks = [stable_rank(each) for each in heads]
                    np.testing.assert_allclose(found[3], np.mean(ranks), rtol=1e-9)
                    if len(heads[0]) > 2:  # of the mean over heads it would be another
                        assert abs(found[3] - stable_rank(heads.mean(axis=0))) > 1e-6
                else:
                    assert np.isnan(found[3])
                    assert NO_ATTENTION in str(result.reasons[full][sample])
                compared += 1
    assert compared == len(LENGTHS) * sum(len(result.metrics) for result in results)
