"""A site of profile `ci` on a node of its own, made and removed by the command line as a user would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign.resources import data_path
from sovereign.site import Site
from stacks.kube import Cluster
from stacks.node import processes
from tests.e2e.node_fixture import free_spec, mounts_but_of_other_tests, remove_remains_of_dead_sessions

SOVEREIGN = Path(sys.prefix) / "bin" / "sovereign"


@dataclass(frozen=True)
class LiveSite:
    """A site whose platform runs."""

    site: Site

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.site.node_dir / "admin.conf")

    def edit(self, **sections: dict[str, Any]) -> None:
        """Change keys of sections of the site's profile, or add sections."""
        document = yaml.safe_load(self.site.profile_path.read_text())
        for section, values in sections.items():
            document[section] = document.get(section, {}) | values
        self.site.profile_path.write_text(yaml.safe_dump(document, sort_keys=False))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command of the kit, started; `COMMAND SITE OPTIONS`, where a command of a group is one argument too."""
        command, *options = arguments
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PULUMI", "KUBE"))}
        return subprocess.Popen(
            [SOVEREIGN, *command.split(), str(self.site.root), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Standard output of a command that must end with `code`."""
        return self._end(arguments, code)[0]

    def refused(self, *arguments: str) -> str:
        """What a command that must end with exit code 1 says of it, in one line."""
        return " ".join(self._end(arguments, 1)[1].split())

    def _end(self, arguments: tuple[str, ...], code: int) -> tuple[str, str]:
        with self.start(*arguments) as process:
            output, errors = process.communicate()
        assert process.returncode == code, f"{arguments}: exit code {process.returncode}\n{errors[-4000:]}"
        return output, errors

    def up(self) -> dict[str, Any]:
        """The summary of `sovereign up`."""
        output = self.run("up", "--json")
        summary: dict[str, Any] = json.loads(output[output.index("\n{") :])
        return summary


def traces(instance: str, root: Path) -> dict[str, list[str]]:
    """What a removed site in `root` must not have changed; other instances, which come and go, are left out."""
    others = re.compile(rf"\bsov(ereign)?-(?!{instance}\b)")

    def lines(*command: str) -> list[str]:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return sorted(line for line in output.splitlines() if not others.search(line))

    mounts = sorted(str(mount.path) for mount in mounts_but_of_other_tests(root))
    groups = sorted(str(path) for path in Path("/sys/fs/cgroup").glob(f"*/*sovereign-{instance}"))
    folders = ["/etc/cni/net.d", f"/run/sovereign/{instance}"]
    if not processes.supervisors():  # the last node takes its mount points with it
        folders += ["/etc/kubernetes", "/var/lib/kubelet", "/var/lib/cni"]
    return {
        "mounts": mounts,
        "cgroups": groups,
        "interfaces": lines("ip", "-brief", "link"),
        "routes": lines("ip", "route"),
        "namespaces": lines("ip", "netns"),
        "rules": lines("nft", "list", "ruleset"),
        "folders": [folder for folder in folders if Path(folder).exists()],
    }


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    """A site; its commands make the cluster. At the end it is removed, and the machine must be as it was."""
    assert os.geteuid() == 0, "the e2e tests need root"
    remove_remains_of_dead_sessions()
    root = tmp_path_factory.mktemp("way") / "site"
    ranges = free_spec("u", root)
    before = traces(ranges.instance, root)
    document = yaml.safe_load((data_path("templates") / "profiles" / "ci.yaml").read_text())
    cidrs = {name: getattr(ranges, name) for name in ("pod_cidr", "service_cidr", "link_cidr")}
    document["target"] = {"kind": "embedded", "instance": ranges.instance, **cidrs}
    profile = root.parent / "ci.yaml"
    profile.write_text(yaml.safe_dump(document, sort_keys=False))
    subprocess.run([SOVEREIGN, "init", str(root), "--profile", str(profile)], check=True)
    live = LiveSite(Site(root))
    try:
        yield live
    finally:
        live.run("destroy", "--delete-data")
    assert traces(ranges.instance, root) == before
    assert not (root / "node" / "volumes" / "objects").exists()
