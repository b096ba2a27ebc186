"""Findings about the machine, with programs that are real scripts on a PATH of our own."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from megatron_r1.doctor import machine
from megatron_r1.doctor.finding import Status
from megatron_r1.doctor.packages import TorchFacts
from megatron_r1.errors import R1Error

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a program; nothing but these can be found."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


def facts(monkeypatch, **values):
    monkeypatch.setattr(machine, "torch_facts", lambda: TorchFacts(**values))


def test_programs_that_are_absent_are_options(program):
    for probe in (machine.bubblewrap, machine.slurm, machine.chromium):
        finding = probe()
        assert (finding.found, finding.status, finding.essential) == ("absent", Status.ABSENT, False)
    assert machine.bubblewrap().remedy == "apt-get install bubblewrap"
    assert machine.chromium().remedy == "apt-get install chromium"


def test_programs_that_are_here_show_their_version(program):
    program("sbatch", "echo slurm-wlm 22.05.8")
    program("chromium", "echo Chromium 156.0.8078.79 built on Debian GNU/Linux 12")
    assert machine.slurm().found == "slurm-wlm 22.05.8"
    assert machine.chromium().found == "Chromium 156.0.8078.79"


@pytest.mark.slow
def test_bubblewrap_counts_only_if_a_sandbox_starts(program, monkeypatch):
    program("bwrap", 'if [ "$1" = --version ]; then echo bubblewrap 0.8.0; fi')
    monkeypatch.setattr(machine.proof, "fault", lambda: None)
    assert (machine.bubblewrap().found, machine.bubblewrap().status) == ("0.8.0", Status.OK)
    program(
        "bwrap",
        'if [ "$1" = --version ]; then echo bubblewrap 0.8.0; else echo "No permissions" >&2; exit 1; fi',
    )
    finding = machine.bubblewrap()
    assert finding.status is Status.BROKEN
    assert "No permissions" in finding.note


def test_a_sandbox_that_leaks_or_lacks_a_tool_is_broken(program, monkeypatch):
    program("bwrap", 'if [ "$1" = --version ]; then echo bubblewrap 0.8.0; fi')
    monkeypatch.setattr(machine.proof, "fault", lambda: "not true in it: it has no network")
    assert (machine.bubblewrap().found, machine.bubblewrap().status) == ("0.8.0, leaks", Status.BROKEN)

    def without_a_tool():
        raise R1Error("no prlimit")

    monkeypatch.setattr(machine.proof, "fault", without_a_tool)
    assert (machine.bubblewrap().found, machine.bubblewrap().note) == ("0.8.0, incomplete", "no prlimit")


def test_a_machine_without_a_driver_runs_on_the_cpu(program, monkeypatch):
    facts(monkeypatch, cuda="13.0")
    assert (machine.cuda().found, machine.cuda().status) == ("no driver", Status.ABSENT)
    assert (machine.gpus().found, machine.gpus().status) == ("none", Status.ABSENT)


def test_a_driver_whose_devices_torch_cannot_see_is_broken(program, monkeypatch):
    facts(monkeypatch, cuda="13.0")
    program("nvidia-smi", "echo 535.104.05")
    assert machine.cuda().found == "driver 535.104.05, torch (CUDA 13.0) sees no device"
    assert machine.cuda().status is Status.BROKEN


def test_gpus_are_counted_by_model(program, monkeypatch):
    program("nvidia-smi", "echo 580.65.06; echo 580.65.06")
    facts(monkeypatch, cuda="13.0", nccl="2.29.7", gpus=("H100 80 GiB",) * 7 + ("A100 40 GiB",))
    assert machine.gpus().found == "7 x H100 80 GiB, 1 x A100 40 GiB"
    assert machine.cuda().found == "13.0, driver 580.65.06"
    assert machine.nccl().found == "2.29.7"


def test_the_64_mib_of_a_container_are_too_little_shared_memory(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 * 2**20, 0, 64 * 2**20))
    finding = machine.shared_memory()
    assert (finding.found, finding.status) == ("64 MiB", Status.BROKEN)
    assert "--shm-size" in finding.note
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(16 * 2**30, 0, 0))
    assert (machine.shared_memory().found, machine.shared_memory().status) == ("16.0 GiB", Status.OK)


def test_memory_is_that_of_the_kernel_or_less():
    kernel_kib = int(Path("/proc/meminfo").read_text().split()[1])
    assert 0 < float(machine.memory().found.removesuffix(" GiB")) <= round(kernel_kib / 2**20, 1)
