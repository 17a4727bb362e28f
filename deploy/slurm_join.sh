#!/usr/bin/env bash
# More nodes for a search that `slurm.sh` has started, as a job of their own. Submit it in the same folder:
#
#     sbatch --nodes=2 --gpus-per-node=4 deploy/slurm_join.sh JOB
#
# JOB is the number of the search's job, or the address of any Ray cluster, IP:PORT. The search uses the nodes as soon
# as they have joined. This job ends with the search's cluster.
#
#SBATCH --job-name=search-join
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=search-join-%j.log
#SBATCH --no-kill
# Two minutes before the end the nodes drain: their trials checkpoint at the end of the epoch, and move.
#SBATCH --signal=TERM@120

set -euo pipefail

# module load python
# source ~/venv/bin/activate

: "${SLURM_JOB_ID:?is not set: start this script with sbatch}"
if (($# != 1)); then
    echo "slurm_join.sh: give the job of the search: sbatch deploy/slurm_join.sh JOB" >&2
    exit 2
fi
if ray get-auth-token >/dev/null 2>&1; then
    export RAY_AUTH_MODE=token
fi

address=$1
if [[ $address != *:* ]]; then
    if [[ ! -e search-$1.address ]]; then
        echo "slurm_join.sh: there is no search-$1.address in $PWD: job $1 has not started, or was submitted elsewhere" >&2
        exit 2
    fi
    address=$(<"search-$1.address")
fi
if ! ray health-check --address "$address" >/dev/null 2>&1; then
    echo "slurm_join.sh: no Ray cluster answers at $address" >&2
    exit 2
fi

export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=90
exec srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    --no-kill --kill-on-bad-exit=0 --wait=0 \
    bash -c "exec ray start --address=$address --block --num-cpus=\$SLURM_CPUS_ON_NODE \
        --object-store-memory=500000000 --min-worker-port=0 --max-worker-port=0"
