"""The Jacobian of the last token through many layers: its top spectrum and Lyapunov exponents with depth."""

import dataclasses
import re
from collections.abc import Iterator, Mapping

from jacspec.studies.study import (
    ENGINE_OPTIONS,
    MISSING,
    READ_SAMPLES,
    SAMPLE_CAUTION,
    SAMPLES,
    TEXT_OPTIONS,
    Page,
    Quantity,
    Study,
)


@dataclasses.dataclass
class DepthOptions:
    """From the input of layer `first` to the output of layer `last`; see conf/task/depth.yaml."""

    first: int = MISSING
    last: int | None = MISSING
    exponents: int = MISSING
    dense: int = MISSING


EXPONENT = re.compile(r"(lyapunov|finite_time)(?:_(attn|cross|mlp))?_(\d+)")

PARTS = {"attn": "attention", "cross": "cross-attention", "mlp": "the MLP"}
"""The sublayers of a block in their order, and words for them."""

FORMED: Mapping[str, Quantity] = {
    "cumulative_effective_rank": Quantity(
        "effective rank of the product",
        "exp(−Σ p ln p), p = σ/Σσ, of all singular values of the product of the layers so far: how many directions are "
        "left of a small change; of the samples that depth.dense draws. Values below rounding of σ₁ are rounding, and "
        "hardly count",
        "Roy & Vetterli 2007",
    ),
    "normal_finite_time_1": Quantity(
        r"$\ln\,\sigma_1 / t$ of the normal parts",
        "(1/t) ln σ₁ of the product of the t blocks' normal parts: each Jacobian's eigenvalues in the orthonormal "
        "basis of its own Schur form, what makes it not normal left out; of the samples that depth.dense draws",
        "Henrici 1962; the order of the eigenvalues is LAPACK's",
        "nats a layer",
    ),
    "nonnormal_growth": Quantity(
        "growth by non-normality",
        "finite_time_1 less normal_finite_time_1: what of the growth is gone where the blocks are made normal",
        "this project",
        "nats a layer",
    ),
}
"""Columns of what needs the product itself."""


class _Exponents(Mapping[str, Quantity]):
    """Every exponent `lyapunov_N` and `finite_time_N`, N counted from 1, their parts, and what is formed."""

    def __getitem__(self, name: str) -> Quantity:
        if name in FORMED:
            return FORMED[name]
        found = EXPONENT.fullmatch(name)
        if found is None:
            raise KeyError(name)
        kind, part, number = found.groups()
        if part is not None:
            return Quantity(
                rf"part of {PARTS[part]} in $\mu_{{{number}}}$",
                f"what {PARTS[part]} adds to lyapunov_{number}, the mean over the t layers so far: QR follows every "
                "sublayer, identity and a norm after the sum included, so that the parts add up to the exponent. What "
                "one block's adds is t times it less t − 1 times that of the layer before, drawn as `lyapunov_parts`. "
                "None in models whose attention and MLP act at once",
                "Benettin et al. 1980, Meccanica 15, 9; the split: this project",
                "nats a layer",
            )
        if kind == "finite_time":
            return Quantity(
                rf"finite-time exponent $\ln\,\sigma_{{{number}}}/t$",
                f"(1/t) ln σ_{number} of the product of the t layers so far: the growth a layer, in nats, of the small "
                "change that grows most; sorted, and independent of any columns drawn",
                "Legras & Vautard 1996, ECMWF Seminar on Predictability 1, 135",
                "nats a layer",
            )
        return Quantity(
            rf"Lyapunov exponent $\mu_{{{number}}}$",
            f"(1/t) Σ ln |R_{number},{number}| over the t layers so far, R from the QR decomposition of orthonormal "
            "columns, random at first, after each block: the growth of a small random change a layer, in nats. At "
            "finite depth it depends on the columns drawn, and the first is at most ln σ_1/t.",
            "Benettin et al. 1980, Meccanica 15, 9",
            "nats a layer",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(FORMED)

    def __len__(self) -> int:
        return len(FORMED)


DEPTH = _Exponents()
"""Columns of `task=depth` beside `METRICS`: exponents, as many as were asked for, and what is formed."""


STUDY = Study(
    name="depth",
    run="jacspec.studies.depth.run:run_depth",
    options=DepthOptions,
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "metrics", "engine", "precision", "seed", "depth"}),
    takes=("metrics", *TEXT_OPTIONS, *ENGINE_OPTIONS),
    rows=SAMPLES,
    columns=DEPTH,
    console=("spectral_radius", "decay_ratio", "finite_time_1", "lyapunov_1"),
    figures="jacspec.studies.depth.figures:depth_figures",
    page=Page(
        title="Jacobians through many layers",
        reading=(
            *READ_SAMPLES,
            "A path goes from the input of the first layer to the output of the layer named: the product of the "
            "Jacobians of all blocks in between, identity and norms included, each taken where the last token's "
            "own stream passes. Changes that other tokens would pick up in between and hand back are left out; "
            "in a causal model there are none.",
            "Two growths a layer stand beside each other. The finite-time exponent ln σ_i/t is that of the i-th "
            "largest singular value of the product, the most that a small change can grow. A Lyapunov exponent by QR "
            "follows columns that are random at first: at finite depth the first is below ln σ_1/t, and comes to it "
            "with depth.",
            "Each Lyapunov exponent is the sum of what attention and the MLP of every block add to it. A later part "
            "acts on what the earlier ones turned the columns to: the split says where along the way they grew, not "
            "what would be left without one part.",
        ),
        sentences="jacspec.studies.depth.findings:depth_findings",
        caution=SAMPLE_CAUTION,
    ),
    shareable=True,
)
