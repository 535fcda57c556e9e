"""Swift for the packages of Core ML bundles, written from the manifest: names, shapes, lengths and digests are the package's own."""
