"""Embeds one text with sentence-transformers, as its documentation shows."""

import sys

from sentence_transformers import SentenceTransformer

model = SentenceTransformer("/models", device="cpu")
print(*model.encode(sys.argv[1]).tolist())
