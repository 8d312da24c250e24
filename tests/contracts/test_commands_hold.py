"""Every command ends in a sentence when the computer gives out, and in its own way when told twice.

Which commands there are is asked of the command line itself: one that is not walked here is a failure.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from scenarios import cli
from scenarios.commands.groups.train import trainings
from twin.formats import Layout, Metadata, create

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    pytest.mark.usefixtures("undrawn"),
]

TINY = """
optics: {convergence_mrad: 14, sampling_nm: 0.05, grid: 256, camera_pixels: 64, binning: 4}
renderer: fast
space: {start_nm: [12, 6, 6], input_nm: [12, 6, 6]}
day: {focal_spread_nm: 0, source_size_nm: 0}
task: {observations: 3}
scan:
  specimen: sto_001
  specimen_options: {width_nm: 1.5, height_nm: 1.5, thickness_nm: 0.39}
  optics: {grid: 80, sampling_nm: 0.02, camera_pixels: 16, binning: 3}
  plan: {rows: 8, columns: 7, step_nm: 0.05, dose_e: 5000, dwell_s: 1.0e-4}
"""
COMMANDS = {
    "calibrate": "calibrate tiny.yaml --controller random --out OUT",
    "record": "calibrate tiny.yaml --controller random --out OUT --record OUT.zarr",
    "acquire": "acquire tiny.yaml --out OUT.zarr",
    "acquire-mib": "acquire tiny.yaml --out OUT.mib",
    "scan": "scan tiny.yaml --agents com --out OUT",
    "keep": "scan tiny.yaml --agents com --out OUT --keep OUT.hspy",
    "stream": "stream frames.zarr --agents com --out OUT",
    "compare": "compare tiny.yaml --controllers random --runs 2 --workers 1 --out OUT",
    "folder": "record images --scenario tiny.yaml --out OUT.zarr",
    "gallery": "gallery --only histogram --out OUT.html",
    "play": "gallery --play --out OUT.html",
    "quantify": "quantify lattice.npy --scan perfect --width shared --count none --out OUT",
    "unwarp": "unwarp frames.zarr --shifts shifts.npy --out OUT.zarr",
    "adapt": "adapt lattice.npy --step-nm 0.05 --out OUT",
    "paper": "figures paper --only 1 --out OUT",
    "restoration": "figures restoration --only 7 --out OUT",
    **{f"train-{name}": f"--quiet train {name} --work OUT --frames OUT-frames" for name in trainings()},
}
"""Commands that write."""
LONG = [name for name in COMMANDS if name.startswith("train-")]
"""Commands that go on for minutes where nothing stops them; without progress bars here."""
SHORT = [name for name in COMMANDS if name not in LONG]
SERVERS = {"serve": "serve tiny.yaml --free-ports", "live": "live tiny.yaml --no-browser --out OUT"}
"""Commands that go on until they are told to end, and write nothing before somebody asks them to."""
PRINTED = {
    "show": "show tiny.yaml",
    "report": "report --environment",
    **{f"list-{name}": f"list {name}" for name in ("scenarios", "controllers", "agents", "microscopes", "specimens")},
    "list-trainings": "list trainings",
    "list-environments": "list environments",
}
"""Commands that only print."""
LINES = COMMANDS | SERVERS | PRINTED
_INT, _TERM, _HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
TWICE = dict(zip([*COMMANDS, *SERVERS], [(_INT, _INT), (_TERM, _TERM), (_HUP, _TERM), (_INT, _TERM)] * 9, strict=False))
BLOCKED = "blocked/folder"
"""Below a file: nothing can be created there, not even by root."""


def every_command(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command below one, as the command line has them."""
    if not hasattr(command, "list_commands"):
        yield path
        return
    context = typer.Context(command)
    for name in command.list_commands(context):
        yield from every_command(command.get_command(context, name), (*path, name))


def test_every_command_is_walked_here() -> None:
    known = set(every_command(typer.main.get_command(cli.app)))
    assert ("train", "vae") in known
    words = [line.removeprefix("--quiet ").split() for line in LINES.values()]
    assert {tuple(line[:count]) for line in words for count in (1, 2)} & known == known


