"""Copies a node's stream to the output nodes that read it while it is produced."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from flowpod.jsonable import as_text
from flowpod.models.base import Chunk


class StreamTee:
    """Keeps the chunks of one node. Each reader gets all of them, from the first one, as they come."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._ended = False
        self._changed = asyncio.Event()

    def add_chunk(self, chunk: Chunk) -> None:
        """Add a chunk."""
        self._chunks += chunk.split()
        self._changed.set()

    def end(self, value: Any) -> None:
        """End the stream. A value that came without chunks is one chunk."""
        if not self._chunks and (text := as_text(value)):
            self._chunks.append(Chunk(text))
        self._ended = True
        self._changed.set()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield every chunk."""
        position = 0
        while True:
            while position < len(self._chunks):
                yield self._chunks[position]
                position += 1
            if self._ended:
                return
            self._changed.clear()
            await self._changed.wait()
