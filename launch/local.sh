#!/usr/bin/env bash
# Trains with several processes on this machine, as several machines would.
#
#   DEVICES=2 launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/two \
#       --config.mesh.tower=2
#
# The first argument is the number of processes; the others are those of
# alexnet_jax.main. Needs nothing but the installed package: the devices are parts of
# this machine's processor, DEVICES of them in each process (1 unless given), and they
# talk through gloo. PORT (12321) is where the processes meet. bash 5.1 or newer.
#
# Ctrl-C and SIGTERM save a checkpoint first, as ever. A process that fails is named and
# the others are ended: the same command then continues from the last checkpoint.
set -uo pipefail

if ! [[ ${1-} =~ ^[1-9][0-9]*$ ]]; then
    echo "error: '${1-}': the first argument is the number of processes, such as 2" >&2
    exit 2
fi
count=$1 port=${PORT:-12321}
shift
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${DEVICES:-1}
export JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
# Large pages for what a step takes and gives back: a tenth faster.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}

declare -A index_of=() # by process id, of those that run
for ((index = 0; index < count; index++)); do
    python -m alexnet_jax.main "$@" \
        --coordinator="localhost:$port" --processes="$count" --process="$index" &
    index_of[$!]=$index
done
trap 'kill -TERM "${!index_of[@]}" 2>/dev/null' TERM INT

result=0
while ((${#index_of[@]})); do
    wait -n -p ended "${!index_of[@]}" 2>/dev/null
    status=$?
    [[ ${ended-} ]] || continue # woken by a signal: they are saving
    index=${index_of[$ended]}
    unset "index_of[$ended]"
    ((status && !result)) || continue
    result=$status
    ((status == 143 || status == 138 || status == 130)) && continue # saved, as it was told
    then="the same command continues the run"
    ((status == 2)) && then="its line above says what to change"
    ((status == 3)) && then="its line above says why"
    echo "error: process $index of $count ended with status $status and the others end" \
        "too; nothing saved is lost: $then" >&2
    # They have a moment to say why themselves.
    (sleep 5 && kill -KILL "${!index_of[@]}") &>/dev/null &
done
exit "$result"
