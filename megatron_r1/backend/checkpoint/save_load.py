"""Save and load checkpoints of a policy: any layout reads any other's, and a save is complete or absent.

Weights, the router's expert bias, the optimizer and the reference, if there is one, are tensors of
megatron.core.dist_checkpointing; numbers go to state.json. There is no random state to save: dropout is 0,
weights are drawn by name (backend/model/init_weights.py) and tokens by a hash (backend/rollout/sampling.py).

All ranks call `save` and `load` together; a failure on any rank is raised on all of them.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
import torch.distributed.checkpoint as torch_checkpoint
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CONFIG_FNAME, CheckpointingConfig
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace, nested_values
from megatron.core.dist_checkpointing.mapping import (
    ShardedObject,
    ShardedTensor,
    ShardedTensorFactory,
)
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.cached_metadata_filesystem_reader import (
    CachedMetadataFileSystemReader,
)
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.dist_checkpointing.utils import add_prefix_for_sharding
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from megatron_r1.backend.checkpoint import files, optimizer_state, unpickling
from megatron_r1.backend.checkpoint.check import check_files, read_manifest, to_resume_from
from megatron_r1.backend.checkpoint.files import Manifest, latest, prune
from megatron_r1.backend.model import reward_head as heads
from megatron_r1.backend.model.vocabulary import padded_rows
from megatron_r1.backend.parallel.collectives import gather, on_all_ranks, on_first_rank, share
from megatron_r1.backend.train.optimizer import finish_parameter_gather
from megatron_r1.backend.train.reference import ReferenceWeights
from megatron_r1.errors import CheckpointError
from megatron_r1.files.atomic import write_durably
from megatron_r1.huggingface.provenance import FOLDER, SCALES

if TYPE_CHECKING:
    from megatron_r1.backend.policy import MegatronPolicy

__all__ = ["latest", "load", "prune", "save", "to_resume_from"]

unpickling.guard()

REFERENCE = "reference."  # prefix of the reference's tensors
NOT_WEIGHTS = (REFERENCE, optimizer_state.PREFIX)
VOCABULARY = ("embedding.word_embeddings.", "output_layer.")
SCORE_HEAD = f"{heads.NAME}.weight"
MOST_NAMED = 8  # differences that an error lists


def save(directory: Path, policy: "MegatronPolicy", state: Mapping[str, Any]) -> None:
    """Write the policy and the stage's `state` (JSON). After a CheckpointError no file is left behind."""
    finish_parameter_gather(policy.models)
    text = json.dumps({"policy": _counters(policy), "stage": dict(state)}, indent=1)
    partial = files.partial_of(directory)
    try:
        on_first_rank(f"{directory}: not written", lambda: _start(directory, policy, text))
        with policy.training_state_on_device():
            tensors = _sharded_state(policy)
            on_all_ranks(f"{directory}: not written", lambda: _write_tensors(partial, tensors))
        described = _describe_files(partial)
        on_first_rank(
            f"{directory}: not written", lambda: files.finish(directory, _manifest(policy, described))
        )
    except CheckpointError:
        on_first_rank(f"{partial}: not removed", lambda: shutil.rmtree(partial, ignore_errors=True))
        raise


def load(
    directory: Path, policy: "MegatronPolicy", *, weights_only: bool = False, checked: bool = False
) -> dict[str, Any]:
    """Read a checkpoint of any layout into the policy and return the stage's `state`.

    weights_only: the policy's version, optimizer and reference stay as they are. checked: `to_resume_from`
    has just verified all hashes. Raises CheckpointError, before the policy has changed, if the checkpoint is
    damaged or of another model.
    """
    manifest = read_manifest(directory) if checked else check_files(directory)
    _check_model(directory, manifest, policy)
    if not (weights_only or manifest.has_optimizer):
        raise CheckpointError(
            f"{directory}: holds no optimizer, so training can't be continued from it; "
            "start from its weights (weights_only=True, `init:` of a stage)"
        )
    if not weights_only:
        _check_padding(directory, manifest, policy)
    kept = files.read_state(directory)
    if dist.get_rank() == 0:
        policy.carried = _carried(directory)
    finish_parameter_gather(policy.models)
    with policy.training_state_on_device():
        if weights_only:
            _load_weights(directory, policy)
        else:
            _load_everything(directory, policy, manifest, kept["policy"])
    return kept["stage"]


def _start(directory: Path, policy: "MegatronPolicy", text: str) -> None:
    files.start(directory, text)
    if policy.carried:
        folder = files.partial_of(directory) / FOLDER
        folder.mkdir()
        for name, content in policy.carried.items():
            (folder / name).write_bytes(content)


