"""Sweep files that nobody means to write: each is refused at once, in one line with its place, and without a trace."""

import contextlib
import io
import random
import re
import time
from pathlib import Path

import pytest
import yaml

from gallop_ray.cli import main
from gallop_ray.spec.load import load_sweep, resolved_yaml
from gallop_ray.spec.plain_yaml import Dumper, Loader
from gallop_ray.spec.plan import plan_sweep

ALIASES = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
CHAIN = "".join(f"a{i}: &a{i} {{x: *a{i - 1}}}\n" for i in range(1, 60))
SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("confirmation: {best: 0, seeds: 2}\n", "5: confirmation.best: 0 is not allowed; must be at least 1"),
        ("seeds: 20240101\n", "5: seeds: 20240101 is not allowed; must be at most 1000, as a count of seeds; for this"),
        (
            "seeds: 999999999999999999999999\n",
            "5: seeds: 999999999999999999999999 is not allowed; a whole number is at",
        ),
        (
            "seeds: [18446744073709551617]\n",
            "5: seeds.0: 18446744073709551617 is not allowed; a whole number is at most",
        ),
        (f"seeds: {5000 * '9'}\n", f"5: seeds: {60 * '9'}... is not allowed; a whole number is at most 92233720"),
        (f"seeds: 0x{5000 * 'f'}\n", f"5: seeds: 0x{58 * 'f'} is not allowed; a whole number is at most 92233720"),
        ("seeds: !!int ''\n", '5: seeds: "" does not fit its tag; leave the tag out'),
        ("evaluation: {generate: !!bool x}\n", '5: evaluation.generate: "x" does not fit its tag'),
        (f"evaluation: {{text: {300 * 'a'}.jsonl}}\n", "5: evaluation.text: "),
        (f"output: /tmp/{300 * 'a'}\n", "5: output: "),
        (f"output: {1500 * 'a/'}\n", "5: output: "),
        ('output: "a\\0b"\n', "5: output: "),
        (
            "output: ~nobody-of-that-name/x\n",
            '5: output: "~nobody-of-that-name/x" is not allowed; must be a path, and there',
        ),
        (
            "output: ftp://host/runs\n",
            '5: output: "ftp://host/runs" is not allowed; must be the path of a folder that',
        ),
        (
            "output: s3://key:secret@bucket/runs\n",
            '5: output: "s3://key:secret@bucket/runs" is not allowed; must be s3://',
        ),
        ("output: $NOT_THERE_1a2b/runs\n", '5: output: "$NOT_THERE_1a2b/runs" is not allowed; must be a path, and the'),
        (
            f"deepspeed: {{extra: {{a: {500 * '['}{500 * ']'}}}}}\n",
            "5: is not valid YAML: nested deeper than 40 levels",
        ),
        (
            f"a0: &a0 [x]\n{ALIASES}",
            "5: a3.8.2.9: the file holds more than 2000 values; an alias counts with all that it",
        ),
        (f"seeds: [{', '.join(map(str, range(2500)))}]\n", "5: seeds.19"),
        ('output: "\\U00110000"\n', "5: is not valid YAML: an escape such as \\\\U00110000 names no character"),
        ('output: "\\ud83d"\n', '5: output: "\\\\ud83d" has half of a character; write the whole one'),
        ('"\\ud83d": 1\n', '5: the key "\\\\ud83d" has half of a character; write it out'),
        ("\n\noutput: \x07\n", "7: is not valid YAML: the character #x0007 is not allowed"),
        ("training: {steps: 1:30}\n", '5: training.steps: "1:30" is not allowed; must be a whole number'),
        ("training: {steps: 010}\n", '5: training.steps: "010" is not allowed; must be a whole number'),
        ("training: {learning_rate: 1:30.5}\n", '5: training.learning_rate: "1:30.5" is not allowed; must be a number'),
        ("seeds: three\n", '5: seeds: "three" is not allowed; must be a list of seeds, or how many to take'),
        (
            "search: {space: {training.epochs: {log: x}}}\n",
            '5: search.space.training.epochs.log: "x" is not allowed; must be two numbers, [low, high]',
        ),
        ('training: {steps: "100"}\n', '5: training.steps: "100" is not allowed; must be a whole number'),
        ("seeds: [010]\n", '5: seeds.0: "010" is not allowed; must be a whole number'),
        ("resources: {slots: 010}\n", '5: resources.slots: "010" is not allowed; must be a whole number or'),
        ('"a\\nb": 1\n', "5: a\\\\nb: unknown key; allowed are"),
    ],
)
def test_one_line_with_its_place(problems, more, expected):
    began = time.process_time()
    lines = problems(more)
    assert len(lines) == 1
    assert lines[0].startswith(f"sweep.yaml:{expected}".replace("\\\\", "\\"))
    assert len(lines[0]) < 500
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!<x>\nname: a\n", "sweep.yaml:1: the tag x is not understood"),
        (
            f"name: a\na0: &a0 [x]\n{CHAIN}",
            f"sweep.yaml:3: a39{39 * '.x'}: is nested deeper than 40 levels; write the values out",
        ),
        ("confirmation: {best: 0}\n", "sweep.yaml:1: confirmation.seeds: is missing; it has no default"),
        ("confirmation: {best: 0}\n", "sweep.yaml:1: confirmation.best: 0 is not allowed; must be at least 1"),
        ("name: " + 300 * "x" + "\n", "sweep.yaml:1: name: "),
        ("name: mlflow.db\n", 'sweep.yaml:1: name: "mlflow.db" is not allowed; must be another name'),
        (f"# {300_000 * 'x'}\n", "sweep.yaml:1: is larger than 200 kB"),
    ],
)
def test_files_of_all_kinds(problems, text, expected):
    assert any(line.startswith(expected) for line in problems(text=text)), problems(text=text)[:3]


