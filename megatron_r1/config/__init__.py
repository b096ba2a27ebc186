"""Configuration: a YAML file with inheritance and overrides in, one validated frozen object out."""
