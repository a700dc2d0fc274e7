"""Draws the story's completion times as docs/story.svg: `picture.py [RESULTS.json [PICTURE.svg]]`.

Without arguments the newest results that hold the story are drawn. `make picture` calls it.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benches" / "results"
PICTURE = ROOT / "docs" / "story.svg"

WIDTH, LEFT, RIGHT = 760, 184, 196
BAR, GAP, TITLE, FOOT = 18, 28, 44, 44
SCALE = WIDTH - LEFT - RIGHT
# Colours with enough contrast on GitHub's white and on its dark grey.
STYLE = """
text { font: 13px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px } .small { font-size: 11px; fill: #59636e }
.grid { stroke: #d1d9e0 } .bar { fill: #9aa4af } .ours { fill: #1a7f37 }
.us { font-weight: 600 } .lost { fill: #cf222e }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .small { fill: #9198a1 } .grid { stroke: #3d444d }
  .bar { fill: #656c76 } .ours { fill: #3fb950 } .lost { fill: #ff7b72 }
}"""


def draw(results: dict[str, Any]) -> str:
    """The picture as SVG."""
    story = results["parts"]["story"]
    sizes = list(story["sizes"].values())
    times = [side["seconds"] for size in sizes for one in size["rounds"] for side in one.values()]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    shapes: list[str] = []
    top = 0
    for size in sizes:
        top = _panel(shapes, size, story["threads"], top, low, high)
    about = results["machine"]
    for line, text in enumerate(_captions(results, about)):
        shapes.append(_text(0, top + 14 + 16 * line, "small", text))
    height = top + FOOT
    label = f"Time to save from {story['threads']} threads, by method"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(label)}">'
        f"<style>{STYLE}</style>\n" + "\n".join(shapes) + "\n</svg>\n"
    )


def _panel(
    shapes: list[str], size: dict[str, Any], threads: int, top: int, low: int, high: int
) -> int:
    names = list(size["rounds"][0])
    bottom = top + TITLE + len(names) * GAP
    title = f"{threads} threads save {size['writes']:,} rows one by one"
    shapes.append(_text(0, top + 18, "title", title))
    for power in range(low, high + 1):
        x = LEFT + SCALE * (power - low) / (high - low)
        shapes.append(f'<path class="grid" d="M{x:.1f} {top + TITLE - 7}v5"/>')
        shapes.append(_text(x, top + TITLE - 10, "small", seconds(10.0**power), "middle"))
    for row, name in enumerate(names):
        sides = [one[name] for one in size["rounds"]]
        y, ours = top + TITLE + row * GAP, name == "turnwise"
        time = statistics.median(side["seconds"] for side in sides)
        width = SCALE * (math.log10(time) - low) / (high - low)
        shapes.append(_text(LEFT - 10, y + 14, "us" if ours else "side", sides[0]["label"], "end"))
        shapes.append(
            f'<rect class="{"ours" if ours else "bar"}" x="{LEFT}" y="{y}" '
            f'width="{max(width, 1):.1f}" height="{BAR}" rx="2"/>'
        )
        landed = int(statistics.median_low(side["landed"] for side in sides))
        told = f"{'over ' if sides[0]['cut'] else ''}{seconds(time)}"
        all_of_them = landed == size["writes"]
        tail = ", all landed" if all_of_them else f", {landed:,} of {size['writes']:,} landed"
        tails = f'<tspan class="{"" if all_of_them else "lost"}">{tail}</tspan>'
        shapes.append(
            f'<text x="{LEFT + max(width, 1) + 8:.1f}" y="{y + 14}">'
            f'<tspan class="us">{told}</tspan>{tails}</text>'
        )
    return bottom + 4


def _captions(results: dict[str, Any], about: dict[str, Any]) -> tuple[str, str]:
    processor = about["processor"].replace("(R)", "").replace("(TM)", "")
    return (
        f"One SQLite file, WAL, synchronous FULL; median of {results['rounds']} rounds; "
        "logarithmic scale, shorter is better.",
        f"{results['date']}: {about['cpus']} CPUs, {processor}, {about['file_system']}, "
        f"one flush {about['flush_ms']} ms",
    )


def _text(x: float, y: float, kind: str, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def seconds(value: float) -> str:
    """Two digits, in the unit that reads best."""
    number, unit = (value * 1000, "ms") if value < 0.0995 else (value, "s")
    return f"{number:.0f} {unit}" if number >= 9.95 else f"{number:.2g} {unit}"


def newest() -> Path:
    """The last results that hold the story."""
    for path in sorted(RESULTS.glob("*.json"), reverse=True):
        if "story" in json.loads(path.read_text(encoding="utf-8")).get("parts", {}):
            return path
    raise SystemExit(f"no results in {RESULTS}: run make bench first")


def main() -> None:
    """Draws."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else newest()
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else PICTURE
    target.write_text(draw(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"written: {target}, from {source}")


if __name__ == "__main__":
    main()
