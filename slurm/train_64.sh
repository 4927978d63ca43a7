#!/usr/bin/env bash
# Train at 64 px, on one node or many, one GPU or many; without arguments dcgan-64 on data/shards.
#
#   sbatch slurm/train_64.sh
#   sbatch --nodes=2 --gpus-per-node=4 slurm/train_64.sh --kimg 10000
#   FACEGAN_RECIPE=wgan-gp-64 FACEGAN_DATA=/scratch/me/celeba sbatch slurm/train_64.sh
#
# At the time limit or a preemption it saves, requeues itself and goes on where it was.
#SBATCH --job-name=train_64
#SBATCH --comment=facegan
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-gpu=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail
trap 'signal=USR1' USR1 && trap 'signal=TERM' TERM # before all else: what Slurm sends in the first seconds is kept
slurm=$SLURM_SUBMIT_DIR/slurm # the submit directory's own files or, without them there, those of the package
# shellcheck source=launch.sh disable=SC1090
{ [ -f "$slurm/launch.sh" ] || slurm=$(set +u; . "${FACEGAN_SITE:-$slurm/site.sh}" &>/dev/null
  "${FACEGAN_PYTHON:-python}" -c 'import slurm; print(*slurm.__path__)'); } && . "$slurm/launch.sh"

train_one dcgan-64 "$@"
