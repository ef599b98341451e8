"""Array types are checked while tests run: the first calls of a function in each test, whatever other tests called."""

import numpy as np
import pytest
from array_types import FIRST_CALLS
from jaxtyping import TypeCheckError

from jacspec.spectra.bulk import fit_bulk


@pytest.mark.parametrize("again", [False, True])
def test_array_types_are_checked_in_each_test(again: bool) -> None:
    for _ in range(FIRST_CALLS):
        with pytest.raises(TypeCheckError):
            fit_bulk(np.ones((2, 2)), (2, 2))
