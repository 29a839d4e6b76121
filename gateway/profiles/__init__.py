"""Profiles: what a company sets once for all scenes, a YAML file each."""
