"""The jobs: one file each, a frozen config, `describe` for --dry-run, and `run`."""
