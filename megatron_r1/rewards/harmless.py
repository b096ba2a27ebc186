"""Harmless reward: the reward model's score of the whole response (DeepSeek-R1, section 2.3.4)."""

from typing import Literal

from megatron_r1.rewards.preference import PreferenceConfig, whole_of


class Harmless(PreferenceConfig):
    """Score of the whole response by an earlier reward_model stage, trained on labelled responses."""

    part = staticmethod(whole_of)

    scale: Literal["score", "probability"] = "probability"
    """The model's score, or its sigmoid."""


REWARD = Harmless
