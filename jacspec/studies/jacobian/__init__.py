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
    """Along which directions it is measured how far a Jacobian holds; see conf/task/jacobian.yaml."""

    linearity: list[str] = MISSING


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
    columns=LINEARITY
    | {
        "router_margin": Quantity(
            r"$\Delta r / \|\nabla \Delta r\|$",
            "how far the stream that enters a mixture of experts is from where its router chooses others, to first "
            "order: the lead of the last expert chosen over the first that is not, over the length of its gradient; "
            "of models with experts alone, and missing where a component has no router",
            "the Jacobian is that of the experts that were chosen",
            "of the residual stream",
        )
    },
    figures="jacspec.studies.jacobian.figures:jacobian_figures",
    page=Page(
        title="spectra of Jacobians",
        reading=(*READ_SAMPLES, *READ_LINEARITY),
        sentences="jacspec.studies.jacobian.findings:jacobian_findings",
        caution=SAMPLE_CAUTION,
    ),
    shareable=True,
)
