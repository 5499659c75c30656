"""Running a verb elsewhere: in this process' place, under torchrun, on a Ray cluster, on Slurm."""
