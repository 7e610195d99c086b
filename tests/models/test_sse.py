from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowpod.models.sse_reader import EventData


def events(*pieces: bytes) -> list[bytes]:
    """Return the events of the pieces, and of what is left at the end."""
    parser = EventData()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.end()


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a \n\n", [b" a "]),
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:\n\n", [b""]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b": a comment\n\ndata: a\n\n", [b"a"]),
        (b"event: x\nid: 7\nretry: 1\ndata: a\n\n", [b"a"]),
        (b"event: x\n\n", []),
        (b"data: a\nevent: x\n\n", [b"a"]),
        (b"database: a\n\n", []),
        (b" data: a\n\n", []),
        (b"data: a: b\n\n", [b"a: b"]),
        (b"data: a", [b"a"]),
        (b"data: a\n", [b"a"]),
        (b"data: a\n\ndata: b", [b"a", b"b"]),
        ("data: né 😀\n\n".encode(), ["né 😀".encode()]),
        ("data: a\u2028b\n\n".encode(), ["a\u2028b".encode()]),
    ],
)
def test_stream_has_these_events(stream: bytes, expected: list[bytes]) -> None:
    assert events(stream) == expected


def test_event_comes_with_its_blank_line_and_not_later() -> None:
    parser = EventData()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\n") == [b"a"]
    assert parser.feed(b"data: b\r\n\r\nda") == [b"b"]
    assert parser.feed(b"ta: c\n\n") == [b"c"]


LINES = st.sampled_from(
    [b"data: a", b"data:", b"data:b: c", b": x", b"event: e", b"", b"", "data: é😀".encode(), b"data"]
)
ENDS = st.sampled_from([b"\n", b"\r\n"])


@given(st.lists(st.tuples(LINES, ENDS)), st.lists(st.integers(0, 200)))
def test_events_do_not_depend_on_where_the_stream_is_cut(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(line + end for line, end in lines)
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(places)]
    assert events(*pieces) == events(stream) == events(*(bytes([byte]) for byte in stream))


@given(st.lists(st.binary().map(lambda data: data.replace(b"\n", b"").replace(b"\r", b""))), ENDS)
def test_data_comes_through_whole(contents: list[bytes], end: bytes) -> None:
    assert events(b"".join(b"data: " + content + end + end for content in contents)) == contents
