"""What pages of `docs/` say from the code's own tables: keys and columns of each study, written between markers.

`python -m pytest --write-docs tests/test_docs.py` writes all of it; the tests fail where a page is behind its table.
"""

import enum
import functools
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jacspec.api.options import Option, options_of
from jacspec.axes import ARRAY_AXES
from jacspec.config import config_folder
from jacspec.report.labels import component_words, words_of_metrics
from jacspec.studies import STUDIES
from jacspec.studies.study import Quantity

DESCRIBED = tuple(name for name, study in STUDIES.items() if study.takes or study.options)

DOCS = Path(__file__).parents[1] / "docs"


def columns_of(study: str) -> Mapping[str, Quantity]:
    """Return what the columns of a study's own tables hold, by name; those that all share are on jacobian's page."""
    columns = STUDIES[study].columns
    if study == "depth":
        # Exponents through depth are as many as were asked for; the first of each kind says it of all.
        firsts = ("finite_time_1", "lyapunov_1", "lyapunov_attn_1", "lyapunov_mlp_1")
        return {name: columns[name] for name in (*firsts, *columns)}
    own = {name: column for name, column in columns.items() if name not in ARRAY_AXES}
    return {**words_of_metrics(), **own} if study == "jacobian" else own


def keys_table(study: str) -> str:
    """Write the keys of a study's own, as the command line takes them, and which shared ones count."""
    own = [option for option in options_of(study) if option.key.startswith(f"{study}.")]
    shared = [f"`{option.key}`" for option in options_of(study) if option not in own]
    rows = [(f"`{option.key}`", f"`{_as_yaml(option.default)}`", option.words) for option in own]
    parts = [_table(("key", "default", "meaning"), rows)] if rows else []
    if shared:
        parts.append(f"Of the [shared keys](keys.md) it takes {', '.join(shared)}.")
    return "\n\n".join(parts)


def columns_table(study: str) -> str:
    """Write what each column of a study holds, with its source."""
    rows, above = [], ""
    for name, column in columns_of(study).items():
        rows.append((f"`{name}`", column.definition, "as above" if column.source == above else column.source))
        above = column.source
    return _table(("column", "meaning", "source"), rows)


def shared_table() -> str:
    """Write the keys that several studies share, with the option that sets each from Python."""
    found: dict[str, Option] = {}
    takers: dict[str, list[str]] = {}
    for study in DESCRIBED:
        for option in options_of(study):
            if not option.key.startswith(f"{study}."):
                found.setdefault(option.key, option)
                takers.setdefault(option.key, []).append(study)
    rows = [
        (f"`{key}`", f"`{option.name}`", *_default_and_words(option), ", ".join(takers[key]))
        for key, option in found.items()
    ]
    return _table(("key", "in Python", "default", "meaning", "studies"), rows)


def chance_tables() -> dict[str, str]:
    """Write the tables of what chance was measured to be, from the record of its benchmark."""
    file = Path(__file__).parent / "benchmarks" / "chance.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    rivals = [name for name in next(iter(next(iter(record["estimators"].values())).values())) if name != "fit_bulk"]
    estimators = [
        (shape, noise, *(_mean_and_sd(case[name]) for name in rivals), *_own_estimate(case["fit_bulk"]))
        for shape, cases in record["estimators"].items()
        for noise, case in cases.items()
    ]
    own = ("`fit_bulk`", "identified", "mean error", "within 1, 2 errors")
    parts = {"estimators": _table(("shape", "noise", *rivals, *own), estimators)}
    for word in ("p-values", "norms", "heads"):
        rates = [
            (case, name, *(f"{rate:g}" for rate in values.values()))
            for case, found in record[word].items()
            for name, values in found.items()
            if isinstance(values, dict)
        ]
        counts = [
            (case, name, f"{value:g}")
            for case, found in record[word].items()
            for name, value in found.items()
            if not isinstance(value, dict)
        ]
        parts[word] = _table(("matrix", "p-value", "at 1 %", "at 5 %", "at 50 %"), rates)
        parts[f"counts of {word}"] = _table(("matrix", "share or number of values", "found"), counts)
    for word, first in (("alpha", "tail"), ("heads, small p", "heads"), ("compare", "runs"), ("models", "models")):
        columns = list(next(iter(record[word].values())))
        rows = [(case, *(f"{found[column]:g}" for column in columns)) for case, found in record[word].items()]
        parts[word] = _table((first, *columns), rows)
    return parts | _tail_tables()


def _tail_tables() -> dict[str, str]:
    """Write those of vectors, spacings and tails: rates at three levels as cells of their own."""
    record = json.loads((Path(__file__).parent / "benchmarks" / "tails.json").read_text(encoding="utf-8"))
    parts = {}
    for word, (first, second) in {
        "vectors": ("vectors", "p-value"),
        "tails": ("values", "p-value"),
    }.items():
        rates = [
            (case, name, *(f"{rate:g}" for rate in values.values()))
            for case, found in record[word].items()
            for name, values in found.items()
            if isinstance(values, dict)
        ]
        parts[word] = _table((first, second, "at 1 %", "at 5 %", "at 50 %"), rates)
        names = list(dict.fromkeys(name for found in record[word].values() for name in found if name.endswith(ENDS)))
        shares = [(case, *(_number(found.get(name)) for name in names)) for case, found in record[word].items()]
        parts[f"shares of {word}"] = _table((first, *names), shares)
    for word, first in (("spacings", "spectrum"), ("mixture", "matrix")):
        heads = list(next(iter(record[word].values())))
        rows = [(case, *(_number(found[head]) for head in heads)) for case, found in record[word].items()]
        parts[word] = _table((first, *heads), rows)
    found = record["exponents"]
    levels = [
        (case, f"`{name}`", *(f"{share:g}" for share in values.values()))
        for case, columns in found.items()
        for name, values in columns.items()
        if isinstance(values, dict)
    ]
    parts["exponents"] = _table(("matrix", "column", "below what 5 % should be", "below the median"), levels)
    traps = ((case, f"{columns['any trap']:g}") for case, columns in found.items())
    parts["traps"] = _table(("matrix", "any trap"), traps)
    return parts


