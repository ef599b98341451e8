"""Every task that resumes on a file system that fills up, then is given room, and is resumed."""

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kills
from small_runs import arguments

ROOM = "256m"


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system in memory of that size on a new folder; needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_and_go_on(task: str, model: Path, whole: kills.Whole, cwd: Path, seed: int) -> dict[str, Any]:
    """Let a run fill a disk of a random size up to what the run takes, give it room, resume it and compare."""
    needed = sum(file.stat().st_size for file in whole.folder.rglob("*") if file.is_file())
    size = random.Random(seed).randint(4, max(needed // 1024, 8))
    disk = cwd / "disk"
    with small_file_system(disk, f"{size}k"):
        run = kills.start([*arguments(task, model), "hydra.run.dir=disk/run"], cwd)
        run.join()
        said = kills.said(cwd)
        full = run.exitcode == 1 and said.startswith("jacspec: ") and "No space left" in said
        subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(disk)], check=True)
        folder = disk / "run"
        again = f"resume={folder}" if (folder / "run.json").exists() else f"hydra.run.dir={folder}"
        run = kills.start([*arguments(task, model), again], cwd)
        run.join()
        differing = kills.differing_files(whole.folder, folder) if run.exitcode == 0 else [kills.said(cwd)]
    return {
        "task": task,
        "KiB": size,
        "said so": full,
        "stderr": "" if full else said,
        "resumed": again[:6] == "resume",
        "differing": differing,
    }
