#!/usr/bin/env bash
# Trains on all GPUs of this machine, in one process.
#
#   launch/gpu_node.sh --config=configs/paper.py --workdir=runs/paper \
#       --config.dataset.train=imagenet/train --config.dataset.validation=imagenet/val
#
# The arguments are those of alexnet_jax.main. Needs NVIDIA's driver and JAX for it:
# pip install 'jax[cuda13]' (or 'jax[cuda12]'). Each GPU trains a copy of the network on
# its part of the batch; --config.mesh.tower=2 gives the towers of a copy a GPU each, as
# the paper did, and CUDA_VISIBLE_DEVICES=0,1 takes only some of the GPUs.
set -euo pipefail

found=$(python -c 'import jax; print(jax.default_backend(), jax.device_count())')
if [[ $found != gpu* ]]; then
    echo "error: JAX finds no GPU here, only '$found'; install it for this driver:" \
        "pip install 'jax[cuda13]'" >&2
    exit 2
fi
echo "training on $found"
exec python -m alexnet_jax.main --config.mesh.data=-1 "$@"
