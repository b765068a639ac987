"""A site: the user's folder with profile, overlays, Pulumi state, receipts and the node's data.

profile.yaml   what the site has and wants
overlays/      own templates, found before the shipped ones
state/         Pulumi state, its secrets encrypted; the catalog of the deployed lake
node/          the embedded node with its volumes
data/          the lake of stages that run without a cluster, and its catalog
receipts/      copies of every stage's receipt
card/          the dataset's card, where none other was named
base           the model that `train --from` named, one line; not there: the profile's
id             names the site on the objects that it deploys, made once
passphrase     key of the secrets in the state, made once, readable by its owner only
pgpass         passwords of databases that are sources, in libpq's form, put there by the operator, mode 0600
dataset.key    from which salts and leaf keys of the datasets' trees follow, made once, readable by its owner only
withdrawals.jsonl  text that was taken back, only ever added to; part of the profile that stages read
.gitignore     keeps all but profile, overlays, receipts and withdrawals out of a repository that the folder is in
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sovereign.base_state import recall
from sovereign.errors import SiteError
from sovereign.files import sync_folder, write_atomic
from sovereign.locks import refuse_second
from sovereign.profile import Profile, load_profile
from sovereign.withdrawals import with_withdrawals

_NOT_FOR_GIT = "/id\n/passphrase\n/pgpass\n/dataset.key\n/state/\n/node/\n/data/\n/.lock\n"
_FIELD = r"(?:[^:\\]|\\.)*"
_ID = re.compile(r"[a-z0-9A-Z]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?")
"""A value that a Kubernetes label takes."""
_PASSWORD_LINE = re.compile(rf"(#.*)?|({_FIELD}:){{4}}{_FIELD}\\?")
"""host:port:database:user:password, where \\: and \\\\ stand for : and \\; libpq passes over any other line."""


class Site:
    """The folder of one site."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.profile_path = self.root / "profile.yaml"
        self.overlays_dir = self.root / "overlays"
        self.state_dir = self.root / "state"
        self.node_dir = self.root / "node"
        self.data_dir = self.root / "data"
        self.receipts_dir = self.root / "receipts"
        self.id_file = self.root / "id"
        self.passphrase_file = self.root / "passphrase"
        self.pgpass_file = self.root / "pgpass"
        self.dataset_key_file = self.root / "dataset.key"
        self.manifest_file = self.receipts_dir / "manifest.json"
        self.base_file = self.root / "base"
        self.withdrawals_file = self.root / "withdrawals.jsonl"
        self.known_base_file = self.state_dir / "base.json"

    @property
    def profile(self) -> Profile:
        """The site's profile, with what is known of its base and what was taken back here.

        Raises:
            ProfileError: it is wrong or missing.
            SiteError: what is known of the base, or the file of withdrawals, is damaged.
        """
        named = self.base_file.read_text(encoding="utf-8").strip() if self.base_file.is_file() else None
        profile = with_withdrawals(load_profile(self.profile_path, base=named), self.withdrawals_file)
        if profile.base is None or (found := recall(self.known_base_file, profile.base.model)) is None:
            return profile
        return profile.model_copy(update={"base": profile.base.model_copy(update={"known": found[0]})})

    @property
    def id(self) -> str:
        """What names the site on the objects that it deploys: the profile's name and eight random digits, made once.

        Raises:
            SiteError: the file is damaged.
        """
        if not self.id_file.exists():
            self._ignore("/id")
            write_atomic(self.id_file, f"{self.profile.name[:40]}-{secrets.token_hex(4)}\n")
        text = self.id_file.read_text(encoding="utf-8", errors="replace").strip()
        if not _ID.fullmatch(text):
            raise SiteError(
                f"the site's id in {self.id_file} is damaged",
                got=repr(text[:80]),
                hint="restore it from a backup; without one delete the file and run `sovereign deploy --adopt`",
            )
        return text

    def resolved_profile(self) -> Path:
        """The file that stages read: the profile, or one beside it with what else `profile` has.

        Raises:
            ProfileError: see `profile`.
        """
        profile = self.profile
        if profile.base is None and not self.withdrawals_file.exists():
            return self.profile_path
        path = self.state_dir / "profile.yaml"
        write_atomic(path, profile.model_dump_json(indent=1, exclude_unset=True) + "\n")  # JSON is YAML
        return path

    def dataset_key(self) -> bytes:
        """The dataset key, 32 bytes; made on first use.

        Raises:
            SiteError: it is damaged, or gone while there is a manifest that was made with it.
        """
        if not self.dataset_key_file.exists():
            if self.manifest_file.exists():
                raise SiteError(
                    "the dataset key is gone: no proof can be issued for the manifest that is there",
                    expected=self.dataset_key_file,
                    hint=f"restore it from a backup; to begin anew with another one, delete {self.manifest_file}",
                )
            self._ignore("/dataset.key")
            write_atomic(self.dataset_key_file, secrets.token_hex(32) + "\n", mode=0o600)
        try:
            key = bytes.fromhex(self.dataset_key_file.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise SiteError(f"the dataset key cannot be read: {error}", hint="restore it from a backup") from error
        if len(key) != 32:
            raise SiteError("the dataset key is damaged", got=f"{len(key)} bytes", hint="restore it from a backup")
        return key

    def database_passwords(self) -> str | None:
        """Text of the file `pgpass`; None where there is none.

        Raises:
            SiteError: it cannot be read, others may read it, or a line is none of a password file.
        """
        path = self.pgpass_file
        if not path.exists():
            return None
        self._ignore("/pgpass")
        if (mode := path.stat().st_mode & 0o777) & 0o077:
            raise SiteError(f"others may read {path}", got=f"mode {mode:04o}", hint=f"chmod 600 {path}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise SiteError(f"{path} cannot be read", got=type(error).__name__, expected="UTF-8 text") from None
        for number, line in enumerate(text.split("\n"), 1):
            if not _PASSWORD_LINE.fullmatch(line.rstrip("\r")):
                raise SiteError(
                    f"line {number} of {path} is none of a password file",
                    expected="host:port:database:user:password, with \\ before : and \\ in the password",
                )
        return text

    def _ignore(self, name: str) -> None:
        """Keep a file out of a repository around the site, whose .gitignore may be older than the file."""
        path = self.root / ".gitignore"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if name not in text.splitlines():
            write_atomic(path, f"{text.rstrip()}\n{name}\n".lstrip())

    @contextmanager
    def lock(self, command: str) -> Iterator[None]:
        """Hold the site for one command; the kernel frees it when the process ends, however it ends.

        Raises:
            LockedError: another process holds it; the message names its command, process and start.
        """
        with refuse_second(self.root / ".lock", f"the site {self.root}", command=command):
            yield


def init_site(root: Path, profile_source: Path) -> Site:
    """Make the site folder `root` with a copy of the profile at `profile_source`, or open it when it has one.

    Raises:
        SiteError: the folder holds something else, or a site of another profile.
        ProfileError: the profile is wrong; nothing was made.
    """
    profile = load_profile(profile_source)
    site = Site(root)
    if not site.profile_path.exists():
        if root.exists() and any(not _is_ours(path.name) for path in root.iterdir()):
            raise SiteError(f"{root} is not empty and no site", hint="name another folder, or an empty one")
        site.root.mkdir(parents=True, exist_ok=True)
        for folder in (site.overlays_dir, site.state_dir, site.receipts_dir):
            folder.mkdir(mode=0o755, exist_ok=True)
        write_atomic(site.root / ".gitignore", _NOT_FOR_GIT)
        _make_passphrase(site.passphrase_file)
        write_atomic(site.profile_path, profile_source.read_bytes())  # last: a site without it is made again
    elif site.profile.name != profile.name:
        raise SiteError(f"{root} is a site of another profile", got=site.profile.name, expected=profile.name)
    return site


def open_site(root: Path) -> Site:
    """Open an existing site.

    Raises:
        SiteError: `root` is none.
    """
    site = Site(root)
    if not site.profile_path.is_file():
        raise SiteError(f"{root} is not a site", expected=f"a file {site.profile_path}", hint="sovereign init DIR")
    return site


def _is_ours(name: str) -> bool:
    """Whether an `init_site` that was killed may have left a file of this name: its last step makes the profile."""
    return name in ("overlays", "state", "receipts", "passphrase") or name.startswith(
        (".lock", ".gitignore", ".passphrase.", ".profile.yaml.")
    )


def _make_passphrase(path: Path) -> None:
    if not path.exists():
        write_atomic(path, secrets.token_urlsafe(32) + "\n", mode=0o600)
        sync_folder(path.parent)
