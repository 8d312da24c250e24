"""Neural posterior of neural_posterior and kalman."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from controller.calibration import OBSERVATIONS, closed_loop, holding_correlation
from controller.dataset import PLAIN_FRAMES, DayRanges, Recipe, joined
from controller.frame_set import held_out, simulated
from controller.posterior import artefact, misfit
from controller.posterior.artefact import Moments, PosteriorArtefact, scaled_directions
from controller.posterior.check import FrameCheck, fit_check
from controller.posterior.examples import (
    HIGHER_NM,
    WIDE_FRAMES,
    Examples,
    Symmetries,
    day_ranges,
    frame_sets,
    mirror_mean,
    nuisances_behind,
    state_mixture,
)
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
from controller.strategies import neural_posterior
from learning import optimisation
from learning.torch_state import one_thread, seeded
from learning.training import Training, TrainingRun, fit_network
from twin.arrays import Array
from twin.optics import Optics
from twin.options import Count, NonNegative, validated
from twin.state import SECOND_ORDER

SPACE = SECOND_ORDER
"""Trained for, whatever the scenario calibrates: one network serves both orders."""
FIRST = SPACE.only(SPACE.is_first_order)
PRECISION_FRAMES = 8000
UNCALIBRATED: dict[str, Moments] = {}
"""Moments of the OOD measures before the closed-loop runs."""


@validated
class Options(optimisation.Options):
    """Settings of the training.

    Attributes:
        variant: "plain" days at the beam of the scenario, or "wide": days of all kinds at all beams (`departures`).
        days: simulated days over the whole range; a twentieth is held out.
        loop_days: further days, with states where a closed loop takes its frames.
        frames_per_day: frames of each day.
        weight_decay: weight decay of AdamW.
        calibration_runs: closed-loop runs that calibrate the posterior, one simulated day each.
    """

    variant: Literal["plain", "wide"] = "plain"
    days: Annotated[int, Ge(2)] = 750
    loop_days: Count = 950
    frames_per_day: Annotated[int, Ge(2)] = 16
    weight_decay: NonNegative = 1e-2
    calibration_runs: Count = 100

    @property
    def recipe(self) -> Recipe:
        """How the frames are simulated."""
        return WIDE_FRAMES if self.variant == "wide" else PLAIN_FRAMES

    def __post_init__(self) -> None:
        if self.days * self.frames_per_day < 2 * self.batch:
            raise ValueError(
                f"{self.days} days of {self.frames_per_day} frames do not fill two batches of {self.batch}"
            )


def losses(network: PosteriorNetwork, examples: Examples, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean negative log densities, nats: state, nuisances given the state, local states of the sub-areas.

    Args:
        network: of the posterior.
        examples: frames.
        directions: local states per unit of the second order, scaled, (P, n, m).
    """
    features, areas = network.summarise(examples.spectra, examples.patches, examples.told)
    state = -log_density(network.mixture(features), examples.states)
    nuisances = -nuisance_log_density(network.nuisances(features, examples.states), examples.nuisances)
    local = examples.states[:, None] + torch.einsum("pnm,im->ipn", directions, examples.higher)
    return state.mean(), nuisances.mean(), -log_density(network.local_mixture(areas), local).mean()


def held_out_losses(network: PosteriorNetwork, examples: Examples, directions: Tensor) -> tuple[float, ...]:
    """`losses` over all examples, in evaluation mode."""
    network.eval()
    total = np.zeros(3)
    with torch.no_grad():
        for part in torch.arange(len(examples)).split(256):
            means = losses(network, examples.chosen(part), directions)
            total += [loss.item() * len(part) / len(examples) for loss in means]
    return tuple(total.tolist())


def fit(training: Examples, test: Examples, options: Options, run: TrainingRun) -> PosteriorNetwork:
    """Maximise the log posterior density of states and nuisance parameters."""
    height, width = training.spectra.shape[1:]
    parts, patch_height = training.patches.shape[1:3]
    with seeded(options.seed):
        network = PosteriorNetwork(PosteriorConfig(FIRST.dimension, height, width, parts, patch_height))
    network.offset.copy_(mirror_mean(training.spectra[::4].float().mean(0)))
    network.spread.fill_((training.spectra[::8].float() - network.offset[0]).std())
    network.patch_offset.copy_(mirror_mean(training.patches[::4].float().mean((0, 1))))
    network.patch_spread.fill_((training.patches[::8].float() - network.patch_offset).std())
    symmetries, directions = Symmetries.of(FIRST), _directions(run.optics)

    def loss(chosen: Tensor, generator: torch.Generator, _: float) -> Tensor:
        state, nuisances, local = losses(network, symmetries.scramble(training.chosen(chosen), generator), directions)
        return state + nuisances + local

    def note(_: int) -> str:
        return "held out " + " + ".join(f"{loss:.3f}" for loss in held_out_losses(network, test, directions)) + " nats"

    decay = options.weight_decay
    fit_network(network, options, len(training), loss, run, "fitting the posterior", note, decay, clip=5.0)
    return network.eval()


