"""Exact streaming over plain WebDataset tars. Knows bytes; never imports torch or ray."""
