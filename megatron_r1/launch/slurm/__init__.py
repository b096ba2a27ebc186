"""Runs on a SLURM cluster: one job a stage, from templates that a person can read; no slurmdbd needed."""
