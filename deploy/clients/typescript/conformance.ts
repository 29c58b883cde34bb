// Makes the requests that the conformance suite asks for: reads a step from each line of standard
// input, and writes its outcome. The argument has the URLs of the brokers that steps name, as JSON.

import { createInterface } from "node:readline";
import { encode } from "@msgpack/msgpack";
import { Client, Closed, NoReply, NoService, Refused, Rejected } from "./client.js";

const urls = JSON.parse(process.argv[2]);
const clients = new Map<string, Client>();

// Strings in the form of msgpack before 2013: none has a length of 8 bits.
function encodeOld(v: any): Buffer {
  if (typeof v === "string" && Buffer.byteLength(v) >= 32) {
    const text = Buffer.from(v);
    const head = Buffer.from([0xda, 0, 0]);
    head.writeUInt16BE(text.length, 1);
    return Buffer.concat([head, text]);
  }
  if (Array.isArray(v)) return Buffer.concat([Buffer.from([0x90 | v.length]), ...v.map(encodeOld)]);
  if (v !== null && typeof v === "object") {
    const members = Object.entries(v);
    return Buffer.concat([Buffer.from([0x80 | members.length]), ...members.flatMap(([k, e]) => [encodeOld(k), encodeOld(e)])]);
  }
  return Buffer.from(encode(v, { useBigInt64: true }));
}

const encodings: Record<string, ((v: unknown) => Uint8Array) | undefined> = {
  old: encodeOld,
  floats: (v) => encode(v, { forceIntegerToFloat: true }),
};

// Integers beyond 2^53 are {"$int": text} in both directions.
const revive = (_: string, v: any) => (v?.$int !== undefined ? BigInt(v.$int) : v);
const replace = (_: string, v: any) => (typeof v === "bigint" ? { $int: v.toString() } : v);

async function outcome(step: any): Promise<object> {
  const encoding = step.encoding ?? "";
  const key = `${step.at} ${encoding}`;
  if (!clients.has(key)) {
    clients.set(key, new Client({ urls: [urls[step.at]], name: "conformance", encode: encodings[encoding] }));
  }
  const client = clients.get(key)!;
  if (step.closed) {
    clients.delete(key);
    await client.close();
  }
  try {
    const timeout = (step.timeout ?? 20) * 1000;
    const call = () => client.call(step.operation, step.arguments, { timeout, messageId: step.message_id });
    if (step.times === undefined) return { result: await call() };
    return { result: await Promise.all(Array.from({ length: step.times }, call)) };
  } catch (e) {
    if (e instanceof Refused) return { error: e.code };
    if (e instanceof Rejected) return { failure: "rejected" };
    if (e instanceof Closed) return { failure: "closed" };
    if (e instanceof NoService) return { failure: "no_service" };
    if (e instanceof NoReply) return { failure: "no_reply" };
    return { failure: String(e) };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await outcome(JSON.parse(line, revive)), replace));
}
await Promise.all([...clients.values()].map((c) => c.close()));
