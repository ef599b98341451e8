# Written by tests/stub.py from the options of the studies: change those, then run it.
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas

from jacspec.api import compute_spectra as compute_spectra
from jacspec.api import load_model as load_model
from jacspec.api import write_report as write_report
from jacspec.api.functions import run as run
from jacspec.api.result import Run as Run
from jacspec.api.result import open_run as open_run
from jacspec.api.result import open_sweep as open_sweep
from jacspec.errors import JacspecError as JacspecError
from jacspec.errors import JacspecTypeError as JacspecTypeError
from jacspec.jacobians.operator import Jacobian

__version__: str

def jacobian(
    model: Any,
    text: str | Sequence[int] | np.ndarray,
    *,
    layer: int,
    component: str = "mlp",
    position: int = -1,
    tokenizer: Any = None,
    decoder_input: Literal["shifted", "start"] = "shifted",
    precision: Literal["float32", "float64"] = "float32",
) -> Jacobian: ...
def compare(
    runs: Run | str | Path | Sequence[Run | str | Path],
    texts: Any = None,
    *,
    data: str | Path | None = None,
    against: int = 0,
    draws: int = 2000,
    quality: str | None = None,
    characters: int = 16384,
    memory_gib: float = 1.0,
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""Finished runs of one task beside each other: runs=['FOLDER', 'FOLDER'] or runs='MULTIRUN_FOLDER'

    - `runs`: finished runs: what studies returned, folders, or one folder of a sweep
    - `texts`: one str or several, or lists of token ids: each is a sample
    - `data`: instead of `texts`: verse, shakespeare, wikitext, bookcorpus, or a file; by default verse
    - `against`: the run that others are held against, by its place among them
    - `draws`: of the noise floor, and of orders of more than 8 models
    - `quality`: what metrics of models are correlated with: text, how well each predicts data, or
      FILE.csv
    - `characters`: of that text, from its beginning, at most
    - `memory_gib`: what work arrays may take where the device does not tell
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def coupling(
    model: Any = "nano",
    texts: Any = None,
    *,
    data: str | Path | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    end: Literal["random", "sample"] = "random",
    components: str | Sequence[str] = ("attn", "mlp"),
    layers: int | Sequence[int] | None = None,
    samples: int | None = None,
    split: Literal["sentences", "lines"] = "sentences",
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    position: int | Sequence[int] | None = None,
    decoder_input: Literal["shifted", "start"] = "shifted",
    engine: str = "auto",
    tolerance: float = 1e-05,
    audit: int = 2,
    memory_gib: float = 1.0,
    devices: int | str = "auto",
    batch: int | None = None,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""Each layer's Jacobians beside its weights: the bound that the factors give, alignment, and which layer reads which.

    - `model`: a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model
      in memory; of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to
      arrays
    - `texts`: one str or several, or lists of token ids: each is a sample
    - `data`: instead of `texts`: verse, shakespeare, wikitext, bookcorpus, or a file; by default verse
    - `tokenizer`: of a PyTorch model
    - `revision`: of the hub, or of a training run
    - `init`: pretrained or random
    - `end`: where a sample ends: random (cut at a drawn token, so that all kinds of token occur),
      sample
    - `components`: attn, mlp, cross, block, or full names as decoder.attn: one or several, or all
    - `layers`: which layers, -1 the last; None: all
    - `samples`: how many samples are drawn; None: as the text says (verse 200), all given texts
    - `split`: what a sample of a file is: sentences or lines
    - `min_tokens`: shorter samples are left out; None: 5, of given texts 1
    - `max_tokens`: longer samples are cut; None: 100, given token ids stay whole
    - `position`: the token at which a sample ends, one for all or one a sample; None: its last
    - `decoder_input`: what the decoder of an encoder-decoder model is fed: shifted or start
    - `engine`: auto, jacfwd, analytic or lanczos
    - `tolerance`: relative error at which an engine that iterates stops
    - `audit`: samples a layer that are recomputed to check the engine
    - `memory_gib`: what work arrays may take where the device does not tell
    - `devices`: over how many devices a batch is spread
    - `batch`: samples of a batch that a device takes at most
    - `precision`: float32 or float64, of everything that is computed
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def delta(
    model: Any = "nano",
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    base: str | None = None,
    top_k: int = 10,
    threshold: float = 0.5,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    embeddings: bool = False,
    layers: int | Sequence[int] | None = None,
    precision: Literal["float32", "float64"] = "float32",
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""What a model changed in its base, matrix by matrix: an adapter, a trained model, a file of few bits.

    - `model`: a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model
      in memory; of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to
      arrays
    - `tokenizer`: of a PyTorch model
    - `revision`: of the hub, or of a training run
    - `init`: pretrained or random
    - `base`: what the model is compared with: a folder, a ready-made name or ORG/NAME, @REVISION for
      another than the default; None: what an adapter lies on
    - `top_k`: leading singular vectors that may be intruders
    - `threshold`: the largest |cos| with the base's singular vectors below which one is an intruder
    - `include`: patterns on tensor name or role, as include=['q', 'k', '*.mlp.*']; empty: all
    - `exclude`: patterns of matrices that are left out
    - `embeddings`: embeddings and unembedding too
    - `layers`: which layers, -1 the last; None: all
    - `precision`: float32 or float64, of everything that is computed
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def depth(
    model: Any = "nano",
    texts: Any = None,
    *,
    data: str | Path | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    first: int = 0,
    last: int | None = None,
    exponents: int = 4,
    dense: int = 0,
    metrics: str | Sequence[str] = "paper",
    samples: int | None = None,
    split: Literal["sentences", "lines"] = "sentences",
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    position: int | Sequence[int] | None = None,
    decoder_input: Literal["shifted", "start"] = "shifted",
    engine: str = "auto",
    tolerance: float = 1e-05,
    audit: int = 2,
    memory_gib: float = 1.0,
    devices: int | str = "auto",
    batch: int | None = None,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""The Jacobian of the last token's stream through many layers: its top spectrum and Lyapunov exponents with depth.

    - `model`: a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model
      in memory; of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to
      arrays
    - `texts`: one str or several, or lists of token ids: each is a sample
    - `data`: instead of `texts`: verse, shakespeare, wikitext, bookcorpus, or a file; by default verse
    - `tokenizer`: of a PyTorch model
    - `revision`: of the hub, or of a training run
    - `init`: pretrained or random
    - `first`: from the input of this layer
    - `last`: to the output of this one; None: the model's last
    - `exponents`: Lyapunov exponents a sample
    - `dense`: samples whose product is formed: its effective rank, and growth with all blocks made
      normal
    - `metrics`: names of metrics, `paper` or `full`: one or several
    - `samples`: how many samples are drawn; None: as the text says (verse 200), all given texts
    - `split`: what a sample of a file is: sentences or lines
    - `min_tokens`: shorter samples are left out; None: 5, of given texts 1
    - `max_tokens`: longer samples are cut; None: 100, given token ids stay whole
    - `position`: the token at which a sample ends, one for all or one a sample; None: its last
    - `decoder_input`: what the decoder of an encoder-decoder model is fed: shifted or start
    - `engine`: auto, jacfwd, analytic or lanczos
    - `tolerance`: relative error at which an engine that iterates stops
    - `audit`: samples a layer that are recomputed to check the engine
    - `memory_gib`: what work arrays may take where the device does not tell
    - `devices`: over how many devices a batch is spread
    - `batch`: samples of a batch that a device takes at most
    - `precision`: float32 or float64, of everything that is computed
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def dynamics(
    runs: Run | str | Path | Sequence[Run | str | Path],
    *,
    final_step: int | None = None,
    least_change: float = 0.1,
    draws: int = 2000,
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""Finished runs of one model at several training steps: runs='MULTIRUN_FOLDER' of a sweep over revision

    - `runs`: finished runs: what studies returned, folders, or one folder of a sweep
    - `final_step`: the training step of the run without a revision, where there is one (nano: 4096)
    - `least_change`: a change counts from this share of the larger of first and last value
    - `draws`: of the noise floor
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def finetune(
    model: Any = "nano",
    texts: Any = None,
    *,
    data: str | Path | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    path: str | None = None,
    held_out: str | None = None,
    layout: Literal["columns", "boolq"] = "columns",
    text: str = "text",
    second: str | None = None,
    label: str = "label",
    holdout: float = 0.25,
    max_tokens: int = 128,
    steps: int = 64,
    batch: int = 16,
    learning_rate: float = 0.001,
    warmup: float = 0.1,
    weight_decay: float = 0.01,
    frozen: int = 0,
    groups: int = 4,
    roles: str | Sequence[str] = ("q", "k", "v", "o", "up", "gate", "down"),
    seeds: int = 3,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""Remove a group of singular values before fine-tuning a classifier, or after it: what each order costs.

    - `model`: a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model
      in memory; of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to
      arrays
    - `texts`: one str or several, or lists of token ids: each is a sample
    - `data`: instead of `texts`: verse, shakespeare, wikitext, bookcorpus, or a file; by default verse
    - `tokenizer`: of a PyTorch model
    - `revision`: of the hub, or of a training run
    - `init`: pretrained or random
    - `path`: labelled text, JSONL or CSV; None: lines of `data`, misprinted or not
    - `held_out`: a second such file; None: a share of the first
    - `layout`: columns: as named below; boolq: question, passage, answer
    - `text`: the column of the text
    - `second`: a second text, joined to the first as the tokenizer joins pairs
    - `label`: the column of the label
    - `holdout`: the share held out
    - `max_tokens`: of an example; the rest is cut
    - `steps`: of AdamW on all weights, no dropout
    - `batch`: examples a step
    - `learning_rate`: peak; linear warm-up, then linearly to zero
    - `warmup`: share of the steps
    - `weight_decay`: on matrices only
    - `frozen`: first blocks that are not trained; from 1 on nor are the embeddings
    - `groups`: of singular values, group 1 the largest; the paper takes 10
    - `roles`: matrices that lose them, each its own
    - `seeds`: of the head and the order of examples: seed, seed + 1, ...
    - `precision`: float32 or float64, of everything that is computed
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def heads(
    model: Any = "nano",
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    draws: int = 199,
    shown: str | Sequence[str] = (),
    layers: int | Sequence[int] | None = None,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""Spectra of W_QK and W_OV of every attention head, beside products of Gaussian factors.

    - `model`: a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model
      in memory; of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to
      arrays
    - `tokenizer`: of a PyTorch model
    - `revision`: of the hub, or of a training run
    - `init`: pretrained or random
    - `draws`: of each kind of chance; p-values need 19 or more
    - `shown`: two heads for the figure two_heads, as [L7H6,L1H0]; by default nearest to chance, and
      farthest
    - `layers`: which layers, -1 the last; None: all
    - `precision`: float32 or float64, of everything that is computed
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def lazy(
    *,
    scales: float | Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    inputs: int = 32,
    width: int = 64,
    samples: int = 1024,
    steps: int = 2000,
    learning_rate: float = 0.02,
    groups: int = 10,
    removed: int | Sequence[int] = (1, 10),
    and_smaller: bool = False,
    seeds: int = 3,
    layers: int | Sequence[int] = (),
    path: str | None = None,
    batch: int = 128,
    frozen: int = 0,
    cut: int = 0,
    by_mass: bool = False,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""The control: how far a small network's weights move at an output scale alpha, and what its singular values carry. Reads no model and no text.

    - `scales`: alpha; small: rich, large: lazy
    - `inputs`: coordinates of a point
    - `width`: of both hidden layers
    - `samples`: points to train on, and as many to test
    - `steps`: of gradient descent over all points
    - `learning_rate`: of all steps
    - `groups`: of singular values, group 1 the largest
    - `removed`: the groups that are removed
    - `and_smaller`: each with all groups of smaller values: removed=[2,...,10] is 90 to 10 % of them
    - `seeds`: of teacher, points and weights: seed, seed + 1, ...
    - `layers`: a classifier of these sizes instead, inputs first and classes last:
      [3072,512,512,512,10]
    - `path`: folder of CIFAR-10's binary files, which it learns; None: generated points of its sizes
    - `batch`: points a step of the classifier
    - `frozen`: first layers of the classifier that are not trained
    - `cut`: first hidden layers of the classifier that groups are removed from; 0: all
    - `by_mass`: groups of the classifier have equal shares of the sum of its singular values, not of
      their number
    - `precision`: float32 or float64, of everything that is computed
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def merge(
    *,
    models: str | Sequence[str] = ("nano@step256", "nano@step1024"),
    base: str | None = "nano@step0",
    method: Literal[
        "average",
        "arithmetic",
        "star",
        "slerp",
        "ties",
        "dare_linear",
        "dare_ties",
        "della_linear",
        "della",
        "tsv_m",
        "iso_c",
        "iso_cts",
        "knots_ties",
        "spectral",
        "none",
    ] = "average",
    share: float = 0.4,
    density: float = 0.2,
    epsilon: float = 0.15,
    common: float = 0.8,
    alpha: float = 0.5,
    strength: float = 0.5,
    rank_variance: float | None = None,
    coefficient: float | None = None,
    weights: float | Sequence[float] = (),
    top_k: int = 8,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    embeddings: bool = False,
    resized: Literal["shared", "first"] = "shared",
    save: str | None = None,
    memory_gib: float = 1.0,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""Checkpoints of one architecture side by side, matrix by matrix, and merged into one in Hugging Face layout. Reads no text; the models are those named here.

    - `models`: ready-made names, folders or hub ids; @REVISION for another than the default
    - `base`: what all of them were trained from; None: none, and nothing but an average can be made
    - `method`: average, slerp, arithmetic, star, ties, dare_linear, dare_ties, della_linear, della,
      tsv_m, iso_c, iso_cts, knots_ties, spectral; none: compare only
    - `share`: star: of the nuclear norm of each matrix of a task vector, kept; 1 keeps all
    - `density`: ties, dare, della, knots_ties: the share of each task vector's entries that are kept
    - `epsilon`: della: how much more likely the largest entry of a row is kept than the smallest
    - `common`: iso_cts: the share of directions that are the sum's, not one model's
    - `alpha`: the share of the second of two models (method='spectral'), before strengths are compared
    - `strength`: how far that grows towards 1 where σ₁ of both differ: α' = α + (1 − α)(1 − c) s
    - `rank_variance`: of two effective ranks, above which a pair is flagged as different; None: never
    - `coefficient`: of the task vectors; None: 0.4 where they are summed (arithmetic, …_linear), else 1
    - `weights`: a number a model; empty: equal. Divided by their sum; where task vectors are joined but
      in star, as they are (1 if empty)
    - `top_k`: singular vectors of a leading subspace
    - `include`: patterns on tensor name or role: the matrices compared and truncated; empty: all
    - `exclude`: patterns of matrices that are left out
    - `embeddings`: embeddings and unembedding too
    - `resized`: embeddings of which one has more rows: shared, rows that all have are merged; first:
      left as is
    - `save`: where the merged checkpoint goes; None: merged/ in the run folder
    - `memory_gib`: what work arrays may take where the device does not tell
    - `precision`: float32 or float64, of everything that is computed
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def modes(
    model: Any = "nano",
    texts: Any = None,
    *,
    data: str | Path | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    k: int = 4,
    trailing: int = 0,
    gap: float = 0.01,
    end: Literal["random", "sample"] = "random",
    words: int = 8,
    draws: int = 499,
    through: Literal["direct", "depth"] = "direct",
    through_samples: int = 32,
    check: bool = False,
    check_layers: int | Sequence[int] | None = None,
    check_epsilons: float | Sequence[float] = (0.1,),
    check_random: int = 5,
    labelled: str | None = None,
    text: str = "text",
    labels: str | Sequence[str] = ("label",),
    components: str | Sequence[str] = ("attn", "mlp"),
    layers: int | Sequence[int] | None = None,
    metrics: str | Sequence[str] = "paper",
    top_k: int = 10,
    samples: int | None = None,
    split: Literal["sentences", "lines"] = "sentences",
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    position: int | Sequence[int] | None = None,
    decoder_input: Literal["shifted", "start"] = "shifted",
    engine: str = "auto",
    tolerance: float = 1e-05,
    audit: int = 2,
    memory_gib: float = 1.0,
    devices: int | str = "auto",
    batch: int | None = None,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""The directions that each Jacobian reads and writes: between samples, layers, beside the input, and in words.

    - `model`: a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model
      in memory; of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to
      arrays
    - `texts`: one str or several, or lists of token ids: each is a sample
    - `data`: instead of `texts`: verse, shakespeare, wikitext, bookcorpus, or a file; by default verse
    - `tokenizer`: of a PyTorch model
    - `revision`: of the hub, or of a training run
    - `init`: pretrained or random
    - `k`: leading singular triples that are kept
    - `trailing`: trailing ones, of a dense engine
    - `gap`: values closer than this share of the larger are one subspace, whose vectors have no names
    - `end`: where a sample ends: random (cut at a drawn token, so that all kinds of token occur),
      sample
    - `words`: tokens that a mode is said in, at either end of the ranking; 0: none
    - `draws`: directions of chance that words are compared with
    - `through`: what writes pass on their way to words: direct (the head alone), depth (later blocks
      too)
    - `through_samples`: samples, drawn, whose later blocks are multiplied for through='depth'
    - `check`: whether the directions are added and removed, and what becomes of the loss is measured
    - `check_layers`: the layers that are checked; None: first, middle and last
    - `check_epsilons`: how much of a direction is added, in lengths of the stream
    - `check_random`: directions of chance for each that is checked
    - `labelled`: labelled text, JSONL or CSV with a header, in the place of data: the samples are its
      texts
    - `text`: its column of texts
    - `labels`: its columns of labels, by which what is read of the input is summed up
    - `components`: attn, mlp, cross, block, or full names as decoder.attn: one or several, or all
    - `layers`: which layers, -1 the last; None: all
    - `metrics`: names of metrics, `paper` or `full`: one or several
    - `top_k`: the k of variance_top_k
    - `samples`: how many samples are drawn; None: as the text says (verse 200), all given texts
    - `split`: what a sample of a file is: sentences or lines
    - `min_tokens`: shorter samples are left out; None: 5, of given texts 1
    - `max_tokens`: longer samples are cut; None: 100, given token ids stay whole
    - `position`: the token at which a sample ends, one for all or one a sample; None: its last
    - `decoder_input`: what the decoder of an encoder-decoder model is fed: shifted or start
    - `engine`: auto, jacfwd, analytic or lanczos
    - `tolerance`: relative error at which an engine that iterates stops
    - `audit`: samples a layer that are recomputed to check the engine
    - `memory_gib`: what work arrays may take where the device does not tell
    - `devices`: over how many devices a batch is spread
    - `batch`: samples of a batch that a device takes at most
    - `precision`: float32 or float64, of everything that is computed
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def overlap(
    model: Any = "nano",
    texts: Any = None,
    *,
    data: str | Path | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    heads: bool = False,
    points: int = 0,
    fisher: int = 0,
    fisher_labels: Literal["data", "model"] = "data",
    linear_model: bool = False,
    layers: int | Sequence[int] | None = None,
    samples: int | None = None,
    split: Literal["sentences", "lines"] = "sentences",
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    position: int | Sequence[int] | None = None,
    decoder_input: Literal["shifted", "start"] = "shifted",
    memory_gib: float = 1.0,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""Singular vectors of every weight matrix beside the principal directions of the activations that enter it.

    - `model`: a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model
      in memory; of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to
      arrays
    - `texts`: one str or several, or lists of token ids: each is a sample
    - `data`: instead of `texts`: verse, shakespeare, wikitext, bookcorpus, or a file; by default verse
    - `tokenizer`: of a PyTorch model
    - `revision`: of the hub, or of a training run
    - `init`: pretrained or random
    - `heads`: also along the singular vectors of W_QK and W_OV of every head
    - `points`: tokens from which the intrinsic dimension of what enters is estimated; 0: it is not
    - `fisher`: samples from whose gradients the Fisher spectrum of every matrix is measured, as 64; 0:
      it is not
    - `fisher_labels`: of the text (empirical Fisher), or model: drawn from the prediction
    - `linear_model`: also beside a linear layer that has learnt: noise is left where the data vary
      least
    - `layers`: which layers, -1 the last; None: all
    - `samples`: how many samples are drawn; None: as the text says (verse 200), all given texts
    - `split`: what a sample of a file is: sentences or lines
    - `min_tokens`: shorter samples are left out; None: 5, of given texts 1
    - `max_tokens`: longer samples are cut; None: 100, given token ids stay whole
    - `position`: the token at which a sample ends, one for all or one a sample; None: its last
    - `decoder_input`: what the decoder of an encoder-decoder model is fed: shifted or start
    - `memory_gib`: what work arrays may take where the device does not tell
    - `precision`: float32 or float64, of everything that is computed
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def plan(
    model: Any = "nano",
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    devices: int | Sequence[int] = (1, 8, 64),
    tokens: float = 50.0,
    stored_bytes: int = 2,
    device: str = "NVIDIA H100 SXM",
    teraflops: float = 50.0,
    svd_ms: float = 1.9,
    bandwidth_gbs: float = 3350.0,
    memory_gb: float = 80.0,
    link_gbs: float = 64.0,
    hash_gbs: float = 1.99,
    load_gbs: float = 0.251,
    look_us: float = 43.5,
    disk_gbs: float = 3.0,
    efficiency: float | Sequence[float] = (0.1, 0.5),
    metrics: str | Sequence[str] = "paper",
    samples: int | None = None,
    engine: str = "auto",
    batch: int | None = None,
    folder: str | Path | None = None,
    silent: bool = False,
) -> pandas.DataFrame:
    r"""What a run would cost, from shapes alone: FLOPs, bytes and seconds on as many devices as are listed.

    - `model`: a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model
      in memory; of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to
      arrays
    - `tokenizer`: of a PyTorch model
    - `revision`: of the hub, or of a training run
    - `init`: pretrained or random
    - `devices`: how many, a column each
    - `tokens`: of a sample, padding included: the paper's sentences
    - `stored_bytes`: of a number in the checkpoint; GPT-2's are 4
    - `device`: whose figures these are; name yours where you change them
    - `teraflops`: products in float32, without TF32
    - `svd_ms`: the SVD kernel, a 768 x 768 matrix
    - `bandwidth_gbs`: of a device's memory, GB/s
    - `memory_gb`: of a device
    - `link_gbs`: from host to device, GB/s
    - `hash_gbs`: weights that are hashed, GB/s
    - `load_gbs`: weights that are read and cast, GB/s
    - `look_us`: microseconds of the host to judge the bounds of a sample
    - `disk_gbs`: of a host, for all its processes
    - `efficiency`: share of the products' speed and of the bandwidth that a run reaches
    - `metrics`: names of metrics, `paper` or `full`: one or several
    - `samples`: how many samples are drawn; None: as the text says (verse 200), all given texts
    - `engine`: auto, jacfwd, analytic or lanczos
    - `batch`: samples of a batch that a device takes at most
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def removal(
    model: Any = "nano",
    texts: Any = None,
    *,
    data: str | Path | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    by: Literal["role", "layer", "all"] = "role",
    roles: str | Sequence[str] = (),
    groups: int = 10,
    ranges: Sequence[Sequence[float]] = (),
    tokens: int | None = 4096,
    masked_tokens: int | None = 256,
    window: int | None = None,
    stride: int | None = None,
    save: str | None = None,
    memory_gib: float = 1.0,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""Remove groups of rank-ordered singular values, role by role, and measure how much worse a text is predicted.

    - `model`: a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model
      in memory; of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to
      arrays
    - `texts`: one str or several, or lists of token ids: each is a sample
    - `data`: instead of `texts`: verse, shakespeare, wikitext, bookcorpus, or a file; by default verse
    - `tokenizer`: of a PyTorch model
    - `revision`: of the hub, or of a training run
    - `init`: pretrained or random
    - `by`: what loses a group at once: a role in all layers, a layer in all roles, or all
    - `roles`: as [q,k,v,o,up,gate,down]; empty: all that the model has
    - `groups`: of the same size, the largest values first
    - `ranges`: instead of groups, as [[0,0.01],[0.9,1]]: shares of the ranks, 0 the largest value
    - `tokens`: of the text, at most; None: all
    - `masked_tokens`: the same for encoders (BERT, …), where each token costs a pass over a window
    - `window`: tokens read at once; None: the model's positions (encoders: 64)
    - `stride`: tokens from window to window; None: 512, or half a window where that is less
    - `save`: where the one model that is measured is saved in Hugging Face layout, as with by='all'
      ranges=[[0.5,1]]
    - `memory_gib`: what work arrays may take where the device does not tell
    - `precision`: float32 or float64, of everything that is computed
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def train(
    texts: Any = None,
    *,
    data: str | Path | None = None,
    vocab: int = 1024,
    positions: int = 128,
    layers: int = 6,
    heads: int = 6,
    d_model: int = 96,
    steps: int = 4096,
    batch: int = 16,
    learning_rate: float = 0.003,
    weight_decay: float = 0.1,
    warmup: int = 100,
    holdout: float = 0.1,
    revisions: int | Sequence[int] = (0, 16, 64, 256, 1024),
    dtype: str = "float16",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""Train a small GPT-2-architecture model with its own tokenizer on the chosen text, in HF layout.

    - `texts`: one str or several, or lists of token ids: each is a sample
    - `data`: instead of `texts`: verse, shakespeare, wikitext, bookcorpus, or a file; by default verse
    - `vocab`: byte-level BPE, <|endoftext|> included
    - `positions`: tokens that it reads at most
    - `layers`: blocks
    - `heads`: of each block
    - `d_model`: width of the residual stream
    - `steps`: of AdamW
    - `batch`: windows of `positions` tokens
    - `learning_rate`: peak; linear warm-up, then cosine to a tenth
    - `weight_decay`: on matrices only
    - `warmup`: steps of it
    - `holdout`: the last part of the text, for the bits per byte
    - `revisions`: steps that are kept, beside the last
    - `dtype`: of the weights on disk
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """

def weights(
    model: Any = "nano",
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    embeddings: bool = False,
    stacked: Literal["auto", "experts", "kernel", "skip"] = "auto",
    against: Literal["shuffled", "gaussian", "none"] = "gaussian",
    extra: str | Sequence[str] = (),
    draws: int = 199,
    show_layer: int = 0,
    show_role: str | None = None,
    layers: int | Sequence[int] | None = None,
    metrics: str | Sequence[str] = "paper",
    top_k: int = 10,
    memory_gib: float = 1.0,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    folder: str | Path | None = None,
    silent: bool = False,
) -> Run:
    r"""Spectra of the weight matrices, by role and layer, beside chance.

    - `model`: a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model
      in memory; of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to
      arrays
    - `tokenizer`: of a PyTorch model
    - `revision`: of the hub, or of a training run
    - `init`: pretrained or random
    - `include`: patterns on tensor name or role, as include=['q', 'k', '*.mlp.*']; empty: all
    - `exclude`: patterns of matrices that are left out
    - `embeddings`: embeddings and unembedding too
    - `stacked`: tensors of three axes read by name: experts (a matrix each), kernel (one matrix), skip;
      auto: by name and shape
    - `against`: one draw of chance beside each spectrum: gaussian (one a shape), shuffled (its own
      entries), none
    - `extra`: further columns, by name or group: vectors (singular vectors), spacings (of singular
      values), tails, eigenvalues (of square matrices); minutes for a large model
    - `draws`: of the bootstraps of extra=['tails']
    - `show_layer`: the layer that figures of single matrices show
    - `show_role`: the role whose matrix the figure one_matrix shows; None: qkv, or the first that there
      is
    - `layers`: which layers, -1 the last; None: all
    - `metrics`: names of metrics, `paper` or `full`: one or several
    - `top_k`: the k of variance_top_k
    - `memory_gib`: what work arrays may take where the device does not tell
    - `precision`: float32 or float64, of everything that is computed
    - `seed`: of all that is drawn
    - `folder`: where the run is kept; None: a temporary folder, which goes with the run
    - `silent`: show no progress

    Returns a `jacspec.Run`.
    """
