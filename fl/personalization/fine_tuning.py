"""Personal models by fine-tuning the global model: all layers, or only the last one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fl.learning.settings import Local
from fl.learning.task import CLASSIFICATION, Task
from fl.learning.training import train
from fl.personalization.head import classifier_head, head_inputs


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Fine-tuning of a given model on a client's own examples.

    Attributes:
        training: its epochs, batches and learning rate. A `Local.proximal` above 0 gives FedProx's local
            problem (Li et al. 2020, arXiv:1812.06127): the personal model stays near the global one.
        head_only: train only the last layer (the "head" of Collins et al. 2021, arXiv:2102.07078). It has fewer
            parameters, for which few examples suffice, and the feature extractor stays common to all clients.
        task: the loss and metrics.
    """

    training: Local
    head_only: bool = False
    task: Task = CLASSIFICATION

    def personalize(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, seed: int) -> None:
        """Turn the global `model` into the client's personal model, in place.

        Raises ConfigError if there are no examples, or `head_only` does not fit the model; DivergedError if training
        diverged.
        """
        if not self.head_only:
            train(model, images, labels, self.training, seed, self.task)
            return
        # The other layers do not change, so their outputs are computed once, not in each epoch.
        features = head_inputs(model, images)
        train(classifier_head(model), features, labels, self.training, seed, self.task)
