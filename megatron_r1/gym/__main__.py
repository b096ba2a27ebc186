"""Writes the table of all families: `python -m megatron_r1.gym docs/reasoning_gym.md` takes some minutes.

It runs each family's trial, and checks that three processes with different hash seeds, orders of access and
dates make the same items.
"""

import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from megatron_r1.errors import R1Error
from megatron_r1.gym import trial
from megatron_r1.gym.problems import Problems
from megatron_r1.gym.scoring import settled
from megatron_r1.gym.verifiers import FORMS, VERIFIERS

ITEMS = tuple(range(12))
DAYS = 40  # how far the third process's clock is set ahead
SEEDS = (1, 2)  # further seeds of each trial

HEAD = """# Families of reasoning-gym {version}

Which families a source `{{source: gym, family: ...}}` accepts, and which verifier grades their
answers. `python -m megatron_r1.gym docs/reasoning_gym.md` writes this page.

A family is used if its own answer is scored right, every wrong answer of the
[trial](../megatron_r1/gym/wrong_answers.py) is scored wrong (constants, the question again, the right answer
with a digit, a sign or an element changed, two answers at once, other items' answers, a line of code), and
processes agree on its items. Building a source repeats the trial with the run's options. *library*: the
library's scorer with the family's options, right at score 1 only. *ours*: a
[verifier of this package](../megatron_r1/gym/verifiers.py), because the library's scorer does what the last
column says; it requires the form of answer that the question asks for.

{counts}

| family | verdict | verifier | why |
|---|---|---|---|
"""


def main() -> None:
    """Write the table to the given file; in a child process (--items), the hashes of the items."""
    if sys.argv[1] == "--items":
        _write_items(Path(sys.argv[2]), turned=sys.argv[3] == "turned", days=int(sys.argv[4]))
        return
    rows = list(_rows())
    kinds = ("| used | library", "| used | ours", "| refused")
    library, ours, refused = (sum(kind in row for row in rows) for kind in kinds)
    used = f"{library + ours} used ({library} library, {ours} ours)"
    counts = f"{len(rows)} families: {used}, {refused} refused."
    head = HEAD.format(version=version("reasoning-gym"), counts=counts)
    Path(sys.argv[1]).write_text(head + "\n".join(rows) + "\n", encoding="utf-8")


def _rows() -> Iterator[str]:
    from reasoning_gym.factory import DATASETS

    _check_unrepeatable()
    for family in sorted(set(DATASETS) - set(trial.MIXTURES)):
        fault = trial.refusal(family, {}) or next(
            filter(None, (trial.trial(family, "{}", s) for s in SEEDS)), None
        )
        print(family, fault, flush=True)
        yield _row(family, fault)


def _check_unrepeatable() -> None:
    found = _hashes_of_all()
    differ = {
        family for family, hashes in found[0].items() if any(one[family] != hashes for one in found[1:])
    }
    if differ != set(trial.UNREPEATABLE):
        raise R1Error(f"UNREPEATABLE should be {sorted(differ)}")


def _row(family: str, fault: str | None) -> str:
    if fault is not None:
        return f"| {family} | refused | - | {' '.join(fault.split()).replace('|', ' ')} |"
    if family in VERIFIERS:
        return f"| {family} | used | ours | {VERIFIERS[family][1]} |"
    form = "; only what has the form of an answer reaches it" if family in FORMS else ""
    return f"| {family} | used | library{form} | |"


def _hashes_of_all() -> list[dict[str, list[str]]]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{n}.json") for n in range(3)]
        for n, path in enumerate(paths):
            order, days = ("turned", "0") if n == 1 else ("straight", str(DAYS * (n == 2)))
            command = [sys.executable, "-m", "megatron_r1.gym", "--items", str(path), order, days]
            subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": str(n)}, check=True)
        return [json.loads(path.read_text()) for path in paths]


def _write_items(path: Path, *, turned: bool, days: int) -> None:
    if days:
        _set_clock_ahead(days)
    from reasoning_gym.factory import DATASETS

    hashes = {}
    for family in sorted(set(DATASETS) - set(trial.MIXTURES)):
        problems = Problems(family, {}, seed=trial.SEED, size=4096)
        items = {i: settled(family, problems[i]) for i in (reversed(ITEMS) if turned else ITEMS)}
        texts = (repr((items[i]["question"], items[i]["answer"])) for i in ITEMS)
        hashes[family] = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    path.write_text(json.dumps(hashes))


def _set_clock_ahead(days: int) -> None:
    later = datetime.timedelta(days=days)

    class Date(datetime.date):
        @classmethod
        def today(cls) -> "Date":
            return cls.fromordinal(datetime.datetime.now().toordinal() + days)

    class DateTime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "DateTime":
            return super().now(tz) + later

    datetime.date, datetime.datetime = Date, DateTime  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    main()
