"""Find a mask, make a larger one, and edit with it.

python examples/mask_first.py build/examples/5.png \
    "a black cube and a yellow cone on a checked cloth" \
    "a red cube and a yellow cone on a checked cloth"
"""

import sys
from pathlib import Path

from PIL import ImageFilter

from diffedit import DiffEditPipeline

MODEL = "demo/model"


def main(image: str, source: str, prompt: str) -> None:
    """Write the mask, the mask that is used, and the edit, next to the image."""
    path = Path(image)
    with DiffEditPipeline.from_pretrained(MODEL) as pipe:
        found = pipe.generate_mask(image, prompt, source)
        print(f"the mask has {found.latent_mask.mean():.0%} of the picture")

        # A mask is a picture: white is edited. Here it grows by two pixels to each side.
        larger = found.mask.filter(ImageFilter.MaxFilter(5))

        result = pipe(image, prompt, mask_image=larger, guidance_scale=4.0)
    found.mask.save(path.with_suffix(".found.png"))
    larger.save(path.with_suffix(".mask.png"))
    result.save(path.with_suffix(".edited.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
