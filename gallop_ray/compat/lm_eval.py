"""lm-evaluation-harness, which is optional: helpers of its own models, and its reader of task files."""

from pathlib import Path
from typing import Any

from lm_eval.models import utils as model_utils
from lm_eval.tasks import _yaml_loader
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gallop_ray.compat.probe import require


def probe() -> None:
    """Raises Incompatible."""
    require(
        "lm_eval",
        {
            "tasks._yaml_loader.load_yaml": lambda: _yaml_loader.load_yaml,
            "models.utils.normalize_gen_kwargs": lambda: model_utils.normalize_gen_kwargs,
            "models.utils.resolve_max_length": lambda: model_utils.resolve_max_length,
        },
    )


def task_file(path: Path) -> dict[str, Any]:
    """What a task file says, what it includes among it, functions imported. Raises what YAML or the functions raise."""
    found: dict[str, Any] = _yaml_loader.load_yaml(path)
    return found


def context_length(config: Any, tokenizer: Any) -> int:
    """How many tokens the harness gives a model at once."""
    return int(model_utils.resolve_max_length(config, tokenizer))


def generation_options(asked: dict[str, Any]) -> dict[str, Any]:
    """A task's generation_kwargs with `until`, `max_gen_toks` and `do_sample` settled, whatever their other names."""
    return dict(model_utils.normalize_gen_kwargs(asked))


def windows(tokens: list[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """A text in parts of so many tokens: what is given, and what is predicted from it, each token once."""
    found = get_rolling_token_windows(tokens, prefix_token=prefix, max_seq_len=length, context_len=1)
    return [make_disjoint_window(each) for each in found]
