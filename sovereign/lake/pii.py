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
from sovereign.lake.phones import phone_finder
from sovereign.lake.pii_context import fold, is_address, line_after, line_before
from sovereign.ngrams import SPACELESS
from sovereign.profile_cleaning import PersonalData

Find = Callable[[str], Iterable[tuple[int, int]]]

_W = rf"[^\W{SPACELESS}]"
"""A character of a word, in a script that has spaces between words: a number may stand right beside any other."""
GROUP = "sovereign.pii"


class Masker:
    """Replaces what its finders find.

    Raises:
        StageError: the profile names a kind that there is no finder for.
    """

    def __init__(self, rules: PersonalData) -> None:
        plugged = {point.name: point for point in entry_points(group=GROUP)}
        self._plugged = frozenset(plugged)
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
        folded = fold(text)
        for kind, find in self._finders.items():
            spans = list(find(text if kind in self._plugged else folded))
            if spans:
                counts[kind] = len(spans)
                is_same = folded is text
                text = _replace(text, spans, f"<{kind.upper()}>")
                folded = text if is_same else _replace(folded, spans, f"<{kind.upper()}>")
        return text, counts


def _replace(text: str, spans: list[tuple[int, int]], mask: str) -> str:
    end, parts = 0, []
    for start, stop in spans:
        parts += [text[end:start], mask]
        end = stop
    return "".join([*parts, text[end:]])


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
                if not _NO_MAIL.fullmatch(domain[0]) and local[0] not in _NO_PERSON:
                    end = domain.end()
                    yield sign.start() - len(local[0]), end
                break


def find_iban(text: str) -> Iterator[tuple[int, int]]:
    """International Bank Account Numbers, ISO 13616: length by country, modulo 97."""
    place = 0
    while match := _IBAN.search(text, place):
        length = _IBAN_LENGTHS.get(match[0][:2].upper(), 99)
        stop = match.start()
        compact = ""
        while stop < match.end() and len(compact) < length:
            compact += text[stop].strip(" -")
            stop += 1
        is_whole = len(compact) == length and not _IBAN_CHAR.match(text, stop)
        number = "".join(str(int(char, 36)) for char in compact[4:] + compact[:4])
        if is_whole and int(number) % 97 == 1:
            yield match.start(), stop
            place = stop
        else:
            place = match.start() + 4  # another may begin within


def is_card(text: str) -> bool:
    """A payment card's number, ISO/IEC 7812: a known issuer's prefix, and the Luhn checksum."""
    digits = [int(char) for char in text if char.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return bool(_ISSUER.fullmatch("".join(map(str, digits)))) and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_nir(text: str) -> bool:
    """A French social security number: 13 characters and the key, 97 less their value modulo 97; Corsica is 2A, 2B."""
    compact = "".join(text.split()).replace("2A", "19").replace("2B", "18")
    return 97 - int(compact[:13]) % 97 == int(compact[13:])


def find_ip(text: str) -> Iterator[tuple[int, int]]:
    """Addresses of the public Internet; four numbers with dots may be a section or a version instead."""
    found = [
        (start, stop)
        for start, stop in _IPV4(text)
        if is_address(text[start:stop], line_before(text, start), line_after(text, stop))
    ]
    yield from sorted([*found, *_IPV6(text)])


def is_public_ip(text: str) -> bool:
    """An address of the public Internet: those of private, documentation and multicast networks identify no one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


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
    r"(?<![A-Za-z0-9])(?:[A-Z]{2}[ ]?[0-9]{2}(?:[ -]{0,3}[A-Z0-9]){11,30}"
    r"|[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]{4}){2,7}(?:[ -]?[a-z0-9]{1,3})?)"
)
_NO_MAIL = re.compile(
    r"[0-9]{1,2}(?:\.[0-9]{1,2})?x\..{1,560}"  # logo@2x.png
    r"|[0-9]{1,9}\.[0-9]{1,9}\..{1,500}"  # package@1.2.3-beta.next
    r"|.{1,560}\.(?:png|jpe?g|gif|svg|webp|avif|ico|bmp|tiff?|css|scss|less|[cm]?jsx?|[cm]?tsx?|mjs|json|ya?ml|toml|xml|html?|php"
    r"|txt|pdf|docx?|xlsx?|csv|gz|tgz|bz2|xz|deb|rpm|jar|class|java|exe|dll|cfg|conf|ini|log|mp3|mp4|ttf|woff2?"
    r"|service|socket|timer|target|device|mount|slice|scope|localhost|localdomain)",
    re.IGNORECASE,
)
"""What an @ stands before that is no domain: files of higher resolution, versions of packages, systemd's units."""
_NO_PERSON = {"git", "hg", "svn"}
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
    "card": by_pattern(rf"[0-9](?:[ -]?[0-9]){{12,18}}(?!-|{_W})", is_card, not_after=rf"[.+-]|{_W}"),
    "fr-nir": by_pattern(
        rf"[1-478][ ]?[0-9]{{2}}[ ]?(?:0[1-9]|1[0-2]|[2-9][0-9])[ ]?(?:[0-9]{{2}}|2[AB])"
        rf"[ ]?[0-9]{{3}}[ ]?[0-9]{{3}}[ ]?[0-9]{{2}}(?!{_W})",
        is_nir,
    ),
    "ip": find_ip,
}
"""By kind; phone numbers have a finder of their own, which knows the profile's regions."""
