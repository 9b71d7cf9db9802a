"""What a model learns: noise levels, corruption, targets and losses."""

from collections.abc import Mapping

from finetrainers.objectives.masked import Masked
from finetrainers.objectives.own import OwnObjective
from finetrainers.objectives.preference import Preference

OBJECTIVES: Mapping[str, type[OwnObjective]] = {"masked": Masked, "dpo": Preference}
"""The losses besides the family's own, by ``objective.kind``; config/objective.py has their names and keys."""
