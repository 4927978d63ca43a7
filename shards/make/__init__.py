"""From pictures on disk to a closed set: list the source, annotate, plan, pack, close; index foreign tars."""
