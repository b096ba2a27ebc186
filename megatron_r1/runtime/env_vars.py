"""What a launcher tells its ranks beside RANK, WORLD_SIZE and MASTER_ADDR: names of environment variables."""

HEARTBEATS = "MEGATRON_R1_HEARTBEATS"  # the directory that `beat` writes into
LOCKED = "MEGATRON_R1_LOCKED"  # "1": the launcher holds the run directory, rank 0 must not try to
FROM_STAGE = "MEGATRON_R1_FROM_STAGE"  # a stage to do again, with all after it, although it is done
PROFILE = "MEGATRON_R1_PROFILE"  # "1": profile the second step of every stage
ONLY_STAGE = "MEGATRON_R1_ONLY_STAGE"  # the one stage of the chain that this job runs
