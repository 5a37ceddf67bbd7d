"""Erasure from embeddings that fill many files: `python -m efface.embeddings fit | apply | certify`.

Files are read in batches, so that memory is O(d² + batch); several processes share them under `torchrun`. The page
docs/embeddings.md describes the commands, `efface.embeddings.__main__` holds them.
"""
