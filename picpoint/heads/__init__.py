"""What stands on the encoders: projection heads for pre-training."""
