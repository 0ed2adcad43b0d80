"""The texts that `diffedit.visible_text` accepts, as regular expressions for the API's schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from unicodedata import category

from diffedit.visible_text import BLANKS, SELECTORS, forbidden, without_blanks

SEARCHED = (range(0xD800), range(0xE000, 0x20000), range(0xE0000, 0xE0200))
"""The code points among which Unicode has control characters, spaces and invisible characters. No
text in UTF-8 has the surrogates between the first two."""
CATEGORIES = ("Cc", "Cf", "Zs", "Zl", "Zp")
"""Unicode's categories of control characters, format characters and separators."""


@cache
def special_characters() -> tuple[int, ...]:
    """The code points that may be refused or may not be visible; all others are plain."""
    selectors = chain.from_iterable(range(ord(a), ord(b) + 1) for a, b in SELECTORS)
    named = {ord(" "), *map(ord, BLANKS), *selectors}
    return tuple(c for c in chain(*SEARCHED) if c in named or category(chr(c)) in CATEGORIES)


def any_text() -> str:
    """The pattern of a text that may be empty."""
    return f"^[^{_ranges(_is_refused)}]*$"


def visible_text() -> str:
    """The pattern of a text with a visible character."""
    refused, hidden = _ranges(_is_refused), _ranges(lambda c: _is_refused(c) or _is_blank(c))
    return f"^[^{refused}]*[^{hidden}][^{refused}]*$"


def blank_text() -> str:
    """The pattern of a text without a visible character."""
    return f"^[{_ranges(lambda c: _is_blank(c) and not _is_refused(c))}]*$"


def _is_refused(c: str) -> bool:
    return forbidden(c) is not None


def _is_blank(c: str) -> bool:
    return not without_blanks(c)


def _ranges(contains: Callable[[str], bool]) -> str:
    """A set of special characters as the inside of a character class."""
    found: list[list[int]] = []
    for code in special_characters():
        if not contains(chr(code)):
            continue
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return "".join(chain.from_iterable(_written(*ends) for ends in found))


def _written(first: int, last: int) -> Iterator[str]:
    yield _escaped(first)
    if last > first:
        yield f"-{_escaped(last)}"


def _escaped(code: int) -> str:
    """Beyond 16 bits as the character itself, since JavaScript's escape has four digits."""
    return f"\\u{code:04X}" if code < 0x10000 else chr(code)
