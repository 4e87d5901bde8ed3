#!/usr/bin/env bash
#SBATCH --job-name=alexnet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --output=alexnet-%j.log
#SBATCH --open-mode=append
# Trains on GPU nodes under Slurm, with one process for each GPU.
#
#   sbatch launch/slurm.sh --config=configs/paper.py --workdir=/shared/runs/paper \
#       --config.dataset.train=/shared/train --config.dataset.validation=/shared/val
#
# The arguments are those of alexnet_jax.main. Needs, on every node, this repository in
# the folder that sbatch was called in with its environment in .venv (jax[cuda13]
# among it), and a disk that all nodes share for --workdir. Change the numbers above, or
# give them to sbatch: as many tasks as GPUs.
#
# Three minutes before its time is up (SIGUSR1) the job saves a checkpoint and puts itself
# back in the queue, where it continues. A job that Slurm preempts or a person cancels
# (SIGTERM) saves one too; Slurm queues the former again. Where one process dies, all end.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start it with sbatch}"
# shellcheck disable=SC1091 # made by whoever installs
[[ -d .venv ]] && source .venv/bin/activate
status=0
srun --kill-on-bad-exit=1 python -m alexnet_jax.main --coordinator=auto "$@" || status=$?
if ((status == 138)); then # 128 + SIGUSR1
    scontrol requeue "${SLURM_JOB_ID:?}"
fi
exit "$status"
