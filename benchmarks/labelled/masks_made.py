"""Made sentences with valid personal data, and with numbers that only look like it, in ten languages."""

from __future__ import annotations

import ipaddress
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType

REGIONS = {
    "ar": ("SA", "EG"),
    "de": ("DE", "AT", "CH"),
    "es": ("ES", "MX"),
    "fr": ("FR", "BE"),
    "it": ("IT",),
    "ja": ("JP",),
    "pl": ("PL",),
    "pt": ("BR", "PT"),
    "ru": ("RU",),
    "zh": ("CN", "TW"),
}
"""Phone regions of the languages."""


@dataclass(frozen=True)
class Sentence:
    """A line of text, and how it is with masks."""

    text: str
    masked: str
    sort: str
    kind: str = ""
    """Empty: there is no personal data."""


_TEMPLATES = json.loads(Path(__file__).with_name("masks_templates.json").read_text(encoding="utf-8"))
"""Sentences by what they have, and by language."""
_FORMS = (
    PhoneNumberFormat.INTERNATIONAL,
    PhoneNumberFormat.NATIONAL,
    PhoneNumberFormat.NATIONAL,
    PhoneNumberFormat.E164,
)


def make_phone(language: str, rng: random.Random) -> tuple[str, str]:
    """A valid number of one of the language's regions in one of the ways that numbers are written; and which."""
    region = rng.choice(REGIONS[language])
    kind = rng.choice((PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE))
    while True:
        example = phonenumbers.example_number_for_type(region, kind)
        assert example is not None
        national = str(example.national_number)
        made = national[:-4] + f"{rng.randrange(10_000):04}"
        number = phonenumbers.parse(made if region != "IT" or kind else "0" + made, region)
        if phonenumbers.is_valid_number(number):
            break
    written = phonenumbers.format_number(number, rng.choice(_FORMS))
    changes: dict[str, Callable[[str], str]] = {
        "as it is": lambda text: text,
        "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
        "thin spaces": lambda text: text.replace(" ", "\u2009"),
        "en dashes": lambda text: re.sub(r"(?<=\d)[ -](?=\d)", "\u2013", text),
        "slashes": lambda text: text.replace(" ", "/") if text.startswith("+") else text,
        "00": lambda text: text.replace("+", "00"),
        "extension": lambda text: text + f" ext. {rng.randrange(10, 999)}",
        "full-width": lambda text: "".join(chr(ord(char) + 0xFEE0) if char in "0123456789+" else char for char in text),
        "Arabic digits": lambda text: "".join(chr(0x660 + int(char)) if char.isdigit() else char for char in text),
    }
    weights = [8, 2, 1, 1, 1, 2, 1, 3 if language in ("ja", "zh") else 0, 6 if language == "ar" else 0]
    name = rng.choices(list(changes), weights)[0]
    return changes[name](written), name


def make_ip(rng: random.Random) -> str:
    """A public IPv4 address."""
    while True:
        address = ipaddress.IPv4Address(rng.randrange(2**32))
        if address.is_global and not address.is_multicast:
            return str(address)


def make_iban(rng: random.Random) -> str:
    """A valid IBAN, in groups or without."""
    country, length = rng.choice((("DE", 18), ("FR", 23), ("ES", 20), ("PL", 24), ("SA", 20), ("CH", 17)))
    own = "".join(str(rng.randrange(10)) for _ in range(length))
    rest = int("".join(str(int(char, 36)) for char in own + country + "00"))
    whole = f"{country}{98 - rest % 97:02}{own}"
    gap = rng.choice(("", " ", " ", "\u00a0", "\u2009", "-"))
    return gap.join(whole[start : start + 4] for start in range(0, len(whole), 4))


def make_card(rng: random.Random) -> str:
    """A payment card's number with Luhn's checksum."""
    own = "4" + "".join(str(rng.randrange(10)) for _ in range(14))
    total = sum(int(char) if place % 2 else sum(divmod(2 * int(char), 10)) for place, char in enumerate(own))
    whole = f"{own}{-total % 10}"
    return rng.choice(("", " ", "-", "\u00a0")).join(whole[start : start + 4] for start in range(0, 16, 4))


