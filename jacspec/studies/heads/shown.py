"""Which heads a figure shows, as they are typed."""

import re
from collections.abc import Sequence

from jacspec.errors import JacspecError

HEAD = re.compile(r"L(\d+)H(\d+)", re.IGNORECASE)


def shown_heads(shown: Sequence[str]) -> list[tuple[int, int]]:
    """Read heads as `L7H6`, layer 7 and head 6; raises `JacspecError` for anything else."""
    found = [HEAD.fullmatch(name) for name in shown]
    if wrong := [name for name, match in zip(shown, found, strict=True) if match is None]:
        raise JacspecError(f"heads.shown has {wrong[0]!r}, which is no head. Type heads.shown=[L7H6,L1H0].")
    return [(int(match[1]), int(match[2])) for match in found if match]
