"""Training of the amortised posterior on the frames of random days; resumable after every epoch."""

import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from controller.calibration import intra_class_correlation
from controller.dataset import CLOSED_LOOP, Dataset, DayRanges, StateMixture, draw_day, joined
from controller.frames import FrameSet, Progress, simulated
from controller.posterior_artefact import PosteriorArtefact, save
from controller.posterior_filter import deviance
from controller.posterior_network import (
    TURNED,
    PosteriorConfig,
    PosteriorNetwork,
    log_density,
    nuisance_log_density,
    whitening,
)
from controller.posterior_precision import PrecisionMap, fit_precision
from controller.strategies.neural_posterior import NeuralPosterior, Options
from controller.symmetry import mirror_matrix, mirrored, transposition_matrix, whole_plane
from controller.train import claim, load_checkpoint, one_cycle, save_checkpoint, stopwatch
from twin.day import Day
from twin.optics import Optics
from twin.state import StateSpace

Array = NDArray[np.floating]

LOOP_SEED = 1000
"""Added to the seed for the days of the second set."""
PRECISION_FRAMES = 8000
UNCALIBRATED = ((3.0, 6.0),)
"""Moments of the deviance until closed-loop runs tell: chi-square's; nothing reads them meanwhile."""


@dataclass(frozen=True)
class PosteriorTraining:
    """Everything a training follows from.

    Attributes:
        optics, space: instrument and task.
        days: simulated days over the whole range, shared with the VAE; a twentieth is held out.
        loop_days: further days with states where a closed loop takes its frames.
        frames_per_day: frames of each.
        epochs, batch, learning_rate, weight_decay: of the network's fit, AdamW with one cycle.
        calibration_runs: closed-loop runs that calibrate the posterior, one simulated day each.
        seed: of everything.
    """

    optics: Optics
    space: StateSpace
    days: int = 1200
    loop_days: int = 900
    frames_per_day: int = 16
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    calibration_runs: int = 40
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
        ranges, count = DayRanges(), self.frames_per_day
        whole = FrameSet(self.optics, self.space, ranges, StateMixture(), self.days, count, self.seed)
        loop = FrameSet(self.optics, self.space, ranges, CLOSED_LOOP, self.loop_days, count, self.seed + LOOP_SEED)
        return whole, loop

    @property
    def states(self) -> StateMixture:
        """Distribution of the states of both sets together."""
        total = self.days + self.loop_days
        shares = ((StateMixture(), self.days / total), (CLOSED_LOOP, self.loop_days / total))
        return StateMixture(
            whole=sum(mixture.whole * share for mixture, share in shares),
            start=sum(mixture.start * share for mixture, share in shares),
            near=tuple((part * share, width) for mixture, share in shares for part, width in mixture.near),
        )

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def nuisances_of(day: Day, ranges: DayRanges) -> list[float]:
    """`NUISANCES` of a training day, uniform in their ranges, as standard normals (probability integral transform)."""
    camera, film = day.camera, day.film
    pairs = [
        (camera.scale, ranges.scale),
        (camera.rotation_deg, ranges.rotation_deg),
        (camera.mtf_nyquist, ranges.mtf_nyquist),
        (film.thickness_nm, ranges.thickness_nm),
        ((day.residual_nm or {}).get("C30", 0.0), ranges.spherical_nm),
        (day.focal_spread_nm, ranges.focal_spread_nm),
        (day.source_size_nm, ranges.source_size_nm),
    ]
    return [float(norm.ppf(np.clip((v - low) / (high - low), 1e-3, 1 - 1e-3))) for v, (low, high) in pairs]


def day_nuisances(ranges: DayRanges, seed: int, days: NDArray[np.int64]) -> NDArray[np.float32]:
    """Nuisances of each frame's day, (N, C); a day follows from the seed and its index, as in `simulate_day`."""
    table = {int(i): nuisances_of(draw_day(ranges, np.random.default_rng([seed, int(i)])), ranges) for i in set(days)}
    return np.array([table[int(day)] for day in days], np.float32)


