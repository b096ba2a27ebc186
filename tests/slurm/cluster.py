"""A private SLURM cluster of two nodes on this machine: real daemons, fake GPUs, no root and no systemd.

Both nodes are this machine, with a slurmd each. Authentication is off: for tests only. What each odd line is
for was found by trial with Debian's slurm-wlm 22.05; newer versions have not been tried.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NODES, GPUS_PER_NODE = 2, 8
PROGRAMS = ("slurmctld", "slurmd", "sbatch")
START_S = 30.0

SLURM_CONF = """\
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
# a requeued job waits for its old credential to expire: 121 s by default, and below 5 counts for nothing
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
# without task/affinity no srun binds a rank to its cores
TaskPlugin=task/affinity
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=64
ReturnToService=2
KillWait=30
MinJobAge=3600
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] \
CPUs=16 CoresPerSocket=16 RealMemory=64000 Gres=gpu:{gpus}
# without DefaultTime one job blocks the rest
PartitionName=main Nodes=node[1-{nodes}] Default=YES DefaultTime=5 MaxTime=60 State=UP
"""
GRES_CONF = "AutoDetect=off\nNodeName=node[1-{nodes}] Name=gpu File={folder}/gpu/nvidia[0-{last_gpu}]\n"
CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"  # `disabled` kills slurmd 22.05


def missing() -> str | None:
    """Why no cluster can be started here; None if one can."""
    gone = [name for name in PROGRAMS if _find(name) is None]
    return f"{', '.join(gone)} not found (apt-get install slurm-wlm)" if gone else None


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """The path of slurm.conf, for SLURM_CONF, while the cluster runs."""
    for name in ("state", "run", "log", "gpu", *(f"spool/node{i}" for i in range(1, NODES + 1))):
        (folder / name).mkdir(parents=True)
    for index in range(GPUS_PER_NODE):  # GPUs that are only counted would make the node invalid
        (folder / "gpu" / f"nvidia{index}").symlink_to("/dev/null")
    conf = _write_configuration(folder)
    env = {**os.environ, "SLURM_CONF": str(conf)}
    try:
        _daemon(["slurmctld", "-c"], env)
        for index in range(1, NODES + 1):
            _daemon(["slurmd", "-N", f"node{index}"], env)
        _wait_until_idle(env, folder)
        yield conf
    finally:
        _stop(folder)


def _write_configuration(folder: Path) -> Path:
    port = _free_ports(NODES + 1)
    text = SLURM_CONF.format(
        host=socket.gethostname().split(".")[0],
        user=getpass.getuser(),
        folder=folder,
        nodes=NODES,
        gpus=GPUS_PER_NODE,
        port=port,
        first=port + 1,
        last=port + NODES,
    )
    (folder / "slurm.conf").write_text(text)
    gpus = GRES_CONF.format(nodes=NODES, folder=folder, last_gpu=GPUS_PER_NODE - 1)
    (folder / "gres.conf").write_text(gpus)
    (folder / "cgroup.conf").write_text(CGROUP_CONF)
    return folder / "slurm.conf"


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def _daemon(command: list[str], env: dict[str, str]) -> None:
    program = _find(command[0])
    assert program is not None
    subprocess.run([program, *command[1:]], env=env, check=True, capture_output=True, text=True)


def _wait_until_idle(env: dict[str, str], folder: Path) -> None:
    def idle() -> bool:
        found = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], env=env, capture_output=True, text=True)
        return found.stdout.split() == ["idle"] * NODES

    logs = [path.read_text()[-2000:] for path in (folder / "log").iterdir()]
    assert _until(idle, timeout_s=START_S), "\n".join(["the cluster did not start:", *logs])


def _stop(folder: Path) -> None:
    """The daemons, by the ids that they wrote; their jobs went with the tests that started them."""
    processes = [int(path.read_text()) for path in (folder / "run").glob("*.pid")]
    for pid in processes:
        _signal(pid, signal.SIGTERM)
    if not _until(lambda: not any(_signal(pid, 0) for pid in processes), timeout_s=10.0):
        for pid in processes:
            _signal(pid, signal.SIGKILL)


def _signal(pid: int, signum: int) -> bool:
    """Whether the process was there."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def _until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for first in range(27000, 31000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return first
    raise OSError("no free ports for a cluster")
