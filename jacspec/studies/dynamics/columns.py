"""What is in the tables of training dynamics."""

from collections.abc import Mapping

from jacspec.quantities import Quantity

DYNAMICS: Mapping[str, Quantity] = {
    "onset": Quantity(
        "onset",
        "the first step from which half of the change from first to last step is there to the end",
        "this project",
    ),
    "extreme_step": Quantity("extreme", "the step at which the value is farthest from its first", "this project"),
    "appears": Quantity(
        "appears",
        "1 where the change is at least dynamics.least_change of the larger of first and last value and, where there "
        "are enough units to tell, beyond the noise floor with q below 0.05",
        "this project",
    ),
}
"""What the columns of `onsets.csv` hold."""
