"""Draws speed.svg from speed.json, in the environment that has matplotlib: `python plot.py speed.json speed.svg`."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt  # the backend comes first

_LEVEL = 16
_OURS, _OTHERS, _LIMITS = "#1f6feb", "#9aa4b2", "#2da44e"


def draw(speed: dict[str, Any], target: Path) -> None:
    """Draw a bar for each server and endpoint, streamed and in one piece."""
    level = (
        _LEVEL if any(cell["concurrency"] == _LEVEL for cell in speed["cells"]) else speed["cells"][0]["concurrency"]
    )
    mpl.rcParams |= {"svg.hashsalt": "flowpod", "font.size": 9, "font.family": "sans-serif"}
    figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained", sharey=True)
    for panel, (mode, title) in zip(panels, (("stream", "streaming"), ("whole", "in one piece")), strict=True):
        cells = [
            c
            for c in speed["cells"]
            if c["mode"] == mode and c["concurrency"] == level and c["chunks"] == 64 and c["server"] != "model"
        ]
        names = [c["server"] if c["endpoint"] == "/" else f"{c['server']} {c['endpoint']}" for c in cells]
        bars = panel.barh(names, [c["per_s"] for c in cells], color=[_colour(c["server"]) for c in cells])
        panel.bar_label(bars, fmt="%.0f", padding=3)
        panel.margins(x=0.15)
        panel.set_title(f"{title}, {level} at once: requests a second on one core")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.savefig(target, metadata={"Date": None})


def _colour(server: str) -> str:
    if server.startswith("flowpod"):
        return _OURS
    return _LIMITS if server.startswith(("limit", "bytes")) else _OTHERS


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
