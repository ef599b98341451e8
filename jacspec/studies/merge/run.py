"""`task=merge`: how compatible checkpoints of one architecture are, and one merged from them in HF layout."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped
from rich.console import Console

from jacspec.axes import Row
from jacspec.backend import numerics
from jacspec.config import Config
from jacspec.errors import JacspecError, check_least
from jacspec.jacobians.engine import memory_budget
from jacspec.models.export import plan_shards
from jacspec.models.gguf_files import is_gguf
from jacspec.models.matrices import Choice, LeftOut, Listed, Matrix
from jacspec.models.siblings import (
    Sibling,
    layer_number,
    list_matrices,
    open_siblings,
    role_name,
    stream_same_matrices,
)
from jacspec.models.tensor_files import FLOATS, NUMPY_TYPES, StoredTensor
from jacspec.runs.files import MERGED
from jacspec.runs.rows import experiment_layout
from jacspec.studies.inputs import Inputs
from jacspec.studies.merge import CAUTIONS, COMPATIBILITY, MergeMethod, MergeOptions, Resized
from jacspec.studies.merge.compatibility import (
    Comparison,
    compare,
    examine,
    list_comparisons,
    missing_reason,
)
from jacspec.studies.merge.confidence import cautions
from jacspec.studies.merge.methods import METHODS, Settings
from jacspec.studies.merge.recipes import Recipe, make_recipe, merge_tensors
from jacspec.studies.merge.written import check_folder, write_merged
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork

KEYS = ("layer", "role", "compared", "first", "second")


class Merge(NamedTuple):
    """A merge as it is asked for: the recipe, what is merged by name, where to, and which tensors are matrices."""

    recipe: Recipe
    description: Mapping[str, Any]
    folder: Path
    matrices: frozenset[str]


class Family(NamedTuple):
    """The checkpoints of a run, the base first where there is one, and what is done with them."""

    siblings: Sequence[Sibling]
    has_base: bool
    options: MergeOptions
    choice: Choice
    precision: str
    memory_bytes: float
    seed: int
    merge: Merge | None
    console: Console

    @property
    def labels(self) -> list[str]:
        """Names of weights, then of task vectors, as `Comparison` numbers them."""
        own = [each.label for each in self.siblings]
        return own + (own[1:] if self.has_base else [])


def run_merge(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compare and merge checkpoints into `folder`, or resume what `config.resume` holds."""
    options = config.own(MergeOptions)
    _check(options)
    folder = folder if config.resume is None else Path(config.resume)
    # float64 tensors would be read as float32 outside; what is computed has the run's precision by its own types.
    with numerics("float64"):
        run_rows(config, folder, console, inputs, lambda: _prepare(config, folder, console))


def _check(options: MergeOptions) -> None:
    if not options.models:
        raise JacspecError("merge.models=[] names no model. Type 'merge.models=[FOLDER,FOLDER]'.")
    if options.base is None and len(options.models) == 1:
        raise JacspecError("merge.models names one model: nothing to compare it with. Name another, or merge.base.")
    check_least("merge.top_k", options.top_k, 1)
    for name in ("alpha", "strength"):
        if not 0 <= (value := getattr(options, name)) <= 1:
            raise JacspecError(f"merge.{name}={value} is no share. Accepted: 0 to 1.")
    if options.rank_variance is not None and not options.rank_variance >= 0:
        raise JacspecError(f"merge.rank_variance={options.rank_variance} is no variance. Accepted: 0 or more, null.")


