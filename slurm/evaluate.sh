#!/usr/bin/env bash
# Measure a run against held-out pictures; without arguments the run of train_128.sh.
#
#   sbatch slurm/evaluate.sh
#   sbatch --gpus-per-node=8 slurm/evaluate.sh runs/wgan-gp-128 --data data/other
#SBATCH --job-name=evaluate
#SBATCH --comment=facegan
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-gpu=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=02:00:00
#SBATCH --requeue
set -euo pipefail
trap 'signal=USR1' USR1 && trap 'signal=TERM' TERM # before all else: what Slurm sends in the first seconds is kept
slurm=$SLURM_SUBMIT_DIR/slurm # the submit directory's own files or, without them there, those of the package
# shellcheck source=launch.sh disable=SC1090
{ [ -f "$slurm/launch.sh" ] || slurm=$(set +u; . "${FACEGAN_SITE:-$slurm/site.sh}" &>/dev/null
  "${FACEGAN_PYTHON:-python}" -c 'import slurm; print(*slurm.__path__)'); } && . "$slurm/launch.sh"

if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then set -- "$(variable FACEGAN_RUN_DIR runs/dcgan-128 RUN)" "$@"; fi
unset FACEGAN_DATA # without --data it is the set the run was trained on
ranks evaluate "$@"