MATRICES = {
    "matrices": "matrices",
    "one variance": "beyond one variance",
    "own norms": "beyond own norms",
    "draw": "above shuffled entries",
    "values above own norms": "values beyond own norms",
    "values above draw": "values above shuffled entries",
    "smallest, own norms": "smallest beyond own norms",
    "heavier": "α below 95 % of chance",
}
HEADS = {
    "heads": "heads",
    **{
        f"{null}, {end}": f"{end}, {words}"
        for end in ("largest", "smallest")
        for null, words in {"plain": "one variance", "norms": "own norms", "turned": "turned"}.items()
    },
}
"""What is recorded of each role of a real language model, and of each third of its depth, and how tables call it."""


def beyond_tables() -> dict[str, str]:
    """Write how many matrices and heads of a real language model are beyond each null, from the record of pages."""
    matrices, heads = (recorded_pages()[f"smollm2_{study}"]["numbers"] for study in ("weights", "heads"))
    roles = [name.removesuffix(", matrices") for name in matrices if name.endswith(", matrices")]
    thirds = [name.removesuffix(", first layer") for name in heads if name.endswith(", first layer")]
    return {
        "matrices beyond": _table(
            ("role", *MATRICES.values()),
            ((f"`{role}`", *(_number(_known(matrices, role, name)) for name in MATRICES)) for role in roles),
        ),
        "heads beyond": _table(
            ("product", "layers", *HEADS.values()),
            (
                (
                    f"`{third.split(',')[0]}`",
                    f"{heads[f'{third}, first layer']:g} to {heads[f'{third}, last layer']:g}",
                    *(f"{heads[f'{third}, {name}']:g}" for name in HEADS),
                )
                for third in thirds
            ),
        ),
    }


def _known(numbers: Mapping[str, float], role: str, name: str) -> float | None:
    """Take a number of a role; the smallest σ of a square matrix has none, beside its own norms."""
    known = not name.startswith("smallest") or numbers[f"{role}, smallest known"]
    return numbers[f"{role}, {name}"] if known else None


ENDS = ("participation", "localised", "likelier", "holds α")
"""Of names of what is a share or a mean, and no rate at three levels."""


def recorded_claims(part: str) -> Mapping[str, Any]:
    """Read what was measured of the claims of one source, by model."""
    record = json.loads((Path(__file__).parent / "benchmarks" / "sources.json").read_text(encoding="utf-8"))
    found: Mapping[str, Any] = record[part]
    return found


def heads_claims_table() -> str:
    """Write what the claims of the study of W_QK are on models at hand."""
    models = recorded_claims("w_qk")
    names = {"npr_lambda": "NPR", "spectral_entropy": "entropy", "kappa_lambda": "κ_λ", "kappa_sigma": "κ_σ"}
    powers = {"lambda_0": "λ₀", "lambda_sum": "Σλ", "lambda_square_sum": "Σλ²"}
    pairs = {
        "npr_lambda, spectral_entropy": "NPR and entropy",
        "element_std, spectral_entropy": "the elements' σ and entropy",
        "element_std, npr_lambda": "the elements' σ and NPR",
        "element_std, kappa_lambda": "the elements' σ and κ_λ",
        "element_kurtosis, npr_lambda": "the elements' kurtosis and NPR",
        "kurtosis_beyond, npr_lambda": "the elements' kurtosis over 6/PR and NPR",
        "element_kurtosis, lambda_0": "the elements' kurtosis and λ₀",
    }

    def column(own: Mapping[str, Any]) -> dict[str, str]:
        found = {
            f"median of {words} (by chance)": "{:.3g} ({:.3g})".format(own["median"][name], own["chance"][name])
            for name, words in names.items()
        }
        for key in ("heads with npr within 3 sd of chance", "heads whose gap is closed"):
            words = key.replace("npr", "NPR").replace(" sd ", " standard deviations ")
            found[words] = f"{own[key]} of {own['heads']}"
        found["σ above what one Gaussian head in 100 has, in the median head"] = (
            f"{own['median of sigma above gaussian factors']:.0f}"
        )
        found["median of the elements' σ"] = f"{own['median of element_std']:.3g}"
        for name, words in powers.items():
            slope, share = own["power of element_std"][name]
            found[f"power of the elements' σ that {words} goes with (R²)"] = f"{slope:.2f} ({share:.3f})"
        for key, words in pairs.items():
            found[f"rank correlation of {words}"] = "{:.2f} ({:.2f} to {:.2f})".format(*own["rank correlation"][key])
        kurtosis = own["kurtosis"]
        found["median of the excess kurtosis of W_Q, W_K, W_QK"] = "{left:.2f}, {right:.2f}, {product:.2f}".format(
            **kurtosis["median"]
        )
        found["the same of W_QK, of independent elements"] = f"{kurtosis['median']['independent']:.2f}"
        found["the same of W_QK, of Gaussian singular vectors, 6/PR"] = f"{kurtosis['median']['Gaussian vectors']:.2f}"
        for name in ("both factors", "independent elements", "Gaussian vectors"):
            found[f"heads whose W_QK has a larger one than {name}"] = (
                f"{kurtosis[f'heads above {name}']} of {own['heads']}"
            )
        by_layer, layers = own["lambda_0 of layers"], own["layers"]
        found["mean λ₀ of the first layer over the median layer"] = f"{by_layer['first over median']:.3g}"
        found["largest λ of the first layer"] = f"{by_layer['largest of the first layer']:.3g}"
        found["layers whose mean λ₀ is above the one before"] = f"{by_layer['rises']} of {layers['number'] - 1}"
        for part in ("first", "second"):
            found[f"rank correlation of λ₀ with the layer, {part} half"] = _with_p(
                by_layer[f"rank correlation with the layer, {part} half"]
            )
        for name, words in (("entropy", "entropy"), ("npr", "NPR"), ("kappa", "κ_λ")):
            found[f"rank correlation of {words} with the layer"] = _with_p(layers[f"rank correlation of {name}"])
        ends = (layers[f"layer of the {end} entropy"] for end in ("lowest", "highest"))
        found["layer of the lowest, of the highest entropy"] = ", ".join(map(str, ends))
        first, as_many = layers["heads of the first among as many with the lowest npr"], layers["heads of one"]
        found["of as many heads with the lowest NPR as a layer has, in the first (by chance)"] = (
            f"{first} of {as_many} ({as_many / layers['number']:.1g})"
        )
        return found

    columns = [column(own) for own in models.values()]
    return _table(("", *models), [(words, *(each[words] for each in columns)) for words in columns[0]])


