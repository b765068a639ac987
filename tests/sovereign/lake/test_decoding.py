"""Encodings: every text is read as it was written or refused, never as something else."""

from __future__ import annotations

import codecs
import unicodedata
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign.lake.decoding import decode, find_encoding, fits
from sovereign.lake.records import Unreadable

TEXTS = {
    "en": "The “naïve” café – opened in 1987 by Mr Ångström – sells crêpes, and its owner’s résumé is well known.",
    "fr": "Où est l’école ? Les élèves ont déjà mangé leur gâteau ; c’est l’été, et la forêt est calme à Besançon.",
    "de": "Die Straße führt über größere Hügel zum schönen Schloß; dort wohnen fünf Mädchen und ihre Großmütter.",
    "es": "¿Dónde está el niño? Mañana iré a la estación con mi compañera, si el camión todavía no llegó aquí.",
    "is": "Þetta er íslenskur texti með mörgum sérstökum stöfum, eins og það er skrifað á eyjunni í norðri.",
    "pl": "Zażółć gęślą jaźń. Każdy człowiek ma prawo do życia, wolności i bezpieczeństwa swojej osoby w państwie.",
    "cs": "Příliš žluťoučký kůň úpěl ďábelské ódy. Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti.",
    "hu": "Árvíztűrő tükörfúrógép. Minden emberi lény szabadon születik és egyenlő méltósága és joga van.",
    "lt": "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis. Jiems suteiktas protas ir sąžinė.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони наділені розумом і совістю.",
    "bg": "Всички хора се раждат свободни и равни по достойнство и права. Те са надарени с разум и съвест.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 이성과 양심을 부여받았다.",
}
"""From the Universal Declaration of Human Rights, or with every letter that tells encodings apart."""
TRADITIONAL = "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神相對待。"
LATIN = ("en", "fr", "de", "es", "is", "pl", "cs", "hu", "lt", "tr")
ENCODINGS = (
    "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "iso8859-15", "cp1250", "iso8859-2",
    "cp1257", "iso8859-13", "cp1254", "cp1251", "koi8-r", "koi8-u", "iso8859-5", "cp866", "cp1253", "iso8859-7",
    "cp1255", "iso8859-8", "cp1256", "iso8859-6", "cp874", "gb18030", "big5", "cp932", "euc_jp", "iso2022_jp", "cp949",
)  # fmt: skip


def encode(text: str, encoding: str) -> bytes | None:
    """The bytes, without punctuation that the encoding does not have; None when it does not have the letters."""
    kept = "".join(char for char in text if char.isalnum() or char.isspace() or _has(encoding, char))
    try:
        return kept.encode(encoding)
    except UnicodeEncodeError:
        return None


def _has(encoding: str, char: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("language", "encoding"),
    [
        *((language, "cp1252") for language in ("en", "fr", "de", "es", "is")),
        *((language, "utf-16") for language in TEXTS),
        *((language, "utf-16-le") for language in ("en", "fr", "de", "pl")),
        ("fr", "iso8859-15"), ("pl", "cp1250"), ("pl", "iso8859-2"), ("cs", "cp1250"), ("cs", "iso8859-2"),
        ("hu", "cp1250"), ("hu", "iso8859-2"), ("lt", "cp1257"), ("tr", "cp1254"), ("tr", "iso8859-9"),
        ("ru", "cp1251"), ("ru", "koi8-r"), ("ru", "iso8859-5"), ("ru", "cp866"), ("uk", "cp1251"), ("uk", "koi8-u"),
        ("bg", "cp1251"), ("el", "cp1253"), ("el", "iso8859-7"), ("he", "cp1255"), ("ar", "cp1256"),
        ("ar", "iso8859-6"), ("th", "cp874"), ("zh", "gb18030"), ("ja", "cp932"), ("ja", "euc_jp"),
        ("ja", "iso2022_jp"), ("ko", "cp949"),
    ],
)  # fmt: skip
def test_encodings_in_use_for_a_language_are_recognised(language: str, encoding: str) -> None:
    data = encode(TEXTS[language], encoding)
    assert data is not None
    assert decode(data, language) == data.decode(encoding)
    assert decode(data, f"{language}-XX") == data.decode(encoding)


