"""What happens over a release's life: the token that stays, its notes, and `helm test` against a live server."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chart import CHART, helm, objects, rendered
from tests.support.flows import write_flow
from tests.support.kubernetes import Cluster, running_cluster
from tests.support.serving import serving

pytestmark = pytest.mark.needs("helm")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path) as running:
        yield running


def secret_of(cluster: Cluster, *options: str) -> dict[str, str]:
    """Return the token Secret's data as an upgrade would write it, rendered with what the cluster holds."""
    given = ["--dry-run=server", "--is-upgrade", "--kubeconfig", str(cluster.kubeconfig), *options]
    secret = objects(rendered("--show-only", "templates/secret.yaml", *given))[0]
    cluster.objects["secrets", "chat", secret["metadata"]["name"]] = secret
    return dict(secret["data"])


def test_an_upgrade_keeps_the_token_that_was_made_up(cluster: Cluster) -> None:
    made = secret_of(cluster)
    assert made["token"] == made["tokens"]
    assert len(base64.b64decode(made["token"])) == 40
    assert secret_of(cluster, "--set", "image.tag=new") == made
    cluster.objects.clear()
    assert secret_of(cluster) != made


def test_tokens_that_somebody_put_into_the_secret_stay(cluster: Cluster) -> None:
    made = secret_of(cluster)
    made["tokens"] = base64.b64encode(b"new,old").decode()
    cluster.objects["secrets", "chat", "my-flowpod-token"]["data"] = made
    assert secret_of(cluster) == made


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["get secret my-flowpod-token -o jsonpath='{.data.token}'", "set auth.existingSecret"]),
        (["--set", "auth.existingSecret=mine,auth.tokenKey=one"], ["get secret mine -o jsonpath='{.data.one}'"]),
        (["--set", "auth.enabled=false"], ["anyone who can reach this service can run the flow"]),
        (["--set", "ingress.enabled=true"], ["It is also reachable at http://flowpod.example.com"]),
        (["--set", "persistence.enabled=false"], ["the chat history is deleted with the pod"]),
    ],
    ids=["made-up", "existing", "open", "ingress", "no-volume"],
)
def test_the_notes_say_how_to_call_it(cluster: Cluster, options: list[str], expected: list[str]) -> None:
    given = ["--namespace", "chat", "--dry-run=client", "--kubeconfig", str(cluster.kubeconfig), *options]
    given.append("--disable-openapi-validation")
    done = helm("install", "my", str(CHART), *given)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert all(text in notes for text in expected), notes
    assert ("GitOps" in notes) == (expected[-1].startswith("set auth") or "auth" not in str(options))


def chat(url: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run what the pod of `helm test` runs, with the variables that it is given."""
    text = rendered("--show-only", "templates/tests/chat.yaml", *options)
    container = objects(text)[0]["spec"]["containers"][0]
    assert container["command"] == ["python", "-c"]
    variables = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    assert variables["URL"] == "http://my-flowpod:80"
    return subprocess.run(
        [sys.executable, "-c", *container["args"]],
        env=variables | {"URL": url} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_helm_test_chats_and_deletes_its_session(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path, FLOWPOD_TOKENS="t0ken") as served:
        done = chat(served.url, "--set", "test.question=Hello there", TOKEN="t0ken")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "answered: You said: Hello there\nits session is deleted\n"
        refused = chat(served.url, TOKEN="wrong")
        assert refused.returncode == 1
        assert "POST /v1/chat/completions: expected 200, got 401" in refused.stderr
    gone = chat(served.url, TOKEN="t0ken")
    assert (gone.returncode, "no answer" in gone.stderr) == (1, True)


def test_helm_test_without_a_history(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path, FLOWPOD_HISTORY="off") as served:
        done = chat(served.url, "--set", "history.type=off,auth.enabled=false")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "answered: You said: Are you there? Answer in one sentence.\n"


def test_helm_test_of_a_flow_that_is_no_chat(tmp_path: Path) -> None:
    dag = """
    outputs:
      out: {type: string, reference: "${greet.output}"}
    nodes:
    - {name: greet, type: prompt, source: {path: greet.jinja2}}
    """
    with serving(write_flow(tmp_path / "flow", dag, {"greet.jinja2": "Hello"}), tmp_path) as served:
        done = chat(served.url)
        assert (done.returncode, done.stdout) == (0, "ready; not a chat flow, so nothing is asked\n")
