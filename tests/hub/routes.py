"""The hub's answers: from a request to status, headers and content, with no sockets.

Written after what huggingface.co sends (headers and messages as of 2026) and after what huggingface_hub 2.4 reads.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlencode

from tests.hub.log import Request
from tests.hub.repo import DATE, Commit, File, Repo

if TYPE_CHECKING:
    from tests.hub.server import Hub

_ANONYMOUS = "Invalid username or password."
_BAD_TOKEN = "Invalid credentials in Authorization header"


@dataclass
class Answer:
    """`content` is a File where ranges and conditions apply, else the bytes themselves."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | File = b""


class Refusal(Exception):  # noqa: N818 - it is an answer, not an error of the hub
    """Ends the routing of a request with this answer."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.commit = status, message, code, commit


def answer(hub: "Hub", request: Request, target: str, body: bytes) -> Answer:
    """Answer a request to the hub's own port, and note in `request` what it was about.

    target: path and query as sent, still percent-encoded; body: of a POST.
    """
    raw, _, query = target.partition("?")
    parts = [unquote(part) for part in raw.strip("/").split("/")]
    api = parts[0] == "api"
    try:
        user = _user(hub, request)
        if parts[:2] == ["api", "whoami-v2"]:
            request.endpoint = "whoami"
            return _whoami(user)
        if parts[:3] == ["api", "resolve-cache", "models"] and len(parts) > 6:
            request.endpoint = "resolve-cache"
            return _resolve_cached(hub, request, parts[3:])
        if parts[:2] == ["api", "models"] and len(parts) > 2:
            return _api(hub, request, parts[2:], target, parse_qs(query), parse_qs(body.decode()))
        if not api and "resolve" in parts[1:3]:
            request.endpoint = "resolve"
            return _resolve(hub, request, parts, target)
        raise Refusal(404, "Not Found")
    except Refusal as refusal:
        headers = {"X-Error-Message": refusal.message}
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
        if refusal.commit:
            headers["X-Repo-Commit"] = refusal.commit
        if not api:
            headers["Content-Type"] = "text/plain; charset=utf-8"
            return Answer(refusal.status, headers, refusal.message.encode())
        return _json({"error": refusal.message}, headers, refusal.status)


def cdn_answer(hub: "Hub", request: Request, target: str) -> Answer:
    """Answer a request to the CDN's port: an LFS file for a signed URL, 403 for any other."""
    raw, _, query = target.partition("?")
    request.endpoint = "cdn"
    _, name, commit_id, *path = [*(unquote(part) for part in raw.strip("/").split("/")), "", ""]
    repo = hub.repos.get(name)
    commit = repo.commits.get(commit_id) if repo else None
    file = commit.files.get("/".join(path).rstrip("/")) if commit else None
    if repo is None or file is None or parse_qs(query).get("Signature") != [_signature(raw)]:
        return Answer(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
    request.repo, request.revision, request.file = repo.id, commit_id, file.path
    # The storage behind the real CDN has ETags of its own, which are neither sha256 nor git ids.
    etag = hashlib.md5(file.sha256.encode(), usedforsecurity=False).hexdigest()
    return Answer(200, _file_headers(file) | {"ETag": f'"{etag}"'}, file)


def _user(hub: "Hub", request: Request) -> str | None:
    """Name of the token's owner. The real hub refuses a token it does not know even where none is needed."""
    if request.authorization is None:
        return None
    scheme, _, token = request.authorization.partition(" ")
    known = hub.known_tokens()
    if scheme.lower() != "bearer" or token not in known:
        raise Refusal(401, _BAD_TOKEN)
    return known[token]


def _token(request: Request) -> str | None:
    return request.authorization.partition(" ")[2] if request.authorization else None


def _whoami(user: str | None) -> Answer:
    if user is None:
        raise Refusal(401, _ANONYMOUS)
    access = {"type": "access_token", "accessToken": {"displayName": user, "role": "read", "createdAt": DATE}}
    return _json({"type": "user", "id": "0" * 24, "name": user, "fullname": user, "orgs": [], "auth": access})


def _find(hub: "Hub", request: Request, name: str, target: str) -> Repo | Answer:
    """The repository that the request's token may see, or the redirect of a renamed or differently cased name."""
    repo = hub.repos.get(name)
    if repo is None:
        cased = {known.lower(): known for known in hub.repos}
        moved = hub.renamed.get(name) or cased.get(name.lower())
        if moved is not None:
            return _redirect(307, target.replace(f"/{quote(name)}", f"/{quote(moved)}", 1))
    if repo is None or repo.private not in (None, _token(request)):
        request.repo = name
        if request.authorization is None:
            # huggingface.co sends no code here and clients go by its https:// address; on loopback they need the code.
            raise Refusal(401, _ANONYMOUS, "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")
    request.repo = repo.id
    return repo


def _commit(request: Request, repo: Repo, revision: str) -> Commit:
    request.revision = revision
    commit = repo.resolve(revision)
    if commit is None:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def _check_gate(request: Request, repo: Repo) -> None:
    if repo.gated in (None, _token(request)):
        return
    start = f"Access to model {repo.id} is restricted"
    if request.authorization is None:
        login = "You must have access to it and be authenticated to access it. Please log in."
        raise Refusal(401, f"{start}. {login}", "GatedRepo")
    ask = f"Visit https://huggingface.co/{repo.id} to ask for access."
    raise Refusal(403, f"{start} and you are not in the authorized list. {ask}", "GatedRepo")


def _api(
    hub: "Hub",
    request: Request,
    parts: list[str],
    target: str,
    query: Mapping[str, list[str]],
    form: Mapping[str, list[str]],
) -> Answer:
    words = {"revision", "tree", "paths-info", "refs", "auth-check"}
    length = 1 if len(parts) == 1 or parts[1] in words else 2
    rest = parts[length:]
    request.endpoint = "info" if not rest or rest[0] == "revision" else rest[0] if rest[0] in words else "unknown"
    repo = _find(hub, request, "/".join(parts[:length]), target)
    if isinstance(repo, Answer):
        return repo
    match rest:
        case []:
            return _info(repo, _commit(request, repo, "main"), query)
        case ["revision", revision]:
            return _info(repo, _commit(request, repo, revision), query)
        case ["tree", revision, *folder]:
            return _tree(hub, request, _commit(request, repo, revision), "/".join(folder), target, query)
        case ["paths-info", revision] if request.method == "POST":
            return _paths_info(_commit(request, repo, revision), form)
        case ["refs"]:
            return _json(_refs(repo))
        case ["auth-check"]:
            _check_gate(request, repo)
            return _json({})
    raise Refusal(404, "Sorry, we can't find the page you are looking for.")


def _info(repo: Repo, commit: Commit, query: Mapping[str, list[str]]) -> Answer:
    siblings: list[dict[str, object]] = []
    for file in commit.files.values():
        sibling: dict[str, object] = {"rfilename": file.path}
        if _flag(query, "blobs"):
            sibling |= {"size": file.size, "blobId": file.blob_id}
            if file.lfs:
                sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
        siblings.append(sibling)
    return _json(
        {
            "_id": "0" * 24,
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.id.partition("/")[0],
            "sha": commit.id,
            "createdAt": DATE,
            "lastModified": DATE,
            "private": repo.private is not None,
            "gated": "manual" if repo.gated is not None else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        },
        {"X-Repo-Commit": commit.id},
    )


def _tree(
    hub: "Hub", request: Request, commit: Commit, folder: str, target: str, query: Mapping[str, list[str]]
) -> Answer:
    if folder and folder not in commit.trees:
        raise Refusal(404, f"{folder} does not exist on {request.revision}", "EntryNotFound", commit.id)
    prefix = f"{folder}/" if folder else ""
    entries = [
        _entry(commit, path, expand=_flag(query, "expand"))
        for path in sorted([*commit.files, *(tree for tree in commit.trees if tree)])
        if path.startswith(prefix) and (_flag(query, "recursive") or "/" not in path[len(prefix) :])
    ]
    at, size = int(query.get("cursor", ["0"])[0]), int(query.get("limit", [str(hub.page_size)])[0])
    headers = {"X-Repo-Commit": commit.id}
    if at + size < len(entries):
        following = {name: values[0] for name, values in query.items()} | {"cursor": str(at + size)}
        base = f"http://{request.headers.get('host', '')}{target.partition('?')[0]}"
        headers["Link"] = f'<{base}?{urlencode(following)}>; rel="next"'
    return _json(entries[at : at + size], headers)


def _paths_info(commit: Commit, form: Mapping[str, list[str]]) -> Answer:
    """The entries of those asked paths that exist, as the real hub does: a missing one is left out, not an error."""
    asked = [path.strip("/") for path in form.get("paths", [])]
    found = [path for path in asked if path in commit.files or (path and path in commit.trees)]
    return _json([_entry(commit, path, expand=_flag(form, "expand")) for path in found])


def _entry(commit: Commit, path: str, *, expand: bool) -> dict[str, object]:
    file = commit.files.get(path)
    entry: dict[str, object]
    if file is None:
        entry = {"type": "directory", "oid": commit.trees[path], "size": 0, "path": path}
    else:
        entry = {"type": "file", "oid": file.blob_id, "size": file.size, "path": path}
        if file.lfs:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
        if expand:
            safe = {"status": "safe"}
            entry["securityFileStatus"] = {"status": "safe", "avScan": safe, "pickleImportScan": safe}
    if expand:
        entry["lastCommit"] = {"id": commit.id, "title": commit.title, "date": DATE}
    return entry


def _refs(repo: Repo) -> dict[str, object]:
    def listed(kind: str, names: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": to} for name, to in names.items()]

    return {"branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags), "converts": []}


def _resolve(hub: "Hub", request: Request, parts: list[str], target: str) -> Answer:
    at = parts.index("resolve", 1)
    request.file = "/".join(parts[at + 2 :])
    repo = _find(hub, request, "/".join(parts[:at]), target)
    if isinstance(repo, Answer):
        return repo
    commit = _commit(request, repo, parts[at + 1] if len(parts) > at + 1 else "")
    _check_gate(request, repo)
    file = _file(request, commit)
    headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
    if not file.lfs:
        location = f"/api/resolve-cache/models/{quote(repo.id)}/{commit.id}/{quote(file.path)}"
        query = urlencode({target.partition("?")[0]: "", "etag": f'"{file.etag}"'})
        return _redirect(307, f"{location}?{query}", headers)
    path = f"/cdn/{quote(repo.id, safe='')}/{commit.id}/{quote(file.path)}"
    query = urlencode({"Expires": "4102444800", "Signature": _signature(path), "Key-Pair-Id": "TESTS"})
    # The same host name as the client used, so that the redirect works through any bridge or published port.
    location = f"http://{request.headers.get('host', '').rpartition(':')[0]}:{hub.cdn_port}{path}?{query}"
    linked = {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.etag}"'}
    return _redirect(302, location, headers | linked)


def _resolve_cached(hub: "Hub", request: Request, parts: list[str]) -> Answer:
    request.file = "/".join(parts[3:])
    repo = _find(hub, request, "/".join(parts[:2]), request.path)
    if isinstance(repo, Answer):
        return repo
    if parts[2] not in repo.commits:
        raise Refusal(400, "A full commit is needed here")
    commit = _commit(request, repo, parts[2])
    _check_gate(request, repo)
    file = _file(request, commit)
    return Answer(200, _file_headers(file) | {"X-Repo-Commit": commit.id, "ETag": f'"{file.etag}"'}, file)


def _file(request: Request, commit: Commit) -> File:
    file = commit.files.get(request.file or "")
    if file is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", commit.id)
    return file


def _file_headers(file: File) -> dict[str, str]:
    name = file.path.rpartition("/")[2]
    text = name.endswith((".json", ".txt", ".md"))
    return {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\";",
        "Content-Type": "text/plain; charset=utf-8" if text else "application/octet-stream",
    }


def _redirect(status: int, location: str, headers: Mapping[str, str] | None = None) -> Answer:
    text = f"{'Found' if status == 302 else 'Temporary Redirect'}. Redirecting to {location}"
    added = {"Location": location, "Content-Type": "text/plain; charset=utf-8"}
    return Answer(status, dict(headers or {}) | added, text.encode())


def _json(value: object, headers: Mapping[str, str] | None = None, status: int = 200) -> Answer:
    content = json.dumps(value, separators=(",", ":")).encode()
    return Answer(status, dict(headers or {}) | {"Content-Type": "application/json; charset=utf-8"}, content)


def _flag(values: Mapping[str, list[str]], name: str) -> bool:
    return values.get(name, [""])[0].lower() in ("true", "1")


def _signature(path: str) -> str:
    return hashlib.sha256(f"cdn:{path}".encode()).hexdigest()[:40]
