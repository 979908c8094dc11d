"""Testing on encrypted data with an encrypted model: nobody but their owners sees either."""

from fl.encrypted.errors import EncryptedEvaluationError, PrecisionError, UnsupportedModelError
from fl.encrypted.evaluator import EncryptedEvaluator, EncryptedResult, EncryptedTask, MpycEvaluator

__all__ = [
    "EncryptedEvaluationError",
    "EncryptedEvaluator",
    "EncryptedResult",
    "EncryptedTask",
    "MpycEvaluator",
    "PrecisionError",
    "UnsupportedModelError",
]
