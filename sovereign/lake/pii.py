"""Personal data in text: found, checked and replaced by a mask such as <EMAIL>.

Shipped: e-mail addresses, public IP addresses, phone numbers (phonenumbers), IBAN, payment cards, the French NIR.
A site adds the identifiers of its country by entry point group `sovereign.pii`: a function from a text to the (start,
end) of each, whose name in the profile's `corpus.cleaning.personal_data.kinds` is the entry point's:

    [project.entry-points."sovereign.pii"]
    xx-id = "ministry_site.identifiers:find_xx_id"

Names and postal addresses are not looked for.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points

from sovereign.errors import StageError
from sovereign.ngrams import SPACELESS
from sovereign.profile_cleaning import PersonalData

Find = Callable[[str], Iterable[tuple[int, int]]]

_W = rf"[^\W{SPACELESS}]"
"""A character of a word, in a script that has spaces between words: a number may stand right beside any other."""
_GAP = "[ \u00a0\u202f]"
"""A space, which may be one that does not break the line."""
GROUP = "sovereign.pii"


class Masker:
    """Replaces what its finders find.

    Raises:
        StageError: the profile names a kind that there is no finder for.
    """

    def __init__(self, rules: PersonalData) -> None:
        plugged = {point.name: point for point in entry_points(group=GROUP)}
        self._finders: dict[str, Find] = {}
        for kind in rules.kinds:
            if kind in plugged:
                self._finders[kind] = plugged[kind].load()
            elif kind == "phone":
                self._finders[kind] = phone_finder(rules.phone_regions)
            elif kind in FINDERS:
                self._finders[kind] = FINDERS[kind]
            else:
                raise StageError(
                    "unknown kind of personal data",
                    got=kind,
                    expected=", ".join(sorted({"phone", *FINDERS, *plugged})),
                    hint=f"correct corpus.cleaning.personal_data.kinds, or install what has it in group {GROUP}",
                )

    def mask(self, text: str) -> tuple[str, Counter[str]]:
        """The text with masks, and how many there are of each kind; kinds in the profile's order."""
        counts: Counter[str] = Counter()
        for kind, find in self._finders.items():
            end, parts = 0, []
            for start, stop in find(text):
                parts += [text[end:start], f"<{kind.upper()}>"]
                end = stop
                counts[kind] += 1
            if parts:
                text = "".join(parts) + text[end:]
        return text, counts


def by_pattern(pattern: str, is_valid: Callable[[str], bool], *, not_after: str = _W) -> Find:
    """A finder of what matches `pattern`, does not follow one character that matches `not_after`, and is valid.

    The pattern must take linear time. One that begins with a set of characters is searched for fastest.
    """
    compiled, before = re.compile(pattern), re.compile(not_after)

    def find(text: str) -> Iterator[tuple[int, int]]:
        for match in compiled.finditer(text):
            if not before.match(text, max(0, match.start() - 1), match.start()) and is_valid(match[0]):
                yield match.span()

    return find


def phone_finder(regions: Iterable[str]) -> Find:
    """A finder of numbers with a country code, and of those that are valid as dialled within one of the regions."""
    from phonenumbers import PhoneNumberMatcher  # a second, for the formats of all countries

    wanted = tuple(regions)
    candidate = re.compile(r"(?:\d[ ()./\u2010-\u2015-]{0,3}){6}\d" if wanted else r"[+\uff0b][ (]{0,2}\d")

    def find(text: str) -> Iterator[tuple[int, int]]:
        if not candidate.search(text):
            return
        matches = [
            match for region in (wanted or (None,)) for match in PhoneNumberMatcher(text, region, max_tries=len(text))
        ]
        spans, end = sorted({(match.start, match.end) for match in matches}), 0
        for start, stop in spans:
            if start >= end:
                yield start, stop
                end = stop

    return find


def find_email(text: str) -> Iterator[tuple[int, int]]:
    """Addresses with a domain of at least two labels; letters of scripts without spaces border on them."""
    end = 0
    for sign in _AT.finditer(text):
        if sign.start() < end:
            continue
        for local_part, domain_part in ((_LOCAL, _DOMAIN), (_LOCAL_ANY, _DOMAIN_ANY)):
            domain = domain_part.match(text, sign.end())
            local = local_part.search(text[max(0, sign.start() - _MAX_LOCAL - 1) : sign.start()]) if domain else None
            if domain and local:
                end = domain.end()
                yield sign.start() - len(local[0]), end
                break


