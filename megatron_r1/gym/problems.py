"""Problems of a family by index, the same in every process and in any order of access.

Some families draw from Python's or numpy's global random generators (list_functions, codeio), or seed them
(pool_matrix). So both generators are seeded for each problem, and restored afterwards.
"""

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from megatron_r1.errors import DataError


class Problems:
    """The first `size` problems of a family, by index, as JSON values."""

    def __init__(self, family: str, options: Mapping[str, Any], *, seed: int, size: int) -> None:
        """Raises DataError if the family does not take the options."""
        self._about = f"gym family {family!r}"
        self._options, self._seed = dict(options), seed
        try:
            with _own_randomness(seed):
                import reasoning_gym  # the import itself draws random numbers

                self._dataset = reasoning_gym.create_dataset(
                    family, seed=seed, size=size, **settings(family, options)
                )
        except (TypeError, ValueError, AssertionError, AttributeError, LookupError) as error:
            raise DataError(f"{self._about} does not take options {self._options}: {error}") from error

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The entry: question, answer, metadata. Raises DataError if the options allow no problem."""
        try:
            with _own_randomness(self._seed + index):
                entry = self._dataset[index]
        except (TypeError, ValueError, AssertionError, AttributeError, LookupError, ArithmeticError) as error:
            raise DataError(
                f"{self._about} can't make a problem with options {self._options}: {error!r}"
            ) from error
        return as_json(entry)


def as_json(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry as JSON gives it back: tuples become lists, keys strings, numpy's scalars numbers."""
    return json.loads(json.dumps(entry, default=_plain))


def settings(family: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options from the YAML as the family's configuration takes them: mappings become its dataclasses."""
    from reasoning_gym.factory import DATASETS

    defaults = {field.name: field.default_factory for field in fields(DATASETS[family][1])}
    return {
        name: _section(value, defaults.get(name, MISSING)) if isinstance(value, dict) else value
        for name, value in options.items()
    }


def _section(value: dict[str, Any], make_default: Any) -> Any:
    default = None if make_default is MISSING else make_default()
    return type(default)(**value) if is_dataclass(default) else value


def _plain(value: Any) -> Any:
    """numpy's scalars as Python's; anything else, such as a date, as text."""
    return value.item() if hasattr(value, "item") else str(value)


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    import numpy

    before, numpy_before = random.getstate(), numpy.random.get_state()
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        numpy.random.set_state(numpy_before)
