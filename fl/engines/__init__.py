"""Where the clients of a simulated round are trained: one after the other here, or on several cores or machines."""

from fl.engines.api import Resources, RoundTrainer, RoundTraining, TrainingEngine
from fl.engines.factory import check_engine, open_engine

__all__ = ["Resources", "RoundTrainer", "RoundTraining", "TrainingEngine", "check_engine", "open_engine"]
