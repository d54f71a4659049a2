"""Where the named sets are downloaded from, and the MD5 of each file.

But for CIFAR-10 they are copied from torchvision: importing it took seconds, and failed if it was
built for another torch.  A test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vaecli.data.named import cifar, emnist, idx, omniglot, svhn, usps


@dataclass(frozen=True)
class Downloads:
    """Where a set is downloaded from.

    Attributes:
        mirrors: base addresses, tried in this order.
        md5: MD5 of each file as it is downloaded, by its name without `.gz`.
        timeout: seconds a server may be silent; three times as long before its first byte.
    """

    mirrors: Sequence[str]
    md5: Mapping[str, str]
    timeout: float = 10.0


def _idx(mirrors: Sequence[str], *md5: str) -> Downloads:
    return Downloads(mirrors, dict(zip(idx.FILES, md5, strict=True)))


_EMNIST = Downloads(
    ("https://biometrics.nist.gov/cs_links/EMNIST/",),
    {emnist.ARCHIVE: "58c8d27c78d21e728a6bc7b3cc06412e"},
)
DOWNLOADS = {
    "mnist": _idx(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "fashion-mnist": _idx(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    "kmnist": _idx(
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    ),
    # its own page gives both; torchvision has only the pickled version
    cifar.NAME: Downloads(
        ("https://www.cs.toronto.edu/~kriz/",), {cifar.ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530"}
    ),
    **dict.fromkeys(emnist.NAMES, _EMNIST),
    omniglot.NAME: Downloads(
        ("https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",),
        {
            omniglot.FILES[0]: "68d2efa1b9178cc56df9314c21c6e718",
            omniglot.FILES[1]: "6b91aef0f799c5bb55b94e3f2daec811",
        },
    ),
    usps.NAME: Downloads(
        ("https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/",),
        {
            usps.FILES[0]: "ec16c51db3855ca6c91edd34d0e9b197",
            usps.FILES[1]: "8ea070ee2aca1ac39742fdd1ef5ed118",
        },
    ),
    svhn.NAME: Downloads(
        ("http://ufldl.stanford.edu/housenumbers/",),
        {
            svhn.FILES[0]: "e26dedcc434d2e4c54c9b2d4a06d8373",
            svhn.FILES[1]: "eb5a983be6a315427106f1b164d9cef3",
        },
    ),
}
