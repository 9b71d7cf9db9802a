#!/bin/bash
# A run on a rented GPU machine: bash rented.sh CONFIG [section.key=value ...]
# Everything lies on its volume. Given again, on this machine or on another with the same volume, it goes on with the run.
#
#   VOLUME     where the volume is mounted (/workspace)
#   SOURCE     what pip installs (the checkout that this script is in, with the extras of 8-bit states and weights)
#   WHEN_DONE  a command that ends the rent, such as: runpodctl stop pod "$RUNPOD_POD_ID"
set -u

config=${1:?usage: bash rented.sh CONFIG [section.key=value ...]}
shift
volume=${VOLUME:-/workspace}
source=${SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)[bitsandbytes,torchao]}

export HF_HOME="$volume/huggingface" TORCHINDUCTOR_CACHE_DIR="$volume/inductor" TRITON_CACHE_DIR="$volume/triton"
environment="$volume/environment"
if [ ! -e "$environment/complete" ]; then
    python3 -m venv "$environment" && "$environment/bin/pip" install "$source" && touch "$environment/complete" || exit 1
fi

cd "$volume" || exit 1
gpus=$(nvidia-smi --list-gpus | wc -l)

# A signal is for the run, which saves: this script waits for it.
trap 'kill -TERM "$run" 2>/dev/null' TERM HUP INT
"$environment/bin/finetrainers" launch --gpus "$gpus" --max-restarts 3 "$config" "$@" &
run=$!
wait "$run"
status=$?
while kill -0 "$run" 2>/dev/null; do  # a trap ends the first wait
    wait "$run"
    status=$?
done

# 0: done; 2: the configuration or the data are wrong. Neither gets better for a machine that goes on costing money.
case "$status" in
    0 | 2) [ -z "${WHEN_DONE:-}" ] || eval "$WHEN_DONE" ;;
    3) echo "saved and stopped; give the same command again to go on" ;;
esac
exit "$status"