def find_iban(text: str) -> Iterator[tuple[int, int]]:
    """International Bank Account Numbers, ISO 13616: length by country, modulo 97."""
    end = 0
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper(), 99)
        stop = match.start()
        compact = ""
        while stop < match.end() and len(compact) < length:
            compact += text[stop].strip()
            stop += 1
        is_whole = len(compact) == length and not _IBAN_CHAR.match(text, stop)
        number = "".join(str(int(char, 36)) for char in compact[4:] + compact[:4])
        if match.start() >= end and is_whole and int(number) % 97 == 1:
            yield match.start(), stop
            end = stop


def is_card(text: str) -> bool:
    """A payment card's number, ISO/IEC 7812: a known issuer's prefix, and the Luhn checksum."""
    digits = [int(char) for char in text if char.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return bool(_ISSUER.fullmatch("".join(map(str, digits)))) and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_nir(text: str) -> bool:
    """A French social security number: 13 characters and the key, 97 less their value modulo 97; Corsica is 2A, 2B."""
    compact = "".join(text.split()).replace("2A", "19").replace("2B", "18")
    return 97 - int(compact[:13]) % 97 == int(compact[13:])


def is_public_ip(text: str) -> bool:
    """An address of the public Internet: those of private and documentation networks identify no one."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


_MAX_LOCAL = 64
_AT = re.compile("[@\uff20]")


def _email_parts(char: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What stands before and after the @; `char` is a regular expression of a letter, digit or underscore."""
    local = rf"(?<!(?:{char}|[.+%-]))(?:{char}|[.+%-]){{1,{_MAX_LOCAL}}}\Z"
    edge = rf"(?!_){char}"
    label = rf"{edge}(?:(?:{char}|-){{0,61}}{edge})?"
    top = rf"(?:[xX][nN]--[a-zA-Z0-9-]{{2,59}}|(?:(?![\d_]){char}){{2,24}})"
    return re.compile(local), re.compile(rf"(?:{label}\.){{1,8}}{top}(?![_-]{{0,8}}(?!_){char}|@)")


_LOCAL, _DOMAIN = _email_parts(_W)
_LOCAL_ANY, _DOMAIN_ANY = _email_parts(r"\w")
_IBAN = re.compile(
    rf"(?<![A-Za-z0-9])(?:[A-Z]{{2}}[0-9]{{2}}(?:{_GAP}?[A-Z0-9]){{11,30}}"
    rf"|[a-z]{{2}}[0-9]{{2}}(?:{_GAP}?[a-z0-9]{{4}}){{2,7}}(?:{_GAP}?[a-z0-9]{{1,3}})?)"
)
_IBAN_CHAR = re.compile("[A-Za-z0-9]")
_ISSUER = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|35\d{14}|6(?:011|4[4-9]\d|5\d\d)\d{12}"
)
_IBAN_LENGTHS = {
    entry[:2]: int(entry[2:])
    for entry in re.findall(
        r"\w{4}",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 "
        "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 "
        "LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SD18 "
        "SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20",
    )
}
"""Characters of a country's IBAN, from the registry of SWIFT."""

_IPV4 = by_pattern(rf"[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}}(?!\.?{_W})", is_public_ip, not_after=rf"\.|{_W}")
_IPV6 = by_pattern(
    rf"[23][0-9A-Fa-f]{{3}}:(?:[0-9A-Fa-f]{{0,4}}:){{1,6}}[0-9A-Fa-f]{{0,4}}(?!:|{_W})",
    is_public_ip,
    not_after=rf"[:.]|{_W}",
)

FINDERS: dict[str, Find] = {
    "email": find_email,
    "iban": find_iban,
    "card": by_pattern(rf"[0-9](?:(?:-|{_GAP})?[0-9]){{12,18}}(?!-|{_W})", is_card, not_after=rf"[.+-]|{_W}"),
    "fr-nir": by_pattern(
        rf"[1-478]{_GAP}?[0-9]{{2}}{_GAP}?(?:0[1-9]|1[0-2]|[2-9][0-9]){_GAP}?(?:[0-9]{{2}}|2[AB])"
        rf"{_GAP}?[0-9]{{3}}{_GAP}?[0-9]{{3}}{_GAP}?[0-9]{{2}}(?!{_W})",
        is_nir,
    ),
    "ip": lambda text: sorted([*_IPV4(text), *_IPV6(text)]),
}
"""By kind; phone numbers have a finder of their own, which knows the profile's regions."""
