// Calls the identity service from TypeScript and JavaScript, with amqplib and @msgpack/msgpack.
//
//   const users = new Client({ urls: ["amqp://glotpod-api:password@rabbitmq/%2F"], name: "api" });
//   const user = await users.call("get", { email: "ada@example.org" });
//   try {
//     await users.call("patch", { user_id: user.id, ops: [{ op: "replace", path: "/name", value: "Ada L." }] });
//   } catch (e) {
//     if (!(e instanceof Refused) || e.code !== "conflict") throw e;
//   }
//   await users.close();
//
// cluster/PROTOCOL.md describes the operations, their arguments and results, and the errors. Any
// number of calls may share a Client. In results, integers beyond 2^53 are bigints; in arguments, both
// are accepted.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { decode, encode } from "@msgpack/msgpack";
import amqp from "amqplib";

/** An error reply. The code is one of those in cluster/PROTOCOL.md, such as "not_found". */
export class Refused extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly retryable: boolean,
    readonly retryAfter: number, // ms
  ) {
    super(message ? `${code}: ${message}` : code);
  }
}

/** No queue gets the request. It was not carried out. */
export class NoService extends Error {}

/** No reply came in time. A write may have been carried out, or may still be. */
export class NoReply extends Error {}

export interface Options {
  urls: string[]; // of the broker's nodes
  name?: string; // of the calling service
  encode?: (value: unknown) => Uint8Array; // another encoding of arguments
}

export interface CallOptions {
  timeout?: number; // ms
  messageId?: string; // two requests with one id are the same: the second one gets the first reply
}

const reads = new Set(["get", "get_many", "list", "changes"]);
const resendAfter = 5000; // ms without a reply until the request is sent again, then twice as long
const firstPause = 100; // ms before a request is tried again, then twice as long
const longestPause = 5000;
const maxUnderWay = 1024; // requests; further ones wait

type Waiting = { resolve: (body: Buffer) => void; reject: (cause: Error) => void };

class Interrupted extends Error {} // the connection is lost

export class Client {
  private connecting?: Promise<amqp.Channel>;
  private connection?: amqp.ChannelModel;
  private readonly waiting = new Map<string, Waiting>();
  private readonly queue: (() => void)[] = []; // of calls that wait for room
  private underWay = 0;

  constructor(private readonly options: Options) {}

  async close(): Promise<void> {
    await this.connecting?.catch(() => undefined);
    await this.connection?.close().catch(() => undefined);
  }

  /** Sends a request and returns the result. */
  async call(operation: string, args: Record<string, unknown>, { timeout = 30_000, messageId = randomUUID() }: CallOptions = {}): Promise<any> {
    const deadline = Date.now() + timeout;
    if (this.underWay >= maxUnderWay) {
      await new Promise<void>((go) => this.queue.push(go));
    } else {
      this.underWay++;
    }
    try {
      return await this.try(operation, (this.options.encode ?? encodeArguments)(args), messageId, deadline);
    } finally {
      const next = this.queue.shift();
      next ? next() : this.underWay--;
    }
  }

  private async try(operation: string, body: Uint8Array, id: string, deadline: number): Promise<any> {
    const jittered = (ms: number) => ms * (0.5 + Math.random() / 2);
    let pause = firstPause;
    for (let silence = resendAfter; Date.now() < deadline; ) {
      let wait = jittered(pause);
      try {
        const reply = await this.attempt(operation, body, id, deadline, Math.min(jittered(silence), deadline - Date.now()));
        if (reply === undefined) {
          silence *= 2;
          continue; // it is sent again
        }
        if ("result" in reply) return reply.result;
        const refusal = new Refused(reply.error, reply.message ?? "", reply.retryable ?? false, Number(reply.retry_after_ms ?? 0));
        wait = Math.max(wait, refusal.retryAfter);
        if (!refusal.retryable || Date.now() + wait >= deadline) throw refusal;
      } catch (e) {
        if (!(e instanceof Interrupted)) throw e;
        if (Date.now() + wait >= deadline) break;
      }
      await sleep(wait);
      pause = Math.min(2 * pause, longestPause);
    }
    throw new NoReply(operation);
  }

  /** Sends a request and returns the reply, undefined if none comes within some milliseconds. */
  private async attempt(operation: string, body: Uint8Array, id: string, deadline: number, within: number): Promise<any> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, within, undefined)));
    try {
      const channel = await Promise.race([this.channel(), late]);
      if (channel === undefined) return undefined;
      const replied = new Promise<Buffer>((resolve, reject) => this.waiting.set(id, { resolve, reject }));
      channel.publish("amq.topic", "rpc.user." + operation, Buffer.from(body), {
        mandatory: true, replyTo: "amq.rabbitmq.reply-to", correlationId: id, messageId: id, persistent: !reads.has(operation),
        expiration: Math.max(1, Math.floor(deadline - Date.now())), contentType: "application/msgpack",
        userId: decodeURIComponent(new URL(this.options.urls[0]).username) || undefined, appId: this.options.name,
      });
      const reply = await Promise.race([replied, late]);
      return reply === undefined ? undefined : withNumbers(decode(reply, { useBigInt64: true }));
    } finally {
      clearTimeout(timer);
      this.waiting.delete(id);
    }
  }

  private channel(): Promise<amqp.Channel> {
    this.connecting ??= this.connect().catch((e) => {
      this.connecting = undefined;
      throw new Interrupted(String(e));
    });
    return this.connecting;
  }

  private async connect(): Promise<amqp.Channel> {
    let failure: unknown;
    for (const url of this.options.urls) {
      try {
        const connection = await amqp.connect(url, { timeout: 8000 });
        this.connection = connection;
        const lost = () => {
          if (this.connection === connection) this.connecting = undefined;
          connection.close().catch(() => undefined);
          this.waiting.forEach((w) => w.reject(new Interrupted("the connection was lost")));
        };
        connection.on("error", () => undefined); // close follows
        connection.on("close", lost);
        const channel = await connection.createChannel();
        channel.on("error", () => undefined);
        channel.on("close", lost);
        channel.on("return", (m: amqp.Message) => this.waiting.get(m.properties.correlationId)?.reject(new NoService(m.fields.routingKey)));
        await channel.consume("amq.rabbitmq.reply-to", (m) => m && this.waiting.get(m.properties.correlationId)?.resolve(m.content), { noAck: true });
        return channel;
      } catch (e) {
        failure = e;
      }
    }
    throw failure;
  }
}

function encodeArguments(args: unknown): Uint8Array {
  return encode(args, { useBigInt64: true, ignoreUndefined: true });
}

/** Makes bigints numbers, where these are exact. */
function withNumbers(v: any): any {
  if (typeof v === "bigint") return v >= Number.MIN_SAFE_INTEGER && v <= Number.MAX_SAFE_INTEGER ? Number(v) : v;
  if (Array.isArray(v)) return v.map(withNumbers);
  if (v === null || typeof v !== "object") return v;
  return Object.fromEntries(Object.entries(v).map(([key, e]) => [key, withNumbers(e)]));
}
