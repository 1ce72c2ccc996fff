"""What are learned features worth? Probes and tasks on shapes that pre-training never saw."""
