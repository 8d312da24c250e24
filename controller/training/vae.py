"""VAE of vae_em with its latent prior."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from controller.calibration import closed_loop, intra_class_correlation
from controller.dataset import Dataset, DayRanges, Recipe, StateMixture, nominal_ranges
from controller.frame_set import FrameSet, held_out, held_out_days, simulated
from controller.strategies import vae_em
from controller.symmetry import mirrored
from controller.vae_em import artefact, latent_figure, latent_map
from controller.vae_em.artefact import Artefact
from controller.vae_em.latent_map import LatentMap
from controller.vae_em.network import Vae, VaeConfig, elbo, encode_mean
from learning import optimisation
from learning.torch_state import one_thread, seeded
from learning.training import Training, TrainingRun, fit_network
from twin.optics import Optics
from twin.options import Count, Positive, validated
from twin.state import StateSpace

CALIBRATION_CANDIDATES = 500
PRIOR_STEPS = 200


@validated
class Options(optimisation.Options):
    """Settings of the training.

    Attributes:
        variant: days to train on: drawn at random for each group of frames, or the nominal one.
        days: simulated days; a twentieth is held out.
        frames_per_day: frames of each day.
        latent: latent dimension n_z; the paper's is the number of calibrated coefficients.
        renderer: of the frames: phase screens, or atoms and slices (some ten times slower), which the paper uses.
        preprocessing: "plain" is the paper's Hann window, transform and squared modulus; "normalised" also removes
            defective pixels, dose, gain and shot noise, smooths, and takes the logarithm of strong signals.
        modes: day modes of the latent map; a nominal training has none.
        kernel: kernel of the day-to-day deviation that the modes do not explain.
        gap_days: random days to which the kernel of a nominal training is fitted; its network, latent map and noise
            never see them.
        calibration_runs: closed-loop runs that calibrate the posterior, one simulated day each.
    """

    variant: Literal["random_days", "nominal"] = "random_days"
    days: Annotated[int, Ge(2)] = 1200
    frames_per_day: Annotated[int, Ge(2)] = 16
    latent: Count = 6
    renderer: Literal["fast", "multislice"] = "fast"
    preprocessing: Literal["normalised", "plain"] = "normalised"
    learning_rate: Positive = 3e-3
    modes: Annotated[int, Ge(0)] = 4
    kernel: Literal["rbf", "matern52", "matern32", "rational_quadratic"] = "rbf"
    gap_days: Annotated[int, Ge(0)] = 200
    calibration_runs: Count = 40

    def __post_init__(self) -> None:
        trained = (self.days - held_out_days(self.days)) * self.frames_per_day
        if trained < self.batch:
            raise ValueError(
                f"{trained} training frames do not fill a batch of {self.batch}; raise days or frames_per_day"
            )

    @property
    def ranges(self) -> DayRanges:
        """Distribution of the training days."""
        return DayRanges() if self.variant == "random_days" else nominal_ranges()

    @property
    def recipe(self) -> Recipe:
        """How the frames are simulated and read."""
        return Recipe(self.renderer, self.preprocessing)

    def frame_set(self, optics: Optics, space: StateSpace) -> FrameSet:
        """Simulated frames that the network learns from."""
        common = (self.days, self.frames_per_day, self.seed)
        return FrameSet(optics, space, self.ranges, StateMixture(), *common, recipe=self.recipe)


def held_out_bound(vae: Vae, spectra: Tensor, seed: int) -> float:
    """Evidence lower bound (ELBO) on held-out frames, nats per frame."""
    vae.eval()
    with torch.no_grad():
        log_likelihood, kl = elbo(vae, vae.standardise(spectra), torch.Generator().manual_seed(seed))
    return (log_likelihood - kl).item()


def fit(data: Dataset, options: Options, run: TrainingRun) -> tuple[Vae, float]:
    """Maximise the ELBO (eq 7); return the network and its ELBO on the held-out days."""
    held = held_out(data.days, options.days)
    train = torch.from_numpy(data.subset(~held).spectra)
    test = torch.from_numpy(data.subset(held).spectra).float()
    with seeded(options.seed):
        height, width = train.shape[1:]
        vae = Vae(VaeConfig(height, width, latent=options.latent, preprocessing=options.preprocessing))
    mean = train.float().mean(0)
    vae.offset.copy_(mean)
    vae.spread.fill_((train[::4].float() - mean).std())

    def loss(chosen: Tensor, generator: torch.Generator, passes: float) -> Tensor:
        chunk = mirrored(train[chosen].float(), torch.rand(len(chosen), generator=generator) < 0.5)
        log_likelihood, kl = elbo(vae, vae.standardise(chunk), generator)
        # The KL term is phased in over the first two epochs; at full weight from the start the latents collapse.
        return (min(1.0, 0.1 + passes / 2) * kl - log_likelihood) / 1000

    def note(_: int) -> str:
        return f"held-out ELBO {held_out_bound(vae, test, options.seed):.1f}"

    fit_network(vae, options, len(train), loss, run, "fitting the VAE", note, weight_decay=1e-4)
    return vae, held_out_bound(vae, test, options.seed)


def train(options: Options, run: TrainingRun) -> Artefact:
    """Simulate frames, fit the network, fit the latent prior, calibrate the posterior in closed loop."""
    data = simulated(options.frame_set(run.optics, run.space), run.frames, run.progress, run.workers)
    vae, bound = fit(data, options, run)
    figures = {"ranges": asdict(options.ranges), "held_out_elbo_nats": round(bound, 2)}
    with one_thread():
        trained = Artefact(vae, latent_prior(vae, data, options, run), run.optics, run.space.names, figures)
        return with_correlation(trained, closed_loop_correlation(trained, options, run))


def latent_prior(vae: Vae, data: Dataset, options: Options, run: TrainingRun) -> LatentMap:
    """Fit the latent map with its noise and kernel; the kernel of a nominal training to the gap of random days."""
    prior = latent_map.fit(
        data.states_nm,
        data.floors,
        encode_mean(vae, data.spectra),
        data.days,
        run.space.range_nm,
        options.modes if options.variant == "random_days" else 0,
        options.kernel,
        PRIOR_STEPS,
        lambda step, loss: run.progress("fitting the prior", step + 1, PRIOR_STEPS, f"loss {loss:.4f}"),
    )
    if options.variant == "random_days" or not options.gap_days:
        return prior
    wanted = replace(options, variant="random_days", days=options.gap_days).frame_set(run.optics, run.space)
    gap = simulated(wanted, run.frames, run.progress, run.workers)
    return latent_map.widened(
        prior,
        gap.states_nm,
        gap.floors,
        encode_mean(vae, gap.spectra),
        gap.days,
        PRIOR_STEPS,
        lambda step, loss: run.progress("fitting the kernel", step + 1, PRIOR_STEPS, f"loss {loss:.4f}"),
    )


def closed_loop_correlation(trained: Artefact, options: Options, run: TrainingRun) -> float:
    """Intra-class correlation of the errors of a run's frames, from closed-loop runs without it."""
    runs = options.calibration_runs
    distances = closed_loop(
        vae_em.VaeEm(run.space, with_correlation(trained, 0.0), vae_em.Options(candidates=CALIBRATION_CANDIDATES)),
        run.optics,
        run.space,
        options.ranges,
        runs,
        options.seed,
        lambda done: run.progress("calibrating the posterior", done, runs, ""),
        recipe=options.recipe,
    )
    return intra_class_correlation(distances, run.space.dimension)


