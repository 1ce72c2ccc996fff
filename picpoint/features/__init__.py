"""The image encoder over a whole shard set, once for all runs."""
