"""Rankings of a run's candidates: read from the score store, or computed by a gradient pass that serves others, too.

A pass sums the gradients of the drawn examples rung by rung. At each rung all gradient methods of the sweep with the
same candidates and the same ladder are ranked, unless they already are; then the pass continues with the examples of
the next rung.
"""

import hashlib
import json
import logging
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

import torch
import transformers

from gallop_ray.compat.transformers import attention_of
from gallop_ray.methods import MaskMethod, make_method
from gallop_ray.sparse.budget import Quota
from gallop_ray.sparse.candidates import Candidate, refuse_unreached
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.mask import Ranking, rank_scores
from gallop_ray.sparse.scoring import score_owned
from gallop_ray.spec.configuration import densities, fixed_scores, listed_densities, selection_ratios
from gallop_ray.spec.mask_methods import GraspSpec
from gallop_ray.spec.method import MaskMethodSpec
from gallop_ray.spec.own_code import code_hash
from gallop_ray.spec.schema import Sweep
from gallop_ray.training.context import RunContext
from gallop_ray.training.curvature import accumulate_products
from gallop_ray.training.draw import SelectionSample, draw, rungs, share_of
from gallop_ray.training.gradient_pass import accumulate
from gallop_ray.training.score_store import ScoreStore

Source = Literal["computed", "continued", "store", "checkpoint"]
"""Where scores came from: a complete pass, a pass from stored sums, the store, or (the mask itself) a checkpoint."""

_LOG = logging.getLogger(__name__)
_VERSION = 2  # of how scores are computed; raise it to ignore everything stored before
_NO_FORMULA = {"name", "density", "selection_ratio", "target_modules"}


@dataclass(frozen=True)
class Ranked:
    """A ranking that is large enough for the run, and where it came from."""

    ranking: Ranking
    source: Source
    key: str


def rank_candidates(
    context: RunContext, candidates: Sequence[Candidate], method: MaskMethod, quotas: Sequence[Quota]
) -> Ranked:
    """The ranking from which a gradient method chooses its quotas. Collective."""
    scoring = _Scoring(context, candidates, method, quotas)
    if scoring.store is None:
        return scoring.compute()
    if found := scoring.look_up():
        return found
    # The last rung's lock, whichever rung is asked for: one climb of the ladder at a time, which serves all rungs.
    with scoring.store.alone(scoring.rungs[-1]):
        return scoring.look_up() or scoring.compute()  # another run may have ranked them meanwhile