def with_correlation(trained: Artefact, correlation: float) -> Artefact:
    """Return the artefact with this intra-class correlation in its likelihood."""
    fitted = replace(trained.prior.hyperparameters, correlation=correlation)
    return replace(trained, prior=replace(trained.prior, hyperparameters=fitted))


def label(options: Options) -> str:
    """Return a name by variant."""
    usual = Options()
    chosen = [getattr(options, name) for name in ("latent", "renderer", "preprocessing")]
    unusual = [str(value) for value in chosen if value not in (usual.latent, usual.renderer, usual.preprocessing)]
    return "_".join(["vae", options.variant, *unusual])


def summary(trained: Artefact, run: TrainingRun) -> Mapping[str, str]:
    """Draw the latent space in the work folder; return the held-out ELBO and what the figure shows."""
    path: Path = run.work / "latent_space.png"
    ratio = latent_figure.draw(trained, run.space, path)
    return {
        "held-out ELBO": f"{trained.provenance['held_out_elbo_nats']:.1f} nats per frame",
        "latent space": f"{path} (antipodes at {ratio:.2f} of a random pair's distance)",
    }


TRAINING = Training(
    Options,
    train,
    artefact.WEIGHTS,
    summary,
    last_stages=("modes", "kernel", "gap_days", "calibration_runs"),
    label=label,
    controllers=("vae_em",),
)
