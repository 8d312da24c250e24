"""A platinum nanoparticle on amorphous carbon."""

from twin.matter.structure import Structure
from twin.specimens._parts.particle import Metal, ParticleOptions, particle_on_carbon

METAL = Metal("Pt", 0.3924, (2.299, 2.734, 2.819), 240.0)
"""Surface energies: Vitos et al., Surf. Sci. 411 (1998) 186. Debye temperature: Kittel, 8th edition, chapter 5."""

Options = ParticleOptions


def make(options: Options) -> Structure:
    """See `particle_on_carbon`."""
    return particle_on_carbon(METAL, options)