def _directions(optics: Optics) -> Tensor:
    return torch.from_numpy(scaled_directions(optics, FIRST, HIGHER_NM)).float()


@dataclass(frozen=True)
class Outputs:
    """Outputs of the network for single frames taken at known states, (N, ...).

    Attributes:
        states: scaled, (N, n).
        higher: true second order, (N, m).
        nuisances: of the day, (N, C).
        features: see `PosteriorNetwork.summarise`, (N, F).
        precision: of the mixture component with the largest weight, (N, n, n).
        matrix, vector: information on the second order at the known state, see `sub_areas.information`.
    """

    states: NDArray[np.float32]
    higher: Array
    nuisances: Tensor
    features: Tensor
    precision: Array
    matrix: Array
    vector: Array

    def check(self, seed: int) -> FrameCheck:
        """Fit the check of single frames."""
        return fit_check(self.features, torch.from_numpy(self.states), self.nuisances, seed)


def evaluate(network: PosteriorNetwork, data: Examples, options: Options, optics: Optics) -> Outputs:
    """Evaluate the network on a random `PRECISION_FRAMES` of the examples."""
    directions, mixture_of_states = _directions(optics).double().numpy(), state_mixture(options.days, options.loop_days)
    keep = torch.randperm(len(data), generator=torch.Generator().manual_seed(options.seed))[:PRECISION_FRAMES]
    m = directions.shape[2]
    roots, all_features, matrix, vector = [], [], np.empty((len(keep), m, m)), np.empty((len(keep), m))
    with torch.no_grad():
        for start in range(0, len(keep), 256):
            chosen = data.chosen(keep[start : start + 256])
            features, areas = network.summarise(chosen.spectra, chosen.patches, chosen.told)
            all_features.append(features)
            mixture = network.mixture(features)
            best = mixture.log_weight.argmax(-1)
            roots.append(whitening(mixture)[torch.arange(len(best)), best])
            local, states = packed(network.local_mixture(areas)), chosen.states.double().numpy()
            columns = states.T.copy()
            curvature = mixture_of_states.precision(FIRST, columns, mixture_of_states.log_density(FIRST, columns))
            of_areas = sub_areas.ready(local, directions)
            for i in range(len(local)):
                row, one = slice(start + i, start + i + 1), slice(i, i + 1)
                sub_areas.information(of_areas.frame(i), states[one], curvature[one], 1.0, matrix[row], vector[row])
    white = torch.cat(roots).double().numpy()
    precision = np.swapaxes(white, 1, 2) @ white
    higher = data.higher[keep].double().numpy()
    known = (data.states[keep].numpy(), higher, data.nuisances[keep], torch.cat(all_features))
    return Outputs(*known, precision, matrix, vector)


def calibrated_weight(outputs: Outputs) -> float:
    """Maximum-likelihood weight of the sub-areas, which overlap, for the second order of frames where it is known.

    Maximises log N(c; (I + w A)^-1 w b, (I + w A)^-1) over w.
    """
    eye = np.eye(outputs.vector.shape[1])

    def loss(log_weight: float) -> float:
        w = math.exp(log_weight)
        precision = eye + w * outputs.matrix
        offset = outputs.higher - np.linalg.solve(precision, w * outputs.vector[..., None])[..., 0]
        quadratic = np.einsum("ni,nij,nj->n", offset, precision, offset)
        return float(np.mean(0.5 * quadratic - 0.5 * np.linalg.slogdet(precision)[1]))

    return math.exp(minimize_scalar(loss, bounds=(math.log(0.02), math.log(5.0)), method="bounded").x)


