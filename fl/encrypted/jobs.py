"""The jobs that the processes of an evaluation receive at their start.

A job names only the files of its own party. Secrets travel only between the parties, as shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PARTIES = 3
MODEL_OWNER, DATA_OWNER = 0, 1

ROLES = ("model owner", "data owner", "helper")
"""The number of each party."""

Opening = Literal["predictions", "accuracy"]
Arithmetic = Literal["words", "objects"]
Bounds = Literal["guaranteed", "measured"]

RECEIVERS: dict[str, tuple[int, ...]] = {"predictions": (DATA_OWNER,), "accuracy": (MODEL_OWNER, DATA_OWNER)}
"""The parties that learn the opened result."""


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """The input of the model's owner; see `fl.encrypted.evaluator.EncryptedTask`.

    calibration: the data set on whose training images bounds are measured, or None.
    """

    path: str
    name: str
    calibration: str | None
    data_dir: str | None


@dataclass(frozen=True, kw_only=True)
class DataInput:
    """The input of the data's owner; see `fl.encrypted.evaluator.EncryptedTask`."""

    dataset: str
    data_dir: str | None
    images: int | None
    batch: int
    opening: Opening


@dataclass(frozen=True, kw_only=True)
class Job:
    """The job of one party.

    party: 0, 1 or 2. ports: the port of each party. folder: the folder with the party's own key and certificates.
    tls, arithmetic: the same for all parties; see `fl.encrypted.evaluator.MpycEvaluator`.
    model, data: the party's input, if it owns one.
    """

    party: int
    ports: tuple[int, int, int]
    folder: str
    tls: bool
    arithmetic: Arithmetic
    model: ModelInput | None = None
    data: DataInput | None = None
