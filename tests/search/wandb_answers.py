"""What accounts, projects, sweeps, runs and artifacts look like in the loopback W&B server's GraphQL answers.

An answer holds every field that wandb 0.31 asks for anywhere; selections are not evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml
from wandb_records import Artifact, Run, Sweep, storage_id

ENTITY = "tester"

Answer = dict[str, Any]


def edges(nodes: Sequence[Answer], cursor: str | None = None, per_page: int | None = None) -> Answer:
    """The connection of nodes behind a cursor, which is the index of the last node that was sent before."""
    start = 0 if cursor is None else int(cursor) + 1
    end = len(nodes) if per_page is None else start + per_page
    page = [{"node": node, "cursor": str(start + index)} for index, node in enumerate(nodes[start:end])]
    last = page[-1]["cursor"] if page else None
    return {
        "edges": page,
        "pageInfo": {"__typename": "PageInfo", "endCursor": last, "hasNextPage": end < len(nodes)},
    }


def viewer() -> Answer:
    """The account that the server's one key belongs to."""
    return {
        "id": storage_id("User", ENTITY),
        "entity": ENTITY,
        "username": ENTITY,
        "name": ENTITY,
        "email": f"{ENTITY}@example.com",
        "flags": "{}",
        "admin": False,
        "deletedAt": None,
        "teams": edges([]),
        "apiKeys": edges([]),
    }


def project_node(entity: str, project: str) -> Answer:
    """A project."""
    return {
        "__typename": "Project",
        "id": storage_id("Project", f"{project}:{entity}"),
        "internalId": "1",
        "name": project,
        "entityName": entity,
        "entity": {"id": storage_id("Entity", entity), "name": entity},
        "createdAt": "2026-01-01T00:00:00Z",
        "isBenchmark": False,
        "readOnly": False,
        "user": viewer(),
    }


def sweep_node(sweep: Sweep, runs: Sequence[Run]) -> Answer:
    """A sweep with its runs."""
    return {
        "__typename": "Sweep",
        "id": storage_id("Sweep", sweep.id),
        "name": sweep.id,
        "displayName": sweep.display_name,
        "method": sweep.config.get("method"),
        "state": sweep.state,
        "description": sweep.config.get("description"),
        "bestLoss": None,
        "config": yaml.safe_dump(sweep.config),
        "controller": json.dumps(sweep.config.get("controller")),
        "scheduler": None,
        "earlyStopJobRunning": False,
        "createdAt": sweep.created_at,
        "updatedAt": sweep.created_at,
        "heartbeatAt": sweep.created_at,
        "runCount": len(runs),
        "runCountExpected": None,
        "runs": edges([run_node(run) for run in runs]),
        "project": project_node(sweep.entity, sweep.project),
    }


def run_node(run: Run) -> Answer:
    """A run with what the client needs to resume it."""
    history, events = run.lines("history"), run.lines("events")
    telemetry = run.stored_config.get("_wandb", {}).get("value", {}).get("t", {})
    return {
        "id": storage_id("Run", run.id),
        "name": run.id,
        "displayName": run.name,
        "description": run.notes,
        "notes": run.notes,
        "tags": run.tags,
        "group": run.group,
        "jobType": run.job_type,
        "sweepName": run.sweep,
        "state": run.state,
        "config": json.dumps(run.stored_config),
        "wandbConfig": json.dumps({"t": telemetry}),
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": "{}",
        "historyKeys": {"keys": {key: {} for row in run.history for key in row}},
        "historyLineCount": len(history),
        "eventsLineCount": len(events),
        "logLineCount": len(run.lines("output")),
        "historyTail": json.dumps(history[-1:]),
        "eventsTail": json.dumps(events[-1:]),
        "sampledHistory": [run.history],
        "exitcode": run.exit_code,
        "shouldStop": run.stopped,
        "stopped": run.stopped,
        "running": run.state == "running",
        "failed": run.state == "failed",
        "commit": None,
        "readOnly": False,
        "createdAt": run.created_at,
        "heartbeatAt": run.created_at,
        "user": viewer(),
        "project": project_node(run.entity, run.project),
        "projectId": "1",
    }


def artifact_node(artifact: Artifact, latest: Artifact | None) -> Answer:
    """A version of an artifact; ``latest`` is the newest committed one of that name."""
    collection = {
        "__typename": "ArtifactSequence",
        "id": storage_id("ArtifactSequence", artifact.name),
        "name": artifact.name,
        "project": project_node(artifact.entity, artifact.project),
    }
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "artifactSequence": {**collection, "latestArtifact": {"id": latest.id} if latest else None},
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "description": artifact.description,
        "metadata": json.dumps(artifact.metadata),
        "ttlDurationSeconds": 0,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": artifact.state,
        "size": sum(map(len, artifact.files.values())),
        "digest": artifact.digest,
        "commitHash": artifact.digest,
        "fileCount": len(artifact.files),
        "createdAt": artifact.created_at,
        "updatedAt": artifact.created_at,
        "aliases": [
            {
                "__typename": "ArtifactAlias",
                "id": storage_id("ArtifactAlias", f"{artifact.id}:{alias}"),
                "alias": alias,
                "artifactCollection": collection,
            }
            for alias in artifact.aliases
        ],
    }
