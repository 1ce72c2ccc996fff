"""How clusters for picpoint look: one description (source.py), as YAML for each platform."""
