"""The Pulumi engine over a site's state: its settings, what a killed command left behind, its events and errors.

One project, `sovereign`, with the stacks cluster, datalake and serving; everything lies in the site's folder `state`:
Pulumi.yaml, Pulumi.<stack>.yaml and the file backend `.pulumi`. Callers hold the site's lock.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pulumi import automation as auto
from pulumi.automation.errors import CommandError
from semver import VersionInfo

from sovereign.errors import DeployError, LockedError, ToolError
from sovereign.files import write_atomic
from sovereign.proxies import set_aside
from sovereign.resources import cache_dir
from sovereign.site import Site
from sovereign.tools import load_tools
from stacks.fields import Identity
from stacks.identity import ADOPT_VARIABLE, DECLARED_VARIABLE, write_declared
from stacks.state import PROJECT, locks_dir, read_state, repair_state

PLUGIN = "pulumi-resource-sovereign"
MARK = "SOVEREIGN_SITE"
"""Variable in the environment of our engines, by which one that outlived its command is known."""
PARALLEL = 16
_END_S = 20.0

Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
Report = Callable[[str, str, int, int], None]
"""Called with stack, message, objects done, objects in all."""


@dataclass
class Events:
    """Follows one operation: progress for people, what changed, what failed."""

    stack: str
    total: int
    report: Report
    done: int = 0
    errors: list[str] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)
    """Number of managed objects by operation."""
    steps: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    """Operation, object and changed fields, of all that is not the same."""
    warnings: list[str] = field(default_factory=list)
    """What stays as it is although the profile wants it otherwise."""
    arrivals: frozenset[str] = frozenset()
    """Names of objects that another stack had until now: to the engine they are new."""

    def __call__(self, event: Any) -> None:
        """Take one engine event."""
        if event.resource_pre_event:
            self._step(event.resource_pre_event.metadata)
        elif event.res_outputs_event and _is_managed(event.res_outputs_event.metadata):
            self.done += 1
            metadata = event.res_outputs_event.metadata
            verb = {"create": "made", "update": "changed", "delete": "removed"}.get(_text(metadata.op), "")
            self.report(self.stack, f"{verb} {_name(metadata.urn)}".strip(), min(self.done, self.total), self.total)
        elif event.diagnostic_event:
            self._message(event.diagnostic_event)

    def _step(self, metadata: Any) -> None:
        if _is_managed(metadata):
            operation, name = _text(metadata.op), _name(metadata.urn)
            if operation == "create" and name in self.arrivals:
                operation = "move"
            self.changes[operation] += 1
            if operation != "same":
                self.steps.append((operation, name, tuple(metadata.detailed_diff or ())))

    def _message(self, event: Any) -> None:
        text = event.message.replace("<{%reset%}>", "").strip()
        owner = _name(event.urn) if event.urn else ""
        if event.severity == "error" and text:
            if not text.startswith(("update failed", "preview failed", "destroy failed")):
                self.errors.append(f"{owner}: {text}" if owner else text)
        elif text and event.severity in ("info", "warning"):
            if event.severity == "warning" and text not in self.warnings:
                self.warnings.append(text)
            self.report(self.stack, f"{owner}: {text}" if owner else text, min(self.done, self.total), self.total)


def _is_managed(metadata: Any) -> bool:
    return str(metadata.type) in ("sovereign:index:Manifest", "sovereign:index:Node")


def _text(operation: Any) -> str:
    return str(getattr(operation, "value", operation))


def _name(urn: str) -> str:
    return urn.rpartition("::")[2]


class _Command(auto.PulumiCommand):
    """The engine's program wherever it lies; its version was checked when it was found."""

    def __init__(self, program: Path) -> None:
        self.command = str(program)
        self.version = VersionInfo.parse(load_tools()["pulumi"].version)


