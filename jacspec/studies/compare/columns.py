"""What is in the tables of a comparison."""

from jacspec.quantities import Quantity

BOOTSTRAP = "Efron & Tibshirani 1993, An Introduction to the Bootstrap"

COMPARED: dict[str, Quantity] = {
    "difference": Quantity(
        "difference of means", "mean over units of the run − that of the run it is held against", ""
    ),
    "low": Quantity("lower end", "2.5 % of the bootstrap over units", BOOTSTRAP),
    "high": Quantity("upper end", "97.5 % of the bootstrap over units", BOOTSTRAP),
    "p_value": Quantity("p", "twice the smaller share of draws on one side of zero", "Davison & Hinkley 1997, 4.2.3"),
    "q_value": Quantity(
        "q", "p adjusted for all tests of the table: the false discovery rate", "Benjamini & Hochberg 1995"
    ),
    "floor": Quantity(
        "noise floor",
        "what the means of two random halves of one run differ by, exceeded by 5 % of splits; the larger of both runs",
        "this project",
    ),
}
"""What the columns of `differences.csv` hold."""
