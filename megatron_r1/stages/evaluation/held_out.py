"""Which held-out items a measurement asks: each once, for a standard error rests on different ones."""

import logging

from megatron_r1.data.mixture import Mixture
from megatron_r1.errors import DataError
from megatron_r1.stages.context import StageContext

LOOKED_AT = 4  # times as many questions as are wanted, until so many differ

log = logging.getLogger(__name__)


def different_questions(source: Mixture, count: int) -> list[int]:
    """The indices of the first `count` questions that differ, or of as many as there are.

    A source that has fewer isn't begun again, and where lines of one source ask the same, the first counts;
    an endless source may repeat itself too.
    """
    seen, found = set(), []
    for index in range(LOOKED_AT * count):
        if not source.gives_anew(index):
            continue
        prompt = source.prompt(index)
        key = (prompt.source, prompt.task, prompt.reference, prompt.messages)
        if key not in seen:
            seen.add(key)
            found.append(index)
        if len(found) == count:
            break
    return found


def conversations(context: StageContext, source: Mixture, *, questions: int, turns: int) -> list[list[int]]:
    """The questions of every conversation by their index, the graded one first and all of them different."""
    different = different_questions(source, questions * turns)
    there = min(questions, len(different) // turns)
    if not there:
        raise DataError(
            f"stage {context.name}: evaluation: a conversation of {turns} turns needs {turns} different "
            f"held-out questions, and the data holds {len(different)}; lower turns or add data"
        )
    say_fewer(context, what="questions", key="evaluation.questions", asked=questions, there=there)
    return [different[first::there][:turns] for first in range(there)]


def each_once(context: StageContext, source: Mixture, count: int, *, what: str, key: str) -> list[int]:
    """This replica's of the first `count` items, each once; a warning where there are fewer."""
    replicas, found = context.policy.replicas, source.each_once(count)
    say_fewer(context, what=what, key=key, asked=count, there=len(found))
    return found[replicas.index :: replicas.count]


def say_fewer(context: StageContext, *, what: str, key: str, asked: int, there: int) -> None:
    """Warn, on one rank, where the data holds fewer than are asked for."""
    if there < asked and context.policy.replicas.is_main:
        log.warning(
            "stage %s: %s: %d %s are asked for and the data holds %d that differ; each counts once, and the "
            "figures are over %d; lower it or add data",
            context.name, key, asked, what, there, there,
        )  # fmt: skip
