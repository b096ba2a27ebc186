"""Builds the model of a family in a layout: TransformerConfig, layer specs and GPTModel.

Megatron is moving from GPTModel to HybridModel; only `build_chunk` will have to change.
"""

import dataclasses
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_decoder_block_spec,
    get_gpt_decoder_layer_specs,
    get_gpt_layer_local_spec,
    get_gpt_mtp_block_spec,
    get_gpt_mtp_block_spec_for_backend,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.enums import AttnBackend, LayerType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.moe_logging import destroy_moe_metrics_tracker
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import MLATransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from megatron_r1.backend.compat import megatron_patches
from megatron_r1.backend.model import config_overrides
from megatron_r1.backend.model.attention import (
    LocalCoreAttention,
    LocalMLASelfAttention,
    LocalSelfAttention,
    PackRotary,
)
from megatron_r1.backend.model.norms import LatentRMSNorm, LocalRMSNorm
from megatron_r1.backend.model.precision import Precision, precision_options, transformer_engine_available
from megatron_r1.backend.model.router import PackRouter
from megatron_r1.backend.model.vocabulary import mask_padding, padded_rows
from megatron_r1.backend.parallel.process_groups import device
from megatron_r1.config.layout import Layout, precision_problems
from megatron_r1.errors import ConfigError
from megatron_r1.models.deepseek_v3 import LATENT_EPSILON
from megatron_r1.models.shape import FamilyConfig, Rope


@dataclasses.dataclass(frozen=True, slots=True)
class ModelOptions:
    """Options of the model's computation that don't change its shape."""

    precision: Precision = "fp32"
    transformer_engine: bool = False  # TE modules, or Megatron's own with our attention
    recompute: str = "none"  # none | selective | full
    max_logits: int | None = None  # the most that a rank holds at once (lm_head.py)
    prompt_logits: bool = False  # compute logits of tokens of weight 0 too


def default_options(
    precision: Precision,
    *,
    recompute: str = "none",
    max_logits: int | None = None,
    prompt_logits: bool = False,
) -> ModelOptions:
    """Options with Transformer Engine where it is installed, otherwise with Megatron's own modules."""
    return ModelOptions(
        precision=precision,
        transformer_engine=transformer_engine_available(),
        recompute=recompute,
        max_logits=max_logits,
        prompt_logits=prompt_logits,
    )


def transformer_config(family: FamilyConfig, layout: Layout, options: ModelOptions) -> TransformerConfig:
    """Megatron's configuration of this family in this layout."""
    by_layout = _layout_options(layout)
    config_overrides.refuse(family.megatron, by_layout)
    for text in precision_problems(layout, precision=options.precision, recompute=options.recompute):
        raise ConfigError(text)
    wanted: dict[str, Any] = {
        **_common_options(options),
        **by_layout,
        **precision_options(options.precision),
        **_recompute_options(options.recompute),
        **family.transformer_config(),  # type: ignore[attr-defined]
    }
    cls = MLATransformerConfig if wanted.get("multi_latent_attention") else TransformerConfig
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(wanted) - known)
    if unknown:
        raise ConfigError(f"model.megatron: {', '.join(unknown)}: no field of megatron-core's {cls.__name__}")
    config = cls(**wanted)
    epsilon = config.layernorm_epsilon
    if options.transformer_engine and config.multi_latent_attention and epsilon != LATENT_EPSILON:
        raise ConfigError(
            f"model.norm_epsilon: {epsilon:g}, and Transformer Engine's layers would use it for MLA's "
            f"latents too, whose own is {LATENT_EPSILON:g}: other logits than DeepSeek's code; use "
            f"{LATENT_EPSILON:g}"
        )
    return config


