"""Optimizer state in a checkpoint: Adam's moments and fp32 masters in the weights' shapes, for any layout.

Only these tensors and one step count are saved; learning rates and coefficients come from the configuration.
Each tensor has its weight's name, so one or two chained optimizers, distributed or not, read each other's
files. This avoids four places in which megatron-core 0.19.2's optimizer state dict fails without apex and
Transformer Engine:

- distrib_optimizer.py:839 asserts that some state exists: `allocate` creates Adam's, without a step;
- distrib_optimizer.py:1225 copies every tensor of the state and finds no "step" among the loaded ones:
  the steps are removed for that call;
- distrib_optimizer.py:1032 gives all parameters one shared `step` tensor, which Adam then increments once a
  parameter, silently: every parameter gets its own here;
- megatron-core's optimizer.py:1580 refuses another number of chained optimizers, and load_state_dict replaces
  the param groups with `fused` in them: neither is stored.
"""

# w a weight's local shard

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from torch import Tensor

from megatron_r1.backend.train.optimizer import parts

PREFIX = "optimizer.state"  # also DistributedOptimizer's own
MOMENTS = ("exp_avg", "exp_avg_sq")
# all-gathers instead of a gather to one rank, so that every data-parallel rank writes its share of the file
SHARDING = {"distrib_optim_fully_reshardable_mem_efficient": False}


def sharded_state(
    optimizer: MegatronOptimizer, weights: dict[str, Any], *, loading: bool = False
) -> dict[str, Any]:
    """Tensors to save, or to load into. weights: the model's sharded state, which holds the parameters."""
    allocate(optimizer)
    return {str(i): _sharded_part(part, weights, loading) for i, part in enumerate(parts(optimizer))}


def restore(optimizer: MegatronOptimizer, loaded: Mapping[str, Any], *, step: int) -> None:
    """Copy what was loaded into `sharded_state(..., loading=True)` into the optimizer."""
    for i, part in enumerate(parts(optimizer)):
        if isinstance(part, DistributedOptimizer):
            _drop_steps(part)
            part.load_parameter_state_from_fully_reshardable(loaded[str(i)])
        else:
            _copy_into(part, loaded[str(i)])
    set_step(optimizer, step)


def allocate(optimizer: MegatronOptimizer) -> None:
    """Create zero moments where Adam has not stepped yet, as its first step would."""
    before = get_step(optimizer)
    for part in parts(optimizer):
        part.init_state_fn(part.optimizer, part.config)
    set_step(optimizer, before)


def get_step(optimizer: MegatronOptimizer) -> int:
    """The number of Adam's updates; 0 on a rank without parameters."""
    steps = {int(state["step"]) for state in _adam_states(optimizer) if "step" in state}
    # Transformer Engine's FusedAdam counts in its groups
    steps |= {
        int(group["step"]) for part in parts(optimizer) for group in part.param_groups if "step" in group
    }
    assert len(steps) <= 1, f"parameters disagree on the step: {sorted(steps)}"
    return steps.pop() if steps else 0


def set_step(optimizer: MegatronOptimizer, step: int) -> None:
    """Set the same step count for all parameters, each in its own tensor."""
    for part in parts(optimizer):
        if not isinstance(part.optimizer, torch.optim.AdamW):
            for group in part.param_groups:
                group["step"] = step
            continue
        for group in part.optimizer.param_groups:
            for parameter in group["params"]:
                # torch's fused kernels need the count on the parameter's device, the others on the CPU
                where = parameter.device if group["fused"] or group["capturable"] else "cpu"
                count = torch.tensor(float(step), dtype=torch.float32, device=where)
                part.optimizer.state[parameter]["step"] = count


def _adam_states(optimizer: MegatronOptimizer) -> Iterator[dict[str, Any]]:
    for part in parts(optimizer):
        yield from part.optimizer.state.values()


def _drop_steps(part: MegatronOptimizer) -> None:
    for state in part.optimizer.state.values():
        state.pop("step", None)


def _sharded_part(part: MegatronOptimizer, weights: dict[str, Any], loading: bool) -> dict[Any, Any]:
    if isinstance(part, DistributedOptimizer):
        state = part.sharded_param_state_fully_reshardable(weights, loading, metadata=SHARDING)
        assert state is not None, "only the memory-efficient variant gives some ranks none"
        return state
    shard_of = {
        id(shard.data): shard
        for shard in nested_values(weights)
        if isinstance(shard, ShardedTensor | ShardedTensorFactory)
    }
    return {
        i: {
            name: make_sharded_optimizer_tensor(shard_of[id(parameter)], tensor, f"{PREFIX}.{name}")
            for name, tensor in _tensors(part, master).items()
        }
        for i, (parameter, master) in enumerate(_masters(part))
    }


def _copy_into(part: MegatronOptimizer, loaded: Mapping[int, Mapping[str, Tensor]]) -> None:
    for i, (_, master) in enumerate(_masters(part)):
        for name, tensor in _tensors(part, master).items():
            tensor.data.copy_(loaded[i][name])


def _tensors(part: MegatronOptimizer, master: Tensor) -> dict[str, Tensor]:
    """The master and the moments, [w] each, under DistributedOptimizer's names."""
    return {"param": master, **{name: part.optimizer.state[master][name] for name in MOMENTS}}


def _masters(part: MegatronOptimizer) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter of a non-distributed optimizer with the fp32 tensor that Adam updates."""
    if not isinstance(part, Float16OptimizerWithFloat16Params):
        yield from ((parameter, parameter) for parameter in part.get_parameters())
        return
    for narrow, wide in zip(part.float16_groups, part.fp32_from_float16_groups, strict=True):
        yield from zip(narrow, wide, strict=True)
    for group in part.fp32_from_fp32_groups:
        yield from ((parameter, parameter) for parameter in group)
