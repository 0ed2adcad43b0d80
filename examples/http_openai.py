"""Use the server with OpenAI's client. Start the server first, with `make serve`.

python examples/http_openai.py build/examples/6.png "a black heart in a studio" \
    "a black mug in a studio" http://127.0.0.1:8000
"""

import base64
import sys
from pathlib import Path

from openai import OpenAI


def main(image: str, source: str, prompt: str, server: str = "http://127.0.0.1:8000") -> None:
    """Write the edit next to the image. `extra_body` has the options that are not OpenAI's."""
    client = OpenAI(base_url=f"{server}/v1", api_key="-")
    with open(image, "rb") as file:
        response = client.images.edit(
            image=file, prompt=prompt, extra_body={"source_prompt": source, "seed": 1}
        )
    assert response.data is not None
    for number, edit in enumerate(response.data, 1):
        assert edit.b64_json is not None
        Path(image).with_suffix(f".{number}.png").write_bytes(base64.b64decode(edit.b64_json))


if __name__ == "__main__":
    main(*sys.argv[1:])
