"""A personal model by going on where the global one is: fine-tuning of all layers, or of the last one only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fl.learning.training import LocalTraining, train
from fl.personalization.head import classifier_head, head_inputs


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Training on a client's own examples, from the model that it is given.

    Attributes:
        training: its epochs, batches and learning rate. With `LocalTraining.proximal` above 0 it is FedProx's local
            problem (Li et al. 2020, arXiv:1812.06127), solved once more: a personal model that stays near the global.
        head_only: train the last layer, on what the others make of the examples: fewer numbers, which few examples can
            settle, and a features extractor that stays everybody's (the "head" of Collins et al. 2021,
            arXiv:2102.07078).
    """

    training: LocalTraining
    head_only: bool = False

    def personalize(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, seed: int) -> None:
        """Turn `model`, the global one, into the client's own, in place.

        Raises ConfigError if there are no examples, or `head_only` does not fit the model; DivergedError if training
        ran away.
        """
        if not self.head_only:
            train(model, images, labels, self.training, seed)
            return
        # The rest stays as it is: what it says of the examples is computed once, and not in each epoch anew.
        features = head_inputs(model, images)
        train(classifier_head(model), features, labels, self.training, seed)
