"""The typed schema of a run. `conf/` carries the values, these dataclasses the types; importing it is cheap."""

import dataclasses
import enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

PACKAGE = Path(__file__).resolve().parent
ASSETS = PACKAGE / "assets"


class Init(enum.Enum):
    """Where weights come from."""

    pretrained = "pretrained"
    random = "random"


class Split(enum.Enum):
    """What a sample is."""

    sentences = "sentences"
    lines = "lines"


class DecoderInput(enum.Enum):
    """What the decoder of an encoder-decoder model is fed, its encoder reading the sample."""

    shifted = "shifted"
    start = "start"


class Against(enum.Enum):
    """What a weight matrix is compared with: its own entries in another order, or Gaussian ones of their variance."""

    shuffled = "shuffled"
    gaussian = "gaussian"
    none = "none"


class Stacked(enum.Enum):
    """What a tensor of three axes, read by name, is: matrices one behind the other, a kernel, or nothing wanted."""

    auto = "auto"
    experts = "experts"
    kernel = "kernel"
    skip = "skip"


class End(enum.Enum):
    """Where a sample ends: at a drawn token of it, or at its own last one."""

    random = "random"
    sample = "sample"


class RemoveBy(enum.Enum):
    """What loses singular values at once: the matrices of a role in all layers, or of all roles in a layer."""

    role = "role"
    layer = "layer"


class Resized(enum.Enum):
    """What becomes of tables of tokens and positions that have more rows in one model than in another."""

    shared = "shared"
    first = "first"


class MergeMethod(enum.Enum):
    """How checkpoints are merged; `none` compares them only."""

    average = "average"
    arithmetic = "arithmetic"
    star = "star"
    none = "none"


class Layout(enum.Enum):
    """How labelled text is laid out: in columns that are named, or as BoolQ is."""

    columns = "columns"
    boolq = "boolq"


class Precision(enum.Enum):
    """Floating point type of everything that is computed."""

    float32 = "float32"
    float64 = "float64"


@dataclasses.dataclass
class ModelConfig:
    """Which checkpoint: an HF-layout folder (`path`) or a hub id; `path` wins. `config` serves `init=random`."""

    name: str = MISSING
    id: str | None = None
    revision: str | None = None
    path: str | None = None
    init: Init = Init.pretrained
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class DataConfig:
    """Which text (`path`, else `url`, checked against `sha256` where one is given) and how it is sampled.

    `position` is the token at which each sample ends, a number for all or a list of one a sample, -1 or null its last
    token. `decoder_input` concerns encoder-decoder models: `shifted`, the sample itself behind the start token, or
    `start`, that token alone.
    """

    name: str = MISSING
    path: str | None = None
    url: str | None = None
    sha256: str | None = None
    split: Split = Split.sentences
    samples: int = 200
    min_tokens: int = 5
    max_tokens: int = 100
    position: Any = None
    decoder_input: DecoderInput = DecoderInput.shifted


@dataclasses.dataclass
class MetricsConfig:
    """Names of rows of the metrics table, or `full`; `top_k` is the k of `variance_top_k`."""

    names: list[str] = MISSING
    top_k: int = 10


@dataclasses.dataclass
class EngineConfig:
    """Which Jacobian engine, and the memory its work arrays may take where the device does not tell.

    `tolerance` is the relative error at which an engine that iterates stops; `audit` how many samples a layer are
    recomputed with `jacfwd` to check another engine; `devices`, over how many devices of this process each batch is
    spread, `auto` being all accelerators; `batch`, how many samples of a batch a device takes at most, None for what
    its memory holds, on a CPU 32.
    """

    name: str = MISSING
    memory_gib: float = 1.0
    tolerance: float = 1e-5
    audit: int = 2
    devices: str = "auto"
    batch: int | None = None


@dataclasses.dataclass
class ReportConfig:
    """Which figures are drawn (`all`, `none`, or a list of names), and as what: `png`, `pdf` or both."""

    formats: list[str] = dataclasses.field(default_factory=lambda: ["png"])
    figures: Any = "all"


@dataclasses.dataclass
class DistributedConfig:
    """Which of several processes of one run this is.

    `coordinator` is HOST:PORT of process 0, or `auto`: what a cluster says; then `processes` and `index` are left out.
    `timeout` is after how many seconds without a sign of life a process counts as lost.
    """

    coordinator: str | None = None
    processes: int | None = None
    index: int | None = None
    timeout: float = 60.0


@dataclasses.dataclass
class CouplingConfig:
    """Where the samples end; see conf/task/coupling.yaml."""

    end: End = MISSING


@dataclasses.dataclass
class DepthConfig:
    """From the input of layer `first` to the output of layer `last`; see conf/task/depth.yaml."""

    first: int = MISSING
    last: int | None = MISSING
    exponents: int = MISSING


@dataclasses.dataclass
class WeightsConfig:
    """Which weight matrices, and what they are held against; see conf/task/weights.yaml."""

    include: list[str] = MISSING
    exclude: list[str] = MISSING
    embeddings: bool = MISSING
    stacked: Stacked = MISSING
    against: Against = MISSING
    show_layer: int = MISSING


