"""What transformers' Trainer needs for masks that are chosen again while it trains."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gallop_ray.library.adapter import SparseAdapter


class RefreshCallback(TrainerCallback):
    """Refreshes the mask of lift, spiel or sara after Trainer's optimizer steps: callbacks=[RefreshCallback(adapter)].

    spiel and sara need `optimizers=(EntryAdamW(adapter.parameters(), lr=...), None)` of Trainer as well. Errors as
    those of SparseAdapter.refresh_with, when training begins.
    """

    def __init__(self, adapter: SparseAdapter) -> None:
        self._adapter = adapter

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Bind the optimizer that Trainer has made, for as many steps as Trainer will take."""
        self._adapter.refresh_with(kwargs["optimizer"], state.max_steps, state.global_step)
