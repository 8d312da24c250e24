"""Mistakes on the command line: exit code 2, one line that names the nearest valid choice, nothing written."""

# ruff: noqa: E501  (a command line and its answer stand on one line)

import io
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from scenarios.cli import app


def saved(values: np.ndarray, suffix: str = ".npy") -> bytes:
    """An array as a .npy file, or as a picture."""
    file = io.BytesIO()
    np.save(file, values) if suffix == ".npy" else Image.fromarray(values).save(file, suffix[1:])
    return file.getvalue()


LATTICE = 40 + 200 * np.cos(np.pi * np.arange(96) / 6) ** 2 * np.cos(np.pi * np.arange(96)[:, None] / 6) ** 2
FILES = {
    "list.yaml": b"[1, 2]",
    "broken.yaml": b"renderer: fast\nday: [",
    "binary.yaml": b"\xff\xfe\x00",
    "twice.yaml": b"day: {}\nday: {}",
    "loop.yaml": b"day: &a [*a]",
    "number.yaml": b"1: 2",
    "junk.mib": b"x" * 100,
    "junk.safetensors": b"x" * 100,
    "weights.txt": b"x",
    "file": b"x",
    "lattice.npy": saved(LATTICE),
    "cut.npy": saved(LATTICE)[:500],
    "broken.npy": saved(np.where(LATTICE > 200, np.nan, LATTICE)),
    "flat.npy": saved(np.zeros((96, 96))),
    "colour.png": saved(np.arange(1200, dtype=np.uint8).reshape(20, 20, 3), ".png"),
    "shifts.npy": saved(np.zeros((2, 6))),
    "falling.txt": b"# atoms, cross-section\n1, 1.4\n2, 0.7\n",
    "endless.txt": b"1 2\n" * 300_000,
    "good.txt": b"1 0.7\n2 1.4\n",
    "scan.npz": b"x",
    "run/config.yaml": b"renderer: fast",
}
"""Files that lie in the working folder."""

