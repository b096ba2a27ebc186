"""The rejection_sampling stage, and the rewriting of kept chains by a teacher."""

from megatron_r1.stages.rejection_sampling.stage import STAGE

__all__ = ["STAGE"]
