"""A web service that learns only the sum of five households' hourly readings; see README.md."""

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated

import fastapi
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse

import secagg
from transport import Deadlines, ServerDriver

NUM_CLIENTS = 5
CONTEXT = b"watt-hours by hour of the day"
POLL_SECONDS = 20.0
Number = Annotated[int, fastapi.Path(ge=0)]

params = secagg.plan(num_clients=NUM_CLIENTS, vector_length=24, value_bits=16, dropout=0.4).parameters


class Session:
    """The protocol's server with its driver, which keeps the deadlines, and a mailbox for each client."""

    def __init__(self, seconds_a_round: float) -> None:
        self.nonce = secrets.token_bytes(16)
        deadlines = Deadlines(**{round_.name.lower(): seconds_a_round for round_ in secagg.Round})
        self.driver = ServerDriver(secagg.Server(params, context=CONTEXT, nonce=self.nonce), deadlines)
        self.num_received = [0] * NUM_CLIENTS
        self.mailboxes: list[list[bytes]] = [[] for _ in range(NUM_CLIENTS)]
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Close rounds at their deadlines and remove the masks, until the session has an outcome."""
        self.driver.start(now())
        while self.driver.outcome is None:
            if self.driver.job is None:
                await self.wait(lambda: self.driver.job or self.driver.outcome, until=self.driver.deadline)
                await self.post(self.driver.tick(now()))
            else:  # heavy work, so not on the event loop
                masks = await asyncio.to_thread(self.driver.job.run, 2)
                self.driver.finish(masks, now())
                await self.post([])

    async def post(self, deliveries: list[tuple[int, bytes]]) -> None:
        """Put messages into their clients' mailboxes, and wake all waiting requests."""
        for client_id, data in deliveries:
            self.mailboxes[client_id].append(data)
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, condition: Callable[[], object], *, until: float | None) -> None:
        """Wait until the condition holds, or until the given time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until), self._changed:
                await self._changed.wait_for(condition)


def service(session: Session, clients: dict[bytes, int]) -> FastAPI:
    """Return the service; ``clients`` holds the client ids by their tokens' SHA-256."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(session.run())
        yield
        running.cancel()

    app = FastAPI(lifespan=lifespan)

    def authenticated(authorization: Annotated[str, Header()]) -> int:
        client_id = clients.get(digest(authorization.removeprefix("Bearer ")))
        if client_id is None:
            raise HTTPException(401, "unknown token")
        return client_id

    # The channel identifies the client, never its message.
    ClientId = Annotated[int, Depends(authenticated)]  # noqa: N806 - a type

    @app.get("/session")
    async def offer(client_id: ClientId) -> dict[str, object]:
        """Return the data that a client needs to take part, and checks itself."""
        values = {**dataclasses.asdict(params), "adversary": params.adversary.value}
        return {"client_id": client_id, "nonce": session.nonce.hex(), "parameters": values}

    @app.put("/messages/{number}", status_code=204)
    async def take(number: Number, client_id: ClientId, request: Request) -> None:
        """Take a client's next message. Numbers are needed since HTTP may repeat it, and it must count once."""
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > secagg.max_message_bytes(params):
                raise HTTPException(413, "the message is longer than any of this session")
        if number < session.num_received[client_id]:
            return
        if number > session.num_received[client_id]:
            raise HTTPException(409, f"send message {session.num_received[client_id]} first")
        session.num_received[client_id] += 1
        await session.post(session.driver.data_received(client_id, bytes(data), now()))

    @app.get("/messages/{number}")
    async def give(number: Number, client_id: ClientId) -> Response:
        """Return the server's message of that number to a client; 204 if it does not exist yet: ask again."""
        mailbox, driver = session.mailboxes[client_id], session.driver
        await session.wait(
            lambda: len(mailbox) > number or client_id in driver.dropped or driver.outcome, until=now() + POLL_SECONDS
        )
        if len(mailbox) > number:
            return Response(mailbox[number], media_type="application/octet-stream")
        if client_id in driver.dropped:
            raise HTTPException(410, f"this client was dropped: {driver.dropped[client_id].reason.value}")
        if driver.outcome is not None:
            raise HTTPException(410, "the session has ended")
        return Response(status_code=204)

    @app.get("/sum")
    async def result(_: ClientId) -> Response:
        """Return how the session ended, to all invited clients; 204 if it has not ended: ask again."""
        await session.wait(lambda: session.driver.outcome, until=now() + POLL_SECONDS)
        match session.driver.outcome:
            case secagg.Completed() as completed:
                return JSONResponse({"included": completed.included, "sum": completed.sum.tolist()})
            case secagg.Aborted() as aborted:
                raise HTTPException(410, str(aborted))
        return Response(status_code=204)

    return app


def now() -> float:
    """Return the time of the event loop's clock, in seconds."""
    return asyncio.get_running_loop().time()


def digest(token: str) -> bytes:
    """Return the digest under which a token is looked up, so that the lookup's time says nothing about other tokens."""
    return hashlib.sha256(token.encode()).digest()


def read_tokens(folder: Path) -> dict[bytes, int]:
    """Return the client ids by their tokens' digests; make missing tokens, which only this user can read."""
    folder.mkdir(mode=0o700, exist_ok=True)
    clients = {}
    for client_id in range(NUM_CLIENTS):
        path = folder / str(client_id)
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(32))
        clients[digest(path.read_text())] = client_id
    return clients


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds that a round stays open")
    parser.add_argument("--tokens", type=Path, default=Path("tokens"), help="the folder of the clients' tokens")
    options = parser.parse_args()
    app = service(Session(options.seconds), read_tokens(options.tokens))
    uvicorn.run(app, host="127.0.0.1", port=options.port)
