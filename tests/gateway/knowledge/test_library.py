"""Versions, tenants and other processes."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import InvalidInput, NotFound
from gateway.knowledge.article import Article
from gateway.knowledge.library import Library

BLACK = Article("black", "手机黑屏", "长按电源键十秒。", "zh")


def test_every_change_changes_the_version_and_the_search(library: Library) -> None:
    seen = {library.version}
    library.put([BLACK])
    assert library.search("黑屏", "zh", "", "", 1)[0].version == 1
    seen.add(library.version)
    assert [a.version for a in library.put([replace(BLACK, text="充电半小时。")])] == [2]
    seen.add(library.version)
    assert library.search("黑屏", "zh", "", "", 1)[0].text == "充电半小时。"
    library.remove("black")
    seen.add(library.version)
    assert library.search("黑屏", "zh", "", "", 1) == []
    assert len(seen) == 3  # empty, first, second; empty again is the first of them or a fourth
    assert library.get("black", version=1).text == BLACK.text
    with pytest.raises(NotFound):
        library.get("black")
    with pytest.raises(NotFound):
        library.remove("black")


def test_saying_the_same_again_changes_nothing(library: Library) -> None:
    library.put([BLACK])
    before = library.version
    assert library.put([BLACK])[0].version == 1
    assert library.version == before


def test_tenants_see_the_shared_and_their_own_only(library: Library) -> None:
    library.put(
        [BLACK, replace(BLACK, tenant="a", text="甲方说法。"), replace(BLACK, article_id="b", tenant="b")]
    )
    text = {tenant: library.search("黑屏", "zh", tenant, "", 5) for tenant in ("", "a", "b", "c")}
    assert [p.text for p in text["a"]] == ["甲方说法。"]
    assert {p.article_id for p in text["b"]} == {"black", "b"}
    assert [p.text for p in text[""]] == [p.text for p in text["c"]] == [BLACK.text]
    assert library.get("black", "a").text == "甲方说法。"
    with pytest.raises(NotFound):
        library.get("b", "a", version=1)


def test_scores_of_one_tenant_do_not_depend_on_another(library: Library) -> None:
    library.put([BLACK])
    before = library.search("黑屏", "zh", "a", "", 1)
    library.put([replace(BLACK, article_id=f"x{n}", tenant="b") for n in range(20)])
    assert library.search("黑屏", "zh", "a", "", 1) == before


def test_another_process_is_noticed(library: Library, tmp_path: Path) -> None:
    library.put([BLACK])
    library.search("黑屏", "zh", "", "", 1)
    before = library.version
    (tmp_path / "sound.md").write_text("# 没有声音\n\n检查静音键。", encoding="utf-8")
    command = ["kb", "add", str(tmp_path / "sound.md"), "--database", str(tmp_path / "knowledge.db")]
    subprocess.run([sys.executable, "-m", "gateway", *command], check=True, capture_output=True, timeout=60)
    deadline = time.monotonic() + 10
    while library.version == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert library.version != before
    assert library.search("静音键", "zh", "", "", 1)[0].article_id == "sound"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "id,title,text\none,T,x\ntwo,,x\n", "a.csv row 3: title: got nothing"),
        ("a.csv", "id,title,text,colour\none,T,x,red\n", "a.csv row 2: colour: got an unknown field"),
        ("a.json", '[{"id": "a b", "title": "T", "text": "x"}]', "a.json row 1: id: got 'a b'"),
        ("a.json", "[1", "a.json line 1"),
        ("a.md", "---\nlanguage: fr\n---\n# T\n\nx", "a.md: language: got 'fr'"),
        ("a.md", "---\ntags: [\n---\n# T\n\nx", "a.md: got front matter that is not YAML"),
        ("a.md", "no title", "a.md: title: got nothing"),
    ],
)
def test_mistakes_name_file_row_and_field(
    library: Library, tmp_path: Path, name: str, content: str, says: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "0.md").write_text("# Fine\n\nGood.", encoding="utf-8")
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(InvalidInput) as raised:
        library.add(folder)
    assert str(raised.value).startswith(says)
    assert library.articles() == []


def test_csv_json_and_export_agree(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('id,title,text,tags\na,Wi-Fi,"Line one,\nline two.",wlan|网络\n', encoding="utf-8-sig")
    library.add(file, scope="after_sales")
    assert library.get("a") == Article(
        "a", "Wi-Fi", "Line one,\nline two.", "en", ("wlan", "网络"), ("after_sales",), "", 1
    )
