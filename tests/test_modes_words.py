"""Words of directions: scores against HF's autograd, p-values under matched and isotropic chance, refusals."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import scipy.stats
import torch
from families import CASES, config_of
from oracles import float64_throughout, save_random

from jacspec.backend import numerics
from jacspec.jacobians.engine import prepare_batches
from jacspec.jacobians.streaming import Stream, Visit, carry, step, walk
from jacspec.models.block import Block
from jacspec.models.checkpoint import open_checkpoint
from jacspec.runs import Run
from jacspec.studies.modes import CHECK_COLUMNS, CHECK_FILE, OWN_COLUMNS, OWN_FILE, WORD_COLUMNS, WORDS_FILE
from jacspec.studies.modes.check_page import check_findings, check_section
from jacspec.studies.modes.directions import Modes, Shared, shared_directions
from jacspec.studies.modes.lexicon import DEPTH, Around, Lexicon, WordsPlan, draw_writes, make_lexicon, surround
from jacspec.studies.modes.through import Way, go_direct, mean_map, push_writes
from jacspec.studies.modes.vocabulary import (
    Drawn,
    Table,
    cosine_table,
    draw_chance,
    draw_null,
    find_strongest,
    judge,
    later_tokens,
    score,
    token_text,
)
from jacspec.studies.modes.words import (
    READ,
    READ_STREAM,
    WRITE,
    Words,
    _own_row,
    finish_words,
    own_samples,
    read_component,
    write_component,
)
from jacspec.studies.modes.words_page import words_findings, words_section

FIRST_CASES = {family: name for name, (family, _) in reversed(CASES.items())}
NOWHERE = Around(None, None, None)


class Numbers:
    """A tokenizer that calls each token by its number."""

    def __len__(self) -> int:
        return 10_000

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"t{token}"

    def convert_tokens_to_string(self, pieces: Sequence[str]) -> str:
        return "".join(pieces)


def draw_anisotropic(count: int, width: int, seed: int) -> np.ndarray:
    """One direction has far more variance than all others, and the mean is far from zero."""
    numbers = np.random.default_rng(seed)
    basis = np.linalg.qr(numbers.standard_normal((width, width)))[0]
    return (numbers.standard_normal((count, width)) * np.append(8, np.ones(width - 1))) @ basis.T + 3 * basis[1]


@pytest.mark.parametrize("sharing", ["embedding", "unembedding"])
def test_p_values_are_uniform_under_matched_chance_alone(sharing: str) -> None:
    """Directions that mean nothing but have the covariance: uniform p. Isotropic chance finds words everywhere."""
    width, draws, trials = 12, 99, 200
    rows = draw_anisotropic(60, width, 1)
    if sharing == "embedding":  # read: chance has the covariance of what is scored
        table, sources = cosine_table(jnp.asarray(rows, jnp.float32), np.arange(60)), rows
    else:  # write: chance has the covariance of the stream, which looks along the same direction
        plain = jnp.asarray(rows, jnp.float32)
        table = Table(plain, plain.mean(axis=0), jnp.ones(60, jnp.float32), np.arange(60))
        sources = draw_anisotropic(300, width, 1)
    root = np.linalg.cholesky(np.cov(sources.T))
    numbers = np.random.default_rng(2)
    plan = WordsPlan(draws=draws)
    found: dict[str, list[float]] = {"matched": [], "isotropic": []}
    for trial in range(trials):
        meaningless = root @ numbers.standard_normal(width)
        direction = jnp.asarray(meaningless / np.linalg.norm(meaningless), jnp.float32)[None]
        strongest = float(score(table, direction, 1, plan.memory_bytes).top[0, 0])
        chances = {"matched": sources, "isotropic": np.concatenate([np.eye(width), -np.eye(width)])}
        for name, rows_of_chance in chances.items():
            null = draw_null(table, draw_chance(rows_of_chance, draws, [trial]), plan.memory_bytes)
            assert null is not None
            found[name].append(judge(strongest, null)[1])
    spread = {name: np.array(p) - numbers.random(trials) / (draws + 1) for name, p in found.items()}
    assert scipy.stats.kstest(spread["matched"], "uniform").pvalue > 0.01
    assert scipy.stats.kstest(spread["isotropic"], "uniform").pvalue < 1e-6


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.95])
def test_own_vectors_that_are_alike_and_mean_nothing_are_chance(alike: float) -> None:
    """However alike vectors are, p is small no more often than it says; one token may come first for nearly all."""
    width, samples, trials = 12, 40, 120
    rows = draw_anisotropic(60, width, 1)
    table = cosine_table(jnp.asarray(rows, jnp.float32), np.arange(60))
    lexicon = Lexicon(None, Numbers(), WordsPlan(draws=99), table, None, None, {})  # type: ignore[arg-type]
    root, numbers = np.linalg.cholesky(np.cov(rows.T)), np.random.default_rng(3)
    named, shares = [], []
    for trial in range(trials):
        null = draw_null(table, draw_chance(rows, 99, [trial]), lexicon.plan.memory_bytes)
        shared, own = numbers.standard_normal((1, width)), numbers.standard_normal((samples, width))
        vectors = (alike**0.5 * shared + (1 - alike) ** 0.5 * own) @ root.T
        directions = jnp.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), jnp.float32)
        key = (0, "mlp", READ, 1)
        row = _own_named(_own_row(lexicon, key, directions, np.ones(samples, bool), table, null))
        named.append(row["p"])
        shares.append(row["times"] / samples)
    assert np.mean(np.array(named) <= 0.1) < 0.1 + 2.5 * (0.1 * 0.9 / trials) ** 0.5
    assert (np.mean(shares) > 0.6) == (alike > 0.9)


def test_own_writes_have_chance_at_their_own_samples() -> None:
    """Where each sample's map is another their mean passes less on: chance through that finds words everywhere."""
    width, samples, trials = 12, 30, 40
    rows, numbers = draw_anisotropic(60, width, 1), np.random.default_rng(4)
    plain = jnp.asarray(rows, jnp.float32)
    table = Table(plain, plain.mean(axis=0), jnp.ones(60, jnp.float32), np.arange(60))
    lexicon = Lexicon(None, Numbers(), WordsPlan(draws=99), table, None, table, {})  # type: ignore[arg-type]
    root = np.linalg.cholesky(np.cov(draw_anisotropic(300, width, 2).T))
    found: dict[str, list[float]] = {"own": [], "shared": []}
    for _ in range(trials):
        maps = jnp.asarray(numbers.standard_normal((samples, width, width)), jnp.float32)

        def push(writes: np.ndarray, maps: Any = maps) -> Any:
            return jnp.einsum("swd,sd->sw", maps, jnp.asarray(writes, jnp.float32))

        way = Way(maps.mean(axis=0), push, np.arange(samples))
        drawn, writes = (_unit(numbers.standard_normal((count, width)) @ root.T) for count in (99, samples))
        nulls = draw_writes(lexicon, way, Around(Drawn(drawn), None, None))
        for name, null in nulls._asdict().items():
            row = _own_row(lexicon, (0, "mlp", WRITE, 1), push(writes), np.ones(samples, bool), table, null)
            found[name].append(_own_named(row)["p"])
    assert np.mean(np.array(found["own"]) <= 0.1) < 0.1
    assert np.mean(np.array(found["shared"]) <= 0.1) > 0.9


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("memory", [2.0**12, 2.0**30], ids=["in parts", "at once"])
def test_strongest_token_of_a_direction_is_that_of_its_scores(memory: float) -> None:
    numbers = np.random.default_rng(0)
    rows, directions = numbers.standard_normal((200, 12)), numbers.standard_normal((31, 12))
    ids = numbers.permutation(1000)[:200]
    table = cosine_table(jnp.asarray(rows, jnp.float32), ids)
    values, found = find_strongest(table, jnp.asarray(directions, jnp.float32), memory)
    away = _unit(rows - rows.mean(axis=0))
    expected = directions @ away.T
    places = np.abs(expected).argmax(axis=1)
    assert (expected[np.arange(31), places] < 0).any()
    assert (expected[np.arange(31), places] > 0).any()
    np.testing.assert_array_equal(found, ids[places])
    np.testing.assert_allclose(values, np.abs(expected).max(axis=1), rtol=1e-5)


