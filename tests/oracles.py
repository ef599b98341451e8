"""Hugging Face's PyTorch models as an oracle: random checkpoints, their branches, their Jacobians."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
import transformers.modeling_utils  # noqa: F401 (the same)
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.models.bloom.modeling_bloom import BloomGelu, bloom_gelu_forward

torch.set_num_threads(1)  # threads that wait for each other on a shared machine take far longer than these sizes need


class Layout(NamedTuple):
    """Where a family's HF modules are: its stacks, and by component the modules a branch goes through in turn.

    `scale` is what HF's block multiplies the last of them by, outside of any module; `summed`, the component whose
    only module adds the stream and norms the sum too; `residual`, whether the last module of every branch is given the
    stream beside and adds it (BLOOM). A stack may run through its modules several times (ALBERT).
    """

    stacks: Mapping[str, str]
    chains: Mapping[str, tuple[str, ...]]
    scale: float = 1.0
    summed: str = ""
    residual: bool = False


class Call(NamedTuple):
    """One call of a module that was seen: its first input, and what else it was given."""

    module: Callable[..., Any]
    x: torch.Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def again(self, x: torch.Tensor) -> torch.Tensor:
        kwargs = {key: x if value is self.x else value for key, value in self.kwargs.items()}
        return _first(self.module(*((x, *self.args[1:]) if self.args else ()), **kwargs))


class Seen(NamedTuple):
    """A forward pass of one sample: arrays by name, and by (stack, component, layer) the calls of a branch."""

    arrays: dict[str, np.ndarray]
    calls: dict[tuple[str, str, int], list[Call]]


@contextlib.contextmanager
def float64_throughout() -> Iterator[None]:
    """Make HF's code compute in float64 where it asks for float32 by name (norms, softmax, rotary tables)."""
    names = {"float32": torch.float64, "float": torch.float64}
    kept = {name: getattr(torch, name) for name in names}
    kept_method = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    for name, value in names.items():
        setattr(torch, name, value)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(torch, name, value)
        torch.Tensor.float = kept_method
        torch.set_default_dtype(torch.float32)


def auto_class(model_type: str) -> Any:
    """Find HF's class of a family with its language-model head."""
    if model_type in ("t5", "mt5", "umt5"):
        return AutoModelForSeq2SeqLM
    return AutoModelForMaskedLM if "bert" in model_type or model_type == "electra" else AutoModelForCausalLM


