"""Candidates weighed by the product of frame posteriors, through the known inputs.

`p(x0 | frames) ~ p(x0) prod_k q(x_k | frame_k) / p(x_k) * integral dc p(c) prod_k q(c | frame_k, x_k) / p(c)` with
x_k = x0 + U_k: the unknowns c, a day's nuisances and the second order of the aberrations, are common to the frames or
move by known inputs. They are integrated out in closed form, per candidate: a Kalman filter inside every particle
(Rao-Blackwell; Doucet et al., UAI 2000). The candidate set and its refinement are VAE-EM's (`candidates.py`).
"""

from dataclasses import dataclass, replace

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from controller import candidates as sets
from controller.base import Estimate
from controller.candidates import Candidates, Refinement
from controller.posterior.artefact import PosteriorArtefact
from controller.posterior.network import NUISANCES, log_densities, packed
from controller.preprocess import Patches, Spectrum
from controller.spectrum import sub_areas
from twin.state import StateSpace

Array = NDArray[np.floating]

UNKNOWNS = (*NUISANCES, *sub_areas.NAMES)
"""Integrated out, all of about unit variance: C in number."""
HIGHER = slice(len(NUISANCES), len(UNKNOWNS))
"""The second order among them."""
FORGOTTEN = 1e-3
"""Weight below which a frame is dropped."""
DOUBT = 1e-3
"""Probability that a frame says nothing at all: bounds what one bad frame can do."""
EVALUATIONS = 4800
"""Candidates times frames up to which a refinement keeps all candidates; see `wanted`."""
FEWEST = 240
"""Candidates that are kept however many frames there are."""


@dataclass(frozen=True)
class FramePosteriors:
    """What the frames of a run say.

    Attributes:
        trained: network, and what its posteriors are divided by.
        prior: precision of each of `UNKNOWNS` before any frame, (C,).
        features: of each frame, (T, F).
        mixtures: of each frame, (T, K, 1 + n + n n), see `posterior.network.packed`.
        areas: of each frame's sub-areas, likewise, (T, P, K, 1 + n + n n).
        inputs_nm: cumulative inputs to the first order, (T, n).
        shifts: what the inputs have moved the unknowns by, in their units, (T, C).
        weights: how much each still counts, (T,); None: all in full.
        dispersion: what the variances that they tell are multiplied by, see `scatter.dispersion`.
    """

    trained: PosteriorArtefact
    prior: Array
    features: torch.Tensor
    mixtures: NDArray[np.float32]
    areas: NDArray[np.float32]
    inputs_nm: Array
    shifts: Array
    weights: Array | None = None
    dispersion: float = 1.0

    @classmethod
    def none(cls, trained: PosteriorArtefact, space: StateSpace) -> "FramePosteriors":
        """No frame yet, of a run in `space`: the first order, with the second or without."""
        n, count, network = trained.first.dimension, len(UNKNOWNS), trained.network
        prior = np.ones(count)
        higher = ~space.is_first_order
        if higher.any():
            # Uniform in the start box: a normal of the same variance.
            prior[HIGHER] = 3 * (trained.higher_nm / space.start[higher]) ** 2
        of_one = (network.config.components, 1 + n + n * n)
        return cls(
            trained,
            prior,
            torch.zeros((0, network.read)),
            np.zeros((0, *of_one), np.float32),
            np.zeros((0, network.config.patches, *of_one), np.float32),
            np.zeros((0, n)),
            np.zeros((0, count)),
        )

    def __len__(self) -> int:
        return len(self.inputs_nm)

    def append(self, spectrum: Spectrum, patches: Patches, input_nm: Array) -> "FramePosteriors":
        """With one more frame, taken at a cumulative input, of the first order or of the whole state."""
        trained, n = self.trained, self.trained.first.dimension
        floor = torch.tensor([np.log(spectrum.floor) - trained.log_floor], dtype=torch.float32)
        with torch.no_grad():
            whole, parts = torch.from_numpy(spectrum.values[None]), torch.from_numpy(patches.values[None])
            features, seen = trained.network.summarise(whole, parts, floor)
            mixture, areas = packed(trained.network.mixture(features)), packed(trained.network.local_mixture(seen))
        shift = np.zeros(len(UNKNOWNS))
        if len(input_nm) > n:
            shift[HIGHER] = input_nm[n:] / trained.higher_nm
        return replace(
            self,
            features=torch.cat([self.features, features]),
            mixtures=np.concatenate([self.mixtures, mixture]),
            areas=np.concatenate([self.areas, areas]),
            inputs_nm=np.vstack([self.inputs_nm, input_nm[:n]]),
            shifts=np.vstack([self.shifts, shift]),
            weights=None if self.weights is None else np.append(self.weights, 1.0),
        )

    @property
    def shares(self) -> Array:
        """How much each frame still counts, (T,)."""
        return np.ones(len(self)) if self.weights is None else self.weights

    @property
    def count(self) -> float:
        """Frames, each by its weight."""
        return float(self.shares.sum())

    def faded(self, share: float) -> "FramePosteriors":
        """Counting only so much any more; a frame below `FORGOTTEN` is dropped."""
        weights = self.shares * share
        keep = weights > FORGOTTEN
        return replace(
            self,
            features=self.features[torch.from_numpy(keep)],
            mixtures=self.mixtures[keep],
            areas=self.areas[keep],
            inputs_nm=self.inputs_nm[keep],
            shifts=self.shifts[keep],
            weights=weights[keep],
        )

    @property
    def effect(self) -> float:
        """By how much fewer frames these count: for errors that they share, and for scatter beyond what they tell."""
        return (1.0 + max(0, self.count - 1) * self.trained.correlation) * self.dispersion


