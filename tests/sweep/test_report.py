"""The report in a process of its own."""

from pathlib import Path

import pytest

from gallop_ray.sweep.report import ReportApart
from tests.sweep.written import Written, small_sweep


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A sweep with one run that has finished."""
    written = Written(small_sweep(tmp_path))
    written.end(written.begin("gallop", 0.1, 0), 0.5)
    return written


def test_it_is_there_once_it_is_finished(written: Written) -> None:
    with ReportApart(written.folder, written.sweep) as page:
        page.start()
        page.finish()
    assert "</html>" in (written.folder.path / "report" / "report.html").read_text()


def test_one_that_cannot_be_written_is_a_warning(written: Written, capfd: pytest.CaptureFixture[str]) -> None:
    (written.folder.path / "report").write_text("in the way")
    with ReportApart(written.folder, written.sweep) as page:
        page.finish()
    assert f"no report on {written.folder.path} (" in capfd.readouterr().err


def test_it_ends_with_the_sweep(written: Written) -> None:
    with ReportApart(written.folder, written.sweep) as page:
        page.start()
    assert not (written.folder.path / "report" / "report.html").exists()