def test_traditional_chinese() -> None:
    assert decode(TRADITIONAL.encode("big5"), "zh") == TRADITIONAL
    assert decode(TRADITIONAL.encode("gb18030"), "zh") == TRADITIONAL


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("language", TEXTS)
def test_a_text_is_read_as_it_was_written_or_refused(language: str, encoding: str) -> None:
    """Also where the profile names a language of another script, and whatever a page declares."""
    data = encode(TEXTS[language], encoding)
    if data is None:
        return
    wanted = data.decode(encoding).removeprefix("\ufeff")
    for told, declared in [
        *((other, None) for other in TEXTS if other not in LATIN or language not in LATIN or other == language),
        *((language, label) for label in ("windows-1251", "big5", "no-such-encoding", "utf-16")),
    ]:
        with suppress(Unreadable):
            assert decode(data, told, declared=declared) == wanted, (told, declared)


@settings(deadline=None)
@given(data=st.binary(max_size=60), language=st.sampled_from(sorted(TEXTS)))
def test_any_bytes_are_decoded_or_refused(data: bytes, language: str) -> None:
    try:
        decode(data, language).encode()
    except Unreadable as error:
        assert error.message.startswith("not UTF-8")


def test_what_the_profile_says_is_taken_as_true() -> None:
    data = TEXTS["ru"].encode("koi8-r")
    assert decode(data, "en", encoding="koi8-r") == TEXTS["ru"]
    with pytest.raises(Unreadable, match="not cp949"):
        decode(b"\xff\xff", "ko", encoding="cp949")


def test_what_a_page_declares_counts_when_its_letters_agree() -> None:
    assert decode(TEXTS["ru"].encode("koi8-r"), "en", declared="KOI8-R") == TEXTS["ru"]
    assert decode(TEXTS["zh"].encode("gbk"), "en", declared="gb2312") == TEXTS["zh"]
    assert decode(TEXTS["en"].encode("cp1252"), "en", declared="ISO-8859-1") == TEXTS["en"]
    assert decode(TEXTS["en"].encode(), "en", declared="ISO-8859-1") == TEXTS["en"]
    with pytest.raises(Unreadable):
        decode(TEXTS["ru"].encode("cp1251"), "en", declared="ISO-8859-1")


def test_null_bytes_alone_are_no_reason_to_refuse() -> None:
    assert decode(b"a text with one \0 in it", "en") == "a text with one \0 in it"
    with pytest.raises(Unreadable):
        decode(b"\0\1\2\3" * 100, "en")


@pytest.mark.parametrize("data", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE])
def test_nothing_is_a_text(data: bytes) -> None:
    assert decode(data, "en") == ""


def test_encoding_of_a_sample() -> None:
    lines = (TEXTS["ru"] + "\n").encode("cp1251")
    assert find_encoding(lines, "ru") == "cp1251"
    assert find_encoding(lines, "en") == "utf-8"
    assert find_encoding(codecs.BOM_UTF16_LE + "text".encode("utf-16-le"), "en") == "utf-16"
    assert fits(TEXTS["ru"], "ru") and not fits(TEXTS["ru"], "en")


@pytest.mark.parametrize("declared", ["unicode_escape", "raw_unicode_escape", "utf-7"])
def test_codecs_that_are_no_encodings_of_pages_cannot_be_declared(declared: str) -> None:
    text = "Le caf\\u00e9 a \u00e9t\u00e9 ferm\u00e9, et le th\u00e9\u00e2tre aussi \u00e0 cause de la gr\u00e8ve."
    assert decode(text.encode("cp1252"), "fr", declared=declared) == text


