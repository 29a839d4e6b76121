"""The table of values in the chart's README, made of the comments in values.yaml.

    python helm/readme.py            write it
    python helm/readme.py --check    exit code 1 if it is out of date, or a key has no comment

It knows `# -- ` comments and YAML's positions; it does not know what a value means.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "qwen3-vl"
BEGIN, END = "<!-- values: begin (python helm/readme.py) -->", "<!-- values: end -->"


@dataclass(frozen=True)
class Row:
    """One key with its default and what its comment says; "" if it has none."""

    key: str
    default: str
    about: str


def rows(text: str) -> list[Row]:
    """The keys that users set: those with a comment, else those without keys below them."""
    root = yaml.compose(text)
    return _below(root, "", text.splitlines()) if isinstance(root, yaml.MappingNode) else []


def _below(node: yaml.MappingNode, path: str, lines: list[str]) -> list[Row]:
    found: list[Row] = []
    for key, value in node.value:
        name = f"{path}.{key.value}" if path else str(key.value)
        about = _comment(lines, key.start_mark.line)
        if not about and isinstance(value, yaml.MappingNode) and value.value:
            found += _below(value, name, lines)
        else:
            found.append(Row(name, json.dumps(_plain(value), ensure_ascii=False), about))
    return found


def _comment(lines: list[str], line: int) -> str:
    above = lines[line - 1].strip() if line else ""
    return above.removeprefix("# -- ") if above.startswith("# -- ") else ""


def _plain(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_object(node, deep=True)


def table(found: list[Row]) -> str:
    """Markdown."""
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for row in found:
        default = row.default if len(row.default) <= 60 else "see values.yaml"
        about = row.about.replace("|", "\\|")
        lines.append(f"| `{row.key}` | `{default}` | {about} |")
    return "\n".join(lines)


def updated(readme: str, found: list[Row]) -> str:
    """The README with its table made anew. ValueError if the place for it is missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no place for the table: {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{table(found)}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Write or check; gives the exit code."""
    found = rows((CHART / "values.yaml").read_text(encoding="utf-8"))
    if silent := [row.key for row in found if not row.about]:
        print(f"values.yaml: no `# -- ` comment above {', '.join(silent)}", file=sys.stderr)
        return 1
    file = CHART / "README.md"
    now = file.read_text(encoding="utf-8")
    wanted = updated(now, found)
    if arguments == ["--check"]:
        if now != wanted:
            print(f"{file}: the table is out of date; run python helm/readme.py", file=sys.stderr)
        return int(now != wanted)
    file.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
