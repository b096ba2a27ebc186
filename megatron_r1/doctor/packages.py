"""The doctor's checks of Python, torch, Megatron, Transformer Engine, flash-attn and apex.

Packages that may crash on import are tried in a child process with this process's sys.path, so that a damaged
one is a finding rather than a traceback.
"""

import importlib.util
import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from megatron_r1.doctor.finding import Finding, Status

REBUILD = "make clean setup"
PIP = f"{sys.executable} -m pip"
CHILD_TIMEOUT_S = 180  # the first import of Megatron may have to compile its byte code


@dataclass(frozen=True, slots=True)
class TorchFacts:
    """torch's builds and the GPUs that it sees; error: why it can't be imported."""

    error: str = ""
    cuda: str = ""  # the version that torch was built for
    nccl: str = ""
    gpus: tuple[str, ...] = ()


def run_child(code: str) -> tuple[str, str]:
    """Run `code` in a fresh interpreter with this sys.path; returns its output and its error ("" if none)."""
    preamble = f"import sys; sys.path[:] = {sys.path!r}\n"
    try:
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", preamble + code],
            capture_output=True, text=True, timeout=CHILD_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "", f"no answer in {CHILD_TIMEOUT_S} s"
    last_line = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
    return child.stdout, last_line if child.returncode else ""


@cache
def torch_facts() -> TorchFacts:
    out, error = run_child(
        "import json, torch\n"
        "nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()\n"
        "properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]\n"
        "print(json.dumps({'cuda': torch.version.cuda or '',\n"
        "    'nccl': '.'.join(map(str, torch.cuda.nccl.version())) if nccl else '',\n"
        "    'gpus': [f'{p.name} {p.total_memory / 2**30:.0f} GiB' for p in properties]}))\n"
    )
    if error:
        return TorchFacts(error=error)
    facts = json.loads(out.splitlines()[-1])
    return TorchFacts(cuda=facts["cuda"], nccl=facts["nccl"], gpus=tuple(facts["gpus"]))


def version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def python() -> Finding:
    fits = (3, 12) <= sys.version_info < (3, 14)
    return Finding(
        platform.python_version(),
        "everything (3.12 or 3.13)",
        Status.OK if fits else Status.BROKEN,
        remedy="" if fits else REBUILD,
        essential=True,
    )


def torch() -> Finding:
    version, used_for = version_of("torch"), "everything"
    if version is None:
        return Finding("missing", used_for, Status.BROKEN, REBUILD, essential=True)
    if torch_facts().error:
        note = f"`import torch` fails: {torch_facts().error}"
        return Finding(f"{version}, damaged", used_for, Status.BROKEN, REBUILD, essential=True, note=note)
    return Finding(version, used_for, essential=True)


def megatron_core() -> Finding:
    version, used_for = version_of("megatron-core"), "models, layouts, optimizer, checkpoints"
    if version is None:
        return Finding("missing", used_for, Status.BROKEN, REBUILD, essential=True)
    _, error = run_child("import megatron.core")
    if not error:
        return Finding(version, used_for, essential=True)
    engine = transformer_engine()
    if engine.status is Status.BROKEN:
        remedy, cause = engine.remedy, "Transformer Engine, which Megatron imports, is damaged"
    else:
        remedy, cause = REBUILD, "its packages are incomplete"
    note = f"`import megatron.core` fails: {error}. {cause[0].upper()}{cause[1:]}."
    return Finding(f"{version}, crashes: {cause}", used_for, Status.BROKEN, remedy, essential=True, note=note)


# Transformer Engine comes as three distributions, each useless without the others.
ENGINE_PARTS = {
    "meta package": ("transformer-engine",),
    "core library": ("transformer-engine-cu12", "transformer-engine-cu13"),
    "torch extension": ("transformer-engine-torch",),
}
ENGINE_NOTE = (
    "Megatron imports Transformer Engine wherever it finds a part of it, and expects no other error than "
    "ImportError: so a partial installation keeps Megatron from being imported at all. Complete it (that "
    "takes CUDA and a compiler) or remove it; nothing here requires it."
)


def transformer_engine() -> Finding:
    """Decided by an import, since a build from source has other metadata; the metadata explain a failure."""
    used_for = "FP8 and fused kernels on GPUs; torch's own serve without"
    parts = {part: [name for name in names if version_of(name)] for part, names in ENGINE_PARTS.items()}
    installed = [name for names in parts.values() for name in names]
    install = f"{PIP} install --no-build-isolation 'transformer-engine[pytorch]>=2.8'"
    if importlib.util.find_spec("transformer_engine") is None and not installed:
        return Finding("absent", used_for, Status.ABSENT, install if torch_facts().gpus else "")
    _, error = run_child("import transformer_engine.pytorch")
    version = version_of(installed[0]) if installed else "without metadata"
    if not error:
        return Finding(f"{version}", used_for)
    missing = [part for part, names in parts.items() if not names]
    damage = f"half-installed: no {' and no '.join(missing)}" if installed and missing else "damaged"
    remove = f"{PIP} uninstall -y {' '.join(installed or ['transformer-engine'])}"
    return Finding(
        f"{version}, {damage}",
        used_for,
        Status.BROKEN,
        remedy=install if torch_facts().gpus else remove,
        note=f"`import transformer_engine.pytorch` fails: {error}\n{ENGINE_NOTE}",
    )


def flash_attn() -> Finding:
    version, used_for = version_of("flash-attn"), "packed attention on GPUs without Transformer Engine"
    if version is None:
        remedy = f"{PIP} install --no-build-isolation flash-attn" if torch_facts().gpus else ""
        return Finding("absent", used_for, Status.ABSENT, remedy)
    _, error = run_child("import flash_attn")
    if error:
        note = f"`import flash_attn` fails: {error}\nIt has to be built against the torch that is installed."
        remedy = f"{PIP} uninstall -y flash-attn"
        return Finding(f"{version}, damaged", used_for, Status.BROKEN, remedy, note=note)
    return Finding(version, used_for)


APEX = (
    "NVIDIA apex is not needed: Transformer Engine or torch itself has all that Megatron once took from "
    "it. It is not on the package registry either: the package called apex there is a web-authentication "
    "library, so never `pip install apex`."
)


def apex() -> Finding:
    """Looks for NVIDIA's files, since `import apex` succeeds for any directory of that name on sys.path."""
    used_for = "nothing; it should be absent"
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return Finding("absent", used_for, note=APEX)
    places = [Path(place) for place in spec.submodule_search_locations or [spec.origin or "apex"]]
    if any((place / "normalization" / "fused_layer_norm.py").is_file() for place in places):
        return Finding(f"NVIDIA's, {places[0]}", "fused layer norm, where Megatron picks it", note=APEX)
    remedy = f"{PIP} uninstall -y apex" if version_of("apex") else f"mv {places[0]} {places[0]}_renamed"
    note = (
        f"{APEX}\nWhat is importable as apex here, {places[0]}, is not NVIDIA's. Megatron only tries `import "
        "apex`, would take it for NVIDIA's and choose FusedLayerNorm, which then isn't there."
    )
    return Finding(f"not NVIDIA's: {places[0]}", used_for, Status.BROKEN, remedy, note=note)
