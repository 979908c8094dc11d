"""Federated training between machines: `secagg serve` and `secagg join`, over `transport.tcp`.

Its modules:

    announcement    what a round's offer carries: numbers, configuration, the model's bytes
    addresses       HOST:PORT
    errors          what users are told
    session_thread  a listening server in a thread of its own
    session_files   the journal of a round's session
    aggregator      one round over the network: announced, aggregated, tried again
    served_run      a run whose clients are elsewhere
    server          the server's training: folder, checkpoint, journal, retries
    modes           whom rounds are safe against
    policy          what a client asks of an offer
    offers          how a client takes part, and what it makes of an offer
    local_data      a client's examples
    client          a client's training, round after round
"""
