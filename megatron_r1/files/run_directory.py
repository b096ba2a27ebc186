"""A run on disk: the name of every file, and the records that say how far a stage is.

    RUN/
      .lock                      who works in it now
      resolved.yaml              every value of the configuration, as the ranks read it
      tokenizer.model            if the run trains one; of another model: tokenizers/MODEL/tokenizer.model
      logs/                      rank<N>.log .json (heartbeat) .stacks .flight; progress.json
      slurm/                     STAGE.sbatch .log .srun; jobs.json, attempts.jsonl, interrupted.json, code.*
      report.html
      STAGE/
        resolved.yaml            of its newest start
        begun.json               with what it was begun, and the step of its newest checkpoint
        metrics.jsonl samples.jsonl tensorboard/ profile/
        checkpoint/              step_<N>: backend/checkpoint/files.py
        candidates/ data/ data_card.json   of a stage that makes data: curation/shards.py
        huggingface/             its result as Hugging Face's files, if it asks for them
        artifact.json            written last: the stage is finished

It stands this low because tracking and a rank's heartbeat, which write some of them, stand below run/.
A record that one module alone writes and reads is described there: heartbeat, position, lock, SLURM's jobs.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from megatron_r1.errors import DataError
from megatron_r1.files.atomic import write_whole
from megatron_r1.files.json_reader import read_json_object

# of the run
LOCK, RESOLVED, REPORT = ".lock", "resolved.yaml", "report.html"
LOGS, SLURM, TOKENIZERS, TRAINED_TOKENIZER = "logs", "slurm", "tokenizers", "tokenizer.model"
RESERVED = frozenset({LOGS, SLURM, TOKENIZERS})  # so that no stage may have the name

# in logs/
PROGRESS = "progress.json"
_HEARTBEAT = ".json"

# in slurm/
JOBS, ATTEMPTS, INTERRUPTED = "jobs.json", "attempts.jsonl", "interrupted.json"
CODE, CODE_CHANGES = "code.txt", "code.diff"

# of a stage
BEGUN, ARTIFACT = "begun.json", "artifact.json"
METRICS, SAMPLES, TENSORBOARD, PROFILE = "metrics.jsonl", "samples.jsonl", "tensorboard", "profile"
CHECKPOINTS, HUGGING_FACE = "checkpoint", "huggingface"
CANDIDATES, SETTINGS, DATA, DATA_CARD = "candidates", "settings.json", "data", "data_card.json"

ARTIFACT_REMEDY = "remove it: the stage then goes on from its last checkpoint and writes it again"
BEGUN_REMEDY = "restore it, or remove it to go on without a look at what the stage was begun with"


def rank_log(log_dir: Path, rank: int) -> Path:
    return log_dir / f"rank{rank}.log"


def rank_heartbeat(log_dir: Path, rank: int) -> Path:
    return log_dir / f"rank{rank}{_HEARTBEAT}"


def heartbeats(log_dir: Path) -> dict[int, Path]:
    """By rank, of those that wrote one."""
    found = log_dir.glob(f"rank*{_HEARTBEAT}")
    return {int(path.stem.removeprefix("rank")): path for path in found}


def rank_stacks(log_dir: Path, rank: int) -> Path:
    return log_dir / f"rank{rank}.stacks"


def rank_flight_record(log_dir: Path, rank: int) -> Path:
    return log_dir / f"rank{rank}.flight"


def job_file(run_dir: Path, stage: str, kind: str) -> Path:
    """kind: sbatch, the script; log, the job's own; srun, what srun says of its tasks."""
    return run_dir / SLURM / f"{stage}.{kind}"


def read_resolved(directory: Path) -> dict[str, Any]:
    """The configuration of a run, or of a stage's newest start, as plain values; {} before it is written.

    DataError: the file is damaged.
    """
    path = directory / RESOLVED
    try:
        found = YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except (YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not YAML ({error}); remove it and run the stage again") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: not the mapping of a configuration; remove it and run the stage again")
    return found


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a finished stage leaves: its lineage, its last checkpoint, its results."""

    stage: str
    kind: str
    config: Mapping[str, Any]  # all that decides the result
    config_hash: str
    inputs: Mapping[str, Any]  # by name, each with its hash: stages, weights, files (run/lineage.py)
    checkpoint: str | None  # path relative to the stage's directory
    metrics: dict[str, float]
    outputs: dict[str, str] = field(default_factory=dict)  # data files for later stages -> BLAKE3

    def write(self, directory: Path) -> None:
        """One process calls it, last of all."""
        write_whole(directory / ARTIFACT, json.dumps(asdict(self), indent=2))


def read_artifact(directory: Path) -> Artifact | None:
    """A finished stage's artifact; None if it is not finished. DataError: it is damaged."""
    path = directory / ARTIFACT
    if not os.path.lexists(path):
        return None
    content = read_json_object(path, error=DataError, remedy=ARTIFACT_REMEDY)
    problem = _problem(content)
    if problem is not None:
        raise DataError(f"{path}: not what a finished stage writes: {problem}; {ARTIFACT_REMEDY}")
    return Artifact(**content)


def _problem(content: Mapping[str, Any]) -> str | None:
    known, optional = {field.name for field in fields(Artifact)}, {"outputs"}  # older versions wrote none
    missing, unknown = known - optional - content.keys(), content.keys() - known
    if missing or unknown:
        return f"{', '.join(sorted(missing | unknown))} {'is missing' if missing else 'is not known'}"
    kinds = {"stage": str, "kind": str, "config_hash": str, "config": dict, "inputs": dict, "metrics": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(content[name], kind)]
    wrong += [] if isinstance(content.get("outputs", {}), dict) else ["outputs"]
    if wrong:
        return f"{wrong[0]} is {content[wrong[0]]!r:.80}"
    checkpoint = content["checkpoint"]
    if checkpoint is not None and not _is_inside(checkpoint):
        return f"checkpoint is {checkpoint!r:.200}, which is no folder of the stage"
    return None


def _is_inside(checkpoint: Any) -> bool:
    if not isinstance(checkpoint, str) or not checkpoint:
        return False
    path = PurePosixPath(checkpoint)
    return not path.is_absolute() and ".." not in path.parts


@dataclass(frozen=True, slots=True)
class Begun:
    """With what an unfinished stage was begun; written before its first step.

    An interrupted stage goes on over the same inputs only, and never begins anew where it had checkpoints.
    config, inputs: as the artifact has them. saved: the step of the newest checkpoint that was written.
    """

    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    saved: int | None = None

    def write(self, directory: Path) -> None:
        """One process calls it."""
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / BEGUN, json.dumps(asdict(self), indent=1))


def read_begun(directory: Path) -> Begun | None:
    """None: the stage has not begun, or an older version began it. DataError: the file is damaged."""
    path = directory / BEGUN
    if not path.exists():
        return None
    content = read_json_object(path, error=DataError, remedy=BEGUN_REMEDY)
    saved = content.get("saved")
    plain = isinstance(content.get("config"), dict) and isinstance(content.get("inputs"), dict)
    if not plain or content.keys() != {"config", "inputs", "saved"} or not isinstance(saved, int | None):
        raise DataError(f"{path}: not what a stage writes; {BEGUN_REMEDY}")
    return Begun(**content)


def note_saved(directory: Path, step: int) -> None:
    """A checkpoint after `step` is complete. One process calls it."""
    begun = read_begun(directory)
    if begun is not None and begun.saved != step:
        replace(begun, saved=step).write(directory)
