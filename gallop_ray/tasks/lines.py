"""Lines of UTF-8 with a JSON object each, and what a file is that has none."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BOM = b"\xef\xbb\xbf"
_OTHER_FILES = {
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"PK\x03\x04": "a zip archive or a spreadsheet; write one JSON object on each line",
    b"PAR1": "a Parquet file; write one JSON object on each line",
    b"\xff\xfe": "not UTF-8 but UTF-16 or UTF-32; save it as UTF-8",
    b"\xfe\xff": "not UTF-8 but UTF-16; save it as UTF-8",
    b"version https://git-lfs": "a pointer to a file in Git LFS; fetch it with git lfs pull",
    b"[": "a JSON array; write one object on each line, without brackets and commas around them",
}
_HEAD = 64  # bytes in which text has no zero, unless it is UTF-16


def read_lines(path: Path) -> list[tuple[str, bytes]]:
    """`file:line` and content of each line that is not blank.

    Lines end with a line feed and nowhere else: U+2028, U+2029 and U+0085 may stand in a JSON string. A byte order
    mark at the start is left out. Raises ValueError for a file that cannot be read, that is empty, or that is of
    another kind.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return lines_of(content, path)


def lines_of(content: bytes, path: Path) -> list[tuple[str, bytes]]:
    """The same of what a file holds."""
    content = content.removeprefix(BOM)
    if kind := other_kind(content):
        raise ValueError(f"{path}:1: the file is {kind}")
    lines = [(f"{path}:{number}", line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}:1: the file is empty; write one JSON object on each line")
    return lines


def other_kind(content: bytes) -> str | None:
    """What a file is that is no text with an object a line, and what to do about it; None where it may be that."""
    start = content[:_HEAD].lstrip()
    kind = next((text for magic, text in _OTHER_FILES.items() if start.startswith(magic)), None)
    if kind is None and b"\0" in content[:_HEAD]:
        kind = "not UTF-8 but UTF-16, or no text; save it as UTF-8"
    return kind


def loads(text: str | bytes) -> Any:
    """What JSON holds. A NaN, which JSON does not have and pandas writes, is a value that is missing: null."""
    return json.loads(text, parse_constant=lambda name: None if name == "NaN" else float(name))


def json_object(line: bytes, place: str) -> dict[str, Any]:
    """The object on a line. Raises ValueError, which begins with `place`, where there is none."""
    try:
        row: Any = loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{line[error.start]:02x} at {error.start + 1}"
        raise ValueError(f"{place}: not UTF-8 ({wrong}); save the file as UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{place}: nested too deeply; write one object of plain fields") from error
    except ValueError as error:  # json's own, and Python's for a number of thousands of digits
        raise ValueError(f"{place}: not a JSON object ({error}); write one object on each line") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: not a JSON object; write one object on each line")
    return row


def check_characters(text: str, field: str, place: str) -> None:
    r"""Raises ValueError where the text has half of a character, as `"\ud83d"` alone is; no tokenizer takes that."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start].encode("ascii", "backslashreplace").decode()
        raise ValueError(
            f"{place}: {field} has half of a character ({half}, a lone surrogate); write the whole character"
        ) from error


def file_texts(path: Path) -> Iterator[str]:
    """The texts of a file, a line each. Raises ValueError naming the line that has none."""
    try:
        for place, line in read_lines(path):
            text = json_object(line, place).get("text")
            if not isinstance(text, str):
                raise ValueError(f"{place}: text missing or not text; every line needs it")
            check_characters(text, "text", place)
            yield text
    except ValueError as error:
        raise ValueError(f"evaluation.text: {error}") from error
