"""LoRA, DoRA and every other PEFT tuner.

peft and transformers are imported on first use: they take seconds, and mask methods need neither.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings

import torch
from torch import Tensor, nn

from gallop_ray.disk.tensors import PEFT
from gallop_ray.methods.contract import TunerMethod
from gallop_ray.sparse.candidates import Candidate, find_candidates, places
from gallop_ray.sparse.checked import save_checked
from gallop_ray.sparse.weights import gather, is_split, rank
from gallop_ray.spec import adalora
from gallop_ray.spec.other_methods import HybridSpec, PeftSpec
from gallop_ray.spec.peft_tuners import peft_variants, starts_from_weights
from gallop_ray.spec.problems import Path as FieldPath
from gallop_ray.spec.problems import did_you_mean
from gallop_ray.spec.schema import Sweep

if TYPE_CHECKING:
    import peft


class PeftAttachment:
    """A PEFT adapter around the base model, whose own weights stay frozen."""

    def __init__(self, model: nn.Module, config: "peft.PeftConfig") -> None:
        import peft
        from transformers import PreTrainedModel
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        split = any(is_split(p) for p in model.parameters())
        # While this object lives, PEFT gathers the weights that it reads (DoRA's row norms) over the ranks: it asks
        # transformers, which keeps a weak reference to it.
        announced = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}}) if split else None
        # PEFT's default would make the adapter float32, of which DeepSpeed keeps masters anyway.
        self.module = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        del announced
        # With gradient checkpointing PEFT hooks the embeddings, permanently, and only the reentrant kind needs it.
        if isinstance(model, PreTrainedModel):
            model.disable_input_require_grads()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What PEFT trains."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def write(self) -> None:
        """Forward reads the adapter's parameters."""

    def finalized(self) -> AbstractContextManager[None]:
        """The trained parameters are always the saved ones."""
        return nullcontext()

    def finalize(self) -> None:
        """The trained parameters are the saved ones."""

    def tensors(self, but: Sequence[nn.Parameter] = ()) -> dict[str, Tensor]:
        """What is saved: the trained parameters except `but`, under the names that PEFT gives them on disk. Collective.

        Empty on every rank but the first.
        """
        others = {id(p) for p in but}
        ours = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad and id(p) not in others]
        # On every rank: gathering is collective, though rank 0 alone writes.
        trained = {name: gather(p).cpu() for name, p in ours}
        return {on_disk(name): value.contiguous() for name, value in trained.items()} if rank() == 0 else {}

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """The adapter's parameters; rank 0 writes."""
        tensors = self.tensors()
        if rank() == 0:
            save_checked(path, tensors, {"format": PEFT, **metadata})

    @torch.no_grad()
    def fill(self, saved: Mapping[str, Tensor]) -> None:
        """Put what `save` wrote into the parameters."""
        trained = {on_disk(name): p for name, p in self.module.named_parameters() if p.requires_grad}
        assert saved.keys() == trained.keys(), f"{sorted(saved.keys() ^ trained.keys())} are only on one side"
        for name, p in trained.items():
            p.copy_(saved[name])

    def exported(self, saved: dict[str, Tensor], metadata: Mapping[str, str]) -> tuple[Any, dict[str, Tensor]]:
        """What `save` wrote, as PEFT's configuration and the tensors of its file."""
        config: Any = self.module.peft_config["default"]
        return config, saved

    def detach(self) -> None:
        """Put the base's own layers back; base_guard compares what is left with what was."""
        self.module.unload()


