"""Files of rows: JSONL, JSON, CSV, TSV, text, Parquet and Arrow, each also compressed as .gz, .bz2 or .zst.

Text files are read here, for datasets' readers know no line numbers, and guess types that depend on the other rows.
"""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gallop_ray.spec.tasks import COMPRESSED, SUFFIXES, kind_of_file
from gallop_ray.tasks.lines import BOM, json_object, lines_of, loads, other_kind
from gallop_ray.tasks.sources.table import Placed, Table, each_row

_LARGEST_FIELD = 2**31 - 1  # characters; csv stops at 131072 by itself


def file_table(path: Path) -> Table:
    """All rows of a file, in its order. Raises ValueError that names file and line, or row."""
    kind = kind_of_file(path.name)
    if kind is None:
        raise ValueError(f"{path} is of no kind that is read; its name must end in {', '.join(SUFFIXES)}")
    table = _READERS[kind](_content(path), path)
    if not table.rows:
        raise ValueError(f"{path}: the file has no rows")
    return table


def _content(path: Path) -> bytes:
    compression = next((name for suffix, name in COMPRESSED.items() if path.name.lower().endswith(suffix)), None)
    try:
        if compression is None:
            return path.read_bytes()
        import pyarrow as pa  # here: it takes half a second, which JSONL does not need

        with pa.input_stream(str(path), compression=compression) as stream:
            content: bytes = stream.read()
            return content
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read: {reason}") from error


def _json(content: bytes, path: Path) -> Table:
    """Rows a line, or one array of them, whatever the file is called."""
    start = content.removeprefix(BOM).lstrip()[:1]
    if start == b"[" or (start == b"{" and path.name.lower().split(".")[-1] != "jsonl" and _is_one(content)):
        return _array(content, path)
    return Table(each_row(lines_of(content, path), _line))


def _line(row: Any, place: str) -> Placed:
    return place, json_object(row, place)


def _is_one(content: bytes) -> bool:
    """Whether the file is one object, which holds the array, and not an object a line."""
    first = content.removeprefix(BOM).lstrip().partition(b"\n")[0]
    try:
        return not isinstance(json.loads(first), dict) or any(
            isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
            for value in json.loads(content.removeprefix(BOM)).values()
        )
    except (ValueError, RecursionError):
        return first.strip() == b"{"


def _array(content: bytes, path: Path) -> Table:
    try:
        found: Any = loads(content.removeprefix(BOM).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (at byte {error.start}); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}); write one array of objects") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}:1: not JSON that can be read ({error}); write one array of objects") from error
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if len(lists) != 1:
            raise ValueError(f"{path}:1: one object, which holds {len(lists)} arrays of rows; write the array alone")
        (found,) = lists
    return Table(each_row(_numbered(found, path), _object))


def _numbered(rows: list[Any], path: Path) -> list[tuple[str, Any]]:
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows, 1)]


def _object(row: Any, place: str) -> Placed:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: not an object with the names of the columns")
    return place, row


def _texts(content: bytes, path: Path) -> Table:
    """A text a line, the column `text`."""
    content = content.removeprefix(BOM)
    if (reason := other_kind(content)) and not content.lstrip().startswith(b"["):
        raise ValueError(f"{path}:1: the file is {reason}")
    lines = enumerate(_text(content, path).split("\n"), 1)
    rows: list[Placed] = [(f"{path}:{number}", {"text": line.strip("\r")}) for number, line in lines if line.strip()]
    if not rows:
        raise ValueError(f"{path}:1: the file is empty; write a text on each line")
    return Table(rows)


def _separated(default: str) -> Callable[[bytes, Path], Table]:
    def read(content: bytes, path: Path) -> Table:
        if reason := other_kind(content):
            raise ValueError(f"{path}:1: the file is {reason}")
        text = _text(content.removeprefix(BOM), path)
        header = text.partition("\n")[0]
        separator = ";" if default == "," and "," not in header and ";" in header else default
        csv.field_size_limit(_LARGEST_FIELD)
        _, *others = header.split(separator)
        spaced = bool(others) and all(name.startswith(" ") for name in others)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=spaced)
        try:
            names, *rows = _lines(reader, path) or [(f"{path}:1", [])]
        except csv.Error as error:
            if not _unquoted(text, default):
                raise ValueError(f"{path}:{reader.line_num}: not CSV ({error}); check the quotes") from error
            names, *rows = _split(text, path)
        if _unquoted(text, default) and len(rows) + 1 < len(split := _split(text, path)):
            names, *rows = split
        columns = [name.strip() for name in names[1]]
        _check_names(columns, path)
        return Table(each_row(rows, lambda values, place: _named(columns, values, place)))

    return read