def training_and_test(options: Options, run: TrainingRun) -> tuple[Examples, Examples, float]:
    """Simulate both sets of frames; return training and held-out examples, and the mean log shot-noise floor."""
    numbers = (options.days, options.loop_days, options.frames_per_day, options.seed)
    sets = frame_sets(run.optics, *numbers, options.recipe)
    whole, loop = (simulated(frames, run.frames, run.progress, run.workers) for frames in sets)
    held = held_out(whole.days, options.days)
    log_floor = float(np.log(whole.floors).mean())
    of_whole, of_loop = (nuisances_behind(data, frames) for data, frames in zip((whole, loop), sets, strict=True))
    nuisances = np.concatenate([of_whole[~held], of_loop])
    training = Examples.of(joined([whole.subset(~held), loop]), nuisances, SPACE, log_floor)
    return training, Examples.of(whole.subset(held), of_whole[held], SPACE, log_floor), log_floor


def train(options: Options, run: TrainingRun) -> PosteriorArtefact:
    """Simulate frames, fit the network, fit its precision and checks, calibrate the posterior in closed loop."""
    training, test, log_floor = training_and_test(options, run)
    network = fit(training, test, options, run)
    state, nuisances, local = held_out_losses(network, test, _directions(run.optics))
    figures = {
        "ranges": asdict(day_ranges()),
        "held_out_state_nats": round(state, 3),
        "held_out_nuisance_nats": round(nuisances, 3),
        "held_out_local_nats": round(local, 3),
    }
    run.progress("fitting precision and checks", 0, 1, "")
    with one_thread():
        on_training, on_test = (evaluate(network, data, options, run.optics) for data in (training, test))
        weight = calibrated_weight(on_test)
        information = np.eye(len(sub_areas.NAMES)) + weight * on_training.matrix
        trained = PosteriorArtefact(
            network,
            fit_precision(on_training.states, on_training.precision, options.seed),
            fit_precision(on_training.states, information, options.seed),
            on_training.check(options.seed),
            SPACE,
            run.optics,
            state_mixture(options.days, options.loop_days),
            log_floor,
            weight,
            0.0,
            UNCALIBRATED,
            figures,
        )
        run.progress("fitting precision and checks", 1, 1, "")
        return calibrated(trained, options, run)


def calibrated(trained: PosteriorArtefact, options: Options, run: TrainingRun) -> PosteriorArtefact:
    """Calibrate the OOD measures, then the correlation, on closed-loop runs over simulated days.

    In this order, because the second pass then restarts and widens its regions as any run does.
    """
    _, measures = _runs(trained, options, lambda done: run.progress("OOD measures", done, options.calibration_runs, ""))
    known = replace(trained, usual=misfit.training_moments(measures))
    distances, _ = _runs(known, options, lambda done: run.progress("calibrating", done, options.calibration_runs, ""))
    return replace(known, correlation=holding_correlation(distances, FIRST.dimension))


def _runs(
    trained: PosteriorArtefact, options: Options, report: Callable[[int], None]
) -> tuple[Array, list[list[dict[str, float]]]]:
    """Squared distances of closed-loop runs, (R, T), and the OOD measures after every frame of each."""
    controller = neural_posterior.NeuralPosterior(FIRST, trained, neural_posterior.Options())
    measures: list[dict[str, float]] = []

    def watch() -> None:
        measures.append(controller.measures())

    days = (DayRanges(), options.calibration_runs, options.seed)
    distances = closed_loop(controller, trained.optics, FIRST, *days, report, watch, options.recipe)
    return distances, [measures[k : k + OBSERVATIONS] for k in range(0, len(measures), OBSERVATIONS)]


def label(options: Options) -> str:
    """Name of the weights."""
    return "posterior" if options.variant == "plain" else "posterior_wide"


def summary(trained: PosteriorArtefact, _: TrainingRun) -> Mapping[str, str]:
    """Return the held-out losses and the correlation."""
    figures = trained.provenance
    state, nuisances = figures["held_out_state_nats"], figures["held_out_nuisance_nats"]
    return {
        "held out": f"{state:.2f} nats per state, {nuisances:.2f} per day",
        "correlation": f"{trained.correlation:.3f} between the errors of a run's frames",
    }


TRAINING = Training(
    Options,
    train,
    artefact.WEIGHTS,
    summary,
    last_stages=("calibration_runs",),
    further=lambda options, run: {"space": asdict(SPACE)},
    label=label,
    controllers=("neural_posterior", "kalman"),
)
