"""Rewards: each scores a batch of completions, one score per completion, None where it is ungradable.

Exported names are imported on first use, since grading processes import this package too and must stay light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megatron_r1.rewards.accuracy import Accuracy
    from megatron_r1.rewards.answers.answer import final_answer
    from megatron_r1.rewards.base import Reward, RewardConfig, completion_of
    from megatron_r1.rewards.code import Code
    from megatron_r1.rewards.coding.sandbox.limits import Limits
    from megatron_r1.rewards.coding.sandbox.run import Fate, Ran, run_program
    from megatron_r1.rewards.format import Format, is_well_formed
    from megatron_r1.rewards.language import Language, language_share

__all__ = [
    "Accuracy",
    "Code",
    "Fate",
    "Format",
    "Language",
    "Limits",
    "Ran",
    "Reward",
    "RewardConfig",
    "completion_of",
    "final_answer",
    "is_well_formed",
    "language_share",
    "run_program",
]

if not TYPE_CHECKING:  # a type checker that sees __getattr__ would accept any name
    _MODULES = {
        "accuracy": ("Accuracy",),
        "answers.answer": ("final_answer",),
        "base": ("Reward", "RewardConfig", "completion_of"),
        "code": ("Code",),
        "format": ("Format", "is_well_formed"),
        "language": ("Language", "language_share"),
        "coding.sandbox.limits": ("Limits",),
        "coding.sandbox.run": ("Fate", "Ran", "run_program"),
    }
    _MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
