"""What happened between two looks at a daemon, as tables in the terminal."""

import math
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.top.client import Daemon, RefusedError, Snapshot, UnreachableError, clean, look

_STYLES = {
    "running": "green",
    "reconnecting": "yellow",
    "starting": "yellow",
    "paused": "cyan",
    "failed": "red",
    "ready": "green",
    "degraded": "yellow",
}
_RIGHT_OF_SOURCES = ("fps in", "inferred", "age p50", "p99", "queue")
_NUMBERS = (*_RIGHT_OF_SOURCES, "batches/s", "of frames", "infer p50", "accepted/s", "delivered/s", "waiting", "oldest")


@dataclass(frozen=True, slots=True)
class Between:
    """What happened from one snapshot to the next; what a restart of the daemon set back counts from zero."""

    before: Snapshot
    now: Snapshot

    def gained(self, name: str, **labels: str) -> float:
        """How much a counter grew."""
        value, earlier = self.now.sum(name, **labels), self.before.sum(name, **labels)
        return value - earlier if value >= earlier else value

    def rate(self, name: str, **labels: str) -> str:
        """How much a counter grew in a second."""
        passed_s = self.now.at - self.before.at
        return f"{self.gained(name, **labels) / passed_s:.1f}" if passed_s > 0 else ""

    def quantile(self, share: float, name: str, **labels: str) -> str:
        """A quantile of a histogram of seconds, interpolated within its bucket as Prometheus does."""
        edges = {float(dict(found)["le"]) for found, _ in self.now.samples.get(f"{name}_bucket", ())}
        above, lower = 0.0, 0.0
        total = self.gained(f"{name}_count", **labels)
        for edge in sorted(edges):
            below = self.gained(f"{name}_bucket", **labels, le=_le(edge))
            if total and below >= share * total:
                if math.isinf(edge):
                    return f"> {_seconds(lower)}"
                inside = below - above
                return _seconds(lower + (edge - lower) * ((share * total - above) / inside if inside else 1.0))
            above, lower = below, edge
        return ""


def _le(edge: float) -> str:
    return "+Inf" if math.isinf(edge) else str(edge)


def _seconds(value_s: float) -> str:
    return f"{value_s * 1000:.0f} ms" if value_s < 1 else f"{value_s:.1f} s"


def page(daemon: Daemon, span: Between) -> RenderableType:
    """What is shown."""
    status = span.now.status
    sources = [source for source in status["sources"] if isinstance(source, dict)]
    running = sum(source.get("state") == "running" for source in sources)
    title = (
        f"{daemon.url}  penstock {status.get('version')}  config {status.get('config_hash')}  "
        f"up {_duration(status.get('uptime_s'))}  {running} of {len(sources)} sources running"
    )
    return Group(
        Text(clean(title)),
        _sources(sources, span),
        _backends(status["backends"], span),
        _sinks(status["sinks"], span),
    )


def _sources(sources: Iterable[Mapping[str, Any]], span: Between) -> Table:
    table = _table("source", "state", "content", *_RIGHT_OF_SOURCES, "drops")
    for source in sources:
        name = str(source["name"])
        state, code = str(source.get("state")), source.get("code")
        away = f" {code}" if code and state != "running" else ""
        queued, capacity = source.get("queued"), source.get("queue_capacity")
        content = str(source.get("content", ""))
        table.add_row(
            _cell(name),
            _cell(f"{state}{away}", _STYLES.get(state, "")),
            _cell(content, "" if content == "ok" else "yellow"),
            span.rate("penstock_frames_decoded_total", source=name),
            span.rate("penstock_frames_total", source=name, outcome="inferred"),
            span.quantile(0.5, "penstock_frame_age_seconds", source=name, stage="inferred"),
            span.quantile(0.99, "penstock_frame_age_seconds", source=name, stage="inferred"),
            _cell(f"{queued}/{capacity}"),
            _cell(_losses(source.get("outcomes", {}), ("dropped", "failed"))),
        )
    return table


def _backends(backends: Iterable[Mapping[str, Any]], span: Between) -> Table:
    table = _table("backend", "state", "model", "batches/s", "of frames", "infer p50", "p99", "error")
    for backend in backends:
        name = str(backend["name"])
        batches = span.gained("penstock_inference_batch_frames_count", backend=name)
        frames = span.gained("penstock_inference_batch_frames_sum", backend=name)
        stage = {"stage": "infer", "backend": name}
        table.add_row(
            _cell(name),
            _backend_state(backend),
            _cell(backend.get("model")),
            span.rate("penstock_inference_batch_frames_count", backend=name),
            f"{frames / batches:.1f}" if batches else "",
            span.quantile(0.5, "penstock_stage_duration_seconds", **stage),
            span.quantile(0.99, "penstock_stage_duration_seconds", **stage),
            _cell(backend.get("error")),
        )
    return table


def _backend_state(backend: Mapping[str, Any]) -> Text:
    if backend.get("on_fallback"):
        return _cell("on fallback", "yellow")
    return _cell("ready", "green") if backend.get("ready") else _cell("not ready", "red")


def _sinks(sinks: Iterable[Mapping[str, Any]], span: Between) -> Table:
    table = _table("sink", "state", "accepted/s", "delivered/s", "waiting", "oldest", "losses", "trouble")
    for sink in sinks:
        name, state = str(sink["name"]), str(sink.get("state", ""))
        oldest_age_s = (sink.get("spool") or {}).get("oldest_age_s")
        table.add_row(
            _cell(name),
            _cell(state, _STYLES.get(state, "")),
            span.rate("penstock_sink_results_total", sink=name, outcome="accepted"),
            span.rate("penstock_sink_results_total", sink=name, outcome="delivered"),
            _cell(sink.get("pending")),
            "" if oldest_age_s is None else _duration(oldest_age_s),
            _cell(_losses(sink.get("outcomes", {}), ("dropped", "failed", "dead"))),
            _cell(sink.get("error") or sink.get("trouble")),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False, expand=False)
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    return table


def _losses(outcomes: object, kinds: tuple[str, ...]) -> str:
    found = outcomes.items() if isinstance(outcomes, dict) else ()
    lost = ((str(name), count) for name, count in found if count and str(name).startswith(kinds))
    # Without `dropped_`: the column says so, and a terminal has 80 columns.
    return ", ".join(f"{name.removeprefix('dropped_').replace('_', ' ')} {count:,}" for name, count in lost)


def _cell(value: object, style: str = "") -> Text:
    return Text("" if value is None else clean(str(value)), style=style)


def _duration(seconds: object) -> str:
    minutes, rest = divmod(int(seconds) if isinstance(seconds, (int, float)) else 0, 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours // 24}d {hours % 24:02}:{minutes:02}:{rest:02}" if hours >= 24 else f"{hours}:{minutes:02}:{rest:02}"
    )


def show(daemon: Daemon, *, interval_s: float, once: bool) -> int:
    """Show the daemon until Ctrl-C, or once, which is what a pipe gets, too; returns the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    try:
        if once or not console.is_terminal:
            before = look(daemon)
            time.sleep(interval_s)
            console.print(page(daemon, Between(before, look(daemon))))
            return 0
        _show_for_ever(daemon, console, interval_s)
    except (UnreachableError, RefusedError) as error:
        print(f"penstock: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _show_for_ever(daemon: Daemon, console: Console, interval_s: float) -> None:
    before: Snapshot | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                now = look(daemon)
                shown: RenderableType = page(daemon, Between(before or now, now))
                before = now
            except UnreachableError as error:
                shown = Text(f"{error}; trying again", style="red")
            live.update(shown, refresh=True)
            time.sleep(interval_s)
