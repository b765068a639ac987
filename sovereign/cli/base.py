"""The base of a site: named by its profile or by `train --from`, looked up once, brought into the store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from sovereign.base import base_prefix, read_base, store_base
from sovereign.base_state import Stamp, recall, remember, stamps_of
from sovereign.cli.console import say
from sovereign.errors import SovereignError, UnusableBaseError
from sovereign.files import write_atomic
from sovereign.profile import Profile, load_profile
from sovereign.profile_base import Base, KnownBase
from sovereign.site import Site
from sovereign.store import Store, fetch_folder

Registry = Callable[[], AbstractContextManager[str]]
"""Gives MLflow's address."""


def name_base(site: Site, model: str) -> None:
    """Let `model` be the site's base from now on; an alias of the registry is followed anew.

    Raises:
        ProfileError: it is neither a folder, nor an alias, nor a digest.
        UnusableBaseError: training cannot continue from the folder; the site keeps the base that it has.
    """
    folder = Path(model).expanduser()
    named = str(folder.resolve()) if folder.is_dir() else model
    base = load_profile(site.profile_path, base=named).base
    assert base is not None
    if base.folder is None:
        site.known_base_file.unlink(missing_ok=True)
    else:
        _look_up(site, base, base.folder)
    write_atomic(site.base_file, named + "\n")


def with_known_folder(profile: Profile) -> Profile:
    """`profile`, with what its base is where that is a folder of this machine.

    Raises:
        UnusableBaseError: training cannot continue from it.
    """
    if profile.base is None or profile.base.folder is None or profile.base.known is not None:
        return profile
    base = profile.base.model_copy(update={"known": read_base(profile.base.folder)})
    return profile.model_copy(update={"base": base})


def look_up_folder(site: Site) -> None:
    """Read the site's base if it is a folder and not known yet.

    Raises:
        UnusableBaseError: training cannot continue from it.
    """
    base = site.profile.base
    if base is not None and base.folder is not None and base.known is None:
        _look_up(site, base, base.folder)


def _look_up(site: Site, base: Base, folder: Path) -> None:
    """Read the folder, unless it is as it was; one that is gone stays what it was."""
    found = recall(site.known_base_file, base.model)
    if found and not folder.is_dir():
        return
    stamps = stamps_of(folder)
    if found is None or found[1] != stamps:
        say(f"reading the base {folder}")
        _remember(site, base, read_base(folder), stamps)


def _remember(site: Site, base: Base, known: KnownBase, stamps: dict[str, Stamp]) -> None:
    if known.gguf_obstacle:
        say(f"warning: trained from it no GGUF file can be made: {known.gguf_obstacle}", style="yellow")
    remember(site.known_base_file, base.model, known, stamps)


def settle_base(site: Site, store: Store, registry: Registry) -> None:
    """Look the site's base up where that was not done yet, and bring it into the store under its digest.

    Raises:
        UnusableBaseError: training cannot continue from it, or there is none of this name.
        TrainingError: the registry has none, or cannot be reached.
        StoreError: it cannot be read or stored.
    """
    base = site.profile.base
    if base is None:
        return
    if base.folder is not None:
        _look_up(site, base, base.folder)
        known = recall(site.known_base_file, base.model)
        if known and base.folder.is_dir():
            store_base(store, base.folder, known[0].digest)
    elif base.known is None:
        try:
            _fetch(site, base, store, registry)
        except SovereignError:
            site.base_file.unlink(missing_ok=True)  # a name that leads nowhere must not be in the way of other commands
            raise


def _fetch(site: Site, base: Base, store: Store, registry: Registry) -> None:
    """Look up a model that the site's registry or store has."""
    prefix, digest = _registered(base, store, registry)
    say(f"fetching the base {base.model}, digest {digest}")
    with tempfile.TemporaryDirectory(dir=site.state_dir, prefix="base-") as temporary:
        folder = Path(temporary)
        fetch_folder(store, prefix, folder)
        known = read_base(folder)
        if known.digest != digest:
            raise UnusableBaseError(f"the files under {prefix} are not the model", got=known.digest, expected=digest)
        store_base(store, folder, digest)
    _remember(site, base, known, {})


def _registered(base: Base, store: Store, registry: Registry) -> tuple[str, str]:
    """Where a model lies in the store, and its digest."""
    if base.alias is not None:
        from training.registry import champion

        with registry() as uri:
            found = champion(uri, base.alias[0], alias=base.alias[1])
        return found.store_prefix, found.digest
    for prefix in (base_prefix(base.model), f"/register/{base.model}/"):
        for key in store.list("models/"):
            before, part, _ = key.partition(prefix)
            if part:
                return before + part, base.model
    raise UnusableBaseError("the store has no model with this digest", got=base.model)
