"""A stand-in for a cluster: as much of the Kubernetes API, on a real socket, as Helm reads when it renders a chart."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.serving import in_thread

KINDS = {
    "v1": ["Secret", "ConfigMap", "Service", "ServiceAccount", "PersistentVolumeClaim", "Pod"],
    "apps/v1": ["Deployment"],
    "networking.k8s.io/v1": ["Ingress"],
}


@dataclass
class Cluster:
    """The objects of a cluster, by resource, namespace and name; `kubeconfig` is what a client is told."""

    kubeconfig: Path
    objects: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)

    async def get(self, request: Request) -> Response:
        key = resource, _, name = tuple(request.path_params[part] for part in ("resource", "namespace", "name"))
        if found := self.objects.get(key):
            return JSONResponse(found)
        failure = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        return JSONResponse({**failure, "message": f'{resource} "{name}" not found'}, 404)


async def _version(request: Request) -> Response:
    return JSONResponse({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})


async def _versions(request: Request) -> Response:
    return JSONResponse({"kind": "APIVersions", "versions": ["v1"]})


async def _groups(request: Request) -> Response:
    groups = []
    for name, _, version in (whole.partition("/") for whole in KINDS if "/" in whole):
        entry = {"groupVersion": f"{name}/{version}", "version": version}
        groups.append({"name": name, "versions": [entry], "preferredVersion": entry})
    return JSONResponse({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})


async def _resources(request: Request) -> Response:
    version = "/".join(request.path_params.values())
    found = [
        {"name": f"{kind.lower()}s", "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get"]}
        for kind in KINDS[version]
    ]
    return JSONResponse({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found})


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Run the stand-in until the block ends."""
    cluster = Cluster(folder / "kubeconfig")
    bases = ["/api/{version}", "/apis/{group}/{version}"]
    routes = [
        Route("/version", _version),
        Route("/api", _versions),
        Route("/apis", _groups),
        *[Route(base, _resources) for base in bases],
        *[Route(f"{base}/namespaces/{{namespace}}/{{resource}}/{{name}}", cluster.get) for base in bases],
    ]
    with in_thread(Starlette(routes=routes)) as url:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
        }
        cluster.kubeconfig.write_text(yaml.safe_dump(content))
        yield cluster
