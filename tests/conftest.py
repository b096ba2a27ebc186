"""Puts in the toy's plug-ins, whose data many tests use, and marks as slow what starts ranks.

A test says that it starts ranks by what it asks for, so none can go without the mark.
"""

from pathlib import Path
from typing import Any

import pytest

from megatron_r1 import registry
from tests.distributed.harness import ranks

TOY = Path(__file__).parents[1] / "examples" / "toy"
for name in ("arithmetic", "assistant", "checklist", "findings", "full_chain", "gym_words", "unusual"):
    registry.plug_in(TOY / f"{name}.py")  # before anything asks for what can be configured
registry.plug_in(TOY.parent / "glm4_moe.py")


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and any(_of_ranks(item, name) for name in _asked_for(item)):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """For what it may ask for under a name that it makes up while it runs."""
    ranks.asked_by = item


def _asked_for(item: pytest.Function) -> set[str]:
    """Fixtures by name, those of other fixtures too, and parameters, for `request.getfixturevalue`."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {*item.fixturenames, *(value for value in parameters if isinstance(value, str))}


def _of_ranks(item: pytest.Function, name: str) -> bool:
    return any(map(_starts_ranks, item.session._fixturemanager.getfixturedefs(name, item) or ()))


def _starts_ranks(fixture: Any) -> bool:
    return fixture.func.__annotations__.get("return") is ranks.Results
