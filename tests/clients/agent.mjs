// Node's http.Agent with keepAlive. Arguments: the server's URL and the most sockets. Prints how many sockets were used.

import assert from "node:assert/strict";
import http from "node:http";
import { known } from "./known.mjs";

const [url, maxSockets] = [process.argv[2], Number(process.argv[3])];
const agent = new http.Agent({ keepAlive: true, maxSockets });
const REQUESTS = 500;
const ports = new Set();

// Without a length Node sends the pieces as chunks.
function ask(method, path, headers, pieces) {
    return new Promise((resolve, reject) => {
        const request = http.request(`${url}${path}`, { agent, method, headers }, (answer) => {
            ports.add(answer.socket.localPort);
            const body = [];
            answer.on("data", (piece) => body.push(piece));
            answer.on("error", reject);
            answer.on("end", () => resolve([answer.statusCode, answer.headers, Buffer.concat(body)]));
        });
        request.on("error", reject);
        pieces.forEach((piece) => request.write(piece));
        request.end();
    });
}

async function one(count) {
    const content = known(count * 100);
    switch (count % 4) {
        case 0: {
            const [status, , body] = await ask("GET", `/path/${count}`, {}, []);
            assert.deepEqual([status, body.toString()], [200, `/path/${count}?`]);
            break;
        }
        case 1: {
            const [status, headers, body] = await ask("HEAD", `/path/${count}`, {}, []);
            assert.deepEqual([status, body.length], [200, 0]);
            assert.equal(headers["content-length"], String(`/path/${count}?`.length));
            break;
        }
        case 2: {
            const sent = { "Content-Length": content.length };
            const [status, headers, body] = await ask("POST", "/echo", sent, [content]);
            assert.deepEqual([status, headers["x-framing"]], [200, "length"]);
            assert.ok(body.equals(content));
            break;
        }
        case 3: {
            const half = content.length / 2;
            const pieces = [content.subarray(0, half), content.subarray(half)];
            const [status, headers, body] = await ask("POST", "/echo", {}, pieces);
            assert.deepEqual([status, headers["x-framing"]], [200, "chunked"]);
            assert.ok(body.equals(content));
            break;
        }
    }
}

await Promise.all(Array.from({ length: REQUESTS }, (_, count) => one(count)));
agent.destroy();
console.log(ports.size);
