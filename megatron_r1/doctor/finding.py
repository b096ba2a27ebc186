"""What a check of the doctor returns."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    ABSENT = "-"  # an option that isn't here
    BROKEN = "BROKEN"  # here, and harmful as it is; or missing, and nothing runs without it


@dataclass(frozen=True, slots=True)
class Finding:
    """One row. essential: no run starts without it. note: what `doctor NAME` adds."""

    found: str
    used_for: str
    status: Status = Status.OK
    remedy: str = ""
    essential: bool = False
    note: str = ""