MISTAKES = """
# scenarios
calibrate dya_a | 'dya_a' is not a scenario (did you mean day_a?); known: au_on_carbon,
calibrate DAY_B | 'DAY_B' is not a scenario
calibrate day-a | did you mean day_a?
acquire sto_01 | did you mean sto_001?
scan mos2_twistd | did you mean mos2_twisted?
serve mos2_twistd | did you mean mos2_twisted?
show nominl | did you mean nominal?
compare day_a --controllers random --out file | file exists and is no folder: choose another folder
compare nominl --controllers random | did you mean nominal?
train quality nominl | did you mean nominal?
calibrate nowhere.yaml | nowhere.yaml does not exist
calibrate list.yaml | list.yaml: a scenario is a mapping of keys to values, got list
calibrate broken.yaml | broken.yaml: line 2 is not valid YAML
calibrate binary.yaml | binary.yaml: a scenario is UTF-8 text, and this is not
calibrate twice.yaml | twice.yaml: line 2 is not valid YAML: day is given twice
calibrate loop.yaml | loop.yaml: line 1 is not valid YAML: the alias a stands inside what it repeats
calibrate number.yaml | number.yaml: a key is text, got 1
calibrate pipe.yaml | pipe.yaml is a pipe; a file is expected
calibrate . | '.' is not a scenario
calibrate ./ | is a folder; a file is expected
acquire day_a | day_a: no scan in this scenario; see `scan:` in one of sto_001 or mos2_twisted
scan day_a | day_a: no scan in this scenario
# --set
calibrate --set day.dose_e | an override is written key.key=value, for example day.dose_e=2e5
calibrate --set =3 | an override is written key.key=value
calibrate --set day..dose_e=1 | an override is written key.key=value
calibrate --set day.dose_e=many | day.dose_e: input should be a valid number
calibrate --set day.dose_e=-1 | day.dose_e: input should be greater than 0, got -1
calibrate --set day.dose_e=1e99 | day.dose_e: a number up to 1e+15 in size is expected, got 1e+99
calibrate --set day.dose=1e5 | day.dose is not a key here (did you mean dose_e?)
calibrate --set dose_e=1e5 | dose_e is not a key here (did you mean day.dose_e?)
calibrate --set optics.semi_angle_mrad=20 | did you mean convergence_mrad?
calibrate --set optics.grid=300 | the camera spans 128 x 3 grid pixels; the grid has 300; use grid >= 384 or binning <= 2
calibrate --set optics.grid=100000 | optics.grid must be from 8 to 4096, got 100000; one wave would take 80 GB; nearest: 4096
calibrate --set optics.energy_kev=1e-300 | optics.energy_kev must be from 0.1 to 5000, got 1e-300; nearest: 0.1
calibrate --set optics.convergence_mrad=90 | exceeds the grid's 39.4 mrad; use sampling_nm <= 0.0109
calibrate --set space=third_order | space 'third_order' is not a shorthand
calibrate --set space.names=[C1O,C12a,C12b] | 'C1O' is not an aberration coefficient (did you mean C10?)
calibrate --set renderer=slow | renderer: input should be 'fast' or 'multislice', got 'slow'
calibrate --set name=../x | name
calibrate --set severity=1 | severity draws the whole day; give either day or severity
calibrate --set "day.film={" | is not a YAML value
calibrate --set controllers.randon={} | controllers.randon is not a controller (did you mean random?)
calibrate --set microscope.kind=nino | 'nino' is not a kind of microscope (did you mean nion?)
calibrate --set day.film.thickness_nm=500 | takes 24.9 GB and many minutes; multislice takes films up to 2.15 GB. Use day.film.thickness_nm <= 43
calibrate --set a.b.c.d.e.f.g.h.i.j.k.l.m=1 | a key has at most 12 parts, got 13
show --set task.observation=3 | task.observation is not a key here (did you mean observations?)
# controllers and their options
calibrate --controller randon | 'randon' is not a controller (did you mean random?)
calibrate --controller vae_em --set controllers.vae_em.candidate=9 | 'candidate' is not an option here (did you mean candidates?)
calibrate --controller vae_em --set controllers.vae_em.candidates=-1 | candidates: input should be greater than or equal to
calibrate --controller vae_em --set controllers.vae_em.weights=vae_nominal | 'vae_nominal' are not shipped weights
calibrate --controller vae_em --set controllers.vae_em.weights=none.safetensors | none.safetensors: no such file
calibrate --controller vae_em --set controllers.vae_em.weights=junk.safetensors | junk.safetensors: cannot be read as weights
compare nominal --controllers randon | 'randon' is not a controller (did you mean random?)
compare nominal --controllers random,random | a controller is named twice
compare nominal --controllers =3 | '=3' follows no controller
compare nominal --controllers "" | --controllers takes names separated by commas, got none; see stemtwin list controllers
compare nominal nominal --controllers random | are both named nominal
compare nominal --controllers random --scheduler x --workers 2 | --workers and --scheduler exclude each other
# agents, sources, data files
scan sto_001 --agents rikom | 'rikom' is not an agent (did you mean ricom?)
scan sto_001 --agents adf:inner=3 | 'inner' is not an option here (did you mean inner_mrad?)
scan sto_001 --agents adf:inner_mrad | 'inner_mrad' is not key=value
scan sto_001 --agents "" | --agents takes names separated by commas, got none; see stemtwin list agents
scan sto_001 --images adf | --images goes with --calibrate
scan sto_001 --keep x.tif | x.tif
acquire sto_001 --out x.tif | x.tif
acquire sto_001 --set scan.specimen=sto_100 | did you mean sto_001?
acquire sto_001 --set scan.detectors=[haddf] | 'haddf' is not a detector (did you mean haadf?)
acquire sto_001 --set scan.plan.rows=0 | scan.plan.rows: input should be greater than 0, got 0
stream junk.mib --agents rikom | did you mean ricom?
stream junk.mib --meta step_nm | --meta: 'step_nm' is not key=value
stream junk.mib | junk.mib: frame 0: a frame begins with MQ1
stream junk.mib --option meta=1 | metadata of the stream goes with --meta
live --no-browser --meta step_nm=1 | --meta and --option describe a source: add --source FILE or URL
live --no-browser --source junk.mib --option spec=1 | metadata of the stream goes with --meta
# a second look
calibrate day_a.yml | day_a.yml does not exist
calibrate "" | '' is not a scenario; known:
calibrate "day a" | did you mean day_a?
calibrate --set day.camera.saturation=70000 | input should be less than or equal to 65535, got 70000
calibrate --set day.camera.rotation=3 | did you mean rotation_deg?
calibrate --set task.observations=0 | task.observations: input should be greater than or equal to 1, got 0
calibrate --set optics.convergence_mrad="28 mrad" | optics.convergence_mrad: input should be a valid number
calibrate --set optics.energy_kev=300000 | optics.energy_kev must be from 0.1 to 5000, got 300000
calibrate --set space.start_nm=[60,30] | start_nm has 2 entries; expected one per name, 3
calibrate --set space.tolerance_nm=[0,1,1] | tolerance_nm must be positive and finite
calibrate --set day.residual_nm.C31=5 | 'C31' is not an aberration coefficient (did you mean C30?)
calibrate --set day.film.material=Xx | 'SiN' or 'SiO2', got 'Xx'
calibrate --set day=null | day takes keys of its own
calibrate --microscope ninon | 'ninon' is not a kind of microscope (did you mean nion?)
calibrate --microscope remote:127.0.0.1:99999 | with a port from 1 to 65535; got '127.0.0.1:99999'
calibrate --out file | Not a directory
calibrate --controller vae_em:hard=true | options go with --set controllers.vae_em.OPTION=VALUE
calibrate --resume | --resume goes on with a recording: name it with --record FILE
calibrate --record file/x.zarr | file
calibrate --set references.dark=none.npy | none.npy does not exist
compare day_a day_z --controllers random | 'day_z' is not a scenario
acquire sto_001 --set scan.plan.dwell_s=0 | scan.plan.dwell_s: input should be greater than 0, got 0
acquire sto_001 --set scan.plan.step_nm=1e308 | a number up to 1e+15 in size is expected
acquire sto_001 --set scan.plan.row=3 | scan.plan.row is not a key here (did you mean rows?)
scan sto_001 --agents ssb:cutoff=big | cutoff: input should be a valid number
scan sto_001 --out file | file is not a directory
scan nominal --agents com | no scan in this scenario
stream nowhere.zarr --agents com | nowhere.zarr does not exist
stream file --agents com | file: no source for (no suffix); known: .zarr,
stream merlin://127.0.0.1:x --agents com | '127.0.0.1:x' is not host:port, with a port of 1 to 65535
stream ftp://x:1 --agents com | no source ftp://; known: merlin://, csr://
stream junk.mib --option skip=1 | 'skip' is not an option here (did you mean skip_frames?)
stream junk.mib --option skipp=1 | (did you mean skip_frames?)
record nowhere --out a.zarr | nowhere is no folder of images
record empty --out a.zarr | empty has no images; known are .npy,
record . --out a.zarr --option pixel=3 | 'pixel' is not an option here (did you mean pixel_mrad?)
record . --out a.zarr --table none.csv | none.csv does not exist
record . --out a.zarr --scenario nominl | did you mean nominal?
serve dayz | 'dayz' is not a scenario
list "" | '' is neither a list nor a name; lists: scenarios,
show day_a --set day.film=thick | day.film takes keys of its own
--log . list scenarios | --log .: Is a directory
# the other commands
gallery --only probs | probs
list vae_emm | 'vae_emm' is neither a list nor a name (did you mean vae_em?); lists: scenarios, controllers,
list scenario | (did you mean scenarios?)
report | nothing to report; use --environment
train quality --days 0 | days
train quality --work file/x | file/x: Not a directory
train quality --out file/x.safetensors | file exists and is no folder: choose another folder
train quality day_a --set optics.energy=200 | did you mean energy_kev?
--log nowhere/x.log list scenarios | --log nowhere/x.log: No such file or directory
# quantify
quantify nowhere.npy | nowhere.npy does not exist
quantify lattice.jpg | lattice.jpg does not exist
quantify file | file: no image format (no suffix)
quantify . | is a folder; a file is expected
quantify pipe.npy | pipe.npy is a pipe; a file is expected
quantify cut.npy | cut.npy: cut off, or damaged: an array of (96, 96), float64, has 73728 bytes, and the file holds 372
quantify colour.png | colour.png: a colour picture, which holds no counts: save the image in grey
quantify broken.npy | pixels are not finite, the first one in row 0, column 0: cut the image to where it is known
quantify flat.npy | every pixel of the image is 0: there is nothing to find
quantify lattice.npy --step-nm 1e300 | step_nm is the distance of pixels, from 1e-06 to 1000 nm, got 1e+300
quantify lattice.npy --step-nm nan | step_nm is the distance of pixels, from 1e-06 to 1000 nm, got nan
quantify lattice.npy --spacing-nm 0.2 | spacing_nm 0.2 needs step_nm, to be known in pixels
quantify lattice.npy --step-nm 0.01 --spacing-nm 1e9 | spacing_nm 1e+09 is 1e+11 px; columns of this image are 3 to 96 px apart
quantify lattice.npy --step-nm 0.01 --spacing-nm -1 | spacing_nm: input should be greater than 0, got -1
quantify lattice.npy --scan jiont | scan: input should be 'joint' or 'perfect', got 'jiont'
quantify lattice.npy --count mixtur | count: input should be 'mixture', 'library' or 'none', got 'mixtur'
quantify lattice.npy --count library | counting by a library needs a library of cross-sections
quantify lattice.npy --library good.txt | counting by a library needs step_nm, to compare areas
quantify lattice.npy --library good.txt --count none | --library good.txt is for --count library, not for --count none
quantify lattice.npy --library falling.txt | falling.txt, line 3: a cross-section above 1.4, the one before, is expected, got '0.7'
quantify lattice.npy --library list.yaml | list.yaml, line 1: a cross-section above 0 is expected, got '2]'
quantify lattice.npy --library binary.yaml | binary.yaml: a library of cross-sections is UTF-8 text, and this is not
quantify lattice.npy --library endless.txt | a library of cross-sections has at most 1048576 bytes
quantify lattice.npy --library pipe.yaml | pipe.yaml is a pipe; a file is expected
quantify lattice.npy --out file | file exists and is no folder: choose another folder
quantify lattice.npy --out file/x | file/x: Not a directory
# unwarp
unwarp nowhere.zarr | nowhere.zarr does not exist
unwarp lattice.npy | lattice.npy: no source for .npy
unwarp nowhere.zarr --out x.tif | x.tif: no format .tif (did you mean .t3p?)
unwarp nowhere.zarr --out file/x.zarr | file is not a directory
unwarp nowhere.zarr --out junk.mib | junk.mib exists; choose another name or remove it
unwarp nowhere.zarr --layout afd | 'afd' is not a ring (did you mean adf?); known: bf, abf, adf, haadf
unwarp nowhere.zarr --layout com | 'com' is not a ring; known:
unwarp nowhere.zarr --meta step_nm | --meta: 'step_nm' is not key=value
unwarp nowhere.zarr --shifts cut.npy | cut.npy: cut off, or damaged
unwarp nowhere.zarr --shifts broken.npy | shifts are finite numbers of shape (2, rows), x before y; got shape (96, 96)
unwarp nowhere.zarr --shifts file | file: shifts of lines are a .npy file or the columns.zarr of `stemtwin quantify`, and this is neither
unwarp nowhere.zarr --shifts pipe.npy | pipe.npy is a pipe
# adapt
adapt nowhere.npy --step-nm 0.02 | nowhere.npy does not exist
adapt lattice.npy --step-nm 0 | step_nm is the distance of pixels, a positive number, got 0
adapt lattice.npy --step-nm nan | step_nm is the distance of pixels, a positive number, got nan
adapt lattice.npy --step-nm 1e-9 | lattice.npy: the image is 9.6e-08 nm wide; at least 1 nm is expected: is step_nm 1e-09 right?
adapt lattice.npy --step-nm 2 | lattice.npy: pixels are 2 nm apart; at most 0.06 nm show single atoms
adapt lattice.npy flat.npy --step-nm 0.02 | flat.npy: all pixels have the value 0: there is nothing to see
adapt broken.npy --step-nm 0.02 | pixels are not finite numbers
adapt lattice.npy --step-nm 0.02 --ring-mrad 200 63 | a ring has an inner angle below the outer one, both from 0 to 1571 mrad, got 200 and 63
adapt lattice.npy --step-nm 0.02 --ring-mrad 60 inf | outer_mrad: input should be a finite number, got inf
adapt lattice.npy --step-nm 0.02 --weights defetcs | 'defetcs' are not shipped weights (did you mean defects?)
adapt lattice.npy --step-nm 0.02 --weights junk.safetensors | junk.safetensors: cannot be read as weights
adapt lattice.npy --step-nm 0.02 --weights pipe.safetensors | pipe.safetensors: weights are a file; this is a folder, a pipe or a device
adapt lattice.npy --step-nm 0.02 --out file | file exists and is no folder
# live, figures, gallery, train, agents with weights
live dya_a --no-browser | did you mean day_a?
live --microscope ninon --no-browser | 'ninon' is not a kind of microscope (did you mean nion?)
live --source nowhere.zarr --no-browser | nowhere.zarr does not exist
live --source lattice.npy --no-browser | lattice.npy: no source for .npy
live --source merlni://camera --no-browser | no source merlni:// (did you mean merlin?)
live --host 0.0.0.0 --token "a b" --no-browser | a token has 12 printable ASCII characters or more; got 3
figures paper --only 2 | 2 is not a figure here; known: 1, 4, 5, 6, 7, 8
figures paper --out file --only 1 | file exists and is no folder: choose another folder; choose another --out
figures restoration --only 13 | 13 is not a figure here
figures restoration --out file --only 7 | file exists and is no folder
gallery --play --only probes | --only probes is a section of the gallery; --play writes a page without sections
train defects --days 0 | days: input should be greater than or equal to 10, got 0
train defects --inner-mrad 300 | a ring has an inner angle below the outer one, both from 0 to 1571 mrad, got 300 and 200
train quality --frames file | file: Not a directory
--log pipe.yaml list scenarios | --log pipe.yaml: a file is expected, this is a pipe
train restoration --side-px 7 | side_px
scan sto_001 --agents defects:weights=nowhere.safetensors | nowhere.safetensors: no such file
scan sto_001 --agents segment_net:weights=junk.safetensors | junk.safetensors: cannot be read as weights
scan sto_001 --agents restore:weights=restoratoin | 'restoratoin' are not shipped weights (did you mean restoration?)
# files of another command, units, options of another controller
stream sto_001 | sto_001 is a scenario, not a file or a camera: stemtwin scan sto_001
stream lattice.npy | an array does not say what its axes are: write it with twin.formats.create
stream 127.0.0.1:6342 | a camera is merlin://127.0.0.1:6342
stream merlin://127.0.0.1:1 --agents com | merlin://127.0.0.1:1: Connection refused: nothing listens at this address
acquire junk.mib | 'junk.mib' is not a scenario: `stemtwin stream junk.mib` reads data
calibrate run | 'run' is not a scenario (did you mean run/config.yaml?)
calibrate --set optics.energy_kev=300kV | input should be a valid number without a unit, got '300kV'
calibrate nominal --controller random --set optics.convergence_mrad=0.028 | between the grid's angles: is it in mrad?
calibrate --set controllers.random.x=1 | --set controllers.random.x=1: random does not run here; controllers: vae_em
compare nominal --controllers random --set controllers.vae_em.hard=true | vae_em does not run here; controllers: random
calibrate nominal --controller random --microscope replay | replay needs the recording: replay:FILE.zarr
calibrate --microscope 127.0.0.1 | did you mean remote:127.0.0.1?
calibrate nominal --controller random --record x.hspy | x.hspy: a recording is in zarr: name it x.zarr
compare nominal --controllers random --out run | run has files of something else (config.yaml): choose another --out
acquire sto_001 --set scan.detectors=bf | names in a list, [bf], or names with rings are expected, got 'bf'
quantify junk.mib | junk.mib is a scan, not an image: `stemtwin stream` makes images of it
quantify scan.npz | scan.npz holds several arrays: save the one you mean as .npy
train quality --out run | --out run: weights are one file, .safetensors (did you mean run/quality.safetensors?)
gallery --out x.pdf | --out x.pdf: the page is HTML: name it x.html
serve nominal --host nowhere.invalid --token abcdefghijklmnop | --host nowhere.invalid
serve nominal --mode scan | nominal: this scenario has no scan
scan sto_001 --agents inverse:prior=tvv | prior: input should be 'tikhonov', 'smooth', 'tv' or 'denoiser', got 'tvv'
"""
"""A command line and a part of the line that answers it."""

