"""A prefix of an S3 bucket, or of a store that speaks its protocol (AWS_ENDPOINT_URL).

It knows what S3's errors mean for the person who reads them. Keys, region and endpoint come from the environment, a
profile, or the pod's identity, as boto3 finds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, BinaryIO, Final

from build_engine.volume import AbsentError, FailedError
from build_engine.volume.source import Listing, RemoteFile

_PIECE: Final = 1 << 20
_ATTEMPTS: Final = 5
_REFUSED: Final = (
    "AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
)  # fmt: skip


class Bucket:
    """See `Source`. `prefix`: without slashes at its ends, "" for the whole bucket."""

    revision = ""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix

    @property
    def name(self) -> str:
        """See `Source`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def list(self) -> Listing:
        """See `Source`."""
        start = f"{self._prefix}/" if self._prefix else ""
        files = {}
        with self._told():
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=start, Delimiter="/"
            )
            for item in (item for page in pages for item in page.get("Contents", ())):
                name = item["Key"].removeprefix(start)
                files[name] = RemoteFile(name, item["Size"], item["Key"], item["ETag"])
        if not files:
            raise AbsentError(
                f"{self.name}: the bucket is there, but nothing lies under {start or 'it'!r}; "
                "give the prefix of the files themselves (config.json, *.safetensors)"
            )
        return Listing("", files)

    def append(self, file: RemoteFile, offset: int, part: BinaryIO) -> None:
        """See `Source`."""
        from botocore.exceptions import HTTPClientError, ResponseStreamingError

        start, fruitless = part.tell() - offset, 0
        with self._told():
            while (had := part.tell() - start) < file.size:
                try:
                    body = self._s3.get_object(
                        Bucket=self._bucket, Key=file.address, Range=f"bytes={had}-", IfMatch=file.version
                    )["Body"]
                    for piece in body.iter_chunks(_PIECE):
                        part.write(piece)
                except (
                    HTTPClientError,
                    ResponseStreamingError,
                ):  # the stream was cut; boto3 repeats requests only
                    fruitless = 0 if part.tell() - start > had else fruitless + 1
                    if fruitless >= _ATTEMPTS:
                        raise

    @cached_property
    def _s3(self) -> Any:
        import boto3
        from botocore.config import Config

        limits = Config(connect_timeout=10, read_timeout=30, retries={"max_attempts": 5, "mode": "standard"})
        return boto3.session.Session().client("s3", config=limits)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns boto3's errors into ours."""
        try:
            from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
        except ImportError:
            raise FailedError("s3:// needs the package boto3: pip install boto3") from None
        try:
            yield
        except NoCredentialsError:
            raise FailedError(
                f"{self.name}: no keys. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod an identity that "
                "may read the bucket"
            ) from None
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "NoSuchBucket":
                raise AbsentError(
                    f"there is no bucket {self._bucket!r} at {self._s3.meta.endpoint_url}; is AWS_ENDPOINT_URL right?"
                ) from None
            if code in _REFUSED:
                raise FailedError(
                    f"{self.name}: refused ({code}). The keys need s3:ListBucket and s3:GetObject there"
                ) from None
            if code in ("PreconditionFailed", "412", "NoSuchKey", "404"):
                raise FailedError(f"{self.name} was changed while it was read; run this again") from None
            raise FailedError(f"{self.name}: {error}") from error
        except BotoCoreError as error:
            raise FailedError(f"{self.name}: {error}") from error
