"""How far a Jacobian holds: closed forms, HF's branches by finite differences in float64, and what rounding hides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from families import FAMILIES, config_of, layout_of
from jax.tree_util import Partial
from oracles import Call, branch_jacobian, float64_throughout, save_random, watch
from scipy.optimize import brentq
from servers import TINY, run_here

from jacspec import JacspecError, compute_spectra, load_model, open_run
from jacspec.axes import ARRAY_AXES, SIGNED_STEPS, STEPS
from jacspec.backend import numerics
from jacspec.jacobians.branches import Branch, Point
from jacspec.jacobians.engine import Plan, prepare_batches, stream_layers
from jacspec.jacobians.linearity import CURVATURE, ERROR, RADIUS, WORDS, measure_linearity
from jacspec.jacobians.solvers import ENGINES
from jacspec.jacobians.undefined import ZERO_JACOBIAN, ZERO_STREAM
from jacspec.models.checkpoint import open_checkpoint
from jacspec.studies.jacobian import LINEARITY
from jacspec.studies.jacobian.figures import draw_errors
from jacspec.text.corpus import make_batches

D = 12
Values = dict[str, np.ndarray]


def measure(
    f: Callable[..., Any], x: np.ndarray, *names: str, given: tuple[float, ...] = (), precision: str = "float64"
) -> tuple[Values, Values]:
    """Measure f(*given, x) at every row of x as a run does."""
    with numerics(precision):
        numbers = [jnp.asarray(each, precision) for each in given]
        branch = Branch(Partial(_at, Partial(f), *numbers), Point(None, jnp.asarray(x, precision)))
        (padded,) = make_batches([[1]] * len(x), size=len(x))
        spectra = ENGINES["jacfwd"].solve(branch, padded.row_samples, 1e-9, 0)
        return measure_linearity(branch, names or ("top",), spectra, padded, tolerance=1e-9, seed=0, number=0)


def _at(f: Callable[..., Any], *given: Any) -> Any:
    *numbers, _, x = given
    return f(*numbers, x)


def orthogonal(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0]


U, V = orthogonal(1), orthogonal(2)
SIGMA = np.concatenate([[3.0], np.linspace(1, 0.1, D - 1)])
ACROSS = np.random.default_rng(3).standard_normal((3, D - 1)) @ V[:, 1:].T
"""Three streams without a share of v₁, so that what bends along it has no part in J."""
LENGTHS = np.linalg.norm(ACROSS, axis=1)


def bent(square: Any, cube: Any, constant: Any, x: Any) -> Any:
    """A map whose Jacobian is U Σ Vᵀ, with a square and a cube of what lies along v₁ written along u₁."""
    (u, v), matrix = (jnp.asarray(each[:, 0], x.dtype) for each in (U, V)), jnp.asarray(U * SIGMA @ V.T, x.dtype)
    share = v @ x
    return matrix @ x + (square * share**2 + cube * share**3 + constant) * u


def worse(errors: np.ndarray) -> np.ndarray:
    return np.maximum(errors, errors[..., ::-1])[..., len(STEPS) :]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(("square", "cube"), [(0.9, 0.0), (0.5, 0.0), (0.7, 0.4), (0.2, -0.9), (300.0, 0.0)])
def test_radius_and_curvature_of_a_known_bend(square: float, cube: float, precision: str) -> None:
    """a δ + b δ² = σ₁ / 10 on the side where signs agree; the last is below the first step."""
    values, _ = measure(bent, ACROSS, given=(square, cube, 0), precision=precision)
    roots = np.roots([abs(cube), square, -SIGMA[0] / 10]) if cube else np.array([SIGMA[0] / 10 / square])
    (least,) = roots[roots > 0]
    np.testing.assert_allclose(values[RADIUS["top"]], least / LENGTHS, rtol=1e-2 if cube else 1e-3)
    np.testing.assert_allclose(values[CURVATURE], 2 * square / SIGMA[0], rtol=1e-4)
    steps = np.array(STEPS) * LENGTHS[:, None]
    expected = (square * steps + abs(cube) * steps**2) / SIGMA[0]
    np.testing.assert_allclose(worse(values[ERROR["top"]]), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_linear_branch_has_no_radius_and_no_curvature(precision: str) -> None:
    values, why = measure(bent, ACROSS, *RADIUS, given=(0, 0, 0), precision=precision)
    for name, column in RADIUS.items():
        assert np.isinf(values[column]).all()
        assert (why[column] == f"linear along {WORDS[name]}: off by less than a tenth up to 30% of ‖x‖").all()
        assert values[ERROR[name]].max() < 1e-2
    assert (values[CURVATURE] == 0).all()


def test_what_has_no_direction_or_no_response_says_so() -> None:
    zero, why = measure(lambda x: 0 * x, ACROSS)
    assert np.isnan([zero[RADIUS["top"]], zero[CURVATURE]]).all()
    assert (why[RADIUS["top"]] == ZERO_JACOBIAN).all()
    assert (why[CURVATURE] == ZERO_JACOBIAN).all()
    still, why = measure(bent, 0 * ACROSS, given=(0.4, 0, 0))
    assert np.isnan(still[RADIUS["top"]]).all()
    assert (why[RADIUS["top"]] == ZERO_STREAM).all()
    _, why = measure(lambda x: x / jnp.linalg.norm(x), ACROSS[:1], "residual")
    assert "one sample in its batch" in why[RADIUS["residual"]][0]


def test_layer_norm_along_its_input() -> None:
    """N(s x) = s x / √(s² var + e) for x of mean zero: e alone lets the length of x through."""
    x = ACROSS - ACROSS.mean(axis=1, keepdims=True)
    variance, eps = x.var(axis=1), 0.5

    def norm(x: Any, eps: float = eps) -> Any:
        return (x - x.mean()) / jnp.sqrt(x.var() + eps)

    values, _ = measure(norm, x, "input")
    for sample, var in enumerate(variance.tolist()):

        def along(s: float, var: float = var) -> float:
            return s / (s * s * var + eps) ** 0.5

        slope = eps / (var + eps) ** 1.5

        def beyond(e: float, along: Any = along, slope: float = slope) -> float:
            return abs(along(1 + e) - along(1) - e * slope) - 0.1 * abs(e) * slope

        roots = [abs(brentq(beyond, sign * 1e-4, sign * 0.9)) for sign in (1, -1)]
        assert values[RADIUS["input"]][sample] == pytest.approx(min(roots), rel=5e-3)
    # A norm's own e is so small that float32 knows nothing of what it lets through.
    values, why = measure(lambda x: norm(x, 1e-6), x, "input", precision="float32")
    assert np.isnan(values[RADIUS["input"]]).all()
    assert (why[RADIUS["input"]] == "rounding hides where the Jacobian ends along x̂").all()


@pytest.mark.parametrize("constant", [0.0, 1e2, 1e4, 1e6, 1e9])
def test_rounding_hides_a_radius_and_never_makes_one(constant: float) -> None:
    """What float32 says beside a large constant is right to a fifth, or missing for the reason."""
    exact, _ = measure(bent, ACROSS, given=(0.5, 0, 0))
    values, why = measure(bent, ACROSS, given=(0.5, 0, constant), precision="float32")
    found, true = values[RADIUS["top"]], exact[RADIUS["top"]]
    known = np.isfinite(found)
    assert known.all() == (constant <= 1e4)
    assert constant < 1e6 or not known.any()
    np.testing.assert_allclose(found[known], true[known], rtol=0.2)
    assert all("rounding hides" in reason for reason in why[RADIUS["top"]][~known])


def test_random_directions_lie_where_they_should() -> None:
    """Along differences of streams alone J answers: orthogonal to these f does nothing but jump."""
    rng = np.random.default_rng(5)
    plane, mean = orthogonal(6)[:, :2], 10 * orthogonal(6)[:, 2]
    x = mean + rng.standard_normal((8, 2)) @ plane.T

    def f(x: Any) -> Any:
        return jnp.asarray(plane @ plane.T) @ x

    values, _ = measure(f, x, "residual", "random")
    assert np.isinf(values[RADIUS["residual"]]).all()
    assert np.isinf(values[RADIUS["random"]]).all()

    def outside(x: Any) -> Any:
        rest = jnp.asarray(np.eye(D) - plane @ plane.T) @ (x - jnp.asarray(mean))
        return f(x) + 3 * rest @ rest * jnp.asarray(plane[:, 0])

    values, _ = measure(outside, x, "residual", "random")
    assert np.isinf(values[RADIUS["residual"]]).all()
    assert np.isfinite(values[RADIUS["random"]]).all()


def hf_branch(calls: list[Call]) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """HF's branch as a function of the last token's stream alone, and that stream."""
    stream = calls[0].x.reshape(-1, calls[0].x.shape[-1])

    def f(x: np.ndarray) -> np.ndarray:
        value = torch.cat([stream[:-1], torch.as_tensor(x)[None]]).reshape(calls[0].x.shape)
        with torch.no_grad(), float64_throughout():
            for call in calls:
                value = call.again(value)
        return value.reshape(-1, value.shape[-1])[-1].numpy()

    return f, stream[-1].numpy()


def differences(calls: list[Call], direction: str) -> tuple[float, float]:
    """Find radius and curvature of HF's branch, by halving and by second differences in float64."""
    f, x = hf_branch(calls)
    jacobian = branch_jacobian(calls)
    length = np.linalg.norm(x)
    v = np.linalg.svd(jacobian)[2][0] if direction == "top" else x / length
    slope, base = jacobian @ v, f(x)

    def error(epsilon: float) -> float:
        off = f(x + epsilon * length * v) - base - epsilon * length * slope
        return float(np.linalg.norm(off) / np.linalg.norm(epsilon * length * slope))

    radii = []
    for sign in (1, -1):
        grid = sign * np.geomspace(1e-3, 1, 30)
        above = int(np.argmax([error(each) >= 0.1 for each in grid]))
        radii.append(abs(brentq(lambda each: error(each) - 0.1, grid[above - 1], grid[above])) if above else np.inf)
    step = 1e-4 * length
    bend = (f(x + step * v) - 2 * base + f(x - step * v)) / step**2
    return min(radii), float(np.linalg.norm(bend) / np.linalg.norm(slope))


