"""The best PyTorch for one GPT-2 block: both branches as functions of the last token alone, `vmap(jacfwd)`."""

from typing import Any

import torch
from torch.nn.functional import gelu, layer_norm, softmax


def last_token_jacobians(block: Any, h: torch.Tensor) -> list[torch.Tensor]:
    """Differentiate attention and MLP at the last token, the other tokens' keys and values outside, batched.

    **Arguments:** `block`, HF's `GPT2Block` or what has its weights; `h` (sample, token, d_model).
    """
    attn, mlp, d_model = block.attn, block.mlp, h.shape[-1]
    d_head = d_model // attn.num_heads

    def normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (d_model,), norm.weight, norm.bias, norm.eps)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (attn.num_heads, d_head))

    def projected(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        whole = x @ attn.c_attn.weight + attn.c_attn.bias
        return tuple(heads(part) for part in whole.split(d_model, dim=-1))

    def attended(x: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        q, k, v = projected(normed(block.ln_1, x))
        scores = torch.cat([torch.einsum("hd,thd->ht", q, key), (q * k).sum(-1)[:, None]], 1) / d_head**0.5
        weights = softmax(scores, -1)
        mixed = torch.einsum("ht,thd->hd", weights[:, :-1], value) + weights[:, -1:] * v
        return mixed.flatten() @ attn.c_proj.weight + attn.c_proj.bias

    def fed(x: torch.Tensor) -> torch.Tensor:
        hidden = gelu(normed(block.ln_2, x) @ mlp.c_fc.weight + mlp.c_fc.bias, approximate="tanh")
        return hidden @ mlp.c_proj.weight + mlp.c_proj.bias

    _, key, value = projected(normed(block.ln_1, h[:, :-1]))
    x = h[:, -1]
    after = x + torch.func.vmap(attended)(x, key, value)
    attention = torch.func.vmap(torch.func.jacfwd(attended))(x, key, value)
    return [attention, torch.func.vmap(torch.func.jacfwd(fed))(after)]
