"""What a model keeps of rows that were run apart, in one cache with room for the tokens that follow."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


def joins(cache: Any) -> bool:
    """Whether caches of this kind can be joined: keys and values of every token, nothing else.

    Not those that keep a window of tokens, a recurrent state, or of which a layer keeps nothing.
    """
    return type(cache) is DynamicCache and all(
        type(each) is DynamicLayer and each.is_initialized for each in cache.layers
    )


def joined(caches: Sequence[Any], room: int) -> Cache:
    """The rows of several caches in one, each with its end at the last column, and room for so many more tokens."""
    return Cache(layers=[_Roomy(each, room) for each in zip(*(cache.layers for cache in caches), strict=True)])


class _Roomy(DynamicLayer):
    """A layer that writes what is added into room that it has. The usual one copies all there is for each token."""

    def __init__(self, layers: Sequence[Any], room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(layers[0].keys, layers[0].values)
        self._length = max(each.keys.shape[-2] for each in layers)
        self._all_keys = self._filled([each.keys for each in layers], room)
        self._all_values = self._filled([each.values for each in layers], room)
        self._show()

    def _filled(self, rows: Sequence[Tensor], room: int) -> Tensor:
        _, heads, _, size = rows[0].shape
        # Zeros before a row: attention leaves them out, but must not make NaN of what happened to lie there.
        found = rows[0].new_zeros(sum(map(len, rows)), heads, self._length + room, size)
        places = torch.tensor([len(each) for each in rows]).cumsum(0).tolist()
        for end, each in zip(places, rows, strict=True):
            found[end - len(each) : end, :, self._length - each.shape[-2] : self._length] = each
        return found

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = self._all_keys[:, :, : self._length], self._all_values[:, :, : self._length]
        self.keys, self.values = keys, values
        return keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens (rows, heads, n, size); what there is then."""
        begin, self._length = self._length, self._length + key_states.shape[-2]
        self._all_keys[:, :, begin : self._length] = key_states
        self._all_values[:, :, begin : self._length] = value_states
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self._all_keys, self._all_values = self._all_keys[indices], self._all_values[indices]
        self._show()
