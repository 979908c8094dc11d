"""Engines that train the clients of a simulated round: one by one, on several cores, or on several machines."""

from fl.engines.api import Resources, RoundTrainer, RoundTraining, TrainingEngine, workers_in_words
from fl.engines.factory import check_engine, open_engine

__all__ = [
    "Resources",
    "RoundTrainer",
    "RoundTraining",
    "TrainingEngine",
    "check_engine",
    "open_engine",
    "workers_in_words",
]