def make_nir(rng: random.Random) -> str:
    """A French social security number."""
    own = f"{rng.choice('12')}{rng.randrange(100):02}{rng.randrange(1, 13):02}{rng.randrange(1, 96):02}"
    own += f"{rng.randrange(1, 1000):03}{rng.randrange(1, 1000):03}"
    gap = rng.choice(("", " ", "\u00a0"))
    return gap.join((own[0], own[1:3], own[3:5], own[5:7], own[7:10], own[10:], f"{97 - int(own) % 97:02}"))


def make_mail(rng: random.Random) -> str:
    """An e-mail address."""
    name = rng.choice(("maria", "j.keller", "li.wei", "anna_nowak", "o-ivanov", "k.tanaka+news"))
    host = rng.choice(("posta.example", "mail.gov.xx", "uni-bonn.de", "web.co.jp"))
    return f"{name}{rng.choice(('', '7', '1984'))}@{host}"


def make_numbers(rng: random.Random) -> dict[str, str]:
    """Numbers that are no personal data, by their sort."""
    day = date(rng.randrange(1850, 2024), rng.randrange(1, 13), rng.randrange(1, 29))
    digits = "978" + "".join(str(rng.randrange(10)) for _ in range(9))
    check = -sum(int(char) * (3 if place % 2 else 1) for place, char in enumerate(digits)) % 10
    amount = rng.randrange(100_000, 2_000_000_000)
    page = rng.randrange(100, 2_000)
    gap = rng.choice((",", ".", " ", "\u202f"))
    small = [rng.randrange(1, 20) for _ in range(4)]
    journal = f"{rng.randrange(1000, 9999)}-{rng.randrange(1000, 9999)}"
    dates = ("%d.%m.%Y", "%d.%m.%Y", "%d/%m/%Y", "%Y-%m-%d", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d")
    return {
        "date": day.strftime(rng.choice(dates)),
        "section": ".".join(map(str, small[: rng.choice((2, 3, 4, 4))])),
        "version": ".".join(map(str, [*small[:3], rng.choice((small[3], rng.randrange(100, 255)))])),
        "price": f"{amount / 100:,.2f}".replace(",", gap).replace(".", rng.choice((",", ".")))
        + rng.choice((" €", " EUR", " $")),
        "amount": f"{amount:,}".replace(",", gap),
        "range": f"{page}{rng.choice(('-', '–'))}{page + rng.randrange(3, 300)}",
        "isbn": f"{digits[:3]}-{digits[3]}-{digits[4:6]}-{digits[6:]}-{check}",
        "issn": journal,
        "doi": f"10.{rng.randrange(1000, 9999)}/{journal}({day.year % 100:02}){page:05}-{check}",
        "score": f"{rng.randrange(5)}:{rng.randrange(5)}, 21-{small[0]} 21-{small[1]} 19-21",
        "size": rng.choice((f"{amount} Bytes", f"{amount / 1e6:.1f} MB", f"{amount} KB", f"{amount} B")),
        "coordinates": f"{rng.uniform(-80, 80):.6f}, {rng.uniform(-170, 170):.6f}",
        "law": f"{day.year}/{rng.randrange(10, 2000)}",
        "year": str(day.year),
    }


def make_sentences(language: str, count: int, rng: random.Random) -> Iterator[Sentence]:
    """`count` sentences with personal data and as many without."""
    makers: tuple[tuple[str, dict[str, list[str]], Callable[[], tuple[str, str]]], ...] = (
        *((("PHONE", _TEMPLATES["phone"], lambda: make_phone(language, rng))),) * 3,
        ("EMAIL", _TEMPLATES["mail"], lambda: (make_mail(rng), "e-mail")),
        ("IP", _TEMPLATES["ip"], lambda: (make_ip(rng), "IP")),
        ("IBAN", _TEMPLATES["account"], lambda: (make_iban(rng), "IBAN")),
        ("CARD", _TEMPLATES["account"], lambda: (make_card(rng), "card")),
    )
    if language == "fr":
        makers = (
            *makers,
            ("FR-NIR", {"fr": ["Assuré n° {}, merci.", "Sécurité sociale : {}"]}, lambda: (make_nir(rng), "NIR")),
        )
    for number in range(count):
        kind, templates, make = makers[number % len(makers)]
        made, sort = make()
        template = rng.choice(templates[language])
        yield Sentence(template.format(made), template.format(f"<{kind}>"), sort, kind)
        template = rng.choice(_TEMPLATES["not"][language])
        text = template.format(**make_numbers(rng))
        fields = re.findall(r"\{(\w+)\}", template)
        yield Sentence(text, text, fields[0])
