"""Training of the amortised posterior on the frames of random days; resumable after every epoch."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import Tensor

from controller.calibration import OBSERVATIONS, closed_loop, holding_correlation
from controller.dataset import CLOSED_LOOP, Dataset, DayRanges, StateMixture, draw_day, joined
from controller.posterior import misfit
from controller.posterior.artefact import Moments, PosteriorArtefact, save, scaled_directions
from controller.posterior.check import FrameCheck, fit_check
from controller.posterior.network import (
    PosteriorConfig,
    PosteriorNetwork,
    log_density,
    nuisance_log_density,
    packed,
    whitening,
)
from controller.posterior.precision import fit_precision
from controller.spectrum import sub_areas
from controller.strategies.neural_posterior import NeuralPosterior, Options
from controller.training.examples import Examples, Symmetries
from controller.training.frames import FrameSet, Progress, simulated
from controller.training.optimisation import load_checkpoint, one_epoch, save_checkpoint
from controller.training.vae import timed_in
from twin.day import Day
from twin.optics import Optics
from twin.state import SECOND_ORDER, StateSpace

Array = NDArray[np.floating]

LOOP_SEED = 1000
"""Added to the seed for the days of the second set."""
PRECISION_FRAMES = 8000
UNCALIBRATED: dict[str, Moments] = {}
"""What is usual, until closed-loop runs tell."""


HIGHER_NM = 75.0
"""Standard deviation of C21 and C23 over the training frames, by component."""


def day_ranges() -> DayRanges:
    """Training days; coma and three-fold astigmatism are drawn with the states instead, anew for every frame."""
    return replace(DayRanges(), coma_nm=(0.0, 0.0), threefold_nm=(0.0, 0.0))


@dataclass(frozen=True)
class PosteriorTraining:
    """Everything a training follows from.

    Attributes:
        optics, space: instrument and task.
        days: simulated days over the whole range; a twentieth is held out.
        loop_days: further days with states where a closed loop takes its frames.
        frames_per_day: frames of each.
        epochs, batch, learning_rate, weight_decay: of the network's fit, AdamW with one cycle.
        calibration_runs: closed-loop runs that calibrate the posterior, one simulated day each.
        seed: of everything.
    """

    optics: Optics
    space: StateSpace = SECOND_ORDER
    days: int = 750
    loop_days: int = 950
    frames_per_day: int = 16
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    calibration_runs: int = 100
    seed: int = 1

    def __post_init__(self) -> None:
        if self.days * self.frames_per_day < 2 * self.batch:
            raise ValueError(
                f"{self.days} days of {self.frames_per_day} frames do not fill two batches of {self.batch}"
            )

    @property
    def held_out_days(self) -> int:
        """Days that the network never sees."""
        return max(1, self.days // 20)

    @property
    def frame_sets(self) -> tuple[FrameSet, FrameSet]:
        """Over the whole range, and where a closed loop goes; the days of the two differ."""
        ranges, count = day_ranges(), self.frames_per_day
        whole, loop = (replace(mixture, higher_nm=HIGHER_NM) for mixture in (StateMixture(), CLOSED_LOOP))
        return (
            FrameSet(self.optics, self.space, ranges, whole, self.days, count, self.seed, patches=True),
            FrameSet(self.optics, self.space, ranges, loop, self.loop_days, count, self.seed + LOOP_SEED, patches=True),
        )

    @property
    def states(self) -> StateMixture:
        """Distribution of the states of both sets together."""
        total = self.days + self.loop_days
        shares = ((StateMixture(), self.days / total), (CLOSED_LOOP, self.loop_days / total))
        return StateMixture(
            higher_nm=HIGHER_NM,
            whole=sum(mixture.whole * share for mixture, share in shares),
            start=sum(mixture.start * share for mixture, share in shares),
            near=tuple((part * share, width) for mixture, share in shares for part, width in mixture.near),
        )

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def nuisances_of(day: Day, ranges: DayRanges) -> list[float]:
    """The `NUISANCES` that belong to a training day, as standard normals (probability integral transform)."""
    camera, film = day.camera, day.film
    pairs = [
        (camera.scale, ranges.scale),
        (camera.rotation_deg, ranges.rotation_deg),
        (camera.mtf_nyquist, ranges.mtf_nyquist),
        (film.thickness_nm, ranges.thickness_nm),
        (day.focal_spread_nm, ranges.focal_spread_nm),
        (day.source_size_nm, ranges.source_size_nm),
        ((day.residual_nm or {}).get("C30", 0.0), ranges.spherical_nm),
    ]
    return [float(norm.ppf(np.clip((v - low) / (high - low), 1e-3, 1 - 1e-3))) for v, (low, high) in pairs]


def nuisances_behind(data: Dataset, ranges: DayRanges, seed: int) -> NDArray[np.float32]:
    """Nuisances of each frame, (N, C); a day follows from the seed and its index, as in `simulate_day`."""
    numbers, which = np.unique(data.days, return_inverse=True)
    drawn = (draw_day(ranges, np.random.default_rng([seed, int(number)])) for number in numbers)
    return np.array([nuisances_of(day, ranges) for day in drawn], np.float32)[which]


def losses(network: PosteriorNetwork, examples: Examples, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means of -log q(x | frame), of -log q(c | frame, x), and over sub-areas of -log q(l | sub-area), nats.

    `directions`, (P, n, m), are the local states that a unit of the second order makes, scaled.
    """
    features, areas = network.summarise(examples.spectra, examples.patches, examples.log_floor)
    state = -log_density(network.mixture(features), examples.states)
    hidden = -nuisance_log_density(network.nuisances(features, examples.states), examples.nuisances)
    local = examples.states[:, None] + torch.einsum("pnm,im->ipn", directions, examples.higher)
    return state.mean(), hidden.mean(), -log_density(network.local_mixture(areas), local).mean()


