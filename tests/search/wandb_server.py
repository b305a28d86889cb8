"""A loopback stand-in for the W&B server: the real client talks to it, it records what arrived, and it fails on demand.

``python tests/search/wandb_server.py`` runs it in the foreground for another process: ``GET /-/recorded`` tells what
arrived, ``POST /-/fault`` with ``{"status": 500}``, ``{"hang": true}`` or ``{}`` sets the fault.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import gzip
import json
import socket
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from wandb_answers import Answer
from wandb_graphql import GraphQL, GraphQLError, operation_name
from wandb_records import Artifact, Run, Sweep

API_KEY = "0123456789abcdef0123456789abcdef01234567"
_STREAMS = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "output"}


@dataclass(frozen=True)
class Fault:
    """What every request meets: an answer of this status, or none at all."""

    status: int | None = None
    hang: bool = False


class _Listener(ThreadingHTTPServer):
    """Knows its open connections, so that they can be cut."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, port: int, owner: WandbServer) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Refuse new connections, end those that are open."""
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class WandbServer:
    """The server, started by ``with``. What it records stays readable after it is closed.

    Attributes:
        requests: Names of GraphQL operations, or method and path, in the order they came, those that met a fault too.
        unknown: Those of them that the server does not know: empty if the client got real answers only.
        fault: What every request meets from now on; None when healthy.
        delay_s: Added to every answer, to stand for a network.
    """

    def __init__(self, port: int = 0) -> None:
        self.api_key = API_KEY
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.fault: Fault | None = None
        self.delay_s = 0.0
        self._port = port
        self._listener: _Listener | None = None
        self._graphql = GraphQL(lambda: self.url)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def sweeps(self) -> dict[str, Sweep]:
        """Sweeps by id."""
        return self._graphql.sweeps

    @property
    def runs(self) -> dict[str, Run]:
        """Runs by id."""
        return self._graphql.runs

    @property
    def artifacts(self) -> list[Artifact]:
        """Versions of artifacts, in the order they were created."""
        return self._graphql.artifacts

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this server, and to nothing outside with its telemetry.

        A child of a process that uses wandb also inherits WANDB_SERVICE and then shares that process's service: leave
        it out of a child's environment.
        """
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.api_key, "WANDB_ERROR_REPORTING": "false"}

    def __enter__(self) -> Self:
        self.revive()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """Cut the open connections and refuse new ones."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            listener.cut()

    def revive(self) -> None:
        """Listen again at the same address, with everything recorded kept."""
        if self._listener is None:
            self._listener = _Listener(self._port, self)
            self._port = self._listener.server_address[1]
            threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()

    def stop_run(self, run_id: str) -> None:
        """Do what a click on 'Stop run' does: the client hears of it with its next report.

        Raises:
            KeyError: No such run.
        """
        self.runs[run_id].stopped = True

    def recorded(self) -> dict[str, Any]:
        """Everything recorded as JSON, files by their size in bytes."""

        def plain(record: Run | Sweep | Artifact, **more: Any) -> dict[str, Any]:
            fields = dataclasses.asdict(record) | more
            fields.pop("stored_config", None)
            fields.pop("streams", None)
            return {key: len(value) if isinstance(value, bytes) else value for key, value in fields.items()}

        def sizes(record: Run | Artifact) -> dict[str, int]:
            return {path: len(content) for path, content in record.files.items()}

        with self._lock:
            return {
                "sweeps": {key: plain(sweep) for key, sweep in self.sweeps.items()},
                "runs": {
                    key: plain(run, config=run.config, history=run.history, files=sizes(run))
                    for key, run in self.runs.items()
                },
                "artifacts": [plain(artifact, files=sizes(artifact)) for artifact in self.artifacts],
                "requests": list(self.requests),
                "unknown": list(self.unknown),
            }

    def is_closed(self, listener: _Listener) -> bool:
        """Whether this listener is no longer the server's."""
        return self._listener is not listener

    # -- Answers: an HTTP status and a JSON body

    def graphql(self, query: str, variables: dict[str, Any] | None) -> tuple[int, Answer]:
        """The answer to a GraphQL document."""
        name = operation_name(query)
        with self._lock:
            if name not in self._graphql.operations:
                self.unknown.append(name)
            try:
                return HTTPStatus.OK, {"data": self._graphql.answer(name, variables or {})}
            except GraphQLError as error:
                told = str(error)
            except Exception as error:  # what this server misreads is for the test to see, not for the client to retry
                told = repr(error)
                self.unknown.append(f"{name}: {told}")
            return HTTPStatus.OK, {"data": None, "errors": [{"message": told, "path": [name]}]}

    def other(self, method: str, path: str, body: bytes) -> tuple[int, Answer]:
        """The answer to a request that is no GraphQL."""
        with self._lock, contextlib.suppress(KeyError, GraphQLError):
            match [unquote(part) for part in [method, *path.strip("/").split("/")]]:
                case ["POST", "files", _, _, run_id, "file_stream"]:
                    return HTTPStatus.OK, self._file_stream(self.runs[run_id], json.loads(body))
                case ["PUT", "storage", "runs", run_id, *name]:
                    self.runs[run_id].files["/".join(name)] = body
                    return HTTPStatus.OK, {}
                case ["PUT", "storage", "artifacts", key, *name]:
                    self._graphql.artifact_by_id(key).files["/".join(name)] = body
                    return HTTPStatus.OK, {}
                case ["PUT", "storage", "manifests", key]:
                    self._graphql.artifact_by_id(key).manifest = body
                    return HTTPStatus.OK, {}
        self.unknown.append(f"{method} {path}")
        return HTTPStatus.NOT_FOUND, {"error": f"no such path: {path}"}

    @staticmethod
    def _file_stream(run: Run, body: dict[str, Any]) -> Answer:
        for name, chunk in (body.get("files") or {}).items():
            if name == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
                continue
            lines = run.streams.setdefault(_STREAMS.get(name, name), {})
            lines.update(enumerate(chunk["content"], start=chunk["offset"]))
        if body.get("complete"):
            run.exit_code = body["exitcode"]
            run.state = "finished" if run.exit_code == 0 else "failed"
        return {"exitcode": run.exit_code, "limits": {}, "stopped": run.stopped}


