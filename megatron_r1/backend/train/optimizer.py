"""DDP and the optimizer around the model's chunks."""

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer

from megatron_r1.config.layout import Layout
from megatron_r1.types import OptimizerOptions


def wrap_for_training(chunks: Sequence[GPTModel], layout: Layout) -> list[DistributedDataParallel]:
    """Megatron's DDP around each chunk; broadcasts the weights of the first data-parallel rank."""
    wrapped, overlap = [], layout.overlap and layout.shares_optimizer
    for index, chunk in enumerate(chunks):
        config = chunk.config
        options = DistributedDataParallelConfig(
            grad_reduce_in_fp32=config.params_dtype != torch.float32,
            overlap_grad_reduce=overlap,
            overlap_param_gather=overlap,
            use_distributed_optimizer=layout.shares_optimizer,
        )
        wrapped.append(DistributedDataParallel(config, options, chunk, disable_bucketing=index > 0))
    for model in wrapped:
        model.broadcast_params()
    return wrapped


# no_grad: in fp32 the shards are views of the parameters, and their graph's hooks would hold model and
# optimizer
@torch.no_grad()
def build_optimizer(
    models: Sequence[DistributedDataParallel], layout: Layout, options: OptimizerOptions
) -> MegatronOptimizer:
    """AdamW with fp32 masters; the learning rate is set before every step."""
    config, overlap = models[0].config, layout.overlap and layout.shares_optimizer
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=0.0,
            weight_decay=options.weight_decay,
            adam_beta1=options.beta1,
            adam_beta2=options.beta2,
            adam_eps=options.epsilon,
            clip_grad=options.clip_grad,
            params_dtype=config.params_dtype,
            bf16=config.bf16,
            use_distributed_optimizer=layout.shares_optimizer,
            overlap_param_gather=overlap,
        ),
        list(models),
    )
    _use_fused_adam(optimizer)
    config.finalize_model_grads_func = finalize_model_grads
    config.grad_scale_func = optimizer.scale_loss
    if overlap:
        config.no_sync_func = [model.no_sync for model in models] if len(models) > 1 else models[0].no_sync
    return optimizer


def _use_fused_adam(optimizer: MegatronOptimizer) -> None:
    """torch's fused AdamW on the CPU: one pass over each parameter instead of a dozen operations."""
    if torch.cuda.is_available():
        return
    for part in parts(optimizer):
        for group in part.param_groups:
            group["fused"], group["foreach"] = True, False


def finish_parameter_gather(models: Sequence[Any]) -> None:
    """Gather the new parameters now; with overlap, an update leaves it to the next forward."""
    for model in models:
        if isinstance(model, DistributedDataParallel) and model.ddp_config.overlap_param_gather:
            with torch.no_grad():
                model.start_param_sync(force_sync=True)


def unwrap(models: Sequence[Any]) -> None:
    """Remove DDP's hooks after the last update: they hold model and optimizer in uncollectable cycles."""
    for model in models:
        if isinstance(model, DistributedDataParallel) and model.use_forward_hook:
            model.disable_forward_pre_hook(param_sync=False)


def parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """The chained optimizers: one for dense and one for expert parameters where their groups differ."""
    return list(optimizer.chained_optimizers) if isinstance(optimizer, ChainedOptimizer) else [optimizer]
