"""Calls the identity service from Python with asyncio and aioamqp (Debian: python3-aioamqp,
python3-msgpack). Any number of tasks may share a Client. The errors are those of glotpod_ident.

    users = Client("rabbitmq", login="glotpod-api", password="…")
    user = await users.call("get", email="ada@example.org")
    await users.close()
"""

import asyncio

import aioamqp
from aioamqp.exceptions import AioamqpException

from glotpod_ident import NoReply, NoService, Refused, Request

__all__ = ["Client", "NoReply", "NoService", "Refused"]
MAX_UNDER_WAY = 1024  # requests; further ones wait


class Client:
    def __init__(self, *hosts, port=5672, login="guest", password="guest", virtualhost="/", name="", old_msgpack=False):
        """Connects with the first request, at the first of the hosts that allows it."""
        self._hosts, self._port, self._name, self._old_msgpack = hosts, port, name, old_msgpack
        self._login, self._password, self._virtualhost = login, password, virtualhost
        self._connecting, self._room = asyncio.Lock(), asyncio.Semaphore(MAX_UNDER_WAY)
        self._channel = self._protocol = None
        self._waiting = {}  # futures by correlation id

    async def close(self):
        if self._protocol is not None:
            await self._protocol.close()

    async def call(self, operation, timeout=30.0, message_id=None, **arguments):
        """Like glotpod_ident.Client.call."""
        request = Request(operation, arguments, timeout, message_id, self._old_msgpack)
        try:
            async with asyncio.timeout(timeout), self._room:
                return await self._try(request)
        except TimeoutError:
            raise NoReply(operation) from None

    async def _try(self, request):
        while True:
            try:
                body = await self._attempt(request)
            except (AioamqpException, OSError):
                pause = request.next_pause()
            else:
                if body is None:
                    continue  # it is sent again
                result, pause = request.result(body)
                if pause is None:
                    return result
            if pause is None:
                raise NoReply(request.key)
            await asyncio.sleep(pause)

    async def _attempt(self, request):
        channel = await self._connected()
        reply = self._waiting[request.id] = asyncio.get_running_loop().create_future()
        try:
            await channel.publish(request.body, "amq.topic", request.key, request.properties(self._login, self._name), mandatory=True)
            return await asyncio.wait_for(reply, request.next_silence())
        except TimeoutError:
            return None
        finally:
            self._waiting.pop(request.id, None)

    async def _connected(self):
        async with self._connecting:
            if self._channel is None or not self._channel.is_open:
                await self._connect()
            return self._channel

    async def _connect(self):
        failure = None
        for host in self._hosts:
            try:
                _, self._protocol = await aioamqp.connect(
                    host, self._port, self._login, self._password, self._virtualhost, on_error=self._on_error, heartbeat=10)
                break
            except (AioamqpException, OSError) as e:
                failure = e
        else:
            raise failure
        channel = await self._protocol.channel(return_callback=self._on_return)
        await channel.basic_consume(self._on_reply, queue_name="amq.rabbitmq.reply-to", no_ack=True)
        self._channel = channel

    async def _on_reply(self, channel, body, envelope, properties):
        self._settle(properties.correlation_id, lambda f: f.set_result(body))

    async def _on_return(self, channel, body, envelope, properties):
        self._settle(properties.correlation_id, lambda f: f.set_exception(NoService()))

    async def _on_error(self, failure):
        """The connection is lost: all requests under way are tried again."""
        self._channel = None
        for correlation_id in list(self._waiting):
            self._settle(correlation_id, lambda f: f.set_exception(OSError("the connection was lost")))

    def _settle(self, correlation_id, settle):
        reply = self._waiting.get(correlation_id)
        if reply is not None and not reply.done():
            settle(reply)
