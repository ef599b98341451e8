"""What is in the columns of a run through depth, beside metrics: Lyapunov exponents, as many as were asked for."""

import re
from collections.abc import Iterator, Mapping

from jacspec.quantities import Quantity

EXPONENT = re.compile(r"lyapunov_(\d+)")


class _Exponents(Mapping[str, Quantity]):
    """Every exponent `lyapunov_N`, N counted from 1."""

    def __getitem__(self, name: str) -> Quantity:
        found = EXPONENT.fullmatch(name)
        if found is None:
            raise KeyError(name)
        number = found[1]
        return Quantity(
            rf"Lyapunov exponent $\mu_{{{number}}}$",
            f"(1/t) Σ ln |R_{number},{number}| over the t layers so far, R from the QR decomposition of orthonormal "
            "columns, random at first, after each block: the growth of a small change a layer, in nats. At finite "
            "depth it depends on the columns drawn.",
            "Benettin et al. 1980, Meccanica 15, 9",
            "nats a layer",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


DEPTH = _Exponents()