USAGE = """
calibrat | No such command 'calibrat'
calibrate --sed 3 | No such option: --sed
calibrate --seed -1 | Invalid value for '--seed'
calibrate --seed many | Invalid value for '--seed'
calibrate --observations 0 | Invalid value for '--observations'
calibrate day_a day_b | Got unexpected extra argument
compare nominal | Missing option '--controllers'
compare --controllers random | Missing argument 'SCENARIO...'
compare nominal --controllers random --runs 0 | Invalid value for '--runs'
serve --merlin-control 70000 | Invalid value for '--merlin-control'
serve nominal --control 99999999 | Invalid value for '--control'
list controllers extra | Got unexpected extra argument
serve --mode fast | Invalid value for '--mode'
quantify | Missing argument 'image'
quantify lattice.npy --first 0 | Invalid value for '--first'
adapt lattice.npy | Missing option '--step-nm'
adapt lattice.npy --step-nm 0.02 --simulated 5 | Invalid value for '--simulated'
live --port 99999 | Invalid value for '--port'
figures papre | No such command 'papre'. Did you mean 'paper'?
figures paper --only x | Invalid value for '--only'
report --enviroment | No such option: --enviroment
train segment_net --precision float16 | Invalid value for '--precision'
train vea | 'vea' is not a training (did you mean vae?)
"""
"""Command lines that do not parse: the usage stands before the line."""


def cases(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.strip().splitlines() if not line.startswith("#")]
    pairs = [line.partition(" | ") for line in lines]
    return [(command, expected) for command, _, expected in pairs]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with files of all kinds."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "empty").mkdir()
    for suffix in (".yaml", ".npy", ".safetensors"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_enough_of_them() -> None:
    assert len(cases(MISTAKES)) + len(cases(USAGE)) >= 60


@pytest.mark.parametrize(("command", "expected"), cases(MISTAKES), ids=lambda text: text[:60])
def test_a_mistake_is_answered_in_one_line(command: str, expected: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = CliRunner().invoke(app, shlex.split(command))
    assert done.exit_code == 2, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("stemtwin: ")
    assert expected in line
    assert len(line) < 800
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("command", "expected"), cases(USAGE), ids=lambda text: text[:60])
def test_a_line_that_does_not_parse_shows_the_usage(command: str, expected: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = CliRunner().invoke(app, command.split(), env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert done.stderr.startswith("Usage: ")
    assert expected in done.stderr.splitlines()[-1]
    assert sorted(folder.rglob("*")) == before
