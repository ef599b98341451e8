"""What `gpu.py` measures inside a process.

    python tests/benchmarks/gpu_measures.py SECTION OUTPUT [--small] [--stories FOLDER]

`kernel`, `engines` and `large` write JSON after every measurement; `spectra` writes an array a metric of two models,
the embedded one and that of `--stories`; `model` writes the small model that `gpu.py` runs every study on. Times are
the best of two after a first, which compiles.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax.linalg import SvdAlgorithm, svd

from jacspec import compute_spectra, load_model
from jacspec.api import PAPER_METRICS
from jacspec.backend import numerics, use_compilation_cache
from jacspec.config import ASSETS
from jacspec.jacobians import analytic, dense
from jacspec.jacobians.branches import Branch, bind_samples
from jacspec.jacobians.solvers import ENGINES
from jacspec.models.block import Block
from jacspec.spectra.metrics import compute_metrics
from jacspec.spectra.svd import Way, choose_way, leading_pairs, right_vectors, singular_values
from jacspec.studies.provenance import describe_device, versions

Measured = Iterator[tuple[str, Any]]
FLAT, DECAYING = "flat Gaussian", "decaying i^-1.5"


class Sizes(NamedTuple):
    """What is measured: of the whole script, or in small."""

    width: int
    batch: int
    slow: int  # matrices, of ways that take one after another
    shapes: tuple[tuple[int, int, int], ...]
    product: int
    copied: int  # float32 numbers
    tokens: int
    samples: tuple[int, ...]
    large: tuple[int, ...]
    texts: int


WHOLE = Sizes(
    width=768,
    batch=32,
    slow=8,
    shapes=((288, 64, 64), (288, 16, 16), (16, 3072, 768), (1, 4096, 4096)),
    product=8192,
    copied=2**28,
    tokens=32,
    samples=(32, 128),
    large=(32, 256),
    texts=24,
)
SMALL = Sizes(32, 4, 2, ((4, 8, 8), (2, 24, 8)), 64, 2**10, 8, (4,), (2,), 3)


def timed(work: Callable[[], Any], tries: int = 2) -> tuple[float, float, Any]:
    """Return the seconds of the first call, of the fastest after it, and what it gave."""
    seconds = []
    for _ in range(1 + tries):
        begin = time.perf_counter()
        found = jax.block_until_ready(work())
        seconds.append(time.perf_counter() - begin)
    return seconds[0], min(seconds[1:]), found


def guarded(work: Callable[[], Any]) -> Any:
    """Measure, or say what failed: one way that a device lacks costs no other."""
    try:
        return work()
    except Exception as error:  # of any library
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


# Kernel


def draw(spectrum: str, count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw float32 matrices, and compute their singular values in float64."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((count, width, width))
    if spectrum == DECAYING:
        values = np.arange(1, width + 1) ** -1.5
        drawn = (np.linalg.qr(drawn)[0] * values) @ np.linalg.qr(rng.standard_normal((count, width, width)))[0]
    matrices = drawn.astype(np.float32)
    return matrices, np.linalg.svd(matrices.astype(np.float64), compute_uv=False)


def by_algorithm(algorithm: SvdAlgorithm) -> Callable[[Any], Any]:
    """Make one of JAX's own ways."""
    return jax.jit(functools.partial(svd, compute_uv=False, algorithm=algorithm))


def gram_in_float32(matrices: Any) -> Any:
    """Take a Gram matrix in the precision of the matrices."""
    gram = jnp.matmul(matrices.swapaxes(1, 2), matrices, precision="highest")
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram)[:, ::-1], 0))


WAYS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "the kernel": (singular_values, False),
    "gram": (functools.partial(singular_values, way=Way.gram), False),
    "qr": (functools.partial(singular_values, way=Way.qr), True),
    "jax.numpy.linalg.svd": (jax.jit(functools.partial(jnp.linalg.svd, compute_uv=False)), True),
    "Jacobi": (by_algorithm(SvdAlgorithm.JACOBI), True),
    "polar": (by_algorithm(SvdAlgorithm.POLAR), True),
    "Gram matrix in float32": (jax.jit(gram_in_float32), False),
    "lapack, on the host": (functools.partial(singular_values, way=Way.lapack), False),
}
"""Ways to singular values, and whether they are slow."""


