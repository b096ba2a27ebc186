"""Environment variables that a launcher sets for its ranks, beside RANK, WORLD_SIZE and MASTER_ADDR."""

HEARTBEATS = "MEGATRON_R1_HEARTBEATS"  # the directory that `beat` writes into
LOCKED = "MEGATRON_R1_LOCKED"  # "1": the launcher holds the run directory's lock, rank 0 must not take it
FROM_STAGE = "MEGATRON_R1_FROM_STAGE"  # run this stage and all later ones again, even if they are done
PROFILE = "MEGATRON_R1_PROFILE"  # "1": profile the second step of every stage
ONLY_STAGE = "MEGATRON_R1_ONLY_STAGE"  # the one stage of the chain that this job runs
