"""`restore`: keep another editor's changes, and restore the photograph's pixels elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from diffedit import checks
from diffedit.checks import InvalidRequest, Range
from diffedit.imaging import borders, changes, compare, encode, photograph
from diffedit.imaging.compare import hidden_share, largest_difference
from diffedit.imaging.mask_reader import read_mask
from diffedit.imaging.photograph import Photograph
from diffedit.notices import Notice

if TYPE_CHECKING:
    from diffedit.imaging.changes import Changes
    from diffedit.request import MaskSource, PhotoSource

THRESHOLD, GROW = 4.0, 0.01
THRESHOLDS = Range(0, 100, above=True)
GROWTH = Range(0, 0.25)
SEEN = 0.01
"""A smaller share of the changes is not worth a warning."""
PICTURE = re.compile("([Tt])he picture")
OF_RESULT = re.compile("[,;](?: and)? the result [^.;]*")
MAX_DIFFERING = 0.6
"""Maximum share of the picture that may differ noticeably; above it the pictures are unrelated."""


@dataclass(frozen=True, eq=False)
class RestoredImage:
    """A photograph with the changes of another editor, and its own pixels everywhere else.

    Attributes:
        image: PIL image of the original's size, mode and color space.
        photo: the result with all of its values and metadata; `save` writes it.
        mask: PIL L of that size: 255 where the other editor's pixels were taken, 0 elsewhere.
        share: white share of the mask, 0 to 1.
        noise: median difference of the two pictures outside the changes, in levels of 255, after
            smoothing and matching of colors; None with a given mask.
        differing: share of the two pictures, 0 to 1, that differs noticeably, likewise.
        max_abs_diff_outside_mask: largest difference from the original outside the mask, in levels
            of 255, as measured. It is 0.
        warnings: sentences for the user.
    """

    image: Image.Image
    photo: Photograph = field(repr=False)
    mask: Image.Image
    share: float
    noise: float | None
    differing: float | None
    max_abs_diff_outside_mask: int
    warnings: tuple[Notice, ...] = ()

    def save(self, path: str | Path) -> list[Notice]:
        """Write the image as `EditResult.save` does. Returns what the format cannot store."""
        file_format = encode.format_of(Path(path))
        Path(path).write_bytes(encode.encode(self.photo, file_format))
        return encode.losses(self.photo, file_format)


def restore(
    original: PhotoSource,
    edited: PhotoSource,
    *,
    mask_image: MaskSource | None = None,
    threshold: float = THRESHOLD,
    grow: float = GROW,
    match_colors: bool = True,
) -> RestoredImage:
    """Restore the original's pixels outside the regions that another editor changed on purpose.

    Editors that repaint the whole picture change every pixel a little. This function finds the
    regions that changed much more than the rest, and takes only those from the edited picture, with
    a narrow fade at their borders. No network runs.

    Args:
        original: the photograph: PIL image, path, contents of a file, or uint8 [H, W, 3].
        edited: the other editor's result, of the same size in pixels.
        mask_image: the changed region, if it is known: as for `EditRequest.mask_image`.
        threshold: smallest difference that counts as a change, in multiples of the noise between
            the pictures. Above 0, up to 100; default 4. Smaller values find weaker changes.
        grow: width by which the regions are enlarged, as a share of the longer side. 0 to 0.25;
            default 0.01.
        match_colors: shift the colors of the edited picture so that it agrees with the original
            where nothing changed.

    Raises:
        InvalidRequest: a picture cannot be read, the sizes differ, an option is out of range, or
            more than 60 % of the picture differs, as between pictures that are not related.
    """
    threshold = checks.number("threshold", threshold, THRESHOLDS, THRESHOLD)
    grow = checks.number("grow", grow, GROWTH, GROW)
    match_colors = checks.flag("match_colors", match_colors, True)
    before, after = photograph.read(original), _read_edited(edited)
    _check_sizes(before.size, after.size)
    matched, warnings = changes.with_colors_of(before.rgb, after.rgb), list(before.warnings)
    found: Changes | None = None
    if mask_image is None:
        found = changes.find_changes(before.rgb, matched, threshold, grow)
        _check_related(found.differing)
        mask = Image.fromarray(found.mask).resize(before.size, Image.Resampling.NEAREST)
        mask = mask.convert("L")
        warnings += [] if found.mask.any() else [_nothing_found(threshold)]
    else:
        read = read_mask(mask_image, before.size, stored_size=before.stored_size)
        mask, warnings = read.image, [*warnings, *read.warnings]
    warnings += _not_shown(before, after, mask)
    photo = photograph.edited(before, matched if match_colors else after.rgb, borders.faded(mask))
    outside = mask.point([255] + [0] * 255)
    return RestoredImage(
        image=photo.image,
        photo=photo,
        mask=mask,
        share=compare.share(mask),
        noise=found.noise if found else None,
        differing=found.differing if found else None,
        max_abs_diff_outside_mask=largest_difference(before, photo, outside),
        warnings=tuple(warnings),
    )


def _read_edited(source: PhotoSource) -> Photograph:
    """Read the edited picture; errors and warnings name it."""
    try:
        photo = photograph.read(source)
    except InvalidRequest as error:
        raise InvalidRequest(_of_edited(str(error)), field="edited", code=error.code) from None
    return replace(photo, warnings=tuple(Notice(w.code, _of_edited(w)) for w in photo.warnings))


def _of_edited(sentence: str) -> str:
    """Rewrite a warning for the edited picture, without the parts about the result."""
    return OF_RESULT.sub("", PICTURE.sub(r"\1he edited picture", sentence, count=1))


def _not_shown(before: Photograph, after: Photograph, mask: Image.Image) -> list[Notice]:
    """Warn of changes that the result does not show."""
    found = [w for w in after.warnings if w.code != "iptc_dropped"]  # the original's are kept
    if before.base_mode == "L" and after.base_mode != "L":
        found.append(
            Notice(
                "edit_is_grey",
                "The original is grey, so the changes are grey, too; convert it to RGB for colors.",
            )
        )
    hidden, erased = hidden_share(before, mask), hidden_share(after, mask)
    if hidden > SEEN:
        found.append(
            Notice(
                "edit_is_hidden",
                f"{hidden:.0%} of the changed area is transparent in the original and stays "
                "transparent, so the changes do not show there; blend the original onto a "
                "background first.",
            )
        )
    if erased > hidden + SEEN:
        found.append(
            Notice(
                "erased_is_white",
                f"{erased:.0%} of the changed area is transparent in the edited picture, which "
                "becomes white; erase it in the original itself.",
            )
        )
    return found


def _check_sizes(original: tuple[int, int], edited: tuple[int, int]) -> None:
    if original != edited:
        raise InvalidRequest(
            f"The edited picture has {edited[0]} x {edited[1]} pixels and the original "
            f"{original[0]} x {original[1]}, but their sizes must be equal; resize the edited "
            "picture to the original's size first, without cropping.",
            field="edited",
        )


def _check_related(differing: float) -> None:
    if differing > MAX_DIFFERING:
        raise InvalidRequest(
            f"{differing:.0%} of the picture differs, which is not a local edit; pass the edited "
            "version of this picture, or a mask of the region to keep.",
            field="edited",
        )


def _nothing_found(threshold: float) -> Notice:
    return Notice(
        "no_changes",
        f"No region differs by more than {threshold:g} times the noise between the pictures, so "
        "the result is the original; use a lower threshold.",
    )
