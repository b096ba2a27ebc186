"""Programs as answers: which part of a completion is one, its tests, and the sandbox that runs it."""
