"""Tests of the images that `modelbake bake` made, run for real in the Docker engine."""
