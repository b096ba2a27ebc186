"""The doctor's checks of the machine: GPUs, cores, memory, and the programs that some features need."""

import os
import shutil
import subprocess
from pathlib import Path

from megatron_r1.doctor.finding import Finding, Status
from megatron_r1.doctor.packages import torch_facts
from megatron_r1.errors import R1Error
from megatron_r1.rewards.coding.sandbox import cgroup, proof
from megatron_r1.runtime.cores import usable_cores

GIB = 2**30
UTIL_LINUX = "apt-get install util-linux mount python3-minimal"
MIB = 2**20


def command_version(*command: str) -> str | None:
    """The first line that a version command prints; None if the program is not installed."""
    if shutil.which(command[0]) is None:
        return None
    child = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return ((child.stdout or child.stderr).strip().splitlines() or [command[0]])[0]


def cuda() -> Finding:
    facts, used_for = torch_facts(), "training and rollout on GPUs; the CPU serves without"
    driver = command_version("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    if facts.gpus:
        return Finding(f"{facts.cuda}, driver {driver or 'unknown'}", used_for)
    if driver is None:
        return Finding("no driver", used_for, Status.ABSENT)
    return Finding(
        f"driver {driver}, torch (CUDA {facts.cuda or 'none'}) sees no device",
        used_for,
        Status.BROKEN,
        remedy="nvidia-smi",
        note="Usually the driver is too old for torch's CUDA, or CUDA_VISIBLE_DEVICES hides the devices.",
    )


def gpus() -> Finding:
    found = torch_facts().gpus
    counts = [f"{found.count(name)} x {name}" for name in dict.fromkeys(found)]
    return Finding(", ".join(counts) or "none", "one rank each", Status.OK if found else Status.ABSENT)


def nccl() -> Finding:
    version = torch_facts().nccl
    return Finding(
        version or "missing",
        "communication between GPUs (gloo between CPU ranks)",
        Status.OK if version else Status.ABSENT,
    )


def cores() -> Finding:
    return Finding(str(usable_cores()), "ranks on the CPU, graders, the sandbox")


def memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        total = min(total, int(text))
    return Finding(f"{total / GIB:.1f} GiB", "weights, optimizer and activations of CPU ranks")


def shared_memory() -> Finding:
    used_for, place = "NCCL and gloo between the ranks of a machine", Path("/dev/shm")
    if not place.is_dir():
        return Finding("no /dev/shm", used_for, Status.BROKEN, "mount -t tmpfs tmpfs /dev/shm")
    size = shutil.disk_usage(place).total
    if size >= GIB:
        return Finding(f"{size / GIB:.1f} GiB", used_for)
    return Finding(
        f"{size / MIB:.0f} MiB",
        used_for,
        Status.BROKEN,
        remedy="mount -o remount,size=8g /dev/shm",
        note="Containers get 64 MiB unless told otherwise: docker run --shm-size=8g, or --ipc=host.",
    )


def bubblewrap() -> Finding:
    used_for = "the sandbox for code that the model writes"
    version = command_version("bwrap", "--version")
    if version is None:
        return Finding("absent", used_for, Status.ABSENT, "apt-get install bubblewrap")
    sandbox = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    trial = subprocess.run(sandbox, capture_output=True, text=True, timeout=30, check=False)
    if trial.returncode == 0:
        return _whole_sandbox(version.removeprefix("bubblewrap "), used_for)
    return Finding(
        f"{version.removeprefix('bubblewrap ')}, refused by the kernel",
        used_for,
        Status.BROKEN,
        remedy="sysctl -w kernel.unprivileged_userns_clone=1",
        note=f"An empty sandbox does not start: {trial.stderr.strip()}\nUser namespaces are switched off: by "
        "this sysctl, by kernel.apparmor_restrict_unprivileged_userns=1, or by the container's seccomp.",
    )


def _whole_sandbox(version: str, used_for: str) -> Finding:
    """bubblewrap starts; check the complete sandbox, with its limits and seccomp filter."""
    try:
        found = proof.fault()
    except R1Error as error:  # a tool is missing
        return Finding(f"{version}, incomplete", used_for, Status.BROKEN, UTIL_LINUX, note=str(error))
    if found is None:
        return Finding(version, used_for, note=cgroup.holds())
    return Finding(f"{version}, leaks", used_for, Status.BROKEN, note=f"In the whole sandbox, {found}.")


def slurm() -> Finding:
    version = command_version("sbatch", "--version")
    used_for = "runs on a cluster, from its login node"
    return Finding(version or "absent", used_for, Status.OK if version else Status.ABSENT)


def chromium() -> Finding:
    version = command_version("chromium", "--version")
    status = Status.OK if version else Status.ABSENT
    remedy = "" if version else "apt-get install chromium"
    found = " ".join(version.split()[:2]) if version else "absent"
    return Finding(found, "the tests that open the report in a browser", status, remedy)
