"""`penstock generate`: the files of `deploy/` for systemd, Prometheus and Grafana, as they are or fitted to a config.

The shipped files are the only templates: each is valid as it stands, and what is fitted replaces one of its lines.
"""

import json
import math
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.interpolate import Interpolation
from pipeline.config.settings import Settings

KINDS: Mapping[str, str] = {
    "systemd": "systemd/penstock.service",
    "prometheus": "prometheus/prometheus.yml",
    "alerts": "prometheus/alerts.yml",
    "grafana": "grafana/dashboard.json",
}
"""What can be generated, and the shipped file that it is made of."""

PROGRAM = "/opt/penstock/.venv/bin/penstock"
CONFIG = "/etc/penstock/pipeline.toml"
STATE = "/var/lib/penstock"
CREDENTIALS = "/etc/credstore"
LISTEN = "127.0.0.1:9464"
STOP_MARGIN_S = 10
"""What systemd waits longer than `shutdown_timeout_s`: who is late is named, and the process still leaves by itself."""


def shipped(name: str) -> str:
    """A file of `deploy/`: it lies in the package once installed, and beside it in a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "deploy" / name
    return (inside if inside.is_file() else here.parent / "deploy" / name).read_text()


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which the service will read its config: its state folder, and credentials from the store."""
    return {"CREDENTIALS_DIRECTORY": CREDENTIALS, **environ, "STATE_DIRECTORY": STATE}


def this_program() -> Path | None:
    """The `penstock` beside the Python that runs; None: it is not installed as a script."""
    script = Path(sys.prefix) / "bin" / "penstock"
    return script if script.is_file() else None


def generate(kind: str, settings: Settings | None = None, *, program: Path | None = None) -> str:
    """The text of one file.

    Args:
        kind: one of `KINDS`.
        settings: what it is to fit; None: as shipped, for any config that stands and listens at the shipped places.
        program: the `penstock` that the unit shall start; None: the shipped place.
    """
    text = shipped(KINDS[kind])
    if kind == "systemd" and (settings is not None or program is not None):
        text = _systemd(text, settings, program)
    if settings is None:
        return text
    if kind == "prometheus":
        return _prometheus(text, settings)
    if kind == "alerts":
        return _alerts(text, settings)
    return _grafana(text, settings) if kind == "grafana" else text


# systemd


def _systemd(text: str, settings: Settings | None, program: Path | None) -> str:
    text = text.replace(PROGRAM, _unit_word(str(program or PROGRAM)))
    if settings is None:
        return text
    config = settings.path.absolute() if settings.path is not None else Path(CONFIG)
    text = text.replace(CONFIG, _unit_word(str(config)))
    text = _set(text, "TimeoutStopSec", str(math.ceil(settings.shutdown_timeout_s) + STOP_MARGIN_S))
    text = _with_credentials(text, _variables(config))
    homes = [path for path in (config, Path(program or PROGRAM)) if path.parts[1] in ("home", "root")]
    if homes:  # it cannot be hidden then
        text = _set(text, "ProtectHome", "read-only")
    further = []
    folders = sorted(str(folder) for folder in _folders(settings) if not folder.is_relative_to(STATE))
    if folders:
        further += ["# Written to besides the state folder: give them to a fixed user, and name it in User=."]
        further += [f"ReadWritePaths=-{_unit_word(folder)}" for folder in folders]
    for drop_in in _drop_ins(settings):
        lines = shipped(f"systemd/{drop_in}").partition("[Service]\n")[2].strip()
        further += [f"# As in {drop_in}.", lines]
    if further:
        text = text.replace("\n[Install]\n", "\n" + "\n".join(further) + "\n\n[Install]\n")
    return text


def _with_credentials(text: str, names: Sequence[str]) -> str:
    """One `LoadCredential` for each variable, or none and no comment on it."""
    head, comment, rest = text.partition("# ${CAMERA_PASSWORD} in the configuration")
    _, _, rest = rest.partition("LoadCredential=CAMERA_PASSWORD\n")
    if not names:
        return head + rest.lstrip("\n")
    note = f"# ${{{names[0]}}} in the configuration is read from {CREDENTIALS}/{names[0]} (root, 0600).\n"
    assert comment  # noqa: S101  (the shipped unit has it: the tests say so)
    return head + note + "".join(f"LoadCredential={name}\n" for name in names) + rest


