"""Evaluation of an encrypted model on encrypted data: only their owners see them."""

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
