// Calls the identity service from TypeScript and JavaScript, with amqplib and @msgpack/msgpack. To compile it,
// @types/node and the options of tsconfig.json beside it are needed too.
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
//
// call sends a request again under the same message id until its deadline. To go on after that, also
// after a restart of the caller, choose the message id yourself, and store it before the first call:
//
//   for (;;) {
//     try {
//       return await users.call("delete", { user_id: 7 }, { messageId: stored });
//     } catch (e) {
//       if (!(e instanceof NoReply || e instanceof NoService || (e instanceof Refused && e.retryable))) throw e;
//       await sleep(10_000); // then the same message id and the same arguments again
//     }
//   }
//
// Any other Refused is final for its message id: for 24 hours the same request gets the same refusal. A
// new attempt needs a new message id.

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

/**
 * No reply came in time. A write may have been carried out, or may still be. The cause is the last failure,
 * such as that to connect or to log in.
 */
export class NoReply extends Error {}

/**
 * The broker has closed the channel of the request several times. The cause tells why: the login may not send
 * the request (403), or the request is larger than the broker accepts (406).
 */
export class Rejected extends Error {}

/** The client was closed. The request was not sent. */
export class Closed extends Error {}

export interface Options {
  urls: string[]; // of the broker's nodes
  name?: string; // of the calling service
  encode?: (value: unknown) => Uint8Array; // another encoding of arguments
}

export interface CallOptions {
  timeout?: number; // ms; 0 sends nothing, and rejects with NoReply
  messageId?: string; // two requests with one id are the same: the second one gets the first reply
}

const reads = new Set(["get", "get_many", "list", "changes"]);
const resendAfter = 5000; // ms without a reply until the request is sent again, then twice as long
const firstPause = 100; // ms before a request is tried again, then twice as long
const longestPause = 5000;
const maxUnderWay = 1024; // requests; further ones wait
const maxRejections = 3; // how often the broker may close the channel of a request
const connectWithin = 8000; // ms, for each URL
const heartbeat = 10; // seconds
const connectionForced = 320; // the broker stops

type Waiting = { resolve: (body: Buffer | "returned") => void; reject: (cause: Error) => void };

/** The connection is lost, or the broker has closed the channel. */
class Interrupted extends Error {
  constructor(cause: any, readonly rejected = false) {
    super(String(cause?.message ?? cause), { cause });
  }
}

/** A request, while it is tried. */
interface Request {
  operation: string;
  body: Buffer;
  messageId: string;
  deadline: number; // as performance.now tells the time
  attempts: number;
}

export class Client {
  private connecting?: Promise<amqp.Channel>;
  private connection?: amqp.ChannelModel;
  private closed = false;
  private readonly waiting = new Map<string, Waiting>(); // by correlation id
  private readonly queue = new Set<() => void>(); // of calls that wait for room
  private underWay = 0;

  constructor(private readonly options: Options) {}

  /** Closes the connection. Calls that are under way reject with NoReply. */
  async close(): Promise<void> {
    this.closed = true;
    this.interrupt(new Interrupted("the client was closed"));
    await this.connecting?.catch(() => undefined);
    await this.connection?.close().catch(() => undefined);
  }

  /** Sends a request and returns the result. Rejects with Refused, NoService, NoReply, Rejected or Closed. */
  async call(operation: string, args: Record<string, unknown>, { timeout = 30_000, messageId = randomUUID() }: CallOptions = {}): Promise<any> {
    if (this.closed) throw new Closed(operation);
    const body = Buffer.from((this.options.encode ?? encodeArguments)(args));
    const request = { operation, body, messageId, deadline: performance.now() + timeout, attempts: 0 };
    await this.acquire(request);
    try {
      return await this.try(request);
    } finally {
      const [next] = this.queue;
      if (next) {
        this.queue.delete(next);
        next();
      } else {
        this.underWay--;
      }
    }
  }

