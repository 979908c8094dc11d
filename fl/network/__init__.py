"""Federated training between machines: `secagg serve` and `secagg join`, over `transport.tcp`.

Its modules:

    announcement    what a round's offer carries: numbers, configuration, the model's bytes
    addresses       HOST:PORT
    errors          what users are told
    session_thread  a listening server in a thread of its own
    aggregator      one round of `fl.runs.rounds.FederatedRun`, over the network
    settings        how a run is served
    serving         the server's training: folder, checkpoint, journal, retries
    modes           whom rounds are safe against
    policy          what a client asks of an offer
    offers          how a client takes part, and what it makes of an offer
    local_data      a client's examples
    joining         a client's training, round after round
    *_command       options and output
"""
