"""A server whose behaviour is known: known.py PORT TLS_PORT CERTIFICATE KEY.

The path says what it does. On the second port every connection waits for 200 ms before the TLS handshake.
"""

import asyncio
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from collections import Counter

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
asked = Counter()
stall_until = {}
turn = asyncio.Lock()


def every(path, number):
    """Whether this is one of every NUMBER requests for the path."""
    return asked[path] % number == 0


async def answer(path):
    """The bytes to answer with, and whether the connection then ends: by a FIN, by a reset, or not."""
    asked[path] += 1
    if path == "/constant":
        await asyncio.sleep(0.020)
    elif path == "/slow":
        await asyncio.sleep(0.600)
    elif path == "/behind":
        async with turn:
            await asyncio.sleep(0.005)
    elif path == "/stall":
        # The server stands still from the 4th to the 6th second after its first request.
        now = asyncio.get_running_loop().time()
        begin = stall_until.setdefault(path, now) + 4
        if begin <= now < begin + 2:
            await asyncio.sleep(begin + 2 - now)
    elif path == "/errors" and every(path, 20):
        return OK.replace(b"200 OK", b"500 Oh"), None
    elif path == "/refusals" and every(path, 4):
        return OK.replace(b"200 OK", b"503 No"), None
    elif path == "/resets" and every(path, 20):
        return b"", "reset"
    elif path == "/cuts" and every(path, 20):
        return OK.replace(b": 2", b": 9"), "end"
    elif path == "/silence":
        await asyncio.sleep(3600)
    elif path == "/forget":
        asked.clear()
        stall_until.clear()
    return OK, None


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            # ab asks in HTTP/1.0, and needs to hear that the connection stays.
            old = b"HTTP/1.0\r\n" in head
            reply, end = await answer(head.split(b" ", 2)[1].decode())
            if old:
                reply = reply.replace(b"\r\n", b"\r\nConnection: keep-alive\r\n", 1)
            writer.write(reply)
            await writer.drain()
            if end == "reset":
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            if end:
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


class SlowHandshake(socketserver.StreamRequestHandler):
    """A connection that waits before its handshake, on a thread of its own."""

    context = None

    def setup(self):
        time.sleep(0.200)
        self.request = self.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self):
        while line := self.rfile.readline():
            if line == b"\r\n":
                self.wfile.write(OK)


class Encrypted(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1000

    def handle_error(self, request, client_address):
        """A client that leaves is no error."""


async def main(port, tls_port, certificate, key):
    SlowHandshake.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    SlowHandshake.context.load_cert_chain(certificate, key)
    encrypted = Encrypted(("127.0.0.1", tls_port), SlowHandshake)
    threading.Thread(target=encrypted.serve_forever, daemon=True).start()
    await asyncio.start_server(serve, "127.0.0.1", port, backlog=1000)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
