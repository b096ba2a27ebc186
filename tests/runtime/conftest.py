"""The ranks of tests/launch serve the watchdog too."""

from tests.launch.conftest import script

__all__ = ["script"]
