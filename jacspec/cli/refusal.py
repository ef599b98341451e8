"""How Hydra's callbacks refuse a command for what is wrong with a folder."""

import contextlib
from collections.abc import Iterator

from jacspec.errors import JacspecError


class Refused(BaseException):
    """What is wrong with a folder. Hydra would turn any `Exception` of a callback into a warning and go on."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Refuse the command for whatever is wrong with a folder that is looked at or made inside."""
    try:
        yield
    except (JacspecError, OSError) as error:
        raise Refused(error) from error
