"""Keep what an expression over the scores is true of."""

from collections.abc import Sequence

from finetrainers.config.curate import KeepStep
from finetrainers.data.curate.expression import Expression, parse
from finetrainers.data.curate.piece import Dropped, Outcome, Piece
from finetrainers.data.curate.registry import Context, Step, register_step


class Keep(Step):
    """Drops the others, with the part of the expression that is not true."""

    def __init__(self, expression: Expression) -> None:
        self._expression = expression

    def __call__(self, piece: Piece) -> Sequence[Outcome]:
        reason = self._expression.why_not(piece.values)
        return [piece if reason is None else Dropped(piece, reason)]


@register_step("keep")
def make(config: KeepStep, context: Context) -> list[Step]:
    """Make the step; an unknown name is an error that lists the scores of the steps before it."""
    return [Keep(parse(config.where, context.known, f"{context.key}.where"))]
