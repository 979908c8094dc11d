"""Train on handwritten digits on three sites in NVFlare's simulator; the server sees no site's update.

    pip install '.[fl,nvflare]'
    python job.py                 # or --plain, to see the difference

All but the call of `add_secure_aggregation` is NVFlare's own PyTorch quickstart in another order.
"""

import argparse
from pathlib import Path

import torch
from digits_model import DigitsNet, accuracy
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

from fl.integrations.nvflare import add_secure_aggregation

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plain", action="store_true", help="NVFlare's own average: the server sees every update")
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workspace", default="workspace", help="folder for the simulator's files")
    args = parser.parse_args()

    torch.manual_seed(0)
    recipe = FedAvgRecipe(
        name="digits",
        model=DigitsNet(),
        min_clients=2,
        num_rounds=args.rounds,
        train_script=str(HERE / "client.py"),
        train_args=f"--sites {args.sites}",
    )
    if not args.plain:
        # Without identities, the sites trust the server to follow the protocol.
        add_secure_aggregation(recipe)
    recipe.execute(SimEnv(num_clients=args.sites, workspace_root=str(Path(args.workspace).absolute())))

    saved = Path(args.workspace) / "digits/server/simulate_job/app_server/FL_global_model.pt"
    model = DigitsNet()
    model.load_state_dict(torch.load(saved, weights_only=True)["model"])
    print(f"accuracy of the global model: {accuracy(model):.3f}")


if __name__ == "__main__":
    main()
