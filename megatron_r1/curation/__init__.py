"""From sampled answers to data to learn from: filters, duplicates, decontamination, quotas, the data card.

Pure functions over text and counts; stages/rejection_sampling/stage.py applies them.
"""

from megatron_r1.curation.contamination import EvaluationText
from megatron_r1.curation.duplicates import Duplicates, Seen
from megatron_r1.curation.filters import Filters, repetition
from megatron_r1.curation.words import ngrams

__all__ = ["Duplicates", "EvaluationText", "Filters", "Seen", "ngrams", "repetition"]
