"""Two processes, started as launchers start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time


def in_two_processes(*arguments: str) -> str:
    """Run Python with these arguments in two processes of one world.

    Returns:
        What both said on stderr.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with tempfile.TemporaryFile("w+") as said:
        team = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env={
                    **os.environ,
                    **world,
                    "OMP_NUM_THREADS": "1",
                    "RANK": rank,
                    "LOCAL_RANK": rank,
                },
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            for rank in ("0", "1")
        ]
        # One that fails would leave the other waiting for it.
        while any(one.poll() is None for one in team) and not any(one.returncode for one in team):
            time.sleep(0.1)
        for one in team:
            if one.poll() is None:
                one.kill()
            one.wait()
        said.seek(0)
        text = said.read()
    assert [one.returncode for one in team] == [0, 0], text
    return text
