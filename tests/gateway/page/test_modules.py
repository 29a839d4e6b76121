"""The page's modules by themselves, each run in the browser: the Markdown renderer, the event parser, the texts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.page.browser import Page


@pytest.fixture
def blank(page: Page) -> Page:
    if page.driver.current_url != f"{page.url}/blank":
        page.driver.get(f"{page.url}/blank")
    return page


def rendered(blank: Page, text: str, citations: list[int] | None = None) -> str:
    return str(
        blank.module(
            """
            const { render } = await import("/static/markdown.js");
            const known = given[1];
            const mark = (n) => known.includes(n) ? Object.assign(document.createElement("b"), { textContent: n }) : null;
            const place = document.createElement("div");
            place.append(render(given[0], mark));
            for (const button of place.querySelectorAll("figcaption")) button.remove();
            return place.innerHTML;
            """,
            text,
            citations or [],
        )
    )


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("第一段\n第二行\n\n第二段", "<p>第一段<br>第二行</p><p>第二段</p>"),
        ("**长按**电源键 `10` 秒", "<p><strong>长按</strong>电源键 <code>10</code> 秒</p>"),
        ("2 * 3 * 4 = 24 and a ** b", "<p>2 * 3 * 4 = 24 and a ** b</p>"),
        ("**not closed", "<p>**not closed</p>"),
        (
            "- 一\n- 二\n  - 二之一\n- 三",
            "<ul><li>一</li><li>二<ul><li>二之一</li></ul></li><li>三</li></ul>",
        ),
        ("1. a\n2. b\n\n3. c", '<ol start="1"><li>a</li><li>b</li><li>c</li></ol>'),
        ("1、充电\n2、重启", '<ol start="1"><li>充电</li><li>重启</li></ol>'),
        (
            "步骤：\n1. 甲\n   - 乙\n2. 丙",
            '<p>步骤：</p><ol start="1"><li>甲<ul><li>乙</li></ul></li><li>丙</li></ol>',
        ),
        ("-5 degrees\n3.5 V", "<p>-5 degrees<br>3.5 V</p>"),
        ("## 原因 ##\n电池", '<p class="heading">原因</p><p>电池</p>'),
        ("a\n---\nb", "<p>a</p><hr><p>b</p>"),
        ("\r\nx\r\ny", "<p>x<br>y</p>"),
        ("", ""),
    ],
)
def test_markdown_blocks(blank: Page, text: str, html: str) -> None:
    assert rendered(blank, text) == html


def test_code_keeps_every_character(blank: Page) -> None:
    html = rendered(blank, "```html\n<script>alert(1)</script>\n  **x** [1] <!-- -->\n```\nafter")
    assert html == (
        '<figure class="code"><pre tabindex="0"><code>'
        "&lt;script&gt;alert(1)&lt;/script&gt;\n  **x** [1] &lt;!-- --&gt;</code></pre>"
        "</figure><p>after</p>"
    )


def test_an_open_fence_is_code_while_it_arrives(blank: Page) -> None:
    assert "<code>a = 1</code>" in rendered(blank, "看：\n```python\na = 1")


@pytest.mark.parametrize(
    ("text", "href"),
    [
        ("[官网](https://example.com/a?b=1)", "https://example.com/a?b=1"),
        ("见 https://example.com/x。", "https://example.com/x"),
        ("(http://example.com/y).", "http://example.com/y"),
    ],
)
def test_links(blank: Page, text: str, href: str) -> None:
    html = rendered(blank, text)
    assert f'href="{href}"' in html
    assert 'rel="noopener noreferrer nofollow ugc"' in html


HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg/onload=window.hacked=1>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "[点我](javascript:window.hacked=1)",
    "[点我](JaVaScRiPt:window.hacked=1)",
    "[x](data:text/html,<script>1</script>)",
    "[x](vbscript:1) [y](//example.com) [z](/v1/media/1) [f](file:///etc/passwd)",
    '[x](https://e.com/"onmouseover="window.hacked=1)',
    "**<b onclick=window.hacked=1>x</b>**",
    "`<style>*{display:none}</style>`",
    "- <img src=x onerror=window.hacked=1>\n1. <form action=https://e.com><input>",
    "# <a href='javascript:window.hacked=1'>x</a>",
    "```<img src=x onerror=window.hacked=1>\n</code></pre><script>window.hacked=1</script>\n```",
    "![x](https://example.com/track.png)",
    "<meta http-equiv=refresh content='0;url=https://e.com'><base href=//e.com>",
    "&lt;script&gt;window.hacked=1&lt;/script&gt; &#x3C;img src=x onerror=window.hacked=1>",
]
ALLOWED = {
    "p",
    "br",
    "strong",
    "code",
    "a",
    "ul",
    "ol",
    "li",
    "figure",
    "figcaption",
    "pre",
    "hr",
    "button",
    "span",
    "b",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_makes_no_element_and_runs_nothing(blank: Page, text: str) -> None:
    found: dict[str, Any] = blank.module(
        """
        const { render } = await import("/static/markdown.js");
        const place = document.createElement("div");
        document.body.append(place);
        place.append(render(given[0]));
        await new Promise((resolve) => setTimeout(resolve, 30));
        const all = [...place.querySelectorAll("*")];
        const result = {
          tags: all.map((each) => each.localName),
          schemes: all.filter((each) => each.localName === "a").map((each) => each.protocol),
          handlers: all.flatMap((each) => [...each.attributes].filter((one) => one.name.startsWith("on")).map((one) => one.name)),
          hacked: window.hacked ?? null,
        };
        place.remove();
        return result;
        """,
        text,
    )
    assert set(found["tags"]) <= ALLOWED
    assert set(found["schemes"]) <= {"https:", "http:"}
    assert found["handlers"] == []
    assert found["hacked"] is None


def test_citations_become_markers_only_where_the_source_exists(blank: Page) -> None:
    assert rendered(blank, "充电[1]，重启[7]。", [1]) == "<p>充电<b>1</b>，重启[7]。</p>"
    assert rendered(blank, "**充电[1]**", [1]) == "<p><strong>充电<b>1</b></strong></p>"
    assert "<b>" not in rendered(blank, "`a[1]`", [1])


def test_no_text_makes_the_renderer_slow(blank: Page) -> None:
    elapsed_ms = blank.module(
        """
        const { render } = await import("/static/markdown.js");
        const texts = ["[", "*", "**a", "`", "[a](", "- ", " ", "#", "1. ", "https://", "(", "```", "\\n", "[1]"];
        let worst = 0;
        for (const text of texts) {
          const from = performance.now();
          render(text.repeat(20000 / text.length));
          worst = Math.max(worst, performance.now() - from);
        }
        return worst;
        """
    )
    assert elapsed_ms < 3000


def parsed(blank: Page, pieces: list[str]) -> list[dict[str, str]]:
    code = """
        const { EventParser } = await import("/static/sse.js");
        const parser = new EventParser();
        return given[0].flatMap((piece) => parser.push(piece));
    """
    return list(blank.module(code, pieces))


STREAM = 'data: {"a": "黑屏"}\n\n: ping\n\nevent: handoff\r\nid: 7\r\ndata: x\r\ndata:  y\r\n\r\ndata:z\rdata\r\rdata: [DONE]\n\n'
EVENTS = [
    {"type": "message", "data": '{"a": "黑屏"}', "id": ""},
    {"type": "handoff", "data": "x\n y", "id": "7"},
    {"type": "message", "data": "z\n", "id": "7"},
    {"type": "message", "data": "[DONE]", "id": "7"},
]


def test_events_whatever_the_network_cuts_them_into(blank: Page) -> None:
    assert parsed(blank, [STREAM]) == EVENTS
    assert parsed(blank, list(STREAM)) == EVENTS
    for size in (2, 3, 5, 11):
        assert parsed(blank, [STREAM[at : at + size] for at in range(0, len(STREAM), size)]) == EVENTS


def test_an_unfinished_event_is_no_event(blank: Page) -> None:
    assert parsed(blank, ["data: half", "\n"]) == []
