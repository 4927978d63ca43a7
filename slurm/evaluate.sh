#!/usr/bin/env bash
# Measure a run against held-out pictures; without arguments the run of train_128.sh.
#
#   sbatch slurm/evaluate.sh
#   sbatch --gpus-per-node=8 slurm/evaluate.sh runs/wgan-gp-128 --data data/shards
#SBATCH --job-name=evaluate
#SBATCH --comment=facegan
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=02:00:00
#SBATCH --requeue
set -euo pipefail

# The cluster's settings and the shared functions: of the submit directory or, without slurm/ there, of the package.
site=${FACEGAN_SITE:-$SLURM_SUBMIT_DIR/slurm/site.sh}
# shellcheck source=/dev/null
if [ -f "$site" ]; then . "$site"; fi
here=$SLURM_SUBMIT_DIR/slurm
[ -f "$here/launch.sh" ] || here=$("${FACEGAN_PYTHON:-python}" -c 'import slurm; print(*slurm.__path__)')
# shellcheck source=launch.sh
. "$here/launch.sh"

if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then set -- "${FACEGAN_RUN_DIR:-runs/${FACEGAN_RECIPE:-dcgan-128}}" "$@"; fi
set -- evaluate "$1" --data "${FACEGAN_DATA:-data/shards}" "${@:2}"
"${python[@]}" -m jobs.slurm.job begin -- "$@"
launch jobs.slurm.rank "$@"
