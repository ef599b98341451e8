"""What a family is: how config keys map to a `ModelSpec`, and which tensor fills which leaf.

A family is one `Architecture` row, in `families/`. Everything a checkpoint says must be accounted for: a config key
that HF's code for the family reads is honoured or ignored with a reason; a tensor is in the tables or unused with a
reason. `tests/test_config_keys.py` derives which keys HF reads from its source, and holds the rows to them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from jacspec.errors import JacspecError
from jacspec.models.block import BlockSpec, ModelSpec
from jacspec.models.positions import ROTARY_KINDS, RotarySpec

Tensor = Shaped[np.ndarray, "..."]
Config = Mapping[str, Any]


class Target(NamedTuple):
    """What a rule fills: the shapes of its leaves, and how many key and value heads the block's attention has."""

    shapes: tuple[tuple[int, ...], ...]
    kv_heads: int


PARALLEL, ONE_NORM = "parallel", "one norm"


class TensorRule(NamedTuple):
    """One HF tensor and the module leaves it fills; `{layer}` in `name` stands for the layer in its stack.

    With `*` in `name` it lies in pieces, a tensor for each row of its leading axis: a head or an expert each.
    `load` turns the tensor into the leaves, in order; `save` turns the leaves back into the tensor. A rule whose
    leaves the module lacks (a bias in a model without biases) does not apply; nor does one whose leaf `given` it
    lacks, or whose leaf `unless` it has; `PARALLEL` counts as a leaf of a block with parallel branches,
    `ONE_NORM` where these have the same norm.
    """

    name: str
    leaves: tuple[str, ...]
    load: Callable[[Tensor, Target], Sequence[Tensor]]
    save: Callable[[Sequence[Any], Target], Any]
    given: str | None = None
    unless: str | None = None

    def applies(self, leaves: Collection[str]) -> bool:
        """Say whether the rule concerns a module with these leaves."""
        has_all = all(leaf in leaves for leaf in self.leaves)
        return has_all and (self.given is None or self.given in leaves) and self.unless not in leaves


Rules = tuple[TensorRule, ...]


def piece_names(name: str, target: Target) -> list[str]:
    """Name the tensors that a tensor lies in: itself, or of one in pieces those of all rows."""
    return [name.replace("*", str(number)) for number in range(target.shapes[0][0])] if "*" in name else [name]


class Architecture(NamedTuple):
    """A family: its HF `model_type`, its config keys and its tensors.

    `spec` makes the `ModelSpec` from the config, class defaults filled in; the keys it reads are the keys that
    jacspec honours. `ignored` maps further keys to the reason why they change nothing here. `embedding`, `blocks`
    (by stack), `encoder_norm` and `head` are the tensor tables of the modules; `tied` maps tensors to those that a
    tied model shares them with, either serving where a checkpoint lacks the other. `language_model` are the prefixes
    of names that a bare checkpoint, saved without its language-model head, lacks. `prefixes` may stand before every
    name. `unused` maps names in layers and embeddings that enter no forward pass to the reason, `renamed` old endings
    of names to those in the tables. `tower` is the key under which a model of several
    towers keeps the text tower's config, which `spec` is given.
    """

    model_type: str
    spec: Callable[[Config], ModelSpec]
    embedding: Rules
    blocks: Mapping[str, Rules]
    head: Rules
    ignored: Mapping[str, str] = {}
    encoder_norm: Rules = ()
    tied: Mapping[str, str] = {}
    language_model: tuple[str, ...] = ("lm_head.",)
    prefixes: tuple[str, ...] = ("model.",)
    unused: Mapping[str, str] = {}
    renamed: Mapping[str, str] = {}
    tower: str = ""

    def rules(self, part: str, stack: str = "") -> Rules:
        """Return the tensor table of a part: `embedding`, `block`, `encoder_norm` or `head`."""
        return self.blocks[stack] if part == "block" else getattr(self, part)


