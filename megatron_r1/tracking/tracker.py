"""What a run's metrics and samples are handed to while it runs: the protocol, and the calls to all of them.

metrics.jsonl is the source of truth (jsonl.py) and may stop a run. What `trackers` names only looks on: one
that fails is left out with one warning, and the run goes on. All are called on the main rank alone, within
the step: a tracker that waits for a network makes the step wait, so let it send from a thread of its own.

A module of this folder, or a plug-in, with `TRACKER = ItsConfigClass` is a tracker, named as its file.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from megatron_r1.section import Section

if TYPE_CHECKING:
    from megatron_r1.tracking.samples import Sample

log = logging.getLogger(__name__)

Outcome = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInfo:
    """What a tracker is told of a stage when it starts.

    directory: of the stage. config: the whole run's configuration as JSON values. kept_step: the last step
    whose records stay; a stage that goes on from a checkpoint writes those after it again. -1: none stays.
    """

    run: str
    stage: str
    directory: Path
    config: Mapping[str, Any]
    kept_step: int = -1


class Tracker(ABC):
    """Gets what a stage reports, on the main rank; whatever it raises ends it and not the run."""

    @abstractmethod
    def start(self, info: StageInfo) -> None:
        """The stage begins or goes on; forget what came after info.kept_step."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of a step: finite numbers by the names of docs/metrics.md."""

    def samples(self, step: int, samples: Sequence[Sample]) -> None:  # noqa: B027
        """The samples of a step, of all ranks; by default nothing is done with them."""

    def finish(self, outcome: Outcome) -> None:  # noqa: B027
        """Close what is open: called last, on every way out, after a failure of this tracker as well."""


class TrackerConfig(Section, ABC):
    """One entry under `trackers:`."""

    @abstractmethod
    def build(self) -> Tracker:
        """Make the tracker; what it opens it opens in `start`."""


class Trackers:
    """All trackers of a stage, each until it fails."""

    def __init__(self, configs: Mapping[str, TrackerConfig]) -> None:
        self._configs = configs
        self._live: dict[str, Tracker] = {}

    def start(self, info: StageInfo) -> None:
        for name, config in self._configs.items():
            self._guarded(name, "could not be made", lambda config=config: config.build())
        self._each("could not start", lambda tracker: tracker.start(info))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._each(f"failed at step {step}", lambda tracker: tracker.log(step, dict(metrics)))

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        self._each(f"failed at step {step}", lambda tracker: tracker.samples(step, tuple(samples)))

    def finish(self, outcome: Outcome) -> None:
        self._each("could not be closed", lambda tracker: tracker.finish(outcome))
        self._live.clear()

    def _each(self, what: str, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._live.items()):
            self._guarded(name, what, lambda tracker=tracker: call(tracker))

    def _guarded(self, name: str, what: str, call: Callable[[], Tracker | None]) -> None:
        """Call a tracker; one that fails gets no more calls, but for the one that closes it."""
        try:
            made = call()
            if made is not None:
                self._live[name] = made
        except (Exception, SystemExit) as error:  # whatever a user's file may raise; it only looks on
            log.warning(
                "tracker %s: %s, and the run goes on without it: %s: %s",
                name,
                what,
                type(error).__name__,
                error,
            )
            failed = self._live.pop(name, None)
            with suppress(Exception, SystemExit):  # said above
                if failed is not None:
                    failed.finish("failed")
