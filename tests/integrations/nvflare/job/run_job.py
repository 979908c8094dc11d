"""The job of test_simulator.py: run_job.py FOLDER BROKEN HOW..."""

import sys
from pathlib import Path

from leaving import Leaving
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe import SimEnv

from fl.integrations.nvflare import add_secure_aggregation
from fl.integrations.nvflare.messages import TASKS
from secagg import Adversary


def main() -> None:
    folder, broken, *schedule = sys.argv[1:]
    recipe = NumpyFedAvgRecipe(
        name="job",
        model=[0.0] * 6,
        min_clients=2,
        num_rounds=len(schedule),
        train_script=str(Path(__file__).parent / "site_trainer.py"),
        train_args=f"--broken={broken}",
    )
    add_secure_aggregation(
        recipe, clip=4.0, max_steps=30, adversary=Adversary.SEMI_MALICIOUS, train_timeout=8, max_failed_rounds=0
    )
    recipe.add_client_input_filter(Leaving("site-3", schedule), tasks=list(TASKS.values()))
    recipe.execute(SimEnv(num_clients=3, workspace_root=folder))


if __name__ == "__main__":
    main()
