"""A Hugging Face repository at a revision, through the real client's own calls for all but the bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath

from modelbake.bundle import HubSource
from modelbake.errors import SourceUnreachableError
from modelbake.settings import Settings
from modelbake.sources.base import RemoteFile, Stream
from modelbake.sources.http import open_url, raise_for_status, request_errors
from modelbake.sources.local import open_file


class Hub:
    """The repository; with HF_HUB_OFFLINE set, what the client's own cache holds of it."""

    def __init__(self, spec: HubSource, settings: Settings, paths: tuple[str, ...]) -> None:
        self._spec, self._settings, self._paths = spec, settings, paths
        self.commit: str | None = None

    @property
    def label(self) -> str:
        where = "the offline cache" if self._settings.hub_offline else self._settings.hub_endpoint
        return f"hub {self._spec.repository}@{self._spec.revision[:12]} ({where})"

    def inventory(self) -> dict[str, RemoteFile]:
        """The repository's files with the digests that the hub gives: SHA-256 of large files, git's object id of the others."""
        if self._settings.hub_offline:
            return {path: self._cached_file(path, found) for path in self._paths if (found := self._cached(path))}
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        api = HfApi(endpoint=self._settings.hub_endpoint, token=self._token())
        repository, revision = self._spec.repository, self._spec.revision
        try:
            with request_errors(self.label, asking=True):
                info = api.model_info(repository, revision=revision, files_metadata=True, timeout=15)
                if info.gated:
                    # A gated repository lists its files for everybody, and gives them to few.
                    api.auth_check(repository)
        except GatedRepoError as error:
            raise SourceUnreachableError(
                f"{self.label}: the repository is gated; set HF_TOKEN to a token that may read it."
            ) from error
        except RevisionNotFoundError as error:
            raise SourceUnreachableError(f"{self.label}: there is no revision {revision}.") from error
        except RepositoryNotFoundError as error:
            raise SourceUnreachableError(
                f"{self.label}: there is no such repository, or HF_TOKEN may not read it."
            ) from error
        except HfHubHTTPError as error:
            raise_for_status(error.response, self.label)
            raise SourceUnreachableError(f"{self.label}: {error}") from error
        except (ValueError, TypeError) as error:
            # A login page in place of the listing, or a name that is no repository's.
            raise SourceUnreachableError(
                f"{self.label}: the answer is no listing of a repository ({error})."
            ) from error
        self.commit = info.sha
        files = {}
        for sibling in info.siblings or []:
            lfs = sibling.lfs
            files[sibling.rfilename] = RemoteFile(
                size=lfs.size if lfs else sibling.size,
                sha256=lfs.sha256 if lfs else None,
                git_oid=None if lfs else sibling.blob_id,
            )
        return files

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Stream]:
        if self._settings.hub_offline:
            return self._open_cached(path, offset)
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(
            self._spec.repository,
            path,
            revision=self.commit or self._spec.revision,
            endpoint=self._settings.hub_endpoint,
        )
        return open_url(url, offset, build_hf_headers(token=self._token()))

    def _token(self) -> str | bool:
        # False, not None: None would let the client look for a token of its own in the home folder.
        return self._settings.hub_token or False

    def _cached(self, path: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self._spec.repository, path, revision=self._spec.revision)
        return Path(found) if isinstance(found, str) else None

    def _cached_file(self, path: str, found: Path) -> RemoteFile:
        """The client's cache keeps blobs/<ETag> and links to it from snapshots/<commit>/<path>; a hub's ETag is its digest."""
        self.commit = found.parents[len(PurePosixPath(path).parts) - 1].name
        etag = found.resolve().name
        return RemoteFile(
            size=found.stat().st_size,
            sha256=etag if re.fullmatch("[0-9a-f]{64}", etag) else None,
            git_oid=etag if re.fullmatch("[0-9a-f]{40}", etag) else None,
        )

    @contextmanager
    def _open_cached(self, path: str, offset: int) -> Iterator[Stream]:
        found = self._cached(path)
        if found is None:
            raise SourceUnreachableError(
                f"{self.label}: {path} is not in the client's cache, and HF_HUB_OFFLINE forbids to ask the hub."
            )
        with open_file(found, offset) as stream:
            yield stream
