"""The findings of `gallop-ray doctor`: one line each, with the fix where something is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

Level = Literal["ok", "warning", "problem"]
_COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line; `fix` says what to do, and is empty where nothing is wrong."""

    level: Level
    text: str
    fix: str = ""
    refused: bool = False
    """Whether it is the user's mistake that `run` refuses in the same words."""


def ok(text: str) -> Finding:
    """Nothing is wrong."""
    return Finding("ok", text)


def warning(text: str, fix: str) -> Finding:
    """A sweep will run, but slower, later or with weaker results."""
    return Finding("warning", text, fix)


def problem(text: str, fix: str) -> Finding:
    """A sweep will not run."""
    return Finding("problem", text, fix)


def print_findings(findings: Iterable[Finding]) -> tuple[dict[Level, int], bool]:
    """Print each finding as it comes. Returns their number by level, and whether `run` refuses one of them."""
    refused = False
    console, counts = Console(soft_wrap=True, highlight=False), dict.fromkeys(_COLOURS, 0)
    for each in findings:
        counts[each.level] += 1
        refused = refused or each.refused
        line = Text(f"{each.level:<8}", style=_COLOURS[each.level])
        end = " " if each.text.endswith((".", "?")) else ". "
        console.print(line + Text(f" {each.text}{end + each.fix if each.fix else ''}"))
    return counts, refused


def gigabytes(count: float) -> str:
    """Bytes as `3.1 GB`, `24 GB` or `80 MB`."""
    return f"{count / 1e6:.0f} MB" if count < 0.95e9 else f"{count / 1e9:.{0 if count >= 1e10 else 1}f} GB"
