"""Starts the ranks of stage `train` on one machine, one for each GPU, or takes the place of one among Slurm's.

    python -m training.launch local --ranks N [--grace-s S] -- STAGE ARGUMENTS
    python -m training.launch pod --ranks N --pods M --pod I --address HOST --port P [--grace-s S] -- STAGE ARGUMENTS
    python -m training.launch slurm -- STAGE ARGUMENTS

STAGE ARGUMENTS are those of `python -m sovereign.stages`; under Slurm without --workdir, which is on the machine's own
disk. torchrun's agent starts the ranks and stops them all when one ends; unlike torchrun this process then ends with
the exit code of the rank that failed first, so that a Job can tell a program's own error from a lost peer
(docs/training.md, Launching). Pod I has the ranks from I times N on: rank 0, which reports, is in pod 0. Under Slurm,
which starts one process for each rank itself, only the rendezvous is set.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from sovereign.errors import PeerLostError, TrainingError
from sovereign.proxies import set_aside
from training.environment import RENDEZVOUS

_SLURM_PORTS = range(20_000, 30_000)
"""One of them for each Slurm job, below those that the kernel gives out by itself."""


def run_agent(
    command: Sequence[str],
    *,
    ranks: int,
    pods: int = 1,
    pod: int = 0,
    address: str = "127.0.0.1",
    port: int = 0,
    grace_s: int = 30,
) -> int:
    """Run `ranks` processes of this machine; the exit code of the one that failed first, or 0.

    Args:
        command: arguments of Python.
        pods: machines; `pod` is this one's number, from 0.
        address: where pod 0 is; `port` there is for the rendezvous, 0 takes a free one (on one machine).
        grace_s: how long the ranks have to end after SIGTERM, seconds.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    alone = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    fixed = {"rdzv_backend": "static", "rdzv_endpoint": f"{address}:{port}", "rdzv_configs": {"rank": pod}}
    config = LaunchConfig(
        min_nodes=pods,
        max_nodes=pods,
        nproc_per_node=ranks,
        run_id="train",
        max_restarts=0,  # the Job makes pods again, and knows which errors are worth it
        shutdown_timeout=grace_s,
        **(fixed if port else alone),
    )
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        sys.stderr.write(f"rank {failure.local_rank} of this machine ended with exit code {failure.exitcode}\n")
        return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    except (DistError, RendezvousError) as error:
        sys.stderr.write(f"error: the other machines cannot be reached: {error}\n")
        return PeerLostError.exit_code
    return 0


def set_slurm_rendezvous(environment: MutableMapping[str, str]) -> None:
    """Set the rendezvous variables of this process from those that Slurm's srun has set.

    Rank 0 is on the first machine of the job, where the batch script runs and srun is started.

    Raises:
        TrainingError: srun did not start this process.
    """
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_LAUNCH_NODE_IPADDR", "SLURM_JOB_ID")
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise TrainingError(
            "this process was not started by Slurm's srun", got=f"no {', '.join(missing)}", hint="sbatch the script"
        )
    rank, world_size, local_rank, address, job = (environment[name] for name in names)
    port = str(_SLURM_PORTS[int(job) % len(_SLURM_PORTS)])
    environment.update(zip(RENDEZVOUS, (rank, world_size, local_rank, address, port), strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """The launcher's process; the exit code of what it launched."""
    set_aside()
    parser = argparse.ArgumentParser(prog="python -m training.launch", description="Start training's ranks.")
    parser.add_argument("where", choices=("local", "pod", "slurm"))
    for name in ("ranks", "pods", "pod", "port", "grace-s"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--address")
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    options = {key: value for key, value in vars(parser.parse_args(given[:split])).items() if value is not None}
    where, stage = options.pop("where"), given[split + 1 :]
    if where != "slurm":
        return run_agent(["-m", "sovereign.stages", *stage], **options)
    set_slurm_rendezvous(os.environ)
    from sovereign.stages import main as run_stage

    workdir = Path(tempfile.gettempdir()) / f"sovereign-{os.environ['SLURM_JOB_ID']}"
    return run_stage([*stage, "--workdir", str(workdir)])


if __name__ == "__main__":
    sys.exit(main())
