"""What is said of the values in a column of a table, so that console, page, figures and Python say the same."""

from typing import NamedTuple


class Quantity(NamedTuple):
    """What a column holds: symbol in mathtext, definition, source, and the unit (`1` of a pure number)."""

    symbol: str
    definition: str
    source: str
    unit: str = "1"