@dataclass(frozen=True)
class Evidence:
    """What frames say of M candidates, in the unknowns' information form; adds up over frames.

    Attributes:
        log_ratio: terms free of the unknowns, (M,).
        vector: information vector, (M, C).
        matrix: information matrix beyond the prior's, (M, C, C).
    """

    log_ratio: Array
    vector: Array
    matrix: Array

    @classmethod
    def none(cls, count: int) -> "Evidence":
        """Of no frame."""
        c = len(UNKNOWNS)
        return cls(np.zeros(count), np.zeros((count, c)), np.zeros((count, c, c)))

    def __add__(self, other: "Evidence") -> "Evidence":
        return Evidence(self.log_ratio + other.log_ratio, self.vector + other.vector, self.matrix + other.matrix)

    def faded(self, share: float) -> "Evidence":
        """Of frames that count only so much any more."""
        return Evidence(share * self.log_ratio, share * self.vector, share * self.matrix)

    def kept(self, keep: NDArray[np.int64]) -> "Evidence":
        """Of some candidates."""
        return Evidence(self.log_ratio[keep], self.vector[keep], self.matrix[keep])

    def joined(self, other: "Evidence") -> "Evidence":
        """Of two groups of candidates, after the same frames."""
        pairs = ((self.log_ratio, other.log_ratio), (self.vector, other.vector), (self.matrix, other.matrix))
        return Evidence(*(np.concatenate(pair) for pair in pairs))

    def unknowns(self, keep: NDArray[np.int64], prior: Array, effect: float) -> tuple[Array, Array]:
        """Posterior mean (N, C) and covariance (N, C, C) of the unknowns if each of these candidates is the truth."""
        cov = np.linalg.inv(self.matrix[keep] / effect + np.diag(prior))
        return np.einsum("nij,nj->ni", cov, self.vector[keep] / effect), cov

    def log_likelihood(self, prior: Array) -> Array:
        """Unknowns of this prior precision (C,) integrated out, (M,), up to a constant."""
        out = np.empty(len(self.log_ratio))
        _integrated(self.log_ratio, self.vector, self.matrix, prior, out)
        return out


