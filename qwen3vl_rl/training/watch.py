"""Ends a run when a process of the rollouts has died.

verl 0.9.1 does not always notice: if an engine dies while it receives weights, the actor waits for it forever; if an
agent loop dies, the trainer waits for its answers.
"""

import os
import sys
import threading
import time

import ray

from qwen3vl_rl.errors import FATAL

INTERVAL_S = 5.0
FORWARD_S = 3.0  # Ray needs a moment to forward a worker's output to the log
# Prefixes of Ray's names of verl's rollout engines, and of the workers that query them and score the answers.
WATCHED = ("vllm_server_", "sglang_server_", "agent_loop_worker_", "reward_loop_worker_")


def end_when_one_dies() -> None:
    """Watch the rollout processes from this Ray worker; once one has died, name it and exit with code 1.

    The worker is ended with `os._exit`, since a Ray worker that waits for another one handles no exception or signal.
    """
    threading.Thread(target=_watch, daemon=True, name="rollout watch").start()


def _watch() -> None:
    known: set[str] = set()
    while True:
        try:
            alive = {name for name in ray.util.list_named_actors() if name.startswith(WATCHED)}
        except Exception as error:  # Ray did not answer; keep the thread alive and ask again
            print(f"rollout watch: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            alive = known
        if lost := known - alive:
            print(f"{FATAL} {', '.join(sorted(lost))} has died", file=sys.stderr, flush=True)
            time.sleep(FORWARD_S)
            os._exit(1)
        known = alive
        time.sleep(INTERVAL_S)
