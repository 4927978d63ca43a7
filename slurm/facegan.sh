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
#SBATCH --mem-per-cpu=4G
#SBATCH --time=01:00:00
#SBATCH --requeue
set -euo pipefail
trap 'signal=USR1' USR1 && trap 'signal=TERM' TERM # before all else: what Slurm sends in the first seconds is kept
slurm=$SLURM_SUBMIT_DIR/slurm # the submit directory's own files or, without them there, those of the package
# shellcheck source=launch.sh disable=SC1090
{ [ -f "$slurm/launch.sh" ] || slurm=$(set +u; . "${FACEGAN_SITE:-$slurm/site.sh}" &>/dev/null
  "${FACEGAN_PYTHON:-python}" -c 'import slurm; print(*slurm.__path__)'); } && . "$slurm/launch.sh"

[ $# -gt 0 ] || die "usage: sbatch slurm/facegan.sh COMMAND [ARGUMENT ...]"
run "$@"