@dataclass(frozen=True)
class Examples:
    """Frames with what hides behind them.

    Attributes:
        spectra: normalised half-plane spectra, float16, (N, H, W).
        log_floor: centred log shot-noise floor, (N,).
        states: scaled, (N, n).
        nuisances: standard normals, (N, C).
    """

    spectra: Tensor
    log_floor: Tensor
    states: Tensor
    nuisances: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def chosen(self, keep: Tensor) -> "Examples":
        """Some of them."""
        return Examples(self.spectra[keep].float(), self.log_floor[keep], self.states[keep], self.nuisances[keep])


@dataclass(frozen=True)
class Symmetries:
    """The square's reflections, acting on spectra, states and nuisances alike: eight times the data.

    Attributes:
        mirror, transposition: matrices on scaled states, (n, n).
    """

    mirror: Tensor
    transposition: Tensor

    @classmethod
    def of(cls, space: StateSpace) -> "Symmetries":
        """For scaled states."""
        scale = space.range_nm
        scaled = (m(space.names) * scale / scale[:, None] for m in (mirror_matrix, transposition_matrix))
        return cls(*(torch.from_numpy(m).float() for m in scaled))

    def scramble(self, examples: Examples, generator: torch.Generator) -> Examples:
        """A random element for each frame.

        The two reflections generate the group up to the inversion, which a power spectrum does not see.
        """
        count, height = examples.spectra.shape[:2]
        flip, swap = (torch.rand(count, generator=generator) < 0.5 for _ in range(2))
        spectra, states = examples.spectra, examples.states
        spectra = mirrored(spectra, flip)
        states = torch.where(flip[:, None], states @ self.mirror.T, states)
        swapped = whole_plane(spectra).transpose(1, 2)[:, :, height // 2 :]
        spectra = torch.where(swap[:, None, None], swapped, spectra)
        states = torch.where(swap[:, None], states @ self.transposition.T, states)
        nuisances = examples.nuisances.clone()
        nuisances[:, TURNED] *= torch.where(flip ^ swap, -1.0, 1.0)  # a reflected camera is turned the other way
        return Examples(spectra, examples.log_floor, states, nuisances)


def losses(network: PosteriorNetwork, examples: Examples) -> tuple[Tensor, Tensor]:
    """Mean of -log q(x | frame) and of -log q(c | frame, x), nats."""
    features = network.summarise(examples.spectra, examples.log_floor)
    state = -log_density(network.mixture(features), examples.states)
    hidden = -nuisance_log_density(network.nuisances(features, examples.states), examples.nuisances)
    return state.mean(), hidden.mean()


def held_out(network: PosteriorNetwork, examples: Examples) -> tuple[float, float]:
    """`losses` on frames that were not trained on."""
    network.eval()
    with torch.no_grad():
        parts = [losses(network, examples.chosen(part)) for part in torch.arange(len(examples)).split(256)]
    weights = [len(part) / len(examples) for part in torch.arange(len(examples)).split(256)]
    state, hidden = (sum(w * p[i].item() for w, p in zip(weights, parts, strict=True)) for i in (0, 1))
    return state, hidden


def fit_network(
    training: Examples, test: Examples, config: PosteriorTraining, work: Path, progress: Progress
) -> PosteriorNetwork:  # fmt: skip
    """Maximise the log posterior of states and nuisances; a checkpoint after every epoch."""
    height, width = training.spectra.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = PosteriorNetwork(PosteriorConfig(dimension=config.space.dimension, height=height, width=width))
    symmetries = Symmetries.of(config.space)
    mean = training.spectra[::4].float().mean(0)
    network.offset.copy_((mean + mean[(-torch.arange(height)) % height]) / 2)
    network.spread.fill_((training.spectra[::8].float() - network.offset[0]).std())
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    checkpoint = work / "network.safetensors"
    done = load_checkpoint(network, optimiser, checkpoint) if checkpoint.exists() else 0
    for epoch in range(done, config.epochs):
        _one_epoch(network, optimiser, training, symmetries, config, epoch)
        save_checkpoint(network, optimiser, epoch + 1, checkpoint)
        state, hidden = held_out(network, test)
        progress("fitting the posterior", epoch + 1, config.epochs, f"held out {state:.3f} + {hidden:.3f} nats")
    return network.eval()


def _one_epoch(
    network: PosteriorNetwork, optimiser: torch.optim.Optimizer, training: Examples, symmetries: Symmetries,
    config: PosteriorTraining, epoch: int,
) -> None:  # fmt: skip
    """One pass; its random numbers follow from seed and epoch, so a resumed training goes the same way."""
    network.train()
    generator = torch.Generator().manual_seed(config.seed * 1000 + epoch)
    batches = torch.randperm(len(training), generator=generator).split(config.batch)[: len(training) // config.batch]
    for step, chosen in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * one_cycle((epoch + step / len(batches)) / config.epochs)
        state, hidden = losses(network, symmetries.scramble(training.chosen(chosen), generator))
        optimiser.zero_grad()
        (state + hidden).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()


def examples(data: Dataset, nuisances: NDArray[np.float32], space: StateSpace, log_floor: float) -> Examples:
    """Simulated frames as the network sees them."""
    floors = (np.log(data.floors) - log_floor).astype(np.float32)
    states = (data.states_nm / space.range_nm).astype(np.float32)
    return Examples(*(torch.from_numpy(a) for a in (data.spectra, floors, states, nuisances)))


def learn_precision(network: PosteriorNetwork, data: Examples, seed: int) -> PrecisionMap:
    """What the network's posteriors are worth, by state: the precision of each frame's weightiest component."""
    keep = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:PRECISION_FRAMES]
    roots = []
    with torch.no_grad():
        for part in keep.split(256):
            chosen = data.chosen(part)
            mixture = network.mixture(network.summarise(chosen.spectra, chosen.log_floor))
            best = mixture.log_weight.argmax(-1)
            roots.append(whitening(mixture)[torch.arange(len(part)), best])
    white = torch.cat(roots).double().numpy()
    return fit_precision(data.states[keep].numpy(), np.swapaxes(white, 1, 2) @ white, seed)


def train_posterior(
    config: PosteriorTraining, out: Path, work: Path, frames: Path, progress: Progress, workers: int = 0
) -> PosteriorArtefact:
    """Everything from nothing (or from what `work` and `frames` already hold) to one weights file at `out`.

    Raises:
        ResumeError: `work` holds another configuration's files.
    """
    claim(work, config.plain(), ("calibration_runs",))
    with stopwatch(work / "seconds") as elapsed:
        trained = _train(config, work, frames, progress, workers)
    trained = replace(trained, provenance=dict(trained.provenance) | {"seconds": round(elapsed())})
    save(trained, out)
    return trained


def _train(config: PosteriorTraining, work: Path, frames: Path, progress: Progress, workers: int) -> PosteriorArtefact:
    """The stages one after the other."""
    whole, loop = (simulated(wanted, frames, progress, workers) for wanted in config.frame_sets)
    held = whole.days >= config.days - config.held_out_days
    log_floor = float(np.log(whole.floors).mean())
    ranges = DayRanges()
    hidden = day_nuisances(ranges, config.seed, whole.days)
    test = examples(whole.subset(held), hidden[held], config.space, log_floor)
    seen = np.concatenate([hidden[~held], day_nuisances(ranges, config.seed + LOOP_SEED, loop.days)])
    training = examples(joined([whole.subset(~held), loop]), seen, config.space, log_floor)
    network = fit_network(training, test, config, work, progress)
    state, rest = held_out(network, test)
    provenance = {
        "training": config.plain(),
        "ranges": asdict(ranges),
        "held_out_state_nats": round(state, 3),
        "held_out_nuisance_nats": round(rest, 3),
        "versions": {name: version(name) for name in ("torch", "numpy")},
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    precision = learn_precision(network, training, config.seed)
    trained = PosteriorArtefact(
        network, precision, config.space, config.optics, config.states, log_floor, 0.0, UNCALIBRATED, provenance
    )
    runs = config.calibration_runs
    controller = NeuralPosterior(config.space, trained, Options())
    deviances: list[float] = []
    correlation = intra_class_correlation(
        controller,
        config.optics,
        config.space,
        ranges,
        runs,
        config.seed,
        lambda done: progress("calibrating the posterior", done, runs, ""),
        lambda: deviances.append(deviance(controller.frames, controller.estimate().mean_nm)),
    )
    table = np.reshape(deviances, (runs, -1))
    moments = tuple((float(m), float(v)) for m, v in zip(table.mean(0), table.var(0, ddof=1), strict=True))
    torch.set_num_threads(threads)
    return replace(trained, correlation=correlation, deviance=moments)