class PeftMethod(TunerMethod):
    """What all tuners of PEFT have in common."""

    @property
    def names_targets(self) -> bool:
        """Whether we name the targets, by their paths in this model."""
        return True

    @abstractmethod
    def config(self, model: nn.Module) -> "peft.PeftConfig":
        """PEFT's configuration for this model. Raises ValueError for options that PEFT refuses."""

    def wrap(self, model: nn.Module, config: "peft.PeftConfig") -> PeftAttachment:
        """The model with the adapter."""
        return PeftAttachment(model, config)

    def attach_again(self, model: nn.Module) -> PeftAttachment:
        """See TunerMethod."""
        return self.attach(model)

    def attach(self, model: nn.Module) -> PeftAttachment:
        """Raises ValueError where PEFT refuses the model or the options; the model may then be half wrapped."""
        import peft

        from gallop_ray.compat.peft import names_as_they_are

        config = self.config(model)
        try:
            with (
                names_as_they_are() if self.names_targets else nullcontext(),
                catch_warnings(action="ignore", category=FutureWarning),  # it asks models by names of before
            ):
                return self.wrap(model, config)
        except _REFUSALS as error:
            raise ValueError(
                f"PEFT's {peft.PeftType(config.peft_type).value.lower()} does not fit this model: {_first_line(error)}"
            ) from error


class Lora(PeftMethod):
    """W x + (alpha / r) B A x on the target modules; the default targets are those of the mask methods."""

    decompose = False

    def config(self, model: nn.Module) -> "peft.PeftConfig":
        """A LoraConfig that names this model's target modules."""
        import peft

        spec = self.spec
        return peft.LoraConfig(
            r=spec.rank,
            lora_alpha=spec.chosen_alpha,
            lora_dropout=spec.dropout,
            target_modules=_modules(model, spec.target_modules, peft.LoraConfig()),
            target_parameters=self._experts(model),
            use_dora=self.decompose,
        )

    def _experts(self, model: nn.Module) -> list[str] | None:
        """The parameters of mixtures' experts, in which every expert gets its own matrices of rank r."""
        experts = [place.path for place in _places(model, self.spec.target_modules) if _of_experts(place)]
        if not experts or self.decompose:
            return None
        if self.spec.dropout:
            raise ValueError(
                f"PEFT has no dropout for {experts[0]}, which holds the matrices of several experts; set dropout to 0, "
                "or leave experts out of target_modules"
            )
        if any(is_split(p) for p in model.parameters()):
            raise ValueError(
                f"PEFT cannot adapt {experts[0]}, which holds the matrices of several experts, at zero_stage 3; use "
                "zero_stage 2 or less, or leave experts out of target_modules"
            )
        return experts


class Dora(Lora):
    """LoRA on the direction of each weight row, with a magnitude of its own that is trained, too."""

    decompose = True


