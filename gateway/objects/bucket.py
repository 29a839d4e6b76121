"""Objects in a bucket of S3 or of a server that speaks its protocol. Keys come from the environment, as boto3 reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from gateway.errors import NotFound, Unavailable

_MISSING: Final = ("NoSuchKey", "404")


class Bucket:
    """See `objects.Backend`. `url`: s3://BUCKET/PREFIX."""

    def __init__(self, url: str, endpoint: str) -> None:
        import boto3
        from botocore.config import Config

        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        limits = Config(connect_timeout=3, read_timeout=30, retries={"max_attempts": 3, "mode": "standard"})
        self._s3: Any = boto3.client("s3", endpoint_url=endpoint or None, config=limits)

    def put(self, name: str, data: bytes, mime: str) -> None:
        """See Backend."""
        with _Told():
            self._s3.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data, ContentType=mime)

    def get(self, name: str) -> bytes:
        """See Backend."""
        with _Told():
            body: bytes = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
        return body

    def delete(self, name: str) -> None:
        """See Backend."""
        with _Told():
            self._s3.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def names(self) -> Iterator[tuple[str, float]]:
        """See Backend."""
        pages = iter(
            self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        )
        while True:
            with _Told():
                page = next(pages, None)
            if page is None:
                return
            for item in page.get("Contents", ()):
                yield item["Key"].removeprefix(self._prefix), item["LastModified"].timestamp()

    def tidy(self, before_s: float) -> None:
        """See Backend. A bucket has whole objects only."""


class _Told:
    """Botocore's errors as ours."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        if isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in _MISSING:
            raise NotFound("there is no such object") from None
        if isinstance(error, BotoCoreError | ClientError):
            raise Unavailable("the object store does not answer") from error
