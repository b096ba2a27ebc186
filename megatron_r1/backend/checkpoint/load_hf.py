"""Load Hugging Face's files into a live model of any layout: each rank reads only its own slices."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from megatron_r1.backend.model.reward_head import LANGUAGE_ONLY
from megatron_r1.backend.model.reward_head import NAME as SCORE_HEAD
from megatron_r1.backend.model.weight_slices import Piece, by_name, pieces
from megatron_r1.backend.parallel.collectives import gather, on_first_rank
from megatron_r1.errors import CheckpointError
from megatron_r1.huggingface.source import Plan, Source
from megatron_r1.huggingface.weight_mapping import to_megatron
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.models.weights import Weight

MOST_NAMED = 8


def load_weights(chunks: Sequence[GPTModel], source: Source, plan: Plan) -> list[str]:
    """Fill every weight of this rank's chunks. Returns warnings, the same on all ranks.

    A collective call. Raises CheckpointError, before a weight changes, if model and weight table differ.
    """
    mine = [piece for piece in pieces(chunks) if not piece.place.name.startswith(SCORE_HEAD)]
    table = by_name(plan.weights)
    _check_cover(mine, plan.weights, table)
    bad = []
    with torch.no_grad():
        for piece in mine:
            weight = table[piece.place.name]
            value = read_piece(source, weight, piece)
            if not is_finite(value):
                bad.append(weight.megatron)
            piece.data.copy_(value)
    found = sorted({name for part in gather(bad) for name in part})
    return [f"{source.directory}: {name} holds numbers that are not finite" for name in found]


def read_piece(source: Source, weight: Weight, piece: Piece) -> Tensor:
    dtype = torch.float32 if weight.row.fp32 else piece.data.dtype
    return to_megatron(source, weight, dtype, rows=piece.place.rows, columns=piece.place.columns)


def is_finite(value: Tensor) -> bool:
    """Whether all values are finite. A sum finds NaN and infinity in a twentieth of the time of isfinite,
    which runs only if the sum isn't finite."""
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _check_cover(mine: Sequence[Piece], weights: Sequence[Weight], table: dict[str, Weight]) -> None:
    """Every piece must have a row of the table, and every weight a rank that holds it. Collective."""
    names = {name for part in gather([piece.place.name for piece in mine]) for name in part}
    unknown = sorted(name for name in names if name not in table)
    if unknown:
        raise CheckpointError(f"the family's table has no row for {_list(unknown)}")
    held = {table[name].megatron for name in names}
    unheld = [weight.megatron for weight in weights if weight.megatron not in held]
    if unheld:
        raise CheckpointError(f"the model has no weight {_list(unheld)}")
    for place, shape in ((piece.place, table[piece.place.name].shape) for piece in mine):
        # rows may lie beyond the weight: the vocabulary's padding
        fits = len(shape) == 1 if place.columns is None else place.columns.stop <= shape[1]
        assert fits, f"{place} of a weight of shape {shape}"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def load_directory(
    chunks: Sequence[GPTModel], directory: Path, family: FamilyConfig, *, score_head: bool = False
) -> list[str]:
    """All of `init: hf:PATH`: open, check, fill. Returns warnings. A collective call.

    score_head: the chunks have a reward head (backend/model/reward_head.py) instead of the lm_head; no file
    holds it.
    """
    source = Source(directory)
    plan = source.plan(family)
    if score_head:
        kept = [weight for weight in plan.weights if not weight.megatron.startswith(LANGUAGE_ONLY)]
        plan = replace(plan, weights=kept)
    on_first_rank(f"{directory}: not read", lambda: source.check_copies(family))
    return [*plan.warnings, *load_weights(chunks, source, plan)]
