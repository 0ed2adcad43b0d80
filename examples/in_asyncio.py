"""Edits from asyncio code: the event loop stays free while the networks run.

python examples/in_asyncio.py build/examples/6.png "a red heart" "a blue heart" "a green heart"
"""

import asyncio
import sys
from pathlib import Path

from diffedit import DiffEditPipeline, EditRequest, EditResult

MODEL = "demo/model"


async def edit(pipe: DiffEditPipeline, request: EditRequest) -> EditResult:
    """One edit. Cancelling the task cancels the edit."""
    handle = await asyncio.to_thread(pipe.submit, request)  # reads the picture
    try:
        await asyncio.wrap_future(handle.future)
    except asyncio.CancelledError:
        handle.cancel()
        raise
    return await asyncio.to_thread(handle.result)  # makes the pictures


async def edit_all(image: str, prompts: list[str]) -> None:
    """Edit one picture under several prompts at the same time."""
    with DiffEditPipeline.from_pretrained(MODEL) as pipe:
        requests = [EditRequest(image, prompt, preset="draft") for prompt in prompts]
        results = await asyncio.gather(*(edit(pipe, request) for request in requests))
    for number, result in enumerate(results, 1):
        result.save(Path(image).with_suffix(f".{number}.png"))


def main(image: str, *prompts: str) -> None:
    """Run the event loop."""
    asyncio.run(edit_all(image, [*prompts]))


if __name__ == "__main__":
    main(*sys.argv[1:])