class Ended:
    """A command that has ended: exit code (negative: killed), what it printed, and the last line on stderr."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr
        lines = [line for line in stderr.replace("\r", "\n").splitlines() if line.strip()]
        self.last = lines[-1] if lines else ""

    def check_refusal(self, *words: str) -> None:
        """Assert that it ended with one sentence and code 1 or 2."""
        assert self.code in (1, 2), (self.code, self.stderr)
        assert "Traceback" not in self.stderr, self.stderr
        assert self.last.startswith("stemtwin: "), self.stderr
        assert not words or any(word in self.last for word in words), self.last


Run = Callable[..., Ended]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that work for minutes have their results at once; a figure is a picture that fills a small disc."""
    from agents.defects.conditions import RANDOM, Conditions
    from agents.defects.day import EstimatedDay
    from scenarios.figures import pictures
    from scenarios.figures.restoration import FIGURES

    monkeypatch.setattr("agents.defects.day.estimated", lambda *_: EstimatedDay(Conditions(), {}, RANDOM))
    monkeypatch.setattr("agents.defects.adaptation.adapted", lambda before, *_: before)
    monkeypatch.setattr("scenarios.figures.restoration.FIGURES", (FIGURES[0]._replace(make=lambda _: b""),))
    monkeypatch.setattr(pictures, "small", lambda png: bytes(1000))


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What a command imports, once: the forked ones start with it."""
    import matplotlib.pyplot
    import numba
    import torch

    import twin.formats.hspy  # noqa: F401

    torch.set_num_threads(1)
    assert matplotlib.pyplot
    assert numba


@pytest.fixture
def command(tmp_path: Path) -> Run:
    """Run a command of the table in a process of its own."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "blocked").write_text("a file")
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "1.npy", np.random.default_rng(1).poisson(50, (64, 64)).astype(np.uint16))
    near = np.hypot(*(abs((np.mgrid[:48, :48] + 6) % 12 - 6)))
    np.save(tmp_path / "lattice.npy", np.random.default_rng(2).poisson(20 + 400 * np.exp(-(near**2) / 18)))
    np.save(tmp_path / "shifts.npy", np.zeros((2, 6)))
    with create(tmp_path / "frames.zarr", Layout((6, 5), (8, 8)), Metadata(pixel_mrad=2.0, step_nm=0.1)) as writer:
        writer.append(np.random.default_rng(0).poisson(9, (30, 8, 8)).astype(np.uint16))

    def run(
        name: str,
        prepare: Callable[[], None] = lambda: None,
        out: str = "out",
        meanwhile: Callable[[int], None] | None = None,
    ) -> Ended:
        words = ["stemtwin", *LINES[name].replace("OUT", out).split()]
        process = os.fork()
        if process == 0:
            _command(tmp_path, words, prepare)
        if meanwhile is not None:
            meanwhile(process)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return Ended(code, *((tmp_path / stream).read_text() for stream in ("stdout", "stderr")))

    return run


