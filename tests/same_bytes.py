"""Hashes of the results of the command line: ten calibrations, three scans, three servers' answers.

    python tests/same_bytes.py [--only NAME ...] > before.txt     # then change the code, and compare

Two versions of the code on one machine agree when every line is equal. Nothing here is a committed reference: the last
bit of floating-point arithmetic differs between processors; `tests/scenarios/test_same_figures.py` holds the figures to
a stated rounding. Times and versions are not hashed.

The last bits also depend on the order in which numba compiles: every call starts with an empty cache of its own, so
that only outputs of the same lines in the same order can be compared.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STEMTWIN = [sys.executable, "-c", "from scenarios.cli import main; main()"]
FAST = ("--set", "renderer=fast")
SMALL_SCAN = [
    word
    for key in ("plan.rows=12", "plan.columns=15", "slice_nm=null", "optics.camera_pixels=32", "optics.binning=4")
    for word in ("--set", f"scan.{key}")
]

CALIBRATIONS = {
    "vae_em": ("day_b", *FAST, "--observations", "5"),
    "neural_posterior": ("day_a", *FAST, "--observations", "5"),
    "neural_posterior second order": ("day_a_second_order", *FAST, "--observations", "5"),
    "neural_posterior multislice": ("day_a", "--observations", "2"),
    "neural_posterior inexact": (
        "day_actuator", *FAST, "--observations", "5", "--set", "controllers.neural_posterior.input_error=0.05",
    ),
    "neural_posterior_em": ("random_2", *FAST, "--observations", "6"),
    "kalman": ("day_drift", *FAST, "--observations", "8"),
    "spectrum_ml": ("day_a", *FAST, "--observations", "4"),
    "joint_fit": ("day_c", *FAST, "--observations", "4"),
    "bo_multi": ("day_a", *FAST, "--observations", "5"),
}  # fmt: skip
SCANS = {
    "sto_001": (
        "sto_001", *SMALL_SCAN,
        "--agents", "adf,bf,abf,haadf:inner_mrad=40,outer_mrad=60,segments,com,dpc,ricom,icom,ssb",
    ),
    "sto_001 epie": ("sto_001", *SMALL_SCAN, "--agents", "epie,ssb:binning=2"),
    "mos2_twisted events": (
        "mos2_twisted", *SMALL_SCAN, "--set", "scan.camera={kind: event}", "--agents", "com,ricom,bf",
    ),
}  # fmt: skip
STREAMS = {"merlin": "merlin_data", "csr": "events"}


def run(*words: str) -> dict[str, Any]:
    """The JSON that a command prints."""
    done = subprocess.run([*STEMTWIN, *words, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def calibration(name: str, words: tuple[str, ...], home: Path) -> str:
    """Hash of a run's table without its times, of its estimate and correction, and of every frame."""
    folder = home / name.replace(" ", "_")
    seed = ("--seed", "7", "--out", str(folder), "--record", str(folder / "run.zarr"))
    summary = run("calibrate", *words, "--controller", name.split()[0], *seed)
    table = []
    for path in folder.rglob("steps.csv"):
        with path.open(newline="") as file:
            table += [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    assert table, folder
    kept = ("estimate_nm", "std_nm", "sign_probability", "correction_nm", "corrected_state_nm", "cost", "misfit")
    return digest(json.dumps([table, {key: summary[key] for key in kept}]).encode(), *chunks(folder / "run.zarr"))


def scan(name: str, words: tuple[str, ...], home: Path) -> str:
    """Hash of all images and frames of a scan, and of the verdicts."""
    folder = home / name.replace(" ", "_")
    keep = () if "epie" in name else ("--keep", str(folder) + (".t3p" if "events" in name else ".mib"))
    summary = run("scan", *words, "--seed", "7", "--out", str(folder), *keep)
    data = [path.read_bytes() for path in home.glob(f"{folder.name}.*") if path.suffix in {".t3p", ".raw"}]
    return digest(*data, *chunks(folder), json.dumps(verdicts(summary)).encode())


def verdicts(summary: dict[str, Any]) -> dict[str, Any]:
    """Errors, number of notes and figures of trust of the agents, without times and wording."""
    return {
        name: [agent["error"], len(agent["notes"]), figures(agent["trust"] or {})]
        for name, agent in summary["agents"].items()
    }


def figures(trust: dict[str, Any]) -> dict[str, Any]:
    """A test of residuals without the name of its model."""
    return {name: value for name, value in trust.items() if name != "model"}


@contextmanager
def served(*words: str) -> Iterator[dict[str, int]]:
    """Ports of `stemtwin serve`, stopped at the end."""
    command = [*STEMTWIN, "serve", *words, "--port", "0", "--free", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["ports"]
    finally:
        server.terminate()
        server.communicate(timeout=60)


def stream(scheme: str, home: Path) -> str:
    """Hash of the images that agents reconstruct from a served scan."""
    metadata = ("--event-metadata",) if scheme == "csr" else ()
    with served("sto_001", "--seed", "7", *SMALL_SCAN, *metadata) as ports:
        option = ("--option", f"control_port={ports['merlin_control']}", "--option", "start=true")
        out = ("--agents", "com,bf:outer_mrad=10", "--out", str(home / scheme), "--meta", "energy_kev=300")
        tell = ("--meta", "step_nm=0.02", "--meta", "pixel_mrad=1.5", "--meta", "convergence_mrad=21")
        address = f"{scheme}://127.0.0.1:{ports[STREAMS[scheme]]}"
        summary = run("stream", address, *out, *tell, *(option if scheme == "merlin" else ()))
    return digest(*chunks(home / scheme), json.dumps(verdicts(summary)).encode())


def remote(home: Path) -> str:
    """Hash of a calibration of a served microscope."""
    with served("day_a", "--seed", "7", *FAST, "--expose-truth") as ports:
        options = ("--set", "microscope.options.truth=true")
        to = ("--microscope", f"remote:127.0.0.1:{ports['control']}", "--observations", "4", *FAST)
        return calibration("neural_posterior remote", ("day_a", *to, *options), home)


def chunks(folder: Path) -> Iterator[bytes]:
    """Names and bytes of all arrays below a folder; their attributes hold times and paths, chunks do not."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and (p.suffix == ".raw" or "c" in p.parts))
    assert found, f"nothing was kept in {folder}"
    for path in found:
        yield str(path.relative_to(folder)).encode()
        yield path.read_bytes()


def digest(*parts: bytes) -> str:
    """The first half of a SHA-256."""
    made = hashlib.sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "big") + part)
    return made.hexdigest()[:32]


def main() -> None:
    """One line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these lines alone")
    only = parser.parse_args().only
    tasks: dict[str, Callable[[Path], str]] = {}
    for name, words in CALIBRATIONS.items():
        tasks[f"calibrate {name}"] = lambda home, n=name, w=words: calibration(n, w, home)  # type: ignore[misc]
    for name, words in SCANS.items():
        tasks[f"scan {name}"] = lambda home, n=name, w=words: scan(n, w, home)  # type: ignore[misc]
    for scheme in STREAMS:
        tasks[f"serve {scheme}"] = lambda home, s=scheme: stream(s, home)  # type: ignore[misc]
    tasks["serve control"] = remote
    with tempfile.TemporaryDirectory() as home:
        os.environ["NUMBA_CACHE_DIR"] = str(Path(home) / "numba")
        for name in only or tasks:
            print(f"{tasks[name](Path(home))}  {name}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
