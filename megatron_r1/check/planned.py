"""`megatron-r1 plan`: a run is checked, then planned; or its layout is chosen."""

from collections.abc import Sequence
from pathlib import Path

from megatron_r1.check.findings import findings
from megatron_r1.config import refuse
from megatron_r1.errors import ConfigError
from megatron_r1.plan.plan import make_plan
from megatron_r1.plan.suggest import suggestions
from megatron_r1.plan.text import report
from megatron_r1.run.config import load_run


def plan(
    config_path: Path,
    *,
    overrides: Sequence[str] = (),
    hardware: str | None = None,
    suggest: int | None = None,
) -> str:
    """The report of a run's plan, or with `suggest` the best layouts on so many GPUs.

    ConfigError if the run is wrong or no hardware is named.
    """
    named = [] if hardware is None else [f"plan.hardware={hardware}"]
    loaded = load_run(config_path, overrides=[*overrides, *named, "plan.refuse=false"])
    run = loaded.value
    if run.plan.hardware is None:
        raise ConfigError("plan.hardware: not set; name a GPU, such as --hardware h100")
    if suggest is not None:  # the layout of the file counts for nothing
        return suggestions(run, run.plan.hardware, gpus=suggest)
    refuse(findings(loaded, files=False))  # a plan is made before the weights are fetched
    return report(run, make_plan(run, run.plan.hardware))
