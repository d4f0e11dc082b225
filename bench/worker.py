"""Processes of their own, which time what they are asked to: one JSON object per line.

{"do": "prepare", ...}                      make what is timed; tell of it
{"do": "time", "run": name, "repeats": n}   call it once, then time n more: seconds per call
{"do": "drop"}                              forget it
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import allocator
from bench.timing import Run

#: Makes what is timed, by name, and an answer to the command.
Prepare = Callable[[dict[str, Any]], tuple[Mapping[str, Run], dict[str, Any]]]
# After a step, OpenMP's threads look out for another one for some milliseconds, and would
# disturb the next process.
REST = 0.01
# `bench` is found by its place, from any folder and without the zdlfast that lies beside it: the
# one that is timed is the one that is installed.
START = f"""import sys, types
sys.modules["bench"] = types.ModuleType("bench")
sys.modules["bench"].__path__ = [{str(Path(__file__).parent)!r}]
from importlib import import_module
import_module(sys.argv[1]).serve(*sys.argv[2:])"""


def serve(prepare: Prepare, threads: int) -> None:
    """Obey commands until there are no more, on so many CPUs: the same in every worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    if hasattr(os, "sched_setaffinity"):
        # The one limit that every library heeds.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    allocator.keep_memory()
    # Whatever libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    runs: Mapping[str, Run] = {}
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if command["do"] == "prepare":
                runs = {}  # frees its memory first
                runs, answer = prepare(command)
            elif command["do"] == "time":
                run = runs[command["run"]]
                run.before()
                run.call()
                answer["seconds"] = run.seconds(command["repeats"])
            else:
                runs = {}
                allocator.give_back()
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0]
            answer["error"] = f"{type(error).__name__}: {first_line}"
            answer["missing"] = isinstance(error, ModuleNotFoundError)
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """A process that serves (a module's function `serve`, which calls the one above).

    What it has to say beside its answers is shown if it is not `quiet`.
    """

    def __init__(
        self, python: str, module: str, *args: str, env: Mapping[str, str], quiet: bool = False
    ) -> None:
        self._process = subprocess.Popen(
            [python, "-P", "-c", START, module, *args],
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Give a command and wait for the answer, which has an ``error`` if it failed."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            return {"error": f"its process ended with status {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class WorkerRun:
    """What a worker has prepared under a name, to be timed like any `Run`."""

    worker: Worker
    name: str
    rest: float = 0.0  # seconds to wait until the others' threads sleep

    def seconds(self, repeats: int) -> float:
        """Seconds per call."""
        time.sleep(self.rest)
        answer = self.worker.ask(do="time", run=self.name, repeats=repeats)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        seconds: float = answer["seconds"]
        return seconds
