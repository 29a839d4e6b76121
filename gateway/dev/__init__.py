"""Everything on one machine, for development: `python -m gateway dev`."""
