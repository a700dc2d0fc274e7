"""The picture of one moment: lines of text that fit a terminal."""

from __future__ import annotations

import os
import time
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from turnwise.cli.top_rows import Moment, Row

_WORDS = {
    "idle_in_tx": "idle in tx",
    "aborted_tx": "aborted tx",
    "checked_out": "checked out",
}
_COLOURS = {"waiting": "31", "idle_in_tx": "33", "aborted_tx": "35", "active": "32"}
_BOLD, _DIM, _REVERSE = "1", "2", "7"
_GAP = "  "
_WIDE = 120


@dataclass(frozen=True)
class Style:
    """What the terminal can do."""

    colours: bool = False
    unicode: bool = True

    def paint(self, text: str, code: str) -> str:
        """The text in a colour, if there are any."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours and code else text


@dataclass(frozen=True)
class _Column:
    """A column; the widths are in characters."""

    title: str
    least: int
    good: int
    text: Callable[[Row], str]
    cut: Callable[[str, int, Style], str]
    is_number: bool = False
    is_extra: bool = False


def wants_colours(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a terminal may be coloured (no-color.org)."""
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def plain(text: object) -> str:
    """Text of others without control characters: no program may steer the terminal by its name."""
    kept = (each if unicodedata.category(each)[0] != "C" else " " for each in str(text))
    return " ".join("".join(kept).split())


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )


def cut_end(text: str, width: int, style: Style) -> str:
    """The beginning of a text that is too long."""
    if columns_of(text) <= width:
        return text
    mark = "…" if style.unicode else "~"
    while text and columns_of(text) > width - 1:
        text = text[:-1]
    return text + mark if width > 0 else ""


def cut_site(site: str, width: int, style: Style) -> str:
    """A call site: first the function goes, then the middle of the path; the line stays."""
    if columns_of(site) <= width:
        return site
    place = site.partition(" in ")[0]
    if columns_of(place) <= width:
        return place
    mark = "…" if style.unicode else "~"
    first, *folders = place.split("/")
    for begin in (f"{first}/{mark}/", f"{mark}/"):
        for number in range(1, len(folders) + 1):
            text = begin + "/".join(folders[number:])
            if folders[number:] and columns_of(text) <= width:
                return text
    while place and columns_of(place) > width - 1:
        place = place[1:]
    return mark + place


def cut_owner(owner: str, width: int, style: Style) -> str:
    """An owner without the end of its name: its phase stays, as far as there is room."""
    name, bracket, phase = owner.rpartition(" (")
    if columns_of(owner) <= width or not name or columns_of(phase) + 10 > width:
        return cut_end(owner, width, style)
    return cut_end(name, width - columns_of(phase) - 2, style) + bracket + phase


