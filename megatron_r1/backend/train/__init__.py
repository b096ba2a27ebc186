"""Forward, backward and the optimizer step on packs, through Megatron's pipeline schedules."""
