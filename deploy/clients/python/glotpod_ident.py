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

call sends a request again under the same message_id until its deadline. To go on after that, also after
a restart of the caller, choose the message_id yourself and store it before the first call:

    message_id = str(uuid.uuid4())  # stored with the work to do
    while True:
        try:
            return users.call("delete", user_id=7, message_id=message_id)
        except (NoReply, NoService):
            time.sleep(10)  # the same message_id and the same arguments again

After a Refused with retryable, do the same. Any other Refused is final for its message_id: for 24 hours
the same request gets the same refusal. A new attempt needs a new message_id.
"""

import random
import time
import uuid

import msgpack
import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError, ChannelClosedByBroker

READS = ("get", "get_many", "list", "changes")
RESEND_AFTER = 5.0  # seconds without a reply until the request is sent again, then twice as long
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before a request is tried again
CONNECT_WITHIN = 8.0  # seconds, for each host
HEARTBEAT = 10  # seconds
MAX_REJECTIONS = 3  # how often the broker may close the channel of a request


class Refused(Exception):
    """An error reply. code is one of those in cluster/PROTOCOL.md, such as "not_found"."""

    def __init__(self, code, message="", retryable=False, retry_after_ms=0, **_):
        super().__init__(code + ": " + message if message else code)
        self.code, self.message, self.retryable = code, message, retryable
        self.retry_after = retry_after_ms / 1000  # seconds


class NoService(Exception):
    """No queue gets the request. It was not carried out."""


class NoReply(Exception):
    """No reply came in time. A write may have been carried out, or may still be. The cause is the
    last failure, such as that to connect or to log in."""


class Rejected(Exception):
    """The broker has closed the channel of the request several times. The cause tells why: the login may
    not send the request (403), or the request is larger than the broker accepts (406)."""


class Closed(Exception):
    """The client was closed. The request was not sent."""


class Request:
    """One request, while it is tried: its message, its deadline and its pauses."""

    def __init__(self, operation, arguments, timeout, message_id, old_msgpack):
        self.key = "rpc.user." + operation
        self.body = msgpack.packb(arguments, use_bin_type=not old_msgpack)
        self.id = message_id or str(uuid.uuid4())
        self.correlation_id = str(uuid.uuid4())  # another one for each call with the same message_id
        self.timeout, self.deadline = timeout, time.monotonic() + timeout
        self.delivery_mode = 1 if operation in READS else 2
        self.pause, self.silence = FIRST_PAUSE, RESEND_AFTER
        self.attempts = self.rejections = 0
        self.failure = None  # the last one

    def left(self):
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def properties(self, login, name):
        """The properties of another attempt."""
        self.attempts += 1
        return {
            "reply_to": "amq.rabbitmq.reply-to", "correlation_id": self.correlation_id, "message_id": self.id,
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
        """The result in a reply, or how long to wait before the request is tried again."""
        reply = msgpack.unpackb(body)
        if "result" in reply:
            return reply["result"], None
        refusal = Refused(reply.pop("error"), **reply)
        pause = self.next_pause(refusal.retry_after) if refusal.retryable else None
        if pause is None:
            raise refusal
        return None, pause

    def failed(self, failure, rejected):
        """How long to wait after a failed attempt. rejected: the broker has closed the channel."""
        self.failure = failure
        self.rejections += rejected
        if self.rejections == MAX_REJECTIONS:
            raise Rejected(f"{self.key}: {failure}") from failure
        pause = self.next_pause()
        if pause is None:
            raise self.no_reply()
        return pause

    def no_reply(self):
        text = f"{self.key}: no reply within {self.timeout:g} s"
        error = NoReply(f"{text}; the last failure: {self.failure!r}" if self.failure else text)
        error.__cause__ = self.failure
        return error

    def returned(self):
        """The error after the broker has returned an attempt: an earlier one may have been carried out."""
        if self.attempts > 1:
            return NoReply(f"{self.key}: no queue gets the request, and an earlier attempt has no reply")
        return NoService(self.key)


class Client:
    def __init__(self, *urls, name="", old_msgpack=False):
        """A client of the broker at the first of the URLs that allows it. It connects with the first
        request. name is that of the calling service. old_msgpack sends strings as raw."""
        self._parameters = [pika.URLParameters(url) for url in urls]
        for parameters in self._parameters:
            parameters.heartbeat = parameters.blocked_connection_timeout = HEARTBEAT
        self._login, self._name = self._parameters[0].credentials.username, name
        self._old_msgpack, self._closed = old_msgpack, False
        self._connection, self._replies, self._returned = None, {}, set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._closed = True
        self._disconnect()

    def call(self, operation, timeout=30.0, message_id=None, **arguments):
        """Sends a request and returns the result. timeout is in seconds; 0 sends nothing, and raises
        NoReply. Two requests with one message_id are the same: the second one gets the reply of the first.
        Raises Refused, NoService, NoReply, Rejected and Closed."""
        if self._closed:
            raise Closed(operation)
        request = Request(operation, arguments, timeout, message_id, self._old_msgpack)
        while request.left() > 0:
            try:
                if self._connection is None:
                    self._connect(request)
                body = self._attempt(request)
            except (AMQPError, AMQPConnectorException, OSError) as failure:
                self._disconnect()
                pause = request.failed(failure, isinstance(failure, ChannelClosedByBroker))
            else:
                if body is None:
                    continue  # it is sent again
                result, pause = request.result(body)
                if pause is None:
                    return result
            time.sleep(pause)
        raise request.no_reply()

    def _attempt(self, request):
        """Sends a request and returns the body of the reply, None if it is time to repeat it."""
        self._channel.basic_publish(
            "amq.topic", request.key, request.body, pika.BasicProperties(**request.properties(self._login, self._name)), mandatory=True)
        end, correlation_id = time.monotonic() + request.next_silence(), request.correlation_id
        while correlation_id not in self._replies and correlation_id not in self._returned and time.monotonic() < end:
            self._connection.process_data_events(time_limit=max(0, end - time.monotonic()))
            if self._channel.is_closed:  # pika tells the reason only by this attribute
                raise getattr(self._channel, "_closing_reason", None) or ChannelClosedByBroker(0, "the channel was closed")
        body, returned = self._replies.pop(correlation_id, None), correlation_id in self._returned
        self._replies.clear()  # late replies to earlier requests
        self._returned.clear()
        if body is None and returned:
            raise request.returned()
        return body

    def _connect(self, request):
        failure = None
        for n, parameters in enumerate(self._parameters):
            within = min(CONNECT_WITHIN, request.left() / (len(self._parameters) - n))
            parameters.socket_timeout = parameters.stack_timeout = max(0.001, within)
            try:
                self._connection = pika.BlockingConnection(parameters)
                break
            except (AMQPError, AMQPConnectorException, OSError) as e:
                failure = e
        else:
            raise failure
        self._channel = self._connection.channel()
        self._channel.add_on_return_callback(lambda c, method, properties, body: self._returned.add(properties.correlation_id))
        self._channel.basic_consume(
            "amq.rabbitmq.reply-to", lambda c, method, properties, body: self._replies.update({properties.correlation_id: body}), auto_ack=True)

    def _disconnect(self):
        connection, self._connection = self._connection, None
        try:
            if connection is not None and connection.is_open:
                connection.close()
        except AMQPError:
            pass
