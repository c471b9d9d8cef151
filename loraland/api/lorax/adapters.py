"""Whom LoRAX's parameters name, as the rest of the API does: an adapter, a sum of adapters, or the base."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from loraland import bases
from loraland.api.openai.strict import Strict
from loraland.bases import BASE
from loraland.catalogue.composition import MAX_PARTS, base_of, sum_of
from loraland.catalogue.slug import is_bases_own

Id = Annotated[str, Field(min_length=1, max_length=200)]
Weight = Annotated[float, Field(allow_inf_nan=False)]


class Merged(Strict):
    """Adapters that answer together. LoRAX's strategy ``linear`` is a sum here, too; see `name_of_merged`."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_PARTS)]
    weights: list[Weight]
    merge_strategy: str = "linear"
    density: float = 0.0
    """How much `ties` and `dare` keep of an adapter; a sum keeps all."""
    majority_sign_method: str | None = None

    @field_validator("ids")
    @classmethod
    def _names_alone(cls, ids: list[str]) -> list[str]:
        if wrong := next((id for id in ids if set(id) & set("+*")), None):
            raise ValueError(f"{wrong!r} is a sum; name single adapters, and their weights in weights")
        return ids

    @field_validator("merge_strategy")
    @classmethod
    def _linear(cls, strategy: str) -> str:
        if strategy != "linear":
            raise ValueError(f"{strategy[:80]!r} is not offered here; send linear, by which adapters are added up")
        return strategy

    @model_validator(mode="after")
    def _weighs_each(self) -> Merged:
        if len(self.ids) != len(self.weights):
            raise ValueError(f"there are {len(self.ids)} ids and {len(self.weights)} weights; give each id its weight")
        if not any(self.weights) and len(bases.served()) > 1:
            raise ValueError("all weights are 0, so nobody says which base is meant; name it as adapter_id")
        return self


def name_of(adapter_id: str | None) -> str:
    """How an adapter is called here that LoRAX's users call `adapter_id`: by its slug, or by its id on the hub, which
    its import has made a slug."""
    if adapter_id is not None and bases.is_auto(adapter_id):
        return adapter_id
    if adapter_id is None or is_bases_own(adapter_id):
        return base_of(None, adapter_id or BASE).called
    return adapter_id.replace("/", "-") if adapter_id.count("/") == 1 else adapter_id


def name_of_merged(merged: Merged) -> str:
    """The sum that stands for LoRAX's linear merge. LoRAX adds up the As and the Bs, each with its weight, and
    multiplies these; here each adapter's product is added up, as it was trained. One of weight 0 adds nothing."""
    terms = [(weight, name_of(id)) for weight, id in zip(merged.weights, merged.ids, strict=True) if weight]
    return sum_of(terms) if terms else BASE