@dataclasses.dataclass
class HeadsConfig:
    """How many draws the baselines of chance take; see conf/task/heads.yaml."""

    draws: int = MISSING


@dataclasses.dataclass
class RemovalConfig:
    """Which singular values are removed where, and on how much text it is measured; see conf/task/removal.yaml."""

    by: RemoveBy = MISSING
    roles: list[str] = MISSING
    groups: int = MISSING
    ranges: list[list[Any]] = MISSING
    tokens: int | None = MISSING
    masked_tokens: int | None = MISSING
    window: int | None = MISSING
    stride: int | None = MISSING


@dataclasses.dataclass
class FinetuneConfig:
    """On which labelled text and how a classifier is fine-tuned, and what is removed; see conf/task/finetune.yaml."""

    path: str | None = MISSING
    held_out: str | None = MISSING
    layout: Layout = MISSING
    text: str = MISSING
    second: str | None = MISSING
    label: str = MISSING
    holdout: float = MISSING
    max_tokens: int = MISSING
    steps: int = MISSING
    batch: int = MISSING
    learning_rate: float = MISSING
    warmup: float = MISSING
    weight_decay: float = MISSING
    groups: int = MISSING
    roles: list[str] = MISSING
    seeds: int = MISSING


@dataclasses.dataclass
class LazyConfig:
    """A small network trained at several output scales, and what is removed from it; see conf/task/lazy.yaml."""

    scales: list[float] = MISSING
    inputs: int = MISSING
    width: int = MISSING
    samples: int = MISSING
    steps: int = MISSING
    learning_rate: float = MISSING
    groups: int = MISSING
    removed: list[int] = MISSING
    seeds: int = MISSING


@dataclasses.dataclass
class CompareConfig:
    """Which run the others are held against, and how often it is drawn; see conf/task/compare.yaml."""

    against: int = MISSING
    draws: int = MISSING


@dataclasses.dataclass
class DynamicsConfig:
    """Where training ended, and which change counts; see conf/task/dynamics.yaml."""

    final_step: int | None = MISSING
    least_change: float = MISSING
    draws: int = MISSING


@dataclasses.dataclass
class MergeConfig:
    """Which checkpoints are compared and how they are merged; see conf/task/merge.yaml."""

    models: list[str] = MISSING
    base: str | None = MISSING
    method: MergeMethod = MISSING
    share: float = MISSING
    coefficient: float | None = MISSING
    weights: list[float] = MISSING
    top_k: int = MISSING
    include: list[str] = MISSING
    exclude: list[str] = MISSING
    embeddings: bool = MISSING
    resized: Resized = MISSING
    save: str | None = MISSING


@dataclasses.dataclass
class PlanConfig:
    """The devices that a run is planned for, and how fast their hosts read; see conf/task/plan.yaml."""

    devices: list[int] = MISSING
    tokens: float = MISSING
    stored_bytes: int = MISSING
    device: str = MISSING
    teraflops: float = MISSING
    svd_ms: float = MISSING
    bandwidth_gbs: float = MISSING
    memory_gb: float = MISSING
    link_gbs: float = MISSING
    hash_gbs: float = MISSING
    load_gbs: float = MISSING
    look_us: float = MISSING
    disk_gbs: float = MISSING
    efficiency: list[float] = MISSING


@dataclasses.dataclass
class TrainConfig:
    """A GPT-2-architecture model trained from scratch on the chosen text; see conf/task/train.yaml."""

    vocab: int = MISSING
    positions: int = MISSING
    layers: int = MISSING
    heads: int = MISSING
    d_model: int = MISSING
    steps: int = MISSING
    batch: int = MISSING
    learning_rate: float = MISSING
    weight_decay: float = MISSING
    warmup: int = MISSING
    holdout: float = MISSING
    revisions: list[int] = MISSING
    dtype: str = MISSING


@dataclasses.dataclass
class Config:
    """Everything a run is made of.

    `layers` are those that are measured, null all of them. `resume` names a run folder to go on with, `run` one to
    report on, `runs` several (or a folder of them) to compare.
    """

    task: str = MISSING
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    metrics: MetricsConfig = dataclasses.field(default_factory=MetricsConfig)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    coupling: CouplingConfig | None = None
    depth: DepthConfig | None = None
    weights: WeightsConfig | None = None
    heads: HeadsConfig | None = None
    removal: RemovalConfig | None = None
    finetune: FinetuneConfig | None = None
    lazy: LazyConfig | None = None
    compare: CompareConfig | None = None
    dynamics: DynamicsConfig | None = None
    merge: MergeConfig | None = None
    plan: PlanConfig | None = None
    train: TrainConfig | None = None
    components: list[str] = dataclasses.field(default_factory=lambda: ["attn", "mlp"])
    layers: list[int] | None = None
    precision: Precision = Precision.float32
    seed: int = 0
    resume: str | None = None
    run: str | None = None
    runs: Any = dataclasses.field(default_factory=list)


def register() -> None:
    """Make the schema and the resolver of `conf/` known to Hydra."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("asset", lambda name: str(ASSETS / name), replace=True)


def config_folder() -> Path:
    """Find `conf/`: inside the package when installed from a wheel, beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"
