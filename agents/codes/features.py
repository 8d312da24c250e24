"""Features of the patterns of a scan: counts in a few bins of the camera at every position, kept for the whole scan.

Memory is bounded by the scan and the bins, not by the frames. A spectrum is a camera of one row.
"""

from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from agents.base import MetaError, StreamMeta
from agents.block import Block
from twin.arrays import Floats
from twin.options import Count, NonNegative, validated

LARGEST_BYTES = 2**30
"""Memory of all features of a scan."""


@validated
class FeatureOptions:
    """Settings of the features.

    Attributes:
        bins: bins along each side of the camera, at most its pixels; a spectrum has as many as a square of them.
        pooled_positions: rms width of a Gaussian over neighbouring positions, in which counts are pooled.
        context_positions: distance of eight neighbours whose features are taken together with a position's own, as
            for a missing atom, which alone looks like a gap of the lattice; 0 takes none.
    """

    bins: Count = 12
    pooled_positions: NonNegative = 0.0
    context_positions: Annotated[int, Ge(0)] = 0


def bin_weights(camera: tuple[int, int], bins: int) -> NDArray[np.float32]:
    """Bins of a camera as weight images, (D, H, W): every pixel belongs to one bin.

    Example:
        >>> bin_weights((4, 6), 2).sum(axis=(1, 2)).tolist(), bin_weights((1, 128), 12).shape
        ([6.0, 6.0, 6.0, 6.0], (128, 1, 128))
    """
    height, width = camera
    rows = min(height, bins)
    columns = min(width, bins * bins if height == 1 else bins)
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    place = row[:, None] * columns + column
    return (place == np.arange(rows * columns)[:, None, None]).astype(np.float32)


def _mirrored(index: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Indices beyond an edge, mirrored at the outermost position.

    Example:
        >>> _mirrored(np.arange(-2, 5), 3).tolist()
        [2, 1, 0, 1, 2, 1, 0]
    """
    around = np.abs(index) % max(2 * (side - 1), 1)
    return np.minimum(around, max(2 * (side - 1), 1) - around) if side > 1 else np.zeros_like(index)


class FeatureMap:
    """Counts in bins at every position of a scan.

    Attributes:
        shape: rows and columns of the scan; a list of positions is one row.
        known: positions that have arrived, (rows, columns).
    """

    def __init__(self, name: str, options: FeatureOptions) -> None:
        self._name, self._options = name, options

    def start(self, meta: StreamMeta) -> None:
        """Begin a new scan.

        Raises:
            MetaError: the features would not fit into `LARGEST_BYTES`.
        """
        scan = meta.layout.scan
        self.shape = (scan[0], scan[1]) if len(scan) == 2 else (1, scan[0])
        self._weights = bin_weights(meta.layout.camera, self._options.bins)
        size = self.shape[0] * self.shape[1] * len(self._weights) * 4
        if size > LARGEST_BYTES:
            raise MetaError(
                f"{self._name}: {len(self._weights)} bins at {self.shape[0]} x {self.shape[1]} positions take"
                f" {size / 1e9:.2g} GB, more than {LARGEST_BYTES / 1e9:.2g}; choose fewer bins"
            )
        self._counts = np.zeros((*self.shape, len(self._weights)), np.float32)
        self.known = np.zeros(self.shape, np.bool_)

    def update(self, block: Block) -> None:
        """Keep the counts of the positions; a position that comes twice counts once."""
        row, column = block.pixel.T
        self._counts[row, column] = block.sums(self._weights)
        self.known[row, column] = True

    def examples(self) -> Floats:
        """Features of the known positions in the order of the scan, (N, D): 2 sqrt(n + 3/8), of variance one.

        Anscombe (1948). Pooled counts are means over known positions. With a context, those of the position come first;
        a neighbour beyond an edge is the mirrored one, and one that has not arrived has no counts.
        """
        counts: Floats = self._counts.astype(np.float64)
        width = self._options.pooled_positions
        if width > 0:
            blur = (width if self.shape[0] > 1 else 0.0, width)
            weight = gaussian_filter(self.known.astype(np.float64), blur, mode="mirror")
            pooled = gaussian_filter(counts * self.known[..., None], (*blur, 0.0), mode="mirror")
            counts = pooled / np.maximum(weight, 1e-12)[..., None]
        return self._together(2 * np.sqrt(counts + 0.375))[self.known]

    def _together(self, features: Floats) -> Floats:
        """Features (rows, columns, D) with those of eight neighbours, (rows, columns, 9 D), if there is a context."""
        far = self._options.context_positions
        if far == 0:
            return features
        rows, columns = (_mirrored(np.arange(-far, side + far), side) for side in self.shape)
        padded = features[rows][:, columns]
        angles = np.arange(8) * np.pi / 4
        down, right = (np.rint(far * along).astype(np.int64).tolist() for along in (np.sin(angles), np.cos(angles)))
        places = [(0, 0), *zip(down, right, strict=True)]
        height, width = self.shape
        parts = [padded[far + row :, far + column :][:height, :width] for row, column in places]
        return np.concatenate(parts, axis=2)

    def counts_of(self, features: Floats) -> Floats:
        """Counts in the bins of features (N, D), those of the position itself."""
        own = features[:, : self._counts.shape[2]]
        return np.asarray(np.maximum((own / 2) ** 2 - 0.375, 0.0))

    def image(self, values: Floats) -> Floats:
        """Values of the known positions (N,) as an image, NaN elsewhere."""
        image = np.full(self.shape, np.nan)
        image[self.known] = values
        return image

    def missing(self) -> Floats:
        """An image without a known value."""
        return np.full(self.shape, np.nan)
