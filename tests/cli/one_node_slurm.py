"""A Slurm cluster of this one machine, with a configuration of its own, for as long as a test needs it."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
_PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
_SECONDS = 30
_CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={megabytes}
PartitionName=all Nodes=node Default=YES MaxTime=INFINITE State=UP
"""
# Debian's sacct needs a database. This one answers what submitit asks, from what slurmctld knows.
_SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
scontrol -o show jobs | sed -n \
  's/^JobId=[0-9]* ArrayJobId=\\([0-9]*\\) ArrayTaskId=\\([0-9]*\\) .* JobState=\\([A-Z_]*\\) .*/\\1_\\2|\\3|node/p'
"""


@contextlib.contextmanager
def one_node_slurm(*, cpus: int, megabytes: int) -> Iterator[dict[str, str]]:
    """Start Slurm's daemons as the present user; yield the environment in which its commands find them.

    Args:
        cpus, megabytes: what the node claims to have, whatever the machine has.

    Skips the test where Slurm is not installed, or its daemons do not come up. Ends jobs and daemons afterwards.
    """
    missing = [name for name in (*DAEMONS, "sbatch", "srun") if shutil.which(name, path=_PLACES) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: install Debian's slurm-wlm and munge")
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        _configure(folder, cpus, megabytes)
        env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder}/bin{os.pathsep}{_PLACES}"}
        munge = [f"--{name}-file={folder / name}" for name in ("key", "log", "pid", "seed")]
        stack.enter_context(_daemon(["munged", "--foreground", f"--socket={folder}/munge.socket", *munge], env))
        _until((folder / "munge.socket").exists, "munged", folder / "log")
        for daemon in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "node"]):
            stack.enter_context(_daemon(daemon, env))
        _until(lambda: _asked(["sinfo", "-h", "-o", "%T"], env) == "idle", "Slurm", folder / "slurmd.log")
        stack.callback(_end_jobs, env)
        yield env


def jobs(env: dict[str, str]) -> list[str]:
    """Return the numbers of all jobs that wait or run, or are about to end."""
    return _asked(["squeue", "-h", "-o", "%i"], env).split()


def _configure(folder: Path, cpus: int, megabytes: int) -> None:
    host = socket.gethostname().partition(".")[0]
    user = pwd.getpwuid(os.geteuid()).pw_name
    config = _CONFIG.format(folder=folder, host=host, user=user, ports=_ports(2), cpus=cpus, megabytes=megabytes)
    (folder / "slurm.conf").write_text(config)
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o600)
    (folder / "spool").mkdir()
    sacct = folder / "bin" / "sacct"
    sacct.parent.mkdir()
    sacct.write_text(_SACCT)
    sacct.chmod(0o755)


def _ports(number: int) -> list[int]:
    """Return ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _daemon(command: list[str], env: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(condition: Callable[[], bool], what: str, log: Path) -> None:
    """Wait, or skip the test with the end of the log."""
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            lines = log.read_text().splitlines()[-5:] if log.is_file() else ["no log"]
            pytest.skip(f"{what} does not run here: {' / '.join(lines)}")
        time.sleep(0.2)


def _asked(command: list[str], env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout.strip()


def _end_jobs(env: dict[str, str]) -> None:
    """Cancel what still runs, and wait for it: without its daemons a job would go on for ever."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    subprocess.run(["scancel", "-s", "KILL", "-u", user], env=env, check=True)
    subprocess.run(["scancel", "-u", user], env=env, check=True)
    deadline = time.monotonic() + _SECONDS
    while jobs(env):
        assert time.monotonic() < deadline, "Slurm's jobs do not end"
        time.sleep(0.2)
