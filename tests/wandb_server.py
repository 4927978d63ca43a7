"""A small W&B server on the loopback: what the client asks of one, kept in memory, failing as the test says.

Runs are resumed by their id; `file_stream` rows are kept by their offset, as the real server does, so that a row
sent again takes its own place; uploads are kept by name.
"""

import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FILES = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "logs"}


class Server(ThreadingHTTPServer):
    """`runs` by project and id, each {"history": {offset: row}, "summary": {...}, ...}; in trouble as it is set."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.runs: dict[tuple[str, str], dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}
        self.artifacts: list[str] = []  # collections, in the order they came
        self.asked: list[str] = []
        self.refused: set[str] = set()  # GraphQL operations answered by an error
        self.status = 0  # answer everything with it; 0 is well, -1 is away
        self.hanging = threading.Event()
        self.lock = threading.Lock()
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def run(self, project: str, name: str) -> dict[str, Any]:
        fresh = {
            "history": {},
            "events": {},
            "logs": {},
            "config": {},
            "summary": {},
            "complete": False,
            "exit": None,
        }
        return self.runs.setdefault((project, name), fresh)

    def only_run(self) -> dict[str, Any]:
        (run,) = self.runs.values()
        return run

    def rows(self) -> list[dict[str, Any]]:
        """History rows of the only run, in order."""
        history = self.only_run()["history"]
        return [history[line] for line in sorted(history)]

    def steps(self) -> list[int]:
        return [row["_step"] for row in self.rows()]

    def handle_error(self, *_: Any) -> None:
        """A client that is killed resets its connections."""

    def go_away(self) -> None:
        """Refuse connections, and break those there are, until `come_back`."""
        self.status = -1
        self.shutdown()
        self.socket.close()

    def come_back(self) -> None:
        """Listen again at the same address, with everything that was kept."""
        self.socket = socket.create_server(self.server_address)
        self.status = 0
        self._listen()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._in_trouble():
            return
        if self.path.endswith("/graphql"):
            self._answer(self._graphql(json.loads(body)))
        elif self.path.endswith("/file_stream"):
            self._answer(self._file_stream(json.loads(body)))
        else:
            self._answer({})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._in_trouble():
            self.server.uploads[self.path.removeprefix("/upload/")] = body
            self._answer({})

    def do_GET(self) -> None:
        if not self._in_trouble():
            self._answer({})

    def _in_trouble(self) -> bool:
        while self.server.hanging.is_set():
            time.sleep(0.05)
        if self.server.status < 0:
            self.close_connection = True
        elif self.server.status:
            self._answer({"error": "trouble"}, self.server.status)
        return bool(self.server.status)

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        query, v = request["query"], request.get("variables") or {}
        match = re.search(r"\b(query|mutation)\s+(\w+)", query)
        name = match[2] if match else ""
        with self.server.lock:
            self.server.asked.append(name)
            if name in self.server.refused:
                return {"errors": [{"message": f"{name} is refused: storage quota exceeded"}], "data": None}
            answer = getattr(self, "_on_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(), None)
            if answer is None:
                return {"data": {}, "errors": [{"message": f"unknown operation {name}"}]}
            return {"data": answer(v)}

    def _file_stream(self, body: dict[str, Any]) -> dict[str, Any]:
        _, project, name, _ = self.path.removeprefix("/files/").split("/")
        with self.server.lock:
            run = self.server.run(project, name)
            for file, part in (body.get("files") or {}).items():
                if file == "wandb-summary.json":
                    run["summary"] = json.loads(part["content"][-1])
                elif file in FILES:
                    for k, line in enumerate(part["content"]):
                        run[FILES[file]][part["offset"] + k] = json.loads(line) if file != "output.log" else line
            if body.get("complete"):
                run["complete"], run["exit"] = True, body.get("exitcode")
        return {"limits": {}}

    # GraphQL operations

    def _on_server_features_query(self, v: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _on_viewer(self, v: dict[str, Any]) -> Any:
        return {
            "viewer": {"id": "1", "entity": "tests", "username": "tests", "flags": "{}", "teams": {"edges": []}}
        }

    def _on_run_resume_status(self, v: dict[str, Any]) -> Any:
        run = self.server.runs.get((v["project"], v["name"]))
        model = {"id": "p", "name": v["project"], "entity": {"id": "e", "name": "tests"}, "bucket": None}
        if run is not None:
            tail = [json.dumps(run["history"][max(run["history"])])] if run["history"] else []
            model["bucket"] = {
                "id": v["name"],
                "name": v["name"],
                "displayName": v["name"],
                "tags": [],
                "notes": "",
                "summaryMetrics": json.dumps(run["summary"]),
                "config": json.dumps(run["config"]),
                "logLineCount": len(run["logs"]),
                "historyLineCount": len(run["history"]),
                "eventsLineCount": len(run["events"]),
                "historyTail": json.dumps(tail),
                "eventsTail": "[]",
                "wandbConfig": '{"t": 1}',
            }
        return {"model": model}

    def _on_upsert_bucket(self, v: dict[str, Any]) -> Any:
        key = (v["project"], v["name"])
        inserted = key not in self.server.runs
        run = self.server.run(*key)
        run["config"] |= json.loads(v.get("config") or "{}")
        run["state"] = v.get("state")
        project = {"id": "p", "name": v["project"], "entity": {"id": "e", "name": "tests"}}
        bucket = {"id": v["name"], "name": v["name"], "displayName": v.get("displayName") or "", "description": ""}
        bucket |= {"config": "{}", "sweepName": "", "project": project, "historyLineCount": len(run["history"])}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _on_create_run_files(self, v: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": self._upload(f"{v['run']}/{name}")} for name in v["files"]]
        return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": files}}

    def _on_mark_run_files_uploaded(self, v: dict[str, Any]) -> Any:
        return {"updateRunFiles": {"success": True}, "markRunFilesUploaded": {"success": True}}

    def _on_run_stopped_status(self, v: dict[str, Any]) -> Any:
        return {"project": {"run": {"stopped": False}}}

    def _on_xxhash_digests_enabled(self, v: dict[str, Any]) -> Any:
        return {"entity": {"xxhashDigestsEnabled": False}}

    def _on_fetch_artifact_digest_algorithm(self, v: dict[str, Any]) -> Any:
        return {"project": None}

    def _on_create_artifact(self, v: dict[str, Any]) -> Any:
        given = v["input"]
        self.server.artifacts.append(given["artifactCollectionName"])
        artifact = {"id": f"a{len(self.server.artifacts)}", "state": "PENDING", "artifactSequence": {"id": "s"}}
        return {"createArtifact": {"artifact": artifact}}

    def _manifest(self) -> Any:
        file = {"id": "f", "uploadUrl": self._upload("manifest"), "uploadHeaders": []}
        return {"artifactManifest": {"id": "m", "file": file}}

    def _on_create_artifact_manifest(self, v: dict[str, Any]) -> Any:
        return {"createArtifactManifest": self._manifest()}

    def _on_update_artifact_manifest(self, v: dict[str, Any]) -> Any:
        return {"updateArtifactManifest": self._manifest()}

    def _on_create_artifact_files(self, v: dict[str, Any]) -> Any:
        nodes = [
            {
                "storagePath": f"x/{f['name']}",
                "uploadUrl": self._upload(f"artifact/{f['name']}"),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": f["artifactID"]},
            }
            for f in v["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _on_artifact_by_id(self, v: dict[str, Any]) -> Any:
        project = {"id": "p", "internalId": "1", "name": "faces", "entity": {"name": "tests"}}
        name = self.server.artifacts[int(v["id"][1:]) - 1]
        artifact = {
            "__typename": "Artifact",
            "id": v["id"],
            "versionIndex": 0,
            "artifactType": {"name": "model"},
            "artifactSequence": {"__typename": "ArtifactSequence", "name": name, "project": project},
            "description": None,
            "metadata": "{}",
            "ttlDurationSeconds": 0,
            "ttlIsInherited": False,
            "tags": [],
            "historyStep": 0,
            "state": "COMMITTED",
            "size": 1,
            "digest": "d",
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": "c",
            "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "aliases": [],
        }
        return {"artifact": artifact}

    def _on_commit_artifact(self, v: dict[str, Any]) -> Any:
        return {"commitArtifact": {"artifact": {"id": v["artifactID"], "digest": "d"}}}

    def _on_use_artifact(self, v: dict[str, Any]) -> Any:
        return {"useArtifact": {"artifact": {"id": v["input"]["artifactID"]}}}

    def _upload(self, name: str) -> str:
        return f"{self.server.url}/upload/{name}"
