"""Fixtures of the tests on real nodes: one bare for the node's and the provider's tests, one of a site for the rest.

They are two since the node's tests stop it, change its mounts and make it anew; a bare node costs a tenth of a core.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sovereign.tools import find_tool
from tests.e2e.node_fixture import cluster, kube, namespace, others
from tests.e2e.site_fixture import live

__all__ = ["cluster", "kube", "live", "namespace", "others"]


@pytest.fixture(scope="session")
def pulumi_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which the engine and our plugin are found and the user's ~/.pulumi is not touched."""
    folders = [Path(sys.prefix) / "bin", find_tool("pulumi").parent]
    return {
        "PATH": os.pathsep.join([*map(str, folders), os.environ["PATH"]]),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_HOME": str(tmp_path_factory.mktemp("pulumi-home")),
    }
