// Node's fetch, which is undici. Argument: the server's URL.

import assert from "node:assert/strict";
import { known } from "./known.mjs";

const url = process.argv[2];
const REQUESTS = 200;

async function get(count) {
    const answer = await fetch(`${url}/path/${count}?q=${count}`);
    assert.equal(answer.status, 200);
    assert.equal(await answer.text(), `/path/${count}?q=${count}`);
}

async function getNothing() {
    const answer = await fetch(`${url}/nothing`);
    assert.equal(answer.status, 204);
    assert.equal(await answer.text(), "");
}

async function head(count) {
    const answer = await fetch(`${url}/path/${count}`, { method: "HEAD" });
    assert.equal(answer.headers.get("content-length"), String(`/path/${count}?`.length));
    assert.equal(await answer.text(), "");
}

async function post(count) {
    const body = known(count * 500);
    const answer = await fetch(`${url}/echo`, { method: "POST", body });
    assert.deepEqual([answer.status, answer.headers.get("x-framing")], [200, "length"]);
    assert.ok(body.equals(Buffer.from(await answer.arrayBuffer())), `${body.length} bytes`);
}

async function stream(count) {
    // Without any, fetch sends a length of 0.
    const content = known((count + 1) * 500);
    const body = new ReadableStream({
        start(controller) {
            for (let at = 0; at < content.length; at += 7001) {
                controller.enqueue(new Uint8Array(content.subarray(at, at + 7001)));
            }
            controller.close();
        },
    });
    const answer = await fetch(`${url}/echo`, { method: "POST", body, duplex: "half" });
    assert.deepEqual([answer.status, answer.headers.get("x-framing")], [200, "chunked"]);
    assert.ok(content.equals(Buffer.from(await answer.arrayBuffer())), `${content.length} bytes in pieces`);
}

const all = (kind) => Promise.all(Array.from({ length: REQUESTS }, (_, count) => kind(count)));

// Until one has been answered, a server takes no more at once than 32 for each worker.
await get(0);
for (const kind of [get, getNothing, head, post, stream]) {
    await all(kind);
}
await Promise.all([get, getNothing, head, post, stream].map(all));
