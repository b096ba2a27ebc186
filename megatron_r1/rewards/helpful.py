"""Helpful reward: the reward model's score of the final summary (DeepSeek-R1, section 2.3.4)."""

from megatron_r1.rewards.preference import PreferenceConfig, summary_of


class Helpful(PreferenceConfig):
    """Score of the final summary by an earlier reward_model stage, trained on pairs."""

    part = staticmethod(summary_of)


REWARD = Helpful
