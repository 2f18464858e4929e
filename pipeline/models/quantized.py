"""What `penstock quantize` writes into the models that it makes, and how that reads."""

import json
from collections.abc import Mapping

KEY = "penstock.quantized"
"""The key in the file's metadata; its value is a JSON object with the attributes of `note`."""

_MAX_CHARS = 200


def note(**facts: str | int | float | None) -> dict[str, str]:
    """The metadata of a quantised model.

    Args:
        facts: `model` (the float model's file), `sha256` (of it), `method`, `pictures`, `size` ("640x384"), `kept`
            (what stays float), `measure` ("AP" or "agreement"), `before`, `after`, `judged` (pictures that it was
            measured on), `speed` (float's time by this one's), `machine`, `version` (of Penstock).
    """
    return {KEY: json.dumps({name: value for name, value in facts.items() if value is not None})}


def note_of(metadata: Mapping[str, str]) -> str | None:
    """One line on how a model was quantised and what that cost; None for a model that nothing is known of.

    The file may come from anywhere: what is no note of ours is left out, and nothing of it can fill the screen.
    """
    try:
        facts = json.loads(metadata.get(KEY, ""))
    except ValueError:
        return None
    if not isinstance(facts, dict):
        return None
    how = f"INT8 of {_text(facts, 'model')}, {_text(facts, 'method')} of {_text(facts, 'pictures')} pictures"
    how += f" at {_text(facts, 'size')}"
    if "kept" in facts:
        how += f", {_text(facts, 'kept')}"
    what = _text(facts, "measure")
    if "before" in facts:
        lost = f"{what} {_number(facts, 'before')} -> {_number(facts, 'after')}"
    else:
        lost = f"{what} {_number(facts, 'after')}"
    lost += f" on {_text(facts, 'judged')} pictures"
    return f"{how}: {lost}; {_number(facts, 'speed', 2)} times as fast on {_text(facts, 'machine')}"


def _text(facts: Mapping[str, object], name: str) -> str:
    text = str(facts.get(name, "?"))[:_MAX_CHARS]
    return "".join(char if char.isprintable() else "?" for char in text)


def _number(facts: Mapping[str, object], name: str, digits: int = 3) -> str:
    value = facts.get(name)
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "?"
