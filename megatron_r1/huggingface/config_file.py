"""config.json, and the other files of a model that conversions copy unchanged ("carried files")."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megatron_r1 import registry
from megatron_r1.errors import CheckpointError, ConfigError
from megatron_r1.files.json_reader import read_json_object
from megatron_r1.models.hf_config import HfConfig
from megatron_r1.models.shape import FamilyConfig

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
# carried: generation_config.json, tokenizers, chat templates, remote code, licences
CARRIED = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".md")
LICENCES = ("LICENSE", "LICENCE", "NOTICE")
LARGEST_CARRIED = 64 << 20
# Alternative keys for one setting: if one of them changes, the others must be removed.
ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")
DTYPE_KEYS = ("torch_dtype", "dtype")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError for anything else."""
    remedy = "fetch it again, or give the directory of a Hugging Face model"
    return read_json_object(path, error=CheckpointError, remedy=remedy)


def family_of(values: Mapping[str, Any], where: Path) -> FamilyConfig:
    """The family and shape that a config.json describes. ConfigError names what can't be converted."""
    known = {
        entry.config.hf_architecture: entry.config
        for entry in registry.families().values()
        if issubclass(entry.config, FamilyConfig) and entry.config.hf_architecture
    }
    named = values.get("architectures") or []
    architecture = str(named[0] if isinstance(named, list) else named) if named else None
    types = {config.hf_model_type: name for name, config in known.items()}
    by_type = types.get(str(values.get("model_type")))
    if architecture is None:  # older files have only model_type
        architecture = by_type
    # an unknown model_type, as Kimi K2 has, is no contradiction
    elif architecture in known and by_type not in (None, architecture):
        raise ConfigError(
            f"{where}: architectures names {architecture} and model_type={values.get('model_type')!r} is "
            f"{by_type}'s; which of the two the files are can't be told"
        )
    if architecture not in known:
        raise ConfigError(
            f"{where}: architecture {architecture or values.get('model_type')!r} can't be converted; "
            f"there are {', '.join(sorted(str(name) for name in known))}"
        )
    try:
        return known[architecture].from_hf(HfConfig(values))
    except ValidationError as error:  # what a family itself refuses
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigError(
            f"{where}: {architecture}: this configuration can't be converted: {found}"
        ) from None


def merged_config(
    family: FamilyConfig,
    carried: Mapping[str, Any] | None,
    *,
    dtype: str,
    quantization: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The config.json to write: the carried one, changed only where the family differs from it.

    dtype: the name of the weights' dtype. quantization: its quantization_config.
    """
    ours = family.to_hf()
    if carried is None:
        config = {key: value for key, value in ours.items() if key != "rope_scaling" or value is not None}
    else:
        before = type(family).from_hf(HfConfig(carried)).to_hf()
        changed = {key: value for key, value in ours.items() if before[key] != value}
        config = dict(carried)
        if any(key in changed for key in ROPE_KEYS):
            for key in ROPE_KEYS:
                config.pop(key, None)
            changed |= {key: ours[key] for key in ("rope_theta", "rope_scaling")}
        config |= changed
    for spelling in [key for key in DTYPE_KEYS if key in config] or DTYPE_KEYS[:1]:
        config[spelling] = dtype
    config.pop("quantization_config", None)
    if quantization is not None:
        config["quantization_config"] = dict(quantization)
    return config


def carried_files(directory: Path) -> list[Path]:
    """The carried files: every small file that is neither weights nor their index."""
    found = []
    for path in sorted(directory.iterdir()):
        named = path.suffix in CARRIED or path.name.split(".")[0] in LICENCES
        if not path.is_file() or not named or path.name.endswith(".index.json"):
            continue
        if path.stat().st_size <= LARGEST_CARRIED:
            found.append(path)
    return found
