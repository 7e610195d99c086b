"""The built-in `offline` model: answers with the best sentences of the passages in its prompt.

It knows nothing of its own. Passages are marked in the prompt as `<passage title="...">...</passage>`; a prompt without
them is one passage, its system message. A sentence counts by the rare words that it shares with the question.
"""

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from flowpod.models.base import Chunk, ModelRequest, Result

MODEL = "offline-extract"

_OPENING, _CLOSING = '<passage title="', "</passage>"
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z`\"'(0-9])")
_WORD = re.compile(r"[a-z0-9]+(?:[_./-][a-z0-9]+)*")
_STOP_WORDS = frozenset(
    "a about an and any are as at be been but by can could did do does for from get had has have how i if in into is it"
    " its like me my no not of on one or our please should so tell than that the their them then there these they this"
    " to up us use used using want was we what when where which who why will with would you your".split()
)
_LIMIT = 100_000  # characters of a prompt that are looked at: what takes longer would hold up other runs
_SENTENCES = 4
_FLOOR = 0.45
_TITLE_WEIGHT = 0.8
_EARLIER_QUESTION_WEIGHT = 0.3
_NEIGHBOUR_WEIGHT = 0.3
_NOTHING_FOUND = "I found nothing about that in the text that I was given. It covers: {titles}."


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    passage: int
    words: frozenset[str]


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
    """Return the sentences of the prompt that answer its last question best, the best passage's first."""
    questions = [str(message["content"]) for message in messages if message["role"] == "user"]
    system = "\n".join(str(message["content"]) for message in messages if message["role"] == "system")
    passages = _passages(system[:_LIMIT]) or [("", system[:_LIMIT])]
    weights = _question_weights(questions)
    sentences = [
        _Sentence(text, number, frozenset(words(text)))
        for number, (_, passage) in enumerate(passages)
        for text in _sentences(passage)
    ]
    scores = _scores(sentences, [frozenset(words(title)) for title, _ in passages], weights)
    best = sorted((index for index, score in enumerate(scores) if score > 0), key=lambda index: -scores[index])
    if not best:
        titles = ", ".join(title for title, _ in passages if title)
        return _NOTHING_FOUND.format(titles=titles) if titles else "I found nothing about that."
    chosen = [index for index in best[:_SENTENCES] if scores[index] >= _FLOOR * scores[best[0]]]
    order = list(dict.fromkeys(sentences[index].passage for index in chosen))
    chosen.sort(key=lambda index: (order.index(sentences[index].passage), index))
    return _joined([sentences[index] for index in chosen])


def words(text: str) -> list[str]:
    """Return the words of `text` that carry meaning, without their commonest endings."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]


def _stem(word: str) -> str:
    for ending in ("ies", "ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word.removesuffix(ending)
            return stem + "y" if ending == "ies" else stem
    return word


def _passages(text: str) -> list[tuple[str, str]]:
    """Return the title and text of each passage."""
    found = []
    for part in text.split(_OPENING)[1:]:
        title, _, rest = part.partition('">')
        body, closing, _ = rest.partition(_CLOSING)
        if closing:
            found.append((title, body))
    return found


def _sentences(passage: str) -> list[str]:
    paragraphs: list[list[str]] = [[]]
    for line in passage.split("\n"):
        if not line.strip() or line[0] in "-*#|":
            paragraphs.append([])
        paragraphs[-1].extend(line.split())
    texts = (" ".join(words).lstrip("# ") for words in paragraphs if words)
    return [sentence for text in texts for sentence in _SENTENCE_END.split(text) if sentence]


def _question_weights(questions: list[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    if len(questions) > 1:
        weights.update(dict.fromkeys(words(questions[-2]), _EARLIER_QUESTION_WEIGHT))
    weights.update(dict.fromkeys(words(questions[-1]) if questions else [], 1.0))
    return weights


def _scores(sentences: list[_Sentence], titles: list[frozenset[str]], weights: Mapping[str, float]) -> list[float]:
    """Return each sentence's score: its own words, its title's and its neighbours', the more the better its passage."""
    seen = Counter(word for sentence in sentences for word in sentence.words)
    seen.update(word for title in titles for word in title)
    rarity = {
        word: weight * math.log(1 + len(sentences) / seen[word]) for word, weight in weights.items() if seen[word]
    }
    of_titles = [_sum(rarity, title) for title in titles]
    vocabularies: list[set[str]] = [set() for _ in titles]
    for sentence in sentences:
        vocabularies[sentence.passage] |= sentence.words
    of_passages = [_sum(rarity, found) + of_title for found, of_title in zip(vocabularies, of_titles, strict=True)]
    best = max(of_passages, default=0.0)
    if not best:
        return [0.0] * len(sentences)
    own = [_sum(rarity, sentence.words) for sentence in sentences]
    scores = []
    for index, sentence in enumerate(sentences):
        near = max(
            (own[other] for other in (index - 1, index + 1) if _same_passage(sentences, other, sentence)), default=0.0
        )
        score = own[index] + _NEIGHBOUR_WEIGHT * near + _TITLE_WEIGHT * of_titles[sentence.passage]
        scores.append(score * (of_passages[sentence.passage] / best) ** 2)
    return scores


def _sum(rarity: Mapping[str, float], found: Set[str]) -> float:
    return sum(weight for word, weight in rarity.items() if word in found)


def _same_passage(sentences: list[_Sentence], index: int, sentence: _Sentence) -> bool:
    return 0 <= index < len(sentences) and sentences[index].passage == sentence.passage


def _joined(chosen: list[_Sentence]) -> str:
    text = chosen[0].text
    for before, sentence in pairwise(chosen):
        text += (" " if before.passage == sentence.passage else "\n\n") + sentence.text
    return text
