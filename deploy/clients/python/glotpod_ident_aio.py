"""Calls the identity service from Python with asyncio and aioamqp (Debian: python3-aioamqp,
python3-msgpack). Any number of tasks may share a Client. The errors, and how to go on after them, are
those of glotpod_ident.

    users = Client("rabbitmq", login="glotpod-api", password="…")
    user = await users.call("get", email="ada@example.org")
    await users.close()
"""

import asyncio

import aioamqp
from aioamqp.channel import Channel
from aioamqp.exceptions import AioamqpException, ChannelClosed
from aioamqp.protocol import AmqpProtocol

from glotpod_ident import CONNECT_WITHIN, HEARTBEAT, Closed, NoReply, NoService, Refused, Rejected, Request

__all__ = ["Client", "Closed", "NoReply", "NoService", "Refused", "Rejected"]
MAX_UNDER_WAY = 1024  # requests; further ones wait
CONNECTION_FORCED = 320  # the broker stops
RETURNED = object()  # by the broker, instead of a reply


class Link(Channel):
    """A channel of one connection, with the futures of the replies, by correlation id."""

    def __init__(self, protocol, channel_id):
        super().__init__(protocol, channel_id, return_callback=self.on_return)
        self.waiting = {}

    async def on_return(self, channel, body, envelope, properties):
        self.settle(properties.correlation_id, RETURNED)

    async def on_reply(self, channel, body, envelope, properties):
        self.settle(properties.correlation_id, body)

    def settle(self, correlation_id, body):
        reply = self.waiting.pop(correlation_id, None)
        if reply is not None and not reply.done():
            reply.set_result(body)

    def connection_closed(self, server_code=None, server_reason=None, exception=None):
        """The broker has closed the channel, or the connection is lost."""
        super().connection_closed(server_code, server_reason, exception)
        self.lose(ChannelClosed(server_code, server_reason) if server_code else exception or OSError("the connection was lost"))

    def lose(self, failure):
        self.close_event.set()
        self.protocol.transport.close()
        replies, self.waiting = self.waiting, {}
        for reply in replies.values():
            if not reply.done():
                reply.set_exception(failure)


class Protocol(AmqpProtocol):
    CHANNEL_FACTORY = Link
    transport = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self.transport = transport


class Client:
    def __init__(self, *hosts, port=5672, login="guest", password="guest", virtualhost="/", name="", old_msgpack=False):
        """Connects with the first request, at the first of the hosts that allows it."""
        self._hosts, self._port, self._name, self._old_msgpack = hosts, port, name, old_msgpack
        self._login, self._password, self._virtualhost = login, password, virtualhost
        self._connecting, self._room = asyncio.Lock(), asyncio.Semaphore(MAX_UNDER_WAY)
        self._link, self._closed = None, False

    async def close(self):
        """Closes the connection. Calls that are under way raise NoReply."""
        self._closed = True
        if self._link is not None:
            self._link.lose(OSError("the client was closed"))

    async def call(self, operation, timeout=30.0, message_id=None, **arguments):
        """Like glotpod_ident.Client.call."""
        if self._closed:
            raise Closed(operation)
        request = Request(operation, arguments, timeout, message_id, self._old_msgpack)
        try:
            async with asyncio.timeout(timeout), self._room:
                while request.left() > 0:
                    result, pause = await self._try(request)
                    if pause is None:
                        return result
                    await asyncio.sleep(pause)
        except TimeoutError:
            pass
        raise request.no_reply()

    async def _try(self, request):
        """Returns the result, or how long to wait before the request is tried again."""
        try:
            body = await self._attempt(request)
        except (AioamqpException, OSError) as failure:
            pause = request.failed(failure, isinstance(failure, ChannelClosed) and failure.code not in (None, 0, CONNECTION_FORCED))
            if self._closed:
                raise request.no_reply()
            return None, pause
        return (None, 0) if body is None else request.result(body)

    async def _attempt(self, request):
        """Sends a request and returns the body of the reply, None if it is time to repeat it."""
        link = await self._connected()
        reply = link.waiting[request.correlation_id] = asyncio.get_running_loop().create_future()
        try:
            await link.publish(request.body, "amq.topic", request.key, request.properties(self._login, self._name), mandatory=True)
            done, _ = await asyncio.wait([reply], timeout=request.next_silence())
            body = reply.result() if done else None
        finally:
            link.waiting.pop(request.correlation_id, None)
            reply.cancel()
        if body is RETURNED:
            raise request.returned()
        return body

    async def _connected(self):
        async with self._connecting:
            if self._closed:
                raise OSError("the client was closed")
            if self._link is None or not self._link.is_open:
                self._link = await self._connect()
            return self._link

    async def _connect(self):
        failure = None
        for host in self._hosts:
            try:
                async with asyncio.timeout(CONNECT_WITHIN):
                    return await self._connect_to(host)
            except (AioamqpException, OSError) as e:
                failure = e
        raise failure

    async def _connect_to(self, host):
        made = []
        try:
            await aioamqp.connect(
                host, self._port, self._login, self._password, self._virtualhost, heartbeat=HEARTBEAT,
                protocol_factory=lambda **options: made.append(Protocol(**options)) or made[0])
            link = await made[0].channel()
            await link.basic_consume(link.on_reply, queue_name="amq.rabbitmq.reply-to", no_ack=True)
            if self._closed:
                raise OSError("the client was closed")
            return link
        except BaseException:  # also if the attempt is given up
            if made and made[0].transport is not None:
                made[0].transport.close()
            raise
