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


def outcome(call, step):
    arguments = as_floats(step["arguments"]) if step.get("encoding") == "floats" else step["arguments"]
    try:
        return {"result": call(step["operation"], timeout=step.get("timeout", 20), message_id=step.get("message_id"), **arguments)}
    except glotpod_ident.Refused as refusal:
        return {"error": refusal.code}
    except glotpod_ident.NoService:
        return {"failure": "no_service"}
    except glotpod_ident.NoReply:
        return {"failure": "no_reply"}


def main(library, urls):
    loop, clients = asyncio.new_event_loop(), {}

    def connect(url, old):
        if library == "pika":
            return glotpod_ident.Client(url, name="conformance", old_msgpack=old).call
        u = urllib.parse.urlsplit(url)
        client = glotpod_ident_aio.Client(
            u.hostname, port=u.port, login=u.username, password=urllib.parse.unquote(u.password),
            virtualhost=urllib.parse.unquote(u.path[1:]), name="conformance", old_msgpack=old)
        return lambda *args, **arguments: loop.run_until_complete(client.call(*args, **arguments))

    for line in sys.stdin:
        step = json.loads(line)
        key = urls[step["at"]], step.get("encoding") == "old"
        if key not in clients:
            clients[key] = connect(*key)
        print(json.dumps(outcome(clients[key], step)), flush=True)


main(sys.argv[1], json.loads(sys.argv[2]))