def duration(seconds: float | None) -> str:
    """A time in at most five characters."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 99.5:
        return f"{seconds:.0f}s"
    if seconds < 599.5:
        return f"{round(seconds) // 60}m{round(seconds) % 60:02}s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes}m"
    if minutes < 48 * 60:
        return f"{minutes // 60}h{minutes % 60:02}"
    return f"{minutes // 1440}d{minutes % 1440 // 60:02}"


def owner_of(row: Row) -> str:
    """The request, task or job; of a session without report what the server knows of its client."""
    if row.joined is None:
        where = row.session.address
        return plain(row.session.application or where) and plain(
            f"({row.session.application or where})"
        )
    owner = row.joined.lease.owner
    unsure = "" if row.joined.match == "socket" else "?"
    if owner is None:
        name = os.path.basename(row.joined.report.argv0) or "process"
        return plain(f"{name}[{row.joined.report.pid}]{unsure}")
    name = f"{owner.name or owner.id}{unsure}"
    # The name of a request says what it is: GET and a route.
    text = name if owner.kind == "request" else f"{owner.kind} {name}"
    return plain(text if owner.phase in {"running", ""} else f"{text} ({owner.phase})")


def _line(row: Row, *names: str) -> str:
    lease = row.joined.lease if row.joined is not None else None
    return plain(next((text for name in names if (text := getattr(lease, name, ""))), ""))


def _pid(row: Row, style: Style) -> str:
    signs = ("└ ", "├ ", "│ ") if style.unicode else ("` ", "| ", "| ")
    above = "".join("  " if last else signs[2] for last in row.branch[:-1])
    own = (signs[0] if row.branch[-1] else signs[1]) if row.branch else ""
    return f"{above}{own}{row.session.pid}"


def _who_blocks(row: Row) -> str:
    others = [pid for pid in row.session.blocked_by if pid != row.below]
    return ",".join("prepared tx" if pid == 0 else str(pid) for pid in others)


def _columns(moment: Moment, sort: str, width: int, style: Style) -> list[_Column]:
    product = moment.view.product
    sites = [_Column("LINE", 14, 34, lambda row: _line(row, "last", "opened"), cut_site)]
    if width >= _WIDE:
        sites = [
            _Column("OPENED", 14, 26, lambda row: _line(row, "opened"), cut_site),
            _Column("LAST", 14, 26, lambda row: _line(row, "last"), cut_site),
        ]
    # The tree says it of all but those that wait for several.
    by = _Column("BLOCKED BY", 5, 12, _who_blocks, cut_end)
    also = _Column("ALSO BLOCKED BY", 15, 15, _who_blocks, cut_end, is_extra=True)
    return [
        _Column("PID", 5, 20, lambda row: _pid(row, style), cut_end),
        _Column("STATE", 7, 11, lambda row: _WORDS.get(row.state, row.state), cut_end),
        _Column("FOR", 5, 5, lambda row: duration(row.age), cut_end, is_number=True),
        _Column(
            "TX", 5, 5, lambda row: duration(row.session.transaction_age), cut_end, is_number=True
        ),
        *([] if sort == "blocked" else [by]),
        _Column("OWNER", 12, 24, owner_of, cut_owner),
        *sites,
        *([also] if sort == "blocked" else []),
        _Column(
            "STATEMENT",
            16,
            24,
            lambda row: plain(row.statement(product)),
            cut_end,
            is_extra=True,
        ),
        _Column("WAIT", 10, 18, lambda row: plain(row.session.wait), cut_end, is_extra=True),
        _Column(
            "USER@DATABASE",
            12,
            20,
            lambda row: plain(f"{row.session.user}@{row.session.database}").strip("@"),
            cut_end,
            is_extra=True,
        ),
    ]


def table(moment: Moment, rows: list[Row], sort: str, width: int, style: Style) -> list[str]:
    """The heading and one line for each row, none wider than `width`.

    A column is left out where there is no room for it beside the least width of those before it;
    an extra one, beside a good width.
    """
    kept: list[tuple[_Column, list[str]]] = []
    wants: list[int] = []
    taken = {False: 0, True: 0}
    for column in _columns(moment, sort, width, style):
        cells = [column.text(row) for row in rows]
        if any(cells):
            want = max(columns_of(text) for text in (column.title, *cells))
            if taken[column.is_extra] + min(want, column.least) <= width:
                kept.append((column, cells))
                wants.append(want)
                taken[False] += min(want, column.least) + len(_GAP)
                taken[True] += min(want, column.good) + len(_GAP)
    widths = _shared(kept, wants, width - len(_GAP) * (len(kept) - 1))
    heading = _GAP.join(
        _aligned(cut_end(column.title, room, style), room, column)
        for (column, _), room in zip(kept, widths, strict=True)
    )
    lines = [style.paint(heading.ljust(width if style.colours else 0), _REVERSE)]
    for number, row in enumerate(rows):
        parts = []
        for (column, cells), room in zip(kept, widths, strict=True):
            cell = _aligned(column.cut(cells[number], room, style), room, column)
            if column.title == "STATE":
                cell = style.paint(cell, _COLOURS.get(row.state, ""))
            parts.append(cell)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _shared(kept: list[tuple[_Column, list[str]]], wants: list[int], room: int) -> list[int]:
    """A width for each column: the least first, then a good one, then what it wants."""
    widths = [0] * len(kept)
    for goal in ("least", "good", ""):
        for number, (column, _) in enumerate(kept):
            most = min(wants[number], getattr(column, goal)) if goal else wants[number]
            step = max(0, min(most - widths[number], room))
            widths[number] += step
            room -= step
    return widths


def _aligned(text: str, width: int, column: _Column) -> str:
    blank = " " * (width - columns_of(text))
    return blank + text if column.is_number else text + blank


def picture(
    moment: Moment,
    *,
    where: str,
    sort: str,
    everything: bool,
    width: int,
    height: int | None,
    style: Style,
    trouble: str = "",
) -> list[str]:
    """All lines; with a `height` no more than that."""
    view = moment.view
    rows = moment.rows(sort=sort, everything=everything)
    clock = time.strftime("%H:%M:%S", time.localtime(moment.at))
    title = f"turnwise top{_GAP}{view.product} {view.version}{_GAP}{plain(where)}"
    title = cut_end(title, max(0, width - len(clock) - 2), style)
    lines = [style.paint(title.ljust(width - len(clock)) + clock, _BOLD)]
    counts = moment.counts()
    said = ", ".join(
        f"{number} {_WORDS.get(state, state)}"
        for state, number in counts.items()
        if state != "background"
    )
    lines.append(
        cut_end(
            f"{view.connections}/{view.max_connections} connections: {said or 'no others'}"
            f"; {_many(len(moment.reports), 'process', 'es')} reporting",
            width,
            style,
        )
    )
    lines += [style.paint(cut_end(plain(note), width, style), _DIM) for note in moment.notes]
    if trouble:
        lines.append(style.paint(cut_end(plain(trouble), width, style), "31"))
    foot = _findings(moment, width, style)
    if height is not None:
        foot.append(
            style.paint(
                cut_end(
                    f"q quit, s sort: {sort}, a {'fewer' if everything else 'all'}", width, style
                ),
                _DIM,
            )
        )
    shown = rows
    if height is not None and len(lines) + 1 + len(rows) + len(foot) > height:
        shown = rows[: max(0, height - len(lines) - 2 - len(foot))]
        foot.insert(0, cut_end(f"and {len(rows) - len(shown)} more", width, style))
    if rows:
        lines += table(moment, shown, sort, width, style)
    else:
        said = "no session is active, in a transaction or held"
        lines.append(cut_end(said if everything else f"{said} (--all: idle too)", width, style))
    if height is not None:
        lines += [""] * (height - len(lines) - len(foot))
        return (lines + foot)[:height]
    return lines + foot


def _many(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"


def _findings(moment: Moment, width: int, style: Style) -> list[str]:
    """The newest finding of all processes, and how many there are."""
    found = [finding for report in moment.reports for finding in report.findings]
    if not found:
        return []
    text = plain(max(found, key=lambda finding: finding.at).text)
    return [
        style.paint(
            cut_end(f"{_many(len(found), 'finding')}, the newest: {text}", width, style), "33"
        )
    ]