def _prepare(config: Config, folder: Path, console: Console) -> RowWork:
    options, precision = config.own(MergeOptions), config.precision.value
    recipe = _choose_recipe(options, config.seed)
    has_base = options.base is not None
    siblings = open_siblings(
        [*([options.base] if options.base is not None else []), *options.models],
        dtype=precision,
        share_rows=options.resized is Resized.shared,
        base=options.base,
    )
    _say_differences(siblings, console)
    choice = Choice(options.include, options.exclude, options.embeddings)
    matrices, left_out = list_matrices(siblings[0], choice)
    if not matrices:
        raise JacspecError("No matrix is left. Type merge.include=[] merge.exclude=[] for all.")
    merge = None
    if recipe is not None:
        if is_gguf(siblings[0].location.folder):
            raise JacspecError(f"{siblings[0].label} is a GGUF file, which has no config.json to write. Name it later.")
        target = Path(options.save).expanduser() if options.save is not None else folder / MERGED
        names = frozenset(each.name for each in matrices if each.whole)
        merge = Merge(recipe, _describe(siblings, options, recipe, precision), target, names)
        check_folder(target, merge.description, resume=config.resume is not None)
    budget = memory_budget(config.engine.memory_gib)
    family = Family(siblings, has_base, options, choice, precision, budget, config.seed, merge, console)
    comparisons = list_comparisons(len(siblings), has_base=has_base)
    layout = dataclasses.replace(
        experiment_layout(KEYS, tuple(COMPATIBILITY), over="layer"),
        complete=functools.partial(_caution, most_variance=options.rank_variance),
        words=tuple(CAUTIONS),
    )
    return RowWork(
        layout=layout,
        identity={"checkpoint": _identify(siblings, has_base)},
        facts=_facts(family, left_out),
        stream=lambda done: _stream(family, matrices, comparisons, done),
        unit="comparisons",
        total=len(matrices) * len(comparisons),
    )


def _caution(rows: Sequence[Row], most_variance: float | None) -> Sequence[Row]:
    """Add what each comparison is flagged for."""
    return [row._replace(words={"cautions": cautions(row.values, most_variance)}) for row in rows]


def _choose_recipe(options: MergeOptions, seed: int) -> Recipe | None:
    if options.method is MergeMethod.none:
        return None
    return make_recipe(
        options.method.value,
        models=len(options.models),
        has_base=options.base is not None,
        share=options.share,
        coefficient=options.coefficient,
        weights=options.weights,
        settings=Settings(options.density, options.epsilon, options.common, options.alpha, options.strength),
        seed=seed,
    )


def _identify(siblings: Sequence[Sibling], has_base: bool) -> dict[str, Any]:
    names = [each.label for each in siblings]
    title = " + ".join(names[1:]) + f" on {names[0]}" if has_base else " + ".join(names)
    files = {f"{each.label}/{name}": digest for each in siblings for name, digest in each.files.items()}
    return {"name": title, "revision": None, "files": files}


def _facts(family: Family, left_out: Sequence[LeftOut]) -> dict[str, Any]:
    """Collect what `run.json` says besides; the keys that reasons name are those of this task."""
    merge, first = family.merge, family.siblings[0]
    return {
        "left_out": dict(Counter(each.reason.replace("weights.", "merge.") for each in left_out)),
        "read by name": first.unknown or None,
        "base": first.label if family.has_base else None,
        "notes": [line for each in family.siblings for line in each.notes],
        "warning": "; ".join(line for each in family.siblings for line in each.warnings) or None,
        "merged": None if merge is None else {"method": merge.recipe.method, "folder": str(merge.folder)},
    }


def _describe(siblings: Sequence[Sibling], options: MergeOptions, recipe: Recipe, precision: str) -> dict[str, Any]:
    """Say what is merged and how, as `merge.json` keeps it."""
    described = [
        {"name": each.location.name, "revision": each.location.revision, "files": dict(each.files)} for each in siblings
    ]
    has_base = options.base is not None
    own: dict[str, Any] = {}
    if recipe.method == MergeMethod.star.value:
        own = {"share": recipe.share, "precision": precision}
    elif recipe.method == MergeMethod.spectral.value:
        own = {"alpha": options.alpha, "strength": options.strength, "precision": precision}
    elif recipe.method in METHODS:
        own = {**recipe.settings._asdict(), "seed": recipe.seed, "precision": precision}
    return {
        "method": recipe.method,
        "models": described[1:] if has_base else described,
        "base": described[0] if has_base else None,
        "weights": [] if recipe.method == MergeMethod.spectral.value else list(recipe.weights),
        "coefficient": recipe.coefficient,
        **own,
        "include": list(options.include),
        "exclude": list(options.exclude),
        "embeddings": options.embeddings,
        "resized": options.resized.value,
    }


