"""Bundles as OCI: layers, manifests, the local store, registries, grafted images, signatures."""
