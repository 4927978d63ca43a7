"""The Slurm commands and the record around a job, without a cluster; where Slurm is asked, a program answers."""

import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from facegan.errors import FaceganError, UsageError
from facegan.run import outcome
from jobs import logs
from jobs.cli import main
from jobs.slurm import calls, checks, job, records, site, submission
from jobs.slurm.calls import Call, SlurmError
from jobs.slurm.records import Record

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
    return submission.make_call(calls.batch_files()[name], options, ())


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


def test_rank_0_is_found_by_name_then_by_address_and_never_on_localhost(here: Path) -> None:
    scontrol = here.parent / "bin/scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$2" = node ] && echo "   NodeAddr=10.1.2.3 NodeHostName=x" || printf "n7\\nn8\\n"\n'
    )
    scontrol.chmod(0o755)
    getent = here.parent / "bin/getent"
    found = []
    for known in ("n7", "10.1.2.3", "nothing"):
        getent.write_text(f'#!/bin/sh\n[ "$2" = {known} ]\n')
        getent.chmod(0o755)
        found.append(bash("head_address", SLURM_JOB_NODELIST="n[7-8]"))
    assert [result.stdout for result in found] == ["n7", "10.1.2.3", ""]
    assert found[2].returncode == 1
    assert "neither the name of node n7 nor its address (10.1.2.3) resolves" in found[2].stderr


def test_the_launcher_gets_one_rank_a_gpu_and_a_port_below_the_ephemeral_ones(here: Path) -> None:
    for name, answer in (("scontrol", "n7"), ("getent", "")):
        answering(here, name, answer)
    answering(here, "srun", "")
    job = {"SLURM_JOB_NODELIST": "n7", "SLURM_NNODES": "4", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "1234567"}
    result = bash('launch jobs.slurm.rank "$@"', "a b", "$(c)", SLURM_CPUS_PER_TASK="32", **job)
    assert result.returncode == 0, result.stderr
    words = (here.parent / "srun.call").read_text().splitlines()
    options = dict(itertools.pairwise(words))
    assert options["--num_processes"] == "32"
    assert options["--num_machines"] == "4"
    assert options["--main_process_port"] == "24567"
    assert "--kill-on-bad-exit=1" in words
    assert "--multi_gpu" in words
    assert "--cpus-per-task=32" in words
    assert "$SLURM_NODEID" in "".join(words)  # expanded on each node, not here
    assert words[-3:] == ["jobs.slurm.rank", "a b", "$(c)"]


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
    given = submission.make_call(calls.batch_files()["facegan"], ("--job-name=it's",), ("$(x)", "a\nb", ""))
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
    kept = ["SLURM_CONF", "FACEGAN_DATA", "KEYBOARD", "WANDB_MODE"]
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
    settings = calls.site_settings()
    assert settings["SBATCH_ACCOUNT"] == "it's"
    assert settings["SBATCH_PARTITION"] == "gpu"
    assert settings["FACEGAN_SITE"] == str(here / "slurm/site.sh")
    assert "SBATCH_QOS" not in settings
    with pytest.raises(FaceganError, match="exists and is kept"):
        site.init_slurm()


def test_the_site_file_takes_a_partition_with_gpus_and_works_without_accounts(here: Path) -> None:
    answering(here, "sinfo", SINFO.replace("gpu*|", "gpu|").replace("cpu|", "cpu*|"))
    answering(here, "sacctmgr", "", code=1)
    site.init_slurm()
    assert "SBATCH_ACCOUNT" not in calls.site_settings()
    assert calls.site_settings()["SBATCH_PARTITION"] == "gpu"


def test_a_site_file_that_fails_is_named_with_bash_s_words(here: Path) -> None:
    (here / "slurm").mkdir()
    (here / "slurm/site.sh").write_text("module load nothing || exit 1\n")
    with pytest.raises(SlurmError, match=r"site\.sh fails in bash: .*module"):
        calls.site_settings()


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
        checks.check_request(call(*options))
        return
    with pytest.raises(UsageError) as error:
        checks.check_request(call(*options))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dcgan-65"], "expected one of"),
        (["--data", "nowhere"], "facegan submit preprocess -- img_align_celeba.zip nowhere --recipe dcgan-128"),
        (["--batch-size", "33"], "--batch-size 34"),
    ],
)
def test_a_training_is_checked_before_it_waits(here: Path, arguments: list[str], said: str) -> None:
    (here / "data/shards/128").mkdir(parents=True)
    (here / "data/shards/128/index.json").touch()
    given = submission.make_call(calls.batch_files()["train_128"], ("--nodes=2",), tuple(arguments))
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
    file = calls.batch_files()["train_64"]
    names = [checks.run_dir("train_64", Call(file, (), a, {})) for a in ((), ("mlp-64",), ("--run-dir=x",))]
    assert names == ["runs/dcgan-64", "runs/mlp-64", "x"]
    monkeypatch.setenv("FACEGAN_RECIPE", "wgan-64")
    assert checks.run_dir("train_64", Call(file, (), (), {})) == "runs/wgan-64"


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


