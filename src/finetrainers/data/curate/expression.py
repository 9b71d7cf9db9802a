"""Expressions over scores, such as ``seconds >= 2 and sharpness > 100``: read by Python's parser, never run as Python."""

import ast
import difflib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from finetrainers.data.curate.piece import Value
from finetrainers.errors import ConfigError, DataError

Kind = Literal["number", "text", "truth"]
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
CONSTANTS: dict[type, Kind] = {bool: "truth", int: "number", float: "number", str: "text"}
MAX_LENGTH, MAX_DEPTH = 10_000, 50
"""Characters of an expression, and how deep it may be nested."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that has been checked; make one with ``parse``."""

    tree: ast.expr

    def why_not(self, values: Mapping[str, Value]) -> str | None:
        """Say which part of the expression is not true of the values, and what they are; None if all of it is.

        Raises:
            DataError: If it cannot be computed, such as a division by zero.
        """
        parts = self.tree.values if isinstance(self.tree, ast.BoolOp) and isinstance(self.tree.op, ast.And) else [self.tree]
        try:
            wrong = next((part for part in parts if not _compute(part, values)), None)
        except ArithmeticError as error:
            raise DataError(f"{ast.unparse(self.tree)} cannot be computed: {error}") from None
        if wrong is None:
            return None
        names = dict.fromkeys(node.id for node in ast.walk(wrong) if isinstance(node, ast.Name))
        return f"not {ast.unparse(wrong)}: {', '.join(f'{name} is {_shown(values[name])}' for name in names)}"


def parse(text: str, kinds: Mapping[str, Kind], where: str) -> Expression:
    """Read and check an expression.

    Args:
        text: The expression.
        kinds: What each name that it may use stands for.
        where: Key of the configuration that it is the value of, for messages.

    Raises:
        ConfigError: If it is none, names something else, or is not true or false.
    """
    try:
        if len(text) > MAX_LENGTH:
            raise SyntaxError("it is too long")
        tree = ast.parse(text.strip(), mode="eval").body
        if (found := _kind(tree, kinds)) != "truth":
            raise SyntaxError(f"it is a {found}, and not true or false; compare it with something")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigError(f"{where}: {text!r} is not an expression over scores: {reason}") from None
    return Expression(tree)


def _kind(node: ast.expr, kinds: Mapping[str, Kind], depth: int = 0) -> Kind:
    """What an expression stands for; all that is not known here is refused."""
    if depth > MAX_DEPTH:
        raise SyntaxError("it is nested too deeply")
    match node:
        case ast.Constant(value=value) if type(value) in CONSTANTS:
            return CONSTANTS[type(value)]
        case ast.Name(id=name):
            return kinds[name] if name in kinds else _unknown(name, kinds)
    parts, wanted, gives = _operation(node)
    for part in parts:
        found = _kind(part, kinds, depth + 1)
        if found not in wanted:
            raise SyntaxError(f"{ast.unparse(part)} is a {found}, where a {' or '.join(wanted)} must stand")
        if isinstance(node, ast.Compare):
            wanted = (found,)  # a number is compared with numbers, and text with text
    return gives


def _operation(node: ast.expr) -> tuple[list[ast.expr], tuple[Kind, ...], Kind]:
    """Operands of an operation, what they may be, and what it makes of them."""
    match node:
        case ast.BoolOp(values=parts):
            return parts, ("truth",), "truth"
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return [inner], ("truth",), "truth"
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return [inner], ("number",), "number"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return [left, right], ("number",), "number"
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARE for op in ops):
            return [left, *others], ("number", "text"), "truth"
    raise SyntaxError(f"{ast.unparse(node)} is neither a comparison nor arithmetic, and, or, not, a number, text or a score")


def _unknown(name: str, kinds: Mapping[str, Kind]) -> Kind:
    close = difflib.get_close_matches(name, kinds, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise SyntaxError(f"there is no score {name!r} here; {hint}those of earlier steps are {', '.join(kinds)}")


def _compute(node: ast.expr, values: Mapping[str, Value]) -> Any:  # as ``_kind`` says
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_compute(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_compute(part, values) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return not _compute(inner, values)
        case ast.UnaryOp(operand=inner):
            return -_compute(inner, values)
        case ast.BinOp(left=left, op=op, right=right):
            return ARITHMETIC[type(op)](_compute(left, values), _compute(right, values))
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_compute(side, values) for side in (left, *others)]
            return all(COMPARE[type(op)](a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False))
    raise AssertionError(node)


def _shown(value: Value) -> str:
    return repr(value) if isinstance(value, str) else f"{value:.4g}"
