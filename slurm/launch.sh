# shellcheck shell=bash
# Sourced by the batch files, never submitted: the cluster's settings, how Python is called, how ranks start on every
# node, and what a signal and the end of the work lead to. docs/cluster.md tells it in words.

signal=${signal:-} returned='' code=0 given=("$@") # the batch file's traps set `signal`
# This job's name for Slurm: SLURM_JOB_ID of an array's last element is the array's own id, which would mean them all.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
job=${job:-${SLURM_JOB_ID:-}}

# What conda, modules and ~/.bashrc source reads unset variables and lets commands fail.
set +eu
site=${FACEGAN_SITE:-${SLURM_SUBMIT_DIR:-.}/slurm/site.sh}
# shellcheck source=/dev/null
if [ -f "$site" ]; then . "$site"; fi
set -eu

# How Python is called; site.sh may set both. The prefix is split into words, for containers:
# FACEGAN_PREFIX="apptainer exec --nv /scratch/me/facegan.sif"
export FACEGAN_PREFIX=${FACEGAN_PREFIX:-} FACEGAN_PYTHON=${FACEGAN_PYTHON:-python} PYTHONUNBUFFERED=1
# shellcheck disable=SC2206  # words are wanted
python=($FACEGAN_PREFIX "$FACEGAN_PYTHON")

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# begin [--run-dir DIR] -- ARG...: record what this job runs
begin() {
  local -a where=()
  while [ "$1" != -- ]; do where+=("$1") && shift; done
  shift
  note begin "${where[@]}" --given ${#given[@]} -- "${given[@]}" "$@"
}

# note ARG...: `python -m jobs.slurm.job ARG...`, which no signal of Slurm's ends
note() { (trap '' USR1 TERM && exec "${python[@]}" -m jobs.slurm.job "$@"); }

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

# is_remote NAME: it resolves, and not to a loopback address, where another node would find itself
is_remote() { getent ahosts "$1" | awk '$1 !~ /^(127\.|::1$)/ { found = 1 } END { exit !found }'; }

# Where rank 0 listens: the first node's name, else the address Slurm has for it, else its own. Never localhost as a
# last resort: every node would train alone without a word.
head_address() {
  local name=${SLURMD_NODENAME:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)} address candidate
  address=$(timeout 20 scontrol show node "$name" 2>/dev/null | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p') || true
  # shellcheck disable=SC2046  # words are wanted
  for candidate in "$name" $address $(hostname -I 2>/dev/null); do
    if is_remote "$candidate"; then printf '%s' "$candidate" && return; fi
  done
  die "neither the name of node $name nor its address (${address:-none}) leads to it from other nodes: ask the" \
    "administrators, or export MASTER_ADDR in slurm/site.sh"
}

# survey: of every node, its GPUs and the machine it is; dies where ranks could not be laid out alike
survey() {
  local nodes gpus
  # shellcheck disable=SC2016
  if ! nodes=$("${srun[@]}" bash -c 'echo "${SLURM_GPUS_ON_NODE:-0} $(cat /proc/sys/kernel/random/boot_id)"'); then
    echo "error: srun starts nothing on the nodes of this job" >&2
    code=1 && ended
  fi
  gpus=$(cut -d' ' -f1 <<<"$nodes" | sort -u | paste -sd' ')
  case $gpus in
    *' '*) [ -n "${FACEGAN_RANKS_PER_NODE:-}" ] ||
      die "the nodes have unlike numbers of GPUs ($gpus): ask by node, --gpus-per-node=N in place of --gpus" ;;
  esac
  if [ "$(cut -d' ' -f2 <<<"$nodes" | sort -u | wc -l)" = 1 ]; then MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}; fi # one machine
}

# lay_out: one launcher a node, one rank a GPU, alike on all nodes; dies before anything runs where that cannot be
lay_out() {
  local cpus ranks name
  [ -z "${SLURM_HET_SIZE:-}" ] || die "a heterogeneous job has unlike parts: submit one without ':' between requests"
  cpus=$(tr ',' '\n' <<<"${SLURM_JOB_CPUS_PER_NODE:-1}" | sed 's/(.*//' | sort -n | head -n 1)
  # How the job asked is no measure of its step, which gets all that the job has on a node.
  for name in $(compgen -e | grep -E '^SLURM_(NTASKS|NPROCS|(CPUS|GPUS|MEM|NTASKS|TRES)_PER_|GPUS$)'); do unset "$name"; done
  # --cpus-per-task is not inherited since Slurm 22.05; without --kill-on-bad-exit the ranks of a dead one hang.
  # shellcheck disable=SC2206  # words are wanted: the site's own options, those of pyxis
  srun=(srun --export=ALL --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1
    --cpus-per-task="$cpus" --mem=0 --kill-on-bad-exit=1 --unbuffered ${FACEGAN_SRUN:-})
  [ "$SLURM_NNODES" = 1 ] || survey
  ranks=${FACEGAN_RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
  world=$((ranks * SLURM_NNODES))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > ranks ? cpus / ranks : 1))}
  [ "$world" -gt 1 ] || return 0
  case ${CUDA_VISIBLE_DEVICES:-} in
    *MIG-*) die "NCCL does not join MIG slices: ask for one slice (--gpus-per-node=1, one node) or for whole GPUs" ;;
  esac
  MASTER_ADDR=${MASTER_ADDR:-$(head_address)}
  export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) # below the ephemeral ports, another for every job
}

