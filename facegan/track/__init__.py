"""Run folders replayed to the trackers that people have: what is written down goes in, once, by step."""
