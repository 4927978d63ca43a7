#!/usr/bin/env bash
# Train at 64 px, on one node or many, one GPU or many; without arguments dcgan-64 on data/shards.
#
#   sbatch slurm/train_64.sh
#   sbatch --nodes=4 --gpus-per-node=8 slurm/train_64.sh --kimg 10000
#   FACEGAN_RECIPE=wgan-gp-64 FACEGAN_DATA=/scratch/me/celeba sbatch slurm/train_64.sh
#
# At the time limit or a preemption it saves, requeues itself and goes on where it was.
#SBATCH --job-name=train_64
#SBATCH --comment=facegan
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

# The cluster's settings and the shared functions: of the submit directory or, without slurm/ there, of the package.
site=${FACEGAN_SITE:-$SLURM_SUBMIT_DIR/slurm/site.sh}
# shellcheck source=/dev/null
if [ -f "$site" ]; then . "$site"; fi
here=$SLURM_SUBMIT_DIR/slurm
[ -f "$here/launch.sh" ] || here=$("${FACEGAN_PYTHON:-python}" -c 'import slurm; print(*slurm.__path__)')
# shellcheck source=launch.sh
. "$here/launch.sh"

recipe=${FACEGAN_RECIPE:-dcgan-64}
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then recipe=$1 && shift; fi
train "$recipe" --data "${FACEGAN_DATA:-data/shards}" --run-dir "${FACEGAN_RUN_DIR:-runs/$recipe}" "$@"
