"""Everything about the gateway that can be configured, typed, in one place.

Read from GATEWAY_CONFIG (a YAML file), then from environment variables that override it (`GATEWAY_TRITON__URL`), then
from files in /run/secrets or GATEWAY_SECRETS_DIR (`cache__url`, `database__url`). Secrets belong into the last two only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

Port = Annotated[int, Field(ge=0, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Http(_Section):
    """Where the gateway listens, and what a request may be."""

    host: str = "127.0.0.1"
    port: Port = 7860
    max_body_bytes: int = Field(default=64 << 20, ge=1024)
    cors_origins: tuple[str, ...] = ()
    allowed_media_hosts: tuple[str, ...] = Field(
        default=(), description="hosts whose https URLs are fetched; none by default"
    )
    fetch_timeout_s: float = Field(default=10.0, gt=0)


class Tenant(_Section):
    """Who may call, with which keys. An agent key may see and answer hand-offs."""

    keys: tuple[SecretStr, ...] = ()
    agent_keys: tuple[SecretStr, ...] = ()
    requests_per_minute: int = Field(default=120, ge=1)
    max_concurrent: int = Field(default=16, ge=1)


class Triton(_Section):
    """The model server."""

    url: str = "127.0.0.1:8001"
    model: str = "qwen3_vl"
    ocr_model: str = "ocr"
    timeout_s: float = Field(default=120.0, gt=0)


class Media(_Section):
    """What customers may send, and what is done to it."""

    max_files: int = Field(default=16, ge=1)
    max_text_chars: int = Field(
        default=200_000, ge=1, description="of all messages of a request; more than any model's context holds"
    )
    max_image_bytes: int = 20 << 20
    max_image_pixels: int = 40_000_000
    max_video_bytes: int = 64 << 20
    max_video_s: float = 120.0
    mask: bool = True
    enhance: bool = True
    letterbox: int = Field(
        default=0, description="side of the square that pictures are fitted into, 1024 for instance; 0: not"
    )


class Database(_Section):
    """Tickets, answers, feedback, hand-offs. SQLAlchemy URL: SQLite for one machine, PostgreSQL for several."""

    url: SecretStr = SecretStr("sqlite:///.run/gateway.db")
    keep_days: int = Field(default=90, ge=1, description="older conversations are deleted with their media")


class Objects(_Section):
    """Where media lie. `url`: a directory, or s3://BUCKET/PREFIX (keys from the environment, as boto3 reads them)."""

    url: str = ".run/objects"
    s3_endpoint: str = ""


class Cache(_Section):
    """Redis or Valkey; "" turns the answer cache off."""

    url: SecretStr = SecretStr("")
    ttl_s: int = Field(default=24 * 3600, ge=1)
    wait_s: float = Field(
        default=60.0, description="longest that a question waits for the same question in flight"
    )


class Kafka(_Section):
    """The broker; "" turns tickets off."""

    bootstrap_servers: str = ""
    group: str = "cs-workers"
    requests: str = "cs.requests"
    replies: str = "cs.replies"
    handoff: str = "cs.handoff"
    feedback: str = "cs.feedback"
    dead_letters: str = "cs.requests.dead"
    partitions: int = Field(default=6, ge=1)
    replication: int = Field(default=1, ge=1, description="of topics that the gateway makes; 3 in production")
    lost_s: float = Field(
        default=600.0, gt=0, description="a ticket that nobody touched for so long is published again"
    )
    attempts: int = Field(default=5, ge=1)
    backoff_s: float = Field(default=1.0, gt=0)
    concurrency: int = Field(default=4, ge=1, description="tickets that one worker answers at once")
    drain_s: float = Field(
        default=25.0, ge=0, description="longest that a worker told to end goes on with tickets that it has"
    )
    session_s: float = Field(
        default=10.0,
        ge=1,
        description="silent for so long, a worker is taken for dead; brokers want 6 or more",
    )
    instance: str = Field(
        default="",
        description="this worker's name in the group, the same after a restart: it then takes up at once what it had; "
        "without a name others get that after session_s",
    )
    worker_host: str = Field(default="127.0.0.1", description="of a worker's /healthz and /metrics")
    worker_port: Port = Field(default=7861, description="of a worker's /healthz and /metrics; 0: a free one")
    security: dict[str, str] = Field(default_factory=dict, description="librdkafka properties: sasl.*, ssl.*")


class Knowledge(_Section):
    """The articles."""

    database: Path = Path(".run/knowledge.db")
    passages: int = Field(default=3, ge=1, description="put before the model")
    min_score: float = 5.0
    embedder: str = Field(default="", description="MODULE:CLASS of an embedder; none by default")


class Telemetry(_Section):
    """Logs, traces."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_content: bool = Field(
        default=False, description="write customers' masked words to the log; for trials only"
    )
    otlp_endpoint: str = Field(
        default="", description="of an OpenTelemetry collector (HTTP); none by default"
    )


class Settings(BaseSettings):
    """The whole configuration. `tenants` by name; with none, anybody is the tenant "default" (the development mode)."""

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    http: Http = Http()
    tenants: dict[str, Tenant] = Field(default_factory=dict)
    triton: Triton = Triton()
    media: Media = Media()
    database: Database = Database()
    objects: Objects = Objects()
    cache: Cache = Cache()
    kafka: Kafka = Kafka()
    knowledge: Knowledge = Knowledge()
    telemetry: Telemetry = Telemetry()
    profile: str = Field(default="default", description="policy and prompts: a file in gateway/profiles")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The order of precedence: arguments, environment, secret files, the YAML file."""
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        secrets = Path(os.environ.get("GATEWAY_SECRETS_DIR", "/run/secrets"))
        if secrets.is_dir():
            sources.append(
                NestedSecretsSettingsSource(
                    file_secret_settings,
                    secrets_dir=secrets,
                    secrets_nested_delimiter="__",
                    secrets_prefix="",
                )
            )
        if file := os.environ.get("GATEWAY_CONFIG"):
            sources.append(YamlConfigSettingsSource(settings_cls, yaml_file=file))
        return tuple(sources)
