"""A real, throw-away Slurm on this host: loopback only, no systemd, everything in one folder."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NODES = tuple(f"n{i}" for i in range(1, 10))
DAEMONS = ("munged", "slurmctld", "slurmd", "scontrol", "sbatch")
CONFIG = """\
ClusterName=facegantest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmctldParameters={parameters}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
CredType=cred/munge
# loopback only: neither the controller nor a node listens on 0.0.0.0
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdSpoolDir={root}/spool/%n
SlurmdLogFile={root}/slurmd-%n.log
# no cgroups, no systemd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PriorityType=priority/basic
CompleteWait=0
KillWait=15
MinJobAge=1200
InactiveLimit=0
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=10
TCPTimeout=4
BatchStartTimeout=20
UnkillableStepTimeout=60
ReturnToService=2
# the batch files ask for what they need themselves
JobRequeue=0
# the nodes claim more than this host has
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=SUSPEND,GANG
GresTypes=gpu
# n1 and n2 do the work; n5 is there to be lost, the others to be preempted.
NodeName=n[1-9] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node_ports}] CPUs=4 RealMemory=900000 Gres=gpu:fake:4
PartitionName=DEFAULT MaxTime=INFINITE DefaultTime=20
PartitionName=main Nodes=n[1-2] Default=YES PriorityTier=10 PreemptMode=off
PartitionName=lost Nodes=n[1,5] PriorityTier=10 PreemptMode=off
PartitionName=grace Nodes=n3 PriorityTier=1 PreemptMode=requeue GraceTime=60
PartitionName=patient Nodes=n9 PriorityTier=1 PreemptMode=requeue GraceTime=60
PartitionName=abrupt Nodes=n4 PriorityTier=1 PreemptMode=requeue GraceTime=0
PartitionName=cancel Nodes=n6 PriorityTier=1 PreemptMode=cancel GraceTime=60
PartitionName=cancelnow Nodes=n7 PriorityTier=1 PreemptMode=cancel GraceTime=0
PartitionName=suspend Nodes=n8 PriorityTier=1 PreemptMode=suspend OverSubscribe=FORCE:1
PartitionName=high Nodes=n[3-9] PriorityTier=100 PreemptMode=off OverSubscribe=FORCE:1
PartitionName=hidden Nodes=n1 PriorityTier=10 PreemptMode=off Hidden=YES
"""
# File= must name character devices that exist; nothing opens them
GRES = "AutoDetect=off\nNodeName=n[1-9] Name=gpu Type=fake File=/dev/tty[0-3]\n"


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in DAEMONS if shutil.which(name, path=path) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (apt-get install --no-install-recommends slurm-wlm munge)"
    if os.geteuid() != 0:
        return "a throw-away Slurm needs root"
    return None


class Cluster:
    """Nodes n1 to n9 with four fake GPUs each; a partition for every way to be preempted, and `high` to do it.

    `parameters` are SlurmctldParameters: most sites do not send the user's signal at a preemption.
    """

    def __init__(self, root: Path, parameters: str = "enable_configless") -> None:
        self.root, self.parameters = root, parameters
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "FACEGAN_"))},
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "SLURM_CONF": str(root / "slurm.conf"),
        }

    def start(self) -> None:
        self._configure()
        self._start_munge()
        self._daemon("slurmctld", "-f", self.env["SLURM_CONF"])
        wait_for(lambda: self.call("scontrol", "ping").returncode == 0, 20, "slurmctld answers")
        for node in NODES:
            self.start_node(node)
        wait_for(self._nodes_up, 30, "all nodes are up")

    def stop(self) -> None:
        """End every job, then every daemon, by the ids of the processes that were started here."""
        for node in NODES:
            self.start_node(node)  # a node that was killed has to clean up its own steps
        self.call("scancel", "-u", "root", "-Q")
        # a failed wait is no reason to leave daemons behind
        deadline = time.monotonic() + 40
        while self.call("squeue", "-h").stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.2)
        for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munged"):
            self._kill(name, signal.SIGTERM)

    def start_node(self, node: str) -> None:
        if not self._pid(f"slurmd-{node}"):
            self._daemon("slurmd", "-f", self.env["SLURM_CONF"], "-N", node)

    def kill_node(self, node: str) -> None:
        """SIGKILL for a node's slurmd: what the controller sees when a machine dies."""
        self._kill(f"slurmd-{node}", signal.SIGKILL)

    def call(self, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env={**self.env, **extra}, capture_output=True, text=True, timeout=60, check=False
        )

    def state(self, job: str) -> str:
        """Slurm's word for the state of a job or an array element, '' when it does not know it."""
        lines = self.call("squeue", "-h", "-t", "all", "-r", "-o", "%i %T").stdout.splitlines()
        return dict(line.split() for line in lines).get(job, "")

    def _configure(self) -> None:
        self.root.chmod(0o755)  # munge wants a path that everybody may walk
        for name in ("state", "munge", *(f"spool/{node}" for node in NODES)):
            (self.root / name).mkdir(parents=True, mode=0o755)
        (self.root / "munge").chmod(0o700)
        ports = _free_ports(1 + len(NODES))
        config = CONFIG.format(
            root=self.root,
            host=socket.gethostname().split(".")[0],
            port=ports,
            parameters=self.parameters,
            node_ports=f"{ports + 1}-{ports + len(NODES)}",
        )
        (self.root / "slurm.conf").write_text(config)
        (self.root / "gres.conf").write_text(GRES)
        (self.root / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (self.root / "munge/key").write_bytes(os.urandom(128))
        (self.root / "munge/key").chmod(0o600)

    def _start_munge(self) -> None:
        files = {"key-file": "munge/key", "socket": "munge.sock", "pid-file": "munged.pid"}
        files |= {"log-file": "munge/munged.log", "seed-file": "munge/seed"}
        self._daemon("munged", *(f"--{name}={self.root / path}" for name, path in files.items()))
        wait_for(lambda: (self.root / "munge.sock").exists(), 10, "munge answers")

    def _daemon(self, *command: str) -> None:
        log = self.root / f"{command[0]}.err"
        with log.open("ab") as err:
            subprocess.run(
                command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                start_new_session=True,
                cwd=self.root,
                timeout=30,
                check=True,
            )

    def _nodes_up(self) -> bool:
        states = self.call("sinfo", "-h", "-N", "-o", "%N %T").stdout.splitlines()
        return set(states) == {f"{node} idle" for node in NODES}

    def _pid(self, name: str) -> int | None:
        """The live process of a pid file, if it is still the one that was started here."""
        try:
            pid = int((self.root / f"{name}.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self.root).encode() in command else None

    def _kill(self, name: str, number: signal.Signals) -> None:
        pid = self._pid(name)
        if pid is None:
            return
        os.kill(pid, number)
        try:
            wait_for(lambda: self._pid(name) is None, 15, f"{name} ends")
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


def _free_ports(count: int) -> int:
    """The first of `count` neighbouring free ports, below those of rendezvous (20000) and the ephemeral ones."""
    for base in range(17000 + os.getpid() % 2000, 20000, count):
        if all(_is_free(base + i) for i in range(count)):
            return base
    raise OSError("no free ports between 17000 and 20000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
