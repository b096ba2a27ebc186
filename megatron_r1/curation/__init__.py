"""Curation of sampled completions into training data: filters, deduplication, decontamination, quotas, card.

Pure functions over text and counts; stages/rejection_sampling/stage.py applies them.
"""

from megatron_r1.curation.contamination import EvaluationText
from megatron_r1.curation.duplicates import Duplicates, Seen
from megatron_r1.curation.filters import Filters, repetition
from megatron_r1.curation.words import ngrams

__all__ = ["Duplicates", "EvaluationText", "Filters", "Seen", "ngrams", "repetition"]
