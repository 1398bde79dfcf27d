"""The loaded model as lm-evaluation-harness sees a model: likelihoods and greedy generation, shared out over ranks.

Every rank must make the same calls, and has the same results. They are those of the harness' own HFLM in float32; with
16 bits log-probabilities are added in float32 here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from torch import Tensor

from gallop_ray.compat.lm_eval import context_length, generation_options, windows
from gallop_ray.tasks.accuracy import Generation, Prompt, generated
from gallop_ray.tasks.branches import Row, log_probabilities
from gallop_ray.tasks.passes import answered

Likelihood = tuple[float, bool]
"""The summed log-probability of a continuation's tokens, and whether greedy decoding would say it."""


@dataclass(frozen=True)
class _Asked:
    """How a request wants its text: at most so many tokens, up to one of these."""

    tokens: int
    stop: tuple[str, ...]

    @classmethod
    def of(cls, request: Instance) -> "_Asked":
        options = generation_options(request.args[1])
        if options["do_sample"] and options.get("temperature", 0.0) != 0.0:
            raise ValueError(
                f"task {request.task_name} draws samples (do_sample, temperature), and answers are generated greedily "
                "here; set its generation_kwargs to do_sample: false"
            )
        return cls(options["max_gen_toks"], tuple(filter(None, options["until"])))


class LoadedLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """A causal language model of transformers, or a wrapper around one, with its tokenizer.

    batch_size: sequences per rank and forward pass.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.max_length = context_length(model.config, tokenizer)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has nothing before it."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The tokens of a text, with what the tokenizer adds by itself, but for a second beginning."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        more = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, **more)
        return ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Likelihood]:
        """Of each request's continuation after its context."""
        found: list[Likelihood] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """The summed log-probability of each request's text, in windows of what the model takes at once."""
        texts = [self.tok_encode(request.args[0]) for request in requests]
        parts = [windows(tokens, self.prefix_token_id, self.max_length) for tokens in texts]
        found = iter(self._loglikelihood_tokens([(("", ""), *each) for part in parts for each in part]))
        return [sum(next(found)[0] for _ in part) for part in parts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """What the model says greedily after each request's context, up to the first of its stop texts.

        Raises ValueError where a request wants samples, or leaves no room for its context.
        """
        found: dict[int, str] = {}
        asked = [_Asked.of(request) for request in requests]
        for one in dict.fromkeys(asked):
            places = [place for place, other in enumerate(asked) if other == one]
            prompts = {place: self._prompt(requests[place].args[0], one.tokens) for place in places}
            found |= zip(places, self._generate([prompts[place] for place in places], one), strict=True)
        return [found[place] for place in range(len(requests))]

    def _prompt(self, context: str, tokens: int) -> list[int]:
        room = self.max_length - tokens
        if room < 1:
            raise ValueError(
                f"the task generates up to {tokens} tokens, and the model has {self.max_length} positions; lower the "
                "task's max_gen_toks"
            )
        return self.tok_encode(context)[-room:]

    def _generate(self, prompts: list[list[int]], asked: "_Asked") -> list[str]:
        each: list[Prompt] = [(prompt, ()) for prompt in prompts]
        return generated(self.model, self.tokenizer, each, Generation(asked.tokens, asked.stop), self.batch_size)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[Likelihood]:
        """Continuations of the same context share a pass over it."""
        asked: dict[tuple[int, ...], dict[Any, list[int]]] = {}
        for place, (_, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self.max_length:
                raise ValueError(_unfit(requests[place][0][1], len(continuation), self.max_length))
            kept = context[-(self.max_length + 1 - len(continuation)) :]
            asked.setdefault(tuple(kept), {})[place] = continuation
        found: dict[Any, Likelihood] = {}
        for some in answered(
            self.model, list(asked.items()), self.tokenizer.pad_token_id, self.batch_size, _likelihoods
        ):
            found |= some
        return [found[place] for place in range(len(requests))]


def _unfit(text: str, tokens: int, most: int) -> str:
    if not tokens:
        return "an answer is empty; every answer needs some text"
    return f"the answer {text[:80]!r} has {tokens} tokens, and the model takes {most} at once; shorten it"


def _likelihoods(logits: Tensor, row: Row) -> dict[Any, Likelihood]:
    """Of a row's continuations, from its (kept, V) logits."""
    first, likeliest = len(row.ids) - row.kept, logits.argmax(-1).tolist()
    found: dict[Any, Likelihood] = {}
    for name, values in log_probabilities(logits, row).items():
        said = [likeliest[place - first] for place in row.reads[name]]
        found[name] = float(torch.tensor(values).sum()), said == row.asked[name]  # added in float32, as there
    return found
