"""README, the tutorial and the how-tos followed to the letter, by the real command, on a tiny model and short runs."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from gallop_ray.testing.model import of_pocket_vocabulary
from tests.walks.page import Reader, missing, read_page

pytestmark = pytest.mark.long
SHORT = "--set budget.configurations=1 --set training.steps=2 --set seeds=2 --set resources.slots=1"


def test_what_a_page_shows_is_held_against_what_is_printed() -> None:
    shown = "gallop  6  3  18\n────\nbest gallop-1a2b3c4d 0.5±1"
    assert missing(shown, "gallop^ 12 3 36\n──────────\nbest gallop-99999999 70.1±2.25") == []
    assert missing(shown, "gallop 12 3\n──\nbest lora-1a2b3c4d 1±1") == shown.splitlines()
    kinds = [block.kind for block in read_page("docs/tutorial.md")]
    assert {"sh", "yaml", ""} == set(kinds)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and data of one's own."""
    folder = tmp_path_factory.mktemp("home")
    model, tokenizer = of_pocket_vocabulary()
    model.save_pretrained(folder / "my_model")
    tokenizer.save_pretrained(folder / "my_model")
    rows = [{"prompt": f"max {i % 10} {i % 7}", "completion": str(max(i % 10, i % 7)), "n": i} for i in range(70)]
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "tickets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"max {i % 10} {i // 10}", ("first", "last")[i % 2]] for i in range(60))
    return folder


@pytest.fixture(scope="module")
def after_readme(home: Path) -> Path:
    """The folder when all of README's commands have been typed in it."""
    shutil.copytree(Path(__file__).parents[2] / "sweeps", home / "sweeps")
    instead = {
        "gallop-ray run sweeps/": "gallop-ray plan sweeps/",  # hours; `make quickstart` is for them
        "gallop-ray run my_sweep.yaml": f"gallop-ray run my_sweep.yaml {SHORT}",
        "runs/other": "runs/my_sweep",
    }
    Reader(home, instead).follow("README.md")
    return home


def test_readme(after_readme: Path) -> None:
    assert (after_readme / "runs/my_sweep/report/report.html").stat().st_size > 0


@pytest.mark.parametrize("page", ["resume", "merge", "mlflow", "model", "data", "report"])
def test_a_howto(after_readme: Path, page: str) -> None:
    """On the sweep that README's commands left; the sweep file is README's."""
    home = after_readme
    sweep = yaml.safe_load((home / "my_sweep.yaml").read_text())
    short = {"budget": {"configurations": 1}, "seeds": 2, "training": {**sweep["training"], "steps": 2}}
    (home / "sweep.yaml").write_text(yaml.safe_dump({**sweep, **short}))
    instead = {
        "runs/arith": "runs/my_sweep",
        "runs/science": "runs/my_sweep",
        "/srv": str(home / "srv"),
        "my_sweep --follow": "my_sweep",  # it would wait for whoever runs the sweep
    }
    (home / "srv/mlflow").mkdir(parents=True, exist_ok=True)
    where = "docs/report.md" if page == "report" else f"docs/howto/{page}.md"
    Reader(home, instead).follow(where)


def test_the_tutorial(tmp_path: Path) -> None:
    """What is shown is what is printed, but for the figures: the runs are short."""
    reader = Reader(tmp_path, {" run first.yaml": " run first.yaml --set training.steps=8"}, file="first.yaml")
    reader.follow("docs/tutorial.md")