class ReadKeys(Mapping[str, Any]):
    """A config that remembers which of its keys were read."""

    def __init__(self, config: Config):
        self.config, self.read = config, set[str]()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return self.config[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.config)

    def __len__(self) -> int:
        return len(self.config)


def same(name: str, *leaves: str) -> TensorRule:
    """Make a rule for a tensor that is stored as the leaf is; several leaves are each filled with it."""
    return TensorRule(name, leaves, lambda tensor, target: (tensor,) * len(target.shapes), lambda parts, _: parts[0])


def linear(name: str, leaf: str) -> Rules:
    """Make the rules of a linear map or norm stored `(out, in)`: its weight and, where it has one, its bias."""
    return tuple(same(f"{name}.{kind}", f"{leaf}.{kind}") for kind in ("weight", "bias"))


def transposed(name: str, leaf: str) -> TensorRule:
    """Make a rule for a weight stored `(in, out)`, as HF's Conv1D does."""
    return TensorRule(name, (leaf,), lambda tensor, _: (tensor.T,), lambda parts, _: parts[0].T)


def fused(name: str, *leaves: str, transpose: bool = False) -> TensorRule:
    """Make a rule for a tensor that holds `leaves` one after the other along its output axis.

    With `transpose` the tensor is stored `(in, out)`.
    """

    def load(tensor: Tensor, target: Target) -> Sequence[Tensor]:
        ends = np.cumsum([shape[0] for shape in target.shapes])
        return np.split(tensor.T if transpose else tensor, ends[:-1].tolist())

    def save(parts: Sequence[Any], _: Target) -> Any:
        whole = jnp.concatenate(parts)
        return whole.T if transpose else whole

    return TensorRule(name, leaves, load, save)


