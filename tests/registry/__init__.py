"""Real registries for tests, and a proxy before them that misbehaves on command. See README.md."""
