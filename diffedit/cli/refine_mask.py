"""`mask --refine`: make a mask from an earlier heatmap. No network is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffedit.cli.errors import UsageError
from diffedit.cli.model_options import ModelOptions
from diffedit.cli.options import MaskOptions
from diffedit.presets import PRESETS
from diffedit.request import EditRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diffedit.imaging.photograph import Photograph
    from diffedit.soft_map import SoftMap

LARGEST = 4096
"""Cells of the longer side of a heatmap."""
SEARCH = (
    "num_maps_per_mask",
    "mask_encode_strength",
    "mask_thresholding_ratio",
    "mask_tolerance",
)
"""Mask options that decide the heatmap itself."""


def check_unused(given: dict[str, Any], mask_options: MaskOptions) -> None:
    """Raise UsageError for an option that changes the heatmap, which --refine does not compute."""
    search = {name: getattr(mask_options, name) for name in SEARCH}
    for name, value in {**given, **search}.items():
        if value not in (None, ""):
            raise UsageError(
                f"{name} is {value!r}, but --refine uses an earlier heatmap, which it does not "
                f"change; leave {name} out, or find the mask again without --refine."
            )


def soft_map(
    heatmap: Path, photo: Photograph, request: EditRequest, model_options: ModelOptions
) -> SoftMap:
    """Place the heatmap of a file on a photograph. Reads the model's configs, not its weights.

    Args:
        heatmap: the .npy file.
        photo: the photograph that it was found on.
        request: the options of the mask; its preset decides the cleaning if it is None.
        model_options: name the model.

    Raises UsageError if the file has no heatmap.
    """
    from diffedit.algorithm.mask import ShapeOptions
    from diffedit.imaging import geometry
    from diffedit.soft_map import SoftMap

    values = read_heatmap(heatmap)
    factor = model_options.source.open(model_options.model).family.factor
    height, width = values.shape
    placement = geometry.place(photo.size[::-1], (height * factor, width * factor))
    given: Any = request.mask_cleaning
    cleaning = given or PRESETS[request.preset].options["mask_cleaning"]
    options = ShapeOptions(request.mask_threshold, request.mask_dilation, cleaning)
    return SoftMap(values, placement, factor, options)


def read_heatmap(path: Path) -> NDArray[np.float32]:
    """The values that --heatmap-out wrote: float32 [h, w] in [0, 1]. Raises UsageError."""
    import numpy as np

    try:
        values: Any = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror or error}); pass a heatmap that "
            "--heatmap-out wrote."
        ) from None
    except (ValueError, EOFError):
        values = None
    fits = isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype == np.float32
    if not fits or not values.size or max(values.shape) > LARGEST:
        raise UsageError(f"{path} is not a heatmap; pass a .npy file that --heatmap-out wrote.")
    if not (values.min() >= 0 and values.max() <= 1):  # also rejects NaN
        raise UsageError(
            f"{path} has values outside of 0 to 1, so it is not a heatmap; pass a .npy file that "
            "--heatmap-out wrote."
        )
    return np.array(values)
