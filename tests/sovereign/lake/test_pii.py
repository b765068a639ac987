"""Personal data: real formats are masked, what only looks like it is left alone."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from sovereign.errors import StageError
from sovereign.lake.demonstration import make_documents
from sovereign.lake.phones import phone_finder
from sovereign.lake.pii import FINDERS, Masker
from sovereign.profile import Demonstration
from sovereign.profile_cleaning import PersonalData


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to a.b-c+d@mail.gov.xx.", "Write to <EMAIL>."),
        ("<jörg@bücher.example> (o'neil@x.org)", "<<EMAIL>> (o'<EMAIL>)"),
        ("邮箱：li.wei@example.cn，电话：+86 10 6552 9988。", "邮箱：<EMAIL>，电话：<PHONE>。"),
        ("from 8.8.8.8 and 2a00:1450:4007:80e::200e, port 53", "from <IP> and <IP>, port 53"),
        ("IBAN FR14 2004 1010 0505 0001 3M02 606 THE BANK", "IBAN <IBAN> THE BANK"),
        ("DE89370400440532013000, GB29NWBK60161331926819.", "<IBAN>, <IBAN>."),
        ("Visa 4111 1111 1111 1111; 378282246310005", "Visa <CARD>; <CARD>"),
        ("n° 2 69 05 49 588 157 80, né en Corse : 1 55 08 2A 001 001 40", "n° <FR-NIR>, né en Corse : <FR-NIR>"),
        ("Tel. +33 1 42 68 53 00 or +1 (650) 253-0000", "Tel. <PHONE> or <PHONE>"),
        ("هاتف: +966 11 401 4444", "هاتف: <PHONE>"),
        ("请写信至alice@example.org以便我们能够在两周之内给您答复", "请写信至<EMAIL>以便我们能够在两周之内给您答复"),
        ("联系alice@example.org请，用户@例子.中国。", "联系<EMAIL>请，<EMAIL>。"),
        ("这" * 70 + "alice@example.org。", "这" * 70 + "<EMAIL>。"),
        ("服务器8.8.8.8的地址，卡号4111111111111111有效", "服务器<IP>的地址，卡号<CARD>有效"),
        ("账户FR1420041010050500013M02606是", "账户<IBAN>是"),
        ("_alice@example.org_, bob@example.org-; c@xn--e1afmkfd.xn--p1ai", "<EMAIL>_, <EMAIL>-; <EMAIL>"),
        ("alice＠example.org", "<EMAIL>"),
        ("IBAN FR14\u00a02004\u00a01010\u00a00505\u00a00001\u00a03M02\u00a0606.", "IBAN <IBAN>."),
        ("fr14 2004 1010 0505 0001 3m02 606, de89370400440532013000", "<IBAN>, <IBAN>"),
        ("4111\u202f1111\u202f1111\u202f1111", "<CARD>"),
        ("2\u00a069\u00a005\u00a049\u00a0588\u00a0157\u00a080", "<FR-NIR>"),
    ],
)  # fmt: skip
def test_masked(text: str, masked: str) -> None:
    found, counts = Masker(PersonalData()).mask(text)
    assert found == masked
    assert sum(counts.values()) == sum(masked.count(f"<{kind.upper()}>") for kind in PersonalData().kinds)
    assert Masker(PersonalData()).mask(masked) == (masked, {})


@pytest.mark.parametrize(
    "text",
    [
        "@property def a@b: the price is 5@2.50",
        "user@localhost, @handle, a@b@c.org@d",
        "127.0.0.1, 10.0.0.7, 192.168.1.1, 203.0.113.9, version 1.2.3.4.5, 999.1.1.1",
        "12:30:45, std::vec::Vec, fe80::1, ::1, 2001:db8::1",
        "FR14 2004 1010 0505 0001 3M02 607",  # checksum
        "DE8937040044053201300",  # length
        "XX89370400440532013000",  # country
        "4111 1111 1111 1112",  # Luhn
        "9999999999999995",  # Luhn is right, no issuer
        "2 69 05 49 588 157 81",
        "In 2024, 1 234 567 people; call 112; ISBN 978-3-16-148410-0; 01 42 68 53 00",
        "pi is 3.14159265358979323846264338327950288419716939937510",
    ],
)
def test_left_alone(text: str) -> None:
    assert Masker(PersonalData()).mask(text) == (text, {})


def test_numbers_without_country_code_need_their_region() -> None:
    text = "Appelez le 01 42 68 53 00 ou le (030) 901820."
    assert Masker(PersonalData(phone_regions=("FR",))).mask(text)[0] == "Appelez le <PHONE> ou le (030) 901820."
    assert Masker(PersonalData(phone_regions=("FR", "DE"))).mask(text)[0].count("<PHONE>") == 2


def test_a_phone_number_behind_many_other_numbers_is_found() -> None:
    text = "1234567 x " * 66_000
    assert Masker(PersonalData(kinds=("phone",))).mask(text + "+33 6 12 34 56 78")[0] == text + "<PHONE>"


def test_demonstration_country_has_none() -> None:
    masker = Masker(PersonalData())
    for document in make_documents(Demonstration(seed=5, facts=150)):
        assert masker.mask(document.text) == (document.text, {})


def patterns(find: Callable[..., object]) -> Iterator[re.Pattern[str]]:
    """Every regular expression that a finder uses."""
    used = inspect.getclosurevars(find)
    for value in (*used.nonlocals.values(), *used.globals.values()):
        if isinstance(value, re.Pattern):
            yield value
        elif inspect.isfunction(value):
            yield from patterns(value)


@pytest.mark.parametrize("kind", [*FINDERS, "phone", "phone with regions"])
def test_no_pattern_can_match_a_long_text(kind: str) -> None:
    """So that the time which a pattern takes at a place of a text does not depend on the text's length."""
    find = FINDERS[kind] if kind in FINDERS else phone_finder(("FR", "DE") if "with" in kind else ())
    parse = importlib.import_module("re._parser").parse
    found = list(patterns(find))
    assert found
    for pattern in found:
        assert parse(pattern.pattern, pattern.flags).getwidth()[1] < 600, pattern.pattern


