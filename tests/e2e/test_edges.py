"""Commands of a site in odd surroundings: proxies, an interrupt, a torn state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovereign import strict_yaml
from sovereign.resources import cache_dir, data_path
from sovereign.site import Site, init_site
from tests.sovereign.test_proxies import Proxy, proxy

SOVEREIGN = Path(sys.prefix) / "bin" / "sovereign"
__all__ = ["proxy"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return init_site(tmp_path / "site", data_path("templates") / "profiles" / "ci.yaml")


def test_k5_preview_works_with_proxies_in_the_environment(site: Site, proxy: Proxy) -> None:
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy")
    environment = os.environ | dict.fromkeys(names, f"http://127.0.0.1:{proxy.server_port}")
    done = subprocess.run([SOVEREIGN, "preview", site.root], env=environment, capture_output=True, text=True)
    assert (done.returncode, proxy.requests) == (0, []), done.stderr
    assert "Deployment/lake/mlflow" in done.stdout


def test_k8_an_interrupt_is_one_line(site: Site) -> None:
    """A terminal sends SIGINT to the command, its plugin and the engine alike."""
    command = [str(SOVEREIGN), "preview", str(site.root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        while "starting" not in process.stderr.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
    told = [line for line in rest.splitlines() if not line.startswith("cluster: ")]
    assert (process.returncode, told) == (130, ["stopped; run the same command to resume"])


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("command", ["deploy", "up"])
def test_k10_what_stands_in_the_way_is_said_before_anything_is_built(open_folder: Path, command: str) -> None:
    """Without root, without programs in the cache and without Go: the first of them is what counts."""
    site = init_site(open_folder / "site", data_path("templates") / "profiles" / "ci.yaml")
    keep = "-all,+dac_override"  # the runtime may be in root's own folder
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    user += [f"--inh-caps={keep}", f"--ambient-caps={keep}"]
    done = subprocess.run(
        [*user, SOVEREIGN, command, site.root],
        env={"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(open_folder / "cache"), "HOME": str(open_folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "root: uid 65534 (fix: run as root" in done.stderr
    assert "Go is needed" not in done.stderr and "tools:" not in done.stderr


def test_k12_a_kubeconfig_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    document = strict_yaml.load((data_path("templates") / "profiles" / "site.yaml").read_text())
    document["target"] = {"kind": "kubeconfig", "path": "~/nowhere/config", "context": "c", "image": "i"}
    profile = tmp_path / "site.yaml"
    profile.write_text(json.dumps(document))
    made = init_site(tmp_path / "site", profile)
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(cache_dir().parent)}
    for command in ("deploy", "preview"):
        done = subprocess.run([SOVEREIGN, command, made.root], env=environment, capture_output=True, text=True)
        assert done.returncode == 1, command
        assert f"no kubeconfig at {tmp_path}/nowhere/config" in done.stderr, done.stderr
        assert "target.path" in done.stderr and "deployed?" not in done.stderr
