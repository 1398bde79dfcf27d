"""Running out of memory: recognizing it, and freeing what it leaves behind."""

import gc

_NO_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out; libraries word it differently."""
    # By words: the driver asks, too, and does not import torch for its classes.
    text = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or "OutOfMemoryError" in text or any(words in text for words in _NO_MEMORY)


def free_memory() -> None:
    """Free what work that ran out of memory has left in reference cycles and in the allocator's cache."""
    import torch  # here, because the driver asks what an error means and needs no torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
