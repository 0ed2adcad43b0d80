"""Edit every picture of a folder. The edits share network calls.

python examples/folder.py build/examples build/examples/results "a mug in a studio"
"""

import sys
from pathlib import Path

from diffedit import DiffEditPipeline, EditRequest

MODEL = "demo/model"


def main(folder: str, out: str, prompt: str, source: str = "") -> None:
    """Write one edit for each PNG file of the folder. A failure does not stop the others."""
    files = sorted(Path(folder).glob("*.png"))
    Path(out).mkdir(parents=True, exist_ok=True)
    requests = (EditRequest(file, prompt, source, preset="draft") for file in files)
    with DiffEditPipeline.from_pretrained(MODEL) as pipe:
        results = pipe.edit_many(requests, in_flight=8, return_errors=True)
        for file, result in zip(files, results, strict=True):
            if isinstance(result, Exception):
                print(f"{file.name}: {result}", file=sys.stderr)
                continue
            result.save(Path(out) / file.name)
            print(f"{file.name}: {result.latent_mask.mean():.0%} edited, {result.stats.calls}")


if __name__ == "__main__":
    main(*sys.argv[1:])
