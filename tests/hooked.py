"""HF's models with something added to the last token's stream at one place, by forward hooks."""

from typing import Any

import numpy as np
import torch
from oracles import float64_throughout

from jacspec.studies.modes.carried import ENTER, LEAVE

PARTS = {
    "gpt2": ("transformer.h.{}", "attn", "ln_2"),
    "llama": ("model.layers.{}", "self_attn", "post_attention_layernorm"),
    "gpt_neox": ("gpt_neox.layers.{}", "attention", ""),
    "bert": ("bert.encoder.layer.{}", "attention", "intermediate"),
    "distilbert": ("distilbert.transformer.layer.{}", "sa_layer_norm", "ffn"),
}
"""Blocks, their attention, and what the stream after attention enters; GPT-NeoX's branches are parallel."""


class Hooked:
    """HF's model with something added to the last token's stream at one place, by forward hooks."""

    def __init__(self, family: str, model: Any) -> None:
        self.family, self.model = family, model

    def logits(self, tokens: list[int], layer: int, place: str, change: Any) -> torch.Tensor:
        """Return the logits behind the last token; `change` is added to its stream, a tensor."""
        name, attention, _ = PARTS[self.family]
        block = self.model.get_submodule(name.format(layer))

        def moved(given: Any) -> Any:
            stream = given[0] if isinstance(given, tuple) else given
            changed = torch.cat([stream[:, :-1], stream[:, -1:] + change], dim=1)
            return (changed, *given[1:]) if isinstance(given, tuple) else changed

        if place == ENTER:
            hook = block.register_forward_pre_hook(lambda module, args: moved(args))
        else:
            module = block if place == LEAVE else block.get_submodule(attention)
            hook = module.register_forward_hook(lambda module, args, output: moved(output))
        try:
            with float64_throughout():
                return self.model(torch.tensor([tokens])).logits[0, -1]
        finally:
            hook.remove()

    def stream(self, tokens: list[int], layer: int, place: str) -> np.ndarray:
        """Return the last token's unchanged stream at a place."""
        name, _, behind = PARTS[self.family]
        block, seen = self.model.get_submodule(name.format(layer)), list[torch.Tensor]()
        if place == LEAVE:
            hook = block.register_forward_hook(
                lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
            )
        else:
            module = block if place == ENTER else block.get_submodule(behind)
            hook = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        with float64_throughout(), torch.no_grad():
            self.model(torch.tensor([tokens]))
        hook.remove()
        return seen[0][0, -1].detach().numpy()
