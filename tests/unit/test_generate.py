"""What `penstock generate` writes: the shipped files, and files fitted to a config."""

import json
import os
import re
from pathlib import Path

import pytest
from makers import brightness_model

from pipeline.config.loader import load
from pipeline.config.settings import Settings
from pipeline.generate import KINDS, PROGRAM, environment, generate
from pipeline.registry import Registry

SITE = """
[sources.gate]
type = "file"
path = "${CLIP:-clip.mp4}"
required = true

[sources.yard]
type = "file"
path = "clip.mp4"

[backends.local]
type = "onnx"
model = "model.onnx"
device = "%DEVICE%"

[sinks.lines]
type = "jsonl"
path = "/srv/results/{source}.jsonl"

[server]
listen = "127.0.0.1:%PORT%"
[server.tokens.prometheus]
token = "${SCRAPE_TOKEN}"
scopes = ["metrics"]
"""


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    return _load(tmp_path)


def _load(folder: Path, device: str = "cpu") -> Settings:
    brightness_model(folder / "model.onnx")
    (folder / "clip.mp4").write_bytes(b"")
    (folder / "pipeline.toml").write_text(SITE.replace("%DEVICE%", device).replace("%PORT%", "9777"))
    environ = environment({"PATH": os.defpath, "SCRAPE_TOKEN": "0123456789abcdef"})
    return load(folder / "pipeline.toml", registry=Registry.load(), environ=environ)


def _values(unit: str, key: str) -> list[str]:
    return re.findall(rf"(?m)^{key}=(.*)$", unit)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_config_it_is_the_shipped_file(root: Path, kind: str) -> None:
    assert generate(kind) == (root / "deploy" / KINDS[kind]).read_text()


def test_the_unit_fits_the_config(tmp_path: Path, site: Settings) -> None:
    unit = generate("systemd", site, program=Path("/opt/a b/penstock"))
    config = tmp_path / "pipeline.toml"
    assert _values(unit, "ExecStart") == [f'"/opt/a b/penstock" run {config}']
    assert _values(unit, "ExecStartPre") == [f'-"/opt/a b/penstock" check {config}']
    assert _values(unit, "LoadCredential") == ["CLIP", "SCRAPE_TOKEN"]
    assert _values(unit, "TimeoutStopSec") == ["20"]
    assert _values(unit, "ReadWritePaths") == ["-/srv/results"]
    assert _values(unit, "PrivateDevices") == ["yes"]
    assert "0123456789abcdef" not in unit
    assert PROGRAM not in unit


def test_the_unit_of_a_config_with_a_gpu_may_use_it(tmp_path: Path) -> None:
    unit = generate("systemd", _load(tmp_path, device="cuda:1"))
    assert "char-nvidia-uvm rw" in _values(unit, "DeviceAllow")
    assert _values(unit, "PrivateDevices")[-1] == "no"
    assert unit.index("char-nvidia-uvm") < unit.index("[Install]")


def test_a_config_without_variables_needs_no_credentials(tmp_path: Path, site: Settings) -> None:
    config = tmp_path / "pipeline.toml"
    config.write_text(config.read_text().replace("${CLIP:-clip.mp4}", "clip.mp4").replace("${SCRAPE_TOKEN}", "x" * 16))
    unit = generate("systemd", site)
    assert "redential" not in unit


def test_a_program_in_somebodys_home_stays_visible(site: Settings) -> None:
    unit = generate("systemd", site, program=Path("/home/ann/penstock/.venv/bin/penstock"))
    assert _values(unit, "ProtectHome") == ["read-only"]


def test_the_scrape_config_has_the_port_and_asks_with_the_token(site: Settings) -> None:
    text = generate("prometheus", site)
    assert 'targets: ["127.0.0.1:9777"]' in text
    assert "credentials_file: /etc/prometheus/penstock.token" in text


def test_each_source_is_missed_by_name(site: Settings) -> None:
    alerts = generate("alerts", site)
    assert alerts.startswith(generate("alerts"))
    assert 'source="gate"' in alerts
    assert alerts.count("- alert: PenstockSourceMissing") == 2
    assert "severity: critical, source: gate}" in alerts
    assert "severity: warning, source: yard}" in alerts


def test_the_dashboard_offers_the_sources(site: Settings) -> None:
    (source,) = (
        variable
        for variable in json.loads(generate("grafana", site))["templating"]["list"]
        if variable["name"] == "source"
    )
    assert (source["type"], source["query"]) == ("custom", "gate,yard")
