"""The tasks of `data.tasks`: which rows are of which split, and their examples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from gallop_ray.spec.problems import did_you_mean
from gallop_ray.spec.tasks import TaskSpec
from gallop_ray.tasks.examples import SPLITS, Example, Split, shuffled
from gallop_ray.tasks.formats.contract import Maker
from gallop_ray.tasks.formats.found import examples_of, format_name, maker_of
from gallop_ray.tasks.held_out import hold_out
from gallop_ray.tasks.sources.opened import ALL, Source, files_table, matching, open_source
from gallop_ray.tasks.sources.table import Table

TEST_SHARE = 0.1
"""Of the training rows, held out as the test split of a task that has none."""
_ROUNDING = 1e-9  # 0.8 + 0.1 + 0.1 is more than 1


@dataclass(frozen=True)
class OwnTask:
    """One task of `data.tasks`. trained: whether it is trained on, and not only measured."""

    name: str
    task: TaskSpec
    trained: bool
    split_seed: int = 0
    _tables: dict[str, Table] = field(default_factory=dict)

    @cached_property
    def _source(self) -> Source:
        return open_source(self.task)

    @cached_property
    def _theirs(self) -> Mapping[Split, str]:
        """Our splits that have rows of their own, by the source's names, or by a file."""
        given = {split: value for split, value in self.task.splits.items() if isinstance(value, str)}
        found: dict[Split, str] = {split: name for split in SPLITS if (name := self._source.named(split)) is not None}
        shared = {split for split, value in self.task.splits.items() if isinstance(value, float) and split != "train"}
        found = {split: name for split, name in found.items() if split not in shared} | given
        if ALL in self._source.splits and "train" not in found:
            found["train" if self.trained or self.task.splits else "test"] = ALL
        if not found:
            known = ", ".join(self._source.splits)
            raise ValueError(f"task {self.name}: {self.task.source} has the splits {known}; map ours to them in splits")
        if not given and "test" not in found and "test" not in self.task.splits and "validation" in found:
            found["test"] = found.pop("validation")  # a benchmark whose test labels are hidden
        if not self.trained and "test" not in {**found, **self.task.splits}:
            found = {"test": found.get("train", next(iter(found.values())))}
        return found

    @cached_property
    def shares(self) -> Mapping[Split, float]:
        """Our splits that are held out of the training rows, and how many of these they take."""
        given = {split: value for split, value in self.task.splits.items() if isinstance(value, float)}
        trained = given.pop("train", None)
        tested = self.task.harness is not None  # elsewhere
        if "train" in self._theirs and not tested and "test" not in {**self._theirs, **given}:
            given["test"] = TEST_SHARE if trained is None else 1 - trained - sum(given.values())
            if given["test"] < _ROUNDING:
                raise ValueError(f"task {self.name}: the shares in splits leave nothing to test on; make them smaller")
        return given

    @property
    def _kept(self) -> float:
        """The share of the training rows that is trained on, at most."""
        kept = self.task.splits.get("train")
        return kept if isinstance(kept, float) else 1.0

    @cached_property
    def splits(self) -> list[Split]:
        """Our splits that there are."""
        return [split for split in SPLITS if split in self._theirs or split in self.shares]

    @cached_property
    def format(self) -> str:
        """The name of the format."""
        return format_name(self.task, self._table(next(iter(self._theirs.values()))))

    @cached_property
    def _make(self) -> Maker:
        return maker_of(self.task, self._all_tables)

    @cached_property
    def _all_tables(self) -> list[Table]:
        return [self._table(name) for name in dict.fromkeys(self._theirs.values())]

    def _table(self, name: str) -> Table:
        if name not in self._tables:
            table = self._source.splits[name]() if name in self._source.splits else self._file(name)
            if not table.rows:
                raise ValueError(f"task {self.name}: the split {name} of {self.task.source} has no rows")
            self._tables[name] = table
        return self._tables[name]

    def _file(self, name: str) -> Table:
        try:
            return files_table(matching(name))
        except ValueError as error:
            known = [each for each in self._source.splits if each != ALL]
            more = f"no split {name!r} in {self.task.source}; it has {', '.join(known)}{did_you_mean(name, known)}"
            raise ValueError(f"task {self.name}: {more if known else error}") from error

    def examples(self, split: Split) -> list[Example]:
        """All examples of a split; those of shares are the same whichever is asked for first."""
        if split in self._theirs and not (split == "train" and (self.shares or self._kept < 1)):
            return self._made(split)
        return self._shared[split]

    @cached_property
    def _shared(self) -> Mapping[Split, list[Example]]:
        """The training rows and the splits that are held out of them: made and dealt once, for all splits."""
        pool = self._made("train")
        found: dict[Split, list[Example]] = {}
        rest = shuffled(pool, f"{self.name}/{self.split_seed}/shares")
        for each, share in sorted(self.shares.items()):
            count = round(len(pool) * share)
            found[each], rest = hold_out(rest, count, f"task {self.name}", f"data.tasks.{self.name}.splits")
        if self._kept + sum(self.shares.values()) < 1 - _ROUNDING:
            count = round(len(pool) * self._kept)
            rest, _ = hold_out(rest, count, f"task {self.name}", f"data.tasks.{self.name}.splits")
        return {**found, "train": rest}

    def _made(self, split: Split) -> list[Example]:
        return examples_of(self.task, self._table(self._theirs[split]).rows, self._make)
