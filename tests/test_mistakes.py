"""What is typed and what is said: mistakes with their answers, and spellings that are taken as they are meant."""

import shlex
from pathlib import Path

import pytest
from servers import TINY, assert_refused, copy_nano, files_below, run_command, run_here

from jacspec.cli.arguments import read_arguments
from jacspec.cli.keys import unread_keys
from jacspec.runs import open_run
from jacspec.spectra.metrics import METRICS
from jacspec.studies import STUDIES

FILES = (
    "own.txt",
    "a,b.txt",
    "a.txt",
    "b.txt",
    "a=b.txt",
    "c#d.txt",
    "sp ace.txt",
    "Müller.txt",
    "both,own.txt",
    "both",
)
TEXT = "The first sentence is here. Is this the second one? Here the third one ends.\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts of odd names and a model of one's own."""
    folder = tmp_path_factory.mktemp("typed")
    copy_nano(folder / "own model")
    copy_nano(folder / "own")
    for name in FILES:
        (folder / name).write_text(TEXT)
    return folder


MISTAKES = {
    # No KEY=VALUE
    "gpt2": "gpt2 is not KEY=VALUE. Type model=gpt2, if it is the model that is meant.",
    "own": "own is not KEY=VALUE. Type model=own, if it is the model that is meant.",
    "weights": "weights is a study. Type task=weights.",
    "stable_rank": "stable_rank is a metric. Type metrics.names=stable_rank.",
    "data.samples": "data.samples has no value. Type data.samples=VALUE; `jacspec help data.samples` says more.",
    "wieghts": "wieghts is not KEY=VALUE. Did you mean 'weights'? Type KEY=VALUE",
    "seed:3": "seed:3 is not KEY=VALUE. Type seed=3.",
    "seed = 3": "There are spaces around the = of seed. Type seed=3.",
    "seed= 3": "There are spaces around the = of seed. Type seed=3.",
    "seed =3": "There are spaces around the = of seed. Type seed=3.",
    "=3": "=3 has no key. Type KEY=VALUE",
    "data.path=sp ace.txt": "If it belongs to the word before it, type 'data.path=sp ace.txt'.",
    "seed=1 help": "help comes first. Type jacspec help.",
    # Options
    "--model gpt2": "--model gpt2: keys are typed without dashes. Type model=gpt2.",
    "--model=gpt2": "--model=gpt2: keys are typed without dashes. Type model=gpt2.",
    "-model gpt2": "keys are typed without dashes. Type model=gpt2.",
    "--data.samples=5": "keys are typed without dashes. Type data.samples=5.",
    "--batch-size 8": "--batch-size 8: keys are typed without dashes. Type engine.batch=8.",
    "--device cuda": "There is no option --device cuda. Type JAX_PLATFORMS=cpu (or cuda, tpu) in front",
    "--nonsense": "There is no option --nonsense. Type KEY=VALUE, without dashes; `jacspec --help` lists keys",
    # Other tools' names
    "device=cuda": "There is no key device. Type JAX_PLATFORMS=cpu (or cuda, tpu) in front of the command, or engine.",
    "batch_size=8": "There is no key batch_size. Type engine.batch=8.",
    "task=train batch_size=8": "There is no key batch_size. Type train.batch=8.",
    "output_dir=out": "There is no key output_dir. Type hydra.run.dir=out.",
    "model_name=gpt2": "There is no key model_name. Type model=gpt2.",
    "dataset=verse": "There is no key dataset. Type data=verse.",
    "num_samples=5": "There is no key num_samples. Type data.samples=5.",
    "max_length=32": "There is no key max_length. Type data.max_tokens=32.",
    "dtype=float64": "There is no key dtype. Type precision=float64.",
    "prompt=Hello.": "There is no key prompt. Type data.text=Hello..",
    "lr=3": "There is no key lr. Type finetune.learning_rate=3 or lazy.learning_rate=3 or train.learning_rate=3.",
    "task=train epochs=3": "There is no key epochs. Type train.steps=3.",
    "verbose=true": "There is no key verbose. Type JACSPEC_TRACEBACK=1 in front of the command",
    "n_jobs=2": "There is no key n_jobs. Jobs of a sweep run side by side: type hydra/launcher=joblib",
    "samples=5": "There is no key samples. Type data.samples=5.",
    "draws=4": "There is no key draws. Type compare.draws=4 or dynamics.draws=4 or heads.draws=4 or modes.draws=4 or ",
    "Seed=3": "There is no key Seed. Type seed=3.",
    "seeds=0,1": "There is no key seeds. Type -m seed=0,1.",
    # Several values
    "seed=0,1": "seed=0,1 has several values, and a run takes one. Type -m for a run of each: jacspec -m seed=0,1",
    "seed=range(3)": "Type -m for a run of each: jacspec -m 'seed=range(3)'",
    "model=gpt2,nano": "Type -m for a run of each: jacspec -m model=gpt2,nano",
    "model.revision=step0,step16": "Type -m for a run of each: jacspec -m model.revision=step0,step16",
    "data.path=a.txt,b.txt": "Type -m for a run of each: jacspec -m data.path=a.txt,b.txt",
    "data.path=both,own.txt": "there is a file of that name, and one of each of its parts. Type 'data.path=\"both,own",
    "seed=[0,1]": "seed=[0,1]: seed takes one value, not a list. Type -m seed=0,1 for a run of each.",
    "seed=[0]": "seed=[0]: seed takes one value, not a list. Type seed=0.",
    "task=finetune finetune.seeds=[1]": "finetune.seeds is how many seeds there are. Type finetune.seeds=1 seed=1.",
    "task=finetune finetune.seeds=0": "finetune.seeds is how many seeds there are. Type finetune.seeds=1 seed=0.",
    "-m model=gpt2,openai-community/gpt2": "Type one sweep for each.",
    # Layers and metrics
    "layers=2:": "ends are known before the model is. Type layers=0:4 for the first four, layers=-4: for the last fou",
    "layers=0-4": "layers=0-4 is not a range of layers. Type layers=0:5.",
    "layers=first:last": "layers=first:last is not a range of layers. Type layers=0:4 for the first four.",
    "metrics.names=all": "all metrics are called full. Type metrics=full.",
    # Keys and choices that there are not
    "data.sampels=4": "There is no key data.sampels. Did you mean 'data.samples'? Accepted: data.decoder_input, data.",
    "metric.names=[decay_ratio]": "There is no key metric. Did you mean 'metrics'?",
    "+unknown=1": "There is no key unknown. Accepted: ",
    "+data.unknown=1": "There is no key data.unknown. ",
    "data.samples=many": "data.samples takes a whole number, and many was given. Type data.samples=VALUE; `jacspec he",
    "data.samples=[4": "data.samples=[4 cannot be read. Type KEY=VALUE, lists as KEY=[VALUE,VALUE]. If it is text, ty",
    "precision=float16": "precision=float16 is not known. Did you mean 'float64'? Accepted: float32, float64.",
    "data.split=words": "data.split=words is not known. Accepted: lines, sentences.",
    "model.init=rnadom": "model.init=rnadom is not known. Did you mean 'random'? Accepted: pretrained, random.",
    "layers=one": "layers takes a whole number or a list of them, and [one] was given. Type layers=VALUE",
    "model=gpt3": "model=gpt3 is not a choice of model, nor a folder or ORG/NAME. Did you mean 'gpt2'? Accepted: al",
    "task=jacobain": "task=jacobain is not a choice of task. Did you mean 'jacobian'? Accepted: compare, ",
    "train.steps=5": "Keys as train.* belong to task=train: add it, or leave them out.",
    "merge.method=star": "Keys as merge.* belong to task=merge: add it, or leave them out.",
    "task=plan plan.devics=8": "There is no key plan.devics. Did you mean 'plan.devices'?",
    # Values that nothing takes
    "metrics.names=[decay_rate]": "metrics.names has 'decay_rate', which is no metric. Did you mean 'decay_ratio'? ",
    "metrics.names=[]": "metrics.names is empty. ",
    "components=[atn]": "components has 'atn', which is no component. Did you mean 'attn'? Accepted: all, attn, block",
    "components=[]": "components is empty. Accepted: all, attn, block, cross, decoder.attn",
    "engine.name=jacfwt": "engine=jacfwt is not known. Did you mean 'jacfwd'?",
    "model.revision=step1": "has no revision 'step1'. Accepted: step0, step1024, step16",
    "data.samples=0": "data.samples=0 is less than 1. Type data.samples=N with N of 1 or more.",
    "data.samples=-1": "data.samples=-1 is less than 1.",
    "data.max_tokens=0": "data.max_tokens=0 is less than 1.",
    "data.text=''": "data.text is empty.",
    "data.text=Hm data.min_tokens=9": "None of the 1 sentences in data.text has 9 tokens or more. Lower data.min_toke",
    "seed=-1": "seed=-1 is negative.",
    "engine.memory_gib=-1": "engine.memory_gib=-1",
    "report.formats=gif": "report.formats has 'gif'. Accepted: pdf, png.",
    "task=report": "task=report needs a finished run: run=FOLDER.",
    "task=plan data.samples=all": "task=plan reads no text, and so has no data.samples=all. Type data.samples=N.",
    "runs=nowhere": "runs=nowhere is read by task=compare or task=dynamics.",
    "run=nowhere": "run=nowhere is read by task=report",
    # Places that there are not
    "data=text": "data=text needs a text. Type data.path=FILE, or data.text=",
    "data=text data.path=nowhere.txt": "data.path=nowhere.txt is not a file. Give a UTF-8 text file.",
    "data=nowhere.txt": "data.path=nowhere.txt is not a file.",
    "data.path=[a": "data.path=[a is not a file.",
    "data=text data.path=.": "data.path=. is not a file.",
    "model=path": "model=path needs a place: model.path=FOLDER",
    "model=hub": "model=hub model.id=ORG/NAME",
    "model=path model.path=nowhere": "model.path=nowhere is not a folder. Give one with config.json and",
    "model=./nowhere": "model.path=./nowhere is not a folder.",
    "model=org/nowhere": "The model org/nowhere is not in the cache and the hub cannot be reached.",
    "resume=nowhere": "nowhere is not a run",
    "'resume=no where'": "no where is not a run",
    "task=report run=nowhere": "nowhere is not a run",
}


