#!/usr/bin/env bash
# Trains on every worker of a TPU VM slice.
#
#   launch/tpu_vm.sh NAME ZONE --config=configs/paper.py --workdir=/mnt/runs/paper \
#       --config.dataset.train=/mnt/train --config.dataset.validation=/mnt/val
#
# NAME and ZONE are those of the slice; the other arguments are those of
# alexnet_jax.main. Run it where gcloud is logged in, in a commit of this repository. It
# copies that commit to every worker, installs it there with jax[tpu], and starts one
# process on each; they find each other. --workdir must be on a disk that all workers
# share (Filestore, or a bucket mounted with gcsfuse). The workers' python3 must be 3.11
# or later.
#
# A slice that Google takes back saves a checkpoint first (--preemption=gce), and continues
# with the same command.
set -euo pipefail

if (($# < 2)) || [[ $1 == -* || $2 == -* ]]; then
    echo "error: give the slice's name and zone first: launch/tpu_vm.sh NAME ZONE …" >&2
    exit 2
fi
name=$1 zone=$2
shift 2

on_every_worker() {
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

commit=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$commit"' EXIT
git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$commit" HEAD
gcloud compute tpus tpu-vm scp "$commit" "$name:alexnet_jax.tar.gz" \
    --zone="$zone" --worker=all
on_every_worker "set -e
    mkdir -p alexnet_jax && tar -xzf alexnet_jax.tar.gz -C alexnet_jax
    cd alexnet_jax && python3 -m venv .venv
    .venv/bin/pip install -q -e . 'jax[tpu]'"
on_every_worker "cd alexnet_jax &&
    exec .venv/bin/python -m alexnet_jax.main --coordinator=auto --preemption=gce \
        $(printf ' %q' "$@")"
