"""How the ranks share the model and the data, and whether they can: pure arithmetic.

The rules are Megatron-Core 0.19.2's own (parallel_state.initialize_model_parallel,
TransformerConfig.__post_init__, PipelineParallelLayerLayout), said before anything starts, with a remedy.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from megatron_r1.models.shape import ModelShape
from megatron_r1.section import Section

Degree = Annotated[int, Field(ge=1, le=1 << 20)]
MAX_SPLIT = 100_000


def _of_a_length(split: str) -> str:
    """Written out it has a letter a layer; t*9999999999 would take all memory before a word could be said."""
    counts = [int(digits) for digits in re.findall(r"\*([0-9]+)", split)]
    repeated = [int(count) for count in re.findall(r"\)\*([0-9]+)", split)]
    if len(split) + sum(counts) * max(repeated, default=1) > MAX_SPLIT:
        raise ValueError(f"stands for more than {MAX_SPLIT} layers and marks; shorten it")
    return split


class Layout(Section):
    """Over how many ranks each dimension of the work is spread; the rest of the ranks are replicas."""

    ranks: Degree = 1
    """Processes in all, one a GPU (on a CPU: one a core at most)."""

    tensor: Degree = 1
    """Ranks that share every matrix. Above 1, sequence parallelism is on as well."""

    pipeline: Degree = 1
    """Ranks that share the layers, one after the other."""

    virtual_pipeline: Degree = 1
    """Chunks of layers a pipeline rank; above 1 the pipeline is interleaved."""

    pipeline_split: Annotated[str, AfterValidator(_of_a_length)] | None = None
    """An uneven split in Megatron's notation, such as "Et*3|(tttt|)*14ttmL".

    E is the embedding, t a layer, m an MTP layer, L the loss; | ends a chunk, *n repeats.
    """

    context: Degree = 1
    """Ranks that share one sequence."""

    expert: Degree = 1
    """Ranks that share the experts of a layer."""

    expert_tensor: Degree = 1
    """Ranks that share the matrices of one expert."""

    distributed_optimizer: bool = True
    """Replicas share the optimizer's state instead of each keeping all of it."""

    overlap: bool = False
    """Reduce gradients and gather parameters while computing."""

    overlap_experts: bool = False
    """Tokens travel to the experts of other ranks and back beside the passes of another micro-batch."""

    @property
    def data(self) -> int:
        """Replicas of the model."""
        return self.ranks // (self.tensor * self.pipeline * self.context)

    @property
    def expert_data(self) -> int:
        """Replicas of each expert."""
        return self.ranks // (self.expert * self.expert_tensor * self.pipeline)

    def places_like(self, other: "Layout") -> bool:
        """Whether every rank holds the same weights in both."""
        training_only = {"distributed_optimizer", "overlap", "overlap_experts"}
        return self.model_dump(exclude=training_only) == other.model_dump(exclude=training_only)

    @property
    def shares_optimizer(self) -> bool:
        """Whether anybody is there to share the optimizer's state with; alone, its buffers only cost."""
        return self.distributed_optimizer and max(self.data * self.context, self.expert_data) > 1


