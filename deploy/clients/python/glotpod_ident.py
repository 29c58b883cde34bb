"""Calls the identity service from Python, with pika (Debian: python3-pika, python3-msgpack).

    with Client("amqp://glotpod-api:password@rabbitmq/%2F") as users:
        user = users.call("get", email="ada@example.org")
        try:
            users.call("patch", user_id=user["id"], ops=[{"op": "replace", "path": "/name", "value": "Ada L."}])
        except Refused as refusal:
            if refusal.code != "conflict":
                raise

cluster/PROTOCOL.md describes the operations, their arguments and results, and the errors. A Client
is for one thread. glotpod_ident_aio.py has the same for asyncio.
"""

import random
import time
import uuid

import msgpack
import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

READS = ("get", "get_many", "list", "changes")
RESEND_AFTER = 5.0  # seconds without a reply until the request is sent again, then twice as long
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before a request is tried again


class Refused(Exception):
    """An error reply. code is one of those in cluster/PROTOCOL.md, such as "not_found"."""

    def __init__(self, code, message="", retryable=False, retry_after_ms=0, **_):
        super().__init__(code + ": " + message if message else code)
        self.code, self.message, self.retryable = code, message, retryable
        self.retry_after = retry_after_ms / 1000  # seconds


class NoService(Exception):
    """No queue gets the request. It was not carried out."""


class NoReply(Exception):
    """No reply came in time. A write may have been carried out, or may still be."""


class Request:
    """One request, while it is tried: its message, its deadline and its pauses."""

    def __init__(self, operation, arguments, timeout, message_id, old_msgpack):
        self.key = "rpc.user." + operation
        self.body = msgpack.packb(arguments, use_bin_type=not old_msgpack)
        self.id = message_id or str(uuid.uuid4())
        self.deadline = time.monotonic() + timeout
        self.delivery_mode = 1 if operation in READS else 2
        self.pause, self.silence = FIRST_PAUSE, RESEND_AFTER

    def left(self):
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def properties(self, login, name):
        return {
            "reply_to": "amq.rabbitmq.reply-to", "correlation_id": self.id, "message_id": self.id,
            "expiration": str(max(1, int(self.left() * 1000))), "delivery_mode": self.delivery_mode,
            "content_type": "application/msgpack", "user_id": login, "app_id": name,
        }

    def next_silence(self):
        """How long to wait for a reply now, in seconds."""
        silence = self.silence * random.uniform(0.5, 1)
        self.silence *= 2
        return max(0, min(silence, self.left()))

    def next_pause(self, at_least=0.0):
        """How long to wait before the next attempt, None if no time is left for that."""
        pause = max(at_least, self.pause * random.uniform(0.5, 1))
        self.pause = min(2 * self.pause, LONGEST_PAUSE)
        return pause if pause < self.left() else None

    def result(self, body):
        """The result in a reply, or None if the request should be tried again after a pause."""
        reply = msgpack.unpackb(body)
        if "result" in reply:
            return reply["result"], None
        refusal = Refused(reply.pop("error"), **reply)
        pause = self.next_pause(refusal.retry_after) if refusal.retryable else None
        if pause is None:
            raise refusal
        return None, pause


class Client:
    def __init__(self, *urls, name="", old_msgpack=False):
        """Connects at the first of the URLs that allows it. old_msgpack sends strings as raw."""
        self._parameters = [pika.URLParameters(url) for url in urls]
        self._login, self._name = self._parameters[0].credentials.username, name
        self._old_msgpack = old_msgpack
        self._connection, self._replies, self._returned = None, {}, set()
        self._connect()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def call(self, operation, timeout=30.0, message_id=None, **arguments):
        """Sends a request and returns the result. timeout is in seconds. Two requests with one
        message_id are the same: the second one gets the reply of the first."""
        request = Request(operation, arguments, timeout, message_id, self._old_msgpack)
        while request.left() > 0:
            try:
                if self._connection is None:
                    self._connect()
                body = self._attempt(request)
            except ChannelClosedByBroker:  # the request is too large, or the login may not send it
                self._disconnect()
                raise
            except AMQPError:
                self._disconnect()
                pause = request.next_pause()
            else:
                if body is None:
                    continue  # it is sent again
                result, pause = request.result(body)
                if pause is None:
                    return result
            if pause is None:
                break
            time.sleep(pause)
        raise NoReply(operation)

    def _attempt(self, request):
        """Sends a request and returns the body of the reply, None if it is time to repeat it."""
        self._channel.basic_publish(
            "amq.topic", request.key, request.body, pika.BasicProperties(**request.properties(self._login, self._name)), mandatory=True)
        end = time.monotonic() + request.next_silence()
        while request.id not in self._replies and request.id not in self._returned and time.monotonic() < end:
            self._connection.process_data_events(time_limit=max(0, end - time.monotonic()))
        body, returned = self._replies.pop(request.id, None), request.id in self._returned
        self._replies.clear()  # late replies to earlier requests
        self._returned.clear()
        if body is None and returned:
            raise NoService(request.key)
        return body

    def _connect(self):
        connection = pika.BlockingConnection(self._parameters)
        self._channel = connection.channel()
        self._channel.add_on_return_callback(lambda c, method, properties, body: self._returned.add(properties.correlation_id))
        self._channel.basic_consume(
            "amq.rabbitmq.reply-to", lambda c, method, properties, body: self._replies.update({properties.correlation_id: body}), auto_ack=True)
        self._connection = connection

    def _disconnect(self):
        connection, self._connection = self._connection, None
        try:
            if connection is not None and connection.is_open:
                connection.close()
        except AMQPError:
            pass
