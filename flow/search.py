"""Finds the passages of the handbook that fit a question, by BM25 over their words."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from langstudio.core import tool

HANDBOOK = Path(__file__).parent / "handbook"
STOP_WORDS = frozenset(
    "a an and are as at be by can do does for from how i if in is it its me my of on or should that the this to"
    " use what when where which who why will with you your".split()
)
SATURATION = 1.4
LENGTH_WEIGHT = 0.6
TITLE_WEIGHT = 3


@dataclass
class Passage:
    title: str
    text: str
    score: float = 0.0


@dataclass
class Found:
    passages: list[Passage]


@tool
def invoke(question: str, chat_history: list, top_k: int = 4) -> Found:
    """Return the best passages, best first; the question before counts a little, for questions such as "and how?"."""
    query = Counter(dict.fromkeys(words(question), 1.0))
    if chat_history:
        for word in words(str(chat_history[-1].get("inputs", {}).get("question", ""))):
            query[word] = max(query[word], 0.3)
    passages, counts, rarity = index()
    average = sum(count.total() for count in counts) / len(counts)
    scored = [
        Passage(passage.title, passage.text, round(score(query, count, rarity, average), 3))
        for passage, count in zip(passages, counts, strict=True)
    ]
    best = sorted((passage for passage in scored if passage.score), key=lambda passage: -passage.score)
    return Found(best[:top_k])


def score(query: Counter, count: Counter, rarity: dict[str, float], average: float) -> float:
    norm = SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * count.total() / average)
    return sum(
        weight * rarity.get(word, 0.0) * count[word] * (SATURATION + 1) / (count[word] + norm)
        for word, weight in query.items()
    )


@cache
def index() -> tuple[list[Passage], list[Counter], dict[str, float]]:
    """Return the passages (a heading and what follows it), their word counts, and how rare each word is."""
    passages = [
        Passage(part.partition("\n")[0].strip(), part.partition("\n")[2].strip())
        for path in sorted(HANDBOOK.glob("*.md"))
        for part in re.split(r"(?m)^#+ ", path.read_text(encoding="utf-8"))
        if part.partition("\n")[2].strip()
    ]
    counts = [Counter(words(passage.title) * TITLE_WEIGHT + words(passage.text)) for passage in passages]
    seen = Counter(word for count in counts for word in count)
    rarity = {word: math.log(1 + (len(passages) - n + 0.5) / (n + 0.5)) for word, n in seen.items()}
    return passages, counts, rarity


def words(text: str) -> list[str]:
    found = re.findall(r"[a-z0-9]+(?:[_./-][a-z0-9]+)*", text.lower())
    return [stem(word) for word in found if word not in STOP_WORDS]


def stem(word: str) -> str:
    for ending in ("ies", "ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending) + ("y" if ending == "ies" else "")
    return word
