"""README and `docs/`: tables written from the code, links, commands, lines of Python, and numbers of benchmarks."""

import ast
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_pages import (
    DESCRIBED,
    DOCS,
    columns_table,
    exhibits,
    filled,
    formatted,
    keys_table,
    marks,
    pages,
    recorded,
    recorded_claims,
    recorded_pages,
    recorded_trained,
    removal_costs,
)
from families import FAMILIES
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from servers import run_here
from test_explorer import SIZE
from test_programs import MOST

import jacspec
from jacspec.api.options import options_of
from jacspec.cli.arguments import read_arguments
from jacspec.config import config_folder, register
from jacspec.studies.overlap.activations import null_overlap

ROOT = DOCS.parent
WRITTEN = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "outputs/README.md"))]
WRITTEN += [*sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("sources/*.md"))]
PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in WRITTEN]
NOTEBOOKS = [pytest.param(file, id=file.name) for file in sorted(DOCS.glob("notebooks/*.ipynb"))]
FENCE = re.compile(r"```python\n(.*?)```", flags=re.S)


@pytest.mark.parametrize("name", pages())
def test_generated_parts_are_current(name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page == filled(page, pages()[name]), "Type: python -m pytest --write-docs tests/test_docs.py"


def test_stale_part_is_seen() -> None:
    first, last = marks("keys")
    page = f"before\n{first}\n{keys_table('heads')}\n{last}\nafter\n"
    assert filled(page, {"keys": keys_table("heads")}) == page
    assert filled(page.replace("`heads.draws`", "`heads.draw`"), {"keys": keys_table("heads")}) == page
    with pytest.raises(ValueError, match="lacks its markers"):
        filled(page.replace(last, ""), {"keys": keys_table("heads")})


def test_tables_keep_their_columns() -> None:
    """Bars inside words are escaped, so that each row has as many cells as its head."""
    assert r"max\|λ_i(J)\|" in columns_table("jacobian")
    for parts in pages().values():
        for table in re.findall(r"(?:^\|.*\n?)+", "\n\n".join(parts.values()), flags=re.M):
            widths = {len(re.split(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
            assert len(widths) == 1, table


def anchors(page: Path) -> set[str]:
    """Name the headings of a page as GitHub does."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_commands_compose() -> None:
    """Every command that stands on lines of its own names groups, choices and keys that there are."""
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for overrides in {tuple(overrides_of(read_arguments(words))) for page in WRITTEN for words in commands(page)}:
            compose("config", overrides=list(overrides))
        with pytest.raises(HydraException):
            compose("config", overrides=overrides_of(["-m", "task=heads", "heads.draw=1,2"]))


def test_commands_in_sentences_and_tables_compose() -> None:
    """So does every command in a code span, and every span of keys of one study."""
    register()
    spans = [command for page in WRITTEN for command in spans_of(page.read_text(encoding="utf-8"))]
    assert ["source=w_qk_figure_2", "model=gpt2", "heads.shown=[L7H6,L1H0]"] in spans
    assert ["task=merge", "merge.method=spectral", "merge.alpha=0.5", "merge.strength=0.5"] in spans
    assert any(command[:2] == ["-m", "source=small_frozen"] for command in spans)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for overrides in {tuple(overrides_of(read_arguments(words))) for words in spans}:
            compose("config", overrides=list(overrides))
        for wrong in (
            "jacspec source=w_qk_figure_99 model=gpt2",
            "jacspec -m task=heads heads.draw=1,2",
            "merge.bas=0.5",
        ):
            (words,) = spans_of(f"| Figure 1 | `{wrong}` | yes |")
            with pytest.raises(HydraException):
                compose("config", overrides=overrides_of(read_arguments(words)))


def test_every_figure_of_a_source_has_its_command_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("sources/*.md"))
    named = {word for command in spans_of(text) for word in command}
    missing = {file.stem for file in (config_folder() / "source").glob("*.yaml") if f"source={file.stem}" not in named}
    assert missing == {"small_figure_9", "small_figure_10"}, "these two are Figure 4 in other blocks, and in its row"


def test_commands_are_found() -> None:
    found = [command for page in WRITTEN for command in commands(page)]
    assert ["-m", "model.init=pretrained,random", "seed=0,1,2", "hydra.sweep.dir=controls"] in found
    assert any(word.startswith("model=pythia-70m,") for command in found for word in command), "continued lines too"


def commands(page: Path) -> Iterator[list[str]]:
    """Find the arguments of indented commands, lines that end in a backslash joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(
        r"^ {4}(?:srun .*?|pip install -e \. && )?(?:python -m )?jacspec\b(?! --)(.*)$", text, flags=re.M
    ):
        yield [PLACEHOLDER.sub(r"\1./", word) for word in shlex.split(line)]


def spans_of(text: str) -> Iterator[list[str]]:
    """Find the arguments of commands in code spans of a line, and the study in front of keys of its own alone."""
    for command in re.findall(r"`(?:python -m )?jacspec ((?:-m )?\w+=[^`\n]*)`", text):
        yield [PLACEHOLDER.sub(r"\1./", word) for word in shlex.split(command)]
    for keys, study in re.findall(rf"`(({'|'.join(DESCRIBED)})\.\w+=[^`\n]*)`", text):
        if not re.search(r"=(?:[A-Z]+|…)(?: |$)", keys):  # V and N stand for numbers
            yield [f"task={study}", *shlex.split(keys)]


PLACEHOLDER = re.compile(r"((?:^model=|,))(?=[A-Z]{4,}(?:,|$))")
"""FOLDER and its like, which stand for a path."""


def overrides_of(command: list[str]) -> list[str]:
    """Return what a command overrides, of a sweep its first job; launchers are extras with keys of their own."""
    words = [word for word in command if not word.startswith(("-", "hydra/launcher", "hydra.launcher"))]
    return [_first_of(word) for word in words] if "-m" in command else words


def _first_of(word: str) -> str:
    key, _, values = word.partition("=")
    return f"{key}={values if values.startswith('[') else values.split(',')[0]}"


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS])
def test_python_calls_bind(page: Path) -> None:
    """Calls of studies have arguments that there are."""
    text = page.read_text(encoding="utf-8")
    for block in (
        FENCE.findall(text) if page.suffix == ".md" else ["".join(cell["source"]) for cell in code_cells(text)]
    ):
        for call in (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)):
            check_call(call)


def code_cells(notebook: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("file", NOTEBOOKS)
def test_notebook_is_kept_without_outputs(file: Path) -> None:
    cells = code_cells(file.read_text(encoding="utf-8"))
    assert len(cells) > 4
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)


def test_figures_are_small() -> None:
    figures = sorted(DOCS.glob("images/*.png"))
    assert len(figures) > 14
    assert not [file.name for file in figures if file.stat().st_size > 60_000]
    pages = "".join(page.read_text(encoding="utf-8") for page in WRITTEN)
    assert not [file.name for file in figures if f"images/{file.name})" not in pages], "shown nowhere"


def check_call(call: ast.Call) -> None:
    """Raise `TypeError` for a call of jacspec whose arguments its function does not take."""
    if not (isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "jacspec"):
        return
    function: Any = getattr(jacspec, call.func.attr)
    given = {str(each.arg): None for each in call.keywords}
    inspect.signature(function).bind(*call.args, **given)
    if function is jacspec.run:
        known = {option.name for option in options_of(ast.literal_eval(call.args[0]))}
        known |= set(inspect.signature(function).parameters)
        if unknown := given.keys() - known:
            raise TypeError(f"unknown: {unknown}")


@pytest.mark.parametrize("line", ["jacspec.weights('nano', inclde=['q'])", "jacspec.run('heads', 'nano', draw=1)"])
def test_wrong_call_is_seen(line: str) -> None:
    (call,) = (node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call))
    with pytest.raises(TypeError):
        check_call(call)


