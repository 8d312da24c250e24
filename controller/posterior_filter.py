"""Candidates weighed by the product of frame posteriors, through the known inputs.

`p(x0 | frames) ~ p(x0) prod_k q(x_k | frame_k) / p(x_k) * integral dc p(c) prod_k q(c | frame_k, x_k) / p(c)` with
x_k = x0 + U_k: the day's nuisances c are common to the frames and integrated out in closed form, per candidate.
The candidate set and its refinement are VAE-EM's (`candidates.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from controller import candidates as sets
from controller.candidates import Candidates, Refinement
from controller.posterior_artefact import PosteriorArtefact
from controller.posterior_network import NUISANCES, log_densities, packed
from controller.preprocess import Spectrum
from twin.state import StateSpace

Array = NDArray[np.floating]

ENOUGH = 0.1
ROUNDS = 3
FORGOTTEN = 1e-3
"""Weight below which a frame is dropped."""
DOUBT = 1e-3
"""Probability that a frame says nothing at all: bounds what one bad frame can do."""


@dataclass(frozen=True)
class FramePosteriors:
    """What the frames of a run say.

    Attributes:
        trained: network, and what its posteriors are divided by.
        features: of each frame, (T, F + 1).
        mixtures: of each frame, (T, K, P), see `posterior_network.packed`.
        inputs_nm: cumulative inputs, (T, n).
        weights: how much each still counts, (T,); None: all in full.
    """

    trained: PosteriorArtefact
    features: torch.Tensor
    mixtures: NDArray[np.float32]
    inputs_nm: Array
    weights: Array | None = None

    @classmethod
    def none(cls, trained: PosteriorArtefact) -> "FramePosteriors":
        """No frame yet."""
        config = trained.network.config
        n = config.dimension
        mixtures = np.zeros((0, config.components, 1 + n + n * n), np.float32)
        return cls(trained, torch.zeros((0, config.features + 1)), mixtures, np.zeros((0, n)))

    def __len__(self) -> int:
        return len(self.inputs_nm)

    def append(self, spectrum: Spectrum, input_nm: Array) -> "FramePosteriors":
        """With one more frame, taken at cumulative input (n,)."""
        floor = torch.tensor([np.log(spectrum.floor) - self.trained.log_floor], dtype=torch.float32)
        with torch.no_grad():
            features = self.trained.network.summarise(torch.from_numpy(spectrum.values[None]), floor)
            mixture = packed(self.trained.network.mixture(features))
        return replace(
            self,
            features=torch.cat([self.features, features]),
            mixtures=np.concatenate([self.mixtures, mixture]),
            inputs_nm=np.vstack([self.inputs_nm, input_nm]),
            weights=None if self.weights is None else np.append(self.weights, 1.0),
        )

    @property
    def count(self) -> float:
        """Frames, each by its weight."""
        return len(self) if self.weights is None else float(self.weights.sum())

    def faded(self, share: float) -> "FramePosteriors":
        """Counting only so much any more; a frame below `FORGOTTEN` is dropped."""
        weights = (np.ones(len(self)) if self.weights is None else self.weights) * share
        keep = weights > FORGOTTEN
        return FramePosteriors(
            self.trained,
            self.features[torch.from_numpy(keep)],
            self.mixtures[keep],
            self.inputs_nm[keep],
            weights[keep],
        )


@dataclass(frozen=True)
class Evidence:
    """What frames say of M candidates, in the nuisances' information form; adds up over frames.

    Attributes:
        log_ratio: terms free of the nuisances, (M,).
        vector: information vector, (M, C).
        matrix: information matrix beyond the prior's, (M, C, C).
    """

    log_ratio: Array
    vector: Array
    matrix: Array

    @classmethod
    def none(cls, count: int) -> "Evidence":
        """Of no frame."""
        c = len(NUISANCES)
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

    def nuisances(self, candidate: int) -> Array:
        """Posterior mean of the day's nuisances if this candidate is the truth, (C,)."""
        precision = self.matrix[candidate] + np.eye(len(NUISANCES))
        return np.linalg.solve(precision, self.vector[candidate])

    def log_likelihood(self) -> Array:
        """Nuisances integrated out, (M,)."""
        out = np.empty(len(self.log_ratio))
        _integrated(self.log_ratio, self.vector, self.matrix, out)
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
def _integrated(log_ratio, vector, matrix, out):  # type: ignore[no-untyped-def]
    """log integral of exp(v'c - c'Ac/2) N(c; 0, I) dc plus the rest, for every candidate."""
    candidates, count = vector.shape
    total, lower, white = np.empty((count, count)), np.zeros((count, count)), np.empty(count)
    for m in range(candidates):
        total[:] = matrix[m]
        for i in range(count):
            total[i, i] += 1.0
        half, quadratic = _half_log_det_and_solve(total, vector[m], lower, white)
        out[m] = log_ratio[m] - half + 0.5 * quadratic


@numba.njit(cache=True)
def _add_gains(mean, root, trust, log_ratio, vector, matrix):  # type: ignore[no-untyped-def]
    """Add `[q(c | frame, x) / p(c)]^trust`: mean (T, M, C), root (T, M, C, C), trust (T, M), to an `Evidence`."""
    frames, candidates, count = mean.shape
    precision, lower, white = np.empty((count, count)), np.zeros((count, count)), np.empty(count)
    for t in range(frames):
        for m in range(candidates):
            for i in range(count):
                for j in range(i + 1):
                    value = 0.0
                    for k in range(j + 1):
                        value += root[t, m, i, k] * root[t, m, j, k]
                    matrix[m, i, j] += trust[t, m] * value
                    precision[i, j] = value
                    if i != j:
                        matrix[m, j, i] += trust[t, m] * value
                        precision[j, i] = value
                precision[i, i] += 1.0
            quadratic = 0.0
            for i in range(count):
                pull = 0.0
                for j in range(count):
                    pull += precision[i, j] * mean[t, m, j]
                vector[m, i] += trust[t, m] * pull
                quadratic += pull * mean[t, m, i]
            half, _ = _half_log_det_and_solve(precision, mean[t, m], lower, white)
            log_ratio[m] += trust[t, m] * (half - 0.5 * quadratic)


