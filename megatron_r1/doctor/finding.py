"""The result of one of the doctor's checks."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    ABSENT = "-"  # optional and not installed
    BROKEN = "BROKEN"  # installed but harmful as it is; or missing although no run starts without it


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of the table. essential: no run starts without it. note: shown by `doctor NAME` only."""

    found: str
    used_for: str
    status: Status = Status.OK
    remedy: str = ""
    essential: bool = False
    note: str = ""