@pytest.mark.parametrize("study", DESCRIBED)
def test_every_study_has_its_page(study: str) -> None:
    """With a command and a line of Python, and the README names it."""
    page = DOCS / f"{study}.md"
    word = f"task={study}"
    assert any(word in command or (study == "jacobian" and not command) for command in commands(page))
    called = f'jacspec.run("{study}"' if study == "jacobian" else f"jacspec.{study}("
    text = page.read_text(encoding="utf-8")
    assert any(called in block for block in FENCE.findall(text))
    assert "## Limits and cost" in text
    assert study == "plan" or f"](images/{study}.png)" in text
    assert f"](docs/{study}.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_short_and_has_its_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 200
    assert len(readme.split()) <= 1500
    assert "    pip install -e . && python -m jacspec\n" in readme
    assert "    pip install -e '.[test]' && python -m pytest\n" in readme


def test_readme_lists_the_families() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    sentence = re.search(r"by Hugging Face `model_type`:(.*?)\.\s\[", readme, flags=re.S)
    assert sentence is not None
    assert re.findall(r"`([\w-]+)`", sentence[1]) == sorted(FAMILIES)


QUOTED = (
    ("engines", "full spectrum/milliseconds a sample and layer/jacspec", "`analytic` | {:.2f} |"),
    ("engines", "full spectrum/times faster than (a)", "| {:.1f}× |"),
    ("engines", "full spectrum/times faster than (b)", "| {:.1f}× |"),
    ("engines", "top two to 1e-5, decaying weights/milliseconds a sample and layer/jacspec", "spectrum | {:.2f} |"),
    ("engines", "top two to 1e-5, decaying weights/times faster than (a)", "| {:.1f}× |"),
    ("engines", "top two to 1e-5, decaying weights/times faster than (b)", "| {:.1f}× |"),
    ("engines", "SVD kernel/times faster", "was {:.1f} times faster than `numpy.linalg.svd`"),
    ("engines", "top two of a Llama-3.1-8B block/attn/seconds", "took {:.2f} s for attention"),
    ("engines", "top two of a Llama-3.1-8B block/mlp/seconds", "{:.2f} s for the MLP"),
    ("paper", "decaying weights/seconds", "took {:.0f} s on weights with a decaying spectrum"),
    ("paper", "decaying weights, nothing compiled yet/seconds", "{:.0f} s where nothing was compiled yet"),
    ("paper", "random weights/seconds", "{:.0f} s on random weights"),
    ("paper", "before: decaying weights/seconds", "no linearity radius, took {:.0f} s and"),
    ("paper", "before: decaying weights, nothing compiled yet/seconds", "and {:.0f} s in turns"),
    ("paper", "decaying weights/hidden states, MB", "{:.0f} MB of hidden states"),
    ("paper", "decaying weights/peak of resident memory, MB", "peaked at {:.0f} MB"),
    ("cost", "the paper's run/predicted seconds of spectra", "same arithmetic gives {:.0f} s"),
    ("cost", "the paper's run/recorded in paper.json", "with it spectra took {:.0f} s"),
    ("startup", "median_seconds/first_run", "took {:.1f} s, compilation included"),
    ("startup", "median_seconds/second_run", "the second {:.1f} s (compiled"),
    ("startup", "median_seconds/help", "`--help` {:.1f} s."),
    ("startup", "median_seconds/weights", "embedded model {:.1f} s from the command"),
    ("startup", "median_seconds/heads", "`task=heads` {:.1f} s (three"),
    ("startup", "before/first_run", "run no linearity radius, took {:.1f} s,"),
    ("startup", "before/second_run", " s, {:.1f} s,"),
    ("startup", "before/weights", " s, {:.1f} s,"),
    ("startup", "before/heads", " s, {:.1f} s and"),
    ("startup", "before/help", " s and {:.1f} s in turns"),
    ("smollm2", "now/60 sentences/seconds", "Tiny Shakespeare took {:.0f} s from the command"),
    ("smollm2", "before/60 sentences/seconds", "to the page ({:.0f} s before)"),
    ("smollm2", "now/600 sentences/seconds", "of 600 sentences {:.0f} s"),
    ("smollm2", "before/600 sentences/seconds", "s ({:.0f} s before); `task=weights`"),
    ("smollm2", "now/weights/seconds", "210 matrices, {:.0f} s"),
    ("smollm2", "before/weights/seconds", "matrices, 9 s ({:.0f} s before)"),
    ("weights", "weights/jacspec/matrices", "All {:.0f} matrices"),
    ("weights", "weights/jacspec/seconds", "took {:.1f} s on two cores"),
    ("weights", "weights/jacspec/CPU seconds", "Of our {:.1f} CPU seconds"),
    ("weights", "weights/weightwatcher/analyze(randomize=True, mp_fit=True)/seconds", "took {:.0f} s for"),
    ("weights", "weights/weightwatcher/analyze()/seconds", "{:.1f} s for plain"),
    ("weights", "weights/times faster/analyze(randomize=True, mp_fit=True)", "{:.0f} times as long"),
    ("weights", "weights/times faster/analyze()", "which does not: {:.1f} times"),
    ("weights", "W_QK of all heads/seconds", "heads took {:.1f} s"),
    ("modes", "modes over paper/nothing compiled yet", "it takes {:.1f} times the processor time"),
    ("modes", "modes over paper/compiled", "{:.1f} times with all compiled"),
    ("quality", "models/nano, step0/quality", "{:.2f} nats a byte at step 0"),
    ("quality", "models/nano, last/quality", "at step 0 and {:.2f} at the last"),
    ("quality", "models/smollm2, last/quality", "{:.2f} of SmolLM2"),
    ("quality", "models/stories260K, last/quality", "{:.2f} of stories260K"),
    ("quality", "with quality", "In rank {:.0f} of"),
    ("quality", "tested", "of {:.0f} metrics go with quality"),
    ("quality", "given size", "given size {:.0f} of"),
    ("quality", "tested given size", "of {:.0f} do, `rand_distance` first of all"),
    ("quality", "leading/rand_distance/given_size", "first of all: {:.2f}, where"),
    ("quality", "leading/rand_distance/rank_correlation", "where it was {:.2f}."),
)
"""Numbers of docs/performance.md, and of the pages of modes and comparisons: the benchmark's file, where in it, and the
words around the number.
"""