def raw_config(model_type: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return what stands in `config.json`; beside the text tower of a Gemma 3, the smallest vision tower."""
    if model_type != "gemma3":
        return {"model_type": model_type, **config}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return {
        "model_type": model_type,
        "text_config": {"model_type": "gemma3_text", **config},
        "vision_config": {"model_type": "siglip_vision_model", "image_size": 4, "patch_size": 2, **vision},
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
        "mm_tokens_per_image": 4,
        "image_token_index": config["vocab_size"] - 1,
    }


def save_random(folder: Path, model_type: str, *, seed: int = 0, spread: float = 0.3, **config: Any) -> torch.nn.Module:
    """Write a random HF model in float64, every weight and bias far from its initial zero or one."""
    torch.manual_seed(seed)
    with float64_throughout():
        hf_config = CONFIG_MAPPING[model_type](**raw_config(model_type, config))
        # HF's Falcon with ALiBi adds its biases twice where it is eager, once where it is not, as it was trained.
        attention = "sdpa" if config.get("alibi") else "eager"
        hf_config._attn_implementation = attention
        hf_config.dtype = torch.float64  # not that of the file: Gemma's scale of embeddings would be rounded to it
        hf_config._experts_implementation = "eager"
        model = auto_class(model_type).from_config(hf_config, attn_implementation=attention).double().eval()
        for module in model.modules():
            if isinstance(module, BloomGelu):
                module.forward = bloom_gelu_forward  # torch.func does not go through a derivative written by hand
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
            for name, parameter in model.named_parameters():
                if name.endswith(("SelfAttention.q.weight", "EncDecAttention.q.weight")):
                    parameter.mul_(hf_config.d_kv**-0.5)  # T5 does not divide scores, and HF draws q smaller
    model.save_pretrained(folder)
    return model


def load_trained(folder: Path, factory: Any) -> torch.nn.Module:
    """Build HF's model of a folder in float64 and fill it with the folder's weights, all of them."""
    stored = {name: value.double() for name, value in safetensors.torch.load_file(folder / "model.safetensors").items()}
    with float64_throughout():
        config = AutoConfig.from_pretrained(folder)
        model = factory.from_config(config, attn_implementation="eager").double().eval()
        missing, unexpected = model.load_state_dict(stored, strict=False)
    assert all(name in ("embeddings.position_ids",) for name in unexpected), unexpected
    assert all(name in ("lm_head.weight",) for name in missing), missing
    model.tie_weights()
    return model


def watch(model: torch.nn.Module, layout: Layout, tokens: np.ndarray, start: int | None = None) -> Seen:
    """Run one sample and record what enters and leaves every branch and block, and the logits.

    With `start`, the token a decoder starts with, the model is an encoder-decoder and its decoder is fed the
    sample shifted by one.
    """
    arrays: dict[str, np.ndarray] = {}
    calls: dict[tuple[str, str, int], list[Call]] = {}
    handles: list[Any] = []

    def flat(value: torch.Tensor) -> np.ndarray:
        # A copy: HF's Falcon adds one branch to the other in place.
        return value.detach().numpy().reshape(-1, value.shape[-1]).copy()

    depth: dict[str, int] = dict.fromkeys(layout.stacks, 0)

    def on_block(stack: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            layer = depth[stack]
            depth[stack] += 1
            if layer == 0:
                arrays[f"{stack}embedding"] = flat(_input(args, kwargs))
            arrays[f"{stack}block{layer}"] = flat(_first(output))
            calls[stack, "block", layer] = [Call(module, _input(args, kwargs), args, kwargs)]

        return hook

    def on_branch(stack: str, component: str, position: int, size: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            layer = depth[stack]
            if component == layout.summed:
                module = functools.partial(_without_sum, module)
                output = module(*args, **kwargs)
            if layout.residual and position == size - 1:
                module = functools.partial(_without_residual, module)
                output = module(*args, **kwargs)
            calls.setdefault((stack, component, layer), []).append(Call(module, _input(args, kwargs), args, kwargs))
            if position == 0:
                arrays[f"{stack}{component}{layer} in"] = flat(_input(args, kwargs))
            if position == size - 1:
                arrays[f"{stack}{component}{layer}"] = layout.scale * flat(_first(output))
                if layout.scale != 1:
                    scaled = Call(lambda x: layout.scale * x, _first(output), (_first(output),), {})
                    calls[stack, component, layer].append(scaled)

        return hook

    for stack, path in layout.stacks.items():
        for block in model.get_submodule(path):
            handles.append(block.register_forward_hook(on_block(stack), with_kwargs=True))
            for component, chain in layout.chains.items():
                own = component.removeprefix(f"{stack}.") if stack else component
                if stack and not component.startswith(f"{stack}."):
                    continue
                for position, name in enumerate(chain):
                    hook = on_branch(stack, own, position, len(chain))
                    handles.append(block.get_submodule(name).register_forward_hook(hook, with_kwargs=True))
    ids = torch.as_tensor(tokens)[None]
    inputs = {} if start is None else {"decoder_input_ids": torch.cat([torch.tensor([[start]]), ids[:, :-1]], dim=1)}
    with torch.no_grad(), float64_throughout():
        output = model(input_ids=ids, use_cache=False, **inputs)
        if "logits" in output:
            arrays["logits"] = flat(output.logits)
    for handle in handles:
        handle.remove()
    return Seen(arrays, calls)


def _without_sum(module: torch.nn.Module, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Run a module that ends with `LayerNorm(x + branch)` without the norm, and take `x` away."""
    norm, module.LayerNorm = module.LayerNorm, torch.nn.Identity()
    try:
        return _first(module.forward(x, *args, **kwargs)) - x
    finally:
        module.LayerNorm = norm


def _without_residual(module: torch.nn.Module, x: torch.Tensor, residual: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Run a module that adds the stream, its second argument, and take it away."""
    return _first(module.forward(x, residual, **kwargs)) - residual


def branch_jacobian(calls: list[Call]) -> np.ndarray:
    """Differentiate HF's branch over the whole sequence with torch.func, and take the last token's block."""
    shape = calls[0].x.shape

    def branch(stream: torch.Tensor) -> torch.Tensor:
        value = stream.reshape(shape)
        for call in calls:
            value = call.again(value)
        return value.reshape(-1, value.shape[-1])[-1]

    with float64_throughout(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        whole = torch.func.jacrev(branch)(calls[0].x.reshape(-1, shape[-1]))
    return whole[:, -1].detach().numpy()


def deviation(found: Any, expected: Any) -> float:
    """Return the largest deviation relative to the largest expected value, or the largest where all should be 0."""
    expected = np.asarray(expected, np.float64)
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / (np.abs(expected).max() or 1.0))


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
