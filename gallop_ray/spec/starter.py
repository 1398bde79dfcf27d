"""A first sweep file, commented, from a few answers. Every value in it may be changed later."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from gallop_ray.spec.method import MaskMethodSpec, MethodSpec
from gallop_ray.spec.other_methods import LoraSpec
from gallop_ray.spec.plain_yaml import Dumper
from gallop_ray.spec.registry import method_spec, method_specs

_RANK = 8
_BATCH = 32
_STEPS = 100  # below, little is learnt
_LONGEST = 1024  # tokens


@dataclass(frozen=True)
class Answers:
    """The choices for a first sweep. `train` and `ood` are tasks of `data`, which is the value of data.root.

    `source`: where the rows of the task `train` are, then one of data.tasks, `format` theirs, and `read` a note
    on it; `free`: whether they are answered by any text. `chat`: whether the model has a chat template. `examples`: the
    number of training examples, None where unknown. `longest`: tokens of the longest prompt with its answer, None where
    unknown; `new_tokens`: of the longest answer, if more have to be generated than by default. `others`: the entries in
    data.tasks of OOD tasks with sources of their own; `text`: evaluation.text, None for the default.
    """

    name: str
    model: str
    data: str
    train: str
    methods: Sequence[str]
    seeds: int
    gpus: int
    ood: Sequence[str] = ()
    source: str | None = None
    format: str = ""
    read: str = ""
    free: bool = False
    chat: bool = False
    examples: int | None = None
    longest: int | None = None
    new_tokens: int | None = None
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    text: str | None = None

    @property
    def toy(self) -> bool:
        """Whether this is the pocket model on generated tasks, which needs larger steps and shorter texts."""
        return self.model == "pocket" and self.data == "generated"


def starter_methods() -> list[str]:
    """The methods without required options."""
    fields = [spec.model_fields for spec in method_specs()]
    return [each["type"].default for each in fields if not any(field.is_required() for field in each.values())]


def starter_text(answers: Answers, schema: str | None = None) -> str:
    """The sweep file; `schema`: the path of the JSON Schema for editors, relative to the file's folder."""
    sections = [_head(answers, schema), _model(answers), _data(answers), _methods(answers)]
    sections += [_search(answers), _training(answers), _machine(answers)]
    return "\n\n".join("\n".join(lines) for each in sections if (lines := list(each))) + "\n"


def _noted(line: str, note: str) -> str:
    """A line with a comment that is aligned with those of the lines around it."""
    return f"{line:<28}  # {note}"


def _head(answers: Answers, schema: str | None) -> Iterator[str]:
    if schema:
        yield f"# yaml-language-server: $schema={schema}"
    forgets = ", and what does each make it forget" if answers.ood else ""
    yield f"# {answers.model} learns {answers.train}: which method learns it best{forgets}?"
    yield f"name: {_value(answers.name)}"


def _model(answers: Answers) -> Iterator[str]:
    yield "model:"
    yield f"  name: {_value(answers.model)}"
    yield "  dtype: bfloat16" if answers.gpus else _noted("  dtype: float32", "bfloat16 on GPUs")


def _data(answers: Answers) -> Iterator[str]:
    yield "data:"
    if answers.source is None:
        yield f"  root: {_value(answers.data)}"
    if answers.source is not None or answers.others:
        yield "  tasks:"
    if answers.source is not None:
        task = f"{{source: {_value(answers.source)}, format: {answers.format}}}"
        yield _noted(f"    {_value(answers.train)}: {task}", answers.read)
    for name, entry in answers.others.items():
        yield f"    {_value(name)}: {{{', '.join(f'{key}: {_value(text)}' for key, text in entry.items())}}}"
    yield f"  train: {_value(answers.train)}"
    ood = f"  ood: [{', '.join(map(_value, answers.ood))}]"
    none = "forgetting is not measured: name other tasks, such as the hub's piqa, or basics:capitals in tasks"
    yield _noted(ood, "what it may forget" if answers.ood else none)
    if answers.toy:
        yield "  limits: {train: 2000, validation: 128, test: 256}"
    elif answers.data == "hub" and answers.source is None:
        yield _noted("  limits: {train: 2000, validation: 256, test: 500}", "to begin with")
    if answers.chat:
        yield _noted("  prompt: chat", "instructions go through the chat template; choices and classes are plain text")


