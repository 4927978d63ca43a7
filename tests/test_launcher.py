"""What `accelerate launch` and the environment ask for is done, or refused by name."""

import pytest

from facegan.errors import UsageError
from facegan.run import machine
from facegan.run.settings import RunSettings


@pytest.mark.parametrize(("told", "precision"), [("no", "fp32"), ("bf16", "bf16")])
def test_the_launchers_precision_is_taken_where_ours_is_auto(
    told: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    assert machine.start(RunSettings(threads=1)).precision == precision
    assert machine.start(RunSettings(threads=1, precision="fp32")).precision == "fp32"


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp16", "--mixed_precision fp16"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "--mixed_precision fp8"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "--use_deepspeed"),
        ("ACCELERATE_USE_FSDP", "true", "--use_fsdp"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--batch-per-rank"),
    ],
)
def test_what_the_trainer_does_not_do_is_refused_by_name(
    variable: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=named):
        machine.start(RunSettings(threads=1))


@pytest.mark.parametrize(("told", "threads"), [("3", 3), ("2,1", 2)])
def test_omp_num_threads_is_honoured_and_our_flag_wins(
    told: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert machine.start(RunSettings()).threads == threads
    assert machine.start(RunSettings(threads=1)).threads == 1
