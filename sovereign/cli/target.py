"""The site's cluster as commands use it: its API, the lake, the job runner, addresses that this machine can reach."""

from __future__ import annotations

import functools
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sovereign.cli.console import say
from sovereign.errors import ClusterError, ProfileError
from sovereign.job_inputs import store_inputs
from sovereign.jobs import JobRunner, job_name
from sovereign.profile import STDLIB, EmbeddedTarget
from sovereign.render import Object, render_template
from sovereign.site import Site
from sovereign.store import S3Store
from sovereign.workload import PORTS, S3_ACCESS_KEY, job_context, stage_folders

if TYPE_CHECKING:
    from stacks.kube import Cluster

_LISTENING_S = 180.0
"""How long a service that is deployed may not listen: MLflow needs half a minute on a busy machine."""


@dataclass(frozen=True)
class OpenTarget:
    """A cluster that a command works with."""

    site: Site
    cluster: Cluster
    store: S3Store

    @functools.cached_property
    def runner(self) -> JobRunner:
        """Runs the site's stages as Jobs.

        Raises:
            PlanError: see `sovereign.plan.plan`.
        """
        return JobRunner(self.cluster, self.site.profile, self.store, self._render_job)

    def _render_job(self, stage: str, key: str) -> list[Object]:
        from stacks.resolve import pod_runtime

        profile = self.runner.profile
        runtime = pod_runtime(self.site, profile)
        own = {Path(path)} if (path := profile.corpus.rights.opt_outs.file) else set()
        if runtime.mode == "image" and (folders := [each for each in stage_folders(profile, stage) if each not in own]):
            raise ProfileError(
                "pods of an existing cluster do not see folders of this machine",
                got=", ".join(map(str, folders)),
                hint=f"put the files of a source into the site's store (s3://…); databases, {STDLIB} and the "
                "demonstration country work there too",
            )
        context = job_context(
            profile,
            self.runner.plan,
            runtime,
            name=job_name(profile.name, stage),
            stage=stage,
            key=key,
            inputs=store_inputs(self.store, profile, self.site.resolved_profile(), sees_files=runtime.mode == "host"),
        )
        return render_template("training/job", context, [self.site.overlays_dir])

    def registry(self) -> AbstractContextManager[str]:
        """Address of MLflow as seen from this machine."""
        return self.endpoint("lake", "mlflow", PORTS["mlflow"])

    @contextmanager
    def endpoint(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """Address of a service as seen from this machine."""
        with _endpoint(self.site, self.cluster, namespace, service, port) as url:
            yield url


@contextmanager
def open_target(site: Site) -> Iterator[OpenTarget]:
    """Open the cluster that the site's profile names.

    Raises:
        ClusterError: it cannot be reached, or nothing is deployed there.
    """
    from stacks.resolve import connect, s3_secret_key

    profile = site.profile
    cluster = connect(site, profile, lambda text: say(f"node: {text}"))
    with ExitStack() as stack:
        stack.callback(cluster.close)
        endpoint = stack.enter_context(_endpoint(site, cluster, "lake", "s3", PORTS["s3"]))
        store = S3Store.connect(endpoint, S3_ACCESS_KEY, s3_secret_key(site))
        yield OpenTarget(site, cluster, store)


@contextmanager
def _endpoint(site: Site, cluster: Cluster, namespace: str, service: str, port: int) -> Iterator[str]:
    """The service's own address on the embedded node, whose services this machine can reach; else a port-forward."""
    metadata = {"name": service, "namespace": namespace}
    live = cluster.get({"apiVersion": "v1", "kind": "Service", "metadata": metadata})
    if live is None:
        raise ClusterError(f"service {namespace}/{service} is not there", hint=f"sovereign deploy {site.root}")
    target = site.profile.target
    if isinstance(target, EmbeddedTarget):
        _wait_until_listening(live["spec"]["clusterIP"], port, f"{namespace}/{service}")
        yield f"http://{live['spec']['clusterIP']}:{port}"
        return
    from sovereign.tools import find_tool

    command = [str(find_tool("kubectl")), "--kubeconfig", str(target.path), "--context", target.context]
    command += ["port-forward", "--namespace", namespace, f"service/{service}", f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # "Forwarding from 127.0.0.1:40421 -> 7070"
            address = line.removeprefix("Forwarding from ").split(" ")[0]
            if not line.startswith("Forwarding from "):
                raise ClusterError(f"no way to service {namespace}/{service}", got=line.strip())
            yield f"http://{address}"
        finally:
            process.terminate()


def _wait_until_listening(host: str, port: int, name: str) -> None:
    """Wait for the service's pod, which may be starting again after a reboot or a kill.

    Raises:
        ClusterError: nothing listened for `_LISTENING_S`.
    """
    deadline = time.monotonic() + _LISTENING_S
    told = False
    while True:
        try:
            socket.create_connection((host, port), 2).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"service {name} does not answer", got=str(error), hint="`sovereign status` says what is wrong"
                ) from error
        if not told:
            say(f"waiting for service {name}")
            told = True
        time.sleep(0.5)
