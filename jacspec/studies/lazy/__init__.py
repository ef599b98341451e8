"""Groups of singular values removed from small networks that learnt lazily or not."""

import dataclasses
from collections.abc import Mapping

from jacspec.studies.study import EXPERIMENTS, MISSING, Page, Quantity, Study


@dataclasses.dataclass
class LazyOptions:
    """A small network trained at several output scales, and what is removed from it; see conf/task/lazy.yaml."""

    scales: list[float] = MISSING
    inputs: int = MISSING
    width: int = MISSING
    samples: int = MISSING
    steps: int = MISSING
    learning_rate: float = MISSING
    groups: int = MISSING
    removed: list[int] = MISSING
    and_smaller: bool = MISSING
    seeds: int = MISSING
    layers: list[int] = MISSING
    path: str | None = MISSING
    batch: int = MISSING
    frozen: int = MISSING
    cut: int = MISSING
    by_mass: bool = MISSING


CHIZAT = "Chizat, Oyallon & Bach 2019, On Lazy Training"

LAZY: Mapping[str, Quantity] = {
    "test_accuracy": Quantity(
        "test accuracy",
        "share of test points whose output has the sign of the target; of lazy.layers, of the right class",
        CHIZAT,
    ),
    "test_loss": Quantity(
        "test loss",
        "mean of (output − target)²/2 over test points, targets being ±1; of lazy.layers, the cross-entropy in nats",
        CHIZAT,
    ),
    "train_loss": Quantity("training loss", "the same over the points trained on", CHIZAT),
    "movement": Quantity(
        "relative movement of hidden weights",
        "‖W − W₀‖_F / ‖W₀‖_F over all hidden weights together, W₀ being what training began from",
        CHIZAT,
    ),
}
"""Columns of `task=lazy`."""


STUDY = Study(
    name="lazy",
    run="jacspec.studies.lazy.run:run_lazy",
    options=LazyOptions,
    reads=frozenset({"lazy", "precision", "seed"}),
    takes=("precision", "seed"),
    rows=EXPERIMENTS,
    columns=LAZY,
    figures="jacspec.studies.lazy.figures:lazy_figures",
    page=Page(
        title="singular values in the lazy and the rich regime",
        reading=(
            "The network is trained so that α (f(x; w) − f₀(x)) fits the targets, f₀ being the network it began "
            "as. At large α the weights hardly move. A group of singular values of both hidden weights is "
            "removed before training (before), or after it from the trained network alone (after), or after it "
            "from the trained network and f₀ alike (both): with f₀ held fixed, α multiplies also what the "
            "removal takes from the initial network, which no training put there.",
            "With lazy.layers it is a classifier whose logits α multiplies and whose loss is over α²; no f₀ is taken "
            "off, so that nothing is removed from it.",
        ),
        sentences="jacspec.studies.lazy.findings:lazy_findings",
        caution="In brackets, intervals of 95 % over seeds of teacher, points and weights.",
    ),
)
