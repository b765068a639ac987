"""A systemd unit around a node's supervisor, for machines that are to start the node by themselves after a reboot.

    python -m stacks.node.unit render STATE_DIR > /etc/systemd/system/sovereign-node-NAME.service

Not needed otherwise: `ensure` starts the supervisor itself. Its commands are tested, systemd itself is not, as the
machines that the kit is tested on run none. `attach` makes the network link, `stop` is an orderly end.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from sovereign.errors import NodeError
from stacks.node import config, network, processes
from stacks.node.children import tail
from stacks.node.spec import NodeSpec

_LINK_S = 10.0


def render(spec: NodeSpec) -> str:
    """Text of the unit for a node that `ensure` has made."""
    unshare, *arguments = processes.command(spec)
    start = [shutil.which(unshare, path=config.SYSTEM_PATH) or f"/usr/bin/{unshare}", *arguments]
    own = [sys.executable, "-S", "-m", "stacks.node.unit"]
    lines = [
        "[Unit]",
        f"Description=Embedded Kubernetes node {spec.instance}",
        f"RequiresMountsFor={spec.state_dir}",
        "",
        "[Service]",
        "Type=exec",
        *(f'Environment="{name}={value}"' for name, value in processes.environment().items()),
        f"ExecStart={' '.join(start)}",
        f"ExecStartPost={' '.join([*own, 'attach', str(spec.state_dir)])}",
        f"ExecStop={' '.join([*own, 'stop', str(spec.state_dir)])}",
        "Restart=on-failure",
        # The supervisor makes cgroups of its own, beside the unit's.
        "Delegate=yes",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines).replace("%", "%%") + "\n"


def attach(spec: NodeSpec) -> None:
    """Wait for the supervisor, then make this machine's side of the link.

    Raises:
        NodeError: it did not start, or the link cannot be made.
    """
    deadline = time.monotonic() + _LINK_S
    while (supervisor := processes.find(spec.state_dir)) is None:
        if time.monotonic() > deadline:
            raise NodeError("The node's supervisor did not start.", got=tail(spec.log_dir / "supervisor.log"))
        time.sleep(0.02)
    network.attach(spec, supervisor.pid)


def main(arguments: list[str]) -> int:
    """Raises: NodeError: there is no node in the folder, or the action failed."""
    action, folder = arguments
    spec = NodeSpec.load(Path(folder))
    if spec is None:
        raise NodeError(f"There is no node in {folder}.")
    if action == "render":
        sys.stdout.write(render(spec))
    elif action == "attach":
        attach(spec)
    elif supervisor := processes.find(spec.state_dir):
        processes.end(supervisor, gracefully=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
