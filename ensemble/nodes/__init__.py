"""The ranks of one engine on several machines: MPI's daemon is started on the other machines without ssh.

Open MPI's `mpirun` runs a launch agent for each other machine, usually ssh, and expects it to start MPI's daemon there. Here the
agent (`launch`, `python -m ensemble node-launch HOST ...`) asks the process that waits on that machine (`node`,
`python -m ensemble node`). Both know a secret. That Triton's ranks work under it was not yet tried on hardware.
"""
