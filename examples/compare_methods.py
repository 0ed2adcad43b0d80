"""One edit by DiffEdit and by the paper's ablations, side by side.

python examples/compare_methods.py build/examples/5.png build/examples/methods.png \
    "a black cube and a yellow cone on a checked cloth" \
    "a red cube and a yellow cone on a checked cloth"
"""

import sys

import numpy as np
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest
from diffedit.request import Method

MODEL = "demo/model"
METHODS: tuple[Method, ...] = ("diffedit", "encode-decode", "masked-sdedit", "sdedit")


def main(image: str, out: str, source: str, prompt: str) -> None:
    """Write one picture with the results in a row, and print how much each changed outside.

    `composite=False` shows what the method itself does to the background.
    """
    before = np.asarray(Image.open(image).convert("RGB"), np.float32)
    requests = [
        EditRequest(image, prompt, source, method=method, composite=False, guidance_scale=4.0)
        for method in METHODS
    ]
    with DiffEditPipeline.from_pretrained(MODEL) as pipe:
        results = [*pipe.edit_many(requests)]
    outside = np.asarray(results[0].mask) == 0  # the mask that DiffEdit found
    for method, result in zip(METHODS, results, strict=True):
        change = np.abs(np.asarray(result.image, np.float32) - before)[outside].mean()
        print(f"{method}: {change:.2f} of 255 changed outside the mask, {result.stats.rows}")
    Image.fromarray(np.hstack([np.asarray(result.image) for result in results])).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
