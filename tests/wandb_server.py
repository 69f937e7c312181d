"""A server that speaks as much of W&B's protocol as its client (0.31) needs for uploads, on the loopback interface.

It keeps what the real one does: runs with their config, summary and history, whose rows have places that a second
upload may overwrite, and the artifacts that are declared. It is made after the client's queries: what the real one
makes of them is not seen.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "project", "internalId": "project", "name": "p", "entity": {"id": "me", "name": "me"}}


@dataclass
class StoredRun:
    """A run as the server has it; `history` is place -> row."""

    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


class WandbServer(ThreadingHTTPServer):
    """Holds what was uploaded.

    Attributes:
        runs: by id.
        files: paths of what was uploaded beside.
        artifacts: name -> what it was declared with.
        edges: (run, "makes" or "uses", artifact) in order.
        knows_key: whether it takes the key of whoever asks.
        faults: of this server; none in a test that passes.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, StoredRun] = {}
        self.files: list[str] = []
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.edges: list[tuple[str, str, str]] = []
        self.knows_key = True
        self.faults: list[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keeps what went wrong here; clients end connections as they like."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            self.faults.append(repr(error))

    @property
    def url(self) -> str:
        """For WANDB_BASE_URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server that runs while the block does."""
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers a query by the method of its name; an unknown one by nothing."""

    server: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self.server.files.append(self.path)
        self._answer({})

    def do_POST(self) -> None:
        try:
            content = json.loads(self._body())
        except ValueError:  # telemetry
            content = {}
        if self.path.endswith("/file_stream"):
            self._stream(self.server.runs.setdefault(self.path.split("/")[-2], StoredRun()), content)
            self._answer({"exitcode": None, "limits": {}})
            return
        named = re.match(r"\s*(?:query|mutation)\s+(\w+)", content.get("query", ""))
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", named[1]).lower() if named else ""
        method = getattr(self, f"_{name}", None) if name else None
        self._answer({"data": method(content.get("variables") or {}) if method else {}})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, run: StoredRun, content: dict[str, Any]) -> None:
        files = content.get("files") or {}
        if (rows := files.get("wandb-history.jsonl")) is not None:
            run.history |= dict(enumerate(map(json.loads, rows["content"]), start=rows["offset"]))
        if (summary := files.get("wandb-summary.json")) is not None:
            run.summary = json.loads(summary["content"][-1])
        if content.get("complete"):
            run.exit_code = content.get("exitcode")

    def _viewer(self, _: Any) -> Any:
        me = {"id": "me", "entity": "me", "username": "me", "flags": "{}", "email": "", "teams": {"edges": []}}
        return {"viewer": me if self.server.knows_key else None}

    def _server_info(self, _: Any) -> Any:
        return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"}, "latestLocalVersionInfo": None}}

    def _server_features_query(self, _: Any) -> Any:
        return {"serverInfo": {"features": []}}

    def _upsert_bucket(self, asked: dict[str, Any]) -> Any:
        name, new = asked["name"], asked["name"] not in self.server.runs
        run = self.server.runs.setdefault(name, StoredRun())
        if asked.get("config") is not None:
            # the whole of it, in place of what there was
            run.config = json.loads(asked["config"])
        run.fields |= {key: value for key, value in asked.items() if value is not None and key != "config"}
        bucket = {"displayName": "", "description": "", "config": json.dumps(run.config), "sweepName": None}
        bucket |= {"id": name, "name": name, "project": PROJECT, "historyLineCount": len(run.history)}
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _run_resume_status(self, asked: dict[str, Any]) -> Any:
        run, name = self.server.runs.get(asked["name"]), asked["name"]
        if run is None:
            return {"model": {**PROJECT, "bucket": None}}
        tail = [json.dumps(run.history[max(run.history)])] if run.history else []
        bucket: dict[str, Any] = {"id": name, "name": name, "displayName": "", "tags": [], "notes": None}
        bucket |= {"logLineCount": 0, "historyLineCount": len(run.history), "eventsLineCount": 0}
        bucket |= {"summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config)}
        bucket |= {"historyTail": json.dumps(tail), "eventsTail": "[]", "wandbConfig": '{"t": 1}'}
        return {"model": {**PROJECT, "bucket": bucket}}

    def _create_run_files(self, asked: dict[str, Any]) -> Any:
        url = f"{self.server.url}/files/{asked['run']}"
        files = [{"name": name, "uploadUrl": f"{url}/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _artifact_type(self, _: Any) -> Any:
        return {"project": {"artifact": None}}

    def _create_artifact(self, asked: dict[str, Any]) -> Any:
        given = asked["input"]
        name = given["artifactCollectionName"]
        self.server.artifacts[name] = given
        self.server.edges.append((given["runName"], "makes", name))
        latest = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": latest}}

    def _create_artifact_manifest(self, asked: dict[str, Any]) -> Any:
        file = {"id": "f", "uploadUrl": f"{self.server.url}/manifests/{asked['artifactID']}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _create_artifact_files(self, asked: dict[str, Any]) -> Any:
        nodes = [
            {
                "storagePath": one["name"],
                "uploadUrl": f"{self.server.url}/artifacts/{one['artifactID']}/{one['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": one["artifactID"]},
            }
            for one in asked["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _update_artifact_manifest(self, asked: dict[str, Any]) -> Any:
        file = {"id": "f", "uploadUrl": f"{self.server.url}/manifests/{asked['artifactManifestID']}"}
        return {"updateArtifactManifest": {"artifactManifest": {"id": "m", "file": {**file, "uploadHeaders": []}}}}

    def _commit_artifact(self, asked: dict[str, Any]) -> Any:
        return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "d"}}}

    def _use_artifact(self, asked: dict[str, Any]) -> Any:
        given = asked.get("input", asked)
        self.server.edges.append((given["runName"], "uses", given["artifactID"]))
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}

    def _artifact_membership_by_name(self, asked: dict[str, Any]) -> Any:
        name = asked["name"].split(":")[0]
        if name not in self.server.artifacts:
            return {"project": {"artifactCollectionMembership": None}}
        given, when = self.server.artifacts[name], "2026-01-01T00:00:00"
        collection = {"__typename": "ArtifactSequence", "name": name, "project": PROJECT}
        artifact = {
            **{"__typename": "Artifact", "id": name, "artifactSequence": collection, "versionIndex": 0},
            **{"artifactType": {"name": given["artifactTypeName"]}, "description": None, "metadata": "{}"},
            **{"ttlDurationSeconds": -2, "ttlIsInherited": True, "tags": [], "historyStep": None, "size": 0},
            **{"state": "COMMITTED", "digest": given["digest"], "commitHash": "c", "fileCount": 1},
            **{"createdAt": when, "updatedAt": None, "aliases": []},
        }
        membership = {"__typename": "ArtifactCollectionMembership", "id": name, "versionIndex": 0, "createdAt": when}
        membership |= {"aliases": [], "artifactCollection": collection, "artifact": artifact}
        return {"project": {"artifactCollectionMembership": membership}}
