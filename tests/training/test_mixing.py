"""The mix in real shards: from a site's sources over the command line to tokens, and what training reads of them."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from sovereign.cli.app import app
from sovereign.errors import PlanError, SovereignError, StageError
from sovereign.files import sha256_bytes, sha256_file
from sovereign.lake.mix import MixFile, mix_key
from sovereign.plan import plan
from sovereign.receipts import Receipt
from sovereign.site import Site, init_site
from sovereign.stages import load_stage, read_receipt, run_stage
from sovereign.store import FolderStore
from training.ledger import consumed, documents, run_ledger
from training.mix import make_stream
from training.order import TokenStream
from training.shards import Shard

_SYLLABLES = (
    "al",
    "be",
    "cor",
    "da",
    "fi",
    "gra",
    "ho",
    "il",
    "ju",
    "lo",
    "mer",
    "no",
    "pri",
    "ru",
    "sa",
    "te",
    "ur",
    "vi",
)
WORDS = [one + two + three for one in _SYLLABLES for two in _SYLLABLES for three in _SYLLABLES[::5]]
SECRET = "quizzaciously"
"""A word of the source `games` only."""
MIX = {"domains": {"fr": {"law": 3}, "en": {"news": 1}}, "rest": 2, "temperature": 2, "max_epochs": 4}
TOKENS = 20_480


def write_source(path: Path, seed: int, count: int, owners: Sequence[str], extra: str = "") -> None:
    """JSON lines of made-up sentences, each of one of the owners; every fourth is there twice, of two owners."""
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(4, 30)))
        turns = range(1 + (number % 4 == 0))
        said = f"{text} {number} {extra}".strip()
        lines += [{"text": said, "owner": owners[(number + turn) % len(owners)]} for turn in turns]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def make_site(folder: Path, **changes: Any) -> Site:
    """A site with four sources of text whose dataset is curated."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for number, (name, language, domain, count) in enumerate(
        [("laws", "fr", "law", 30), ("radio", "en", "news", 80), ("press", "fr", "news", 60), ("games", "en", None, 20)]
    ):
        path = folder / f"{name}.jsonl"
        write_source(
            path, number, count, ("Archive", "Office", "Mint")[: number + 1], SECRET if name == "games" else ""
        )
        source = {"name": name, "path": str(path), "owner": "Archive", "licence": "CC-BY-4.0", "language": language}
        sources.append(source | ({"domain": domain} if domain else {}))
    sources[1]["licence"] = "CC0-1.0"
    off = {"language": None, "quality": None, "near_duplicates": None, "heldout_fraction": 0.1}
    profile = {
        "apiVersion": "sovereign/v1",
        "name": "tiny",
        "corpus": {"sources": sources, "cleaning": off},
        "model": {"parameters": 1e5, "vocab_size": 512, "sequence_length": 64},
        "training": {"tokens": TOKENS, "batch_tokens": 256, "threads_per_pod": 1, "compile": False},
    } | changes
    (folder / "profile.yaml").write_text(json.dumps(profile))
    site = init_site(folder / "site", folder / "profile.yaml")
    for name in ("corpus", "curate"):
        run(site, name)
    return site


def run(site: Site, name: str) -> list[str]:
    """Run a stage of the site here; its messages."""
    stream = io.StringIO()
    run_stage(load_stage(name), site.profile, FolderStore(site.data_dir), site.data_dir / "work" / name, stream)
    return [json.loads(line)["message"] for line in stream.getvalue().splitlines()]


def command(site: Site, name: str, *arguments: str) -> Any:
    """The JSON of `sovereign lake NAME`."""
    words = ["lake", name, str(site.root), "--local", "--json", *arguments]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def receipt(site: Site) -> Receipt:
    found = read_receipt(FolderStore(site.data_dir), load_stage("tokenize"), "tiny")
    assert found is not None
    return found


