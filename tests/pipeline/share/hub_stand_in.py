"""A hub on loopback with what huggingface_hub asks of it: repositories, branches, commits, large files, downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors",)
"""Endings of files that are sent apart from the commit."""


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> files."""
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        before = self.commits.get(self.branches.get(branch, ""), {})
        after = before | files
        name = hashlib.sha1(repr((branch, len(self.commits), sorted(after.items()))).encode()).hexdigest()
        self.commits[name], self.branches[branch] = after, name
        return name

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        self.server.asked.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            found = self._find("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
            if found is not None and len(parts) > 4 and parts[4] == "tree":
                self._json([self._leaf(name, content) for name, content in sorted(found[1].items())])
            elif found is not None:
                files = [{"rfilename": name, "size": len(content)} for name, content in sorted(found[1].items())]
                self._json({"id": "/".join(parts[2:4]), "sha": found[0], "siblings": files, "private": False})
        elif len(parts) >= 5 and parts[2] == "resolve":
            found = self._find("/".join(parts[:2]), parts[3])
            name = "/".join(parts[4:])
            if found is not None and name in found[1]:
                content = found[1][name]
                etag = hashlib.sha256(content).hexdigest()
                self._send(200, content, {"X-Repo-Commit": found[0], "ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"'})
            elif found is not None:
                self._refuse("EntryNotFound", found[0])
        else:
            self._refuse("RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        repositories = self.server.repositories
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            if name in repositories:
                self._json(
                    {"error": "You already created this model repo", "url": f"{self.server.address}/{name}"}, 409
                )
                return
            repositories[name] = Repository(private)
            repositories[name].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
            self._json({"url": f"{self.server.address}/{name}", "name": name})
        elif parts == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif parts[-2:] == ["objects", "batch"]:
            self._json({"transfer": "basic", "objects": [self._place(one) for one in json.loads(body)["objects"]]})
        elif parts[0] == "verify":
            self._json({})
        elif len(parts) >= 6 and parts[4] == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular"}
                | {"shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif len(parts) >= 6 and parts[4] == "branch":
            repository = repositories["/".join(parts[2:4])]
            repository.branches[parts[5]] = repository.branches["main"]
            self._json({})
        elif len(parts) >= 6 and parts[4] == "commit":
            self._take_commit("/".join(parts[2:4]), parts[5], body)
        else:
            self._refuse("RepoNotFound")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.large[self.path.rpartition("/")[2]] = body
        self._send(200, b"", {})

    def _take_commit(self, name: str, branch: str, body: bytes) -> None:
        files = {}
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        commit = self.server.repositories[name].commit(branch, files)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.server.address}/{name}/commit/{commit}"})

    def _place(self, one: dict[str, Any]) -> dict[str, Any]:
        where = {"href": f"{self.server.address}/upload/{one['oid']}", "header": {}}
        return {"oid": one["oid"], "size": one["size"], "authenticated": True, "actions": {"upload": where}}

    @staticmethod
    def _leaf(name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if name not in self.server.repositories:
            self._refuse("RepoNotFound")
            return None
        found = self.server.repositories[name].find(revision)
        if found is None:
            self._refuse("RevisionNotFound")
        return found

    def _refuse(self, code: str, commit: str = "") -> None:
        self._send(
            404, b'{"error": "not found"}', {"X-Error-Code": code, **({"X-Repo-Commit": commit} if commit else {})}
        )

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def running_hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
