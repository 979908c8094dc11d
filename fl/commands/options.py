"""The options that `secagg train` and `secagg serve` have in common: one name, one meaning, one text."""

from typing import Annotated, Any

from typer import Option

from fl.config.run_config import RunConfig

DEFAULTS: dict[str, Any] = {name: field.default for name, field in RunConfig.__dataclass_fields__.items()}
"""Of every setting of a run."""

Rounds = Annotated[int, Option(help="Communication rounds.")]
Epochs = Annotated[int, Option(help="Local epochs a round.")]
BatchSize = Annotated[int, Option("--batch-size", "--batch", help="Local batch size.")]
LearningRate = Annotated[float, Option("--learning-rate", "--lr", help="Local learning rate.")]
Momentum = Annotated[float, Option(help="Local momentum (SGD).")]
Optimizer = Annotated[str, Option(help="Local: sgd or adam.")]
WeightDecay = Annotated[float, Option(help="Local weight decay.")]
Proximal = Annotated[float, Option(help="FedProx: pulls local weights to the global ones.")]
LearningRateDecay = Annotated[
    float, Option("--learning-rate-decay", "--lr-decay", help="Local learning rate, times this after each round.")
]
ServerOptimizer = Annotated[str, Option(help="fedavg, fedavgm, fedadagrad, fedadam or fedyogi.")]
ServerLearningRate = Annotated[
    float | None,
    Option(
        "--server-learning-rate",
        "--server-lr",
        help="With fedavg, multiplies the mean update (default: 1; fedadagrad 0.1, fedadam and fedyogi 0.03).",
        show_default=False,
    ),
]
ServerMomentum = Annotated[float, Option(help="Of all server optimizers but fedavg.")]
ServerBeta2 = Annotated[float, Option(help="Of fedadam and fedyogi.")]
ServerTau = Annotated[float, Option(help="Adaptivity of fedadagrad, fedadam and fedyogi.")]
Corrupt = Annotated[float, Option(help="Fraction that may work with the server.")]
Clip = Annotated[
    float | None,
    Option(help="Clip all elements of updates to this (default: bounds that follow them).", show_default=False),
]
Seed = Annotated[int, Option(help="Of everything but keys and masks.")]
