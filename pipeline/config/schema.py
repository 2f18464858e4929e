"""The JSON Schema of pipeline.toml with every installed plugin, for editors and for `penstock schema`."""

from typing import Any

from pydantic.json_schema import models_json_schema

from pipeline.config.assemble import NAME_PATTERN, TABLES
from pipeline.config.settings import CoreConfig
from pipeline.contracts.errors import ConfigError
from pipeline.registry import KINDS, ConfigClass, Kind, Registry

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(registry: Registry) -> Schema:
    """The schema of the whole file. A key may also hold a text with a variable, whatever its type is.

    Plugins that do not load have no part in it.
    """
    classes = {kind: _loadable(registry, kind) for kind in KINDS}
    models = [CoreConfig, *(found for kind in KINDS for found in classes[kind])]
    references, document = models_json_schema([(model, "validation") for model in models])
    definitions: dict[str, Schema] = {name: _with_variables(found) for name, found in document["$defs"].items()}
    names = {model: references[model, "validation"]["$ref"].removeprefix("#/$defs/") for model in models}
    core = definitions.pop(names[CoreConfig])
    defaults = {}
    for kind in KINDS:
        keys: dict[str, list[Schema]] = {}
        for found in classes[kind]:
            definition = definitions[names[found]]
            # What is missing here may stand in [defaults].
            definition["required"] = ["type"]
            for name, schema in definition["properties"].items():
                if name != "type" and schema not in keys.setdefault(name, []):
                    keys[name].append(schema)
        shared = {name: found[0] if len(found) == 1 else {"anyOf": found} for name, found in keys.items() if found}
        defaults[kind] = {"type": "object", "properties": shared, "additionalProperties": False}
    components = {table: _components([names[found] for found in classes[kind]]) for table, kind in TABLES}
    needed = [f"{kind}s" for kind in KINDS]
    return {
        "$schema": DIALECT,
        "title": "pipeline.toml",
        "type": "object",
        "properties": {
            **core["properties"],
            **components,
            "defaults": {"type": "object", "properties": defaults, "additionalProperties": False},
        },
        # A file with models alone only serves them.
        "anyOf": [{"required": needed}, {"required": ["models"]}],
        "additionalProperties": False,
        "$defs": definitions,
    }


def source_schema(registry: Registry) -> Schema:
    """The schema of the table of one source with literal values, as the HTTP API takes it; `$defs` beside it."""
    classes = _loadable(registry, "source")
    if not classes:
        return {"type": "object"}
    references, document = models_json_schema([(found, "validation") for found in classes])
    refs = [references[found, "validation"] for found in classes]
    for found, ref in zip(classes, refs, strict=True):
        definition = document["$defs"][ref["$ref"].removeprefix("#/$defs/")]
        definition["required"] = ["type"]  # what is missing here may stand in [defaults]
        definition.setdefault("title", found.__name__)
    return {"oneOf": refs, "$defs": document["$defs"]}


def _loadable(registry: Registry, kind: Kind) -> list[ConfigClass]:
    found = []
    for type_name in registry.types(kind):
        try:
            found.append(registry.config_class(kind, type_name))
        except ConfigError:  # `penstock plugins` says why
            continue
    return found


def _components(definitions: list[str]) -> Schema:
    return {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{NAME_PATTERN}$"},
        "additionalProperties": {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in definitions]},
    }


def _with_variables(definition: Schema) -> Schema:
    """A model's schema in which every value may be a text with `${VAR}` in it."""
    variable = {"type": "string", "pattern": r"\$\{"}
    properties = {
        name: found if name == "type" or "$ref" in found else _or_variable(found, variable)
        for name, found in definition.get("properties", {}).items()
    }
    return {**definition, "properties": properties} if properties else definition


def _or_variable(schema: Schema, variable: Schema) -> Schema:
    """`schema` or a variable; what describes the key stays outside, where editors look for it."""
    outside: Schema = {name: schema[name] for name in ("title", "description", "default") if name in schema}
    inside = {name: value for name, value in schema.items() if name not in outside}
    return {**outside, "anyOf": [inside, variable]}
