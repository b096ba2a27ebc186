"""The only package that imports Megatron: the model, its optimizer, rollouts, checkpoints and layouts."""
