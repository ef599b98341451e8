"""What HF's code reads of a config, derived from its source, beside what jacspec honours, ignores and refuses."""

import pytest
from families import CASES
from hf_source import keys_read

from jacspec.models.architectures import IGNORED_EVERYWHERE, ReadKeys
from jacspec.models.families import ARCHITECTURES
from jacspec.models.hf_config import read_config

REFUSED = {"per_layer_config", "quantization_config"}
"""Of every family, whatever the value."""
