"""The embedded Kubernetes node: a real kubeadm cluster on this machine, in its own network, mount and PID namespaces.

    from stacks.node.lifecycle import ensure, health, remove, stop
    from stacks.node.spec import NodeSpec

How it is built and taken away: docs/node.md.
"""
