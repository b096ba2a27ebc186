#!/usr/bin/env bash
# SLURM 22.05.8 (Debian's slurm-wlm): a # inside the value of an #SBATCH line ends it, without a word.
#
# Expected: --output=/runs/try#3.log writes to that file, as sbatch --output=/runs/try#3.log does: in a shell a #
# begins a comment only at the start of a word, and sbatch says "Invalid directive" for a space in a value.
# Seen: the job's output goes to /runs/try, rc 0 and no message: jobs try#1 to try#9 share one file. Quotes keep
# the value whole.
# megatron_r1 quotes what it writes into a job script (launch/slurm/script.py).
# It needs the programs slurmctld, sbatch and scontrol; a controller of its own runs for some seconds, no slurmd.
set -euo pipefail
PATH="$PATH:/usr/sbin"
folder=$(mktemp -d)
controller=""
trap '[ -z "$controller" ] || { kill "$controller"; wait "$controller" || true; }; rm -rf "$folder"' EXIT
sbatch_version=$(dpkg-query -W -f '${Version}' slurmctld)
[[ $sbatch_version == 22.05.8* ]] || { echo "this is SLURM $sbatch_version, not 22.05.8"; exit 1; }
export SLURM_CONF="$folder/slurm.conf"
port=$("${PYTHON:-python3}" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
host=$(hostname -s)
mkdir "$folder/state"
cat > "$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmctldPort=$port
AuthType=auth/none
CredType=cred/none
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
ProctrackType=proctrack/linuxproc
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 CPUs=1
PartitionName=main Nodes=node1 Default=YES State=UP
CONF
slurmctld -D -c 2> "$folder/slurmctld.log" &
controller=$!
for _ in $(seq 60); do scontrol ping 2> /dev/null | grep -q "is UP" && break || sleep 0.5; done

output_of() { # the value in the script, and further arguments
    printf '#!/bin/bash\n%s\nhostname\n' "$1" > "$folder/job.sh"
    job=$(sbatch --parsable "${@:2}" "$folder/job.sh")
    scontrol show job "$job" | sed -n "s|^ *StdOut=$folder/||p"
}
bare=$(output_of "#SBATCH --output=$folder/try#3.log")
quoted=$(output_of "#SBATCH --output='$folder/try#3.log'")
argument=$(output_of "" --output="$folder/try#3.log")
echo "in the script: $bare; in quotes: $quoted; as an argument: $argument"
[ "$quoted $argument" = "try#3.log try#3.log" ]
[ "$bare" = try ] || { echo "changed: the value is whole"; exit 1; }
