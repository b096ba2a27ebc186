"""reasoning-gym's problem families: which are safe to train on, and which verifier grades their answers.

A reward that accepts wrong answers teaches them. So each family's scorer is tested with wrong answers before
use (trial.py). A family whose scorer accepts one, or executes the answer, gets a verifier of this package
(verifiers.py) or is refused. docs/reasoning_gym.md lists every family; `python -m megatron_r1.gym` writes it.
"""
