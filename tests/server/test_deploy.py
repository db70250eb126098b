"""deploy/: the dashboard shows metrics that there are, and every command, route and file that is named exists."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.server.serving import WAYS, Running
from unmask.cli import app
from unmask.server import Settings

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/unmask.json").read_text(encoding="utf-8"))


def understood(words: list[str]) -> dict[str, Any]:
    """The flags of an `unmask` command line; raises for one that there is not."""
    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = group.commands[words[0]].make_context(words[0], words[1:]).params
    return found


def queries() -> list[tuple[str, str]]:
    """(expression, legend) of every target of every panel."""
    return [(t["expr"], t["legendFormat"]) for panel in DASHBOARD["panels"] for t in panel.get("targets", [])]


@pytest.fixture
def exported(server: Running) -> dict[str, set[str]]:
    """Sample name -> its labels, of everything that /metrics says once every mode has run."""
    for way in WAYS:
        server.completion(**way)
    found = dict[str, set[str]]()
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_the_dashboard_shows_what_is_exported(exported: dict[str, set[str]]) -> None:
    shown = set[str]()
    for query, legend in queries():
        names = set(re.findall(r"unmask_\w+", query))
        assert names, query
        assert names <= exported.keys(), query
        shown |= names
        labels = set[str]().union(*(exported[name] for name in names))
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
        assert grouped <= labels, query
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) == grouped - {"le"}, (query, legend)
        counted = [name for name in names if name.endswith(("_total", "_bucket", "_sum", "_count"))]
        for name in counted:
            assert f"rate({name}[$__rate_interval])" in query, f"{name} only ever grows"
    # Nothing that is exported is forgotten, but for the quantiles, which histograms tell better.
    missing = {re.sub("_(bucket|sum|count)$", "", name) for name in exported.keys() - shown} - {
        re.sub("_(bucket|sum|count)$", "", name) for name in shown
    }
    assert {name for name in missing if "quantile" not in name} == set()


def test_the_dashboard_can_be_provisioned() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    for one, two in combinations(places, 2):
        apart = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    provisioning = DEPLOY / "grafana/provisioning"
    sources = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
    used = {t["datasource"]["uid"] for panel in panels for t in [panel, *panel.get("targets", [])] if "datasource" in t}
    assert used == {source["uid"] for source in sources}
    (provider,) = yaml.safe_load((provisioning / "dashboards/unmask.yaml").read_text(encoding="utf-8"))["providers"]
    grafana = COMPOSE["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/unmask.json"
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert [target for job in scraped for part in job["static_configs"] for target in part["targets"]] == [
        "unmask:30000"
    ]
    assert sources[0]["url"] == "http://prometheus:9090"


def test_the_compose_file_is_careful() -> None:
    services = COMPOSE["services"]
    assert services.keys() == {"unmask", "prometheus", "grafana"}
    mounted = set[str]()
    for service in services.values():
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])  # nothing is open to the network
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).exists()
                assert volume.endswith(":ro")
            else:
                mounted.add(source)
    assert mounted == COMPOSE["volumes"].keys()
    build = services["unmask"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    flags = understood(services["unmask"]["command"])
    assert (flags["host"], flags["port"]) == ("0.0.0.0", 30000)
    assert int(services["unmask"]["stop_grace_period"].removesuffix("s")) > flags["shutdown"]


def test_the_image_is_careful(server: Running) -> None:
    assert re.search(r"^USER 10001$", DOCKERFILE, re.MULTILINE)
    entry, command = (
        json.loads(re.findall(rf"^{word} (.*)$", DOCKERFILE, re.MULTILINE)[-1]) for word in ("ENTRYPOINT", "CMD")
    )
    assert entry == ["unmask"]
    flags = understood(command)
    assert (flags["host"], flags["port"]) == ("0.0.0.0", 30000)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    let_in = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in let_in


def test_the_probe_of_the_image(server: Running) -> None:
    """The HEALTHCHECK's own program, on a server that is there and on a port where nobody is."""
    program = json.loads(re.findall(r"^ +CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0])
    assert program[0] == "python"
    for address, fine in ((f"127.0.0.1:{server.port}", True), ("127.0.0.1:9", False)):
        code = program[-1].replace("127.0.0.1:30000", address)
        assert (subprocess.run([sys.executable, *program[1:-1], code], capture_output=True).returncode == 0) == fine


def test_the_dockerfile_is_linted() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("there is no hadolint for this machine")
    done = subprocess.run([hadolint, str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


UNIT = DEPLOY / "unmask.service"


def test_the_unit_starts_what_there_is() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])
    flags = understood(words)
    assert (program, flags["host"]) == ("/opt/unmask/bin/unmask", "127.0.0.1")
    assert flags["api_key_file"].name == service["LoadCredential"].partition(":")[0]
    assert int(service["TimeoutStopSec"]) > Settings().shutdown_seconds


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
def test_the_unit_is_checked_by_systemd(tmp_path: Path) -> None:
    copy = tmp_path / "unmask.service"
    text = UNIT.read_text(encoding="utf-8")
    copy.write_text(text.replace("/opt/unmask/bin/unmask", "/bin/true"), encoding="utf-8")  # it looks for the program
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)  # exposure of at most 2.0 of 10
    assert done.returncode == 0, done.stdout[-2000:]