class Peft(PeftMethod):
    """A tuner of PEFT by its name there. Raises ValueError for a name or an option that PEFT does not know."""

    def __init__(self, spec: PeftSpec) -> None:
        super().__init__(spec)
        self._options = spec.options
        self._begins: dict[str, Any] = {}
        self._made()

    @property
    def names_targets(self) -> bool:
        """See PeftMethod: unless the user's options name the targets."""
        return "target_modules" not in self._options

    def config(self, model: nn.Module) -> "peft.PeftConfig":
        """The tuner's configuration, with the run's seed and, where PEFT takes targets and none are given, ours."""
        # PEFT's fixed seeds would give every run the same projections; torch's state is seeded by the run.
        seed = torch.initial_seed() % 2**31
        config = self._made(**{name: seed for name in self._seeds if name not in self._options})
        if getattr(config, "target_modules", "none") is None:
            config.target_modules = set(_modules(model, self.spec.target_modules, config))
        made: peft.PeftConfig = config
        return made

    def wrap(self, model: nn.Module, config: "peft.PeftConfig") -> PeftAttachment:
        """The model with the adapter, of the tuner's own kind where it needs hooks."""
        if self.spec.tuner.lower() == adalora.NAME:
            from gallop_ray.methods.adalora import AdaLoraAttachment

            return AdaLoraAttachment(model, config, self._options)
        if starts_from_weights(self._options):
            from gallop_ray.methods.lora_starts import StartedLoraAttachment

            return StartedLoraAttachment(model, config)
        return super().wrap(model, config)

    def attach_again(self, model: nn.Module) -> PeftAttachment:
        """As attach, but without taking weights apart for first values. See TunerMethod."""
        if not starts_from_weights(self._options):
            return self.attach(model)
        plain = type(self)(self.spec)
        plain._begins = {"init_lora_weights": True}
        return plain.attach(model)

    @property
    def _class(self) -> Any:
        import peft

        known = peft.PEFT_TYPE_TO_CONFIG_MAPPING
        if self.spec.tuner.upper() not in known:
            names = ", ".join(sorted(t.value.lower() for t in known))
            raise ValueError(f"PEFT {peft.__version__} has no tuner {self.spec.tuner!r}; it has {names}")
        return known[self.spec.tuner.upper()]

    @property
    def _seeds(self) -> list[str]:
        """The options of this tuner that seed what it draws when it attaches."""
        names = [field.name for field in fields(self._class)]
        # generator_seed seeds what is drawn while training; its default is torch's state, which is seeded and resumed.
        return [name for name in names if name.endswith(("seed", "prng_key")) and name != "generator_seed"]

    def _made(self, **more: int) -> Any:
        known = [field.name for field in fields(self._class) if field.init]
        if "total_step" in known and self._options.get("total_step") is None:
            more["total_step"] = adalora.SOME_STEPS
        for name in self._options:
            if name not in known:
                hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
                raise ValueError(f"PEFT's {self.spec.tuner} has no option {name}{hint}")
        try:
            return self._class(task_type="CAUSAL_LM", **{**self._options, **more, **self._begins})
        except _REFUSALS as error:
            raise ValueError(f"PEFT's {self.spec.tuner}: {_first_line(error)}") from None


# What PEFT raises for a user's options. Not RuntimeError, which may be the machine's fault.
_REFUSALS = (ValueError, TypeError, NotImplementedError, LookupError, AttributeError, AssertionError, ImportError)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def refused_by_peft(sweep: Sweep) -> Iterator[tuple[FieldPath, str]]:
    """The tuners and options of a sweep that PEFT refuses: path in the sweep, and why."""
    for place, spec in enumerate(sweep.methods):
        if isinstance(spec, HybridSpec) and isinstance(tuner := spec.part_specs[1], PeftSpec):
            try:
                Peft(tuner)
            except ValueError as error:
                yield ("methods", place, "parts"), f"is not allowed; {error}"
        if isinstance(spec, PeftSpec):
            for path, variant in peft_variants(sweep, place, spec):
                try:
                    Peft(variant)
                except ValueError as error:
                    yield (*path, *_named(variant.options, str(error))), f"is not allowed; {error}"


def _named(options: Mapping[str, Any], message: str) -> list[str]:
    """The first option that a message mentions, or nothing."""
    places = {name: found.start() for name in options if (found := re.search(rf"\b{re.escape(name)}\b", message))}
    return sorted(places, key=lambda name: places[name])[:1]


def _places(model: nn.Module, patterns: str | tuple[str, ...] | None) -> list[Candidate]:
    return places(find_candidates(model, patterns))


def _of_experts(place: Candidate) -> bool:
    return len(place.shape) == 3


def _modules(model: nn.Module, patterns: str | tuple[str, ...] | None, config: "peft.PeftConfig") -> list[str]:
    """The modules for tuners that cannot adapt mixtures of experts; unless they are named, those that PEFT takes.

    Raises ValueError where nothing else was asked for.
    """
    from gallop_ray.compat.peft import takes

    found = _places(model, patterns)
    modules = [
        place.name
        for place in found
        if not _of_experts(place) and (patterns is not None or takes(config, model, place.name))
    ]
    if not modules:
        raise ValueError(
            f"tuners adapt linear layers, and {found[0].path} holds experts; name others in target_modules"
        )
    return modules


def on_disk(name: str) -> str:
    """PEFT's name of a parameter in a file: without the adapter's name, the last or second-to-last part."""
    return name.replace(".default", "")
