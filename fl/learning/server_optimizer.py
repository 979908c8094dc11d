"""The server's step with the mean update: one step of an optimizer whose gradient is minus that mean.

Reddi et al., "Adaptive Federated Optimization" (ICLR 2021, arXiv:2003.00295), algorithm 2; FedAvgM: Hsu et al. 2019
(arXiv:1909.06335). Each rule is a torch optimizer over one flat vector, so that its state is stored like a model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fl.errors import ConfigError
from fl.learning.parameter_layout import ParameterLayout, Vector
from fl.learning.settings import ServerOptimization


class ServerOptimizer:
    """The rule that turns a global model and a mean update into the next global model, with the rule's state.

    Adaptive steps apply to parameters only. Averaged buffers (BatchNorm's running mean and variance) take their plain
    mean, since an optimizer's step can make a variance negative.
    """

    def __init__(self, options: ServerOptimization, model: nn.Module) -> None:
        self._layout = ParameterLayout.of(model)
        self._buffers = _places_of_buffers(model, self._layout)
        self._vector = nn.Parameter(torch.zeros(self._layout.size))
        self._optimizer = _build(options, [self._vector])

    def step(self, before: Vector, mean_delta: Vector) -> Vector:
        """Return the next global vector, float32 (size,), from the current one and the mean update, both (size,)."""
        with torch.no_grad():
            self._vector.copy_(torch.from_numpy(before))
        self._vector.grad = torch.from_numpy(-mean_delta)
        self._optimizer.step()
        after: Vector = self._vector.detach().numpy().copy()
        after[self._buffers] = before[self._buffers] + mean_delta[self._buffers]
        return after

    def state(self) -> dict[str, torch.Tensor]:
        """Return the rule's state by name; empty before the first step, and always for FedAvg."""
        remembered: dict[str, Any] = self._optimizer.state_dict()["state"].get(0, {})
        return {name: value.clone() for name, value in remembered.items() if isinstance(value, torch.Tensor)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore the value of `state`. Raises ConfigError if it belongs to another model or rule."""
        for name, value in state.items():
            if value.shape != self._vector.shape or value.dtype != torch.float32:
                raise ConfigError(f"the server optimizer's {name} belongs to another model")
        whole = self._optimizer.state_dict()
        whole["state"] = {0: {name: value.clone() for name, value in state.items()}} if state else {}
        self._optimizer.load_state_dict(whole)


class AdaptiveServerStep(torch.optim.Optimizer):
    """FedAdagrad, FedAdam and FedYogi as in the paper: without Adam's bias correction, v starts at tau^2.

    D is the mean update, m = beta1 m + (1 - beta1) D, v follows the rule, and x = x + eta m / (sqrt(v) + tau).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        second_moment: Callable[[torch.Tensor, torch.Tensor], None],
        lr: float,
        momentum: float,
        tau: float,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "tau": tau})
        self._second_moment = second_moment

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with each parameter's gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient, state = parameter.grad, self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                    state["second_moment"] = torch.full_like(parameter, group["tau"] ** 2)
                state["momentum"].lerp_(gradient, 1 - group["momentum"])
                self._second_moment(state["second_moment"], gradient.square())
                root = state["second_moment"].sqrt().add_(group["tau"])
                parameter.addcdiv_(state["momentum"], root, value=-group["lr"])


def _build(options: ServerOptimization, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate, momentum = options.rate, options.momentum
    if options.optimizer in ("fedavg", "fedavgm"):
        return torch.optim.SGD(parameters, lr=rate, momentum=momentum if options.optimizer == "fedavgm" else 0.0)

    def adagrad(moment: torch.Tensor, square: torch.Tensor) -> None:
        moment.add_(square)

    def adam(moment: torch.Tensor, square: torch.Tensor) -> None:
        moment.lerp_(square, 1 - options.beta2)

    def yogi(moment: torch.Tensor, square: torch.Tensor) -> None:
        moment.sub_((1 - options.beta2) * square * torch.sign(moment - square))

    rules = {"fedadagrad": adagrad, "fedadam": adam, "fedyogi": yogi}
    return AdaptiveServerStep(
        parameters, second_moment=rules[options.optimizer], lr=rate, momentum=momentum, tau=options.tau
    )


def _places_of_buffers(model: nn.Module, layout: ParameterLayout) -> npt.NDArray[np.bool_]:
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    places = np.zeros(layout.size, dtype=np.bool_)
    for entry in layout.entries:
        if entry.name not in parameters:
            places[entry.start : entry.stop] = True
    return places