def _with_p(found: Sequence[float]) -> str:
    """Write a correlation and its p-value."""
    value, p_value = found
    return f"{value:.2f}, p = {p_value:.2g}"


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def merging_tables() -> dict[str, str]:
    """Write what the claims of the document on merging are on models at hand, and what trained through its steps."""
    record = json.loads((Path(__file__).parent / "benchmarks" / "merging.json").read_text(encoding="utf-8"))
    models = record["weights"]

    def column(own: Mapping[str, Any]) -> dict[str, str]:
        found = {}
        for name, words in (("alpha", "α"), ("effective_rank", "effective rank")):
            check = own["thirds"][name]
            found[f"{words}, early, middle, late"] = ", ".join(f"{mean:.3g}" for mean in check["means"])
            interval = " ({1:.3g} to {2:.3g})" if check["fall"][1] is not None else ""
            fall = ("{0:.3g}" + interval).format(*check["fall"])
            found[f"{words}, early less late"] = f"{fall}, p = {check['fall_p']:.2g}"
        check = own["thirds"]["alpha"]
        within = f"{check['within']} of {check['matrices']}, by chance {check['within_chance']:.1f}"
        found["α in the range given for its third"] = f"{within} (p = {check['within_p']:.2g})"
        found["α heavier than by chance"] = f"{own['heavier than by chance']} of {own['matrices']}"
        for words, ends in (
            ("below 2", ("below 2",)),
            ("2 to 6", ("2 to 4", "4 to 6")),
            ("above 4", ("4 to 6", "above 6")),
        ):
            counts = [count for name, count in own["verdicts"].items() if name.split(",")[0] in ends]
            found[f"matrices with α {words}"] = str(sum(counts))
        tail = own["tail"]
        found["weight of the tail, median where there is a bulk"] = _digits(tail["median weight"])
        exponent = f"{_digits(tail['median exponent'])} ({tail['exponents']})"
        found["exponent of the tail, median (matrices that have one)"] = exponent
        mean = own["mean"]
        found["mean α (Gaussian matrices)"] = f"{mean['alpha']:.3g} ({mean['alpha_null']:.3g})"
        found["mean α log₁₀ λ₁ (Gaussian matrices)"] = (
            f"{mean['alpha_weighted']:.3g} ({mean['alpha_weighted_null']:.3g})"
        )
        return found

    columns = [column(own) for own in models.values()]
    tables = {"claims": _table(("", *models), [(words, *(each[words] for each in columns)) for words in columns[0]])}
    tables["training"] = _table(
        ("step", "α, median (Gaussian)", "weight of the tail, median", "values above the bulk", "above its norms"),
        [
            (
                step.removeprefix("step"),
                f"{own['median alpha']:.3g} ({own['median alpha by chance']:.3g})",
                _digits(own["median tail weight"]),
                _digits(own["values above the bulk"]),
                f"{own['values above their norms']:.3g}",
            )
            for step, own in record["training"].items()
        ],
    )
    own = record["merge"]["steps"]
    low, high = own["share of the second"]
    tables["rules"] = (
        f"Of the {own['matrices']} matrices of steps 256 and 1024 of the embedded model, fused ones by their parts, "
        f"{own['mismatch']} are a mismatch;\n{own['ill-conditioned']} are ill-conditioned by all values, "
        f"{own['as by chance']} of these no "
        f"more than Gaussian matrices of their shape, and\n{own['ill-conditioned by ten values']} by the ten that "
        f"ModelCypher takes by default. With α = s = 0.5 the share of step 1024 is {low:.2f} to {high:.2f}."
    )
    tables["dimensions"] = _table(
        ("what enters", "dimension", "Gaussian points", "distinct tokens"),
        [
            (f"{place}, {model}", f"{value:.3g} ({low:.3g} to {high:.3g})", f"{gaussian:.3g}", f"{points:.0f}")
            for model, own in record["inputs"].items()
            for place, (value, low, high, gaussian, points) in own.items()
        ],
    )
    return tables


def eigenvalues_table() -> str:
    """Write where the eigenvalues of square weight matrices lie, of models at hand."""
    record = json.loads((Path(__file__).parent / "benchmarks" / "merging.json").read_text(encoding="utf-8"))
    rows = [
        (
            f"{role} of {model}",
            f"{own['radius over norm']:.3g} ({own['rotated radius over norm']:.3g})",
            f"{own['ring_share']:.1%} ({own['rotated_ring_share']:.1%})",
            f"{own['positive_share']:.1%}",
            f"{own['rotating_share']:.1%} ({own['rotated_rotating_share']:.1%})",
            f"{own['henrici_departure']:.3g} ({own['rotated_departure']:.3g})",
        )
        for model, found in record["weights"].items()
        for role, own in found["eigenvalues"].items()
    ]
    return _table(("", r"largest \|λ\| over σ₁", "in the ring", "Re λ > 0", "rotate", "departure"), rows)


def removal_claims_table() -> str:
    """Write what models at hand lose without the largest, a middle and the smallest decile."""

    def cell(found: Sequence[float]) -> str:
        return "{:.3g} ({:.3g} to {:.3g})".format(*found)

    shown = ("largest over whole", "middle over whole", "smallest over whole", "smallest over middle")
    rows = [
        (f"{role} of {model}", *(cell(found[role][name]) for name in shown))
        for model, found in recorded_claims("small").items()
        for role in (name for name, own in found.items() if isinstance(own, dict))
    ]
    return _table(("", *shown), rows)


