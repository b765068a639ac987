"""Quality rules: metrics against a plain loop, one text for each rule, and prose of several scripts that passes."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign.lake.quality import assess, duplicate_ngrams, measure, rules_for, top_ngram
from sovereign.lake.words import Words
from sovereign.profile_cleaning import LanguageRules, Quality

PROSE = {
    "en": "The council of the town met on the third day of the month and heard what its members had to say. ",
    "fr": "Le conseil de la ville s'est réuni le troisième jour du mois et a entendu ce que ses membres disaient. ",
    "ar": "اجتمع مجلس المدينة في اليوم الثالث من الشهر واستمع إلى ما أراد أعضاؤه أن يقولوه عن مياه النهر. ",
    "zh": "本月第三日，市议会召开会议，听取了各位议员的意见。河水的价格没有变化，渡船的时刻也保持不变。",
    "ja": "今月三日、市議会が開かれ、議員の意見が述べられた。川の水の料金は変わらず、渡し船の時刻もそのままである。",
    "th": "สภาเมืองประชุมกันในวันที่สามของเดือนและรับฟังความเห็นของสมาชิกเรื่องราคาน้ำจากแม่น้ำและเวลาเดินเรือข้ามฟาก ",
    "lo": "ສະພາເມືອງປະຊຸມກັນໃນວັນທີສາມຂອງເດືອນ ແລະ ຮັບຟັງຄວາມເຫັນຂອງສະມາຊິກເລື່ອງລາຄານ້ຳ ແລະ ເວລາເຮືອຂ້າມຟາກ ",
    "km": "មនុស្សទាំងអស់កើតមកមានសេរីភាព និងសមភាព ក្នុងផ្នែកសេចក្ដីថ្លៃថ្នូរ និងសិទ្ធិ។ មនុស្សមានវិចារណញ្ញាណនិងសតិសម្បជញ្ញៈជាប់ពីកំណើត",
    "my": "လူတိုင်းသည် တူညီလွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့်လည်းကောင်း၊ တူညီလွတ်လပ်သော အခွင့်အရေးများဖြင့်လည်းကောင်း မွေးဖွားလာသူများ ဖြစ်သည်။",
    "dz": "རྒྱལ་པོ་དང་བློན་པོ་ཚུ་གིས་འབྲུག་རྒྱལ་ཁབ་ནང་ལུ་ཆུ་གི་འཆར་གཞི་གསརཔ་ཅིག་བཟོ་ཡི།",
}
"""Burmese and Khmer from article 1 of the Universal Declaration of Human Rights."""
_BETWEEN = {"en": " ", "fr": " ", "ar": " ", "dz": "་"}


def prose(language: str, sentences: int = 40, seed: int = 0) -> str:
    """Sentences with the words or characters of `PROSE` in ever new order, four in a line."""
    rng = random.Random(seed)
    between = _BETWEEN.get(language, "")
    parts = PROSE[language].strip("།").replace("་", " ").split() if between else list(PROSE[language].strip())
    end = {"zh": "。", "ja": "。", "th": "", "lo": "", "km": "។", "my": "။", "dz": "།"}.get(language, ".")
    lines = []
    for _ in range(sentences):
        some = rng.choices(parts, k=len(parts))
        lines.append(between.join(some) + end)
    return "\n".join(" ".join(lines[start : start + 4]) for start in range(0, sentences, 4))


@pytest.mark.parametrize("language", PROSE)
def test_prose_of_every_script_passes(language: str) -> None:
    quality, failed = assess(prose(language), language, Quality())
    assert failed == ""
    assert quality is not None
    assert 0.7 < quality < 1


@pytest.mark.parametrize("language", PROSE)
def test_repetition_is_found_in_every_script(language: str) -> None:
    text = prose(language, 8) + "\n" + " ".join([prose(language, 4, seed=1)] * 5).replace("\n", " ")
    assert assess(text, language, Quality())[1].startswith("duplicate_")


LINES = [f"Line number {n} says that the {n * 7919 % 1000}th boat of a town sails with the wind." for n in range(60)]
ENGLISH = prose("en")


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        (" ".join("of a to be in it" if n % 3 else f"w{n}" for n in range(400)), "mean_word_length"),
        (" ".join(f"the of incomprehensibilities{n}" * 3 for n in range(200)), "mean_word_length"),
        (ENGLISH + " #" * 200, "hashes_per_word"),
        (ENGLISH.replace(".", " ... ... ... ... ..."), "ellipses_per_word"),
        ("\n".join(f"• {line}" for line in LINES), "bullet_lines"),
        ("\n".join(line + ".." if n % 2 else line for n, line in enumerate(LINES)), "ellipsis_lines"),
        (" ".join(f"the price of {n} and {n + 1} , {n * n}" for n in range(100)), "alphabetic_words"),
        ("\n".join(" ".join(f"xu{n}ax{m}" for m in range(8)) for n in range(30)), "stop_words"),
        ("\n".join(LINES[:9] * 2 + LINES[:2]), "duplicate_lines"),
        (ENGLISH + "\n" + "\n".join(["It is the law that a boat on the river pays."] * 14), "duplicate_lines"),
        (" ".join(f"the-people{n} of-and to be {'council said' if n % 2 else ''}" for n in range(100)), "top_2gram"),
        ("\n".join(f"the\nw{n * 31}\nof\nx{n}\nand" for n in range(60)), "lines_per_word"),
        (ENGLISH + " Lorem ipsum dolor sit amet.", "forbidden_phrases"),
    ],
)  # fmt: skip
def test_each_rule(text: str, failed: str) -> None:
    quality, found = assess(text, "en", Quality())
    metrics = measure(Words(text, "en"), rules_for(Quality(), "en"))
    limits = rules_for(Quality(), "en")
    low, high = getattr(limits, f"min_{failed}", None), getattr(limits, f"max_{failed}", None)
    assert (low is not None and metrics[failed] < low) or (high is not None and metrics[failed] > high)
    assert found != ""
    assert quality is not None
    assert quality < assess(ENGLISH, "en", Quality())[0]  # type: ignore[operator]


def reference_top(tokens: list[str], length: int) -> float:
    grams = Counter(tuple(tokens[n : n + length]) for n in range(len(tokens) - length + 1))
    most = max(grams.values(), default=0)
    if most < 2:
        return 0.0
    longest = max(len("".join(gram)) for gram, count in grams.items() if count == most)
    return min(1.0, most * longest / len("".join(tokens)))


def reference_duplicates(tokens: list[str], length: int) -> float:
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for n in range(len(tokens) - length + 1):
        gram = tuple(tokens[n : n + length])
        if gram in seen:
            covered.update(range(n, n + length))
        seen.add(gram)
    return sum(len(tokens[n]) for n in covered) / len("".join(tokens))


@given(st.lists(st.sampled_from(["a", "bb", "é", "ddd", "الماء", "x1"]), min_size=1, max_size=60), st.integers(2, 10))
def test_ngram_metrics_are_those_of_a_plain_loop(tokens: list[str], length: int) -> None:
    words = Words(" ".join(tokens), "en")
    assert words.lengths.tolist() == [len(token) for token in tokens]
    assert top_ngram(words, length) == pytest.approx(reference_top(tokens, length))
    assert duplicate_ngrams(words, length) == pytest.approx(reference_duplicates(tokens, length))


@given(st.text(max_size=200))
def test_any_text_can_be_judged(text: str) -> None:
    rules = Quality(measured_from_words=1)
    quality, _ = assess(text, "en", rules)
    assert quality is None or 0 <= quality <= 1
    assert Words(text, "en").count == len(Words(text, "en").lengths) // Words(text, "en").units_per_word


def test_characters_are_units_where_words_have_no_spaces() -> None:
    assert Words("維爾 City 莫拉。", "zh").lengths.tolist() == [1, 1, 4, 1, 1, 1]
    assert Words("ราคา", "th").lengths.tolist() == [1, 1, 1, 1]
    assert Words("ဖြစ်သည်", "my").with_letter == len("ဖြစ်သည်")
    assert Words("བཀྲ་ཤིས\u0f0cབདེ་ལེགས། །", "bo").lengths.tolist() == [3, 3, 3, 5, 1]
    assert Words(PROSE["zh"] * 3, "und").units_per_word == 2
    assert Words(PROSE["en"] * 3, "und").units_per_word == 1


def test_short_documents_are_not_judged() -> None:
    assert assess("no no no no", "en", Quality()) == (None, "")
    assert assess("", "en", Quality()) == (None, "")


def test_a_profile_says_only_what_was_given_for_a_language() -> None:
    """Else a general limit that is changed later would not count for it, nor in the receipt's key."""
    given = Quality(max_top_2gram=0.5, languages={"fr": LanguageRules(max_top_2gram=0.2), "ar": LanguageRules()})
    dumped = given.model_dump(mode="json")
    assert dumped["languages"] == {"fr": {"max_top_2gram": 0.2}, "ar": {}}
    again = Quality.model_validate(dumped)
    assert [rules_for(again, tag).max_top_2gram for tag in ("fr", "ar")] == [0.2, 0.5]


def test_limits_of_a_language() -> None:
    text = ENGLISH.replace("the", "le").replace("of", "de").replace("and", "et").replace("to", "à")
    assert assess(text, "fr", Quality())[1] == ""
    own = Quality(
        languages={"fr": LanguageRules(max_mean_word_length=3), "fr-CA": LanguageRules(max_mean_word_length=None)}
    )
    assert assess(text, "fr-FR", own)[1] == "mean_word_length"
    assert assess(text, "fr-CA", own)[1] == ""
    assert rules_for(own, "fr").max_top_2gram == Quality().max_top_2gram


@pytest.mark.timeout(120)  # it takes 0.2 s; in quadratic time it would take hours
@pytest.mark.parametrize(
    ("unit", "reason"),
    [
        ("a", ""),
        ("a ", "mean_word_length"),
        ("\n", ""),
        ("ab\n", "mean_word_length"),
        ("…", ""),
        ("文", "stop_words"),
        ("a b c d e ", "mean_word_length"),
    ],
)
def test_long_texts_do_not_take_quadratic_time(unit: str, reason: str) -> None:
    assert assess(unit * (400_000 // len(unit)), "en", Quality())[1] == reason