@numba.njit(cache=True)
def _half_log_det_and_solve(matrix, vector, lower, white):  # type: ignore[no-untyped-def]
    """Half log det of a positive definite matrix (C, C) and v' M^-1 v; `lower` and `white` are room to work in."""
    count = len(vector)
    half, quadratic = 0.0, 0.0
    for i in range(count):
        white[i] = vector[i]
        for j in range(i + 1):
            value = matrix[i, j]
            for k in range(j):
                value -= lower[i, k] * lower[j, k]
            if i == j:
                lower[i, i] = np.sqrt(max(value, 1e-12))
                half += np.log(lower[i, i])
            else:
                lower[i, j] = value / lower[j, j]
        for k in range(i):
            white[i] -= lower[i, k] * white[k]
        white[i] /= lower[i, i]
        quadratic += white[i] * white[i]
    return half, quadratic


@numba.njit(cache=True)
def _integrated(log_ratio, vector, matrix, prior, out):  # type: ignore[no-untyped-def]
    """log integral of exp(v'c - c'(A + diag prior) c / 2) dc plus the rest, for every candidate."""
    candidates, count = vector.shape
    total, lower, white = np.empty((count, count)), np.zeros((count, count)), np.empty(count)
    for m in range(candidates):
        total[:] = matrix[m]
        for i in range(count):
            total[i, i] += prior[i]
        half, quadratic = _half_log_det_and_solve(total, vector[m], lower, white)
        out[m] = log_ratio[m] - half + 0.5 * quadratic


@numba.njit(cache=True)
def _add_gaussian(matrix, vector, shift, trust, first, log_ratio, to_vector, to_matrix):  # type: ignore[no-untyped-def]
    """Add `[q(c + shift) / p(c + shift)]^trust` as a function of c to an `Evidence`, for every candidate.

    q / p = exp(b'c - c'Ac / 2) / Z with p standard normal and q normalised, so that q has precision I + A.

    Args:
        matrix: A, (M, d, d).
        vector: b, (M, d).
        shift: (d,).
        trust: (M,).
        first: of the d unknowns among all.
        log_ratio, to_vector, to_matrix: of the evidence, added to.
    """
    candidates, count = vector.shape
    precision, lower, white = np.empty((count, count)), np.zeros((count, count)), np.empty(count)
    for m in range(candidates):
        share, constant = trust[m], 0.0
        for i in range(count):
            moved = 0.0
            for j in range(count):
                precision[i, j] = matrix[m, i, j]
                to_matrix[m, first + i, first + j] += share * matrix[m, i, j]
                moved += matrix[m, i, j] * shift[j]
            precision[i, i] += 1.0
            to_vector[m, first + i] += share * (vector[m, i] - moved)
            constant += shift[i] * (vector[m, i] - 0.5 * moved)
        half, quadratic = _half_log_det_and_solve(precision, vector[m], lower, white)
        log_ratio[m] += share * (constant + half - 0.5 * quadratic)


def _of_gain(mean: Array, root: Array) -> tuple[Array, Array]:
    """A (..., d, d) and b (..., d) of a `Gain`: precision I + A = I + root root', and precision times mean."""
    matrix = root @ root.swapaxes(-1, -2)
    return matrix, np.einsum("...ij,...j->...i", matrix, mean) + mean


