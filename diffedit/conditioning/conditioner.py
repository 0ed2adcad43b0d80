"""Convert texts to token ids and conditioning, for one checkpoint of any family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffedit.conditioning.combine import combine
from diffedit.conditioning.tokenizer import Tokenizer, truncation_warning
from diffedit.notices import Notice
from engine.checkpoint import Checkpoint
from engine.rows import Answer, Tensors

TextIds = tuple[tuple[int, ...], ...]


class Conditioner:
    """The tokenizers of a checkpoint, and how the text networks' outputs are combined.

    Attributes:
        empty: token ids of the empty text.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Load the tokenizers. Raises CheckpointError if one is missing or damaged."""
        self._family = checkpoint.family
        self._tokenizers = [
            Tokenizer(checkpoint.folder / text.tokenizer, text.length, text.kind)
            for text in self._family.text_inputs
        ]
        self.empty = self.encode("")

    def encode(self, text: str) -> TextIds:
        """The token ids of a text, one tuple per text network."""
        return tuple(tokenizer.encode(text) for tokenizer in self._tokenizers)

    def encode_prompts(
        self, prompts: Mapping[str, str]
    ) -> tuple[dict[str, TextIds], tuple[Notice, ...]]:
        """Return the token ids of each named prompt, and one warning per truncated prompt."""
        warnings = [self._warning(name, text) for name, text in prompts.items()]
        ids = {name: self.encode(text) for name, text in prompts.items()}
        return ids, tuple(warning for warning in warnings if warning)

    def condition(self, ids: TextIds, answers: Sequence[Answer]) -> Tensors:
        """Return the conditioning of a text from the outputs of the text networks."""
        outputs = [answer if isinstance(answer, tuple) else (answer,) for answer in answers]
        return combine(self._family, outputs, is_empty=ids == self.empty)

    def _warning(self, name: str, text: str) -> Notice | None:
        """Return the warning if every text network truncates a text, else None."""
        longest = max(self._tokenizers, key=lambda tokenizer: tokenizer.length)
        dropped = longest.truncated_text(text)
        return truncation_warning(name, dropped, longest.length) if dropped else None
