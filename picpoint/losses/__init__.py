"""The objective of pre-training, exact over any number of ranks."""