def test_further_directions_are_drawn_where_none_of_the_first_is_as_large() -> None:
    """p reaches one in ten times as many draws, and is uniform all the same; what is reached draws none."""
    rows = draw_anisotropic(60, 12, 1)
    table = cosine_table(jnp.asarray(rows, jnp.float32), np.arange(60))
    null = draw_null(table, draw_chance(rows, 99, [0]), 2.0**30)
    assert null is not None
    assert null.further is not None
    assert judge(2.0, null)[1] == pytest.approx(1 / 991)
    largest = float(null.strongest.max())
    beyond = judge(np.nextafter(largest, 2), null)[1]
    assert beyond == pytest.approx((1 + (null.further() > largest).sum()) / 991)
    counted = null._replace(further=lambda: pytest.fail("drawn for nothing"))
    assert judge(largest, counted)[1] == pytest.approx(2 / 100)
    assert judge(2.0, null._replace(further=None))[1] == pytest.approx(1 / 100)
    again = draw_null(table, draw_chance(rows, 99, [0]), 2.0**30)
    assert again is not None
    assert again.further is not None
    np.testing.assert_array_equal(again.further(), null.further())


def hf_head(family: str, model: Any) -> Any:
    """All of HF's model from the last block's output to the unembedding's, a softcap left out."""
    if family == "gpt2":
        return lambda h: model.lm_head(model.transformer.ln_f(h))
    if family == "bert":
        return model.cls
    return lambda h: model.lm_head(model.model.norm(h))