def held_out(network: PosteriorNetwork, examples: Examples, directions: Tensor) -> tuple[float, ...]:
    """`losses` on frames that were not trained on."""
    network.eval()
    total = np.zeros(3)
    with torch.no_grad():
        for part in torch.arange(len(examples)).split(256):
            found = losses(network, examples.chosen(part), directions)
            total += [loss.item() * len(part) / len(examples) for loss in found]
    return tuple(total.tolist())


def fit_network(
    training: Examples, test: Examples, config: PosteriorTraining, work: Path, progress: Progress
) -> PosteriorNetwork:  # fmt: skip
    """Maximise the log posterior of states and nuisances; a checkpoint after every epoch."""
    height, width = training.spectra.shape[1:]
    parts, patch_height = training.patches.shape[1:3]
    first = config.space.only(config.space.is_first_order)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = PosteriorNetwork(PosteriorConfig(first.dimension, height, width, parts, patch_height))
    symmetries, directions = Symmetries.of(first), _directions(config)
    mean = training.spectra[::4].float().mean(0)
    network.offset.copy_(_mirror_mean(mean))
    network.spread.fill_((training.spectra[::8].float() - network.offset[0]).std())
    mean = training.patches[::4].float().mean((0, 1))
    network.patch_offset.copy_(_mirror_mean(mean))
    network.patch_spread.fill_((training.patches[::8].float() - network.patch_offset).std())

    def loss(chosen: Tensor, generator: torch.Generator, _: float) -> Tensor:
        state, hidden, local = losses(network, symmetries.scramble(training.chosen(chosen), generator), directions)
        return state + hidden + local

    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    checkpoint = work / "network.safetensors"
    done = load_checkpoint(network, optimiser, checkpoint) if checkpoint.exists() else 0
    for epoch in range(done, config.epochs):
        one_epoch(network, optimiser, config, epoch, len(training), loss, clip=5.0)
        save_checkpoint(network, optimiser, epoch + 1, checkpoint)
        nats = " + ".join(f"{loss:.3f}" for loss in held_out(network, test, directions))
        progress("fitting the posterior", epoch + 1, config.epochs, f"held out {nats} nats")
    return network.eval()