def _methods(answers: Answers) -> Iterator[str]:
    masks = any(issubclass(method_spec(method), MaskMethodSpec) for method in answers.methods)
    yield _noted("methods:", f"masks train as many entries as LoRA of rank {_RANK} has") if masks else "methods:"
    for method in answers.methods:
        yield f"  - {{type: {method}{_size(method_spec(method))}}}"
    yield ""
    few = "" if answers.seeds >= 3 else "; a verdict takes 3"
    yield _noted(f"seeds: {answers.seeds}", f"every configuration runs with each of them{few}")


def _size(spec: type[MethodSpec]) -> str:
    if issubclass(spec, MaskMethodSpec):
        return f", density: {{lora_rank: {_RANK}}}"
    return f", rank: {_RANK}" if issubclass(spec, LoraSpec) else ""


def _search(answers: Answers) -> Iterator[str]:
    trained = [method for method in answers.methods if method_spec(method).trains]
    if not trained:
        return
    yield _noted("search:", "a learning rate suits one method and not the next, so each has its own range")
    yield "  space:"
    for method in trained:
        low, _, high = _learning_rates(method, answers.toy)
        yield f"    {method}.training.learning_rate: {{log: [{low}, {high}]}}"
    yield _noted("  first:", "tried before anything else, so that a budget of 1 is a fair first try")
    for method in trained:
        yield f"    - {{{method}.training.learning_rate: {_learning_rates(method, answers.toy)[1]}}}"
    yield ""
    yield _noted("budget: {configurations: 6}", "for each method; from the fourth on results decide")
    if answers.free:
        return  # the default is the loss of the task
    yield ""
    metric = "val_mean_accuracy" if answers.ood else "val_id_accuracy"
    measured = "of the task and of the others, on validation data" if answers.ood else "of the task, on validation data"
    yield _noted(f"objective: {{metric: {metric}}}", measured)


def _learning_rates(method: str, toy: bool) -> tuple[str, str, str]:
    """The lowest, a usual one, and the highest."""
    few = issubclass(method_spec(method), MaskMethodSpec | LoraSpec)  # few parameters take larger steps
    if toy:
        return ("1e-4", "1e-3", "3e-2") if few else ("3e-5", "3e-4", "3e-3")
    return ("1e-5", "3e-4", "3e-3") if few else ("1e-6", "3e-5", "3e-4")


def _training(answers: Answers) -> Iterator[str]:
    workers, micro = max(1, answers.gpus), 32 if answers.toy else 4
    passes = max(1, round(_BATCH / (micro * workers)))
    yield "training:"
    if answers.toy:
        yield "  steps: 120"
    elif answers.examples is not None and answers.examples < _STEPS * _BATCH // 2:
        epochs = -(-_STEPS * _BATCH // answers.examples)
        yield _noted(f"  epochs: {epochs}", f"some {_STEPS} steps, as there are few examples")
    else:
        yield "  epochs: 2"
    batch = f"  batch_size: {micro * workers * passes}"
    yield _noted(
        batch, f"{workers} worker{'s' * (workers > 1)} x {micro} examples x {passes} pass{'es' * (passes > 1)}"
    )
    yield f"  micro_batch_size: {micro}"
    if answers.toy:
        yield "  max_length: 32"
    else:
        known = "" if answers.longest is None else f" the longest has {answers.longest};"
        yield _noted(f"  max_length: {_length(answers)}", f"tokens;{known} longer prompts are cut from the left")
    yield ""
    batch_size, new_tokens = (64, 4) if answers.toy else (16, answers.new_tokens)
    generated = "" if new_tokens is None else f", max_new_tokens: {new_tokens}"
    text = f", text: {_value(answers.text)}" if answers.text else ""
    yield f"evaluation: {{batch_size: {batch_size}{generated}{text}}}"


def _length(answers: Answers) -> int:
    """A length for the longest text, rounded up, within what most machines' memory can hold."""
    return 512 if answers.longest is None else min(_LONGEST, -(-answers.longest // 16) * 16)


def _machine(answers: Answers) -> Iterator[str]:
    yield _noted("resources:", "of a slot; as many slots run at once as there is room for")
    yield f"  workers_per_slot: {max(1, answers.gpus)}"
    yield f"  cpus_per_worker: {2 if answers.gpus else 1}"
    if answers.gpus:
        yield "  gpus_per_worker: 1"


def _value(text: str) -> str:
    """Text as YAML writes it inside a list."""
    written: str = yaml.dump([text], Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=1000)
    return written.strip()[1:-1]