def _variables(config: Path) -> list[str]:
    """All variables in the file. The unit's environment has none of them, so they come as credentials; systemd passes
    over one that is not in the store, and then the default in the file holds, or `check` names what is missing."""
    interpolation = Interpolation({})
    interpolation.tree(tomllib.loads(config.read_text(encoding="utf-8-sig")))
    return sorted(interpolation.used)


def _folders(settings: Settings) -> set[Path]:
    """Where it writes."""
    files = [path for sink in settings.sinks.values() for source in settings.sources for path in sink.writes(source)]
    return {settings.data_dir, *(path.parent for path in files)}


def _drop_ins(settings: Settings) -> Iterable[str]:
    devices = {str(getattr(backend, "device", "")) for backend in settings.backends.values()}
    if any(device.startswith("cuda") for device in devices) or ("auto" in devices and Path("/dev/nvidiactl").exists()):
        yield "nvidia.conf"
    if any(source.type == "device" for source in settings.sources.values()):
        yield "v4l2.conf"


def _set(text: str, key: str, value: str) -> str:
    """The unit with another value for a key that it has once."""
    return re.sub(rf"(?m)^{key}=.*$", f"{key}={value}", text)


def _unit_word(path: str) -> str:
    """A path as one word of a unit file: systemd.syntax(7), systemd.service(5)."""
    escaped = path.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    return f'"{escaped}"' if re.search(r"[\s;'\"]", path) else escaped


# Prometheus and Grafana


def _prometheus(text: str, settings: Settings) -> str:
    server = settings.server
    if server.listen is None:
        return text
    host, port = server.address or ("127.0.0.1", 9464)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (any address: this machine is one)
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    text = text.replace(json.dumps([LISTEN]), json.dumps([target]))
    extra = []
    if server.tls_cert is not None:
        extra += ["    scheme: https", "    # tls_config: {ca_file: /etc/prometheus/penstock-ca.pem}"]
    if any("metrics" in token.scopes for token in server.tokens.values()):
        extra += ["    # A token with the scope `metrics`, readable by prometheus only.", "    authorization:"]
        extra += ["      credentials_file: /etc/prometheus/penstock.token"]
    return text.replace("  - job_name: penstock\n", "\n".join(["  - job_name: penstock", *extra, ""]))


def _alerts(text: str, settings: Settings) -> str:
    """With a rule for each source that this config has: one that is missing gives no series that could be 0."""
    up = 'up{job="penstock"} == 1'
    lines = [
        "",
        "  # The sources of this configuration by name: one that is removed or renamed by mistake is missed.",
        "  - name: penstock-sources",
        "    rules:",
    ]
    for name, source in settings.sources.items():
        lines += [
            "      - alert: PenstockSourceMissing",
            f'        expr: absent(penstock_source_up{{job="penstock", source="{name}"}}) and on () {up}',
            "        for: 5m",
            # With the name, or promtool takes them for duplicates.
            f"        labels: {{severity: {'critical' if source.required else 'warning'}, source: {name}}}",
            "        annotations:",
            f'          summary: "There is no source {name} any more"',
            '          action: "penstock plan; GET /api/v1/sources"',
        ]
    return text + "\n".join(lines) + "\n"


def _grafana(text: str, settings: Settings) -> str:
    """With the sources of this config to choose from, also while it is down."""
    dashboard: dict[str, Any] = json.loads(text)
    names = list(settings.sources)
    for variable in dashboard["templating"]["list"]:
        if variable["name"] == "source":
            for key in ("datasource", "refresh", "sort", "regex"):
                variable.pop(key)
            variable["type"], variable["query"] = "custom", ",".join(names)
            variable["options"] = [{"text": name, "value": name, "selected": False} for name in names]
    return json.dumps(dashboard, indent=2) + "\n"
