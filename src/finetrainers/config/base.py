"""What all sections share."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

AUTO: Literal["auto"] = "auto"
"""A value that something else decides, such as the model."""


class RefusedKeyError(ValueError):
    """A key that is valid by itself and cannot stand where it does."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change, and a key without effect is refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        ser_json_inf_nan="strings",
    )

    def idle(self) -> Mapping[str, str]:
        """Keys that nothing reads beside the values of the others, each with the reason and the way out.

        They are refused if they are given, and left out of a saved configuration.
        """
        return {}

    @model_validator(mode="after")
    def _effective(self) -> "Section":
        for key, reason in sorted(self.idle().items()):
            if key in self.model_fields_set:
                raise RefusedKeyError(key, f"{getattr(self, key)} has no effect {reason}")
        return self