def _carried(directory: Path) -> dict[str, bytes]:
    """The files that came with Hugging Face's weights, without the FP8 scales, which don't fit new
    weights."""
    folder = directory / FOLDER
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: path.read_bytes() for path in paths if path.name != SCALES}


def _counters(policy: "MegatronPolicy") -> dict[str, int]:
    step = 0 if policy.optimizer is None else optimizer_state.get_step(policy.optimizer)
    return {"version": policy.version, "optimizer_step": step}


def _manifest(policy: "MegatronPolicy", described: dict[str, dict[str, Any]]) -> Manifest:
    return Manifest(
        model=policy.family.model_dump(mode="json"),
        layout=policy.layout.model_dump(mode="json"),
        precision=policy.options.precision,
        has_optimizer=policy.optimizer is not None,
        has_reference=policy.reference is not None,
        files=described,
    )


def _load_weights(directory: Path, policy: "MegatronPolicy") -> None:
    _set_weights(policy, _read_weights(directory, policy))
    if policy.optimizer is not None:
        policy.optimizer.reload_model_params()  # the fp32 masters


def _read_weights(directory: Path, policy: "MegatronPolicy") -> dict[str, Any]:
    """The weights; a reward model that starts from a language model keeps its own head."""
    wanted = _weights(policy)
    kept: dict[str, dict[str, Any]] = {number: {} for number in wanted}
    if policy.score_head and SCORE_HEAD not in _stored_tensors(directory):
        for number, chunk in wanted.items():
            names = [name for name, part in chunk.items() if getattr(part, "key", "") == SCORE_HEAD]
            kept[number] = {name: chunk.pop(name).data for name in names}
    loaded = _read_tensors(directory, {"weights": wanted})["weights"]
    return {number: {**loaded[number], **kept[number]} for number in wanted}


def _load_everything(
    directory: Path, policy: "MegatronPolicy", manifest: Manifest, counters: Mapping[str, int]
) -> None:
    assert policy.optimizer is not None, "call start_training before load: the optimizer is loaded as well"
    policy.reference = ReferenceWeights(policy.chunks) if manifest.has_reference else None
    loaded = _read_tensors(directory, _sharded_state(policy, loading=True))
    _set_weights(policy, loaded["weights"])
    if policy.reference is not None:
        with policy.reference.swapped_in():
            _set_weights(policy, loaded["reference"])
    optimizer_state.restore(policy.optimizer, loaded["optimizer"], step=counters["optimizer_step"])
    policy.version = counters["version"]


def _sharded_state(policy: "MegatronPolicy", *, loading: bool = False) -> dict[str, Any]:
    state: dict[str, Any] = {"weights": _weights(policy)}
    if policy.optimizer is not None:
        state["optimizer"] = optimizer_state.sharded_state(
            policy.optimizer, state["weights"], loading=loading
        )
    if policy.reference is not None:
        with policy.reference.swapped_in():
            state["reference"] = _weights(policy)
            # detached: after the swap back the parameters hold the live weights, these aliases the
            # reference's
            dict_list_map_inplace(_detached, state["reference"])
        add_prefix_for_sharding(state["reference"], REFERENCE)
    return state


def _weights(policy: "MegatronPolicy") -> dict[str, Any]:
    metadata = {"dp_cp_group": _replicas(), "singleton_local_shards": False}
    return {str(i): chunk.sharded_state_dict(metadata=metadata) for i, chunk in enumerate(policy.chunks)}


def _set_weights(policy: "MegatronPolicy", loaded: Mapping[str, Any]) -> None:
    for i, chunk in enumerate(policy.chunks):
        chunk.load_state_dict(loaded[str(i)])


def _replicas() -> Any:
    """The group of ranks that hold the same weights."""
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def _detached(shard: Any) -> Any:
    if isinstance(shard, ShardedTensor | ShardedTensorFactory):
        shard.data = shard.data.detach()  # type: ignore[union-attr]
    return shard


