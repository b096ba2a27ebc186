"""The table of all families: `python -m megatron_r1.gym docs/reasoning_gym.md`, some minutes.

Each family's trial, and whether three processes agree on its items: by hash seed, by order and by day.
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
DAYS = 40  # how far the third process lives in the future
SEEDS = (1, 2)  # further seeds of each trial

HEAD = """# Families of reasoning-gym {version}

Which of them a source `{{source: gym, family: ...}}` takes, and who verifies the answers. Made by
`python -m megatron_r1.gym docs/reasoning_gym.md`.

A family is used when its own answer is right, every wrong answer of the
[trial](../megatron_r1/gym/wrong_answers.py) is wrong (constants, the question again, the right answer with a
digit, a sign or an element changed, two answers at once, other items' answers, a line of code), and processes
agree on its items. The trial is held again, with the options of the run, when a source is built. *library*:
the library's scorer with the family's options, right at full marks alone. *ours*: a
[verifier of ours](../megatron_r1/gym/verifiers.py), because the library's scorer does what the last column
says; the answer is to have the form that the question asks for.

{counts}

| family | verdict | verifier | why |
|---|---|---|---|
"""


def main() -> None:
    """Write the table to the file that is named; or, as a child, the items' hashes."""
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
        _live_in_the_future(days)
    from reasoning_gym.factory import DATASETS

    hashes = {}
    for family in sorted(set(DATASETS) - set(trial.MIXTURES)):
        problems = Problems(family, {}, seed=trial.SEED, size=4096)
        items = {i: settled(family, problems[i]) for i in (reversed(ITEMS) if turned else ITEMS)}
        texts = (repr((items[i]["question"], items[i]["answer"])) for i in ITEMS)
        hashes[family] = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    path.write_text(json.dumps(hashes))


def _live_in_the_future(days: int) -> None:
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
