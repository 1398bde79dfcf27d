"""data.tasks: what one of its fields says about another, and about files."""

import pytest

OWN = """\
name: small
model: {name: pocket}
data:
  train: mine
  tasks:
    mine: %s
methods: [{type: gallop}]
"""


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("none.csv", 'sweep.yaml:6: data.tasks.mine: "none.csv" is not allowed; there is no such file'),
        ("{source: 'no-*.csv'}", 'data.tasks.mine.source: "no-*.csv" is not allowed; there is no such file'),
        ("{source: 'gs://a/b.csv'}", 'data.tasks.mine.source: "gs://a/b.csv" is not allowed; give a path'),
        ("{source: here.csv, splits: {test: no.csv}}", 'data.tasks.mine.splits.test: "no.csv" is not allowed'),
        ("{source: here.csv, splits: {tset: a}}", "data.tasks.mine.splits.tset"),
        ("{source: here.csv, splits: {test: 1.5}}", "data.tasks.mine.splits.test"),
        (
            "{source: here.csv, splits: {validation: 0.6, test: 0.6}}",
            'data.tasks.mine.splits: {"validation": 0.6, "test": 0.6} is not allowed; the shares add up to 1.2',
        ),
        (
            "{source: here.csv, measure: 'mine.py:exact_match'}",
            "a measure that is built in is called exact_match; give your function another name",
        ),
        (
            "{source: here.csv, measure: 'mine.py:score', also: ['other.py:score']}",
            "two measures are called score; give their functions different names",
        ),
        ("{source: here.csv, config: main}", "data.tasks.mine.config: is not allowed with"),
        ("{columns: {a: b}}", "data.tasks.mine.columns: is not allowed without source"),
        ("{source: here.csv, format: alpacca}", "format: \"alpacca\" is not allowed; must be one of 'house'"),
        (
            "{source: here.csv, prompt: '{{ a'}",
            'data.tasks.mine.prompt: "{{ a" is not allowed; must be a Jinja template',
        ),
        ("{source: here.csv, prompt: chat, answer: '{{ a }}'}", 'prompt: "chat" is not allowed; names no column, so'),
        ("{source: here.csv, prompt: 'Q: {a}', answer: '{{ a }}'}", 'prompt: "Q: {a}" is not allowed; names no column'),
        ("{source: here.csv, prompt: '{{ a }}', answer: '{b}'}", 'answer: "{b}" is not allowed; names no column, so'),
    ],
)
def test_a_task_that_cannot_be_is_told_with_its_line(problems, tmp_path, monkeypatch, task, expected):
    (tmp_path / "here.csv").touch()
    monkeypatch.chdir(tmp_path)
    lines = problems(text=OWN % task)
    assert len(lines) == 1
    assert lines[0].startswith("sweep.yaml:6: ")
    assert expected in lines[0]


def test_a_source_alone_or_with_more_loads(load, tmp_path, monkeypatch):
    (tmp_path / "here.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert load(text=OWN % "{source: here.csv, prompt: 'A joke:', answer: '{{ a }}'}").data.tasks["mine"].prompt
    assert load(text=OWN % "here.csv").data.tasks["mine"].source == "here.csv"
    (tmp_path / "b[1].csv").touch()
    assert load(text=OWN % "'b[1].csv'").data.tasks["mine"].source == "b[1].csv"
    assert load(text=OWN % "owner/name").data.tasks["mine"].source == "owner/name"
    assert load(text=OWN % "{few_shot: 2}").data.task("mine").few_shot == 2
    sweep = load("", "data.formulation=label", text=OWN % "{source: here.csv}")
    assert sweep.data.task("mine").formulation == sweep.data.task("piqa").formulation == "label"
