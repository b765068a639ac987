"""Fixtures of the tests on a real node."""

from __future__ import annotations

from tests.e2e.node_fixture import cluster

__all__ = ["cluster"]
