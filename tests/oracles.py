"""Hugging Face's PyTorch GPT-2 as an oracle: random checkpoints, its branches, its Jacobians."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel


def save_random_gpt2(folder: Path, *, seed: int = 0, **config: Any) -> GPT2LMHeadModel:
    """Write a random GPT-2 in float64, every weight and bias far from its initial zero or one."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 37, "n_positions": 24, "n_embd": 24, "n_head": 4, "n_layer": 2}
    model = GPT2LMHeadModel(GPT2Config(**{**sizes, **config}, attn_implementation="eager")).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def activations(model: GPT2LMHeadModel, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Record the embedding, every branch, every block and the logits of one sample."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            found[name] = value.detach().numpy().reshape(len(tokens), -1)

        return hook

    handles = [model.transformer.drop.register_forward_hook(keep("embedding"))]
    for layer, block in enumerate(model.transformer.h):
        for name, module in (("attn", block.attn), ("mlp", block.mlp), ("block", block)):
            handles.append(module.register_forward_hook(keep(f"{name}{layer}")))
    with torch.no_grad():
        found["logits"] = model(torch.as_tensor(tokens)[None]).logits[0].numpy()
    for handle in handles:
        handle.remove()
    return found


def branch_jacobian(model: GPT2LMHeadModel, layer: int, component: str, h: np.ndarray) -> np.ndarray:
    """Differentiate HF's branch over the whole sequence with torch.func, and take the last token's block."""
    block = model.transformer.h[layer]

    def attn(stream: torch.Tensor) -> torch.Tensor:
        return block.attn(block.ln_1(stream[None]))[0][0, -1]

    def mlp(stream: torch.Tensor) -> torch.Tensor:
        return block.mlp(block.ln_2(stream[None]))[0, -1]

    whole = torch.func.jacrev({"attn": attn, "mlp": mlp}[component])(torch.as_tensor(h))
    return whole[:, -1].detach().numpy()


def deviation(found: Any, expected: Any) -> float:
    """Return the largest deviation relative to the largest expected value."""
    expected = np.asarray(expected, np.float64)
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max())
