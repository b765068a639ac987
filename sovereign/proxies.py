"""Proxies of the environment: for downloads from the internet only.

Everything else that the kit connects to is on this machine or inside the site: the Pulumi engine, the API server, the
object store, MLflow. Libraries differ in which variables and which `no_proxy` they honour (gRPC sends even loopback
through `http_proxy`), so the variables are taken out of the environment when a process starts, and given to downloads.
"""

from __future__ import annotations

import os

_SCHEMES = ("http", "https", "all", "grpc", "ftp", "socks", "socks5")
_NAMES = frozenset(f"{scheme}_proxy" for scheme in _SCHEMES)
_set_aside: dict[str, str] = {}


def set_aside() -> None:
    """Take the proxies out of this process's environment, and so out of that of the processes it starts."""
    for name in [name for name in os.environ if name.lower() in _NAMES]:
        _set_aside[name] = os.environ.pop(name)


def download_environment() -> dict[str, str]:
    """The environment for a program that downloads from the internet: this process's, with the proxies."""
    return {**os.environ, **_set_aside}
