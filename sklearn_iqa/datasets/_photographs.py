# SPDX-License-Identifier: BSD-3-Clause
"""The colour photographs that scikit-learn and scikit-image install."""

from functools import partial
from numbers import Integral

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params

DESCR = """\
Ten colour photographs
======================

Installed with scikit-learn (china, flower) and scikit-image (the others): people, an animal, buildings, objects, a
launch, a galaxy field, and two medical pictures (a retina, stained tissue under the microscope). Five are JPEG files
(china, flower, hubble_deep_field, retina, rocket), five PNG; all are taken as pristine.

The grey photographs of scikit-image (camera, coins, moon, brick, grass, gravel) are left out: the distortions that
alter colour alone do nothing to them.

Licence and credit of each stand in the fields `licences` and `credits`.
"""


@validate_params({"size": [Interval(Integral, 1, None, closed="left"), None]}, prefer_skip_nested_validation=True)
def load_photographs(*, size: int | None = None) -> Bunch:
    """Ten colour photographs that are installed with scikit-learn and scikit-image.

    Parameters
    ----------
    size : int or None, default=None
        None gives each photograph at its own size, 300 x 451 to 1411 x 1411 pixels. An integer scales the short side to
        `size` (bicubic, antialiased; a photograph with a shorter side is enlarged) and cuts the central square.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        images : list of ndarray of shape (h, w, 3), dtype uint8
            RGB in 0..255; new arrays at every call.
        names : list of str
            In alphabetical order.
        licences : list of str
            Licence that the photograph's source states.
        credits : list of str
            Author of each photograph.
        DESCR : str
            Description of the set.

    Raises
    ------
    ValueError, TypeError
        If `size` is no positive integer.

    Examples
    --------
    >>> from sklearn_iqa.datasets import load_photographs
    >>> photographs = load_photographs(size=224)
    >>> len(photographs.images), photographs.names[0], photographs.images[0].shape
    (10, 'astronaut', (224, 224, 3))
    """
    names, readers, licences, credits_ = zip(*PHOTOGRAPHS, strict=True)
    images = [np.array(read()) for read in readers]
    if size is not None:
        images = [_central_square(image, size) for image in images]
    return Bunch(images=images, names=list(names), licences=list(licences), credits=list(credits_), DESCR=DESCR)


def _motorcycle():
    left, _, _ = data.stereo_motorcycle()
    return left


def _central_square(image, size):
    picture = Image.fromarray(image)
    scale = size / min(picture.size)
    picture = picture.resize([round(scale * side) for side in picture.size], Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return np.array(picture.crop((left, top, left + size, top + size)))


PUBLIC_DOMAIN = "public domain"
CC0 = "CC0 1.0"
CC_BY = "CC BY 2.0"
UNSTATED = "not stated by scikit-image"

# name, reader, licence, credit: as stated in scikit-image's docstrings and in the README beside scikit-learn's images.
# Each file is part of the installed package: scikit-image downloads only others.
PHOTOGRAPHS = (
    ("astronaut", data.astronaut, PUBLIC_DOMAIN, "NASA (Eileen Collins)"),
    ("chelsea", data.chelsea, CC0, "Stefan van der Walt"),
    ("china", partial(load_sample_image, "china.jpg"), CC_BY, "danielbuechele on Flickr"),
    ("coffee", data.coffee, CC0, "Rachel Michetti, courtesy of Pikolo Espresso Bar"),
    ("flower", partial(load_sample_image, "flower.jpg"), CC_BY, "vultilion on Flickr (README: danielbuechele)"),
    ("hubble_deep_field", data.hubble_deep_field, PUBLIC_DOMAIN, "NASA, Hubble eXtreme Deep Field"),
    (
        "immunohistochemistry",
        data.immunohistochemistry,
        "no known copyright restrictions",
        "Center for Microscopy and Molecular Imaging (CMMI)",
    ),
    (
        "motorcycle",
        _motorcycle,
        UNSTATED,
        "Middlebury stereo 2014: Nesic, Westling, Wang, Kitajima, Krathwohl, Scharstein",
    ),
    ("retina", data.retina, CC0, "Mikael Häggström, Wikimedia Commons"),
    ("rocket", data.rocket, PUBLIC_DOMAIN, "SpaceX (launch of DSCOVR)"),
)