def split_layers(layout: Layout, shape: ModelShape) -> list[str]:
    """Each pipeline chunk's layers as letters (E, t, m, L), in the order of the layers.

    Chunk i lives on pipeline rank i % pipeline. Needs a layout without problems.
    """
    if layout.pipeline_split is not None:
        return _unroll(layout.pipeline_split).split("|")
    chunks = layout.pipeline * layout.virtual_pipeline
    rows = ["t" * (shape.num_layers // chunks)] * chunks
    rows[0] = "E" + rows[0]
    rows[-1] += "m" * shape.num_mtp_layers + "L"
    return rows


def even_split(shape: ModelShape, *, pipeline: int) -> str | None:
    """An uneven split that loads the stages evenly, the embedding, the head and MTP counted as a layer each.

    None where the layers divide by themselves, or where there is too little for every stage.
    """
    if shape.num_layers % pipeline == 0 or pipeline == 1:
        return None
    each = -(-(shape.num_layers + shape.num_mtp_layers + 2) // pipeline)
    last = shape.num_layers - (each - 1) - each * (pipeline - 2)
    if each < 2 or last < 1:
        return None
    middle = f"({'t' * each}|)*{pipeline - 2}" if pipeline > 2 else ""
    return f"Et*{each - 1}|{middle}{'t' * last}{'m' * shape.num_mtp_layers}L"


def problems(layout: Layout, shape: ModelShape, *, key: str = "layout") -> list[str]:
    """Everything that keeps this model from running in this layout: what, the value, the remedy."""
    return [
        f"{key}: {finding}"
        for finding in (
            _rank_problems(layout)
            + _tensor_problems(layout, shape)
            + _expert_problems(layout, shape)
            + _pipeline_problems(layout, shape)
        )
    ]


def precision_problems(layout: Layout, *, precision: str, recompute: str) -> list[str]:
    """Why the layout can't compute in this way."""
    if not layout.overlap_experts:
        return []
    found = []
    if precision == "fp32":
        found.append("overlap_experts=true needs precision bf16 or narrower, and it is fp32")
    if recompute == "full":
        found.append("overlap_experts=true can't recompute whole layers; use recompute selective or none")
    return [f"layout: {text}" for text in found]


def warnings(layout: Layout) -> list[str]:
    """What will run, but slower than it seems."""
    found = []
    if layout.expert_tensor > 1:
        found.append(
            f"layout: expert_tensor={layout.expert_tensor} cuts matrices that are small already; "
            f"expert={layout.expert * layout.expert_tensor} uses the same ranks and is usually faster"
        )
    return found


def _rank_problems(layout: Layout) -> list[str]:
    found = []
    model = layout.tensor * layout.pipeline * layout.context
    if layout.ranks % model:
        found.append(
            _no_room(
                layout.ranks,
                {"tensor": layout.tensor, "pipeline": layout.pipeline, "context": layout.context},
            )
        )
    experts = layout.expert * layout.expert_tensor * layout.pipeline
    if layout.ranks % experts and experts != model:
        found.append(
            _no_room(
                layout.ranks,
                {"expert": layout.expert, "expert_tensor": layout.expert_tensor, "pipeline": layout.pipeline},
            )
        )
    if layout.overlap and not layout.distributed_optimizer:
        found.append("overlap=true needs distributed_optimizer=true; set both or neither")
    if layout.overlap_experts and layout.expert == 1:
        found.append("overlap_experts=true needs expert > 1; without it nothing travels")
    if layout.overlap_experts and layout.pipeline > 1 and layout.virtual_pipeline == 1:
        found.append("overlap_experts=true with a pipeline needs virtual_pipeline > 1; set it to 2")
    return found


def _no_room(ranks: int, degrees: dict[str, int]) -> str:
    product = 1
    for degree in degrees.values():
        product *= degree
    terms = " x ".join(f"{name}={degree}" for name, degree in degrees.items() if degree > 1)
    if ranks < product:
        return f"{ranks} ranks cannot hold {terms} ({product}); lower one or start {product}"
    fits = [ranks // product * product, -(-ranks // product) * product]
    return f"{ranks} ranks are no multiple of {terms} ({product}); start {fits[0]} or {fits[1]}"


def _tensor_problems(layout: Layout, shape: ModelShape) -> list[str]:
    tensor, groups = layout.tensor, shape.num_query_groups
    has_dense = not shape.num_experts or shape.num_dense_layers
    found = [
        f"tensor={tensor} does not divide {name}={size}; use {_divisors(size, tensor)}"
        for name, size in {
            "num_attention_heads": shape.num_attention_heads,
            "ffn_hidden_size": shape.ffn_hidden_size if has_dense else 0,
            **shape.cut_by_tensor,
        }.items()
        if size % tensor
    ]
    if groups % tensor and tensor % groups:
        found.append(
            f"tensor={tensor} is neither a divisor nor a multiple of num_query_groups={groups}; "
            f"use {_divisors(groups, tensor)}"
        )
    return found


def _expert_problems(layout: Layout, shape: ModelShape) -> list[str]:
    if not shape.num_experts:
        return [
            f"{name}={degree} needs a model with experts, this one is dense; use {name}=1"
            for name, degree in {"expert": layout.expert, "expert_tensor": layout.expert_tensor}.items()
            if degree > 1
        ]
    return [
        f"{name}={degree} does not divide {what}={size}; use {_divisors(size, degree)}"
        for name, degree, what, size in (
            ("expert", layout.expert, "num_experts", shape.num_experts),
            ("expert_tensor", layout.expert_tensor, "moe_ffn_hidden_size", shape.moe_ffn_hidden_size),
        )
        if size % degree
    ]


def _pipeline_problems(layout: Layout, shape: ModelShape) -> list[str]:
    if layout.virtual_pipeline > 1 and layout.pipeline == 1:
        return [f"virtual_pipeline={layout.virtual_pipeline} needs pipeline > 1; use virtual_pipeline=1"]
    if layout.pipeline_split is not None:
        return _split_problems(layout, shape, split=layout.pipeline_split)
    chunks = layout.pipeline * layout.virtual_pipeline
    if shape.num_layers % chunks:
        degrees = f"pipeline={layout.pipeline}"
        if layout.virtual_pipeline > 1:
            degrees += f" x virtual_pipeline={layout.virtual_pipeline} ({chunks})"
        return [
            f"{degrees} does not divide num_layers={shape.num_layers}; "
            f"use {_divisors(shape.num_layers, chunks)}, or say an uneven split in pipeline_split"
        ]
    return []


def _split_problems(layout: Layout, shape: ModelShape, *, split: str) -> list[str]:
    letters = _unroll(split)
    unknown = sorted(set(letters) - set("EtmL|"))
    if unknown:
        return [
            f"pipeline_split {split!r} holds {''.join(unknown)!r}; only E, t, m, L, | and (...)*n are known"
        ]
    found = []
    rows, chunks = letters.split("|"), layout.pipeline * layout.virtual_pipeline
    if len(rows) != chunks:
        found.append(
            f"pipeline_split {split!r} makes {len(rows)} chunks, "
            f"pipeline={layout.pipeline} x virtual_pipeline={layout.virtual_pipeline} needs {chunks}"
        )
    for letter, name, count in (
        ("t", "num_layers", shape.num_layers),
        ("m", "num_mtp_layers", shape.num_mtp_layers),
    ):
        if letters.count(letter) != count:
            found.append(f"pipeline_split {split!r} holds {letters.count(letter)} {letter}, {name}={count}")
    if not re.fullmatch("Et*m*L", letters.replace("|", "")):
        found.append(f"pipeline_split {split!r} must run from E over t and m to L, with one E and one L")
    if sum("m" in row for row in rows) > 1:
        found.append(f"pipeline_split {split!r} spreads the MTP layers; keep all m in one chunk")
    return found


def _unroll(split: str) -> str:
    """Megatron's notation written out: "Et*2|(t|)*2L" -> "Ett|t|t|L"."""
    letters = split.replace(",", "").replace(" ", "")
    for pattern in (r"\(([^)]+)\)\*(\d+)", r"(.)\*(\d+)"):
        letters = re.sub(pattern, lambda found: found[1] * int(found[2]), letters)
    return letters


def _divisors(size: int, limit: int) -> str:
    """The divisors of `size` below `limit`, for the reader to choose from."""
    return " or ".join(str(n) for n in range(1, limit) if size % n == 0)
