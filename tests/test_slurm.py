"""The Slurm commands and the record around a job, without a cluster; where Slurm is asked, a program answers."""

import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from facegan.errors import FaceganError, LostRankError, UsageError, between_ranks
from facegan.run import outcome
from jobs import logs
from jobs.cli import main
from jobs.slurm import calls, checks, deaths, job, preemption, queue, records, request, site, submission, succession
from jobs.slurm.calls import SlurmError
from jobs.slurm.records import Record
from jobs.slurm.request import Call
from shards.make.address import Address
from shards.make.upload import scratch_for

ROOT = Path(__file__).resolve().parent.parent
SINFO = """\
gpu*|12|64|512000|gpu:a100:4(S:0-1)|1-00:00:00|up
gpu*|2|64|512000|gpu:h200:8|1-00:00:00|up
cpu|40|32|128000|(null)|infinite|up
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A submit directory without inherited settings, and a folder first in PATH for programs that answer."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "FACEGAN_"))]:
        monkeypatch.delenv(name)
    folder = tmp_path / "here"
    (tmp_path / "bin").mkdir()
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return folder


def answering(here: Path, name: str, output: str, code: int = 0) -> None:
    """Put a program in front of PATH that prints `output`, and notes its arguments in `here`."""
    program = here.parent / "bin" / name
    (here.parent / f"{name}.answer").write_text(output)
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{here.parent}/{name}.call\ncat {here.parent}/{name}.answer\nexit {code}\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def facegan(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def call(*options: str, name: str = "train_128") -> Call:
    return submission.make_call(request.batch_files()[name], options, (), "train")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_batch_files_are_shellcheck_clean() -> None:
    files = sorted((ROOT / "slurm").glob("*.sh"))
    command = ["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_train_64_and_train_128_differ_in_size_and_time_alone() -> None:
    small, large = ((ROOT / f"slurm/train_{size}.sh").read_text() for size in (64, 128))
    assert small.replace("64", "128").replace("04:00:00", "08:00:00") == large


@pytest.mark.parametrize("name", ["preprocess", "train_64", "train_128", "evaluate", "sweep", "check", "facegan"])
def test_no_batch_file_needs_a_log_folder_or_its_own_place(name: str) -> None:
    text = (ROOT / f"slurm/{name}.sh").read_text()
    is_array = "--array" in text.split("set -euo pipefail")[0].replace("sbatch --array", "")
    assert f"#SBATCH --output={'%x-%A_%a.out' if is_array else '%x-%j.out'}\n" in text
    assert "$0" not in text
    assert "BASH_SOURCE" not in text


def bash(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the functions of launch.sh."""
    command = ["bash", "-c", f"set -euo pipefail; . {ROOT}/slurm/launch.sh; {script}", "bash", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def answers_by_case(here: Path, **programs: str) -> None:
    """Programs whose answer is decided by a line of shell."""
    for name, script in programs.items():
        (here.parent / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (here.parent / "bin" / name).chmod(0o755)


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({"n7": "10.0.0.7"}, "n7"),
        ({"n7": "127.0.1.1", "10.1.2.3": "10.1.2.3"}, "10.1.2.3"),  # Debian's own name for itself
        ({"n7": "127.0.1.1", "192.168.0.9": "192.168.0.9"}, "192.168.0.9"),
        ({"n7": "::1", "10.1.2.3": "127.0.0.1"}, ""),
    ],
)
def test_rank_0_is_found_by_name_then_by_address_and_never_on_loopback(
    here: Path, known: dict[str, str], found: str
) -> None:
    table = "".join(f"{name}) echo '{address} STREAM' ;; " for name, address in known.items())
    answers_by_case(
        here,
        scontrol='[ "$2" = node ] && echo "   NodeAddr=10.1.2.3 NodeHostName=x" || printf "n7\\nn8\\n"',
        getent=f"case $2 in {table} *) exit 2 ;; esac",
        hostname="echo 192.168.0.9",
    )
    result = bash("head_address", SLURM_JOB_NODELIST="n[7-8]")
    assert result.stdout == found
    assert bool(result.returncode) == (not found)
    assert found or "neither the name of node n7 nor its address (10.1.2.3)" in result.stderr


def laid_out(here: Path, script: str = 'lay_out; launch jobs.slurm.rank "$@"', **job: str) -> list[str]:
    """The words that srun gets from a job; '!' and what was said where it was refused."""
    answers_by_case(
        here,
        scontrol="echo n7",
        getent="echo 10.0.0.7",
        srun=f'case "$*" in *boot_id*) printf "$SURVEY" ;; *) printf "%s\\n" "$@" >{here.parent}/srun.call ;; esac',
    )
    usual = {"SLURM_JOB_NODELIST": "n7", "SLURM_NNODES": "1", "SLURM_JOB_ID": "1234567", "SURVEY": "4 a\\n4 b\\n"}
    result = bash(script, "a b", "$(c)", **{**usual, **job})
    return (here.parent / "srun.call").read_text().splitlines() if result.returncode == 0 else ["!", result.stderr]


def test_the_launcher_gets_one_rank_a_gpu_and_a_port_below_the_ephemeral_ones(here: Path) -> None:
    words = laid_out(here, SLURM_NNODES="4", SLURM_GPUS_ON_NODE="8", SLURM_JOB_CPUS_PER_NODE="32(x3),48")
    options = dict(itertools.pairwise(words))
    assert options["--num_processes"] == "32"
    assert options["--num_machines"] == "4"
    assert options["--main_process_port"] == "24567"
    assert options["--main_process_ip"] == "n7"
    assert {"--kill-on-bad-exit=1", "--multi_gpu", "--cpus-per-task=32"} <= set(words)
    assert "$SLURM_NODEID" in "".join(words)  # expanded on each node, not here
    assert words[-3:] == ["jobs.slurm.rank", "a b", "$(c)"]


