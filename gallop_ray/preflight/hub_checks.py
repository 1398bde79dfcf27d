"""What a sweep takes from the Hugging Face hub: in the cache, or to be downloaded."""

from collections.abc import Iterator

import huggingface_hub

from gallop_ray.preflight.findings import Finding, ok, problem
from gallop_ray.preflight.plan import offline
from gallop_ray.spec.basics import BASICS_TEXT
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.training import GENERATED_TEXT
from gallop_ray.tasks.text import hub_texts

_SECONDS = 3.0


def on_hub(what: str, repository: str, kind: str) -> Finding:
    """Whether a repository of the kind (model or dataset) is in the cache, or can be downloaded."""
    cached = huggingface_hub.try_to_load_from_cache(repository, "config.json", repo_type=kind)
    if isinstance(cached, str):
        return ok(f"{what}: in the cache of the Hugging Face hub")
    ask = huggingface_hub.model_info if kind == "model" else huggingface_hub.dataset_info
    try:
        ask(repository, timeout=_SECONDS)
    except Exception as error:  # the network, a proxy, an unknown name, a gate: the hub says it best
        reason = str(error).strip().splitlines()[0]
        fix = "Check the network or HF_TOKEN, download it before, or give a folder on storage that every node sees"
        fix = f"Run: make smollm2. Or: {fix[0].lower() + fix[1:]}" if what.endswith("smollm2-135m") else fix
        return problem(f"{what}: neither in the cache nor on the hub as {repository}: {reason}", fix)
    return ok(f"{what}: will be downloaded from the hub")


def hub_text(sweep: Sweep) -> Iterator[Finding]:
    """Whether general text of the hub is in the cache, or can be downloaded."""
    source = sweep.evaluation.text_of(sweep.model.name)
    if source in (None, GENERATED_TEXT, BASICS_TEXT) or source.endswith(".jsonl"):
        return
    try:
        with offline():
            hub_texts(source)
    except ValueError:
        name = source.partition(":")[0]
        yield on_hub(f"general text of {name}", name, "dataset")
    else:
        yield ok(f"general text of {source}: in the cache of the Hugging Face hub")
