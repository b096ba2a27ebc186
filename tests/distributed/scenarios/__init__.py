"""What ranks do for the tests, called by name by the harness. A family of examples/ is plugged in."""

from pathlib import Path

from megatron_r1.registry import plug_in

plug_in(Path(__file__).parents[3] / "examples" / "glm4_moe.py")  # before a scenario asks for families
