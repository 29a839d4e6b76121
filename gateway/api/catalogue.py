"""What there is: models, scenes, articles."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from gateway.api.path import IdPath
from gateway.api.state import CallerOf, StateOf

router = APIRouter(tags=["catalogue"])


@router.get("/v1/models", summary="OpenAI's list of models")
async def models(state: StateOf, caller: CallerOf) -> dict[str, Any]:
    """One model; its adapters are "MODEL:ADAPTER"."""
    return {"object": "list", "data": [_model(state.parts.settings.triton.model)]}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "qwen3-vl-triton"}


@router.get("/v1/scenes", summary="What customers may come for, and the limits of media")
async def scenes(state: StateOf, caller: CallerOf) -> dict[str, Any]:
    """Titles and sample prompts in both languages, and each scene's sampling."""
    media = state.parts.settings.media
    return {
        "object": "list",
        "data": [
            {
                "name": scene.name,
                "title": {"zh": scene.title("zh"), "en": scene.title("en")},
                "enabled": scene.enabled,
                "sampling": {
                    name: value for name, value in vars(scene.sampling).items() if value not in (None, ())
                },
                "presets": [
                    {
                        "title": {"zh": preset.title.of("zh"), "en": preset.title.of("en")},
                        "prompt": {"zh": preset.prompt.of("zh"), "en": preset.prompt.of("en")},
                    }
                    for preset in scene.presets
                ],
            }
            for scene in state.parts.scenes.values()
            if scene.enabled
        ],
        "limits": {
            "max_files": media.max_files,
            "max_image_bytes": media.max_image_bytes,
            "max_video_bytes": media.max_video_bytes,
            "max_video_s": media.max_video_s,
        },
    }


@router.get("/v1/articles/{article_id}", summary="An article that an answer cites")
async def article(article_id: IdPath, state: StateOf, caller: CallerOf) -> dict[str, Any]:
    """404 also for an article of another tenant."""
    found = await asyncio.to_thread(state.parts.library.get, article_id, caller.tenant)
    return {
        "article_id": found.article_id,
        "version": found.version,
        "title": found.title,
        "text": found.text,
        "language": found.language,
    }
