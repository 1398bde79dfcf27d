"""Which PEFT tuners a sweep can use; each was tried with PEFT 0.21.

A tuner works here if only its own parameters are trained, all that it needs beside the loss of the answers is done, and
removing it restores the base model.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from gallop_ray.spec import adalora
from gallop_ray.spec.configuration import space_keys
from gallop_ray.spec.other_methods import HybridSpec, PeftSpec
from gallop_ray.spec.problems import Finding, Path, did_you_mean, shown
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.space import extremes

WORKING = (
    *("adalora", "beft", "boft", "c3a", "deft", "delora", "fourierft", "frod", "glora", "gralora", "hira", "hra"),
    *("ia3", "lily"),
    *("ln_tuning", "loha", "lokr", "lora", "miss", "oft", "osf", "peanut", "psoft", "pvera", "randlora", "road"),
    *("shira", "supertuning", "tinylora", "trainable_tokens", "unilora", "vblora", "vera", "waveft"),
)
"""Tuners that fulfil the contract of methods; its tests run over them."""

_READS_WEIGHTS = "it computes with whole weights when it attaches"
WHOLE: Mapping[str, str] = {
    **dict.fromkeys(("deft", "delora", "frod", "ln_tuning", "loha", "osf", "supertuning"), _READS_WEIGHTS),
    **dict.fromkeys(("tinylora", "trainable_tokens"), _READS_WEIGHTS),
    adalora.NAME: "its loss and its ranks are made of whole parameters and gradients",
}
"""Tuners that need complete weights, which ZeRO-3 splits, with the reason: they fail there, or do not learn."""

BESIDE = ("c3a", "fourierft", "ia3", "loha", "lokr", "lora", "randlora", "vblora", "vera", "waveft")
"""Tuners that read a weight only by calling its layer, so that entries of it can be trained beside them."""

_LORA = "use lora or dora"
_PROMPTS = "it puts tokens of its own before the prompt, where answers are not looked for yet"
REFUSED: Mapping[str, str] = {
    "adamss": f"its matrices have the sizes of clusters of weights, which no estimate or export has; {_LORA}",
    "adaption_prompt": f"it fits whole attention blocks of some models and cannot be taken off again; {_LORA}",
    "cartridge": f"it trains a cache of keys and values, which is not passed on; {_LORA}",
    "cpt": f"{_PROMPTS}, and its loss is one of its own; {_LORA}",
    "multitask_prompt_tuning": f"{_PROMPTS}; {_LORA}",
    "p_tuning": f"{_PROMPTS}; {_LORA}",
    "poly": f"it asks for a task with every example; {_LORA}",
    "prefix_tuning": f"it trains a cache of keys and values, which is not passed on; {_LORA}",
    "prompt_tuning": f"{_PROMPTS}; {_LORA}",
    "shadow": f"it runs a second model beside the blocks, with a loss of its own; {_LORA}",
    "xlora": f"it mixes adapters that were trained before; {_LORA}",
}
"""Why a tuner is refused, and what to use instead."""

_OURS = "is set by gallop-ray; leave it out"
_CHANGES_BASE = "changes the base model's own weights, which its adapter would not tell"
REFUSED_OPTIONS: Mapping[str, str] = {
    **dict.fromkeys(("task_type", "peft_type", "peft_version", "auto_mapping"), _OURS),
    **dict.fromkeys(("base_model_name_or_path", "revision"), _OURS),
    "inference_mode": "would leave nothing to train; leave it out",
    "modules_to_save": "trains copies of whole modules, which stay in the base model; leave it out, or use full",
    "layer_replication": "puts more blocks into the base model; leave it out",
    "arrow_config": "mixes adapters that were trained before; leave it out",
    "eva_config": "needs a pass over the data before training; leave it out",
    "corda_config": "needs a pass over the data before training; leave it out",
    "lora_ga_config": "needs gradients before training; leave it out",
    "loftq_config": f"{_CHANGES_BASE}; leave it out",
    "kasa_config": f"takes singular values out of the weights, so that it {_CHANGES_BASE}; leave it out",
    "monteclora_config": "draws its noise from a buffer that no checkpoint holds; leave it out",
    "megatron_config": "needs a model that Megatron runs; leave it out",
    "alora_invocation_tokens": "needs the place of these tokens with every example; leave it out",
    "use_qalora": "needs a quantised model; leave it out",
}
"""Why an option of any tuner is refused."""
REFUSED_INITS: Mapping[str, str] = {
    "loftq": _CHANGES_BASE,
    "eva": "needs a pass over the data before training, and would train the default initialisation",
    "corda": f"needs a pass over the data before training, and {_CHANGES_BASE}",
    "lora_ga": f"needs gradients before training, and {_CHANGES_BASE}",
}
"""Why a value of init_lora_weights is refused."""


STARTS = ("pissa", "olora")
"""Values of init_lora_weights with which LoRA begins with a part of the weights, which stay as they are."""


def starts_from_weights(options: Mapping[str, Any]) -> bool:
    """Whether LoRA with these options does so."""
    return _kind(options.get("init_lora_weights")) in STARTS


def refused_tuner(name: str) -> str | None:
    """Why a tuner cannot be used; None where it can."""
    if name.lower() in WORKING:
        return None
    unknown = f"PEFT has no such tuner{did_you_mean(name, WORKING) or '; there are ' + ', '.join(WORKING)}"
    return REFUSED.get(name.lower(), unknown)


def refused_options(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options of a tuner that need more than attaching and training, each with the reason."""
    for name, value in options.items():
        if name in REFUSED_OPTIONS and value not in (None, False, []):
            yield name, REFUSED_OPTIONS[name]
        elif name == "bias" and value != "none":
            yield name, "trains biases of the base model, which its adapter would not tell; must be none"
        elif name == "use_dora" and value and starts_from_weights(options):
            yield name, f"{_kind(options['init_lora_weights'])} beside it would be of other weights; leave out one"
        elif name == "init_lora_weights" and (reason := REFUSED_INITS.get(_kind(value))):
            yield name, f"{reason}; leave it out, or use gaussian or orthogonal"


