#!/bin/bash
# A run on Slurm with one task for each node, which starts a process for each of its GPUs:
#   sbatch examples/deploy/slurm-nodes.sh CONFIG [section.key=value ...]
# For clusters whose tasks cannot have one GPU each; else examples/launch/slurm.sh needs no launcher of its own.
#SBATCH --job-name=finetrainers
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# Three minutes before the time is up, each task saves and ends with status 3. A job that is preempted gets SIGTERM, which
# saves as well, and Slurm puts it back into the queue: ask for a GraceTime of minutes.
#SBATCH --signal=USR1@180
#SBATCH --requeue

margin=600
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # which srun does not take from sbatch

config=${1:?usage: sbatch slurm-nodes.sh CONFIG [section.key=value ...]}
shift

gpus=${SLURM_GPUS_ON_NODE:-8}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))  # two jobs on one host do not meet each other

# shellcheck disable=SC2016  # SLURM_NODEID is that of the task
srun --kill-on-bad-exit=0 --wait=60 bash -c '
    gpus=$1 first=$2 port=$3
    shift 3
    exec finetrainers launch --gpus "$gpus" "$@" -- \
        --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --master-addr "$first" --master-port "$port"
' task "$gpus" "$first" "$port" "$config" "$@"
status=$?

# Status 3 is a run that saved and stopped: for the time that is up, or for scancel long before it.
left=$((${SLURM_JOB_END_TIME:-0} - $(date +%s)))
if [ "$status" -eq 3 ] && [ "$left" -lt "$margin" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
