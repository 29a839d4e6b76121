"""A question, its scene and what was found for it -> what the model is shown. Knows no model and no search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.assistant.model import Prompt
from gateway.records import Media, Message, Passage, Question, Sampling
from gateway.scene import Scene

_DRAFT: Final = Sampling(max_tokens=96, temperature=0.0)
_DEMO_REFERENCE_CHARACTERS: Final = 160
"""The demo checkpoint has learned from references of one or two sentences."""

# The wording that Qwen's own chat template uses: the model was trained on it.
_TOOLS: Final = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def draft(scene: Scene, question: Question[Media]) -> Prompt:
    """Ask what the pictures of the last message show; the answer helps the search and reaches nobody."""
    last = question.messages[-1]
    content: tuple[str | Media, ...] = (*last.media, scene.draft(question.language))
    return Prompt((Message("user", content),), _DRAFT, question.adapter)


def grounded(scene: Scene, question: Question[Media], passages: Sequence[Passage]) -> Prompt:
    """The question itself, behind the scene's instructions, the passages and the tools."""
    language = question.language
    asked = [message for message in question.messages if message.role != "system"]
    own = [message.text for message in question.messages if message.role == "system"]
    parts = [scene.system(language)]
    if passages:
        parts.append(scene.reference(language) + _references(scene, passages))
    if question.tools:
        parts.append(_TOOLS.format(question.tools))
    parts += own
    # The demo checkpoint knows instructions and reference as neighbouring lines.
    joint = "\n" if scene.style == "demo" else "\n\n"
    system: Message[Media] = Message("system", (joint.join(part for part in parts if part),))
    return Prompt((system, *asked), _merged(question.sampling, scene.sampling), question.adapter)


def _references(scene: Scene, passages: Sequence[Passage]) -> str:
    if scene.style == "demo":
        return passages[0].text.replace("\n", "")[:_DEMO_REFERENCE_CHARACTERS]
    return "".join(f"\n[{n}] {passage.title}\n{passage.text}" for n, passage in enumerate(passages, 1))


def _merged(asked: Sampling, default: Sampling) -> Sampling:
    return Sampling(
        **{
            name: value if value not in (None, ()) else vars(default)[name]
            for name, value in vars(asked).items()
        }
    )
