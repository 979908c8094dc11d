"""Jobs with a torch model: run_torch.py FOLDER, and its content; see the options."""

import argparse
import sys

from bn_model import Net
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.app_opt.pt.recipes.fedopt import FedOptRecipe
from nvflare.recipe import SimEnv

from fl.integrations.nvflare import add_secure_aggregation

ROUNDS = 4
# Momentum and a scheduler: the state of the server's optimizer decides all rounds but the first.
OPTIMIZER = {
    "optimizer_args": {"path": "torch.optim.SGD", "args": {"lr": 0.5, "momentum": 0.6}, "config_type": "dict"},
    "lr_scheduler_args": {
        "path": "torch.optim.lr_scheduler.StepLR", "args": {"step_size": 2, "gamma": 0.5}, "config_type": "dict",
    },
    "device": "cpu",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    for flag in ("external", "fedopt", "plain", "broken"):
        parser.add_argument("--" + flag, action="store_true")
    parser.add_argument("--evaluate", default="")
    parser.add_argument("--width", type=int, default=16)
    args = parser.parse_args()
    recipe = (FedOptRecipe if args.fedopt else FedAvgRecipe)(
        name="job",
        model=Net(args.width),
        min_clients=3,
        num_rounds=2 if args.broken else ROUNDS,
        # Older releases start it under this name, beneath their own folder.
        train_script="bn_trainer.py",
        train_args=" ".join(["--diff"] * args.fedopt + ["--plain"] * args.plain + ["--broken"] * args.broken),
        launch_external_process=args.external,
        command=f"{sys.executable} -u",
        **(OPTIMIZER if args.fedopt else {}),
    )

    def evaluate() -> None:
        from nvflare.recipe.utils import add_final_global_evaluation

        add_final_global_evaluation(recipe)

    if args.evaluate == "before":
        evaluate()
    if not args.plain:
        add_secure_aggregation(
            recipe,
            plain_tasks=["validate"] if args.evaluate else [],
            max_failed_rounds=2 if args.broken else 0,
        )
    if args.evaluate == "after":
        evaluate()
    recipe.execute(SimEnv(num_clients=3, workspace_root=args.folder))


if __name__ == "__main__":
    main()
