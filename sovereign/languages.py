"""Language tags (BCP 47) in the one form in which they are compared.

Case means nothing in a tag, and a language that has a code of two letters has no tag of three; so `EN`, `eng` and `en`
are one language, written `en`.
"""

from __future__ import annotations

import re

_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,7}")
# https://www.loc.gov/standards/iso639-2/php/code_list.php: each code of ISO 639-1, then those of ISO 639-2.
_ISO_639 = """
aa:aar ab:abk ae:ave af:afr ak:aka am:amh an:arg ar:ara as:asm av:ava ay:aym az:aze ba:bak be:bel bg:bul bi:bis
bm:bam bn:ben bo:bod,tib br:bre bs:bos ca:cat ce:che ch:cha co:cos cr:cre cs:ces,cze cu:chu cv:chv cy:cym,wel
da:dan de:deu,ger dv:div dz:dzo ee:ewe el:ell,gre en:eng eo:epo es:spa et:est eu:baq,eus fa:fas,per ff:ful
fi:fin fj:fij fo:fao fr:fra,fre fy:fry ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv ha:hau he:heb hi:hin ho:hmo
hr:hrv,scr ht:hat hu:hun hy:arm,hye hz:her ia:ina id:ind ie:ile ig:ibo ii:iii ik:ipk io:ido is:ice,isl it:ita
iu:iku ja:jpn jv:jav ka:geo,kat kg:kon ki:kik kj:kua kk:kaz kl:kal km:khm kn:kan ko:kor kr:kau ks:kas ku:kur
kv:kom kw:cor ky:kir la:lat lb:ltz lg:lug li:lim ln:lin lo:lao lt:lit lu:lub lv:lav mg:mlg mh:mah mi:mao,mri
mk:mac,mkd ml:mal mn:mon mr:mar ms:may,msa mt:mlt my:bur,mya na:nau nb:nob nd:nde ne:nep ng:ndo nl:dut,nld
nn:nno no:nor nr:nbl nv:nav ny:nya oc:oci oj:oji om:orm or:ori os:oss pa:pan pi:pli pl:pol ps:pus pt:por qu:que
rm:roh rn:run ro:mol,ron,rum ru:rus rw:kin sa:san sc:srd sd:snd se:sme sg:sag si:sin sk:slk,slo sl:slv sm:smo
sn:sna so:som sq:alb,sqi sr:scc,srp ss:ssw st:sot su:sun sv:swe sw:swa ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk
tl:tgl tn:tsn to:ton tr:tur ts:tso tt:tat tw:twi ty:tah ug:uig uk:ukr ur:urd uz:uzb ve:ven vi:vie vo:vol wa:wln
wo:wol xh:xho yi:yid yo:yor za:zha zh:chi,zho zu:zul
"""
_PREFERRED = {"in": "id", "iw": "he", "ji": "yi", "jw": "jv", "mo": "ro"}
"""Of deprecated codes, https://www.iana.org/assignments/language-subtag-registry."""
_PREFERRED |= {
    code: short for short, _, codes in (entry.partition(":") for entry in _ISO_639.split()) for code in codes.split(",")
}


def canonical_tag(tag: str) -> str | None:
    """The tag with its language's shortest code and in the case of RFC 5646, section 2.1.1; None where it is no tag."""
    if not _TAG.fullmatch(tag):
        return None
    language, *others = tag.lower().split("-")
    subtags, is_free = [_PREFERRED.get(language, language)], True
    for subtag in others:
        is_free = is_free and len(subtag) > 1  # after a singleton all is in lower case
        if is_free and len(subtag) == 2:
            subtags.append(subtag.upper())
        else:
            subtags.append(subtag.capitalize() if is_free and len(subtag) == 4 else subtag)
    return "-".join(subtags)
