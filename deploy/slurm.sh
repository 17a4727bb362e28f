#!/usr/bin/env bash
# A search on all nodes of a Slurm job. Give the space file, and options of `search run`:
#
#     sbatch --nodes=4 --gpus-per-node=4 deploy/slurm.sh space.py --max-trials 200
#
# Activate the environment that has `search` and Ray first, or set it up below. The study's folder (--runs) must lie
# where every node reaches it. The job's first node runs the head of a Ray cluster and the driver. Five minutes before
# the job's end the search stops in order (exit code 75), and the job is requeued, to go on. docs/how-to/cluster.md says more.
#
# This script is in the place of `ray symmetric-run`, which stops every Ray process of the user on its nodes at the end,
# other jobs' too, takes fixed ports, and waits for a fixed number of nodes.
#
#SBATCH --job-name=search
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=search-%j.log
# The requeued job adds to the same log.
#SBATCH --requeue
#SBATCH --open-mode=append
# A node that fails takes its trials away, and not the job.
#SBATCH --no-kill
# Preemption, and `scancel --batch --signal=TERM JOB`, stop the search in order.
#SBATCH --signal=B:TERM@60

set -euo pipefail

# module load python
# source ~/venv/bin/activate

: "${SLURM_JOB_ID:?is not set: start this script with sbatch}"
if (($# == 0)); then
    echo "slurm.sh: give the space file: sbatch deploy/slurm.sh SPACE.py [options of search run]" >&2
    exit 2
fi
export RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0}
# Without a token, everybody who reaches a Ray cluster can run code there as its user. It lies in ~/.ray. Ray has tokens
# since 2.52.
if ray get-auth-token --generate >/dev/null 2>&1; then
    export RAY_AUTH_MODE=token
fi

# The system gives free ports: two jobs on one node do not collide. Ray chooses all others itself in the same way.
read -r ip port client_port < <(python -c '
import socket
from ray.util import get_node_ip_address
sockets = [socket.socket() for _ in range(2)]
for each in sockets:
    each.bind(("", 0))
print(get_node_ip_address(), *(each.getsockname()[1] for each in sockets))
')
address=$ip:$port
address_file=search-$SLURM_JOB_ID.address

steps=()
driver=''
signalled=''

# shellcheck disable=SC2329  # `trap` calls it
forward_signal() {
    [[ -n $driver ]] || exit 143
    signalled=1
    kill -TERM "$driver" 2>/dev/null || true
}
trap forward_signal TERM

# The head goes last: a node asks it before it goes.
stop_cluster() {
    rm -f "$address_file"
    for ((i = ${#steps[@]} - 1; i >= 0; i--)); do
        kill -TERM "${steps[i]}" 2>/dev/null || continue
        for _ in {1..75}; do
            kill -0 "${steps[i]}" 2>/dev/null || break
            sleep 0.2
        done
    done
    steps=()
}
trap stop_cluster EXIT

# On each node: one task, which gets the node's part of the job. Ray would count the whole machine's cores; its store of
# objects holds little here.
step=(srun --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --no-kill --kill-on-bad-exit=0 --wait=0)
options="--block --num-cpus=\$SLURM_CPUS_ON_NODE --object-store-memory=500000000 --min-worker-port=0 --max-worker-port=0"

# Ray gives up after 30 s, which may be too soon when its files are read for the first time.
thrice() { echo "for try in 1 2 3; do ray start $options $* && break; done"; }

"${step[@]}" --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" bash -c "$(thrice --head --include-dashboard=false \
    --node-ip-address="$ip" --port="$port" --ray-client-server-port="$client_port" \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID")" &
steps+=($!)
until timeout 60 python -c 'import ray, sys; ray.init(sys.argv[1])' "$address" >/dev/null 2>&1; do
    if ! kill -0 "${steps[0]}" 2>/dev/null; then
        echo "slurm.sh: Ray did not start on $SLURMD_NODENAME; its messages are above" >&2
        exit 1
    fi
    sleep 1
done
others=$((SLURM_JOB_NUM_NODES - 1))
if ((others > 0)); then
    "${step[@]}" --nodes=$others --ntasks=$others --exclude="$SLURMD_NODENAME" \
        bash -c "$(thrice --address="$address")" &
    steps+=($!)
fi
echo "$address" >"$address_file"
echo "Ray runs at $address; more nodes join with: sbatch deploy/slurm_join.sh $SLURM_JOB_ID"

RAY_ADDRESS=$address search run --executor ray --resume --stop-before 5m "$@" &
driver=$!
code=0
while true; do
    wait "$driver" && code=0 || code=$?
    # A signal ends `wait`, and the search goes on until its epochs end.
    [[ -n $signalled ]] || break
    signalled=''
done

if ((code == 75)); then
    echo "the search is not finished: job $SLURM_JOB_ID is requeued"
    stop_cluster
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
