"""Describes a Hugging Face model and says why parts of it can't be converted; reads only headers."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from megatron_r1.config import resolved
from megatron_r1.errors import CheckpointError, ConfigError
from megatron_r1.huggingface.config_file import CONFIG, carried_files, family_of, read_json
from megatron_r1.huggingface.source import Source
from megatron_r1.models.shape import FamilyConfig
from megatron_r1.models.weights import num_parameters

Rows = list[tuple[str, str]]


def describe(directory: Path) -> str:
    """The report. Raises CheckpointError if the directory holds no model."""
    config = read_json(directory / CONFIG)
    named = config.get("architectures") or ["no architecture named"]
    rows: Rows = [("Hugging Face", ", ".join(map(str, named)) if isinstance(named, list) else str(named))]
    problems = []
    family = None
    try:
        family = family_of(config, directory / CONFIG)
    except ConfigError as error:
        problems.append(str(error))
    try:
        source = Source(directory)
        rows += _files(source)
        if family is not None:
            plan = source.plan()
            family, problems = plan.family, problems + [f"warning: {text}" for text in plan.warnings]
    except (CheckpointError, ConfigError) as error:
        problems.append(str(error))
    rows.append(("carried along", ", ".join(path.name for path in carried_files(directory))))
    text = table(rows if family is None else [*rows[:1], *family_rows(family), *rows[1:]])
    stopped = [problem for problem in problems if not problem.startswith("warning: ")]
    text += "\n" + "\n".join(problems or ["converts as it is"])
    return text if family is None or stopped else f"{text}\n\n{yaml_of(family)}"


def yaml_at(directory: Path) -> str:
    """The `model:` section for these weights. Raises CheckpointError or ConfigError if they can't be
    converted."""
    return yaml_of(Source(directory).plan().family)


def family_rows(family: FamilyConfig) -> Rows:
    shape, rows = family.shape(), family.weight_rows()
    after = range(shape.num_layers, shape.num_layers + shape.num_mtp_layers)
    main = num_parameters([row for row in rows if not (row.layers and row.layers[0] in after)])
    mtp = num_parameters(rows) - main
    layers = f"{shape.num_layers}"
    if shape.num_experts:
        layers += f", {shape.num_dense_layers} of them dense, {shape.num_experts} experts in the others"
    if shape.num_mtp_layers:
        layers += f"; {shape.num_mtp_layers} MTP"
    return [
        ("family", family.family),
        ("parameters", f"{main:,}" + (f" and {mtp:,} in MTP layers" if mtp else "")),
        ("layers", layers),
        ("heads", f"{shape.num_attention_heads}, {shape.num_query_groups} of keys and values"),
        ("vocabulary", f"{shape.vocab_size:,}"),
    ]


def yaml_of(family: FamilyConfig) -> str:
    """The `model:` section of a run that starts from these weights."""
    lines = resolved(family).splitlines()
    return "\n".join(["model:", *(f"  {line}" for line in lines if line.split(": ")[1:] != ["null"])])


def dtype_row(sizes: Counter[str]) -> str:
    """Bytes by number format, the most first."""
    return ", ".join(
        f"{dtype.removeprefix('torch.')} {size / 1e9:.3f} GB" for dtype, size in sizes.most_common()
    )


def table(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max(len(what) for what, _ in rows)
    return "\n".join(f"{what:<{width}}  {text}" for what, text in rows)


def _files(source: Source) -> Rows:
    sizes: Counter[str] = Counter()
    for name in source.names:
        sizes[str(source.entry(name).dtype)] += source.entry(name).num_bytes
    blocks = sum(source.in_blocks(name) for name in source.names)
    rows = [("files", f"{len(source.files)} with {len(source.names)} tensors"), ("types", dtype_row(sizes))]
    return [*rows, ("FP8 blocks", f"{blocks} weights")] if blocks else rows
