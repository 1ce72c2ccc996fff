"""The training loops and what they must not forget. No ray, no hydra."""
