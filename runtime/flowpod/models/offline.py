"""The built-in `offline` model: answers with the sentences of its prompt that share the rarest words with the question.

It knows nothing of its own. Passages are marked in the prompt as `<passage title="...">...</passage>`; a prompt without
them is one passage, its system message.
"""

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from flowpod.models.base import Chunk, ModelRequest, Result

MODEL = "offline-extract"

_PASSAGE = re.compile(r'<passage title="([^"]*)">((?:(?!</?passage).)*)</passage>', re.DOTALL)
_SENTENCE_END = re.compile(r"\n\s*\n|\n(?=[-*#|])|(?<=[.!?])\s(?=[A-Z`\"'(0-9])")
_WORD = re.compile(r"[a-z0-9]+(?:[_./-][a-z0-9]+)*")
_ENDING = re.compile(r"(?<=\w{3})(?:ing|ed|es|s|e)$")
_STOP_WORDS = frozenset(
    "a about an and are as at be can do does for from has have how i if in is it me my no of on one or so that the"
    " there this to use was what when where which who why will with you your".split()
)
_LIMIT = 100_000  # characters of a prompt that are read: more would hold up other runs
_SENTENCES = 4
_PREVIOUS_QUESTION_WEIGHT = 0.3


class OfflineModel:
    """Extracts answers. The same prompt always has the same answer."""

    connection_type = "offline"
    default_model = MODEL
    fixed_model = True
    address = ""

    async def answer(self, request: ModelRequest) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the answer word by word, then its Result; see `Model.answer`."""
        prompt = request.prompt
        text = extract([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
        for word in re.findall(r"\s*\S+", text) if request.stream else [text]:
            yield Chunk(word)
            await asyncio.sleep(0)
        yield Result(text, None, MODEL, "stop")

    async def close(self) -> None:
        """Hold nothing, close nothing."""


def extract(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentences of the system messages that answer the last question best, the best passage's first."""
    questions, system = (
        [str(message["content"]) for message in messages if message["role"] == role] for role in ("user", "system")
    )
    text = "\n".join(system)[:_LIMIT]
    passages = _PASSAGE.findall(text) or [("", text)]
    sentences = [
        (number, sentence)
        for number, (_, passage) in enumerate(passages)
        for raw in _SENTENCE_END.split(passage)
        if (sentence := " ".join(raw.split()).lstrip("# "))
    ]
    words = [[*_words(passages[number][0]), *_words(sentence)] for number, sentence in sentences]
    seen = Counter(word for found in words for word in set(found))
    asked = dict.fromkeys(_words("".join(questions[-2:-1])), _PREVIOUS_QUESTION_WEIGHT)
    asked |= dict.fromkeys(_words("".join(questions[-1:])), 1.0)
    rarity = {word: weight * math.log(1 + len(sentences) / seen[word]) for word, weight in asked.items() if seen[word]}
    scores = [sum(rarity.get(word, 0.0) for word in found) for found in words]
    if not any(scores):
        titles = ", ".join(title for title, _ in passages if title)
        return f"I found nothing about that{f' in the text that I was given. It covers: {titles}' if titles else ''}."
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[:_SENTENCES]
    chosen = [index for index in best if scores[index] >= scores[best[0]] / 2]
    order = dict.fromkeys(sentences[index][0] for index in chosen)
    return "\n\n".join(
        " ".join(sentences[index][1] for index in sorted(chosen) if sentences[index][0] == number) for number in order
    )


def _words(text: str) -> set[str]:
    """Return the words of `text` that carry meaning, without their commonest endings."""
    return {_ENDING.sub("", word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS}
