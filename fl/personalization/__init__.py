"""Each client's own model, made of the global one and what the client learned from, and what it gains by it.

`fine_tuning` goes on training the global model, all of it or its last layer, at will pulled back to it; `ditto` keeps a
second model beside it through all rounds; `gains` measures both on examples that neither training has seen.
"""

from fl.personalization.ditto import Ditto
from fl.personalization.fine_tuning import FineTuning
from fl.personalization.gains import ClientGain, GainSummary, Spread, measure_gain, summarize_gains

__all__ = ["ClientGain", "Ditto", "FineTuning", "GainSummary", "Spread", "measure_gain", "summarize_gains"]
