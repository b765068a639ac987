"""Commands of a site in odd surroundings: proxies, an interrupt, a torn state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sovereign.resources import data_path
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
    command = [SOVEREIGN, "preview", site.root]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        while "starting" not in process.stderr.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
    told = [line for line in rest.splitlines() if not line.startswith("cluster: ")]
    assert (process.returncode, told) == (130, ["stopped; run the same command to resume"])
