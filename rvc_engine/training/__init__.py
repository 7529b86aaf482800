"""GAN training: the trainer draws batches, takes steps, measures and saves, until the last epoch."""