def scores_by_autograd(head: Any, h: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Differentiate HF's logits along u, less the mean over the vocabulary."""
    with float64_throughout():
        _, found = torch.autograd.functional.jvp(head, torch.tensor(h), torch.tensor(u))
    return (found - found.mean()).detach().numpy()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bert"])
def test_scores_of_writes_equal_hf(family: str, tmp_path: Path) -> None:
    """The final norm (BERT: the MLM head's transform) at the sample itself; tied and not, scaled, with a softcap."""
    model = save_random(tmp_path, family, **config_of(family, CASES[FIRST_CASES[family]][1]))
    numbers = np.random.default_rng(0)
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        vocab, width = checkpoint.spec.vocab, checkpoint.spec.d_model
        h, shared = numbers.standard_normal((4, width)), numbers.standard_normal(width)
        shared /= np.linalg.norm(shared)
        expected = np.stack([scores_by_autograd(hf_head(family, model), each, shared) for each in h])
        head = checkpoint.head()
        weight = head.unembed.weight[...]
        table = Table(weight, weight.mean(axis=0), jnp.ones(vocab), np.arange(vocab))
        pushed = push_writes(head, jnp.asarray(h), jnp.tile(shared, (4, 1)))
        assert _close(_by_token(score(table, pushed, vocab, 2.0**12)), expected)
        assert not _close(_by_token(score(table, jnp.tile(shared, (4, 1)), vocab, 2.0**12)), expected)
        averaged = jnp.asarray(shared)[None] @ mean_map(head, jnp.asarray(h)).T
        assert _close(_by_token(score(table, averaged, vocab, 2.0**30)), expected.mean(axis=0)[None])
        # The same by way of the rows of a component.
        checkpoint.__dict__["tokenizer"] = Numbers()
        modes = _modes(np.tile(shared, (4, 1)), np.linalg.qr(numbers.standard_normal((width, 4)))[0].T)
        lexicon = make_lexicon(checkpoint, WordsPlan(draws=20, shown=4))
        words = words_of(lexicon, go_direct(head, h), NOWHERE, 0, "attn", modes)
    write = next(row for row in map(_named, words.shared) if row["side"] == WRITE)
    mean = expected.mean(axis=0) * np.sign(expected.mean(axis=0)[np.argmax(np.abs(expected.mean(axis=0)))])
    order = np.argsort(-mean)
    assert [token for token, _ in json.loads(write["top"])] == [f"t{token}" for token in order[:4]]
    assert [token for token, _ in json.loads(write["bottom"])] == [f"t{token}" for token in order[:-5:-1]]
    assert write["strongest"] == pytest.approx(np.abs(mean).max(), rel=1e-9)
    own = next(row for row in map(_own_named, words.own) if row["side"] == WRITE)
    firsts = [f"t{token}" for token in np.argmax(np.abs(expected), axis=1)]
    assert (own["samples"], own["times"]) == (4, max(map(firsts.count, firsts)))
    assert dict(json.loads(own["tokens"])) == {first: firsts.count(first) for first in firsts}


def _by_token(found: Any) -> np.ndarray:
    """Put the scores of all tokens in their order, turned back so that the first token's sign is whatever it is."""
    scores = np.zeros_like(found.top)
    np.put_along_axis(scores, found.top_ids, found.top, axis=1)
    return scores


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    signs = np.sign((found * expected).sum(axis=1, keepdims=True))
    return bool(np.abs(signs * found - expected).max() < 1e-10 * np.abs(expected).max())


def _shared(modes: Modes, side: str) -> Shared:
    return shared_directions(modes.sigma, modes.group, getattr(modes, side))


def words_of(lexicon: Lexicon, way: Way, around: Around, layer: int, component: str, modes: Modes) -> Words:
    """All words of one component, its writes first."""
    writes = write_component(
        lexicon, way, draw_writes(lexicon, way, around), layer, component, modes, _shared(modes, "writes")
    )
    reads = read_component(lexicon, around, layer, component, modes, _shared(modes, "reads"))
    return Words(writes.shared + reads.shared, writes.own + reads.own)


def _modes(writes: np.ndarray, reads: np.ndarray) -> Modes:
    count = len(writes)
    return Modes(np.ones((count, 1)), np.zeros((count, 1), int), reads[:, None], writes[:, None])


def _named(row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(WORD_COLUMNS, row, strict=True))


def _own_named(row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(OWN_COLUMNS, row, strict=True))


def _rotated(samples: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two vectors of one plane a sample, turned by another angle in each; and a third that all share."""
    basis = np.linalg.qr(np.random.default_rng(3).standard_normal((width, 3)))[0].T
    angles = np.random.default_rng(4).random(samples) * 6
    turned = [
        [np.cos(a) * basis[0] + np.sin(a) * basis[1], np.cos(a) * basis[1] - np.sin(a) * basis[0]] for a in angles
    ]
    return basis, np.concatenate([np.array(turned), np.tile(basis[2], (samples, 1, 1))], axis=1)


def test_no_words_inside_a_degenerate_block(tmp_path: Path) -> None:
    """σ₁ = σ₂: no vector of the plane has a name, in any sample or shared; the third, which is apart, has."""
    save_random(tmp_path, "gpt2", **config_of("gpt2", CASES[FIRST_CASES["gpt2"]][1]))
    checkpoint = open_checkpoint(tmp_path)
    checkpoint.__dict__["tokenizer"] = Numbers()
    basis, vectors = _rotated(12, checkpoint.spec.d_model)
    sigma, group = np.tile([2.0, 2.0, 1.0], (12, 1)), np.tile([0, 0, 1], (12, 1))
    shared = shared_directions(sigma, group, vectors)
    assert np.abs(shared.directions[:2] @ basis[2]).max() < 1e-6
    assert shared.gap[0] < 1e-6
    modes = Modes(sigma, group, vectors.astype(np.float32), vectors.astype(np.float32))
    final = np.random.default_rng(0).standard_normal((12, checkpoint.spec.d_model)).astype(np.float32)
    lexicon, way = make_lexicon(checkpoint, WordsPlan(draws=20, own=3)), go_direct(checkpoint.head(), final)
    found = finish_words([words_of(lexicon, way, NOWHERE, 0, "mlp", modes)])
    for row in map(_named, found.shared):
        assert bool(row["top"]) == (row["mode"] == 3), row
        assert ("a subspace" in row["reason"]) == (row["mode"] < 3)
    for row in map(_own_named, found.own):
        assert (row["samples"], row["unnamed"]) == ((12, 0) if row["mode"] == 3 else (0, 12))
        assert bool(row["first"]) == (row["mode"] == 3)
    apart = modes._replace(sigma=np.tile([2.0, 1.5, 1.0], (12, 1)), group=np.tile([0, 1, 2], (12, 1)))
    named = words_of(lexicon, way, NOWHERE, 0, "mlp", apart).own  # the same vectors, were they known
    assert all(row["samples"] == 12 for row in map(_own_named, named))
    few = lexicon._replace(plan=lexicon.plan._replace(own_samples=5))
    drawn = words_of(few, way, NOWHERE, 0, "mlp", apart).own
    assert [_own_named(row)["samples"] for row in drawn] == [5] * len(named)
    assert len({*own_samples(few, 40).tolist()}) == 5
    assert own_samples(few, 3).tolist() == [0, 1, 2]


def test_a_model_without_unembedding_has_words_of_reads_alone(tmp_path: Path) -> None:
    save_random(tmp_path, "bert", **config_of("bert", CASES[FIRST_CASES["bert"]][1]))
    checkpoint = dataclasses.replace(open_checkpoint(tmp_path), has_head=False)
    checkpoint.__dict__["tokenizer"] = Numbers()
    width = checkpoint.spec.d_model
    lexicon = make_lexicon(checkpoint, WordsPlan(draws=20, through=DEPTH))
    assert not lexicon.writes_to_tokens("")
    vectors = np.tile(np.eye(1, width, dtype=np.float32), (4, 1))
    modes = _modes(vectors, vectors)
    words = read_component(lexicon, NOWHERE, 0, "attn", modes, _shared(modes, "reads"))
    assert {_named(row)["side"] for row in words.shared} == {_own_named(row)["side"] for row in words.own} == {READ}
    assert "no unembedding" in lexicon.facts["writes"]
    assert lexicon.facts["through"] is None


def test_reads_are_scored_with_average_streams_and_writes_with_chance_of_the_stream(tmp_path: Path) -> None:
    """NumPy on the streams themselves: averages by token without first tokens, cosines, and draws of a covariance."""
    save_random(tmp_path, "llama", **config_of("llama", CASES[FIRST_CASES["llama"]][1]))
    numbers = np.random.default_rng(0)
    tokens = [numbers.integers(0, 12, length).tolist() for length in (9, 24, 17, 20)]
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        checkpoint.__dict__["tokenizer"] = Numbers()
        batches = prepare_batches(checkpoint, tokens, memory_gib=1.0, engine="lanczos", largest=3)
        final = numbers.standard_normal((4, checkpoint.spec.d_model))
        plan = WordsPlan(draws=4000, shown=50)
        lexicon, way = make_lexicon(checkpoint, plan), go_direct(checkpoint.head(), final)
        seen: list[Any] = []

        def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
            left = [step(block, stream) for stream in streams]
            if number == 1:
                seen.append((surround(lexicon, 1, batches, streams, left), streams, left))
            return Visit(None, left)

        assert not list(walk(checkpoint, batches, visit, last=1, decoder_input="shifted"))
        ((around, entering, left),) = seen
        by_token: dict[int, list[np.ndarray]] = {}
        for padded, stream in zip(batches, entering, strict=True):
            packing = stream.batch.packing
            for row, sample in enumerate(padded.samples):
                pack, slot = divmod(row, packing.lengths.shape[1])
                for position in range(1, len(tokens[sample])):
                    place = packing.places[pack, slot, position]
                    by_token.setdefault(tokens[sample][position], []).append(np.asarray(stream.hidden)[pack, place])
        often = {token: np.mean(each, axis=0) for token, each in by_token.items() if len(each) >= 3}
        assert around.streams is not None
        assert around.streams.ids.tolist() == sorted(often)
        averages = np.stack([often[token] for token in sorted(often)])
        direction = np.linalg.qr(numbers.standard_normal((checkpoint.spec.d_model, 1)))[0][:, 0]
        centred = averages - averages.mean(axis=0)
        cosines = centred @ direction / np.linalg.norm(centred, axis=1)
        vectors = np.tile(direction, (4, 1))
        words = words_of(lexicon, way, around, 1, "attn", _modes(vectors, vectors))
        rows = {row["side"]: row for row in map(_named, words.shared)}
        assert rows[READ_STREAM]["strongest"] == pytest.approx(np.abs(cosines).max(), rel=1e-9)
        # Chance of writes has the second moments of unit vectors with the covariance of the stream that leaves.
        leaving = later_tokens(batches, left)[0]
        root = np.linalg.cholesky(np.cov(leaving.T))
        drawn = numbers.standard_normal((4000, root.shape[0])) @ root.T
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        weight = np.asarray(checkpoint.head().unembed.weight[...])
        scores = drawn @ np.asarray(way.mean).T @ (weight - weight.mean(axis=0)).T
        chance = draw_writes(lexicon, way, around).shared
        assert chance is not None
        assert scipy.stats.ks_2samp(chance.strongest, np.abs(scores).max(axis=1)).pvalue > 0.01
        assert rows[WRITE]["chance"] == pytest.approx(np.median(chance.strongest))
    assert len(carry(checkpoint, batches)) == len(batches)


def planted_run(folder: Path, *, beyond: bool) -> Run:
    """Three write directions, of which one has no words and one names tokens beyond chance, where planted."""
    q = 0.01 if beyond else 0.4
    rows = [
        (0, "attn", WRITE, 1, 0.4, 0.5, 0.99, 2.0, 0.5, q / 2, q, '[[" the", 2.0], ["\\n", 1.0]]', '[["x", -1.0]]', ""),
        (1, "attn", WRITE, 1, 0.3, 0.5, 0.95, 0.6, 0.5, 0.4, 0.4, '[["a b", 0.6]]', '[["y", -0.2]]', ""),
        (1, "attn", WRITE, 2, 0.2, 0.5, 0.3, *[np.nan] * 4, "", "", "two halves"),
    ]
    own = [(0, "attn", WRITE, 1, 20, 0, "nan", 9, 2.0, 0.5, q, q, '[["nan", 9], ["z", 1]]')]
    checked = dict.fromkeys(CHECK_COLUMNS, 0.0) | {"layer": 1, "component": "attn", "samples": 20, "chance_kl": 1.0}
    high = 4.0 if beyond else 1.2
    checked |= {"kl": high, "ratio": high, "ratio_low": high - 0.5, "ratio_high": high + 1, "predicted": 0.83}
    checks = [checked | {"kind": kind, "change": change} for kind in ("read", "write") for change in ("0.1", "remove")]
    for name, columns, table in ((WORDS_FILE, WORD_COLUMNS, rows), (OWN_FILE, OWN_COLUMNS, own)):
        pandas.DataFrame(table, columns=columns).to_csv(folder / name, index=False)
    pandas.DataFrame(checks).to_csv(folder / CHECK_FILE, index=False)
    run = Run(folder)
    vars(run).update(provenance={"task": "modes", "words": {"draws": 99, "writes": "derivative of the head"}})
    return run


@pytest.mark.parametrize("beyond", [True, False])
def test_page_and_sentences_say_which_words_are_beyond_chance(beyond: bool, tmp_path: Path) -> None:
    run = planted_run(tmp_path, beyond=beyond)
    page = "".join(words_section(run)) + "".join(check_section(run))
    assert ("<strong>␣the · \\n</strong>" in page) == ("<strong>nan 9, z 1</strong>" in page) == beyond
    assert "a␣b" in page
    assert "<strong>a␣b" not in page
    assert "2 of 3 have words" in page
    said = " ".join([*words_findings(run), *check_findings(run)])
    assert ("1 makes a token likelier" in said) == ("attention 0 (␣the · \\n; 2 beside 0.5)" in said) == beyond
    assert ("none make a token likelier" in said) == (not beyond)
    assert ("|score| 2 beside 0.5, “nan” in 9 of 20 samples" in said) == beyond
    assert f"in {int(beyond)} of 1 places" in said
    assert ("4 [3.5, 5] times as much" in said) == beyond


@pytest.mark.parametrize("beyond", [True, False])
def test_one_direction_is_spoken_of_in_the_singular(beyond: bool, tmp_path: Path) -> None:
    run = planted_run(tmp_path, beyond=beyond)
    run.table(WORDS_FILE).head(1).to_csv(tmp_path / WORDS_FILE, index=False)
    run = Run(tmp_path)
    vars(run).update(provenance={"task": "modes"})
    said = next(iter(words_findings(run)))
    ends = "makes a token likelier more than" if beyond else "does not make a token likelier beyond"
    assert said.startswith(f"The one write direction that samples share and that has words {ends} directions")


def test_text_of_tokens() -> None:
    class Pieces(Numbers):
        def convert_ids_to_tokens(self, token: int) -> str:
            return ["▁the", "Ġthe", "##ing", "\xff"][token]

        def convert_tokens_to_string(self, pieces: Sequence[str]) -> str:
            return pieces[0].replace("▁", "").replace("Ġ", " ").replace("\xff", "\N{REPLACEMENT CHARACTER}")

    assert [token_text(Pieces(), token) for token in range(4)] == [" the", " the", "##ing", "\xff"]
    assert token_text(Pieces(), 20_000) == "<20000>"
