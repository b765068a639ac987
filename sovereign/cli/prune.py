"""`sovereign prune`: delete files of registered models that no version of the registry names any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from sovereign.cli.console import lines, say, write_json
from sovereign.runner import tracking_uri
from sovereign.site import Site
from sovereign.store import Store, open_store


def run_prune(site: Site, *, delete: bool, local: bool, as_json: bool) -> None:
    """List them, or delete them. What the serving stack was deployed with and the site's base are kept.

    Raises:
        TrainingError: the registry cannot be read.
        LockedError: another command works on the site.
    """
    from training.prune import delete_all, find_unnamed

    with site.lock("prune"), _lake(site, local=local) as (store, registry):
        found = find_unnamed(store, registry, site.profile.name, _kept(site))
        if delete:
            delete_all(store, found)
    if as_json:
        write_json({"deleted": delete, "models": [asdict(model) for model in found]})
        return
    verb = "deleted" if delete else "would be deleted"
    rows = [(model.digest[:12], f"{len(model.keys)} files, {model.num_bytes:,} bytes") for model in found]
    lines(f"{len(found)} models that no version names, {verb}", rows)
    if found and not delete:
        say("nothing was deleted; `--delete` deletes them")


@contextmanager
def _lake(site: Site, *, local: bool) -> Iterator[tuple[Store, str]]:
    """The site's store and MLflow's address."""
    if local:
        yield open_store(f"file://{site.data_dir}"), tracking_uri(site.data_dir)
        return
    from sovereign.cli.target import open_target

    with open_target(site) as target, target.registry() as registry:
        yield target.store, registry


def _kept(site: Site) -> set[str]:
    from stacks.state import served

    base, model = site.profile.base, served(site)
    digests = {model.digest if model else None, base.known.digest if base and base.known else None}
    return {digest for digest in digests if digest is not None}
