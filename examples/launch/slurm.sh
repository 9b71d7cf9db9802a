#!/bin/bash
# A run on Slurm: sbatch examples/launch/slurm.sh CONFIG [section.key=value ...]
# One task for each GPU; where they meet follows from Slurm's own variables.
#SBATCH --job-name=finetrainers
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# Two minutes before the time is up, all tasks save and end with status 3. Give more where a checkpoint takes
# longer, and as much more to margin below.
#SBATCH --signal=USR1@120
# Slurm starts the job again if a host fails; below, it does if the time was up. The run goes on from its last checkpoint.
#SBATCH --requeue

margin=600
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # which srun does not take from sbatch

config=${1:?usage: sbatch slurm.sh CONFIG [section.key=value ...]}
shift

# Where one task dies, the others end within seconds by themselves; those that cannot are killed.
srun --kill-on-bad-exit=0 --wait=60 python -m finetrainers train "$config" "$@"
status=$?

# Status 3 is a run that saved and stopped: for the time that is up, or for scancel long before it.
left=$((${SLURM_JOB_END_TIME:-0} - $(date +%s)))
if [ "$status" -eq 3 ] && [ "$left" -lt "$margin" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
