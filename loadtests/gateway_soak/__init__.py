"""A soak of the whole customer service on one machine: `python -m loadtests.gateway_soak`."""
