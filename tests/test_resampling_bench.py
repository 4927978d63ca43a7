"""The bench of the generator's short form, `bench/resampling.py`, small: both forms give the same images."""

import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent / "bench" / "resampling.py"


def test_the_two_forms_of_the_bench_are_the_same_function() -> None:
    command = [sys.executable, str(BENCH), "--batch", "2", "--rounds", "1", "--threads", "1"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    apart = re.search(r"images (\S+) apart", printed)
    assert apart is not None and 0 < float(apart[1]) < 1e-4, printed
    assert re.search(r"\| face-64, 2 \| \S+ \| \S+ \| [\d.]+ \|", printed), printed
