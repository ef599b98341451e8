"""The run folder: written in parts so that a kill loses at most the part in work, resumed, read.

| file            | content                                                                        |
|-----------------|--------------------------------------------------------------------------------|
| `run.json`      | provenance, written first; `status` is `unfinished` until all else is there    |
| `samples.csv`   | sample, n_tokens, text                                                         |
| `layers/`       | one file a finished layer while the run goes on; the truth that resuming reads |
| `metrics.csv`   | one row a (layer, component, sample), a column a metric                        |
| `summary.csv`   | one row a (layer, component, metric): the distribution over samples            |
| `spectra.nc`    | xarray Dataset: singular values and metrics with labelled axes                 |
| `figures/`, `report.html` | drawn from the files above by `jacspec.report`                       |

| file            | holds                                                     |
|-----------------|-----------------------------------------------------------|
| `files.py`      | files put in place whole and durably                      |
| `folder.py`     | `Run`, a folder as it is read                             |
| `tables.py`     | labelled arrays and distributions of a run over samples   |
| `writing.py`    | where a run may write, how it begins, is resumed and ends |
| `layers.py`     | a run over samples, written layer by layer or by shards   |
| `rows.py`       | a run of matrices or experiments, written batch by batch  |
| `checks.py`     | whether a folder holds what its run wrote                 |
| `workers.py`    | which of several processes this is, and their heartbeats  |
| `rendezvous.py` | how these processes meet at an address                    |
| `several.py`    | several finished runs at once, as one table               |
| `tracking.py`   | what a tracker of experiments is told; tables as Parquet  |
"""

from jacspec.runs.files import RUN_FILE, SPECTRA, write_atomically, write_csv, write_json
from jacspec.runs.folder import Run, differing_keys, open_run, read_run_file
from jacspec.runs.layers import RunWriter, resume_run, start_run
from jacspec.runs.tables import QUANTILES, SUMMARY_COLUMNS, summarise, summary_rows, to_dataset

__all__ = [
    "QUANTILES",
    "RUN_FILE",
    "SPECTRA",
    "SUMMARY_COLUMNS",
    "Run",
    "RunWriter",
    "differing_keys",
    "open_run",
    "read_run_file",
    "resume_run",
    "start_run",
    "summarise",
    "summary_rows",
    "to_dataset",
    "write_atomically",
    "write_csv",
    "write_json",
]