def fused_by_head(name: str, *leaves: str) -> TensorRule:
    """Make a rule for a tensor that holds, for one key head after the other, the rows that it takes of each leaf.

    In GPT-NeoX those are one query, key and value head; with a single key head (GPT-BigCode) all queries stand first.
    """

    def load(tensor: Tensor, target: Target) -> Sequence[Tensor]:
        by_head = tensor.reshape(target.kv_heads, -1, *tensor.shape[1:])
        ends = np.cumsum([shape[0] // target.kv_heads for shape in target.shapes])
        parts = np.split(by_head, ends[:-1].tolist(), axis=1)
        return [part.reshape(shape) for part, shape in zip(parts, target.shapes, strict=True)]

    def save(parts: Sequence[Any], target: Target) -> Any:
        by_head = [part.reshape(target.kv_heads, -1, *part.shape[1:]) for part in parts]
        return jnp.concatenate(by_head, axis=1).reshape(-1, *parts[0].shape[1:])

    return TensorRule(name, leaves, load, save)


def read_rotary(
    given: Mapping[str, Any], d_head: int, longest: int, *, partial: bool = False, interleaved: bool = False
) -> RotarySpec:
    """Read HF's `rope_parameters`; raises `JacspecError` for a kind that jacspec does not know.

    **Arguments:** `longest`, the tokens of the longest sample, by the config; `partial`, whether HF's code for the
    family turns a fraction of a head where `partial_rotary_factor` says so; `interleaved`, whether it turns neighbours.
    """
    kind = given.get("rope_type", "default")
    if kind not in ROTARY_KINDS:
        raise JacspecError(
            f"Rotary embeddings of kind {kind!r} are not supported. Nearest supported: {', '.join(ROTARY_KINDS)}."
        )
    fraction = given.get("partial_rotary_factor", 1.0)
    if not partial and fraction != 1.0:
        if kind != "default":
            raise JacspecError(
                f"partial_rotary_factor={fraction} with {kind!r} is not supported. Nearest supported: 1."
            )
        fraction = 1.0  # HF's code for the family does not read it
    plain = ("rope_type", "rope_theta", "factor", "partial_rotary_factor", "type")
    factor, context = given.get("factor"), None
    if kind == "longrope":
        context = int(given["original_max_position_embeddings"])
        factor = factor or longest / context
    return RotarySpec(
        dim=int(d_head * fraction),
        theta=float(given["rope_theta"]),
        interleaved=interleaved,
        kind=kind,
        factor=float(factor or 1.0),
        parameters=tuple(
            (key, tuple(value) if isinstance(value, list) else value)
            for key, value in sorted(given.items())
            if key not in plain
        ),
        context=context,
    )


def with_blocks(
    spec: ModelSpec, *, attention: Config | None = None, mlp: Config | None = None, **own: Any
) -> ModelSpec:
    """Change fields of every block, of its attention and of its MLP: what a relative does differently."""

    def changed(block: BlockSpec) -> BlockSpec:
        parts: dict[str, Any] = {
            "attention": replace(block.attention, **attention or {}),
            "mlp": replace(block.mlp, **mlp or {}),
        }
        return replace(block, **parts, **own)

    return replace(spec, blocks=tuple(map(changed, spec.blocks)))


def require(config: Config, key: str, accepted: Any, nearest: str) -> None:
    """Refuse a config whose `key` is not the `accepted` value, naming the `nearest` thing that is supported."""
    if config.get(key, accepted) != accepted:
        raise JacspecError(f"{key}={config[key]!r} is not supported. Nearest supported: {nearest}.")


GENERATION = "concerns text generation, not the forward pass"
TRAINING = "acts in training only"
LABELS = "concerns a classification head"
SUMMARY = dict.fromkeys(
    (
        "summary_activation",
        "summary_first_dropout",
        "summary_last_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ),
    LABELS,
)
MASK = "a causal mask"
FREQUENCIES = "rotary frequencies, which the config gives"
VISION = "concerns images"
COMPUTING = "a way to compute, not what is computed"
INITIALISATION = "of random weights; a family that is drawn by another of these keys does not read this one"
ROTARY_KEYS = dict.fromkeys(
    ("rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings"),
    "an old spelling, which HF moves to rope_parameters",
)

IGNORED_EVERYWHERE: Mapping[str, str] = {
    "_attn_implementation": COMPUTING,
    "_attn_implementation_autoset": COMPUTING,
    "_commit_hash": "a label",
    "_name_or_path": "a label",
    "architectures": "names the HF class; the tensors decide",
    "attention_dropout": TRAINING,
    "attn_implementation": COMPUTING,
    "bos_token_id": "the tokenizer adds special tokens",
    "cache_implementation": GENERATION,
    "chunk_size_feed_forward": COMPUTING,
    "classifier_dropout": LABELS,
    "distributed_config": COMPUTING,
    "dropout": TRAINING,
    "dtype": "weights are read at the dtype they have and cast to the run's precision",
    "eos_token_id": "the tokenizer adds special tokens",
    "experts_implementation": COMPUTING,
    "finetuning_task": "a label",
    "fusion_config": COMPUTING,
    "gradient_checkpointing": TRAINING,
    "hidden_dropout": TRAINING,
    "id2label": LABELS,
    "is_encoder_decoder": "says what a decoder caches; T5, which it concerns, reads it",
    "init_std": INITIALISATION,
    "initializer_factor": INITIALISATION,
    "initializer_range": INITIALISATION,
    "kv_sharing_modes": GENERATION,
    "label2id": LABELS,
    "model_type": "chose this row",
    "name_or_path": "a label",
    "num_labels": LABELS,
    "output_attentions": "selects HF outputs",
    "output_hidden_states": "selects HF outputs",
    "output_past": GENERATION,
    "pad_token_id": "padding never enters a result",
    "prefix": GENERATION,
    "pretraining_tp": COMPUTING,
    "problem_type": LABELS,
    "return_dict": "selects HF outputs",
    "sep_token_id": "the tokenizer adds special tokens",
    "task_specific_params": GENERATION,
    "tie_last_hidden_states": "selects HF outputs",
    "token_classification_bias": LABELS,
    "tokenizer_class": "the tokenizer's own files decide",
    "torch_dtype": "weights are read at the dtype they have and cast to the run's precision",
    "transformers_version": "a label",
    "use_cache": GENERATION,
}
