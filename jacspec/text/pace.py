"""Tokenizers with regular expressions, tried in a process that can be ended before they are used in this one."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from jacspec.errors import JacspecError

PACE_SECONDS, PACE_CHARACTERS, PACE_BYTES = 10.0, 50_000, 4 * 2**30
"""What expressions may take: seconds, characters a second beyond these, and memory; published ones take millions."""

NO_WORDS = {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}
SLOW = "the regular expressions of this tokenizer are damaged or hostile: cutting these texts does not"
TRY = """
import json, resource, sys
from tokenizers import Tokenizer
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
tokenizer, texts = json.load(sys.stdin.buffer)
Tokenizer.from_str(json.dumps(tokenizer)).encode_batch_fast(texts)
"""
"""Cut texts as a tokenizer does, without its vocabulary; what it raises, it raises here again."""


def check_pace(tokenizer: Any, texts: Sequence[str]) -> None:
    """Refuse a tokenizer whose regular expressions take without end for these texts, by trying them in a process.

    An expression as `(?:[a-z]{1,2}){20}X` tries a million ways at each letter, which nothing in it tells for sure, and
    its library listens to no signal meanwhile. Tokenizers without expressions, as most have none, are not tried.

    **Raises:** `JacspecError` where the time or the memory of the process runs out.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    steps: dict[str, Any] = {}
    for name in ("normalizer", "pre_tokenizer"):
        with contextlib.suppress(Exception):  # one that is written in Python cannot be written down
            step = getattr(backend, name)
            steps[name] = None if step is None else json.loads(step.__getstate__())
    if '"Regex"' not in json.dumps(steps):
        return
    seconds = PACE_SECONDS + sum(map(len, texts)) / PACE_CHARACTERS
    given = json.dumps([{"version": "1.0", "added_tokens": [], "model": NO_WORDS, **steps}, texts])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", TRY, str(PACE_BYTES)],
            input=given.encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise JacspecError(f"{tokenizer.name_or_path}: {SLOW} end within {seconds:.0f} seconds.") from None
    if done.returncode < 0:
        raise JacspecError(f"{tokenizer.name_or_path}: {SLOW} end within {PACE_BYTES // 2**30} GiB of memory.")
