"""`facegan doctor`: states, fixes, exit code, JSON, nothing secret, and the all-reduce in real ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs import doctor
from jobs.cli import main

NAMES = ["Python", "packages", "PyTorch", "GPUs", "ranks", "precision", "disk", "data", "W&B", "Slurm"]


def as_json(*arguments: str) -> list[dict[str, str]]:
    result = CliRunner().invoke(main, ["doctor", "--json", *arguments])
    checks: list[dict[str, str]] = json.loads(result.output)
    assert result.exit_code == int(any(check["state"] == "fail" for check in checks))
    return checks


def test_json_holds_every_check_with_state_and_fix() -> None:
    checks = as_json()
    assert [check["name"] for check in checks] == NAMES
    assert {check["state"] for check in checks} <= {"ok", "note", "fail"}
    assert all(check["fix"] for check in checks if check["state"] != "ok")


def test_a_machine_without_a_gpu_is_a_note() -> None:
    gpus = next(check for check in doctor.run_checks(None, Path("runs"), False) if check.name == "GPUs")
    if "none" in gpus.found:
        assert gpus.state == "note"


def test_missing_data_fails_with_the_preprocess_command(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", "--data", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "data: make a set: facegan preprocess " in result.output


def test_a_gpu_that_pytorch_cannot_use_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.159.03\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    check = doctor.check_torch()
    assert check.state == "fail"
    assert "driver 580.159.03" in check.found
    assert "pip install" in check.fix or "update it" in check.fix


def test_a_full_disk_fails_and_a_low_one_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_disk(tmp_path / "not/yet/there").found.endswith(str(tmp_path))
    monkeypatch.setattr(doctor, "FULL_DISK_GB", 1e9)
    assert doctor.check_disk(tmp_path).state == "fail"
    monkeypatch.setattr(doctor, "FULL_DISK_GB", 0.0)
    monkeypatch.setattr(doctor, "LOW_DISK_GB", 1e9)
    assert doctor.check_disk(tmp_path).state == "note"


def test_the_key_of_wandb_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    checks = as_json()
    assert key not in json.dumps(checks)
    assert next(check for check in checks if check["name"] == "W&B")["found"] == "online"


def test_slurm_that_does_not_answer_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, body in (("sbatch", "exit 0"), ("sinfo", "echo no controller >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = doctor.check_slurm()
    assert found._replace(found="") == ("Slurm", "note", "", "ask your administrators, or set SLURM_CONF")
    assert "no controller" in found.found


def test_two_real_ranks_add_up_their_numbers() -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, *plain, "-m", "jobs", "doctor", "--all-reduce", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    check = json.loads(result.stdout)[-1]
    assert (check["name"], check["state"]) == ("all-reduce", "ok")
    assert check["found"].startswith("2 ranks, cpu")