def shard_files(site: Site) -> list[Path]:
    return sorted(site.data_dir.glob("models/tiny/tokens/train-*.bin"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with an approved mix and its shards."""
    site = make_site(tmp_path_factory.mktemp("site"), mix=MIX, governance={"mix_approval": "required"})
    with pytest.raises(StageError, match=r"(?s)no person has approved the mix.*sovereign lake approve"):
        run(site, "tokenize")
    shown = command(site, "mix", "--out", str(site.root / "receipts" / "shown.json"))
    assert not (site.data_dir / mix_key("tiny")).exists()
    with pytest.raises(StageError, match="no person has approved the mix"):
        run(site, "tokenize")
    approved = command(site, "approve", "--by", "A. Person", "--note", "meeting of 3 May")
    assert {**shown, "approval": None} == {**approved, "approval": None}
    assert approved["approval"]["by"] == "A. Person" and approved["approval"]["note"] == "meeting of 3 May"
    run(site, "tokenize")
    return site


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    """A copy of that site, to change."""
    return Site(shutil.copytree(made.root, tmp_path / "site"))


def mix_of(site: Site) -> MixFile:
    return MixFile.from_bytes((site.data_dir / mix_key("tiny")).read_bytes(), "mix.json")


def test_the_shards_are_what_was_approved_to_the_token(made: Site) -> None:
    mix = mix_of(made)
    assert (
        (made.receipts_dir / "mix.json").read_bytes()
        == mix.to_bytes()
        != (made.receipts_dir / "shown.json").read_bytes()
    )
    tokens: Counter[tuple[str, str]] = Counter()
    copies: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    for shard in map(Shard, shard_files(made)):
        ids = shard.document_ids(range(shard.num_documents))
        copies.update(ids)
        for doc_id, language, length in zip(ids, shard.languages, shard.lengths, strict=True):
            source = doc_id.partition("/")[0]
            domain = made.profile.corpus.domains[source]
            tokens[shard.language_names[language], domain] += int(length)
            assert sizes.setdefault(doc_id, int(length)) == length
    said = {(portion.language, portion.domain): portion for portion in mix.groups}
    assert {group: portion.shards.tokens for group, portion in said.items() if portion.shards.tokens} == tokens
    assert sum(portion.shards.documents for portion in mix.groups) == copies.total()
    assert max(copies.values()) == 4
    # Of the 30 laws there is not as much as their weight asks for: four epochs, and the others get what is left.
    assert said["fr", "law"].is_capped and said["fr", "law"].epochs == 4.0
    assert said["en", "news"].target_tokens is not None and not said["en", "news"].is_capped
    assert sum(portion.target_tokens or 0 for portion in mix.groups) == TOKENS
    assert 0 <= copies_total(mix) - TOKENS < sum(sorted(sizes.values())[-len(said) :])
    assert receipt(made).metrics["train"]["tokens"] == copies_total(mix)


def copies_total(mix: MixFile) -> int:
    return sum(portion.shards.tokens for portion in mix.groups)


def test_the_ledger_adds_up_to_the_forecast(made: Site) -> None:
    mix, shards = mix_of(made), [Shard(path) for path in shard_files(made)]
    recipe = plan(made.profile).recipe
    stream = make_stream(shards, recipe.seed, recipe.phases, recipe.batch_tokens)
    whole = consumed(stream, stream.num_tokens, up_to_step=1)
    assert whole.by_owner == mix.shards["owner"] and whole.by_language == mix.shards["language"]
    assert {owner: round(share) for owner, share in whole.shares.items()} == mix.shards["owner_share"]
    # The run ends before the last few documents of the shards, since every group is rounded up to a whole one.
    ledger = run_ledger(stream, recipe.batch_tokens, recipe.num_steps, {})
    unread = stream.num_tokens - ledger["tokens"]
    assert ledger["tokens"] == TOKENS and 0 <= unread < 400 and ledger["epochs"] <= 1
    for owner, forecast in mix.run["owner"].items():
        assert 0 <= forecast - ledger["by_owner"][owner]["tokens"] <= unread


def test_the_receipt_names_the_mix_and_who_approved_it(made: Site) -> None:
    content = (made.data_dir / mix_key("tiny")).read_bytes()
    assert receipt(made).inputs[mix_key("tiny")] == sha256_bytes(content)
    found = receipt(made).metrics["mix"]
    assert (found["approved_by"], found["sha256"]) == ("A. Person", sha256_bytes(content))
    assert found["epochs"]["fr law"] == 4.0
    assert run(made, "tokenize") == ["unchanged"]


def test_another_approval_makes_the_shards_again_and_they_are_the_same(site: Site) -> None:
    before = [sha256_file(path) for path in shard_files(site)]
    command(site, "approve", "--by", "B. Person")
    assert run(site, "tokenize")[-1] == "done"
    assert [sha256_file(path) for path in shard_files(site)] == before
    assert receipt(site).metrics["mix"]["approved_by"] == "B. Person"


def change(site: Site, **sections: Any) -> None:
    """Change sections of the profile of a site."""
    profile = json.loads(site.profile_path.read_text())
    for name, values in sections.items():
        profile[name] = profile[name] | values
    site.profile_path.write_text(json.dumps(profile))


def refused(site: Site, *arguments: str) -> str:
    """The error of `sovereign lake NAME`."""
    with pytest.raises(SovereignError) as caught:
        command(site, *arguments)
    return str(caught.value)


def test_only_the_mix_that_was_looked_at_is_approved(site: Site, tmp_path: Path) -> None:
    seen, before = site.receipts_dir / "shown.json", (site.data_dir / mix_key("tiny")).read_bytes()
    words = ("approve", "--mix", str(seen), "--by", "B. Person")
    command(site, *words)
    approved = (site.data_dir / mix_key("tiny")).read_bytes()
    assert approved != before and json.loads(approved) | {"approval": None} == json.loads(seen.read_bytes())
    # An approved file is as good as one that nobody approved yet.
    command(site, "approve", "--mix", str(site.receipts_dir / "mix.json"), "--by", "B. Person")
    change(site, mix={"max_epochs": 5})
    error = refused(site, *words)
    assert "not the one that was looked at" in error and "got: another request.mix, shards, run, group en" in error
    assert "group fr law" in error and "sovereign lake mix SITE --out FILE" in error
    assert json.loads((site.data_dir / mix_key("tiny")).read_bytes())["request"]["mix"]["max_epochs"] == 4
    change(site, mix={"max_epochs": 4})
    other = json.loads(seen.read_bytes()) | {"dataset": "ab" * 32}
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert "got: another dataset\n" in refused(site, "approve", "--mix", str(tmp_path / "other.json"), "--by", "B")
    (tmp_path / "bad.json").write_text("{}")
    assert "is no mix of this version" in refused(site, "approve", "--mix", str(tmp_path / "bad.json"), "--by", "B")
    assert "cannot read" in refused(site, "approve", "--mix", str(tmp_path / "none.json"), "--by", "B")


def test_files_that_cannot_be_written_and_names_that_are_no_text_are_errors(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot write" in refused(site, "mix", "--out", str(tmp_path / "file" / "x"))
    assert "--by is not text in UTF-8" in refused(site, "approve", "--by", "A. \udcff")
    assert "--note is not text in UTF-8" in refused(site, "approve", "--by", "A", "--note", "\udcff")


def test_a_stale_approval_is_refused_until_it_is_given_again(site: Site) -> None:
    change(site, mix={"max_epochs": 5})
    with pytest.raises(StageError, match=r"(?s)asks for another mix than the approved one.*another mix"):
        run(site, "tokenize")
    command(site, "approve", "--by", "A. Person")
    run(site, "tokenize")
    assert receipt(site).metrics["mix"]["epochs"]["fr law"] == 5.0
    with (site.root.parent / "more.jsonl").open("w") as file:
        file.write(json.dumps({"text": "Une loi de plus, qui n'était pas là."}) + "\n")
    corpus = json.loads(site.profile_path.read_text())["corpus"]
    corpus["sources"][0]["path"] = str(site.root.parent / "more.jsonl")
    change(site, corpus=corpus)
    for name in ("corpus", "curate"):
        run(site, name)
    with pytest.raises(StageError, match="of another version of the dataset"):
        run(site, "tokenize")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("copies", r"(?s)not what the mix says\n.*counts of fr news"),
        ("tokenizer", "another tokenizer"),
        ("groups", r"(?s)not what the mix says\n.*documents of fr news, which it does not have\n.*lake approve"),
        ("below", r"no mix of this version: Input should be greater than or equal to 0"),
        ("upto", r"no mix of this version: String should match pattern"),
    ],
)
def test_a_mix_that_was_changed_by_hand_is_refused(site: Site, field: str, message: str) -> None:
    content = json.loads((site.data_dir / mix_key("tiny")).read_bytes())
    (portion,) = (one for one in content["groups"] if (one["language"], one["domain"]) == ("fr", "news"))
    if field == "groups":
        content["groups"].remove(portion)
    elif field == "tokenizer":
        content[field] = "ef" * 32
    else:
        portion |= {"copies": {"copies": portion["copies"] + 1}, "below": {"copies": -1}, "upto": {"upto": "ff"}}[field]
    (site.data_dir / mix_key("tiny")).write_text(json.dumps(content))
    with pytest.raises(SovereignError, match=message):
        run(site, "tokenize")


def test_what_the_mix_leaves_out_does_not_teach_the_tokenizer(tmp_path: Path) -> None:
    natural = make_site(tmp_path / "natural")
    run(natural, "tokenize")
    vocabularies = []
    for one in (natural, make_site(tmp_path / "less", mix={"sources": {"press": 1, "radio": 1}})):
        run(one, "tokenize")
        text = json.loads((one.data_dir / "models/tiny/tokens/tokenizer.json").read_text())
        vocabularies.append(set(text["model"]["vocab"]))
    assert any(token in f" {SECRET}" for token in vocabularies[0] if len(token) > 5)
    assert not any("zz" in token or "quiz" in token for token in vocabularies[1])
    assert receipt(natural).metrics["mix"] == {
        "approved_by": None,
        "epochs": "every document once in an epoch",
    }


def test_the_natural_mix_is_the_same_shards_whoever_approves_it(tmp_path: Path) -> None:
    free, asked = make_site(tmp_path / "free"), make_site(tmp_path / "asked", governance={"mix_approval": "required"})
    shown = command(asked, "approve", "--by", "A. Person")
    for one in (free, asked):
        run(one, "tokenize")
    assert [sha256_file(path) for path in shard_files(free)] == [sha256_file(path) for path in shard_files(asked)]
    assert shown["request"]["mix"] is None and {portion["copies"] for portion in shown["groups"]} == {1}
    whole = receipt(free).metrics["train"]["tokens"]
    assert {portion["epochs"] for portion in shown["groups"]} == {round(TOKENS / whole, 4)}


def test_phases_say_how_much_of_a_language_and_the_mix_of_what(tmp_path: Path) -> None:
    phases = [{"tokens": 4096, "mix": {"fr": 1, "en": 3}}, {"tokens": 8192, "mix": {"fr": 1}}]
    training = {"tokens": 12_288, "batch_tokens": 256, "phases": phases}
    site = make_site(tmp_path, mix={"sources": {"laws": 3, "press": 1, "radio": 1}, "max_epochs": 6}, training=training)
    mix = MixFile.model_validate({key: value for key, value in command(site, "mix").items() if key != "warnings"})
    run(site, "tokenize")
    assert receipt(site).metrics["mix"]["approved_by"] is None
    assert receipt(site).metrics["mix"]["sha256"] == sha256_bytes(mix.to_bytes())
    recipe, shards = plan(site.profile).recipe, [Shard(path) for path in shard_files(site)]
    stream = make_stream(shards, recipe.seed, recipe.phases, recipe.batch_tokens)
    taken = consumed(stream, recipe.batch_tokens, up_to_step=recipe.num_steps)
    assert {name: count for name, count in mix.budgets.items() if count} == +taken.by_language
    assert taken.by_language["en"] == 3072
    by_source: Counter[str] = Counter()
    copies: Counter[str] = Counter()
    lengths: dict[str, int] = {}
    for shard in shards:
        ids = shard.document_ids(range(shard.num_documents))
        copies.update(ids)
        lengths |= dict(zip(ids, shard.lengths.tolist(), strict=True))
    seen: Counter[str] = Counter()
    for one in documents(stream, 0, recipe.num_tokens):
        seen[one.doc_id] += one.tokens
        by_source[one.doc_id.partition("/")[0]] += one.tokens
    assert all(
        tokens <= copies[doc_id] * lengths[doc_id] for doc_id, tokens in seen.items()
    )  # nothing oftener than said
    assert max(copies.values()) <= 6 and set(by_source) == {"laws", "press", "radio"}
    targets = {portion.source: portion.target_tokens or 0 for portion in mix.groups if portion.target_tokens}
    assert targets["laws"] + targets["press"] == mix.budgets["fr"]
    assert all(abs(by_source[name] - tokens) < 200 for name, tokens in targets.items())


def test_a_plain_stream_of_the_mix_is_a_pure_function_of_seed_and_step(made: Site) -> None:
    shards = [Shard(path) for path in shard_files(made)]
    one, other = TokenStream(shards, 3), TokenStream([Shard(path) for path in shard_files(made)], 3)
    late = other.rows(50, 4, 64, rank=0, world_size=1)
    assert (one.rows(50, 4, 64, rank=0, world_size=1) == late).all()
    halves = [one.rows(50, 4, 64, rank=rank, world_size=2) for rank in (0, 1)]
    assert (late == [*halves[0], *halves[1]]).all()


def test_people_are_told_what_is_left_out_and_what_comes_too_often(tmp_path: Path) -> None:
    site = make_site(tmp_path, mix={"sources": {"laws": 1, "radio": 2}, "max_epochs": 40})
    done = CliRunner().invoke(app, ["lake", "mix", str(site.root), "--local"], catch_exceptions=False)
    assert done.exit_code == 0
    for words in ("Mix of tiny: 20,480 tokens", "laws", "Left out", "press", "By owner", "Archive", "CC0-1.0"):
        assert words in done.stdout
    assert "warning: laws is taken" in done.stderr and "Muennighoff" in done.stderr
    change(site, mix={"max_epochs": 1})
    with pytest.raises(PlanError, match=r"(?s)cannot give the tokens of the run.*raise mix.max_epochs"):
        CliRunner().invoke(app, ["lake", "mix", str(site.root), "--local"], catch_exceptions=False)


PUBLICATION = {
    "sources": [
        {"name": "laws", "category": "public-dataset", "description": "Laws."},
        {"name": "press", "category": "private-other", "description": "Press."},
        {"name": "radio", "category": "other", "description": "Radio."},
        {"name": "games", "category": "other", "description": "Games."},
    ]
}


def summary(site: Site) -> Any:
    """The JSON of the training-content summary."""
    path = site.root / "summary.json"
    words = ["lake", "summary", str(site.root), "--local", "--json", str(path)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(path.read_bytes())


def trained_documents(site: Site) -> dict[str, tuple[str, int]]:
    """Language and tokens of each document in the shards, by its id."""
    found: dict[str, tuple[str, int]] = {}
    for shard in map(Shard, shard_files(site)):
        names = [shard.language_names[number] for number in shard.languages]
        ids = shard.document_ids(range(shard.num_documents))
        found |= dict(zip(ids, zip(names, shard.lengths.tolist(), strict=True), strict=True))
    return found


@pytest.mark.parametrize("approval", ["none", "required"])
def test_the_public_summary_tells_of_what_the_mix_takes_each_document_once(tmp_path: Path, approval: str) -> None:
    mix = {"sources": {"press": 20, "radio": 1}}
    site = make_site(tmp_path, mix=mix, governance={"mix_approval": approval}, publication=PUBLICATION)
    command(site, "manifest")
    before = summary(site)
    assert {"section": "1.3", "key": "stage tokenize"} in before["missing"]
    assert {"section": "2", "key": "stage tokenize"} in before["missing"]
    overall, asked = before["sections"]["1.3"], [before["sections"][one]["is_used"] for one in ("2.1", "2.2.2", "2.6")]
    assert [overall[key] for key in ("tokens", "documents", "characters", "languages", "latest_data")] == [None] * 5
    assert overall["size_range"] == "less than 1 billion tokens" and asked == [None] * 3
    if approval == "required":
        command(site, "approve", "--by", "A. Person")
    run(site, "tokenize")
    after, taken = summary(site), trained_documents(site)
    overall = after["sections"]["1.3"]
    assert "stage tokenize" not in {one["key"] for one in after["missing"]}
    assert overall["documents"] == len(taken)
    assert overall["tokens"] == sum(length for _, length in taken.values()) < TOKENS
    by_language = Counter(language for language, _ in taken.values())
    assert {one["language"]: one["documents"] for one in overall["languages"]} == by_language
    by_source = Counter(doc_id.partition("/")[0] for doc_id in taken)
    assert set(by_source) == {"press", "radio"} and by_source["radio"] < 40  # of 80
    sections = after["sections"]
    assert (sections["2.1"]["is_used"], sections["2.1"]["large"]) == (False, [])
    (press,), (radio,) = sections["2.2.2"]["others"], sections["2.6"]["sources"]
    assert {one["name"]: one["documents"] for one in (press, radio)} == by_source
    assert press["characters"] + radio["characters"] == overall["characters"]
    assert "laws" not in json.dumps(sections) and "games" not in json.dumps(sections)
    # A receipt of before says that there was a mix, but not what it took.
    old = receipt(site)
    said = {key: old.metrics["mix"][key] for key in ("approved_by", "sha256", "epochs")}
    content = old.model_copy(update={"metrics": old.metrics | {"mix": said}}).to_bytes()
    FolderStore(site.data_dir).put_bytes("models/tiny/tokens/receipt.json", content)
    assert summary(site) == before


def test_the_public_summary_tells_of_the_languages_that_phases_take(tmp_path: Path) -> None:
    phases = [{"tokens": 12_288, "mix": {"fr": 1}}]
    training = {"tokens": 12_288, "batch_tokens": 256, "phases": phases}
    site = make_site(tmp_path, training=training, publication=PUBLICATION)
    command(site, "manifest")
    run(site, "tokenize")
    overall, taken = summary(site)["sections"]["1.3"], trained_documents(site)
    french = [length for language, length in taken.values() if language == "fr"]
    assert (overall["documents"], overall["tokens"]) == (len(french), sum(french))
    assert [one["language"] for one in overall["languages"]] == ["fr"] and len(french) < len(taken)


@pytest.mark.parametrize("approval", ["none", "required"])
@pytest.mark.parametrize("weight", [1e-7, 0])
def test_l15_what_the_mix_takes_nothing_of_does_not_teach_the_tokenizer(
    weight: float, approval: str, tmp_path: Path
) -> None:
    weights = {"laws": 1, "radio": 1, "press": 1, "games": weight}
    vocabularies = []
    for name, games in (("with", 1), ("without", weight)):
        mix = {"sources": weights | {"games": games}}
        site = make_site(tmp_path / name, mix=mix, governance={"mix_approval": approval})
        if approval == "required":
            command(site, "approve", "--by", "A. Person")
        run(site, "tokenize")
        tokenizer = json.loads((site.data_dir / "models/tiny/tokens/tokenizer.json").read_text())
        vocabularies.append({token.strip("Ġ") for token in tokenizer["model"]["vocab"]})
        assert Tokenizer.from_file(str(site.data_dir / "models/tiny/tokens/tokenizer.json")).get_vocab_size() == 512
    assert "quiz" in " ".join(vocabularies[0]) and SECRET[:4] not in " ".join(vocabularies[1])
