"""A GPT-2-architecture model with its own tokenizer, trained from scratch on one text."""

from jacspec.studies.study import Study

STUDY = Study(
    name="train",
    run="jacspec.studies.train.run:run_train",
    options="jacspec.studies.train.options:TrainOptions",
    inputs=frozenset({"text"}),
    takes=("seed",),
    resumable=False,
)
