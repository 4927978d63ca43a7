"""Real processes on gloo compute what one process does, notice each other's end, and resume on other numbers."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_owner import ISOLATED
from test_resume import TINY, finish, run_ranks, wait_for_stats
from tiny import MadeUpImages, result, tiny_recipe

from facegan.files import json_lines
from facegan.recipes import recipe_classes
from facegan.train.draws import RandomNumbers, StepDraws
from facegan.train.state import build_discriminator, build_generator
from facegan.train.tensors import map_tensors, tensors_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
PLAIN = ['g_optimizer="sgd"', 'd_optimizer="sgd"', "beta1=0.0", "g_lr=0.01", "d_lr=0.01"]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    last = max((run_dir / "checkpoints").glob("nimg-*"))
    return load_file(last / "state.safetensors")


@pytest.mark.parametrize(
    "arguments",
    [
        ["mlp-64"],
        ["mlp-64", 'loss="wasserstein"', "gp_weight=10.0", "n_critic=2"],
        ["mlp-64", 'diffaugment="color"', "augment_target=0.3", "augment_kimg=0.05"],
    ],
    ids=["bce", "wgan-gp", "adaptive"],
)
def test_ranks_equal_the_single_process_on_the_same_global_batches(arguments, tmp_path):
    """The BCE step and the WGAN-GP step; plain gradient descent, so that rounding is not blown up by Adam."""
    name, *changes = arguments
    for world in (1, 2, 3):
        assert finish(run_ranks([name, str(tmp_path / f"{world}"), "0.06", *changes, *PLAIN], world)) == [0] * world
    for world in (2, 3):
        assert_equal_to_rounding(tmp_path / "1", tmp_path / f"{world}")
        for one, many in zip(result(tmp_path / "1")[1], result(tmp_path / f"{world}")[1], strict=True):
            assert one == pytest.approx(many, rel=1e-4, abs=1e-6)


def assert_equal_to_rounding(run: Path, other: Path) -> None:
    one, many = weights(run), weights(other)
    for key in (k for k in one if k.startswith(("generator/", "discriminator/"))):
        torch.testing.assert_close(one[key], many[key], rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["dcgan-64", "dcgan-128", "wgan-gp-64"])
def test_recipes_with_batchnorm_train_on_two_ranks_and_say_so(name, tmp_path):
    processes = run_ranks([name, str(tmp_path), "0.03"], 2)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], said
    assert "BatchNorm uses each rank's own 3 images" in said[0]


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    for run, worlds in (("changed", (3, 1, 2)), ("whole", (1,))):
        for k, world in enumerate(worlds, start=1):
            kimg = 0.12 * k / len(worlds)
            assert finish(run_ranks(["mlp-64", str(tmp_path / run), str(kimg), *PLAIN], world)) == [0] * world
    assert_equal_to_rounding(tmp_path / "changed", tmp_path / "whole")
    worlds = [
        json.loads(line)["world"] for line in (tmp_path / "changed" / "starts.jsonl").read_text().splitlines()
    ]
    assert worlds == [3, 1, 2]


@pytest.mark.parametrize("name", list(recipe_classes()))
def test_the_random_numbers_of_a_sample_do_not_depend_on_the_ranks(name):
    recipe = tiny_recipe(name, diffaugment="color", real_labels="0.7,1.2", flip=True)
    with torch.device("meta"):
        networks = build_generator(recipe), build_discriminator(recipe)
    numbers = RandomNumbers(recipe, 3, *networks)
    whole = numbers.step(60, 6)
    for world in (2, 3):
        part = 6 // world
        for rank in range(world):
            mine = numbers.step(60 + rank * part, part)
            assert_equal(mine, map_tensors(whole, lambda t, r=rank, p=part: t[r * p : (r + 1) * p]))


def assert_equal(mine: StepDraws, theirs: StepDraws) -> None:
    assert tensors_of(mine)
    for a, b in zip(tensors_of(mine), tensors_of(theirs), strict=True):
        assert torch.equal(a, b)


def test_a_rank_that_dies_ends_the_others_within_a_minute_and_leaves_the_cause(tmp_path):
    processes = run_ranks(["dcgan-64", str(tmp_path), "600"], 2)
    wait_for_stats(tmp_path, processes)
    processes[1].kill()
    assert processes[0].wait(timeout=60) == 1
    finish(processes)
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["state"] == "failed" and outcome["reason"].startswith("another rank has ended without a word")
    assert "onnection" in (tmp_path / "logs" / "rank-0.error").read_text()


def test_what_rank_0_cannot_write_ends_all_ranks_with_the_cause(tmp_path):
    processes = run_ranks(["dcgan-64", str(tmp_path), "600"], 2)
    wait_for_stats(tmp_path, processes)
    while not (tmp_path / "stats.jsonl").is_dir():  # the next line cannot be written
        (tmp_path / "stats.jsonl").unlink(missing_ok=True)
        with suppress(FileExistsError):  # a line was written in between
            (tmp_path / "stats.jsonl").mkdir()
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [p.returncode for p in processes] == [1, 1], said
    assert "rank 0 failed: [Errno 21] Is a directory" in said[1]
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["state"] == "failed" and "Is a directory" in outcome["reason"]


FAILING = """
import sys, torch, torch.distributed as dist
from facegan.errors import DiskFullError
from facegan.run.failures import Failures
rank, port = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
failures = Failures(rank, 3)
failures.on_other = lambda failure: print(failure.rank, failure.reason, flush=True)
with failures:
    dist.all_reduce(torch.ones(1))
    if rank == 1:
        raise DiskFullError("no room on this rank's disk")
    dist.all_reduce(torch.ones(1))
