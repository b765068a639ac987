"""Language identification: real languages, and the documents about which nothing may be said."""

from __future__ import annotations

import pytest

from sovereign.lake.demonstration import LANGUAGES, make_documents
from sovereign.lake.language import contradiction, identify, known_languages, primary
from sovereign.profile import Demonstration
from sovereign.profile_cleaning import LanguageCheck

TEXTS = {
    "en": (
        "All human beings are born free and equal in dignity and rights. They are endowed with reason"
        " and conscience and should act towards one another in a spirit of brotherhood. Everyone has "
        "the right to life and liberty."
    ),
    "fr": (
        "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de "
        "raison et de conscience et doivent agir les uns envers les autres dans un esprit de "
        "fraternité. Tout individu a droit à la vie."
    ),
    "ar": (
        "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا وعليهم أن يعامل "
        "بعضهم بعضًا بروح الإخاء. لكل إنسان حق التمتع بكافة الحقوق والحريات الواردة في هذا الإعلان، "
        "دون أي تمييز، كالتمييز بسبب العنصر أو اللون أو الجنس أو اللغة أو الدين أو الرأي السياسي. لكل"
        " فرد الحق في الحياة والحرية وسلامة شخصه."
    ),
    "zh": (
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。人人"
        "有资格享有本宣言所载的一切权利和自由，不分种族、肤色、性别、语言、宗教、政治或其他见解、国"
        "籍或社会出身、财产、出生或其他身份等任何区别。人人有权享有生命、自由和人身安全。任何人不得"
        "使为奴隶或奴役；一切形式的奴隶制度和奴隶买卖，均应予以禁止。法律之前人人平等，并有权享受法"
        "律的平等保护，不受任何歧视。"
    ),
    "no": (
        "Alle mennesker er født frie og med samme menneskeverd og menneskerettigheter. De er utstyrt "
        "med fornuft og samvittighet og bør handle mot hverandre i brorskapets ånd. Enhver har krav "
        "på alle de rettigheter og friheter som er nevnt i denne erklæring, uten forskjell av noen "
        "art, f. eks. på grunn av rase, farge, kjønn, språk, religion, politisk eller annen "
        "oppfatning, nasjonal eller sosial opprinnelse, eiendom, fødsel eller annet forhold."
    ),
    "th": ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ"),
}
CHECK = LanguageCheck(min_chars=50)


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_contradicts_every_language_but_its_own(language: str) -> None:
    assert identify(TEXTS[language])[0] == language
    for other in TEXTS:
        expected = None if other == language else language
        assert contradiction(TEXTS[language], other, CHECK) == expected


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (TEXTS["fr"][:40], "en"),  # too short
        (TEXTS["fr"], "wo"),  # a language that the model does not know
        (TEXTS["fr"], "be-Latn"),  # a script in which it may not know it
        (TEXTS["no"], "nb-NO"),
        (TEXTS["no"], "nn"),
        (TEXTS["zh"], "zh-Hant"),
        ("1 2 3 4 5 6 7 8 9 " * 20, "fr"),
        ("{x: [1, 2], y: (3, 4)}; " * 20, "fr"),
        ("   \n" * 50, "en"),
    ],
)
def test_nothing_is_said(text: str, language: str) -> None:
    assert contradiction(text, language, CHECK) is None


@pytest.mark.parametrize(
    ("tag", "language"),
    [("pt-BR", "pt"), ("nb", "no"), ("sr-Latn-RS", "sh"), ("id", "ms"), ("zh-Hant-TW", "zh"), ("fil", "tl")],
)
def test_tags_without_script_and_region(tag: str, language: str) -> None:
    assert primary(tag) == language
    assert primary(tag) in known_languages()


def test_no_article_of_the_demonstration_country_is_rejected() -> None:
    documents = list(make_documents(Demonstration(seed=3, facts=60)))
    assert {one.language for one in documents} == set(LANGUAGES)
    anything = LanguageCheck(min_chars=20)
    rejected = [one.text for one in documents if contradiction(one.text, one.language, anything)]
    assert rejected == []
