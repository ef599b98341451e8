"""Spectra of every layer's Jacobians, one component at a time, and how far they hold."""

import dataclasses
from collections.abc import Mapping

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
class JacobianOptions:
    """What is measured beside the metrics; see conf/task/jacobian.yaml."""

    linearity: list[str] = MISSING
    eigenvalues: bool = MISSING
    pseudospectra: int = MISSING
    collapse: bool = MISSING


DEPTH_FILE, BRANCHES_FILE = "depth.csv", "branches.csv"

RING = "single-ring theorem: Feinberg & Zee 1997; Guionnet, Krishnapur & Zeitouni 2011"
DONG = "Dong, Cordonnier & Loukas 2021, Attention is not all you need"
NAIT_SAADA = "Nait Saada, Naderi & Tanner 2024, Mind the Gap"
TREFETHEN = "Trefethen & Embree 2005, Spectra and Pseudospectra"

DEFINITION = (
    "the least ε, of both signs, at which ‖f(x + ε‖x‖v) − f(x) − ε‖x‖Jv‖ is a tenth of ‖ε‖x‖Jv‖, as a share of ‖x‖, "
)
ALONG = {
    "": ("v_1", "v = v₁, the direction of greatest gain"),
    "_input": (r"\hat{x}", "v = x̂, the direction of the stream itself"),
    "_random": (r"\mathrm{random}", "v random, every direction alike"),
    "_residual": (
        r"\Delta x",
        "v random in the span of the differences of the streams of the samples of a batch, with their covariance",
    ),
}

LINEARITY: Mapping[str, Quantity] = (
    {
        f"linearity_radius{ending}": Quantity(
            rf"$\epsilon({symbol})$", DEFINITION + words, "this project", "of the residual stream's length"
        )
        for ending, (symbol, words) in ALONG.items()
    }
    | {
        f"linearity_error{ending}": Quantity(
            rf"$e({symbol})$",
            "‖f(x + ε‖x‖v) − f(x) − ε‖x‖Jv‖ / ‖ε‖x‖Jv‖ at every step ε of `spectra.nc`, " + words,
            "this project",
        )
        for ending, (symbol, words) in ALONG.items()
    }
    | {
        "curvature": Quantity(
            r"$\|D^2f[v_1, v_1]\| / \sigma_1$",
            "‖D²f[v₁, v₁]‖/σ₁, per unit of x: times ε‖x‖/2 it is the relative error of Jv₁ for small ε",
            "this project",
            "1 / unit of the residual stream",
        )
    }
)
"""How far a Jacobian holds: columns of `metrics.csv`, and arrays of `spectra.nc` (`linearity_error`)."""

READ_LINEARITY = (
    "A Jacobian says what an infinitely small change does. The linearity radius is how long a change along v₁, the "
    "direction of greatest gain, may be in units of the stream's own length before the branch is a tenth off from what "
    "J says; beyond it ρ does not tell what the branch does. Where it is not off by a tenth up to 30 % of ‖x‖ there is "
    "no radius (–), which metrics.csv says.",
)


