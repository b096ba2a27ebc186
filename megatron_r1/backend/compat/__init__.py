"""What megatron-core needs to run here: stand-ins for torch.cuda, patches of the pinned version."""