def evidence(frames: FramePosteriors, states_nm: Array, first: int = 0) -> Evidence:
    """What the frames from `first` on say of candidates (M, n) of the first order.

    A frame that cannot have been taken at a candidate's state says nothing of the day either: the network never saw
    such a pair, so what it would say counts only as far as the frame's posterior admits the state.
    """
    space, network = frames.trained.first, frames.trained.network
    found = Evidence.none(len(states_nm))
    scaled = (states_nm[None] + frames.inputs_nm[first:, None]) / space.range_nm
    weights = frames.shares[first:]
    trust, one, held = np.empty(scaled.shape[:2]), np.empty(len(states_nm)), []
    for mixture, visited, weight, share in zip(frames.mixtures[first:], scaled, weights, trust, strict=True):
        columns = np.ascontiguousarray(visited.T)
        log_densities(mixture, columns, one)
        density = frames.trained.states.log_density(space, columns)
        held.append(frames.trained.states.precision(space, columns, density))
        ratio = (1 - DOUBT) * np.exp(np.minimum(one - density, 50.0))
        found.log_ratio[:] += weight * np.log(ratio + DOUBT)
        share[:] = weight * ratio / (ratio + DOUBT)
    with torch.no_grad():
        gain = network.nuisances(frames.features[first:, None], torch.from_numpy(scaled).float())
    known = _of_gain(gain.mean.numpy(), gain.root.numpy())
    to = (found.log_ratio, found.vector, found.matrix)
    count, unknowns = len(states_nm), HIGHER.stop - HIGHER.start
    matrix, vector = np.empty((count, unknowns, unknowns)), np.empty((count, unknowns))
    areas = sub_areas.ready(frames.areas[first:], frames.trained.directions)
    parts = (*known, scaled, held, frames.shifts[first:], trust)
    for k, (of_day, pull, visited, prior, shift, share) in enumerate(zip(*parts, strict=True)):
        _add_gaussian(of_day, pull, shift[: HIGHER.start], share, 0, *to)
        sub_areas.information(areas.frame(k), visited, prior, frames.trained.area_weight, matrix, vector)
        _add_gaussian(matrix, vector, shift[HIGHER], share, HIGHER.start, *to)
    return found


@dataclass(frozen=True)
class Belief:
    """Candidates and what the frames say of them; replaced, never changed.

    Attributes:
        candidates: the set.
        evidence: of all frames so far.
        probability: posterior of the candidates, (M,).
    """

    candidates: Candidates
    evidence: Evidence
    probability: Array


def start(candidates: Candidates) -> Belief:
    """No frame: uniform."""
    count = len(candidates.states_nm)
    return Belief(candidates, Evidence.none(count), sets.weigh(candidates, np.zeros(count)))


def _weighed(candidates: Candidates, found: Evidence, frames: FramePosteriors) -> Belief:
    """With errors that the frames of a run share allowed for: a power posterior, as in `latent_gp.log_likelihood`."""
    log_likelihood = found.log_likelihood(frames.prior) / frames.effect
    return Belief(candidates, found, sets.weigh(candidates, log_likelihood))


