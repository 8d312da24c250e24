"""Centre of mass: the deflection of the beam, its integration to phase, riCOM kernels, rotation of the scan."""
