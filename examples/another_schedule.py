"""The same weights with another noise schedule.

The schedule is read from a checkpoint's `scheduler/scheduler_config.json`: the training schedule,
the prediction type, and the spacing of the timesteps. The class of the scheduler does not matter,
because DiffEdit uses DDIM's steps (diffusion) or Euler's (rectified flow).

python examples/another_schedule.py build/examples/5.png "a black cube" "a red cube"
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from diffedit import DiffEditPipeline

MODEL = Path("demo/model")


def with_spacing(spacing: str, folder: Path) -> Path:
    """A checkpoint in `folder`, of links to MODEL, with another `timestep_spacing`."""
    folder.mkdir()
    for part in MODEL.absolute().iterdir():
        if part.name != "scheduler":
            (folder / part.name).symlink_to(part)
    config = json.loads((MODEL / "scheduler/scheduler_config.json").read_text())
    (folder / "scheduler").mkdir()
    text = json.dumps(config | {"timestep_spacing": spacing})
    (folder / "scheduler/scheduler_config.json").write_text(text)
    return folder


def main(image: str, source: str, prompt: str) -> None:
    """Edit with two spacings of the timesteps, and print how much the results differ."""
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for spacing in ("leading", "trailing"):
            model = with_spacing(spacing, Path(temporary) / spacing)
            with DiffEditPipeline.from_pretrained(model) as pipe:
                results[spacing] = pipe(image, prompt, source, preset="draft")
                times = pipe.checkpoint.scheduler_config
            print(f"{spacing}: {times['timestep_spacing']}, {results[spacing].stats.rows}")
    one, other = (np.asarray(result.image, np.float32) for result in results.values())
    print(f"the results differ by {np.abs(one - other).mean():.2f} of 255 on average")


if __name__ == "__main__":
    main(*sys.argv[1:])