def _mirror_mean(spectrum: Tensor) -> Tensor:
    """Mean of a half-plane spectrum (H, W) and its mirror image."""
    return (spectrum + spectrum[(-torch.arange(len(spectrum))) % len(spectrum)]) / 2


def examples(data: Dataset, nuisances: NDArray[np.float32], space: StateSpace, log_floor: float) -> Examples:
    """Simulated frames as the network sees them; states in units of the range of the first order."""
    floors = (np.log(data.floors) - log_floor).astype(np.float32)
    states = (data.states_nm / space.range_nm)[:, space.is_first_order].astype(np.float32)
    higher = (data.states_nm[:, ~space.is_first_order] / HIGHER_NM).astype(np.float32)
    parts = (data.spectra, data.patches, floors, states, nuisances, higher)
    return Examples(*(torch.from_numpy(a) for a in parts))


def _directions(config: PosteriorTraining) -> Tensor:
    first = config.space.only(config.space.is_first_order)
    return torch.from_numpy(scaled_directions(config.optics, first, HIGHER_NM)).float()


@dataclass(frozen=True)
class Reading:
    """What the network says of single frames taken at known states, (N, ...).

    Attributes:
        states: scaled, (N, n).
        higher: the second order that they had, (N, m).
        nuisances: the day's, (N, C).
        features: see `PosteriorNetwork.summarise`, (N, F).
        precision: of the weightiest component, (N, n, n).
        matrix, vector: of the second order if the state is known, see `sub_areas.information`.
    """

    states: NDArray[np.float32]
    higher: Array
    nuisances: Tensor
    features: Tensor
    precision: Array
    matrix: Array
    vector: Array

    def check(self, seed: int) -> FrameCheck:
        """Learnt from these frames."""
        return fit_check(self.features, torch.from_numpy(self.states), self.nuisances, seed)


def read(network: PosteriorNetwork, data: Examples, config: PosteriorTraining, seed: int) -> Reading:
    """A random `PRECISION_FRAMES` of the frames."""
    directions, mixture_of_states = _directions(config).double().numpy(), config.states
    first = config.space.only(config.space.is_first_order)
    keep = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:PRECISION_FRAMES]
    m = directions.shape[2]
    roots, seen, matrix, vector = [], [], np.empty((len(keep), m, m)), np.empty((len(keep), m))
    with torch.no_grad():
        for start in range(0, len(keep), 256):
            chosen = data.chosen(keep[start : start + 256])
            features, areas = network.summarise(chosen.spectra, chosen.patches, chosen.log_floor)
            seen.append(features)
            mixture = network.mixture(features)
            best = mixture.log_weight.argmax(-1)
            roots.append(whitening(mixture)[torch.arange(len(best)), best])
            local, states = packed(network.local_mixture(areas)), chosen.states.double().numpy()
            columns = states.T.copy()
            held = mixture_of_states.precision(first, columns, mixture_of_states.log_density(first, columns))
            of_areas = sub_areas.ready(local, directions)
            for i in range(len(local)):
                at, here = slice(start + i, start + i + 1), slice(i, i + 1)
                sub_areas.information(of_areas.frame(i), states[here], held[here], 1.0, matrix[at], vector[at])
    white = torch.cat(roots).double().numpy()
    precision = np.swapaxes(white, 1, 2) @ white
    higher = data.higher[keep].double().numpy()
    known = (data.states[keep].numpy(), higher, data.nuisances[keep], torch.cat(seen))
    return Reading(*known, precision, matrix, vector)


def calibrated_weight(reading: Reading) -> float:
    """By how much to count the sub-areas, that the second order of the frames is as likely as can be.

    Maximises log N(c; (I + w A)^-1 w b, (I + w A)^-1) over w, on frames whose c is known.
    """
    eye = np.eye(reading.vector.shape[1])

    def loss(log_weight: float) -> float:
        w = math.exp(log_weight)
        precision = eye + w * reading.matrix
        offset = reading.higher - np.linalg.solve(precision, w * reading.vector[..., None])[..., 0]
        quadratic = np.einsum("ni,nij,nj->n", offset, precision, offset)
        return float(np.mean(0.5 * quadratic - 0.5 * np.linalg.slogdet(precision)[1]))

    return math.exp(minimize_scalar(loss, bounds=(math.log(0.02), math.log(5.0)), method="bounded").x)


