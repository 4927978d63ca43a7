"""What this site does to a job whose place another takes, and what becomes of a training then."""

import re

from jobs.slurm import calls

FATES = {
    "OFF": "no job is ended for another's sake",
    "REQUEUE": "{signal}, saves and is requeued",
    "CANCEL": "{signal}, saves and, as Slurm would not, requeues itself (or hands in a successor)",
    "SUSPEND": "is stopped in memory and goes on later, by Slurm alone",
}


def describe(seconds: float = calls.ANSWER_SECONDS) -> str:
    """A sentence for each way this site's partitions have; raises SlurmError where Slurm does not answer."""
    config = calls.config(seconds)
    ways: dict[str, list[str]] = {}
    for name, (mode, grace) in partitions(seconds).items():
        ways.setdefault(fate(config, mode, grace), []).append(name)
    return "; ".join(f"{', '.join(names)}: {way}" for way, names in ways.items())


def of_partition(name: str) -> str:
    """What will happen in one partition, or '' where that is nothing; raises SlurmError."""
    mode, grace = partitions().get(name, ("OFF", 0))
    return "" if mode == "OFF" else f"in {name} a preempted training {fate(calls.config(), mode, grace)}"


def partitions(seconds: float = calls.ANSWER_SECONDS) -> dict[str, tuple[str, int]]:
    """Each partition's preemption mode and its grace time in seconds."""
    text = calls.ask(["scontrol", "show", "partition", "--all", "--oneliner"], None, seconds)
    ways = {}
    for line in text.splitlines():
        facts = dict(re.findall(r"(\w+)=(\S*)", line))
        mode = facts.get("PreemptMode", "OFF").upper().replace("GANG", "").strip(",") or "OFF"
        ways[facts.get("PartitionName", "")] = (mode, int(facts.get("GraceTime", "0") or 0))
    return ways


def fate(config: dict[str, str], mode: str, grace: int) -> str:
    """What becomes of a training in a partition, by the cluster's settings, the partition's mode and grace time."""
    if config.get("PreemptType", "").endswith("none"):
        mode = "OFF"
    hears = (
        "its shell" if "preempt_send_user_signal" in config.get("SlurmctldParameters", "") else "its ranks alone"
    )
    wait = config.get("KillWait", "30 sec").removesuffix(" sec")
    signal = (
        f"has {grace} s, of which {hears} hear{'s' if hears == 'its shell' else ''}" if grace else f"has {wait} s"
    )
    return FATES.get(mode, mode).format(signal=signal)
