#!/usr/bin/env bash
# A search over values and seeds: every element of the array trains one run, and can be requeued alone.
#
#   sbatch --array=0-5 slurm/sweep.sh dcgan-64 --set g_lr=1e-4,2e-4 --seeds 3 --data data/shards --out runs/sweep
#SBATCH --job-name=sweep
#SBATCH --comment=facegan
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --array=0
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-gpu=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail
trap 'signal=USR1' USR1 && trap 'signal=TERM' TERM # before all else: what Slurm sends in the first seconds is kept
slurm=$SLURM_SUBMIT_DIR/slurm # the submit directory's own files or, without them there, those of the package
# shellcheck source=launch.sh disable=SC1090
{ [ -f "$slurm/launch.sh" ] || slurm=$(set +u; . "${FACEGAN_SITE:-$slurm/site.sh}" &>/dev/null
  "${FACEGAN_PYTHON:-python}" -c 'import slurm; print(*slurm.__path__)'); } && . "$slurm/launch.sh"

# The element's own `train` arguments, one a line of NUL: names and values are data.
mapfile -d '' -t arguments < <("${python[@]}" -m jobs sweep "$@" --element "$SLURM_ARRAY_TASK_ID")
[ ${#arguments[@]} -gt 0 ] || die "the sweep has no element $SLURM_ARRAY_TASK_ID"
train "${arguments[@]}"