def _kind(value: object) -> str:
    # pissa_niter_16 says how it is computed, and lower() is PEFT's for some of the names.
    return str(value).lower().partition("_niter_")[0]


def refused_beside(name: str, options: Mapping[str, Any]) -> str | None:
    """Why a tuner with these options cannot be trained beside a mask; None where it can."""
    if reason := refused_tuner(name):
        return reason
    if name.lower() not in BESIDE:
        return f"it computes with the weights themselves; beside a mask there are {', '.join(BESIDE)}"
    if options.get("use_dora"):
        return "use_dora computes with the weights themselves; use the part dora"
    if starts_from_weights(options):
        return "init_lora_weights takes a part of the weights themselves; leave it out"
    return next((f"{option} {why}" for option, why in refused_options(options)), None)


def tuners_work(sweep: Sweep) -> Iterator[Finding]:
    """PEFT tuners and their options, searched ones included, that need more than attaching and training."""
    for place, method in enumerate(sweep.methods):
        if isinstance(method, HybridSpec):
            yield from _part_works(sweep, place, method)
        if isinstance(method, PeftSpec):
            keys, at = space_keys(sweep, method), ("methods", place)
            for path, tuner in _values(sweep, keys, "tuner", (*at, "tuner"), method.tuner):
                if reason := refused_tuner(str(tuner)):
                    yield (path,), f"{shown(tuner)} is not allowed; {reason}"
                elif sweep.deepspeed.zero_stage == 3 and str(tuner).lower() in WHOLE:
                    yield (path, ("deepspeed", "zero_stage")), _not_split(tuner)
            for path, options in _values(sweep, keys, "options", (*at, "options"), method.options):
                if isinstance(options, Mapping):
                    for name, reason in refused_options(options):
                        yield ((*path, name),), f"{shown(options[name])} is not allowed; {reason}"


def _part_works(sweep: Sweep, place: int, method: HybridSpec) -> Iterator[Finding]:
    tuner = method.part_specs[1]
    if sweep.deepspeed.zero_stage == 3 and isinstance(tuner, PeftSpec) and tuner.tuner.lower() in WHOLE:
        yield (("methods", place, "parts"), ("deepspeed", "zero_stage")), _not_split(tuner.tuner)


def _not_split(tuner: object) -> str:
    reason = WHOLE[str(tuner).lower()]
    return f"{shown(tuner)} is not allowed at zero_stage 3; {reason}, so use zero_stage 2 or less"


def peft_variants(sweep: Sweep, place: int, method: PeftSpec) -> Iterator[tuple[Path, PeftSpec]]:
    """The specs, one per searched tuner and set of options, of the method at this position of a sweep, by path."""
    keys, at = space_keys(sweep, method), ("methods", place)
    for _, tuner in _values(sweep, keys, "tuner", (*at, "tuner"), method.tuner):
        for path, options in _values(sweep, keys, "options", (*at, "options"), method.options):
            yield path, method.model_copy(update={"tuner": tuner, "options": options})


def _values(
    sweep: Sweep, keys: Mapping[str, str], field: str, at: Path, value: object
) -> Iterator[tuple[Path, object]]:
    """The possible values of a method's field, each with its path."""
    key = keys.get(f"method.{field}")
    if key is None:
        yield at, value
        return
    for place, each in enumerate(extremes(sweep.search.space[key])):
        yield ("search", "space", key, "choice", place), each