def _split(text: str, path: Path) -> list[tuple[str, list[str]]]:
    """The lines of tabs between cells without quotes."""
    lines = enumerate(text.split("\n"), 1)
    return [(f"{path}:{number}", line.rstrip("\r").split("\t")) for number, line in lines if line.strip("\r")]


def _unquoted(text: str, separator: str) -> bool:
    """Whether a file is of tabs, with all cells on each line: a quote is then a character as any other.

    Most have no quotes around cells; one that begins with a quote would take the cells up to the next one.
    """
    counts = {line.count("\t") for line in text.split("\n") if line.strip("\r")}
    return separator == "\t" and len(counts) == 1


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = f"byte 0x{content[error.start]:02x}"
        raise ValueError(f"{path}:{line}: not UTF-8 ({wrong}); save the file as UTF-8") from error


def _check_names(names: list[str], path: Path) -> None:
    if not names:
        raise ValueError(f"{path}:1: the file is empty; its first line must name the columns")
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"{path}:1: the column {twice[0]!r} is there twice; the first line must name the columns")


def _lines(reader: Any, path: Path) -> list[tuple[str, list[str]]]:
    """Each row with the line that it begins on; a quoted text may go over several."""
    found, begun = [], reader.line_num + 1
    for values in reader:
        if values:
            found.append((f"{path}:{begun}", values))
        begun = reader.line_num + 1
    return found


def _named(names: list[str], values: list[str], place: str) -> Placed:
    if len(values) != len(names):
        raise ValueError(
            f"{place}: {len(values)} values for {len(names)} columns; put quotes around texts with a separator in them"
        )
    return place, dict(zip(names, values, strict=True))


def _parquet(content: bytes, path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return _arrow_table(lambda: pq.read_table(pa.BufferReader(content)), path, "Parquet")


def _arrow(content: bytes, path: Path) -> Table:
    import pyarrow as pa

    def read() -> Any:
        buffer = pa.BufferReader(content)
        opened = pa.ipc.open_file if content[:6] == b"ARROW1" else pa.ipc.open_stream
        return opened(buffer).read_all()

    return _arrow_table(read, path, "Arrow")


def _arrow_table(read: Callable[[], Any], path: Path, kind: str) -> Table:
    import pyarrow as pa
    from datasets import Dataset

    try:
        return dataset_table(Dataset(read()), str(path))
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as {kind}: {reason}") from error


def dataset_table(dataset: Any, place: str) -> Table:
    """The rows of a datasets.Dataset, and the names of its class labels."""
    from datasets import ClassLabel

    dataset = dataset.with_format(None)  # what was saved with one has tensors, or lacks columns
    names = {
        column: tuple(feature.names)
        for column, feature in dataset.features.items()
        if isinstance(feature, ClassLabel) and feature.names
    }
    rows = [
        (f"{place}, row {number}", {name: _cell(each) for name, each in row.items()})
        for number, row in enumerate(dataset, 1)
    ]
    return Table(rows, names)


def _cell(value: Any, listed: bool = False) -> Any:
    """A value of Arrow's: NaN is null, and mappings in a list do not have what only others of the column have.

    Arrow gives all mappings of a list all keys, with null: a tool call would have the arguments of every other.
    """
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, list):
        return [_cell(each, True) for each in value]
    if isinstance(value, dict):
        cells = {key: _cell(each, listed) for key, each in value.items()}
        return {key: each for key, each in cells.items() if each is not None or not listed}
    return value


_READERS: dict[str, Callable[[bytes, Path], Table]] = {
    "json": _json,
    "txt": _texts,
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "parquet": _parquet,
    "arrow": _arrow,
}