@dataclass(frozen=True)
class _Scoring:
    context: RunContext
    candidates: Sequence[Candidate]
    method: MaskMethod
    quotas: Sequence[Quota]

    @cached_property
    def store(self) -> ScoreStore | None:
        """The sweep's score store, if it has one."""
        folder = self.context.resident.scores
        return None if folder is None else ScoreStore(folder)

    @cached_property
    def draw(self) -> SelectionSample:
        """The examples that this run scores."""
        return draw(self.context, self.method.spec)

    @property
    def rung(self) -> int:
        """The rung that this run scores."""
        return self.draw.asked

    @cached_property
    def owned(self) -> OwnedGradients:
        """The sums of this rank's matrices."""
        return OwnedGradients(self.candidates, self.method.spec.evidence)

    @cached_property
    def rungs(self) -> list[str]:
        """For each rung, a hash of everything its gradient sums depend on.

        Of the training options only micro_batch_size changes the bits: it decides what is padded and summed together,
        while gradient_checkpointing recomputes the same. The seed is included through the examples that it draws, the
        prompt or chat template through the tokens of the training examples. The versions of torch and transformers are
        included because a kernel or a model's code may compute differently in another version.
        The number of ranks changes last bits, as it does in training, but is left out, so that a sweep that resumes
        with another number keeps its masks.
        """
        resident = self.context.resident
        config = resident.model.config.to_diff_dict()  # type: ignore[operator, union-attr]
        depends = {
            "version": _VERSION,
            "base": resident.base_hash,
            "config": {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version")},
            "dtype": str(resident.dtype),
            "attention": attention_of(resident.model.config),
            "device": resident.device.type,
            "versions": [torch.__version__, transformers.__version__],
            "train": resident.train_hash,
            "candidates": [[c.name, *c.shape] for c in self.candidates],
            "micro_batch_size": self.context.training.micro_batch_size,
        }
        depends |= _evidence(self.method.spec)
        digest, found = hashlib.sha256(_canonical(depends)), []
        for rung in range(len(self.draw.ends)):
            examples = self.draw.rung(rung)
            digest.update(array("q", [len(examples), *examples]).tobytes())
            found.append(digest.copy().hexdigest())
        return found

    def key(self, spec: MaskMethodSpec, rung: int) -> str:
        """A hash of everything a method's ranking depends on: its options but `_NO_FORMULA`, and the gradient sums.

        A score from outside this package may read any of its options and draw from the seed's generator; ours use
        gradients and weights alone.
        """
        own = spec.implementation
        if isinstance(own, str):
            options: dict[str, Any] = spec.model_dump(mode="json", exclude=_NO_FORMULA)
        else:
            options = {**spec.model_dump(mode="json"), "code": code_hash(own), "seed": self.context.seed}
        return hashlib.sha256(self.rungs[rung].encode() + _canonical(options)).hexdigest()

    def look_up(self) -> Ranked | None:
        """The run's ranking from the store; None where it is missing, damaged or too small. Collective."""
        assert self.store is not None
        key = self.key(self.method.spec, self.rung)
        ranking = self.store.ranking(key, self.owned, self.quotas)
        return None if ranking is None else Ranked(ranking, "store", key)

    def compute(self) -> Ranked:
        """Rank, after a gradient pass or the rest of one; store what other runs will ask for."""
        reached = self._recall()
        source: Source = "computed" if reached < 0 else "continued"
        for rung in range(max(reached, 0), self.rung + 1):
            if rung > reached:
                self._accumulate(rung)
            self._serve(rung)
        if reached < self.rung:
            self._keep_sums()
        key, quotas = self.key(self.method.spec, self.rung), self.quotas
        if self.store is not None:
            quotas = self._most(self.method.spec, quotas)
        ranking = self._rank(self.method, quotas, self.rung, keep=False)  # last, because it consumes the sums
        if self.store is not None:
            self.store.keep_ranking(key, self.owned, ranking)
            for below in self.rungs[: self.rung]:
                self.store.drop_sums(below)
        return Ranked(ranking, source, key)

    def _recall(self) -> int:
        """Load the stored sums of the highest rung up to the run's own. Returns that rung, -1 where there are none."""
        for rung in range(self.rung, -1, -1):
            sums = None if self.store is None else self.store.sums(self.rungs[rung], self.owned)
            if sums is not None:
                self.owned.sums = sums
                return rung
        return -1

    def _accumulate(self, rung: int) -> None:
        resident, phases, spec = self.context.resident, self.context.phases, self.method.spec
        asked = (resident, [resident.train[i] for i in self.draw.rung(rung)], self.context.training, phases, self.owned)
        with phases.phase("scoring"):
            if isinstance(spec, GraspSpec):
                accumulate_products(*asked, spec.temperature)
            else:
                with self.owned.capture(), resident.usable(resident.model, self.context.training):
                    accumulate(*asked)
        had = [m in self.owned.sums for m in range(len(self.candidates))]
        refuse_unreached([c.name for c in self.candidates], had, "scoring")

    def _rank(self, method: MaskMethod, quotas: Sequence[Quota], rung: int, keep: bool) -> Ranking:
        with self.context.phases.phase("selecting"):
            scores = score_owned(self.owned, method, self.context.seed, self.draw.ends[rung], keep)
            return rank_scores(scores, quotas, len(self.candidates))

    def _serve(self, rung: int) -> None:
        """Rank what the sweep's methods will ask for at this rung, except the run's own ranking."""
        if self.store is None:
            return
        own = self.key(self.method.spec, self.rung)
        for spec in self._methods(rung):
            key, quotas = self.key(spec, rung), self._most(spec)
            if key == own or self.store.ranking(key, self.owned, quotas) is not None:
                continue
            method: Any = make_method(spec)
            try:
                self.store.keep_ranking(key, self.owned, self._rank(method, quotas, rung, keep=True))
            except ValueError as error:  # the same on every rank; a run of that method will report it itself
                _LOG.warning("%s is not ranked along with %s: %s", spec.name, self.method.spec.name, error)

    def _methods(self, rung: int) -> Iterator[MaskMethodSpec]:
        """The methods whose rankings at this rung will certainly be asked for."""
        own, sweep, examples = self.method.spec, self.context.resident.sweep, len(self.context.resident.train)
        for spec in gradient_methods(sweep):
            ratios = selection_ratios(sweep, spec)
            same = None in ratios if self.draw.first_batch else self.draw.begins_like(rungs(ratios, examples), rung)
            same = same and _evidence(spec) == _evidence(own) and spec.target_modules == own.target_modules
            if same and fixed_scores(sweep, spec):
                yield from [spec] if isinstance(spec.implementation, str) else self._points(spec, ratios, rung)

    def _points(self, spec: MaskMethodSpec, ratios: Sequence[float | None], rung: int) -> Iterator[MaskMethodSpec]:
        """A method from outside this package, with every density and ratio of the sweep that this rung serves."""
        examples, sweep = len(self.context.resident.train), self.context.resident.sweep
        here = [ratio for ratio in ratios if ratio is None or share_of(examples, ratio) == self.draw.ends[rung]]
        for density, ratio in product(listed_densities(sweep, spec), here):
            more = {} if ratio is None else {"selection_ratio": ratio}
            yield spec.model_copy(update={"density": density, **more})

    def _most(self, spec: MaskMethodSpec, quotas: Sequence[Quota] = ()) -> list[Quota]:
        """The largest quotas that the sweep will ask of a ranking, these included."""
        sweep, most = self.context.resident.sweep, {quota.matrices: quota.k for quota in quotas}
        one = not isinstance(spec.implementation, str)  # a score from outside this package may be of one density alone
        for each in [spec] if one else gradient_methods(sweep):
            if each.name != spec.name and self.key(each, 0) != self.key(spec, 0):
                continue
            for density in [spec.density] if one else densities(sweep, each):
                method: Any = make_method(spec.model_copy(update={"density": density}))
                try:
                    asked = method.quotas(self.candidates, self.context.resident.parameters)
                except ValueError:  # a density meant for other target modules, which these cannot hold
                    continue
                for quota in asked:
                    # Shares are rounded so that they add up: one of a smaller density may be larger by 1.
                    most[quota.matrices] = max(most.get(quota.matrices, 0), quota.k + 1)
        return [Quota(matrices, k) for matrices, k in most.items()]

    def _keep_sums(self) -> None:
        """Store the sums where a larger rung may still continue from them."""
        above = self.rung + 1
        if self.store is None or above == len(self.rungs):
            return
        if not self.store.has_ranking(self.key(self.method.spec, above)):
            self.store.keep_sums(self.rungs[self.rung], self.owned)


def gradient_methods(sweep: Sweep) -> list[MaskMethodSpec]:
    """The methods of a sweep that score gradients."""
    masks = [spec for spec in sweep.methods if isinstance(spec, MaskMethodSpec)]
    return [spec for spec in masks if spec.needs_gradients]


def _evidence(spec: MaskMethodSpec) -> dict[str, Any]:
    """What is summed, where it is not gradients, and the options that it depends on."""
    if isinstance(spec, GraspSpec):
        return {"evidence": spec.evidence, "temperature": spec.temperature}
    return {} if spec.evidence == "gradients" else {"evidence": spec.evidence}


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()
