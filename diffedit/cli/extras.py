"""Optional packages: turn a failed import into a sentence that names the extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffedit.cli.errors import UsageError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Raise UsageError if an import in the block fails because an extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"This command needs the package {error.name}; install the extra: "
            f"pip install -e '.[{name}]' -c constraints.txt, in a clone of this project."
        ) from None
