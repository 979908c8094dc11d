"""Personal models of clients, made from the global model and the client's own examples, and their gains.

`fine_tuning` trains the global model further, all of it or its last layer, optionally pulled towards the global model.
`ditto` keeps a second model beside it through all rounds. `gains` measures both on examples that neither was trained
on.
"""

from fl.personalization.ditto import Ditto
from fl.personalization.fine_tuning import FineTuning
from fl.personalization.gains import ClientGain, GainSummary, Spread, measure_gain, summarize_gains

__all__ = ["ClientGain", "Ditto", "FineTuning", "GainSummary", "Spread", "measure_gain", "summarize_gains"]
