"""What is wrong between components: names that nobody has, wishes that nobody grants, files that two would use."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.assemble import Parts, Report
from pipeline.config.explain import did_you_mean
from pipeline.contracts.errors import ConfigError
from pipeline.contracts.sink import SinkConfig, WhereConfig
from pipeline.contracts.source import SourceConfig
from pipeline.registry import Kind

FileId = str | tuple[int, int]
"""What two names of one file have in common: device and inode where it exists, else its path without links."""


def check_references(parts: Parts, report: Report) -> None:
    """Fill in the backend that a source left out, and report names that nobody has."""
    backends = parts.declared.get("backend", ())
    known = (*backends, *parts.models)
    lenders = {backend.fallback for backend in parts.backends.values()}
    # A fallback is there for another backend. Where each is another's there is nothing to tell them apart by.
    meant = tuple(name for name in backends if name not in lenders) or backends
    for name, source in parts.sources.items():
        key = ("sources", name, "backend")
        if source.backend is None and len(meant) == 1:
            parts.sources[name] = source.model_copy(update={"backend": meant[0]})
        elif source.backend is None and backends:
            report(key, f"is missing; with several backends each source names one: {', '.join(backends)}")
        elif source.backend is None and parts.models:
            report(key, f"is missing; name one of the models: {', '.join(parts.models)}")
        elif source.backend is not None and known and source.backend not in known:
            report(key, _nobody("backend", source.backend, known))
    _check_backends(parts, known, report)
    sources = parts.declared.get("source", ())
    for name, sink in parts.sinks.items():
        if sink.sources is not None and not sink.sources:
            report(("sinks", name, "sources"), "is empty; name a source, or leave it out for all of them")
        for wanted in sink.sources or ():
            if sources and wanted not in sources:
                report(("sinks", name, "sources"), _nobody("source", wanted, sources))


def _check_backends(parts: Parts, known: tuple[str, ...], report: Report) -> None:
    """Report fallbacks that nobody is, and names by which clients would find two models."""
    owners: dict[str, str] = {name: name for name in known}
    for name, backend in parts.backends.items():
        table = "models" if name in parts.models else "backends"
        if backend.fallback == name:
            report((table, name, "fallback"), "it cannot be its own fallback")
        elif backend.fallback is not None and backend.fallback not in known:
            report((table, name, "fallback"), _nobody("backend", backend.fallback, known))
        for alias in backend.aliases:
            if owners.setdefault(alias, name) != name:
                report((table, name, "aliases"), f"{alias!r} is what {owners[alias]} is called, too")


def check_selections(parts: Parts, report: Report) -> None:
    """Report sinks that ask for what they cannot take, or for what none of their sources has."""
    for name, sink in parts.sinks.items():
        if sink.emit == "events" and not sink.takes_events:
            report(("sinks", name, "emit"), f'a sink of type {sink.type} takes no events, only "frames" or "changes"')
        if sink.notices and not sink.takes_events:
            report(("sinks", name, "notices"), f"a sink of type {sink.type} takes none")
        if sink.where is not None:
            _check_where(name, sink, sink.where, parts, report)


def _check_where(name: str, sink: SinkConfig, where: WhereConfig, parts: Parts, report: Report) -> None:
    key = ("sinks", name, "where")
    for asked in ("kinds", "lines"):
        if getattr(where, asked) is not None and sink.emit != "events":
            report((*key, asked), f'is about events, and emit is "{sink.emit}"')
    chosen = parts.declared.get("source", ()) if sink.sources is None else sink.sources
    sources = [parts.sources[source] for source in chosen if source in parts.sources]
    if not sources or len(sources) < len(chosen):
        return  # what is missing was reported
    for kind, names, known in (
        ("zone", where.zones, list(dict.fromkeys(zone for source in sources for zone in source.zones))),
        ("line", where.lines, list(dict.fromkeys(line for source in sources for line in source.lines))),
    ):
        if names is not None and not names:
            report((*key, f"{kind}s"), f"is empty; name a {kind}, or leave it out for all of them")
        for wanted in names or ():
            if wanted not in known:
                hint = did_you_mean(wanted, known) or (f"; there is {', '.join(known)}" if known else "")
                report((*key, f"{kind}s"), f"none of its sources has a {kind} {wanted!r}{hint}")
    if where.min_age_s > 0 and not any(source.tracking for source in sources):
        report((*key, "min_age_s"), "needs objects that are tracked: give one of its sources a table `tracking`")


def check_files(parts: Parts, report: Report) -> None:
    """Report sinks that would write over what a source reads, or over each other."""
    read: dict[FileId, str] = {}
    for name, source in parts.sources.items():
        for path in _reads(name, source, report):
            file = _identity(path)
            if file is not None:
                read.setdefault(file, name)
    written: dict[FileId, str] = {}
    for name, sink in parts.sinks.items():
        paths = list(_writes(name, sink, parts.declared.get("source", ()), report))
        if sink.file_per_source and len(set(paths)) < len(paths):
            report(("sinks", name, "path"), "two sources would go into one file: put {source} into the name")
        for path in paths:
            file = _identity(path)
            if file is None:
                continue
            key = ("sinks", name, *(("path",) if "path" in type(sink).model_fields else ()))
            if file in read:
                report(key, f"it would write over {path}, which source {read[file]} reads")
            elif written.setdefault(file, name) != name:
                report(key, f"it would write to {path}, and so does sink {written[file]}")


def _reads(name: str, source: SourceConfig, report: Report) -> Iterator[Path]:
    try:
        yield from source.reads()
    except ConfigError as error:
        report(("sources", name, *(error.key or "").split(".")) if error.key else ("sources", name), str(error))


def _writes(name: str, sink: SinkConfig, sources: tuple[str, ...], report: Report) -> Iterator[Path]:
    try:
        for source in sources if sink.sources is None else sink.sources:
            yield from sink.writes(source)
    except ConfigError as error:
        report(("sinks", name, *(error.key or "").split(".")) if error.key else ("sinks", name), str(error))


def _identity(path: Path) -> FileId | None:
    """None for what many may write to at once, as `/dev/null` or a pipe."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return os.path.realpath(path)
    if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
        return found.st_dev, found.st_ino
    return None


def _nobody(kind: Kind, wanted: str, known: tuple[str, ...]) -> str:
    hint = did_you_mean(wanted, known) or f"; there is {', '.join(known)}"
    return f"there is no {kind} {wanted!r}{hint}"
