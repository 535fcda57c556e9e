"""The registry's API by hand: what a test puts there or takes from there without modelbake."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx2

OCTETS = {"Content-Type": "application/octet-stream"}
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Repository:
    """A repository at `url` (scheme, host and port), by a client of its own; every answer that is none of success is an error."""

    def __init__(self, url: str, name: str = "a/b", **options: Any) -> None:
        self.url, self.name = url, name
        # Nothing of the machine's own proxies or netrc.
        self.client = httpx2.Client(base_url=f"{url}/v2/{name}/", timeout=30, trust_env=False, **options)

    def put_blob(self, data: bytes) -> dict[str, Any]:
        """Upload in one piece, unless it is there; the blob's descriptor, of no certain media type."""
        digest = sha256(data)
        if not self.has_blob(digest):
            begun = self.client.post("blobs/uploads/").raise_for_status()
            where = httpx2.URL(begun.headers["Location"]).copy_merge_params({"digest": digest})
            self.client.put(where, content=data, headers=OCTETS).raise_for_status()
        return {"mediaType": OCTETS["Content-Type"], "digest": digest, "size": len(data)}

    def has_blob(self, digest: str) -> bool:
        return self.client.head(f"blobs/{digest}").status_code == 200

    def blob(self, digest: str, **headers: str) -> httpx2.Response:
        return self.client.get(f"blobs/{digest}", headers=headers)

    def mount(self, digest: str, from_: str) -> bool:
        """Whether the registry took the blob out of another repository."""
        answer = self.client.post("blobs/uploads/", params={"mount": digest, "from": from_})
        return answer.status_code == 201

    def put_manifest(self, document: dict[str, Any] | bytes, tag: str, media_type: str = MANIFEST) -> str:
        """Upload a manifest, whatever it says, and return its digest."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.client.put(f"manifests/{tag}", content=data, headers={"Content-Type": media_type}).raise_for_status()
        return sha256(data)

    def manifest(self, tag: str, media_type: str = MANIFEST) -> httpx2.Response:
        return self.client.get(f"manifests/{tag}", headers={"Accept": media_type})
