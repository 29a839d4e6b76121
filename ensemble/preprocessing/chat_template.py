"""Renders the checkpoint's own chat template, with the Jinja features that transformers offers to templates.

It knows Jinja and where a checkpoint keeps its template; it does not know tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox

from ensemble.errors import InvalidMessages


class ChatTemplate:
    """A compiled chat template. Templates come with the checkpoint, so they run in Jinja's immutable
    sandbox.
    """

    def __init__(self, source: str, variables: dict[str, str] | None = None) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.source = source
        self._variables = variables or {}
        self._template = environment.from_string(source)

    @classmethod
    def from_checkpoint(cls, directory: Path) -> ChatTemplate:
        """Find the template of a checkpoint: chat_template.jinja, chat_template.json, then
        tokenizer_config.json.

        A ValueError says so when there is none.
        """
        config = _read_json(directory / "tokenizer_config.json")
        source = _find_source(directory, config)
        if source is None:
            raise ValueError(
                f"{directory} has no chat template: expected chat_template.jinja or tokenizer_config.json"
            )
        # transformers hands templates the named special tokens (eos_token, pad_token, ...).
        named = {key: value for key, value in config.items() if key.endswith("_token")}
        plain = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
        return cls(source, {key: value for key, value in plain.items() if isinstance(value, str)})

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The prompt as text, ending where the answer begins; InvalidMessages with the template's
        own objection.
        """
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._variables)
        except jinja2.TemplateError as error:
            raise InvalidMessages(
                "messages", f"a chat that the template refuses: {error}", "another chat"
            ) from error


def _find_source(directory: Path, config: dict[str, Any]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = _read_json(directory / "chat_template.json").get("chat_template") or config.get("chat_template")
    if isinstance(found, list):  # several named templates
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found if isinstance(found, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return plain


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which a prompt must not."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
