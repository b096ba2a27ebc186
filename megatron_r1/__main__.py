"""`python -m megatron_r1` is the same as `megatron-r1`."""

import sys

from megatron_r1.cli import main

# The guard matters: a process that a library spawns imports this module again.
if __name__ == "__main__":
    sys.exit(main())