def test_bytes_that_are_no_utf8_have_their_line(tmp_path, capsys):
    path = tmp_path / "sweep.yaml"
    path.write_bytes("name: a\n# café\n".encode("latin-1"))
    assert main(["validate", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"{path}:2: is not text in UTF-8 (byte 0xe9); save it as UTF-8")


def test_a_range_of_a_million_million_batch_sizes_is_checked_at_once(load, problems):
    began = time.process_time()
    everything = "search: {space: {training.batch_size: {integer: [1, 1000000000000]}}}\n"
    assert load(f"training: {{micro_batch_size: 1}}\n{everything}").search.space
    assert "batch_size 1 is not allowed; must be a multiple of" in problems(everything)[0]
    micros = "search: {space: {training.micro_batch_size: {integer: [1, 1000000000000]}}}\n"
    assert (
        "batch_size 12 is not allowed; must be a multiple of micro_batch_size x workers_per_slot = 5"
        in (problems(f"training: {{batch_size: 12}}\n{micros}")[0])
    )
    assert time.process_time() - began < 2


def test_many_choices_of_all_that_decides_the_steps_are_planned_at_once(load):
    began, choices = time.process_time(), ", ".join(map(str, range(8, 1600, 8)))
    fields = ("steps", "epochs", "batch_size")
    space = ", ".join(f"training.{field}: {{choice: [{choices}{', null' * (field == 'steps')}]}}" for field in fields)
    (method, _) = plan_sweep(load(f"search: {{space: {{{space}}}}}\n"), 1000).methods
    assert method.steps_per_run == 1592 * 1000 // 8
    assert time.process_time() - began < 3


def test_numbers_and_texts_are_what_they_look_like():
    read = {
        "0": 0,
        "-7": -7,
        "1_000": 1000,
        "0x10": 16,
        "1e-4": 1e-4,
        "-.5": -0.5,
        ".5e3": 500.0,
        "1.": 1.0,
        "2026": 2026,
    }
    text = ["010", "-010", "1:30", "1:30.5", "190:20:30", "0o7", "08", "2026-01-31", "1e", "."]
    for written, value in read.items():
        found = yaml.load(written, Loader)
        assert (found, type(found)) == (value, type(value)), written
    assert [yaml.load(each, Loader) for each in text] == text
    for value in (*read.values(), *text, *read):
        assert yaml.load(yaml.dump([value], Dumper=Dumper), Loader) == [value]


def test_variables_and_home_are_replaced_in_paths_once(load, monkeypatch, tmp_path):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "$odd").mkdir()
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "text.jsonl").touch()
    sweep = load(
        "output: $SCRATCH/runs\nsearch: {storage: 'sqlite:///${SCRATCH}/s.db'}\n", "evaluation.text=~/text.jsonl"
    )
    assert (sweep.output, sweep.evaluation.text) == (f"{tmp_path}/runs", f"{tmp_path}/me/text.jsonl")
    assert sweep.search.storage == f"sqlite:///{tmp_path}/s.db"
    other = load(f"output: {tmp_path}/$odd\nsearch: {{storage: 'postgresql://me:pa$$word@host/s'}}\n")
    assert (other.output, other.search.storage) == (f"{tmp_path}/$odd", "postgresql://me:pa$$word@host/s")
    (tmp_path / "again.yaml").write_text(resolved_yaml(sweep))
    assert load_sweep(tmp_path / "again.yaml") == sweep


@pytest.mark.parametrize("value", ["out #b", "#b", "out # b", "  out #b  "])
def test_a_set_has_no_comments(load, value):
    assert load("", f"output={value}").output == value.strip()


