"""Synthetic faces in the layout of CelebA: what the demo and the tests run on."""
