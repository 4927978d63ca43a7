"""What a machine does to a process: crashes that are named, limits that are raised, homes that are not there."""

import errno
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from facegan.files import home
from facegan.metrics.comparison import default_cache
from facegan.run.crash import last_crash
from facegan.run.wandb_run import has_key
from jobs.cli import exit_code
from shards.format import mapping

CUT_WHILE_READ = """
import os, sys
from pathlib import Path
from facegan.run import crash
from shards.format.mapping import map_file
shard = Path(sys.argv[1]) / "train-00000.tar"
shard.write_bytes(bytes(8192))
with crash.recorded(Path(sys.argv[1]) / "logs" / "rank-0.crash"):
    data = map_file(shard)
    os.truncate(shard, 0)
    print(data[5000])
"""


def test_a_shard_cut_while_it_is_read_is_named_by_the_next_start(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", CUT_WHILE_READ, str(tmp_path)], capture_output=True)
    assert ended.returncode == -signal.SIGBUS
    said = last_crash(tmp_path, "data/shards", "data/mixed")
    assert "rank-0 died of bus error" in said
    assert "`facegan shards verify data/shards` or `facegan shards verify data/mixed` names it" in said
    assert last_crash(tmp_path, "data/shards") == ""
    subprocess.run([sys.executable, "-c", CUT_WHILE_READ, str(tmp_path)], capture_output=True)
    assert last_crash(tmp_path, "s3://faces/64").endswith(
        "(SIGBUS); the stage, hashed anew by this start, names it"
    )


@pytest.mark.parametrize("home_is", ["unknown", "missing"])
def test_without_a_home_a_private_temporary_folder_will_do(
    home_is: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "FACEGAN_FEATURES", "NETRC", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    if home_is == "missing":
        monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert home() == tmp_path / f"facegan-{os.geteuid()}"
    assert home().stat().st_mode & 0o777 == 0o700
    assert home() in default_cache().parents
    assert not has_key()


def test_a_command_may_open_more_files_than_the_soft_limit() -> None:
    code = (
        "import resource; _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); from jobs.cli import raise_open_files\n"
        "raise_open_files(512); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(said) == 512


def test_an_error_of_the_file_system_is_no_fault_of_the_program() -> None:
    assert [exit_code(OSError(number, "no")) for number in (errno.EIO, errno.ESTALE, errno.ENOSPC)] == [1, 1, 74]


@pytest.mark.skipif(not Path("/sys/kernel/mm").is_dir(), reason="needs a file that cannot be mapped")
def test_a_file_system_that_cannot_map_files_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot map files: give --stage DIR, a folder on a local disk"):
        mapping.map_file(Path("/sys/kernel/mm/transparent_hugepage/enabled"))
