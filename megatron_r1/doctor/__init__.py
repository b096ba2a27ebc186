"""`megatron-r1 doctor`: checks the machine and the packages, with a command that fixes each problem."""

from collections.abc import Callable

from megatron_r1.doctor import machine, packages
from megatron_r1.doctor.finding import Finding, Status
from megatron_r1.errors import R1Error

PROBES: dict[str, Callable[[], Finding]] = {
    "python": packages.python,
    "torch": packages.torch,
    "megatron-core": packages.megatron_core,
    "cuda": machine.cuda,
    "gpus": machine.gpus,
    "nccl": machine.nccl,
    "transformer-engine": packages.transformer_engine,
    "flash-attn": packages.flash_attn,
    "cores": machine.cores,
    "memory": machine.memory,
    "shared-memory": machine.shared_memory,
    "bubblewrap": machine.bubblewrap,
    "slurm": machine.slurm,
    "chromium": machine.chromium,
    "apex": packages.apex,
}


def examine(name: str | None = None) -> int:
    """Print all findings, or one with its explanation.

    Returns 0 if no essential finding failed, or if the one asked for isn't broken; otherwise 1.
    """
    if name is None:
        findings = {name: probe() for name, probe in PROBES.items()}
        _print_table(findings)
        return int(any(f.essential and f.status is not Status.OK for f in findings.values()))
    if name not in PROBES:
        raise R1Error(f"doctor: no check is called {name!r}; there are {', '.join(PROBES)}")
    finding = PROBES[name]()
    print(f"{name}: {finding.found}\nused for: {finding.used_for}")
    if finding.note:
        print(finding.note)
    if finding.remedy:
        print(f"to mend it: {finding.remedy}")
    return int(finding.status is Status.BROKEN)


def _print_table(findings: dict[str, Finding]) -> None:
    """The remedies come below the table, one a line, since a command wrapped in a cell can't be copied."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:  # an unfinished set-up, which the doctor must be able to report
        for name, finding in findings.items():
            print(f"{finding.status:8}{name:20}{finding.found}")
    else:
        table = Table("", "what", "found", "used for", box=None, pad_edge=False)
        table.columns[1].no_wrap = True
        styles = {Status.OK: "", Status.ABSENT: "dim", Status.BROKEN: "bold red"}
        for name, finding in findings.items():
            row = (finding.status, name, finding.found, finding.used_for)
            table.add_row(*row, style=styles[finding.status])
        Console(highlight=False).print(table)
    for name, finding in findings.items():
        if finding.remedy:
            print(f"to {'mend' if finding.status is Status.BROKEN else 'get'} {name}: {finding.remedy}")