"""


RECORDING = """
import sys, torch
sys.path.insert(0, "tests")
from test_speed_equality import refuse, run_again
from tiny import MadeUpImages, tiny_recipe
from facegan.run import machine
from facegan.run.settings import RunSettings
from facegan.train.cuda_graphs import Replayed
from facegan.train.draws import RandomNumbers
from facegan.train.schedules import schedule_values
from facegan.train.state import State
from facegan.train.step import Batch, Step

here = machine.start(RunSettings(threads=1, precision="fp32", device="cpu"))
recipe = tiny_recipe("dcgan-64", ema_kimg=0.01)

def train(record):
    state = State(recipe, 0, here)
    step = Step(recipe, state, here)
    run = Replayed(step, step.kind, record, state.weights, state.statistics, here.any)
    numbers = RandomNumbers(recipe, 0, state.generator, state.discriminator)
    stream = MadeUpImages(recipe, 96, here.rank, 2)
    for at in range(0, 60, 6):
        run(Batch(at, next(stream), numbers.step(at + 3 * here.rank, 3), schedule_values(recipe, at, 60)))
    return state, len(run.recordings)

(plain, none), (replayed, one) = train(refuse), train(run_again)
same = all(map(torch.equal, plain.tensors().values(), replayed.tensors().values()))
print(none, one, same, float(sum(t.double().sum() for t in replayed.weights())))
here.leave()
"""


def test_recorded_messages_between_ranks_are_those_of_the_step():
    """As far as gloo can tell, which runs again what NCCL would replay: same order, static inputs, same weights."""
    port, said = str(random.Random(time.monotonic_ns()).randrange(20000, 30000)), []
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RECORDING],
            env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0][:3] == ["0", "1", "True"] and said[0] == said[1]


def test_a_failure_of_any_rank_reaches_those_that_wait_for_it_in_a_message():
    port = str(20000 + os.getpid() % 9000)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FAILING, str(rank), port], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for rank in range(3)
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [74, 1, 74]
    assert said == ["1 no room on this rank's disk\n", "", "1 no room on this rank's disk\n"]


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*ISOLATED, "true"], capture_output=True).returncode != 0,
    reason="a PID namespace of its own needs root",
)
def test_two_that_fight_for_a_run_with_pauses_write_one_at_a_time_and_lose_nothing(tmp_path):
    """Each in a container of its own; the one that writes is paused until the other takes over, three times."""
    run = tmp_path / "fought"
    arguments = ["mlp-64", str(run), "600", "checkpoint_kimg=0.6", "log_kimg=0.06", "sample_kimg=0"]
    environment = os.environ | {"TINY_STALE_AFTER": "3", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def start() -> subprocess.Popen[str]:
        command = [*ISOLATED, sys.executable, str(TINY), *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    def signalled(process: subprocess.Popen[str], number: signal.Signals) -> None:
        os.kill(int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()), number)

    def starts() -> int:
        return len(list(json_lines(run / "starts.jsonl")))

    writer = start()
    for fight in range(1, 4):
        before = newest(run)
        while starts() < fight or newest(run) == before:
            assert writer.poll() is None, writer.communicate()[1][-2000:]
            time.sleep(0.05)
        signalled(writer, signal.SIGSTOP)
        other = start()
        while starts() < fight + 1:
            assert other.poll() is None, other.communicate()[1][-2000:]
            time.sleep(0.05)
        signalled(writer, signal.SIGCONT)
        said = writer.communicate(timeout=60)[1]
        assert writer.returncode == 1 and "stops and writes nothing more" in said
        assert not (run / "outcome.json").exists() and not (run / "logs" / "rank-0.error").exists()
        writer = other
    signalled(writer, signal.SIGTERM)
    writer.communicate(timeout=60)
    seen = [row["progress/nimg"] for row in json_lines(run / "stats.jsonl")]
    assert seen == sorted(set(seen))
    kimg = str(json.loads((run / "outcome.json").read_text())["nimg"] / 1000 + 0.06)
    for folder in (run, tmp_path / "whole"):
        assert finish(run_ranks(["mlp-64", str(folder), kimg, "log_kimg=0.06", "sample_kimg=0"], 1), 300) == [0]
    assert result(run) == result(tmp_path / "whole")


def newest(run: Path) -> str:
    return max((path.name for path in (run / "checkpoints").glob("nimg-*")), default="")


def test_a_stop_file_stops_all_ranks_at_the_same_step(tmp_path):
    processes = run_ranks(["dcgan-64", str(tmp_path), "600"], 2)
    wait_for_stats(tmp_path, processes)
    (tmp_path / "stop").touch()
    said = [json.loads(p.communicate(timeout=60)[0].splitlines()[-1]) for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    assert said[0] == said[1] and said[0]["state"] == "stopped"
    assert json.loads((tmp_path / "outcome.json").read_text())["nimg"] == said[0]["nimg"]


def test_a_signal_to_one_rank_stops_all_of_them_saved(tmp_path):
    processes = run_ranks(["mlp-64", str(tmp_path), "600"], 2)
    wait_for_stats(tmp_path, processes)
    processes[1].terminate()
    assert finish(processes) == [0, 0]
    assert json.loads((tmp_path / "outcome.json").read_text())["state"] == "stopped"
    assert list((tmp_path / "checkpoints").glob("nimg-*"))


def test_a_refused_run_folder_ends_every_rank(tmp_path):
    first = run_ranks(["mlp-64", str(tmp_path), "600"], 1)
    wait_for_stats(tmp_path, first)
    second = run_ranks(["mlp-64", str(tmp_path), "600"], 2)
    said = [p.communicate(timeout=60)[1] for p in second]
    assert [p.returncode for p in second] == [1, 1]
    assert f"process {first[0].pid}" in said[0]
    first[0].terminate()
    assert finish(first) == [143]


def test_sync_bn_on_the_cpu_is_an_error_that_explains(tmp_path):
    processes = run_ranks(["dcgan-64", str(tmp_path), "0.03", "sync_bn=true"], 2)
    said = [p.communicate(timeout=60)[1] for p in processes]
    assert [p.returncode for p in processes] == [1, 1]
    assert "SyncBatchNorm works on CUDA only" in said[0]


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """A set of shards made by the real command from synthetic faces."""
    from jobs.synthetic.celeba import write_celeba

    folder = tmp_path_factory.mktemp("set")
    write_celeba(folder / "faces", 60, seed=1)
    command = [
        sys.executable,
        "-m",
        "jobs",
        "preprocess",
        str(folder / "faces"),
        str(folder / "set"),
        "--size",
        "64",
    ]
    subprocess.run([*command, "--crop", "160", "--shard-size", "20"], check=True, cwd=ROOT, capture_output=True)
    return folder / "set"


LAUNCHERS = {
    "plain": ([sys.executable, "-m", "jobs"], 1),
    "accelerate": (["accelerate", "launch", "-m", "jobs"], 1),
    "accelerate-config": (["accelerate", "launch", "--config_file", "CONFIG", "-m", "jobs"], 2),
    "accelerate-flags": (["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "-m", "jobs"], 2),
    "torchrun": (["torchrun", "--nproc-per-node", "2", "-m", "jobs"], 2),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_way_to_launch_works_and_says_what_it_runs_on(launcher, small_set, tmp_path):
    command, world = LAUNCHERS[launcher]
    config = tmp_path / "accelerate.yaml"
    config.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 2\n")
    command = [str(config) if word == "CONFIG" else word for word in command]
    if "/" not in command[0]:
        command[0] = str(Path(sys.executable).with_name(command[0]))
    if launcher.startswith("accelerate-") or launcher == "torchrun":
        at = command.index("-m")
        port = str(20000 + os.getpid() % 9000)
        command[at:at] = ["--main_process_port" if command[0].endswith("accelerate") else "--master-port", port]
    train = ["train", "mlp-64", "--data", str(small_set), "--run-dir", str(tmp_path / "run"), "--kimg", "0.03"]
    wanted = [*train, "--batch-size", "6", "--wandb", "off", "--device", "cpu", "--threads", "1"]
    ended = subprocess.run([*command, *wanted], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert f"{world} rank{'s' if world > 1 else ''} on cpu" in ended.stderr
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["state"] == "finished"


def test_the_stream_of_the_tests_is_the_one_the_trainer_expects():
    """One rank's parts put together are the global batch."""
    recipe = tiny_recipe("mlp-64")
    whole = next(MadeUpImages(recipe))
    parts = [next(MadeUpImages(recipe, rank=rank, world=3)) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)
