"""The callback with which transformers' Trainer reselects masks while it trains."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gallop_ray.library.adapter import SparseAdapter


class RefreshCallback(TrainerCallback):
    """Refreshes the mask of lift, spiel or sara after Trainer's optimizer steps: callbacks=[RefreshCallback(adapter)].

    For spiel and sara also pass `optimizers=(EntryAdamW(adapter.parameters(), lr=...), None)` to Trainer. Raises the
    errors of SparseAdapter.refresh_with when training begins.
    """

    def __init__(self, adapter: SparseAdapter) -> None:
        self._adapter = adapter

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Bind Trainer's optimizer, which exists from now on, for all of Trainer's steps."""
        self._adapter.refresh_with(kwargs["optimizer"], state.max_steps, state.global_step)