def test_no_mistake_is_lost() -> None:
    assert len(MISTAKES) >= 60


@pytest.mark.parametrize("typed", MISTAKES)
def test_mistake_is_answered(typed: str, place: Path) -> None:
    """In one message that says what is wrong and what to type; nothing is left behind."""
    before = files_below(place)
    tiny = () if any(word.partition("=")[0] in typed for word in TINY) else TINY
    done = run_here(*shlex.split(typed), *tiny, cwd=place)
    assert_refused(done, place, MISTAKES[typed].rstrip())
    assert done.err.count("\n") <= 2, done.err
    assert files_below(place) == before


@pytest.mark.parametrize("typed", ["data.sampels=4", "--model gpt2"])
def test_mistake_is_answered_by_the_command_itself(typed: str, tmp_path: Path) -> None:
    done = run_command(*shlex.split(typed), cwd=tmp_path)
    assert_refused(done, tmp_path, MISTAKES[typed])
    assert files_below(tmp_path) == set()


MEANT = {
    # One value where a list is meant
    "components=mlp": "components=[mlp]",
    "components=attn,mlp": "components=[attn,mlp]",
    "-m components=attn,mlp": "-m components=[attn],[mlp]",
    "-m components=[attn,mlp],[block]": "-m components=[attn,mlp],[block]",
    "components=all": "components=[all]",
    "metrics.names=stable_rank": "metrics.names=[stable_rank]",
    "metrics=stable_rank": "metrics.names=[stable_rank]",
    "metrics=full": "metrics=full",
    "report.figures=spectra": "report.figures=[spectra]",
    "report.figures=none": "report.figures=none",
    "report.formats=pdf": "report.formats=[pdf]",
    "task=finetune finetune.roles=q": "task=finetune finetune.roles=[q]",
    "task=removal removal.ranges=[0,0.1]": "task=removal removal.ranges=[[0,0.1]]",
    "task=weights weights.include=q,*.mlp.*": "task=weights weights.include=[q,*.mlp.*]",
    "data.position=[1,2]": "data.position=[1,2]",
    # Layers
    "layers=3": "layers=[3]",
    "layers=0:4": "layers=[0,1,2,3]",
    "layers=:2": "layers=[0,1]",
    "layers=-2:": "layers=[-2,-1]",
    "layers=0:6:2": "layers=[0,2,4]",
    "layers=[0,2:4]": "layers=[0,2,3]",
    "-m layers=0:2,2:4": "-m layers=[0,1],[2,3]",
    "layers=all": "layers=null",
    # Texts
    "data.samples=all": "data.samples=null",
    'data.text="To be, or not: \'tis it."': r"""data=text data.min_tokens=1 data.text='To be, or not: \'tis it.'""",
    "data=own.txt": "data=text data.path=own.txt",
    "-m data=a.txt,b.txt": "-m data=text data.path=a.txt,b.txt",
    "data=verse": "data=verse",
    # Paths
    "data.path=~/x.txt": f"data.path={Path.home()}/x.txt",
    "data.path=Müller.txt": "data.path='Müller.txt'",
    "data.path=a=b.txt": "data.path='a=b.txt'",
    "data.path=c#d.txt": "data.path='c#d.txt'",
    "data.path=a,b.txt": "data.path='a,b.txt'",
    "'data.path=sp ace.txt'": "data.path=sp ace.txt",
    """'data.path="sp ace.txt"'""": 'data.path="sp ace.txt"',
    r"'data.path=a\,b.txt'": r"data.path=a\,b.txt",
    "hydra.run.dir=~/r": f"hydra.run.dir={Path.home()}/r",
    "'hydra.run.dir=a, b'": "hydra.run.dir='a, b'",
    "'hydra.run.dir=runs/${now:%Y}'": "hydra.run.dir=runs/${now:%Y}",
    "runs=[~/a,b]": f"runs=[{Path.home()}/a,b]",
    "runs=a,b": "runs=[a,b]",
    "runs=multirun/1": "runs=multirun/1",
    # Models
    "model=gpt2": "model=gpt2",
    "model=openai-community/gpt2": "model=hub model.id=openai-community/gpt2",
    "-m model=a/b,c/d": "-m model=hub model.id=a/b,c/d",
    "model=own": "model=path model.path=own",
    "'model=own model'": "model=path model.path=own model",
    "model.revision=12345e7": "model.revision='12345e7'",
    "-m model.revision=step0,step16": "-m model.revision=step0,step16",
    # As Hydra has it
    "-m seed=0,1 hydra/launcher=joblib": "-m seed=0,1 hydra/launcher=joblib",
    "engine.devices=2": "engine.devices=2",
    "--cfg job task=weights": "--cfg job task=weights",
    "-sc query=bash": "-sc query=bash",
    "+model.config.n_layer=2": "+model.config.n_layer=2",
}


