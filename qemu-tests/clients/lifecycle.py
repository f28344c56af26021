"""Drives a guest through its life with the Python package qemu.qmp, and prints what it saw.

Usage: lifecycle.py SOCKET FILE. The output holds nothing that differs between two emulators.
"""

import asyncio
import sys

from qemu.qmp import EventListener, QMPClient
from qemu.qmp.qmp_client import ExecuteError


async def events_of(listener: EventListener, count: int) -> None:
    """Prints the next `count` events."""
    for _ in range(count):
        event = await asyncio.wait_for(listener.get(), 10)
        assert event["timestamp"]["seconds"] > 0
        print("event", event["event"], sorted(event.get("data", {}).items()))


async def main(socket: str, file: str) -> None:
    """Connects, and runs every step."""
    client = QMPClient("lifecycle")
    for _ in range(1000):
        try:
            await client.connect(socket)
            break
        except Exception:  # the socket is not there yet
            await asyncio.sleep(0.01)
    listener = EventListener()
    client.register_listener(listener)
    status = await client.execute("query-status")
    print("status", status["status"], status["running"])
    print("stop", await client.execute("stop"))
    await events_of(listener, 1)
    status = await client.execute("query-status")
    print("status", status["status"], status["running"])
    print("cont", await client.execute("cont"))
    await events_of(listener, 1)
    print("reset", await client.execute("system_reset"))
    await events_of(listener, 1)
    arguments = {"val": 0xFFFF0, "size": 16, "filename": file}
    print("pmemsave", await client.execute("pmemsave", arguments))
    with open(file, "rb") as saved:
        print("memory", saved.read().hex())
    try:
        await client.execute("no-such-command")
    except ExecuteError as error:
        print("error", error.error_class, error)
    replies = await asyncio.gather(*(client.execute("query-status") for _ in range(50)))
    print("replies", len(replies), all(reply["running"] for reply in replies))
    print("quit", await client.execute("quit"))
    await events_of(listener, 1)
    try:
        await client.disconnect()
    except EOFError:  # the emulator was faster
        pass


asyncio.run(main(sys.argv[1], sys.argv[2]))
