"""Near duplicates that differ in names or numbers are different texts; copies with errors and editions are one."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest

from sovereign.lake.facts_sketch import SKETCH_VALUES, are_apart, sketch
from sovereign.lake.neardedup import NUM_GROUPS, NearDuplicates
from sovereign.profile_cleaning import NearDuplicateRules

# ruff: noqa: E501
DECREES = {
    "de": (
        "Erlass Nr. {number} vom {date}. Aufgrund des Gesetzes über die öffentliche Verwaltung und nach Anhörung des "
        "Rates wird {name} mit Wirkung vom folgenden Tag zur Leiterin der Abteilung für öffentliche Arbeiten ernannt. "
        "Die Ernennung gilt für die Dauer von fünf Jahren und kann auf Antrag verlängert werden. Die Bezüge richten sich "
        "nach der geltenden Ordnung. Der Minister ist mit der Ausführung dieses Erlasses beauftragt, der im Amtsblatt "
        "veröffentlicht wird. Gegen diesen Erlass kann binnen eines Monats Beschwerde eingelegt werden. Diese hat keine "
        "aufschiebende Wirkung. {name} wird eine Abschrift zugestellt, die auch dem Personalamt übermittelt wird."
    ),
    "fr": (
        "Décret numéro {number} du {date}. Vu la loi relative à la fonction publique, et après avis du conseil, il est "
        "décidé que {name} est admise à exercer la profession dans le ressort du tribunal à compter de la publication du "
        "présent décret, sous réserve du respect des conditions que la loi impose à toutes les personnes qui exercent "
        "cette profession. Le ministre est chargé de l'exécution du présent décret, qui sera publié au journal officiel. "
        "Le présent décret peut être contesté devant le juge dans un délai de deux mois à compter de sa publication, et "
        "une copie en est remise à {name} par les soins du greffe, qui en garde la trace dans ses registres."
    ),
    "ar": (
        "مرسوم رقم {number} بتاريخ {date}. بناء على القانون المتعلق بالوظيفة العمومية وبعد استشارة المجلس تقرر تعيين "
        "{name} في منصب رئيس مصلحة الأشغال العمومية ابتداء من تاريخ نشر هذا المرسوم لمدة خمس سنوات قابلة للتجديد بطلب "
        "من المعني بالأمر. يكلف الوزير بتنفيذ هذا المرسوم الذي ينشر في الجريدة الرسمية. ويمكن الطعن في هذا المرسوم أمام "
        "المحكمة خلال شهرين من تاريخ نشره. وتسلم نسخة منه إلى المعني بالأمر وأخرى إلى مصلحة الموظفين التي تحتفظ بها في "
        "سجلاتها وفق النظام المعمول به في جميع المصالح والإدارات العمومية للدولة والجماعات المحلية التابعة لها كلها."
    ),
    "zh": (
        "第{number}号决定，{date}。根据公务员法的有关规定，经委员会审议，决定任命{name}为公共工程部门负责人，任期五年，"
        "自本决定公布之日起生效，任期届满后可以依申请延长。薪酬按照现行规定执行。由主管部长负责执行本决定，并在政府公报上"
        "公布。对本决定不服的，可以自公布之日起两个月内向法院提起诉讼，诉讼期间不停止执行。本决定的副本送交本人，并送交"
        "人事部门存档。各有关部门应当按照规定办理交接手续，妥善保管文件和资料，保证各项工作的连续性和稳定性。"
        "公共工程部门应当按照年度计划组织实施各项工程，加强质量管理和安全监督，定期向委员会报告工作进展情况，"
        "接受社会各界的监督。对在工作中做出显著成绩的单位和个人，按照国家有关规定给予表彰和奖励。对违反规定造成损失的，"
        "依法追究有关人员的责任。本决定未尽事宜，由主管部门另行规定。原有规定与本决定不一致的，以本决定为准。"
        "地方各级部门可以根据本地区的实际情况制定具体的实施办法，并报上级主管部门备案，在批准后公布施行。"
    ),
}
NAMES = {
    "de": ["Anna Schmidt", "Petra Müller", "Karin Özdemir"],
    "fr": ["Marie Dupont", "Claire Martin", "Élodie Lefèvre"],
    "ar": ["أحمد المنصوري", "فاطمة الزهراء", "يوسف بنعلي"],
    "zh": ["王小明", "李建国", "张美丽"],
}


def decrees(language: str, count: int = 3) -> list[str]:
    return [
        DECREES[language].format(number=17 + place, date=f"{place + 3}.04.2001", name=NAMES[language][place % 3])
        for place in range(count)
    ]


def clusters(texts: list[str], folder: Path, **rules: object) -> int:
    """How many texts are kept."""
    near = NearDuplicates(
        folder / "near", NearDuplicateRules.model_validate({"min_chars": 100, "similarity": 0.6, **rules})
    )
    for text in texts:
        assert near.add(hashlib.sha256(text.encode()).digest(), text)
    links = [folder / f"links-{group}" for group in range(NUM_GROUPS)]
    for group, path in enumerate(links):
        near.link(group, path)
    return len(set(near.representatives(links).tolist()))


def with_errors(text: str, rng: random.Random, count: int) -> str:
    """As scanned: letters of some words come out as others."""
    words = text.split(" ")
    for place in rng.sample(range(len(words)), count):
        letter = rng.randrange(len(words[place]))
        words[place] = words[place][:letter] + rng.choice("ceoilmn") + words[place][letter + 1 :]
    return " ".join(words)


@pytest.mark.parametrize("language", DECREES)
def test_l9_decrees_for_different_people_are_kept(language: str, tmp_path: Path) -> None:
    assert clusters(decrees(language), tmp_path) == 3


@pytest.mark.parametrize("language", DECREES)
def test_l9_without_the_rule_they_are_one(language: str, tmp_path: Path) -> None:
    assert clusters(decrees(language), tmp_path, keep_different_facts=False) == 1


@pytest.mark.parametrize("language", ["de", "fr"])
@pytest.mark.parametrize(("key", "value"), [("number", "18"), ("date", "3.04.2002"), ("name", "Petra Schmidt")])
def test_l9_one_name_or_number_is_enough(language: str, key: str, value: str, tmp_path: Path) -> None:
    fields = {"number": "17", "date": "3.04.2001", "name": "Anna Schmidt"}
    texts = [DECREES[language].format(**fields), DECREES[language].format(**fields | {key: value})]
    assert clusters(texts, tmp_path) == 2


def test_l9_the_form_without_a_name_joins_no_decrees(tmp_path: Path) -> None:
    empty = DECREES["fr"].format(number="...", date="...", name="...")
    assert clusters([*decrees("fr"), empty], tmp_path) >= 3


@pytest.mark.parametrize("language", ["de", "fr"])
def test_l9_copies_of_one_decree_are_one(language: str, tmp_path: Path) -> None:
    """Line breaks, case, a notice at the end, an added sentence, a reworded one, and errors of a scan."""
    one = decrees(language)[0]
    rng = random.Random(5)
    copies = [
        one.replace(" ", "\n", 30),
        one.upper(),
        one + " veröffentlicht im Amtsblatt, Seite 12",
        "Kopie. " + one,
        one.replace("öffentliche", "staatliche").replace("présent", "dit", 1),
        *(with_errors(one, rng, {"de": 6, "fr": 3}[language]) for _ in range(5)),
    ]
    for place, copy in enumerate(copies):
        folder = tmp_path / str(place)
        folder.mkdir()
        assert clusters([one, copy], folder) == 1, copy


def test_l9_copies_are_found_among_many_decrees(tmp_path: Path) -> None:
    """Each decree has a copy with other line breaks and a note: beside it among hundreds that are almost the same."""
    made = [
        DECREES["fr"].format(number=number, date=f"{number % 28}.04.{1800 + number}", name=f"Marie Dupont-{number}")
        for number in range(300)
    ]
    copies = [text.replace(" du ", " \n du ") + " (copie conforme)" for text in made]
    assert 300 <= clusters([*made, *copies], tmp_path) <= 306


def test_l9_a_sketch_is_of_words_with_their_order_of_letters() -> None:
    def parted(one: str, other: str) -> bool:
        return bool(are_apart(sketch(one)[None], sketch(other)[None])[0])

    assert parted("the sum of 1121 was paid", "the sum of 1211 was paid")
    assert parted("to Ms Marta", "to Ms Tamar")
    assert not parted("to Ms Marta, 12", "to Ms\nMarta (12)")
    assert not parted("to Ms Marta", "to Ms Marta and Ms Anna"), "one has all that the other has"
    assert sketch("").tolist() == [0] * SKETCH_VALUES == sketch(" -- \n").tolist()
    long = "".join(chr(97 + number % 26) + " " * (number % 3) for number in range(100_000))
    assert np.array_equal(sketch(long), sketch(long + " ")), "also beyond what is kept of powers"
    assert not parted("𠀀𠀁 Ms Marta 😀", "𠀀𠀁 Ms Marta 😀")
