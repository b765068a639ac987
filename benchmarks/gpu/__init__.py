"""Training on one GPU, measured; benchmarks/README.md says how it is run."""