@pytest.mark.parametrize(
    ("language", "encoding", "text"),
    [
        ("fr", "iso8859-15", "L'œuvre"),
        ("fr", "iso8859-15", "Le cœur et l'œuvre de sa sœur, à Œting"),
        ("fr", "cp1252", "École"),
        ("cs", "iso8859-2", "Žena a Šaty"),
        ("cs", "cp1250", "Žena a Šaty"),
        ("sk", "iso8859-2", "Šaty, Žena a Ľudia sú tu"),
        ("pl", "iso8859-2", "Łódź i Świat"),
        ("en", "cp1252", "½ litre of milk – 5 €"),
        ("de", "iso8859-15", "Das kostet 5 € für alle"),
        ("ro", "cp1250", "Câți oameni trăiesc în țara noastră?".replace("ț", "ţ")),
        ("vi", "cp1258", "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền."),
        ("et", "cp1257", "Kõik inimesed sünnivad vabadena ja võrdsetena oma väärikuselt ja õigustelt."),
        ("hr", "cp852", "Sva ljudska bića rađaju se slobodna i jednaka u dostojanstvu i pravima."),
        ("ru", "mac-cyrillic", "Все люди рождаются свободными и равными в своём достоинстве и правах."),
        ("el", "cp737", "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα."),
        ("he", "cp862", "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם."),
        ("ja", "cp932", "㈱山田商店は、①東京と②大阪に支店があります。"),
        ("ja", "euc_jis_2004", "㈱山田商店は、①東京と②大阪に支店があります。"),
        ("zh", "big5hkscs", "佢哋喺香港嘅屋企，話畀我知。"),
        ("zh", "big5hkscs", "香港鰂魚涌的居民說，這裡的街市已經有很多年的歷史了。"),
        ("zh", "hz", "人人生而自由，在尊严和权利上一律平等。"),
        ("ko", "iso2022_kr", "모든 인간은 태어날 때부터 자유로우며"),
        ("fr", "utf-7", "Où est l'école ? Les élèves ont déjà mangé."),
        ("de", "utf-32-le", "Die Straße führt über Hügel."),
        *(
            (language, encoding, TEXTS[language])
            for language in ("he", "ar", "ja", "ko", "zh", "uk", "el", "th")
            for encoding in ("utf-16-le", "utf-16-be")
        ),
        ("fa", "utf-16-le", "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند."),
    ],
)
def test_l4_encodings_that_differ_in_a_letter(language: str, encoding: str, text: str) -> None:
    wanted = text.translate(str.maketrans("ţ", "ț")) if language == "ro" else text
    data = _vietnamese(text) if encoding == "cp1258" else text.encode(encoding)
    assert decode(data, language) == wanted


def _vietnamese(text: str) -> bytes:
    """In cp1258 the mark of a tone stands after its letter."""
    found = bytearray()
    for char in text:
        try:
            found += char.encode("cp1258")
        except UnicodeEncodeError:
            letter, mark = _parted(char)
            found += letter.encode("cp1258") + mark.encode("cp1258")
    return bytes(found)


def _parted(char: str) -> tuple[str, str]:
    whole = unicodedata.normalize("NFD", char)
    mark = next(one for one in whole if one in "\u0300\u0301\u0303\u0309\u0323")
    return unicodedata.normalize("NFC", whole.replace(mark, "")), mark


def test_l4_the_error_names_the_two_encodings() -> None:
    with pytest.raises(Unreadable, match=r"^not UTF-8, and as well cp\d+ as cp\d+$"):
        decode("Käik".encode("cp1257"), "et")


@pytest.mark.parametrize("declared", [None, "iso-8859-1", "windows-1252", "utf-8", "iso-8859-15"])
def test_l4_a_wrong_declaration_does_not_beat_the_letters(declared: str | None) -> None:
    text = "Le cœur, l'œuvre et la sœur"
    assert decode(text.encode("iso8859-15"), "fr", declared=declared) == text


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "In LaTeX write Fig.~{a} and ~{b}~} or C+abc-d, 1+1-2."),
        ("zh", "In LaTeX write Fig.~{a} and b"),
        ("en", "The codec of +AOk- is UTF-7; x+y-z"),
    ],
)
def test_l4_ascii_stays(language: str, text: str) -> None:
    assert decode(text.encode(), language) in (text, text.replace("+AOk-", "é"))
