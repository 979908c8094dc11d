"""Where the clients of a simulated round are trained: one after the other here, or on several cores or machines."""

from fl.engines.engine import Resources, RoundTrainer, RoundTraining, TrainingEngine, check_engine, open_engine

__all__ = ["Resources", "RoundTrainer", "RoundTraining", "TrainingEngine", "check_engine", "open_engine"]