def calls(masker: Masker, text: str) -> int:
    """Calls and returns of functions, in Python and in C, while a text is masked."""
    count = 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        masker.mask(text)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("unit", ["a", "1", "a@", "1.", "1 ", "2a00:", "FR14", "+1 ", "@a.", "A1 ", "-", "é@é."])
def test_work_grows_with_the_text_and_no_faster(unit: str) -> None:
    masker = Masker(PersonalData())
    masker.mask(unit * 10)  # loads what phonenumbers needs
    once, twice = (calls(masker, unit * (size // len(unit))) for size in (2_000, 4_000))
    assert twice < 2.1 * once


def test_plug_in_of_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ministry_identifiers.py").write_text(
        "import re\ndef find(text):\n    return (match.span() for match in re.finditer(r'TM-\\d{6}', text))\n"
    )
    (tmp_path / "ministry_identifiers-1.dist-info").mkdir()
    (tmp_path / "ministry_identifiers-1.dist-info" / "entry_points.txt").write_text(
        "[sovereign.pii]\ntm-id = ministry_identifiers:find\n"
    )
    with pytest.raises(StageError, match="unknown kind of personal data\n  got: tm-id\n  expected: card, email"):
        Masker(PersonalData(kinds=("tm-id",)))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    masker = Masker(PersonalData(kinds=("email", "tm-id")))
    assert masker.mask("Citizen TM-123456, a@b.org") == ("Citizen <TM-ID>, <EMAIL>", {"email": 1, "tm-id": 1})


def masked(text: str, *regions: str) -> str:
    return Masker(PersonalData(phone_regions=regions)).mask(text)[0]


@pytest.mark.parametrize("region", ["DE", "FI", "NO", "DK", "FR", "ES", "US", "PL", "BR", "CN", "RU", "IT"])
def test_l2_no_date_is_a_phone_number(region: str) -> None:
    """Every day of a leap year, in the ways that dates are written."""
    days = [date(2004, 1, 1) + timedelta(days=number) for number in range(366)]
    forms = ("%d.%m.%Y", "%d/%m/%Y", "%d-%m-%Y", "%Y-%m-%d", "%Y/%m/%d", "%m/%d/%Y", "%d. %m. %Y", "%Y%m%d")
    text = "\n".join(f"gestorben {day.strftime(form)} in Bonn" for day in days for form in forms)
    assert masked(text, region) == text


@pytest.mark.parametrize("separator", [" ", "/", "-", "\u2013", "\u00a0", "\u2009", "\u202f"])
@pytest.mark.parametrize("code", ["+49", "0049", "\uff0b\uff14\uff19"])
@pytest.mark.parametrize("regions", [(), ("DE",), ("FR", "US")])
def test_l2_numbers_with_a_country_code(separator: str, code: str, regions: tuple[str, ...]) -> None:
    assert (
        masked(f"Sie ist {separator.join((code, '30', '901820'))}, Zimmer 3", *regions) == "Sie ist <PHONE>, Zimmer 3"
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[+49] 30 901820 or +49 [30] 901820", "<PHONE> or <PHONE>"),
        ("+49 (0)30 901820, +49 (30) 901820", "<PHONE>, <PHONE>"),
        ("<a href='tel:+49-30-901820'>", "<a href='tel:<PHONE>'>"),
        ("tel:030901820;", "tel:<PHONE>;"),
        ("030 901820 ext. 12", "<PHONE>"),
        ("٠٠٤٩ ٣٠ ٩٠١٨٢٠", "<PHONE>"),
        ("０３０　９０１８２０。", "<PHONE>。"),
        ("am 03.04.2001 030 901820 gewählt", "am 03.04.2001 <PHONE> gewählt"),
        ("0171 234 56 78 / 0171 234 56 79", "<PHONE> / <PHONE>"),
        ("Tel. (030) 90 18 20", "Tel. <PHONE>"),
    ],
)  # fmt: skip
def test_l2_numbers_as_dialled(text: str, wanted: str) -> None:
    assert masked(text, "DE") == wanted


@pytest.mark.parametrize(
    "text",
    [
        "BGBl. 2001 I S. 1234-1567, § 823 Abs. 1 BGB, Richtlinie 2016/679, 1 BvR 1234/05",
        "ISBN 978-3-16-148410-0, ISBN 9783161484100, ISSN 0028-0836, doi:10.1016/0031-9163(64)91136-9",
        "bei 52.520008, 13.404954; 3,141592653; 1 234 567,89 €; 12.345.678 Einwohner; $ 650.253.0000",
        "21-19 21-17, 1914-1918, 1998 2003 2005, 16279260 Bytes, 4294967295, 0123456789",
        "version 2.10.1234567, libfoo_2.0+20130709102030-1, 2001-04-03 12:30:45, 08:02 173521",
        "https://example.org/2001/04/03/0301234567, commit 0301234567abcdef",
        "| 0 354130 5669 0 | 417690   83 | 0x0301234567 | 12 34 56 78 90 12 34 56 78 90 12 34 56 78 90 |",
        "Seiten 1234–1567, S. 030901820, Abschnitt 030.901820",
    ],
)
@pytest.mark.parametrize("region", ["DE", "NO", "FI", "ES", "FR", "US"])
def test_l2_other_numbers_are_kept(text: str, region: str) -> None:
    assert masked(text, region) == text


def test_l2_words_decide_where_the_form_does_not() -> None:
    assert masked("Teléfono: 912 345 678. Población: 912 345 678 habitantes.", "ES") == (
        "Teléfono: <PHONE>. Población: 912 345 678 habitantes."
    )
    assert masked("電話0312345678、会員番号1234567890", "JP") == "電話<PHONE>、会員番号1234567890"


@pytest.mark.parametrize(
    "text",
    [
        "参见 第 9.8.7.6 节，第9.2.1.104節，6.7.3.2. 虚拟和过渡软件包",
        "siehe Abschnitt 14.3.4.2, see section 12.34.56.178, (cf. § 11.22.33.144), chapitre 45.3.4.120",
        "version 11.22.33.144, Linux 2.6.32.60, libfoo 11.22.33.144-1, Release 80.0.1.130",
        "قسم 14.3.4.2، الإصدار 11.22.33.144",
        "OID 1.3.6.1, upgraded from 2.4.9.2, mDNS 224.0.0.251",
    ],
)
def test_l8_sections_and_versions_are_no_addresses(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("第 9.8.7.6 节的服务器地址是 9.8.7.6", "第 9.8.7.6 节的服务器地址是 <IP>"),
        ("66.249.66.1 - - [10/Oct/2023:13:55:36] GET", "<IP> - - [10/Oct/2023:13:55:36] GET"),
        ("http://9.8.7.6/ 9.8.7.6:443 9.8.7.6/24", "http://<IP>/ <IP>:443 <IP>/24"),
        ("Version 2 of the host 9.8.7.6; ping 9.8.7.6", "Version 2 of the host <IP>; ping <IP>"),
        ("Anna (86.22.37.110)", "Anna (<IP>)"),
        ("サーバ８６．２２．３７．１１", "サーバ<IP>"),
    ],
)
def test_l8_addresses_are_masked(text: str, wanted: str) -> None:
    assert masked(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "logo@2x.png icon@3x.jpg a@1.5x.webp sprite@2x.min.css",
        "foo@1.2.3 foo@1.2.3-beta.rc react@18.0.0-alpha.next bootstrap@5.3.0.min.js",
        "getty@tty1.service user@1000.service wg-quick@wg0.service backup@daily.timer",
        "@media print { } @app.route('/x') user@host git@github.com:a/b.git",
    ],
)
def test_l11_no_mail_address(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize("gap", ["", " ", "-", "\u2011", "\u2009", "\u202f", "\u00a0", "\u3000"])
def test_l11_iban(gap: str) -> None:
    groups = ["DE89", "3704", "0044", "0532", "0130", "00"]
    arabic = [group.translate({ord("0") + value: 0x660 + value for value in range(10)}) for group in groups]
    wide = ["".join(chr(ord(char) + 0xFEE0) for char in group) for group in groups]
    for written in (groups, arabic, wide):
        assert masked(f"Konto {gap.join(written)} und {gap.join(groups)}.") == "Konto <IBAN> und <IBAN>."
