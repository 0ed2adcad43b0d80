"""Invisible characters in prompts. Every interface uses these rules.

- NUL, other control characters and unpaired surrogates are refused. Control characters that are
  white space, such as a tab or a line break, are read as a space.
- A text without a visible character counts as empty. The prompt must not be empty; other texts
  become "".
- The model reads invisible characters within a text, so a warning lists them. The warning skips
  characters that writing needs: joiners in emoji and in Persian, variation selectors, and the
  direction marks of Arabic and Hebrew.

Standard library only. The character classes are those of Unicode.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from diffedit.notices import Notice

BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters of other classes that are invisible: fillers and the Braille blank."""
NEEDED = frozenset("\u200c\u200d\u200e\u200f\u061c")
"""Invisible characters that writing needs: joiners and direction marks."""
SELECTORS = (("\ufe00", "\ufe0f"), ("\U000e0100", "\U000e01ef"), ("\u180b", "\u180d"))
"""The first and the last of the variation selectors, in each of their blocks."""
MAX_NAMED = 3


def forbidden(text: str) -> str | None:
    """Return the first character that is refused, or None."""
    if text.isascii() and text.isprintable():  # the usual text, without a look at each character
        return None
    return next((c for c in text if unicodedata.category(c) == "Cs" or _is_control(c)), None)


def without_blanks(text: str) -> str:
    """The text itself, or "" if it has no visible character."""
    if text.isascii():
        return text if text.strip() else ""
    return text if any(not c.isspace() and not _is_invisible(c) for c in text) else ""


def invisible_warnings(prompts: Mapping[str, str]) -> tuple[Notice, ...]:
    """One warning about the invisible characters in all prompts of a request, or none."""
    found = dict.fromkeys(
        c
        for text in prompts.values()
        if not text.isascii()
        for c in text
        if _is_invisible(c) and not _is_needed(c)
    )
    if not found:
        return ()
    named = [f"U+{ord(c):04X} {unicodedata.name(c, '').lower()}".rstrip() for c in found]
    more = " and more" if len(named) > MAX_NAMED else ""
    sentence = (
        f"The prompt contains characters that are not visible ({', '.join(named[:MAX_NAMED])}"
        f"{more}), probably from a copied text. The model reads them, so the result may differ "
        "from that of the text that you see; type the text again."
    )
    return (Notice("invisible_characters", sentence),)


def _is_control(c: str) -> bool:
    return unicodedata.category(c) == "Cc" and not c.isspace()


def _is_invisible(c: str) -> bool:
    """A format character, a filler, or a variation selector."""
    return unicodedata.category(c) == "Cf" or c in BLANKS or _is_selector(c)


def _is_needed(c: str) -> bool:
    """Whether writing needs a character. Tags are letters in the flags of regions."""
    return c in NEEDED or _is_selector(c) or "\U000e0020" <= c <= "\U000e007f"


def _is_selector(c: str) -> bool:
    return any(first <= c <= last for first, last in SELECTORS)