def measure_kernel(sizes: Sizes) -> Measured:
    """Time ways to singular values, and hold each against NumPy in float64; then the device itself."""
    yield "device", {**describe_device(), "the kernel's way": choose_way(np.dtype("float32")).value}
    for spectrum in (FLAT, DECAYING):
        few, values = draw(spectrum, sizes.slow, sizes.width)
        times = sizes.batch // sizes.slow
        many = jnp.asarray(np.concatenate([few] * times))
        table = {}
        for name, (way, slow) in WAYS.items():
            chosen = many[: sizes.slow] if slow else many
            table[name] = guarded(functools.partial(time_way, way, chosen, values))
            yield f"{sizes.width} x {sizes.width}, {spectrum}", dict(table)
    yield "right vectors", guarded(functools.partial(time_vectors, many))
    for count, rows, cols in sizes.shapes:
        matrices = np.random.default_rng(1).standard_normal((count, rows, cols), dtype=np.float32)
        values = np.linalg.svd(matrices[:1].astype(np.float64), compute_uv=False)
        found = guarded(functools.partial(time_way, singular_values, jnp.asarray(matrices), values))
        yield f"the kernel, {count} of {rows} x {cols}", found
    yield "eigenvalues", guarded(functools.partial(time_eigenvalues, many, sizes.slow))
    yield "device's speed", guarded(functools.partial(time_device, sizes))


def time_way(way: Callable[[Any], Any], matrices: Any, expected: np.ndarray) -> dict[str, float]:
    """Time one way; of its values those of the first matrices are compared."""
    first, seconds, found = timed(lambda: way(matrices))
    off = np.abs(np.asarray(found, np.float64)[: len(expected)] - expected) / expected[:, :1]
    return {
        "ms a matrix": 1e3 * seconds / len(matrices),
        "largest error over sigma_1": float(off.max()),
        "matrices": len(matrices),
        "first call, s": first,
    }


def time_vectors(matrices: Any) -> dict[str, float]:
    """Time the kernel's vectors; they must be orthonormal, and be stretched by their values."""
    _, seconds, (sigma, rows) = timed(lambda: right_vectors(matrices))
    both, _, _ = timed(lambda: leading_pairs(matrices, 10))
    v, wide = np.asarray(rows[0], np.float64), np.asarray(matrices[0], np.float64)
    stretched = np.linalg.norm(wide @ v.T, axis=0) - np.asarray(sigma[0], np.float64)
    return {
        "ms a matrix": 1e3 * seconds / len(matrices),
        "ten pairs, first call, s": both,
        "largest product of two": float(np.abs(v @ v.T - np.eye(len(v))).max()),
        "largest | ‖A v‖ − sigma |, over sigma_1": float(np.abs(stretched).max() / sigma[0, 0]),
    }


def time_eigenvalues(matrices: Any, few: int) -> dict[str, Any]:
    """Time the eigenvalues as metrics take them, on the host's cores, beside JAX's on the device."""
    names, shape = ("eigenvalue_radius", "henrici_departure"), tuple(matrices.shape[1:])
    sigma, directions = singular_values(matrices), matrices[:, 0]

    def metrics() -> Any:
        return compute_metrics(names, sigma, shape=shape, matrices=matrices, directions=directions)

    _, seconds, found = timed(metrics, 1)
    result: dict[str, Any] = {"metrics on the host, ms a matrix": 1e3 * seconds / len(matrices)}
    exact = np.abs(np.linalg.eigvals(np.asarray(matrices[0], np.float64))).max()
    result["relative error of the radius"] = float(abs(float(found["eigenvalue_radius"][0]) / exact - 1))

    def on_device() -> float:
        return 1e3 * timed(lambda: jax.jit(jnp.linalg.eigvals)(matrices[:few]), 1)[1] / few

    return result | {"jax.numpy.linalg.eigvals, ms a matrix": guarded(on_device)}


