"""A repository of the Hugging Face Hub, or of a mirror that speaks its protocol (HF_ENDPOINT).

It knows what the hub's errors mean for the person who reads them. huggingface_hub lists the files and streams them;
`download` continues what was cut off, because huggingface_hub's own downloads begin anew after a kill.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from build_engine.volume import AbsentError, FailedError
from build_engine.volume.source import Listing, RemoteFile

_OFFLINE = "Without a network: fetch elsewhere, copy the directory, and give its path as SOURCE. For a mirror, set HF_ENDPOINT"


@dataclass(frozen=True)
class Hub:
    """See `Source`. `repository`: ORG/NAME."""

    repository: str
    revision: str

    @property
    def name(self) -> str:
        """See `Source`."""
        return f"hf://{self.repository}"

    def list(self) -> Listing:
        """See `Source`."""
        with self._told():
            from huggingface_hub import HfApi, hf_hub_url

            info = HfApi(endpoint=_endpoint()).model_info(
                self.repository, revision=self.revision, files_metadata=True, timeout=30
            )
            files: builtins.list[RemoteFile] = []
            for file in info.siblings or ():
                if file.size is None:
                    raise FailedError(
                        f"{_endpoint()} does not tell sizes: it must pass ?blobs=true on to the hub"
                    )
                address = hf_hub_url(self.repository, file.rfilename, revision=info.sha, endpoint=_endpoint())
                digest = file.lfs.sha256 if file.lfs else None
                files.append(RemoteFile(file.rfilename, file.size, address, file.blob_id or info.sha, digest))
        return Listing(info.sha, {file.name: file for file in files})

    def append(self, file: RemoteFile, offset: int, part: BinaryIO) -> None:
        """See `Source`."""
        with self._told():
            from huggingface_hub.file_download import http_get
            from huggingface_hub.utils import build_hf_headers

            headers = build_hf_headers()
            http_get(file.address, part, resume_size=offset, headers=headers, expected_size=file.size)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns huggingface_hub's errors into ours."""
        try:
            from huggingface_hub import errors
            from huggingface_hub.utils import disable_progress_bars
        except ImportError:
            raise FailedError(
                "hf:// needs the package huggingface_hub: pip install huggingface_hub"
            ) from None
        disable_progress_bars()  # `download` has its own
        where = f"{self.name}@{self.revision}"
        token = "HF_TOKEN" if os.environ.get("HF_TOKEN") else None
        # The base of its own errors differs: that of requests before 1.0, that of an httpx since.
        transport: type[Exception] = errors.HfHubHTTPError.__mro__[1]
        try:
            yield
        except errors.OfflineModeIsEnabled:
            raise AbsentError(
                f"{where} is not here, and HF_HUB_OFFLINE forbids to fetch it. {_OFFLINE}"
            ) from None
        except errors.GatedRepoError:
            who = "the account of HF_TOKEN" if token else "an account, and set HF_TOKEN to one of its tokens"
            raise FailedError(
                f"{self.name} is gated: accept its terms on {_endpoint()}/{self.repository} with {who}"
            ) from None
        except errors.RevisionNotFoundError:
            raise AbsentError(
                f"{self.name} has no revision {self.revision!r}: a branch, tag or commit is needed"
            ) from None
        except errors.RepositoryNotFoundError:
            private = "HF_TOKEN may not read it" if token else "private, and HF_TOKEN is not set"
            raise AbsentError(f"{self.name} does not exist on {_endpoint()}, or is {private}") from None
        except errors.HfHubHTTPError as error:
            raise FailedError(self._answered(error.response.status_code, error)) from error
        except (transport, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk
            raise FailedError(f"{_endpoint()} cannot be reached ({error}). {_OFFLINE}") from error

    def _answered(self, status: int, error: Exception) -> str:
        if status == 401:
            return f"{_endpoint()} refuses HF_TOKEN (401): it is mistyped or expired; make a new one with read access"
        if status == 403:
            return f"{_endpoint()} does not let HF_TOKEN read {self.name} (403): give it read access to this repository"
        return f"{_endpoint()} answered {status} for {self.name}; try again later. {error}"


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