@pytest.mark.parametrize(("file", "path", "words"), QUOTED)
def test_quoted_number_is_recorded(file: str, path: str, words: str) -> None:
    quoting = DOCS / {"modes": "modes.md", "quality": "compare.md", "cost": "plan.md"}.get(file, "performance.md")
    page = " ".join(quoting.read_text(encoding="utf-8").replace("−", "-").split())
    assert words.format(recorded(file)[path]) in page


@pytest.mark.parametrize("shown", exhibits(), ids=lambda shown: shown.name)
def test_conclusion_of_a_figure_holds(shown: Any) -> None:
    assert shown.holds(recorded_pages()[shown.name]["numbers"])


SHOWN = (
    (
        "docs/modes.md",
        "modes",
        "Of its leading modes {alone:.0%} stand alone. Its reads are shared: the first read vectors of "
        "two samples have |cos| {attn, read, cos:.2f} in attention and {mlp, read, cos:.2f} in the MLPs "
        "(medians over layers), where directions with the stream's covariance have {mlp, stream:.2f} and "
        "random ones {mlp, random:.2f}, and the mean subspace of the other half of the samples holds "
        "{mlp, read, held:.0%} of the four leading reads of an MLP, by chance {mlp, held by chance:.0%}. "
        "Its writes are more of each sample's own: |cos| {mlp, write, cos:.2f} in the MLPs. What a "
        "component writes is not what the next one reads: their likeness is {mlp, write-read:.3f}, and "
        "{mlp, write-read, other:.3f} with another sample's. Reads of adjacent layers are alike, {mlp, "
        "read-read:.2f} beside {mlp, read-read, other:.2f} with another sample's; m_K is {mlp, m_K:.2f}.",
    ),
    (
        "docs/modes.md",
        "smollm2_modes",
        "Of 60 sentences of Tiny Shakespeare, each cut at a drawn token: attention is as in the embedded "
        "model, with reads more shared ({attn, read, cos:.2f}) than writes ({attn, write, cos:.2f}); MLPs"
        " are the other way round, {mlp, read, cos:.2f} and {mlp, write, cos:.2f}, with one layer in "
        "which the first write is nearly the same for all samples ({mlp, write, largest cos:.2f}). By "
        "chance of the stream's covariance it would be {mlp, stream:.2f}. Beyond that, with an interval "
        "of 95 %, are {attn, read, beyond:.0f} and {mlp, read, beyond:.0f} of 30 layers for the reads of "
        "attention and MLP, {attn, write, beyond:.0f} and {mlp, write, beyond:.0f} for the writes. m_K is"
        " {mlp, m_K:.2f} in the MLPs (median): consecutive layers act along other directions.",
    ),
    (
        "docs/delta.md",
        "delta",
        "| ‖ΔW‖_F / ‖W‖_F | {relative, q:.3f} | {relative, k:.3f} | {relative, v:.3f} | {relative, o:.3f} | "
        "{relative, up:.3f} | {relative, down:.3f} |",
    ),
    (
        "docs/delta.md",
        "delta",
        "| σ₁(ΔW) / s(√N + √M) | {structure, q:.2f} | {structure, k:.2f} | {structure, v:.2f} | {structure, o:.2f} | "
        "{structure, up:.2f} | {structure, down:.2f} |",
    ),
    (
        "docs/delta.md",
        "delta",
        "| median of abs(σ′ − σ) / s | {shift, q:.2f} | {shift, k:.2f} | {shift, v:.2f} | {shift, o:.2f} | "
        "{shift, up:.2f} | {shift, down:.2f} |",
    ),
    (
        "docs/delta.md",
        "delta",
        "| σ of W below the noise, of 96 | {below_noise, q:g} | {below_noise, k:g} | {below_noise, v:g} | "
        "{below_noise, o:g} | {below_noise, up:g} | {below_noise, down:g} |",
    ),
    (
        "docs/merge.md",
        "merge",
        "overlap by {left_overlap:.2f} (left) and {right_overlap:.2f} (right) with a cosine of {cosine:.2f}, at a "
        "chance of {left_chance:.2f}. Each overlaps with the weights that it was added to by "
        "{least overlap with the base:.2f} to {largest overlap with the base:.2f}",
    ),
    (
        "docs/jacobian.md",
        "eigenvalues",
        "is {ratio, attn, least:.2f} to {ratio, attn, largest:.2f} times that of rotated singular values in attention, "
        "{ratio, mlp, least:.2f} to {ratio, mlp, largest:.2f} times in the MLPs (medians by layer). Of the eigenvalues "
        "of whole blocks {ring_share, block, mean:.2f} are in the ring, {rotated_ring_share, block, mean:.2f} of the",
    ),
    (
        "docs/jacobian.md",
        "smollm2_eigenvalues",
        "is {ratio, attn, least:.2f} to {ratio, attn, largest:.2f} times in attention and {ratio, mlp, least:.2f} to "
        "{ratio, mlp, largest:.2f} in the MLPs; {ring_share, attn, mean:.2f} of attention's eigenvalues lie in a ring "
        "that holds {rotated_ring_share, attn, mean:.2f} of",
    ),
    (
        "docs/jacobian.md",
        "eigenvalues",
        "is {kreiss_constant, block, least:.1f} in layer 0 and up to {kreiss_constant, block, largest:.1f}.",
    ),
    (
        "docs/depth.md",
        "parts",
        "adds {lyapunov_attn_1:.3f} of the first exponent's {lyapunov_1:.3f} nats a layer, the MLPs "
        "{lyapunov_mlp_1:.3f}, nearly all of it in layer 0. Made normal, its blocks grow by "
        "{normal_finite_time_1:.3f} nats a layer at most in place of {finite_time_1:.3f}: {share:.0%}",
    ),
    (
        "docs/depth.md",
        "parts",
        "falls from {cumulative_effective_rank, first layer:.1f} behind the first layer to "
        "{cumulative_effective_rank:.1f} of 96",
    ),
    (
        "docs/merge.md",
        "merge",
        "the perplexity of the embedded text is {star 0.4:.0f} ± {star 0.4, error:.0f} at a share of 0.4, "
        "{star 0.8:.1f} ± {star 0.8, error:.1f} at 0.8 and {star 0.95:.1f} ± {star 0.95, error:.1f} at 0.95, where the "
        "plain average has {average:.1f} ± {average, error:.1f}, step 1024 {step1024:.1f} ± {step1024, error:.1f} and "
        "the last step {step4096:.1f} ± {step4096, error:.1f}",
    ),
    (
        "docs/coupling.md",
        "coupling",
        "the mean is {downstream:.3f} above the line and {not downstream:.3f} below it "
        "({not downstream, with itself:.3f} if each with itself is counted), {chance:.3f} by chance",
    ),
    (
        "docs/coupling.md",
        "coupling",
        "medians are {least median of bound_share:.2f} to {largest median of bound_share:.2f} by layer",
    ),
    (
        "docs/heads.md",
        "smollm2_heads",
        "`rounding_share` is at most {qk, largest rounding_share:g}, with κ_σ up to {qk, largest kappa_sigma:.0f}",
    ),
    (
        "docs/removal.md",
        "removal",
        "Of the {perplexities:.0f} perplexities of the command above, that of the whole embedded model is "
        "{perplexity:.1f} ± {perplexity, error:.1f}. Without the first decile of `up` it rises by {up, first:.0f}, "
        "without that of `down` by {down, first:.0f}, without that of `q`, `k`, `v` or `o` by {q, first:.0f} to "
        "{k, first:.0f}. Without the last decile of a role it changes by {down, last:.2f} at most.",
    ),
    (
        "docs/overlap.md",
        "overlap",
        "the largest singular values of `q` has a mean O_k of {q, top:.2f} and that of the smallest {q, bottom:.2f}, "
        "where random directions have {chance:.2f} (medians over layers); `k` has {k, top:.2f} and {k, bottom:.2f}.",
    ),
    (
        "docs/overlap.md",
        "smollm2_overlap",
        "{q, top:.3f} and {q, bottom:.3f} in `q`, {k, top:.3f} and {k, bottom:.3f} in `k`, by chance {chance:.3f}.",
    ),
    (
        "docs/lazy.md",
        "lazy",
        "α = 0.1 to 30 the movement of its hidden weights falls from {movement at 0.1:.2f} to {movement at 30:.3f} of",
    ),
    (
        "docs/lazy.md",
        "lazy",
        "features were learnt ({accuracy at 0.1, group 10, after:.2f} of {accuracy at 0.1:.2f} at α = 0.1) and costs "
        "most of the accuracy in the lazy regime ({accuracy at 30, group 10, after:.2f} of {accuracy at 30:.2f} at "
        "α = 30).",
    ),
    ("docs/lazy.md", "lazy", "taken from f₀ too, {accuracy at 30, group 10, both:.2f} is left."),
    (
        "docs/finetune.md",
        "finetune",
        "`nano` tells {whole:.0%} of {examples:.0f} held-out examples. Without its largest quarter the fine-tuned "
        "model is at chance ({after, group 1:.2f} ± {after, group 1, sd:.2f}); fine-tuned without it, it is where it "
        "would have been ({before, group 1:.2f}). No other quarter costs more than "
        "{largest loss of another group:.3f} in",
    ),
    (
        "docs/depth.md",
        "smollm2_depth",
        "a small change grows {spectral_radius:.0f}-fold at most through {layers:.0f} layers, and the first Lyapunov "
        "exponent is {lyapunov_1:.3f} nats a layer",
    ),
    (
        "docs/dynamics.md",
        "dynamics",
        "half of the change of the stable rank is there by step {stable_rank, 0.75:.0f}, of the participation ratio by "
        "step {participation_ratio, 0.75:.0f}, of ρ of attention by steps {spectral_radius, attn, 0.25:.0f} to "
        "{spectral_radius, attn, 0.75:.0f} (the quartiles over layers).",
    ),
    ("docs/heads.md", "heads", "a negative real part (median `copying_score` {ov, median copying score:.2f})"),
)
"""Numbers of other pages: the page, the entry of `pages.json`, and the words around them."""


