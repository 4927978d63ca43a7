#!/usr/bin/env bash
# Turn pictures into shards: every element of the array does one slice, then the index is written behind all of them.
#
#   sbatch slurm/preprocess.sh img_align_celeba.zip data/shards --size 64 --size 128 --crop 150
#   sbatch --array=0-31 slurm/preprocess.sh /scratch/me/pictures data/shards --recipe dcgan-128
#   sbatch slurm/preprocess.sh faces.zip s3://bucket/faces --scratch /shared/tmp   # each element sends its own shards
#
# The same command again does only what is missing. Give the whole array each time: slices that are done end at once.
# The first element lists SRC, the others wait: 11 to 80 s a million pictures, as they lie. An element whose
# time is up requeues itself and goes on, if anything was finished meanwhile (docs/cluster.md, "What it costs").
#SBATCH --job-name=preprocess
#SBATCH --comment=facegan
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=2G
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail
trap 'signal=USR1' USR1 && trap 'signal=TERM' TERM # before all else: what Slurm sends in the first seconds is kept
slurm=$SLURM_SUBMIT_DIR/slurm # the submit directory's own files or, without them there, those of the package
# shellcheck source=launch.sh disable=SC1090
{ [ -f "$slurm/launch.sh" ] || slurm=$(set +u; . "${FACEGAN_SITE:-$slurm/site.sh}" &>/dev/null
  "${FACEGAN_PYTHON:-python}" -c 'import slurm; print(*slurm.__path__)'); } && . "$slurm/launch.sh"

if [ $# -lt 2 ] || [ "${1#-}${2#-}" != "$1$2" ]; then die "usage: sbatch slurm/preprocess.sh SRC OUT [--size 64 ...]"; fi
slices=$SLURM_ARRAY_TASK_COUNT
[ "$SLURM_ARRAY_TASK_MIN-$SLURM_ARRAY_TASK_MAX" = "0-$((slices - 1))" ] || die "the array has to be 0-N without gaps"

# OUT at an address: the sets are made below --scratch, which all elements see; the last job sends the rest and the index.
out=$2 last=(shards index "$2")
if [[ $2 == *://* ]]; then
  scratch=$(option --scratch "${FACEGAN_SCRATCH-}" "${@:3}") last=(shards upload "$scratch" "$2")
  [ -n "$scratch" ] || die "$2: the elements of the array need --scratch DIR, a folder that all of them see"
  out=$scratch/facegan-$(basename "$2")-$(printf %s "$2" | sha256sum | cut -c 1-8)
fi

# At the time limit, unless it would be ended so for ever: whichever slice has finished a shard, or a part of the listing,
# has changed these folders. They tell it without a look at each of a million records, and are compared with themselves:
# the clock of the file server is not this node's.
folders() { stat -c '%n %y' "$out"/*/.parts "$out"/*/.uploaded-* "$out"/.listing-*/ 2>/dev/null || true; }
began=$(folders)
goes_on() {
  [ "$signal" = USR1 ] || return 1
  [ "$(folders)" != "$began" ] ||
    die "no shard, and no part of a listing, was finished in $out since this job began: a longer --time is needed"
}

# The first element hands in the index job, once. --no-index as the last word: somebody else does (the pipeline).
if [ "${!#}" = --no-index ]; then
  set -- "${@:1:$#-1}"
elif [ "$SLURM_ARRAY_TASK_ID${SLURM_RESTART_COUNT:-}" = 0 ]; then
  "${python[@]}" -m jobs submit facegan --job-name=index --partition="$SLURM_JOB_PARTITION" \
    ${SLURM_JOB_ACCOUNT:+--account="$SLURM_JOB_ACCOUNT"} \
    --dependency="afterok:$SLURM_ARRAY_JOB_ID" --kill-on-invalid-dep=yes -- "${last[@]}" ||
    echo "The index was not submitted; when all slices are done: sbatch slurm/facegan.sh ${last[*]}" >&2
fi
run preprocess "$@" --slice "$SLURM_ARRAY_TASK_ID/$slices" --workers "$SLURM_CPUS_PER_TASK"