@pytest.mark.parametrize(("family", "engine"), [("gpt2", "jacfwd"), ("llama", "lanczos")])
def test_radius_and_curvature_are_those_of_hf(family: str, engine: str, tmp_path: Path) -> None:
    """Of every layer and branch, in company of a longer sample; along another direction they are not."""
    config = config_of(family, next(iter(FAMILIES[family].cases)))
    model = save_random(tmp_path, family, **config)
    own, longer = [7, 3, 9, 4, 1], [2, 8, 5, 6, 3, 1, 4, 7]
    seen = watch(model, layout_of(family, config), np.array(own))
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        batches = prepare_batches(checkpoint, [longer, own], memory_gib=1.0, engine=engine)
        plan = Plan(("attn", "mlp"), ("spectral_radius",), engine, tolerance=1e-8, linearity=("top", "input"))
        results = list(stream_layers(checkpoint, batches, plan))
    for result in results:
        for component, values in result.metrics.items():
            calls = seen.calls["", component, result.layer]
            for name in plan.linearity:
                radius, curvature = differences(calls, name)
                assert values[RADIUS[name]][1] == pytest.approx(radius, rel=0.01), (result.layer, component, name)
                if name == "top":
                    assert values[RADIUS[name]][0] != pytest.approx(radius, rel=0.01)
                    assert values[CURVATURE][1] == pytest.approx(curvature, rel=1e-4)
                else:
                    assert values[CURVATURE][1] != pytest.approx(curvature, rel=1e-2)


def test_names_are_the_study_s() -> None:
    assert set(LINEARITY) == {*RADIUS.values(), *ERROR.values(), CURVATURE}
    assert dict.fromkeys(ERROR.values(), ("epsilon", SIGNED_STEPS)).items() <= ARRAY_AXES.items()
    with pytest.raises(JacspecError, match=r"jacobian\.linearity has 'topp'"):
        compute_spectra(load_model("nano"), ["Speak."], linearity=["topp"])


def test_an_empty_panel_says_why(tmp_path: Path) -> None:
    """Behind a norm f does not change along x̂ but by rounding."""
    said = ("jacobian.linearity=[top,input]", "report.figures=[linearity]")
    done = run_here("task=jacobian", "layers=[0]", *TINY, *said, "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    figure = draw_errors(open_run(tmp_path / "run"))
    words = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert words[:2] == [[], []]
    assert all(own and own[0].startswith("no value in any sample") for own in words[2:4])