def _say_differences(siblings: Sequence[Sibling], console: Console) -> None:
    """Say in what the models differ and may: in a line what changes no weight's meaning, louder what might."""
    if noted := [line for each in siblings for line in each.notes]:
        what = ", ".join(dict.fromkeys(line.partition(" is ")[0].removeprefix("config: ") for line in noted))
        console.print(f"differs and changes no weight's meaning (run.json says how): {what}", style="dim")
    for line in (line for each in siblings for line in each.warnings):
        console.print(f"warning: {line}: the weights were trained for different ones", style="bold red")


def _stream(
    family: Family, matrices: Sequence[Listed], comparisons: Sequence[Comparison], done: Mapping[int, Row]
) -> Iterator[list[Row]]:
    """Compare matrix after matrix, all models side by side, then write the merged checkpoint."""
    first = 0
    if any(number not in done for number in range(len(matrices) * len(comparisons))):
        for own in stream_same_matrices(family.siblings, family.choice):
            numbers = range(first, first + len(comparisons))
            first = numbers.stop
            if any(number not in done for number in numbers):
                yield from _compare(family, own, zip(numbers, comparisons, strict=True), done)
            del own  # before the next tensors are read
    if family.merge is not None:
        _write(family, family.merge)


def _compare(
    family: Family, own: Sequence[Matrix], numbered: Iterator[tuple[int, Comparison]], done: Mapping[int, Row]
) -> Iterator[list[Row]]:
    """Make the comparisons of one matrix that are not done."""
    options, labels = family.options, family.labels
    rows, cols = np.min([each.values.shape for each in own], axis=0)  # tables may have more rows in one than in another
    subjects = examine(
        [each.values[:rows, :cols] for each in own],
        has_base=family.has_base,
        top_k=options.top_k,
        dtype=family.precision,
        memory_bytes=family.memory_bytes,
    )
    for number, comparison in numbered:
        if number not in done:
            first, second = comparison.first, comparison.second
            key = (layer_number(own[0]), role_name(own[0]), comparison.compared, labels[first], labels[second])
            found = compare(
                subjects[first],
                subjects[second],
                share=options.share,
                alpha=options.alpha,
                strength=options.strength,
                seed=family.seed,
            )
            yield [Row(number, key, *found, missing_reason(found[0]))]


def _merge(
    family: Family, merge: Merge, name: str, own: Sequence[Shaped[np.ndarray, "..."]], dtype: np.dtype
) -> Shaped[np.ndarray, "..."]:
    """Merge one tensor of all models; a stack, as of experts, matrix by matrix."""
    if own[0].ndim == 3:
        stack = enumerate(zip(*own, strict=True))
        return np.stack([_merge(family, merge, f"{name}[{place}]", parts, dtype) for place, parts in stack])
    return merge_tensors(
        merge.recipe,
        own[0] if family.has_base else None,
        own[1:] if family.has_base else own,
        dtype=dtype,
        is_matrix=name in merge.matrices and own[0].ndim == 2,
        precision=family.precision,
        name=name,
    )


def _write(family: Family, merge: Merge) -> None:
    """Write the merged checkpoint: config, names and types of its tensors are those of the first, base or model.

    So are the rows of a table that not all models have.
    """
    reference = family.siblings[0]
    family.console.print(
        f"merging {len(reference.tensors.index)} tensors of {len(family.siblings)} models", style="dim"
    )
    names = {stored: name for name, stored in reference.tensors.index.items()}

    def read(stored: StoredTensor) -> Shaped[np.ndarray, "..."]:
        name = names[stored]
        if stored.dtype not in FLOATS:
            return reference.tensors.read(name)
        own, dtype = [each.tensors.read(name) for each in family.siblings], NUMPY_TYPES[stored.dtype]
        if len({each.shape for each in own}) == 1:
            merged = _merge(family, merge, name, own, dtype)
        elif family.options.resized is Resized.first:
            merged = own[0].astype(dtype)
        else:
            rows = min(map(len, own))
            shared = _merge(family, merge, name, [each[:rows] for each in own], dtype)
            merged = np.concatenate([shared, own[0][rows:]])
        if not np.isfinite(merged).all():
            raise JacspecError(f"Merged, {stored.name} exceeds what {stored.dtype} holds. Lower merge.coefficient.")
        return merged

    write_merged(
        merge.folder,
        merge.description,
        plan_shards(reference.tensors),
        read,
        beside=reference.location.folder,
    )
