"""Groups of singular values removed before fine-tuning a classifier, or after it."""

from jacspec.studies.study import EXPERIMENTS, Page, Study

STUDY = Study(
    name="finetune",
    run="jacspec.studies.finetune.run:run_finetune",
    options="jacspec.studies.finetune.options:FinetuneOptions",
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "finetune", "layers", "precision", "seed"}),
    takes=("precision", "seed"),
    rows=EXPERIMENTS,
    columns=("jacspec.studies.finetune.columns:FINETUNE",),
    figures="jacspec.studies.finetune.figures:finetune_figures",
    page=Page(
        title="removal of singular values before and after fine-tuning",
        reading=(
            "Each matrix of the chosen roles loses one group of its singular values (group 1: the largest), "
            "either before the model is fine-tuned or after it. What fine-tuning makes good shows in the first "
            "order; what the fine-tuned model needs of the group shows in the second. The accuracy is that of "
            "examples held out; chance is the answer that is right most often among them.",
        ),
    ),
)
