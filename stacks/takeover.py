"""What may be taken over: rules on a live object, for the check before a deploy and for the provider."""

from __future__ import annotations

from sovereign.errors import ClusterError
from stacks.additions import FIELD_MANAGER
from stacks.fields import Object, ObjectRef
from stacks.identity import Owner


def is_ours_by_manager(live: Object) -> bool:
    """Whether this kit has written the object."""
    return FIELD_MANAGER in {entry.get("manager") for entry in live["metadata"].get("managedFields") or []}


def refuse_unmanaged(live: Object) -> None:
    """Refuse to take over an object that this kit has not made.

    Raises:
        ClusterError: always.
    """
    ref = ObjectRef.of(live)
    managers = {str(entry.get("manager")) for entry in live["metadata"].get("managedFields") or []}
    raise ClusterError(
        f"{ref} exists already and was not made by this kit",
        got=f"managed by {', '.join(sorted(managers)) or 'nobody'}",
        hint=f"delete it, give yours another name, or take it over: pulumi import, with the ID {ref.id}",
    )


def foreign_site(live: Object, manifest: Object) -> bool:
    """Whether `live` belongs to another site than the one that `manifest` records."""
    return Owner.of(live).site not in (None, Owner.of(manifest).site)


def refuse_site(live: Object) -> None:
    """Refuse to change an object of another site.

    Raises:
        ClusterError: always.
    """
    raise ClusterError(
        f"{ObjectRef.of(live)} belongs to another site, {Owner.of(live).site}",
        hint="use another cluster, destroy that site first, or take its objects over with --adopt",
    )
