"""From shards to batches: which shapes, which points, which views, moved how."""