def time_device(sizes: Sizes) -> dict[str, float]:
    """Measure products, memory and the way from the host."""
    n = sizes.product
    multiply = jax.jit(jnp.matmul)
    found = {}
    for dtype, width in (("float32", n), ("float64", n // 2)):
        with numerics(dtype):
            a = jnp.ones((width, width), dtype)
            found[f"{dtype} products at highest, TFLOP/s"] = (
                2e-12 * width**3 / timed(functools.partial(multiply, a, a))[1]
            )
    there = jnp.ones(sizes.copied, jnp.float32)
    found["memory, GB/s"] = 8e-9 * sizes.copied / timed(lambda: jax.jit(jnp.negative)(there))[1]
    here = np.ones(sizes.copied // 4, np.float32)
    found["from the host, GB/s"] = 1e-9 * here.nbytes / timed(lambda: jax.device_put(here))[1]
    return found


# Engines


def measure_engines(sizes: Sizes) -> Measured:
    """Time the engines on one block, then PyTorch's best on the same card, weights and samples."""
    config = {"n_embd": sizes.width, "n_head": 12 if sizes.width % 12 == 0 else 4}
    yield "what", f"one GPT-2 block of width {sizes.width}, random weights, {sizes.tokens} tokens, attn and mlp"
    block = random_block("gpt2", **config)
    spectra: list[np.ndarray] = []
    for count in sizes.samples:
        h = jax.random.normal(jax.random.key(0), (count, sizes.tokens, sizes.width))
        branches = bind_samples(block, h, jnp.full(count, sizes.tokens), None)
        for name, form in (("analytic", analytic.jacobians), ("jacfwd", dense.jacobians)):
            yield f"{name}, {count} samples", guarded(functools.partial(time_jacobians, branches, form))
        yield f"lanczos, {count} samples", guarded(functools.partial(time_lanczos, branches, count))
        if not spectra:
            here = h
            made = (analytic.jacobians(branches[part]) for part in BOTH)
            spectra = [np.asarray(singular_values(matrices)) for matrices in made]
    yield from time_torch(block, np.asarray(here), spectra)


BOTH = ("attn", "mlp")


def random_block(name: str, **config: int) -> Block:
    """Make one block of a ready-made model with random weights, its config changed."""
    from omegaconf import OmegaConf

    from jacspec.config import Init, ModelConfig, config_folder
    from jacspec.models.hub import open_model

    chosen: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "model" / f"{name}.yaml"))
    model = open_model(ModelConfig(name=name, init=Init.random, config={**chosen["config"], **config}))
    return jax.block_until_ready(model.block(0))


def time_jacobians(branches: dict[str, Branch], form: Callable[..., Any]) -> dict[str, float]:
    """Time the Jacobians of both branches, and with their singular values."""

    def jacobians() -> list[Any]:
        return [form(branches[part]) for part in BOTH]

    count = len(branches["mlp"].point.x)
    first, seconds, _ = timed(jacobians)
    _, both, _ = timed(lambda: [singular_values(matrices) for matrices in jacobians()])
    return {
        "J, ms a sample": 1e3 * seconds / count,
        "J with spectra, ms a sample": 1e3 * both / count,
        "first call, s": first,
    }


def time_lanczos(branches: dict[str, Branch], count: int) -> dict[str, Any]:
    """Time the top two values of both branches."""
    samples = np.arange(count)

    def solve() -> list[Any]:
        return [ENGINES["lanczos"].solve(branches[part], samples, 1e-5, 0) for part in BOTH]

    first, seconds, found = timed(solve, 1)
    return {
        "top two, ms a sample": 1e3 * seconds / count,
        "steps": [int(np.max(each.diagnostics["steps"])) for each in found],
        "converged": all(bool(np.all(each.diagnostics["converged"])) for each in found),
        "first call, s": first,
    }


def time_torch(block: Block, h: np.ndarray, spectra: list[np.ndarray]) -> Measured:
    """Time `vmap(jacfwd)` at the last token, with PyTorch's two ways to singular values; against our spectra."""
    import torch
    from torch_block import last_token_jacobians

    device = "cuda" if torch.cuda.is_available() else "cpu"
    theirs, there = torch_weights(block, device), torch.tensor(h, device=device)
    yield "PyTorch", {"version": torch.__version__, "device": device, "TF32": torch.backends.cuda.matmul.allow_tf32}
    drivers = (None, "gesvda") if device == "cuda" else (None,)

    def synchronised(work: Callable[[], Any]) -> tuple[float, Any]:
        def done() -> Any:
            found = work()
            if device == "cuda":
                torch.cuda.synchronize()
            return found

        with torch.no_grad():
            _, seconds, found = timed(done)
        return 1e3 * seconds / len(h), found

    ms, jacobians = synchronised(lambda: last_token_jacobians(theirs, there))
    yield f"PyTorch, vmap(jacfwd), {len(h)} samples", {"J, ms a sample": ms}
    for driver in drivers:

        def values(driver: str | None = driver) -> list[Any]:
            return [torch.linalg.svdvals(matrices, driver=driver) for matrices in jacobians]

        try:
            more, found = synchronised(values)
        except torch.linalg.LinAlgError as error:
            yield f"PyTorch with svdvals, driver={driver}", {"failed": str(error)}
            continue
        off = [
            float((np.abs(mine - other.cpu().numpy()) / mine[:, :1]).max())
            for mine, other in zip(spectra, found, strict=True)
        ]
        yield (
            f"PyTorch with svdvals, driver={driver}",
            {"J with spectra, ms a sample": ms + more, "largest deviation from ours, over sigma_1": max(off)},
        )


def torch_weights(block: Block, device: str) -> SimpleNamespace:
    """Give PyTorch the weights of a GPT-2 block under HF's names."""
    import torch

    def tensor(*arrays: Any) -> Any:
        return torch.tensor(np.concatenate([np.asarray(array).T for array in arrays], axis=-1), device=device)

    def linear(*parts: Any) -> SimpleNamespace:
        return SimpleNamespace(
            weight=tensor(*(part.weight[...] for part in parts)), bias=tensor(*(part.bias[...] for part in parts))
        )

    def norm(part: Any) -> SimpleNamespace:
        return SimpleNamespace(weight=tensor(part.weight[...]), bias=tensor(part.bias[...]), eps=part.eps)

    attn, mlp = block.attn, block.mlp
    return SimpleNamespace(
        ln_1=norm(block.attn_norms.norm),
        ln_2=norm(block.mlp_norms.norm),
        attn=SimpleNamespace(num_heads=attn.spec.heads, c_attn=linear(attn.q, attn.k, attn.v), c_proj=linear(attn.o)),
        mlp=SimpleNamespace(c_fc=linear(mlp.up), c_proj=linear(mlp.down)),
    )


def measure_large(sizes: Sizes) -> Measured:
    """Time the top two values of one block of Llama-3.1-8B's shapes: random weights, flat spectra, the slow case."""
    small = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    block = random_block("llama-3.1-8b", **(small if sizes == SMALL else {}), vocab_size=256)
    spec = block.spec
    yield "shapes", {"d_model": spec.d_model, "d_ff": spec.mlp.d_ff, "tokens": sizes.tokens}
    for count in sizes.large:
        h = jax.random.normal(jax.random.key(0), (count, sizes.tokens, spec.d_model))
        lengths = jnp.full(count, sizes.tokens)
        _, seconds, branches = timed(functools.partial(bind_samples, block, h, lengths, None))
        yield f"points, {count} samples", {"ms a sample": 1e3 * seconds / count}
        found = guarded(functools.partial(time_lanczos, branches, count))
        yield f"top two, {count} samples", found
        if "top two, ms a sample" in found:
            seconds = found["top two, ms a sample"] / 1e3 * 600 * 32
            yield f"projection from {count} samples, not a measurement", {"seconds of 600 x 32 spectra": seconds}


# Spectra to compare


def save_spectra(sizes: Sizes, output: Path, stories: Path | None) -> None:
    """Save every metric of a model by the engines that `auto` chooses for full metrics and for the paper's."""
    lines = [line for line in (ASSETS / "verse.txt").read_text(encoding="utf-8").splitlines() if len(line) > 30]
    found: dict[str, Any] = {"platform": np.array(jax.default_backend())}
    names: list[str | Path] = ["nano"] if stories is None else ["nano", stories]
    for name in names:
        model = load_model(name)
        for engine, metrics in (("analytic", ("full",)), ("lanczos", PAPER_METRICS)):
            texts = lines[: sizes.texts]
            spectra = compute_spectra(model, texts, metrics=metrics, engine=engine, max_tokens=16)
            found |= {f"{Path(name).name} {engine} {key}": array.values for key, array in spectra.data_vars.items()}
    np.savez(output, **found)


def make_small_model(folder: Path) -> None:
    """Write the model of the tests of interruptions."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import small_runs

    small_runs.make_small_model(folder)


SECTIONS: dict[str, Callable[[Sizes], Measured]] = {
    "kernel": measure_kernel,
    "engines": measure_engines,
    "large": measure_large,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure one section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=[*SECTIONS, "spectra", "model"])
    parser.add_argument("output", type=Path)
    parser.add_argument("--stories", type=Path)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)
    use_compilation_cache()
    sizes = SMALL if options.small else WHOLE
    with numerics("float32"):
        if options.section == "model":
            make_small_model(options.output)
            return
        if options.section == "spectra":
            save_spectra(sizes, options.output, options.stories)
            return
        found: dict[str, Any] = {"versions": versions()}
        for name, value in SECTIONS[options.section](sizes):
            found[name] = value
            part = options.output.with_suffix(".part")
            part.write_text(json.dumps(found), encoding="utf-8")
            part.replace(options.output)


if __name__ == "__main__":
    main()
