"""Speed against the libraries that a user would otherwise take, and against the machine's own limit.

    python -m benchmarks.rollout      sampling, next to transformers' generate()
    python -m benchmarks.grpo_step    a whole GRPO step, next to TRL's GRPOTrainer
    python -m benchmarks.convert      import and export of Hugging Face's files, next to a plain file copy
    python -m benchmarks.moe_step     a training step of a DeepSeek-V3-class MoE: where its time goes

Each takes minutes, one thread, and writes benchmarks/results (README.md there says what the numbers mean).
"""
