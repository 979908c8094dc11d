"""Secure aggregation for Flower's Message API: one line in the ClientApp, one in the ServerApp.

    app = ClientApp(mods=[secagg_mod()])                                   # client
    strategy.start(grid=SecAggGrid(grid), initial_arrays=arrays)           # server

The server learns the average of the clients' replies, and the total of their examples; see docs/integrations/flower.md.
"""

from fl.integrations.flower.errors import FlowerError, RoundAbortedError, StrategyRefusedError
from fl.integrations.flower.grid import SecAggGrid
from fl.integrations.flower.mod import SecAggMod, secagg_mod
from fl.integrations.flower.session import RoundReport
from fl.integrations.flower.settings import SecAggSettings
from fl.privacy.budget import Budget
from fl.privacy.policy import PrivacyPolicy

__all__ = [
    "Budget",
    "FlowerError",
    "PrivacyPolicy",
    "RoundAbortedError",
    "RoundReport",
    "SecAggGrid",
    "SecAggMod",
    "SecAggSettings",
    "StrategyRefusedError",
    "secagg_mod",
]
