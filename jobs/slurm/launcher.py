"""Accelerate's launcher of a node's ranks; what torch knows of those that died is left in a file.

Run by slurm/launch.sh on every node, with the arguments of `accelerate launch`.
"""

import sys

from jobs.slurm import deaths


def main() -> None:
    from accelerate.commands.launch import main as launch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch()
    except ChildFailedError as error:
        deaths.write({rank: (f.exitcode, f.timestamp, f.error_file_data) for rank, f in error.failures.items()})
        sys.exit(str(error))
    except SignalException as error:  # torch has ended the ranks; a shell's exit code for it, as a single rank has
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()
