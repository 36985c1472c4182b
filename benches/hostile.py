"""Callers that misbehave, at a bounded rate: what is measured is what they cost good callers, not how fast they are.

hostile.py PORT SECONDS RATE KIND, with KIND one of
  refusals  requests without a credential that is known, on connections that stay
  hang-ups  connections that send a deletion, whole or in part, and go
  heads     heads of 64 kB that never end
"""

import asyncio
import random
import sys
import time

port, seconds, rate, kind = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
AT_ONCE = 8


def request(token):
    group = random.randrange(10**12)
    return (
        f"DELETE /sess1/groups/{group}@g.us/picture HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


async def refusals(kept):
    reader, writer = kept or await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(f"obviously-wrong-{random.random()}"))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return reader, writer


async def hang_ups(_):
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    whole = request("obviously-wrong")
    writer.write(whole[: random.randrange(len(whole))])
    writer.close()


async def heads(_):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request("x")[:-4] + b"\r\nx: " + b"y" * 65536)
        await reader.read()
    finally:
        writer.close()


async def one_of_them(act, end):
    kept = None
    while (now := time.monotonic()) < end:
        try:
            kept = await act(kept)
        except (ConnectionError, asyncio.IncompleteReadError):
            kept = None
        await asyncio.sleep(max(0.0, AT_ONCE / rate - (time.monotonic() - now)))


async def main():
    act = {"refusals": refusals, "hang-ups": hang_ups, "heads": heads}[kind]
    await asyncio.gather(*(one_of_them(act, time.monotonic() + seconds) for _ in range(AT_ONCE)))


asyncio.run(main())