def spectra_claims_table() -> str:
    """Write how far queries, values and attention output of models at hand lie beyond Marchenko and Pastur's law."""
    rows = [
        (
            f"{role} of {model}",
            "{:.3g} ({:.3g} to {:.3g})".format(*found[role]["largest over the edge"]),
            "{:.3g} ({:.3g} to {:.3g})".format(*found[role]["values beyond own norms"]),
            "{:+.2f} (p = {:.1g})".format(*found[role]["trend of these with the layer"]),
        )
        for model, found in recorded_claims("spectra").items()
        for role in ("q", "v", "o")
    ]
    return _table(
        ("medians over layers", "σ₁ over the edge", "values beyond own norms", "their trend with the layer, τ"), rows
    )


def spectra_pairs() -> str:
    """Write in how many layers one role lies further beyond Marchenko and Pastur's law than another."""
    rows = [
        (
            f"{pair}, {model}",
            *(
                f"{found[pair][name]} of {found['layers']}"
                for name in ("larger over the edge", "more beyond own norms")
            ),
        )
        for model, found in recorded_claims("spectra").items()
        for pair in ("q than o", "v than o")
    ]
    return _table(("layers with more of it in", "σ₁ over the edge", "values beyond own norms"), rows)


def control_table() -> str:
    """Write what the small network loses without its smallest singular values, the mean over seeds, by when."""
    found = recorded_claims("control")["figure 8"]
    heads = [(order, scale) for order in ("after", "both") for scale in ("1", "15")]
    rows = [("nothing", *("{:.2f} ± {:.2f}".format(*found["none"][scale]["0"]) for _, scale in heads))]
    rows += [
        (
            f"{10 * (11 - group)} %",
            *("{:.2f} ± {:.2f}".format(*found[order][scale][str(group)]) for order, scale in heads),
        )
        for group in range(10, 1, -1)
    ]
    words = {"after": "removed", "both": "from f₀ too"}
    return _table(("removed, the smallest first", *(f"{words[order]}, α = {scale}" for order, scale in heads)), rows)


def overlaps_claims_table() -> str:
    """Write in how many matrices of models at hand O_k is higher beyond Marchenko and Pastur's edges than within."""

    def cells(own: Mapping[str, Any]) -> Iterator[str]:
        for side in ("above", "below"):
            beyond = own[side]
            yield f"{beyond['mean']:.3f}" if beyond["mean"] is not None else "–"
            yield f"{beyond['higher']} of {beyond['matrices']}" if beyond["matrices"] else "–"
        yield f"{own['within']['mean']:.3f}"
        yield ", ".join(
            f"{own[side]['over one half']} of {own[side]['values']}" for side in ("above", "below", "within")
        )

    rows = [
        (f"{role} of {model}", *cells(own))
        for model, found in recorded_claims("overlaps").items()
        for role, own in found.items()
        if isinstance(own, dict)
    ]
    heads = ("mean O_k", "above", "higher in", "below", "higher in", "within", "O_k > 0.5: above, below, within")
    return _table(heads, rows)


def steps_claims_table() -> str:
    """Write O_k of both ends of the spectrum through the training of the embedded model."""
    steps = recorded_claims("steps")
    rows = [
        (
            f"{role}, {words}",
            *(f"{own[role][name]:.2f} ({own[role]['overlap_null']:.2f})" for own in steps.values()),
        )
        for role in steps["step0"]
        for words, name in (("largest tenth", "overlap_top"), ("smallest", "overlap_bottom"))
    ]
    return _table(("O_k (by chance)", *(step.removeprefix("step") for step in steps)), rows)


def recorded_fisher() -> Any:
    """Read what `benchmarks/fisher.py` wrote."""
    return json.loads((Path(__file__).parent / "benchmarks" / "fisher.json").read_text(encoding="utf-8"))


def sensitivity_table() -> str:
    """Write how sensitive the loss of models at hand is to tenths of the singular values, medians over layers."""
    shown = {
        "largest tenth": "sensitivity_top",
        "middle": "sensitivity_middle",
        "smallest": "sensitivity_bottom",
        "smallest over middle": "sensitivity_ratio",
    }
    rows = [
        (f"{role} of {model}", *("{:.3g} ({:.3g} to {:.3g})".format(*own[name]) for name in shown.values()))
        for model, found in recorded_fisher()["spectra"].items()
        for role, own in found["data"]["roles"].items()
    ]
    return _table(("S", *shown), rows)


def predicted_removal() -> str:
    """Say how well the second order predicts what removing a tenth of one matrix costs."""
    found = recorded_fisher()["removal"]
    model, data = found["model"], found["data"]
    said = (
        "{median over measured:.2g} times what is measured in the median, {within a factor of 3} within a factor of 3"
    )
    return "\n".join(
        (
            f"Of {found['removals']} tenths removed from single matrices of SmolLM2 (`up`, `down` and `q` of four "
            f"blocks) {found['above 0.02 nats']} raise the loss by\nmore than 0.02 nats. For these "
            "`removal_*` is, with drawn labels,",
            f"{said.format(**model)};",
            f"with labels of the text {said.format(**data)}.",
            f"Over all of them the rank correlation is {model['rank correlation']:.2f} and "
            f"{data['rank correlation']:.2f}.",
        )
    )


def predicted_table() -> str:
    """Write what removals from all layers cost beside what the Fisher matrix predicts, in nats a token."""
    predicted, measured = recorded_fisher()["spectra"], recorded_claims("small")
    rows = []
    for model, found in measured.items():
        for role in ("q", "o", "up", "down"):
            own = predicted[model]["model"]["roles"][role]["total"]
            cells = [
                f"{value:.2g}"
                for end, words in (("middle", "middle"), ("bottom", "smallest"))
                for value in (math.log(found[role][f"{words} over whole"][0]), own[f"removal_{end}"])
            ]
            rows.append((f"{role} of {model}", *cells))
    return _table(("", "middle, measured", "predicted", "smallest, measured", "predicted"), rows)


