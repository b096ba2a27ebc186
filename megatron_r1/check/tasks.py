"""Rewards that would judge none of the prompts of their stage: a pattern of tasks that no data has.

Beside rewards that do judge such a stage runs to its end, and the reward that was meant never counts. What is
known before the start is refused: where every source's tasks are. What an earlier stage will make is not
known, nor a file of which only the first lines were read; grpo warns of those as it runs
(stages/evaluation/ungraded.py).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from pydantic import BaseModel

from megatron_r1.config import Loaded
from megatron_r1.config.tree import Finding, KeyPath
from megatron_r1.data.json_lines import data_files, numbered_lines, parse_line
from megatron_r1.data.source import SourceConfig
from megatron_r1.data.sources.jsonl import Jsonl
from megatron_r1.data.sources.stage import StageOutput
from megatron_r1.data.split import Split
from megatron_r1.errors import DataError
from megatron_r1.run.config import RunConfig
from megatron_r1.section import Section
from megatron_r1.stages.evaluation.accuracy import Evaluation
from megatron_r1.stages.grpo.phases import chosen
from megatron_r1.stages.grpo.trainer import Grpo
from megatron_r1.stages.rejection_sampling.stage import RejectionSampling

NUM_ASKED = 100  # prompts of a source that makes them, and tells no tasks
NUM_SHOWN = 8  # tasks in a message


@dataclass(frozen=True, slots=True)
class _Judge:
    """What judges the prompts of some tasks. key: where its patterns are. sources: of its prompts."""

    key: KeyPath
    patterns: tuple[str, ...]
    sources: tuple[SourceConfig, ...]
    split: Split


def idle_rewards(loaded: Loaded[RunConfig], *, limit: int | None) -> Iterator[Finding]:
    """The rewards, graders and judges without a prompt to judge. limit: lines that are read of a file."""
    run = loaded.value
    read: dict[tuple[str, Split], frozenset[str] | None] = {}

    def tasks(source: SourceConfig, split: Split) -> frozenset[str] | None:
        key = (repr(source), split)
        if key not in read:
            read[key] = _tasks(source, run.seed, split, limit)
        return read[key]

    for name, stage in run.stages.items():
        for judge in _judges(stage, ("stages", name)):
            found = [tasks(source, judge.split) for source in judge.sources]
            known = sorted({task for each in found for task in each or ()})
            if None in found or not known or _matches(known, judge.patterns):
                continue
            shown = ", ".join(known[:NUM_SHOWN]) + (", ..." if len(known) > NUM_SHOWN else "")
            yield loaded.finding(
                judge.key,
                f"{', '.join(judge.patterns) or 'no task'} matches no task of its prompts ({shown}), "
                "so it would judge nothing; correct the pattern or the data, or leave it out",
            )


def _matches(tasks: Collection[str], patterns: Collection[str]) -> bool:
    return any(fnmatchcase(task, pattern) for task in tasks for pattern in patterns)


def _judges(value: object, key: KeyPath) -> Iterator[_Judge]:
    """All of a stage, however deep in its section."""
    if isinstance(value, Grpo):
        more = {} if value.final is None else value.final.data
        sources = (*value.data.values(), *more.values())
        yield from _rewards(value.rewards, (*key, "rewards"), sources)
        if value.final is not None:
            yield from _rewards(value.final.rewards, (*key, "final", "rewards"), sources)
    elif isinstance(value, RejectionSampling):
        sources = tuple(value.data.values())
        yield from _rewards(value.graders, (*key, "graders"), sources)
        if value.judge is not None:
            yield _Judge((*key, "judged"), tuple(value.judged), sources, "train")
    elif isinstance(value, Evaluation):
        yield from _rewards(value.rewards, (*key, "rewards"), tuple(value.data.values()), "held_out")
    if isinstance(value, BaseModel):
        for name, inner in value:
            yield from _judges(inner, (*key, name))


def _rewards(
    rewards: Section, key: KeyPath, sources: tuple[SourceConfig, ...], split: Split = "train"
) -> Iterator[_Judge]:
    for name, config in chosen(rewards).items():
        if config.tasks is not None:
            yield _Judge((*key, name, "tasks"), tuple(config.tasks), sources, split)


def _tasks(source: SourceConfig, seed: int, split: Split, limit: int | None) -> frozenset[str] | None:
    """The tasks of a source's prompts; None where they can't be known, or the source is wrong."""
    try:
        if isinstance(source, Jsonl):
            return _tasks_of_file(source, limit)
        if isinstance(source, StageOutput):
            return None
        made = source.build(seed, split=split)
        return frozenset(made.prompt(index).task for index in range(NUM_ASKED))
    except DataError:  # said where the data is read
        return None


def _tasks_of_file(source: Jsonl, limit: int | None) -> frozenset[str] | None:
    found: set[str] = set()
    for path in data_files(Path(source.path)):
        with path.open("rb") as file:
            lines = numbered_lines(file, name=path)
            for _, raw in islice(lines, limit):
                line, problem = parse_line(raw)
                if problem:
                    return None
                found.add(line.get("task", source.task))
            if next(lines, None) is not None:
                return None
    return frozenset(found)
