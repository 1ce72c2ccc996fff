"""Self-supervised pre-training for point clouds, taught by rendered pictures."""
