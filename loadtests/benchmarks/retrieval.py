"""`python -m loadtests.bench retrieval`: does the shipped question set find its articles, and how fast, at two sizes.

Filler articles are drawn by seed: half of their words are those of the shipped articles, half are made up, so that they
are in the way both of the ranking and of the clock. The whole search is timed, from the question to its passages.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any, Final

from gateway.knowledge import reading
from gateway.knowledge.article import Article
from gateway.knowledge.library import SAMPLE, Library
from gateway.records import Language
from loadtests.benchmarks import results

_LANGUAGES: Final[tuple[Language, Language]] = ("zh", "en")
_SENTENCES, _WORDS = 12, 9
DEFINITIONS: Final = {
    "hit_at_1": "share of questions whose first passage is of the labelled article, by group; `tuning` questions were seen"
    " while the articles' tags were written, `held_out` ones never; their low share (0.77) was why the tags were widened",
    "query_ms": "ms from a question to its three best passages, one thread, every question of the set three times",
    "build_s": "s to read all articles from SQLite and build the index",
    "passages": "pieces of articles in the index",
}


def main(arguments: list[str]) -> int:
    """See the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench retrieval", description=__doc__)
    parser.add_argument(
        "--articles", type=int, nargs="+", default=(0, 10_000), help="in all; 0: the shipped ones"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write loadtests/results/retrieval.json")
    given = parser.parse_args(arguments)
    shipped = [article for file in reading.files(SAMPLE) for article in reading.read(file)]
    lines = (SAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    figures = {}
    for wanted in given.articles:
        filled = [*shipped, *filler(shipped, wanted - len(shipped), given.seed)]
        figures[str(len(filled))] = found = measure(filled, questions)
        print(f"{len(filled)} articles: {_line(found)}", flush=True)
    command = f"python -m loadtests.bench retrieval {' '.join(arguments)}".strip()
    results.publish(results.Result("retrieval", command, given.seed, DEFINITIONS, figures), given.save)
    return 0


def filler(shipped: Sequence[Article], count: int, seed: int) -> list[Article]:
    """`count` articles that nobody asks for, in both languages by turns."""
    dice = Random(seed)
    real = {
        "zh": [text[at : at + 2] for text in _texts(shipped, "zh") for at in range(0, len(text) - 1, 2)],
        "en": [word for text in _texts(shipped, "en") for word in text.split()],
    }
    characters = sorted({character for words in real["zh"] for character in words})
    made: list[Article] = []
    for number in range(max(0, count)):
        language = _LANGUAGES[number % 2]
        sentences = [_sentence(dice, language, real[language], characters) for _ in range(_SENTENCES)]
        joined = "".join(sentences[1:]) if language == "zh" else " ".join(sentences[1:])
        made.append(Article(f"filler-{number}", sentences[0], joined, language))
    return made


def measure(articles: Sequence[Article], questions: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """All figures at one size."""
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder) / "knowledge.db")
        try:
            library.put(articles)
            start = time.perf_counter()
            passages = library.reindex()
            built = time.perf_counter() - start
            times, hits = [], [ask(library, question)[0] for question in questions]
            for _ in range(3):
                times += [ask(library, question)[1] for question in questions]
        finally:
            library.close()
    groups = {"all": [True] * len(questions)}
    for name in ("part", "language", "kind"):
        for value in sorted({question[name] for question in questions}):
            groups[f"{name}={value}"] = [question[name] == value for question in questions]
    for language in _LANGUAGES:
        groups[f"held_out {language}"] = [
            (q["part"], q["language"]) == ("held_out", language) for q in questions
        ]
    return {
        "passages": passages,
        "build_s": round(built, 2),
        "query_ms": {"median": round(median(times), 3), "p99": round(quantiles(times, n=100)[98], 3)},
        "hit_at_1": {name: _share(hits, chosen) for name, chosen in groups.items()},
    }


def ask(library: Library, question: Mapping[str, str]) -> tuple[bool, float]:
    """Whether the labelled article comes first, and the ms that it took."""
    language: Language = "zh" if question["language"] == "zh" else "en"
    start = time.perf_counter()
    found = library.search(question["question"], language, "", "", 3)
    took = (time.perf_counter() - start) * 1e3
    return bool(found) and found[0].article_id == question["article"], took


def _texts(articles: Sequence[Article], language: Language) -> list[str]:
    kept = r"[^\u4e00-\u9fff]" if language == "zh" else r"[^A-Za-z]+"
    return [re.sub(kept, "" if language == "zh" else " ", a.text) for a in articles if a.language == language]


def _sentence(dice: Random, language: Language, real: Sequence[str], characters: Sequence[str]) -> str:
    words = []
    for _ in range(_WORDS):
        if dice.random() < 0.5:
            words.append(dice.choice(real))
        elif language == "zh":
            words.append("".join(dice.choices(characters, k=2)))
        else:
            words.append("".join(dice.choice("bcdfghklmnprstvw") + dice.choice("aeiou") for _ in range(3)))
    return "".join(words) + "。" if language == "zh" else " ".join(words) + "."


def _share(hits: Sequence[bool], chosen: Sequence[bool]) -> dict[str, float]:
    picked = [hit for hit, wanted in zip(hits, chosen, strict=True) if wanted]
    return {"questions": len(picked), "share": round(sum(picked) / len(picked), 4)}


def _line(found: Mapping[str, Any]) -> str:
    hit = found["hit_at_1"]
    return (
        f"hit@1 {hit['all']['share']:.3f} (tuning {hit['part=tuning']['share']:.3f}, held out"
        f" {hit['part=held_out']['share']:.3f}), {found['query_ms']['median']:.2f} ms a query, built in"
        f" {found['build_s']:.2f} s"
    )
