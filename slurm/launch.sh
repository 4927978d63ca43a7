# shellcheck shell=bash
# Sourced by the batch files, never submitted: how Python is called, how ranks start on every node,
# and what a signal and the end of a training lead to.

# How Python is called; slurm/site.sh may set both. The prefix is split into words, for containers:
# FACEGAN_PREFIX="apptainer exec --nv /scratch/me/facegan.sif"
export FACEGAN_PREFIX=${FACEGAN_PREFIX:-} FACEGAN_PYTHON=${FACEGAN_PYTHON:-python} PYTHONUNBUFFERED=1
# shellcheck disable=SC2206  # words are wanted
python=($FACEGAN_PREFIX "$FACEGAN_PYTHON")

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# option --name DEFAULT ARG...: what "--name VALUE" or "--name=VALUE" among the arguments says, the last one counts
option() {
  local name=$1 value=$2
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      "$name") value=${2-} ;;
      "$name"=*) value=${1#*=} ;;
    esac
    shift
  done
  printf '%s' "$value"
}

# Where rank 0 listens: the first node's name if it resolves, else the address Slurm has for it.
# Never localhost as a last resort: every node would train alone without a word.
head_address() {
  local name address
  name=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  if getent ahosts "$name" >/dev/null; then
    printf '%s' "$name"
    return
  fi
  address=$(scontrol show node "$name" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
  getent ahosts "$address" >/dev/null || die "neither the name of node $name nor its address (${address:-none}) resolves"
  printf '%s' "$address"
}

# launch MODULE ARG...: becomes an srun that runs `python -m MODULE ARG...` as one rank a GPU, through one launcher a
# node; a single rank needs no launcher.
launch() {
  local ranks=${FACEGAN_RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}} cpus=${SLURM_CPUS_PER_TASK:-1}
  local world=$((ranks * SLURM_NNODES)) omp=$((cpus > ranks ? cpus / ranks : 1))
  MASTER_ADDR=$(head_address)
  export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) # below the ephemeral ports, another for every job
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$omp}
  # The node's number is another one on every node: it has to be read inside srun.
  # shellcheck disable=SC2016
  local on_node='[ -z "${FACEGAN_LOGS:-}" ] || exec >>"$FACEGAN_LOGS/node-$SLURM_NODEID.log" 2>&1
    exec $FACEGAN_PREFIX "$FACEGAN_PYTHON" -m '
  if [ "$world" -gt 1 ]; then
    # shellcheck disable=SC2016
    on_node+='accelerate.commands.launch --machine_rank "$SLURM_NODEID" '
    set -- --multi_gpu --num_machines "$SLURM_NNODES" --num_processes "$world" --main_process_ip "$MASTER_ADDR" \
      --main_process_port "$MASTER_PORT" --mixed_precision no --dynamo_backend no --module "$@"
  fi
  # --cpus-per-task is not inherited since Slurm 22.05; without --kill-on-bad-exit the ranks of a dead one hang.
  exec srun --export=ALL --ntasks-per-node=1 --cpus-per-task="$cpus" --kill-on-bad-exit=1 --unbuffered \
    bash -c "$on_node\"\$@\"" launcher "$@"
}

# has_shards DIR: a set, or one set a size; what lies elsewhere (s3://...) is looked at by `facegan train` itself.
has_shards() {
  local index
  case $1 in *://*) return 0 ;; esac
  for index in "$1"/index.json "$1"/*/index.json; do [ ! -f "$index" ] || return 0; done
  return 1
}

# run ARG...: one `facegan` command in this process, recorded for `facegan status`.
run() {
  "${python[@]}" -m jobs.slurm.job begin -- "$@"
  exec "${python[@]}" -m jobs "$@"
}

# train RECIPE ARG...: `facegan train` on every rank. On a signal from Slurm all ranks save at one step;
# whether this job, or this element of an array, comes back is then read from run_dir/outcome.json.
train() {
  local run_dir data stop step tail verdict signal='' code=0
  run_dir=$(option --run-dir "" "$@")
  stop=$run_dir/stop-$SLURM_JOB_ID # this job's own; run_dir/stop, which people make, stops whichever job is running
  data=$(option --data "" "$@")
  [ -n "$run_dir" ] || die "train needs --run-dir; got: $*"
  has_shards "$data" || die "no set of shards in ${data:-(no --data)}; make it first:" \
    "sbatch slurm/preprocess.sh img_align_celeba.zip $(printf %q "${data:-data/shards}") --recipe $1"
  export FACEGAN_LOGS=$run_dir/logs
  # Time limit and preemption come as USR1 to this shell alone (--signal=B:USR1), scancel as TERM.
  trap 'signal=USR1' USR1
  trap 'signal=TERM' TERM
  "${python[@]}" -m jobs.slurm.job begin --run-dir "$run_dir" -- train "$@"

  launch jobs.slurm.rank train "$@" &
  step=$!
  tail -n 0 -F "$FACEGAN_LOGS/rank-0.log" 2>/dev/null &
  tail=$!
  while kill -0 "$step" 2>/dev/null; do
    if [ -z "$signal" ]; then
      wait "$step" || true # a trapped signal ends it early
    else
      touch "$stop" # again and again: ranks that are still starting remove an old one
      sleep 1
    fi
  done
  wait "$step" || code=$?
  sleep 1 # the last lines
  kill "$tail" 2>/dev/null || true
  rm -f "$stop"

  verdict=$("${python[@]}" -m jobs.slurm.job end "$run_dir" --code "$code" --signal "$signal")
  case $verdict in
    finished) exit 0 ;;
    requeue) requeue ;;
    stopped) exit 85 ;;
    *) exit 1 ;;
  esac
}

# Puts exactly this job, or this element of its array, back into the queue. A job that Slurm is ending by itself
# (scancel, a preemption without grace) is no longer RUNNING: then Slurm has decided already.
requeue() {
  local state id=$SLURM_JOB_ID # of an array's last element this is the array's own id, which would requeue them all
  if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
  state=$(squeue -h -j "$id" -o %T) || state=RUNNING # no answer: try
  [ "$state" = RUNNING ] || exit 85
  trap '' TERM # Slurm ends the job for its requeue; nothing is left to save
  scontrol requeue "$id" || { sleep 10 && scontrol requeue "$id"; } ||
    die "scontrol requeue $id failed: submit again, the run goes on where it stopped"
  exit 0
}
