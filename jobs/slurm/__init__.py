"""Slurm: what it is told and asked, what is checked before, recorded beside and decided after a job."""