class _Writer(FileSystemWriter):
    """torch's writer; a full disk is raised as the OSError, not as the zip writer's RuntimeError."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:  # "unexpected pos", raised while the OSError propagates
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


class _InProcessSave(TorchDistSaveShardedStrategy):
    """Writes the strategy's format in this process.

    Megatron's `save` (strategies/filesystem_async.py) spawns a manager process for one queue, which takes
    seconds at the first call, and reports a full disk as "AssertionError"; torch's own writer does neither.
    """

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: Path) -> None:
        state, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, True)
        planner = MCoreSavePlanner(
            dedup_replicated_tensors=False, flatten_state_dict=False, flatten_sharded_tensors=False
        )
        torch_checkpoint.save(  # type: ignore[reportPrivateImportUsage]
            mcore_to_pyt_state_dict(state, False),
            storage_writer=_Writer(checkpoint_dir),
            planner=planner,
        )


def _write_tensors(partial: Path, state: dict[str, Any]) -> None:
    """dist_checkpointing.save without its last line, a barrier that rank 0 never reaches on a full disk."""
    tensors: Any
    # the strategy checks that every part of a tensor has one writer
    tensors, common = save_preprocess(state, validate_access_integrity=False)
    assert not list(nested_values(common)), f"numbers belong in state.json: {common}"
    tensors["common_state"] = ShardedObject("common_state", {}, (1,), (0,), replica_id=dist.get_rank())
    strategy = FullyParallelSaveStrategyWrapper(_InProcessSave(), _replicas())
    strategy.save(tensors, partial)
    if dist.get_rank() == 0:
        index = asdict(CheckpointingConfig(strategy.backend, strategy.version))
        write_durably(partial / CONFIG_FNAME, json.dumps(index))


def _read_tensors(directory: Path, state: dict[str, Any]) -> dict[str, Any]:
    # Megatron caches indexes by path, so it would use the old one after another was written there
    CachedMetadataFileSystemReader.clear_metadata_cache()
    # torch reports missing tensors by a CheckpointException, which is no Exception;
    # backend/parallel/collectives.py turns it into a CheckpointError
    return on_all_ranks(
        f"{directory}: not read",
        lambda: dist_checkpointing.load(state, str(directory)),  # type: ignore[return-value]
    )


def _stored_tensors(directory: Path) -> Mapping[str, Any]:
    CachedMetadataFileSystemReader.clear_metadata_cache()
    return dist_checkpointing.load_tensors_metadata(str(directory))


def _describe_files(partial: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of every file; the ranks share the work."""
    names = on_first_rank(f"{partial}: not read back", lambda: files.file_names(partial))
    mine = on_all_ranks(
        f"{partial}: not read back", lambda: {name: files.describe(partial / name) for name in share(names)}
    )
    return {name: entry for part in gather(mine) for name, entry in part.items()}


def _check_model(directory: Path, manifest: Manifest, policy: "MegatronPolicy") -> None:
    """Raises CheckpointError, with the fields that differ, unless names and shapes of all weights agree."""
    stored = _stored_tensors(directory)
    found = {key: tuple(t.global_shape) for key, t in stored.items() if not key.startswith(NOT_WEIGHTS)}
    here = {key: shape for part in gather(_shapes(policy)) for key, shape in part.items()}
    if policy.score_head and SCORE_HEAD not in found:  # it starts from a language model
        found = {key: shape for key, shape in found.items() if not key.startswith(heads.LANGUAGE_ONLY)}
        here.pop(SCORE_HEAD)
    if found == here or _same_but_padding(found, here, manifest.model.get("vocab_size"), policy):
        return
    fields = _differences(manifest.model, policy.family.model_dump(mode="json"))
    weights = _differences(found, here)
    raise CheckpointError(f"{directory}: holds another model: {'; '.join((fields + weights)[:MOST_NAMED])}")


def _check_padding(directory: Path, manifest: Manifest, policy: "MegatronPolicy") -> None:
    """Raises CheckpointError where the optimizer state was written with other rows of padding."""
    vocab_size = policy.family.shape().vocab_size
    tensor = manifest.layout.get("tensor", 1)
    there, here = padded_rows(vocab_size, tensor), padded_rows(vocab_size, policy.layout.tensor)
    if there != here:
        raise CheckpointError(
            f"{directory}: its optimizer has {there} rows of vocabulary, the layout pads {vocab_size} to "
            f"{here}; use layout.tensor={tensor}, or start from its weights (`init:`)"
        )


def _same_but_padding(
    found: dict[str, Any], here: dict[str, Any], vocab_size: int | None, policy: "MegatronPolicy"
) -> bool:
    """Whether the shapes agree, except for the vocabulary's padding."""
    if vocab_size != policy.family.shape().vocab_size:
        return False
    cut = [{k: s[1:] if k.startswith(VOCABULARY) else s for k, s in side.items()} for side in (found, here)]
    return cut[0] == cut[1]


def _shapes(policy: "MegatronPolicy") -> dict[str, tuple[int, ...]]:
    """Names and global shapes of the weights on this rank."""
    shapes = {}
    for value in nested_values(_weights(policy)):
        built = value.build() if isinstance(value, ShardedTensorFactory) else {"": value}
        shapes |= {t.key: tuple(t.global_shape) for t in nested_values(built) if isinstance(t, ShardedTensor)}
    return shapes


def _differences(stored: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {stored.get(name, 'none')} in the checkpoint, {here.get(name, 'none')} here"
        for name in sorted(stored.keys() | here.keys())
        if stored.get(name) != here.get(name)
    ]
