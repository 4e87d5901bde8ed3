#!/usr/bin/env bash
# Measures what the docs want to know of an accelerator, in one call of half an hour.
#
#   launch/measure.sh measured --config.dataset.source=records \
#       --config.dataset.train=prepared --config.dataset.validation=prepared
#
# The first argument is a folder for the figures, one file for each command, with its
# JSON in the last line; the others go to every command and name the images. With the
# 'peers' extra PyTorch is timed beside. BATCHES (128 512 1024) are those of the steps,
# MINUTES (10) the length of the training, whose run is then in the folder, too.
set -uo pipefail

if (($# < 2)) || [[ $1 == -* ]]; then
    echo "error: '${1-}': give a folder for the figures, then the images, such as" \
        "measured --config.dataset.train=ILSVRC2012/train" >&2
    exit 2
fi
folder=$1 failed=0
shift
mkdir -p "$folder" || exit 2

measure() { # NAME COMMAND…
    local name=$1 status
    shift
    "$@" >"$folder/$name.txt" 2>&1
    status=$?
    echo "$name: status $status after $SECONDS s"
    ((status == 0 || status == 143)) || failed=1 # 143: the training's time was up
}

python -c 'import jax; print(jax.device_count(), jax.devices()[0], jax.__version__)' |
    tee "$folder/device.txt"
read -r devices _ <"$folder/device.txt"
nvidia-smi >"$folder/nvidia-smi.txt" 2>&1
benchmark=(python -m alexnet_jax.benchmark)
all=(--config=configs/paper.py "$@")
for precision in bfloat16 float32; do # float32 is TF32 on NVIDIA's
    for batch in ${BATCHES:-128 512 1024}; do
        measure "step_${precision}_$batch" "${benchmark[@]}" step "${all[@]}" \
            --config.precision="$precision" --config.batch_size="$batch"
    done
done
all+=(--config.precision=bfloat16)
measure input "${benchmark[@]}" input "${all[@]}"
measure predict "${benchmark[@]}" predict "${all[@]}"
train=(timeout --signal=TERM "${MINUTES:-10}m" python -m alexnet_jax.main "${all[@]}")
measure train "${train[@]}" --config.batch_size=512 --workdir="$folder/run"
if ((${devices:-0} > 1)); then
    for process in 0 1; do
        CUDA_VISIBLE_DEVICES=$process measure "process_$process" "${train[@]}" \
            --coordinator=localhost:12321 --processes=2 --process=$process \
            --workdir="$folder/two" &
    done
    wait
fi
exit "$failed"
