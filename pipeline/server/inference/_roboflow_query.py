"""The language in which workflows filter, count and pick: operations on detections and on what was taken from them.

Format: Roboflow workflows, "universal query language": the operations and comparators that stand in `OPERATIONS`,
`COMPARATORS` and `TESTS`; others are refused by name.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.server.inference._roboflow_operations import (
    COMPARATORS,
    OPERATIONS,
    TESTS,
    Found,
    QueryError,
    Row,
    short,
)

MAX_DEPTH = 20
MAX_OPERATIONS = 50
MAX_PARTS = 5_000


def apply(value: Any, operations: object, parameters: Mapping[str, Any]) -> Any:
    """`value` after all operations.

    Args:
        value: a `Found`, or plain JSON.
        operations: the list from the workflow.
        parameters: what `DynamicOperand`s may name.

    Raises:
        QueryError: see there.
    """
    _check_size([operations, *parameters.values()])
    return _apply(value, operations, parameters, 0)


def _check_size(documents: list[object]) -> None:
    """Every part of the operations may be looked at for every object: they must be few."""
    waiting, seen = [document for document in documents if not isinstance(document, Found)], 0
    while waiting:
        one = waiting.pop()
        inner = list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else []
        seen += 1
        if seen + len(inner) > MAX_PARTS:
            raise QueryError(f"the operations and their parameters have more than {MAX_PARTS} parts")
        waiting += inner


def _apply(value: Any, operations: object, parameters: Mapping[str, Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise QueryError("the operations are nested too deep")
    if not isinstance(operations, list) or len(operations) > MAX_OPERATIONS:
        raise QueryError(f"operations must be a list of at most {MAX_OPERATIONS}")
    for operation in operations:
        kind = _type_of(operation)
        if kind == "DetectionsFilter":
            value = _filtered(value, operation, parameters, depth)
            continue
        if kind not in OPERATIONS:
            raise QueryError(f"operation {short(kind)} is not known here; there are {', '.join(sorted(OPERATIONS))}")
        try:
            value = OPERATIONS[kind](value, operation)
        except QueryError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, AttributeError) as error:
            raise QueryError(f"{kind} cannot be applied to this value") from error
    return value


def _filtered(value: Any, operation: Mapping[str, Any], parameters: Mapping[str, Any], depth: int) -> Found:
    if not isinstance(value, Found):
        raise QueryError("DetectionsFilter takes the predictions of a detection model")
    statement = operation.get("filter_operation")
    kept = [row for row in range(len(value)) if _holds(statement, {**parameters, "_": Row(value, row)}, depth + 1)]
    return value.picked(kept)


def _holds(statement: object, operands: Mapping[str, Any], depth: int) -> bool:
    """Whether a statement is true."""
    if depth > MAX_DEPTH:
        raise QueryError("the statements are nested too deep")
    kind = _type_of(statement)
    rule: Mapping[str, Any] = statement  # type: ignore[assignment]  # `_type_of` has looked
    if kind == "StatementGroup":
        statements = rule.get("statements")
        if not isinstance(statements, list) or not 0 < len(statements) <= MAX_OPERATIONS:
            raise QueryError(f"a StatementGroup has 1 to {MAX_OPERATIONS} statements")
        some = rule.get("operator", "or") != "and"
        results = (_holds(one, operands, depth + 1) for one in statements)
        return any(results) if some else all(results)
    if kind not in ("BinaryStatement", "UnaryStatement"):
        raise QueryError(f"statement {short(kind)} is not known here")
    table: Mapping[str, Callable[..., bool]] = COMPARATORS if kind == "BinaryStatement" else TESTS
    how = rule.get("comparator" if kind == "BinaryStatement" else "operator")
    name = _type_of(how)
    if name not in table:
        raise QueryError(f"comparator {short(name)} is not known here; there are {', '.join(sorted(table))}")
    sides = ("left_operand", "right_operand") if kind == "BinaryStatement" else ("operand",)
    values = [_operand(rule.get(side), operands, depth + 1) for side in sides]
    try:
        truth = bool(table[name](*values))
    except (TypeError, ValueError) as error:
        raise QueryError(f"{name} cannot compare these values") from error
    return truth != bool(rule.get("negate", False))


def _operand(operand: object, operands: Mapping[str, Any], depth: int) -> Any:
    kind = _type_of(operand)
    rule: Mapping[str, Any] = operand  # type: ignore[assignment]
    if kind == "StaticOperand":
        value = rule.get("value")
    elif kind == "DynamicOperand":
        name = rule.get("operand_name", "_")
        if not isinstance(name, str) or name not in operands:
            raise QueryError(f"operand {short(name)} is not among the operations_parameters")
        value = operands[name]
    else:
        raise QueryError(f"operand {short(kind)} is not known here")
    return _apply(value, rule.get("operations", []), {}, depth)


def _type_of(value: object) -> str:
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        return str(value["type"])
    raise QueryError('operations, statements and operands are objects with a "type"')
