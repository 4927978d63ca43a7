#!/usr/bin/env bash
# The first thing to submit: `facegan doctor` in every rank, and one all-reduce over all of them.
#
#   sbatch slurm/check.sh
#   sbatch --nodes=2 --gpus-per-node=4 slurm/check.sh
#SBATCH --job-name=check
#SBATCH --comment=facegan
#SBATCH --output=%x-%j.out
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-gpu=2
#SBATCH --mem-per-cpu=4G
#SBATCH --time=00:02:00
set -euo pipefail
trap 'signal=USR1' USR1 && trap 'signal=TERM' TERM # before all else: what Slurm sends in the first seconds is kept
slurm=$SLURM_SUBMIT_DIR/slurm # the submit directory's own files or, without them there, those of the package
# shellcheck source=launch.sh disable=SC1090
{ [ -f "$slurm/launch.sh" ] || slurm=$(set +u; . "${FACEGAN_SITE:-$slurm/site.sh}" &>/dev/null
  "${FACEGAN_PYTHON:-python}" -c 'import slurm; print(*slurm.__path__)'); } && . "$slurm/launch.sh"

ranks doctor --all-reduce "$@"
