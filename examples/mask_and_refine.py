"""Find a mask, make other masks from the same heatmap, and edit with one of them.

python examples/mask_and_refine.py build/examples/5.png \
    "a black cube and a yellow cone on a checked cloth" \
    "a red cube and a yellow cone on a checked cloth"
"""

import sys
from pathlib import Path

from diffedit import DiffEditPipeline

MODEL = "demo/model"


def main(image: str, source: str, prompt: str) -> None:
    """Write the mask that was found, the one that is used, and the edit, next to the image."""
    path = Path(image)
    with DiffEditPipeline.from_pretrained(MODEL) as pipe:
        found = pipe.generate_mask(image, prompt, source)
        print(f"found: {found.latent_mask.mean():.0%} of the picture")

        # No network runs for these: they are made from the heatmap in milliseconds.
        for threshold in (0.3, 0.5, 0.7):
            other = pipe.refine(found, threshold=threshold)
            print(f"threshold {threshold}: {other.latent_mask.mean():.0%}")
        smooth = pipe.refine(found, threshold=0.4, grow=1, cleaning="clean")

        # A mask is a picture: white is edited. It may also come from a paint program.
        result = pipe(image, prompt, mask_image=smooth.mask, guidance_scale=4.0)
    found.mask.save(path.with_suffix(".found.png"))
    smooth.mask.save(path.with_suffix(".mask.png"))
    result.save(path.with_suffix(".edited.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
