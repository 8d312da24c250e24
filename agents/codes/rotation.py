"""Rotationally invariant variational autoencoder: the angle of each image apart from its content.

After Kalinin et al. (npj Comput. Mater. 7 (2021) 119). The decoder draws the content upright, and the drawing is turned
by the angle. The angle is learned from the images alone: when an image is turned by a known angle, its code
must turn by the same angle.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from agents.codes.autoencoder import Networks, Variational, VariationalOptions, gaussian_divergence
from agents.codes.base import CodeError, checked_examples
from learning.torch_state import one_thread
from twin.arrays import Array, Floats
from twin.options import Count, NonNegative, validated


@validated
class Options(VariationalOptions):
    """Settings of the rotationally invariant autoencoder.

    Attributes:
        symmetry: rotations that leave the images alike, as 6 about the middle of a hexagon; the angle is then known
            up to a multiple of 360 degrees over it.
        turning: weight of the angle's own loss.
    """

    size: Count = 2
    epochs: Count = 60
    symmetry: Count = 1
    turning: NonNegative = 1.0


class Rotational(Variational):
    """Codes of square images as rows (N, side * side): the angle in rad and then `size` numbers for the content.

    An angle turns from +x (columns) towards +y (rows), and is counted from one that is common to all images. Corners
    outside the inscribed circle are ignored.
    """

    options: Options

    def _made(self, length: int) -> Networks:
        self._side = math.isqrt(length)
        if self._side**2 != length:
            raise CodeError(f"rvae needs square images as rows; {length} values are no square")
        at = (torch.arange(self._side) + 0.5) / self._side * 2 - 1
        self._inside = (torch.hypot(at[:, None], at[None, :]) <= 1).float()
        return Networks(length, self.options, 2 + 2 * self.options.size)

    def _loss(self, networks: Networks, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        options, inside = self.options, self._inside.flatten()
        known = 2 * math.pi * torch.rand(len(inputs), generator=generator)
        turned = self._turned(inputs, known) * inside
        both = networks.encoder(torch.cat([inputs * inside, turned]))
        direction = nn.functional.normalize(both[:, :2], dim=1)
        angle = torch.atan2(direction[:, 1], direction[:, 0])
        before, after = angle.split(len(inputs))
        misturned = (1 - torch.cos(after - before - options.symmetry * known)).mean()
        mean, log_variance = both[: len(inputs), 2:].chunk(2, dim=1)
        drawn = mean + torch.exp(log_variance / 2) * torch.randn(mean.shape, generator=generator)
        image = self._turned(networks.decoder(drawn), before / options.symmetry)
        misfit = (((image - targets) ** 2) * inside).sum() / (inside.sum() * len(inputs))
        divergence = gaussian_divergence(mean, log_variance) / float(inside.sum())
        return misfit + options.turning * misturned + options.weight * divergence

    def _turned(self, rows: Tensor, angle: Tensor) -> Tensor:
        """Images as rows, turned about their middle from +x towards +y."""
        images = rows.reshape(-1, 1, self._side, self._side)
        c, s, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
        back = torch.stack([torch.stack([c, s, zero], 1), torch.stack([-s, c, zero], 1)], 1)
        grid = nn.functional.affine_grid(back, list(images.shape), align_corners=False)
        turned = nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return turned.reshape(len(rows), -1)

    def encode(self, examples: Array) -> Floats:
        """Angle and content, (N, 1 + k)."""
        if self.networks is None:
            raise CodeError("this code is not fitted yet")
        values = checked_examples(examples, 1, self._length)
        with torch.no_grad(), one_thread():
            outputs = self.networks.encoder(self._scaled(values) * self._inside.flatten()).double().numpy()
        angle = np.arctan2(outputs[:, 1], outputs[:, 0]) / self.options.symmetry
        return np.column_stack([angle, outputs[:, 2 : 2 + self.options.size]])

    def decode(self, codes: Array) -> Floats:
        """Images as rows (N, D), turned by their angles."""
        angle = torch.from_numpy(np.array(codes, np.float64)[:, 0]).float()
        upright = super().decode(np.asarray(codes)[:, 1:])
        return np.asarray(self._turned(torch.from_numpy(upright).float(), angle).double().numpy())

    def upright(self, codes: Array) -> Floats:
        """Contents as images in rows (N, D), all at the angle zero."""
        return super().decode(np.asarray(codes)[:, 1:])


def options_of(_: str) -> type[Options]:
    """Options of the method."""
    return Options


def make(_: str, options: Options) -> Rotational:
    """Build the code; see `agents.codes.base.load`."""
    return Rotational(options)
