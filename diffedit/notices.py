"""Warnings: sentences for users, each with a stable code for programs.

The standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable

CODES = {
    "prompt_truncated": "A text is longer than the model reads; its end is ignored.",
    "prompt_syntax": "A text has syntax of other programs, such as weights in brackets.",
    "invisible_characters": "A text has characters that cannot be seen.",
    "same_texts": "Both texts are the same for the model, so nothing is edited.",
    "nothing_found": "The texts do not differ enough anywhere, so nothing is edited.",
    "no_changes": "`restore` found no difference between the pictures.",
    "focus_unused": "The mask is too large for `focus`; the whole picture is edited.",
    "edit_is_grey": "The picture is grey, so the changes are grey.",
    "edit_is_hidden": "Part of the edited area is transparent and stays so.",
    "erased_is_white": "Part that is transparent in the edited picture becomes white.",
    "soft_mask": "The mask has grey areas, which are edited less.",
    "engines_unused": "The engine folder is not used.",
    "compile_unused": "`compile` has no effect with this backend.",
    "negative_prompt_ignored": "The model takes no negative prompt.",
    "guidance_of_distilled": "The model is distilled, and guidance spoils its results.",
    "distilling_lora": "A LoRA looks like one for a few steps, and no scheduler was named for it.",
    "not_distilled": "The method is made for distilled models, and this one is not.",
    "nothing_guided": "No step is in `guidance_interval`, so the text is not followed closely.",
    "bits_reduced": "The picture has more bits a channel than the result.",
    "bits_guessed": "The file does not state its white, so it was chosen by the values.",
    "almost_black": "A picture of 16 bits has only values of 8 bits.",
    "colors_not_supported": "The file states its colors in a way that is not supported.",
    "profile_ignored": "The color profile cannot be used; colors are read as sRGB.",
    "converted_to_srgb": "The colors cannot be converted back to the picture's profile.",
    "mode_converted": "The picture has a mode that cannot be edited, so it is converted.",
    "iptc_dropped": "The picture has IPTC data, which are not written.",
    "one_frame": "Only one frame or page of the picture is edited.",
    "format_bits": "The output format has fewer bits a channel than the picture.",
    "format_transparency": "The output format has no transparency.",
    "format_gamma": "The output format has no gamma, so all values are converted.",
    "format_profile": "The output format has no grey profiles, so all values are converted.",
    "field_ignored": "The server ignored a field of the form, and says why.",
    "size_ignored": "`size` was ignored: an edit keeps the image's size.",
}
"""Code -> what it means."""


class Notice(str):
    """A warning: a sentence, and its code.

    Args:
        code: one of `CODES`. It stays the same when the sentence is changed.
        sentence: what happened, and what to do.

    Attributes:
        code: as given.

    Examples:
        >>> notice = Notice("soft_mask", "The mask is soft.")
        >>> print(notice, notice.code)
        The mask is soft. soft_mask
    """

    code: str

    def __new__(cls, code: str, sentence: str) -> Notice:
        """Create a warning. Raises KeyError for an unknown code."""
        notice = super().__new__(cls, sentence)
        CODES[code]
        notice.code = code
        return notice

    def __reduce__(self) -> tuple[type[Notice], tuple[str, str]]:
        """The arguments, for copies and other processes."""
        return Notice, (self.code, str(self))


def warning_facts(notices: Iterable[Notice]) -> dict[str, list[str]]:
    """Warnings in JSON: the sentences, and their codes in the same order."""
    shown = [*notices]
    return {"warnings": [*shown], "warning_codes": [notice.code for notice in shown]}
