"""The GraphQL operations of W&B that a sweep needs, answered from (and written to) what the loopback server records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import yaml
from wandb_answers import ENTITY, Answer, artifact_node, edges, project_node, run_node, sweep_node, viewer
from wandb_records import Artifact, Run, Sweep, UnsupportedFilterError, matches, ordered, storage_id

DEFAULT_PROJECT = "uncategorized"
# What of the site's features changes the calls that a tracker makes.
FEATURES = ("CLIENT_IDS", "LARGE_FILENAMES", "FILESTREAM_GZIP", "MARK_RUN_FILES_UPLOADED", "SWEEPS_QUERY_FILTERING")
_OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")

Variables = dict[str, Any]
Record = TypeVar("Record", Run, Sweep)


class GraphQLError(Exception):
    """The server refuses the operation; the message is in the answer's ``errors``."""


def operation_name(document: str) -> str:
    """The name of the operation that a GraphQL document holds."""
    found = _OPERATION.search(document)
    return found.group(1) if found else "(unnamed)"


def _address(variables: Variables) -> tuple[str, str]:
    entity = variables.get("entity") or variables.get("entityName") or ENTITY
    return entity, variables.get("project") or variables.get("projectName") or DEFAULT_PROJECT


def _by_key(records: Mapping[str, Record], kind: str, key: str) -> Record:
    for name, record in records.items():
        if storage_id(kind, name) == key:
            return record
    raise GraphQLError(f"no {kind} with id {key}")


