"""The decoder of the built-in rollout engine: one forward of the next tokens with KV caches."""
