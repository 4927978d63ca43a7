#!/usr/bin/env bash
# The first thing to submit: `facegan doctor` in every rank, and one all-reduce over all of them.
#
#   sbatch slurm/check.sh
#   sbatch --nodes=2 --gpus-per-node=4 slurm/check.sh
#SBATCH --job-name=check
#SBATCH --comment=facegan
#SBATCH --output=%x-%j.out
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=00:02:00
set -euo pipefail

# The cluster's settings and the shared functions: of the submit directory or, without slurm/ there, of the package.
site=${FACEGAN_SITE:-$SLURM_SUBMIT_DIR/slurm/site.sh}
# shellcheck source=/dev/null
if [ -f "$site" ]; then . "$site"; fi
here=$SLURM_SUBMIT_DIR/slurm
[ -f "$here/launch.sh" ] || here=$("${FACEGAN_PYTHON:-python}" -c 'import slurm; print(*slurm.__path__)')
# shellcheck source=launch.sh
. "$here/launch.sh"

"${python[@]}" -m jobs.slurm.job begin -- doctor
launch jobs.slurm.rank doctor --all-reduce "$@"