def test_what_a_set_would_leave_out_is_refused(problems, load):
    (line,) = problems("", "data.ood=[max] # and min")
    assert line == "--set data.ood=[max] # and min: what follows `#` would be left out; put the text in quotes"
    assert load("", 'output="out #b"').output == "out #b"


class Mutations:
    """Sweep files and `--set` values gone wrong, from a fixed seed."""

    values = (
        *(
            "",
            "~",
            "true",
            "-1",
            "0",
            "1.5",
            "1e400",
            ".nan",
            "010",
            "1:30",
            30 * "9",
            5000 * "9",
            "9223372036854775807",
        ),
        *(
            "[",
            "]",
            "{",
            "}",
            "[]",
            "{}",
            "[[]]",
            "{a: 1}",
            "!!int ''",
            "!!bool x",
            "!x y",
            "&a [*a]",
            "*a",
            "|",
            "@",
            "%",
        ),
        *("{log: [0, 1]}", "{log: [.nan, 1]}", "{integer: [1, 1000000000000]}", "{choice: []}", "{choice: [[1], [1]]}"),
        *(
            '"\\U00110000"',
            '"\\ud83d"',
            '"\\0"',
            "\x00",
            "\x07",
            "\t",
            "\u2028",
            300 * "x",
            "$NOT_THERE_1a2b",
            "~nobody-1a2b",
        ),
        *(
            60 * "[" + 60 * "]",
            "{best: 0}",
            "s3://a/b",
            "/dev/zero",
            "hub",
            "generated",
            "pocket",
            "chat",
            "[1, 1]",
            "- a",
        ),
    )
    fields = (
        *(
            "name",
            "output",
            "model",
            "model.name",
            "data",
            "data.root",
            "data.train",
            "data.ood",
            "data.prompt",
            "methods",
        ),
        *(
            "methods.0",
            "methods.0.type",
            "methods.0.density",
            "seeds",
            "seeds.0",
            "search.space",
            "search.first",
            "search",
        ),
        *("search.space.training.batch_size", "search.space.method.density", "training.steps", "training.batch_size"),
        *(
            "training.optimizer_options",
            "evaluation.text",
            "confirmation",
            "confirmation.best",
            "budget.configurations",
        ),
        *(
            "objective.metrics",
            "pruning.type",
            "resources.slots",
            "deepspeed.extra",
            "tracking.uri",
            "",
            "x",
            "a.b",
            "1",
        ),
    )

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> str:
        """A shipped sweep with some of its characters, values and lines exchanged."""
        lines = self.random.choice(SWEEPS).read_text(encoding="utf-8").split("\n")
        for _ in range(self.random.choice((1, 1, 2, 4))):
            place, kind = self.random.randrange(len(lines)), self.random.randrange(5)
            line = lines[place]
            if kind == 0:
                lines.insert(place, self.random.choice(lines))
            elif kind == 1:
                del lines[place]
            elif kind == 2 and line:
                cut = self.random.randrange(len(line))
                lines[place] = line[:cut] + self.random.choice(self.values) + line[cut + self.random.randrange(3) :]
            else:
                lines[place] = f"{line.partition(':')[0]}: {self.random.choice(self.values)}"
            lines = lines or [""]
        return "\n".join(lines)

    def override(self) -> str:
        """A `--set` of any field and any value."""
        return f"{self.random.choice(self.fields)}={self.random.choice(self.values)}"


def validated(*arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines of `validate`, which must have had its say within seconds."""
    error, began = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        code = main(["validate", *arguments])
    assert time.process_time() - began < 5
    return code, error.getvalue().splitlines()


@pytest.mark.slow
def test_no_mutated_file_ends_in_a_trace_or_without_its_line(tmp_path):
    mutations, path = Mutations(1), tmp_path / "sweep.yaml"
    for _ in range(100):
        path.write_text(mutations.text(), encoding="utf-8", errors="surrogatepass")
        code, lines = validated(str(path))
        assert (code, bool(lines)) in ((0, False), (2, True))
        assert all(re.match(rf"{re.escape(str(path))}:\d+: ", line) for line in lines), lines


@pytest.mark.slow
def test_no_mutated_set_ends_in_a_trace_or_without_its_text():
    mutations = Mutations(2)
    for _ in range(100):
        overrides = [mutations.override() for _ in range(mutations.random.choice((1, 1, 2)))]
        code, lines = validated(str(SWEEPS[0]), *(part for each in overrides for part in ("--set", each)))
        assert (code, bool(lines)) in ((0, False), (2, True))
        assert all(line.startswith(("--set ", str(SWEEPS[0]))) for line in lines), lines