def test_one_launcher_a_node_gets_all_cores_however_they_were_asked_for(here: Path) -> None:
    asked = {
        "SLURM_NTASKS": "8",
        "SLURM_NTASKS_PER_NODE": "8",
        "SLURM_CPUS_PER_GPU": "2",
        "SLURM_GPUS_PER_TASK": "1",
    }
    asked |= {"SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_CPUS_PER_NODE": "16", "SLURM_MEM_PER_GPU": "1"}
    words = laid_out(here, FACEGAN_SRUN="--container-image=x.sqsh --mpi=none", **asked)
    assert {
        "--ntasks=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=16",
        "--mem=0",
        "--container-image=x.sqsh",
    } <= set(words)
    answers_by_case(here, srun=f"env >{here.parent}/srun.environment")
    bash("lay_out; launch x", SLURM_NNODES="1", SLURM_JOB_ID="7", SLURM_JOB_NODELIST="n7", **asked)
    environment = (here.parent / "srun.environment").read_text()
    assert not [name for name in asked if f"{name}=" in environment and name.split("_")[1] in ("NTASKS", "MEM")]
    assert "SLURM_GPUS_PER_TASK=" not in environment
    assert "SLURM_CPUS_PER_GPU=" not in environment


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"SLURM_NNODES": "2", "SURVEY": "4 a\\n2 b\\n"}, "unlike numbers of GPUs (2 4)"),
        ({"SLURM_HET_SIZE": "2"}, "a heterogeneous job"),
        ({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, "NCCL does not join MIG slices"),
    ],
)
def test_what_ranks_cannot_be_laid_out_on_is_one_error_before_anything_runs(
    here: Path, job: dict[str, str], said: str
) -> None:
    refused, text = laid_out(here, **job)
    assert refused == "!"
    assert said in text
    assert not (here.parent / "srun.call").exists()


def test_one_mig_slice_is_one_rank(here: Path) -> None:
    words = laid_out(here, SLURM_GPUS_ON_NODE="1", CUDA_VISIBLE_DEVICES="MIG-a")
    assert "--multi_gpu" not in words


def test_nodes_of_one_machine_meet_on_its_loopback(here: Path) -> None:
    words = laid_out(here, SLURM_NNODES="2", SLURM_GPUS_ON_NODE="1", SURVEY="1 a\\n1 a\\n")
    assert dict(itertools.pairwise(words))["--main_process_ip"] == "127.0.0.1"


@pytest.mark.parametrize("export", ["NONE", "NIL"])
def test_a_job_without_environment_takes_no_default_without_a_word(here: Path, export: str) -> None:
    script = 'train() { echo "$@"; }; train_one dcgan-64 "$@"'
    lost = bash(script, SLURM_EXPORT_ENV=export)
    assert lost.returncode == 1
    assert "--export=NONE" in lost.stderr
    assert "RECIPE" in lost.stderr
    told = bash(script, "wgan-64", "--data", "d", "--run-dir=r", SLURM_EXPORT_ENV=export)
    assert told.stdout.split()[:1] == ["wgan-64"]
    usual = bash(script, FACEGAN_RECIPE="wgan-64")
    assert usual.stdout == "wgan-64 --data data/shards --run-dir runs/wgan-64\n"


@pytest.mark.parametrize(
    ("sent", "finished", "requeued"),
    [
        ("USR1 $PPID", "out/64/.parts/train-00000.jsonl", True),
        ("USR1 $PPID", "out/.listing-0-0.begun/read.json", True),
        ("USR1 $PPID", "out/.listing-0-0/00000.npy", True),
        ("USR1 $PPID", "out/64/.train-00000.tar.01234567.part", False),
        ("TERM $PPID $$", "out/64/.parts/train-00000.jsonl", False),
    ],
)
def test_an_element_of_a_preprocess_requeues_itself_at_its_time_limit_if_anything_was_finished(
    here: Path, sent: str, finished: str, requeued: bool
) -> None:
    for folder in ("out/64/.parts", "out/.listing-0-0", "out/.listing-0-0.begun"):  # of earlier starts
        (here / folder).mkdir(parents=True)
        os.utime(here / folder, (1e9, 1e9))
    slow = f"touch -d '1 minute ago' {Path(finished).parent}"  # the file server's clock is not the node's
    work = f"touch {finished}; {slow}; kill -{sent}; exec sleep 20"
    answers_by_case(here, python=f'case "$*" in *"jobs preprocess"*) {work} ;; esac', squeue="echo RUNNING N/A")
    answering(here, "scontrol", "")
    array = {"JOB_ID": "50", "TASK_ID": "1", "TASK_COUNT": "2", "TASK_MIN": "0", "TASK_MAX": "1"}
    variables = {f"SLURM_ARRAY_{name}": value for name, value in array.items()}
    variables |= {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "51"}
    command = ["bash", str(ROOT / "slurm/preprocess.sh"), "src", "out"]
    result = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    asked = here.parent / "scontrol.call"
    assert (result.returncode == 0) == requeued, result.stderr
    assert (asked.read_text().split() if asked.exists() else []) == ["requeue", "50_1"] * requeued
    assert ("a longer --time" in result.stderr) == (sent.startswith("USR1") and not requeued)


def test_the_last_job_of_an_array_for_an_address_closes_and_sends_what_its_elements_made(here: Path) -> None:
    made = scratch_for(Address("s3://bucket/faces"), here / "all see")
    answers_by_case(here, python='echo "$@" >&2', scontrol="true", squeue="true")
    (made / "64/.parts").mkdir(parents=True)
    array = {"JOB_ID": "50", "TASK_ID": "0", "TASK_COUNT": "2", "TASK_MIN": "0", "TASK_MAX": "1"}
    variables = {f"SLURM_ARRAY_{name}": value for name, value in array.items()} | {"SLURM_JOB_PARTITION": "cpu"}
    variables |= {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "51"}
    command = ["bash", str(ROOT / "slurm/preprocess.sh"), "src", "s3://bucket/faces"]
    flags = ["--scratch", str(here / "all see")]
    how: dict[str, Any] = {"env": {**os.environ, **variables}, "capture_output": True, "text": True}
    assert "need --scratch DIR" in subprocess.run(command, **how, check=False).stderr
    result = subprocess.run([*command, *flags], **how, check=False)
    assert result.returncode == 0, result.stderr
    assert f"-- shards upload {here}/all see s3://bucket/faces" in result.stderr
    assert f"jobs preprocess src s3://bucket/faces --scratch {here}/all see --slice 0/2" in result.stderr
    sent = f"touch {str(made / '64/.uploaded-0-of-2.jsonl').replace(' ', chr(92) + ' ')}"
    work = f'case "$*" in *"jobs preprocess"*) sleep 1; {sent}; kill -USR1 $PPID; exec sleep 20 ;; esac'
    os.utime(made / "64/.parts", (1e9, 1e9))
    answers_by_case(here, python=work, squeue="echo RUNNING N/A")
    answering(here, "scontrol", "")
    result = subprocess.run([*command, *flags], **how, check=False)
    assert result.returncode == 0 and "requeue\n50_0" in (here.parent / "scontrol.call").read_text(), result.stderr


def test_the_last_of_an_option_s_spellings_counts() -> None:
    script = 'option --run-dir default "$@"'
    assert bash(script, "--run", "x").stdout == "default"
    assert bash(script, "--run-dir", "a b", "--x", "--run-dir=c d").stdout == "c d"
    assert bash(script, "--run-dir=c", "--run-dir", "$(a)").stdout == "$(a)"


