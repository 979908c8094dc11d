"""The jobs that the processes of an evaluation are given at their start.

A job names the files of its own party and of no other. Secrets travel between the parties only, as shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PARTIES = 3
MODEL_OWNER, DATA_OWNER = 0, 1

ROLES = ("model owner", "data owner", "helper")
"""Who each party is."""

Opening = Literal["predictions", "accuracy"]
Arithmetic = Literal["words", "objects"]
Bounds = Literal["guaranteed", "measured"]

RECEIVERS: dict[str, tuple[int, ...]] = {"predictions": (DATA_OWNER,), "accuracy": (MODEL_OWNER, DATA_OWNER)}
"""Who learns what is opened."""


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """What the model's owner brings in; see `fl.encrypted.evaluator.EncryptedTask`.

    calibration: the data set whose training images bounds are measured on, if they are.
    """

    path: str
    name: str
    calibration: str | None
    data_dir: str | None


@dataclass(frozen=True, kw_only=True)
class DataInput:
    """What the data's owner brings in; see `fl.encrypted.evaluator.EncryptedTask`."""

    dataset: str
    data_dir: str | None
    images: int | None
    batch: int
    opening: Opening


@dataclass(frozen=True, kw_only=True)
class Job:
    """A party's orders.

    party: 0, 1 or 2. ports: where each of them listens. folder: with its own key and certificates.
    tls, arithmetic: the same for all parties; see `fl.encrypted.evaluator.MpycEvaluator`.
    model, data: of the one that owns it.
    """

    party: int
    ports: tuple[int, int, int]
    folder: str
    tls: bool
    arithmetic: Arithmetic
    model: ModelInput | None = None
    data: DataInput | None = None
