"""A site's folder: made once, opened again, held by one command at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sovereign.cli.sites import find_profile, site_of
from sovereign.errors import LockedError, ProfileError, SiteError
from sovereign.site import Site, init_site, open_site

HOLDER = """
import sys, pathlib
from sovereign.site import Site
with Site(pathlib.Path(sys.argv[1])).lock("deploy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def make(folder: Path) -> Site:
    return init_site(folder / "site", find_profile(Path("ci")))


def test_site_has_a_private_passphrase_and_the_profile(tmp_path: Path) -> None:
    site = make(tmp_path)
    assert site.profile.name == "ci"
    assert stat.S_IMODE(site.passphrase_file.stat().st_mode) == 0o600
    assert len(site.passphrase_file.read_text().strip()) >= 32


def test_passphrase_and_data_stay_out_of_a_repository_around_the_site(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    site = make(tmp_path)
    site.pgpass_file.write_text("*:*:*:reader:made up\n")
    for folder in (site.node_dir, site.data_dir, site.state_dir):
        folder.mkdir(exist_ok=True)
        (folder / "file").write_text("")
    command = ["git", "-C", str(tmp_path), "status", "--porcelain", "--untracked-files=all"]
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1::2]
    assert seen == ["site/.gitignore", "site/profile.yaml"]


def test_file_of_passwords_is_private_right_and_kept_out_of_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make(tmp_path)
    assert site.database_passwords() is None
    text = "# of the archive\n\ndb.example.org:5432:*:reader:made\\: up\r\n*:*:*:*:\\\\"
    site.pgpass_file.write_bytes(text.encode())
    site.pgpass_file.chmod(0o640)
    with pytest.raises(SiteError, match=r"others may read .*pgpass\n.*mode 0640\n.*chmod 600"):
        site.database_passwords()
    site.pgpass_file.chmod(0o600)
    (site.root / ".gitignore").write_text("/passphrase\n")  # of before
    assert site.database_passwords() == text.replace("\r", "")
    assert "/pgpass" in (site.root / ".gitignore").read_text().splitlines()
    monkeypatch.setenv("SOVEREIGN_PGPASSFILE", "")
    site_of(site.root)
    assert os.environ["SOVEREIGN_PGPASSFILE"] == str(site.pgpass_file)


@pytest.mark.parametrize("line", ["secret", "h:5432:d:secret", "h:5432:d:u:sec:ret", " # secret"])
def test_line_that_libpq_would_pass_over_is_an_error_that_does_not_tell_it(line: str, tmp_path: Path) -> None:
    site = make(tmp_path)
    site.pgpass_file.write_text(f"*:*:*:*:right\n{line}\n")
    site.pgpass_file.chmod(0o600)
    with pytest.raises(SiteError, match=r"line 2 of .*pgpass") as caught:
        site.database_passwords()
    assert "secret" not in str(caught.value) and "sec:ret" not in str(caught.value)


def test_second_init_keeps_the_passphrase(tmp_path: Path) -> None:
    first = make(tmp_path).passphrase_file.read_text()
    assert make(tmp_path).passphrase_file.read_text() == first


def test_init_that_was_killed_goes_on_with_its_passphrase(tmp_path: Path) -> None:
    site = make(tmp_path)
    passphrase = site.passphrase_file.read_text()
    site.profile_path.rename(site.root / ".profile.yaml.x1y2z3")
    assert make(tmp_path).profile.name == "ci"
    assert site.passphrase_file.read_text() == passphrase


def test_folder_with_other_things_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thesis.txt").write_text("mine")
    with pytest.raises(SiteError, match="not empty"):
        make(tmp_path)
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["thesis.txt"]


def test_site_of_another_profile_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(SiteError, match="another profile"):
        init_site(tmp_path / "site", find_profile(Path("demo")))


def test_wrong_profile_makes_nothing(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(find_profile(Path("ci")).read_text().replace("facts: 30", "facts: many"))
    with pytest.raises(ProfileError, match=r"corpus\.demonstration\.facts"):
        init_site(tmp_path / "site", wrong)
    assert not (tmp_path / "site").exists()


def test_opening_no_site_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="sovereign init"):
        open_site(tmp_path)


def test_second_command_is_told_who_holds_the_site(tmp_path: Path) -> None:
    site = make(tmp_path)
    command = [sys.executable, "-c", HOLDER, str(site.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError) as caught, site.lock("destroy"):
            pass
        assert f'"pid": {holder.pid}' in str(caught.value) and "deploy" in str(caught.value)
        holder.kill()
    with site.lock("destroy"):  # a killed holder leaves no stale lock
        assert f'"pid": {os.getpid()}' in (site.root / ".lock").read_text()


def test_changed_profile_file_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVEREIGN_SITES", str(tmp_path))
    mine = tmp_path / "mine.yaml"
    text = find_profile(Path("ci")).read_text()
    mine.write_text(text)
    site_of(mine)
    mine.write_text(text.replace("facts: 30", "facts: 31"))
    site = site_of(mine)
    assert site.root == tmp_path / "ci"
    assert site.profile.corpus.demonstration is not None and site.profile.corpus.demonstration.facts == 31


def test_unknown_profile_names_the_shipped_ones() -> None:
    with pytest.raises(ProfileError, match="ci, demo, nation"):
        find_profile(Path("demmo"))
