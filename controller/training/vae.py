"""Training a VAE and its latent prior from nothing: simulate, fit, calibrate the prior, write one file.

Resumable at every stage: simulated days and the network's state after each epoch stay in a work folder.
Nothing is pickled.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controller.calibration import closed_loop, intra_class_correlation
from controller.dataset import Dataset, DayRanges, StateMixture, nominal_ranges
from controller.strategies.vae_em import Options, VaeEm
from controller.symmetry import mirrored
from controller.training.frames import FrameSet, Progress, simulated
from controller.training.optimisation import load_checkpoint, one_epoch, save_checkpoint
from controller.vae_em import artefact, latent_map
from controller.vae_em.artefact import Artefact
from controller.vae_em.latent_gp import KERNEL_CODES
from controller.vae_em.latent_map import LatentMap
from controller.vae_em.network import Vae, VaeConfig, elbo, encode_mean
from twin.errors import StemtwinError
from twin.optics import Optics
from twin.state import StateSpace

Array = NDArray[np.floating]

CALIBRATION_CANDIDATES = 500
PRIOR_KEYS = ("modes", "kernel", "gap_days", "calibration_runs")
"""Settings of the last stages only: another value does not invalidate a work folder."""


class ResumeError(StemtwinError, ValueError):
    """A work folder that belongs to another configuration."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training follows from.

    Attributes:
        optics, space: instrument and task.
        variant: "random_days" draws a day per group of frames; "nominal" knows one day only.
        days: simulated days; a twentieth is held out.
        frames_per_day: frames of each.
        latent: latent dimension n_z.
        epochs, batch, learning_rate: of the network.
        modes: day modes of the latent map; a nominal training has none.
        kernel: of the day-to-day deviation that they leave.
        gap_days: random days that tell a nominal training's kernel how far a real day may stray; its network,
            map and noise never see them.
        calibration_runs: closed-loop runs that calibrate the posterior, one simulated day each.
        seed: of everything.
    """

    optics: Optics
    space: StateSpace
    variant: Literal["random_days", "nominal"] = "random_days"
    days: int = 1200
    frames_per_day: int = 16
    latent: int = 6
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 3e-3
    modes: int = 4
    kernel: str = "rbf"
    gap_days: int = 200
    calibration_runs: int = 40
    seed: int = 1

    def __post_init__(self) -> None:
        trained = (self.days - self.held_out_days) * self.frames_per_day
        if trained < self.batch:
            raise ValueError(
                f"{trained} training frames do not fill a batch of {self.batch}; raise days or frames_per_day"
            )
        if self.kernel not in KERNEL_CODES:  # said before the simulation, not after it
            raise ValueError(f"{self.kernel!r} is not a kernel; known: {', '.join(KERNEL_CODES)}")

    @property
    def ranges(self) -> DayRanges:
        """Where its days come from."""
        return DayRanges() if self.variant == "random_days" else nominal_ranges()

    @property
    def frame_set(self) -> FrameSet:
        """The simulated frames that it learns from."""
        days, frames = self.days, self.frames_per_day
        return FrameSet(self.optics, self.space, self.ranges, StateMixture(), days, frames, self.seed)

    @property
    def held_out_days(self) -> int:
        """Days that the network never sees."""
        return max(1, self.days // 20)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def held_out_bound(vae: Vae, spectra: Tensor, seed: int) -> float:
    """Evidence lower bound on frames that were not trained on, nats per frame."""
    vae.eval()
    with torch.no_grad():
        log_likelihood, kl = elbo(vae, vae.standardise(spectra), torch.Generator().manual_seed(seed))
    return (log_likelihood - kl).item()


def fit_vae(data: Dataset, config: TrainConfig, work: Path, progress: Progress) -> tuple[Vae, float]:
    """Maximise the ELBO (eq 7); a checkpoint after every epoch. Returns the network and its held-out bound."""
    held = data.days >= config.days - config.held_out_days
    train = torch.from_numpy(data.subset(~held).spectra)
    test = torch.from_numpy(data.subset(held).spectra).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        vae = Vae(VaeConfig(latent=config.latent, height=train.shape[1], width=train.shape[2]))
    mean = train.float().mean(0)
    vae.offset.copy_(mean)
    vae.spread.fill_((train[::4].float() - mean).std())

    def loss(chosen: Tensor, generator: torch.Generator, passes: float) -> Tensor:
        chunk = mirrored(train[chosen].float(), torch.rand(len(chosen), generator=generator) < 0.5)
        log_likelihood, kl = elbo(vae, vae.standardise(chunk), generator)
        # KL is phased in over the first two epochs, or the latents never wake up.
        return (min(1.0, 0.1 + passes / 2) * kl - log_likelihood) / 1000

    optimiser = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    checkpoint = work / "vae.safetensors"
    done = load_checkpoint(vae, optimiser, checkpoint) if checkpoint.exists() else 0
    bound = held_out_bound(vae, test, config.seed) if done else float("nan")
    for epoch in range(done, config.epochs):
        one_epoch(vae, optimiser, config, epoch, len(train), loss)
        save_checkpoint(vae, optimiser, epoch + 1, checkpoint)
        bound = held_out_bound(vae, test, config.seed)
        progress("fitting the VAE", epoch + 1, config.epochs, f"held-out ELBO {bound:.1f}")
    return vae, bound


def train_vae(
    config: TrainConfig, out: Path, work: Path, frames: Path, progress: Progress, workers: int = 0
) -> Artefact:
    """Everything from nothing (or from what `work` and `frames` already hold) to one weights file at `out`.

    Raises:
        ResumeError: `work` holds another configuration's files.
    """
    trained = timed_in(work, config.plain(), PRIOR_KEYS, lambda: _train(config, work, frames, progress, workers))
    artefact.save(trained, out)
    return trained


Trained = TypeVar("Trained", bound=Any)


def timed_in(work: Path, mine: dict[str, Any], free: tuple[str, ...], train: Callable[[], Trained]) -> Trained:
    """`train` in a claimed work folder; its result's `provenance` tells the seconds, over all calls there.

    Raises:
        ResumeError: `work` holds another configuration's files.
    """
    claim(work, mine, free)
    with stopwatch(work / "seconds") as elapsed:
        trained = train()
    provenance = dict(trained.provenance) | {"seconds": round(elapsed())}
    return replace(trained, provenance=provenance)


@contextmanager
def stopwatch(path: Path) -> Iterator[Callable[[], float]]:
    """Seconds spent on a work folder over all calls, interrupted ones included."""
    earlier = float(path.read_text()) if path.exists() else 0.0
    begun = time.monotonic()

    def elapsed() -> float:
        return earlier + time.monotonic() - begun

    try:
        yield elapsed
    finally:
        path.write_text(str(elapsed()))


def _train(config: TrainConfig, work: Path, frames: Path, progress: Progress, workers: int) -> Artefact:
    """The stages one after the other."""
    data = simulated(config.frame_set, frames, progress, workers)
    threads = torch.get_num_threads()
    vae, bound = fit_vae(data, config, work, progress)
    torch.set_num_threads(1)  # small batched Cholesky is many times slower with two
    steps = 200
    prior = latent_map.fit(
        data.states_nm,
        data.floors,
        encode_mean(vae, data.spectra),
        data.days,
        config.space.range_nm,
        config.modes if config.variant == "random_days" else 0,
        config.kernel,
        steps,
        lambda step, loss: progress("fitting the prior", step + 1, steps, f"loss {loss:.4f}"),
    )
    if config.variant == "nominal" and config.gap_days:
        prior = _widened(prior, vae, config, frames, progress, workers)
    provenance = {
        "training": config.plain(),
        "ranges": asdict(config.ranges),
        "held_out_elbo_nats": round(bound, 2),
        "versions": {name: version(name) for name in ("torch", "gpytorch", "numpy")},
    }
    trained = Artefact(vae, prior, config.optics, config.space.names, provenance)
    runs = config.calibration_runs
    distances = closed_loop(
        VaeEm(config.space, with_correlation(trained, 0.0), Options(candidates=CALIBRATION_CANDIDATES)),
        config.optics,
        config.space,
        config.ranges,
        runs,
        config.seed,
        lambda done: progress("calibrating the posterior", done, runs, ""),
    )
    torch.set_num_threads(threads)
    return with_correlation(trained, intra_class_correlation(distances, config.space.dimension))


def with_correlation(trained: Artefact, correlation: float) -> Artefact:
    """The artefact with this intra-class correlation in its likelihood."""
    fitted = replace(trained.prior.hyperparameters, correlation=correlation)
    return replace(trained, prior=replace(trained.prior, hyperparameters=fitted))


def _widened(
    prior: LatentMap, vae: Vae, config: TrainConfig, frames: Path, progress: Progress, workers: int
) -> LatentMap:
    """A nominal prior whose kernel expects the gap that random days show."""
    wanted = replace(config, variant="random_days", days=config.gap_days).frame_set
    gap = simulated(wanted, frames, progress, workers)
    steps = 200
    return latent_map.widened(
        prior,
        gap.states_nm,
        gap.floors,
        encode_mean(vae, gap.spectra),
        gap.days,
        steps,
        lambda step, loss: progress("fitting the kernel", step + 1, steps, f"loss {loss:.4f}"),
    )


def claim(work: Path, mine: dict[str, Any], free: tuple[str, ...]) -> None:
    """Mark a work folder with its configuration, or make sure that it is the same but for the `free` keys.

    Raises:
        ResumeError: it is another.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / "config.json"
    if path.exists():
        theirs = json.loads(path.read_text())
        changed = sorted(key for key in mine if key not in free and theirs.get(key) != mine[key])
        if changed:
            raise ResumeError(
                f"{work} holds a training with other {', '.join(changed)}; choose another folder or delete it"
            )
    path.write_text(json.dumps(mine, indent=1))