def linear_model_table() -> str:
    """Write what a linear model of learned noise gives for the matrices of each role, beside what removals cost."""

    def cell(found: Sequence[float], style: str) -> str:
        low = "" if found[1] is None else f" ({found[1]:{style}} to {found[2]:{style}})"
        return f"{found[0]:{style}}{low}"

    rows = []
    for model, found in recorded_claims("model").items():
        for role in ("q", "o", "up", "down"):
            own, removed = found[role], recorded_claims("small")[model][role]
            lost = removal_costs(removed)
            rows.append(
                (
                    f"{role} of {model}",
                    cell(own["energy_exponent"], "+.2f"),
                    f"{own['distance_model'][0]:.3f} ({own['distance_plain'][0]:.3f})",
                    cell(own["small_output"], ".2g"),
                    f"{own['small_output_model'][0]:.2g}",
                    f"{own['small_output_given'][0]:.2g}",
                    f"{own['small_output_chance'][0]:.2g}",
                    "the middle costs nothing" if lost is None else f"{lost:.2g}",
                )
            )
    heads = (
        *("", "β", "distance of the law (Marchenko–Pastur)", "output, smallest over middle", "model"),
        *("given the strong", "chance", "nats lost, smallest over middle"),
    )
    return _table(heads, rows)


def removal_costs(removed: Mapping[str, Sequence[float]]) -> float | None:
    """Return the nats lost without the smallest tenth over those without the fifth; None where the fifth costs none."""
    middle, smallest = removed["middle over whole"], removed["smallest over whole"]
    return math.log(smallest[0]) / math.log(middle[0]) if middle[1] > 1 else None


def claims_table() -> str:
    """Write what the claims of the paper on Jacobians are on models at hand."""
    models = recorded_claims("jacobian")

    def ratio(found: Sequence[float]) -> str:
        return f"{found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f})"

    rows: list[tuple[str, ...]] = []
    for component, words in (("attn", "attention"), ("mlp", "MLP")):
        for part in ("first", "last"):
            own = (ratio(found[component][f"{part} third over middle"]) for found in models.values())
            rows.append((f"ρ of {words}, {part} third of the layers over the middle third", *own))
        inner = (found[component]["medians of inner layers, least and most"] for found in models.values())
        for part in ("first", "last"):
            medians = (f"{found[component][f'median of the {part} layer']:.2f}" for found in models.values())
            rows.append((f"median of ρ of {words}, {part} layer", *medians))
        rows.append((f"medians of ρ of {words}, inner layers", *(f"{low:.2f} to {high:.2f}" for low, high in inner)))
    rows.append(
        ("δ of the MLP over that of attention", *(ratio(each["decay of mlp over attn"]) for each in models.values()))
    )
    for component, words in (("attn", "attention"), ("mlp", "the MLP")):
        own = (f"{each[f'layers where {component} decays faster']} of {each['layers']}" for each in models.values())
        rows.append((f"layers in which {words} is more concentrated, beyond the interval", *own))
    return _table(("", *models), rows)


def phases_table() -> str:
    """Write what the profile over depth is, and how near to rank one tokens and attention are, on models at hand."""
    models = recorded_claims("phases")

    def interval(row: Mapping[str, Any], end: str) -> str:
        return f"{row[end]:.2f} ({row[f'{end}_low']:.2f} to {row[f'{end}_high']:.2f})"

    def starts(row: Mapping[str, Any]) -> str:
        edges = zip(*(row[name].split() for name in ("starts", "starts_low", "starts_high")), strict=True)
        return " and ".join(start if low == high else f"{start} ({low} to {high})" for start, low, high in edges)

    rows: list[tuple[str, ...]] = []
    for component, words in (("attn", "attention"), ("mlp", "MLP")):
        own = [found[component] for found in models.values()]
        for end in ("first", "last"):
            rows.append((f"ρ of {words}, {end} layer over those between", *(interval(row, end) for row in own)))
        rows.append((f"{words}: pairs of layers as high together", *(f"{row['pairs_as_high']:.1%}" for row in own)))
        rows.append((f"{words}: three phases begin at layers", *(starts(row) for row in own)))
        rows.append((f"{words}: variance over layers that they explain", *(f"{row['explained']:.0%}" for row in own)))
        levels = (f"{row['p_order']:.3f}, {row['p_red_noise']:.3f}" for row in own)
        rows.append((f"{words}: p, any order of the layers, and red noise", *levels))
    for name, words in (("attention", "attention"), ("the MLP", "the MLP")):
        counts = (
            f"{each[f'layers where {name} is more concentrated']} of {each['layers']}" for each in models.values()
        )
        rows.append((f"layers in which {words} is more concentrated (q below 0.05)", *counts))
    for name, words in RANKS.items():
        by_layer = [found["medians by layer"][name] for found in models.values()]
        medians = (f"{own[0]:.2f}, {own[len(own) // 2]:.2f}, {own[-1]:.2f}" for own in by_layer)
        rows.append((f"{words}: first, middle, last layer", *medians))
    return _table(("", *models), rows)


def conditioning_table() -> str:
    """Write how Jacobians are conditioned, with and without what their norms do not see, on models at hand."""
    models = recorded_claims("ranks")
    rows: list[tuple[str, ...]] = []

    def add(words: str, component: str, name: str, form: str, behind: str = "") -> None:
        own = (
            dict.fromkeys(_written(value, form).replace("e+", "e") for value in each[component][name])
            for each in models.values()
        )
        rows.append(
            (
                words,
                *(" to ".join(ends) + behind.format(**each) for ends, each in zip(own, models.values(), strict=True)),
            )
        )

    for component, words in (("attn", "attention"), ("mlp", "MLP")):
        add(f"r of {words}", component, "rank", ".0f", " of {d_model}")
        add(f"κ of {words}", component, "condition number", ".1e")
        add(f"κ of {words} without its last value", component, "condition number without the last value", ".1e")
        add(f"{words}: cosine of v_r with the stream", component, "cosine of the last direction with the stream", ".2f")
        for name in ("amplified", "deleted"):
            add(f"share of directions {name} by {words}", component, f"share {name}", ".1%")
    return _table(("", *models), rows)


