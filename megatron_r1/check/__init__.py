"""`megatron-r1 check`: what can be known of a run without running it."""
