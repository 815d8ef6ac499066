"""What every captioner is: something that answers questions about photos, several at a time.

A dialogue alternates between us and the model and ends with our question: ("Describe ...",) or ("List ...", "- colour: red ...",
"Now write ..."). The photo belongs to its first turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

Dialogue = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's words, and whether it finished before the token limit."""

    text: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no answer for one photo; others may get one."""

    reason: str


class Backend(Protocol):
    """A model on this machine, or a server."""

    batch_size: int  # photos for one call of ``answer``
    concurrency: int  # calls of ``answer`` that may run at a time, in threads

    def answer(self, images: Sequence[Image.Image], dialogues: Sequence[Dialogue]) -> list[Reply | Refusal]:
        """Return one reply for each RGB photo and its dialogue."""
        ...

    def close(self) -> None:
        """Cancel waiting requests; ``answer`` is not called again."""
        ...


def messages(dialogue: Dialogue, image: dict) -> list[dict]:
    """Return a dialogue in the chat form of Hugging Face and OpenAI; ``image`` is the photo's part of the first turn."""
    return [
        {
            "role": "assistant" if turn % 2 else "user",
            "content": [*([image] if turn == 0 else []), {"type": "text", "text": text}],
        }
        for turn, text in enumerate(dialogue)
    ]