def _common_options(options: ModelOptions) -> dict[str, Any]:
    engine = options.transformer_engine
    return {
        "normalization": "RMSNorm",
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "add_bias_linear": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "transformer_impl": "transformer_engine" if engine else "local",
        "attention_backend": AttnBackend.auto if engine else AttnBackend.local,
        "moe_grouped_gemm": engine,
        "moe_token_dispatcher_type": "alltoall",
        "inference_moe_token_dispatcher_type": "nccl",  # the alternative needs NVLink between all ranks
        "bias_activation_fusion": engine,
        "gradient_accumulation_fusion": False,  # needs apex's or TE's wgrad kernel
        "persist_layer_norm": engine,
        # the loss is already normalised (train/pipeline_schedule.py)
        "calculate_per_token_loss": True,
        # packs differ in length
        "variable_seq_lengths": True,
        # init_weights.py fills the weights, the same in every layout
        "perform_initialization": False,
    }


def _layout_options(layout: Layout) -> dict[str, Any]:
    virtual = layout.virtual_pipeline if layout.virtual_pipeline > 1 else None
    return {
        "tensor_model_parallel_size": layout.tensor,
        "sequence_parallel": layout.tensor > 1,
        "pipeline_model_parallel_size": layout.pipeline,
        "virtual_pipeline_model_parallel_size": virtual,
        "pipeline_model_parallel_layout": layout.pipeline_split,
        "context_parallel_size": layout.context,
        "expert_model_parallel_size": layout.expert,
        "expert_tensor_parallel_size": layout.expert_tensor,
        # interleaved pipelines over batched p2p compute wrong gradients, silently
        "overlap_p2p_comm": virtual is not None,
        "batch_p2p_comm": virtual is None,
        "overlap_moe_expert_parallel_comm": layout.overlap_experts,
    }


def _recompute_options(recompute: str) -> dict[str, Any]:
    if recompute == "full":
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    if recompute == "selective":
        return {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    return {}


def build_model(
    family: FamilyConfig, layout: Layout, options: ModelOptions, *, on: torch.device | None = None
) -> list[GPTModel]:
    """This rank's chunks of the model (one, or virtual_pipeline many), without initial weights.

    on: a device other than this rank's, such as meta.
    """
    megatron_patches.apply()
    destroy_moe_metrics_tracker()  # a global, sized for the layers of an earlier model
    config = transformer_config(family, layout, options)
    chunks = range(layout.virtual_pipeline)
    return [
        build_chunk(
            family, config, vp_stage=i if layout.virtual_pipeline > 1 else None, options=options, on=on
        )
        for i in chunks
    ]


def build_chunk(
    family: FamilyConfig,
    config: TransformerConfig,
    *,
    vp_stage: int | None,
    options: ModelOptions,
    on: torch.device | None = None,
) -> GPTModel:
    """One pipeline chunk as a GPTModel."""
    if options.transformer_engine:
        block = get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=vp_stage)
        for layer in block.layer_specs:
            _use_pack_router(layer)
        mtp = _engine_mtp_spec(config, vp_stage)
    else:
        layers = local_layer_specs(config)
        block = _slice_block(config, layers, vp_stage)
        mtp = _local_mtp_spec(config, layers[-1], vp_stage)
    rope = family.rope()
    first = parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage)
    last = parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage)
    model = GPTModel(
        config=config,
        transformer_layer_spec=block,
        vocab_size=padded_rows(family.shape().vocab_size, config.tensor_model_parallel_size),
        max_sequence_length=family.max_position_embeddings,
        pre_process=first,
        post_process=last,
        share_embeddings_and_output_weights=family.output_is_embedding,
        position_embedding_type="none" if rope is None else "rope",
        **({} if rope is None else {"rotary_base": rope.base, "rotary_percent": rope.share}),
        mtp_block_spec=mtp,
        vp_stage=vp_stage,
    )
    if rope is not None:
        _set_rotary(model, rope, packed=not options.transformer_engine)
    mask_padding(model, family.shape().vocab_size)
    return model.to(on or device())  # Megatron creates routers, and torch norms, on the CPU


def local_layer_specs(config: TransformerConfig) -> list[ModuleSpec]:
    """A spec for each layer of the whole model: Megatron's own modules with our attention and norm."""
    pattern = config.moe_layer_freq if config.num_moe_experts else [0] * config.num_layers
    assert isinstance(pattern, list)
    return [_local_layer_spec(config, has_experts=bool(moe)) for moe in pattern]


