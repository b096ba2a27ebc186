"""Rule rewards: a batch of completions in, one three-valued score each out (right, wrong, ungradable)."""
