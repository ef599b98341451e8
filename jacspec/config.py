"""The typed schema of a run. `conf/` carries the values, these dataclasses the types; importing it is cheap."""

import dataclasses
import enum
import functools
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from jacspec.studies import STUDIES

PACKAGE = Path(__file__).resolve().parent
ASSETS = PACKAGE / "assets"

Options = TypeVar("Options")


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


class Tracker(enum.Enum):
    """What is told of a finished run, beside its folder."""

    wandb = "wandb"
    tensorboard = "tensorboard"
    mlflow = "mlflow"


class Tables(enum.Enum):
    """What tables are written as; `parquet` stands beside the CSV."""

    csv = "csv"
    parquet = "parquet"


class Precision(enum.Enum):
    """Floating point type of everything that is computed."""

    float32 = "float32"
    float64 = "float64"


@dataclasses.dataclass
class ModelConfig:
    """Which checkpoint: an HF-layout folder or a GGUF file (`path`) or a hub id; `path` wins.

    `base` is what an adapter lies on, where not on the model that it names; `config` serves `init=random`.
    """

    name: str = MISSING
    id: str | None = None
    revision: str | None = None
    path: str | None = None
    base: str | None = None
    init: Init = Init.pretrained
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class DataConfig:
    """Which text (`text` itself, `path`, else `url`, checked against `sha256` where one is given), how it is sampled.

    `samples` is how many are drawn, fewer where the text has no more, None all. `position` is the token at which each
    sample ends, a number for all or a list of one a sample, -1 or null its last token. `decoder_input` concerns
    encoder-decoder models: `shifted`, the sample itself behind the start token, or `start`, that token alone.
    """

    name: str = MISSING
    text: str | None = None
    path: str | None = None
    url: str | None = None
    sha256: str | None = None
    split: Split = Split.sentences
    samples: int | None = 200
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
class Config:
    """Everything a run is made of; beside this, each study that has options of its own has a group of its name.

    `layers` are those that are measured, null all of them. `resume` names a run folder to resume, `run` one to
    report on, `runs` several (or a folder of them) to compare. `log` is the tracker that is told of a finished run.
    """

    task: str = MISSING
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    metrics: MetricsConfig = dataclasses.field(default_factory=MetricsConfig)
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    components: list[str] = dataclasses.field(default_factory=lambda: ["attn", "mlp"])
    layers: list[int] | None = None
    precision: Precision = Precision.float32
    seed: int = 0
    resume: str | None = None
    run: str | None = None
    runs: Any = dataclasses.field(default_factory=list)
    log: Tracker | None = None
    tables: Tables = Tables.csv

    def own(self, kind: type[Options]) -> Options:
        """Return the options that the study of this run has of its own, which are of type `kind`."""
        options = getattr(self, self.task)
        assert isinstance(options, kind)
        return options


@functools.cache
def schema() -> type[Config]:
    """Make the schema: `Config` with the group of every study that has options, None where it is another's run."""
    groups = {name: study.options for name, study in STUDIES.items() if study.options}
    fields = [(name, kind | None, dataclasses.field(default=None)) for name, kind in groups.items()]
    return dataclasses.make_dataclass("Config", fields, bases=(Config,))


def register() -> None:
    """Make the schema and the resolver of `conf/` known to Hydra."""
    ConfigStore.instance().store(name="schema", node=schema())
    OmegaConf.register_new_resolver("asset", lambda name: str(ASSETS / name), replace=True)


def config_folder() -> Path:
    """Find `conf/`: inside the package when installed from a wheel, beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"
