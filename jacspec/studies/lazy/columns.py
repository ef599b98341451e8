"""What is in the columns of a `task=lazy` run."""

from collections.abc import Mapping

from jacspec.quantities import Quantity

CHIZAT = "Chizat, Oyallon & Bach 2019, On Lazy Training"

LAZY: Mapping[str, Quantity] = {
    "test_accuracy": Quantity("test accuracy", "share of test points whose output has the sign of the target", CHIZAT),
    "test_loss": Quantity("test loss", "mean of (output − target)²/2 over test points, targets being ±1", CHIZAT),
    "train_loss": Quantity("training loss", "the same over the points trained on", CHIZAT),
    "movement": Quantity(
        "relative movement of hidden weights",
        "‖W − W₀‖_F / ‖W₀‖_F over both hidden weights together, W₀ being what training began from",
        CHIZAT,
    ),
}
"""Columns of `task=lazy`."""
