"""Resharded model: a second copy of the weights in the rollout's own layout, kept current by weight sync.

Its data-parallel ranks are not those of training: all prompts are dealt out again, and every completion goes
back to the rank that asked. Draws are keyed (sampling.py), so the tokens are the same.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel

from megatron_r1.backend.model import router, routing_replay
from megatron_r1.backend.model.build import ModelOptions, build_model
from megatron_r1.backend.parallel.collectives import gather
from megatron_r1.backend.parallel.process_groups import MegatronReplicas, groups_of
from megatron_r1.backend.rollout import engine as rollout
from megatron_r1.backend.rollout.decoder import expert_weights
from megatron_r1.backend.rollout.weight_sync import Refitter
from megatron_r1.config.layout import Layout
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.types import Begun, Replicas, Sampled, Sampling


class ReshardedModel:
    """The model that samples if the rollout has its own layout. All its methods are collective calls."""

    def __init__(
        self, family: FamilyConfig, layout: Layout, options: ModelOptions, *, trained: Sequence[GPTModel]
    ) -> None:
        self.layout = layout
        with self.groups():
            self.chunks = build_model(family, layout, replace(options, recompute="none"))
            expert_weights.lay_out(self.chunks)
            self.replicas = MegatronReplicas()
        router.attach(self.chunks)
        routing_replay.attach(self.chunks)
        for parameter in (p for chunk in self.chunks for p in chunk.parameters()):
            parameter.requires_grad_(False)
            torch.nn.init.zeros_(parameter)  # weight sync doesn't write the vocabulary's padding
        self.refitter = Refitter(trained, self.chunks, inside=self.groups)

    def groups(self) -> AbstractContextManager[None]:
        """Within: Megatron's groups are this model's."""
        return groups_of(self.layout)

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        *,
        keys: Sequence[int],
        of: Replicas,
        begun: Sequence[Begun] | None,
        **how: Any,
    ) -> list[Sampled]:
        """engine.generate for the prompts of each training data-parallel rank (`of`). how: its other
        options."""
        so_far: Sequence[Any] = [None] * len(prompts) if begun is None else begun
        asked = list(zip([of.index] * len(prompts), prompts, keys, so_far, strict=True)) if of.leads else []
        rows = [row for part in gather(asked) for row in part]
        mine, count = self.replicas.index, self.replicas.count
        own = range(len(rows) * mine // count, len(rows) * (mine + 1) // count)
        with self.groups():
            outputs = rollout.generate(
                self.chunks,
                [rows[i][1] for i in own],
                sampling,
                keys=[rows[i][2] for i in own],
                begun=None if begun is None else [rows[i][3] for i in own],
                **how,
            )
        answers = dict(zip(own, outputs, strict=True)) if self.replicas.leads else {}
        found = {i: output for part in gather(answers) for i, output in part.items()}
        return [found[i] for i, row in enumerate(rows) if row[0] == of.index]
