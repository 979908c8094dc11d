"""Make a personal model for each client from a finished run's global model, by fine-tuning and by Ditto.

secagg train --model logistic --clients 10 --partition dirichlet --holdout 0.2 --out runs/digits
python examples/personal_models.py runs/digits
secagg report runs/digits

The report then shows each client's gain on its held-out examples. Ditto trains a second model in each round, but a
run's folder has only the last global model. So the rounds run again, as the config says, with your own code if it names
some.
"""

import copy
import sys
from dataclasses import replace
from pathlib import Path

from torch import nn

from fl.config.seeds import PERSONALIZATION_SEED, derived_seed
from fl.errors import ConfigError, FLError
from fl.learning.own_code import make_dataset
from fl.personalization import Ditto, FineTuning, measure_gain, summarize_gains
from fl.report.extras import Personalization, PersonalizedClient, PersonalizedMethod, save_personalization
from fl.runs.checkpoint import RunFolder
from fl.runs.rounds import FederatedRun


def personalize(folder: Path) -> None:
    """Write the folder's personalization.json, and print a line for each method."""
    config, rounds = RunFolder(folder).load_config()
    if not config.data.holdout:
        raise ConfigError(f"the clients of {folder} hold no examples out: train with --holdout 0.2")
    training = replace(config.local, proximal=0.0)
    tuning, ditto = FineTuning(training), Ditto(training, strength=0.1)
    by_tuning: dict[int, nn.Module] = {}
    by_ditto: dict[int, nn.Module] = {}
    with FederatedRun(config, make_dataset(config.data.dataset), config.protocol.aggregator) as run:
        for number in range(1, rounds + 1):
            received = copy.deepcopy(run.model)
            for client in run.run_round().included:
                own = by_ditto.setdefault(client, copy.deepcopy(received))
                seed = derived_seed(config.seed, PERSONALIZATION_SEED, number, client)
                ditto.improve(own, received, *run.worker.training_examples(client), seed=seed)
        for client in by_ditto:
            own = by_tuning[client] = copy.deepcopy(run.model)
            seed = derived_seed(config.seed, PERSONALIZATION_SEED, rounds + 1, client)
            tuning.personalize(own, *run.worker.training_examples(client), seed=seed)
        methods = []
        for name, models in (("fine-tuning", by_tuning), ("Ditto", by_ditto)):
            measured = [c for c in sorted(models) if len(run.worker.examples[c].held_out)]
            gains = [measure_gain(run.worker, client, run.model, models[client]) for client in measured]
            spread = summarize_gains(gains).accuracy_gain
            print(
                f"{name}: {len(gains)} clients gain {100 * spread.mean:+.1f} points, {100 * spread.median:+.1f} median"
            )
            clients = (PersonalizedClient(g.client, g.held_out, g.global_accuracy, g.personal_accuracy) for g in gains)
            methods.append(PersonalizedMethod(name, tuple(clients)))
    save_personalization(folder, Personalization(tuple(methods)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("give a run's folder: python personal_models.py RUN_DIR")
    try:
        personalize(Path(sys.argv[1]))
    except FLError as error:
        raise SystemExit(f"error: {error}") from None
