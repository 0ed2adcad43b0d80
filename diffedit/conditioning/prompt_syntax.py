r"""Detect the prompt syntax of other programs, which has no effect here.

These forms give a warning, except inside quotation marks:

    (red ball:1.4)  [ball:0.8]     a number right after a letter and a colon, before the bracket
    ((ball))  [ball]  {ball}       doubled round brackets; square or curly brackets with a letter
    {red|blue}                     curly brackets with a choice
    (ball)1.4  (ball)++            a weight right after a round bracket
    <lora:style:0.8>               also lyco, lora's other names, and hypernet
    embedding:style                in one word
    __colour__                     a wildcard
    a cat BREAK a dog, AND         in capitals between other words
    \(ball\)                         an escaped bracket
    --ar 16:9  cat::2              options and weights of Midjourney

Single round brackets are ordinary writing: "a sign (old)", "(at 10:30)", "(ratio 16:9)".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from diffedit.notices import Notice

FORMS = re.compile(
    r"""
      [(\[][^()\[\]]*?[^\W\d_][)\"']?:[+-]?(?:\d+\.?\d*|\.\d+)[)\]]  # (word:1.4)
    | \(\(++(?:(?![()])[\W\d_])*+[^\W\d_][^()]*+\)\)+                # ((word))
    | \[++(?:(?![\[\]])[\W\d_])*+[^\W\d_][^\[\]]*+\]+                # [word]
    | \{++(?:(?![{}])[\W\d_])*+[^\W\d_][^{}]*+\}+                    # {word}, {a|b}
    | \((?:(?![()])[\W\d_])*+[^\W\d_][^()]*+\)(?:\d*\.\d+|\++(?!\w)|-{2,}(?!\w))
                                                                     # (word)1.4, (word)++
    | <(?:lora|lyco|loha|lokr|hypernet)\s*:[^<>]*>                   # <lora:name:0.8>
    | (?<!\w)embedding:[\w./\\-]+                                    # embedding:name
    | (?<!\w)__[_/*-]*+[^\W_][\w/*-]*__(?!\w)                        # __wildcard__
    | \\[()\[\]{}]                                                   # \(
    | (?<!\S)--(?:ar|v|no|niji|stylize|chaos|iw|sref|cref)(?=\s|$)   # --ar 16:9
    | (?<!\w)\w++::-?\d+(?:\.\d+)?(?!\w)                             # cat::2
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""The quantifiers "++" and "*+" never go back, so a long prompt of brackets takes no longer."""
KEYWORD = re.compile(r"(?<!\w)(?:BREAK|AND)(?!\w)")
QUOTED = re.compile(r"\"[^\"]*\"|\u201c[^\u201d]*\u201d|\u00ab[^\u00bb]*\u00bb")
WORD = re.compile(r"[^\W\d_]+")
MAX_SHOWN = 4
MAX_LETTERS = 40


def syntax_warnings(prompts: Mapping[str, str]) -> tuple[Notice, ...]:
    """Return one warning about all prompts of a request, or none.

    Args:
        prompts: prompts by name.
    """
    found = list(dict.fromkeys(form for text in prompts.values() for form in foreign_forms(text)))
    if not found:
        return ()
    shown = ", ".join(f"'{_shortened(form)}'" for form in found[:MAX_SHOWN])
    more = " and more" if len(found) > MAX_SHOWN else ""
    sentence = (
        f"The prompt contains syntax of other programs ({shown}{more}), which has no meaning here "
        "and is read as plain letters; write plain words, and use negative_prompt for what should "
        "not appear."
    )
    return (Notice("prompt_syntax", sentence),)


def foreign_forms(text: str) -> list[str]:
    """Return the parts of a prompt in the syntax of other programs, in their order."""
    text = QUOTED.sub(lambda match: " " * len(match[0]), text)
    found = [(m.start(), m[0]) for m in FORMS.finditer(text)]
    found += [(m.start(), m[0]) for m in KEYWORD.finditer(text) if _is_keyword(text, m)]
    return [form for _, form in sorted(found)]


def _is_keyword(text: str, match: re.Match[str]) -> bool:
    """Whether a word in capitals is between words that are not in capitals; in "SALT AND PEPPER" it
    is ordinary text."""
    before, after = WORD.findall(text[: match.start()]), WORD.findall(text[match.end() :])
    neighbors = [*before[-1:], *after[:1]]
    return bool(neighbors) and not any(len(w) > 1 and w.isupper() for w in neighbors)


def _shortened(form: str) -> str:
    form = " ".join(form.split())
    return form if len(form) <= MAX_LETTERS else form[: MAX_LETTERS - 3] + "..."
