"""Tables in the documents, and the published results that they state."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import schema
from benchmarks.schema import Measurement, Result

ROOT = Path(schema.__file__).parents[1]


def published(name: str) -> Result:
    (result,) = schema.load(schema.COMMITTED / f"{name}.json")
    return result


def agrees(cell: str, found: Measurement) -> bool:
    """Whether the numbers of a cell are the value, and the ends of the interval if they are there,
    with the decimals of the first number."""
    numbers = re.findall(r"\d+(?:\.\d+)?", cell)
    assert found.value is not None and found.low is not None and found.high is not None
    half = 0.5001 * 10 ** -len(numbers[0].partition(".")[2])
    exact = (found.value, found.low, found.high)
    pairs = zip(map(float, numbers), exact, strict=False)
    return len(numbers) in (1, 3) and all(abs(number - value) <= half for number, value in pairs)


def rows(document: str, heading: str) -> dict[str, list[str]]:
    """The first table below a heading: the first cell of each row -> the others, without bold."""
    text = (ROOT / document).read_text().replace("**", "")
    lines = text[text.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    found = {}
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        label, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[label] = cells
    return found
