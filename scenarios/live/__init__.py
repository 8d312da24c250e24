"""The live page: turn the knobs of a microscope, see its Ronchigram, calibrate it, watch a scan."""