def evidence(frames: FramePosteriors, states_nm: Array, first: int = 0) -> Evidence:
    """What the frames from `first` on say of candidates (M, n).

    A frame that cannot have been taken at a candidate's state says nothing of the day either: the network never saw
    such a pair, so what it would say counts only as far as the frame's posterior admits the state.
    """
    space, network = frames.trained.space, frames.trained.network
    found = Evidence.none(len(states_nm))
    scaled = (states_nm[None] + frames.inputs_nm[first:, None]) / space.range_nm
    weights = np.ones(len(scaled)) if frames.weights is None else frames.weights[first:]
    trust, one = np.empty(scaled.shape[:2]), np.empty(len(states_nm))
    for mixture, visited, weight, share in zip(frames.mixtures[first:], scaled, weights, trust, strict=True):
        columns = np.ascontiguousarray(visited.T)
        log_densities(mixture, columns, one)
        ratio = (1 - DOUBT) * np.exp(np.minimum(one - frames.trained.states.log_density(space, columns), 50.0))
        found.log_ratio[:] += weight * np.log(ratio + DOUBT)
        share[:] = weight * ratio / (ratio + DOUBT)
    with torch.no_grad():
        gain = network.nuisances(frames.features[first:, None], torch.from_numpy(scaled).float())
    _add_gains(gain.mean.numpy(), gain.root.numpy(), trust, found.log_ratio, found.vector, found.matrix)
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
    effect = 1.0 + max(0, frames.count - 1) * frames.trained.correlation
    return Belief(candidates, found, sets.weigh(candidates, found.log_likelihood() / effect))


def step(
    belief: Belief, frames: FramePosteriors, space: StateSpace, refinement: Refinement, rng: np.random.Generator,
    share: float = 1.0,
) -> Belief:  # fmt: skip
    """The last frame's evidence, then refinement until enough candidates carry weight.

    `share` is what the earlier frames count of what they counted before.
    """
    earlier = belief.evidence if share == 1.0 else belief.evidence.faded(share)
    grown = earlier + evidence(frames, belief.candidates.states_nm, len(frames) - 1)
    belief = _weighed(belief.candidates, grown, frames)
    for _ in range(ROUNDS):
        refined = sets.refine(belief.candidates, belief.probability, space, refinement, rng)
        fresh = evidence(frames, refined.states_nm[len(refined.kept) :])
        belief = _weighed(refined, belief.evidence.kept(refined.kept).joined(fresh), frames)
        if sets.effective_count(belief.probability) > ENOUGH * len(belief.probability):
            break
    return belief


def deviance(frames: FramePosteriors, state_nm: Array) -> float:
    """How far all frames' posteriors lie from an initial state (n,), chi-square-like with n degrees a frame.

    Twice the log of each posterior's peak over its value; a single Gaussian's squared Mahalanobis distance.
    """
    total, one = 0.0, np.empty(1)
    weights = np.ones(len(frames)) if frames.weights is None else frames.weights
    for mixture, input_nm, weight in zip(frames.mixtures, frames.inputs_nm, weights, strict=True):
        scaled = (state_nm + input_nm) / frames.trained.space.range_nm
        log_densities(mixture, np.ascontiguousarray(scaled[:, None]), one)
        total += weight * 2.0 * max(0.0, float(mixture[:, 0].max()) - float(one[0]))
    return total


@numba.njit(cache=True, fastmath=True)
def _overlap(states, inputs, precision):  # type: ignore[no-untyped-def]
    """Expected information, nats, (Q,): states (K, n) scaled, inputs (Q, n), precision at each sum (Q, K, n, n)."""
    queries, count, axes = precision.shape[:3]
    out = np.empty(queries)
    direct, mirrored = np.empty(axes), np.empty(axes)
    for q in range(queries):
        total = 0.0
        for i in range(count):
            alike = 0.0
            for j in range(count):
                for a in range(axes):
                    direct[a] = states[i, a] - states[j, a]
                    mirrored[a] = states[i, a] + states[j, a] + 2.0 * inputs[q, a]
                near, far = 0.0, 0.0
                for a in range(axes):
                    for b in range(axes):
                        pooled = 0.5 * (precision[q, i, a, b] + precision[q, j, a, b])
                        near += direct[a] * pooled * direct[b]
                        far += mirrored[a] * pooled * mirrored[b]
                alike += np.exp(-0.125 * min(near, far))
            total -= np.log(alike / count)
        out[q] = total / count
    return out


def expected_information(states: Array, inputs: Array, precision: Callable[[NDArray[np.floating]], Array]) -> Array:
    """Expected fall of the posterior's entropy for each input, nats, (Q,).

    A frame at x gives a posterior about +-x of the precision learnt for x; two candidates are told apart as far as
    such posteriors do not overlap (pairwise Bhattacharyya bound: Kolchinsky & Tracey, Entropy 19 (2017) 361).

    Args:
        states: draws from the belief, scaled, (K, n).
        inputs: cumulative inputs to choose from, scaled, (Q, n).
        precision: scaled states (N, n) to (N, n, n).
    """
    visited = (states[None] + inputs[:, None]).reshape(-1, states.shape[1])
    matrices = precision(visited).reshape(len(inputs), len(states), *(states.shape[1],) * 2)
    gain: Array = _overlap(states, inputs, matrices)
    return gain
