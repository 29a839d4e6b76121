"""`python -m gateway kb`: look after the articles. Knows the command line; everything else is the library's."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

from tqdm import tqdm

from gateway.errors import GatewayError
from gateway.knowledge import reading
from gateway.knowledge.article import Article, language_of
from gateway.knowledge.embedder import load
from gateway.knowledge.library import SAMPLE, Library
from gateway.settings import Settings

T = TypeVar("T")

_EXAMPLES: Final = """
examples
  python -m gateway kb add --sample                          the shipped after-sales articles
  python -m gateway kb add manuals/ --scope after_sales      every .md, .csv and .json below manuals/
  python -m gateway kb add faq.csv --tenant acme             articles that only the tenant acme sees
  python -m gateway kb search "手机黑屏怎么办"                what a customer would be answered from
  python -m gateway kb list --language en
  python -m gateway kb remove old-faq --tenant acme
  python -m gateway kb export backup.json                    readable by `kb add`

an article as Markdown
  ---
  id: black-screen-en            unique; the file's name without .md if left out
  language: en                   zh or en; found from the text if left out
  tags: black screen, dead phone words that customers use
  scopes: after_sales            scenes, separated by commas; all if left out
  ---
  # Black screen
  The text...

CSV needs a header, JSON a list of objects, of: id, title, text, language, tags, scopes.
Running gateways and workers notice a change by themselves."""


def main(arguments: list[str]) -> int:
    """Run one command. Returns its exit code: 0, 1 when it failed, 2 for a wrong command line."""
    given = _parser().parse_args(arguments)
    settings = Settings().knowledge
    try:
        library = Library(given.database or settings.database, load(settings.embedder))
        try:
            code: int = given.run(library, given)
        finally:
            library.close()
    except GatewayError as error:
        print(f"kb {given.command}: {error}", file=sys.stderr)
        return 1
    return code


def _add(library: Library, given: argparse.Namespace) -> int:
    if (given.path is None) != given.sample:
        print("kb add: give a PATH or --sample, not both", file=sys.stderr)
        return 2
    files = reading.files(SAMPLE if given.sample else given.path)
    articles: list[Article] = []
    for file in _progress(files, "reading"):
        articles += reading.read(file, given.tenant, given.scope)
    before = {article.article_id: article.version for article in library.articles(given.tenant)}
    kept = library.put(articles)
    changed = sum(before.get(article.article_id) != article.version for article in kept)
    print(
        f"{len(kept)} articles from {len(files)} files, {changed} new or changed; version {library.version}"
    )
    return 0


def _list(library: Library, given: argparse.Namespace) -> int:
    for article in library.articles(given.tenant, given.language, given.scope):
        scopes = ",".join(article.scopes) or "all"
        print(f"{article.article_id}\tv{article.version}\t{article.language}\t{scopes}\t{article.title}")
    return 0


def _search(library: Library, given: argparse.Namespace) -> int:
    language = given.language or language_of(given.query)
    found = library.search(given.query, language, given.tenant, given.scope, given.limit)
    if not found:
        print("nothing found")
        return 1
    for number, passage in enumerate(found, 1):
        text = " ".join(passage.text.split())
        print(
            f"[{number}] {passage.score:.2f} {passage.article_id} v{passage.version} {passage.title}\n    {text[:160]}"
        )
    return 0


def _remove(library: Library, given: argparse.Namespace) -> int:
    library.remove(given.article, given.tenant)
    print(f"removed {given.article}; answers that cite it can still show it; version {library.version}")
    return 0


def _reindex(library: Library, given: argparse.Namespace) -> int:
    start = time.perf_counter()
    passages = library.reindex()
    print(
        f"{passages} shared passages indexed in {time.perf_counter() - start:.2f} s; version {library.version}"
    )
    return 0


def _export(library: Library, given: argparse.Namespace) -> int:
    rows = [
        {
            "id": article.article_id,
            "title": article.title,
            "text": article.text,
            "language": article.language,
            "tags": list(article.tags),
            "scopes": list(article.scopes),
        }
        for article in _progress(library.articles(given.tenant), "writing")
    ]
    text = json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
    if given.path is None:
        sys.stdout.write(text)
    else:
        given.path.write_text(text, encoding="utf-8")
        print(f"{len(rows)} articles in {given.path}")
    return 0


def _progress(items: Sequence[T], what: str) -> tqdm[T]:
    return tqdm(items, desc=what, unit="", leave=False, disable=len(items) < 20 or not sys.stderr.isatty())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway kb",
        description="Look after the articles that answers rest on.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--database", type=Path, help="SQLite file; settings.knowledge.database if left out")
    shared.add_argument(
        "--tenant", default="", help='whose articles; "" (the default): those that all tenants see'
    )
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--language", choices=("zh", "en"))
    chosen.add_argument("--scope", default="", help="a scene, such as after_sales; all if left out")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = commands.add_parser(
        "add", parents=[shared], help="take articles, each as the next version of its id"
    )
    add.add_argument("path", type=Path, nargs="?", help="a .md, .csv or .json file, or a directory of them")
    add.add_argument("--sample", action="store_true", help="the shipped articles instead of PATH")
    add.add_argument("--scope", default="", help="scene of articles that name none")
    add.set_defaults(run=_add)
    commands.add_parser(
        "list", parents=[shared, chosen], help="id, version, language, scopes, title"
    ).set_defaults(run=_list)
    search = commands.add_parser("search", parents=[shared, chosen], help="what a question finds")
    search.add_argument("query")
    search.add_argument("--limit", type=int, default=3)
    search.set_defaults(run=_search)
    remove = commands.add_parser("remove", parents=[shared], help="take an article out of the search")
    remove.add_argument("article", metavar="ID")
    remove.set_defaults(run=_remove)
    commands.add_parser(
        "reindex", parents=[shared], help="build the index now and say how long it takes"
    ).set_defaults(run=_reindex)
    export = commands.add_parser("export", parents=[shared], help="all articles as JSON")
    export.add_argument("path", type=Path, nargs="?", help="standard output if left out")
    export.set_defaults(run=_export)
    return parser
