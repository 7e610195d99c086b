"""Examples in Markdown files: the commands are run, and what is shown is compared with what they print."""

import itertools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Example:
    """A command and what the document shows of its output."""

    command: str
    shown: str

    def __str__(self) -> str:
        return self.command[:60]


def blocks(document: Path) -> list[tuple[str, str]]:
    """Return (language, text) of every fenced block."""
    return [(match[1], match[2].strip()) for match in BLOCK.finditer(document.read_text())]


def examples(document: Path, program: str) -> list[Example]:
    """Return the commands that use `program` and are followed by their output."""
    return [
        Example(text, shown)
        for (kind, text), (next_kind, shown) in itertools.pairwise(blocks(document))
        if kind == "sh" and next_kind in ("json", "text") and program in text
    ]


def normal(text: str) -> str:
    """Return `text` with what differs from run to run made the same."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "TIME", text)
    text = re.sub(r'"session_id":"[0-9a-f]{32}"', '"session_id":"SESSION"', text)
    text = re.sub(r"0x[0-9a-f]{32}", "TRACE", text)
    text = re.sub(r"chatcmpl-[0-9a-f]{32}", "CHAT", text)
    text = re.sub(r"(resp|msg|rs)_[0-9a-f]{32}", r"\1_ID", text)
    text = re.sub(r'"created(_at)?":\d+', r'"created\1":N', text)
    text = re.sub(r'"duration":\d\.\d+', '"duration":N', text)
    return re.sub(r"\d\.\d{3} s", "N s", text).strip()


def check_against(example: Example, url: str) -> None:
    """Run a command against the server at `url` and compare what it prints."""
    command = example.command.replace(SHOWN_URL, url)
    assert command != example.command
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert normal(done.stdout) == normal(example.shown), done.stderr
