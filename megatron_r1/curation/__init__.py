"""From sampled answers to data to learn from: filters, duplicates, decontamination, quotas, the data card.

Pure functions over text and counts; stages/rejection_sampling.py applies them.
"""
