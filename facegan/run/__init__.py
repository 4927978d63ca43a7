"""What a run leaves on disk and how it stays whole: settings, folder, owner, checkpoints, snapshots, stopping."""
