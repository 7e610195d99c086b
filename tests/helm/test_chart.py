"""The chart, by the real Helm: what it renders, what it refuses, and what it says of itself."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flowpod import __version__
from tests.support.chart import (
    CHART,
    KUBERNETES,
    PROFILES,
    README,
    golden,
    helm,
    objects,
    rendered,
    rendered_profile,
    with_values,
)
from tests.support.serving import ROOT

pytestmark = pytest.mark.needs("helm")

MYSQL = "history.type=mysql,history.mysql.existingSecret=my-mysql"
CUSTOM = ("HTTPRoute", "PrometheusRule", "ServiceMonitor")  # whose schemas are not Kubernetes' own


def one(text: str, kind: str) -> dict[str, Any]:
    found = [item for item in objects(text) if item["kind"] == kind]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.stem)
def test_a_profile_renders_as_its_golden_says(profile: Path) -> None:
    assert rendered_profile(profile) == golden(profile).read_text(), "if this is meant, `make docs` writes the goldens"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.stem)
def test_what_a_profile_renders_is_valid(profile: Path) -> None:
    for item in objects(golden(profile).read_text()):
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.stem)
def test_a_profile_passes_lint(profile: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "--kube-version", KUBERNETES, "--values", str(profile))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_golden_has_a_profile() -> None:
    assert sorted((ROOT / "tests" / "helm" / "goldens").iterdir()) == [golden(profile) for profile in PROFILES]


REFUSED = [
    ("replicaCount=2", "replicaCount: 2 instances cannot share a history in SQLite"),
    ("autoscaling.enabled=true", "autoscaling.enabled: several instances cannot share a history in SQLite"),
    ("history.type=mysql", "history.mysql.existingSecret: set it to the Secret"),
    ("history.type=postgres", "history.type|/history/type"),
    ("replicaCount=-1", "replicaCount"),
    ("replicaCount=two", "replicaCount"),
    ("replicas=2", "replicas"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("serviceName=My-Flow", "serviceName"),
    ("env.FLOWPOD_GRACE_S=5", "FLOWPOD_GRACE_S"),
    ("env.FLOWPOD_TOKENS=secret", "FLOWPOD_TOKENS"),
    ("terminationGracePeriodSeconds=20", "terminationGracePeriodSeconds: 20 leaves no time for runs"),
    ("httpRoute.enabled=true", "httpRoute.parentRefs: set it to the Gateway"),
    ("persistence.size=big", "size"),
    ("service.port=70000", "port"),
    (f"{MYSQL},autoscaling.enabled=true,autoscaling.maxReplicas=1", "autoscaling.minReplicas is greater than"),
    (
        f"{MYSQL},autoscaling.enabled=true,autoscaling.targetCPUUtilizationPercentage=0",
        "there is no metric to scale by",
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[values for values, _ in REFUSED])
def test_wrong_values_are_refused(values: str, message: str) -> None:
    done = helm("template", "my", str(CHART), "--kube-version", KUBERNETES, "--set", values)
    assert done.returncode != 0
    assert any(part in done.stderr for part in message.split("|")), done.stderr


@pytest.mark.parametrize(
    "values", ["terminationGracePeriodSeconds=21", "drainDelaySeconds=30,terminationGracePeriodSeconds=600"]
)
def test_a_pod_has_longer_to_end_than_flowpod_takes(values: str) -> None:
    text = rendered("--set", values)
    settings = one(text, "ConfigMap")["data"]
    pod = one(text, "Deployment")["spec"]["template"]["spec"]
    taken = int(settings["FLOWPOD_DRAIN_DELAY_S"]) + int(settings["FLOWPOD_GRACE_S"])
    assert taken + 15 == pod["terminationGracePeriodSeconds"]


def test_a_sqlite_pod_is_ended_before_the_next_one_starts_and_a_mysql_pod_after() -> None:
    assert one(rendered(), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    strategy = one(rendered("--set", MYSQL), "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_a_budget_never_blocks_the_drain_of_a_single_instance() -> None:
    assert "PodDisruptionBudget" not in {item["kind"] for item in objects(rendered())}
    assert one(rendered("--set", MYSQL), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_restricted_pod_security_standard_is_met() -> None:
    for item in objects(rendered()):
        pod = item["spec"]["template"]["spec"] if item["kind"] == "Deployment" else item.get("spec", {})
        for container in pod.get("containers", []):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["automountServiceAccountToken"] is False


def test_a_changed_setting_replaces_the_pods_and_a_made_up_token_does_not() -> None:
    def pod(*options: str) -> Any:
        return one(rendered(*options), "Deployment")["spec"]["template"]

    assert pod() == pod()
    assert pod("--set", "env.A=1") != pod()


def test_large_numbers_stay_numbers(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("env: {A: 10485760, B: true, C: '007', D: 0.5}")
    data = one(rendered("--values", str(tmp_path / "values.yaml")), "ConfigMap")["data"]
    assert (data["A"], data["B"], data["C"], data["D"]) == ("10485760", "true", "007", "0.5")


@pytest.mark.parametrize(
    ("release", "name"), [("my-flow", "my_flow_flowpod"), ("7up", "flow_7up_flowpod"), ("x" * 53, "x" * 40)]
)
def test_the_service_is_named_after_the_release(release: str, name: str) -> None:
    assert one(rendered(release=release), "ConfigMap")["data"]["FLOWPOD_SERVICE_NAME"] == name


def test_every_value_is_documented() -> None:
    assert with_values(README.read_text()) == README.read_text(), "run `make docs`"


def test_every_value_has_a_schema() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())

    def unknown(values: dict[str, Any], part: dict[str, Any]) -> list[str]:
        if "properties" not in part:
            return []
        missing = [name for name in values if name not in part["properties"]]
        nested = [(value, part["properties"][name]) for name, value in values.items() if isinstance(value, dict)]
        return missing + [name for value, inner in nested for name in unknown(value, inner)]

    assert unknown(yaml.safe_load((CHART / "values.yaml").read_text()), schema) == []


def test_the_chart_is_of_this_version() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (__version__, __version__)
