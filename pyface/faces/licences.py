"""The licences of models in use, for the reports of what was made with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from pyface.faces.catalogue import ModelLicence, model_entries
from pyface.faces.model_store import licences_of

__all__ = ["licences_of_models"]

_SHIPPED = ("recognition-64", "action-units", "dlib-rendered")  # networks inside this package
_MADE_OF = {"dlib-rendered": ("dlib-resnet", "dlib-rendered")}  # what stands on another network
_OWN = ModelLicence("Apache-2.0", "the pyface authors", remark="ships with pyface; trained on rendered faces")


def licences_of_models(models: Iterable[Any]) -> list[dict[str, Any]]:
    """One row for each loaded model (detector, embedder, ...), found in the model store by its `name`.

    Rows are those of `licences_of`; of joined models there is one for each part. A model from elsewhere (a
    file, one that was registered) is listed with the licence "unknown".
    """
    rows: dict[str, dict[str, Any]] = {}
    single = (part for model in models for part in getattr(model, "models", (model,)))
    for name in (part for model in single for part in _MADE_OF.get(model.name, (str(model.name),))):
        if name in model_entries():
            rows[name] = licences_of([name])[0]
        else:
            licence = _OWN if name in _SHIPPED else ModelLicence("unknown")
            rows[name] = {"name": name, "files": [], "source": "", **dataclasses.asdict(licence)}
    return list(rows.values())