def walk_table() -> str:
    """Write what ten components of weight matrices hold, and how many hold nine tenths, on models at hand."""
    models = {name: found for name, found in recorded_claims("walk").items() if "matrices" in found}
    held = [found["ten components hold, medians by role"].values() for found in models.values()]
    spread = [found["share of components for 90 %, least and most"] for found in models.values()]
    few = (f"{found['matrices with 90 % in a tenth']} of {found['matrices']}" for found in models.values())
    return _table(
        ("", *models),
        [
            ("variance in ten components, medians by role", *(f"{min(own):.1%} to {max(own):.1%}" for own in held)),
            (
                "share of the components that hold 90 %, by matrix",
                *(f"{low:.0%} to {high:.0%}" for low, high in spread),
            ),
            ("matrices with 90 % in a tenth of them", *few),
        ],
    )


def appendix_table() -> str:
    """Write what the networks of an appendix lose without their smallest singular values, the mean over seeds."""
    recorded = recorded_claims("appendix")

    def cell(found: Mapping[str, Any], scale: str, group: int) -> str:
        return "{:.2f} ± {:.2f}".format(*found[scale][str(group)])

    curve = recorded["figure 8"]
    rows = [("nothing", *(cell(curve, scale, 0) for scale in ("1", "15")))]
    rows += [
        (f"{10 * (11 - group)} % of the values", *(cell(curve, scale, group) for scale in ("1", "15")))
        for group in range(10, 1, -1)
    ]
    frozen = [(name, recorded[name]) for name in ("trained", "frozen")]
    words = {0: "nothing", 3: "80 % of the mass of the first two layers"}
    return "\n\n".join(
        (
            _table(("removed, the smallest first", "α = 1", "α = 15"), rows),
            _table(
                ("removed", *(f"first two layers {name}" for name, _ in frozen)),
                [(said, *(cell(found, "1", group) for _, found in frozen)) for group, said in words.items()],
            ),
        )
    )


RANKS = {
    "token_stable_rank": "stable rank of the tokens",
    "rank_one_distance": "distance of the tokens from rank one",
    "attention_stable_rank": "stable rank of attention",
}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _mean_and_sd(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.3g} ± {found['sd']:.1g}" if "mean" in found else "–"


def _own_estimate(found: Mapping[str, float]) -> tuple[str, ...]:
    share = f"{found['identified']:.0%}"
    if "mean" not in found:
        return "–", share, "–", "–"
    within = f"{found['within 1 error']:.2f}, {found['within 2 errors']:.2f}"
    return _mean_and_sd(found), share, f"{found['mean error']:.2g}", within


def cost_line(study: str) -> str:
    """Say what the command of a page took, from the record of its benchmark."""
    found = recorded_pages()[study]
    return f"`{found['command']}` took {found['processor seconds']} s of one core's time, figures apart."


class Exhibit(NamedTuple):
    """A figure of the README: its name in `pages.json`, what it shows, what follows, and whether that is so."""

    name: str
    shows: str
    says: str
    holds: Callable[[Mapping[str, float]], bool]


GALLERY = (
    Exhibit(
        "smollm2_jacobian",
        "ρ of attention and MLP in 30 layers",
        "`jacspec`: the gain ρ of the MLPs is a U: {mlp, first:.0f} in the first layer, {mlp, least between:.1f} to "
        "{mlp, largest between:.1f} between, {mlp, last:.1f} in the last.",
        lambda found: min(found["mlp, first"], found["mlp, last"]) > found["mlp, largest between"],
    ),
    Exhibit(
        "smollm2_compare",
        "ρ over depth, trained and random",
        "`task=compare`: the rise at the end is learnt. With random weights ρ of the MLPs falls, from "
        "{mlp, random, first:.1f} to {mlp, random, last:.1f}.",
        lambda found: (
            found["mlp, random, first"] == found["mlp, random, largest"]
            and found["mlp, random, last"] == found["mlp, random, least"]
        ),
    ),
    Exhibit(
        "smollm2_heads",
        "spectral quantities of W_QK of 270 heads",
        "`task=heads`: every W_QK is concentrated. NPR is {qk, least:.2f} to {qk, largest:.2f} where Gaussian factors "
        "have {chance:.2f}.",
        lambda found: found["qk, largest"] < found["chance"],
    ),
    Exhibit(
        "smollm2_weights",
        "singular values of 210 matrices by role",
        "`task=weights`: {with values above the norms' edge:.0f} of {matrices:.0f} matrices have values above what "
        "their row and column norms explain.",
        lambda found: found["with values above the norms' edge"] > found["matrices"] / 2,
    ),
    Exhibit(
        "smollm2_depth",
        "growth of a small change with depth",
        "`task=depth`: through all {layers:.0f} layers the gain is at most {spectral_radius:.0f}; the first Lyapunov "
        "exponent is {lyapunov_1:.2f} nats a layer.",
        lambda found: found["layers"] > 20 and found["spectral_radius"] > 1,
    ),
    Exhibit(
        "smollm2_overlap",
        "overlap of singular vectors with activations",
        "`task=overlap`: singular vectors of q hardly lie along directions in which activations vary: {q, top:.3f} "
        "(the leading tenth) beside {chance:.3f} by chance.",
        lambda found: found["chance"] < found["q, top"] < 1.2 * found["chance"],
    ),
    Exhibit(
        "smollm2_removal",
        "perplexity without each decile of singular values",
        "`task=removal`: even the smallest tenth of `down` is needed: without it a perplexity of {perplexity:.0f} "
        "rises by {down, last:.0f}, without that of q by less than 1.",
        lambda found: found["down, least"] > 1 > abs(found["q, last"]),
    ),
    Exhibit(
        "delta",
        "what four bits change in nano",
        "`task=delta`: four bits are noise: the largest σ of the change is {structure, q:.2f} (q) to "
        "{structure, o:.2f} (o) of what noise of its size has.",
        lambda found: all(0.9 < value < 1.1 for name, value in found.items() if name.startswith("structure")),
    ),
    Exhibit(
        "merge",
        "overlap of two updates of nano",
        "`task=merge`: two steps of training write into one subspace: {left_overlap:.2f}, by chance {left_chance:.2f}.",
        lambda found: found["left_overlap"] > 2 * found["left_chance"],
    ),
    Exhibit(
        "depth",
        "growth of a small change through nano",
        "`task=depth` on `nano`: through all {layers:.0f} layers some change grows {spectral_radius:.0f}-fold; the "
        "first Lyapunov exponent is {lyapunov_1:.2f} nats a layer.",
        lambda found: found["spectral_radius"] > 1 and found["lyapunov_1"] > 0,
    ),
    Exhibit(
        "jacobian",
        "ρ of attention and MLP of nano",
        "`jacspec` on `nano`: its first MLP amplifies most, {mlp, first:.0f} beside at most "
        "{mlp, largest between:.1f} in the layers between.",
        lambda found: found["mlp, first"] > found["mlp, largest between"],
    ),
    Exhibit(
        "coupling",
        "which component reads what another writes",
        "`task=coupling`: overlap alone shows no reading: {downstream:.3f} where it can, "
        "{not downstream:.3f} where it cannot, {chance:.3f} by chance.",
        lambda found: found["not downstream"] > found["downstream"] > found["chance"],
    ),
)
"""Figures of the README with their conclusions, of which the first that are recorded are shown."""

