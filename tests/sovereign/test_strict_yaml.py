"""What people write as YAML: scalars of YAML 1.2, and errors that name the line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovereign.errors import ProfileError
from sovereign.profile import load_profile, parse_profile
from sovereign.render import render_template
from sovereign.strict_yaml import YamlError, load, load_all

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("N", "N"), ("NO", "NO"),
        ("true", True), ("True", True), ("TRUE", True), ("tRue", "tRue"), ("false", False),
        ("~", None), ("null", None), ("", None), ("'null'", "null"),
        ("10000", 10000), ("-1", -1), ("+12", 12), ("0", 0), ("-0", 0), ("0o10000", 4096), ("0x1F", 31),
        ("'010000'", "010000"), ("1:20", "1:20"), ("190:20:30", "190:20:30"), ("1_000", "1_000"), ("0b11", "0b11"),
        ("2026-01-02", "2026-01-02"), ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"), ("=", "="),
        ("1e5", 1e5), ("1.5E-3", 0.0015), (".5", 0.5), ("5.", 5.0), ("1.2.3", "1.2.3"), (".inf", float("inf")),
        ("-.INF", float("-inf")), ("1e", "1e"), ("!!str 12", "12"), ("! 12", "12"), ("'~'", "~"), ("\ufeffa", "a"),
        ("&a {x: &b 1, y: *b}", {"x": 1, "y": 1}), ("{<<: {a: 1, b: 2}, b: 3}", {"a": 1, "b": 3}),
        ("{<<: [{a: 1}, {a: 2, c: 3}]}", {"a": 1, "c": 3}), ("{'<<': {a: 1}}", {"<<": {"a": 1}}),
        ("{<<: {a: 1}, a: 2}", {"a": 2}), ("7" * 100, int("7" * 100)), ("- |\n  on\n- >-\n  1", ["on\n", "1"]),
    ],
)  # fmt: skip
def test_k9_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = load(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' is given twice, first in line 1"),
        ("x:\n  b: 2\n  'b': 3", 3, "twice, first in line 2"),
        ("- {a: 1, a: 1}", 1, "twice"),
        ("<<: {a: 1}\n<<: {b: 1}", 2, "twice"),
        ("a: 1\nb: 010000", 2, "010000 is octal to some programs and decimal to others: write 10000, 0o10000"),
        ("a: -07", 1, "octal"),
        ("a: 00", 1, "octal"),
        ("a: 0_7", 1, "octal"),
        ("1: a", 1, "a key must be text, got '1': quote it"),
        ("a: 1\ntrue: a", 2, "a key must be text"),
        ("? [a]\n: b", 1, "a key must be text"),
        ("\n? {a: b}\n: c", 2, "a key must be text"),
        ("a: !!python/object:os.system x", 1, "tags"),
        ("a: !!binary aGk=", 1, "tags"),
        ("a: !!int '1'", 1, "tags"),
        ("a: !mine [1]", 1, "tags"),
        ("a: &a [*a]", 1, "no anchor &a before"),
        ("a: *b", 1, "no anchor &b before"),
        ("---\na: &a 1\n---\nb: *a", 3, "a second document begins"),
        ("a: 1\n<<: text", 2, "<< needs a mapping"),
        ("a: 1e999", 1, "too large"),
        ("a: ]", 1, ""),
        ("a: 1\n\tb: 2", 2, "tab"),
        ("a: 1\n b: 2", 2, ""),
        (BOMB, 7, "aliases expand to more than 1,000,000 characters"),
        ("\n" + "[" * 200_000, 2, "nested more than 100 levels deep"),
        ("\n" + "{a: " * 200_000, 2, "nested more than 100 levels deep"),
        ("- " * 200_000, 1, "nested more than 100 levels deep"),
    ],
)
def test_k9_what_is_refused_has_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(YamlError, match=rf"^line {line}: .*{words}") as caught:
        load(text)
    assert caught.value.line == line and len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["a: \x00", "a: \x1b[2J", "a: \ud800", b"\xff\xfe\x00", b"a: \xe9"])
def test_k9_what_is_no_text_is_refused(text: str | bytes) -> None:
    with pytest.raises(YamlError):
        load(text)


def test_k9_anchors_are_of_one_document_and_make_copies() -> None:
    first, second = load_all("a: &a [1]\nb: *a\n---\nc: 1")
    assert first["a"] is not first["b"] and second == {"c": 1}
    with pytest.raises(YamlError, match="line 3: no anchor"):
        list(load_all("a: &a 1\n---\nb: *a"))


TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn"), exclude_characters="\ufeff"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | TEXT,
    lambda value: st.lists(value) | st.dictionaries(TEXT, value),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(JSON)
def test_k9_json_is_read_as_json(value: Any) -> None:
    assert load(json.dumps(value, ensure_ascii=False)) == value


def test_k9_large_manifests_are_read_fast() -> None:
    """Kueue's are a megabyte and a half. PyYAML's own Python loader takes six times as long."""
    text = "".join(
        f"---\nkind: A\nspec: {{name: n{n}, list: [1, 2, {{a: b}}], text: some words}}\n" for n in range(5_000)
    )
    start = time.process_time()
    assert len(list(load_all(text))) == 5_000
    assert time.process_time() - start < 3


PROFILE = (Path(__file__).parents[2] / "templates" / "profiles" / "ci.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PROFILE + "name: other\n", "the key 'name' is given twice, first in line"),
        (PROFILE + "serving: {replicas: 01}\n", "octal to some"),
        (PROFILE + BOMB, "aliases expand"),
        (PROFILE + "x: " + "[" * 200_000, "nested"),
    ],
)
def test_k9_a_profile_is_read_strictly(text: str, words: str) -> None:
    with pytest.raises(ProfileError, match=rf"p.yaml is not valid YAML: line \d+: .*{words}"):
        parse_profile(text, origin="p.yaml")


def test_k9_a_wrong_value_has_its_line() -> None:
    text = PROFILE.replace("hardware:", "x_hardware:") + "hardware:\n  nodes: 1:20\n"
    lines = text.splitlines()
    with pytest.raises(ProfileError) as caught:
        parse_profile(text)
    message = str(caught.value)
    assert "hardware.nodes: Input should be a valid integer" in message
    assert f"(got '1:20', line {len(lines)})" in message


def test_k8_a_profile_that_is_no_utf8_text_or_endless_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes("# a\n# été\n".encode("latin-1"))
    with pytest.raises(ProfileError, match=r"p.yaml: byte 0xe9 in line 2 is not UTF-8"):
        load_profile(path)
    with pytest.raises(ProfileError, match="more than 64 MiB"):
        load_profile(Path("/dev/zero"))


OBJECT = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"


def overlay(tmp_path: Path, content: bytes | str) -> Path:
    folder = tmp_path / "overlays" / "cluster"
    folder.mkdir(parents=True)
    path = folder / "own.yaml.j2"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder.parent


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (OBJECT + "data: {a: b}\ndata: {}\n", "line 5: the key 'data' is given twice, first in line 4"),
        (OBJECT + "data: {mode: 0400}\n", "line 4: 0400 is octal to some programs"),
        (OBJECT.replace("name: a", "name: 123"), "no Kubernetes object"),
        (OBJECT.replace("name: a", "name: a, namespace: 12"), "no Kubernetes object"),
        (OBJECT.replace("kind: ConfigMap", "kind: [a]"), "no Kubernetes object"),
        (OBJECT.replace("v1", "1"), "no Kubernetes object"),
        (OBJECT + "# été\n".encode("latin-1").decode("latin-1"), None),
        (OBJECT.encode() + "# été\n".encode("latin-1"), "byte 0xe9 in line 4 is not UTF-8"),
        (OBJECT + "data: " + "[" * 200_000, "nested more than 100 levels"),
        (OBJECT + BOMB, "aliases expand"),
        ("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}", "nested too deeply"),
        (OBJECT + "data: {a: '{% for n in range(10 ** 7) %}aaaaaaaaaa{% endfor %}'}", "renders to too much"),
        ("just text", "no Kubernetes object"),
    ],
)
def test_k8_k9_an_overlay_is_read_strictly(content: bytes | str, words: str | None, tmp_path: Path) -> None:
    root = overlay(tmp_path, content)
    if words is None:
        assert len(render_template("cluster/own", {}, [root])) == 1
        return
    with pytest.raises(ProfileError, match=words) as caught:
        render_template("cluster/own", {}, [root])
    assert "own.yaml.j2" in str(caught.value)


def test_k9_plan_starts_without_yaml_of_python() -> None:
    """Reading a profile imports nothing slow."""
    code = "import sys; from sovereign.strict_yaml import load; load('a: 1'); sys.exit('ruamel.yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