@pytest.mark.parametrize("typed", MEANT)
def test_spelling_is_taken_as_it_is_meant(typed: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert " ".join(read_arguments(shlex.split(typed))) == MEANT[typed]


@pytest.mark.parametrize("typed", ["data.samples=4", "seed=3", "task=weights", "metrics.top_k=3", "model.path=null"])
def test_plain_words_stay_as_they_are(typed: str) -> None:
    assert read_arguments([typed]) == [typed]


def test_spelling_does_not_change_the_run(place: Path, tmp_path: Path) -> None:
    """What a run begun in one spelling computes is resumed in another; of another layer it is refused."""
    plain = (*TINY, "data=text", "data.path=own.txt", "report.figures=none", "model=path", "model.path='own model'")
    first = run_here(*plain, "components=[mlp]", "layers=[0,1]", f"hydra.run.dir={tmp_path}/a b", cwd=place)
    assert first.code == 0, first.err
    other = (*TINY, "data=own.txt", "report.figures=none", "model=own model", "components=mlp")
    again = run_here(*other, "layers=0:2", f"resume={tmp_path}/a b", cwd=place)
    assert again.code == 0, again.err
    run = open_run(tmp_path / "a b")
    assert run.provenance["identity"]["config"]["components"] == ["mlp"]
    assert sorted(set(run.metrics["layer"])) == [0, 1]
    done = run_here(*other, "layers=0:3", f"resume={tmp_path}/a b", cwd=place)
    assert "config.layers was [0, 1], now [0, 1, 2]" in done.err


def test_text_that_is_typed_is_measured(tmp_path: Path) -> None:
    """One sentence, all components, fewer samples than asked for: the numbers of Python, and a note."""
    import jacspec

    text = "Speak, citizens: what is the city but the people?"
    line = (f"data.text={text}", "components=all", "layers=0", "report.figures=none", "hydra.run.dir=out")
    done = run_here(*line, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "1 samples, not 200: data.text has no more of 1 tokens or more" in done.out
    run = open_run(tmp_path / "out")
    assert list(run.components) == ["attn", "mlp", "block"]
    assert list(run.samples["text"]) == [text]
    found = jacspec.compute_spectra(jacspec.load_model(), [text], components=["attn", "mlp", "block"], layers=[0])
    assert found["spectral_radius"].to_numpy().ravel() == pytest.approx(run.metrics["spectral_radius"], rel=1e-6)


def test_all_samples_are_taken(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text(TEXT)
    line = ("data=own.txt", "data.samples=all", "components=mlp", "layers=0", "report.figures=none", "tables=csv")
    done = run_here(*line, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "changes nothing" not in done.out
    assert len(open_run(tmp_path / "out").samples) == 3
    assert "no more" not in done.out


def test_keys_of_messages_are_keys() -> None:
    """What other tools' names are answered with are keys and groups that there are."""
    from jacspec.cli.keys import LAST, SYNONYMS, groups, kinds

    known = {*kinds(), *groups(), "hydra.run.dir"}
    assert set(SYNONYMS) <= known
    assert all(any(key.endswith(f".{last}") for key in kinds()) for last in LAST.values())
    names = [name for each in SYNONYMS.values() for name in each]
    assert len(set(names)) == len(names)
    assert not set(names) & known


def test_quoting_survives_hydra(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any text comes out of Hydra as it went in; without our quotes it does not."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    monkeypatch.chdir(place)
    for text in (
        "a'b",
        'a"b',
        "a\\b",
        "a\\",
        "#",
        "a:b",
        "(x)",
        "[x]",
        "{x}",
        "é",
        "a b ",
        "1e5",
        "true",
        "x\ty",
        "%$!&",
    ):
        (word,) = (each for each in read_arguments([f"data.text={text}"]) if each.startswith("data.text="))
        assert parser.parse_override(word).value() == text
    with pytest.raises(HydraException):
        parser.parse_override("data.text=é")


UNREAD = {
    "task=depth layers=[0] components=mlp depth.last=3": ["layers", "components"],
    "task=coupling layers=[0] components=mlp engine.batch=4": [],
    "task=weights data=verse data.samples=5 engine.memory_gib=2 ~model.path": [
        "data",
        "data.samples",
    ],
    "task=heads metrics=full engine.batch=4 report.figures=none": ["metrics", "engine.batch"],
    "task=compare runs=[a,b] model=gpt2 seed=1 precision=float64": ["model", "precision"],
    "task=train data=verse +train.positions=16 log=null": [],
}


@pytest.mark.parametrize("typed", UNREAD)
def test_what_a_study_does_not_read_is_named(typed: str) -> None:
    words = typed.split()
    assert unread_keys(words, STUDIES[words[0].removeprefix("task=")]) == UNREAD[typed]


def test_metrics_are_known_without_jax() -> None:
    from jacspec.cli.help import metric_words

    assert metric_words() == {name: row.definition for name, row in METRICS.items()}