class Engine:
    """The engine over one site's state.

    Args:
        site: the site; its lock is held.
        pulumi: the program.
        report: called with what was found amiss.
        adopt: whether a deploy may take over objects of another site.

    Raises:
        ToolError: our provider plugin is not beside this Python and not on PATH.
    """

    def __init__(self, site: Site, pulumi: Path, report: Report = lambda *_: None, *, adopt: bool = False) -> None:
        set_aside()  # the SDK's gRPC reads the environment of this process
        self.site = site
        self.report = report
        self.environment = environment(site, pulumi) | ({ADOPT_VARIABLE: "1"} if adopt else {})
        self._command = _Command(pulumi)
        site.state_dir.mkdir(parents=True, exist_ok=True)
        settings = {
            "name": PROJECT,
            "runtime": "python",
            "description": "Stacks of a sovereign site; the programs are part of the kit, see docs/stacks.md",
            "backend": {"url": site.state_dir.as_uri()},
            "plugins": {"providers": [{"name": "sovereign", "path": str(_plugin_folder())}]},
        }
        write_atomic(site.state_dir / "Pulumi.yaml", yaml.safe_dump(settings, sort_keys=False))
        self.clear_remains()

    def declare(self, identities: Iterable[Identity]) -> None:
        """Tell the provider of the coming operations what the site declares: it deletes none of that."""
        path = self.site.state_dir / "declared.json"
        write_atomic(path, write_declared(identities))
        self.environment[DECLARED_VARIABLE] = str(path)

    def stack(self, name: str, program: Callable[[], None] | None = None, *, adopt: bool = False) -> auto.Stack:
        """The stack `name`, made when it is not there, free of pending operations.

        Operations that were cut off are forgotten, since all of ours can be done again and a create takes over what is
        there; with `adopt` half-made objects are put into the state, so that a removal finds them.

        Raises:
            DeployError: Pulumi refuses.
        """
        options = auto.LocalWorkspaceOptions(
            work_dir=str(self.site.state_dir),
            env_vars=self.environment,
            secrets_provider="passphrase",
            pulumi_command=self._command,
        )
        if repair_state(self.site, name):
            self.report(name, "the state was damaged: continuing from its last copy", 0, 1)
        try:
            stack = auto.create_or_select_stack(name, PROJECT, program=program or _nothing, opts=options)
            if read_state(self.site, name).pending:
                self.edit(stack, lambda resources: resources, adopt=adopt)
        except CommandError as error:
            raise DeployError(f"the state of stack {name} cannot be used", got=_last_lines(str(error))) from error
        return stack

    def edit(self, stack: auto.Stack, change: Change, *, adopt: bool = False) -> None:
        """Replace the resources in the state by what `change` makes of them; forget or `adopt` pending ones."""
        exported = stack.export_stack()
        deployment = dict(exported.deployment or {})
        pending = deployment.pop("pending_operations", None) or []
        resources = list(deployment.get("resources") or [])
        if adopt:
            known = {resource["urn"] for resource in resources}
            resources += [
                _half_made(operation["resource"])
                for operation in pending
                if operation["type"] == "creating" and operation["resource"]["urn"] not in known
            ]
        deployment["resources"] = change(resources)
        exported.deployment = deployment
        stack.import_stack(exported)

    def clear_remains(self) -> None:
        """End engines of killed commands and remove the locks of dead processes.

        Raises:
            LockedError: somebody uses the state with the ordinary `pulumi` command.
        """
        orphans = list(_orphans(self.site))
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _END_S
        while any(True for _ in _orphans(self.site)):
            if time.monotonic() > deadline:
                raise LockedError("processes of a killed command do not end", got=orphans)
            time.sleep(0.1)
        for path in locks_dir(self.site).rglob("*.json"):
            try:
                holder = json.loads(path.read_bytes())
                pid = int(holder["pid"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise LockedError(
                    f"the lock {path} of the Pulumi state cannot be read",
                    got=error,
                    hint="remove it when no `pulumi` command runs on this site",
                ) from error
            if holder.get("hostname") == os.uname().nodename and not _is_pulumi(pid):
                path.unlink(missing_ok=True)
            else:
                raise LockedError(
                    "the Pulumi state is in use",
                    got=f"process {pid} of {holder.get('username')} on {holder.get('hostname')}",
                    hint="wait for it to end, or see docs/stacks.md on removing a lock",
                )
        for path in locks_dir(self.site).rglob("*.json.attrs"):  # the file backend's own, left beside a lock
            if not path.with_suffix("").exists():
                path.unlink(missing_ok=True)


def _half_made(resource: dict[str, Any]) -> dict[str, Any]:
    """What a cut off create recorded, as a resource: our providers delete by the inputs alone."""
    return {**resource, "id": "half-made", "outputs": resource.get("inputs", {})}


def environment(site: Site, pulumi: Path) -> dict[str, str]:
    """Variables for the ordinary `pulumi` command on the site's state; docs/stacks.md names them."""
    path = [str(_plugin_folder()), str(pulumi.parent), os.environ.get("PATH", "")]
    return {
        "PATH": os.pathsep.join(path),
        "PULUMI_BACKEND_URL": site.state_dir.as_uri(),  # Pulumi decodes it
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(site.passphrase_file),
        "PULUMI_HOME": str(_home()),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS": "true",
        "PULUMI_OPTION_NON_INTERACTIVE": "true",
        "NO_COLOR": "1",
        MARK: str(site.root),
    }


def _home() -> Path:
    """The engine's own folder, with a file in place of its folder of logs.

    The engine logs every property of every call there: gigabytes in a day, and with objects as large as Kueue's three
    quarters of its time. Where it cannot make the folder it goes on without.
    """
    home = cache_dir() / "pulumi"
    if not (home / "logs").is_file():
        shutil.rmtree(home / "logs", ignore_errors=True)
        write_atomic(home / "logs", "A file, so that pulumi writes no logs here; see stacks/engine.py.\n")
    return home


def run(stack: auto.Stack, operation: str, events: Events, **options: Any) -> Any:
    """Run `up`, `preview` or `destroy` of `stack`, reporting to `events`.

    Raises:
        DeployError: it failed; the message has the object and the reason, not the engine's pages.
    """
    call = getattr(stack, operation)
    try:
        return call(on_event=events, on_output=_ignore, on_error=_ignore, parallel=PARALLEL, color="never", **options)
    except CommandError as error:
        reasons = events.errors or [_last_lines(str(error))]
        raise DeployError(
            f"{operation} of stack {stack.name} failed:\n  " + "\n  ".join(dict.fromkeys(reasons)),
            hint="what was made stays; the same command goes on from there",
        ) from error


def _plugin_folder() -> Path:
    folder = Path(sys.prefix) / "bin"
    if (folder / PLUGIN).is_file():
        return folder
    found = shutil.which(PLUGIN)
    if found is None:
        raise ToolError(f"{PLUGIN} is not there", expected=folder / PLUGIN, hint="reinstall the kit (make setup)")
    return Path(found).parent


def _orphans(site: Site) -> Iterator[int]:
    """Processes of Pulumi that a command of this site started; the caller's own come later, as it holds the lock."""
    mark = f"{MARK}={site.root}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (command := _command(folder)):
            programs = {Path(part).name for part in command[:2]}
            if programs & {"pulumi", PLUGIN}:
                try:
                    if mark in (folder / "environ").read_bytes().split(b"\0"):
                        yield int(folder.name)
                except OSError:
                    continue


def _command(folder: Path) -> list[str]:
    try:
        return (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _is_pulumi(pid: int) -> bool:
    command = _command(Path("/proc") / str(pid))
    return bool(command) and Path(command[0]).name == "pulumi"


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(" code:")]
    return "\n  ".join(lines[-6:])


def _ignore(_: str) -> None:
    """Swallow the engine's pages; events say the same."""


def _nothing() -> None:
    """The program of operations that need none."""