# launch MODULE ARG...: becomes an srun that runs `python -m MODULE ARG...` in every rank, through one launcher a node;
# a single rank needs none.
launch() {
  # The node's number is another one on every node: it has to be read inside srun.
  # shellcheck disable=SC2016
  local on_node='[ -z "${FACEGAN_LOGS:-}" ] || exec >>"$FACEGAN_LOGS/node-$SLURM_NODEID.log" 2>&1
    exec $FACEGAN_PREFIX "$FACEGAN_PYTHON" -m '
  if [ "$world" -gt 1 ]; then
    # shellcheck disable=SC2016
    on_node+='jobs.slurm.launcher --machine_rank "$SLURM_NODEID" '
    set -- --multi_gpu --num_machines "$SLURM_NNODES" --num_processes "$world" --main_process_ip "$MASTER_ADDR" \
      --main_process_port "$MASTER_PORT" --mixed_precision no --dynamo_backend no --module "$@"
  fi
  exec "${srun[@]}" bash -c "$on_node\"\$@\"" launcher "$@"
}

# has_shards DIR: a set, or one set a size; what lies elsewhere (s3://...) is looked at by `facegan train` itself.
has_shards() {
  local index
  case $1 in *://*) return 0 ;; esac
  for index in "$1"/index.json "$1"/*/index.json; do [ ! -f "$index" ] || return 0; done
  return 1
}

# variable NAME DEFAULT ARGUMENT: the value of FACEGAN_... outside. Dies where jobs get no environment and nothing says
# what was asked: the default would be taken without a word.
variable() {
  case ${SLURM_EXPORT_ENV:-}${!1:-} in
    NONE | NIL) die "this job got no environment (--export=NONE), so $1 cannot be known: give $3 behind the file's name" ;;
  esac
  printf %s "${!1:-$2}"
}

# look: what Slurm says of this job now, in `state` and `preempted` (when; empty if not); both empty without an answer
look() {
  state='' preempted=''
  read -r state preempted < <(timeout 20 squeue -h -j "$job" -O State:32,PreemptTime:32 2>/dev/null) || true
  [ "$preempted" != N/A ] || preempted=''
}

# work [--stop FILE] COMMAND...: run it to its end, whatever Slurm sends meanwhile; its exit code is in `code`
work() {
  local stop='' step
  if [ "$1" = --stop ]; then stop=$2 && shift 2; fi
  [ -z "$signal" ] || { code=143 && return; } # asked to end before anything began
  "$@" &
  step=$!
  while kill -0 "$step" 2>/dev/null; do
    if [ -z "$signal" ]; then
      wait "$step" || true # a trapped signal ends it early
      continue
    fi
    # Again and again: ranks that are still starting remove an old one. USR1 has reached nobody but this shell.
    if [ -n "$stop" ]; then touch "$stop"; elif [ "$signal" = USR1 ]; then kill -TERM "$step" 2>/dev/null || true; fi
    look
    # Slurm is ending a preempted job without grace and will not requeue it (PreemptMode=CANCEL): while it saves, the
    # shell may be killed with it.
    if [ -n "$preempted" ] && [ "$state" = COMPLETING ] && [ -z "$returned" ]; then come_back; fi
    sleep 1
  done
  wait "$step" || code=$?
}

goes_on() { false; } # whether it does though nothing preempted it: a file whose command goes on where it was says when

# ended: the end of a job that leaves no outcome.json; what a preemption has ended goes on
ended() {
  [ "$code" != 0 ] || exit 0
  look
  if [ -z "$returned" ] && { [ -n "$preempted" ] || goes_on; }; then come_back; fi
  [ -n "$returned" ] || exit "$code"
  exit 0
}

# run ARG...: one `facegan` command in this process, recorded for `facegan status`.
run() {
  begin -- "$@"
  work "${python[@]}" -m jobs "$@"
  ended
}

# ranks ARG...: the same on every rank.
ranks() {
  lay_out
  begin -- "$@"
  work launch jobs.slurm.rank "$@"
  ended
}

# train_one RECIPE [OTHER RECIPE] ARG...: what the arguments leave open is said outside, or usual
train_one() {
  local recipe=$1 data run
  shift
  if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then recipe=$1 && shift; else recipe=$(variable FACEGAN_RECIPE "$recipe" RECIPE); fi
  data=$(option --data "" "$@") run=$(option --run-dir "" "$@")
  data=${data:-$(variable FACEGAN_DATA data/shards "--data DIR")}
  run=${run:-$(variable FACEGAN_RUN_DIR "runs/$recipe" "--run-dir DIR")}
  train "$recipe" --data "$data" --run-dir "$run" "$@"
}

# train RECIPE ARG...: `facegan train` on every rank. On a signal from Slurm all ranks save at one step;
# whether this job, or this element of an array, comes back is then read from run_dir/outcome.json.
train() {
  local data stop tail why=''
  run_dir=$(option --run-dir "" "$@") data=$(option --data "" "$@")
  [ -n "$run_dir" ] || die "train needs --run-dir; got: $*"
  has_shards "$data" || die "no set of shards in ${data:-(no --data)}; make it first:" \
    "sbatch slurm/preprocess.sh img_align_celeba.zip $(printf %q "${data:-data/shards}") --recipe $1"
  lay_out
  export FACEGAN_LOGS=$run_dir/logs
  begin --run-dir "$run_dir" --ranks "$world" -- train "$@"

  tail -n 0 -F "$FACEGAN_LOGS/rank-0.log" 2>/dev/null &
  tail=$!
  stop=$run_dir/stop-$SLURM_JOB_ID # this job's own; run_dir/stop, which people make, stops whichever job is running
  work --stop "$stop" launch jobs.slurm.rank train "$@"
  sleep 1 # the last lines
  kill "$tail" 2>/dev/null || true
  rm -f "$stop"

  # Why it stopped. With a grace time, and without preempt_send_user_signal, the ranks alone hear of a preemption.
  look
  if [ -n "$preempted$returned" ]; then why=preempted
  elif [ "$signal" = USR1 ]; then why=limit
  elif [ "$signal" = TERM ]; then why=cancelled
  elif [ -z "$state" ]; then why=unknown; fi
  case $(note end "$run_dir" --code "$code" --why "$why") in
    finished) exit 0 ;;
    requeue) [ -n "$returned" ] || come_back ;;
    stopped) leave ;;
    *) exit 1 ;;
  esac
  exit 0
}

# come_back: this job goes on later, and not twice: Slurm requeues it, else a new job takes its place. What is saved
# is saved; where neither can be, it is said what to type.
come_back() {
  local nodes said
  local -a run=(${run_dir:+"$run_dir"})
  returned=yes
  trap '' TERM # Slurm ends the job for its requeue
  nodes=$(note worn-out "${run[@]}") || true
  # No `timeout` here: it hears the TERM that this shell ignores. Slurm's MessageTimeout ends a call without an answer.
  if said=$(scontrol requeue "$job" 2>&1) || { sleep 2 && said=$(scontrol requeue "$job" 2>&1); }; then
    [ -z "$nodes" ] || scontrol update "jobid=$job" "excnodelist=$nodes" || true # Slurm takes it from a waiting job only
    return
  fi
  printf '%s\n' "$said" >&2
  case $said in *"pending execution"*) return ;; esac # Slurm itself has been before us
  look
  if [ -n "$preempted" ] && slurm_requeues; then
    [ "$state" = RUNNING ] || return 0
    echo "Saved. Slurm requeues job $job itself at the end of the grace time." >&2
    trap - TERM
    sleep 2h # ended by Slurm
  fi
  succeed || note stranded "${run[@]}"
  leave
}

# slurm_requeues: whether Slurm itself puts this preempted job back into the queue
slurm_requeues() {
  case $(timeout 20 sinfo -h -a -p "$SLURM_JOB_PARTITION" -o %M 2>/dev/null | sort -u) in
    *CANCEL* | *cancel*) return 1 ;;
  esac
  ! timeout 20 scontrol show job "$job" 2>/dev/null | grep -q 'Requeue=0'
}

# succeed: hand in a job like this one behind it, and let what waits for this one wait for that one
succeed() {
  local words new waiting dependency id=$SLURM_JOB_ID
  mapfile -d '' -t words < <(note successor --file "$0" --time "$(timeout 20 squeue -h -j "$job" -o %l 2>/dev/null)" || true)
  [ ${#words[@]} -gt 0 ] || return 1
  new=$(cd "$SLURM_SUBMIT_DIR" && for name in $(compgen -e SLURM_); do
    case $name in SLURM_CONF | SLURM_CLUSTERS | SLURM_JWT) ;; *) unset "$name" ;; esac
  done && sbatch --parsable --dependency="afterany:$id" ${nodes:+"--exclude=$nodes"} "${words[@]}") || return 1
  new=$(grep -Eo '^[0-9]+' <<<"$new" | tail -n 1)
  note succeeded "$new"
  timeout 20 squeue -h --me -t PD -o '%i %E' 2>/dev/null | while read -r waiting dependency; do
    case $dependency in
      afterok:"$id"\(* | afterok:"$id") scontrol update "jobid=$waiting" "dependency=afterok:$new" || true ;;
    esac
  done
  echo "Job $new goes on where job $job was." >&2
}

# leave: saved, and not to go on by itself: the job ends as CANCELLED and takes along what waits for its success
leave() {
  look
  if [ "$state" = RUNNING ]; then
    trap - TERM
    timeout 20 scancel "$job" && sleep 1m
  fi
  exit 85
}
