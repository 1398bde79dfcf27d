"""A task of the harness in a sweep: its documents as examples, and what the loaded model reaches on each of them."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from importlib import metadata
from itertools import groupby, takewhile
from numbers import Real
from typing import Any

from lm_eval.api.instance import Instance

from gallop_ray.spec.data import DataSpec
from gallop_ray.spec.harness import task_files, task_path
from gallop_ray.spec.tasks import TaskSpec
from gallop_ray.tasks.examples import MEASURED, Example, Split, free
from gallop_ray.tasks.harness import documents
from gallop_ray.tasks.harness.model import LoadedLM
from gallop_ray.tasks.values import Values, packed

LOSS = "loss"


class HarnessTask:
    """Validation and test documents of a task, as requests that are made once and asked of one model after another.

    Raises ValueError where the task cannot be had, or measured for each document.
    """

    def __init__(self, name: str, spec: TaskSpec, data: DataSpec) -> None:
        assert spec.harness is not None
        self.name, self._spec, self._data = name, spec, data
        # One for each, because a task of the harness keeps the requests that were last made of it.
        self._tasks: dict[Split, Any] = {split: documents.load(spec.harness, spec.num_fewshot) for split in MEASURED}
        self._places = self._split()
        for split, places in self._places.items():
            if not places:
                raise ValueError(f"harness task {spec.harness} has too few documents: none is left for {split}")

    def _split(self) -> dict[Split, list[int]]:
        data, spec, task, apart = self._data, self._spec, self._tasks["test"], self._tasks["validation"]
        most = spec.limit or data.limits.test
        validation = min(filter(None, (spec.limit, data.limits.validation)), default=len(task.eval_docs))
        seed = f"{self.name}/{data.split_seed}/harness"
        other = documents.other_split(task)
        if other is None:
            held_out, tested = documents.dealt_documents(task, validation, most, seed)
            return {"validation": held_out, "test": tested}
        documents.test_on(apart, other)
        tested = documents.first_documents(task, most)
        held_out = documents.drawn_documents(apart, validation, seed, documents.documents_of(task, tested))
        return {"validation": held_out, "test": tested}

    @property
    def identity(self) -> dict[str, str]:
        """What its results depend on, beside its documents: the harness' version, and a hash of the task's files."""
        assert self._spec.harness is not None
        content = b"\0".join(path.read_bytes() for path in task_files(task_path(self._spec.harness)))
        return {"version": metadata.version("lm_eval"), "file": hashlib.sha256(content).hexdigest()}

    @cached_property
    def _requests(self) -> dict[Split, list[list[Instance]]]:
        """By split, for each document what the model is asked."""
        return {split: self._made(split) for split in self._places}

    def _made(self, split: Split) -> list[list[Instance]]:
        task, places = self._tasks[split], self._places[split]
        with documents.quiet():
            task.set_fewshot_seed(documents.FEWSHOT_SEED)
            everything = len(places) == len(task.eval_docs)
            task.build_all_requests(samples=None if everything else places)
        return [
            sorted(each, key=lambda one: one.idx) for _, each in groupby(task.instances, key=lambda one: one.doc_id)
        ]

    def examples(self, split: Split) -> list[Example]:
        """The documents as examples, for what counts or compares them; the harness alone makes prompts of them."""
        found = zip(self._places[split], self._requests[split], strict=True)
        return [
            self._example(self._tasks[split], requests, f"{self._spec.harness}:{place}") for place, requests in found
        ]

    def _example(self, task: Any, requests: list[Instance], place: str) -> Example:
        document = requests[0].doc
        row = json.dumps(document, default=str)
        if requests[0].request_type == "loglikelihood_rolling":
            return free("", "", requests[0].args[0], place)
        if task.OUTPUT_TYPE != "multiple_choice":
            return Example(
                requests[0].args[0], "", (str(task.doc_to_target(document)),), (), 0, joint="", row=row, place=place
            )
        texts = ["".join(each.args) for each in requests[: len(task.doc_to_choice(document))]]
        prompt = _shared([each.args[0] for each in requests[: len(texts)]])
        label = _label(task, document, len(texts))
        options = tuple(text.removeprefix(prompt) for text in texts)
        return Example(prompt, "", options, (), label, joint="", row=row, place=place)

    def measure(self, model: Any, tokenizer: Any, split: Split, batch_size: int) -> dict[str, Values]:
        """What the harness says of each document, by measure, the one that counts first. Collective."""
        requests, task = self._requests[split], self._tasks[split]
        _answer([one for each in requests for one in each], LoadedLM(model, tokenizer, batch_size))
        task.apply_filters()
        found: dict[str, list[float]] = {}
        for each in requests:
            for way, value in self._results(task, each):
                found.setdefault(way, []).append(value)
        return {way: packed(found[way]) for way in self._order(task, found, len(requests))}

    def _results(self, task: Any, requests: list[Instance]) -> Iterator[tuple[str, float]]:
        """The numbers of a document: for each of the harness' filters those that are larger where they are better."""
        better = task.higher_is_better()
        for kind in requests[0].filtered_resps:
            answers = [each.filtered_resps[kind] for each in requests]
            results = task.process_results(requests[0].doc, answers)
            for metric, value in results.items():
                if isinstance(value, Real) and better.get(metric, True):
                    yield metric if kind == "none" else f"{metric},{kind}", float(value)
            if requests[0].request_type == "loglikelihood_rolling":
                total, units = next(iter(results.values()))
                yield LOSS, -total / max(units, 1)

    def _order(self, task: Any, found: dict[str, list[float]], count: int) -> list[str]:
        ways = [way for way, values in found.items() if len(values) == count and (way == LOSS or _shares(values))]
        listed = list(task.higher_is_better())
        ways.sort(
            key=lambda way: listed.index(way.partition(",")[0]) if way.partition(",")[0] in listed else len(listed)
        )
        asked = self._spec.metric
        if not ways or (asked and asked not in ways):
            what = f"no {asked}" if asked else "none"
            raise ValueError(
                f"harness task {self._spec.harness} has {what} among its measures that give each document a number "
                f"from 0 to 1, 1 the best; it has {', '.join(ways) or 'no such measure: take another task'}"
            )
        return sorted(ways, key=lambda way: way != asked)


def _answer(instances: list[Instance], lm: LoadedLM) -> None:
    """Ask the model for every request; one that is to be repeated has the same answer each time."""
    for kind in dict.fromkeys(each.request_type for each in instances):
        some = [each for each in instances if each.request_type == kind]
        for instance, answer in zip(some, getattr(lm, kind)(some), strict=True):
            instance.resps, instance.filtered_resps = [answer] * (instance.repeats or 1), {}


def _shared(texts: list[str]) -> str:
    """What they all begin with."""
    alike = takewhile(lambda each: len(set(each)) == 1, zip(*texts, strict=False))
    return "".join(each[0] for each in alike)


def _shares(values: list[float]) -> bool:
    return all(0 <= value <= 1 for value in values)


def _label(task: Any, document: Any, count: int) -> int:
    """The place of the right choice, of several the first; 0 where the harness has none of them."""
    gold = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    gold = gold[0] if isinstance(gold, list) and gold else gold
    choices = task.doc_to_choice(document)
    place = choices.index(gold) if isinstance(gold, str) and gold in choices else gold
    return place if isinstance(place, int) and 0 <= place < count else 0
