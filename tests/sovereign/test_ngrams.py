"""Overlap by n-grams: copies are found whatever their case, accents and script; other texts are not."""

from __future__ import annotations

import random

import pytest

from sovereign.ngrams import LENGTH, MIN_LENGTH, NgramIndex, units

SENTENCE = "The national library was founded in the year after the war by a decree of the first assembly"


def search(item: str, *documents: str) -> tuple[int, int, str | None]:
    """n-grams of the item, those found, and where."""
    index = NgramIndex()
    number = index.add(item)
    for place, document in enumerate(documents):
        index.search(document, f"d{place}")
    found = index.overlap(number)
    return found.num_ngrams, found.num_found, found.document_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Ministry's  budget, 2024!", ["the", "ministry", "s", "budget", "2024"]),
        ("Élève ÉLÈVE e\u0301le\u0300ve", ["eleve"] * 3),
        ("國家 library图书馆", ["國", "家", "library", "图", "书", "馆"]),
        ("كِتَابٌ كتاب", ["كتاب", "كتاب"]),
        ("हिन्दी भाषा", ["हनद", "भष"]),  # whole words, without their vowel signs
        ("Straße STRASSE ﬁn １２", ["strasse", "strasse", "fin", "12"]),
        ("secu\u00adri\u00adty coun\u200bcil \u2066la\u2069w\ufeff s\u3164ea", ["security", "council", "law", "sea"]),
        ("\u0643\u0640\u0640\u062a\u0627\u0628 می\u200cخواهم", ["\u0643\u062a\u0627\u0628", "میخواهم"]),
        ("… — \n\t", []),
    ],
)
def test_units(text: str, expected: list[str]) -> None:
    assert units(text) == expected


@pytest.mark.parametrize(
    ("written", "copied"),
    [
        ("المكتبة الوطنية الكبيرة", "المكتبه الوطنيه الكبيره"),
        ("إلى أول مستشفى", "الي اول مستشفي"),
        ("كتاب علي", "کتاب علی"),
        ("سنة ١٩٦٢", "سنه 1962"),
        ("۲۵ साल २५ বছর ২৫", "25 साल 25 বছর 25"),
        ("ہفتہ شاہ", "هفته شاه"),
        ("ٱلرحمن", "الرحمن"),
        ("\ufefb\ufe8f", "لاب"),
        ("שָׁלוֹם ייִדיש װאָס", "שלום יידיש וואס"),
        ("ещё ёлка й", "еще елка и"),
        ("ґанок п\u02bcять п\u2019ять", "ганок п'ять п'ять"),
        ("Iğdır İzmir ışık", "ığdir izmir isik"),
        ("Łódź øl đak œuvre Æsop ħobż", "lodz ol dak oeuvre aesop hobz"),
        ("ﬁnal ｆｕｌｌ ｗｉｄｔｈ ﷺ", "final full width صلى الله عليه وسلم"),
        ("क़लम ज़रा फ़ौज", "कलम जरा फौज"),
        ("Ţară Şcoală", "Țară Școală"),
        ("ΣΟΦΟΣ σοφός", "σοφος σοφοσ"),
    ],
)
def test_t21_spellings_of_a_word_are_one(written: str, copied: str) -> None:
    assert units(written) == units(copied)


def test_t21_other_words_stay_others() -> None:
    words = [
        "قلم",
        "كلم",
        "سلم",
        "علم",
        "ألم",
        "كرة",
        "كرت",
        "дом",
        "дым",
        "кот",
        "кит",
        "ברד",
        "ברט",
        "thin",
        "tin",
        "mat",
        "met",
    ]
    assert len({unit for word in words for unit in units(word)}) == len(words)


def test_a_copy_is_found_whole_and_in_its_document() -> None:
    copy = f"Before. {SENTENCE.upper()}, and after."
    assert search(SENTENCE, "Something else entirely.", copy) == (6, 6, "d1")


def test_part_of_an_item_is_found_as_the_n_grams_that_it_has() -> None:
    words = SENTENCE.split()
    assert len(words) == 18
    assert search(SENTENCE, " ".join(words[:14])) == (6, 2, "d0")
    assert search(SENTENCE, " ".join(words[: LENGTH - 1])) == (6, 0, None)


def test_the_order_of_words_counts() -> None:
    words = SENTENCE.split()
    assert search(SENTENCE, " ".join(reversed(words))) == (6, 0, None)


def test_a_short_item_is_looked_for_as_a_whole() -> None:
    item = "who wrote the law of the two rivers"
    assert len(item.split()) == MIN_LENGTH
    assert search(item, f"Tell me {item} please") == (1, 1, "d0")
    assert search(item, "who wrote the law of the two towns") == (1, 0, None)


def test_an_item_that_is_too_short_says_nothing() -> None:
    assert search("who wrote it", "who wrote it") == (0, 0, None)
    assert search("", "anything") == (0, 0, None)


def test_characters_are_units_where_no_spaces_are() -> None:
    assert search("国家图书馆成立于一九零九年", "据说国家图书馆成立于一九零九年十二月") == (1, 1, "d0")


def test_items_of_many_lengths_in_one_index_are_told_apart() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    vocabulary = [f"word{number}" for number in range(5000)]
    texts = [" ".join(draw.choices(vocabulary, k=draw.randrange(8, 40))) for _ in range(200)]
    index = NgramIndex()
    numbers = [index.add(text) for text in texts]
    for place, text in enumerate(texts[::2]):
        index.search(f"x {text} y", str(place))
    overlaps = [index.overlap(number) for number in numbers]
    assert all(overlap.num_found == overlap.num_ngrams > 0 for overlap in overlaps[::2])
    assert not any(overlap.is_contaminated for overlap in overlaps[1::2])
    assert [overlap.document_id for overlap in overlaps[::2]] == [str(place) for place in range(100)]