SHOWN = 8


def exhibits() -> list[Exhibit]:
    """Return the figures that the README shows."""
    return [each for each in GALLERY if each.name in recorded_pages()][:SHOWN]


def gallery() -> str:
    """Write the README's figures, two in a row, each over its conclusion."""
    shown, rows = exhibits(), []
    for pair in (shown[at : at + 2] for at in range(0, len(shown), 2)):
        rows.append([f"![{each.shows}](docs/images/{each.name}.png)" for each in pair])
        rows.append([formatted(each.says, recorded_pages()[each.name]["numbers"]) for each in pair])
    whole = [[*row, ""][:2] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (whole[0], ["---"] * 2, *whole[1:]))


def formatted(words: str, numbers: Mapping[str, float]) -> str:
    """Put numbers into `{name:format}`, names being those of the record; exponents without leading zeros."""
    return re.sub(r"\{([^{}]+):([^:{}]+)\}", lambda found: _written(numbers[found[1]], found[2]), words)


def _written(number: float, form: str) -> str:
    return re.sub(r"e([+-])0+(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", format(number, form))


@functools.cache
def recorded(benchmark: str) -> Mapping[str, float]:
    """Read the numbers of a benchmark's record by their path, as `outer/inner/0`."""
    file = Path(__file__).parent / "benchmarks" / f"{benchmark}.json"
    return dict(_leaves(json.loads(file.read_text(encoding="utf-8"))))


