"""Makes the requests that the conformance suite asks for: reads a step from each line of standard
input, and writes its outcome. The arguments are a library, pika or aioamqp, and the URLs of the
brokers that steps name, as JSON."""

import asyncio
import json
import sys
import urllib.parse

import glotpod_ident
import glotpod_ident_aio


def as_floats(v):
    if isinstance(v, dict):
        return {k: as_floats(e) for k, e in v.items()}
    if isinstance(v, list):
        return [as_floats(e) for e in v]
    return float(v) if isinstance(v, int) else v


FAILURES = {
    glotpod_ident.NoService: "no_service", glotpod_ident.NoReply: "no_reply", glotpod_ident.Rejected: "rejected",
    glotpod_ident.Closed: "closed",
}


class Pika:
    def __init__(self, url, old):
        self.client = glotpod_ident.Client(url, name="conformance", old_msgpack=old)
        self.close = self.client.close

    def call(self, times, *args, **arguments):
        return [self.client.call(*args, **arguments) for _ in range(times)]


class Aioamqp:
    loop = asyncio.new_event_loop()

    def __init__(self, url, old):
        u = urllib.parse.urlsplit(url)
        self.client = glotpod_ident_aio.Client(
            u.hostname, port=u.port, login=u.username, password=urllib.parse.unquote(u.password),
            virtualhost=urllib.parse.unquote(u.path[1:]), name="conformance", old_msgpack=old)

    def close(self):
        self.loop.run_until_complete(self.client.close())

    def call(self, times, *args, **arguments):
        async def calls():
            return await asyncio.gather(*(self.client.call(*args, **arguments) for _ in range(times)))
        return self.loop.run_until_complete(calls())


def outcome(client, step):
    arguments = as_floats(step["arguments"]) if step.get("encoding") == "floats" else step["arguments"]
    if step.get("closed"):
        client.close()
    times = step.get("times", 0)
    try:
        results = client.call(
            times or 1, step["operation"], timeout=step.get("timeout", 20), message_id=step.get("message_id"), **arguments)
        return {"result": results if times else results[0]}
    except glotpod_ident.Refused as refusal:
        return {"error": refusal.code}
    except tuple(FAILURES) as failure:
        return {"failure": FAILURES[type(failure)], "cause": repr(failure.__cause__)}


def main(library, urls):
    clients, connect = {}, {"pika": Pika, "aioamqp": Aioamqp}[library]
    for line in sys.stdin:
        step = json.loads(line)
        key = urls[step["at"]], step.get("encoding") == "old"
        if key not in clients:
            clients[key] = connect(*key)
        print(json.dumps(outcome(clients[key], step)), flush=True)
        if step.get("closed"):
            del clients[key]


main(sys.argv[1], json.loads(sys.argv[2]))
