"""Federated training across machines: `secagg serve` and `secagg join`, over `transport.tcp`.

The modules:

    announcement    the announcement of a round: numbers, settings, the model's bytes
    addresses       HOST:PORT
    errors          the errors of this package
    session_thread  a listening server in its own thread
    session_files   the journal of a round's session
    failover        the database from which another machine goes on with a run
    invitations     the choice of a round's clients
    aggregator      one round over the network, with its retries
    served_run      a run with clients on other machines
    listening       the listening server, in this process or in fronts
    server          the server's training: folder, checkpoint, journal
    modes           the adversary that rounds withstand
    policy          a client's requirements for an offer
    offers          a client's options, and its answer to an offer
    local_data      a client's examples
    client          a client's training, round after round
"""
