"""Three clients and a server in one program. Client 2 drops out; the server learns the sum of the others."""

import os

import numpy as np

import secagg

params = secagg.plan(num_clients=3, vector_length=4, value_bits=16, dropout=1 / 3).parameters
nonce = os.urandom(16)  # fresh for each session, and known to all
vectors = [np.array([1, 2, 3, 4]), np.array([10, 20, 30, 40]), np.array([100, 200, 300, 400])]
server = secagg.Server(params, nonce=nonce)
clients = {i: secagg.Client(params, i, nonce=nonce) for i in range(3)}


def carry_out(client, events):
    for event in events:
        if isinstance(event, secagg.Send):
            data = secagg.encode(event.message, params)  # these bytes travel to the server
            server.receive(client.client_id, secagg.decode_client_message(data, params))
        else:  # InputRequested
            carry_out(client, client.submit_input(vectors[client.client_id]))


for client in clients.values():
    carry_out(client, client.start())
while server.phase not in (secagg.ServerPhase.COMPLETED, secagg.ServerPhase.ABORTED):
    if server.round is secagg.Round.SHARE_KEYS:
        del clients[2]  # it drops out after sharing its keys
    for event in server.close_round():  # when everyone has answered, or the deadline has passed
        match event:
            case secagg.Send(to=client_id, message=message) if client_id in clients:
                data = secagg.encode(message, params)  # and these to the client
                carry_out(clients[client_id], clients[client_id].receive(secagg.decode_server_message(data, params)))
            case secagg.UnmaskReady(job=job):
                (completed,) = server.finish(job.run(workers=2))
                print(completed.included, completed.sum)
            case secagg.Aborted():
                print(event)
