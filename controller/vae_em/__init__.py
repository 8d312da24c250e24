"""VAE-EM: encoder, symmetrised latent Gaussian process, EM, candidate resampling, input selection."""