  /** Waits for room until the deadline. */
  private async acquire(r: Request): Promise<void> {
    if (this.underWay < maxUnderWay) {
      this.underWay++;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const go = () => {
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => {
        this.queue.delete(go);
        reject(new NoReply(`${r.operation}: too many requests are under way`));
      }, r.deadline - performance.now());
      this.queue.add(go);
    });
  }

  private async try(r: Request): Promise<any> {
    const jittered = (ms: number) => ms * (0.5 + Math.random() / 2);
    let pause = firstPause;
    let rejections = 0;
    let failure: Interrupted | undefined; // the last one
    const left = () => r.deadline - performance.now();
    for (let silence = resendAfter; left() > 0; ) {
      let wait = jittered(pause);
      try {
        const reply = await this.attempt(r, Math.min(jittered(silence), left()));
        if (reply === undefined) {
          silence *= 2;
          continue; // it is sent again
        }
        if ("result" in reply) return reply.result;
        const refusal = new Refused(reply.error, reply.message ?? "", reply.retryable ?? false, Number(reply.retry_after_ms ?? 0));
        wait = Math.max(wait, refusal.retryAfter);
        if (!refusal.retryable || wait >= left()) throw refusal;
      } catch (e) {
        if (!(e instanceof Interrupted)) throw e;
        failure = e;
        if (e.rejected && ++rejections === maxRejections) throw new Rejected(`${r.operation}: ${e.message}`, { cause: e.cause });
        if (this.closed || wait >= left()) break;
      }
      await sleep(wait);
      pause = Math.min(2 * pause, longestPause);
    }
    throw new NoReply(failure ? `${r.operation}: the last failure: ${failure.message}` : r.operation, { cause: failure?.cause });
  }

  /** Sends a request and returns the reply, undefined if none comes within some milliseconds. */
  private async attempt(r: Request, within: number): Promise<any> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, within, undefined)));
    const id = randomUUID(); // another one for each attempt, also of calls with one message id
    try {
      const channel = await Promise.race([this.channel(), late]);
      if (channel === undefined) return undefined;
      const replied = new Promise<Buffer | "returned">((resolve, reject) => this.waiting.set(id, { resolve, reject }));
      r.attempts++;
      this.publish(channel, r, id);
      const reply = await Promise.race([replied, late]);
      if (reply === "returned") {
        // An earlier attempt may have been carried out.
        if (r.attempts > 1) throw new NoReply(`${r.operation}: no queue gets the request, and an earlier attempt has no reply`);
        throw new NoService(r.operation);
      }
      return reply === undefined ? undefined : withNumbers(decode(reply, { useBigInt64: true }));
    } finally {
      clearTimeout(timer);
      this.waiting.delete(id);
    }
  }

  private publish(channel: amqp.Channel, r: Request, id: string): void {
    try {
      channel.publish("amq.topic", "rpc.user." + r.operation, r.body, {
        mandatory: true, replyTo: "amq.rabbitmq.reply-to", correlationId: id, messageId: r.messageId, persistent: !reads.has(r.operation),
        expiration: Math.max(1, Math.floor(r.deadline - performance.now())), contentType: "application/msgpack",
        userId: decodeURIComponent(new URL(this.options.urls[0]).username) || undefined, appId: this.options.name,
      });
    } catch (e) {
      throw new Interrupted(e); // the channel is closed
    }
  }

  private channel(): Promise<amqp.Channel> {
    if (this.closed) return Promise.reject(new Interrupted("the client was closed"));
    this.connecting ??= this.connect().catch((e) => {
      this.connecting = undefined;
      throw new Interrupted(e);
    });
    return this.connecting;
  }

  /** Has all requests under way tried again. */
  private interrupt(cause: Interrupted): void {
    this.waiting.forEach((w) => w.reject(cause));
  }

  private async connect(): Promise<amqp.Channel> {
    let failure: unknown;
    for (const url of this.options.urls) {
      try {
        return await this.open(await amqp.connect(withHeartbeat(url), { timeout: connectWithin }));
      } catch (e) {
        failure = e;
      }
    }
    throw failure;
  }

  private async open(connection: amqp.ChannelModel): Promise<amqp.Channel> {
    this.connection = connection;
    let cause: any = "the connection was lost";
    let rejected = false;
    const lost = () => {
      if (this.connection === connection) this.connecting = undefined;
      connection.close().catch(() => undefined);
      this.interrupt(new Interrupted(cause, rejected));
    };
    connection.on("error", (e) => (cause = e)); // close follows
    connection.on("close", lost);
    const channel = await connection.createChannel();
    channel.on("error", (e: any) => {
      cause = e;
      rejected = e.code !== undefined && e.code !== connectionForced;
    });
    channel.on("close", lost);
    const settle = (id: string, body: Buffer | "returned") => this.waiting.get(id)?.resolve(body);
    channel.on("return", (m: amqp.Message) => settle(m.properties.correlationId, "returned"));
    await channel.consume("amq.rabbitmq.reply-to", (m) => m && settle(m.properties.correlationId, m.content), { noAck: true });
    return channel;
  }
}

function withHeartbeat(url: string): string {
  const u = new URL(url);
  if (!u.searchParams.has("heartbeat")) u.searchParams.set("heartbeat", String(heartbeat));
  return u.toString();
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
