"""Compares logits with transformers', token by token, and finds the first layer in which they differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_r1.backend.checkpoint import files
from megatron_r1.backend.hf.export_checkpoint import family_in
from megatron_r1.backend.hf.logits import traces
from megatron_r1.backend.model.build import default_options
from megatron_r1.backend.model.precision import parameter_dtype
from megatron_r1.backend.parallel.collectives import on_all_ranks
from megatron_r1.backend.policy import MegatronPolicy
from megatron_r1.config.layout import Layout
from megatron_r1.huggingface.reference import EMBEDDING, LOGITS, layer_name, reference_states
from megatron_r1.models.shape import FamilyConfig

TOLERANCE = (
    1e-3  # of the standard deviation; both compute in fp32, and real errors are a thousand times larger
)


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of one layer's states over all prompts; deviation: the standard deviation of theirs."""

    place: str
    largest: float
    mean: float
    deviation: float

    @property
    def relative(self) -> float:
        return self.largest / self.deviation


@dataclass(frozen=True, slots=True)
class Comparison:
    """argmax_agreement: the share of positions with the same most likely token."""

    places: list[Difference]  # from the embedding over the layers to the logits
    argmax_agreement: float
    num_tokens: int
    tolerance: float

    @property
    def logits(self) -> Difference:
        return self.places[-1]

    @property
    def first_different(self) -> Difference | None:
        # `not <=`: a comparison with NaN is false, and NaN must count as different
        return next((p for p in self.places if not p.relative <= self.tolerance), None)

    def text(self) -> str:
        logits, first = self.logits, self.first_different
        return "\n".join(
            [
                f"logits    max difference {logits.largest:.2e}, mean {logits.mean:.2e} "
                f"(standard deviation of the logits {logits.deviation:.3g})",
                f"argmax    {self.argmax_agreement:.2%} of {self.num_tokens} positions agree",
                "layers    " + self._layers(first),
            ]
        )

    def _layers(self, first: Difference | None) -> str:
        if first is None:
            return f"all {len(self.places) - 2} agree within {self.tolerance:g} standard deviations"
        return (
            f"{first.place} is the first that differs: max {first.largest:.2e}, "
            f"{first.relative:.2g} standard deviations"
        )


def verify(
    directory: Path,
    checkpoint: Path,
    prompts: Sequence[Sequence[int]],
    *,
    layout: Layout,
    tolerance: float = TOLERANCE,
) -> Comparison | None:
    """The comparison on rank 0, None on the other ranks. A collective call of the layout's ranks.

    transformers runs first, on rank 0; its model is freed before ours is built.
    """
    main = dist.get_rank() == 0
    manifest = on_all_ranks(f"{checkpoint}: not read", lambda: files.read_manifest(checkpoint))
    family = family_in(manifest)
    like = _formats(family, parameter_dtype(manifest.precision))  # type: ignore[arg-type]
    theirs = on_all_ranks(
        f"{directory}: not read",
        lambda: (
            reference_states(directory, prompts, model_type=family.hf_model_type, like=like) if main else []
        ),
    )
    longest = max(map(len, prompts))
    policy = MegatronPolicy(
        family,
        layout,
        default_options("fp32"),
        seed=0,
        eos_ids=(0,),
        tokens_per_pack=-(-longest // 8) * 8 + 8,
    )
    policy.load(checkpoint, weights_only=True)
    ours = traces(policy, prompts, states=True)
    if not main:
        return None
    return compare(theirs, [trace.states for trace in ours], family.shape().num_layers, tolerance)


def _formats(family: FamilyConfig, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """Returns a function from a tensor's Hugging Face name to its dtype in the checkpoint."""
    wide = {name for weight in family.weights() if weight.row.fp32 for name in weight.hf}
    return lambda name: torch.float32 if name in wide else dtype


def compare(
    theirs: Sequence[dict[str, Tensor]], ours: Sequence[dict[str, Tensor]], num_layers: int, tolerance: float
) -> Comparison:
    names = [EMBEDDING, *map(layer_name, range(num_layers)), LOGITS]
    places = [_difference(name, theirs, ours) for name in names]
    agree = [a[LOGITS].argmax(-1) == b[LOGITS].argmax(-1) for a, b in zip(theirs, ours, strict=True)]
    whole = torch.cat(agree)
    return Comparison(places, float(whole.float().mean()), whole.numel(), tolerance)


def _difference(
    name: str, theirs: Sequence[dict[str, Tensor]], ours: Sequence[dict[str, Tensor]]
) -> Difference:
    a, b = torch.cat([states[name] for states in theirs]), torch.cat([states[name] for states in ours])
    gap = (a - b).abs()
    return Difference(name, float(gap.max()), float(gap.mean()), float(a.std()))
