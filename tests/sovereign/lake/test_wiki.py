"""Wikimedia dumps of many languages: their text stays, and what is no text goes."""

from __future__ import annotations

import bz2
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from tests.sovereign.lake.reading import read

# Of a language: names of files and categories in its wiki, a switch, and the word that begins a redirect.
WIKIS = {
    "en": (("File", "Image"), "Category", "__NOTOC__", "#REDIRECT"),
    "ceb": (("Payl", "Imahen", "File"), "Kategoriya", "__NOTOC__", "#REDIRECT"),
    "de": (("Datei", "Bild", "File"), "Kategorie", "__KEIN_INHALTSVERZEICHNIS__", "#WEITERLEITUNG"),
    "fr": (("Fichier", "Image"), "Catégorie", "__AUCUNSOMMAIRE__", "#REDIRECTION"),
    "sv": (("Fil", "Bild"), "Kategori", "__INGENINNEHÅLLSFÖRTECKNING__", "#OMDIRIGERING"),
    "nl": (("Bestand", "Afbeelding"), "Categorie", "__GEENINHOUD__", "#DOORVERWIJZING"),
    "ru": (("Файл", "Изображение"), "Категория", "__БЕЗ_ОГЛАВЛЕНИЯ__", "#ПЕРЕНАПРАВЛЕНИЕ"),
    "es": (("Archivo", "Imagen"), "Categoría", "__SIN_TDC__", "#REDIRECCIÓN"),
    "it": (("File", "Immagine"), "Categoria", "__NOINDICE__", "#RINVIA"),
    "pl": (("Plik", "Grafika"), "Kategoria", "__BEZSPISU__", "#PATRZ"),
    "ar": (("ملف", "صورة"), "تصنيف", "__لافهرس__", "#تحويل"),
    "zh": (("文件", "檔案", "圖像"), "分类", "__无目录__", "#重定向"),
    "ja": (("ファイル", "画像"), "カテゴリ", "__目次非表示__", "#転送"),
    "vi": (("Tập tin", "Hình"), "Thể loại", "__KHÔNGMỤCLỤC__", "#đổi"),
    "fa": (("پرونده", "تصویر"), "رده", "__بی‌فهرست__", "#تغییر_مسیر"),
    "he": (("קובץ", "תמונה"), "קטגוריה", "__ללא_תוכן__", "#הפניה"),
    "uk": (("Файл", "Зображення"), "Категорія", "__БЕЗ_ЗМІСТУ__", "#ПЕРЕНАПРАВЛЕННЯ"),
    "hi": (("चित्र",), "श्रेणी", "__बिना_अनुक्रम__", "#पुनर्प्रेषित"),
    "ko": (("파일", "그림"), "분류", "__목차숨김__", "#넘겨주기"),
}


def dump(language: str, *pages: str) -> str:
    """A dump without siteinfo."""
    found = "".join(
        f"<page><title>T{number}</title><ns>0</ns><id>{number}</id><revision><id>1</id><text>{escape(page)}</text>"
        "</revision></page>"
        for number, page in enumerate(pages, 1)
    )
    return f'<mediawiki xml:lang="{language}">{found}</mediawiki>'


def text_of(tmp_path: Path, language: str, markup: str, wiki: str | None = None) -> str:
    """What is read of a page, without its title."""
    (tmp_path / "a.xml").write_text(dump(wiki or language, markup))
    documents, _ = read(tmp_path, language)
    return documents[0].text.removeprefix("T1\n\n")


@pytest.mark.parametrize("language", WIKIS)
def test_l5_names_of_the_largest_wikis(language: str, tmp_path: Path) -> None:
    images, category, switch, redirect = WIKIS[language]
    shown = "".join(f"[[{name}:B.jpg|mini|Rest [[Ort|Stelle]] {{{{v}}}}<ref>q</ref>]]" for name in images)
    markup = f"{switch}\nEins {shown}zwei [[ceb:Page]][[simple:Page]]drei.\n\n[[{category}:Stadt]]"
    (tmp_path / "a.xml").write_text(dump(language, markup, f"{redirect} [[Ziel]]"))
    documents, report = read(tmp_path, language)
    assert [one.text for one in documents] == ["T1\n\nEins zwei drei."]
    assert report.skipped == {"wiki page that redirects": 1}