def test_options_are_read_as_sbatch_reads_them(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call().value("time") == "08:00:00"
    monkeypatch.setenv("SBATCH_TIMELIMIT", "5")
    assert call().value("time") == "5"
    spellings = [("--time=7",), ("--time", "7"), ("-t7",), ("-t", "7"), ("--time=6", "-t7")]
    assert [call(*options).value("time") for options in spellings] == ["7"] * 5


def test_a_job_name_that_is_no_file_name_does_not_name_the_log(here: Path) -> None:
    assert call("--job-name=faces 1").options == ("--job-name=faces 1",)
    for name in ("a/b", "a\nb", "a%jb", "a\\b"):
        assert call(f"--job-name={name}").options[-1] == "--output=train_128-%j.out"
    assert call("--job-name=a/b", "--output=mine.out").options[-1] == "--output=mine.out"


def test_the_shown_call_is_the_call(here: Path) -> None:
    given = submission.make_call(
        request.batch_files()["facegan"], ("--job-name=it's",), ("$(x)", "a\nb", ""), "facegan"
    )
    words = subprocess.run(
        ["bash", "-c", f"sbatch() {{ printf '%s\\0' \"$@\"; }}; {given.shown()}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ["sbatch", *words.stdout.split("\0")[:-1]] == given.command


def test_the_environment_of_sbatch_has_no_secret_and_no_other_job(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "SLURM_JOB_ID", "SLURM_CPU_BIND"]
    kept = ["SLURM_CONF", "SLURM_JWT", "FACEGAN_DATA", "KEYBOARD", "WANDB_MODE"]
    for name in [*hidden, *kept]:
        monkeypatch.setenv(name, "x")
    environment = calls.environment({"SBATCH_ACCOUNT": "faces"})
    assert not set(hidden) & set(environment)
    assert {*kept, "SBATCH_ACCOUNT"} <= set(environment)
    assert set(calls.secrets()) >= set(hidden[:4])


def test_only_the_first_part_of_the_site_file_goes_to_sbatch(here: Path) -> None:
    answering(here, "sinfo", SINFO)
    answering(here, "sacctmgr", "it's mine\n")
    (here / "slurm").mkdir()
    site.init_slurm()
    text = Path("slurm/site.sh").read_text()
    Path("slurm/site.sh").write_text(text + "export SBATCH_QOS=inside\nexit 3\n")
    settings = request.site_settings()
    assert settings["SBATCH_ACCOUNT"] == "it's"
    assert settings["SBATCH_PARTITION"] == "gpu"
    assert settings["FACEGAN_SITE"] == str(here / "slurm/site.sh")
    assert "SBATCH_QOS" not in settings
    with pytest.raises(FaceganError, match="exists and is kept"):
        site.init_slurm()


def test_the_site_file_has_a_profile_for_each_stage_that_submit_uses(here: Path) -> None:
    answering(here, "sinfo", SINFO)
    answering(here, "sacctmgr", "", code=1)
    site.init_slurm()
    files = request.batch_files()
    for file, stage, partition in (
        ("preprocess", "preprocess", "cpu"),
        ("facegan", "report", "cpu"),
        ("train_64", "train", "gpu"),
        ("evaluate", "evaluate", "gpu"),
    ):
        assert submission.make_call(files[file], (), ("a", "b"), stage).value("partition") == partition


def test_a_requeued_job_starts_next_where_slurm_has_that(here: Path) -> None:
    answers_by_case(here, sbatch="echo '      --requeue[=expedite]'")
    assert call().options == ("--requeue=expedite",)
    assert call("--requeue=no").options == ("--requeue=no",)
    answers_by_case(here, sbatch="echo '      --requeue'")
    assert call().options == ()


def test_the_site_file_takes_a_partition_with_gpus_and_works_without_accounts(here: Path) -> None:
    answering(here, "sinfo", SINFO.replace("gpu*|", "gpu|").replace("cpu|", "cpu*|"))
    answering(here, "sacctmgr", "", code=1)
    site.init_slurm()
    assert "SBATCH_ACCOUNT" not in request.site_settings()
    assert request.site_settings()["SBATCH_PARTITION"] == "gpu"


def test_a_site_file_that_fails_is_named_with_bash_s_words(here: Path) -> None:
    (here / "slurm").mkdir()
    (here / "slurm/site.sh").write_text("module load nothing || exit 1\n")
    with pytest.raises(FaceganError, match=r"site\.sh fails in bash: .*module"):
        request.site_settings()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes=13", "--gpus-per-node=4"], None),
        (["--nodes=15", "--gpus-per-node=4"], "15 nodes with 4 GPUs each"),
        (["--nodes=3", "--gpus-per-node=8"], "3 nodes with 8 GPUs each"),
        (["--nodes=2", "--gpus-per-node=h200:8"], None),
        (["--gres=gpu:h200:9", "--gpus-per-node=0"], "1 nodes with 9 GPUs each"),
        (["-pcpu"], "1 nodes with 1 GPUs each"),
        (["--partition=gpu,cpu", "-N14"], None),
        (["-p", "fast"], "partition 'fast' does not exist; sinfo has: cpu, gpu*"),
    ],
)
def test_a_request_is_held_against_sinfo(here: Path, options: list[str], said: str | None) -> None:
    answering(here, "sinfo", SINFO)
    if said is None:
        assert checks.explain(call(*options)) == ""
    else:
        assert said in checks.explain(call(*options))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dcgan-65"], "expected one of"),
        (["--data", "nowhere"], "facegan submit preprocess -- img_align_celeba.zip nowhere --recipe dcgan-128"),
        (["--mix=data/shards/128=1/4,elsewhere=0.1"], "no set of shards in elsewhere"),
        (["--batch-size", "33"], "--batch-size 34"),
    ],
)
def test_a_training_is_checked_before_it_waits(here: Path, arguments: list[str], said: str) -> None:
    (here / "data/shards/128").mkdir(parents=True)
    (here / "data/shards/128/index.json").touch()
    given = submission.make_call(request.batch_files()["train_128"], ("--nodes=2",), tuple(arguments), "train")
    with pytest.raises(UsageError) as error:
        checks.check_data("train_128", given)
        checks.check_training("train_128", given)
    assert said in str(error.value)


def test_a_disk_that_is_too_small_is_said_before(here: Path) -> None:
    with pytest.raises(UsageError, match="GiB free"):
        checks.check_space(here / "not/yet", 1 << 60)


