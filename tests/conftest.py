"""How the tests are spread over processes (make test): those on the node take turns, the others run beside them."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, Scheduling


class NodeBesideFiles(LoadFileScheduling):  # type: ignore[misc]
    """Tests of one file share a process, and all tests on the node do: one node serves them."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "e2e" if file.startswith("tests/e2e/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Take the place of pytest-xdist's own `--dist loadfile`."""
    return NodeBesideFiles(config, log) if config.getvalue("dist") == "loadfile" else None
