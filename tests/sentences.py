# SPDX-License-Identifier: BSD-3-Clause
"""What an error message must look like: one sentence in one line, and no warning beside it."""

import re
import warnings
from contextlib import contextmanager

import pytest

LONGEST = 400  # characters: five lines of a terminal


def check_sentence(text):
    assert text.endswith(".")
    assert len(text) < LONGEST
    assert "\n" not in text
    assert not re.search(r"[.!?]\)? +[A-Z]", text), text  # a second sentence


@contextmanager
def one_sentence(kind, *parts):
    """Expect an error of this very kind whose one sentence holds all parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind) as caught:
            yield
    text = str(caught.value)
    assert type(caught.value) is kind
    check_sentence(text)
    for part in parts:
        assert part in text, f"{part!r} is missing in: {text}"
