"""A job with one of NVFlare's other trainers on each site: run_learners.py FOLDER."""

import sys

from learners import ModelSteps, Steps
from nvflare.app_common.ccwf.comps.np_trainer import NPTrainer as ClientControlledNPTrainer
from nvflare.app_common.executors.learner_executor import LearnerExecutor
from nvflare.app_common.executors.model_learner_executor import ModelLearnerExecutor
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.np.np_trainer import NPTrainer
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob
from nvflare.recipe import SimEnv
from nvflare.recipe.spec import Recipe

from fl.integrations.nvflare import add_secure_aggregation


def main() -> None:
    job = FedJob(name="job", min_clients=4)
    job.to_server(NPModelPersistor(), id="persistor")
    job.to_server(FedAvg(num_clients=4, num_rounds=2))
    for site, executor in {
        "site-1": NPTrainer(delta=1),
        "site-2": ClientControlledNPTrainer(delta=1),
        "site-3": LearnerExecutor("learner"),
        "site-4": ModelLearnerExecutor("learner"),
    }.items():
        job.to(executor, site, tasks=["train"])
    job.to(Steps(), "site-3", id="learner")
    job.to(ModelSteps(), "site-4", id="learner")
    recipe = Recipe(job)
    add_secure_aggregation(recipe, clip=4.0, max_steps=2, max_failed_rounds=0)
    recipe.execute(SimEnv(clients=[f"site-{number}" for number in range(1, 5)], workspace_root=sys.argv[1]))


if __name__ == "__main__":
    main()
