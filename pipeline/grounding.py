"""`from mesm.pipeline.grounding import MomentRetriever, ZeroShot`: names that users import from `pipeline.ground`."""

from mesm.pipeline.ground.retriever import MomentRetriever as MomentRetriever
from mesm.pipeline.ground.zero_shot import ZeroShot as ZeroShot
