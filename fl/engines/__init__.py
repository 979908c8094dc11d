"""Where the clients of a simulated round are trained: one after the other here, or on several cores or machines."""

from fl.engines.engine import RoundTraining, TrainingEngine, open_engine

__all__ = ["RoundTraining", "TrainingEngine", "open_engine"]
