"""`from mesm.pipeline.grounding import MomentRetriever`: the name that users import; it lives in `pipeline.ground`."""

from mesm.pipeline.ground.retriever import MomentRetriever as MomentRetriever
