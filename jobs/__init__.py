"""Click commands: wire shards to facegan and submit to Slurm."""
