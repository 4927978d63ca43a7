"""Slurm batch files, shipped as package data."""