def _command(folder: Path, words: list[str], prepare: Callable[[], None]) -> None:
    """Be the command; never returns."""
    code = 70
    try:
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = words
        os.environ["XDG_CONFIG_HOME"] = str(folder)
        prepare()
        cli.main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except BaseException as error:
        code = 71
        os.write(2, type(error).__name__.encode())  # should there be too little memory for more
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def small_files() -> None:
    """Let no file grow beyond 400 bytes, as on a full disc."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))


def full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def closed_output() -> None:
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def no_output() -> None:
    os.close(1)
    sys.stdout = None  # type: ignore[assignment]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disc(command: Run, name: str) -> None:
    command(name, small_files).check_refusal("File too large", "could not be written")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_written(command: Run, name: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    command(name, out=BLOCKED).check_refusal(
        "Not a directory", "is not a directory", "has to be a directory", "File exists"
    )
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name not in ("stdout", "stderr")] == before


def read_only() -> None:
    """Take away the right to write in the working folder; the superuser's right to do so all the same, too."""
    os.chmod(".", 0o555)
    if os.geteuid() == 0:
        header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, sets) == 0
        sets[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        assert libc.capset(header, sets) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_can_only_be_read(command: Run, name: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    try:
        command(name, read_only).check_refusal("Permission denied", "cannot be written")
    finally:
        tmp_path.chmod(0o755)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name not in ("stdout", "stderr")] == before


def little_memory(mebibytes: int) -> None:
    """Let the process grow by this much and no more, as `ulimit -v` does."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + mebibytes * 2**20,) * 2)


def ended_soon(process: int) -> None:
    """Let a command work for a while, and end it."""
    time.sleep(0.3)
    os.kill(process, _INT)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("name", [name for name in LINES if name not in LONG])
def test_a_limit_of_memory(command: Run, name: str) -> None:
    """It ends well, or in one sentence: never by a signal, never with a traceback."""

    def prepare() -> None:
        _usual_signals()
        little_memory(256)  # with much less, C++ libraries abort

    ended = command(name, prepare, meanwhile=ended_soon if name in SERVERS else None)
    if ended.code not in (0, 130):
        ended.check_refusal("memory", "thread", "could not be")
    assert "Traceback" not in ended.stderr


def few_handles() -> None:
    """Let the process open four more files at a time."""
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4,) * 2)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("name", ["calibrate", "stream", "quantify", "unwarp"])
def test_a_limit_of_open_files(command: Run, name: str) -> None:
    ended = command(name, few_handles)
    if ended.code != 0:
        ended.check_refusal("Too many open files")
    assert "Errno" not in ended.stderr


PRINTING = [name for name in [*SHORT, *SERVERS, *PRINTED] if name not in ("record", "acquire-mib", "keep")]
"""Commands that print before they have worked for minutes; each meets one of the three faults of their output."""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", PRINTING[::3])
def test_output_on_a_full_device(command: Run, name: str, tmp_path: Path) -> None:
    ended = command(name, full_output)
    ended.check_refusal("could not be printed: No space left on device; what the command wrote is in its files")
    assert name not in COMMANDS or list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", PRINTING[1::3])
def test_a_reader_that_is_gone(command: Run, name: str, tmp_path: Path) -> None:
    command(name, closed_output).check_refusal("could not be printed: its reader is gone")
    assert name not in COMMANDS or list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", PRINTING[2::3])
def test_closed_standard_output(command: Run, name: str, tmp_path: Path) -> None:
    def prepare() -> None:
        _usual_signals()
        no_output()

    ended = command(name, prepare, meanwhile=ended_soon if name in SERVERS else None)
    assert (ended.code in (0, 130), "Traceback" in ended.stderr) == (True, False), ended.stderr
    assert name not in COMMANDS or list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
@pytest.mark.parametrize("where", ["scenarios.schema.load", "twin.simulated.SimulatedMicroscope.acquire"])
def test_too_little_memory(
    error: Exception, where: str, command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(where, refuse)
    command("calibrate").check_refusal("out of memory")


@pytest.mark.parametrize("name", TWICE)
def test_told_twice_to_end(command: Run, name: str) -> None:
    first, second = TWICE[name]
    rng = np.random.default_rng([*name.encode(), first])

    def tell(process: int) -> None:
        time.sleep(0.1 + float(rng.uniform(0.0, 0.3)))
        os.kill(process, first)
        time.sleep(0.003)
        os.kill(process, second)

    ended = command(name, _usual_signals, meanwhile=tell)
    # A command that had ended by then has its own code; none is killed.
    assert ended.code in (0, 128 + first, 128 + second), (ended.code, ended.stderr)
    assert "Traceback" not in ended.stderr


def test_told_to_end_before_the_command_line_is_read(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the commands are put together, nothing else would catch it."""
    monkeypatch.setattr(cli, "app", lambda: signal.raise_signal(signal.SIGTERM))
    ended = command("calibrate", _usual_signals)
    assert (ended.code, ended.last) == (143, "stemtwin: interrupted before the command began")


def _usual_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
