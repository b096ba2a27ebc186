"""What megatron-core needs to run without CUDA: stubs for torch.cuda, and patches of the pinned version."""