def test_l5_the_dump_says_its_language(tmp_path: Path) -> None:
    assert text_of(tmp_path, "en", "A[[Bild:B.jpg|mini|Rest]] b [[KATEGORIE : Stadt]]", "de") == "A b"


def test_l5_names_of_the_dump_itself_count_too(tmp_path: Path) -> None:
    names = '<siteinfo><namespaces><namespace key="6">Foto</namespace></namespaces></siteinfo>'
    (tmp_path / "a.xml").write_text(
        dump("de", "A[[Foto:B.jpg|x]][[Bild:C.jpg|y]] b").replace("<page>", names + "<page>")
    )
    documents, _ = read(tmp_path, "de")
    assert documents[0].text == "T1\n\nA b"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("Hauptstadt<br />der Welt", "Hauptstadt\nder Welt"),
        ("Eins<br>zwei<hr/>drei", "Eins\nzwei\ndrei"),
        ("Eins<div>zwei</div>drei", "Eins\nzwei\ndrei"),
        ("Das Makro __FILE__ und __LINE__ in C, __init__ in Python", None),
        ("Siehe [[:Datei:B.jpg]] und [[:en:Page|die Seite]]", "Siehe Datei:B.jpg und die Seite"),
        ("[[Star Wars: Episode IV]] und [[Bildung]]", "Star Wars: Episode IV und Bildung"),
        ("a<math>x^2</math><gallery>\nDatei:a.jpg|Bild\n</gallery> b<!-- c -->", "a b"),
        ('a <syntaxhighlight lang="c">int x;</syntaxhighlight>b', "a b"),
        ("<nowiki>[[Datei:x.jpg]] __NOTOC__</nowiki>", "[[Datei:x.jpg]] __NOTOC__"),
        ("[[Datei:A.jpg|mini|\n{| class=x\n|a\n|}\nUnter [[Bild:B.jpg|[[c]]]]]]Text", "Text"),
        ("* eins\n* zwei", "eins\n zwei"),
        ("Das Haus__NOTOC__", "Das Haus"),
        ("#REDIRECT ist ein Wort", "REDIRECT ist ein Wort"),
    ],
)
def test_l5_markup(markup: str, text: str | None, tmp_path: Path) -> None:
    assert text_of(tmp_path, "de", markup) == (markup if text is None else text)


@pytest.mark.parametrize(
    ("language", "text"),
    [("zh", "他用计算机软件。"), ("zh-Hant", "他用電腦軟體。"), ("zh-TW", "他用電腦軟體。")],
)
def test_l5_variants(language: str, text: str, tmp_path: Path) -> None:
    markup = "他-{H|zh-cn:软件;zh-tw:軟體}-用-{zh-hans:计算机;zh-hant:電腦}-"
    markup += {"zh": "-{软件}-", "zh-Hant": "-{軟體}-", "zh-TW": "-{zh-cn:软件;zh-tw:軟體}-"}[language] + "。"
    assert text_of(tmp_path, language, markup, "zh") == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("-{sr-ec:Београд; sr-el:Beograd;}-", "Београд"),
        ("-{R|ABC: d;}-", "ABC: d;"),
        ("-{T|Наслов}-А", "А"),
        ("x -{a: b}- y", "x a: b y"),
        ("x -{ y", "x -{ y"),
    ],
)
def test_l5_other_marks_of_variants(markup: str, text: str, tmp_path: Path) -> None:
    assert text_of(tmp_path, "sr", markup) == text


def test_l5_multistream_is_read_and_7z_named(tmp_path: Path) -> None:
    whole = dump("de", "Eins.", "Zwei.")
    middle = whole.index("<page>", whole.index("<page>") + 1)
    streams = [whole[:middle], whole[middle:]]
    (tmp_path / "a.xml.bz2").write_bytes(b"".join(bz2.compress(one.encode()) for one in streams))
    (tmp_path / "b.xml.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    documents, report = read(tmp_path, "de")
    assert [one.text for one in documents] == ["T1\n\nEins.", "T2\n\nZwei."]
    assert report.skipped == {"7z, which is not read": 1}