@pytest.mark.parametrize(("page", "name", "words"), SHOWN)
def test_shown_number_is_recorded(page: str, name: str, words: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert formatted(words, recorded_pages()[name]["numbers"]) in text


TRAINED = (
    (
        "docs/modes.md",
        "nano_check",
        "of {write, directions:.0f} write directions {write, with words:.0f} are the same in halves of the samples,",
    ),
    (
        "docs/modes.md",
        "nano_check",
        "0.1 ‖x‖ added along v₁ moves the next token's distribution {read, 0.1, attn 5, ratio:.1f} to {read, 0.1, mlp "
        "0, ratio:.1f} times as much as along random directions, surely more in {read, 0.1, above:.0f} of {read, 0.1, "
        "places:.0f} components that were checked; along u₁ in {write, 0.1, above:.0f}. Taken away, u₁ of the MLP of "
        "layer 0 costs {write, remove, mlp 0, loss:.1f} nats [{write, remove, mlp 0, loss_low:.1f}, {write, remove, "
        "mlp 0, loss_high:.1f}], {write, remove, mlp 0, ratio:.0f} times [{write, remove, mlp 0, ratio_low:.0f}, "
        "{write, remove, mlp 0, ratio_high:.0f}] a random direction",
    ),
    (
        "docs/modes.md",
        "stories260k_modes",
        "stories260K (five layers, d_model 64) shares less: the first read vectors of two samples have |cos| {mlp"
        " 0, read, cos:.2f} [{mlp 0, read, low:.2f}, {mlp 0, read, high:.2f}] in the MLP of layer 0, by chance of"
        " the stream's covariance {mlp 0, read, stream:.2f}, and {mlp, read, least cos:.2f} to {mlp 4, read, "
        "cos:.2f} in those above; {attn, read, beyond:.0f} of 5 layers are surely above chance for the reads of "
        "attention, {mlp, read, beyond:.0f} for those of the MLPs, and {attn, write, beyond:.0f} and {mlp, write,"
        " beyond:.0f} for the writes. The last MLP is the exception: its writes have {mlp 4, write, cos:.2f} "
        "[{mlp 4, write, low:.2f}, {mlp 4, write, high:.2f}]. m_K is {m_K, least:.2f} to {m_K, largest:.2f}. Of "
        "{write, directions:.0f} shared write directions {write, with words:.0f} have words, and {write, beyond "
        "chance:.0f} of them survive chance. Added along v₁, 0.1 ‖x‖ moves the next token's distribution more "
        "than along random directions in {read, 0.1, above:.0f} of {read, 0.1, places:.0f} places, in the MLP of "
        "layer 0 {read, 0.1, mlp 0, ratio:.0f} times [{read, 0.1, mlp 0, ratio_low:.1f}, {read, 0.1, mlp 0, "
        "ratio_high:.0f}] as much, of which the Jacobians explain {read, 0.1, mlp 0, predicted:.0%} of the change"
        " of the logits; along u₁ in {write, 0.1, above:.0f}, and less in {write, 0.1, below:.0f}. Taken away, u₁"
        " of that MLP matters {write, remove, mlp 0, ratio:.0f} times [{write, remove, mlp 0, ratio_low:.0f}, "
        "{write, remove, mlp 0, ratio_high:.0f}] as much as a random direction; the loss rises by {write, remove,"
        " mlp 0, loss:.1f} nats [{write, remove, mlp 0, loss_low:.1f}, {write, remove, mlp 0, loss_high:.1f}], "
        "which at 60 samples may be none.",
    ),
    (
        "docs/modes.md",
        "minilm_modes",
        "MiniLM (all-MiniLM-L6-v2, a sentence encoder of six layers) shares more the further up: the first writes"
        " of its MLPs have |cos| {mlp 0, write, cos:.2f} in layer 0, {mlp 2, write, cos:.2f}, {mlp 3, write, "
        "cos:.2f} and {mlp 4, write, cos:.2f} in layers 2 to 4, and {mlp 5, write, cos:.2f} [{mlp 5, write, "
        "low:.2f}, {mlp 5, write, high:.2f}] in the last, where one direction is the same for all texts; their "
        "reads {mlp, read, least cos:.2f} to {mlp, read, largest cos:.2f}. By chance it would be {attn 0, read, "
        "stream:.2f} to {mlp 4, read, stream:.2f}. Attention reads what is shared ({attn 4, read, cos:.2f} to "
        "{attn 1, read, cos:.2f} in layers 1 to 4) and writes what is not ({attn, write, least cos:.2f} to {attn,"
        " write, largest cos:.2f}). The mean subspace of the other half of the samples holds {mlp 5, write, "
        "held:.0%} of the four leading writes of the last MLP. It has no unembedding, so that only reads have "
        "words: {read, beyond chance:.0f} of {read, with words:.0f} shared ones lie closer to a token's embedding"
        " than matched chance does. Each sample's own first reads score higher than chance in "
        "{own read, beyond chance:.0f} of {own read, components:.0f} components. m_K is {m_K, "
        "least:.2f} to {m_K, largest:.2f}. It predicts no token, so that `modes.check` has nothing to measure.",
    ),
    (
        "docs/modes.md",
        "smollm2_words",
        "{write, with words:.0f} of {write, directions:.0f} shared write directions have words, and {write, beyond "
        "chance:.0f} of them survive chance (q < 5 %): {write, mlp, beyond chance:.0f} of MLPs, one in every layer from"
        " {write, mlp, first in a row:.0f} to {write, mlp, last in a row:.0f} among them, and {write, attn, beyond "
        "chance:.0f} of attention.",
    ),
    (
        "docs/modes.md",
        "smollm2_words",
        "The samples' own first writes score higher than chance in {own write, beyond chance:.0f} of {own write, "
        "components:.0f} components, the attention of layer 0, where {own write, attn 0, times:.0f} of {own write, attn"
        " 0, samples:.0f} name the same token first. Of {read, with words:.0f} reads {read, beyond chance:.0f} lie"
        " closer to a token's embedding than their matched chance, and of {read stream, with words:.0f} "
        "in the stream {read stream, beyond chance:.0f} to a token's average.",
    ),
    (
        "docs/modes.md",
        "smollm2_check",
        "in {read, 0.1, above:.0f} of {read, 0.1, places:.0f} components of layers 0, 15 and 29: {read, 0.1, mlp 0, "
        "ratio:.0f} times [{read, 0.1, mlp 0, ratio_low:.0f}, {read, 0.1, mlp 0, ratio_high:.0f}] as much in the MLP of"
        " layer 0, where the Jacobians explain {read, 0.1, mlp 0, predicted:.0%} of the change of the logits, {read, "
        "0.1, mlp 15, ratio:.1f} times [{read, 0.1, mlp 15, ratio_low:.1f}, {read, 0.1, mlp 15, ratio_high:.1f}] in "
        "that of layer 15 ({read, 0.1, mlp 15, predicted:.0%}), {read, 0.1, attn 29, ratio:.1f} times [{read, 0.1, attn"
        " 29, ratio_low:.1f}, {read, 0.1, attn 29, ratio_high:.1f}] in the last attention ({read, 0.1, attn 29, "
        "predicted:.0%}). Along u₁ it moves it less in {write, 0.1, below:.0f} of the {write, 0.1, places:.0f}: {write,"
        " 0.1, mlp 15, ratio:.2f} times [{write, 0.1, mlp 15, ratio_low:.2f}, {write, 0.1, mlp 15, ratio_high:.2f}] in "
        "the MLP of layer 15, and the logit of the token that the write names moves by {write, 0.1, mlp 15, named:.1%} "
        "of what its score says: what later layers make of a write is not what the unembedding says of it. In the last "
        "MLP it is {write, 0.1, mlp 29, named:.1%}. Taken away, u₁ matters far more: in the MLP of layer 0 it costs "
        "{write, remove, mlp 0, loss:.1f} nats and {write, remove, mlp 0, ratio:.0f} times [{write, remove, mlp 0, "
        "ratio_low:.0f}, {write, remove, mlp 0, ratio_high:.0f}] the KL of a random direction, in that of layer 15 "
        "{write, remove, mlp 15, ratio:.0f} times [{write, remove, mlp 15, ratio_low:.0f}, {write, remove, mlp 15, "
        "ratio_high:.0f}]; there the linear prediction explains {write, remove, mlp 15, predicted:.0%} of the change",
    ),
    (
        "docs/modes.md",
        "smollm2_through",
        "Behind all later blocks (`modes.through=depth`, at 32 of the samples) these words are gone: of the "
        "{write, with words:.0f} directions {write, beyond chance:.0f} survive chance, the median of their "
        "largest score is {write, score over chance, median:.2f} times that of chance. The samples' own first "
        "writes score higher than chance in {own write, beyond chance:.0f} of {own write, "
        "components:.0f} components. What the "
        "unembedding says of a write in the middle of the network is not what becomes of it.",
    ),
    (
        "docs/depth.md",
        "smollm2_dense",
        "There attention adds {lyapunov_attn_1:.3f} of {lyapunov_1:.3f} nats a layer and the MLPs "
        "{lyapunov_mlp_1:.3f}. Of four of these sentences, blocks made normal grow by {normal_finite_time_1:.3f} "
        "nats a layer at most in place of {finite_time_1:.3f}: {share:.0%} of the growth is due to non-normality."
        " The effective rank of the product falls from {cumulative_effective_rank, first layer:.0f} behind the "
        "first layer to {cumulative_effective_rank:.0f} of 576 behind the last.",
    ),
    (
        "docs/jacobian.md",
        "smollm2_pseudospectra",
        "In SmolLM2-135M, of four sentences, it is {kreiss_constant, layer 0:.1f} in layer 0, where σ₁ is "
        "{spectral_radius, layer 0:.0f} and the largest |λ| {eigenvalue_radius, layer 0:.1f}, and "
        "{kreiss_constant, layer 10:.1f}, {kreiss_constant, layer 20:.1f} and {kreiss_constant, layer 29:.1f} in "
        "layers 10, 20 and 29; within σ₁/100 of J the largest |λ| reaches {pseudospectral_radius, layer 0:.1f} in"
        " layer 0 and {pseudospectral_radius, layer 29:.1f} in layer 29 (medians; "
        "[`trained.json`](../tests/benchmarks/trained.json)).",
    ),
)
"""Numbers of trained models that are not part of the project: the page, the entry of `trained.json`, the words."""


@pytest.mark.parametrize(("page", "name", "words"), TRAINED)
def test_number_of_a_trained_model_is_recorded(page: str, name: str, words: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert formatted(words, recorded_trained()[name]["numbers"]) in text


HELD = (
    (
        "docs/chance.md",
        "chance",
        "Beyond the edge itself {p-values/16 × 32/any above the edge:.0%} to {p-values/96 × 384/any above the "
        "edge:.0%} of the matrices have a value.",
    ),
    (
        "docs/chance.md",
        "tails",
        "Gaussian matrices, which have none, are told from a power law at 5 % in {tails/Gaussian matrix, 96 × 96/power "
        "law/5%:.0%} and {tails/Gaussian matrix, 96 × 384/power law/5%:.0%} of the draws alone,",
    ),
    (
        "docs/engines.md",
        "clusters",
        "1e-4 at the top, σ₁ or σ₂ was off by more than 1e-5 in {now, float32/five within 1e-4, then a line/off by more"
        " than the tolerance:.1%} or fewer ({before, float32/five within 1e-4, then a line/off by more than the "
        "tolerance:.0%} to {before, float64/five within 1e-4, then decay/off by more than the tolerance:.0%} without "
        "that rule), with three in {now, float32/three within 1e-4, then decay/off by more than the tolerance:.0%}, "
        "with five within 1e-3 in {now, float32/five within 1e-3, then decay/off by more than the tolerance:.0%};",
    ),
    (
        "docs/engines.md",
        "clusters",
        "in float64 in {now, float64/two equal/off by more than the tolerance:.0%} of {matrices:.0f} matrices, in "
        "float32, where rounding parts them, in {now, float32/two equal/off by more than the tolerance:.1%}",
    ),
    (
        "docs/engines.md",
        "paper",
        "held {decaying weights, nothing compiled yet/hidden states, MB:.0f} MB of them and peaked at {decaying "
        "weights, nothing compiled yet/peak of resident memory, MB:.0f} MB, a quarter of its samples {decaying weights,"
        " a quarter of the samples/hidden states, MB:.0f} MB and {decaying weights, a quarter of the samples/peak of "
        "resident memory, MB:.0f} MB",
    ),
    (
        "docs/compilation.md",
        "gpu_compile",
        "each program of a GPT-2 block took more than 8 seconds to compile with them, its step "
        "{GPT-2 small, xla_gpu_enable_triton_gemm=false/step:.1f} without",
    ),
    (
        "docs/gpu.md",
        "gpu_kernels",
        "`jax.numpy.linalg.eigvals` took {jax.numpy.linalg.eigvals of 768 x 768, ms a matrix:.0f} ms a matrix there.",
    ),
    (
        "docs/gpu.md",
        "gpu_kernels",
        "the measured speed of float32 products ({float32 products at precision highest, TFLOP/s:.0f} TFLOP/s)",
    ),
    (
        "docs/gpu.md",
        "gpu",
        "| `python -m jacspec` | {runs/default, nothing compiled yet/seconds:.1f} | {runs/default, compiled "
        "before/seconds:.1f} | | the paper's, GPT-2's shapes, random weights, 600 sentences | {runs/paper, nothing "
        "compiled yet/seconds:.1f} | {runs/paper, compiled before/seconds:.1f} | | `task=modes` of the same | "
        "{modes/task=modes, nothing compiled yet/seconds:.1f} | {modes/task=modes, compiled before/seconds:.1f} | | "
        "all singular values of these 14,400 Jacobians (`engine=analytic`) | | {full/full spectra of the paper's "
        "run/seconds:.1f} | | `task=weights` of GPT-2's shapes | | {static/task=weights/seconds:.1f} | | "
        "`metrics=full` of 64 sentences | {metrics/metrics=full of 64 sentences/seconds:.0f} | |",
    ),
    (
        "docs/gpu.md",
        "gpu",
        "spectra are {runs/paper, compiled before/seconds a stage/spectra:.1f} s, with the linearity radius in them; "
        "imports are {runs/paper, compiled before/seconds a stage/imports:.1f}, reading compiled programs "
        "{runs/paper, compiled before/seconds a stage/compiling:.1f}, drawing {runs/paper, compiled before/"
        "seconds a stage/draw:.1f}.",
    ),
    (
        "docs/gpu.md",
        "gpu",
        "where one core took {kernel/eigenvalues/metrics on the host, ms a matrix:.0f} for the eigenvalues alone.",
    ),
    (
        "docs/gpu.md",
        "gpu",
        "Of `task=modes` the tables are {modes/task=modes, compiled before/seconds a stage/tables:.1f} s, work of the "
        "host too. `task=heads` did not end in {static/task=heads/did not end in seconds:.0f} s: it draws its chance "
        "in NumPy on all cores, which took {static/task=heads/seconds a stage/spectra:.1f} s there",
    ),
    (
        "docs/gpu.md",
        "gpu",
        "With PyTorch's `svdvals`, {engines/PyTorch with svdvals, driver=None/largest deviation from ours, over "
        "sigma_1:.1e} σ₁ off, J with spectra takes {engines/PyTorch with svdvals, driver=None/J with spectra, ms a "
        "sample:.1f} ms a sample.",
    ),
    (
        "docs/gpu.md",
        "gpu",
        "`lanczos` takes {engines/lanczos, 128 samples/steps/0:.0f} to {engines/lanczos, 128 samples/steps/1:.0f} "
        "steps there. A Llama-3.1-8B block takes {large/top two, 32 samples/top two, ms a sample:.1f} ms a sample for "
        "the top two of both branches with 32 samples, {large/top two, 256 samples/top two, ms a sample:.1f} with 256; "
        "two layers of its shapes with 600 sentences took {large/2 layers, 600 sentences/seconds:.0f} s as a process, "
        "{large/2 layers, 600 sentences/seconds a stage/open model:.0f} of them drawing random weights, from which 32 "
        "layers would take about {large/projection, not a measurement/seconds of 32 layers, 600 sentences:.0f} s",
    ),
    (
        "docs/gpu.md",
        "gpu",
        "on nano and stories260K singular values differ by at most {deviations/nano lanczos singular_values/"
        "largest:.1e} of their value, ρ by {deviations/nano lanczos spectral_radius/largest:.1e}, δ by "
        "{deviations/nano analytic decay_ratio/largest:.1e}, steps of Lanczos and numerical ranks not at all, "
        "condition numbers of σ by up to {deviations/stories260K analytic condition_number/largest:.1e} (they divide "
        "by values near rounding), the radius of eigenvalues by {deviations/nano analytic eigenvalue_radius/"
        "largest:.1e}. `residual_gain` differs by up to {deviations/nano analytic residual_gain/largest:.0%}:",
    ),
    (
        "docs/gpu.md",
        "gpu_compile",
        "each candidate is compiled: {nano, default options/step:.0f} s for the step of nano's blocks, more than 8 s "
        "for every program of a GPT-2 block that was tried, which cuBLAS alone brings to {GPT-2 small, "
        "xla_gpu_enable_triton_gemm=false/analytic mlp:.1f} to {GPT-2 small, xla_gpu_enable_triton_gemm=false/jacfwd "
        "attn:.1f} s",
    ),
    (
        "docs/plan.md",
        "gpu_kernels",
        "The speed of products ({float32 products at precision highest, TFLOP/s:.0f} TFLOP/s in float32)",
    ),
    (
        "docs/plan.md",
        "cost",
        "on a CPU `lanczos` reaches {share of the products' speed that engines reach/lanczos:.2f} and `analytic` "
        "{share of the products' speed that engines reach/analytic:.2f} of the speed of plain products. - Hashing "
        "({process/hash, GB/s:.0f} GB/s), reading ({process/load, GB/s of float16:.2f} GB/s of float16) and judging "
        "bounds ({process/look, µs a sample:.0f} µs a sample)",
    ),
    (
        "docs/plan.md",
        "gpu",
        "reading, carrying and spectra took {runs/paper, compiled before/seconds a stage/spectra:.1f} s, of the "
        "{runs/paper, compiled before/seconds:.0f} to {runs/paper, nothing compiled yet/seconds:.0f} s of the "
        "whole process",
    ),
    (
        "docs/sources/jacobian_paper.md",
        "sources",
        "the stable rank of the tokens is {phases/SmolLM2-135M/medians by layer/token_stable_rank/15:.2f} in the layers"
        " of the middle, and their distance from rank one {phases/SmolLM2-135M/medians by layer/rank_one_distance/"
        "15:.2f} there",
    ),
    (
        "docs/sources/walk_through.md",
        "sources",
        "has a participation of {walk/Gaussian of c_attn's shape/participation:.0f}, κ = {walk/Gaussian of c_attn's "
        "shape/condition number:.2f}, {walk/Gaussian of c_attn's shape/ten components hold, %:.1f} % of its variance "
        "in ten components and 90 % in {walk/Gaussian of c_attn's shape/components for 90 %:.0f}.",
    ),
)
"""Further numbers: the page, the benchmark's file, the words with the path of each in it."""


@pytest.mark.parametrize(("page", "benchmark", "words"), HELD)
def test_number_of_a_benchmark_is_recorded(page: str, benchmark: str, words: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert formatted(words, recorded(benchmark)) in text


def test_every_preset_of_small_singular_values_is_on_its_page() -> None:
    page = (DOCS / "sources" / "small_singular_values.md").read_text(encoding="utf-8")
    presets = {file.stem for file in (ROOT / "conf" / "source").glob("small_*.yaml")}
    assert {"small_figure_9", "small_figure_10"} < presets
    assert sorted(presets - set(re.findall(r"\w+", page))) == []


def test_numbers_of_programs_are_those_that_are_tested() -> None:
    page = " ".join((DOCS / "compilation.md").read_text(encoding="utf-8").split())
    assert f"The default run has at most {MOST['default']}, the paper's" in page
    assert "data=shakespeare`) {paper}, `task=coupling` {coupling}, `task=depth` {depth};".format(**MOST) in page


def test_chance_of_an_overlap_is_as_computed() -> None:
    page = " ".join((DOCS / "overlap.md").read_text(encoding="utf-8").split())
    assert "at 768: {:.3f} on average, 1 % above {:.3f})".format(*null_overlap(768, 768)) in page


def test_size_of_a_page_is_the_one_that_is_tested() -> None:
    assert f"is below {SIZE / 1e6:.0f} MB" in (DOCS / "report.md").read_text(encoding="utf-8")


def test_conclusions_on_the_linear_model_hold() -> None:
    """What the page of “Small Singular Values Matter” says of exponents, laws, the small end and its order."""
    record, removed = recorded_claims("model"), recorded_claims("small")
    nano, smollm2 = record["nano"], record["SmolLM2-135M"]
    roles = ("q", "o", "up", "down")
    for role in roles:
        assert nano[role]["energy_exponent"][2] < -0.1
        assert abs(smollm2[role]["energy_exponent"][0]) < 0.1
        for found in (nano[role], smollm2[role]):
            assert found["small_output"][0] < found["small_output_chance"][0] or found is smollm2[role]
        own = smollm2[role]
        assert own["distance_model"][0] > 0.9 * own["distance_plain"][0] > 5 * own["distance_chance"][0]
        assert 0.25 < nano[role]["small_output"][0] / nano[role]["small_output_model"][0] < 2 or role == "q"
    up, down = smollm2["up"], smollm2["down"]
    assert up["small_output_given"][0] > 2 * up["small_output_chance"][0]
    assert up["small_output_given"][1] < up["small_output"][2]
    assert down["small_output_given"][0] == pytest.approx(down["small_output_chance"][0], rel=0.15)
    rank, p_value = up["rank correlation, found and given"]
    assert rank > 0.7
    assert p_value < 1e-3
    costs = {
        (model, role): (removal_costs(removed[model][role]), record[model][role]) for model in record for role in roles
    }
    known = {key: each for key, each in costs.items() if each[0] is not None}
    assert len(known) == 6

    def order(column: str) -> list[tuple[str, str]]:
        return sorted(known, key=lambda key: -known[key][1][column][0])[:4]

    by_cost = sorted(known, key=lambda key: -(known[key][0] or 0.0))
    assert order("small_output_given") == order("small_output_model") == order("small_output") == by_cost[:4]
    assert by_cost[:2] == [("SmolLM2-135M", "up"), ("SmolLM2-135M", "down")]
    assert order("small_output_chance")[:2] == [("nano", "up"), ("nano", "down")]
    assert {role for _, role in by_cost[4:]} == {"q", "o"}
    assert up["small_output"][0] < 1 < 4.5 < (known["SmolLM2-135M", "up"][0] or 0.0) < 5.5


def test_size_of_the_installation_is_recorded() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{recorded_pages()['installed, GB']:.1f} GB with all it depends on" in readme


def test_plan_is_as_printed(tmp_path: Path) -> None:
    page = _squeezed((DOCS / "plan.md").read_text(encoding="utf-8"))
    done = run_here("task=plan", "model=llama-3.1-70b", "data.samples=600", cwd=tmp_path)
    table = done.out[done.out.index(" devices ") : done.out.index("plan: ")].strip().splitlines()
    assert len(table) == 13, "a row a stage"
    assert _squeezed("\n".join(table)) in page
    shown = page[page.index("TFLOP carry") - 5 : page.index("devices 1")]
    printed = " ".join(done.out.split())
    assert len(shown.splitlines()) >= 6
    for part in re.split("[\n…]", shown):
        assert part.strip() in printed


def test_plan_of_the_papers_run_is_as_said(tmp_path: Path) -> None:
    page = " ".join((DOCS / "plan.md").read_text(encoding="utf-8").split())
    line = ("task=plan", "model=gpt2", "data.samples=600", "plan.stored_bytes=4", "hydra.run.dir=out")
    done = run_here(*line, cwd=tmp_path)
    flops = sum(float(number) for number in re.findall(r"([\d.]+) TFLOP (?:carry|are)", done.out))
    own = json.loads((tmp_path / "out" / "plan.json").read_text())["devices"][0]
    words = (
        "is {flops:.1f} TFLOP, and comes out at {together_low:.1f} to {together_high:.1f} s on one H100, {read_low:.1f}"
    )
    assert formatted(words, {"flops": flops, **own}) in page


def _squeezed(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.splitlines())
