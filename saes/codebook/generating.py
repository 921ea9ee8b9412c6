"""Sampling from a language model with a generator of one's own, a token at a time."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ParameterError
from interp.hooks import evaluating

if TYPE_CHECKING:
    from interp.models import Model

__all__ = ["sample"]


def sample(
    model: "Model",
    ids: Int[Tensor, "n t"],
    tokens: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "n t_plus_tokens"]:
    """Token ids with their continuations [n, t + tokens]; hooks that are set act on every token.

    Parameters
    ----------
    ids : [n, t] prompts of one length, without pads.
    tokens : how many to add to each, at least 1.
    temperature : 0 takes the likeliest token.
    generator : on the CPU; None for a seed of 0.

    Raises
    ------
    ParameterError
        A number is outside what it allows, or the model cannot take so many tokens.
    """
    if tokens < 1 or temperature < 0:
        raise ParameterError(
            f"sample: tokens must be at least 1, temperature at least 0; got {tokens} and "
            f"{temperature:g}."
        )
    if model.max_length is not None and ids.shape[1] + tokens > model.max_length + 1:
        raise ParameterError(
            f"sample: {model.spec} takes {model.max_length} tokens; got a prompt of "
            f"{ids.shape[1]} and {tokens} to add."
        )
    generator = generator or torch.Generator().manual_seed(0)
    cached = model.takes("past_key_values")
    past: Any = None
    with evaluating(model.module), torch.no_grad():
        for _ in range(tokens):
            read = ids if past is None else ids[:, -1:]
            options = {"past_key_values": past, "use_cache": True} if cached else {}
            out = model({"input_ids": read}, **options)
            past = out.past_key_values if cached else None
            logits = out.logits[:, -1].float().cpu()
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)
            else:
                chances = (logits / temperature).softmax(-1)
                new = torch.multinomial(chances, 1, generator=generator)
            ids = torch.cat([ids, new.to(ids.device)], 1)
    return ids
