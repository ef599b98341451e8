"""Stand-ins for SLURM's commands: they start what a script asks for on this machine, with SLURM's variables."""

import sys
from pathlib import Path

SBATCH = """
script = sys.argv[-1]
subprocess.run(["bash", "-n", script], check=True)
text = open(script).read()
found = re.search(r"^#SBATCH --array=(\\d+)-(\\d+)", text, re.M)
tasks = range(int(found[1]), int(found[2]) + 1) if found else [None]
count = re.search(r"^#SBATCH --ntasks=(\\d+)", text, re.M)
print("Submitted batch job", JOB, flush=True)
if os.fork():
    sys.exit()
os.setsid()
for number in range(3):
    os.dup2(os.open(os.devnull, os.O_RDWR), number)
for task in tasks:
    job = JOB + (task or 0)
    array = {} if task is None else {"SLURM_ARRAY_JOB_ID": str(JOB), "SLURM_ARRAY_TASK_ID": str(task)}
    environment = os.environ | array | {"SLURM_JOB_ID": str(job), "SLURM_NTASKS": count[1] if count else "1"}
    code = subprocess.run(["bash", script], env=environment).returncode
    with open(ENDED, "a") as stream:
        name = JOB if task is None else f"{JOB}_{task}"
        print(f"{name}|{'COMPLETED' if code == 0 else 'FAILED'}|here|", file=stream)
"""

SRUN = """
words, count, output = sys.argv[1:], os.environ.get("SLURM_NTASKS", "1"), None
while words[0].startswith("-"):
    name, _, value = words.pop(0).partition("=")
    if name in ("--output", "--error"):
        value = value or words.pop(0)
    count, output = (value if name == "--ntasks" else count), (value if name == "--output" else output)
job, array, task = (os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))
started = []
for number in range(int(count)):
    own = {"PROCID": str(number), "LOCALID": str(number), "NTASKS": count, "JOB_ID": job or str(JOB)}
    own |= {"STEP_NODELIST": "127.0.0.1", "NODELIST": "127.0.0.1", "STEP_NUM_TASKS": count, "STEP_NUM_NODES": "1"}
    own |= {"NNODES": "1", "NODEID": "0"}
    place = (output or os.devnull).replace("%A", array).replace("%a", task).replace("%t", str(number))
    environment = os.environ | {f"SLURM_{name}": value for name, value in own.items()}
    started.append(subprocess.Popen(words, env=environment, stdout=open(place, "w")))
sys.exit(max(process.wait() for process in started))
"""

SACCT = """
print("JobID|State|NodeList|")
print(open(ENDED).read() if os.path.exists(ENDED) else "", end="")
"""


def install(folder: Path) -> Path:
    """Write `sbatch`, `srun`, `sacct` and `scancel` into a folder; returns where jobs that ended are listed."""
    ended = folder / "ended"
    head = f"#!{sys.executable}\nimport os, re, subprocess, sys\nJOB, ENDED = 4242, {str(ended)!r}\n"
    for name, body in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": ""}.items():
        (folder / name).write_text(head + body, encoding="utf-8")
        (folder / name).chmod(0o755)
    return ended