class GraphQL:
    """The operations, by name in :attr:`operations`. Not thread-safe: the server calls it under its lock."""

    def __init__(self, url: Callable[[], str]) -> None:
        self.sweeps: dict[str, Sweep] = {}
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self._url = url
        self.operations: dict[str, Callable[[Variables], Answer]] = {
            "Viewer": lambda _: {"viewer": viewer()},
            "GetViewer": lambda _: {"viewer": viewer()},
            "GetDefaultEntity": lambda _: {"viewer": viewer()},
            "ServerFeaturesQuery": self._features,
            "GetProject": self._project,
            "UpsertSweep": self._upsert_sweep,
            "UpsertSweepState": self._upsert_sweep,
            "SweepWithRuns": self._sweep,
            "GetSweep": self._sweep,
            "GetSweepState": self._sweep,
            "GetSweeps": self._sweeps,
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._upsert_run,
            "Run": self._run,
            "RunState": self._run,
            "Runs": self._runs,
            "RunFullHistory": self._history,
            "RunSampledHistory": self._history,
            "StopRun": self._stop_run,
            "CreateRunFiles": self._create_files,
            "MarkRunFilesUploaded": lambda _: {"markRunFilesUploaded": {"success": True}},
            "ArtifactType": self._artifact_type,
            "CreateArtifact": self._create_artifact,
            "CreateArtifactFiles": self._create_artifact_files,
            "CreateArtifactManifest": self._artifact_manifest,
            "UpdateArtifactManifest": self._artifact_manifest,
            "CommitArtifact": self._commit_artifact,
            "ArtifactByID": self._artifact,
            "ClientIDMapping": self._client_id,
        }

    def answer(self, name: str, variables: Variables) -> Answer:
        """The ``data`` of an operation.

        Raises:
            GraphQLError: No such operation, or it names what is not there.
        """
        if name not in self.operations:
            raise GraphQLError(f"this server does not know the operation {name}")
        try:
            return self.operations[name](variables)
        except UnsupportedFilterError as error:
            raise GraphQLError(str(error)) from error

    # -- The server and its projects

    def _features(self, _: Variables) -> Answer:
        return {"serverInfo": {"features": [{"name": name, "isEnabled": True} for name in FEATURES]}}

    def _exists(self, entity: str, project: str) -> bool:
        records: list[Run | Sweep] = [*self.runs.values(), *self.sweeps.values()]
        return any((record.entity, record.project) == (entity, project) for record in records)

    def _project(self, variables: Variables) -> Answer:
        entity, project = variables["entity"], variables["name"]
        return {"project": project_node(entity, project) if self._exists(entity, project) else None}

    # -- Sweeps

    def _upsert_sweep(self, variables: Variables) -> Answer:
        if (key := variables.get("id")) is None:
            sweep = self._create_sweep(variables)
        else:
            sweep = _by_key(self.sweeps, "Sweep", key)
            if variables.get("config"):
                sweep.config = yaml.safe_load(variables["config"])
        if (state := variables.get("state")) and state != sweep.state:
            sweep.states.append(state)
        sweep.display_name = variables.get("displayName") or sweep.display_name
        if variables.get("priorRunsFilters"):
            for run in self._chosen(sweep.entity, sweep.project, variables["priorRunsFilters"]):
                run.sweep = sweep.id
        return {"upsertSweep": {"sweep": self._sweep_node(sweep), "configValidationWarnings": []}}

    def _create_sweep(self, variables: Variables) -> Sweep:
        config = yaml.safe_load(variables.get("config") or "")
        if not isinstance(config, dict) or not config.get("parameters"):
            raise GraphQLError("invalid sweep config: it needs parameters")
        sweep = Sweep(f"sweep{len(self.sweeps):03d}", *_address(variables), config)
        self.sweeps[sweep.id] = sweep
        return sweep

    def _sweep_node(self, sweep: Sweep) -> Answer:
        return sweep_node(sweep, ordered((run for run in self.runs.values() if run.sweep == sweep.id), None))

    def _sweep(self, variables: Variables) -> Answer:
        sweep = self.sweeps.get(variables.get("sweep") or variables["name"])
        found = sweep is not None and (sweep.entity, sweep.project) == _address(variables)
        return {"project": {"sweep": self._sweep_node(sweep) if sweep and found else None}}

    def _sweeps(self, variables: Variables) -> Answer:
        wanted = json.loads(variables.get("filters") or "{}")
        there = [sweep for sweep in self.sweeps.values() if (sweep.entity, sweep.project) == _address(variables)]
        nodes = [self._sweep_node(sweep) for sweep in there if matches(sweep, wanted)]
        page = edges(nodes, variables.get("cursor"), variables.get("perPage"))
        return {"project": {"totalSweeps": len(nodes), "sweeps": page}}

    # -- Runs

    def _chosen(self, entity: str, project: str, filters: str | None) -> list[Run]:
        wanted = json.loads(filters or "{}")
        there = (run for run in self.runs.values() if (run.entity, run.project) == (entity, project))
        return [run for run in there if matches(run, wanted)]

    def _run_of(self, variables: Variables) -> Run:
        name = variables.get("run") or variables.get("runName") or variables["name"]
        run = self.runs.get(name)
        if run is None or (run.entity, run.project) != _address(variables):
            raise GraphQLError(f"could not find run {name}")
        return run

    def _upsert_run(self, variables: Variables) -> Answer:
        if (sweep := variables.get("sweep")) and sweep not in self.sweeps:
            raise GraphQLError(f"could not find sweep {sweep}")
        if variables.get("id"):
            run, inserted = _by_key(self.runs, "Run", variables["id"]), False
        else:
            name = variables["name"]
            inserted = name not in self.runs
            run = self.runs.setdefault(name, Run(name, *_address(variables), name=name))
        self._update_run(run, variables)
        run.upserts += 1
        return {"upsertBucket": {"bucket": run_node(run), "inserted": inserted}}

    @staticmethod
    def _update_run(run: Run, variables: Variables) -> None:
        run.name = variables.get("displayName") or variables.get("display_name") or run.name
        run.group = variables.get("groupName") or run.group
        run.job_type = variables.get("jobType") or run.job_type
        run.notes = variables.get("notes") or run.notes
        run.sweep = variables.get("sweep") or run.sweep
        run.state = variables.get("state") or run.state
        if variables.get("tags") is not None:
            run.tags = list(variables["tags"])
        if variables.get("config"):
            run.stored_config = json.loads(variables["config"])
        if variables.get("summaryMetrics"):
            run.summary = json.loads(variables["summaryMetrics"])

    def _resume_status(self, variables: Variables) -> Answer:
        entity, project = _address(variables)
        if not self._exists(entity, project):
            return {"model": None}
        run = self.runs.get(variables["name"])
        return {"model": {**project_node(entity, project), "bucket": run_node(run) if run else None}}

    def _run(self, variables: Variables) -> Answer:
        return {"project": {"run": run_node(self._run_of(variables))}}

    def _runs(self, variables: Variables) -> Answer:
        entity, project = _address(variables)
        if not self._exists(entity, project):
            return {"project": None}
        chosen = ordered(self._chosen(entity, project, variables.get("filters")), variables.get("order"))
        page = edges([run_node(run) for run in chosen], variables.get("cursor"), variables.get("perPage"))
        return {"project": {"internalId": "1", "readOnly": False, "runCount": len(chosen), "runs": page}}

    def _history(self, variables: Variables) -> Answer:
        run = self._run_of(variables)
        keys = [json.loads(spec)["keys"] for spec in variables.get("specs", ())]
        sampled = [[row for row in run.history if row.keys() >= set(wanted)] for wanted in keys]
        return {"project": {"run": {"history": run.lines("history"), "sampledHistory": sampled}}}

    def _stop_run(self, variables: Variables) -> Answer:
        _by_key(self.runs, "Run", variables["id"]).stopped = True
        return {"stopRun": {"success": True}}

    def _create_files(self, variables: Variables) -> Answer:
        run = self._run_of(variables)
        address = f"{self._url()}/storage/runs/{quote(run.id)}"
        files = [{"name": name, "uploadUrl": f"{address}/{quote(name)}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": storage_id("Run", run.id), "uploadHeaders": [], "files": files}}

    # -- Artifacts

    def artifact_by_id(self, key: str) -> Artifact:
        """The artifact that the server gave this id.

        Raises:
            GraphQLError: It gave none that id.
        """
        for artifact in self.artifacts:
            if artifact.id == key:
                return artifact
        raise GraphQLError(f"no artifact with id {key}")

    def _committed(self, name: str) -> list[Artifact]:
        return [version for version in self.artifacts if version.name == name and version.state == "COMMITTED"]

    def _artifact_node(self, artifact: Artifact) -> Answer:
        committed = self._committed(artifact.name)
        return artifact_node(artifact, committed[-1] if committed else None)

    def _artifact_type(self, variables: Variables) -> Answer:
        same = [artifact for artifact in self.artifacts if artifact.name == variables["name"].partition(":")[0]]
        found = {"artifact": {"artifactType": {"name": same[-1].type}}} if same else {"artifact": None}
        return {"project": found}

    def _create_artifact(self, variables: Variables) -> Answer:
        given = variables["input"]
        name = given.get("artifactCollectionName") or given["artifactCollectionNames"][0]
        same = [version for version in self._committed(name) if version.digest == given["digest"]]
        artifact = same[-1] if same else self._new_artifact(name, given)
        for alias in (entry["alias"] for entry in given.get("aliases") or ()):
            self._move_alias(artifact, alias)
        return {"createArtifact": {"artifact": self._artifact_node(artifact)}}

    def _new_artifact(self, name: str, given: dict[str, Any]) -> Artifact:
        artifact = Artifact(
            id=f"artifact{len(self.artifacts):03d}",
            name=name,
            type=given["artifactTypeName"],
            run=given.get("runName"),
            entity=given.get("entityName") or ENTITY,
            project=given.get("projectName") or DEFAULT_PROJECT,
            digest=given["digest"],
            client_id=given.get("clientID"),
            version=len([version for version in self.artifacts if version.name == name]),
            description=given.get("description"),
            metadata=json.loads(given.get("metadata") or "null"),
        )
        self.artifacts.append(artifact)
        return artifact

    def _move_alias(self, artifact: Artifact, alias: str) -> None:
        """An alias names one version of an artifact: its newest owner takes it from the others."""
        for version in self.artifacts:
            if version.name == artifact.name and alias in version.aliases:
                version.aliases.remove(alias)
        artifact.aliases.append(alias)

    def _create_artifact_files(self, variables: Variables) -> Answer:
        nodes: list[Answer] = []
        for entry in variables["input"]["artifactFiles"]:
            path = f"{quote(entry['artifactID'])}/{quote(entry['name'])}"
            node = {"storagePath": path, "artifact": {"id": entry["artifactID"]}, "uploadMultipartUrls": None}
            nodes.append({**node, "uploadUrl": f"{self._url()}/storage/artifacts/{path}", "uploadHeaders": []})
        return {"createArtifactFiles": {"files": edges(nodes)}}

    def _artifact_manifest(self, variables: Variables) -> Answer:
        """Both creation and update: a manifest's id is that of its artifact."""
        key = variables.get("artifactID") or variables["artifactManifestID"]
        upload = {"uploadUrl": f"{self._url()}/storage/manifests/{quote(key)}", "uploadHeaders": []}
        answer = {"artifactManifest": {"id": key, "file": {"id": key, **upload}}}
        return {"createArtifactManifest": answer, "updateArtifactManifest": answer}

    def _commit_artifact(self, variables: Variables) -> Answer:
        artifact = self.artifact_by_id(variables["artifactID"])
        if artifact.manifest is None:
            raise GraphQLError(f"artifact {artifact.name} was committed without its manifest")
        contents = json.loads(artifact.manifest)["contents"]
        stored_here = {path for path, entry in contents.items() if "ref" not in entry}
        if missing := sorted(stored_here - artifact.files.keys()):
            raise GraphQLError(f"artifact {artifact.name} was committed without its files {missing}")
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": self._artifact_node(artifact)}}

    def _artifact(self, variables: Variables) -> Answer:
        return {"artifact": self._artifact_node(self.artifact_by_id(variables["id"]))}

    def _client_id(self, variables: Variables) -> Answer:
        for artifact in self.artifacts:
            if artifact.client_id == variables["clientID"]:
                return {"clientIDMapping": {"serverID": artifact.id}}
        raise GraphQLError(f"no artifact with client id {variables['clientID']}")