def test_a_recipe_and_a_run_folder_come_from_argument_then_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = request.batch_files()["train_64"]
    names = [checks.run_dir("train_64", Call(file, (), a, {})) for a in ((), ("mlp-64",), ("--run-dir=x",))]
    assert names == ["runs/dcgan-64", "runs/mlp-64", "x"]
    monkeypatch.setenv("FACEGAN_RECIPE", "wgan-64")
    assert checks.run_dir("train_64", Call(file, (), (), {})) == "runs/wgan-64"


def test_the_job_id_is_found_between_the_news_of_a_site(here: Path) -> None:
    answering(
        here, "sbatch", "*** Maintenance on 24 June ***\nProject p4711 has 1200 hours left.\n12345;cluster\n---\n"
    )
    assert calls.sbatch(call()) == "12345"
    answering(here, "sbatch", "queued, perhaps\n")
    with pytest.raises(SlurmError, match=r"(?s)printed no job id: queued, perhaps.*squeue --me"):
        calls.sbatch(call())


def test_slurm_that_hangs_behind_a_wrapper_is_said_and_ended(here: Path) -> None:
    answers_by_case(here, sinfo=f"sleep 60 & echo $! >{here.parent}/child; wait")
    with pytest.raises(SlurmError, match="Slurm does not answer: sinfo"):
        calls.partitions(0.5)
    child = int((here.parent / "child").read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(50):  # its death is not waited for by anybody here
            os.kill(child, 0)
            time.sleep(0.1)


def test_the_request_that_slurm_would_take_is_not_refused_for_what_sinfo_shows(here: Path) -> None:
    answering(here, "sinfo", SINFO.replace("*", ""))  # no default partition
    answering(here, "sbatch", "")
    checks.check_request(call())
    checks.check_request(call("--partition=hidden"))


@pytest.mark.parametrize("asked", ["--gpus=4", "--gpus-per-task=1", "--mem=0"])
def test_an_unusual_request_that_slurm_refuses_is_explained(here: Path, asked: str) -> None:
    answering(here, "sinfo", SINFO)
    answering(here, "sbatch", "", code=1)
    with pytest.raises(UsageError, match=f"{asked.partition('=')[0]}: the files of slurm/ ask"):
        checks.check_request(call(asked))


def test_what_the_environment_asks_for_goes_into_the_arguments(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RECIPE": "wgan-128", "DATA": "/scratch/faces", "RUN_DIR": "runs/w"}.items():
        monkeypatch.setenv(f"FACEGAN_{name}", value)
    given = submission.make_call(request.batch_files()["train_128"], ("--export=NONE",), ("--kimg", "9"), "train")
    assert given.arguments == ("wgan-128", "--data", "/scratch/faces", "--run-dir", "runs/w", "--kimg", "9")
    checks.check_environment(given)
    monkeypatch.setenv("FACEGAN_BATCH_SIZE", "32")
    with pytest.raises(UsageError, match="FACEGAN_BATCH_SIZE would be lost"):
        checks.check_environment(given)


def test_the_site_s_data_and_its_options_for_a_stage_are_seen_by_submit(here: Path) -> None:
    (here / "slurm").mkdir()
    lines = ["FACEGAN_DATA=${FACEGAN_DATA:-/scratch/me}", "FACEGAN_SBATCH_TRAIN='--partition=gpu --qos=long'"]
    lines += ["FACEGAN_SBATCH_PREPROCESS=--partition=cpu", "LD_LIBRARY_PATH=/x:$NOT_SET", "FACEGAN_TOKEN=hush"]
    (here / "slurm/site.sh").write_text("".join(f"export {line}\n" for line in lines))
    given = submission.make_call(request.batch_files()["train_64"], ("--qos=short",), (), "train")
    assert given.options == ("--partition=gpu", "--qos=long", "--qos=short")
    assert given.arguments[1:3] == ("--data", "/scratch/me")
    assert "FACEGAN_TOKEN" not in given.environment
    other = submission.make_call(request.batch_files()["preprocess"], (), ("a.zip", "out"), "preprocess")
    assert other.value("partition") == "cpu"


def test_too_few_images_a_rank_for_batch_norm_are_an_error_with_the_way_out(here: Path) -> None:
    (here / "data/shards/64").mkdir(parents=True)
    (here / "data/shards/64/index.json").touch()
    file = request.batch_files()["train_64"]
    wide = ("--nodes=4", "--gpus-per-node=8")
    with pytest.raises(
        UsageError, match=r"4 images a rank.*--sync-bn, or ask for 16 ranks or fewer, or --batch-size 256"
    ):
        checks.check_training("train_64", submission.make_call(file, wide, ("dcgan-64",), "train"))
    synced = submission.make_call(file, wide, ("dcgan-64", "--sync-bn"), "train")
    assert "over 32 ranks: 4 images a rank" in checks.check_training("train_64", synced)
    checks.check_training("train_64", submission.make_call(file, wide, ("mlp-64",), "train"))
    face = ("face-64", "--batch-size", "128")
    with pytest.raises(UsageError, match=r"4 images a rank"):
        checks.check_training("train_64", submission.make_call(file, wide, face, "train"))
    alone = (*face, "--set", "generator_norm=instance")
    checks.check_training("train_64", submission.make_call(file, wide, alone, "train"))
    with pytest.raises(click.UsageError, match=r"No such option '?--bogus") as refused:
        checks.check_training("train_64", submission.make_call(file, (), ("face-64", "--bogus"), "train"))
    assert refused.value.ctx is not None and refused.value.ctx.command_path == "facegan train face-64"
    (here / "runs/dcgan-64/checkpoints/nimg-000000000064").mkdir(parents=True)
    begun = checks.check_training("train_64", submission.make_call(file, wide, ("dcgan-64",), "train"))
    assert begun.startswith("Warning: ") and "goes on" in begun


SITE = {"PreemptType": "preempt/partition_prio", "KillWait": "30 sec", "SlurmctldParameters": ""}


@pytest.mark.parametrize(
    ("mode", "grace", "parameters", "said"),
    [
        ("OFF", 0, "", "no job is ended"),
        ("REQUEUE", 0, "", "has 30 s, saves and is requeued"),
        ("REQUEUE", 60, "", "has 60 s, of which its ranks alone hear, saves"),
        ("REQUEUE", 60, "preempt_send_user_signal", "has 60 s, of which its shell hears, saves"),
        ("CANCEL", 60, "", "requeues itself"),
        ("SUSPEND", 0, "", "goes on later, by Slurm alone"),
    ],
)
def test_what_a_preemption_will_do_is_said_from_the_cluster_s_settings(
    mode: str, grace: int, parameters: str, said: str
) -> None:
    assert said in preemption.fate({**SITE, "SlurmctldParameters": parameters}, mode, grace)
    assert "no job is ended" in preemption.fate({**SITE, "PreemptType": "preempt/none"}, mode, grace)


def test_logs_outlast_a_slurm_that_does_not_answer(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "ASK_SECONDS", 0.0)
    follower = logs.Follower(Record("7"))
    answering(here, "squeue", "", code=1)
    follower.wait()
    assert follower.is_live
    queued(here, "7|COMPLETED|None|0|5:00|n1|||1:00|5")
    follower.wait()
    assert not follower.is_live


def test_sbatch_s_refusal_is_told_with_its_words(here: Path) -> None:
    answering(here, "sbatch", "", code=1)
    (here.parent / "bin/sbatch").write_text("#!/bin/sh\necho 'sbatch: error: Invalid account' >&2\nexit 1\n")
    with pytest.raises(SlurmError, match=r"(?s)--test-only.*\n  Invalid account"):
        calls.test_only(call())


def test_without_slurm_a_person_is_told_where_to_go(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    result = facegan("status")
    assert result.exit_code == 1
    assert "login node" in result.output


def queued(here: Path, *rows: str) -> None:
    """What squeue says: job|state|reason|restarts|elapsed|nodes|comment|directory|left|submitted."""
    answering(here, "squeue", "".join(f"{row}|\n" for row in rows))


def rows() -> dict[str, dict[str, object]]:
    result = facegan("status", "--json")
    assert result.exit_code == 0, result.output
    return {row["job"]: row for row in json.loads(result.output)}


def test_status_joins_queue_accounting_and_run_folder(here: Path) -> None:
    for record in (Record("7", "train_64", "runs/a"), Record("8", "sweep"), Record("9", "check"), Record("10")):
        records.save(record)
    Path("runs/a").mkdir(parents=True)
    stats = {"progress/kimg": 12.5, "speed/imgs_per_sec": 210.0}
    Path("runs/a/stats.jsonl").write_text(f"{json.dumps(stats)}\n{{half")
    queued(
        here,
        "7|RUNNING|None|1|5:00|n[1-2]|||1:00:00|5",
        "8_0|PENDING|Resources|0|0:00||||1:00|5",
        "8_1|RUNNING|None|0|0:09|n1|||1:00|5",
    )
    accounted = ["7|RUNNING|0:0|00:05:00|n1|5|32G||", "7.0|RUNNING|0:0|00:05:00|n1|5||2048K|cpu=1,gres/gpuutil=87"]
    accounted += ["9|REQUEUED|0:0|00:01:00|n1|5|8G||", "9|FAILED|3:0|00:02:00|n2|9|8G||"]
    answering(here, "sacct", "\n".join(accounted))
    shown = rows()
    assert list(shown) == ["7", "8_0", "8_1", "9", "10"]
    assert (shown["7"]["state"], shown["7"]["restarts"], shown["7"]["kimg"]) == ("RUNNING", 1, 12.5)
    assert (shown["7"]["memory"], shown["7"]["gpu"]) == ("0.0G of 32G", "87 %")
    assert (shown["8_0"]["state"], shown["8_0"]["reason"]) == ("PENDING", "Resources")
    assert (shown["9"]["state"], shown["9"]["reason"], shown["9"]["restarts"]) == ("FAILED", "exit code 3:0", 1)
    assert shown["10"]["state"] == "ENDED"
    answering(here, "sacct", "Slurm accounting storage is disabled", code=1)
    assert rows()["9"]["state"] == "ENDED"


@pytest.mark.parametrize(
    ("length", "limit", "left", "in_time"),
    [
        ({"kimg": 100, "epochs": 0}, "20:00", "15:00", "yes"),
        ({"kimg": 100, "epochs": 0}, "14:59", "15:00", "no"),
        ({"kimg": 0, "epochs": 2}, "1-00:00:00", "15:00", "yes"),
        ({"kimg": 100, "epochs": 0}, "UNLIMITED", "15:00", None),
    ],
)
def test_status_says_the_time_left_and_whether_it_is_inside_the_limit(
    here: Path, length: dict[str, float], limit: str, left: str, in_time: str | None
) -> None:
    records.save(Record("7", "train_64", "runs/a"))
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/config.json").write_text(json.dumps({"values": length, "data": {"samples": 50_000}}))
    Path("runs/a/stats.jsonl").write_text('{"progress/kimg": 10.0, "speed/imgs_per_sec": 100.0}\n')
    queued(here, f"7|RUNNING|None|0|5:00|n1|||{limit}|5")
    row = rows()["7"]
    assert (row["left"], row["in time"]) == (left, in_time)


def test_progress_stands_in_the_training_s_row_alone(here: Path) -> None:
    names = ("preprocess", "facegan", "train_64", "evaluate", "facegan")
    for number, name in enumerate(names, start=7):
        records.save(Record(str(number), name, "runs/a"))
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/stats.jsonl").write_text('{"progress/kimg": 10.0, "speed/imgs_per_sec": 100.0}\n')
    Path("runs/a/outcome.json").write_text('{"state": "failed", "reason": "nan", "nimg": 1}')
    queued(here, *(f"{number}|FAILED|None|0|5:00|n1|||1:00|5" for number in range(7, 12)))
    assert [row["kimg"] for row in rows().values()] == [None, None, 10.0, None, None]
    assert [row["reason"] for row in rows().values()] == ["", "", "nan", "", ""]


def test_an_id_that_slurm_gave_to_another_job_since_is_told_apart_by_its_submit_time(here: Path) -> None:
    records.save(Record("7", "check", submitted="2020-01-01T00:00:00+00:00"))
    records.save(Record("8", "check", submitted="2026-01-01T00:00:00+00:00"))
    then, since = 1577836800, 1767225600
    queued(here, f"7|RUNNING|None|0|5:00|n1|||1:00|{since}", f"8|RUNNING|None|0|5:00|n1|||1:00|{since + 2}")
    accounted = [f"7|REQUEUED|0:0|00:01|n1|{then + 3}|8G||", f"7|COMPLETED|0:0|00:02|n1|{then + 900}|8G||"]
    accounted += [f"7|FAILED|9:0|00:03|n1|{since}|8G||"]
    answering(here, "sacct", "\n".join(accounted))
    shown = rows()
    assert (shown["7"]["state"], shown["7"]["restarts"]) == ("COMPLETED", 1)
    assert shown["8"]["state"] == "RUNNING"


def test_without_accounting_the_memory_is_the_job_s_own_word(here: Path) -> None:
    records.save(Record("7", "train_64", "runs/a"))
    Path("runs/a/logs").mkdir(parents=True)
    for name, gigabytes in (("7-0-0", 2), ("7-1-1", 3), ("71-0-0", 9)):
        Path(f"runs/a/logs/memory-{name}.json").write_text(json.dumps({"peak": gigabytes << 30}))
    queued(here, "7|COMPLETED|None|0|5:00|n1|||1:00|5|cpu=8,mem=32G,node=1")
    assert rows()["7"]["memory"] == "3.0G of 32G"


def test_a_thousand_records_cost_one_call_each_of_squeue_and_sacct(here: Path) -> None:
    for number in range(1000):
        records.save(Record(str(number), "check"))
    for name in ("squeue", "sacct"):
        answers_by_case(here, **{name: f'echo "$#" >>{here.parent}/{name}.calls'})
    assert len(rows()) == 1000
    assert [len((here.parent / f"{name}.calls").read_text().split()) for name in ("squeue", "sacct")] == [1, 1]


def test_status_shows_a_hostile_reason_on_one_line(here: Path) -> None:
    records.save(Record("7", "train_64", "runs/a"))
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/outcome.json").write_text('{"state": "failed", "reason": "a\\nb\\u001b[31m", "nimg": 1}')
    answering(here, "squeue", "7|FAILED|None|0|5:00|n1|||\n")
    assert "a?b?[31m" in facegan("status").output


def test_cancel_names_only_live_jobs_and_takes_a_run_s_chain(here: Path) -> None:
    for number, run in (("7", "runs/a"), ("8", "runs/a"), ("9", "runs/b"), ("10", "runs/a")):
        records.save(Record(number, "train_64", run))
    answering(
        here,
        "squeue",
        "7|COMPLETED|None|0|5:00|n1|||\n8|RUNNING|None|0|5:00|n1|||\n9|RUNNING|None|0|1:00|n1|||\n10|PENDING|Dependency|0|0:00||||\n",
    )
    answering(here, "scancel", "")
    assert "Cancelled 8, 10." in facegan("cancel", "./runs/a").output
    assert (here.parent / "scancel.call").read_text().split() == ["--", "8", "10"]
    assert facegan("cancel").exit_code == 2
    assert "last jobs: 7, 8, 9, 10" in facegan("cancel", "11").output


def test_logs_show_the_end_of_the_job_s_or_a_rank_s_log(here: Path) -> None:
    log = here / "sweep-12_3.out"
    log.write_text("".join(f"line {i}\n" for i in range(100)))
    records.save(Record("12_3", "sweep", "runs/a", str(here / "sweep-12_%a.out")))
    assert facegan("logs", "12_3", "-n", "2").output == "line 98\nline 99\n"
    Path("runs/a/logs").mkdir(parents=True)
    Path("runs/a/logs/rank-1.log").write_text("one\ntwo")
    assert facegan("logs", "-r", "1", "runs/a").output == "one\ntwo"
    assert "has not started" in facegan("logs", "-r", "2", "runs/a").output


def test_a_log_is_followed_by_what_is_new_and_from_its_start_where_it_was_begun_anew(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = here / "x.out"
    log.write_text("old\n")
    position = logs.print_from(log, 4)
    log.write_text("old\nnew\n")
    position = logs.print_from(log, position)
    log.write_text("a\n")
    logs.print_from(log, position)
    assert capsys.readouterr().out == "new\na\n"


def test_a_record_that_is_not_ours_is_not_believed(here: Path) -> None:
    records.save(Record("7", arguments=("a",)))
    (records.FOLDER / "8.json").write_text('{"job": "9", "arguments": [], "options": []}')
    (records.FOLDER / "9.json").write_text('{"job": "9", "surprise": 1, "arguments": [], "options": []}')
    (records.FOLDER / "10.json").write_text("half")
    assert [record.job for record in records.load_all()] == ["7"]


class Attempt:
    """A job that begins in a run folder; the test plays its trainer and its launchers."""

    def __init__(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "41")
        self.run, self.logs = here / "run", here / "run/logs"
        self.begin()

    def begin(self) -> None:
        job.begin(self.run, [], ["train", "dcgan-64"])

    def ends(self, state: str = "", reason: str = "", nimg: int = 0, why: str = "limit", when: str = "") -> str:
        if state:
            value = {"state": state, "reason": reason, "nimg": nimg, "time": when, **outcome.identity()}
            (self.run / "outcome.json").write_text(json.dumps(value))
        return job.end(self.run, 1, why)

    @property
    def reason(self) -> str:
        left = outcome.read_outcome(self.run)
        assert left["state"] == "failed"
        return str(left["reason"])


def test_a_submit_folder_that_cannot_be_written_warns_and_the_training_starts(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / ".facegan").touch()  # root may write to a folder without rights; nobody into a file
    began = Attempt(here, monkeypatch)
    assert "warning: `facegan status` will not know this job" in capsys.readouterr().err
    assert (began.logs / "attempt-41.json").exists()


@pytest.fixture
def attempt(here: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    return Attempt(here, monkeypatch)


def test_the_outcome_alone_decides_what_follows(attempt: Attempt) -> None:
    assert attempt.ends("finished", why="limit") == "finished"
    assert attempt.ends("stopped", nimg=10, why="") == "stopped"
    assert attempt.ends("failed", "loss/discriminator is nan at step 7") == "failed"
    assert attempt.reason == "loss/discriminator is nan at step 7"
    assert attempt.ends("stopped", nimg=10) == "requeue"


def test_a_requeue_without_progress_since_the_last_one_is_refused_for_this_job_alone(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt.ends("stopped", nimg=0) == "requeue"
    assert attempt.ends("stopped", nimg=64) == "requeue"
    assert attempt.ends("stopped", nimg=64) == "failed"
    assert "no progress between two requeues of job 41: 64 images" in attempt.reason
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert attempt.ends("stopped", nimg=64) == "requeue"


def test_an_outcome_of_an_earlier_attempt_does_not_count_unless_the_run_was_finished(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt.ends("stopped", nimg=10)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    attempt.begin()
    assert attempt.ends(why="") == "failed"
    assert "rank 0 ended with exit code 1" in attempt.reason
    attempt.ends("finished")
    attempt.begin()
    assert attempt.ends() == "finished"


def died(attempt: Attempt, node: int, rank: int, code: int, time: float, words: str = "") -> None:
    """What the launcher of a node leaves of a rank, where torch's @record wrote `words` or nothing."""
    error = (
        {"message": {"message": words, "extraInfo": {"timestamp": str(int(time))}}}
        if words
        else {"message": "<NONE>"}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEGAN_LOGS", str(attempt.logs))
        patch.setenv("SLURM_NODEID", str(node))
        deaths.write({rank: (code, time, error)})


def said(attempt: Attempt, rank: int, *lines: str, node: str = "n1") -> None:
    start = f"[2026-11-25T18:00:00+00:00] rank {rank} on {node}, job 41, process 1"
    with (attempt.logs / f"rank-{rank}.log").open("a") as log:
        log.write("".join(f"{line}\n" for line in (start, *lines)))


def test_the_cause_is_the_rank_that_died_and_not_one_that_lost_its_connection(attempt: Attempt) -> None:
    died(attempt, 0, 0, 1, 100.0, "RuntimeError: Connection reset by peer")
    died(attempt, 1, 1, -9, 101.0)
    said(attempt, 0, "[rank0]: RuntimeError: Connection reset by peer", "terminate called ...")
    assert attempt.ends("failed", "RuntimeError: Connection reset by peer", why="") == "failed"
    assert attempt.reason.startswith("rank 1 was killed by SIGKILL (see ")


def test_a_rank_that_says_another_is_gone_is_not_the_cause(attempt: Attempt) -> None:
    with pytest.raises(LostRankError) as lost, between_ranks():
        raise RuntimeError(f"[{'/long' * 30}/pair.cc:553] Connection closed by peer [127.0.0.1]:14749")
    died(attempt, 0, 0, 1, 100.0)
    died(attempt, 1, 1, -9, 101.0)
    said(attempt, 0, f"Error: {lost.value}")
    assert attempt.ends("failed", str(lost.value), why="") == "failed"
    assert attempt.reason.startswith("rank 1 was killed by SIGKILL (see ")


def test_a_device_that_fails_is_not_taken_for_a_rank_that_is_gone() -> None:
    with pytest.raises(RuntimeError, match="uncorrectable ECC"), between_ranks():
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")


def test_the_cause_is_the_message_of_torch_s_error_file_and_not_a_log_s_text(attempt: Attempt) -> None:
    died(attempt, 0, 0, -15, 100.0)
    died(attempt, 1, 3, 1, 99.0, "ValueError: bad luck")
    said(attempt, 3, "something else", "NCCL is named here in passing")
    assert attempt.ends(why="") == "failed"
    assert attempt.reason.startswith("rank 3 ended with exit code 1: ValueError: bad luck (see ")


def test_of_several_deaths_the_first_one_counts(attempt: Attempt) -> None:
    died(attempt, 0, 0, 1, 101.0, "ValueError: later")
    died(attempt, 1, 1, 1, 100.0, "ValueError: first")
    assert attempt.ends(why="") == "failed"
    assert "rank 1 ended with exit code 1: ValueError: first" in attempt.reason


def test_a_rank_that_ended_with_a_message_for_people_is_quoted_from_its_log(attempt: Attempt) -> None:
    died(attempt, 0, 1, 1, 100.0)
    said(attempt, 1, "Error: no data")
    assert attempt.ends(why="") == "failed"
    assert attempt.reason.startswith("rank 1 ended with exit code 1: Error: no data (see ")


def test_the_cause_of_a_single_rank_is_read_from_its_error_file_or_srun(attempt: Attempt) -> None:
    said(attempt, 0, "ValueError: bad luck")
    assert attempt.ends(why="") == "failed"
    assert attempt.reason.startswith("rank 0 ended with exit code 1: ValueError: bad luck")
    (attempt.run / "outcome.json").unlink(missing_ok=True)
    deaths.error_file(attempt.logs).write_text('{"message": {"message": "KeyError: 7"}}')
    assert attempt.ends(why="") == "failed"
    assert attempt.reason.startswith("rank 0 ended with exit code 1: KeyError: 7")
    (attempt.run / "outcome.json").unlink(missing_ok=True)
    assert job.end(attempt.run, 139, "") == "failed"
    assert attempt.reason.startswith("rank 0 was killed by SIGSEGV (see")


def test_what_earlier_attempts_left_is_not_the_cause_of_this_one(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    died(attempt, 0, 0, -9, 100.0)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    attempt.begin()
    assert attempt.ends(why="") == "failed"
    assert "SIGKILL" not in attempt.reason


def test_a_node_whose_ranks_died_twice_by_a_signal_or_a_device_is_left_out(attempt: Attempt) -> None:
    said(attempt, 0, node="n1")
    said(attempt, 1, node="n2")
    for when, words in ((100.0, ""), (200.0, "RuntimeError: CUDA error: uncorrectable ECC error encountered")):
        died(attempt, 0, 1, 1 if words else -9, when, words)
        assert deaths.worn_out(attempt.logs) == []
        (attempt.run / "outcome.json").unlink(missing_ok=True)
        assert attempt.ends(why="") == "failed"
    for when in (300.0, 400.0):  # the program's own fault on n1
        died(attempt, 0, 0, 1, when, "ValueError: bad luck")
        assert attempt.ends("failed", "", why="") == "failed"
    assert deaths.worn_out(attempt.logs) == ["n2"]


def test_what_slurm_ended_before_it_could_save_goes_on_from_the_last_checkpoint(attempt: Attempt) -> None:
    assert attempt.ends(why="preempted") == "requeue"
    assert attempt.ends(why="preempted") == "requeue"  # a busy cluster is no fault of the run
    assert attempt.ends(why="limit") == "requeue"
    assert attempt.ends(why="limit") == "failed"
    assert "no progress" in attempt.reason


@pytest.mark.parametrize(("code", "follows"), [(143, "stopped"), (255, "stopped"), (1, "failed")])
def test_a_job_cancelled_before_its_training_began_is_no_failure(attempt: Attempt, code: int, follows: str) -> None:
    assert job.end(attempt.run, code, "cancelled") == follows


@pytest.mark.parametrize(
    ("why", "reason", "follows"),
    [
        ("preempted", "terminated (SIGTERM)", "requeue"),
        ("unknown", "terminated (SIGTERM)", "requeue"),
        ("unknown", "stop-file", "stopped"),
        ("cancelled", "terminated (SIGTERM)", "stopped"),
        ("", "stop-file", "stopped"),
    ],
)
def test_a_run_comes_back_where_slurm_asked_and_not_where_a_person_did(
    attempt: Attempt, why: str, reason: str, follows: str
) -> None:
    assert attempt.ends("stopped", reason, nimg=10, why=why) == follows


def test_a_successor_is_handed_in_once_and_counts_as_the_same_job(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.save(
        Record("41", "train_64", "run", "train_64-41.out", options=("--dependency", "afterok:3", "--qos=x"))
    )
    job.begin(attempt.run, ["dcgan-64", "--kimg", "9"], ["train", "dcgan-64", "--kimg", "9"])
    monkeypatch.setenv("SLURM_JOB_PARTITION", "low")
    words = succession.successor(Path("/spool/job"), "1:00:00")
    assert words == ["--partition=low", "--time=1:00:00", "--qos=x", "/spool/job", "dcgan-64", "--kimg", "9"]
    assert attempt.ends("stopped", nimg=64) == "requeue"
    succession.succeeded("57")
    assert succession.successor(Path("/spool/job"), "1:00:00") == []
    following = records.load("57")
    assert following is not None
    assert (following.first, following.name, following.run_dir) == ("41", "train_64", str(attempt.run))
    monkeypatch.setenv("SLURM_JOB_ID", "57")
    attempt.begin()
    assert attempt.ends("stopped", nimg=64) == "failed"


def test_where_slurm_takes_nothing_the_outcome_says_what_to_type(attempt: Attempt) -> None:
    records.save(Record("41", "train_64", "run", options=("--time=1",), given=("--kimg", "9")))
    attempt.ends("stopped", "stop", nimg=10, why="limit")
    job.stranded(attempt.run)
    left = outcome.read_outcome(attempt.run)
    assert (left["state"], left["nimg"]) == ("stopped", 10)
    assert left["reason"].endswith("to go on: sbatch --time=1 slurm/train_64.sh --kimg 9")


def test_a_job_s_code_commit_and_settings_are_recorded_without_secrets(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hush")
    monkeypatch.setenv("FACEGAN_TOKEN", "hush")
    monkeypatch.setenv("SLURM_JWT", "hush")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    attempt.begin()
    text = (attempt.logs / "job-41-2.json").read_text()
    assert "hush" not in text
    record = json.loads(text)
    assert record["environment"]["WANDB_MODE"] == "offline"
    assert len(list(attempt.logs.glob("code-*.tar.gz"))) == 1
    with tarfile.open(attempt.logs / record["code"]) as archive:
        assert archive.extractfile("jobs/slurm/job.py").read() == (ROOT / "jobs/slurm/job.py").read_bytes()  # type: ignore[union-attr]
        assert {"facegan/export/engine.js", "slurm/launch.sh"} <= set(archive.getnames())
        assert not [name for name in archive.getnames() if "__pycache__" in name or name.endswith("site.sh")]
        assert not [name for name in archive.getnames() if name.endswith("site.sh")]


def test_an_array_element_inherits_what_was_recorded_for_its_array(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.save(Record("50", "sweep", options=("--array=0-3",), submitted="then"))
    for name, value in {"SLURM_JOB_ID": "52", "SLURM_ARRAY_JOB_ID": "50", "SLURM_ARRAY_TASK_ID": "2"}.items():
        monkeypatch.setenv(name, value)
    job.begin(None, [], ["train"])
    record = records.load("50_2")
    assert record is not None
    assert (record.name, record.options, record.submitted) == ("sweep", ("--array=0-3",), "then")
    waiting = queue.State("PENDING", "", 0, "", "")
    queued = {"50_1": waiting, "50_2": waiting, "50_3": waiting}
    assert [r.job for r in records.load_all(queued)] == list(queued)


def test_a_waiting_job_of_a_plain_sbatch_is_known_by_its_comment_and_directory(here: Path) -> None:
    rows = [f"7|PENDING|Priority|0|0:00||facegan|{here}|", f"8|PENDING|Priority|0|0:00|||{here}|"]
    rows += ["9|PENDING|Priority|0|0:00||facegan|/elsewhere|", "10|PENDING|Priority|0|0:00||face"]
    answering(here, "squeue", "\n".join(rows))
    assert [row["job"] for row in json.loads(facegan("status", "--json").output)] == ["7"]


def test_a_sweep_is_handed_in_as_an_array(here: Path) -> None:
    answering(here, "sinfo", SINFO)
    answering(here, "sbatch", "77\n")
    result = facegan("sweep", "dcgan-64", "--set", "g_lr=1e-4,2e-4", "--seeds", "2", "--kimg", "1", "--slurm")
    assert "Submitted sweep as job 77" in result.output, result.output
    words = (here.parent / "sbatch.call").read_text().splitlines()
    assert "--array=0-3" in words
    assert words[words.index("--set") + 1] == "g_lr=1e-4,2e-4"


def test_submit_help_lists_the_jobs_with_the_files_own_words_and_imports_no_torch(here: Path) -> None:
    code = "import sys; from jobs.cli import main; main(standalone_mode=False); sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "submit", "--help"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert result.returncode == 0, result.stderr
    assert set(request.batch_files()) == {
        "check",
        "evaluate",
        "facegan",
        "preprocess",
        "sweep",
        "train_128",
        "train_64",
    }
    assert "The first thing to submit" in result.stdout


def test_a_file_of_the_submit_directory_goes_before_the_package_s(here: Path) -> None:
    (here / "slurm").mkdir()
    shutil.copy(ROOT / "slurm/train_64.sh", "slurm/train_64.sh")
    assert request.batch_files()["train_64"] == here / "slurm/train_64.sh"
    assert request.batch_files()["train_128"] == ROOT / "slurm/train_128.sh"


def test_the_pipeline_s_dry_run_prints_the_whole_chain(here: Path) -> None:
    answering(here, "squeue", "")
    result = facegan(
        "submit",
        "pipeline",
        "--source",
        "x.zip",
        "--recipe",
        "dcgan-64",
        "--each=-A x",
        "--nodes=2",
        "--dry-run",
        "--",
        "--kimg",
        "9",
    )
    lines = result.output.splitlines()
    assert [line.split("--job-name=")[1].split()[0] for line in lines] == [
        "preprocess",
        "index",
        "train",
        "evaluate",
        "report",
    ]
    assert "afterok" not in lines[0]
    assert all("--dependency=afterok:" in line and "--kill-on-invalid-dep=yes" in line for line in lines[1:])
    assert ["--nodes=2" in line for line in lines] == [False, False, True, False, False]
    assert lines[2].endswith("dcgan-64 --data data/shards --run-dir runs/dcgan-64 --kimg 9")
    assert (
        "needs 128 px"
        in facegan("submit", "pipeline", "--source", "x", "--sizes", "64", "--recipe", "dcgan-128").output
    )


def test_sbatch_s_short_options_are_not_taken_for_ours(here: Path) -> None:
    answering(here, "sinfo", SINFO)
    answering(here, "sbatch", "")
    result = facegan("submit", "facegan", "-Aphysics", "-n", "4", "--dry-run", "-Jh", "--", "report", "--dry-run")
    assert result.output.splitlines()[-1].endswith(
        "-Aphysics -n 4 -Jh " + f"{ROOT}/slurm/facegan.sh report --dry-run"
    )
    assert "long form" in facegan("submit", "pipeline", "--source", "x.zip", "-Aphysics").output