def train_posterior(
    config: PosteriorTraining, out: Path, work: Path, frames: Path, progress: Progress, workers: int = 0
) -> PosteriorArtefact:
    """Everything from nothing (or from what `work` and `frames` already hold) to one weights file at `out`.

    Raises:
        ResumeError: `work` holds another configuration's files.
    """
    free = ("calibration_runs",)
    trained = timed_in(work, config.plain(), free, lambda: _train(config, work, frames, progress, workers))
    save(trained, out)
    return trained


def _train(config: PosteriorTraining, work: Path, frames: Path, progress: Progress, workers: int) -> PosteriorArtefact:
    """The stages one after the other."""
    whole, loop = (simulated(wanted, frames, progress, workers) for wanted in config.frame_sets)
    held = whole.days >= config.days - config.held_out_days
    log_floor = float(np.log(whole.floors).mean())
    ranges = day_ranges()
    hidden = nuisances_behind(whole, ranges, config.seed)
    test = examples(whole.subset(held), hidden[held], config.space, log_floor)
    seen = np.concatenate([hidden[~held], nuisances_behind(loop, ranges, config.seed + LOOP_SEED)])
    training = examples(joined([whole.subset(~held), loop]), seen, config.space, log_floor)
    network = fit_network(training, test, config, work, progress)
    state, rest, local = held_out(network, test, _directions(config))
    provenance = {
        "training": config.plain(),
        "ranges": asdict(ranges),
        "held_out_state_nats": round(state, 3),
        "held_out_nuisance_nats": round(rest, 3),
        "held_out_local_nats": round(local, 3),
        "versions": {name: version(name) for name in ("torch", "numpy")},
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seen_at, unseen = (read(network, data, config, config.seed) for data in (training, test))
    weight = calibrated_weight(unseen)
    precision = fit_precision(seen_at.states, seen_at.precision, config.seed)
    added = np.eye(len(sub_areas.NAMES)) + weight * seen_at.matrix
    higher = fit_precision(seen_at.states, added, config.seed)
    trained = PosteriorArtefact(
        network, precision, higher, seen_at.check(config.seed), config.space, config.optics, config.states, log_floor,
        weight, 0.0, UNCALIBRATED, provenance,
    )  # fmt: skip
    found = calibrated(trained, config, progress)
    torch.set_num_threads(threads)
    return found


def calibrated(trained: PosteriorArtefact, config: PosteriorTraining, progress: Progress) -> PosteriorArtefact:
    """With what closed-loop runs on simulated days ask for: the misfit test's usual measures, then the correlation.

    One after the other: with the measures known, the runs of the second pass look twice and widen as any run does.
    """
    plain = replace(trained, correlation=0.0, usual=UNCALIBRATED)
    _, watched = _runs(plain, config, lambda done: progress("what is usual", done, config.calibration_runs, ""))
    known = replace(plain, usual=misfit.training_moments(watched))
    distances, _ = _runs(known, config, lambda done: progress("calibrating", done, config.calibration_runs, ""))
    return replace(known, correlation=holding_correlation(distances, trained.first.dimension))


def _runs(
    trained: PosteriorArtefact, config: PosteriorTraining, report: Callable[[int], None]
) -> tuple[Array, list[list[dict[str, float]]]]:
    """Squared distances of closed-loop runs, (R, T), and the misfit test's measures after every frame of each."""
    controller = NeuralPosterior(trained.first, trained, Options())
    watched: list[dict[str, float]] = []

    def watch() -> None:
        watched.append(controller.measures())

    days = (DayRanges(), config.calibration_runs, config.seed)
    distances = closed_loop(controller, config.optics, trained.first, *days, report, watch)
    return distances, [watched[k : k + OBSERVATIONS] for k in range(0, len(watched), OBSERVATIONS)]
