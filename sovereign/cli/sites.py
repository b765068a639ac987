"""Which site a command means: a site folder, or a profile file whose site is made on first use."""

from __future__ import annotations

import os
from pathlib import Path

from sovereign.cli.base import look_up_folder, name_base, with_known_folder
from sovereign.cli.console import say
from sovereign.errors import ProfileError
from sovereign.files import write_atomic
from sovereign.profile import Profile, load_profile
from sovereign.resources import data_path
from sovereign.site import Site, init_site, open_site


def find_profile(name: Path) -> Path:
    """The profile file that `name` means: a path, or the name of a shipped profile.

    Raises:
        ProfileError: neither.
    """
    if name.is_file():
        return name
    shipped = data_path("templates") / "profiles" / f"{name.name.removesuffix('.yaml')}.yaml"
    if name.parent == Path() and shipped.is_file():
        return shipped
    names = ", ".join(sorted(path.stem for path in shipped.parent.glob("*.yaml")))
    raise ProfileError("no such profile", got=name, expected=f"a file, a site folder, or one of {names}")


def site_of(profile_or_site: Path, site_dir: Path | None = None, *, base: str | None = None) -> Site:
    """The site of a command, made on first use; a changed profile file is taken over, and so is a changed base.

    Args:
        profile_or_site: a site folder, a profile file or the name of a shipped profile.
        site_dir: the site's folder for a profile; by default $SOVEREIGN_SITES/<name>, else sites/<name> here.
        base: the model to continue from, from now on; by default what was named before, else the profile's.

    Raises:
        SiteError: the folder is something else, or its file of passwords is wrong.
        ProfileError: the profile is wrong, or `base` is no model's name.
        UnusableBaseError: training cannot continue from the base.
    """
    site = _site_of(profile_or_site, site_dir)
    if base is not None:
        name_base(site, base)
    look_up_folder(site)
    if site.database_passwords() is not None:  # for queries from this machine
        os.environ["SOVEREIGN_PGPASSFILE"] = str(site.pgpass_file)
    return site


def _site_of(profile_or_site: Path, site_dir: Path | None) -> Site:
    if profile_or_site.is_dir():
        return open_site(profile_or_site)
    source = find_profile(profile_or_site)
    site = init_site(site_dir or _default_root(load_profile(source)), source)
    if site.profile_path.read_bytes() != source.read_bytes():
        write_atomic(site.profile_path, source.read_bytes())
        say(f"profile changed: {site.profile_path} is now as {source}")
    return site


def peek(profile_or_site: Path) -> tuple[Site, Profile]:
    """The site that a command would use and its profile; makes and changes nothing, the site need not be there.

    Raises:
        SiteError: a folder that is no site.
        ProfileError: the profile is missing or wrong.
        UnusableBaseError: training cannot continue from the folder that is its base.
    """
    if profile_or_site.is_dir():
        site = open_site(profile_or_site)
        return site, with_known_folder(site.profile)
    profile = load_profile(find_profile(profile_or_site))
    return Site(_default_root(profile)), with_known_folder(profile)


def _default_root(profile: Profile) -> Path:
    return Path(os.environ.get("SOVEREIGN_SITES") or "sites") / profile.name
