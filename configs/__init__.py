"""The YAML that Hydra composes; the keys are those of the jobs' dataclasses."""
