#!/usr/bin/env bash
# Any facegan command as a job of one process.
#
#   sbatch slurm/facegan.sh shards verify data/shards
#   sbatch --gpus-per-node=1 slurm/facegan.sh sample runs/dcgan-128
#   sbatch --dependency=afterok:1234 slurm/facegan.sh report runs/dcgan-128
#SBATCH --job-name=facegan
#SBATCH --comment=facegan
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=01:00:00
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

[ $# -gt 0 ] || die "usage: sbatch slurm/facegan.sh COMMAND [ARGUMENT ...]"
run "$@"