def wanted(frames: int, most: int) -> int:
    """Candidates after so many frames: `most`, later fewer, so that a refinement of all frames' evidence costs no more.

    By then the posterior is one mode in three dimensions, for which `FEWEST` are plenty.
    """
    return min(most, max(FEWEST, EVALUATIONS // max(1, frames)))


def step(
    belief: Belief, frames: FramePosteriors, space: StateSpace, refinement: Refinement, rng: np.random.Generator,
    most: int, share: float = 1.0,
) -> Belief:  # fmt: skip
    """The last frame's evidence, then refinement until enough candidates carry weight.

    `most` is how many candidates at first, see `wanted`; `share` what the earlier frames count of what they counted
    before.
    """
    earlier = belief.evidence if share == 1.0 else belief.evidence.faded(share)
    grown = earlier + evidence(frames, belief.candidates.states_nm, len(frames) - 1)
    return _refined(_weighed(belief.candidates, grown, frames), frames, space, refinement, rng, most)


def reweighed(belief: Belief, frames: FramePosteriors) -> Belief:
    """The same candidates and evidence by the frames' `effect` as it is now."""
    return _weighed(belief.candidates, belief.evidence, frames)


def _refined(
    belief: Belief, frames: FramePosteriors, space: StateSpace, refinement: Refinement, rng: np.random.Generator,
    most: int,
) -> Belief:  # fmt: skip
    """Refined until enough candidates carry weight."""
    count = wanted(len(frames), most)

    def once(belief: Belief) -> Belief:
        new = sets.refine(belief.candidates, belief.probability, space, refinement, rng, count)
        fresh = evidence(frames, new.states_nm[len(new.kept) :])
        return _weighed(new, belief.evidence.kept(new.kept).joined(fresh), frames)

    return sets.until_enough(belief, once)


def second_look(
    belief: Belief, frames: FramePosteriors, space: StateSpace, refinement: Refinement, rng: np.random.Generator,
    most: int,
) -> Belief:  # fmt: skip
    """The belief, or one from `most` new candidates all over the start box if that explains the frames better.

    Between the first candidates a narrow posterior can be missed, and a false one refined in its place.
    """
    anew = sets.initial(space, most, rng)
    found = _refined(_weighed(anew, evidence(frames, anew.states_nm), frames), frames, space, refinement, rng, most)
    best, other = (float(each.evidence.log_likelihood(frames.prior).max()) for each in (belief, found))
    return found if other > best else belief


def strangeness(frames: FramePosteriors, belief: Belief) -> tuple[float, Array]:
    """How unlike a training day's the frames look if the likeliest candidate is the truth, see `FrameCheck`.

    With the day's nuisances, (C,), as that candidate has them.
    """
    best, nuisances = np.argmax(belief.probability), likely_nuisances(frames, belief)
    states = (belief.candidates.states_nm[best] + frames.inputs_nm) / frames.trained.first.range_nm
    return frames.trained.check.strangeness(frames.features, states, nuisances), nuisances


def likely_nuisances(frames: FramePosteriors, belief: Belief) -> Array:
    """The day's nuisances, (C,), as the likeliest candidate has them."""
    best = np.array([np.argmax(belief.probability)])
    nuisances: Array = belief.evidence.unknowns(best, frames.prior, 1.0)[0][0, : len(NUISANCES)]
    return nuisances


NEGLIGIBLE = 1e-4
"""Share of the weight below which a candidate's unknowns are not looked at."""


def with_second_order(first: Estimate, belief: Belief, frames: FramePosteriors, start_nm: Array) -> Estimate:
    """The estimate of the first order joined by that of the second, within the same sign.

    Mixes over candidates what the frames say of the second order if each were the truth; within +-start_nm, (m,).
    """
    states, probability = belief.candidates.states_nm, belief.probability
    keep = probability > NEGLIGIBLE * probability.max()
    if first.sign_probability < 1.0:
        scale = frames.trained.first.range_nm**2
        keep &= states @ (first.mean_nm / scale) >= 0
    chosen = np.flatnonzero(keep)
    weight = probability[chosen] / probability[chosen].sum()
    means, covs = belief.evidence.unknowns(chosen, frames.prior, frames.effect)
    unit = frames.trained.higher_nm
    means, covs = means[:, HIGHER] * unit, covs[:, HIGHER, HIGHER] * unit**2
    mean = weight @ means
    apart, offset = means - mean, states[chosen] - first.mean_nm
    cross = (offset * weight[:, None]).T @ apart
    own = np.einsum("n,nij->ij", weight, covs) + (apart * weight[:, None]).T @ apart
    cov = np.block([[first.cov_nm2, cross], [cross.T, own]])
    inside = np.clip(mean, -start_nm, start_nm)
    return Estimate(np.concatenate([first.mean_nm, inside]), cov, first.sign_probability)


def deviance(frames: FramePosteriors, state_nm: Array) -> float:
    """How far all frames' posteriors lie from an initial state (n,), chi-square-like with n degrees a frame.

    Twice the log of each posterior's peak over its value; a single Gaussian's squared Mahalanobis distance.
    """
    total, one = 0.0, np.empty(1)
    for mixture, input_nm, weight in zip(frames.mixtures, frames.inputs_nm, frames.shares, strict=True):
        scaled = (state_nm + input_nm) / frames.trained.first.range_nm
        log_densities(mixture, np.ascontiguousarray(scaled[:, None]), one)
        total += weight * 2.0 * max(0.0, float(mixture[:, 0].max()) - float(one[0]))
    return total
