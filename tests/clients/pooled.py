"""Python's aiohttp with a pool of connections. Arguments: the server's URL and the most connections."""

import asyncio
import sys

import aiohttp

from known import known

URL, CONNECTIONS = sys.argv[1], int(sys.argv[2])
REQUESTS = 200


async def get(session, count):
    async with session.get(f"{URL}/path/{count}", params={"q": count}) as answer:
        assert answer.status == 200, answer.status
        assert await answer.text() == f"/path/{count}?q={count}"


async def post(session, count):
    content = known(count * 500)
    async with session.post(f"{URL}/echo", data=content) as answer:
        assert (answer.status, answer.headers["x-framing"]) == (200, "length"), answer.status
        assert await answer.read() == content


async def stream(session, count):
    content = known(count * 1000)

    async def pieces():
        for at in range(0, len(content), 10_000):
            yield content[at : at + 10_000]
            # The other requests go on in the middle of this body.
            await asyncio.sleep(0)

    async with session.post(f"{URL}/echo", data=pieces()) as answer:
        assert (answer.status, answer.headers["x-framing"]) == (200, "chunked"), answer.status
        assert await answer.read() == content


async def main():
    pool = aiohttp.TCPConnector(limit=CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=25)
    async with aiohttp.ClientSession(connector=pool, timeout=timeout) as session:
        for kind in (get, post, stream):
            await asyncio.gather(*(kind(session, count) for count in range(REQUESTS)))
        # Each kind beside the others, over connections that were used before.
        mixed = (kind(session, count) for count in range(REQUESTS) for kind in (get, post, stream))
        await asyncio.gather(*mixed)


asyncio.run(main())
