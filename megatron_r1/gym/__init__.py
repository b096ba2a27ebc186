"""reasoning-gym's families of problems: who verifies their answers, and which can't be trained on.

A reward that pays for a wrong answer teaches it. So each family is on trial with wrong answers before it is
used (trial.py); those whose own scorer pays for one, or executes what a model writes, have a verifier of ours
(verifiers.py), or are refused. docs/reasoning_gym.md has the verdict on every family, and
`python -m megatron_r1.gym` makes it.
"""
