"""The folder of a report's figures, tables and verdict, which never takes or removes a file of somebody else."""

from collections.abc import Iterable
from pathlib import Path

from gallop_ray.records.folders import PAGE, VERDICT, SweepFolder

_LIST = "files.txt"
"""In the folder: the files of its report, one per line, so that the next one removes what no longer holds."""


def folder_of(page: Path, sweep: SweepFolder) -> Path:
    """Where the files beside a page belong: of the sweep's own report its folder, of a page elsewhere <page>_files.

    Raises:
        ValueError: that folder exists, and no report has written it.
    """
    if page.resolve() == (sweep.path / PAGE).resolve():
        return page.parent
    folder = page.with_name(f"{page.stem}_files")
    if folder.exists() and not (folder / _LIST).is_file():
        raise ValueError(
            f"{folder}, the place of the page's figures and tables, is there already and is not of a report: "
            "choose another page with --output"
        )
    return folder


def finish(folder: Path, verdict: str, figures: Iterable[str], tables: Iterable[str]) -> None:
    """Write the verdict and the list of files, and remove the files of the last report that this one has not written.

    Args:
        figures, tables: their names.
    """
    now = {Path(VERDICT).name}
    now |= {f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png")}
    now |= {f"tables/{name}.{kind}" for name in tables for kind in ("csv", "tex")}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / Path(VERDICT).name).write_text(verdict + "\n", encoding="utf-8")
    listed = folder / _LIST
    before = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    for name in set(before) - now:
        if Path(name).parent.as_posix() in ("figures", "tables"):
            (folder / name).unlink(missing_ok=True)
    listed.write_text("".join(f"{name}\n" for name in sorted(now)), encoding="utf-8")
