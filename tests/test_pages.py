"""docs/: what is made from the code is up to date, and what is shown can be written so."""

import re
import shlex
from pathlib import Path

import pytest
from peft import PeftType

from gallop_ray.cli import make_parser
from gallop_ray.cli.reference import commands_markdown
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.reference import fields_markdown
from gallop_ray.spec.tuner_reference import tuners_markdown

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "cluster/README.md"]
HEAD = "name: a\nmodel: {name: pocket}\ndata: {root: generated, train: range, ood: [max, min]}\n"


def test_the_references_are_up_to_date():
    assert (ROOT / "docs/reference/fields.md").read_text() == fields_markdown(), "run `make pages`"
    assert (ROOT / "docs/reference/commands.md").read_text() == commands_markdown(), "run `make pages`"
    assert (ROOT / "docs/reference/tuners.md").read_text() == tuners_markdown(), "run `make pages`"


def test_the_table_of_tuners_has_a_row_for_each_type_of_the_installed_peft():
    rows = re.findall(r"^\| (\w+) \| (yes|no) ", tuners_markdown(), re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(kind.value.lower() for kind in PeftType)


def blocks(page: Path, word: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{word}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def yaml_blocks() -> list[tuple[str, str]]:
    return [(f"{page.stem}-{n}", text) for page in PAGES for n, text in enumerate(blocks(page, "yaml"))]


@pytest.mark.parametrize("text", [text for _, text in yaml_blocks()], ids=[name for name, _ in yaml_blocks()])
def test_every_yaml_block_is_a_sweep_or_sections_of_one(tmp_path, monkeypatch, text):
    for folder in re.findall(r"root: (\S+)", text):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for file in re.findall(r"source: ([\w./-]+\.\w+)", text):
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    written = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    lines = [line for line in HEAD.splitlines() if line.partition(":")[0] not in written]
    more = [] if "methods" in written else ["methods: [{type: gallop}, {type: lora}]"]
    (tmp_path / "sweep.yaml").write_text("\n".join([*lines, *more, text]))
    load_sweep("sweep.yaml")


def commands(page: Path) -> list[str]:
    """The `gallop-ray ...` lines of indented and fenced blocks, without comments."""
    lines = re.findall(r"^(?: {4}|\$ )?(gallop-ray .*)$", page.read_text().replace("\\\n", " "), re.MULTILINE)
    return [line.partition(" # ")[0].partition(" > ")[0] for line in lines]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_that_is_shown_is_understood(page):
    for line in commands(page):
        make_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page):
    targets = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    assert [each for each in targets if not (page.parent / each).exists()] == []
