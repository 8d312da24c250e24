"""Other programs that ours are compared with, each in an interpreter of its own that the environment names."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Program:
    """A running `reference_program.py`.

    Attributes:
        prepared_s: seconds that its preparation took.
    """

    process: "subprocess.Popen[str]"
    prepared_s: float

    def run(self) -> tuple[float, float]:
        """One round: seconds of processor time, and the figure that the program reports, zero if none.

        Raises:
            RuntimeError: it ended; its own message is on stderr.
        """
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds, figure = answer(self.process)
        return seconds, figure

    def seconds(self) -> float:
        """Processor time of one round."""
        return self.run()[0]


def answer(process: "subprocess.Popen[str]") -> list[float]:
    """The next line as JSON; raises RuntimeError."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the reference program ended early; its own message is on stderr")
    values: list[float] = json.loads(line)
    return values


@dataclass(frozen=True)
class Reference:
    """Another program.

    Attributes:
        variable: environment variable that names its interpreter.
        module: that the interpreter must be able to import.
    """

    variable: str
    module: str

    def lacking(self) -> str | None:
        """Why it cannot be run, in words; None where it can."""
        python = os.environ.get(self.variable)
        if not python:
            return f"{self.variable} is not set: it names a Python with {self.module}"
        try:
            found = subprocess.run([python, "-c", f"import {self.module}"], capture_output=True, timeout=300)
        except OSError as error:
            return f"{self.variable}={python}: {error.strerror}"
        return f"{self.variable}={python} cannot import {self.module}" if found.returncode else None

    @contextmanager
    def running(self, *arguments: object) -> Iterator[Program | None]:
        """`reference_program.py` with these arguments, on one thread; None where the program is not installed."""
        if self.lacking() is not None:
            yield None
            return
        command = [os.environ[self.variable], str(Path(__file__).with_name("reference_program.py"))]
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with subprocess.Popen(
            [*command, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process:
            try:
                yield Program(process, answer(process)[0])
            finally:
                process.kill()


LIBERTEM = Reference("STEMTWIN_REFERENCE_PYTHON", "libertem.api")
PTYCHOGRAPHY40 = Reference("STEMTWIN_REFERENCE_PYTHON", "ptychography40.reconstruction.ssb")
PY4DSTEM = Reference("STEMTWIN_REFERENCE_PYTHON_4D", "py4DSTEM")
