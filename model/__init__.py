"""The networks and what they are made of: tensors in, tensors out; no file is opened here."""
