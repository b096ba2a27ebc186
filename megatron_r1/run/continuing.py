"""Whether what an earlier start of a run left may be relied on: finished stages skipped, interrupted ones
continued. Every function compares then with now, and says in words what differs and what to do.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_r1.config.spelling import with_new_names
from megatron_r1.errors import CheckpointError, ConfigError, DataError
from megatron_r1.files.run_directory import Artifact, Begun
from megatron_r1.huggingface.source import fingerprint
from megatron_r1.run import lineage
from megatron_r1.run.config import HF
from megatron_r1.run.lineage import digest_of
from megatron_r1.section import only_deciding
from megatron_r1.stages.base import StageConfig

OLDER = "an older version began it and kept no hashes of its data, so whether that has changed is not known"


def require_finished_so(
    directory: Path,
    done: Artifact,
    decisive: Mapping[str, Any],
    inputs: lineage.Inputs,
    *,
    section: StageConfig,
) -> list[str]:
    """Raise unless the finished stage was made by this configuration, of these inputs; returns warnings."""
    theirs = config_changes(done.config, decisive, name=directory.name, section=section)
    if done.config_hash != digest_of(done.config):
        theirs = theirs or ["its hash is another"]
    others = lineage.changed(_without_same_weights(done.inputs), inputs)
    if not theirs and not others:
        return [OLDER] if lineage.is_older(done.inputs) else []
    why = f"its configuration changed ({'; '.join(theirs)})" if theirs else lineage.in_words(others)
    raise _error(done.inputs, inputs, config=bool(theirs))(
        f"stage {directory.name} is finished in {directory}, but {why} since; "
        f"use --from {directory.name} to run it and what follows again, or another run name"
    )


def require_begun_so(
    directory: Path, begun: Begun | None, now: Begun, *, goes_on: bool, section: StageConfig
) -> list[str]:
    """Raise unless an interrupted stage can go on as it was begun; returns warnings.

    goes_on: from a checkpoint, or from other files that it left.
    """
    if not goes_on:
        _require_no_checkpoints(directory, begun)
        return []
    if begun is None or lineage.is_older(begun.inputs):
        return [OLDER]
    others = lineage.changed(begun.inputs, now.inputs)
    if others:
        raise _error(begun.inputs, now.inputs)(
            f"stage {directory.name} was begun with other inputs: {lineage.in_words(others)}; restore "
            f"them to continue it, or use --from {directory.name} to begin it anew"
        )
    theirs = config_changes(begun.config, now.config, name=directory.name, section=section)
    return (
        [f"goes on with another configuration than it was begun with: {'; '.join(theirs)}"] if theirs else []
    )


def config_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, name: str, section: StageConfig
) -> list[str]:
    """What decides a stage's result and differs, a key each, as it is written in the YAML.

    before: of any version: keys are given their names of now, and those without effect count for nothing.
    """
    kept = with_new_names(before)
    if "stage" in kept:
        kept["stage"] = only_deciding(section, with_new_names(kept["stage"]))
    return [_change(key, *pair, stage=name) for key, pair in _changed(kept, now).items()]


def _changed(before: Any, now: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, with both values."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return {} if before == now else {path: (before, now)}
    found = {}
    for key in [*before, *(key for key in now if key not in before)]:
        found |= _changed(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    return found


def _change(key: str, before: Any, now: Any, *, stage: str) -> str:
    """One difference in words; the stage's own keys as they are written in the YAML."""
    if key.startswith("stage."):
        key = f"stages.{stage}.{key.removeprefix('stage.')}"
    return f"{key}: {json.dumps(before)} then, {json.dumps(now)} now"


def fell_behind(begun: Begun | None, step: int | None) -> list[str]:
    """A warning where the newest checkpoint is gone without a trace."""
    if begun is None or begun.saved is None or step is None or step >= begun.saved:
        return []
    return [f"goes on from step {step}: the checkpoint of step {begun.saved} is gone"]


def _require_no_checkpoints(directory: Path, begun: Begun | None) -> None:
    if begun is not None and begun.saved is not None:
        raise CheckpointError(
            f"{directory}: stage {directory.name} had checkpoints up to step {begun.saved}, and none is "
            f"there; nothing was changed: restore one, or use --from {directory.name} to begin the stage anew"
        )


def _error(
    then: lineage.Inputs, now: lineage.Inputs, *, config: bool = False
) -> type[ConfigError | DataError]:
    return ConfigError if config or lineage.changed_stages(then, now) else DataError


def _without_same_weights(inputs: lineage.Inputs) -> lineage.Inputs:
    """An older version kept one hash of configuration and sizes of a Hugging Face folder."""
    return {name: value for name, value in inputs.items() if not _is_same_folder(name, value)}


def _is_same_folder(name: str, value: Any) -> bool:
    if not name.startswith(HF) or not isinstance(value, str):
        return False
    return value == digest_of(fingerprint(Path(name.removeprefix(HF))))
