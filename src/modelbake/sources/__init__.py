"""Where pinned bytes can be had: one module per kind of source, each with two verbs, inventory() and open()."""