def _local_layer_spec(config: TransformerConfig, *, has_experts: bool) -> ModuleSpec:
    spec = get_gpt_layer_local_spec(
        num_experts=config.num_moe_experts if has_experts else None,
        moe_grouped_gemm=False,
        qk_layernorm=config.qk_layernorm,
        multi_latent_attention=config.multi_latent_attention,
        normalization=config.normalization,
    )
    layer = spec.submodules
    _use_pack_router(spec)
    layer.input_layernorm = layer.pre_mlp_layernorm = LocalRMSNorm
    attention = layer.self_attention
    attention.submodules.core_attention = LocalCoreAttention
    attention.module = LocalMLASelfAttention if config.multi_latent_attention else LocalSelfAttention
    for norm in ("q_layernorm", "k_layernorm", "kv_layernorm"):
        if getattr(attention.submodules, norm, IdentityOp) is not IdentityOp:
            setattr(
                attention.submodules,
                norm,
                LatentRMSNorm if config.multi_latent_attention else LocalRMSNorm,
            )
    if config.multi_latent_attention and config.q_lora_rank is None:
        attention.submodules.q_layernorm = IdentityOp  # no latent to normalise; Megatron refuses a norm here
    return spec


def _use_pack_router(layer: ModuleSpec) -> None:
    """Use our router in a MoE layer; a dense layer stays as it is."""
    mlp = layer.submodules.mlp  # a class, a ModuleSpec, or with experts a partial of MoELayer
    if isinstance(mlp, partial) and mlp.func is MoELayer:
        mlp.keywords["submodules"].router = PackRouter


def _slice_block(
    config: TransformerConfig, layers: list[ModuleSpec], vp_stage: int | None
) -> TransformerBlockSubmodules:
    """The layers of this rank and chunk."""
    if config.pipeline_model_parallel_layout is not None:
        ids = config.pipeline_model_parallel_layout.get_layer_id_list(  # type: ignore[union-attr]
            layer_type=LayerType.decoder, vp_stage=vp_stage
        )
    else:
        offset = get_transformer_layer_offset(config, vp_stage=vp_stage)
        ids = range(offset, offset + get_num_layers_to_build(config, vp_stage=vp_stage))
    return TransformerBlockSubmodules(layer_specs=[layers[i] for i in ids], layer_norm=LocalRMSNorm)


class _LocalProvider(LocalSpecProvider):
    """Megatron's local modules with our norm, for the norms of the MTP block."""

    def layer_norm(self, *args: Any, **kwargs: Any) -> Any:
        return LocalRMSNorm


def _local_mtp_spec(config: TransformerConfig, last_layer: ModuleSpec, vp_stage: int | None) -> Any:
    if not config.mtp_num_layers:
        return None
    return get_gpt_mtp_block_spec_for_backend(
        config=config, spec=last_layer, backend=_LocalProvider(), vp_stage=vp_stage
    )


def _engine_mtp_spec(config: TransformerConfig, vp_stage: int | None) -> Any:
    if not config.mtp_num_layers:
        return None
    layers = get_gpt_decoder_layer_specs(config, use_transformer_engine=True)
    _use_pack_router(layers[-1])
    return get_gpt_mtp_block_spec(config, layers[-1], use_transformer_engine=True, vp_stage=vp_stage)


def _set_rotary(model: GPTModel, rope: Rope, *, packed: bool) -> None:
    """Set rescaled frequencies (Megatron takes only a factor) and packed positions."""
    rotary = model.rotary_pos_emb
    if rope.rescale is not None and not rotary.inv_freq.is_meta:  # a plan's model has shapes only
        rescaled = rope.rescale(rotary.inv_freq.tolist())
        rotary.inv_freq = torch.tensor(rescaled, dtype=rotary.inv_freq.dtype, device=rotary.inv_freq.device)
        rotary.forward.cache_clear()
    if packed:
        model.rotary_pos_emb = PackRotary(rotary, token_dims=2)
