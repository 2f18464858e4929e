"""The JSON Schemas of all answers, by name: the OpenAPI document is made from them."""

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
_TRUTH: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNTS: Schema = {"type": "object", "additionalProperties": _COUNT}
_HASH: Schema = {"type": "string", "description": "of the configuration in force; send it back as If-Match"}
_LINES: Schema = {"type": "array", "items": _TEXT}


def _object(**properties: Schema) -> Schema:
    """All of these, and nothing said of what a later version adds."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(name: str) -> Schema:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}


_STATE: Schema = {
    "type": "string",
    "description": "starting, running, reconnecting, paused, ended, failed or stopped",
}

SCHEMAS: dict[str, Schema] = {
    "Error": _object(error=_TEXT),
    "Index": _object(
        version=_TEXT,
        inference={"type": "object", "additionalProperties": _object(at=_TEXT, paths=_COUNT)},
        paths={"type": "array", "items": _object(method=_TEXT, path=_TEXT, scope=_TEXT, summary=_TEXT)},
    ),
    "Document": {"type": "object", "description": "OpenAPI 3.1"},
    "Health": {
        "type": "object",
        "properties": {
            "status": {"enum": ["ok", "failing"]},
            "checks": {"type": "object", "additionalProperties": _TEXT},
            "sources": {
                "type": "array",
                "items": _object(
                    name=_TEXT, state=_STATE, code=_TEXT_OR_NULL, last_frame_age_s=_NUMBER_OR_NULL, required=_TRUTH
                ),
            },
        },
        "required": ["status"],
        "description": "checks and sources only for who may read",
    },
    "Source": _object(
        name=_TEXT,
        type=_TEXT,
        state=_STATE,
        code={"type": ["string", "null"], "description": "why it is down, e.g. AUTH_FAILED"},
        error=_TEXT_OR_NULL,
        content={"type": "string", "description": "what its pictures show: ok, frozen, black or moved"},
        required=_TRUTH,
        backend=_TEXT,
        last_frame_at={"type": ["number", "null"], "description": "Unix seconds"},
        last_frame_age_s=_NUMBER_OR_NULL,
        decoded=_COUNT,
        skipped={**_COUNT, "description": "never decoded, because they would have been sampled out"},
        outcomes=_COUNTS,
        in_flight=_COUNT,
        queued=_COUNT,
        queue_capacity=_COUNT,
        scene={
            "type": ["object", "null"],
            "properties": {
                "tracks": {"type": ["integer", "null"], "description": "objects that are tracked just now"},
                "zones": {"type": "object", "additionalProperties": _COUNTS},
                "lines": {
                    "type": "object",
                    "additionalProperties": {"type": "object", "additionalProperties": _COUNTS},
                },
                "resumed_after_s": {
                    "type": ["number", "null"],
                    "description": "for so long nothing was counted before this run went on with older counts",
                },
            },
            "additionalProperties": False,
            "description": "who is inside of its zones, by class, and who crossed its lines; null where nobody asks",
        },
        details={
            "type": "object",
            "additionalProperties": {"type": ["string", "number"]},
            "description": "codec, transport and the like, as far as known",
        },
    ),
    "Sources": _object(config_hash=_HASH, sources=_list("Source")),
    "Backend": _object(
        name=_TEXT,
        model=_TEXT,
        ready=_TRUTH,
        error=_TEXT_OR_NULL,
        on_fallback=_TRUTH,
        devices={
            "type": "array",
            "items": {"type": "string"},
            "description": "of this machine that it runs on: cpu, cuda:0; none before it is open, or elsewhere",
        },
    ),
    "Sink": _object(
        name=_TEXT,
        open=_TRUTH,
        state={"type": "string", "description": "starting, ready, degraded, failed or stopped"},
        error=_TEXT_OR_NULL,
        trouble={"type": ["string", "null"], "description": "why it is degraded"},
        accepted=_COUNT,
        restored={**_COUNT, "description": "waited already when this run began"},
        outcomes=_COUNTS,
        pending=_COUNT,
        spool={
            "type": ["object", "null"],
            "properties": {
                "bytes": _COUNT,
                "capacity_bytes": _COUNT,
                "oldest_at": {"type": ["number", "null"], "description": "Unix seconds: since when the oldest waits"},
                "oldest_age_s": _NUMBER_OR_NULL,
                "dead_letters": _COUNT,
                "dead_letters_dropped": {**_COUNT, "description": "the oldest, to make room for others"},
                "corrupt": {**_COUNT, "description": "what could not be read"},
            },
            "additionalProperties": False,
            "description": "what waits to be sent; null for a sink that sends nothing",
        },
    ),
    "Status": _object(
        version=_TEXT,
        config_hash=_HASH,
        uptime_s={"type": "number"},
        stopping=_TRUTH,
        sources=_list("Source"),
        backends=_list("Backend"),
        sinks=_list("Sink"),
    ),
    "Told": _object(source=_TEXT, order={"enum": ["pause", "resume", "restart"]}),
    "Reloaded": _object(config_hash=_HASH, changes=_LINES, problems=_LINES),
    "NotReloaded": _object(error=_TEXT, problems=_LINES, config_hash=_HASH),
    "Conflict": _object(error=_TEXT, config_hash=_HASH),
    "UnderWay": _object(status=_TEXT),
}