def _leaves(found: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    if isinstance(found, (dict, list)):
        for name, part in found.items() if isinstance(found, dict) else enumerate(found):
            yield from _leaves(part, (*above, str(name)))
    elif isinstance(found, (int, float)) and not isinstance(found, bool):
        yield "/".join(above), found


@functools.cache
def recorded_pages() -> Any:
    """Read the record of the commands that pages show."""
    return json.loads((Path(__file__).parent / "benchmarks" / "pages.json").read_text(encoding="utf-8"))


@functools.cache
def recorded_trained() -> Any:
    """Read the record of trained models that are not part of the project."""
    return json.loads((Path(__file__).parent / "benchmarks" / "trained.json").read_text(encoding="utf-8"))


def linearity_table() -> str:
    """Write how far Jacobians hold: over layers the smallest and the largest median, in per cent of ‖x‖ or of ‖εJv‖."""
    record = json.loads((DOCS.parent / "tests" / "benchmarks" / "linearity.json").read_text(encoding="utf-8"))
    shown = {
        "radius along v₁": ("top", "radius", 100),
        "off at 3 % of ‖x‖": ("top", "off at 3 %", 1),
        "off at 10 %": ("top", "off at 10 %", 1),
        "at 10 % in a random direction": ("random", "off at 10 %", 1),
        "at 10 % along differences of streams": ("residual", "off at 10 %", 1),
    }

    def cell(found: Mapping[str, Any], name: str, what: str, unit: int) -> str:
        ends = found[name][what]
        return f"{unit * ends['least']:.2g} to {unit * ends['most']:.2g} %"

    rows = [
        (f"{component_words(component)} of {model}", *(cell(found, *each) for each in shown.values()))
        for model, parts in record.items()
        if model not in ("environment", "cost")
        for component, found in parts.items()
    ]
    return _table(("", *shown), rows)


KERNELS = {
    "jax.numpy.linalg.svd, Jacobi": "`jax.numpy.linalg.svd`, which is Jacobi's there",
    "lax.linalg.svd, QR": "`jax.lax.linalg.svd`, QR",
    "lax.linalg.svd, polar": "`jax.lax.linalg.svd`, polar",
    "Gram matrix in float32, eigvalsh": "Gram matrix in float32, `eigvalsh`",
    "Gram matrix in float64, eigvalsh": "Gram matrix in float64, `eigvalsh`: the kernel's",
    "torch.linalg.svdvals, gesvdj (its default)": "`torch.linalg.svdvals`, its default",
    "torch.linalg.svdvals, gesvd": "`torch.linalg.svdvals`, gesvd",
    "torch.linalg.svdvals, gesvda": "`torch.linalg.svdvals`, gesvda",
}
BLOCKS = {
    "J, `analytic`": ("analytic, {}", "J, ms a sample"),
    "J, `jacfwd`": ("jacfwd, {}", "J, ms a sample"),
    "J, PyTorch's `vmap(jacfwd)`": ("PyTorch, vmap(jacfwd), {}", "J, ms a sample"),
    "J with spectra, `analytic`": ("analytic, {}", "J with spectra, ms a sample"),
    "top two, `lanczos`, random weights": ("lanczos, {}", "top two, ms a sample"),
}
"""Of the records of an H100, the ways to singular values and the engines, and what tables call them."""


def gpu_tables() -> dict[str, str]:
    """Write what an H100 took, from the records of its benchmarks."""
    kernels, engines = recorded("gpu_kernels"), recorded("gpu")

    def both(way: str, what: str) -> str:
        values = (kernels[f"ways/{way}/{what}/{place}"] for place in (0, 1))
        return ", ".join(_written(value, "g" if value > 0.1 else ".1e") for value in values)

    def took(case: str, what: str) -> str:
        value = engines.get(f"engines/{case}/{what}")
        return "" if value is None else f"{value:.2f}"

    batches = ("32 samples", "128 samples")
    return {
        "ways": _table(
            ("way", "ms", "error"),
            ((words, both(way, "ms"), both(way, "error")) for way, words in KERNELS.items()),
        ),
        "engines": _table(
            ("a GPT-2 block, 32 tokens, ms a sample (attention and MLP)", *batches),
            ((words, *(took(case.format(batch), what) for batch in batches)) for words, (case, what) in BLOCKS.items()),
        ),
    }


def ready_made_models() -> str:
    """List the ready-made models."""
    choices = (file.stem for file in (config_folder() / "model").glob("*.yaml"))
    names = (f"`{name}`" for name in sorted(choices) if name not in ("hub", "path"))
    return textwrap.fill(", ".join(names), 120, break_on_hyphens=False)


def all_keys() -> str:
    """List every key of every study with the page that says more."""
    rows = [
        (f"`{option.key}`", option.words, f"[{study}]({study}.md#keys)")
        for study in DESCRIBED
        for option in options_of(study)
        if option.key.startswith(f"{study}.")
    ]
    return _table(("key", "meaning", "study"), rows)


def all_columns() -> str:
    """List every column of every study with what it holds, those of the metrics that all share first."""
    found: dict[str, tuple[Quantity, list[str]]] = {}
    for study in DESCRIBED:
        for name, column in columns_of(study).items():
            found.setdefault(name, (column, []))[1].append(study)
    rows = [
        (f"`{name}`", column.definition, ", ".join(f"[{study}]({study}.md#columns)" for study in studies))
        for name, (column, studies) in found.items()
    ]
    return _table(("column", "meaning", "study"), rows)


@functools.cache
def pages() -> dict[str, dict[str, str]]:
    """Return what is generated: by page of `docs/`, then by the word of its markers."""
    found = {f"{study}.md": {"keys": keys_table(study)} for study in DESCRIBED}
    for study in DESCRIBED:
        if columns_of(study):
            found[f"{study}.md"]["columns"] = columns_table(study)
    for study in DESCRIBED:
        if study in recorded_pages():
            found[f"{study}.md"]["cost"] = cost_line(study)
    found["jacobian.md"]["linearity"] = linearity_table()
    found["chance.md"] = chance_tables() | beyond_tables()
    found["sources/jacobian_paper.md"] = {
        "claims": claims_table(),
        "phases": phases_table(),
        "conditioning": conditioning_table(),
    }
    found["sources/small_singular_values.md"] = {
        "claims": removal_claims_table(),
        "control": control_table(),
        "spectra": spectra_claims_table(),
        "pairs": spectra_pairs(),
        "overlaps": overlaps_claims_table(),
        "steps": steps_claims_table(),
        "linear model": linear_model_table(),
        "appendix": appendix_table(),
        "fisher": predicted_table(),
    }
    found["overlap.md"] |= {"sensitivity": sensitivity_table(), "predicted": predicted_removal()}
    found["sources/merging.md"] = merging_tables()
    found["sources/walk_through.md"] = {"eigenvalues": eigenvalues_table(), "concentration": walk_table()}
    found["sources/w_qk.md"] = {"claims": heads_claims_table()}
    found["../README.md"] = {"gallery": gallery()}
    found["gpu.md"] = gpu_tables()
    found["reference.md"] = {"keys of studies": all_keys(), "all columns": all_columns()}
    return found | {"keys.md": {"ready-made models": ready_made_models(), "shared keys": shared_table()}}


def marks(word: str) -> tuple[str, str]:
    """Return the lines that a generated part stands between."""
    return f"<!-- {word}: written by pytest --write-docs -->", f"<!-- end of {word} -->"


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Return a page with its generated parts put between their markers; raises `ValueError` where one lacks them."""
    for word, part in parts.items():
        first, last = marks(word)
        if page.count(first) != 1 or page.count(last) != 1:
            raise ValueError(f"a page lacks its markers. Write {first} and {last} into it, once each.")
        before, rest = page.split(first)
        page = f"{before}{first}\n{part}\n{last}{rest.split(last)[1]}"
    return page


def write_pages() -> None:
    """Write all generated parts into their pages."""
    for name, parts in pages().items():
        page = DOCS / name
        page.write_text(filled(page.read_text(encoding="utf-8"), parts), encoding="utf-8")


def _default_and_words(option: Option) -> tuple[str, str]:
    """Write the default of a shared option; where it depends on the rest, the words say on what."""
    default = "" if option.default is None else f"`{_as_yaml(option.default)}`"
    return default, option.words.replace("None: ", "by default ")


def _as_yaml(value: Any) -> str:
    """Write a default as it is typed on the command line."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{','.join(map(_as_yaml, value))}]"
    return json.dumps(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, *([_escaped(cell) for cell in row] for row in rows))
    first, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([first, "|---" * len(head) + "|", *rest])


def _escaped(cell: str) -> str:
    """Keep Markdown from reading signs: a bar as a cell's end everywhere, stars and angles outside code."""
    if not cell.startswith("`"):
        for sign in "*<":
            cell = cell.replace(sign, f"\\{sign}")
    return cell.replace("|", "\\|")
