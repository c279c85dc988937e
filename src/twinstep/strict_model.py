"""The base of everything that is read from files: strict, frozen, and documented field by field."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A record that refuses unknown keys and other types; its docstrings become the JSON Schema's descriptions."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)