STUDY = Study(
    name="jacobian",
    run="jacspec.studies.jacobian.run:run_jacobian",
    options=JacobianOptions,
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "metrics", "engine", "components", "layers", "precision", "seed", "jacobian"}),
    takes=("components", "layers", "metrics", "top_k", *TEXT_OPTIONS, *ENGINE_OPTIONS),
    rows=SAMPLES,
    columns={
        **LINEARITY,
        "router_margin": Quantity(
            r"$\Delta r / \|\nabla \Delta r\|$",
            "how far the stream that enters a mixture of experts is from where its router chooses others, to first "
            "order: the lead of the last expert chosen over the first that is not, over the length of its gradient; "
            "of models with experts alone, and missing where a component has no router",
            "the Jacobian is that of the experts that were chosen",
            "of the residual stream",
        ),
        "ring_inner": Quantity(
            r"inner radius of the null ring",
            "(mean σ⁻²)^(−1/2) over all singular values, 0 where one is: no eigenvalue of a large U Σ Vᵀ with random "
            "rotations U and V is smaller; with jacobian.eigenvalues",
            RING,
            scale=True,
        ),
        "ring_outer": Quantity(
            r"outer radius of the null ring",
            "(mean σ²)^(1/2) over all singular values: no eigenvalue of a large U Σ Vᵀ with random rotations U and V "
            "is larger; with jacobian.eigenvalues",
            RING,
            scale=True,
        ),
        "ring_share": Quantity(
            r"share in the null ring",
            "share of the eigenvalues whose size is between the radii of the null ring; with jacobian.eigenvalues",
            RING,
        ),
        "rotated_ring_share": Quantity(
            r"share in the null ring, rotated",
            "the same share of one draw a sample of U Σ Vᵀ with its own singular values and random rotations U and V: "
            "what chance has at this size; with jacobian.eigenvalues",
            RING,
        ),
        "rotated_radius": Quantity(
            r"rotated $\max |\lambda_i|$",
            "max|λ_i| of that draw; with jacobian.eigenvalues",
            RING,
            scale=True,
        ),
        "kreiss_constant": Quantity(
            "Kreiss constant",
            "sup over |z| > r of (|z| − r) ‖(zI − J)⁻¹‖, r = max|λ_i|: the Kreiss constant of J/r. Some power Jᵏ is at "
            "least this times rᵏ; 1 of a normal matrix. Of `block`, of the samples that jacobian.pseudospectra draws; "
            "a lower bound, by search",
            "Kreiss 1962, BIT 2, 153; " + TREFETHEN,
        ),
        "pseudospectral_radius": Quantity(
            "pseudospectral radius",
            "the largest |λ| of any matrix within ε = σ₁/100 of J, in its spectral norm; as above",
            TREFETHEN,
            scale=True,
        ),
        "pseudospectral_abscissa": Quantity(
            "pseudospectral abscissa",
            "the largest Re λ of any matrix within ε = σ₁/100 of J, in its spectral norm; as above",
            TREFETHEN,
        ),
        "token_stable_rank": Quantity(
            "stable rank of the tokens",
            "‖X‖_F²/σ₁(X)² of X, the streams of all tokens of a sample (a row each) that enter the component; with "
            "jacobian.collapse",
            NAIT_SAADA,
        ),
        "rank_one_distance": Quantity(
            "distance of the tokens from rank one",
            "‖X − 1x̄ᵀ‖_F/‖X‖_F, x̄ the mean of the rows of X: how far it is from the nearest matrix whose rows are all "
            "alike, 0 where the tokens have collapsed to one; with jacobian.collapse",
            DONG,
        ),
        "rank_one_distance_composite": Quantity(
            "distance from rank one, composite norm",
            "the same in that paper's norm, the root of the largest column sum times the largest row sum of absolute "
            "values; with jacobian.collapse",
            DONG,
        ),
        "attention_stable_rank": Quantity(
            "stable rank of attention",
            "‖A‖_F²/σ₁(A)² of the attention matrix A over the tokens of a sample, the mean over heads: 1 where all "
            "tokens attend alike, the number of tokens where each attends to itself; of attn, with jacobian.collapse",
            NAIT_SAADA,
        ),
    },
    files={
        DEPTH_FILE: "the gain over depth: ends beside inner layers, phases and their levels of chance",
        BRANCHES_FILE: "gain and concentration of the MLP over those of attention, by layer, paired by sample",
    },
    figures="jacspec.studies.jacobian.figures:jacobian_figures",
    page=Page(
        title="spectra of Jacobians",
        reading=(*READ_SAMPLES, *READ_LINEARITY),
        findings="jacspec.studies.jacobian.claims:depth_sections",
        sentences="jacspec.studies.jacobian.findings:jacobian_findings",
        caution=SAMPLE_CAUTION,
    ),
    shareable=True,
)
