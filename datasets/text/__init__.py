"""Words, word vectors and vocabularies."""