def test_status_joins_queue_accounting_and_run_folder(here: Path) -> None:
    for record in (Record("7", "train_64", "runs/a"), Record("8", "sweep"), Record("9", "check"), Record("10")):
        records.save(record)
    Path("runs/a").mkdir(parents=True)
    rows = [{"progress/kimg": 12.5, "speed/imgs_per_sec": 210.0}, "half a li"]
    Path("runs/a/stats.jsonl").write_text(f"{json.dumps(rows[0])}\n{{half")
    answering(
        here,
        "squeue",
        "7|RUNNING|None|1|5:00|n[1-2]|||\n8_0|PENDING|Resources|0|0:00||||\n8_1|RUNNING|None|0|0:09|n1|||\n",
    )
    accounted = "9|REQUEUED|0:0|00:01:00|n1\n9|FAILED|3:0|00:02:00|n2\n"
    answering(here, "sacct", accounted)
    shown = {row["job"]: row for row in json.loads(facegan("status", "--json").output)}
    assert list(shown) == ["7", "8_0", "8_1", "9", "10"]
    assert (shown["7"]["state"], shown["7"]["restarts"], shown["7"]["kimg"]) == ("RUNNING", 1, 12.5)
    assert (shown["8_0"]["state"], shown["8_0"]["reason"]) == ("PENDING", "Resources")
    assert (shown["9"]["state"], shown["9"]["reason"], shown["9"]["restarts"]) == ("FAILED", "exit code 3:0", 1)
    assert shown["10"]["state"] == "ENDED"
    answering(here, "sacct", "Slurm accounting storage is disabled", code=1)
    assert {row["job"]: row for row in json.loads(facegan("status", "--json").output)}["9"]["state"] == "ENDED"


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
        job.begin(self.run, ["train", "dcgan-64"])

    def ends(self, state: str = "", reason: str = "", nimg: int = 0, asked: str = "USR1", when: str = "") -> str:
        if state:
            value = {"state": state, "reason": reason, "nimg": nimg, "time": when, **outcome.identity()}
            (self.run / "outcome.json").write_text(json.dumps(value))
        return job.end(self.run, 1, asked)

    @property
    def reason(self) -> str:
        left = outcome.read_outcome(self.run)
        assert left["state"] == "failed"
        return str(left["reason"])


@pytest.fixture
def attempt(here: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    return Attempt(here, monkeypatch)


def test_the_outcome_alone_decides_what_follows(attempt: Attempt) -> None:
    assert attempt.ends("finished", asked="USR1") == "finished"
    assert attempt.ends("stopped", nimg=10, asked="") == "stopped"
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
    assert attempt.ends() == "failed"
    assert "rank 0 ended with exit code 1" in attempt.reason
    attempt.ends("finished")
    attempt.begin()
    assert attempt.ends() == "finished"


ROOT_CAUSE = """Root Cause (first observed failure):
[0]:
  time      : 2026-11-22_03:31:54
  rank      : {rank} (local_rank: 0)
  exitcode  : {code} (pid: 20048)
"""


def test_the_cause_is_the_rank_that_died_and_not_one_that_lost_its_connection(attempt: Attempt) -> None:
    (attempt.logs / "node-0.log").write_text(ROOT_CAUSE.format(rank=0, code=1))
    (attempt.logs / "node-1.log").write_text(ROOT_CAUSE.format(rank=1, code=-9))
    (attempt.logs / "rank-0.log").write_text(
        "[rank0]: RuntimeError: Connection reset by peer\nterminate called ...\n"
    )
    assert attempt.ends("failed", "RuntimeError: Connection reset by peer") == "failed"
    assert attempt.reason.startswith("rank 1 was killed by SIGKILL (see ")


def test_the_cause_of_an_exception_is_its_last_line(attempt: Attempt) -> None:
    (attempt.logs / "node-0.log").write_text(ROOT_CAUSE.format(rank=0, code=-15))
    (attempt.logs / "node-1.log").write_text(ROOT_CAUSE.format(rank=3, code=1))
    (attempt.logs / "rank-3.log").write_text("Traceback ...\n[rank3]: ValueError: bad luck\n\n")
    assert attempt.ends() == "failed"
    assert attempt.reason.startswith("rank 3 ended with exit code 1: ValueError: bad luck (see ")


def test_the_cause_of_a_single_rank_is_read_from_srun(attempt: Attempt) -> None:
    (attempt.logs / "rank-0.log").write_text("ValueError: bad luck\n")
    assert attempt.ends() == "failed"
    assert attempt.reason.startswith("rank 0 ended with exit code 1: ValueError: bad luck")
    (attempt.run / "outcome.json").unlink(missing_ok=True)
    assert job.end(attempt.run, 139, "") == "failed"
    assert attempt.reason.startswith("rank 0 was killed by SIGSEGV (see")


def test_what_earlier_attempts_logged_is_not_the_cause_of_this_one(attempt: Attempt) -> None:
    (attempt.logs / "node-0.log").write_text(ROOT_CAUSE.format(rank=0, code=-9))
    attempt.begin()
    assert attempt.ends() == "failed"
    assert "SIGKILL" not in attempt.reason


def test_a_job_s_code_commit_and_settings_are_recorded_without_secrets(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hush")
    monkeypatch.setenv("FACEGAN_TOKEN", "hush")
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
        assert not [name for name in archive.getnames() if name.endswith("site.sh")]


def test_an_array_element_inherits_what_was_recorded_for_its_array(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.save(Record("50", "sweep", options=("--array=0-3",), submitted="then"))
    for name, value in {"SLURM_JOB_ID": "52", "SLURM_ARRAY_JOB_ID": "50", "SLURM_ARRAY_TASK_ID": "2"}.items():
        monkeypatch.setenv(name, value)
    job.begin(None, ["train"])
    record = records.load("50_2")
    assert record is not None
    assert (record.name, record.options, record.submitted) == ("sweep", ("--array=0-3",), "then")
    waiting = calls.State("PENDING", "", 0, "", "")
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
    assert set(calls.batch_files()) == {
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
    assert calls.batch_files()["train_64"] == here / "slurm/train_64.sh"
    assert calls.batch_files()["train_128"] == ROOT / "slurm/train_128.sh"


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