class _Handler(BaseHTTPRequestHandler):
    """One connection: authentication, faults, bytes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: what came is in the server's ``requests``."""

    def handle(self) -> None:
        # A client that gave up waiting has closed the connection that an answer goes to.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        path = urlsplit(self.path).path
        if path.startswith("/-/"):
            self._send(*self._control(path, body))
            return
        owner = self.server.owner
        document = json.loads(body) if path == "/graphql" else {}
        owner.requests.append(operation_name(document["query"]) if document else f"{self.command} {path}")
        time.sleep(owner.delay_s)
        if (fault := owner.fault) is not None and fault.hang:
            self._hang()
        elif fault is not None and fault.status is not None:
            self._send(fault.status, {"errors": [{"message": HTTPStatus(fault.status).phrase}]})
        elif not path.startswith("/storage/") and not self._is_authorized():
            self._send(HTTPStatus.UNAUTHORIZED, {"errors": [{"message": "user is not logged in"}]})
        elif document:
            self._send(*owner.graphql(document["query"], document.get("variables")))
        else:
            self._send(*owner.other(self.command, path, body))

    do_GET = do_POST = do_PUT = _respond  # noqa: N815

    def _is_authorized(self) -> bool:
        expected = base64.b64encode(f"api:{self.server.owner.api_key}".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {expected}"

    def _hang(self) -> None:
        """Never answer; end the connection once the fault is over, as the request was not looked at."""
        owner = self.server.owner
        while owner.fault is not None and owner.fault.hang and not owner.is_closed(self.server):
            time.sleep(0.02)
        self.close_connection = True

    def _control(self, path: str, body: bytes) -> tuple[int, Answer]:
        match self.command, path:
            case "GET", "/-/recorded":
                return HTTPStatus.OK, self.server.owner.recorded()
            case "POST", "/-/fault":
                given = json.loads(body or b"{}")
                self.server.owner.fault = Fault(**given) if given else None
                return HTTPStatus.OK, {}
        return HTTPStatus.NOT_FOUND, {"error": f"no such path: {path}"}

    def _send(self, status: int, answer: Answer) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    with WandbServer(parser.parse_args().port) as server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, server.api_key, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
