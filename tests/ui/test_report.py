"""The report as a reader sees it: in a browser, from the disk, with the network off."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gallop_ray.cli import main
from gallop_ray.records.folders import SweepFolder
from tests.reporting.reported import write_half_failed_sweep, write_sweep

pytestmark = pytest.mark.ui

_SETTINGS = [(1280, "light"), (390, "light"), (1280, "dark"), (390, "dark")]
# Pairs of visible neighbours that cover each other by more than a pixel; what scrolls in a box counts as its box.
_OVERLAPS = """() => {
  const found = [];
  const parents = "body, main, section, header, figure, table, tr, dl, details, nav ul";
  for (const parent of document.querySelectorAll(parents)) {
    const boxes = [...parent.children].filter((each) => each.checkVisibility() && each.tagName !== "SCRIPT")
      .map((each) => [each, each.getBoundingClientRect()]).filter(([, box]) => box.width && box.height);
    boxes.forEach(([one, a], place) => boxes.slice(place + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 1) found.push(`${one.outerHTML.slice(0, 80)} | ${other.outerHTML.slice(0, 80)}`);
    }));
  }
  return found;
}"""
# Texts of a figure that cover each other by more than two pixels each way.
_CROWDED = """() => [...document.querySelectorAll("figure svg")].flatMap((svg) => {
  const texts = [...svg.querySelectorAll("text")].filter((each) => each.textContent.trim());
  const boxes = texts.map((each) => [each.textContent, each.getBoundingClientRect()]);
  const wide = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const high = (a, b) => Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return boxes.flatMap(([one, a], place) => boxes.slice(place + 1).filter(
    ([, b]) => wide(a, b) > 2 && high(a, b) > 2
  ).map(([other]) => `${svg.getAttribute("aria-label")}: ${one} | ${other}`));
})"""
# Of each colour that text or a line of a figure has, the contrast with the page, as WCAG 2 defines it.
_CONTRASTS = """() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(document.documentElement);
  const of = (name) => light(style.getPropertyValue(name));
  const contrast = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const names = ["--ink", "--muted", ...Array.from({length: 8}, (_, place) => `--c${place}`)];
  return Object.fromEntries(names.map((name) => [name, contrast(of(name), of("--paper"))]));
}"""


_WIDER = """() => [...document.querySelectorAll(".scroll")].filter((each) => each.scrollWidth > each.clientWidth)
  .map((each) => `${each.getAttribute("aria-label")}: ${each.scrollWidth} > ${each.clientWidth}`)"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a sweep that is over, and of one that is half done and has failed in part."""
    found = {}
    for name, write in (("whole", write_sweep), ("half", write_half_failed_sweep)):
        folder, _ = write(tmp_path_factory.mktemp(name))
        assert main(["report", str(folder.path)]) == 0
        found[name] = folder.path / "report" / "report.html"
    return found


def _with_losses(folder: SweepFolder) -> None:
    """Every column that the table of results can have."""
    losses = {"id_loss": 2.624, "ood_loss": 3.202, "ood_loss_increase": -2.511}
    for run in folder.runs():
        result = run.read("result")
        assert result is not None
        drawn = random.Random(str(run.path))
        run.write("result", {**result, **{name: loss + 0.1 * drawn.random() for name, loss in losses.items()}})
    folder.rebuild_results()


@contextmanager
def opened(browser: Any, path: Path, width: int, scheme: str) -> Iterator[tuple[Any, list[str]]]:
    """The page, and what it says on the console or asks of the network."""
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: said.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    page.goto(path.as_uri())
    yield page, said
    context.close()


@pytest.mark.parametrize(("width", "scheme"), _SETTINGS)
@pytest.mark.parametrize("which", ["whole", "half"])
def test_all_is_visible_and_nothing_covers_anything(browser, pages, which, width, scheme):
    with opened(browser, pages[which], width, scheme) as (page, said):
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(_OVERLAPS) == []
        assert page.evaluate(_CROWDED) == []
        figures = page.locator("figure")
        assert figures.count() == {"whole": 8, "half": 1}[which]
        for place in range(figures.count()):
            box = figures.nth(place).locator("svg").bounding_box()
            assert box["width"] > 300
            assert box["height"] > 80
        assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out(browser, pages, scheme):
    with opened(browser, pages["whole"], 1280, scheme) as (page, _):
        contrasts = page.evaluate(_CONTRASTS)
        assert min(contrasts.pop("--ink"), contrasts.pop("--muted")) >= 4.5
        assert min(contrasts.values()) >= 3, contrasts


def test_a_click_on_a_heading_sorts_and_the_base_model_stays_on_top(browser, pages):
    with opened(browser, pages["whole"], 1280, "light") as (page, said):
        methods = page.locator("#table-best tbody td:first-child")
        page.locator("#table-best th button", has_text="Forget").click()
        assert methods.all_inner_texts() == ["base model", "random_mask", "lora", "gallop"]
        page.locator("#table-best th button", has_text="Forget").click()
        assert methods.all_inner_texts() == ["base model", "gallop", "lora", "random_mask"]
        page.locator("#table-best th button", has_text="Method").click()
        assert methods.all_inner_texts() == ["base model", "gallop", "lora", "random_mask"]
        assert page.locator("#table-best th[aria-sort]").all_inner_texts() == ["Method"]
        assert said == []


def test_on_a_wide_page_no_table_is_wider_than_it(browser, tmp_path):
    folder, _ = write_sweep(tmp_path)
    _with_losses(folder)
    assert main(["report", str(folder.path)]) == 0
    with opened(browser, folder.path / "report" / "report.html", 1280, "light") as (page, _):
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        headings = page.locator("#table-best th").all_inner_texts()
        assert {"ID", "OOD loss", "Selection", "Memory, GB", "Configuration"} <= set(headings)
        assert page.evaluate(_WIDER) == []


def test_on_a_phone_wide_tables_scroll_in_their_own_box(browser, pages):
    with opened(browser, pages["whole"], 390, "light") as (page, _):
        box = page.locator(".scroll", has=page.locator("#table-best"))
        assert box.evaluate("(each) => each.scrollWidth > each.clientWidth")
        box.evaluate("(each) => { each.scrollLeft = 400; }")
        assert page.evaluate("scrollX") == 0
        name = page.locator("#table-best tbody:last-child tr:last-child td:first-child").bounding_box()
        assert name["x"] >= 0, "the first column stays in sight"
