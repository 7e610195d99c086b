from tests.support.chart import PROFILES, golden, objects
from tests.support.serving import ROOT


def test_every_alert_is_explained() -> None:
    guarded = next(profile for profile in PROFILES if profile.stem == "guarded")
    rules = next(item for item in objects(golden(guarded).read_text()) if item["kind"] == "PrometheusRule")
    alerts = [rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    page = (ROOT / "docs" / "operating.md").read_text()
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| `Flowpod")] == alerts
